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

use bytes::{Buf, Bytes, BytesMut};

use crate::{
    compression::{self, Codec, CompressionError, Inflater, inflate_limit},
    config::{LogConfig, TimestampType},
    record::{self, Header, MalformedRecord, Records, Walk},
};

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

/// What a topic, and the version of the request, demand of a produced batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProduceRules {
    /// `max.message.bytes`: the largest batch.
    pub max_message_bytes: u64,
    /// `segment.bytes`: no batch is larger than a segment.
    pub segment_bytes: u64,
    /// `compression.type` with its level; `None` is `producer`: stored as sent.
    pub compression: Option<(Codec, Option<i32>)>,
    /// Whether the topic is compacted: every record needs a key.
    pub compacted: bool,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// Whether zstd may come: Produce version 7 and later.
    pub zstd: bool,
    /// Whether the request belongs to a transaction.
    pub transactional: bool,
}

impl ProduceRules {
    /// The rules of a topic for a Produce request outside of transactions.
    pub fn new(config: &LogConfig, zstd: bool) -> Self {
        Self {
            max_message_bytes: u64::from(config.max_message_bytes),
            segment_bytes: config.segment_bytes,
            compression: config.compression.map(|codec| (codec, config.compression_level(codec))),
            compacted: config.cleanup_policy.compact,
            timestamp_type: config.timestamp_type,
            timestamp_before_max_ms: config.timestamp_before_max_ms,
            timestamp_after_max_ms: config.timestamp_after_max_ms,
            zstd,
            transactional: false,
        }
    }
}

/// How many refused records are named; a batch can hold millions.
const MAX_REFUSED: usize = 1000;

/// Checks what a client sent as the records of one partition, and makes of it the batch to append.
///
/// The checks and their order are those of Kafka's `ProduceRequest.validateRecords`, `UnifiedLog` and `LogValidator`,
/// with these differences, all but the last towards refusing: bytes behind the batch, offset deltas with gaps (Kafka
/// renumbers them where they are compressed and stores them where they are not), key and value lengths below -1, a
/// producer id without an epoch, a timestamp beyond 64 bits; and where a producer sets the LogAppendTime bit on
/// a CreateTime topic, the bit is cleared and the records' own timestamps count.
///
/// Uncompressed records are walked in place and nothing is allocated. Compressed ones are inflated, within bounds, into a
/// buffer of this thread.
///
/// # Errors
/// The first thing that does not hold.
pub fn validate(bytes: Bytes, rules: &ProduceRules, now_ms: i64) -> Result<RecordBatch, BatchError> {
    if bytes.is_empty() {
        return Err(BatchError::Empty);
    }
    let header = BatchHeader::parse(&bytes)?;
    let codec = header.codec()?;
    if codec == Codec::Zstd && !rules.zstd {
        return Err(BatchError::ZstdTooEarly);
    }
    check_frame(&bytes, &header, rules)?;
    check_header(&header, rules)?;
    let mut batch = RecordBatch::split(bytes);
    if codec == Codec::None && rules.compression.is_none_or(|(codec, _)| codec == Codec::None) {
        let walk = check_records(&batch.records, &header, rules, now_ms)?;
        settle_timestamps(&mut batch, &header, &walk, rules, now_ms);
        return Ok(batch);
    }
    compression::with_inflater(|inflater| {
        let inflated = inflater.inflate(codec, &batch.records, inflate_limit(header.size()))?;
        let walk = check_records(inflated, &header, rules, now_ms)?;
        let recompressed = match rules.compression {
            Some((target, level)) if target != codec => {
                Some((target, Bytes::from(compression::deflate(target, level, inflated))))
            }
            _ => None,
        };
        if let Some((target, records)) = recompressed {
            batch.records = records;
            let attributes = header.attributes & !7 | target as i16;
            batch.put(ATTRIBUTES_AT, &attributes.to_be_bytes());
            let size = batch.size();
            check_size(size as u64, rules)?;
            batch.put(LENGTH_AT, &((size - LENGTH_OVERHEAD) as i32).to_be_bytes());
            batch.refresh_crc();
        }
        let header = batch.header();
        settle_timestamps(&mut batch, &header, &walk, rules, now_ms);
        Ok(batch)
    })
}

/// One batch, whole, of an allowed size, with the right CRC.
fn check_frame(bytes: &[u8], header: &BatchHeader, rules: &ProduceRules) -> Result<(), BatchError> {
    let size = header.size();
    if bytes.len() < size {
        return Err(BatchError::Truncated { have: bytes.len() as u64, need: size as u64 });
    }
    if bytes.len() > size {
        return Err(BatchError::TrailingBytes { bytes: (bytes.len() - size) as u64 });
    }
    if header.base_offset != 0 {
        return Err(BatchError::BaseOffset { base_offset: header.base_offset });
    }
    check_size(size as u64, rules)?;
    let computed = crc32c(&bytes[ATTRIBUTES_AT..]);
    if computed != header.crc {
        return Err(BatchError::Crc { stored: header.crc, computed });
    }
    Ok(())
}

fn check_size(size: u64, rules: &ProduceRules) -> Result<(), BatchError> {
    if size > rules.max_message_bytes {
        return Err(BatchError::TooLarge { size, limit: rules.max_message_bytes });
    }
    if size > rules.segment_bytes {
        return Err(BatchError::LargerThanSegment { size, limit: rules.segment_bytes });
    }
    Ok(())
}

fn check_header(header: &BatchHeader, rules: &ProduceRules) -> Result<(), BatchError> {
    let BatchHeader { last_offset_delta, record_count, .. } = *header;
    if record_count <= 0 || last_offset_delta != record_count - 1 {
        return Err(BatchError::OffsetRange { last_offset_delta, record_count });
    }
    if header.is_control() {
        return Err(BatchError::Control);
    }
    let BatchHeader { producer_id, producer_epoch, base_sequence, .. } = *header;
    let consistent = match producer_id {
        -1 => true,
        0.. => producer_epoch >= 0 && base_sequence >= 0,
        _ => false,
    };
    if !consistent {
        return Err(BatchError::Producer { producer_id, producer_epoch, base_sequence });
    }
    if header.is_transactional() && !(rules.transactional && header.has_producer()) {
        return Err(BatchError::Transactional { has_producer: header.has_producer() });
    }
    Ok(())
}

/// All that needs the uncompressed records.
fn check_records(
    records: &[u8],
    header: &BatchHeader,
    rules: &ProduceRules,
    now_ms: i64,
) -> Result<Walk, BatchError> {
    let walk = record::walk(records)?;
    if walk.count != header.record_count {
        return Err(BatchError::RecordCount { record_count: header.record_count, found: walk.count });
    }
    if !walk.continuous {
        return Err(BatchError::OffsetDeltas);
    }
    let BatchHeader { base_timestamp, .. } = *header;
    let timestamp = |delta| {
        base_timestamp.checked_add(delta).ok_or(BatchError::TimestampOverflow { base_timestamp, delta })
    };
    let (smallest, largest) = (timestamp(walk.min_timestamp_delta)?, timestamp(walk.max_timestamp_delta)?);
    let in_range = rules.timestamp_type == TimestampType::LogAppendTime
        || (smallest >= earliest_allowed(rules, now_ms) && largest <= latest_allowed(rules, now_ms));
    // Not in range is no verdict yet: a record without timestamp, -1, is allowed however far away that is.
    if !in_range || header.is_log_append_time() || (rules.compacted && walk.null_key) {
        refuse_records(records, header, rules, now_ms)?;
    }
    Ok(walk)
}

fn earliest_allowed(rules: &ProduceRules, now_ms: i64) -> i64 {
    if rules.timestamp_before_max_ms == i64::MAX {
        return i64::MIN;
    }
    now_ms.saturating_sub(rules.timestamp_before_max_ms)
}

fn latest_allowed(rules: &ProduceRules, now_ms: i64) -> i64 {
    now_ms.saturating_add(rules.timestamp_after_max_ms)
}

/// Looks at record after record for those that the topic does not take.
#[cold]
fn refuse_records(
    records: &[u8],
    header: &BatchHeader,
    rules: &ProduceRules,
    now_ms: i64,
) -> Result<(), BatchError> {
    let (earliest, latest) = (earliest_allowed(rules, now_ms), latest_allowed(rules, now_ms));
    let refused: Vec<RefusedRecord> = Records::new(records, 0, header.base_timestamp, None)
        .map_while(Result::ok)
        .zip(0..)
        .filter_map(|(record, index)| {
            let timestamp = record.timestamp;
            let reason = if rules.compacted && record.key.is_none() {
                RefusalReason::NullKey
            } else if rules.timestamp_type == TimestampType::CreateTime && timestamp != -1 {
                if (earliest..=latest).contains(&timestamp) {
                    return None;
                }
                RefusalReason::Timestamp { timestamp, earliest, latest }
            } else if header.is_log_append_time() {
                RefusalReason::LogAppendTime
            } else {
                return None;
            };
            Some(RefusedRecord { index, reason })
        })
        .take(MAX_REFUSED)
        .collect();
    if refused.is_empty() { Ok(()) } else { Err(BatchError::Refused(refused)) }
}

/// Makes the largest timestamp true, or the broker's. The CRC is computed anew only where something changed.
fn settle_timestamps(
    batch: &mut RecordBatch,
    header: &BatchHeader,
    walk: &Walk,
    rules: &ProduceRules,
    now_ms: i64,
) {
    // Like Kafka, rewriting the attributes drops the bits that mean nothing.
    const KNOWN_BITS: i16 = 0x7f;
    let (type_bit, max_timestamp) = match rules.timestamp_type {
        TimestampType::LogAppendTime => (LOG_APPEND_TIME_BIT, now_ms),
        TimestampType::CreateTime => (0, header.base_timestamp.wrapping_add(walk.max_timestamp_delta)),
    };
    if header.max_timestamp == max_timestamp && header.attributes & LOG_APPEND_TIME_BIT == type_bit {
        return;
    }
    let attributes = header.attributes & KNOWN_BITS & !LOG_APPEND_TIME_BIT | type_bit;
    batch.put(ATTRIBUTES_AT, &attributes.to_be_bytes());
    batch.put(MAX_TIMESTAMP_AT, &max_timestamp.to_be_bytes());
    batch.refresh_crc();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordField;

    const NOW: i64 = 1_700_000_000_000;

    fn rules() -> ProduceRules {
        ProduceRules::new(&LogConfig::default(), true)
    }

    /// Three records at NOW, NOW + 5 and NOW + 2.
    fn builder(codec: Codec) -> BatchBuilder {
        let mut builder = BatchBuilder::new(codec).producer(7, 1, 40);
        builder.append(NOW, Some(b"a"), Some(b"first"), &[(b"h", Some(b"1")), (b"h", None)]);
        builder.append(NOW + 5, None, Some(&[9; 300]), &[]);
        builder.append(NOW + 2, Some(b""), None, &[]);
        builder
    }

    fn sent(codec: Codec) -> RecordBatch {
        builder(codec).build()
    }

    fn check(batch: &RecordBatch, rules: &ProduceRules) -> Result<RecordBatch, BatchError> {
        validate(batch.to_bytes(), rules, NOW)
    }

    /// `batch` with its header changed and the CRC made right again.
    fn changed(mut batch: RecordBatch, change: impl FnOnce(&mut BatchHeader)) -> RecordBatch {
        let mut header = batch.header();
        change(&mut header);
        batch.head = header.encode();
        batch.refresh_crc();
        batch
    }

    /// `batch` with other (uncompressed) records, the CRC and length right.
    fn with_records(batch: &RecordBatch, records: Vec<u8>) -> RecordBatch {
        let length = (HEADER_BYTES - LENGTH_OVERHEAD + records.len()) as i32;
        let batch = RecordBatch { head: batch.head, records: Bytes::from(records) };
        changed(batch, |header| header.batch_length = length)
    }

    /// Offset, timestamp, key, value.
    type Values = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>);

    fn values(batch: &RecordBatch) -> Vec<Values> {
        batch
            .records_in(&mut Inflater::default())
            .unwrap()
            .map(|record| record.unwrap())
            .map(|record| {
                (
                    record.offset,
                    record.timestamp,
                    record.key.map(<[u8]>::to_vec),
                    record.value.map(<[u8]>::to_vec),
                )
            })
            .collect()
    }

    #[test]
    fn header_fields_round_trip_and_lie_where_kafka_has_them() {
        let header = BatchHeader {
            base_offset: 0x0102_0304_0506_0708,
            batch_length: 0x1112_1314,
            partition_leader_epoch: 0x2122_2324,
            crc: 0x3132_3334,
            attributes: 0x4142,
            last_offset_delta: 0x5152_5354,
            base_timestamp: 0x6162_6364_6566_6768,
            max_timestamp: 0x7172_7374_7576_7778,
            producer_id: 0x0a0b_0c0d_0e0f_1011,
            producer_epoch: 0x1213,
            base_sequence: 0x1415_1617,
            record_count: 0x1819_1a1b,
        };
        let head = header.encode();
        assert_eq!(BatchHeader::decode(&head), header);
        assert_eq!((head[0], head[8], head[12], head[16], head[17]), (0x01, 0x11, 0x21, 2, 0x31));
        assert_eq!((head[21], head[23], head[27], head[35]), (0x41, 0x51, 0x61, 0x71));
        assert_eq!((head[43], head[51], head[53], head[57]), (0x0a, 0x12, 0x14, 0x18));
    }

    #[test]
    fn the_crc_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let batch = sent(Codec::None);
        assert_eq!(crc32c(&batch.to_bytes()[ATTRIBUTES_AT..]), batch.header().crc);
        assert!(batch.crc_holds());
    }

    /// Proves: P6 (offset and epoch lie outside the CRC, no other byte changes).
    #[test]
    fn offset_and_epoch_are_written_in_place_outside_of_the_crc() {
        let before = sent(Codec::Gzip);
        let mut batch = check(&before, &rules()).unwrap();
        assert_eq!(batch, before);
        batch.set_base_offset(1 << 40);
        batch.set_leader_epoch(77);
        assert!(batch.crc_holds());
        assert_eq!(
            (batch.base_offset(), batch.last_offset(), batch.next_offset()),
            (1 << 40, (1 << 40) + 2, (1 << 40) + 3)
        );
        assert_eq!(batch.leader_epoch(), 77);
        assert_eq!(batch.to_bytes()[16..], before.to_bytes()[16..]);
    }

    #[test]
    fn batches_are_taken_off_the_front_until_a_cut_one() {
        let one = sent(Codec::None).to_bytes();
        let all = [&one[..], &one, &one[..one.len() - 1]].concat();
        let mut bytes = Bytes::from(all);
        let mut batches = 0;
        while let Some(batch) = RecordBatch::take_first(&mut bytes).unwrap() {
            assert!(batch.crc_holds());
            batches += 1;
        }
        assert_eq!((batches, bytes.len()), (2, one.len() - 1));
    }

    /// Proves: P11 (`producer` stores the bytes as sent, each codec), P19.
    #[test]
    fn batches_of_every_codec_are_taken_as_they_are() {
        for codec in Codec::ALL {
            let batch = sent(codec);
            assert_eq!(check(&batch, &rules()).unwrap(), batch, "{codec}");
            assert_eq!(values(&batch).len(), 3);
            assert_eq!(batch.header().last_sequence(), 42);
        }
    }

    /// Proves: P11, D25 (any other `compression.type` recompresses; records, producer and times stay).
    #[test]
    fn a_topic_with_a_codec_recompresses() {
        for from in Codec::ALL {
            for to in Codec::ALL {
                let rules = ProduceRules { compression: Some((to, None)), ..rules() };
                let before = sent(from);
                let after = check(&before, &rules).unwrap();
                assert!(after.crc_holds());
                assert_eq!(after.header().codec(), Ok(to));
                assert_eq!(values(&after), values(&before), "{from} to {to}");
                assert_eq!(RecordBatch::from_bytes(after.to_bytes()).unwrap(), after);
                let identity = |batch: &RecordBatch| {
                    let header = batch.header();
                    (header.producer_id, header.producer_epoch, header.base_sequence, header.max_timestamp)
                };
                assert_eq!(identity(&after), identity(&before));
                if from == to {
                    assert_eq!(after, before);
                }
            }
        }
    }

    /// Proves: P5 (the limit counts what is stored: a batch that grows by recompression is measured again).
    #[test]
    fn sizes_are_limited_before_and_after_recompression() {
        let mut builder = BatchBuilder::new(Codec::Zstd);
        builder.append(NOW, None, Some(&[0; 10_000]), &[]);
        let batch = builder.build();
        let size = batch.size() as u64;
        let limited = |limit, compression| {
            check(&batch, &ProduceRules { max_message_bytes: limit, compression, ..rules() })
                .map(|batch| batch.size())
        };
        assert_eq!(limited(size, None), Ok(size as usize));
        assert_eq!(limited(size - 1, None), Err(BatchError::TooLarge { size, limit: size - 1 }));
        let grown = limited(size, Some((Codec::None, None))).unwrap_err();
        assert!(matches!(grown, BatchError::TooLarge { size: 10_000.., limit } if limit == size));
        let segment = check(&batch, &ProduceRules { segment_bytes: size - 1, ..rules() });
        assert_eq!(segment, Err(BatchError::LargerThanSegment { size, limit: size - 1 }));
    }

    /// Proves: P11, F18 (the gate for old clients).
    #[test]
    fn zstd_is_refused_where_the_request_is_too_old() {
        let old = ProduceRules { zstd: false, ..rules() };
        assert_eq!(check(&sent(Codec::Zstd), &old), Err(BatchError::ZstdTooEarly));
        assert!(check(&sent(Codec::Lz4), &old).is_ok());
    }

    /// Proves: P7.
    #[test]
    fn log_append_time_sets_bit_and_maximum_and_leaves_the_rest() {
        let rules = ProduceRules { timestamp_type: TimestampType::LogAppendTime, ..rules() };
        for codec in Codec::ALL {
            let mut builder = builder(codec);
            // Outside of what a CreateTime topic would take (P9: such topics skip the check).
            builder.append(NOW + (1 << 40), None, None, &[]);
            let before = builder.build();
            let after = check(&before, &rules).unwrap();
            assert!(after.crc_holds());
            assert!(after.header().is_log_append_time());
            assert_eq!(after.max_timestamp(), NOW);
            assert_eq!(after.records, before.records);
            assert_eq!(after.header().base_timestamp, before.header().base_timestamp);
            assert!(values(&after).iter().all(|record| record.1 == NOW));
        }
        let set_by_producer = changed(sent(Codec::None), |header| header.attributes |= LOG_APPEND_TIME_BIT);
        let refused = |index| RefusedRecord { index, reason: RefusalReason::LogAppendTime };
        assert_eq!(check(&set_by_producer, &rules), Err(BatchError::Refused((0..3).map(refused).collect())));
    }

    /// Proves: P8.
    #[test]
    fn a_wrong_largest_timestamp_is_corrected_and_a_right_one_leaves_the_bytes_alone() {
        for codec in Codec::ALL {
            for lie in [-1, NOW, NOW + 4, NOW + 6, i64::MAX] {
                let batch = changed(sent(codec), |header| header.max_timestamp = lie);
                let taken = check(&batch, &rules()).unwrap();
                assert!(taken.crc_holds());
                assert_eq!(taken, sent(codec), "{codec} {lie}");
            }
        }
        let bit = changed(sent(Codec::None), |header| header.attributes |= LOG_APPEND_TIME_BIT);
        assert_eq!(check(&bit, &rules()).unwrap(), sent(Codec::None));
    }

    /// Proves: P9 (which records are named, and that each is).
    #[test]
    fn timestamps_too_far_from_the_clock_are_refused_record_by_record() {
        let narrow = ProduceRules { timestamp_before_max_ms: 10, timestamp_after_max_ms: 4, ..rules() };
        let refused = |index, timestamp| RefusedRecord {
            index,
            reason: RefusalReason::Timestamp { timestamp, earliest: NOW - 10, latest: NOW + 4 },
        };
        for codec in Codec::ALL {
            let batch = |timestamps: &[i64]| {
                let mut builder = BatchBuilder::new(codec);
                for timestamp in timestamps {
                    builder.append(*timestamp, None, None, &[]);
                }
                builder.build()
            };
            assert!(check(&batch(&[NOW - 10, NOW + 4, -1]), &narrow).is_ok());
            assert_eq!(
                check(&batch(&[NOW - 11, NOW, NOW + 5, -1]), &narrow),
                Err(BatchError::Refused(vec![refused(0, NOW - 11), refused(2, NOW + 5)]))
            );
        }
        // Kafka's defaults: any past, one hour of future.
        let hour = 3_600_000;
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(i64::MIN / 2, None, None, &[]);
        builder.append(NOW + hour, None, None, &[]);
        assert!(check(&builder.clone().build(), &rules()).is_ok());
        builder.append(NOW + hour + 1, None, None, &[]);
        assert!(
            matches!(check(&builder.build(), &rules()), Err(BatchError::Refused(records)) if records[0].index == 2)
        );
    }

    /// Proves: P10 (which records are named).
    #[test]
    fn a_compacted_topic_names_the_records_without_key() {
        let compacted = ProduceRules { compacted: true, ..rules() };
        for codec in Codec::ALL {
            let refused = RefusedRecord { index: 1, reason: RefusalReason::NullKey };
            assert_eq!(check(&sent(codec), &compacted), Err(BatchError::Refused(vec![refused])));
        }
        let mut keyed = BatchBuilder::new(Codec::None);
        keyed.append(NOW, Some(b""), None, &[]);
        assert!(check(&keyed.build(), &compacted).is_ok());
    }

    #[test]
    fn a_million_refused_records_are_not_all_named() {
        let mut builder = BatchBuilder::new(Codec::Zstd);
        for _ in 0..1_000_000 {
            builder.append(NOW, None, None, &[]);
        }
        let compacted = ProduceRules { compacted: true, ..rules() };
        let Err(BatchError::Refused(records)) = check(&builder.build(), &compacted) else { panic!() };
        assert_eq!(records.len(), MAX_REFUSED);
    }

    /// Proves: I04, P3, P4, W17 (on the level of the log: each kind of lie is refused, and by its own reason).
    #[test]
    fn lying_batches_are_refused() {
        type Lie = (&'static str, RecordBatch, fn(&BatchError) -> bool);
        let plain = || sent(Codec::None);
        let head = |change: fn(&mut BatchHeader)| changed(sent(Codec::None), change);
        let record = |body: &[u8]| {
            let mut one = BatchBuilder::new(Codec::None);
            one.append(NOW, None, None, &[]);
            let mut records = Vec::new();
            record::put_varint(&mut records, body.len() as i32);
            records.extend_from_slice(body);
            with_records(&one.build(), records)
        };
        let reencoded = |deltas: &[i32]| {
            let mut records = Vec::new();
            for delta in deltas {
                record::put_record(&mut records, *delta, 0, None, None, &[]);
            }
            let batch = with_records(&plain(), records);
            let count = deltas.len() as i32;
            changed(batch, |header| {
                header.record_count = count;
                header.last_offset_delta = count - 1;
            })
        };
        let compressed = |codec: Codec, records: &[u8]| {
            let batch = with_records(&plain(), compression::deflate(codec, None, records));
            changed(batch, |header| header.attributes = codec as i16)
        };
        let as_codec = |codec: i16, records: &[u8]| {
            changed(with_records(&plain(), records.to_vec()), |header| header.attributes = codec)
        };
        let plain_records = plain().records;
        let grown = [&plain_records[..], &[0]].concat();
        let cut = &plain_records[..plain_records.len() - 1];
        let long = |bytes: usize| vec![0x80; bytes];
        let lies: Vec<Lie> = vec![
            (
                "magic 0",
                {
                    let mut batch = plain();
                    batch.head[MAGIC_AT] = 0;
                    batch
                },
                |error| matches!(error, BatchError::UnsupportedMagic { magic: 0 }),
            ),
            (
                "magic 1",
                {
                    let mut batch = plain();
                    batch.head[MAGIC_AT] = 1;
                    batch
                },
                |error| matches!(error, BatchError::UnsupportedMagic { magic: 1 }),
            ),
            (
                "magic 3",
                {
                    let mut batch = plain();
                    batch.head[MAGIC_AT] = 3;
                    batch
                },
                |error| matches!(error, BatchError::UnsupportedMagic { magic: 3 }),
            ),
            (
                "magic -1",
                {
                    let mut batch = plain();
                    batch.head[MAGIC_AT] = 0xff;
                    batch
                },
                |error| matches!(error, BatchError::UnsupportedMagic { magic: -1 }),
            ),
            ("length 0", head(|header| header.batch_length = 0), |error| {
                matches!(error, BatchError::Length { batch_length: 0 })
            }),
            ("length 48", head(|header| header.batch_length = 48), |error| {
                matches!(error, BatchError::Length { batch_length: 48 })
            }),
            ("length -1", head(|header| header.batch_length = -1), |error| {
                matches!(error, BatchError::Length { .. })
            }),
            ("length minimum", head(|header| header.batch_length = i32::MIN), |error| {
                matches!(error, BatchError::Length { .. })
            }),
            ("length 49", head(|header| header.batch_length = 49), |error| {
                matches!(error, BatchError::TrailingBytes { .. })
            }),
            ("length one short", head(|header| header.batch_length -= 1), |error| {
                matches!(error, BatchError::TrailingBytes { bytes: 1 })
            }),
            ("length one long", head(|header| header.batch_length += 1), |error| {
                matches!(error, BatchError::Truncated { .. })
            }),
            ("length maximum", head(|header| header.batch_length = i32::MAX), |error| {
                matches!(error, BatchError::Truncated { .. })
            }),
            ("base offset 1", head(|header| header.base_offset = 1), |error| {
                matches!(error, BatchError::BaseOffset { base_offset: 1 })
            }),
            ("base offset -1", head(|header| header.base_offset = -1), |error| {
                matches!(error, BatchError::BaseOffset { base_offset: -1 })
            }),
            ("base offset maximum", head(|header| header.base_offset = i64::MAX), |error| {
                matches!(error, BatchError::BaseOffset { .. })
            }),
            (
                "CRC",
                {
                    let mut batch = plain();
                    batch.head[CRC_AT] ^= 1;
                    batch
                },
                |error| matches!(error, BatchError::Crc { .. }),
            ),
            (
                "CRC of other records",
                RecordBatch { head: plain().head, records: Bytes::from(vec![0; plain().records.len()]) },
                |error| matches!(error, BatchError::Crc { .. }),
            ),
            ("count 0", head(|header| header.record_count = 0), |error| {
                matches!(error, BatchError::OffsetRange { .. })
            }),
            (
                "count 0, delta -1",
                head(|header| {
                    header.record_count = 0;
                    header.last_offset_delta = -1;
                }),
                |error| matches!(error, BatchError::OffsetRange { .. }),
            ),
            ("count -1", head(|header| header.record_count = -1), |error| {
                matches!(error, BatchError::OffsetRange { .. })
            }),
            (
                "count minimum",
                head(|header| {
                    header.record_count = i32::MIN;
                    header.last_offset_delta = i32::MAX;
                }),
                |error| matches!(error, BatchError::OffsetRange { .. }),
            ),
            ("count above delta", head(|header| header.record_count += 1), |error| {
                matches!(error, BatchError::OffsetRange { .. })
            }),
            ("delta above count", head(|header| header.last_offset_delta += 1), |error| {
                matches!(error, BatchError::OffsetRange { .. })
            }),
            ("delta -1", head(|header| header.last_offset_delta = -1), |error| {
                matches!(error, BatchError::OffsetRange { .. })
            }),
            (
                "delta maximum",
                head(|header| {
                    header.last_offset_delta = i32::MAX;
                    header.record_count = i32::MAX;
                }),
                |error| matches!(error, BatchError::OffsetRange { .. }),
            ),
            (
                "one record more than there are",
                head(|header| {
                    header.last_offset_delta += 1;
                    header.record_count += 1;
                }),
                |error| matches!(error, BatchError::RecordCount { record_count: 4, found: 3 }),
            ),
            (
                "one record less",
                head(|header| {
                    header.last_offset_delta -= 1;
                    header.record_count -= 1;
                }),
                |error| matches!(error, BatchError::RecordCount { record_count: 2, found: 3 }),
            ),
            (
                "2^31-2 records",
                head(|header| {
                    header.last_offset_delta = i32::MAX - 2;
                    header.record_count = i32::MAX - 1;
                }),
                |error| matches!(error, BatchError::RecordCount { .. }),
            ),
            ("control", head(|header| header.attributes |= CONTROL_BIT), |error| {
                matches!(error, BatchError::Control)
            }),
            (
                "control and transactional",
                head(|header| header.attributes |= CONTROL_BIT | TRANSACTIONAL_BIT),
                |error| matches!(error, BatchError::Control),
            ),
            (
                "transactional outside a transaction",
                head(|header| header.attributes |= TRANSACTIONAL_BIT),
                |error| matches!(error, BatchError::Transactional { has_producer: true }),
            ),
            (
                "transactional without producer",
                head(|header| {
                    header.attributes |= TRANSACTIONAL_BIT;
                    header.producer_id = -1;
                }),
                |error| matches!(error, BatchError::Transactional { has_producer: false }),
            ),
            ("producer without sequence", head(|header| header.base_sequence = -1), |error| {
                matches!(error, BatchError::Producer { base_sequence: -1, .. })
            }),
            ("producer with sequence -2", head(|header| header.base_sequence = -2), |error| {
                matches!(error, BatchError::Producer { .. })
            }),
            ("producer without epoch", head(|header| header.producer_epoch = -1), |error| {
                matches!(error, BatchError::Producer { producer_epoch: -1, .. })
            }),
            ("producer -2", head(|header| header.producer_id = -2), |error| {
                matches!(error, BatchError::Producer { producer_id: -2, .. })
            }),
            ("codec 5", as_codec(5, &plain_records), |error| {
                matches!(error, BatchError::Compression(CompressionError::UnknownCodec { id: 5 }))
            }),
            ("codec 6", as_codec(6, &plain_records), |error| {
                matches!(error, BatchError::Compression(CompressionError::UnknownCodec { id: 6 }))
            }),
            ("codec 7", as_codec(7, &plain_records), |error| {
                matches!(error, BatchError::Compression(CompressionError::UnknownCodec { id: 7 }))
            }),
            ("plain as gzip", as_codec(1, &plain_records), |error| {
                matches!(error, BatchError::Compression(CompressionError::Corrupt { codec: Codec::Gzip }))
            }),
            ("plain as snappy", as_codec(2, &plain_records), |error| {
                matches!(error, BatchError::Compression(CompressionError::Corrupt { codec: Codec::Snappy }))
            }),
            ("plain as lz4", as_codec(3, &plain_records), |error| {
                matches!(error, BatchError::Compression(CompressionError::Corrupt { codec: Codec::Lz4 }))
            }),
            ("plain as zstd", as_codec(4, &plain_records), |error| {
                matches!(error, BatchError::Compression(CompressionError::Corrupt { codec: Codec::Zstd }))
            }),
            ("compressed as plain", as_codec(0, &sent(Codec::Zstd).records), |error| {
                matches!(error, BatchError::Record(_))
            }),
            ("gzip cut off", as_codec(1, &sent(Codec::Gzip).records[..30]), |error| {
                matches!(error, BatchError::Compression(_))
            }),
            ("nothing as zstd", as_codec(4, &[]), |error| {
                matches!(error, BatchError::RecordCount { found: 0, .. })
            }),
            ("no records", as_codec(0, &[]), |error| {
                matches!(error, BatchError::RecordCount { found: 0, .. })
            }),
            ("a byte behind the records", with_records(&plain(), grown.clone()), |error| {
                matches!(error, BatchError::Record(MalformedRecord { index: 3, .. }))
            }),
            ("a byte behind compressed records", compressed(Codec::Zstd, &grown), |error| {
                matches!(error, BatchError::Record(MalformedRecord { index: 3, .. }))
            }),
            ("the last record cut", with_records(&plain(), cut.to_vec()), |error| {
                matches!(error, BatchError::Record(MalformedRecord { index: 2, field: RecordField::Length }))
            }),
            ("the last compressed record cut", compressed(Codec::Lz4, cut), |error| {
                matches!(error, BatchError::Record(MalformedRecord { index: 2, field: RecordField::Length }))
            }),
            ("offset deltas from 1", reencoded(&[1, 2, 3]), |error| {
                matches!(error, BatchError::OffsetDeltas)
            }),
            ("offset deltas with a gap", reencoded(&[0, 2]), |error| {
                matches!(error, BatchError::OffsetDeltas)
            }),
            ("offset deltas twice", reencoded(&[0, 0]), |error| matches!(error, BatchError::OffsetDeltas)),
            ("offset deltas negative", reencoded(&[0, -1, 2]), |error| {
                matches!(error, BatchError::OffsetDeltas)
            }),
            ("record of length 0", record(&[]), |error| {
                matches!(error, BatchError::Record(MalformedRecord { index: 0, .. }))
            }),
            ("record of length -1", with_records(&plain(), vec![1]), |error| {
                matches!(error, BatchError::Record(MalformedRecord { field: RecordField::Length, .. }))
            }),
            (
                "record of length maximum",
                with_records(&plain(), vec![0xfe, 0xff, 0xff, 0xff, 0x0f]),
                |error| {
                    matches!(error, BatchError::Record(MalformedRecord { field: RecordField::Length, .. }))
                },
            ),
            ("record length of six bytes", with_records(&plain(), long(6)), |error| {
                matches!(error, BatchError::Record(MalformedRecord { field: RecordField::Length, .. }))
            }),
            (
                "timestamp delta of eleven bytes",
                record(&[&[0][..], &long(10), &[0, 0, 1, 1, 0]].concat()),
                |error| {
                    matches!(
                        error,
                        BatchError::Record(MalformedRecord { field: RecordField::TimestampDelta, .. })
                    )
                },
            ),
            (
                "offset delta of six bytes",
                record(&[&[0, 0][..], &long(5), &[0, 1, 1, 0]].concat()),
                |error| {
                    matches!(
                        error,
                        BatchError::Record(MalformedRecord { field: RecordField::OffsetDelta, .. })
                    )
                },
            ),
            ("key longer than the record", record(&[0, 0, 0, 20, 1, 0]), |error| {
                matches!(error, BatchError::Record(MalformedRecord { field: RecordField::Key, .. }))
            }),
            ("key length -2", record(&[0, 0, 0, 3, 1, 0]), |error| {
                matches!(error, BatchError::Record(MalformedRecord { field: RecordField::Key, .. }))
            }),
            ("value longer than the record", record(&[0, 0, 0, 1, 20, 0]), |error| {
                matches!(error, BatchError::Record(MalformedRecord { field: RecordField::Value, .. }))
            }),
            ("value length -2", record(&[0, 0, 0, 1, 3, 0]), |error| {
                matches!(error, BatchError::Record(MalformedRecord { field: RecordField::Value, .. }))
            }),
            ("header count -1", record(&[0, 0, 0, 1, 1, 1]), |error| {
                matches!(error, BatchError::Record(MalformedRecord { field: RecordField::HeaderCount, .. }))
            }),
            ("header count beyond the record", record(&[0, 0, 0, 1, 1, 4, 0, 0]), |error| {
                matches!(error, BatchError::Record(MalformedRecord { field: RecordField::HeaderCount, .. }))
            }),
            ("header key null", record(&[0, 0, 0, 1, 1, 2, 1, 0]), |error| {
                matches!(error, BatchError::Record(MalformedRecord { field: RecordField::HeaderKey, .. }))
            }),
            ("header value longer than the record", record(&[0, 0, 0, 1, 1, 2, 0, 8]), |error| {
                matches!(error, BatchError::Record(MalformedRecord { field: RecordField::HeaderValue, .. }))
            }),
            ("a byte inside the record too many", record(&[0, 0, 0, 1, 1, 0, 0]), |error| {
                matches!(error, BatchError::Record(MalformedRecord { field: RecordField::End, .. }))
            }),
            ("no header count", record(&[0, 0, 0, 1, 1]), |error| {
                matches!(error, BatchError::Record(MalformedRecord { field: RecordField::HeaderCount, .. }))
            }),
            ("timestamp beyond 64 bits", head(|header| header.base_timestamp = i64::MAX), |error| {
                matches!(error, BatchError::TimestampOverflow { .. })
            }),
        ];
        assert!(lies.len() >= 50);
        for (name, batch, expected) in lies {
            let error = check(&batch, &rules()).expect_err(name);
            assert!(expected(&error), "{name}: {error:?}");
        }
        let two = [plain().to_bytes(), plain().to_bytes()].concat();
        assert!(matches!(validate(Bytes::from(two), &rules(), NOW), Err(BatchError::TrailingBytes { .. })));
        assert_eq!(validate(Bytes::new(), &rules(), NOW), Err(BatchError::Empty));
    }

    /// Kafka reads the low byte of the attributes alone, and bit 7 of it means nothing: such batches pass, as they are.
    #[test]
    fn unknown_attribute_bits_pass() {
        for bits in [1 << 7, 1 << 8, 1 << 14, i16::MIN, DELETE_HORIZON_BIT] {
            let batch = changed(sent(Codec::None), |header| header.attributes |= bits);
            assert_eq!(check(&batch, &rules()), Ok(batch));
        }
    }

    /// Proves: I04, I05 (a batch cut anywhere, or with any bit turned, is refused).
    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        for codec in [Codec::None, Codec::Zstd] {
            let whole = sent(codec).to_bytes();
            for length in 0..whole.len() {
                assert!(validate(whole.slice(..length), &rules(), NOW).is_err(), "cut to {length}");
            }
            for bit in 0..whole.len() * 8 {
                let mut damaged = whole.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let taken = validate(Bytes::from(damaged), &rules(), NOW);
                // The leader epoch is the broker's to write: what a client put there means nothing.
                assert_eq!(taken.is_ok(), (EPOCH_AT..MAGIC_AT).contains(&(bit / 8)), "bit {bit}");
            }
        }
    }

    /// Proves: I03 (through the whole of what Produce checks).
    #[test]
    fn bombs_are_refused_with_their_limit() {
        for codec in [Codec::Gzip, Codec::Zstd] {
            let mut batch = BatchBuilder::new(codec);
            batch.append(NOW, None, Some(&vec![0; 65 << 20]), &[]);
            let error = check(&batch.build(), &rules()).unwrap_err();
            assert_eq!(error, BatchError::Compression(CompressionError::TooLarge { codec, limit: 64 << 20 }));
        }
    }
}
