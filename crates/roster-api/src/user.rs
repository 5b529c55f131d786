//! `User`: a person, or anything else that logs in under a name of its own.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema, ResourceExt};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::common::{Domain, QuotaSpec, QuotaStatus, Validity};
use super::schema;

/// Who a person is and how they may log in. There is no field for a password: it comes through
/// `passwordSecretRef`, through the aggregated API, or by invitation.
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
    doc = "A person of this cluster, or anything else that logs in under a name of its own.",
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
        description = "Why it is ready or not"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation"),
    printcolumn(
        name = "Display Name",
        type_ = "string",
        json_path = ".spec.displayName",
        description = "Name for people",
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
        "metadata.name must have at most 63 characters: it serves as a label value on the namespaces that the user owns"
    )
)]
pub struct UserSpec {
    /// Login name and RBAC subject name. Default: metadata.name. Immutable, but for users/{name}/rename of directory.roster.dev. Unique among all usernames and emails,
    /// upper and lower case alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::username")]
    pub username: Option<String>,

    /// Primary email address. Also a login name. Unique among all usernames and emails, upper and lower case alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::email")]
    pub email: Option<String>,

    /// Further email addresses, with the same uniqueness. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::emails")]
    pub additional_emails: Vec<String>,

    /// Name to show to people.
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

    /// Mobile number in international form (E.164 digits; separators allowed), as in +1 555 0100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::phone_number")]
    pub mobile: Option<String>,

    /// Preferred language, a BCP 47 tag such as en or pt-BR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::language")]
    pub language: Option<String>,

    /// Time zone, an IANA name such as Europe/Paris.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time_zone")]
    pub timezone: Option<String>,

    /// Preferred shell, by name or path, such as zsh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::shell")]
    pub preferred_shell: Option<String>,

    /// Login at GitHub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::github_username")]
    pub github_username: Option<String>,

    /// Administrative partition that the user belongs to.
    #[serde(default)]
    #[schemars(schema_with = "schema::label_value")]
    pub domain: Domain,

    /// Where the person works, such as eu-west.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_value")]
    pub zone: Option<String>,

    /// Desired state. Disabled and Banned end logins, tokens, keys and compiled bindings at once; Banned also says
    /// that it is meant to last.
    #[serde(default)]
    pub state: DesiredState,

    /// Whether the user is bound to the administrator ClusterRole that the installation names.
    #[serde(default)]
    pub admin: bool,

    /// When the user may be used. Outside of it, logins, tokens, keys and compiled bindings are off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity: Option<Validity>,

    /// Names of Groups that the user is to belong to, in addition to those whose members or memberships name the user.
    /// Each takes effect only if the Group exists and has spec.acceptDeclaredMembers; until then it is listed in
    /// status.pendingGroups. At most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::object_names")]
    pub groups: Vec<String>,

    /// Where the identity comes from. Absent: it is local to this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector: Option<Connector>,

    /// The same person in other systems. At most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "identities")]
    pub identities: Vec<ExternalIdentity>,

    /// Secret of type roster.dev/password to take the password from. The Secret must name this user in the
    /// annotation roster.dev/user. A change of its content is a password change; applying the same again is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<PasswordSecretRef>,

    /// Whether the password must be changed before anything else can be done.
    #[serde(default)]
    pub require_password_change: bool,

    /// Whether a login needs a second factor even where the user has enrolled none yet.
    #[serde(default)]
    pub second_factor: SecondFactor,

    /// Networks that logins may come from, in CIDR notation. Empty: from anywhere. At most 64.
    #[serde(default, rename = "allowedCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::cidrs")]
    pub allowed_cidrs: Vec<String>,

    /// Limits over all the namespaces that the user owns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaSpec>,

    /// Where to send security notices to: lockout, coming expiry, password change, new key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notification: Option<Notification>,

    /// What happens when the User is deleted while it still owns namespaces. Block: deletion waits until they are
    /// handed over or deleted. Orphan: they stay behind without an owner.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// Further attributes, which reach UserInfo.extra of every request. Keys under kubernetes.io, k8s.io and
    /// roster.dev are reserved.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::extra")]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What an administrator wants the user to be.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum DesiredState {
    /// May log in.
    #[default]
    Active,
    /// May not log in for now.
    Disabled,
    /// May not log in, and is not meant to again.
    Banned,
}

/// What the user is, all things considered.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum State {
    /// In force: may log in, and holds what is bound to it. A lockout after failed logins does not change that; see
    /// `status.lockedUntil`. (Releases before it was so wrote `Locked`.)
    #[serde(alias = "Locked")]
    Active,
    /// Not usable yet: `validity.notBefore` lies ahead, or the username is not held.
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

/// Whether a second factor is needed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum SecondFactor {
    /// Asked for where the user has enrolled one.
    #[default]
    Optional,
    /// No login without one.
    Required,
}

/// What deleting a User does to what it owns.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum DeletionPolicy {
    /// Deletion waits while the user owns namespaces.
    #[default]
    Block,
    /// Owned namespaces stay behind.
    Orphan,
}

/// The source that an identity comes from.
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

    /// Name of the source, for people.
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

    /// The person's identifier there, such as uid=jane,ou=people.
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
    /// Whether both are names and nothing else. The schema says so too, but a rule that is added later is not applied
    /// to what is stored already, and a name becomes part of a URL.
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

/// Where notices go.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// How they are sent.
    #[serde(rename = "type")]
    pub kind: NotificationType,

    /// Address of the receiver: an https URL without credentials in it.
    #[schemars(schema_with = "schema::https_url")]
    pub url: String,
}

/// How notices are sent.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NotificationType {
    /// A signed POST.
    Webhook,
}

/// What Roster observed. Written by Roster alone, and only when it changes.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserStatus {
    /// The metadata.generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready, NameClaimed, CredentialReady, QuotaWithinLimits; PasswordChangeRequired, LockedOut, Expiring,
    /// AdministratorBound, MembershipPending, DeletionBlocked, Reconciling and Stalled while they hold (kstatus).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::condition::conditions_schema")]
    pub conditions: Vec<Condition>,

    /// Login name: spec.username, or else metadata.name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,

    /// Observed state, from spec.state, validity and claims together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,

    /// Effective groups, nested ones included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,

    /// Groups that spec.groups names or whose memberSelector matches, and that the user does not belong to because they
    /// do not exist or do not accept declared members. The condition MembershipPending says which. At most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_groups: Vec<String>,

    /// Time of the last successful login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_login_time: Option<Time>,

    /// Failed logins that count at present, from all sources together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_logins: Option<i64>,

    /// End of the current lockout of the user as a whole: until then new logins with a password, a code or an invitation
    /// are refused. Sessions, tokens, API keys and bindings go on. Absent where there is no lockout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Time>,

    /// Time at which the password in use was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_changed_time: Option<Time>,

    /// Tokens that were issued for a password of before this time are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_not_before: Option<Time>,

    /// Time from which the password must be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_expires_time: Option<Time>,

    /// Whether a second factor is enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_factor_enabled: Option<bool>,

    /// Limits in force and usage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaStatus>,
}

impl User {
    /// Login name and RBAC subject name: `spec.username`, or else the object's name.
    pub fn username(&self) -> String {
        self.spec.username.clone().unwrap_or_else(|| self.name_any())
    }

    /// All addresses, the primary one first.
    pub fn emails(&self) -> impl Iterator<Item = &String> {
        self.spec.email.iter().chain(&self.spec.additional_emails)
    }
}
