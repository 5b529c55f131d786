//! kubectl as the client.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::{BASE, directory, encoded, get, names};
use crate::support::{Cluster, create, eventually, unique, user, wait_until_ready};

/// Creates users in their own domain, and waits until they are ready and served.
pub(super) async fn people(cluster: &Cluster, domain: &str, count: usize) -> Vec<String> {
    let users = cluster.users().await;
    let mut names = Vec::new();
    for at in 0..count {
        let mut user = user(&format!("{domain}-{at}"), false);
        user.spec.domain.0 = domain.to_owned();
        user.spec.display_name = Some(format!("Person {at}"));
        user.spec.email = Some(format!("{domain}-{at}@example.com"));
        user.metadata.labels = Some([("parity".to_owned(), ["even", "odd"][at % 2].to_owned())].into());
        create(&users, &user).await;
        names.push(format!("{domain}-{at}"));
    }
    for name in &names {
        wait_until_ready(&users, name).await;
    }
    eventually("all are served", || async {
        let served = get(cluster, &format!("users?filterBy=domain,{domain}&filterBy=state,Active"));
        if served["total"] == count { Ok(()) } else { Err(served["total"].to_string()) }
    })
    .await;
    names
}

const USERS: &str = "users.directory.roster.dev";

#[tokio::test]
async fn get_in_every_form() {
    let cluster = directory();
    let domain = unique("forms");
    let people = people(cluster, &domain, 5).await;
    let select = format!("--field-selector=spec.domain={domain}");
    let list = |args: &[&str]| cluster.kubectl(&[&["get", USERS, &select], args].concat());
    let plain = list(&[]);
    assert!(plain.starts_with("NAME") && plain.contains("LEVEL") && !plain.contains("LAST LOGIN"), "{plain}");
    assert_eq!(plain.lines().count(), 6, "{plain}");
    let wide = list(&["-o", "wide"]);
    assert!(wide.contains("LAST LOGIN") && wide.contains("Person 3"), "{wide}");
    let expected: Vec<String> = people.iter().map(|name| format!("user.directory.roster.dev/{name}")).collect();
    assert_eq!(list(&["-o", "name"]).lines().collect::<Vec<_>>(), expected);
    assert_eq!(list(&["-o", "name", "--chunk-size=2"]).lines().collect::<Vec<_>>(), expected, "in three chunks");
    assert_eq!(list(&["-o", "jsonpath={.items[*].spec.displayName}"]), "Person 0 Person 1 Person 2 Person 3 Person 4");
    let custom = list(&["-o", "custom-columns=N:.metadata.name,L:.status.permissionLevel", "--no-headers"]);
    assert!(custom.lines().all(|line| line.ends_with("User")), "{custom}");
    let odd = list(&["-l", "parity=odd", "-o", "name"]);
    assert_eq!(odd.lines().count(), 2, "{odd}");
    let yaml = cluster.kubectl(&["get", USERS, &people[0], "-o", "yaml"]);
    assert!(
        yaml.contains("apiVersion: directory.roster.dev/v1alpha1") && yaml.contains("permissionLevel: User"),
        "{yaml}"
    );
    let one = cluster.plane.kubectl.get(&[USERS, &people[0]]).unwrap();
    assert_eq!((&one["kind"], &one["spec"]["domain"]), (&json!("User"), &json!(domain)));
    let sorted = cluster.kubectl(&["get", USERS, &select, "--sort-by=.spec.email", "-o", "name"]);
    assert_eq!(sorted.lines().count(), 5);
    cluster.kubectl(&["wait", USERS, &select, "--for=jsonpath={.status.state}=Active", "--timeout=30s"]);
    cluster.kubectl(&["get", USERS, &people[0], "--request-timeout=20s"]);
    let several = cluster.kubectl(&["get", USERS, &people[0], &people[1], "-o", "name"]);
    assert_eq!(several.lines().count(), 2);
    // `users` without a group means the custom resource.
    assert!(cluster.kubectl(&["get", "users", &people[0], "-o", "name"]).starts_with("user.roster.dev/"));
}

#[tokio::test]
async fn discovery_and_explain() {
    let cluster = directory();
    let resources =
        cluster.kubectl(&["api-resources", "--api-group=directory.roster.dev", "--no-headers", "-o", "wide"]);
    for (name, verbs) in [("users", "get,list,patch,watch"), ("groups", "get,list,watch"), ("roleassignments", "list")]
    {
        let line = resources.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{resources}"));
        assert!(line.contains(verbs), "{line}");
    }
    let explain = |path: &str| cluster.kubectl(&["explain", "--api-version=directory.roster.dev/v1alpha1", path]);
    assert!(explain("users.spec").contains("preferredShell"));
    assert!(explain("users.spec.validity").contains("notAfter"));
    assert!(explain("users.status").contains("permissionLevel"));
    assert!(explain("groups.spec").contains("memberSelector"));
    assert!(explain("roleassignments.spec.binding").contains("namespace"));
    assert!(
        cluster
            .kubectl(&["explain", "--api-version=directory.roster.dev/v1alpha1", "users", "--recursive"])
            .contains("allowedCIDRs")
    );
}

/// Runs kubectl, calls `meanwhile`, and returns the output once it has `lines` lines.
pub(super) async fn watched(cluster: &Cluster, args: &[&str], lines: usize, meanwhile: impl FnOnce()) -> String {
    let mut child = Command::new(&cluster.plane.kubectl.assets.kubectl)
        .env("KUBECONFIG", &cluster.plane.kubectl.kubeconfig)
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read) = out.read(&mut buffer)
            && read > 0
        {
            let _ = sender.send(String::from_utf8_lossy(&buffer[..read]).into_owned());
        }
    });
    // Wait until the watch is established.
    tokio::time::sleep(Duration::from_secs(2)).await;
    meanwhile();
    let mut text = String::new();
    while text.lines().count() < lines {
        match tokio::time::timeout(crate::support::TIMEOUT, receiver.recv()).await {
            Ok(Some(more)) => text.push_str(&more),
            _ => break,
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    text
}

#[tokio::test]
async fn kubectl_prints_watches() {
    let cluster = directory();
    let domain = unique("watched");
    let people = people(cluster, &domain, 2).await;
    let select = format!("--field-selector=spec.domain={domain}");
    let label = |label: &str| {
        cluster.kubectl(&["label", "users.roster.dev", &people[0], label, "--overwrite"]);
    };
    let all = watched(cluster, &["get", USERS, &select, "-w", "--no-headers"], 3, || label("round=one")).await;
    assert_eq!(all.lines().count(), 3, "two existing users and one change: {all}");
    let only =
        watched(cluster, &["get", USERS, &select, "--watch-only", "--no-headers"], 1, || label("round=two")).await;
    assert!(only.lines().count() == 1 && only.starts_with(&people[0]), "{only}");
    let args = ["get", USERS, &select, "-l", "round=three", "--watch-only", "--no-headers", "--output-watch-events"];
    let events = watched(cluster, &args, 2, || {
        label("round=three");
        label("round=four");
    })
    .await;
    let kinds: Vec<&str> = events.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(kinds, ["ADDED", "DELETED"], "the user enters the selection and leaves it: {events}");
}

#[tokio::test]
async fn every_parameter_works_with_get_raw() {
    let cluster = directory();
    let domain = unique("raw");
    let people = people(cluster, &domain, 5).await;
    let list = |query: &str| get(cluster, &format!("users?filterBy=domain,{domain}&{query}"));
    let reversed: Vec<String> = people.iter().rev().cloned().collect();
    assert_eq!(names(&list("sortBy=-name")), reversed);
    assert_eq!(names(&list("sortBy=admin,-email&limit=2")), reversed[..2]);
    let page = list("sortBy=-name&limit=2&page=2");
    assert_eq!(names(&page), reversed[2..4]);
    assert_eq!(
        (&page["total"], &page["page"], &page["limit"], &page["pages"]),
        (&json!(5), &json!(2), &json!(2), &json!(3))
    );
    assert_eq!(page["metadata"]["remainingItemCount"], json!(1));
    let token = page["metadata"]["continue"].as_str().unwrap();
    let last = list(&format!("sortBy=-name&limit=2&continue={token}"));
    assert_eq!(
        (names(&last), last["page"].clone(), &last["metadata"]["continue"]),
        (vec![reversed[4].clone()], json!(3), &json!(null))
    );
    assert_eq!(last["metadata"]["resourceVersion"], page["metadata"]["resourceVersion"], "one revision for all pages");
    assert_eq!(names(&list("labelSelector=parity%3Dodd")).len(), 2);
    assert_eq!(names(&list(&format!("fieldSelector={}", encoded("spec.displayName=*3")))), people[3..4]);
    assert_eq!(names(&list("filterBy=displayName,neq:Person 3".replace(' ', "%20").as_str())).len(), 4);
    assert_eq!(names(&list("filterBy=displayName,person%20*&filterBy=name,in:a|b")), Vec::<String>::new());
    let time = encoded("creationTimestamp,gt:2020-01-01T00:00:00Z");
    assert_eq!(names(&list(&format!("filterBy={time}&resourceVersion=0&timeoutSeconds=5&pretty=true"))).len(), 5);
    let revision = page["metadata"]["resourceVersion"].as_str().unwrap();
    assert_eq!(names(&list(&format!("resourceVersion={revision}&resourceVersionMatch=Exact"))).len(), 5);
    assert_eq!(names(&list(&format!("resourceVersion={revision}&resourceVersionMatch=NotOlderThan"))).len(), 5);
    let stream = cluster.kubectl(&[
        "get",
        "--raw",
        &format!("{BASE}/users?filterBy=domain,{domain}&watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1"),
    ]);
    let events: Vec<serde_json::Value> = stream.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ADDED", "ADDED", "ADDED", "ADDED", "ADDED", "BOOKMARK", "BOOKMARK"], "{stream}");
    assert_eq!(events[5]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn groups_members_and_subresources_of_a_user() {
    let cluster = directory();
    let domain = unique("grouped");
    let people = people(cluster, &domain, 3).await;
    let (inner, outer, namespace) = (unique("inner"), unique("outer"), unique("ns"));
    cluster.kubectl(&["create", "namespace", &namespace]);
    cluster.kubectl(&["label", "namespace", &namespace, &format!("roster.dev/owner={}", people[1])]);
    cluster.kubectl(&["annotate", "namespace", &namespace, &format!("roster.dev/locked-by={}", people[0])]);
    cluster.apply(&format!(
        "apiVersion: roster.dev/v1alpha1\nkind: Group\nmetadata: {{name: {inner}}}\nspec: {{members: [{}, {}]}}\n---\n\
         apiVersion: roster.dev/v1alpha1\nkind: Group\nmetadata: {{name: {outer}}}\nspec: {{displayName: Outer, memberGroups: [{inner}]}}\n---\n\
         apiVersion: roster.dev/v1alpha1\nkind: RoleBinding\nmetadata: {{name: {outer}}}\n\
         spec: {{subjects: [{{kind: Group, name: {outer}}}], roleRef: {{kind: ClusterRole, name: edit}}, scope: {{namespaces: [{namespace}]}}}}\n",
        people[0], people[1]
    ));
    let members = eventually("members are served", || async {
        let path = format!("{BASE}/groups/{outer}/members?filterBy=state,Active&sortBy=-name");
        let list = cluster.plane.kubectl.run(&["get", "--raw", &path]).map_err(|error| error.to_string())?;
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        if list["total"] == 2 { Ok(names(&list)) } else { Err(list.to_string()) }
    })
    .await;
    assert_eq!(members, [people[1].clone(), people[0].clone()]);
    let membership = get(cluster, &format!("groups/{outer}/members/{}@example.com", people[0]));
    assert_eq!(membership["status"]["path"], json!([inner, outer]));
    let not_a_member =
        cluster.plane.kubectl.run(&["get", "--raw", &format!("{BASE}/groups/{outer}/members/{}", people[2])]);
    assert!(not_a_member.unwrap_err().to_string().contains("NotFound"));
    eventually("the role is held", || async {
        let roles = get(cluster, &format!("users/{}", people[0]))["status"]["roles"].clone();
        if roles == json!(["ClusterRole/edit"]) { Ok(()) } else { Err(roles.to_string()) }
    })
    .await;
    let groups = get(cluster, &format!("users/{}/groups", people[0]));
    assert_eq!(
        groups["items"][1],
        json!({"user": people[0], "group": outer, "sources": ["Group.spec.members"], "path": [inner, outer]})
    );
    let mut namespaces = get(cluster, &format!("users/{}/namespaces", people[1]));
    // Usage appears once it is counted, which the quota tests check.
    namespaces["items"][0].as_object_mut().unwrap().remove("used");
    let expected = json!([{"name": namespace, "owned": true, "phase": "Active", "roles": ["ClusterRole/edit"], "lockedBy": people[0]}]);
    assert_eq!(namespaces["items"], expected);
    assert_eq!(get(cluster, &format!("users/{}/locks", people[1]))["status"]["blockingDeletion"], json!([namespace]));
    assert_eq!(get(cluster, &format!("users/{}/locks", people[0]))["status"]["held"], json!([namespace]));
    // Role assignments by user, group, role and scope.
    let assignments =
        |query: &str| get(cluster, &format!("roleassignments?{query}"))["items"].as_array().unwrap().clone();
    for query in [
        format!("user={}&effective=true&role=edit", people[0]),
        format!("user={}@example.com&effective&role=ClusterRole/edit&scope=namespace:{namespace}", people[0]),
        format!("group={outer}"),
        format!("group={inner}&effective=true"),
        format!("scope=namespace:{namespace}&role=edit"),
        format!("fieldSelector=group%3D{outer},scope%3Dnamespace:{namespace}"),
    ] {
        let found = assignments(&query);
        assert_eq!(found.len(), 1, "{query}: {found:?}");
        assert_eq!(
            (&found[0]["spec"]["roleBinding"], &found[0]["spec"]["namespace"]),
            (&json!(outer), &json!(namespace)),
            "{query}"
        );
    }
    for query in [
        format!("user={}&role=edit", people[0]),
        format!("user={}&effective=true&role=edit", people[2]),
        format!("group={outer}&scope=cluster"),
        format!("group={inner}"),
    ] {
        assert_eq!(assignments(&query).len(), 0, "{query}");
    }
    let members =
        assignments(&format!("scope=namespace:{namespace}&role=edit&effective=true&includeNames=true&limit=1"));
    assert_eq!(members.len(), 1);
    assert_eq!(members[0]["spec"]["holder"], json!({"kind": "User", "name": people[0]}));
    assert_eq!(
        (&members[0]["spec"]["holderName"], &members[0]["spec"]["groups"]),
        (&json!("Person 0"), &json!([inner, outer]))
    );
    let table = cluster.kubectl(&[
        "get",
        "roleassignments",
        &format!("--field-selector=scope=namespace:{namespace}"),
        "--no-headers",
    ]);
    assert!(table.contains("edit") && table.contains(&outer), "{table}");
    let groups = cluster.kubectl(&["get", "groups.directory.roster.dev", &outer, "-o", "wide", "--no-headers"]);
    assert!(groups.contains("Outer"), "{groups}");
}

/// Objects of the directory are views: errors of writes say so, and name the resource to write instead. Deployment
/// tools do not mistake the views for objects that they deployed.
#[tokio::test]
async fn case_c10_writes_say_where_to_write() {
    let cluster = directory();
    let domain = unique("viewed");
    let person = people(cluster, &domain, 1).await.remove(0);
    let refusal = |args: &[&str], input: &str| {
        let error = cluster.plane.kubectl.run_with_input(args, input).expect_err("a view can't be written");
        error.to_string()
    };
    let deletion = refusal(&["delete", USERS, &person], "");
    assert!(deletion.contains(&format!("use kubectl delete users.roster.dev {person}")), "{deletion}");
    let everybody = refusal(&["delete", USERS, "--all"], "");
    assert!(everybody.contains("use kubectl delete users.roster.dev"), "{everybody}");
    let object = |name: &str| {
        json!({"apiVersion": "directory.roster.dev/v1alpha1", "kind": "User", "metadata": {"name": name}, "spec": {"zone": "x"}})
            .to_string()
    };
    for (name, flags) in [(&person, &[][..]), (&person, &["--server-side"]), (&unique("new"), &[])] {
        let applied = refusal(&[&["apply", "-f", "-"], flags].concat(), &object(name));
        assert!(applied.contains("roster.dev/v1alpha1") && applied.contains("users.roster.dev"), "{applied}");
    }
    let replaced = refusal(&["replace", "-f", "-"], &object(&person));
    assert!(replaced.contains("apiVersion: roster.dev/v1alpha1"), "{replaced}");
    let edited = refusal(&["patch", USERS, &person, "--type=merge", "-p", r#"{"spec":{"zone":"x"}}"#], "");
    assert!(edited.contains(&format!("kubectl edit users.roster.dev {person}")), "{edited}");

    let tracked = ["app.kubernetes.io/instance=people", "kapp.k14s.io/app=1", "team=a"];
    cluster.kubectl(&[&["label", "users.roster.dev", &person], &tracked[..]].concat());
    let tracking = format!("argocd.argoproj.io/tracking-id=people:roster.dev/User:/{person}");
    cluster.kubectl(&["annotate", "users.roster.dev", &person, &tracking]);
    let served = eventually("the annotation has arrived", || async {
        let found = get(cluster, &format!("users?filterBy=domain,{domain}&labelSelector=team%3Da"));
        let declared = cluster.plane.kubectl.get(&["users.roster.dev", &person]).map_err(|error| error.to_string())?;
        let version = declared["metadata"]["resourceVersion"].clone();
        match found["items"].get(0) {
            Some(item) if item["metadata"]["resourceVersion"] == version => Ok(item.clone()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(
        (&served["metadata"]["labels"]["team"], &served["metadata"]["annotations"]),
        (&json!("a"), &json!(null))
    );
    let labels = served["metadata"]["labels"].to_string();
    assert!(!labels.contains("kapp") && !labels.contains("app.kubernetes.io"), "{labels}");
    for selector in ["app.kubernetes.io/instance=people", "kapp.k14s.io/app"] {
        assert_eq!(cluster.kubectl(&["get", USERS, "-l", selector, "-o", "name"]), "", "{selector}");
    }
}
