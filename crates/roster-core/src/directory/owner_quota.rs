//! Owners of namespaces, with their limits and use.

use std::collections::BTreeSet;

use roster_api::OWNER_LABEL;

use super::quotas::UNOWNED;
use super::{Affected, Directory};
use crate::quota::amount::{Amount, Amounts, add_all};
use crate::quota::limits::{NAMESPACES, PODS, RUNNING};

/// Limits and use of an owner.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OwnerQuota {
    /// Limits by resource name.
    pub hard: Amounts,
    /// Use by resource name, limited or not.
    pub used: Amounts,
    /// Namespaces whose allotment has not been enforced for a while.
    pub unenforced: Vec<String>,
}

impl Directory {
    /// Returns the limits of a User: its own plus those of each group that it effectively belongs to, added up by
    /// resource name. Resources that are missing are not limited.
    pub fn limits_of(&self, user: &str) -> Amounts {
        let mut limits = self.quotas.users.get(user).cloned().unwrap_or_default();
        if self.quotas.groups.is_empty() {
            return limits;
        }
        for group in self.memberships.groups_of(user) {
            if let Some(more) = self.quotas.groups.get(group) {
                add_all(&mut limits, more);
            }
        }
        limits
    }

    /// Returns whether the User has any limit.
    pub fn has_quota(&self, user: &str) -> bool {
        let quotas = &self.quotas;
        quotas.users.contains_key(user)
            || self.memberships.groups_of(user).any(|group| quotas.groups.contains_key(group))
    }

    /// Returns the owners of namespaces whose allotments a change may affect.
    pub fn owners_among(&self, affected: &Affected) -> BTreeSet<String> {
        let members = affected.users.iter().filter(|_| !self.quotas.groups.is_empty());
        let all = affected.owners.iter().chain(members).filter(|user| !self.owned_by(user).is_empty());
        let emptied = affected.owners.iter().filter(|user| *user == UNOWNED || self.users.get(user).is_some());
        all.chain(emptied).cloned().collect()
    }

    /// Returns all owners of namespaces, whether or not these Users exist, and [`UNOWNED`].
    pub fn owners(&self) -> BTreeSet<String> {
        let owners = self.bindings.namespaces().filter_map(|namespace| self.owner_of(namespace)).map(str::to_owned);
        owners.chain([UNOWNED.to_owned()]).collect()
    }

    /// Returns the namespaces that this User owns.
    pub fn owned_by(&self, user: &str) -> BTreeSet<String> {
        self.bindings.labelled(OWNER_LABEL, user)
    }

    /// Returns the name of the User that owns the namespace, whether or not that User exists.
    pub fn owner_of(&self, namespace: &str) -> Option<&str> {
        self.bindings.label_of(namespace, OWNER_LABEL).filter(|owner| !owner.is_empty())
    }

    /// Returns the limits and use of the User, if there are any.
    pub fn quota_of(&self, user: &str) -> Option<OwnerQuota> {
        let mut owner_quota = OwnerQuota { hard: self.limits_of(user), ..OwnerQuota::default() };
        let (mut owned, mut running) = (0, 0);
        for namespace in self.owned_by(user) {
            owned += 1;
            if self.quotas.is_unenforced(&namespace) {
                owner_quota.unenforced.push(namespace.clone());
            }
            if let Some(allotment) = self.quotas.allotment(&namespace) {
                add_all(&mut owner_quota.used, &allotment.used);
                running += i64::from(allotment.used.get(PODS).is_some_and(|pods| *pods > Amount::ZERO));
            }
        }
        if owned == 0 && owner_quota.hard.is_empty() {
            return None;
        }
        for name in owner_quota.hard.keys() {
            owner_quota.used.entry(name.clone()).or_default();
        }
        owner_quota.used.insert(NAMESPACES.to_owned(), Amount::units(owned));
        owner_quota.used.insert(RUNNING.to_owned(), Amount::units(running));
        Some(owner_quota)
    }
}
