//! The offset grammar of `-o` and `--to`: where to start reading and where to stop.
//!
//! ```text
//! start | end            the first record kept | the end as it is when the command starts
//! 10                     from offset 10             10:20   up to 20, exclusive      :20   from the start up to 20
//! +10 | -5               10 behind the start | the last 5 of each partition
//! :end                   from the start to the end as it is when the command starts
//! @TIME                  from the first record at or after TIME
//! @TIME:TIME  @:TIME     up to the first record at or after the second TIME (exclusive)
//! TIME                   2026-02-14 | 2026-02-14T09:00[:SS[.mmm]]Z | ms (13 digits) | s (10 digits)
//!                        | -48h (before now) | 1h (as the second TIME: behind the first) | end
//! ```
//! All bounds are per partition; the grammar is rpk's.

use super::time::{parse_duration, parse_instant};

/// One end of a range, resolved against each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// The log's start.
    Start,
    /// The high watermark when the command starts.
    End,
    /// An exact offset.
    Offset(i64),
    /// So many records behind the log's start.
    AfterStart(i64),
    /// So many records before the end.
    BeforeEnd(i64),
    /// The first record at or after a time, milliseconds since the epoch; the end where there is none.
    Time(i64),
}

/// A range of each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OffsetSpec {
    /// First record.
    pub(crate) from: Bound,
    /// Behind the last record, or `None` for a read without an end.
    pub(crate) to: Option<Bound>,
}

impl OffsetSpec {
    /// Parses the grammar above; relative times count from `now_ms`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub(crate) fn parse(text: &str, now_ms: i64) -> Result<Self, String> {
        if let Some(times) = text.strip_prefix('@') {
            return parse_times(times, now_ms);
        }
        let (from, to) = match text.split_once(':') {
            None => (text, None),
            Some((from, to)) => (from, Some(to)),
        };
        let from_bound = match from {
            "" if to.is_some_and(|to| !to.is_empty()) => Bound::Start,
            _ => parse_bound(from).ok_or_else(|| format!("'{from}' is no offset"))?,
        };
        let to_bound = match to {
            None | Some("") => None,
            Some(to) => Some(parse_bound(to).ok_or_else(|| format!("'{to}' is no offset"))?),
        };
        if let (Bound::Offset(from), Some(Bound::Offset(to))) = (from_bound, to_bound)
            && to < from
        {
            return Err(format!("the range ends at {to}, before it starts at {from}"));
        }
        Ok(Self { from: from_bound, to: to_bound })
    }
}

fn parse_bound(text: &str) -> Option<Bound> {
    let number = |text: &str| {
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| text.parse().ok())
            .flatten()
    };
    match text {
        "start" => Some(Bound::Start),
        "end" => Some(Bound::End),
        _ => match text.split_at_checked(1)? {
            ("+", rest) => number(rest).map(Bound::AfterStart),
            ("-", rest) => number(rest).map(Bound::BeforeEnd),
            _ => number(text).map(Bound::Offset),
        },
    }
}

/// Parses what follows the `@`. A time may hold colons itself, so every colon is tried as the separator.
fn parse_times(text: &str, now_ms: i64) -> Result<OffsetSpec, String> {
    if let Some(from) = parse_time(text, now_ms) {
        return Ok(OffsetSpec { from: Bound::Time(from), to: None });
    }
    for (colon, _) in text.match_indices(':') {
        let (from, to) = (&text[..colon], &text[colon + 1..]);
        let from_ms = match from {
            "" => None,
            _ => match parse_time(from, now_ms) {
                Some(from) => Some(from),
                None => continue,
            },
        };
        let from_bound = from_ms.map_or(Bound::Start, Bound::Time);
        let to_bound = match to {
            "" if from_ms.is_some() => None,
            "end" => Some(Bound::End),
            _ => {
                let behind = parse_duration(to).and_then(|span| from_ms.unwrap_or(now_ms).checked_add(span));
                match behind.or_else(|| parse_time(to, now_ms)) {
                    Some(to) => Some(Bound::Time(to)),
                    None => continue,
                }
            }
        };
        if let (Some(from), Some(Bound::Time(to))) = (from_ms, to_bound)
            && to < from
        {
            return Err("the range ends before it starts".to_owned());
        }
        return Ok(OffsetSpec { from: from_bound, to: to_bound });
    }
    Err(format!("'{text}' is no time"))
}

/// A point in time, or `-48h`: before now.
fn parse_time(text: &str, now_ms: i64) -> Option<i64> {
    match text.strip_prefix('-') {
        Some(ago) => parse_duration(ago).and_then(|ago| now_ms.checked_sub(ago)),
        None => parse_instant(text),
    }
}

/// What `--to` of `group seek` takes: where every partition of the group goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeekTarget {
    /// A place in the log.
    Bound(Bound),
    /// So many records forward (or, negative, back) from what is committed.
    Shift(i64),
}

impl SeekTarget {
    /// `start`, `end`, `@TIME` (or a bare time), an offset, or `+N` and `-N` relative to what is committed.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub(crate) fn parse(text: &str, now_ms: i64) -> Result<Self, String> {
        if let Some(time) = parse_time(text.strip_prefix('@').unwrap_or(text), now_ms)
            && (text.starts_with('@') || text.contains('-') && !text.starts_with('-'))
        {
            return Ok(Self::Bound(Bound::Time(time)));
        }
        match parse_bound(text) {
            Some(Bound::AfterStart(count)) => Ok(Self::Shift(count)),
            Some(Bound::BeforeEnd(count)) => Ok(Self::Shift(-count)),
            Some(bound) => Ok(Self::Bound(bound)),
            None => Err(format!("'{text}' is no place in a log")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000_000;
    const HOUR: i64 = 3_600_000;

    fn spec(text: &str) -> (Bound, Option<Bound>) {
        let spec = OffsetSpec::parse(text, NOW).unwrap_or_else(|error| panic!("{text}: {error}"));
        (spec.from, spec.to)
    }

    #[test]
    fn offsets() {
        assert_eq!(spec("start"), (Bound::Start, None));
        assert_eq!(spec("end"), (Bound::End, None));
        assert_eq!(spec(":end"), (Bound::Start, Some(Bound::End)));
        assert_eq!(spec("start:end"), (Bound::Start, Some(Bound::End)));
        assert_eq!(spec("+10"), (Bound::AfterStart(10), None));
        assert_eq!(spec("-5"), (Bound::BeforeEnd(5), None));
        assert_eq!(spec("-5:end"), (Bound::BeforeEnd(5), Some(Bound::End)));
        assert_eq!(spec("10"), (Bound::Offset(10), None));
        assert_eq!(spec("10:"), (Bound::Offset(10), None));
        assert_eq!(spec(":20"), (Bound::Start, Some(Bound::Offset(20))));
        assert_eq!(spec("10:20"), (Bound::Offset(10), Some(Bound::Offset(20))));
    }

    #[test]
    fn times() {
        let day = 1_771_027_200_000; // 2026-02-14
        assert_eq!(spec("@2026-02-14"), (Bound::Time(day), None));
        assert_eq!(spec("@2026-02-14:1h"), (Bound::Time(day), Some(Bound::Time(day + HOUR))));
        assert_eq!(
            spec("@2026-02-14T09:00Z:2026-02-14T10:30:00Z"),
            (Bound::Time(day + 9 * HOUR), Some(Bound::Time(day + 10 * HOUR + HOUR / 2)))
        );
        assert_eq!(spec("@-48h:-24h"), (Bound::Time(NOW - 48 * HOUR), Some(Bound::Time(NOW - 24 * HOUR))));
        assert_eq!(spec("@-1m:end"), (Bound::Time(NOW - 60_000), Some(Bound::End)));
        assert_eq!(spec("@:-1h"), (Bound::Start, Some(Bound::Time(NOW - HOUR))));
        assert_eq!(spec("@1700000000000"), (Bound::Time(1_700_000_000_000), None));
        assert_eq!(spec("@1700000000:"), (Bound::Time(1_700_000_000_000), None));
    }

    #[test]
    fn refuses() {
        for wrong in [
            "",
            ":",
            "x",
            "10-20",
            "20:10",
            "+",
            "-",
            "+-1",
            "@",
            "@:",
            "@x",
            "@-48",
            "@2026-02-14:x",
            "9999999999999999999999",
            "@2026-02-14:2026-02-13",
        ] {
            assert!(OffsetSpec::parse(wrong, NOW).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seek_targets() {
        let target = |text| SeekTarget::parse(text, NOW);
        assert_eq!(target("start"), Ok(SeekTarget::Bound(Bound::Start)));
        assert_eq!(target("end"), Ok(SeekTarget::Bound(Bound::End)));
        assert_eq!(target("+10"), Ok(SeekTarget::Shift(10)));
        assert_eq!(target("-10"), Ok(SeekTarget::Shift(-10)));
        assert_eq!(target("42"), Ok(SeekTarget::Bound(Bound::Offset(42))));
        assert_eq!(target("@-1h"), Ok(SeekTarget::Bound(Bound::Time(NOW - HOUR))));
        assert_eq!(target("2026-02-14"), Ok(SeekTarget::Bound(Bound::Time(1_771_027_200_000))));
        assert_eq!(target("@2026-02-14T00:00Z"), Ok(SeekTarget::Bound(Bound::Time(1_771_027_200_000))));
        assert!(target("soon").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "[@:+0-9TZstarend.-]{0,24}|\\PC{0,12}") {
            let _ = (OffsetSpec::parse(&text, NOW), SeekTarget::parse(&text, NOW));
        }
    }
}
