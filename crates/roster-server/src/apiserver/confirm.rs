//! Changes to credentials: who may make them is checked again directly before each write.
//!
//! Users are asked for their password again before a change that outlives their session: a stolen session alone must not
//! be enough to create an API key or to enroll a second factor.

use std::net::IpAddr;

use roster_credentials::credential::Credential;
use roster_credentials::lockout::source_of;
use roster_runtime::logins::hashed::ComputedHashes;
use roster_runtime::logins::login_user::LoginUser;
use roster_runtime::logins::vault::{LostWrite, OpenedCredential};
use roster_runtime::logins::verifier::Recheck;
use secrecy::SecretString;
use tokio::sync::MutexGuard;
use tracing::info;

use super::control::{control, failed, load_user, no_credential, unreachable};
use super::state::DirectoryApi;
use super::status::{About, ApiError};
use super::target::Target;

/// Maximum number of attempts when writes conflict.
pub const MAX_ATTEMPTS: usize = 16;

/// The password that callers send to confirm a change of their own credential.
pub struct Confirmation<'a> {
    /// Field of the request that holds it, for errors.
    pub field: &'static str,
    /// The password; `None` if the request has none.
    pub password: Option<&'a SecretString>,
    /// Address that the request comes from, for the log.
    pub source: IpAddr,
    /// Whether users without a password need no confirmation: they log in through another authenticator.
    pub is_waived_without_password: bool,
}

/// A change to a user's credential.
pub struct CredentialChange<'a> {
    /// State shared by the handlers.
    pub api: &'a DirectoryApi,
    /// The User, and the caller that requests the change.
    pub target: &'a Target,
    /// The same User, as logins know it.
    pub person: &'a LoginUser,
    /// Whether the caller is that User. Everyone else must control the identity.
    pub is_own: bool,
    /// How the caller confirms the change. `None` if no confirmation is needed.
    pub confirmation: Option<Confirmation<'a>>,
}

impl CredentialChange<'_> {
    /// Opens the credential, and checks the password if one is required, and what [`Self::check`] does. Returns the
    /// credential as it was read and a copy to change. `None` if there is no credential.
    ///
    /// # Errors
    /// As [`Self::check`]. 422 if the password is missing or wrong. A wrong one has been counted by then, even with
    /// `dryRun`. 409 if writes keep conflicting.
    pub async fn open(&self, hashed: &mut ComputedHashes) -> Result<Option<(OpenedCredential, Credential)>, ApiError> {
        let (vault, person) = (&self.api.logins.vault, self.person);
        let mut lost = None;
        for _ in 0..MAX_ATTEMPTS {
            let opened = vault.open_for_update(&person.username, &person.uid).await.map_err(unreachable)?;
            let Some(opened) = opened else { return Ok(None) };
            let mut after = opened.credential.clone();
            let recheck = match &self.confirmation {
                Some(confirmation) => self.check_password(confirmation, &mut after, hashed).await?,
                None => Recheck::Right,
            };
            self.check().await?;
            let Some(confirmation) = self.confirmation.as_ref().filter(|_| recheck != Recheck::Right) else {
                return Ok(Some((opened, after)));
            };
            let saved = vault.save(&opened, &after).await;
            LostWrite::settle(&mut lost);
            if saved.map_err(unreachable)? {
                log_recheck(recheck, person, &source_of(confirmation.source));
                return Err(ApiError::invalid(self.target.about(), confirmation.field, "is not the current password"));
            }
            lost = Some(vault.lost(opened, after));
        }
        Err(contended(self.target.about()))
    }

    /// Verifies the password, and counts a wrong one.
    async fn check_password(
        &self,
        confirmation: &Confirmation<'_>,
        credential: &mut Credential,
        hashed: &mut ComputedHashes,
    ) -> Result<Recheck, ApiError> {
        if confirmation.is_waived_without_password && credential.hash.is_none() {
            return Ok(Recheck::Right);
        }
        let Some(password) = confirmation.password else {
            return Err(ApiError::invalid(
                self.target.about(),
                confirmation.field,
                "is required: your current password",
            ));
        };
        let verifier = &self.api.logins.verifier;
        let matches = verifier.compare(password, credential.hash.as_ref(), hashed).await.map_err(failed)?;
        let recheck = verifier.count(self.person, credential, matches);
        if recheck == Recheck::Right {
            credential.failed.clear_sessions();
        }
        Ok(recheck)
    }

    /// Checks again that the caller may make the change, by the current state: waiting and hashing take time, in which
    /// the session may have ended, the API key may have been revoked, or the User may have been given roles that the
    /// caller may not bind. Call it between
    /// reading and saving the credential: an administrator who resets the credential before giving the User a role then
    /// makes the save of every earlier request conflict or fail this check.
    ///
    /// # Errors
    /// 401 if the caller is not active or its credential is no longer valid, 403 if it does not control the identity, 404
    /// if the User is gone, 429 or 503 if that can't be judged.
    pub async fn check(&self) -> Result<(), ApiError> {
        if !self.is_own {
            // Not cached: an earlier answer may be about another set of roles.
            control(self.api, self.target).await?;
        }
        check_current(self.api, self.target).await
    }

    /// Makes the change while holding the lock of [`lock_for_recheck`], as [`Self::apply`] does.
    ///
    /// # Errors
    /// As [`Self::open`]; 409 if there is no credential, 429 if too many requests wait for the lock.
    pub async fn make<T>(&self, change: impl FnMut(&mut Credential) -> T) -> Result<T, ApiError> {
        let _lock = lock_for_recheck(self.api, self.person).await?;
        self.apply(change).await?.ok_or_else(|| no_credential(self.target))
    }

    /// Makes the change. `change` may be called several times. If it leaves the credential unchanged, nothing is
    /// written. `None` if there is no credential. Without the lock, no credential may be verified.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn apply<T>(&self, mut change: impl FnMut(&mut Credential) -> T) -> Result<Option<T>, ApiError> {
        let (vault, mut hashed, mut lost) = (&self.api.logins.vault, ComputedHashes::default(), None);
        for _ in 0..MAX_ATTEMPTS {
            let Some((opened, mut after)) = self.open(&mut hashed).await? else { return Ok(None) };
            let outcome = change(&mut after);
            let saved = vault.save(&opened, &after).await;
            LostWrite::settle(&mut lost);
            if saved.map_err(unreachable)? {
                return Ok(Some(outcome));
            }
            lost = Some(vault.lost(opened, after));
        }
        Err(contended(self.target.about()))
    }
}

/// Takes the lock under which a credential of this user is verified again.
///
/// # Errors
/// 429 if too many requests wait.
pub async fn lock_for_recheck<'a>(api: &'a DirectoryApi, person: &LoginUser) -> Result<MutexGuard<'a, ()>, ApiError> {
    api.logins.verifier.lock_for_recheck(&person.username).await.map_err(|busy| failed(busy.into()))
}

/// Checks again, after a wait, that the request would still be authenticated and the User exists. Otherwise a key could
/// be created after the end of the session or API key that requested it.
///
/// # Errors
/// 401 if the caller is not active or its credential is no longer valid, 404 if the User is gone, 429 or 503 if that
/// can't be judged.
async fn check_current(api: &DirectoryApi, target: &Target) -> Result<(), ApiError> {
    let credential = target.credential.as_ref();
    let credential = credential.ok_or_else(|| ApiError::internal("the credential of the request is unknown"))?;
    // Boxed because it is large.
    Box::pin(credential.judge()).await?;
    if api.is_inactive(&target.caller) {
        return Err(ApiError::unauthorized());
    }
    load_user(api, target).map(drop)
}

/// Logs a wrong confirmation, once its failure has been counted and not on each attempt to count it.
pub fn log_recheck(recheck: Recheck, person: &LoginUser, source: &str) {
    if recheck == Recheck::Wrong {
        info!(user = person.name, source, "wrong password or code in a confirmation");
    }
}

/// 409: writes keep conflicting.
pub fn contended(about: About<'_>) -> ApiError {
    ApiError::conflict("too many concurrent changes to the credential, try again", about)
}

#[cfg(test)]
#[path = "confirm_tests.rs"]
mod tests;
