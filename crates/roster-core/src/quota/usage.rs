//! Usage: what one object takes of a ResourceQuota, name by name, as kube-apiserver counts it.
//!
//! Written after the evaluators of Kubernetes 1.36, with the features that are on there by default: resources of whole
//! pods, resizing in place, and volumes whose expansion is taken back.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, PersistentVolumeClaim, Pod, PodSpec, ResourceRequirements, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::amount::{Amount, Amounts, add_all, read};

/// Where the storage class of a claim was before it had a field; kube-apiserver still looks there first.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Kinds that could be counted before everything could be, and still can be by that name, too.
const COUNTED_BY_PLURAL: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

/// What a pod uses. One that is at its end is still an object, but uses nothing else.
pub fn of_pod(pod: &Pod, now: Timestamp) -> Amounts {
    let mut usage = of_counted("pods", "");
    if is_over(pod, now) {
        return usage;
    }
    usage.insert("pods".to_owned(), Amount::units(1));
    for (name, amount) in total(pod, Side::Requests) {
        let is_hugepages = name.starts_with("hugepages-");
        if is_native(&name) || is_hugepages || is_extended(&name) {
            usage.insert(format!("requests.{name}"), amount);
        }
        if is_native(&name) || is_hugepages {
            usage.insert(name, amount);
        }
    }
    for (name, amount) in total(pod, Side::Limits) {
        if is_native(&name) {
            usage.insert(format!("limits.{name}"), amount);
        }
    }
    usage
}

/// What a claim uses, of its storage class as well.
pub fn of_claim(claim: &PersistentVolumeClaim) -> Amounts {
    let mut usage = of_counted("persistentvolumeclaims", "");
    let mut used = vec![("persistentvolumeclaims", Amount::units(1))];
    used.extend(storage_of(claim).map(|storage| ("requests.storage", storage)));
    let class = class_of(claim);
    for (name, amount) in used {
        if let Some(class) = class {
            usage.insert(format!("{class}.storageclass.storage.k8s.io/{name}"), amount);
        }
        usage.insert(name.to_owned(), amount);
    }
    usage
}

/// What a service uses. Ports of nodes are counted as they are meant to be, for there are none yet on creation.
pub fn of_service(service: &Service) -> Amounts {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let kind = spec.and_then(|spec| spec.type_.as_deref()).unwrap_or_default();
    let allocates = spec.and_then(|spec| spec.allocate_load_balancer_node_ports).unwrap_or(true);
    let (balancers, node_ports) = match kind {
        "NodePort" => (0, ports.len()),
        "LoadBalancer" if allocates => (1, ports.len()),
        "LoadBalancer" => (1, ports.iter().filter(|port| port.node_port.unwrap_or(0) != 0).count()),
        _ => (0, 0),
    };

    let mut usage = of_counted("services", "");
    usage.insert("services".to_owned(), Amount::units(1));
    usage.insert("services.loadbalancers".to_owned(), Amount::units(balancers));
    usage.insert("services.nodeports".to_owned(), Amount::units(i64::try_from(node_ports).unwrap_or(i64::MAX)));
    usage
}

/// What an object of any kind uses by being there. The group of the core is empty.
pub fn of_counted(plural: &str, group: &str) -> Amounts {
    let mut usage = Amounts::new();
    if !group.is_empty() {
        usage.insert(format!("count/{plural}.{group}"), Amount::units(1));
        return usage;
    }
    usage.insert(format!("count/{plural}"), Amount::units(1));
    if COUNTED_BY_PLURAL.contains(&plural) {
        usage.insert(plural.to_owned(), Amount::units(1));
    }
    usage
}

/// Whether the pod has ended, or should have long ago: one that is stuck on a lost node must not stand in the way of
/// its successor.
fn is_over(pod: &Pod, now: Timestamp) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Failed" | "Succeeded")) {
        return true;
    }
    let (Some(deletion), Some(grace)) = (&pod.metadata.deletion_timestamp, pod.metadata.deletion_grace_period_seconds)
    else {
        return false;
    };
    now.duration_since(deletion.0) > SignedDuration::from_secs(grace)
}

/// Names that a quota has for requests and limits both.
fn is_native(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage")
}

/// Whether something on nodes has that name that Kubernetes knows nothing about, or a class of devices.
fn is_extended(name: &str) -> bool {
    let is_foreign = name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.");
    is_foreign || name.starts_with("deviceclass.resource.kubernetes.io/")
}

/// Names of which a pod as a whole can have resources.
fn is_of_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Requests and limits add up alike, but for what comes on top.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Side {
    Requests,
    Limits,
}

impl Side {
    fn of(self, resources: Option<&ResourceRequirements>) -> Amounts {
        let list = resources.and_then(|resources| match self {
            Self::Requests => resources.requests.as_ref(),
            Self::Limits => resources.limits.as_ref(),
        });
        read_some(list)
    }
}

/// What a pod requests, or is limited to, altogether.
fn total(pod: &Pod, side: Side) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut total = of_containers(pod, spec, side);

    // What is said of the pod as a whole replaces the sum of its containers.
    total.extend(side.of(spec.resources.as_ref()).into_iter().filter(|(name, _)| is_of_pods(name)));

    let mut overhead = read_some(spec.overhead.as_ref());
    if side == Side::Limits {
        // What is not limited does not become so by the overhead.
        overhead.retain(|name, _| total.get(name).is_some_and(|limit| *limit != Amount::ZERO));
    }
    add_all(&mut total, &overhead);
    total
}

/// What the containers of a pod need: all that run together, or what its start takes where that is more.
fn of_containers(pod: &Pod, spec: &PodSpec, side: Side) -> Amounts {
    let resizes = Resizes::of(pod);
    let mut running = Amounts::new();
    for container in &spec.containers {
        add_all(&mut running, &resizes.effective(container, side));
    }

    let mut sidecars = Amounts::new();
    let mut starting = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            let own = resizes.effective(container, side);
            add_all(&mut running, &own);
            add_all(&mut sidecars, &own);
            raise(&mut starting, &sidecars);
        } else {
            // It is alone but for the sidecars that were started before it, and is never resized.
            let mut step = side.of(container.resources.as_ref());
            add_all(&mut step, &sidecars);
            raise(&mut starting, &step);
        }
    }
    raise(&mut running, &starting);
    running
}

/// What the kubelet says about the resources of the containers of a pod.
struct Resizes<'a> {
    statuses: BTreeMap<&'a str, &'a ContainerStatus>,
    /// Whether the node will never be able to do what the spec asks for now.
    is_infeasible: bool,
}

impl<'a> Resizes<'a> {
    fn of(pod: &'a Pod) -> Self {
        let Some(status) = &pod.status else { return Self { statuses: BTreeMap::new(), is_infeasible: false } };
        let containers = status.container_statuses.iter().flatten();
        let statuses = containers.chain(status.init_container_statuses.iter().flatten());
        let mut conditions = status.conditions.iter().flatten();
        let pending = conditions.find(|condition| condition.type_ == "PodResizePending");
        Self {
            statuses: statuses.map(|status| (status.name.as_str(), status)).collect(),
            is_infeasible: pending.is_some_and(|condition| condition.reason.as_deref() == Some("Infeasible")),
        }
    }

    /// While a container is resized it counts for the most of what it was and what it will be.
    fn effective(&self, container: &Container, side: Side) -> Amounts {
        let wanted = side.of(container.resources.as_ref());
        let Some(status) = self.statuses.get(container.name.as_str()).filter(|status| status.resources.is_some())
        else {
            return wanted;
        };
        let mut effective = if self.is_infeasible { Amounts::new() } else { wanted };
        raise(&mut effective, &side.of(status.resources.as_ref()));
        if side == Side::Requests {
            raise(&mut effective, &read_some(status.allocated_resources.as_ref()));
        }
        effective
    }
}

/// Raises amounts to those of the same name that are larger.
fn raise(amounts: &mut Amounts, others: &Amounts) {
    for (name, other) in others {
        let amount = amounts.entry(name.clone()).or_insert(*other);
        *amount = (*amount).max(*other);
    }
}

fn read_some(quantities: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    quantities.map(read).unwrap_or_default()
}

/// The storage class that a claim names.
fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotation = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    let class = annotation.or_else(|| claim.spec.as_ref()?.storage_class_name.as_ref())?;
    (!class.is_empty()).then_some(class.as_str())
}

/// The bytes that a claim asks for, or those that it still has where an expansion was taken back.
fn storage_of(claim: &PersistentVolumeClaim) -> Option<Amount> {
    let storage = |list: &BTreeMap<String, Quantity>| Amount::parse(&list.get("storage")?.0);
    let requested = storage(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?)?;
    let allocated = claim.status.as_ref().and_then(|status| storage(status.allocated_resources.as_ref()?));
    Some(allocated.map_or(requested, |allocated| allocated.max(requested)).round_up())
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
