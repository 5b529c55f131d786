//! Reports rejected entries: to people on standard error, to programs in a file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use roster_import::draft::{Place, Rejected};
use serde_json::json;

use super::args::Files;
use super::live::Live;

/// `FILE:LINE: field: reason`
pub(super) fn print(rejected: &[Rejected], files: &Files) {
    for item in rejected {
        report_rejected(item.place, files, &item.to_string());
    }
}

/// Prints a message with its place in the source to standard error. It may repeat text of the source, so control
/// characters are replaced.
pub(super) fn report_rejected(place: Place, files: &Files, message: &str) {
    let message: String = message.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    // If standard error is closed, there is nowhere to report it.
    let _ = writeln!(io::stderr(), "{}:{}: {message}", files.name(place.file), place.line);
}

/// Reports existing objects that a planned one must not replace. Returns their number.
pub(super) fn report_conflicts(live: &Live, files: &Files) -> usize {
    for conflict in &live.conflicts {
        report_rejected(conflict.place, files, &conflict.to_string());
    }
    live.conflicts.len()
}

/// Reports existing Users that the import would make members or administrators. Returns the number of such Groups and
/// Users.
pub(super) fn report_existing(live: &Live, files: &Files) -> usize {
    for item in &live.admitted {
        report_rejected(item.place, files, &format!("{item}; this requires --accept-existing-users"));
    }
    let promotions = &live.promotions;
    for item in &promotions.first {
        report_rejected(item.place, files, &format!("{item}; this requires --accept-existing-users"));
    }
    let more = promotions.count - promotions.first.len();
    if more > 0 {
        let _ =
            writeln!(io::stderr(), "and {more} more existing Users that this import would give Groups or spec.admin");
    }
    live.admitted.len() + promotions.count
}

pub(super) fn write(path: &Path, rejected: &[Rejected], files: &Files) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record(["file", "line", "who", "field", "reason"])?;
        for item in rejected {
            let line = item.place.line.to_string();
            csv.write_record([files.name(item.place.file), &line, &item.who, &item.field, &item.reason])?;
        }
        return csv.flush();
    }
    for item in rejected {
        let (file, line) = (files.name(item.place.file), item.place.line);
        let object = json!({"file": file, "line": line, "who": item.who, "field": item.field, "reason": item.reason});
        writeln!(out, "{object}")?;
    }
    out.flush()
}
