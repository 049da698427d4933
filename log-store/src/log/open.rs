//! Opening a [`Log`]: what its state promises is found and checked first; only then anything is cut or removed.
//!
//! ```text
//!   .raft summary covers it, and it lies below what was written since the checkpoint   believed
//!   behind the summary, below the checkpoint's end                                     headers are walked
//!   at or behind the checkpoint's end                                                  headers and CRC of every batch
//! ```
//! A summary that reaches into what was written since the checkpoint is not believed: the bytes it tells of may have been
//! cut and written again. It is removed, so that a later start does not meet it when it seems to fit.

use std::{io, path::Path, sync::Arc};

use super::{Log, Slot};
use crate::{
    GroupState, LogEnd, LogId, LogStoreError,
    config::LogConfig,
    leader_epochs,
    raft_file::SegmentStats,
    recovery::Mutation,
    segment::{HeaderWalk, Segment, SegmentIndex, SegmentPool, parse_name, remove_file},
};

/// Bytes read at a time where whole batches are checked.
const CHECK_PIECE: usize = 1 << 20;
/// Bytes read at a time where headers alone are.
const WALK_PIECE: usize = 64 << 10;

/// How far a segment has to reach.
#[derive(Clone, Copy)]
struct Target {
    /// Offset behind its last record.
    end_offset: i64,
    /// Its bytes, where they are promised (the last segment's).
    bytes: Option<u64>,
    /// From here on batches are checked whole.
    unchecked: u64,
}

/// A segment that was found as promised.
struct Opened {
    slot: Slot,
    /// Bytes of its file.
    len: u64,
    /// Its index files may not be believed.
    doubtful: bool,
}

impl Log {
    /// Opens a log at the end that `state` promises: cuts what lies beyond it, removes segments without a surviving
    /// entry, and walks the headers behind the last indexed byte. Batches at or above `unchecked` (the lowest end that the
    /// log had since the checkpoint from which recovery started; `None`: the whole active segment) are checked with their
    /// CRC.
    ///
    /// # Errors
    /// [`LogStoreError::Corrupt`] where something promised is missing or damaged (nothing was cut then); the system's.
    pub fn open(
        pool: &Arc<SegmentPool>,
        dir: &Path,
        state: &GroupState,
        unchecked: Option<&LogEnd>,
        config: LogConfig,
        now_ms: i64,
    ) -> Result<Arc<Self>, LogStoreError> {
        let log = Self::unopened(pool, dir, state, config);
        let names: Vec<String> = match pool.disk().list(dir) {
            Ok(entries) => entries.iter().map(|entry| entry.name.to_string_lossy().into_owned()).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(LogStoreError::io("list", dir)(error)),
        };
        let mut bases: Vec<i64> = names
            .iter()
            .filter_map(|name| parse_name(name))
            .filter_map(|(base, extension)| (extension == "log").then_some(base))
            .collect();
        bases.sort_unstable();
        let kept = log.promised_segments(state, &bases)?;
        let unchecked = unchecked.map_or((state.end.segment, 0), |end| (end.segment, end.position));
        let mut opened = Vec::with_capacity(kept.len());
        for (number, base) in kept.iter().enumerate() {
            let next = kept.get(number + 1);
            let target = Target {
                end_offset: *next.unwrap_or(&state.end.next_offset),
                bytes: next.is_none().then_some(state.end.position),
                unchecked: match unchecked.0.cmp(base) {
                    std::cmp::Ordering::Greater => u64::MAX,
                    std::cmp::Ordering::Equal => unchecked.1,
                    std::cmp::Ordering::Less => 0,
                },
            };
            opened.push(log.open_segment(state, *base, target, now_ms)?);
        }
        log.number(state, &mut opened)?;
        log.clean(&names, &kept, &opened)?;
        {
            let mut inner = log.state();
            inner.segments = opened.into_iter().map(|opened| opened.slot).collect();
            if kept.last() != Some(&state.end.segment) || inner.segments.is_empty() {
                let next_offset = inner.next_offset;
                inner.segments.push_back(Slot::new(log.segment(next_offset)));
            }
            let first = inner.segments[0].base_offset();
            inner.log_start = inner.log_start.max(first);
            let closed = inner.segments.len() - 1;
            if inner.segments.iter().take(closed).any(|slot| slot.index.is_some()) {
                log.rolled.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        }
        Ok(Arc::new(log))
    }

    /// The segments that hold batches above the floor.
    fn promised_segments(&self, state: &GroupState, bases: &[i64]) -> Result<Vec<i64>, LogStoreError> {
        let floor = state.floor.map_or(0, |(_, offset)| offset);
        if state.end.next_offset <= floor {
            return Ok(Vec::new());
        }
        let missing = |base: i64| LogStoreError::Corrupt {
            path: self.segment(base).path(),
            position: 0,
            reason: "the file is missing".to_owned(),
        };
        let last = state.end.segment;
        let first =
            bases.partition_point(|base| *base <= floor).checked_sub(1).ok_or_else(|| missing(floor))?;
        let behind = bases.partition_point(|base| *base <= last);
        if bases.get(behind.wrapping_sub(1)) != Some(&last) || behind <= first {
            return Err(missing(last));
        }
        Ok(bases[first..behind].to_vec())
    }

    /// Finds out what a segment holds, as far as it is promised.
    fn open_segment(
        &self,
        state: &GroupState,
        base_offset: i64,
        target: Target,
        now_ms: i64,
    ) -> Result<Opened, LogStoreError> {
        let segment = self.segment(base_offset);
        let open = segment.handle()?;
        let path = segment.path();
        let len = open.file.len().map_err(LogStoreError::io("measure", &path))?;
        let raft = segment.read_raft_file()?;
        let interval = self.state().interval();
        let fits = |stats: &SegmentStats| {
            stats.bytes <= target.unchecked.min(len)
                && target.bytes.is_none_or(|bytes| stats.bytes <= bytes)
                && stats.end_offset <= target.end_offset
        };
        let trusted = self.pool.planted(Mutation::SummaryTrusted);
        let summary = raft.summary.filter(|summary| trusted || fits(&summary.stats));
        let mut doubtful = raft.summary.is_some() && summary.is_none();
        let mut stats = SegmentStats::empty(base_offset);
        let mut index = SegmentIndex::default();
        if let Some(summary) = summary {
            // of a whole sealed segment nothing else is needed until somebody reads it
            if target.bytes.is_none() && summary.sealed && summary.stats.end_offset == target.end_offset {
                let first = raft.head.map(|head| head.first);
                let slot = Slot {
                    segment,
                    stats: summary.stats,
                    first,
                    anchor: (0, 0),
                    index: None,
                    may_hold_zstd: true,
                };
                return Ok(Opened { slot, len, doubtful: false });
            }
            match segment.read_index(&raft)? {
                Some(known) => (stats, index) = (summary.stats, known),
                None => doubtful = true,
            }
        }
        let end = target.bytes.unwrap_or(len);
        let below = target.unchecked.max(stats.bytes).min(end);
        let mut walk = HeaderWalk::new(path.clone(), &open, stats.bytes, stats.batches, end)
            .expecting(stats.end_offset)
            .reading(if stats.bytes < below { WALK_PIECE } else { CHECK_PIECE });
        while stats.end_offset < target.end_offset {
            let Some(found) = walk.next_waiting()? else { break };
            if found.position >= target.unchecked {
                walk.body(&found)?;
            } else if found.position + found.header.size() as u64 >= target.unchecked {
                walk = walk.reading(CHECK_PIECE);
            }
            let expected = leader_epochs::epoch_of(&state.terms, found.header.base_offset);
            if expected.is_some_and(|epoch| epoch != found.header.partition_leader_epoch) {
                return Err(LogStoreError::Corrupt {
                    path,
                    position: found.position,
                    reason: format!(
                        "a batch of epoch {}, expected was {expected:?}",
                        found.header.partition_leader_epoch
                    ),
                });
            }
            index.add(&mut stats, base_offset, &found.head, &found.header, interval, now_ms);
        }
        if stats.end_offset != target.end_offset || target.bytes.is_some_and(|bytes| bytes != stats.bytes) {
            return Err(LogStoreError::Corrupt {
                path,
                position: stats.bytes,
                reason: format!(
                    "{} bytes of batches end at offset {}; {:?} bytes that end at {} were promised",
                    stats.bytes, stats.end_offset, target.bytes, target.end_offset
                ),
            });
        }
        if target.bytes.is_none() {
            index.close(&stats, base_offset);
        }
        let first = raft.head.map(|head| head.first).filter(|_| !doubtful);
        let slot =
            Slot { segment, stats, first, anchor: (0, 0), index: Some(Arc::new(index)), may_hold_zstd: true };
        Ok(Opened { slot, len, doubtful })
    }

    /// Gives each segment the Raft index of its first batch, from the floor on: batches and control entries together have
    /// to fill the range from the floor to the last entry.
    fn number(&self, state: &GroupState, opened: &mut [Opened]) -> Result<(), LogStoreError> {
        let Some(last) = state.end.last.filter(|_| !opened.is_empty()) else { return Ok(()) };
        let (first_index, floor_offset) = match state.floor {
            Some((floor, offset)) => (floor.index + 1, offset),
            None => (state.terms.first().map_or(0, |row| row.first_index), 0),
        };
        let mut controls = state.controls.iter().map(|control| control.log_id.index).peekable();
        let mut next = first_index;
        let mut pass_controls = |next: &mut u64| {
            while controls.next_if(|index| *index <= *next).is_some() {
                *next += 1;
            }
        };
        let control_entries = state.controls.len() as u64;
        let mut batches = 0;
        for opened in opened.iter_mut() {
            let slot = &mut opened.slot;
            let below = self.batches_below(slot, floor_offset)?;
            pass_controls(&mut next);
            slot.anchor = (below, next);
            let mine = u64::from(slot.stats.batches - below);
            batches += mine;
            for _ in 0..mine {
                pass_controls(&mut next);
                next += 1;
            }
            if below == 0 && mine > 0 {
                let term = self.term_of(state, slot.anchor.1);
                slot.first = Some(LogId { term, index: slot.anchor.1 });
            }
        }
        let promised = last.index + 1 - first_index;
        if batches + control_entries != promised {
            let slot = &opened[0].slot;
            return Err(LogStoreError::Corrupt {
                path: slot.segment.path(),
                position: 0,
                reason: format!(
                    "{batches} batches and {control_entries} control entries are not the {promised} entries up to {last:?}"
                ),
            });
        }
        Ok(())
    }

    fn term_of(&self, state: &GroupState, index: u64) -> u64 {
        let row = state.terms.iter().rev().find(|row| row.first_index <= index);
        row.map_or(0, |row| row.term)
    }

    /// How many batches of a segment lie below the floor.
    fn batches_below(&self, slot: &Slot, floor_offset: i64) -> Result<u32, LogStoreError> {
        if floor_offset <= slot.base_offset() {
            return Ok(0);
        }
        let open = slot.segment.handle()?;
        let mut walk =
            HeaderWalk::new(slot.segment.path(), &open, 0, 0, slot.stats.bytes).reading(WALK_PIECE);
        while let Some(found) = walk.next_waiting()? {
            if found.header.last_offset() >= floor_offset {
                return Ok(found.ordinal);
            }
        }
        Ok(slot.stats.batches)
    }

    /// Removes what nobody was promised.
    fn clean(&self, names: &[String], kept: &[i64], opened: &[Opened]) -> Result<(), LogStoreError> {
        let disk = &**self.pool.disk();
        for name in names {
            let needless = match parse_name(name) {
                Some((base, _)) => kept.binary_search(&base).is_err(),
                None => name.ends_with(".tmp"),
            };
            if needless {
                remove_file(disk, &self.dir.join(name))?;
            }
        }
        for opened in opened {
            let segment: &Segment = &opened.slot.segment;
            if opened.doubtful {
                segment.discard_indexes()?;
            }
            if opened.len > opened.slot.stats.bytes {
                segment.shorten(opened.slot.stats.bytes)?;
            }
        }
        Ok(())
    }
}
