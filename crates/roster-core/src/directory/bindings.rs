//! Index of Roster's own RoleBindings and the namespaces that they apply to, by everything that can change how they
//! compile.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{Expression, Selector};
use kube::{Resource, ResourceExt};
use roster_api::role_binding::{RoleRef, Subject, SubjectKind};
use roster_api::{DOMAIN_LABEL, LOCKED_BY_ANNOTATION, RoleBinding, Validity};

use super::labels::{Effect, LabelChange, Labels, Matcher};
use super::names::NamesBy;

/// Scope of a binding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scope {
    /// The whole cluster.
    Cluster,
    /// These namespaces.
    Namespaces(BTreeSet<String>),
    /// Every namespace with matching labels, including future ones.
    Selector(Selector),
}

/// Declared contents of a RoleBinding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Binding {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// Whether it is being deleted.
    pub is_deleted: bool,
    /// Subjects: Users and Groups by their `metadata.name`.
    pub subjects: BTreeSet<Subject>,
    /// The bound role.
    pub role: RoleRef,
    /// Where the binding applies.
    pub scope: Scope,
    /// When the binding applies.
    pub validity: Validity,
    /// The User, by `metadata.name`, who must hold the role for the binding to apply.
    pub delegated_by: Option<String>,
}

impl Binding {
    /// Returns the names of the groups among the subjects.
    pub(super) fn groups(&self) -> impl Iterator<Item = &String> {
        self.subjects.iter().filter(|subject| subject.kind == SubjectKind::Group).map(|group| &group.name)
    }

    /// Reads a RoleBinding. An invalid scope, which the schema rejects, applies nowhere.
    pub fn of(binding: &RoleBinding) -> Self {
        let spec = &binding.spec;
        let scope =
            match (&spec.scope.cluster, &spec.scope.namespaces, &spec.scope.namespace_selector, &spec.scope.domain) {
                (Some(_), None, None, None) => Scope::Cluster,
                (None, Some(namespaces), None, None) => Scope::Namespaces(namespaces.iter().cloned().collect()),
                (None, None, Some(selector), None) => {
                    selector.clone().try_into().map_or(Scope::Namespaces(BTreeSet::new()), Scope::Selector)
                }
                (None, None, None, Some(domain)) => {
                    Scope::Selector(Expression::Equal(DOMAIN_LABEL.to_owned(), domain.clone()).into())
                }
                _ => Scope::Namespaces(BTreeSet::new()),
            };
        Self {
            name: binding.name_any(),
            uid: binding.uid().unwrap_or_default(),
            generation: binding.metadata.generation,
            is_deleted: binding.meta().deletion_timestamp.is_some(),
            subjects: spec.subjects.iter().cloned().collect(),
            role: spec.role_ref.clone(),
            scope,
            validity: spec.validity.clone().unwrap_or_default(),
            delegated_by: spec.delegated_by.clone(),
        }
    }
}

/// State of a Namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamespaceState {
    /// Its labels.
    pub labels: Labels,
    /// Whether it is being deleted, so that nothing can be created in it.
    pub is_terminating: bool,
    /// Username of the lock's owner; `None` if it is not locked.
    pub locked_by: Option<String>,
}

impl NamespaceState {
    /// Reads the metadata of a Namespace.
    pub fn of(metadata: &ObjectMeta) -> Self {
        let annotations = metadata.annotations.as_ref();
        Self {
            labels: metadata.labels.clone().unwrap_or_default(),
            is_terminating: metadata.deletion_timestamp.is_some(),
            locked_by: annotations
                .and_then(|annotations| annotations.get(LOCKED_BY_ANNOTATION))
                .filter(|holder| !holder.is_empty())
                .cloned(),
        }
    }
}

/// All RoleBindings of Roster and all namespaces.
#[derive(Debug, Default)]
pub struct Bindings {
    all: HashMap<String, Binding>,
    by_uid: HashMap<String, String>,
    by_subject: NamesBy<Subject>,
    by_role: NamesBy<RoleRef>,
    by_delegator: NamesBy<String>,
    /// Bindings that list the namespace by name.
    by_namespace: NamesBy<String>,
    matcher: Matcher<String, String>,
    /// Namespaces that the binding's selector matches.
    matched: NamesBy<String>,
    terminating: BTreeSet<String>,
    /// Username of the lock's owner, by namespace.
    locks: HashMap<String, String>,
    /// Locked namespaces, by username of the lock's owner.
    locked: NamesBy<String>,
}

impl Bindings {
    /// Adds or replaces a binding. Returns the previous one.
    pub fn set(&mut self, binding: Binding) -> Option<Binding> {
        let before = self.take(&binding.name);
        let name = &binding.name;
        for subject in &binding.subjects {
            self.by_subject.insert(subject.clone(), name);
        }
        self.by_role.insert(binding.role.clone(), name);
        self.by_uid.insert(binding.uid.clone(), name.clone());
        if let Some(delegator) = &binding.delegated_by {
            self.by_delegator.insert(delegator.clone(), name);
        }
        if let Scope::Namespaces(namespaces) = &binding.scope {
            for namespace in namespaces {
                self.by_namespace.insert(namespace.clone(), name);
            }
        }
        let selector = match &binding.scope {
            Scope::Selector(selector) => Some(selector.clone()),
            Scope::Cluster | Scope::Namespaces(_) => None,
        };
        self.set_selector(&name.clone(), selector);
        self.all.insert(name.clone(), binding);
        before
    }

    /// Removes and returns a binding.
    pub fn remove(&mut self, name: &str) -> Option<Binding> {
        self.set_selector(name, None);
        self.take(name)
    }

    fn take(&mut self, name: &str) -> Option<Binding> {
        let binding = self.all.remove(name)?;
        for subject in &binding.subjects {
            self.by_subject.remove(subject.clone(), name);
        }
        self.by_role.remove(binding.role.clone(), name);
        self.by_uid.remove(&binding.uid);
        if let Some(delegator) = &binding.delegated_by {
            self.by_delegator.remove(delegator.clone(), name);
        }
        if let Scope::Namespaces(namespaces) = &binding.scope {
            for namespace in namespaces {
                self.by_namespace.remove(namespace.clone(), name);
            }
        }
        Some(binding)
    }

    fn set_selector(&mut self, name: &str, selector: Option<Selector>) {
        let difference = self.matcher.set_selector(&name.to_owned(), selector);
        for namespace in difference.left {
            self.matched.remove(name.to_owned(), &namespace);
        }
        for namespace in difference.entered {
            self.matched.insert(name.to_owned(), &namespace);
        }
    }

    /// Adds, updates or removes a namespace. Returns the affected bindings.
    pub fn set_namespace(&mut self, namespace: &str, state: Option<NamespaceState>) -> BTreeSet<String> {
        let existed = self.has_namespace(namespace);
        let is_terminating = state.as_ref().is_some_and(|state| state.is_terminating);
        let was_terminating = self.terminating.contains(namespace);
        if is_terminating {
            self.terminating.insert(namespace.to_owned());
        } else {
            self.terminating.remove(namespace);
        }
        let exists = state.is_some();
        self.set_lock(namespace, state.as_ref().and_then(|state| state.locked_by.clone()));
        let difference = self.matcher.set_object(&namespace.to_owned(), state.map(|state| state.labels));
        for binding in &difference.left {
            self.matched.remove(binding.clone(), namespace);
        }
        for binding in &difference.entered {
            self.matched.insert(binding.clone(), namespace);
        }
        let mut affected: BTreeSet<String> = difference.left.into_iter().chain(difference.entered).collect();
        if existed != exists || is_terminating != was_terminating {
            affected.extend(self.by_namespace.get(namespace).cloned());
        }
        if is_terminating != was_terminating
            && let Some(labels) = self.matcher.labels(&namespace.to_owned())
        {
            affected.extend(self.matcher.selectors_of(&labels));
        }
        affected
    }

    fn set_lock(&mut self, namespace: &str, holder: Option<String>) {
        if let Some(before) = self.locks.remove(namespace) {
            self.locked.remove(before, namespace);
        }
        if let Some(holder) = holder {
            self.locked.insert(holder.clone(), namespace);
            self.locks.insert(namespace.to_owned(), holder);
        }
    }

    /// Returns the username of the owner of the namespace's lock.
    pub fn locked_by(&self, namespace: &str) -> Option<&String> {
        self.locks.get(namespace)
    }

    /// Returns the namespaces that this username has locked.
    pub fn locked(&self, username: &str) -> impl Iterator<Item = &String> {
        self.locked.get(username)
    }

    /// Returns the namespaces that carry this label.
    pub fn labelled(&self, key: &str, value: &str) -> BTreeSet<String> {
        self.matcher.labelled(key, value).cloned().collect()
    }

    /// Returns the value of a label of the namespace.
    pub fn label_of(&self, namespace: &str, key: &str) -> Option<&str> {
        self.matcher.label(&namespace.to_owned(), key)
    }

    /// Returns the binding with that name.
    pub fn get(&self, name: &str) -> Option<&Binding> {
        self.all.get(name)
    }

    /// Returns the binding with that UID.
    pub fn by_uid(&self, uid: &str) -> Option<&Binding> {
        self.by_uid.get(uid).and_then(|name| self.all.get(name))
    }

    /// Returns the names of all bindings.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.all.keys()
    }

    /// Returns the bindings that name the subject.
    pub fn of_subject(&self, subject: &Subject) -> impl Iterator<Item = &Binding> {
        self.by_subject.get(subject).filter_map(|name| self.all.get(name))
    }

    /// Returns the names of the bindings to a role.
    pub fn of_role(&self, role: &RoleRef) -> impl Iterator<Item = &String> {
        self.by_role.get(role)
    }

    /// Returns the names of the bindings that this User delegates.
    pub fn of_delegator(&self, user: &str) -> impl Iterator<Item = &String> {
        self.by_delegator.get(user)
    }

    /// Returns the names of all Users that delegate something.
    pub fn delegators(&self) -> impl ExactSizeIterator<Item = &String> {
        self.by_delegator.keys()
    }

    /// Returns the namespaces where the binding currently applies; `None` is the whole cluster.
    pub fn targets(&self, binding: &Binding) -> Vec<Option<String>> {
        match &binding.scope {
            Scope::Cluster => vec![None],
            Scope::Namespaces(namespaces) => namespaces.iter().cloned().map(Some).collect(),
            Scope::Selector(_) => self.matched.get(binding.name.as_str()).cloned().map(Some).collect(),
        }
    }

    /// Returns the bindings of whose `namespaceSelector` a change of a Namespace's labels affects a condition.
    pub fn affected(&self, change: &LabelChange<'_>, counts: Effect) -> BTreeSet<String> {
        self.matcher.affected(change, counts)
    }

    /// Returns whether the Namespace exists.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.matcher.has(&namespace.to_owned())
    }

    /// Returns whether the Namespace is being deleted.
    pub fn is_terminating(&self, namespace: &str) -> bool {
        self.terminating.contains(namespace)
    }

    /// Returns the names of all namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &String> {
        self.matcher.objects()
    }
}
