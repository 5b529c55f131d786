//! Helpers for line-based formats.

use super::draft::{Credential, Place, UserDraft};
use super::hashes;

/// A line is not UTF-8.
#[derive(Debug, thiserror::Error)]
#[error("is not UTF-8 text")]
pub(super) struct NotUtf8;

/// Returns the lines of a file, except blank lines and comments, which start with `#`.
pub(super) fn lines(bytes: &[u8], file: usize) -> impl Iterator<Item = (Place, Result<&str, NotUtf8>)> {
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    lines.filter_map(move |(index, line)| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let has_content = !line.trim_ascii().is_empty() && !line.starts_with(b"#");
        let text = str::from_utf8(line).map_err(|_| NotUtf8);
        has_content.then_some((Place { file, line: index + 1 }, text))
    })
}

/// Sets the credential from a password field. Most systems store a hash there, some a password.
pub(super) fn take_password(person: &mut UserDraft, text: &str) {
    if hashes::is_hash(text) {
        person.set_hash(text);
    } else if !text.is_empty() {
        person.credential = Some(Credential::Plain(text.into()));
    }
}
