//! Claims on login identifiers: at most one User holds a username or an email at a time.
//!
//! A claim *is* an object: a Secret in Roster's namespace whose name is derived from the identifier. etcd admits one
//! object of a name, so no two Users can hold one identifier, whatever replicas, restarts or clocks do. The Secret is
//! owned by the User, by UID: it goes when the User goes, and a User of the same name that comes later does not
//! inherit it. The claim on the username also keeps the credential (see [`super::record`]).
//!
//! Usernames and emails share one space, because both are accepted at login: nobody can take somebody's email
//! address as a username.

use roster_api::User;
use sha2::{Digest, Sha256};

use crate::digest::hex;

/// Which field an identifier stands in.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum IdentifierKind {
    /// `spec.username`, or else `metadata.name`.
    Username,
    /// `spec.email` or `spec.additionalEmails`.
    Email,
}

/// A login identifier as a User declares it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identifier {
    /// Which field it stands in.
    pub kind: IdentifierKind,
    /// As written.
    pub text: String,
}

impl Identifier {
    /// What is unique.
    pub fn folded(&self) -> String {
        fold(&self.text)
    }

    /// Name of the Secret that is the claim.
    pub fn secret_name(&self) -> String {
        object_name("login-", &self.folded())
    }
}

/// An object name for any text: `prefix` and a digest, because an email address is not an object name and a long name
/// leaves no space for a prefix. 160 bits of SHA-256 are far beyond any search for collisions.
pub fn object_name(prefix: &str, text: &str) -> String {
    format!("{prefix}{}", hex(&Sha256::digest(text)[..20]))
}

/// An identifier as it is compared: upper and lower case are one; the admission rules leave only ASCII.
pub fn fold(text: &str) -> String {
    text.to_ascii_lowercase()
}

/// What `user` wants to hold: the username first, each identifier once.
pub fn wanted(user: &User) -> Vec<Identifier> {
    let username = Identifier { kind: IdentifierKind::Username, text: user.username() };
    let emails = user.emails().map(|email| Identifier { kind: IdentifierKind::Email, text: email.clone() });
    let mut wanted: Vec<Identifier> = vec![username];
    for email in emails {
        if !wanted.iter().any(|other| other.text.eq_ignore_ascii_case(&email.text)) {
            wanted.push(email);
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster_api::UserSpec;

    fn user(name: &str, username: Option<&str>, email: &str, more: &[&str]) -> User {
        User::new(
            name,
            UserSpec {
                username: username.map(str::to_owned),
                email: Some(email.to_owned()),
                additional_emails: more.iter().map(|email| (*email).to_owned()).collect(),
                ..UserSpec::default()
            },
        )
    }

    #[test]
    fn username_defaults_to_the_name_and_comes_first() {
        let wanted = wanted(&user("jane", None, "jane@example.com", &["j@example.com"]));
        let texts: Vec<&str> = wanted.iter().map(|identifier| identifier.text.as_str()).collect();
        assert_eq!(texts, ["jane", "jane@example.com", "j@example.com"]);
    }

    #[test]
    fn the_same_identifier_in_two_fields_is_one_claim() {
        let wanted = wanted(&user("jane", Some("Jane@Example.com"), "jane@example.com", &["JANE@example.com"]));
        assert_eq!(wanted.len(), 1);
        assert_eq!(wanted[0].kind, IdentifierKind::Username);
    }

    #[test]
    fn names_are_case_folded_and_shared_between_kinds() {
        let upper = Identifier { kind: IdentifierKind::Username, text: "Jane@Example.com".into() };
        let lower = Identifier { kind: IdentifierKind::Email, text: "jane@example.com".into() };
        assert_eq!(upper.secret_name(), lower.secret_name());
        assert_ne!(lower.secret_name(), Identifier { text: "john@example.com".into(), ..lower.clone() }.secret_name());
        assert_eq!(lower.secret_name().len(), "login-".len() + 40);
    }
}
