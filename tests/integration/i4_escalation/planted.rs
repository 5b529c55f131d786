//! I4 over time: an attacker creates an object with extra fields under a name that an administrator is about to apply.
//! The planted fields must not get what the administrator grants, whichever kind of apply is used.

use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::{SERVER_SIDE, guarded_cluster, wait_until_processed};
use crate::support::{Cluster, can, eventually, unique, wait_for_text, wait_until_can};

const CLIENT_SIDE: &[&str] = &["apply", "-f", "-"];

/// Result of an administrator's apply.
#[derive(Clone, Copy)]
enum Outcome {
    /// The object has these fields in `spec`; `null` means that the field is absent.
    Has(&'static str),
    /// kube-apiserver rejects it with this message, and the object is unchanged.
    Refused(&'static str),
}

use Outcome::{Has, Refused};
use roster_api::RoleBinding;

/// Fields of a `spec` that mallory plants, fields that the administrator applies, and what client-side and server-side
/// apply make of them.
struct Case {
    planted: &'static str,
    applied: &'static str,
    client: Outcome,
    server: Outcome,
}

const fn case(planted: &'static str, applied: &'static str, client: Outcome, server: Outcome) -> Case {
    Case { planted, applied, client, server }
}

/// The same outcome for both kinds of apply.
const fn both(planted: &'static str, applied: &'static str, outcome: Outcome) -> Case {
    case(planted, applied, outcome, outcome)
}

/// Cases for RoleBindings. In addition to these fields, mallory plants the subject User `planted` and the ClusterRole
/// `view`, and the administrator applies the subject Group `planted-sre` and `edit`. Planted optional fields that stay
/// can only narrow the binding.
const ROLE_BINDINGS: &[Case] = &[
    both(
        "scope: {cluster: {}}",
        "scope: {cluster: {}}",
        Has(
            "{subjects: [{kind: Group, name: planted-sre}], roleRef: {kind: ClusterRole, name: edit}, scope: {cluster: {}}}",
        ),
    ),
    both("scope: {namespaces: [b, c]}", "scope: {namespaces: [a]}", Has("{scope: {namespaces: [a]}}")),
    // Client-side apply keeps fields that the manifest does not name, so the result has two kinds of scope.
    case(
        "scope: {cluster: {}}",
        "scope: {namespaces: [a]}",
        Refused("exactly one of cluster, namespaces, namespaceSelector and domain"),
        Has("{scope: {namespaces: [a]}}"),
    ),
    case(
        "scope: {namespaceSelector: {matchLabels: {planted: before}}}",
        "scope: {domain: a}",
        Refused("exactly one of cluster, namespaces, namespaceSelector and domain"),
        Has("{scope: {domain: a}}"),
    ),
    // All labels of a selector must match.
    case(
        "scope: {namespaceSelector: {matchLabels: {planted: before}}}",
        "scope: {namespaceSelector: {matchLabels: {named: after}}}",
        Has("{scope: {namespaceSelector: {matchLabels: {planted: before, named: after}}}}"),
        Has("{scope: {namespaceSelector: {matchLabels: {named: after}}}}"),
    ),
    both(
        "scope: {cluster: {}}, delegatedBy: planted",
        "scope: {cluster: {}}",
        Has("{delegatedBy: planted, subjects: [{kind: Group, name: planted-sre}]}"),
    ),
    both(
        "scope: {cluster: {}}, validity: {notAfter: '2030-01-01T00:00:00Z'}",
        "scope: {cluster: {}}",
        Has("{validity: {notAfter: '2030-01-01T00:00:00Z'}, subjects: [{kind: Group, name: planted-sre}]}"),
    ),
    case(
        "scope: {cluster: {}}, validity: {notAfter: '2030-01-01T00:00:00Z'}",
        "scope: {cluster: {}}, validity: {notBefore: '2026-01-01T00:00:00Z'}",
        Has("{validity: {notBefore: '2026-01-01T00:00:00Z', notAfter: '2030-01-01T00:00:00Z'}}"),
        Has("{validity: {notBefore: '2026-01-01T00:00:00Z'}}"),
    ),
];

const GROUPS: &[Case] = &[
    both("members: [planted]", "members: [jane]", Has("{members: [jane]}")),
    both("memberGroups: [planteds]", "memberGroups: [sre]", Has("{memberGroups: [sre]}")),
    both(
        "memberships: [{user: planted, validity: {}}]",
        "memberships: [{user: jane, validity: {notAfter: '2030-01-01T00:00:00Z'}}]",
        Has("{memberships: [{user: jane, validity: {notAfter: '2030-01-01T00:00:00Z'}}]}"),
    ),
    case(
        "memberSelector: {matchLabels: {team: planted}}, acceptDeclaredMembers: true",
        "memberSelector: {matchLabels: {unit: sre}}, acceptDeclaredMembers: true",
        Has("{memberSelector: {matchLabels: {team: planted, unit: sre}}}"),
        Has("{memberSelector: {matchLabels: {unit: sre}}}"),
    ),
    // As documented, a manifest that sets all of these fields keeps everybody else out.
    both(
        "members: [planted], memberGroups: [planteds], memberships: [{user: planted, validity: {}}], memberSelector: {matchLabels: {team: planted}}, acceptDeclaredMembers: true",
        "members: [jane], memberGroups: [], memberships: [], acceptDeclaredMembers: false",
        Has(
            "{members: [jane], memberGroups: [], memberships: [], memberSelector: {matchLabels: {team: planted}}, acceptDeclaredMembers: false}",
        ),
    ),
    // The reason is that fields stay if the manifest does not name them.
    both(
        "memberGroups: [planteds], acceptDeclaredMembers: true",
        "members: [jane]",
        Has("{members: [jane], memberGroups: [planteds], acceptDeclaredMembers: true}"),
    ),
    // `null` removes a field under client-side apply alone.
    case(
        "members: [planted], memberSelector: {matchLabels: {team: planted}}",
        "members: [jane], memberSelector: null",
        Has("{members: [jane], memberSelector: null}"),
        Refused("spec.memberSelector in body must be of type object"),
    ),
];

const USERS: &[Case] = &[
    both("groups: [ops, dev]", "groups: [web]", Has("{groups: [web]}")),
    both(
        "additionalEmails: [m@example.com]",
        "additionalEmails: [j@example.com]",
        Has("{additionalEmails: [j@example.com]}"),
    ),
    both("allowedCIDRs: [0.0.0.0/0]", "allowedCIDRs: [192.0.2.0/24]", Has("{allowedCIDRs: [192.0.2.0/24]}")),
    both(
        "identities: [{type: ldap, id: planted}]",
        "identities: [{type: ldap, id: jane}]",
        Has("{identities: [{type: ldap, id: jane}]}"),
    ),
    case(
        "validity: {notAfter: '2030-01-01T00:00:00Z'}",
        "validity: {notBefore: '2026-01-01T00:00:00Z'}",
        Has("{validity: {notBefore: '2026-01-01T00:00:00Z', notAfter: '2030-01-01T00:00:00Z'}}"),
        Has("{validity: {notBefore: '2026-01-01T00:00:00Z'}}"),
    ),
];

fn manifest(kind: &str, name: &str, spec: &str) -> String {
    format!("---\n{{apiVersion: roster.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n")
}

fn run(cluster: &Cluster, args: &[&str], input: &str) -> Result<String, String> {
    cluster.plane.kubectl.run_with_input(args, input).map_err(|error| error.to_string())
}

fn spec(cluster: &Cluster, object: &str) -> Value {
    serde_json::from_str(&cluster.kubectl(&["get", object, "-o", "jsonpath={.spec}"])).unwrap()
}

/// Plants the object, applies it, and returns differences from the expected result.
fn check_attempts(cluster: &Cluster, kind: &str, case: &Case, way: &[&str], expected: Outcome) -> Option<String> {
    let name = unique("i4-planted");
    let manifest = |binding: &str, fields: &str| {
        manifest(kind, &name, &format!("{}{fields}", if kind == "RoleBinding" { binding } else { "" }))
    };
    let planted = "subjects: [{kind: User, name: planted}], roleRef: {kind: ClusterRole, name: view}, ";
    let applied = "subjects: [{kind: Group, name: planted-sre}], roleRef: {kind: ClusterRole, name: edit}, ";
    let (planted, applied) = (manifest(planted, case.planted), manifest(applied, case.applied));
    run(cluster, &["create", "--as", "mallory", "-f", "-"], &planted)
        .unwrap_or_else(|error| panic!("{planted}: {error}"));
    let object = format!("{}s.roster.dev/{name}", kind.to_lowercase());
    let before = spec(cluster, &object);
    let answer = run(cluster, way, &applied);
    let after = spec(cluster, &object);
    let is_expected = match expected {
        Has(fields) => {
            let fields: Value = serde_yaml::from_str(fields).unwrap();
            answer.is_ok() && fields.as_object().unwrap().iter().all(|(name, value)| after[name] == *value)
        }
        Refused(words) => answer.as_ref().is_err_and(|error| error.contains(words)) && after == before,
    };
    (!is_expected).then(|| format!("{way:?}: {planted} then {applied}: {answer:?}, {after}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_planted_fields_do_not_survive_an_apply() {
    let cluster = guarded_cluster();
    let kinds = [("RoleBinding", ROLE_BINDINGS), ("Group", GROUPS), ("User", USERS)];
    let failures: Vec<String> = kinds
        .into_iter()
        .flat_map(|(kind, cases)| cases.iter().map(move |case| (kind, case)))
        .flat_map(|(kind, case)| {
            let client = check_attempts(cluster, kind, case, CLIENT_SIDE, case.client);
            [client, check_attempts(cluster, kind, case, SERVER_SIDE, case.server)]
        })
        .flatten()
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_planted_subjects_and_members_do_not_get_an_administrators_role() {
    for way in [CLIENT_SIDE, SERVER_SIDE] {
        let (cluster, n) = (guarded_cluster(), unique("i4-planted"));
        cluster.apply(&format!(
            "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {n}}}}}\n{}{}",
            manifest("User", &format!("{n}-mallory"), ""),
            manifest("User", &format!("{n}-jane"), "")
        ));
        let group = |members: &str, rest: &str| {
            manifest("Group", &format!("{n}-sre"), &format!("members: [{n}-{members}]{rest}"))
        };
        let binding = |subject: &str, role: &str| {
            manifest(
                "RoleBinding",
                &format!("{n}-sre"),
                &format!(
                    "subjects: [{{{subject}}}], roleRef: {{kind: ClusterRole, name: {role}}}, scope: {{namespaces: [{n}]}}"
                ),
            )
        };
        let planted = group("mallory", "") + &binding(&format!("kind: User, name: {n}-mallory"), "view");
        run(cluster, &["create", "--as", "mallory", "-f", "-"], &planted).unwrap();
        wait_until_can(cluster, &format!("{n}-mallory"), &["get", "pods", "-n", &n], true).await;

        let applied = group("jane", ", memberGroups: [], memberships: [], acceptDeclaredMembers: false")
            + &binding(&format!("kind: Group, name: {n}-sre"), "edit");
        run(cluster, way, &applied).unwrap();
        wait_until_can(cluster, &format!("{n}-jane"), &["create", "pods", "-n", &n], true).await;
        wait_for_text(cluster, &["users.roster.dev", &format!("{n}-mallory")], "{.status.groups[*]}", "").await;
        wait_until_processed(cluster, &n).await;
        for verb in ["get", "create"] {
            assert!(!can(cluster, &format!("{n}-mallory"), &[verb, "pods", "-n", &n]), "{way:?} {verb}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_server_side_apply_without_force_reports_planted_fields() {
    let (cluster, n) = (guarded_cluster(), unique("i4-planted"));
    run(cluster, &["create", "--as", "mallory", "-f", "-"], &manifest("Group", &n, "members: [planted]")).unwrap();
    let error =
        run(cluster, &["apply", "--server-side", "-f", "-"], &manifest("Group", &n, "members: [jane]")).unwrap_err();
    assert!(error.contains("conflict with \"kubectl-create\"") && error.contains(".spec.members"), "{error}");
}

/// Returns the CRD of RoleBindings in a separate API group, in its current or earlier form.
fn definition(group: &str, is_earlier: bool) -> String {
    let mut crd = serde_json::to_value(RoleBinding::crd()).unwrap();
    crd["metadata"]["name"] = format!("rolebindings.{group}").into();
    crd["spec"]["group"] = group.into();
    crd["spec"]["names"]["categories"] = json!([]);
    crd["spec"]["names"]["shortNames"] = json!([]);
    if is_earlier {
        let spec = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        let mut merging = |path: &str, kind: &str| {
            let list = spec.pointer_mut(path).unwrap().as_object_mut().unwrap();
            list.remove("x-kubernetes-validations");
            list.insert("x-kubernetes-list-type".to_owned(), kind.into());
        };
        merging("/subjects", "map");
        merging("/scope/properties/namespaces", "set");
        spec["subjects"]["x-kubernetes-list-map-keys"] = json!(["kind", "name"]);
        for field in ["scope", "roleRef", "validity"] {
            spec[field].as_object_mut().unwrap().remove("x-kubernetes-map-type");
        }
    }
    format!("---\n{crd}\n")
}

/// kube-apiserver converts ownership of list items to ownership of the whole list.
#[tokio::test(flavor = "multi_thread")]
async fn objects_of_earlier_versions_are_applied_completely_after_an_upgrade() {
    let cluster = guarded_cluster();
    let group = format!("{}.example.com", unique("upgrade"));
    let object = format!("rolebindings.{group}/sre");
    let binding = |who: &str| {
        format!(
            "---\n{{apiVersion: {group}/v1alpha1, kind: RoleBinding, metadata: {{name: sre}}, spec: {{subjects: [{{kind: User, name: {who}}}], roleRef: {{kind: ClusterRole, name: edit}}, scope: {{namespaces: [of-{who}]}}}}}}\n"
        )
    };
    let apply = |who: &str, flags: &[&str]| {
        let manager = format!("--field-manager={who}");
        run(cluster, &[&["apply", "--server-side", &manager, "-f", "-"], flags].concat(), &binding(who))
    };
    cluster.apply(&definition(&group, true));
    eventually("the kind is served", || async { apply("ada", &[]) }).await;
    apply("bob", &[]).unwrap();
    let merged = spec(cluster, &object);
    assert_eq!(merged["subjects"], json!([{"kind": "User", "name": "ada"}, {"kind": "User", "name": "bob"}]));

    cluster.apply(&definition(&group, false));
    let twice = r#"{"spec": {"scope": {"namespaces": ["a", "a"]}}}"#;
    eventually("the new schema is served", || async {
        match run(cluster, &["patch", &object, "--type=merge", "--dry-run=server", "-p", twice], "") {
            Err(error) if error.contains("key a already exists") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // The upgrade alone loses nothing, and an unrelated update converts it.
    cluster.kubectl(&["label", &object, "floor=3"]);
    assert_eq!(spec(cluster, &object), merged);
    let error = apply("ada", &[]).unwrap_err();
    assert!(error.contains("conflicts with \"bob\"") && error.contains(".spec.subjects"), "{error}");
    apply("ada", &["--force-conflicts"]).unwrap();
    let (subjects, namespaces) = (json!([{"kind": "User", "name": "ada"}]), json!({"namespaces": ["of-ada"]}));
    let found = spec(cluster, &object);
    assert_eq!((&found["subjects"], &found["scope"]), (&subjects, &namespaces));
    // Applying it again changes nothing.
    let version = || cluster.kubectl(&["get", &object, "-o", "jsonpath={.metadata.resourceVersion}"]);
    let before = version();
    apply("ada", &[]).unwrap();
    assert_eq!(version(), before);
    cluster.kubectl(&["delete", "customresourcedefinition", &format!("rolebindings.{group}")]);
}
