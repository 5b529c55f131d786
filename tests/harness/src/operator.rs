//! Installs the chart, and runs operators with exactly the chart's permissions.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::balancer::Balancer;
use crate::control_plane::{ControlPlane, Flags, NAMESPACE, OIDC_AUDIENCE, ROSTER_CA};
use crate::kubectl::{Kubectl, eventually};
use crate::paths::project_root;
use crate::ports::free_port;
use crate::process::Process;
use crate::template::Template;

/// A Secret that the admission webhook handles.
const PROBE: &str = "\
apiVersion: v1
kind: Secret
metadata: {generateName: probe-, namespace: default}
type: roster.dev/password
stringData: {password: probe}
";

/// The chart, installed on a control plane.
#[derive(Debug)]
pub struct Installation {
    /// Replaces the Service.
    pub balancer: Balancer,
    /// Kubeconfig of the operator's ServiceAccount.
    pub kubeconfig: PathBuf,
    dir: PathBuf,
    kubectl: Kubectl,
}

impl Installation {
    /// Returns the template in `parent` for control planes that the chart will be installed on: it has the CRDs and the
    /// namespace.
    ///
    /// # Errors
    /// If the control plane for the template does not start.
    pub fn template(parent: &Path) -> Result<Template> {
        Template::in_folder(parent, |dir| {
            let plane = ControlPlane::start(dir, Flags::default())?;
            prepare(&plane)?;
            let dir = plane.dir.clone();
            plane.stop()?;
            Ok(dir)
        })
    }

    /// Installs the chart for operators outside the cluster, with additional `values` (`--set` of helm).
    ///
    /// # Errors
    /// If helm or the API server rejects it.
    pub fn install(plane: &ControlPlane, values: &[&str]) -> Result<Self> {
        if !plane.is_prepared {
            prepare(plane)?;
        }
        Self::install_chart(plane, values)
    }

    /// Installs the chart again after `helm uninstall`. The namespace and Roster's Secrets still exist.
    ///
    /// # Errors
    /// If helm or the API server rejects it.
    pub fn reinstall(plane: &ControlPlane, values: &[&str]) -> Result<Self> {
        install_crds(plane)?;
        Self::install_chart(plane, values)
    }

    fn install_chart(plane: &ControlPlane, values: &[&str]) -> Result<Self> {
        let chart = project_root().join("charts/roster");
        let chart = chart.to_str().context("the path is not valid UTF-8")?;
        let mut args = vec!["install", "roster", chart, "-n", NAMESPACE, "--skip-crds"];
        let own = Self::values(plane);
        args.extend(own.iter().map(String::as_str).chain(values.iter().copied()).flat_map(|value| ["--set", value]));
        plane.kubectl.helm(&args)?;
        Self::existing(plane)
    }

    /// Returns the values of the chart, as `--set` of helm takes them, for operators outside the cluster.
    pub fn values(plane: &ControlPlane) -> [String; 2] {
        [format!("externalURL=https://localhost:{}", plane.balancer.port), "anonymousLogins=true".to_owned()]
    }

    /// Returns the installation on a control plane that has everything that the chart renders with [`Self::values`].
    ///
    /// # Errors
    /// If the operator's ServiceAccount does not exist.
    pub fn existing(plane: &ControlPlane) -> Result<Self> {
        let token = plane.kubectl.run(&["create", "token", "roster", "-n", NAMESPACE, "--duration=24h"])?;
        let kubeconfig = plane.kubeconfig_for_token(&plane.dir.join("operator.kubeconfig"), token.trim())?;
        let balancer = plane.balancer.clone();
        Ok(Self { balancer, kubeconfig, dir: plane.dir.clone(), kubectl: plane.kubectl.clone() })
    }
}

/// Creates the CRDs with kubectl, as an upgrade does: helm waits four seconds for those that it creates itself.
fn install_crds(plane: &ControlPlane) -> Result<()> {
    let crds = project_root().join("crds");
    let crds = crds.to_str().context("the path is not valid UTF-8")?;
    plane.kubectl.run(&["apply", "--server-side", "-f", crds])?;
    plane.kubectl.run(&["wait", "--for=condition=Established", "--timeout=30s", "-f", crds])?;
    Ok(())
}

/// Creates what the chart does not: the namespace with the certificate authority that kube-apiserver already trusts,
/// and the CRDs.
fn prepare(plane: &ControlPlane) -> Result<()> {
    plane.kubectl.run(&["create", "namespace", NAMESPACE])?;
    let file = |from: &str, to: &str| {
        format!("--from-file=ca-1.{to}={}", plane.dir.join("pki").join(format!("{ROSTER_CA}.{from}")).display())
    };
    let (cert, key) = (file("crt", "crt"), file("key", "key"));
    plane.kubectl.run(&["create", "secret", "generic", "roster-ca", "-n", NAMESPACE, &cert, &key])?;
    install_crds(plane)
}

/// A running operator. Dropping it kills it.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    address: SocketAddr,
    probes: SocketAddr,
    balancer: Balancer,
    /// Command line with which it can be started again.
    pub command_line: String,
}

impl Operator {
    /// Starts `binary` with additional `args` and waits until it is ready. Its log is `<name>.log`.
    ///
    /// # Errors
    /// If it does not become ready. The message contains the end of its log.
    pub fn start(installation: &Installation, binary: &Path, name: &str, args: &[&str]) -> Result<Self> {
        let mut operator = Self::spawn(installation, binary, name, args)?;
        // Long enough for a busy machine.
        let deadline = Instant::now() + Duration::from_secs(180);
        while let Err(error) = operator.probe("/readyz") {
            operator.process.check()?;
            if Instant::now() > deadline {
                return Err(error.context("the operator did not become ready"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // kube-apiserver observes the certificate authority asynchronously.
        eventually("admission answers", Duration::from_secs(180), || {
            installation.kubectl.run_with_input(&["create", "--dry-run=server", "-f", "-"], PROBE)
        })?;
        Ok(operator)
    }

    /// Starts the operator without waiting until it is ready.
    ///
    /// # Errors
    /// If the program can't be started.
    pub fn spawn(installation: &Installation, binary: &Path, name: &str, args: &[&str]) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let probes = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let own =
            ["run", "--listen", &address.to_string(), "--probe-listen", &probes.to_string(), "--tls-sans", "127.0.0.1"]
                .map(str::to_owned);

        let args: Vec<String> = own.into_iter().chain(args.iter().map(|arg| (*arg).to_owned())).collect();
        let mut command = Command::new(binary);
        // A short drain is enough: there is no Service whose endpoints must be updated first.
        command
            .env("KUBECONFIG", &installation.kubeconfig)
            .env("HOSTNAME", name)
            .env("ROSTER_DRAIN", "50ms")
            .env("ROSTER_ISSUER_URL", format!("https://localhost:{}", installation.balancer.port))
            .env("ROSTER_OIDC_AUDIENCES", OIDC_AUDIENCE)
            .args(&args);
        let command_line =
            format!("KUBECONFIG={} {} {}", installation.kubeconfig.display(), binary.display(), args.join(" "));
        let process = Process::spawn(name, command, installation.dir.join(format!("{name}.log")))?;
        installation.balancer.add(address);
        Ok(Self { process, address, probes, balancer: installation.balancer.clone(), command_line })
    }

    /// Returns the process ID.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Returns the URL of the TLS port.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Returns the URL of the probe port.
    pub fn probe_url(&self) -> String {
        format!("http://{}", self.probes)
    }

    /// Returns the path of the log.
    pub fn log(&self) -> &Path {
        &self.process.log
    }

    /// Sends a GET to the probe port, and returns the response body.
    ///
    /// # Errors
    /// If the status is not 200.
    pub fn probe(&self, path: &str) -> Result<String> {
        http_get(self.probes, path)
    }

    /// Returns whether the process is still running.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Sends SIGTERM without waiting.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn terminate(&self) -> Result<()> {
        Ok(self.process.signal(rustix::process::Signal::TERM)?)
    }

    /// Kills the operator, like a crash.
    pub fn kill(self) {
        self.balancer.remove(self.address);
        self.process.kill();
    }

    /// Stops the operator as Kubernetes does: sends SIGTERM and waits up to 30 s.
    ///
    /// # Errors
    /// If it has to be killed.
    pub fn stop(self) -> Result<()> {
        self.balancer.remove(self.address);
        self.process.stop(Duration::from_secs(30))
    }
}

/// Sends a GET over plain HTTP/1.1. A client library would be too much for the probes.
fn http_get(address: SocketAddr, path: &str) -> Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the response is not HTTP")?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}
