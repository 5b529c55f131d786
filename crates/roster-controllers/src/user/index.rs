//! Index of claims, password Secrets and owned namespaces, in compact records that metadata watches maintain.
//!
//! All functions are synchronous and pure. Functions that take an event return the names of the Users that it affects, found
//! by lookup and never by a scan over all Users.

use std::collections::{BTreeSet, HashMap, HashSet};

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use roster_api::user::PasswordSecretRef;
use roster_api::{OWNER_LABEL, User};
use roster_credentials::credential::SourceVersion;
use roster_credentials::record::{Claim, replaced_name, spare_name};
use roster_runtime::informers::follow::Relist;

/// Index of the objects that Users refer to.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Claims by name of the identity Secret.
    claims: HashMap<String, Claim>,
    /// Names of identity Secrets by UID of the User that holds them.
    held: HashMap<String, BTreeSet<String>>,
    /// Highest resourceVersion that the watch of identity Secrets has delivered. Older writes must not change the index.
    claims_seen: u64,
    /// Names of Users that wait for an identity Secret that another User holds.
    waiting: HashMap<String, BTreeSet<String>>,
    /// Names of the identity Secrets that a User waits for, by name of the User.
    waits_for: HashMap<String, BTreeSet<String>>,
    sources: HashMap<PasswordSecretRef, SourceVersion>,
    /// Names of the Users that refer to a password Secret.
    readers: HashMap<PasswordSecretRef, BTreeSet<String>>,
    reads: HashMap<String, PasswordSecretRef>,
    /// Names of owned namespaces by name of the owner.
    owned: HashMap<String, BTreeSet<String>>,
    owner_of: HashMap<String, String>,
    /// UIDs of Users by name.
    users: HashMap<String, String>,
    relists: Relists,
}

#[derive(Debug, Default)]
struct Relists {
    users: Relist<String>,
    claims: Relist<String>,
    /// Relists by the namespace of the watch. `None`: all namespaces.
    sources: HashMap<Option<String>, Relist<PasswordSecretRef>>,
    namespaces: Relist<String>,
}

impl Index {
    /// Applies a User event. Affects Users that wait for a claim of a deleted User.
    pub(super) fn user_event(&mut self, event: &Event<User>) -> Vec<String> {
        match event {
            Event::Init => self.relists.users.begin(),
            Event::InitApply(user) | Event::Apply(user) => {
                let name = user.name_any();
                self.relists.users.name(&name);
                self.set_reference(&name, user.spec.password_secret_ref.clone());
                if let Some(before) = self.users.insert(name, user.uid().unwrap_or_default())
                    && Some(&before) != user.uid().as_ref()
                {
                    return self.waiting_for_all_of(&before);
                }
            }
            Event::Delete(user) => return self.forget_user(&user.name_any()),
            Event::InitDone => {
                let gone = self.relists.users.finish(self.users.keys());
                let waiting: Vec<String> = gone.iter().flat_map(|name| self.forget_user(name)).collect();
                // The store replaces its content when the list is complete. Users that were reconciled before that were
                // reconciled with outdated objects.
                return waiting.into_iter().chain(self.users.keys().cloned()).collect();
            }
        }
        Vec::new()
    }

    fn forget_user(&mut self, name: &str) -> Vec<String> {
        self.set_reference(name, None);
        for claim in self.waits_for.remove(name).unwrap_or_default() {
            if let Some(waiting) = self.waiting.get_mut(&claim) {
                waiting.remove(name);
                if waiting.is_empty() {
                    self.waiting.remove(&claim);
                }
            }
        }
        self.users.remove(name).map_or_else(Vec::new, |uid| self.waiting_for_all_of(&uid))
    }

    /// Returns the Users that wait for the identity Secret and stops their waiting. Those that do not get it wait again.
    fn wake(&mut self, claim: &str) -> Vec<String> {
        let woken = self.waiting.remove(claim).unwrap_or_default();
        for name in &woken {
            if let Some(claims) = self.waits_for.get_mut(name) {
                claims.remove(claim);
                if claims.is_empty() {
                    self.waits_for.remove(name);
                }
            }
        }
        woken.into_iter().collect()
    }

    fn waiting_for_all_of(&mut self, uid: &str) -> Vec<String> {
        let held: Vec<String> = self.held.get(uid).into_iter().flatten().cloned().collect();
        held.iter().flat_map(|claim| self.wake(claim)).collect()
    }

    fn set_reference(&mut self, name: &str, reference: Option<PasswordSecretRef>) {
        if self.reads.get(name) == reference.as_ref() {
            return;
        }
        if let Some(before) = self.reads.remove(name)
            && let Some(readers) = self.readers.get_mut(&before)
        {
            readers.remove(name);
            if readers.is_empty() {
                self.readers.remove(&before);
            }
        }
        if let Some(reference) = reference {
            self.readers.entry(reference.clone()).or_default().insert(name.to_owned());
            self.reads.insert(name.to_owned(), reference);
        }
    }

    /// Returns whether the index has a User with this name and UID.
    pub(super) fn is_alive(&self, name: &str, uid: &str) -> bool {
        self.users.get(name).is_some_and(|known| known == uid)
    }

    /// Applies an identity Secret event. Affects its owner and, if it was deleted, the Users that wait for it.
    pub(super) fn claim_event(&mut self, event: Event<PartialObjectMeta<Secret>>) -> Vec<String> {
        if let Event::InitApply(secret) | Event::Apply(secret) | Event::Delete(secret) = &event {
            let version = secret.resource_version().and_then(|version| version.parse().ok());
            self.claims_seen = self.claims_seen.max(version.unwrap_or_default());
        }
        match event {
            Event::Init => self.relists.claims.begin(),
            Event::InitApply(secret) | Event::Apply(secret) => {
                let name = secret.name_any();
                self.relists.claims.name(&name);
                if let Some(claim) = Claim::read(secret.meta()) {
                    let owner = claim.owner.clone();
                    let is_orphan = owner.is_empty();
                    self.set_claim(name.clone(), claim);
                    // Without an owner, it is free for the Users that wait for it.
                    return if is_orphan { self.wake(&name) } else { vec![owner] };
                }
            }
            Event::Delete(secret) => return self.remove_claim(&secret.name_any(), &secret.uid().unwrap_or_default()),
            Event::InitDone => {
                let gone = self.relists.claims.finish(self.claims.keys());
                return gone
                    .iter()
                    .flat_map(|name| {
                        let uid = self.claims.get(name).map(|claim| claim.uid.clone()).unwrap_or_default();
                        self.remove_claim(name, &uid)
                    })
                    .collect();
            }
        }
        Vec::new()
    }

    /// Applies a written identity Secret, if it is newer than the watch.
    pub(super) fn written_claim(&mut self, name: String, claim: Claim) {
        if claim.resource_version > self.claims_seen {
            self.set_claim(name, claim);
        }
    }

    fn set_claim(&mut self, name: String, claim: Claim) {
        if let Some(known) = self.claims.get(&name) {
            if known.resource_version >= claim.resource_version {
                return;
            }
            if known.owner_uid != claim.owner_uid {
                self.unhold(&known.owner_uid.clone(), &name);
            }
        }
        self.held.entry(claim.owner_uid.clone()).or_default().insert(name.clone());
        self.claims.insert(name, claim);
    }

    /// Removes the claim of a deleted identity Secret. A new Secret with the same name and another UID stays.
    pub(super) fn remove_claim(&mut self, name: &str, uid: &str) -> Vec<String> {
        if self.claims.get(name).is_none_or(|claim| claim.uid != uid) {
            return Vec::new();
        }
        let claim = self.claims.remove(name).expect("looked up above");
        self.unhold(&claim.owner_uid, name);
        let mut concerned = self.wake(name);
        // Users that wait for an identity Secret that is being replaced also wait for its spare.
        concerned.extend(replaced_name(name).map(|replaced| self.wake(replaced)).unwrap_or_default());
        concerned.extend(Some(claim.owner).filter(|owner| !owner.is_empty()));
        concerned
    }

    fn unhold(&mut self, uid: &str, name: &str) {
        if let Some(held) = self.held.get_mut(uid) {
            held.remove(name);
            if held.is_empty() {
                self.held.remove(uid);
            }
        }
    }

    /// Returns the claim of an identity Secret.
    pub(super) fn claim(&self, name: &str) -> Option<&Claim> {
        self.claims.get(name)
    }

    /// Returns the claim of the spare, which exists while an identity Secret is replaced.
    pub(super) fn spare(&self, name: &str) -> Option<&Claim> {
        self.claims.get(&spare_name(name))
    }

    /// Returns the names of the identity Secrets that a User holds.
    pub(super) fn held_by(&self, uid: &str) -> impl Iterator<Item = &String> {
        self.held.get(uid).into_iter().flatten()
    }

    /// Returns name and UID of identity Secrets without an owner.
    pub(super) fn orphans(&self) -> impl Iterator<Item = (String, String)> {
        self.held
            .get("")
            .into_iter()
            .flatten()
            .filter_map(|name| Some((name.clone(), self.claims.get(name)?.uid.clone())))
    }

    /// Registers `user` to be queued when the identity Secret is released.
    pub(super) fn wait_for(&mut self, claim: &str, user: &str) {
        self.waiting.entry(claim.to_owned()).or_default().insert(user.to_owned());
        self.waits_for.entry(user.to_owned()).or_default().insert(claim.to_owned());
    }

    /// Applies a password Secret event. Affects the Users that refer to it. `scope` is the namespace of the watch: its list
    /// does not contain Secrets of other namespaces.
    pub(super) fn source_event(&mut self, scope: Option<&str>, event: Event<PartialObjectMeta<Secret>>) -> Vec<String> {
        let key = |secret: &PartialObjectMeta<Secret>| PasswordSecretRef {
            namespace: secret.namespace().unwrap_or_default(),
            name: secret.name_any(),
        };
        let relist = self.relists.sources.entry(scope.map(str::to_owned)).or_default();
        match event {
            Event::Init => relist.begin(),
            Event::InitApply(secret) | Event::Apply(secret) => {
                let key = key(&secret);
                relist.name(&key);
                if let Some(version) = SourceVersion::of(secret.meta()) {
                    let concerned = self.readers_of(&key);
                    self.sources.insert(key, version);
                    return concerned;
                }
            }
            Event::Delete(secret) => {
                let key = key(&secret);
                self.sources.remove(&key);
                return self.readers_of(&key);
            }
            Event::InitDone => {
                let in_scope = |key: &&PasswordSecretRef| scope.is_none_or(|scope| key.namespace == scope);
                let gone = relist.finish(self.sources.keys().filter(in_scope));
                return gone
                    .iter()
                    .flat_map(|key| {
                        self.sources.remove(key);
                        self.readers_of(key)
                    })
                    .collect();
            }
        }
        Vec::new()
    }

    fn readers_of(&self, key: &PasswordSecretRef) -> Vec<String> {
        self.readers.get(key).into_iter().flatten().cloned().collect()
    }

    /// Returns the version of a password Secret, if it exists with the right type.
    pub(super) fn source(&self, reference: &PasswordSecretRef) -> Option<&SourceVersion> {
        self.sources.get(reference)
    }

    /// Applies a Namespace event. Affects the previous and the new owner.
    pub(super) fn namespace_event(&mut self, event: Event<PartialObjectMeta<Namespace>>) -> Vec<String> {
        match event {
            Event::Init => self.relists.namespaces.begin(),
            Event::InitApply(namespace) | Event::Apply(namespace) => {
                let name = namespace.name_any();
                self.relists.namespaces.name(&name);
                let owner = namespace.labels().get(OWNER_LABEL).cloned();
                return self.set_owner(&name, owner);
            }
            Event::Delete(namespace) => return self.set_owner(&namespace.name_any(), None),
            Event::InitDone => {
                let gone = self.relists.namespaces.finish(self.owner_of.keys());
                return gone.iter().flat_map(|name| self.set_owner(name, None)).collect();
            }
        }
        Vec::new()
    }

    fn set_owner(&mut self, namespace: &str, owner: Option<String>) -> Vec<String> {
        let before = self.owner_of.get(namespace).cloned();
        if before == owner {
            return Vec::new();
        }
        if let Some(before) = &before
            && let Some(owned) = self.owned.get_mut(before)
        {
            owned.remove(namespace);
            if owned.is_empty() {
                self.owned.remove(before);
            }
        }
        match &owner {
            Some(owner) => {
                self.owned.entry(owner.clone()).or_default().insert(namespace.to_owned());
                self.owner_of.insert(namespace.to_owned(), owner.clone());
            }
            None => {
                self.owner_of.remove(namespace);
            }
        }
        let concerned: HashSet<String> = before.into_iter().chain(owner).collect();
        concerned.into_iter().collect()
    }

    /// Returns the namespaces that a User owns.
    pub(super) fn namespaces_of(&self, user: &str) -> impl ExactSizeIterator<Item = &String> {
        static NONE: BTreeSet<String> = BTreeSet::new();
        self.owned.get(user).unwrap_or(&NONE).iter()
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
