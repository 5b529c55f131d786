//! Requests that add to the usage of an owned namespace, and the responses to them.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use jiff::Timestamp;
use json_patch::Patch;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use kube::core::GroupVersionResource;
use roster_api::syntax::is_subdomain;
use roster_core::quota::amount::{Amount, Amounts};
use roster_core::quota::usage::{of_claim, of_pod, of_service};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::defaults::Containers;

/// Maximum number of resource names in a request. Waiting requests are kept in memory, and no real quota limits more
/// names than that.
const MAX_NAMES: usize = 256;

/// Maximum length of a resource name in a request, in bytes: a qualified name has at most 317, and a prefix such as
/// `requests.` is added.
const MAX_NAME_BYTES: usize = 512;

/// Maximum length of the name of a namespace.
const MAX_NAMESPACE_BYTES: usize = 63;

/// Username of kube-controller-manager.
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";

/// Group of the ServiceAccounts in kube-system, among them those of kube-controller-manager's controllers.
const SYSTEM_ACCOUNTS: &str = "system:serviceaccounts:kube-system";

/// Why a request is denied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// What is wrong and what to do.
    pub message: String,
    /// Whether the client should send the request again. Clients such as kubectl and controllers then retry several
    /// times without user action.
    pub is_temporary: bool,
}

impl Refusal {
    fn status(&self) -> Value {
        let message = &self.message;
        if self.is_temporary {
            let details = json!({"retryAfterSeconds": 1});
            let (reason, code) = ("TooManyRequests", 429);
            json!({"status": "Failure", "message": message, "reason": reason, "code": code, "details": details})
        } else {
            json!({"status": "Failure", "message": message, "reason": "Forbidden", "code": 403})
        }
    }
}

/// The fields of an AdmissionReview that matter here. Objects are parsed only if their resource counts.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    api_version: String,
    kind: String,
    #[serde(borrow)]
    request: Option<Request<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: String,
    resource: GroupVersionResource,
    #[serde(default)]
    namespace: String,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow)]
    old_object: Option<&'a RawValue>,
    #[serde(default)]
    user_info: Requester,
}

/// Who sent the request.
#[derive(Default, Deserialize)]
struct Requester {
    #[serde(default)]
    username: String,
    #[serde(default)]
    groups: Vec<String>,
}

impl Requester {
    /// Returns whether it is a controller of Kubernetes. Depending on its flags, kube-controller-manager uses its own
    /// name or ServiceAccounts in kube-system.
    fn is_controller(&self) -> bool {
        self.username == CONTROLLER_MANAGER || self.groups.iter().any(|group| group == SYSTEM_ACCOUNTS)
    }
}

/// Amounts that a request adds to a namespace's usage.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Demand {
    /// The namespace.
    pub namespace: String,
    /// Added amounts by resource name. Empty if the request adds nothing that counts.
    pub wanted: Amounts,
    /// Whether a controller of Kubernetes sent the request. It must not wait: a controller has only a few workers for
    /// the objects of all users, and retries by itself.
    pub is_by_controller: bool,
}

/// An AdmissionReview, reduced to what the decision and the response need.
pub struct QuotaReview {
    api_version: String,
    kind: String,
    uid: String,
    /// Amounts that the request adds.
    pub demand: Demand,
    /// The containers of a pod that the request creates.
    pub containers: Option<Containers>,
}

impl QuotaReview {
    /// Returns the response: it allows the request, with a patch of the object if there is one, or refuses it.
    pub fn answer(self, verdict: Result<Option<Patch>, Refusal>) -> Value {
        let Self { api_version, kind, uid, .. } = self;
        let mut response = json!({"uid": uid, "allowed": verdict.is_ok()});
        match verdict {
            Ok(None) => {}
            Ok(Some(patch)) => {
                let patch = serde_json::to_vec(&patch).expect("a patch is JSON");
                response["patchType"] = json!("JSONPatch");
                response["patch"] = json!(BASE64_STANDARD.encode(patch));
            }
            Err(refusal) => response["status"] = refusal.status(),
        }
        json!({"apiVersion": api_version, "kind": kind, "response": response})
    }
}

/// Why an AdmissionReview can't be judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// It has no request.
    WithoutRequest,
    /// The namespace is not a DNS label. Namespaces are kept in memory, so their length must be bounded.
    Namespace,
}

/// Parses a review.
///
/// # Errors
/// If the body is not an AdmissionReview. The inner error says what the AdmissionReview lacks.
pub fn parse(body: &[u8], now: Timestamp) -> serde_json::Result<Result<QuotaReview, Malformed>> {
    let Envelope { api_version, kind, request } = serde_json::from_slice(body)?;
    let Some(request) = request else { return Ok(Err(Malformed::WithoutRequest)) };
    if !is_namespace(&request.namespace) {
        return Ok(Err(Malformed::Namespace));
    }
    let ((wanted, containers), is_by_controller) = (requested(&request, now), request.user_info.is_controller());
    let demand = Demand { wanted, namespace: request.namespace, is_by_controller };
    Ok(Ok(QuotaReview { api_version, kind, uid: request.uid, demand, containers }))
}

/// Returns whether kube-apiserver accepts a Namespace of that name.
fn is_namespace(name: &str) -> bool {
    name.len() <= MAX_NAMESPACE_BYTES && !name.contains('.') && is_subdomain(name)
}

/// Returns the amounts that the request adds, which are the new object's minus the old one's, and the containers of a new
/// pod.
fn requested(request: &Request<'_>, now: Timestamp) -> (Amounts, Option<Containers>) {
    match request.resource.resource.as_str() {
        "pods" => {
            let (old, new) = objects::<Pod>(request);
            let containers = new.as_ref().filter(|_| old.is_none()).and_then(Containers::of);
            (added(old.as_ref(), new.as_ref(), |pod| of_pod(pod, now)), containers)
        }
        "persistentvolumeclaims" => {
            let (old, new) = objects::<PersistentVolumeClaim>(request);
            (added(old.as_ref(), new.as_ref(), of_claim), None)
        }
        "services" => {
            let (old, new) = objects::<Service>(request);
            (added(old.as_ref(), new.as_ref(), of_service), None)
        }
        _ => (Amounts::new(), None),
    }
}

fn objects<K: DeserializeOwned>(request: &Request<'_>) -> (Option<K>, Option<K>) {
    let parsed =
        |object: Option<&RawValue>| object.and_then(|object| serde_json::from_str::<Option<K>>(object.get()).ok()?);
    (parsed(request.old_object), parsed(request.object))
}

fn added<K>(old: Option<&K>, new: Option<&K>, usage: impl Fn(&K) -> Amounts) -> Amounts {
    let [before, after] = [old, new].map(|object| object.map(&usage).unwrap_or_default());
    let rest = after.into_iter().map(|(name, amount)| {
        let less = before.get(&name).copied().unwrap_or_default();
        (name, amount.saturating_sub(less))
    });
    let wanted: Amounts = rest.filter(|(_, amount)| *amount > Amount::ZERO).collect();
    let is_kept = wanted.len() <= MAX_NAMES && wanted.keys().all(|name| name.len() <= MAX_NAME_BYTES);
    if is_kept { wanted } else { Amounts::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(request: &Value) -> QuotaReview {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        parse(review.to_string().as_bytes(), Timestamp::now()).unwrap().expect("there is a request")
    }

    fn request(object: &Value, old: &Value) -> Value {
        let resource = json!({"group": "", "version": "v1", "resource": "services"});
        json!({
            "uid": "u-1", "resource": resource, "namespace": "x", "dryRun": true, "operation": "UPDATE",
            "userInfo": {}, "object": object, "oldObject": old, "options": {"anything": [1, 2]},
        })
    }

    fn service(ports: usize) -> Value {
        json!({"spec": {"type": "NodePort", "ports": vec![json!({"port": 80}); ports]}})
    }

    #[test]
    fn only_what_a_request_adds_counts() {
        let of = |object: Value, old: Value| review(&request(&object, &old)).demand;
        let added = of(service(3), service(1));
        assert_eq!(added.namespace, "x");
        assert_eq!(added.wanted, Amounts::from([("services.nodeports".to_owned(), Amount::units(2))]));
        let created = of(service(1), Value::Null);
        assert_eq!(created.wanted["services"], Amount::units(1));
        assert!(of(json!(["no", "object"]), Value::Null).wanted.is_empty());
    }

    #[test]
    fn controllers_of_kubernetes_are_recognized() {
        let is_controller = |user: Value| {
            let mut request = request(&service(1), &Value::Null);
            request["userInfo"] = user;
            review(&request).demand.is_by_controller
        };
        assert!(is_controller(json!({"username": "system:kube-controller-manager"})));
        let of_replica_sets = "system:serviceaccount:kube-system:replicaset-controller";
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"];
        assert!(is_controller(json!({"username": of_replica_sets, "groups": groups})));
        assert!(!is_controller(json!({"username": of_replica_sets})), "a user could have that name");
        let own = ["system:serviceaccounts", "system:serviceaccounts:apollo"];
        assert!(!is_controller(json!({"username": "system:serviceaccount:apollo:ci", "groups": own})));
        assert!(!is_controller(json!({})));
    }

    #[test]
    fn requests_with_too_many_names_are_left_to_native_quota() {
        let demand = |names: usize| {
            let requests: serde_json::Map<_, _> =
                (0..names).map(|at| (format!("example.com/{at}"), json!("1"))).collect();
            let pod = json!({"spec": {"containers": [{"name": "main", "resources": {"requests": requests}}]}});
            let mut request = request(&pod, &Value::Null);
            request["resource"]["resource"] = json!("pods");
            review(&request).demand.wanted
        };
        assert!(demand(100).contains_key("requests.example.com/99"));
        assert!(demand(1000).is_empty());
    }

    #[test]
    fn namespaces_are_dns_labels() {
        let parsed = |namespace: &str| {
            let mut request = request(&service(1), &Value::Null);
            request["namespace"] = json!(namespace);
            let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
            parse(review.to_string().as_bytes(), Timestamp::now()).unwrap().map(|review| review.demand.namespace)
        };
        for good in ["a", "team-1", &"a".repeat(63)] {
            assert_eq!(parsed(good).as_deref(), Ok(good));
        }
        for bad in ["", "a.b", "A", "-a", "a/", &"a".repeat(64), &"a".repeat(60_000)] {
            assert_eq!(parsed(bad), Err(Malformed::Namespace), "{bad}");
        }
    }

    #[test]
    fn long_resource_names_are_left_to_native_quota() {
        let wanted = |length: usize| {
            let requests = json!({format!("example.com/{}", "a".repeat(length)): "1"});
            let pod = json!({"spec": {"containers": [{"name": "main", "resources": {"requests": requests}}]}});
            let mut request = request(&pod, &Value::Null);
            request["resource"]["resource"] = json!("pods");
            review(&request).demand.wanted
        };
        assert!(!wanted(63).is_empty() && wanted(MAX_NAME_BYTES).is_empty());
    }

    #[test]
    fn the_response_says_whether_to_try_again() {
        let answer = |verdict| review(&request(&service(1), &Value::Null)).answer(verdict);
        let allowed = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": "u-1", "allowed": true},
        });
        assert_eq!(answer(Ok(None)), allowed);
        let refusal = |is_temporary| Refusal { message: "why".to_owned(), is_temporary };
        let passing = answer(Err(refusal(true)));
        assert_eq!(passing["response"]["allowed"], false);
        assert_eq!(passing["response"]["status"]["code"], 429);
        assert_eq!(passing["response"]["status"]["details"]["retryAfterSeconds"], 1);
        assert_eq!(answer(Err(refusal(false)))["response"]["status"]["code"], 403);
    }

    #[test]
    fn a_body_that_is_not_a_review_is_an_error() {
        assert!(parse(b"[]", Timestamp::now()).is_err());
        let empty = br#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#;
        assert_eq!(parse(empty, Timestamp::now()).unwrap().map(drop), Err(Malformed::WithoutRequest));
    }
}
