//! Hashes of a request, kept across retries.

use roster_credentials::hash::PasswordHash;

/// Hashes that one request has computed. A retry after a conflict reuses them.
#[derive(Default)]
pub struct ComputedHashes {
    /// Hash that the password was compared with, and whether it matches.
    pub(super) compared: Option<(Option<PasswordHash>, bool)>,
    /// Hashes that the new password was compared with or replaces, and its own hash.
    pub(super) created: Option<(Vec<PasswordHash>, PasswordHash)>,
}

impl ComputedHashes {
    /// Returns the hash of the new password, if it was created against the same other hashes.
    pub(super) fn created_for(&self, others: &[PasswordHash]) -> Option<PasswordHash> {
        self.created.as_ref().filter(|(known, _)| known == others).map(|(_, hash)| hash.clone())
    }
}
