//! Where to send a login, and which certificate authority verifies the server.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::http::header::USER_AGENT;
use axum::http::{Request, Uri};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, Cluster};
use kube::{Client, Config};
use roster_api::user_agent;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::SecretString;
use serde::Deserialize;

use super::identity::Identity;
use crate::client::{Connection, REQUEST_TIMEOUT};

/// Environment variable in which kubectl passes the cluster to credential plugins.
const EXEC_INFO: &str = "KUBERNETES_EXEC_INFO";

/// How long to wait for the cluster when checking whether it rejects a token.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the password and the resulting token are sent.
#[derive(Debug)]
pub(super) struct Destination {
    /// Server that handles the login.
    pub server: Cluster,
    /// URL of that server.
    pub url: String,
    /// Cluster that the token is sent to. Has no URL if the cluster is unknown.
    pub cluster: Cluster,
}

/// Returns where to log in: the server in the flags, otherwise the cluster that kubectl passed, otherwise the cluster
/// in the kubeconfig.
pub(super) fn find(identity: &Identity, connection: &Connection) -> Result<Destination> {
    let cluster = cluster_from_kubectl()?.map_or_else(|| connection.current().map(|(_, cluster)| cluster), Ok);
    resolve(identity, cluster)
}

fn resolve(identity: &Identity, cluster: Result<Cluster>) -> Result<Destination> {
    let (mut server, cluster) = if let Some(url) = &identity.server {
        // With --server, a kubeconfig is optional.
        (Cluster { server: Some(url.clone()), ..Cluster::default() }, cluster.unwrap_or_default())
    } else {
        let cluster = cluster?;
        (cluster.clone(), cluster)
    };
    if let Some(path) = &identity.certificate_authority {
        let path = path.to_str().context("the path in --certificate-authority is not UTF-8")?;
        server.certificate_authority = Some(path.to_owned());
        server.certificate_authority_data = None;
        server.insecure_skip_tls_verify = None;
    }
    let url = server.server.clone().context("the cluster in the kubeconfig has no server")?;
    Ok(Destination { server, url, cluster })
}

/// Returns whether the server's certificate is verified.
pub(super) fn is_verified(server: &Cluster) -> bool {
    server.insecure_skip_tls_verify != Some(true)
}

fn cluster_from_kubectl() -> Result<Option<Cluster>> {
    let text = std::env::var(EXEC_INFO).ok().filter(|text| !text.is_empty());
    text.map_or(Ok(None), |text| parse_exec_info(&text))
}

/// Returns the cluster that kubectl passed. It passes one if the kubeconfig sets `provideClusterInfo: true`.
fn parse_exec_info(text: &str) -> Result<Option<Cluster>> {
    #[derive(Deserialize)]
    struct Info {
        #[serde(default)]
        spec: Spec,
    }
    #[derive(Default, Deserialize)]
    struct Spec {
        cluster: Option<Cluster>,
    }
    let info: Info = serde_json::from_str(text).with_context(|| format!("{EXEC_INFO} is not an ExecCredential"))?;
    Ok(info.spec.cluster)
}

/// Returns whether the cluster rejects the token. If the cluster can't be reached, the token counts as valid.
pub(super) async fn rejects_token(cluster: &Cluster, token: &SecretString) -> bool {
    let asked = async {
        let mut config = config(cluster)?;
        config.auth_info.token = Some(token.clone());
        (config.connect_timeout, config.read_timeout) = (Some(CHECK_TIMEOUT), Some(CHECK_TIMEOUT));
        // Every authenticated user may read this path.
        let request = Request::get("/version").body(Vec::new())?;
        anyhow::Ok(Client::try_from(config)?.request_text(request).await)
    };
    matches!(asked.await, Ok(Err(kube::Error::Api(status))) if status.code == 401)
}

/// Returns a client without credentials.
pub(super) fn client(cluster: &Cluster) -> Result<Client> {
    let config = config(cluster)?;
    let address = config.cluster_url.clone();
    Client::try_from(config).with_context(|| format!("cannot connect to {address}"))
}

fn config(cluster: &Cluster) -> Result<Config> {
    let address: Uri = cluster.server.as_deref().unwrap_or_default().parse().context("the URL of the server")?;
    if !is_encrypted_or_local(&address) {
        bail!("{address} is not an https URL: a password must not be sent in plaintext");
    }
    let mut config = Config::new(address);
    config.root_cert = authority(cluster)?.map(|pem| certificates(&pem)).transpose()?;
    config.accept_invalid_certs = !is_verified(cluster);
    config.tls_server_name = cluster.tls_server_name.clone().filter(|name| !name.is_empty());
    let proxy = cluster.proxy_url.as_ref().filter(|proxy| !proxy.is_empty());
    config.proxy_url = proxy.map(|proxy| proxy.parse()).transpose().context("the URL of the proxy")?;
    config.auth_info = AuthInfo::default();
    config.read_timeout = Some(REQUEST_TIMEOUT);
    config.headers.push((USER_AGENT, user_agent("kubectl-roster").try_into()?));
    // A retried login would count as two attempts, and a code is valid only once.
    config.default_retry = false;
    Ok(config)
}

/// Returns whether a password can be sent without being readable on the network: https, or http to this machine.
fn is_encrypted_or_local(address: &Uri) -> bool {
    let host = address.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match address.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => is_loopback,
        _ => false,
    }
}

/// Returns the certificate authority of the cluster as PEM, if it has one.
pub(crate) fn authority(cluster: &Cluster) -> Result<Option<Vec<u8>>> {
    let data = cluster.certificate_authority_data.as_ref().filter(|data| !data.is_empty());
    let file = cluster.certificate_authority.as_ref().filter(|file| !file.is_empty());
    match (data, file) {
        (Some(data), _) => STANDARD.decode(data).context("certificate-authority-data is not base64").map(Some),
        (None, Some(file)) => std::fs::read(Path::new(file)).with_context(|| file.clone()).map(Some),
        (None, None) => Ok(None),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>> {
    let certificates: Result<Vec<Vec<u8>>, _> =
        CertificateDer::pem_slice_iter(pem).map(|certificate| certificate.map(|der| der.to_vec())).collect();
    let certificates = certificates.context("the certificate authority is not PEM")?;
    if certificates.is_empty() {
        bail!("the certificate authority contains no certificate");
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;
    use clap::Parser;
    use rstest::rstest;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn pem() -> String {
        rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem()
    }

    fn cluster(server: &str) -> Cluster {
        Cluster { server: Some(server.to_owned()), ..Cluster::default() }
    }

    #[rstest]
    #[case("https://a:6443", true)]
    #[case("https://a/k8s/clusters/c", true)]
    #[case("http://127.0.0.1:8001", true)]
    #[case("http://[::1]:8001", true)]
    #[case("http://localhost:8001", true)]
    #[case("http://a:6443", false)]
    #[case("http://127.0.0.1.example.com", false)]
    #[case("a:6443", false)]
    fn a_password_is_not_sent_in_plaintext(#[case] server: &str, #[case] expected: bool) {
        assert_eq!(config(&cluster(server)).is_ok(), expected);
    }

    #[test]
    fn the_cluster_that_kubectl_passes_is_used() {
        let text = format!(
            r#"{{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "spec": {{
                "cluster": {{"server": "https://a:6443", "certificate-authority-data": "{}",
                    "tls-server-name": "b", "config": null}}, "interactive": true}}}}"#,
            STANDARD.encode(pem())
        );
        let cluster = parse_exec_info(&text).unwrap().unwrap();
        let config = config(&cluster).unwrap();
        assert_eq!(config.cluster_url, "https://a:6443/");
        assert_eq!((config.tls_server_name.as_deref(), config.root_cert.unwrap().len()), (Some("b"), 1));
        assert!(!config.accept_invalid_certs);
    }

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        identity: Identity,
    }

    fn identity(arguments: &[&str]) -> Identity {
        Line::parse_from([&[""], arguments].concat()).identity
    }

    #[test]
    fn the_token_is_sent_to_the_cluster_even_with_another_login_server() {
        let found = resolve(&identity(&[]), Ok(cluster("https://a:6443"))).unwrap();
        assert_eq!((found.url.as_str(), found.cluster.server.as_deref()), ("https://a:6443", Some("https://a:6443")));
        let direct = identity(&["--server", "https://roster"]);
        let found = resolve(&direct, Ok(cluster("https://a:6443"))).unwrap();
        assert_eq!((found.url.as_str(), found.cluster.server.as_deref()), ("https://roster", Some("https://a:6443")));
        assert!(resolve(&direct, Err(anyhow!("no kubeconfig"))).unwrap().cluster.server.is_none());
        assert!(resolve(&identity(&[]), Err(anyhow!("no kubeconfig"))).is_err());
    }

    #[test]
    fn the_authority_of_the_flags_verifies_the_server() {
        let unverified = || Ok(Cluster { insecure_skip_tls_verify: Some(true), ..cluster("https://a") });
        assert!(!is_verified(&resolve(&identity(&[]), unverified()).unwrap().server));
        let found = resolve(&identity(&["--certificate-authority", "ca.crt"]), unverified()).unwrap();
        assert!(is_verified(&found.server));
        assert_eq!(found.server.certificate_authority.as_deref(), Some("ca.crt"));
    }

    #[tokio::test]
    async fn an_unreachable_cluster_does_not_reject_a_token() {
        assert!(!rejects_token(&Cluster::default(), &"x".into()).await);
        assert!(!rejects_token(&cluster("http://127.0.0.1:1"), &"x".into()).await);
    }

    #[rstest]
    #[case("401 Unauthorized", true)]
    #[case("403 Forbidden", false)]
    #[case("200 OK", false)]
    #[tokio::test]
    async fn only_401_rejects_a_token(#[case] status: &str, #[case] expected: bool) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno");
        let serving = tokio::spawn(async move {
            let (mut stream, _) = socket.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let count = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..count]).to_lowercase()
        });
        let asked = Cluster { certificate_authority_data: Some(STANDARD.encode(pem())), ..cluster(&url) };
        assert_eq!(rejects_token(&asked, &"x.y.z".into()).await, expected);
        let request = serving.await.unwrap();
        assert!(request.starts_with("get /version ") && request.contains("bearer x.y.z"), "{request}");
    }

    #[test]
    fn kubectl_may_pass_no_cluster() {
        assert!(parse_exec_info(r#"{"spec": {"interactive": true}}"#).unwrap().is_none());
        assert!(parse_exec_info("{}").unwrap().is_none());
        assert!(parse_exec_info("no").is_err());
    }

    #[test]
    fn the_authority_can_be_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [pem(), pem()].concat()).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let cluster = Cluster { certificate_authority: Some(path), ..cluster("https://a") };
        assert_eq!(config(&cluster).unwrap().root_cert.unwrap().len(), 2);
    }

    #[test]
    fn an_authority_without_certificates_is_an_error() {
        let data = Some(STANDARD.encode("nothing"));
        let cluster = Cluster { certificate_authority_data: data, ..cluster("https://a") };
        assert!(config(&cluster).unwrap_err().to_string().contains("contains no certificate"));
    }
}
