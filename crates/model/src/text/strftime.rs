//! The part of `strftime` that chat templates use, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// `format` at this moment. Directives it does not know stay as they are.
pub(super) fn now(format: &str) -> String {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    at(since_epoch.as_secs(), format)
}

/// `format` at `seconds` after 1970-01-01 00:00:00 UTC.
fn at(seconds: u64, format: &str) -> String {
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    let (year, month, day) = civil(days);
    let weekday = DAYS[((days + 4) % 7) as usize];
    let month_name = MONTHS[(month - 1) as usize];
    let hour12 = (hour + 11) % 12 + 1;

    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut directive = chars.next();
        // `%-d` is `%d` without the leading zero.
        let bare = directive == Some('-');
        if bare {
            directive = chars.next();
        }
        let padded = |n: u64| {
            if bare {
                n.to_string()
            } else {
                format!("{n:02}")
            }
        };
        text += &match directive {
            Some('Y') => year.to_string(),
            Some('y') => padded(year % 100),
            Some('m') => padded(month),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('d') => padded(day),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('H') => padded(hour),
            Some('I') => padded(hour12),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('M') => padded(minute),
            Some('S') => padded(second),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('%') => "%".to_owned(),
            Some(other) => format!("%{}{other}", if bare { "-" } else { "" }),
            None => "%".to_owned(),
        };
    }
    text
}

/// Year, month and day of a day after 1970-01-01 in the Gregorian calendar. Years begin in March here, so that the
/// leap day is the last; 400 of them are one era of 146,097 days.
fn civil(days_since_epoch: u64) -> (u64, u64, u64) {
    let days = days_since_epoch + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(at(seconds, format), expected);
        }
    }

    #[test]
    fn leaves_unknown_directives() {
        assert_eq!(at(0, "%Q %-Q %"), "%Q %-Q %");
    }

    #[test]
    fn agrees_with_counting_days() {
        let leap =
            |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
        let mut date = (1970, 1, 1);
        for day in 0..150_000 {
            assert_eq!(civil(day), date);
            let (y, m, d) = date;
            let length = match m {
                2 => 28 + u64::from(leap(y)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            date = match (m, d) {
                _ if d < length => (y, m, d + 1),
                (12, _) => (y + 1, 1, 1),
                _ => (y, m + 1, 1),
            };
        }
    }
}
