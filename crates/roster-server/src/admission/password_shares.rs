//! Shares of the reviews of passwords. Hashing is slow, and its pool is shared.
//!
//! ```text
//!  review ─▶ shares of the namespace's owner and of the requester ─▶ their turns ─▶ pool for hashing
//! ```
//!
//! A share limits how many reviews of one party are in flight, so that others find a permit. A turn limits how many of
//! them are in the pool, which serves its queue in order: the rest wait in a queue of their own, so a review of another
//! party waits for at most one or two hashes of each party and not for all of theirs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Secret;
use kube::core::admission::AdmissionRequest;
use roster_core::directory::Directory;
use roster_runtime::informers::Informers;
use roster_runtime::operations::keyed_permits::{KeyedPermit, KeyedPermits};
use roster_runtime::tls::network_permits::{NetworkShare, NetworkShares};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::password_secret::Refusal;
use super::review_origin::ReviewOrigin;

/// Reviews of passwords in flight in the namespaces of one owner, and of one requester.
///
/// Each verifies a hash that takes half a second at most (see `Argon2idCost::ceiling`), and creates one that takes a
/// tenth of that. With half of the chart's four slots, 16 of them take 4.5 s, less than the 7 s after which a review
/// ends.
const PASSWORD_REVIEWS_OF_ONE: usize = 16;

/// The same, of one network that proves only the path, and of all networks of its site. All of them together have the
/// turns of one party, so those of one site leave time for another network's.
const PASSWORD_REVIEWS_OF_NETWORK: usize = 8;
const PASSWORD_REVIEWS_OF_SITE: usize = 12;

/// Username prefix of ServiceAccounts.
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Whose share a review uses. Anyone who may create namespaces or ServiceAccounts could have any number of shares, so
/// those of one owner count together.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Party {
    /// The User that owns the namespace.
    Owner(String),
    /// A namespace without a known owner.
    Namespace(String),
    /// A requester that is not a ServiceAccount, by username.
    Requester(String),
}

impl Party {
    fn of_namespace(directory: &Directory, namespace: &str) -> Self {
        let owner = directory.owner_of(namespace).map(|owner| Self::Owner(owner.to_owned()));
        owner.unwrap_or_else(|| Self::Namespace(namespace.to_owned()))
    }

    /// Returns the party of a requester: for a ServiceAccount, that of its namespace.
    fn of_requester(directory: &Directory, username: &str) -> Self {
        let account = username.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|account| account.split_once(':'));
        account.map_or_else(
            || Self::Requester(username.to_owned()),
            |(namespace, _)| Self::of_namespace(directory, namespace),
        )
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Owner(_) => "owner",
            Self::Namespace(_) => "namespace",
            Self::Requester(_) => "requester",
        }
    }
}

/// Whose turn it is to hash.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum TurnHolder {
    /// The party whose namespace contains the Secret.
    Target(Party),
    Requester(Party),
    /// All networks whose reviews prove only their path.
    Networks,
}

/// Shares of the reviews of passwords.
pub struct PasswordShares {
    informers: Arc<Informers>,
    targets: Arc<KeyedPermits<Party>>,
    requesters: Arc<KeyedPermits<Party>>,
    /// Of reviews that prove only their path: their namespaces and requesters may be made up.
    networks: NetworkShares,
    /// Turns of parties that have reviews in flight.
    turns: Mutex<HashMap<TurnHolder, Weak<Semaphore>>>,
    /// Maximum number of turns of one holder.
    turns_of_one: usize,
}

/// A part of the shares of a review.
pub struct PasswordShare {
    _permits: SharePermits,
    turns: Vec<Arc<Semaphore>>,
}

enum SharePermits {
    Parties { _target: KeyedPermit<Party>, _requester: KeyedPermit<Party> },
    Network { _network: NetworkShare },
}

/// Permission to use the pool for hashing. Returned on drop, and the share with it.
pub struct Turn {
    _permits: Vec<OwnedSemaphorePermit>,
    _share: PasswordShare,
}

impl PasswordShares {
    /// Creates shares of a pool with this number of slots. One party can use half of them. Owners are those of
    /// `informers`.
    pub fn new(informers: Arc<Informers>, slots: usize) -> Self {
        Self {
            informers,
            targets: KeyedPermits::new(PASSWORD_REVIEWS_OF_ONE),
            requesters: KeyedPermits::new(PASSWORD_REVIEWS_OF_ONE),
            networks: NetworkShares::new(PASSWORD_REVIEWS_OF_NETWORK, PASSWORD_REVIEWS_OF_SITE),
            turns: Mutex::default(),
            turns_of_one: (slots / 2).max(1),
        }
    }

    /// Takes a part of the shares of the namespace's owner and the requester, or if the review does not prove who they
    /// are, of its network.
    ///
    /// # Errors
    /// If one of them is used up.
    pub fn take(
        &self,
        request: &AdmissionRequest<Secret>,
        origin: ReviewOrigin,
        network: IpNet,
    ) -> Result<PasswordShare, Refusal> {
        if origin == ReviewOrigin::PathOnly {
            let share = self.networks.take(network).ok_or(Refusal::OverShare("network"))?;
            let turns = self.turns([TurnHolder::Networks]);
            return Ok(PasswordShare { _permits: SharePermits::Network { _network: share }, turns });
        }
        let (target, requester) = {
            let directory = self.informers.directory();
            let namespace = request.namespace.as_deref().unwrap_or_default();
            let username = request.user_info.username.as_deref().unwrap_or_default();
            (Party::of_namespace(&directory, namespace), Party::of_requester(&directory, username))
        };
        let of_target = self.targets.take(target.clone()).ok_or(Refusal::OverShare(target.kind()))?;
        let of_requester = self.requesters.take(requester.clone()).ok_or(Refusal::OverShare("requester"))?;
        let permits = SharePermits::Parties { _target: of_target, _requester: of_requester };
        // In this order, so that a requester who waits for a busy owner keeps its own turns for other owners.
        let turns = self.turns([TurnHolder::Target(target), TurnHolder::Requester(requester)]);
        Ok(PasswordShare { _permits: permits, turns })
    }

    fn turns(&self, holders: impl IntoIterator<Item = TurnHolder>) -> Vec<Arc<Semaphore>> {
        let mut all = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // There are no more entries than reviews in flight.
        all.retain(|_, turns| turns.strong_count() > 0);
        let found = holders.into_iter().map(|holder| {
            let known = all.get(&holder).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turns = Arc::new(Semaphore::new(self.turns_of_one));
                all.insert(holder, Arc::downgrade(&turns));
                turns
            })
        });
        found.collect()
    }
}

impl PasswordShare {
    /// Waits until it is this review's turn to hash.
    pub async fn turn(self) -> Turn {
        let mut permits = Vec::new();
        for turns in &self.turns {
            permits.extend(Arc::clone(turns).acquire_owned().await);
        }
        Turn { _permits: permits, _share: self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::limits::REVIEWS;
    use futures::FutureExt;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use roster_core::directory::bindings::NamespaceState;
    use roster_credentials::network::network_of;
    use serde_json::json;

    use ReviewOrigin::{ApiServer, PathOnly};

    fn update(namespace: &str, username: &str) -> AdmissionRequest<Secret> {
        let kind = json!({"group": "", "version": "v1", "kind": "Secret", "resource": "secrets"});
        let request = json!({
            "uid": "u-1", "operation": "UPDATE", "namespace": namespace, "name": "x", "dryRun": false, "kind": kind,
            "resource": kind, "userInfo": {"username": username},
        });
        serde_json::from_value(request).unwrap()
    }

    fn network(last: u8) -> IpNet {
        network_of(std::net::IpAddr::from([192, 0, 2, last]))
    }

    /// Shares of a pool with four slots. Jane owns the namespaces whose names begin with `jane`.
    fn shares() -> PasswordShares {
        let informers = Arc::new(Informers::new(false, Arc::default()));
        for at in 0..8 {
            let labels = [(roster_api::OWNER_LABEL.to_owned(), "jane".to_owned())].into();
            let state = NamespaceState::of(&ObjectMeta { labels: Some(labels), ..ObjectMeta::default() });
            informers.change(|directory, _| directory.set_namespace(&format!("jane-{at}"), Some(state)));
        }
        PasswordShares::new(informers, 4)
    }

    /// A tenant who updates many Secrets at once leaves permits for others.
    #[test]
    fn password_reviews_are_limited_per_namespace_and_requester() {
        let shares = shares();
        let take = |namespace: &str, username: &str| shares.take(&update(namespace, username), ApiServer, network(1));
        let held: Vec<_> = (0..REVIEWS.of_network).map_while(|at| take("one", &format!("u-{at}")).ok()).collect();
        assert_eq!(held.len(), PASSWORD_REVIEWS_OF_ONE);
        let refused = take("one", "other").map(drop).unwrap_err().to_string();
        assert_eq!(refused, "too many passwords of one namespace are being hashed; try again in a few seconds");
        let held: Vec<_> = (0..REVIEWS.of_network).map_while(|at| take(&format!("n-{at}"), "jane").ok()).collect();
        assert_eq!(held.len(), PASSWORD_REVIEWS_OF_ONE);
        assert!(take("two", "jane").is_err() && take("two", "john").is_ok());
    }

    #[test]
    fn all_namespaces_and_service_accounts_of_an_owner_have_one_share() {
        let shares = shares();
        let account = |namespace: &str, name: usize| format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:sa-{name}");
        let held: Vec<_> = (0..64)
            .filter_map(|at| {
                let namespace = format!("jane-{}", at % 4);
                shares.take(&update(&namespace, &account(&namespace, at)), ApiServer, network(1)).ok()
            })
            .collect();
        assert_eq!(held.len(), PASSWORD_REVIEWS_OF_ONE);
        let refused = shares.take(&update("jane-7", "john"), ApiServer, network(1)).map(drop).unwrap_err().to_string();
        assert!(refused.contains("one owner"), "{refused}");
        drop(held);
        let elsewhere =
            |at: usize| shares.take(&update(&format!("n-{at}"), &account("jobs", at)), ApiServer, network(1)).ok();
        let held: Vec<_> = (0..64).filter_map(elsewhere).collect();
        assert_eq!(held.len(), PASSWORD_REVIEWS_OF_ONE, "all ServiceAccounts of a namespace are one requester");
    }

    /// The reviews of one owner must not be queued before those of others.
    #[tokio::test]
    async fn one_owner_and_one_requester_use_a_part_of_the_pool() {
        let shares = shares();
        let take =
            |namespace: &str, username: &str| shares.take(&update(namespace, username), ApiServer, network(1)).unwrap();
        let of_jane = (0..8).map(|at| take("jane-0", &format!("u-{at}")));
        let of_ci = (0..8).map(|at| take(&format!("n-{at}"), "ci"));
        let mut turns: Vec<_> = of_jane.chain(of_ci).map(|share| Box::pin(share.turn())).collect();
        let mut granted: Vec<_> = turns.iter_mut().map(|turn| turn.as_mut().now_or_never()).collect();
        let first: Vec<usize> = (0..16).filter(|at| granted[*at].is_some()).collect();
        assert_eq!(first, [0, 1, 8, 9], "half of the four slots each");
        assert!(take("other", "john").turn().now_or_never().is_some(), "others do not wait for them");
        granted.remove(0);
        assert!(turns[2].as_mut().now_or_never().is_some(), "a turn is returned, to the first that waits");
        drop((turns, granted));
        drop(take("other", "john"));
        assert!(shares.turns.lock().unwrap().len() <= 2, "parties without reviews are forgotten");
    }

    /// A leaked path lets a client name any namespace, requester and stored hash.
    #[tokio::test]
    async fn a_path_alone_uses_up_no_share_of_others_and_a_part_of_the_pool() {
        let shares = shares();
        let take =
            |at: usize, last| shares.take(&update(&format!("n-{at}"), &format!("u-{at}")), PathOnly, network(last));
        let forged: Vec<_> = (0..64).filter_map(|at| take(at, 1).ok()).collect();
        assert_eq!(forged.len(), PASSWORD_REVIEWS_OF_NETWORK, "whatever the reviews name");
        let refused = take(99, 1).map(drop).unwrap_err().to_string();
        assert!(refused.contains("one network"), "{refused}");
        let of_another_network = take(0, 2).expect("kube-apiserver may be at an unknown address");
        let turns: Vec<_> = forged.into_iter().filter_map(|share| share.turn().now_or_never()).collect();
        assert_eq!(turns.len(), 2, "half of the four slots");
        assert!(of_another_network.turn().now_or_never().is_none());
        let own = shares.take(&update("jane-0", "jane"), ApiServer, network(1)).expect("her share is free");
        assert!(own.turn().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_pool_with_one_slot_is_shared_as_well() {
        let shares = PasswordShares::new(Arc::new(Informers::new(false, Arc::default())), 1);
        let share = shares.take(&update("one", "jane"), ApiServer, network(1)).unwrap();
        assert!(share.turn().now_or_never().is_some());
    }
}
