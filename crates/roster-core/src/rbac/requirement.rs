//! What a requester must be allowed to do before the guard admits a write.

use std::collections::BTreeMap;
use std::fmt;

use roster_api::role_binding::{RoleKind, RoleRef};

use crate::directory::native::Grant;

/// Everything that a write requires, with one reason each.
pub type Requirements = BTreeMap<Requirement, RequirementReason>;

/// A right that the requester must have.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Requirement {
    /// The verb `bind` on a role, in the scope where an identity holds it or would hold it.
    Bind(Grant),
    /// The verb `assign` on this User (`users.roster.dev`). It is required because a namespace counts against its
    /// owner's quota and blocks the owner's deletion.
    Assign(String),
    /// The verb `delete` on this Namespace. It is required because a tool may delete the Namespace after the write, and the
    /// bindings in it with it.
    DeleteNamespace(String),
}

impl Requirement {
    /// Returns the attributes for a SubjectAccessReview.
    pub fn attributes(&self) -> Attributes<'_> {
        match self {
            Self::Bind(Grant { role, namespace }) => Attributes {
                group: "rbac.authorization.k8s.io",
                version: "v1",
                resource: resource(role),
                name: &role.name,
                namespace: namespace.as_deref(),
                verb: "bind",
            },
            Self::Assign(user) => Attributes {
                group: "roster.dev",
                version: "v1alpha1",
                resource: "users",
                name: user,
                namespace: None,
                verb: "assign",
            },
            // As kube-apiserver does for the deletion itself, so that RoleBindings in the Namespace count.
            Self::DeleteNamespace(name) => Attributes {
                group: "",
                version: "v1",
                resource: "namespaces",
                name,
                namespace: Some(name.as_str()).filter(|name| !name.is_empty()),
                verb: "delete",
            },
        }
    }
}

/// Attributes of a SubjectAccessReview.
pub struct Attributes<'a> {
    /// API group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Plural name of the resource.
    pub resource: &'static str,
    /// Name of the object.
    pub name: &'a str,
    /// Namespace; `None` for the whole cluster.
    pub namespace: Option<&'a str>,
    /// Verb.
    pub verb: &'static str,
}

/// A denial whose full text (`Display`) may reveal what the requester cannot read.
pub trait Denial: fmt::Display {
    /// Returns the text for requesters that may not list Users. It does not name other Users, roles, bindings or
    /// groups.
    fn without_details(&self) -> String;
}

/// An identity that a write takes control of, in the form that messages use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AffectedIdentity {
    /// Kind and name, such as `User jane` or `Group engineers`.
    pub text: String,
    /// Whether the request itself names the identity. Otherwise its name reveals something to the requester.
    pub is_named: bool,
}

impl AffectedIdentity {
    /// An identity that the request names.
    pub fn named(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_named: true }
    }

    /// An identity that the request does not name, such as a member of the Group that it writes.
    pub fn other(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_named: false }
    }
}

impl fmt::Display for AffectedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a write requires something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequirementReason {
    /// The affected identity.
    pub identity: AffectedIdentity,
    /// What links the identity to the requirement, such as the binding that grants the role.
    pub by: String,
}

/// A requirement that the requester does not meet. `Display` is the full text of the guard's denial.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Username of the requester.
    pub requester: String,
    /// The missing right.
    pub requirement: Requirement,
    /// Why the right is required.
    pub reason: RequirementReason,
}

impl Denial for Refused {
    fn without_details(&self) -> String {
        let Self { requester, requirement, reason: RequirementReason { identity, .. } } = self;
        match requirement {
            Requirement::Bind(_) => {
                let identity =
                    if identity.is_named { &identity.text } else { "an identity that this write takes control of" };
                format!(
                    "{identity} holds or would hold a role that {requester} may not bind; only requesters \
                     that may list Users are shown which one and why"
                )
            }
            Requirement::Assign(_) if identity.is_named => self.to_string(),
            Requirement::DeleteNamespace(_) => self.to_string(),
            Requirement::Assign(_) => format!(
                "{requester} may not take a namespace from its owner: this requires the verb assign on the owner (users of \
                 roster.dev)"
            ),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requester, requirement, reason: RequirementReason { identity, by } } = self;
        let Attributes { group, resource, name, namespace, verb, .. } = requirement.attributes();
        match requirement {
            Requirement::Bind(grant) => {
                let scope = namespace.map_or("cluster-wide".to_owned(), |name| format!("in namespace {name}"));
                write!(
                    f,
                    "{identity} holds or would hold {grant} (by {by}), and {requester} may not bind it: this requires \
                     the verb {verb} on {resource}/{name} of {group}, {scope}"
                )
            }
            Requirement::Assign(_) => write!(
                f,
                "{requester} may not give a namespace to {identity} or take one away: this requires the verb {verb} on \
                 {resource}/{name} of {group}"
            ),
            Requirement::DeleteNamespace(_) => write!(
                f,
                "{by}: a tool that goes by it may delete {identity}, and {requester} may not: this requires the verb \
                 {verb} on {resource}/{name}"
            ),
        }
    }
}

const fn resource(role: &RoleRef) -> &'static str {
    match role.kind {
        RoleKind::ClusterRole => "clusterroles",
        RoleKind::Role => "roles",
    }
}
