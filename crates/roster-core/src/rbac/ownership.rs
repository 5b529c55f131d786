//! Metadata from which tools derive what to remove, although their manifests do not mention it.
//!
//! Server-side apply removes a field that `managedFields` lists for the manager and that its manifest does not name.
//! Client-side apply does the same with the manifest that it stored in an annotation, and `kubectl apply --server-side`
//! adopts the fields of managers that own this annotation. Pruning deletes objects that have a mark of the tool. The
//! removal happens with the rights of the tool's own user. So a requester who may not lift a ban could list the ban as
//! a field of the pipeline, and wait for its next run.
//!
//! kube-apiserver moves fields between managers as well, but only those that a write changes. So every other change of
//! who owns a field that matters counts as one by the requester.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, OwnerReference};
use kube::Resource;
use kube::core::ObjectMeta;
use roster_api::LOCKED_BY_ANNOTATION;
use serde::Serialize;

use super::owned_fields::{Field, MANIFEST_ANNOTATIONS, Owned, Owner, owned};
use crate::directory::tracking::is_tracking;

/// The manager that kube-apiserver gives the fields of the oldest managers that update to, when an object has more than
/// ten of them.
pub(super) const MERGED_MANAGER: &str = "ancient-changes";

/// The manager that kube-apiserver gives all fields of an object without field managers, with its first server-side apply.
pub(super) const FIRST_MANAGER: &str = "before-first-apply";

/// A difference between two versions of an object: who gained or lost which field.
#[derive(Debug)]
struct Transfer<'a> {
    owner: Owner<'a>,
    field: Field,
    is_gain: bool,
    /// Whether kube-apiserver has merged managers, of which one owns a manifest.
    is_merge: bool,
}

/// How a change affects who owns which fields of an object.
#[derive(Debug, Default)]
pub struct Ownership<'a> {
    /// `None` for an object that is created.
    old: Option<&'a ObjectMeta>,
    /// `None` for an object that is deleted. Then nothing is owned.
    new: Option<&'a ObjectMeta>,
    transfers: Vec<Transfer<'a>>,
    /// Managers whose fields `kubectl apply --server-side` adopts after the change.
    adopted: BTreeSet<&'a str>,
    /// Labels that a field manager owns after the change.
    managed_labels: BTreeSet<Arc<str>>,
}

impl<'a> Ownership<'a> {
    /// Compares two versions of an object. `old` is `None` if it is created, `new` if it is deleted.
    pub fn between(old: Option<&'a ObjectMeta>, new: Option<&'a ObjectMeta>) -> Self {
        let Some(new) = new else { return Self::default() };
        let (before, after) = (old.map(owned).unwrap_or_default(), owned(new));
        let labels = after.iter().filter(|(owner, ..)| owner.is_manager());
        let labels = labels.filter_map(|(_, field, _)| if let Field::Label(name) = field { Some(name) } else { None });
        Self {
            old,
            new: Some(new),
            transfers: transfers(&before, &after, old.is_some_and(is_untracked)),
            adopted: adopted(&after),
            managed_labels: labels.cloned().collect(),
        }
    }

    /// Returns an annotation with a manifest that the change sets, changes or removes, although it is unknown which fields
    /// it names.
    pub fn unreadable_manifest(&self) -> Option<&'a str> {
        self.transfers.iter().find_map(|transfer| match transfer.owner {
            Owner::Manifest(annotation) if transfer.field == Field::Unreadable => Some(annotation),
            _ => None,
        })
    }

    /// Returns the metadata by which a change lets tools remove something that it does not change itself, or keep
    /// something that they would remove: the path of a field, such as `metadata.managedFields`. `None` if it does neither.
    /// Fields of the spec for which `is_descriptive` returns true do not count. `old` and `new` are the objects that this
    /// compares.
    pub(super) fn changed_field<K>(
        &self,
        old: Option<&K>,
        new: Option<&K>,
        is_descriptive: impl Fn(&str) -> bool,
    ) -> Option<String>
    where
        K: Resource + Serialize,
    {
        let (old, new) = old.zip(new)?;
        if let Some(mark) = changed_mark(old.meta(), new.meta()) {
            return Some(mark);
        }
        if self.is_reset() {
            return Some("metadata.managedFields".to_owned());
        }
        let spec =
            |object: &K| serde_json::to_value(object).map(|mut object| object["spec"].take()).unwrap_or_default();
        let specs = (spec(old), spec(new));
        let counts = |transfer: &&Transfer<'_>| match &transfer.field {
            Field::Spec(name) => !is_descriptive(name) && specs.0.get(&**name) == specs.1.get(&**name),
            // Otherwise, many managers could prevent others from writing the object. What depends on the label counts.
            Field::Label(_) if transfer.is_merge => false,
            // What depends on the labels counts.
            Field::Labels => false,
            _ => self.is_kept(transfer),
        };
        self.transfers.iter().find(counts).map(|transfer| match transfer.owner {
            Owner::Manager { .. } => "metadata.managedFields".to_owned(),
            Owner::Manifest(annotation) => format!("metadata.annotations[{annotation}]"),
        })
    }

    /// Returns whether the change removes all field managers. kube-apiserver then records none for later updates, and the next
    /// server-side apply makes all fields those of a manager whose fields tools adopt.
    fn is_reset(&self) -> bool {
        self.old.is_some_and(|old| !is_untracked(old)) && self.is_untracked()
    }

    /// Returns whether the object has no field managers after the change, so that kube-apiserver has not recorded who made
    /// it.
    pub(super) fn is_untracked(&self) -> bool {
        self.new.is_some_and(is_untracked)
    }

    /// Returns whether a change of a User gives a field of the spec to a manager that removes it with its next apply: one
    /// that applies, one that `kubectl apply --server-side` adopts, or any other manager, because some tools adopt managers
    /// by name, if the field `restricts` the User already. Otherwise, a restriction could be lifted by extending it.
    pub(super) fn is_given_to_applier(
        &self,
        is_descriptive: impl Fn(&str) -> bool,
        restricts: impl Fn(&str) -> bool,
    ) -> bool {
        let removes = |owner: Owner<'_>| match owner {
            Owner::Manager { name, is_applier, .. } => is_applier || self.adopted.contains(name),
            Owner::Manifest(_) => true,
        };
        let is_given = |transfer: &Transfer<'_>| {
            let Field::Spec(field) = &transfer.field else { return false };
            transfer.is_gain && !is_descriptive(field) && (removes(transfer.owner) || restricts(field))
        };
        self.transfers.iter().any(is_given)
    }

    /// Returns the labels that a tool may remove after a change, because the change makes or ends an owner of them, whether
    /// or not it also sets the label. Includes labels that the object does not have, if a manifest names them now: a tool
    /// removes them as soon as someone sets them.
    pub fn removable_labels(&self) -> BTreeSet<String> {
        let labels: BTreeSet<&str> =
            self.new.and_then(|new| new.labels.as_ref()).into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let mut removable = BTreeSet::new();
        let (mut all, mut unmanaged) = (false, false);
        for Transfer { owner, field, is_gain, .. } in &self.transfers {
            match field {
                Field::Label(name) => {
                    if labels.contains(&**name) || *is_gain && owner.is_manifest() {
                        removable.insert(name.to_string());
                    }
                    // Server-side apply removes the map with its last owned label, and with it the labels that no manager
                    // owns.
                    unmanaged |= *is_gain && owner.is_applier();
                }
                _ => all |= [Field::Maps, Field::Labels].contains(field) || field.is_manifest(),
            }
        }
        let others = labels.into_iter().filter(|label| all || unmanaged && !self.managed_labels.contains(*label));
        removable.extend(others.map(str::to_owned));
        removable
    }

    /// Returns whether a change lets tools remove this label, although the change keeps it.
    pub fn may_lose_label(&self, label: &str) -> bool {
        let concerns = |field: &Field| match field {
            Field::Maps | Field::Labels => true,
            Field::Label(name) => **name == *label,
            _ => field.is_manifest(),
        };
        self.transfers.iter().any(|transfer| concerns(&transfer.field) && self.is_kept(transfer))
    }

    /// Returns whether a change makes or ends an owner of the annotation that locks a Namespace, although it does not set
    /// the annotation, or ends the owners of everything.
    pub fn transfers_lock(&self) -> bool {
        let is_lock = |field: &Field| matches!(field, Field::Annotation(name) if **name == *LOCKED_BY_ANNOTATION);
        self.is_reset() || self.transfers.iter().any(|transfer| is_lock(&transfer.field) && self.is_kept(transfer))
    }

    /// Returns whether the change keeps the metadata field that gains or loses an owner.
    fn is_kept(&self, transfer: &Transfer<'_>) -> bool {
        fn entry<'m>(map: Option<&'m BTreeMap<String, String>>, name: &str) -> Option<&'m String> {
            map.and_then(|map| map.get(name))
        }
        let [old, new] = [self.old, self.new];
        let label =
            |object: Option<&'a ObjectMeta>, name| entry(object.and_then(|object| object.labels.as_ref()), name);
        let annotation =
            |object: Option<&'a ObjectMeta>, name| entry(object.and_then(|object| object.annotations.as_ref()), name);
        match &transfer.field {
            Field::Label(name) => label(old, name) == label(new, name),
            // Any other field of a manager that comes to own a manifest is adopted with it.
            Field::Annotation(_) if transfer.is_gain && transfer.field.is_manifest() => true,
            Field::Annotation(name) => annotation(old, name) == annotation(new, name),
            Field::Metadata(name) if **name == *"finalizers" => {
                old.map(|old| &old.finalizers) == new.map(|new| &new.finalizers)
            }
            Field::Metadata(_) => old.map(|old| &old.owner_references) == new.map(|new| &new.owner_references),
            Field::Spec(_) | Field::Maps | Field::Labels | Field::Object | Field::Unreadable => true,
        }
    }
}

fn is_untracked(object: &ObjectMeta) -> bool {
    object.managed_fields.as_ref().is_none_or(Vec::is_empty)
}

fn transfers<'a>(before: &Owned<'a>, after: &Owned<'a>, was_untracked: bool) -> Vec<Transfer<'a>> {
    let merged = merged(before, after);
    // The first server-side apply of a tool would do the same.
    let is_first = |owner: Owner<'_>| was_untracked && updater(owner) == Some(FIRST_MANAGER);
    let gained = after.difference(before).filter(|(owner, ..)| !is_first(*owner)).map(|entry| (entry, true));
    let lost = before.difference(after).map(|entry| (entry, false));
    let transfer = |((owner, field, path), is_gain): (&(Owner<'a>, Field, u64), bool)| {
        // Other owners of the same field take no part in the merge.
        let is_part = updater(*owner).is_some_and(|name| !is_gain || name == MERGED_MANAGER);
        let merge = is_part.then(|| merged.get(&(field, *path))).flatten();
        let transfer = Transfer { owner: *owner, field: field.clone(), is_gain, is_merge: merge.is_some() };
        (merge != Some(&Merge::Neutral)).then_some(transfer)
    };
    gained.chain(lost).filter_map(transfer).collect()
}

/// Returns whether the labels, annotations or field managers of an object differ.
pub(super) fn differs(old: Option<&ObjectMeta>, new: Option<&ObjectMeta>) -> bool {
    let parts = |metadata: &ObjectMeta| {
        let entry = |entry: &ManagedFieldsEntry| ManagedFieldsEntry { time: None, ..entry.clone() };
        let managed: Vec<ManagedFieldsEntry> = metadata.managed_fields.iter().flatten().map(entry).collect();
        (managed, maps(metadata))
    };
    old.zip(new).is_some_and(|(old, new)| parts(old) != parts(new))
}

/// What follows from a move of a field to [`MERGED_MANAGER`].
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Merge {
    /// The same tools remove the field as before.
    Neutral,
    /// `kubectl apply --server-side` removes the field, because the manager also owns a manifest, or no longer does.
    Adoption,
}

/// Returns what kube-apiserver has moved from managers that update to [`MERGED_MANAGER`], because there were too many of
/// them.
fn merged<'o>(before: &'o Owned<'_>, after: &'o Owned<'_>) -> BTreeMap<(&'o Field, u64), Merge> {
    let (adopted_before, is_adopted) = (adopted(before), adopted(after).contains(MERGED_MANAGER));
    // With the manifest, what the manager owns already is adopted.
    let has_merged = before.iter().any(|(owner, ..)| updater(*owner) == Some(MERGED_MANAGER));
    let adopts_more = has_merged && is_adopted != adopted_before.contains(MERGED_MANAGER);
    let gained = after.difference(before).filter(|(owner, ..)| updater(*owner) == Some(MERGED_MANAGER));
    let gained: BTreeSet<_> = gained.map(|(_, field, path)| (field, *path)).collect();
    let lost = before.difference(after).filter_map(|(owner, field, path)| {
        let is_neutral = |name| adopted_before.contains(name) == is_adopted && !(adopts_more && field.is_manifest());
        let merge = |name| if is_neutral(name) { Merge::Neutral } else { Merge::Adoption };
        updater(*owner).map(|name| ((field, *path), merge(name)))
    });
    let mut merged = BTreeMap::new();
    for (field, merge) in lost.filter(|(field, _)| gained.contains(field)) {
        // A field that several managers owned was kept by those that are not adopted.
        merged.entry(field).and_modify(|known: &mut Merge| *known = merge.max(*known)).or_insert(merge);
    }
    merged
}

/// Returns the name of a manager whose fields kube-apiserver may merge with those of others.
fn updater(owner: Owner<'_>) -> Option<&str> {
    match owner {
        Owner::Manager { name, is_applier: false, subresource: "", .. } => Some(name),
        _ => None,
    }
}

/// Returns the managers whose fields `kubectl apply --server-side` adopts, because they own the annotation of
/// `kubectl apply` by an update. kubectl goes by the name of the manager alone.
fn adopted<'a>(owned: &Owned<'a>) -> BTreeSet<&'a str> {
    let adopts = |(owner, field, _): &(Owner<'a>, Field, u64)| match owner {
        Owner::Manager { name, is_applier: false, .. } if field.is_manifest() => Some(*name),
        _ => None,
    };
    owned.iter().filter_map(adopts).collect()
}

/// Returns whether a change of owner references, or the creation with them if `old` is `None`, can cause the deletion of
/// the object: it adds references, or removes some but not all of them. The garbage collector deletes an object once all
/// its owners are gone.
pub fn may_be_garbage_collected(old: Option<&ObjectMeta>, new: &ObjectMeta) -> bool {
    let owner = |owner: &OwnerReference| [&owner.api_version, &owner.kind, &owner.name, &owner.uid].map(Clone::clone);
    let owners = |object: &ObjectMeta| object.owner_references.iter().flatten().map(owner).collect::<BTreeSet<_>>();
    let after = owners(new);
    !after.is_empty() && old.map(owners).unwrap_or_default() != after
}

/// Returns the label or annotation that a change adds, changes or removes, and by which tools decide what to prune. What
/// counts in a manifest is which fields it names.
pub fn changed_mark(old: &ObjectMeta, new: &ObjectMeta) -> Option<String> {
    let parts = ["labels", "annotations"].into_iter().zip(maps(old).into_iter().zip(maps(new)));
    parts.into_iter().find_map(|(part, (before, after))| {
        let mut keys = before.keys().chain(after.keys());
        let is_mark = |key: &str| is_tracking(key) && !MANIFEST_ANNOTATIONS.contains(&key);
        let key = keys.find(|key| is_mark(key) && before.get(*key) != after.get(*key))?;
        Some(format!("metadata.{part}[{key}]"))
    })
}

/// Returns labels and annotations.
fn maps(metadata: &ObjectMeta) -> [BTreeMap<String, String>; 2] {
    [metadata.labels.clone(), metadata.annotations.clone()].map(Option::unwrap_or_default)
}

#[cfg(test)]
#[path = "ownership_tests.rs"]
mod tests;
