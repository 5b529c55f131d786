//! A control plane with Roster's chart, filled with users, groups and role bindings.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use hyper::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use roster_api::directory::{GROUP, VERSION};
use roster_harness::control_plane::NAMESPACE;
use roster_harness::{ControlPlane, Flags, Installation, Operator};
use serde_json::{Value, json};

use crate::load::{Server, address};
use crate::population::Population;

/// Number of concurrent writes. More do not increase the throughput of kube-apiserver.
const WRITERS: usize = 32;

const DECLARED: &str = "/apis/roster.dev/v1alpha1";

/// A control plane with Roster's chart.
pub(crate) struct Cluster {
    /// The control plane.
    pub plane: ControlPlane,
    /// A client as cluster administrator.
    pub client: Client,
    installation: Installation,
}

impl Cluster {
    /// Creates one in `dir`, with additional values of the chart.
    ///
    /// # Errors
    /// If it does not start.
    pub(crate) async fn create(dir: &Path, values: &[&str]) -> Result<Self> {
        if dir.exists() {
            std::fs::remove_dir_all(dir)?;
        }
        let plane = ControlPlane::start(dir, Flags::default())?;
        let installation = Installation::install(&plane, values)?;
        let kubeconfig = Kubeconfig::read_from(&plane.kubectl.kubeconfig)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Self { client: Client::try_from(config)?, plane, installation })
    }

    /// Starts an operator, and returns how long it took to become ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub(crate) async fn start_operator(&self, args: &[&str]) -> Result<(Operator, Duration)> {
        let binary = std::env::current_exe()?.with_file_name("roster");
        ensure!(binary.is_file(), "{} does not exist: build the operator with the same profile", binary.display());
        let start = Instant::now();
        let mut operator = Operator::spawn(&self.installation, &binary, "operator", args)?;
        while let Err(error) = operator.probe("/readyz") {
            ensure!(operator.is_running() && start.elapsed() < Duration::from_secs(120), error.context("not ready"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok((operator, start.elapsed()))
    }

    /// Waits until kube-apiserver calls the webhook that hashes passwords.
    ///
    /// # Errors
    /// If it does not within a minute.
    pub(crate) async fn wait_for_admission(&self) -> Result<()> {
        let [probe, _] = Population::with_password("probe", "password", "probe");
        let start = Instant::now();
        while let Err(error) = self.send("POST", "/api/v1/namespaces/default/secrets?dryRun=All", &probe).await {
            ensure!(start.elapsed() < Duration::from_secs(60), error.context("admission does not respond"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Gives the Lease to another holder, so that operators started afterwards do not become leader.
    ///
    /// # Errors
    /// If kube-apiserver rejects the request.
    pub(crate) fn hold_lease(&self) -> Result<()> {
        let held = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "roster", "namespace": NAMESPACE},
            "spec": {"holderIdentity": "bench", "leaseDurationSeconds": 86_400}});
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.plane.kubectl.run_with_input(&apply, &held.to_string()).map(drop)
    }

    /// Creates namespaces, groups and role bindings, and waits until the bindings are compiled.
    ///
    /// # Errors
    /// If kube-apiserver rejects one, or the bindings are not compiled in time.
    pub(crate) async fn add_groups(&self, population: Population) -> Result<()> {
        let namespace =
            |at| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": Population::namespace(at)}});
        self.create_all("/api/v1/namespaces", (0..population.namespaces()).map(namespace)).await?;
        let groups = (0..population.groups()).map(Population::group_object);
        self.create_all(&format!("{DECLARED}/groups"), groups).await?;
        let bindings = (0..population.bindings()).map(|at| population.binding(at));
        self.create_all(&format!("{DECLARED}/rolebindings"), bindings).await?;
        self.wait_until_ready("rolebindings", population.bindings(), Duration::from_secs(300)).await.map(drop)
    }

    /// Creates users with the status that the controllers would write.
    ///
    /// # Errors
    /// If kube-apiserver rejects one.
    pub(crate) async fn add_users(&self, population: Population) -> Result<()> {
        let writes = stream::iter(0..population.users).map(|at| {
            let (user, status) = population.user(at);
            async move {
                self.send("POST", &format!("{DECLARED}/users"), &user).await?;
                let path = format!("{DECLARED}/users/{}/status", Population::name(at));
                self.send("PATCH", &path, &status).await
            }
        });
        writes.buffer_unordered(WRITERS).try_collect().await
    }

    /// Creates objects, [`WRITERS`] at a time.
    ///
    /// # Errors
    /// If kube-apiserver rejects one.
    pub(crate) async fn create_all(&self, path: &str, objects: impl Iterator<Item = Value>) -> Result<()> {
        let writes = stream::iter(objects).map(|object| async move { self.send("POST", path, &object).await });
        writes.buffer_unordered(WRITERS).try_collect().await
    }

    /// Waits until `count` objects of a resource are Ready, and returns how long that took.
    ///
    /// # Errors
    /// If they are not Ready within `timeout`.
    pub(crate) async fn wait_until_ready(&self, plural: &str, count: u64, timeout: Duration) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let list: Value = self.get(&format!("{DECLARED}/{plural}?resourceVersion=0")).await?;
            let is_ready = |object: &&Value| {
                let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
                conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
            };
            let ready = list["items"].as_array().into_iter().flatten().filter(is_ready).count();
            if ready as u64 >= count {
                return Ok(start.elapsed());
            }
            ensure!(start.elapsed() < timeout, "{ready} of {count} {plural} are ready after {timeout:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Sends a write as cluster administrator.
    ///
    /// # Errors
    /// If kube-apiserver rejects it.
    pub(crate) async fn send(&self, method: &str, path: &str, body: &Value) -> Result<()> {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header("Content-Type", kind);
        self.client
            .request_text(request.body(body.to_string().into_bytes())?)
            .await
            .map(drop)
            .with_context(|| path.to_owned())
    }

    /// Sends a GET as cluster administrator.
    ///
    /// # Errors
    /// If kube-apiserver rejects it, or the response is not JSON.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        Ok(self.client.request(Request::get(path).body(Vec::new())?).await?)
    }

    /// Returns kube-apiserver, called as cluster administrator.
    ///
    /// # Errors
    /// If a certificate can't be read.
    pub(crate) fn api_server(&self) -> Result<Server> {
        let (ca, certificate, key) = (self.pki("ca.crt")?, self.pki("admin.crt")?, self.pki("admin.key")?);
        Server::new(address(&self.plane.url)?, &ca, Some((&certificate, &key)))
    }

    /// Returns Roster's own port, called as kube-apiserver does on behalf of an administrator.
    ///
    /// # Errors
    /// If a certificate can't be read.
    pub(crate) fn roster(&self, operator: &Operator) -> Result<Server> {
        let (ca, certificate, key) =
            (self.pki("roster-ca.crt")?, self.pki("front-proxy.crt")?, self.pki("front-proxy.key")?);
        let server = Server::new(address(&operator.url())?, &ca, Some((&certificate, &key)))?;
        Ok(server.with_headers(&[("x-remote-user", "admin"), ("x-remote-group", "system:masters")]))
    }

    /// Waits until kube-apiserver proxies requests to Roster.
    ///
    /// # Errors
    /// If it does not within two minutes.
    pub(crate) async fn wait_until_served(&self) -> Result<()> {
        let start = Instant::now();
        while let Err(error) = self.get(&format!("/apis/{GROUP}/{VERSION}/users?limit=1")).await {
            ensure!(start.elapsed() < Duration::from_secs(120), error.context("the aggregated API is not served"));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    fn pki(&self, file: &str) -> Result<String> {
        let path: PathBuf = self.plane.dir.join("pki").join(file);
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }
}
