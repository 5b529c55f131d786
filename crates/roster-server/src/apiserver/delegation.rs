//! How long Roster waits for answers of kube-apiserver about tokens and rights, and how long it keeps them.

use std::time::Duration;

/// How long an answer of the API server is believed, as upstream's delegated authentication does.
pub const BELIEVED: Duration = Duration::from_secs(10);

/// Answers that are remembered.
pub const REMEMBERED: u64 = 4096;

/// Longest wait for an answer of the API server.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
