//! Duration of queries compared to kube-apiserver's for the custom resources.

use std::time::{Duration, Instant};

use axum::http::Request;
use serde_json::Value;

use crate::directory::{BASE, Direct, wait_until_served};
use crate::support::Cluster;

const DECLARED: &str = "/apis/roster.dev/v1alpha1/users";

/// Prints the median duration of each query through kube-apiserver, and checks that responses are complete.
pub(super) async fn measure(cluster: &Cluster, users: u32) {
    wait_until_served(cluster);
    let client = cluster.client().await;
    let questions = [
        ("declared: all, in pages of 500", format!("{DECLARED}?limit=500"), true),
        ("declared: 20", format!("{DECLARED}?limit=20"), false),
        ("declared: by a field", format!("{DECLARED}?fieldSelector=status.username%3Duser-777"), false),
        ("directory: all at once", format!("{BASE}/users"), false),
        ("directory: all, in pages of 500", format!("{BASE}/users?limit=500"), true),
        ("directory: 20", format!("{BASE}/users?limit=20"), false),
        ("directory: by a field", format!("{BASE}/users?filterBy=username,user-777"), false),
        (
            "directory: group, sorted, page 3",
            format!("{BASE}/users?filterBy=groups,top-3&sortBy=-name&limit=20&page=3"),
            false,
        ),
        ("directory: text within", format!("{BASE}/users?filterBy=username,*77*&limit=20"), false),
    ];
    for (what, path, is_paged) in questions {
        let runs = if path.contains("limit=20") || path.contains("user-777") { 30 } else { 3 };
        let mut times = Vec::new();
        for _ in 0..runs {
            let start = Instant::now();
            let (mut found, mut next) = (0, path.clone());
            loop {
                let request = Request::get(&next).body(Vec::new()).unwrap();
                let page: Value = serde_json::from_str(&client.request_text(request).await.unwrap()).unwrap();
                found += page["items"].as_array().unwrap().len();
                match page["metadata"]["continue"].as_str() {
                    Some(token) if is_paged && !token.is_empty() => next = format!("{path}&continue={token}"),
                    _ => break,
                }
            }
            times.push(start.elapsed());
            if is_paged || path.ends_with("/users") {
                assert_eq!(found, users as usize, "{what}");
            }
        }
        times.sort_unstable();
        let median: Duration = times[times.len() / 2];
        println!("{what}: {median:?} through kube-apiserver, parsed");
    }
    let read = |file: &str| std::fs::read_to_string(cluster.plane.dir.join("pki").join(file)).unwrap();
    let direct = Direct::new(cluster, 0, Some((&read("front-proxy.crt"), &read("front-proxy.key")))).await;
    let admin = [("X-Remote-User", "admin"), ("X-Remote-Group", "system:masters")];
    let zipped = direct.get(&format!("{BASE}/users"), &[&admin[..], &[("Accept-Encoding", "gzip")]].concat()).await;
    assert!(zipped.head.contains("content-encoding: gzip"), "a large answer is compressed: {}", zipped.head);
    let small =
        direct.get(&format!("{BASE}/users?limit=1"), &[&admin[..], &[("Accept-Encoding", "gzip")]].concat()).await;
    assert!(!small.head.contains("content-encoding"), "a small one is not: {}", small.head);
}
