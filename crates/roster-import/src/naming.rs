//! Chooses the names of Groups for the groups of a source.
//!
//! A group is identified by its [`SourceId`]. The name of its Group is derived from its name in the source, and several
//! groups may result in the same name:
//!
//! - A group that was imported before keeps the name of its Group, whatever it is called now and whatever other groups
//!   are called. Otherwise, anyone who may create or rename groups in the source could change the names of others.
//! - Other groups with an identifier of their own each get a suffix, which is a hash of the identifier. None of them gets
//!   the name without a suffix, because the choice would depend on the other groups in the file: after another import,
//!   members of one group could have the roles of another.
//! - Of groups that are identified by their names, the one that has the name already, ignoring case, gets it. The others
//!   are rejected, because they can be renamed. If none of them has the name, all of them are rejected.
//!
//! A group that gets no name is rejected, and its members are imported without it. Its owner chooses its name and members,
//! and could otherwise have these people rejected. Members that its Group has already stay in it.
//!
//! The result does not depend on the order of the source.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::draft::{GroupRef, Input, Place, Rejected, SourceId, Unclear};
use super::membership::{Memberships, UnclearOfAll};
use super::names::{self, MAX_LENGTH};

/// Length of a suffix: a hyphen and 32 bits in hexadecimal.
const SUFFIX_LENGTH: usize = 9;

/// Reason why a group gets no name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum NameError {
    #[error("is required")]
    Empty,
    #[error("{0}: names with the prefix system: are reserved for Kubernetes")]
    Reserved(String),
    #[error("must contain a letter or digit, because the name of the object is derived from it")]
    NoLetter,
    #[error("{}", .0.text())]
    Taken(Clash),
    /// No group gets the name.
    #[error("{}", .0.text())]
    Shared(Clash),
}

impl NameError {
    /// Returns the reason, and what it means for members.
    pub(super) fn consequence(&self) -> String {
        format!("{self}; until then, no one becomes a member of this group")
    }
}

/// Two groups that would have the same name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Clash {
    title: String,
    other: String,
    name: String,
    /// Line of the other group. `None` if both are on the same line.
    line: Option<usize>,
}

impl Clash {
    fn text(&self) -> String {
        let Self { title, other, name, line } = self;
        format!("{title} and {} would both be the Group {name}: rename one of them", with_line(other, *line))
    }
}

fn with_line(other: &str, line: Option<usize>) -> String {
    line.map_or_else(|| other.to_owned(), |line| format!("{other} on line {line}"))
}

/// A group that the source declares or refers to.
#[derive(Clone, Debug)]
struct Mention {
    is_declared: bool,
    title: String,
    place: Place,
    /// Field that names the group.
    field: &'static str,
}

/// A Group that the source refers to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reference {
    pub place: Place,
    /// Name of the Group.
    pub name: String,
    /// Name in the source, if the name of the Group is derived from it and differs in more than letter case.
    pub derived_from: Option<String>,
    /// Identity in the source, unless the name is the identity.
    pub source: Option<String>,
}

/// Names of all groups of a source.
pub(super) struct GroupNames<'a> {
    mentions: HashMap<SourceId, Mention>,
    names: HashMap<SourceId, Result<String, NameError>>,
    /// Names of existing Groups by their identity.
    known: &'a BTreeMap<String, String>,
    /// Names of the Groups that the source describes.
    described: Arc<HashSet<String>>,
    /// Names of the sets in [`Unclear::shared`], by the address of the set, which is kept so that it stays valid.
    translated: RefCell<HashMap<*const HashSet<SourceId>, Translated>>,
}

/// Groups of the source, and the names of those that exist.
type Translated = (Arc<HashSet<SourceId>>, Arc<HashSet<String>>);

impl<'a> GroupNames<'a> {
    /// Chooses names for the groups of the source, and for those that its users and groups refer to. `known` has the
    /// names of existing Groups by their identity.
    pub(super) fn of(input: &Input, known: &'a BTreeMap<String, String>) -> Self {
        let mentions = mentions(input);
        let names = choose(&mentions, known);
        let mut all = Self { mentions, names, known, described: Arc::default(), translated: RefCell::default() };
        let described = all.mentions.iter().filter(|(_, mention)| mention.is_declared);
        all.described = Arc::new(described.filter_map(|(id, _)| all.existing(id).map(str::to_owned)).collect());
        all
    }

    /// Returns the name of the Group that the group has now or gets. The name of an existing Group is returned even if the
    /// group was renamed and cannot be imported since, or if it is not clear which group of the file it is.
    fn existing(&self, id: &SourceId) -> Option<&str> {
        match self.names.get(id) {
            Some(Ok(name) | Err(NameError::Shared(Clash { name, .. }))) => Some(name),
            _ => self.known.get(id.identifier()?).map(String::as_str),
        }
    }

    /// Returns the groups that get no name and that the source does not describe.
    pub(super) fn unusable(&self) -> impl Iterator<Item = Rejected> {
        self.names.iter().filter_map(|(id, name)| {
            let (error, mention) = (name.as_ref().err()?, &self.mentions[id]);
            let Mention { title, place, field, .. } = mention;
            let (who, field, reason) = (title.clone(), (*field).to_owned(), error.consequence());
            (!mention.is_declared).then_some(Rejected { place: *place, who, field, reason })
        })
    }

    /// Returns the Groups whose memberships are unclear for all.
    pub(super) fn unclear_of_all(&self, unclear: &Unclear) -> UnclearOfAll {
        let existing = unclear.groups.iter().filter_map(|id| self.existing(id)).map(str::to_owned);
        UnclearOfAll { names: Arc::new(existing.collect()), others: unclear.others, all: unclear.all }
    }

    /// Returns the memberships that someone in `groups` keeps.
    pub(super) fn memberships(&self, groups: &[GroupRef], own: &Unclear, of_all: &UnclearOfAll) -> Memberships {
        let ids = groups.iter().map(|group| &group.id).chain(&own.groups);
        let names = ids.filter_map(|id| self.existing(id)).map(str::to_owned).collect();
        let described = (own.others || of_all.others).then(|| Arc::clone(&self.described));
        let shared = own.shared.iter().map(|groups| self.shared(groups)).collect();
        Memberships::new(names, shared, described, of_all).with_all(own.all)
    }

    /// Returns the names of the existing Groups of a set that many people share. Translates each set once.
    fn shared(&self, groups: &Arc<HashSet<SourceId>>) -> Arc<HashSet<String>> {
        let mut translated = self.translated.borrow_mut();
        let existing = || groups.iter().filter_map(|id| self.existing(id)).map(str::to_owned).collect();
        let (_, names) =
            translated.entry(Arc::as_ptr(groups)).or_insert_with(|| (Arc::clone(groups), Arc::new(existing())));
        Arc::clone(names)
    }

    /// Returns all groups that have a name, sorted by it.
    pub(super) fn references(&self) -> Vec<Reference> {
        let named = self.names.iter().filter_map(|(id, name)| {
            let (name, mention) = (name.as_ref().ok()?.clone(), &self.mentions[id]);
            let derived_from = names::derived(&name, &mention.title);
            Some(Reference { place: mention.place, name, derived_from, source: id.identifier().map(str::to_owned) })
        });
        let mut references: Vec<Reference> = named.collect();
        references.sort_by(|left, right| left.name.cmp(&right.name));
        references
    }

    /// Returns the name of the Group.
    pub(super) fn name(&self, id: &SourceId) -> Result<&str, &NameError> {
        self.names[id].as_deref()
    }

    /// Returns the name of the group in the source.
    pub(super) fn title(&self, id: &SourceId) -> &str {
        &self.mentions[id].title
    }

    /// Returns whether the source describes the group, rather than only referring to it.
    pub(super) fn is_declared(&self, id: &SourceId) -> bool {
        self.mentions[id].is_declared
    }

    /// Returns whether the name of the Group has a suffix.
    pub(super) fn has_suffix(&self, id: &SourceId) -> bool {
        let (SourceId::Id(text), Ok(name)) = (id, self.name(id)) else { return false };
        names::object_name(self.title(id)).is_some_and(|base| suffixed(&base, text) == name)
    }
}

/// Returns whether a group of the source gets no name.
pub(super) fn has_unusable(input: &Input) -> bool {
    choose(&mentions(input), &BTreeMap::new()).values().any(Result::is_err)
}

/// Returns the groups that the source declares or refers to.
fn mentions(input: &Input) -> HashMap<SourceId, Mention> {
    let mut mentions = HashMap::new();
    for group in &input.groups {
        mention(&mut mentions, &group.reference(), group.place, None);
        for nested in &group.member_groups {
            mention(&mut mentions, nested, group.place, Some("spec.memberGroups"));
        }
    }
    for person in &input.users {
        for group in &person.groups {
            mention(&mut mentions, group, person.place, Some("spec.groups"));
        }
    }
    mentions
}

/// Records a mention of a group, in a field or by a declaration. A declaration takes precedence over references.
/// Otherwise, the first name in alphabetical order is kept.
fn mention(mentions: &mut HashMap<SourceId, Mention>, group: &GroupRef, place: Place, field: Option<&'static str>) {
    let is_declared = field.is_none();
    let new = || Mention { is_declared, title: group.name.clone(), place, field: field.unwrap_or("metadata.name") };
    let known = mentions.entry(group.id.clone()).or_insert_with(new);
    if is_declared && !known.is_declared {
        *known = new();
    } else if is_declared == known.is_declared {
        known.place = known.place.min(place);
        if group.name < known.title {
            known.title.clone_from(&group.name);
        }
    }
}

fn base_name(title: &str) -> Result<String, NameError> {
    if title.is_empty() {
        return Err(NameError::Empty);
    }
    if names::is_reserved(title) {
        return Err(NameError::Reserved(title.to_owned()));
    }
    names::object_name(title).ok_or(NameError::NoLetter)
}

fn choose(
    mentions: &HashMap<SourceId, Mention>,
    known: &BTreeMap<String, String>,
) -> HashMap<SourceId, Result<String, NameError>> {
    let mut chosen = HashMap::new();
    // Sorted: the result must not depend on the order of the source.
    let mut by_base: BTreeMap<String, Vec<&SourceId>> = BTreeMap::new();
    let mut kept: BTreeMap<&str, &SourceId> = BTreeMap::new();
    for (id, mention) in mentions {
        match (base_name(&mention.title), id.identifier().and_then(|id| known.get(id))) {
            (Ok(_), Some(name)) => {
                kept.insert(name, id);
                chosen.insert(id.clone(), Ok(name.clone()));
            }
            (Ok(base), None) => by_base.entry(base).or_default().push(id),
            (Err(error), _) => drop(chosen.insert(id.clone(), Err(error))),
        }
    }
    let mut by_name: BTreeMap<String, Vec<&SourceId>> = BTreeMap::new();
    for (base, mut ids) in by_base {
        ids.sort();
        let is_shared = ids.len() > 1 || kept.contains_key(&*base);
        let named: Vec<&SourceId> = ids.iter().copied().filter(|id| id.identifier().is_none()).collect();
        let exact = named.iter().copied().find(|id| **id == SourceId::name(&base));
        for id in ids {
            let name = match id {
                SourceId::Id(text) if is_shared => suffixed(&base, text),
                SourceId::Name(_) if named.len() > 1 && exact != Some(id) => {
                    let other = exact.unwrap_or(named[usize::from(named[0] == id)]);
                    let clash = clash(mentions, id, other, &base);
                    let error = if exact.is_some() { NameError::Taken(clash) } else { NameError::Shared(clash) };
                    chosen.insert(id.clone(), Err(error));
                    continue;
                }
                _ => base.clone(),
            };
            by_name.entry(name).or_default().push(id);
        }
    }
    for (name, ids) in by_name {
        for (index, id) in ids.iter().enumerate() {
            // A suffixed name can equal the name of another group.
            let other = (ids.len() > 1).then(|| ids[usize::from(index == 0)]);
            let other = kept.get(&*name).copied().or(other);
            let result = other
                .map_or_else(|| Ok(name.clone()), |other| Err(NameError::Taken(clash(mentions, id, other, &name))));
            chosen.insert((*id).clone(), result);
        }
    }
    chosen
}

fn clash(mentions: &HashMap<SourceId, Mention>, id: &SourceId, other: &SourceId, name: &str) -> Clash {
    let (mention, other) = (&mentions[id], &mentions[other]);
    let line = (mention.place != other.place).then_some(other.place.line);
    Clash { title: mention.title.clone(), other: other.title.clone(), name: name.to_owned(), line }
}

fn suffixed(base: &str, id: &str) -> String {
    let digest = Sha256::digest(id);
    let hash = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    let length = base.len().min(MAX_LENGTH - SUFFIX_LENGTH);
    format!("{}-{hash:08x}", base[..length].trim_end_matches(['-', '.']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::GroupDraft;
    use proptest::prelude::*;
    use roster_api::syntax::is_subdomain;

    fn names(groups: &[(SourceId, &str)]) -> Vec<Result<String, NameError>> {
        names_with(groups, &BTreeMap::new())
    }

    /// Returns the names of these groups if `known` has the names of existing Groups by their identity.
    fn names_with(groups: &[(SourceId, &str)], known: &BTreeMap<String, String>) -> Vec<Result<String, NameError>> {
        let drafts = groups.iter().enumerate();
        let groups: Vec<_> =
            drafts.map(|(line, (id, name))| GroupDraft::new(Place::line(line), id.clone(), name)).collect();
        let ids: Vec<_> = groups.iter().map(|group| group.id.clone()).collect();
        let names = GroupNames::of(&Input { groups, ..Input::default() }, known);
        ids.iter().map(|id| names.name(id).map(str::to_owned).map_err(Clone::clone)).collect()
    }

    #[test]
    fn groups_with_the_same_name_get_suffixes_from_their_identities() {
        let id = |id| SourceId::new("ldap", id);
        let both = names(&[(id("cn=admins,ou=a"), "admins"), (id("cn=admins,ou=b"), "Admins"), (id("cn=x"), "x")]);
        let [Ok(first), Ok(second), Ok(third)] = &both[..] else { panic!("{both:?}") };
        assert!(first.starts_with("admins-") && second.starts_with("admins-") && first != second);
        assert_eq!(third, "x");
        let long = "a.".repeat(40);
        assert!(names(&[(id("1"), &long), (id("2"), &long)]).iter().flatten().all(|name| is_subdomain(name)));
    }

    #[test]
    fn groups_are_rejected_if_a_name_equals_a_suffixed_name() {
        let id = |id| SourceId::new("ldap", id);
        let imitation = suffixed("admins", "ldap:1");
        let found = names(&[(id("1"), "admins"), (id("2"), "admins"), (id("3"), &imitation)]);
        assert!(found[0].is_err() && found[1].is_ok() && found[2].is_err(), "{found:?}");
    }

    #[test]
    fn an_imported_group_keeps_its_name_whatever_others_are_called() {
        let id = |id| SourceId::new("keystone", id);
        let known = BTreeMap::from([("keystone:1".to_owned(), "admins".to_owned())]);
        let with = |groups: &[(SourceId, &str)]| {
            names_with(groups, &known).into_iter().map(Result::unwrap).collect::<Vec<_>>()
        };
        let imitation = suffixed("admins", "keystone:2");
        assert_eq!(with(&[(id("2"), "Admins"), (id("1"), "admins")]), [&*imitation, "admins"]);
        // Renamed in the source.
        assert_eq!(with(&[(id("2"), "ops"), (id("1"), "ops")]), ["ops", "admins"]);
        // Imported with a suffix, and the only one of its name since then.
        let known = BTreeMap::from([("keystone:2".to_owned(), imitation.clone())]);
        assert_eq!(names_with(&[(id("2"), "admins")], &known), [Ok(imitation.clone())]);
        // Another group that takes the suffixed name is rejected alone.
        let found = names_with(&[(id("2"), "admins"), (id("3"), &imitation)], &known);
        assert_eq!(
            (found[0].as_deref(), found[1].as_deref()),
            (Ok(&*imitation), Ok(&*suffixed(&imitation, "keystone:3")))
        );
        // Names that cannot be imported stay rejected.
        let known = BTreeMap::from([("keystone:1".to_owned(), "admins".to_owned())]);
        assert!(names_with(&[(id("1"), "system:masters")], &known)[0].is_err());
    }

    proptest! {
        #[test]
        fn names_are_unique_and_do_not_depend_on_the_order(
            groups in prop::collection::hash_map(0_u8..20, ("[aAäb -]{1,3}", any::<bool>()), 1..12),
            known in prop::collection::btree_map(0_u8..20, "[a-]{1,3}", 0..4),
            seed in any::<prop::sample::Index>(),
        ) {
            let mut names_known = std::collections::HashSet::new();
            let known: BTreeMap<String, String> = known
                .into_iter()
                .filter(|(_, name)| names_known.insert(name.clone()))
                .map(|(id, name)| (format!("test:{id}"), name))
                .collect();
            let names = |groups: &[(SourceId, &str)]| names_with(groups, &known);
            let groups: Vec<_> = groups
                .iter()
                .map(|(id, (title, is_named))| {
                    (if *is_named { SourceId::name(title) } else { SourceId::new("test", &id.to_string()) }, title.as_str())
                })
                .collect();
            let chosen: HashMap<_, _> = groups.iter().map(|(id, _)| id.clone()).zip(names(&groups)).collect();
            let mut taken: Vec<_> = chosen.values().flatten().collect();
            taken.sort();
            prop_assert!(taken.windows(2).all(|pair| pair[0] != pair[1]), "{:?}", taken);
            let mut rotated = groups.clone();
            rotated.rotate_left(seed.index(groups.len()));
            rotated.reverse();
            for ((id, _), name) in rotated.iter().zip(names(&rotated)) {
                prop_assert_eq!(name.ok(), chosen[id].clone().ok());
            }
        }
    }
}
