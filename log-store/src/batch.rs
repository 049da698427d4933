//! Record batch v2 over bytes: the 61-byte header, its CRC-32C, and offset assignment in place.

use bytes::Bytes;

/// The header of a record batch (magic 2), decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Bytes of the batch after this field (the whole batch less 12).
    pub batch_length: i32,
    /// Term under which the leader appended the batch.
    pub partition_leader_epoch: i32,
    /// CRC-32C over everything from `attributes` to the end.
    pub crc: u32,
    /// Compression, timestamp type, transactional, control and delete-horizon bits.
    pub attributes: i16,
    /// Offset of the last record less the base offset.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, milliseconds.
    pub base_timestamp: i64,
    /// Largest timestamp of the batch, milliseconds.
    pub max_timestamp: i64,
    /// The producer, or -1.
    pub producer_id: i64,
    /// The producer's epoch, or -1.
    pub producer_epoch: i16,
    /// Sequence of the first record, or -1.
    pub base_sequence: i32,
    /// Records in the batch.
    pub record_count: i32,
}

/// A batch: its header's bytes, owned so that offsets can be written into them, and its records as a slice of
/// the frame in which they came.
#[derive(Clone, Debug)]
pub struct RecordBatch {
    /// The header's 61 bytes as they go to disk and over the wire.
    pub head: [u8; 61],
    /// Everything behind the header.
    pub records: Bytes,
}
