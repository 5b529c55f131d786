//! Counts failed attempts that could not be written when they happened.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use roster_credentials::lockout::{Failure, LockoutPolicy};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::login_user::LoginUser;
use super::vault::{Vault, VaultError};
use crate::informers::Informers;

/// Pause between attempts to write waiting failures.
const RETRY: Duration = Duration::from_secs(1);

/// Writes waiting failures until `shutdown`.
///
/// # Errors
/// Never: failed writes are retried.
pub async fn run(
    vault: Arc<Vault>,
    informers: Arc<Informers>,
    limits: LockoutPolicy,
    shutdown: CancellationToken,
) -> Result<()> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        for uid in vault.uncounted.users() {
            let Some(person) = LoginUser::of_uid(&informers, &uid) else {
                vault.uncounted.remove(&uid, usize::MAX);
                continue;
            };
            match count(&vault, &person.username, &uid, &limits).await {
                // kube-apiserver accepts no writes: the other writes would fail too.
                Err(VaultError::Unavailable) => break,
                // kube-apiserver answers: any remaining failure concerns only this user.
                _ => vault.uncounted.note_storage_works(),
            }
        }
    }
}

/// Adds a user's waiting failures to the stored ones.
async fn count(vault: &Vault, username: &str, uid: &str, limits: &LockoutPolicy) -> Result<(), VaultError> {
    let failures = vault.uncounted.failures_of(uid);
    // Without a credential there is nothing to guess. The failures wait until the user has one again.
    let Some(opened) = vault.open_for_update(username, uid).await? else { return Ok(()) };
    let mut credential = opened.credential.clone();
    for Failure { source, at } in &failures {
        credential.failed.fail(source, limits, *at);
    }
    if vault.write(&opened, &credential).await?.is_some() {
        vault.uncounted.remove(uid, failures.len());
        info!(uid, count = failures.len(), "counted failed logins late");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU16, Ordering};

    use axum::http::{Method, Request, Response};
    use jiff::Timestamp;
    use kube::Client;
    use kube::client::Body;
    use serde_json::json;

    use super::*;
    use crate::metrics::Metrics;
    use roster_api::{User, UserSpec};
    use roster_credentials::claim::{Identifier, IdentifierKind};
    use roster_credentials::credential::Credential;
    use roster_credentials::record::{build, read_credential};

    fn limits() -> LockoutPolicy {
        let (window, duration) = (Duration::from_secs(900), Duration::from_secs(900));
        LockoutPolicy { per_source: 5, per_user: 100, window, duration }
    }

    /// Returns a vault with a mock API server that holds one identity Secret and answers writes with the status
    /// `answer`.
    fn vault(answer: &Arc<AtomicU16>) -> (Arc<Vault>, Arc<Mutex<serde_json::Value>>) {
        let mut user = User::new("jane", UserSpec::default());
        user.metadata.uid = Some("u-1".into());
        let identifier = Identifier { kind: IdentifierKind::Username, text: "jane".into() };
        let mut secret = build(&user, "roster-system", &identifier, &Credential::default());
        secret.metadata.uid = Some("s-1".into());
        secret.metadata.resource_version = Some("7".into());
        let stored = Arc::new(Mutex::new(serde_json::to_value(&secret).unwrap()));
        let (store, answer) = (Arc::clone(&stored), Arc::clone(answer));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (store, code) = (Arc::clone(&store), answer.load(Ordering::SeqCst));
            async move {
                let is_write = *request.method() == Method::PUT;
                let refused =
                    json!({"kind": "Status", "status": "Failure", "code": code, "reason": "x", "message": "x"});
                let body = if !is_write {
                    store.lock().unwrap().clone()
                } else if code == 200 {
                    let bytes = request.into_body().collect_bytes().await.unwrap();
                    let written: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                    store.lock().unwrap().clone_from(&written);
                    written
                } else {
                    refused
                };
                let status = if is_write { code } else { 200 };
                let answer = Response::builder().status(status).body(Body::from(serde_json::to_vec(&body).unwrap()));
                Ok::<_, std::convert::Infallible>(answer.unwrap())
            }
        });
        let metrics = Arc::new(Metrics::default());
        (Arc::new(Vault::new(Client::new(service, "default"), "roster-system", metrics)), stored)
    }

    async fn fail(vault: &Vault) -> Result<bool, VaultError> {
        let opened = vault.open("jane", "u-1").await.unwrap().unwrap();
        let mut credential = opened.credential.clone();
        credential.failed.fail("192.0.2.7", &limits(), Timestamp::now());
        vault.save(&opened, &credential).await
    }

    fn counted(stored: &Mutex<serde_json::Value>) -> u32 {
        let secret = serde_json::from_value(stored.lock().unwrap().clone()).unwrap();
        read_credential(&secret).unwrap().failed.count()
    }

    #[tokio::test]
    async fn while_storage_fails_logins_are_refused_and_failures_counted_later() {
        let answer = Arc::new(AtomicU16::new(500));
        let (vault, stored) = vault(&answer);
        assert!(matches!(fail(&vault).await, Err(VaultError::Unavailable)));
        assert!(vault.uncounted.blocks("u-1") && vault.uncounted.blocks_all_users());
        assert!(matches!(count(&vault, "jane", "u-1", &limits()).await, Err(VaultError::Unavailable)));
        assert!(vault.uncounted.blocks("u-1") && vault.uncounted.blocks_all_users());
        assert_eq!(counted(&stored), 0);
        answer.store(200, Ordering::SeqCst);
        count(&vault, "jane", "u-1", &limits()).await.unwrap();
        assert!(!vault.uncounted.blocks("u-1") && !vault.uncounted.blocks_all_users());
        assert_eq!(counted(&stored), 1);
    }

    #[tokio::test]
    async fn a_secret_that_cannot_be_written_blocks_only_its_user() {
        let answer = Arc::new(AtomicU16::new(422));
        let (vault, stored) = vault(&answer);
        for _ in 0..3 {
            assert!(matches!(fail(&vault).await, Err(VaultError::Rejected)));
        }
        assert!(vault.uncounted.blocks("u-1"));
        assert!(!vault.uncounted.blocks("u-2") && !vault.uncounted.blocks_all_users());
        answer.store(200, Ordering::SeqCst);
        count(&vault, "jane", "u-1", &limits()).await.unwrap();
        assert_eq!(counted(&stored), 3, "no failure was lost");
        assert!(!vault.uncounted.blocks("u-1"));
    }

    #[tokio::test]
    async fn failures_are_counted_later_if_writes_keep_conflicting() {
        let answer = Arc::new(AtomicU16::new(409));
        let (vault, stored) = vault(&answer);
        let change = |credential: &mut Credential| credential.failed.fail("192.0.2.7", &limits(), Timestamp::now());
        assert!(matches!(vault.change("jane", "u-1", change).await, Err(VaultError::Contended)));
        assert!(vault.uncounted.blocks("u-1") && !vault.uncounted.blocks_all_users());
        answer.store(200, Ordering::SeqCst);
        count(&vault, "jane", "u-1", &limits()).await.unwrap();
        assert_eq!(counted(&stored), 1, "sixteen attempts to write it are one failure");
    }

    #[tokio::test]
    async fn an_immutable_secret_is_not_opened_for_change() {
        let (vault, stored) = vault(&Arc::new(AtomicU16::new(200)));
        stored.lock().unwrap()["immutable"] = json!(true);
        let opened = vault.open("jane", "u-1").await.unwrap().unwrap();
        assert!(opened.is_immutable(), "reading still works, so API keys are accepted");
        assert!(matches!(vault.open_for_update("jane", "u-1").await, Err(VaultError::Immutable)));
    }
}
