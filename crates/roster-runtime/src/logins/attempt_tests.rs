use super::*;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use roster_api::User;
use roster_api::user::DesiredState;
use roster_credentials::claim::{Identifier, IdentifierKind};
use roster_credentials::credential::Invitation;
use roster_credentials::digest::Digest;
use roster_credentials::hash::{Argon2idCost, Memory, PasswordHash};
use roster_credentials::lockout::LockoutPolicy;
use roster_credentials::policy::PasswordPolicy;
use roster_credentials::pool::HashPool;
use roster_credentials::record::build;
use roster_credentials::seal::Sealer;
use tokio::sync::Semaphore;

use crate::informers::Informers;
use crate::logins::active_user;
use crate::logins::judgement::MAX_CONCURRENT;
use crate::logins::last_use::LastUse;
use crate::logins::vault::Vault;
use crate::logins::verifier::{STRIPES, VerifierParts};
use crate::metrics::Metrics;

/// Returns a verifier whose API server does not answer.
fn waiting_verifier() -> Verifier {
    let silent = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, std::io::Error>>());
    verifier(Client::new(silent, "default"))
}

fn verifier(client: Client) -> Verifier {
    let metrics = Arc::<Metrics>::default();
    let informers = Arc::new(Informers::new(false, Arc::clone(&metrics)));
    let vault = Arc::new(Vault::new(client.clone(), "default", Arc::clone(&metrics)));
    let last_use = LastUse::new(client, Arc::clone(&informers), Arc::clone(&vault), Arc::clone(&metrics));
    let pool = HashPool::new(Argon2idCost::default(), 1, 4, metrics.hashing.clone());
    let minute = Duration::from_secs(60);
    let limits = LockoutPolicy { per_source: 5, per_user: 100, window: minute, duration: minute };
    let policy = PasswordPolicy { min_length: 8, history: 3, max_age: None, denied: Arc::default() };
    let sealer = Arc::new(Sealer::new(&[0; 32]).unwrap());
    Verifier::new(VerifierParts {
        informers,
        vault,
        last_use: Arc::new(last_use),
        pool,
        limits,
        policy: Arc::new(policy),
        sealer,
        metrics,
    })
}

fn attempt<'a>(username: &'a str, password: &'a SecretString, source: &str) -> LoginAttempt<'a> {
    LoginAttempt {
        username,
        secret: Secret::Password(password),
        code: None,
        new_password: None,
        may_enroll: true,
        source: source.to_owned(),
        address: None,
    }
}

/// Attempts on existing names are limited in the same way: at this point, it is not known whether a name exists.
#[tokio::test]
async fn attempts_on_one_name_from_one_source_are_limited_even_for_unknown_names() {
    let (verifier, password) = (waiting_verifier(), SecretString::from("wrong"));
    let attempt = |username, source| attempt(username, &password, source);
    let same: Vec<_> = (0..MAX_CONCURRENT).map(|_| attempt("nobody", "192.0.2.1")).collect();
    let mut verifying: Vec<_> = same.iter().map(|attempt| Box::pin(verifier.verify(attempt))).collect();
    for attempt in &mut verifying {
        assert!(futures::poll!(attempt).is_pending());
    }
    let further = attempt("NOBODY", "192.0.2.1");
    assert!(matches!(verifier.verify(&further).await, Err(VerifyError::Saturated(_))));
    for other in [attempt("nobody", "192.0.2.2"), attempt("somebody", "192.0.2.1")] {
        let mut attempt = Box::pin(verifier.verify(&other));
        assert!(futures::poll!(&mut attempt).is_pending());
    }
    drop(verifying);
    let mut attempt = Box::pin(verifier.verify(&further));
    assert!(futures::poll!(&mut attempt).is_pending());
}

#[test]
fn refusals_are_returned_at_ticks() {
    let began = Instant::now();
    for (took, answered) in [(0, 400), (1, 400), (399, 400), (400, 800), (1_250, 1_600)] {
        assert_eq!(next_tick(began, began + Duration::from_millis(took)), began + Duration::from_millis(answered));
    }
}

/// No user is refused because of others, however many log in.
#[tokio::test]
async fn attempts_on_different_names_do_not_collide() {
    let (verifier, password) = (waiting_verifier(), SecretString::from("wrong"));
    let attempts: Vec<_> = (0..STRIPES * MAX_CONCURRENT).map(|at| format!("user-{at}")).collect();
    let attempts: Vec<_> = attempts.iter().map(|name| attempt(name, &password, "192.0.2.1")).collect();
    let mut verifying: Vec<_> = attempts.iter().map(|attempt| Box::pin(verifier.verify(attempt))).collect();
    for attempt in &mut verifying {
        assert!(futures::poll!(attempt).is_pending());
    }
}

/// Returns the outcome of an attempt as one word.
fn word(outcome: &Result<LoginOutcome, VerifyError>) -> String {
    match outcome {
        Ok(LoginOutcome::Granted(_)) => "granted".to_owned(),
        Ok(LoginOutcome::Refused) => "refused".to_owned(),
        Ok(LoginOutcome::Challenged(_, challenge, _)) => format!("{challenge:?}"),
        Err(failure) => failure.to_string(),
    }
}

/// More reads than an attempt needs.
const PLENTY: usize = 9;

/// Mock API server with the identity Secret of one active User. Each read needs a permit.
struct OneUser {
    verifier: Verifier,
    user: User,
    stored: Arc<Mutex<serde_json::Value>>,
    reads: Arc<AtomicUsize>,
    permits: Arc<Semaphore>,
    /// Status of writes.
    write_status: Arc<AtomicU16>,
    /// Reads fail from this one on.
    failing_from: Arc<AtomicUsize>,
}

impl OneUser {
    fn new(password: &str) -> Self {
        let user = active_user("jane");
        let stored = Arc::new(Mutex::new(secret(&user, password, "7")));
        let (reads, permits) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (write_status, failing_from) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicUsize::new(usize::MAX)));
        let (store, count, gate) = (Arc::clone(&stored), Arc::clone(&reads), Arc::clone(&permits));
        let (writes, failing) = (Arc::clone(&write_status), Arc::clone(&failing_from));
        let service = tower::service_fn(move |request: Request<Body>| {
            let is_read = *request.method() == Method::GET;
            let number = count.fetch_add(usize::from(is_read), Ordering::SeqCst) + 1;
            let (store, gate) = (Arc::clone(&store), Arc::clone(&gate));
            let code = match is_read {
                true if number >= failing.load(Ordering::SeqCst) => 500,
                true => 200,
                false => writes.load(Ordering::SeqCst),
            };
            async move {
                if is_read {
                    gate.acquire().await.unwrap().forget();
                }
                let body = match code {
                    200 => serde_json::to_vec(&*store.lock().unwrap()),
                    _ => serde_json::to_vec(&serde_json::json!({
                        "kind": "Status", "status": "Failure", "code": code, "reason": "x", "message": "x",
                    })),
                };
                let answer = Response::builder().status(code).body(Body::from(body.unwrap()));
                Ok::<_, std::convert::Infallible>(answer.unwrap())
            }
        });
        let verifier = verifier(Client::new(service, "default"));
        verifier.informers.set_user(&user);
        Self { verifier, user, stored, reads, permits, write_status, failing_from }
    }

    /// Waits until `count` reads have begun.
    async fn reads(&self, count: usize) {
        while self.reads.load(Ordering::SeqCst) < count {
            tokio::task::yield_now().await;
        }
    }
}

fn secret(user: &User, password: &str, revision: &str) -> serde_json::Value {
    let hash = PasswordHash::create(password, Argon2idCost::default(), &mut Memory::default());
    stored(user, &Credential { hash: Some(hash), ..Credential::default() }, revision)
}

fn stored(user: &User, credential: &Credential, revision: &str) -> serde_json::Value {
    let identifier = Identifier { kind: IdentifierKind::Username, text: "jane".into() };
    let mut secret = build(user, "default", &identifier, credential);
    secret.metadata.uid = Some("s-1".into());
    secret.metadata.resource_version = Some(revision.into());
    serde_json::to_value(&secret).unwrap()
}

#[tokio::test]
async fn a_user_disabled_while_the_login_waits_is_refused() {
    let (cluster, password) = (OneUser::new("correct horse"), SecretString::from("correct horse"));
    let attempt = attempt("jane", &password, "192.0.2.1");
    cluster.permits.add_permits(PLENTY);
    assert_eq!(word(&cluster.verifier.verify(&attempt).await), "granted");
    cluster.permits.forget_permits(PLENTY);
    let before = cluster.reads.load(Ordering::SeqCst);
    let disable = async {
        cluster.reads(before + 1).await;
        let mut user = cluster.user.clone();
        user.spec.state = DesiredState::Disabled;
        cluster.verifier.informers.set_user(&user);
        cluster.permits.add_permits(PLENTY);
    };
    let (outcome, ()) = tokio::join!(cluster.verifier.verify(&attempt), disable);
    assert_eq!(word(&outcome), "refused");
}

#[tokio::test]
async fn a_name_taken_over_while_the_login_waits_is_refused() {
    let (cluster, password) = (OneUser::new("correct horse"), SecretString::from("correct horse"));
    let attempt = attempt("jane", &password, "192.0.2.1");
    let replace = async {
        cluster.reads(1).await;
        let mut user = cluster.user.clone();
        user.metadata.uid = Some("another".into());
        cluster.verifier.informers.set_user(&user);
        cluster.permits.add_permits(PLENTY);
    };
    let (outcome, ()) = tokio::join!(cluster.verifier.verify(&attempt), replace);
    assert_eq!(word(&outcome), "refused");
}

#[tokio::test]
async fn a_password_changed_while_the_login_waits_is_refused() {
    let (cluster, password) = (OneUser::new("correct horse"), SecretString::from("correct horse"));
    let attempt = attempt("jane", &password, "192.0.2.1");
    let uid = cluster.user.metadata.uid.clone().unwrap();
    let queue = cluster.verifier.judgement_queue(&uid);
    for (changed, revision) in [(false, "7"), (true, "8")] {
        let before = cluster.reads.load(Ordering::SeqCst);
        let judgement = queue.wait().await;
        cluster.permits.add_permits(PLENTY);
        let change = async {
            cluster.reads(before + 1).await;
            tokio::time::sleep(MAX_AGE * 2).await;
            if changed {
                *cluster.stored.lock().unwrap() = secret(&cluster.user, "another horse", revision);
            }
            drop(judgement);
        };
        let (outcome, ()) = tokio::join!(cluster.verifier.verify(&attempt), change);
        assert_eq!(word(&outcome), if changed { "refused" } else { "granted" });
        assert_eq!(cluster.reads.load(Ordering::SeqCst), before + 2, "the first read is too old");
    }
}

/// An attempt whose answer reveals that the password or invitation code is right.
#[derive(Clone, Copy, Debug)]
enum RevealingAttempt {
    Granted,
    Challenged,
    NotDue,
    RejectedByPolicy,
}

impl RevealingAttempt {
    const ALL: [(Self, &str); 4] = [
        (Self::Granted, "granted"),
        (Self::Challenged, "Enrollment"),
        (Self::NotDue, "no new password is due"),
        (Self::RejectedByPolicy, "must have at least 8 characters"),
    ];

    fn attempt<'a>(self, secret: &'a SecretString, new: &'a SecretString) -> LoginAttempt<'a> {
        let plain = attempt("jane", secret, "192.0.2.1");
        match self {
            Self::Granted => plain,
            Self::Challenged => LoginAttempt { may_enroll: false, ..plain },
            Self::NotDue => LoginAttempt { new_password: Some(new), ..plain },
            Self::RejectedByPolicy => {
                LoginAttempt { secret: Secret::Invitation(secret), new_password: Some(new), ..plain }
            }
        }
    }

    fn user(self) -> User {
        let mut user = active_user("jane");
        if matches!(self, Self::Challenged) {
            user.spec.second_factor = SecondFactor::Required;
        }
        user
    }

    fn stored(self, secret: &str, revision: &str) -> serde_json::Value {
        let credential = if matches!(self, Self::RejectedByPolicy) {
            let invitation = Invitation { digest: Digest::of(secret), expires: Timestamp::MAX };
            Credential { invitation: Some(invitation), ..Credential::default() }
        } else {
            let hash = PasswordHash::create(secret, Argon2idCost::default(), &mut Memory::default());
            Credential { hash: Some(hash), ..Credential::default() }
        };
        stored(&self.user(), &credential, revision)
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Meanwhile {
    Nothing,
    CredentialChanged,
    Disabled,
}

/// Returns the outcome of an attempt that waits for its turn, and for the read after that.
async fn answer_after_waiting(kind: RevealingAttempt, meanwhile: Meanwhile) -> String {
    let (secret, new) = (SecretString::from("correct horse"), SecretString::from("short"));
    let (cluster, user) = (OneUser::new("correct horse"), kind.user());
    *cluster.stored.lock().unwrap() = kind.stored("correct horse", "7");
    cluster.verifier.informers.set_user(&user);
    let uid = user.metadata.uid.clone().unwrap();
    let judgement = cluster.verifier.judgement_queue(&uid).wait().await;
    cluster.permits.add_permits(1);
    let change = async {
        cluster.reads(1).await;
        tokio::time::sleep(MAX_AGE * 2).await;
        if meanwhile == Meanwhile::CredentialChanged {
            *cluster.stored.lock().unwrap() = kind.stored("another horse", "8");
        }
        drop(judgement);
        cluster.reads(2).await;
        if meanwhile == Meanwhile::Disabled {
            let mut user = user.clone();
            user.spec.state = DesiredState::Disabled;
            cluster.verifier.informers.set_user(&user);
        }
        cluster.permits.add_permits(PLENTY);
        std::future::pending::<()>().await;
    };
    let attempt = kind.attempt(&secret, &new);
    tokio::select! {
        outcome = cluster.verifier.verify(&attempt) => word(&outcome),
        () = change => unreachable!("it waits for the outcome"),
    }
}

/// Anything that reveals more than a refusal is judged by the state after the wait for the turn.
#[tokio::test]
async fn answers_that_confirm_a_password_use_state_read_after_the_wait() {
    let cases = RevealingAttempt::ALL.into_iter().flat_map(|(kind, answer)| {
        [(Meanwhile::Nothing, answer), (Meanwhile::CredentialChanged, "refused"), (Meanwhile::Disabled, "refused")]
            .map(|(meanwhile, expected)| (kind, meanwhile, expected))
    });
    let checks = cases.map(|(kind, meanwhile, expected)| async move {
        let answer = Box::pin(answer_after_waiting(kind, meanwhile)).await;
        assert_eq!(answer, expected, "{kind:?}, {meanwhile:?}");
    });
    futures::future::join_all(checks).await;
}

/// A failure that can occur only for existing names is answered like a wrong password for an unknown name.
#[tokio::test]
async fn i10_a_failure_during_an_attempt_does_not_reveal_known_names() {
    type CauseFailure = fn(&OneUser);
    let failures: [(&str, CauseFailure); 5] = [
        ("the watch fails", |cluster| cluster.verifier.informers.fail_user_watch()),
        ("writes fail", |cluster| cluster.write_status.store(500, Ordering::SeqCst)),
        ("writes are rejected", |cluster| cluster.write_status.store(422, Ordering::SeqCst)),
        ("reads fail after a conflict", |cluster| {
            cluster.write_status.store(409, Ordering::SeqCst);
            cluster.failing_from.store(2, Ordering::SeqCst);
        }),
        ("the credential is corrupt", |cluster| {
            cluster.stored.lock().unwrap()["data"]["failedLogins"] = "bm90IEpTT04=".into();
        }),
    ];
    let wrong = SecretString::from("wrong");
    for (name, cause_failure) in failures {
        for username in ["jane", "nobody"] {
            let cluster = OneUser::new("correct horse");
            let attempt = attempt(username, &wrong, "192.0.2.1");
            let begin = async {
                cluster.reads(1).await;
                cause_failure(&cluster);
                cluster.permits.add_permits(PLENTY);
            };
            let (outcome, ()) = tokio::join!(cluster.verifier.verify(&attempt), begin);
            assert_eq!(word(&outcome), "refused", "{name}: {username}");
        }
    }
}
