//! Finds planned Users that would have a name, username or email of another User of the cluster.
//!
//! RoleBindings and Groups refer to Users by `metadata.name` first and by username otherwise, and people log in with their
//! username or email. So a User that gets an identifier of another one takes over roles, or keeps the other one from
//! logging in.

use std::collections::{HashMap, HashSet};

use roster_credentials::claim::fold;
use serde_json::Value;

use super::assemble::{Item, Plan};
use super::control;
use super::existing::ExistingUser;
use super::rules::Kind;

/// An identifier of a planned User that another User has.
#[derive(Clone, Debug)]
pub(super) struct Shared<'a> {
    pub(super) item: &'a Item,
    /// Field of the planned User.
    pub(super) field: &'static str,
    /// Value of the field.
    pub(super) text: String,
    /// Name of the other User.
    pub(super) other: String,
    /// Field of the other User.
    pub(super) other_field: &'static str,
}

/// Identifiers of the planned Users, and those that other Users have.
pub(super) struct Identifiers<'a> {
    /// Planned Users by name.
    planned: HashMap<&'a str, &'a Item>,
    /// Planned Users by their case-folded names, usernames and emails.
    by_text: HashMap<String, Vec<(&'a Item, &'static str)>>,
    found: Vec<Shared<'a>>,
    /// Identifiers that Users of the plan have as long as they are not applied.
    kept: Vec<Shared<'a>>,
    /// Case-folded identifiers that planned Users have already, by name.
    had: HashMap<&'a str, HashSet<String>>,
}

/// Returns the identifiers of a User, with the field of each. A text occurs once.
fn identifiers(name: &str, spec: &Value) -> Vec<(&'static str, String)> {
    let more = spec["additionalEmails"].as_array().into_iter().flatten();
    let emails = more.map(|email| ("spec.additionalEmails", email));
    let fields = [("spec.username", &spec["username"]), ("spec.email", &spec["email"])].into_iter().chain(emails);
    let fields = fields.filter_map(|(field, value)| Some((field, value.as_str()?.to_owned())));
    let mut known = HashSet::new();
    let all = std::iter::once(("metadata.name", name.to_owned())).chain(fields);
    all.filter(|(_, text)| known.insert(fold(text))).collect()
}

impl<'a> Identifiers<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        let people = plan.items.iter().filter(|item| item.kind == Kind::User);
        let planned: HashMap<&str, &Item> = people.map(|item| (&*item.name, item)).collect();
        let mut by_text: HashMap<String, Vec<(&Item, &str)>> = HashMap::new();
        for item in planned.values() {
            for (field, text) in identifiers(&item.name, &item.object["spec"]) {
                by_text.entry(fold(&text)).or_default().push((item, field));
            }
        }
        Self { planned, by_text, found: Vec::new(), kept: Vec::new(), had: HashMap::new() }
    }

    /// Compares a User of the cluster with the planned ones.
    pub(super) fn existing(&mut self, user: &ExistingUser) {
        let planned = self.planned.get_key_value(user.name);
        if let Some((name, _)) = planned {
            let had = identifiers(user.name, user.spec).into_iter().map(|(_, text)| fold(&text));
            self.had.insert(name, had.collect());
        }
        // People can exchange emails in the source. What the plan removes from a User is free for others.
        let after = planned.map(|(_, item)| control::after(user.spec, &item.object["spec"], user.owned));
        let after_all = identifiers(user.name, after.as_ref().unwrap_or(user.spec));
        if planned.is_some() {
            let stays: HashSet<String> = after_all.iter().map(|(_, text)| fold(text)).collect();
            let given_up =
                identifiers(user.name, user.spec).into_iter().filter(|(_, text)| !stays.contains(&fold(text)));
            self.kept.extend(given_up.flat_map(|found| shared(&self.by_text, user.name, found)));
        }
        self.found.extend(after_all.into_iter().flat_map(|found| shared(&self.by_text, user.name, found)));
    }

    /// Returns what planned Users would newly have, and what they would have if others were not applied. What they have already
    /// is not the import's doing, and must not stop it.
    pub(super) fn finish(self) -> (Vec<Shared<'a>>, Vec<Shared<'a>>) {
        let has =
            |shared: &Shared| self.had.get(&*shared.item.name).is_some_and(|had| had.contains(&fold(&shared.text)));
        // The first one of each pair is enough.
        let new = |found: Vec<Shared<'a>>| {
            let mut pairs = HashSet::new();
            let is_new = |shared: &Shared<'a>| !has(shared) && pairs.insert((&*shared.item.name, shared.other.clone()));
            found.into_iter().filter(is_new).collect()
        };
        (new(self.found), new(self.kept))
    }
}

/// Returns the other Users of the plan that would have this identifier of a User.
fn shared<'a>(
    by_text: &HashMap<String, Vec<(&'a Item, &'static str)>>,
    user: &str,
    (other_field, text): (&'static str, String),
) -> Vec<Shared<'a>> {
    let others = by_text.get(&fold(&text)).into_iter().flatten().filter(|(item, _)| item.name != user);
    let of = |(item, field): &(&'a Item, &'static str)| Shared {
        item,
        field,
        text: text.clone(),
        other: user.to_owned(),
        other_field,
    };
    others.map(of).collect()
}
