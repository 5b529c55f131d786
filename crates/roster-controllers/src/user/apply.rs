//! Step 3: writes the planned changes and returns what kube-apiserver confirmed.

use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::PostParams;
use roster_api::{IDENTITY_SECRET_TYPE, User};
use roster_credentials::claim::{Identifier, IdentifierKind};
use roster_credentials::credential::{Credential, SetBy, SourceVersion, Summary};
use roster_credentials::hash::PasswordHash;
use roster_credentials::policy::PasswordPolicy;
use roster_credentials::pool::HashPool;
use roster_credentials::record::{self, Claim};
use roster_credentials::source::Source;
use tracing::{info, warn};

use super::context::{Context, Error, is_conflict};
use super::dereference::{CredentialLocation, Obstacle, Problem};
use super::identity_secret::{note, own, release, replace};
use super::plan::{CredentialStep, Plan, Step};
use super::rename;

/// Result of the writes.
#[derive(Debug)]
pub(super) struct Applied {
    /// Identifiers that the User cannot have, and why. The username comes first.
    pub(super) conflicts: Vec<(Identifier, Obstacle)>,
    /// Summary of the credential, without secrets.
    pub(super) credential: Summary,
    /// Reason why the password Secret was not used.
    pub(super) problem: Option<Problem>,
    /// Whether the identity Secret with the credential was deleted and has been recreated without it.
    pub(super) is_lost: bool,
}

/// Returns whether the User had a credential when it was last reconciled.
fn had_credential(user: &User) -> bool {
    let status = user.status.as_ref();
    status.is_some_and(|status| status.password_changed_time.is_some() || status.second_factor_enabled == Some(true))
}

pub(super) async fn apply(user: &User, plan: Plan, ctx: &Context) -> Result<Applied, Error> {
    let (problem, new_source) = match plan.credential {
        CredentialStep::Keep => (None, None),
        CredentialStep::Report(problem) => (Some(problem), None),
        CredentialStep::Store(version, source) => (None, Some((version, source))),
    };
    let mut applied = Applied { conflicts: Vec::new(), credential: plan.summary, problem, is_lost: false };
    try_join_all(plan.release.iter().map(|(name, uid)| release(name, uid, ctx))).await?;
    match hold_username(user, plan.username, &plan.location, new_source, ctx).await? {
        Held::Yes(Some(summary)) => applied.credential = summary,
        Held::Yes(None) => {}
        Held::Created(summary) => {
            applied.credential = summary;
            applied.is_lost = plan.location == CredentialLocation::Current && had_credential(user);
        }
        // A User without its username holds no emails.
        Held::By(conflict) => {
            applied.conflicts.push(conflict);
            return Ok(applied);
        }
    }
    if let CredentialLocation::Earlier(from) | CredentialLocation::Moved(from) = &plan.location {
        rename::release_predecessor(user, from, ctx).await?;
    }
    let emails = plan.emails.into_iter().map(|(identifier, step)| hold_email(user, identifier, step, ctx));
    applied.conflicts.extend(try_join_all(emails).await?.into_iter().flatten());
    Ok(applied)
}

enum Held {
    /// The User already held it. Contains the summary of the credential if that was read.
    Yes(Option<Summary>),
    /// The User claimed it now, with this credential.
    Created(Summary),
    /// Something else holds it.
    By((Identifier, Obstacle)),
}

type NewSource = Option<(SourceVersion, Source)>;

/// Claims the username and writes the credential. Both are in one Secret, so this is a single write.
async fn hold_username(
    user: &User,
    (identifier, step): (Identifier, Step),
    location: &CredentialLocation,
    new_source: NewSource,
    ctx: &Context,
) -> Result<Held, Error> {
    let moved = rename::close_predecessor(user, location, ctx).await?;
    match step {
        Step::Concede(other) => return Ok(Held::By((identifier, other))),
        Step::Keep => {
            if new_source.is_none() && moved.is_none() && *location != CredentialLocation::Closed {
                return Ok(Held::Yes(None));
            }
            let secret = own(user, &identifier.secret_name(), ctx).await?;
            return update_credential(secret, moved, new_source, ctx).await;
        }
        Step::TakeOver(claim) => take_over(&identifier, &claim, ctx).await?,
        Step::Claim => {}
    }
    let credential = with_source(moved.clone().unwrap_or_default(), new_source.as_ref(), ctx).await?;
    match claim(user, &identifier, &credential, ctx).await? {
        Claimed::Fresh => Ok(Held::Created(credential.summary())),
        Claimed::By(other) => Ok(Held::By((identifier, other))),
        // The index did not have it yet, for example after a restart.
        Claimed::Before(secret) => update_credential(*secret, moved, new_source, ctx).await,
    }
}

async fn hold_email(
    user: &User,
    identifier: Identifier,
    step: Step,
    ctx: &Context,
) -> Result<Option<(Identifier, Obstacle)>, Error> {
    match step {
        Step::Keep => return Ok(None),
        Step::Concede(other) => return Ok(Some((identifier, other))),
        Step::TakeOver(claim) => take_over(&identifier, &claim, ctx).await?,
        Step::Claim => {}
    }
    Ok(match claim(user, &identifier, &Credential::default(), ctx).await? {
        Claimed::Fresh => None,
        // Restores the label by which the index finds the Secret.
        Claimed::Before(mut secret) => {
            record::reopen_as(&mut secret, IdentifierKind::Email);
            replace(&secret, ctx).await?;
            None
        }
        Claimed::By(other) => Some((identifier, other)),
    })
}

enum Claimed {
    Fresh,
    Before(Box<Secret>),
    By(Obstacle),
}

/// Creates the identity Secret. If several Users compete, etcd decides which one is first.
async fn claim(user: &User, identifier: &Identifier, credential: &Credential, ctx: &Context) -> Result<Claimed, Error> {
    let secret = record::build(user, &ctx.namespace, identifier, credential);
    match ctx.identities.create(&PostParams::default(), &secret).await {
        Ok(created) => {
            ctx.metrics.writes.inc("Secret");
            note(&created, ctx);
            Ok(Claimed::Fresh)
        }
        Err(error) if is_conflict(&error) => {
            let name = identifier.secret_name();
            // Before the read, so that a later release of the name wakes this User.
            ctx.index().wait_for(&name, &user.name_any());
            let existing = ctx.identities.get(&name).await.map_err(Error::Apply)?;
            let owner = Claim::read(&existing.metadata);
            let owner = owner.filter(|_| existing.type_.as_deref() == Some(IDENTITY_SECRET_TYPE));
            Ok(match owner {
                Some(owner) if Some(&owner.owner_uid) == user.metadata.uid.as_ref() => {
                    Claimed::Before(Box::new(existing))
                }
                Some(_) => Claimed::By(Obstacle::User),
                None => Claimed::By(Obstacle::Object(format!(
                    "Secret {}/{}, which Roster did not create",
                    ctx.namespace,
                    existing.name_any()
                ))),
            })
        }
        Err(error) => Err(Error::Apply(error)),
    }
}

/// Deletes identity Secrets whose owner no longer exists, so that no password hash stays behind.
pub(super) async fn sweep(ctx: &Context) {
    let orphans: Vec<(String, String)> = ctx.index().orphans().collect();
    for (name, uid) in orphans {
        match release(&name, &uid, ctx).await {
            Ok(()) => info!(secret = name, "deleted orphaned identity Secret"),
            Err(error) => {
                warn!(secret = name, error = ?error, "deleting orphaned identity Secret failed");
            }
        }
    }
}

/// Deletes the claim of a User that no longer exists, unless the claim has changed.
async fn take_over(identifier: &Identifier, gone: &Claim, ctx: &Context) -> Result<(), Error> {
    let name = identifier.secret_name();
    release(&name, &gone.uid, ctx).await?;
    info!(secret = name, former_owner = gone.owner, "took over the claim of a deleted User");
    Ok(())
}

/// Writes a moved credential or a new password into the Secret of the username.
async fn update_credential(
    mut secret: Secret,
    moved: Option<Credential>,
    new_source: NewSource,
    ctx: &Context,
) -> Result<Held, Error> {
    let holds_credential = Claim::read(&secret.metadata).is_some_and(|claim| claim.holds_credential());
    let before = record::read_credential(&secret).map_err(Error::Corrupt)?;
    // An open Secret already contains the moved credential.
    let moved = moved.filter(|_| !holds_credential).unwrap_or_else(|| before.clone());
    let after = with_source(moved, new_source.as_ref(), ctx).await?;
    if before != after || !holds_credential {
        record::write_credential(&mut secret, &after);
        record::reopen_as(&mut secret, IdentifierKind::Username);
        replace(&secret, ctx).await?;
    }
    Ok(Held::Yes(Some(after.summary())))
}

async fn with_source(
    before: Credential,
    new_source: Option<&(SourceVersion, Source)>,
    ctx: &Context,
) -> Result<Credential, Error> {
    match new_source {
        Some((version, source)) => apply_source(before, version, source, (&ctx.pool, &ctx.password_policy)).await,
        None => Ok(before),
    }
}

/// Returns the credential after the password Secret is applied. The same content again changes nothing.
async fn apply_source(
    before: Credential,
    version: &SourceVersion,
    source: &Source,
    (pool, policy): (&HashPool, &PasswordPolicy),
) -> Result<Credential, Error> {
    let new = new_hash(&before, source, pool).await?;
    let mut after = Credential { source: Some(version.clone()), ..before };
    if let Some(hash) = new {
        after.source_hash = Some(hash.clone());
        after.set_password(hash, SetBy::Other, policy.history, Timestamp::now());
    }
    Ok(after)
}

/// Returns the hash of the source's password, if it differs from the source's previous one.
async fn new_hash(before: &Credential, source: &Source, pool: &HashPool) -> Result<Option<PasswordHash>, Error> {
    let previous = before.source_hash.as_ref().filter(|_| before.hash.is_some());
    Ok(match source {
        Source::Hash(hash) => (previous != Some(hash)).then(|| hash.clone()),
        Source::Password(password) => match previous {
            Some(hash) if pool.is_same(password, hash).await? => None,
            _ => Some(pool.hash(password).await?),
        },
    })
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
