//! Credentials in their Secrets. Every write is a compare-and-swap: nothing that somebody else has written is lost.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use thiserror::Error;
use tokio::time::timeout;
use tracing::warn;

use super::person::Person;
use crate::api::{IDENTITY_SECRET_TYPE, User};
use crate::credentials::claim::{Identifier, IdentifierKind};
use crate::credentials::credential::{Credential, Summary};
use crate::credentials::record::{Claim, Corrupt, read_credential, write_credential};
use crate::metrics::Metrics;

/// Longest wait for the API server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a write is tried that somebody else was faster than.
const ATTEMPTS: usize = 16;

/// Why a credential can't be read or written.
#[derive(Clone, Debug, Error)]
pub enum VaultError {
    /// The API server does not answer, or not as it should.
    #[error("the API server does not answer")]
    Unavailable,
    /// What is stored does not parse.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// Others are faster all the time.
    #[error("the credential is changed by others all the time")]
    Contended,
}

/// A credential as it was read.
#[derive(Clone)]
pub struct Opened {
    secret: Secret,
    /// What it holds.
    pub credential: Credential,
}

/// Reads and writes credentials.
pub struct Vault {
    secrets: Api<Secret>,
    users: Api<User>,
    metrics: Arc<Metrics>,
}

impl Vault {
    /// For the Secrets of Roster's own namespace.
    pub fn new(client: Client, namespace: &str, metrics: Arc<Metrics>) -> Self {
        Self { secrets: Api::namespaced(client.clone(), namespace), users: Api::all(client), metrics }
    }

    /// Reads the Secret that holds, or would hold, the credential of whoever logs in by that username. `None` where there
    /// is none, where it is not that of the User of that UID, or where it is on its way to a new username.
    ///
    /// # Errors
    /// If the API server does not answer, or what is stored does not parse.
    pub async fn open(&self, username: &str, uid: &str) -> Result<Option<Opened>, VaultError> {
        let identifier = Identifier { kind: IdentifierKind::Username, text: username.to_owned() };
        let answer = timeout(ANSWER_TIMEOUT, self.secrets.get_opt(&identifier.secret_name())).await;
        let secret = match answer {
            Ok(Ok(secret)) => secret,
            Ok(Err(error)) => return Err(unavailable(&error)),
            Err(_) => return Err(VaultError::Unavailable),
        };
        let is_theirs = |secret: &Secret| {
            secret.type_.as_deref() == Some(IDENTITY_SECRET_TYPE)
                && Claim::read(&secret.metadata).is_some_and(|claim| claim.owner_uid == uid && claim.is_home())
        };
        let Some(secret) = secret.filter(is_theirs) else { return Ok(None) };
        let credential = read_credential(&secret)?;
        Ok(Some(Opened { secret, credential }))
    }

    /// Writes what the credential has become. False: somebody else was faster, and nothing is written.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn save(&self, opened: &Opened, credential: &Credential) -> Result<bool, VaultError> {
        if opened.credential == *credential {
            return Ok(true);
        }
        let mut secret = opened.secret.clone();
        write_credential(&mut secret, credential);
        let (name, params) = (secret.name_any(), PostParams::default());
        match timeout(ANSWER_TIMEOUT, self.secrets.replace(&name, &params, &secret)).await {
            Ok(Ok(written)) => {
                self.metrics.writes.inc("Secret");
                self.publish(&written, &opened.credential.summary(), &credential.summary()).await;
                Ok(true)
            }
            // Gone: the User was deleted, and there is nothing to keep.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 || status.code == 404 => Ok(false),
            Ok(Err(error)) => Err(unavailable(&error)),
            Err(_) => Err(VaultError::Unavailable),
        }
    }

    /// Tells at once what ends sessions: the leader may be changing hands. What it reports itself, and tells people of
    /// because it has turned, is left to it.
    async fn publish(&self, secret: &Secret, before: &Summary, after: &Summary) {
        if (before.changed, before.locked_until) == (after.changed, after.locked_until) {
            return;
        }
        let Some(claim) = Claim::read(&secret.metadata) else { return };
        let status = json!({"sessionsNotBefore": after.changed, "lockedUntil": after.locked_until});
        let patch = Patch::Merge(json!({"metadata": {"uid": claim.owner_uid}, "status": status}));
        let params = PatchParams::default();
        match timeout(ANSWER_TIMEOUT, self.users.patch_status(&claim.owner, &params, &patch)).await {
            Ok(Ok(_)) => self.metrics.writes.inc("UserStatus"),
            Ok(Err(error)) => warn!(user = claim.owner, %error, "the leader has to tell of a change"),
            Err(_) => warn!(user = claim.owner, "the leader has to tell of a change"),
        }
    }

    /// Changes a credential, however many others do so at the same time. `change` may be called several times; where it
    /// leaves the credential as it is, nothing is written. `None`: there is no credential.
    ///
    /// # Errors
    /// If the API server does not answer, or others are faster all the time.
    pub async fn update<T>(
        &self,
        person: &Person,
        mut change: impl FnMut(&mut Credential) -> T,
    ) -> Result<Option<T>, VaultError> {
        for _ in 0..ATTEMPTS {
            let Some(opened) = self.open(&person.username, &person.uid).await? else { return Ok(None) };
            let mut credential = opened.credential.clone();
            let outcome = change(&mut credential);
            if self.save(&opened, &credential).await? {
                return Ok(Some(outcome));
            }
        }
        Err(VaultError::Contended)
    }
}

fn unavailable(error: &kube::Error) -> VaultError {
    // An error of the parser may quote what it read: a Secret.
    match error {
        kube::Error::SerdeError(_) => warn!("a credential can't be reached: what the API server answers is no Secret"),
        error => warn!(%error, "a credential can't be reached"),
    }
    VaultError::Unavailable
}
