//! Which User a caller is, from what its authenticator says about it.

use super::Directory;

/// What an authenticator says about a caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct PresentedIdentity<'a> {
    /// Username.
    pub username: &'a str,
    /// UID; empty if the authenticator does not know one, as for most certificates and for impersonation.
    pub uid: &'a str,
    /// UID in the ID of a token that Roster has issued. `None` if the caller presents no such token.
    pub session: Option<&'a str>,
}

/// Which User a caller is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CallerIdentity<'a> {
    /// The User with this `metadata.name`, under its current username.
    User(&'a str),
    /// The User with this `metadata.name`, in a session from before it was renamed.
    Renamed(&'a str),
    /// A User that has been deleted.
    Deleted,
    /// An identity whose UID the directory does not know, such as a ServiceAccount or an identity of another
    /// authenticator. Its username may nevertheless be that of a User.
    Other,
}

impl Directory {
    /// Returns which User the caller is. A UID decides if there is one, because a session keeps its username after a
    /// rename, and a later User may have a former one's username.
    pub fn identify(&self, presented: PresentedIdentity<'_>) -> CallerIdentity<'_> {
        let PresentedIdentity { username, uid, session } = presented;
        let Some(uid) = session.or(Some(uid).filter(|uid| !uid.is_empty())) else {
            return self.username_holder(username).map_or(CallerIdentity::Other, CallerIdentity::User);
        };
        match self.user_with_uid(uid) {
            Some(name) if self.user(name).is_some_and(|person| person.username == username) => {
                CallerIdentity::User(name)
            }
            Some(name) => CallerIdentity::Renamed(name),
            // Tokens are issued to existing Users only.
            None if session.is_some() || self.tombstones.has_uid(uid) => CallerIdentity::Deleted,
            None => CallerIdentity::Other,
        }
    }

    /// Returns the User that makes a request, regardless of whether it is active. An identity of another authenticator
    /// counts as the User with its username, whose rights it has.
    pub fn requester(&self, presented: PresentedIdentity<'_>) -> Option<&str> {
        match self.identify(presented) {
            CallerIdentity::User(name) | CallerIdentity::Renamed(name) => Some(name),
            CallerIdentity::Deleted => None,
            CallerIdentity::Other => self.username_holder(presented.username),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use roster_api::condition::{DesiredCondition, NAME_CLAIMED, carry_over};
    use roster_api::user::UserStatus;
    use roster_api::{User, UserSpec};
    use rstest::rstest;

    fn user(name: &str, uid: &str, username: &str) -> User {
        let username = Some(username.to_owned());
        // An administrator leaves a tombstone.
        let mut user = User::new(name, UserSpec { username: username.clone(), admin: true, ..UserSpec::default() });
        user.metadata.uid = Some(uid.to_owned());
        let claimed = DesiredCondition { kind: NAME_CLAIMED, status: true, reason: "Claimed", message: String::new() };
        let conditions = carry_over(&[], vec![claimed], Some(1), Timestamp::UNIX_EPOCH);
        user.status = Some(UserStatus { username, conditions, ..UserStatus::default() });
        user
    }

    /// Alice is now known as `alice.king`. A User of the name `gone` was deleted, and another one has its username.
    fn directory() -> Directory {
        let (mut directory, now) = (Directory::default(), Timestamp::UNIX_EPOCH);
        directory.set_user(&user("alice", "u-alice", "alice"), now);
        directory.set_user(&user("alice", "u-alice", "alice.king"), now);
        directory.set_user(&user("gone", "u-gone", "gone"), now);
        directory.remove_user("gone", now);
        directory.set_user(&user("heir", "u-heir", "gone"), now);
        directory
    }

    use CallerIdentity::{Deleted, Other, Renamed, User as Known};

    #[rstest]
    // Tokens verified by the webhook, by OpenID Connect with and without a UID, and by other authenticators.
    #[case("alice.king", "u-alice", Some("u-alice"), Known("alice"), Some("alice"))]
    #[case("alice.king", "", Some("u-alice"), Known("alice"), Some("alice"))]
    #[case("alice.king", "u-alice", None, Known("alice"), Some("alice"))]
    #[case("alice", "u-alice", Some("u-alice"), Renamed("alice"), Some("alice"))]
    #[case("alice", "", Some("u-alice"), Renamed("alice"), Some("alice"))]
    #[case("alice", "u-alice", None, Renamed("alice"), Some("alice"))]
    #[case("gone", "u-gone", Some("u-gone"), Deleted, None)]
    #[case("gone", "", Some("u-gone"), Deleted, None)]
    #[case("gone", "u-gone", None, Deleted, None)]
    #[case("unknown", "", Some("u-unknown"), Deleted, None)]
    // The ID of the token decides, whatever claim the UID was mapped from.
    #[case("gone", "u-heir", Some("u-gone"), Deleted, None)]
    // Impersonation and certificates.
    #[case("alice.king", "", None, Known("alice"), Some("alice"))]
    #[case("gone", "", None, Known("heir"), Some("heir"))]
    #[case("alice", "", None, Other, None)]
    // ServiceAccounts, and other authenticators with UIDs of their own.
    #[case("system:serviceaccount:a:b", "u-sa", None, Other, None)]
    #[case("alice.king", "from-ldap", None, Other, Some("alice"))]
    fn a_uid_decides_which_user_a_caller_is(
        #[case] username: &str,
        #[case] uid: &str,
        #[case] session: Option<&str>,
        #[case] expected: CallerIdentity<'_>,
        #[case] requester: Option<&str>,
    ) {
        let (directory, presented) = (directory(), PresentedIdentity { username, uid, session });
        assert_eq!(directory.identify(presented), expected);
        assert_eq!(directory.requester(presented), requester);
    }
}
