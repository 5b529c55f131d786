//! Responses of the aggregated API `directory.roster.dev/v1alpha1`.
//!
//! Its `User` and `Group` are the custom resources with additional, computed fields.

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
/// Group and version of the aggregated API.
pub const API_VERSION: &str = "directory.roster.dev/v1alpha1";

/// Coarse level of a user's permissions.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum PermissionLevel {
    /// Banned by `spec.state`.
    Banned,
    /// Holds the roles that are bound to the user.
    User,
    /// Also bound to the administrator ClusterRole.
    Admin,
}

impl PermissionLevel {
    /// Returns the level of a User.
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
    /// Status of the custom resource.
    #[serde(flatten)]
    pub observed: UserStatus,
    /// Banned, User or Admin, from spec.state and spec.admin.
    pub permission_level: PermissionLevel,
    /// Roles that the user holds through any binding, as kind/name: ClusterRole/edit. Computed for each response: a watch
    /// sends no event if only the roles change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
    /// True on the caller's own entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<bool>,
}

/// The binding through which a rule or a role applies to a user.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// The role.
    pub role: RoleRef,
    /// The native binding that grants it.
    pub binding: NativeBinding,
    /// Name of the RoleBinding of roster.dev that the native binding was compiled from. Omitted for other native bindings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_binding: Option<String>,
    /// The subject of the native binding.
    pub subject: NativeSubject,
    /// Path of groups: from the one in which the user is a direct member to the one that is bound. Empty if the user
    /// itself is bound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// A reference to a native binding.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NativeBinding {
    /// ClusterRoleBinding or RoleBinding.
    pub kind: String,
    /// Namespace of a RoleBinding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the binding.
    pub name: String,
}

/// A subject of a native binding: a username or a group name.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NativeSubject {
    /// User or Group.
    pub kind: String,
    /// Username or group name.
    pub name: String,
}

/// A rule that applies to a user.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveRule {
    /// Namespace in which the rule applies. Omitted if it applies in the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The rule.
    #[serde(flatten)]
    pub rule: PolicyRule,
    /// Bindings that grant the rule. Each one is sufficient.
    pub reasons: Vec<Reason>,
}

/// Effective RBAC rules of a user, with the bindings that grant them.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserPermissionsStatus {
    /// Whether the user is active. A user that is not active has no permissions.
    pub active: bool,
    /// Groups that were evaluated: the effective ones and those of every authenticated user.
    pub groups: Vec<String>,
    /// The rules.
    pub rules: Vec<EffectiveRule>,
}

/// An access review for a user. Exactly one field must be set.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessReviewSpec {
    /// An action on a resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_attributes: Option<ResourceAttributes>,
    /// An action on a non-resource URL path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub non_resource_attributes: Option<NonResourceAttributes>,
}

/// Result of an access review, from kube-apiserver's authorizers.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessReviewStatus {
    /// Whether the request is allowed.
    pub allowed: bool,
    /// Reason given by the authorizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Error during the evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation_error: Option<String>,
    /// The bindings that allow the request. Empty if an authorizer other than RBAC allows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<Reason>,
}

/// An effective membership of a user in a group.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupMembership {
    /// Name of the User.
    pub user: String,
    /// Name of the Group.
    pub group: String,
    /// The fields that declare the membership. For a nested one, those that declare its first step.
    pub sources: Vec<String>,
    /// Path of groups: from the one in which the user is a direct member to this one.
    pub path: Vec<String>,
}

/// A namespace that a user owns or holds a role in.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserNamespace {
    /// Name of the namespace.
    pub name: String,
    /// Whether the user owns it (label roster.dev/owner).
    pub owned: bool,
    /// Active or Terminating.
    pub phase: String,
    /// Roles that the user holds in the namespace, including cluster-wide ones.
    pub roles: Vec<String>,
    /// Current usage. Only for namespaces that the user owns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<BTreeMap<String, String>>,
    /// Username of the holder of the namespace's lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_by: Option<String>,
}

/// Limits and usage of a user, over all owned namespaces.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserQuotaStatus {
    /// Limits in force: those of the user plus those of their groups.
    pub hard: BTreeMap<String, String>,
    /// Current usage, including resources without a limit.
    pub used: BTreeMap<String, String>,
    /// Limits and usage of each owned namespace.
    pub namespaces: Vec<NamespaceQuota>,
}

/// A namespace's part of its owner's quota.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceQuota {
    /// Name of the namespace.
    pub name: String,
    /// Current limits of the namespace. Roster moves them between namespaces on demand. Omitted if no limit is enforced
    /// yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard: Option<BTreeMap<String, String>>,
    /// Current usage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<BTreeMap<String, String>>,
}

/// Namespaces that block the deletion of a user, and namespaces that the user has locked.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserLocksStatus {
    /// Namespaces that the user owns. They block its deletion if spec.deletionPolicy is Block.
    pub blocking_deletion: Vec<String>,
    /// Namespaces that the user has locked (annotation roster.dev/locked-by).
    pub held: Vec<String>,
}

/// A role that a subject holds in a namespace or in the whole cluster.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleAssignment {
    /// Subject in native RBAC.
    pub subject: NativeSubject,
    /// The User or Group of roster.dev with the subject's name, if one exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Subject>,
    /// Display name of the holder, if it was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_name: Option<String>,
    /// The role.
    pub role: RoleRef,
    /// Namespace in which the role is held. Omitted for the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The native binding.
    pub binding: NativeBinding,
    /// Name of the RoleBinding of roster.dev that the native binding was compiled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_binding: Option<String>,
    /// Path of groups: from the one in which the user is a direct member to the one that is bound. Empty if the subject
    /// itself is bound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}
