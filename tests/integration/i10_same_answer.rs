//! I10: unknown, disabled, locked and expired users, and wrong passwords, get the same response at the same cost.

use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams};
use roster_credentials::claim::{Identifier, IdentifierKind};
use serde_json::json;

use crate::directory::{BASE, Direct};
use crate::logins::{PASSWORD, attempt, body, logins, person, with_password};
use crate::support::{Random, unique};

/// Rounds of interleaved attempts. Each takes a tick of 400 ms.
const ROUNDS: usize = 40;

/// Kinds of refusals that must be indistinguishable.
const KINDS: [&str; 5] = ["unknown", "wrong", "disabled", "expired", "locked"];

/// Returns the probability that a random sample of `one` is below a random one of `two`: one half if they are equally
/// distributed (the Mann-Whitney U statistic as a share).
fn share_below(one: &[f64], two: &[f64]) -> f64 {
    let pairs = one.iter().flat_map(|a| two.iter().map(move |b| (a, b)));
    let below: f64 = pairs
        .map(|(a, b)| {
            if a < b {
                1.0
            } else if a > b {
                0.0
            } else {
                0.5
            }
        })
        .sum();
    below / count(one.len() * two.len())
}

fn count(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("samples are few"))
}

/// Returns the probability of a share at least this far from one half if both have the same distribution.
fn probability(share: f64, count: usize) -> f64 {
    let n = self::count(count);
    let z = (share - 0.5).abs() / ((2.0 * n + 1.0) / (12.0 * n * n)).sqrt();
    // Chernoff bound on both tails of the normal distribution.
    (2.0 * (-z * z / 2.0).exp()).min(1.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_refusals_have_equal_content_and_timing() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let disabled = person(cluster, "still", |user| user.spec.state = roster_api::user::DesiredState::Disabled).await;
    let expired = person(cluster, "over", |user| {
        let end = jiff::Timestamp::now() - Duration::from_secs(3600);
        let not_after = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(end));
        user.spec.validity = Some(roster_api::Validity { not_before: None, not_after });
    })
    .await;
    let locked = person(cluster, "locked", |_| {}).await;
    for _ in 0..6 {
        assert_eq!(with_password(&direct, &locked, "wrong").await.status, 401);
    }
    // One user for each round, so that no user is locked out by failures.
    let mut wrong = Vec::new();
    for _ in 0..ROUNDS {
        wrong.push(person(cluster, "wrong", |_| {}).await);
    }
    let mut took = vec![Vec::new(); KINDS.len()];
    let mut answers = Vec::new();
    let mut random = Random(7);
    for wrong in &wrong {
        let unknown = unique("nobody");
        let mut order = [0, 1, 2, 3, 4];
        for at in (1..order.len()).rev() {
            order.swap(at, usize::try_from(random.below(at as u64 + 1)).unwrap());
        }
        for kind in order {
            let (name, password) = [
                (&unknown, PASSWORD),
                (wrong, "wrong"),
                (&disabled, PASSWORD),
                (&expired, PASSWORD),
                (&locked, PASSWORD),
            ][kind];
            let body = body("Login", &json!({"username": name, "password": password}));
            let since = Instant::now();
            let answer = direct.send("POST", &format!("{BASE}/logins"), &[], &body).await.unwrap();
            took[kind].push(since.elapsed().as_secs_f64() * 1e3);
            let head: Vec<&str> = answer.head.lines().filter(|line| !line.starts_with("date:")).collect();
            answers.push((answer.status, head.join("\n"), answer.body));
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "identical responses: {answers:?}");
    assert_eq!(answers[0].0, 401);
    println!("refusals, {ROUNDS} of each, interleaved:");
    let median = |times: &[f64]| {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    for (kind, times) in KINDS.iter().zip(&took) {
        println!("  {kind:<9} median {:.2} ms", median(times));
    }
    for one in 0..KINDS.len() {
        for two in one + 1..KINDS.len() {
            let share = share_below(&took[one], &took[two]);
            let chance = probability(share, ROUNDS);
            println!(
                "  {:<9} below {:<9} {share:.3} of the time; by chance alone: {chance:.3}",
                KINDS[one], KINDS[two]
            );
            // Ten comparisons: a probability of one in a thousand would be suspicious.
            assert!(chance > 0.0001, "{} and {} can be told apart", KINDS[one], KINDS[two]);
        }
    }
    // The test can fail: responses that are not returned at a tick are distinguishable.
    let mut granted = Vec::new();
    let known = person(cluster, "known", |_| {}).await;
    for _ in 0..ROUNDS {
        let since = Instant::now();
        assert_eq!(attempt(&direct, &json!({"username": known, "password": PASSWORD})).await.status, 201);
        granted.push(since.elapsed().as_secs_f64() * 1e3);
    }
    assert!(probability(share_below(&granted, &took[0]), ROUNDS) < 0.0001);
}

/// Errors that only stored credentials can have must not reveal which names exist.
#[tokio::test(flavor = "multi_thread")]
async fn i10_unreadable_and_uncountable_credentials_look_like_unknown_names() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let secrets = cluster.secrets("roster-system").await;
    let troubles = [
        ("unreadable", json!({"stringData": {"failedLogins": "no JSON"}})),
        // The finalizer delays the repair.
        ("immutable", json!({"immutable": true, "metadata": {"finalizers": ["example.com/stay"]}})),
    ];
    for (trouble, patch) in troubles {
        let (known, unknown) = (person(cluster, trouble, |_| {}).await, unique("nobody"));
        let identity = Identifier { kind: IdentifierKind::Username, text: known.clone() }.secret_name();
        secrets.patch(&identity, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        let mut answers = Vec::new();
        for (name, password) in [(&unknown, "wrong"), (&known, "wrong"), (&known, PASSWORD)] {
            let answer = with_password(&direct, name, password).await;
            let head: Vec<&str> = answer.head.lines().filter(|line| !line.starts_with("date:")).collect();
            answers.push((answer.status, head.join("\n"), answer.body));
        }
        let repair = Patch::Merge(json!({"data": {"failedLogins": null}, "metadata": {"finalizers": null}}));
        // It may be absent while the leader replaces it.
        let _ = secrets.patch(&identity, &PatchParams::default(), &repair).await;
        answers.dedup();
        assert_eq!(answers.len(), 1, "{trouble}: {answers:?}");
        assert_eq!(answers[0].0, 401);
    }
}
