//! What a review has proven about its sender, besides the secret path.

use std::sync::Arc;

use axum::extract::Request;
use roster_runtime::tls::connections::{Connection, Trust};

/// What a review has proven about its sender. An extension of each review. Limits and memory are kept separately for
/// each of the two, so that a client with a leaked path uses up nothing of kube-apiserver's.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ReviewOrigin {
    /// The connection is proven to be kube-apiserver's: the objects in the review exist or are being written.
    ApiServer,
    /// Only the path, which others may have learned: everything in the review may be made up. kube-apiserver itself
    /// is not recognized as long as its address is unknown, for example behind a proxy.
    PathOnly,
}

impl ReviewOrigin {
    /// Returns the origin of a request whose path is proven.
    pub fn of(request: &Request) -> Self {
        let trust = request.extensions().get::<Arc<Connection>>().map(|connection| connection.trust());
        if trust == Some(Trust::ApiServer) { Self::ApiServer } else { Self::PathOnly }
    }
}
