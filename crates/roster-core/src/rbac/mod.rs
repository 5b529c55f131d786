//! Compiles declared bindings to native RBAC, and guards against privilege escalation through them. Pure logic: it
//! reads the [`Directory`](crate::directory::Directory) and returns what to write.

pub mod assignments;
pub mod compile;
pub mod conflict;
pub mod control;
pub mod guard;
pub mod managers;
mod owned_fields;
pub mod ownership;
pub mod permissions;
pub mod plan;
pub mod requirement;
pub mod rules;

use std::collections::BTreeSet;

use roster_api::role_binding::{RoleKind, RoleRef};

/// Roles that this installation allows Roster to bind.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Names of ClusterRoles.
    pub bindable_cluster_roles: BTreeSet<String>,
    /// Names of Roles, in any namespace.
    pub bindable_roles: BTreeSet<String>,
    /// The ClusterRole that `User.spec.admin` binds.
    pub administrator_role: String,
    /// Whether Group subjects compile to their users, for authenticators that do not report groups.
    pub expand_groups: bool,
}

impl Policy {
    /// Returns whether Roster may bind the role.
    pub fn is_bindable(&self, role: &RoleRef) -> bool {
        match role.kind {
            RoleKind::ClusterRole => self.bindable_cluster_roles.contains(&role.name),
            RoleKind::Role => self.bindable_roles.contains(&role.name),
        }
    }
}
