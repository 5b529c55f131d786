//! Reference page of the command line, from the clap commands.

use clap::{Arg, Command};

use super::markdown::{code, head, table};

pub(super) fn page(roster: Command, plugin: Command) -> String {
    let mut parts = vec![
        head("Command line"),
        "\nOne program with two names: `roster`, and `kubectl roster` if it is installed as `kubectl-roster`. Flags take precedence\n\
         over environment variables, which take precedence over defaults.\n"
            .to_owned(),
    ];
    for (name, mut command) in [("roster", roster), ("kubectl roster", plugin)] {
        command.build();
        section(name, &command, &mut parts);
    }
    parts.concat()
}

fn section(path: &str, command: &Command, parts: &mut Vec<String>) {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    parts.push(format!("\n## {path}\n\n{about}\n"));
    let flags = |is_global: bool| {
        let shown = move |flag: &&Arg| {
            !flag.is_hide_set()
                && !["help", "version"].contains(&flag.get_id().as_str())
                && flag.is_global_set() == is_global
        };
        command.get_arguments().filter(shown).map(row).collect::<Vec<_>>()
    };
    // Global flags are documented with the command that declares them.
    let is_root = !path.trim_start_matches("kubectl ").contains(' ');
    let rows = if is_root { [flags(false), flags(true)].concat() } else { flags(false) };
    if !rows.is_empty() {
        parts.push(format!("\n{}", table(&["flag", "variable", "default", "values", "description"], &rows)));
    }
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        section(&format!("{path} {}", inner.get_name()), inner, parts);
    }
}

fn row(arg: &Arg) -> Vec<String> {
    let takes_value = arg.get_action().takes_values();
    let value = arg.get_value_names().into_iter().flatten().next().map(ToString::to_string).unwrap_or_default();
    let name = match (arg.get_long(), arg.get_short()) {
        (Some(long), Some(short)) => format!("--{long}, -{short}"),
        (Some(long), None) => format!("--{long}"),
        (None, Some(short)) => format!("-{short}"),
        (None, None) => format!("<{value}>"),
    };
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let values: Vec<String> = arg.get_possible_values().iter().map(|value| code(value.get_name())).collect();
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    vec![
        code(&name),
        code(&arg.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()),
        if takes_value { code(&defaults.join(",")) } else { String::new() },
        if takes_value { values.join(", ") } else { String::new() },
        help,
    ]
}
