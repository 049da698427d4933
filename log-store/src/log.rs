//! The log of one partition: ordered segments, a tail in memory, and the Raft index over both.

use bytes::Bytes;

use crate::{LogId, RecordBatch};

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

/// Bytes of the log on their way out, never copied.
#[derive(Clone, Debug)]
pub enum LogSlice {
    /// Bytes in memory or in a map.
    Bytes(Bytes),
}

/// The log of one partition.
#[derive(Debug)]
pub struct Log {}
