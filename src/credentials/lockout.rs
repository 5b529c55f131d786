//! Failed logins: counted for each user and source, and for each user over all sources.
//!
//! A source is locked after a few failures, so that guessing ends; the user as a whole only after many more, from many
//! sources. Whoever hammers from one address locks that address out, and not the person from theirs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::operations::network::network_of;

/// When somebody is locked out, and for how long.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Failures of one user from one source.
    pub of_source: u32,
    /// Failures of one user from all sources together.
    pub of_user: u32,
    /// How long a failure counts.
    pub window: Duration,
    /// How long a lockout lasts.
    pub duration: Duration,
}

/// Failures from one source.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Failures {
    count: u32,
    last: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    locked_until: Option<Timestamp>,
}

impl Failures {
    /// Whether nothing follows from it any more.
    fn is_past(&self, limits: &Limits, now: Timestamp) -> bool {
        self.locked_until.map_or(later(self.last, limits.window) <= now, |end| end <= now)
    }
}

/// The failed logins of a user. Bounded: of each source there is one entry, and with `of_user` failures nothing is counted
/// until the lockout has ended.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedLogins {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    sources: BTreeMap<String, Failures>,
    /// End of the lockout of the user as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Timestamp>,
}

impl FailedLogins {
    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Failures that are counted at present, from all sources together.
    pub fn count(&self) -> u32 {
        self.sources.values().map(|failures| failures.count).sum()
    }

    /// Whether logins from that source are refused, whatever they show.
    pub fn is_locked(&self, source: &str, now: Timestamp) -> bool {
        let ends = [self.locked_until, self.sources.get(source).and_then(|failures| failures.locked_until)];
        ends.into_iter().flatten().any(|end| end > now)
    }

    /// Counts a failure. Those while a lockout lasts count for nothing: no password was looked at.
    pub fn fail(&mut self, source: &str, limits: &Limits, now: Timestamp) {
        if self.is_locked(source, now) {
            return;
        }
        self.forget_past(limits, now);
        let failures =
            self.sources.entry(source.to_owned()).or_insert(Failures { count: 0, last: now, locked_until: None });
        failures.count += 1;
        failures.last = now;
        if failures.count >= limits.of_source {
            failures.locked_until = Some(later(now, limits.duration));
        }
        if self.count() >= limits.of_user {
            self.locked_until = Some(later(now, limits.duration));
        }
    }

    /// A login has succeeded: its source begins anew. What others have tried is not forgotten for that.
    pub fn succeed(&mut self, source: &str, limits: &Limits, now: Timestamp) {
        self.forget_past(limits, now);
        self.sources.remove(source);
    }

    fn forget_past(&mut self, limits: &Limits, now: Timestamp) {
        // After a lockout of the user everything begins anew: the next failure must not be one too many again.
        if self.locked_until.is_some_and(|end| end <= now) {
            *self = Self::default();
        }
        self.sources.retain(|_, failures| !failures.is_past(limits, now));
    }
}

/// Without an end, where there is none within the range of the clock.
fn later(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// What counts as one source: an IPv4 address, or the /64 network that a subscriber of IPv6 has to themselves.
pub fn source_of(address: IpAddr) -> String {
    match network_of(address) {
        IpNet::V4(network) => network.addr().to_string(),
        IpNet::V6(network) => network.to_string(),
    }
}

/// An application that does not say where somebody comes from counts as one source itself.
pub fn source_of_application(username: &str) -> String {
    const MOST_CHARACTERS: usize = 128;
    format!("application {}", username.chars().take(MOST_CHARACTERS).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> Limits {
        Limits { of_source: 3, of_user: 7, window: Duration::from_secs(600), duration: Duration::from_secs(300) }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn hammering_from_one_source_locks_that_source_alone() {
        let mut failed = FailedLogins::default();
        for second in 0..50 {
            failed.fail("attacker", &limits(), at(second));
        }
        assert!(failed.is_locked("attacker", at(50)));
        assert!(!failed.is_locked("home", at(50)));
        assert_eq!(failed.locked_until, None);
        assert_eq!(failed.count(), 3, "none is counted while the lockout lasts");
        failed.succeed("home", &limits(), at(51));
        assert!(failed.is_locked("attacker", at(51)), "the person's own login forgives nobody else");
    }

    #[test]
    fn many_sources_lock_the_user() {
        let mut failed = FailedLogins::default();
        for source in ["a", "b", "c", "d", "e", "f", "g"] {
            assert!(!failed.is_locked("home", at(0)));
            failed.fail(source, &limits(), at(0));
        }
        assert_eq!(failed.locked_until, Some(at(300)));
        assert!(failed.is_locked("home", at(299)));
        assert!(!failed.is_locked("home", at(300)));
        failed.fail("h", &limits(), at(301));
        assert_eq!((failed.count(), failed.locked_until), (1, None), "it begins anew");
    }

    #[test]
    fn a_lockout_ends_and_old_failures_are_forgotten() {
        let mut failed = FailedLogins::default();
        failed.fail("a", &limits(), at(0));
        failed.fail("a", &limits(), at(1));
        failed.fail("a", &limits(), at(700));
        assert_eq!(failed.count(), 1, "the first two are older than the window");
        for second in [701, 702] {
            failed.fail("a", &limits(), at(second));
        }
        assert!(failed.is_locked("a", at(703)));
        assert!(!failed.is_locked("a", at(1_002)));
        failed.fail("a", &limits(), at(1_003));
        assert_eq!(failed.count(), 1);
        assert!(!failed.is_locked("a", at(1_003)), "one failure after a lockout is no lockout");
    }

    #[test]
    fn a_success_begins_anew() {
        let mut failed = FailedLogins::default();
        failed.fail("a", &limits(), at(0));
        failed.succeed("a", &limits(), at(1));
        assert!(failed.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let source = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:192.0.2.7"), "192.0.2.7");
    }

    proptest! {
        #[test]
        fn what_is_kept_is_bounded_and_locks_come_in_time(
            attempts in prop::collection::vec((0u8..40, 0i64..200, any::<bool>()), 0..300)
        ) {
            let (mut failed, mut second) = (FailedLogins::default(), 0);
            for (source, later, succeeds) in attempts {
                second += later;
                let source = source.to_string();
                if succeeds && !failed.is_locked(&source, at(second)) {
                    failed.succeed(&source, &limits(), at(second));
                } else {
                    failed.fail(&source, &limits(), at(second));
                }
                prop_assert!(failed.count() <= limits().of_user);
                prop_assert!(failed.sources.len() <= limits().of_user as usize);
                prop_assert!(failed.sources.values().all(|failures| failures.count <= limits().of_source));
                prop_assert_eq!(failed.count() >= limits().of_user, failed.locked_until.is_some());
            }
        }
    }
}
