//! Reading a [`Log`]: by offset for consumers, by Raft index for replication and apply, by time for ListOffsets.
//!
//! A consumer's read is a range of bytes of one segment, found without looking at its batches: it begins where an earlier
//! read ended, or where the index and a few headers say; it ends at the upper bound, whose place is known from the tail, or
//! at an entry of the index. What the page cache holds goes out of the map, the rest as a range of the file.

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{Boundary, Entry, EntryHead, Hint, Log, LogRead, LogSlice, Slot, State, Waiting};
use crate::{
    BatchHeader, ControlEntry, LogId, LogStoreError, RecordBatch,
    batch::HEADER_BYTES,
    compression::with_inflater,
    raft_file::SegmentStats,
    segment::{Found, HeaderWalk, OpenSegment, Segment, SegmentIndex, WalkError, is_missing, relative},
};

/// Bytes before the written end of a segment that are handed out from its map, without a thread that may wait: what a
/// consumer at the tail reads. Older ones are sent from the file. More is no gain: `sendfile` passes pages on where a map is
/// faulted in and copied, and of a topic with many small partitions nearly all would be tail, also when it was read ahead
/// from the disk just now (16 MiB here: half as much CPU again per byte read cold or hot with 64 partitions of 11 MB).
const TAIL_BYTES: u64 = 1 << 20;

/// Retention may take a segment from under a reader, which then looks once more at what there is.
fn again_if_gone<T>(read: impl Fn() -> Result<T, LogStoreError>) -> Result<T, LogStoreError> {
    match read() {
        Err(error) if is_missing(&error) => read(),
        done => done,
    }
}

/// A segment as a reader took it out of the lock.
struct View {
    segment: Arc<Segment>,
    stats: SegmentStats,
    first: Option<LogId>,
    index: Option<Arc<SegmentIndex>>,
    interval: u64,
    /// Bytes of it that are in its file.
    written: u64,
    may_hold_zstd: bool,
}

/// Where a search in a segment begins.
#[derive(Clone, Copy, Debug)]
enum Goal {
    /// The batch that holds an offset, or the next one.
    Offset(i64),
    /// The batch of that number.
    Ordinal(u32),
    /// The last batch boundary at or before a position.
    Position(u64),
}

impl View {
    fn index(&self) -> Result<Arc<SegmentIndex>, LogStoreError> {
        match &self.index {
            Some(index) => Ok(Arc::clone(index)),
            None => self.segment.index(&self.stats, self.first, self.interval),
        }
    }

    /// The index of the segment, which is open as `open`; one that would have to be read or made first is worth a wait.
    fn index_for(&self, open: &OpenSegment, waiting: Waiting) -> Result<Arc<SegmentIndex>, WalkError> {
        match (waiting, &self.index) {
            (Waiting::Never, None) => open.index_in_memory(&self.stats).ok_or(WalkError::WouldWait),
            _ => Ok(self.index()?),
        }
    }

    /// A walk from the last indexed batch before the goal.
    fn walk<'a>(
        &self,
        index: &SegmentIndex,
        open: &'a OpenSegment,
        goal: Goal,
        waiting: Waiting,
    ) -> HeaderWalk<'a> {
        let offsets = &index.offsets;
        let base_offset = self.segment.base_offset();
        let mut from = match goal {
            Goal::Offset(offset) => offsets.floor_by_offset(relative(offset, base_offset)),
            Goal::Ordinal(ordinal) => offsets.floor_by_ordinal(ordinal),
            Goal::Position(position) => offsets.floor_by_position(position),
        };
        // entries of bytes that are still on their way are of no use
        if from.is_some_and(|entry| u64::from(entry.position) >= self.written) {
            from = offsets.floor_by_position(self.written.saturating_sub(1));
        }
        let (position, ordinal) = from.map_or((0, 0), |entry| (u64::from(entry.position), entry.ordinal));
        let walk =
            HeaderWalk::new(self.segment.path(), open, position, ordinal, self.written).waiting(waiting);
        if position == 0 { walk.expecting(base_offset) } else { walk }
    }

    /// The boundary that the goal means; the end of what is written where it lies behind it.
    fn seek(&self, open: &OpenSegment, goal: Goal, waiting: Waiting) -> Result<Sought, WalkError> {
        let index = self.index_for(open, waiting)?;
        let mut walk = self.walk(&index, open, goal, waiting);
        let mut next_offset = None;
        loop {
            let at = (walk.position(), next_offset);
            let Some(found) = walk.next()? else {
                let (position, next_offset) = at;
                return Ok(Sought { position, offset: next_offset, found: None });
            };
            let reached = match goal {
                Goal::Offset(offset) => found.header.last_offset() >= offset,
                Goal::Ordinal(ordinal) => found.ordinal >= ordinal,
                Goal::Position(position) => found.position + found.header.size() as u64 > position,
            };
            if reached {
                let (position, offset) = (found.position, Some(found.header.base_offset));
                return Ok(Sought { position, offset, found: Some(found) });
            }
            next_offset = Some(found.header.next_offset());
        }
    }
}

struct Sought {
    position: u64,
    /// The offset at that position, where it was met.
    offset: Option<i64>,
    found: Option<Found>,
}

impl State {
    /// Where the first byte lies that is not in its file.
    pub(super) fn unwritten_from(&self) -> Option<(i64, u64)> {
        let at = self.tail.partition_point(|batch| batch.log_id.index < self.written);
        self.tail.get(at).map(|batch| (batch.segment, batch.position))
    }

    fn view(&self, slot: &Slot) -> View {
        let written = match self.unwritten_from() {
            Some((segment, position)) if segment == slot.base_offset() => position,
            Some((segment, _)) if segment < slot.base_offset() => 0,
            _ => slot.stats.bytes,
        };
        View {
            segment: Arc::clone(&slot.segment),
            stats: slot.stats,
            first: slot.first,
            index: slot.index.clone(),
            interval: self.interval(),
            written,
            may_hold_zstd: slot.may_hold_zstd,
        }
    }

    /// The place of a batch boundary that is known without a look at a file.
    fn known_place(&self, offset: i64, slot: &Slot) -> Option<u64> {
        if offset >= slot.stats.end_offset {
            return Some(slot.stats.bytes);
        }
        if offset <= slot.base_offset() {
            return Some(0);
        }
        let at = self.tail.partition_point(|batch| batch.next_offset <= offset);
        if let Some(batch) = self.tail.get(at)
            && batch.segment == slot.base_offset()
            && (at > 0 || batch.base_offset() <= offset)
        {
            return Some(batch.position);
        }
        let known = |hint: &&Hint| hint.offset == offset && hint.segment == slot.base_offset();
        self.hints.iter().find(known).map(|hint| hint.position)
    }

    fn remember(&mut self, hint: Hint) {
        if !self.hints.iter().any(|known| known.offset == hint.offset && known.segment == hint.segment) {
            let next = self.next_hint;
            self.hints[next] = hint;
            self.next_hint = (next + 1) % self.hints.len();
        }
    }

    /// The Raft index of a batch.
    fn index_of(&self, slot: &Slot, ordinal: u32) -> u64 {
        let (first_ordinal, first_index) = slot.anchor;
        let mut index = first_index + u64::from(ordinal.saturating_sub(first_ordinal));
        let from = self.controls.partition_point(|control| control.log_id.index < first_index);
        for control in self.controls.range(from..) {
            if control.log_id.index > index {
                break;
            }
            index += 1;
        }
        index
    }

    /// The segment and the number in it of the first batch at or above an index; `None` where there is none.
    fn slot_from(&self, index: u64) -> Option<(&Slot, u32)> {
        let filled = self.segments.iter().filter(|slot| slot.anchor.0 < slot.stats.batches);
        let mut found = None;
        for slot in filled {
            let (first_ordinal, first_index) = slot.anchor;
            if first_index >= index {
                return found.or(Some((slot, first_ordinal)));
            }
            let before = index - first_index - self.controls_between(first_index, index);
            let ordinal = u64::from(first_ordinal) + before;
            found = u32::try_from(ordinal)
                .ok()
                .filter(|ordinal| *ordinal < slot.stats.batches)
                .map(|ordinal| (slot, ordinal));
        }
        found
    }
}

/// The batches of one segment from some index on, and the control entries between them.
struct IndexRun {
    view: View,
    ordinal: u32,
    controls: Vec<ControlEntry>,
    /// Behind the last index that this run can tell.
    end: u64,
}

/// What stands at an index.
enum At {
    Control(ControlEntry),
    Tail(LogId, RecordBatch),
    TailHead(LogId, BatchHeader),
    File(IndexRun),
    Nothing,
}

impl Log {
    /// The first batch at or above an index.
    pub(super) fn first_batch_from(
        &self,
        state: &State,
        index: u64,
    ) -> Result<Option<Boundary>, LogStoreError> {
        let at = state.tail.partition_point(|batch| batch.log_id.index < index);
        if at > 0 && at == state.tail.len() {
            return Ok(None);
        }
        let Some((slot, ordinal)) = state.slot_from(index) else { return Ok(None) };
        let segment = slot.base_offset();
        let boundary = |position, ordinal, offset| Boundary {
            index: state.index_of(slot, ordinal),
            offset,
            segment,
            position,
            ordinal,
        };
        if let Some(batch) = state.tail.get(at)
            && (at > 0 || batch.segment == segment && batch.before.batches == ordinal)
        {
            let batch = (batch.position, batch.before.batches, batch.base_offset());
            return Ok(Some(boundary(batch.0, batch.1, batch.2)));
        }
        if ordinal == 0 {
            return Ok(Some(boundary(0, 0, segment)));
        }
        let view = state.view(slot);
        let open = view.segment.handle()?;
        match view.seek(&open, Goal::Ordinal(ordinal), Waiting::ForDisk) {
            Ok(Sought { found: Some(found), .. }) => {
                Ok(Some(boundary(found.position, found.ordinal, found.header.base_offset)))
            }
            Ok(Sought { position, .. }) => Err(missing(&view, position)),
            Err(WalkError::Failed(error)) => Err(error),
            Err(WalkError::WouldWait) => Err(missing(&view, 0)),
        }
    }

    /// The entries of a range of indexes (within what the log holds), at least one, at most `max_bytes` otherwise.
    ///
    /// # Errors
    /// [`LogStoreError::Corrupt`]; the system's.
    pub fn entries(&self, range: Range<u64>, max_bytes: u64) -> Result<Vec<Entry>, LogStoreError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut push = |entry: Entry, entries: &mut Vec<Entry>| {
            bytes += match &entry {
                Entry::Control { payload, .. } => payload.len() as u64,
                Entry::Batch { batch, .. } => batch.size() as u64,
            };
            let fits = entries.is_empty() || bytes <= max_bytes;
            if fits {
                entries.push(entry);
            }
            fits
        };
        let mut index = range.start;
        while index < range.end {
            match self.at(index, range.end, true) {
                At::Control(ControlEntry { log_id, payload, .. }) => {
                    index = log_id.index + 1;
                    if !push(Entry::Control { log_id, payload }, &mut entries) {
                        break;
                    }
                }
                At::Tail(log_id, batch) => {
                    index = log_id.index + 1;
                    if !push(Entry::Batch { log_id, batch }, &mut entries) {
                        break;
                    }
                }
                At::File(run) => {
                    let mut goes_on = true;
                    index = run.each(index, 64 << 10, |walk, at| {
                        let entry = match at {
                            FileEntry::Control(ControlEntry { log_id, payload, .. }) => {
                                Entry::Control { log_id, payload }
                            }
                            FileEntry::Batch(index, found) => {
                                let body = walk.body(&found)?;
                                let records = Bytes::copy_from_slice(&body[HEADER_BYTES..]);
                                let log_id = LogId { term: term_of(&found.header), index };
                                Entry::Batch { log_id, batch: RecordBatch { head: found.head, records } }
                            }
                        };
                        goes_on = push(entry, &mut entries);
                        Ok(goes_on)
                    })?;
                    if !goes_on {
                        break;
                    }
                }
                At::TailHead(..) | At::Nothing => break,
            }
        }
        Ok(entries)
    }

    /// [`Log::entries`] without the records.
    ///
    /// # Errors
    /// [`LogStoreError::Corrupt`]; the system's.
    pub fn heads(&self, range: Range<u64>) -> Result<Vec<EntryHead>, LogStoreError> {
        let mut heads = Vec::with_capacity((range.end.saturating_sub(range.start)).min(1024) as usize);
        let mut index = range.start;
        while index < range.end {
            match self.at(index, range.end, false) {
                At::Control(ControlEntry { log_id, offset, payload }) => {
                    index = log_id.index + 1;
                    heads.push(EntryHead::Control { log_id, offset, payload });
                }
                At::TailHead(log_id, header) => {
                    index = log_id.index + 1;
                    heads.push(EntryHead::Batch { log_id, header });
                }
                At::File(run) => {
                    index = run.each(index, 4 << 10, |_, at| {
                        heads.push(match at {
                            FileEntry::Control(ControlEntry { log_id, offset, payload }) => {
                                EntryHead::Control { log_id, offset, payload }
                            }
                            FileEntry::Batch(index, found) => EntryHead::Batch {
                                log_id: LogId { term: term_of(&found.header), index },
                                header: found.header,
                            },
                        });
                        Ok(true)
                    })?;
                }
                At::Tail(..) | At::Nothing => break,
            }
        }
        Ok(heads)
    }

    /// What stands at `index`, or at the next one that is taken; with `records`, batches come whole.
    fn at(&self, index: u64, end: u64, records: bool) -> At {
        let state = self.state();
        if state.last.is_none_or(|last| last.index < index) {
            return At::Nothing;
        }
        let control_at = state.controls.partition_point(|control| control.log_id.index < index);
        if let Some(control) = state.controls.get(control_at)
            && control.log_id.index == index
        {
            return At::Control(control.clone());
        }
        let tail_at = state.tail.partition_point(|batch| batch.log_id.index < index);
        if let Some(batch) = state.tail.get(tail_at)
            && batch.log_id.index == index
        {
            if !records {
                return At::TailHead(batch.log_id, BatchHeader::decode(&batch.head));
            }
            if let Some(records) = &batch.records {
                return At::Tail(batch.log_id, RecordBatch { head: batch.head, records: records.clone() });
            }
        }
        let Some((slot, ordinal)) = state.slot_from(index) else {
            return state
                .controls
                .get(control_at)
                .map_or(At::Nothing, |control| At::Control(control.clone()));
        };
        let found = state.index_of(slot, ordinal);
        if let Some(control) = state.controls.get(control_at)
            && control.log_id.index < found.min(end)
        {
            return At::Control(control.clone());
        }
        if found >= end {
            return At::Nothing;
        }
        if found > index {
            drop(state);
            return self.at(found, end, records);
        }
        // the run ends with its segment, or where memory begins
        let behind = state.index_of(slot, slot.stats.batches.saturating_sub(1)) + 1;
        let in_memory = match state.tail.front() {
            Some(batch) if !records => batch.log_id.index,
            _ => state.written,
        };
        let end = end.min(behind).min(in_memory);
        if end <= index {
            return At::Nothing;
        }
        let view = state.view(slot);
        let controls = state.controls.range(control_at..).take_while(|control| control.log_id.index < end);
        let controls = controls.cloned().collect();
        At::File(IndexRun { view, ordinal, controls, end })
    }

    /// Reads whole batches from the one that holds `offset` (or, in a gap, the next one): at most `max_bytes`, the first
    /// batch also when it is larger if `at_least_one`, and only batches that end at or below `upper_bound`.
    ///
    /// # Errors
    /// [`LogStoreError::OffsetOutOfRange`]; [`LogStoreError::Corrupt`]; the system's.
    pub fn read(
        &self,
        offset: i64,
        max_bytes: usize,
        at_least_one: bool,
        upper_bound: i64,
        waiting: Waiting,
    ) -> Result<LogRead, LogStoreError> {
        again_if_gone(|| {
            let mut read = LogRead::default();
            let mut offset = offset;
            loop {
                let left = max_bytes.saturating_sub(read.bytes) as u64;
                let first = at_least_one && read.bytes == 0;
                match self.read_segment(offset, left, first, upper_bound, waiting, &mut read) {
                    Ok(Some(next)) => offset = next,
                    Ok(None) => return Ok(read),
                    Err(WalkError::WouldWait) => {
                        // what was found is worth having; without anything the caller has to come again
                        read.would_wait = read.bytes == 0;
                        read.is_cut_short = true;
                        return Ok(read);
                    }
                    Err(WalkError::Failed(error)) => return Err(error),
                }
            }
        })
    }

    /// Reads from one segment; the offset of the next one where that may go on.
    fn read_segment(
        &self,
        offset: i64,
        max_bytes: u64,
        at_least_one: bool,
        upper_bound: i64,
        waiting: Waiting,
        read: &mut LogRead,
    ) -> Result<Option<i64>, WalkError> {
        let state = self.state();
        let (start, end) = (state.log_start, state.next_offset);
        if offset < start || offset > end {
            return Err(LogStoreError::OffsetOutOfRange { offset, start, end }.into());
        }
        let upper_bound = upper_bound.min(end);
        if offset >= upper_bound {
            return Ok(None);
        }
        let slot = &state.segments[state.slot_of(offset)];
        let base_offset = slot.base_offset();
        let known_start = state.known_place(offset, slot);
        let known_end = state.known_place(upper_bound, slot);
        let view = state.view(slot);
        drop(state);

        let mut open = None;
        let start = match known_start {
            Some(position) => position,
            None => view.seek(handle(&view, &mut open)?, Goal::Offset(offset), waiting)?.position,
        };
        let end = match known_end {
            Some(position) => position,
            // the batch that holds the bound is not wholly below it
            None => view.seek(handle(&view, &mut open)?, Goal::Offset(upper_bound), waiting)?.position,
        };
        if end <= start {
            return Ok(None);
        }
        let whole = end - start <= max_bytes;
        read.is_cut_short |= !whole;
        let (stop, stop_offset) = if whole {
            let offset = upper_bound.min(view.stats.end_offset);
            (end, known_end.map(|_| offset))
        } else {
            self.boundary_below(&view, &mut open, start, start + max_bytes, at_least_one, waiting)?
        };
        if stop <= start {
            return Ok(None);
        }
        self.slices(&view, &mut open, start, stop, waiting, read)?;
        read.may_hold_zstd |= view.may_hold_zstd;
        if let Some(offset) = stop_offset {
            self.state().remember(Hint { offset, segment: base_offset, position: stop });
        }
        let segment_end = view.stats.end_offset;
        Ok((whole && stop == view.stats.bytes && segment_end < upper_bound).then_some(segment_end))
    }

    /// The last batch boundary at or below `limit`, behind the first batch if that has to be taken.
    fn boundary_below(
        &self,
        view: &View,
        open: &mut Option<Arc<OpenSegment>>,
        start: u64,
        limit: u64,
        at_least_one: bool,
        waiting: Waiting,
    ) -> Result<(u64, Option<i64>), WalkError> {
        let base_offset = view.segment.base_offset();
        {
            let state = self.state();
            let in_tail = |position: u64| {
                let end = |batch: &super::TailBatch| batch.position + batch.size;
                state
                    .tail
                    .iter()
                    .rev()
                    .filter(|batch| batch.segment == base_offset)
                    .find(|batch| end(batch) <= position && batch.position >= start)
                    .map(|batch| (end(batch), Some(batch.next_offset)))
            };
            if let Some(found) = in_tail(limit) {
                return Ok(found);
            }
            // the first batch is in the tail, and larger than what was asked for
            let first =
                state.tail.iter().find(|batch| batch.segment == base_offset && batch.position >= start);
            if let Some(batch) = first
                && batch.position == start
            {
                return Ok(if at_least_one {
                    (batch.position + batch.size, Some(batch.next_offset))
                } else {
                    (start, None)
                });
            }
        }
        let handle = handle(view, open)?;
        match view.seek(handle, Goal::Position(limit), waiting) {
            Ok(Sought { position, offset, .. }) if position > start => return Ok((position, offset)),
            Ok(_) => {}
            // an entry of the index is a boundary as well, and needs no look at the disk
            Err(WalkError::WouldWait) => {
                let index = view.index_for(handle, waiting)?;
                if let Some(entry) = index.offsets.floor_by_position(limit)
                    && u64::from(entry.position) > start
                {
                    return Ok((u64::from(entry.position), None));
                }
                return Err(WalkError::WouldWait);
            }
            Err(error) => return Err(error),
        }
        if !at_least_one {
            return Ok((start, None));
        }
        let mut walk = HeaderWalk::new(view.segment.path(), handle, start, 0, view.written).waiting(waiting);
        match walk.next()? {
            Some(found) => Ok((walk.position(), Some(found.header.next_offset()))),
            None => Err(missing(view, start).into()),
        }
    }

    /// The bytes of a range of a segment: out of its file as far as they are there, then out of the tail.
    fn slices(
        &self,
        view: &View,
        open: &mut Option<Arc<OpenSegment>>,
        start: u64,
        stop: u64,
        waiting: Waiting,
        read: &mut LogRead,
    ) -> Result<(), LogStoreError> {
        let base_offset = view.segment.base_offset();
        let mut from_memory = Vec::new();
        let mut heads = BytesMut::new();
        let mut in_file = stop;
        if stop > view.written {
            let state = self.state();
            let unwritten = state.tail.iter().filter(|batch| {
                batch.segment == base_offset && batch.position >= start && batch.position < stop
            });
            for batch in unwritten {
                // written meanwhile: then the file has it
                let Some(records) = &batch.records else { continue };
                in_file = in_file.min(batch.position);
                heads.extend_from_slice(&batch.head);
                from_memory.push((heads.split().freeze(), records.clone()));
            }
        }
        if in_file > start {
            let failed = |operation| move |error| LogStoreError::io(operation, view.segment.path())(error);
            let handle = handle(view, open)?;
            let len = (in_file - start) as usize;
            // What was just written is in the page cache. Of anything older nobody can be sure: both ends may be there by a look at a
            // header or by reading ahead, and a page that comes from the disk costs whoever touches it first.
            let resident = waiting == Waiting::Never
                && view.written - start <= TAIL_BYTES
                && handle.is_resident(start, len).map_err(failed("read"))?;
            if resident || handle.file.descriptor().is_none() {
                let bytes = handle.bytes(start, len).map_err(failed("map"))?;
                read.slices.push(LogSlice::Bytes(bytes));
            } else {
                read.slices.push(LogSlice::File { file: Arc::clone(&handle.file), position: start, len });
            }
        }
        for (head, records) in from_memory {
            read.slices.push(LogSlice::Bytes(head));
            read.slices.push(LogSlice::Bytes(records));
        }
        read.bytes += (stop - start) as usize;
        Ok(())
    }

    /// The first record below `upper_bound` whose timestamp is at or above `timestamp`: (offset, its timestamp, its
    /// leader epoch). Reads files.
    ///
    /// # Errors
    /// [`LogStoreError::Corrupt`]; the system's.
    pub fn offset_for_time(
        &self,
        timestamp: i64,
        upper_bound: i64,
    ) -> Result<Option<(i64, i64, i32)>, LogStoreError> {
        again_if_gone(|| self.find_time(timestamp, upper_bound))
    }

    fn find_time(&self, timestamp: i64, upper_bound: i64) -> Result<Option<(i64, i64, i32)>, LogStoreError> {
        let (views, log_start) = self.views();
        for view in views.iter().filter(|view| view.stats.largest_timestamp >= timestamp) {
            let index = view.index()?;
            let base_offset = view.segment.base_offset();
            let older = index.times.last_before(timestamp);
            let from = older.map_or(base_offset, |entry| base_offset + i64::from(entry.relative_offset) + 1);
            let found = self.find_batch(view, from.max(log_start), upper_bound, |header, batch| {
                if header.max_timestamp < timestamp {
                    return Ok(None);
                }
                first_record(view, &batch()?, log_start, upper_bound, |at| at >= timestamp)
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The first record below `upper_bound` with the largest timestamp: (offset, timestamp, leader epoch). Reads files.
    ///
    /// # Errors
    /// [`LogStoreError::Corrupt`]; the system's.
    pub fn offset_of_max_timestamp(
        &self,
        upper_bound: i64,
    ) -> Result<Option<(i64, i64, i32)>, LogStoreError> {
        again_if_gone(|| self.find_max_timestamp(upper_bound))
    }

    fn find_max_timestamp(&self, upper_bound: i64) -> Result<Option<(i64, i64, i32)>, LogStoreError> {
        let (views, log_start) = self.views();
        let mut largest: Option<(i64, i64, &View)> = None;
        for view in &views {
            let known =
                view.stats.end_offset <= upper_bound && view.stats.largest_timestamp_offset >= log_start;
            let found = if known {
                (view.stats.largest_timestamp, view.stats.largest_timestamp_offset)
            } else {
                let mut found = (-1, -1);
                let from = view.segment.base_offset().max(log_start);
                self.find_batch(view, from, upper_bound, |header, _| {
                    if header.max_timestamp > found.0 && header.next_offset() <= upper_bound {
                        found = (header.max_timestamp, header.last_offset());
                    }
                    Ok(None::<()>)
                })?;
                found
            };
            if found.0 > largest.map_or(-1, |(timestamp, ..)| timestamp) {
                largest = Some((found.0, found.1, view));
            }
        }
        let Some((timestamp, offset, view)) = largest else { return Ok(None) };
        self.find_batch(view, offset, upper_bound, |_, batch| {
            first_record(view, &batch()?, log_start, upper_bound, |at| at == timestamp)
        })
    }

    /// Reads every byte of a closed segment and compares it with what was known when it was closed: the CRC of each batch,
    /// contiguous offsets, and the checksum of all headers, which finds whole batches that are old or belong elsewhere.
    ///
    /// # Errors
    /// [`LogStoreError::Corrupt`] with the place of the damage; the system's.
    pub fn scrub(&self, base_offset: i64) -> Result<(), LogStoreError> {
        let (views, _) = self.views();
        let Some(view) = views.iter().find(|view| view.segment.base_offset() == base_offset) else {
            return Ok(());
        };
        let open = view.segment.handle()?;
        let mut walk = HeaderWalk::new(view.segment.path(), &open, 0, 0, view.written)
            .expecting(base_offset)
            .reading(1 << 20);
        let mut headers = crc32fast::Hasher::new();
        while let Some(found) = walk.next_waiting()? {
            walk.body(&found)?;
            headers.update(&found.head);
        }
        if view.written == view.stats.bytes && headers.finalize() != view.stats.headers_crc {
            return Err(walk.damaged("its batches are not those that were written"));
        }
        Ok(())
    }

    fn views(&self) -> (Vec<View>, i64) {
        let state = self.state();
        let filled = state.segments.iter().filter(|slot| !slot.is_empty());
        (filled.map(|slot| state.view(slot)).collect(), state.log_start)
    }

    /// Shows the batches of a segment from the one that holds `from` on, below `upper_bound`, until one gives an answer.
    fn find_batch<T>(
        &self,
        view: &View,
        from: i64,
        upper_bound: i64,
        mut answer: impl FnMut(
            &BatchHeader,
            &mut dyn FnMut() -> Result<RecordBatch, LogStoreError>,
        ) -> Result<Option<T>, LogStoreError>,
    ) -> Result<Option<T>, LogStoreError> {
        if view.written > 0 {
            let open = view.segment.handle()?;
            let index = view.index()?;
            let mut walk = view.walk(&index, &open, Goal::Offset(from), Waiting::ForDisk);
            while let Some(found) = walk.next_waiting()? {
                if found.header.base_offset >= upper_bound {
                    return Ok(None);
                }
                if found.header.last_offset() < from {
                    continue;
                }
                let mut batch = || {
                    let body = walk.body(&found)?;
                    let records = Bytes::copy_from_slice(&body[HEADER_BYTES..]);
                    Ok(RecordBatch { head: found.head, records })
                };
                if let Some(found) = answer(&found.header, &mut batch)? {
                    return Ok(Some(found));
                }
            }
        }
        let unwritten: Vec<RecordBatch> = {
            let state = self.state();
            let mine = state.tail.iter().filter(|batch| {
                batch.segment == view.segment.base_offset() && batch.position >= view.written
            });
            mine.filter_map(|batch| Some(RecordBatch { head: batch.head, records: batch.records.clone()? }))
                .collect()
        };
        for batch in unwritten {
            let header = batch.header();
            if header.base_offset < upper_bound
                && header.last_offset() >= from
                && let Some(found) = answer(&header, &mut || Ok(batch.clone()))?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// The first record of a batch within the bounds whose timestamp is wanted: (offset, timestamp, leader epoch).
fn first_record(
    view: &View,
    batch: &RecordBatch,
    log_start: i64,
    upper_bound: i64,
    wanted: impl Fn(i64) -> bool,
) -> Result<Option<(i64, i64, i32)>, LogStoreError> {
    let damaged = |reason: String| LogStoreError::Corrupt {
        path: view.segment.path(),
        position: 0,
        reason: format!("the batch at offset {}: {reason}", batch.base_offset()),
    };
    with_inflater(|inflater| {
        for record in batch.records_in(inflater).map_err(|error| damaged(error.to_string()))? {
            let record = record.map_err(|error| damaged(error.to_string()))?;
            if record.offset >= upper_bound {
                return Ok(None);
            }
            if record.offset >= log_start && wanted(record.timestamp) {
                return Ok(Some((record.offset, record.timestamp, batch.leader_epoch())));
            }
        }
        Ok(None)
    })
}

/// An entry met in a file, or between two of them.
enum FileEntry {
    Control(ControlEntry),
    Batch(u64, Found),
}

impl IndexRun {
    /// Shows the entries from `index` on until `show` says no; the index behind the last one shown.
    fn each(
        self,
        mut index: u64,
        piece: usize,
        mut show: impl FnMut(&mut HeaderWalk<'_>, FileEntry) -> Result<bool, LogStoreError>,
    ) -> Result<u64, LogStoreError> {
        let open = self.view.segment.handle()?;
        let known = self.view.index()?;
        let goal = Goal::Ordinal(self.ordinal);
        let mut walk = self.view.walk(&known, &open, goal, Waiting::ForDisk).reading(piece);
        let mut controls = self.controls.into_iter().peekable();
        let mut goes_on = true;
        while goes_on && index < self.end {
            let entry = match controls.next_if(|control| control.log_id.index == index) {
                Some(control) => FileEntry::Control(control),
                None => loop {
                    match walk.next_waiting()? {
                        Some(found) if found.ordinal < self.ordinal => {}
                        Some(found) => break FileEntry::Batch(index, found),
                        None => return Err(walk.damaged(&format!("entry {index} is not there"))),
                    }
                },
            };
            goes_on = show(&mut walk, entry)?;
            index += 1;
        }
        Ok(index)
    }
}

/// The term of a batch: its leader epoch.
fn term_of(header: &BatchHeader) -> u64 {
    header.partition_leader_epoch.max(0).cast_unsigned().into()
}

/// The open file, opened once.
fn handle<'a>(view: &View, open: &'a mut Option<Arc<OpenSegment>>) -> Result<&'a OpenSegment, LogStoreError> {
    if open.is_none() {
        *open = Some(view.segment.handle()?);
    }
    Ok(open.as_deref().expect("it was opened just now"))
}

fn missing(view: &View, position: u64) -> LogStoreError {
    LogStoreError::Corrupt {
        path: view.segment.path(),
        position,
        reason: "bytes that were promised are missing".to_owned(),
    }
}
