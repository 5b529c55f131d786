//! Logins at the Service, and tokens at kube-apiserver.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use roster_harness::NodeCluster;
use roster_harness::control_plane::NAMESPACE;
use roster_harness::kubectl::eventually;
use serde_json::{Value, json};

use crate::shared::{Installed, Shared, TIMEOUT};

const USERNAME: &str = "jane";
const PASSWORD: &str = "correct horse battery staple";

/// A machine in the cluster's network: the first node.
pub(crate) struct Client<'a> {
    installed: &'a Installed,
    /// Address of the Service `roster`.
    service: String,
    /// Roster's authority.
    authority: PathBuf,
}

impl<'a> Client<'a> {
    pub(crate) fn new(installed: &'a Installed) -> Result<Self> {
        let address = ["get", "service", "roster", "-n", NAMESPACE, "-o", "jsonpath={.spec.clusterIP}"];
        let service = installed.cluster.kubectl.run(&address)?;
        Ok(Self { installed, service, authority: installed.cluster.dir.join("roster/ca.crt") })
    }

    /// Logs in at the Service, and returns the response.
    pub(crate) fn log_in(&self, username: &str, password: &str) -> Result<Value> {
        let login = json!({
            "apiVersion": "directory.roster.dev/v1alpha1", "kind": "Login",
            "spec": {"username": username, "password": password},
        });
        let host = format!("roster.{NAMESPACE}.svc");
        self.post(
            &["--cacert", &self.authority.to_string_lossy(), "--resolve", &format!("{host}:443:{}", self.service)],
            &format!("https://{host}/apis/directory.roster.dev/v1alpha1/logins"),
            &login,
        )
    }

    /// Logs in at the Service, and returns the token.
    pub(crate) fn token(&self, username: &str, password: &str) -> Result<String> {
        let login = self.log_in(username, password)?;
        Ok(login["status"]["token"].as_str().with_context(|| format!("no token: {login}"))?.to_owned())
    }

    /// Returns the user that kube-apiserver takes the holder of a token for.
    pub(crate) fn who_am_i(&self, token: &str) -> Result<Value> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let authority = self.installed.cluster.dir.join("pki/ca.crt");
        let response = self.post(
            &["--cacert", &authority.to_string_lossy(), "-H", &format!("authorization: Bearer {token}")],
            &format!("{}/apis/authentication.k8s.io/v1/selfsubjectreviews", NodeCluster::api_server()),
            &review,
        )?;
        let user = &response["status"]["userInfo"];
        ensure!(user.is_object(), "no user: {response}");
        Ok(user.clone())
    }

    fn post(&self, options: &[&str], url: &str, body: &Value) -> Result<Value> {
        let (curl, body) =
            (["curl", "-sS", "--max-time", "10", "-H", "content-type: application/json"], body.to_string());
        let response = self.installed.cluster.exec(1, &[&curl[..], options, &["-d", &body, url]].concat())?;
        serde_json::from_str(&response).with_context(|| response.clone())
    }
}

/// A User with a password logs in, and kube-apiserver authenticates the token by the webhook: name, groups and RBAC.
pub(crate) fn token_webhook(shared: &Shared) -> Result<()> {
    let shared = shared.get()?;
    let installed = shared.as_ref().context("the cluster runs")?;
    let kubectl = &installed.cluster.kubectl;
    kubectl.script("kubectl apply -f examples/user-with-password.yaml -f examples/group.yaml")?;
    kubectl.run(&["wait", "--for=condition=Ready", "users.roster.dev/jane", "--timeout=60s"])?;
    kubectl.run(&["create", "clusterrolebinding", "e2e-view", "--clusterrole=view", "--group=engineers"])?;

    let client = Client::new(installed)?;
    let refused = client.log_in(USERNAME, "wrong")?;
    ensure!(refused["code"] == 401, "a wrong password was accepted: {refused}");
    let token = client.token(USERNAME, PASSWORD)?;
    let user = eventually("kube-apiserver accepts the token", TIMEOUT, || client.who_am_i(&token))?;
    ensure!(user["username"] == USERNAME, "{user}");
    ensure!(user["groups"].as_array().is_some_and(|groups| groups.contains(&json!("engineers"))), "{user}");
    let jane = installed.cluster.kubectl_with_token(&token)?;
    jane.run(&["get", "pods", "-n", NAMESPACE])?;
    let forbidden = jane.run(&["get", "secrets", "-n", NAMESPACE]).err().context("view must not read Secrets")?;
    ensure!(forbidden.to_string().contains("Forbidden"), "{forbidden:#}");
    kubectl.run(&["delete", "clusterrolebinding", "e2e-view"])?;
    kubectl.script("kubectl delete -f examples/user-with-password.yaml -f examples/group.yaml").map(drop)
}
