//! The User that a request names, and whether the caller may do what it asks for.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use futures::future::join_all;
use roster_api::credentials::UserReference;
use roster_core::directory::Directory;
use roster_core::directory::compact_user::CompactUser;

use super::authenticate::RequestCredential;
use super::identity::Caller;
use super::state::DirectoryApi;
use super::status::{About, ApiError};

/// Key by which callers refer to themselves.
pub(super) const SELF: &str = "~";

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
    /// Username, which another User may hold.
    pub username: String,
    /// The key as the request wrote it.
    pub asked: String,
    /// The resource that the caller may use, with the subresource after a slash.
    pub resource: String,
    /// The caller, who is authorized.
    pub caller: Arc<Caller>,
    /// The credential of the request. `None` for a User that the path does not name.
    pub credential: Option<RequestCredential>,
}

impl Target {
    /// Returns what errors of the request are about.
    pub fn about(&self) -> About<'_> {
        About { resource: &self.resource, name: &self.asked }
    }

    /// Returns the User in the directory. Since the request was authorized, the User may have been deleted, and another one
    /// may have got its name.
    ///
    /// # Errors
    /// 404 if it no longer exists.
    pub fn find_in<'a>(&self, directory: &'a Directory) -> Result<&'a CompactUser, ApiError> {
        let person = directory.user(&self.name).filter(|person| person.uid == self.uid);
        person.ok_or_else(|| ApiError::not_found(About { resource: "users", name: &self.asked }))
    }

    /// Returns how responses name the User.
    pub fn reference(&self) -> UserReference {
        UserReference { name: self.name.clone(), username: self.username.clone(), uid: self.uid.clone() }
    }
}

impl FromRequestParts<Arc<DirectoryApi>> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<DirectoryApi>) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Arc<Caller>>().cloned();
        let caller = caller.ok_or_else(|| ApiError::internal("the caller is unknown"))?;
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
        let credential = parts.extensions.get::<RequestCredential>().cloned();
        let target = authorized(api, &caller, key, verb, &resource).await?;
        Ok(Self { credential, ..target })
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
/// As [`find_authorized`]; 404 only for authorized callers.
pub(super) async fn authorized(
    api: &DirectoryApi,
    caller: &Arc<Caller>,
    key: &str,
    verb: &'static str,
    resource: &str,
) -> Result<Target, ApiError> {
    let found = find_authorized(api, caller, key, verb, resource).await?;
    found.ok_or_else(|| ApiError::not_found(About { resource: "users", name: key }))
}

/// Finds the User that `key` names, if the caller is authorized; `None` if there is none. If the key stands for several
/// Users, those that the caller has no access to do not count.
///
/// # Errors
/// 401, 403 or 503 from [`DirectoryApi::admit`]; 409 if the key stands for several Users.
pub(super) async fn find_authorized(
    api: &DirectoryApi,
    caller: &Arc<Caller>,
    key: &str,
    verb: &'static str,
    resource: &str,
) -> Result<Option<Target>, ApiError> {
    let mut found: Vec<Target> = {
        let directory = api.informers.directory();
        let target = |name: String| {
            let person = directory.user(&name)?;
            let (uid, username) = (person.uid.clone(), person.username.clone());
            let (asked, resource) = (key.to_owned(), resource.to_owned());
            let caller = Arc::clone(caller);
            Some(Target { name, uid, username, asked, resource, caller, credential: None })
        };
        keyed(api, &directory, caller, key).into_iter().filter_map(target).collect()
    };
    // Access by `~` is authorized for the name `~`, which can refer only to the caller.
    let name_of = |target: &Target| if key == SELF { SELF.to_owned() } else { target.name.clone() };
    if found.len() < 2 {
        let name = found.first().map_or_else(|| key.to_owned(), name_of);
        api.admit(caller, verb, resource, &name, key).await?;
        return Ok(found.pop());
    }
    // Checked concurrently, so that the response takes no longer than for one User.
    let answers = join_all(found.iter().map(|target| api.admit(caller, verb, resource, &target.name, key))).await;
    let (mut open, mut refusal) = (Vec::new(), None);
    for (target, answer) in found.into_iter().zip(answers) {
        match answer {
            Ok(()) => open.push(target),
            Err(error) if error.code() == StatusCode::FORBIDDEN => refusal = Some(error),
            Err(error) => return Err(error),
        }
    }
    match (open.len(), refusal) {
        (0, Some(refusal)) => Err(refusal),
        (0 | 1, _) => Ok(open.pop()),
        _ => Err(ambiguous(key, &open.iter().map(Target::reference).collect::<Vec<_>>())),
    }
}

/// Returns the names of the Users that a key stands for.
pub(super) fn keyed(api: &DirectoryApi, directory: &Directory, caller: &Caller, key: &str) -> Vec<String> {
    if key == SELF {
        return api.user_in(directory, caller).into_iter().collect();
    }
    directory.users_by_key(key).into_iter().map(str::to_owned).collect()
}

/// 409: the key stands for these Users, all of whom the caller may know.
pub(super) fn ambiguous(key: &str, users: &[UserReference]) -> ApiError {
    let users: Vec<String> =
        users.iter().map(|user| format!("User {} (username {}, UID {})", user.name, user.username, user.uid)).collect();
    let message = format!("{key:?} stands for several users: {}. Use the UID", users.join(", "));
    ApiError::conflict(message, About { resource: "users", name: key })
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
