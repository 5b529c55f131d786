//! Moves the credential of a renamed User from the Secret of the earlier username to that of the new one.
//!
//! ```text
//!  1 close the earlier one ─▶ 2 claim the new one, with the credential ─▶ 3 give the earlier one up
//! ```
//!
//! Once it is closed no replica changes the credential there, however far behind its watches are; so that what is
//! carried over is the last that was written, and a crash between any two steps loses nothing: the next attempt finds
//! a closed Secret, or two of them, and goes on.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::PostParams;

use super::apply::{note, release};
use super::dereference::{Predecessor, Residence};
use super::{Context, Error};
use crate::api::User;
use crate::credentials::claim::IdentifierKind;
use crate::credentials::credential::Credential;
use crate::credentials::record::{self, Claim};

/// The credential that is to be carried over, if there is one. From here on it is not changed where it was.
pub(super) async fn take_leave(user: &User, residence: &Residence, ctx: &Context) -> Result<Option<Credential>, Error> {
    let Residence::Away(from) = residence else { return Ok(None) };
    let mut secret = own(user, &from.secret, ctx).await?;
    if Claim::read(&secret.metadata).is_some_and(|claim| claim.is_home()) {
        record::close(&mut secret);
        secret = replace(&secret, ctx).await?;
    }
    record::read_credential(&secret).map(Some).map_err(Error::Corrupt)
}

/// Gives up the Secret of the earlier username, whose credential stands elsewhere by now.
pub(super) async fn retire(user: &User, from: &Predecessor, ctx: &Context) -> Result<(), Error> {
    if !from.is_email {
        return release(&from.secret, &from.uid, ctx).await;
    }
    let mut secret = own(user, &from.secret, ctx).await?;
    record::write_credential(&mut secret, &Credential::default());
    record::open_as(&mut secret, IdentifierKind::Email);
    replace(&secret, ctx).await.map(drop)
}

/// An identity Secret that is the User's own.
pub(super) async fn own(user: &User, name: &str, ctx: &Context) -> Result<Secret, Error> {
    let secret = ctx.identities.get(name).await.map_err(Error::Apply)?;
    // The name may have changed hands since it was looked up: nobody's password goes into another one's credential.
    if Claim::read(&secret.metadata).is_none_or(|claim| Some(&claim.owner_uid) != user.metadata.uid.as_ref()) {
        return Err(Error::Overtaken);
    }
    Ok(secret)
}

/// Writes an identity Secret. Its resourceVersion goes along: a change made meanwhile by another way is not overwritten.
pub(super) async fn replace(secret: &Secret, ctx: &Context) -> Result<Secret, Error> {
    let written =
        ctx.identities.replace(&secret.name_any(), &PostParams::default(), secret).await.map_err(Error::Apply)?;
    ctx.metrics.writes.inc("Secret");
    note(&written, ctx);
    Ok(written)
}
