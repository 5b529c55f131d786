//! `kubectl roster` with the real kubectl, including the exec credential plugin.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::{PASSWORD, attempt, body, code, logins, own_status, person, post, token};
use crate::directory::Direct;
use crate::support::{Cluster, binary, eventually};

/// A user's workstation: kubectl with the plugin, its own home directory, and no credentials.
struct Workstation {
    dir: tempfile::TempDir,
    kubectl: PathBuf,
    path: String,
}

impl Workstation {
    fn new(cluster: &Cluster) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(binary(), dir.path().join("kubectl-roster")).unwrap();
        let kubectl = cluster.plane.kubectl.assets.kubectl.clone();
        let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap_or_default());
        let bare = cluster.plane.kubeconfig_for_token(&dir.path().join("config"), "nobody").unwrap();
        assert!(bare.exists());
        Self { dir, kubectl, path }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn output(&self, args: &[&str]) -> Output {
        let config = self.dir.path().join("config");
        Command::new(&self.kubectl)
            .env("PATH", &self.path)
            .env("HOME", self.dir.path())
            .env("XDG_CACHE_HOME", self.dir.path().join("cache"))
            .env("KUBECONFIG", config)
            .args(args)
            .output()
            .unwrap()
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Writes the kubeconfig that the plugin prints, and uses it.
    fn use_login(&self, username: &str, more: &[&str]) {
        let mut args = vec!["roster", "kubeconfig", "--username", username];
        args.extend(more);
        let snippet = self.run(&args);
        assert!(snippet.contains("client.authentication.k8s.io/v1"), "{snippet}");
        self.file("config", &snippet);
    }

    fn cached(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.dir.path().join("cache/roster")).into_iter().flatten().flatten();
        files.map(|file| file.path()).collect()
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_logs_in_with_password_and_code_and_uses_kubectl() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "desk", |_| {}).await;
    cluster.apply(&format!(
        "apiVersion: roster.dev/v1alpha1\nkind: RoleBinding\nmetadata: {{name: {name}}}\nspec:\n  \
         subjects: [{{kind: User, name: {name}}}]\n  roleRef: {{kind: ClusterRole, name: view}}\n  \
         scope: {{namespaces: [default]}}\n"
    ));
    // Enroll a second factor through the API. The login uses the code of the next period.
    let session = token(&direct, &name, PASSWORD).await;
    let enroll =
        async |spec: Value| post(&direct, "users/~/totp", Some(&session), &body("TOTPEnrollment", &spec)).await;
    let seed = enroll(json!({"currentPassword": PASSWORD})).await;
    let seed = seed.json()["status"]["enrollment"]["secret"].as_str().unwrap().to_owned();
    assert_eq!(enroll(json!({"code": code(&seed, 0)})).await.status, 201);

    let desk = Workstation::new(cluster);
    let password = desk.file("password", &format!("{PASSWORD}\n"));
    desk.use_login(&name, &["--password-file", &password]);
    // Log in once with the code. Afterwards kubectl finds the token in the cache.
    let context = ["roster", "login", "--username", &name, "--password-file", &password, "--code", &code(&seed, 1)];
    let credential: Value = serde_json::from_str(&desk.run(&context)).unwrap();
    assert_eq!(credential["kind"], "ExecCredential");
    assert!(credential["status"]["token"].as_str().unwrap().starts_with("ey"));
    let cached = desk.cached();
    assert_eq!(cached.len(), 1);
    assert_eq!((mode(&cached[0]), mode(cached[0].parent().unwrap())), (0o600, 0o700));

    let said: Value = serde_json::from_str(&desk.run(&["auth", "whoami", "-o", "json"])).unwrap();
    assert_eq!(said["status"]["userInfo"]["username"], json!(name));
    eventually("the binding is in force", || async {
        let output = desk.output(&["get", "pods", "-n", "default"]);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    })
    .await;

    let who = desk.run(&["roster", "whoami"]);
    assert!(who.contains(&name) && who.contains("Active"), "{who}");
    let who: Value = serde_json::from_str(&desk.run(&["roster", "whoami", "-o", "json"])).unwrap();
    assert_eq!(who["metadata"]["name"], json!(name));
    let can = desk.run(&["roster", "can-i", "list", "pods", "-n", "default"]);
    assert!(can.starts_with("yes") && can.contains("view"), "{can}");
    let cannot = desk.output(&["roster", "can-i", "delete", "nodes"]);
    assert_eq!(cannot.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&cannot.stdout).starts_with("no"));
    assert!(desk.run(&["roster", "totp", "status"]).to_lowercase().contains("enabled"));
    assert!(desk.run(&["roster", "quota"]).to_lowercase().contains("no quota"));
    assert!(desk.run(&["roster", "completion", "bash"]).contains("kubectl-roster"));

    // Create and use an API key. A session alone cannot create one.
    let refused = desk.output(&["roster", "keys", "create", "laptop"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("--password-file"), "{error}");
    let wrong = desk.file("wrong", "not the password\n");
    let refused = desk.output(&["roster", "keys", "create", "laptop", "--password-file", &wrong]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("spec.currentPassword"), "{error}");
    let key = desk.run(&["roster", "keys", "create", "laptop", "--expires-in", "30d", "--password-file", &password]);
    assert!(key.trim().starts_with("rstr_") && key.lines().count() == 1, "{key}");
    let list: Value = serde_json::from_str(&desk.run(&["roster", "keys", "list", "-o", "json"])).unwrap();
    let made = list["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    super::whoami(&super::kubectl_as(cluster, key.trim())).unwrap();
    desk.run(&["roster", "keys", "revoke", &made]);

    // Changing the password ends the session. The next login needs the new password and a code.
    let next = desk.file("next", "that is the question\n");
    desk.run(&["roster", "passwd", "--old-password-file", &password, "--new-password-file", &next]);
    let old = credential["status"]["token"].as_str().unwrap();
    eventually("the old session is over", || async {
        match own_status(&direct, old).await {
            401 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;
    let spec = json!({"username": name, "password": "that is the question"});
    assert_eq!(attempt(&direct, &spec).await.json()["status"]["challenge"], "Code");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_can_answers_an_administrator_and_a_wrong_password_is_reported() {
    let cluster = logins();
    let name = person(cluster, "answered", |_| {}).await;
    cluster.apply(&format!(
        "apiVersion: roster.dev/v1alpha1\nkind: RoleBinding\nmetadata: {{name: {name}}}\nspec:\n  \
         subjects: [{{kind: User, name: {name}}}]\n  roleRef: {{kind: ClusterRole, name: edit}}\n  \
         scope: {{namespaces: [default]}}\n"
    ));
    let desk = Workstation::new(cluster);
    let wrong = desk.file("wrong", "not the password\n");
    let refused = desk.output(&["roster", "login", "--username", &name, "--password-file", &wrong]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(error.contains("wrong") && refused.stdout.is_empty(), "{error}");

    std::fs::copy(&cluster.plane.kubectl.kubeconfig, desk.dir.path().join("config")).unwrap();
    eventually("who-can names the user", || async {
        let said = desk.run(&["roster", "who-can", "create", "deployments.apps", "-n", "default"]);
        if said.contains(&name) { Ok(()) } else { Err(said) }
    })
    .await;
    assert!(!desk.run(&["roster", "who-can", "create", "deployments.apps", "-n", "kube-system"]).contains(&name));
    let said = desk.run(&["roster", "can-i", "create", "deployments.apps", "-n", "default", "--user", &name]);
    assert!(said.starts_with("yes"), "{said}");
    // Reset the password and remove the second factor of a user who lost both.
    let next = desk.file("next", "that is the question\n");
    desk.run(&["roster", "passwd", &name, "--new-password-file", &next]);
    let spec = json!({"username": name, "password": "that is the question"});
    assert_eq!(attempt(&Direct::new(cluster, 0, None).await, &spec).await.status, 201);
}
