//! Queries on the membership graph.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::{DeclaredMembers, MembershipSource, Memberships};
use crate::directory::labels::{Effect, LabelChange, Labels};
use crate::directory::nodes::Id;

/// How a user belongs to a group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Path {
    /// Fields that declare the first step.
    pub sources: Vec<MembershipSource>,
    /// Groups along the path, from the one that the user belongs to directly to the one that was asked for.
    pub groups: Vec<String>,
}

/// Why a membership that a User declares has no effect.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Pending {
    /// The Group does not exist.
    NotFound,
    /// The Group does not accept declared members.
    NotAccepted,
}

impl Memberships {
    /// Returns the names of the groups that the user belongs to.
    pub fn groups_of(&self, user: &str) -> impl Iterator<Item = &str> {
        let effective = self.users.id(user).map(|user| &self.users.get(user).effective);
        effective.into_iter().flat_map(|groups| groups.iter()).map(|group| self.groups.name(*group))
    }

    /// Returns the names of the users that belong to the group, unordered.
    pub fn members_of(&self, group: &str) -> impl Iterator<Item = &str> {
        let path_counts = self.groups.id(group).map(|group| &self.groups.get(group).path_counts);
        path_counts.into_iter().flat_map(HashMap::keys).map(|user| self.users.name(*user))
    }

    /// Returns how many users belong to the group.
    pub fn count(&self, group: &str) -> usize {
        self.groups.id(group).map_or(0, |group| self.groups.get(group).path_counts.len())
    }

    /// Returns whether the user belongs to the group.
    pub fn is_member(&self, user: &str, group: &str) -> bool {
        let ids = self.users.id(user).zip(self.groups.id(group));
        ids.is_some_and(|(user, group)| self.users.get(user).effective.has(group))
    }

    /// Returns the users that declare themselves members of an existing group and do not belong to it, sorted by name.
    pub fn waiting(&self, group: &str) -> impl Iterator<Item = &str> {
        let waiting = self.groups.id(group).map(|group| &self.groups.get(group).waiting);
        waiting.into_iter().flatten().map(AsRef::as_ref)
    }

    /// Returns the number of users in [`Memberships::waiting`].
    pub fn waiting_count(&self, group: &str) -> usize {
        self.groups.id(group).map_or(0, |group| self.groups.get(group).waiting.len())
    }

    /// Returns whether the group has a selector without effect, because it does not accept declared members.
    pub fn ignores_selector(&self, group: &str) -> bool {
        let id = self.groups.id(group);
        id.is_some_and(|group| !self.groups.get(group).accepts_declared && self.matcher.has_selector(&group))
    }

    /// Returns whether the Group exists.
    pub fn has_group(&self, group: &str) -> bool {
        self.groups.id(group).is_some_and(|group| self.groups.get(group).exists)
    }

    /// Returns the groups of the cycle that the group is in; empty if there is none.
    pub fn cycle_of(&self, group: &str) -> Vec<&str> {
        let cycle = self.groups.id(group).and_then(|group| self.groups.get(group).cycle.as_deref());
        cycle.into_iter().flatten().map(|member| self.groups.name(*member)).collect()
    }

    /// Returns the path of the cycle that the group would be in if it had these `memberGroups`.
    pub fn would_cycle(&self, group: &str, children: &BTreeSet<String>) -> Option<Vec<String>> {
        let target = self.groups.id(group)?;
        let mut reached_from = HashMap::<Id, Id>::new();
        let mut work: VecDeque<Id> = children.iter().filter_map(|child| self.groups.id(child)).collect();
        while let Some(next) = work.pop_front() {
            if next == target {
                let mut path = vec![group.to_owned()];
                let mut at = next;
                while let Some(before) = reached_from.get(&at) {
                    path.push(self.groups.name(*before).to_owned());
                    at = *before;
                }
                path.push(group.to_owned());
                path.reverse();
                return Some(path);
            }
            for child in &self.groups.get(next).children {
                if *child != next && !reached_from.contains_key(child) && !children.contains(self.groups.name(*child)) {
                    reached_from.insert(*child, next);
                    work.push_back(*child);
                }
            }
        }
        None
    }

    /// Returns the group and all groups that its members belong to through it.
    pub fn ancestors_of(&self, group: &str) -> BTreeSet<String> {
        let Some(group) = self.groups.id(group) else { return [group.to_owned()].into() };
        self.with_ancestors([group].into())
    }

    /// Like [`Memberships::ancestors_of`], but also follows edges that are cut because of a cycle, as if no edge were
    /// cut.
    pub fn all_ancestors_of(&self, group: &str) -> BTreeSet<String> {
        let Some(id) = self.groups.id(group) else { return [group.to_owned()].into() };
        let ancestors = self.transitive(id, |node| &node.parents);
        ancestors.into_iter().chain([id]).map(|group| self.groups.name(group).to_owned()).collect()
    }

    /// Returns all groups that are nested in this one, directly or indirectly, including by edges that are cut.
    pub fn descendants_of(&self, group: &str) -> BTreeSet<String> {
        let Some(id) = self.groups.id(group) else { return BTreeSet::new() };
        self.transitive(id, |node| &node.children).into_iter().map(|group| self.groups.name(group).to_owned()).collect()
    }

    fn with_all_ancestors(&self, from: BTreeSet<Id>) -> BTreeSet<String> {
        self.names_of(walk(from, |group| self.groups.get(group).parents.iter().copied()))
    }

    fn with_ancestors(&self, from: BTreeSet<Id>) -> BTreeSet<String> {
        self.names_of(walk(from, |group| self.groups.get(group).acyclic_parents.iter().copied()))
    }

    fn names_of(&self, groups: BTreeSet<Id>) -> BTreeSet<String> {
        groups.into_iter().map(|group| self.groups.name(group).to_owned()).collect()
    }

    /// Returns the groups that a User would belong to with this name, these labels and `spec.groups`, whether or not
    /// the graph knows the User.
    pub fn groups_of_version(&self, user: &str, labels: &Labels, groups: &[String]) -> BTreeSet<String> {
        let mut direct: BTreeSet<Id> = groups.iter().filter_map(|group| self.groups.id(group)).collect();
        direct.extend(self.matcher.selectors_of(labels));
        direct.retain(|group| self.groups.get(*group).accepts_declared);
        direct.extend(self.naming(user, MembershipSource::BY_GROUP));
        direct.retain(|group| self.groups.get(*group).exists);
        self.with_ancestors(direct)
    }

    /// Returns the groups that a User with these labels and `spec.groups` declares itself a member of without belonging
    /// to them, by name. `belongs` is the result of [`Memberships::groups_of_version`].
    pub fn pending_of_version(
        &self,
        labels: &Labels,
        groups: &[String],
        belongs: &BTreeSet<String>,
    ) -> BTreeMap<String, Pending> {
        let selected = self.matcher.selectors_of(labels).into_iter().map(|group| self.groups.name(group).to_owned());
        let declared = groups.iter().cloned().chain(selected).filter(|group| !belongs.contains(group));
        let why = |group: &String| if self.has_group(group) { Pending::NotAccepted } else { Pending::NotFound };
        declared.map(|group| (group.clone(), why(&group))).collect()
    }

    /// Like [`Memberships::pending_of_version`] for a user in the graph, unordered.
    pub fn pending_of(&self, user: &str) -> impl Iterator<Item = (&str, Pending)> {
        let effective = self.users.id(user).map(|user| &self.users.get(user).effective);
        let waits = move |group: &Id| !effective.is_some_and(|effective| effective.has(*group));
        self.naming(user, MembershipSource::BY_USER).filter(waits).map(|group| {
            let node = self.groups.get(group);
            (self.groups.name(group), if node.exists { Pending::NotAccepted } else { Pending::NotFound })
        })
    }

    /// Returns the deleted groups with a kept selector, among these groups and all groups below them.
    pub fn deleted_groups_among(&self, groups: &BTreeSet<String>) -> BTreeSet<String> {
        if self.deleted.is_empty() {
            return BTreeSet::new();
        }
        let from = groups.iter().filter_map(|group| self.groups.id(group)).collect();
        let descendants = self.names_of(walk(from, |group| self.groups.get(group).children.iter().copied()));
        descendants.union(groups).filter(|group| self.deleted.selector(group).is_some()).cloned().collect()
    }

    /// Returns which of these groups are bound or nested in a bound group, including by edges that are cut. Visits each
    /// group above them once, because the caller holds the lock of the directory.
    pub fn holding(&self, groups: &BTreeSet<String>, is_bound: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let from = groups.iter().filter_map(|group| self.groups.id(group)).collect();
        let ancestors = walk(from, |group| self.groups.get(group).parents.iter().copied());
        let bound = ancestors.iter().copied().filter(|group| is_bound(self.groups.name(*group))).collect();
        let within = |group| self.groups.get(group).children.iter().copied().filter(|child| ancestors.contains(child));
        let holding = self.names_of(walk(bound, within));
        groups.iter().filter(|group| holding.contains(*group) || is_bound(group)).cloned().collect()
    }

    /// Returns an upper bound of [`Memberships::groups_of_version`], for the guard. In addition, it includes groups that do
    /// not exist or do not accept the user, memberships outside their validity, deleted groups that hold a role and
    /// whose selector matches, and groups above edges that are cut because of a cycle.
    pub fn would_claim(&self, user: &str, labels: &Labels, groups: &[String]) -> BTreeSet<String> {
        let mut named = self.deleted.selecting(labels);
        named.extend(groups.iter().cloned());
        let mut direct: BTreeSet<Id> = named.iter().filter_map(|group| self.groups.id(group)).collect();
        direct.extend(self.matcher.selectors_of(labels));
        direct.extend(self.naming(user, MembershipSource::BY_GROUP));
        direct.extend(self.timed(user));
        named.extend(self.with_all_ancestors(direct));
        named
    }

    /// Returns the groups of whose `memberSelector` a change of a User's labels affects a condition, and all groups above
    /// them. As with [`Memberships::would_claim`], the groups need not accept the User or exist.
    pub fn affected(&self, change: &LabelChange<'_>, counts: Effect) -> BTreeSet<String> {
        let mut named = self.deleted.affected(change, counts);
        let mut direct: BTreeSet<Id> = named.iter().filter_map(|group| self.groups.id(group)).collect();
        direct.extend(self.matcher.affected(change, counts));
        named.extend(self.with_all_ancestors(direct));
        named
    }

    /// Like [`Memberships::would_claim`] for a user in the graph.
    pub fn claims(&self, user: &str) -> BTreeSet<String> {
        let mut named = self.deleted.selecting(&self.labels_of(user));
        let direct = named.iter().filter_map(|group| self.groups.id(group));
        let direct = direct.chain(self.naming(user, u8::MAX)).chain(self.timed(user)).collect();
        named.extend(self.with_all_ancestors(direct));
        named
    }

    /// Returns the names of the groups that the User itself declares membership in: by `spec.groups`, or by a label
    /// that the `memberSelector` of an existing or deleted group matches. The groups need not exist or accept the User.
    pub fn declared_by(&self, user: &str) -> BTreeSet<String> {
        let mut named = self.deleted.selecting(&self.labels_of(user));
        named.extend(self.naming(user, MembershipSource::BY_USER).map(|group| self.groups.name(group).to_owned()));
        named
    }

    /// Returns the labels of the User; empty if it does not exist.
    pub fn labels_of(&self, user: &str) -> Labels {
        self.users.id(user).and_then(|user| self.matcher.labels(&user)).unwrap_or_default()
    }

    /// Returns the names of all groups that have a `memberSelector`, including deleted ones that hold a role.
    pub fn with_selector(&self) -> impl Iterator<Item = &str> {
        let present = self.matcher.selectors().map(|group| self.groups.name(*group));
        present.chain(self.deleted.bound().map(String::as_str))
    }

    /// Returns the groups that the user belongs to directly by one of these [`MembershipSource`]s, existing or not.
    fn naming(&self, user: &str, sources: u8) -> impl Iterator<Item = Id> {
        let user = self.users.id(user);
        let direct =
            user.into_iter().flat_map(|user| self.users.get(user).direct.iter().map(move |group| (*group, user)));
        direct.filter(move |(group, user)| self.groups.get(*group).direct[user] & sources != 0).map(|(group, _)| group)
    }

    /// Returns the groups with a time-bound membership of the user, including ended ones: extending the validity makes
    /// the same user a member again.
    fn timed(&self, user: &str) -> impl Iterator<Item = Id> {
        let user = self.users.id(user);
        user.into_iter().flat_map(|user| self.users.get(user).timed.iter().copied())
    }

    /// Returns the users that name the group, or that it names or selects, existing or not. Excludes time-bound
    /// memberships outside their validity.
    pub fn claimants(&self, group: &str) -> impl Iterator<Item = &str> {
        let direct = self.groups.id(group).map(|group| &self.groups.get(group).direct);
        direct.into_iter().flat_map(HashMap::keys).map(|user| self.users.name(*user))
    }

    /// Returns the groups that name the user in any way.
    pub fn naming_user(&self, user: &str) -> impl Iterator<Item = &str> {
        let node = self.users.id(user).map(|user| self.users.get(user));
        let groups = node.into_iter().flat_map(|node| {
            let only_timed = node.timed.iter().filter(|group| !node.direct.has(**group));
            node.direct.iter().chain(only_timed)
        });
        groups.map(|group| self.groups.name(*group))
    }

    /// Returns the groups that name the group in `memberGroups`.
    pub fn naming_group(&self, group: &str) -> impl Iterator<Item = &str> {
        let parents = self.groups.id(group).map(|group| &self.groups.get(group).parents);
        parents.into_iter().flatten().map(|parent| self.groups.name(*parent))
    }

    /// Returns the users, existing or not, whose [`Memberships::claims`] would contain a group with this declaration,
    /// whether or not it accepts declared members, and regardless of validity. Users that only name the group
    /// themselves are not included.
    pub fn would_have(&self, declared: &DeclaredMembers) -> BTreeSet<String> {
        let named = declared.users.iter().chain(declared.timed.keys()).cloned();
        let selected = declared.selector.iter().flat_map(|selector| self.matcher.objects_of(selector.clone()));
        let nested = declared.groups.iter().filter_map(|group| self.groups.id(group));
        let descendants: BTreeSet<Id> =
            nested.flat_map(|group| self.transitive(group, |node| &node.children).into_iter().chain([group])).collect();
        let deleted = descendants.iter().filter_map(|group| self.deleted.selector(self.groups.name(*group)));
        let selected = selected.chain(deleted.flat_map(|selector| self.matcher.objects_of(selector)));
        let claiming = descendants.iter().flat_map(|group| {
            let node = self.groups.get(*group);
            node.direct.keys().chain(node.timed.keys()).copied()
        });
        let ids: BTreeSet<Id> = selected.chain(claiming).collect();
        named.chain(ids.into_iter().map(|user| self.users.name(user).to_owned())).collect()
    }

    /// Returns kind and name of the users and groups that the group names and that do not exist.
    pub fn missing(&self, group: &str) -> impl Iterator<Item = (&'static str, &str)> {
        let node = self.groups.id(group).map(|group| self.groups.get(group));
        let users = node.into_iter().flat_map(|node| node.users.iter().chain(node.timed.keys()));
        let users = users.filter(|user| !self.users.get(**user).exists).map(|user| ("User", self.users.name(*user)));
        let groups = node.into_iter().flat_map(|node| &node.children);
        let groups = groups.filter(|child| !self.groups.get(**child).exists);
        users.chain(groups.map(|child| ("Group", self.groups.name(*child))))
    }

    /// Returns a shortest path by which the user belongs to the group.
    pub fn path(&self, user: &str, group: &str) -> Option<Path> {
        let (user, target) = self.users.id(user).zip(self.groups.id(group))?;
        let counts = |group: &Id| self.groups.get(*group).exists && self.groups.get(*group).counts(user);
        let direct = self.users.get(user).direct.iter().copied().filter(counts);
        let mut reached_from: HashMap<Id, Option<Id>> = direct.map(|group| (group, None)).collect();
        let mut work: VecDeque<Id> = reached_from.keys().copied().collect();
        work.make_contiguous().sort_unstable_by_key(|group| self.groups.name(*group));
        while let Some(next) = work.pop_front() {
            if next == target {
                let mut steps = vec![next];
                while let Some(Some(before)) = steps.last().and_then(|step| reached_from.get(step)) {
                    steps.push(*before);
                }
                steps.reverse();
                let first = self.groups.get(steps[0]);
                let bits = first.direct[&user] & first.accepted();
                return Some(Path {
                    sources: MembershipSource::ALL.into_iter().filter(|source| bits & *source as u8 != 0).collect(),
                    groups: steps.into_iter().map(|group| self.groups.name(group).to_owned()).collect(),
                });
            }
            for parent in &self.groups.get(next).acyclic_parents {
                if !reached_from.contains_key(parent) {
                    reached_from.insert(*parent, Some(next));
                    work.push_back(*parent);
                }
            }
        }
        None
    }
}

/// Returns `from` and all groups that `next` leads to from there. Visits each group once.
fn walk<N: IntoIterator<Item = Id>>(from: BTreeSet<Id>, next: impl Fn(Id) -> N) -> BTreeSet<Id> {
    let mut found = BTreeSet::new();
    let mut work: Vec<Id> = from.into_iter().collect();
    while let Some(group) = work.pop() {
        if found.insert(group) {
            work.extend(next(group));
        }
    }
    found
}
