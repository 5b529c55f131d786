//! Entries of `metadata.managedFields` that kube-apiserver did not write.
//!
//! When an object has more than ten managers that update, kube-apiserver merges the oldest ones, by the time in their
//! entries, but accepts any time from clients. Made-up managers of the future would have it merge the next ban with the
//! fields of a tool.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::Resource;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::ownership::{FIRST_MANAGER, MERGED_MANAGER};

/// Parts of an object that field managers own. kube-apiserver itself changes the rest of the metadata with each write.
const OWNED_METADATA: [&str; 4] = ["labels", "annotations", "finalizers", "ownerReferences"];

/// Objects in `spec` that have one owner each, although they have fields.
const ATOMIC: [&str; 4] = ["connector", "memberSelector", "passwordSecretRef", "validity"];

/// Returns the name of a manager that updates whose entry is new or has another time, although kube-apiserver would not
/// have written it. kube-apiserver writes one such entry for a request, besides those for merged managers. It sets the time
/// of a manager when it changes a field, and ends the ownership of all other managers that update of this field. So no
/// other entry can own a changed field.
///
/// Some changes cannot be seen in the objects, for example of an empty list that was absent before. So one entry that owns
/// no changed field is possible if kube-apiserver could have set its time: not later than `now`, and not earlier than
/// before. `old` is `None` if the object is created.
pub fn made_up<'a, K>(old: Option<&'a K>, new: &'a K, now: Timestamp) -> Option<&'a str>
where
    K: Resource + Serialize,
{
    let updates = |object: &'a K| object.meta().managed_fields.iter().flatten().filter(|entry| is_update(entry));
    let name = |entry: &'a ManagedFieldsEntry| entry.manager.as_deref().unwrap_or_default();
    let Some(old) = old else { return updates(new).nth(1).map(name) };
    let gone = || updates(old).filter(|before| !updates(new).any(|after| is_same(before, after)));
    let is_fresh = |entry: &&ManagedFieldsEntry| !updates(old).any(|before| is_same(before, entry));
    let was_untracked = old.meta().managed_fields.as_ref().is_none_or(Vec::is_empty);
    let fresh = updates(new).filter(is_fresh).filter(|entry| !is_merge(gone(), was_untracked, entry));
    let fresh: Vec<&ManagedFieldsEntry> = fresh.collect();
    let last = *fresh.last()?;
    let (before, after) = (owned_parts(old), owned_parts(new));
    let unexplained = fresh.iter().copied().find(|entry| {
        let fields = entry.fields_v1.as_ref();
        !fields.is_some_and(|fields| owns_change(&fields.0, Some(&before), Some(&after), false))
    });
    if fresh.len() > 1 {
        return Some(name(unexplained.unwrap_or(last)));
    }
    unexplained.filter(|entry| !is_timely(gone(), entry, now)).map(name)
}

fn is_update(entry: &ManagedFieldsEntry) -> bool {
    entry.operation.as_deref() != Some("Apply")
}

/// The version of an entry does not count: some tools migrate it.
fn is_same(one: &ManagedFieldsEntry, other: &ManagedFieldsEntry) -> bool {
    one.manager == other.manager && one.subresource == other.subresource && one.time == other.time
}

/// Returns whether the time of an entry is not later than `now`, and not earlier than before.
fn is_timely<'a>(
    mut gone: impl Iterator<Item = &'a ManagedFieldsEntry>,
    entry: &ManagedFieldsEntry,
    now: Timestamp,
) -> bool {
    let is_earlier = |before: &ManagedFieldsEntry| {
        before.manager == entry.manager && before.subresource == entry.subresource && before.time > entry.time
    };
    entry.time.as_ref().is_some_and(|time| time.0 <= now) && !gone.any(is_earlier)
}

/// Returns whether kube-apiserver has moved fields to this entry: those of the oldest managers, which are gone, with the
/// time of one of them, or all fields of an object without managers.
fn is_merge<'a>(
    mut gone: impl Iterator<Item = &'a ManagedFieldsEntry>,
    was_untracked: bool,
    entry: &ManagedFieldsEntry,
) -> bool {
    let is_moved = match entry.manager.as_deref() {
        Some(MERGED_MANAGER) => gone.any(|before| before.time == entry.time),
        Some(FIRST_MANAGER) => was_untracked,
        _ => false,
    };
    is_moved && entry.subresource.as_deref().unwrap_or_default().is_empty()
}

fn owned_parts<K: Serialize>(object: &K) -> Value {
    let mut object = serde_json::to_value(object).unwrap_or_default();
    let metadata: Map<String, Value> =
        OWNED_METADATA.into_iter().map(|part| (part.to_owned(), object["metadata"][part].take())).collect();
    json!({"metadata": metadata, "spec": object["spec"].take(), "status": object["status"].take()})
}

/// Returns whether one of these fields (in the notation of `fieldsV1`) has another value, or exists only before or after.
/// `is_atomic` says whether what contains them has one owner.
fn owns_change(fields: &Value, before: Option<&Value>, after: Option<&Value>, is_atomic: bool) -> bool {
    let Some(fields) = fields.as_object().filter(|fields| !fields.is_empty()) else {
        // The name of an object whose fields have owners of their own says nothing about these fields.
        let is_map = |value: Option<&Value>| value.is_some_and(Value::is_object) && !is_atomic;
        return if is_map(before) || is_map(after) { exists(before) != exists(after) } else { before != after };
    };
    fields.iter().any(|(step, below)| {
        let is_atomic = step.strip_prefix("f:").is_none_or(|name| ATOMIC.contains(&name));
        match step.as_str() {
            "." => exists(before) != exists(after),
            step => owns_change(below, part(before, step), part(after, step), is_atomic),
        }
    })
}

fn exists(value: Option<&Value>) -> bool {
    value.is_some_and(|value| !value.is_null())
}

/// Returns a field (`f:…`), or the element of a list by its keys (`k:{…}`), value (`v:…`) or index (`i:…`).
fn part<'v>(value: Option<&'v Value>, step: &str) -> Option<&'v Value> {
    let (value, (kind, text)) = (value?, step.split_once(':')?);
    if kind == "f" {
        return value.get(text);
    }
    let (list, key): (_, Value) = (value.as_array()?, serde_json::from_str(text).ok()?);
    match (kind, &key) {
        ("k", Value::Object(keys)) if !keys.is_empty() => {
            list.iter().find(|item| keys.iter().all(|(name, key)| item.get(name) == Some(key)))
        }
        ("v", _) => list.iter().find(|item| **item == key),
        ("i", _) => list.get(usize::try_from(key.as_u64()?).ok()?),
        _ => None,
    }
}

#[cfg(test)]
#[path = "managers_tests.rs"]
mod tests;
