//! `RoleBinding`: who holds which role where, and for how long.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::common::Validity;
use super::schema;

/// Who holds which role where. Compiled to native RBAC.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "roster.dev",
    version = "v1alpha1",
    kind = "RoleBinding",
    status = "RoleBindingStatus",
    derive = "Default",
    derive = "PartialEq",
    shortname = "rrb",
    category = "roster",
    doc = "Who holds which role where, and for how long. Compiled to native ClusterRoleBindings and RoleBindings.",
    selectable = ".spec.roleRef.kind",
    selectable = ".spec.roleRef.name",
    selectable = ".spec.delegatedBy",
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.roleRef.kind", description = "Kind of the role"),
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.roleRef.name", description = "Name of the role"),
    printcolumn(
        name = "Bindings",
        type_ = "integer",
        json_path = ".status.bindings",
        description = "Native bindings in force"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status",
        description = "Whether everything declared has taken effect"
    ),
    printcolumn(
        name = "Expires",
        type_ = "string",
        json_path = ".spec.validity.notAfter",
        description = "End of the binding"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation"
    ),
    printcolumn(
        name = "Delegated By",
        type_ = "string",
        json_path = ".spec.delegatedBy",
        description = "User whose own role this passes on",
        priority = 1
    )
)]
#[x_kube(validation = (
    "self.roleRef.kind != 'Role' || !has(self.scope.cluster)",
    "a Role lives in a namespace: scope.cluster needs a roleRef of kind ClusterRole"
))]
pub struct RoleBindingSpec {
    /// The users and groups that hold the role. At most 256.
    #[schemars(schema_with = "subjects")]
    pub subjects: Vec<Subject>,

    /// The role that they hold.
    pub role_ref: RoleRef,

    /// Where they hold it: exactly one of cluster, namespaces, namespaceSelector and domain.
    pub scope: Scope,

    /// When they hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity: Option<Validity>,

    /// Name of the User who passes on a role of their own (a trust): the binding ends as soon as they no longer hold
    /// the role, are no longer active, or are deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub delegated_by: Option<String>,
}

/// Schema of [`RoleBindingSpec::subjects`].
fn subjects(generator: &mut SchemaGenerator) -> Schema {
    let (key, message) = ("item.kind + '/' + item.name", "must not have the same kind and name twice");
    schema::unique_objects::<Subject>(generator, (1, 256), key, message)
}

/// A holder of the role.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// User or Group, of roster.dev.
    pub kind: SubjectKind,

    /// Its metadata.name.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
}

/// What a subject is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum SubjectKind {
    /// A User.
    #[default]
    User,
    /// A Group, with all its effective members.
    Group,
}

/// A reference to a native role.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct RoleRef {
    /// ClusterRole, or Role (of the same name in each namespace of the scope).
    pub kind: RoleKind,

    /// Its name.
    #[schemars(schema_with = "schema::role_name")]
    pub name: String,
}

/// What a role is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum RoleKind {
    /// A ClusterRole.
    #[default]
    ClusterRole,
    /// A Role of the namespace.
    Role,
}

impl RoleRef {
    /// The ClusterRole of that name.
    pub fn cluster_role(name: &str) -> Self {
        Self { kind: RoleKind::ClusterRole, name: name.to_owned() }
    }
}

impl fmt::Display for RoleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

/// Where a role is held. Exactly one field is set.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(validation = (
    "[has(self.cluster), has(self.namespaces), has(self.namespaceSelector), has(self.domain)].filter(x, x).size() == 1",
    "exactly one of cluster, namespaces, namespaceSelector and domain must be set"
))]
pub struct Scope {
    /// The whole cluster, cluster-scoped resources included. Written as {}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterScope>,

    /// These namespaces. At most 16; for more, use namespaceSelector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::namespaces")]
    pub namespaces: Option<Vec<String>>,

    /// Every namespace whose labels match. An empty selector matches all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub namespace_selector: Option<LabelSelector>,

    /// Every namespace with the label roster.dev/domain of this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_value")]
    pub domain: Option<String>,
}

/// The scope of the whole cluster. It has no fields.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct ClusterScope {}

/// What Roster observed. Written by Roster alone, and only when it changes.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleBindingStatus {
    /// The metadata.generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready; Reconciling and Stalled while they hold (kstatus).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::condition::conditions_schema")]
    pub conditions: Vec<Condition>,

    /// Number of native bindings in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bindings: Option<i64>,

    /// Targets where the binding does not take effect yet, at most 100 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<PendingTarget>,
}

/// A target where a binding does not take effect yet.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingTarget {
    /// The namespace. Absent for the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,

    /// The subject that is missing, as Kind/name, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,

    /// Why, such as NamespaceNotFound or RoleNotFound.
    pub reason: String,
}
