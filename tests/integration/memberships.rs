//! Group membership from all four sources, on a real control plane.

use jiff::{Timestamp, ToSpan};

use crate::support::{Cluster, eventually, rbac, unique, wait_for_text};

fn user(name: &str, rest: &str) -> String {
    format!("---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {name}{rest}}}, spec: {{}}}}\n")
}

fn group(name: &str, spec: &str) -> String {
    format!("---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n")
}

async fn wait_for_groups(cluster: &Cluster, user: &str, expected: &str) {
    wait_for_text(cluster, &["users.roster.dev", user], "{.status.groups[*]}", expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_created_later_belong_immediately() {
    let (cluster, n) = (rbac(), unique("late"));
    cluster.apply(&group(&n, &format!("members: [{n}-jane]")));
    let ready = "{.status.conditions[?(@.type=='Ready')].reason}";
    wait_for_text(cluster, &["groups.roster.dev", &n], ready, "UserNotFound").await;
    cluster.apply(&user(&format!("{n}-jane"), ""));
    wait_for_groups(cluster, &format!("{n}-jane"), &n).await;
    wait_for_text(cluster, &["groups.roster.dev", &n], ready, "Succeeded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_follows_labels() {
    let (cluster, n) = (rbac(), unique("selected"));
    cluster.apply(&group(
        &n,
        &format!(
            "acceptDeclaredMembers: true, memberSelector: {{matchExpressions: [{{key: team, operator: In, values: [{n}, other-{n}]}}]}}"
        ),
    ));
    cluster.apply(&user(&n, &format!(", labels: {{team: {n}}}")));
    wait_for_groups(cluster, &n, &n).await;
    cluster.kubectl(&["label", "users.roster.dev", &n, "team-"]);
    wait_for_groups(cluster, &n, "").await;
    cluster.kubectl(&["label", "users.roster.dev", &n, &format!("team=other-{n}")]);
    wait_for_groups(cluster, &n, &n).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_membership_begins_and_ends_by_the_clock() {
    let (cluster, n) = (rbac(), unique("oncall"));
    cluster.apply(&user(&n, ""));
    let begin = Timestamp::now().checked_add(3.seconds()).unwrap();
    let end = begin.checked_add(4.seconds()).unwrap();
    let times = format!("{{notBefore: '{begin:.0}', notAfter: '{end:.0}'}}");
    cluster.apply(&group(&n, &format!("memberships: [{{user: {n}, validity: {times}}}]")));
    wait_for_text(cluster, &["groups.roster.dev", &n], "{.status.members}", "0").await;
    wait_for_groups(cluster, &n, &n).await;
    assert!(Timestamp::now() >= begin.checked_sub(1.seconds()).unwrap(), "it began too early");
    wait_for_groups(cluster, &n, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_is_denied_at_admission_with_its_path() {
    let (cluster, n) = (rbac(), unique("cycle"));
    cluster.apply(&group(&format!("{n}-a"), &format!("memberGroups: [{n}-b]")));
    cluster.apply(&group(&format!("{n}-b"), &format!("memberGroups: [{n}-c]")));
    let closing = group(&format!("{n}-c"), &format!("memberGroups: [{n}-a]"));
    // The directory learns of the first two by its watch.
    eventually("the cycle is refused", || async {
        let outcome = cluster.plane.kubectl.run_with_input(&["apply", "--dry-run=server", "-f", "-"], &closing);
        let path = format!("spec.memberGroups: would close the cycle {n}-c ⊇ {n}-a ⊇ {n}-b ⊇ {n}-c");
        match outcome {
            Err(error) if error.to_string().contains(&path) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_from_racing_writes_is_cut_and_reported() {
    let cluster = Cluster::create("cycle", &[]);
    // Without an operator, they are not denied.
    cluster.apply(&group("a", "memberGroups: [b]"));
    cluster.apply(&group("b", "memberGroups: [a], members: [jane]"));
    cluster.apply(&group("outer", "memberGroups: [a]"));
    cluster.apply(&user("jane", ""));
    cluster.start_operator(&[]);
    wait_for_groups(&cluster, "jane", "b").await;
    for name in ["a", "b"] {
        let condition = "{.status.conditions[?(@.type=='Ready')].reason}";
        wait_for_text(&cluster, &["groups.roster.dev", name], condition, "MembershipCycle").await;
    }
    cluster.kubectl(&["patch", "groups.roster.dev", "b", "--type=merge", "-p", r#"{"spec": {"memberGroups": []}}"#]);
    wait_for_groups(&cluster, "jane", "a b outer").await;
    let condition = "{.status.conditions[?(@.type=='Ready')].status}";
    wait_for_text(&cluster, &["groups.roster.dev", "a"], condition, "True").await;
}
