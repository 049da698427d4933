//! One segment: a `.log` file with its indexes and its `.raft` file, and the pool of what is open.
//!
//! ```text
//!   active   batches are appended; its file stays open, its indexes are in memory
//!     │ roll
//!   rolled   nothing is appended any more, but bytes may still be on their way to the file
//!     │ all bytes written: a worker writes .index .timeindex .raft
//!   sealed   file, map and indexes live in the pool while they are used
//! ```
//! A segment begins to exist in memory; its files are made when its first batch is written.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    io::{self, IoSlice},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

use crate::{
    BatchHeader, LogId, LogStoreError,
    batch::{self, HEADER_BYTES},
    disk::{Access, Advice, Disk, DiskFile},
    log::Waiting,
    offset_index::{OFFSET_ENTRY_BYTES, ORDINAL_BYTES, OffsetIndex, OffsetIndexEntry},
    raft_file::{
        IndexSums, RAFT_ORDINALS_AT, RaftFileError, RaftHead, RaftSummary, SegmentOwner, SegmentStats,
    },
    recovery::Mutation,
    time_index::{TIME_ENTRY_BYTES, TimeIndex, TimeIndexEntry},
};

/// How much a node keeps open for reading.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// Sealed segments with an open file and a map.
    pub open_segments: usize,
    /// Bytes of indexes of sealed segments in memory.
    pub index_bytes: usize,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self { open_segments: 4096, index_bytes: 32 << 20 }
    }
}

/// The disk, and what of all logs of a node is open on it: files, maps and indexes of sealed segments, the least recently
/// used closed first. What was closed while a reader holds it lives on as long as the reader does.
#[derive(Debug)]
pub struct SegmentPool {
    disk: Arc<dyn Disk>,
    limits: PoolLimits,
    next_key: AtomicU64,
    open: Mutex<OpenSegments>,
    mutation: OnceLock<Mutation>,
}

#[derive(Debug, Default)]
struct OpenSegments {
    by_key: HashMap<u64, (Arc<OpenSegment>, u64)>,
    by_age: BTreeMap<u64, u64>,
    clock: u64,
    index_bytes: usize,
}

impl SegmentPool {
    /// An empty pool.
    pub fn new(disk: Arc<dyn Disk>, limits: PoolLimits) -> Arc<Self> {
        Arc::new(Self {
            disk,
            limits,
            next_key: AtomicU64::new(0),
            open: Mutex::default(),
            mutation: OnceLock::new(),
        })
    }

    /// A test plants a bug.
    pub(crate) fn plant(&self, bug: Mutation) {
        // the first recovery of a node is the only one
        _ = self.mutation.set(bug);
    }

    pub(crate) fn planted(&self, bug: Mutation) -> bool {
        self.mutation.get().is_some_and(|planted| planted.planted(bug))
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// How many segments are open in the pool (the active ones are not in it).
    pub fn open_segments(&self) -> usize {
        lock(&self.open).by_key.len()
    }

    fn find(&self, key: u64) -> Option<Arc<OpenSegment>> {
        let mut open = lock(&self.open);
        open.clock += 1;
        let now = open.clock;
        let (segment, age) = open.by_key.get_mut(&key)?;
        let before = std::mem::replace(age, now);
        let segment = Arc::clone(segment);
        open.by_age.remove(&before);
        open.by_age.insert(now, key);
        Some(segment)
    }

    fn insert(&self, key: u64, segment: Arc<OpenSegment>) {
        self.remove(key);
        let mut open = lock(&self.open);
        open.clock += 1;
        let now = open.clock;
        open.index_bytes += segment.index_bytes();
        open.by_key.insert(key, (segment, now));
        open.by_age.insert(now, key);
        self.shrink(&mut open, key);
    }

    fn remove(&self, key: u64) {
        let mut open = lock(&self.open);
        if let Some((segment, age)) = open.by_key.remove(&key) {
            open.by_age.remove(&age);
            open.index_bytes = open.index_bytes.saturating_sub(segment.index_bytes());
        }
    }

    /// The index of an open segment was read.
    fn note_index(&self, key: u64, segment: &OpenSegment, bytes: usize) {
        let mut open = lock(&self.open);
        let before = segment.index_bytes.swap(bytes, Ordering::Relaxed);
        if open.by_key.get(&key).is_some_and(|(pooled, _)| std::ptr::eq(&**pooled, segment)) {
            open.index_bytes = open.index_bytes.saturating_sub(before) + bytes;
            self.shrink(&mut open, key);
        }
    }

    fn shrink(&self, open: &mut OpenSegments, newest: u64) {
        while open.by_key.len() > self.limits.open_segments || open.index_bytes > self.limits.index_bytes {
            let Some((age, key)) = open.by_age.first_key_value().map(|(age, key)| (*age, *key)) else {
                return;
            };
            if key == newest {
                return;
            }
            open.by_age.remove(&age);
            if let Some((segment, _)) = open.by_key.remove(&key) {
                open.index_bytes = open.index_bytes.saturating_sub(segment.index_bytes());
            }
        }
    }
}

/// The indexes of one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentIndex {
    pub(crate) offsets: OffsetIndex,
    pub(crate) times: TimeIndex,
}

impl SegmentIndex {
    fn memory(&self) -> usize {
        self.offsets.len() * size_of::<OffsetIndexEntry>() + self.times.len() * size_of::<TimeIndexEntry>()
    }

    /// Takes the next batch of a segment into `stats` and the indexes: all that is known of a segment comes from here,
    /// whether it is appended or walked.
    pub(crate) fn add(
        &mut self,
        stats: &mut SegmentStats,
        base_offset: i64,
        head: &[u8; HEADER_BYTES],
        header: &BatchHeader,
        interval: u64,
        append_ms: i64,
    ) {
        let last_offset = header.last_offset();
        let relative_offset = relative(last_offset, base_offset);
        if header.max_timestamp > stats.largest_timestamp {
            stats.largest_timestamp = header.max_timestamp;
            stats.largest_timestamp_offset = last_offset;
        }
        let indexed = self.offsets.last().map_or(0, |entry| u64::from(entry.position));
        if stats.bytes - indexed > interval
            && let Ok(position) = u32::try_from(stats.bytes)
        {
            self.offsets.push(OffsetIndexEntry { relative_offset, position, ordinal: stats.batches });
            self.times.push(TimeIndexEntry {
                timestamp: stats.largest_timestamp,
                relative_offset: relative(stats.largest_timestamp_offset, base_offset),
            });
        }
        if stats.batches == 0 {
            stats.first_timestamp = header.max_timestamp;
            stats.first_append_ms = append_ms;
        }
        stats.last_append_ms = append_ms;
        stats.batches += 1;
        stats.bytes += header.size() as u64;
        stats.end_offset = last_offset + 1;
        let mut crc = crc32fast::Hasher::new_with_initial(stats.headers_crc);
        crc.update(head);
        stats.headers_crc = crc.finalize();
    }

    /// The last entry of the time index, which says how late the segment's records are.
    pub(crate) fn close(&mut self, stats: &SegmentStats, base_offset: i64) {
        self.times.push(TimeIndexEntry {
            timestamp: stats.largest_timestamp,
            relative_offset: relative(stats.largest_timestamp_offset, base_offset),
        });
    }
}

/// An offset within its segment. A segment ends before its offsets exceed its base by 2^31 - 1.
pub(crate) fn relative(offset: i64, base_offset: i64) -> u32 {
    u32::try_from(offset.saturating_sub(base_offset).max(0)).unwrap_or(u32::MAX)
}

/// Bytes of a file that one map covers; one read may be longer.
const MAP_WINDOW: u64 = 8 << 20;
/// Maps kept of one open segment: for readers at the tail, and for one that replays.
pub const MAP_WINDOWS: usize = 2;

/// A map of a part of a file.
struct Window {
    start: u64,
    bytes: Bytes,
}

impl Window {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// An open `.log` file, its maps once it was read, and the indexes of a sealed segment once they were needed.
pub(crate) struct OpenSegment {
    pub(crate) file: Arc<dyn DiskFile>,
    /// The maps read from last, the latest first.
    windows: Mutex<VecDeque<Window>>,
    index: Mutex<Option<CachedIndex>>,
    /// Memory of `index`; apart, so that the pool need not wait while an index is read.
    index_bytes: AtomicUsize,
}

/// An index in memory, with the content that it is of: a segment may be cut, and closed once more.
struct CachedIndex {
    content: (u64, u32),
    index: Arc<SegmentIndex>,
}

impl CachedIndex {
    fn of(&self, stats: &SegmentStats) -> Option<Arc<SegmentIndex>> {
        (self.content == stats.content()).then(|| Arc::clone(&self.index))
    }
}

impl fmt::Debug for OpenSegment {
    /// Without the maps: bytes that are not in the file must not be touched.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OpenSegment").field("file", &self.file).finish_non_exhaustive()
    }
}

impl OpenSegment {
    fn new(file: Arc<dyn DiskFile>) -> Arc<Self> {
        // A look at a header would read megabytes ahead of it, and the next commit's `fdatasync` would wait behind them. Whoever sends a
        // range says himself how it is to be read. Refused, the advice costs only speed.
        _ = file.advise(0..1, Advice::Random);
        Arc::new(Self {
            file,
            windows: Mutex::default(),
            index: Mutex::default(),
            index_bytes: AtomicUsize::new(0),
        })
    }

    fn index_bytes(&self) -> usize {
        self.index_bytes.load(Ordering::Relaxed)
    }

    /// The index of this content, where it is in memory and nobody is about to read it.
    pub(crate) fn index_in_memory(&self, stats: &SegmentStats) -> Option<Arc<SegmentIndex>> {
        self.index.try_lock().ok()?.as_ref()?.of(stats)
    }

    /// Written bytes of the file: a slice of a map, or a copy where the disk has no maps.
    ///
    /// A map covers a window of the file, beyond its end, too, so that readers at the tail share one while it fills. Windows
    /// that nobody reads any more are unmapped: what was read long ago does not count as the process's memory for ever.
    pub(crate) fn bytes(&self, position: u64, len: usize) -> io::Result<Bytes> {
        let end = position + len as u64;
        let mut windows = lock(&self.windows);
        let found = windows.iter().position(|window| window.start <= position && end <= window.end());
        let window = match found.and_then(|at| windows.remove(at)) {
            Some(window) => window,
            None => {
                let start = position - position % MAP_WINDOW;
                let Some(bytes) = self.file.map(start..end.next_multiple_of(MAP_WINDOW))? else {
                    drop(windows);
                    let mut bytes = vec![0; len];
                    self.file.read_exact_at(&mut bytes, position)?;
                    return Ok(bytes.into());
                };
                windows.truncate(MAP_WINDOWS - 1);
                Window { start, bytes }
            }
        };
        let start = usize::try_from(position - window.start).map_err(io::Error::other)?;
        let slice = window.bytes.slice(start..start + len);
        windows.push_front(window);
        Ok(slice)
    }

    /// Whether the first and the last byte of a range are in the page cache.
    pub(crate) fn is_resident(&self, position: u64, len: usize) -> io::Result<bool> {
        let Some(last) = len.checked_sub(1) else { return Ok(true) };
        let mut byte = [0];
        Ok(self.file.read_resident_at(&mut byte, position)?
            && self.file.read_resident_at(&mut byte, position + last as u64)?)
    }
}

/// How much of the index files is written.
#[derive(Debug, Default)]
struct Persisted {
    sums: IndexSums,
}

/// A segment of a log, as the flusher and the readers share it.
#[derive(Debug)]
pub struct Segment {
    base_offset: i64,
    dir: Arc<Path>,
    owner: SegmentOwner,
    pool: Arc<SegmentPool>,
    key: u64,
    /// Open for as long as batches are written to it.
    pinned: Mutex<Option<Arc<OpenSegment>>>,
    /// Whoever syncs segments in the end was told of it.
    dirty: AtomicBool,
    /// It was written or cut since the last sync began.
    changed: AtomicBool,
    /// Names of its files, or `.raft`, may be unsynced.
    names: AtomicBool,
    /// The name of its `.log`, or that of the log's directory, may be unsynced.
    unnamed: AtomicBool,
    /// Whether its bytes could not be handed to the disk or synced; held while that is tried. Who comes second finds them
    /// durable, or hears of the error that the first one met, which the system tells only once.
    failed: Mutex<bool>,
    /// Its files go away: only who reads it keeps it open.
    gone: AtomicBool,
    /// Covers the bytes written since the last sync.
    unsynced: Mutex<Range<u64>>,
    /// Batches that recovery found where they belong: they are written again before they are synced, for a failed
    /// write-back leaves good bytes in the page cache and bad ones on the disk. Held while a piece of them is written, and
    /// while the file is cut.
    found: Mutex<Range<u64>>,
    persisted: Mutex<Persisted>,
}

/// Bytes that are written again at a time.
const FOUND_PIECE: usize = 1 << 20;

/// The files of a segment.
const EXTENSIONS: [&str; 6] = ["log", "index", "timeindex", "txnindex", "snapshot", "raft"];
/// Those that are made from the `.log`.
const INDEXES: [&str; 3] = ["index", "timeindex", "raft"];

/// The name of a segment's file.
fn file_name(base_offset: i64, extension: &str) -> String {
    format!("{base_offset:020}.{extension}")
}

/// The base offset and the extension in the name of a segment's file.
pub(crate) fn parse_name(name: &str) -> Option<(i64, &str)> {
    let (digits, extension) = name.split_once('.')?;
    let is_ours = digits.len() == 20
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && EXTENSIONS.contains(&extension);
    Some((digits.parse().ok().filter(|_| is_ours)?, extension))
}

impl Segment {
    pub(crate) fn new(
        pool: &Arc<SegmentPool>,
        dir: &Arc<Path>,
        owner: SegmentOwner,
        base_offset: i64,
    ) -> Arc<Self> {
        Arc::new(Self {
            base_offset,
            dir: Arc::clone(dir),
            owner,
            pool: Arc::clone(pool),
            key: pool.next_key.fetch_add(1, Ordering::Relaxed),
            pinned: Mutex::default(),
            dirty: AtomicBool::new(false),
            names: AtomicBool::new(false),
            // whoever made the file may have had no time to sync it
            unnamed: AtomicBool::new(true),
            failed: Mutex::default(),
            changed: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            unsynced: Mutex::default(),
            found: Mutex::default(),
            persisted: Mutex::default(),
        })
    }

    /// Offset of its first record; the files are named after it.
    pub fn base_offset(&self) -> i64 {
        self.base_offset
    }

    /// The `.log` file.
    pub fn path(&self) -> PathBuf {
        self.file("log")
    }

    /// Makes its bytes, and the names of its files in the log's directory, durable; what was written before the call is
    /// then durable, and the segment is clean until it is written again. A segment whose files are gone (purged,
    /// dropped) has nothing to sync.
    ///
    /// # Errors
    /// The system's; final (durability rule 6).
    pub fn sync(&self) -> Result<(), LogStoreError> {
        // cleared before the sync: bytes that are written meanwhile make it dirty again
        self.dirty.store(false, Ordering::SeqCst);
        let names = self.names.swap(false, Ordering::SeqCst);
        // also where its files go away: until the record of that is durable, they are promised
        match self.opened() {
            Ok(open) => self.sync_bytes(&open)?,
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error),
        }
        if names {
            match self.pool.disk.sync_dir(&self.dir) {
                // the partition was dropped meanwhile
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(LogStoreError::io("sync", &self.dir))?,
            }
        }
        Ok(())
    }

    /// Makes the bytes that were written before the call durable where they lie, with every name that leads to them from the
    /// data directory on: a round may then name them instead of holding them. `false`: the files go away, and the round has
    /// to hold them.
    ///
    /// # Errors
    /// The system's; final (durability rule 6).
    pub fn sync_placed(&self) -> Result<bool, LogStoreError> {
        let open = match self.handle() {
            Ok(open) => open,
            Err(error) if is_missing(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        self.sync_bytes(&open)?;
        if self.unnamed.load(Ordering::SeqCst) && !self.pool.planted(Mutation::PlacedNamesNotSynced) {
            for dir in [Some(&*self.dir), self.dir.parent()].into_iter().flatten() {
                match self.pool.disk.sync_dir(dir) {
                    // the partition was dropped meanwhile
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                    other => other.map_err(LogStoreError::io("sync", dir))?,
                }
            }
            self.unnamed.store(false, Ordering::SeqCst);
        }
        Ok(true)
    }

    /// Syncs the bytes, unless somebody did so since they were written.
    fn sync_bytes(&self, open: &OpenSegment) -> Result<(), LogStoreError> {
        self.unless_failed(|| {
            let unsynced = std::mem::take(&mut *lock(&self.unsynced));
            // cleared before the sync, as `dirty`
            if !self.changed.swap(false, Ordering::SeqCst) {
                return Ok(());
            }
            self.write_found(u64::MAX)?;
            open.file.write_back(unsynced).map_err(LogStoreError::io("write back", self.path()))?;
            open.file.sync().map_err(LogStoreError::io("sync", self.path()))
        })
    }

    /// One at a time; nothing after a failure.
    fn unless_failed(&self, work: impl FnOnce() -> Result<(), LogStoreError>) -> Result<(), LogStoreError> {
        let mut failed = lock(&self.failed);
        if *failed {
            return Err(LogStoreError::Poisoned);
        }
        let done = work();
        *failed = done.is_err();
        done
    }

    /// Has the system begin to hand what is unsynced to the disk; [`Self::sync_placed`] follows.
    ///
    /// # Errors
    /// The system's; final (durability rule 6).
    pub fn start_write_back(&self) -> Result<(), LogStoreError> {
        let unsynced = lock(&self.unsynced).clone();
        match self.opened() {
            Ok(open) => {
                open.file.start_write_back(unsynced).map_err(LogStoreError::io("write back", self.path()))
            }
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How much a sync would have to hand to the disk.
    pub fn unsynced_bytes(&self) -> u64 {
        let unsynced = lock(&self.unsynced);
        unsynced.end - unsynced.start
    }

    /// Hands up to `bytes` of what is unsynced to the disk and waits until they are there. Makes nothing durable: a sync that
    /// follows has less to do.
    ///
    /// # Errors
    /// The system's; as final as those of [`Self::sync`], which would not see them again.
    pub fn write_back(&self, bytes: u64) -> Result<(), LogStoreError> {
        let piece = {
            let mut unsynced = lock(&self.unsynced);
            let piece = unsynced.start..unsynced.end.min(unsynced.start + bytes);
            unsynced.start = piece.end;
            piece
        };
        if piece.is_empty() {
            return Ok(());
        }
        match self.opened() {
            Ok(open) => self.unless_failed(|| {
                self.write_found(piece.end)?;
                open.file.write_back(piece).map_err(LogStoreError::io("write back", self.path()))
            }),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What recovery found in these bytes is unsynced.
    pub(crate) fn mark_found(&self, bytes: Range<u64>) {
        *lock(&self.unsynced) = bytes.clone();
        *lock(&self.found) = bytes;
        self.names.store(true, Ordering::SeqCst);
        self.make_dirty();
    }

    /// Whether there are batches that are written again before they are synced.
    pub fn has_found(&self) -> bool {
        !lock(&self.found).is_empty()
    }

    /// What recovery found is promised no more, and another segment may get the name.
    pub(crate) fn give_up_found(&self) {
        *lock(&self.found) = 0..0;
    }

    /// Writes all that recovery found again; a sync of the file system follows.
    ///
    /// # Errors
    /// The system's, and [`LogStoreError::Corrupt`] where it is not there any more: final (durability rule 6).
    pub(crate) fn write_all_found(&self) -> Result<(), LogStoreError> {
        self.write_found(u64::MAX)
    }

    /// Writes what recovery found again, as far as it begins before `end`.
    fn write_found(&self, end: u64) -> Result<(), LogStoreError> {
        while self.write_found_piece(end)? {}
        Ok(())
    }

    /// Writes some batches that recovery found again; whether there were any that begin before `end`.
    fn write_found_piece(&self, end: u64) -> Result<bool, LogStoreError> {
        let mut found = lock(&self.found);
        if found.start >= found.end.min(end) || self.pool.planted(Mutation::EqualBytesSkipped) {
            return Ok(false);
        }
        let path = self.path();
        // also where its files go away, as in `sync`; if the name is another's by now, the bytes that it has are written to it
        let file = match self.pool.disk.open(&path, Access::Existing) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(LogStoreError::io("open", &path)(error)),
        };
        let open = OpenSegment::new(Arc::clone(&file));
        // what the page cache lost meanwhile may have come back from the disk as something else
        let mut walk = HeaderWalk::new(path.clone(), &open, found.start, 0, found.end).reading(FOUND_PIECE);
        let mut piece = Vec::new();
        while piece.len() < FOUND_PIECE {
            let batch = match walk.next_waiting() {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                // another's file
                Err(_) if self.is_gone() => return Ok(false),
                Err(error) => return Err(error),
            };
            match walk.body(&batch) {
                Ok(bytes) => piece.extend_from_slice(bytes),
                Err(_) if self.is_gone() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        if piece.is_empty() {
            return Err(LogStoreError::Corrupt {
                path,
                position: found.start,
                reason: format!("no batch, although there were some up to {}", found.end),
            });
        }
        file.write_all_at(&[IoSlice::new(&piece)], found.start).map_err(LogStoreError::io("write", &path))?;
        found.start += piece.len() as u64;
        Ok(true)
    }

    /// A sync of the whole file system follows, which covers everything written before this call.
    pub(crate) fn mark_clean(&self) {
        // before that sync, as in `sync`: bytes that are written meanwhile make it dirty again
        self.dirty.store(false, Ordering::SeqCst);
        self.names.store(false, Ordering::SeqCst);
        std::mem::take(&mut *lock(&self.unsynced));
    }

    /// All names that its files may have.
    pub(crate) fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        EXTENSIONS.iter().map(|extension| self.file(extension))
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.dir.join(file_name(self.base_offset, extension))
    }

    /// The open file.
    ///
    /// # Errors
    /// Those of the system; [`io::ErrorKind::NotFound`] where the files go away (see [`is_missing`]).
    pub(crate) fn handle(&self) -> Result<Arc<OpenSegment>, LogStoreError> {
        let open = self.opened()?;
        // looked at behind the opening: the name may be that of a segment of the partition's next replica
        if self.is_gone() {
            return Err(LogStoreError::io("open", self.path())(io::ErrorKind::NotFound.into()));
        }
        Ok(open)
    }

    /// The file that has its name, open for reading.
    fn opened(&self) -> Result<Arc<OpenSegment>, LogStoreError> {
        if let Some(open) = &*lock(&self.pinned) {
            return Ok(Arc::clone(open));
        }
        if let Some(open) = self.pool.find(self.key) {
            return Ok(open);
        }
        let path = self.path();
        let file = self.pool.disk.open(&path, Access::Read).map_err(LogStoreError::io("open", &path))?;
        let open = OpenSegment::new(file);
        self.keep(Arc::clone(&open));
        Ok(open)
    }

    /// Puts the open file into the pool, unless the segment goes away: a file without a name gives its space back only once
    /// nobody has it open.
    fn keep(&self, open: Arc<OpenSegment>) {
        self.pool.insert(self.key, open);
        // looked at behind the insertion, as `forget` removes it behind saying so: one of the two meets it
        if self.is_gone() {
            self.pool.remove(self.key);
        }
    }

    /// Whether its files go away.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// The file open for writing, made if the batch at its very start, `first`, is about to be written.
    fn handle_for_writing(&self, first: Option<LogId>) -> Result<Arc<OpenSegment>, LogStoreError> {
        let mut pinned = lock(&self.pinned);
        if let Some(open) = &*pinned {
            return Ok(Arc::clone(open));
        }
        let path = self.path();
        let file = self.pool.disk.open(&path, Access::Write).map_err(LogStoreError::io("open", &path))?;
        if let Some(first) = first {
            self.names.store(true, Ordering::SeqCst);
            self.unnamed.store(true, Ordering::SeqCst);
            self.write_head(first)?;
        }
        let open = OpenSegment::new(file);
        *pinned = Some(Arc::clone(&open));
        drop(pinned);
        self.pool.remove(self.key);
        Ok(open)
    }

    fn write_head(&self, first: LogId) -> Result<(), LogStoreError> {
        let path = self.file("raft");
        let head = RaftHead { owner: self.owner, first, base_offset: self.base_offset };
        let file = self.pool.disk.open(&path, Access::Replace).map_err(LogStoreError::io("open", &path))?;
        file.write_all_at(&[IoSlice::new(&head.encode())], 0).map_err(LogStoreError::io("write", &path))
    }

    /// Writes pieces, one behind the other; tells whether the segment had no unsynced bytes before.
    pub(crate) fn write(
        &self,
        first: Option<LogId>,
        pieces: &[IoSlice<'_>],
        position: u64,
    ) -> Result<bool, LogStoreError> {
        let open = self.handle_for_writing(first)?;
        if let Err(error) = open.file.write_all_at(pieces, position) {
            // what is there of it was never promised; the log is opened anew at its durable end
            if let Err(error) = open.file.set_len(position) {
                tracing::warn!(%error, path = %self.path().display(), "a write that failed could not be undone");
            }
            return Err(LogStoreError::io("write", self.path())(error));
        }
        let end = position + pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        let mut unsynced = lock(&self.unsynced);
        *unsynced = match unsynced.is_empty() {
            true => position..end,
            false => unsynced.start.min(position)..unsynced.end.max(end),
        };
        drop(unsynced);
        Ok(self.make_dirty())
    }

    /// Batches are not written to it any more: its file goes into the pool.
    pub(crate) fn unpin(&self) {
        if let Some(open) = lock(&self.pinned).take() {
            self.keep(open);
        }
    }

    /// Closes what is open of a segment that is going away; readers that hold it may go on.
    pub(crate) fn forget(&self) {
        self.gone.store(true, Ordering::SeqCst);
        lock(&self.pinned).take();
        self.pool.remove(self.key);
    }

    /// Cuts the file, and forgets the index files, which may say more than what is left.
    pub(crate) fn cut(&self, bytes: u64) -> Result<(), LogStoreError> {
        self.discard_indexes()?;
        self.shorten(bytes)
    }

    /// Cuts the file.
    pub(crate) fn shorten(&self, bytes: u64) -> Result<(), LogStoreError> {
        let path = self.path();
        if self.pool.disk.exists(&path).map_err(LogStoreError::io("look for", &path))? {
            let mut found = lock(&self.found);
            let file = self.pool.disk.open(&path, Access::Write).map_err(LogStoreError::io("open", &path))?;
            file.set_len(bytes).map_err(LogStoreError::io("cut", &path))?;
            found.end = found.end.min(bytes);
        }
        Ok(())
    }

    /// Removes the index files.
    pub(crate) fn discard_indexes(&self) -> Result<(), LogStoreError> {
        *lock(&self.persisted) = Persisted::default();
        self.names.store(true, Ordering::SeqCst);
        for extension in INDEXES {
            remove_file(&*self.pool.disk, &self.file(extension))?;
        }
        Ok(())
    }

    /// Marks it as unsynced; tells whether it was not.
    pub(crate) fn make_dirty(&self) -> bool {
        self.changed.store(true, Ordering::SeqCst);
        !self.dirty.swap(true, Ordering::SeqCst)
    }

    /// Writes the index files and the summary of the first `stats.bytes` bytes. Entries that are there already are not
    /// written again. Nothing is synced: what a crash leaves of it is checked, and made anew.
    pub(crate) fn write_indexes(
        &self,
        first: LogId,
        stats: &SegmentStats,
        index: &SegmentIndex,
        sealed: bool,
    ) -> Result<(), LogStoreError> {
        let mut persisted = lock(&self.persisted);
        // its name may belong to another log by now
        if self.is_gone() {
            return Ok(());
        }
        let before = persisted.sums;
        // until this is done the files are in doubt
        persisted.sums = IndexSums::default();
        let (offset_entries, time_entries) = (before.offset_entries as usize, before.time_entries as usize);
        let (offsets, ordinals) = index.offsets.encode_from(offset_entries);
        let times = index.times.encode_from(time_entries);
        let append = |crc: u32, len: usize, bytes: &[u8]| {
            let mut hasher = crc32fast::Hasher::new_with_initial_len(crc, len as u64);
            hasher.update(bytes);
            hasher.finalize()
        };
        let count = |entries: usize| u32::try_from(entries).unwrap_or(u32::MAX);
        let sums = IndexSums {
            offset_entries: count(index.offsets.len()),
            offset_crc: append(before.offset_crc, offset_entries * OFFSET_ENTRY_BYTES, &offsets),
            time_entries: count(index.times.len()),
            time_crc: append(before.time_crc, time_entries * TIME_ENTRY_BYTES, &times),
            ordinal_crc: append(before.ordinal_crc, offset_entries * ORDINAL_BYTES, &ordinals),
        };
        self.append_to("index", offset_entries * OFFSET_ENTRY_BYTES, &[&offsets])?;
        self.append_to("timeindex", time_entries * TIME_ENTRY_BYTES, &[&times])?;
        let head = RaftHead { owner: self.owner, first, base_offset: self.base_offset }.encode();
        let summary = RaftSummary { sealed, stats: *stats, sums }.encode();
        self.append_to("raft", RAFT_ORDINALS_AT + offset_entries * ORDINAL_BYTES, &[&ordinals])?;
        let path = self.file("raft");
        let file = self.pool.disk.open(&path, Access::Write).map_err(LogStoreError::io("open", &path))?;
        file.write_all_at(&[IoSlice::new(&head), IoSlice::new(&summary)], 0)
            .map_err(LogStoreError::io("write", &path))?;
        self.names.store(true, Ordering::SeqCst);
        persisted.sums = sums;
        Ok(())
    }

    /// Writes bytes at the end of an index file, which is at `position` whatever the file holds.
    fn append_to(&self, extension: &str, position: usize, pieces: &[&[u8]]) -> Result<(), LogStoreError> {
        let path = self.file(extension);
        let file = self.pool.disk.open(&path, Access::Write).map_err(LogStoreError::io("open", &path))?;
        let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        file.write_all_at(&slices, position as u64).map_err(LogStoreError::io("write", &path))?;
        let end = (position + pieces.iter().map(|piece| piece.len()).sum::<usize>()) as u64;
        if file.len().map_err(LogStoreError::io("measure", &path))? > end {
            file.set_len(end).map_err(LogStoreError::io("cut", &path))?;
        }
        Ok(())
    }

    /// Reads the `.raft` file: its head, and the summary if there is one to be believed.
    ///
    /// # Errors
    /// Where it belongs to another replica, or a newer version wrote it.
    pub(crate) fn read_raft_file(&self) -> Result<RaftFile, LogStoreError> {
        let path = self.file("raft");
        let bytes = match read_file(&*self.pool.disk, &path)? {
            Some(bytes) => bytes,
            None => return Ok(RaftFile::default()),
        };
        let head = match RaftHead::decode(&bytes) {
            Ok(head) => head,
            Err(RaftFileError::Damaged) => return Ok(RaftFile::default()),
            Err(RaftFileError::Version(_)) => {
                return Err(LogStoreError::Refused(format!(
                    "{} was written by a newer version; start that one, or restore a backup of this one",
                    path.display()
                )));
            }
        };
        if head.owner != self.owner || head.base_offset != self.base_offset {
            return Err(LogStoreError::Corrupt {
                path,
                position: 0,
                reason: format!("it belongs to {:?}, not to {:?}", head.owner, self.owner),
            });
        }
        let ordinals = bytes.get(RAFT_ORDINALS_AT..).unwrap_or_default().to_vec();
        Ok(RaftFile { head: Some(head), summary: RaftSummary::decode(&bytes), ordinals })
    }

    /// Reads the index files that belong to a summary; `None` where they do not fit it.
    pub(crate) fn read_index(&self, raft: &RaftFile) -> Result<Option<SegmentIndex>, LogStoreError> {
        let Some(summary) = &raft.summary else { return Ok(None) };
        let sums = summary.sums;
        let read = |extension: &str, entries: u32, entry_bytes: usize, crc: u32| {
            let bytes = read_file(&*self.pool.disk, &self.file(extension))?.unwrap_or_default();
            let crc = (!self.pool.planted(Mutation::IndexTrusted)).then_some(crc);
            Ok::<_, LogStoreError>(checked(bytes, entries as usize * entry_bytes, crc, summary.sealed))
        };
        let offsets = read("index", sums.offset_entries, OFFSET_ENTRY_BYTES, sums.offset_crc)?;
        let times = read("timeindex", sums.time_entries, TIME_ENTRY_BYTES, sums.time_crc)?;
        let ordinals_len = sums.offset_entries as usize * ORDINAL_BYTES;
        let ordinals = checked(raft.ordinals.clone(), ordinals_len, Some(sums.ordinal_crc), summary.sealed);
        let (Some(offsets), Some(times), Some(ordinals)) = (offsets, times, ordinals) else {
            return Ok(None);
        };
        let index = OffsetIndex::decode(&offsets, &ordinals, summary.stats.bytes)
            .and_then(|offsets| Ok(SegmentIndex { offsets, times: TimeIndex::decode(&times)? }));
        if index.is_ok() {
            lock(&self.persisted).sums = sums;
        }
        Ok(index.ok())
    }

    /// The indexes of a sealed segment, from its files; where these are in doubt they are made anew from the `.log`.
    pub(crate) fn index(
        &self,
        stats: &SegmentStats,
        first: Option<LogId>,
        interval: u64,
    ) -> Result<Arc<SegmentIndex>, LogStoreError> {
        let open = self.handle()?;
        let mut in_memory = lock(&open.index);
        if let Some(index) = in_memory.as_ref().and_then(|cached| cached.of(stats)) {
            return Ok(index);
        }
        let raft = self.read_raft_file()?;
        let known = match raft.summary {
            Some(summary) if summary.stats.content() == stats.content() => self.read_index(&raft)?,
            _ => None,
        };
        let index = match known {
            Some(index) => index,
            None => {
                tracing::info!(path = %self.path().display(), "indexes are made anew");
                let (walked, index) = self.rebuild(&open, stats.bytes, interval, stats.last_append_ms)?;
                if let Some(first) = first {
                    *lock(&self.persisted) = Persisted::default();
                    let walked = SegmentStats { first_append_ms: stats.first_append_ms, ..walked };
                    if let Err(error) = self.write_indexes(first, &walked, &index, true) {
                        tracing::warn!(%error, "indexes could not be written, they are made anew when needed");
                    }
                }
                index
            }
        };
        let index = Arc::new(index);
        *in_memory = Some(CachedIndex { content: stats.content(), index: Arc::clone(&index) });
        drop(in_memory);
        self.pool.note_index(self.key, &open, index.memory());
        Ok(index)
    }

    /// Walks the first `bytes` bytes of the file.
    pub(crate) fn rebuild(
        &self,
        open: &OpenSegment,
        bytes: u64,
        interval: u64,
        append_ms: i64,
    ) -> Result<(SegmentStats, SegmentIndex), LogStoreError> {
        let mut stats = SegmentStats::empty(self.base_offset);
        let mut index = SegmentIndex::default();
        let mut walk =
            HeaderWalk::new(self.path(), open, 0, 0, bytes).expecting(self.base_offset).reading(64 << 10);
        while let Some(found) = walk.next_waiting()? {
            index.add(&mut stats, self.base_offset, &found.head, &found.header, interval, append_ms);
        }
        index.close(&stats, self.base_offset);
        Ok((stats, index))
    }
}

impl Drop for Segment {
    /// Nobody can ask for what the pool may still hold of it.
    fn drop(&mut self) {
        self.pool.remove(self.key);
    }
}

/// What a `.raft` file holds.
#[derive(Debug, Default)]
pub(crate) struct RaftFile {
    pub(crate) head: Option<RaftHead>,
    pub(crate) summary: Option<RaftSummary>,
    ordinals: Vec<u8>,
}

/// The first `len` bytes, if they are there and have this CRC-32 (none: a planted bug). Behind those of a sealed segment there is nothing; those
/// of the active one may go on, where its summary was not written any more.
fn checked(mut bytes: Vec<u8>, len: usize, crc: Option<u32>, sealed: bool) -> Option<Vec<u8>> {
    if bytes.len() < len || sealed && bytes.len() > len {
        return None;
    }
    bytes.truncate(len);
    crc.is_none_or(|crc| crc32fast::hash(&bytes) == crc).then_some(bytes)
}

/// A file's content, or `None` where there is no such file.
fn read_file(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, LogStoreError> {
    match disk.open(path, Access::Read) {
        Ok(file) => file.read_all().map(Some).map_err(LogStoreError::io("read", path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LogStoreError::io("open", path)(error)),
    }
}

/// Removes a file; one that is not there is no error.
pub(crate) fn remove_file(disk: &dyn Disk, path: &Path) -> Result<(), LogStoreError> {
    match disk.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LogStoreError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Whether a file was not there.
pub(crate) fn is_missing(error: &LogStoreError) -> bool {
    matches!(error, LogStoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A batch that a walk came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) position: u64,
    /// Batches of the segment before it.
    pub(crate) ordinal: u32,
    pub(crate) head: [u8; HEADER_BYTES],
    pub(crate) header: BatchHeader,
}

/// Why a walk stopped.
#[derive(Debug)]
pub(crate) enum WalkError {
    /// The next header is not in the page cache.
    WouldWait,
    Failed(LogStoreError),
}

impl From<LogStoreError> for WalkError {
    fn from(error: LogStoreError) -> Self {
        Self::Failed(error)
    }
}

/// Reads the headers of a segment one after the other, by pieces large enough to hold many small batches, and jumps over
/// what it does not need of large ones.
#[derive(Debug)]
pub(crate) struct HeaderWalk<'a> {
    path: PathBuf,
    open: &'a OpenSegment,
    position: u64,
    ordinal: u32,
    end: u64,
    expected_offset: Option<i64>,
    piece: usize,
    buffer: Vec<u8>,
    buffer_at: u64,
    waiting: Waiting,
}

impl<'a> HeaderWalk<'a> {
    /// A walk from the batch at `position`, which is number `ordinal` of its segment, up to `end`.
    pub(crate) fn new(path: PathBuf, open: &'a OpenSegment, position: u64, ordinal: u32, end: u64) -> Self {
        Self {
            path,
            open,
            position,
            ordinal,
            end,
            expected_offset: None,
            piece: 4096,
            buffer: Vec::new(),
            buffer_at: 0,
            waiting: Waiting::ForDisk,
        }
    }

    /// The base offset that the first batch must have.
    pub(crate) fn expecting(mut self, offset: i64) -> Self {
        self.expected_offset = Some(offset);
        self
    }

    /// Bytes to read at a time.
    pub(crate) fn reading(mut self, piece: usize) -> Self {
        self.piece = piece;
        self
    }

    pub(crate) fn waiting(mut self, waiting: Waiting) -> Self {
        self.waiting = waiting;
        self
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next batch, `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Found>, WalkError> {
        if self.position >= self.end {
            return Ok(None);
        }
        if self.position + HEADER_BYTES as u64 > self.end {
            return Err(self.damaged("it ends inside of a header").into());
        }
        let mut head = [0; HEADER_BYTES];
        head.copy_from_slice(self.slice(HEADER_BYTES)?);
        let header = BatchHeader::parse(&head).map_err(|error| self.damaged(&error.to_string()))?;
        if let Some(expected) = self.expected_offset
            && header.base_offset != expected
        {
            return Err(self
                .damaged(&format!("a batch begins at offset {}, expected was {expected}", header.base_offset))
                .into());
        }
        if header.last_offset_delta < 0 || self.position + header.size() as u64 > self.end {
            return Err(self.damaged("its last batch is not whole").into());
        }
        let found = Found { position: self.position, ordinal: self.ordinal, head, header };
        self.position += header.size() as u64;
        self.ordinal += 1;
        self.expected_offset = Some(header.next_offset());
        Ok(Some(found))
    }

    /// [`HeaderWalk::next`] of a walk that waits for the disk.
    pub(crate) fn next_waiting(&mut self) -> Result<Option<Found>, LogStoreError> {
        self.next().map_err(|error| match error {
            WalkError::Failed(error) => error,
            WalkError::WouldWait => self.damaged("a walk that may wait would not"),
        })
    }

    /// The bytes of the batch that was found last, whose CRC is checked.
    pub(crate) fn body(&mut self, found: &Found) -> Result<&[u8], LogStoreError> {
        let after = self.position;
        self.position = found.position;
        let size = found.header.size();
        let checked = match self.slice(size) {
            Ok(bytes) => batch::crc32c(&bytes[21..]) == found.header.crc,
            Err(WalkError::Failed(error)) => return Err(error),
            Err(WalkError::WouldWait) => false,
        };
        if !checked {
            return Err(self.damaged("the checksum of a batch does not match"));
        }
        self.position = after;
        let start = (found.position - self.buffer_at) as usize;
        Ok(&self.buffer[start..start + size])
    }

    /// Bytes at the position, read if the buffer does not hold them.
    fn slice(&mut self, len: usize) -> Result<&[u8], WalkError> {
        let (start, end) = (self.position, self.position + len as u64);
        if start < self.buffer_at || end > self.buffer_at + self.buffer.len() as u64 {
            let wanted = (self.end - start).min(self.piece.max(len) as u64) as usize;
            self.buffer.resize(wanted, 0);
            self.buffer_at = start;
            let read = match self.waiting {
                Waiting::ForDisk => self.open.file.read_at(&mut self.buffer, start),
                Waiting::Never => match self.open.file.read_resident_at(&mut self.buffer, start) {
                    Ok(true) => Ok(wanted),
                    Ok(false) => {
                        self.buffer.clear();
                        return Err(WalkError::WouldWait);
                    }
                    Err(error) => Err(error),
                },
            };
            let read = read.map_err(LogStoreError::io("read", &self.path))?;
            self.buffer.truncate(read);
            if read < len {
                return Err(self.damaged("bytes that were promised are missing").into());
            }
        }
        let at = (start - self.buffer_at) as usize;
        Ok(&self.buffer[at..at + len])
    }

    pub(crate) fn damaged(&self, reason: &str) -> LogStoreError {
        LogStoreError::Corrupt { path: self.path.clone(), position: self.position, reason: reason.to_owned() }
    }
}

/// What retention needs to know of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Offset behind its last record.
    pub end_offset: i64,
    /// Raft index of its first batch above the floor, if it has one.
    pub first_index: Option<u64>,
    /// Bytes in its `.log`.
    pub size: u64,
    /// Largest record timestamp, -1 without one.
    pub largest_timestamp: i64,
    /// When its last batch was appended, milliseconds.
    pub last_append_ms: i64,
    /// Whether batches are still appended to it.
    pub active: bool,
}
