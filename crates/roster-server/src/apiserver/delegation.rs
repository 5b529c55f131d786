//! Timeouts and cache limits for kube-apiserver's answers about tokens and authorization.

use std::time::Duration;

/// How long an answer of kube-apiserver is cached, as in Kubernetes' own delegated authentication.
pub(super) const ANSWER_TTL: Duration = Duration::from_secs(10);

/// Maximum number of cached answers.
pub(super) const MAX_CACHED_ANSWERS: u64 = 4096;

/// Maximum wait for an answer of kube-apiserver.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
