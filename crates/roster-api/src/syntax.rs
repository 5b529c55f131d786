//! Syntax of object names and labels, as kube-apiserver validates them.

/// Returns whether `name` is a DNS-1123 subdomain, which most object names must be.
pub fn is_subdomain(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label =
        |label: &str| !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-');
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Returns whether `key` is a label key: a name with an optional prefix (a subdomain and a slash).
pub fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_value(name)
}

/// Returns whether `value` is a label value. It may be empty.
pub fn is_label_value(value: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let edge = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    value.len() <= 63 && value.bytes().all(inner) && edge(value.bytes().next()) && edge(value.bytes().last())
}

/// Resources of a quota that are counted, besides those that [`is_counted`] recognizes by their form.
pub(crate) const COUNTED: [&str; 10] = [
    "namespaces",
    "pods",
    "services",
    "services.loadbalancers",
    "services.nodeports",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "resourcequotas",
];

/// Returns whether a quota counts this resource, so that its limit is an integer. Others are measured, in cores or bytes.
pub fn is_counted(resource: &str) -> bool {
    COUNTED.contains(&resource) || resource.starts_with("count/") || resource.ends_with("/persistentvolumeclaims")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_validated_like_in_kube_apiserver() {
        for good in ["a", "a-b.c", "0", &"a".repeat(253)] {
            assert!(is_subdomain(good), "{good}");
        }
        for bad in ["", "A", "a..b", "-a", "a-", "a.-b", "a_b", &"a".repeat(254)] {
            assert!(!is_subdomain(bad), "{bad}");
        }
    }

    #[test]
    fn labels_are_validated_like_in_kube_apiserver() {
        for good in ["a", "A_b.c-D", "example.com/team", "a/b"] {
            assert!(is_label_key(good), "{good}");
        }
        for bad in ["", "/", "a/", "/a", "a/b/c", "-a", "a_", "Example.com/a", "a b", &"a".repeat(64)] {
            assert!(!is_label_key(bad), "{bad}");
        }
        assert!(is_label_value("") && is_label_value("x") && !is_label_value("-x") && !is_label_value("ä"));
    }
}
