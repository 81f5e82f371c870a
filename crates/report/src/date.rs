//! Times as people read them.

use jiff::{Timestamp, tz::TimeZone};

/// `2026-11-24 09:05 UTC` of seconds since 1970; what is no such time stays a number.
pub(crate) fn utc(unix_time: u64) -> String {
    let moment = i64::try_from(unix_time)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    match moment {
        Some(moment) => (moment.to_zoned(TimeZone::UTC))
            .strftime("%Y-%m-%d %H:%M UTC")
            .to_string(),
        None => unix_time.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_798_761_600), "2027-01-01 00:00 UTC");
        assert_eq!(utc(u64::MAX), "18446744073709551615");
    }
}
