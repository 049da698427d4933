//! Points in time and durations as people write them, and timestamps as this program writes them (UTC throughout).

use std::fmt;

const SECOND: i64 = 1_000;
const DAY: i64 = 86_400 * SECOND;

/// A duration in milliseconds: `90s`, `1h30m`, `7d`, `250ms`. At least one unit is needed.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[..letters] {
            "ms" => 1,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3_600 * SECOND,
            "d" => DAY,
            "w" => 7 * DAY,
            _ => return None,
        };
        rest = &rest[letters..];
        total = total.checked_add(number.checked_mul(unit)?)?;
    }
    Some(total)
}

/// A point in time, milliseconds since the epoch: 13 digits are milliseconds, 9 or 10 are seconds, else
/// `YYYY-MM-DD` or `YYYY-MM-DDTHH:MM[:SS[.mmm]]` with `Z` (assumed) or an offset such as `+02:00`.
pub(crate) fn parse_instant(text: &str) -> Option<i64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number: i64 = text.parse().ok()?;
        return match text.len() {
            13 => Some(number),
            9 | 10 => Some(number * SECOND),
            _ => None,
        };
    }
    let (date, rest) = (text.get(..10)?, text.get(10..)?);
    let bytes = date.as_bytes();
    if bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let (year, month, day) = (digits(&date[..4])?, digits(&date[5..7])?, digits(&date[8..])?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    let midnight = days_from_civil(year, month, day) * DAY;
    if rest.is_empty() {
        return Some(midnight);
    }
    let (clock, zone) = split_zone(rest.strip_prefix(['T', 't', ' '])?)?;
    let mut parts = clock.split(':');
    let (hours, minutes) = (digits(parts.next()?)?, digits(parts.next()?)?);
    let (seconds, millis) = match parts.next() {
        None => (0, 0),
        Some(seconds) => match seconds.split_once('.') {
            None => (digits(seconds)?, 0),
            Some((seconds, fraction)) => {
                digits(fraction)?;
                (digits(seconds)?, format!("{fraction:0<3}")[..3].parse().ok()?)
            }
        },
    };
    if parts.next().is_some() || hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    Some(midnight + hours * 3_600 * SECOND + minutes * 60 * SECOND + seconds * SECOND + millis - zone)
}

fn digits(text: &str) -> Option<i64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// Splits `10:00Z` or `10:00+02:00` into the clock and the zone's offset in milliseconds.
fn split_zone(text: &str) -> Option<(&str, i64)> {
    if let Some(clock) = text.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let Some(at) = text.rfind(['+', '-']) else { return Some((text, 0)) };
    let (clock, zone) = text.split_at(at);
    let (hours, minutes) = zone[1..].split_once(':')?;
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let offset = (hours * 60 + minutes) * 60 * SECOND;
    Some((clock, if zone.starts_with('-') { -offset } else { offset }))
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar (Howard Hinnant's algorithm).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date of a day since 1970-01-01: the inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// A timestamp in milliseconds, shown as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rfc3339(pub(crate) i64);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0.div_euclid(DAY));
        let clock = self.0.rem_euclid(DAY);
        write!(
            formatter,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            clock / 3_600_000,
            clock / 60_000 % 60,
            clock / 1_000 % 60,
            clock % 1_000
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("1h30m"), Some(5_400_000));
        assert_eq!(parse_duration("250ms"), Some(250));
        assert_eq!(parse_duration("7d"), Some(7 * DAY));
        for wrong in ["", "5", "h", "5x", "-5s", "99999999999999999999s", "1h 3m"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn instants() {
        assert_eq!(parse_instant("1700000000000"), Some(1_700_000_000_000));
        assert_eq!(parse_instant("1700000000"), Some(1_700_000_000_000));
        assert_eq!(parse_instant("2013-01-15"), Some(1_358_208_000_000));
        assert_eq!(parse_instant("2013-01-15T00:00Z"), Some(1_358_208_000_000));
        assert_eq!(parse_instant("2013-01-15T01:00:00.5+01:00"), Some(1_358_208_000_500));
        assert_eq!(parse_instant("2012-02-29"), Some(1_330_473_600_000));
        for wrong in [
            "2013-02-29",
            "2013-13-01",
            "2013-1-1",
            "2013-01-15T25:00Z",
            "2013-01-15T10:00+24:00",
            "2013-01-15T10:00-01:60",
            "2013-01-15T10:00+9223372036854775807:00",
            "12",
            "yesterday",
            "2013-01-15T",
        ] {
            assert_eq!(parse_instant(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn shown_and_parsed_again(millis in -62_135_596_800_000_i64..253_402_300_800_000) {
            let shown = Rfc3339(millis).to_string();
            prop_assert_eq!(parse_instant(&shown), Some(millis), "{}", shown);
        }

        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = (parse_instant(&text), parse_duration(&text));
        }
    }
}
