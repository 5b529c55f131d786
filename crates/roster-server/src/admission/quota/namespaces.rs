//! Limits how many namespaces a user owns, when a namespace gets a new owner.
//!
//! Namespaces that were admitted but not stored yet are recorded in a ConfigMap per owner, by compare-and-swap, so
//! concurrent requests at different replicas are all counted. The ConfigMap is read before the namespaces are listed: a
//! namespace that is no longer in the ConfigMap is then in the list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{ListParams, PostParams};
use kube::core::admission::{AdmissionRequest, Operation};
use kube::{Api, Client, Resource, ResourceExt};
use roster_api::{OWNER_LABEL, User};
use roster_core::directory::Directory;
use roster_core::quota::amount::Amount;
use roster_core::quota::limits::NAMESPACES;
use roster_runtime::informers::Informers;
use tracing::{info, warn};

/// How long an admitted namespace counts before it is stored: kube-apiserver's default `--request-timeout`.
const RESERVED_FOR: SignedDuration = SignedDuration::from_secs(60);

/// Maximum number of attempts when writes conflict.
const ATTEMPTS: usize = 16;

/// Maximum wait for a new User to reach the informers.
const INFORMER_TIMEOUT: Duration = Duration::from_secs(2);

/// Result of judging a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NamespaceVerdict {
    /// The user may own the namespace.
    Allowed,
    /// A quota would be exceeded. Holds the message.
    Refused(String),
    /// A namespace of that name exists. Holds the message.
    Exists(String),
    /// The check failed. Holds the reason.
    Unknown(String),
}

/// Counts the namespaces of each owner.
pub struct NamespaceCount {
    namespaces: Api<Namespace>,
    reservations: Api<ConfigMap>,
    users: Api<User>,
    informers: Arc<Informers>,
}

enum OwnerLimit {
    No,
    To(Owner),
    /// The User exists, but the informers have not seen it.
    Unknown,
}

struct Owner {
    name: String,
    uid: String,
    limit: Amount,
}

impl NamespaceCount {
    /// Creates an instance that keeps its ConfigMaps in `namespace`.
    pub fn new(client: Client, namespace: &str, informers: Arc<Informers>) -> Self {
        Self {
            namespaces: Api::all(client.clone()),
            reservations: Api::namespaced(client.clone(), namespace),
            users: Api::all(client),
            informers,
        }
    }

    /// Judges a request that gives a namespace a new owner.
    pub async fn judge(&self, request: &AdmissionRequest<Namespace>) -> NamespaceVerdict {
        let (before, after) = (owner_in(request.old_object.as_ref()), owner_in(request.object.as_ref()));
        let Some(after) = after.filter(|after| before != Some(after)) else { return NamespaceVerdict::Allowed };
        if !self.informers.is_synced() || self.informers.is_failing() {
            return NamespaceVerdict::Unknown("the informers have not synced or are failing".to_owned());
        }
        let name = request.object.as_ref().and_then(|namespace| namespace.metadata.name.clone()).unwrap_or_default();
        if let Some(refusal) = overload(&self.informers.directory(), &name, after) {
            return NamespaceVerdict::Refused(refusal);
        }
        let owner = match self.limit_of(after).await {
            Ok(OwnerLimit::To(owner)) => owner,
            Ok(OwnerLimit::No) => return NamespaceVerdict::Allowed,
            Ok(OwnerLimit::Unknown) => {
                return NamespaceVerdict::Unknown(format!(
                    "User {after} is not known to this replica yet; please try again"
                ));
            }
            Err(error) => return unknown(&error),
        };
        // kube-apiserver has not generated the name for `generateName` yet.
        let name = Some(name).filter(|name| !name.is_empty()).unwrap_or_else(|| request.uid.clone());
        // Checked first, because a create that fails later would leave a reservation.
        if request.operation == Operation::Create {
            match self.namespaces.get_metadata_opt(&name).await {
                Ok(None) => {}
                Ok(Some(_)) => return NamespaceVerdict::Exists(format!("namespaces {name:?} already exists")),
                Err(error) => return unknown(&error),
            }
        }
        for _ in 0..ATTEMPTS {
            match self.attempt(&owner, &name, request.dry_run).await {
                Ok(Some(verdict)) => return verdict,
                Ok(None) => {}
                Err(error) => return unknown(&error),
            }
        }
        NamespaceVerdict::Unknown("too many concurrent changes; please try again".to_owned())
    }

    /// Returns the owner's limit on namespaces, if there is one.
    async fn limit_of(&self, owner: &str) -> kube::Result<OwnerLimit> {
        let known = || {
            let directory = self.informers.directory();
            let uid = directory.user(owner)?.uid.clone();
            Some((uid, directory.limits_of(owner).get(NAMESPACES).copied()))
        };
        let mut found = known();
        if found.is_none() && self.users.get_metadata_opt(owner).await?.is_some() {
            // The watch may lag behind.
            let waited = async {
                while found.is_none() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    found = known();
                }
            };
            if tokio::time::timeout(INFORMER_TIMEOUT, waited).await.is_err() {
                return Ok(OwnerLimit::Unknown);
            }
        }
        let limited = found.and_then(|(uid, limit)| Some(Owner { name: owner.to_owned(), uid, limit: limit? }));
        // A User that does not exist yet has no limit. It may be over its limit once it exists.
        Ok(limited.map_or(OwnerLimit::No, OwnerLimit::To))
    }

    /// Counts once, and records the namespace if it fits. Returns `None` on a write conflict.
    async fn attempt(&self, owner: &Owner, name: &str, is_dry_run: bool) -> kube::Result<Option<NamespaceVerdict>> {
        let reservations = self.reservations.get_opt(&reservations_name(owner)).await?;
        let theirs = ListParams::default().labels(&format!("{OWNER_LABEL}={}", owner.name));
        let owned: BTreeSet<String> =
            self.namespaces.list_metadata(&theirs).await?.items.iter().map(ResourceExt::name_any).collect();
        let now = Timestamp::now();
        let mut reserved = reserved(reservations.as_ref(), &owned, now);
        reserved.remove(name);
        let count = owned.len() + reserved.len() + usize::from(!owned.contains(name));
        let is_within = i64::try_from(count).is_ok_and(|count| Amount::units(count) <= owner.limit);
        if !is_within {
            let coming =
                if reserved.is_empty() { String::new() } else { format!(" and {} being created", reserved.len()) };
            return Ok(Some(NamespaceVerdict::Refused(format!(
                "spec.quota.hard.namespaces: User {} has {} of {} namespaces{coming}, and can't own {name} as well",
                owner.name,
                owned.len(),
                owner.limit
            ))));
        }
        if is_dry_run {
            return Ok(Some(NamespaceVerdict::Allowed));
        }
        reserved.insert(name.to_owned(), now + RESERVED_FOR);
        let data = reserved.into_iter().map(|(name, until)| (name, until.to_string())).collect();
        Ok(self.write_reservations(owner, reservations, data).await?.then_some(NamespaceVerdict::Allowed))
    }

    async fn write_reservations(
        &self,
        owner: &Owner,
        reservations: Option<ConfigMap>,
        data: BTreeMap<String, String>,
    ) -> kube::Result<bool> {
        let params = PostParams::default();
        let written = match reservations {
            Some(reservations) => {
                let reservations = ConfigMap { data: Some(data), ..reservations };
                self.reservations.replace(&reservations.name_any(), &params, &reservations).await
            }
            None => {
                self.reservations.create(&params, &ConfigMap { data: Some(data), ..empty_reservations(owner) }).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Returns why the namespace's usage, as far as it is counted, would put its new owner over a limit.
fn overload(directory: &Directory, namespace: &str, owner: &str) -> Option<String> {
    let usage = &directory.quotas.allotment(namespace)?.used;
    let quota = directory.quota_of(owner)?;
    quota.hard.iter().find_map(|(name, hard)| {
        let (has, more) = (quota.used.get(name).copied().unwrap_or_default(), usage.get(name).copied()?);
        (more > Amount::ZERO && has + more > *hard).then(|| {
            let text = |amount: Amount| amount.text_for(name);
            format!(
                "spec.quota.hard.{name}: User {owner} uses {} of {}, and namespace {namespace} uses {}",
                text(has),
                text(*hard),
                text(more)
            )
        })
    })
}

fn owner_in(namespace: Option<&Namespace>) -> Option<&String> {
    namespace?.labels().get(OWNER_LABEL).filter(|owner| !owner.is_empty())
}

fn unknown(error: &kube::Error) -> NamespaceVerdict {
    warn!(%error, "counting the owner's namespaces failed");
    NamespaceVerdict::Unknown("the API server does not answer".to_owned())
}

fn reservations_name(owner: &Owner) -> String {
    format!("namespaces-{}", owner.uid)
}

fn empty_reservations(owner: &Owner) -> ConfigMap {
    let reference = OwnerReference {
        api_version: User::api_version(&()).into_owned(),
        kind: User::kind(&()).into_owned(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
        ..OwnerReference::default()
    };
    let metadata = ObjectMeta {
        name: Some(reservations_name(owner)),
        labels: Some([("app.kubernetes.io/managed-by".to_owned(), "roster".to_owned())].into()),
        owner_references: Some(vec![reference]),
        ..ObjectMeta::default()
    };
    ConfigMap { metadata, ..ConfigMap::default() }
}

/// Returns the admitted namespaces that are not known to be stored yet.
fn reserved(reservations: Option<&ConfigMap>, owned: &BTreeSet<String>, now: Timestamp) -> BTreeMap<String, Timestamp> {
    let data = reservations.and_then(|reservations| reservations.data.as_ref()).into_iter().flatten();
    let parsed = data.filter_map(|(name, until)| Some((name.clone(), until.parse::<Timestamp>().ok()?)));
    parsed.filter(|(name, until)| *until > now && !owned.contains(name)).collect()
}

impl NamespaceVerdict {
    /// Logs a denial, and returns the metric label.
    pub fn log_and_label(&self, request: &AdmissionRequest<Namespace>) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Exists(_) => "refused",
            Self::Refused(why) => {
                info!(
                    namespace = request.name,
                    requester = request.user_info.username,
                    why,
                    "quota denied a namespace"
                );
                "refused"
            }
            Self::Unknown(_) => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_and_expired_reservations_are_ignored() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let data = [
            ("coming", (now + RESERVED_FOR).to_string()),
            ("stored", (now + RESERVED_FOR).to_string()),
            ("never", (now - RESERVED_FOR).to_string()),
            ("junk", "junk".to_owned()),
        ];
        let data = data.map(|(name, until)| (name.to_owned(), until));
        let reservations = ConfigMap { data: Some(data.into()), ..ConfigMap::default() };
        let reserved = reserved(Some(&reservations), &["stored".to_owned()].into(), now);
        assert_eq!(reserved.into_keys().collect::<Vec<_>>(), ["coming"]);
    }
}
