//! Step 1: reads the objects that a User refers to, from the index if possible and otherwise from kube-apiserver.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Api, Client, ResourceExt};
use roster_api::User;
use roster_api::condition::{NAME_CLAIMED, find};
use roster_api::user::PasswordSecretRef;
use roster_core::directory::native;
use roster_credentials::claim::{self, Identifier};
use roster_credentials::credential::{SourceVersion, Summary};
use roster_credentials::record::Claim;
use roster_credentials::source::{self, Source};

use super::context::{Context, Error};
use super::index::Index;

/// Maximum number of allowed namespaces that a condition lists.
const MAX_LISTED: usize = 10;

/// Observed state of a User's identifiers, credential and password Secret.
#[derive(Debug)]
pub(super) struct Observed {
    /// Each identifier that the User wants, the username first, and who holds it.
    pub(super) claims: Vec<(Identifier, Holder)>,
    /// Name and UID of identity Secrets that the User holds but no longer needs.
    pub(super) surplus: Vec<(String, String)>,
    /// Location of the credential.
    pub(super) location: CredentialLocation,
    /// Name of the username's identity Secret, if it seems to be immutable.
    pub(super) immutable: Option<String>,
    /// State of the password Secret.
    pub(super) source: Observation,
    /// Summary of the credential, without secrets.
    pub(super) credential: Summary,
    /// Namespaces that the User owns.
    pub(super) namespaces: Vec<String>,
}

/// Holder of an identifier.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Holder {
    /// No identity Secret exists for it.
    Nobody,
    /// The User itself. Contains the UID of the identity Secret.
    Me(String),
    /// Something else.
    Other(Obstacle),
    /// A User that no longer exists. Its claim may be taken over.
    Gone(Claim),
}

/// What keeps a User from an identifier that it wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Obstacle {
    /// Another User. Conditions do not name it: those who can read or patch one User may not be allowed to see others.
    User,
    /// Another object. Contains a description, and what to do about it.
    Object(String),
}

/// Location of the credential. It moves when the User is renamed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum CredentialLocation {
    /// In the Secret of the username, or not created yet.
    Current,
    /// In the Secret of the username. The Secret of an earlier username still exists.
    Moved(Predecessor),
    /// In the Secret of an earlier username.
    Earlier(Predecessor),
    /// In the Secret of the username, which is closed: a rename was reverted, or its label was changed.
    Closed,
}

/// The Secret of an earlier username.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Predecessor {
    /// Name of the Secret.
    pub(super) secret: String,
    /// UID of the Secret.
    pub(super) uid: String,
    /// Whether the earlier username is an email address of the User, which stays claimed.
    pub(super) is_email: bool,
}

/// Observed state of the password Secret.
#[derive(Debug)]
pub(super) enum Observation {
    /// The User refers to none, or it has not changed since it was last read.
    NothingNew,
    /// The Secret can't be used.
    Problem(Problem),
    /// The Secret has new content.
    New(SourceVersion, Source),
}

/// Reason why a password Secret can't be used, for the condition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Problem {
    /// Reason of the condition.
    pub(super) reason: &'static str,
    /// Message of the condition: the problem and what to do about it.
    pub(super) message: String,
    /// Whether the problem may resolve itself, because an object has not been applied yet.
    pub(super) is_waiting: bool,
}

pub(super) async fn dereference(user: &User, ctx: &Context) -> Result<Observed, Error> {
    let Known { mut claims, surplus, location, immutable, credential, namespaces } = look_up(user, ctx);
    for (_, holder) in &mut claims {
        if let Holder::Gone(claim) = holder {
            // The index may not have a User that was just created. Only kube-apiserver knows.
            if claim.owner.is_empty() {
                continue;
            }
            let owner = ctx.users.get_metadata_opt(&claim.owner).await.map_err(Error::Dereference)?;
            if owner.is_some_and(|owner| owner.metadata.uid.as_ref() == Some(&claim.owner_uid)) {
                *holder = Holder::Other(Obstacle::User);
            }
        }
    }
    if let Some((identifier, holder)) = claims.first_mut().filter(|(_, holder)| is_free(holder))
        && has_waited(user)
        && let Some(native) = native_naming(&identifier.text, ctx)
    {
        // The binding was meant for the User that had the name then. A User that waited for the name must not get its roles.
        // A User that is created now has passed the guard.
        let native = format!("the native {native}, which names it: delete that, or recreate this User");
        *holder = Holder::Other(Obstacle::Object(native));
    }
    let source = match &user.spec.password_secret_ref {
        Some(reference) => {
            observe_source(user, reference, credential.as_ref(), ctx).await.map_err(Error::Dereference)?
        }
        None => Observation::NothingNew,
    };
    let credential = credential.map(|claim| claim.summary).unwrap_or_default();
    Ok(Observed { claims, surplus, location, immutable, source, credential, namespaces })
}

fn is_free(holder: &Holder) -> bool {
    matches!(holder, Holder::Nobody | Holder::Gone(_))
}

/// Returns whether another User had the username when this one was last reconciled.
fn has_waited(user: &User) -> bool {
    let status = user.status.as_ref().filter(|status| status.username == Some(user.username()));
    let conditions = status.map(|status| &status.conditions[..]).unwrap_or_default();
    find(conditions, NAME_CLAIMED).is_some_and(|claimed| claimed.reason == "UsernameConflict")
}

fn native_naming(username: &str, ctx: &Context) -> Option<String> {
    let directory = ctx.informers.directory();
    let holder = native::Holder::User(username.to_owned());
    let mut grants = directory.natives.grants_of(&holder);
    let native = grants.next().and_then(|(_, mut by)| by.next());
    native.map(|native| native.key.to_string())
}

struct Known {
    claims: Vec<(Identifier, Holder)>,
    surplus: Vec<(String, String)>,
    location: CredentialLocation,
    immutable: Option<String>,
    credential: Option<Claim>,
    namespaces: Vec<String>,
}

/// Reads everything from the index under one lock, so that no release is missed between reading a claim and waiting for it.
fn look_up(user: &User, ctx: &Context) -> Known {
    let (name, uid) = (user.name_any(), user.uid().unwrap_or_default());
    let mut index = ctx.index();
    let mut wanted = Vec::new();
    for identifier in claim::wanted(user) {
        let secret = identifier.secret_name();
        let spare = index.spare(&secret).filter(|spare| spare.owner_uid != uid);
        let holder = match index.claim(&secret).or(spare) {
            None => Holder::Nobody,
            Some(claim) if claim.owner_uid == uid => Holder::Me(claim.uid.clone()),
            Some(claim) if index.is_alive(&claim.owner, &claim.owner_uid) => Holder::Other(Obstacle::User),
            Some(claim) => Holder::Gone(claim.clone()),
        };
        if matches!(holder, Holder::Other(_) | Holder::Gone(_)) {
            index.wait_for(&secret, &name);
        }
        wanted.push((identifier, holder));
    }
    let is_wanted = |secret: &String| wanted.iter().any(|(identifier, _)| identifier.secret_name() == *secret);
    let (location, credential) = locate(&wanted[0].0.secret_name(), &uid, &index, is_wanted);
    let username = wanted[0].0.secret_name();
    let is_immutable = index.claim(&username).is_some_and(|claim| claim.owner_uid == uid && claim.may_be_immutable);
    let immutable = is_immutable.then_some(username);
    let is_surplus = |secret: &&String| {
        let is_kept = match &location {
            CredentialLocation::Moved(from) => from.secret == **secret,
            // Secrets that may contain the credential are kept until it has moved.
            CredentialLocation::Earlier(_) => index.claim(secret).is_some_and(|claim| claim.is_username),
            CredentialLocation::Current | CredentialLocation::Closed => false,
        };
        !is_kept && !is_wanted(secret)
    };
    let surplus = index
        .held_by(&uid)
        .filter(is_surplus)
        .filter_map(|secret| Some((secret.clone(), index.claim(secret)?.uid.clone())))
        .collect();
    let namespaces = index.namespaces_of(&name).cloned().collect();
    Known { claims: wanted, surplus, location, immutable, credential, namespaces }
}

/// Orders Secrets of earlier usernames: an open one is the latest, otherwise the one that was closed last.
fn recency(claim: &Claim) -> (bool, u64) {
    (!claim.is_closed, claim.resource_version)
}

/// Returns the location and the claim of the credential. `username` is the name of the Secret in which it belongs.
fn locate(
    username: &String,
    uid: &str,
    index: &Index,
    is_wanted: impl Fn(&String) -> bool,
) -> (CredentialLocation, Option<Claim>) {
    let held = index.held_by(uid).filter_map(|secret| Some((secret, index.claim(secret)?)));
    let (mut current, mut earlier) = (None, None);
    for (secret, claim) in held {
        if secret == username {
            current = Some(claim);
        } else if claim.is_username && earlier.is_none_or(|(_, known): (_, &Claim)| recency(claim) > recency(known)) {
            earlier = Some((secret, claim));
        }
    }
    let predecessor = earlier.map(|(secret, claim)| Predecessor {
        secret: secret.clone(),
        uid: claim.uid.clone(),
        is_email: is_wanted(secret),
    });
    match (current, predecessor) {
        (Some(current), Some(from)) if current.holds_credential() => {
            (CredentialLocation::Moved(from), Some(current.clone()))
        }
        (_, Some(from)) => (CredentialLocation::Earlier(from), earlier.map(|(_, claim)| claim.clone())),
        (Some(current), None) if !current.holds_credential() => (CredentialLocation::Closed, Some(current.clone())),
        (current, None) => (CredentialLocation::Current, current.cloned()),
    }
}

async fn observe_source(
    user: &User,
    reference: &PasswordSecretRef,
    credential: Option<&Claim>,
    ctx: &Context,
) -> kube::Result<Observation> {
    let known = ctx.index().source(reference).cloned();
    if known.is_some() && known.as_ref() == credential.and_then(|claim| claim.source.as_ref()) {
        return Ok(Observation::NothingNew);
    }
    if !reference.is_well_formed() {
        return Ok(Observation::Problem(Problem {
            reason: "SecretReferenceInvalid",
            message: "spec.passwordSecretRef: namespace and name must be the names of a Namespace and a Secret"
                .to_owned(),
            is_waiting: false,
        }));
    }
    if !ctx.cache.source_namespaces.is_empty() && !ctx.cache.source_namespaces.contains(&reference.namespace) {
        return Ok(Observation::Problem(out_of_bounds(reference, &ctx.cache.source_namespaces)));
    }
    let secret = match read_source(&ctx.client, reference).await? {
        Ok(secret) => secret,
        Err(problem) => return Ok(Observation::Problem(problem)),
    };
    let ceiling = ctx.pool.cost().ceiling();
    Ok(match (SourceVersion::of(&secret.metadata), source::read(&secret, &user.name_any(), ceiling)) {
        (Some(version), Ok(source)) => Observation::New(version, source),
        (None, _) => Observation::NothingNew,
        (_, Err(error)) => Observation::Problem(Problem {
            reason: error.reason(),
            message: format!("Secret {reference} {error}"),
            is_waiting: false,
        }),
    })
}

/// Returns the problem of a Secret in a namespace that is not configured.
fn out_of_bounds(reference: &PasswordSecretRef, allowed: &BTreeSet<String>) -> Problem {
    let named: Vec<&str> = allowed.iter().take(MAX_LISTED).map(String::as_str).collect();
    let more = if allowed.len() > MAX_LISTED { ", …" } else { "" };
    Problem {
        reason: "SecretNamespaceNotAllowed",
        message: format!(
            "Secret {reference} is in a namespace in which Roster does not read password Secrets; move it to a namespace in \
             passwordSecretNamespaces ({}{more}), or add {} to that list",
            named.join(", "),
            reference.namespace
        ),
        is_waiting: false,
    }
}

/// Reads the Secret. Returns the problem if it does not exist or Roster has no access.
async fn read_source(client: &Client, reference: &PasswordSecretRef) -> kube::Result<Result<Secret, Problem>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &reference.namespace);
    let first = match secrets.get_opt(&reference.name).await {
        Err(kube::Error::Api(status)) if status.code == 403 => None,
        outcome => Some(outcome?),
    };
    if let Some(Some(secret)) = first {
        return Ok(Ok(secret));
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let has_namespace = namespaces.get_metadata_opt(&reference.namespace).await?.is_some();
    // kube-apiserver answers 403 until it has loaded RBAC after a start. It answered the second request, so the first one is
    // repeated.
    let is_forbidden = match (first, has_namespace) {
        (Some(_), _) => false,
        // The namespace was deleted, and with it the Role that allows access.
        (None, false) => true,
        (None, true) => match secrets.get_opt(&reference.name).await {
            Ok(Some(secret)) => return Ok(Ok(secret)),
            Ok(None) => false,
            Err(kube::Error::Api(status)) if status.code == 403 => true,
            Err(error) => return Err(error),
        },
    };
    Ok(Err(missing(reference, has_namespace, is_forbidden)))
}

/// Returns the reason why the Secret can't be read.
fn missing(reference: &PasswordSecretRef, has_namespace: bool, is_forbidden: bool) -> Problem {
    let (reason, message) = if !has_namespace {
        (
            "NamespaceNotFound",
            format!(
                "namespace {} of the password Secret does not exist; create it and the Secret {reference}",
                reference.namespace
            ),
        )
    } else if is_forbidden {
        (
            "SecretNotReadable",
            format!(
                "Secret {reference} can't be read: the operator has no permission to get Secrets in namespace {}; run helm \
                 upgrade to restore its Role",
                reference.namespace
            ),
        )
    } else {
        ("SecretNotFound", format!("Secret {reference} does not exist; create it with the type roster.dev/password"))
    };
    Problem { reason, message, is_waiting: true }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::http::{Request, Response};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
    use kube::client::Body;
    use kube::core::PartialObjectMetaExt;
    use kube::runtime::watcher::Event;
    use rstest::rstest;

    use super::*;
    use roster_credentials::record::IDENTIFIER_LABEL;

    /// Label of an identity Secret, and whether it is closed. `None`: it does not exist.
    type Found = Option<(&'static str, bool)>;

    fn index(new: Found, old: Found) -> Index {
        let mut index = Index::default();
        for (name, found) in [("login-new", new), ("login-old", old)] {
            let Some((kind, is_closed)) = found else { continue };
            let owner = OwnerReference { kind: "User".into(), uid: "u-1".into(), ..OwnerReference::default() };
            let mut secret = Secret {
                metadata: ObjectMeta {
                    name: Some(name.into()),
                    uid: Some(format!("s-{name}")),
                    resource_version: Some("5".into()),
                    owner_references: Some(vec![owner]),
                    labels: Some([(IDENTIFIER_LABEL.to_owned(), kind.to_owned())].into()),
                    ..ObjectMeta::default()
                },
                ..Secret::default()
            };
            if is_closed {
                roster_credentials::record::close(&mut secret);
            }
            index.claim_event(Event::Apply(secret.metadata.into_response_partial()));
        }
        index
    }

    /// All states in which a crash during a rename can leave the Secrets.
    #[rstest]
    #[case::never_renamed(Some(("username", false)), None, "current")]
    #[case::new(None, None, "current")]
    #[case::begun(None, Some(("username", false)), "earlier")]
    #[case::closed(None, Some(("username", true)), "earlier")]
    #[case::carried_over(Some(("username", false)), Some(("username", true)), "moved")]
    #[case::taken_back(Some(("username", true)), None, "closed")]
    #[case::taken_back_later(Some(("username", true)), Some(("username", false)), "earlier")]
    #[case::relabelled(Some(("email", false)), None, "closed")]
    #[case::replaced(None, Some(("username", true)), "earlier")]
    #[case::into_an_own_address(Some(("email", false)), Some(("username", true)), "earlier")]
    #[case::an_address_beside(Some(("username", false)), Some(("email", false)), "current")]
    fn the_credential_is_found_after_an_interrupted_rename(
        #[case] new: Found,
        #[case] old: Found,
        #[case] expected: &str,
    ) {
        let (location, _) = locate(&"login-new".to_owned(), "u-1", &index(new, old), |_| false);
        let from =
            |from: &Predecessor| assert_eq!((from.secret.as_str(), from.uid.as_str()), ("login-old", "s-login-old"));
        let found = match &location {
            CredentialLocation::Current => "current",
            CredentialLocation::Closed => "closed",
            CredentialLocation::Earlier(predecessor) => {
                from(predecessor);
                "earlier"
            }
            CredentialLocation::Moved(predecessor) => {
                from(predecessor);
                "moved"
            }
        };
        assert_eq!(found, expected);
    }

    /// A kube-apiserver that answers requests with these status codes, one after the other.
    fn answering(answers: &[u16]) -> Client {
        let answers = Mutex::new(answers.to_vec());
        Client::new(
            tower::service_fn(move |request: Request<Body>| {
                let code = answers.lock().unwrap().remove(0);
                let body = match code {
                    200 if request.uri().path().ends_with("/secrets/s") => {
                        serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})
                    }
                    200 => {
                        serde_json::json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {}})
                    }
                    code => {
                        let reason = if code == 404 { "NotFound" } else { "Forbidden" };
                        serde_json::json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason})
                    }
                };
                let answer = Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
                std::future::ready(Ok::<_, std::convert::Infallible>(answer.unwrap()))
            }),
            "default",
        )
    }

    /// Responses to the request for the Secret, to that for the Namespace and, if the first was 403, to a second
    /// request for the Secret.
    #[rstest]
    #[case::found(&[200], None)]
    #[case::missing(&[404, 200], Some("SecretNotFound"))]
    #[case::without_a_namespace(&[404, 404], Some("NamespaceNotFound"))]
    #[case::without_a_namespace_and_its_role(&[403, 404], Some("NamespaceNotFound"))]
    #[case::without_permission(&[403, 200, 403], Some("SecretNotReadable"))]
    #[case::missing_while_the_api_server_starts(&[403, 200, 404], Some("SecretNotFound"))]
    #[case::found_while_the_api_server_starts(&[403, 200, 200], None)]
    #[tokio::test]
    async fn a_starting_api_server_without_roles_is_not_reported(
        #[case] answers: &[u16],
        #[case] expected: Option<&str>,
    ) {
        let reference = PasswordSecretRef { namespace: "n".to_owned(), name: "s".to_owned() };
        let read = read_source(&answering(answers), &reference).await.unwrap();
        assert_eq!(read.err().map(|problem| problem.reason), expected);
    }
}
