//! Waits until kube-apiserver has seen a ResourceQuota.
//!
//! kube-apiserver's quota admission and its policies read ResourceQuotas from an informer, which may lag behind etcd and
//! behind Roster's own watch. No API reads that informer, but a policy does: `roster-quota-seen` denies a dry run until the
//! informer has the revision that the dry run names. If several kube-apiservers run, only the one that the operator is
//! connected to is asked.

use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use moka::sync::Cache;
use roster_core::quota::allotment::MANAGED_BY;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;

/// The policy that compares revisions.
const POLICY: &str = "roster-quota-seen";

/// Name of the ResourceQuota that is never created.
const NAME: &str = "roster-seen";

/// Its annotation: the revision that the informer must have.
const SEEN_ANNOTATION: &str = "roster.dev/seen";

/// Time between two dry runs.
const INTERVAL: Duration = Duration::from_millis(25);

/// Most namespaces whose revision is remembered.
const MOST_KNOWN: u64 = 100_000;

/// Knows which ResourceQuotas kube-apiserver has seen.
pub struct Seen {
    client: Client,
    /// Latest revision that was seen, by namespace.
    known: Cache<String, u64>,
}

impl Seen {
    /// Sends dry runs through `client`.
    pub fn new(client: Client) -> Self {
        Self { client, known: Cache::new(MOST_KNOWN) }
    }

    /// Waits until kube-apiserver's informer has this revision of the namespace's ResourceQuota. Returns false if it has
    /// not by the deadline, or if that can't be found out.
    pub async fn wait(&self, namespace: &str, revision: u64, deadline: Instant) -> bool {
        if self.known.get(namespace).is_some_and(|known| known >= revision) {
            return true;
        }
        loop {
            match timeout_at(deadline, self.is_seen(namespace, revision)).await {
                Ok(Ok(true)) => {
                    self.known.insert(namespace.to_owned(), revision);
                    return true;
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => debug!(namespace, %error, "asking what kube-apiserver has seen failed"),
                Err(_) => return false,
            }
            let next = Instant::now() + INTERVAL;
            if next >= deadline {
                return false;
            }
            sleep_until(next).await;
        }
    }

    async fn is_seen(&self, namespace: &str, revision: u64) -> kube::Result<bool> {
        let quotas: Api<ResourceQuota> = Api::namespaced(self.client.clone(), namespace);
        let params = PostParams { dry_run: true, ..PostParams::default() };
        match quotas.create(&params, &question(revision)).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if [403, 422].contains(&status.code) => {
                // Other policies and quotas say nothing about the informer.
                Ok(!status.message.contains(POLICY))
            }
            Err(error) => Err(error),
        }
    }
}

/// Returns the object of the dry run.
fn question(revision: u64) -> ResourceQuota {
    let annotations = [(SEEN_ANNOTATION.to_owned(), revision.to_string())];
    let metadata = ObjectMeta {
        name: Some(NAME.to_owned()),
        labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
        annotations: Some(annotations.into()),
        ..ObjectMeta::default()
    };
    ResourceQuota { metadata, ..ResourceQuota::default() }
}
