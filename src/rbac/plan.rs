//! What has to be written so that native RBAC is as it should be, in the order in which it has to be written: rights
//! end first, and begin last.

use std::collections::BTreeMap;

use super::compile::Desired;
use crate::directory::native::{Key, Native, Natives};

/// A write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Write {
    /// Delete the object of that UID.
    Delete(Key, String),
    /// Apply it.
    Apply(Key, Desired),
}

/// The writes that lead from what stands there for the owner of that UID to what is desired: first those that end
/// rights, then those that narrow them, then the rest. Nothing, where nothing has to change.
pub fn plan(uid: &str, desired: BTreeMap<Key, Desired>, natives: &Natives) -> [Vec<Write>; 3] {
    let surplus = natives.owned_by(uid).filter(|native| !desired.contains_key(&native.key));
    let mut deletes: Vec<Write> = surplus.map(delete).collect();
    let (mut shrinks, mut applies) = (Vec::new(), Vec::new());
    for (key, desired) in desired {
        match natives.get(&key) {
            // What it binds can't be changed in place, and neither should the owner be.
            Some(native) if native.role != desired.role || native.owner.as_deref() != Some(uid) => {
                deletes.push(delete(native));
                applies.push(Write::Apply(key, desired));
            }
            Some(native) if is_right(native, &desired) => {}
            Some(native) if desired.holders.is_subset(&native.holders) => shrinks.push(Write::Apply(key, desired)),
            None | Some(_) => applies.push(Write::Apply(key, desired)),
        }
    }
    [deletes, shrinks, applies]
}

fn delete(native: &Native) -> Write {
    Write::Delete(native.key.clone(), native.uid.clone())
}

fn is_right(native: &Native, desired: &Desired) -> bool {
    native.holders == desired.holders && !native.has_others && native.is_marked
}
