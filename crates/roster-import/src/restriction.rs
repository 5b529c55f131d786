//! What the source demands at least of people that were imported before: that they are disabled, expire, must change their
//! password, or leave groups.
//!
//! A leaver may be able to make the rest of their entry invalid, or to start a conflict. So an import applies these
//! restrictions to the Users with the same identity in the source even if it rejects the entry, or applies nothing else.
//!
//! The reverse is possible, too: someone may be able to plant an entry with the identity of another person. So several
//! entries with one identity restrict only by what all of them demand, and keep the memberships of each of them. In JSON and YAML, the author of each manifest chooses
//! its identity, so the manifest must have the name of the User as well.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::control;
use super::draft::{Input, Place, UserDraft};
use super::expiry::is_never;
use super::membership::{self, Memberships};

/// States that restrict a User, from the weakest to the strictest.
const STATES: [&str; 2] = ["Disabled", "Banned"];

/// Index of `Disabled` in [`STATES`].
const DISABLED: usize = 0;

/// Restriction of a person of the source.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Restriction {
    /// Position of the entry in the source.
    pub place: Place,
    /// Index in [`STATES`].
    state: Option<usize>,
    validity: Validity,
    require_password_change: bool,
    /// Memberships that the person keeps. `None` if this is not known.
    memberships: Option<Memberships>,
}

/// A period. Times that mean never are left out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Validity {
    not_before: Option<Timestamp>,
    not_after: Option<Timestamp>,
}

impl Validity {
    fn of(spec: Option<&Value>) -> Self {
        let time = |field: &str| spec?[field].as_str()?.parse().ok();
        Self { not_before: time("notBefore"), not_after: time("notAfter").filter(|time| !is_never(*time)) }
    }

    /// Returns whether no time is in the period. The CRD rejects such a validity.
    fn is_empty(&self) -> bool {
        let is_reversed = self.not_before.zip(self.not_after).is_some_and(|(begin, end)| begin >= end);
        is_reversed || self.not_before.is_some_and(is_never)
    }

    /// Returns the period that is in both.
    fn and(self, other: Self) -> Self {
        let not_after = [self.not_after, other.not_after].into_iter().flatten().min();
        Self { not_before: self.not_before.max(other.not_before), not_after }
    }

    /// Returns the shortest period that contains both.
    fn or(self, other: Self) -> Self {
        let not_after = self.not_after.zip(other.not_after).map(|(one, other)| one.max(other));
        Self { not_before: self.not_before.min(other.not_before), not_after }
    }

    fn to_value(self) -> Value {
        let ends = [("notBefore", self.not_before), ("notAfter", self.not_after)];
        let ends = ends.into_iter().filter_map(|(field, time)| Some((field.to_owned(), time?.to_string().into())));
        Value::Object(ends.collect())
    }
}

impl Restriction {
    /// Returns the restriction in an entry, which may be empty.
    fn of(person: &UserDraft) -> Self {
        let restriction = Self {
            place: person.place,
            state: state(person.spec.get("state")),
            validity: Validity::of(person.spec.get("validity")),
            require_password_change: person.spec.get("requirePasswordChange").is_some_and(|value| value == true),
            memberships: None,
        };
        restriction.without_empty_validity()
    }

    /// Replaces a validity in which the User is never valid, because the CRD would reject the whole restriction.
    fn without_empty_validity(self) -> Self {
        if !self.validity.is_empty() {
            return self;
        }
        Self { state: self.state.max(Some(DISABLED)), validity: Validity::default(), ..self }
    }

    fn is_empty(&self) -> bool {
        *self == Self { place: self.place, ..Self::default() }
    }

    /// Keeps what another entry of the same person demands as well.
    fn intersect(&mut self, other: Self) {
        self.memberships = self.memberships.take().zip(other.memberships).map(|(mut one, other)| {
            one.unite(&other);
            one
        });
        self.state = self.state.min(other.state);
        self.validity = self.validity.or(other.validity);
        self.require_password_change &= other.require_password_change;
    }

    /// Returns the fields of `spec` that must change so that a User with this `spec` is restricted, or `None` if it is
    /// restricted already. Nothing in them gives the User more than it has. `owned` contains the fields that imports applied,
    /// in the notation of `managedFields`: only the groups in a list of their own can have been given by the source.
    pub fn missing(&self, spec: &Value, owned: &Value) -> Option<Map<String, Value>> {
        let live = Validity::of(spec.get("validity"));
        // The field is atomic, so it contains the end that does not change as well.
        let wanted = Self { validity: live.and(self.validity), ..self.clone() };
        let wanted = if wanted.validity == live { wanted } else { wanted.without_empty_validity() };
        let mut fields = Map::new();
        if let Some(wanted) = wanted.state.filter(|wanted| Some(*wanted) > state(spec.get("state"))) {
            fields.insert("state".to_owned(), STATES[wanted].into());
        }
        if wanted.validity != live && wanted.validity != Validity::default() {
            fields.insert("validity".to_owned(), wanted.validity.to_value());
        }
        if wanted.require_password_change && spec["requirePasswordChange"] != true {
            fields.insert("requirePasswordChange".to_owned(), true.into());
        }
        if let Some(memberships) = self.memberships.as_ref().filter(|_| control::owns(owned, "groups")) {
            let (stays, ended): (Vec<&str>, Vec<&str>) =
                membership::names(&spec["groups"]).partition(|group| memberships.keeps(group));
            if !ended.is_empty() {
                fields.insert("groups".to_owned(), stays.into());
            }
        }
        (!fields.is_empty()).then_some(fields)
    }
}

/// Returns how strict a state is, or `None` if it does not restrict.
fn state(value: Option<&Value>) -> Option<usize> {
    STATES.iter().position(|state| value.is_some_and(|value| value == state))
}

/// Returns the fields of a `spec` that restrict a User and that no import has set.
pub(super) fn foreign(spec: &Value, owned: &Value) -> Map<String, Value> {
    let restricts = |field: &str| match field {
        "state" => state(Some(&spec[field])).is_some(),
        "requirePasswordChange" => spec[field] == true,
        _ => Validity::of(spec.get(field)) != Validity::default(),
    };
    let fields = ["state", "validity", "requirePasswordChange"].into_iter();
    let fields = fields.filter(|field| restricts(field) && !control::owns(owned, field));
    fields.map(|field| (field.to_owned(), spec[field].clone())).collect()
}

/// Changes the `spec` of a manifest so that it does not lift these restrictions of the existing User. Returns the fields in
/// which it would have done so.
pub(super) fn keep_foreign(spec: &mut Map<String, Value>, foreign: &Map<String, Value>) -> Vec<String> {
    let mut kept = Vec::new();
    if let Some(live) = foreign.get("validity").filter(|_| spec.contains_key("validity")) {
        let (live, wanted) = (Validity::of(Some(live)), Validity::of(spec.get("validity")));
        let both = live.and(wanted);
        if both != wanted {
            kept.push("validity".to_owned());
            spec.remove("validity");
        }
        if both.is_empty() {
            let wanted = state(spec.get("state")).max(Some(DISABLED)).unwrap_or(DISABLED);
            spec.insert("state".to_owned(), STATES[wanted].into());
        } else if both != wanted && both != live {
            spec.insert("validity".to_owned(), both.to_value());
        }
    }
    for field in ["state", "requirePasswordChange"] {
        let is_stricter = |live: &Value, wanted: &Value| match field {
            "state" => state(Some(live)) > state(Some(wanted)),
            _ => wanted != true,
        };
        let wanted = spec.get(field).zip(foreign.get(field));
        if wanted.is_some_and(|(wanted, live)| is_stricter(live, wanted)) {
            spec.remove(field);
            kept.push(field.to_owned());
        }
    }
    kept
}

/// Changes the `spec` of a manifest so that it restricts the User at least as strictly as earlier imports. Returns the fields that
/// the manifest would have lifted.
pub(super) fn keep_imported(spec: &mut Map<String, Value>, imported: &Map<String, Value>) -> Vec<String> {
    let before = spec.clone();
    if let Some(value) = imported.get("validity") {
        let (live, wanted) = (Validity::of(Some(value)), Validity::of(spec.get("validity")));
        let both = live.and(wanted);
        if both.is_empty() || both == live {
            spec.insert("validity".to_owned(), value.clone());
        } else if both != wanted {
            spec.insert("validity".to_owned(), both.to_value());
        }
        if both.is_empty() {
            let disabled = state(spec.get("state")).unwrap_or(DISABLED);
            spec.insert("state".to_owned(), STATES[disabled].into());
        }
    }
    if let Some(value) = imported.get("state").filter(|value| state(Some(value)) > state(spec.get("state"))) {
        spec.insert("state".to_owned(), value.clone());
    }
    if imported.get("requirePasswordChange").is_some_and(|value| value == true) {
        spec.insert("requirePasswordChange".to_owned(), true.into());
    }
    let fields = ["requirePasswordChange", "state", "validity"].into_iter();
    fields.filter(|field| before.get(*field) != spec.get(*field)).map(str::to_owned).collect()
}

/// Fields that the import does not change, because the User is restricted more strictly by someone else, or by an earlier
/// import of an entry that shows the state of the account.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unlifted {
    /// Position of the person in the source.
    pub place: Place,
    /// Name of the User.
    pub user: String,
    /// Fields of `spec`.
    pub fields: Vec<String>,
    /// Whether an earlier import has set them.
    pub is_imported: bool,
}

impl fmt::Display for Unlifted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<String> = self.fields.iter().map(|field| format!("spec.{field}")).collect();
        if self.is_imported {
            return write!(
                f,
                "User {} stays restricted by {} of an earlier import, because the entry does not show whether the account is locked: \
                 export the entry with its operational attributes, or lift such restrictions with --lift-restrictions",
                self.user,
                fields.join(" and ")
            );
        }
        write!(
            f,
            "User {} is restricted more strictly by {}, which no import has set: change it with kubectl to lift the restriction",
            self.user,
            fields.join(" and ")
        )
    }
}

/// Returns whether any of these people is restricted.
pub(super) fn restricts<'a>(mut people: impl Iterator<Item = &'a UserDraft>) -> bool {
    people.any(|person| !Restriction::of(person).is_empty())
}

/// Restrictions of all people that have an identity in the source, by this identity. In JSON and YAML, also by the name of
/// the User.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Restrictions(HashMap<String, BTreeMap<Option<String>, Restriction>>);

impl Restrictions {
    pub(super) fn of(input: &Input, memberships: impl Fn(&UserDraft) -> Option<Memberships>) -> Self {
        let mut all: HashMap<String, BTreeMap<Option<String>, Restriction>> = HashMap::new();
        for person in &input.users {
            let name = person.name.clone().filter(|_| input.has_only_names);
            let (Some(source), true) = (&person.source, name.is_some() || !input.has_only_names) else { continue };
            let restriction = Restriction { memberships: memberships(person), ..Restriction::of(person) };
            match all.entry(source.clone()).or_default().entry(name) {
                Entry::Vacant(entry) => drop(entry.insert(restriction)),
                Entry::Occupied(mut entry) => entry.get_mut().intersect(restriction),
            }
        }
        for of_source in all.values_mut() {
            of_source.retain(|_, restriction| !restriction.is_empty());
        }
        all.retain(|_, of_source| !of_source.is_empty());
        Self(all)
    }

    /// Returns the restriction of the User with this name that was imported from this identity.
    pub fn get(&self, source: &str, name: &str) -> Option<&Restriction> {
        let of_source = self.0.get(source)?;
        of_source.get(&None).or_else(|| of_source.get(&Some(name.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    const NOW: &str = "2026-01-01T00:00:00Z";
    const NEVER: &str = "9999-01-01T00:00:00Z";
    const EARLY: &str = "2030-01-01T00:00:00Z";
    const LATE: &str = "2031-01-01T00:00:00Z";

    fn person(spec: &Value) -> UserDraft {
        UserDraft { source: Some("x:1".to_owned()), spec: spec.as_object().unwrap().clone(), ..UserDraft::default() }
    }

    #[rstest]
    #[case(json!({"state": "Disabled"}), json!({}), json!({"state": "Disabled"}))]
    #[case(json!({"state": "Disabled"}), json!({"state": "Active"}), json!({"state": "Disabled"}))]
    #[case(json!({"state": "Disabled"}), json!({"state": "Banned"}), Value::Null)]
    #[case(json!({"state": "Banned"}), json!({"state": "Disabled"}), json!({"state": "Banned"}))]
    #[case(json!({"state": "Active", "email": "a@example.com", "admin": true}), json!({"state": "Disabled"}), Value::Null)]
    #[case(json!({"validity": {"notAfter": EARLY}}), json!({}), json!({"validity": {"notAfter": EARLY}}))]
    #[case(json!({"validity": {"notAfter": LATE}}), json!({"validity": {"notAfter": EARLY}}), Value::Null)]
    #[case(json!({"validity": {"notBefore": EARLY, "notAfter": LATE}}), json!({"validity": {"notBefore": LATE}}),
        json!({"state": "Disabled"}))]
    #[case(json!({"validity": {"notBefore": NOW, "notAfter": EARLY}}), json!({"validity": {"notAfter": LATE}}),
        json!({"validity": {"notBefore": NOW, "notAfter": EARLY}}))]
    #[case(json!({"validity": {"notAfter": EARLY}}), json!({"validity": {"notBefore": NOW}}),
        json!({"validity": {"notBefore": NOW, "notAfter": EARLY}}))]
    #[case(json!({"validity": {"notBefore": NOW}}), json!({"validity": {"notBefore": "x", "notAfter": LATE}}),
        json!({"validity": {"notBefore": NOW, "notAfter": LATE}}))]
    // The CRD accepts no such validity.
    #[case(json!({"state": "Disabled", "validity": {"notAfter": NEVER}}), json!({}), json!({"state": "Disabled"}))]
    #[case(json!({"validity": {"notAfter": NEVER}}), json!({}), Value::Null)]
    #[case(json!({"validity": {"notBefore": NEVER}}), json!({}), json!({"state": "Disabled"}))]
    #[case(json!({"validity": {"notBefore": LATE, "notAfter": EARLY}}), json!({}), json!({"state": "Disabled"}))]
    #[case(json!({"validity": {"notBefore": LATE, "notAfter": EARLY}}), json!({"state": "Banned"}), Value::Null)]
    #[case(json!({"validity": {"notAfter": EARLY}}), json!({"validity": {"notBefore": EARLY}}), json!({"state": "Disabled"}))]
    #[case(json!({"validity": {"notBefore": NOW}}), json!({"validity": {"notAfter": NEVER}}), json!({"validity": {"notBefore": NOW}}))]
    // Nothing changes.
    #[case(json!({"validity": {"notAfter": LATE}}), json!({"validity": {"notBefore": LATE, "notAfter": EARLY}}), Value::Null)]
    #[case(json!({"requirePasswordChange": true}), json!({}), json!({"requirePasswordChange": true}))]
    #[case(json!({"requirePasswordChange": true}), json!({"requirePasswordChange": true}), Value::Null)]
    #[case(json!({"state": 7, "validity": "x"}), json!({}), Value::Null)]
    fn only_what_restricts_further_is_missing(#[case] entry: Value, #[case] live: Value, #[case] expected: Value) {
        let missing =
            restrictions(vec![person(&entry)]).get("x:1", "ada").and_then(|entry| entry.missing(&live, &Value::Null));
        assert_eq!(missing.map_or(Value::Null, Value::Object), expected);
    }

    fn restrictions(users: Vec<UserDraft>) -> Restrictions {
        Restrictions::of(&Input { users, ..Input::default() }, |_| None)
    }

    /// Otherwise, someone could disable another person by a planted entry.
    #[rstest]
    #[case(json!({"state": "Active"}), json!({"state": "Disabled"}), Value::Null)]
    #[case(json!({"state": "Active", "validity": {"notAfter": LATE}}), json!({"state": "Disabled"}), Value::Null)]
    #[case(json!({"state": "Disabled"}), json!({"state": "Disabled"}), json!({"state": "Disabled"}))]
    #[case(json!({"state": "Disabled"}), json!({"state": "Banned", "requirePasswordChange": true}), json!({"state": "Disabled"}))]
    #[case(json!({"validity": {"notBefore": NOW, "notAfter": EARLY}}), json!({"validity": {"notAfter": LATE}}),
        json!({"validity": {"notAfter": LATE}}))]
    fn entries_of_one_person_restrict_by_what_all_of_them_demand(
        #[case] one: Value,
        #[case] other: Value,
        #[case] expected: Value,
    ) {
        for entries in [[&one, &other], [&other, &one]] {
            let all = restrictions(entries.map(person).into());
            let missing = all.get("x:1", "ada").and_then(|restriction| restriction.missing(&json!({}), &Value::Null));
            assert_eq!(missing.map_or(Value::Null, Value::Object), expected);
        }
    }

    #[rstest]
    #[case(json!({"state": "Banned"}), json!({"state": "Disabled"}), json!({}), &["state"])]
    #[case(json!({"state": "Banned"}), json!({"state": "Banned"}), json!({"state": "Banned"}), &[])]
    #[case(json!({"state": "Disabled"}), json!({"state": "Banned"}), json!({"state": "Banned"}), &[])]
    #[case(json!({"state": "Disabled"}), json!({"state": "Active"}), json!({}), &["state"])]
    #[case(json!({"state": "Disabled"}), json!({"email": "a"}), json!({"email": "a"}), &[])]
    #[case(json!({"requirePasswordChange": true}), json!({"requirePasswordChange": false}), json!({}), &["requirePasswordChange"])]
    #[case(json!({"validity": {"notAfter": EARLY}}), json!({"validity": {"notAfter": LATE}}), json!({}), &["validity"])]
    #[case(json!({"validity": {"notAfter": LATE}}), json!({"validity": {"notAfter": EARLY}}), json!({"validity": {"notAfter": EARLY}}), &[])]
    #[case(json!({"validity": {"notBefore": EARLY}}), json!({"validity": {"notAfter": LATE}}),
        json!({"validity": {"notBefore": EARLY, "notAfter": LATE}}), &["validity"])]
    #[case(json!({"validity": {"notBefore": LATE}}), json!({"validity": {"notAfter": EARLY}}), json!({"state": "Disabled"}), &["validity"])]
    #[case(json!({"state": "Active"}), json!({"state": "Disabled"}), json!({"state": "Disabled"}), &[])]
    fn no_manifest_lifts_a_restriction_of_someone_else(
        #[case] live: Value,
        #[case] mut wanted: Value,
        #[case] expected: Value,
        #[case] fields: &[&str],
    ) {
        let unowned = foreign(&live, &json!({"f:email": {}}));
        assert_eq!(keep_foreign(wanted.as_object_mut().unwrap(), &unowned), fields);
        assert_eq!(wanted, expected);
        // What an import has set, an import may lift.
        let owned: Map<String, Value> =
            live.as_object().unwrap().keys().map(|field| (format!("f:{field}"), json!({}))).collect();
        assert_eq!(foreign(&live, &owned.into()), Map::new());
    }

    /// A narrower export does not show the attribute from which an earlier one had the restriction.
    #[rstest]
    #[case(json!({"validity": {"notAfter": EARLY}}), json!({"validity": {"notAfter": LATE}}),
        json!({"validity": {"notAfter": EARLY}}), &["validity"])]
    #[case(json!({"validity": {"notAfter": LATE}}), json!({"validity": {"notAfter": EARLY}}),
        json!({"validity": {"notAfter": EARLY}}), &[])]
    #[case(json!({"validity": {"notBefore": NOW}}), json!({"validity": {"notAfter": LATE}}),
        json!({"validity": {"notBefore": NOW, "notAfter": LATE}}), &["validity"])]
    #[case(json!({"validity": {"notBefore": LATE}}), json!({"validity": {"notAfter": EARLY}}),
        json!({"validity": {"notBefore": LATE}, "state": "Disabled"}), &["state", "validity"])]
    #[case(json!({"validity": {"notAfter": EARLY}}), json!({}), json!({"validity": {"notAfter": EARLY}}), &["validity"])]
    #[case(json!({"state": "Banned"}), json!({"state": "Disabled"}), json!({"state": "Banned"}), &["state"])]
    #[case(json!({"state": "Disabled"}), json!({"state": "Banned"}), json!({"state": "Banned"}), &[])]
    #[case(json!({"requirePasswordChange": true}), json!({}), json!({"requirePasswordChange": true}), &["requirePasswordChange"])]
    fn restrictions_of_earlier_imports_are_not_weakened(
        #[case] live: Value,
        #[case] mut wanted: Value,
        #[case] expected: Value,
        #[case] fields: &[&str],
    ) {
        let imported = foreign(&live, &Value::Null);
        assert_eq!(keep_imported(wanted.as_object_mut().unwrap(), &imported), fields);
        assert_eq!(wanted, expected);
        // The next import changes nothing.
        let imported = foreign(&expected, &Value::Null);
        keep_imported(wanted.as_object_mut().unwrap(), &imported);
        assert_eq!(wanted, expected);
    }

    #[test]
    fn people_without_an_identity_are_not_restricted() {
        let anonymous = UserDraft { source: None, ..person(&json!({"state": "Disabled"})) };
        assert_eq!(restrictions(vec![anonymous]), Restrictions::default());
    }

    /// The author of a manifest chooses its identity.
    #[test]
    fn manifests_restrict_only_the_user_with_their_name() {
        let named = |name: Option<&str>, state: &str| UserDraft {
            name: name.map(str::to_owned),
            ..person(&json!({"state": state}))
        };
        let of = |users| Restrictions::of(&Input { users, has_only_names: true, ..Input::default() }, |_| None);
        let restricts = |all: &Restrictions, name: &str| all.get("x:1", name).is_some();
        let planted = of(vec![named(Some("eve"), "Disabled"), named(None, "Disabled")]);
        assert!(restricts(&planted, "eve") && !restricts(&planted, "ada"));
        let both = of(vec![named(Some("eve"), "Active"), named(Some("ada"), "Disabled")]);
        assert!(!restricts(&both, "eve") && restricts(&both, "ada"));
        let contested = of(vec![named(Some("ada"), "Active"), named(Some("ada"), "Disabled")]);
        assert!(!restricts(&contested, "ada"));
    }
}
