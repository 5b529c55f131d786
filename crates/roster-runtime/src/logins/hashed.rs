//! Hashes of a request, kept across retries.

use roster_credentials::hash::PasswordHash;

/// Hashes that one request has computed. A retry after a conflict reuses them.
#[derive(Default)]
pub struct Hashed {
    /// The hash that the password was compared with, and whether it matches.
    pub(super) compared: Option<(Option<PasswordHash>, bool)>,
    /// The hash of the new password, and those that it was compared with or replaces.
    pub(super) created: Option<(Vec<PasswordHash>, PasswordHash)>,
}

impl Hashed {
    /// The hash of the new password, if it was created against the same other hashes.
    pub(super) fn created_for(&self, others: &[PasswordHash]) -> Option<PasswordHash> {
        self.created.as_ref().filter(|(known, _)| known == others).map(|(_, hash)| hash.clone())
    }
}
