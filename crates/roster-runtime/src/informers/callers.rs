//! Which User a caller is, and whether it is still active.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::UserInfo;
use roster_core::directory::Directory;
use roster_core::directory::callers::{CallerIdentity, PresentedIdentity};
use roster_credentials::token_id::{Session, TokenIds};

use super::state::Informers;

/// Key in `extra` that identifies the credential presented. kube-apiserver uses the same key for tokens that it verifies
/// itself.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Prefix of a token's ID in the credential-id extra.
pub const TOKEN_CREDENTIAL: &str = "JTI=";

/// Prefix of an API key in the credential-id extra.
pub const API_KEY_CREDENTIAL: &str = "APIKey=";

/// Returns the IDs of one kind of credential in the `extra` of a caller. `kind` is the prefix.
pub fn credential_ids<'a>(
    extra: &'a BTreeMap<String, Vec<String>>,
    kind: &'static str,
) -> impl Iterator<Item = &'a str> {
    extra.get(CREDENTIAL_ID).into_iter().flatten().filter_map(move |id| id.strip_prefix(kind))
}

impl Informers {
    /// Sets the issuer of Roster's tokens, so that their bearers are recognized by the tokens' IDs.
    #[must_use]
    pub fn with_issuer(self, url: &str) -> Self {
        Self { token_ids: TokenIds::new(url), ..self }
    }

    /// Returns what an authenticator says about a caller. `extra` is that of the TokenReview, or of the front proxy.
    pub fn presented<'a>(
        &self,
        username: &'a str,
        uid: &'a str,
        extra: &'a BTreeMap<String, Vec<String>>,
    ) -> PresentedIdentity<'a> {
        let session = credential_ids(extra, TOKEN_CREDENTIAL).find_map(|id| self.token_ids.uid_in(id));
        PresentedIdentity { username, uid, session }
    }

    /// Returns the session that a caller with this `extra` belongs to, and the UID of its User. `None` if the caller does
    /// not present a token of Roster, or one whose ID does not describe the session.
    pub fn session<'a>(&self, extra: &'a BTreeMap<String, Vec<String>>) -> Option<(&'a str, Session)> {
        credential_ids(extra, TOKEN_CREDENTIAL).find_map(|id| self.token_ids.session_in(id))
    }

    /// Returns the User that makes an admission request, like [`Directory::requester`].
    pub fn requester<'a>(&self, directory: &'a Directory, user: &UserInfo) -> Option<&'a str> {
        let (username, uid) = (user.username.as_deref().unwrap_or_default(), user.uid.as_deref().unwrap_or_default());
        let no_extra = BTreeMap::new();
        directory.requester(self.presented(username, uid, user.extra.as_ref().unwrap_or(&no_extra)))
    }

    /// Whether an identity belongs to a User that is inactive or deleted, or is that of a session from before a rename.
    /// If the authenticator knows no UID, the current holder of the username decides.
    pub fn is_inactive(&self, presented: PresentedIdentity<'_>) -> bool {
        let (directory, now) = (self.directory(), Timestamp::now());
        let is_active = |name: &str| directory.user(name).is_some_and(|person| person.is_active(now));
        match directory.identify(presented) {
            CallerIdentity::User(name) => !is_active(name),
            CallerIdentity::Renamed(_) | CallerIdentity::Deleted => true,
            CallerIdentity::Other if self.recently_deleted.has_uid(presented.uid) => true,
            CallerIdentity::Other => match directory.username_holder(presented.username) {
                Some(holder) => !is_active(holder),
                None => self.recently_deleted.has_username(presented.username),
            },
        }
    }

    /// Remembers the User of that name in the directory as deleted, unless its UID is `current`, the UID of the User that
    /// has the name now.
    pub(super) fn note_deletion(&self, name: &str, current: Option<&str>) {
        let gone = |directory: &Directory| {
            let person = directory.user(name).filter(|person| Some(person.uid.as_str()) != current)?;
            Some((person.uid.clone(), person.username.clone()))
        };
        let gone = gone(&self.directory());
        if let Some((uid, username)) = gone {
            self.recently_deleted.insert(uid, username);
        }
    }
}
