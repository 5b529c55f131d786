//! Moves the credential of a renamed User from the Secret of the earlier username to that of the new one.
//!
//! ```text
//!  1 close the earlier one ─▶ 2 claim the new one, with the credential ─▶ 3 release the earlier one
//! ```
//!
//! Once the earlier Secret is closed, no replica changes the credential in it, even if its watches lag. So the latest
//! credential is copied. A crash between two steps loses nothing: the next attempt finds one or two closed Secrets and
//! continues.

use roster_api::User;
use roster_credentials::claim::IdentifierKind;
use roster_credentials::credential::Credential;
use roster_credentials::record::{self, Claim};

use super::context::{Context, Error};
use super::dereference::{CredentialLocation, Predecessor};
use super::identity_secret::{own, release, replace};

/// Closes the Secret of the earlier username and returns its credential, if the credential must move.
pub(super) async fn close_predecessor(
    user: &User,
    location: &CredentialLocation,
    ctx: &Context,
) -> Result<Option<Credential>, Error> {
    let CredentialLocation::Earlier(from) = location else { return Ok(None) };
    let mut secret = own(user, &from.secret, ctx).await?;
    if Claim::read(&secret.metadata).is_some_and(|claim| claim.holds_credential()) {
        record::close(&mut secret);
        secret = replace(&secret, ctx).await?;
    }
    record::read_credential(&secret).map(Some).map_err(Error::Corrupt)
}

/// Releases the Secret of the earlier username, after its credential has moved.
pub(super) async fn release_predecessor(user: &User, from: &Predecessor, ctx: &Context) -> Result<(), Error> {
    if !from.is_email {
        return release(&from.secret, &from.uid, ctx).await;
    }
    let mut secret = own(user, &from.secret, ctx).await?;
    record::write_credential(&mut secret, &Credential::default());
    record::reopen_as(&mut secret, IdentifierKind::Email);
    replace(&secret, ctx).await.map(drop)
}
