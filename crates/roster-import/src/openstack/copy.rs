//! Values in the text format of PostgreSQL's COPY.

use serde_json::Value;

/// Returns the values of a line, between tabs. `\N` is NULL.
pub(super) fn values(line: &[u8]) -> Vec<Value> {
    let value = |value: &[u8]| if value == br"\N" { Value::Null } else { unescaped(value).into() };
    line.split(|byte| *byte == b'\t').map(value).collect()
}

/// Resolves escapes: letters for control characters, octal and hexadecimal numbers, and doubled backslashes.
fn unescaped(value: &[u8]) -> String {
    let (mut text, mut rest) = (Vec::new(), value);
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            text.push(*byte);
            continue;
        }
        let Some((escaped, after)) = rest.split_first() else { break };
        let (byte, length) = match escaped {
            b'b' => (8, 1),
            b'f' => (12, 1),
            b'n' => (b'\n', 1),
            b'r' => (b'\r', 1),
            b't' => (b'\t', 1),
            b'v' => (11, 1),
            b'x' => number(after, 16, 2).map_or((b'x', 1), |(byte, digits)| (byte, 1 + digits)),
            other => number(rest, 8, 3).unwrap_or((*other, 1)),
        };
        text.push(byte);
        rest = &rest[length..];
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Reads a number of at most this many digits. Returns its lowest byte, and how many digits it has.
fn number(text: &[u8], radix: u32, most: usize) -> Option<(u8, usize)> {
    let count = text.iter().take(most).take_while(|byte| char::from(**byte).is_digit(radix)).count();
    let digits = str::from_utf8(&text[..count]).ok()?;
    u32::from_str_radix(digits, radix).ok().map(|number| (number.to_le_bytes()[0], count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn escapes_are_resolved() {
        let line = br"a\\tb TAB \N TAB \x41\102\tz TAB \\N TAB \q TAB \";
        let line = String::from_utf8(line.to_vec()).unwrap().replace(" TAB ", "\t");
        let expected = [json!("a\\tb"), Value::Null, json!("AB\tz"), json!("\\N"), json!("q"), json!("")];
        assert_eq!(values(line.as_bytes()), expected);
    }
}
