//! A loop of writes and reads by kubectl, while something happens to the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};
use roster_harness::Kubectl;

/// Attempts of a client for each request. Between them it waits for a second, as controllers do.
const ATTEMPTS: u32 = 5;

/// Outcomes of a loop.
#[derive(Debug, Default)]
struct Outcomes {
    succeeded: u32,
    /// Errors of attempts that were retried.
    retried: Vec<String>,
    /// Last errors of requests whose attempts have all failed.
    failed: Vec<String>,
}

/// Loops that run until they are stopped.
pub(crate) struct Load {
    is_stopped: Arc<AtomicBool>,
    loops: Vec<(&'static str, JoinHandle<Outcomes>)>,
}

impl Load {
    /// Starts two loops: one writes a User and a Secret with a password, which the webhooks see; the other reads the
    /// directory through the aggregated API.
    pub(crate) fn start(kubectl: &Kubectl) -> Self {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let write = |kubectl: &Kubectl, number: u32| kubectl.apply(&manifest(number)).map(drop);
        let read = |kubectl: &Kubectl, _| kubectl.run(&["get", "users.directory.roster.dev", "-o", "name"]).map(drop);
        let run = |request: fn(&Kubectl, u32) -> Result<()>| {
            let (kubectl, is_stopped) = (kubectl.clone(), Arc::clone(&is_stopped));
            std::thread::spawn(move || repeat(&kubectl, request, &is_stopped))
        };
        let loops = vec![("writes", run(write)), ("reads", run(read))];
        Self { is_stopped, loops }
    }

    /// Stops the loops and checks that no request has failed for good.
    pub(crate) fn stop(self) -> Result<()> {
        self.is_stopped.store(true, Ordering::Relaxed);
        for (name, thread) in self.loops {
            let outcomes = thread.join().expect("a loop does not panic");
            println!("{} {name}, {} attempts retried", outcomes.succeeded, outcomes.retried.len());
            for error in &outcomes.retried {
                // kubectl prints what it applied before the reason.
                println!("  retried: {}", error.lines().last().unwrap_or_default());
            }
            ensure!(outcomes.failed.is_empty(), "{name} failed:\n{}", outcomes.failed.join("\n"));
            ensure!(outcomes.succeeded > 5, "too few {name} to prove anything: {}", outcomes.succeeded);
        }
        Ok(())
    }
}

fn repeat(kubectl: &Kubectl, request: fn(&Kubectl, u32) -> Result<()>, is_stopped: &AtomicBool) -> Outcomes {
    let mut outcomes = Outcomes::default();
    for number in 0.. {
        if is_stopped.load(Ordering::Relaxed) {
            break;
        }
        for attempt in 1..=ATTEMPTS {
            match request(kubectl, number) {
                Ok(()) => {
                    outcomes.succeeded += 1;
                    break;
                }
                Err(error) if attempt == ATTEMPTS => outcomes.failed.push(format!("{error:#}")),
                Err(error) => {
                    outcomes.retried.push(format!("{error:#}"));
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }
    outcomes
}

/// Objects that each write changes.
fn manifest(number: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: load-password\n  namespace: default\n  \
         annotations: {{roster.dev/user: load}}\ntype: roster.dev/password\nstringData: {{password: 'correct horse {number}'}}\n\
         ---\napiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {{name: load}}\n\
         spec: {{displayName: 'Load {number}', passwordSecretRef: {{namespace: default, name: load-password}}}}\n"
    )
}
