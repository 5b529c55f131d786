//! Lists objects of the cluster.

use anyhow::{Context, Result};
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::{Resource, ResourceExt};
use roster_api::SOURCE_ID_ANNOTATION;

/// Maximum number of objects in one page of a list.
pub(crate) const PAGE: u32 = 500;

/// Passes every object to `seen`, page by page.
pub(super) async fn list(api: &Api<DynamicObject>, what: &str, mut seen: impl FnMut(&DynamicObject)) -> Result<()> {
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await.with_context(|| format!("{what} can't be listed"))?;
        page.items.iter().for_each(&mut seen);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}

/// Returns the identity in the source from which the object was imported.
pub(super) fn source(object: &impl ResourceExt) -> Option<&str> {
    object.annotations().get(SOURCE_ID_ANNOTATION).map(String::as_str)
}

pub(super) fn resource<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}
