//! Existing Users that an import would let into a Group, or make administrators.
//!
//! A Group that accepts declared members takes in every User that names it in `spec.groups` or carries labels that it
//! selects. Anyone who may write Users could have prepared one before the import creates the Group. They could also have
//! created a User that the import names, with credentials of their own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use serde::Deserialize;
use serde_json::Value;

use super::assemble::{Item, Plan};
use super::draft::Place;
use super::rules::Kind;

/// Names that are kept for each Group. The others are counted.
const NAMED: usize = 10;

/// Groups of a plan, and the existing Users that they would accept.
pub struct Consent<'a> {
    groups: BTreeMap<&'a str, Opening<'a>>,
    /// Those of them that have a selector.
    selecting: BTreeSet<&'a str>,
    /// Groups that only the cluster has, if they select Users by labels.
    selecting_elsewhere: BTreeMap<String, Acceptance>,
    /// Groups whose `members` the plan adds a User to, by the User's name.
    listed: HashMap<&'a str, BTreeSet<&'a str>>,
    /// Users of the plan, by name.
    people: HashMap<&'a str, &'a Item>,
    promotions: Promotions,
}

/// A User of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct ExistingUser<'a> {
    /// `metadata.name`.
    pub name: &'a str,
    /// `metadata.labels`.
    pub labels: &'a BTreeMap<String, String>,
    /// `spec`.
    pub spec: &'a Value,
}

/// Existing Users that the plan gives further Groups or `spec.admin`.
///
/// It does not matter who wrote the User before. A field manager, a label or an annotation can be chosen by anyone who may
/// write Users, and an import applies Users that it gives nothing, too.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Promotions {
    /// The first of them.
    pub first: Vec<Promotion>,
    /// Number of all of them.
    pub count: usize,
}

/// One of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Promotion {
    /// Where the source says so.
    pub place: Place,
    /// Name of the User.
    pub user: String,
    /// Groups that it would newly be in.
    pub groups: Vec<String>,
    /// Whether it would newly have `spec.admin`.
    pub is_admin: bool,
}

impl fmt::Display for Promotion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gains = Vec::new();
        match &self.groups[..] {
            [] => {}
            [group] => gains.push(format!("put it into Group {group}")),
            [first @ .., last] => gains.push(format!("put it into the Groups {} and {last}", first.join(", "))),
        }
        if self.is_admin {
            gains.push("set spec.admin".to_owned());
        }
        let (user, gains) = (&self.user, gains.join(" and "));
        write!(f, "User {user} already exists, and this import would {gains}")
    }
}

/// Existing Users that a Group would accept and that the plan does not put into it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Admitted {
    /// Where the Group stands in the source.
    pub place: Place,
    /// Name of the Group.
    pub group: String,
    /// Names of the first of them.
    pub users: Vec<String>,
    /// Number of all of them.
    pub count: usize,
}

impl fmt::Display for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (group, count, users) = (&self.group, self.count, self.users.join(", "));
        let existing = if count == 1 { "User" } else { "Users" };
        write!(
            f,
            "Group {group} would accept {count} existing {existing} that this import does not put into it: {users}"
        )?;
        match count - self.users.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

struct Opening<'a> {
    item: &'a Item,
    before: Acceptance,
    after: Acceptance,
    admitted: Admitted,
}

impl Opening<'_> {
    /// Whether the Group accepts the User, with these labels and this `spec`, and did not before.
    fn opens_to(&self, user: &ExistingUser, labels: &BTreeMap<String, String>, spec: &Value) -> bool {
        let group = &self.item.name;
        self.after.takes(group, labels, spec) && !self.before.takes(group, user.labels, user.spec)
    }
}

/// Which declared members a Group accepts.
#[derive(Default)]
struct Acceptance {
    is_open: bool,
    selector: Option<Selector>,
}

impl Acceptance {
    fn of(spec: &Value) -> Self {
        let selector = LabelSelector::deserialize(&spec["memberSelector"]).ok();
        Self {
            is_open: spec["acceptDeclaredMembers"] == true,
            selector: selector.and_then(|selector| selector.try_into().ok()),
        }
    }

    fn takes(&self, group: &str, labels: &BTreeMap<String, String>, spec: &Value) -> bool {
        let selects = || self.selector.as_ref().is_some_and(|selector| selector.matches(labels));
        self.is_open && (names(spec, group) || selects())
    }
}

/// Whether a User's `spec` names the Group.
fn names(spec: &Value, group: &str) -> bool {
    spec["groups"].as_array().is_some_and(|groups| groups.iter().any(|name| name == group))
}

/// Users that a Group's `spec` lists in `members` or `memberships`.
fn members(spec: &Value) -> impl Iterator<Item = &str> {
    let items = |field: &str| spec[field].as_array().into_iter().flatten();
    let limited = items("memberships").map(|membership| &membership["user"]);
    items("members").chain(limited).filter_map(Value::as_str)
}

fn labels(object: &Value) -> BTreeMap<String, String> {
    BTreeMap::deserialize(&object["metadata"]["labels"]).unwrap_or_default()
}

impl<'a> Consent<'a> {
    /// What the plan says. Until [`Consent::existing_group`] says otherwise, none of its Groups exists.
    pub fn new(plan: &'a Plan) -> Self {
        let (groups, people): (Vec<_>, Vec<_>) = plan.items.iter().partition(|item| item.kind == Kind::Group);
        let groups: BTreeMap<&str, Opening> = groups
            .into_iter()
            .map(|item| {
                let admitted = Admitted { place: item.place, group: item.name.clone(), users: Vec::new(), count: 0 };
                let after = Acceptance::of(&item.object["spec"]);
                (&*item.name, Opening { item, before: Acceptance::default(), after, admitted })
            })
            .collect();
        let selecting = groups.iter().filter(|(_, opening)| opening.after.selector.is_some()).map(|(name, _)| *name);
        let mut listed: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        for (name, opening) in &groups {
            for member in members(&opening.item.object["spec"]) {
                listed.entry(member).or_default().insert(name);
            }
        }
        let people = people.into_iter().map(|item| (&*item.name, item)).collect();
        let (selecting, selecting_elsewhere) = (selecting.collect(), BTreeMap::new());
        Self { groups, selecting, selecting_elsewhere, listed, people, promotions: Promotions::default() }
    }

    /// Takes a Group of the cluster into account. Fields that the manifest does not name keep their values there.
    pub fn existing_group(&mut self, name: &str, spec: &Value) {
        let Some(opening) = self.groups.get_mut(name) else {
            let acceptance = Acceptance::of(spec);
            if acceptance.selector.is_some() {
                self.selecting_elsewhere.insert(name.to_owned(), acceptance);
            }
            return;
        };
        for member in members(spec) {
            if let Some(groups) = self.listed.get_mut(member) {
                groups.remove(name);
            }
        }
        let wanted = &opening.item.object["spec"];
        opening.before = Acceptance::of(spec);
        if wanted.get("acceptDeclaredMembers").is_none() {
            opening.after.is_open = opening.before.is_open;
        }
        if wanted.get("memberSelector").is_none() {
            opening.after.selector.clone_from(&opening.before.selector);
        }
        if opening.after.selector.is_some() {
            self.selecting.insert(&opening.item.name);
        }
    }

    /// Takes a User of the cluster into account. Call it after all Groups are known.
    pub fn existing_user(&mut self, user: &ExistingUser) {
        self.admit(user);
        self.promote(user);
    }

    /// Notes the Groups that would accept the User although the plan does not put it into them.
    fn admit(&mut self, user: &ExistingUser) {
        let planned = self.people.get(user.name).map(|item| &item.object);
        let named = user.spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for group in named.chain(self.selecting.iter().copied()).collect::<BTreeSet<_>>() {
            let Some(opening) = self.groups.get_mut(group) else { continue };
            let is_new = opening.opens_to(user, user.labels, user.spec);
            let is_planned = || planned.is_some_and(|user| opening.after.takes(group, &labels(user), &user["spec"]));
            if is_new && !is_planned() {
                opening.admitted.count += 1;
                if opening.admitted.users.len() < NAMED {
                    opening.admitted.users.push(user.name.to_owned());
                }
            }
        }
    }

    /// Notes what the plan gives to the User.
    fn promote(&mut self, user: &ExistingUser) {
        let planned = self.people.get(user.name).copied();
        let listed = self
            .listed
            .get(user.name)
            .into_iter()
            .chain(user.spec["username"].as_str().and_then(|name| self.listed.get(name)));
        let mut groups: BTreeSet<&str> = listed.flatten().copied().collect();
        if let Some(item) = planned {
            groups.extend(self.gained(user, &item.object));
        }
        let is_admin = planned.is_some_and(|item| item.object["spec"]["admin"] == true) && user.spec["admin"] != true;
        if groups.is_empty() && !is_admin {
            return;
        }
        let group = || groups.first().and_then(|group| self.groups.get(group)).map(|opening| opening.item);
        let Some(item) = planned.or_else(group) else { return };
        let groups = groups.into_iter().map(str::to_owned).collect();
        let promotion = Promotion { place: item.place, user: user.name.to_owned(), groups, is_admin };
        self.promotions.count += 1;
        if self.promotions.first.len() < NAMED {
            self.promotions.first.push(promotion);
        }
    }

    /// Groups that the manifest of an existing User newly names or that newly accept it.
    fn gained<'b>(&'b self, user: &'b ExistingUser, manifest: &'b Value) -> Vec<&'b str> {
        let mut labels = labels(manifest);
        for (key, value) in user.labels {
            labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let spec = if manifest["spec"].get("groups").is_some() { &manifest["spec"] } else { user.spec };
        let named = spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let named = named.filter(|group| {
            let opens = || self.groups.get(group).is_some_and(|opening| opening.opens_to(user, &labels, spec));
            !names(user.spec, group) || opens()
        });
        let selecting = self.selecting.iter().filter(|name| self.groups[*name].opens_to(user, &labels, spec));
        let elsewhere = self.selecting_elsewhere.iter().filter(|(name, acceptance)| {
            acceptance.takes(name, &labels, spec) && !acceptance.takes(name, user.labels, user.spec)
        });
        named.chain(selecting.copied()).chain(elsewhere.map(|(name, _)| &**name)).collect()
    }

    /// The Groups that would accept existing Users, by name, and the existing Users that would gain groups or roles.
    pub fn finish(self) -> (Vec<Admitted>, Promotions) {
        let admitted = self.groups.into_values().map(|opening| opening.admitted);
        (admitted.filter(|admitted| admitted.count > 0).collect(), self.promotions)
    }
}

#[cfg(test)]
#[path = "consent_tests.rs"]
mod tests;
