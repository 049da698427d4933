//! What can go wrong with a replicated partition.

use log_store::LogStoreError;

/// An error of `replication`; `broker` maps each to Kafka's code.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReplicationError {
    /// This replica does not lead (or does not serve yet, or stopped leading before the batch committed).
    #[error("this replica is not the leader")]
    NotLeader,
    /// The offset lies outside of the log.
    #[error("offset {offset} is outside of {start}..={end}")]
    OffsetOutOfRange {
        /// Asked for.
        offset: i64,
        /// Log start.
        start: i64,
        /// High watermark.
        end: i64,
    },
    /// Not enough live replicas for `min.insync.replicas`; nothing was appended.
    #[error("not enough replicas")]
    NotEnoughReplicas,
    /// The sequence does not follow the producer's last one.
    #[error("sequence {sequence} of producer {producer} is out of order, expected {expected}")]
    OutOfOrderSequence {
        /// The producer id.
        producer: i64,
        /// What came.
        sequence: i32,
        /// What should have come.
        expected: i32,
    },
    /// An older epoch of the producer.
    #[error("epoch {epoch} of producer {producer} is fenced by {current}")]
    ProducerFenced {
        /// The producer id.
        producer: i64,
        /// What came.
        epoch: i16,
        /// The newest known.
        current: i16,
    },
    /// The partition's storage failed, is full, or is damaged.
    #[error("storage: {0}")]
    Storage(String),
    /// The disk is nearly full: nothing is appended.
    #[error("the data disk is nearly full: nothing is appended until {wanted} bytes are free")]
    DiskFull {
        /// Bytes that have to be free.
        wanted: u64,
    },
    /// The topic is deleted.
    #[error("the topic is deleted")]
    TopicDeleted,
    /// The batch does not fit into a file of the write-ahead log.
    #[error("a batch of {bytes} bytes does not fit into the write-ahead log's files, the limit is {limit}")]
    BatchTooLarge {
        /// Of the batch.
        bytes: usize,
        /// The largest one that fits.
        limit: usize,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

impl From<LogStoreError> for ReplicationError {
    fn from(error: LogStoreError) -> Self {
        match error {
            LogStoreError::OffsetOutOfRange { offset, start, end } => {
                Self::OffsetOutOfRange { offset, start, end }
            }
            other => Self::Storage(other.to_string()),
        }
    }
}
