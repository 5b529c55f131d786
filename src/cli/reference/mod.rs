//! `roster reference`: generates the pages of `docs/reference/api` from the CRDs, the OpenAPI document and the command line.

mod commands;
mod directory;
mod fields;
mod markdown;
mod resources;

use anyhow::Result;
use clap::{Command, CommandFactory};
use kubectl_roster::Plugin;
use roster_api::crd;
use roster_server::apiserver::openapi;

use super::generated::Args;

/// Writes, checks or prints the pages. `roster` is the command to document.
pub(super) fn execute(args: &Args, roster: Command) -> Result<()> {
    pages(roster)?.iter().try_for_each(|(name, content)| args.put(name, content))
}

/// Returns the file name and content of each page.
fn pages(roster: Command) -> Result<Vec<(String, String)>> {
    let mut pages = Vec::new();
    for definition in crd::all() {
        pages.push((format!("{}.md", definition.spec.names.plural), resources::page(&definition)?));
    }
    pages.push(("directory.md".to_owned(), directory::page(&openapi::document())));
    pages.push(("cli.md".to_owned(), commands::page(roster, Plugin::command())));
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_content_and_every_field_has_a_description() {
        for (name, content) in pages(crate::cli::Cli::command()).unwrap() {
            assert!(content.lines().count() > 20, "{name}");
            let silent: Vec<&str> =
                content.lines().filter(|line| line.starts_with("| `spec.") && line.ends_with("|  |")).collect();
            assert!(silent.is_empty(), "{name}: {silent:#?}");
        }
    }
}
