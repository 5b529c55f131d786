//! Logins at the Service, and tokens at kube-apiserver.

use anyhow::{Context, Result, ensure};
use roster_harness::control_plane::NAMESPACE;
use roster_harness::kubectl::eventually;
use serde_json::{Value, json};

use crate::shared::{Installed, Shared, TIMEOUT};

const USERNAME: &str = "jane";
const PASSWORD: &str = "correct horse battery staple";

/// Logs in at the Service from a machine in the cluster's network, and returns the response.
fn log_in(installed: &Installed, password: &str) -> Result<Value> {
    let folder = installed.cluster.dir.join("roster");
    let file = folder.join("login.json");
    let login = json!({
        "apiVersion": "directory.roster.dev/v1alpha1", "kind": "Login",
        "spec": {"username": USERNAME, "password": password},
    });
    std::fs::write(&file, login.to_string())?;
    let jsonpath = "jsonpath={.spec.clusterIP}";
    let address = installed.cluster.kubectl.run(&["get", "service", "roster", "-n", NAMESPACE, "-o", jsonpath])?;
    let response = installed.cluster.exec(
        1,
        &[
            "curl",
            "-sS",
            "--max-time",
            "10",
            "--cacert",
            &folder.join("ca.crt").to_string_lossy(),
            "--resolve",
            &format!("roster.{NAMESPACE}.svc:443:{address}"),
            "-H",
            "content-type: application/json",
            "-d",
            &format!("@{}", file.display()),
            &format!("https://roster.{NAMESPACE}.svc/apis/directory.roster.dev/v1alpha1/logins"),
        ],
    )?;
    serde_json::from_str(&response).with_context(|| response.clone())
}

/// A User with a password logs in, and kube-apiserver authenticates the token by the webhook: name, groups and RBAC.
pub(crate) fn token_webhook(shared: &Shared) -> Result<()> {
    let shared = shared.get()?;
    let installed = shared.as_ref().context("the cluster runs")?;
    let kubectl = &installed.cluster.kubectl;
    kubectl.script("kubectl apply -f examples/user-with-password.yaml -f examples/group.yaml")?;
    kubectl.run(&["wait", "--for=condition=Ready", "users.roster.dev/jane", "--timeout=60s"])?;
    kubectl.run(&["create", "clusterrolebinding", "e2e-view", "--clusterrole=view", "--group=engineers"])?;

    let refused = log_in(installed, "wrong")?;
    ensure!(refused["code"] == 401, "a wrong password was accepted: {refused}");
    let login = log_in(installed, PASSWORD)?;
    let token = login["status"]["token"].as_str().with_context(|| format!("no token: {login}"))?;
    let jane = installed.cluster.kubectl_with_token(token)?;
    let who = eventually("kube-apiserver accepts the token", TIMEOUT, || {
        Ok(serde_json::from_str::<Value>(&jane.run(&["auth", "whoami", "-o", "json"])?)?)
    })?;
    let info = &who["status"]["userInfo"];
    ensure!(info["username"] == USERNAME, "{who}");
    ensure!(info["groups"].as_array().is_some_and(|groups| groups.contains(&json!("engineers"))), "{who}");
    jane.run(&["get", "pods", "-n", NAMESPACE])?;
    let forbidden = jane.run(&["get", "secrets", "-n", NAMESPACE]).err().context("view must not read Secrets")?;
    ensure!(forbidden.to_string().contains("Forbidden"), "{forbidden:#}");
    Ok(())
}
