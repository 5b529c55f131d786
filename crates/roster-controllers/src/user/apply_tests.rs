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
    let first = take_in(Credential::default(), &version("1"), &password("hunter2"), (&pool, &policy())).await.unwrap();
    let again = take_in(first.clone(), &version("2"), &password("hunter2"), (&pool, &policy())).await.unwrap();
    assert_eq!((&again.hash, &again.changed), (&first.hash, &first.changed));
    assert_eq!(again.source, Some(version("2")), "it need not be looked at again");
    let other = take_in(first.clone(), &version("3"), &password("hunter3"), (&pool, &policy())).await.unwrap();
    assert_ne!(other.hash, first.hash);
}

#[tokio::test]
async fn a_hash_is_taken_as_it_is() {
    let hash = PasswordHash::parse(BCRYPT).unwrap();
    let source = Source::Hash(hash.clone());
    let taken = take_in(Credential::default(), &version("1"), &source, (&pool(), &policy())).await.unwrap();
    assert_eq!(taken.hash, Some(hash));
    let again = take_in(taken.clone(), &version("2"), &source, (&pool(), &policy())).await.unwrap();
    assert_eq!(again.changed, taken.changed);
}

#[tokio::test]
async fn an_earlier_costly_hash_is_still_compared() {
    let costly = "$argon2id$v=19$m=262144,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG";
    let hash = Some(PasswordHash::parse(costly).unwrap());
    let before = Credential { hash: hash.clone(), source_hash: hash.clone(), ..Credential::default() };
    let taken = take_in(before, &version("1"), &password("hunter2"), (&pool(), &policy())).await.unwrap();
    assert_ne!(taken.hash, hash, "it is another password's");
}

#[tokio::test]
async fn a_password_changed_elsewhere_outlives_a_rewrite_of_the_secret() {
    let pool = pool();
    let first = take_in(Credential::default(), &version("1"), &password("hunter2"), (&pool, &policy())).await.unwrap();
    let elsewhere = Credential { hash: Some(PasswordHash::parse(BCRYPT).unwrap()), ..first.clone() };
    let rewritten = take_in(elsewhere.clone(), &version("2"), &password("hunter2"), (&pool, &policy())).await.unwrap();
    assert_eq!(rewritten.hash, elsewhere.hash);
    let changed = take_in(elsewhere.clone(), &version("3"), &password("hunter3"), (&pool, &policy())).await.unwrap();
    assert_ne!(changed.hash, elsewhere.hash);
}

#[tokio::test]
async fn a_lost_hash_is_recreated() {
    let pool = pool();
    let first = take_in(Credential::default(), &version("1"), &password("hunter2"), (&pool, &policy())).await.unwrap();
    let damaged = Credential { hash: None, ..first };
    let repaired = take_in(damaged, &version("2"), &password("hunter2"), (&pool, &policy())).await.unwrap();
    assert!(repaired.hash.is_some());
}
