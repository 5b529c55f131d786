//! A control plane with Roster's chart, and people on it.

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

/// Writes at the same time: kube-apiserver gets no faster with more.
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
    /// A new one in `dir`, with further values of the chart.
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

    /// Starts an operator, and says how long it took until it was ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub(crate) async fn start_operator(&self, args: &[&str]) -> Result<(Operator, Duration)> {
        let binary = std::env::current_exe()?.with_file_name("roster");
        ensure!(binary.is_file(), "{} is not there: build it, in the same profile", binary.display());
        let start = Instant::now();
        let mut operator = Operator::spawn(&self.installation, &binary, "operator", args)?;
        while let Err(error) = operator.probe("/readyz") {
            ensure!(operator.is_running() && start.elapsed() < Duration::from_secs(120), error.context("not ready"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok((operator, start.elapsed()))
    }

    /// Waits until kube-apiserver has passwords replaced by their hashes.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) async fn wait_for_admission(&self) -> Result<()> {
        let [probe, _] = Population::with_password("probe", "password", "probe");
        let start = Instant::now();
        while let Err(error) = self.send("POST", "/api/v1/namespaces/default/secrets?dryRun=All", &probe).await {
            ensure!(start.elapsed() < Duration::from_secs(60), error.context("admission does not answer"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Makes the operators that follow lead nothing: another holder keeps the Lease.
    ///
    /// # Errors
    /// If kube-apiserver refuses.
    pub(crate) fn hold_the_lease(&self) -> Result<()> {
        let held = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "roster", "namespace": NAMESPACE},
            "spec": {"holderIdentity": "bench", "leaseDurationSeconds": 86_400}});
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.plane.kubectl.run_with_input(&apply, &held.to_string()).map(drop)
    }

    /// Makes namespaces, groups and role bindings, and waits until the bindings are compiled.
    ///
    /// # Errors
    /// If kube-apiserver refuses, or they are not compiled.
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

    /// Makes users with a status, as if the controllers had been there.
    ///
    /// # Errors
    /// If kube-apiserver refuses.
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

    /// Creates objects, as many at a time as kube-apiserver takes.
    ///
    /// # Errors
    /// If it refuses one.
    pub(crate) async fn create_all(&self, path: &str, objects: impl Iterator<Item = Value>) -> Result<()> {
        let writes = stream::iter(objects).map(|object| async move { self.send("POST", path, &object).await });
        writes.buffer_unordered(WRITERS).try_collect().await
    }

    /// Waits until that many objects of a resource are Ready, and says how long that took.
    ///
    /// # Errors
    /// If they don't become so.
    pub(crate) async fn wait_until_ready(&self, plural: &str, count: u64, patience: Duration) -> Result<Duration> {
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
            ensure!(start.elapsed() < patience, "{ready} of {count} {plural} are ready after {patience:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A write by the administrator.
    ///
    /// # Errors
    /// If kube-apiserver refuses it.
    pub(crate) async fn send(&self, method: &str, path: &str, body: &Value) -> Result<()> {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header("Content-Type", kind);
        self.client
            .request_text(request.body(body.to_string().into_bytes())?)
            .await
            .map(drop)
            .with_context(|| path.to_owned())
    }

    /// A read by the administrator.
    ///
    /// # Errors
    /// If kube-apiserver refuses it, or the answer is no JSON.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        Ok(self.client.request(Request::get(path).body(Vec::new())?).await?)
    }

    /// kube-apiserver, asked by the administrator.
    ///
    /// # Errors
    /// If a certificate can't be read.
    pub(crate) fn api_server(&self) -> Result<Server> {
        let (ca, certificate, key) = (self.pki("ca.crt")?, self.pki("admin.crt")?, self.pki("admin.key")?);
        Server::new(address(&self.plane.url)?, &ca, Some((&certificate, &key)))
    }

    /// Roster's own port, asked as kube-apiserver asks it on behalf of an administrator.
    ///
    /// # Errors
    /// If a certificate can't be read.
    pub(crate) fn roster(&self, operator: &Operator) -> Result<Server> {
        let (ca, certificate, key) =
            (self.pki("roster-ca.crt")?, self.pki("front-proxy.crt")?, self.pki("front-proxy.key")?);
        let server = Server::new(address(&operator.url())?, &ca, Some((&certificate, &key)))?;
        Ok(server.with_headers(&[("x-remote-user", "admin"), ("x-remote-group", "system:masters")]))
    }

    /// Waits until kube-apiserver passes requests on to Roster.
    ///
    /// # Errors
    /// If it does not.
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
