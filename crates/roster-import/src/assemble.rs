//! From what a source says to the objects that are written: names, uniqueness, hashes, and the rules of the CRDs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::prelude::{BASE64_STANDARD, Engine};
use roster_api::{API_VERSION, PASSWORD_SECRET_TYPE, USER_ANNOTATION, syntax};
use roster_credentials::claim::fold;
use roster_credentials::password;
use roster_credentials::source::HASH_KEY;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::draft::{Credential, Input, Person, Place, Rejected, Team};
use super::rules::{Fault, Kind, Rules};
use super::{hashes, names};

/// How an import is to be made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Namespace of the password Secrets of people whose source names none.
    pub secret_namespace: Option<String>,
    /// People whose hash can't be used come without a password, instead of not at all.
    pub without_unusable_hashes: bool,
    /// Passwords are taken, and hashed here.
    pub hash_passwords: bool,
    /// No Groups are made.
    pub no_groups: bool,
    /// Fields of a User's `spec` to leave out, whatever the source says.
    pub without: Vec<String>,
}

/// What an import comes to.
#[derive(Debug, Default)]
pub struct Plan {
    /// Groups, then people, each by name.
    pub items: Vec<Item>,
    /// What is not imported, in the order of the source.
    pub rejected: Vec<Rejected>,
    /// Hashes that are not imported, of people who are.
    pub without_hash: Vec<Rejected>,
}

/// A person or a group.
#[derive(Debug)]
pub struct Item {
    /// Where it comes from.
    pub place: Place,
    /// User or Group.
    pub kind: Kind,
    /// Name of the object.
    pub name: String,
    /// The manifest.
    pub object: Value,
    /// The password Secret of a person who has a password.
    pub secret: Option<Secret>,
}

/// A password Secret.
#[derive(Debug)]
pub struct Secret {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// User that it is for.
    pub user: String,
    /// Its content.
    pub content: Content,
}

/// Content of a password Secret.
#[derive(Debug)]
pub enum Content {
    /// A hash that Roster verifies.
    Hash(SecretString),
    /// A password that is still to be hashed.
    Plain(SecretString),
}

impl Secret {
    /// The manifest, with a hash.
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

/// Decides what becomes of the input.
pub fn assemble(input: Input, options: &Options, rules: &Rules) -> Plan {
    let mut assembly =
        Assembly { options, rules, taken: Taken::default(), rejected: input.rejected, without_hash: Vec::new() };
    let mut groups = BTreeMap::new();
    for team in input.teams {
        if let Some(item) = assembly.team(team) {
            groups.insert(item.name.clone(), item);
        }
    }
    let mut people = BTreeMap::new();
    for person in input.people {
        let (place, who) = (person.place, person.login().to_owned());
        match assembly.person(person, &mut groups) {
            Ok(item) => drop(people.insert(item.name.clone(), item)),
            Err(faults) => assembly.reject(place, &who, faults),
        }
    }
    if options.no_groups {
        groups.clear();
    }
    let (mut rejected, without_hash) = (assembly.rejected, assembly.without_hash);
    rejected.sort_by_key(|rejected| rejected.place);
    Plan { items: groups.into_values().chain(people.into_values()).collect(), rejected, without_hash }
}

/// What belongs to whom already, and since which line.
#[derive(Default)]
struct Taken {
    /// Usernames and emails, case-folded: one space for both.
    logins: HashMap<String, Place>,
    users: HashMap<String, Place>,
    secrets: HashMap<(String, String), Place>,
    /// Groups of the source, by the name of their object: name there, and where.
    groups: HashMap<String, (String, Place)>,
}

struct Assembly<'a> {
    options: &'a Options,
    rules: &'a Rules,
    taken: Taken,
    rejected: Vec<Rejected>,
    without_hash: Vec<Rejected>,
}

type Faults = Vec<Fault>;

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
    format!("{what} also stands in line {}", place.line)
}

impl Assembly<'_> {
    /// One rejection a person, however many fields are wrong.
    fn reject(&mut self, place: Place, who: &str, faults: Faults) {
        let mut faults = faults.into_iter();
        let Some(Fault { field, mut reason }) = faults.next() else { return };
        for fault in faults {
            reason = format!("{reason}; {}: {}", fault.field, fault.reason);
        }
        self.rejected.push(Rejected { place, who: who.to_owned(), field, reason });
    }

    fn team(&mut self, mut team: Team) -> Option<Item> {
        let result = group_name(&team.name).map_err(|reason| vec![fault("metadata.name", reason)]).and_then(|name| {
            if let Some((other, place)) = self.taken.groups.get(&name) {
                let same = if is_same_group(other, &team.name) {
                    also(other, *place)
                } else {
                    also(&format!("{other}, whose object is {name}, too,"), *place)
                };
                return Err(vec![fault("metadata.name", same)]);
            }
            if name != team.name && !team.spec.contains_key("displayName") {
                team.set("displayName", team.name.clone());
            }
            rename_groups(&mut team.spec, "memberGroups")?;
            let object = manifest(Kind::Group, &name, std::mem::take(&mut team.labels), std::mem::take(&mut team.spec));
            let faults = self.check(Kind::Group, &object);
            if faults.is_empty() { Ok((name, object)) } else { Err(faults) }
        });
        match result {
            Ok((name, object)) => {
                self.taken.groups.insert(name.clone(), (team.name, team.place));
                Some(Item { place: team.place, kind: Kind::Group, name, object, secret: None })
            }
            Err(faults) => {
                self.reject(team.place, &team.name, faults);
                None
            }
        }
    }

    fn person(&mut self, mut person: Person, groups: &mut BTreeMap<String, Item>) -> Result<Item, Faults> {
        for path in &self.options.without {
            remove(&mut person.spec, path);
        }
        let login = person.login().to_owned();
        let name = user_name(&mut person)?;
        let titles = rename_groups(&mut person.spec, "groups")?;
        self.keep_apart(&titles)?;
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
                let implied = self.team(Team::new(place, &title));
                groups.extend(implied.map(|item| (group.clone(), item)));
            }
            if let Some(spec) = groups.get_mut(&group).and_then(|item| item.object["spec"].as_object_mut()) {
                // The memberships are declared in the Users. A source that says otherwise is a manifest of Roster's own.
                spec.entry("acceptDeclaredMembers").or_insert(true.into());
            }
        }
        Ok(Item { place, kind: Kind::User, name, object, secret })
    }

    /// Two groups of the source must not become one here: each would get what the other may do.
    fn keep_apart(&self, titles: &BTreeMap<String, String>) -> Result<(), Faults> {
        let others = titles.iter().filter_map(|(name, title)| {
            let (other, place) = self.taken.groups.get(name)?;
            (!is_same_group(other, title)).then(|| two_groups(title, other, name, Some(*place)))
        });
        let faults: Faults = others.map(|reason| fault("spec.groups", reason)).collect();
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// What the CRD refuses, and what kube-apiserver refuses of any object.
    fn check(&self, kind: Kind, object: &Value) -> Faults {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let mut faults = self.rules.check(kind, object);
        if !syntax::is_subdomain(name) {
            faults.insert(0, fault("metadata.name", "must be a DNS-1123 subdomain: lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit"));
        }
        let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
        faults.extend(labels.filter_map(|(key, value)| {
            let is_good = value.as_str().is_some_and(syntax::is_label_value) && syntax::is_label_key(key);
            (!is_good).then(|| fault(&format!("metadata.labels[{key}]"), "must be a label: a key of at most 63 characters, with a DNS prefix or none, and a value of at most 63"))
        }));
        faults
    }

    /// The password Secret, where there is a password. What can't be used is a fault or, where that is wanted, no password.
    fn secret(&mut self, person: &mut Person, name: &str) -> Result<Option<Secret>, Faults> {
        let content = match person.credential.take() {
            None => return Ok(None),
            Some(Credential::Hash(hash)) => hashes::usable(hash.expose_secret()).map(|hash| Content::Hash(hash.into())),
            Some(Credential::Plain(plain)) if self.options.hash_passwords => {
                password::accept(plain.expose_secret().as_bytes())
                    .map(Content::Plain)
                    .map_err(|error| error.to_string())
            }
            Some(Credential::Plain(_)) => {
                Err("is plaintext, or a hash of a kind that is not known. Give hashes, or let plaintext be \
                hashed on this machine by --hash-passwords"
                    .to_owned())
            }
        };
        let content = match content {
            Ok(content) => content,
            Err(reason) if self.options.without_unusable_hashes => {
                let (who, field) = (name.to_owned(), "password".to_owned());
                self.without_hash.push(Rejected { place: person.place, who, field, reason });
                return Ok(None);
            }
            Err(reason) => {
                let advice = "with --without-unusable-hashes, people come without a password that can't be taken";
                return Err(vec![fault("password", format!("{reason}; {advice}"))]);
            }
        };
        let text =
            |field: &str| person.spec.get("passwordSecretRef").and_then(|at| at[field].as_str()).map(str::to_owned);
        let (namespace, secret) = if let (Some(namespace), Some(secret)) = (text("namespace"), text("name")) {
            (namespace, secret)
        } else {
            let missing =
                "is known, but not where to keep it: name the namespace of the password Secrets by --secret-namespace";
            let namespace = self.options.secret_namespace.clone().ok_or_else(|| vec![fault("password", missing)])?;
            (namespace, format!("{name}-password"))
        };
        person.spec.insert("passwordSecretRef".to_owned(), json!({"namespace": namespace, "name": secret}));
        Ok(Some(Secret { namespace, name: secret, user: name.to_owned(), content }))
    }

    /// Claims everything that may belong to one person only.
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

/// The name of the object: as given, or made of the username, which then needs to be said only where it differs.
fn user_name(person: &mut Person) -> Result<String, Faults> {
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
    let nothing = "has no letter or digit to make the name of an object of: give one in the field name";
    let name = names::object_name(&login).ok_or_else(|| vec![fault("spec.username", nothing)])?;
    if name == login {
        person.spec.remove("username");
    }
    Ok(name)
}

fn group_name(name: &str) -> Result<String, String> {
    if name.is_empty() {
        return Err("is required".to_owned());
    }
    if names::is_reserved(name) {
        return Err(format!("{name}: names with the prefix system: belong to Kubernetes and are refused"));
    }
    names::object_name(name).ok_or_else(|| "has no letter or digit to make the name of an object of".to_owned())
}

fn is_same_group(left: &str, right: &str) -> bool {
    left.to_lowercase() == right.to_lowercase()
}

fn two_groups(title: &str, other: &str, name: &str, place: Option<Place>) -> String {
    let line = place.map(|place| format!(" of line {}", place.line)).unwrap_or_default();
    format!("{title} and {other}{line} would both be the Group {name}: rename one of them")
}

/// Names groups by their objects in a list of a `spec`. Returns the names there, by those of the objects.
fn rename_groups(spec: &mut Map<String, Value>, field: &str) -> Result<BTreeMap<String, String>, Faults> {
    let mut titles = BTreeMap::new();
    let (mut seen, mut renamed) = (BTreeSet::new(), Vec::new());
    let Some(Value::Array(items)) = spec.get(field) else { return Ok(titles) };
    for (index, item) in items.iter().enumerate() {
        // What is no text is left to the rules.
        let Some(title) = item.as_str() else { return Ok(BTreeMap::new()) };
        let name = group_name(title).map_err(|reason| vec![fault(&format!("spec.{field}[{index}]"), reason)])?;
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
