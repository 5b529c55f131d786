//! Reports rejected entries: as text on standard error, and as CSV or JSON in a file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use roster_api::printable;
use roster_import::consent::Findings;
use roster_import::csv::formula::neutralized;
use roster_import::draft::{Place, Rejected};
use serde_json::json;

use super::args::Files;
use super::live::Live;

/// Prints each rejection to standard error, as `FILE:LINE: field: reason`.
pub(super) fn print(rejected: &[Rejected], files: &Files) {
    for item in rejected {
        report_at(item.place, files, &item.to_string());
    }
}

/// Prints a message with its position in the source to standard error. The message may quote the source, so control
/// characters are replaced.
pub(super) fn report_at(place: Place, files: &Files, message: &str) {
    let message = printable::line(message);
    // If standard error is closed, the message can't be reported anywhere else.
    let _ = writeln!(io::stderr(), "{}:{}: {message}", files.name(place.file), place.line);
}

/// Reports existing objects that the plan must not overwrite. Returns their number.
pub(super) fn report_conflicts(live: &Live, files: &Files) -> usize {
    for conflict in &live.conflicts {
        report_at(conflict.place, files, &conflict.to_string());
    }
    live.conflicts.len()
}

/// Reports new Users that the import would make administrators. Returns their number.
pub(super) fn report_administrators(live: &Live, files: &Files) -> usize {
    for item in &live.findings.administrators {
        report_at(item.place, files, &format!("{item}; this requires --accept-administrators"));
    }
    live.findings.administrators.len()
}

/// Reports existing Users that the import would make members or administrators, or hand over to people of the source.
/// Returns the number of Groups that would accept existing Users, plus the number of these Users.
pub(super) fn report_existing(live: &Live, files: &Files) -> usize {
    let Findings { admitted, promotions, .. } = &live.findings;
    for item in admitted {
        report_at(item.place, files, &format!("{item}; this requires --accept-existing-users"));
    }
    for item in &promotions.first {
        report_at(item.place, files, &format!("{item}; this requires --accept-existing-users"));
    }
    let more = promotions.count - promotions.first.len();
    if more > 0 {
        let _ = writeln!(io::stderr(), "and {more} more existing Users that this import would promote or hand over");
    }
    admitted.len() + promotions.count
}

pub(super) fn write(path: &Path, rejected: &[Rejected], files: &Files) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record(["file", "line", "who", "field", "reason"])?;
        for item in rejected {
            let line = item.place.line.to_string();
            let row = [files.name(item.place.file), &line, &item.who, &item.field, &item.reason];
            csv.write_record(row.map(|cell| neutralized(cell).into_owned()))?;
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
