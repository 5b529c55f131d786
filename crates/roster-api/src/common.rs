//! Types that several kinds share.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// An administrative partition. Defaults to `default`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Domain(pub String);

impl Default for Domain {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// A period. Either end may be left open. Both take effect to the second, without waiting for a resync.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(validation = (
    "!has(self.notBefore) || !has(self.notAfter) || self.notBefore < self.notAfter",
    "notBefore must be earlier than notAfter"
), validation = (
    "(!has(self.notBefore) || self.notBefore < timestamp('9999-01-01T00:00:00Z')) && (!has(self.notAfter) || self.notAfter < timestamp('9999-01-01T00:00:00Z'))",
    "times must be before the year 9999; for a validity without end, omit notAfter"
))]
pub struct Validity {
    /// Time from which this is valid, RFC 3339 (for example 2027-01-31T08:00:00Z). Default: no start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub not_before: Option<Time>,

    /// Time from which this is no longer valid, RFC 3339. Default: no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub not_after: Option<Time>,
}

impl Validity {
    /// Returns whether `now` is within the period.
    pub fn contains(&self, now: Timestamp) -> bool {
        self.not_before.as_ref().is_none_or(|begin| begin.0 <= now) && !self.is_over(now)
    }

    /// Returns whether the period has ended.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.not_after.as_ref().is_some_and(|end| end.0 <= now)
    }

    /// Returns the next time after `now` at which the result of [`Validity::contains`] may change.
    pub fn next_transition(&self, now: Timestamp) -> Option<Timestamp> {
        [&self.not_before, &self.not_after].into_iter().flatten().map(|edge| edge.0).filter(|edge| *edge > now).min()
    }
}

/// A Kubernetes quantity: a number, or a number with a suffix (`500m`, `100Gi`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Quantity {
    /// Written without quotes: `5`.
    Integer(i64),
    /// Written as a string: `500m`.
    Text(String),
}

/// Limits on resource usage.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaSpec {
    /// Limits by resource name: the names that ResourceQuota uses (requests.cpu, requests.memory, requests.storage, pods,
    /// services.loadbalancers, count/deployments.apps, …) and `namespaces`. Each limit applies to the total over all owned
    /// namespaces. Resources that are not listed are not limited.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quota_hard")]
    pub hard: BTreeMap<String, Quantity>,
}

/// Limits in force and current usage.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaStatus {
    /// Limits in force: those of the user plus those of their groups.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hard: BTreeMap<String, String>,

    /// Current usage: the total over all owned namespaces.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<String, String>,
}
