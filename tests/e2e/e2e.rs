//! End-to-end tests: Roster in pods of a cluster with two nodes, installed and configured exactly as the documentation
//! says.
//!
//! The tests share one cluster and run one after the other. When they have ended, so has the cluster, and the last check
//! is that the machine is as it was before. They need root and the image from `make image`.

mod availability;
mod firewall;
mod install;
mod lifecycle;
mod load;
mod login;
mod machine;
mod network_policy;
mod outage;
mod quota;
mod shared;
mod workload;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};

use crate::machine::Machine;
use crate::shared::Shared;

/// A test, and its name.
type Test = (&'static str, fn(&Shared) -> Result<()>);

const TESTS: &[Test] = &[
    ("the_chart_installs_under_pod_security_restricted", install::restricted),
    ("helm_test_prints_the_log_of_the_check", install::helm_test),
    ("each_command_of_the_notes_works", install::notes),
    ("replicas_run_on_different_nodes", install::different_nodes),
    ("a_user_logs_in_and_kube_apiserver_accepts_the_token", login::token_webhook),
    ("quota_follows_running_pods", quota::running_pods),
    ("a_rolling_restart_fails_no_request", availability::rolling_restart),
    ("a_killed_replica_fails_no_request", availability::killed_replica),
    ("draining_each_node_fails_no_request", availability::drained_nodes),
    ("everything_works_with_the_network_policy_and_nothing_else", network_policy::enforced),
    ("a_namespace_deleted_during_an_outage_is_gone_after_it", outage::deleted_namespace),
    ("an_upgrade_and_a_rollback_fail_no_request", lifecycle::upgrade),
    ("people_log_in_after_a_reinstallation", lifecycle::reinstallation),
    ("a_crashed_node_fails_no_request", availability::crashed_node),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let before = Machine::observe(&shared::dir());
    let shared = Arc::new(Shared::default());
    let trials = TESTS.iter().map(|(name, test)| {
        let shared = Arc::clone(&shared);
        Trial::test(*name, move || {
            let begun = Instant::now();
            let result = test(&shared);
            // As the test runner of Rust reports times, for tests/slowest.
            println!("test {name} <{:.3}s>", begun.elapsed().as_secs_f64());
            Ok(result.map_err(|error| format!("{error:?}"))?)
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    drop(shared);
    let left = Machine::observe(&shared::dir()).difference(&before);
    if !left.is_empty() {
        eprintln!("the machine is not as it was before:\n{}", left.join("\n"));
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}
