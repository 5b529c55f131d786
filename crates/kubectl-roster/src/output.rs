//! Output formats: tables for people, JSON and YAML for programs.

use anyhow::{Context, Result};
use clap::ValueEnum;
use roster_api::printable;
use serde_json::Value;

/// Output format.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(super) enum Output {
    /// Human-readable text.
    #[default]
    Table,
    /// The API's response as JSON.
    Json,
    /// The API's response as YAML.
    Yaml,
}

impl Output {
    /// Prints the response, or `human` in table format.
    pub(super) fn print(self, response: &Value, human: impl FnOnce() -> String) -> Result<()> {
        println!("{}", self.text(response, human)?);
        Ok(())
    }

    fn text(self, response: &Value, human: impl FnOnce() -> String) -> Result<String> {
        Ok(match self {
            Self::Table => printable::lines(&human()),
            Self::Json => serde_json::to_string_pretty(response)?,
            Self::Yaml => {
                serde_yaml::to_string(response).context("the response can't be written as YAML")?.trim_end().to_owned()
            }
        })
    }
}

/// Formats rows under their headers, in aligned columns. Empty cells read `<none>`.
pub(super) fn table<const COLUMNS: usize>(headers: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    let headers = headers.map(str::to_owned);
    let rows: Vec<[String; COLUMNS]> = rows.iter().map(|row| row.each_ref().map(|text| cell(text))).collect();
    let all = || std::iter::once(&headers).chain(&rows);
    let widths: [usize; COLUMNS] =
        std::array::from_fn(|column| all().map(|row| row[column].chars().count()).max().unwrap_or_default());
    let line = |row: &[String; COLUMNS]| {
        let padded = row.iter().zip(widths).map(|(text, width)| format!("{text:width$}"));
        padded.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    all().map(line).collect::<Vec<_>>().join("\n")
}

fn cell(text: &str) -> String {
    if text.is_empty() { "<none>".to_owned() } else { printable::line(&text.replace('\n', " ")) }
}

/// Returns the value at a JSON pointer as the text of a cell: lists with commas, absent values as an empty string.
pub(super) fn at(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).map(text).unwrap_or_default()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let rows = [["a".to_owned(), String::new()], ["länger".to_owned(), "x".to_owned()]];
        assert_eq!(table(["NAME", "VALUE"], &rows), "NAME     VALUE\na        <none>\nlänger   x");
    }

    #[test]
    fn a_table_without_rows_has_its_headers() {
        assert_eq!(table(["NAME", "VALUE"], &[]), "NAME   VALUE");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(table(["X"], &[["a\nb\r".to_owned()]]), "X\na b\u{fffd}");
    }

    #[test]
    fn values_are_found_by_pointer() {
        let value = json!({"a": {"b": ["x", "y"], "c": true, "d": null}});
        assert_eq!(["/a/b", "/a/c", "/a/d", "/e"].map(|pointer| at(&value, pointer)), ["x, y", "true", "", ""]);
    }

    #[test]
    fn programs_get_the_response_unchanged() {
        let response = json!({"kind": "User"});
        let text = |output: Output| output.text(&response, || "for people".to_owned()).unwrap();
        assert_eq!(text(Output::Table), "for people");
        assert_eq!(text(Output::Json), "{\n  \"kind\": \"User\"\n}");
        assert_eq!(text(Output::Yaml), "kind: User");
    }
}
