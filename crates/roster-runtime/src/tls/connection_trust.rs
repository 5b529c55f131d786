//! What clients prove on their connections.

/// What a client has proven on a connection.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Trust {
    /// Nothing yet.
    Anonymous,
    /// A request had a valid bearer token.
    Authenticated,
    /// A request had the path of a webhook, which kube-apiserver knows. Others may have learned it.
    Webhook,
    /// The client is kube-apiserver.
    ApiServer,
}

impl Trust {
    pub(super) const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Anonymous,
            1 => Self::Authenticated,
            2 => Self::Webhook,
            _ => Self::ApiServer,
        }
    }
}

/// Which limits apply to a request, by its connection and address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Those of its network.
    Unknown,
    /// Its address currently holds proven connections of kube-apiserver, whose TokenReviews prove nothing by themselves.
    /// Other clients may share the address, for example pods with `hostNetwork`, or all clients of a Service that hides
    /// their addresses. So it has no limit per network, but leaves a reserve for proven connections.
    AtApiServerAddress,
    /// Only those of all requests: its connection is proven to be kube-apiserver's.
    ApiServer,
}
