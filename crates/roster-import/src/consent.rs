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

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use roster_api::SOURCE_ID_ANNOTATION;
use serde::Deserialize;
use serde_json::Value;

use super::assemble::{Item, Plan};
use super::control;
use super::draft::Place;
use super::rules::Kind;

/// Maximum number of Users that are reported by name, for each Group and, in total, for promotions. Further ones are
/// only counted.
const MAX_NAMED: usize = 10;

/// Groups of a plan, and the existing Users that they would accept.
pub struct Consent<'a> {
    groups: BTreeMap<&'a str, PlannedGroup<'a>>,
    /// Groups of the plan that have a selector.
    selecting: BTreeSet<&'a str>,
    /// Groups that are not in the plan, exist in the cluster, and have a selector.
    selecting_elsewhere: BTreeMap<String, Acceptance>,
    /// Groups of the plan that newly list a User in `members` or `memberships`, by the name or username in the list.
    listed: HashMap<&'a str, BTreeSet<&'a str>>,
    /// Users of the plan, by name.
    people: HashMap<&'a str, &'a Item>,
    /// Names of the Users of the plan that exist.
    existing: HashSet<&'a str>,
    promotions: Promotions,
    /// Whether the import takes over fields of other field managers.
    takes_over: bool,
}

/// What an import must not do without consent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Findings {
    /// Groups that would accept existing Users, sorted by name.
    pub admitted: Vec<Admitted>,
    /// Existing Users that would gain something or change hands.
    pub promotions: Promotions,
    /// Users that do not exist yet and would be administrators.
    pub administrators: Vec<Administrator>,
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
    /// Value of the annotation [`SOURCE_ID_ANNOTATION`].
    pub source: Option<&'a str>,
    /// Fields of `spec` that earlier imports applied, in the notation of `managedFields`. JSON null if no import has applied the User.
    pub owned: &'a Value,
    /// Whether the plan has a password Secret for the User that does not exist or has other content.
    pub gets_password: bool,
}

/// Existing Users that the plan adds to Groups, makes administrators or hands over.
///
/// It does not matter who created the User. Field managers, labels and annotations prove nothing, because anyone who
/// may write Users can choose them. Nor does an earlier import of the User: if it granted nothing, it needed no
/// consent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Promotions {
    /// The first ones, at most `MAX_NAMED`. Users that no import has written come first, because they are the likely
    /// victims if many Users of earlier imports are among them.
    pub first: Vec<Promotion>,
    /// Total number.
    pub count: usize,
}

/// An existing User that the plan adds to Groups, makes an administrator or hands over.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Promotion {
    /// Position of the User or Group in the source.
    pub place: Place,
    /// Name of the User.
    pub user: String,
    /// Groups of which the User would become a member.
    pub groups: Vec<String>,
    /// Whether the plan sets `spec.admin`, which the User does not have yet.
    pub is_admin: bool,
    /// Whether the plan replaces the password.
    pub gets_password: bool,
    /// Fields of `spec` that the plan changes and that give someone control of the User.
    pub fields: Vec<String>,
    /// Identity in the source that the User would belong to, and does not belong to yet.
    pub source: Option<String>,
    /// Whether an earlier import has written the User.
    pub is_imported: bool,
}

/// A User that does not exist yet and would be an administrator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Administrator {
    /// Position of the User in the source.
    pub place: Place,
    /// Name of the User.
    pub user: String,
}

impl fmt::Display for Administrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "User {} does not exist yet, and this import would create it with spec.admin", self.user)
    }
}

/// Returns the items as `a, b and c`.
fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

impl fmt::Display for Promotion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gains = Vec::new();
        match &self.groups[..] {
            [] => {}
            [group] => gains.push(format!("add it to Group {group}")),
            groups => gains.push(format!("add it to the Groups {}", listed(groups))),
        }
        if self.is_admin {
            gains.push("set spec.admin".to_owned());
        }
        if self.gets_password {
            gains.push("set its password".to_owned());
        }
        if !self.fields.is_empty() {
            let fields: Vec<String> = self.fields.iter().map(|field| format!("spec.{field}")).collect();
            gains.push(format!("change {}", listed(&fields)));
        }
        gains.extend(self.source.as_ref().map(|source| format!("give it to {source}")));
        let (user, gains) = (&self.user, listed(&gains));
        write!(f, "User {user} already exists, and this import would {gains}")
    }
}

/// Existing Users that a Group would accept although the plan does not add them to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Admitted {
    /// Position of the Group in the source.
    pub place: Place,
    /// Name of the Group.
    pub group: String,
    /// Names of the first Users, at most `MAX_NAMED`.
    pub users: Vec<String>,
    /// Total number of Users.
    pub count: usize,
}

impl fmt::Display for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (group, count, users) = (&self.group, self.count, self.users.join(", "));
        let existing = if count == 1 { "User" } else { "Users" };
        write!(
            f,
            "Group {group} would accept {count} existing {existing} that this import does not add to it: {users}"
        )?;
        match count - self.users.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

struct PlannedGroup<'a> {
    item: &'a Item,
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

/// Condition under which a Group accepts declared members.
#[derive(Default)]
struct Acceptance {
    accepts_declared: bool,
    selector: Option<Selector>,
}

impl Acceptance {
    fn of(spec: &Value) -> Self {
        let selector = LabelSelector::deserialize(&spec["memberSelector"]).ok();
        Self {
            accepts_declared: spec["acceptDeclaredMembers"] == true,
            selector: selector.and_then(|selector| selector.try_into().ok()),
        }
    }

    fn accepts(&self, group: &str, labels: &BTreeMap<String, String>, spec: &Value) -> bool {
        let selects = || self.selector.as_ref().is_some_and(|selector| selector.matches(labels));
        self.accepts_declared && (names(spec, group) || selects())
    }
}

/// Returns whether a User's `spec.groups` contains the Group.
fn names(spec: &Value, group: &str) -> bool {
    spec["groups"].as_array().is_some_and(|groups| groups.iter().any(|name| name == group))
}

/// Returns the Users that a Group's `spec` lists in `members` or `memberships`.
fn members(spec: &Value) -> impl Iterator<Item = &str> {
    let items = |field: &str| spec[field].as_array().into_iter().flatten();
    let limited = items("memberships").map(|membership| &membership["user"]);
    items("members").chain(limited).filter_map(Value::as_str)
}

fn labels(object: &Value) -> BTreeMap<String, String> {
    BTreeMap::deserialize(&object["metadata"]["labels"]).unwrap_or_default()
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
                (&*item.name, PlannedGroup { item, before: Acceptance::default(), after, admitted })
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
        let (existing, promotions) = (HashSet::new(), Promotions::default());
        let takes_over = false;
        Self { groups, selecting, selecting_elsewhere, listed, people, existing, promotions, takes_over }
    }

    /// Sets whether the import takes over fields of other field managers.
    #[must_use]
    pub fn taking_over(self, takes_over: bool) -> Self {
        Self { takes_over, ..self }
    }

    /// Adds a Group of the cluster. Fields that the manifest does not set keep their existing values.
    pub fn existing_group(&mut self, name: &str, spec: &Value) {
        let Some(planned_group) = self.groups.get_mut(name) else {
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
        let wanted = &planned_group.item.object["spec"];
        planned_group.before = Acceptance::of(spec);
        if wanted.get("acceptDeclaredMembers").is_none() {
            planned_group.after.accepts_declared = planned_group.before.accepts_declared;
        }
        if wanted.get("memberSelector").is_none() {
            planned_group.after.selector.clone_from(&planned_group.before.selector);
        }
        if planned_group.after.selector.is_some() {
            self.selecting.insert(&planned_group.item.name);
        }
    }

    /// Checks a User of the cluster. Call this after all existing Groups have been added.
    pub fn existing_user(&mut self, user: &ExistingUser) {
        self.existing.extend(self.people.get_key_value(user.name).map(|(name, _)| *name));
        self.admit(user);
        self.promote(user);
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
        let mut labels = labels(manifest);
        for (key, value) in user.labels {
            labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
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
    pub fn finish(self) -> Findings {
        let admitted = self.groups.into_values().map(|planned_group| planned_group.admitted);
        let is_new = |item: &&&Item| item.object["spec"]["admin"] == true && !self.existing.contains(&*item.name);
        let administrators = self.people.values().filter(is_new);
        let mut administrators: Vec<Administrator> =
            administrators.map(|item| Administrator { place: item.place, user: item.name.clone() }).collect();
        administrators.sort_by_key(|administrator| administrator.place);
        Findings {
            admitted: admitted.filter(|admitted| admitted.count > 0).collect(),
            promotions: self.promotions,
            administrators,
        }
    }
}

impl Promotions {
    fn add(&mut self, promotion: Promotion) {
        self.count += 1;
        if self.first.len() < MAX_NAMED {
            self.first.push(promotion);
        } else if !promotion.is_imported
            && let Some(imported) = self.first.iter_mut().rfind(|promotion| promotion.is_imported)
        {
            *imported = promotion;
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
