//! Lifecycle of an installation: `helm test`, upgrades, rollbacks, uninstall, reinstall. No user is lost.

use std::collections::BTreeMap;
use std::process::Command;

use roster_harness::{Installation, project_root};
use serde_json::Value;

use crate::support::{
    Cluster, FAST_LEASE, binary, create, eventually, password_secret, shared, stored_hash, user, user_where,
    wait_for_text, wait_until_can, wait_until_ready,
};

const NAMESPACE: &str = "roster-system";

fn helm(cluster: &Cluster, args: &[&str]) -> String {
    let chart = project_root().join("charts/roster");
    let args: Vec<&str> = args.iter().map(|arg| if *arg == "CHART" { chart.to_str().unwrap() } else { arg }).collect();
    cluster.plane.kubectl.helm(&[&args[..], &["-n", NAMESPACE]].concat()).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Runs `roster check` with the permissions of the `helm test` Pod. Returns whether it succeeds, and its output.
fn check(cluster: &Cluster, args: &[&str]) -> (bool, String) {
    // Helm creates them as hooks when the test runs, and deletes them afterwards.
    let manifests = helm(cluster, &["get", "hooks", "roster"]);
    let documents = manifests.split("---\n").filter(|document| document.contains("roster-check"));
    for document in documents.filter(|document| !document.contains("kind: Pod")) {
        cluster.apply(document);
    }
    let token = cluster.kubectl(&["create", "token", "roster-check", "-n", NAMESPACE]);
    let path = cluster.plane.dir.join("check.kubeconfig");
    let kubeconfig = cluster.plane.kubeconfig_for_token(&path, token.trim()).unwrap();
    let output = Command::new(binary()).arg("check").args(args).env("KUBECONFIG", kubeconfig).output().unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn helm_test_reports_what_works() {
    let cluster = shared();
    crate::directory::wait_until_served(cluster);
    let (is_well, said) = check(cluster, &[]);
    assert!(is_well && said.lines().all(|line| line.starts_with("ok ")) && said.lines().count() == 7, "{said}");
}

#[test]
fn helm_test_reports_what_does_not_work() {
    let cluster = Cluster::create("check", &[]);
    // No operator runs yet.
    let (is_well, said) = check(&cluster, &["--timeout", "1s"]);
    assert!(!is_well, "{said}");
    for line in [
        "ok      CustomResourceDefinition users.roster.dev",
        "FAILED  MutatingWebhookConfiguration roster: password-secrets.roster.dev has no caBundle",
        "FAILED  ValidatingWebhookConfiguration roster: users.guard.roster.dev has no caBundle",
        "FAILED  APIService v1alpha1.directory.roster.dev: ",
        "FAILED  the directory, through kube-apiserver: ",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    cluster.kubectl(&["delete", "crd", "groups.roster.dev"]);
    older_crd(&cluster);
    let (is_well, said) = check(&cluster, &["--timeout", "1s"]);
    assert!(!is_well && said.contains("FAILED  CustomResourceDefinition groups.roster.dev: "), "{said}");
    assert!(
        said.contains("FAILED  CustomResourceDefinition users.roster.dev: its schema is from another version"),
        "{said}"
    );
}

/// Replaces the CRD of Users with that of an earlier version without `spec.displayName`.
fn older_crd(cluster: &Cluster) {
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/displayName";
    let patch = format!(r#"[{{"op": "remove", "path": "{path}"}}]"#);
    cluster.kubectl(&["patch", "crd", "users.roster.dev", "--type=json", "-p", &patch]);
}

/// Returns what must not change: UIDs of Users, Groups and bindings, and credentials.
fn identities(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (kinds, selector) in [
        ("users.roster.dev,groups.roster.dev,rolebindings.roster.dev", ""),
        ("clusterrolebindings,rolebindings.rbac.authorization.k8s.io", "app.kubernetes.io/managed-by=roster"),
        ("secrets", ""),
    ] {
        let found = cluster.plane.kubectl.get(&[kinds, "-A", "-l", selector]).unwrap();
        for object in found["items"].as_array().unwrap() {
            let metadata = &object["metadata"];
            if object["kind"] == "Secret" && object["type"] != "roster.dev/identity" {
                continue;
            }
            let content = if object["kind"] == "Secret" { &object["data"] } else { &Value::Null };
            all.insert(format!("{} {}", object["kind"], metadata["name"]), format!("{} {content}", metadata["uid"]));
        }
    }
    assert!(all.len() > 4, "{all:?}");
    all
}

/// Creates a User with a password, in a group with a role, and with a namespace.
async fn create_user_with_everything(cluster: &Cluster) {
    let users = cluster.users().await;
    create(&cluster.secrets("default").await, &password_secret("jane", "password", "correct horse")).await;
    create(&users, &user("jane", true)).await;
    cluster.apply(
        "---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: engineers}, spec: {members: [jane]}}\n\
         ---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: engineers-edit}, spec: {subjects: \
         [{kind: Group, name: engineers}], roleRef: {kind: ClusterRole, name: edit}, scope: {cluster: {}}}}\n\
         ---\n{apiVersion: v1, kind: Namespace, metadata: {name: apollo, labels: {roster.dev/owner: jane}}}\n",
    );
    wait_until_ready(&users, "jane").await;
    wait_until_can(cluster, "jane", &["create", "deployments"], true).await;
    user_where(&users, "jane", "owns apollo", |user| user.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty()))
        .await;
}

/// Returns the administrator's deletions in order.
fn deletions(cluster: &Cluster) -> Vec<String> {
    let log = std::fs::read_to_string(cluster.plane.audit_log()).unwrap();
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let deletions = events.filter(|event| event["verb"] == "delete" && event["user"]["username"] == "admin");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    deletions
        .map(|event| format!("{}/{}", text(&event["objectRef"]["resource"]), text(&event["objectRef"]["name"])))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn uninstalling_removes_webhooks_and_apiservice_first_and_keeps_users() {
    let mut cluster = Cluster::create("uninstall", &[]);
    cluster.start_operator(FAST_LEASE);
    create_user_with_everything(&cluster).await;
    let before = identities(&cluster);
    let users = cluster.users().await;
    let hash = stored_hash(&cluster, &users.get("jane").await.unwrap()).await;
    assert!(hash.is_some());

    helm(&cluster, &["uninstall", "roster"]);
    let deleted = deletions(&cluster);
    let position = |what: &str| {
        let found = deleted.iter().position(|deleted| deleted == what);
        found.unwrap_or_else(|| panic!("{what} is not among {deleted:#?}"))
    };
    let order =
        ["validatingwebhookconfigurations/roster", "apiservices/v1alpha1.directory.roster.dev", "services/roster"];
    assert!(order.map(position).is_sorted(), "{deleted:#?}");
    assert!(position("mutatingwebhookconfigurations/roster") < position(order[1]), "{deleted:#?}");
    assert!(position("services/roster") < position("validatingadmissionpolicies/roster-bind"), "{deleted:#?}");
    for operator in cluster.operators().drain(..) {
        operator.kill();
    }

    // Everything that calls the operator or denies writes is deleted.
    for kind in [
        "apiservices",
        "mutatingwebhookconfigurations",
        "validatingwebhookconfigurations",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "clusterroles",
        "clusterrolebindings",
    ] {
        let left = cluster.kubectl(&["get", kind, "-l", "app.kubernetes.io/instance=roster", "-o", "name"]);
        assert_eq!(left, "", "{kind}");
    }
    // Users are unchanged, and can be written.
    assert_eq!(identities(&cluster), before);
    let patch = r#"{"spec": {"displayName": "Jane Doe"}}"#;
    cluster.kubectl(&["patch", "users.roster.dev", "jane", "--type=merge", "-p", patch]);
    // Namespaces are deleted without delay.
    cluster.kubectl(&["create", "namespace", "gemini"]);
    cluster.kubectl(&["create", "configmap", "settings", "-n", "gemini"]);
    cluster.kubectl(&["delete", "namespace", "gemini", "--timeout=30s"]);

    // A reinstallation continues with the existing objects.
    cluster.installation = Installation::reinstall(&cluster.plane, &[]).unwrap();
    cluster.start_operator(FAST_LEASE);
    create(&users, &user("joan", false)).await;
    wait_until_ready(&users, "joan").await;
    wait_for_text(&cluster, &["users.roster.dev", "jane"], "{.status.observedGeneration}", "2").await;
    assert_eq!(stored_hash(&cluster, &users.get("jane").await.unwrap()).await, hash);
    let after = identities(&cluster);
    for (name, content) in before {
        assert_eq!(after.get(&name), Some(&content), "{name}");
    }
    // The policies are enforced again.
    cluster.kubectl(&["patch", "users.roster.dev", "jane", "--type=merge", "-p", r#"{"spec": {"state": "Disabled"}}"#]);
    user_where(&users, "jane", "disabled", |user| {
        user.status.as_ref().is_some_and(|status| format!("{:?}", status.state).contains("Disabled"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_and_rollbacks_lose_no_user() {
    let cluster = Cluster::create("upgrade", &[]);
    older_crd(&cluster);
    cluster.start_operator(FAST_LEASE);
    create_user_with_everything(&cluster).await;
    let before = identities(&cluster);

    // As in docs/how-to/install.md: CRDs first, because Helm does not upgrade them.
    let display_name = ["explain", "users.spec.displayName", "--api-version=roster.dev/v1alpha1"];
    assert!(cluster.plane.kubectl.run(&display_name).is_err(), "the CRD is not the older one");
    let crds = helm(&cluster, &["show", "crds", "CHART"]);
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    cluster.plane.kubectl.run_with_input(&apply, &crds).unwrap();
    eventually("the CRD is the newer one", || {
        std::future::ready(cluster.plane.kubectl.run(&display_name).map_err(|error| error.to_string()))
    })
    .await;
    let upgrade = ["upgrade", "roster", "CHART", "--reset-then-reuse-values", "--set"];
    helm(&cluster, &[&upgrade[..], &["quota.hints=false,users.joan.spec.displayName=Joan"]].concat());
    let users = cluster.users().await;
    wait_until_ready(&users, "joan").await;
    let hints = |cluster: &Cluster| {
        let webhooks = cluster.plane.kubectl.get(&["validatingwebhookconfiguration", "roster"]).unwrap();
        // The caBundles belong to the operator, and Helm keeps them.
        let webhooks = webhooks["webhooks"].as_array().unwrap().clone();
        (webhooks.iter().any(|webhook| webhook["name"] == "hints.quota.roster.dev"), webhooks)
    };
    assert!(!hints(&cluster).0);

    helm(&cluster, &["rollback", "roster", "1"]);
    assert!(hints(&cluster).0, "the rollback brings it back");
    eventually("all webhooks are trusted again", || {
        let (_, webhooks) = hints(&cluster);
        let trusted = webhooks.iter().all(|webhook| webhook["clientConfig"]["caBundle"].is_string());
        std::future::ready(if trusted { Ok(()) } else { Err(format!("{webhooks:?}")) })
    })
    .await;
    // Users from the upgraded values are kept.
    wait_until_ready(&users, "joan").await;
    let after = identities(&cluster);
    for (name, content) in before {
        assert_eq!(after.get(&name), Some(&content), "{name}");
    }
    let (is_well, said) = check(&cluster, &[]);
    assert!(is_well, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_in_chart_values_are_created_before_the_operator_and_kept_by_default() {
    let mut cluster = Cluster::create(
        "people-in-values",
        &[
            "users.jane.spec.email=jane@example.com",
            "groups.engineers.spec.members={jane}",
            "roleBindings.edit.spec.subjects[0].kind=Group,roleBindings.edit.spec.subjects[0].name=engineers",
            "roleBindings.edit.spec.roleRef.kind=ClusterRole,roleBindings.edit.spec.roleRef.name=edit",
            "roleBindings.edit.spec.scope.namespaces={default}",
        ],
    );
    // They were created before an operator could answer the webhooks.
    cluster.start_operator(FAST_LEASE);
    let users = cluster.users().await;
    let jane = wait_until_ready(&users, "jane").await;
    wait_until_can(&cluster, "jane", &["create", "deployments", "-n", "default"], true).await;

    let said = helm(
        &cluster,
        &[
            "upgrade",
            "roster",
            "CHART",
            "--reset-then-reuse-values",
            "--set",
            "users.jane=null,users.joan.spec.language=en",
        ],
    );
    assert!(said.contains("WARNING: User jane is no longer in the values, but is kept"), "{said}");
    assert!(!said.contains("User joan is no longer"), "{said}");
    helm(&cluster, &["uninstall", "roster"]);
    assert_eq!(users.get("jane").await.unwrap().metadata.uid, jane.metadata.uid);
    for operator in cluster.operators().drain(..) {
        operator.kill();
    }

    // Values that name them again adopt them. This time they are deleted on uninstall.
    let values = ["keepResources=false", "users.jane.spec.email=jane@example.com", "users.joan.spec.language=fr"];
    cluster.installation = Installation::reinstall(&cluster.plane, &values).unwrap();
    assert_eq!(users.get("jane").await.unwrap().metadata.uid, jane.metadata.uid);
    cluster.start_operator(FAST_LEASE);
    wait_until_ready(&users, "joan").await;
    helm(&cluster, &["uninstall", "roster"]);
    let gone = || async {
        let left = users.get_opt("jane").await.map_err(|error| error.to_string())?;
        left.map_or(Ok(()), |user| Err(format!("{:?}", user.metadata)))
    };
    eventually("jane is gone", gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_can_be_removed_without_an_operator() {
    let cluster = Cluster::create("left-behind", &[]);
    cluster.start_operator(FAST_LEASE);
    create_user_with_everything(&cluster).await;
    for operator in cluster.operators().drain(..) {
        operator.kill();
    }
    helm(&cluster, &["uninstall", "roster"]);
    // As documented.
    let page = std::fs::read_to_string(project_root().join("docs/how-to/install.md")).unwrap();
    let commands = page.split("If no operator is running any more").nth(1).unwrap();
    let commands = commands.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let assets = &cluster.plane.kubectl.assets;
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", commands])
        .env("KUBECONFIG", &cluster.plane.kubectl.kubeconfig)
        .env("PATH", format!("{}:{path}", assets.kubectl.parent().unwrap().display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let crds = helm(&cluster, &["show", "crds", "CHART"]);
    cluster.plane.kubectl.run_with_input(&["delete", "--timeout=30s", "-f", "-"], &crds).unwrap();
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "apollo", "--timeout=60s"]);
    let bindings = "clusterrolebindings,rolebindings.rbac.authorization.k8s.io";
    let left = cluster.kubectl(&["get", bindings, "-A", "-l", "app.kubernetes.io/managed-by=roster", "-o", "name"]);
    assert_eq!(left, "");
    assert!(!crate::support::can(&cluster, "jane", &["create", "deployments"]));
}

/// Runs each command of the notes of the release and returns all that they print.
fn follow_notes(cluster: &Cluster) -> String {
    roster_harness::follow_notes(&cluster.plane.kubectl).unwrap_or_else(|error| panic!("{error:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_notes_works() {
    let cluster = Cluster::create("notes", &[]);
    cluster.start_operator(FAST_LEASE);
    let said = follow_notes(&cluster);
    assert!(said.contains("user.roster.dev/jane created") && said.contains(r#""code":""#), "{said}");
    let set = ["upgrade", "roster", "CHART", "--reset-then-reuse-values", "--set"];
    helm(&cluster, &[&set[..], &["users.joan.spec.language=en,users.joe.spec.language=en"]].concat());
    let said = follow_notes(&cluster);
    assert!(said.contains("joan") && said.contains("joe"), "{said}");
    helm(&cluster, &[&set[..], &["users.joan=null"]].concat());
    let said = follow_notes(&cluster);
    assert!(said.contains(r#"user.roster.dev "joan" deleted"#), "{said}");
}
