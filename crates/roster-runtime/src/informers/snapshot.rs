//! Snapshot of the directory from lists, for one-shot commands.

use anyhow::{Context, Result};
use futures::{TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding as NativeRoleBinding};
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use roster_api::{Group, RoleBinding, User};
use roster_core::directory::Directory;
use roster_core::directory::bindings::NamespaceState;
use roster_core::directory::native::Native;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// Lists everything that the guard relies on.
///
/// # Errors
/// If something can't be listed.
pub async fn snapshot(client: &Client) -> Result<Directory> {
    let mut directory = Directory::new(false);
    let now = Timestamp::now();
    each::<Namespace>(client, |namespace| {
        directory.set_namespace(&namespace.name_any(), Some(NamespaceState::of(&namespace.metadata)));
    })
    .await?;
    each::<Group>(client, |group| drop(directory.set_group(&group, now))).await?;
    each::<User>(client, |user| drop(directory.set_user(&user, now))).await?;
    each::<RoleBinding>(client, |binding| drop(directory.set_binding(&binding, now))).await?;
    each::<ClusterRoleBinding>(client, |binding| drop(directory.set_native(Native::of_cluster(&binding)))).await?;
    each::<NativeRoleBinding>(client, |binding| drop(directory.set_native(Native::of_namespace(&binding)))).await?;
    Ok(directory)
}

/// Passes each object of a kind to `take`, page by page.
async fn each<K>(client: &Client, mut take: impl FnMut(K)) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api = Api::<K>::all(client.clone());
    let pages = stream::try_unfold(Some(ListParams::default().limit(PAGE)), |params| {
        let api = api.clone();
        async move {
            let Some(params) = params else { return Ok::<_, kube::Error>(None) };
            let page = api.list(&params).await?;
            let next = page.metadata.continue_.clone().filter(|token| !token.is_empty());
            Ok(Some((page.items, next.map(|token| params.continue_token(&token)))))
        }
    });
    pages
        .try_for_each(|items| {
            items.into_iter().for_each(&mut take);
            std::future::ready(Ok(()))
        })
        .await
        .with_context(|| format!("{} can't be listed", K::plural(&())))
}
