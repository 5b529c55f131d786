//! Options that every Kubernetes client may send. kube-apiserver's OpenAPI document lists them, so an option that is new in
//! a later version is tested as well.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::kubectl::people;
use super::{BASE, Direct, IDENTITY, directory, encoded, front_proxy};
use crate::support::{Cluster, unique};

/// Names and types of options.
type Parameters = Vec<(String, String)>;

/// Options of a client.
struct Options {
    /// By method, for one object.
    single: BTreeMap<String, Parameters>,
    /// By method, for a collection.
    collection: BTreeMap<String, Parameters>,
    /// Fields of `DeleteOptions`, each with its schema.
    deletion: Vec<(String, Value)>,
}

fn options(cluster: &Cluster) -> Options {
    let document = cluster.kubectl(&["get", "--raw", "/openapi/v3/api/v1"]);
    let document: Value = serde_json::from_str(&document).unwrap();
    let of_path = |path: &str| {
        let operations = document["paths"][path].as_object().unwrap();
        let methods = operations.iter().filter(|(method, _)| *method != "parameters");
        let options = |operation: &Value| {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let option = |parameter: &Value| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                (text(&parameter["name"]), text(&parameter["schema"]["type"]))
            };
            parameters.map(option).collect::<Vec<_>>()
        };
        methods.map(|(method, operation)| (method.clone(), options(operation))).collect()
    };
    let deletion = &document["components"]["schemas"]["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"];
    Options {
        single: of_path("/api/v1/nodes/{name}"),
        collection: of_path("/api/v1/nodes"),
        deletion: deletion["properties"].as_object().unwrap().clone().into_iter().collect(),
    }
}

/// Returns the option with a valid value, and the options that it needs.
fn written(name: &str, kind: &str) -> String {
    let value = match (name, kind) {
        ("dryRun", _) => "All",
        ("fieldValidation", _) => "Strict",
        ("propagationPolicy", _) => "Background",
        ("fieldSelector", _) => "metadata.name=a",
        ("labelSelector", _) => "a!=b",
        ("resourceVersion", _) => "0",
        ("continue", _) => "",
        ("shardSelector", _) => "shardRange(object.metadata.uid, '0x0', '0x8000000000000000')",
        ("resourceVersionMatch", _) => return "resourceVersionMatch=NotOlderThan&resourceVersion=1".to_owned(),
        ("watch", _) => return "watch=true&timeoutSeconds=1".to_owned(),
        ("sendInitialEvents", _) => {
            return "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&watch=true&timeoutSeconds=1".to_owned();
        }
        (_, "boolean") => "true",
        (_, "integer") => "1",
        _ => "something",
    };
    format!("{name}={}", encoded(value))
}

#[tokio::test]
async fn case_c3_every_option_of_a_client_is_accepted() {
    let cluster = directory();
    let person = people(cluster, &unique("options"), 1).await.remove(0);
    let (certificate, key) = front_proxy(cluster);
    let direct = Direct::new(cluster, 0, Some((&certificate, &key))).await;
    let Options { mut single, mut collection, .. } = options(cluster);
    for expected in ["shardSelector", "sendInitialEvents", "resourceVersionMatch", "allowWatchBookmarks"] {
        assert!(collection["get"].iter().any(|(name, _)| name == expected), "{expected}: {collection:?}");
    }
    let ignored = "ignoreStoreReadErrorWithClusterBreakingPotential";
    assert!(single["delete"].iter().any(|(name, _)| name == ignored), "{single:?}");
    // GetOptions, and the type of all options, which the document leaves out.
    single.get_mut("get").unwrap().push(("resourceVersion".to_owned(), "string".to_owned()));
    for options in single.values_mut().chain(collection.values_mut()) {
        options.extend(["kind", "apiVersion", "pretty"].map(|name| (name.to_owned(), "string".to_owned())));
    }
    let (lists, one) = (&collection["get"], &single["get"]);
    let of = |kind: &str, spec: Value| {
        json!({"apiVersion": "directory.roster.dev/v1alpha1", "kind": kind, "spec": spec}).to_string()
    };
    let review = of("AccessReview", json!({"nonResourceAttributes": {"path": "/", "verb": "get"}}));
    let unlock = of("Unlock", json!({}));
    let login = of("Login", json!({"username": "nobody", "password": "nothing"}));
    let verify = of("PasswordReview", json!({"username": "nobody", "password": "nothing"}));
    let mut requests: Vec<(&str, String, &Parameters, &str)> = vec![
        ("GET", "users".to_owned(), lists, ""),
        ("GET", "groups".to_owned(), lists, ""),
        ("GET", "roleassignments".to_owned(), lists, ""),
        ("GET", format!("users/{person}"), one, ""),
        ("POST", format!("users/{person}/accessreviews"), &collection["post"], &review),
        ("POST", format!("users/{person}/unlock"), &collection["post"], &unlock),
        ("POST", "logins".to_owned(), &collection["post"], &login),
        ("POST", "passwordreviews".to_owned(), &collection["post"], &verify),
        ("PATCH", "users/~".to_owned(), &single["patch"], "{}"),
        ("DELETE", format!("users/{person}/totp"), &single["delete"], ""),
        ("DELETE", format!("users/{person}/apikeys/none"), &single["delete"], ""),
    ];
    for part in ["groups", "locks", "namespaces", "permissions", "quota", "roleassignments", "apikeys", "totp"] {
        requests.push(("GET", format!("users/{person}/{part}"), one, ""));
    }
    for (method, path, options, body) in requests {
        for (name, kind) in options {
            // Assignments are selected by fields of their own.
            let option = match (path.as_str(), name.as_str()) {
                ("roleassignments", "fieldSelector") => "fieldSelector=role%3Dedit".to_owned(),
                _ => written(name, kind),
            };
            let answer = direct
                .send(method, &format!("{BASE}/{path}?{option}"), IDENTITY, body)
                .await
                .unwrap_or_else(|error| panic!("{method} {path} {name}: {error:#}"));
            // Login attempts always count, so they refuse dryRun. Role assignments have no watch, as discovery says.
            let is_refused = matches!(
                (path.as_str(), name.as_str()),
                ("logins" | "passwordreviews", "dryRun") | ("roleassignments", "watch" | "sendInitialEvents")
            );
            let is_error = matches!(answer.status, 400 | 405 | 422) || answer.status >= 500;
            assert_eq!(is_error, is_refused, "{method} {path} {name}: {} {}", answer.status, answer.body);
        }
    }
}

/// Options without a meaning are ignored. Clients see from the missing `shardInfo` that a list is not a shard.
#[tokio::test]
async fn case_c3_ignored_options_change_nothing() {
    let cluster = directory();
    let domain = unique("ignored");
    let people = people(cluster, &domain, 3).await;
    let shard = encoded("shardRange(object.metadata.uid, '0x0', '0x1')");
    let list = super::get(cluster, &format!("users?filterBy=domain,{domain}&shardSelector={shard}"));
    assert_eq!((super::names(&list), &list["metadata"]["shardInfo"]), (people, &Value::Null));
    // Assignments have no labels.
    let assignments = |selector: &str| {
        let path = format!("roleassignments?limit=5&labelSelector={}", encoded(selector));
        super::get(cluster, &path)["items"].as_array().unwrap().len()
    };
    assert!(assignments("a!=b,!c") > 0);
    assert_eq!((assignments("a"), assignments("a=b"), assignments("a in (b)")), (0, 0, 0));
}

#[tokio::test]
async fn case_c3_delete_options_in_a_body_are_applied() {
    let cluster = directory();
    let person = people(cluster, &unique("deleting"), 1).await.remove(0);
    let (certificate, key) = front_proxy(cluster);
    let direct = Direct::new(cluster, 0, Some((&certificate, &key))).await;
    let create = json!({"apiVersion": "directory.roster.dev/v1alpha1", "kind": "APIKey", "spec": {"displayName": "x"}});
    let keys = format!("{BASE}/users/{person}/apikeys");
    let made = direct.send("POST", &keys, IDENTITY, &create.to_string()).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.body);
    let path = format!("{keys}/{}", made.json()["metadata"]["name"].as_str().unwrap());
    let delete = async |fields: Value| {
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        options.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        direct.send("DELETE", &path, IDENTITY, &options.to_string()).await.unwrap()
    };
    for (name, schema) in options(cluster).deletion {
        let (value, expected) = match (name.as_str(), schema["type"].as_str()) {
            ("kind" | "apiVersion", _) => continue,
            ("dryRun", _) => (json!(["All"]), 200),
            // An API key has no UID, so the precondition fails.
            ("preconditions", _) => (json!({"uid": "4f2c"}), 409),
            (_, Some("boolean")) => (json!(true), 200),
            (_, Some("integer")) => (json!(1), 200),
            _ => (json!("Background"), 200),
        };
        let mut fields = json!({"dryRun": ["All"]});
        fields[&name] = value;
        let answer = delete(fields).await;
        assert_eq!(answer.status, expected, "{name}: {}", answer.body);
        assert_eq!(direct.get(&path, IDENTITY).await.status, 200, "{name}: the key is still there");
    }
    assert_eq!(delete(json!({"dryRun": ["Some"]})).await.status, 400);
    let deleted = delete(json!({})).await;
    assert_eq!(deleted.status, 200, "{}", deleted.body);
    let message = deleted.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains(&format!("of User {person} (username {person})")), "{message}");
    assert_eq!(direct.get(&path, IDENTITY).await.status, 404);
}
