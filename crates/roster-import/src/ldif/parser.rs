//! Parses LDIF (RFC 2849): records of attributes, with folded lines and base64.
//!
//! This is our own parser because rejections need the line of every attribute, and one malformed record must not end
//! the import.

use base64::prelude::{BASE64_STANDARD, Engine};
use roster_credentials::digest::hex;

/// A record: one directory entry.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Record {
    /// First line.
    pub line: usize,
    /// Attributes in the order of the file.
    pub attributes: Vec<Attribute>,
    /// Lines that can't be read.
    pub faults: Vec<Fault>,
}

/// One value of an attribute.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Attribute {
    /// First line.
    pub line: usize,
    /// Name in lower case, without options.
    pub name: String,
    /// Value.
    pub value: String,
    /// Which of the attribute's values the server returned, if it returned only some of them.
    pub range: Option<Range>,
}

/// Part of an attribute's values: the option `;range=0-1499` of Active Directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Range {
    pub first: u64,
    /// `None` if there are no further values (`;range=1500-*`).
    pub last: Option<u64>,
}

impl Range {
    /// Reads the options of an attribute.
    fn of(options: &str) -> Option<Self> {
        let range = options.split(';').find_map(|option| option.strip_prefix("range="))?;
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let last = if last == "*" { None } else { Some(last.parse().ok()?) };
        Some(Self { first: first.parse().ok()?, last })
    }
}

/// A line that can't be read.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Fault {
    pub line: usize,
    pub error: SyntaxError,
}

impl Fault {
    /// Returns whether the line may have had one of these attributes.
    pub(super) fn may_be(&self, names: &[&str]) -> bool {
        match &self.error {
            SyntaxError::NoAttribute => true,
            SyntaxError::NotBase64(name) | SyntaxError::Url(name) | SyntaxError::NotUtf8(name) => {
                names.contains(&name.as_str())
            }
        }
    }
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum SyntaxError {
    #[error("must be the name of an attribute, a colon and a value")]
    NoAttribute,
    #[error("{0}: is not base64")]
    NotBase64(String),
    #[error("{0}: is not UTF-8 text")]
    NotUtf8(String),
    #[error("{0}: refers to a URL, and URLs are not fetched")]
    Url(String),
}

impl Record {
    /// Returns the attributes without their position.
    pub(super) fn content(&self) -> Vec<(&str, &str, Option<Range>)> {
        let attributes = self.attributes.iter();
        attributes.map(|attribute| (&*attribute.name, &*attribute.value, attribute.range)).collect()
    }

    /// Returns the first non-empty value of an attribute.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        let mut found =
            self.attributes.iter().filter(|attribute| attribute.name == name && !attribute.value.is_empty());
        found.next().map(|attribute| attribute.value.as_str())
    }

    /// Returns all non-empty values of an attribute.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Attribute> {
        self.attributes.iter().filter(move |attribute| attribute.name == name && !attribute.value.is_empty())
    }
}

/// Parses all records.
pub(super) fn parse(bytes: &[u8]) -> Vec<Record> {
    let (mut records, mut record) = (Vec::new(), Record::default());
    for (line, text) in unfold(bytes).into_iter().chain([(0, Vec::new())]) {
        let is_empty = record.attributes.is_empty() && record.faults.is_empty();
        if text.is_empty() {
            if !is_empty {
                records.push(std::mem::take(&mut record));
            }
            continue;
        }
        let parsed = attribute(line, &text);
        if is_empty && parsed.as_ref().is_ok_and(|attribute| attribute.name == "version") {
            continue;
        }
        if is_empty {
            record.line = line;
        }
        match parsed {
            Ok(attribute) => record.attributes.push(attribute),
            Err(error) => record.faults.push(Fault { line, error }),
        }
    }
    records
}

/// Returns logical lines with their line numbers: joins continuation lines, which begin with a space, and skips comments.
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

fn attribute(line: usize, text: &[u8]) -> Result<Attribute, SyntaxError> {
    let colon = text.iter().position(|byte| *byte == b':').ok_or(SyntaxError::NoAttribute)?;
    let name = str::from_utf8(&text[..colon]).map_err(|_| SyntaxError::NoAttribute)?;
    let name = name.to_ascii_lowercase();
    let (name, options) = name.split_once(';').unwrap_or((&name, ""));
    let (name, range) = (name.to_owned(), Range::of(options));
    // Servers accept more names than RFC 4512, such as those with an underscore. What is not used is ignored.
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(SyntaxError::NoAttribute);
    }
    let rest = &text[colon + 1..];
    let value = match rest.first() {
        Some(b':') => {
            let decoded = BASE64_STANDARD.decode(rest[1..].trim_ascii());
            decoded.map_err(|_| SyntaxError::NotBase64(name.clone()))?
        }
        Some(b'<') => return Err(SyntaxError::Url(name)),
        _ => rest.trim_ascii().to_vec(),
    };
    let value = match name.as_str() {
        // Active Directory's identifier of an entry is binary.
        "objectguid" if rest.starts_with(b":") => hex(&value).into_bytes(),
        _ => value,
    };
    // Binary values, such as photos and certificates, are not used.
    let value = String::from_utf8(value).map_err(|_| SyntaxError::NotUtf8(name.clone()))?;
    Ok(Attribute { line, name, value, range })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(text: &str) -> Vec<(usize, String, String)> {
        let records = parse(text.as_bytes());
        assert!(records.iter().all(|record| record.faults.is_empty()));
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
    fn ranges_are_read() {
        let records = parse(b"dn: a\nmember;range=0-1499: x\nmember;binary;Range=1500-*: y\nmember;range=x: z\n");
        assert_eq!(records[0].faults, []);
        let ranges: Vec<_> = records[0].all("member").map(|attribute| attribute.range).collect();
        let [first, last] = [Range { first: 0, last: Some(1499) }, Range { first: 1500, last: None }];
        assert_eq!(ranges, [Some(first), Some(last), None]);
    }

    #[test]
    fn malformed_lines_are_reported_with_their_record() {
        let records = parse(b"dn: a\nnonsense\n\ndn: b\nx:: !!\n\ndn: c\ny:< file:///etc/passwd\n\n\ndn: d\n");
        assert_eq!(records.iter().map(|record| record.first("dn").unwrap()).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        let lines: Vec<Vec<usize>> =
            records.iter().map(|record| record.faults.iter().map(|fault| fault.line).collect()).collect();
        assert_eq!(lines, [vec![2], vec![5], vec![8], vec![]]);
        assert!(records[1].faults[0].may_be(&["x"]) && !records[1].faults[0].may_be(&["y"]));
        assert!(records[0].faults[0].may_be(&["y"]));
    }

    /// Anyone who may write such an attribute could otherwise leave their own memberships unclear.
    #[test]
    fn attributes_with_unusual_names_are_ignored() {
        let records = parse(b"dn: a\nroom_number: 7\nx!y:: !\nmember: b\nmy name: x\n: y\n");
        let names: Vec<&str> = records[0].attributes.iter().map(|attribute| &*attribute.name).collect();
        assert_eq!(names, ["dn", "room_number", "member"]);
        let faults: Vec<bool> = records[0].faults.iter().map(|fault| fault.may_be(&["member"])).collect();
        assert_eq!(faults, [false, true, true]);
    }

    #[test]
    fn values_that_are_not_utf_8_are_reported_by_attribute() {
        let records = parse(b"dn: a\nmember: cn=Jos\xe9\nmemberUid:: /w==\n");
        assert!(records[0].faults[0].may_be(&["member"]) && !records[0].faults[0].may_be(&["cn"]));
        assert!(records[0].faults[1].may_be(&["memberuid"]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            parse(&bytes);
        }

        #[test]
        fn written_attributes_can_be_read(values in prop::collection::vec("\\PC{1,100}", 1..5)) {
            let mut text = Vec::new();
            for value in &values {
                crate::write::ldif::attribute(&mut text, "description", value).unwrap();
            }
            let records = parse(&text);
            prop_assert_eq!(&records[0].faults, &[]);
            let read: Vec<&str> = records[0].attributes.iter().map(|attribute| attribute.value.as_str()).collect();
            prop_assert_eq!(read, values);
        }
    }
}
