//! Notices delivered to a receiver.

use std::sync::{Arc, Mutex};

use roster_api::user::{Notification, NotificationType};
use roster_harness::pki::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{PASSWORD, body, person, post, token};
use crate::directory::Direct;
use crate::support::{Cluster, eventually};

type Received = Arc<Mutex<Vec<(String, String)>>>;

/// Receives notices over TLS and keeps their headers and bodies.
async fn receiver(certificate: &str, key: &str) -> (u16, Received) {
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (port, received) = (listener.local_addr().unwrap().port(), Received::default());
    let kept = Arc::clone(&received);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut bytes = Vec::new();
            let mut buffer = [0; 4096];
            let (head, body) = loop {
                let Ok(count) = stream.read(&mut buffer).await else { break (String::new(), String::new()) };
                bytes.extend_from_slice(&buffer[..count]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let head = head.to_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                if count == 0 || Some(body.len()) >= length {
                    break (head, body.to_owned());
                }
            };
            kept.lock().unwrap().push((head, body));
            let _ = stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    });
    (port, received)
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_notified_and_can_verify_the_sender() {
    let cluster = Cluster::create("notices", &[]);
    let dir = cluster.plane.dir.join("pki");
    let authority = Authority::load(&dir, "ca").unwrap();
    let (certificate, key) = authority.server(&dir, "receiver", &["localhost"]).unwrap();
    let ca = dir.join("ca.crt");
    cluster.start_operator(&[
        "--notification-allowed-cidrs",
        "127.0.0.0/8,::1/128",
        "--notification-ca-file",
        ca.to_str().unwrap(),
        "--lockout-threshold",
        "2",
        "--lockout-user-threshold",
        "3",
        "--trusted-proxies",
        "127.0.0.0/8",
    ]);
    let direct = Direct::new(&cluster, 0, None).await;
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let (port, received) = receiver(&read(&certificate), &read(&key)).await;
    let name = person(&cluster, "told", |user| {
        let url = format!("https://localhost:{port}/notices");
        user.spec.notification = Some(Notification { kind: NotificationType::Webhook, url });
    })
    .await;
    let session = token(&direct, &name, PASSWORD).await;
    let key = body("APIKey", &json!({"displayName": "laptop", "currentPassword": PASSWORD}));
    let key = post(&direct, "users/~/apikeys", Some(&session), &key).await;
    assert_eq!(key.status, 201);
    let spec = json!({"oldPassword": PASSWORD, "newPassword": "that is the question"});
    assert_eq!(post(&direct, "users/~/password", Some(&session), &body("PasswordChange", &spec)).await.status, 201);
    for source in 1..=3 {
        let body = body("Login", &json!({"username": name, "password": "wrong"}));
        let headers = [("X-Forwarded-For", format!("203.0.113.{source}"))];
        let headers = [(headers[0].0, headers[0].1.as_str())];
        direct.send("POST", &format!("{}/logins", crate::directory::BASE), &headers, &body).await.unwrap();
    }
    let jwks = direct.get("/openid/v1/jwks", &[]).await.json();
    let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(jwks["keys"][0].clone()).unwrap();
    let public = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
    let events = eventually("three notices have arrived", || async {
        let received = received.lock().unwrap().clone();
        if received.len() >= 3 { Ok(received) } else { Err(format!("{} have arrived", received.len())) }
    })
    .await;
    let mut kinds = Vec::new();
    for (head, body) in events {
        assert!(head.contains("content-type: application/secevent+jwt"), "{head}");
        let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
        validation.set_audience(&[format!("https://localhost:{port}/notices")]);
        validation.set_required_spec_claims(&["aud", "iss"]);
        validation.validate_exp = false;
        let claims = jsonwebtoken::decode::<Value>(body.trim(), &public, &validation).unwrap().claims;
        assert_eq!(claims["roster.dev/username"], json!(name));
        kinds.extend(claims["events"].as_object().unwrap().keys().cloned());
    }
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds.len(), 2, "a credential that has changed (twice), and a lockout: {kinds:?}");
    // A notice is not a login token, although the same keys signed it.
    let notice = received.lock().unwrap()[0].1.trim().to_owned();
    let bearer = format!("Bearer {notice}");
    let answer = direct.get(&format!("{}/users/~", crate::directory::BASE), &[("Authorization", &bearer)]).await;
    assert_eq!(answer.status, 401);
}
