//! LDIF (RFC 2849): records of attributes, folded lines, base64.

use base64::prelude::{BASE64_STANDARD, Engine};

/// A record: one entry of the directory.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Record {
    /// Line in which it begins.
    pub line: usize,
    /// Attributes in the order of the file, their names in lower case and without options.
    pub attributes: Vec<Attribute>,
}

/// A value of an attribute.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Attribute {
    /// Line in which it begins.
    pub line: usize,
    /// Name.
    pub name: String,
    /// Value, if it is text.
    pub value: String,
}

/// What can't be read, by line.
pub(super) type Fault = (usize, String);

impl Record {
    /// The first value of an attribute.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        let mut found =
            self.attributes.iter().filter(|attribute| attribute.name == name && !attribute.value.is_empty());
        found.next().map(|attribute| attribute.value.as_str())
    }

    /// All values of an attribute.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Attribute> {
        self.attributes.iter().filter(move |attribute| attribute.name == name && !attribute.value.is_empty())
    }
}

/// Reads all records. A record with a line that can't be read is left out as a whole.
pub(super) fn parse(bytes: &[u8]) -> (Vec<Record>, Vec<Fault>) {
    let (mut records, mut faults) = (Vec::new(), Vec::new());
    let (mut record, mut broken) = (Record::default(), false);
    for (line, text) in unfold(bytes).into_iter().chain([(0, Vec::new())]) {
        if text.is_empty() {
            if !record.attributes.is_empty() && !broken {
                records.push(std::mem::take(&mut record));
            }
            (record, broken) = (Record::default(), false);
            continue;
        }
        match attribute(line, &text) {
            Ok(attribute) if attribute.name == "version" && record.attributes.is_empty() => {}
            Ok(attribute) => {
                if record.attributes.is_empty() {
                    record.line = line;
                }
                record.attributes.push(attribute);
            }
            Err(reason) => {
                faults.push((line, reason));
                broken = true;
            }
        }
    }
    (records, faults)
}

/// Logical lines: what begins with a space goes on with the line before; comments are left out.
fn unfold(bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut lines: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut in_comment = false;
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.first() {
            Some(b' ') if in_comment => {}
            Some(b' ') => match lines.last_mut().filter(|(_, text)| !text.is_empty()) {
                Some((_, text)) => text.extend_from_slice(&line[1..]),
                None => lines.push((index + 1, line.to_vec())),
            },
            Some(b'#') => in_comment = true,
            _ => {
                in_comment = false;
                lines.push((index + 1, line.to_vec()));
            }
        }
    }
    lines
}

fn attribute(line: usize, text: &[u8]) -> Result<Attribute, String> {
    let colon = text.iter().position(|byte| *byte == b':').ok_or("has no colon behind the name of an attribute")?;
    let name = str::from_utf8(&text[..colon]).map_err(|_| "the name of the attribute is not text")?;
    let name = name.split(';').next().unwrap_or_default().to_ascii_lowercase();
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.') {
        return Err("has no name of an attribute before the colon".to_owned());
    }
    let rest = &text[colon + 1..];
    let value = match rest.first() {
        Some(b':') => BASE64_STANDARD.decode(rest[1..].trim_ascii()).map_err(|_| format!("{name}: is no base64"))?,
        Some(b'<') => return Err(format!("{name}: refers to a URL, which is not followed")),
        _ => rest.trim_ascii().to_vec(),
    };
    // Photos and certificates are no text, and nothing that is imported.
    let value = String::from_utf8(value).unwrap_or_default();
    Ok(Attribute { line, name, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(text: &str) -> Vec<(usize, String, String)> {
        let (records, faults) = parse(text.as_bytes());
        assert_eq!(faults, []);
        let attributes = records.into_iter().flat_map(|record| record.attributes);
        attributes.map(|attribute| (attribute.line, attribute.name, attribute.value)).collect()
    }

    #[test]
    fn folded_lines_comments_base64_and_options_are_read() {
        let text = "version: 1\r\n# a comment\r\n  that goes on\r\ndn: uid=a,\r\n dc=example\r\ncn;lang-fr:: Wm/Dqw==\r\nsn:x\r\n";
        let expected = [(4, "dn", "uid=a,dc=example"), (6, "cn", "Zoë"), (7, "sn", "x")];
        assert_eq!(values(text), expected.map(|(line, name, value)| (line, name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_record_with_a_bad_line_is_left_out_and_the_next_one_comes() {
        let (records, faults) =
            parse(b"dn: a\nnonsense\n\ndn: b\nx:: !!\n\ndn: c\ny:< file:///etc/passwd\n\n\ndn: d\n");
        assert_eq!(records.iter().map(|record| record.first("dn").unwrap()).collect::<Vec<_>>(), ["d"]);
        assert_eq!(faults.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 5, 8]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read(values in prop::collection::vec("\\PC{1,100}", 1..5)) {
            let mut text = Vec::new();
            for value in &values {
                crate::write::ldif::attribute(&mut text, "description", value).unwrap();
            }
            let (records, faults) = parse(&text);
            prop_assert_eq!(faults, []);
            let read: Vec<&str> = records[0].attributes.iter().map(|attribute| attribute.value.as_str()).collect();
            prop_assert_eq!(read, values);
        }
    }
}
