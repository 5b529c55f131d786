//! Parts that more than one kind uses.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
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
#[x_kube(validation = (
    "!has(self.notBefore) || !has(self.notAfter) || self.notBefore < self.notAfter",
    "notBefore must be earlier than notAfter"
))]
pub struct Validity {
    /// First instant at which this holds, RFC 3339 (for example 2027-01-31T08:00:00Z). Absent: from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,

    /// First instant at which this no longer holds, RFC 3339. Absent: without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
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
    pub hard: BTreeMap<String, IntOrString>,
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
