//! Asks people for their password again before a change that outlives their session: a stolen session alone must not be
//! enough to make an API key or to enrol a second factor.

use std::net::IpAddr;

use roster_credentials::credential::Credential;
use roster_credentials::lockout::source_of;
use roster_runtime::logins::hashed::Hashed;
use roster_runtime::logins::person::Person;
use roster_runtime::logins::vault::{LostWrite, Opened};
use roster_runtime::logins::verifier::Recheck;
use secrecy::SecretString;
use tracing::info;

use super::control::failed;
use super::control::{nothing_held, unreachable};
use super::state::DirectoryApi;
use super::status::{About, ApiError};
use super::target::Target;

/// How often a change is retried when another writer was faster.
pub const ATTEMPTS: usize = 16;

/// The password that callers send along to confirm a change of their own credential.
pub struct Confirmation<'a> {
    /// Field of the request that holds it, as errors name it.
    pub field: &'static str,
    /// The password; `None` if the request has none.
    pub password: Option<&'a SecretString>,
    /// Address that the request comes from, for the log.
    pub source: IpAddr,
    /// Whether users without a password may go on: they log in by another authenticator, so there is nothing to ask for.
    pub is_waived_without_password: bool,
}

/// Opens the credential of a user in order to change it, and checks the password where one is asked for. Returns the
/// credential as it was read and a copy to change.
///
/// # Errors
/// 422 if the password is missing or wrong. A wrong one has been counted by then, also with `dryRun`. 409 if other writers
/// are faster all the time.
pub async fn open_confirmed(
    api: &DirectoryApi,
    target: &Target,
    person: &Person,
    confirmation: Option<&Confirmation<'_>>,
    about: About<'_>,
    hashed: &mut Hashed,
) -> Result<(Opened, Credential), ApiError> {
    let vault = &api.logins.vault;
    let mut lost = None;
    for _ in 0..ATTEMPTS {
        let opened = vault.open_to_change(&person.username, &person.uid).await.map_err(unreachable)?;
        let opened = opened.ok_or_else(|| nothing_held(target, about.resource))?;
        let mut after = opened.credential.clone();
        let Some(confirmation) = confirmation else { return Ok((opened, after)) };
        let recheck = confirm_password(api, person, &mut after, confirmation, about, hashed).await?;
        if recheck == Recheck::Right {
            return Ok((opened, after));
        }
        let saved = vault.save(&opened, &after).await;
        LostWrite::settle(&mut lost);
        if saved.map_err(unreachable)? {
            log_recheck(recheck, person, &source_of(confirmation.source));
            return Err(ApiError::invalid(about, confirmation.field, "is not the password in use"));
        }
        lost = Some(vault.lost(opened, after));
    }
    Err(contended(about))
}

/// Logs a credential that was asked for again and was wrong: once its failure is counted, and not at each try to do so.
pub fn log_recheck(recheck: Recheck, person: &Person, source: &str) {
    if recheck == Recheck::Wrong {
        info!(user = person.name, source, "a credential that was asked for again was wrong");
    }
}

/// Judges the password, and counts a wrong one.
async fn confirm_password(
    api: &DirectoryApi,
    person: &Person,
    credential: &mut Credential,
    confirmation: &Confirmation<'_>,
    about: About<'_>,
    hashed: &mut Hashed,
) -> Result<Recheck, ApiError> {
    if confirmation.is_waived_without_password && credential.hash.is_none() {
        return Ok(Recheck::Right);
    }
    let Some(password) = confirmation.password else {
        return Err(ApiError::invalid(about, confirmation.field, "is needed: your password"));
    };
    let verifier = &api.logins.verifier;
    let matches = verifier.compare(password, credential.hash.as_ref(), hashed).await.map_err(failed)?;
    Ok(verifier.count(person, credential, matches))
}

/// Changes the credential of a user who confirms that with their password. `change` may be called several times; where it
/// leaves the credential as it is, nothing is written.
///
/// # Errors
/// As [`open_confirmed`]; 409 if other writers are faster all the time.
pub async fn update_confirmed<T>(
    api: &DirectoryApi,
    target: &Target,
    person: &Person,
    confirmation: Option<&Confirmation<'_>>,
    about: About<'_>,
    mut change: impl FnMut(&mut Credential) -> T,
) -> Result<T, ApiError> {
    let turn = api.logins.verifier.turn(&person.username).await;
    let _turn = turn.map_err(|busy| failed(busy.into()))?;
    let (vault, mut hashed, mut lost) = (&api.logins.vault, Hashed::default(), None);
    for _ in 0..ATTEMPTS {
        let (opened, mut after) = open_confirmed(api, target, person, confirmation, about, &mut hashed).await?;
        let outcome = change(&mut after);
        let saved = vault.save(&opened, &after).await;
        LostWrite::settle(&mut lost);
        if saved.map_err(unreachable)? {
            return Ok(outcome);
        }
        lost = Some(vault.lost(opened, after));
    }
    Err(contended(about))
}

/// 409: other writers are faster all the time.
pub fn contended(about: About<'_>) -> ApiError {
    ApiError::conflict("the credential is changed by others all the time", about)
}
