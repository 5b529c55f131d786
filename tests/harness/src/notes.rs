//! Follows the notes that Helm prints for a release.

use anyhow::{Result, ensure};

use crate::control_plane::NAMESPACE;
use crate::kubectl::Kubectl;

/// Runs each command of the notes of the release `roster`, and returns all that they print.
///
/// # Errors
/// If there is no command, or one fails. The message contains its output.
pub fn follow_notes(kubectl: &Kubectl) -> Result<String> {
    let commands = commands(&kubectl.helm(&["get", "notes", "roster", "-n", NAMESPACE])?);
    ensure!(!commands.is_empty(), "the notes contain no commands");
    let mut printed = String::new();
    for command in commands {
        let output = kubectl.bash(&format!("set -eu\n{command}"))?.output()?;
        let text = String::from_utf8([output.stdout, output.stderr].concat())?;
        ensure!(output.status.success(), "{command}: {text}");
        printed.push_str(&text);
    }
    Ok(printed)
}

/// The commands in Helm's notes: indented by two spaces, with here-documents.
fn commands(notes: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in notes.lines().filter_map(|line| line.strip_prefix("  ")) {
        if let Some(command) = commands.last_mut().filter(|_| is_open) {
            command.push('\n');
            command.push_str(line);
            is_open = line != "EOF";
        } else {
            commands.push(line.to_owned());
            is_open = line.ends_with("<<EOF");
        }
    }
    commands
}
