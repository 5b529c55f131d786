//! `roster reference`: the pages of `docs/reference/api`, read out of the types. What a page says is what kube-apiserver, the
//! aggregated API and the command line go by.

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

/// Writes, checks or prints the pages. `roster` is the command line that they describe.
pub(super) fn execute(args: &Args, roster: Command) -> Result<()> {
    pages(roster)?.iter().try_for_each(|(name, content)| args.put(name, content))
}

/// All pages: file name and content.
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
    fn no_page_is_empty_and_no_field_is_without_a_word() {
        for (name, content) in pages(crate::cli::Cli::command()).unwrap() {
            assert!(content.lines().count() > 20, "{name}");
            let silent: Vec<&str> =
                content.lines().filter(|line| line.starts_with("| `spec.") && line.ends_with("|  |")).collect();
            assert!(silent.is_empty(), "{name}: {silent:#?}");
        }
    }
}
