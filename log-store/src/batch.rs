//! Record batch v2 over bytes: header, CRC-32C, offset assignment in place, and what a produced batch must satisfy.
//!
//! ```text
//!  0 baseOffset            int64   outside the CRC: written by the leader's append
//!  8 batchLength           int32   bytes behind this field
//! 12 partitionLeaderEpoch  int32   outside the CRC: written by the leader's append
//! 16 magic                 int8    2
//! 17 crc                   uint32  CRC-32C of everything from 21 on
//! 21 attributes            int16   0-2 codec, 3 LogAppendTime, 4 transactional, 5 control, 6 delete horizon
//! 23 lastOffsetDelta       int32
//! 27 baseTimestamp         int64
//! 35 maxTimestamp          int64
//! 43 producerId            int64
//! 51 producerEpoch         int16
//! 53 baseSequence          int32
//! 57 recordCount           int32
//! 61 records               compressed as one block, see `record`
//! ```
//! A batch is kept as the client sent it. What the broker writes is the base offset and the leader epoch, in the 61 bytes
//! of the header that [`RecordBatch`] owns; the records stay a slice of the frame in which they came. Only [`validate`]
//! may change more: the largest timestamp where it was wrong, the LogAppendTime, and the codec of a topic that has one.

#[cfg(test)]
mod tests;
mod validate;

use bytes::{Buf, Bytes, BytesMut};

use crate::{
    compression::{self, Codec, CompressionError, Inflater, inflate_limit},
    record::{self, Header, MalformedRecord, Records},
};

pub use validate::{ProduceRules, validate};

/// Bytes of a batch's header.
pub const HEADER_BYTES: usize = 61;
/// Bytes before the part of the batch that `batchLength` counts.
pub const LENGTH_OVERHEAD: usize = 12;
/// The only format there is.
pub const MAGIC: i8 = 2;
/// Attribute bit: every record carries the batch's largest timestamp, written by the broker.
pub const LOG_APPEND_TIME_BIT: i16 = 1 << 3;
/// Attribute bit: the batch belongs to a transaction.
pub const TRANSACTIONAL_BIT: i16 = 1 << 4;
/// Attribute bit: the batch holds a transaction marker.
pub const CONTROL_BIT: i16 = 1 << 5;
/// Attribute bit: the base timestamp is the deadline of tombstones (KIP-534).
pub const DELETE_HORIZON_BIT: i16 = 1 << 6;

const LENGTH_AT: usize = 8;
const EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_OFFSET_DELTA_AT: usize = 23;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;
const RECORD_COUNT_AT: usize = 57;

fn field<const N: usize>(head: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&head[at..at + N]);
    bytes
}

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

impl BatchHeader {
    /// Reads the header at the start of `bytes` and checks what does not need the rest: that it is whole, its magic, and
    /// that its length covers at least the header.
    ///
    /// # Errors
    /// [`BatchError::Truncated`], [`BatchError::UnsupportedMagic`], [`BatchError::Length`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let have = bytes.len();
        if let Some(&magic) = bytes.get(MAGIC_AT)
            && magic as i8 != MAGIC
        {
            return Err(BatchError::UnsupportedMagic { magic: magic as i8 });
        }
        let head = bytes
            .first_chunk()
            .ok_or(BatchError::Truncated { have: have as u64, need: HEADER_BYTES as u64 })?;
        let header = Self::decode(head);
        if header.batch_length < (HEADER_BYTES - LENGTH_OVERHEAD) as i32 {
            return Err(BatchError::Length { batch_length: header.batch_length });
        }
        Ok(header)
    }

    /// Decodes the fields as they are; nothing is checked.
    pub fn decode(head: &[u8; HEADER_BYTES]) -> Self {
        Self {
            base_offset: i64::from_be_bytes(field(head, 0)),
            batch_length: i32::from_be_bytes(field(head, LENGTH_AT)),
            partition_leader_epoch: i32::from_be_bytes(field(head, EPOCH_AT)),
            crc: u32::from_be_bytes(field(head, CRC_AT)),
            attributes: i16::from_be_bytes(field(head, ATTRIBUTES_AT)),
            last_offset_delta: i32::from_be_bytes(field(head, LAST_OFFSET_DELTA_AT)),
            base_timestamp: i64::from_be_bytes(field(head, BASE_TIMESTAMP_AT)),
            max_timestamp: i64::from_be_bytes(field(head, MAX_TIMESTAMP_AT)),
            producer_id: i64::from_be_bytes(field(head, PRODUCER_ID_AT)),
            producer_epoch: i16::from_be_bytes(field(head, PRODUCER_EPOCH_AT)),
            base_sequence: i32::from_be_bytes(field(head, BASE_SEQUENCE_AT)),
            record_count: i32::from_be_bytes(field(head, RECORD_COUNT_AT)),
        }
    }

    /// The header's bytes, with magic 2.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut head = [0; HEADER_BYTES];
        head[..8].copy_from_slice(&self.base_offset.to_be_bytes());
        head[LENGTH_AT..EPOCH_AT].copy_from_slice(&self.batch_length.to_be_bytes());
        head[EPOCH_AT..MAGIC_AT].copy_from_slice(&self.partition_leader_epoch.to_be_bytes());
        head[MAGIC_AT] = MAGIC as u8;
        head[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&self.crc.to_be_bytes());
        head[ATTRIBUTES_AT..LAST_OFFSET_DELTA_AT].copy_from_slice(&self.attributes.to_be_bytes());
        head[LAST_OFFSET_DELTA_AT..BASE_TIMESTAMP_AT].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        head[BASE_TIMESTAMP_AT..MAX_TIMESTAMP_AT].copy_from_slice(&self.base_timestamp.to_be_bytes());
        head[MAX_TIMESTAMP_AT..PRODUCER_ID_AT].copy_from_slice(&self.max_timestamp.to_be_bytes());
        head[PRODUCER_ID_AT..PRODUCER_EPOCH_AT].copy_from_slice(&self.producer_id.to_be_bytes());
        head[PRODUCER_EPOCH_AT..BASE_SEQUENCE_AT].copy_from_slice(&self.producer_epoch.to_be_bytes());
        head[BASE_SEQUENCE_AT..RECORD_COUNT_AT].copy_from_slice(&self.base_sequence.to_be_bytes());
        head[RECORD_COUNT_AT..].copy_from_slice(&self.record_count.to_be_bytes());
        head
    }

    /// Bytes of the whole batch, header included.
    pub fn size(&self) -> usize {
        LENGTH_OVERHEAD + usize::try_from(self.batch_length).unwrap_or(0)
    }

    /// Offset of the last record (of the batch's range, where records were compacted away).
    pub fn last_offset(&self) -> i64 {
        self.base_offset.wrapping_add(i64::from(self.last_offset_delta))
    }

    /// Offset behind the batch.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().wrapping_add(1)
    }

    /// Sequence of the last record, or -1 without a sequence. Sequences wrap from 2147483647 to 0.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return -1;
        }
        self.base_sequence.wrapping_add(self.last_offset_delta) & i32::MAX
    }

    /// The codec of the records.
    ///
    /// # Errors
    /// [`CompressionError::UnknownCodec`].
    pub fn codec(&self) -> Result<Codec, CompressionError> {
        Codec::from_attributes(self.attributes)
    }

    /// Whether the timestamp is the broker's.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME_BIT != 0
    }

    /// Whether it belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether it is a transaction marker.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Whether a producer id is set.
    pub fn has_producer(&self) -> bool {
        self.producer_id >= 0
    }
}

/// A batch: its header's bytes, owned so that offsets can be written into them, and its records as a slice of
/// the frame in which they came.
#[derive(Clone, PartialEq, Eq)]
pub struct RecordBatch {
    /// The header's 61 bytes as they go to disk and over the wire.
    pub head: [u8; HEADER_BYTES],
    /// Everything behind the header.
    pub records: Bytes,
}

impl std::fmt::Debug for RecordBatch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("RecordBatch").field(&self.header()).finish()
    }
}

impl RecordBatch {
    /// Takes exactly one batch, of which the length and the magic are checked, but not the CRC.
    ///
    /// # Errors
    /// As [`BatchHeader::parse`]; [`BatchError::Truncated`] or [`BatchError::TrailingBytes`] where `bytes` is shorter or
    /// longer than the header says.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, BatchError> {
        let size = BatchHeader::parse(&bytes)?.size();
        if bytes.len() < size {
            return Err(BatchError::Truncated { have: bytes.len() as u64, need: size as u64 });
        }
        if bytes.len() > size {
            return Err(BatchError::TrailingBytes { bytes: (bytes.len() - size) as u64 });
        }
        Ok(Self::split(bytes))
    }

    /// Takes the next batch off the front of `bytes`; `None` once less than a whole batch is left, which stays there
    /// (Kafka may cut the last batch of a fetch at the size limit).
    ///
    /// # Errors
    /// As [`BatchHeader::parse`].
    pub fn take_first(bytes: &mut Bytes) -> Result<Option<Self>, BatchError> {
        let size = match BatchHeader::parse(bytes) {
            Ok(header) => header.size(),
            Err(BatchError::Truncated { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok((bytes.len() >= size).then(|| Self::split(bytes.split_to(size))))
    }

    fn split(mut bytes: Bytes) -> Self {
        let mut head = [0; HEADER_BYTES];
        bytes.copy_to_slice(&mut head);
        Self { head, records: bytes }
    }

    /// The decoded header.
    pub fn header(&self) -> BatchHeader {
        BatchHeader::decode(&self.head)
    }

    /// Bytes of the whole batch.
    pub fn size(&self) -> usize {
        HEADER_BYTES + self.records.len()
    }

    /// The whole batch in one piece (a copy).
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.size());
        bytes.extend_from_slice(&self.head);
        bytes.extend_from_slice(&self.records);
        bytes.freeze()
    }

    /// Offset of the first record.
    pub fn base_offset(&self) -> i64 {
        i64::from_be_bytes(field(&self.head, 0))
    }

    /// Term under which the leader appended the batch.
    pub fn leader_epoch(&self) -> i32 {
        i32::from_be_bytes(field(&self.head, EPOCH_AT))
    }

    /// Offset of the last record less the base offset.
    pub fn last_offset_delta(&self) -> i32 {
        i32::from_be_bytes(field(&self.head, LAST_OFFSET_DELTA_AT))
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset().wrapping_add(i64::from(self.last_offset_delta()))
    }

    /// Offset behind the batch.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().wrapping_add(1)
    }

    /// Compression, timestamp type, transactional, control and delete-horizon bits.
    pub fn attributes(&self) -> i16 {
        i16::from_be_bytes(field(&self.head, ATTRIBUTES_AT))
    }

    /// Largest timestamp of the batch, milliseconds.
    pub fn max_timestamp(&self) -> i64 {
        i64::from_be_bytes(field(&self.head, MAX_TIMESTAMP_AT))
    }

    /// The producer, or -1.
    pub fn producer_id(&self) -> i64 {
        i64::from_be_bytes(field(&self.head, PRODUCER_ID_AT))
    }

    /// Records in the batch.
    pub fn record_count(&self) -> i32 {
        i32::from_be_bytes(field(&self.head, RECORD_COUNT_AT))
    }

    /// Writes the base offset. The CRC does not cover it.
    pub fn set_base_offset(&mut self, offset: i64) {
        self.head[..8].copy_from_slice(&offset.to_be_bytes());
    }

    /// Writes the leader epoch. The CRC does not cover it.
    pub fn set_leader_epoch(&mut self, epoch: i32) {
        self.head[EPOCH_AT..MAGIC_AT].copy_from_slice(&epoch.to_be_bytes());
    }

    /// The CRC-32C that the header should carry.
    pub fn computed_crc(&self) -> u32 {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        digest.update(&self.head[ATTRIBUTES_AT..]);
        digest.update(&self.records);
        digest.finalize() as u32
    }

    /// Whether header and records are what was sent.
    pub fn crc_holds(&self) -> bool {
        self.computed_crc() == u32::from_be_bytes(field(&self.head, CRC_AT))
    }

    /// The records, inflated by `inflater` where they are compressed.
    ///
    /// # Errors
    /// The records cannot be inflated.
    pub fn records_in<'a>(&'a self, inflater: &'a mut Inflater) -> Result<Records<'a>, CompressionError> {
        let header = self.header();
        let bytes = inflater.inflate(header.codec()?, &self.records, inflate_limit(self.size()))?;
        let append_time = header.is_log_append_time().then_some(header.max_timestamp);
        Ok(Records::new(bytes, header.base_offset, header.base_timestamp, append_time))
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.head[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn refresh_crc(&mut self) {
        let crc = self.computed_crc();
        self.put(CRC_AT, &crc.to_be_bytes());
    }
}

/// CRC-32C (Castagnoli) of one piece.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Builds a batch record by record.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    header: BatchHeader,
    codec: Codec,
    level: Option<i32>,
    records: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new(Codec::None)
    }
}

impl BatchBuilder {
    /// A builder of a batch from base offset 0, without producer.
    pub fn new(codec: Codec) -> Self {
        let header = BatchHeader {
            base_offset: 0,
            batch_length: 0,
            partition_leader_epoch: -1,
            crc: 0,
            attributes: codec as i16,
            last_offset_delta: -1,
            base_timestamp: -1,
            max_timestamp: -1,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: 0,
        };
        Self { header, codec, level: None, records: Vec::new() }
    }

    /// The codec's level.
    pub fn level(mut self, level: i32) -> Self {
        self.level = Some(level);
        self
    }

    /// Producer id, epoch and the first record's sequence.
    pub fn producer(mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self {
        self.header.producer_id = producer_id;
        self.header.producer_epoch = producer_epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// Sets attribute bits besides the codec's, [`TRANSACTIONAL_BIT`] for example.
    pub fn attributes(mut self, bits: i16) -> Self {
        self.header.attributes |= bits & !7;
        self
    }

    /// Adds a record.
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> &mut Self {
        let header = &mut self.header;
        if header.record_count == 0 {
            header.base_timestamp = timestamp;
            header.max_timestamp = timestamp;
        }
        header.max_timestamp = header.max_timestamp.max(timestamp);
        let delta = timestamp.wrapping_sub(header.base_timestamp);
        record::put_record(&mut self.records, header.record_count, delta, key, value, headers);
        header.last_offset_delta = header.record_count;
        header.record_count += 1;
        self
    }

    /// Records so far.
    pub fn len(&self) -> usize {
        self.header.record_count as usize
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.header.record_count == 0
    }

    /// Bytes of the batch so far, before compression.
    pub fn uncompressed_size(&self) -> usize {
        HEADER_BYTES + self.records.len()
    }

    /// Compresses the records and finishes the header.
    pub fn build(self) -> RecordBatch {
        let records = match self.codec {
            Codec::None => self.records,
            codec => compression::deflate(codec, self.level, &self.records),
        };
        let mut header = self.header;
        header.batch_length = i32::try_from(HEADER_BYTES - LENGTH_OVERHEAD + records.len())
            .expect("a batch is far smaller than 2 GiB");
        let mut batch = RecordBatch { head: header.encode(), records: Bytes::from(records) };
        batch.refresh_crc();
        batch
    }
}

/// Why a batch was refused. Kafka's code for each stands beside it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end before the batch does (87).
    #[error("the record batch needs {need} bytes, there are {have}")]
    Truncated {
        /// Bytes there are.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// No batch format but 2 is known (87).
    #[error("record format {magic} is not supported, only 2")]
    UnsupportedMagic {
        /// The format found.
        magic: i8,
    },
    /// The length does not cover the header (2).
    #[error("a record batch cannot have length {batch_length}")]
    Length {
        /// The length found.
        batch_length: i32,
    },
    /// There is more than one batch, or something else behind it (87).
    #[error("{bytes} bytes follow the record batch, exactly one is allowed")]
    TrailingBytes {
        /// How many.
        bytes: u64,
    },
    /// No batch at all (87).
    #[error("there is no record batch")]
    Empty,
    /// The CRC does not hold (2).
    #[error("the record batch is corrupt (stored CRC {stored:08x}, computed {computed:08x})")]
    Crc {
        /// What the header says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// Larger than the topic's `max.message.bytes` (10).
    #[error("the record batch of {size} bytes is larger than max.message.bytes = {limit}")]
    TooLarge {
        /// Bytes of the batch.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// Larger than the topic's `segment.bytes` (18).
    #[error("the record batch of {size} bytes is larger than segment.bytes = {limit}")]
    LargerThanSegment {
        /// Bytes of the batch.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// Clients number the records of a batch from 0 (87).
    #[error("the base offset of a produced batch must be 0, not {base_offset}")]
    BaseOffset {
        /// The base offset found.
        base_offset: i64,
    },
    /// Last offset delta + 1 must equal the record count, which is above 0 (87).
    #[error("last offset delta {last_offset_delta} does not agree with a record count of {record_count}")]
    OffsetRange {
        /// The delta found.
        last_offset_delta: i32,
        /// The count found.
        record_count: i32,
    },
    /// Clients may not write transaction markers (87).
    #[error("clients may not write control records")]
    Control,
    /// Producer id, epoch and sequence must be set together (87).
    #[error("producer id {producer_id} with epoch {producer_epoch} and sequence {base_sequence}")]
    Producer {
        /// The producer id found.
        producer_id: i64,
        /// The epoch found.
        producer_epoch: i16,
        /// The sequence found.
        base_sequence: i32,
    },
    /// A transactional batch in a request that does not belong to a transaction (53), or without a producer id (87).
    #[error("a transactional record batch needs a transactional id and a producer id")]
    Transactional {
        /// Whether the producer id is set.
        has_producer: bool,
    },
    /// zstd came with Produce below 7 (76).
    #[error("zstd needs Produce version 7 or later")]
    ZstdTooEarly,
    /// The compressed records cannot be read (87).
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// A record is malformed (87).
    #[error(transparent)]
    Record(#[from] MalformedRecord),
    /// The header's count is not that of the records (87).
    #[error("the header says {record_count} records, the batch holds {found}")]
    RecordCount {
        /// What the header says.
        record_count: i32,
        /// What the batch holds.
        found: i32,
    },
    /// The records' offset deltas are not 0, 1, 2 and so on (87).
    #[error("the records' offset deltas are not 0, 1, 2, ..")]
    OffsetDeltas,
    /// A record's timestamp does not fit 64 bits (32).
    #[error("base timestamp {base_timestamp} and timestamp delta {delta} give no timestamp")]
    TimestampOverflow {
        /// The batch's base timestamp.
        base_timestamp: i64,
        /// The record's delta.
        delta: i64,
    },
    /// Records that the topic does not take (32 where a timestamp is among the reasons, else 87, with `record_errors`).
    #[error("{} record(s) refused, the first: record {}, {}", .0.len(), .0[0].index, .0[0].reason)]
    Refused(Vec<RefusedRecord>),
}

/// A record that the topic does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedRecord {
    /// Its place in the batch, from 0.
    pub index: i32,
    /// What is wrong with it.
    pub reason: RefusalReason,
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusalReason {
    /// A compacted topic takes no record without key.
    #[error("a compacted topic cannot accept a record without key")]
    NullKey,
    /// The timestamp is too far from the broker's clock.
    #[error("timestamp {timestamp} is outside of {earliest}..={latest}")]
    Timestamp {
        /// The record's timestamp.
        timestamp: i64,
        /// The earliest allowed.
        earliest: i64,
        /// The latest allowed.
        latest: i64,
    },
    /// The producer set the timestamp type that only the broker sets.
    #[error("a producer must not set the timestamp type LogAppendTime")]
    LogAppendTime,
}

impl RefusalReason {
    /// Whether it makes the whole batch INVALID_TIMESTAMP (32) instead of INVALID_RECORD (87).
    pub fn is_timestamp(self) -> bool {
        matches!(self, Self::Timestamp { .. } | Self::LogAppendTime)
    }
}
