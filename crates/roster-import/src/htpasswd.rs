//! htpasswd: lines of `name:hash`, as used by Apache and nginx.

use super::draft::{Input, Place, UserDraft};
use super::text::lines;

/// Reads an htpasswd file.
pub(super) fn read(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    for (place, line) in lines(bytes, 0) {
        match line.map(|line| line.split_once(':')) {
            Ok(Some((name, hash))) => input.add_user(user_draft(place, name, hash)),
            Ok(None) => input.reject(place, "must be a name, a colon and a hash"),
            Err(error) => input.reject(place, error.to_string()),
        }
    }
    input
}

fn user_draft(place: Place, name: &str, hash: &str) -> UserDraft {
    let mut person = UserDraft::new(place, name);
    super::text::take_password(&mut person, hash);
    person
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::Credential;

    #[test]
    fn each_line_is_a_user_with_a_hash_or_plaintext() {
        let input =
            read(b"# staff\nada:$2y$10$abc\n\nbob:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=\r\ncyd:hunter2\nnonsense\n");
        let kinds: Vec<_> =
            input.users.iter().map(|person| matches!(person.credential, Some(Credential::Hash(_)))).collect();
        assert_eq!(kinds, [true, true, false]);
        assert_eq!(input.users[2].place.line, 5);
        assert_eq!(input.rejected[0].place.line, 6);
        assert!(!format!("{input:?}").contains("hunter2"));
    }
}
