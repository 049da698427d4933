//! Leader epochs (= Raft terms) and the offsets at which they begin (KIP-101), over the term table of a group.
//!
//! `leader-epoch-checkpoint` is Kafka's text file: version 0, the number of rows, then a row `epoch offset` for each.
//! It is derived from the term table, for Kafka's tools, and has no row for a term without batches: that term never
//! wrote a record, so no client can name it.

use std::fmt::Write as _;

use crate::TermStart;

/// The largest epoch at or below `epoch` that has records, and the offset at which it ends: where the next one with
/// records begins. The latest epoch ends at the log's end, also before its first record.
///
/// Below the first epoch that is known the answer is `epoch` itself and where that first one begins: the records between
/// are gone, and a reader that stands behind them may go on. Above the latest epoch, and for a log without epochs, it is
/// `None`.
///
/// `end_offset` is the end of the log. A term without records begins and ends at the same offset, and does not count.
///
/// Source: KIP-101, `LeaderEpochFileCache.endOffsetFor` of Kafka.
pub fn end_offset_for(terms: &[TermStart], end_offset: i64, epoch: i32) -> Option<(i32, i64)> {
    let asked = u64::try_from(epoch).ok()?;
    let latest = terms.last()?;
    if asked >= latest.term {
        return (asked == latest.term).then_some((epoch, end_offset));
    }
    let behind = terms.partition_point(|row| row.term <= asked);
    let end = terms[behind].start_offset;
    let with_records = terms[..behind].iter().rev().find(|row| row.start_offset < end);
    let known = with_records.map_or(Some(epoch), |row| i32::try_from(row.term).ok())?;
    Some((known, end))
}

/// The epoch under which the record at `offset` was appended, if the table reaches back so far.
pub fn epoch_of(terms: &[TermStart], offset: i64) -> Option<i32> {
    let behind = terms.partition_point(|row| row.start_offset <= offset);
    i32::try_from(terms[..behind].last()?.term).ok()
}

/// The rows of terms with records: (epoch, first offset). Records below `log_start` are gone: rows that ended before it
/// are left out, and the first one begins there.
pub fn rows(terms: &[TermStart], log_start: i64, end_offset: i64) -> Vec<(i32, i64)> {
    let ends = terms.iter().skip(1).map(|row| row.start_offset).chain([end_offset]);
    terms
        .iter()
        .zip(ends)
        .map(|(row, end)| (row.term, row.start_offset.max(log_start), end))
        .filter(|(_, start, end)| start < end)
        .filter_map(|(term, start, _)| Some((i32::try_from(term).ok()?, start)))
        .collect()
}

/// The text of `leader-epoch-checkpoint`.
pub fn to_checkpoint(rows: &[(i32, i64)]) -> String {
    let mut text = format!("0\n{}\n", rows.len());
    for (epoch, offset) in rows {
        let _ = writeln!(text, "{epoch} {offset}");
    }
    text
}

/// Why the text of a `leader-epoch-checkpoint` cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of leader-epoch-checkpoint is not what its format wants")]
pub struct MalformedCheckpoint {
    /// The line, from 1.
    pub line: usize,
}

/// Reads the rows of a `leader-epoch-checkpoint`.
///
/// # Errors
/// Another version, a row that is no pair of ascending numbers, or fewer or more rows than it says.
pub fn from_checkpoint(text: &str) -> Result<Vec<(i32, i64)>, MalformedCheckpoint> {
    let malformed = |line| MalformedCheckpoint { line };
    let mut lines = text.lines();
    if lines.next() != Some("0") {
        return Err(malformed(1));
    }
    let count: usize = lines.next().and_then(|line| line.parse().ok()).ok_or(malformed(2))?;
    let mut rows: Vec<(i32, i64)> = Vec::new();
    for (line, number) in lines.zip(3..) {
        let (epoch, offset) = line.split_once(' ').ok_or(malformed(number))?;
        let row: (i32, i64) = epoch.parse().ok().zip(offset.parse().ok()).ok_or(malformed(number))?;
        if rows.last().is_some_and(|(epoch, offset)| row.0 <= *epoch || row.1 < *offset) {
            return Err(malformed(number));
        }
        rows.push(row);
    }
    if rows.len() == count { Ok(rows) } else { Err(malformed(2)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Terms 2 (offsets 0 to 9), 5 (no record), 6 (10 to 24), 9 (no record), 12 (from 25).
    fn terms() -> Vec<TermStart> {
        [(2, 0, 0), (5, 3, 10), (6, 4, 10), (9, 9, 25), (12, 10, 25)]
            .map(|(term, first_index, start_offset)| TermStart { term, first_index, start_offset })
            .to_vec()
    }

    /// Proves: L4 (the lookup: largest epoch at or below, its end, below and above what is known, current).
    #[test]
    fn the_end_of_an_epoch_is_where_the_next_one_with_records_begins() {
        let terms = terms();
        for (epoch, expected) in [
            (-1, None),
            (0, Some((0, 0))),
            (1, Some((1, 0))),
            (2, Some((2, 10))),
            (4, Some((2, 10))),
            (5, Some((2, 10))),
            (6, Some((6, 25))),
            (8, Some((6, 25))),
            (9, Some((6, 25))),
            (11, Some((6, 25))),
            (12, Some((12, 40))),
            (13, None),
            (i32::MAX, None),
        ] {
            assert_eq!(end_offset_for(&terms, 40, epoch), expected, "epoch {epoch}");
        }
        assert_eq!(end_offset_for(&[], 0, 3), None);
    }

    #[test]
    fn a_reader_behind_epochs_that_are_gone_goes_on() {
        // Records up to offset 24 were trimmed, and epoch 6 with them: who stands at 25 with epoch 6 misses nothing.
        assert_eq!(end_offset_for(&terms()[4..], 40, 6), Some((6, 25)));
    }

    #[test]
    fn the_current_epoch_is_known_before_its_first_record() {
        let terms = terms();
        assert_eq!(end_offset_for(&terms, 25, 12), Some((12, 25)));
        assert_eq!(end_offset_for(&terms, 25, 9), Some((6, 25)));
        assert_eq!(end_offset_for(&terms[..1], 0, 2), Some((2, 0)));
    }

    #[test]
    fn records_belong_to_the_last_term_that_began_at_or_before_them() {
        let terms = terms();
        for (offset, epoch) in
            [(-1, None), (0, Some(2)), (9, Some(2)), (10, Some(6)), (24, Some(6)), (25, Some(12))]
        {
            assert_eq!(epoch_of(&terms, offset), epoch, "offset {offset}");
        }
    }

    #[test]
    fn the_checkpoint_has_no_row_for_a_term_without_records() {
        let terms = terms();
        assert_eq!(rows(&terms, 0, 40), [(2, 0), (6, 10), (12, 25)]);
        assert_eq!(rows(&terms, 0, 25), [(2, 0), (6, 10)]);
        assert_eq!(rows(&terms, 12, 40), [(6, 12), (12, 25)]);
        assert_eq!(rows(&terms, 40, 40), []);
        let text = to_checkpoint(&rows(&terms, 0, 40));
        assert_eq!(text, "0\n3\n2 0\n6 10\n12 25\n");
        assert_eq!(from_checkpoint(&text), Ok(vec![(2, 0), (6, 10), (12, 25)]));
        assert_eq!(from_checkpoint("0\n0\n"), Ok(vec![]));
    }

    #[test]
    fn a_malformed_checkpoint_names_its_line() {
        for (text, line) in [
            ("", 1),
            ("1\n0\n", 1),
            ("0\nx\n", 2),
            ("0\n2\n1 0\n", 2),
            ("0\n0\n1 0\n", 2),
            ("0\n1\n1\n", 3),
            ("0\n1\n1 x\n", 3),
            ("0\n2\n1 0\n1 5\n", 4),
            ("0\n2\n1 5\n2 4\n", 4),
        ] {
            assert_eq!(from_checkpoint(text), Err(MalformedCheckpoint { line }), "{text:?}");
        }
    }
}
