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
pub fn write_to_segments(
    _writes: &[QueuedWrite],
    _dirty: &mut Vec<Arc<Segment>>,
) -> Result<(), LogStoreError> {
    unimplemented!()
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

/// The log of one partition. All methods may be called from any thread.
#[derive(Debug)]
pub struct Log {}

impl Log {
    /// Makes the directory of a new, empty replica (`state` as `Created` folds it). Nothing is synced: the directory's
    /// name is durable once its parent is synced, its content once [`Segment::sync`] of a written segment returned.
    ///
    /// # Errors
    /// The system's.
    pub fn create(
        _pool: &Arc<SegmentPool>,
        _dir: &Path,
        _state: &GroupState,
        _config: LogConfig,
    ) -> Result<Arc<Self>, LogStoreError> {
        unimplemented!()
    }

    /// Opens a log at the end that `state` promises: cuts what lies beyond it, removes segments without a surviving
    /// entry, and walks the headers behind the last indexed byte. Batches at or above `unchecked` (the end as of the
    /// checkpoint from which recovery started; `None`: the whole active segment) are checked with their CRC.
    ///
    /// # Errors
    /// [`LogStoreError::Corrupt`] where something promised is missing or damaged (nothing was cut then); the system's.
    pub fn open(
        _pool: &Arc<SegmentPool>,
        _dir: &Path,
        _state: &GroupState,
        _unchecked: Option<&LogEnd>,
        _config: LogConfig,
        _now_ms: i64,
    ) -> Result<Arc<Self>, LogStoreError> {
        unimplemented!()
    }

    /// Appends entries, readable at once: stamps base offset and leader epoch, gives each batch its place, rolls where
    /// the settings say so. Adds what the flusher has to write to `queue`, in order.
    ///
    /// # Panics
    /// If indexes are not dense or a term falls.
    pub fn append(
        &self,
        _entries: impl IntoIterator<Item = Entry>,
        _now_ms: i64,
        _queue: &mut Vec<QueuedWrite>,
    ) {
        unimplemented!()
    }

    /// All entries up to `index` are in their segments: memory may let go of their records.
    pub fn written(&self, _index: u64) {
        unimplemented!()
    }

    /// All entries up to `log_id` are durable.
    pub fn durable(&self, _log_id: LogId) {
        unimplemented!()
    }

    /// All entries up to `log_id` are committed and applied: memory may let go of their headers, and nothing may
    /// truncate them any more.
    pub fn applied(&self, _log_id: LogId) {
        unimplemented!()
    }

    /// The entries of a range of indexes (within what the log holds), at least one, at most `max_bytes` otherwise.
    ///
    /// # Errors
    /// [`LogStoreError::Corrupt`]; the system's.
    pub fn entries(
        &self,
        _range: std::ops::Range<u64>,
        _max_bytes: u64,
    ) -> Result<Vec<Entry>, LogStoreError> {
        unimplemented!()
    }

    /// [`Log::entries`] without the records.
    ///
    /// # Errors
    /// [`LogStoreError::Corrupt`]; the system's.
    pub fn heads(&self, _range: std::ops::Range<u64>) -> Result<Vec<EntryHead>, LogStoreError> {
        unimplemented!()
    }

    /// The last entry (the floor where nothing is above it).
    pub fn last_log_id(&self) -> Option<LogId> {
        unimplemented!()
    }

    /// The last entry that is durable here.
    pub fn durable_log_id(&self) -> Option<LogId> {
        unimplemented!()
    }

    /// The last purged entry.
    pub fn floor(&self) -> Option<LogId> {
        unimplemented!()
    }

    /// The log's end: what a `Cut` record would carry.
    pub fn end(&self) -> LogEnd {
        unimplemented!()
    }

    /// The terms with an entry above the floor (and the one of the floor's successor), oldest first.
    pub fn terms(&self) -> Vec<TermStart> {
        unimplemented!()
    }

    /// First offset that may be read.
    pub fn log_start(&self) -> i64 {
        unimplemented!()
    }

    /// Offset of the next record.
    pub fn next_offset(&self) -> i64 {
        unimplemented!()
    }

    /// Offset behind the last record that is durable here.
    pub fn durable_offset(&self) -> i64 {
        unimplemented!()
    }

    /// Bytes in segments.
    pub fn size(&self) -> u64 {
        unimplemented!()
    }

    /// Forgets every entry after `last` (all of them for `None`), in memory. The answer goes into the `Cut` record;
    /// once that is durable, [`Log::cut_files`] has to follow, before anything is appended.
    ///
    /// # Errors
    /// Where the place of the cut has to be read from files: the system's, [`LogStoreError::Corrupt`].
    ///
    /// # Panics
    /// Where an applied entry would go.
    pub fn truncate_after(&self, _last: Option<LogId>) -> Result<LogEnd, LogStoreError> {
        unimplemented!()
    }

    /// Cuts the files to the log's end and removes those beyond it. Adds segments with unsynced changes to `dirty`.
    ///
    /// # Errors
    /// The system's.
    pub fn cut_files(&self, _dirty: &mut Vec<Arc<Segment>>) -> Result<(), LogStoreError> {
        unimplemented!()
    }

    /// Raises the floor to `upto`, in memory and without touching a disk. Returns the offset behind it (for the
    /// `Purge` record) and the files that are needless once that record is durable.
    pub fn purge(&self, _upto: LogId) -> (i64, Vec<PathBuf>) {
        unimplemented!()
    }

    /// Replaces everything by a snapshot that ends with `last`: the log is empty, its next offset is `next_offset`.
    /// Returns the files to remove once the `Installed` record is durable, and before anything is appended.
    pub fn install(&self, _last: LogId, _next_offset: i64) -> Vec<PathBuf> {
        unimplemented!()
    }

    /// Moves the start of the log; it never goes back.
    pub fn set_log_start(&self, _offset: i64) {
        unimplemented!()
    }

    /// Reads whole batches from the one that holds `offset` (or, in a gap, the next one): at most `max_bytes`, the first
    /// batch also when it is larger if `at_least_one`, and only batches that end at or below `upper_bound`.
    ///
    /// # Errors
    /// [`LogStoreError::OffsetOutOfRange`]; [`LogStoreError::Corrupt`]; the system's.
    pub fn read(
        &self,
        _offset: i64,
        _max_bytes: usize,
        _at_least_one: bool,
        _upper_bound: i64,
        _waiting: Waiting,
    ) -> Result<LogRead, LogStoreError> {
        unimplemented!()
    }

    /// The first record below `upper_bound` whose timestamp is at or above `timestamp`: (offset, its timestamp, its
    /// leader epoch). Reads files.
    ///
    /// # Errors
    /// [`LogStoreError::Corrupt`]; the system's.
    pub fn offset_for_time(
        &self,
        _timestamp: i64,
        _upper_bound: i64,
    ) -> Result<Option<(i64, i64, i32)>, LogStoreError> {
        unimplemented!()
    }

    /// The first record below `upper_bound` with the largest timestamp: (offset, timestamp, leader epoch). Reads files.
    ///
    /// # Errors
    /// [`LogStoreError::Corrupt`]; the system's.
    pub fn offset_of_max_timestamp(
        &self,
        _upper_bound: i64,
    ) -> Result<Option<(i64, i64, i32)>, LogStoreError> {
        unimplemented!()
    }

    /// The segments, oldest first, for retention.
    pub fn segments(&self) -> Vec<SegmentSummary> {
        unimplemented!()
    }

    /// Closes the active segment if it has a batch, so that it may go by retention (the next append begins a new one).
    pub fn roll(&self) {
        unimplemented!()
    }

    /// Whether [`Log::finish_rolled`] has something to do.
    pub fn has_rolled(&self) -> bool {
        unimplemented!()
    }

    /// Writes indexes and the sealed part of `.raft` for segments that are closed and wholly written. For a worker.
    ///
    /// # Errors
    /// The system's; what was not finished is tried again at the next call.
    pub fn finish_rolled(&self) -> Result<(), LogStoreError> {
        unimplemented!()
    }

    /// Writes the indexes of the active segment as far as its bytes are written, and the derived files of the log
    /// (`leader-epoch-checkpoint`): at a checkpoint and at a stop. Nothing of it needs to be durable.
    ///
    /// # Errors
    /// The system's.
    pub fn write_indexes(&self) -> Result<(), LogStoreError> {
        unimplemented!()
    }

    /// Replaces the settings.
    pub fn set_config(&self, _config: LogConfig) {
        unimplemented!()
    }
}
