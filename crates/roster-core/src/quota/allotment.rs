//! The allotment of a namespace: the ResourceQuota that Roster keeps in it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use roster_api::OWNER_LABEL;
use serde::{Deserialize, Serialize};

use super::allot::ResourceShare;
use super::amount::{Amount, Amounts, read, write};

/// Name of the ResourceQuota and of the accompanying LimitRange.
pub const NAME: &str = "roster";

/// Label of both objects, and its value.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "roster");

/// Prefix of the annotations that hold pending requests for more quota, each a [`QuotaRequest`] in JSON. Each replica
/// writes its own annotation, so that replicas do not overwrite each other's requests.
pub const REQUEST_PREFIX: &str = "roster.dev/asked";

/// Annotation: the leader that last wrote the object. A new leader rewrites the object before it increases any
/// allotment, so that writes in flight from the former leader conflict.
pub const TERM_ANNOTATION: &str = "roster.dev/term";

/// Annotation: the owner whose quota includes this allotment. After a change of owner, a policy treats the namespace
/// like a new one until the annotation matches the owner.
pub const OWNER_ANNOTATION: &str = OWNER_LABEL;

/// Annotation of the LimitRange: the defaults that Roster wrote to it.
pub const DEFAULTS_ANNOTATION: &str = "roster.dev/defaults";

/// How long a request for more quota counts. Replicas repeat it while a caller still waits.
pub const REQUEST_LIFETIME: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);

/// How long a new ResourceQuota may take to be enforced.
pub const ENFORCED_WITHIN: jiff::SignedDuration = jiff::SignedDuration::from_secs(30);

/// A pending request for more quota.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct QuotaRequest {
    /// When the request was first made.
    pub since: Timestamp,
    /// When the request was last repeated.
    pub at: Timestamp,
    /// Total use that is requested, not headroom: quantities by resource name.
    pub level: BTreeMap<String, String>,
}

impl QuotaRequest {
    /// Returns whether the request still counts: it was repeated within [`REQUEST_LIFETIME`].
    pub fn counts_at(&self, now: Timestamp) -> bool {
        now.duration_since(self.at) <= REQUEST_LIFETIME
    }
}

/// Observed state of a ResourceQuota.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Allotment {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// The leader that last wrote the object.
    pub term: Option<String>,
    /// The owner whose quota includes this allotment.
    pub owner: Option<String>,
    /// `spec.hard`.
    pub spec: Amounts,
    /// `status.hard`. `None` if nothing is enforced yet.
    pub enforced: Option<Amounts>,
    /// `status.used`.
    pub used: Amounts,
    /// Pending requests for more quota.
    pub requests: Vec<QuotaRequest>,
    /// Whether it has scopes, and therefore counts only some objects. Roster creates none with scopes.
    pub has_scopes: bool,
    /// A `metadata.resourceVersion` since which the headroom is not known to have grown. A reader that has seen this
    /// version sees at least the headroom that is recorded here. 0 if the resourceVersion is not a number.
    pub revision: u64,
}

impl Allotment {
    /// Reads a ResourceQuota.
    pub fn of(quota: &ResourceQuota) -> Self {
        let annotations = quota.annotations();
        let status = quota.status.as_ref();
        let enforced = status.and_then(|status| status.hard.as_ref()).filter(|hard| !hard.is_empty());
        Self {
            uid: quota.uid().unwrap_or_default(),
            created: quota.creation_timestamp().map(|created| created.0),
            term: annotations.get(TERM_ANNOTATION).cloned(),
            owner: annotations.get(OWNER_ANNOTATION).cloned(),
            spec: quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()).map(read).unwrap_or_default(),
            enforced: enforced.map(read),
            used: status.and_then(|status| status.used.as_ref()).map(read).unwrap_or_default(),
            has_scopes: quota.spec.as_ref().is_some_and(|spec| spec.scopes.is_some() || spec.scope_selector.is_some()),
            requests: requests_in(annotations).filter_map(|(_, request)| request).collect(),
            revision: quota.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default(),
        }
    }

    /// Returns whether kube-apiserver enforces the allotment as part of this owner's quota. The policy `roster-quota`
    /// checks the same condition.
    pub fn is_in_force(&self, owner: &str) -> bool {
        self.enforced.is_some() && !self.has_scopes && self.term.is_some() && self.owner.as_deref() == Some(owner)
    }

    /// Returns how much of [`ENFORCED_WITHIN`] is left until the allotment must be enforced; zero if it is overdue,
    /// `None` if it is enforced.
    pub fn overdue_in(&self, now: Timestamp) -> Option<jiff::SignedDuration> {
        let created = self.created.filter(|_| self.enforced.is_none())?;
        Some((ENFORCED_WITHIN - now.duration_since(created)).max(jiff::SignedDuration::ZERO))
    }

    /// Keeps the revision of an earlier state if no headroom has grown since.
    #[must_use]
    pub fn after(mut self, earlier: Option<&Self>) -> Self {
        let is_same = |earlier: &&Self| {
            let has_grown = |name: &String| self.headroom(name) > earlier.headroom(name);
            earlier.uid == self.uid
                && earlier.enforced.is_some() == self.enforced.is_some()
                && (&earlier.term, &earlier.owner) == (&self.term, &self.owner)
                && !self.enforced.iter().chain(&earlier.enforced).flat_map(BTreeMap::keys).any(has_grown)
        };
        if let Some(earlier) = earlier.filter(is_same) {
            self.revision = earlier.revision;
        }
        self
    }

    /// Returns the share of one resource. A ResourceQuota without the resource does not limit it. Without a
    /// ResourceQuota, a policy rejects everything.
    pub fn share(allotment: Option<&Self>, name: &str) -> ResourceShare {
        let Some(allotment) = allotment else { return ResourceShare::default() };
        let of = |amounts: &Amounts| amounts.get(name).copied();
        let enforced = allotment.enforced.as_ref().and_then(of);
        ResourceShare {
            spec: of(&allotment.spec).unwrap_or(Amount::UNLIMITED),
            enforced: enforced.unwrap_or(if allotment.enforced.is_some() { Amount::UNLIMITED } else { Amount::ZERO }),
            used: of(&allotment.used).unwrap_or_default(),
            ..ResourceShare::default()
        }
    }

    /// Returns the remaining headroom that kube-apiserver sees.
    pub fn headroom(&self, name: &str) -> Amount {
        let hard =
            self.enforced.as_ref().map_or(Amount::ZERO, |hard| hard.get(name).copied().unwrap_or(Amount::UNLIMITED));
        hard.saturating_sub(self.used.get(name).copied().unwrap_or_default())
    }
}

/// Returns the pending requests in annotations by key, `None` for those that do not parse.
fn requests_in(annotations: &BTreeMap<String, String>) -> impl Iterator<Item = (&String, Option<QuotaRequest>)> {
    let own = annotations.iter().filter(|(key, _)| key.starts_with(REQUEST_PREFIX));
    own.map(|(key, text)| (key, serde_json::from_str(text).ok()))
}

/// Removes requests that were last repeated before `time`, and those that do not parse.
pub fn forget_requests_before(time: Timestamp, annotations: &mut BTreeMap<String, String>) {
    let old = requests_in(annotations).filter(|(_, asked)| asked.as_ref().is_none_or(|asked| asked.at < time));
    let old: Vec<String> = old.map(|(key, _)| key.clone()).collect();
    annotations.retain(|key, _| !old.contains(key));
}

/// Builds a new ResourceQuota.
pub fn build(namespace: &str, owner: &str, term: &str, spec: &Amounts) -> ResourceQuota {
    let annotations = [(TERM_ANNOTATION, term), (OWNER_ANNOTATION, owner)];
    ResourceQuota {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
            annotations: Some(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        spec: Some(ResourceQuotaSpec { hard: Some(write(spec)), ..ResourceQuotaSpec::default() }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(millis: i64) -> Amounts {
        [("requests.cpu".to_owned(), Amount::millis(millis))].into()
    }

    fn allotment(hard: i64, used: i64, revision: u64) -> Allotment {
        Allotment { enforced: Some(cpu(hard)), used: cpu(used), revision, ..Allotment::default() }
    }

    #[test]
    fn the_revision_is_the_one_at_which_headroom_last_grew() {
        let first = allotment(2000, 1000, 5);
        let used = allotment(2000, 1500, 6).after(Some(&first));
        assert_eq!(used.revision, 5, "a reader at 5 sees at least the current headroom");
        assert_eq!(allotment(2000, 500, 7).after(Some(&used)).revision, 7, "less is used");
        assert_eq!(allotment(3000, 1500, 7).after(Some(&used)).revision, 7, "more is allotted");
        let unlimited = Allotment { enforced: Some(Amounts::new()), ..used.clone() };
        assert_eq!(Allotment { revision: 8, ..unlimited }.after(Some(&used)).revision, 8, "no longer limited");
        let recreated = Allotment { uid: "other".to_owned(), ..allotment(2000, 1500, 9) };
        assert_eq!(recreated.after(Some(&used)).revision, 9);
    }

    #[test]
    fn requests_of_all_replicas_are_read_and_old_ones_removed() {
        let time = |second| Timestamp::from_second(second).unwrap();
        let asked = |at, level: &str| {
            let level = [("requests.cpu".to_owned(), level.to_owned())].into();
            serde_json::to_string(&QuotaRequest { since: time(at), at: time(at), level }).unwrap()
        };
        let annotations = [
            (format!("{REQUEST_PREFIX}-a"), asked(100, "3")),
            (format!("{REQUEST_PREFIX}-b"), asked(200, "1")),
            (format!("{REQUEST_PREFIX}-c"), "junk".to_owned()),
            ("other".to_owned(), "kept".to_owned()),
        ];
        let mut quota = ResourceQuota::default();
        quota.metadata.annotations = Some(annotations.into());
        assert_eq!(Allotment::of(&quota).requests.len(), 2);
        forget_requests_before(time(150), quota.annotations_mut());
        assert_eq!(Allotment::of(&quota).requests, [serde_json::from_str(&asked(200, "1")).unwrap()]);
        assert_eq!(quota.annotations().len(), 2);
    }
}
