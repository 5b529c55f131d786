//! Parses distinguished names (RFC 4514) into a form that can be compared.
//!
//! This is our own parser because no crate compares DNs as needed: escapes must be decoded to octets and these to
//! UTF-8, the descriptor and the OID of an attribute type must be equal, and values must be prepared as
//! `caseIgnoreMatch` requires. `ldapdn` 1.0 only splits DNs, and trims escaped spaces; `ldap-client-proto` 0.6 brings a
//! whole LDAP client and ignores neither case nor insignificant spaces; `x509-cert` knows only the attribute types of
//! certificates.

use std::fmt;

use roster_credentials::digest::hex;
use unicode_normalization::UnicodeNormalization;

/// Reason why a text is not a distinguished name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum DnError {
    #[error("is not a distinguished name (RFC 4514): it must be attribute=value pairs with commas between them")]
    Type,
    #[error(
        "is not a distinguished name (RFC 4514): a backslash must be followed by two hexadecimal digits or one of , + \" \\ < > ; = # and space"
    )]
    Escape,
    #[error("is not a distinguished name (RFC 4514): + , ; < > \" in a value must be preceded by a backslash")]
    Special,
    #[error("is not a distinguished name (RFC 4514): # must be followed by the hexadecimal digits of a BER string")]
    Hex,
}

/// A distinguished name. Two DNs are equal if they name the same entry. Letter case, insignificant spaces, the order of
/// values in one RDN, and the notation of characters and attribute types are ignored.
#[derive(Clone, Debug)]
pub(super) struct Dn {
    /// RDNs in normalized notation.
    normalized: String,
    /// Value of the first RDN, as it is written, without escapes.
    name: String,
}

impl Dn {
    /// Parses the notation of RFC 4514 and, as RFC 2253 requires, that of older software: values in quotation marks,
    /// and semicolons between RDNs.
    pub(super) fn parse(text: &str) -> Result<Self, DnError> {
        let mut reader = Reader { rest: text.trim_start_matches(' ') };
        let (mut rdns, mut name) = (Vec::new(), None);
        loop {
            let mut pairs = Vec::new();
            loop {
                let kind = reader.attribute_type()?;
                let value = reader.value()?;
                pairs.push(format!("{kind}={}", escaped(&prepared(&value))));
                name.get_or_insert(value);
                if !reader.take('+') {
                    break;
                }
            }
            pairs.sort();
            pairs.dedup();
            rdns.push(pairs.join("+"));
            if reader.rest.is_empty() {
                break;
            }
            if !reader.take(',') && !reader.take(';') {
                return Err(DnError::Special);
            }
        }
        Ok(Self { normalized: rdns.join(","), name: name.unwrap_or_default() })
    }

    /// Parses a value of `uniqueMember`: a DN, optionally followed by `#` and a bit string (RFC 4517, 3.3.21).
    pub(super) fn parse_with_uid(text: &str) -> Result<Self, DnError> {
        let bits = text.strip_suffix("'B").and_then(|text| text.rsplit_once("#'"));
        let dn = bits.filter(|(_, bits)| bits.bytes().all(|bit| matches!(bit, b'0' | b'1'))).map(|(dn, _)| dn);
        Self::parse(dn.unwrap_or(text))
    }

    /// Returns the value of the first RDN.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Dn {
    /// Writes the normalized notation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.normalized)
    }
}

impl PartialEq for Dn {
    fn eq(&self, other: &Self) -> bool {
        self.normalized == other.normalized
    }
}

impl Eq for Dn {}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn take(&mut self, expected: char) -> bool {
        let rest = self.rest.strip_prefix(expected);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Reads an attribute type and `=`. Returns its usual name in lower case.
    fn attribute_type(&mut self) -> Result<String, DnError> {
        let (kind, rest) = self.rest.split_once('=').ok_or(DnError::Type)?;
        let kind = kind.trim_matches(' ').to_ascii_lowercase();
        // LDAPv2 wrote OIDs with a prefix.
        let kind = kind.strip_prefix("oid.").unwrap_or(&kind);
        let is_valid = kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        if kind.is_empty() || !is_valid {
            return Err(DnError::Type);
        }
        self.rest = rest.trim_start_matches(' ');
        Ok(usual_name(kind).to_owned())
    }

    /// Reads a value up to the next separator.
    fn value(&mut self) -> Result<String, DnError> {
        let value = if self.take('#') {
            self.hex()?
        } else if self.take('"') {
            self.quoted()?
        } else {
            self.plain()?
        };
        self.rest = self.rest.trim_start_matches(' ');
        Ok(value)
    }

    fn hex(&mut self) -> Result<String, DnError> {
        let end = self.rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        let pairs = digits.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).ok().filter(|pair| pair.len() == 2));
        let bytes: Option<Vec<u8>> = pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect();
        let bytes = bytes.filter(|bytes| !bytes.is_empty()).ok_or(DnError::Hex)?;
        match &bytes[..] {
            // OCTET STRING, UTF8String, PrintableString, IA5String.
            [0x04 | 0x0c | 0x13 | 0x16, length, text @ ..] if usize::from(*length) == text.len() && *length < 0x80 => {
                Ok(text_or_hex(text.to_vec()))
            }
            _ => Ok(format!("#{}", digits.to_ascii_lowercase())),
        }
    }

    fn quoted(&mut self) -> Result<String, DnError> {
        let mut bytes = Vec::new();
        loop {
            match self.next().ok_or(DnError::Special)? {
                '"' => return Ok(text_or_hex(bytes)),
                '\\' => bytes.extend(self.escape()?),
                c => push(&mut bytes, c),
            }
        }
    }

    fn plain(&mut self) -> Result<String, DnError> {
        let (mut bytes, mut significant) = (Vec::new(), 0);
        while let Some(c) = self.rest.chars().next().filter(|c| !matches!(c, ',' | ';' | '+')) {
            self.next();
            match c {
                '"' | '<' | '>' => return Err(DnError::Special),
                '\\' => bytes.extend(self.escape()?),
                c => push(&mut bytes, c),
            }
            // Spaces at the end do not belong to the value, unless they are escaped.
            if c != ' ' {
                significant = bytes.len();
            }
        }
        bytes.truncate(significant);
        Ok(text_or_hex(bytes))
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// Reads what follows a backslash.
    fn escape(&mut self) -> Result<Vec<u8>, DnError> {
        let hex = self.rest.get(..2).filter(|pair| pair.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if let Some(byte) = hex.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            self.rest = &self.rest[2..];
            return Ok(vec![byte]);
        }
        let c = self.next().filter(|c| r#",+"\<>;=# "#.contains(*c)).ok_or(DnError::Escape)?;
        let mut bytes = Vec::new();
        push(&mut bytes, c);
        Ok(bytes)
    }
}

/// Returns the text, or the octets of binary values, such as those of operational entries, in hexadecimal notation.
fn text_or_hex(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| format!("#{}", hex(error.as_bytes())))
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Returns the name that RFC 4514 uses for an attribute type in lower case: types have OIDs, and some have several names.
fn usual_name(kind: &str) -> &str {
    match kind {
        "2.5.4.3" | "commonname" => "cn",
        "2.5.4.4" | "surname" => "sn",
        "2.5.4.6" | "countryname" => "c",
        "2.5.4.7" | "localityname" => "l",
        "2.5.4.8" | "stateorprovincename" => "st",
        "2.5.4.9" | "streetaddress" => "street",
        "2.5.4.10" | "organizationname" => "o",
        "2.5.4.11" | "organizationalunitname" => "ou",
        "0.9.2342.19200300.100.1.1" | "userid" => "uid",
        "0.9.2342.19200300.100.1.25" | "domaincomponent" => "dc",
        "0.9.2342.19200300.100.1.3" | "rfc822mailbox" => "mail",
        "1.2.840.113549.1.9.1" | "email" | "e" => "emailaddress",
        kind => kind,
    }
}

/// Prepares a value for comparison as RFC 4518 does: compatibility forms, letter case and runs of spaces are equal.
fn prepared(value: &str) -> String {
    let folded: String = value.nfkc().collect::<String>().to_lowercase().nfkc().collect();
    let words: Vec<&str> = folded.split_whitespace().collect();
    words.join(" ")
}

/// Escapes the special characters of a value.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for (index, c) in value.chars().enumerate() {
        if matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') || (c == '#' && index == 0) {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("cn=Sales\\2C EMEA,dc=x", "cn=sales\\, emea,dc=x")]
    #[case("CN=Admins\\, Read Only,DC=X", "cn=\"Admins, Read Only\";dc=x")]
    #[case(" cn = a  b , dc = x ", "CN=A B,DC=x")]
    #[case("uid=a+cn=b,dc=x", "cn=b+uid=a,dc=x")]
    #[case("2.5.4.3=a", "OID.2.5.4.3=a")]
    #[case("2.5.4.3=a,0.9.2342.19200300.100.1.25=x", "commonName=A,domainComponent=X")]
    #[case("cn=Lu\\C4\\8Di\\C4\\87", "cn=Luči\u{107}")]
    #[case("cn=Zoe\u{308}", "cn=ZOË")]
    #[case("cn=#0C0161", "cn=a")]
    #[case("cn=\\20a\\20", "cn=a")]
    #[case("cn=James \\\"Jim\\\" Smith\\, III", "cn=james \\22jim\\22 smith\\2c iii")]
    #[case("cn=a=b", "cn=a\\=b")]
    #[case("cn=\\#a", "cn=\\23a")]
    fn notations_of_one_name_are_equal(#[case] left: &str, #[case] right: &str) {
        assert_eq!(Dn::parse(left).unwrap(), Dn::parse(right).unwrap());
    }

    #[rstest]
    #[case("cn=a,ou=b", "cn=a\\,ou=b")]
    #[case("cn=a+ou=b", "cn=a,ou=b")]
    #[case("cn=a,ou=b", "ou=b,cn=a")]
    #[case("cn=ab", "cn=a b")]
    #[case("cn=a", "ou=a")]
    #[case("cn=\\#0C0161", "cn=a")]
    fn different_names_are_not_equal(#[case] left: &str, #[case] right: &str) {
        assert_ne!(Dn::parse(left).unwrap(), Dn::parse(right).unwrap());
    }

    #[rstest]
    #[case("CN=Admins\\, Read Only,DC=x", "Admins, Read Only")]
    #[case("cn=Sales\\2C EMEA", "Sales, EMEA")]
    #[case("cn= a  b ,dc=x", "a  b")]
    #[case("cn=a\\ ,dc=x", "a ")]
    #[case("cn=,dc=x", "")]
    fn the_name_is_the_first_value_without_escapes(#[case] dn: &str, #[case] name: &str) {
        assert_eq!(Dn::parse(dn).unwrap().name(), name);
    }

    #[rstest]
    #[case("", DnError::Type)]
    #[case("admins", DnError::Type)]
    #[case("=x", DnError::Type)]
    #[case("cn=a,", DnError::Type)]
    #[case("cn=a,b", DnError::Type)]
    #[case("c n=a", DnError::Type)]
    #[case("cn=a\\", DnError::Escape)]
    #[case("cn=a\\x", DnError::Escape)]
    #[case("cn=a\\zz", DnError::Escape)]
    #[case("cn=a<b", DnError::Special)]
    #[case("cn=\"a", DnError::Special)]
    #[case("cn=\"a\"b", DnError::Special)]
    #[case("cn=#0", DnError::Hex)]
    #[case("cn=#", DnError::Hex)]
    fn other_text_is_refused(#[case] text: &str, #[case] error: DnError) {
        assert_eq!(Dn::parse(text), Err(error));
    }

    #[test]
    fn the_bit_string_of_a_unique_member_is_not_part_of_its_name() {
        assert_eq!(Dn::parse_with_uid("cn=a,dc=x#'0101'B"), Dn::parse("cn=a,dc=x"));
        assert_eq!(Dn::parse_with_uid("cn=a,dc=x"), Dn::parse("cn=a,dc=x"));
        assert_eq!(Dn::parse_with_uid("cn=c#'2'B").unwrap().name(), "c#'2'B");
    }

    /// Writes a value with its characters escaped, each in one of three ways.
    fn written(value: &str, ways: &[u8]) -> String {
        let mut text = String::new();
        for (index, c) in value.chars().enumerate() {
            let hex = || {
                let mut buffer = [0; 4];
                c.encode_utf8(&mut buffer).bytes().fold(String::new(), |hex, byte| format!("{hex}\\{byte:02x}"))
            };
            match ways[index % ways.len()] {
                0 => text.push_str(&hex()),
                1 if r#",+"\<>;=# "#.contains(c) => text.extend(['\\', c]),
                _ if r#",+"\<>; #"#.contains(c) => text.push_str(&hex().to_uppercase()),
                _ => text.push(c),
            }
        }
        text
    }

    proptest! {
        #[test]
        fn any_value_is_read_as_it_was_written(value in "\\PC{1,12}", ways in prop::collection::vec(0_u8..3, 1..6)) {
            let dn = Dn::parse(&format!("cn={},dc=example", written(&value, &ways))).unwrap();
            prop_assert_eq!(dn.name(), &value);
            prop_assert_eq!(&dn, &Dn::parse(&format!("CN={}, DC=Example", written(&value, &[0]))).unwrap());
        }

        #[test]
        fn the_normalized_notation_is_a_fixed_point(text in "[a-cA-C=,+; \\\\#\"]{0,16}") {
            if let Ok(dn) = Dn::parse(&text) {
                prop_assert_eq!(&Dn::parse(&dn.to_string()).unwrap(), &dn);
            }
        }

        #[test]
        fn arbitrary_text_does_not_panic(text in "\\PC{0,40}") {
            let _ = Dn::parse_with_uid(&text);
        }
    }

    #[test]
    fn binary_values_are_compared_by_their_octets() {
        let dn = |text: &str| Dn::parse(text).unwrap();
        assert_eq!(dn("cn=\\ff\\FE,dc=x"), dn("CN=#0402FFFE,DC=x"));
        assert_ne!(dn("cn=\\ff\\fe,dc=x"), dn("cn=\\ff,dc=x"));
    }
}
