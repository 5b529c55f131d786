//! Step 3: makes it so, and returns what the API server has confirmed.

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
use super::dereference::{Problem, Residence};
use super::identity_secret::{note, own, release, replace};
use super::plan::{CredentialStep, Plan, Step};
use super::rename;

/// What holds now.
#[derive(Debug)]
pub(super) struct Applied {
    /// Identifiers that another User holds, with that User's name. The username first, if it is among them.
    pub(super) conflicts: Vec<(Identifier, String)>,
    /// What may be known of the credential.
    pub(super) credential: Summary,
    /// Why the password Secret was not taken in.
    pub(super) problem: Option<Problem>,
    /// Whether the identity Secret with the credential was gone and has been created again without it.
    pub(super) is_lost: bool,
}

/// Whether the User had something to log in with when it was last looked at.
fn had_credential(user: &User) -> bool {
    let status = user.status.as_ref();
    status.is_some_and(|status| status.password_changed_time.is_some() || status.second_factor_enabled == Some(true))
}

pub(super) async fn apply(user: &User, plan: Plan, ctx: &Context) -> Result<Applied, Error> {
    let (problem, taken) = match plan.credential {
        CredentialStep::Keep => (None, None),
        CredentialStep::Complain(problem) => (Some(problem), None),
        CredentialStep::TakeIn(version, source) => (None, Some((version, source))),
    };
    let mut applied = Applied { conflicts: Vec::new(), credential: plan.summary, problem, is_lost: false };
    try_join_all(plan.release.iter().map(|(name, uid)| release(name, uid, ctx))).await?;
    match hold_username(user, plan.username, &plan.residence, taken, ctx).await? {
        Held::Yes(Some(summary)) => applied.credential = summary,
        Held::Yes(None) => {}
        Held::Created(summary) => {
            applied.credential = summary;
            applied.is_lost = plan.residence == Residence::Home && had_credential(user);
        }
        // Who has no name holds no address either.
        Held::By(conflict) => {
            applied.conflicts.push(conflict);
            return Ok(applied);
        }
    }
    if let Residence::Away(from) | Residence::Moved(from) = &plan.residence {
        rename::retire(user, from, ctx).await?;
    }
    let emails = plan.emails.into_iter().map(|(identifier, step)| hold_email(user, identifier, step, ctx));
    applied.conflicts.extend(try_join_all(emails).await?.into_iter().flatten());
    Ok(applied)
}

enum Held {
    /// By the User; with what may be known of the credential where that was looked at.
    Yes(Option<Summary>),
    /// By the User, as of now, with that credential.
    Created(Summary),
    /// By another one.
    By((Identifier, String)),
}

type Taken = Option<(SourceVersion, Source)>;

/// Holds the username and writes the credential: one write for both, since they are one object.
async fn hold_username(
    user: &User,
    (identifier, step): (Identifier, Step),
    residence: &Residence,
    taken: Taken,
    ctx: &Context,
) -> Result<Held, Error> {
    let moved = rename::take_leave(user, residence, ctx).await?;
    match step {
        Step::Concede(other) => return Ok(Held::By((identifier, other))),
        Step::Keep => {
            if taken.is_none() && moved.is_none() && *residence != Residence::Closed {
                return Ok(Held::Yes(None));
            }
            let secret = own(user, &identifier.secret_name(), ctx).await?;
            return update_credential(secret, moved, taken, ctx).await;
        }
        Step::TakeOver(claim) => take_over(&identifier, &claim, ctx).await?,
        Step::Claim => {}
    }
    let credential = with_taken(moved.clone().unwrap_or_default(), taken.as_ref(), ctx).await?;
    match claim(user, &identifier, &credential, ctx).await? {
        Claimed::Fresh => Ok(Held::Created(credential.summary())),
        Claimed::By(other) => Ok(Held::By((identifier, other))),
        // The index had not heard of it yet, as after a restart in the middle of things.
        Claimed::Before(secret) => update_credential(*secret, moved, taken, ctx).await,
    }
}

async fn hold_email(
    user: &User,
    identifier: Identifier,
    step: Step,
    ctx: &Context,
) -> Result<Option<(Identifier, String)>, Error> {
    match step {
        Step::Keep => return Ok(None),
        Step::Concede(other) => return Ok(Some((identifier, other))),
        Step::TakeOver(claim) => take_over(&identifier, &claim, ctx).await?,
        Step::Claim => {}
    }
    Ok(match claim(user, &identifier, &Credential::default(), ctx).await? {
        Claimed::Fresh => None,
        // Its label is what the index finds it by.
        Claimed::Before(mut secret) => {
            record::open_as(&mut secret, IdentifierKind::Email);
            replace(&secret, ctx).await?;
            None
        }
        Claimed::By(other) => Some((identifier, other)),
    })
}

enum Claimed {
    Fresh,
    Before(Box<Secret>),
    By(String),
}

/// Creates the identity Secret. etcd decides who is first.
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
            // Before the look: whoever gives the name up after it, then wakes this User.
            ctx.index().wait_for(&name, &user.name_any());
            let existing = ctx.identities.get(&name).await.map_err(Error::Apply)?;
            let owner = Claim::read(&existing.metadata);
            let owner = owner.filter(|_| existing.type_.as_deref() == Some(IDENTITY_SECRET_TYPE));
            Ok(match owner {
                Some(owner) if Some(&owner.owner_uid) == user.metadata.uid.as_ref() => {
                    Claimed::Before(Box::new(existing))
                }
                Some(owner) => Claimed::By(owner.owner),
                None => {
                    Claimed::By(format!("Secret {}/{}, which Roster did not make", ctx.namespace, existing.name_any()))
                }
            })
        }
        Err(error) => Err(Error::Apply(error)),
    }
}

/// Removes identity Secrets that lost their owner while nobody was looking: a hash that belongs to nobody is not kept.
pub(super) async fn sweep(ctx: &Context) {
    let orphans: Vec<(String, String)> = ctx.index().orphans().collect();
    for (name, uid) in orphans {
        match release(&name, &uid, ctx).await {
            Ok(()) => info!(secret = name, "an identity Secret without an owner was removed"),
            Err(error) => {
                warn!(secret = name, error = ?error, "an identity Secret without an owner could not be removed");
            }
        }
    }
}

/// Removes the claim of a User that is no more, if it is still the one that was seen.
async fn take_over(identifier: &Identifier, gone: &Claim, ctx: &Context) -> Result<(), Error> {
    let name = identifier.secret_name();
    release(&name, &gone.uid, ctx).await?;
    info!(secret = name, former_owner = gone.owner, "a claim was taken over from a User that is no more");
    Ok(())
}

/// Writes what comes new into the Secret of the username: a credential that moves there, and a password.
async fn update_credential(
    mut secret: Secret,
    moved: Option<Credential>,
    taken: Taken,
    ctx: &Context,
) -> Result<Held, Error> {
    let is_home = Claim::read(&secret.metadata).is_some_and(|claim| claim.is_home());
    let before = record::read_credential(&secret).map_err(Error::Corrupt)?;
    // What is at home has come before.
    let moved = moved.filter(|_| !is_home).unwrap_or_else(|| before.clone());
    let after = with_taken(moved, taken.as_ref(), ctx).await?;
    if before != after || !is_home {
        record::write_credential(&mut secret, &after);
        record::open_as(&mut secret, IdentifierKind::Username);
        replace(&secret, ctx).await?;
    }
    Ok(Held::Yes(Some(after.summary())))
}

async fn with_taken(
    before: Credential,
    taken: Option<&(SourceVersion, Source)>,
    ctx: &Context,
) -> Result<Credential, Error> {
    match taken {
        Some((version, source)) => take_in(before, version, source, (&ctx.pool, &ctx.password_policy)).await,
        None => Ok(before),
    }
}

/// What the credential becomes when the password Secret says `source`. The same content again is no change.
async fn take_in(
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

/// The hash that the source gives, where that is another password than the one it gave before.
async fn new_hash(before: &Credential, source: &Source, pool: &HashPool) -> Result<Option<PasswordHash>, Error> {
    let said_before = before.source_hash.as_ref().filter(|_| before.hash.is_some());
    Ok(match source {
        Source::Hash(hash) => (said_before != Some(hash)).then(|| hash.clone()),
        Source::Password(password) => match said_before {
            Some(hash) if pool.is_same(password, hash).await? => None,
            _ => Some(pool.hash(password).await?),
        },
    })
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
