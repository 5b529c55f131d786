//! Default requests and limits of containers whose request had to wait.
//!
//! kube-apiserver's LimitRanger sets them before it calls webhooks. So it misses the LimitRange that Roster creates while
//! a request waits for enforcement, and the ResourceQuota then rejects containers without requests.

use std::collections::BTreeMap;

use json_patch::Patch;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use roster_core::quota::amount::write;
use roster_core::quota::defaults::Defaults;

/// Maximum number of containers of a pod that gets defaults. Waiting requests are kept in memory. More containers are
/// left to LimitRanger.
const MAX_CONTAINERS: usize = 256;

/// Requests and limits of a pod's containers, and nothing else of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Containers(PodSpec);

impl Containers {
    /// Returns the containers of a pod. `None` if there are too many.
    pub fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let count = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
        (count <= MAX_CONTAINERS).then(|| {
            Self(PodSpec {
                containers: spec.containers.iter().map(reduced).collect(),
                init_containers: spec.init_containers.as_ref().map(|init| init.iter().map(reduced).collect()),
                ..PodSpec::default()
            })
        })
    }

    /// Returns the patch of the pod that sets what is missing. `None` if nothing is.
    pub fn with_defaults(&self, defaults: &Defaults) -> Option<Patch> {
        let mut spec = self.0.clone();
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            let mut resources = container.resources.clone().unwrap_or_default();
            fill(&mut resources.requests, write(&defaults.requests));
            fill(&mut resources.limits, write(&defaults.limits));
            if resources != ResourceRequirements::default() {
                container.resources = Some(resources);
            }
        }
        let pod =
            |spec: PodSpec| serde_json::to_value(Pod { spec: Some(spec), ..Pod::default() }).expect("a Pod is JSON");
        (spec != self.0).then(|| json_patch::diff(&pod(self.0.clone()), &pod(spec)))
    }
}

fn reduced(container: &Container) -> Container {
    let amounts = |had: &Option<BTreeMap<String, Quantity>>| {
        let compute = |name: &str| ["cpu", "memory", "ephemeral-storage"].contains(&name);
        let had = had.as_ref()?.iter().filter(|(name, _)| compute(name));
        Some(had.map(|(name, amount)| (name.clone(), amount.clone())).collect())
    };
    let resources = container.resources.as_ref().map(|resources| ResourceRequirements {
        requests: amounts(&resources.requests),
        limits: amounts(&resources.limits),
        claims: None,
    });
    Container { resources, ..Container::default() }
}

/// Adds the amounts that are missing.
fn fill(had: &mut Option<BTreeMap<String, Quantity>>, defaults: BTreeMap<String, Quantity>) {
    if defaults.keys().all(|name| had.as_ref().is_some_and(|had| had.contains_key(name))) {
        return;
    }
    let had = had.get_or_insert_default();
    for (name, amount) in defaults {
        had.entry(name).or_insert(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use roster_core::quota::defaults::Pairs;
    use serde_json::{Value, json};

    fn defaults() -> Defaults {
        let amounts = |pairs: &str| pairs.parse::<Pairs>().unwrap().0;
        Defaults { requests: amounts("cpu=100m,memory=0"), limits: amounts("memory=1Gi") }
    }

    /// Returns a pod with the defaults, as kube-apiserver would patch it. `None` without a patch.
    fn patched(spec: &Value) -> Option<Value> {
        let mut pod = json!({"metadata": {"name": "web"}, "spec": spec});
        let containers = Containers::of(&serde_json::from_value(pod.clone()).unwrap()).unwrap();
        json_patch::patch(&mut pod, &containers.with_defaults(&defaults())?).unwrap();
        Some(pod["spec"].take())
    }

    #[test]
    fn what_is_missing_is_set_and_everything_else_is_kept() {
        let requests = json!({"cpu": "100m", "memory": "0"});
        let all = json!({"requests": requests, "limits": {"memory": "1Gi"}});
        let main = |resources: Value| json!({"name": "main", "image": "web:1", "resources": resources});
        let spec = |container: Value| json!({"containers": [{"name": "first", "resources": all}, container]});
        assert_eq!(patched(&spec(json!({"name": "bare"}))), Some(spec(json!({"name": "bare", "resources": all}))));
        for (had, expected) in [
            (json!({}), all.clone()),
            (json!({"requests": {}}), all.clone()),
            (
                json!({"requests": {"cpu": "2", "example.com/gpu": "1"}, "limits": {"example.com/gpu": "1"}}),
                json!({"requests": {"cpu": "2", "memory": "0", "example.com/gpu": "1"},
                    "limits": {"memory": "1Gi", "example.com/gpu": "1"}}),
            ),
            (
                json!({"claims": [{"name": "c"}], "limits": {"cpu": "1"}}),
                json!({"claims": [{"name": "c"}], "limits": {"cpu": "1", "memory": "1Gi"}, "requests": requests}),
            ),
        ] {
            assert_eq!(patched(&spec(main(had.clone()))), Some(spec(main(expected))), "{had}");
        }
        let init = |resources: Value| json!({"containers": [main(all.clone())], "initContainers": [main(resources)]});
        assert_eq!(
            patched(&init(json!({"limits": {"memory": "1Mi"}}))),
            Some(init(json!({"limits": {"memory": "1Mi"}, "requests": requests})))
        );
    }

    #[test]
    fn complete_pods_are_not_patched() {
        let all = json!({"requests": {"cpu": "1", "memory": "1", "example.com/gpu": "1"}, "limits": {"memory": "2"}});
        assert_eq!(patched(&json!({"containers": [{"name": "main", "resources": all}]})), None);
        let containers =
            Containers::of(&serde_json::from_value(json!({"spec": {"containers": [{"name": "main"}]}})).unwrap());
        assert!(containers.unwrap().with_defaults(&Defaults::default()).is_none());
    }

    #[test]
    fn pods_with_too_many_containers_are_left_to_limit_ranger() {
        let pod = |count: usize| {
            let spec = json!({"containers": vec![json!({"name": "x"}); count], "initContainers": [{"name": "i"}]});
            serde_json::from_value::<Pod>(json!({"spec": spec})).unwrap()
        };
        assert!(Containers::of(&pod(MAX_CONTAINERS - 1)).is_some());
        assert!(Containers::of(&pod(MAX_CONTAINERS)).is_none());
    }
}
