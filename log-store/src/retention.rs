//! Which segments a log no longer has to keep, by time and by size.
//!
//! ```text
//! oldest [ old ][ old ][ young ][ old ][ active ]
//!         goes   goes   stops here
//! ```
//! Whole segments go, the oldest first, and the first one that is kept ends it. The age of a segment is counted from the
//! later of its largest record timestamp and its last append: by record timestamps alone, as in Kafka, a topic
//! filled with last year's events is empty after five minutes.

use crate::{config::LogConfig, segment::SegmentSummary};

/// The log start after retention: the offset behind the last segment that `config` does not keep. `None` where
/// everything is kept. Nothing at or above `high_watermark` goes.
///
/// By time the active segment goes as well (the caller closes it first); by size it stays, and what is left is never
/// less than `retention.bytes`.
pub fn retention_start(
    segments: &[SegmentSummary],
    config: &LogConfig,
    high_watermark: i64,
    now_ms: i64,
) -> Option<i64> {
    if !config.cleanup_policy.delete {
        return None;
    }
    let mut remaining: u64 = segments.iter().map(|segment| segment.size).sum();
    segments
        .iter()
        .take_while(|segment| {
            let is_surplus = !segment.active
                && config
                    .retention_bytes
                    .is_some_and(|retained| remaining.saturating_sub(segment.size) >= retained);
            let goes = segment.first_index.is_some()
                && segment.end_offset <= high_watermark
                && (is_surplus || is_expired(segment, config, now_ms));
            remaining = remaining.saturating_sub(segment.size);
            goes
        })
        .last()
        .map(|segment| segment.end_offset)
}

fn is_expired(segment: &SegmentSummary, config: &LogConfig, now_ms: i64) -> bool {
    config.retention_ms.is_some_and(|retention_ms| {
        now_ms.saturating_sub(segment.largest_timestamp.max(segment.last_append_ms)) > retention_ms
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CleanupPolicy;

    const HOUR: i64 = 3_600_000;
    const NOW: i64 = 1_000 * HOUR;

    /// Segments of 10 records and 100 bytes: (largest timestamp, last append) in hours before now; the last is active.
    fn segments(ages: &[(i64, i64)]) -> Vec<SegmentSummary> {
        let summary = |(at, &(timestamp, append)): (usize, &(i64, i64))| SegmentSummary {
            base_offset: at as i64 * 10,
            end_offset: at as i64 * 10 + 10,
            first_index: Some(at as u64 * 10),
            size: 100,
            largest_timestamp: NOW - timestamp * HOUR,
            last_append_ms: NOW - append * HOUR,
            active: at + 1 == ages.len(),
        };
        ages.iter().enumerate().map(summary).collect()
    }

    fn config(retention_hours: Option<i64>, retention_bytes: Option<u64>) -> LogConfig {
        LogConfig {
            retention_ms: retention_hours.map(|hours| hours * HOUR),
            retention_bytes,
            ..LogConfig::default()
        }
    }

    fn start(ages: &[(i64, i64)], config: &LogConfig) -> Option<i64> {
        retention_start(&segments(ages), config, i64::MAX, NOW)
    }

    /// Proves: D12 (which segments; the active one among them; -1 keeps all).
    #[test]
    fn old_segments_go_until_the_first_young_one() {
        let day = config(Some(24), None);
        assert_eq!(start(&[(30, 30), (25, 25), (23, 23), (30, 30), (1, 1)], &day), Some(20));
        assert_eq!(start(&[(30, 30), (25, 25)], &day), Some(20));
        assert_eq!(start(&[(24, 24), (1, 1)], &day), None);
        assert_eq!(start(&[(-5, 30), (30, 30), (30, 30)], &day), None);
        assert_eq!(start(&[(30, 30), (25, 25)], &config(None, None)), None);
        assert_eq!(start(&[(0, 0)], &config(Some(0), None)), None);
        assert_eq!(start(&[(1, 1)], &config(Some(0), None)), Some(10));
    }

    #[test]
    fn last_years_events_stay_for_the_time_since_they_came() {
        let day = config(Some(24), None);
        assert_eq!(start(&[(9000, 1), (9000, 0)], &day), None);
        assert_eq!(start(&[(9000, 25), (9000, 0)], &day), Some(10));
    }

    /// Proves: D13 (what remains is at least the bytes to keep; the active segment stays).
    #[test]
    fn surplus_segments_go_while_enough_remains() {
        let ages = [(1, 1); 5];
        for (bytes, expected) in
            [(500, None), (401, None), (400, Some(10)), (399, Some(10)), (300, Some(20)), (0, Some(40))]
        {
            assert_eq!(start(&ages, &config(None, Some(bytes))), expected, "{bytes} bytes");
        }
        assert_eq!(start(&[(30, 30), (1, 1), (1, 1)], &config(Some(24), Some(100))), Some(20));
    }

    #[test]
    fn nothing_goes_above_the_high_watermark_nor_without_the_policy_nor_from_an_empty_log() {
        let day = config(Some(24), None);
        let old = segments(&[(30, 30), (30, 30), (30, 30)]);
        assert_eq!(retention_start(&old, &day, 19, NOW), Some(10));
        assert_eq!(retention_start(&old, &day, 9, NOW), None);
        let compact =
            LogConfig { cleanup_policy: CleanupPolicy { delete: false, compact: true }, ..day.clone() };
        assert_eq!(retention_start(&old, &compact, 30, NOW), None);
        let empty = [SegmentSummary { first_index: None, end_offset: 0, size: 0, active: true, ..old[0] }];
        assert_eq!(retention_start(&empty, &day, 0, NOW), None);
        assert_eq!(retention_start(&[], &day, 0, NOW), None);
    }
}
