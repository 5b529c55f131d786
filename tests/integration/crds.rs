//! Custom resources in kube-apiserver: what is rejected with which message, and what kubectl shows.

use kube::CustomResourceExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use roster_api::{Group, RoleBinding, User};
use serde_json::{Value, json};

use crate::support::{shared, unique, wait_until_ready};

mod schema;

async fn refusal(resource: &ApiResource, object: Value) -> Option<String> {
    let api: Api<DynamicObject> = Api::all_with(shared().client().await, resource);
    let object: DynamicObject = serde_json::from_value(object).expect("the JSON is an object");
    match api.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) => Some(status.message),
        Err(error) => panic!("{error}"),
    }
}

fn object(resource: &ApiResource, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, "spec": spec})
}

/// Each must be rejected with a message that names the field and says what is allowed.
async fn refused(resource: &ApiResource, cases: &[(Value, &str, &str)]) {
    for (spec, field, message) in cases {
        let refusal =
            refusal(resource, object(resource, "x", spec)).await.unwrap_or_else(|| panic!("{spec} was accepted"));
        assert!(refusal.contains(field) && refusal.contains(message), "{spec}: {refusal}");
    }
}

async fn accepted(resource: &ApiResource, specs: &[Value]) {
    for spec in specs {
        if let Some(refusal) = refusal(resource, object(resource, "x", spec)).await {
            panic!("{spec}: {refusal}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_users_are_refused_by_field() {
    let window = json!({"notBefore": "2027-01-02T00:00:00Z", "notAfter": "2027-01-01T00:00:00Z"});
    let cases = [
        (json!({"username": "jane doe"}), "spec.username", "letters, digits"),
        (json!({"username": "-jane"}), "spec.username", "begin and end with"),
        (json!({"username": ""}), "spec.username", "letters, digits"),
        (json!({"username": "x".repeat(254)}), "spec.username", "253"),
        (json!({"email": "jane"}), "spec.email", "must be an email address such as"),
        (json!({"email": "jane@localhost"}), "spec.email", "must be an email address such as"),
        (json!({"email": "jane@exämple.com"}), "spec.email", "in ASCII"),
        (json!({"email": "a@b@example.com"}), "spec.email", "must be an email address such as"),
        (
            json!({"additionalEmails": ["jane@example.com", "nope"]}),
            "spec.additionalEmails[1]",
            "must be an email address",
        ),
        (
            json!({"additionalEmails": ["a@example.com", "a@example.com"]}),
            "spec.additionalEmails",
            "key a@example.com already exists evaluating rule: must not have the same value twice",
        ),
        (json!({"mobile": "555 0100"}), "spec.mobile", "international form"),
        (json!({"mobile": "+1 555"}), "spec.mobile", "7 to 15 digits"),
        (json!({"mobile": "+1234567890123456"}), "spec.mobile", "7 to 15 digits"),
        (json!({"language": "english!"}), "spec.language", "BCP 47"),
        (json!({"timezone": "Europe/Atlantis"}), "spec.timezone", "IANA time zone database"),
        (json!({"timezone": "CEST"}), "spec.timezone", "IANA time zone database"),
        (json!({"preferredShell": "rm -rf"}), "spec.preferredShell", "name or the path of a shell"),
        (json!({"githubUsername": "jane_doe_x_"}), "spec.githubUsername", "GitHub username"),
        (json!({"domain": "a b"}), "spec.domain", "label value"),
        (json!({"zone": "-eu"}), "spec.zone", "label value"),
        (json!({"displayName": "Jane\nDoe"}), "spec.displayName", "single line"),
        (json!({"state": "Asleep"}), "spec.state", "Banned"),
        (json!({"admin": "yes"}), "spec.admin", "boolean"),
        (json!({"validity": window}), "spec.validity", "notBefore must be earlier than notAfter"),
        (json!({"validity": {"notAfter": "tomorrow"}}), "spec.validity.notAfter", "date-time"),
        (json!({"groups": ["Engineers"]}), "spec.groups[0]", "must be the metadata.name"),
        (json!({"groups": ["system:masters"]}), "spec.groups[0]", "must be the metadata.name"),
        (json!({"connector": {"id": "x"}}), "spec.connector.type", "Required value"),
        (json!({"identities": [{"type": "ldap"}]}), "spec.identities[0].id", "Required value"),
        (json!({"passwordSecretRef": {"name": "x"}}), "spec.passwordSecretRef.namespace", "Required value"),
        (
            json!({"passwordSecretRef": {"namespace": "Team A", "name": "x"}}),
            "spec.passwordSecretRef.namespace",
            "name of a Namespace",
        ),
        (
            json!({"passwordSecretRef": {"namespace": "a", "name": "../x"}}),
            "spec.passwordSecretRef.name",
            "name of a Secret",
        ),
        (json!({"validity": {"notAfter": "2030-01-01T00:00:00+01:60"}}), "spec.validity.notAfter", "should match"),
        (json!({"validity": {"notAfter": "9999-12-31T23:59:59Z"}}), "spec.validity", "before the year 9999"),
        (
            json!({"identities": [{"type": "a", "id": "x"}, {"type": "a", "id": "x"}]}),
            "spec.identities",
            "key a/x already exists evaluating rule: must not have the same type and id twice",
        ),
        (json!({"secondFactor": "Maybe"}), "spec.secondFactor", "Required"),
        (json!({"allowedCIDRs": ["10.0.0.0"]}), "spec.allowedCIDRs[0]", "CIDR notation"),
        (json!({"allowedCIDRs": ["10.0.0.0/33"]}), "spec.allowedCIDRs[0]", "CIDR notation"),
        (json!({"quota": {"hard": {"requests.cpus": "8"}}}), "spec.quota.hard", "name of ResourceQuota"),
        (json!({"quota": {"hard": {"requests.cpu": "many"}}}), "spec.quota.hard", "must be a quantity"),
        (json!({"quota": {"hard": {"requests.cpu": "-1"}}}), "spec.quota.hard", "zero or more"),
        (json!({"quota": {"hard": {"pods": "1.5"}}}), "spec.quota.hard", "must be an integer"),
        (json!({"quota": {"hard": {"pods": "1500m"}}}), "spec.quota.hard", "must be an integer"),
        (json!({"quota": {"hard": {"count/jobs.batch": "1e-1"}}}), "spec.quota.hard", "must be an integer"),
        (
            json!({"quota": {"hard": {"gold.storageclass.storage.k8s.io/persistentvolumeclaims": ".5"}}}),
            "spec.quota.hard",
            "must be an integer",
        ),
        // Numbers that kube-apiserver would take seconds to compute, and texts without a digit.
        (json!({"quota": {"hard": {"pods": "1e9999999"}}}), "spec.quota.hard", "zero or more"),
        (json!({"quota": {"hard": {"pods": "1e-9999999"}}}), "spec.quota.hard", "zero or more"),
        (json!({"quota": {"hard": {"pods": "."}}}), "spec.quota.hard", "zero or more"),
        (json!({"quota": {"hard": {"pods": "e5"}}}), "spec.quota.hard", "zero or more"),
        (json!({"quota": {"hard": {"pods": ".m"}}}), "spec.quota.hard", "zero or more"),
        (json!({"quota": {"hard": {"namespaces": -1}}}), "spec.quota.hard", "zero or more"),
        (
            json!({"notification": {"type": "webhook", "url": "http://example.com"}}),
            "spec.notification.url",
            "https URL",
        ),
        (
            json!({"notification": {"type": "webhook", "url": "https://u:p@example.com"}}),
            "spec.notification.url",
            "without a user name",
        ),
        (json!({"notification": {"type": "smoke", "url": "https://example.com"}}), "spec.notification.type", "webhook"),
        (json!({"deletionPolicy": "Cascade"}), "spec.deletionPolicy", "Orphan"),
        (json!({"extra": {"authentication.kubernetes.io/pod-name": ["x"]}}), "spec.extra", "reserved"),
        (json!({"extra": {"Scopes.K8s.IO/x": ["x"]}}), "spec.extra", "reserved"),
        (json!({"extra": {"cost center": ["x"]}}), "spec.extra", "a key must consist of"),
        (json!({"extra": {"costCenter": ["42", "x\ny"]}}), "spec.extra", "must be a single line"),
        (json!({"extra": {"costCenter": ["\u{1b}[2K"]}}), "spec.extra", "must be a single line"),
    ];
    refused(&User::api_resource(), &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn valid_users_are_accepted() {
    let specs = [
        json!({}),
        json!({"username": "Jane.Doe_2+test@example.com"}),
        json!({"email": "o'brien@example.com"}),
        json!({"email": "jane.o+tag@mail.example.co.uk", "additionalEmails": ["j!#$%&*+/=?^_{|}~-@xn--exmple-cua.com"]}),
        json!({"mobile": "+1 (555) 010-0199"}),
        json!({"mobile": "+442079460000"}),
        json!({"language": "zh-Hant-TW", "timezone": "America/Argentina/Buenos_Aires"}),
        json!({"timezone": "UTC"}),
        json!({"preferredShell": "/usr/bin/zsh", "githubUsername": "jane-doe"}),
        json!({"allowedCIDRs": ["0.0.0.0/0", "::/0", "2001:db8::/32"]}),
        json!({"validity": {"notAfter": "2027-01-01T00:00:00Z"}}),
        json!({"quota": {"hard": {
            "namespaces": 5, "requests.cpu": "500m", "limits.memory": "1Gi", "services.loadbalancers": "2",
            "count/deployments.apps": 3, "gold.storageclass.storage.k8s.io/requests.storage": "1Ti",
            "requests.nvidia.com/gpu": 1, "hugepages-2Mi": "4Mi", "requests.ephemeral-storage": "1G",
        }}}),
        json!({"notification": {"type": "webhook", "url": "https://hooks.example.com:8443/x?y=z"}}),
        json!({"extra": {"costCenter": ["42"], "example.com/team": ["a", "b"], "k8s.io.example.com/x": []}}),
        json!({"quota": {"hard": {"requests.memory": 4_294_967_296_i64}}}),
        json!({"quota": {"hard": {"pods": "1.5k", "services": "2000m", "secrets": "2.0", "count/jobs.batch": "1Ki", "configmaps": "0"}}}),
        json!({"quota": {"hard": {"requests.cpu": ".5", "requests.memory": "1e3", "pods": "5.", "requests.storage": "1Ei", "limits.cpu": "100n"}}}),
        json!({"displayName": "Ångström 王 🙂"}),
    ];
    accepted(&User::api_resource(), &specs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_system_names_are_refused_for_every_caller() {
    // The client is in system:masters, which no authorizer denies.
    let users = User::api_resource();
    let reason = "names with the prefix system: are reserved for Kubernetes";
    let cases = [
        (json!({"username": "system:admin"}), "spec.username", reason),
        (json!({"username": "SYSTEM:kube-scheduler"}), "spec.username", reason),
        (json!({"email": "system:masters@example.com"}), "spec.email", reason),
        (json!({"additionalEmails": ["System:x@example.com"]}), "spec.additionalEmails[0]", reason),
    ];
    refused(&users, &cases).await;
    for resource in [&users, &Group::api_resource()] {
        let refusal = refusal(resource, object(resource, "system:masters", &json!({}))).await.expect("refused");
        assert!(refusal.contains("metadata.name"), "{refusal}");
    }
    let name = unique("i8");
    let api = shared().users().await;
    crate::support::create(&api, &crate::support::user(&name, false)).await;
    let patch = json!({"spec": {"email": "system:x@example.com"}});
    let error = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap_err();
    assert!(error.to_string().contains(reason), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_username_is_immutable_even_if_it_is_the_name() {
    let api = shared().users().await;
    let merge = |name: String, spec: Value| {
        let api = api.clone();
        async move { api.patch(&name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await }
    };
    let name = unique("immutable");
    crate::support::create(&api, &crate::support::user(&name, false)).await;
    let error = merge(name.clone(), json!({"username": "other"})).await.unwrap_err();
    assert!(error.to_string().contains("spec.username is immutable"), "{error}");
    merge(name.clone(), json!({"username": name})).await.expect("the default value can be set explicitly");
    merge(name.clone(), json!({"username": null})).await.expect("the explicit default can be removed again");

    let other = unique("immutable");
    let mut user = crate::support::user(&other, false);
    user.spec.username = Some(format!("{other}.x"));
    crate::support::create(&api, &user).await;
    let error = merge(other, json!({"username": null})).await.unwrap_err();
    assert!(error.to_string().contains("spec.username is immutable"), "{error}");
}

/// As many members as a Group may have, with names of the maximum length: validation must stay within CEL's limits.
fn largest_group() -> Value {
    let names = |count: usize| (0..count).map(|i| format!("{i:0>63}")).collect::<Vec<_>>();
    let memberships: Vec<Value> = names(1000).iter().map(|user| json!({"user": user, "validity": {}})).collect();
    json!({"members": names(5000), "memberGroups": names(256), "memberships": memberships})
}

/// The characters that commands replace when they print text.
#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_unsafe_to_print_is_refused() {
    let cases = [
        (json!({"displayName": "Jane\u{9b}2J"}), "spec.displayName", "without control characters"),
        (json!({"displayName": "Jane\u{85}Doe"}), "spec.displayName", "single line"),
        (json!({"firstName": "Jane\u{2028}Doe"}), "spec.firstName", "single line"),
        (json!({"lastName": "Doe\u{202e}nimda"}), "spec.lastName", "direction of writing"),
        (json!({"displayName": "\u{61c}Jane"}), "spec.displayName", "direction of writing"),
        (json!({"displayName": "\u{200f}Jane\u{2069}"}), "spec.displayName", "direction of writing"),
    ];
    refused(&User::api_resource(), &cases).await;
    let allowed = json!({"displayName": "Нина 山田 👩\u{200d}💻 אבג\u{a0}é"});
    accepted(&User::api_resource(), &[allowed]).await;
}

/// Text that was stored before a rule existed may stay: kube-apiserver checks only what changes.
#[tokio::test(flavor = "multi_thread")]
async fn text_that_was_stored_before_a_rule_does_not_block_other_changes() {
    let client = shared().client().await;
    let group = format!("{}.example.com", unique("stored"));
    let mut rules = serde_json::to_value(User::crd()).unwrap();
    rules["metadata"]["name"] = format!("users.{group}").into();
    rules["spec"]["group"] = group.clone().into();
    rules["spec"]["names"] = json!({"kind": "User", "plural": "users"});
    let mut without = rules.clone();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let fields = without.pointer_mut(spec).unwrap();
    fields["displayName"].as_object_mut().unwrap().remove("x-kubernetes-validations").unwrap();
    let extra = &mut fields["extra"]["additionalProperties"]["items"];
    extra.as_object_mut().unwrap().remove("x-kubernetes-validations").unwrap();
    let crds: Api<DynamicObject> = Api::all_with(
        client.clone(),
        &ApiResource::erase::<
            k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
        >(&()),
    );
    let apply = PatchParams::apply("test").force();
    crds.patch(&format!("users.{group}"), &apply, &Patch::Apply(&without)).await.unwrap();
    let resource =
        ApiResource { group: group.clone(), api_version: format!("{group}/v1alpha1"), ..User::api_resource() };
    let users: Api<DynamicObject> = Api::all_with(client, &resource);
    let spec = json!({"displayName": "Jane\u{202e}Doe", "extra": {"note": ["a\u{9b}b", "c"]}});
    let stored = serde_json::from_value(object(&resource, "jane", &spec)).unwrap();
    crate::support::eventually("the resource is served", || async {
        let created = users.create(&PostParams::default(), &stored).await;
        created.map_err(|error| error.to_string())
    })
    .await;
    crds.patch(&format!("users.{group}"), &apply, &Patch::Apply(&rules)).await.unwrap();
    let change = async |spec: Value| {
        users.patch("jane", &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await.map(drop)
    };
    crate::support::eventually("the rule is in force", || async {
        // A value that was stored before the rule is in force would be accepted again.
        match change(json!({"displayName": format!("{}\u{202e}Doe", unique("Joe"))})).await {
            Err(kube::Error::Api(status)) if status.message.contains("direction of writing") => Ok(()),
            outcome => Err(format!("{outcome:?}")),
        }
    })
    .await;
    change(json!({"state": "Banned"})).await.unwrap();
    change(json!({"extra": {"other": ["d"]}})).await.unwrap();
    change(json!({"displayName": "Jane"})).await.unwrap();
    crds.delete(&format!("users.{group}"), &kube::api::DeleteParams::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_groups_are_refused_by_field() {
    let groups = Group::api_resource();
    let expression = json!({"matchExpressions": [{"key": "team", "operator": "Is", "values": ["a"]}]});
    let empty_in = json!({"matchExpressions": [{"key": "team", "operator": "In"}]});
    let cases = [
        (json!({"members": ["Jane"]}), "spec.members[0]", "must be the metadata.name"),
        (json!({"members": ["jane", "jane"]}), "spec.members", "key jane already exists"),
        (json!({"memberGroups": ["x", "x"]}), "spec.memberGroups", "must not have the same value twice"),
        (json!({"memberGroups": ["x"]}), "spec.memberGroups", "must not name the group itself"),
        (json!({"memberSelector": expression}), "spec.memberSelector.matchExpressions[0].operator", "NotIn"),
        (json!({"memberSelector": empty_in}), "spec.memberSelector.matchExpressions[0]", "In and NotIn require values"),
        (json!({"memberships": [{"user": "jane"}]}), "spec.memberships[0].validity", "Required value"),
        (
            json!({"memberships": [{"user": "a", "validity": {}}, {"user": "a", "validity": {}}]}),
            "spec.memberships",
            "key a already exists evaluating rule: must not have the same user twice",
        ),
        (json!({"quota": {"hard": {"x": 1}}}), "spec.quota.hard", "name of ResourceQuota"),
        (json!({"description": "On call.\u{1b}[2K"}), "spec.description", "must not contain control characters"),
        (json!({"description": "On call.\u{202e}x"}), "spec.description", "direction of writing"),
        (json!({"description": "On call.\rx"}), "spec.description", "must not contain control characters"),
    ];
    refused(&groups, &cases).await;
    accepted(
        &groups,
        &[
            json!({}),
            json!({"memberSelector": {}}),
            json!({"acceptDeclaredMembers": true}),
            json!({"description": "On call:\n\t1. Berlin — ☎\n"}),
            json!({"members": ["jane"], "memberGroups": ["y"]}),
            largest_group(),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_role_bindings_are_refused_by_field() {
    let bindings = RoleBinding::api_resource();
    let with = |changes: Value| {
        let mut spec = json!({
            "subjects": [{"kind": "User", "name": "jane"}],
            "roleRef": {"kind": "ClusterRole", "name": "view"},
            "scope": {"cluster": {}},
        });
        for (key, value) in changes.as_object().unwrap() {
            spec[key] = value.clone();
        }
        spec
    };
    let many: Vec<String> = (0..17).map(|i| format!("ns-{i}")).collect();
    let role = json!({"kind": "Role", "name": "view"});
    let subject = |kind: &str| json!({"kind": kind, "name": "jane"});
    let cases = [
        (with(json!({"subjects": []})), "spec.subjects", "at least 1"),
        (with(json!({"subjects": [{"kind": "Robot", "name": "x"}]})), "spec.subjects[0].kind", "Group"),
        (
            with(json!({"subjects": [{"kind": "User", "name": "system:admin"}]})),
            "spec.subjects[0].name",
            "metadata.name",
        ),
        (with(json!({"roleRef": {"kind": "Job", "name": "x"}})), "spec.roleRef.kind", "ClusterRole"),
        (with(json!({"roleRef": {"kind": "Role", "name": "a/b"}})), "spec.roleRef.name", "no '/'"),
        (with(json!({"roleRef": role})), "spec", "requires a roleRef of kind ClusterRole"),
        (with(json!({"scope": {}})), "spec.scope", "exactly one of"),
        (with(json!({"scope": {"cluster": {}, "domain": "default"}})), "spec.scope", "exactly one of"),
        (with(json!({"scope": {"namespaces": []}})), "spec.scope.namespaces", "at least 1"),
        (with(json!({"scope": {"namespaces": many}})), "spec.scope.namespaces", "16"),
        (
            with(json!({"subjects": [subject("User"), subject("Group"), subject("User")]})),
            "spec.subjects",
            "key User/jane already exists evaluating rule: must not have the same kind and name twice",
        ),
        (with(json!({"scope": {"namespaces": ["a", "a"]}})), "spec.scope.namespaces", "key a already exists"),
        (with(json!({"scope": {"namespaces": ["A"]}})), "spec.scope.namespaces[0]", "name of a Namespace"),
        (with(json!({"delegatedBy": "Jane"})), "spec.delegatedBy", "metadata.name"),
    ];
    refused(&bindings, &cases).await;
    let good = [
        with(json!({})),
        with(json!({"scope": {"namespaces": ["a", "b"]}, "roleRef": {"kind": "Role", "name": "r"}})),
        with(json!({"scope": {"namespaceSelector": {}}})),
        with(json!({"subjects": [subject("User"), subject("Group")]})),
        with(json!({"scope": {"domain": "default"}, "roleRef": {"kind": "ClusterRole", "name": "system:basic-user"}})),
    ];
    accepted(&bindings, &good).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_finds_users_by_short_name_category_and_field() {
    let cluster = shared();
    let (name, users) = (unique("find"), cluster.users().await);
    let mut user = crate::support::user(&name, false);
    user.spec.email = Some(format!("{name}@example.com"));
    user.spec.zone = Some("eu-west".into());
    crate::support::create(&users, &user).await;
    wait_until_ready(&users, &name).await;
    for selector in [
        format!("spec.email={name}@example.com"),
        format!("status.username={name},spec.zone=eu-west,status.state=Active"),
    ] {
        let found = cluster.kubectl(&["get", "usr", "--field-selector", &selector, "-o", "name"]);
        assert!(found.contains(&name), "{selector}: {found}");
    }
    assert!(cluster.kubectl(&["get", "roster", "-o", "name"]).contains(&format!("user.roster.dev/{name}")));
    let table = cluster.kubectl(&["get", "users.roster.dev", &name]);
    for word in ["STATE", "READY", "REASON", "Active", "True", "Succeeded"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let explained = cluster.kubectl(&["explain", "users.roster.dev.spec.validity"]);
    assert!(explained.contains("Time from which this is no longer valid"), "{explained}");
}

#[test]
fn case_d8_a_number_with_a_fraction_is_rejected_with_what_to_write() {
    let kubectl = &shared().plane.kubectl;
    for (kind, hard, message) in [
        (
            "User",
            "requests.cpu: 0.5",
            "spec.quota.hard[requests.cpu]: write the number in quotes, as a quantity: \"0.5\"",
        ),
        ("Group", "requests.cpu: 0.5", "write the number in quotes, as a quantity: \"0.5\""),
        ("User", "pods: 1.5", "spec.quota.hard[pods]: must be an integer, not 1.5"),
        ("User", "pods: '1.5'", "must be an integer"),
    ] {
        let manifest = format!(
            "apiVersion: roster.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: fraction}}\nspec: {{quota: {{hard: {{{hard}}}}}}}\n"
        );
        for args in [&["apply", "-f", "-"][..], &["apply", "--server-side", "-f", "-"]] {
            let error = kubectl.run_with_input(args, &manifest).unwrap_err().to_string();
            assert!(error.contains(message), "{hard}: {error}");
        }
    }
}

/// A Group with this many members and memberships, with names of the greatest length.
fn large_group(name: &str, members: usize, memberships: usize) -> String {
    let time = "2036-12-31T23:59:59Z";
    let member = |at: usize| format!("{at:m>63}");
    let membership =
        |at: usize| json!({"user": member(at), "validity": {"notBefore": "2026-01-01T00:00:00Z", "notAfter": time}});
    let spec = json!({
        "description": "d".repeat(4096),
        "members": (0..members).map(member).collect::<Vec<_>>(),
        "memberships": (10_000..10_000 + memberships).map(membership).collect::<Vec<_>>(),
    });
    format!("---\n{}", object(&Group::api_resource(), name, &spec))
}

#[test]
fn case_d4_large_groups_within_the_documented_limits_can_be_applied() {
    let kubectl = &shared().plane.kubectl;
    let name = unique("large");
    for manifest in [large_group(&name, 3500, 0), large_group(&name, 500, 1000)] {
        kubectl.apply(&manifest).unwrap();
    }
    let error = kubectl.apply(&large_group(&name, 5000, 0)).unwrap_err().to_string();
    assert!(error.contains("metadata.annotations: Too long"), "{error}");
    kubectl.run(&["delete", "groups.roster.dev", &name]).unwrap();

    let manifest = large_group(&name, 5000, 1000);
    for manager in ["one", "two", "three", "four"] {
        let manager = format!("--field-manager={manager}");
        kubectl.run_with_input(&["apply", "--server-side", &manager, "-f", "-"], &manifest).unwrap();
    }
    let group = kubectl.get(&["groups.roster.dev", &name, "--show-managed-fields"]).unwrap();
    assert_eq!(group["spec"]["members"].as_array().unwrap().len(), 5000);
    assert!(group.to_string().len() < 1024 * 1024, "far below etcd's 1.5 MiB");
    kubectl.run(&["delete", "groups.roster.dev", &name]).unwrap();
}
