//! Reports rejected entries: as text on standard error, and as CSV or JSON in a file.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use roster_api::printable;
use roster_import::assemble::{Item, Plan};
use roster_import::conflict::Conflicting;
use roster_import::csv::formula::neutralized;
use roster_import::draft::{Place, Rejected};
use roster_import::findings::Findings;
use roster_import::held::Held;
use serde_json::json;

use super::args::Files;

/// Prints each rejection to standard error, as `FILE:LINE: field: reason`.
pub(super) fn print(rejected: &[Rejected], files: &Files) {
    for item in rejected {
        report_at(item.place, files, &item.to_string());
    }
}

/// Prints a message with its position in the source to standard error. The message may quote the source, so control
/// characters are replaced.
pub(super) fn report_at(place: Place, files: &Files, message: &str) {
    print_line(&format!("{}:{}: {}", files.name(place.file), place.line, printable::line(message)));
}

/// Reports what conflicts or lacks consent, and what to do. Returns the number of conflicts of objects that the plan only refers
/// to.
pub(super) fn report_findings(findings: &Findings, conflicting: &Conflicting, plan: &Plan, files: &Files) -> usize {
    for conflict in &conflicting.conflicts {
        report_at(conflict.place, files, &conflict.to_string());
    }
    let Findings { admitted, present, promotions, administrators, .. } = findings;
    for item in administrators {
        report_at(item.place, files, &format!("{item}; this requires --accept-administrators"));
    }
    for item in admitted {
        report_at(item.place, files, &format!("{item}; this requires --accept-existing-users"));
    }
    for item in present {
        report_at(item.place, files, &format!("{item}; this requires --accept-existing-users"));
    }
    for item in &promotions.first {
        report_at(item.place, files, &format!("{item}; this requires --accept-existing-users"));
    }
    let more = promotions.users.len() - promotions.first.len();
    if more > 0 {
        print_line(&format!("and {more} more existing Users that this import would promote or hand over"));
    }
    if !administrators.is_empty() {
        print_line(
            "not applied: find out whether these people should be administrators of the cluster; omit the field with --without \
             admin, or accept them with --accept-administrators",
        );
    }
    if !admitted.is_empty() || !present.is_empty() || !promotions.users.is_empty() {
        print_line(
            "not applied: find out who created these Users and has their credentials, and whether they are the people of the \
             source; delete them or remove them from the Groups, or accept them with --accept-existing-users",
        );
    }
    let items: HashSet<_> = plan.items.iter().map(|item| (item.kind, &*item.name)).collect();
    conflicting.conflicts.iter().filter(|conflict| !items.contains(&conflict.held())).count()
}

/// Reports the items that are not applied because of others.
pub(super) fn report_held<'a>(items: impl Iterator<Item = &'a Item>, held: &Held, files: &Files) {
    for item in items {
        if let Some(reason) = held.reason(item) {
            report_at(item.place, files, &format!("{} {} is not applied: {reason}", item.kind.name(), item.name));
        }
    }
}

/// Prints a message to standard error.
pub(super) fn print_line(message: &str) {
    // If standard error is closed, the message can't be reported anywhere else.
    let _ = writeln!(io::stderr(), "{message}");
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
