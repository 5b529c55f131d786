//! From declared bindings to native RBAC, and the guard against gaining rights through it. Pure: it reads the
//! [`Directory`](crate::directory::Directory) and returns what is to be done.

pub mod assignments;
pub mod compile;
pub mod guard;
pub mod permissions;
pub mod plan;
pub mod requirement;
pub mod rules;

use std::collections::BTreeSet;

use roster_api::role_binding::{RoleKind, RoleRef};

/// What this installation lets Roster bind.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Names of ClusterRoles.
    pub bindable_cluster_roles: BTreeSet<String>,
    /// Names of Roles, in whatever namespace.
    pub bindable_roles: BTreeSet<String>,
    /// The ClusterRole that `User.spec.admin` stands for.
    pub administrator_role: String,
    /// Whether Group subjects compile to their users, for authenticators that know no groups.
    pub expand_groups: bool,
}

impl Policy {
    /// Whether Roster may bind the role.
    pub fn is_bindable(&self, role: &RoleRef) -> bool {
        match role.kind {
            RoleKind::ClusterRole => self.bindable_cluster_roles.contains(&role.name),
            RoleKind::Role => self.bindable_roles.contains(&role.name),
        }
    }
}
