//! Membership graph of users and groups, updated incrementally: a change costs only the memberships that it changes.
//!
//! ```text
//!  user ──direct──▶ group ──up──▶ group ──up──▶ …
//!         ▲ spec.groups, members, memberSelector, memberships
//! ```
//!
//! What a User declares about itself (`spec.groups`, its labels) counts only in Groups that accept it. Otherwise, a
//! caller that may write Users could add one to a group before it is known which roles the group will hold.
//!
//! For each group and user, the graph counts the ways in which the user belongs to the group: one for a direct
//! membership, and one for each child group that the user belongs to. A count that leaves or reaches zero propagates to
//! the parents. Counting requires an acyclic graph, so every edge inside a cycle is cut. Cutting all of them grants
//! less than cutting one, and the result does not depend on which of two racing writes came first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use kube::core::Selector;
use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;
use roster_api::Validity;

use super::labels::{Labels, Matcher};
use super::nodes::{Id, Ids, Nodes};
use super::timeline::Timeline;
use deleted::DeletedSelectors;

mod consent;
mod deleted;
pub mod query;

/// Where a direct membership is declared.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum MembershipSource {
    /// `User.spec.groups`.
    User = 1,
    /// `Group.spec.members`.
    Members = 2,
    /// `Group.spec.memberSelector`.
    Selector = 4,
    /// `Group.spec.memberships`, within its validity.
    Membership = 8,
}

impl MembershipSource {
    const ALL: [Self; 4] = [Self::User, Self::Members, Self::Selector, Self::Membership];

    /// Bits of the sources controlled by writers of the User.
    const BY_USER: u8 = Self::User as u8 | Self::Selector as u8;

    /// Bits of the sources controlled by writers of the Group.
    const BY_GROUP: u8 = Self::Members as u8 | Self::Membership as u8;

    /// Returns the path of the field that declares the membership.
    pub const fn field(self) -> &'static str {
        match self {
            Self::User => "User.spec.groups",
            Self::Members => "Group.spec.members",
            Self::Selector => "Group.spec.memberSelector",
            Self::Membership => "Group.spec.memberships",
        }
    }
}

/// What a Group declares about its members.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DeclaredMembers {
    /// `spec.members`.
    pub users: BTreeSet<String>,
    /// `spec.memberGroups`.
    pub groups: BTreeSet<String>,
    /// `spec.memberSelector`.
    pub selector: Option<Selector>,
    /// `spec.memberships`, by user.
    pub timed: BTreeMap<String, Validity>,
    /// `spec.acceptDeclaredMembers`: whether `User.spec.groups` and `selector` count.
    pub accepts_declared: bool,
}

/// What a change affects: users whose memberships, accepted or waiting, may differ, and groups with different members,
/// waiting users or cycle.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct MembershipChanges {
    /// Names of Users.
    pub users: BTreeSet<String>,
    /// Names of Groups.
    pub groups: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct UserNode {
    exists: bool,
    /// Groups that the user belongs to directly, existing or not.
    direct: Ids,
    effective: Ids,
    /// Groups whose `memberships` name the user.
    timed: Ids,
}

#[derive(Debug, Default)]
struct GroupNode {
    exists: bool,
    accepts_declared: bool,
    /// [`MembershipSource`] bits by user, existing or not.
    direct: HashMap<Id, u8>,
    /// Existing users that declare themselves members of this existing group and do not belong to it, by name.
    waiting: BTreeSet<Arc<str>>,
    /// Number of ways in which each user belongs to the group. Existing users only.
    path_counts: HashMap<Id, u32>,
    users: BTreeSet<Id>,
    timed: BTreeMap<Id, Validity>,
    /// Declared edges, in both directions.
    children: BTreeSet<Id>,
    parents: BTreeSet<Id>,
    /// Parents by edges that count, which are those outside of cycles.
    acyclic_parents: BTreeSet<Id>,
    /// Groups of the cycle that this group is in.
    cycle: Option<Arc<BTreeSet<Id>>>,
}

/// Membership graph. See the [module documentation](self).
#[derive(Debug, Default)]
pub struct Memberships {
    users: Nodes<UserNode>,
    groups: Nodes<GroupNode>,
    matcher: Matcher<Id, Id>,
    /// Selectors of deleted Groups.
    deleted: DeletedSelectors,
    /// Next instant at which the passing of time alone changes each time-bound membership: group and user.
    transitions: Timeline<(Id, Id)>,
    changed_users: BTreeSet<Id>,
    changed_groups: BTreeSet<Id>,
}

impl Memberships {
    /// Adds or updates a User (its labels and `spec.groups`); `None` removes it.
    pub fn set_user(&mut self, name: &str, declared: Option<(Labels, &[String])>) -> MembershipChanges {
        let user = self.users.ensure(name);
        let exists = declared.is_some();
        let (labels, groups) = declared.map_or((None, &[][..]), |(labels, groups)| (Some(labels), groups));
        if exists && !self.users.get(user).exists {
            self.users.get_mut(user).exists = true;
            for group in self.counting_groups(user) {
                self.add_path(group, user);
            }
        }
        let selected = self.matcher.set_object(&user, labels);
        for group in selected.left {
            self.set_source(group, user, MembershipSource::Selector, false);
        }
        for group in selected.entered {
            self.set_source(group, user, MembershipSource::Selector, true);
        }
        let groups: BTreeSet<Id> = groups.iter().map(|group| self.groups.ensure(group)).collect();
        let declares = |group: &&Id| self.groups.get(**group).direct[&user] & MembershipSource::User as u8 != 0;
        let before: BTreeSet<Id> = self.users.get(user).direct.iter().filter(declares).copied().collect();
        for group in before.difference(&groups) {
            self.set_source(*group, user, MembershipSource::User, false);
        }
        for group in groups.difference(&before) {
            self.set_source(*group, user, MembershipSource::User, true);
        }
        if !exists && self.users.get(user).exists {
            for group in self.counting_groups(user) {
                self.remove_path(group, user);
            }
            self.users.get_mut(user).exists = false;
        }
        let changes = self.take_changes();
        for group in before {
            self.prune_group(group);
        }
        self.prune_user(user);
        changes
    }

    /// Adds or updates what a Group declares; `None` removes it.
    pub fn set_group(&mut self, name: &str, declared: Option<DeclaredMembers>, now: Timestamp) -> MembershipChanges {
        let group = self.groups.ensure(name);
        let exists = declared.is_some();
        if exists {
            self.deleted.forget(name);
        } else if let Some(selector) = self.matcher.selector(&group) {
            self.deleted.keep(name, selector, now);
        }
        let declared = declared.unwrap_or_default();
        self.set_acceptance(group, declared.accepts_declared);
        if exists && !self.groups.get(group).exists {
            self.groups.get_mut(group).exists = true;
            self.changed_groups.insert(group);
            for user in self.existing_direct(group) {
                if self.groups.get(group).counts(user) {
                    self.add_path(group, user);
                }
                self.update_waiting(group, user);
            }
        }
        let children = declared.groups.iter().map(|child| self.groups.ensure(child)).filter(|child| *child != group);
        let children: BTreeSet<Id> = children.collect();
        let former_children = self.groups.get(group).children.clone();
        self.set_children(group, &children);
        let mut named = self.set_members(group, &declared.users);
        named.extend(self.set_timed(group, &declared.timed, now));
        let selected = self.matcher.set_selector(&group, declared.selector);
        for user in selected.left {
            self.set_source(group, user, MembershipSource::Selector, false);
        }
        for user in selected.entered {
            self.set_source(group, user, MembershipSource::Selector, true);
        }
        if !exists && self.groups.get(group).exists {
            let direct = self.existing_direct(group);
            for user in &direct {
                if self.groups.get(group).counts(*user) {
                    self.remove_path(group, *user);
                }
            }
            self.groups.get_mut(group).exists = false;
            self.changed_groups.insert(group);
            for user in direct {
                self.update_waiting(group, user);
            }
        }
        let changes = self.take_changes();
        for user in named {
            self.prune_user(user);
        }
        for deleted in former_children.into_iter().chain([group]) {
            self.prune_group(deleted);
        }
        changes
    }

    /// Records whether a deleted group holds a role, by itself or through a group that it is nested in.
    pub fn set_deleted_group_bound(&mut self, group: &str, holds_role: bool) {
        self.deleted.set_bound(group, holds_role);
    }

    /// Advances the clock.
    pub fn advance(&mut self, now: Timestamp) -> MembershipChanges {
        self.deleted.expire(now);
        for (group, user) in self.transitions.take_due(now) {
            let validity = self.groups.get(group).timed[&user].clone();
            self.add_timed(group, user, validity, now);
        }
        self.take_changes()
    }

    /// Returns when [`Memberships::advance`] has something to do next.
    pub fn next_transition(&self) -> Option<Timestamp> {
        [self.transitions.next(), self.deleted.next_transition()].into_iter().flatten().min()
    }

    fn set_members(&mut self, group: Id, users: &BTreeSet<String>) -> BTreeSet<Id> {
        let users: BTreeSet<Id> = users.iter().map(|user| self.users.ensure(user)).collect();
        let before = std::mem::replace(&mut self.groups.get_mut(group).users, users.clone());
        for user in before.difference(&users) {
            self.set_source(group, *user, MembershipSource::Members, false);
        }
        for user in users.difference(&before) {
            self.set_source(group, *user, MembershipSource::Members, true);
        }
        before
    }

    fn set_timed(&mut self, group: Id, timed: &BTreeMap<String, Validity>, now: Timestamp) -> BTreeSet<Id> {
        let timed: BTreeMap<Id, &Validity> =
            timed.iter().map(|(user, validity)| (self.users.ensure(user), validity)).collect();
        let before: BTreeSet<Id> = self.groups.get(group).timed.keys().copied().collect();
        for user in &before {
            if timed.get(user).copied() != self.groups.get(group).timed.get(user) {
                self.remove_timed(group, *user);
                if !timed.contains_key(user) {
                    self.set_source(group, *user, MembershipSource::Membership, false);
                }
            }
        }
        for (user, validity) in timed {
            if !self.groups.get(group).timed.contains_key(&user) {
                self.add_timed(group, user, validity.clone(), now);
            }
        }
        before
    }

    fn add_timed(&mut self, group: Id, user: Id, validity: Validity, now: Timestamp) {
        self.set_source(group, user, MembershipSource::Membership, validity.contains(now));
        self.transitions.set((group, user), validity.next_transition(now));
        self.groups.get_mut(group).timed.insert(user, validity);
        self.users.get_mut(user).timed.insert(group);
    }

    fn remove_timed(&mut self, group: Id, user: Id) {
        self.transitions.set((group, user), None);
        self.groups.get_mut(group).timed.remove(&user);
        self.users.get_mut(user).timed.remove(group);
    }

    fn existing_direct(&self, group: Id) -> Vec<Id> {
        self.groups.get(group).direct.keys().copied().filter(|user| self.users.get(*user).exists).collect()
    }

    fn counting_groups(&self, user: Id) -> Vec<Id> {
        let direct = self.users.get(user).direct.iter().copied();
        direct.filter(|group| self.groups.get(*group).counts(user)).collect()
    }

    fn set_source(&mut self, group: Id, user: Id, source: MembershipSource, on: bool) {
        let bits = self.groups.get(group).direct.get(&user).copied().unwrap_or_default();
        let now = if on { bits | source as u8 } else { bits & !(source as u8) };
        if now == bits {
            return;
        }
        if now == 0 {
            self.groups.get_mut(group).direct.remove(&user);
            self.users.get_mut(user).direct.remove(group);
        } else {
            self.groups.get_mut(group).direct.insert(user, now);
            self.users.get_mut(user).direct.insert(group);
        }
        if self.groups.get(group).exists && self.users.get(user).exists {
            let accepted = self.groups.get(group).accepted();
            match (bits & accepted != 0, now & accepted != 0) {
                (false, true) => self.add_path(group, user),
                (true, false) => self.remove_path(group, user),
                _ => {}
            }
        }
        self.update_waiting(group, user);
    }

    /// Adds one way in which the user belongs to the group.
    fn add_path(&mut self, group: Id, user: Id) {
        let mut work = vec![group];
        while let Some(group) = work.pop() {
            let node = self.groups.get_mut(group);
            if !node.exists {
                continue;
            }
            let count = node.path_counts.entry(user).or_default();
            *count += 1;
            if *count == 1 {
                work.extend(&node.acyclic_parents);
                self.users.get_mut(user).effective.insert(group);
                self.changed_users.insert(user);
                self.changed_groups.insert(group);
                self.update_waiting(group, user);
            }
        }
    }

    /// Removes one way in which the user belongs to the group.
    fn remove_path(&mut self, group: Id, user: Id) {
        let mut work = vec![group];
        while let Some(group) = work.pop() {
            let node = self.groups.get_mut(group);
            let Some(count) = node.path_counts.get_mut(&user) else { continue };
            *count -= 1;
            if *count == 0 {
                node.path_counts.remove(&user);
                work.extend(&node.acyclic_parents);
                self.users.get_mut(user).effective.remove(group);
                self.changed_users.insert(user);
                self.changed_groups.insert(group);
                self.update_waiting(group, user);
            }
        }
    }

    fn set_children(&mut self, group: Id, children: &BTreeSet<Id>) {
        let before = std::mem::replace(&mut self.groups.get_mut(group).children, children.clone());
        if before == *children {
            return;
        }
        for child in before.difference(children) {
            self.groups.get_mut(*child).parents.remove(&group);
        }
        for child in children.difference(&before) {
            self.groups.get_mut(*child).parents.insert(group);
        }
        let region = self.recompute_cycles(group);
        let inside = region.iter().flat_map(|parent| {
            let children = self.groups.get(*parent).children.intersection(&region);
            children.map(|child| (*parent, *child))
        });
        let own = before.union(children).map(|child| (group, *child));
        let edges: BTreeSet<(Id, Id)> = inside.chain(own).collect();
        let counts = |(parent, child): &(Id, Id)| {
            let (parent, inner) = (self.groups.get(*parent), self.groups.get(*child));
            parent.children.contains(child) && (parent.cycle.is_none() || parent.cycle != inner.cycle)
        };
        let (on, off): (Vec<_>, Vec<_>) = edges.into_iter().partition(counts);
        // Removes edges before adding any, so that the edges that count are acyclic at every step.
        for (parent, child) in off {
            if self.groups.get_mut(child).acyclic_parents.remove(&parent) {
                for user in self.groups.get(child).path_counts.keys().copied().collect::<Vec<_>>() {
                    self.remove_path(parent, user);
                }
            }
        }
        for (parent, child) in on {
            if self.groups.get_mut(child).acyclic_parents.insert(parent) {
                for user in self.groups.get(child).path_counts.keys().copied().collect::<Vec<_>>() {
                    self.add_path(parent, user);
                }
            }
        }
    }

    /// Recomputes the cycles that a changed edge of `group` can affect: among the groups of its previous cycle, and
    /// those that are both below and above it. Returns these groups.
    fn recompute_cycles(&mut self, group: Id) -> BTreeSet<Id> {
        let mut region = self.groups.get(group).cycle.as_deref().cloned().unwrap_or_default();
        let below = self.transitive(group, |node| &node.children);
        if !below.is_empty() {
            let above = self.transitive(group, |node| &node.parents);
            region.extend(below.intersection(&above));
        }
        region.insert(group);
        let mut graph = DiGraphMap::<Id, ()>::new();
        for parent in &region {
            graph.add_node(*parent);
            for child in self.groups.get(*parent).children.intersection(&region) {
                graph.add_edge(*parent, *child, ());
            }
        }
        for component in tarjan_scc(&graph) {
            let cycle = (component.len() > 1).then(|| Arc::new(component.iter().copied().collect::<BTreeSet<_>>()));
            for member in component {
                let node = self.groups.get_mut(member);
                if node.cycle != cycle {
                    node.cycle.clone_from(&cycle);
                    self.changed_groups.insert(member);
                }
            }
        }
        region
    }

    fn transitive(&self, from: Id, next: impl Fn(&GroupNode) -> &BTreeSet<Id>) -> BTreeSet<Id> {
        let mut found = BTreeSet::new();
        let mut work: Vec<Id> = next(self.groups.get(from)).iter().copied().collect();
        while let Some(group) = work.pop() {
            if found.insert(group) {
                work.extend(next(self.groups.get(group)));
            }
        }
        found
    }

    fn take_changes(&mut self) -> MembershipChanges {
        let users = std::mem::take(&mut self.changed_users);
        let groups = std::mem::take(&mut self.changed_groups);
        MembershipChanges {
            users: users.into_iter().map(|user| self.users.name(user).to_owned()).collect(),
            groups: groups.into_iter().map(|group| self.groups.name(group).to_owned()).collect(),
        }
    }

    /// Removes a user that neither exists nor is named by a group.
    fn prune_user(&mut self, user: Id) {
        let node = self.users.get(user);
        if !node.exists && node.direct.is_empty() && node.timed.is_empty() {
            self.users.remove(user);
        }
    }

    /// Removes a group that neither exists nor is named by a user or a group.
    fn prune_group(&mut self, group: Id) {
        let node = self.groups.get(group);
        if !node.exists && node.direct.is_empty() && node.parents.is_empty() {
            self.groups.remove(group);
        }
    }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
