//! Privilege escalation guard: checks writes to Users, Groups, Namespaces and password Secrets with
//! [`roster_core::rbac::guard`]. Fails closed.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};
use kube::{Client, Resource, ResourceExt};
use roster_api::{Group, LOCKED_BY_ANNOTATION, OWNER_LABEL, PASSWORD_SECRET_TYPE, USER_ANNOTATION, User, UserSpec};
use roster_core::directory::Directory;
use roster_core::directory::labels::Labels;
use roster_core::rbac::Policy;
use roster_core::rbac::conflict::{Conflict, of_namespace, of_user};
use roster_core::rbac::guard::{GuardedChange, cycle, requirements};
use roster_core::rbac::managers::made_up;
use roster_core::rbac::ownership::{Ownership, changed_mark, may_be_garbage_collected};
use roster_core::rbac::requirement::{AffectedIdentity, Denial, Requirement, RequirementReason, Requirements};
use roster_runtime::informers::Informers;
use serde::Serialize;
use tracing::{info, warn};

use super::access::AccessReviewer;

/// Allows or denies writes, depending on the roles that they grant.
pub struct Guard {
    informers: Arc<Informers>,
    policy: Policy,
    access: AccessReviewer,
    /// Username of the operator's own ServiceAccount.
    operator: String,
}

/// A write of a guarded object.
pub struct GuardedWrite<'a, K> {
    old: Option<&'a K>,
    new: Option<&'a K>,
    ownership: Ownership<'a>,
}

impl<'a, K: Guarded> GuardedWrite<'a, K> {
    /// Compares two versions of an object. `old` is `None` for a create, `new` for a delete. For large objects, this takes
    /// time. It needs no directory, which is locked while it is used.
    pub fn new(old: Option<&'a K>, new: Option<&'a K>) -> Self {
        Self { old, new, ownership: K::ownership(old, new) }
    }

    /// Returns why the write is denied to all requesters except those that may bind every role. `requester` is the User that
    /// makes it; `None` if the requester is not a User.
    pub fn conflict(&self, directory: &Directory, policy: &Policy, requester: Option<&str>) -> Option<Conflict> {
        let unreadable =
            self.ownership.unreadable_manifest().map(|annotation| Conflict::UnreadableManifest(annotation.to_owned()));
        let made_up = || K::made_up_manager(self.old, self.new?).map(|name| Conflict::MadeUpManager(name.to_owned()));
        unreadable
            .or_else(made_up)
            .or_else(|| K::conflict(self.old, self.new?, &self.context(directory, policy, requester)))
    }

    /// Returns what the requester must be able to bind to make this write.
    pub fn requirements(&self, directory: &Directory, policy: &Policy, requester: Option<&str>) -> Requirements {
        K::requirements(self.old, self.new, &self.context(directory, policy, requester))
    }

    fn context<'c>(
        &'c self,
        directory: &'c Directory,
        policy: &'c Policy,
        requester: Option<&'c str>,
    ) -> GuardContext<'c> {
        GuardContext { directory, policy, ownership: &self.ownership, requester }
    }
}

/// Context for judging a write.
pub struct GuardContext<'a> {
    /// The directory at the time of the request.
    directory: &'a Directory,
    /// How roles are bound in this cluster.
    policy: &'a Policy,
    /// Who owns the fields of the object.
    ownership: &'a Ownership<'a>,
    /// The User that makes the write; `None` if the requester is not a User.
    requester: Option<&'a str>,
}

impl GuardContext<'_> {
    fn required(&self, change: &GuardedChange<'_>) -> Requirements {
        requirements(change, self.ownership, self.directory, self.policy)
    }
}

/// A kind of object whose writes are guarded.
pub trait Guarded: kube::Resource<DynamicType = ()> + Serialize + Sized {
    /// Returns what the requester must be able to bind to make this change. `old` is `None` for a create, `new` for a
    /// delete.
    fn requirements(old: Option<&Self>, new: Option<&Self>, known: &GuardContext<'_>) -> Requirements;

    /// Compares who owns the fields of the object.
    fn ownership<'a>(old: Option<&'a Self>, new: Option<&'a Self>) -> Ownership<'a> {
        Ownership::between(old.map(Resource::meta), new.map(Resource::meta))
    }

    /// Returns a field manager that kube-apiserver has not written.
    fn made_up_manager<'a>(old: Option<&'a Self>, new: &'a Self) -> Option<&'a str> {
        made_up(old, new, Timestamp::now())
    }

    /// Returns whether the operator makes this change on behalf of a requester whose rights it has already checked.
    fn is_already_checked(_old: &Self, _new: &Self) -> bool {
        false
    }

    /// Returns why this write is denied to all requesters except those that may bind every role. `None` if it is not.
    fn conflict(_old: Option<&Self>, _new: &Self, _known: &GuardContext<'_>) -> Option<Conflict> {
        None
    }
}

impl Guarded for User {
    fn requirements(old: Option<&Self>, new: Option<&Self>, known: &GuardContext<'_>) -> Requirements {
        known.required(&GuardedChange::User(old, new))
    }

    /// Renames go through the directory API, which checks the requester.
    fn is_already_checked(old: &Self, new: &Self) -> bool {
        let renamed = UserSpec { username: new.spec.username.clone(), ..old.spec.clone() };
        renamed == new.spec && old.labels() == new.labels()
    }

    fn conflict(old: Option<&Self>, new: &Self, known: &GuardContext<'_>) -> Option<Conflict> {
        of_user(old, new, known.directory)
    }
}

impl Guarded for Group {
    fn requirements(old: Option<&Self>, new: Option<&Self>, known: &GuardContext<'_>) -> Requirements {
        known.required(&GuardedChange::Group(old, new))
    }
}

impl Guarded for Namespace {
    fn requirements(old: Option<&Self>, new: Option<&Self>, known: &GuardContext<'_>) -> Requirements {
        let Some(new) = new else { return Requirements::new() };
        let (name, by) = (new.metadata.name.as_deref(), known.requester);
        let mut required = known.required(&GuardedChange::Namespace {
            name,
            old: old.map(ResourceExt::labels),
            new: new.labels(),
            removable: &known.ownership.removable_labels(),
            by,
        });
        if let Some(without) = old.and_then(|_| without_owner(new, known.ownership)) {
            required.extend(known.required(&GuardedChange::Namespace {
                name,
                old: Some(new.labels()),
                new: &without,
                removable: &BTreeSet::new(),
                by,
            }));
        }
        // What others put into a new Namespace would be deleted with it.
        let collected = may_be_garbage_collected(old.map(Resource::meta), &new.metadata);
        let owners = collected.then(|| "metadata.ownerReferences".to_owned());
        if let Some(mark) = owners.or_else(|| changed_mark(&old?.metadata, &new.metadata)) {
            let name = new.name_any();
            let identity = AffectedIdentity::named(format!("Namespace {name}"));
            required.insert(Requirement::DeleteNamespace(name), RequirementReason { identity, by: mark });
        }
        required
    }

    fn conflict(old: Option<&Self>, new: &Self, known: &GuardContext<'_>) -> Option<Conflict> {
        let conflict = |labels: &Labels| of_namespace(labels, known.requester, known.directory, known.policy);
        let username = known.requester.and_then(|by| known.directory.user(by)).map(|user| user.username.as_str());
        let holder = old.and_then(|old| old.annotations().get(LOCKED_BY_ANNOTATION)).map(String::as_str);
        if known.ownership.transfers_lock() && (holder.is_none() || holder != username) {
            return Some(Conflict::LockOwnership);
        }
        let Some(old) = old else { return conflict(new.labels()) };
        if let Some(without) = without_owner(new, known.ownership) {
            return conflict(&without);
        }
        (old.labels().get(OWNER_LABEL) != new.labels().get(OWNER_LABEL)).then(|| conflict(new.labels())).flatten()
    }
}

/// Returns the labels of a Namespace without its owner, if a change lets tools remove that label.
fn without_owner(new: &Namespace, ownership: &Ownership<'_>) -> Option<Labels> {
    let is_owned = new.labels().contains_key(OWNER_LABEL);
    (is_owned && ownership.may_lose_label(OWNER_LABEL)).then(|| {
        let mut without = new.labels().clone();
        without.remove(OWNER_LABEL);
        without
    })
}

impl Guarded for Secret {
    fn requirements(old: Option<&Self>, new: Option<&Self>, known: &GuardContext<'_>) -> Requirements {
        // Deleting a Secret changes no password: the User keeps the last valid one.
        let Some(new) = new.filter(|new| new.type_.as_deref() == Some(PASSWORD_SECRET_TYPE)) else {
            return Requirements::new();
        };
        let user = |secret: &Self| secret.annotations().get(USER_ANNOTATION).cloned();
        // An immutable Secret keeps its content: the User could no longer get another password by it.
        let is_immutable = |secret: &Self| secret.immutable.unwrap_or_default();
        if old
            .is_some_and(|old| old.data == new.data && user(old) == user(new) && is_immutable(old) == is_immutable(new))
        {
            return Requirements::new();
        }
        let users: BTreeSet<String> = old.into_iter().chain([new]).filter_map(user).collect();
        known.required(&GuardedChange::Credential(users.iter().map(String::as_str).collect()))
    }

    /// No tool can remove a part of a password Secret that matters.
    fn ownership<'a>(_old: Option<&'a Self>, _new: Option<&'a Self>) -> Ownership<'a> {
        Ownership::default()
    }

    fn made_up_manager<'a>(_old: Option<&'a Self>, _new: &'a Self) -> Option<&'a str> {
        None
    }
}

/// Why a change can't be judged.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The directory may be out of date.
    #[error("a watch of the directory is failing")]
    WatchFailing,
    /// kube-apiserver rejects a SubjectAccessReview or does not answer.
    #[error(transparent)]
    Review(#[from] kube::Error),
}

/// Result of judging a request.
enum Verdict {
    Allowed,
    Refused(String),
    /// The check failed. Holds the reason.
    Unknown(String),
}

impl Guard {
    /// Creates a guard that uses the directory of `informers`, and sends reviews to kube-apiserver through `client`.
    /// `operator` is the operator's username.
    pub fn new(client: Client, operator: String, informers: Arc<Informers>, policy: Policy) -> Self {
        Self { informers, policy, access: AccessReviewer::new(client), operator }
    }

    /// Answers an admission request. Also returns the metric label.
    pub async fn judge<K>(&self, request: &AdmissionRequest<K>) -> (&'static str, AdmissionResponse)
    where
        K: Guarded + kube::core::Resource<DynamicType = ()>,
    {
        let response = AdmissionResponse::from(request);
        match self.verdict(request).await {
            Verdict::Allowed => ("allowed", response),
            Verdict::Refused(refusal) => {
                let requester = request.user_info.username.as_deref();
                info!(kind = %request.kind.kind, name = request.name, requester, refusal, "guard denied a write");
                ("refused", with_code(response.deny(format!("the guard: {refusal}")), 403, "Forbidden"))
            }
            Verdict::Unknown(why) => {
                warn!(kind = %request.kind.kind, name = request.name, why, "guard could not decide on a write");
                let response = response.deny(format!("the guard can't decide this at the moment: {why}"));
                ("failed", with_code(response, 503, "ServiceUnavailable"))
            }
        }
    }

    async fn verdict<K: Guarded>(&self, request: &AdmissionRequest<K>) -> Verdict {
        if !self.informers.is_synced() {
            return Verdict::Unknown("the informers have not synced yet".to_owned());
        }
        if self.informers.is_failing() {
            return Verdict::Unknown(JudgeError::WatchFailing.to_string());
        }
        let (old, new) = match request.operation {
            Operation::Delete => (request.old_object.as_ref(), None),
            Operation::Create | Operation::Update | Operation::Connect => {
                (request.old_object.as_ref(), request.object.as_ref())
            }
        };
        if old.is_none() && new.is_none() {
            return Verdict::Unknown("the review contains no object".to_owned());
        }
        if request.user_info.username.as_ref() == Some(&self.operator)
            && old.zip(new).is_some_and(|(old, new)| K::is_already_checked(old, new))
        {
            return Verdict::Allowed;
        }
        // Large groups take time, so let other tasks run.
        let judged = tokio::task::block_in_place(|| {
            let write = GuardedWrite::new(old, new);
            let directory = self.informers.directory();
            let requester = self.informers.requester(&directory, &request.user_info);
            match write.conflict(&directory, &self.policy, requester) {
                Some(conflict) => Err(conflict),
                None => Ok(write.requirements(&directory, &self.policy, requester)),
            }
        });
        let required = match judged {
            Ok(required) => required,
            // Requesters that may bind every role are allowed.
            Err(conflict) => match self.access.may_bind_everything(&request.user_info).await {
                Ok(true) => return Verdict::Allowed,
                Ok(false) => return self.refuse(&request.user_info, &conflict).await,
                Err(error) => return Verdict::Unknown(error.to_string()),
            },
        };
        match self.access.first_refused(&request.user_info, required).await {
            Ok(None) => Verdict::Allowed,
            Ok(Some(refused)) => self.refuse(&request.user_info, &refused).await,
            Err(error) => Verdict::Unknown(error.to_string()),
        }
    }

    async fn refuse(&self, requester: &UserInfo, denial: &impl Denial) -> Verdict {
        self.explain(requester, denial).await.map_or_else(|error| Verdict::Unknown(error.to_string()), Verdict::Refused)
    }

    /// Returns the text of a denial. It names other Users, roles, bindings and groups only to requesters that may list
    /// Users. Otherwise, anyone who may write a User or a password Secret could find out who has which name or role.
    ///
    /// # Errors
    /// If kube-apiserver does not respond.
    pub async fn explain(&self, requester: &UserInfo, denial: &impl Denial) -> kube::Result<String> {
        let (full, short) = (denial.to_string(), denial.without_details());
        if full == short || self.access.may_list_users(requester).await? {
            return Ok(full);
        }
        info!(requester = requester.username, refusal = full, "withheld the details of a denial");
        Ok(short)
    }

    /// Returns why a requester may not make a change that is not an admission request; `None` if they may.
    ///
    /// # Errors
    /// If the change can't be judged.
    pub async fn refusal(
        &self,
        requester: &UserInfo,
        change: &GuardedChange<'_>,
    ) -> Result<Option<String>, JudgeError> {
        if self.informers.is_failing() {
            return Err(JudgeError::WatchFailing);
        }
        let required = tokio::task::block_in_place(|| {
            let ownership = change.ownership();
            requirements(change, &ownership, &self.informers.directory(), &self.policy)
        });
        let Some(refused) = self.access.first_refused(requester, required).await? else { return Ok(None) };
        Ok(Some(self.explain(requester, &refused).await?))
    }

    /// Denies a Group that would close a cycle. The graph tolerates cycles; this reports them early.
    pub fn refuse_cycle(&self, request: &AdmissionRequest<Group>) -> (&'static str, AdmissionResponse) {
        let response = AdmissionResponse::from(request);
        let found = request.object.as_ref().and_then(|group| cycle(group, &self.informers.directory()));
        let Some(path) = found else { return ("allowed", response) };
        let message = format!("spec.memberGroups: would close the cycle {}", path.join(" ⊇ "));
        ("refused", with_code(response.deny(message), 422, "Invalid"))
    }
}

/// Sets the HTTP status code and reason of a response.
pub fn with_code(mut response: AdmissionResponse, code: u16, reason: &str) -> AdmissionResponse {
    response.result.code = code;
    response.result.reason = reason.to_owned();
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    /// The garbage collector deletes a Namespace whose owner does not exist, and the bindings in it.
    #[test]
    fn i4_owner_references_of_a_namespace_require_its_deletion() {
        let (directory, policy) = (Directory::new(false), Policy::default());
        let mut old = Namespace::default();
        old.metadata.name = Some("apollo".to_owned());
        let mut owned = old.clone();
        owned.metadata.owner_references =
            Some(vec![OwnerReference { uid: "x".to_owned(), ..OwnerReference::default() }]);
        let required = |old: Option<&Namespace>, new: &Namespace| -> Vec<Requirement> {
            GuardedWrite::new(old, Some(new)).requirements(&directory, &policy, None).into_keys().collect()
        };
        let deletion = [Requirement::DeleteNamespace("apollo".to_owned())];
        assert_eq!(required(Some(&old), &owned), deletion);
        assert_eq!(required(None, &owned), deletion);
        assert_eq!(required(None, &old), []);
        assert_eq!(required(Some(&owned), &owned), []);
        assert_eq!(required(Some(&owned), &old), []);
    }
}
