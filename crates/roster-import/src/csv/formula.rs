//! Keeps spreadsheets from running cells as formulas: a leading apostrophe makes a cell text, as OWASP recommends against
//! CSV injection.
//!
//! A spreadsheet splits the file at the list separator of the computer, which is a semicolon in many countries, and then
//! ignores quotes that are not at the beginning of its own cells. So one of our cells can become several ones. Each part
//! after a character that may separate cells is treated like a cell of its own.
//!
//! Alternatives: a first line `sep=,` would set the separator, but only for Excel; other programs would take it for the
//! header that the format promises. Quotes around all cells would not help, because a line that is split at semicolons has
//! quotes in the middle of its cells.

use std::borrow::Cow;

/// Characters that may separate cells or rows. Quotes are among them, because a cell may begin within them.
const SEPARATORS: [char; 7] = [';', ',', '\t', '|', '"', '\n', '\r'];

/// Makes a cell text. Numbers and telephone numbers stay as they are: as formulas, they only compute a number.
pub fn neutralized(cell: &str) -> Cow<'_, str> {
    let begins = begins(cell).filter(|begin| {
        let rest = &cell[*begin..];
        let part = rest.split(SEPARATORS).next().unwrap_or_default();
        // Quoted parts are quoted once more, so that `restored` returns them as they were.
        is_formula(rest.trim_start_matches('\'')) && (rest.starts_with('\'') || !is_number(part))
    });
    let (mut written, mut copied) = (String::new(), 0);
    for begin in begins {
        written.push_str(&cell[copied..begin]);
        written.push('\'');
        copied = begin;
    }
    if written.is_empty() { cell.into() } else { (written + &cell[copied..]).into() }
}

/// Returns a cell without the apostrophes that [`neutralized`], or a spreadsheet, has put into it.
pub fn restored(cell: &str) -> Cow<'_, str> {
    let quoted = begins(cell).filter(|begin| {
        let rest = cell[*begin..].strip_prefix('\'');
        rest.is_some_and(|rest| is_formula(rest.trim_start_matches('\'')))
    });
    let (mut written, mut copied) = (String::new(), 0);
    for quote in quoted {
        written.push_str(&cell[copied..quote]);
        copied = quote + 1;
    }
    if copied == 0 { cell.into() } else { (written + &cell[copied..]).into() }
}

/// Returns where the parts of a cell begin.
fn begins(cell: &str) -> impl Iterator<Item = usize> {
    std::iter::once(0).chain(cell.match_indices(SEPARATORS).map(|(at, separator)| at + separator.len()))
}

/// Whether a spreadsheet may run the cell. Some also accept the full-width forms.
fn is_formula(cell: &str) -> bool {
    cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'])
}

/// Whether the cell is a sign and digits, with the separators of telephone numbers.
fn is_number(cell: &str) -> bool {
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, ' ' | '(' | ')' | '.' | '-');
    cell.strip_prefix(['+', '-'])
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && rest.chars().all(is_part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("=HYPERLINK(\"https://evil.example.com\")", "'=HYPERLINK(\"https://evil.example.com\")")]
    #[case("+1+cmd|' /C calc'!A0", "'+1+cmd|' /C calc'!A0")]
    #[case("-2+3", "'-2+3")]
    #[case("@SUM(1)", "'@SUM(1)")]
    #[case("\t=1", "'\t'=1")]
    #[case("\r=1", "'\r'=1")]
    #[case("x;=cmd|' /C calc'!A0;y", "x;'=cmd|' /C calc'!A0;y")]
    #[case("x,@a\t-b|+c\n=d\r=e", "x,'@a\t'-b|'+c\n'=d\r'=e")]
    #[case("x;\"=1\";'=2;''=3", "x;\"'=1\";''=2;'''=3")]
    #[case("a;+1 555 0100;-5", "a;+1 555 0100;-5")]
    #[case("a;'b;'", "a;'b;'")]
    #[case("＝1", "'＝1")]
    #[case("-", "'-")]
    #[case("'=1", "''=1")]
    #[case("''+1 555 0100", "'''+1 555 0100")]
    #[case("+1 555 0100", "+1 555 0100")]
    #[case("+49 (30) 1234-56.7", "+49 (30) 1234-56.7")]
    #[case("-5", "-5")]
    #[case("'tis", "'tis")]
    #[case("a=b", "a=b")]
    #[case("", "")]
    fn formulas_become_text(#[case] cell: &str, #[case] written: &str) {
        assert_eq!(neutralized(cell), written);
        assert_eq!(restored(written), cell);
    }

    proptest! {
        #[test]
        fn cells_round_trip_and_are_no_formulas(cell in "[-'=+@\t1a ;,|\"\n\r]{0,9}") {
            let written = neutralized(&cell);
            prop_assert_eq!(restored(&written), &*cell);
            for part in written.split(SEPARATORS) {
                prop_assert!(!is_formula(part) || is_number(part), "{written:?}");
            }
        }
    }
}
