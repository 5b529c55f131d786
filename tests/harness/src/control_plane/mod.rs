//! etcd, kube-apiserver and kube-controller-manager on loopback.

mod authenticators;
mod certificates;
mod components;
mod kubeconfig;

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::Value;

use self::authenticators::AuthenticatorFiles;
pub use self::authenticators::OIDC_AUDIENCE;
pub(crate) use self::certificates::{CA, Certificates, Pair};
pub(crate) use self::components::{api_server, controller_manager, etcd, file_flag, go_program};
pub(crate) use self::kubeconfig::{Identity, write_kubeconfig};
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

/// File name, without extension, of the certificate and key of Roster's own authority.
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
        let pki = dir.join("pki");
        if let Some(template) = template {
            template.copy_to(&dir)?;
        } else {
            Certificates::create(&pki, &[])?;
            Authority::create(&pki, ROSTER_CA)?;
        }
        let certs = Certificates::load(&pki);

        let (etcd_port, port) = (free_port()?, free_port()?);
        let command = etcd(assets, &dir.join("etcd"), etcd_port, free_port()?);
        let mut etcd = Process::spawn("etcd", command, dir.join("etcd.log"))?;

        let url = format!("https://127.0.0.1:{port}");
        let balancer = Balancer::start()?;
        let authenticators = AuthenticatorFiles::write(&dir, &balancer, &pki.join(format!("{ROSTER_CA}.crt")))?;
        let mut command = api_server(assets, &certs, etcd_port, port);
        command.args(loopback_flags(&dir, &authenticators)?).args(flags.api_server);
        let mut apiserver = Process::spawn("kube-apiserver", command, dir.join("kube-apiserver.log"))?;

        let kubeconfig =
            write_kubeconfig(&dir.join("admin.kubeconfig"), &url, &certs.ca.0, &Identity::Certificate(&certs.admin))?;
        let kubectl = Kubectl { assets: assets.clone(), kubeconfig };
        wait_until_ready(&kubectl, port, &mut [&mut etcd, &mut apiserver])?;

        let mut command = controller_manager(assets, &dir, &certs, &url, free_port()?)?;
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

    /// Kills all processes. The control plane can no longer be used.
    pub fn kill(&self) {
        let api_server = self.api_server.lock().unwrap_or_else(PoisonError::into_inner);
        for process in [&self.controller_manager, &*api_server, &self.etcd] {
            // One that has already ended is not a failure.
            let _ = process.signal(Signal::KILL);
        }
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

    /// Returns the path of the audit log, which has one JSON line per event: all writes, and all requests of the
    /// operator.
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

/// Returns the flags of a kube-apiserver on loopback, which tests talk to and whose requests they count.
fn loopback_flags(dir: &Path, authenticators: &AuthenticatorFiles) -> Result<Vec<String>> {
    let policy = dir.join("audit-policy.yaml");
    std::fs::write(&policy, AUDIT_POLICY)?;
    let flags = [
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        // A loopback address is not a valid endpoint.
        "--endpoint-reconciler-type=none",
        "--authorization-mode=RBAC",
        // As on OpenShift: setting `blockOwnerDeletion` requires a permission on the owner's finalizers.
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
        "--authentication-token-webhook-version=v1",
        // The webhook's answers are cached for two minutes by default, and for at least ten seconds.
        "--authentication-token-webhook-cache-ttl=100ms",
        // In MiB. Tests read the log from a position, so it must never be rotated.
        "--audit-log-maxsize=65536",
    ];
    let files = [
        file_flag("authentication-config", &authenticators.configuration),
        file_flag("authentication-token-webhook-config-file", &authenticators.webhook),
        file_flag("audit-policy-file", &policy),
        file_flag("audit-log-path", &dir.join("audit.log")),
    ];
    Ok(flags.into_iter().map(str::to_owned).chain(files).collect())
}

/// Waits until kube-apiserver is ready at the loopback port, while `processes` run.
///
/// # Errors
/// If one of the processes ends, with the end of its log, or after two minutes.
pub(crate) fn wait_until_ready(kubectl: &Kubectl, port: u16, processes: &mut [&mut Process]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while let Err(error) = ready(kubectl, port) {
        for process in processes.iter_mut() {
            process.check()?;
        }
        if Instant::now() > deadline {
            return Err(error.context("kube-apiserver did not become ready"));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Checks whether kube-apiserver is ready. Each kubectl call costs 40 ms of CPU time, so it is made only once the port
/// is open.
fn ready(kubectl: &Kubectl, port: u16) -> Result<()> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    kubectl.run(&["get", "--raw", "/readyz"])?;
    Ok(())
}
