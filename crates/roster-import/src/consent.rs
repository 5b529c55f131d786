//! Detects existing Users that an import would add to a Group, make administrators or hand over to someone else, and new
//! Users that it would make administrators.
//!
//! If a Group accepts declared members, every User that names it in `spec.groups` or has labels that it selects becomes
//! a member. Anyone who may write Users could have created such a User before the import creates the Group. They could
//! also have created a User with the name of an imported one, with credentials that only they know.
//!
//! The reverse is possible, too: anyone who may register in the source can choose the name of an existing User, which
//! holds roles, and would get it with a password of their own. So only the User that was imported from the same identity
//! gets further credentials.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use roster_api::SOURCE_ID_ANNOTATION;
use serde_json::{Value, json};

use super::acceptance::{Acceptance, labels, members, names};
use super::accepted::Accepted;
use super::assemble::{Item, Plan};
use super::control;
use super::existing::{ExistingGroup, ExistingUser};
use super::findings::{Administrator, Admitted, Findings, MAX_NAMED, Present, Promotion, Promotions};
use super::membership;
use super::rules::Kind;
use super::ties::Ties;

/// Groups of a plan, and the existing Users that they would accept.
pub struct Consent<'a> {
    groups: BTreeMap<&'a str, PlannedGroup<'a>>,
    /// Groups of the plan that have a selector.
    selecting: BTreeSet<&'a str>,
    /// Groups that are not in the plan, exist in the cluster, and have a selector.
    selecting_elsewhere: BTreeMap<String, Acceptance>,
    /// Groups of the plan that newly list a User in `members` or `memberships`, by the name or username in the list.
    listed: HashMap<&'a str, BTreeSet<&'a str>>,
    /// Groups of the plan that no import has applied and that list a User now, by the name or username in the list.
    planted: HashMap<String, BTreeSet<&'a str>>,
    /// Users of the plan, by name.
    people: HashMap<&'a str, &'a Item>,
    promotions: Promotions,
    present: Vec<Present>,
    ties: Ties<'a>,
    /// Users that may gain something.
    accepted: Accepted,
    /// Users that may be created as administrators.
    administrators: Accepted,
    /// Whether the import takes over fields of other field managers.
    takes_over: bool,
}

struct PlannedGroup<'a> {
    item: &'a Item,
    /// Whom the Group accepts now.
    live: Acceptance,
    /// The same, if an import has made it accept them. Otherwise, someone else has chosen its members.
    before: Acceptance,
    after: Acceptance,
    admitted: Admitted,
}

impl PlannedGroup<'_> {
    /// Returns whether the Group would accept the User with these labels and this `spec`, and does not accept it yet.
    fn newly_accepts(&self, user: &ExistingUser, labels: &BTreeMap<String, String>, spec: &Value) -> bool {
        let group = &self.item.name;
        self.after.accepts(group, labels, spec) && !self.before.accepts(group, user.labels, user.spec)
    }
}

/// Returns whether an import has decided whom the Group accepts. Otherwise, someone may have created it, with members of their
/// choice, before the first import.
fn is_imported(wanted: &Value, owned: &Value) -> bool {
    !owned.is_null() && (wanted["acceptDeclaredMembers"] != true || control::owns(owned, "acceptDeclaredMembers"))
}

/// Returns the labels of a User after its manifest is applied.
fn merged_labels(user: &ExistingUser, manifest: &Value) -> BTreeMap<String, String> {
    let mut merged = user.labels.clone();
    merged.extend(labels(manifest));
    merged
}

impl<'a> Consent<'a> {
    /// Indexes the plan. A Group counts as new until it is passed to [`Consent::existing_group`].
    pub fn new(plan: &'a Plan) -> Self {
        let (groups, people): (Vec<_>, Vec<_>) = plan.items.iter().partition(|item| item.kind == Kind::Group);
        let groups: BTreeMap<&str, PlannedGroup> = groups
            .into_iter()
            .map(|item| {
                let admitted = Admitted { place: item.place, group: item.name.clone(), users: Vec::new(), count: 0 };
                let after = Acceptance::of(&item.object["spec"]);
                (
                    &*item.name,
                    PlannedGroup { item, live: Acceptance::default(), before: Acceptance::default(), after, admitted },
                )
            })
            .collect();
        let selecting =
            groups.iter().filter(|(_, planned_group)| planned_group.after.selector.is_some()).map(|(name, _)| *name);
        let mut listed: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        for (name, planned_group) in &groups {
            for member in members(&planned_group.item.object["spec"]) {
                listed.entry(member).or_default().insert(name);
            }
        }
        let people = people.into_iter().map(|item| (&*item.name, item)).collect();
        let (selecting, selecting_elsewhere) = (selecting.collect(), BTreeMap::new());
        let (promotions, ties, takes_over) = (Promotions::default(), Ties::new(plan), false);
        let (accepted, administrators, present, planted) = Default::default();
        Self {
            groups,
            selecting,
            selecting_elsewhere,
            listed,
            planted,
            people,
            promotions,
            present,
            ties,
            accepted,
            administrators,
            takes_over,
        }
    }

    /// Sets which Users may gain something, and which may be created as administrators.
    #[must_use]
    pub fn accepting(self, accepted: Accepted, administrators: Accepted) -> Self {
        Self { accepted, administrators, ..self }
    }

    /// Sets whether the import takes over fields of other field managers.
    #[must_use]
    pub fn taking_over(self, takes_over: bool) -> Self {
        Self { takes_over, ..self }
    }

    /// Adds a Group of the cluster. Fields that the manifest does not set keep their existing values.
    pub fn existing_group(&mut self, group: &ExistingGroup) {
        let ExistingGroup { name, spec, owned } = *group;
        self.ties.existing_group(group);
        let Some(planned_group) = self.groups.get_mut(name) else {
            let acceptance = Acceptance::of(spec);
            if acceptance.selector.is_some() {
                self.selecting_elsewhere.insert(name.to_owned(), acceptance);
            }
            return;
        };
        let wanted = &planned_group.item.object["spec"];
        planned_group.live = Acceptance::of(spec);
        if wanted.get("acceptDeclaredMembers").is_none() {
            planned_group.after.accepts_declared = planned_group.live.accepts_declared;
        }
        if wanted.get("memberSelector").is_none() {
            planned_group.after.selector.clone_from(&planned_group.live.selector);
        }
        if is_imported(wanted, owned) {
            planned_group.before = planned_group.live.clone();
            for member in members(spec) {
                if let Some(groups) = self.listed.get_mut(member) {
                    groups.remove(name);
                }
            }
        } else {
            let (place, group) = (planned_group.item.place, planned_group.item.name.as_str());
            for member in members(spec) {
                self.planted.entry(member.to_owned()).or_default().insert(group);
            }
            let members = self.present(group, wanted, spec);
            let count = members.len();
            let members: Vec<String> = members.into_iter().take(MAX_NAMED).collect();
            self.present.extend((count > 0).then(|| Present { place, group: group.to_owned(), members, count }));
        }
        let planned_group = &self.groups[name];
        if planned_group.after.selector.is_some() {
            self.selecting.insert(&planned_group.item.name);
        }
    }

    /// Returns the members that an existing Group lists and keeps, each with its kind, and that the plan does not add to it.
    fn present(&self, group: &str, wanted: &Value, spec: &Value) -> Vec<String> {
        let kept = |field: &str| if wanted.get(field).is_none() { spec[field].clone() } else { Value::Null };
        let kept = json!({"members": kept("members"), "memberships": kept("memberships"), "memberGroups": kept("memberGroups")});
        let listed: BTreeSet<&str> = members(&kept).filter(|member| !self.accepted.contains(member)).collect();
        let joins = |item: &Item| names(&item.object["spec"], group);
        // People are named by their names or usernames.
        let joining = self.people.values().filter(|item| !listed.is_empty() && joins(item));
        let by_username: BTreeSet<&str> = joining.filter_map(|item| item.object["spec"]["username"].as_str()).collect();
        let is_planned =
            |user: &str| by_username.contains(user) || self.people.get(user).is_some_and(|item| joins(item));
        let users = listed.into_iter().filter(|user| !is_planned(user)).map(|user| format!("User {user}"));
        let nested = membership::names(&kept["memberGroups"]).filter(|_| !self.accepted.is_all());
        users.chain(nested.map(|nested| format!("Group {nested}"))).collect()
    }

    /// Checks a User of the cluster. Call this after all existing Groups have been added.
    pub fn existing_user(&mut self, user: &ExistingUser) {
        self.tie(user);
        if !self.accepted.contains(user.name) {
            self.admit(user);
            self.promote(user);
        }
    }

    /// Records what must not be applied if the User is not.
    fn tie(&mut self, user: &ExistingUser) {
        let planned = self.people.get(user.name).copied();
        let mut joined = self.listing(user.name, user.spec["username"].as_str());
        let named = user.spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for group in named.chain(self.selecting.iter().copied()).filter(|_| planned.is_some()) {
            let group = self.groups.get(group).filter(|group| group.newly_accepts(user, user.labels, user.spec));
            joined.extend(group.map(|group| &*group.item.name));
        }
        self.ties.existing_user(user, planned, joined);
        if let Some(item) = planned.filter(|_| !self.selecting.is_empty()) {
            let labels = merged_labels(user, &item.object);
            self.select(item, &labels, Some(user));
        }
    }

    /// Records which Groups would select a User of the plan as they are now, and do not accept it yet.
    fn select(&mut self, item: &'a Item, labels: &BTreeMap<String, String>, user: Option<&ExistingUser>) {
        for name in &self.selecting {
            let PlannedGroup { live, after, .. } = &self.groups[name];
            let is_member = user.is_some_and(|user| live.accepts(name, user.labels, user.spec));
            if live.selects(labels) && !is_member {
                self.ties.select(name, &item.name, after.accepts(name, labels, &item.object["spec"]));
            }
        }
    }

    /// Returns the Groups that newly list a User.
    fn newly_listing(&self, name: &str, username: Option<&str>) -> BTreeSet<&'a str> {
        let names = std::iter::once(name).chain(username);
        names.filter_map(|name| self.listed.get(name)).flatten().copied().collect()
    }

    /// Returns the Groups that newly list a User, or list it now although no import has applied them.
    fn listing(&self, name: &str, username: Option<&str>) -> BTreeSet<&'a str> {
        let planted =
            std::iter::once(name).chain(username).filter_map(|name| self.planted.get(name)).flatten().copied();
        self.newly_listing(name, username).into_iter().chain(planted).collect()
    }

    /// Records the Groups that would accept the User although the plan does not add it to them.
    fn admit(&mut self, user: &ExistingUser) {
        let planned = self.people.get(user.name).map(|item| &item.object);
        let named = user.spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for group in named.chain(self.selecting.iter().copied()).collect::<BTreeSet<_>>() {
            let Some(planned_group) = self.groups.get_mut(group) else { continue };
            let is_new = planned_group.newly_accepts(user, user.labels, user.spec);
            let is_planned =
                || planned.is_some_and(|user| planned_group.after.accepts(group, &labels(user), &user["spec"]));
            if is_new && !is_planned() {
                planned_group.admitted.count += 1;
                if planned_group.admitted.users.len() < MAX_NAMED {
                    planned_group.admitted.users.push(user.name.to_owned());
                }
            }
        }
    }

    /// Records what the plan would newly give to the User, and to whom it would give control of the User.
    fn promote(&mut self, user: &ExistingUser) {
        let planned = self.people.get(user.name).copied();
        let mut groups: BTreeSet<&str> = self.newly_listing(user.name, user.spec["username"].as_str());
        if let Some(item) = planned {
            groups.extend(self.gained(user, &item.object));
        }
        let is_admin = planned.is_some_and(|item| item.object["spec"]["admin"] == true) && user.spec["admin"] != true;
        let handover = planned.map(|item| handover(user, &item.object, self.takes_over)).unwrap_or_default();
        if groups.is_empty() && !is_admin && handover == Promotion::default() {
            return;
        }
        let group = || groups.first().and_then(|group| self.groups.get(group)).map(|planned_group| planned_group.item);
        let Some(item) = planned.or_else(group) else { return };
        let groups = groups.into_iter().map(str::to_owned).collect();
        let is_imported = !user.owned.is_null();
        let promotion =
            Promotion { place: item.place, user: user.name.to_owned(), groups, is_admin, is_imported, ..handover };
        self.promotions.add(promotion);
    }

    /// Returns the Groups that the manifest of an existing User newly names, or that would newly accept the User.
    fn gained<'b>(&'b self, user: &'b ExistingUser, manifest: &'b Value) -> Vec<&'b str> {
        let labels = merged_labels(user, manifest);
        let spec = if manifest["spec"].get("groups").is_some() { &manifest["spec"] } else { user.spec };
        let named = spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let named = named.filter(|group| {
            let is_gained =
                || self.groups.get(group).is_some_and(|planned_group| planned_group.newly_accepts(user, &labels, spec));
            !names(user.spec, group) || is_gained()
        });
        let selecting = self.selecting.iter().filter(|name| self.groups[*name].newly_accepts(user, &labels, spec));
        let elsewhere = self.selecting_elsewhere.iter().filter(|(name, acceptance)| {
            acceptance.accepts(name, &labels, spec) && !acceptance.accepts(name, user.labels, user.spec)
        });
        named.chain(selecting.copied()).chain(elsewhere.map(|(name, _)| &**name)).collect()
    }

    /// Returns what requires consent.
    pub fn finish(mut self) -> Findings<'a> {
        let mut administrators = Vec::new();
        for item in self.people.values().copied().filter(|item| !self.ties.exists(item)).collect::<Vec<_>>() {
            let spec = &item.object["spec"];
            if spec["admin"] == true && !self.administrators.contains(&item.name) {
                administrators.push(Administrator { place: item.place, user: item.name.clone() });
            }
            let listing = self.listing(&item.name, spec["username"].as_str());
            self.ties.join(&item.name, listing);
            if !self.selecting.is_empty() {
                self.select(item, &labels(&item.object), None);
            }
        }
        administrators.sort_by_key(|administrator| administrator.place);
        let admitted = self.groups.into_values().map(|planned_group| planned_group.admitted);
        Findings {
            admitted: admitted.filter(|admitted| admitted.count > 0).collect(),
            present: self.present,
            promotions: self.promotions,
            administrators,
            ties: self.ties,
        }
    }
}

/// Returns whether a User of the plan has a password or other fields that would give someone control of an existing
/// User.
pub fn gives_control(item: &Item) -> bool {
    item.secret.is_some() || !control::changed(&item.name, &Value::Null, &item.object["spec"], &Value::Null).is_empty()
}

/// Returns what gives control of an existing User to the person in the source. That person has control already if the
/// User was imported from the same identity, and then may change what earlier imports have set.
fn handover(user: &ExistingUser, manifest: &Value, takes_over: bool) -> Promotion {
    let source = manifest["metadata"]["annotations"][SOURCE_ID_ANNOTATION].as_str();
    let is_same = source.is_some() && source == user.source;
    let may_change = |field: &str| is_same && control::owns(user.owned, field);
    let mut fields = control::changed(user.name, user.spec, &manifest["spec"], user.owned);
    // The server rejects the whole manifest, which is reported for this User alone.
    let cannot_change =
        |field: &str| is_same && !takes_over && control::conflicts(user.spec, &manifest["spec"], user.owned, field);
    fields.retain(|field| !may_change(field) && !cannot_change(field));
    Promotion {
        gets_password: user.gets_password && !may_change("passwordSecretRef"),
        fields,
        source: source.filter(|_| !is_same).map(str::to_owned),
        ..Promotion::default()
    }
}

#[cfg(test)]
#[path = "consent_tests.rs"]
mod tests;
