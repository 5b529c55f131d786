//! Durations as flags give them.

use std::time::Duration;

/// A hundred years.
const LONGEST: Duration = Duration::from_secs(876_000 * 3600);

/// Parses a duration such as `15s`, `10m` or `720h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|_| "write a duration such as 15s, 10m or 720h".to_owned())?;
    let duration = Duration::try_from(parsed).map_err(|_| "a duration can't be negative".to_owned())?;
    match duration {
        Duration::ZERO => Err("a duration must be longer than zero".to_owned()),
        // The clock ends in the year 9999.
        _ if duration > LONGEST => Err("a duration must be at most 876000h".to_owned()),
        _ => Ok(duration),
    }
}
