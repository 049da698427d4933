//! The tables: what settings there are, what each takes, its default, what it does.

use log_store::config::{SettingKind, TOPIC_SETTINGS, TopicSetting};

/// What values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds, both inclusive.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// A number, not always a whole one, within bounds, both inclusive.
    Double {
        /// Smallest.
        min: f64,
        /// Largest.
        max: f64,
    },
    /// Any text.
    Text,
    /// Comma-separated texts.
    List,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// One setting of the server.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Kafka's name, or ours where Kafka has none.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// The default as one would write it; empty for "not set".
    pub default: &'static str,
    /// What it does, with its unit.
    pub meaning: &'static str,
    /// Whether it does something here; if not it is checked and shown.
    pub has_effect: bool,
    /// The topic setting for which this is the default.
    pub topic: Option<&'static TopicSetting>,
}

const fn setting(name: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Setting {
    Setting { name, kind, default, meaning, has_effect: true, topic: None }
}

const fn shown(name: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Setting {
    Setting { name, kind, default, meaning, has_effect: false, topic: None }
}

/// The default, in the same unit, of the topic setting that names it among its synonyms.
const fn topic_default(name: &'static str) -> Setting {
    let mut at = 0;
    while at < TOPIC_SETTINGS.len() {
        let topic = &TOPIC_SETTINGS[at];
        let mut synonym = 0;
        while synonym < topic.synonyms.len() {
            if same(topic.synonyms[synonym].0, name) && topic.synonyms[synonym].1 == 1 {
                return Setting {
                    name,
                    kind: kind_of(topic.kind),
                    default: topic.default,
                    meaning: topic.meaning,
                    has_effect: topic.has_effect,
                    topic: Some(topic),
                };
            }
            synonym += 1;
        }
        at += 1;
    }
    panic!("no topic setting has this synonym")
}

/// The same setting, not set by default, so that coarser ones count.
const fn unset(setting: Setting) -> Setting {
    Setting { default: "", ..setting }
}

const fn kind_of(kind: SettingKind) -> Kind {
    match kind {
        SettingKind::Int { min, max } => integer(min as i64, max as i64),
        SettingKind::Long { min } => integer(min, i64::MAX),
        SettingKind::Double { min, max } => Kind::Double { min, max },
        SettingKind::Boolean => Kind::Bool,
        SettingKind::OneOf(words) => Kind::OneOf(words),
        SettingKind::ListOf(_) | SettingKind::ThrottledReplicas => Kind::List,
    }
}

/// `==`, which constants lack.
const fn same(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let mut at = 0;
    while at < left.len() && at < right.len() && left[at] == right[at] {
        at += 1;
    }
    at == left.len() && at == right.len()
}

const fn integer(min: i64, max: i64) -> Kind {
    Kind::Integer { min, max }
}

const I32_MAX: i64 = i32::MAX as i64;

/// All settings, in the order of `deploy/alluvium.toml`.
pub const SETTINGS: &[Setting] = &[
    setting(
        "node.id",
        integer(0, I32_MAX),
        "1",
        "Number of this broker in the cluster; kept in the data directory and checked at start.",
    ),
    setting(
        "broker.rack",
        Kind::Text,
        "",
        "Rack or zone of this broker, shown in Metadata for consumers that prefer a near replica.",
    ),
    setting("log.dir", Kind::Text, "./alluvium-data", "The data directory (`--data-dir`)."),
    setting(
        "wal.dir",
        Kind::Text,
        "",
        "Directory of the write-ahead log where it should be on another device; empty: `wal` in the data directory.",
    ),
    setting(
        "wal.file.bytes",
        integer(1 << 20, 1 << 30),
        "67108864",
        "Bytes of each file of the write-ahead log, a multiple of 4096. A batch has to fit into one. There are up to eight; of 67108864 bytes or more, up to 48 once the node was busy, but no more than a sixteenth of the free space.",
    ),
    setting(
        "listeners",
        Kind::List,
        "PLAINTEXT://127.0.0.1:9092",
        "Where clients connect: NAME://HOST:PORT, comma-separated; port 0 takes a free one.",
    ),
    setting(
        "advertised.listeners",
        Kind::List,
        "",
        "What clients are told to connect to: NAME://HOST:PORT for each listener; empty: the listeners themselves.",
    ),
    setting(
        "listener.security.protocol.map",
        Kind::List,
        "PLAINTEXT:PLAINTEXT",
        "Security protocol of each listener name but PLAINTEXT, NAME:PROTOCOL; PLAINTEXT is the one there is.",
    ),
    setting(
        "admin.listen",
        Kind::Text,
        "127.0.0.1:9644",
        "Where /metrics, /livez, /readyz and /healthz are served; empty: nowhere; port 0 takes a free one.",
    ),
    setting("num.partitions", integer(1, 10_000), "1", "Partitions of a topic created without a number."),
    setting(
        "default.replication.factor",
        integer(1, 32_767),
        "1",
        "Replicas of a topic created without a number; where there are fewer brokers, none is created (error 38).",
    ),
    setting(
        "auto.create.topics.enable",
        Kind::Bool,
        "true",
        "Whether a topic that a client asks for comes into being by itself.",
    ),
    setting("delete.topic.enable", Kind::Bool, "true", "Whether topics may be deleted."),
    setting(
        "socket.request.max.bytes",
        integer(1_024, I32_MAX),
        "104857600",
        "Largest request, bytes; a longer one closes the connection.",
    ),
    setting(
        "queued.max.request.bytes",
        integer(16 << 20, i64::MAX),
        "268435456",
        "Bytes of requests in memory over all connections, each until it is answered; sockets are not read beyond it.",
    ),
    setting(
        "fetch.max.bytes",
        integer(1_024, I32_MAX),
        "57671680",
        "Largest fetch response, bytes; the first batch goes out also when larger.",
    ),
    setting(
        "max.incremental.fetch.session.cache.slots",
        integer(0, 1_000_000),
        "1000",
        "Incremental fetch sessions remembered; an evicted client starts over by itself.",
    ),
    setting(
        "socket.send.buffer.bytes",
        integer(-1, I32_MAX),
        "102400",
        "Bytes the system takes of an answer before the client has read; -1: as many as it sees fit. With a buffer of megabytes, a client \
         that reads old records costs twice the processor; one that is far away needs more than 100 KiB.",
    ),
    setting(
        "connections.max.idle.ms",
        integer(1, i64::MAX),
        "600000",
        "A connection without a request for so long is closed, milliseconds.",
    ),
    setting(
        "max.connections",
        integer(1, I32_MAX),
        "2147483647",
        "Connections of clients; more are closed at once. Descriptors bound it as well.",
    ),
    setting(
        "max.connections.per.ip",
        integer(1, I32_MAX),
        "2147483647",
        "Connections of clients from one address.",
    ),
    setting(
        "offsets.topic.num.partitions",
        integer(1, 10_000),
        "50",
        "Partitions of __consumer_offsets; fixed once it exists.",
    ),
    shown("offsets.topic.replication.factor", integer(1, 32_767), "3", "Replicas of __consumer_offsets."),
    setting(
        "offsets.retention.minutes",
        integer(1, I32_MAX),
        "10080",
        "Committed offsets of an empty group are kept so long, minutes.",
    ),
    setting(
        "offsets.retention.check.interval.ms",
        integer(1, i64::MAX),
        "600000",
        "How often expired offsets are looked for, milliseconds.",
    ),
    setting(
        "offset.metadata.max.bytes",
        integer(0, I32_MAX),
        "4096",
        "Longest text committed beside an offset, bytes.",
    ),
    setting(
        "group.initial.rebalance.delay.ms",
        integer(0, I32_MAX),
        "3000",
        "How long the first rebalance of an empty group waits for more members, milliseconds (0 with --ephemeral and in the demo).",
    ),
    setting(
        "group.min.session.timeout.ms",
        integer(1, I32_MAX),
        "6000",
        "Shortest session timeout that a member may ask for, milliseconds.",
    ),
    setting(
        "group.max.session.timeout.ms",
        integer(1, I32_MAX),
        "1800000",
        "Longest session timeout that a member may ask for, milliseconds.",
    ),
    setting("group.max.size", integer(1, I32_MAX), "2147483647", "Most members of a group."),
    setting(
        "producer.id.expiration.ms",
        integer(1, I32_MAX),
        "86400000",
        "An idempotent producer that wrote nothing for so long is forgotten, milliseconds.",
    ),
    shown(
        "replica.lag.time.max.ms",
        integer(1, i64::MAX),
        "30000",
        "A replica that is behind for longer leaves the in-sync replicas, milliseconds.",
    ),
    setting(
        "log.retention.check.interval.ms",
        integer(1, i64::MAX),
        "300000",
        "How often segments past their retention are looked for, milliseconds.",
    ),
    setting(
        "log.retention.hours",
        integer(-1, I32_MAX),
        "168",
        "Hours that records are kept where neither minutes nor milliseconds say otherwise; -1: for ever.",
    ),
    setting(
        "log.retention.minutes",
        integer(-1, I32_MAX),
        "",
        "Minutes that records are kept; beats log.retention.hours.",
    ),
    unset(topic_default("log.retention.ms")),
    topic_default("log.retention.bytes"),
    topic_default("log.segment.bytes"),
    setting(
        "log.roll.hours",
        integer(1, I32_MAX),
        "168",
        "Hours after which a segment is closed, unless log.roll.ms says otherwise.",
    ),
    unset(topic_default("log.roll.ms")),
    topic_default("log.roll.jitter.ms"),
    topic_default("log.cleanup.policy"),
    topic_default("message.max.bytes"),
    topic_default("min.insync.replicas"),
    topic_default("compression.type"),
    topic_default("log.message.timestamp.type"),
    topic_default("log.message.timestamp.before.max.ms"),
    topic_default("log.message.timestamp.after.max.ms"),
    topic_default("log.segment.delete.delay.ms"),
    topic_default("log.index.interval.bytes"),
    topic_default("log.index.size.max.bytes"),
    topic_default("log.flush.interval.messages"),
    topic_default("log.flush.interval.ms"),
    topic_default("log.preallocate"),
    topic_default("unclean.leader.election.enable"),
    topic_default("log.cleaner.delete.retention.ms"),
    topic_default("log.cleaner.min.cleanable.ratio"),
    topic_default("log.cleaner.min.compaction.lag.ms"),
    topic_default("log.cleaner.max.compaction.lag.ms"),
    topic_default("compression.gzip.level"),
    topic_default("compression.lz4.level"),
    topic_default("compression.zstd.level"),
    setting(
        "metrics.partition.level",
        Kind::OneOf(&["all", "leaders", "off"]),
        "off",
        "Which partitions have series of their own in /metrics, some eight each: all that are held here, those led here \
         (today the same), or none. Topics and groups always have theirs.",
    ),
    setting(
        "log.level",
        Kind::Text,
        "info",
        "What is logged: error, warn, info, or a filter such as `info,alluvium::connection=warn`. Builds for release have no debug and trace.",
    ),
    setting("log.format", Kind::OneOf(&["text", "json"]), "text", "How log lines look on stderr."),
];

/// A setting of the commands that talk to brokers, in the order of precedence of those of the server: a flag of its
/// name, `-X name=value`, a variable, the table `[client]` of a file, default.
#[derive(Debug)]
pub(crate) struct ClientSetting {
    /// Its name.
    pub(crate) name: &'static str,
    /// What Kafka or librdkafka calls it; taken as well.
    pub(crate) alias: &'static str,
    /// The default as one would write it.
    pub(crate) default: &'static str,
    /// What it does.
    pub(crate) meaning: &'static str,
    /// Its variable.
    pub(crate) variable: &'static str,
    /// Another variable that means the same.
    pub(crate) variable_alias: Option<&'static str>,
}

/// `brokers`.
pub(crate) const BROKERS: ClientSetting = ClientSetting {
    name: "brokers",
    alias: "bootstrap.servers",
    default: "127.0.0.1:9092",
    meaning: "Brokers to begin with, HOST:PORT separated by commas.",
    variable: "ALLUVIUM_BROKERS",
    variable_alias: Some("ALLUVIUM_BOOTSTRAP_SERVER"),
};
/// `output`.
pub(crate) const OUTPUT: ClientSetting = ClientSetting {
    name: "output",
    alias: "output",
    default: "table",
    meaning: "How results are printed: table, wide, json, jsonl, csv or name.",
    variable: "ALLUVIUM_OUTPUT",
    variable_alias: None,
};
/// `color`.
pub(crate) const COLOR: ClientSetting = ClientSetting {
    name: "color",
    alias: "color",
    default: "auto",
    meaning: "When to use colour: auto, always or never.",
    variable: "ALLUVIUM_COLOR",
    variable_alias: None,
};
/// `timeout`.
pub(crate) const TIMEOUT: ClientSetting = ClientSetting {
    name: "timeout",
    alias: "request.timeout.ms",
    default: "4s",
    meaning: "How long a broker may take to answer, such as 500ms or 10s.",
    variable: "ALLUVIUM_TIMEOUT",
    variable_alias: None,
};
/// `client-id`.
pub(crate) const CLIENT_ID: ClientSetting = ClientSetting {
    name: "client-id",
    alias: "client.id",
    default: "alluvium-cli",
    meaning: "The client id that brokers see.",
    variable: "ALLUVIUM_CLIENT_ID",
    variable_alias: None,
};
/// All of them.
pub(crate) const CLIENT_SETTINGS: [&ClientSetting; 5] = [&BROKERS, &OUTPUT, &COLOR, &TIMEOUT, &CLIENT_ID];
