use super::*;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::http::{Method, Request, Response};
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use roster_api::User;
use roster_core::rbac::Policy;
use roster_credentials::claim::{Identifier, IdentifierKind};
use roster_credentials::hash::Argon2idCost;
use roster_credentials::lockout::{LockoutPolicy, SESSIONS};
use roster_credentials::policy::PasswordPolicy;
use roster_credentials::pool::HashPool;
use roster_credentials::record::build;
use roster_credentials::seal::Sealer;
use roster_credentials::signing::{SigningAlgorithm, SigningKeys};
use roster_runtime::informers::Informers;
use roster_runtime::informers::callers::CREDENTIAL_ID;
use roster_runtime::logins::Logins;
use roster_runtime::logins::audiences::Audiences;
use roster_runtime::logins::issuer::Issuer;
use roster_runtime::logins::last_use::LastUse;
use roster_runtime::logins::token_authenticator::TokenAuthenticator;
use roster_runtime::logins::vault::Vault;
use roster_runtime::logins::verifier::{Verifier, VerifierParts};
use roster_runtime::metrics::Metrics;
use roster_runtime::notifications::{NotificationOptions, Notifier};
use roster_runtime::tls::authority::Authorities;
use serde_json::{Value, json};

use crate::admission::guard::Guard;
use crate::apiserver::authenticate::{Authenticator, RequestCredential};
use crate::apiserver::identity::Caller;
use crate::apiserver::state::DirectoryApiParts;

/// Returns the User jane.
fn jane(is_admin: bool) -> User {
    let claimed = json!({
        "type": "NameClaimed", "status": "True", "reason": "Claimed", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let user = json!({
        "apiVersion": roster_api::API_VERSION,
        "kind": "User",
        "metadata": {"name": "jane", "uid": "0a0a0a0a-0000-4000-8000-000000000001", "resourceVersion": "1"},
        "spec": {"admin": is_admin},
        "status": {"username": "jane", "conditions": [claimed]},
    });
    serde_json::from_value(user).unwrap()
}

fn credential_secret() -> Value {
    let identifier = Identifier { kind: IdentifierKind::Username, text: "jane".into() };
    let mut secret = build(&jane(false), "default", &identifier, &Credential::default());
    (secret.metadata.uid, secret.metadata.resource_version) = (Some("s-1".into()), Some("7".into()));
    serde_json::to_value(&secret).unwrap()
}

/// API server in which an administrator makes jane an administrator while her credential is being written: the write
/// conflicts. It denies every access review.
struct Race {
    api: DirectoryApi,
    writes: Arc<AtomicUsize>,
}

fn race() -> Race {
    let metrics = Arc::<Metrics>::default();
    let informers = Arc::new(Informers::new(false, Arc::clone(&metrics)));
    informers.set_user(&jane(false));
    let writes = Arc::new(AtomicUsize::new(0));
    let (known, count) = (Arc::clone(&informers), Arc::clone(&writes));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (code, body) = if *request.method() == Method::GET {
            (200, credential_secret())
        } else if *request.method() == Method::PUT {
            count.fetch_add(1, Ordering::SeqCst);
            known.set_user(&jane(true));
            (409, json!({"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict", "message": ""}))
        } else {
            (201, json!({"metadata": {}, "spec": {}, "status": {"allowed": false}}))
        };
        let answer = Response::builder().status(code).body(Body::from(serde_json::to_vec(&body).unwrap()));
        async { Ok::<_, Infallible>(answer.unwrap()) }
    });
    let client = Client::new(service, "default");
    let vault = Arc::new(Vault::new(client.clone(), "default", Arc::clone(&metrics)));
    let logins = Arc::new(logins(&client, &informers, &vault, &metrics));
    let authorities = Authorities::create(Timestamp::now(), Duration::from_secs(86_400)).unwrap();
    let guard = Guard::new(client.clone(), "operator".to_owned(), Arc::clone(&informers), Policy::default());
    let api = DirectoryApi::new(DirectoryApiParts {
        informers,
        client,
        front_proxy: Arc::default(),
        authorities: Arc::new(ArcSwap::from_pointee(authorities)),
        logins,
        guard: Arc::new(guard),
        metrics,
        shutdown: tokio_util::sync::CancellationToken::new(),
    });
    Race { api, writes }
}

fn logins(client: &Client, informers: &Arc<Informers>, vault: &Arc<Vault>, metrics: &Arc<Metrics>) -> Logins {
    let minute = Duration::from_secs(60);
    let keys =
        Arc::new(ArcSwap::from_pointee(SigningKeys::create(Timestamp::now(), SigningAlgorithm::default()).unwrap()));
    let issuer = Arc::new(Issuer::new("https://localhost", Audiences::default(), minute, keys));
    let last_use = LastUse::new(client.clone(), Arc::clone(informers), Arc::clone(vault), Arc::clone(metrics));
    let last_use = Arc::new(last_use);
    let token_authenticator =
        TokenAuthenticator::new(Arc::clone(informers), Arc::clone(&issuer), Arc::clone(vault), Arc::clone(&last_use));
    let sealer = Arc::new(Sealer::new(&[0; 32]).unwrap());
    let policy = PasswordPolicy { min_length: 8, history: 3, max_age: None, denied: Arc::default() };
    let verifier = Verifier::new(VerifierParts {
        informers: Arc::clone(informers),
        vault: Arc::clone(vault),
        last_use,
        pool: HashPool::new(Argon2idCost::default(), 1, 4, metrics.hashing.clone()),
        limits: limits(),
        policy: Arc::new(policy),
        sealer: Arc::clone(&sealer),
        metrics: Arc::clone(metrics),
    });
    let options = NotificationOptions { allowed_networks: Vec::new(), ca_file: None };
    let signer = Arc::clone(&issuer);
    let (notifier, _) = Notifier::new(options, signer, metrics.notifications.clone()).unwrap();
    Logins {
        verifier,
        issuer,
        token_authenticator: Arc::new(token_authenticator),
        vault: Arc::clone(vault),
        sealer,
        notifier,
        max_key_lifetime: minute,
        trusted_proxies: Vec::new(),
    }
}

fn limits() -> LockoutPolicy {
    let minute = Duration::from_secs(60);
    LockoutPolicy { per_source: 5, per_user: 100, window: minute, duration: minute }
}

fn target(api: &DirectoryApi, caller: Caller) -> Target {
    let user = jane(false);
    let token_authenticator = Arc::clone(&api.logins.token_authenticator);
    let (front_proxy, informers) = (Arc::clone(&api.front_proxy), Arc::clone(&api.informers));
    let authenticator = Authenticator::new(api.client.clone(), front_proxy, token_authenticator, informers);
    Target {
        name: "jane".to_owned(),
        uid: user.metadata.uid.unwrap(),
        username: "jane".to_owned(),
        asked: "jane".to_owned(),
        resource: "users/password".to_owned(),
        caller: Arc::new(caller.clone()),
        credential: Some(RequestCredential::for_test(authenticator, caller)),
    }
}

/// A reset that waits while the User is given a role must not be saved by a caller that may not bind that role.
#[tokio::test(flavor = "multi_thread")]
async fn control_of_the_identity_is_checked_before_each_write() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let race = race();
    let target = target(&race.api, Caller { username: "help-desk".to_owned(), ..Caller::default() });
    let person = load_user(&race.api, &target).unwrap();
    let change =
        |is_own| CredentialChange { api: &race.api, target: &target, person: &person, is_own, confirmation: None };
    let mut changes = 0;
    let reset = |credential: &mut Credential| {
        changes += 1;
        credential.failed.fail(SESSIONS, &limits(), Timestamp::now());
    };
    let refused = change(false).make(reset).await.unwrap_err();
    assert_eq!(refused.code(), 403);
    assert_eq!((changes, race.writes.load(Ordering::SeqCst)), (1, 1), "only the first write was attempted");
    assert_eq!(change(false).check().await.unwrap_err().code(), 403);
    assert!(change(true).check().await.is_ok(), "users need no control of their own identity");
}

/// A request that waits while its API key is revoked must not be saved.
#[tokio::test(flavor = "multi_thread")]
async fn the_credential_of_the_request_is_judged_before_each_write() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let race = race();
    let key = (CREDENTIAL_ID.to_owned(), vec!["APIKey=revoked".to_owned()]);
    let uid = jane(false).metadata.uid.unwrap();
    let caller = Caller { username: "jane".to_owned(), uid, extra: [key].into(), ..Caller::default() };
    let target = target(&race.api, caller);
    let person = load_user(&race.api, &target).unwrap();
    let change =
        CredentialChange { api: &race.api, target: &target, person: &person, is_own: true, confirmation: None };
    let refused = change.make(|credential| credential.api_keys.clear()).await.unwrap_err();
    assert_eq!((refused.code().as_u16(), race.writes.load(Ordering::SeqCst)), (401, 0));
    let of_no_request = Target { credential: None, ..target };
    let change =
        CredentialChange { api: &race.api, target: &of_no_request, person: &person, is_own: true, confirmation: None };
    assert_eq!(change.check().await.unwrap_err().code(), 500, "it fails closed");
}
