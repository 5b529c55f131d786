//! Labels and annotations by which deployment tools recognise the objects that they have created.
//!
//! The directory leaves them out. These tools look for them in every resource of the cluster, and delete what carries
//! them but is not in their source. What they created is the custom resource; a directory object is a view of it.

/// Keys, without those that a prefix covers.
const KEYS: &[&str] = &[
    // Argo CD's label, unless it is configured to use another one.
    "app.kubernetes.io/instance",
    // Helm.
    "app.kubernetes.io/managed-by",
    // `kubectl apply --prune --applyset`.
    "applyset.kubernetes.io/part-of",
    // kubectl's annotation that repeats the applied manifest.
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// DNS names before the slash of a key.
const PREFIXES: &[&str] = &[
    "argocd.argoproj.io",
    // Config Sync.
    "configmanagement.gke.io",
    "configsync.gke.io",
    // Flux.
    "helm.toolkit.fluxcd.io",
    "kustomize.toolkit.fluxcd.io",
    // Helm.
    "helm.sh",
    "meta.helm.sh",
    "kapp.k14s.io",
    // Fleet.
    "objectset.rio.cattle.io",
];

/// Returns whether a label or annotation with this key tracks an object for a deployment tool.
pub(super) fn is_tracking(key: &str) -> bool {
    KEYS.contains(&key) || key.split_once('/').is_some_and(|(prefix, _)| PREFIXES.contains(&prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_c10_tracking_is_told_from_other_labels() {
        for key in [
            "app.kubernetes.io/instance",
            "argocd.argoproj.io/instance",
            "argocd.argoproj.io/tracking-id",
            "kustomize.toolkit.fluxcd.io/name",
            "kapp.k14s.io/app",
            "meta.helm.sh/release-name",
        ] {
            assert!(is_tracking(key), "{key}");
        }
        for key in ["team", "app.kubernetes.io/name", "example.com/instance", "kapp.k14s.io", "roster.dev/domain"] {
            assert!(!is_tracking(key), "{key}");
        }
    }
}
