//! The report, as a Markdown table and as JSON.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

/// Response times of Keystone, in milliseconds.
const KEYSTONE: [(&str, f64); 4] = [
    ("a user by name", 19.6),
    ("a page of 20 users", 15.8),
    ("effective role assignments", 27.8),
    ("a login with a password", 276.0),
];

/// A measured value, or the ratio of two measured values.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Number {
    /// Name of the value; for a ratio, what Roster is compared with.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Unit of the value.
    pub unit: &'static str,
    /// For a ratio: value and unit of what Roster is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<(f64, &'static str)>,
}

/// A line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    /// Section of the report.
    pub section: &'static str,
    /// What was measured.
    pub what: String,
    /// Number of users.
    pub users: u64,
    /// Roster's value divided by that of each alternative.
    pub ratios: Vec<Number>,
    /// Absolute values on this machine.
    pub figures: Vec<Number>,
}

/// A goal, and whether it was met.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    /// Description of the goal.
    pub wanted: String,
    /// The measured value.
    pub figure: String,
    /// Whether the goal was met.
    pub met: bool,
}

/// Results of all benchmarks.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Lines of the table.
    pub lines: Vec<Line>,
    /// Goals for which there are results.
    pub goals: Vec<Goal>,
}

impl Line {
    /// Creates a line without numbers.
    pub(crate) fn new(section: &'static str, what: impl Into<String>, users: u64) -> Self {
        Self { section, what: what.into(), users, ratios: Vec::new(), figures: Vec::new() }
    }

    /// Adds a ratio. `beside`: value and unit of what Roster is compared with.
    pub(crate) fn ratio(mut self, name: impl Into<String>, value: f64, beside: (f64, &'static str)) -> Self {
        self.ratios.push(Number { name: name.into(), value, unit: "×", beside: Some(beside) });
        self
    }

    /// Adds an absolute value.
    pub(crate) fn figure(mut self, name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        self.figures.push(Number { name: name.into(), value, unit, beside: None });
        self
    }

    /// Returns the number with this name.
    pub(crate) fn find(&self, name: &str) -> Option<&Number> {
        self.ratios.iter().chain(&self.figures).find(|number| number.name == name)
    }
}

impl Report {
    /// Adds a line, and prints it immediately, because the whole run takes long.
    pub(crate) fn add(&mut self, line: Line) {
        eprintln!("{}", row(&line));
        self.lines.push(line);
    }

    /// Adds a goal.
    pub(crate) fn goal(&mut self, wanted: impl Into<String>, figure: impl Into<String>, met: bool) {
        self.goals.push(Goal { wanted: wanted.into(), figure: figure.into(), met });
    }

    /// Adds results of Keystone, which were measured on another day on a machine of the same kind.
    pub(crate) fn add_keystone(&mut self) {
        for (what, millis) in KEYSTONE {
            self.add(Line::new("for orientation", format!("Keystone: {what}"), 100_000).figure("took", millis, "ms"));
        }
    }

    /// Returns the report as Markdown.
    pub(crate) fn table(&self) -> String {
        let mut out = String::from("| | what | users | ratios | figures |\n| --- | --- | --- | --- | --- |\n");
        for line in &self.lines {
            out.push_str(&row(line));
            out.push('\n');
        }
        out.push_str("\n| goal | measured | |\n| --- | --- | --- |\n");
        for goal in &self.goals {
            let outcome = if goal.met { "met" } else { "missed" };
            let _ = writeln!(out, "| {} | {} | {outcome} |", goal.wanted, goal.figure);
        }
        out
    }

    /// Writes the report as JSON.
    ///
    /// # Errors
    /// If the file can't be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let cores = std::thread::available_parallelism()?.get();
        let machine = json!({"cores": cores, "processor": processor(), "load": load()});
        let all = json!({"at": jiff::Timestamp::now().to_string(), "machine": machine, "report": self});
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        Ok(std::fs::write(path, serde_json::to_vec_pretty(&all)?)?)
    }
}

/// Describes the machine in one line.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{cores} cores of {}; load {}", processor(), load())
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| "an unknown processor".to_owned(), |(_, name)| name.to_owned())
}

/// Returns the load average of the last minute, which shows what else is running on the machine.
fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().unwrap_or("unknown").to_owned()
}

fn row(line: &Line) -> String {
    let Line { section, what, users, ratios, figures } = line;
    format!("| {section} | {what} | {} | {} | {} |", grouped(*users), numbers(ratios), numbers(figures))
}

fn numbers(numbers: &[Number]) -> String {
    let write = |number: &Number| {
        let Number { name, value, unit, beside } = number;
        match beside {
            Some((beside, of)) => format!("{name} {}{unit} ({} {of})", short(*value), short(*beside)),
            None => format!("{name} {} {unit}", short(*value)),
        }
    };
    numbers.iter().map(write).collect::<Vec<_>>().join("; ")
}

/// Formats a value with about three significant digits.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        ..0.1 => format!("{value:.3}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the value is positive and in range"
        )]
        _ => grouped(value.round() as u64),
    }
}

fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Returns the median.
///
/// # Panics
/// If `values` is empty.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the median of the ratios of each round.
pub(crate) fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect())
}

/// Converts a count to a floating-point number.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}

/// Converts microseconds to milliseconds.
pub(crate) fn millis(micros: u64) -> f64 {
    number(micros) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_significant_digits() {
        let written = [0.0123, 0.5, 12.34, 1234.5, 1_234_567.0].map(short);
        assert_eq!(written, ["0.012", "0.50", "12.3", "1,235", "1,234,567"]);
        assert!(median(vec![3.0, 1.0, 2.0]).total_cmp(&2.0).is_eq());
    }
}
