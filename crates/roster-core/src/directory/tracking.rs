//! Labels and annotations by which deployment tools recognize the objects that they have created, and decide which of
//! them to delete or to keep.
//!
//! These tools search all resources of the cluster for them, and delete objects that carry them but are not in their
//! source. So directory objects omit them: the tools created the custom resource, and a directory object is only a view
//! of it. The guard treats changes of them like the deletion of the object.

/// Tracking keys, apart from those that a prefix covers.
const KEYS: &[&str] = &[
    // Argo CD's label, unless it is configured to use another one.
    "app.kubernetes.io/instance",
    // Helm.
    "app.kubernetes.io/managed-by",
    // `kubectl apply --prune --applyset`.
    "applyset.kubernetes.io/part-of",
    // Inventories of kpt and of other tools built on cli-utils.
    "config.k8s.io/owning-inventory",
    "client.lifecycle.config.k8s.io/deletion",
    // kubectl's annotation that repeats the applied manifest.
    "kubectl.kubernetes.io/last-applied-configuration",
    // `tk prune`.
    "tanka.dev/environment",
];

/// Prefixes of tracking keys: the DNS name before the slash.
const PREFIXES: &[&str] = &[
    // The add-on manager of Kubernetes.
    "addonmanager.kubernetes.io",
    "argocd.argoproj.io",
    "cli-utils.sigs.k8s.io",
    // Config Sync.
    "configmanagement.gke.io",
    "configsync.gke.io",
    // Flux.
    "helm.toolkit.fluxcd.io",
    "kustomize.toolkit.fluxcd.io",
    // Helm.
    "helm.sh",
    "meta.helm.sh",
    "k0s.k0sproject.io",
    "kapp.k14s.io",
    // Fleet.
    "objectset.rio.cattle.io",
    // Flux Operator.
    "fluxcd.controlplane.io",
    "kluctl.io",
    // Karmada.
    "work.karmada.io",
];

/// Returns whether a label or annotation with this key tracks an object for a deployment tool.
pub(crate) fn is_tracking(key: &str) -> bool {
    KEYS.contains(&key) || key.split_once('/').is_some_and(|(prefix, _)| PREFIXES.contains(&prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The webhook for Namespaces is called only for changes of these annotations.
    #[test]
    fn the_chart_names_the_same_keys() {
        let chart = include_str!("../../../../charts/roster/templates/_helpers.tpl");
        for keys in [KEYS, PREFIXES] {
            let list = keys.iter().map(|key| format!("'{key}'")).collect::<Vec<_>>().join(", ");
            assert!(chart.contains(&format!("in [{list}]")), "_helpers.tpl does not contain this list: {list}");
        }
    }

    #[test]
    fn case_c10_tracking_keys_are_distinguished_from_others() {
        for key in [
            "app.kubernetes.io/instance",
            "argocd.argoproj.io/instance",
            "argocd.argoproj.io/tracking-id",
            "kustomize.toolkit.fluxcd.io/name",
            "kapp.k14s.io/app",
            "meta.helm.sh/release-name",
            "k0s.k0sproject.io/stack",
            "config.k8s.io/owning-inventory",
        ] {
            assert!(is_tracking(key), "{key}");
        }
        for key in ["team", "app.kubernetes.io/name", "example.com/instance", "kapp.k14s.io", "roster.dev/domain"] {
            assert!(!is_tracking(key), "{key}");
        }
    }
}
