//! The caller's identity, from the request headers of kube-apiserver's aggregator.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName};
use k8s_openapi::api::authentication::v1::UserInfo;
use percent_encoding::percent_decode_str;
use roster_core::directory::callers::PresentedIdentity;
use roster_core::rbac::permissions::AUTHENTICATED;
use roster_runtime::informers::Informers;
use thiserror::Error;

/// Group of unauthenticated callers.
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// Maximum number of groups and extra values of an identity, taken together.
const MAX_VALUES: usize = 4096;

/// Identity of a caller.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Caller {
    /// Username.
    pub username: String,
    /// UID; empty if the authenticator does not know it.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Extra attributes, by key.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Caller {
    /// Returns whether the caller is authenticated.
    pub fn is_authenticated(&self) -> bool {
        !self.groups.iter().any(|group| group == UNAUTHENTICATED)
    }

    /// Returns what the directory identifies the caller by.
    pub fn presented(&self, informers: &Informers) -> PresentedIdentity<'_> {
        informers.presented(&self.username, &self.uid, &self.extra)
    }

    /// Adds the caller to `system:authenticated`, as every Kubernetes API server does.
    fn completed(mut self) -> Self {
        if self.is_authenticated() && !self.groups.iter().any(|group| group == AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

impl From<UserInfo> for Caller {
    fn from(user: UserInfo) -> Self {
        Self {
            username: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        }
        .completed()
    }
}

/// Names of the identity headers, from the ConfigMap `extension-apiserver-authentication`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HeaderNames {
    /// Username headers. The first one with a value is used.
    pub username: Vec<HeaderName>,
    /// UID headers. The first one with a value is used. If this is empty, UIDs are ignored.
    pub uid: Vec<HeaderName>,
    /// Group headers. All values of all of them are used.
    pub groups: Vec<HeaderName>,
    /// Prefixes of extra headers, in lower case.
    pub extra_prefixes: Vec<String>,
}

/// Why the headers cannot be read.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum HeaderError {
    /// A value is not UTF-8.
    #[error("a header of the identity is not UTF-8")]
    NotText,
    /// There are too many groups and extra values.
    #[error("the identity has more than {MAX_VALUES} groups and extras")]
    TooMany,
}

impl HeaderNames {
    /// Reads the identity. Returns `None` if the headers contain no username.
    ///
    /// # Errors
    /// If a value is not UTF-8, or there are too many.
    pub fn read(&self, headers: &HeaderMap) -> Result<Option<Caller>, HeaderError> {
        let username = first(headers, &self.username)?;
        if username.is_empty() {
            return Ok(None);
        }
        let mut caller = Caller { username, uid: first(headers, &self.uid)?, ..Caller::default() };
        for name in &self.groups {
            for value in headers.get_all(name) {
                let group = text(value.as_bytes())?;
                if !group.is_empty() {
                    caller.groups.push(group);
                }
            }
        }
        let mut extras = 0;
        for (name, value) in headers {
            // Header names are in lower case already.
            let key = self.extra_prefixes.iter().find_map(|prefix| name.as_str().strip_prefix(prefix.as_str()));
            let Some(key) = key else { continue };
            let decoded = percent_decode_str(key).decode_utf8();
            let key = decoded.map_or_else(|_| key.to_owned(), Cow::into_owned);
            caller.extra.entry(key).or_default().push(text(value.as_bytes())?);
            extras += 1;
        }
        if caller.groups.len() + extras > MAX_VALUES {
            return Err(HeaderError::TooMany);
        }
        Ok(Some(caller.completed()))
    }
}

fn first(headers: &HeaderMap, names: &[HeaderName]) -> Result<String, HeaderError> {
    for value in names.iter().filter_map(|name| headers.get(name)) {
        let value = text(value.as_bytes())?;
        if !value.is_empty() {
            return Ok(value);
        }
    }
    Ok(String::new())
}

fn text(bytes: &[u8]) -> Result<String, HeaderError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| HeaderError::NotText)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> HeaderNames {
        HeaderNames {
            username: vec![HeaderName::from_static("x-other-user"), HeaderName::from_static("x-remote-user")],
            uid: vec![HeaderName::from_static("x-remote-uid")],
            groups: vec![HeaderName::from_static("x-remote-group")],
            extra_prefixes: vec!["x-remote-extra-".to_owned()],
        }
    }

    fn headers(all: &[(&'static str, &'static [u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, axum::http::HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn every_value_of_the_identity_is_read() {
        let caller = names().read(&headers(&[
            ("x-other-user", b""),
            ("x-remote-user", "jäne".as_bytes()),
            ("x-remote-uid", b"u-1"),
            ("x-remote-group", b"a"),
            ("x-remote-group", b"b,c"),
            ("x-remote-extra-scopes.example.com%2fab", b"1"),
            ("x-remote-extra-scopes.example.com%2fab", b"2"),
        ]));
        let caller = caller.unwrap().unwrap();
        assert_eq!((caller.username.as_str(), caller.uid.as_str()), ("jäne", "u-1"));
        assert_eq!(caller.groups, ["a", "b,c", AUTHENTICATED]);
        assert_eq!(caller.extra, [("scopes.example.com/ab".to_owned(), vec!["1".to_owned(), "2".to_owned()])].into());
    }

    #[test]
    fn missing_and_non_utf8_usernames() {
        assert_eq!(names().read(&headers(&[("x-remote-group", b"a")])), Ok(None));
        assert_eq!(names().read(&headers(&[("x-remote-user", b"\xff")])), Err(HeaderError::NotText));
        let anonymous =
            names().read(&headers(&[("x-remote-user", b"x"), ("x-remote-group", b"system:unauthenticated")]));
        assert!(!anonymous.unwrap().unwrap().is_authenticated());
        let no_uid = HeaderNames { uid: Vec::new(), ..names() };
        let caller = no_uid.read(&headers(&[("x-remote-user", b"x"), ("x-remote-uid", b"u-1")])).unwrap().unwrap();
        assert_eq!(caller.uid, "", "a UID is trusted only if the ConfigMap has UID headers");
    }
}
