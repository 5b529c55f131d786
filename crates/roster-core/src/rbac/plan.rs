//! Plans the writes that bring native RBAC to the desired state, in order: rights are revoked first and granted last.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use roster_api::role_binding::RoleRef;

use super::compile::DesiredBinding;
use crate::directory::native::{Holder, Native, NativeKey, Natives};

/// A write to a native binding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Write {
    /// Delete the object with this UID.
    Delete(NativeKey, String),
    /// Apply the desired state.
    Apply(NativeKey, DesiredBinding),
}

/// Writes in stages, to be executed in the order of the fields.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Stages {
    /// Writes that grant holders only what another binding of the same owner already grants: holders move between
    /// bindings without losing the role in between.
    pub moves: Vec<Write>,
    /// Writes that revoke something.
    pub revocations: Vec<Write>,
    /// Writes that grant something.
    pub grants: Vec<Write>,
}

/// Returns the writes that turn the current native bindings of the owner (`uid`) into the desired ones; empty if
/// nothing has to change.
pub fn plan(uid: &str, desired: BTreeMap<NativeKey, DesiredBinding>, natives: &Natives) -> Stages {
    let mut stages = Stages::default();
    let surplus = natives.owned_by(uid).filter(|native| !desired.contains_key(&native.key));
    stages.revocations.extend(surplus.map(delete));
    let mut held = HashMap::<(Option<&str>, &RoleRef), BTreeSet<&Holder>>::new();
    for native in natives.owned_by(uid) {
        let scope_and_role = (native.key.namespace.as_deref(), &native.role);
        held.entry(scope_and_role).or_default().extend(&native.holders);
    }
    for (key, desired) in desired {
        let has = held.get(&(key.namespace.as_deref(), &desired.role));
        let is_move = has.is_some_and(|has| desired.holders.iter().all(|holder| has.contains(holder)));
        match natives.get(&key) {
            // The role of a native binding is immutable. A binding of another owner is also recreated.
            Some(native) if native.role != desired.role || native.owner.as_deref() != Some(uid) => {
                stages.revocations.push(delete(native));
                stages.grants.push(Write::Apply(key, desired));
            }
            Some(native) if is_up_to_date(native, &desired) => {}
            Some(native) if desired.holders.is_subset(&native.holders) => {
                stages.revocations.push(Write::Apply(key, desired));
            }
            Some(native) => {
                stages.revocations.extend(removal(native, &desired));
                stages.grants.push(Write::Apply(key, desired));
            }
            None if is_move => stages.moves.push(Write::Apply(key, desired)),
            None => stages.grants.push(Write::Apply(key, desired)),
        }
    }
    stages
}

/// Returns the write that only removes holders that are no longer desired, or `None` if all are still desired.
fn removal(native: &Native, desired: &DesiredBinding) -> Option<Write> {
    let stay: BTreeSet<Holder> = native.holders.intersection(&desired.holders).cloned().collect();
    if stay.len() == native.holders.len() && !native.has_others {
        return None;
    }
    Some(if stay.is_empty() {
        delete(native)
    } else {
        Write::Apply(native.key.clone(), DesiredBinding { holders: Arc::new(stay), ..desired.clone() })
    })
}

fn delete(native: &Native) -> Write {
    Write::Delete(native.key.clone(), native.uid.clone())
}

fn is_up_to_date(native: &Native, desired: &DesiredBinding) -> bool {
    native.holders == *desired.holders && !native.has_others && native.is_marked
}
