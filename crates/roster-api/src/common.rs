//! Parts that more than one kind uses.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// An administrative partition. Who belongs to none by name belongs to `default`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Domain(pub String);

impl Default for Domain {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// A span of time. Either end may be left open; both are exact to the second and need no resync to take effect.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(validation = (
    "!has(self.notBefore) || !has(self.notAfter) || self.notBefore < self.notAfter",
    "notBefore must be earlier than notAfter"
), validation = (
    "(!has(self.notBefore) || self.notBefore < timestamp('9999-01-01T00:00:00Z')) && (!has(self.notAfter) || self.notAfter < timestamp('9999-01-01T00:00:00Z'))",
    "a time must lie before the year 9999; for a validity without end, leave notAfter out"
))]
pub struct Validity {
    /// First instant at which this holds, RFC 3339 (for example 2027-01-31T08:00:00Z). Absent: from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub not_before: Option<Time>,

    /// First instant at which this no longer holds, RFC 3339. Absent: without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub not_after: Option<Time>,
}

impl Validity {
    /// Whether `now` lies within.
    pub fn contains(&self, now: Timestamp) -> bool {
        self.not_before.as_ref().is_none_or(|begin| begin.0 <= now) && !self.is_over(now)
    }

    /// Whether it has ended.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.not_after.as_ref().is_some_and(|end| end.0 <= now)
    }

    /// The next instant after `now` at which the clock alone changes [`Validity::contains`].
    pub fn next_edge(&self, now: Timestamp) -> Option<Timestamp> {
        [&self.not_before, &self.not_after].into_iter().flatten().map(|edge| edge.0).filter(|edge| *edge > now).min()
    }
}

/// A quantity as people write it: a number, or a number with a suffix (`500m`, `100Gi`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Quantity {
    /// Written without quotes.
    Integer(i64),
    /// Written as text.
    Text(String),
}

/// Limits on what may be used.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaSpec {
    /// Limit by resource name: the names that a native ResourceQuota uses (requests.cpu, requests.memory,
    /// requests.storage, pods, services.loadbalancers, count/deployments.apps, …) and `namespaces`. The limit spans
    /// all the namespaces together. A name that is absent is not limited.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quota_hard")]
    pub hard: BTreeMap<String, Quantity>,
}

/// Limits in force and what is used of them.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaStatus {
    /// The limits in force: the user's own together with those of their groups.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hard: BTreeMap<String, String>,

    /// What is used, over all owned namespaces together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<String, String>,
}
