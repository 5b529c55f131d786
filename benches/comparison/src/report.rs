//! The table, and the same as JSON.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

/// Milliseconds that Keystone takes.
const KEYSTONE: [(&str, f64); 4] = [
    ("a user by name", 19.6),
    ("a page of 20 users", 15.8),
    ("effective role assignments", 27.8),
    ("a login with a password", 276.0),
];

/// Something that was measured, or a ratio of two such things.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Number {
    /// What it is, or is compared with.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// Of a ratio: what the other one comes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<(f64, &'static str)>,
}

/// A line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    /// Part of the table.
    pub section: &'static str,
    /// What was measured.
    pub what: String,
    /// Among how many users.
    pub users: u64,
    /// How it compares: how many times as much Roster does, or takes.
    pub ratios: Vec<Number>,
    /// What it comes to on this machine.
    pub figures: Vec<Number>,
}

/// A goal, and what has come of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    /// What is to be.
    pub wanted: String,
    /// What is.
    pub figure: String,
    /// Whether that is enough.
    pub met: bool,
}

/// All of it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// The table.
    pub lines: Vec<Line>,
    /// The goals that could be judged.
    pub goals: Vec<Goal>,
}

impl Line {
    /// A line without numbers.
    pub(crate) fn new(section: &'static str, what: impl Into<String>, users: u64) -> Self {
        Self { section, what: what.into(), users, ratios: Vec::new(), figures: Vec::new() }
    }

    /// With a ratio, and what it is a ratio to.
    pub(crate) fn ratio(mut self, name: impl Into<String>, value: f64, beside: (f64, &'static str)) -> Self {
        self.ratios.push(Number { name: name.into(), value, unit: "×", beside: Some(beside) });
        self
    }

    /// With a figure.
    pub(crate) fn figure(mut self, name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        self.figures.push(Number { name: name.into(), value, unit, beside: None });
        self
    }

    /// A number of the line.
    pub(crate) fn find(&self, name: &str) -> Option<&Number> {
        self.ratios.iter().chain(&self.figures).find(|number| number.name == name)
    }
}

impl Report {
    /// Adds a line, and shows it at once: the whole takes a while.
    pub(crate) fn add(&mut self, line: Line) {
        eprintln!("{}", row(&line));
        self.lines.push(line);
    }

    /// Adds a goal.
    pub(crate) fn goal(&mut self, wanted: impl Into<String>, figure: impl Into<String>, met: bool) {
        self.goals.push(Goal { wanted: wanted.into(), figure: figure.into(), met });
    }

    /// Adds what was measured of Keystone, on another day and a machine of the same kind.
    pub(crate) fn quote_keystone(&mut self) {
        for (what, millis) in KEYSTONE {
            self.add(Line::new("for orientation", format!("Keystone: {what}"), 100_000).figure("took", millis, "ms"));
        }
    }

    /// The table.
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

    /// Writes everything as JSON.
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

/// What the machine is, in a line.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{cores} cores of {}; load {}", processor(), load())
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| "an unknown processor".to_owned(), |(_, name)| name.to_owned())
}

/// Processes that wanted to run, in the mean of the last minute: who shares the machine.
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

/// Three digits that count.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        ..0.1 => format!("{value:.3}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is positive, and in range")]
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

/// The value in the middle.
///
/// # Panics
/// If there are none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median of what the two figures of each round come to.
pub(crate) fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect())
}

/// A count, as a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "so many there are not")]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}

/// Microseconds as milliseconds.
pub(crate) fn millis(micros: u64) -> f64 {
    number(micros) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_count() {
        let written = [0.0123, 0.5, 12.34, 1234.5, 1_234_567.0].map(short);
        assert_eq!(written, ["0.012", "0.50", "12.3", "1,235", "1,234,567"]);
        assert!(median(vec![3.0, 1.0, 2.0]).total_cmp(&2.0).is_eq());
    }
}
