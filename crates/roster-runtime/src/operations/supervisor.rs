//! Supervises tasks, so that none ends unnoticed.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long tasks may take to stop after cancellation.
const GRACE: Duration = Duration::from_secs(20);

/// A group of tasks that run only together. If one ends before shutdown, by error, panic or return, the others are
/// stopped and the group fails, so that the process restarts instead of running without that task.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<(&'static str, Result<()>)>,
    shutdown: CancellationToken,
}

impl Supervisor {
    /// Returns the token that tells tasks to stop.
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Starts a task. It must end soon after the token is cancelled.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = Result<()>> + Send + 'static) {
        self.tasks.spawn(async move { (name, task.await) });
    }

    /// Waits until `stop` completes or a task ends, then stops the tasks.
    ///
    /// # Errors
    /// If a task ended early or failed while stopping.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<()> {
        let mut outcome = tokio::select! {
            () = stop => Ok(()),
            Some(ended) = self.tasks.join_next() => Err(premature(ended)),
        };
        self.shutdown.cancel();
        let drained = tokio::time::timeout(GRACE, async {
            while let Some(ended) = self.tasks.join_next().await {
                let result = ended
                    .map_err(|error| anyhow!("a task panicked: {error}"))
                    .and_then(|(name, result)| result.map_err(|error| error.context(format!("task {name}"))));
                if outcome.is_ok() {
                    outcome = result;
                }
            }
        });
        if drained.await.is_err() && outcome.is_ok() {
            outcome = Err(anyhow!("some tasks did not stop within {GRACE:?}"));
        }
        outcome
    }
}

fn premature(ended: Result<(&'static str, Result<()>), tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow!("task {name} ended unexpectedly"),
        Ok((name, Err(error))) => error.context(format!("task {name} failed")),
        Err(error) => anyhow!("a task panicked: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn until(token: CancellationToken) -> Result<()> {
        token.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn shutdown_stops_tasks_gracefully() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("a", until(supervisor.shutdown()));
        supervisor.spawn("b", until(supervisor.shutdown()));
        supervisor.run(async {}).await.unwrap();
    }

    #[tokio::test]
    async fn one_failed_task_stops_the_others_and_is_an_error() {
        for kind in 0..3 {
            let mut supervisor = Supervisor::default();
            supervisor.spawn("survivor", until(supervisor.shutdown()));
            supervisor.spawn("victim", async move {
                match kind {
                    0 => Ok(()),
                    1 => Err(anyhow!("broken")),
                    _ => panic!("boom"),
                }
            });
            let error = format!("{:#}", supervisor.run(std::future::pending()).await.unwrap_err());
            assert!(error.contains("victim") || error.contains("panicked"), "{error}");
        }
    }
}
