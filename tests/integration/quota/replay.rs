//! Replays the changes in some namespaces in the order of revisions, and finds the cause if too much was admitted.
//!
//! kube-apiserver counts a pod before it stores it. If kube-controller-manager recounts in between, or from a
//! stale cache, it writes less than is used, and the next pod is admitted although it does not fit. That concerns one
//! namespace and its own limit, and Roster can't prevent it. Roster must never allot quota that is in use: then
//! each pod fits the limit of its namespace, but all together exceed the total.

use std::collections::{BTreeMap, VecDeque};

/// Field managers that write `status.used`, besides Roster.
const API_SERVER: &str = "kube-apiserver";
const CONTROLLER_MANAGER: &str = "kube-controller-manager";

/// Maximum counts of a namespace whose pods are not stored yet. Those of failed creates are dropped beyond it.
const MAX_IN_FLIGHT: usize = 32;

/// A change that affects the usage of one namespace. Amounts are CPU requests in thousandths.
#[derive(Clone, Debug)]
pub(super) enum Fact {
    /// A pod and its requests; `None` if it was deleted.
    Pod(String, Option<i128>),
    /// A new state of the ResourceQuota.
    Quota(Counted),
}

/// A ResourceQuota at a revision.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    /// `spec.hard`.
    pub given: i128,
    /// `status.hard`, which kube-apiserver enforces.
    pub enforced: i128,
    /// `status.used`.
    pub used: i128,
    /// Field manager that last changed `status.used`.
    pub by: Vec<String>,
}

/// Maxima over time.
#[derive(Debug, Default)]
pub(super) struct Maxima {
    /// Requests of all namespaces together.
    pub requested: i128,
    /// Number of pods.
    pub pods: usize,
    /// Like `requested`, without pods that exceeded the limit of their own namespace.
    pub given: i128,
}

#[derive(Default)]
struct Namespace {
    pods: BTreeMap<String, i128>,
    /// Pods that are counted as used but not stored yet.
    in_flight: VecDeque<i128>,
    counted: Option<Counted>,
    is_miscounted: bool,
}

impl Namespace {
    fn requested(&self) -> i128 {
        self.pods.values().sum()
    }

    /// Returns what is charged to the total limit: the namespace's allotment, or its usage if that is higher.
    fn charged(&self) -> i128 {
        let given = self.counted.as_ref().map_or(0, |counted| counted.given.max(counted.enforced));
        given.max(self.requested() + self.in_flight.iter().sum::<i128>())
    }

    /// Applies a fact. Returns the part of a counted pod that exceeded the namespace's limit.
    fn apply(&mut self, fact: &Fact) -> i128 {
        match fact {
            Fact::Pod(name, Some(requested)) => {
                if self.pods.insert(name.clone(), *requested).is_none() {
                    self.settle_in_flight(*requested);
                }
                0
            }
            Fact::Pod(name, None) => {
                self.pods.remove(name);
                0
            }
            Fact::Quota(counted) => self.count(counted),
        }
    }

    /// Removes a stored pod from those counted first: kube-apiserver counts concurrent pods together.
    fn settle_in_flight(&mut self, mut requested: i128) {
        while let Some(first) = self.in_flight.front_mut() {
            let arrived = requested.min(*first);
            *first -= arrived;
            requested -= arrived;
            if *first > 0 {
                break;
            }
            self.in_flight.pop_front();
        }
    }

    fn count(&mut self, counted: &Counted) -> i128 {
        let Some(before) = self.counted.replace(counted.clone()) else { return 0 };
        let more = counted.used - before.used;
        if more < 0 {
            // Only miscounts of kube-controller-manager are excused.
            self.is_miscounted = counted.by == [CONTROLLER_MANAGER];
        }
        if more <= 0 || counted.by != [API_SERVER] {
            return 0;
        }
        let room = counted.enforced - self.requested() - self.in_flight.iter().sum::<i128>();
        self.in_flight.push_back(more);
        if self.in_flight.len() > MAX_IN_FLIGHT {
            self.in_flight.pop_front();
        }
        if self.is_miscounted { (more - room.max(0)).max(0) } else { 0 }
    }
}

/// Replays facts with their namespaces, in the order of revisions.
pub(super) fn replay<'a>(facts: impl Iterator<Item = &'a (String, Fact)>, limit: i128) -> Maxima {
    let mut namespaces = BTreeMap::<&str, Namespace>::new();
    let (mut maxima, mut let_through) = (Maxima::default(), 0);
    for (namespace, fact) in facts {
        let_through += namespaces.entry(namespace).or_default().apply(fact);
        // Once everything is within the limit again, earlier excess no longer counts.
        if namespaces.values().map(Namespace::charged).sum::<i128>() <= limit {
            let_through = 0;
        }
        let requested = namespaces.values().map(Namespace::requested).sum::<i128>();
        maxima.requested = maxima.requested.max(requested);
        maxima.pods = maxima.pods.max(namespaces.values().map(|own| own.pods.len()).sum());
        maxima.given = maxima.given.max(requested - let_through);
    }
    maxima
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: i128 = 2000;

    fn pod(name: &str) -> Fact {
        Fact::Pod(name.into(), Some(500))
    }

    fn quota(hard: i128, used: i128, by: &str) -> Fact {
        Fact::Quota(Counted { given: hard, enforced: hard, used, by: vec![by.to_owned()] })
    }

    /// Replays these facts in a namespace with one stored and one counted pod, while another namespace uses 1000m of
    /// 1000m.
    fn replay_two_namespaces(own: &[Fact]) -> Maxima {
        let other = [quota(1000, 0, "roster"), quota(1000, 1000, API_SERVER), pod("x"), pod("y")];
        let begun = [quota(1000, 500, "roster"), pod("a"), quota(1000, 1000, API_SERVER)];
        let own = begun.iter().chain(own).map(|fact| ("own".to_owned(), fact.clone()));
        let facts: Vec<_> = other.map(|fact| ("other".to_owned(), fact)).into_iter().chain(own).collect();
        replay(facts.iter(), LIMIT)
    }

    #[test]
    fn requests_beyond_the_enforced_quota_are_attributed_to_kubernetes() {
        // Recounted before the pod is stored, afterwards from a stale cache, and before it is stored with another one
        // already counted.
        let before = [quota(1000, 500, CONTROLLER_MANAGER), pod("b"), quota(1000, 1000, API_SERVER), pod("c")];
        let after = [pod("b"), quota(1000, 500, CONTROLLER_MANAGER), quota(1000, 1000, API_SERVER), pod("c")];
        let between = [quota(1000, 500, CONTROLLER_MANAGER), quota(1000, 1000, API_SERVER), pod("b"), pod("c")];
        for own in [before, after, between] {
            let maxima = replay_two_namespaces(&own);
            assert_eq!((maxima.requested, maxima.given, maxima.pods), (2500, 2000, 5), "{own:?}");
        }
    }

    #[test]
    fn excess_allotments_are_not_excused_by_a_miscount() {
        // Roster trusts the count and allots the free quota to the other namespace.
        let shrunk = [quota(1000, 500, CONTROLLER_MANAGER), quota(500, 500, "roster"), pod("b")];
        let maxima = replay_two_namespaces(&shrunk);
        assert_eq!((maxima.requested, maxima.given), (2000, 2000));
        let more = [quota(2000, 1000, "roster"), quota(2000, 1500, API_SERVER), pod("b"), pod("c")];
        assert_eq!(replay_two_namespaces(&more).given, 2500, "each pod fits its enforced limit");
        let counted = [quota(1000, 500, "roster"), pod("b"), quota(1000, 1000, API_SERVER), pod("c")];
        assert_eq!(replay_two_namespaces(&counted).given, 2500, "Roster has counted too little");
    }

    #[test]
    fn a_miscount_excuses_nothing_after_it_ends() {
        let own = [
            pod("b"),
            quota(1000, 500, CONTROLLER_MANAGER),
            quota(1000, 1000, API_SERVER),
            pod("c"),
            quota(1500, 1500, "roster"),
            Fact::Pod("c".into(), None),
            quota(1500, 1000, CONTROLLER_MANAGER),
            quota(1000, 1000, "roster"),
            quota(1500, 1000, "roster"),
            quota(1500, 1500, API_SERVER),
            pod("d"),
        ];
        assert_eq!(replay_two_namespaces(&own).given, 2500);
    }
}
