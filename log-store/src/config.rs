//! Settings of one log.

use crate::compression::Codec;

/// `cleanup.policy`: what happens to old records. Both may hold, or (from Kafka 4 on) neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Whole segments go by time and size.
    pub delete: bool,
    /// Only the latest record of each key stays.
    pub compact: bool,
}

/// `message.timestamp.type`: whose timestamp a record carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's, of the append.
    LogAppendTime,
}

/// Settings of one log, by Kafka's names in snake case.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment is closed before it would grow beyond.
    pub segment_bytes: u64,
    /// `segment.ms`: a segment is closed once it spans more than this.
    pub segment_ms: i64,
    /// `segment.jitter.ms`: up to so much less than `segment.ms`, so that segments do not close together.
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`: a segment is closed once an index is full.
    pub segment_index_bytes: u32,
    /// `index.interval.bytes`: bytes of batches per index entry.
    pub index_interval_bytes: u32,
    /// `retention.ms`; `None` = for ever.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`; `None` = without bound.
    pub retention_bytes: Option<u64>,
    /// `cleanup.policy`.
    pub cleanup_policy: CleanupPolicy,
    /// `max.message.bytes`: the largest batch.
    pub max_message_bytes: u32,
    /// `compression.type`; `None` = as the producer sent it.
    pub compression: Option<Codec>,
    /// `compression.gzip.level`; -1 is the codec's default.
    pub compression_gzip_level: i32,
    /// `compression.lz4.level`: shown, but the LZ4 encoder has no levels.
    pub compression_lz4_level: i32,
    /// `compression.zstd.level`.
    pub compression_zstd_level: i32,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far a timestamp may lie before the broker's clock.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far after it.
    pub timestamp_after_max_ms: i64,
    /// `min.insync.replicas`.
    pub min_insync_replicas: u32,
    /// `file.delete.delay.ms`: between a segment's removal from the log and from the disk.
    pub file_delete_delay_ms: i64,
}

impl Default for LogConfig {
    fn default() -> Self {
        const WEEK_MS: i64 = 7 * 24 * 60 * 60 * 1000;
        Self {
            segment_bytes: 1 << 30,
            segment_ms: WEEK_MS,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            retention_ms: Some(WEEK_MS),
            retention_bytes: None,
            cleanup_policy: CleanupPolicy { delete: true, compact: false },
            max_message_bytes: (1 << 20) + 12,
            compression: None,
            compression_gzip_level: -1,
            compression_lz4_level: 9,
            compression_zstd_level: 3,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 60 * 60 * 1000,
            min_insync_replicas: 1,
            file_delete_delay_ms: 60_000,
        }
    }
}

impl LogConfig {
    /// The level at which the broker compresses with `codec`.
    pub fn compression_level(&self, codec: Codec) -> Option<i32> {
        match codec {
            Codec::Gzip => Some(self.compression_gzip_level),
            Codec::Lz4 => Some(self.compression_lz4_level),
            Codec::Zstd => Some(self.compression_zstd_level),
            Codec::None | Codec::Snappy => None,
        }
    }
}
