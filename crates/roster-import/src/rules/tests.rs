use super::*;
use rstest::rstest;
use serde_json::json;

fn faults(spec: &Value) -> Vec<Fault> {
    Rules::default().check(Kind::User, &json!({"metadata": {"name": "jane"}, "spec": spec}))
}

#[test]
fn the_full_example_is_allowed() {
    let text = include_str!("../../../../examples/user-full.yaml");
    let rules = Rules::default();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value: Value = serde::Deserialize::deserialize(document).unwrap();
        let kind = if value["kind"] == "Group" { Kind::Group } else { Kind::User };
        if value["apiVersion"] == roster_api::API_VERSION {
            assert_eq!(rules.check(kind, &value), []);
        }
    }
}

#[rstest]
#[case(json!({"username": "System:admin"}), "spec.username", "are reserved for Kubernetes")]
#[case(json!({"username": "-x"}), "spec.username", "must consist of letters")]
#[case(json!({"email": "jane"}), "spec.email", "must be an email address")]
#[case(json!({"additionalEmails": ["a@example.com", "a@example.com"]}), "spec.additionalEmails", "twice")]
#[case(json!({"mobile": "0800"}), "spec.mobile", "international form")]
#[case(json!({"language": "english!"}), "spec.language", "BCP 47")]
#[case(json!({"timezone": "Europe/Atlantis"}), "spec.timezone", "IANA")]
#[case(json!({"preferredShell": "z sh"}), "spec.preferredShell", "name or the path of a shell")]
#[case(json!({"githubUsername": "-x"}), "spec.githubUsername", "GitHub username")]
#[case(json!({"displayName": "a\nb"}), "spec.displayName", "single line")]
#[case(json!({"state": "Actve"}), "spec.state", "must be one of Active, Disabled, Banned")]
#[case(json!({"admin": "yes"}), "spec.admin", "true or false")]
#[case(json!({"validity": {"notBefore": "2027-02-01T00:00:00Z", "notAfter": "2027-01-01T00:00:00Z"}}), "spec.validity", "earlier")]
#[case(json!({"validity": {"notAfter": "9999-06-01T00:00:00Z"}}), "spec.validity", "9999")]
#[case(json!({"validity": {"notAfter": "tomorrow"}}), "spec.validity.notAfter", "RFC 3339")]
#[case(json!({"groups": ["Engineers"]}), "spec.groups[0]", "must be the metadata.name")]
#[case(json!({"allowedCIDRs": ["10.0.0.0"]}), "spec.allowedCIDRs[0]", "CIDR")]
#[case(json!({"quota": {"hard": {"bananas": "1"}}}), "spec.quota.hard", "a name must be")]
#[case(json!({"quota": {"hard": {"pods": "-1"}}}), "spec.quota.hard", "quantity of zero or more")]
#[case(json!({"quota": {"hard": {"pods": "1e9999999"}}}), "spec.quota.hard", "quantity of zero or more")]
#[case(json!({"quota": {"hard": {"pods": -1}}}), "spec.quota.hard", "quantity of zero or more")]
#[case(json!({"notification": {"type": "webhook", "url": "http://example.com"}}), "spec.notification.url", "https URL")]
#[case(json!({"extra": {"kubernetes.io/x": ["1"]}}), "spec.extra", "reserved")]
#[case(json!({"connector": {"name": "LDAP"}}), "spec.connector.type", "is required")]
#[case(json!({"identities": [{"type": "ldap", "id": "a"}, {"type": "ldap", "id": "a"}]}), "spec.identities", "twice")]
#[case(json!({"passwordSecretRef": {"namespace": "Team A", "name": "x"}}), "spec.passwordSecretRef.namespace", "Namespace")]
#[case(json!({"nickname": "j"}), "spec.nickname", "is not a field; the fields are additionalEmails, admin,")]
fn violations_have_the_field_and_what_is_allowed(#[case] spec: Value, #[case] field: &str, #[case] says: &str) {
    let faults = faults(&spec);
    assert!(faults.iter().all(|fault| fault.field == field), "{faults:?}");
    assert!(faults[0].reason.contains(says), "{}", faults[0].reason);
}

#[rstest]
#[case(json!({"requests.cpu": 0.5}), "spec.quota.hard[requests.cpu]", "a quantity in quotes: \"0.5\"")]
#[case(json!({"pods": 1.5}), "spec.quota.hard[pods]", "must be an integer")]
#[case(json!({"pods": "1.5"}), "spec.quota.hard", "must be an integer")]
#[case(json!({"count/jobs.batch": "1500m"}), "spec.quota.hard", "must be an integer")]
fn case_d8_fractions_are_quoted_or_refused(#[case] hard: Value, #[case] field: &str, #[case] says: &str) {
    let faults = faults(&json!({"quota": {"hard": hard}}));
    assert!(faults.len() == 1 && faults[0].field == field && faults[0].reason.contains(says), "{faults:?}");
}

#[rstest]
#[case(json!({"validity": {"notBefore": "2027-01-01T00:00:00.000000Z", "notAfter": "2027-01-01T02:00:00+01:00"}}))]
#[case(json!({"quota": {"hard": {"pods": 3, "requests.cpu": "500m", "count/deployments.apps": "4"}}}))]
#[case(json!({"mobile": "+1 (555) 010-0199", "email": "o'neil+x@example.co.uk", "timezone": "Asia/Tokyo"}))]
#[case(json!({"notification": {"type": "webhook", "url": "https://hooks.example.com/roster?a=b"}}))]
#[case(json!({"identities": [{"type": "ldap", "id": "a"}, {"type": "ldap", "id": "b"}, {"type": "oidc", "id": "a"}]}))]
#[case(json!({"allowedCIDRs": ["192.0.2.0/24", "2001:db8::/32"], "extra": {"costCenter": []}}))]
fn valid_values_pass(#[case] spec: Value) {
    assert_eq!(faults(&spec), []);
}

#[test]
fn names_and_cycles_of_groups_are_checked() {
    let rules = Rules::default();
    let long = json!({"metadata": {"name": "a".repeat(64)}, "spec": {}});
    assert!(rules.check(Kind::User, &long)[0].reason.contains("at most 63"));
    let ended = json!({"user": "ada", "validity": {}});
    let twice = json!({"metadata": {"name": "a"}, "spec": {"memberships": [ended, ended], "members": ["ada", "ada"]}});
    let fields: Vec<String> = rules.check(Kind::Group, &twice).into_iter().map(|fault| fault.field).collect();
    assert_eq!(fields, ["spec.members", "spec.memberships"]);
    let own = json!({"metadata": {"name": "a"}, "spec": {"memberGroups": ["a"]}});
    assert!(rules.check(Kind::Group, &own)[0].reason.contains("must not name the group itself"));
}
