//! Role assignments in the current native RBAC: who holds which role in which scope. Optionally expands groups to their
//! members.

use std::collections::BTreeSet;

use roster_api::DOMAIN_LABEL;
use roster_api::directory::RoleAssignment;
use roster_api::role_binding::{RoleKind, RoleRef, Subject, SubjectKind};

use super::permissions::{binding, groups_of, role_binding, subject};
use crate::directory::Directory;
use crate::directory::native::{Holder, Native, NativeKey};

/// Scope of an assignment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AssignmentScope {
    /// The whole cluster.
    Cluster,
    /// A namespace.
    Namespace(String),
    /// All namespaces of a domain.
    Domain(String),
}

/// The user whose assignments to find.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Assignee {
    /// Name of a User.
    User(String),
    /// A username that belongs to no User. Native bindings may name it nevertheless.
    Username(String),
}

/// Filter for assignments.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The user.
    pub user: Option<Assignee>,
    /// Name of a group.
    pub group: Option<String>,
    /// Kind and name of a role; any kind if `None`.
    pub role: Option<(Option<RoleKind>, String)>,
    /// Scope of the assignment.
    pub scope: Option<AssignmentScope>,
    /// Whether groups are expanded: upwards if the filter names a user or group, otherwise to their members.
    /// Cluster-wide assignments then match every scope, too.
    pub is_effective: bool,
}

/// An assignment before conversion to its API type.
struct FoundAssignment<'a> {
    native: &'a Native,
    holder: Holder,
    /// The member that the group was expanded to.
    user: Option<String>,
}

/// Looks up the display name of a User or Group.
pub type DisplayName<'a> = dyn Fn(&Subject) -> Option<String> + 'a;

type Assignments<'a> = Box<dyn Iterator<Item = FoundAssignment<'a>> + 'a>;
type NativesOf<'a> = Box<dyn Iterator<Item = &'a Native> + 'a>;

/// Returns at most `limit` of the assignments that match the filter, from `offset` on. Their order is stable while
/// nothing changes. Adds the holders' display names if `display_name` is given.
pub fn find(
    directory: &Directory,
    filter: &Filter,
    (offset, limit): (usize, usize),
    display_name: Option<&DisplayName<'_>>,
) -> Vec<RoleAssignment> {
    let all = if filter.user.is_some() || filter.group.is_some() {
        of_holders(directory, filter)
    } else {
        of_all_holders(directory, filter)
    };
    all.skip(offset).take(limit).map(|found| describe(directory, found, display_name)).collect()
}

fn of_holders<'a>(directory: &'a Directory, filter: &'a Filter) -> Assignments<'a> {
    let holders: Vec<(Holder, Option<String>)> = match (&filter.user, &filter.group) {
        (Some(Assignee::Username(username)), _) => vec![(Holder::User(username.clone()), None)],
        (Some(Assignee::User(user)), _) => {
            // A User that does not hold its username has no roles by it.
            let person = directory.user(user).filter(|person| person.holds_username());
            let username = person.map(|person| person.username.clone());
            let by_group = filter.is_effective.then(|| groups_of(directory, user));
            let by_group = by_group.into_iter().flatten().map(|group| (Holder::Group(group), Some(user.clone())));
            username.map(|username| (Holder::User(username), None)).into_iter().chain(by_group).collect()
        }
        (None, Some(group)) if filter.is_effective => {
            directory.memberships.ancestors_of(group).into_iter().map(|group| (Holder::Group(group), None)).collect()
        }
        (None, group) => group.iter().map(|group| (Holder::Group(group.clone()), None)).collect(),
    };
    Box::new(holders.into_iter().flat_map(move |(holder, user)| {
        let natives = directory.natives.grants_of(&holder).flat_map(|(_, natives)| natives);
        let natives: Vec<&Native> = natives.filter(|native| matches_filter(directory, filter, native)).collect();
        natives.into_iter().map(move |native| FoundAssignment { native, holder: holder.clone(), user: user.clone() })
    }))
}

fn of_all_holders<'a>(directory: &'a Directory, filter: &'a Filter) -> Assignments<'a> {
    let natives = candidates(directory, filter).filter(|native| matches_filter(directory, filter, native));
    Box::new(natives.flat_map(move |native| {
        native.holders.iter().flat_map(move |holder| -> Assignments<'a> {
            match holder {
                Holder::Group(group) if filter.is_effective && directory.memberships.has_group(group) => {
                    let members: BTreeSet<&str> = directory.memberships.members_of(group).collect();
                    Box::new(members.into_iter().map(move |user| FoundAssignment {
                        native,
                        holder: holder.clone(),
                        user: Some(user.to_owned()),
                    }))
                }
                holder => Box::new([FoundAssignment { native, holder: holder.clone(), user: None }].into_iter()),
            }
        })
    }))
}

/// Returns the native bindings to look at: by role or by scope, or all of them if the filter has neither.
fn candidates<'a>(directory: &'a Directory, filter: &'a Filter) -> NativesOf<'a> {
    let natives = &directory.natives;
    let within = |namespace: Option<String>| {
        let first = NativeKey { namespace: namespace.clone(), name: String::new() };
        natives.from(&first).take_while(move |native| native.key.namespace == namespace)
    };
    if let Some((kind, name)) = &filter.role {
        let kinds = kind.map_or(vec![RoleKind::ClusterRole, RoleKind::Role], |kind| vec![kind]);
        let roles = kinds.into_iter().map(|kind| RoleRef { kind, name: name.clone() });
        return Box::new(roles.flat_map(|role| natives.of_role(&role)));
    }
    let in_namespaces: Vec<Option<String>> = match &filter.scope {
        None => return Box::new(natives.all()),
        Some(AssignmentScope::Cluster) => vec![None],
        Some(AssignmentScope::Namespace(namespace)) => vec![Some(namespace.clone())],
        Some(AssignmentScope::Domain(domain)) => {
            directory.bindings.labelled(DOMAIN_LABEL, domain).into_iter().map(Some).collect()
        }
    };
    let everywhere = (filter.is_effective && filter.scope != Some(AssignmentScope::Cluster)).then(|| within(None));
    Box::new(everywhere.into_iter().flatten().chain(in_namespaces.into_iter().flat_map(within)))
}

fn matches_filter(directory: &Directory, filter: &Filter, native: &Native) -> bool {
    let is_in_scope = match (&filter.scope, &native.key.namespace) {
        (None, _) | (Some(AssignmentScope::Cluster), None) => true,
        (Some(AssignmentScope::Cluster), Some(_)) => false,
        (Some(AssignmentScope::Namespace(_) | AssignmentScope::Domain(_)), None) => filter.is_effective,
        (Some(AssignmentScope::Namespace(wanted)), Some(namespace)) => wanted == namespace,
        (Some(AssignmentScope::Domain(domain)), Some(namespace)) => {
            directory.bindings.label_of(namespace, DOMAIN_LABEL) == Some(domain.as_str())
        }
    };
    let is_role = |(kind, name): &(Option<RoleKind>, String)| {
        kind.is_none_or(|kind| kind == native.role.kind) && *name == native.role.name
    };
    is_in_scope && filter.role.as_ref().is_none_or(is_role)
}

fn describe(
    directory: &Directory,
    found: FoundAssignment<'_>,
    display_name: Option<&DisplayName<'_>>,
) -> RoleAssignment {
    let FoundAssignment { native, holder, user } = found;
    let path = match (&holder, &user) {
        (Holder::Group(group), Some(user)) => directory.memberships.path(user, group),
        _ => None,
    };
    let known = match (&holder, user) {
        (_, Some(user)) => Some(Subject { kind: SubjectKind::User, name: user }),
        (Holder::User(username), None) => {
            directory.username_holder(username).map(|name| Subject { kind: SubjectKind::User, name: name.to_owned() })
        }
        (Holder::Group(group), None) if directory.memberships.has_group(group) => {
            Some(Subject { kind: SubjectKind::Group, name: group.clone() })
        }
        (Holder::Group(_), None) => None,
    };
    RoleAssignment {
        subject: subject(&holder),
        holder_name: display_name.zip(known.as_ref()).and_then(|(display_name, known)| display_name(known)),
        holder: known,
        role: native.role.clone(),
        namespace: native.key.namespace.clone(),
        binding: binding(&native.key),
        role_binding: role_binding(native),
        groups: path.map(|path| path.groups).unwrap_or_default(),
    }
}
