//! How the items of a plan depend on each other: what an item that is not applied would make of the others.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::acceptance::members;
use super::assemble::{Item, Plan};
use super::control::owns;
use super::existing::{ExistingGroup, ExistingUser};
use super::membership::names;
use super::rules::Kind;

/// Dependencies between the items of a plan.
#[derive(Debug, Default)]
pub struct Ties<'a> {
    items: HashMap<(Kind, &'a str), &'a Item>,
    /// Groups that the manifests of existing Users and Groups name, and the objects do not name yet.
    gained: HashMap<(Kind, &'a str), Vec<&'a str>>,
    /// Groups of which a User would become a member even if the import did not change the User, by its name.
    pub(super) joined: HashMap<String, BTreeSet<&'a str>>,
    /// Users that a Group would newly select as it is now, because of labels in the plan, by the name of the Group.
    pub(super) selected: HashMap<&'a str, Vec<&'a str>>,
    /// Those of them that the Group would not accept if the plan were applied as a whole.
    pub(super) replaced: HashMap<&'a str, Vec<&'a str>>,
    /// Nested Groups of each existing Group.
    pub(super) nested: HashMap<String, Vec<String>>,
    /// Nested Groups that the plan removes from a Group.
    pub(super) dropped: HashMap<&'a str, Vec<String>>,
    /// Groups that would get further members, or accept others than now.
    pub(super) widened: HashSet<&'a str>,
}

impl<'a> Ties<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        let items: HashMap<_, _> = plan.items.iter().map(|item| ((item.kind, &*item.name), item)).collect();
        let groups = items.values().filter(|item| item.kind == Kind::Group);
        let widened = groups.map(|item| &*item.name).collect();
        Self { items, widened, ..Self::default() }
    }

    /// Returns whether the object of an item exists.
    pub(super) fn exists(&self, item: &Item) -> bool {
        self.gained.contains_key(&(item.kind, &*item.name))
    }

    /// Adds an existing Group.
    pub(super) fn existing_group(&mut self, group: &ExistingGroup) {
        let ExistingGroup { name, spec, owned } = *group;
        let nested: Vec<String> = names(&spec["memberGroups"]).map(str::to_owned).collect();
        if let Some(item) = self.items.get(&(Kind::Group, name)).copied() {
            let name = item.name.as_str();
            let wanted = &item.object["spec"];
            let gained = new_names(&wanted["memberGroups"], &spec["memberGroups"]);
            if wanted.get("memberGroups").is_some() || owns(owned, "memberGroups") {
                let stays: HashSet<&str> = names(&wanted["memberGroups"]).collect();
                let dropped = nested.iter().filter(|nested| !stays.contains(nested.as_str()));
                self.dropped.insert(name, dropped.cloned().collect());
            }
            let known: HashSet<&str> = members(spec).collect();
            let changes = |field: &str| wanted.get(field).is_some_and(|value| *value != spec[field]);
            let accepts = ["acceptDeclaredMembers", "memberSelector"].into_iter().any(changes);
            if gained.is_empty() && !accepts && members(wanted).all(|member| known.contains(member)) {
                self.widened.remove(name);
            }
            self.gained.insert((Kind::Group, name), gained);
        }
        if !nested.is_empty() {
            self.nested.insert(name.to_owned(), nested);
        }
    }

    /// Adds an existing User, its item, and the Groups that it would join without the item.
    pub(super) fn existing_user(&mut self, user: &ExistingUser, item: Option<&'a Item>, joined: BTreeSet<&'a str>) {
        if let Some(item) = item {
            let gained = new_names(&item.object["spec"]["groups"], &user.spec["groups"]);
            self.gained.insert((Kind::User, &item.name), gained);
        }
        self.join(user.name, joined);
    }

    /// Adds the Groups that list a User, or would select it as they are now.
    pub(super) fn join(&mut self, name: &str, joined: BTreeSet<&'a str>) {
        if !joined.is_empty() {
            self.joined.insert(name.to_owned(), joined);
        }
    }

    /// Adds a User of the plan that a Group would newly select as it is now, and whether it would accept the User if the plan
    /// were applied as a whole.
    pub(super) fn select(&mut self, group: &'a str, user: &'a str, is_planned: bool) {
        self.selected.entry(group).or_default().push(user);
        if !is_planned {
            self.replaced.entry(group).or_default().push(user);
        }
    }

    /// Returns the existing Groups that nest each Group now.
    pub(super) fn nesting(&self) -> HashMap<String, Vec<String>> {
        let mut nesting: HashMap<String, Vec<String>> = HashMap::new();
        for (parent, nested) in &self.nested {
            for name in nested {
                nesting.entry(name.clone()).or_default().push(parent.clone());
            }
        }
        nesting
    }

    /// Returns the Users that newly name each Group (with the kind User), or the Groups that newly nest it (with the kind Group).
    pub(super) fn joining(&self, kind: Kind) -> HashMap<&'a str, Vec<&'a str>> {
        let mut joining: HashMap<&str, Vec<&str>> = HashMap::new();
        let field = if kind == Kind::User { "groups" } else { "memberGroups" };
        for ((_, name), item) in self.items.iter().filter(|(_, item)| item.kind == kind) {
            let all = || names(&item.object["spec"][field]).collect();
            for group in self.gained.get(&(kind, *name)).cloned().unwrap_or_else(all) {
                joining.entry(group).or_default().push(name);
            }
        }
        joining
    }
}

/// Returns the names in a list that another list does not contain.
fn new_names<'a>(list: &'a Value, known: &Value) -> Vec<&'a str> {
    let known: HashSet<&str> = names(known).collect();
    names(list).filter(|name| !known.contains(name)).collect()
}
