//! Whoever asks, as the API knows them: people may name themselves as they name others.

use anyhow::Result;
use serde_json::Value;

use super::client::{Directory, ONESELF, path_of};
use super::output::at;

/// Where the names stand by which the API or a login finds a User, beside its emails.
const NAMES: [&str; 3] = ["/metadata/uid", "/metadata/name", "/status/username"];

/// Whoever asks. Without a value, that is no User.
#[derive(Debug, Default)]
pub(super) struct Oneself(Option<Value>);

impl Oneself {
    /// Whoever the credentials are of.
    pub(super) async fn of(directory: &Directory) -> Result<Self> {
        directory.find(&path_of(None, &[])?).await.map(Self)
    }

    /// Somebody else, if that is who is named.
    pub(super) fn other<'a>(&self, named: Option<&'a String>) -> Option<&'a String> {
        let is_own = |named: &str| self.names().iter().any(|name| name.eq_ignore_ascii_case(named));
        named.filter(|named| *named != ONESELF && !is_own(named))
    }

    /// Whether there is a password to ask for.
    pub(super) fn has_password(&self) -> bool {
        self.0.as_ref().is_some_and(|user| user.pointer("/status/passwordChangedTime").is_some())
    }

    /// All the names.
    pub(super) fn names(&self) -> Vec<String> {
        let Some(user) = &self.0 else { return Vec::new() };
        let emails = user.pointer("/spec/additionalEmails").and_then(Value::as_array).into_iter().flatten();
        let emails = emails.filter_map(Value::as_str).map(str::to_owned).chain([at(user, "/spec/email")]);
        NAMES.iter().map(|name| at(user, name)).chain(emails).filter(|name| !name.is_empty()).collect()
    }
}

#[cfg(test)]
impl Oneself {
    /// Jane, whose login name is another one than that of her User.
    pub(super) fn jane() -> Self {
        Self(Some(
            serde_json::json!({"metadata": {"name": "jane", "uid": "4f2c"}, "status": {"username": "jane.doe", "passwordChangedTime": "2030-01-01T12:00:00Z"},
            "spec": {"email": "jane@example.com", "additionalEmails": ["j@example.com"]}}),
        ))
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
    fn people_may_name_themselves(#[case] named: &str, #[case] other: Option<&str>) {
        let named = named.to_owned();
        assert_eq!(Oneself::jane().other(Some(&named)).map(String::as_str), other);
    }

    #[test]
    fn who_is_no_user_names_others_alone() {
        let named = "jane".to_owned();
        assert_eq!(Oneself::default().other(Some(&named)), Some(&named));
        assert!(Oneself::default().other(None).is_none() && Oneself::default().names().is_empty());
    }

    #[test]
    fn people_have_several_names() {
        assert_eq!(Oneself::jane().names(), ["4f2c", "jane", "jane.doe", "j@example.com", "jane@example.com"]);
    }
}
