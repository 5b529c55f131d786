//! Acceptance of declared members: whether a group accepts them, and which users are waiting for it.

use super::{GroupNode, MembershipSource, Memberships};
use crate::directory::nodes::Id;

impl GroupNode {
    /// Returns the bits of the sources that make a user a member.
    pub(super) fn accepted(&self) -> u8 {
        if self.accepts_declared { u8::MAX } else { MembershipSource::BY_GROUP }
    }

    /// Returns whether the user belongs directly, provided that both exist.
    pub(super) fn counts(&self, user: Id) -> bool {
        self.direct.get(&user).is_some_and(|bits| bits & self.accepted() != 0)
    }
}

impl Memberships {
    /// Sets whether the group accepts declared members. Visits each direct member once.
    pub(super) fn set_acceptance(&mut self, group: Id, accepts: bool) {
        let node = self.groups.get_mut(group);
        if node.accepts_declared == accepts {
            return;
        }
        node.accepts_declared = accepts;
        if !node.exists {
            return;
        }
        let declared_only_by_user =
            node.direct.iter().filter(|(_, bits)| **bits & MembershipSource::BY_GROUP == 0).map(|(user, _)| *user);
        for user in declared_only_by_user.filter(|user| self.users.get(*user).exists).collect::<Vec<_>>() {
            if accepts {
                self.add_path(group, user);
            } else {
                self.remove_path(group, user);
            }
        }
    }

    /// Updates whether the user is waiting to be accepted by the group. Call this after updating the memberships and
    /// the existence of both.
    pub(super) fn update_waiting(&mut self, group: Id, user: Id) {
        let node = self.groups.get(group);
        let declares = node.direct.get(&user).is_some_and(|bits| bits & MembershipSource::BY_USER != 0);
        let waits = declares && node.exists && self.users.get(user).exists && !node.path_counts.contains_key(&user);
        if !waits && node.waiting.is_empty() {
            return;
        }
        let name = self.users.shared_name(user);
        let waiting = &mut self.groups.get_mut(group).waiting;
        let has_changed = if waits { waiting.insert(name) } else { waiting.remove(&name) };
        if has_changed {
            self.changed_users.insert(user);
            self.changed_groups.insert(group);
        }
    }
}
