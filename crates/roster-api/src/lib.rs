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

pub mod common;
pub mod condition;
pub mod crd;
pub mod credentials;
pub mod directory;
pub mod group;
pub mod role_binding;
pub mod schema;
pub mod syntax;
pub mod user;

pub use common::{Domain, QuotaSpec, QuotaStatus, Validity};
pub use group::{Group, GroupSpec, GroupStatus};
pub use role_binding::{RoleBinding, RoleBindingSpec, RoleBindingStatus};
pub use user::{State, User, UserSpec, UserStatus};

/// API group of the kinds that people declare.
pub const API_GROUP: &str = "roster.dev";

/// Field manager of what Roster applies.
pub const FIELD_MANAGER: &str = "roster";

/// API version of the same kinds.
pub const API_VERSION: &str = "roster.dev/v1alpha1";

/// Type of a Secret that carries a person's password into Roster (`password` or `passwordHash`).
pub const PASSWORD_SECRET_TYPE: &str = "roster.dev/password";

/// Type of the Secrets that Roster itself keeps: one per login identifier (see `roster_credentials::claim`).
pub const IDENTITY_SECRET_TYPE: &str = "roster.dev/identity";

/// Type of the Secrets in which Roster remembers deleted Users (see `roster_core::directory::tombstones`).
pub const TOMBSTONE_SECRET_TYPE: &str = "roster.dev/deleted-user";

/// Annotation by which a password Secret names the User (`metadata.name`) that may use it. Without it a
/// `passwordSecretRef` could read anybody's Secret.
pub const USER_ANNOTATION: &str = "roster.dev/user";

/// Label of a Namespace that names its owner, a User's `metadata.name`.
pub const OWNER_LABEL: &str = "roster.dev/owner";

/// Annotation of a Namespace with the username of whoever holds it locked.
pub const LOCKED_BY_ANNOTATION: &str = "roster.dev/locked-by";

/// Finalizer that keeps a User while it owns namespaces and `deletionPolicy` is `Block`.
pub const OWNERSHIP_FINALIZER: &str = "roster.dev/ownership";

/// Label of a Namespace that names its administrative partition: what `scope.domain` of a RoleBinding selects by.
pub const DOMAIN_LABEL: &str = "roster.dev/domain";

/// Label of a native binding with the UID of the User or RoleBinding that it was made for.
pub const OWNER_UID_LABEL: &str = "roster.dev/owner-uid";
