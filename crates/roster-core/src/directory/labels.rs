//! Label selectors and the objects that they match, indexed in both directions: a change of an object's labels visits
//! only selectors that require one of these labels, and a change of a selector visits only objects that have a label
//! that it requires.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use kube::core::{Expression, Selector};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Stored labels in key order. Keys are shared by all objects that carry them, and so are the values of a key.
type InternedLabels = Box<[(Arc<str>, Arc<str>)]>;

/// Label that an object must have before a selector is evaluated on it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Anchor {
    /// This value under this key.
    Pair(String, String),
    /// Any value under this key.
    Key(String),
    /// No particular label: the selector must be evaluated on every object.
    Anything,
}

/// Index of selectors (keyed by `S`) and objects (keyed by `O`).
#[derive(Debug)]
pub struct Matcher<S, O> {
    /// The expressions of each selector: a `Selector` can only be iterated by value.
    selectors: HashMap<S, Vec<Expression>>,
    by_anchor: HashMap<Anchor, HashSet<S>>,
    /// Selectors by each label that they mention: its key, and its value if an expression requires one.
    mentioning: HashMap<String, HashMap<Option<String>, HashSet<S>>>,
    objects: HashMap<O, InternedLabels>,
    carrying: HashMap<Arc<str>, HashMap<Arc<str>, HashSet<O>>>,
}

impl<S, O> Default for Matcher<S, O> {
    fn default() -> Self {
        Self {
            selectors: HashMap::new(),
            by_anchor: HashMap::new(),
            mentioning: HashMap::new(),
            objects: HashMap::new(),
            carrying: HashMap::new(),
        }
    }
}

/// A change of an object's labels.
#[derive(Clone, Copy, Debug)]
pub struct LabelChange<'a> {
    /// The labels before the change.
    pub before: &'a Labels,
    /// The labels after the change.
    pub after: &'a Labels,
    /// Labels that may be removed after the change.
    pub removable: &'a BTreeSet<String>,
}

/// Which effects on a condition count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// It holds or ceases to hold.
    Any,
    /// It holds, and did not before.
    Holds,
}

impl Effect {
    const fn includes(self, before: bool, after: bool) -> bool {
        before != after && (after || matches!(self, Self::Any))
    }
}

/// Matches gained and lost by a change.
#[derive(Debug, Eq, PartialEq)]
pub struct Difference<T: Ord> {
    /// Ids that match now and did not before.
    pub entered: BTreeSet<T>,
    /// Ids that matched before and do not match now.
    pub left: BTreeSet<T>,
}

impl<S: Clone + Eq + Hash + Ord, O: Clone + Eq + Hash + Ord> Matcher<S, O> {
    /// Adds, updates or removes an object. Returns the selectors that it entered and left.
    pub fn set_object(&mut self, object: &O, labels: Option<Labels>) -> Difference<S> {
        let before = self.labels(object);
        if before == labels {
            return Difference { entered: BTreeSet::new(), left: BTreeSet::new() };
        }
        let matched = before.as_ref().map(|labels| self.selectors_of(labels)).unwrap_or_default();
        let matching = labels.as_ref().map(|labels| self.selectors_of(labels)).unwrap_or_default();
        for (key, value) in before.iter().flatten() {
            self.drop_label(key, value, object);
        }
        match labels {
            Some(labels) => {
                let kept = labels.iter().map(|(key, value)| self.add_label(key, value, object)).collect();
                self.objects.insert(object.clone(), kept);
            }
            None => drop(self.objects.remove(object)),
        }
        Difference { entered: &matching - &matched, left: &matched - &matching }
    }

    fn add_label(&mut self, key: &str, value: &str, object: &O) -> (Arc<str>, Arc<str>) {
        let key = shared(&self.carrying, key);
        let values = self.carrying.entry(Arc::clone(&key)).or_default();
        let value = shared(values, value);
        values.entry(Arc::clone(&value)).or_default().insert(object.clone());
        (key, value)
    }

    fn drop_label(&mut self, key: &str, value: &str, object: &O) {
        let Some(values) = self.carrying.get_mut(key) else { return };
        if let Some(objects) = values.get_mut(value) {
            objects.remove(object);
            if objects.is_empty() {
                values.remove(value);
            }
        }
        if values.is_empty() {
            self.carrying.remove(key);
        }
    }

    /// Adds, updates or removes a selector. Returns the objects that entered and left it.
    pub fn set_selector(&mut self, id: &S, selector: Option<Selector>) -> Difference<O> {
        let expressions: Option<Vec<Expression>> = selector.map(|selector| selector.into_iter().collect());
        if self.selectors.get(id) == expressions.as_ref() {
            return Difference { entered: BTreeSet::new(), left: BTreeSet::new() };
        }
        let matched = self.selectors.get(id).map(|selector| self.matching(selector)).unwrap_or_default();
        let matching = expressions.as_ref().map(|selector| self.matching(selector)).unwrap_or_default();
        if let Some(before) = self.selectors.remove(id) {
            for mention in before.iter().flat_map(mentions) {
                self.drop_mention(&mention, id);
            }
            for anchor in anchors(&before) {
                if let Some(selectors) = self.by_anchor.get_mut(&anchor) {
                    selectors.remove(id);
                    if selectors.is_empty() {
                        self.by_anchor.remove(&anchor);
                    }
                }
            }
        }
        if let Some(expressions) = expressions {
            for (key, value) in expressions.iter().flat_map(mentions) {
                self.mentioning.entry(key.to_owned()).or_default().entry(value).or_default().insert(id.clone());
            }
            for anchor in anchors(&expressions) {
                self.by_anchor.entry(anchor).or_default().insert(id.clone());
            }
            self.selectors.insert(id.clone(), expressions);
        }
        Difference { entered: &matching - &matched, left: &matched - &matching }
    }

    /// Returns whether the selector exists.
    pub fn has_selector(&self, id: &S) -> bool {
        self.selectors.contains_key(id)
    }

    /// Returns a copy of the selector with that id.
    pub fn selector(&self, id: &S) -> Option<Selector> {
        self.selectors.get(id).map(|expressions| expressions.iter().cloned().collect())
    }

    /// Returns the ids of all selectors.
    pub fn selectors(&self) -> impl Iterator<Item = &S> {
        self.selectors.keys()
    }

    /// Returns the selectors that match these labels.
    pub fn selectors_of(&self, labels: &Labels) -> BTreeSet<S> {
        let value = |key: &str| labels.get(key).map(String::as_str);
        let matches = |id: &&S| self.selectors[*id].iter().all(|expression| is_met(expression, value));
        self.candidates(labels).filter(matches).cloned().collect()
    }

    /// Returns the selectors of which a change of labels affects a condition, whether or not the other conditions hold. A
    /// condition is what a selector requires of one label. `removable` labels may be removed after the change, and those
    /// of them that the object does not have may also be set before.
    pub fn affected(&self, change: &LabelChange<'_>, counts: Effect) -> BTreeSet<S> {
        let LabelChange { before, after, removable } = change;
        let keys: BTreeSet<&String> = before.keys().chain(after.keys()).chain(*removable).collect();
        let mut affected = BTreeSet::new();
        for key in keys {
            let (old, new) = (before.get(key), after.get(key));
            let mut later = BTreeSet::from([new]);
            if removable.contains(key) {
                if new.is_none() {
                    affected.extend(self.mentioning.get(key).into_iter().flat_map(HashMap::values).flatten().cloned());
                    continue;
                }
                later.insert(None);
            }
            let holds = |id: &S, value: Option<&String>| {
                let met = |expression: &Expression| is_met(expression, |_| value.map(String::as_str));
                self.selectors[id].iter().all(|expression| key_of(expression) != key || met(expression))
            };
            let is_affected = |id: &&S| {
                let held = holds(id, old);
                later.iter().any(|value| counts.includes(held, holds(id, *value)))
            };
            let values = BTreeSet::from([None, old, new]);
            let mentioning = values.into_iter().filter_map(|value| self.mentioning.get(key)?.get(&value.cloned()));
            affected.extend(mentioning.flatten().filter(is_affected).cloned());
        }
        affected
    }

    fn drop_mention(&mut self, (key, value): &(&str, Option<String>), id: &S) {
        let Some(values) = self.mentioning.get_mut(*key) else { return };
        if let Some(selectors) = values.get_mut(value) {
            selectors.remove(id);
            if selectors.is_empty() {
                values.remove(value);
            }
        }
        if values.is_empty() {
            self.mentioning.remove(*key);
        }
    }

    /// Returns the selectors that [`Matcher::selectors_of`] evaluates on these labels.
    pub fn candidates<'a>(&'a self, labels: &Labels) -> impl Iterator<Item = &'a S> {
        let pairs = labels.iter().map(|(key, value)| Anchor::Pair(key.clone(), value.clone()));
        let keys = labels.keys().map(|key| Anchor::Key(key.clone()));
        let anchors = pairs.chain(keys).chain([Anchor::Anything]);
        anchors.filter_map(|anchor| self.by_anchor.get(&anchor)).flatten()
    }

    /// Returns the objects that the selector matches.
    pub fn objects_of(&self, selector: Selector) -> BTreeSet<O> {
        self.matching(&selector.into_iter().collect::<Vec<_>>())
    }

    fn matching(&self, expressions: &[Expression]) -> BTreeSet<O> {
        let matches = |object: &&O| {
            let kept = &self.objects[*object];
            expressions.iter().all(|expression| is_met(expression, |key| value(kept, key)))
        };
        let anchors = anchors(expressions);
        if anchors == [Anchor::Anything] {
            return self.objects.keys().filter(matches).cloned().collect();
        }
        let carrying = anchors.iter().flat_map(|anchor| self.carrying(anchor));
        carrying.filter(matches).cloned().collect()
    }

    fn carrying<'a>(&'a self, anchor: &'a Anchor) -> Box<dyn Iterator<Item = &'a O> + 'a> {
        match anchor {
            Anchor::Pair(key, value) => Box::new(self.labelled(key, value)),
            Anchor::Key(key) => {
                Box::new(self.carrying.get(key.as_str()).into_iter().flat_map(HashMap::values).flatten())
            }
            Anchor::Anything => Box::new(self.objects.keys()),
        }
    }

    /// Returns the objects with this value under the key.
    pub fn labelled(&self, key: &str, value: &str) -> impl Iterator<Item = &O> + use<'_, S, O> {
        self.carrying.get(key).and_then(|values| values.get(value)).into_iter().flatten()
    }

    /// Returns whether the object exists.
    pub fn has(&self, object: &O) -> bool {
        self.objects.contains_key(object)
    }

    /// Returns all objects.
    pub fn objects(&self) -> impl Iterator<Item = &O> {
        self.objects.keys()
    }

    /// Returns the labels of an object.
    pub fn labels(&self, object: &O) -> Option<Labels> {
        let kept = self.objects.get(object)?;
        Some(kept.iter().map(|(key, value)| (key.as_ref().to_owned(), value.as_ref().to_owned())).collect())
    }

    /// Returns the object's value under a key.
    pub fn label(&self, object: &O, key: &str) -> Option<&str> {
        value(self.objects.get(object)?, key)
    }
}

fn value<'a>(labels: &'a InternedLabels, key: &str) -> Option<&'a str> {
    labels.iter().find(|(own, _)| own.as_ref() == key).map(|(_, value)| value.as_ref())
}

/// Returns whether labels, given as the value under each key, meet the expression. Not the implementation of `kube`,
/// because that takes a map, which would have to be built for each object.
fn is_met<'a>(expression: &Expression, value: impl Fn(&str) -> Option<&'a str>) -> bool {
    match expression {
        Expression::In(key, values) => value(key).is_some_and(|value| values.contains(value)),
        Expression::NotIn(key, values) => value(key).is_none_or(|value| !values.contains(value)),
        Expression::Equal(key, sought) => value(key) == Some(sought),
        Expression::NotEqual(key, sought) => value(key) != Some(sought),
        Expression::Exists(key) => value(key).is_some(),
        Expression::DoesNotExist(key) => value(key).is_none(),
    }
}

/// Returns the key of the label that an expression is about.
fn key_of(expression: &Expression) -> &str {
    match expression {
        Expression::In(key, _)
        | Expression::NotIn(key, _)
        | Expression::Equal(key, _)
        | Expression::NotEqual(key, _)
        | Expression::Exists(key)
        | Expression::DoesNotExist(key) => key,
    }
}

/// Returns the labels that an expression mentions: a key, and a value if the expression holds only for that one.
fn mentions(expression: &Expression) -> Vec<(&str, Option<String>)> {
    match expression {
        Expression::Equal(key, value) => vec![(key, Some(value.clone()))],
        Expression::In(key, values) => values.iter().map(|value| (key.as_str(), Some(value.clone()))).collect(),
        other => vec![(key_of(other), None)],
    }
}

/// Returns the shared copy of a text, or a new one.
fn shared<V>(texts: &HashMap<Arc<str>, V>, text: &str) -> Arc<str> {
    texts.get_key_value(text).map_or_else(|| text.into(), |(known, _)| Arc::clone(known))
}

/// Returns anchors of which every matching object has at least one. They come from a single expression of the selector:
/// the narrowest one.
fn anchors(expressions: &[Expression]) -> Vec<Anchor> {
    let of = |expression: &Expression| match expression {
        Expression::Equal(key, value) => Some(vec![Anchor::Pair(key.clone(), value.clone())]),
        Expression::In(key, values) => {
            Some(values.iter().map(|value| Anchor::Pair(key.clone(), value.clone())).collect())
        }
        Expression::Exists(key) => Some(vec![Anchor::Key(key.clone())]),
        Expression::NotIn(..) | Expression::NotEqual(..) | Expression::DoesNotExist(_) => None,
    };
    let narrowest = expressions.iter().filter_map(of).min_by_key(|anchors| match &anchors[..] {
        [Anchor::Key(_)] => usize::MAX,
        pairs => pairs.len(),
    });
    narrowest.unwrap_or_else(|| vec![Anchor::Anything])
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::SelectorExt;
    use proptest::prelude::*;

    fn labels() -> impl Strategy<Value = Labels> {
        proptest::collection::btree_map("[abc]", "[xy]", 0..3)
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let values = || proptest::collection::btree_set("[xyz]".prop_map(String::from), 1..3);
        let expression = prop_oneof![
            ("[abc]", "[xyz]").prop_map(|(key, value)| Expression::Equal(key, value)),
            ("[abc]", "[xyz]").prop_map(|(key, value)| Expression::NotEqual(key, value)),
            ("[abc]", values()).prop_map(|(key, values)| Expression::In(key, values)),
            ("[abc]", values()).prop_map(|(key, values)| Expression::NotIn(key, values)),
            "[abc]".prop_map(Expression::Exists),
            "[abc]".prop_map(Expression::DoesNotExist),
        ];
        proptest::collection::vec(expression, 0..3).prop_map(|expressions| expressions.into_iter().collect())
    }

    #[derive(Clone, Debug)]
    enum Edit {
        Object(u8, Option<Labels>),
        Selector(u8, Option<Selector>),
    }

    fn edit() -> impl Strategy<Value = Edit> {
        prop_oneof![
            (0..6u8, proptest::option::of(labels())).prop_map(|(id, labels)| Edit::Object(id, labels)),
            (0..6u8, proptest::option::of(selector())).prop_map(|(id, selector)| Edit::Selector(id, selector)),
        ]
    }

    proptest! {
        /// With the labels that are changed or removed, some subset of the other labels may be set before or later. A
        /// selector that is not affected matches after the change if and only if it matched before.
        #[test]
        fn selectors_that_are_not_affected_match_as_before_whatever_else_is_set(
            before in proptest::collection::btree_map("[abc]", "[xy]", 0..4),
            after in proptest::collection::btree_map("[abc]", "[xy]", 0..4),
            others in proptest::collection::btree_map("[abc]", "[xyz]", 0..4),
            removable in proptest::collection::btree_set("[abcd]".prop_map(String::from), 0..4),
            selectors in proptest::collection::vec(selector(), 0..6),
        ) {
            let mut matcher = Matcher::<usize, u8>::default();
            for (id, selector) in selectors.iter().enumerate() {
                matcher.set_selector(&id, Some(selector.clone()));
            }
            let change = LabelChange { before: &before, after: &after, removable: &removable };
            let [affected, entered] = [Effect::Any, Effect::Holds].map(|effect| matcher.affected(&change, effect));
            prop_assert!(entered.is_subset(&affected));
            // Labels that the change keeps are replaced by others.
            let is_kept = |key: &String| before.get(key) == after.get(key) && !removable.contains(key);
            let with_others = |labels: &Labels| {
                let own = labels.iter().filter(|(key, _)| !is_kept(key));
                let others = others.iter().filter(|(key, _)| is_kept(key));
                own.chain(others).map(|(key, value)| (key.clone(), value.clone())).collect::<Labels>()
            };
            let old = with_others(&before);
            for key in removable.iter().map(Some).chain([None]) {
                let mut new = with_others(&after);
                new.retain(|own, _| Some(own) != key);
                for (id, selector) in selectors.iter().enumerate() {
                    let (matched, matches) = (selector.matches(&old), selector.matches(&new));
                    prop_assert!(matched == matches || affected.contains(&id), "{selector:?}");
                    prop_assert!(matched || !matches || entered.contains(&id), "{selector:?}");
                }
            }
        }

        #[test]
        fn only_selectors_that_a_changed_label_decides_about_are_affected(
            before in proptest::collection::btree_map("[abc]", "[xy]", 0..4),
            after in proptest::collection::btree_map("[abc]", "[xy]", 0..4),
            selector in selector(),
        ) {
            let mut matcher = Matcher::<u8, u8>::default();
            matcher.set_selector(&0, Some(selector.clone()));
            let change = LabelChange { before: &before, after: &after, removable: &BTreeSet::new() };
            let decides = ["a", "b", "c"].into_iter().any(|key| {
                let on_key: Selector = selector.clone().into_iter().filter(|other| key_of(other) == key).collect();
                on_key.matches(&before) != on_key.matches(&after)
            });
            prop_assert_eq!(!matcher.affected(&change, Effect::Any).is_empty(), decides);
        }

        #[test]
        fn reports_exactly_what_enters_and_leaves(edits in proptest::collection::vec(edit(), 1..40)) {
            let mut matcher = Matcher::<u8, u8>::default();
            let (mut objects, mut selectors) = (BTreeMap::new(), BTreeMap::new());
            let mut reported = BTreeSet::new();
            for edit in edits {
                match edit {
                    Edit::Object(id, labels) => {
                        let difference = matcher.set_object(&id, labels.clone());
                        reported.extend(difference.entered.into_iter().map(|selector| (selector, id)));
                        for selector in difference.left {
                            reported.remove(&(selector, id));
                        }
                        match labels {
                            Some(labels) => objects.insert(id, labels),
                            None => objects.remove(&id),
                        };
                    }
                    Edit::Selector(id, selector) => {
                        let difference = matcher.set_selector(&id, selector.clone());
                        reported.extend(difference.entered.into_iter().map(|object| (id, object)));
                        for object in difference.left {
                            reported.remove(&(id, object));
                        }
                        match selector {
                            Some(selector) => selectors.insert(id, selector),
                            None => selectors.remove(&id),
                        };
                    }
                }
                let naive: BTreeSet<(u8, u8)> = selectors
                    .iter()
                    .flat_map(|(s, selector)| {
                        objects.iter().filter(|(_, labels)| selector.matches(labels)).map(|(o, _)| (*s, *o))
                    })
                    .collect();
                prop_assert_eq!(&reported, &naive);
            }
            if objects.is_empty() {
                prop_assert!(matcher.carrying.is_empty());
            }
            if selectors.is_empty() {
                prop_assert!(matcher.by_anchor.is_empty() && matcher.mentioning.is_empty());
            }
        }
    }
}
