//! Quota resources that can be counted by listing objects, and the objects to list.

use super::usage::of_counted;

/// Plural, group, version and kind.
type Kind = (&'static str, &'static str, &'static str, &'static str);

/// Kinds that are counted per object.
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

/// Kind that cannot be counted if the operator may not list it in all namespaces.
const SECRETS: &str = "secrets";

/// Returns the kinds that are counted per object. `with_secrets` includes Secrets.
pub fn countable(with_secrets: bool) -> impl Iterator<Item = &'static Kind> {
    COUNTABLE.iter().filter(move |(plural, ..)| with_secrets || *plural != SECRETS)
}

/// Returns whether a resource can be counted by listing. Custom resources cannot: the operator may not read them.
pub fn is_countable(name: &str, with_secrets: bool) -> bool {
    let by_kind = || [OF_PODS, OF_CLAIMS, OF_SERVICES].into_iter().flatten().any(|pattern| is_of(name, pattern));
    by_kind() || countable(with_secrets).any(|(plural, group, ..)| of_counted(plural, group).contains_key(name))
}

/// Resources that pods use; a `*` at either end matches anything.
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

/// Resources that PersistentVolumeClaims use.
pub const OF_CLAIMS: &[&str] =
    &["persistentvolumeclaims", "count/persistentvolumeclaims", "requests.storage", "*.storageclass.storage.k8s.io/*"];

/// Resources that Services use.
pub const OF_SERVICES: &[&str] = &["services", "services.loadbalancers", "services.nodeports", "count/services"];

/// Returns whether a name matches a pattern.
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
    // ResourceClaims (dynamic resource allocation) may use it, too, and are not listed.
    #[case("requests.nvidia.com/gpu", OF_PODS, false)]
    #[case("requests.storage", OF_PODS, false)]
    #[case("fast.storageclass.storage.k8s.io/requests.storage", OF_CLAIMS, true)]
    #[case("fast.storageclass.storage.k8s.io/requests.storage", OF_PODS, false)]
    #[case("count/deployments.apps", OF_PODS, false)]
    #[case("services.nodeports", OF_SERVICES, true)]
    fn resource_names_belong_to_kinds(#[case] name: &str, #[case] kinds: &[&str], #[case] expected: bool) {
        assert_eq!(kinds.iter().any(|pattern| is_of(name, pattern)), expected);
    }
}
