//! What happened in some namespaces, revision by revision, and who let too much through, if anybody did.
//!
//! kube-apiserver counts a pod as used before it stores it. If kube-controller-manager counts anew in between, or from a
//! cache that lags, it writes less than is used, and the next pod passes that had no room. That is a matter of one
//! namespace and its own limit, which Roster can't help. What Roster must never do is to give away what is taken:
//! there, each pod has room by the limit of its namespace, and all together have too much.

use std::collections::{BTreeMap, VecDeque};

/// Who writes `status.used` but Roster.
const API_SERVER: &str = "kube-apiserver";
const CONTROLLER_MANAGER: &str = "kube-controller-manager";

/// Most counts of a namespace whose pods are not stored yet. One whose creation fails after all is forgotten then.
const MOST_ON_THEIR_WAY: usize = 32;

/// What matters to the count of one namespace. Amounts are CPU requests in thousandths.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A pod requests that much, or is gone.
    Pod(String, Option<i128>),
    /// What its ResourceQuota says.
    Quota(Counted),
}

/// A ResourceQuota at a revision.
#[derive(Clone, Debug)]
pub struct Counted {
    /// `spec.hard`.
    pub given: i128,
    /// `status.hard`, by which kube-apiserver goes.
    pub enforced: i128,
    /// `status.used`.
    pub used: i128,
    /// Who has changed `status.used` last.
    pub by: Vec<String>,
}

/// The most that there was at a time.
#[derive(Debug, Default)]
pub struct Most {
    /// Of all namespaces together.
    pub requested: i128,
    /// Number of pods.
    pub pods: usize,
    /// The same as `requested`, without what had no room by the limit of its own namespace.
    pub given: i128,
}

#[derive(Default)]
struct Namespace {
    pods: BTreeMap<String, i128>,
    /// Counted as used, and not stored yet.
    on_their_way: VecDeque<i128>,
    counted: Option<Counted>,
    is_miscounted: bool,
}

impl Namespace {
    fn requested(&self) -> i128 {
        self.pods.values().sum()
    }

    /// What is taken of the limit over all: what the namespace has been given, or what it uses, if that is more.
    fn taken(&self) -> i128 {
        let given = self.counted.as_ref().map_or(0, |counted| counted.given.max(counted.enforced));
        given.max(self.requested() + self.on_their_way.iter().sum::<i128>())
    }

    /// Takes in what happened. Returns how much of a pod kube-apiserver has counted for which there was no room.
    fn take(&mut self, fact: &Fact) -> i128 {
        match fact {
            Fact::Pod(name, Some(requested)) => {
                if self.pods.insert(name.clone(), *requested).is_none() {
                    self.arrive(*requested);
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

    /// Takes what is stored now from what was counted first: kube-apiserver counts several pods at once if they come at once.
    fn arrive(&mut self, mut requested: i128) {
        while let Some(first) = self.on_their_way.front_mut() {
            let arrived = requested.min(*first);
            *first -= arrived;
            requested -= arrived;
            if *first > 0 {
                break;
            }
            self.on_their_way.pop_front();
        }
    }

    fn count(&mut self, counted: &Counted) -> i128 {
        let Some(before) = self.counted.replace(counted.clone()) else { return 0 };
        let more = counted.used - before.used;
        if more < 0 {
            // Only kube-controller-manager is believed to do that: what somebody else counts excuses nothing.
            self.is_miscounted = counted.by == [CONTROLLER_MANAGER];
        }
        if more <= 0 || counted.by != [API_SERVER] {
            return 0;
        }
        let room = counted.enforced - self.requested() - self.on_their_way.iter().sum::<i128>();
        self.on_their_way.push_back(more);
        if self.on_their_way.len() > MOST_ON_THEIR_WAY {
            self.on_their_way.pop_front();
        }
        if self.is_miscounted { (more - room.max(0)).max(0) } else { 0 }
    }
}

/// Goes through what happened, in the order of revisions: in which namespace, and what.
pub fn replay<'a>(facts: impl Iterator<Item = &'a (String, Fact)>, limit: i128) -> Most {
    let mut namespaces = BTreeMap::<&str, Namespace>::new();
    let (mut most, mut let_through) = (Most::default(), 0);
    for (namespace, fact) in facts {
        let_through += namespaces.entry(namespace).or_default().take(fact);
        // Once everything is within the limit again, nothing of it is left.
        if namespaces.values().map(Namespace::taken).sum::<i128>() <= limit {
            let_through = 0;
        }
        let requested = namespaces.values().map(Namespace::requested).sum::<i128>();
        most.requested = most.requested.max(requested);
        most.pods = most.pods.max(namespaces.values().map(|own| own.pods.len()).sum());
        most.given = most.given.max(requested - let_through);
    }
    most
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

    /// Another namespace uses 1000m of 1000m. In this one, a pod is there, and one is counted.
    fn played(own: &[Fact]) -> Most {
        let other = [quota(1000, 0, "roster"), quota(1000, 1000, API_SERVER), pod("x"), pod("y")];
        let begun = [quota(1000, 500, "roster"), pod("a"), quota(1000, 1000, API_SERVER)];
        let own = begun.iter().chain(own).map(|fact| ("own".to_owned(), fact.clone()));
        let facts: Vec<_> = other.map(|fact| ("other".to_owned(), fact)).into_iter().chain(own).collect();
        replay(facts.iter(), LIMIT)
    }

    #[test]
    fn what_has_no_room_in_its_own_namespace_is_let_through_by_kube() {
        // Counted anew before the pod is stored, after that from a cache that lags, and before it is stored with another
        // one already counted.
        let before = [quota(1000, 500, CONTROLLER_MANAGER), pod("b"), quota(1000, 1000, API_SERVER), pod("c")];
        let after = [pod("b"), quota(1000, 500, CONTROLLER_MANAGER), quota(1000, 1000, API_SERVER), pod("c")];
        let between = [quota(1000, 500, CONTROLLER_MANAGER), quota(1000, 1000, API_SERVER), pod("b"), pod("c")];
        for own in [before, after, between] {
            let most = played(&own);
            assert_eq!((most.requested, most.given, most.pods), (2500, 2000, 5), "{own:?}");
        }
    }

    #[test]
    fn what_roster_gives_too_much_is_excused_by_no_miscount() {
        // It believes the count, and gives what is free by it to the other namespace.
        let shrunk = [quota(1000, 500, CONTROLLER_MANAGER), quota(500, 500, "roster"), pod("b")];
        let most = played(&shrunk);
        assert_eq!((most.requested, most.given), (2000, 2000));
        let more = [quota(2000, 1000, "roster"), quota(2000, 1500, API_SERVER), pod("b"), pod("c")];
        assert_eq!(played(&more).given, 2500, "there was room for each of them");
        let counted = [quota(1000, 500, "roster"), pod("b"), quota(1000, 1000, API_SERVER), pod("c")];
        assert_eq!(played(&counted).given, 2500, "Roster has counted too little");
    }

    #[test]
    fn a_miscount_excuses_nothing_once_it_is_over() {
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
        assert_eq!(played(&own).given, 2500);
    }
}
