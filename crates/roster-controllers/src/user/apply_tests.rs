use kube::api::ObjectMeta;
use roster_credentials::HashMetrics;
use roster_credentials::hash::{Argon2idCost, PasswordHash};
use secrecy::SecretString;

use super::*;

const BCRYPT: &str = "$2b$10$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW";

fn pool() -> HashPool {
    HashPool::new(Argon2idCost::default(), 2, 16, HashMetrics::default())
}

fn policy() -> PasswordPolicy {
    PasswordPolicy { min_length: 8, history: 3, max_age: None, denied: std::sync::Arc::default() }
}

fn version(resource_version: &str) -> SourceVersion {
    let metadata = ObjectMeta {
        uid: Some("s-1".into()),
        resource_version: Some(resource_version.to_owned()),
        ..ObjectMeta::default()
    };
    SourceVersion::of(&metadata).unwrap()
}

fn password(text: &str) -> Source {
    Source::Password(SecretString::from(text))
}

#[tokio::test]
async fn the_same_password_again_is_no_change() {
    let pool = pool();
    let first =
        apply_source(Credential::default(), &version("1"), &password("hunter2"), (&pool, &policy())).await.unwrap();
    let again = apply_source(first.clone(), &version("2"), &password("hunter2"), (&pool, &policy())).await.unwrap();
    assert_eq!((&again.hash, &again.changed), (&first.hash, &first.changed));
    assert_eq!(again.source, Some(version("2")), "the new version is recorded, so the Secret is not read again");
    let other = apply_source(first.clone(), &version("3"), &password("hunter3"), (&pool, &policy())).await.unwrap();
    assert_ne!(other.hash, first.hash);
}

#[tokio::test]
async fn a_hash_is_stored_unchanged() {
    let hash = PasswordHash::parse(BCRYPT).unwrap();
    let source = Source::Hash(hash.clone());
    let stored = apply_source(Credential::default(), &version("1"), &source, (&pool(), &policy())).await.unwrap();
    assert_eq!(stored.hash, Some(hash));
    let again = apply_source(stored.clone(), &version("2"), &source, (&pool(), &policy())).await.unwrap();
    assert_eq!(again.changed, stored.changed);
}

#[tokio::test]
async fn an_earlier_costly_hash_is_still_compared() {
    let costly = "$argon2id$v=19$m=262144,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG";
    let hash = Some(PasswordHash::parse(costly).unwrap());
    let before = Credential { hash: hash.clone(), source_hash: hash.clone(), ..Credential::default() };
    let stored = apply_source(before, &version("1"), &password("hunter2"), (&pool(), &policy())).await.unwrap();
    assert_ne!(stored.hash, hash, "it is the hash of another password");
}

#[tokio::test]
async fn a_password_changed_elsewhere_outlives_a_rewrite_of_the_secret() {
    let pool = pool();
    let first =
        apply_source(Credential::default(), &version("1"), &password("hunter2"), (&pool, &policy())).await.unwrap();
    let elsewhere = Credential { hash: Some(PasswordHash::parse(BCRYPT).unwrap()), ..first.clone() };
    let rewritten =
        apply_source(elsewhere.clone(), &version("2"), &password("hunter2"), (&pool, &policy())).await.unwrap();
    assert_eq!(rewritten.hash, elsewhere.hash);
    let changed =
        apply_source(elsewhere.clone(), &version("3"), &password("hunter3"), (&pool, &policy())).await.unwrap();
    assert_ne!(changed.hash, elsewhere.hash);
}

#[tokio::test]
async fn a_lost_hash_is_recreated() {
    let pool = pool();
    let first =
        apply_source(Credential::default(), &version("1"), &password("hunter2"), (&pool, &policy())).await.unwrap();
    let damaged = Credential { hash: None, ..first };
    let repaired = apply_source(damaged, &version("2"), &password("hunter2"), (&pool, &policy())).await.unwrap();
    assert!(repaired.hash.is_some());
}
