//! Counts failed logins per user and source, and per user from all sources together.
//!
//! A few failures lock out a source, so that an attacker locks out only their own address. Many more, from many sources, lock
//! out the user as a whole. Both only refuse new logins: anyone can cause them from outside, so they must not affect existing
//! sessions.
//!
//! If a user has to enter a credential within a session, failures are counted separately, as the source [`SESSIONS`].
//! So an attacker without a session can't prevent the user from changing the password, and a stolen session allows only
//! a few guesses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::network::network_of;

/// When a lockout starts and how long it lasts.
#[derive(Clone, Debug)]
pub struct LockoutPolicy {
    /// Failures of one user from one source that lock out the source.
    pub per_source: u32,
    /// Failures of one user from all sources together that lock out the user.
    pub per_user: u32,
    /// How long a failure counts.
    pub window: Duration,
    /// How long a lockout lasts.
    pub duration: Duration,
}

/// Source of failures within sessions of a user. No address or application has this name. Its failures do not count
/// towards a lockout of the user, and such a lockout does not apply to it.
pub const SESSIONS: &str = "sessions";

/// One failed attempt.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// See [`source_of`] and [`source_of_application`].
    pub source: String,
    pub at: Timestamp,
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
    /// Returns whether the lockout has ended or, without one, the last failure no longer counts.
    fn is_past(&self, limits: &LockoutPolicy, now: Timestamp) -> bool {
        self.locked_until.map_or(later(self.last, limits.window) <= now, |end| end <= now)
    }
}

/// Failed logins of a user. Bounded: each source has one entry, and after `per_user` failures only [`SESSIONS`] is
/// counted until the lockout ends.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedLogins {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    sources: BTreeMap<String, Failures>,
    /// End of the user's lockout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Timestamp>,
}

impl FailedLogins {
    /// Returns whether there are neither failures nor a lockout.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the number of failures that currently count, from all sources together.
    pub fn count(&self) -> u32 {
        self.sources.values().map(|failures| failures.count).sum()
    }

    /// Returns the number of failures that count towards a lockout of the user: those outside of sessions.
    fn count_of_logins(&self) -> u32 {
        self.count() - self.sources.get(SESSIONS).map_or(0, |failures| failures.count)
    }

    /// Returns whether attempts from this source are refused, even with the right credentials.
    pub fn is_locked(&self, source: &str, now: Timestamp) -> bool {
        let per_user = self.locked_until.filter(|_| source != SESSIONS);
        let per_source = self.sources.get(source).and_then(|failures| failures.locked_until);
        per_user.into_iter().chain(per_source).any(|end| end > now)
    }

    /// Returns the failures that were counted after the state `before`, at most one per source.
    pub fn added_since(&self, before: &Self) -> Vec<Failure> {
        let added = self.sources.iter().filter(|(source, failures)| before.sources.get(*source) != Some(*failures));
        added.map(|(source, failures)| Failure { source: source.clone(), at: failures.last }).collect()
    }

    /// Counts a failure. Failures during a lockout do not count, because no password was verified.
    pub fn fail(&mut self, source: &str, limits: &LockoutPolicy, now: Timestamp) {
        if self.is_locked(source, now) {
            return;
        }
        self.forget_past(limits, now);
        let failures =
            self.sources.entry(source.to_owned()).or_insert(Failures { count: 0, last: now, locked_until: None });
        failures.count += 1;
        // A failure whose write was retried may be counted after later ones.
        failures.last = now.max(failures.last);
        if failures.count >= limits.per_source {
            failures.locked_until = Some(later(now, limits.duration));
        }
        if self.count_of_logins() >= limits.per_user && self.locked_until.is_none() {
            self.locked_until = Some(later(now, limits.duration));
        }
    }

    /// Clears the failures of the source of a successful login. Other sources keep theirs, and so does [`SESSIONS`]:
    /// otherwise the thief of a session would get new guesses each time its owner logs in.
    pub fn succeed(&mut self, source: &str, limits: &LockoutPolicy, now: Timestamp) {
        self.forget_past(limits, now);
        self.sources.remove(source);
    }

    /// Clears the failures within sessions: the password was confirmed in a session, or there is a new one.
    pub fn clear_sessions(&mut self) {
        self.sources.remove(SESSIONS);
    }

    fn forget_past(&mut self, limits: &LockoutPolicy, now: Timestamp) {
        // After a lockout of the user, counting restarts at zero, so that the next failure does not cause another lockout.
        if self.locked_until.is_some_and(|end| end <= now) {
            self.locked_until = None;
            self.sources.retain(|source, _| source == SESSIONS);
        }
        // During a lockout of the user, keep the failures that caused it.
        let is_locked = self.locked_until.is_some();
        self.sources.retain(|source, failures| is_locked && source != SESSIONS || !failures.is_past(limits, now));
    }
}

/// Adds a duration. Returns the maximum time on overflow.
fn later(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// Returns the source of an address: an IPv4 address, or the /64 network of an IPv6 subscriber.
pub fn source_of(address: IpAddr) -> String {
    match network_of(address) {
        IpNet::V4(network) => network.addr().to_string(),
        IpNet::V6(network) => network.to_string(),
    }
}

/// Returns the source for an application that does not report its users' addresses.
pub fn source_of_application(username: &str) -> String {
    const MAX_CHARACTERS: usize = 128;
    format!("application {}", username.chars().take(MAX_CHARACTERS).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> LockoutPolicy {
        LockoutPolicy {
            per_source: 3,
            per_user: 7,
            window: Duration::from_secs(600),
            duration: Duration::from_secs(300),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn failures_from_one_source_lock_only_that_source() {
        let mut failed = FailedLogins::default();
        for second in 0..50 {
            failed.fail("attacker", &limits(), at(second));
        }
        assert!(failed.is_locked("attacker", at(50)));
        assert!(!failed.is_locked("home", at(50)));
        assert_eq!(failed.locked_until, None);
        assert_eq!(failed.count(), 3, "failures during the lockout do not count");
        failed.succeed("home", &limits(), at(51));
        assert!(failed.is_locked("attacker", at(51)), "a successful login clears only the failures of its own source");
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
        assert_eq!((failed.count(), failed.locked_until), (1, None), "counting restarts");
    }

    #[test]
    fn sessions_count_apart_from_logins() {
        let mut failed = FailedLogins::default();
        for source in ["a", "b", "c", "d", "e", "f", "g"] {
            failed.fail(source, &limits(), at(0));
        }
        assert!(failed.is_locked("home", at(1)));
        assert!(!failed.is_locked(SESSIONS, at(1)), "failed logins do not lock the user's sessions");
        for second in 100..150 {
            failed.fail(SESSIONS, &limits(), at(second));
        }
        assert!(failed.is_locked(SESSIONS, at(150)), "a stolen session allows as many guesses as any source");
        assert_eq!((failed.count(), failed.locked_until), (7 + 3, Some(at(300))));
        failed.fail("h", &limits(), at(301));
        assert!(failed.is_locked(SESSIONS, at(301)), "sessions stay locked when the user's lockout ends");
        assert_eq!(failed.locked_until, None);
        failed.succeed("home", &limits(), at(302));
        assert!(
            failed.is_locked(SESSIONS, at(302)),
            "a login of the owner gives the thief of a session no more guesses"
        );
        let mut confirmed = failed.clone();
        confirmed.clear_sessions();
        assert!(!confirmed.is_locked(SESSIONS, at(302)));
        assert!(!failed.is_locked(SESSIONS, at(403)), "the lockout of sessions ends by itself");
    }

    #[test]
    fn failures_in_sessions_do_not_lock_the_user() {
        let limits = LockoutPolicy { per_source: 3, per_user: 4, ..limits() };
        let mut failed = FailedLogins::default();
        for second in 0..10 {
            failed.fail(SESSIONS, &limits, at(second));
        }
        failed.fail("a", &limits, at(10));
        assert_eq!(failed.locked_until, None);
        assert!(!failed.is_locked("home", at(10)));
    }

    #[test]
    fn added_failures_are_those_that_were_counted() {
        let mut before = FailedLogins::default();
        before.fail("a", &limits(), at(0));
        before.fail("b", &limits(), at(1));
        let mut after = before.clone();
        assert_eq!(after.added_since(&before), []);
        after.fail("b", &limits(), at(2));
        assert_eq!(after.added_since(&before), [Failure { source: "b".into(), at: at(2) }]);
        let mut cleared = before.clone();
        cleared.succeed("a", &limits(), at(2));
        assert_eq!(cleared.added_since(&before), [], "cleared failures are not added ones");
        let mut later = before.clone();
        later.fail("c", &limits(), at(700));
        assert_eq!(later.added_since(&before), [Failure { source: "c".into(), at: at(700) }]);
        for _ in 0..2 {
            after.fail("b", &limits(), at(3));
        }
        let locked = after.clone();
        after.fail("b", &limits(), at(4));
        assert_eq!(after.added_since(&locked), [], "failures during a lockout do not count");
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
    fn a_success_clears_the_failures_of_its_source() {
        let mut failed = FailedLogins::default();
        failed.fail("a", &limits(), at(0));
        failed.succeed("a", &limits(), at(1));
        assert!(failed.is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let source = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:192.0.2.7"), "192.0.2.7");
    }

    proptest! {
        #[test]
        fn entries_are_bounded_and_lockouts_start_at_the_limit(
            attempts in prop::collection::vec((0u8..40, 0i64..200, any::<bool>()), 0..300)
        ) {
            let (mut failed, mut second) = (FailedLogins::default(), 0);
            for (source, later, succeeds) in attempts {
                second += later;
                let source = if source == 0 { SESSIONS.to_owned() } else { source.to_string() };
                if succeeds && !failed.is_locked(&source, at(second)) {
                    failed.succeed(&source, &limits(), at(second));
                } else {
                    failed.fail(&source, &limits(), at(second));
                }
                prop_assert!(failed.count_of_logins() <= limits().per_user);
                prop_assert!(failed.sources.len() <= limits().per_user as usize + 1);
                prop_assert!(failed.sources.values().all(|failures| failures.count <= limits().per_source));
                prop_assert_eq!(failed.count_of_logins() >= limits().per_user, failed.locked_until.is_some());
            }
        }
    }
}
