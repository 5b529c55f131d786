//! Derives names of objects from the names of users and groups.

use deunicode::deunicode;

/// Maximum length of the name of a User or Group, set by the CRDs.
pub(super) const MAX_LENGTH: usize = 63;

/// Converts a name to a valid `metadata.name`: transliterated to ASCII, in lower case, with hyphens in place of invalid
/// characters. Returns `None` if the name contains no letter or digit. The result depends only on the name, so that
/// importing a file again updates the same objects.
pub fn object_name(name: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
    let folded: String =
        deunicode(name).to_ascii_lowercase().chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    let labels = |text: &str| -> String {
        let labels: Vec<&str> =
            text.split('.').map(|label| label.trim_matches('-')).filter(|label| !label.is_empty()).collect();
        labels.join(".")
    };
    let mut valid = labels(&folded);
    valid.truncate(MAX_LENGTH);
    Some(labels(&valid)).filter(|valid| !valid.is_empty())
}

/// Returns the name in the source, unless it equals the name of the object, ignoring case.
pub(super) fn derived(name: &str, title: &str) -> Option<String> {
    (name != title.to_lowercase()).then(|| title.to_owned())
}

/// Returns whether the name has the prefix `system:`, which is reserved for Kubernetes.
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
    #[case("Zoë", "zoe")]
    #[case("Ädmins", "admins")]
    #[case("Straße", "strasse")]
    #[case("Ольга", "ol-ga")]
    #[case("女", "nu")]
    fn names_are_converted(#[case] name: &str, #[case] expected: &str) {
        assert_eq!(object_name(name).as_deref(), Some(expected));
    }

    #[test]
    fn names_without_letters_and_digits_have_no_object_name() {
        assert_eq!(object_name("-._"), None);
        assert_eq!(object_name("\u{e000}"), None);
    }

    #[test]
    fn the_prefix_of_kubernetes_is_reserved() {
        assert!(is_reserved("system:masters") && is_reserved("SYSTEM:x"));
        assert!(!is_reserved("systemd") && !is_reserved("süstem:"));
    }

    proptest! {
        #[test]
        fn object_names_are_valid_and_conversion_is_idempotent(name in "\\PC{0,90}") {
            if let Some(converted) = object_name(&name) {
                prop_assert!(is_subdomain(&converted) && converted.len() <= MAX_LENGTH);
                prop_assert_eq!(object_name(&converted), Some(converted));
            }
        }
    }
}
