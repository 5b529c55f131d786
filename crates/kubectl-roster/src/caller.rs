//! The caller's own User. Commands use it to detect that users name themselves.

use anyhow::Result;
use serde_json::Value;

use super::client::{DirectoryClient, SELF_NAME, path_of};
use super::output::at;

/// JSON pointers to the names that identify a User in the API or at login, except its emails.
const NAMES: [&str; 3] = ["/metadata/uid", "/metadata/name", "/status/username"];

/// The caller's User. `None` if the caller is not a User, for example a ServiceAccount.
#[derive(Debug, Default)]
pub(super) struct Caller(Option<Value>);

impl Caller {
    /// Looks up the User that the kubeconfig's credentials belong to.
    pub(super) async fn fetch(directory: &DirectoryClient) -> Result<Self> {
        directory.find(&path_of(None, &[])?).await.map(Self)
    }

    /// Returns `named`, unless it names the caller.
    pub(super) fn other<'a>(&self, named: Option<&'a String>) -> Option<&'a String> {
        let is_own = |named: &str| self.names().iter().any(|name| name.eq_ignore_ascii_case(named));
        named.filter(|named| *named != SELF_NAME && !is_own(named))
    }

    /// Returns whether the caller has a password. If so, the caller confirms changes of credentials with it.
    pub(super) fn has_password(&self) -> bool {
        self.0.as_ref().is_some_and(|user| user.pointer("/status/passwordChangedTime").is_some())
    }

    /// Returns every name that identifies the caller.
    pub(super) fn names(&self) -> Vec<String> {
        let Some(user) = &self.0 else { return Vec::new() };
        let emails = user.pointer("/spec/additionalEmails").and_then(Value::as_array).into_iter().flatten();
        let emails = emails.filter_map(Value::as_str).map(str::to_owned).chain([at(user, "/spec/email")]);
        NAMES.iter().map(|name| at(user, name)).chain(emails).filter(|name| !name.is_empty()).collect()
    }
}

#[cfg(test)]
impl Caller {
    /// A caller whose username differs from the name of the User.
    pub(super) fn jane() -> Self {
        Self(Some(serde_json::json!({"metadata": {"name": "jane", "uid": "4f2c"},
            "status": {"username": "jane.doe", "passwordChangedTime": "2030-01-01T12:00:00Z"},
            "spec": {"email": "jane@example.com", "additionalEmails": ["j@example.com"]}})))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("~", None)]
    #[case("jane", None)]
    #[case("jane.doe", None)]
    #[case("J@example.com", None)]
    #[case("4f2c", None)]
    #[case("joan", Some("joan"))]
    #[case("", Some(""))]
    fn callers_may_name_themselves(#[case] named: &str, #[case] other: Option<&str>) {
        let named = named.to_owned();
        assert_eq!(Caller::jane().other(Some(&named)).map(String::as_str), other);
    }

    #[test]
    fn callers_without_a_user_only_name_others() {
        let named = "jane".to_owned();
        assert_eq!(Caller::default().other(Some(&named)), Some(&named));
        assert!(Caller::default().other(None).is_none() && Caller::default().names().is_empty());
    }

    #[test]
    fn uid_name_username_and_emails_are_names() {
        assert_eq!(Caller::jane().names(), ["4f2c", "jane", "jane.doe", "j@example.com", "jane@example.com"]);
    }
}
