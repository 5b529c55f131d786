//! Commands and files from the documentation, so that a cluster is set up exactly as the documentation says.

use anyhow::{Context, Result};

use crate::paths::project_root;

/// Returns the first code block of a page that contains `text`.
///
/// # Errors
/// If the page has none.
pub fn code_block(page: &str, text: &str) -> Result<String> {
    let content = std::fs::read_to_string(project_root().join(page)).with_context(|| page.to_owned())?;
    let block = content.split("\n```").skip(1).step_by(2).find(|block| block.contains(text));
    let block = block.with_context(|| format!("{page} has no code block with {text}"))?;
    // The first line is the language.
    let (_, block) = block.split_once('\n').context("a code block has lines")?;
    Ok(block.to_owned())
}

/// Returns the commands, without their output, of the first `console` block of a page that contains `text`.
///
/// # Errors
/// If the page has none.
pub fn commands(page: &str, text: &str) -> Result<String> {
    let block = code_block(page, text)?;
    Ok(block.lines().filter_map(|line| line.strip_prefix("$ ")).collect::<Vec<_>>().join("\n"))
}
