//! The User that a request names, and whether the caller may do what it asks for.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::Method;
use axum::http::request::Parts;

use super::identity::Caller;
use super::state::DirectoryApi;
use super::status::{About, ApiError};

/// Key by which callers refer to themselves.
pub const SELF: &str = "~";

/// Parameter of the routes below `/users/{key}`.
const KEY: &str = "key";

/// Path segment with the subresource: `/apis/{group}/{version}/users/{key}/{subresource}`.
const SUBRESOURCE_SEGMENT: usize = 6;

/// The User that a request names, and the caller, who is authorized.
///
/// As a handler argument, it authorizes the request: the verb follows from the method, the resource from the path.
/// Arguments are extracted in order, so parameters that must be checked first come before it. The limiter has read the
/// body by then, so a slow client can't delay what follows the check.
#[derive(Debug)]
pub struct Target {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// The key as the request wrote it.
    pub asked: String,
    /// The resource that the caller may use, with the subresource after a slash.
    pub resource: String,
    /// The caller, who is authorized.
    pub caller: Arc<Caller>,
}

impl Target {
    /// Returns what errors of the request are about.
    pub fn about(&self) -> About<'_> {
        About { resource: &self.resource, name: &self.asked }
    }
}

impl FromRequestParts<Arc<DirectoryApi>> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<DirectoryApi>) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Arc<Caller>>().cloned();
        let caller = caller.ok_or_else(|| ApiError::internal("the caller is not known"))?;
        let verb = match parts.method {
            Method::GET | Method::HEAD => "get",
            Method::POST => "create",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => return Err(ApiError::internal("the method has no verb")),
        };
        let resource = resource_of(parts.uri.path());
        let params = RawPathParams::from_request_parts(parts, api).await;
        let params = params.map_err(|_| ApiError::bad_request("the path is not UTF-8"))?;
        let key = params.iter().find(|(name, _)| *name == KEY);
        let (_, key) = key.ok_or_else(|| ApiError::internal("the path names no user"))?;
        authorised(api, &caller, key, verb, &resource).await
    }
}

/// Returns the resource of a path below `/users/{key}`.
fn resource_of(path: &str) -> String {
    match path.split('/').nth(SUBRESOURCE_SEGMENT) {
        Some(subresource) => format!("users/{subresource}"),
        None => "users".to_owned(),
    }
}

/// Finds the User that `key` names, if the caller is authorized. Other callers get the same response whether or not the
/// User exists.
///
/// # Errors
/// 401, 403 or 503 from [`DirectoryApi::admit`]; 404 only for authorized callers.
pub async fn authorised(
    api: &DirectoryApi,
    caller: &Arc<Caller>,
    key: &str,
    verb: &'static str,
    resource: &str,
) -> Result<Target, ApiError> {
    let found =
        if key == SELF { api.user_of(caller) } else { api.informers.directory().find_user(key).map(str::to_owned) };
    let found = found.and_then(|name| {
        let directory = api.informers.directory();
        directory.user(&name).map(|person| (person.uid.clone(), name.clone()))
    });
    // Access by `~` is authorized for the name `~`, and nobody else can be addressed by it.
    let name = if key == SELF { SELF } else { found.as_ref().map_or(key, |(_, name)| name) };
    api.admit(caller, verb, resource, name, key).await?;
    let (uid, name) = found.ok_or_else(|| ApiError::not_found(About { resource: "users", name: key }))?;
    Ok(Target { name, uid, asked: key.to_owned(), resource: resource.to_owned(), caller: Arc::clone(caller) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("users/jane", "users")]
    #[case("users/~/groups", "users/groups")]
    #[case("users/jane/apikeys/k-1", "users/apikeys")]
    #[case("users/a%2Fb/totp", "users/totp")]
    fn the_path_names_the_resource(#[case] path: &str, #[case] resource: &str) {
        assert_eq!(resource_of(&format!("/apis/directory.roster.dev/v1alpha1/{path}")), resource);
    }
}
