use super::*;
use roster_credentials::HashMetrics;
use roster_credentials::hash::Argon2idCost;
use roster_runtime::metrics::Metrics;
use rstest::rstest;
use serde_json::json;

fn pool() -> HashPool {
    HashPool::new(Argon2idCost::default(), 2, 16, HashMetrics::default())
}

/// Number of hashes and verifications so far.
fn hashes(metrics: &Metrics) -> String {
    let text = metrics.render();
    let count = text.lines().find_map(|line| line.strip_prefix("roster_hash_duration_seconds_count "));
    count.unwrap().to_owned()
}

fn secret(data: &[(&str, &str)], last_applied: Option<&str>) -> Secret {
    let mut secret = Secret {
        data: Some(data.iter().map(|(key, value)| ((*key).to_owned(), ByteString((*value).into()))).collect()),
        ..Secret::default()
    };
    secret.metadata.annotations = last_applied.map(|text| [(LAST_APPLIED.to_owned(), text.to_owned())].into());
    secret
}

fn hash_of(secret: &Secret) -> String {
    String::from_utf8(secret.data.as_ref().unwrap()[HASH_KEY].0.clone()).unwrap()
}

#[tokio::test]
async fn plaintext_becomes_a_hash_everywhere() {
    let labels = json!({"labels": {"team": "kept"}});
    let applied = json!({"kind": "Secret", "metadata": labels, "stringData": {"password": "hunter2"}}).to_string();
    let mut new = secret(&[("password", "hunter2")], Some(&applied));
    protect(&mut new, None, &pool()).await.unwrap();
    let text = serde_json::to_string(&new).unwrap();
    assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
    assert!(hash_of(&new).starts_with("$argon2id$"));
    let applied = &new.metadata.annotations.unwrap()[LAST_APPLIED];
    assert!(applied.contains("\"team\":\"kept\""), "other fields are kept: {applied}");
}

#[tokio::test]
async fn the_same_password_keeps_the_hash_and_another_replaces_it() {
    let pool = pool();
    let mut first = secret(&[("password", "hunter2")], None);
    protect(&mut first, None, &pool).await.unwrap();
    for keys in [&[("password", "hunter2")][..], &[("password", "hunter2"), ("passwordHash", "$2b$junk")][..]] {
        let mut again = secret(keys, None);
        protect(&mut again, Some(&first), &pool).await.unwrap();
        assert_eq!(again.data, first.data);
    }
    let mut both = secret(&[("password", "hunter3"), ("passwordHash", &hash_of(&first))], None);
    protect(&mut both, Some(&first), &pool).await.unwrap();
    assert_ne!(both.data, first.data);
}

#[tokio::test]
async fn invalid_data_that_may_be_a_password_is_denied() {
    let pool = pool();
    let cases = [
        ("password", ""),
        ("password", "line\n"),
        ("passwordHash", "hunter2"),
        ("passwordHash", "$hunter2"),
        ("Password", "hunter2"),
    ];
    for data in cases.map(|case| [case]) {
        let refusal = protect(&mut secret(&data, None), None, &pool).await.unwrap_err().to_string();
        assert!(refusal.starts_with("data") && !refusal.contains("hunter2"), "{refusal}");
    }
    for text in ["stringData: {password: hunter2}", "\"hunter2\"", "[\"hunter2\"]"] {
        let refusal = protect(&mut secret(&[], Some(text)), None, &pool).await.unwrap_err();
        assert!(matches!(refusal, Refusal::LastApplied(_)) && !refusal.to_string().contains("hunter2"), "{refusal}");
    }
}

#[tokio::test]
async fn other_keys_are_refused_by_name() {
    let pool = pool();
    for data in [
        [("password", "hunter2"), ("Password", "hunter2")],
        [("password", "hunter2"), ("pass", "x")],
        [("passwordHash", "$2b$junk"), ("note", "hunter2")],
    ] {
        let refusal = protect(&mut secret(&data, None), None, &pool).await.unwrap_err();
        let text = refusal.to_string();
        assert!(text.contains(&format!("the key {}:", data[1].0)) && text.contains("passwordHash"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(refusal.reason(), "SecretKeyUnknown");
    }
}

#[tokio::test]
async fn existing_other_keys_may_stay_unchanged() {
    let pool = pool();
    let old = secret(&[("passwordHash", "$2b$junk"), ("note", "kept")], None);
    let mut labelled = secret(&[("passwordHash", "$2b$junk"), ("note", "kept")], None);
    labelled.metadata.labels = Some([("team".to_owned(), "apollo".to_owned())].into());
    let before = labelled.clone();
    protect(&mut labelled, Some(&old), &pool).await.unwrap();
    assert_eq!(labelled, before);
    let mut cleaned = secret(&[("passwordHash", "$2b$junk")], None);
    protect(&mut cleaned, Some(&old), &pool).await.unwrap();
    let mut changed = secret(&[("passwordHash", "$2b$junk"), ("note", "hunter2")], None);
    assert!(matches!(protect(&mut changed, Some(&old), &pool).await, Err(Refusal::UnknownKeys(_))));
}

/// A hash with the highest accepted cost. Verifying it would take a second.
const COSTLY: &str = "$argon2id$v=19$m=262144,t=4,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG";

/// bcrypt hash of "correct horse battery staple".
const BCRYPT: &str = "$2b$10$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW";

#[tokio::test]
async fn a_password_is_not_compared_with_a_hash_of_the_same_request() {
    let metrics = Metrics::default();
    let pool = HashPool::new(Argon2idCost::default(), 2, 16, metrics.hashing.clone());
    for supplied in [COSTLY, BCRYPT] {
        let password = "correct horse battery staple";
        let mut both = secret(&[("password", password), ("passwordHash", supplied)], None);
        protect(&mut both, None, &pool).await.unwrap();
        assert!(hash_of(&both).starts_with("$argon2id$v=19$m=19456,"), "a hash that Roster created");
    }
    assert_eq!(hashes(&metrics), "2", "one for each password, and no comparison");
}

#[rstest]
#[case::above_the_ceiling(COSTLY)]
#[case::another_algorithm(BCRYPT)]
#[tokio::test]
async fn a_stored_hash_that_roster_did_not_create_is_replaced(#[case] stored: &str) {
    let metrics = Metrics::default();
    let pool = HashPool::new(Argon2idCost::default(), 2, 16, metrics.hashing.clone());
    let old = secret(&[("passwordHash", stored)], None);
    let mut new = secret(&[("password", "correct horse battery staple")], None);
    protect(&mut new, Some(&old), &pool).await.unwrap();
    assert!(hash_of(&new).starts_with("$argon2id$v=19$m=19456,"));
    assert_eq!(hashes(&metrics), "1");
}

#[tokio::test]
async fn the_annotation_is_redacted_even_without_data() {
    let applied = json!({"stringData": {"password": "hunter2"}, "data": {"password": "aHVudGVyMg=="}}).to_string();
    let mut only = secret(&[], Some(&applied));
    protect(&mut only, None, &pool()).await.unwrap();
    let text = serde_json::to_string(&only).unwrap();
    assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
}

#[tokio::test]
async fn a_password_under_the_key_of_the_hash_is_removed_from_the_annotation() {
    let applied = json!({"stringData": {"password": "hunter2", "passwordHash": "hunter3"}, "data": {"passwordHash": "aHVudGVyMw=="}});
    let mut both = secret(&[("password", "hunter2"), ("passwordHash", "hunter3")], Some(&applied.to_string()));
    protect(&mut both, None, &pool()).await.unwrap();
    let text = serde_json::to_string(&both).unwrap();
    assert!(!text.contains("hunter") && !text.contains("aHVudGVy"), "{text}");
}

#[tokio::test]
async fn a_copy_in_another_annotation_is_refused_by_its_key() {
    let mut copied = secret(&[("password", "correct horse")], None);
    copied.metadata.annotations = Some([("kapp.k14s.io/original".to_owned(), "x: correct horse".to_owned())].into());
    let refusal = protect(&mut copied, None, &pool()).await.unwrap_err().to_string();
    assert!(refusal.contains("kapp.k14s.io/original") && !refusal.contains("correct horse"), "{refusal}");
}

#[rstest]
#[case::a_label(json!({"labels": {"hint": "hunter2"}}), "metadata.labels[hint]")]
#[case::the_name(json!({"name": "hunter2"}), "metadata.name")]
#[case::an_annotation(json!({"annotations": {"hint": "hunter2"}}), "metadata.annotations[hint]")]
#[case::its_base64(json!({"annotations": {"hint": "aHVudGVyMg"}}), "metadata.annotations[hint]")]
#[case::in_json(json!({"annotations": {"hint": r#"{"a": ["hunter2"]}"#}}), "metadata.annotations[hint]")]
#[tokio::test]
async fn a_short_password_is_found_as_a_whole_value(#[case] metadata: serde_json::Value, #[case] place: &str) {
    let mut copied = secret(&[("password", "hunter2")], None);
    copied.metadata = serde_json::from_value(metadata).unwrap();
    let refusal = protect(&mut copied, None, &pool()).await.unwrap_err().to_string();
    assert!(refusal.contains(place) && !refusal.contains("hunter2"), "{refusal}");
}

#[tokio::test]
async fn other_manifest_fields_that_may_hold_a_password_are_removed() {
    let applied = json!({
        "kind": "Secret", "spec": {"password": "hunter2"}, "data": "aHVudGVyMg==",
        "stringData": {"Password": "hunter2", "passwordHash": "$a$hunter2", "note": "hunter2"},
    });
    let mut only = secret(&[], Some(&applied.to_string()));
    protect(&mut only, None, &pool()).await.unwrap();
    assert_eq!(only.metadata.annotations.unwrap()[LAST_APPLIED], "{\"kind\":\"Secret\",\"stringData\":{}}\n");
    let applied = json!({"kind": "Secret", "metadata": {"labels": {"hint": "correct horse"}}}).to_string();
    let mut copied = secret(&[("password", "correct horse")], Some(&applied));
    let refusal = protect(&mut copied, None, &pool()).await.unwrap_err().to_string();
    assert!(refusal.contains(LAST_APPLIED) && !refusal.contains("correct horse"), "{refusal}");
}

#[tokio::test]
async fn duplicate_keys_in_the_manifest_hide_nothing() {
    for key in ["password", "note"] {
        let applied = format!(r#"{{"stringData": {{"{key}": "hunter2"}}, "stringData": {{}}}}"#);
        let mut twice = secret(&[("password", "hunter2")], Some(&applied));
        protect(&mut twice, None, &pool()).await.unwrap();
        assert!(!serde_json::to_string(&twice).unwrap().contains("hunter2"));
    }
}

#[tokio::test]
async fn empty_secrets_are_left_to_the_controller() {
    protect(&mut secret(&[], None), None, &pool()).await.unwrap();
}

#[tokio::test]
async fn a_hash_is_left_to_the_controller() {
    for hash in ["$2y$05$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW", "$argon2id$broken", COSTLY] {
        let mut weak = secret(&[("passwordHash", hash)], None);
        let before = weak.clone();
        protect(&mut weak, None, &pool()).await.unwrap();
        assert_eq!(weak, before);
    }
}
