//! Limits on requests in flight: one caller or network does not take the permits of others.

use std::net::Ipv4Addr;

use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{PASSWORD, kubectl_as, logins, own_status, person, token};
use crate::directory::{BASE, Direct, front_proxy};

/// An address that kube-apiserver does not use: it uses 127.0.0.1.
const OUTSIDER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Sends a POST with only a part of the announced body.
async fn send_partial_body(
    direct: &Direct,
    source: Ipv4Addr,
    path: &str,
    bearer: Option<&str>,
) -> TlsStream<TcpStream> {
    let mut stream = direct.connect_from(source).await.expect("there is room for the connection");
    let authorization = bearer.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Content-Type: application/json\r\n\
         Content-Length: 1000\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

/// Returns the status of the response to a partially sent request.
async fn status_of(mut stream: TlsStream<TcpStream>) -> String {
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("the request is answered");
    String::from_utf8_lossy(&answer[9..]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_caller_takes_no_permits_of_others() {
    /// More than the number of permits.
    const REQUESTS: usize = 300;
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let (slow, other) = (person(cluster, "slow", |_| {}).await, person(cluster, "other", |_| {}).await);
    let (slow, other) = (token(&direct, &slow, PASSWORD).await, token(&direct, &other, PASSWORD).await);
    let path = format!("{BASE}/users/~/password");
    let posts = (0..REQUESTS).map(|_| send_partial_body(&direct, OUTSIDER, &path, Some(&slow)));
    let held: Vec<_> = stream::iter(posts).buffer_unordered(32).collect().await;
    assert_eq!(own_status(&direct, &other).await, 200);
    kubectl_as(cluster, &other).run(&["get", "--raw", &format!("{BASE}/users/~")]).expect("kube-apiserver is served");
    let statuses: Vec<String> = stream::iter(held).then(status_of).collect().await;
    let count = |wanted: &str| statuses.iter().filter(|status| *status == wanted).count();
    // Requests within the share timed out because their bodies did not arrive.
    assert!(count("429") > 0 && count("400") > 0 && count("429") + count("400") == REQUESTS, "{statuses:?}");
    assert_eq!(own_status(&direct, &slow).await, 200, "the share is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn token_reviews_are_limited_per_network_except_for_kube_apiserver() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "reviewed", |_| {}).await;
    let token = token(&direct, &name, PASSWORD).await;
    // kube-apiserver is recognized by its certificate, and so is its address while a connection with it is open. Its own
    // connections may lead to the other replica.
    let (certificate, key) = front_proxy(cluster);
    let proxy = Direct::new(cluster, 0, Some((&certificate, &key))).await;
    let recognized = proxy.connect_from(Ipv4Addr::LOCALHOST).await.unwrap();
    let mut held = Vec::new();
    for source in [OUTSIDER, Ipv4Addr::LOCALHOST] {
        for _ in 0..100 {
            held.push((source, send_partial_body(&direct, source, "/tokenreview", None).await));
        }
    }
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let answer = direct.send("POST", "/tokenreview", &[], &review.to_string()).await.unwrap();
    assert_eq!((answer.status, &answer.json()["status"]["authenticated"]), (200, &Value::Bool(true)));
    let mut rejected = [0, 0];
    for (source, stream) in held {
        rejected[usize::from(source == OUTSIDER)] += usize::from(status_of(stream).await == "429");
    }
    assert!(rejected[0] == 0 && rejected[1] > 0, "{rejected:?}");
    drop(recognized);
}
