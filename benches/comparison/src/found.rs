//! What a stand-in finds for a query, and the response that contains it.

/// Result of a query.
pub(crate) struct Found {
    /// Total number of users that match.
    pub total: usize,
    /// The users of the response, as JSON.
    pub items: Vec<Vec<u8>>,
}

/// Writes a list in the format of Roster's responses.
pub(crate) fn list(found: &Found) -> Vec<u8> {
    let total = found.total;
    let head = format!(r#"{{"apiVersion":"directory.roster.dev/v1alpha1","kind":"UserList","total":{total},"items":["#);
    let mut out = head.into_bytes();
    out.reserve(found.items.iter().map(|item| item.len() + 1).sum());
    for (at, item) in found.items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item);
    }
    out.extend(b"]}\n");
    out
}
