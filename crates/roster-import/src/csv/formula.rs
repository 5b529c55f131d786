//! Keeps spreadsheets from running cells as formulas: a leading apostrophe makes a cell text, as OWASP recommends against
//! CSV injection.

use std::borrow::Cow;

/// Makes a cell text. Numbers and telephone numbers stay as they are: as formulas, they only compute a number.
pub fn neutralized(cell: &str) -> Cow<'_, str> {
    let is_quoted = cell.starts_with('\'');
    // Quoted cells are quoted once more, so that `restored` returns them as they were.
    if is_formula(cell.trim_start_matches('\'')) && (is_quoted || !is_number(cell)) {
        return format!("'{cell}").into();
    }
    cell.into()
}

/// Returns a cell without the apostrophe that [`neutralized`], or a spreadsheet, has put before it.
pub fn restored(cell: &str) -> &str {
    match cell.strip_prefix('\'') {
        Some(rest) if is_formula(rest.trim_start_matches('\'')) => rest,
        _ => cell,
    }
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
    #[case("\t=1", "'\t=1")]
    #[case("\r=1", "'\r=1")]
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
        fn cells_round_trip_and_are_no_formulas(cell in "[-'=+@\t1a ]{0,6}") {
            let written = neutralized(&cell);
            prop_assert_eq!(restored(&written), &cell);
            prop_assert!(!is_formula(&written) || is_number(&written));
        }
    }
}
