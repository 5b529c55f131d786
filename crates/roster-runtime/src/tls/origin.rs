//! Proof that an admission request comes from kube-apiserver.
//!
//! kube-apiserver presents no client certificate to webhooks unless it is configured with one, so the proof is in the
//! path: `/admission/<segment>/<route>`. Roster derives the segment from the private key of its certificate authority
//! and writes it into the webhook configurations, which only administrators can read. Each webhook has its own segment,
//! which changes once a day: if kube-apiserver can't reach a webhook, it returns the URL to the caller in its error.
//! A leaked segment gives access to only that webhook, and only for a limited time.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use jiff::Timestamp;
use roster_credentials::digest::hex;

use super::authority::Authorities;

/// Prefix of all admission paths.
pub const PREFIX: &str = "/admission/";

const PURPOSE: &str = "roster admission path v1";

/// How long a segment is published. It is also accepted for one period before and one period after that.
const PERIOD: Duration = Duration::from_secs(86_400);

/// Admission webhooks of the chart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Webhook {
    /// Replaces plaintext passwords with hashes.
    PasswordSecrets,
    /// Validates Users.
    Users,
    /// Validates Groups.
    Groups,
    /// Validates labels of Namespaces.
    Namespaces,
    /// Validates password Secrets.
    Secrets,
    /// Rejects cycles of Groups.
    Cycles,
    /// Limits the namespaces of an owner.
    NamespaceQuota,
    /// Rejects numbers that are not quantities and explains what to write instead.
    Quantities,
    /// Waits until quota is enforced.
    QuotaEnforcement,
    /// Moves quota to where it is needed.
    QuotaHints,
}

impl Webhook {
    /// All webhooks.
    pub const ALL: [Self; 10] = [
        Self::PasswordSecrets,
        Self::Users,
        Self::Groups,
        Self::Namespaces,
        Self::Secrets,
        Self::Cycles,
        Self::NamespaceQuota,
        Self::Quantities,
        Self::QuotaEnforcement,
        Self::QuotaHints,
    ];

    /// Name in the webhook configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PasswordSecrets => "password-secrets.roster.dev",
            Self::Users => "users.guard.roster.dev",
            Self::Groups => "groups.guard.roster.dev",
            Self::Namespaces => "namespaces.guard.roster.dev",
            Self::Secrets => "secrets.guard.roster.dev",
            Self::Cycles => "cycles.roster.dev",
            Self::NamespaceQuota => "namespaces.quota.roster.dev",
            Self::Quantities => "quantities.roster.dev",
            Self::QuotaEnforcement => "enforcement.quota.roster.dev",
            Self::QuotaHints => "hints.quota.roster.dev",
        }
    }

    /// Path of the handler, without prefix and segment.
    pub const fn route(self) -> &'static str {
        match self {
            Self::PasswordSecrets => "/password-secrets",
            Self::Users => "/guard/users",
            Self::Groups => "/guard/groups",
            Self::Namespaces => "/guard/namespaces",
            Self::Secrets => "/guard/secrets",
            Self::Cycles => "/cycles",
            Self::NamespaceQuota => "/quota/namespaces",
            Self::Quantities => "/quantities",
            Self::QuotaEnforcement => "/quota/enforcement",
            Self::QuotaHints => "/quota/hints",
        }
    }

    /// Returns the webhook with that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|webhook| webhook.name() == name)
    }

    /// Returns the webhook that a path leads to, and the segment in the path, which is not verified yet.
    fn of_path(path: &str) -> Option<(Self, &str)> {
        let (segment, route) = path.strip_prefix(PREFIX)?.split_once('/')?;
        let webhook = Self::ALL.into_iter().find(|webhook| webhook.route().strip_prefix('/') == Some(route))?;
        Some((webhook, segment))
    }

    /// Returns this webhook's segment for a key. It is hexadecimal because kube-apiserver accepts only lowercase DNS
    /// names between the slashes of `clientConfig.service.path`.
    fn segment(self, key: &hmac::Key) -> String {
        hex(hmac::sign(key, self.name().as_bytes()).as_ref())
    }

    /// Returns the path to publish in the webhook configuration, which every replica accepts.
    pub fn path(self, authorities: &Authorities, now: Timestamp) -> String {
        let keys = authorities.derive_periodic(PURPOSE, PERIOD, now);
        format!("{PREFIX}{}{}", self.segment(&keys[0]), self.route())
    }
}

/// Recognizes the admission requests of kube-apiserver.
#[derive(Clone)]
pub struct WebhookOrigin(Arc<ArcSwap<Authorities>>);

impl WebhookOrigin {
    /// Accepts segments of these authorities, which all replicas share.
    pub const fn new(authorities: Arc<ArcSwap<Authorities>>) -> Self {
        Self(authorities)
    }

    /// Returns the webhook that `path` leads to, if its segment proves that the request comes from kube-apiserver.
    pub fn prove(&self, path: &str, now: Timestamp) -> Option<Webhook> {
        let (webhook, segment) = Webhook::of_path(path)?;
        let keys = self.0.load().derive_periodic(PURPOSE, PERIOD, now);
        let is_accepted = |key| {
            let expected = webhook.segment(key);
            verify_slices_are_equal(expected.as_bytes(), segment.as_bytes()).is_ok()
        };
        keys.iter().any(is_accepted).then_some(webhook)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    fn start() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn origin(authorities: &Authorities) -> WebhookOrigin {
        WebhookOrigin::new(Arc::new(ArcSwap::from_pointee(authorities.clone())))
    }

    #[test]
    fn the_published_path_is_accepted_by_every_replica_with_the_same_authorities() {
        let authorities = Authorities::create(start(), YEAR).unwrap();
        let replica = origin(&Authorities::read(&authorities.write()).unwrap());
        for webhook in Webhook::ALL {
            let path = webhook.path(&authorities, start());
            assert_eq!(replica.prove(&path, start()), Some(webhook));
            let segment = path.split('/').nth(2).unwrap();
            assert!(segment.len() == 64 && segment.bytes().all(|byte| byte.is_ascii_hexdigit()), "{path}");
            assert_eq!(Webhook::named(webhook.name()), Some(webhook));
        }
    }

    #[test]
    fn a_segment_authorizes_only_its_own_webhook() {
        let authorities = Authorities::create(start(), YEAR).unwrap();
        let origin = origin(&authorities);
        let path = Webhook::Cycles.path(&authorities, start());
        for other in Webhook::ALL.into_iter().filter(|webhook| *webhook != Webhook::Cycles) {
            let path = path.replace(Webhook::Cycles.route(), other.route());
            assert_eq!(origin.prove(&path, start()), None, "{path}");
        }
    }

    #[rstest]
    #[case::former_path("/admission/guard/users")]
    #[case::empty_segment("/admission//guard/users")]
    #[case::short_segment("/admission/0/guard/users")]
    #[case::wrong_segment(&format!("/admission/{}/guard/users", "0".repeat(64)))]
    #[case::nothing("/admission/")]
    #[case::elsewhere("/apis")]
    fn invalid_segments_are_refused(#[case] path: &str) {
        let authorities = Authorities::create(start(), YEAR).unwrap();
        assert_eq!(origin(&authorities).prove(path, start()), None);
        let good = Webhook::Users.path(&authorities, start());
        let foreign = Authorities::create(start(), YEAR).unwrap();
        assert_eq!(origin(&foreign).prove(&good, start()), None, "of another installation");
        for near in
            [format!("{good}/"), format!("/{good}"), good.to_uppercase(), good.replace("/admission/", "/admission/x")]
        {
            assert_eq!(origin(&authorities).prove(&near, start()), None, "{near}");
        }
    }

    #[test]
    fn a_segment_is_accepted_for_a_day_before_and_after_it_is_published() {
        let authorities = Authorities::create(start(), YEAR).unwrap();
        let origin = origin(&authorities);
        let now = start() + PERIOD * 10;
        let path = Webhook::Users.path(&authorities, now);
        assert_ne!(path, Webhook::Users.path(&authorities, now + PERIOD));
        for (at, is_accepted) in [
            (now - PERIOD * 2, false),
            (now - PERIOD, true),
            (now, true),
            (now + PERIOD, true),
            (now + PERIOD * 2, false),
        ] {
            assert_eq!(origin.prove(&path, at).is_some(), is_accepted, "{at}");
        }
    }

    #[test]
    fn rotation_publishes_only_paths_that_every_replica_accepts() {
        let first = Authorities::create(start(), YEAR).unwrap();
        let handover = start() + YEAR * 7 / 10;
        let both = first.rotated(handover, YEAR).unwrap().unwrap();
        let path = Webhook::Users.path(&both, handover);
        assert!(origin(&first).prove(&path, handover).is_some(), "a replica that does not know the new authority yet");

        let later = handover + YEAR / 15;
        let path = Webhook::Users.path(&both, later);
        assert!(origin(&first).prove(&path, later).is_none(), "by now, every replica knows the new authority");
        assert!(origin(&both).prove(&path, later).is_some());
        let of_old = Webhook::Users.path(&first, later);
        assert!(origin(&both).prove(&of_old, later).is_some(), "the old one is accepted until it expires");
        let expired = start() + YEAR + PERIOD;
        let next = both.rotated(expired, YEAR).unwrap().unwrap();
        assert!(origin(&next).prove(&Webhook::Users.path(&first, expired), expired).is_none());
    }
}
