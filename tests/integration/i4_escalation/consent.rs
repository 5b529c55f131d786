//! I4 over time: an attacker declares a User's membership before the group exists, and waits for its roles.

use super::{CREATE, guarded_cluster};
use crate::support::{Cluster, can, unique, wait_for_text, wait_until_can};

const REASON: &str = "{.status.conditions[?(@.type=='MembershipPending')].reason}";
const MESSAGE: &str = "{.status.conditions[?(@.type=='MembershipPending')].message}";

/// A group with a member and a selector, bound to `edit`.
fn group(n: &str) -> String {
    format!(
        "---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {n}-admins}}, spec: {{members: [{n}-jane], memberSelector: {{matchLabels: {{team: {n}}}}}}}}}\n"
    )
}

fn refused(cluster: &Cluster, args: &[&str]) {
    let refusal = cluster.plane.kubectl.run(&[&["--as", "mallory"], args].concat()).unwrap_err().to_string();
    assert!(refusal.contains("the guard: "), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_membership_declared_before_the_group_exists_waits_for_its_consent() {
    let (cluster, n) = (guarded_cluster(), unique("i4-consent"));
    let (admins, named, labelled) = (format!("{n}-admins"), format!("{n}-named"), format!("{n}-labelled"));
    let as_mallory = |args: &[&str], input: &str| {
        let args = [&["--as", "mallory"], args].concat();
        cluster.plane.kubectl.run_with_input(&args, input).unwrap_or_else(|error| panic!("{error:#}"));
    };
    // Nobody holds a role yet, so the guard allows it.
    as_mallory(
        CREATE,
        &format!(
            "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {named}}}, spec: {{groups: [{admins}]}}}}\n\
             ---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {labelled}, labels: {{team: {n}}}}}, spec: {{}}}}\n\
             ---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}-late}}, spec: {{}}}}\n"
        ),
    );
    let pending = format!("{{.status.groups[*]}} {{.status.pendingGroups[*]}} {REASON}");
    wait_for_text(cluster, &["users.roster.dev", &named], &pending, &format!(" {admins} GroupNotFound")).await;

    // Later, an administrator creates and binds the group.
    cluster.apply(&format!(
        "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {n}}}}}\n\
         ---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}-jane}}, spec: {{}}}}\n\
         ---\n{{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {{name: {n}}}, spec: {{subjects: [{{kind: Group, name: {admins}}}], roleRef: {{kind: ClusterRole, name: edit}}, scope: {{namespaces: [{n}]}}}}}}\n"
    ));
    cluster.apply(&group(&n));
    let question = ["create", "pods", "-n", &n];
    wait_until_can(cluster, &format!("{n}-jane"), &question, true).await;
    for user in [&named, &labelled] {
        wait_for_text(cluster, &["users.roster.dev", user], &pending, &format!(" {admins} NotAccepted")).await;
        assert!(!can(cluster, user, &question), "{user}");
    }
    let counts = "{.status.members} {.status.waitingMembers}";
    wait_for_text(cluster, &["groups.roster.dev", &admins], counts, "1 2").await;
    let ready = "{.status.conditions[?(@.type=='Ready')].reason}";
    wait_for_text(cluster, &["groups.roster.dev", &admins], ready, "SelectorNotAccepted").await;
    let message = cluster.kubectl(&["get", "groups.roster.dev", &admins, "-o", &format!("jsonpath={MESSAGE}")]);
    assert!(message.starts_with(&format!("not accepted: {labelled}, {named}. They name this Group")), "{message}");
    let members =
        cluster.kubectl(&["get", "--raw", &format!("/apis/directory.roster.dev/v1alpha1/groups/{admins}/members")]);
    assert!(members.contains(&format!("{n}-jane")) && !members.contains(&named), "{members}");

    // Giving consent requires control of the group. So does a declaration, accepted or not.
    let consent = |accepts: bool| format!(r#"{{"spec": {{"acceptDeclaredMembers": {accepts}}}}}"#);
    let (accept, withdraw) = (consent(true), consent(false));
    refused(cluster, &["patch", "groups.roster.dev", &admins, "--type=merge", "-p", &accept]);
    refused(cluster, &["label", "users.roster.dev", &format!("{n}-late"), &format!("team={n}")]);
    cluster.kubectl(&["patch", "groups.roster.dev", &admins, "--type=merge", "-p", &accept]);
    for user in [&named, &labelled] {
        wait_until_can(cluster, user, &question, true).await;
        wait_for_text(cluster, &["users.roster.dev", user], &pending, &format!("{admins}  ")).await;
    }
    wait_for_text(cluster, &["groups.roster.dev", &admins], counts, "3 ").await;
    wait_for_text(cluster, &["groups.roster.dev", &admins], ready, "Succeeded").await;
    refused(cluster, &["patch", "groups.roster.dev", &admins, "--type=merge", "-p", &withdraw]);
    cluster.kubectl(&["patch", "groups.roster.dev", &admins, "--type=merge", "-p", &withdraw]);
    for user in [&named, &labelled] {
        wait_until_can(cluster, user, &question, false).await;
    }
}
