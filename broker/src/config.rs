//! Every setting of a server: Kafka's name, meaning, unit, default.
//!
//! ```text
//! flag > --set key=value > ALLUVIUM_<KEY> > file > default
//!
//! file: the one named by -c, else those of config_files() that exist, each before the ones after it
//! ```
//! [`SETTINGS`] is the table from which everything else follows: the parser, the "did you mean", DescribeConfigs of
//! broker resources, and `deploy/alluvium.toml`, which is [`annotated`] written out (a test keeps them equal). The same
//! files may hold settings of the commands that talk to brokers, in the table `[client]`. Nothing else of the broker
//! reads the environment.

mod settings;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::{self, Write as _},
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use log_store::{
    config::{LogConfig, closest},
    disk::DIRECT_ALIGNMENT,
};
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use tracing_subscriber::EnvFilter;

pub(crate) use settings::{BROKERS, CLIENT_ID, CLIENT_SETTINGS, COLOR, ClientSetting, OUTPUT, TIMEOUT};
pub use settings::{Kind, SETTINGS, Setting};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The table above.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable of this name.
    Environment(String),
    /// `--set`.
    Set,
    /// A flag of this name.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Set => f.write_str("--set"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Values by setting, and where each came from.
type Values = BTreeMap<&'static str, (String, Origin)>;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such setting.
    #[error("{origin}: there is no setting '{name}'{}", match suggestion { Some(s) => format!("; did you mean '{s}'?"), None => String::new() })]
    Unknown {
        /// Where it stands.
        origin: Origin,
        /// The name.
        name: String,
        /// The nearest name that exists.
        suggestion: Option<&'static str>,
    },
    /// The value is not what the setting takes.
    #[error("{origin}: {name} = '{value}': {reason}")]
    Invalid {
        /// Where it stands.
        origin: Origin,
        /// The setting.
        name: String,
        /// The value.
        value: String,
        /// What it takes instead.
        reason: String,
    },
    /// A file could not be read, or is not TOML.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's or the parser's word.
        reason: String,
    },
    /// A variable of ours is no text.
    #[error("environment variable {name}: its value is not UTF-8")]
    NotUtf8 {
        /// The variable.
        name: String,
    },
    /// Settings that contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

/// Where the values come from, besides the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `-c FILE`: this file and no other.
    pub file: Option<PathBuf>,
    /// `--set key=value`, in order.
    pub set: Vec<(String, String)>,
    /// Flags that stand for a setting: (flag, setting, value).
    pub flags: Vec<(&'static str, &'static str, String)>,
    /// Environment variables; [`Sources::from_environment`] takes the process's own.
    pub environment: BTreeMap<String, String>,
    /// Variables that stand for a setting under another name than its own, which beats them, in order: (variable,
    /// setting, value).
    pub variables: Vec<(String, &'static str, String)>,
    /// The files that are taken when `file` is none, where they exist; of two that set the same the first wins.
    pub files: Vec<PathBuf>,
}

impl Sources {
    /// The process's environment and the usual files.
    ///
    /// # Errors
    /// [`ConfigError::NotUtf8`].
    pub fn from_environment() -> Result<Self, ConfigError> {
        Self::from_variables(std::env::vars_os())
    }

    /// [`Sources::from_environment`] of these variables. Other programs' may be any bytes.
    fn from_variables(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let mut environment = BTreeMap::new();
        for (name, value) in variables {
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => _ = environment.insert(name, value),
                (Ok(name), Err(_)) if name.starts_with("ALLUVIUM_") => {
                    return Err(ConfigError::NotUtf8 { name });
                }
                _ => {}
            }
        }
        let files = config_files(&|name| environment.get(name).cloned());
        Ok(Self { environment, files, ..Self::default() })
    }
}

/// The files that may hold settings, the first winning: in this directory, the user's, the machine's.
pub(crate) fn config_files(env: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    // An empty or relative one is to be ignored, by the XDG base directory specification.
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let user = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    [Some(PathBuf::new()), user.map(|user| user.join("alluvium")), Some(PathBuf::from("/etc/alluvium"))]
        .into_iter()
        .flatten()
        .map(|folder| folder.join("alluvium.toml"))
        .collect()
}

/// A listener: a name, what it is bound to, and what clients are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name, upper case.
    pub name: String,
    /// Host to bind.
    pub host: String,
    /// Port to bind; 0 takes a free one.
    pub port: u16,
    /// Host that clients are told.
    pub advertised_host: String,
    /// Port that clients are told; 0: the one that was bound.
    pub advertised_port: u16,
}

/// The settings, checked and typed. The fields are those that the broker itself reads; all values by name are in
/// [`Config::values`].
#[derive(Clone, Debug)]
pub struct Config {
    /// `node.id`.
    pub node_id: i32,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// `log.dir`.
    pub data_dir: PathBuf,
    /// `wal.dir`.
    pub wal_dir: Option<PathBuf>,
    /// `wal.file.bytes`.
    pub wal_file_bytes: u64,
    /// `listeners` joined with `advertised.listeners`.
    pub listeners: Vec<Listener>,
    /// `admin.listen`.
    pub admin_listen: Option<String>,
    /// `num.partitions`.
    pub num_partitions: i32,
    /// `default.replication.factor`.
    pub default_replication_factor: i16,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `delete.topic.enable`.
    pub delete_topics: bool,
    /// `socket.request.max.bytes`.
    pub request_max_bytes: usize,
    /// `queued.max.request.bytes`.
    pub queued_max_bytes: usize,
    /// `fetch.max.bytes`.
    pub fetch_max_bytes: usize,
    /// `max.incremental.fetch.session.cache.slots`.
    pub fetch_session_slots: usize,
    /// `connections.max.idle.ms`.
    pub connections_max_idle: Duration,
    /// `socket.send.buffer.bytes`; none: the system decides.
    pub socket_send_buffer_bytes: Option<u32>,
    /// `max.connections`.
    pub max_connections: usize,
    /// `max.connections.per.ip`.
    pub max_connections_per_ip: usize,
    /// `offsets.topic.num.partitions`.
    pub offsets_topic_partitions: i32,
    /// `offsets.retention.minutes`.
    pub offsets_retention: Duration,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval: Duration,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_max_bytes: usize,
    /// `group.initial.rebalance.delay.ms`.
    pub group_initial_rebalance_delay: Duration,
    /// `group.min.session.timeout.ms`.
    pub group_min_session_timeout: Duration,
    /// `group.max.session.timeout.ms`.
    pub group_max_session_timeout: Duration,
    /// `group.max.size`.
    pub group_max_size: usize,
    /// `producer.id.expiration.ms`.
    pub producer_id_expiration: Duration,
    /// `log.retention.check.interval.ms`.
    pub retention_check_interval: Duration,
    /// `metrics.partition.level`.
    pub metrics_partition_level: PartitionLevel,
    /// `log.level`.
    pub log_level: String,
    /// `log.format` is `json`.
    pub log_json: bool,
    /// What topics get that set nothing.
    pub log_defaults: LogConfig,
    /// Every setting's value as text, and where it came from.
    pub values: Values,
}

/// Which partitions have metrics of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionLevel {
    /// Every replica held here.
    All,
    /// Those led here.
    Leaders,
    /// None.
    Off,
}

/// The setting of this name.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// The environment variable that stands for a setting: `log.retention.ms` is `ALLUVIUM_LOG_RETENTION_MS`.
pub fn environment_name(setting: &str) -> String {
    let mut name = String::from("ALLUVIUM_");
    name.extend(
        setting.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }),
    );
    name
}

impl Config {
    /// Joins the sources by precedence, checks every value.
    ///
    /// # Errors
    /// The first thing that is wrong, with where it stands.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut values: Values = SETTINGS
            .iter()
            .map(|setting| (setting.name, (setting.default.to_owned(), Origin::Default)))
            .collect();
        let mut put = |name: &str, value: &str, origin: Origin| put(&mut values, name, value, origin);
        let files: Vec<&PathBuf> = match &sources.file {
            Some(file) => vec![file],
            None => sources.files.iter().rev().filter(|path| path.is_file()).collect(),
        };
        for path in files {
            let text = std::fs::read_to_string(path)
                .map_err(|error| ConfigError::File { path: path.clone(), reason: error.to_string() })?;
            for (name, value) in parse_file(path, &text, &sources.environment)? {
                put(&name, &value, Origin::File(path.clone()))?;
            }
        }
        for (variable, name, value) in &sources.variables {
            put(name, value, Origin::Environment(variable.clone()))?;
        }
        for setting in SETTINGS {
            let variable = environment_name(setting.name);
            if let Some(value) = sources.environment.get(&variable) {
                put(setting.name, value, Origin::Environment(variable))?;
            }
        }
        for (name, value) in &sources.set {
            put(name, value, Origin::Set)?;
        }
        for (flag, name, value) in &sources.flags {
            put(name, value, Origin::Flag(flag))?;
        }
        Self::from_values(values)
    }

    /// The defaults, with these settings changed; for tests and for brokers inside another process.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn with(set: &[(&str, &str)]) -> Result<Self, ConfigError> {
        Self::load(&Sources {
            set: set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..Sources::default()
        })
    }

    /// The same with other values.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn change(self, changes: &[(&str, String)], origin: &Origin) -> Result<Self, ConfigError> {
        let mut values = self.values;
        for (name, value) in changes {
            put(&mut values, name, value, origin.clone())?;
        }
        Self::from_values(values)
    }

    fn from_values(values: Values) -> Result<Self, ConfigError> {
        let text = |name: &str| values[name].0.clone();
        let optional = |name: &str| Some(values[name].0.clone()).filter(|value| !value.is_empty());
        let number = |name: &str| -> i64 {
            values[name].0.parse().unwrap_or_else(|_| unreachable!("{name} was checked to be a number"))
        };
        let millis = |name: &str| Duration::from_millis(number(name).unsigned_abs());
        let size = |name: &str| usize::try_from(number(name)).unwrap_or(usize::MAX);
        let flag = |name: &str| values[name].0 == "true";
        let int = |name: &str| i32::try_from(number(name)).unwrap_or(i32::MAX);
        let short = |name: &str| i16::try_from(number(name)).unwrap_or(i16::MAX);
        check_rest(&values)?;
        let config = Self {
            node_id: int("node.id"),
            rack: optional("broker.rack"),
            data_dir: text("log.dir").into(),
            wal_dir: optional("wal.dir").map(PathBuf::from),
            wal_file_bytes: number("wal.file.bytes").unsigned_abs(),
            listeners: listeners(&values)?,
            admin_listen: optional("admin.listen"),
            num_partitions: int("num.partitions"),
            default_replication_factor: short("default.replication.factor"),
            auto_create_topics: flag("auto.create.topics.enable"),
            delete_topics: flag("delete.topic.enable"),
            request_max_bytes: size("socket.request.max.bytes"),
            queued_max_bytes: size("queued.max.request.bytes"),
            fetch_max_bytes: size("fetch.max.bytes"),
            fetch_session_slots: size("max.incremental.fetch.session.cache.slots"),
            connections_max_idle: millis("connections.max.idle.ms"),
            socket_send_buffer_bytes: u32::try_from(number("socket.send.buffer.bytes")).ok(),
            max_connections: size("max.connections"),
            max_connections_per_ip: size("max.connections.per.ip"),
            offsets_topic_partitions: int("offsets.topic.num.partitions"),
            offsets_retention: Duration::from_secs(number("offsets.retention.minutes").unsigned_abs() * 60),
            offsets_retention_check_interval: millis("offsets.retention.check.interval.ms"),
            offset_metadata_max_bytes: size("offset.metadata.max.bytes"),
            group_initial_rebalance_delay: millis("group.initial.rebalance.delay.ms"),
            group_min_session_timeout: millis("group.min.session.timeout.ms"),
            group_max_session_timeout: millis("group.max.session.timeout.ms"),
            group_max_size: size("group.max.size"),
            producer_id_expiration: millis("producer.id.expiration.ms"),
            retention_check_interval: millis("log.retention.check.interval.ms"),
            metrics_partition_level: match text("metrics.partition.level").as_str() {
                "all" => PartitionLevel::All,
                "leaders" => PartitionLevel::Leaders,
                "off" => PartitionLevel::Off,
                other => unreachable!("metrics.partition.level was checked, and is '{other}'"),
            },
            log_level: text("log.level"),
            log_json: text("log.format") == "json",
            log_defaults: LogConfig::from_broker_settings(|name| Some(values.get(name)?.0.clone()))
                .map_err(|error| ConfigError::Contradiction(error.to_string()))?,
            values,
        };
        if config.group_min_session_timeout > config.group_max_session_timeout {
            return Err(ConfigError::Contradiction(
                "group.min.session.timeout.ms is above group.max.session.timeout.ms".to_owned(),
            ));
        }
        if config.request_max_bytes > config.queued_max_bytes {
            return Err(ConfigError::Contradiction(
                "socket.request.max.bytes is above queued.max.request.bytes: a request of that size could never be read"
                    .to_owned(),
            ));
        }
        Ok(config)
    }
}

/// The text of `deploy/alluvium.toml`: every setting with its meaning and default, commented out.
pub fn annotated() -> String {
    let mut text = String::from(
        "# Settings of `alluvium server`, under the names that Kafka gives them. Everything here is the default:\n\
         # take the # away from what you change. Precedence: flag, --set key=value, environment variable\n\
         # (log.retention.ms is ALLUVIUM_LOG_RETENTION_MS), this file, default. \"${NAME}\" and \"${NAME:default}\" inside a\n\
         # text stand for an environment variable. A name that does not exist is an error. At the end, in [client], stand\n\
         # the settings of the commands that talk to brokers.\n",
    );
    for setting in SETTINGS {
        text.push('\n');
        for line in wrap(setting.meaning, 118) {
            let _ = writeln!(text, "# {line}");
        }
        match setting.kind {
            Kind::OneOf(words) => {
                let _ = writeln!(text, "# One of {}.", words.join(", "));
            }
            Kind::Integer { min, max } if max < i64::MAX => {
                let _ = writeln!(text, "# From {min} to {max}.");
            }
            Kind::Integer { min: i64::MIN, .. } => {}
            Kind::Integer { min, .. } => {
                let _ = writeln!(text, "# At least {min}.");
            }
            Kind::Double { min, max } => {
                let _ = writeln!(text, "# From {min} to {max}.");
            }
            Kind::Bool | Kind::Text | Kind::List => {}
        }
        if !setting.has_effect {
            text.push_str("# Checked and shown for tools; it has no effect.\n");
        }
        let bare = matches!(setting.kind, Kind::Integer { .. } | Kind::Double { .. } | Kind::Bool);
        let quoted = !bare || setting.default.is_empty();
        let quote = if quoted { "\"" } else { "" };
        let _ = writeln!(text, "#\"{}\" = {quote}{}{quote}", setting.name, setting.default);
    }
    text.push_str("\n#[client]\n");
    for setting in CLIENT_SETTINGS {
        let _ = writeln!(text, "\n# {}\n#\"{}\" = \"{}\"", setting.meaning, setting.name, setting.default);
    }
    text
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last().map_or(0, String::len);
        if line > 0 && line + 1 + word.len() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// Sets a value that its setting takes.
fn put(values: &mut Values, name: &str, value: &str, origin: Origin) -> Result<(), ConfigError> {
    // Once and for all: what was checked is what is used.
    let value = value.trim();
    let Some(setting) = find(name) else {
        return Err(ConfigError::Unknown {
            origin,
            name: name.to_owned(),
            suggestion: closest(name, SETTINGS.iter().map(|setting| setting.name)),
        });
    };
    match check(setting, value) {
        Ok(()) => {
            values.insert(setting.name, (value.to_owned(), origin));
            Ok(())
        }
        Err(reason) => {
            Err(ConfigError::Invalid { origin, name: name.to_owned(), value: value.to_owned(), reason })
        }
    }
}

/// Whether a setting takes a value, which has no blanks around it.
fn check(setting: &Setting, value: &str) -> Result<(), String> {
    if value.is_empty() && setting.default.is_empty() {
        return Ok(());
    }
    let number = value.parse::<i64>();
    let taken = match (setting.topic, setting.kind) {
        (Some(topic), _) => topic.check(value).is_ok(),
        (None, Kind::Bool) => matches!(value, "true" | "false"),
        (None, Kind::Integer { min, max }) => {
            number.as_ref().is_ok_and(|number| (min..=max).contains(number))
        }
        (None, Kind::OneOf(words)) => words.contains(&value),
        (None, Kind::Double { .. } | Kind::Text | Kind::List) => true,
    };
    let takes = match (setting.topic, setting.kind) {
        _ if taken => return Ok(()),
        (_, Kind::Integer { .. }) if number.is_err() => "a whole number without a unit".to_owned(),
        (_, Kind::OneOf(words)) => {
            let suggestion = closest(value, words.iter().copied());
            let suggestion = suggestion.map(|word| format!("; did you mean '{word}'?")).unwrap_or_default();
            format!("one of {}{suggestion}", words.join(", "))
        }
        (Some(topic), _) => topic.expected(),
        (None, Kind::Bool) => "true or false".to_owned(),
        (None, Kind::Integer { min, max: i64::MAX }) => format!("a number of at least {min}"),
        (None, Kind::Integer { min, max }) => format!("a number from {min} to {max}"),
        (None, Kind::Double { .. } | Kind::Text | Kind::List) => unreachable!("every text is taken"),
    };
    Err(format!("it takes {takes}"))
}

/// What only looks at values as a whole can tell; nothing that is refused at a start is left, but for the system's.
fn check_rest(values: &Values) -> Result<(), ConfigError> {
    let refuse = |name: &'static str, reason: &str| {
        Err(invalid(values, name, &values[name].0, format!("it takes {reason}")))
    };
    if values["log.dir"].0.is_empty() {
        return refuse("log.dir", "the path of a directory");
    }
    if values["wal.file.bytes"].0.parse::<usize>().is_ok_and(|bytes| bytes % DIRECT_ALIGNMENT != 0) {
        return refuse("wal.file.bytes", &format!("a multiple of {DIRECT_ALIGNMENT}"));
    }
    let admin = &values["admin.listen"].0;
    let port = |address: &str| Some(address.rsplit_once(':')?.1.parse::<u16>().is_ok());
    if !admin.is_empty() && port(admin) != Some(true) {
        return refuse("admin.listen", "HOST:PORT, or nothing");
    }
    let level = &values["log.level"].0;
    log_filter(level).map_err(|reason| invalid(values, "log.level", level, reason))?;
    Ok(())
}

/// The filter that `log.level` stands for; openraft's own lines come only as errors unless it says otherwise.
///
/// # Errors
/// What it takes instead.
pub(crate) fn log_filter(level: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    // A filter takes a word that is no level for the name of a module, and would log nothing else.
    let is_level = |word: &str| LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level));
    let words = level.split(',').map(str::trim);
    if let Some(word) = words.into_iter().find(|word| !is_level(word) && !word.contains(['=', '['])) {
        let suggestion = closest(word, LEVELS).map(|level| format!("; did you mean '{level}'?"));
        return Err(format!("'{word}' is none of {}{}", LEVELS.join(", "), suggestion.unwrap_or_default()));
    }
    let is_compiled_out = |word: &str| {
        let level = word.rsplit('=').next().and_then(|level| level.trim().parse::<LevelFilter>().ok());
        level > Some(STATIC_MAX_LEVEL)
    };
    if let Some(word) = level.split(',').find(|word| is_compiled_out(word)) {
        return Err(format!(
            "'{}' asks for more than this build can say: {STATIC_MAX_LEVEL} at most",
            word.trim()
        ));
    }
    let openraft = if level.contains("openraft") { "" } else { ",openraft=error" };
    EnvFilter::try_new(format!("{level}{openraft}")).map_err(|error| format!("it is no log filter: {error}"))
}

/// Flattens a TOML document to (dotted name, value): `log.retention.ms = 1`, `"log.retention.ms" = 1` and a table
/// `[log.retention]` all say the same.
fn parse_file(
    path: &Path,
    text: &str,
    environment: &BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let fail = |reason: String| ConfigError::File { path: path.to_owned(), reason };
    let mut document: toml::Table = text.parse().map_err(|error: toml::de::Error| fail(error.to_string()))?;
    // That part is for the commands that talk to brokers.
    document.remove("client");
    let mut flat = Vec::new();
    let mut open = vec![(String::new(), toml::Value::Table(document))];
    while let Some((name, value)) = open.pop() {
        let value = match value {
            toml::Value::Table(table) => {
                for (key, value) in table.into_iter().rev() {
                    let name = if name.is_empty() { key } else { format!("{name}.{key}") };
                    open.push((name, value));
                }
                continue;
            }
            toml::Value::String(text) => {
                expand(&text, environment).map_err(|reason| fail(format!("{name}: {reason}")))?
            }
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Array(items) => {
                let mut words = Vec::new();
                for item in items {
                    match item {
                        toml::Value::String(text) => {
                            words.push(
                                expand(&text, environment)
                                    .map_err(|reason| fail(format!("{name}: {reason}")))?,
                            );
                        }
                        other => {
                            return Err(fail(format!(
                                "{name}: a list takes texts, not {}",
                                other.type_str()
                            )));
                        }
                    }
                }
                words.join(",")
            }
            toml::Value::Datetime(_) => return Err(fail(format!("{name}: no setting takes a date"))),
        };
        flat.push((name, value));
    }
    Ok(flat)
}

/// Replaces `${NAME}` and `${NAME:default}`.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        out.push_str(&rest[..start]);
        let inner = &rest[start + 2..];
        let end = inner.find('}').ok_or_else(|| format!("'${{' without '}}' in '{text}'"))?;
        let (name, default) = match inner[..end].split_once(':') {
            Some((name, default)) => (name, Some(default)),
            None => (&inner[..end], None),
        };
        match (environment.get(name), default) {
            (Some(value), _) => out.push_str(value),
            (None, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(format!("the environment variable {name} is not set, and no default is given"));
            }
        }
        rest = &inner[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn listeners(values: &Values) -> Result<Vec<Listener>, ConfigError> {
    let parse = |setting: &'static str| -> Result<Vec<(String, String, u16)>, ConfigError> {
        let mut parsed: Vec<(String, String, u16)> = Vec::new();
        for item in values[setting].0.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let fail = |reason: &str| invalid(values, setting, item, reason.to_owned());
            let (name, host, port) = parse_endpoint(item).map_err(fail)?;
            if parsed.iter().any(|(other, ..)| *other == name) {
                return Err(fail("this listener name stands there twice"));
            }
            parsed.push((name, host, port));
        }
        Ok(parsed)
    };
    let bound = parse("listeners")?;
    let mut advertised = parse("advertised.listeners")?;
    if bound.is_empty() {
        return Err(ConfigError::Contradiction("listeners is empty: no client could connect".to_owned()));
    }
    let plaintext = plaintext_listeners(values)?;
    for (at, (name, host, port)) in bound.iter().enumerate() {
        if !plaintext.contains(name) {
            return Err(invalid(
                values,
                "listeners",
                name,
                format!(
                    "only PLAINTEXT is spoken here, and listener.security.protocol.map does not say that {name} is; \
                     {name}:PLAINTEXT there serves it unencrypted"
                ),
            ));
        }
        if *port != 0 && bound[..at].iter().any(|(_, other, taken)| (other, taken) == (host, port)) {
            return Err(invalid(values, "listeners", name, format!("{host}:{port} is another listener's")));
        }
    }
    let mut joined = Vec::new();
    for (name, host, port) in bound {
        let told = advertised.iter().position(|(other, ..)| *other == name).map(|at| advertised.remove(at));
        let (advertised_host, advertised_port) = match told {
            Some((_, host, port)) => (host, port),
            None => (host.clone(), 0),
        };
        let advertised_host = match advertised_host.as_str() {
            // A client cannot connect to "every address"; the host's own name is what Kafka tells, too.
            "" | "0.0.0.0" | "::" => host_name().unwrap_or_else(|| "127.0.0.1".to_owned()),
            _ => advertised_host,
        };
        joined.push(Listener { name, host, port, advertised_host, advertised_port });
    }
    if let Some((name, ..)) = advertised.first() {
        return Err(ConfigError::Contradiction(format!(
            "advertised.listeners names {name}, which is not among the listeners"
        )));
    }
    Ok(joined)
}

/// Names of listeners that speak PLAINTEXT: the one of that name, and those that the map says.
fn plaintext_listeners(values: &Values) -> Result<Vec<String>, ConfigError> {
    const MAP: &str = "listener.security.protocol.map";
    let mut names = vec!["PLAINTEXT".to_owned()];
    for item in values[MAP].0.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        match item.split_once(':') {
            Some((name, "PLAINTEXT")) if !name.is_empty() => names.push(name.to_ascii_uppercase()),
            _ => return Err(invalid(values, MAP, item, "it takes NAME:PLAINTEXT".to_owned())),
        }
    }
    Ok(names)
}

/// A value, or a part of one, that turned out to be wrong.
fn invalid(values: &Values, name: &'static str, value: &str, reason: String) -> ConfigError {
    ConfigError::Invalid {
        origin: values[name].1.clone(),
        name: name.to_owned(),
        value: value.to_owned(),
        reason,
    }
}

/// Splits `NAME://HOST:PORT`; without `NAME://` the name is PLAINTEXT.
fn parse_endpoint(text: &str) -> Result<(String, String, u16), &'static str> {
    let (name, address) = text.split_once("://").unwrap_or(("PLAINTEXT", text));
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
        return Err("a listener's name has letters, digits, _ and -");
    }
    let (host, port) = address.rsplit_once(':').ok_or("it takes NAME://HOST:PORT")?;
    let port = port.parse().map_err(|_| "the port is not a number from 0 to 65535")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((name.to_ascii_uppercase(), host.to_owned(), port))
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_owned();
    // A name that this host itself cannot resolve would help no client.
    (!name.is_empty() && (name.as_str(), 0).to_socket_addrs().is_ok()).then_some(name)
}

impl Listener {
    /// Addresses to bind.
    ///
    /// # Errors
    /// The host does not resolve.
    pub fn addresses(&self) -> std::io::Result<Vec<SocketAddr>> {
        let host = if self.host.is_empty() { "0.0.0.0" } else { &self.host };
        Ok((host, self.port).to_socket_addrs()?.collect())
    }
}
