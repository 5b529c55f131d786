//! Selectors of deleted Groups, for the guard.
//!
//! A User that names a Group keeps naming it when the Group is deleted. A `memberSelector`, however, is deleted with
//! the Group, and returns when an administrator or a pipeline applies the manifest again. Until then, or for
//! [`RETENTION`], the guard counts the selector as if the Group still existed.
//!
//! Anyone who may write Groups can create and delete any number of them. The selectors are therefore kept in two sets:
//!
//! - Selectors of Groups that hold a role, because a binding names them or a Group that they are nested in. These are
//!   never evicted. Their number is bounded by the bindings and Groups that name them, and their size is limited.
//! - Selectors of Groups that hold no role. They grant nothing, so the guard does not match them. Their number and
//!   total size are limited. They count as soon as a binding names their Group again.
//!
//! The selectors are kept only in memory: a replica that starts after the deletion does not know them.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use kube::core::{Expression, Selector};

use crate::directory::labels::{Effect, LabelChange, Labels, Matcher};
use crate::directory::nodes::Id;
use crate::directory::timeline::Timeline;
use crate::directory::tombstones::RETENTION;

/// Maximum number of selectors of Groups that hold no role. Beyond it, the selector of the Group that was deleted first
/// is evicted.
const MAX_UNBOUND: usize = 10_000;

/// Maximum total size of the selectors of Groups that hold no role, in bytes. Most selectors have about a hundred
/// bytes.
const MAX_UNBOUND_BYTES: usize = 16 * 1024 * 1024;

/// Total size of the selectors of Groups that hold a role, in bytes, beyond which further selectors are reduced: to a
/// form of at most [`REDUCED_BYTES`] that matches at least the same Users, so it takes little memory and protects no
/// less.
const MAX_BOUND_BYTES: usize = 32 * 1024 * 1024;

/// Maximum size of a reduced selector, in bytes. Selectors up to this size, which most are, are never reduced.
const REDUCED_BYTES: usize = 1024;

/// Bytes of memory that a selector takes in addition to its keys and values.
const OVERHEAD: usize = 256;

/// Selectors of deleted Groups, by name of the Group. No objects are matched against them in advance.
#[derive(Debug, Default)]
pub(super) struct DeletedSelectors {
    bound: Matcher<String, Id>,
    /// Groups of which a [`reduced`] selector is kept. It lacks conditions on some labels.
    reduced: BTreeSet<String>,
    bound_until: Timeline<String>,
    bound_bytes: usize,
    unbound: HashMap<String, Selector>,
    unbound_until: Timeline<String>,
    unbound_bytes: usize,
}

impl DeletedSelectors {
    /// Keeps the selector of a Group that is being deleted. Call [`DeletedSelectors::set_bound`] afterwards.
    pub(super) fn keep(&mut self, group: &str, selector: Selector, now: Timestamp) {
        self.set_unbound(group.to_owned(), selector, now.saturating_add(RETENTION).ok());
    }

    /// Records whether a deleted Group holds a role, and evicts selectors beyond the limits. Does nothing for a Group
    /// whose selector is not kept.
    pub(super) fn set_bound(&mut self, group: &str, holds_role: bool) {
        let name = group.to_owned();
        let mut is_reduced = self.reduced.contains(group);
        if holds_role {
            let until = self.unbound_until.get(&name);
            if let Some(mut selector) = self.take_unbound(group) {
                if self.bound_bytes + size(&selector) > MAX_BOUND_BYTES && size(&selector) > REDUCED_BYTES {
                    selector = reduced(selector);
                    is_reduced = true;
                }
                self.bound_bytes += size(&selector);
                self.bound.set_selector(&name, Some(selector));
                self.bound_until.set(name.clone(), until);
            }
        } else if let Some(selector) = self.bound.selector(&name) {
            let until = self.bound_until.get(&name);
            self.forget(group);
            self.set_unbound(name.clone(), selector, until);
        }
        if is_reduced {
            self.reduced.insert(name);
        }
        while (self.unbound.len() > MAX_UNBOUND || self.unbound_bytes > MAX_UNBOUND_BYTES)
            && let Some(first) = self.unbound_until.first().cloned()
        {
            self.take_unbound(&first);
        }
    }

    /// Forgets a Group that exists again.
    pub(super) fn forget(&mut self, group: &str) {
        let name = group.to_owned();
        if let Some(selector) = self.bound.selector(&name) {
            self.bound_bytes -= size(&selector);
            self.bound.set_selector(&name, None);
            self.reduced.remove(group);
        }
        self.bound_until.set(name, None);
        self.take_unbound(group);
    }

    /// Forgets expired selectors.
    pub(super) fn expire(&mut self, now: Timestamp) {
        for group in self.bound_until.take_due(now).into_iter().chain(self.unbound_until.take_due(now)) {
            self.forget(&group);
        }
    }

    /// Returns when [`DeletedSelectors::expire`] has something to do next.
    pub(super) fn next_transition(&self) -> Option<Timestamp> {
        [self.bound_until.next(), self.unbound_until.next()].into_iter().flatten().min()
    }

    /// Returns whether no selector is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.next_transition().is_none()
    }

    /// Returns a copy of the selector of a deleted Group.
    pub(super) fn selector(&self, group: &str) -> Option<Selector> {
        self.unbound.get(group).cloned().or_else(|| self.bound.selector(&group.to_owned()))
    }

    /// Returns the names of the deleted Groups that hold a role and whose selector matches these labels.
    pub(super) fn selecting(&self, labels: &Labels) -> BTreeSet<String> {
        self.bound.selectors_of(labels)
    }

    /// Returns the names of the deleted Groups that hold a role and of whose selector a change affects a condition, or
    /// may affect one that a reduced selector lacks.
    pub(super) fn affected(&self, change: &LabelChange<'_>, counts: Effect) -> BTreeSet<String> {
        let mut affected = self.bound.affected(change, counts);
        if change.before != change.after || !change.removable.is_empty() {
            affected.extend(self.reduced.iter().filter(|group| self.bound.has_selector(group)).cloned());
        }
        affected
    }

    /// Returns the names of all deleted Groups that had a selector and hold a role.
    pub(super) fn bound(&self) -> impl Iterator<Item = &String> {
        self.bound.selectors()
    }

    fn set_unbound(&mut self, group: String, selector: Selector, until: Option<Timestamp>) {
        self.take_unbound(&group);
        self.unbound_bytes += size(&selector);
        self.unbound_until.set(group.clone(), until);
        self.unbound.insert(group, selector);
    }

    fn take_unbound(&mut self, group: &str) -> Option<Selector> {
        let selector = self.unbound.remove(group)?;
        self.reduced.remove(group);
        self.unbound_bytes -= size(&selector);
        self.unbound_until.set(group.to_owned(), None);
        Some(selector)
    }
}

/// Returns a selector of at most [`REDUCED_BYTES`] that matches at least what this one matches. All expressions of a
/// selector must match, so omitting or weakening one can only add matches.
fn reduced(selector: Selector) -> Selector {
    let mut kept = Selector::default();
    for expression in selector {
        let weaker = match &expression {
            Expression::In(key, _) | Expression::Equal(key, _) => Some(Expression::Exists(key.clone())),
            _ => None,
        };
        let fitting = [Some(expression), weaker].into_iter().flatten().find_map(|expression| {
            let mut with = kept.clone();
            with.extend([expression]);
            (size(&with) <= REDUCED_BYTES).then_some(with)
        });
        kept = fitting.unwrap_or(kept);
    }
    kept
}

/// Returns the approximate size of a selector in memory, in bytes.
fn size(selector: &Selector) -> usize {
    let expressions = selector.clone().into_iter().map(|expression| match expression {
        Expression::In(key, values) | Expression::NotIn(key, values) => {
            key.len() + values.iter().map(|value| value.len() + OVERHEAD / 8).sum::<usize>()
        }
        Expression::Equal(key, value) | Expression::NotEqual(key, value) => key.len() + value.len(),
        Expression::Exists(key) | Expression::DoesNotExist(key) => key.len(),
    });
    OVERHEAD + expressions.map(|size| size + OVERHEAD / 2).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: usize) -> Timestamp {
        Timestamp::from_second(second.try_into().unwrap()).unwrap()
    }

    /// Keeps a selector that no index narrows down: it matches every User without the label.
    fn keep(deleted: &mut DeletedSelectors, group: &str, second: usize, holds_role: bool) {
        deleted.keep(group, Expression::DoesNotExist(group.to_owned()).into(), at(second));
        deleted.set_bound(group, holds_role);
    }

    #[test]
    fn unbound_selectors_are_limited_and_never_evict_bound_ones() {
        let mut deleted = DeletedSelectors::default();
        keep(&mut deleted, "power", 0, true);
        for i in 1..=MAX_UNBOUND + 5 {
            keep(&mut deleted, &format!("g{i}"), i, false);
        }
        assert_eq!((deleted.unbound.len(), deleted.unbound_until.len()), (MAX_UNBOUND, MAX_UNBOUND));
        assert!(deleted.selector("power").is_some() && deleted.selector("g5").is_none());
        assert!(deleted.selector("g6").is_some());
        deleted.expire(at(MAX_UNBOUND + 5) + RETENTION);
        assert!(deleted.is_empty() && deleted.unbound_bytes == 0);
        assert!(deleted.unbound.is_empty() && deleted.bound().next().is_none());
    }

    #[test]
    fn only_bound_selectors_are_matched() {
        let mut deleted = DeletedSelectors::default();
        for i in 0..MAX_UNBOUND {
            keep(&mut deleted, &format!("g{i}"), i, false);
        }
        keep(&mut deleted, "power", 0, true);
        let labels = Labels::from([("team".to_owned(), "a".to_owned())]);
        assert_eq!(deleted.bound.candidates(&labels).count(), 1, "of {} kept", deleted.unbound.len() + 1);
        assert_eq!(deleted.selecting(&labels), ["power".to_owned()].into());
    }

    #[test]
    fn large_selectors_are_limited_by_size() {
        let mut deleted = DeletedSelectors::default();
        let values = || (0..64).map(|i| format!("{i}-{}", "v".repeat(60)));
        let large = || (0..32).map(|i| Expression::NotIn(format!("k{i}"), values().collect())).collect::<Selector>();
        for i in 0..200 {
            deleted.keep(&format!("g{i}"), large(), at(i));
            deleted.set_bound(&format!("g{i}"), false);
            assert!(deleted.unbound_bytes <= MAX_UNBOUND_BYTES);
        }
        assert!(deleted.unbound.len() < 200 && deleted.selector("g199").is_some());
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// A selector of about 150 KiB.
    fn large() -> Selector {
        let values = || (0..64).map(|i| format!("{i}-{}", "v".repeat(60)));
        (0..32).map(|i| Expression::In(format!("k{i}"), values().collect())).collect()
    }

    #[test]
    fn large_bound_selectors_are_reduced_when_there_are_many() {
        let mut deleted = DeletedSelectors::default();
        let count = MAX_BOUND_BYTES / size(&large());
        for i in 0..count + 100 {
            deleted.keep(&format!("g{i}"), large(), at(i));
            deleted.set_bound(&format!("g{i}"), true);
        }
        assert!(deleted.bound_bytes <= MAX_BOUND_BYTES + 100 * REDUCED_BYTES);
        let value = format!("0-{}", "v".repeat(60));
        let matching = (0..32).map(|i| (format!("k{i}"), value.clone())).collect();
        assert_eq!(deleted.selecting(&matching).len(), count + 100, "they still match");
        assert!(deleted.selecting(&Labels::new()).is_empty(), "and do not match every User");
        // The kept form lacks conditions, so every change of labels may affect one.
        let is_affected = |deleted: &DeletedSelectors, group: usize, after: &str| {
            let (before, after) = (labels(&[("x", "a")]), labels(&[("x", after)]));
            let change = LabelChange { before: &before, after: &after, removable: &BTreeSet::new() };
            deleted.affected(&change, Effect::Any).contains(&format!("g{group}"))
        };
        let last = count + 99;
        assert!(is_affected(&deleted, last, "b") && !is_affected(&deleted, last, "a"));
        assert!(!is_affected(&deleted, 0, "b"), "it is kept as it was");
        deleted.set_bound(&format!("g{last}"), false);
        assert!(!is_affected(&deleted, last, "b"), "it holds no role");
        deleted.set_bound(&format!("g{last}"), true);
        assert!(is_affected(&deleted, last, "b"));
        // A selector of ordinary size is kept unchanged. Otherwise, one deleted Group could match every User, and a
        // help desk without its roles could no longer manage any of them.
        deleted.keep("sre", Expression::Equal("team".to_owned(), "sre".to_owned()).into(), at(0));
        deleted.set_bound("sre", true);
        assert_eq!(deleted.selecting(&labels(&[("team", "sre")])), ["sre".to_owned()].into());
        assert!(deleted.selecting(&labels(&[("team", "web")])).is_empty());
        deleted.forget("sre");
        for i in 0..count + 100 {
            deleted.forget(&format!("g{i}"));
        }
        assert!(deleted.is_empty() && deleted.bound_bytes == 0);
    }

    #[test]
    fn a_reduced_selector_matches_at_least_what_the_whole_one_matches() {
        let many = |key: &str| Expression::In(key.to_owned(), (0..100).map(|i| format!("v{i}")).collect());
        let none = |key: &str| Expression::NotIn(key.to_owned(), (0..100).map(|i| format!("v{i}")).collect());
        let team = || Expression::Equal("team".to_owned(), "sre".to_owned());
        let both: Selector = [many("a"), team()].into_iter().collect();
        let expected: Selector = [Expression::Exists("a".to_owned()), team()].into_iter().collect();
        assert_eq!(reduced(both), expected);
        assert_eq!(reduced([none("a"), team()].into_iter().collect()), Selector::from(team()));
        assert_eq!(reduced(none("a").into()), Selector::default(), "it matches every User");
        assert_eq!(reduced(large()).into_iter().filter(|it| matches!(it, Expression::Exists(_))).count(), 5);
        assert!(size(&reduced(large())) <= REDUCED_BYTES);
        assert_eq!(reduced(team().into()), Selector::from(team()));
    }

    #[test]
    fn a_selector_counts_once_bound_and_keeps_its_expiry() {
        let mut deleted = DeletedSelectors::default();
        keep(&mut deleted, "g", 7, false);
        let labels = Labels::new();
        assert!(deleted.selecting(&labels).is_empty());
        deleted.set_bound("g", true);
        assert_eq!(deleted.selecting(&labels), ["g".to_owned()].into());
        assert_eq!((deleted.unbound_bytes, deleted.next_transition()), (0, Some(at(7) + RETENTION)));
        deleted.set_bound("g", false);
        assert!(deleted.selecting(&labels).is_empty() && deleted.next_transition() == Some(at(7) + RETENTION));
        deleted.forget("g");
        deleted.set_bound("g", true);
        assert!(deleted.is_empty(), "the Group exists again");
    }
}
