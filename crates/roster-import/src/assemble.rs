//! Turns the content of a source into manifests: derives names, and checks uniqueness, hashes and the rules of the
//! CRDs.

use std::collections::{BTreeMap, HashSet};

use base64::prelude::{BASE64_STANDARD, Engine};
use roster_api::SOURCE_ID_ANNOTATION;
use roster_api::{API_VERSION, PASSWORD_SECRET_TYPE, USER_ANNOTATION, syntax};
use roster_credentials::password::{self, PasswordError};
use roster_credentials::source::HASH_KEY;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::contested::contested;
use super::current::Current;
use super::draft::{Credential, GroupDraft, GroupRef, Input, MAX_ITEMS, Place, Rejected, SourceId, Unclear, UserDraft};
use super::hashes::UnusableHash;
use super::keeper::{Keeper, of_person};
use super::known::{KnownUser, KnownUsers};
use super::membership::{Kept, resolve_claims};
use super::naming::{GroupNames, Reference};
use super::restriction::{Restrictions, Unlifted, keep_foreign, keep_imported};
use super::rules::{Fault, Faults, Kind, Rules, fault};
use super::taken::{Claims, Taken, also};
use super::{hashes, names, paths};

/// Options of an import.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub struct Options {
    /// Namespace of password Secrets, unless the source names one.
    pub secret_namespace: Option<String>,
    /// Import users with an unusable hash without a password, instead of rejecting them.
    pub without_unusable_hashes: bool,
    /// Accept plaintext passwords, to be hashed on this machine.
    pub hash_passwords: bool,
    /// Create no Groups.
    pub no_groups: bool,
    /// Fields of a User's `spec` to leave as they are.
    pub without: Vec<String>,
    /// Lift restrictions of earlier imports although the entries do not show whether accounts are locked.
    pub lift_restrictions: bool,
    /// Names of the cluster's Groups that were imported before, by their identities in the source.
    pub known_groups: BTreeMap<String, String>,
    /// Users of the cluster that were imported before.
    pub known_users: KnownUsers,
    /// Memberships of the existing Users and Groups that the source may leave unclear.
    pub current: Current,
}

impl Options {
    /// Returns whether memberships are imported.
    fn has_groups(&self) -> bool {
        self.without.iter().all(|field| field != "groups")
    }
}

/// Result of [`assemble`].
#[derive(Debug, Default)]
pub struct Plan {
    /// Groups, then Users, each sorted by name.
    pub items: Vec<Item>,
    /// What is not imported, in the order of the source.
    pub rejected: Vec<Rejected>,
    /// Unusable hashes of users who are imported without a password.
    pub without_hash: Vec<Rejected>,
    /// Groups whose names have a suffix, because several groups in the source have the same name.
    pub suffixed: Vec<Suffixed>,
    /// Groups of the source, whether or not the plan has an item for them.
    pub references: Vec<Reference>,
    /// What is imported although the source does not prove it.
    pub warnings: Vec<Rejected>,
    /// People that the source has renamed since they were imported.
    pub renamed: Vec<Renamed>,
    /// Restrictions of people, whether or not the plan has an item for them.
    pub restrictions: Restrictions,
    /// Groups that existing Users and Groups stay in, sorted by name.
    pub kept: Vec<Kept>,
    /// Users that are restricted more strictly than the source demands, by someone else.
    pub unlifted: Vec<Unlifted>,
}

/// A person that the source has renamed since they were imported.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Renamed {
    pub place: Place,
    /// Name of the User, which stays.
    pub name: String,
    /// Identity of the person in the source.
    pub source: String,
    /// Username of the User, which stays.
    pub username: String,
    /// Username in the source.
    pub title: String,
}

/// A Group whose name has a suffix, because several groups in the source have the same name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Suffixed {
    pub place: Place,
    /// Name of the Group.
    pub name: String,
    /// Name of the group in the source.
    pub title: String,
    /// Identity of the group in the source.
    pub id: String,
}

/// An object to create or update.
#[derive(Debug)]
pub struct Item {
    pub place: Place,
    pub kind: Kind,
    /// `metadata.name`.
    pub name: String,
    /// Name in the source, if the name of the object is derived from it and differs in more than letter case.
    pub derived_from: Option<String>,
    /// The manifest.
    pub object: Value,
    /// Password Secret of a User who has a password.
    pub secret: Option<Secret>,
}

/// A password Secret.
#[derive(Debug)]
pub struct Secret {
    pub namespace: String,
    pub name: String,
    /// Name of the User that it belongs to.
    pub user: String,
    pub content: Content,
}

/// Content of a password Secret.
#[derive(Debug)]
pub enum Content {
    /// A hash that Roster can verify.
    Hash(SecretString),
    /// A password that must be hashed before it is written.
    Plain(SecretString),
}

impl Secret {
    /// Returns the manifest with this hash.
    pub fn manifest(&self, hash: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self.name, "namespace": self.namespace, "annotations": {USER_ANNOTATION: self.user}},
            "type": PASSWORD_SECRET_TYPE,
            "data": {HASH_KEY: BASE64_STANDARD.encode(hash)},
        })
    }
}

/// Validates the input and plans the objects to write.
pub fn assemble(mut input: Input, options: &Options, rules: &Rules) -> Plan {
    leave_out(&mut input, options);
    resolve_claims(&mut input, &options.known_users);
    let names = &GroupNames::of(&input, &options.known_groups);
    let unclear = std::mem::take(&mut input.unclear);
    let of_all = names.unclear_of_all(&unclear);
    let memberships = |person: &UserDraft| of_person(person, names, &of_all).filter(|_| options.has_groups());
    let restrictions = Restrictions::of(&input, memberships);
    let mut contested = contested(&input, &options.known_users, rules);
    let (taken, without_hash, suffixed, renamed, unlifted) = Default::default();
    let (rejected, keeper) = (input.rejected, Keeper::new(names, &options.current, &unclear, &of_all));
    let mut assembly =
        Assembly { options, rules, names, keeper, taken, rejected, without_hash, suffixed, renamed, unlifted };
    assembly.rejected.extend(names.unusable());
    let mut groups = BTreeMap::new();
    for group in input.groups {
        if let Some(item) = assembly.group(group) {
            groups.insert(item.name.clone(), item);
        }
    }
    let mut users = BTreeMap::new();
    for (index, mut person) in input.users.into_iter().enumerate() {
        let (place, who) = (person.place, person.login().to_owned());
        let is_known = options.known_users.of(person.source.as_deref()).is_some();
        let joined: Vec<SourceId> = person.groups.iter().filter(|_| is_known).map(|group| group.id.clone()).collect();
        if let Some(contest) = contested.remove(&index) {
            person.faults.extend(contest.faults);
            for (email, fault) in contest.emails {
                person.remove_email(&email);
                assembly.reject(place, &who, vec![fault]);
            }
        }
        match assembly.user(person, &mut groups) {
            Ok(item) => drop(users.insert(item.name.clone(), item)),
            Err(faults) => {
                // The User stays in the Groups that it has.
                for id in joined {
                    accept(names.name(&id).ok().and_then(|name| groups.get_mut(name)));
                }
                assembly.reject(place, &who, faults);
            }
        }
    }
    // Members of whom this source says nothing, or whose entries are rejected, stay members.
    groups.values_mut().filter(|item| options.current.accepts(&item.name)).for_each(|item| accept(Some(item)));
    let Assembly { mut rejected, without_hash, mut suffixed, renamed, unlifted, keeper, .. } = assembly;
    if options.no_groups {
        groups.clear();
        suffixed.clear();
    }
    rejected.sort_by_key(|rejected| rejected.place);
    suffixed.sort_by(|left, right| (left.place, &left.name).cmp(&(right.place, &right.name)));
    let items = groups.into_values().chain(users.into_values()).collect();
    let (references, warnings, kept) = (names.references(), input.warnings, keeper.finish());
    Plan { items, rejected, without_hash, suffixed, references, warnings, renamed, restrictions, kept, unlifted }
}

/// Removes the fields in [`Options::without`].
fn leave_out(input: &mut Input, options: &Options) {
    for person in &mut input.users {
        for path in &options.without {
            paths::remove(&mut person.spec, path);
            if path == "groups" {
                (person.groups, person.claimed) = (Vec::new(), Vec::new());
                person.unclear = Unclear::default();
            }
        }
    }
}

struct Assembly<'a> {
    options: &'a Options,
    rules: &'a Rules,
    names: &'a GroupNames<'a>,
    keeper: Keeper<'a>,
    taken: Taken,
    rejected: Vec<Rejected>,
    without_hash: Vec<Rejected>,
    suffixed: Vec<Suffixed>,
    renamed: Vec<Renamed>,
    unlifted: Vec<Unlifted>,
}

/// A password or hash that can't be imported.
#[derive(Debug, thiserror::Error)]
enum CredentialError {
    #[error(transparent)]
    Hash(#[from] UnusableHash),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error(
        "is plaintext, or a hash of an unknown scheme. Give hashes, or hash plaintext on this machine with --hash-passwords"
    )]
    Plaintext,
}

fn manifest(kind: Kind, name: &str, labels: Map<String, Value>, spec: Map<String, Value>) -> Value {
    let mut object = json!({"apiVersion": API_VERSION, "kind": kind.name(), "metadata": {"name": name}});
    if !labels.is_empty() {
        object["metadata"]["labels"] = labels.into();
    }
    object["spec"] = spec.into();
    object
}

impl Assembly<'_> {
    /// Rejects a user or group once, with all its faults.
    fn reject(&mut self, place: Place, who: &str, faults: Faults) {
        let mut faults = faults.into_iter();
        let Some(Fault { field, mut reason }) = faults.next() else { return };
        for fault in faults {
            reason = format!("{reason}; {}: {}", fault.field, fault.reason);
        }
        self.rejected.push(Rejected { place, who: who.to_owned(), field, reason });
    }

    fn group(&mut self, group: GroupDraft) -> Option<Item> {
        let (place, who, id) = (group.place, group.name.clone(), group.id.clone());
        match self.group_item(group) {
            Ok(item) => {
                if let (SourceId::Id(id), true) = (&id, self.names.has_suffix(&id)) {
                    let (name, id) = (item.name.clone(), id.clone());
                    self.suffixed.push(Suffixed { place, name, title: who, id });
                }
                self.taken.groups.insert(id, place);
                Some(item)
            }
            Err(faults) => {
                self.reject(place, &who, faults);
                None
            }
        }
    }

    fn group_item(&mut self, mut group: GroupDraft) -> Result<Item, Faults> {
        let names = self.names;
        let name = names.name(&group.id).map_err(|error| vec![fault("metadata.name", error.consequence())])?;
        if let Some(place) = self.taken.groups.get(&group.id) {
            return Err(vec![fault("metadata.name", also(&group.name, *place))]);
        }
        if name != group.name && !group.spec.contains_key("displayName") {
            group.set("displayName", group.name.clone());
        }
        set_groups(&mut group.spec, "memberGroups", &group.member_groups, names)?;
        self.keeper.group(&mut group, name);
        let derived_from = names::derived(name, &group.name);
        let mut object = manifest(Kind::Group, name, group.labels, group.spec);
        if let Some(id) = group.origin.as_deref().or(group.id.identifier()) {
            object["metadata"]["annotations"] = json!({SOURCE_ID_ANNOTATION: id});
        }
        let faults = self.check(Kind::Group, &object);
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Item { place: group.place, kind: Kind::Group, name: name.to_owned(), derived_from, object, secret: None })
    }

    fn user(&mut self, mut person: UserDraft, groups: &mut BTreeMap<String, Item>) -> Result<Item, Faults> {
        if !person.faults.is_empty() {
            return Err(person.faults);
        }
        let is_derived = person.name.is_none();
        let known = self.options.known_users.of(person.source.as_deref()).filter(|_| is_derived);
        let title = person.login().to_owned();
        let name = user_name(&mut person, known)?;
        let login = known.map_or_else(|| title.clone(), |user| user.username.clone());
        set_groups(&mut person.spec, "groups", &person.groups, self.names)?;
        let kept = if self.options.has_groups() { self.keeper.user(&mut person, &name) } else { Vec::new() };
        let secret = self.secret(&mut person, &name)?;
        self.options.current.keep_omitted(&name, &mut person.spec);
        let emails = person.emails();
        let place = person.place;
        let mut object = manifest(Kind::User, &name, person.labels, person.spec);
        if let Some(source) = &person.source {
            object["metadata"]["annotations"] = json!({SOURCE_ID_ANNOTATION: source});
        }
        if person.lacks_state && !self.options.lift_restrictions {
            self.keep_restrictions(place, &name, &mut object, true);
        }
        let faults = self.check(Kind::User, &object);
        if !faults.is_empty() {
            return Err(faults);
        }
        self.keep_restrictions(place, &name, &mut object, false);
        let reference = secret.as_ref().map(|secret| (secret.namespace.clone(), secret.name.clone()));
        let claims = Claims { place, name: &name, login: &login, emails: &emails, source: person.source.as_deref() };
        self.taken.claim(&claims, reference)?;
        for group in &person.groups {
            self.accept_declared_members(place, &group.id, groups);
        }
        for group in kept {
            accept(groups.get_mut(&group));
            self.keeper.report(place, Kind::User, &name, &group);
        }
        if let Some(source) = person.source.filter(|_| login != title) {
            let (name, username, title) = (name.clone(), login.clone(), title.clone());
            self.renamed.push(Renamed { place, name, source, username, title });
        }
        let derived_from = names::derived(&name, &login).filter(|_| is_derived);
        Ok(Item { place, kind: Kind::User, name, derived_from, object, secret })
    }

    /// Removes what would lift a restriction that earlier imports have set, or that someone else has.
    fn keep_restrictions(&mut self, place: Place, name: &str, object: &mut Value, is_imported: bool) {
        let current = &self.options.current;
        let (restrictions, keep): (_, fn(&mut _, &_) -> _) = if is_imported {
            (current.imported_restrictions(name), keep_imported)
        } else {
            (current.restrictions(name), keep_foreign)
        };
        let Some((restrictions, spec)) = restrictions.zip(object["spec"].as_object_mut()) else { return };
        let fields = keep(spec, restrictions);
        if !fields.is_empty() {
            self.unlifted.push(Unlifted { place, user: name.to_owned(), fields, is_imported });
        }
    }

    /// Makes a Group accept declared members. Creates it first if the source only refers to it.
    fn accept_declared_members(&mut self, place: Place, id: &SourceId, groups: &mut BTreeMap<String, Item>) {
        let names = self.names;
        // A Group that was rejected must not be created with default settings instead.
        let is_usable = names.name(id).is_ok() && !names.is_declared(id);
        if is_usable && !self.taken.groups.contains_key(id) {
            let implied = self.group(GroupDraft::new(place, id.clone(), names.title(id)));
            groups.extend(implied.map(|item| (item.name.clone(), item)));
        }
        accept(names.name(id).ok().and_then(|name| groups.get_mut(name)));
    }

    /// Validates an object against the CRD, and its name and labels against kube-apiserver's rules. Returns all
    /// violations.
    fn check(&self, kind: Kind, object: &Value) -> Faults {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let mut faults = self.rules.check(kind, object);
        if !syntax::is_subdomain(name) {
            let reason = "must be a DNS-1123 subdomain: lower-case letters, digits, '-' and '.', \
                beginning and ending with a letter or digit";
            faults.insert(0, fault("metadata.name", reason));
        }
        let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
        faults.extend(labels.filter_map(|(key, value)| {
            let is_valid = value.as_str().is_some_and(syntax::is_label_value) && syntax::is_label_key(key);
            let reason = "must be a label: a key of at most 63 characters, with an optional DNS prefix, \
                and a value of at most 63 characters";
            (!is_valid).then(|| fault(&format!("metadata.labels[{key}]"), reason))
        }));
        faults
    }

    /// Returns the user's password Secret, or `None` if the user has no password. An unusable credential is an error,
    /// unless `without_unusable_hashes` is set: then it is dropped.
    fn secret(&mut self, person: &mut UserDraft, name: &str) -> Result<Option<Secret>, Faults> {
        let Some(credential) = person.credential.take() else { return Ok(None) };
        let content = match self.content(credential) {
            Ok(content) => content,
            Err(error) if self.options.without_unusable_hashes => {
                let (who, field, reason) = (name.to_owned(), "password".to_owned(), error.to_string());
                self.without_hash.push(Rejected { place: person.place, who, field, reason });
                return Ok(None);
            }
            Err(error) => {
                let advice = "import such users without a password with --without-unusable-hashes";
                return Err(vec![fault("password", format!("{error}; {advice}"))]);
            }
        };
        let text =
            |field: &str| person.spec.get("passwordSecretRef").and_then(|at| at[field].as_str()).map(str::to_owned);
        let (namespace, secret) = if let (Some(namespace), Some(secret)) = (text("namespace"), text("name")) {
            (namespace, secret)
        } else {
            let missing = "needs a Secret: set the namespace of password Secrets with --secret-namespace";
            let namespace = self.options.secret_namespace.clone().ok_or_else(|| vec![fault("password", missing)])?;
            (namespace, format!("{name}-password"))
        };
        person.spec.insert("passwordSecretRef".to_owned(), json!({"namespace": namespace, "name": secret}));
        Ok(Some(Secret { namespace, name: secret, user: name.to_owned(), content }))
    }

    fn content(&self, credential: Credential) -> Result<Content, CredentialError> {
        match credential {
            Credential::Hash(hash) => Ok(Content::Hash(hashes::usable(hash.expose_secret())?.into())),
            Credential::Plain(plain) if self.options.hash_passwords => {
                Ok(Content::Plain(password::accept(plain.expose_secret().as_bytes())?))
            }
            Credential::Plain(_) => Err(CredentialError::Plaintext),
        }
    }
}

/// Sets a list field of the `spec` to the names of these Groups, without duplicates. Leaves out groups that get no name:
/// [`GroupNames::unusable`] reports each of them once. The owner of a group chooses its name and members, and could
/// otherwise have these rejected.
fn set_groups(
    spec: &mut Map<String, Value>,
    field: &str,
    groups: &[GroupRef],
    names: &GroupNames,
) -> Result<(), Faults> {
    if groups.len() > MAX_ITEMS {
        return Err(vec![fault(&format!("spec.{field}"), format!("must have at most {MAX_ITEMS} items"))]);
    }
    let mut known = HashSet::new();
    let usable = groups.iter().filter_map(|group| names.name(&group.id).ok()).filter(|name| known.insert(*name));
    let usable: Vec<Value> = usable.map(Value::from).collect();
    if !usable.is_empty() {
        spec.insert(field.to_owned(), usable.into());
    }
    Ok(())
}

/// Makes a Group accept declared members.
fn accept(item: Option<&mut Item>) {
    if let Some(spec) = item.and_then(|item| item.object["spec"].as_object_mut()) {
        // Memberships are declared in the Users. Only Roster's own manifests set this field to another value.
        spec.entry("acceptDeclaredMembers").or_insert(true.into());
    }
}

/// Returns the name of the object: the given one, that of the User that was imported before, or one derived from the
/// username. Removes `spec.username` if it equals a name that was not given. A User that was imported before also keeps its
/// username, which is immutable except for a request of its own.
fn user_name(person: &mut UserDraft, known: Option<&KnownUser>) -> Result<String, Faults> {
    let login = person.login().to_owned();
    if login.is_empty() {
        return Err(vec![fault("spec.username", "is required")]);
    }
    if names::is_reserved(&login) {
        return Err(vec![fault("spec.username", "names with the prefix system: are reserved for Kubernetes")]);
    }
    if let Some(name) = &person.name {
        return Ok(name.clone());
    }
    let no_letter = "must contain a letter or digit, because the object name is derived from it; or set the field name";
    if let Some(user) = known {
        person.set("username", user.username.as_str());
    }
    let name = known.map(|user| user.name.clone()).or_else(|| names::object_name(&login));
    let name = name.ok_or_else(|| vec![fault("spec.username", no_letter)])?;
    if name == person.login() {
        person.spec.remove("username");
    }
    Ok(name)
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
