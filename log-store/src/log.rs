//! The log of one partition: ordered segments, a tail in memory, and the Raft index over both.
//!
//! ```text
//!   floor            applied        written       durable        end
//!     |  sealed ... sealed | active segment ............................|
//!     |  files alone       | headers in memory ...  ...with records     |
//!                          '------------------- tail -------------------'
//! ```
//! `append` makes an entry readable and says what the flusher has to write; `written`, `durable` and `applied` tell how
//! far that came. A batch stays in the **tail** (its header; its records until they are written) until all three are
//! past it: reads at the end of the log touch neither a map nor the disk. Everything older is found through the sparse
//! indexes: of the active segment and of rolled ones in memory, of sealed ones in the pool.
//!
//! Control entries (blank, membership, trim) never enter a `.log`; those above the floor are kept in memory. Hence
//! `index of a batch = first index of its segment + its ordinal + control entries of the segment before it`.
//!
//! Invariants: indexes are dense, terms never fall, base offsets are contiguous; nothing applied is truncated; a slice
//! that was handed out of a map is below the committed end, which no cut reaches.

mod open;
mod read;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    io::IoSlice,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;

use crate::{
    BatchHeader, ControlEntry, GroupState, LogEnd, LogId, LogStoreError, RecordBatch, TermStart,
    compression::Codec,
    config::LogConfig,
    data_directory::write_partition_metadata,
    disk::{DiskFile, write_cache_file},
    leader_epochs,
    offset_index::OFFSET_ENTRY_BYTES,
    raft_file::{SegmentOwner, SegmentStats},
    segment::{Segment, SegmentIndex, SegmentPool, SegmentSummary, remove_file},
    time_index::TIME_ENTRY_BYTES,
};

/// An entry of the Raft log.
#[derive(Clone, Debug)]
pub enum Entry {
    /// No records: blank, membership or trim.
    Control {
        /// Which entry.
        log_id: LogId,
        /// Opaque here.
        payload: Bytes,
    },
    /// One record batch.
    Batch {
        /// Which entry.
        log_id: LogId,
        /// The batch; `append` writes base offset and leader epoch into it.
        batch: RecordBatch,
    },
}

/// An entry without its records: what applying it needs.
#[derive(Clone, Debug)]
pub enum EntryHead {
    /// No records: blank, membership or trim.
    Control {
        /// Which entry.
        log_id: LogId,
        /// The log's end offset where it stands.
        offset: i64,
        /// Opaque here.
        payload: Bytes,
    },
    /// One record batch.
    Batch {
        /// Which entry.
        log_id: LogId,
        /// Its header, with the offsets and the epoch that `append` gave it.
        header: BatchHeader,
    },
}

/// An appended entry on its way to the flusher: what the segment and the round need of it.
#[derive(Clone, Debug)]
pub enum QueuedWrite {
    /// Goes into the round alone.
    Control {
        /// Which entry.
        log_id: LogId,
        /// The log's end offset where it stands.
        offset: i64,
        /// Opaque here.
        payload: Bytes,
    },
    /// Goes into its segment and into the round.
    Batch {
        /// Which entry.
        log_id: LogId,
        /// The segment it belongs to.
        segment: Arc<Segment>,
        /// The byte of the segment at which it begins.
        position: u64,
        /// The batch as it is stored.
        batch: RecordBatch,
    },
}

/// Writes batches of one log into their segments (page cache only), in the order of `writes`; control entries among
/// them are passed over. Segments that had no unsynced bytes before are added to `dirty`; [`Segment::sync`] makes
/// them durable. Files are made when first written.
///
/// # Errors
/// The system's. What was written is then cut off again as far as possible; the log has to be opened anew at its
/// durable end.
pub fn write_to_segments(writes: &[QueuedWrite], dirty: &mut Vec<Arc<Segment>>) -> Result<(), LogStoreError> {
    let mut run = Run::default();
    for write in writes {
        let QueuedWrite::Batch { log_id, segment, position, batch } = write else { continue };
        if !run.takes(segment, *position) {
            run.write(dirty)?;
            run.begin(segment, *position, *log_id);
        }
        run.slices.push(IoSlice::new(&batch.head));
        run.slices.push(IoSlice::new(&batch.records));
        run.end += batch.size() as u64;
    }
    run.write(dirty)
}

/// Batches that lie one behind the other in one segment: one system call writes them.
#[derive(Default)]
struct Run<'a> {
    segment: Option<&'a Arc<Segment>>,
    first: Option<LogId>,
    start: u64,
    end: u64,
    slices: Vec<IoSlice<'a>>,
}

impl<'a> Run<'a> {
    fn takes(&self, segment: &Arc<Segment>, position: u64) -> bool {
        position == self.end && self.segment.is_some_and(|mine| Arc::ptr_eq(mine, segment))
    }

    fn begin(&mut self, segment: &'a Arc<Segment>, position: u64, first: LogId) {
        self.segment = Some(segment);
        self.first = (position == 0).then_some(first);
        (self.start, self.end) = (position, position);
    }

    fn write(&mut self, dirty: &mut Vec<Arc<Segment>>) -> Result<(), LogStoreError> {
        if let Some(segment) = self.segment
            && !self.slices.is_empty()
            && segment.write(self.first, &self.slices, self.start)?
        {
            dirty.push(Arc::clone(segment));
        }
        self.slices.clear();
        Ok(())
    }
}

/// Bytes of the log on their way out, never copied.
#[derive(Clone, Debug)]
pub enum LogSlice {
    /// Bytes in memory or in a map.
    Bytes(Bytes),
    /// A range of a file, for `sendfile` from a thread that may wait for the disk.
    File {
        /// The file; it lives on while this does, also when its name is gone.
        file: Arc<dyn DiskFile>,
        /// First byte.
        position: u64,
        /// Bytes.
        len: usize,
    },
}

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// No: if a header that has to be seen is not in the page cache, the read says so.
    Never,
    /// Yes: the caller is a thread that may block.
    ForDisk,
}

/// What [`Log::read`] found.
#[derive(Clone, Debug, Default)]
pub struct LogRead {
    /// Whole batches, uncopied; the first may begin before the offset asked for.
    pub slices: Vec<LogSlice>,
    /// Their bytes.
    pub bytes: usize,
    /// The read would have had to wait and was told not to: repeat it from a thread that may.
    pub would_wait: bool,
    /// There is more below the upper bound: `max_bytes`, or the disk that it would have had to wait for, ended the read.
    pub is_cut_short: bool,
    /// A batch may be compressed by zstd, which clients of an old Fetch cannot read. What was appended since the start is known
    /// from the appends; of older segments nobody looked.
    pub may_hold_zstd: bool,
}

/// Bytes of batches between entries of an index, at the least: Kafka's 4 KiB would cost more memory than the few headers
/// that a search then passes over.
const MIN_INDEX_INTERVAL: u64 = 32 << 10;

/// The log of one partition. All methods may be called from any thread.
#[derive(Debug)]
pub struct Log {
    dir: Arc<Path>,
    owner: SegmentOwner,
    pool: Arc<SegmentPool>,
    state: Mutex<State>,
    /// A closed segment waits for its bytes, or for the worker.
    rolled: AtomicBool,
}

#[derive(Debug)]
struct State {
    config: LogConfig,
    /// Oldest first; the last one is active. Never empty.
    segments: VecDeque<Slot>,
    terms: Vec<TermStart>,
    controls: VecDeque<ControlEntry>,
    tail: VecDeque<TailBatch>,
    floor: Option<(LogId, i64)>,
    last: Option<LogId>,
    /// Where the last batch ended: what the durable state says of the end once all is durable.
    place: (i64, u64),
    next_offset: i64,
    log_start: i64,
    /// Entries below this index are in their segments.
    written: u64,
    durable: Option<LogId>,
    durable_offset: i64,
    applied: Option<LogId>,
    /// Where the last reads ended: most reads begin where another one did.
    hints: [Hint; 4],
    next_hint: usize,
    /// Segments whose files have to go, after a truncation.
    doomed: Vec<Arc<Segment>>,
    /// The segment that a truncation shortened.
    shortened: bool,
    /// `leader-epoch-checkpoint` as it was last written.
    epochs: Option<Vec<(i32, i64)>>,
}

/// A segment and what is known of it.
#[derive(Debug)]
struct Slot {
    segment: Arc<Segment>,
    stats: SegmentStats,
    /// The entry of its first batch, where that is known.
    first: Option<LogId>,
    /// Ordinal of its first batch above the floor, and the Raft index from which on it stands (behind control entries
    /// that begin there).
    anchor: (u32, u64),
    /// In memory until it is in files.
    index: Option<Arc<SegmentIndex>>,
    /// See [`LogRead::may_hold_zstd`].
    may_hold_zstd: bool,
}

/// A batch that is not yet written, durable and applied.
#[derive(Debug)]
struct TailBatch {
    log_id: LogId,
    segment: i64,
    position: u64,
    head: [u8; 61],
    /// Until it is written.
    records: Option<Bytes>,
    size: u64,
    next_offset: i64,
    /// The segment before it, for a truncation.
    before: SegmentStats,
}

impl TailBatch {
    fn base_offset(&self) -> i64 {
        BatchHeader::decode(&self.head).base_offset
    }
}

/// A batch boundary.
#[derive(Clone, Copy, Debug, Default)]
struct Hint {
    offset: i64,
    segment: i64,
    position: u64,
}

impl Slot {
    fn new(segment: Arc<Segment>) -> Self {
        let stats = SegmentStats::empty(segment.base_offset());
        Self {
            segment,
            stats,
            first: None,
            anchor: (0, 0),
            index: Some(Arc::default()),
            may_hold_zstd: false,
        }
    }

    fn base_offset(&self) -> i64 {
        self.segment.base_offset()
    }

    fn is_empty(&self) -> bool {
        self.stats.batches == 0
    }
}

impl State {
    fn active(&mut self) -> &mut Slot {
        self.segments.back_mut().expect("a log has an active segment")
    }

    /// The segment that holds `offset`, or would.
    fn slot_of(&self, offset: i64) -> usize {
        self.segments.partition_point(|slot| slot.base_offset() <= offset).saturating_sub(1)
    }

    /// Control entries with an index in a range.
    fn controls_between(&self, from: u64, to: u64) -> u64 {
        let at = |index| self.controls.partition_point(|control| control.log_id.index < index);
        at(to).saturating_sub(at(from)) as u64
    }

    fn interval(&self) -> u64 {
        u64::from(self.config.index_interval_bytes).max(MIN_INDEX_INTERVAL)
    }

    fn begin_term(&mut self, log_id: LogId) {
        if self.terms.last().is_none_or(|row| row.term < log_id.term) {
            let start_offset = self.next_offset;
            self.terms.push(TermStart { term: log_id.term, first_index: log_id.index, start_offset });
        }
    }

    /// Whether the active segment has to be closed before a batch.
    fn is_full_for(&self, header: &BatchHeader, now_ms: i64) -> bool {
        let Some(slot) = self.segments.back().filter(|slot| !slot.is_empty()) else { return false };
        let (config, stats) = (&self.config, &slot.stats);
        let last_offset = self.next_offset + i64::from(header.last_offset_delta);
        let index_bytes = config.segment_index_bytes as usize;
        let full = slot.index.as_ref().is_some_and(|index| {
            index.offsets.len() >= index_bytes / OFFSET_ENTRY_BYTES
                || index.times.len() + 1 >= index_bytes / TIME_ENTRY_BYTES
        });
        // record time decides, not the clock: old timestamps never close a segment
        let age = match stats.first_timestamp {
            first if first >= 0 => header.max_timestamp.saturating_sub(first),
            _ => now_ms.saturating_sub(stats.first_append_ms),
        };
        let jitter = match config.segment_jitter_ms {
            jitter if jitter > 0 && config.segment_ms > 0 => {
                slot.base_offset().wrapping_mul(0x9E37_79B9).rem_euclid(jitter.min(config.segment_ms))
            }
            _ => 0,
        };
        let limit = config.segment_bytes.min(i32::MAX as u64);
        stats.bytes + header.size() as u64 > limit
            || last_offset - slot.base_offset() > i64::from(i32::MAX)
            || full
            || age > config.segment_ms.saturating_sub(jitter)
    }

    /// Lets go of headers that nobody needs any more.
    fn shorten_tail(&mut self) {
        let (Some(durable), Some(applied)) = (self.durable, self.applied) else { return };
        let done = self.written.min(durable.index + 1).min(applied.index + 1);
        while self.tail.front().is_some_and(|batch| batch.log_id.index < done) {
            self.tail.pop_front();
        }
    }

    /// The term of the entry at `index`, where the log holds it (the floor counts).
    fn term_at(&self, index: u64) -> Option<u64> {
        if let Some((floor, _)) = self.floor
            && floor.index >= index
        {
            return (floor.index == index).then_some(floor.term);
        }
        let row = self.terms.iter().rev().find(|row| row.first_index <= index)?;
        (index <= self.last?.index).then_some(row.term)
    }

    /// The last entry's place in the raised floor: drops what is below.
    fn raise_floor(&mut self, floor: LogId, offset: i64) {
        self.floor = Some((floor, offset));
        let kept = self.controls.partition_point(|control| control.log_id.index <= floor.index);
        self.controls.drain(..kept);
        let last = self.last.map_or(0, |last| last.index);
        let ends: Vec<u64> = self.terms.iter().skip(1).map(|row| row.first_index - 1).chain([last]).collect();
        let mut ends = ends.into_iter();
        self.terms.retain(|_| ends.next().is_some_and(|end| end > floor.index));
    }
}

impl Log {
    /// Makes the directory of a new, empty replica (`state` as `Created` folds it). Nothing is synced: the directory's
    /// name is durable once its parent is synced, its content once [`Segment::sync`] of a written segment returned.
    ///
    /// # Errors
    /// The system's.
    pub fn create(
        pool: &Arc<SegmentPool>,
        dir: &Path,
        state: &GroupState,
        config: LogConfig,
    ) -> Result<Arc<Self>, LogStoreError> {
        pool.disk().create_dir(dir).map_err(LogStoreError::io("create", dir))?;
        write_partition_metadata(&**pool.disk(), dir, state.topic_id)?;
        let log = Self::unopened(pool, dir, state, config);
        log.state().segments.push_back(Slot::new(log.segment(state.end.next_offset)));
        Ok(Arc::new(log))
    }

    /// Everything but the segments.
    fn unopened(pool: &Arc<SegmentPool>, dir: &Path, state: &GroupState, config: LogConfig) -> Self {
        let end = state.end;
        Self {
            dir: Arc::from(dir),
            owner: SegmentOwner {
                topic_id: state.topic_id,
                partition: state.partition,
                replica: state.replica,
            },
            pool: Arc::clone(pool),
            state: Mutex::new(State {
                config,
                segments: VecDeque::new(),
                terms: state.terms.clone(),
                controls: state.controls.iter().cloned().collect(),
                tail: VecDeque::new(),
                floor: state.floor,
                last: end.last,
                place: (end.segment, end.position),
                next_offset: end.next_offset,
                log_start: state.log_start,
                written: end.last.map_or(0, |last| last.index + 1),
                durable: end.last,
                durable_offset: end.next_offset,
                applied: state.floor.map(|(floor, _)| floor),
                hints: [Hint { offset: -1, segment: 0, position: 0 }; 4],
                next_hint: 0,
                doomed: Vec::new(),
                shortened: false,
                epochs: None,
            }),
            rolled: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn segment(&self, base_offset: i64) -> Arc<Segment> {
        Segment::new(&self.pool, &self.dir, self.owner, base_offset)
    }

    /// Appends entries, readable at once: stamps base offset and leader epoch, gives each batch its place, rolls where
    /// the settings say so. Adds what the flusher has to write to `queue`, in order.
    ///
    /// # Panics
    /// If indexes are not dense or a term falls.
    pub fn append(
        &self,
        entries: impl IntoIterator<Item = Entry>,
        now_ms: i64,
        queue: &mut Vec<QueuedWrite>,
    ) {
        let mut state = self.state();
        for entry in entries {
            let log_id = entry.log_id();
            if let Some(last) = state.last {
                // openraft's storage suite leaves gaps between control entries
                let is_next = match entry {
                    Entry::Control { .. } => log_id.index > last.index,
                    Entry::Batch { .. } => log_id.index == last.index + 1,
                };
                assert!(is_next && log_id.term >= last.term, "entry {log_id:?} was appended after {last:?}");
            }
            state.begin_term(log_id);
            match entry {
                Entry::Control { log_id, payload } => {
                    let offset = state.next_offset;
                    state.controls.push_back(ControlEntry { log_id, offset, payload: payload.clone() });
                    queue.push(QueuedWrite::Control { log_id, offset, payload });
                }
                Entry::Batch { log_id, batch } => {
                    queue.push(self.append_batch(&mut state, log_id, batch, now_ms))
                }
            }
            state.last = Some(log_id);
        }
    }

    fn append_batch(
        &self,
        state: &mut State,
        log_id: LogId,
        mut batch: RecordBatch,
        now_ms: i64,
    ) -> QueuedWrite {
        let epoch =
            i32::try_from(log_id.term).expect("a term above i32::MAX is refused when it is voted for");
        batch.set_base_offset(state.next_offset);
        batch.set_leader_epoch(epoch);
        let header = batch.header();
        assert!(header.last_offset_delta >= 0, "a batch without offsets was appended: {header:?}");
        if state.is_full_for(&header, now_ms) {
            self.roll_active(state);
        }
        let interval = state.interval();
        let next_offset = header.next_offset();
        let slot = state.segments.back_mut().expect("a log has an active segment");
        if slot.is_empty() {
            slot.first = Some(log_id);
            slot.anchor = (0, log_id.index);
        }
        slot.may_hold_zstd |= header.codec() == Ok(Codec::Zstd);
        let before = slot.stats;
        let index = Arc::make_mut(slot.index.get_or_insert_with(Arc::default));
        index.add(&mut slot.stats, slot.segment.base_offset(), &batch.head, &header, interval, now_ms);
        let (segment, position) = (Arc::clone(&slot.segment), before.bytes);
        state.tail.push_back(TailBatch {
            log_id,
            segment: segment.base_offset(),
            position,
            head: batch.head,
            records: Some(batch.records.clone()),
            size: header.size() as u64,
            next_offset,
            before,
        });
        state.place = (segment.base_offset(), position + header.size() as u64);
        state.next_offset = next_offset;
        QueuedWrite::Batch { log_id, segment, position, batch }
    }

    /// Closes the active segment and begins the next one, which has no files yet.
    fn roll_active(&self, state: &mut State) {
        let next_offset = state.next_offset;
        let slot = state.active();
        let (stats, base_offset) = (slot.stats, slot.base_offset());
        Arc::make_mut(slot.index.get_or_insert_with(Arc::default)).close(&stats, base_offset);
        state.segments.push_back(Slot::new(self.segment(next_offset)));
        self.rolled.store(true, Ordering::SeqCst);
    }

    /// All entries up to `index` are in their segments: memory may let go of their records.
    pub fn written(&self, index: u64) {
        let mut state = self.state();
        let Some(last) = state.last else { return };
        let (from, to) = (state.written, index.min(last.index) + 1);
        if to <= from {
            return;
        }
        state.written = to;
        let begin = state.tail.partition_point(|batch| batch.log_id.index < from);
        let end = state.tail.partition_point(|batch| batch.log_id.index < to);
        for batch in state.tail.range_mut(begin..end) {
            batch.records = None;
        }
        state.shorten_tail();
    }

    /// All entries up to `log_id` are durable.
    pub fn durable(&self, log_id: LogId) {
        let mut state = self.state();
        // entries that were truncated meanwhile say of those before them that they are durable
        let Some(log_id) = state.last.map(|last| if last.index < log_id.index { last } else { log_id })
        else {
            return;
        };
        if state.durable.is_some_and(|durable| durable.index >= log_id.index) {
            return;
        }
        state.durable = Some(log_id);
        let behind = state.tail.partition_point(|batch| batch.log_id.index <= log_id.index);
        if let Some(batch) = behind.checked_sub(1).and_then(|at| state.tail.get(at)) {
            state.durable_offset = state.durable_offset.max(batch.next_offset);
        }
        state.shorten_tail();
    }

    /// All entries up to `log_id` are committed and applied: memory may let go of their headers, and nothing may
    /// truncate them any more.
    pub fn applied(&self, log_id: LogId) {
        let mut state = self.state();
        if state.applied.is_none_or(|applied| applied.index < log_id.index) {
            state.applied = Some(log_id);
            state.shorten_tail();
        }
    }

    /// The last entry (the floor where nothing is above it).
    pub fn last_log_id(&self) -> Option<LogId> {
        self.state().last
    }

    /// The last entry that is durable here.
    pub fn durable_log_id(&self) -> Option<LogId> {
        self.state().durable
    }

    /// The last purged entry.
    pub fn floor(&self) -> Option<LogId> {
        self.state().floor.map(|(floor, _)| floor)
    }

    /// The log's end: what a `Cut` record would carry.
    pub fn end(&self) -> LogEnd {
        let state = self.state();
        let (segment, position) = state.place;
        LogEnd { segment, position, last: state.last, next_offset: state.next_offset }
    }

    /// The terms with an entry above the floor, oldest first.
    pub fn terms(&self) -> Vec<TermStart> {
        self.state().terms.clone()
    }

    /// First offset that may be read.
    pub fn log_start(&self) -> i64 {
        self.state().log_start
    }

    /// Offset of the next record.
    pub fn next_offset(&self) -> i64 {
        self.state().next_offset
    }

    /// Offset behind the last record that is durable here.
    pub fn durable_offset(&self) -> i64 {
        self.state().durable_offset
    }

    /// Bytes in segments.
    pub fn size(&self) -> u64 {
        self.state().segments.iter().map(|slot| slot.stats.bytes).sum()
    }

    /// Forgets every entry after `last` (all of them for `None`), in memory. The answer goes into the `Cut` record;
    /// once that is durable, [`Log::cut_files`] has to follow, before anything is appended.
    ///
    /// # Errors
    /// Where the place of the cut has to be read from files: the system's, [`LogStoreError::Corrupt`].
    ///
    /// # Panics
    /// Where an applied entry would go.
    pub fn truncate_after(&self, last: Option<LogId>) -> Result<LogEnd, LogStoreError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let last = last.or(state.floor.map(|(floor, _)| floor));
        let from = last.map_or(0, |last| last.index + 1);
        if let Some(applied) = state.applied {
            assert!(
                applied.index < from,
                "entries from {from} on were to be truncated, {applied:?} is applied"
            );
        }
        if state.last.is_some_and(|end| end.index >= from) {
            if let Some(first_gone) = self.first_batch_from(state, from)? {
                self.truncate_batches(state, from, &first_gone)?;
            }
            let slot = state.active();
            if slot.anchor.0 == slot.stats.batches {
                slot.anchor.1 = slot.anchor.1.min(from);
            }
            let kept = state.controls.partition_point(|control| control.log_id.index < from);
            state.controls.truncate(kept);
            state.terms.retain(|row| row.first_index < from);
            state.last = last;
            state.written = state.written.min(from);
            state.durable = state.durable.min(last);
            state.durable_offset = state.durable_offset.min(state.next_offset);
            state.hints = [Hint { offset: -1, segment: 0, position: 0 }; 4];
        }
        drop(guard);
        Ok(self.end())
    }

    /// Forgets the batch `first_gone` and all behind it.
    fn truncate_batches(
        &self,
        state: &mut State,
        from: u64,
        first_gone: &Boundary,
    ) -> Result<(), LogStoreError> {
        while state.active().base_offset() > first_gone.segment {
            let gone = state.segments.pop_back().expect("a batch lies in an older segment");
            state.doomed.push(gone.segment);
        }
        let in_memory = state.tail.partition_point(|batch| batch.log_id.index < from);
        let first_in_memory = state
            .tail
            .get(in_memory)
            .filter(|batch| (batch.segment, batch.position) == (first_gone.segment, first_gone.position));
        let before = first_in_memory.map(|batch| batch.before);
        state.tail.truncate(in_memory);
        let interval = state.interval();
        let slot = state.active();
        if first_gone.position == 0 {
            // nothing of it is left: the same offset begins a new segment
            let base_offset = slot.base_offset();
            let gone = std::mem::replace(slot, Slot::new(self.segment(base_offset)));
            state.doomed.push(gone.segment);
            let previous = state.segments.len().checked_sub(2).and_then(|at| state.segments.get(at));
            state.place =
                previous.map_or((base_offset, 0), |previous| (previous.base_offset(), previous.stats.bytes));
        } else {
            let base_offset = slot.base_offset();
            match (before, &mut slot.index) {
                (Some(before), Some(index)) => {
                    let index = Arc::make_mut(index);
                    index.offsets.truncate(first_gone.position);
                    index.times.truncate(crate::segment::relative(first_gone.offset, base_offset));
                    slot.stats = before;
                }
                // opened since, or sealed already: what is left is walked
                _ => {
                    let open = slot.segment.handle()?;
                    let append_ms = slot.stats.last_append_ms;
                    let (stats, index) =
                        slot.segment.rebuild(&open, first_gone.position, interval, append_ms)?;
                    slot.stats = stats;
                    slot.index = Some(Arc::new(index));
                }
            }
            state.place = (base_offset, first_gone.position);
            state.shortened = true;
        }
        state.next_offset = first_gone.offset;
        Ok(())
    }

    /// What recovery found in these bytes of a segment is unsynced: the segment, unless the log has it no more.
    pub(crate) fn mark_unsynced(&self, base_offset: i64, bytes: Range<u64>) -> Option<Arc<Segment>> {
        let state = self.state();
        let slot = state.segments.iter().find(|slot| slot.base_offset() == base_offset)?;
        let end = bytes.end.min(slot.stats.bytes);
        slot.segment.mark_found(bytes.start.min(end)..end);
        Some(Arc::clone(&slot.segment))
    }

    /// Cuts the files to the log's end and removes those beyond it. Adds segments with unsynced changes to `dirty`.
    ///
    /// # Errors
    /// The system's.
    pub fn cut_files(&self, dirty: &mut Vec<Arc<Segment>>) -> Result<(), LogStoreError> {
        let (doomed, shortened) = {
            let mut state = self.state();
            let shortened = std::mem::take(&mut state.shortened);
            let slot = state.active();
            let shortened = shortened.then(|| (Arc::clone(&slot.segment), slot.stats.bytes));
            (std::mem::take(&mut state.doomed), shortened)
        };
        for segment in doomed {
            segment.forget();
            segment.give_up_found();
            for path in segment.files() {
                remove_file(&**self.pool.disk(), &path)?;
            }
            // its directory has to be synced, which syncing it does
            if segment.discard_indexes().is_ok() && segment.make_dirty() {
                dirty.push(segment);
            }
        }
        if let Some((segment, bytes)) = shortened {
            segment.cut(bytes)?;
            if segment.make_dirty() {
                dirty.push(segment);
            }
        }
        Ok(())
    }

    /// Raises the floor to `upto`, in memory. Returns the offset behind it (for the `Purge` record) and the files that are
    /// needless once that record is durable. Touches no disk where `upto` is the last entry, one in memory, or the last
    /// one before a segment.
    ///
    /// # Errors
    /// Where the floor falls inside of a segment that has to be read for it.
    pub fn purge(&self, upto: LogId) -> Result<(i64, Vec<PathBuf>), LogStoreError> {
        let mut guard = self.state();
        let state = &mut *guard;
        if let Some((floor, offset)) = state.floor
            && floor.index >= upto.index
        {
            return Ok((offset, Vec::new()));
        }
        let first_kept = match state.last {
            Some(last) if last.index > upto.index => self.first_batch_from(state, upto.index + 1)?,
            _ => None,
        };
        let offset = first_kept.as_ref().map_or(state.next_offset, |kept| kept.offset);
        let kept_index = first_kept.as_ref().map_or(0, |kept| kept.index);
        if state.last.is_none_or(|last| last.index < upto.index) {
            (state.last, state.durable) = (Some(upto), Some(upto));
            state.written = state.written.max(upto.index + 1);
        }
        state.raise_floor(upto, offset);
        let mut needless = Vec::new();
        while state.segments.len() > 1 && state.segments[1].base_offset() <= offset {
            needless.extend(state.segments.pop_front());
        }
        let next_offset = state.next_offset;
        let slot = state.segments.front_mut().expect("a log has an active segment");
        if first_kept.is_none() && !slot.is_empty() {
            needless.push(std::mem::replace(slot, Slot::new(self.segment(next_offset))));
        } else if let Some(kept) = first_kept {
            slot.anchor = (kept.ordinal, kept_index);
        }
        state.log_start = state.log_start.max(slot.base_offset());
        if state.applied.is_none_or(|applied| applied.index < upto.index) {
            state.applied = Some(upto);
        }
        state.shorten_tail();
        Ok((offset, files_of(&needless)))
    }

    /// Replaces everything by a snapshot that ends with `last`: the log is empty, its next offset is `next_offset`; where
    /// the log holds that entry, what follows it stays. Returns the files to remove once the `Installed` record is
    /// durable, and before anything is appended.
    ///
    /// # Errors
    /// Those of [`Log::purge`].
    pub fn install(&self, last: LogId, next_offset: i64) -> Result<Vec<PathBuf>, LogStoreError> {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.term_at(last.index) == Some(last.term) {
            drop(guard);
            let (_, files) = self.purge(last)?;
            self.set_log_start(next_offset);
            return Ok(files);
        }
        let mut needless: Vec<Slot> = state.segments.drain(..).collect();
        state.segments.push_back(Slot::new(self.segment(next_offset)));
        state.terms.clear();
        state.controls.clear();
        state.tail.clear();
        state.floor = Some((last, next_offset));
        (state.last, state.durable, state.applied) = (Some(last), Some(last), Some(last));
        state.written = last.index + 1;
        state.place = (next_offset, 0);
        (state.next_offset, state.durable_offset) = (next_offset, next_offset);
        state.log_start = state.log_start.max(next_offset);
        state.hints = [Hint { offset: -1, segment: 0, position: 0 }; 4];
        needless.extend(state.doomed.drain(..).map(Slot::new));
        state.shortened = false;
        Ok(files_of(&needless))
    }

    /// Moves the start of the log; it never goes back.
    pub fn set_log_start(&self, offset: i64) {
        let mut state = self.state();
        state.log_start = state.log_start.max(offset);
    }

    /// The segments, oldest first, for retention.
    pub fn segments(&self) -> Vec<SegmentSummary> {
        let state = self.state();
        let count = state.segments.len();
        let summary = |(number, slot): (usize, &Slot)| SegmentSummary {
            base_offset: slot.base_offset(),
            end_offset: slot.stats.end_offset,
            first_index: (!slot.is_empty()).then_some(slot.anchor.1),
            size: slot.stats.bytes,
            largest_timestamp: slot.stats.largest_timestamp,
            last_append_ms: slot.stats.last_append_ms,
            active: number + 1 == count,
        };
        state.segments.iter().enumerate().map(summary).collect()
    }

    /// Closes the active segment if it has a batch, so that it may go by retention (the next append begins a new one).
    pub fn roll(&self) {
        let mut state = self.state();
        if !state.active().is_empty() {
            self.roll_active(&mut state);
        }
    }

    /// Whether [`Log::finish_rolled`] has something to do.
    pub fn has_rolled(&self) -> bool {
        self.rolled.load(Ordering::SeqCst)
    }

    /// Writes indexes and the sealed part of `.raft` for segments that are closed and wholly written. For a worker.
    ///
    /// # Errors
    /// The system's; what was not finished is tried again at the next call.
    pub fn finish_rolled(&self) -> Result<(), LogStoreError> {
        // a segment that is closed meanwhile says so again
        self.rolled.store(false, Ordering::SeqCst);
        let finished = self.finish_closed();
        if !matches!(finished, Ok(0)) {
            self.rolled.store(true, Ordering::SeqCst);
        }
        finished.map(|_| ())
    }

    /// Finishes what can be finished; how many closed segments still wait for their bytes.
    fn finish_closed(&self) -> Result<usize, LogStoreError> {
        let mut waiting = 0;
        let closed: Vec<_> = {
            let state = self.state();
            let unwritten = state.unwritten_from();
            let closed = state.segments.iter().take(state.segments.len() - 1);
            closed
                .filter_map(|slot| {
                    let index = slot.index.as_ref()?;
                    if unwritten.is_some_and(|(segment, _)| segment <= slot.base_offset()) {
                        waiting += 1;
                        return None;
                    }
                    Some((Arc::clone(&slot.segment), slot.stats, slot.first, Arc::clone(index)))
                })
                .collect()
        };
        for (segment, stats, first, index) in closed {
            if let Some(first) = first {
                segment.write_indexes(first, &stats, &index, true)?;
                // from here on the index is read from its files, where it is needed at all
                let mut state = self.state();
                let slot = state.segments.iter_mut().find(|slot| Arc::ptr_eq(&slot.segment, &segment));
                if let Some(slot) = slot.filter(|slot| slot.stats == stats) {
                    slot.index = None;
                }
            }
            segment.unpin();
        }
        Ok(waiting)
    }

    /// Writes the indexes of the active segment as far as its bytes are written, and the derived files of the log
    /// (`leader-epoch-checkpoint`): at a checkpoint and at a stop. Nothing of it needs to be durable.
    ///
    /// # Errors
    /// The system's.
    pub fn write_indexes(&self) -> Result<(), LogStoreError> {
        self.finish_rolled()?;
        let (active, epochs) = {
            let mut state = self.state();
            let rows = leader_epochs::rows(&state.terms, state.log_start, state.next_offset);
            let epochs = (state.epochs.as_ref() != Some(&rows)).then(|| rows.clone());
            state.epochs = Some(rows);
            // a summary tells of whole batches: with bytes on their way there is none to be written
            let written = state.unwritten_from().is_none();
            let slot = state.active();
            let active = slot
                .first
                .filter(|_| written && !slot.is_empty())
                .zip(slot.index.clone())
                .map(|(first, index)| (Arc::clone(&slot.segment), first, slot.stats, index));
            (active, epochs)
        };
        if let Some((segment, first, stats, index)) = active {
            segment.write_indexes(first, &stats, &index, false)?;
        }
        if let Some(rows) = epochs {
            let path = self.dir.join("leader-epoch-checkpoint");
            let text = leader_epochs::to_checkpoint(&rows);
            write_cache_file(&**self.pool.disk(), &path, text.as_bytes())
                .map_err(LogStoreError::io("write", &path))?;
        }
        Ok(())
    }

    /// Closes what is open of a log that was dropped: the space of its files is free once they are removed, whoever still
    /// holds the log. Readers that hold something of it may go on.
    pub fn close(&self) {
        let state = self.state();
        state.segments.iter().map(|slot| &slot.segment).chain(&state.doomed).for_each(|it| it.forget());
    }

    /// Replaces the settings.
    pub fn set_config(&self, config: LogConfig) {
        self.state().config = config;
    }
}

/// The files of segments that are going away, which are closed here.
fn files_of(slots: &[Slot]) -> Vec<PathBuf> {
    slots
        .iter()
        .flat_map(|slot| {
            slot.segment.forget();
            slot.segment.files()
        })
        .collect()
}

/// A batch, by the place where it begins.
#[derive(Clone, Copy, Debug)]
struct Boundary {
    index: u64,
    offset: i64,
    segment: i64,
    position: u64,
    ordinal: u32,
}

impl Entry {
    /// Which entry it is.
    pub fn log_id(&self) -> LogId {
        match self {
            Self::Control { log_id, .. } | Self::Batch { log_id, .. } => *log_id,
        }
    }
}
