//! The User that logs in, from the directory.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::UserInfo;
use roster_api::condition::{PASSWORD_CHANGE_REQUIRED, find};
use roster_api::{UserSpec, UserStatus};
use roster_credentials::claim::fold;
use serde::Deserialize;

use crate::informers::Informers;
use crate::informers::callers::CREDENTIAL_ID;
use crate::notifications::Recipient;

/// A User with the state that logins depend on.
#[derive(Clone, Debug)]
pub struct LoginUser {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// Login name and RBAC subject name.
    pub username: String,
    /// Effective groups.
    pub groups: Vec<String>,
    /// Whether the User is active now.
    pub is_active: bool,
    /// Spec of the User.
    pub spec: UserSpec,
    /// Status of the User.
    pub status: UserStatus,
}

#[derive(Deserialize)]
struct StoredUser {
    spec: UserSpec,
    status: UserStatus,
}

impl LoginUser {
    /// Returns the User with that `metadata.name`.
    pub fn named(informers: &Informers, name: &str) -> Option<Self> {
        let record = informers.user_catalogue.peek().table.get(name).cloned()?;
        let StoredUser { spec, status } = serde_json::from_value(record.to_value()).ok()?;
        let directory = informers.directory();
        // The index and the directory are updated one after the other.
        let person = directory.user(name).filter(|person| person.uid == record.uid())?;
        Some(Self {
            name: name.to_owned(),
            uid: person.uid.clone(),
            username: person.username.clone(),
            groups: directory.memberships.groups_of(name).map(str::to_owned).collect(),
            is_active: person.is_active(Timestamp::now()),
            spec,
            status,
        })
    }

    /// Returns the User that holds the username or email address.
    pub fn holding(informers: &Informers, identifier: &str) -> Option<Self> {
        let folded = fold(identifier);
        let name = {
            let directory = informers.directory();
            let holds = |name: &&str| directory.user(name).is_some_and(|person| person.holds(&folded));
            directory.claimants(&folded).find(holds).map(str::to_owned)
        };
        Self::named(informers, &name?)
    }

    /// Returns the User with that UID.
    pub fn of_uid(informers: &Informers, uid: &str) -> Option<Self> {
        let name = informers.directory().user_with_uid(uid).map(str::to_owned);
        Self::named(informers, &name?)
    }

    /// Whether logins are allowed from that address. If it is unknown, only Users without `allowedCIDRs` may log in.
    pub fn may_log_in_from(&self, address: Option<IpAddr>) -> bool {
        let networks = &self.spec.allowed_cidrs;
        let contains = |network: &String, address: IpAddr| {
            network.parse::<IpNet>().is_ok_and(|network| network.contains(&address.to_canonical()))
        };
        networks.is_empty() || address.is_some_and(|address| networks.iter().any(|network| contains(network, address)))
    }

    /// Whether the password must be changed before anything else.
    pub fn must_change_password(&self) -> bool {
        self.spec.require_password_change && find(&self.status.conditions, PASSWORD_CHANGE_REQUIRED).is_some()
    }

    /// Returns where notices to the User are sent.
    pub fn recipient(&self) -> Option<Recipient> {
        Recipient::new(&self.username, &self.uid, self.spec.notification.as_ref())
    }

    /// Returns the identity for kube-apiserver. `credential` identifies the credential presented.
    pub fn user_info(&self, credential: Option<String>) -> UserInfo {
        let mut extra = self.spec.extra.clone();
        extra.extend(credential.map(|credential| (CREDENTIAL_ID.to_owned(), vec![credential])));
        UserInfo {
            username: Some(self.username.clone()),
            uid: Some(self.uid.clone()),
            groups: Some(self.groups.clone()),
            extra: Some(extra).filter(|extra| !extra.is_empty()),
        }
    }
}
