//! Types of the custom resources `User`, `Group` and `RoleBinding` of `roster.dev/v1alpha1`, and of the aggregated API.
//!
//! This crate holds data only: no clients, clocks or files. Every other crate may depend on it.
//!
//! ```text
//!  User ──spec.groups──▶ Group ◀──spec.memberGroups── Group
//!   ▲                      ▲
//!   └──── RoleBinding.spec.subjects ────┘        RoleBinding ──spec.roleRef──▶ ClusterRole | Role
//! ```
//!
//! The CRDs in `crds/` are generated from these types ([`crd`]); a doc comment here is what
//! `kubectl explain` shows.

#![forbid(unsafe_code)]
// These comments are the API reference.
#![warn(missing_docs)]
#![allow(unreachable_pub, reason = "derive macros of kube generate such items")]

pub mod common;
pub mod condition;
pub mod crd;
pub mod credentials;
pub mod directory;
pub mod group;
pub mod printable;
pub mod role_binding;
pub mod schema;
pub mod syntax;
pub mod user;

pub use common::{Domain, QuotaSpec, QuotaStatus, Validity};
pub use group::{Group, GroupSpec, GroupStatus};
pub use role_binding::{RoleBinding, RoleBindingSpec, RoleBindingStatus};
pub use user::{State, User, UserSpec, UserStatus};

/// API group of the custom resources.
pub const API_GROUP: &str = "roster.dev";

/// Field manager of all writes.
pub const FIELD_MANAGER: &str = "roster";

/// Returns the `User-Agent` of requests to kube-apiserver: `roster/<version> (<component>)`.
///
/// If a write names no field manager, kube-apiserver uses the part before the slash. It is [`FIELD_MANAGER`], and not
/// `unknown`.
pub fn user_agent(component: &str) -> String {
    format!("{FIELD_MANAGER}/{} ({component})", env!("CARGO_PKG_VERSION"))
}

/// API version of the custom resources.
pub const API_VERSION: &str = "roster.dev/v1alpha1";

/// Type of a Secret that contains the password of a User (`password` or `passwordHash`).
pub const PASSWORD_SECRET_TYPE: &str = "roster.dev/password";

/// Type of the Secrets in which Roster stores credentials: one per login identifier (see `roster_credentials::claim`).
pub const IDENTITY_SECRET_TYPE: &str = "roster.dev/identity";

/// Type of the Secrets in which Roster records deleted Users (see `roster_core::directory::tombstones`).
pub const TOMBSTONE_SECRET_TYPE: &str = "roster.dev/deleted-user";

/// Annotation of a password Secret: `metadata.name` of the User that may use it. Without it, a `passwordSecretRef` could
/// read any Secret.
pub const USER_ANNOTATION: &str = "roster.dev/user";

/// Annotation of an imported User or Group: the identifier of the person or group in the source. Imports decide by it
/// which User or Group is which.
pub const SOURCE_ID_ANNOTATION: &str = "roster.dev/source-id";

/// Label of a Namespace: `metadata.name` of the User that owns it.
pub const OWNER_LABEL: &str = "roster.dev/owner";

/// Annotation of a locked Namespace: username of the lock's holder.
pub const LOCKED_BY_ANNOTATION: &str = "roster.dev/locked-by";

/// Finalizer that blocks the deletion of a User that owns namespaces and has the `deletionPolicy` `Block`.
pub const OWNERSHIP_FINALIZER: &str = "roster.dev/ownership";

/// Label of a Namespace: its administrative partition, which `scope.domain` of a RoleBinding selects by.
pub const DOMAIN_LABEL: &str = "roster.dev/domain";

/// Label of a native binding: UID of the User or RoleBinding that it was compiled from.
pub const OWNER_UID_LABEL: &str = "roster.dev/owner-uid";
