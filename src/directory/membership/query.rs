//! What can be asked of the graph.

use std::collections::{BTreeSet, HashMap, VecDeque};

use jiff::Timestamp;

use super::{DeclaredMembers, Memberships, Source};
use crate::directory::labels::Labels;
use crate::directory::nodes::Id;

/// How a user belongs to a group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Path {
    /// The fields that declare the first step.
    pub sources: Vec<Source>,
    /// From the group that the user belongs to directly up to the one in question.
    pub groups: Vec<String>,
}

impl Memberships {
    /// Names of the groups that the user belongs to.
    pub fn groups_of(&self, user: &str) -> impl Iterator<Item = &str> {
        let effective = self.users.id(user).map(|user| &self.users.get(user).effective);
        effective.into_iter().flat_map(|groups| groups.iter()).map(|group| self.groups.name(*group))
    }

    /// Names of the users that belong to the group, in no order.
    pub fn members_of(&self, group: &str) -> impl Iterator<Item = &str> {
        let ways = self.groups.id(group).map(|group| &self.groups.get(group).ways);
        ways.into_iter().flat_map(HashMap::keys).map(|user| self.users.name(*user))
    }

    /// How many users belong to the group.
    pub fn count(&self, group: &str) -> usize {
        self.groups.id(group).map_or(0, |group| self.groups.get(group).ways.len())
    }

    /// Whether the user belongs to the group.
    pub fn is_member(&self, user: &str, group: &str) -> bool {
        let ids = self.users.id(user).zip(self.groups.id(group));
        ids.is_some_and(|(user, group)| self.users.get(user).effective.has(group))
    }

    /// Whether there is a Group of that name.
    pub fn has_group(&self, group: &str) -> bool {
        self.groups.id(group).is_some_and(|group| self.groups.get(group).exists)
    }

    /// The groups of the cycle that the group is in; empty where it is in none.
    pub fn cycle_of(&self, group: &str) -> Vec<&str> {
        let cycle = self.groups.id(group).and_then(|group| self.groups.get(group).cycle.as_deref());
        cycle.into_iter().flatten().map(|member| self.groups.name(*member)).collect()
    }

    /// Whether the group would be in a cycle if it had these `memberGroups`. Returns a path through it.
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

    /// The group and all groups that its members belong to by it.
    pub fn above(&self, group: &str) -> BTreeSet<String> {
        let Some(group) = self.groups.id(group) else { return [group.to_owned()].into() };
        self.climb([group].into())
    }

    /// As [`Memberships::above`], but as if no edge were cut: what membership would mean once a cycle is broken.
    pub fn above_uncut(&self, group: &str) -> BTreeSet<String> {
        let Some(id) = self.groups.id(group) else { return [group.to_owned()].into() };
        let above = self.reach(id, |node| &node.parents);
        above.into_iter().chain([id]).map(|group| self.groups.name(group).to_owned()).collect()
    }

    /// All groups whose members belong to this one by being in them.
    pub fn below(&self, group: &str) -> BTreeSet<String> {
        let Some(id) = self.groups.id(group) else { return BTreeSet::new() };
        self.reach(id, |node| &node.children).into_iter().map(|group| self.groups.name(group).to_owned()).collect()
    }

    fn climb_uncut(&self, from: BTreeSet<Id>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut work: Vec<Id> = from.into_iter().collect();
        while let Some(group) = work.pop() {
            if found.insert(group) {
                work.extend(&self.groups.get(group).parents);
            }
        }
        found.into_iter().map(|group| self.groups.name(group).to_owned()).collect()
    }

    fn climb(&self, from: BTreeSet<Id>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut work: Vec<Id> = from.into_iter().collect();
        while let Some(group) = work.pop() {
            if found.insert(group) {
                work.extend(&self.groups.get(group).up);
            }
        }
        found.into_iter().map(|group| self.groups.name(group).to_owned()).collect()
    }

    /// The groups that a User of that name would belong to with these labels and `spec.groups`, whether or not the
    /// graph knows of it yet.
    pub fn would_belong(&self, user: &str, labels: &Labels, groups: &[String]) -> BTreeSet<String> {
        let mut direct: BTreeSet<Id> = groups.iter().filter_map(|group| self.groups.id(group)).collect();
        direct.extend(self.matcher.selectors_of(labels));
        direct.extend(self.naming(user, Source::Members as u8 | Source::Membership as u8));
        direct.retain(|group| self.groups.get(*group).exists);
        self.climb(direct)
    }

    /// What [`Memberships::would_belong`] could come to: with groups that do not exist (any more), with memberships that
    /// have yet to begin, and as if no edge of a cycle were cut. The guard goes by this.
    pub fn would_claim(&self, user: &str, labels: &Labels, groups: &[String], now: Timestamp) -> BTreeSet<String> {
        let mut direct: BTreeSet<Id> = groups.iter().filter_map(|group| self.groups.id(group)).collect();
        direct.extend(self.matcher.selectors_of(labels));
        direct.extend(self.naming(user, Source::Members as u8 | Source::Membership as u8));
        direct.extend(self.unended(user, now));
        self.climb_uncut(direct).into_iter().chain(groups.iter().cloned()).collect()
    }

    /// The same for a user as the graph knows it.
    pub fn claims(&self, user: &str, now: Timestamp) -> BTreeSet<String> {
        let direct = self.naming(user, u8::MAX).chain(self.unended(user, now)).collect();
        self.climb_uncut(direct)
    }

    /// The groups that the user belongs to directly, existing or not, by one of these [`Source`]s.
    fn naming(&self, user: &str, sources: u8) -> impl Iterator<Item = Id> {
        let user = self.users.id(user);
        let direct =
            user.into_iter().flat_map(|user| self.users.get(user).direct.iter().map(move |group| (*group, user)));
        direct.filter(move |(group, user)| self.groups.get(*group).direct[user] & sources != 0).map(|(group, _)| group)
    }

    /// The groups with a time-bound membership of the user that has not ended.
    fn unended(&self, user: &str, now: Timestamp) -> impl Iterator<Item = Id> {
        let user = self.users.id(user);
        let timed =
            user.into_iter().flat_map(|user| self.users.get(user).timed.iter().map(move |group| (*group, user)));
        timed.filter(move |(group, user)| !self.groups.get(*group).timed[user].is_over(now)).map(|(group, _)| group)
    }

    /// The users that name the group, or that it names, existing or not.
    pub fn claimants(&self, group: &str) -> impl Iterator<Item = &str> {
        let direct = self.groups.id(group).map(|group| &self.groups.get(group).direct);
        direct.into_iter().flat_map(HashMap::keys).map(|user| self.users.name(*user))
    }

    /// The groups that name the user, in whatever way.
    pub fn naming_user(&self, user: &str) -> impl Iterator<Item = &str> {
        let node = self.users.id(user).map(|user| self.users.get(user));
        let groups = node.into_iter().flat_map(|node| {
            let not_yet = node.timed.iter().filter(|group| !node.direct.has(**group));
            node.direct.iter().chain(not_yet)
        });
        groups.map(|group| self.groups.name(*group))
    }

    /// The groups that name the group among their `memberGroups`.
    pub fn naming_group(&self, group: &str) -> impl Iterator<Item = &str> {
        let parents = self.groups.id(group).map(|group| &self.groups.get(group).parents);
        parents.into_iter().flatten().map(|parent| self.groups.name(*parent))
    }

    /// The users that would belong to a Group that declares this, and the users that it names, existing or not.
    pub fn would_have(&self, declared: &DeclaredMembers, now: Timestamp) -> BTreeSet<String> {
        let named = declared.users.iter().cloned();
        let timed =
            declared.timed.iter().filter(|(_, validity)| validity.not_after.as_ref().is_none_or(|end| now < end.0));
        let selected = declared.selector.iter().flat_map(|selector| self.matcher.objects_of(selector));
        let nested = declared.groups.iter().flat_map(|group| self.members_of(group).map(str::to_owned));
        named
            .chain(timed.map(|(user, _)| user.clone()))
            .chain(selected.map(|user| self.users.name(user).to_owned()))
            .chain(nested)
            .collect()
    }

    /// Users and groups that the group names and that do not exist, by kind and name.
    pub fn missing(&self, group: &str) -> impl Iterator<Item = (&'static str, &str)> {
        let node = self.groups.id(group).map(|group| self.groups.get(group));
        let users = node.into_iter().flat_map(|node| node.users.iter().chain(node.timed.keys()));
        let users = users.filter(|user| !self.users.get(**user).exists).map(|user| ("User", self.users.name(*user)));
        let groups = node.into_iter().flat_map(|node| &node.children);
        let groups = groups.filter(|child| !self.groups.get(**child).exists);
        users.chain(groups.map(|child| ("Group", self.groups.name(*child))))
    }

    /// A shortest way in which the user belongs to the group.
    pub fn path(&self, user: &str, group: &str) -> Option<Path> {
        let (user, target) = self.users.id(user).zip(self.groups.id(group))?;
        let direct = self.users.get(user).direct.iter().copied().filter(|group| self.groups.get(*group).exists);
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
                let bits = self.groups.get(steps[0]).direct[&user];
                return Some(Path {
                    sources: Source::ALL.into_iter().filter(|source| bits & *source as u8 != 0).collect(),
                    groups: steps.into_iter().map(|group| self.groups.name(group).to_owned()).collect(),
                });
            }
            for parent in &self.groups.get(next).up {
                if !reached_from.contains_key(parent) {
                    reached_from.insert(*parent, Some(next));
                    work.push_back(*parent);
                }
            }
        }
        None
    }
}
