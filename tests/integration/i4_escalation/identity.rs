//! Identity Secrets: guarded as a whole.

use axum::http::Request;
use roster_credentials::claim::{Identifier, IdentifierKind};
use serde_json::json;

use super::{FIXTURES, guarded_cluster, wait_until_processed};
use crate::support::{Cluster, eventually, unique, wait_until_can};

/// Grants `who` only this verb on Secrets in Roster's namespace.
async fn allow_secrets(cluster: &Cluster, name: &str, who: &str, verb: &str) {
    cluster.apply(&format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: {name}, namespace: roster-system}}\n\
         rules: [{{apiGroups: [''], resources: [secrets], verbs: ['{verb}']}}]\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: {name}, namespace: roster-system}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {name}}}\n\
         subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: '{who}'}}]\n",
    ));
    let verb = if verb == "*" { "create" } else { verb };
    wait_until_can(cluster, who, &[verb, "secrets", "-n", "roster-system"], true).await;
}

/// Runs kubectl as `who` in Roster's namespace. Returns its output or error.
fn in_rosters_namespace(cluster: &Cluster, who: &str, args: &[&str], input: &str) -> Result<String, String> {
    let args = [&["-n", "roster-system", "--as", who], args].concat();
    cluster.plane.kubectl.run_with_input(&args, input).map_err(|error| format!("{error:#}"))
}

/// The whole object and its deletion are guarded: each of these would end the lockout, or the user's logins.
#[tokio::test(flavor = "multi_thread")]
async fn i4_the_permission_to_write_secrets_does_not_change_identity_secrets() {
    let (cluster, n) = (guarded_cluster(), unique("i4-identity"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    wait_until_processed(cluster, &n).await;
    let boss = Identifier { kind: IdentifierKind::Username, text: format!("{n}-boss") }.secret_name();
    allow_secrets(cluster, &n, "trent", "*").await;
    let identity = |args: &[&str]| in_rosters_namespace(cluster, "trent", args, "");
    for secret in [boss.as_str(), "roster-token-keys"] {
        for patch in [
            r#"{"immutable": true}"#,
            r#"{"immutable": false}"#,
            // Such writes are stored although nothing else changes: many of them would keep failed logins from being
            // counted.
            r#"{"metadata": {"managedFields": [{}]}}"#,
            r#"{"data": {"failedLogins": null, "more": "eA=="}}"#,
            r#"{"metadata": {"labels": {"roster.dev/identifier": "email"}}}"#,
            r#"{"metadata": {"labels": {"more": "x"}}}"#,
            r#"{"metadata": {"annotations": {"roster.dev/closed": "true"}}}"#,
            r#"{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "y"}]}}"#,
            r#"{"metadata": {"finalizers": ["example.com/stay"]}}"#,
            r#"{"metadata": {"finalizers": ["example.com/stay"], "managedFields": [{}]}}"#,
        ] {
            let refused = identity(&["patch", "secret", secret, "--type=merge", "-p", patch]).unwrap_err();
            assert!(refused.contains("trent may not update them"), "{secret} {patch}: {refused}");
        }
        let refused = identity(&["delete", "secret", secret, "--wait=false"]).unwrap_err();
        assert!(refused.contains("trent may not delete them"), "{secret}: {refused}");
    }
    let refused = identity(&["delete", "secrets", "--field-selector", "type=roster.dev/identity", "--wait=false"]);
    assert!(refused.unwrap_err().contains("trent may not delete them"));
    // kubectl deletes objects one by one. This is one request for all.
    let collection = "/api/v1/namespaces/roster-system/secrets?fieldSelector=type%3Droster.dev/identity";
    let refused = identity(&["delete", "--raw", collection]).unwrap_err();
    assert!(refused.contains("trent may not delete them"), "{refused}");
    // Other Secrets are not guarded.
    identity(&["create", "secret", "generic", &n]).unwrap();
    identity(&["delete", "secret", &n]).unwrap();
    // The garbage collector deletes it with the User.
    cluster.kubectl(&["delete", "users.roster.dev", &format!("{n}-boss")]);
    eventually("the identity Secret goes with its User", || async {
        let kept = cluster.plane.kubectl.run(&["get", "secret", &boss, "-n", "roster-system"]);
        kept.map_or(Ok(()), Err)
    })
    .await;
}

const MIGRATOR: &str = "system:serviceaccount:kube-system:storage-version-migrator-controller";

/// The response to a PATCH that changes nothing is the Secret.
#[tokio::test(flavor = "multi_thread")]
async fn i4_no_op_updates_do_not_reveal_keys_and_credentials() {
    let (cluster, n) = (guarded_cluster(), unique("i4-unchanged"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    wait_until_processed(cluster, &n).await;
    let (oscar, boss) = (format!("{n}-oscar"), format!("{n}-boss"));
    let boss = Identifier { kind: IdentifierKind::Username, text: boss }.secret_name();
    allow_secrets(cluster, &n, &oscar, "patch").await;
    let migrator = format!("{n}-migrator");
    allow_secrets(cluster, &migrator, MIGRATOR, "patch").await;
    let updater = format!("{n}-updater");
    allow_secrets(cluster, &updater, &updater, "update").await;
    let client = cluster.client().await;
    for secret in [&*boss, "roster-token-keys", "roster-sealing-key", "roster-ca"] {
        let path = format!("/api/v1/namespaces/roster-system/secrets/{secret}");
        let apply = format!("{{apiVersion: v1, kind: Secret, metadata: {{name: {secret}}}}}");
        // kubectl reads an object before it patches it, which requires `get`.
        for (kind, patch) in [
            ("merge-patch+json", "{}"),
            ("strategic-merge-patch+json", "{}"),
            ("json-patch+json", "[]"),
            ("apply-patch+yaml", &*apply),
            ("merge-patch+json", r#"{"metadata": {"generation": 7}}"#),
            ("merge-patch+json", r#"{"metadata": {"labels": {}}}"#),
            ("merge-patch+json", r#"{"metadata": {"selfLink": "/x"}}"#),
        ] {
            for query in ["?fieldManager=x", "?fieldManager=x&dryRun=All"] {
                let request = Request::patch(format!("{path}{query}"))
                    .header("content-type", format!("application/{kind}"))
                    .header("impersonate-user", &oscar);
                let answer = client.request_text(request.body(patch.as_bytes().to_vec()).unwrap()).await;
                // The message may contain a key.
                let Err(refused) = answer else { panic!("{secret} is read by {kind} {patch} {query}") };
                let refused = refused.to_string();
                assert!(refused.contains(&format!("{oscar} may not update them")), "{secret} {patch}: {refused}");
            }
        }
        // An update needs the current content.
        let content = cluster.kubectl(&["get", "--raw", &path]);
        let refused = in_rosters_namespace(cluster, &updater, &["replace", "--raw", &path, "-f", "-"], &content);
        assert!(refused.unwrap_err().contains(&format!("{updater} may not update them")), "{secret}");
        // kube-controller-manager rewrites every Secret when the encryption at rest changes.
        let migrate = |patch: &'static str| {
            let request = Request::patch(&path)
                .header("content-type", "application/merge-patch+json")
                .header("impersonate-user", MIGRATOR);
            client.request_text(request.body(patch.into()).unwrap())
        };
        migrate("{}").await.unwrap();
        let refused = migrate(r#"{"metadata": {"labels": {"more": "x"}}}"#).await.unwrap_err().to_string();
        assert!(refused.contains("may not update them"), "{secret}: {refused}");
        // Callers that may bind every role have nothing to gain.
        cluster.kubectl(&["patch", "secret", secret, "-n", "roster-system", "-p", "{}"]);
    }
}

/// Sends a request as `who`, and returns the response's body or error message.
async fn answer(client: &kube::Client, who: &str, request: axum::http::request::Builder, body: &str) -> String {
    let request = request.header("impersonate-user", who).body(body.as_bytes().to_vec()).unwrap();
    client.request_text(request).await.unwrap_or_else(|error| error.to_string())
}

/// kube-apiserver answers some requests before it asks any policy. `patch` reads Secrets that way, as docs/explanation/security.md says:
/// if this changes with a version of Kubernetes, the threat model may promise more. `update` and deletions must not.
#[tokio::test(flavor = "multi_thread")]
async fn i4_update_errors_do_not_reveal_keys() {
    let (cluster, n) = (guarded_cluster(), unique("i4-errors"));
    let holders = ["patch", "update", "delete", "deletecollection"].map(|verb| (format!("{n}-{verb}"), verb));
    for (name, verb) in &holders {
        allow_secrets(cluster, name, name, verb).await;
    }
    let [patcher, updater, deleter, sweeper] = holders.each_ref().map(|(name, _)| name.as_str());
    let client = cluster.client().await;
    let all = "/api/v1/namespaces/roster-system/secrets";
    for secret in ["roster-token-keys", "roster-sealing-key", "roster-ca"] {
        let path = format!("{all}/{secret}");
        let content: serde_json::Value = serde_json::from_str(&cluster.kubectl(&["get", "--raw", &path])).unwrap();
        let values: Vec<&str> = content["data"].as_object().unwrap().values().filter_map(|it| it.as_str()).collect();
        let is_read = |answer: &str| values.iter().any(|value| answer.contains(value));

        for body in [
            json!({"metadata": {"name": secret}}),
            json!({"metadata": {"name": secret}, "immutable": "x"}),
            json!({"metadata": {"name": secret}, "unknown": "x"}),
            json!({"metadata": {"name": secret}, "type": "example.com/other"}),
            json!({"metadata": {"name": secret}, "data": {"key": 1}}),
            json!({"metadata": {"name": secret, "labels": {"x": "not valid"}}}),
            json!({"metadata": {"name": secret, "resourceVersion": "1"}}),
            json!({"metadata": {"name": secret, "uid": "another"}}),
            json!({"metadata": {"name": "another"}}),
        ] {
            for query in ["?fieldValidation=Strict", "?fieldValidation=Warn&dryRun=All"] {
                let request = Request::put(format!("{path}{query}")).header("content-type", "application/json");
                let told = answer(&client, updater, request, &body.to_string()).await;
                assert!(!is_read(&told), "{secret} is read by PUT {body} {query}");
            }
        }
        for options in [json!({}), json!({"preconditions": {"uid": "another"}}), json!({"dryRun": ["All"]})] {
            let delete = |path: &str| Request::delete(path).header("content-type", "application/json");
            let told = answer(&client, deleter, delete(&path), &options.to_string()).await;
            assert!(!is_read(&told), "{secret} is read by DELETE {options}");
            // The response to the deletion of a collection is the list.
            let collection = format!("{all}?fieldSelector=metadata.name%3D{secret}");
            let told = answer(&client, sweeper, delete(&collection), &options.to_string()).await;
            assert!(!is_read(&told), "{secret} is read by DELETE of a collection {options}");
        }
        for (kind, patch) in [
            ("merge-patch+json", r#"{"immutable": "x"}"#),
            ("json-patch+json", r#"[{"op": "copy", "from": "/data", "path": "/metadata/labels"}]"#),
        ] {
            let request = Request::patch(&path).header("content-type", format!("application/{kind}"));
            let told = answer(&client, patcher, request, patch).await;
            assert!(is_read(&told), "{secret} is no longer read by {kind} {patch}: {told}");
        }
    }
    // All deletions were denied.
    cluster.kubectl(&["get", "secrets", "roster-token-keys", "roster-sealing-key", "roster-ca", "-n", "roster-system"]);
}

/// Kubernetes writes a token of the ServiceAccount into a Secret that names it.
#[tokio::test(flavor = "multi_thread")]
async fn i4_secrets_do_not_yield_a_token_of_the_operator() {
    let (cluster, n) = (guarded_cluster(), unique("i4-token"));
    allow_secrets(cluster, &n, "trudy", "*").await;
    let trudy = |args: &[&str], input: &str| in_rosters_namespace(cluster, "trudy", args, input);
    let token = |name: &str, account: &str| {
        format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: '{name}', namespace: roster-system, annotations: \
             {{kubernetes.io/service-account.name: '{account}'}}}}, type: kubernetes.io/service-account-token}}"
        )
    };
    for account in ["roster", "roster-check"] {
        for create in [
            &["create", "-f", "-"][..],
            &["create", "--dry-run=server", "-f", "-"],
            &["apply", "--server-side", "-f", "-"],
        ] {
            let refused = trudy(create, &token(&n, account)).unwrap_err();
            assert!(refused.contains("trudy may not create them"), "{create:?}: {refused}");
        }
    }
    // Nor by a Secret that first names another ServiceAccount.
    trudy(&["create", "-f", "-"], &token(&n, "default")).unwrap();
    let other = r#"{"metadata": {"annotations": {"kubernetes.io/service-account.name": "roster"}}}"#;
    let refused = trudy(&["patch", "secret", &n, "-p", other], "").unwrap_err();
    assert!(refused.contains("trudy may not update them"), "{refused}");
    trudy(&["delete", "secret", &n], "").unwrap();

    // An administrator may, and kube-controller-manager fills it in. Then it is guarded like Roster's keys.
    cluster.apply(&token(&n, "roster"));
    let filled = ["secret", &n, "-n", "roster-system"];
    eventually("the token is filled in", || async {
        let args = [&["get"], &filled[..], &["-o", "jsonpath={.data.token}"]].concat();
        let token = cluster.plane.kubectl.run(&args).map_err(|error| format!("{error:#}"))?;
        if token.is_empty() { Err("no token".to_owned()) } else { Ok(()) }
    })
    .await;
    for patch in ["{}", r#"{"metadata": {"annotations": {"kubernetes.io/service-account.name": "default"}}}"#] {
        let refused = trudy(&["patch", "secret", &n, "-p", patch], "").unwrap_err();
        assert!(refused.contains("trudy may not update them"), "{patch}: {refused}");
    }
    let refused = trudy(&["delete", "secret", &n], "").unwrap_err();
    assert!(refused.contains("trudy may not delete them"), "{refused}");
    cluster.kubectl(&["delete", "secret", &n, "-n", "roster-system"]);
    // Secrets in other namespaces are not affected.
    let elsewhere = token(&n, "default").replace("namespace: roster-system", "namespace: default");
    cluster.apply(&elsewhere);
    cluster.kubectl(&["delete", "secret", &n]);
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_token_requests_do_not_yield_a_token_of_the_operator() {
    let (cluster, n) = (guarded_cluster(), unique("i4-request"));
    cluster.apply(&format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: {n}, namespace: roster-system}}\n\
         rules: [{{apiGroups: [''], resources: [serviceaccounts/token], verbs: [create]}}]\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: {n}, namespace: roster-system}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {n}}}\n\
         subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: {n}}}]\n",
    ));
    let token = |account: &str| in_rosters_namespace(cluster, &n, &["create", "token", account], "");
    eventually("tokens of other ServiceAccounts are created", || async { token("default").map(drop) }).await;
    // It exists only while `helm test` runs.
    cluster.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: roster-check, namespace: roster-system}}");
    for account in ["roster", "roster-check"] {
        let refused = token(account).expect_err("a token of the operator");
        assert!(refused.contains(&format!("{n} may not create them")), "{refused}");
    }
    cluster.kubectl(&["delete", "serviceaccount", "roster-check", "-n", "roster-system"]);
    cluster.kubectl(&["create", "token", "roster", "-n", "roster-system"]);
    // The name means nothing elsewhere.
    cluster.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: roster, namespace: default}}");
    cluster.apply(&format!(
        "{{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {{name: {n}}}, roleRef: {{apiGroup: \
         rbac.authorization.k8s.io, kind: ClusterRole, name: edit}}, subjects: [{{apiGroup: rbac.authorization.k8s.io, \
         kind: User, name: {n}}}]}}"
    ));
    eventually("tokens of other namespaces are created", || async {
        let args = ["create", "token", "roster", "--as", &n];
        cluster.plane.kubectl.run(&args).map(drop).map_err(|error| format!("{error:#}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_denials_name_what_the_secret_holds() {
    let (cluster, n) = (guarded_cluster(), unique("i4-message"));
    allow_secrets(cluster, &n, "trevor", "create").await;
    let hash = "0".repeat(8);
    for (name, kind, says) in [
        (
            format!("login-{n}"),
            "Opaque",
            "Secrets of type roster.dev/identity or named login-… contain the credentials of people",
        ),
        (n.clone(), "roster.dev/identity", "Secrets of type roster.dev/identity or named login-…"),
        (
            format!("deleted-user-{hash}"),
            "Opaque",
            "Secrets of type roster.dev/deleted-user or named deleted-user-… protect the names of deleted Users",
        ),
        (n.clone(), "roster.dev/deleted-user", "Secrets of type roster.dev/deleted-user"),
        (
            "roster-ca".to_owned(),
            "Opaque",
            "the Secrets roster-ca, roster-sealing-key and roster-token-keys contain the keys of Roster",
        ),
    ] {
        let secret = format!("{{apiVersion: v1, kind: Secret, metadata: {{name: '{name}'}}, type: {kind}}}");
        let refused = in_rosters_namespace(cluster, "trevor", &["create", "-f", "-"], &secret).unwrap_err();
        assert!(refused.contains(&format!("the guard: {says}")), "{name} {kind}: {refused}");
        assert!(refused.contains("trevor may not create them without the verb bind on every ClusterRole"), "{refused}");
    }
}

/// Anyone who may write Secrets in one namespace can name any User in a password Secret.
#[tokio::test(flavor = "multi_thread")]
async fn i4_denials_have_details_only_for_callers_that_may_list_users() {
    let (cluster, n) = (guarded_cluster(), unique("i4-denials"));
    cluster.apply(&FIXTURES.replace("{n}", &n));
    wait_until_processed(cluster, &n).await;
    let (editor, boss) = (format!("{n}-editor"), format!("{n}-boss"));
    let binding = |kind: &str, rules: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {n}-denials, namespace: default}}\n\
             rules: [{rules}]\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}Binding\n\
             metadata: {{name: {n}-denials, namespace: default}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: {kind}, name: {n}-denials}}\n\
             subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: '{editor}'}}]\n"
        )
    };
    cluster.apply(&binding("Role", "{apiGroups: [''], resources: [secrets], verbs: [create]}"));
    wait_until_can(cluster, &editor, &["create", "secrets", "-n", "default"], true).await;
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {n}, namespace: default, annotations: {{roster.dev/user: {boss}}}}}\n\
         type: roster.dev/password\nstringData: {{password: correct horse battery}}\n"
    );
    let denial = || {
        let args = ["create", "-f", "-", "--as", &editor, "--dry-run=server"];
        format!("{:#}", cluster.plane.kubectl.run_with_input(&args, &secret).unwrap_err())
    };
    let short = denial();
    assert!(short.contains("holds or would hold a role that"), "{short}");
    assert!(!short.contains("ClusterRole") && !short.contains("RoleBinding") && !short.contains("Group"), "{short}");
    cluster.apply(&binding("ClusterRole", "{apiGroups: [roster.dev], resources: [users], verbs: [list]}"));
    wait_until_can(cluster, &editor, &["list", "users.roster.dev"], true).await;
    let full = denial();
    assert!(full.contains(&format!("User {boss} holds or would hold ClusterRole")), "{full}");
}
