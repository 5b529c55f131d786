//! `Group`: users under one name, to be bound to roles and to share a quota.

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
    doc = "Users under one name, to be bound to roles and to share a quota. The object's name is the group's name in RBAC.",
    selectable = ".spec.domain",
    printcolumn(name = "Display Name", type_ = "string", json_path = ".spec.displayName", description = "Name for people"),
    printcolumn(name = "Members", type_ = "integer", json_path = ".status.members", description = "Effective members"),
    printcolumn(
        name = "Waiting",
        type_ = "integer",
        json_path = ".status.waitingMembers",
        description = "Users that declare themselves members and are not accepted",
        priority = 1
    ),
    printcolumn(name = "Roles", type_ = "integer", json_path = ".status.roles", description = "Roles that the group holds"),
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
    /// Name to show to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub display_name: Option<String>,

    /// What the group is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub description: Option<String>,

    /// Administrative partition that the group belongs to.
    #[serde(default)]
    #[schemars(schema_with = "schema::label_value")]
    pub domain: Domain,

    /// Names of Users. At most 5000; larger groups use memberSelector or User.spec.groups, with acceptDeclaredMembers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::members")]
    pub members: Vec<String>,

    /// Names of Groups whose members belong to this one too. At most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::object_names")]
    pub member_groups: Vec<String>,

    /// Users by their labels. An empty selector matches every user. Takes effect only with acceptDeclaredMembers,
    /// because labels are set by those who write Users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub member_selector: Option<LabelSelector>,

    /// Whether Users can declare themselves members: by User.spec.groups, and by labels that memberSelector matches.
    /// Without it, anyone who may write Users could put one into this group before it holds any role. Users that wait
    /// are counted in status.waitingMembers, and name the group in their status.pendingGroups.
    #[serde(default)]
    pub accept_declared_members: bool,

    /// Memberships that begin or end at a given time. At most 1000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "memberships")]
    pub memberships: Vec<Membership>,

    /// Limits that are added to those of each member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaSpec>,
}

/// Schema of [`GroupSpec::memberships`].
fn memberships(generator: &mut SchemaGenerator) -> Schema {
    schema::unique_objects::<Membership>(generator, (0, 1000), "item.user", "must not have the same user twice")
}

/// A membership for a span of time.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    /// Name of the User.
    #[schemars(schema_with = "schema::object_name")]
    pub user: String,

    /// When the membership holds.
    pub validity: Validity,
}

/// What Roster observed. Written by Roster alone, and only when it changes.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// The metadata.generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready; MembershipPending, Reconciling and Stalled while they hold (kstatus).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::condition::conditions_schema")]
    pub conditions: Vec<Condition>,

    /// Number of effective members, those of nested groups included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<i64>,

    /// Number of users that declare themselves members and are not accepted. Absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_members: Option<i64>,

    /// Number of roles that the group holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<i64>,

    /// Usage of all members together, by resource name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<String, String>,
}
