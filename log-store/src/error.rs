//! What can go wrong in the log store.

use std::{io, path::PathBuf};

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
}
