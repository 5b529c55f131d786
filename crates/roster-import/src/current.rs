//! What exists in the cluster and an import must not take away.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::control;
use super::draft::Input;
use super::membership::names;
use super::restriction::foreign;
use super::{naming, paths};

/// What existing Users and Groups have that the import must not take away, by the name of the object.
#[derive(Clone, Debug, Default)]
pub struct Current {
    /// Names in `spec.groups`.
    users: HashMap<String, Vec<String>>,
    /// Users whose `spec.groups` imports own.
    own_groups: HashSet<String>,
    /// Names in `spec.memberGroups`.
    groups: HashMap<String, Vec<String>>,
    /// Groups that accept declared members because an import said so.
    accepting: HashSet<String>,
    /// Fields of `spec` that restrict a User and that no import has set.
    restrictions: HashMap<String, Map<String, Value>>,
    /// The fields of `spec` in [`Options::without`](super::assemble::Options::without) that imports applied to a User.
    omitted: HashMap<String, Map<String, Value>>,
    /// Fields of `spec` that restrict a User and that imports have set.
    imported_restrictions: HashMap<String, Map<String, Value>>,
}

impl Current {
    /// Returns whether existing memberships must be known, because Users and Groups keep some of them: the source leaves them
    /// unclear, or has a group that gets no name.
    pub fn needs_memberships(input: &Input) -> bool {
        input.is_unclear() || naming::has_unusable(input)
    }

    /// Adds an existing User. `owned` contains the fields of `spec` that imports applied, in the notation of
    /// `managedFields`.
    pub fn add_user(&mut self, name: &str, spec: &Value, owned: &Value) {
        add(&mut self.users, name, &spec["groups"]);
        if control::owns(owned, "groups") {
            self.own_groups.insert(name.to_owned());
        }
    }

    /// Adds an existing Group.
    pub fn add_group(&mut self, name: &str, spec: &Value) {
        add(&mut self.groups, name, &spec["memberGroups"]);
    }

    /// Adds whether an existing Group accepts declared members. `owned` contains the fields of `spec` that imports applied, in
    /// the notation of `managedFields`.
    pub fn add_acceptance(&mut self, name: &str, spec: &Value, owned: &Value) {
        if spec["acceptDeclaredMembers"] == true && !owned["f:acceptDeclaredMembers"].is_null() {
            self.accepting.insert(name.to_owned());
        }
    }

    /// Adds the restrictions of an existing User. `owned` contains the fields that imports applied, in the notation of
    /// `managedFields`.
    pub fn add_restrictions(&mut self, name: &str, spec: &Value, owned: &Value) {
        let fields = foreign(spec, owned);
        if !fields.is_empty() {
            self.restrictions.insert(name.to_owned(), fields);
        }
    }

    /// Adds the fields of an existing User that this import omits. `applied` contains the fields of `spec` that imports applied,
    /// with their current values.
    pub fn add_omitted(&mut self, name: &str, applied: &Value, without: &[String]) {
        let mut fields = Map::new();
        for path in without {
            paths::copy(applied, path, &mut fields);
        }
        if !fields.is_empty() {
            self.omitted.insert(name.to_owned(), fields);
        }
    }

    /// Adds the omitted fields to a manifest, because server-side apply would otherwise remove them from the User.
    pub(super) fn keep_omitted(&self, name: &str, spec: &mut Map<String, Value>) {
        if let Some(fields) = self.omitted.get(name) {
            paths::add_missing(spec, fields);
        }
    }

    /// Adds the restrictions of an existing User that imports have set. `applied` contains the fields of `spec` that imports
    /// applied, with their current values.
    pub fn add_imported_restrictions(&mut self, name: &str, applied: &Value) {
        let fields = foreign(applied, &Value::Null);
        if !fields.is_empty() {
            self.imported_restrictions.insert(name.to_owned(), fields);
        }
    }

    pub(super) fn imported_restrictions(&self, name: &str) -> Option<&Map<String, Value>> {
        self.imported_restrictions.get(name)
    }

    pub(super) fn restrictions(&self, name: &str) -> Option<&Map<String, Value>> {
        self.restrictions.get(name)
    }

    pub(super) fn of_user(&self, name: &str) -> &[String] {
        self.users.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn owns_groups(&self, user: &str) -> bool {
        self.own_groups.contains(user)
    }

    pub(super) fn accepts(&self, group: &str) -> bool {
        self.accepting.contains(group)
    }

    pub(super) fn of_group(&self, name: &str) -> &[String] {
        self.groups.get(name).map(Vec::as_slice).unwrap_or_default()
    }
}

fn add(all: &mut HashMap<String, Vec<String>>, name: &str, list: &Value) {
    let names: Vec<String> = names(list).map(str::to_owned).collect();
    if !names.is_empty() {
        all.insert(name.to_owned(), names);
    }
}
