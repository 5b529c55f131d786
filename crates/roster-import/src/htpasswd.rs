//! htpasswd: `name:hash`, as Apache and nginx have it.

use super::draft::{Input, Person, Place};
use super::text::lines;

/// Reads htpasswd.
pub(super) fn read(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    for (place, line) in lines(bytes, 0) {
        match line.map(|line| line.split_once(':')) {
            Ok(Some((name, hash))) => input.people.push(person(place, name, hash)),
            Ok(None) => input.reject(place, "must be a name, a colon and a hash"),
            Err(reason) => input.reject(place, reason),
        }
    }
    input
}

fn person(place: Place, name: &str, hash: &str) -> Person {
    let mut person = Person::new(place, name);
    super::text::take_password(&mut person, hash);
    person
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::Credential;

    #[test]
    fn a_line_is_a_person_and_plaintext_is_told_apart() {
        let input =
            read(b"# staff\nada:$2y$10$abc\n\nbob:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=\r\ncyd:hunter2\nnonsense\n");
        let kinds: Vec<_> =
            input.people.iter().map(|person| matches!(person.credential, Some(Credential::Hash(_)))).collect();
        assert_eq!(kinds, [true, true, false]);
        assert_eq!(input.people[2].place.line, 5);
        assert_eq!(input.rejected[0].place.line, 6);
        assert!(!format!("{input:?}").contains("hunter2"));
    }
}
