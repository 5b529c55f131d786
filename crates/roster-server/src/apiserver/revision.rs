//! Waiting for a revision, and running blocking work.

use std::sync::Arc;
use std::time::Duration;

use roster_core::directory::index::view::View;
use roster_runtime::informers::catalogue::Catalogue;

use super::status::ApiError;

/// Maximum wait for a revision that this replica has not seen yet, as in kube-apiserver.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Runs blocking work on a separate thread.
///
/// # Errors
/// 500 if it panics.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::internal("the query failed"))
}

/// 410 for a revision that has expired.
pub(super) fn expired(revision: u64) -> ApiError {
    ApiError::expired(format!("resourceVersion {revision} is too old: list again without resourceVersion"))
}

/// Returns the current state once it includes everything up to `revision`.
///
/// # Errors
/// 504 if that takes too long.
pub(super) async fn reached(catalogue: &Catalogue, revision: u64) -> Result<Arc<View>, ApiError> {
    let view = catalogue.view();
    if view.progress >= revision {
        return Ok(view);
    }
    let mut changes = catalogue.changes();
    let waiting = async {
        loop {
            let view = catalogue.view();
            if view.progress >= revision || changes.changed().await.is_err() {
                return view;
            }
        }
    };
    let waited = tokio::time::timeout(TIMEOUT, waiting).await;
    waited.map_err(|_| ApiError::too_large_resource_version(revision, catalogue.peek().progress))
}
