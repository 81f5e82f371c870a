//! `strftime` as chat templates call it, in UTC.

use jiff::{
    Timestamp,
    fmt::strtime::{BrokenDownTime, Config},
    tz::TimeZone,
};

/// `format` at this moment. Directives that are not known stay as they are.
pub(super) fn now(format: &str) -> Result<String, jiff::Error> {
    at(Timestamp::now(), format)
}

fn at(moment: Timestamp, format: &str) -> Result<String, jiff::Error> {
    let time = BrokenDownTime::from(&moment.to_zoned(TimeZone::UTC));
    time.to_string_with_config(&Config::new().lenient(true), format)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_epoch(seconds: i64, format: &str) -> String {
        at(Timestamp::from_second(seconds).unwrap(), format).unwrap()
    }

    #[test]
    fn formats_known_moments() {
        // Figures from `date -u -d @…`.
        let cases = [
            (0, "%Y-%m-%d %H:%M:%S", "1970-01-01 00:00:00"),
            (951_782_400, "%d %b %Y, %A", "29 Feb 2000, Tuesday"),
            (1_709_164_799, "%F %T", "2024-02-28 23:59:59"),
            (
                1_709_251_199,
                "%B %-d, %y at %I:%M %p",
                "February 29, 24 at 11:59 PM",
            ),
            (1_735_689_600, "%a %-m/%-d %Z 100%%", "Wed 1/1 UTC 100%"),
        ];
        for (seconds, format, expected) in cases {
            assert_eq!(after_epoch(seconds, format), expected);
        }
    }

    #[test]
    fn leaves_unknown_directives() {
        assert_eq!(after_epoch(0, "%K %-K %"), "%K %-K %");
    }
}
