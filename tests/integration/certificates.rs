//! The serving certificate: issued by an authority that replicas share, rotated without a restart, and always trusted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use roster_harness::pki::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::directory::Direct;
use crate::support::{Cluster, eventually, password_secret, unique};

fn bundle(configuration: &MutatingWebhookConfiguration) -> String {
    let bundle = configuration.webhooks.as_ref().unwrap()[0].client_config.ca_bundle.clone().unwrap_or_default();
    String::from_utf8(bundle.0).unwrap()
}

/// Path at which kube-apiserver calls the webhook.
fn path(configuration: &MutatingWebhookConfiguration) -> String {
    let url = configuration.webhooks.as_ref().unwrap()[0].client_config.url.clone().unwrap();
    url[url.find("/admission/").unwrap()..].to_owned()
}

/// Waits until the webhook admits a write.
async fn wait_until_admitted(cluster: &Cluster) {
    let secrets = cluster.secrets("default").await;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    eventually("admission answers", || async {
        let secret = password_secret(&unique("admitted"), "password", "x");
        secrets.create(&dry, &secret).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

/// Makes a TLS handshake with `url` that trusts only `bundle`.
async fn handshake(url: &str, bundle: &str) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let address = url.strip_prefix("https://").unwrap();
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from("roster.roster-system.svc").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(drop).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_needs_no_restart_and_is_never_untrusted() {
    let cluster = Cluster::create("certificates", &[]);
    // Let the operators create their own, which is short-lived.
    cluster.secrets("roster-system").await.delete("roster-ca", &DeleteParams::default()).await.unwrap();
    let short = ["--ca-lifetime", "30s", "--certificate-lifetime", "10s"];
    cluster.start_operator(&short);
    cluster.start_operator(&short);
    let urls: Vec<String> = cluster.operators().iter().map(roster_harness::Operator::url).collect();
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(cluster.client().await);
    let secrets = cluster.secrets("default").await;
    let first = bundle(&configurations.get("roster").await.unwrap());
    let first_path = path(&configurations.get("roster").await.unwrap());

    let deadline = Instant::now() + Duration::from_secs(120);
    let mut rounds = 0;
    loop {
        let now = bundle(&configurations.get("roster").await.unwrap());
        for url in &urls {
            handshake(url, &now).await.unwrap_or_else(|error| panic!("round {rounds}, {url}: {error}"));
        }
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        secrets.create(&dry, &password_secret(&unique("rotation"), "password", "x")).await.unwrap();
        rounds += 1;
        // Until the first authority is no longer trusted, and everything depends on its successor.
        if !now.contains(first.trim()) {
            break;
        }
        assert!(Instant::now() < deadline, "the first authority is still trusted");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(rounds > 10);
    assert_ne!(
        path(&configurations.get("roster").await.unwrap()),
        first_path,
        "the path of an authority that was removed is no longer used"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_ca_bundle_and_a_deleted_authority_are_repaired() {
    let cluster = Cluster::create("trust", &[]);
    cluster.start_operator(&[]);
    let url = cluster.operators()[0].url();
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(cluster.client().await);
    let good = bundle(&configurations.get("roster").await.unwrap());

    let former = path(&configurations.get("roster").await.unwrap());
    let mut damaged = configurations.get("roster").await.unwrap();
    let client = &mut damaged.webhooks.as_mut().unwrap()[0].client_config;
    client.ca_bundle = Some(ByteString(Vec::new()));
    client.url = client.url.as_ref().map(|url| url.replace(&former, "/admission/password-secrets"));
    configurations.replace("roster", &PostParams::default(), &damaged).await.unwrap();
    eventually("the caBundle is repaired", || async {
        let now = configurations.get("roster").await.map_err(|error| error.to_string())?;
        if bundle(&now) == good && path(&now) == former { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    wait_until_admitted(&cluster).await;

    let secrets = cluster.secrets("roster-system").await;
    secrets.delete("roster-ca", &DeleteParams::default()).await.unwrap();
    eventually("a new authority is trusted and serves", || async {
        let now = bundle(&configurations.get("roster").await.map_err(|error| error.to_string())?);
        if now == good {
            return Err("the old bundle".to_owned());
        }
        handshake(&url, &now).await
    })
    .await;
    // The admission paths depend on the authority.
    wait_until_admitted(&cluster).await;
    let now = path(&configurations.get("roster").await.unwrap());
    assert_ne!(now, former);
    let direct = Direct::new(&cluster, 0, None).await;
    for (path, status) in [(former, 404), (now, 400)] {
        assert_eq!(direct.send("POST", &path, &[], "no review").await.unwrap().status, status);
    }

    // Invalid content has no effect: the previous certificate stays in use.
    let junk = Patch::Merge(json!({"stringData": {"ca-1.crt": "junk", "ca-1.key": "junk"}}));
    secrets.patch("roster-ca", &PatchParams::default(), &junk).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let now = bundle(&configurations.get("roster").await.unwrap());
    handshake(&url, &now).await.unwrap();
    assert!(cluster.operators()[0].is_running());
}

/// Returns the data of a Secret as cert-manager writes it, with its own authority.
fn given(cluster: &Cluster, name: &str) -> (serde_json::Value, String) {
    let dir = cluster.plane.dir.join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let authority = Authority::create(&dir, "ca").unwrap();
    let (cert, key) = authority.server(&dir, "serving", &["roster.roster-system.svc", "localhost"]).unwrap();
    let text = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let ca = text(&authority.cert);
    (json!({"tls.crt": text(&cert), "tls.key": text(&key), "ca.crt": ca}), ca)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_certificate_is_served_and_reloaded_and_its_ca_bundle_left_alone() {
    let cluster = Cluster::create("given-certificate", &[]);
    let secrets = cluster.secrets("roster-system").await;
    let (data, ca) = given(&cluster, "first");
    let secret = json!({"metadata": {"name": "roster-serving"}, "type": "kubernetes.io/tls", "stringData": data});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    let trust = |ca: &str| {
        // As cert-manager's cainjector does.
        let bundle = ByteString(ca.as_bytes().to_vec());
        for kind in ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"] {
            let webhooks = cluster.plane.kubectl.get(&[kind, "roster"]).unwrap();
            let webhooks = webhooks["webhooks"].as_array().unwrap().iter();
            let patch: Vec<_> = webhooks
                .enumerate()
                .map(|(i, _)| json!({"op": "add", "path": format!("/webhooks/{i}/clientConfig/caBundle"), "value": bundle}))
                .collect();
            cluster.kubectl(&["patch", kind, "roster", "--type=json", "-p", &json!(patch).to_string()]);
        }
        let patch = json!({"spec": {"caBundle": bundle}}).to_string();
        cluster.kubectl(&["patch", "apiservice", "v1alpha1.directory.roster.dev", "--type=merge", "-p", &patch]);
    };
    trust(&ca);
    // While an older version leads, which publishes no paths, a new replica publishes them. Otherwise it would not
    // become ready, and the rollout would stall.
    let now = jiff::Timestamp::now();
    cluster.apply(&format!(
        "{{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {{name: roster, namespace: roster-system}}, spec: \
         {{holderIdentity: older, leaseDurationSeconds: 3600, acquireTime: '{now:.6}', renewTime: '{now:.6}'}}}}"
    ));
    cluster.start_operator(&["--serving-certificate-secret", "roster-serving"]);
    assert!(cluster.operators()[0].probe("/metrics").unwrap().contains("roster_leader 0"));
    cluster.kubectl(&["delete", "lease", "roster", "-n", "roster-system"]);
    eventually("it leads", || {
        let metrics = cluster.operators()[0].probe("/metrics").unwrap();
        std::future::ready(if metrics.contains("roster_leader 1") { Ok(()) } else { Err(metrics) })
    })
    .await;
    let url = cluster.operators()[0].url();
    handshake(&url, &ca).await.unwrap();
    crate::directory::wait_until_served(&cluster);

    let (data, next) = given(&cluster, "next");
    let patch = Patch::Merge(json!({"stringData": data}));
    secrets.patch("roster-serving", &PatchParams::default(), &patch).await.unwrap();
    eventually("the next certificate is served", || handshake(&url, &next)).await;
    // The replica is not ready until its certificate is trusted.
    assert!(cluster.operators()[0].probe("/readyz").is_err());
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(cluster.client().await);
    assert_eq!(bundle(&configurations.get("roster").await.unwrap()), ca);
    trust(&next);
    eventually("the replica is ready", || {
        std::future::ready(cluster.operators()[0].probe("/readyz").map_err(|error| error.to_string()))
    })
    .await;
    // Invalid content has no effect.
    let junk = Patch::Merge(json!({"stringData": {"tls.crt": "junk"}}));
    secrets.patch("roster-serving", &PatchParams::default(), &junk).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    handshake(&url, &next).await.unwrap();
    let metrics = cluster.operators()[0].probe("/metrics").unwrap();
    assert!(metrics.contains("roster_certificate_expiry_timestamp_seconds "), "{metrics}");
}
