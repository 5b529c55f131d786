//! Names of objects, made from names of people and groups.

/// Longest name of a User or a Group.
const MAX: usize = 63;

/// A legal `metadata.name` for a name from elsewhere: lower case, every other character a hyphen. It depends on nothing
/// but that name, so that the same file always makes the same objects. Nothing, where no letter or digit is in it.
pub fn object_name(name: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
    let folded: String = name.to_lowercase().chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    let labels = |text: &str| -> String {
        let labels: Vec<&str> =
            text.split('.').map(|label| label.trim_matches('-')).filter(|label| !label.is_empty()).collect();
        labels.join(".")
    };
    let mut legal = labels(&folded);
    legal.truncate(MAX);
    Some(labels(&legal)).filter(|legal| !legal.is_empty())
}

/// Whether the name is one of those that belong to Kubernetes.
pub fn is_reserved(name: &str) -> bool {
    name.get(..7).is_some_and(|prefix| prefix.eq_ignore_ascii_case("system:"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use roster_api::syntax::is_subdomain;
    use rstest::rstest;

    #[rstest]
    #[case("jane", "jane")]
    #[case("Jane.Doe@Example.COM", "jane.doe-example.com")]
    #[case("Domain Admins", "domain-admins")]
    #[case("_svc_", "svc")]
    #[case("a..b-.c", "a.b.c")]
    #[case("Zoë", "zo")]
    fn names_are_made_legal(#[case] name: &str, #[case] expected: &str) {
        assert_eq!(object_name(name).as_deref(), Some(expected));
    }

    #[test]
    fn nothing_comes_of_nothing() {
        assert_eq!(object_name("-._"), None);
        assert_eq!(object_name("女"), None);
    }

    #[test]
    fn names_of_kubernetes_are_told() {
        assert!(is_reserved("system:masters") && is_reserved("SYSTEM:x"));
        assert!(!is_reserved("systemd") && !is_reserved("süstem:"));
    }

    proptest! {
        #[test]
        fn what_is_made_is_legal_and_stays_as_it_is(name in "\\PC{0,90}") {
            if let Some(made) = object_name(&name) {
                prop_assert!(is_subdomain(&made) && made.len() <= MAX);
                prop_assert_eq!(object_name(&made), Some(made));
            }
        }
    }
}
