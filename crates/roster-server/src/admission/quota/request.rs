//! Requests that add to the usage of an owned namespace, and the responses to them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use kube::core::GroupVersionResource;
use roster_core::quota::amount::{Amount, Amounts};
use roster_core::quota::usage::{of_claim, of_pod, of_service};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// Most resource names that a request may use. Whatever waits is in memory, and nobody limits more names than that.
const MAX_NAMES: usize = 256;

/// Why a request is denied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// What is wrong and what to do.
    pub message: String,
    /// Whether the client should send the request again. Clients such as kubectl and controllers then do so by
    /// themselves, several times.
    pub is_passing: bool,
}

impl Refusal {
    fn status(&self) -> Value {
        let message = &self.message;
        if self.is_passing {
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
}

/// Amounts that a request adds to a namespace's usage.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Demand {
    /// The namespace.
    pub namespace: String,
    /// Added amounts by resource name. Empty if the request adds nothing that counts.
    pub wanted: Amounts,
}

/// An AdmissionReview, reduced to what the demand and the response need.
pub struct QuotaReview {
    api_version: String,
    kind: String,
    uid: String,
    /// Amounts that the request adds.
    pub demand: Demand,
}

impl QuotaReview {
    /// Returns the response: it allows the request unless there is a refusal.
    pub fn answer(self, refusal: Option<&Refusal>) -> Value {
        let Self { api_version, kind, uid, .. } = self;
        let mut response = json!({"uid": uid, "allowed": refusal.is_none()});
        if let Some(refusal) = refusal {
            response["status"] = refusal.status();
        }
        json!({"apiVersion": api_version, "kind": kind, "response": response})
    }
}

/// Parses a review. Returns `None` if it has no request.
///
/// # Errors
/// If the body is not an AdmissionReview.
pub fn parse(body: &[u8], now: Timestamp) -> serde_json::Result<Option<QuotaReview>> {
    let Envelope { api_version, kind, request } = serde_json::from_slice(body)?;
    Ok(request.map(|request| {
        let demand = Demand { wanted: requested(&request, now), namespace: request.namespace };
        QuotaReview { api_version, kind, uid: request.uid, demand }
    }))
}

/// Returns the amounts that the request adds: the new object's minus the old one's.
fn requested(request: &Request<'_>, now: Timestamp) -> Amounts {
    let (old, new) = (request.old_object, request.object);
    match request.resource.resource.as_str() {
        "pods" => added::<Pod>(old, new, |pod| of_pod(pod, now)),
        "persistentvolumeclaims" => added::<PersistentVolumeClaim>(old, new, of_claim),
        "services" => added::<Service>(old, new, of_service),
        _ => Amounts::new(),
    }
}

fn added<K: DeserializeOwned>(
    old: Option<&RawValue>,
    new: Option<&RawValue>,
    usage: impl Fn(&K) -> Amounts,
) -> Amounts {
    let used = |object: Option<&RawValue>| {
        let object: Option<K> = object.and_then(|object| serde_json::from_str(object.get()).ok());
        object.as_ref().map(&usage).unwrap_or_default()
    };
    let before = used(old);
    let rest = used(new).into_iter().map(|(name, amount)| {
        let less = before.get(&name).copied().unwrap_or_default();
        (name, amount.saturating_sub(less))
    });
    let wanted: Amounts = rest.filter(|(_, amount)| *amount > Amount::ZERO).collect();
    if wanted.len() <= MAX_NAMES { wanted } else { Amounts::new() }
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
    fn what_a_request_adds_is_what_counts() {
        let of = |object: Value, old: Value| review(&request(&object, &old)).demand;
        let added = of(service(3), service(1));
        assert_eq!(added.namespace, "x");
        assert_eq!(added.wanted, Amounts::from([("services.nodeports".to_owned(), Amount::units(2))]));
        let created = of(service(1), Value::Null);
        assert_eq!(created.wanted["services"], Amount::units(1));
        assert!(of(json!(["no", "object"]), Value::Null).wanted.is_empty());
    }

    #[test]
    fn what_names_too_much_is_left_to_native_quota() {
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
    fn the_answer_says_whether_to_try_again() {
        let answer = |refusal: Option<&Refusal>| review(&request(&service(1), &Value::Null)).answer(refusal);
        let allowed = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": "u-1", "allowed": true},
        });
        assert_eq!(answer(None), allowed);
        let refusal = |is_passing| Refusal { message: "why".to_owned(), is_passing };
        let passing = answer(Some(&refusal(true)));
        assert_eq!(passing["response"]["allowed"], false);
        assert_eq!(passing["response"]["status"]["code"], 429);
        assert_eq!(passing["response"]["status"]["details"]["retryAfterSeconds"], 1);
        assert_eq!(answer(Some(&refusal(false)))["response"]["status"]["code"], 403);
    }

    #[test]
    fn what_is_no_review_is_an_error() {
        assert!(parse(b"[]", Timestamp::now()).is_err());
        let empty = br#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#;
        assert!(parse(empty, Timestamp::now()).unwrap().is_none());
    }
}
