//! Keeps memberships that the source leaves unclear.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};

use super::current::Current;
use super::draft::{GroupDraft, Place, Unclear, UserDraft};
use super::membership::{Kept, Memberships, UnclearOfAll, names};
use super::naming::GroupNames;
use super::rules::Kind;

/// Adds the memberships to manifests that existing Users and Groups keep.
pub(super) struct Keeper<'a> {
    names: &'a GroupNames<'a>,
    current: &'a Current,
    /// Groups that may have further members.
    unclear: &'a Unclear,
    of_all: &'a UnclearOfAll,
    kept: BTreeMap<String, Kept>,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(
        names: &'a GroupNames,
        current: &'a Current,
        unclear: &'a Unclear,
        of_all: &'a UnclearOfAll,
    ) -> Self {
        Self { names, current, unclear, of_all, kept: BTreeMap::new() }
    }

    /// Adds the Groups that the User keeps to its `spec`. Returns the names of those that were added.
    pub(super) fn user(&self, person: &mut UserDraft, name: &str) -> Vec<String> {
        // A list that the manifest does not have stays as it is, unless imports own it.
        if !person.spec.contains_key("groups") && !self.current.owns_groups(name) {
            return Vec::new();
        }
        let memberships = self.names.memberships(&person.groups, &person.unclear, self.of_all);
        let kept = self.current.of_user(name).iter().filter(|group| memberships.keeps(group));
        extend(&mut person.spec, "groups", kept)
    }

    /// Adds the nested Groups that the Group keeps to its `spec`.
    pub(super) fn group(&mut self, group: &mut GroupDraft, name: &str) {
        let is_described = self.names.is_declared(&group.id);
        let has_more =
            self.unclear.all || self.unclear.groups.contains(&group.id) || self.unclear.others && !is_described;
        let memberships = self.names.memberships(&group.member_groups, &group.unclear, &UnclearOfAll::default());
        let kept = self.current.of_group(name).iter().filter(|nested| has_more || memberships.keeps(nested));
        for nested in extend(&mut group.spec, "memberGroups", kept) {
            // The nested Group is the member.
            self.report(group.place, Kind::Group, &nested, name);
        }
    }

    /// Reports that a User or Group stays in a Group.
    pub(super) fn report(&mut self, place: Place, kind: Kind, member: &str, group: &str) {
        let kept = self.kept.entry(group.to_owned()).or_insert_with(|| Kept::new(place, group));
        kept.add(place, format!("{} {member}", kind.name()));
    }

    pub(super) fn finish(self) -> Vec<Kept> {
        self.kept.into_values().collect()
    }
}

/// Adds names to a list field. Returns those that it did not contain.
fn extend<'a>(spec: &mut Map<String, Value>, field: &str, more: impl Iterator<Item = &'a String>) -> Vec<String> {
    let known: HashSet<&str> = spec.get(field).into_iter().flat_map(names).collect();
    let added: Vec<String> = more.filter(|name| !known.contains(name.as_str())).cloned().collect();
    if !added.is_empty()
        && let Value::Array(list) = spec.entry(field).or_insert_with(|| Value::Array(Vec::new()))
    {
        list.extend(added.iter().map(|name| Value::from(name.as_str())));
    }
    added
}

/// Returns what a person must not lose, unless the source does not say it in a form that can be read.
pub(super) fn of_person(person: &UserDraft, names: &GroupNames, of_all: &UnclearOfAll) -> Option<Memberships> {
    let is_readable = person.spec.get("groups").is_none_or(|list| list.as_array().is_some_and(Vec::is_empty));
    is_readable.then(|| names.memberships(&person.groups, &person.unclear, of_all))
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
