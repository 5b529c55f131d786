//! Parses the expiry of accounts in the notations of other systems. `None` means never, as do times from the year 9999 on,
//! which the CRDs do not accept.
//!
//! A date that can't be read is an error: if it were ignored, an expired account would be imported as an active one.

use jiff::civil::DateTime;
use jiff::tz::Offset;
use jiff::{Timestamp, ToSpan};

/// Seconds from 1601-01-01, the epoch of Active Directory, to 1970-01-01.
const FILETIME_EPOCH: i64 = 11_644_473_600;

/// Intervals of 100 ns in a second.
const FILETIME_PER_SECOND: i64 = 10_000_000;

/// Largest 32-bit time: Samba writes it for "never".
const NEVER_32: i64 = 0x7fff_ffff;

/// 9999-01-01, from which on the CRDs accept no time, in seconds since 1970-01-01.
const YEAR_9999: i64 = 253_370_764_800;

/// An expiry that can't be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum ExpiryError {
    #[error("must be a number of days since 1970-01-01, or -1 for never")]
    Days,
    #[error(
        "0 is ambiguous: it means never to some systems and 1970-01-01 to others (shadow(5)); write -1 for never, or 1 for an account that has expired"
    )]
    Ambiguous,
    #[error("must be a number of 100 ns intervals since 1601-01-01; 0 or 9223372036854775807 for never")]
    FileTime,
    #[error("must be a time such as 20301231235959Z (GeneralizedTime of RFC 4517)")]
    GeneralizedTime,
    #[error("must be a number of seconds since 1970-01-01; 0 or 2147483647 for never")]
    Seconds,
}

/// Formats a time for the spec of a User.
pub(super) fn text(time: Timestamp) -> String {
    time.to_string()
}

/// Reads days since 1970, as in `/etc/shadow`. Empty text and negative numbers mean never.
pub(super) fn days(text: &str) -> Result<Option<Timestamp>, ExpiryError> {
    match text.trim() {
        "" => Ok(None),
        text => match text.parse::<i64>().map_err(|_| ExpiryError::Days)? {
            0 => Err(ExpiryError::Ambiguous),
            ..0 => Ok(None),
            days => Ok(seconds_after_1970(days.checked_mul(86_400))),
        },
    }
}

/// Reads Active Directory's `accountExpires`.
pub(super) fn file_time(text: &str) -> Result<Option<Timestamp>, ExpiryError> {
    match text.parse::<i64>() {
        Ok(0 | i64::MAX) => Ok(None),
        Ok(time @ 1..) => Ok(seconds_after_1970(Some(time / FILETIME_PER_SECOND - FILETIME_EPOCH))),
        _ => Err(ExpiryError::FileTime),
    }
}

/// Reads Samba's `sambaKickoffTime`.
pub(super) fn seconds(text: &str) -> Result<Option<Timestamp>, ExpiryError> {
    match text.parse::<i64>() {
        Ok(..=0 | NEVER_32 | i64::MAX) => Ok(None),
        Ok(seconds) => Ok(seconds_after_1970(Some(seconds))),
        Err(_) => Err(ExpiryError::Seconds),
    }
}

/// Returns whether a time is so late that it means never.
pub(super) fn is_never(time: Timestamp) -> bool {
    time.as_second() >= YEAR_9999
}

/// Returns `None`, which means never, from the year 9999 on, and if the time is later than a [`Timestamp`] can be.
fn seconds_after_1970(seconds: Option<i64>) -> Option<Timestamp> {
    seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()).filter(|time| !is_never(*time))
}

/// Reads a GeneralizedTime: `YYYYMMDDHH[MM[SS]]`, a fraction, and `Z` or an offset. Ignores the fraction.
pub(super) fn generalized_time(text: &str) -> Result<Option<Timestamp>, ExpiryError> {
    let invalid = ExpiryError::GeneralizedTime;
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).ok_or(invalid)?;
    let (digits, rest) = text.split_at(digits_end);
    if !matches!(digits.len(), 10 | 12 | 14) {
        return Err(invalid);
    }
    let rest = rest.strip_prefix(['.', ',']).map_or(rest, |rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    let part = |at: usize, length: usize| digits.get(at..at + length).map_or(Ok(0), str::parse::<i8>);
    let parts =
        (|| Ok::<_, std::num::ParseIntError>((part(4, 2)?, part(6, 2)?, part(8, 2)?, part(10, 2)?, part(12, 2)?)))();
    let (month, day, hour, minute, second) = parts.map_err(|_| invalid)?;
    let year = digits[..4].parse().map_err(|_| invalid)?;
    // Clamps leap seconds, which `DateTime` does not support.
    let second = second.min(59);
    let time = DateTime::new(year, month, day, hour, minute, second, 0).map_err(|_| invalid)?;
    let time = offset(rest).and_then(|offset| time.checked_sub(offset.seconds()).ok()).ok_or(invalid)?;
    Ok(Offset::UTC.to_timestamp(time).ok().filter(|time| !is_never(*time)))
}

/// Reads `Z`, `+HH` or `+HHMM`. Returns seconds.
fn offset(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let (sign, digits) =
        text.strip_prefix('+').map(|digits| (1, digits)).or(text.strip_prefix('-').map(|digits| (-1, digits)))?;
    if !matches!(digits.len(), 2 | 4) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let minutes = digits.get(2..4).map_or(Ok(0), str::parse::<i64>).ok()?;
    Some(sign * (digits[..2].parse::<i64>().ok()? * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn days_are_counted_from_1970() {
        assert_eq!(days("20000"), Ok(Some(time("2024-10-04T00:00:00Z"))));
        assert_eq!((days(""), days("-1"), days("99999999999")), (Ok(None), Ok(None), Ok(None)));
        assert_eq!((days("0"), days("x")), (Err(ExpiryError::Ambiguous), Err(ExpiryError::Days)));
    }

    #[test]
    fn file_times_are_counted_from_1601() {
        assert_eq!(file_time("132223104000000000"), Ok(Some(time("2020-01-01T00:00:00Z"))));
        assert_eq!((file_time("0"), file_time("9223372036854775807")), (Ok(None), Ok(None)));
        assert_eq!((file_time("-1"), file_time("")), (Err(ExpiryError::FileTime), Err(ExpiryError::FileTime)));
    }

    #[test]
    fn seconds_are_counted_from_1970() {
        assert_eq!(seconds("1577836800"), Ok(Some(time("2020-01-01T00:00:00Z"))));
        assert_eq!(
            (seconds("0"), seconds("2147483647"), seconds("x")),
            (Ok(None), Ok(None), Err(ExpiryError::Seconds))
        );
    }

    #[rstest]
    #[case("20200101000000Z", "2020-01-01T00:00:00Z")]
    #[case("20200101000000.0Z", "2020-01-01T00:00:00Z")]
    #[case("202001010130+0130", "2020-01-01T00:00:00Z")]
    #[case("2020010100,5-01", "2020-01-01T01:00:00Z")]
    #[case("20161231235960Z", "2016-12-31T23:59:59Z")]
    fn generalized_times_are_read(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(generalized_time(text), Ok(Some(time(expected))));
    }

    #[rstest]
    #[case("")]
    #[case("20200101000000")]
    #[case("20201301000000Z")]
    #[case("2020-01-01T00:00:00Z")]
    #[case("20200101000000+1")]
    #[case("soon")]
    fn other_text_is_refused(#[case] text: &str) {
        assert_eq!(generalized_time(text), Err(ExpiryError::GeneralizedTime));
    }

    #[test]
    fn times_out_of_range_mean_never() {
        assert_eq!(generalized_time("99991231235959Z"), Ok(None));
        assert_eq!(generalized_time("99990101000000Z"), Ok(None));
        assert_eq!(generalized_time("99981231235959Z"), Ok(Some(time("9998-12-31T23:59:59Z"))));
        assert!(is_never(time("9999-01-01T00:00:00Z")) && !is_never(time("9998-12-31T23:59:59Z")));
        assert_eq!((seconds("253370764800"), days("2932532")), (Ok(None), Ok(None)));
        // 9999-06-01 in Active Directory.
        assert_eq!(file_time("2650282848000000000"), Ok(None));
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(text in "[0-9Zé.,+-]{0,24}") {
            let _ = (days(&text), file_time(&text), seconds(&text), generalized_time(&text));
        }
    }
}
