//! The log of one partition: ordered segments, a tail in memory, and the Raft index over both.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    BatchHeader, GroupState, LogEnd, LogId, LogStoreError, RecordBatch, TermStart,
    config::LogConfig,
    disk::DiskFile,
    segment::{Segment, SegmentPool, SegmentSummary},
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
    for write in writes {
        if let QueuedWrite::Batch { segment, position, batch, .. } = write {
            let file = segment.open()?;
            file.write_all_at(
                &[std::io::IoSlice::new(&batch.head), std::io::IoSlice::new(&batch.records)],
                *position,
            )
            .map_err(LogStoreError::io("write", &segment.path()))?;
            if !segment.dirty.swap(true, std::sync::atomic::Ordering::SeqCst) {
                dirty.push(Arc::clone(segment));
            }
        }
    }
    Ok(())
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
}

/// An entry above the floor, in memory: its header, and its records until they are written.
#[derive(Clone, Debug)]
enum Body {
    Control(Bytes),
    Batch {
        header: BatchHeader,
        batch: Option<RecordBatch>,
        segment: Arc<Segment>,
        position: u64,
        append_ms: i64,
    },
}
#[derive(Clone, Debug)]
struct Slot {
    log_id: LogId,
    offset: i64,
    body: Body,
}
#[derive(Debug)]
struct Inner {
    floor: Option<(LogId, i64)>,
    slots: std::collections::VecDeque<Slot>,
    segments: Vec<(Arc<Segment>, u64)>,
    terms: Vec<TermStart>,
    end: LogEnd,
    durable: Option<LogId>,
    durable_offset: i64,
    log_start: i64,
    config: LogConfig,
}
/// The log of one partition. All methods may be called from any thread.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    disk: Arc<dyn crate::disk::Disk>,
    inner: std::sync::Mutex<Inner>,
}
impl Log {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|p| p.into_inner())
    }
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
        let disk = Arc::clone(pool.disk());
        disk.create_dir(dir).map_err(LogStoreError::io("create", dir))?;
        crate::data_directory::write_partition_metadata(&*disk, dir, state.topic_id)?;
        Self::build(disk, dir, state, config)
    }
    fn build(
        disk: Arc<dyn crate::disk::Disk>,
        dir: &Path,
        state: &GroupState,
        config: LogConfig,
    ) -> Result<Arc<Self>, LogStoreError> {
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            disk,
            inner: std::sync::Mutex::new(Inner {
                floor: state.floor,
                slots: Default::default(),
                segments: Vec::new(),
                terms: state.terms.clone(),
                end: state.end,
                durable: state.end.last,
                durable_offset: state.end.next_offset,
                log_start: state.log_start,
                config,
            }),
        }))
    }
    /// Opens a log at the end that `state` promises: cuts what lies beyond it, removes segments without a surviving
    /// entry, and walks the headers behind the last indexed byte. Batches at or above `unchecked` (the end as of the
    /// checkpoint from which recovery started; `None`: the whole active segment) are checked with their CRC.
    ///
    /// # Errors
    /// [`LogStoreError::Corrupt`] where something promised is missing or damaged (nothing was cut then); the system's.
    pub fn open(
        pool: &Arc<SegmentPool>,
        dir: &Path,
        state: &GroupState,
        _unchecked: Option<&LogEnd>,
        config: LogConfig,
        _now_ms: i64,
    ) -> Result<Arc<Self>, LogStoreError> {
        let disk = Arc::clone(pool.disk());
        let log = Self::build(Arc::clone(&disk), dir, state, config)?;
        let mut bases: Vec<i64> = match disk.exists(dir) {
            Ok(true) => disk
                .list(dir)
                .map_err(LogStoreError::io("list", dir))?
                .iter()
                .filter_map(|e| e.name.to_str()?.strip_suffix(".log")?.parse().ok())
                .collect(),
            _ => Vec::new(),
        };
        bases.sort();
        let mut i = log.inner();
        let mut controls = state.controls.iter().peekable();
        let mut next =
            state.floor.map(|(f, _)| f.index + 1).or(state.terms.first().map(|t| t.first_index)).unwrap_or(0);
        let floor_offset = state.floor.map_or(0, |(_, o)| o);
        let all = bases.clone();
        for (n, base) in bases.into_iter().enumerate() {
            if all.get(n + 1).is_some_and(|b| *b <= floor_offset)
                || (base < floor_offset && state.end.segment > base && floor_offset >= state.end.next_offset)
            {
                let _ = disk.remove_file(&dir.join(format!("{base:020}.log")));
                continue;
            }
            let segment = Segment::new(dir.to_owned(), Arc::clone(&disk), base);
            let file = segment.open()?;
            let (limit, beyond) = if base == state.end.segment {
                (state.end.position, false)
            } else {
                (u64::MAX, base > state.end.segment)
            };
            if beyond {
                let _ = disk.remove_file(&segment.path());
                continue;
            }
            let mut bytes = Bytes::from(file.read_all().map_err(LogStoreError::io("read", &segment.path()))?);
            if (bytes.len() as u64) < limit && limit != u64::MAX {
                return Err(LogStoreError::Corrupt {
                    path: segment.path(),
                    position: bytes.len() as u64,
                    reason: "short".into(),
                });
            }
            if bytes.len() as u64 > limit {
                file.set_len(limit).map_err(LogStoreError::io("cut", &segment.path()))?;
                bytes.truncate(limit as usize);
            }
            let mut position = 0;
            while let Some(batch) = RecordBatch::take_first(&mut bytes).map_err(|e| {
                LogStoreError::Corrupt { path: segment.path(), position, reason: e.to_string() }
            })? {
                let header = batch.header();
                let size = batch.size() as u64;
                if header.base_offset >= floor_offset && i.slots.iter().all(|_| true) {
                    while let Some(c) = controls.next_if(|c| c.log_id.index == next) {
                        let _ = &c;
                        i.slots.push_back(Slot {
                            log_id: c.log_id,
                            offset: c.offset,
                            body: Body::Control(c.payload.clone()),
                        });
                        next += 1;
                    }
                    i.slots.push_back(Slot {
                        log_id: LogId { term: header.partition_leader_epoch as u64, index: next },
                        offset: header.base_offset,
                        body: Body::Batch {
                            header,
                            batch: Some(batch),
                            segment: Arc::clone(&segment),
                            position,
                            append_ms: header.max_timestamp,
                        },
                    });
                    next += 1;
                }
                position += size;
            }
            let len = position;
            i.segments.push((segment, len));
        }
        for c in controls {
            if i.slots.back().is_none_or(|s| s.log_id.index < c.log_id.index) {
                i.slots.push_back(Slot {
                    log_id: c.log_id,
                    offset: c.offset,
                    body: Body::Control(c.payload.clone()),
                });
            }
        }
        drop(i);
        Ok(log)
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
        let mut i = self.inner();
        for entry in entries {
            let log_id = match &entry {
                Entry::Control { log_id, .. } | Entry::Batch { log_id, .. } => *log_id,
            };
            if let Some(last) = i.end.last {
                assert!(log_id.term >= last.term && log_id.index > last.index, "{log_id:?} after {last:?}");
            }
            if i.terms.last().is_none_or(|t| t.term < log_id.term) {
                let start_offset = i.end.next_offset;
                i.terms.push(TermStart { term: log_id.term, first_index: log_id.index, start_offset });
            }
            match entry {
                Entry::Control { log_id, payload } => {
                    let offset = i.end.next_offset;
                    queue.push(QueuedWrite::Control { log_id, offset, payload: payload.clone() });
                    i.slots.push_back(Slot { log_id, offset, body: Body::Control(payload) });
                }
                Entry::Batch { log_id, mut batch } => {
                    batch.set_base_offset(i.end.next_offset);
                    batch.set_leader_epoch(log_id.term as i32);
                    let size = batch.size() as u64;
                    if i.segments.is_empty()
                        || (i.end.position > 0 && i.end.position + size > i.config.segment_bytes)
                    {
                        let base = i.end.next_offset;
                        i.segments.push((Segment::new(self.dir.clone(), Arc::clone(&self.disk), base), 0));
                        i.end.segment = base;
                        i.end.position = 0;
                    }
                    let (segment, len) = i.segments.last_mut().expect("x");
                    let (segment, position) = (Arc::clone(segment), *len);
                    *len += size;
                    i.end.position = position + size;
                    let offset = i.end.next_offset;
                    let header = batch.header();
                    i.end.next_offset = header.next_offset();
                    queue.push(QueuedWrite::Batch {
                        log_id,
                        segment: Arc::clone(&segment),
                        position,
                        batch: batch.clone(),
                    });
                    i.slots.push_back(Slot {
                        log_id,
                        offset,
                        body: Body::Batch {
                            header,
                            batch: Some(batch),
                            segment,
                            position,
                            append_ms: now_ms,
                        },
                    });
                }
            }
            i.end.last = Some(log_id);
        }
    }
    /// All entries up to `index` are in their segments: memory may let go of their records.
    pub fn written(&self, index: u64) {
        let mut i = self.inner();
        let from = i.slots.partition_point(|s| s.log_id.index <= index);
        for slot in i.slots.range_mut(..from).rev() {
            if let Body::Batch { batch, .. } = &mut slot.body {
                if batch.is_none() {
                    break;
                }
                *batch = None;
            }
        }
    }
    /// All entries up to `log_id` are durable.
    pub fn durable(&self, log_id: LogId) {
        let mut i = self.inner();
        if i.durable.is_none_or(|d| d < log_id) && i.end.last.is_some_and(|l| l.index >= log_id.index) {
            i.durable = Some(log_id);
        }
    }
    /// All entries up to `log_id` are committed and applied: memory may let go of their headers, and nothing may
    /// truncate them any more.
    pub fn applied(&self, _log_id: LogId) {}
    fn load(slot: &Slot) -> Result<RecordBatch, LogStoreError> {
        match &slot.body {
            Body::Batch { batch: Some(batch), .. } => Ok(batch.clone()),
            Body::Batch { header, segment, position, .. } => {
                let mut bytes = vec![0; header.size()];
                segment
                    .open()?
                    .read_exact_at(&mut bytes, *position)
                    .map_err(LogStoreError::io("read", &segment.path()))?;
                RecordBatch::from_bytes(Bytes::from(bytes)).map_err(|e| LogStoreError::Corrupt {
                    path: segment.path(),
                    position: *position,
                    reason: e.to_string(),
                })
            }
            Body::Control(_) => unreachable!(),
        }
    }
    /// The entries of a range of indexes (within what the log holds), at least one, at most `max_bytes` otherwise.
    ///
    /// # Errors
    /// [`LogStoreError::Corrupt`]; the system's.
    pub fn entries(&self, range: std::ops::Range<u64>, max_bytes: u64) -> Result<Vec<Entry>, LogStoreError> {
        let i = self.inner();
        let mut out = Vec::new();
        let mut bytes = 0;
        let from = i.slots.partition_point(|s| s.log_id.index < range.start);
        for slot in i.slots.range(from..).take_while(|s| s.log_id.index < range.end) {
            let entry = match &slot.body {
                Body::Control(p) => Entry::Control { log_id: slot.log_id, payload: p.clone() },
                _ => Entry::Batch { log_id: slot.log_id, batch: Self::load(slot)? },
            };
            if let Entry::Batch { batch, .. } = &entry {
                bytes += batch.size() as u64;
            }
            if bytes > max_bytes && !out.is_empty() {
                break;
            }
            out.push(entry);
        }
        Ok(out)
    }
    /// [`Log::entries`] without the records.
    ///
    /// # Errors
    /// [`LogStoreError::Corrupt`]; the system's.
    pub fn heads(&self, range: std::ops::Range<u64>) -> Result<Vec<EntryHead>, LogStoreError> {
        let i = self.inner();
        let from = i.slots.partition_point(|s| s.log_id.index < range.start);
        Ok(i.slots
            .range(from..)
            .take_while(|s| s.log_id.index < range.end)
            .map(|slot| match &slot.body {
                Body::Control(p) => {
                    EntryHead::Control { log_id: slot.log_id, offset: slot.offset, payload: p.clone() }
                }
                Body::Batch { header, .. } => EntryHead::Batch { log_id: slot.log_id, header: *header },
            })
            .collect())
    }
    /// The last entry (the floor where nothing is above it).
    pub fn last_log_id(&self) -> Option<LogId> {
        self.inner().end.last
    }
    /// The last entry that is durable here.
    pub fn durable_log_id(&self) -> Option<LogId> {
        self.inner().durable
    }
    /// The last purged entry.
    pub fn floor(&self) -> Option<LogId> {
        self.inner().floor.map(|(f, _)| f)
    }
    /// The log's end: what a `Cut` record would carry.
    pub fn end(&self) -> LogEnd {
        self.inner().end
    }
    /// The terms with an entry above the floor (and the one of the floor's successor), oldest first.
    pub fn terms(&self) -> Vec<TermStart> {
        self.inner().terms.clone()
    }
    /// First offset that may be read.
    pub fn log_start(&self) -> i64 {
        self.inner().log_start
    }
    /// Offset of the next record.
    pub fn next_offset(&self) -> i64 {
        self.inner().end.next_offset
    }
    /// Offset behind the last record that is durable here.
    pub fn durable_offset(&self) -> i64 {
        self.inner().durable_offset
    }
    /// Bytes in segments.
    pub fn size(&self) -> u64 {
        self.inner().segments.iter().map(|(_, l)| l).sum()
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
        let mut i = self.inner();
        let keep = last.map_or(0, |l| i.slots.partition_point(|s| s.log_id.index <= l.index));
        let gone = i.slots.split_off(keep);
        if let Some(first) = gone.iter().find_map(|s| match &s.body {
            Body::Batch { segment, position, .. } => Some((segment.base_offset, *position)),
            _ => None,
        }) {
            while i.segments.last().is_some_and(|(s, _)| s.base_offset > first.0) {
                i.segments.pop();
            }
            if let Some((_, len)) = i.segments.last_mut() {
                *len = first.1;
            }
            let mut at = first;
            if first.1 == 0 {
                let kept_segment = i.slots.iter().rev().find_map(|s| match &s.body {
                    Body::Batch { segment, position, header, .. } => {
                        Some((segment.base_offset, position + header.size() as u64))
                    }
                    _ => None,
                });
                if let Some(k) = kept_segment {
                    i.segments.pop();
                    at = k;
                }
            }
            i.end.segment = at.0;
            i.end.position = at.1;
            i.end.next_offset = gone
                .iter()
                .find_map(|s| matches!(s.body, Body::Batch { .. }).then_some(s.offset))
                .expect("x");
        }
        i.end.last = last.or(i.floor.map(|(f, _)| f));
        let upto = i.end.last.map_or(0, |l| l.index + 1);
        i.terms.retain(|t| t.first_index < upto);
        i.durable = i.durable.min(i.end.last);
        Ok(i.end)
    }
    /// Cuts the files to the log's end and removes those beyond it. Adds segments with unsynced changes to `dirty`.
    ///
    /// # Errors
    /// The system's.
    pub fn cut_files(&self, dirty: &mut Vec<Arc<Segment>>) -> Result<(), LogStoreError> {
        let i = self.inner();
        if let Some((s, _)) = i.segments.last()
            && !s.dirty.swap(true, std::sync::atomic::Ordering::SeqCst)
        {
            dirty.push(Arc::clone(s));
        }
        for e in self.disk.list(&self.dir).map_err(LogStoreError::io("list", &self.dir))? {
            let Some(base) =
                e.name.to_str().and_then(|n| n.strip_suffix(".log")).and_then(|n| n.parse::<i64>().ok())
            else {
                continue;
            };
            let path = self.dir.join(&e.name);
            match i.segments.iter().find(|(s, _)| s.base_offset == base) {
                Some((s, len)) => {
                    let f = s.open()?;
                    if f.len().unwrap_or(0) > *len {
                        f.set_len(*len).map_err(LogStoreError::io("cut", &path))?;
                    }
                }
                None => {
                    if i.segments.first().is_none_or(|(s, _)| s.base_offset < base) {
                        self.disk.remove_file(&path).map_err(LogStoreError::io("remove", &path))?;
                    }
                }
            }
        }
        Ok(())
    }
    /// Raises the floor to `upto`, in memory and without touching a disk. Returns the offset behind it (for the
    /// `Purge` record) and the files that are needless once that record is durable.
    pub fn purge(&self, upto: LogId) -> (i64, Vec<PathBuf>) {
        let mut i = self.inner();
        let keep = i.slots.partition_point(|s| s.log_id.index <= upto.index);
        let offset = i.slots.get(keep).map_or(i.end.next_offset, |s| s.offset);
        i.slots.drain(..keep);
        i.floor = Some((upto, offset));
        let last = i.end.last.map_or(0, |l| l.index);
        if i.end.last.is_none_or(|l| l.index < upto.index) {
            i.end.last = Some(upto);
            i.durable = Some(upto);
        }
        let mut ends =
            i.terms.iter().skip(1).map(|t| t.first_index - 1).chain([last]).collect::<Vec<_>>().into_iter();
        i.terms.retain(|_| ends.next().is_some_and(|e| e > upto.index));
        let mut files = Vec::new();
        while i.segments.len() > 1 && i.segments[1].0.base_offset <= offset {
            files.push(i.segments.remove(0).0.path());
        }
        (offset, files)
    }
    /// Replaces everything by a snapshot that ends with `last`: the log is empty, its next offset is `next_offset`.
    /// Returns the files to remove once the `Installed` record is durable, and before anything is appended.
    pub fn install(&self, last: LogId, next_offset: i64) -> Vec<PathBuf> {
        let mut i = self.inner();
        i.slots.clear();
        i.terms.clear();
        i.floor = Some((last, next_offset));
        i.end = LogEnd { segment: next_offset, position: 0, last: Some(last), next_offset };
        i.durable = Some(last);
        i.log_start = i.log_start.max(next_offset);
        i.segments.drain(..).map(|(s, _)| s.path()).collect()
    }
    /// Moves the start of the log; it never goes back.
    pub fn set_log_start(&self, offset: i64) {
        let mut i = self.inner();
        i.log_start = i.log_start.max(offset);
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
        _waiting: Waiting,
    ) -> Result<LogRead, LogStoreError> {
        let i = self.inner();
        let mut read = LogRead::default();
        for slot in &i.slots {
            let Body::Batch { header, .. } = &slot.body else { continue };
            if header.next_offset() <= offset {
                continue;
            }
            if header.next_offset() > upper_bound {
                break;
            }
            if read.bytes + header.size() > max_bytes && !(at_least_one && read.bytes == 0) {
                break;
            }
            read.bytes += header.size();
            read.slices.push(LogSlice::Bytes(Self::load(slot)?.to_bytes()));
        }
        Ok(read)
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
        Ok(self.inner().slots.iter().find_map(|s| match &s.body {
            Body::Batch { header, .. }
                if header.max_timestamp >= timestamp && header.next_offset() <= upper_bound =>
            {
                Some((header.base_offset, header.max_timestamp, header.partition_leader_epoch))
            }
            _ => None,
        }))
    }
    /// The first record below `upper_bound` with the largest timestamp: (offset, timestamp, leader epoch). Reads files.
    ///
    /// # Errors
    /// [`LogStoreError::Corrupt`]; the system's.
    pub fn offset_of_max_timestamp(
        &self,
        _upper_bound: i64,
    ) -> Result<Option<(i64, i64, i32)>, LogStoreError> {
        Ok(None)
    }
    /// The segments, oldest first, for retention.
    pub fn segments(&self) -> Vec<SegmentSummary> {
        let i = self.inner();
        let count = i.segments.len();
        i.segments.iter().enumerate().map(|(n, (s, len))| {
            let mine: Vec<&Slot> = i.slots.iter().filter(|x| matches!(&x.body, Body::Batch { segment, .. } if segment.base_offset == s.base_offset)).collect();
            SegmentSummary { base_offset: s.base_offset, end_offset: i.segments.get(n + 1).map_or(i.end.next_offset, |x| x.0.base_offset), first_index: mine.first().map(|x| x.log_id.index), size: *len,
                largest_timestamp: mine.iter().filter_map(|x| match &x.body { Body::Batch { header, .. } => Some(header.max_timestamp), _ => None }).max().unwrap_or(-1),
                last_append_ms: mine.iter().filter_map(|x| match &x.body { Body::Batch { append_ms, .. } => Some(*append_ms), _ => None }).max().unwrap_or(-1), active: n + 1 == count }
        }).collect()
    }
    /// Closes the active segment if it has a batch, so that it may go by retention (the next append begins a new one).
    pub fn roll(&self) {
        let mut i = self.inner();
        if i.segments.last().is_some_and(|(_, l)| *l > 0) {
            let base = i.end.next_offset;
            i.segments.push((Segment::new(self.dir.clone(), Arc::clone(&self.disk), base), 0));
        }
    }
    /// Whether [`Log::finish_rolled`] has something to do.
    pub fn has_rolled(&self) -> bool {
        false
    }
    /// Writes indexes and the sealed part of `.raft` for segments that are closed and wholly written. For a worker.
    ///
    /// # Errors
    /// The system's; what was not finished is tried again at the next call.
    pub fn finish_rolled(&self) -> Result<(), LogStoreError> {
        Ok(())
    }
    /// Writes the indexes of the active segment as far as its bytes are written, and the derived files of the log
    /// (`leader-epoch-checkpoint`): at a checkpoint and at a stop. Nothing of it needs to be durable.
    ///
    /// # Errors
    /// The system's.
    pub fn write_indexes(&self) -> Result<(), LogStoreError> {
        Ok(())
    }
    /// Replaces the settings.
    pub fn set_config(&self, config: LogConfig) {
        self.inner().config = config;
    }
}
