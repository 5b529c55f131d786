//! Selectors of deleted Groups, for the guard.
//!
//! A User that names a Group keeps naming it when the Group is deleted. What a `memberSelector` says is lost with the
//! Group, and comes back when an administrator or a pipeline applies the manifest again. Until then, or for
//! [`RETENTION`], the guard counts the selector as if the Group still existed.
//!
//! This is memory alone: a replica that starts after the deletion does not know the selector.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::core::Selector;

use crate::directory::labels::{Labels, Matcher};
use crate::directory::nodes::Id;
use crate::directory::timeline::Timeline;
use crate::directory::tombstones::RETENTION;

/// Most selectors that are kept. Beyond it, the Group that was deleted first is forgotten.
const MOST: usize = 10_000;

/// Selectors of deleted Groups, by name of the Group. No objects are matched against them in advance.
#[derive(Debug, Default)]
pub(super) struct Former {
    selectors: Matcher<String, Id>,
    until: Timeline<String>,
}

impl Former {
    /// Keeps the selector of a Group that is deleted now.
    pub(super) fn keep(&mut self, group: &str, selector: Selector, now: Timestamp) {
        if self.until.len() >= MOST
            && let Some(first) = self.until.first().cloned()
        {
            self.forget(&first);
        }
        self.selectors.set_selector(&group.to_owned(), Some(selector));
        self.until.set(group.to_owned(), now.saturating_add(RETENTION).ok());
    }

    /// Forgets a Group: it exists again.
    pub(super) fn forget(&mut self, group: &str) {
        self.selectors.set_selector(&group.to_owned(), None);
        self.until.set(group.to_owned(), None);
    }

    /// Forgets what has expired.
    pub(super) fn expire(&mut self, now: Timestamp) {
        for group in self.until.take_due(now) {
            self.selectors.set_selector(&group, None);
        }
    }

    /// When [`Former::expire`] has something to do next.
    pub(super) fn next_edge(&self) -> Option<Timestamp> {
        self.until.next()
    }

    /// The selector of a deleted Group.
    pub(super) fn selector(&self, group: &str) -> Option<&Selector> {
        self.selectors.selector(&group.to_owned())
    }

    /// Names of the deleted Groups whose selector matches these labels.
    pub(super) fn selecting(&self, labels: &Labels) -> BTreeSet<String> {
        self.selectors.selectors_of(labels)
    }

    /// Names of all deleted Groups that had a selector.
    pub(super) fn groups(&self) -> impl Iterator<Item = &String> {
        self.selectors.selectors()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_selectors_is_bounded() {
        let mut former = Former::default();
        let at = |second: usize| Timestamp::from_second(second.try_into().unwrap()).unwrap();
        for i in 0..=MOST {
            former.keep(&format!("g{i}"), Selector::default(), at(i));
        }
        assert_eq!(former.groups().count(), MOST);
        assert!(former.groups().all(|group| group != "g0"));
        former.expire(at(MOST) + RETENTION);
        assert_eq!((former.groups().count(), former.next_edge()), (0, None));
    }
}
