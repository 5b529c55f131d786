//! Decides which items of a plan are not applied: those that conflict or lack consent, and those that would give more
//! without them than with them.
//!
//! An item that someone else can make conflict must not keep the others from being applied. But part of a plan must not grant
//! more than the whole. So without a Group, Users that would newly join it are not applied either: it may belong to someone
//! else. Without a User, Groups that would newly accept it as it is now are not applied. Members that a Group has already
//! keep their place, and the rest of their items is applied.

use std::collections::{HashMap, HashSet};

use super::assemble::Item;
use super::conflict::{Conflict, Conflicting};
use super::findings::Findings;
use super::rules::Kind;
use super::ties::Ties;

/// Items of a plan that are not applied.
#[derive(Default)]
pub struct Held<'a> {
    ties: Ties<'a>,
    /// Users that newly name a Group, by its name. `None` as long as nothing is held.
    joining: Option<HashMap<&'a str, Vec<&'a str>>>,
    /// Groups that newly nest a Group, by its name.
    parents: HashMap<&'a str, Vec<&'a str>>,
    /// Groups that nest a Group now, by its name.
    nesting: HashMap<String, Vec<String>>,
    /// Conflicts that exist only if a User is not applied, by its name.
    without: HashMap<String, Vec<Conflict>>,
    /// Why each item is held, unless it is because of a finding or conflict of its own.
    items: HashMap<(Kind, String), Option<String>>,
    /// Groups that nothing may newly join.
    closed: HashSet<String>,
    /// Groups whose members are members of a Group that is held, and would not be if it were applied.
    exposed: HashSet<String>,
    /// Whether all Groups that are not held have been sent to the server.
    has_applied_groups: bool,
    /// Items whose consequences are not known yet.
    queue: Vec<(Kind, String)>,
}

impl<'a> Held<'a> {
    /// Holds the items that conflict or lack consent, and what depends on them.
    pub fn new(findings: Findings<'a>, conflicting: Conflicting) -> Self {
        let Findings { admitted, present, promotions, administrators, ties } = findings;
        let Conflicting { conflicts, if_held } = conflicting;
        let mut held = Self { ties, without: if_held, ..Self::default() };
        for conflict in &conflicts {
            let (kind, name) = conflict.held();
            held.hold(kind, name, None);
        }
        let groups = admitted.iter().map(|item| &item.group).chain(present.iter().map(|item| &item.group));
        for group in groups {
            held.hold(Kind::Group, group, None);
        }
        for user in promotions.users.iter().chain(administrators.iter().map(|item| &item.user)) {
            held.hold(Kind::User, user, None);
        }
        held.settle();
        held
    }

    /// Holds what depends on a Group that could not be created. Call this after the other Groups have been applied.
    pub fn add_group(&mut self, name: &str) {
        self.has_applied_groups = true;
        self.hold(Kind::Group, name, None);
        self.settle();
    }

    /// Holds what would gain more because an existing Group could not be changed: it still has nested Groups and a selector that
    /// the plan removes. What the plan adds to it joins nevertheless. Call this after the other Groups have been applied.
    pub fn keep_group(&mut self, name: &str) {
        self.has_applied_groups = true;
        self.index();
        for user in self.ties.replaced.remove(name).into_iter().flatten() {
            let reason = format!("it would join Group {name}, which is not applied");
            self.hold(Kind::User, user, Some(reason));
        }
        for nested in self.ties.dropped.remove(name).into_iter().flatten() {
            self.expose(nested, name);
        }
        self.settle();
    }

    /// Returns whether an item is held.
    pub fn contains(&self, item: &Item) -> bool {
        self.items.contains_key(&(item.kind, item.name.clone()))
    }

    /// Returns why an item is held, if it is because of others.
    pub fn reason(&self, item: &Item) -> Option<&str> {
        self.items.get(&(item.kind, item.name.clone()))?.as_deref()
    }

    fn hold(&mut self, kind: Kind, name: &str, reason: Option<String>) {
        let key = (kind, name.to_owned());
        if !self.items.contains_key(&key) {
            self.items.insert(key.clone(), reason);
            self.queue.push(key);
        }
    }

    /// Finds out what joins each Group, unless it is known already.
    fn index(&mut self) {
        if self.joining.is_none() {
            self.joining = Some(self.ties.joining(Kind::User));
            self.parents = self.ties.joining(Kind::Group);
            self.nesting = self.ties.nesting();
        }
    }

    fn settle(&mut self) {
        if !self.queue.is_empty() {
            self.index();
        }
        while let Some((kind, name)) = self.queue.pop() {
            match kind {
                Kind::User => self.without_user(&name),
                Kind::Group => self.without_group(&name),
            }
        }
    }

    fn without_user(&mut self, name: &str) {
        for group in self.ties.joined.remove(name).into_iter().flatten() {
            let reason = format!("it would accept User {name}, which is not applied");
            self.hold(Kind::Group, group, Some(reason));
        }
        for conflict in self.without.remove(name).into_iter().flatten() {
            let (kind, held) = conflict.held();
            self.hold(kind, held, Some(conflict.to_string()));
        }
    }

    fn without_group(&mut self, name: &str) {
        self.close(name, "which is not applied");
        if !self.has_applied_groups {
            self.hold_parents(name);
        }
        for nested in self.ties.dropped.remove(name).into_iter().flatten() {
            self.expose(nested, name);
        }
    }

    /// Holds the Groups that would newly nest a Group, or one that nests it now, directly or through others.
    fn hold_parents(&mut self, name: &str) {
        let (mut found, mut known) = (vec![name.to_owned()], HashSet::new());
        while let Some(nested) = found.pop() {
            for parent in self.parents.remove(&*nested).into_iter().flatten() {
                let reason = format!("it would nest Group {name}, which is not applied");
                self.hold(Kind::Group, parent, Some(reason));
            }
            let above = self.nesting.get(&nested).into_iter().flatten().cloned();
            found.extend(above.filter(|parent| known.insert(parent.clone())));
        }
    }

    /// Holds what would newly join a Group.
    fn close(&mut self, name: &str, why: &str) {
        if !self.closed.insert(name.to_owned()) {
            return;
        }
        let named = self.joining.as_mut().and_then(|joining| joining.remove(name)).unwrap_or_default();
        let selected = self.ties.selected.remove(name).unwrap_or_default();
        for user in named.into_iter().chain(selected) {
            let reason = format!("it would join Group {name}, {why}");
            self.hold(Kind::User, user, Some(reason));
        }
    }

    /// Holds what would newly join a Group or one that is nested in it, because its members would also be those of a Group that
    /// is not applied.
    fn expose(&mut self, nested: String, parent: &str) {
        let mut found = vec![nested];
        while let Some(name) = found.pop() {
            if !self.exposed.insert(name.clone()) {
                continue;
            }
            let why = format!("is still nested in Group {parent}, which is not applied");
            self.close(&name, &format!("which {why}"));
            if self.ties.widened.contains(&*name) && !self.has_applied_groups {
                self.hold(Kind::Group, &name, Some(format!("it {why}")));
            }
            found.extend(self.ties.nested.get(&name).into_iter().flatten().cloned());
        }
    }
}

#[cfg(test)]
#[path = "held_tests.rs"]
mod tests;
