use rstest::rstest;
use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-02T03:04:05Z";

fn amounts(quantities: Value) -> Amounts {
    read(&serde_json::from_value(quantities).expect("they are quantities"))
}

fn usage_of_pod(pod: Value) -> Amounts {
    let now = NOW.parse().expect("it is a time");
    of_pod(&serde_json::from_value(pod).expect("it is a pod"), now)
}

/// Usage of a pod without the counts that every pod has.
fn compute_of(pod: Value) -> Amounts {
    let mut usage = usage_of_pod(pod);
    for name in ["pods", "count/pods"] {
        assert_eq!(usage.remove(name), Some(Amount::units(1)), "{name}");
    }
    usage
}

/// CPU request and CPU limit of a pod.
fn cpu_of(pod: Value) -> (Option<String>, Option<String>) {
    let usage = compute_of(pod);
    assert_eq!(usage.get("cpu"), usage.get("requests.cpu"));
    let text = |name: &str| usage.get(name).map(ToString::to_string);
    (text("requests.cpu"), text("limits.cpu"))
}

fn some(requested: &str, limit: &str) -> (Option<String>, Option<String>) {
    (Some(requested.to_owned()), Some(limit.to_owned()))
}

/// Builds a container with a CPU request, and a limit ten times as high.
fn container(name: &str, cpu: i64) -> Value {
    let limit = (cpu * 10).to_string();
    json!({"name": name, "resources": {"requests": {"cpu": cpu.to_string()}, "limits": {"cpu": limit}}})
}

fn sidecar(name: &str, cpu: i64) -> Value {
    let mut sidecar = container(name, cpu);
    sidecar["restartPolicy"] = "Always".into();
    sidecar
}

#[test]
fn names_of_a_pod() {
    let resources = json!({
        "requests": {
            "cpu": "250m",
            "memory": "64Mi",
            "ephemeral-storage": "1Gi",
            "hugepages-2Mi": "4Mi",
            "example.com/gpu": "2",
            "deviceclass.resource.kubernetes.io/gpu": "1",
            "kubernetes.io/odd": "5",
        },
        "limits": {
            "cpu": "1",
            "memory": "128Mi",
            "ephemeral-storage": "2Gi",
            "hugepages-2Mi": "4Mi",
            "example.com/gpu": "2",
        },
    });
    let usage = usage_of_pod(json!({"spec": {"containers": [{"name": "a", "resources": resources}]}}));
    let expected = amounts(json!({
        "count/pods": "1",
        "pods": "1",
        "cpu": "250m",
        "requests.cpu": "250m",
        "limits.cpu": "1",
        "memory": "64Mi",
        "requests.memory": "64Mi",
        "limits.memory": "128Mi",
        "ephemeral-storage": "1Gi",
        "requests.ephemeral-storage": "1Gi",
        "limits.ephemeral-storage": "2Gi",
        "hugepages-2Mi": "4Mi",
        "requests.hugepages-2Mi": "4Mi",
        "requests.example.com/gpu": "2",
        "requests.deviceclass.resource.kubernetes.io/gpu": "1",
    }));
    assert_eq!(usage, expected);
}

#[rstest]
#[case(json!({}))]
#[case(json!({"spec": {"containers": []}}))]
#[case(json!({"spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Running"}}))]
#[case(json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "much"}}}]}}))]
fn pods_without_resources_are_only_counted(#[case] pod: Value) {
    assert_eq!(compute_of(pod), Amounts::new());
}

#[test]
fn zero_requests_are_counted_as_zero() {
    let resources = json!({"requests": {"cpu": "0"}, "limits": {"cpu": "0"}});
    let pod = json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
    assert_eq!(cpu_of(pod), some("0", "0"));
}

#[rstest]
#[case::running("Running", None, true)]
#[case::pending("Pending", None, true)]
#[case::unknown("Unknown", None, true)]
#[case::failed("Failed", None, false)]
#[case::succeeded("Succeeded", None, false)]
#[case::to_be_deleted("Running", Some(("2026-01-02T03:04:15Z", Some(0))), true)]
#[case::within_grace("Running", Some(("2026-01-02T03:03:45Z", Some(30))), true)]
#[case::at_the_end_of_grace("Running", Some(("2026-01-02T03:03:35Z", Some(30))), true)]
#[case::stuck("Running", Some(("2026-01-02T03:03:34Z", Some(30))), false)]
#[case::without_grace("Running", Some(("2026-01-02T03:03:34Z", None)), true)]
fn pods_count_until_their_end(
    #[case] phase: &str,
    #[case] deletion: Option<(&str, Option<i64>)>,
    #[case] is_charged: bool,
) {
    let mut pod = json!({"spec": {"containers": [container("a", 1)]}, "status": {"phase": phase}});
    if let Some((time, grace)) = deletion {
        pod["metadata"] = json!({"deletionTimestamp": time, "deletionGracePeriodSeconds": grace});
    }
    let usage = usage_of_pod(pod);
    assert_eq!(usage.get("count/pods"), Some(&Amount::units(1)));
    assert_eq!(usage.len() > 1, is_charged);
    assert_eq!(usage.contains_key("requests.cpu"), is_charged);
    assert_eq!(usage.contains_key("pods"), is_charged);
}

#[rstest]
#[case::sum(vec![container("a", 1), container("b", 2)], vec![], "3", "30")]
#[case::init_below_sum(vec![container("a", 1), container("b", 2)], vec![container("i", 2)], "3", "30")]
#[case::init_above_sum(vec![container("a", 1)], vec![container("i", 5), container("j", 4)], "5", "50")]
#[case::sidecars_run_along(vec![container("a", 1)], vec![sidecar("s", 2), sidecar("t", 3)], "6", "60")]
#[case::init_after_sidecar(vec![container("a", 1)], vec![sidecar("s", 2), container("i", 5)], "7", "70")]
#[case::init_before_sidecar(vec![container("a", 1)], vec![container("i", 5), sidecar("s", 2)], "5", "50")]
#[case::init_between(
    vec![container("a", 1)],
    vec![sidecar("s", 2), container("i", 5), sidecar("t", 1), container("j", 5)],
    "8",
    "80"
)]
fn containers_add_up(
    #[case] containers: Vec<Value>,
    #[case] init: Vec<Value>,
    #[case] requested: &str,
    #[case] limit: &str,
) {
    let pod = json!({"spec": {"containers": containers, "initContainers": init}});
    assert_eq!(cpu_of(pod), some(requested, limit));
}

#[test]
fn only_restart_policy_always_makes_a_sidecar() {
    let mut init = container("i", 1);
    init["restartPolicy"] = "Never".into();
    let pod = json!({"spec": {"containers": [container("a", 1)], "initContainers": [init]}});
    assert_eq!(cpu_of(pod), some("1", "10"));
}

#[test]
fn startup_and_steady_usage_are_compared_by_resource() {
    let main = json!({"name": "a", "resources": {"requests": {"cpu": "2", "memory": "1Mi"}}});
    let init = json!({"name": "i", "resources": {"requests": {"cpu": "1", "memory": "2Mi", "example.com/x": "1"}}});
    let usage = compute_of(json!({"spec": {"containers": [main], "initContainers": [init]}}));
    let expected = json!({
        "cpu": "2",
        "requests.cpu": "2",
        "memory": "2Mi",
        "requests.memory": "2Mi",
        "requests.example.com/x": "1",
    });
    assert_eq!(usage, amounts(expected));
}

#[test]
fn overhead_is_added_to_requests_and_existing_limits() {
    let resources = json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2", "ephemeral-storage": "0"}});
    let usage = compute_of(json!({"spec": {
        "containers": [{"name": "a", "resources": resources}],
        "overhead": {"cpu": "100m", "memory": "16Mi", "ephemeral-storage": "1Gi"},
    }}));
    let expected = json!({
        "cpu": "1100m",
        "requests.cpu": "1100m",
        "limits.cpu": "2100m",
        "memory": "16Mi",
        "requests.memory": "16Mi",
        "ephemeral-storage": "1Gi",
        "requests.ephemeral-storage": "1Gi",
        "limits.ephemeral-storage": "0",
    });
    assert_eq!(usage, amounts(expected));
}

#[test]
fn pod_level_resources_replace_those_of_containers() {
    let resources = json!({
        "requests": {"cpu": "1", "memory": "64Mi", "ephemeral-storage": "1Gi"},
        "limits": {"cpu": "2"},
    });
    let usage = compute_of(json!({
        "spec": {
            "containers": [{"name": "a", "resources": resources}],
            "resources": {
                "requests": {"cpu": "500m", "hugepages-2Mi": "4Mi", "ephemeral-storage": "9Gi"},
                "limits": {"cpu": "700m", "memory": "1Gi"},
            },
            "overhead": {"cpu": "100m"},
        },
        // The evaluator ignores the kubelet's pod-level status.
        "status": {"resources": {"requests": {"cpu": "8"}}, "allocatedResources": {"cpu": "8"}},
    }));
    let expected = json!({
        "cpu": "600m",
        "requests.cpu": "600m",
        "limits.cpu": "800m",
        "memory": "64Mi",
        "requests.memory": "64Mi",
        "limits.memory": "1Gi",
        "ephemeral-storage": "1Gi",
        "requests.ephemeral-storage": "1Gi",
        "hugepages-2Mi": "4Mi",
        "requests.hugepages-2Mi": "4Mi",
    });
    assert_eq!(usage, amounts(expected));
}

/// The container's spec requests 2 (limit 20).
#[rstest]
#[case::no_status(json!(null), json!(null), "2", "20")]
#[case::shrinks(json!({"requests": {"cpu": "3"}, "limits": {"cpu": "30"}}), json!(null), "3", "30")]
#[case::grows(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "10"}}), json!(null), "2", "20")]
#[case::allocated(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "10"}}), json!({"cpu": "4"}), "4", "20")]
#[case::empty(json!({}), json!(null), "2", "20")]
#[case::only_allocated(json!(null), json!({"cpu": "4"}), "2", "20")]
fn resizes_count_the_maximum(
    #[case] resources: Value,
    #[case] allocated: Value,
    #[case] requested: &str,
    #[case] limit: &str,
    #[values("containers", "sidecars")] where_: &str,
) {
    let status = json!({
        "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
        "resources": resources, "allocatedResources": allocated,
    });
    let pod = if where_ == "containers" {
        json!({"spec": {"containers": [container("a", 2)]}, "status": {"containerStatuses": [status]}})
    } else {
        let spec = json!({"containers": [], "initContainers": [sidecar("a", 2)]});
        json!({"spec": spec, "status": {"initContainerStatuses": [status]}})
    };
    assert_eq!(cpu_of(pod), some(requested, limit));
}

#[test]
fn init_containers_are_not_resized() {
    let status = json!({
        "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
        "resources": {"requests": {"cpu": "7"}},
    });
    let spec = json!({"containers": [], "initContainers": [container("a", 2)]});
    let pod = json!({"spec": spec, "status": {"initContainerStatuses": [status]}});
    assert_eq!(cpu_of(pod), some("2", "20"));
}

#[rstest]
#[case::infeasible(vec![("PodResizePending", "Infeasible")], "4", "10")]
#[case::deferred(vec![("PodResizePending", "Deferred")], "5", "50")]
#[case::of_something_else(vec![("Ready", "Infeasible")], "5", "50")]
#[case::first_counts(vec![("PodResizePending", "Deferred"), ("PodResizePending", "Infeasible")], "5", "50")]
fn infeasible_resizes_are_not_counted(
    #[case] conditions: Vec<(&str, &str)>,
    #[case] requested: &str,
    #[case] limit: &str,
) {
    let condition = |(kind, reason): &(&str, &str)| json!({"type": kind, "reason": reason, "status": "True"});
    let pod = json!({
        "spec": {"containers": [container("a", 5)]},
        "status": {
            "conditions": conditions.iter().map(condition).collect::<Vec<_>>(),
            "containerStatuses": [{
                "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "10"}},
                "allocatedResources": {"cpu": "4"},
            }],
        },
    });
    assert_eq!(cpu_of(pod), some(requested, limit));
}

fn usage_of_claim(claim: Value) -> Amounts {
    of_claim(&serde_json::from_value(claim).expect("it is a claim"))
}

#[rstest]
#[case::nothing(json!({}), json!({}))]
#[case::request(json!({"spec": {"resources": {"requests": {"storage": "1Gi"}}}}), json!({"requests.storage": "1Gi"}))]
#[case::whole_bytes(
    json!({"spec": {"resources": {"requests": {"storage": "1500m"}}}}),
    json!({"requests.storage": "2"})
)]
#[case::allocated(
    json!({
        "spec": {"resources": {"requests": {"storage": "1Gi"}}},
        "status": {"allocatedResources": {"storage": "2Gi"}},
    }),
    json!({"requests.storage": "2Gi"})
)]
#[case::less_allocated(
    json!({
        "spec": {"resources": {"requests": {"storage": "1Gi"}}},
        "status": {"allocatedResources": {"storage": "1"}},
    }),
    json!({"requests.storage": "1Gi"})
)]
#[case::only_allocated(json!({"spec": {}, "status": {"allocatedResources": {"storage": "2Gi"}}}), json!({}))]
fn storage_of_claims(#[case] claim: Value, #[case] storage: Value) {
    let mut expected = amounts(storage);
    expected.extend(amounts(json!({"persistentvolumeclaims": "1", "count/persistentvolumeclaims": "1"})));
    assert_eq!(usage_of_claim(claim), expected);
}

#[rstest]
#[case::none(None, None, None)]
#[case::field(Some("gold"), None, Some("gold"))]
#[case::annotation(None, Some("old"), Some("old"))]
#[case::annotation_first(Some("gold"), Some("old"), Some("old"))]
#[case::empty(Some(""), None, None)]
#[case::empty_annotation_first(Some("gold"), Some(""), None)]
fn classes_of_claims(#[case] field: Option<&str>, #[case] annotation: Option<&str>, #[case] class: Option<&str>) {
    let usage = usage_of_claim(json!({
        "metadata": {"annotations": annotation.map(|class| json!({CLASS_ANNOTATION: class}))},
        "spec": {"storageClassName": field, "resources": {"requests": {"storage": "1Gi"}}},
    }));
    let mut expected = amounts(json!({
        "persistentvolumeclaims": "1",
        "count/persistentvolumeclaims": "1",
        "requests.storage": "1Gi",
    }));
    if let Some(class) = class {
        let of_class = |name: &str| format!("{class}.storageclass.storage.k8s.io/{name}");
        expected.insert(of_class("persistentvolumeclaims"), Amount::units(1));
        expected.insert(of_class("requests.storage"), Amount::units(1 << 30));
    }
    assert_eq!(usage, expected);
}

/// One of the three ports has a node port.
#[rstest]
#[case(None, None, 0, 0)]
#[case(Some("ClusterIP"), None, 0, 0)]
#[case(Some("ExternalName"), None, 0, 0)]
#[case(Some("NodePort"), None, 0, 3)]
#[case(Some("NodePort"), Some(false), 0, 3)]
#[case(Some("LoadBalancer"), None, 1, 3)]
#[case(Some("LoadBalancer"), Some(true), 1, 3)]
#[case(Some("LoadBalancer"), Some(false), 1, 1)]
fn services(
    #[case] kind: Option<&str>,
    #[case] allocates: Option<bool>,
    #[case] balancers: i64,
    #[case] node_ports: i64,
) {
    let ports = json!([{"port": 80, "nodePort": 30080}, {"port": 81, "nodePort": 0}, {"port": 82}]);
    let spec = json!({"type": kind, "ports": ports, "allocateLoadBalancerNodePorts": allocates});
    let service: Service = serde_json::from_value(json!({"spec": spec})).expect("it is a service");
    let expected = Amounts::from([
        ("count/services".to_owned(), Amount::units(1)),
        ("services".to_owned(), Amount::units(1)),
        ("services.loadbalancers".to_owned(), Amount::units(balancers)),
        ("services.nodeports".to_owned(), Amount::units(node_ports)),
    ]);
    assert_eq!(of_service(&service), expected);
}

#[test]
fn services_without_a_spec_are_counted() {
    let usage = of_service(&Service::default());
    assert_eq!(usage.get("services"), Some(&Amount::units(1)));
    assert_eq!(usage.get("services.nodeports"), Some(&Amount::ZERO));
}

#[rstest]
#[case("secrets", "", &["count/secrets", "secrets"])]
#[case("configmaps", "", &["configmaps", "count/configmaps"])]
#[case("replicationcontrollers", "", &["count/replicationcontrollers", "replicationcontrollers"])]
#[case("resourcequotas", "", &["count/resourcequotas", "resourcequotas"])]
#[case("endpoints", "", &["count/endpoints"])]
#[case("deployments", "apps", &["count/deployments.apps"])]
#[case("secrets", "example.com", &["count/secrets.example.com"])]
fn counted_objects(#[case] plural: &str, #[case] group: &str, #[case] names: &[&str]) {
    let usage = of_counted(plural, group);
    assert_eq!(usage.keys().collect::<Vec<_>>(), names);
    assert!(usage.values().all(|amount| *amount == Amount::units(1)));
}
