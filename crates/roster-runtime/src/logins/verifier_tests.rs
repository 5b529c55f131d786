use super::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use roster_api::User;
use roster_api::user::DesiredState;
use roster_credentials::claim::{Identifier, IdentifierKind};
use roster_credentials::hash::Argon2idCost;
use roster_credentials::record::build;
use tokio::sync::Semaphore;

use crate::logins::active_user;

/// A verifier whose API server does not answer.
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
    let limits = Limits { of_source: 5, of_user: 100, window: minute, duration: minute };
    let policy = PasswordPolicy { min_length: 8, history: 3, max_age: None, denied: Arc::default() };
    let sealer = Arc::new(Sealer::new(&[0; 32]).unwrap());
    Verifier::new(informers, (vault, Arc::new(last_use)), pool, (limits, Arc::new(policy), sealer), metrics)
}

fn shown<'a>(username: &'a str, password: &'a SecretString, source: &str) -> Shown<'a> {
    Shown {
        username,
        secret: Secret::Password(password),
        code: None,
        new_password: None,
        may_enroll: true,
        source: source.to_owned(),
        address: None,
    }
}

/// Those on names that exist are limited likewise: nobody knows yet whether the name exists.
#[tokio::test]
async fn attempts_on_one_name_from_one_source_are_limited_also_if_nobody_has_the_name() {
    let (verifier, password) = (waiting_verifier(), SecretString::from("wrong"));
    let attempt = |username, source| shown(username, &password, source);
    let same: Vec<_> = (0..MOST_AT_A_TIME).map(|_| attempt("nobody", "192.0.2.1")).collect();
    let mut verifying: Vec<_> = same.iter().map(|shown| Box::pin(verifier.verify(shown))).collect();
    for attempt in &mut verifying {
        assert!(futures::poll!(attempt).is_pending());
    }
    let further = attempt("NOBODY", "192.0.2.1");
    assert!(matches!(verifier.verify(&further).await, Err(Failure::Saturated(_))));
    for other in [attempt("nobody", "192.0.2.2"), attempt("somebody", "192.0.2.1")] {
        let mut attempt = Box::pin(verifier.verify(&other));
        assert!(futures::poll!(&mut attempt).is_pending());
    }
    drop(verifying);
    let mut attempt = Box::pin(verifier.verify(&further));
    assert!(futures::poll!(&mut attempt).is_pending());
}

#[test]
fn refusals_come_at_the_ticks() {
    let began = Instant::now();
    for (took, answered) in [(0, 400), (1, 400), (399, 400), (400, 800), (1_250, 1_600)] {
        assert_eq!(next_tick(began, began + Duration::from_millis(took)), began + Duration::from_millis(answered));
    }
}

/// However many others log in: nobody is refused because of a stranger.
#[tokio::test]
async fn attempts_of_strangers_do_not_collide() {
    let (verifier, password) = (waiting_verifier(), SecretString::from("wrong"));
    let attempts: Vec<_> = (0..STRIPES * MOST_AT_A_TIME).map(|at| format!("user-{at}")).collect();
    let attempts: Vec<_> = attempts.iter().map(|name| shown(name, &password, "192.0.2.1")).collect();
    let mut verifying: Vec<_> = attempts.iter().map(|shown| Box::pin(verifier.verify(shown))).collect();
    for attempt in &mut verifying {
        assert!(futures::poll!(attempt).is_pending());
    }
}

/// What came of an attempt, in a word.
fn word(outcome: &Result<Outcome, Failure>) -> String {
    match outcome {
        Ok(Outcome::Granted(_)) => "granted".to_owned(),
        Ok(Outcome::Refused) => "refused".to_owned(),
        Ok(Outcome::Challenged(_, challenge, _)) => format!("{challenge:?}"),
        Err(failure) => failure.to_string(),
    }
}

/// More reads than an attempt needs.
const PLENTY: usize = 9;

/// An API server with the identity Secret of one active User. Each read needs a permit.
struct OneUser {
    verifier: Verifier,
    user: User,
    stored: Arc<Mutex<serde_json::Value>>,
    reads: Arc<AtomicUsize>,
    permits: Arc<Semaphore>,
}

impl OneUser {
    fn new(password: &str) -> Self {
        let user = active_user("jane");
        let stored = Arc::new(Mutex::new(secret(&user, password, "7")));
        let (reads, permits) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (store, count, gate) = (Arc::clone(&stored), Arc::clone(&reads), Arc::clone(&permits));
        let service = tower::service_fn(move |request: Request<Body>| {
            let is_read = *request.method() == Method::GET;
            count.fetch_add(usize::from(is_read), Ordering::SeqCst);
            let (store, gate) = (Arc::clone(&store), Arc::clone(&gate));
            async move {
                if is_read {
                    gate.acquire().await.unwrap().forget();
                }
                let body = serde_json::to_vec(&*store.lock().unwrap()).unwrap();
                Ok::<_, std::convert::Infallible>(Response::new(Body::from(body)))
            }
        });
        let verifier = verifier(Client::new(service, "default"));
        verifier.informers.set_user(&user);
        Self { verifier, user, stored, reads, permits }
    }

    /// Waits until that many reads have begun.
    async fn reads(&self, count: usize) {
        while self.reads.load(Ordering::SeqCst) < count {
            tokio::task::yield_now().await;
        }
    }
}

fn secret(user: &User, password: &str, revision: &str) -> serde_json::Value {
    let hash = PasswordHash::create(password, Argon2idCost::default(), &mut Memory::default());
    let credential = Credential { hash: Some(hash), ..Credential::default() };
    let identifier = Identifier { kind: IdentifierKind::Username, text: "jane".into() };
    let mut secret = build(user, "default", &identifier, &credential);
    secret.metadata.uid = Some("s-1".into());
    secret.metadata.resource_version = Some(revision.into());
    serde_json::to_value(&secret).unwrap()
}

#[tokio::test]
async fn a_user_who_is_disabled_while_the_login_waits_is_refused() {
    let (cluster, password) = (OneUser::new("correct horse"), SecretString::from("correct horse"));
    let shown = shown("jane", &password, "192.0.2.1");
    cluster.permits.add_permits(PLENTY);
    assert_eq!(word(&cluster.verifier.verify(&shown).await), "granted");
    cluster.permits.forget_permits(PLENTY);
    let before = cluster.reads.load(Ordering::SeqCst);
    let disable = async {
        cluster.reads(before + 1).await;
        let mut user = cluster.user.clone();
        user.spec.state = DesiredState::Disabled;
        cluster.verifier.informers.set_user(&user);
        cluster.permits.add_permits(PLENTY);
    };
    let (outcome, ()) = tokio::join!(cluster.verifier.verify(&shown), disable);
    assert_eq!(word(&outcome), "refused");
}

#[tokio::test]
async fn a_name_that_another_user_takes_over_while_the_login_waits_is_refused() {
    let (cluster, password) = (OneUser::new("correct horse"), SecretString::from("correct horse"));
    let shown = shown("jane", &password, "192.0.2.1");
    let replace = async {
        cluster.reads(1).await;
        let mut user = cluster.user.clone();
        user.metadata.uid = Some("another".into());
        cluster.verifier.informers.set_user(&user);
        cluster.permits.add_permits(PLENTY);
    };
    let (outcome, ()) = tokio::join!(cluster.verifier.verify(&shown), replace);
    assert_eq!(word(&outcome), "refused");
}

#[tokio::test]
async fn a_password_that_changes_while_the_login_waits_for_its_turn_is_refused() {
    let (cluster, password) = (OneUser::new("correct horse"), SecretString::from("correct horse"));
    let shown = shown("jane", &password, "192.0.2.1");
    let uid = cluster.user.metadata.uid.clone().unwrap();
    let judging = &cluster.verifier.judging[cluster.verifier.stripe(uid.as_str())];
    for (changed, revision) in [(false, "7"), (true, "8")] {
        let before = cluster.reads.load(Ordering::SeqCst);
        let turn = judging.turn().await;
        cluster.permits.add_permits(PLENTY);
        let change = async {
            cluster.reads(before + 1).await;
            tokio::time::sleep(MOST_AGE * 2).await;
            if changed {
                *cluster.stored.lock().unwrap() = secret(&cluster.user, "another horse", revision);
            }
            drop(turn);
        };
        let (outcome, ()) = tokio::join!(cluster.verifier.verify(&shown), change);
        assert_eq!(word(&outcome), if changed { "refused" } else { "granted" });
        assert_eq!(cluster.reads.load(Ordering::SeqCst), before + 2, "what was read is too old");
    }
}
