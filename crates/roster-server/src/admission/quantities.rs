//! Explains numbers in `spec.quota.hard` that the schema of Users and Groups rejects.
//!
//! The schema accepts integers and strings. kube-apiserver rejects other numbers with "must be of type integer,string",
//! which does not say what to do. It does so before it calls validating webhooks and policies, so a mutating webhook,
//! which changes nothing, rejects these numbers first. kube-apiserver calls it only for objects with such a number.

use kube::core::DynamicObject;
use roster_api::syntax::is_counted;
use serde_json::Value;

/// Returns what to write instead of each number that has a fraction. Returns `None` if there is none.
pub fn explain(object: &DynamicObject) -> Option<String> {
    let hard = object.data.pointer("/spec/quota/hard")?.as_object()?;
    let has_fraction = |value: &Value| value.as_f64().is_some_and(|number| number.fract() != 0.0);
    let advice = hard.iter().filter(|(_, value)| has_fraction(value)).map(|(name, value)| {
        if is_counted(name) {
            format!("spec.quota.hard[{name}]: must be an integer, not {value}")
        } else {
            format!("spec.quota.hard[{name}]: write the number in quotes, as a quantity: \"{value}\"")
        }
    });
    Some(advice.collect::<Vec<_>>().join("; ")).filter(|advice| !advice.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case(json!({"requests.cpu": 0.5}), Some("spec.quota.hard[requests.cpu]: write the number in quotes, as a quantity: \"0.5\""))]
    #[case(json!({"pods": 1.5}), Some("spec.quota.hard[pods]: must be an integer, not 1.5"))]
    #[case(json!({"count/jobs.batch": 0.5, "memory": 1.5}), Some(
        "spec.quota.hard[count/jobs.batch]: must be an integer, not 0.5; \
         spec.quota.hard[memory]: write the number in quotes, as a quantity: \"1.5\""
    ))]
    #[case(json!({"pods": 5, "requests.cpu": "0.5", "memory": 5.0}), None)]
    #[case(json!(null), None)]
    fn case_d8_the_message_says_what_to_write(#[case] hard: Value, #[case] advice: Option<&str>) {
        let object = json!({"apiVersion": "roster.dev/v1alpha1", "kind": "User", "spec": {"quota": {"hard": hard}}});
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        assert_eq!(explain(&object).as_deref(), advice);
    }
}
