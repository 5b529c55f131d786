use super::*;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::client::Body;
use roster_core::directory::bindings::NamespaceState;
use roster_runtime::metrics::Metrics;
use tokio::time::timeout;

use super::super::permits::{MAX_WAITING_PER_OWNER, MAX_WAITING_PER_OWNER_BY_PATH};

const CPU: &str = "requests.cpu";

fn cpu(millis: i64) -> Amounts {
    [(CPU.to_owned(), Amount::millis(millis))].into()
}

fn set(informers: &Informers, hard: i64, revision: u64) {
    let (term, owner, spec) = (Some("t".to_owned()), Some("jane".to_owned()), cpu(hard));
    let enforced = Some(spec.clone());
    let allotment = Allotment { term, owner, spec, enforced, revision, ..Allotment::default() };
    informers.change(|directory, _| directory.set_allotment("apollo", Some(allotment)));
}

/// Jane owns the namespace apollo, and may use 4 CPUs.
fn informers() -> Arc<Informers> {
    let informers = Arc::new(Informers::new(false, Arc::new(Metrics::default())));
    let metadata = ObjectMeta {
        labels: Some([(roster_api::OWNER_LABEL.to_owned(), "jane".to_owned())].into()),
        ..ObjectMeta::default()
    };
    informers.change(|directory, _| directory.set_namespace("apollo", Some(NamespaceState::of(&metadata))));
    let jane = json!({
        "apiVersion": "roster.dev/v1alpha1", "kind": "User", "metadata": {"name": "jane", "uid": "u"},
        "spec": {"quota": {"hard": {CPU: "4"}}},
    });
    let jane: roster_api::User = serde_json::from_value(jane).unwrap();
    informers.change(|directory, now| directory.set_user(&jane, now));
    informers
}

/// A replica whose kube-apiserver has seen revisions up to `revision`.
fn hints(informers: &Arc<Informers>, revision: &Arc<Mutex<u64>>) -> Hints {
    counted_hints(informers, revision, &Arc::default())
}

/// The same, counting the patches.
fn counted_hints(informers: &Arc<Informers>, revision: &Arc<Mutex<u64>>, patches: &Arc<AtomicUsize>) -> Hints {
    let (revision, patches) = (Arc::clone(revision), Arc::clone(patches));
    let answer = move |request: axum::http::Request<Body>| {
        let (revision, patches) = (Arc::clone(&revision), Arc::clone(&patches));
        async move {
            let is_dry_run = request.uri().query().is_some_and(|query| query.contains("dryRun"));
            let body = request.into_body().collect_bytes().await.unwrap();
            let sent: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let seen = sent["metadata"]["annotations"]["roster.dev/seen"].as_str();
            let is_seen = seen.is_none_or(|seen| seen.parse::<u64>().unwrap() <= *revision.lock().unwrap());
            assert_eq!(is_dry_run, seen.is_some());
            let (code, body) = if !is_dry_run {
                patches.fetch_add(1, Ordering::Relaxed);
                (200, json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {}}))
            } else if is_seen {
                (200, json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {}}))
            } else {
                (
                    422,
                    json!({"status": "Failure", "code": 422, "message": "roster-quota-seen: not yet", "reason": "Invalid"}),
                )
            };
            let response = axum::http::Response::builder().status(code);
            Ok::<_, io::Error>(response.body(Body::from(body.to_string().into_bytes())).unwrap())
        }
    };
    let client = Client::new(tower::service_fn(answer), "default");
    Hints::new(client.clone(), Arc::clone(informers), Arc::new(Seen::new(client)), Arc::default())
}

fn demand(millis: i64) -> Demand {
    Demand { namespace: "apollo".to_owned(), wanted: cpu(millis), is_by_controller: false }
}

#[tokio::test]
async fn a_larger_allotment_counts_once_kube_apiserver_has_seen_it() {
    let (informers, revision) = (informers(), Arc::new(Mutex::new(1)));
    set(&informers, 2000, 1);
    let hints = hints(&informers, &revision);
    assert_eq!(hints.wait_for_capacity(&demand(2000), ReviewOrigin::ApiServer).await, (HintOutcome::Fits, None));
    let demand = demand(3000);
    let mut waiting = std::pin::pin!(hints.wait_for_capacity(&demand, ReviewOrigin::ApiServer));
    assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err(), "the allotment is too small");
    set(&informers, 3000, 2);
    let early = timeout(Duration::from_millis(200), &mut waiting).await;
    assert!(early.is_err(), "kube-apiserver would reject it: {early:?}");
    *revision.lock().unwrap() = 2;
    assert_eq!(waiting.await, (HintOutcome::Enlarged, None));
}

#[tokio::test]
async fn a_replica_that_has_not_seen_the_allotment_waits_for_it() {
    let (informers, revision) = (informers(), Arc::new(Mutex::new(9)));
    let (hints, demand) = (hints(&informers, &revision), demand(3000));
    let later = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        set(&informers, 3000, 2);
    };
    let (made, ()) = tokio::join!(hints.wait_for_capacity(&demand, ReviewOrigin::ApiServer), later);
    assert_eq!(made, (HintOutcome::Enlarged, None));
}

#[tokio::test]
async fn clients_try_again_while_the_leader_is_slow() {
    let (informers, revision) = (informers(), Arc::new(Mutex::new(9)));
    set(&informers, 2000, 1);
    let with_short_wait = |give_up_after| {
        // Longer than the wait before `Full` is reported.
        let waits = Waits { longest: CHECK_INTERVAL * 2, give_up_after };
        Hints { waits, ..hints(&informers, &revision) }
    };
    let hints = with_short_wait(Duration::from_secs(600));
    let (outcome, refusal) = hints.wait_for_capacity(&demand(3000), ReviewOrigin::ApiServer).await;
    assert_eq!(outcome, HintOutcome::TimedOut);
    assert!(refusal.expect("the client tries again").is_temporary);
    assert!(hints.waiting.lock().unwrap().is_empty());
    let full = hints.wait_for_capacity(&demand(5000), ReviewOrigin::ApiServer).await;
    assert_eq!(full, (HintOutcome::Full, None), "native quota rejects what the owner may not use");
    let given_up = with_short_wait(Duration::ZERO);
    assert_eq!(
        given_up.wait_for_capacity(&demand(3000), ReviewOrigin::ApiServer).await,
        (HintOutcome::TimedOut, None),
        "native quota decides"
    );
    set(&informers, 3000, 2);
    assert_eq!(given_up.wait_for_capacity(&demand(3000), ReviewOrigin::ApiServer).await, (HintOutcome::Fits, None));
}

#[tokio::test]
async fn requests_in_a_namespace_share_patches_and_few_of_them_wait() {
    let (informers, revision, patches) = (informers(), Arc::new(Mutex::new(9)), Arc::default());
    set(&informers, 1000, 1);
    let waits = Waits { longest: PATCH_INTERVAL * 3, ..Waits::default() };
    let hints = Hints { waits, ..counted_hints(&informers, &revision, &patches) };
    let demand = demand(3000);
    let answers = join_all((0..300).map(|_| hints.wait_for_capacity(&demand, ReviewOrigin::ApiServer))).await;
    assert!(answers.iter().all(|(_, refusal)| refusal.as_ref().is_some_and(|refusal| refusal.is_temporary)));
    let count = |wanted| answers.iter().filter(|(outcome, _)| *outcome == wanted).count();
    let counts = (count(HintOutcome::TimedOut), count(HintOutcome::TooMany));
    assert_eq!(counts, (MAX_WAITING_PER_OWNER, 300 - MAX_WAITING_PER_OWNER));
    let patches = patches.load(Ordering::Relaxed);
    assert!((1..=5).contains(&patches), "one patch per interval instead of one per request: {patches}");
    assert!(hints.waiting.lock().unwrap().is_empty());
}

/// Returns the outcome of a request that must not wait.
async fn at_once(hints: &Hints, demand: &Demand) -> (HintOutcome, bool) {
    let answer = timeout(CHECK_INTERVAL / 2, hints.wait_for_capacity(demand, ReviewOrigin::ApiServer)).await;
    let (outcome, refusal) = answer.expect("it does not wait");
    (outcome, refusal.is_some_and(|refusal| refusal.is_temporary))
}

#[tokio::test]
async fn requests_beyond_the_permits_are_answered_at_once_and_the_leader_is_asked() {
    let (informers, revision, patches) = (informers(), Arc::new(Mutex::new(1)), Arc::default());
    set(&informers, 2000, 1);
    let hints = counted_hints(&informers, &revision, &patches);
    let permits: Vec<_> =
        std::iter::from_fn(|| hints.permits.acquire(&informers.directory(), "apollo", ReviewOrigin::ApiServer))
            .collect();
    assert_eq!(at_once(&hints, &demand(3000)).await, (HintOutcome::TooMany, true));
    assert_eq!(at_once(&hints, &demand(5000)).await, (HintOutcome::Full, false), "native quota decides");
    assert_eq!(at_once(&hints, &demand(2000)).await, (HintOutcome::Fits, false));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(patches.load(Ordering::Relaxed), 1, "when the client tries again, the quota has been moved");
    drop(permits);
    assert!(
        timeout(CHECK_INTERVAL, hints.wait_for_capacity(&demand(3000), ReviewOrigin::ApiServer)).await.is_err(),
        "now it waits"
    );
}

/// kube-controller-manager has few workers, which serve the controllers of all users.
#[tokio::test]
async fn controllers_do_not_wait_and_the_leader_is_asked() {
    let (informers, revision, patches) = (informers(), Arc::new(Mutex::new(0)), Arc::default());
    set(&informers, 2000, 1);
    let hints = counted_hints(&informers, &revision, &patches);
    let by_controller = |millis| Demand { is_by_controller: true, ..demand(millis) };
    for _ in 0..300 {
        assert_eq!(at_once(&hints, &by_controller(3000)).await, (HintOutcome::Exempt, false));
    }
    assert_eq!(at_once(&hints, &by_controller(5000)).await, (HintOutcome::Full, false));
    assert_eq!(at_once(&hints, &by_controller(1000)).await, (HintOutcome::Fits, false), "though it is not seen");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(patches.load(Ordering::Relaxed), 1);
}

/// A client that knows only the path can make up any number of namespaces.
#[tokio::test]
async fn reviews_of_made_up_namespaces_are_answered_at_once_and_leave_nothing() {
    let (informers, revision, patches) = (informers(), Arc::new(Mutex::new(0)), Arc::default());
    let hints = counted_hints(&informers, &revision, &patches);
    for (at, is_by_controller) in (0..100).flat_map(|at| [(at, false), (at, true)]) {
        let made_up = Demand { namespace: format!("made-up-{at}"), is_by_controller, ..demand(3000) };
        let answer = timeout(CHECK_INTERVAL / 2, hints.wait_for_capacity(&made_up, ReviewOrigin::PathOnly)).await;
        let (outcome, refusal) = answer.expect("it does not wait");
        let expected = if is_by_controller { HintOutcome::Exempt } else { HintOutcome::TooMany };
        assert_eq!((outcome, refusal.is_some_and(|refusal| refusal.is_temporary)), (expected, !is_by_controller));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    for entries in [hints.late_since.iter().count(), hints.recently_asked.iter().count()] {
        assert_eq!(entries, 0);
    }
    assert_eq!(patches.load(Ordering::Relaxed), 0);
    // kube-apiserver's own review may be about a namespace that has just been created.
    let new = Demand { namespace: "made-up-0".to_owned(), ..demand(3000) };
    assert!(timeout(CHECK_INTERVAL / 2, hints.wait_for_capacity(&new, ReviewOrigin::ApiServer)).await.is_err());
}

/// Otherwise made-up reviews could have native quota reject the requests of a namespace, or use up all permits.
#[tokio::test]
async fn reviews_with_only_the_path_do_not_affect_the_waits_of_others() {
    let (informers, revision) = (informers(), Arc::new(Mutex::new(9)));
    set(&informers, 2000, 1);
    let waits = Waits { longest: CHECK_INTERVAL * 2, give_up_after: CHECK_INTERVAL };
    let hints = Hints { waits, ..hints(&informers, &revision) };
    let demand = demand(3000);
    let answers = join_all((0..100).map(|_| hints.wait_for_capacity(&demand, ReviewOrigin::PathOnly))).await;
    let waited = answers.iter().filter(|(outcome, _)| *outcome == HintOutcome::TimedOut).count();
    assert_eq!(waited, MAX_WAITING_PER_OWNER_BY_PATH);
    let refusal = async |origin| hints.wait_for_capacity(&demand, origin).await.1;
    assert!(refusal(ReviewOrigin::ApiServer).await.is_some_and(|refusal| refusal.is_temporary));
    assert_eq!(refusal(ReviewOrigin::PathOnly).await, None, "native quota decides");
}
