//! Evaluates whether a rule of a native role allows an action, with the semantics of Kubernetes RBAC.

use k8s_openapi::api::authorization::v1::{NonResourceAttributes, ResourceAttributes};
use k8s_openapi::api::rbac::v1::PolicyRule;

/// Returns whether the rule allows the action on a resource.
///
/// Source: `k8s.io/kubernetes/pkg/apis/rbac/v1/evaluation_helpers.go`, the reference for the meaning of rules.
pub fn allows_resource(rule: &PolicyRule, asked: &ResourceAttributes) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (resource, subresource) = (text(&asked.resource), text(&asked.subresource));
    let full = if subresource.is_empty() { resource } else { format!("{resource}/{subresource}") };
    let matches_resource = |allowed: &String| {
        allowed == "*"
            || *allowed == full
            || !subresource.is_empty() && allowed.strip_prefix("*/").is_some_and(|allowed| allowed == subresource)
    };
    let names = rule.resource_names.as_deref().unwrap_or_default();
    has(&rule.verbs, &text(&asked.verb))
        && has(rule.api_groups.as_deref().unwrap_or_default(), &text(&asked.group))
        && rule.resources.iter().flatten().any(matches_resource)
        && (names.is_empty() || names.contains(&text(&asked.name)))
}

/// Returns whether the rule allows the action on a non-resource path.
pub fn allows_path(rule: &PolicyRule, asked: &NonResourceAttributes) -> bool {
    let path = asked.path.as_deref().unwrap_or_default();
    let matches_path =
        |allowed: &String| allowed == path || allowed.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix));
    has(&rule.verbs, asked.verb.as_deref().unwrap_or_default())
        && rule.non_resource_urls.iter().flatten().any(matches_path)
}

fn has(allowed: &[String], asked: &str) -> bool {
    allowed.iter().any(|allowed| allowed == "*" || allowed == asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("pods", "", "pods", "", true)]
    #[case("pods", "", "pods", "log", false)]
    #[case("pods/log", "", "pods", "log", true)]
    #[case("*/log", "", "pods", "log", true)]
    #[case("*", "", "pods", "log", true)]
    #[case("*/log", "", "pods", "", false)]
    #[case("pods", "web", "pods", "", false)]
    fn resources(
        #[case] allowed: &str,
        #[case] name: &str,
        #[case] resource: &str,
        #[case] subresource: &str,
        #[case] expected: bool,
    ) {
        let rule = PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(vec![allowed.to_owned()]),
            resource_names: (!name.is_empty()).then(|| vec![name.to_owned()]),
            verbs: vec!["get".to_owned()],
            non_resource_urls: None,
        };
        let asked = ResourceAttributes {
            resource: Some(resource.to_owned()),
            subresource: Some(subresource.to_owned()),
            verb: Some("get".to_owned()),
            ..ResourceAttributes::default()
        };
        assert_eq!(allows_resource(&rule, &asked), expected);
        let named = ResourceAttributes { name: Some("web".to_owned()), ..asked.clone() };
        assert_eq!(allows_resource(&rule, &named), expected || !name.is_empty());
        assert!(!allows_resource(&rule, &ResourceAttributes { verb: Some("list".to_owned()), ..asked }));
    }

    #[rstest]
    #[case("/healthz", "/healthz", true)]
    #[case("/healthz", "/healthz/etcd", false)]
    #[case("/healthz/*", "/healthz/etcd", true)]
    #[case("*", "/anything", true)]
    fn paths(#[case] allowed: &str, #[case] path: &str, #[case] expected: bool) {
        let rule = PolicyRule {
            non_resource_urls: Some(vec![allowed.to_owned()]),
            verbs: vec!["*".to_owned()],
            ..PolicyRule::default()
        };
        let asked = NonResourceAttributes { path: Some(path.to_owned()), verb: Some("get".to_owned()) };
        assert_eq!(allows_path(&rule, &asked), expected);
    }
}
