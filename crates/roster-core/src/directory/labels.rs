//! Label selectors and the objects that they match, indexed both ways: a change of an object's labels visits only the
//! selectors that ask for one of them, and a change of a selector only the objects that carry what it asks for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use kube::core::{Expression, Selector, SelectorExt};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Stored labels in key order. Keys are shared by all objects that carry them, and so are the values of a key.
type InternedLabels = Box<[(Arc<str>, Arc<str>)]>;

/// What an object must carry before a selector is tried on it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Anchor {
    /// One of these values under the key.
    Pair(String, String),
    /// Any value under the key.
    Key(String),
    /// Nothing: the selector must be tried on every object.
    Anything,
}

/// Index of selectors (keyed by `S`) and objects (keyed by `O`).
#[derive(Debug)]
pub struct Matcher<S, O> {
    selectors: HashMap<S, Selector>,
    by_anchor: HashMap<Anchor, HashSet<S>>,
    objects: HashMap<O, InternedLabels>,
    carrying: HashMap<Arc<str>, HashMap<Arc<str>, HashSet<O>>>,
}

impl<S, O> Default for Matcher<S, O> {
    fn default() -> Self {
        Self { selectors: HashMap::new(), by_anchor: HashMap::new(), objects: HashMap::new(), carrying: HashMap::new() }
    }
}

/// Matches gained and lost by a change.
#[derive(Debug, Eq, PartialEq)]
pub struct Difference<T: Ord> {
    /// Matches now and did not before.
    pub entered: BTreeSet<T>,
    /// Matched before and does not now.
    pub left: BTreeSet<T>,
}

impl<S: Clone + Eq + Hash + Ord, O: Clone + Eq + Hash + Ord> Matcher<S, O> {
    /// Adds, updates or removes an object. Returns the selectors that it entered and left.
    pub fn set_object(&mut self, object: &O, labels: Option<Labels>) -> Difference<S> {
        let before = self.labels(object);
        if before == labels {
            return Difference { entered: BTreeSet::new(), left: BTreeSet::new() };
        }
        let was = before.as_ref().map(|labels| self.selectors_of(labels)).unwrap_or_default();
        let is = labels.as_ref().map(|labels| self.selectors_of(labels)).unwrap_or_default();
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
        Difference { entered: &is - &was, left: &was - &is }
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
        if self.selectors.get(id) == selector.as_ref() {
            return Difference { entered: BTreeSet::new(), left: BTreeSet::new() };
        }
        let was = self.selectors.get(id).map(|selector| self.objects_of(selector)).unwrap_or_default();
        let is = selector.as_ref().map(|selector| self.objects_of(selector)).unwrap_or_default();
        if let Some(before) = self.selectors.remove(id) {
            for anchor in anchors(&before) {
                if let Some(selectors) = self.by_anchor.get_mut(&anchor) {
                    selectors.remove(id);
                    if selectors.is_empty() {
                        self.by_anchor.remove(&anchor);
                    }
                }
            }
        }
        if let Some(selector) = selector {
            for anchor in anchors(&selector) {
                self.by_anchor.entry(anchor).or_default().insert(id.clone());
            }
            self.selectors.insert(id.clone(), selector);
        }
        Difference { entered: &is - &was, left: &was - &is }
    }

    /// Returns whether the selector exists.
    pub fn has_selector(&self, id: &S) -> bool {
        self.selectors.contains_key(id)
    }

    /// Returns the selector with that id.
    pub fn selector(&self, id: &S) -> Option<&Selector> {
        self.selectors.get(id)
    }

    /// Returns the ids of all selectors.
    pub fn selectors(&self) -> impl Iterator<Item = &S> {
        self.selectors.keys()
    }

    /// Returns the selectors that match these labels.
    pub fn selectors_of(&self, labels: &Labels) -> BTreeSet<S> {
        self.candidates(labels).filter(|id| self.selectors[*id].matches(labels)).cloned().collect()
    }

    /// Returns the selectors that [`Matcher::selectors_of`] tries on these labels.
    pub fn candidates<'a>(&'a self, labels: &Labels) -> impl Iterator<Item = &'a S> {
        let pairs = labels.iter().map(|(key, value)| Anchor::Pair(key.clone(), value.clone()));
        let keys = labels.keys().map(|key| Anchor::Key(key.clone()));
        let anchors = pairs.chain(keys).chain([Anchor::Anything]);
        anchors.filter_map(|anchor| self.by_anchor.get(&anchor)).flatten()
    }

    /// Returns the objects that the selector matches.
    pub fn objects_of(&self, selector: &Selector) -> BTreeSet<O> {
        let expressions = selector.clone().into_iter().collect::<Vec<_>>();
        let matches = |object: &&O| {
            let kept = &self.objects[*object];
            expressions.iter().all(|expression| is_met(expression, kept))
        };
        let anchors = anchors(selector);
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

/// Own implementation because the one of `kube` takes a map, which would have to be built for each object.
fn is_met(expression: &Expression, labels: &InternedLabels) -> bool {
    match expression {
        Expression::In(key, values) => value(labels, key).is_some_and(|value| values.contains(value)),
        Expression::NotIn(key, values) => value(labels, key).is_none_or(|value| !values.contains(value)),
        Expression::Equal(key, sought) => value(labels, key) == Some(sought),
        Expression::NotEqual(key, sought) => value(labels, key) != Some(sought),
        Expression::Exists(key) => value(labels, key).is_some(),
        Expression::DoesNotExist(key) => value(labels, key).is_none(),
    }
}

/// Returns the shared copy of a text, or a new one.
fn shared<V>(texts: &HashMap<Arc<str>, V>, text: &str) -> Arc<str> {
    texts.get_key_value(text).map_or_else(|| text.into(), |(known, _)| Arc::clone(known))
}

/// Returns anchors of which every matching object carries at least one. One expression of the selector suffices.
fn anchors(selector: &Selector) -> Vec<Anchor> {
    let of = |expression: Expression| match expression {
        Expression::Equal(key, value) => Some(vec![Anchor::Pair(key, value)]),
        Expression::In(key, values) => Some(values.into_iter().map(|value| Anchor::Pair(key.clone(), value)).collect()),
        Expression::Exists(key) => Some(vec![Anchor::Key(key)]),
        Expression::NotIn(..) | Expression::NotEqual(..) | Expression::DoesNotExist(_) => None,
    };
    let narrowest = selector.clone().into_iter().filter_map(of).min_by_key(|anchors| match &anchors[..] {
        [Anchor::Key(_)] => usize::MAX,
        pairs => pairs.len(),
    });
    narrowest.unwrap_or_else(|| vec![Anchor::Anything])
}

#[cfg(test)]
mod tests {
    use super::*;
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
                prop_assert!(matcher.by_anchor.is_empty());
            }
        }
    }
}
