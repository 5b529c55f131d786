//! Which characters are unsafe to print, and text without them. Escape sequences control a terminal, line breaks start a
//! line of their own, and marks reverse the direction of writing.
//!
//! Fields of the CRDs do not accept them. But kube-apiserver does not restrict the names of subjects, roles and
//! applications, and does not apply new rules to objects that are stored already.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

/// The unsafe characters: controls (C0, DEL and C1), line and paragraph separators, and directional marks.
const UNSAFE: &[RangeInclusive<char>] = &[
    '\0'..='\u{1f}',
    '\u{7f}'..='\u{9f}',
    '\u{61c}'..='\u{61c}',
    '\u{200e}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2066}'..='\u{2069}',
];

/// Returns one line of text, in which control characters, line breaks and directional marks are replaced.
pub fn line(text: &str) -> String {
    text.chars().map(|char| if is_unsafe(char) { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

/// Returns text of any number of lines, in which everything else that [`line`] replaces is replaced. Pass names through
/// [`line`] first.
pub fn lines(text: &str) -> String {
    let replaced = |char| char != '\n' && is_unsafe(char);
    text.chars().map(|char| if replaced(char) { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

/// Returns whether the character is unsafe to print within a line.
pub fn is_unsafe(char: char) -> bool {
    UNSAFE.iter().any(|range| range.contains(&char))
}

/// Returns a regular expression (RE2) for one unsafe character. If `has_lines`, tabs and newlines are safe.
pub fn unsafe_pattern(has_lines: bool) -> String {
    let mut class = String::new();
    for range in UNSAFE {
        let (start, end) = (u32::from(*range.start()), u32::from(*range.end()));
        let parts = if has_lines && start == 0 { vec![(start, 0x8), (0xb, end)] } else { vec![(start, end)] };
        for (start, end) in parts {
            write!(class, r"\x{{{start:x}}}").expect("writing to a String never fails");
            if end > start {
                write!(class, r"-\x{{{end:x}}}").expect("writing to a String never fails");
            }
        }
    }
    format!("[{class}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_control_a_terminal_or_fake_a_line() {
        let text = "jänner → x\u{1b}]0;t\u{7}\r\n\u{9b}2J\u{2028}\u{202e}y\u{200f}";
        assert_eq!(line(text), "jänner → x\u{fffd}]0;t\u{fffd}\u{fffd}\u{fffd}\u{fffd}2J\u{fffd}\u{fffd}y\u{fffd}");
        assert_eq!(lines("a\u{1b}[31m\nb\t"), "a\u{fffd}[31m\nb\u{fffd}");
        assert_eq!(
            line("\u{7f}\u{85}\u{a0}\u{200d}\u{2029}\u{2066}\u{206a}"),
            "\u{fffd}\u{fffd}\u{a0}\u{200d}\u{fffd}\u{fffd}\u{206a}"
        );
    }

    #[test]
    fn the_pattern_is_a_class_of_ranges() {
        let rest = r"\x{7f}-\x{9f}\x{61c}\x{200e}-\x{200f}\x{2028}-\x{202e}\x{2066}-\x{2069}]";
        assert_eq!(unsafe_pattern(false), format!(r"[\x{{0}}-\x{{1f}}{rest}"));
        assert_eq!(unsafe_pattern(true), format!(r"[\x{{0}}-\x{{8}}\x{{b}}-\x{{1f}}{rest}"));
    }
}
