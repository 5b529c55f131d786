//! Prepares the bytes of a file for the readers: removes byte order marks, and rejects UTF-16 and UTF-32.
//!
//! Readers decode UTF-8 themselves, line by line, so that one bad line does not end the import.

/// Bytes at the beginning of a file that are examined.
const SAMPLE: usize = 256;

/// Encodings with their byte order marks. UTF-32LE comes before UTF-16LE, because its mark begins with that of
/// UTF-16LE.
const MARKS: [(&[u8], &str); 4] =
    [(b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")];

/// A file is not in UTF-8.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "is in {0}, and must be in UTF-8: convert the file with iconv -f {0} -t UTF-8 FILE > NEW, or on Windows with \
     Get-Content FILE | Set-Content -Encoding utf8 NEW"
)]
pub(super) struct EncodingError(&'static str);

/// Returns the content of a file without UTF-8's byte order mark, which Windows programs write.
///
/// # Errors
/// If the file is in UTF-16 or UTF-32, with or without a mark.
pub(super) fn without_mark(mut bytes: &[u8]) -> Result<&[u8], EncodingError> {
    if let Some((_, encoding)) = MARKS.iter().find(|(mark, _)| bytes.starts_with(mark)) {
        return Err(EncodingError(encoding));
    }
    // A file can have two marks, because some tools add one without checking.
    while let Some(rest) = bytes.strip_prefix(b"\xef\xbb\xbf") {
        bytes = rest;
    }
    unmarked(&bytes[..bytes.len().min(SAMPLE)]).map_or(Ok(bytes), |encoding| Err(EncodingError(encoding)))
}

/// Recognizes UTF-16 without a mark by the NUL next to each ASCII character.
fn unmarked(sample: &[u8]) -> Option<&'static str> {
    let zeros = |first: usize| sample.iter().skip(first).step_by(2).filter(|byte| **byte == 0).count();
    match (zeros(0), zeros(1)) {
        (0, zeros) if zeros > 0 && zeros * 4 >= sample.len() => Some("UTF-16LE"),
        (zeros, 0) if zeros > 0 && zeros * 4 >= sample.len() => Some("UTF-16BE"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn utf16(text: &str, encode: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(encode).collect()
    }

    #[test]
    fn marks_of_utf_8_are_removed() {
        assert_eq!(without_mark("\u{feff}\u{feff}é\u{feff}".as_bytes()), Ok("é\u{feff}".as_bytes()));
        assert_eq!(without_mark(b""), Ok(&b""[..]));
        assert_eq!(without_mark(b"a\0b\0\0"), Ok(&b"a\0b\0\0"[..]), "NUL at even and at odd places");
    }

    #[rstest]
    #[case("\u{feff}dn: cn=a", u16::to_le_bytes, "UTF-16")]
    #[case("\u{feff}dn: cn=a", u16::to_be_bytes, "UTF-16")]
    #[case("dn: cn=Zoë", u16::to_le_bytes, "UTF-16LE")]
    #[case("dn: cn=Zoë", u16::to_be_bytes, "UTF-16BE")]
    fn utf_16_is_recognized(#[case] text: &str, #[case] encode: fn(u16) -> [u8; 2], #[case] encoding: &'static str) {
        assert_eq!(without_mark(&utf16(text, encode)), Err(EncodingError(encoding)));
    }

    #[test]
    fn utf_32_is_recognized() {
        assert_eq!(without_mark(b"\xff\xfe\0\0a\0\0\0"), Err(EncodingError("UTF-32")));
    }
}
