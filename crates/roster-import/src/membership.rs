//! What a source says about memberships: yes, no, or that it is unclear.
//!
//! Someone may be able to make a membership unclear: by a second entry with the name of a member, or a second group with
//! the same GID. If this counted as no, they could strip others of their roles. If it counted as yes, they could become
//! members. So an import neither grants nor removes a membership that is unclear. A User that has it keeps it.
//!
//! The reverse holds as well: a membership that the source clearly ended is removed, even if the rest of the entry is
//! rejected.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use roster_credentials::claim::fold;
use serde_json::{Map, Value};

use super::draft::{GroupDraft, GroupRef, Input, Place, SourceId, UserDraft};
use super::known::KnownUsers;
use super::naming::GroupNames;
use super::restriction::foreign;
use super::rules::Kind;

/// Maximum number of Users that a message names.
const MAX_NAMED: usize = 3;

/// Groups whose memberships the source leaves unclear.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Unclear {
    pub(super) groups: HashSet<SourceId>,
    /// Whether the membership in any group that the file does not describe is unclear: a part of the file that may have
    /// described it can't be read.
    pub(super) others: bool,
}

impl Unclear {
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty() && !self.others
    }
}

/// Memberships of a person or group that an import must not remove, by the names of Groups.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Memberships {
    /// Groups that the source names, and those that it leaves unclear.
    groups: BTreeSet<String>,
    /// Names of the Groups that the file describes, if the membership in any other Group is unclear.
    described: Option<Arc<HashSet<String>>>,
}

impl Memberships {
    pub(super) fn new(groups: BTreeSet<String>, described: Option<Arc<HashSet<String>>>) -> Self {
        Self { groups, described }
    }

    /// Returns whether the User keeps a membership that it has.
    pub(super) fn keeps(&self, group: &str) -> bool {
        self.groups.contains(group) || self.described.as_ref().is_some_and(|described| !described.contains(group))
    }

    /// Adds what another entry of the same person keeps.
    pub(super) fn unite(&mut self, other: &Self) {
        self.groups.extend(other.groups.iter().cloned());
        self.described = self.described.take().or_else(|| other.described.clone());
    }
}

/// What existing Users and Groups have that the import must not take away, by the name of the object.
#[derive(Clone, Debug, Default)]
pub struct Current {
    /// Names in `spec.groups`.
    users: HashMap<String, Vec<String>>,
    /// Names in `spec.memberGroups`.
    groups: HashMap<String, Vec<String>>,
    /// Fields of `spec` that restrict a User and that no import has set.
    restrictions: HashMap<String, Map<String, Value>>,
}

impl Current {
    /// Adds an existing User.
    pub fn add_user(&mut self, name: &str, spec: &Value) {
        add(&mut self.users, name, &spec["groups"]);
    }

    /// Adds an existing Group.
    pub fn add_group(&mut self, name: &str, spec: &Value) {
        add(&mut self.groups, name, &spec["memberGroups"]);
    }

    /// Adds the restrictions of an existing User. `owned` contains the fields that imports applied, in the notation of
    /// `managedFields`.
    pub fn add_restrictions(&mut self, name: &str, spec: &Value, owned: &Value) {
        let fields = foreign(spec, owned);
        if !fields.is_empty() {
            self.restrictions.insert(name.to_owned(), fields);
        }
    }

    pub(super) fn restrictions(&self, name: &str) -> Option<&Map<String, Value>> {
        self.restrictions.get(name)
    }

    pub(super) fn of_user(&self, name: &str) -> &[String] {
        self.users.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn of_group(&self, name: &str) -> &[String] {
        self.groups.get(name).map(Vec::as_slice).unwrap_or_default()
    }
}

fn add(all: &mut HashMap<String, Vec<String>>, name: &str, list: &Value) {
    let names: Vec<String> = names(list).map(str::to_owned).collect();
    if !names.is_empty() {
        all.insert(name.to_owned(), names);
    }
}

/// Returns the texts in a list.
pub(super) fn names(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// A Group that existing Users or Groups stay in, because the source does not say whether they are members.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kept {
    /// Position of the first of them in the source.
    pub place: Place,
    /// Name of the Group.
    pub group: String,
    /// Names of the first members, each with its kind.
    members: Vec<String>,
    count: usize,
}

impl Kept {
    pub(super) fn new(place: Place, group: &str) -> Self {
        Self { place, group: group.to_owned(), members: Vec::new(), count: 0 }
    }

    pub(super) fn add(&mut self, place: Place, member: String) {
        self.place = self.place.min(place);
        self.count += 1;
        if self.members.len() < MAX_NAMED {
            self.members.push(member);
        }
    }
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let members = self.members.join(", ");
        let more = match self.count - self.members.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let verb = if self.count == 1 { "stays" } else { "stay" };
        write!(
            f,
            "{members}{more} {verb} in Group {}: the source does not say clearly whether they are members",
            self.group
        )
    }
}

/// Makes every membership in these groups unclear, because several groups of the source have the same identity.
pub(super) fn make_unclear(input: &mut Input, groups: &HashSet<SourceId>) {
    let take = |list: &mut Vec<GroupRef>, unclear: &mut Unclear| {
        let taken = list.extract_if(.., |group| groups.contains(&group.id)).map(|group| group.id);
        unclear.groups.extend(taken);
    };
    input.users.iter_mut().for_each(|person| take(&mut person.groups, &mut person.unclear));
    input.groups.iter_mut().for_each(|group| take(&mut group.member_groups, &mut group.unclear));
}

/// Gives memberships by a username that several users of the source claim to the one who was imported with it. Anyone else
/// may have planted their entry, or taken the name to stay in a group.
pub(super) fn resolve_claims(input: &mut Input, known: &KnownUsers) {
    let is_holder = |person: &UserDraft, name: &str| {
        known.of(person.source.as_deref()).is_some_and(|user| fold(&user.username) == fold(name))
    };
    let mut holders: HashMap<(SourceId, String), HashSet<Option<String>>> = HashMap::new();
    for person in &input.users {
        for (group, name) in person.claimed.iter().filter(|(_, name)| is_holder(person, name)) {
            holders.entry((group.id.clone(), fold(name))).or_default().insert(person.source.clone());
        }
    }
    for person in &mut input.users {
        for (group, name) in std::mem::take(&mut person.claimed) {
            if !is_holder(person, &name) {
                continue;
            }
            let count = holders.get(&(group.id.clone(), fold(&name))).map_or(0, HashSet::len);
            if count == 1 {
                person.join(group);
            } else {
                person.unclear.groups.insert(group.id);
            }
        }
    }
}

/// Adds the memberships to manifests that existing Users and Groups keep.
pub(super) struct Keeper<'a> {
    names: &'a GroupNames<'a>,
    current: &'a Current,
    /// Groups that may have further members.
    unclear: &'a Unclear,
    kept: BTreeMap<String, Kept>,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(names: &'a GroupNames, current: &'a Current, unclear: &'a Unclear) -> Self {
        Self { names, current, unclear, kept: BTreeMap::new() }
    }

    /// Adds the Groups that the User keeps to its `spec`. Returns the names of those that were added.
    pub(super) fn user(&self, person: &mut UserDraft, name: &str) -> Vec<String> {
        let memberships = self.names.memberships(&person.groups, [&person.unclear, self.unclear]);
        let kept = self.current.of_user(name).iter().filter(|group| memberships.keeps(group));
        extend(&mut person.spec, "groups", kept)
    }

    /// Adds the nested Groups that the Group keeps to its `spec`.
    pub(super) fn group(&mut self, group: &mut GroupDraft, name: &str) {
        let is_described = self.names.is_declared(&group.id);
        let has_more = self.unclear.groups.contains(&group.id) || self.unclear.others && !is_described;
        let memberships = self.names.memberships(&group.member_groups, [&group.unclear, &Unclear::default()]);
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
pub(super) fn of_person(person: &UserDraft, names: &GroupNames, unclear: &Unclear) -> Option<Memberships> {
    let is_readable = person.spec.get("groups").is_none_or(|list| list.as_array().is_some_and(Vec::is_empty));
    is_readable.then(|| names.memberships(&person.groups, [&person.unclear, unclear]))
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
