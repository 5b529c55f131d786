//! The User that a request names, and whether the caller may do what it asks for.

use std::sync::Arc;

use super::identity::Caller;
use super::state::DirectoryApi;
use super::status::{About, ApiError};

/// How a caller names itself.
pub const SELF: &str = "~";

/// A User as a request names it, and the caller who may do what it asks for.
#[derive(Debug)]
pub struct Target {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// As the request wrote it.
    pub asked: String,
}

/// Finds the User that `key` names, if the caller may do this to it. Whoever may not learns nothing: not even whether
/// there is one.
///
/// # Errors
/// 403, or 404 for those who may.
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
        directory.person(&name).map(|person| (person.uid.clone(), name.clone()))
    });
    // By oneself one is named so, and nobody else is.
    let name = if key == SELF { SELF } else { found.as_ref().map_or(key, |(_, name)| name) };
    api.admit(caller, verb, resource, name, key).await?;
    let asked = key.to_owned();
    found
        .map(|(uid, name)| Target { name, uid, asked })
        .ok_or_else(|| ApiError::not_found(About { resource: "users", name: key }))
}
