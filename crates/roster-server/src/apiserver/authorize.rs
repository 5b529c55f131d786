//! Authorizes callers by SubjectAccessReviews, cached for as long as in Kubernetes' own delegated authorization.

use std::sync::Arc;

use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use kube::api::PostParams;
use kube::{Api, Client};
use moka::future::Cache;
use roster_api::directory::{GROUP, VERSION};
use tracing::warn;

use super::delegation::{ANSWER_TIMEOUT, ANSWER_TTL, MAX_CACHED_ANSWERS};
use super::identity::Caller;
use super::status::{About, ApiError};

/// Group whose members may do everything. No review is sent for them, because RBAC cannot restrict them.
pub const MASTERS: &str = "system:masters";

/// Cache key: everything that the answer depends on.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct ReviewKey {
    caller: Arc<Caller>,
    verb: &'static str,
    resource: String,
    subresource: String,
    name: String,
    /// The name as the caller wrote it. Without it in the key, the timing of a cache hit would reveal which object the
    /// name refers to.
    asked: String,
}

/// Sends SubjectAccessReviews, and caches the answers.
pub struct Authorizer {
    reviews: Api<SubjectAccessReview>,
    known: Cache<ReviewKey, bool>,
}

impl Authorizer {
    /// Creates an authorizer that sends reviews through `client`.
    pub fn new(client: Client) -> Self {
        let known = Cache::builder().max_capacity(MAX_CACHED_ANSWERS).time_to_live(ANSWER_TTL).build();
        Self { reviews: Api::all(client), known }
    }

    /// Checks that the caller may use the verb on the resource (`users/quota` for a subresource). `asked` is the name
    /// as the caller wrote it, which is all that an error repeats.
    ///
    /// # Errors
    /// 403, or 503 if kube-apiserver does not respond.
    pub async fn check(
        &self,
        caller: &Arc<Caller>,
        verb: &'static str,
        resource: &str,
        name: &str,
        asked: &str,
    ) -> Result<(), ApiError> {
        if caller.groups.iter().any(|group| group == MASTERS) {
            return Ok(());
        }
        let (main, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let key = ReviewKey {
            caller: Arc::clone(caller),
            verb,
            resource: main.to_owned(),
            subresource: subresource.to_owned(),
            name: name.to_owned(),
            asked: asked.to_owned(),
        };
        // Boxed because it is large, and part of every request.
        let known = Box::pin(self.known.try_get_with(key.clone(), self.review_cached(&key)));
        let may = known.await.map_err(|error| (*error).clone())?;
        if may { Ok(()) } else { Err(ApiError::forbidden(&caller.username, verb, About { resource, name: asked })) }
    }

    async fn review_cached(&self, key: &ReviewKey) -> Result<bool, ApiError> {
        let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let attributes = ResourceAttributes {
            verb: Some(key.verb.to_owned()),
            group: Some(GROUP.to_owned()),
            version: Some(VERSION.to_owned()),
            resource: Some(key.resource.clone()),
            subresource: filled(&key.subresource),
            name: filled(&key.name),
            ..ResourceAttributes::default()
        };
        Ok(self.review(&key.caller, Some(attributes), None).await?.allowed)
    }

    /// Returns kube-apiserver's answer, uncached.
    ///
    /// # Errors
    /// If kube-apiserver does not respond, or rejects the review.
    pub async fn review(
        &self,
        caller: &Caller,
        resource: Option<ResourceAttributes>,
        path: Option<NonResourceAttributes>,
    ) -> Result<SubjectAccessReviewStatus, ApiError> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(caller.username.clone()),
                uid: Some(caller.uid.clone()).filter(|uid| !uid.is_empty()),
                groups: Some(caller.groups.clone()),
                extra: Some(caller.extra.clone()).filter(|extra| !extra.is_empty()),
                resource_attributes: resource,
                non_resource_attributes: path,
            },
            ..SubjectAccessReview::default()
        };
        let params = PostParams::default();
        match tokio::time::timeout(ANSWER_TIMEOUT, self.reviews.create(&params, &review)).await {
            Ok(Ok(answer)) => Ok(answer.status.unwrap_or_default()),
            Ok(Err(kube::Error::Api(status))) if status.code == 422 || status.code == 400 => {
                Err(ApiError::bad_request(status.message))
            }
            Ok(Err(error)) => {
                warn!(%error, "access review failed");
                Err(ApiError::unavailable("the access review failed"))
            }
            Err(_) => Err(ApiError::unavailable("the API server does not answer in time")),
        }
    }
}
