//! Whether somebody may bind roles, as the API server itself sees it.

use std::collections::BTreeMap;
use std::fmt;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::api::role_binding::{RoleKind, RoleRef};
use crate::directory::native::Grant;
use crate::rbac::guard::{Reason, Requirements};

/// Questions to the API server at the same time, for one change.
const CONCURRENCY: usize = 8;

/// Most questions for one role. Who holds a role in more namespaces than this is only controlled by somebody who may
/// bind it in all of them at once.
const MOST_NAMESPACES: usize = 256;

/// What the requester may not bind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Who asked.
    pub requester: String,
    /// The role and where.
    pub grant: Grant,
    /// Why it matters.
    pub reason: Reason,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requester, grant, reason } = self;
        let place = grant.namespace.as_ref().map_or("cluster-wide".to_owned(), |name| format!("in namespace {name}"));
        write!(
            f,
            "{} holds or would hold {grant} (by {}), and {requester} may not bind it: \
             that takes the verb bind on {}/{} of rbac.authorization.k8s.io, {place}",
            reason.identity,
            reason.by,
            resource(&grant.role),
            grant.role.name,
        )
    }
}

/// Asks on behalf of a requester.
#[derive(Clone)]
pub struct Access {
    reviews: Api<SubjectAccessReview>,
}

impl Access {
    /// Asks by way of `client`.
    pub fn new(client: Client) -> Self {
        Self { reviews: Api::all(client) }
    }

    /// The first of the requirements that the requester does not meet.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn first_refused(
        &self,
        requester: &UserInfo,
        requirements: Requirements,
    ) -> kube::Result<Option<Refused>> {
        let mut by_role = BTreeMap::<RoleRef, Vec<(Grant, Reason)>>::new();
        for (grant, reason) in requirements {
            by_role.entry(grant.role.clone()).or_default().push((grant, reason));
        }
        let checks = stream::iter(by_role.into_values()).map(|grants| self.check_role(requester, grants));
        let mut refused = checks.buffered(CONCURRENCY).try_filter_map(|refused| std::future::ready(Ok(refused)));
        Ok(refused.try_next().await?.map(|(grant, reason)| Refused {
            requester: requester.username.clone().unwrap_or_default(),
            grant,
            reason,
        }))
    }

    async fn check_role(
        &self,
        requester: &UserInfo,
        grants: Vec<(Grant, Reason)>,
    ) -> kube::Result<Option<(Grant, Reason)>> {
        let Some(first) = grants.first().cloned() else { return Ok(None) };
        // Whoever may bind it in the whole cluster may bind it anywhere.
        if self.may_bind(requester, &Grant { namespace: None, ..first.0.clone() }).await? {
            return Ok(None);
        }
        // Grants are in order: that of the whole cluster comes first.
        if first.0.namespace.is_none() || grants.len() > MOST_NAMESPACES {
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

    /// Whether the requester may bind every role: then the webhooks of the guard do not ask.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn may_bind_everything(&self, requester: &UserInfo) -> kube::Result<bool> {
        for kind in [RoleKind::ClusterRole, RoleKind::Role] {
            // Without a name, a rule for some names does not match.
            let every = Grant { role: RoleRef { kind, name: String::new() }, namespace: None };
            if !self.may_bind(requester, &every).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn may_bind(&self, requester: &UserInfo, grant: &Grant) -> kube::Result<bool> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: requester.username.clone(),
                uid: requester.uid.clone(),
                groups: requester.groups.clone(),
                extra: requester.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some("bind".to_owned()),
                    group: Some("rbac.authorization.k8s.io".to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some(resource(&grant.role).to_owned()),
                    name: Some(grant.role.name.clone()),
                    namespace: grant.namespace.clone(),
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

const fn resource(role: &RoleRef) -> &'static str {
    match role.kind {
        RoleKind::ClusterRole => "clusterroles",
        RoleKind::Role => "roles",
    }
}
