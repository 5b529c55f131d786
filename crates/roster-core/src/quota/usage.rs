//! Usage: how much of each quota resource an object takes, as kube-apiserver counts it.
//!
//! Modeled on the evaluators of Kubernetes 1.36 and the features enabled there by default: pod-level resources,
//! in-place resizing, and recovery from failed volume expansion.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, PersistentVolumeClaim, Pod, PodSpec, ResourceRequirements, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::amount::{Amount, Amounts, add_all, read};

/// Former location of a claim's storage class; kube-apiserver still gives it precedence over the field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Kinds that Kubernetes has always counted by their plural name, in addition to `count/…`.
const COUNTED_BY_PLURAL: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

/// Returns the usage of a pod. An ended pod counts only as an object.
pub fn of_pod(pod: &Pod, now: Timestamp) -> Amounts {
    let mut usage = of_counted("pods", "");
    if has_ended(pod, now) {
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

/// Returns the usage of a claim, including that of its storage class.
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

/// Returns the usage of a service. Node ports are counted as requested, because none are assigned yet on creation.
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

/// Returns the object count of any kind. `group` is empty for the core group.
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

/// Returns whether the pod has ended, or its deletion has exceeded the grace period: a pod that is stuck on a lost node
/// must not block its replacement.
fn has_ended(pod: &Pod, now: Timestamp) -> bool {
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

/// Returns whether a resource has names for both requests and limits.
fn is_native(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage")
}

/// Returns whether the name is that of an extended resource of nodes, or of a device class.
fn is_extended(name: &str) -> bool {
    let is_foreign = name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.");
    is_foreign || name.starts_with("deviceclass.resource.kubernetes.io/")
}

/// Returns whether pod-level resources may contain this name.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Requests or limits. Both add up in the same way, except for overhead.
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

/// Returns the total requests or limits of a pod.
fn total(pod: &Pod, side: Side) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut total = of_containers(pod, spec, side);

    // Pod-level resources replace the sum of the containers.
    total.extend(side.of(spec.resources.as_ref()).into_iter().filter(|(name, _)| is_pod_level(name)));

    let mut overhead = read_some(spec.overhead.as_ref());
    if side == Side::Limits {
        // Overhead does not limit a resource that is not limited otherwise.
        overhead.retain(|name, _| total.get(name).is_some_and(|limit| *limit != Amount::ZERO));
    }
    add_all(&mut total, &overhead);
    total
}

/// Returns what a pod's containers need: all that run together or, for resources of which startup needs more, the
/// startup phase.
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
            // An init container runs alone, except for the sidecars started before it, and is never resized.
            let mut step = side.of(container.resources.as_ref());
            add_all(&mut step, &sidecars);
            raise(&mut starting, &step);
        }
    }
    raise(&mut running, &starting);
    running
}

/// The kubelet's status of the containers' resources.
struct Resizes<'a> {
    statuses: BTreeMap<&'a str, &'a ContainerStatus>,
    /// Whether the node can never satisfy the current spec.
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

    /// Returns what a container counts for: during a resize, the maximum of the old and new values.
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

/// Raises amounts to larger ones of the same name.
fn raise(amounts: &mut Amounts, others: &Amounts) {
    for (name, other) in others {
        let amount = amounts.entry(name.clone()).or_insert(*other);
        *amount = (*amount).max(*other);
    }
}

fn read_some(quantities: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    quantities.map(read).unwrap_or_default()
}

/// Returns the storage class that a claim names.
fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotation = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    let class = annotation.or_else(|| claim.spec.as_ref()?.storage_class_name.as_ref())?;
    (!class.is_empty()).then_some(class.as_str())
}

/// Returns the bytes that a claim requests, or still has after an expansion was reverted, whichever is more.
fn storage_of(claim: &PersistentVolumeClaim) -> Option<Amount> {
    let storage = |list: &BTreeMap<String, Quantity>| Amount::parse(&list.get("storage")?.0);
    let requested = storage(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?)?;
    let allocated = claim.status.as_ref().and_then(|status| storage(status.allocated_resources.as_ref()?));
    Some(allocated.map_or(requested, |allocated| allocated.max(requested)).round_up())
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
