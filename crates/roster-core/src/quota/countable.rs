//! What of a quota can be counted by looking at what is there, and what has to be looked at for it.

use super::usage::of_counted;

/// Plural, group, version and kind.
type Kind = (&'static str, &'static str, &'static str, &'static str);

/// Kinds that are counted one by one.
const COUNTABLE: &[Kind] = &[
    ("configmaps", "", "v1", "ConfigMap"),
    ("replicationcontrollers", "", "v1", "ReplicationController"),
    ("resourcequotas", "", "v1", "ResourceQuota"),
    ("secrets", "", "v1", "Secret"),
    ("daemonsets", "apps", "v1", "DaemonSet"),
    ("deployments", "apps", "v1", "Deployment"),
    ("replicasets", "apps", "v1", "ReplicaSet"),
    ("statefulsets", "apps", "v1", "StatefulSet"),
    ("cronjobs", "batch", "v1", "CronJob"),
    ("jobs", "batch", "v1", "Job"),
    ("ingresses", "networking.k8s.io", "v1", "Ingress"),
];

/// The kind that can't be counted where the operator may not list it in all namespaces.
const SECRETS: &str = "secrets";

/// Kinds that are counted one by one; `with_secrets`: Secrets are among them.
pub fn countable(with_secrets: bool) -> impl Iterator<Item = &'static Kind> {
    COUNTABLE.iter().filter(move |(plural, ..)| with_secrets || *plural != SECRETS)
}

/// Whether what has that name can be counted: of custom resources, the operator has no right to read any.
pub fn is_countable(name: &str, with_secrets: bool) -> bool {
    let by_kind = || [OF_PODS, OF_CLAIMS, OF_SERVICES].into_iter().flatten().any(|pattern| is_of(name, pattern));
    by_kind() || countable(with_secrets).any(|(plural, group, ..)| of_counted(plural, group).contains_key(name))
}

/// Names that pods count for; `*` stands for anything, at an end.
pub const OF_PODS: &[&str] = &[
    "pods",
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.*",
    "hugepages-*",
    "requests.hugepages-*",
];

/// Names that claims count for.
pub const OF_CLAIMS: &[&str] =
    &["persistentvolumeclaims", "count/persistentvolumeclaims", "requests.storage", "*.storageclass.storage.k8s.io/*"];

/// Names that Services count for.
pub const OF_SERVICES: &[&str] = &["services", "services.loadbalancers", "services.nodeports", "count/services"];

/// Whether a name is one of those that a pattern stands for.
pub fn is_of(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => name == pattern,
        Some((start, "")) => name.starts_with(start),
        Some((_, rest)) => name.contains(rest.trim_end_matches('*')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[test]
    fn secrets_are_counted_where_they_may_be_listed() {
        for name in ["secrets", "count/secrets"] {
            assert!(is_countable(name, true) && !is_countable(name, false));
        }
        assert!(is_countable("configmaps", false));
    }

    #[rstest]
    #[case("requests.cpu", OF_PODS, true)]
    #[case("limits.memory", OF_PODS, true)]
    // Claims of dynamic resource allocation may count for it, too, and are not looked at.
    #[case("requests.nvidia.com/gpu", OF_PODS, false)]
    #[case("requests.storage", OF_PODS, false)]
    #[case("fast.storageclass.storage.k8s.io/requests.storage", OF_CLAIMS, true)]
    #[case("fast.storageclass.storage.k8s.io/requests.storage", OF_PODS, false)]
    #[case("count/deployments.apps", OF_PODS, false)]
    #[case("services.nodeports", OF_SERVICES, true)]
    fn names_belong_to_kinds(#[case] name: &str, #[case] kinds: &[&str], #[case] expected: bool) {
        assert_eq!(kinds.iter().any(|pattern| is_of(name, pattern)), expected);
    }
}
