//! Judges the credential that opened a watch again while the watch is open.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use jiff::Timestamp;
use roster_runtime::informers::credential_changes::ChangeCount;
use tokio::time::Instant;

use super::authenticate::{Judgement, RequestCredential};
use super::identity::Caller;
use super::state::DirectoryApi;

/// Time between two judgements if nothing changes.
const JUDGEMENT_INTERVAL: Duration = Duration::from_secs(60);

/// Time until the next attempt if the credential can't be judged. The previous judgement stays valid for
/// [`MAX_UNJUDGED`].
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Maximum time for which a credential that can't be judged keeps a watch open. A client whose watch ends opens another
/// one once it can be authenticated.
const MAX_UNJUDGED: Duration = Duration::from_secs(60);

/// The credential that opened a watch.
pub(super) struct OpenCredential {
    credential: RequestCredential,
    caller: Arc<Caller>,
    /// The User that the caller is. `None` for other identities.
    user: Option<FollowedUser>,
    /// What the last judgement took into account. `None` before the first.
    judged: Option<Basis>,
    next_judgement: Instant,
    expires: Option<Timestamp>,
    failures: Failures,
}

/// Failed attempts to judge the credential since the last judgement.
#[derive(Debug, Default)]
struct Failures {
    /// When the first one failed.
    since: Option<Instant>,
    /// Whether one was refused because too many requests were being judged.
    was_throttled: bool,
}

struct FollowedUser {
    name: String,
    credential_changes: ChangeCount,
}

/// The changes that a judgement takes into account: if none has occurred since, it would not differ.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Basis {
    /// Revision of the User. `None` if it does not exist.
    user: Option<u64>,
    /// Number of changes of the stored credential.
    credential: u64,
}

impl OpenCredential {
    /// Begins with a caller that has just been authenticated by this credential.
    pub(super) fn new(api: &DirectoryApi, credential: RequestCredential, caller: Arc<Caller>) -> Self {
        let followed = |name: String| {
            let uid = api.informers.directory().user(&name)?.uid.clone();
            Some(FollowedUser { name, credential_changes: api.informers.credential_changes.follow(&uid) })
        };
        let user = api.user_of(&caller).and_then(followed);
        Self {
            credential,
            caller,
            user,
            judged: None,
            next_judgement: Instant::now(),
            expires: None,
            failures: Failures::default(),
        }
    }

    /// Returns the caller as of the last judgement.
    pub(super) const fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// Returns whether a new request with the credential would be authenticated. Judges it again only if its User or the
    /// stored credential has changed, and once each [`JUDGEMENT_INTERVAL`].
    pub(super) async fn is_valid(&mut self, api: &DirectoryApi) -> bool {
        if self.expires.is_some_and(|expires| expires <= Timestamp::now()) {
            return false;
        }
        let (basis, now) = (Some(self.basis(api)), Instant::now());
        if self.judged == basis && now < self.next_judgement {
            return true;
        }
        self.judged = basis;
        match self.credential.judge().await {
            Ok(Judgement { caller, expires }) => {
                self.expires = expires;
                self.next_judgement = now + JUDGEMENT_INTERVAL;
                self.failures = Failures::default();
                if *self.caller != caller {
                    self.caller = Arc::new(caller);
                }
                true
            }
            Err(error) => {
                self.next_judgement = now + RETRY_INTERVAL;
                self.failures.are_outlasted(error.code(), now)
            }
        }
    }

    fn basis(&self, api: &DirectoryApi) -> Basis {
        let Some(user) = &self.user else { return Basis::default() };
        let record = api.informers.user_catalogue.peek().table.get(&user.name).map(|record| record.revision);
        Basis { user: record, credential: user.credential_changes.get() }
    }
}

impl Failures {
    /// Counts a failure. Returns whether the previous judgement stays valid. It outlasts one refusal because of too many
    /// requests, but not a second one before a judgement succeeds: otherwise the holder of a revoked key could keep a
    /// watch by sending many requests. It outlasts other failures for [`MAX_UNJUDGED`].
    fn are_outlasted(&mut self, failure: StatusCode, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let is_tolerated = match failure {
            StatusCode::SERVICE_UNAVAILABLE => true,
            StatusCode::TOO_MANY_REQUESTS => !std::mem::replace(&mut self.was_throttled, true),
            _ => false,
        };
        is_tolerated && now < since + MAX_UNJUDGED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_requests_does_not_keep_a_watch_open() {
        let (throttled, unavailable) = (StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE);
        let (mut failures, now) = (Failures::default(), Instant::now());
        assert!(!failures.are_outlasted(StatusCode::UNAUTHORIZED, now));
        assert!(failures.are_outlasted(unavailable, now));
        assert!(failures.are_outlasted(throttled, now), "others may have sent the requests");
        assert!(failures.are_outlasted(unavailable, now));
        assert!(!failures.are_outlasted(throttled, now));
    }

    /// A holder of a revoked key must not profit from an outage for long.
    #[test]
    fn a_credential_that_cannot_be_judged_keeps_a_watch_open_for_a_minute() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        for (second, is_open) in [(0, true), (30, true), (59, true), (60, false), (61, false)] {
            assert_eq!(failures.are_outlasted(unavailable, start + Duration::from_secs(second)), is_open, "{second}");
        }
        failures = Failures::default();
        assert!(failures.are_outlasted(unavailable, start + Duration::from_secs(61)), "a judgement has succeeded");
    }
}
