//! Which fields of an object its field managers and the manifests in its annotations own.
//!
//! Requesters choose the names in both. So the time and memory for them grow linearly with the size of the object.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::core::ObjectMeta;
use roster_api::{LOCKED_BY_ANNOTATION, SOURCE_ID_ANNOTATION};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::directory::tracking::is_tracking;

/// Annotations in which tools store the manifest that they applied last: kubectl and kapp.
pub(super) const MANIFEST_ANNOTATIONS: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "kapp.k14s.io/original"];

/// What owns fields: a field manager, or a manifest in an annotation.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Owner<'a> {
    Manager { name: &'a str, is_applier: bool, version: &'a str, subresource: &'a str },
    Manifest(&'a str),
}

impl<'a> Owner<'a> {
    fn of(entry: &'a ManagedFieldsEntry) -> Self {
        Self::Manager {
            name: entry.manager.as_deref().unwrap_or_default(),
            is_applier: entry.operation.as_deref() == Some("Apply"),
            version: entry.api_version.as_deref().unwrap_or_default(),
            subresource: entry.subresource.as_deref().unwrap_or_default(),
        }
    }

    pub(super) const fn is_manager(self) -> bool {
        matches!(self, Self::Manager { .. })
    }

    pub(super) const fn is_manifest(self) -> bool {
        matches!(self, Self::Manifest(_))
    }

    pub(super) const fn is_applier(self) -> bool {
        matches!(self, Self::Manager { is_applier: true, .. })
    }
}

/// A part of an object whose removal matters.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Field {
    Spec(Arc<str>),
    Label(Arc<str>),
    /// An annotation that is guarded, or that holds a manifest.
    Annotation(Arc<str>),
    /// `finalizers` or `ownerReferences`.
    Metadata(Arc<str>),
    /// All labels and annotations: server-side apply removes those that have no owner of their own.
    Maps,
    /// All labels: `kubectl apply` removes them if its last manifest has labels and the next one has none.
    Labels,
    /// The whole object: an annotation with a manifest is a mark for `kubectl apply --prune`.
    Object,
    /// The whole object, by a manifest of which it is unknown what a tool makes of it: its text is not a JSON object that
    /// all parsers read in the same way.
    Unreadable,
}

impl Field {
    /// Returns whether the field is an annotation in which a tool stores its manifest.
    pub(super) fn is_manifest(&self) -> bool {
        matches!(self, Self::Annotation(name) if MANIFEST_ANNOTATIONS.contains(&&**name))
    }
}

/// Digest of a path below a field. Paths can be long, and all of them start with the same names.
type Path = u64;

/// Requesters must not be able to choose paths with the same digest.
static PATHS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Owned fields, with the path below each. A field can have several paths.
pub(super) type Owned<'a> = BTreeSet<(Owner<'a>, Field, Path)>;

/// Returns the fields that the managers and the manifests of an object own.
pub(super) fn owned(metadata: &ObjectMeta) -> Owned<'_> {
    let mut owned = Owned::new();
    for entry in metadata.managed_fields.iter().flatten() {
        if let Some(fields) = &entry.fields_v1 {
            insert(&mut owned, Owner::of(entry), &fields.0);
        }
    }
    for (annotation, text) in manifests(metadata) {
        let owner = Owner::Manifest(annotation);
        let names = field_names(text);
        let field = if names.is_some() { Field::Object } else { Field::Unreadable };
        let digest = if names.is_some() { 0 } else { PATHS.hash_one(text) };
        owned.insert((owner, field, digest));
        insert(&mut owned, owner, &names.unwrap_or_default());
    }
    owned
}

/// Returns the annotations with manifests and their text.
fn manifests(metadata: &ObjectMeta) -> impl Iterator<Item = (&'static str, &str)> {
    let annotation = |name| metadata.annotations.as_ref()?.get(name).map(|text| (name, text.as_str()));
    MANIFEST_ANNOTATIONS.into_iter().filter_map(annotation)
}

/// Adds the fields of a `fieldsV1` (KEP-555).
fn insert<'a>(owned: &mut Owned<'a>, owner: Owner<'a>, fields: &Value) {
    for (step, below) in children(fields) {
        match step {
            "f:spec" => {
                for (step, below) in children(below) {
                    if let Some(name) = field_name(step) {
                        insert_leaves(owned, owner, &Field::Spec(name), below);
                    }
                }
            }
            "f:metadata" => insert_metadata(owned, owner, below),
            _ => {}
        }
    }
}

fn insert_metadata<'a>(owned: &mut Owned<'a>, owner: Owner<'a>, metadata: &Value) {
    if owner.is_applier() && is_leaf(metadata) {
        owned.insert((owner, Field::Maps, 0));
    }
    for (step, below) in children(metadata) {
        match step {
            "f:labels" | "f:annotations" => {
                // Every manager that adds the first label or annotation by an update owns the map, too.
                let owns_map = owner.is_applier() && (is_leaf(below) || below.get(".").is_some());
                let has_labels = owner.is_manifest() && step == "f:labels";
                if owns_map || has_labels && is_leaf(below) {
                    owned.insert((owner, Field::Maps, 0));
                }
                // `kubectl apply` always writes a map of annotations.
                if has_labels {
                    owned.insert((owner, Field::Labels, 0));
                }
                let names = children(below).filter_map(|(step, _)| field_name(step));
                owned.extend(names.filter_map(|name| Some((owner, entry_of_map(step, name)?, 0))));
            }
            "f:finalizers" | "f:ownerReferences" => {
                if let Some(name) = field_name(step) {
                    insert_leaves(owned, owner, &Field::Metadata(name), below);
                }
            }
            _ => {}
        }
    }
}

/// Returns the label or annotation, if it matters who owns it.
fn entry_of_map(map: &str, name: Arc<str>) -> Option<Field> {
    if map == "f:labels" {
        return Some(Field::Label(name));
    }
    let is_guarded = [SOURCE_ID_ANNOTATION, LOCKED_BY_ANNOTATION].contains(&&*name)
        || is_tracking(&name)
        || MANIFEST_ANNOTATIONS.contains(&&*name);
    is_guarded.then_some(Field::Annotation(name))
}

/// Adds a field with all paths below it.
fn insert_leaves<'a>(owned: &mut Owned<'a>, owner: Owner<'a>, field: &Field, below: &Value) {
    insert_paths(owned, (owner, field), below, &PATHS.build_hasher());
}

fn insert_paths<'a>(owned: &mut Owned<'a>, of: (Owner<'a>, &Field), below: &Value, path: &DefaultHasher) {
    if is_leaf(below) {
        owned.insert((of.0, of.1.clone(), path.finish()));
    }
    for (step, below) in children(below) {
        let mut path = path.clone();
        step.hash(&mut path);
        insert_paths(owned, of, below, &path);
    }
}

fn children(fields: &Value) -> impl Iterator<Item = (&str, &Value)> {
    fields.as_object().into_iter().flatten().map(|(step, below)| (step.as_str(), below))
}

fn is_leaf(fields: &Value) -> bool {
    children(fields).next().is_none()
}

fn field_name(step: &str) -> Option<Arc<str>> {
    step.strip_prefix("f:").map(Arc::from)
}

/// Returns the names of the fields of a manifest as in `fieldsV1`. Their values do not affect what a tool removes. `None`
/// if the text is not a JSON object. Go accepts some texts that this does not, for example with a half of a surrogate
/// pair.
fn field_names(text: &str) -> Option<Value> {
    serde_json::from_str::<FieldNames>(text).ok().map(|names| names.0).filter(Value::is_object)
}

/// Unlike [`Value`], gives no key a meaning of its own.
struct FieldNames(Value);

impl<'de> Deserialize<'de> for FieldNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldNamesVisitor).map(Self)
    }
}

struct FieldNamesVisitor;

impl<'de> Visitor<'de> for FieldNamesVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut names = Map::new();
        while let Some((name, below)) = fields.next_entry::<String, FieldNames>()? {
            if names.insert(format!("f:{name}"), below.0).is_some() {
                return Err(A::Error::custom("a duplicate field"));
            }
        }
        Ok(Value::Object(names))
    }
}
