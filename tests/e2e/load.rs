//! Loops of requests, while something happens to the cluster.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::login::Client;
use crate::shared::Installed;

/// Attempts of a client for each request. Between them it waits for a second, as controllers do.
const ATTEMPTS: u32 = 5;

/// Pause between two requests of a loop, so that the loops leave the cores to the cluster.
const PAUSE: Duration = Duration::from_millis(150);

/// Loops run for this long before and after what happens.
const MARGIN: Duration = Duration::from_secs(3);

const USERNAME: &str = "load-login";
const PASSWORD: &str = "correct horse battery staple";

/// Outcomes of a loop.
#[derive(Debug, Default)]
struct Outcomes {
    succeeded: u32,
    /// Errors of attempts that were retried.
    retried: Vec<String>,
    /// Last errors of requests whose attempts have all failed.
    failed: Vec<String>,
}

/// What the loops need.
struct Load<'a> {
    installed: &'a Installed,
    client: Client<'a>,
    /// Token of the latest login.
    token: Mutex<String>,
    is_stopped: AtomicBool,
}

/// Sends the request with this number.
type Request<'a> = fn(&Load<'a>, u32) -> Result<()>;

/// Sends requests while `disturb` runs, and checks that none has failed in all attempts: writes that the webhooks see,
/// reads of the directory through the aggregated API, logins at the Service, and requests to kube-apiserver with the
/// latest token, of which kube-apiserver sends TokenReviews.
pub(crate) fn during(installed: &Installed, disturb: impl FnOnce() -> Result<()>) -> Result<()> {
    let kubectl = &installed.cluster.kubectl;
    installed.wait_for_guard()?;
    kubectl.apply(&objects(0))?;
    kubectl.run(&["wait", "--for=condition=Ready", &format!("users.roster.dev/{USERNAME}"), "--timeout=60s"])?;
    let client = Client::new(installed)?;
    let token = Mutex::new(client.token(USERNAME, PASSWORD)?);
    let load = Load { installed, client, token, is_stopped: AtomicBool::new(false) };
    let requests: [(&str, Request<'_>); 4] = [
        ("writes", Load::write),
        ("reads", Load::read),
        ("logins", Load::log_in),
        ("requests with a token", Load::request_with_token),
    ];
    let (disturbed, outcomes) = std::thread::scope(|scope| {
        let loops: Vec<_> =
            requests.iter().map(|(name, request)| (name, scope.spawn(|| load.repeat(*request)))).collect();
        std::thread::sleep(MARGIN);
        let disturbed = disturb();
        std::thread::sleep(MARGIN);
        load.is_stopped.store(true, Ordering::Relaxed);
        let outcome = |(name, handle): (_, std::thread::ScopedJoinHandle<'_, Outcomes>)| {
            (name, handle.join().expect("a loop does not panic"))
        };
        (disturbed, loops.into_iter().map(outcome).collect::<Vec<_>>())
    });
    // What happened to the cluster explains requests that failed.
    disturbed?;
    outcomes.iter().try_for_each(|(name, outcomes)| outcomes.check(name))?;
    kubectl.run_with_input(&["delete", "-f", "-"], &objects(0)).map(drop)
}

impl<'a> Load<'a> {
    fn repeat(&self, request: Request<'a>) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for number in 1.. {
            if self.is_stopped.load(Ordering::Relaxed) {
                break;
            }
            outcomes.record(|| request(self, number));
            std::thread::sleep(PAUSE);
        }
        outcomes
    }

    fn write(&self, number: u32) -> Result<()> {
        self.installed.cluster.kubectl.apply(&objects(number)).map(drop)
    }

    fn read(&self, _: u32) -> Result<()> {
        self.installed.cluster.kubectl.run(&["get", "users.directory.roster.dev", "-o", "name"]).map(drop)
    }

    fn log_in(&self, _: u32) -> Result<()> {
        let token = self.client.token(USERNAME, PASSWORD)?;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
        Ok(())
    }

    fn request_with_token(&self, _: u32) -> Result<()> {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let user = self.client.who_am_i(&token)?;
        ensure!(user["username"] == USERNAME, "kube-apiserver takes {USERNAME} for {user}");
        Ok(())
    }
}

impl Outcomes {
    /// Sends a request until it succeeds or has failed too often.
    fn record(&mut self, request: impl Fn() -> Result<()>) {
        for attempt in 1..=ATTEMPTS {
            match request() {
                Ok(()) => {
                    self.succeeded += 1;
                    return;
                }
                Err(error) if attempt == ATTEMPTS => self.failed.push(format!("{error:#}")),
                Err(error) => {
                    self.retried.push(format!("{error:#}"));
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }

    fn check(&self, name: &str) -> Result<()> {
        println!("{} {name}, {} attempts retried", self.succeeded, self.retried.len());
        for error in &self.retried {
            // kubectl prints what it applied before the reason.
            println!("  retried: {}", error.lines().last().unwrap_or_default());
        }
        ensure!(self.failed.is_empty(), "{name} failed:\n{}", self.failed.join("\n"));
        ensure!(self.succeeded > 5, "too few {name} to prove anything: {}", self.succeeded);
        Ok(())
    }
}

/// A User that logs in, and a User and a Secret with a password that each write changes.
fn objects(number: u32) -> String {
    let user = |name: &str, display_name: &str, password: &str| {
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}-password\n  namespace: default\n  \
             annotations: {{roster.dev/user: {name}}}\ntype: roster.dev/password\nstringData: {{password: '{password}'}}\n\
             ---\napiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {{name: {name}}}\n\
             spec: {{displayName: '{display_name}', passwordSecretRef: {{namespace: default, name: {name}-password}}}}\n"
        )
    };
    user(USERNAME, "Load", PASSWORD) + &user("load", &format!("Load {number}"), &format!("correct horse {number}"))
}
