//! What can go wrong in the log store.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::ReplicaId;

/// An error of the log store.
#[derive(Debug, thiserror::Error)]
pub enum LogStoreError {
    /// A system call on a file or directory failed.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was attempted, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Bytes that were promised are missing or damaged.
    #[error("{path} is damaged at byte {position}: {reason}")]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where in the file.
        position: u64,
        /// What does not hold.
        reason: String,
    },
    /// The data directory belongs to something else, or to a newer version.
    #[error("{0}")]
    Refused(String),
    /// The offset lies outside of what the log holds.
    #[error("offset {offset} is outside of {start}..={end}")]
    OffsetOutOfRange {
        /// The offset asked for.
        offset: i64,
        /// The log's start.
        start: i64,
        /// The log's end, exclusive.
        end: i64,
    },
    /// A batch does not fit into a segment of this log.
    #[error("a batch of {bytes} bytes does not fit into segments of {segment_bytes}")]
    BatchTooLarge {
        /// Size of the batch.
        bytes: usize,
        /// `segment.bytes` of the log.
        segment_bytes: u64,
    },
    /// A record of the write-ahead log does not fit the state of its replica.
    #[error("replica {replica}: {reason}")]
    Invariant {
        /// The replica.
        replica: ReplicaId,
        /// What does not hold.
        reason: String,
    },
    /// No file of the write-ahead log is free: a checkpoint has to be written first.
    #[error("the write-ahead log is full until the next checkpoint")]
    WalFull,
    /// An earlier write or sync failed; what is on the disk is unknown until recovery has looked.
    #[error("an earlier write failed; restart to recover")]
    Poisoned,
}

impl LogStoreError {
    /// Adds what was attempted to an error of the system: `disk.open(..).map_err(LogStoreError::io("open", path))?`.
    pub fn io(operation: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.as_ref().to_owned(), source }
    }

    /// Whether the disk, a quota or a file's size limit is exhausted: space may come back, nothing is damaged.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        ))
    }
}
