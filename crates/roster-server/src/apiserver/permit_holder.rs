//! Whose share of the permits a request uses.

use std::fmt;

use ipnet::IpNet;
use roster_runtime::informers::callers::{API_KEY_CREDENTIAL, TOKEN_CREDENTIAL, credential_ids};

use super::authorize::MASTERS;
use super::identity::Caller;

/// Username prefix of ServiceAccounts.
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Username prefix of Kubernetes components. No User has it.
const SYSTEM_PREFIX: &str = "system:";

/// Whose share of the permits a request uses.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum PermitHolder {
    /// A person, by username.
    User(String),
    /// The ServiceAccounts of one namespace. With a share each, anyone who may create ServiceAccounts could have any
    /// number of shares.
    ServiceAccounts(String),
    /// A component of Kubernetes, by username.
    System(String),
    /// A session of a person, by the ID of its token. It also uses the person's share.
    Session(String),
    /// All API keys of a person, by username. They also use the person's share.
    ApiKeys(String),
    /// Unauthenticated callers, by network. They also use a part of their site's share.
    Network(IpNet),
    /// All networks of one site.
    Site(IpNet),
    /// No share: `system:masters`, as in kube-apiserver's own priority levels, and addresses of kube-apiserver. The totals
    /// apply to them.
    Exempt,
}

impl PermitHolder {
    /// Returns the share of an authenticated caller.
    pub fn of(caller: &Caller) -> Self {
        if caller.groups.iter().any(|group| group == MASTERS) {
            return Self::Exempt;
        }
        let service_account = caller.username.strip_prefix(SERVICE_ACCOUNT_PREFIX);
        match service_account.and_then(|account| account.split_once(':')) {
            Some((namespace, _)) => Self::ServiceAccounts(namespace.to_owned()),
            None if caller.username.starts_with(SYSTEM_PREFIX) => Self::System(caller.username.clone()),
            None => Self::User(caller.username.clone()),
        }
    }

    /// Returns the share of a person's credential. A stolen one must leave permits for its owner, who may want to revoke
    /// it.
    pub fn of_credential(caller: &Caller) -> Option<Self> {
        let Self::User(username) = Self::of(caller) else { return None };
        if credential_ids(&caller.extra, API_KEY_CREDENTIAL).next().is_some() {
            return Some(Self::ApiKeys(username));
        }
        credential_ids(&caller.extra, TOKEN_CREDENTIAL).next().map(|id| Self::Session(id.to_owned()))
    }
}

impl fmt::Display for PermitHolder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) | Self::System(name) => write!(formatter, "user {name} has"),
            Self::ServiceAccounts(namespace) => write!(formatter, "the ServiceAccounts of namespace {namespace} have"),
            // The ID of a token is not for logs.
            Self::Session(_) => formatter.write_str("one session has"),
            Self::ApiKeys(name) => write!(formatter, "the API keys of user {name} have"),
            Self::Network(network) => write!(formatter, "the network {network} has"),
            Self::Site(site) => write!(formatter, "the addresses in {site} have"),
            Self::Exempt => formatter.write_str("the caller has"),
        }
    }
}
