//! What a source says about memberships: yes, no, or that it is unclear.
//!
//! Someone may be able to make a membership unclear: by a second entry with the name of a member, or a second group with
//! the same GID. If this counted as no, they could strip others of their roles. If it counted as yes, they could become
//! members. So an import neither grants nor removes a membership that is unclear. A User that has it keeps it.
//!
//! A file may also say nothing about memberships at all, because it was exported without them. It says no only if it
//! describes memberships.
//!
//! The reverse holds as well: a membership that the source clearly ended is removed, even if the rest of the entry is
//! rejected.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use roster_credentials::claim::fold;
use serde_json::Value;

use super::draft::{GroupRef, Input, Place, SourceId, Unclear, UserDraft};
use super::known::KnownUsers;

/// Maximum number of Users that a message names.
const MAX_NAMED: usize = 3;

/// Memberships of a person or group that an import must not remove, by the names of Groups.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Memberships {
    /// Groups that the source names, and those that it leaves unclear for this person or group.
    groups: BTreeSet<String>,
    /// Further Groups, in sets that many people share.
    shared: Vec<Arc<HashSet<String>>>,
    /// Whether all memberships are unclear.
    all: bool,
    /// Groups that it leaves unclear for all. Shared, because there may be many of them, and of people.
    of_all: Arc<HashSet<String>>,
    /// Names of the Groups that the file describes, if the membership in any other Group is unclear.
    described: Option<Arc<HashSet<String>>>,
}

impl Memberships {
    /// `groups` and `shared` are unclear for this person or group. `described` is set if all Groups that the file does not
    /// describe are unclear as well.
    pub(super) fn new(
        groups: BTreeSet<String>,
        shared: Vec<Arc<HashSet<String>>>,
        described: Option<Arc<HashSet<String>>>,
        of_all: &UnclearOfAll,
    ) -> Self {
        Self { groups, shared, all: of_all.all, of_all: Arc::clone(&of_all.names), described }
    }

    /// Makes all memberships unclear.
    pub(super) fn with_all(self, all: bool) -> Self {
        Self { all: self.all || all, ..self }
    }

    /// Returns whether the User keeps a membership that it has.
    pub(super) fn keeps(&self, group: &str) -> bool {
        self.all
            || self.groups.contains(group)
            || self.shared.iter().any(|groups| groups.contains(group))
            || self.of_all.contains(group)
            || self.described.as_ref().is_some_and(|described| !described.contains(group))
    }

    /// Adds what another entry of the same person keeps.
    pub(super) fn unite(&mut self, other: &Self) {
        self.groups.extend(other.groups.iter().cloned());
        self.shared.extend(other.shared.iter().cloned());
        self.all |= other.all;
        self.described = self.described.take().or_else(|| other.described.clone());
    }
}

/// Groups whose memberships the source leaves unclear for all, by the names of existing Groups.
#[derive(Debug, Default)]
pub(super) struct UnclearOfAll {
    pub(super) names: Arc<HashSet<String>>,
    /// Whether this applies to all Groups that the file does not describe.
    pub(super) others: bool,
    /// Whether this applies to all Groups.
    pub(super) all: bool,
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
    for person in &mut input.users {
        take(&mut person.groups, &mut person.unclear);
        let claimed = person.claimed.extract_if(.., |(group, _)| groups.contains(&group.id));
        person.unclear.groups.extend(claimed.map(|(group, _)| group.id));
    }
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
