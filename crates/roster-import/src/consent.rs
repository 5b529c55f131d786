//! Existing Users that an import would let into a Group.
//!
//! A Group that accepts declared members takes in every User that names it in `spec.groups` or carries labels that it
//! selects. Anyone who may write Users could have prepared one before the import creates the Group.

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
    /// Users of the plan, by name.
    people: HashMap<&'a str, &'a Value>,
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
        let people = people.into_iter().map(|item| (&*item.name, &item.object)).collect();
        Self { selecting: selecting.collect(), groups, people }
    }

    /// Takes a Group of the cluster into account. Fields that the manifest does not name keep their values there.
    pub fn existing_group(&mut self, name: &str, spec: &Value) {
        let Some(opening) = self.groups.get_mut(name) else { return };
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
    pub fn existing_user(&mut self, name: &str, there: &BTreeMap<String, String>, spec: &Value) {
        let planned = self.people.get(name);
        let named = spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for group in named.chain(self.selecting.iter().copied()).collect::<BTreeSet<_>>() {
            let Some(opening) = self.groups.get_mut(group) else { continue };
            let is_new = opening.after.takes(group, there, spec) && !opening.before.takes(group, there, spec);
            let is_planned = || planned.is_some_and(|user| opening.after.takes(group, &labels(user), &user["spec"]));
            if is_new && !is_planned() {
                opening.admitted.count += 1;
                if opening.admitted.users.len() < NAMED {
                    opening.admitted.users.push(name.to_owned());
                }
            }
        }
    }

    /// The Groups that would accept somebody, by name.
    pub fn admitted(self) -> Vec<Admitted> {
        self.groups.into_values().map(|opening| opening.admitted).filter(|admitted| admitted.count > 0).collect()
    }
}

#[cfg(test)]
#[path = "consent_tests.rs"]
mod tests;
