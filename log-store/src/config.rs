//! Settings of a topic: Kafka's table of them, their checks, and the typed [`LogConfig`] that the log obeys.
//!
//! ```text
//! set on the topic > the broker's setting of the same meaning (the first synonym that is set) > default
//! ```
//! [`TOPIC_SETTINGS`] holds every topic setting of Kafka 4.3. Those without effect here are accepted, checked and shown
//! all the same, for tools set and assert them. Checks of a value never depend on another setting, besides the one
//! of the two compaction lags.

use std::collections::BTreeMap;

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
        }
    }
}

impl LogConfig {
    /// The settings of a topic: `defaults` (the broker's), changed by what is set on the topic itself.
    ///
    /// # Errors
    /// A name that is unknown, or a value that its setting does not take.
    pub fn from_settings(
        settings: &BTreeMap<String, String>,
        defaults: &LogConfig,
    ) -> Result<Self, SettingError> {
        let mut config = defaults.clone();
        // In the order of names `segment.bytes` comes behind the internal setting that beats it.
        let internal = settings.get_key_value("internal.segment.bytes");
        for (name, value) in settings.iter().chain(internal) {
            let setting = TopicSetting::find(name)?;
            setting.check(value)?;
            config.set(setting, value.trim());
        }
        check_compaction_lags(settings)?;
        Ok(config)
    }

    /// The broker's defaults for its topics, from the broker's settings by name.
    ///
    /// # Errors
    /// A value that the topic setting does not take; the error names the broker's setting.
    pub fn from_broker_settings(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, SettingError> {
        let mut config = Self::default();
        let mut settings = BTreeMap::new();
        for setting in TOPIC_SETTINGS {
            let Some((synonym, value)) = setting.broker_value(&lookup) else { continue };
            setting.check(&value).map_err(|error| error.of(synonym))?;
            config.set(setting, value.trim());
            settings.insert(setting.name.to_owned(), value);
        }
        check_compaction_lags(&settings)?;
        Ok(config)
    }

    /// Takes over a value that was checked.
    fn set(&mut self, setting: &TopicSetting, value: &str) {
        fn number<T: std::str::FromStr>(value: &str) -> T {
            value.parse().unwrap_or_else(|_| unreachable!("'{value}' was checked to be such a number"))
        }
        match setting.name {
            "cleanup.policy" => {
                self.cleanup_policy = CleanupPolicy {
                    delete: list(value).any(|policy| policy == "delete"),
                    compact: list(value).any(|policy| policy == "compact"),
                };
            }
            "compression.type" => {
                self.compression = match value {
                    "producer" => None,
                    "uncompressed" => Some(Codec::None),
                    name => Some(
                        name.parse().unwrap_or_else(|_| unreachable!("'{name}' was checked to be a codec")),
                    ),
                };
            }
            "compression.gzip.level" => self.compression_gzip_level = number(value),
            "compression.lz4.level" => self.compression_lz4_level = number(value),
            "compression.zstd.level" => self.compression_zstd_level = number(value),
            "index.interval.bytes" => self.index_interval_bytes = number(value),
            "internal.segment.bytes" | "segment.bytes" => self.segment_bytes = number(value),
            "max.message.bytes" => self.max_message_bytes = number(value),
            "message.timestamp.after.max.ms" => self.timestamp_after_max_ms = number(value),
            "message.timestamp.before.max.ms" => self.timestamp_before_max_ms = number(value),
            "message.timestamp.type" => {
                self.timestamp_type = match value {
                    "LogAppendTime" => TimestampType::LogAppendTime,
                    _ => TimestampType::CreateTime,
                };
            }
            "min.insync.replicas" => self.min_insync_replicas = number(value),
            "retention.bytes" => self.retention_bytes = u64::try_from(number::<i64>(value)).ok(),
            "retention.ms" => self.retention_ms = Some(number(value)).filter(|retention| *retention >= 0),
            "segment.index.bytes" => self.segment_index_bytes = number(value),
            "segment.jitter.ms" => self.segment_jitter_ms = number(value),
            "segment.ms" => self.segment_ms = number(value),
            _ => debug_assert!(!setting.has_effect, "{} is said to have an effect", setting.name),
        }
    }

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

/// What values a topic setting takes. Bounds are inclusive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SettingKind {
    /// Kafka's INT.
    Int {
        /// Smallest.
        min: i32,
        /// Largest.
        max: i32,
    },
    /// Kafka's LONG.
    Long {
        /// Smallest.
        min: i64,
    },
    /// Kafka's DOUBLE.
    Double {
        /// Smallest.
        min: f64,
        /// Largest.
        max: f64,
    },
    /// `true` or `false`.
    Boolean,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Any of these words, each once, separated by commas.
    ListOf(&'static [&'static str]),
    /// `*`, `none`, or PARTITION:BROKER pairs separated by commas.
    ThrottledReplicas,
}

/// A topic setting of Kafka.
#[derive(Clone, Copy, Debug)]
pub struct TopicSetting {
    /// Kafka's name.
    pub name: &'static str,
    /// What it takes.
    pub kind: SettingKind,
    /// The default as one would write it.
    pub default: &'static str,
    /// The broker's settings for topics that do not set it, the strongest first, each with the factor that makes its unit
    /// this one's.
    pub synonyms: &'static [(&'static str, i64)],
    /// Whether it does something here; if not it is checked and shown.
    pub has_effect: bool,
    /// What it does, one line.
    pub meaning: &'static str,
}

const fn setting(
    name: &'static str,
    kind: SettingKind,
    default: &'static str,
    synonyms: &'static [(&'static str, i64)],
    meaning: &'static str,
) -> TopicSetting {
    TopicSetting { name, kind, default, synonyms, has_effect: true, meaning }
}

const fn shown(
    name: &'static str,
    kind: SettingKind,
    default: &'static str,
    synonyms: &'static [(&'static str, i64)],
    meaning: &'static str,
) -> TopicSetting {
    TopicSetting { name, kind, default, synonyms, has_effect: false, meaning }
}

const fn int(min: i32, max: i32) -> SettingKind {
    SettingKind::Int { min, max }
}

const fn long(min: i64) -> SettingKind {
    SettingKind::Long { min }
}

const HOURS: i64 = 60 * MINUTES;
const MINUTES: i64 = 60_000;

/// Every topic setting of Kafka 4.3, by name.
pub const TOPIC_SETTINGS: &[TopicSetting] = &[
    setting(
        "cleanup.policy",
        SettingKind::ListOf(&["compact", "delete"]),
        "delete",
        &[("log.cleanup.policy", 1)],
        "What happens to old records: delete (by time and size), compact, or both. Until compaction exists, compact \
         keeps every record and refuses those without key.",
    ),
    setting(
        "compression.gzip.level",
        int(-1, 9),
        "-1",
        &[("compression.gzip.level", 1)],
        "Level at which the broker compresses where compression.type is gzip, 1 to 9; -1 is the codec's default, 0 is refused.",
    ),
    shown(
        "compression.lz4.level",
        int(1, 17),
        "9",
        &[("compression.lz4.level", 1)],
        "Level of LZ4 in Kafka; the encoder here has one level.",
    ),
    setting(
        "compression.type",
        SettingKind::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
        "producer",
        &[("compression.type", 1)],
        "Codec in which batches are stored; producer keeps them as they were sent.",
    ),
    setting(
        "compression.zstd.level",
        int(-131_072, 22),
        "3",
        &[("compression.zstd.level", 1)],
        "Level at which the broker compresses where compression.type is zstd.",
    ),
    shown(
        "delete.retention.ms",
        long(0),
        "86400000",
        &[("log.cleaner.delete.retention.ms", 1)],
        "How long compaction keeps tombstones, milliseconds.",
    ),
    shown(
        "file.delete.delay.ms",
        long(0),
        "60000",
        &[("log.segment.delete.delay.ms", 1)],
        "How long Kafka waits before it unlinks a file, milliseconds; readers are safe without a delay here.",
    ),
    shown(
        "flush.messages",
        long(1),
        "9223372036854775807",
        &[("log.flush.interval.messages", 1)],
        "Messages between two forced syncs in Kafka; here every acknowledged record is on disk.",
    ),
    shown(
        "flush.ms",
        long(0),
        "9223372036854775807",
        &[("log.flush.interval.ms", 1), ("log.flush.scheduler.interval.ms", 1)],
        "Milliseconds between two forced syncs in Kafka; here every acknowledged record is on disk.",
    ),
    shown(
        "follower.replication.throttled.replicas",
        SettingKind::ThrottledReplicas,
        "",
        &[],
        "Replicas throttled on the follower's side while they are reassigned.",
    ),
    setting(
        "index.interval.bytes",
        int(0, i32::MAX),
        "4096",
        &[("log.index.interval.bytes", 1)],
        "Bytes of batches between two entries of a segment's indexes; less than 32768 counts as 32768.",
    ),
    setting(
        "internal.segment.bytes",
        int(1024, i32::MAX),
        "",
        &[],
        "For tests: a segment size below the least that segment.bytes takes.",
    ),
    shown(
        "leader.replication.throttled.replicas",
        SettingKind::ThrottledReplicas,
        "",
        &[],
        "Replicas throttled on the leader's side while they are reassigned.",
    ),
    shown(
        "local.retention.bytes",
        long(-2),
        "-2",
        &[("log.local.retention.bytes", 1)],
        "Bytes kept locally under tiered storage; -2: as retention.bytes.",
    ),
    shown(
        "local.retention.ms",
        long(-2),
        "-2",
        &[("log.local.retention.ms", 1)],
        "Milliseconds kept locally under tiered storage; -2: as retention.ms.",
    ),
    shown(
        "max.compaction.lag.ms",
        long(1),
        "9223372036854775807",
        &[("log.cleaner.max.compaction.lag.ms", 1)],
        "Longest time for which a record may stay uncompacted, milliseconds.",
    ),
    setting(
        "max.message.bytes",
        int(0, i32::MAX),
        "1048588",
        &[("message.max.bytes", 1)],
        "Largest record batch, compressed, bytes.",
    ),
    setting(
        "message.timestamp.after.max.ms",
        long(0),
        "3600000",
        &[("log.message.timestamp.after.max.ms", 1)],
        "How far a record's timestamp may lie after the broker's clock, milliseconds.",
    ),
    setting(
        "message.timestamp.before.max.ms",
        long(0),
        "9223372036854775807",
        &[("log.message.timestamp.before.max.ms", 1)],
        "How far a record's timestamp may lie before the broker's clock, milliseconds.",
    ),
    setting(
        "message.timestamp.type",
        SettingKind::OneOf(&["CreateTime", "LogAppendTime"]),
        "CreateTime",
        &[("log.message.timestamp.type", 1)],
        "Whose timestamp records carry: the producer's or the broker's.",
    ),
    shown(
        "min.cleanable.dirty.ratio",
        SettingKind::Double { min: 0.0, max: 1.0 },
        "0.5",
        &[("log.cleaner.min.cleanable.ratio", 1)],
        "Share of uncompacted bytes from which a log is compacted.",
    ),
    shown(
        "min.compaction.lag.ms",
        long(0),
        "0",
        &[("log.cleaner.min.compaction.lag.ms", 1)],
        "Shortest time for which a record stays uncompacted, milliseconds.",
    ),
    setting(
        "min.insync.replicas",
        int(1, i32::MAX),
        "1",
        &[("min.insync.replicas", 1)],
        "In-sync replicas without which acks=all is refused; a majority is needed in any case.",
    ),
    shown(
        "preallocate",
        SettingKind::Boolean,
        "false",
        &[("log.preallocate", 1)],
        "Whether Kafka preallocates segment files; here they grow.",
    ),
    shown(
        "remote.log.copy.disable",
        SettingKind::Boolean,
        "false",
        &[],
        "Whether a tiered topic stops uploading.",
    ),
    shown(
        "remote.log.delete.on.disable",
        SettingKind::Boolean,
        "false",
        &[],
        "Whether tiered data is deleted once tiered storage is disabled.",
    ),
    shown(
        "remote.storage.enable",
        SettingKind::OneOf(&["false"]),
        "false",
        &[],
        "Whether the topic is tiered; there is no tiered storage.",
    ),
    setting(
        "retention.bytes",
        long(i64::MIN),
        "-1",
        &[("log.retention.bytes", 1)],
        "Bytes of a partition above which its oldest segments go; -1: never.",
    ),
    setting(
        "retention.ms",
        long(-1),
        "604800000",
        &[("log.retention.ms", 1), ("log.retention.minutes", MINUTES), ("log.retention.hours", HOURS)],
        "Age above which a segment goes, milliseconds since its latest timestamp or append; -1: never.",
    ),
    setting(
        "segment.bytes",
        int(1 << 20, i32::MAX),
        "1073741824",
        &[("log.segment.bytes", 1)],
        "Size beyond which a segment does not grow, bytes.",
    ),
    setting(
        "segment.index.bytes",
        int(4, i32::MAX),
        "10485760",
        &[("log.index.size.max.bytes", 1)],
        "Size of an index at which its segment is closed, bytes.",
    ),
    setting(
        "segment.jitter.ms",
        long(0),
        "0",
        &[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", HOURS)],
        "Largest amount taken off segment.ms at random, milliseconds.",
    ),
    setting(
        "segment.ms",
        long(1),
        "604800000",
        &[("log.roll.ms", 1), ("log.roll.hours", HOURS)],
        "Time between a segment's first timestamp and a record's after which it is closed, milliseconds.",
    ),
    shown(
        "unclean.leader.election.enable",
        SettingKind::Boolean,
        "false",
        &[("unclean.leader.election.enable", 1)],
        "Whether Kafka may elect a replica that lacks acknowledged records; Raft never does.",
    ),
];

/// Topic settings that Kafka 4.0 removed; old deployment files still carry them (KIP-724).
const REMOVED: [&str; 3] =
    ["message.format.version", "message.downconversion.enable", "message.timestamp.difference.max.ms"];

impl TopicSetting {
    /// The setting of that name.
    ///
    /// # Errors
    /// [`SettingError::Removed`] or [`SettingError::Unknown`].
    pub fn find(name: &str) -> Result<&'static Self, SettingError> {
        if let Some(setting) = TOPIC_SETTINGS.iter().find(|setting| setting.name == name) {
            return Ok(setting);
        }
        let name = name.to_owned();
        if REMOVED.contains(&name.as_str()) {
            return Err(SettingError::Removed { name });
        }
        let suggestion = closest(&name, TOPIC_SETTINGS.iter().map(|setting| setting.name));
        Err(SettingError::Unknown { name, suggestion })
    }

    /// Whether the setting takes `value`.
    ///
    /// # Errors
    /// [`SettingError::Invalid`], which says what it takes.
    pub fn check(&self, value: &str) -> Result<(), SettingError> {
        let text = value.trim();
        let holds = match self.kind {
            SettingKind::Int { min, max } => text.parse().is_ok_and(|number| (min..=max).contains(&number)),
            SettingKind::Long { min } => text.parse::<i64>().is_ok_and(|number| number >= min),
            SettingKind::Double { min, max } => {
                text.parse().is_ok_and(|number: f64| (min..=max).contains(&number))
            }
            SettingKind::Boolean => text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false"),
            SettingKind::OneOf(words) => words.contains(&text),
            SettingKind::ListOf(words) => {
                let given: Vec<_> = list(text).collect();
                given.iter().enumerate().all(|(at, word)| words.contains(word) && !given[..at].contains(word))
            }
            SettingKind::ThrottledReplicas => {
                matches!(text, "*" | "none") || list(text).all(is_partition_and_broker)
            }
        };
        // 0 lies between the bounds of the one setting that has a hole in them.
        if holds && !(self.name == "compression.gzip.level" && text.parse() == Ok(0)) {
            return Ok(());
        }
        Err(SettingError::Invalid {
            name: self.name.to_owned(),
            value: value.to_owned(),
            expected: self.expected(),
        })
    }

    /// What it takes, in words.
    pub fn expected(&self) -> String {
        if self.name == "compression.gzip.level" {
            return "a whole number from 1 to 9, or -1".to_owned();
        }
        match self.kind {
            SettingKind::Int { min, max: i32::MAX } => format!("a whole number from {min} to {}", i32::MAX),
            SettingKind::Int { min, max } => format!("a whole number from {min} to {max}"),
            SettingKind::Long { min: i64::MIN } => "a whole number".to_owned(),
            SettingKind::Long { min } => format!("a whole number of {min} or more"),
            SettingKind::Double { min, max } => format!("a number from {min} to {max}"),
            SettingKind::Boolean => "true or false".to_owned(),
            SettingKind::OneOf([word]) => format!("only '{word}'"),
            SettingKind::OneOf(words) => format!("one of {}", words.join(", ")),
            SettingKind::ListOf(words) => format!("any of {}, separated by commas", words.join(", ")),
            SettingKind::ThrottledReplicas => {
                "'*', 'none', or PARTITION:BROKER pairs separated by commas".to_owned()
            }
        }
    }

    /// What the broker's settings say for topics that do not set it: (the broker's setting, the value in this unit).
    pub fn broker_value(&self, lookup: impl Fn(&str) -> Option<String>) -> Option<(&'static str, String)> {
        self.synonyms.iter().find_map(|(synonym, factor)| {
            let value = lookup(synonym).filter(|value| !value.is_empty() || self.is_list())?;
            match value.trim().parse::<i64>() {
                Ok(number) if *factor != 1 => {
                    let number = if number < 0 { -1 } else { number.saturating_mul(*factor) };
                    Some((*synonym, number.to_string()))
                }
                _ => Some((*synonym, value)),
            }
        })
    }

    fn is_list(&self) -> bool {
        matches!(self.kind, SettingKind::ListOf(_))
    }
}

/// The words of a list; none where it is empty.
fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn is_partition_and_broker(pair: &str) -> bool {
    pair.split_once(':')
        .is_some_and(|(partition, broker)| partition.parse::<u32>().is_ok() && broker.parse::<u32>().is_ok())
}

fn check_compaction_lags(settings: &BTreeMap<String, String>) -> Result<(), SettingError> {
    let lag = |name, default| {
        settings.get(name).and_then(|value| value.trim().parse::<i64>().ok()).unwrap_or(default)
    };
    let (min_ms, max_ms) = (lag("min.compaction.lag.ms", 0), lag("max.compaction.lag.ms", i64::MAX));
    if min_ms > max_ms { Err(SettingError::CompactionLags { min_ms, max_ms }) } else { Ok(()) }
}

/// The candidate most like `name`, where one is like it at all: at most a third of the longer one is mistyped.
pub fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (distance(&lower, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(name.len()) / 3).clamp(1, 6))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, from) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], above + 1);
        for (at, to) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[at + 1];
            row[at + 1] = substituted.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[right.len()]
}

/// What is wrong with a setting of a topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is no such setting.
    #[error("unknown topic setting '{name}'{}", .suggestion.map(|suggestion| format!("; did you mean '{suggestion}'?")).unwrap_or_default())]
    Unknown {
        /// What was given.
        name: String,
        /// What may have been meant.
        suggestion: Option<&'static str>,
    },
    /// Kafka had it before 4.0.
    #[error("topic setting '{name}' was removed in Kafka 4.0; leave it out")]
    Removed {
        /// What was given.
        name: String,
    },
    /// The value does not fit.
    #[error("'{value}' is no value for '{name}': expected {expected}")]
    Invalid {
        /// The setting.
        name: String,
        /// What was given.
        value: String,
        /// What it takes.
        expected: String,
    },
    /// The shortest compaction lag is above the longest.
    #[error("min.compaction.lag.ms = {min_ms} is above max.compaction.lag.ms = {max_ms}")]
    CompactionLags {
        /// The shortest, milliseconds.
        min_ms: i64,
        /// The longest, milliseconds.
        max_ms: i64,
    },
}

impl SettingError {
    /// The same error about the broker's setting through which the value came.
    fn of(self, synonym: &str) -> Self {
        match self {
            Self::Invalid { value, expected, .. } => {
                Self::Invalid { name: synonym.to_owned(), value, expected }
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(settings: &[(&str, &str)]) -> Result<LogConfig, SettingError> {
        let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        LogConfig::from_settings(&settings, &LogConfig::default())
    }

    fn broker(settings: &[(&str, &str)]) -> Result<LogConfig, SettingError> {
        LogConfig::from_broker_settings(|name| {
            settings.iter().find(|(set, _)| *set == name).map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_those_of_the_typed_settings() {
        assert!(TOPIC_SETTINGS.is_sorted_by_key(|setting| setting.name));
        let mut settings = BTreeMap::new();
        for setting in TOPIC_SETTINGS {
            if setting.name != "internal.segment.bytes" {
                assert_eq!(setting.check(setting.default), Ok(()));
                settings.insert(setting.name.to_owned(), setting.default.to_owned());
            }
            assert!(setting.meaning.ends_with('.'), "{}", setting.name);
        }
        assert_eq!(LogConfig::from_settings(&settings, &LogConfig::default()), Ok(LogConfig::default()));
    }

    #[test]
    fn every_setting_said_to_have_an_effect_changes_something() {
        for setting in TOPIC_SETTINGS {
            let other = match setting.kind {
                SettingKind::Int { max, .. } => max.min(2_000_000).to_string(),
                SettingKind::Long { .. } => "77777".to_owned(),
                SettingKind::Double { .. } => "0.25".to_owned(),
                SettingKind::Boolean => "true".to_owned(),
                SettingKind::OneOf(words) => {
                    words.iter().find(|word| **word != setting.default).unwrap_or(&"").to_string()
                }
                SettingKind::ListOf(words) => words.join(","),
                SettingKind::ThrottledReplicas => "0:1,1:2".to_owned(),
            };
            if setting.name == "remote.storage.enable" {
                continue;
            }
            let changed = from(&[(setting.name, &other)]).unwrap() != LogConfig::default();
            // The level of LZ4 is kept for DescribeConfigs although the encoder has none.
            assert_eq!(
                changed,
                setting.has_effect || setting.name == "compression.lz4.level",
                "{}",
                setting.name
            );
        }
    }

    #[test]
    fn values_become_typed() {
        let config = from(&[
            ("cleanup.policy", "compact, delete"),
            ("compression.type", "uncompressed"),
            ("retention.ms", "-1"),
            ("retention.bytes", "1000"),
            ("segment.bytes", " 1048576 "),
            ("message.timestamp.type", "LogAppendTime"),
        ])
        .unwrap();
        assert_eq!(config.cleanup_policy, CleanupPolicy { delete: true, compact: true });
        assert_eq!(config.compression, Some(Codec::None));
        assert_eq!((config.retention_ms, config.retention_bytes), (None, Some(1000)));
        assert_eq!((config.segment_bytes, config.timestamp_type), (1 << 20, TimestampType::LogAppendTime));
        assert_eq!(from(&[("retention.bytes", "-1")]).unwrap().retention_bytes, None);
        assert_eq!(
            from(&[("cleanup.policy", "")]).unwrap().cleanup_policy,
            CleanupPolicy { delete: false, compact: false }
        );
    }

    /// Proves: D24 (the names that Kafka 4.0 dropped are refused by name), D11 (the lags).
    #[test]
    fn unknown_removed_and_ill_typed_settings_say_what_is_wrong() {
        let text = |settings: &[(&str, &str)]| from(settings).unwrap_err().to_string();
        assert_eq!(
            text(&[("retention.sm", "1")]),
            "unknown topic setting 'retention.sm'; did you mean 'retention.ms'?"
        );
        assert_eq!(text(&[("colour", "red")]), "unknown topic setting 'colour'");
        for name in REMOVED {
            assert_eq!(
                text(&[(name, "1")]),
                format!("topic setting '{name}' was removed in Kafka 4.0; leave it out")
            );
        }
        assert_eq!(
            text(&[("segment.bytes", "1048575")]),
            "'1048575' is no value for 'segment.bytes': expected a whole number from 1048576 to 2147483647"
        );
        assert_eq!(
            text(&[("compression.type", "brotli")]),
            "'brotli' is no value for 'compression.type': expected one of uncompressed, zstd, lz4, snappy, gzip, producer"
        );
        assert_eq!(
            text(&[("min.compaction.lag.ms", "5"), ("max.compaction.lag.ms", "4")]),
            "min.compaction.lag.ms = 5 is above max.compaction.lag.ms = 4"
        );
        for (name, value) in [
            ("retention.ms", "-2"),
            ("retention.ms", "7d"),
            ("retention.ms", "9223372036854775808"),
            ("min.insync.replicas", "0"),
            ("compression.gzip.level", "0"),
            ("compression.gzip.level", "10"),
            ("compression.zstd.level", "23"),
            ("cleanup.policy", "delete,remove"),
            ("cleanup.policy", "delete,delete"),
            ("preallocate", "yes"),
            ("min.cleanable.dirty.ratio", "1.1"),
            ("remote.storage.enable", "true"),
            ("leader.replication.throttled.replicas", "0:1,2"),
            ("message.timestamp.type", "createtime"),
        ] {
            assert!(matches!(from(&[(name, value)]), Err(SettingError::Invalid { .. })), "{name} = {value}");
        }
        for (name, value) in [
            ("compression.gzip.level", "-1"),
            ("retention.ms", "0"),
            ("preallocate", "TRUE"),
            ("leader.replication.throttled.replicas", "*"),
            ("follower.replication.throttled.replicas", "0:1, 1:2"),
            ("max.message.bytes", "0"),
        ] {
            assert!(from(&[(name, value)]).is_ok(), "{name} = {value}");
        }
    }

    #[test]
    fn only_what_is_near_is_suggested() {
        for (given, candidates, suggested) in [
            ("retention.sm", &["retention.ms", "segment.ms"][..], Some("retention.ms")),
            ("ordres", &["orders", "payments"], Some("orders")),
            ("ZST", &["lz4", "zstd"], Some("zstd")),
            ("on", &["all", "off"], None),
            ("zzz", &["orders", "payments"], None),
        ] {
            assert_eq!(closest(given, candidates.iter().copied()), suggested, "{given}");
        }
    }

    #[test]
    fn of_the_brokers_synonyms_the_strongest_that_is_set_counts() {
        let retention = |settings: &[(&str, &str)]| broker(settings).unwrap().retention_ms;
        let hours = ("log.retention.hours", "2");
        let minutes = ("log.retention.minutes", "3");
        assert_eq!(retention(&[hours]), Some(7_200_000));
        assert_eq!(retention(&[hours, minutes]), Some(180_000));
        assert_eq!(retention(&[hours, minutes, ("log.retention.ms", "5")]), Some(5));
        assert_eq!(retention(&[hours, ("log.retention.ms", "")]), Some(7_200_000));
        assert_eq!(retention(&[("log.retention.hours", "-1")]), None);
        assert_eq!(broker(&[("log.roll.hours", "1")]).unwrap().segment_ms, 3_600_000);
        assert_eq!(broker(&[("message.max.bytes", "5000000")]).unwrap().max_message_bytes, 5_000_000);
        let error = broker(&[("log.retention.ms", "x")]).unwrap_err();
        assert!(error.to_string().contains("'log.retention.ms'"), "{error}");
        let lags = [("log.cleaner.min.compaction.lag.ms", "5"), ("log.cleaner.max.compaction.lag.ms", "4")];
        assert!(matches!(broker(&lags), Err(SettingError::CompactionLags { min_ms: 5, max_ms: 4 })));
        let own = from(&[("retention.ms", "9")]).unwrap();
        assert_eq!(own.retention_ms, Some(9));
    }
}
