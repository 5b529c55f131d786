//! Recipients of notices.

use kube::ResourceExt;
use roster_api::User;
use roster_api::user::Notification;

/// The user that a notice concerns, and where it is sent. The URL may be a secret between the receiver and its users.
#[derive(Clone)]
pub struct Recipient {
    /// The user's login name.
    pub username: String,
    /// The UID of the User.
    pub uid: String,
    /// The receiver, an https URL.
    pub url: String,
}

impl Recipient {
    /// Returns `None` if the user wants no notices.
    pub fn new(username: &str, uid: &str, notification: Option<&Notification>) -> Option<Self> {
        let url = notification?.url.clone();
        Some(Self { username: username.to_owned(), uid: uid.to_owned(), url })
    }

    /// Returns `None` if the User wants no notices.
    pub fn of(user: &User) -> Option<Self> {
        Self::new(&user.username(), &user.uid()?, user.spec.notification.as_ref())
    }
}
