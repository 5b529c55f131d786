//! Parser for durations in flags.

use std::time::Duration;

/// Maximum duration: 100 years, because timestamps end in the year 9999.
const MAX_DURATION: Duration = Duration::from_secs(876_000 * 3600);

/// Parses a duration such as `15s`, `10m` or `720h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|_| "must be a duration such as 15s, 10m or 720h".to_owned())?;
    let duration = Duration::try_from(parsed).map_err(|_| "must not be negative".to_owned())?;
    match duration {
        Duration::ZERO => Err("must be longer than zero".to_owned()),
        _ if duration > MAX_DURATION => Err("must be at most 876000h".to_owned()),
        _ => Ok(duration),
    }
}
