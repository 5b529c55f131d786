//! What people read about the chart: its README, and the table of its values.

use std::process::Command;

use roster_harness::project_root;

/// Pages that `charts/generate` writes.
const PAGES: [&str; 2] = ["charts/roster/README.md", "docs/reference/values.md"];

fn read(path: &str) -> String {
    std::fs::read_to_string(project_root().join(path)).unwrap()
}

#[test]
fn generated_pages_are_up_to_date() {
    let output = Command::new(project_root().join("charts/generate")).arg("--check").output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "run `make generate`:\n{}", String::from_utf8_lossy(&said));
}

/// helm-docs leaves the description empty if it cannot read a comment, for example because it contains `--` after a space
/// in its first line.
#[test]
fn every_value_has_a_description() {
    for page in PAGES {
        let text = read(page);
        let rows: Vec<&str> =
            text.lines().filter(|line| line.starts_with("| ") && !line.contains("| Type |")).collect();
        assert!(rows.len() > 30, "{page}");
        let silent: Vec<&&str> = rows.iter().filter(|row| row.ends_with("|  |")).collect();
        assert!(silent.is_empty(), "{page}: {silent:#?}");
    }
}

/// A test runs the commands of the page on installing.
#[test]
fn the_readme_has_the_commands_of_the_page_on_installing() {
    let (readme, page) = (read("charts/roster/README.md"), read("docs/how-to/install.md"));
    let blocks = readme.split("```").skip(1).step_by(2).map(|block| block.strip_prefix("sh\n").unwrap());
    let commands: Vec<&str> = blocks.flat_map(str::lines).collect();
    assert!(commands.len() > 4, "{commands:?}");
    for command in commands {
        assert!(page.contains(command), "{command} is not in docs/how-to/install.md");
    }
}
