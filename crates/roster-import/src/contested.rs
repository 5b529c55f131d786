//! Finds users of a source that claim the same name although they are different people.
//!
//! Names can be unique only within a part of a source: a realm of Keycloak, a domain of Keystone, a subtree of LDAP.
//! People may be able to register a name themselves in one of these parts. So the order of the source must not decide
//! which of them becomes the User:
//!
//! - A person who was imported before keeps the names of their User, and only the others are rejected. Otherwise, a leaver
//!   could prevent that their User is changed, by registering the same name once more.
//! - If no User has the name yet, all of them are rejected.
//! - People may be able to write their own emails. So an email never costs another person more than their own email: it is
//!   left out for all who claim it, and does not count against a username.
//!
//! Entries that are rejected for another reason claim their names as well. Otherwise, a mistake in the entry of the person to
//! whom RoleBindings refer would give the name to someone else. Only an email that is not an address claims nothing.
//!
//! Entries with the same identifier but different content are all rejected, too: one of them may be planted.
//!
//! Files that identify people only by their names are different: only their author adds lines to them. Of several
//! lines with the same name, the first one counts, as it does for the programs that read `/etc/passwd` and htpasswd
//! files.

use std::collections::{BTreeMap, HashMap};

use roster_credentials::claim::fold;

use super::draft::{Input, UserDraft};
use super::known::{KnownUser, KnownUsers};
use super::names;
use super::restriction::restricts;
use super::rules::{Fault, Kind, Rules};

/// Field of emails, for messages.
const EMAIL: &str = "spec.email";

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

impl Claim {
    /// Returns whether it is a name of the User.
    fn is_of(&self, user: &KnownUser) -> bool {
        match self {
            Self::Login(login) => user.has_login(login) || user.name == *login,
            Self::Object(name) => user.name == *name,
        }
    }
}

/// What a user loses because others claim it as well.
#[derive(Debug, Default)]
pub(super) struct Contest {
    /// Reasons to reject the user.
    pub(super) faults: Vec<Fault>,
    /// Emails to leave out, with the reasons.
    pub(super) emails: Vec<(String, Fault)>,
}

/// Returns what users lose because others claim their identifier or one of their names, by index.
pub(super) fn contested(input: &Input, known: &KnownUsers, rules: &Rules) -> HashMap<usize, Contest> {
    let users = &input.users;
    let faults = ambiguous(users).into_iter();
    let mut contested: HashMap<usize, Contest> =
        faults.map(|(index, faults)| (index, Contest { faults, ..Contest::default() })).collect();
    for (claim, mut claimants) in claimants(users, known) {
        if claimants.len() > 1 {
            // Checked only here, because the rules take time.
            claimants.retain(|(_, fault)| {
                fault.as_ref().is_none_or(|fault| fault.field != EMAIL || is_address(&fault.reason, rules))
            });
        }
        if is_one_user(&claimants, input) {
            continue;
        }
        let holder = holder(&claim, &claimants, users, known);
        let (emails, names): (Claimants, Claimants) =
            claimants.iter().cloned().partition(|(_, fault)| fault.as_ref().is_some_and(|fault| fault.field == EMAIL));
        // A username that only one person claims is theirs.
        let contested_names = if holder.is_some() || !is_one_user(&names, input) { names } else { Claimants::new() };
        for (index, fault) in emails.into_iter().chain(contested_names) {
            let person = &users[index];
            let is_holder = holder.is_some_and(|(source, _)| person.source.as_deref() == Some(source));
            let Some(fault) = fault.filter(|_| !is_holder) else { continue };
            let reason = if let Some((source, user)) = holder {
                held(&fault.reason, person, source, user)
            } else {
                let others = claimants.iter().filter(|(other, _)| *other != index).map(|(other, _)| &users[*other]);
                shared(&fault, person, others, claimants.len() - 1)
            };
            let contest = contested.entry(index).or_default();
            let email = fault.reason;
            let fault = Fault { field: fault.field, reason };
            if fault.field == EMAIL {
                contest.emails.push((email, fault));
            } else if contest.faults.is_empty() {
                // A user's object name usually collides for the same reason as the username.
                contest.faults.push(fault);
            }
        }
    }
    contested
}

/// Returns whether the CRD accepts an email.
fn is_address(email: &str, rules: &Rules) -> bool {
    rules.check(Kind::User, &serde_json::json!({"metadata": {"name": "x"}, "spec": {"email": email}})).is_empty()
}

/// Rejects entries that have the same identifier and different content.
fn ambiguous(users: &[UserDraft]) -> HashMap<usize, Vec<Fault>> {
    let mut by_source: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, person) in users.iter().enumerate() {
        if let Some(source) = &person.source {
            by_source.entry(source).or_default().push(index);
        }
    }
    let is_ambiguous =
        |indexes: &Vec<usize>| indexes.iter().any(|index| users[*index].content != users[indexes[0]].content);
    let mut faults = HashMap::new();
    for (source, indexes) in by_source.into_iter().filter(|(_, indexes)| is_ambiguous(indexes)) {
        // One of the entries may be planted so that another person is disabled.
        let is_restricted = restricts(indexes.iter().map(|index| &users[*index]));
        let restricted =
            if is_restricted { "; until then, the User is restricted only by what all of them demand" } else { "" };
        for index in &indexes {
            let other = if index == &indexes[0] { indexes[1] } else { indexes[0] };
            let reason = format!(
                "{source} is also on line {} with other content, and all of them are rejected: remove all but one{restricted}",
                users[other].place.line
            );
            faults.insert(*index, vec![Fault { field: "metadata.annotations".to_owned(), reason }]);
        }
    }
    faults
}

/// A user who claims a name, by index, with the field that has it. Without a field, the name is only that of the existing
/// User.
type Claimants = Vec<(usize, Option<Fault>)>;

fn claimants(users: &[UserDraft], known: &KnownUsers) -> BTreeMap<Claim, Claimants> {
    let mut all: BTreeMap<Claim, Claimants> = BTreeMap::new();
    for (index, person) in users.iter().enumerate() {
        let known = known.of(person.source.as_deref());
        let mut claims: BTreeMap<Claim, Option<Fault>> =
            claims(person, known).into_iter().map(|(claim, fault)| (claim, Some(fault))).collect();
        if let Some(user) = known {
            // RoleBindings refer to these. They must not become the names of someone else in the same import.
            claims.entry(Claim::Object(user.name.clone())).or_default();
            claims.entry(Claim::Login(fold(&user.name))).or_default();
        }
        for (claim, fault) in claims {
            all.entry(claim).or_default().push((index, fault));
        }
    }
    all
}

/// Returns whether all claimants are the same user, of whom the first entry counts.
fn is_one_user(claimants: &Claimants, input: &Input) -> bool {
    let mut users = claimants.iter().map(|(index, _)| &input.users[*index]);
    let Some(first) = users.next() else { return true };
    // Entries with the same identifier and other content are rejected already.
    let is_same = |other: &UserDraft| match (&first.source, &other.source) {
        (None, None) => input.has_only_names || first.content == other.content,
        (first, other) => first == other,
    };
    users.all(is_same)
}

/// Returns the identity of the only claimant whose existing User has the name, and this User.
fn holder<'a>(
    claim: &Claim,
    claimants: &Claimants,
    users: &'a [UserDraft],
    known: &'a KnownUsers,
) -> Option<(&'a str, &'a KnownUser)> {
    let mut holders = claimants.iter().filter_map(|(index, _)| {
        let source = users[*index].source.as_deref()?;
        Some((source, known.of(Some(source)).filter(|user| claim.is_of(user))?))
    });
    let first = holders.next()?;
    holders.all(|(source, _)| source == first.0).then_some(first)
}

/// Returns the names that a user claims, with the field of each and its text.
fn claims(person: &UserDraft, known: Option<&KnownUser>) -> BTreeMap<Claim, Fault> {
    let login = known.map_or_else(|| person.login(), |user| &user.username);
    let mut claims = BTreeMap::new();
    let mut add = |claim, field: &str, text: &str| {
        claims.entry(claim).or_insert_with(|| Fault { field: field.to_owned(), reason: text.to_owned() });
    };
    if login.is_empty() {
        return claims;
    }
    add(Claim::Login(fold(login)), "spec.username", login);
    for email in person.emails() {
        add(Claim::Login(fold(&email)), EMAIL, &email);
    }
    let derived = || known.map(|user| user.name.clone()).or_else(|| names::object_name(login));
    if let Some(name) = person.name.clone().or_else(derived) {
        add(Claim::Object(name.clone()), "metadata.name", &name);
    }
    claims
}

fn who(person: &UserDraft) -> &str {
    person.source.as_deref().unwrap_or_else(|| person.login())
}

/// Says that a name belongs to a person who was imported before.
fn held(text: &str, person: &UserDraft, source: &str, user: &KnownUser) -> String {
    format!(
        "{text} belongs to {source}, who was imported before as User {}, and this is {}: change it in the source",
        user.name,
        who(person)
    )
}

/// Says that several people claim a name. `count` is the number of the others.
fn shared<'a>(fault: &Fault, person: &UserDraft, others: impl Iterator<Item = &'a UserDraft>, count: usize) -> String {
    // A few are enough: with all of them, each of many users would list all others.
    let named: Vec<String> =
        others.take(MAX_NAMED).map(|other| format!("{} on line {}", who(other), other.place.line)).collect();
    let more = count.saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let consequence = if fault.field == EMAIL {
        "and is not imported for any of them: remove it from all but one in the source"
    } else {
        "and all of them are rejected: rename all but one in the source, or import only one part of it"
    };
    format!("{} belongs to {}, but also to {}{more}, {consequence}", fault.reason, who(person), named.join(", "))
}

#[cfg(test)]
#[path = "contested_tests.rs"]
mod tests;
