//! Credentials in their Secrets. Every write is a compare-and-swap, so concurrent writes are never lost.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use roster_api::{IDENTITY_SECRET_TYPE, User};
use roster_credentials::claim::{Identifier, IdentifierKind};
use roster_credentials::credential::{Credential, Summary};
use roster_credentials::record::{Claim, Corrupt, read_credential, write_credential};
use serde_json::json;
use thiserror::Error;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::login_user::LoginUser;
use super::uncounted::UncountedFailures;
use crate::metrics::Metrics;

/// Timeout of requests to kube-apiserver.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of attempts at a write that conflicts with others.
const ATTEMPTS: usize = 16;

/// Why a credential can't be read or written.
#[derive(Clone, Debug, Error)]
pub enum VaultError {
    /// kube-apiserver does not answer, or fails.
    #[error("the API server does not answer")]
    Unavailable,
    /// kube-apiserver rejects the write of this Secret.
    #[error("the API server rejects the write")]
    Rejected,
    /// The Secret has `immutable: true`.
    #[error("the identity Secret is immutable")]
    Immutable,
    /// Failed attempts are not yet counted.
    #[error("failed attempts can't be counted at the moment")]
    Uncounted,
    /// The stored data does not parse.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// Every attempt at the write conflicted.
    #[error("too many concurrent changes to the credential, try again")]
    Contended,
}

/// A credential as it was read.
#[derive(Clone)]
pub struct OpenedCredential {
    secret: Secret,
    /// The stored credential.
    pub credential: Credential,
    /// When the read began.
    pub read: Instant,
}

impl OpenedCredential {
    /// Whether the Secret is immutable, so that failures can't be counted in it.
    pub fn is_immutable(&self) -> bool {
        self.secret.immutable == Some(true)
    }

    /// Returns a credential as read at that revision.
    #[cfg(test)]
    pub fn at_revision(revision: &str) -> Self {
        let mut secret = Secret::default();
        secret.metadata.resource_version = Some(revision.to_owned());
        Self { secret, credential: Credential::default(), read: Instant::now() }
    }

    /// Whether its revision is that of `other` or later. False if that can't be determined.
    pub fn is_as_new_as(&self, other: &Self) -> bool {
        let revision = |opened: &Self| opened.secret.metadata.resource_version.as_ref()?.parse::<u64>().ok();
        matches!((revision(self), revision(other)), (Some(own), Some(other)) if own >= other)
    }
}

/// Reads and writes credentials.
pub struct Vault {
    secrets: Api<Secret>,
    users: Api<User>,
    metrics: Arc<Metrics>,
    /// Failed attempts that could not be written.
    pub uncounted: UncountedFailures,
}

impl Vault {
    /// Creates a vault on the Secrets of Roster's own namespace.
    pub fn new(client: Client, namespace: &str, metrics: Arc<Metrics>) -> Self {
        let uncounted = UncountedFailures::new(metrics.uncounted_failures.clone());
        Self { secrets: Api::namespaced(client.clone(), namespace), users: Api::all(client), metrics, uncounted }
    }

    /// Reads the Secret that holds the credential of the user with that username. `None` if it does not exist, does not
    /// belong to the User with that UID, or is being moved to a new username.
    ///
    /// # Errors
    /// If kube-apiserver does not answer, or the stored data does not parse.
    pub async fn open(&self, username: &str, uid: &str) -> Result<Option<OpenedCredential>, VaultError> {
        let identifier = Identifier { kind: IdentifierKind::Username, text: username.to_owned() };
        let read = Instant::now();
        let answer = timeout(ANSWER_TIMEOUT, self.secrets.get_opt(&identifier.secret_name())).await;
        let secret = match answer {
            Ok(Ok(secret)) => secret,
            Ok(Err(error)) => return Err(unavailable(&error)),
            Err(_) => return Err(VaultError::Unavailable),
        };
        let is_theirs = |secret: &Secret| {
            secret.type_.as_deref() == Some(IDENTITY_SECRET_TYPE)
                && Claim::read(&secret.metadata).is_some_and(|claim| claim.owner_uid == uid && claim.holds_credential())
        };
        let Some(secret) = secret.filter(is_theirs) else { return Ok(None) };
        let credential = read_credential(&secret)?;
        Ok(Some(OpenedCredential { secret, credential, read }))
    }

    /// Like [`Vault::open`], for a change that will be saved.
    ///
    /// # Errors
    /// As [`Vault::open`], or if the Secret is immutable.
    pub async fn open_for_update(&self, username: &str, uid: &str) -> Result<Option<OpenedCredential>, VaultError> {
        let opened = self.open(username, uid).await?;
        if opened.as_ref().is_some_and(OpenedCredential::is_immutable) {
            return Err(VaultError::Immutable);
        }
        Ok(opened)
    }

    /// Writes the changed credential. Returns false if another writer was faster and nothing was written: open it
    /// again, and keep the lost write with [`Vault::lost`]. If the write fails, a failed login that it should have
    /// counted is kept for later.
    ///
    /// # Errors
    /// If kube-apiserver does not answer, or rejects the write.
    pub async fn save(&self, opened: &OpenedCredential, credential: &Credential) -> Result<bool, VaultError> {
        Ok(self.save_or_defer(opened, credential).await?.is_some())
    }

    /// Like [`Vault::save`], but returns the credential as stored, or `None` if another writer was faster.
    ///
    /// # Errors
    /// As [`Vault::save`].
    pub async fn save_or_defer(
        &self,
        opened: &OpenedCredential,
        credential: &Credential,
    ) -> Result<Option<OpenedCredential>, VaultError> {
        let outcome = self.write(opened, credential).await;
        if let Err(error) = &outcome {
            self.defer_failures(opened, credential, error);
        }
        outcome
    }

    /// Keeps a write that lost to another writer until the next attempt at it is over.
    pub const fn lost(&self, opened: OpenedCredential, credential: Credential) -> LostWrite<'_> {
        LostWrite { vault: self, opened, credential, is_settled: false }
    }

    fn defer_failures(&self, opened: &OpenedCredential, credential: &Credential, error: &VaultError) {
        let Some(claim) = Claim::read(&opened.secret.metadata) else { return };
        let failures = credential.failed.added_since(&opened.credential.failed);
        if !failures.is_empty() {
            let uid = claim.owner_uid;
            self.uncounted.defer(&uid, failures, matches!(error, VaultError::Unavailable));
            warn!(uid, %error, "counting a failed login failed, refusing logins until it is counted");
        }
    }

    /// Like [`Vault::save_or_defer`], but does not keep the failures of a failed write for later.
    pub(super) async fn write(
        &self,
        opened: &OpenedCredential,
        credential: &Credential,
    ) -> Result<Option<OpenedCredential>, VaultError> {
        if opened.credential == *credential {
            return Ok(Some(opened.clone()));
        }
        let mut secret = opened.secret.clone();
        write_credential(&mut secret, credential);
        let (name, params) = (secret.name_any(), PostParams::default());
        let read = Instant::now();
        match timeout(ANSWER_TIMEOUT, self.secrets.replace(&name, &params, &secret)).await {
            Ok(Ok(written)) => {
                self.metrics.writes.inc("Secret");
                self.uncounted.note_storage_works();
                self.publish(&written, &opened.credential.summary(), &credential.summary()).await;
                Ok(Some(OpenedCredential { secret: written, credential: credential.clone(), read }))
            }
            // 409: another writer was faster. 404: the User was deleted, and there is nothing to keep.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 || status.code == 404 => Ok(None),
            Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                warn!(
                    secret = name,
                    code = status.code,
                    reason = status.reason,
                    "the API server rejected the write of a credential"
                );
                Err(VaultError::Rejected)
            }
            Ok(Err(error)) => Err(unavailable(&error)),
            Err(_) => Err(VaultError::Unavailable),
        }
    }

    /// Publishes immediately that sessions ended, because there may be no leader. The leader reports everything else.
    async fn publish(&self, secret: &Secret, before: &Summary, after: &Summary) {
        if before.changed == after.changed {
            return;
        }
        let Some(claim) = Claim::read(&secret.metadata) else { return };
        let status = json!({"sessionsNotBefore": after.changed});
        let patch = Patch::Merge(json!({"metadata": {"uid": claim.owner_uid}, "status": status}));
        let params = PatchParams::default();
        match timeout(ANSWER_TIMEOUT, self.users.patch_status(&claim.owner, &params, &patch)).await {
            Ok(Ok(_)) => self.metrics.writes.inc("UserStatus"),
            Ok(Err(error)) => {
                warn!(user = claim.owner, %error, "publishing a changed credential failed, leaving it to the leader");
            }
            Err(_) => warn!(user = claim.owner, "publishing a changed credential failed, leaving it to the leader"),
        }
    }

    /// Changes a credential, retrying on conflict. `change` may be called several times; if it leaves the credential
    /// unchanged, nothing is written. `None`: there is no credential.
    ///
    /// # Errors
    /// If kube-apiserver does not answer, the Secret can't be written, or every attempt conflicts.
    pub async fn update<T>(
        &self,
        person: &LoginUser,
        change: impl FnMut(&mut Credential) -> T,
    ) -> Result<Option<T>, VaultError> {
        self.change(&person.username, &person.uid, change).await
    }

    pub(super) async fn change<T>(
        &self,
        username: &str,
        uid: &str,
        mut change: impl FnMut(&mut Credential) -> T,
    ) -> Result<Option<T>, VaultError> {
        let mut lost = None;
        for _ in 0..ATTEMPTS {
            let Some(opened) = self.open_for_update(username, uid).await? else { return Ok(None) };
            let mut credential = opened.credential.clone();
            let outcome = change(&mut credential);
            let saved = self.save(&opened, &credential).await;
            LostWrite::settle(&mut lost);
            if saved? {
                return Ok(Some(outcome));
            }
            lost = Some(self.lost(opened, credential));
        }
        Err(VaultError::Contended)
    }
}

/// A write that lost to another writer. If dropped without [`LostWrite::settle`], for example because the request was
/// cancelled or the next read failed, it keeps the failure that the write should have counted.
pub struct LostWrite<'a> {
    vault: &'a Vault,
    opened: OpenedCredential,
    credential: Credential,
    is_settled: bool,
}

impl LostWrite<'_> {
    /// Discards the lost write: the next attempt was written, or kept its failure itself.
    pub fn settle(lost: &mut Option<Self>) {
        if let Some(mut lost) = lost.take() {
            lost.is_settled = true;
        }
    }
}

impl Drop for LostWrite<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.vault.defer_failures(&self.opened, &self.credential, &VaultError::Contended);
        }
    }
}

fn unavailable(error: &kube::Error) -> VaultError {
    // A parser error may quote its input, which is a Secret.
    match error {
        kube::Error::SerdeError(_) => warn!("accessing a credential failed: the API server's response is not a Secret"),
        error => warn!(%error, "accessing a credential failed"),
    }
    VaultError::Unavailable
}
