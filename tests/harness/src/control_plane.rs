//! etcd, kube-apiserver and kube-controller-manager on loopback.

use std::fmt::Write;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::assets::Assets;
use crate::balancer::Balancer;
use crate::kubectl::{Kubectl, eventually};
use crate::pki::Authority;
use crate::ports::free_port;
use crate::process::Process;
use crate::template::Template;

/// Logs all writes and all requests of the operator, without bodies, so that tests can count them.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
- level: Metadata
  userGroups: ['system:serviceaccounts:roster-system']
- level: None
";

/// Namespace that the chart is installed in.
pub const NAMESPACE: &str = "roster-system";

/// Name of the files of Roster's own certificate authority.
pub const ROSTER_CA: &str = "roster-ca";

/// A running control plane. Dropping it stops its processes.
#[derive(Debug)]
pub struct ControlPlane {
    // In the order in which they are stopped.
    controller_manager: Process,
    api_server: Mutex<Process>,
    etcd: Process,
    /// Whether the namespace, its authority and the CRDs exist already, from the template's data.
    pub(crate) is_prepared: bool,
    /// Folder with certificates, kubeconfigs, data and logs.
    pub dir: PathBuf,
    /// kubectl as cluster administrator (`system:masters`).
    pub kubectl: Kubectl,
    /// Address of the API server.
    pub url: String,
    /// Replaces the Service in front of the operators, for the token webhook of kube-apiserver.
    pub balancer: Balancer,
}

/// Audience of tokens that kube-apiserver accepts by OpenID Connect, in addition to those checked by the token webhook.
pub const OIDC_AUDIENCE: &str = "kubernetes-oidc";

/// Configuration files of the two authenticators by which kube-apiserver accepts Roster's tokens.
struct AuthenticatorFiles {
    /// Structured authentication configuration: OpenID Connect.
    configuration: PathBuf,
    /// Kubeconfig of the token webhook.
    webhook: PathBuf,
}

impl AuthenticatorFiles {
    /// Writes the files before an operator exists, with an authority that is later installed with the chart.
    fn write(dir: &Path, balancer: &Balancer, roster_ca: &Path) -> Result<Self> {
        let url = format!("https://localhost:{}", balancer.port);
        let ca = std::fs::read_to_string(roster_ca)?;
        let indented = ca.lines().fold(String::new(), |all, line| all + "      " + line + "\n");
        let configuration = dir.join("authentication.yaml");
        std::fs::write(
            &configuration,
            format!(
                "apiVersion: apiserver.config.k8s.io/v1beta1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    \
                 url: {url}\n    audiences: [{OIDC_AUDIENCE}]\n    certificateAuthority: |\n{indented}  \
                 claimMappings:\n    username: {{claim: preferred_username, prefix: ''}}\n    \
                 groups: {{claim: groups, prefix: ''}}\n    uid: {{claim: sub}}\n    extra:\n    \
                 - {{key: example.com/recognised-by, valueExpression: claims.amr}}\n"
            ),
        )?;
        let webhook = dir.join("token-webhook.kubeconfig");
        std::fs::write(
            &webhook,
            format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: roster\n\
                 clusters:\n- name: roster\n  cluster: {{server: '{url}/tokenreview', certificate-authority: {}}}\n\
                 users:\n- {{name: kube-apiserver, user: {{}}}}\n\
                 contexts:\n- {{name: roster, context: {{cluster: roster, user: kube-apiserver}}}}\n",
                roster_ca.display()
            ),
        )?;
        Ok(Self { configuration, webhook })
    }
}

/// Additional flags of the components.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags<'a> {
    /// Flags of kube-apiserver.
    pub api_server: &'a [&'a str],
    /// Flags of kube-controller-manager.
    pub controller_manager: &'a [&'a str],
}

impl ControlPlane {
    /// Starts a control plane in `dir`, which must be empty or absent.
    ///
    /// # Errors
    /// If a program is missing or does not become ready. The message contains the end of its log.
    pub fn start(dir: &Path, flags: Flags<'_>) -> Result<Self> {
        Self::start_from(None, dir, flags)
    }

    /// Starts a control plane in `dir` with the certificates and the data of `template`, if there is one.
    ///
    /// # Errors
    /// If a program is missing or does not become ready. The message contains the end of its log.
    pub fn start_from(template: Option<&Template>, dir: &Path, flags: Flags<'_>) -> Result<Self> {
        let assets = Assets::resolve()?;
        // Another process can take a free port before the program binds it.
        let attempts = 3;
        for attempt in 1..attempts {
            let dir = dir.join(format!("attempt-{attempt}"));
            match Self::try_start(template, &dir, &assets, flags) {
                Err(error) if format!("{error:#}").contains("address already in use") => {}
                outcome => return outcome,
            }
        }
        Self::try_start(template, &dir.join(format!("attempt-{attempts}")), &assets, flags)
    }

    fn try_start(template: Option<&Template>, dir: &Path, assets: &Assets, flags: Flags<'_>) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let dir = dir.canonicalize()?;
        match template {
            Some(template) => template.copy_to(&dir)?,
            None => Certificates::create(&dir.join("pki"))?,
        }
        let certs = Certificates::load(&dir.join("pki"));

        let etcd_url = format!("http://127.0.0.1:{}", free_port()?);
        let mut etcd = Process::spawn("etcd", etcd_command(assets, &dir, &etcd_url)?, dir.join("etcd.log"))?;

        let port = free_port()?;
        let url = format!("https://127.0.0.1:{port}");
        let balancer = Balancer::start()?;
        let authenticators = AuthenticatorFiles::write(&dir, &balancer, &certs.roster_ca.0)?;
        let mut command = apiserver_command(assets, &dir, (&certs, &authenticators), &etcd_url, port)?;
        command.args(flags.api_server);
        let mut apiserver = Process::spawn("kube-apiserver", command, dir.join("kube-apiserver.log"))?;

        let kubeconfig =
            write_kubeconfig(&dir.join("admin.kubeconfig"), &url, &certs.ca.0, &Identity::Certificate(&certs.admin))?;
        let kubectl = Kubectl { assets: assets.clone(), kubeconfig };
        let deadline = Instant::now() + Duration::from_secs(120);
        while let Err(error) = ready(&kubectl, port) {
            etcd.check()?;
            apiserver.check()?;
            if Instant::now() > deadline {
                return Err(error.context("kube-apiserver does not become ready"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }

        let mut command = controller_manager_command(assets, &dir, &certs, &url)?;
        command.args(flags.controller_manager);
        let mut controller_manager =
            Process::spawn("kube-controller-manager", command, dir.join("kube-controller-manager.log"))?;
        kubectl
            .run(&["wait", "--for=create", "serviceaccount/default", "-n", "default", "--timeout=60s"])
            .or_else(|error| controller_manager.check().and(Err(error)))?;
        Ok(Self {
            controller_manager,
            api_server: Mutex::new(apiserver),
            etcd,
            is_prepared: template.is_some(),
            dir,
            kubectl,
            url,
            balancer,
        })
    }

    /// Kills and restarts kube-apiserver. Watches start with a new list.
    ///
    /// # Errors
    /// If it does not become ready again.
    pub fn restart_api_server(&self) -> Result<()> {
        self.api_server.lock().unwrap_or_else(PoisonError::into_inner).restart()?;
        eventually("kube-apiserver is ready again", Duration::from_secs(120), || {
            self.kubectl.run(&["get", "--raw", "/readyz"])
        })?;
        Ok(())
    }

    /// Stops the control plane so that its data can be copied.
    ///
    /// # Errors
    /// If etcd has to be killed.
    pub fn stop(self) -> Result<()> {
        drop((self.controller_manager, self.api_server));
        self.etcd.stop(Duration::from_secs(30))
    }

    /// Returns etcd's data directory.
    pub fn etcd_data_dir(&self) -> PathBuf {
        self.dir.join("etcd")
    }

    /// Returns the path of the audit log, which has one JSON line per write.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    /// Returns the current size of the audit log.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn audit_position(&self) -> Result<u64> {
        Ok(std::fs::metadata(self.audit_log())?.len())
    }

    /// Returns the operator's events since byte `from` of the audit log. Watches are logged at their start and end.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn operator_events(&self, from: u64) -> Result<Vec<Value>> {
        let operator = format!("system:serviceaccount:{NAMESPACE}:roster");
        let mut log = File::open(self.audit_log())?;
        log.seek(SeekFrom::Start(from))?;
        let events = BufReader::new(log).lines().map_while(Result::ok);
        let events = events.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        Ok(events.filter(|event| event["user"]["username"] == operator.as_str()).collect())
    }

    /// Writes a kubeconfig for a bearer token.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn kubeconfig_for_token(&self, path: &Path, token: &str) -> Result<PathBuf> {
        write_kubeconfig(path, &self.url, &self.dir.join("pki/ca.crt"), &Identity::Token(token))
    }
}

/// Checks whether kube-apiserver is ready. Each kubectl call costs 40 ms of CPU time, so it is made only once the port
/// is open.
fn ready(kubectl: &Kubectl, port: u16) -> Result<()> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    kubectl.run(&["get", "--raw", "/readyz"])?;
    Ok(())
}

/// A certificate and its key.
type Pair = (PathBuf, PathBuf);

struct Certificates {
    ca: Pair,
    front_proxy_ca: Pair,
    serving: Pair,
    admin: Pair,
    controller_manager: Pair,
    front_proxy: Pair,
    service_accounts: Pair,
    /// Roster's own authority.
    roster_ca: Pair,
}

impl Certificates {
    fn create(dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir)?;
        let ca = Authority::create(dir, "ca")?;
        let front_proxy_ca = Authority::create(dir, "front-proxy-ca")?;
        let key_pair = rcgen::KeyPair::generate()?;
        std::fs::write(dir.join("service-accounts.crt"), key_pair.public_key_pem())?;
        std::fs::write(dir.join("service-accounts.key"), key_pair.serialize_pem())?;
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        ca.server(dir, "kube-apiserver", &names)?;
        ca.client(dir, "admin", "admin", &["system:masters"])?;
        ca.client(dir, "controller-manager", "system:kube-controller-manager", &[])?;
        front_proxy_ca.client(dir, "front-proxy", "front-proxy-client", &[])?;
        Authority::create(dir, ROSTER_CA)?;
        Ok(())
    }

    /// Loads what [`Certificates::create`] wrote to `dir`.
    fn load(dir: &Path) -> Self {
        let pair = |name: &str| (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        Self {
            ca: pair("ca"),
            front_proxy_ca: pair("front-proxy-ca"),
            serving: pair("kube-apiserver"),
            admin: pair("admin"),
            controller_manager: pair("controller-manager"),
            front_proxy: pair("front-proxy"),
            service_accounts: pair("service-accounts"),
            roster_ca: pair(ROSTER_CA),
        }
    }
}

/// Returns a command that runs a Go program. Unless `GOGC` is set, it collects garbage a quarter as often as by
/// default: the heaps are small and the processes short-lived, and collection would take a fifth of their CPU time.
fn go_program(program: &Path) -> Command {
    let mut command = Command::new(program);
    if std::env::var_os("GOGC").is_none() {
        command.env("GOGC", "400");
    }
    command
}

fn etcd_command(assets: &Assets, dir: &Path, url: &str) -> Result<Command> {
    let peer_url = format!("http://127.0.0.1:{}", free_port()?);
    let mut command = go_program(&assets.etcd);
    // `make up` exports it for users. etcd would treat it as a repeated flag.
    command.env_remove("ETCD_DATA_DIR").args([
        &format!("--data-dir={}", dir.join("etcd").display()),
        &format!("--listen-client-urls={url}"),
        &format!("--advertise-client-urls={url}"),
        &format!("--listen-peer-urls={peer_url}"),
        &format!("--initial-advertise-peer-urls={peer_url}"),
        &format!("--initial-cluster=default={peer_url}"),
        "--quota-backend-bytes=8589934592",
        // The data is only needed for one run, so do not wait for the disk.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]);
    Ok(command)
}

fn apiserver_command(
    assets: &Assets,
    dir: &Path,
    (certs, authenticators): (&Certificates, &AuthenticatorFiles),
    etcd_url: &str,
    port: u16,
) -> Result<Command> {
    let policy = dir.join("audit-policy.yaml");
    std::fs::write(&policy, AUDIT_POLICY)?;
    let mut command = go_program(&assets.apiserver);
    let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
    command.args([
        &format!("--etcd-servers={etcd_url}"),
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        // A loopback address is not a valid endpoint.
        "--endpoint-reconciler-type=none",
        &format!("--secure-port={port}"),
        "--service-cluster-ip-range=10.0.0.0/16",
        "--authorization-mode=RBAC",
        // As on OpenShift: setting `blockOwnerDeletion` requires a permission on the owner's finalizers.
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
        &file("client-ca-file", &certs.ca.0),
        &file("tls-cert-file", &certs.serving.0),
        &file("tls-private-key-file", &certs.serving.1),
        "--service-account-issuer=https://kubernetes.default.svc",
        &file("service-account-key-file", &certs.service_accounts.0),
        &file("service-account-signing-key-file", &certs.service_accounts.1),
        &file("requestheader-client-ca-file", &certs.front_proxy_ca.0),
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-uid-headers=X-Remote-Uid",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        &file("proxy-client-cert-file", &certs.front_proxy.0),
        &file("proxy-client-key-file", &certs.front_proxy.1),
        &file("authentication-config", &authenticators.configuration),
        &file("authentication-token-webhook-config-file", &authenticators.webhook),
        "--authentication-token-webhook-version=v1",
        // The webhook's answers are cached for two minutes by default, and for at least ten seconds.
        "--authentication-token-webhook-cache-ttl=100ms",
        &file("audit-policy-file", &policy),
        &file("audit-log-path", &dir.join("audit.log")),
        // In MiB. Tests read the log from a position, so it must never be rotated.
        "--audit-log-maxsize=65536",
        "--allow-privileged=true",
    ]);
    Ok(command)
}

fn controller_manager_command(assets: &Assets, dir: &Path, certs: &Certificates, url: &str) -> Result<Command> {
    let kubeconfig = dir.join("controller-manager.kubeconfig");
    write_kubeconfig(&kubeconfig, url, &certs.ca.0, &Identity::Certificate(&certs.controller_manager))?;
    let mut command = go_program(&assets.controller_manager);
    let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
    command.args([
        &file("kubeconfig", &kubeconfig),
        &file("authentication-kubeconfig", &kubeconfig),
        &file("authorization-kubeconfig", &kubeconfig),
        "--bind-address=127.0.0.1",
        &format!("--secure-port={}", free_port()?),
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        // Its controllers start one after the other with two requests each: at the default of 20 requests per
        // second, the first ServiceAccount takes five seconds.
        "--kube-api-qps=1000",
        "--kube-api-burst=1000",
        &file("root-ca-file", &certs.ca.0),
        &file("service-account-private-key-file", &certs.service_accounts.1),
        &file("cluster-signing-cert-file", &certs.ca.0),
        &file("cluster-signing-key-file", &certs.ca.1),
    ]);
    Ok(command)
}

enum Identity<'a> {
    Certificate(&'a (PathBuf, PathBuf)),
    Token(&'a str),
}

fn write_kubeconfig(path: &Path, url: &str, ca: &Path, identity: &Identity<'_>) -> Result<PathBuf> {
    let mut user = String::new();
    match identity {
        Identity::Certificate((cert, key)) => {
            write!(user, "client-certificate: {}, client-key: {}", cert.display(), key.display())?;
        }
        Identity::Token(token) => write!(user, "token: {token}")?,
    }
    let config = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: local\n\
         clusters:\n- name: local\n  cluster: {{server: '{url}', certificate-authority: {}}}\n\
         users:\n- name: me\n  user: {{{user}}}\n\
         contexts:\n- name: local\n  context: {{cluster: local, user: me}}\n",
        ca.display()
    );
    std::fs::write(path, config)?;
    Ok(path.to_owned())
}
