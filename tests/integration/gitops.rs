//! GitOps: repeated syncs of a repository change nothing, and tools read the health from the conditions.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use roster_harness::{project_root, target_dir};
use serde_json::{Value, json};

use crate::shared_cluster::SharedCluster;
use crate::support::{Cluster, audit_position, eventually, operator_writes, wait_for_text, wait_until_ready};

/// Manifests of a team's repository.
const PEOPLE: &str = "examples/gitops/people";

/// Names under which Flux and Argo CD apply.
const MANAGERS: [&str; 2] = ["kustomize-controller", "argocd-controller"];

fn cluster() -> &'static Cluster {
    static GITOPS: SharedCluster = SharedCluster::new(|| {
        let cluster = Cluster::create("gitops", &[]);
        cluster.start_operator(&[]);
        cluster
    });
    GITOPS.get()
}

/// Tool that computes the health of an object.
#[derive(Clone, Copy, Debug)]
enum HealthModel {
    /// Flux, with the library kstatus.
    Flux,
    /// Argo CD, with the health script from the examples.
    ArgoCd,
}

/// Builds the program that computes health with the tools' own code, and returns its path.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = target_dir().join("gitops-health");
        let mut build = Command::new("go");
        build.current_dir(project_root().join("tests/gitops-health")).args(["build", "-o"]).arg(&program).arg(".");
        assert!(build.status().expect("go is installed").success(), "tests/gitops-health could not be built");
        program
    })
}

/// Returns a file with Argo CD's health script for Roster's kinds.
fn script() -> PathBuf {
    let manifest = std::fs::read_to_string(project_root().join("examples/gitops/argocd/health.yaml")).unwrap();
    let config: Value = serde_yaml::from_str(&manifest).unwrap();
    let scripts = config["data"].as_object().unwrap();
    assert_eq!(scripts.len(), 3, "one for each kind");
    let path = target_dir().join("argocd-health.lua");
    let script = |kind: &str| scripts[&format!("resource.customizations.health.roster.dev_{kind}")].as_str().unwrap();
    assert!(["Group", "RoleBinding"].iter().all(|kind| script(kind) == script("User")));
    std::fs::write(&path, script("User")).unwrap();
    path
}

/// Returns the health and message of Roster's objects, by name.
fn health(cluster: &Cluster, model: HealthModel) -> BTreeMap<String, (String, String)> {
    let list = cluster.kubectl(&["get", "users.roster.dev,groups.roster.dev,rolebindings.roster.dev", "-o", "json"]);
    let mut command = Command::new(program());
    if matches!(model, HealthModel::ArgoCd) {
        command.arg("--lua").arg(script());
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    said.lines()
        .map(|line| {
            let mut parts = line.splitn(3, '\t').map(str::to_owned);
            let mut next = || parts.next().unwrap_or_default();
            (next(), (next(), next()))
        })
        .collect()
}

async fn wait_for_health(cluster: &Cluster, model: HealthModel, name: &str, expected: &str) -> String {
    eventually(&format!("{model:?} says that {name} is {expected}"), || async {
        match health(cluster, model).remove(name) {
            Some((health, message)) if health == expected => Ok(message),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

fn sync(cluster: &Cluster, manager: &str, what: &[&str]) {
    cluster.kubectl(&[&["apply", "--server-side", "--field-manager", manager], what].concat());
}

/// Returns the resource versions of everything declared in the repository and created from it.
fn versions(cluster: &Cluster) -> Vec<String> {
    let kinds = "users.roster.dev,groups.roster.dev,rolebindings.roster.dev,secrets,\
                 clusterrolebindings.rbac.authorization.k8s.io,rolebindings.rbac.authorization.k8s.io,\
                 validatingwebhookconfigurations,mutatingwebhookconfigurations,apiservices,validatingadmissionpolicies";
    let path = "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
    cluster.kubectl(&["get", kinds, "-A", "-o", path]).lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_syncs_by_two_gitops_tools_change_nothing() {
    let cluster = cluster();
    cluster.kubectl(&["create", "namespace", "apollo"]);
    cluster.kubectl(&["label", "namespace", "apollo", "roster.dev/project=apollo"]);
    let chart = render(cluster);
    let repository = [vec!["-k", PEOPLE], vec!["-f", chart.to_str().unwrap()]];
    for manager in MANAGERS {
        for part in &repository {
            sync(cluster, manager, part);
        }
    }
    for (model, healthy) in [(HealthModel::Flux, "Current"), (HealthModel::ArgoCd, "Healthy")] {
        for name in ["grace", "alan", "developers", "leads", "developers-edit", "leads-view"] {
            wait_for_health(cluster, model, name, healthy).await;
        }
    }
    wait_for_text(cluster, &["rolebindings.roster.dev", "developers-edit"], "{.status.bindings}", "1").await;
    crate::quota::wait_until_idle(cluster).await;

    let (before, position) = (versions(cluster), audit_position(cluster));
    for at in 0..10 {
        for part in &repository {
            sync(cluster, MANAGERS[at % 2], part);
            let diff = [&["diff", "--server-side", "--field-manager", MANAGERS[at % 2]], &part[..]].concat();
            let output = cluster.plane.kubectl.output(&diff, "").unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    crate::quota::wait_until_idle(cluster).await;
    let writes: Vec<String> =
        operator_writes(cluster, position).into_iter().filter(|write| !write.contains("/leases/")).collect();
    assert!(writes.iter().all(|write| write.contains("subjectaccessreviews")), "{writes:#?}");
    assert_eq!(versions(cluster), before);
}

/// Renders the chart as a GitOps tool does, with the values of the installation.
fn render(cluster: &Cluster) -> PathBuf {
    let values = cluster.plane.kubectl.helm(&["get", "values", "roster", "-n", "roster-system", "-o", "yaml"]).unwrap();
    let values_file = cluster.plane.dir.join("values.yaml");
    std::fs::write(&values_file, values).unwrap();
    let chart = project_root().join("charts/roster");
    let version: Value = serde_json::from_str(&cluster.kubectl(&["get", "--raw", "/version"])).unwrap();
    let mut args = vec!["template", "roster", chart.to_str().unwrap(), "-n", "roster-system", "--no-hooks"];
    args.extend(["--include-crds", "--kube-version", version["gitVersion"].as_str().unwrap()]);
    args.extend(["-f", values_file.to_str().unwrap()]);
    let rendered = cluster.plane.kubectl.helm(&args).unwrap();
    // Roster sets the path. In a cluster the chart omits it. The URL of an operator outside the cluster must have one,
    // so the manifest that is applied must omit the URL.
    let lines = rendered.lines().filter(|line| !line.trim_start().starts_with("url: https://localhost"));
    let lines = lines.map(|line| if line.trim() == "clientConfig:" { format!("{line} {{}}") } else { line.to_owned() });
    let rendered = lines.collect::<Vec<_>>().join("\n");
    let path = cluster.plane.dir.join("chart.yaml");
    std::fs::write(&path, rendered).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn gitops_tools_distinguish_progressing_from_failed() {
    let cluster = cluster();
    cluster.apply(
        "apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {name: first}\nspec: {email: taken@example.com}\n---\n\
         apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {name: waiting}\n\
         spec: {passwordSecretRef: {namespace: default, name: to-come}}\n",
    );
    wait_until_ready(&cluster.users().await, "first").await;
    cluster.apply(
        "apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {name: second}\nspec: {email: taken@example.com}\n",
    );
    let judges = [(HealthModel::Flux, "InProgress", "Failed"), (HealthModel::ArgoCd, "Progressing", "Degraded")];
    for (model, not_yet, never) in judges {
        let message = wait_for_health(cluster, model, "waiting", not_yet).await;
        assert!(message.contains("to-come"), "{model:?}: {message}");
        let message = wait_for_health(cluster, model, "second", never).await;
        assert!(message.contains("taken@example.com"), "{model:?}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_sealed_and_external_secrets_are_passwords() {
    let cluster = cluster();
    for (file, template, name) in [
        ("sealed-secret.yaml", "/spec/template", "sealed"),
        ("external-secret.yaml", "/spec/target/template", "external"),
    ] {
        let manifest = std::fs::read_to_string(project_root().join("examples/gitops/secrets").join(file)).unwrap();
        let manifest: Value = serde_yaml::from_str(&manifest).unwrap();
        let mut secret = manifest.pointer(template).unwrap_or_else(|| panic!("{file} has a template")).clone();
        secret["apiVersion"] = "v1".into();
        secret["kind"] = "Secret".into();
        secret["metadata"]["name"] = name.into();
        secret["metadata"]["namespace"] = "default".into();
        secret["metadata"]["annotations"]["roster.dev/user"] = name.into();
        let hash = "$2y$12$RPHu8aLfzJvdD4Zk8FhXaeDFIqJnzN7RG0SDm2lbNhLPHmwZbmwVa";
        secret["stringData"] = json!({ "passwordHash": hash });
        cluster.apply(&format!("---\n{secret}"));
        cluster.apply(&format!(
            "apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {{name: {name}}}\n\
             spec: {{passwordSecretRef: {{namespace: default, name: {name}}}}}\n"
        ));
        wait_until_ready(&cluster.users().await, name).await;
    }
}

/// One object of each kind that Roster's resources refer to, and every field that refers to it.
const REFERENCES: &str = "
apiVersion: roster.dev/v1alpha1
kind: User
metadata: {name: jane}
spec:
  groups: [crew, elsewhere]
  passwordSecretRef: {namespace: team-a, name: password}
---
apiVersion: roster.dev/v1alpha1
kind: Group
metadata: {name: crew}
spec:
  members: [jane, elsewhere]
  memberships: [{user: jane, validity: {}}]
  memberGroups: [inner]
---
apiVersion: roster.dev/v1alpha1
kind: Group
metadata: {name: inner}
spec: {}
---
apiVersion: roster.dev/v1alpha1
kind: RoleBinding
metadata: {name: one}
spec:
  subjects: [{kind: User, name: jane}, {kind: Group, name: crew}, {kind: Group, name: elsewhere}]
  roleRef: {kind: Role, name: deployer}
  scope: {namespaces: [apps, elsewhere]}
  delegatedBy: jane
---
apiVersion: roster.dev/v1alpha1
kind: RoleBinding
metadata: {name: two}
spec:
  subjects: [{kind: User, name: jane}]
  roleRef: {kind: ClusterRole, name: viewer}
  scope: {cluster: {}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: viewer}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: deployer, namespace: apps}
---
apiVersion: v1
kind: Namespace
metadata: {name: apps, labels: {roster.dev/owner: jane}}
";

/// The password Secret is generated, so its name ends in a hash of its content.
const KUSTOMIZATION: &str = "
resources: [all.yaml]
configurations: [name-references.yaml]
openapi: {path: scopes.json}
secretGenerator:
- name: password
  namespace: team-a
  type: roster.dev/password
  literals: [passwordHash=x]
  options: {annotations: {roster.dev/user: jane}}
";

/// Renders [`REFERENCES`] with an overlay. Returns the objects by kind and name, without the hash of the Secret.
fn kustomized(overlay: &str) -> BTreeMap<String, Value> {
    let folder = tempfile::tempdir_in(target_dir()).unwrap();
    let base = folder.path().join("base");
    std::fs::create_dir(&base).unwrap();
    for file in ["name-references.yaml", "scopes.json"] {
        std::fs::copy(project_root().join(PEOPLE).join(file), base.join(file)).unwrap();
    }
    std::fs::write(base.join("all.yaml"), REFERENCES).unwrap();
    std::fs::write(base.join("kustomization.yaml"), KUSTOMIZATION).unwrap();
    std::fs::write(folder.path().join("kustomization.yaml"), format!("{overlay}\nresources: [base]\n")).unwrap();
    let text = cluster().kubectl(&["kustomize", folder.path().to_str().unwrap()]);
    let mut names = text.lines().filter_map(|line| line.trim().strip_prefix("name: "));
    let secret = names.find(|name| name.contains("password-")).unwrap_or_else(|| panic!("a generated name: {text}"));
    let hash = &secret[secret.rfind('-').unwrap()..];
    let documents = text.replace(hash, "").split("\n---\n").map(str::to_owned).collect::<Vec<_>>();
    let named = documents.iter().map(|document| {
        let object: Value = serde_yaml::from_str(document).unwrap();
        let name = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap().to_owned();
        (format!("{} {}", name("/kind"), name("/metadata/name")), object)
    });
    named.collect()
}

#[test]
fn case_b5_kustomize_renames_references_along_with_their_targets() {
    let objects = kustomized("namePrefix: a-\nnameSuffix: -z");
    let user = &objects["User a-jane-z"];
    assert_eq!(user["spec"]["groups"], json!(["a-crew-z", "elsewhere"]));
    assert_eq!(user["spec"]["passwordSecretRef"], json!({"namespace": "team-a", "name": "a-password-z"}));
    assert_eq!(objects["Secret a-password-z"]["metadata"]["annotations"]["roster.dev/user"], "a-jane-z");
    let group = &objects["Group a-crew-z"]["spec"];
    assert_eq!((&group["members"], &group["memberGroups"]), (&json!(["a-jane-z", "elsewhere"]), &json!(["a-inner-z"])));
    assert_eq!(group["memberships"], json!([{"user": "a-jane-z", "validity": {}}]));
    let subject = |kind: &str, name: &str| json!({"kind": kind, "name": name});
    let binding = &objects["RoleBinding a-one-z"]["spec"];
    let subjects = [subject("User", "a-jane-z"), subject("Group", "a-crew-z"), subject("Group", "elsewhere")];
    assert_eq!(binding["subjects"], json!(subjects));
    assert_eq!((&binding["roleRef"], &binding["delegatedBy"]), (&subject("Role", "a-deployer-z"), &json!("a-jane-z")));
    assert_eq!(objects["RoleBinding a-two-z"]["spec"]["roleRef"], subject("ClusterRole", "a-viewer-z"));
    assert_eq!(objects["Namespace apps"]["metadata"]["labels"]["roster.dev/owner"], "a-jane-z");
}

#[test]
fn case_b5_kustomize_sets_no_namespace_on_cluster_scoped_objects() {
    let objects = kustomized("namespace: team-b");
    for name in ["User jane", "Group crew", "RoleBinding one"] {
        assert!(!objects[name]["metadata"].as_object().unwrap().contains_key("namespace"), "{name}");
    }
    let reference = &objects["User jane"]["spec"]["passwordSecretRef"];
    assert_eq!(*reference, json!({"namespace": "team-b", "name": "password"}));
    let binding = &objects["RoleBinding one"]["spec"];
    assert_eq!(binding["subjects"][0], json!({"kind": "User", "name": "jane"}));
    assert_eq!(binding["scope"]["namespaces"], json!(["team-b", "elsewhere"]));
}
