//! Shared by the tests: control planes with an operator, and helper functions.

use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use roster_api::condition::find;
use roster_api::user::PasswordSecretRef;
use roster_api::{PASSWORD_SECRET_TYPE, USER_ANNOTATION, User, UserSpec};
use roster_harness::kubectl::Pauses;
use roster_harness::{ControlPlane, Flags, Installation, Operator, Template, operator_under_test, target_dir};

use crate::shared_cluster::SharedCluster;

/// How long tests wait for things that should happen at once. Machines are slow and noisy, and no test asserts speed.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(180);

/// A control plane with Roster's chart, and its operators.
pub(crate) struct Cluster {
    pub plane: ControlPlane,
    pub installation: Installation,
    pub operators: Mutex<Vec<Operator>>,
}

/// Path of the program under test.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| operator_under_test(env!("CARGO_BIN_EXE_roster")))
}

impl Cluster {
    /// Creates a control plane without an operator.
    pub(crate) fn create(name: &str, values: &[&str]) -> Self {
        Self::create_with(name, values, Flags::default())
    }

    /// Like [`Cluster::create`], with additional flags of the Kubernetes components.
    pub(crate) fn create_with(name: &str, values: &[&str], flags: Flags<'_>) -> Self {
        let dir = target_dir().join("tests").join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).expect("the folder of an earlier run can be removed");
        }
        let plane = ControlPlane::start_from(Some(template()), &dir, flags).expect("the control plane starts");
        let installation = Installation::install(&plane, values).expect("the chart installs");
        Self { plane, installation, operators: Mutex::default() }
    }

    /// Starts another operator.
    pub(crate) fn start_operator(&self, args: &[&str]) {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let name = format!("operator-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let operator = Operator::start(&self.installation, binary(), &name, args).expect("the operator starts");
        self.operators().push(operator);
    }

    pub(crate) fn operators(&self) -> MutexGuard<'_, Vec<Operator>> {
        self.operators.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills all processes.
    pub(crate) fn kill(&self) {
        self.operators().drain(..).for_each(Operator::kill);
        self.plane.kill();
    }

    /// Returns a client with cluster administrator permissions.
    pub(crate) async fn client(&self) -> Client {
        static PROVIDER: OnceLock<()> = OnceLock::new();
        PROVIDER.get_or_init(|| {
            rustls::crypto::aws_lc_rs::default_provider().install_default().expect("no other provider is installed");
        });
        let kubeconfig = Kubeconfig::read_from(&self.plane.kubectl.kubeconfig).expect("the kubeconfig can be read");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .expect("the kubeconfig is valid");
        Client::try_from(config).expect("the configuration is valid")
    }

    pub(crate) async fn users(&self) -> Api<User> {
        Api::all(self.client().await)
    }

    pub(crate) async fn secrets(&self, namespace: &str) -> Api<Secret> {
        Api::namespaced(self.client().await, namespace)
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        self.plane.kubectl.run(args).unwrap_or_else(|error| panic!("{error:#}"))
    }

    pub(crate) fn apply(&self, manifest: &str) -> String {
        self.plane.kubectl.apply(manifest).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Returns the logs of all operators, including stopped ones.
    pub(crate) fn operator_logs(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(&self.plane.dir).expect("the folder can be read").flatten();
        files.map(|file| file.path()).filter(|path| path.to_string_lossy().contains("operator-")).collect()
    }
}

/// The template of control planes.
fn template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE
        .get_or_init(|| Installation::template(&target_dir().join("tests")).expect("the first control plane starts"))
}

/// Shared control plane for tests that use unique names and do not stop operators.
pub(crate) fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| {
        let cluster = Cluster::create("shared", &[]);
        cluster.start_operator(&[]);
        cluster
    })
}

/// Shared control plane without the admission webhook, so that plaintext and invalid data reach the controller.
pub(crate) fn without_admission() -> &'static Cluster {
    static WITHOUT_ADMISSION: SharedCluster = SharedCluster::new(|| {
        let cluster = Cluster::create("without-admission", &["passwordAdmission=false"]);
        cluster.start_operator(&[]);
        cluster
    });
    WITHOUT_ADMISSION.get()
}

/// Shared control plane on which Roster may also bind the Role `deployer`, for tests of groups and bindings.
pub(crate) fn rbac() -> &'static Cluster {
    static RBAC: OnceLock<Cluster> = OnceLock::new();
    RBAC.get_or_init(|| {
        let cluster = Cluster::create("rbac", &["bindableRoles={deployer}"]);
        let lockout = ["--lockout-user-threshold", "6", "--lockout-duration", "6s", "--trusted-proxies", "127.0.0.0/8"];
        cluster.start_operator(&[&["--bindable-roles", "deployer"], &lockout[..]].concat());
        cluster
    })
}

/// Flags for a kube-apiserver without streaming lists, as in Kubernetes 1.33.
pub(crate) const WITHOUT_STREAMING_LISTS: Flags<'_> =
    Flags { api_server: &["--feature-gates=WatchList=false"], controller_manager: &[] };

/// Flags for short leases, for tests in which leaders change. Not shorter, because kube-apiserver may take seconds to
/// respond while other tests run on the same cores.
pub(crate) const FAST_LEASE: &[&str] = &["--lease-duration", "6s", "--renew-deadline", "5s", "--retry-period", "200ms"];

/// Returns a name that no other test uses.
pub(crate) fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A small random number generator, so that a failing run can be repeated from its seed.
pub(crate) struct Random(pub u64);

impl Random {
    /// Returns a number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Chooses when to kill an operator, so that the kills of many rounds hit every part of its work on a machine of any
/// speed: within twice the duration of the last uninterrupted work.
#[derive(Default)]
pub(crate) struct KillSchedule {
    work: Duration,
}

impl KillSchedule {
    /// Returns whether the operator of that round is not killed, to measure its work for
    /// [`KillSchedule::note_duration`].
    pub(crate) fn is_uninterrupted(round: u64) -> bool {
        round.is_multiple_of(20)
    }

    /// Records that an operator that began then has just completed its work.
    pub(crate) fn note_duration(&mut self, begun: Instant) {
        self.work = begun.elapsed();
    }

    /// Returns when to kill an operator that began then.
    pub(crate) fn at(&self, begun: Instant, random: &mut Random) -> Instant {
        begun + self.work.mul_f64(2.0 * f64::from(u32::try_from(random.below(1000)).expect("a small number")) / 1000.0)
    }
}

/// Retries `probe` until it succeeds.
pub(crate) async fn eventually<T, F: Future<Output = Result<T, String>>>(what: &str, probe: impl FnMut() -> F) -> T {
    eventually_within(TIMEOUT, what, probe).await
}

/// Like [`eventually`], for things that take longer for reasons outside Roster.
pub(crate) async fn eventually_within<T, F: Future<Output = Result<T, String>>>(
    timeout: Duration,
    what: &str,
    mut probe: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + timeout;
    let mut pauses = Pauses::default();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(last) if Instant::now() > deadline => panic!("{what}: not within {timeout:?}; last seen: {last}"),
            Err(_) => tokio::time::sleep(pauses.next()).await,
        }
    }
}

/// Waits until `accept` returns true for the User.
pub(crate) async fn user_where(users: &Api<User>, name: &str, what: &str, accept: impl Fn(&User) -> bool) -> User {
    eventually(&format!("{name}: {what}"), || async {
        let user = users.get_opt(name).await.map_err(|error| error.to_string())?.ok_or("it does not exist")?;
        if accept(&user) { Ok(user) } else { Err(format!("{:?}", user.status)) }
    })
    .await
}

/// Waits until the condition has that reason for the current generation.
pub(crate) async fn wait_for_reason(users: &Api<User>, name: &str, kind: &str, reason: &str) -> User {
    user_where(users, name, reason, |user| {
        condition(user, kind).is_some_and(|c| c.reason == reason && c.observed_generation == user.metadata.generation)
    })
    .await
}

pub(crate) async fn wait_until_ready(users: &Api<User>, name: &str) -> User {
    wait_for_reason(users, name, "Ready", "Succeeded").await
}

pub(crate) fn condition<'a>(
    user: &'a User,
    kind: &str,
) -> Option<&'a k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    find(&user.status.as_ref()?.conditions, kind)
}

/// Returns a User, which refers to a password Secret of the same name in the namespace `default` if `password` is set.
pub(crate) fn user(name: &str, with_password: bool) -> User {
    let reference = PasswordSecretRef { namespace: "default".into(), name: name.into() };
    User::new(name, UserSpec { password_secret_ref: with_password.then_some(reference), ..UserSpec::default() })
}

/// Returns a password Secret in the namespace `default` for the User of the same name.
pub(crate) fn password_secret(name: &str, key: &str, value: impl AsRef<[u8]>) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".into()),
            annotations: Some([(USER_ANNOTATION.to_owned(), name.to_owned())].into()),
            ..ObjectMeta::default()
        },
        type_: Some(PASSWORD_SECRET_TYPE.to_owned()),
        data: Some([(key.to_owned(), ByteString(value.as_ref().to_vec()))].into()),
        ..Secret::default()
    }
}

pub(crate) async fn create<K>(api: &Api<K>, object: &K) -> K
where
    K: Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    api.create(&PostParams::default(), object).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until `kubectl get` returns the text at the path.
pub(crate) async fn wait_for_text(cluster: &Cluster, object: &[&str], path: &str, expected: &str) {
    eventually(&format!("{object:?} {path} is {expected:?}"), || async {
        let path = format!("jsonpath={path}");
        let args: Vec<&str> = ["get"].into_iter().chain(object.iter().copied()).chain(["-o", &path]).collect();
        let found = cluster.plane.kubectl.run(&args).map_err(|error| error.to_string())?;
        if found == expected { Ok(()) } else { Err(format!("it is {found:?}")) }
    })
    .await;
}

/// Waits until `kubectl auth can-i` returns that answer for the User. The groups are those in its status, as an
/// authenticator would report them.
pub(crate) async fn wait_until_can(cluster: &Cluster, user: &str, question: &[&str], expected: bool) {
    eventually(&format!("{user} {question:?} is {expected}"), || async {
        if can(cluster, user, question) == expected { Ok(()) } else { Err(format!("it is {}", !expected)) }
    })
    .await;
}

/// Returns the answer of `kubectl auth can-i` for the User.
pub(crate) fn can(cluster: &Cluster, user: &str, question: &[&str]) -> bool {
    let kubectl = &cluster.plane.kubectl;
    // An old token of a deleted User would still have the name.
    let groups =
        kubectl.run(&["get", "users.roster.dev", user, "-o", "jsonpath={.status.groups[*]}"]).unwrap_or_default();
    let mut args = vec!["auth", "can-i", "--as", user];
    args.extend(groups.split_whitespace().flat_map(|group| ["--as-group", group]));
    args.extend(question);
    String::from_utf8_lossy(&kubectl.output(&args, "").expect("kubectl runs").stdout).trim() == "yes"
}

/// Returns the hash that logins of `user` are verified against, from Roster's namespace.
pub(crate) async fn stored_hash(cluster: &Cluster, user: &User) -> Option<String> {
    use roster_credentials::claim::{Identifier, IdentifierKind};
    let identifier = Identifier { kind: IdentifierKind::Username, text: user.username() };
    let secret = cluster
        .secrets("roster-system")
        .await
        .get_opt(&identifier.secret_name())
        .await
        .expect("Secrets can be read")?;
    let hash = secret.data?.get("passwordHash")?.0.clone();
    Some(String::from_utf8(hash).expect("a hash is text"))
}

/// Returns the operator's writes since byte `from` of the audit log: verb and path of each.
pub(crate) fn operator_writes(cluster: &Cluster, from: u64) -> Vec<String> {
    operator_requests(cluster, from).into_iter().filter(|request| !request.starts_with("list ")).collect()
}

/// Like [`operator_writes`], but also returns paged lists.
pub(crate) fn operator_requests(cluster: &Cluster, from: u64) -> Vec<String> {
    operator_events(cluster, from)
        .into_iter()
        .filter(|event| event["stage"] == "ResponseComplete" && event["verb"] != "get" && event["verb"] != "watch")
        .map(|event| {
            format!(
                "{} {}",
                event["verb"].as_str().unwrap_or_default(),
                event["requestURI"].as_str().unwrap_or_default()
            )
        })
        .collect()
}

/// Returns whether the operator has received a streaming list since byte `from` of the audit log.
pub(crate) fn has_streamed(cluster: &Cluster, from: u64, path: &str) -> bool {
    operator_events(cluster, from).iter().any(|event| {
        let uri = event["requestURI"].as_str().unwrap_or_default();
        let is_begun = event["stage"] == "ResponseStarted" && event["responseStatus"]["code"] == 200;
        is_begun && uri.contains(path) && uri.contains("sendInitialEvents=true")
    })
}

/// Returns the operator's events since byte `from` of the audit log. Watches are logged when they begin and when they
/// end.
pub(crate) fn operator_events(cluster: &Cluster, from: u64) -> Vec<serde_json::Value> {
    cluster.plane.operator_events(from).expect("the audit log can be read")
}

pub(crate) fn audit_position(cluster: &Cluster) -> u64 {
    cluster.plane.audit_position().expect("the audit log exists")
}

/// Runs a Python script with the packages of `tests/requirements.txt`. It reads `given` from its standard input, as JSON,
/// and prints the result.
pub(crate) fn run_python(script: &str, given: &serde_json::Value) -> serde_json::Value {
    let python = roster_harness::python_with_packages().expect("Python is installed");
    let mut child =
        Command::new(python).args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(given.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the script failed; its output is above");
    serde_json::from_slice(&output.stdout).unwrap()
}
