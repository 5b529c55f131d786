//! Values of the chart: what is allowed, and what is not.

use std::collections::BTreeSet;

use roster_harness::project_root;
use roster_runtime::tls::origin::Webhook;
use rstest::rstest;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{EVERYTHING, helm, objects, of_kind};
use crate::support::shared;

fn read(path: &str) -> String {
    std::fs::read_to_string(project_root().join(path)).unwrap()
}

#[test]
fn helm_lint_reports_no_problem() {
    for values in [None, Some(EVERYTHING)] {
        let args: Vec<&str> = values.iter().flat_map(|file| ["--values", file]).collect();
        let output = helm(&[&["lint", "--strict", "charts/roster"], &args[..]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[rstest]
#[case("replica=3", "additional properties 'replica' not allowed")]
#[case("replicas=two", "'/replicas': got string, want integer")]
#[case("replicas=0", "'/replicas': minimum: got 0, want 1")]
#[case("image.repository=", "'/image/repository'")]
#[case("image.repo=x", "'/image': additional properties 'repo' not allowed")]
#[case("image.digest=sha256:12", "'/image/digest': 'sha256:12' does not match")]
#[case("image.pullPolicy=Sometimes", "'/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'")]
#[case("imagePullSecrets[0].name=x", "'/imagePullSecrets/0': got object, want string")]
#[case("externalURL=http://example.com", "'/externalURL'")]
#[case("passwordAdmission=maybe", "'/passwordAdmission': got string, want boolean")]
#[case("passwordSecretNamespaces={Team_A}", "'/passwordSecretNamespaces/0': 'Team_A' does not match")]
#[case("bindableClusterRoles={}", "'/bindableClusterRoles/0'")]
#[case("bindableRoles=deployer", "'/bindableRoles': got string, want array")]
#[case("administratorClusterRole=", "'/administratorClusterRole'")]
#[case("quota.hint=false", "'/quota': additional properties 'hint' not allowed")]
#[case("flowControl.enabled=auto", "'/flowControl/enabled': got string, want boolean")]
#[case("hashSlots=0", "'/hashSlots': minimum: got 0, want 1")]
#[case("extraArgs={run}", "'/extraArgs/0': 'run' does not match")]
#[case("extraVolumes[0].emptyDir.medium=Memory", "'/extraVolumes/0': missing property 'name'")]
#[case("extraVolumeMounts[0].name=x", "'/extraVolumeMounts/0': missing property 'mountPath'")]
#[case("resources.request.cpu=1", "'/resources': additional properties 'request' not allowed")]
#[case("resources.limits.memory=lots", "'/resources/limits/memory': 'lots' does not match")]
#[case("priorityClassName=High Priority", "'/priorityClassName'")]
#[case("terminationGracePeriodSeconds=10", "'/terminationGracePeriodSeconds': minimum: got 10, want 26")]
#[case("nodeSelector.gpu=true", "'/nodeSelector/gpu': got boolean, want string")]
#[case("tolerations[0].efect=NoSchedule", "'/tolerations/0': additional properties 'efect' not allowed")]
#[case("affinity.podAffinities.x=y", "'/affinity': additional properties 'podAffinities' not allowed")]
#[case("topologySpreadConstraints[0].maxSkew=1", "missing properties 'topologyKey', 'whenUnsatisfiable'")]
#[case(r"podLabels.app\.kubernetes\.io/name=x", "'/podLabels/app.kubernetes.io~1name'")]
#[case("networkPolicy.enabled=maybe", "'/networkPolicy/enabled': value must be one of true, false, 'auto'")]
#[case("networkPolicy.apiServers[0].cidr=192.0.2.10", "'/networkPolicy/apiServers/0'")]
#[case(
    "networkPolicy.apiServers[0].port=6443",
    "'/networkPolicy/apiServers/0': additional properties 'port' not allowed"
)]
#[case("networkPolicy.metricsFrom[0].namespace=x", "'/networkPolicy/metricsFrom/0'")]
#[case("monitoring.serviceMonitor.interval=often", "'/monitoring/serviceMonitor/interval': 'often' does not match")]
#[case("monitoring.alerts.enabled=true", "'/monitoring': additional properties 'alerts' not allowed")]
#[case("certificates.provider=vault", "'/certificates/provider': value must be one of 'self', 'cert-manager'")]
#[case("certificates.issuerRef.kind=Issuer", "'/certificates/issuerRef': properties 'name' required")]
#[case("users.Jane.spec.email=x", "'/users': additional properties 'Jane' not allowed")]
#[case("users.jane.email=x", "'/users/jane': additional properties 'email' not allowed")]
#[case("users.jane.spec.password=x", "'/users/jane/spec/password'")]
#[case("groups.engineers=yes", "'/groups/engineers': got string, want object")]
#[case("roleBindings.edit.labels.a=b", "'/roleBindings/edit': missing property 'spec'")]
#[case("roleBindings.edit.spec.scope.domain=x", "'/roleBindings/edit/spec': missing properties 'subjects', 'roleRef'")]
#[case("keepResources=1", "'/keepResources': got number, want boolean")]
fn invalid_values_are_refused_by_name(#[case] value: &str, #[case] message: &str) {
    for command in [&["lint", "--strict", "charts/roster"][..], &["template", "roster", "charts/roster"]] {
        let output = helm(&[command, &["--set", value]].concat());
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!output.status.success() && said.contains(message), "{command:?} {value}: {said}");
    }
}

#[rstest]
#[case(&["administratorClusterRole=cluster-admin"], "administratorClusterRole: cluster-admin must be one of bindableClusterRoles")]
#[case(&["certificates.issuerRef.name=x"], "certificates.issuerRef: requires certificates.provider=cert-manager")]
#[case(&["certificates.provider=cert-manager", "externalURL=https://x"], "certificates.provider: must be self")]
fn contradicting_values_are_refused(#[case] values: &[&str], #[case] message: &str) {
    let args: Vec<&str> = values.iter().flat_map(|value| ["--set", value]).collect();
    let output = helm(&[&["template", "roster", "charts/roster"], &args[..]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(message), "{said}");
}

/// Collects the paths of all values below `value`. A map with arbitrary keys counts as one value.
fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value.as_object() {
        Some(fields) if !fields.is_empty() && !is_free(at) => {
            for (name, value) in fields {
                let dot = if at.is_empty() { "" } else { "." };
                paths(value, &format!("{at}{dot}{name}"), found);
            }
        }
        _ => drop(found.insert(at.to_owned())),
    }
}

fn is_free(path: &str) -> bool {
    let maps = ["resources", "certificates.issuerRef", "affinity", "monitoring.dashboard.labels"];
    maps.contains(&path)
}

/// Collects the paths of all values in the schema, in the same way.
fn schema_paths(schema: &Value, at: &str, found: &mut BTreeSet<String>) {
    match schema["properties"].as_object() {
        Some(properties) if !is_free(at) => {
            assert_eq!(schema["additionalProperties"], false, "{at} accepts unknown properties");
            for (name, schema) in properties.iter().filter(|(name, _)| *name != "global") {
                let dot = if at.is_empty() { "" } else { "." };
                schema_paths(schema, &format!("{at}{dot}{name}"), found);
            }
        }
        _ => drop(found.insert(at.to_owned())),
    }
}

#[test]
fn schema_defaults_and_tests_have_the_same_values() {
    let schema: Value = serde_json::from_str(&read("charts/roster/values.schema.json")).unwrap();
    let defaults: Value = serde_yaml::from_str(&read("charts/roster/values.yaml")).unwrap();
    let everything: Value = serde_yaml::from_str(&read(EVERYTHING)).unwrap();
    let (mut known, mut given, mut tested) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    schema_paths(&schema, "", &mut known);
    paths(&defaults, "", &mut given);
    assert_eq!(known, given, "values.schema.json and values.yaml");
    paths(&everything, "", &mut tested);
    let untested: Vec<&String> =
        known.iter().filter(|path| !tested.iter().any(|tested| tested.starts_with(*path))).collect();
    // externalURL conflicts with most other values.
    assert_eq!(untested, ["externalURL"], "{EVERYTHING}");
}

#[test]
fn values_reach_the_operator() {
    let objects = objects(&["--values", EVERYTHING]);
    let pod = &of_kind(&objects, "Deployment").next().unwrap()["spec"]["template"];
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["image"].as_str().unwrap().split('@').next(), Some("registry.example.com/roster"));
    let args: Vec<&str> = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    assert_eq!(args[..2], ["run", "--issuer-url=https://roster.example.com"]);
    let environment = |name: &str| {
        let variables = container["env"].as_array().unwrap();
        let found = variables.iter().find(|variable| variable["name"] == name);
        found.unwrap_or_else(|| panic!("{name}"))["value"].as_str().map(str::to_owned)
    };
    for (name, value) in [
        ("ROSTER_HASH_SLOTS", "2"),
        ("ROSTER_BINDABLE_CLUSTER_ROLES", "view,edit,admin,cluster-admin"),
        ("ROSTER_PASSWORD_SECRET_NAMESPACES", "default,roster-system"),
        ("ROSTER_BINDABLE_ROLES", "deployer"),
        ("ROSTER_ADMINISTRATOR_ROLE", "cluster-admin"),
        ("ROSTER_EXPAND_GROUPS", "true"),
        ("ROSTER_SERVING_CERTIFICATE_SECRET", "roster-serving"),
    ] {
        assert_eq!(environment(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(pod["metadata"]["labels"]["example.com/team"], "identity");
    // Users removed from the values are kept by default.
    let user = of_kind(&objects, "User").find(|user| user["metadata"]["name"] == "jane").unwrap();
    assert_eq!(user["metadata"]["annotations"]["example.com/ticket"], "42");
    assert!(user["metadata"]["annotations"].get("helm.sh/resource-policy").is_none());
    let kept = super::objects(&["--set", "users.jane.spec.email=jane@example.com"]);
    let kept = of_kind(&kept, "User").next().unwrap();
    assert_eq!(kept["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
}

/// During a rollout, each old Pod occupies a node. If old Pods were counted, both new Pods could land on one node.
#[test]
fn replicas_of_one_revision_are_spread() {
    let objects = objects(&[]);
    let deployment = of_kind(&objects, "Deployment").next().unwrap();
    let pod = &deployment["spec"]["template"]["spec"];
    let preferred = &pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0];
    let of_revision = serde_json::json!(["pod-template-hash"]);
    assert_eq!(preferred["podAffinityTerm"]["matchLabelKeys"], of_revision);
    assert_eq!(pod["topologySpreadConstraints"][0]["matchLabelKeys"], of_revision);
}

/// Helm applies the deletion policies of hooks before it reads the logs for `helm test --logs`.
#[test]
fn the_pod_of_helm_test_is_kept_and_its_permissions_are_deleted() {
    let hooks: Vec<Value> =
        objects(&[]).into_iter().filter(|object| object["metadata"]["annotations"]["helm.sh/hook"] == "test").collect();
    assert_eq!(hooks.len(), 4, "{hooks:?}");
    for hook in hooks {
        let policy = &hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"];
        let expected =
            if hook["kind"] == "Pod" { "before-hook-creation" } else { "before-hook-creation,hook-succeeded" };
        assert_eq!(policy, expected, "{}", hook["kind"]);
    }
}

#[test]
fn configuration_changes_roll_out_the_pods() {
    // All configuration is in the Pod template, so every change rolls out the Pods. The only exception are Secrets that
    // the operator watches itself.
    let objects = objects(&[]);
    let pod = &of_kind(&objects, "Deployment").next().unwrap()["spec"]["template"]["spec"];
    let text = pod.to_string();
    assert!(!text.contains("configMap") && !text.contains("secretKeyRef") && !text.contains("envFrom"), "{text}");
    assert!(pod.get("volumes").is_none());
}

#[test]
fn the_chart_has_the_webhooks_that_roster_serves_without_a_path() {
    let served: BTreeSet<&str> = Webhook::ALL.into_iter().map(Webhook::name).collect();
    for args in [&[][..], &["--set", "certificates.provider=cert-manager"]] {
        let objects = objects(args);
        let kinds = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];
        let configurations = kinds.iter().flat_map(|kind| of_kind(&objects, kind));
        let webhooks: Vec<&Value> = configurations.flat_map(|object| object["webhooks"].as_array().unwrap()).collect();
        assert_eq!(webhooks.iter().map(|webhook| webhook["name"].as_str().unwrap()).collect::<BTreeSet<_>>(), served);
        for webhook in webhooks {
            let service = webhook["clientConfig"]["service"].as_object().unwrap();
            assert!(!service.contains_key("path"), "{webhook}");
        }
        // Roster writes the path regardless of who issues the serving certificate.
        let roles = of_kind(&objects, "ClusterRole").filter(|role| role["metadata"]["name"] == "roster");
        let mut rules = roles.flat_map(|role| role["rules"].as_array().unwrap());
        let may_update = |rule: &Value| {
            rule["resources"] == json!(["mutatingwebhookconfigurations", "validatingwebhookconfigurations"])
                && rule["verbs"] == json!(["update"])
                && rule["resourceNames"] == json!(["roster"])
        };
        assert!(rules.any(may_update), "{args:?}");
    }
}

/// Returns the ports that the NetworkPolicy allows operators to connect to, with addresses if restricted.
fn egress(manifests: &str) -> Option<BTreeSet<(String, u64)>> {
    let documents = serde_yaml::Deserializer::from_str(manifests);
    let mut objects = documents.map(|document| Value::deserialize(document).expect("the output is YAML"));
    let policy = objects.find(|object| object["kind"] == "NetworkPolicy")?;
    // Admission and login clients can't be distinguished by address.
    assert_eq!(policy["spec"]["ingress"][0], json!({"ports": [{"port": "https", "protocol": "TCP"}]}));
    let rules = policy["spec"]["egress"].as_array().unwrap().iter();
    let pairs = rules.flat_map(|rule| {
        let to = rule["to"][0]["ipBlock"]["cidr"].as_str().unwrap_or("anywhere").to_owned();
        let ports = rule["ports"].as_array().unwrap().iter();
        ports.map(move |port| (to.clone(), port["port"].as_u64().unwrap()))
    });
    Some(pairs.collect())
}

fn allowed(further: &[(&str, u64)]) -> BTreeSet<(String, u64)> {
    let always = [("anywhere", 53), ("anywhere", 443), ("anywhere", 5353)];
    always.iter().chain(further).map(|(to, port)| ((*to).to_owned(), *port)).collect()
}

#[rstest]
#[case::nothing_is_known(&[], None)]
#[case::off(&["networkPolicy.enabled=false", "networkPolicy.apiServers[0].cidr=192.0.2.1/32", "networkPolicy.apiServers[0].ports={6443}"], None)]
#[case::outside(&["externalURL=https://x", "networkPolicy.enabled=true"], None)]
#[case::on(&["networkPolicy.enabled=true"], Some(allowed(&[("anywhere", 6443)])))]
#[case::given(
    &["networkPolicy.apiServers[0].cidr=192.0.2.1/32", "networkPolicy.apiServers[0].ports={6443,8443}"],
    Some(allowed(&[("192.0.2.1/32", 6443), ("192.0.2.1/32", 8443)]))
)]
fn the_network_policy_is_created_where_kube_apiserver_is_known(
    #[case] values: &[&str],
    #[case] expected: Option<BTreeSet<(String, u64)>>,
) {
    let args: Vec<&str> = values.iter().flat_map(|value| ["--set", value]).collect();
    assert_eq!(egress(&super::rendered(&args)), expected);
}

#[test]
fn helm_finds_the_ports_of_kube_apiserver_in_the_cluster() {
    let cluster = shared();
    // The tests' control plane has it disabled.
    cluster.apply(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
         metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}, \
         endpoints: [{addresses: [192.0.2.1]}], ports: [{name: https, port: 16443, protocol: TCP}]}",
    );
    let chart = project_root().join("charts/roster");
    let upgrade =
        ["upgrade", "roster", chart.to_str().unwrap(), "-n", "roster-system", "--reset-values", "--dry-run=server"];
    let said = cluster.plane.kubectl.helm(&upgrade).unwrap();
    let manifests = said.split_once("MANIFEST:\n").expect("helm prints the manifests").1;
    let manifests = manifests.split("\nNOTES:").next().unwrap();
    assert_eq!(egress(manifests), Some(allowed(&[("anywhere", 16443)])));
}

/// Returns namespace and verbs of each rule about Secrets. `None` means all namespaces.
fn permissions_on_secrets(objects: &[Value]) -> Vec<(Option<String>, Vec<String>)> {
    let roles = objects.iter().filter(|object| ["ClusterRole", "Role"].contains(&object["kind"].as_str().unwrap()));
    let mut found = Vec::new();
    for role in roles {
        for rule in role["rules"].as_array().into_iter().flatten() {
            if rule["resources"].as_array().is_some_and(|resources| resources.contains(&"secrets".into())) {
                let verbs = serde_json::from_value(rule["verbs"].clone()).unwrap();
                found.push((role["metadata"]["namespace"].as_str().map(str::to_owned), verbs));
            }
        }
    }
    found
}

#[test]
fn secrets_are_read_only_where_the_values_allow() {
    let verbs = |verbs: &str| verbs.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let read = verbs("get list watch");
    let own = Some("roster-system".to_owned());
    assert_eq!(
        permissions_on_secrets(&objects(&[])),
        [(None, read.clone()), (own.clone(), verbs("create update delete"))]
    );
    let limited = objects(&["--set", "passwordSecretNamespaces={team-a,team-b,roster-system}"]);
    let mut rights = permissions_on_secrets(&limited);
    rights.sort();
    assert_eq!(
        rights,
        [
            (own, verbs("get list watch create update delete")),
            (Some("team-a".to_owned()), read.clone()),
            (Some("team-b".to_owned()), read),
        ]
    );
    for namespace in ["team-a", "team-b"] {
        let binding = of_kind(&limited, "RoleBinding").find(|binding| binding["metadata"]["namespace"] == namespace);
        let binding = binding.unwrap();
        assert_eq!(binding["roleRef"]["name"], "roster-password-secrets");
        assert_eq!(binding["subjects"][0]["namespace"], "roster-system");
    }
}
