//! Timeouts and cache limits for kube-apiserver's answers about tokens and authorization.

use std::time::Duration;

/// How long an answer of kube-apiserver is cached, as in upstream's delegated authentication.
pub(super) const ANSWER_TTL: Duration = Duration::from_secs(10);

/// Most answers cached.
pub(super) const MAX_CACHED_ANSWERS: u64 = 4096;

/// Longest wait for an answer of kube-apiserver.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
