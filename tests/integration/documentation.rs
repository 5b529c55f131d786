//! Runs the commands of the examples and the documentation, and compares their output with the pages.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

use roster_core::directory::entries;
use roster_core::directory::index::field::{Field, FieldKind};
use roster_harness::{project_root, python_with_packages};

use crate::shared_cluster::SharedCluster;
use crate::support::{Cluster, binary};

/// One cluster for all pages, one page at a time. Each begins without users.
fn on_a_clean_cluster(run: impl FnOnce(&Cluster)) {
    static CLUSTER: SharedCluster = SharedCluster::new(|| {
        let cluster = Cluster::create("documentation", &[]);
        cluster.start_operator(&[]);
        crate::directory::wait_until_served(&cluster);
        cluster
    });
    static PAGE: Mutex<()> = Mutex::new(());
    let cluster = CLUSTER.get();
    let _page = PAGE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // Delete it first: it may have an owner, whose deletion would wait for it.
    cluster.kubectl(&["delete", "namespace", "apollo", "gemini", "--ignore-not-found"]);
    cluster.kubectl(&["delete", "users.roster.dev,groups.roster.dev,rolebindings.roster.dev", "--all"]);
    cluster.kubectl(&["delete", "secrets", "-n", "default", "--field-selector=type=roster.dev/password"]);
    // Delete cached tokens of deleted users with the same names.
    let _ = std::fs::remove_dir_all(cluster.plane.dir.join("home/.cache"));
    run(cluster);
}

fn shell(cluster: &Cluster, command: &str) -> Output {
    let assets = &cluster.plane.kubectl.assets;
    let own = [&assets.kubectl, &assets.helm].map(|tool| tool.parent().unwrap().to_owned());
    let tools = own.into_iter().chain([binary().parent().unwrap().to_owned()]);
    let home = cluster.plane.dir.join("home");
    let plugin = home.join("bin/kubectl-roster");
    if !plugin.exists() {
        std::fs::create_dir_all(plugin.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(binary(), &plugin).unwrap();
    }
    let tools = [home.join("bin")].into_iter().chain(tools);
    let path = std::env::join_paths(tools.chain(std::env::split_paths(&std::env::var_os("PATH").unwrap()))).unwrap();
    let (url, probe_url) = {
        let operators = cluster.operators();
        (operators[0].url(), operators[0].probe_url())
    };
    Command::new("bash")
        .args(["-c", command])
        .current_dir(project_root())
        .env("PATH", path)
        .env("KUBECONFIG", &cluster.plane.kubectl.kubeconfig)
        .env("HOME", &home)
        .env_remove("XDG_CACHE_HOME")
        .env("ROSTER_URL_1", url)
        .env("ROSTER_PROBE_URL_1", probe_url)
        .env("ROSTER_CA", cluster.plane.dir.join("pki/roster-ca.crt"))
        .output()
        .unwrap()
}

fn stdout(cluster: &Cluster, command: &str) -> String {
    let output = shell(cluster, command);
    assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns whether `line` matches `pattern`, in which `…` stands for any text.
fn matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = pattern.contains('…').then(|| pattern.rsplit('…').next().unwrap_or_default()) else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    line.ends_with(last)
}

#[test]
fn an_ellipsis_matches_anything_and_nothing_else_does() {
    assert!(matches("a … c", "a b c") && matches("a…", "abc") && matches("abc", "abc"));
    assert!(!matches("a … c", "a b d") && !matches("ab", "abc") && !matches("abc", "ab"));
}

/// Runs the `$` lines of a page's `console` blocks and compares what follows each with its output.
fn follow(cluster: &Cluster, page: &str) {
    let text = std::fs::read_to_string(project_root().join(page)).unwrap();
    let mut commands = 0;
    for block in text.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap();
        for step in block.split("$ ").skip(1) {
            let (command, expected) = step.split_once('\n').unwrap_or((step, ""));
            // A hash begins with `$` too, but not with `$ `; a step begins at the start of a line.
            let printed = stdout(cluster, command);
            let (expected, printed): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), printed.lines().collect());
            let same =
                expected.len() == printed.len() && expected.iter().zip(&printed).all(|(e, p)| matches(e, p.trim_end()));
            assert!(same, "{page}: {command}\nthe page shows: {expected:#?}\nit prints: {printed:#?}");
            commands += 1;
        }
    }
    assert!(commands > 0, "{page} has no commands");
}

#[test]
fn readme_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "README.md"));
}

#[test]
fn the_tutorial_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "docs/tutorials/getting-started.md"));
}

#[test]
fn the_page_on_groups_and_bindings_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "docs/how-to/groups-and-bindings.md"));
}

#[test]
fn the_page_on_the_directory_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "docs/how-to/directory.md"));
}

/// Returns the table of a resource's fields, as the page must show it.
fn field_table(fields: &[Field]) -> String {
    let row = |field: &Field| {
        let values = match field.kind {
            FieldKind::Text if field.is_many => "texts".to_owned(),
            FieldKind::Text => "text".to_owned(),
            FieldKind::Choice(words) => words.join(", "),
            FieldKind::Flag => "true, false".to_owned(),
            FieldKind::Number => "number".to_owned(),
            FieldKind::Quantity => "quantity".to_owned(),
            FieldKind::Time => "time".to_owned(),
        };
        let sortable = if field.is_sortable { "yes" } else { "" };
        format!("| `{}` | `{}` | {values} | {sortable} |\n", field.name, field.path)
    };
    let rows: Vec<String> = fields.iter().map(row).collect();
    format!("| name | path | values | sortable |\n| --- | --- | --- | --- |\n{}", rows.concat())
}

#[test]
fn the_page_on_the_directory_lists_every_field() {
    let page = std::fs::read_to_string(project_root().join("docs/how-to/directory.md")).unwrap();
    for (resource, fields) in [("users", entries::user::FIELDS), ("groups", entries::group::FIELDS)] {
        let table = page.split(&format!("<!-- {resource} -->\n")).nth(1).unwrap().split("<!-- end -->").next().unwrap();
        let expected = field_table(fields);
        assert!(
            table == expected,
            "docs/how-to/directory.md must list the fields of {resource} as follows:\n{expected}"
        );
    }
}

#[test]
fn the_page_on_the_guard_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "docs/explanation/guard.md"));
}

#[test]
fn the_page_on_namespaces_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "docs/how-to/namespaces.md"));
}

#[test]
fn the_page_on_quota_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "docs/how-to/quota.md"));
}

#[test]
fn the_page_on_passwords_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "docs/reference/passwords.md"));
}

#[test]
fn the_page_on_import_shows_what_happens() {
    // Delete files of an earlier run, which would be reported as unchanged.
    for folder in ["target/people", "target/users", "target/two", "target/shoes", "target/all-users"] {
        let _ = std::fs::remove_dir_all(project_root().join(folder));
    }
    on_a_clean_cluster(|cluster| follow(cluster, "docs/how-to/import.md"));
}

#[test]
fn the_page_on_logins_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "docs/how-to/logins.md"));
}

#[test]
fn the_page_on_tokens_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "docs/how-to/tokens.md"));
}

#[test]
fn the_page_on_the_kubectl_plugin_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "docs/how-to/kubectl-plugin.md"));
}

#[test]
fn the_page_on_notifications_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "docs/how-to/notifications.md"));
}

#[test]
fn the_page_on_operations_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "docs/reference/operations.md"));
}

#[test]
fn the_page_on_troubleshooting_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "docs/how-to/troubleshooting.md"));
}

#[test]
fn the_page_on_installing_shows_what_happens() {
    // A separate cluster, because everything is deleted at the end.
    let cluster = Cluster::create("installing", &[]);
    cluster.start_operator(&[]);
    crate::directory::wait_until_served(&cluster);
    follow(&cluster, "docs/how-to/install.md");
}

#[test]
fn the_page_on_gitops_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "docs/how-to/gitops.md"));
}

#[test]
fn the_page_on_backup_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "docs/how-to/backup.md"));
}

#[test]
fn the_page_on_managed_clusters_shows_what_happens() {
    on_a_clean_cluster(|cluster| follow(cluster, "docs/how-to/managed-clusters.md"));
}

/// On a separate cluster: afterwards, the keys that kube-apiserver was started with are no longer trusted.
#[test]
fn the_page_on_rotation_shows_what_happens() {
    let cluster = Cluster::create("rotation", &[]);
    cluster.start_operator(&[]);
    crate::directory::wait_until_served(&cluster);
    follow(&cluster, "docs/how-to/rotation.md");
}

/// Adds the files below a folder that have this extension.
fn collect(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for path in std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect(&path, extension, found);
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
}

/// Returns every Markdown page, relative to the root folder: those in that folder, the README of the chart, and all of
/// `docs`, including generated pages.
fn pages() -> Vec<String> {
    let root = project_root();
    let mut pages = vec![root.join("charts/roster/README.md")];
    let top = std::fs::read_dir(&root).unwrap().flatten().map(|entry| entry.path());
    pages.extend(top.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    collect(&root.join("docs"), "md", &mut pages);
    pages.iter().map(|page| page.strip_prefix(&root).unwrap().display().to_string()).collect()
}

#[test]
fn every_page_with_commands_is_followed_by_a_test() {
    let tests = include_str!("documentation.rs");
    for name in pages() {
        let text = std::fs::read_to_string(project_root().join(&name)).unwrap();
        let is_followed = tests.contains(&format!("follow(cluster, \"{name}\")"))
            || tests.contains(&format!("follow(&cluster, \"{name}\")"));
        assert!(!text.contains("\n```console\n") || is_followed, "no test runs the commands of {name}");
    }
}

#[test]
fn the_threat_model_names_existing_tests() {
    let mut files = Vec::new();
    for folder in ["crates", "src", "tests/integration"] {
        collect(&project_root().join(folder), "rs", &mut files);
    }
    let sources: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let page = std::fs::read_to_string(project_root().join("docs/explanation/security.md")).unwrap();
    let named: Vec<&str> = page.split('`').skip(1).step_by(2).filter(|code| code.matches('_').count() > 2).collect();
    assert!(named.len() > 15, "{named:?}");
    for name in named {
        assert!(sources.contains(&format!("fn {name}(")), "docs/explanation/security.md: there is no test {name}");
    }
}

#[test]
fn every_row_of_the_coverage_table_works() {
    on_a_clean_cluster(|cluster| {
        stdout(
            cluster,
            "kubectl apply -f examples/ && kubectl wait --for=condition=Ready users.roster.dev --all --timeout=60s",
        );
        let table = std::fs::read_to_string(project_root().join("docs/reference/coverage.md")).unwrap();
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
        assert!(rows.len() > 10);
        for row in rows {
            let id = row.split('|').nth(1).unwrap().trim();
            let command = row.split('`').nth(1).unwrap();
            let printed = stdout(cluster, command);
            assert!(!printed.trim().is_empty(), "{id}: {command} prints nothing");
        }
    });
}

#[test]
fn every_step_of_the_tour_works() {
    on_a_clean_cluster(|cluster| {
        let script = std::fs::read_to_string(project_root().join("examples/tour.sh")).unwrap();
        for line in script.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            stdout(cluster, line);
        }
    });
}

/// Checks the links between these files, including their anchors, and returns what is wrong with them.
fn check_links(files: impl IntoIterator<Item: AsRef<OsStr>>) -> Result<(), String> {
    let lychee = python_with_packages().unwrap().with_file_name("lychee");
    let mut command = Command::new(lychee);
    command.args(["--offline", "--include-fragments", "--no-progress", "--"]).args(files).current_dir(project_root());
    let output = command.output().unwrap();
    output.status.success().then_some(()).ok_or_else(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn links_between_pages_have_targets() {
    check_links(pages()).unwrap_or_else(|complaints| panic!("{complaints}"));
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.md");
    std::fs::write(&page, "# The page\n[file](none.md) [heading](#none) [itself](#the-page)\n").unwrap();
    let complaints = check_links([page]).expect_err("two links have no target");
    assert!(["/none.md ", "/page.md#none ", "2 Errors"].iter().all(|part| complaints.contains(part)), "{complaints}");
}

/// mdBook shows only the pages that the summary lists.
#[test]
fn the_summary_lists_every_page_once() {
    let summary = std::fs::read_to_string(project_root().join("docs/SUMMARY.md")).unwrap();
    let links = summary.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    let mut listed: Vec<String> = links.map(|link| format!("docs/{link}")).collect();
    let mut expected = pages();
    expected.retain(|page| page.starts_with("docs/") && page != "docs/SUMMARY.md");
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
}
