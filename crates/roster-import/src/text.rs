//! What the line-based formats share.

use super::draft::{Credential, Person, Place};
use super::hashes;

/// The lines of a file that say something, and where they stand. A line begins a comment with `#`.
pub(super) fn lines(bytes: &[u8], file: usize) -> impl Iterator<Item = (Place, Result<&str, String>)> {
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    lines.filter_map(move |(index, line)| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let says = !line.trim_ascii().is_empty() && !line.starts_with(b"#");
        let text = str::from_utf8(line).map_err(|_| "is not UTF-8 text".to_owned());
        says.then_some((Place { file, line: index + 1 }, text))
    })
}

/// Takes a password field along, in which other systems have hashes, and some of them passwords.
pub(super) fn take_password(person: &mut Person, text: &str) {
    if hashes::is_hash(text) {
        person.set_hash(text);
    } else if !text.is_empty() {
        person.credential = Some(Credential::Plain(text.into()));
    }
}
