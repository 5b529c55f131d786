//! Where a login goes, and by which authority the other side is known.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::http::{Request, Uri};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, Cluster};
use kube::{Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::SecretString;
use serde::Deserialize;

use super::identity::Identity;
use crate::client::{Connection, PATIENCE};

/// Where kubectl tells its plugins about the cluster.
const EXEC_INFO: &str = "KUBERNETES_EXEC_INFO";

/// How long to wait for a cluster that is asked whether it accepts a token.
const CHECK: Duration = Duration::from_secs(5);

/// Where a password goes, and where the token goes that it becomes.
#[derive(Debug)]
pub(super) struct Way {
    /// Where to log in.
    pub server: Cluster,
    /// Its URL.
    pub address: String,
    /// The cluster that the token is sent to. Without a URL where none is known.
    pub target: Cluster,
}

/// The server that the flags name, or else the one that kubectl asks for, or else that of the kubeconfig.
pub(super) fn find(identity: &Identity, connection: &Connection) -> Result<Way> {
    let target = told()?.map_or_else(|| connection.current().map(|(_, cluster)| cluster), Ok);
    way(identity, target)
}

fn way(identity: &Identity, target: Result<Cluster>) -> Result<Way> {
    let (mut server, target) = if let Some(url) = &identity.server {
        // By hand, a token can be had without a kubeconfig.
        (Cluster { server: Some(url.clone()), ..Cluster::default() }, target.unwrap_or_default())
    } else {
        let target = target?;
        (target.clone(), target)
    };
    if let Some(path) = &identity.certificate_authority {
        server.certificate_authority = Some(path.to_str().context("the path of the authority is no text")?.to_owned());
        server.certificate_authority_data = None;
        server.insecure_skip_tls_verify = None;
    }
    let address = server.server.clone().context("the cluster has no server")?;
    Ok(Way { server, address, target })
}

/// Whether it is certain that the other side is the server.
pub(super) fn is_verified(server: &Cluster) -> bool {
    server.insecure_skip_tls_verify != Some(true)
}

fn told() -> Result<Option<Cluster>> {
    let text = std::env::var(EXEC_INFO).ok().filter(|text| !text.is_empty());
    text.map_or(Ok(None), |text| cluster_in(&text))
}

/// The cluster in what kubectl tells. It tells it where the kubeconfig says `provideClusterInfo: true`.
fn cluster_in(text: &str) -> Result<Option<Cluster>> {
    #[derive(Deserialize)]
    struct Info {
        #[serde(default)]
        spec: Spec,
    }
    #[derive(Default, Deserialize)]
    struct Spec {
        cluster: Option<Cluster>,
    }
    let info: Info = serde_json::from_str(text).with_context(|| format!("{EXEC_INFO} is no ExecCredential"))?;
    Ok(info.spec.cluster)
}

/// Whether the cluster says that it does not accept the token. Where it says nothing, the token may be good.
pub(super) async fn refuses(cluster: &Cluster, token: &SecretString) -> bool {
    let asked = async {
        let mut config = config(cluster)?;
        config.auth_info.token = Some(token.clone());
        (config.connect_timeout, config.read_timeout) = (Some(CHECK), Some(CHECK));
        // Whoever is known at all may read this.
        let request = Request::get("/version").body(Vec::new())?;
        anyhow::Ok(Client::try_from(config)?.request_text(request).await)
    };
    matches!(asked.await, Ok(Err(kube::Error::Api(status))) if status.code == 401)
}

/// A client that shows no credentials.
pub(super) fn client(cluster: &Cluster) -> Result<Client> {
    let config = config(cluster)?;
    let address = config.cluster_url.clone();
    Client::try_from(config).with_context(|| format!("no connection to {address} can be made"))
}

fn config(cluster: &Cluster) -> Result<Config> {
    let address: Uri = cluster.server.as_deref().unwrap_or_default().parse().context("the URL of the server")?;
    if !is_private(&address) {
        bail!("{address} is no https URL: a password must not travel in the clear");
    }
    let mut config = Config::new(address);
    config.root_cert = authority(cluster)?.map(|pem| certificates(&pem)).transpose()?;
    config.accept_invalid_certs = !is_verified(cluster);
    config.tls_server_name = cluster.tls_server_name.clone().filter(|name| !name.is_empty());
    let proxy = cluster.proxy_url.as_ref().filter(|proxy| !proxy.is_empty());
    config.proxy_url = proxy.map(|proxy| proxy.parse()).transpose().context("the URL of the proxy")?;
    config.auth_info = AuthInfo::default();
    config.read_timeout = Some(PATIENCE);
    // A login that was sent twice would count twice, and a code is good once.
    config.default_retry = false;
    Ok(config)
}

/// Whether nobody on the way reads along.
fn is_private(address: &Uri) -> bool {
    let host = address.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match address.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => is_here,
        _ => false,
    }
}

/// The authority of the cluster, PEM.
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
        bail!("the certificate authority holds no certificate");
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
    fn a_password_does_not_travel_in_the_clear(#[case] server: &str, #[case] expected: bool) {
        assert_eq!(config(&cluster(server)).is_ok(), expected);
    }

    #[test]
    fn kubectl_tells_the_cluster() {
        let text = format!(
            r#"{{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "spec": {{
                "cluster": {{"server": "https://a:6443", "certificate-authority-data": "{}",
                    "tls-server-name": "b", "config": null}}, "interactive": true}}}}"#,
            STANDARD.encode(pem())
        );
        let cluster = cluster_in(&text).unwrap().unwrap();
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
    fn a_token_goes_to_the_cluster_wherever_it_comes_from() {
        let found = way(&identity(&[]), Ok(cluster("https://a:6443"))).unwrap();
        assert_eq!(
            (found.address.as_str(), found.target.server.as_deref()),
            ("https://a:6443", Some("https://a:6443"))
        );
        let direct = identity(&["--server", "https://roster"]);
        let found = way(&direct, Ok(cluster("https://a:6443"))).unwrap();
        assert_eq!(
            (found.address.as_str(), found.target.server.as_deref()),
            ("https://roster", Some("https://a:6443"))
        );
        assert!(way(&direct, Err(anyhow!("no kubeconfig"))).unwrap().target.server.is_none());
        assert!(way(&identity(&[]), Err(anyhow!("no kubeconfig"))).is_err());
    }

    #[test]
    fn an_authority_that_is_given_is_what_the_server_is_known_by() {
        let careless = || Ok(Cluster { insecure_skip_tls_verify: Some(true), ..cluster("https://a") });
        assert!(!is_verified(&way(&identity(&[]), careless()).unwrap().server));
        let found = way(&identity(&["--certificate-authority", "ca.crt"]), careless()).unwrap();
        assert!(is_verified(&found.server));
        assert_eq!(found.server.certificate_authority.as_deref(), Some("ca.crt"));
    }

    #[tokio::test]
    async fn a_cluster_that_says_nothing_refuses_nothing() {
        assert!(!refuses(&Cluster::default(), &"x".into()).await);
        assert!(!refuses(&cluster("http://127.0.0.1:1"), &"x".into()).await);
    }

    #[rstest]
    #[case("401 Unauthorized", true)]
    #[case("403 Forbidden", false)]
    #[case("200 OK", false)]
    #[tokio::test]
    async fn a_cluster_says_which_tokens_it_refuses(#[case] status: &str, #[case] expected: bool) {
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
        assert_eq!(refuses(&asked, &"x.y.z".into()).await, expected);
        let request = serving.await.unwrap();
        assert!(request.starts_with("get /version ") && request.contains("bearer x.y.z"), "{request}");
    }

    #[test]
    fn kubectl_may_tell_nothing() {
        assert!(cluster_in(r#"{"spec": {"interactive": true}}"#).unwrap().is_none());
        assert!(cluster_in("{}").unwrap().is_none());
        assert!(cluster_in("no").is_err());
    }

    #[test]
    fn an_authority_may_be_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [pem(), pem()].concat()).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let cluster = Cluster { certificate_authority: Some(path), ..cluster("https://a") };
        assert_eq!(config(&cluster).unwrap().root_cert.unwrap().len(), 2);
    }

    #[test]
    fn an_authority_without_a_certificate_is_none() {
        let data = Some(STANDARD.encode("nothing"));
        let cluster = Cluster { certificate_authority_data: data, ..cluster("https://a") };
        assert!(config(&cluster).unwrap_err().to_string().contains("holds no certificate"));
    }
}
