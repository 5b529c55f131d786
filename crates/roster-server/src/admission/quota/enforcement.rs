//! Holds requests in an owned namespace until its quota is enforced, so that one bundle can contain a User, its
//! namespaces and their content.
//!
//! ```text
//!  request ─▶ mutating webhook: waits ─▶ policy roster-quota: is the quota enforced? ─▶ hints ─▶ native quota
//! ```
//!
//! The policy decides, whether or not an operator is running.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use moka::sync::Cache;
use roster_core::directory::Directory;
use roster_runtime::informers::Informers;
use tokio::time::{Instant, timeout_at};

use super::request::Refusal;
use super::seen::Seen;

/// How long requests wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    /// Longest time that one request waits.
    pub(super) longest: Duration,
    /// How long requests in a namespace wait, counted from the first one that does so in vain, so that a namespace whose
    /// quota cannot be enforced does not keep controllers waiting.
    pub(super) give_up_after: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        // kube-apiserver times out after ten seconds.
        Self { longest: Duration::from_secs(8), give_up_after: Duration::from_secs(60) }
    }
}

/// How long a namespace in which requests waited in vain is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Maximum number of namespaces that are remembered.
const MAX_REMEMBERED: u64 = 100_000;

/// Time between two checks if nothing is notified.
const PATIENCE: Duration = Duration::from_millis(250);

/// Waits until quotas are enforced.
pub struct Enforcement {
    informers: Arc<Informers>,
    seen: Arc<Seen>,
    /// When a request first had to wait, by namespace.
    waiting_since: Cache<String, Instant>,
    waits: Waits,
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
    /// Reads allotments from `informers`.
    pub fn new(informers: Arc<Informers>, seen: Arc<Seen>) -> Self {
        let waiting_since = Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(REMEMBERED).build();
        Self { informers, seen, waiting_since, waits: Waits::default() }
    }

    /// Waits until the namespace's quota is enforced.
    ///
    /// # Errors
    /// If it is not enforced in time. The request is to be denied, as the policy would with less explanation.
    pub async fn wait(&self, namespace: &str) -> Result<(), Refusal> {
        let deadline = Instant::now() + self.waits.longest;
        loop {
            // Subscribe before the check, so that a change between the two is not missed.
            let moved = self.informers.allotments_changed.notified();
            let (why, is_overdue) = match self.state(namespace) {
                State::InForce(revision) if self.seen.wait(namespace, revision, deadline).await => {
                    self.waiting_since.invalidate(namespace);
                    return Ok(());
                }
                State::InForce(_) => {
                    (format!("kube-apiserver has not seen the quota of namespace {namespace} yet"), false)
                }
                State::Missing { why, is_overdue } => (why, is_overdue),
            };
            let since = self.waiting_since.get_with(namespace.to_owned(), Instant::now);
            let is_passing = !is_overdue && since.elapsed() < self.waits.give_up_after;
            if !is_passing || Instant::now() >= deadline {
                return Err(Refusal { message: format!("the quota: {why}"), is_passing });
            }
            let _ = timeout_at(deadline.min(Instant::now() + PATIENCE), moved).await;
        }
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
    let Some(owner) = owner else {
        return format!("Roster has not seen the owner of namespace {namespace} yet; please try again");
    };
    let what = format!("namespace {namespace} belongs to User {owner}, whose quota is not enforced in it yet");
    let cause = match directory.quotas.allotment(namespace) {
        None => "Roster has not created its ResourceQuota; check that an operator leads, and read its log",
        Some(allotment) if allotment.enforced.is_none() => {
            "kube-controller-manager has not counted its usage; check that its resourcequota controller runs"
        }
        Some(_) => "its ResourceQuota roster is not Roster's or is that of another owner; check that an operator leads",
    };
    format!("{what}: {cause}, and try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use kube::Client;
    use kube::client::Body;
    use roster_core::directory::bindings::NamespaceState;
    use roster_core::quota::allotment::{Allotment, ENFORCED_WITHIN};
    use roster_runtime::metrics::Metrics;
    use std::io;

    fn enforcement(informers: &Arc<Informers>) -> Enforcement {
        let answer = |_: axum::http::Request<Body>| async {
            let created = r#"{"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {}}"#;
            Ok::<_, io::Error>(axum::http::Response::new(Body::from(created.as_bytes().to_vec())))
        };
        let client = Client::new(tower::service_fn(answer), "default");
        Enforcement::new(Arc::clone(informers), Arc::new(Seen::new(client)))
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
        let enforced = Some([("pods".to_owned(), roster_core::quota::amount::Amount::units(1))].into());
        let (term, owner) = (Some("t".to_owned()), Some("dora".to_owned()));
        Allotment { enforced, term, owner, revision: 7, ..Allotment::default() }
    }

    fn hurried(informers: &Arc<Informers>, give_up_after: Duration) -> Enforcement {
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
        let (waited, ()) = tokio::join!(enforcement.wait("apollo"), later);
        assert_eq!(waited, Ok(()));
    }

    #[tokio::test]
    async fn case_d5_a_refusal_names_the_owner_and_the_cause() {
        let informers = informers("dora");
        set(&informers, Allotment { enforced: None, ..in_force() });
        let refusal = hurried(&informers, Duration::from_secs(600)).wait("apollo").await.unwrap_err();
        assert!(refusal.is_passing);
        for part in ["namespace apollo", "User dora", "kube-controller-manager"] {
            assert!(refusal.message.contains(part), "{}", refusal.message);
        }
        let tired = hurried(&informers, Duration::ZERO);
        assert!(!tired.wait("apollo").await.unwrap_err().is_passing);
        set(&informers, in_force());
        assert_eq!(tired.wait("apollo").await, Ok(()));
    }

    #[tokio::test]
    async fn requests_do_not_wait_for_a_quota_that_is_overdue() {
        let informers = informers("dora");
        let created = Some(Timestamp::now() - ENFORCED_WITHIN);
        set(&informers, Allotment { enforced: None, created, ..in_force() });
        let waited = tokio::time::timeout(Duration::from_secs(5), async {
            let refusal = enforcement(&informers).wait("apollo").await.unwrap_err();
            assert!(!refusal.is_passing && refusal.message.contains("kube-controller-manager"), "{refusal:?}");
        });
        waited.await.expect("a request waits for eight seconds");
    }

    #[tokio::test]
    async fn the_quota_of_a_former_owner_does_not_count() {
        let informers = informers("heir");
        set(&informers, in_force());
        let refusal = hurried(&informers, Duration::ZERO).wait("apollo").await.unwrap_err();
        assert!(refusal.message.contains("User heir") && refusal.message.contains("another owner"), "{refusal:?}");
    }
}
