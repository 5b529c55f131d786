use super::*;
use kube::Client;
use roster_credentials::hash::Argon2idCost;

/// A verifier whose API server does not answer.
fn waiting_verifier() -> Verifier {
    let silent = tower::service_fn(|_: axum::http::Request<kube::client::Body>| {
        std::future::pending::<Result<axum::http::Response<kube::client::Body>, std::io::Error>>()
    });
    let (client, metrics) = (Client::new(silent, "default"), Arc::<Metrics>::default());
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

/// Those on names that exist are limited likewise: nobody knows yet whether the name exists.
#[tokio::test]
async fn attempts_on_one_name_from_one_source_are_limited_also_if_nobody_has_the_name() {
    let (verifier, password) = (waiting_verifier(), SecretString::from("wrong"));
    let attempt = |username, source: &str| Shown {
        username,
        secret: Secret::Password(&password),
        code: None,
        new_password: None,
        may_enroll: true,
        source: source.to_owned(),
        address: None,
    };
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
