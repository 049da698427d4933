//! The settings that every command has in common, and where each may come from.
//!
//! ```text
//! flag > -X key=value > ALLUVIUM_* variable > ./alluvium.toml > user's config > /etc/alluvium/alluvium.toml > default
//! ```
//! In files they stand in the table `[client]`; the rest of the file is the server's.

use std::path::{Path, PathBuf};

use log_store::config::closest;

use super::{
    failure::Failure,
    output::{ColorChoice, OutputMode},
    time::parse_duration,
};
use crate::config::{BROKERS, CLIENT_ID, CLIENT_SETTINGS, COLOR, ClientSetting, OUTPUT, TIMEOUT};

/// Global flags, as given.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// How to print results [default: table]
    #[arg(short = 'O', long, global = true, value_enum, value_name = "MODE")]
    pub(crate) output: Option<OutputMode>,
    /// Brokers to begin with, HOST:PORT separated by commas [default: 127.0.0.1:9092]
    #[arg(short = 'B', long, alias = "bootstrap-server", global = true, value_name = "HOST:PORT,..")]
    pub(crate) brokers: Option<String>,
    /// How long a broker may take to answer, such as 500ms or 10s [default: 4s]
    #[arg(long, global = true, value_name = "DURATION")]
    pub(crate) timeout: Option<String>,
    /// The client id that brokers see [default: alluvium-cli]
    #[arg(long, global = true, value_name = "ID")]
    pub(crate) client_id: Option<String>,
    /// When to use colour [default: auto]
    #[arg(long, global = true, value_enum, value_name = "WHEN")]
    pub(crate) color: Option<ColorChoice>,
    /// A client setting: brokers, output, color, timeout, client-id (or Kafka's name for it)
    #[arg(short = 'X', global = true, value_name = "KEY=VALUE")]
    pub(crate) setting: Vec<String>,
}

/// The settings in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Brokers to begin with.
    pub(crate) brokers: Vec<String>,
    /// How results are printed.
    pub(crate) output: OutputMode,
    /// When to use colour.
    pub(crate) color: ColorChoice,
    /// How long a broker may take to answer, milliseconds.
    pub(crate) timeout_ms: u64,
    /// The client id that brokers see.
    pub(crate) client_id: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            brokers: vec!["127.0.0.1:9092".to_owned()],
            output: OutputMode::Table,
            color: ColorChoice::Auto,
            timeout_ms: 4_000,
            client_id: "alluvium-cli".to_owned(),
        }
    }
}

impl Settings {
    /// Gathers the settings from flags, environment and files.
    ///
    /// # Errors
    /// A source holds an unknown key or a malformed value; it is named.
    pub(crate) fn gather(
        flags: &GlobalArgs,
        env: &dyn Fn(&str) -> Option<String>,
        files: &[PathBuf],
    ) -> Result<Self, Failure> {
        let mut given = Vec::new();
        for setting in &flags.setting {
            let (key, value) = setting
                .split_once('=')
                .ok_or_else(|| Failure::usage("-X", format!("-X {setting}: not KEY=VALUE")))?;
            given.push((known(key, &format!("-X {setting}"))?.name, value.to_owned()));
        }
        let tables = files.iter().map(|file| read_client_table(file)).collect::<Result<Vec<_>, _>>()?;
        let find = |key: &ClientSetting, flag: Option<String>| -> Option<(String, String)> {
            let long = format!("--{}", key.name);
            flag.map(|value| (long, value))
                .or_else(|| {
                    let last = given.iter().rev().find(|(name, _)| *name == key.name)?;
                    Some((format!("-X {}", key.name), last.1.clone()))
                })
                .or_else(|| {
                    [Some(key.variable), key.variable_alias]
                        .into_iter()
                        .flatten()
                        .find_map(|name| env(name).map(|value| (name.to_owned(), value)))
                })
                .or_else(|| {
                    tables.iter().zip(files).find_map(|(table, file)| {
                        let value = table.iter().find(|(name, _)| *name == key.name)?;
                        Some((format!("{}: client.{}", file.display(), key.name), value.1.clone()))
                    })
                })
        };
        let mut settings = Self::default();
        if let Some((origin, value)) = find(&BROKERS, flags.brokers.clone()) {
            settings.brokers =
                parse_brokers(&value).map_err(|why| Failure::usage(&origin, format!("{origin}: {why}")))?;
        }
        if let Some((origin, value)) = find(&OUTPUT, flags.output.map(value_name)) {
            settings.output = parse_value(&value, &origin)?;
        }
        if let Some((origin, value)) = find(&COLOR, flags.color.map(value_name)) {
            settings.color = parse_value(&value, &origin)?;
        }
        if let Some((origin, value)) = find(&TIMEOUT, flags.timeout.clone()) {
            settings.timeout_ms = value
                .parse()
                .ok()
                .or_else(|| parse_duration(&value).and_then(|millis| u64::try_from(millis).ok()))
                .filter(|millis| *millis > 0)
                .ok_or_else(|| {
                    Failure::usage(&origin, format!("{origin}: '{value}' is no duration"))
                        .hint("a number with a unit: 500ms, 10s, 1m")
                })?;
        }
        if let Some((_, value)) = find(&CLIENT_ID, flags.client_id.clone()) {
            settings.client_id = value;
        }
        Ok(settings)
    }
}

fn value_name<T: clap::ValueEnum>(value: T) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn parse_value<T: clap::ValueEnum>(value: &str, origin: &str) -> Result<T, Failure> {
    T::from_str(value, false).map_err(|_| {
        let choices: Vec<String> = T::value_variants()
            .iter()
            .filter_map(|variant| variant.to_possible_value().map(|value| value.get_name().to_owned()))
            .collect();
        Failure::usage(origin, format!("{origin}: '{value}' is not one of {}", choices.join(", ")))
    })
}

/// `HOST:PORT,HOST:PORT`; the port may be left out.
pub(super) fn parse_brokers(text: &str) -> Result<Vec<String>, String> {
    let mut brokers = Vec::new();
    for broker in text.split(',').map(str::trim).filter(|broker| !broker.is_empty()) {
        let (host, port) = match broker.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') => (host, port),
            _ => (broker, "9092"),
        };
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty()
            || (host.contains(':') && !bracketed)
            || port.parse::<u16>().ok().is_none_or(|port| port == 0)
        {
            return Err(format!("'{broker}' is not HOST:PORT"));
        }
        brokers.push(format!("{host}:{port}"));
    }
    match brokers.is_empty() {
        true => Err("no broker is named".to_owned()),
        false => Ok(brokers),
    }
}

fn known(key: &str, origin: &str) -> Result<&'static ClientSetting, Failure> {
    CLIENT_SETTINGS.into_iter().find(|known| known.name == key || known.alias == key).ok_or_else(|| {
        let failure = Failure::usage(key, format!("{origin}: unknown setting '{key}'"));
        let names = CLIENT_SETTINGS.iter().flat_map(|key| [key.name, key.alias]);
        match closest(key, names) {
            Some(name) => failure.hint(format!("did you mean '{name}'?")),
            None => failure.hint(format!("one of {}", CLIENT_SETTINGS.map(|key| key.name).join(", "))),
        }
    })
}

/// The table `[client]` of a file that nobody named; empty where there is no file or no such table.
fn read_client_table(file: &Path) -> Result<Vec<(&'static str, String)>, Failure> {
    use std::io::ErrorKind;
    let name = file.display().to_string();
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => {
            // It may be another user's (a server's settings are nobody else's business): said, and done without.
            eprintln!("warning: {name} is left out: {error}");
            return Ok(Vec::new());
        }
    };
    let document: toml::Table =
        text.parse().map_err(|error| Failure::usage(&name, format!("{name}: {error}")))?;
    let Some(table) = document.get("client") else { return Ok(Vec::new()) };
    let table =
        table.as_table().ok_or_else(|| Failure::usage(&name, format!("{name}: 'client' is not a table")))?;
    table
        .iter()
        .map(|(key, value)| {
            let key = known(key, &name)?;
            let value = match value {
                toml::Value::String(text) => text.clone(),
                toml::Value::Array(items) => {
                    items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
                }
                other => other.to_string(),
            };
            Ok((key.name, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::output::fixed_env, *};

    fn gather(flags: &[&str], env: &[(&str, &str)], file: Option<&str>) -> Result<Settings, Failure> {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            global: GlobalArgs,
        }
        let only = <Only as clap::Parser>::try_parse_from(["alluvium"].iter().chain(flags)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alluvium.toml");
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
        }
        Settings::gather(&only.global, &fixed_env(env), &[path])
    }

    #[test]
    fn precedence() {
        let file = Some("[client]\nbrokers = \"file:1\"\n[log]\nx = 1\n");
        let env = [("ALLUVIUM_BROKERS", "env:1")];
        let brokers = |settings: Result<Settings, Failure>| settings.unwrap().brokers.join(",");
        assert_eq!(brokers(gather(&[], &[], None)), "127.0.0.1:9092");
        assert_eq!(brokers(gather(&[], &[], file)), "file:1");
        assert_eq!(brokers(gather(&[], &env, file)), "env:1");
        assert_eq!(brokers(gather(&["-X", "brokers=x:1"], &env, file)), "x:1");
        assert_eq!(
            brokers(gather(&["-X", "bootstrap.servers=x:1", "-B", "a:1,b"], &env, file)),
            "a:1,b:9092"
        );
        assert_eq!(brokers(gather(&["--bootstrap-server", "[::1]:7"], &[], None)), "[::1]:7");
        assert_eq!(brokers(gather(&[], &[("ALLUVIUM_BOOTSTRAP_SERVER", "env:2")], None)), "env:2");
    }

    #[test]
    fn defaults_are_those_of_the_table() {
        let file: String = CLIENT_SETTINGS
            .iter()
            .map(|setting| format!("{:?} = {:?}\n", setting.name, setting.default))
            .collect();
        assert_eq!(gather(&[], &[], Some(&format!("[client]\n{file}"))).unwrap(), Settings::default());
        assert_eq!(gather(&[], &[], None).unwrap(), Settings::default());
    }

    #[test]
    fn a_file_of_a_server_is_no_error_and_what_cannot_be_read_is_left_out() {
        let file = Some("log.retention.hours = 24\n[client]\nbrokers = \"file:1\"\n");
        assert_eq!(gather(&[], &[], file).unwrap().brokers, ["file:1"]);
        let only = GlobalArgs::default();
        let directory = tempfile::tempdir().unwrap();
        let through_a_file = Path::new("/dev/null/.config/alluvium/alluvium.toml").to_owned();
        for path in [directory.path().to_owned(), through_a_file] {
            assert_eq!(Settings::gather(&only, &fixed_env(&[]), &[path]).unwrap(), Settings::default());
        }
    }

    #[test]
    fn errors_name_the_source() {
        for (flags, env, file, what) in [
            (&["-X", "brokesr=x"][..], &[][..], None, "-X brokesr=x"),
            (&["-X", "brokers"], &[], None, "KEY=VALUE"),
            (&[], &[("ALLUVIUM_OUTPUT", "yaml")], None, "ALLUVIUM_OUTPUT"),
            (&[], &[], Some("[client]\nbroker = 'x'"), "alluvium.toml: unknown setting 'broker'"),
            (&[], &[], Some("[client"), "alluvium.toml"),
            (&["--timeout", "fast"], &[], None, "--timeout: 'fast'"),
            (&["-B", "a:b"], &[], None, "'a:b' is not HOST:PORT"),
        ] {
            let failure = gather(flags, env, file).unwrap_err();
            assert!(failure.message.contains(what), "{what}: {}", failure.message);
            assert_eq!(failure.exit(), super::super::failure::Exit::Usage);
        }
        assert!(gather(&["-X", "brokesr=x"], &[], None).unwrap_err().hint.unwrap().contains("'brokers'"));
    }
}
