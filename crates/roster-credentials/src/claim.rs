//! Claims on login identifiers: at most one User holds a username or email at a time.
//!
//! A claim is a Secret in Roster's namespace whose name is derived from the identifier. Object names are unique in
//! etcd, so two Users can never hold the same identifier, regardless of replicas, restarts and clocks. The User owns
//! the Secret by UID: it is deleted with the User, and a later User of the same name does not inherit it. The claim on
//! the username also stores the credential (see [`super::record`]).
//!
//! Usernames and emails share one namespace, because logins accept both: a username can't equal another user's email.

use roster_api::User;
use sha2::{Digest, Sha256};

use crate::digest::hex;

/// Field that an identifier comes from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum IdentifierKind {
    /// `spec.username` or, without it, `metadata.name`.
    Username,
    /// `spec.email` or `spec.additionalEmails`.
    Email,
}

/// A login identifier as a User declares it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identifier {
    pub kind: IdentifierKind,
    /// As written in the User.
    pub text: String,
}

impl Identifier {
    /// Returns the case-folded form, which at most one User holds.
    pub fn folded(&self) -> String {
        fold(&self.text)
    }

    /// Returns the name of the claim's Secret.
    pub fn secret_name(&self) -> String {
        object_name("login-", &self.folded())
    }
}

/// Returns an object name for any text: `prefix` and a digest. Email addresses are not valid object names, and long names
/// leave no space for a prefix. 160 bits of SHA-256 make collisions infeasible.
pub fn object_name(prefix: &str, text: &str) -> String {
    format!("{prefix}{}", hex(&Sha256::digest(text)[..20]))
}

/// Folds the case of an identifier for comparisons. Identifiers are ASCII, because the CRD's rules allow nothing else.
pub fn fold(text: &str) -> String {
    text.to_ascii_lowercase()
}

/// Returns the identifiers that `user` declares, without duplicates and with the username first.
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
