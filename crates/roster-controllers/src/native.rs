//! Writes native bindings, and deletes those whose owner no longer exists.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt, stream};
use k8s_openapi::api::rbac::v1 as rbac;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use roster_api::{API_VERSION, FIELD_MANAGER, OWNER_UID_LABEL, RoleBinding, User};
use roster_core::directory::native::{Holder, Native, NativeKey, administrator_of, binding_of};
use roster_core::rbac::compile::DesiredBinding;
use roster_core::rbac::plan::{Stages, Write};
use roster_runtime::informers::Informers;
use roster_runtime::metrics::Metrics;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backoff::Backoff;

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// A failed write.
#[derive(Debug)]
pub struct Failed {
    /// The native binding.
    pub key: NativeKey,
    /// The error.
    pub error: kube::Error,
}

/// Writes native bindings.
pub struct NativeWriter {
    client: Client,
    informers: Arc<Informers>,
    /// Permits for concurrent writes. Each write uses a connection.
    permits: Semaphore,
    concurrency: usize,
    metrics: Arc<Metrics>,
}

impl NativeWriter {
    /// Creates a writer that runs at most `concurrency` writes at a time.
    pub fn new(client: Client, informers: Arc<Informers>, concurrency: u16, metrics: Arc<Metrics>) -> Self {
        let concurrency = usize::from(concurrency);
        Self { client, informers, permits: Semaphore::new(concurrency), concurrency, metrics }
    }

    /// Runs the writes, one stage after the other. Grants are written only after all revocations have succeeded, and
    /// only those for which `still_holds` returns true at that time. A failed write does not stop revocations. Returns
    /// the failures, ordered by key.
    pub async fn execute(&self, stages: Stages, still_holds: impl Fn(&DesiredBinding) -> bool) -> Vec<Failed> {
        let mut failed = self.execute_stage(stages.moves).await;
        failed.extend(self.execute_stage(stages.revocations).await);
        if failed.is_empty() {
            let grants = stream::iter(stages.grants).filter(|write| {
                std::future::ready(match write {
                    Write::Apply(_, desired) => still_holds(desired),
                    Write::Delete(..) => true,
                })
            });
            let outcomes = grants.map(|write| self.write(write)).buffer_unordered(self.concurrency);
            failed = outcomes.filter_map(std::future::ready).collect().await;
        }
        failed.sort_by(|a, b| a.key.cmp(&b.key));
        failed
    }

    async fn execute_stage(&self, stage: Vec<Write>) -> Vec<Failed> {
        let outcomes = stream::iter(stage).map(|write| self.write(write)).buffer_unordered(self.concurrency);
        outcomes.filter_map(std::future::ready).collect().await
    }

    async fn write(&self, write: Write) -> Option<Failed> {
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
        let (key, outcome) = match write {
            Write::Delete(key, uid) => {
                let outcome = self.delete(&key, &uid).await;
                (key, outcome)
            }
            Write::Apply(key, desired) => {
                let outcome = self.apply(&key, &desired).await;
                (key, outcome)
            }
        };
        outcome.err().map(|error| Failed { key, error })
    }

    async fn delete(&self, key: &NativeKey, uid: &str) -> kube::Result<()> {
        let client = self.client.clone();
        let outcome = match &key.namespace {
            None => delete_and_remove_finalizers(&Api::<rbac::ClusterRoleBinding>::all(client), key, uid).await,
            Some(namespace) => {
                delete_and_remove_finalizers(&Api::<rbac::RoleBinding>::namespaced(client, namespace), key, uid).await
            }
        };
        if outcome? {
            self.metrics.writes.inc(kind(key));
        }
        self.informers.change(|directory, _| directory.remove_native(key, Some(uid)));
        Ok(())
    }

    async fn apply(&self, key: &NativeKey, desired: &DesiredBinding) -> kube::Result<()> {
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let native = match &key.namespace {
            None => {
                let binding = rbac::ClusterRoleBinding {
                    metadata: metadata(key, desired),
                    role_ref: role_ref(desired),
                    subjects: Some(subjects(desired)),
                };
                let api = Api::<rbac::ClusterRoleBinding>::all(self.client.clone());
                Native::of_cluster(&api.patch(&key.name, &params, &Patch::Apply(&binding)).await?)
            }
            Some(namespace) => {
                let binding = rbac::RoleBinding {
                    metadata: metadata(key, desired),
                    role_ref: role_ref(desired),
                    subjects: Some(subjects(desired)),
                };
                let api = Api::<rbac::RoleBinding>::namespaced(self.client.clone(), namespace);
                Native::of_namespace(&api.patch(&key.name, &params, &Patch::Apply(&binding)).await?)
            }
        };
        self.metrics.writes.inc(kind(key));
        self.informers.change(|directory, _| directory.set_native(native));
        Ok(())
    }

    /// Deletes native bindings of Users and RoleBindings that no longer exist, until `shutdown`.
    ///
    /// # Errors
    /// None: failures are retried.
    pub async fn sweep(&self, shutdown: CancellationToken) -> Result<()> {
        let backoff = Backoff::default();
        let orphaned = self.informers.queues.orphaned.stream(Duration::ZERO);
        // No limit here: each one waits for a permit to write.
        let work = orphaned.for_each_concurrent(None, |uid| {
            let backoff = &backoff;
            async move {
                while let Err(error) = self.remove_orphans(&uid).await {
                    let wait = backoff.failed(&uid);
                    warn!(owner = uid, %error, retry_in = ?wait, "deleting orphaned native bindings failed");
                    tokio::time::sleep(wait).await;
                }
                backoff.succeeded(&uid);
            }
        });
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
        }
        Ok(())
    }

    async fn remove_orphans(&self, uid: &str) -> kube::Result<()> {
        let orphans: Vec<Native> = {
            let directory = self.informers.directory();
            if directory.is_owner_known(uid) { Vec::new() } else { directory.natives.owned_by(uid).cloned().collect() }
        };
        let Some(first) = orphans.first() else { return Ok(()) };
        // The directory may lag behind the previous leader. Only kube-apiserver knows whether the owner exists.
        if self.owner_exists(&first.key, uid).await? {
            return Ok(());
        }
        let deletions = orphans.iter().map(|native| Write::Delete(native.key.clone(), native.uid.clone())).collect();
        let failed = self.execute_stage(deletions).await;
        info!(owner = uid, count = orphans.len() - failed.len(), "deleted orphaned native bindings");
        failed.into_iter().next().map_or(Ok(()), |failed| Err(failed.error))
    }

    async fn owner_exists(&self, key: &NativeKey, uid: &str) -> kube::Result<bool> {
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
        let found = if let Some(name) = administrator_of(&key.name) {
            Api::<User>::all(self.client.clone()).get_metadata_opt(name).await?.map(|user| user.metadata)
        } else if let Some(name) = binding_of(&key.name) {
            Api::<RoleBinding>::all(self.client.clone()).get_metadata_opt(name).await?.map(|binding| binding.metadata)
        } else {
            None
        };
        Ok(found.and_then(|metadata| metadata.uid).is_some_and(|found| found == uid))
    }
}

/// Deletes the object with this UID and removes its finalizers. A binding that is only marked for deletion still grants
/// its role, and adding a finalizer does not require permission to bind. Returns whether the object existed.
async fn delete_and_remove_finalizers<K>(api: &Api<K>, key: &NativeKey, uid: &str) -> kube::Result<bool>
where
    K: Clone + Debug + DeserializeOwned,
{
    let only_this = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    match api.delete(&key.name, &DeleteParams::default().preconditions(only_this)).await {
        Ok(deleted) if deleted.is_right() => return Ok(true),
        Ok(_) => {}
        // Already deleted, or replaced by another object.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => return Ok(false),
        Err(error) => return Err(error),
    }
    let without_finalizers = json!({"metadata": {"uid": uid, "finalizers": null}});
    match api.patch_metadata(&key.name, &PatchParams::default(), &Patch::Merge(without_finalizers)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
        Err(error) => Err(error),
    }
}

const fn kind(key: &NativeKey) -> &'static str {
    if key.namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" }
}

fn metadata(key: &NativeKey, desired: &DesiredBinding) -> ObjectMeta {
    let owner = &desired.owner;
    let labels = [
        ("app.kubernetes.io/managed-by".to_owned(), FIELD_MANAGER.to_owned()),
        (OWNER_UID_LABEL.to_owned(), owner.uid.clone()),
    ];
    ObjectMeta {
        name: Some(key.name.clone()),
        namespace: key.namespace.clone(),
        labels: Some(BTreeMap::from(labels)),
        // The garbage collector deletes the binding if its owner is deleted while Roster is not running.
        owner_references: Some(vec![OwnerReference {
            api_version: API_VERSION.to_owned(),
            kind: owner.kind.to_owned(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    }
}

fn role_ref(desired: &DesiredBinding) -> rbac::RoleRef {
    rbac::RoleRef {
        api_group: RBAC_GROUP.to_owned(),
        kind: format!("{:?}", desired.role.kind),
        name: desired.role.name.clone(),
    }
}

fn subjects(desired: &DesiredBinding) -> Vec<rbac::Subject> {
    let subject = |kind: &str, name: &str| rbac::Subject {
        api_group: Some(RBAC_GROUP.to_owned()),
        kind: kind.to_owned(),
        name: name.to_owned(),
        namespace: None,
    };
    desired
        .holders
        .iter()
        .map(|holder| match holder {
            Holder::User(name) => subject("User", name),
            Holder::Group(name) => subject("Group", name),
        })
        .collect()
}
