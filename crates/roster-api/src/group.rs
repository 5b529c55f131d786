//! `Group`: a named set of users that can be bound to roles and given a quota.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::common::{Domain, QuotaSpec, Validity};
use super::schema;

/// Who belongs to the group. Its members are the union of `members`, `memberships` and the members of `memberGroups`,
/// and with `acceptDeclaredMembers` also the users that `memberSelector` matches or that name it in `spec.groups`.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "roster.dev",
    version = "v1alpha1",
    kind = "Group",
    status = "GroupStatus",
    derive = "Default",
    derive = "PartialEq",
    shortname = "grp",
    category = "roster",
    doc = "A named set of users that can be bound to roles and given a quota. The object's name is the group's name in RBAC.",
    selectable = ".spec.domain",
    printcolumn(name = "Display Name", type_ = "string", json_path = ".spec.displayName", description = "Display name"),
    printcolumn(name = "Members", type_ = "integer", json_path = ".status.members", description = "Number of effective members"),
    printcolumn(
        name = "Waiting",
        type_ = "integer",
        json_path = ".status.waitingMembers",
        description = "Number of users that declare themselves members but are not accepted",
        priority = 1
    ),
    printcolumn(name = "Roles", type_ = "integer", json_path = ".status.roles", description = "Number of roles that the group holds"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status",
        description = "Whether everything declared has taken effect"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation"),
    printcolumn(name = "Domain", type_ = "string", json_path = ".spec.domain", description = "Administrative partition", priority = 1),
    validation = ("self.metadata.name.size() <= 63", "metadata.name must have at most 63 characters"),
    validation = (
        "!has(self.spec.memberGroups) || !(self.metadata.name in self.spec.memberGroups)",
        "spec.memberGroups must not name the group itself"
    )
)]
pub struct GroupSpec {
    /// Display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub display_name: Option<String>,

    /// Purpose of the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::paragraphs")]
    pub description: Option<String>,

    /// Administrative partition of the group.
    #[serde(default)]
    #[schemars(schema_with = "schema::label_value")]
    pub domain: Domain,

    /// Names of Users that are members. At most 5000. Apply groups of more than 3500 with kubectl apply --server-side:
    /// without it, kubectl stores a copy in an annotation, which holds 256 KiB. For larger groups, use memberSelector or
    /// User.spec.groups, with acceptDeclaredMembers, or nest groups with memberGroups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::members")]
    pub members: Vec<String>,

    /// Names of Groups whose members are also members of this one. At most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::object_names")]
    pub member_groups: Vec<String>,

    /// Selects members by the labels of Users. An empty selector matches every User. Takes effect only with
    /// acceptDeclaredMembers, because anyone who may write a User can set its labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub member_selector: Option<LabelSelector>,

    /// Whether Users can declare themselves members: with User.spec.groups, or with labels that memberSelector matches.
    /// False by default: otherwise anyone who may write Users could add one to this group before the group holds any
    /// role. Users that are not accepted are counted in status.waitingMembers and list the group in their
    /// status.pendingGroups.
    #[serde(default)]
    pub accept_declared_members: bool,

    /// Memberships with a start or an end. At most 1000. Each counts as three members for kubectl apply without
    /// --server-side.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "memberships")]
    pub memberships: Vec<Membership>,

    /// Limits that are added to the limits of each member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaSpec>,
}

/// Schema of [`GroupSpec::memberships`].
fn memberships(generator: &mut SchemaGenerator) -> Schema {
    schema::unique_objects::<Membership>(generator, (0, 1000), "item.user", "must not have the same user twice")
}

/// A membership with a validity.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    /// Name of the User.
    #[schemars(schema_with = "schema::object_name")]
    pub user: String,

    /// Period in which the user is a member.
    pub validity: Validity,
}

/// Observed state. Only Roster writes it, and only when it changes.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// The metadata.generation that this status was computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready, and while they are true MembershipPending, Reconciling and Stalled (kstatus).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::condition::conditions_schema")]
    pub conditions: Vec<Condition>,

    /// Number of effective members, including those of nested groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<i64>,

    /// Number of users that declare themselves members but are not accepted. Omitted if zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_members: Option<i64>,

    /// Number of roles that the group holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<i64>,

    /// Total usage of all members, by resource name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<String, String>,
}
