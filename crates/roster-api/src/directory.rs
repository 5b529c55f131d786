//! What the aggregated API `directory.roster.dev/v1alpha1` answers with.
//!
//! Its `User` and `Group` are the declared ones, joined with what is known beyond them.

use std::collections::BTreeMap;

use k8s_openapi::api::authorization::v1::{NonResourceAttributes, ResourceAttributes};
use k8s_openapi::api::rbac::v1::PolicyRule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::role_binding::{RoleRef, Subject};
use super::user::{DesiredState, UserSpec, UserStatus};

/// Group of the aggregated API.
pub const GROUP: &str = "directory.roster.dev";
/// Version of the aggregated API.
pub const VERSION: &str = "v1alpha1";
/// Group and version together.
pub const API_VERSION: &str = "directory.roster.dev/v1alpha1";

/// How much a user may be trusted with at all.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum PermissionLevel {
    /// Banned by `spec.state`.
    Banned,
    /// Has what is bound to them.
    User,
    /// Bound to the administrator ClusterRole as well.
    Admin,
}

impl PermissionLevel {
    /// The level of a User.
    pub fn of(spec: &UserSpec) -> Self {
        match (spec.state, spec.admin) {
            (DesiredState::Banned, _) => Self::Banned,
            (_, true) => Self::Admin,
            (_, false) => Self::User,
        }
    }
}

/// Status of a user in the directory.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryUserStatus {
    /// What the User itself tells.
    #[serde(flatten)]
    pub observed: UserStatus,
    /// Banned, User or Admin, from spec.state and spec.admin.
    pub permission_level: PermissionLevel,
    /// Roles that the user holds, by whatever binding, as kind and name: ClusterRole/edit. As of the moment of the
    /// answer; a change of roles alone is no event of a watch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
    /// True on the entry of whoever asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<bool>,
}

/// What makes a rule or a role apply to somebody.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// The role.
    pub role: RoleRef,
    /// The native binding that grants it.
    pub binding: NativeBinding,
    /// Name of the RoleBinding of Roster that the native binding was compiled from, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_binding: Option<String>,
    /// Whom the native binding names.
    pub subject: NativeSubject,
    /// From the group that the user belongs to directly, to the one that is bound. Empty: the user is bound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// A native binding.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NativeBinding {
    /// ClusterRoleBinding or RoleBinding.
    pub kind: String,
    /// Its namespace, where it is a RoleBinding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// A subject of a native binding: a username or the name of a group.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NativeSubject {
    /// User or Group.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A rule that applies to a user.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveRule {
    /// Where it applies. Absent: in the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The rule.
    #[serde(flatten)]
    pub rule: PolicyRule,
    /// Why it applies: each of these alone is enough.
    pub reasons: Vec<Reason>,
}

/// What a user may do, and why.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserPermissionsStatus {
    /// Whether the user is active. Who is not, may do nothing.
    pub active: bool,
    /// Groups that these are the rules of, effective ones and those that every authenticated user is in.
    pub groups: Vec<String>,
    /// The rules.
    pub rules: Vec<EffectiveRule>,
}

/// A question about what a user may do. Exactly one of the fields is set.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessReviewSpec {
    /// An action on a resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_attributes: Option<ResourceAttributes>,
    /// An action on a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub non_resource_attributes: Option<NonResourceAttributes>,
}

/// The answer of the API server.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessReviewStatus {
    /// Whether the user may.
    pub allowed: bool,
    /// What the API server says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What went wrong on the way to the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation_error: Option<String>,
    /// The bindings that allow it, as far as RBAC does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<Reason>,
}

/// A group that a user belongs to.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupMembership {
    /// Name of the User.
    pub user: String,
    /// Name of the Group.
    pub group: String,
    /// The fields that declare the membership, or its first step.
    pub sources: Vec<String>,
    /// From the group that the user belongs to directly, to this one.
    pub path: Vec<String>,
}

/// A namespace that a user owns or holds a role in.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserNamespace {
    /// Its name.
    pub name: String,
    /// Whether the user owns it, by the label roster.dev/owner.
    pub owned: bool,
    /// Active or Terminating.
    pub phase: String,
    /// Roles that the user holds in it, those for the whole cluster included.
    pub roles: Vec<String>,
    /// What is used in it, where the user owns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<BTreeMap<String, String>>,
    /// Username of whoever holds it locked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_by: Option<String>,
}

/// What a user may use and does use, over all the namespaces that they own.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserQuotaStatus {
    /// The limits in force: the user's own together with those of their groups.
    pub hard: BTreeMap<String, String>,
    /// The use, limited or not.
    pub used: BTreeMap<String, String>,
    /// What each namespace has of it.
    pub namespaces: Vec<NamespaceQuota>,
}

/// What a namespace has of its owner's quota.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceQuota {
    /// Its name.
    pub name: String,
    /// What may be used in it at this moment. It moves between namespaces, to where it is needed. Absent: nothing is
    /// enforced yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard: Option<BTreeMap<String, String>>,
    /// What is used in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<BTreeMap<String, String>>,
}

/// What stands in the way of deleting a user, and what the user keeps others from.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserLocksStatus {
    /// Namespaces that the user owns, which keep it from being deleted where deletionPolicy is Block.
    pub blocking_deletion: Vec<String>,
    /// Namespaces that the user holds locked, by the annotation roster.dev/locked-by.
    pub held: Vec<String>,
}

/// Who holds which role where.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleAssignment {
    /// Who: of native RBAC, a username or the name of a group.
    pub subject: NativeSubject,
    /// The User or Group of Roster that this is, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Subject>,
    /// Its name for people, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_name: Option<String>,
    /// The role.
    pub role: RoleRef,
    /// Where. Absent: in the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The native binding.
    pub binding: NativeBinding,
    /// Name of the RoleBinding of Roster that the native binding was compiled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_binding: Option<String>,
    /// From the group that the user belongs to directly, to the one that is bound. Empty: the subject itself is bound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}
