//! What the examples and the documentation say, done.

use roster_harness::project_root;

use crate::support::{Cluster, FAST_LEASE};

#[test]
fn every_example_applies_and_every_step_of_the_tour_works() {
    let cluster = Cluster::create("documentation", &[]);
    cluster.start_operator(FAST_LEASE);
    let examples = project_root().join("examples");
    cluster.kubectl(&["apply", "--dry-run=server", "-f", examples.to_str().unwrap()]);
    let script = std::fs::read_to_string(examples.join("tour.sh")).unwrap();
    let path = std::env::join_paths(
        [&cluster.plane.kubectl.assets.kubectl, &cluster.plane.kubectl.assets.helm]
            .into_iter()
            .map(|tool| tool.parent().unwrap().to_owned())
            .chain([crate::support::binary().parent().unwrap().to_owned()])
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    )
    .unwrap();
    for line in script.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let output = std::process::Command::new("bash")
            .args(["-c", line])
            .current_dir(project_root())
            .env("PATH", &path)
            .env("KUBECONFIG", &cluster.plane.kubectl.kubeconfig)
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}
