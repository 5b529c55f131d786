//! Turns the content of a source into manifests: derives names, checks uniqueness, hashes and the rules of the CRDs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::prelude::{BASE64_STANDARD, Engine};
use roster_api::{API_VERSION, PASSWORD_SECRET_TYPE, USER_ANNOTATION, syntax};
use roster_credentials::claim::fold;
use roster_credentials::password::{self, PasswordError};
use roster_credentials::source::HASH_KEY;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::draft::{Credential, GroupDraft, Input, Place, Rejected, UserDraft};
use super::hashes::UnusableHash;
use super::rules::{Fault, Kind, Rules};
use super::{hashes, names};

/// Options of an import.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Namespace of password Secrets, unless the source names one.
    pub secret_namespace: Option<String>,
    /// Import users with an unusable hash without a password, instead of rejecting them.
    pub without_unusable_hashes: bool,
    /// Accept plaintext passwords, to be hashed on this machine.
    pub hash_passwords: bool,
    /// Create no Groups.
    pub no_groups: bool,
    /// Fields of a User's `spec` to skip.
    pub without: Vec<String>,
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
}

/// An object to create or update.
#[derive(Debug)]
pub struct Item {
    pub place: Place,
    pub kind: Kind,
    /// `metadata.name`.
    pub name: String,
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
pub fn assemble(input: Input, options: &Options, rules: &Rules) -> Plan {
    let mut assembly =
        Assembly { options, rules, taken: Taken::default(), rejected: input.rejected, without_hash: Vec::new() };
    let mut groups = BTreeMap::new();
    for group in input.groups {
        if let Some(item) = assembly.group(group) {
            groups.insert(item.name.clone(), item);
        }
    }
    let mut users = BTreeMap::new();
    for person in input.users {
        let (place, who) = (person.place, person.login().to_owned());
        match assembly.user(person, &mut groups) {
            Ok(item) => drop(users.insert(item.name.clone(), item)),
            Err(faults) => assembly.reject(place, &who, faults),
        }
    }
    if options.no_groups {
        groups.clear();
    }
    let (mut rejected, without_hash) = (assembly.rejected, assembly.without_hash);
    rejected.sort_by_key(|rejected| rejected.place);
    Plan { items: groups.into_values().chain(users.into_values()).collect(), rejected, without_hash }
}

/// Names that earlier lines use.
#[derive(Default)]
struct Taken {
    /// Usernames and emails, case-folded. They share one namespace.
    logins: HashMap<String, Place>,
    /// Names of Users.
    users: HashMap<String, Place>,
    /// Namespaces and names of password Secrets.
    secrets: HashMap<(String, String), Place>,
    /// Groups by the name of their object.
    groups: HashMap<String, SourceGroup>,
}

struct SourceGroup {
    /// Name in the source.
    name: String,
    place: Place,
}

struct Assembly<'a> {
    options: &'a Options,
    rules: &'a Rules,
    taken: Taken,
    rejected: Vec<Rejected>,
    without_hash: Vec<Rejected>,
}

type Faults = Vec<Fault>;

/// A group name that can't be imported.
#[derive(Debug, thiserror::Error)]
enum GroupNameError {
    #[error("is required")]
    Empty,
    #[error("{0}: names with the prefix system: belong to Kubernetes and are refused")]
    Reserved(String),
    #[error("must contain a letter or digit, because the name of the object is derived from it")]
    NoLetter,
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

fn fault(field: &str, reason: impl Into<String>) -> Fault {
    Fault { field: field.to_owned(), reason: reason.into() }
}

fn manifest(kind: Kind, name: &str, labels: Map<String, Value>, spec: Map<String, Value>) -> Value {
    let mut object = json!({"apiVersion": API_VERSION, "kind": kind.name(), "metadata": {"name": name}});
    if !labels.is_empty() {
        object["metadata"]["labels"] = labels.into();
    }
    object["spec"] = spec.into();
    object
}

fn also(what: &str, place: Place) -> String {
    format!("{what} is also in line {}", place.line)
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

    fn group(&mut self, mut group: GroupDraft) -> Option<Item> {
        let name = group_name(&group.name).map_err(|error| vec![fault("metadata.name", error.to_string())]);
        let result = name.and_then(|name| {
            if let Some(other) = self.taken.groups.get(&name) {
                let reason = if is_same_group(&other.name, &group.name) {
                    also(&other.name, other.place)
                } else {
                    two_groups(&group.name, &other.name, &name, Some(other.place))
                };
                return Err(vec![fault("metadata.name", reason)]);
            }
            if name != group.name && !group.spec.contains_key("displayName") {
                group.set("displayName", group.name.clone());
            }
            rename_groups(&mut group.spec, "memberGroups")?;
            let object =
                manifest(Kind::Group, &name, std::mem::take(&mut group.labels), std::mem::take(&mut group.spec));
            let faults = self.check(Kind::Group, &object);
            if faults.is_empty() { Ok((name, object)) } else { Err(faults) }
        });
        match result {
            Ok((name, object)) => {
                self.taken.groups.insert(name.clone(), SourceGroup { name: group.name, place: group.place });
                Some(Item { place: group.place, kind: Kind::Group, name, object, secret: None })
            }
            Err(faults) => {
                self.reject(group.place, &group.name, faults);
                None
            }
        }
    }

    fn user(&mut self, mut person: UserDraft, groups: &mut BTreeMap<String, Item>) -> Result<Item, Faults> {
        for path in &self.options.without {
            remove(&mut person.spec, path);
        }
        let login = person.login().to_owned();
        let name = user_name(&mut person)?;
        let titles = rename_groups(&mut person.spec, "groups")?;
        self.check_groups_distinct(&titles)?;
        let secret = self.secret(&mut person, &name)?;
        let emails = emails(&person.spec);
        let place = person.place;
        let object = manifest(Kind::User, &name, person.labels, person.spec);
        let faults = self.check(Kind::User, &object);
        if !faults.is_empty() {
            return Err(faults);
        }
        self.claim(place, &name, &login, &emails, secret.as_ref())?;
        for (group, title) in titles {
            if !self.taken.groups.contains_key(&group) {
                let implied = self.group(GroupDraft::new(place, &title));
                groups.extend(implied.map(|item| (group.clone(), item)));
            }
            if let Some(spec) = groups.get_mut(&group).and_then(|item| item.object["spec"].as_object_mut()) {
                // The memberships are declared in the Users. Only manifests of Roster set another value.
                spec.entry("acceptDeclaredMembers").or_insert(true.into());
            }
        }
        Ok(Item { place, kind: Kind::User, name, object, secret })
    }

    /// Fails if two groups of the source map to one Group. Its members would get the permissions of both.
    fn check_groups_distinct(&self, titles: &BTreeMap<String, String>) -> Result<(), Faults> {
        let others = titles.iter().filter_map(|(name, title)| {
            let other = self.taken.groups.get(name)?;
            (!is_same_group(&other.name, title)).then(|| two_groups(title, &other.name, name, Some(other.place)))
        });
        let faults: Faults = others.map(|reason| fault("spec.groups", reason)).collect();
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// Returns what the CRD and the API server's rules for metadata reject.
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

    /// Returns the password Secret of a user who has a password. An unusable credential is a fault or, with
    /// `without_unusable_hashes`, dropped.
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

    /// Claims the names that only one User may have.
    fn claim(
        &mut self,
        place: Place,
        name: &str,
        login: &str,
        emails: &[String],
        secret: Option<&Secret>,
    ) -> Result<(), Faults> {
        let mut faults = Vec::new();
        let mut logins = BTreeMap::new();
        logins.insert(fold(login), ("spec.username", login));
        for email in emails {
            logins.entry(fold(email)).or_insert(("spec.email", email));
        }
        for (folded, (field, text)) in &logins {
            if let Some(other) = self.taken.logins.get(folded) {
                faults.push(fault(field, also(text, *other)));
            }
        }
        if let Some(other) = self.taken.users.get(name).filter(|_| faults.is_empty()) {
            faults.push(fault("metadata.name", also(&format!("another username whose object is {name}"), *other)));
        }
        let reference = secret.map(|secret| (secret.namespace.clone(), secret.name.clone()));
        if let Some(other) = reference.as_ref().and_then(|reference| self.taken.secrets.get(reference)) {
            faults.push(fault("spec.passwordSecretRef", also("the same Secret", *other)));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        self.taken.logins.extend(logins.into_keys().map(|login| (login, place)));
        self.taken.users.insert(name.to_owned(), place);
        self.taken.secrets.extend(reference.map(|reference| (reference, place)));
        Ok(())
    }
}

fn remove(fields: &mut Map<String, Value>, path: &str) {
    match path.split_once('.') {
        None => drop(fields.remove(path)),
        Some((first, rest)) => {
            if let Some(nested) = fields.get_mut(first).and_then(Value::as_object_mut) {
                remove(nested, rest);
                if nested.is_empty() {
                    fields.remove(first);
                }
            }
        }
    }
}

/// Returns the name of the object: the given one, or one derived from the username. Removes a username that equals it.
fn user_name(person: &mut UserDraft) -> Result<String, Faults> {
    let login = person.login().to_owned();
    if login.is_empty() {
        return Err(vec![fault("spec.username", "is required")]);
    }
    if names::is_reserved(&login) {
        return Err(vec![fault("spec.username", "names with the prefix system: belong to Kubernetes and are refused")]);
    }
    if let Some(name) = &person.name {
        return Ok(name.clone());
    }
    let no_letter = "must contain a letter or digit to derive the name of the object from; or set the field name";
    let name = names::object_name(&login).ok_or_else(|| vec![fault("spec.username", no_letter)])?;
    if name == login {
        person.spec.remove("username");
    }
    Ok(name)
}

fn group_name(name: &str) -> Result<String, GroupNameError> {
    if name.is_empty() {
        return Err(GroupNameError::Empty);
    }
    if names::is_reserved(name) {
        return Err(GroupNameError::Reserved(name.to_owned()));
    }
    names::object_name(name).ok_or(GroupNameError::NoLetter)
}

fn is_same_group(left: &str, right: &str) -> bool {
    left.to_lowercase() == right.to_lowercase()
}

fn two_groups(title: &str, other: &str, name: &str, place: Option<Place>) -> String {
    let line = place.map(|place| format!(" of line {}", place.line)).unwrap_or_default();
    format!("{title} and {other}{line} would both be the Group {name}: rename one of them")
}

/// Replaces group names by object names in a list of the `spec`. Returns the original names by object name.
fn rename_groups(spec: &mut Map<String, Value>, field: &str) -> Result<BTreeMap<String, String>, Faults> {
    let mut titles = BTreeMap::new();
    let (mut seen, mut renamed) = (BTreeSet::new(), Vec::new());
    let Some(Value::Array(items)) = spec.get(field) else { return Ok(titles) };
    for (index, item) in items.iter().enumerate() {
        // The CRD rejects items that are not text.
        let Some(title) = item.as_str() else { return Ok(BTreeMap::new()) };
        let name =
            group_name(title).map_err(|error| vec![fault(&format!("spec.{field}[{index}]"), error.to_string())])?;
        if seen.insert(name.clone()) {
            renamed.push(Value::from(name.clone()));
        }
        if let Some(other) = titles.insert(name.clone(), title.to_owned()).filter(|other| !is_same_group(other, title))
        {
            return Err(vec![fault(&format!("spec.{field}[{index}]"), two_groups(title, &other, &name, None))]);
        }
    }
    spec.insert(field.to_owned(), renamed.into());
    Ok(titles)
}

fn emails(spec: &Map<String, Value>) -> Vec<String> {
    let more = spec.get("additionalEmails").and_then(Value::as_array).into_iter().flatten();
    spec.get("email").into_iter().chain(more).filter_map(|email| email.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
