//! What has to be written so that native RBAC is as it should be, in the order in which it has to be written: rights
//! end first, and begin last.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use roster_api::role_binding::RoleRef;

use super::compile::Desired;
use crate::directory::native::{Holder, Key, Native, Natives};

/// A write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Write {
    /// Delete the object of that UID.
    Delete(Key, String),
    /// Apply it.
    Apply(Key, Desired),
}

/// Writes in the order of the fields.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Stages {
    /// Give nobody what they don't have already by another of the same bindings: holders move from one to another
    /// without being left with none in between.
    pub moves: Vec<Write>,
    /// Take something away.
    pub revocations: Vec<Write>,
    /// Give something.
    pub grants: Vec<Write>,
}

/// The writes that lead from what stands there for the owner of that UID to what is desired. Nothing, where nothing has
/// to change.
pub fn plan(uid: &str, desired: BTreeMap<Key, Desired>, natives: &Natives) -> Stages {
    let mut stages = Stages::default();
    let surplus = natives.owned_by(uid).filter(|native| !desired.contains_key(&native.key));
    stages.revocations.extend(surplus.map(delete));
    let mut held = HashMap::<(Option<&str>, &RoleRef), BTreeSet<&Holder>>::new();
    for native in natives.owned_by(uid) {
        let place = (native.key.namespace.as_deref(), &native.role);
        held.entry(place).or_default().extend(&native.holders);
    }
    for (key, desired) in desired {
        let has = held.get(&(key.namespace.as_deref(), &desired.role));
        let is_move = has.is_some_and(|has| desired.holders.iter().all(|holder| has.contains(holder)));
        match natives.get(&key) {
            // What it binds can't be changed in place, and neither should the owner be.
            Some(native) if native.role != desired.role || native.owner.as_deref() != Some(uid) => {
                stages.revocations.push(delete(native));
                stages.grants.push(Write::Apply(key, desired));
            }
            Some(native) if is_right(native, &desired) => {}
            Some(native) if desired.holders.is_subset(&native.holders) => {
                stages.revocations.push(Write::Apply(key, desired));
            }
            Some(native) => {
                stages.revocations.extend(narrow(native, &desired));
                stages.grants.push(Write::Apply(key, desired));
            }
            None if is_move => stages.moves.push(Write::Apply(key, desired)),
            None => stages.grants.push(Write::Apply(key, desired)),
        }
    }
    stages
}

/// Where some holders go and others come: first without those who go.
fn narrow(native: &Native, desired: &Desired) -> Option<Write> {
    let stay: BTreeSet<Holder> = native.holders.intersection(&desired.holders).cloned().collect();
    if stay.len() == native.holders.len() && !native.has_others {
        return None;
    }
    Some(if stay.is_empty() {
        delete(native)
    } else {
        Write::Apply(native.key.clone(), Desired { holders: Arc::new(stay), ..desired.clone() })
    })
}

fn delete(native: &Native) -> Write {
    Write::Delete(native.key.clone(), native.uid.clone())
}

fn is_right(native: &Native, desired: &Desired) -> bool {
    native.holders == *desired.holders && !native.has_others && native.is_marked
}
