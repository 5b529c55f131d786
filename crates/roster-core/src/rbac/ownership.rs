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

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, OwnerReference};
use kube::Resource;
use kube::core::ObjectMeta;
use roster_api::{LOCKED_BY_ANNOTATION, SOURCE_ID_ANNOTATION};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::directory::tracking::is_tracking;

/// Annotations in which tools store the manifest that they applied last: kubectl and kapp.
const MANIFEST_ANNOTATIONS: [&str; 2] = ["kubectl.kubernetes.io/last-applied-configuration", "kapp.k14s.io/original"];

/// The manager that kube-apiserver gives the fields of the oldest managers that update to, when an object has more than
/// ten of them.
const MERGED_MANAGER: &str = "ancient-changes";

/// What owns fields: a field manager, or a manifest in an annotation.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Owner<'a> {
    Manager { name: &'a str, is_applier: bool, version: &'a str, subresource: &'a str },
    Manifest(&'a str),
}

impl Owner<'_> {
    const fn is_applier(self) -> bool {
        matches!(self, Self::Manager { is_applier: true, .. })
    }
}

/// A part of an object whose removal matters.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Field {
    Spec(String),
    Label(String),
    /// An annotation that is guarded, or that holds a manifest.
    Annotation(String),
    /// `finalizers` or `ownerReferences`.
    Metadata(String),
    /// All labels and annotations: server-side apply removes those that have no owner of their own.
    Maps,
    /// The whole object: an annotation with a manifest is a mark for `kubectl apply --prune`.
    Object,
}

/// Owned fields, with the path below each. A field can have several paths.
type Owned<'a> = BTreeSet<(Owner<'a>, Field, Vec<String>)>;

/// A difference between two versions of an object: who gained or lost which field.
#[derive(Clone, Copy, Debug)]
struct Transfer<'a> {
    owner: Owner<'a>,
    field: &'a Field,
    is_gain: bool,
    /// Whether kube-apiserver has merged managers, of which one owns a manifest.
    is_merge: bool,
}

/// Returns the metadata by which a change lets tools remove something that it does not change itself, or keep something
/// that they would remove: the path of a field, such as `metadata.managedFields`. `None` if it does neither. Fields of
/// the spec for which `is_descriptive` returns true do not count.
pub(super) fn changed_field<K>(
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
    let (before, after) = (owned(old.meta()), owned(new.meta()));
    if before == after {
        return None;
    }
    let spec = |object: &K| serde_json::to_value(object).map(|mut object| object["spec"].take()).unwrap_or_default();
    let specs = (spec(old), spec(new));
    let counts = |transfer: &Transfer<'_>| match transfer.field {
        Field::Spec(name) => !is_descriptive(name) && specs.0.get(name) == specs.1.get(name),
        // Otherwise, many managers could prevent others from writing the object. What depends on the label counts.
        Field::Label(_) if transfer.is_merge => false,
        _ => is_kept(*transfer, old.meta(), new.meta()),
    };
    transfers(&before, &after).find(counts).map(|transfer| match transfer.owner {
        Owner::Manager { .. } => "metadata.managedFields".to_owned(),
        Owner::Manifest(annotation) => format!("metadata.annotations[{annotation}]"),
    })
}

/// Returns whether a change of a User gives a field of the spec to a manager that removes it with its next apply: one
/// that applies, one that `kubectl apply --server-side` adopts, or any other manager, because some tools adopt managers
/// by name, if the field `restricts` the User already. Otherwise, a restriction could be lifted by extending it.
pub(super) fn is_given_to_applier(
    old: &ObjectMeta,
    new: &ObjectMeta,
    is_descriptive: impl Fn(&str) -> bool,
    restricts: impl Fn(&str) -> bool,
) -> bool {
    let (before, after) = (owned(old), owned(new));
    let adopted = adopted(&after);
    let removes = |owner: Owner<'_>| match owner {
        Owner::Manager { name, is_applier, .. } => is_applier || adopted.contains(name),
        Owner::Manifest(_) => true,
    };
    let is_given = |transfer: Transfer<'_>| {
        let Field::Spec(field) = transfer.field else { return false };
        transfer.is_gain && !is_descriptive(field) && (removes(transfer.owner) || restricts(field))
    };
    transfers(&before, &after).any(is_given)
}

/// Returns the labels that a tool may remove after a change, because the change makes or ends an owner of them, whether
/// or not it also sets the label. `old` is `None` for an object that is created. Includes labels that the object does not
/// have, if a manifest names them now: a tool removes them as soon as someone sets them.
pub fn removable_labels(old: Option<&ObjectMeta>, new: &ObjectMeta) -> BTreeSet<String> {
    let (before, after) = (old.map(owned).unwrap_or_default(), owned(new));
    let labels: BTreeSet<&String> = new.labels.iter().flatten().map(|(name, _)| name).collect();
    let mut removable = BTreeSet::new();
    for Transfer { owner, field, is_gain, .. } in transfers(&before, &after) {
        match field {
            Field::Maps => removable.extend(labels.iter().copied().cloned()),
            Field::Annotation(_) if is_manifest(field) => removable.extend(labels.iter().copied().cloned()),
            Field::Label(name) if labels.contains(name) || is_gain && matches!(owner, Owner::Manifest(_)) => {
                removable.insert(name.clone());
            }
            _ => {}
        }
        // Server-side apply removes the map with its last owned label, and with it the labels that no manager owns.
        if is_gain && owner.is_applier() && matches!(field, Field::Label(_)) {
            removable.extend(labels.iter().filter(|name| !has_manager(&after, name)).copied().cloned());
        }
    }
    removable
}

fn has_manager(owned: &Owned<'_>, label: &str) -> bool {
    let owns = |owner: &Owner<'_>| matches!(owner, Owner::Manager { .. });
    owned.iter().any(|(owner, field, _)| owns(owner) && matches!(field, Field::Label(name) if name == label))
}

/// Returns whether a change lets tools remove this label, although the change keeps it.
pub fn may_lose_label(old: &ObjectMeta, new: &ObjectMeta, label: &str) -> bool {
    let (before, after) = (owned(old), owned(new));
    let concerns = |field: &Field| match field {
        Field::Maps => true,
        Field::Label(name) => name == label,
        Field::Annotation(_) => is_manifest(field),
        _ => false,
    };
    transfers(&before, &after).any(|transfer| concerns(transfer.field) && is_kept(transfer, old, new))
}

/// Returns whether a change makes or ends an owner of the annotation that locks a Namespace, although it does not set the
/// annotation.
pub fn transfers_lock(old: &ObjectMeta, new: &ObjectMeta) -> bool {
    let (before, after) = (owned(old), owned(new));
    let is_lock = |field: &Field| matches!(field, Field::Annotation(name) if name == LOCKED_BY_ANNOTATION);
    transfers(&before, &after).any(|transfer| is_lock(transfer.field) && is_kept(transfer, old, new))
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

fn transfers<'a>(before: &'a Owned<'a>, after: &'a Owned<'a>) -> impl Iterator<Item = Transfer<'a>> {
    let merged = merged(before, after);
    let gained = after.difference(before).map(|entry| (entry, true));
    let lost = before.difference(after).map(|entry| (entry, false));
    gained.chain(lost).filter_map(move |((owner, field, path), is_gain)| {
        // Other owners of the same field take no part in the merge.
        let is_part = updater(*owner).is_some_and(|name| !is_gain || name == MERGED_MANAGER);
        let merge = is_part.then(|| merged.get(&(field, path))).flatten();
        let transfer = Transfer { owner: *owner, field, is_gain, is_merge: merge.is_some() };
        (merge != Some(&Merge::Neutral)).then_some(transfer)
    })
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
fn merged<'a>(before: &'a Owned<'a>, after: &'a Owned<'a>) -> BTreeMap<(&'a Field, &'a Vec<String>), Merge> {
    let (adopted_before, is_adopted) = (adopted(before), adopted(after).contains(MERGED_MANAGER));
    // With the manifest, what the manager owns already is adopted.
    let has_merged = before.iter().any(|(owner, ..)| updater(*owner) == Some(MERGED_MANAGER));
    let adopts_more = has_merged && is_adopted != adopted_before.contains(MERGED_MANAGER);
    let gained = after.difference(before).filter(|(owner, ..)| updater(*owner) == Some(MERGED_MANAGER));
    let gained: BTreeSet<_> = gained.map(|(_, field, path)| (field, path)).collect();
    let lost = before.difference(after).filter_map(|(owner, field, path)| {
        let is_neutral = |name| adopted_before.contains(name) == is_adopted && !(adopts_more && is_manifest(field));
        let merge = |name| if is_neutral(name) { Merge::Neutral } else { Merge::Adoption };
        updater(*owner).map(|name| ((field, path), merge(name)))
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

/// Returns whether the field is an annotation in which a tool stores its manifest.
fn is_manifest(field: &Field) -> bool {
    matches!(field, Field::Annotation(name) if MANIFEST_ANNOTATIONS.contains(&name.as_str()))
}

/// Returns the managers whose fields `kubectl apply --server-side` adopts, because they own the annotation of
/// `kubectl apply`. kubectl goes by the name of the manager alone.
fn adopted<'a>(owned: &'a Owned<'a>) -> BTreeSet<&'a str> {
    let adopts = |(owner, field, _): &(Owner<'a>, Field, Vec<String>)| match owner {
        Owner::Manager { name, .. } if is_manifest(field) => Some(*name),
        _ => None,
    };
    owned.iter().filter_map(adopts).collect()
}

/// Returns whether the change keeps the metadata field that gains or loses an owner.
fn is_kept(transfer: Transfer<'_>, old: &ObjectMeta, new: &ObjectMeta) -> bool {
    let value = |metadata: &ObjectMeta, part: usize, name: &str| maps(metadata)[part].get(name).cloned();
    match transfer.field {
        Field::Label(name) => value(old, 0, name) == value(new, 0, name),
        // Any other field of a manager that comes to own a manifest is adopted with it.
        Field::Annotation(_) if transfer.is_gain && is_manifest(transfer.field) => true,
        Field::Annotation(name) => value(old, 1, name) == value(new, 1, name),
        Field::Metadata(name) if name == "finalizers" => old.finalizers == new.finalizers,
        Field::Metadata(_) => old.owner_references == new.owner_references,
        Field::Spec(_) | Field::Maps | Field::Object => true,
    }
}

fn owned(metadata: &ObjectMeta) -> Owned<'_> {
    let mut owned = Owned::new();
    for entry in metadata.managed_fields.iter().flatten() {
        let owner = Owner::Manager {
            name: entry.manager.as_deref().unwrap_or_default(),
            is_applier: entry.operation.as_deref() == Some("Apply"),
            version: entry.api_version.as_deref().unwrap_or_default(),
            subresource: entry.subresource.as_deref().unwrap_or_default(),
        };
        let Some(fields) = entry.fields_v1.as_ref() else { continue };
        insert(&mut owned, owner, &fields.0, &mut Vec::new());
    }
    for name in MANIFEST_ANNOTATIONS {
        let Some(text) = metadata.annotations.as_ref().and_then(|annotations| annotations.get(name)) else { continue };
        let owner = Owner::Manifest(name);
        // What a tool makes of text that is not a manifest is unknown.
        let manifest: Value = serde_json::from_str(text).unwrap_or_default();
        let unknown = if manifest.is_object() { Vec::new() } else { vec![text.clone()] };
        owned.insert((owner, Field::Object, unknown));
        insert(&mut owned, owner, &names_of(&manifest), &mut Vec::new());
    }
    owned
}

/// Adds the leaves of a `fieldsV1` (KEP-555).
fn insert<'a>(owned: &mut Owned<'a>, owner: Owner<'a>, fields: &Value, path: &mut Vec<String>) {
    let below = fields.as_object().filter(|fields| !fields.is_empty());
    if below.is_none()
        && let Some(field) = field_of(owner, path)
    {
        owned.insert((owner, field, path.clone()));
    }
    for (name, fields) in below.into_iter().flatten() {
        path.push(name.clone());
        insert(owned, owner, fields, path);
        path.pop();
    }
}

/// Returns the field that a path leads to, if it matters that this owner removes it.
fn field_of(owner: Owner<'_>, path: &[String]) -> Option<Field> {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let name = |step: &str| step.strip_prefix("f:").map(str::to_owned);
    match path[..] {
        ["f:spec", step, ..] => name(step).map(Field::Spec),
        // Every manager that adds the first label or annotation by an update owns the map, too.
        ["f:metadata"]
        | ["f:metadata", "f:labels" | "f:annotations"]
        | ["f:metadata", "f:labels" | "f:annotations", "."]
            if owner.is_applier() =>
        {
            Some(Field::Maps)
        }
        // With an empty map in the manifest, `kubectl apply` removes all labels. It always writes a map of annotations.
        ["f:metadata", "f:labels"] if matches!(owner, Owner::Manifest(_)) => Some(Field::Maps),
        ["f:metadata", "f:labels", step, ..] => name(step).map(Field::Label),
        ["f:metadata", "f:annotations", step, ..] => name(step).filter(|name| is_guarded(name)).map(Field::Annotation),
        ["f:metadata", step @ ("f:finalizers" | "f:ownerReferences"), ..] => name(step).map(Field::Metadata),
        _ => None,
    }
}

/// Returns a value with the names of its fields as in `fieldsV1`: the values do not affect what is removed.
fn names_of(value: &Value) -> Value {
    let Value::Object(fields) = value else { return Value::Object(Map::new()) };
    Value::Object(fields.iter().map(|(name, value)| (format!("f:{name}"), names_of(value))).collect())
}

/// Returns whether the guard checks who owns an annotation.
fn is_guarded(annotation: &str) -> bool {
    [SOURCE_ID_ANNOTATION, LOCKED_BY_ANNOTATION].contains(&annotation)
        || is_tracking(annotation)
        || MANIFEST_ANNOTATIONS.contains(&annotation)
}

/// Returns whether a change of owner references can cause the deletion of the object: it adds references, or removes
/// some but not all of them. The garbage collector deletes an object once all its owners are gone.
pub fn may_be_garbage_collected(old: &ObjectMeta, new: &ObjectMeta) -> bool {
    let owner = |owner: &OwnerReference| [&owner.api_version, &owner.kind, &owner.name, &owner.uid].map(Clone::clone);
    let owners = |object: &ObjectMeta| object.owner_references.iter().flatten().map(owner).collect::<BTreeSet<_>>();
    let after = owners(new);
    !after.is_empty() && owners(old) != after
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
