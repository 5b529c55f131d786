//! Control planes that several tests use at the same time, as long as they need them.

use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::support::Cluster;

/// How long a control plane without tests runs on. Running idle for three minutes takes as much CPU time as a start.
const IDLE: Duration = Duration::from_secs(30);

/// A control plane that starts when the first test needs it, and is stopped once no test has used it for a while. If
/// one needs it again, another one is started.
pub(crate) struct SharedCluster {
    create: fn() -> Cluster,
    state: Mutex<State>,
}

struct State {
    running: Option<&'static Cluster>,
    tests: usize,
    /// Number of times that a test began to use it.
    uses: usize,
}

thread_local! {
    /// What the test on this thread uses. Each test has a thread of its own, and ends with it.
    static USED: RefCell<Vec<Use>> = const { RefCell::new(Vec::new()) };
}

/// A test's use of a control plane. Dropping it ends the use.
struct Use(&'static SharedCluster);

impl SharedCluster {
    pub(crate) const fn new(create: fn() -> Cluster) -> Self {
        Self { create, state: Mutex::new(State { running: None, tests: 0, uses: 0 }) }
    }

    /// Returns the control plane, which runs at least until the thread ends.
    pub(crate) fn get(&'static self) -> &'static Cluster {
        let mut state = self.state();
        USED.with_borrow_mut(|used| {
            if used.iter().all(|other| !std::ptr::eq(other.0, self)) {
                used.push(Use(self));
                state.tests += 1;
                state.uses += 1;
            }
        });
        state.running.get_or_insert_with(|| Box::leak(Box::new((self.create)())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the control plane unless a test has used it since then.
    fn stop_if_idle(&self, uses: usize) {
        let mut state = self.state();
        if state.uses == uses
            && let Some(cluster) = state.running.take()
        {
            cluster.kill();
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let shared = self.0;
        let mut state = shared.state();
        state.tests -= 1;
        if state.tests == 0 {
            let uses = state.uses;
            std::thread::spawn(move || {
                std::thread::sleep(IDLE);
                shared.stop_if_idle(uses);
            });
        }
    }
}
