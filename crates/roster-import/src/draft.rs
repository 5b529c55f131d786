//! Content of an imported file, before validation.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use roster_credentials::claim::fold;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::hashes;
use super::names;
use super::rules::Fault;

/// Position in the imported files.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// Index of the file: 0 is the main file, 1 `/etc/group`, 2 `/etc/shadow`.
    pub file: usize,
    /// Line number, from 1.
    pub line: usize,
}

impl Place {
    /// Returns the position of a line in the main file.
    pub fn line(line: usize) -> Self {
        Self { file: 0, line }
    }
}

/// Something that is not imported, and the reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rejected {
    pub place: Place,
    /// Name of the user or group. Empty if unknown.
    pub who: String,
    /// Path of the field. Empty for a whole line.
    pub field: String,
    /// What is wrong, and what is allowed. Never contains a secret.
    pub reason: String,
}

impl Rejected {
    /// Rejects a whole line.
    pub fn line(place: Place, reason: impl Into<String>) -> Self {
        Self { place, who: String::new(), field: String::new(), reason: reason.into() }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => write!(f, "{}", self.reason),
            field => write!(f, "{field}: {}", self.reason),
        }
    }
}

/// Identity of a group in its source. Memberships refer to this identity and never to a group's name, because two
/// groups can have the same name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum SourceId {
    /// Name in lower case, if the source identifies groups by the names of their Groups.
    Name(String),
    /// The source's own identifier, prefixed with the kind of source: `ldap:cn=ops,dc=example,dc=com`.
    Id(String),
}

impl SourceId {
    /// Returns the identity of a group that the source (CSV, JSON or YAML) identifies by its name, ignoring case.
    pub fn name(name: &str) -> Self {
        Self::Name(name.to_lowercase())
    }

    /// Returns the identity of a group that has an identifier in the source: a DN, the ID of a row, a principal.
    pub fn new(source: &str, id: &str) -> Self {
        Self::Id(format!("{source}:{id}"))
    }

    /// Returns the source's own identifier, or `None` if the source identifies the group by its name.
    pub fn identifier(&self) -> Option<&str> {
        match self {
            Self::Name(_) => None,
            Self::Id(id) => Some(id),
        }
    }
}

/// Maximum number of items that the CRDs accept in a list that an import fills item by item. The drafts hold one more, so
/// that the CRD rejects them: each new item is compared with all others.
pub(super) const MAX_ITEMS: usize = 256;

/// Reference to a group of the source.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupRef {
    pub id: SourceId,
    /// Name of the group. Used if the source does not describe the group elsewhere.
    pub name: String,
}

impl GroupRef {
    /// Refers to a group by its name.
    pub fn named(name: &str) -> Self {
        Self { id: SourceId::name(name), name: name.to_owned() }
    }
}

/// Groups whose memberships the source leaves unclear.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Unclear {
    pub(super) groups: HashSet<SourceId>,
    /// Further groups, in sets that many people share.
    pub(super) shared: Vec<Arc<HashSet<SourceId>>>,
    /// Whether the membership in any group that the file does not describe is unclear: a part of the file that may have
    /// described it can't be read.
    pub(super) others: bool,
    /// Whether every membership is unclear: the source does not describe memberships, or is incomplete.
    pub(super) all: bool,
}

impl Unclear {
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.shared.iter().all(|groups| groups.is_empty()) && !self.others && !self.all
    }
}

/// Password or hash of a user.
#[derive(Debug)]
pub enum Credential {
    /// Hash in the notation of the source system.
    Hash(SecretString),
    /// Password in plaintext.
    Plain(SecretString),
}

impl Credential {
    fn expose(&self) -> (bool, &str) {
        match self {
            Self::Hash(hash) => (true, hash.expose_secret()),
            Self::Plain(password) => (false, password.expose_secret()),
        }
    }

    /// Reads a field for plaintext passwords. A hash in this field, even in base64, is kept as a hash: if it were
    /// hashed again, the user could not log in.
    pub(super) fn password(text: &str) -> Self {
        let is_hash = hashes::is_certainly_hash(text);
        if is_hash { Self::Hash(text.into()) } else { Self::Plain(text.into()) }
    }
}

/// A user to import.
#[derive(Debug, Default)]
pub struct UserDraft {
    pub place: Place,
    /// `metadata.name`, if the source has one.
    pub name: Option<String>,
    /// The source's own identifier, prefixed with the kind of source, for the annotation
    /// [`roster_api::SOURCE_ID_ANNOTATION`]. `None` if the source has nothing but names, which can be given to someone
    /// else.
    pub source: Option<String>,
    /// `spec` fields that the source sets. `groups` contains names of Groups, and only sources that identify groups by
    /// name set it.
    pub spec: Map<String, Value>,
    /// `metadata.labels`.
    pub labels: Map<String, Value>,
    pub credential: Option<Credential>,
    /// Groups that the user is in.
    pub groups: Vec<GroupRef>,
    /// Groups that list a username of which several users of the source claim to be the owner, with that name.
    pub(super) claimed: Vec<(GroupRef, String)>,
    /// Groups that the user may be in.
    pub(super) unclear: Unclear,
    /// Whether the entry does not show if the account is locked, so that it says nothing about restrictions that it lacks.
    pub(super) lacks_state: bool,
    /// Attributes of the source that can't be read, without which the user must not be imported.
    pub faults: Vec<Fault>,
    /// Digest of everything that the entry itself contains, without memberships that groups declare. Set by
    /// [`Input::add_user`].
    pub(super) content: u64,
}

impl UserDraft {
    /// Returns a user with this username.
    pub fn new(place: Place, username: &str) -> Self {
        let mut user = Self { place, ..Self::default() };
        user.set("username", username);
        user
    }

    /// Sets the identifier of the user in the source. Empty text means that the source has none.
    pub fn identify(&mut self, source: &str, id: &str) {
        self.source = (!id.is_empty()).then(|| format!("{source}:{id}"));
    }

    /// Sets a field of the spec by its path. Empty text is ignored. Use [`join`](Self::join) for groups.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) {
        debug_assert_ne!(path, "groups", "groups are joined by their identity");
        set(&mut self.spec, path, value.into());
    }

    /// Adds a value to a list of the spec, unless the list contains it already, or too many values.
    pub fn add(&mut self, field: &str, value: impl Into<Value>) {
        debug_assert_ne!(field, "groups", "groups are joined by their identity");
        let list = self.spec.entry(field).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(items) = list {
            let value = value.into();
            if items.len() <= MAX_ITEMS && !items.contains(&value) {
                items.push(value);
            }
        }
    }

    /// Adds the user to a group. If it is in too many, it is rejected, and only keeps the memberships that it has.
    pub fn join(&mut self, group: GroupRef) {
        if self.groups.len() > MAX_ITEMS {
            self.unclear.groups.insert(group.id);
        } else if self.groups.iter().all(|known| known.id != group.id) {
            self.groups.push(group);
        }
    }

    /// Records that an attribute can't be read. The user is rejected.
    pub fn fault(&mut self, field: &str, reason: impl Into<String>) {
        self.faults.push(Fault { field: field.to_owned(), reason: reason.into() });
    }

    /// Adds an email address. The first one becomes the primary address.
    pub fn add_email(&mut self, email: &str) {
        if !email.is_empty() && !self.spec.contains_key("email") {
            self.set("email", email);
        } else if !email.is_empty() && self.spec["email"] != email {
            self.add("additionalEmails", email);
        }
    }

    /// Removes an email address, in any letter case. Another one becomes the primary address.
    pub(super) fn remove_email(&mut self, email: &str) {
        let emails = self.emails();
        self.spec.remove("email");
        self.spec.remove("additionalEmails");
        for other in emails.iter().filter(|other| fold(other) != fold(email)) {
            self.add_email(other);
        }
    }

    /// Sets the hash. Empty text means that there is none.
    pub fn set_hash(&mut self, hash: &str) {
        self.credential = (!hash.is_empty()).then(|| Credential::Hash(hash.into()));
    }

    #[cfg(test)]
    pub(super) fn group_names(&self) -> Vec<&str> {
        self.groups.iter().map(|group| group.name.as_str()).collect()
    }

    /// Returns all email addresses.
    pub fn emails(&self) -> Vec<String> {
        let more = self.spec.get("additionalEmails").and_then(Value::as_array).into_iter().flatten();
        self.spec.get("email").into_iter().chain(more).filter_map(|email| email.as_str().map(str::to_owned)).collect()
    }

    /// Returns the name for login: the username or, without one, `metadata.name`.
    pub fn login(&self) -> &str {
        self.spec.get("username").and_then(Value::as_str).or(self.name.as_deref()).unwrap_or_default()
    }
}

/// A group to import.
#[derive(Clone, Debug)]
pub struct GroupDraft {
    pub place: Place,
    pub id: SourceId,
    /// Name in the source.
    pub name: String,
    /// `spec` fields that the source sets. `memberGroups` contains names of Groups, and only sources that identify
    /// groups by name set it.
    pub spec: Map<String, Value>,
    /// `metadata.labels`.
    pub labels: Map<String, Value>,
    /// Groups that are members of this one.
    pub member_groups: Vec<GroupRef>,
    /// Groups that may be members of this one.
    pub(super) unclear: Unclear,
    /// Identifier in the annotation [`roster_api::SOURCE_ID_ANNOTATION`], if the source is a manifest of an imported Group.
    pub origin: Option<String>,
}

impl GroupDraft {
    /// Returns a group with this identity and name.
    pub fn new(place: Place, id: SourceId, name: &str) -> Self {
        let (spec, labels, unclear) = (Map::new(), Map::new(), Unclear::default());
        Self { place, id, name: name.to_owned(), spec, labels, member_groups: Vec::new(), unclear, origin: None }
    }

    /// Returns a group that the source identifies by the name of its Group.
    pub fn named(place: Place, name: &str) -> Self {
        Self::new(place, SourceId::name(name), name)
    }

    /// Sets a field of the spec by its path. Empty text is ignored.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) {
        set(&mut self.spec, path, value.into());
    }

    /// Makes another group a member of this one, unless it has too many already.
    pub fn nest(&mut self, group: GroupRef) {
        if self.member_groups.len() > MAX_ITEMS {
            self.unclear.groups.insert(group.id);
        } else if self.member_groups.iter().all(|known| known.id != group.id) {
            self.member_groups.push(group);
        }
    }

    /// Returns a reference to this group.
    pub fn reference(&self) -> GroupRef {
        GroupRef { id: self.id.clone(), name: self.name.clone() }
    }
}

/// Everything that a source contains, in its order.
#[derive(Debug, Default)]
pub struct Input {
    pub users: Vec<UserDraft>,
    pub groups: Vec<GroupDraft>,
    /// Lines that could not be read.
    pub rejected: Vec<Rejected>,
    /// What is imported although the source does not prove it.
    pub warnings: Vec<Rejected>,
    /// Groups that may have further members.
    pub(super) unclear: Unclear,
    /// Whether the source describes memberships, even if it has none. If it does not, all of them are unclear.
    pub(super) describes_memberships: bool,
    /// Whether the format has nothing but names, so that two entries without an identifier and with the same name are the
    /// same user.
    pub(super) has_only_names: bool,
    /// Digests are keyed at random, so that they reveal no password, and two different entries can't be made to have the same one.
    pub(super) hasher: RandomState,
}

impl Input {
    /// Returns whether the source contains no user and no group.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    /// Adds a user. Call this before adding memberships that the source declares elsewhere.
    pub(super) fn add_user(&mut self, mut person: UserDraft) {
        let text = |fields: &Map<String, Value>| serde_json::to_string(fields).unwrap_or_default();
        let groups: Vec<&SourceId> = person.groups.iter().map(|group| &group.id).collect();
        let faults: Vec<(&str, &str)> = person.faults.iter().map(|fault| (&*fault.field, &*fault.reason)).collect();
        let credential = person.credential.as_ref().map(Credential::expose);
        let (spec, labels) = (text(&person.spec), text(&person.labels));
        let content = (&person.name, &person.source, spec, labels, groups, faults, credential);
        person.content = self.hasher.hash_one(content);
        self.users.push(person);
    }

    /// Returns the index of the first user with each name.
    pub(super) fn users_by_login(&self) -> HashMap<String, usize> {
        let logins = self.users.iter().enumerate().map(|(index, person)| (person.login().to_owned(), index));
        // Of identical entries, only the first one is imported.
        logins.rev().collect()
    }

    /// Returns the identifiers of the users that have one.
    pub fn user_sources(&self) -> HashSet<String> {
        self.users.iter().filter_map(|person| person.source.clone()).collect()
    }

    /// Returns the names that the Users get, if they were not imported before.
    pub fn user_names(&self) -> HashSet<String> {
        let name = |person: &UserDraft| person.name.clone().or_else(|| names::object_name(person.login()));
        self.users.iter().filter_map(name).collect()
    }

    /// Returns whether users or groups refer to a group that has an identifier in the source.
    pub fn has_identified_groups(&self) -> bool {
        let declared = self.groups.iter().map(|group| &group.id);
        let joined = self.users.iter().flat_map(|user| &user.groups).map(|group| &group.id);
        declared.chain(joined).any(|id| id.identifier().is_some())
    }

    /// Records that a part of the source that can't be read may have contained members of any group.
    pub(super) fn lose_members(&mut self) {
        self.unclear.others = true;
        self.unclear.groups.extend(self.groups.iter().map(|group| group.id.clone()));
    }

    /// Moves the names of Groups from each `spec` into group references.
    pub(super) fn refer_to_groups(&mut self) {
        for group in &mut self.groups {
            for name in take_names(&mut group.spec, "memberGroups") {
                group.nest(GroupRef::named(&name));
            }
        }
        for person in &mut self.users {
            for name in take_names(&mut person.spec, "groups") {
                person.join(GroupRef::named(&name));
            }
        }
    }

    /// Returns how many people have an entry that does not show if their accounts are locked.
    pub fn without_state(&self) -> usize {
        self.users.iter().filter(|person| person.lacks_state).count()
    }

    /// Returns whether the source leaves any membership unclear.
    pub fn is_unclear(&self) -> bool {
        let is_unclear = |person: &UserDraft| !person.unclear.is_empty() || !person.claimed.is_empty();
        !self.unclear.is_empty()
            || self.users.iter().any(is_unclear)
            || self.groups.iter().any(|group| !group.unclear.is_empty())
    }

    /// Rejects a line.
    pub fn reject(&mut self, place: Place, reason: impl Into<String>) {
        self.rejected.push(Rejected::line(place, reason));
    }
}

/// Removes a list of names from a spec and returns it. Leaves an empty list in place, and a list with items that are
/// not strings, which the CRD rejects.
fn take_names(spec: &mut Map<String, Value>, field: &str) -> Vec<String> {
    let items = spec.get(field).and_then(Value::as_array);
    let names: Option<Vec<String>> =
        items.and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
    let names = names.unwrap_or_default();
    if !names.is_empty() {
        spec.remove(field);
    }
    names
}

/// Sets the field at a dot-separated path. Empty text and null are ignored.
pub(super) fn set(fields: &mut Map<String, Value>, path: &str, value: Value) {
    if value.as_str() == Some("") || value.is_null() {
        return;
    }
    match path.split_once('.') {
        None => drop(fields.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let nested = fields.entry(first).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(nested) = nested {
                set(nested, rest, value);
            }
        }
    }
}
