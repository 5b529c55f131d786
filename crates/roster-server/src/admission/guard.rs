//! The guard at the door: judges writes of Users, Groups, Namespaces and password Secrets by
//! [`roster_core::rbac::guard`]. What it can't judge it refuses.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};
use kube::{Client, ResourceExt};
use roster_api::{Group, OWNER_LABEL, PASSWORD_SECRET_TYPE, USER_ANNOTATION, User, UserSpec};
use roster_core::directory::Directory;
use roster_core::rbac::Policy;
use roster_core::rbac::guard::{Change, cycle, mistakable, requirements, taken, uncounted, worn_out};
use roster_core::rbac::requirement::Requirements;
use roster_runtime::informers::Informers;
use tracing::{info, warn};

use super::access::Access;

/// Judges writes.
pub struct Guard {
    informers: Arc<Informers>,
    policy: Policy,
    access: Access,
    /// Username of the operator's own ServiceAccount.
    operator: String,
}

/// What a write is judged by.
pub struct Known<'a> {
    /// What there is.
    pub directory: &'a Directory,
    /// How roles are bound here.
    pub policy: &'a Policy,
    requester: Option<&'a str>,
}

impl<'a> Known<'a> {
    /// For a write by somebody with this username.
    pub fn new(directory: &'a Directory, policy: &'a Policy, username: Option<&str>) -> Self {
        let requester = username.and_then(|username| directory.holder_of(username));
        Self { directory, policy, requester }
    }

    fn required(&self, change: &Change<'_>) -> Requirements {
        requirements(change, self.directory, self.policy)
    }
}

/// A kind of object whose writes are guarded.
pub trait Guarded: kube::Resource<DynamicType = ()> + Sized {
    /// What a requester who makes this change must be able to bind. `None` as the old one: a create; as the new one: a
    /// delete.
    fn requirements(old: Option<&Self>, new: Option<&Self>, known: &Known<'_>) -> Requirements;

    /// Whether the operator makes this change for somebody of whom it has asked all this before.
    fn is_judged_before(_old: &Self, _new: &Self) -> bool {
        false
    }

    /// Why an object can't be written so whatever roles the requester may bind, if there is a reason.
    fn conflict(_old: Option<&Self>, _new: &Self, _known: &Known<'_>) -> Option<String> {
        None
    }
}

impl Guarded for User {
    fn requirements(old: Option<&Self>, new: Option<&Self>, known: &Known<'_>) -> Requirements {
        known.required(&Change::User(old, new))
    }

    /// A rename, which comes by way of the directory's API.
    fn is_judged_before(old: &Self, new: &Self) -> bool {
        let renamed = UserSpec { username: new.spec.username.clone(), ..old.spec.clone() };
        renamed == new.spec && old.labels() == new.labels()
    }

    fn conflict(old: Option<&Self>, new: &Self, known: &Known<'_>) -> Option<String> {
        if old.is_some() {
            return None;
        }
        let Some(other) = taken(new, known.directory) else {
            let (name, username) = (new.name_any(), new.username());
            let worn_out = || [&name, &username].into_iter().find_map(|text| worn_out(&name, text, known.directory));
            return mistakable(new, known.directory).or_else(worn_out);
        };
        Some(format!(
            "spec.username: {} already exists: it is held or wanted by User {other}; to wait for a name takes the verb bind on every role",
            new.username()
        ))
    }
}

impl Guarded for Group {
    fn requirements(old: Option<&Self>, new: Option<&Self>, known: &Known<'_>) -> Requirements {
        known.required(&Change::Group(old, new))
    }
}

impl Guarded for Namespace {
    fn requirements(old: Option<&Self>, new: Option<&Self>, known: &Known<'_>) -> Requirements {
        let Some(new) = new else { return Requirements::new() };
        known.required(&Change::Namespace {
            name: new.metadata.name.as_deref(),
            old: old.map(ResourceExt::labels),
            new: new.labels(),
            by: known.requester,
        })
    }

    fn conflict(old: Option<&Self>, new: &Self, known: &Known<'_>) -> Option<String> {
        let owner = |namespace: &Self| namespace.labels().get(OWNER_LABEL).cloned();
        if old.is_some_and(|old| owner(old) == owner(new)) {
            return None;
        }
        uncounted(new.labels(), known.requester, known.directory, known.policy)
    }
}

impl Guarded for Secret {
    fn requirements(old: Option<&Self>, new: Option<&Self>, known: &Known<'_>) -> Requirements {
        // A Secret that is gone changes no password: the User keeps the last good one.
        let Some(new) = new.filter(|new| new.type_.as_deref() == Some(PASSWORD_SECRET_TYPE)) else {
            return Requirements::new();
        };
        let user = |secret: &Self| secret.annotations().get(USER_ANNOTATION).cloned();
        if old.is_some_and(|old| old.data == new.data && user(old) == user(new)) {
            return Requirements::new();
        }
        let users: BTreeSet<String> = old.into_iter().chain([new]).filter_map(user).collect();
        known.required(&Change::Credential(users.iter().map(String::as_str).collect()))
    }
}

/// What became of a request.
enum Verdict {
    Allowed,
    Refused(String),
    /// It could not be judged.
    Unknown(String),
}

impl Guard {
    /// A guard that goes by what the informers know, and asks the API server by way of `client`. `operator`: who that is.
    pub fn new(client: Client, operator: String, informers: Arc<Informers>, policy: Policy) -> Self {
        Self { informers, policy, access: Access::new(client), operator }
    }

    /// Answers an admission request. Returns the outcome for the metrics as well.
    pub async fn judge<K>(&self, request: &AdmissionRequest<K>) -> (&'static str, AdmissionResponse)
    where
        K: Guarded + kube::core::Resource<DynamicType = ()>,
    {
        let response = AdmissionResponse::from(request);
        match self.verdict(request).await {
            Verdict::Allowed => ("allowed", response),
            Verdict::Refused(refusal) => {
                let requester = request.user_info.username.as_deref();
                info!(kind = %request.kind.kind, name = request.name, requester, refusal, "the guard has refused a write");
                ("refused", with_code(response.deny(format!("the guard: {refusal}")), 403, "Forbidden"))
            }
            Verdict::Unknown(why) => {
                warn!(kind = %request.kind.kind, name = request.name, why, "the guard could not judge a write");
                let response = response.deny(format!("the guard can't judge this at the moment: {why}"));
                ("failed", with_code(response, 503, "ServiceUnavailable"))
            }
        }
    }

    async fn verdict<K: Guarded>(&self, request: &AdmissionRequest<K>) -> Verdict {
        if !self.informers.is_synced() {
            return Verdict::Unknown("the directory is not complete yet".to_owned());
        }
        if self.informers.is_failing() {
            return Verdict::Unknown("a watch of the directory is failing".to_owned());
        }
        let (old, new) = match request.operation {
            Operation::Delete => (request.old_object.as_ref(), None),
            Operation::Create | Operation::Update | Operation::Connect => {
                (request.old_object.as_ref(), request.object.as_ref())
            }
        };
        if old.is_none() && new.is_none() {
            return Verdict::Unknown("the review holds no object".to_owned());
        }
        if request.user_info.username.as_ref() == Some(&self.operator)
            && old.zip(new).is_some_and(|(old, new)| K::is_judged_before(old, new))
        {
            return Verdict::Allowed;
        }
        // A big group takes a moment: other requests go on meanwhile.
        let judged = tokio::task::block_in_place(|| {
            let directory = self.informers.directory();
            let known = Known::new(&directory, &self.policy, request.user_info.username.as_deref());
            match new.and_then(|new| K::conflict(old, new, &known)) {
                Some(refusal) => Err(refusal),
                None => Ok(K::requirements(old, new, &known)),
            }
        });
        let required = match judged {
            Ok(required) => required,
            // The webhooks do not ask of those who may bind everything.
            Err(refusal) => match self.access.may_bind_everything(&request.user_info).await {
                Ok(true) => return Verdict::Allowed,
                Ok(false) => return Verdict::Refused(refusal),
                Err(error) => return Verdict::Unknown(error.to_string()),
            },
        };
        match self.access.first_refused(&request.user_info, required).await {
            Ok(None) => Verdict::Allowed,
            Ok(Some(refused)) => Verdict::Refused(refused.to_string()),
            Err(error) => Verdict::Unknown(error.to_string()),
        }
    }

    /// Why a requester may not make a change that comes by another way than a write; `None`: they may.
    ///
    /// # Errors
    /// If it can't be judged.
    pub async fn refusal(&self, requester: &UserInfo, change: &Change<'_>) -> Result<Option<String>, String> {
        if self.informers.is_failing() {
            return Err("a watch of the directory is failing".to_owned());
        }
        let required = tokio::task::block_in_place(|| requirements(change, &self.informers.directory(), &self.policy));
        let refused = self.access.first_refused(requester, required).await.map_err(|error| error.to_string())?;
        Ok(refused.map(|refused| refused.to_string()))
    }

    /// Refuses a Group that would close a cycle. The graph can live with one: this is to say so early.
    pub fn refuse_cycle(&self, request: &AdmissionRequest<Group>) -> (&'static str, AdmissionResponse) {
        let response = AdmissionResponse::from(request);
        let found = request.object.as_ref().and_then(|group| cycle(group, &self.informers.directory()));
        let Some(path) = found else { return ("allowed", response) };
        let message = format!("spec.memberGroups: would close the cycle {}", path.join(" ⊇ "));
        ("refused", with_code(response.deny(message), 422, "Invalid"))
    }
}

/// A response of that HTTP status and reason.
pub fn with_code(mut response: AdmissionResponse, code: u16, reason: &str) -> AdmissionResponse {
    response.result.code = code;
    response.result.reason = reason.to_owned();
    response
}
