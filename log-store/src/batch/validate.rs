//! What a produced batch must satisfy, and what the broker changes in one that does.

use bytes::Bytes;

use super::{
    ATTRIBUTES_AT, BatchError, BatchHeader, LENGTH_AT, LENGTH_OVERHEAD, LOG_APPEND_TIME_BIT,
    MAX_TIMESTAMP_AT, RecordBatch, RefusalReason, RefusedRecord, crc32c,
};
use crate::{
    compression::{self, Codec, inflate_limit},
    config::{LogConfig, TimestampType},
    record::{self, Records, Walk},
};

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
pub(super) const MAX_REFUSED: usize = 1000;

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
