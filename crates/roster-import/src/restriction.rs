//! What the source demands at least of people that were imported before: that they are disabled, expire, or must change
//! their password.
//!
//! A leaver may be able to make the rest of their entry invalid, or to start a conflict. So an import applies these
//! restrictions to the Users with the same identity in the source even if it rejects the entry, or applies nothing else.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::draft::{Place, UserDraft};

/// States that restrict a User, from the weakest to the strictest.
const STATES: [&str; 2] = ["Disabled", "Banned"];

/// Restriction of a person of the source.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Restriction {
    /// Position of the entry in the source.
    pub place: Place,
    /// Index in [`STATES`].
    state: Option<usize>,
    not_before: Option<Timestamp>,
    not_after: Option<Timestamp>,
    require_password_change: bool,
}

impl Restriction {
    /// Returns the restriction in an entry, or `None` if it has none.
    fn of(person: &UserDraft) -> Option<Self> {
        let time = |field: &str| person.spec.get("validity")?[field].as_str()?.parse().ok();
        let restriction = Self {
            place: person.place,
            state: state(person.spec.get("state")),
            not_before: time("notBefore"),
            not_after: time("notAfter"),
            require_password_change: person.spec.get("requirePasswordChange").is_some_and(|value| value == true),
        };
        (restriction != Self { place: person.place, ..Self::default() }).then_some(restriction)
    }

    /// Adds the restriction of another entry of the same person.
    fn merge(&mut self, other: &Self) {
        self.state = self.state.max(other.state);
        self.not_before = self.not_before.max(other.not_before);
        self.not_after = [self.not_after, other.not_after].into_iter().flatten().min();
        self.require_password_change |= other.require_password_change;
    }

    /// Returns the fields of `spec` that must change so that a User with this `spec` is restricted, or `None` if it is
    /// restricted already. Nothing in them gives the User more than it has.
    pub fn missing(&self, spec: &Value) -> Option<Map<String, Value>> {
        let mut fields = Map::new();
        if let Some(wanted) = self.state.filter(|wanted| Some(*wanted) > state(spec.get("state"))) {
            fields.insert("state".to_owned(), STATES[wanted].into());
        }
        let live = |field: &str| spec["validity"][field].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let mut validity = Map::new();
        let mut tighten = |field: &str, time: Option<Timestamp>| {
            validity.extend(time.map(|time| (field.to_owned(), time.to_string().into())));
        };
        tighten("notBefore", self.not_before.filter(|time| live("notBefore").is_none_or(|live| live < *time)));
        tighten("notAfter", self.not_after.filter(|time| live("notAfter").is_none_or(|live| *time < live)));
        if !validity.is_empty() {
            fields.insert("validity".to_owned(), validity.into());
        }
        if self.require_password_change && spec["requirePasswordChange"] != true {
            fields.insert("requirePasswordChange".to_owned(), true.into());
        }
        (!fields.is_empty()).then_some(fields)
    }
}

/// Returns how strict a state is, or `None` if it does not restrict.
fn state(value: Option<&Value>) -> Option<usize> {
    STATES.iter().position(|state| value.is_some_and(|value| value == state))
}

/// Returns the restrictions of all people that have an identity in the source, by this identity. If several entries have
/// the same one, the strictest values count.
pub(super) fn restrictions(users: &[UserDraft]) -> BTreeMap<String, Restriction> {
    let mut all: BTreeMap<String, Restriction> = BTreeMap::new();
    for person in users {
        if let (Some(source), Some(restriction)) = (&person.source, Restriction::of(person)) {
            all.entry(source.clone()).or_insert(restriction).merge(&restriction);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

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
        json!({"validity": {"notAfter": LATE}}))]
    #[case(json!({"requirePasswordChange": true}), json!({}), json!({"requirePasswordChange": true}))]
    #[case(json!({"requirePasswordChange": true}), json!({"requirePasswordChange": true}), Value::Null)]
    #[case(json!({"state": 7, "validity": "x"}), json!({}), Value::Null)]
    fn only_what_restricts_further_is_missing(#[case] entry: Value, #[case] live: Value, #[case] expected: Value) {
        let all = restrictions(&[person(&entry)]);
        let missing = all.get("x:1").and_then(|restriction| restriction.missing(&live));
        assert_eq!(missing.map_or(Value::Null, Value::Object), expected);
    }

    #[test]
    fn the_strictest_entry_of_a_person_counts() {
        let [first, second] =
            [json!({"state": "Active", "validity": {"notAfter": EARLY}}), json!({"state": "Disabled"})];
        for users in [[person(&first), person(&second)], [person(&second), person(&first)]] {
            let missing = restrictions(&users)["x:1"].missing(&json!({})).unwrap();
            assert_eq!(Value::Object(missing), json!({"state": "Disabled", "validity": {"notAfter": EARLY}}));
        }
        assert_eq!(restrictions(&[UserDraft { source: None, ..person(&second) }]).len(), 0);
    }
}
