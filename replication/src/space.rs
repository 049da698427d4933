//! Free space on the data disk: appends stop before it runs out, and begin again by themselves.
//!
//! The reserve is what the write-ahead log may still need (the ring's size) and an eighth. Below it produce is refused;
//! reading, committing offsets of what is in flight and checkpoints go on, for they use the reserve. It takes an eighth
//! more than the reserve to begin again, so that the state does not flutter.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use log_store::disk::Disk;

use crate::ReplicationError;

/// How often the disk is asked while nothing is written, milliseconds.
const INTERVAL_MS: i64 = 1_000;
/// So many times the reserve is much room.
const AMPLE: u64 = 8;
/// Bytes written between two questions while much is written.
const INTERVAL_BYTES: u64 = 16 << 20;

/// How the data disk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Below so many, appends are refused.
    pub reserve_bytes: u64,
    /// Whether they are refused now.
    pub full: bool,
}

/// What is known of the free space.
pub(crate) struct Space {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    reserve: u64,
    now: Arc<dyn Fn() -> i64 + Send + Sync>,
    full: AtomicBool,
    asked_ms: AtomicI64,
    written: AtomicU64,
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space")
            .field("reserve", &self.reserve)
            .field("full", &self.full)
            .finish_non_exhaustive()
    }
}

impl Space {
    /// `ring_bytes`: all files of the write-ahead log together.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        ring_bytes: u64,
        now: Arc<dyn Fn() -> i64 + Send + Sync>,
    ) -> Self {
        let space = Self {
            disk,
            dir,
            reserve: ring_bytes + ring_bytes / 8,
            now,
            full: AtomicBool::new(false),
            asked_ms: AtomicI64::new(i64::MIN),
            written: AtomicU64::new(0),
        };
        space.ask();
        space
    }

    /// Whether something may be appended.
    ///
    /// # Errors
    /// [`ReplicationError::DiskFull`].
    pub(crate) fn admit(&self) -> Result<(), ReplicationError> {
        if !self.full.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.ask_again();
        match self.full.load(Ordering::Relaxed) {
            true => Err(ReplicationError::DiskFull { wanted: self.wanted(true) }),
            false => Ok(()),
        }
    }

    /// The flusher wrote so much.
    pub(crate) fn wrote(&self, bytes: u64) {
        let before = self.written.fetch_add(bytes, Ordering::Relaxed);
        if before / INTERVAL_BYTES != (before + bytes) / INTERVAL_BYTES {
            self.ask();
        } else {
            self.ask_again();
        }
    }

    /// A write met a full disk although the reserve said otherwise (a quota, another process).
    pub(crate) fn met_full_disk(&self) {
        self.asked_ms.store((self.now)(), Ordering::Relaxed);
        self.set(true, 0);
    }

    /// Whether there is much more free than the reserve, so that the write-ahead log may be larger than it has to be.
    pub(crate) fn is_ample(&self) -> bool {
        self.disk.free_bytes(&self.dir).is_ok_and(|free| free / AMPLE >= self.reserve)
    }

    /// How the disk stands now.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn state(&self) -> io::Result<DiskSpace> {
        self.ask();
        Ok(DiskSpace {
            free_bytes: self.disk.free_bytes(&self.dir)?,
            reserve_bytes: self.reserve,
            full: self.full.load(Ordering::Relaxed),
        })
    }

    /// The next question goes to the disk.
    #[cfg(test)]
    pub(crate) fn forget(&self) {
        self.ask();
    }

    fn ask_again(&self) {
        let now = (self.now)();
        let asked = self.asked_ms.load(Ordering::Relaxed);
        if now.saturating_sub(asked) >= INTERVAL_MS || now < asked {
            self.ask();
        }
    }

    fn ask(&self) {
        self.asked_ms.store((self.now)(), Ordering::Relaxed);
        // a disk that does not answer is found by the writes
        let Ok(free) = self.disk.free_bytes(&self.dir) else { return };
        self.set(free < self.wanted(self.full.load(Ordering::Relaxed)), free);
    }

    /// Bytes that have to be free for something to be appended.
    fn wanted(&self, full: bool) -> u64 {
        if full { self.reserve + self.reserve / 8 } else { self.reserve }
    }

    fn set(&self, full: bool, free: u64) {
        if self.full.swap(full, Ordering::Relaxed) == full {
            return;
        }
        let dir = self.dir.display();
        if full {
            let wanted = self.wanted(true);
            tracing::error!(
                free, wanted, to_free = wanted.saturating_sub(free), %dir,
                "disk nearly full: produce is refused (error 56), fetch goes on; free `to_free` bytes more on this disk (lower \
                 retention, delete topics), and writing begins again by itself"
            );
        } else {
            tracing::info!(free, %dir, "enough space on the disk: produce is taken again");
        }
    }
}
