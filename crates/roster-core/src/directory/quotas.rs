//! Declared limits, and the allotment of each owned namespace.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::quota::allotment::{Allotment, NAME};
use crate::quota::amount::Amounts;
use crate::quota::defaults::DEFAULTS_START;

/// Placeholder owner of namespaces that have an allotment but no owner.
pub const UNOWNED: &str = "";

/// Declared limits and current allotments.
#[derive(Debug, Default)]
pub struct Quotas {
    /// Limits by User.
    pub(super) users: HashMap<String, Amounts>,
    /// Limits by Group.
    pub(super) groups: HashMap<String, Amounts>,
    /// Allotments by namespace.
    allotments: HashMap<String, Allotment>,
    /// Namespaces whose allotment has not been enforced for a while.
    unenforced: HashSet<String>,
    /// LimitRanges by namespace and name, each with the defaults that it provides. For Roster's own LimitRange, these
    /// are the defaults that Roster has recorded on it.
    limit_ranges: HashMap<String, BTreeMap<String, String>>,
}

impl Quotas {
    /// Sets the limits of a User. Returns whether they changed.
    pub fn set_user(&mut self, user: &str, limits: Amounts) -> bool {
        set(&mut self.users, user, limits)
    }

    /// Sets the limits that a Group adds to those of its members. Returns whether they changed.
    pub fn set_group(&mut self, group: &str, limits: Amounts) -> bool {
        set(&mut self.groups, group, limits)
    }

    /// Sets or removes the allotment of a namespace. Returns whether it changed.
    pub fn set_allotment(&mut self, namespace: &str, allotment: Option<Allotment>) -> bool {
        let allotment = allotment.map(|allotment| allotment.after(self.allotments.get(namespace)));
        if allotment.is_none() {
            self.unenforced.remove(namespace);
        }
        let after = allotment.clone();
        let before = match allotment {
            Some(allotment) => self.allotments.insert(namespace.to_owned(), allotment),
            None => self.allotments.remove(namespace),
        };
        before != after
    }

    /// Records whether the allotment of a namespace has not been enforced for a while.
    pub fn set_unenforced(&mut self, namespace: &str, is_unenforced: bool) {
        if is_unenforced {
            self.unenforced.insert(namespace.to_owned());
        } else {
            self.unenforced.remove(namespace);
        }
    }

    /// Returns whether the allotment of a namespace has not been enforced for a while.
    pub fn is_unenforced(&self, namespace: &str) -> bool {
        self.unenforced.contains(namespace)
    }

    /// Sets a LimitRange, with the defaults that it provides; `None` removes it.
    pub fn set_limit_range(&mut self, namespace: &str, name: &str, defaults: Option<String>) {
        let ranges = self.limit_ranges.entry(namespace.to_owned()).or_default();
        match defaults {
            Some(defaults) => ranges.insert(name.to_owned(), defaults),
            None => ranges.remove(name),
        };
        if ranges.is_empty() {
            self.limit_ranges.remove(namespace);
        }
    }

    /// Returns the defaults that Roster has recorded on its own LimitRange in a namespace.
    pub fn own_defaults(&self, namespace: &str) -> Option<&str> {
        let range = self.limit_ranges.get(namespace)?.get_key_value(NAME)?;
        is_own(range).then_some(range.1)
    }

    /// Returns the resources for which LimitRanges of others set defaults in a namespace, in the form of
    /// [`given_by`](crate::quota::defaults::given_by).
    pub fn defaults_of_others(&self, namespace: &str) -> BTreeSet<String> {
        let ranges = self.limit_ranges.get(namespace).into_iter().flatten();
        let foreign = ranges.filter(|range| !is_own(*range));
        foreign.flat_map(|(_, given)| given.split(',')).map(str::to_owned).collect()
    }

    /// Returns the namespace and name of every LimitRange.
    pub fn limit_ranges(&self) -> impl Iterator<Item = (String, String)> {
        let all = self.limit_ranges.iter();
        all.flat_map(|(namespace, ranges)| ranges.keys().map(|name| (namespace.clone(), name.clone())))
    }

    /// Returns the allotment of a namespace.
    pub fn allotment(&self, namespace: &str) -> Option<&Allotment> {
        self.allotments.get(namespace)
    }

    /// Returns the names of the namespaces that have an allotment.
    pub fn allotted(&self) -> impl Iterator<Item = &String> {
        self.allotments.keys()
    }
}

fn is_own((name, defaults): (&String, &String)) -> bool {
    name == NAME && defaults.starts_with(DEFAULTS_START)
}

fn set(limits: &mut HashMap<String, Amounts>, name: &str, after: Amounts) -> bool {
    if limits.get(name).map_or(after.is_empty(), |before| *before == after) {
        return false;
    }
    if after.is_empty() {
        limits.remove(name);
    } else {
        limits.insert(name.to_owned(), after);
    }
    true
}
