//! The OpenAPI document describes what is served: schemathesis sends valid and invalid requests to every path.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::kubectl::people;
use super::{BASE, directory, get};
use crate::logins::{PASSWORD, body, person};
use crate::support::{Cluster, TIMEOUT, run_python, unique};

/// Checks that schemathesis applies to every response.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                      response_headers_conformance,unsupported_method,allow_header_conformance,ignored_auth";

/// Duration of the run, in seconds.
const SECONDS: &str = "40";

/// A bearer token of a cluster administrator, for an operator's own port.
fn administrator_token(cluster: &Cluster) -> String {
    let account = unique("validator");
    let subject = format!("--serviceaccount=default:{account}");
    cluster.kubectl(&["create", "serviceaccount", &account]);
    cluster.kubectl(&["create", "clusterrolebinding", &account, "--clusterrole=cluster-admin", &subject]);
    cluster.kubectl(&["create", "token", &account]).trim().to_owned()
}

/// Writes the certificates of the operators' authority.
async fn write_authority(cluster: &Cluster, file: &Path) {
    let secret = cluster.secrets("roster-system").await.get("roster-ca").await.unwrap();
    let texts = secret.data.unwrap().into_values().map(|pem| String::from_utf8(pem.0).unwrap());
    // Other entries hold the private keys.
    let certificates = texts.filter(|text| text.contains("BEGIN CERTIFICATE") && !text.contains("PRIVATE KEY"));
    std::fs::write(file, certificates.collect::<String>()).unwrap();
}

/// Returns the document that kube-apiserver serves. It reads the documents of aggregated APIs some time after it starts.
fn openapi_document(cluster: &Cluster) -> String {
    let path = format!("/openapi/v3{BASE}");
    let read = || cluster.plane.kubectl.run(&["get", "--raw", &path]);
    roster_harness::kubectl::eventually("kube-apiserver has read the OpenAPI document", TIMEOUT, read).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openapi_document_describes_what_is_served() {
    let cluster = directory();
    let name = people(cluster, &unique("validated"), 1).await.remove(0);
    // A group of the same name, because the paths of both call it `name`.
    let group = format!(
        "apiVersion: roster.dev/v1alpha1\nkind: Group\nmetadata: {{name: {name}}}\nspec: {{members: [{name}]}}\n"
    );
    cluster.apply(&group);
    let dir = tempfile::tempdir().unwrap();
    let authority = dir.path().join("ca.pem");
    write_authority(cluster, &authority).await;
    // Names that exist, and no watches, which would not end. Kubernetes answers 504 for a revision ahead of the server.
    let settings = format!(
        "[parameters]\n\"path.name\" = {name:?}\n\"path.user\" = {name:?}\n\"query.watch\" = false\n\
         \"query.timeoutSeconds\" = 1\n\
         [checks]\nnot_a_server_error.expected-statuses = [\"2xx\", \"3xx\", \"4xx\", \"504\"]\n"
    );
    std::fs::write(dir.path().join("schemathesis.toml"), settings).unwrap();
    let python = roster_harness::python_with_packages().expect("Python is installed");
    let url = cluster.operators()[0].url();
    let output = Command::new(python.with_file_name("schemathesis"))
        .args(["run", &format!("{url}/openapi/v3{BASE}"), "--url", &url, "--no-color", "--tls-verify"])
        .arg(&authority)
        .args(["--header", &format!("Authorization: Bearer {}", administrator_token(cluster))])
        .args(["--checks", CHECKS, "--phases", "coverage,fuzzing", "--max-time", SECONDS, "--warnings", "off"])
        // The server closes idle connections to make room for others.
        .args([
            "--request-retries",
            "3",
            "--seed",
            "21",
            "--generation-database",
            "none",
            "--continue-on-failure",
            "--no-shrink",
        ])
        .current_dir(dir.path())
        .output()
        .expect("schemathesis runs");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{report}");
}

/// A client that is generated from the OpenAPI document can read everything that is served.
#[tokio::test(flavor = "multi_thread")]
async fn a_generated_client_agrees_with_what_is_served() {
    let cluster = directory();
    let name = person(cluster, "generated", |user| user.spec.display_name = Some("Generated".to_owned())).await;
    let group = format!(
        "apiVersion: roster.dev/v1alpha1\nkind: Group\nmetadata: {{name: {name}}}\nspec: {{members: [{name}]}}\n"
    );
    cluster.apply(&group);
    let dir = tempfile::tempdir().unwrap();
    let (authority, document) = (dir.path().join("ca.pem"), dir.path().join("openapi.json"));
    write_authority(cluster, &authority).await;
    std::fs::write(&document, openapi_document(cluster)).unwrap();
    let python = roster_harness::python_with_packages().expect("Python is installed");
    let generated = Command::new(python.with_file_name("openapi-python-client"))
        .args(["generate", "--meta", "none", "--fail-on-warning", "--output-path"])
        .arg(dir.path().join("generated"))
        .arg("--path")
        .arg(&document)
        .arg("--config")
        .arg(no_hooks(dir.path()))
        .output()
        .expect("openapi-python-client runs");
    let said = String::from_utf8_lossy(&generated.stdout) + String::from_utf8_lossy(&generated.stderr);
    assert!(generated.status.success(), "{said}");
    let given = json!({
        "folder": dir.path(),
        "package": "generated",
        "url": cluster.operators()[0].url(),
        "authority": authority,
        "token": administrator_token(cluster),
        "name": name,
        "login": serde_json::from_str::<Value>(&body("Login", &json!({"username": name, "password": PASSWORD}))).unwrap(),
        "key": serde_json::from_str::<Value>(&body("APIKey", &json!({"displayName": "generated", "currentPassword": PASSWORD}))).unwrap(),
    });
    let calls = run_python(include_str!("client.py"), &given);
    assert!(calls.as_u64().unwrap() > 15, "{calls}");
}

/// Writes the generator's configuration: without formatting the code afterwards.
fn no_hooks(dir: &Path) -> PathBuf {
    let file = dir.join("generator.json");
    std::fs::write(&file, json!({"post_hooks": []}).to_string()).unwrap();
    file
}

/// Lists are described as lists, also those of a subresource.
#[tokio::test]
async fn lists_of_subresources_are_described_as_lists() {
    let cluster = directory();
    let person = people(cluster, &unique("described"), 1).await.remove(0);
    let document: Value = serde_json::from_str(&openapi_document(cluster)).unwrap();
    for (part, item) in [
        ("apikeys", "APIKey"),
        ("groups", "GroupMembership"),
        ("namespaces", "UserNamespace"),
        ("roleassignments", "RoleAssignment"),
    ] {
        let answer = &document["paths"][format!("{BASE}/users/{{name}}/{part}")]["get"]["responses"]["200"];
        let reference = answer["content"]["application/json"]["schema"]["$ref"].as_str().unwrap();
        assert!(reference.ends_with(&format!(".{item}List")), "{part}: {reference}");
        let schema = &document["components"]["schemas"][reference.rsplit('/').next().unwrap()];
        assert_eq!((&schema["properties"]["items"]["type"], &schema["required"]), (&json!("array"), &json!(["items"])));
        let served = get(cluster, &format!("users/{person}/{part}"));
        assert_eq!((&served["kind"], served["items"].is_array()), (&json!(format!("{item}List")), true), "{part}");
    }
}
