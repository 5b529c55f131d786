//! Waits until kube-apiserver has seen a ResourceQuota.
//!
//! kube-apiserver's quota admission and its policies read ResourceQuotas from an informer, which may lag behind etcd
//! and behind Roster's own watch. No API reads that informer, but a policy does: `roster-quota-seen` denies a dry run
//! until the informer has the revision that the dry run names. If several kube-apiservers run, only the one that the
//! operator is connected to is asked.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use moka::sync::Cache;
use roster_core::quota::allotment::MANAGED_BY;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;

/// The policy that compares revisions.
const POLICY: &str = "roster-quota-seen";

/// Name of the ResourceQuota that is never created.
const NAME: &str = "roster-seen";

/// Annotation of that ResourceQuota: the revision that the informer must have.
const SEEN_ANNOTATION: &str = "roster.dev/seen";

/// Time between the first two dry runs. It doubles up to [`MAX_INTERVAL`].
const MIN_INTERVAL: Duration = Duration::from_millis(25);

/// Maximum time between two dry runs.
const MAX_INTERVAL: Duration = Duration::from_millis(400);

/// Maximum number of namespaces whose revision is remembered.
const MAX_KNOWN: u64 = 100_000;

/// Time after which an unused lock of a namespace is dropped. Longer than a request waits.
const LOCK_LIFETIME: Duration = Duration::from_secs(60);

/// Knows which ResourceQuotas kube-apiserver has seen.
pub struct Seen {
    client: Client,
    /// Latest revision that was seen, by namespace.
    known: Cache<String, u64>,
    /// One request of a namespace sends dry runs; the others wait for its result. Otherwise, many requests would keep
    /// kube-apiserver too busy for anything else.
    locks: Cache<String, Arc<Mutex<()>>>,
}

impl Seen {
    /// Creates an instance that sends dry runs through `client`.
    pub fn new(client: Client) -> Self {
        let locks = Cache::builder().max_capacity(MAX_KNOWN).time_to_idle(LOCK_LIFETIME).build();
        Self { client, known: Cache::new(MAX_KNOWN), locks }
    }

    /// Returns whether kube-apiserver's informer is known to have this revision, without asking it.
    pub fn is_known(&self, namespace: &str, revision: u64) -> bool {
        self.known.get(namespace).is_some_and(|known| known >= revision)
    }

    /// Returns whether kube-apiserver's informer is known to have any revision.
    pub fn knows(&self, namespace: &str) -> bool {
        self.known.contains_key(namespace)
    }

    /// Waits until kube-apiserver's informer has this revision of the namespace's ResourceQuota. Returns false if it
    /// does not have it by the deadline, or if that can't be determined.
    pub async fn wait(&self, namespace: &str, revision: u64, deadline: Instant) -> bool {
        let is_known = || self.is_known(namespace, revision);
        if is_known() {
            return true;
        }
        let lock = self.locks.get_with_by_ref(namespace, Arc::default);
        let Ok(_lock) = timeout_at(deadline, lock.lock()).await else { return is_known() };
        if is_known() {
            return true;
        }
        let mut interval = MIN_INTERVAL;
        loop {
            match timeout_at(deadline, self.is_seen(namespace, revision)).await {
                Ok(Ok(true)) => {
                    self.known.insert(namespace.to_owned(), revision);
                    return true;
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => debug!(namespace, %error, "checking what kube-apiserver has seen failed"),
                Err(_) => return false,
            }
            let next = Instant::now() + interval;
            interval = (interval * 2).min(MAX_INTERVAL);
            if next >= deadline {
                return false;
            }
            sleep_until(next).await;
        }
    }

    async fn is_seen(&self, namespace: &str, revision: u64) -> kube::Result<bool> {
        let quotas: Api<ResourceQuota> = Api::namespaced(self.client.clone(), namespace);
        let params = PostParams { dry_run: true, ..PostParams::default() };
        match quotas.create(&params, &probe(revision)).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if [403, 422].contains(&status.code) => {
                // A rejection by another policy or quota says nothing about the informer, so requests do not wait for
                // it.
                Ok(!status.message.contains(POLICY))
            }
            Err(error) => Err(error),
        }
    }
}

/// Returns the object of the dry run.
fn probe(revision: u64) -> ResourceQuota {
    let annotations = [(SEEN_ANNOTATION.to_owned(), revision.to_string())];
    let metadata = ObjectMeta {
        name: Some(NAME.to_owned()),
        labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
        annotations: Some(annotations.into()),
        ..ObjectMeta::default()
    };
    ResourceQuota { metadata, ..ResourceQuota::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use kube::client::Body;

    /// A kube-apiserver whose informer has every revision from the dry run `seen_at` on.
    fn seen(seen_at: usize) -> (Seen, Arc<AtomicUsize>) {
        let dry_runs = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&dry_runs);
        let answer = move |_: axum::http::Request<Body>| {
            let is_seen = counter.fetch_add(1, Ordering::Relaxed) + 1 >= seen_at;
            let (code, body) = if is_seen {
                (201, r#"{"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {}}"#)
            } else {
                (
                    422,
                    r#"{"status": "Failure", "code": 422, "message": "roster-quota-seen: not yet", "reason": "Invalid"}"#,
                )
            };
            let response = axum::http::Response::builder().status(code).body(Body::from(body.as_bytes().to_vec()));
            async move {
                tokio::task::yield_now().await;
                Ok::<_, io::Error>(response.unwrap())
            }
        };
        (Seen::new(Client::new(tower::service_fn(answer), "default")), dry_runs)
    }

    #[tokio::test]
    async fn requests_in_a_namespace_share_dry_runs() {
        let (seen, dry_runs) = seen(5);
        let deadline = Instant::now() + Duration::from_secs(60);
        let waited = join_all((0..300).map(|_| seen.wait("apollo", 7, deadline))).await;
        assert!(waited.into_iter().all(|is_seen| is_seen));
        assert_eq!(dry_runs.load(Ordering::Relaxed), 5);
        assert!(seen.wait("apollo", 6, deadline).await, "an earlier revision is known");
        assert_eq!(dry_runs.load(Ordering::Relaxed), 5);
        assert!(seen.wait("apollo", 8, deadline).await && seen.wait("gemini", 7, deadline).await);
        assert_eq!(dry_runs.load(Ordering::Relaxed), 7, "another revision, and another namespace");
    }

    #[tokio::test]
    async fn requests_stop_waiting_at_their_deadline() {
        let (seen, _) = seen(usize::MAX);
        let soon = Instant::now() + Duration::from_millis(60);
        let waited = join_all((0..300).map(|_| seen.wait("apollo", 7, soon))).await;
        assert!(waited.into_iter().all(|is_seen| !is_seen));
    }
}
