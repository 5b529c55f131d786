//! Detects the notation of a CSV file: its delimiter, lines before its header, and malformed quotes.

/// Delimiters that are detected. If a header contains two of them equally often, the earlier one in this list is used.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// Notation of a file.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Dialect<'a> {
    pub(super) delimiter: u8,
    /// Content of the file, starting at the header.
    pub(super) rows: &'a [u8],
    /// Number of lines before the header.
    pub(super) skipped: usize,
}

/// A quote that RFC 4180 does not allow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum QuoteError {
    #[error(
        "the quote that opens on this line is never closed. Rows from here on were not read: close the quote (RFC 4180)"
    )]
    NeverClosed,
    #[error(
        "the quote that opens on this line is followed by text after it closes. Rows from here on were not read: write a \
         quote within a quoted cell twice (RFC 4180)"
    )]
    TextAfter,
}

/// The first malformed quote of a file.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct BrokenQuote {
    /// Offset of the row that contains the quote.
    pub(super) row: usize,
    /// Line where the quote opens, from 1.
    pub(super) line: usize,
    pub(super) error: QuoteError,
}

/// Detects the notation. `delimiter` overrides the detected delimiter.
pub(super) fn detect(bytes: &[u8], delimiter: Option<u8>) -> Dialect<'_> {
    let (mut rows, mut skipped, mut declared) = (bytes, 0, None);
    while let Some(line) = Preamble::of(rows) {
        if let Preamble::Delimiter(delimiter) = line {
            declared = Some(delimiter);
        }
        let end = rows.iter().position(|byte| *byte == b'\n').map_or(rows.len(), |at| at + 1);
        rows = &rows[end..];
        skipped += 1;
    }
    Dialect { delimiter: delimiter.or(declared).unwrap_or_else(|| most_frequent(rows)), rows, skipped }
}

/// A line before the header.
enum Preamble {
    /// `sep=;`, which Excel reads.
    Delimiter(u8),
    /// `#TYPE …`, which Windows PowerShell writes.
    Type,
}

impl Preamble {
    fn of(rows: &[u8]) -> Option<Self> {
        let line = rows.split(|byte| *byte == b'\n').next()?;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.starts_with(b"#TYPE ") {
            return Some(Self::Type);
        }
        let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
        match line {
            [name @ .., delimiter] if name.eq_ignore_ascii_case(b"sep=") => Some(Self::Delimiter(*delimiter)),
            _ => None,
        }
    }
}

/// Returns the delimiter that the header contains most often outside quotes.
fn most_frequent(rows: &[u8]) -> u8 {
    let (mut counts, mut is_quoted) = ([0_usize; DELIMITERS.len()], false);
    for byte in rows {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'\n' | b'\r' if !is_quoted => break,
            byte if !is_quoted => {
                DELIMITERS.iter().position(|delimiter| delimiter == byte).into_iter().for_each(|at| counts[at] += 1);
            }
            _ => {}
        }
    }
    let most = (0..DELIMITERS.len()).rev().max_by_key(|at| counts[*at]).unwrap_or_default();
    DELIMITERS[most]
}

enum State {
    /// At the beginning of a cell.
    Begin,
    /// In a cell without quotes, where a quote has no meaning.
    Bare,
    Quoted,
    /// After a quote in a quoted cell: it closes the cell, or is the first of two.
    Closing,
}

/// Returns the first quote that is never closed, or that is followed by text after it closes. From that row on, it is
/// unknown where rows begin.
pub(super) fn broken_quote(rows: &[u8], delimiter: u8) -> Option<BrokenQuote> {
    let (mut state, mut line, mut row, mut opened) = (State::Begin, 1, 0, 1);
    for (at, byte) in rows.iter().copied().enumerate() {
        state = match (state, byte) {
            (State::Begin, b'"') => {
                opened = line;
                State::Quoted
            }
            (State::Quoted, b'"') => State::Closing,
            (State::Quoted, _) | (State::Closing, b'"') => State::Quoted,
            (_, byte) if byte == delimiter => State::Begin,
            (_, b'\n' | b'\r') => {
                row = at + 1;
                State::Begin
            }
            (State::Closing, _) => return Some(BrokenQuote { row, line: opened, error: QuoteError::TextAfter }),
            (State::Begin | State::Bare, _) => State::Bare,
        };
        line += usize::from(byte == b'\n');
    }
    let is_open = matches!(state, State::Quoted);
    is_open.then_some(BrokenQuote { row, line: opened, error: QuoteError::NeverClosed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("a,b;c,d\n", b',', 0)]
    #[case("a;\"b,c,d\";e\r\n1,2,3,4", b';', 0)]
    #[case("a\tb\n", b'\t', 0)]
    #[case("a|b\n", b'|', 0)]
    #[case("username\na;b\n", b',', 0)]
    #[case("", b',', 0)]
    #[case("sep=;\r\na,b\n", b';', 1)]
    #[case("\"SEP=\t\"\na\n", b'\t', 1)]
    #[case("#TYPE Microsoft.User\r\n\"a\";\"b\"\r\n", b';', 1)]
    #[case("sep=,", b',', 1)]
    fn delimiters_are_detected(#[case] text: &str, #[case] delimiter: u8, #[case] skipped: usize) {
        let dialect = detect(text.as_bytes(), None);
        assert_eq!((dialect.delimiter, dialect.skipped), (delimiter, skipped));
        assert_eq!(detect(text.as_bytes(), Some(b'^')).delimiter, b'^');
    }

    #[rstest]
    #[case("a,b\n\"x\ny\"\"\",z\nc,q\"r\"\n", None)]
    #[case("a,b\n1,2\n\"x\ny,z\nc,d\n", Some((8, 3, QuoteError::NeverClosed)))]
    #[case("a,b\n\"x\" y,z\n", Some((4, 2, QuoteError::TextAfter)))]
    #[case("a,b\n1,\"x\n2,\"y\"\n", Some((4, 2, QuoteError::TextAfter)))]
    fn malformed_quotes_are_found(#[case] text: &str, #[case] found: Option<(usize, usize, QuoteError)>) {
        let found = found.map(|(row, line, error)| BrokenQuote { row, line, error });
        assert_eq!(broken_quote(text.as_bytes(), b','), found);
    }

    proptest! {
        #[test]
        fn quotes_of_the_csv_writer_are_well_formed(cells in prop::collection::vec("[a,\"\n\r;]{0,6}", 1..8)) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(&cells).unwrap();
            prop_assert_eq!(broken_quote(&writer.into_inner().unwrap(), b','), None);
        }
    }
}
