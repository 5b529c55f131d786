//! Holds requests in an owned namespace until its quota is enforced, so that one bundle can contain a User, its
//! namespaces and their content.
//!
//! ```text
//!  request ─▶ mutating webhook: waits ─▶ policy roster-quota: is the quota enforced? ─▶ hints ─▶ native quota
//! ```
//!
//! The policy enforces this, whether or not an operator is running. The response sets the default requests and limits of
//! the namespace, which kube-apiserver did not know yet when it received the request.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use moka::sync::Cache;
use roster_core::directory::Directory;
use roster_core::quota::amount::Amounts;
use roster_core::quota::defaults::Defaults;
use roster_runtime::informers::Informers;
use tokio::time::{Instant, timeout_at};

use super::permits::{WaitPermits, may_be_made_up};
use super::request::{Demand, Refusal};
use super::seen::Seen;
use crate::admission::review_origin::ReviewOrigin;

/// How long requests wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    /// Maximum time that one request waits.
    pub(super) longest: Duration,
    /// How long requests in a namespace wait, so that a namespace whose quota cannot be enforced does not keep
    /// controllers waiting. Counted from the first request that has to wait for enforcement, or that times out waiting
    /// for a larger allotment.
    pub(super) give_up_after: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        // kube-apiserver times out after ten seconds.
        Self { longest: Duration::from_secs(8), give_up_after: Duration::from_secs(60) }
    }
}

/// How long a namespace in which requests had to wait is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Maximum number of namespaces that are remembered.
const MAX_REMEMBERED: u64 = 100_000;

/// Maximum time between two checks, if no change is notified.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Waits until quotas are enforced.
pub struct Enforcement {
    informers: Arc<Informers>,
    seen: Arc<Seen>,
    permits: Arc<WaitPermits>,
    /// When a request first had to wait, by namespace. Reviews that prove only their path have entries of their own, so
    /// that made-up ones do not shorten the time that others wait.
    waiting_since: Cache<(ReviewOrigin, String), Instant>,
    waits: Waits,
    /// Default requests and limits of containers, as configured.
    defaults: Defaults,
}

/// State of a namespace's quota.
enum State {
    /// Enforced since this revision of the ResourceQuota.
    InForce(u64),
    /// Not enforced, and why.
    Missing {
        why: String,
        /// Whether it should be enforced by now.
        is_overdue: bool,
    },
}

impl Enforcement {
    /// Creates an instance that reads allotments from `informers`. `defaults` are the configured requests and limits of
    /// containers that have none.
    pub fn new(informers: Arc<Informers>, seen: Arc<Seen>, permits: Arc<WaitPermits>, defaults: Defaults) -> Self {
        let waiting_since = Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(REMEMBERED).build();
        Self { informers, seen, permits, waiting_since, waits: Waits::default(), defaults }
    }

    /// Forgets how long requests in the namespace have waited, because its quota is enforced now.
    fn forget_waiting(&self, namespace: &str) {
        for origin in [ReviewOrigin::ApiServer, ReviewOrigin::PathOnly] {
            self.waiting_since.invalidate(&(origin, namespace.to_owned()));
        }
    }

    /// Waits until the namespace's quota is enforced.
    ///
    /// # Errors
    /// If it is not enforced in time, or the request may not wait. The request must then be denied. The policy would
    /// also deny it, with less explanation.
    pub async fn wait(&self, demand: &Demand, origin: ReviewOrigin) -> Result<(), Refusal> {
        let Demand { namespace, is_by_controller, .. } = demand;
        let key = (origin, namespace.clone());
        let is_passed = match self.state(namespace) {
            State::InForce(revision) if self.seen.is_known(namespace, revision) => {
                self.forget_waiting(namespace);
                true
            }
            // The policy decides, and controllers retry.
            _ => *is_by_controller,
        };
        if is_passed {
            return Ok(());
        }
        if may_be_made_up(&self.informers.directory(), namespace, origin) {
            return Err(Refusal { message: format!("the quota: {}", unknown_owner(namespace)), is_temporary: true });
        }
        let permit = self.permits.acquire(&self.informers.directory(), namespace, origin);
        let longest = if permit.is_some() { self.waits.longest } else { Duration::ZERO };
        let deadline = Instant::now() + longest;
        loop {
            // Subscribe before the check, so that a change between the two is not missed.
            let moved = self.informers.allotments_changed.notified();
            let (why, is_overdue) = match self.state(namespace) {
                State::InForce(revision) if permit.is_some() && self.seen.wait(namespace, revision, deadline).await => {
                    self.forget_waiting(namespace);
                    return Ok(());
                }
                // kube-apiserver has seen the quota enforced, though not with its current headroom.
                State::InForce(_) if permit.is_none() && self.seen.knows(namespace) => return Ok(()),
                State::InForce(_) => {
                    (format!("kube-apiserver has not seen the quota of namespace {namespace} yet"), false)
                }
                State::Missing { why, is_overdue } => (why, is_overdue),
            };
            let since = self.waiting_since.get_with_by_ref(&key, Instant::now);
            let is_temporary = !is_overdue && since.elapsed() < self.waits.give_up_after;
            if !is_temporary || Instant::now() >= deadline {
                return Err(Refusal { message: format!("the quota: {why}"), is_temporary });
            }
            let _ = timeout_at(deadline.min(Instant::now() + CHECK_INTERVAL), moved).await;
        }
    }

    /// Returns the requests and limits that Roster's LimitRange sets in an owned namespace. It may not have reached the
    /// informers yet.
    pub fn defaults_in(&self, namespace: &str) -> Defaults {
        let directory = self.informers.directory();
        let owner = directory.owner_of(namespace).filter(|owner| directory.user(owner).is_some());
        let limits = owner.map_or_else(Amounts::new, |owner| directory.limits_of(owner));
        self.defaults.for_limits(&limits).without(&directory.quotas.defaults_of_others(namespace))
    }

    fn state(&self, namespace: &str) -> State {
        let directory = self.informers.directory();
        let allotment = directory.quotas.allotment(namespace);
        let owner = directory.owner_of(namespace);
        match allotment.zip(owner).filter(|(allotment, owner)| allotment.is_in_force(owner)) {
            Some((allotment, _)) => State::InForce(allotment.revision),
            None => State::Missing {
                why: missing(namespace, owner, &directory),
                is_overdue: allotment
                    .and_then(|allotment| allotment.overdue_in(Timestamp::now()))
                    .is_some_and(|left| left.is_zero()),
            },
        }
    }
}

/// Explains why a namespace's quota is not enforced, and what to do.
fn missing(namespace: &str, owner: Option<&str>, directory: &Directory) -> String {
    let Some(owner) = owner else { return unknown_owner(namespace) };
    let what = format!("namespace {namespace} belongs to User {owner}, whose quota is not enforced in it yet");
    let cause = match directory.quotas.allotment(namespace) {
        None => "Roster has not created its ResourceQuota; check that an operator leads, and read its log",
        Some(allotment) if allotment.enforced.is_none() => {
            "kube-controller-manager has not counted its usage; check that its resourcequota controller runs"
        }
        Some(_) => {
            "its ResourceQuota roster is not managed by Roster or belongs to another owner; check that an operator leads"
        }
    };
    format!("{what}: {cause}, and try again")
}

fn unknown_owner(namespace: &str) -> String {
    format!("Roster has not seen the owner of namespace {namespace} yet; please try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::permits::MAX_WAITING_PER_OWNER;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use kube::Client;
    use kube::client::Body;
    use roster_core::directory::bindings::NamespaceState;
    use roster_core::quota::allotment::{Allotment, ENFORCED_WITHIN};
    use roster_core::quota::amount::Amount;
    use roster_runtime::metrics::Metrics;
    use std::io;

    fn enforcement(informers: &Arc<Informers>) -> Enforcement {
        let answer = |_: axum::http::Request<Body>| async {
            let created = r#"{"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {}}"#;
            Ok::<_, io::Error>(axum::http::Response::new(Body::from(created.as_bytes().to_vec())))
        };
        let client = Client::new(tower::service_fn(answer), "default");
        let seen = Arc::new(Seen::new(client));
        Enforcement::new(Arc::clone(informers), seen, Arc::default(), Defaults::default())
    }

    fn demand() -> Demand {
        Demand { namespace: "apollo".to_owned(), ..Demand::default() }
    }

    fn informers(owner: &str) -> Arc<Informers> {
        let informers = Arc::new(Informers::new(false, Arc::new(Metrics::default())));
        let labels = Some([(roster_api::OWNER_LABEL.to_owned(), owner.to_owned())].into());
        let namespace = ObjectMeta { labels, ..ObjectMeta::default() };
        informers.change(|directory, _| directory.set_namespace("apollo", Some(NamespaceState::of(&namespace))));
        informers
    }

    fn set(informers: &Informers, allotment: Allotment) {
        informers.change(|directory, _| directory.set_allotment("apollo", Some(allotment)));
    }

    fn in_force() -> Allotment {
        let enforced = Some([("pods".to_owned(), Amount::units(1))].into());
        let (term, owner) = (Some("t".to_owned()), Some("dora".to_owned()));
        Allotment { enforced, term, owner, revision: 7, ..Allotment::default() }
    }

    fn with_short_wait(informers: &Arc<Informers>, give_up_after: Duration) -> Enforcement {
        Enforcement { waits: Waits { longest: Duration::from_millis(20), give_up_after }, ..enforcement(informers) }
    }

    #[tokio::test]
    async fn a_request_waits_until_the_quota_is_enforced() {
        let informers = informers("dora");
        let enforcement = enforcement(&informers);
        let later = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            set(&informers, in_force());
        };
        let demand = demand();
        let (waited, ()) = tokio::join!(enforcement.wait(&demand, ReviewOrigin::ApiServer), later);
        assert_eq!(waited, Ok(()));
    }

    #[tokio::test]
    async fn case_d5_a_refusal_names_the_owner_and_the_cause() {
        let informers = informers("dora");
        set(&informers, Allotment { enforced: None, ..in_force() });
        let refusal = with_short_wait(&informers, Duration::from_secs(600))
            .wait(&demand(), ReviewOrigin::ApiServer)
            .await
            .unwrap_err();
        assert!(refusal.is_temporary);
        for part in ["namespace apollo", "User dora", "kube-controller-manager"] {
            assert!(refusal.message.contains(part), "{}", refusal.message);
        }
        let given_up = with_short_wait(&informers, Duration::ZERO);
        assert!(!given_up.wait(&demand(), ReviewOrigin::ApiServer).await.unwrap_err().is_temporary);
        set(&informers, in_force());
        assert_eq!(given_up.wait(&demand(), ReviewOrigin::ApiServer).await, Ok(()));
    }

    #[tokio::test]
    async fn requests_do_not_wait_for_a_quota_that_is_overdue() {
        let informers = informers("dora");
        let created = Some(Timestamp::now() - ENFORCED_WITHIN);
        set(&informers, Allotment { enforced: None, created, ..in_force() });
        let waited = tokio::time::timeout(Duration::from_secs(5), async {
            let refusal = enforcement(&informers).wait(&demand(), ReviewOrigin::ApiServer).await.unwrap_err();
            assert!(!refusal.is_temporary && refusal.message.contains("kube-controller-manager"), "{refusal:?}");
        });
        waited.await.expect("a request waits for eight seconds");
    }

    #[tokio::test]
    async fn the_quota_of_a_former_owner_does_not_count() {
        let informers = informers("heir");
        set(&informers, in_force());
        let refusal =
            with_short_wait(&informers, Duration::ZERO).wait(&demand(), ReviewOrigin::ApiServer).await.unwrap_err();
        assert!(refusal.message.contains("User heir") && refusal.message.contains("another owner"), "{refusal:?}");
    }

    #[tokio::test]
    async fn controllers_and_requests_beyond_the_permits_do_not_wait() {
        let informers = informers("dora");
        set(&informers, Allotment { enforced: None, ..in_force() });
        let enforcement = enforcement(&informers);
        let soon = Duration::from_secs(5);
        let by_controller = Demand { is_by_controller: true, ..demand() };
        let passed = tokio::time::timeout(soon, enforcement.wait(&by_controller, ReviewOrigin::ApiServer))
            .await
            .expect("it does not wait");
        assert_eq!(passed, Ok(()), "the policy decides");
        let permits: Vec<_> = std::iter::from_fn(|| {
            enforcement.permits.acquire(&informers.directory(), "apollo", ReviewOrigin::ApiServer)
        })
        .collect();
        assert_eq!(permits.len(), MAX_WAITING_PER_OWNER);
        let demand = demand();
        let refusal = tokio::time::timeout(soon, enforcement.wait(&demand, ReviewOrigin::ApiServer))
            .await
            .expect("it does not wait");
        assert!(refusal.unwrap_err().is_temporary);
        set(&informers, in_force());
        assert_eq!(
            enforcement.wait(&demand, ReviewOrigin::ApiServer).await.map_err(|refusal| refusal.is_temporary),
            Err(true),
            "not seen yet"
        );
        drop(permits);
        assert_eq!(enforcement.wait(&demand, ReviewOrigin::ApiServer).await, Ok(()));
        let permits: Vec<_> = std::iter::from_fn(|| {
            enforcement.permits.acquire(&informers.directory(), "apollo", ReviewOrigin::ApiServer)
        })
        .collect();
        set(&informers, Allotment { revision: 8, enforced: Some(Amounts::new()), ..in_force() });
        assert_eq!(
            enforcement.wait(&demand, ReviewOrigin::ApiServer).await,
            Ok(()),
            "it was seen before, with less headroom"
        );
        assert_eq!(permits.len(), MAX_WAITING_PER_OWNER);
    }

    /// A client that knows only the path can make up any number of namespaces.
    #[tokio::test]
    async fn reviews_of_made_up_namespaces_are_answered_at_once_and_leave_nothing() {
        let informers = informers("dora");
        let enforcement = enforcement(&informers);
        let made_up = |at: usize| Demand { namespace: format!("made-up-{at}"), ..demand() };
        for at in 0..100 {
            let demand = made_up(at);
            let answer = enforcement.wait(&demand, ReviewOrigin::PathOnly);
            let answer = tokio::time::timeout(Duration::from_millis(100), answer).await.expect("it does not wait");
            assert!(answer.unwrap_err().is_temporary);
        }
        enforcement.waiting_since.run_pending_tasks();
        assert_eq!(enforcement.waiting_since.entry_count(), 0);
        // kube-apiserver's own review may be about a namespace that has just been created.
        let new = made_up(0);
        let waited =
            tokio::time::timeout(Duration::from_millis(100), enforcement.wait(&new, ReviewOrigin::ApiServer)).await;
        assert!(waited.is_err(), "it waits for the informers");
    }

    /// Otherwise a made-up review could make the requests of a namespace fail for good.
    #[tokio::test]
    async fn reviews_with_only_the_path_do_not_shorten_the_wait_of_others() {
        let informers = informers("dora");
        set(&informers, Allotment { enforced: None, ..in_force() });
        let enforcement = with_short_wait(&informers, Duration::from_millis(100));
        assert!(enforcement.wait(&demand(), ReviewOrigin::PathOnly).await.unwrap_err().is_temporary);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(enforcement.wait(&demand(), ReviewOrigin::ApiServer).await.unwrap_err().is_temporary);
        assert!(!enforcement.wait(&demand(), ReviewOrigin::PathOnly).await.unwrap_err().is_temporary);
    }
}
