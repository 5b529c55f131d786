//! Finds users of a source that claim the same name although they are different people.
//!
//! Names can be unique only within a part of a source: a realm of Keycloak, a domain of Keystone, a subtree of LDAP.
//! People may be able to register a name themselves in one of these parts. So the order of the source must not decide
//! which of them becomes the User, and all of them are rejected.
//!
//! Files that identify people only by their names are different: only their author adds lines to them. Of several
//! lines with the same name, the first one counts, as it does for the programs that read `/etc/passwd` and htpasswd
//! files.

use std::collections::{BTreeMap, HashMap};

use roster_credentials::claim::fold;

use super::draft::UserDraft;
use super::names;
use super::rules::Fault;

/// Maximum number of other users that a message names.
const MAX_NAMED: usize = 3;

/// A name that two users of a source must not share. Usernames and emails share one namespace.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Claim {
    /// Username or email, case-folded.
    Login(String),
    /// `metadata.name`.
    Object(String),
}

/// Returns the reasons to reject users because others claim one of their names, by index.
pub(super) fn contested(users: &[UserDraft]) -> HashMap<usize, Vec<Fault>> {
    let mut claimants: BTreeMap<Claim, Vec<(usize, Fault)>> = BTreeMap::new();
    for (index, person) in users.iter().enumerate() {
        for (claim, fault) in claims(person) {
            claimants.entry(claim).or_default().push((index, fault));
        }
    }
    let mut contested: HashMap<usize, Vec<Fault>> = HashMap::new();
    for claimants in claimants.into_values() {
        let sources = || claimants.iter().map(|(index, _)| &users[*index].source);
        // The same user may occur twice. Users without an identifier can't be told from each other.
        let is_one = sources().all(|source| Some(source) == sources().next());
        if is_one {
            continue;
        }
        for (index, fault) in &claimants {
            let faults = contested.entry(*index).or_default();
            // A user's object name usually collides for the same reason as the username.
            if faults.is_empty() {
                // A few are enough: with all of them, each of many users would list all others.
                let others = claimants.iter().filter(|(other, _)| other != index).map(|(other, _)| &users[*other]);
                let (named, more) = (others.take(MAX_NAMED), (claimants.len() - 1).saturating_sub(MAX_NAMED));
                let reason = reason(&fault.reason, &users[*index], named, more);
                faults.push(Fault { field: fault.field.clone(), reason });
            }
        }
    }
    contested
}

/// Returns the names that a user claims, with the field of each and its text.
fn claims(person: &UserDraft) -> BTreeMap<Claim, Fault> {
    let login = person.login();
    let mut claims = BTreeMap::new();
    let mut add = |claim, field: &str, text: &str| {
        claims.entry(claim).or_insert_with(|| Fault { field: field.to_owned(), reason: text.to_owned() });
    };
    if login.is_empty() {
        return claims;
    }
    add(Claim::Login(fold(login)), "spec.username", login);
    for email in person.emails() {
        add(Claim::Login(fold(&email)), "spec.email", &email);
    }
    if let Some(name) = person.name.clone().or_else(|| names::object_name(login)) {
        add(Claim::Object(name.clone()), "metadata.name", &name);
    }
    claims
}

/// `more` is the number of other claimants besides those that are named.
fn reason<'a>(text: &str, person: &UserDraft, named: impl Iterator<Item = &'a UserDraft>, more: usize) -> String {
    let who = |person: &UserDraft| person.source.clone().unwrap_or_else(|| person.login().to_owned());
    let named: Vec<String> = named.map(|other| format!("{} on line {}", who(other), other.place.line)).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "{text} belongs to {}, but also to {}{more}, and all of them are rejected: rename all but one in the source, or \
         import only one part of it",
        who(person),
        named.join(", ")
    )
}

#[cfg(test)]
#[path = "contested_tests.rs"]
mod tests;
