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

/// Annotation: pending requests for more quota, as [`QuotaRequest`] in JSON.
pub const REQUEST_ANNOTATION: &str = "roster.dev/asked";

/// Annotation: the leader that wrote the object last. A new leader rewrites it before increasing any allotment, so that
/// writes in flight from the former leader conflict.
pub const TERM_ANNOTATION: &str = "roster.dev/term";

/// Annotation: the owner whose quota this is part of. After a change of owner, a policy treats the namespace like a new
/// one until this matches the owner.
pub const OWNER_ANNOTATION: &str = OWNER_LABEL;

/// Annotation of the LimitRange: its defaults, as Roster wrote them.
pub const DEFAULTS_ANNOTATION: &str = "roster.dev/defaults";

/// How long a request for more quota counts. Callers that still wait repeat it.
pub const REQUEST_LIFETIME: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);

/// A pending request for more quota.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct QuotaRequest {
    /// When it was first made.
    pub since: Timestamp,
    /// When it was last made.
    pub at: Timestamp,
    /// Requested use by resource name, as quantities.
    pub level: BTreeMap<String, String>,
}

impl QuotaRequest {
    /// Returns whether somebody is still waiting.
    pub fn counts_at(&self, now: Timestamp) -> bool {
        now.duration_since(self.at) <= REQUEST_LIFETIME
    }
}

/// Observed state of a ResourceQuota.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Allotment {
    /// `metadata.uid`.
    pub uid: String,
    /// The leader that wrote it last.
    pub term: Option<String>,
    /// The owner whose quota it was made part of.
    pub owner: Option<String>,
    /// `spec.hard`.
    pub spec: Amounts,
    /// `status.hard`. `None` if nothing is enforced yet.
    pub enforced: Option<Amounts>,
    /// `status.used`.
    pub used: Amounts,
    /// Pending request for more quota.
    pub request: Option<QuotaRequest>,
    /// Whether it has scopes and so counts only some objects. Roster creates none like that.
    pub has_scopes: bool,
}

impl Allotment {
    /// Reads a ResourceQuota.
    pub fn of(quota: &ResourceQuota) -> Self {
        let annotations = quota.annotations();
        let status = quota.status.as_ref();
        let enforced = status.and_then(|status| status.hard.as_ref()).filter(|hard| !hard.is_empty());
        Self {
            uid: quota.uid().unwrap_or_default(),
            term: annotations.get(TERM_ANNOTATION).cloned(),
            owner: annotations.get(OWNER_ANNOTATION).cloned(),
            spec: quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()).map(read).unwrap_or_default(),
            enforced: enforced.map(read),
            used: status.and_then(|status| status.used.as_ref()).map(read).unwrap_or_default(),
            has_scopes: quota.spec.as_ref().is_some_and(|spec| spec.scopes.is_some() || spec.scope_selector.is_some()),
            request: annotations.get(REQUEST_ANNOTATION).and_then(|text| serde_json::from_str(text).ok()),
        }
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
