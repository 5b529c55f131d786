//! Checks what the chart renders with kubeconform, kube-score and kube-apiserver.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use roster_harness::assets::linters;
use roster_harness::{project_root, target_dir};
use serde_json::{Value, json};

use super::{EVERYTHING, objects, of_kind, rendered};
use crate::support::{shared, unique};

/// Ways to set values that render different things.
const WAYS: &[&[&str]] = &[
    &[],
    &["--values", EVERYTHING],
    &["--set", "externalURL=https://roster.example.com:8443", "--set", "passwordAdmission=false"],
    &["--set", "certificates.provider=cert-manager"],
];

/// Kinds of foreign CRDs, whose schemas are not available here. They were checked against their documentation by
/// hand.
const FOREIGN: &[&str] = &["Certificate", "Issuer", "PrometheusRule", "ServiceMonitor"];

/// Writes a JSON schema for each requested kind from the OpenAPI document of the API server, without additional
/// properties. Its definitions are JSON schemas except for a few conventions of Kubernetes.
fn write_schemas(folder: &std::path::Path, kinds: &BTreeSet<(String, String)>) {
    let document = shared().kubectl(&["get", "--raw", "/openapi/v2"]);
    let mut document: Value = serde_json::from_str(&document).unwrap();
    let mut definitions = document["definitions"].take();
    for definition in definitions.as_object_mut().unwrap().values_mut() {
        make_strict(definition);
    }
    for (api_version, kind) in kinds {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let wanted = json!({"group": group, "version": version, "kind": kind});
        let name = definitions.as_object().unwrap().iter().find_map(|(name, definition)| {
            let names = definition["x-kubernetes-group-version-kind"].as_array()?;
            names.contains(&wanted).then_some(name)
        });
        let name = name.unwrap_or_else(|| panic!("the cluster does not know {kind} of {api_version}"));
        let mut needed = BTreeMap::new();
        collect(&definitions, name, &mut needed);
        let schema = json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "$ref": format!("#/definitions/{name}"),
            "definitions": needed,
        });
        // kubeconform uses `v1` for the core group.
        let group = if group.is_empty() { version } else { group };
        let file = folder.join(format!("{}-{group}-{version}.json", kind.to_lowercase()));
        std::fs::write(file, schema.to_string()).unwrap();
    }
}

/// Collects the definition of that name and all that it refers to.
fn collect<'a>(definitions: &'a Value, name: &str, found: &mut BTreeMap<String, &'a Value>) {
    let definition = &definitions[name];
    if found.insert(name.to_owned(), definition).is_some() {
        return;
    }
    let text = definition.to_string();
    for rest in text.split("#/definitions/").skip(1) {
        collect(definitions, rest.split('"').next().unwrap_or_default(), found);
    }
}

fn make_strict(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    if fields.get("format").is_some_and(|format| format == "int-or-string") {
        fields.insert("type".into(), json!(["integer", "string"]));
    }
    // Formats of Go (int32, byte) are not JSON schema formats.
    fields.remove("format");
    let is_open = fields.contains_key("additionalProperties")
        || fields.get("x-kubernetes-preserve-unknown-fields").is_some_and(|open| open == true);
    if fields.contains_key("properties") && !is_open {
        fields.insert("additionalProperties".into(), false.into());
    }
    for schema in fields.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        make_strict(schema.1);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(schema) = fields.get_mut(inner) {
            make_strict(schema);
        }
    }
}

#[test]
fn every_manifest_matches_the_schemas_of_the_cluster() {
    let folder = target_dir().join("tests/schemas");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let all: Vec<Value> = WAYS.iter().flat_map(|args| objects(args)).collect();
    let kinds = all.iter().map(|object| (object["apiVersion"].clone(), object["kind"].clone()));
    let kinds = kinds.map(|(version, kind)| (version.as_str().unwrap().to_owned(), kind.as_str().unwrap().to_owned()));
    let kinds = kinds.filter(|(_, kind)| !FOREIGN.contains(&kind.as_str())).collect();
    write_schemas(&folder, &kinds);

    let template =
        format!("{}/{{{{.ResourceKind}}}}-{{{{.Group}}}}-{{{{.ResourceAPIVersion}}}}.json", folder.display());
    let kubeconform = linters().unwrap().join("kubeconform");
    let check = |manifest: &str| {
        let file = folder.join("manifest.yaml");
        std::fs::write(&file, manifest).unwrap();
        let mut command = Command::new(&kubeconform);
        command.args(["-strict", "-schema-location", &template, "-skip", &FOREIGN.join(",")]).arg(&file);
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    for args in WAYS {
        let (passes, said) = check(&rendered(args));
        assert!(passes, "{args:?}: {said}");
    }
    for (good, bad) in [("minReadySeconds:", "minReadySecond:"), ("replicas: 2", "replicas: two")] {
        let (passes, said) = check(&rendered(&[]).replacen(good, bad, 1));
        assert!(!passes, "{bad} passes: {said}");
    }
}

/// Returns object, check and comment of each finding of kube-score.
fn findings(args: &[&str]) -> BTreeSet<[String; 3]> {
    let file = target_dir().join("tests").join(unique("score"));
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, rendered(args)).unwrap();
    let output = Command::new(linters().unwrap().join("kube-score"))
        .args(["score", "--kubernetes-version", "v1.33", "--output-format", "json"])
        .args(["--enable-optional-test", "container-seccomp-profile"])
        .arg(&file)
        .output()
        .unwrap();
    let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut findings = BTreeSet::new();
    for object in scores.as_array().unwrap() {
        let meta = (&object["type_meta"]["kind"], &object["object_meta"]["name"]);
        let name = format!("{}/{}", meta.0.as_str().unwrap(), meta.1.as_str().unwrap());
        for check in object["checks"].as_array().unwrap() {
            // A grade of 10 is a pass.
            if check["skipped"] == true || check["grade"].as_i64() >= Some(10) {
                continue;
            }
            for comment in check["comments"].as_array().unwrap() {
                let texts = [&check["check"]["id"], &comment["summary"]].map(|text| text.as_str().unwrap().to_owned());
                let [id, summary] = texts;
                findings.insert([name.clone(), id, summary]);
            }
        }
    }
    findings
}

#[test]
fn linter_findings_are_fixed_or_justified() {
    let found: BTreeSet<[String; 3]> = WAYS.iter().flat_map(|args| findings(args)).collect();
    let text = std::fs::read_to_string(project_root().join("controlplane/linters/exceptions.yaml")).unwrap();
    let exceptions: Vec<Value> = serde_yaml::from_str(&text).unwrap();
    let argued = exceptions.iter().map(|exception| {
        assert!(exception["because"].as_str().is_some_and(|because| because.len() > 20), "{exception}");
        ["object", "check", "finding"].map(|key| exception[key].as_str().unwrap().to_owned())
    });
    assert_eq!(
        found,
        argued.collect(),
        "findings of kube-score, and those that controlplane/linters/exceptions.yaml justifies"
    );
}

#[test]
fn no_permission_uses_a_wildcard() {
    let mut rules = 0;
    for object in WAYS.iter().flat_map(|args| objects(args)) {
        for rule in object["rules"].as_array().into_iter().flatten() {
            assert!(!rule.to_string().contains('*'), "{}: {rule}", object["metadata"]["name"]);
            rules += 1;
        }
        // Bound roles belong to the chart, except for the Kubernetes role that reads the front proxy's authority.
        if let Some(role) = object["roleRef"]["name"].as_str().filter(|_| object["apiVersion"] != "roster.dev/v1alpha1")
        {
            assert!(role.starts_with("roster") || role == "extension-apiserver-authentication-reader", "{object}");
        }
    }
    assert!(rules > 40);
}

#[test]
fn the_cluster_accepts_every_rendering() {
    let cluster = shared();
    for args in WAYS {
        let all = objects(args);
        // Pods are checked below: they need a ServiceAccount.
        let known = all.iter().filter(|object| !FOREIGN.contains(&object["kind"].as_str().unwrap()));
        let known = known.filter(|object| object["kind"] != "Pod");
        let list = json!({"apiVersion": "v1", "kind": "List", "items": known.collect::<Vec<_>>()});
        let command = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
        let output = cluster.plane.kubectl.output(&command, &list.to_string()).unwrap();
        // The chart is already installed with other values: conflicts of names are reported only after validation.
        let complaints = String::from_utf8(output.stderr).unwrap();
        let complaints: Vec<&str> = complaints.lines().filter(|line| !line.contains("(AlreadyExists)")).collect();
        assert!(complaints.is_empty(), "{args:?}: {complaints:#?}");
    }
}

#[test]
fn every_pod_complies_with_restricted_pod_security() {
    let cluster = shared();
    let namespace = unique("restricted");
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, labels: \
         {{pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/enforce-version: latest}}}}}}"
    ));
    for account in ["roster", "roster-check"] {
        cluster.kubectl(&["create", "serviceaccount", account, "-n", &namespace]);
    }
    let try_to_create = |pod: &Value| {
        let command = ["create", "--dry-run=server", "-f", "-"];
        cluster.plane.kubectl.run_with_input(&command, &pod.to_string())
    };
    for args in WAYS {
        let objects = objects(&[&["--namespace", &namespace], *args].concat());
        let templates = of_kind(&objects, "Deployment").map(|deployment| &deployment["spec"]["template"]);
        for template in templates.chain(of_kind(&objects, "Pod")) {
            let mut pod = json!({
                "apiVersion": "v1", "kind": "Pod", "spec": template["spec"],
                "metadata": {"name": "roster", "namespace": namespace, "labels": template["metadata"]["labels"]},
            });
            try_to_create(&pod).unwrap_or_else(|error| panic!("{args:?}: {error:#}"));
            pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = true.into();
            let error = try_to_create(&pod).expect_err("Pod Security is on").to_string();
            assert!(error.contains("violates PodSecurity \"restricted:latest\""), "{error}");
        }
    }
}
