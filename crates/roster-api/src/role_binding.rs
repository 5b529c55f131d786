//! `RoleBinding`: grants a role to users and groups, in a scope and for a period.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::common::Validity;
use super::schema;

/// Grants a role to users and groups. Compiled to native RBAC.
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
    doc = "Grants a role to users and groups, in a scope and for a period. Compiled to native ClusterRoleBindings and RoleBindings.",
    selectable = ".spec.roleRef.kind",
    selectable = ".spec.roleRef.name",
    selectable = ".spec.delegatedBy",
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.roleRef.kind", description = "Kind of the role"),
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.roleRef.name", description = "Name of the role"),
    printcolumn(
        name = "Bindings",
        type_ = "integer",
        json_path = ".status.bindings",
        description = "Number of native bindings"
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
        description = "Time at which the binding ends"
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
        description = "User that delegates its role",
        priority = 1
    )
)]
#[x_kube(validation = (
    "self.roleRef.kind != 'Role' || !has(self.scope.cluster)",
    "a Role is namespaced: scope.cluster requires a roleRef of kind ClusterRole"
))]
pub struct RoleBindingSpec {
    /// Users and groups to which the role is granted. At most 256.
    #[schemars(schema_with = "subjects")]
    pub subjects: Vec<Subject>,

    /// The role that is granted.
    pub role_ref: RoleRef,

    /// Where the role is granted: exactly one of cluster, namespaces, namespaceSelector and domain.
    pub scope: Scope,

    /// Period in which the role is granted. Default: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity: Option<Validity>,

    /// Name of the User that delegates its own role with this binding (a trust). The binding ends when that User no longer
    /// holds the role, is no longer active, or is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub delegated_by: Option<String>,
}

/// Schema of [`RoleBindingSpec::subjects`].
fn subjects(generator: &mut SchemaGenerator) -> Schema {
    let (key, message) = ("item.kind + '/' + item.name", "must not have the same kind and name twice");
    schema::unique_objects::<Subject>(generator, (1, 256), key, message)
}

/// A user or group to which a role is granted.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// Kind of the subject: User or Group of roster.dev.
    pub kind: SubjectKind,

    /// The metadata.name of the User or Group.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
}

/// Kind of a subject.
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
    /// Kind of the role: ClusterRole, or Role (with the same name in each namespace of the scope).
    pub kind: RoleKind,

    /// Name of the role.
    #[schemars(schema_with = "schema::role_name")]
    pub name: String,
}

/// Kind of a role.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum RoleKind {
    /// A ClusterRole.
    #[default]
    ClusterRole,
    /// A Role in the namespace in which it is granted.
    Role,
}

impl RoleRef {
    /// Returns a reference to the ClusterRole `name`.
    pub fn cluster_role(name: &str) -> Self {
        Self { kind: RoleKind::ClusterRole, name: name.to_owned() }
    }
}

impl fmt::Display for RoleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

/// Where a role is granted. Exactly one field must be set.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(validation = (
    "[has(self.cluster), has(self.namespaces), has(self.namespaceSelector), has(self.domain)].filter(x, x).size() == 1",
    "exactly one of cluster, namespaces, namespaceSelector and domain must be set"
))]
pub struct Scope {
    /// The whole cluster, including cluster-scoped resources. Written as {}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterScope>,

    /// The listed namespaces. At most 16. For more, use namespaceSelector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::namespaces")]
    pub namespaces: Option<Vec<String>>,

    /// Every namespace whose labels match. An empty selector matches all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub namespace_selector: Option<LabelSelector>,

    /// Every namespace whose label roster.dev/domain has this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_value")]
    pub domain: Option<String>,
}

/// Grants the role in the whole cluster. It has no fields.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct ClusterScope {}

/// Observed state. Only Roster writes it, and only when it changes.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleBindingStatus {
    /// The metadata.generation that this status was computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready, and while they are true Reconciling and Stalled (kstatus).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::condition::conditions_schema")]
    pub conditions: Vec<Condition>,

    /// Number of native bindings that this RoleBinding is compiled to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bindings: Option<i64>,

    /// Targets in which the binding has no effect yet. At most 100 are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<PendingTarget>,
}

/// A target in which a binding has no effect yet.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingTarget {
    /// Namespace of the target. Omitted for the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,

    /// The subject that does not exist, as Kind/name. Set if a subject is the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,

    /// Reason, such as NamespaceNotFound or RoleNotFound.
    pub reason: String,
}
