//! `User`: a person or a machine account that logs in.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema, ResourceExt};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::common::{Domain, QuotaSpec, QuotaStatus, Validity};
use super::schema;

/// A user's identity and how the user may log in. There is no field for a password: it is set through
/// `passwordSecretRef`, the aggregated API, or an invitation.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "roster.dev",
    version = "v1alpha1",
    kind = "User",
    status = "UserStatus",
    derive = "Default",
    derive = "PartialEq",
    shortname = "usr",
    category = "roster",
    doc = "A person or a machine account that logs in to this cluster.",
    selectable = ".spec.username",
    selectable = ".spec.email",
    selectable = ".spec.domain",
    selectable = ".spec.zone",
    selectable = ".spec.state",
    selectable = ".spec.admin",
    selectable = ".status.username",
    selectable = ".status.state",
    printcolumn(
        name = "Username",
        type_ = "string",
        json_path = ".status.username",
        description = "Login name"
    ),
    printcolumn(name = "Email", type_ = "string", json_path = ".spec.email", description = "Primary email address"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state", description = "Observed state"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status",
        description = "Whether everything declared has taken effect"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason",
        description = "Reason of the condition Ready"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation"),
    printcolumn(
        name = "Display Name",
        type_ = "string",
        json_path = ".spec.displayName",
        description = "Display name",
        priority = 1
    ),
    printcolumn(name = "Domain", type_ = "string", json_path = ".spec.domain", description = "Administrative partition", priority = 1),
    printcolumn(name = "Admin", type_ = "boolean", json_path = ".spec.admin", description = "Bound to the administrator role", priority = 1),
    printcolumn(
        name = "Last Login",
        type_ = "date",
        json_path = ".status.lastLoginTime",
        description = "Time of the last successful login",
        priority = 1
    ),
    validation = (
        "self.metadata.name.size() <= 63",
        "metadata.name must have at most 63 characters: it is a label value on the namespaces that the user owns"
    )
)]
pub struct UserSpec {
    /// Login name and RBAC subject name. Default: metadata.name. Must differ from all other usernames and emails,
    /// ignoring case. Immutable: to change it, use users/{name}/rename of directory.roster.dev.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::username")]
    pub username: Option<String>,

    /// Primary email address. Also a login name. Must differ from all other usernames and emails, ignoring case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::email")]
    pub email: Option<String>,

    /// Further email addresses, which are also login names and must be unique. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::emails")]
    pub additional_emails: Vec<String>,

    /// Display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub display_name: Option<String>,

    /// Given name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub first_name: Option<String>,

    /// Family name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub last_name: Option<String>,

    /// Mobile number in international format (E.164 digits, separators allowed), such as +1 555 0100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::phone_number")]
    pub mobile: Option<String>,

    /// Preferred language: a BCP 47 tag such as en or pt-BR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::language")]
    pub language: Option<String>,

    /// Time zone: an IANA name such as Europe/Paris.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time_zone")]
    pub timezone: Option<String>,

    /// Preferred shell: a name or a path, such as zsh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::shell")]
    pub preferred_shell: Option<String>,

    /// GitHub username.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::github_username")]
    pub github_username: Option<String>,

    /// Administrative partition of the user.
    #[serde(default)]
    #[schemars(schema_with = "schema::label_value")]
    pub domain: Domain,

    /// Location of the user, such as eu-west.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_value")]
    pub zone: Option<String>,

    /// Desired state. While it is Disabled or Banned, logins, tokens and API keys are refused and the user has no
    /// compiled bindings. A change takes effect immediately. Banned also records that this is permanent.
    #[serde(default)]
    pub state: DesiredState,

    /// Whether to bind the user to the installation's administrator ClusterRole.
    #[serde(default)]
    pub admin: bool,

    /// Period in which the user is active. Outside of it, logins, tokens and API keys are refused and the user has no
    /// compiled bindings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity: Option<Validity>,

    /// Names of Groups to join, in addition to those that list the user in members or memberships. A name takes effect
    /// only if the Group exists and has spec.acceptDeclaredMembers. Until then, status.pendingGroups lists it. At most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::object_names")]
    pub groups: Vec<String>,

    /// Source of the identity. Default: this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector: Option<Connector>,

    /// Identities of the same person in other systems. At most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "identities")]
    pub identities: Vec<ExternalIdentity>,

    /// Secret of type roster.dev/password that contains the password. The Secret must name this user in the annotation
    /// roster.dev/user. If its content changes, the password changes. Applying the same content again has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<PasswordSecretRef>,

    /// Whether the user must change the password at the next login.
    #[serde(default)]
    pub require_password_change: bool,

    /// Whether logins require a second factor. Optional: only if the user has enrolled one.
    #[serde(default)]
    pub second_factor: SecondFactor,

    /// Networks from which the user may log in, in CIDR notation. Default: all. At most 64.
    #[serde(default, rename = "allowedCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::cidrs")]
    pub allowed_cidrs: Vec<String>,

    /// Limits on the total usage of all namespaces that the user owns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaSpec>,

    /// Receiver of security notices: lockout, upcoming expiry, password change, new API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notification: Option<Notification>,

    /// What happens if the User is deleted while it owns namespaces. Block: deletion waits until the namespaces have other
    /// owners or are deleted. Orphan: the namespaces stay without an owner.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// Attributes that are passed to authorizers and webhooks in UserInfo.extra of every request. Keys under kubernetes.io,
    /// k8s.io and roster.dev are reserved.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::extra")]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// State that an administrator sets.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum DesiredState {
    /// The user may log in.
    #[default]
    Active,
    /// The user may not log in at present.
    Disabled,
    /// The user may not log in again.
    Banned,
}

/// State that Roster observes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum State {
    /// The user may log in and holds its roles. A lockout after failed logins does not change the state; see
    /// `status.lockedUntil`. (Earlier releases wrote `Locked`.)
    #[serde(alias = "Locked")]
    Active,
    /// Not usable yet: `validity.notBefore` is in the future, or another User has the username.
    Pending,
    /// Disabled by `spec.state`, or being deleted.
    Disabled,
    /// Banned by `spec.state`.
    Banned,
    /// `validity.notAfter` has passed.
    Expired,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Whether logins require a second factor.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum SecondFactor {
    /// Only if the user has enrolled one.
    #[default]
    Optional,
    /// Always. Users without one enroll it at the next login.
    Required,
}

/// Effect of deleting a User on the namespaces that it owns.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum DeletionPolicy {
    /// Deletion waits while the user owns namespaces.
    #[default]
    Block,
    /// Owned namespaces stay, without an owner.
    Orphan,
}

/// Source of an identity.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Connector {
    /// Kind of source: local, ldap, oidc, saml, github or another.
    #[serde(rename = "type")]
    #[schemars(schema_with = "schema::label_value")]
    pub kind: String,

    /// Identifier of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub id: Option<String>,

    /// Display name of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub name: Option<String>,
}

/// Schema of [`UserSpec::identities`].
fn identities(generator: &mut SchemaGenerator) -> Schema {
    let (key, message) = ("item.type + '/' + item.id", "must not have the same type and id twice");
    schema::unique_objects::<ExternalIdentity>(generator, (0, 32), key, message)
}

/// A person's identity in another system.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalIdentity {
    /// Kind of system: ldap, oidc, saml, github or another.
    #[serde(rename = "type")]
    #[schemars(schema_with = "schema::label_value")]
    pub kind: String,

    /// Identifier of the person in that system, such as uid=jane,ou=people.
    #[schemars(schema_with = "schema::line")]
    pub id: String,
}

/// A reference to a Secret of type roster.dev/password.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct PasswordSecretRef {
    /// Namespace of the Secret.
    #[schemars(schema_with = "schema::namespace")]
    pub namespace: String,

    /// Name of the Secret.
    #[schemars(schema_with = "schema::secret_name")]
    pub name: String,
}

impl PasswordSecretRef {
    /// Returns whether both fields are valid names. The schema checks it too, but kube-apiserver does not apply new rules
    /// to objects that are stored already, and the names become part of a URL.
    pub fn is_well_formed(&self) -> bool {
        [&self.namespace, &self.name].into_iter().all(|name| {
            let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
            (1..=253).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('.')
        })
    }
}

impl fmt::Display for PasswordSecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Receiver of security notices.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// Transport of security notices.
    #[serde(rename = "type")]
    pub kind: NotificationType,

    /// An https URL without credentials.
    #[schemars(schema_with = "schema::https_url")]
    pub url: String,
}

/// Transport of security notices.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NotificationType {
    /// A signed HTTP POST request.
    Webhook,
}

/// Observed state. Only Roster writes it, and only when it changes.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserStatus {
    /// The metadata.generation that this status was computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Always Ready, NameClaimed and CredentialReady. QuotaWithinLimits if there are limits, and AdministratorBound if
    /// spec.admin is set. Only while true: PasswordChangeRequired, LockedOut, Expiring, MembershipPending,
    /// DeletionBlocked, Reconciling and Stalled (kstatus). Only while false: QuotaEnforced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::condition::conditions_schema")]
    pub conditions: Vec<Condition>,

    /// Login name: spec.username, or metadata.name if that is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,

    /// Observed state. It depends on spec.state, spec.validity and on whether the username is claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,

    /// Effective groups, including those through nesting.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,

    /// Groups that the user declares but is not a member of, because they do not exist or do not accept declared members.
    /// The condition MembershipPending has the details. At most 32 are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_groups: Vec<String>,

    /// Time of the last successful login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_login_time: Option<Time>,

    /// Number of failed logins that count towards a lockout, from all sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_logins: Option<i64>,

    /// End of the current lockout. Until then, new logins with a password, a code or an invitation are refused. Sessions,
    /// tokens, API keys and bindings stay valid. Omitted if there is no lockout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Time>,

    /// Time at which the password was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_changed_time: Option<Time>,

    /// Tokens from logins with a password that was set before this time are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_not_before: Option<Time>,

    /// Time from which the password must be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_expires_time: Option<Time>,

    /// Whether a second factor is enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_factor_enabled: Option<bool>,

    /// Limits in force and current usage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaStatus>,
}

impl User {
    /// Returns the login name and RBAC subject name: `spec.username`, or the object's name if that is not set.
    pub fn username(&self) -> String {
        self.spec.username.clone().unwrap_or_else(|| self.name_any())
    }

    /// Returns all email addresses, the primary one first.
    pub fn emails(&self) -> impl Iterator<Item = &String> {
        self.spec.email.iter().chain(&self.spec.additional_emails)
    }
}
