//! Keeps what must be unique in a source from being given to two of its entries.

use std::collections::{BTreeMap, HashMap};

use roster_credentials::claim::fold;

use super::draft::{Place, SourceId};
use super::rules::{Faults, fault};

/// Names that earlier entries of the source have claimed.
#[derive(Default)]
pub(super) struct Taken {
    /// Usernames and emails, case-folded. They share one namespace.
    logins: HashMap<String, Place>,
    /// Names of Users.
    users: HashMap<String, Place>,
    /// Namespaces and names of password Secrets.
    secrets: HashMap<(String, String), Place>,
    /// Groups by their identity in the source.
    pub(super) groups: HashMap<SourceId, Place>,
    /// Users by their identity in the source.
    sources: HashMap<String, Place>,
}

/// Names and identifiers of a user.
#[derive(Clone, Copy)]
pub(super) struct Claims<'a> {
    pub(super) place: Place,
    /// `metadata.name`.
    pub(super) name: &'a str,
    /// Username.
    pub(super) login: &'a str,
    pub(super) emails: &'a [String],
    /// Identity in the source.
    pub(super) source: Option<&'a str>,
}

pub(super) fn also(what: &str, place: Place) -> String {
    format!("{what} is also on line {}", place.line)
}

impl Taken {
    /// Claims what must be unique: username, emails, object name, identity in the source and password Secret, which is a
    /// namespace and a name.
    pub(super) fn claim(&mut self, claims: &Claims, secret: Option<(String, String)>) -> Result<(), Faults> {
        let Claims { place, name, login, emails, source } = *claims;
        let mut faults = Vec::new();
        let mut logins = BTreeMap::new();
        logins.insert(fold(login), ("spec.username", login));
        for email in emails {
            logins.entry(fold(email)).or_insert(("spec.email", email));
        }
        for (folded, (field, text)) in &logins {
            if let Some(other) = self.logins.get(folded) {
                faults.push(fault(field, also(text, *other)));
            } else if let Some(other) = self.users.get(folded).filter(|_| folded != name) {
                // RoleBindings refer to Users by name first.
                faults.push(fault(field, also(&format!("a User with the name {text}"), *other)));
            }
        }
        if let Some(other) = self.logins.get(name).filter(|_| faults.is_empty() && !logins.contains_key(name)) {
            faults.push(fault("metadata.name", also(&format!("a User with the username {name}"), *other)));
        }
        if let Some((source, other)) = source.and_then(|source| self.sources.get_key_value(source)) {
            faults.push(fault("metadata.annotations", also(source, *other)));
        }
        if let Some(other) = self.users.get(name).filter(|_| faults.is_empty()) {
            faults.push(fault("metadata.name", also(&format!("another username whose object is {name}"), *other)));
        }
        if let Some(other) = secret.as_ref().and_then(|secret| self.secrets.get(secret)) {
            faults.push(fault("spec.passwordSecretRef", also("the same Secret", *other)));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        self.logins.extend(logins.into_keys().map(|login| (login, place)));
        self.users.insert(name.to_owned(), place);
        self.sources.extend(source.map(|source| (source.to_owned(), place)));
        self.secrets.extend(secret.map(|secret| (secret, place)));
        Ok(())
    }
}
