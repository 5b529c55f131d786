//! Asks kube-apiserver whether a requester meets the requirements of the guard.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use roster_api::role_binding::{RoleKind, RoleRef};
use roster_api::{API_GROUP, directory};
use roster_core::directory::native::Grant;
use roster_core::rbac::requirement::{Attributes, Refused, Requirement, RequirementReason, Requirements};

/// SubjectAccessReviews in flight for one change.
const CONCURRENCY: usize = 8;

/// Maximum number of namespaces checked for one role. Beyond that, the requester must be allowed to bind the role in
/// the whole cluster.
const MAX_NAMESPACES: usize = 256;

/// Sends SubjectAccessReviews about a requester.
#[derive(Clone)]
pub struct AccessReviewer {
    reviews: Api<SubjectAccessReview>,
}

impl AccessReviewer {
    /// Sends reviews through `client`.
    pub fn new(client: Client) -> Self {
        Self { reviews: Api::all(client) }
    }

    /// Returns the first requirement that the requester does not meet.
    ///
    /// # Errors
    /// If kube-apiserver does not respond.
    pub async fn first_refused(
        &self,
        requester: &UserInfo,
        requirements: Requirements,
    ) -> kube::Result<Option<Refused>> {
        let mut by_role = BTreeMap::<RoleRef, Vec<(Grant, RequirementReason)>>::new();
        let mut others = Vec::new();
        for (requirement, reason) in requirements {
            match requirement {
                Requirement::Bind(grant) => by_role.entry(grant.role.clone()).or_default().push((grant, reason)),
                other @ (Requirement::Assign(_) | Requirement::DeleteNamespace(_)) => others.push((other, reason)),
            }
        }
        let refused = |(requirement, reason)| Refused {
            requester: requester.username.clone().unwrap_or_default(),
            requirement,
            reason,
        };
        let checks = stream::iter(by_role.into_values()).map(|grants| self.check_role(requester, grants));
        let mut roles = checks.buffered(CONCURRENCY).try_filter_map(|refused| std::future::ready(Ok(refused)));
        if let Some((grant, reason)) = roles.try_next().await? {
            return Ok(Some(refused((Requirement::Bind(grant), reason))));
        }
        // At most three: the old and the new owner of one namespace, and its deletion.
        for (requirement, reason) in others {
            if !self.may(requester, &requirement).await? {
                return Ok(Some(refused((requirement, reason))));
            }
        }
        Ok(None)
    }

    async fn check_role(
        &self,
        requester: &UserInfo,
        grants: Vec<(Grant, RequirementReason)>,
    ) -> kube::Result<Option<(Grant, RequirementReason)>> {
        let Some(first) = grants.first().cloned() else { return Ok(None) };
        // Permission to bind in the whole cluster includes every namespace.
        if self.may_bind(requester, &Grant { namespace: None, ..first.0.clone() }).await? {
            return Ok(None);
        }
        // Grants are sorted: the cluster-wide one comes first.
        if first.0.namespace.is_none() || grants.len() > MAX_NAMESPACES {
            return Ok(Some(first));
        }
        let checks = stream::iter(grants).map(|(grant, reason)| async move {
            let may = self.may_bind(requester, &grant).await?;
            Ok((!may).then_some((grant, reason)))
        });
        let refused = checks.buffered(CONCURRENCY).try_filter_map(|refused| std::future::ready(Ok(refused)));
        futures::pin_mut!(refused);
        refused.try_next().await
    }

    /// Returns whether the requester may bind every role. The guard's webhooks allow such requesters without further
    /// checks.
    ///
    /// # Errors
    /// If kube-apiserver does not respond.
    pub async fn may_bind_everything(&self, requester: &UserInfo) -> kube::Result<bool> {
        for kind in [RoleKind::ClusterRole, RoleKind::Role] {
            // Only rules without resourceNames match an empty name.
            let every = Grant { role: RoleRef { kind, name: String::new() }, namespace: None };
            if !self.may_bind(requester, &every).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn may_bind(&self, requester: &UserInfo, grant: &Grant) -> kube::Result<bool> {
        self.may(requester, &Requirement::Bind(grant.clone())).await
    }

    /// Returns whether the requester may list Users of either API group, and so may know who holds which role.
    ///
    /// # Errors
    /// If kube-apiserver does not respond.
    pub async fn may_list_users(&self, requester: &UserInfo) -> kube::Result<bool> {
        let (version, resource, verb) = ("v1alpha1", "users", "list");
        for group in [API_GROUP, directory::GROUP] {
            let list = Attributes { group, version, resource, name: "", namespace: None, verb };
            if self.review(requester, list).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn may(&self, requester: &UserInfo, requirement: &Requirement) -> kube::Result<bool> {
        self.review(requester, requirement.attributes()).await
    }

    async fn review(&self, requester: &UserInfo, attributes: Attributes<'_>) -> kube::Result<bool> {
        let Attributes { group, version, resource, name, namespace, verb } = attributes;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: requester.username.clone(),
                uid: requester.uid.clone(),
                groups: requester.groups.clone(),
                extra: requester.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    group: Some(group.to_owned()),
                    version: Some(version.to_owned()),
                    resource: Some(resource.to_owned()),
                    name: Some(name.to_owned()),
                    namespace: namespace.map(str::to_owned),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = self.reviews.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}
