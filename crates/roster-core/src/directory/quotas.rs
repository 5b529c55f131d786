//! Limits as they are declared, and what each owned namespace has of them.

use std::collections::{BTreeMap, HashMap};

use crate::quota::allotment::Allotment;
use crate::quota::amount::Amounts;

/// Stands for the owner of namespaces that have none, and still have an allotment.
pub const NOBODY: &str = "";

/// Limits as they are declared, and allotments as they are.
#[derive(Debug, Default)]
pub struct Quotas {
    /// By User.
    pub(super) users: HashMap<String, Amounts>,
    /// By Group.
    pub(super) groups: HashMap<String, Amounts>,
    /// By namespace.
    allotments: HashMap<String, Allotment>,
    /// By namespace and name, with the defaults that Roster has noted on its own.
    limit_ranges: HashMap<String, BTreeMap<String, String>>,
}

impl Quotas {
    /// Sets the limits of a User. Returns whether they are others than before.
    pub fn set_user(&mut self, user: &str, limits: Amounts) -> bool {
        set(&mut self.users, user, limits)
    }

    /// Sets the limits that a Group adds to those of its members. Returns whether they are others than before.
    pub fn set_group(&mut self, group: &str, limits: Amounts) -> bool {
        set(&mut self.groups, group, limits)
    }

    /// Sets or removes what a namespace has. Returns whether that is something else than before.
    pub fn set_allotment(&mut self, namespace: &str, allotment: Option<Allotment>) -> bool {
        let after = allotment.clone();
        let before = match allotment {
            Some(allotment) => self.allotments.insert(namespace.to_owned(), allotment),
            None => self.allotments.remove(namespace),
        };
        before != after
    }

    /// Sets or removes a LimitRange.
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

    /// The LimitRanges of a namespace, each with the defaults that Roster has noted on it.
    pub fn limit_ranges_in(&self, namespace: &str) -> impl Iterator<Item = (&String, &String)> {
        self.limit_ranges.get(namespace).into_iter().flatten()
    }

    /// All LimitRanges: namespace and name.
    pub fn limit_ranges(&self) -> impl Iterator<Item = (String, String)> {
        let all = self.limit_ranges.iter();
        all.flat_map(|(namespace, ranges)| ranges.keys().map(|name| (namespace.clone(), name.clone())))
    }

    /// What a namespace has.
    pub fn allotment(&self, namespace: &str) -> Option<&Allotment> {
        self.allotments.get(namespace)
    }

    /// Names of the namespaces that have something.
    pub fn allotted(&self) -> impl Iterator<Item = &String> {
        self.allotments.keys()
    }
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
