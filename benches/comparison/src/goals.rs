//! Compares the results with the goals. A missed goal does not fail the run, because measurements are noisy.

use crate::compare::{API_SERVER, BUFFER, BUFFER_P99, SCAN, SECTION, SQLITE};
use crate::report::{Line, Report, short};
use crate::rest::CHANGE;

/// Evaluates the goals on the results with the largest number of users.
pub(crate) fn evaluate(report: &mut Report) {
    let Some(users) = report.lines.iter().filter(|line| line.section == SECTION).map(|line| line.users).max() else {
        return;
    };
    let lines: Vec<Line> =
        report.lines.iter().filter(|line| line.section == SECTION && line.users == users).cloned().collect();
    // Queries that return one user or a page.
    let short_answers: Vec<&Line> = lines
        .iter()
        .filter(|line| !["all users", "permissions"].iter().any(|name| line.what.starts_with(name)))
        .collect();
    let sorted: Vec<&Line> = lines.iter().filter(|line| line.what.starts_with("group and state")).collect();
    worst(report, &short_answers, BUFFER, false, 0.7, "get, filter and page: 0.7 of the buffer's rate or more");
    worst(report, &short_answers, BUFFER_P99, true, 5.0, "get, filter and page: p99 under five times the buffer's");
    worst(report, &sorted, SCAN, false, 1000.0, "filter, sort and page: 1,000 times a scan's rate or more");
    worst(
        report,
        &sorted,
        API_SERVER,
        false,
        1000.0,
        "filter, sort and page: 1,000 times kube-apiserver's rate or more",
    );
    worst(report, &sorted, SQLITE, false, 20.0, "filter, sort and page: 20 times SQLite's rate or more");
    growth(report);
}

/// Adds a goal with the result that is furthest from it. `is_maximum`: whether `bound` is an upper bound.
fn worst(report: &mut Report, lines: &[&Line], name: &str, is_maximum: bool, bound: f64, goal: &str) {
    let found = lines.iter().filter_map(|line| Some((line.find(name)?.value, line)));
    let compare = |a: &(f64, _), b: &(f64, _)| if is_maximum { b.0.total_cmp(&a.0) } else { a.0.total_cmp(&b.0) };
    let Some((value, line)) = found.min_by(|a, b| compare(&(a.0, ()), &(b.0, ()))) else { return };
    let met = if is_maximum { value < bound } else { value >= bound };
    let goal = format!("{} users: {goal}", line.users);
    report.goal(goal, format!("at the worst {}× ({})", short(value), line.what), met);
}

/// Adds the goal that the cost of a change does not grow with the number of users.
fn growth(report: &mut Report) {
    let costs = report.lines.iter().filter_map(|line| Some((line.users, line.find(CHANGE)?.value)));
    let costs: Vec<(u64, f64)> = costs.collect();
    if let (Some((few, cheap)), Some((many, expensive))) = (costs.first().copied(), costs.last().copied())
        && few < many
    {
        let growth = expensive / cheap;
        let goal = format!("a change among {many} users costs at most 1.5 times what it does among {few}");
        report.goal(goal, format!("{growth:.2} times"), growth <= 1.5);
    }
}
