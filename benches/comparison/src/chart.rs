//! Chart of how response times grow with the number of users. Both axes are logarithmic.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use crate::compare::{API_SERVER, BUFFER, SCAN, SECTION, SQLITE};
use crate::report::{Line, Report, number, short};

/// Name of the query in the chart: filter, sort and page.
const DRAWN: &str = "group and state, by last login, page 1 of 20";

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;

/// A line in the chart. Points are numbers of users with milliseconds.
struct Series {
    name: &'static str,
    colour: &'static str,
    points: Vec<(f64, f64)>,
}

/// Writes the chart as SVG, if the query was measured with at least two numbers of users.
///
/// # Errors
/// If the file can't be written.
pub(crate) fn draw(report: &Report, path: &Path) -> Result<()> {
    let lines: Vec<&Line> = report.lines.iter().filter(|line| line.section == SECTION && line.what == DRAWN).collect();
    if lines.len() < 2 {
        return Ok(());
    }
    let beside = |line: &Line, name: &str| line.find(name).and_then(|number| number.beside).map(|(value, _)| value);
    let of = |name: &'static str, colour, read: &dyn Fn(&Line) -> Option<f64>| Series {
        name,
        colour,
        points: lines.iter().filter_map(|line| Some((number(line.users), read(line)?))).collect(),
    };
    let series = [
        of("custom resources", "#b03a2e", &|line| beside(line, API_SERVER)),
        of(SCAN, "#b9770e", &|line| beside(line, SCAN)),
        of(SQLITE, "#6c3483", &|line| beside(line, SQLITE)),
        of("Roster", "#1a5276", &|line| line.find("p50").map(|number| number.value)),
        of(BUFFER, "#7f8c8d", &|line| beside(line, BUFFER)),
    ];
    std::fs::write(path, picture(&series))?;
    Ok(())
}

fn picture(series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        let (least, most) = points().map(of).fold((f64::MAX, f64::MIN), |(a, b), value| (a.min(value), b.max(value)));
        (least.log10().floor(), most.log10().ceil())
    };
    let ((x0, x1), (y0, y1)) = (bounds(|point| point.0), bounds(|point| point.1));
    let x = |value: f64| LEFT + (value.log10() - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - (value.log10() - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"26\" font-size=\"15\">{DRAWN}: milliseconds (median), one at a time</text>\n"
    );
    for power in decades(y0, y1) {
        let (value, at) = (10_f64.powf(power), y(10_f64.powf(power)));
        let (end, text) = (WIDTH - RIGHT, LEFT - 8.0);
        let _ = writeln!(out, "<path d=\"M{LEFT} {at:.1}H{end}\" stroke=\"#ddd\"/>");
        let _ = writeln!(out, "<text x=\"{text}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", at + 4.0, short(value));
    }
    for power in decades(x0, x1) {
        let (value, at) = (10_f64.powf(power), x(10_f64.powf(power)));
        let (end, text) = (HEIGHT - BOTTOM, HEIGHT - BOTTOM + 20.0);
        let _ = writeln!(out, "<path d=\"M{at:.1} {TOP}V{end}\" stroke=\"#ddd\"/>");
        let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{text}\" text-anchor=\"middle\">{} users</text>", short(value));
    }
    for Series { name, colour, points } in series {
        let Some(last) = points.last() else { continue };
        let path: Vec<String> = points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        let (at, height) = (x(last.0) + 8.0, y(last.1) + 4.0);
        let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{height:.1}\" fill=\"{colour}\">{name}</text>");
    }
    out.push_str("</svg>\n");
    out
}

/// Returns the exponents of the powers of ten from `from` to `to`.
fn decades(from: f64, to: f64) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(from), |power| Some(power + 1.0)).take_while(move |power| *power <= to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_scaled_to_the_axes() {
        let points = vec![(1000.0, 1.0), (100_000.0, 100.0)];
        let drawn = picture(&[Series { name: "a", colour: "red", points }]);
        assert!(drawn.contains("points=\"80.0,400.0 610.0,50.0\""), "{drawn}");
    }
}
