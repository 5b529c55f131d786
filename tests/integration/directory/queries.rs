//! Invalid queries, lists that are read while users change, and unusual requests.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::kubectl::people;
use super::{BASE, Direct, directory, encoded, get, names};
use crate::support::{Random, unique};

/// Path with its query, and the text that the message must contain.
const BAD: &[(&str, &str)] = &[
    ("users?filterBy=nmae,jane", "allowed: name, uid"),
    ("users?filterBy=username", "pairs"),
    ("users?filterBy=username,jane,state", "pairs"),
    ("users?filterBy=", "pairs"),
    ("users?filterBy=state,Asleep", "Active, Pending, Disabled, Banned, Expired"),
    ("users?filterBy=state,active", "must be one of"),
    ("users?filterBy=state,A*", "no wildcard"),
    ("users?filterBy=admin,yes", "true or false"),
    ("users?filterBy=permissionLevel,Root", "Banned, User, Admin"),
    ("users?filterBy=username,like:jane", "lt:, lte:, gt:, gte:, neq:, in:"),
    ("users?filterBy=username,j*e", "the start and the end"),
    ("users?filterBy=lastLoginTime,gt:yesterday", "RFC 3339"),
    ("users?filterBy=lastLoginTime,2027-01-31", "RFC 3339"),
    ("users?filterBy=lastLoginTime,lt:", "needs a value"),
    ("users?filterBy=failedLogins,gt:many", "whole number"),
    ("users?filterBy=failedLogins,gt:1.5", "whole number"),
    ("users?filterBy=failedLogins,99999999999999999999", "whole number"),
    ("users?filterBy=groups,gt:a", "neq: or in:"),
    ("users?filterBy=state,gt:Active", "neq: or in:"),
    ("users?filterBy=password,x", "unknown field"),
    ("users?filterBy=passwordHash,x", "unknown field"),
    ("users?filterBy=name,%5C", "backslash"),
    ("users?filterBy=email,plus+ops@example.com", "write %2B"),
    ("users?fieldSelector=spec.email=plus+ops@example.com", "write %2B"),
    ("users?sortBy=age", "can't sort by"),
    ("users?sortBy=groups", "can't sort by"),
    ("users?sortBy=", "can't sort by"),
    ("users?sortBy=--name", "can't sort by"),
    ("users?sortBy=name,name", "twice"),
    ("users?sortBy=name&sortBy=-name", "twice"),
    ("users?limit=abc", "whole number"),
    ("users?limit=-1", "whole number"),
    ("users?limit=1&limit=2", "more than once"),
    ("users?page=0&limit=10", "whole number"),
    ("users?page=x&limit=10", "whole number"),
    ("users?page=2", "limit"),
    ("users?page=2&limit=1&continue=abc", "combined"),
    ("users?continue=abc", "metadata.continue"),
    ("users?resourceVersion=latest", "resourceVersion"),
    ("users?resourceVersionMatch=Exact", "requires a resourceVersion"),
    ("users?resourceVersionMatch=Newest", "Exact or NotOlderThan"),
    ("users?watch=maybe", "true or false"),
    ("users?watch=true&page=1&limit=1", "watch"),
    ("users?watch=true&sortBy=name", "watch"),
    ("users?sendInitialEvents=true", "only for a watch"),
    ("users?timeoutSeconds=soon", "whole number"),
    ("users?fieldSelector=zone%3Deu", "spec.zone"),
    ("users?fieldSelector=spec.zone", "path=value"),
    ("users?fieldSelector=spec.passwordHash%3Dx", "unknown field"),
    ("users?labelSelector=a%3Fb", "not a label key"),
    ("users?labelSelector=a%20in%20(b", "parenthesis"),
    ("users?labelSelector=a%20near%20(b)", "notin"),
    ("users?search=jane", "allowed: allowWatchBookmarks"),
    ("users?includeObject=All", "None, Metadata or Object"),
    ("users/nobody?limit=1", "unknown parameter"),
    ("groups?filterBy=members,gt:x", "whole number"),
    ("groups?filterBy=username,jane", "allowed: name, uid"),
    ("groups?sortBy=memberGroups", "can't sort by"),
    ("roleassignments?user=a&group=b", "combined"),
    ("roleassignments?role=Rolle/x", "ClusterRole/name"),
    ("roleassignments?scope=everywhere", "namespace:<name>"),
    ("roleassignments?subject=jane", "allowed: effective"),
    ("roleassignments?fieldSelector=name%3Dx", "allowed fields"),
    ("roleassignments?user=", "must not be empty"),
];

#[tokio::test]
async fn invalid_queries_are_refused_with_what_is_allowed() {
    let cluster = directory();
    let read = |file: &str| std::fs::read_to_string(cluster.plane.dir.join("pki").join(file)).unwrap();
    let direct = Direct::new(cluster, 0, Some((&read("front-proxy.crt"), &read("front-proxy.key")))).await;
    let admin = [("X-Remote-User", "admin"), ("X-Remote-Group", "system:masters")];
    assert!(BAD.len() >= 50);
    for (path, named) in BAD {
        let answer = direct.get(&format!("{BASE}/{path}"), &admin).await;
        let status: Value = answer.json();
        assert_eq!(
            (answer.status, &status["kind"], &status["reason"]),
            (400, &json!("Status"), &json!("BadRequest")),
            "{path}: {status}"
        );
        let message = status["message"].as_str().unwrap();
        assert!(message.contains(named), "{path}: {message}");
        assert!(!status["details"]["causes"][0]["field"].as_str().unwrap().is_empty(), "{path}: {status}");
    }
}

#[tokio::test]
async fn unusual_requests_are_answered_and_cost_little() {
    let cluster = directory();
    let read = |file: &str| std::fs::read_to_string(cluster.plane.dir.join("pki").join(file)).unwrap();
    let direct = Direct::new(cluster, 0, Some((&read("front-proxy.crt"), &read("front-proxy.key")))).await;
    let admin = [("X-Remote-User", "admin"), ("X-Remote-Group", "system:masters")];
    let long = "a".repeat(19_000);
    let many = format!("filterBy=name,in:{}", vec!["a"; 300].join("|"));
    for (method, path, expected) in [
        ("GET", format!("{BASE}/users?filterBy=name,{long}"), 414),
        ("GET", format!("{BASE}/users/{long}{long}"), 414),
        ("GET", format!("{BASE}/users?{many}"), 400),
        ("GET", format!("{BASE}/users?continue={}", "A".repeat(10_000)), 400),
        ("GET", format!("{BASE}/users?limit=18446744073709551615&page=18446744073709551615"), 200),
        ("GET", format!("{BASE}/users?resourceVersion=1&resourceVersionMatch=Exact"), 410),
        ("GET", format!("{BASE}/users?resourceVersion=18446744073709551615"), 504),
        ("GET", format!("{BASE}/users/%ff"), 400),
        ("GET", format!("{BASE}/users/..%2f..%2fapis"), 404),
        ("GET", format!("{BASE}/nothing"), 404),
        ("DELETE", format!("{BASE}/users/jane"), 405),
        ("POST", format!("{BASE}/users"), 405),
        ("GET", format!("{BASE}/users/~"), 404),
    ] {
        let answer = direct.request(method, &path, &admin).await.unwrap();
        let shown = &path[..path.len().min(120)];
        assert_eq!(answer.status, expected, "{method} {shown}: {}", answer.body);
        if expected >= 400 {
            assert_eq!(answer.json()["kind"], "Status", "{method} {shown}: {}", answer.body);
        }
    }
    let unacceptable = [&admin[..], &[("Accept", "application/cbor")]].concat();
    assert_eq!(direct.get(&format!("{BASE}/users"), &unacceptable).await.status, 406);
    for (form, kind) in [("PartialObjectMetadataList", "PartialObjectMetadataList"), ("Table", "Table")] {
        let accept = format!("application/json;as={form};v=v1;g=meta.k8s.io");
        let wanted = [&admin[..], &[("Accept", accept.as_str())]].concat();
        for path in ["users?limit=1", "groups?limit=1", "roleassignments?limit=1"] {
            let answer = direct.get(&format!("{BASE}/{path}"), &wanted).await.json();
            assert_eq!(answer["kind"], kind, "{path}: {answer}");
        }
    }
    // Discovery is not sent twice.
    let etag = direct.get("/openapi/v3", &admin).await;
    let tag = etag.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_uppercase();
    let again = [&admin[..], &[("If-None-Match", tag.as_str())]].concat();
    assert_eq!(direct.get("/openapi/v3", &again).await.status, 304);
    let aggregated =
        [&admin[..], &[("Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")]].concat();
    let discovery = direct.get("/apis", &aggregated).await;
    assert!(discovery.head.contains("g=apidiscovery.k8s.io"), "{}", discovery.head);
    assert_eq!(discovery.json()["items"][0]["versions"][0]["freshness"], "Current");
}

/// Reads page after page from alternating replicas, while users are created, changed and deleted.
#[tokio::test]
async fn pages_contain_every_user_once_despite_changes() {
    let cluster = directory();
    let domain = unique("paged");
    let people: BTreeSet<String> = people(cluster, &domain, 20).await.into_iter().collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut random = Random(7);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let name = format!("{domain}-{}", random.below(20));
                cluster.kubectl(&["label", "users.roster.dev", &name, &format!("round=r{round}"), "--overwrite"]);
                let patch = json!({"spec": {"displayName": format!("{}", random.below(1000))}}).to_string();
                cluster.kubectl(&["patch", "users.roster.dev", &name, "--type=merge", "-p", &patch]);
                let extra = format!("{domain}-extra-{round}");
                cluster.apply(&format!("apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {{name: {extra}}}\nspec: {{domain: {domain}}}\n"));
                cluster.kubectl(&["delete", "users.roster.dev", &extra, "--wait=false"]);
            }
        });
        for round in 0..6 {
            let sort = ["name", "-name", "displayName", "-displayName,name", "-creationTimestamp", "email"][round];
            let query = format!("users?filterBy=domain,{domain}&sortBy={sort}&limit=3");
            let (mut found, mut page) = (Vec::new(), get(cluster, &query));
            let (revision, total) = (page["metadata"]["resourceVersion"].clone(), page["total"].clone());
            found.extend(names(&page));
            while let Some(token) = page["metadata"]["continue"].as_str() {
                std::thread::sleep(Duration::from_millis(50));
                page = get(cluster, &format!("{query}&continue={token}"));
                assert_eq!((&page["metadata"]["resourceVersion"], &page["total"]), (&revision, &total));
                found.extend(names(&page));
            }
            let distinct: BTreeSet<String> = found.iter().cloned().collect();
            assert_eq!(distinct.len(), found.len(), "each once: {found:?}");
            assert_eq!(json!(found.len()), total);
            assert!(people.is_subset(&distinct), "all users that existed the whole time: {found:?}");
            // The same by page number, at the revision of the first page.
            let exact = format!("{query}&resourceVersionMatch=Exact&resourceVersion={}", revision.as_str().unwrap());
            let pages = page["pages"].as_u64().unwrap();
            let by_number: Vec<String> =
                (1..=pages).flat_map(|page| names(&get(cluster, &format!("{exact}&page={page}")))).collect();
            assert_eq!(by_number, found, "{sort}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let search = encoded("spec.displayName=*a*");
    assert!(get(cluster, &format!("users?fieldSelector={search}"))["total"].is_u64());
}

/// Tokens, revisions and watches of one replica are valid at the other.
#[tokio::test]
async fn replicas_agree_on_revisions() {
    let cluster = directory();
    let domain = unique("replicated");
    let people = people(cluster, &domain, 5).await;
    let read = |file: &str| std::fs::read_to_string(cluster.plane.dir.join("pki").join(file)).unwrap();
    let (certificate, key) = (read("front-proxy.crt"), read("front-proxy.key"));
    let admin = [("X-Remote-User", "admin"), ("X-Remote-Group", "system:masters")];
    let one = Direct::new(cluster, 0, Some((&certificate, &key))).await;
    let other = Direct::new(cluster, 1, Some((&certificate, &key))).await;
    let path = format!("{BASE}/users?filterBy=domain,{domain}&limit=2");
    for (from, to) in [(&one, &other), (&other, &one)] {
        let first = from.get(&path, &admin).await.json();
        let revision = first["metadata"]["resourceVersion"].as_str().unwrap();
        let token = first["metadata"]["continue"].as_str().unwrap();
        // A user that is created in between is on neither page.
        let late = unique(&format!("{domain}-0-late"));
        cluster.apply(&format!(
            "apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {{name: {late}}}\nspec: {{domain: {domain}}}\n"
        ));
        let next = to.get(&format!("{path}&continue={token}"), &admin).await.json();
        assert_eq!(next["metadata"]["resourceVersion"], revision, "{next}");
        assert_eq!(names(&next), people[2..4], "{next}");
        // The other replica reports what has changed since.
        let watch = to
            .get(
                &format!("{path}&watch=true&resourceVersion={revision}&timeoutSeconds=2").replace("&limit=2", ""),
                &admin,
            )
            .await;
        assert!(watch.body.contains(r#""type":"ADDED""#) && watch.body.contains(&late), "{}", watch.body);
        cluster.kubectl(&["delete", "users.roster.dev", &late]);
        let gone = format!("{BASE}/users/{late}");
        for replica in [&one, &other] {
            crate::support::eventually("the late user is deleted", || async {
                if replica.get(&gone, &admin).await.status == 404 { Ok(()) } else { Err("it still exists".to_owned()) }
            })
            .await;
        }
    }
}

/// A continue token says where a list continues, not who may read it: each caller is authorized for the list that they
/// request.
#[tokio::test]
async fn continue_tokens_grant_no_access() {
    let cluster = directory();
    let domain = unique("paged");
    let people = people(cluster, &domain, 4).await;
    let (certificate, key) = super::front_proxy(cluster);
    let direct = Direct::new(cluster, 0, Some((&certificate, &key))).await;
    let (group, caller) = (unique("paged"), unique("limited"));
    let limited = [("X-Remote-User", caller.as_str()), ("X-Remote-Group", "system:authenticated")];
    cluster.apply(&format!(
        "apiVersion: roster.dev/v1alpha1\nkind: Group\nmetadata: {{name: {group}}}\nspec: {{acceptDeclaredMembers: true}}\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: {caller}}}\nrules:\n\
         - {{apiGroups: [directory.roster.dev], resources: [groups/members], resourceNames: [{group}], verbs: [get]}}\n"
    ));
    cluster.kubectl(&["create", "clusterrolebinding", &caller, "--clusterrole", &caller, "--user", &caller]);
    let patch = json!({"spec": {"groups": [group]}}).to_string();
    for member in &people[..2] {
        cluster.kubectl(&["patch", "users.roster.dev", member, "--type=merge", "-p", &patch]);
    }
    let everybody = format!("{BASE}/users?filterBy=domain,{domain}&limit=1");
    let members = format!("{BASE}/groups/{group}/members?limit=1");
    let page = crate::support::eventually("the caller may read the members", || async {
        let page = direct.get(&members, &limited).await;
        if page.status == 200 && page.json()["total"] == 2 { Ok(page.json()) } else { Err(page.body) }
    })
    .await;
    let token_in = |page: &Value| page["metadata"]["continue"].as_str().unwrap().to_owned();
    let of_members = token_in(&page);
    let of_everybody = token_in(&direct.get(&everybody, super::IDENTITY).await.json());

    for token in [&of_everybody, &of_members] {
        let refused = direct.get(&format!("{everybody}&continue={token}"), &limited).await;
        assert_eq!(refused.status, 403, "{}", refused.body);
        assert!(people.iter().all(|name| !refused.body.contains(name.as_str())), "{}", refused.body);
    }
    let next = direct.get(&format!("{members}&continue={of_members}"), &limited).await.json();
    assert_eq!(names(&next), people[1..2], "the caller's own list continues");
    // A token of another list is invalid for every caller.
    let another = format!("{BASE}/users?filterBy=domain,another&limit=1");
    let groups = format!("{BASE}/groups?limit=1");
    for (path, token, who) in [
        (&members, &of_everybody, &limited[..]),
        (&another, &of_everybody, super::IDENTITY),
        (&groups, &of_everybody, super::IDENTITY),
        (&everybody, &of_members, super::IDENTITY),
    ] {
        let refused = direct.get(&format!("{path}&continue={token}"), who).await;
        assert_eq!(refused.status, 400, "{path}: {}", refused.body);
    }
}

/// Text is compared as people read it.
#[tokio::test]
async fn case_c8_search_ignores_case_and_composition() {
    let cluster = directory();
    let domain = unique("folded");
    let people = people(cluster, &domain, 2).await;
    let patch = json!({"spec": {"displayName": "Οδυσσεύς Jose\u{301}"}}).to_string();
    cluster.kubectl(&["patch", "users.roster.dev", &people[0], "--type=merge", "-p", &patch]);
    for text in ["ΟΔΥΣΣΕΎΣ JOSÉ", "οδυσσεύσ*", "*ΎΣ*", "*josé", "*JOSE\u{301}"] {
        let path = format!("users?filterBy=domain,{domain}&filterBy={}", encoded(&format!("displayName,{text}")));
        crate::support::eventually(text, || async {
            let found = names(&get(cluster, &path));
            if found == people[..1] { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
}
