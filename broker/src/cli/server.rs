//! `alluvium server`: the flags of a broker, turned into its configuration.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    sync::Arc,
};

use log_store::disk::{
    RealDisk,
    overlay::{OverlayDisk, OverlayFaults},
};

use serde_json::json;

use super::{
    failure::{CommandError, Exit, Failure},
    output::{Column, OutputMode, Report, Terminal},
    variable,
};
use crate::{
    config::{Config, ConfigError, Sources, environment_name},
    server::{self, ServerOptions},
};

/// Flags of `alluvium server`. Each stands for a setting; what has no flag is set by `--set` or in the file.
#[derive(clap::Args)]
#[command(after_help = "Without arguments it serves 127.0.0.1:9092 and keeps its data in ./alluvium-data.")]
pub(super) struct ServerArgs {
    /// Configuration file [default: those of ./alluvium.toml, ~/.config/alluvium/alluvium.toml and
    /// /etc/alluvium/alluvium.toml that exist; what the first sets wins]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the data is kept [default: ./alluvium-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Number of this broker in the cluster [default: 1]
    #[arg(long, value_name = "N")]
    node_id: Option<String>,
    /// Where clients connect; may be repeated [default: PLAINTEXT://127.0.0.1:9092]
    #[arg(long, value_name = "NAME://HOST:PORT")]
    listen: Vec<String>,
    /// What clients are told to connect to, where it differs from --listen; may be repeated
    #[arg(long, value_name = "NAME://HOST:PORT")]
    advertise: Vec<String>,
    /// Listen on 127.0.0.1 at this port; 0 takes a free one
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Where /metrics, /livez, /readyz and /healthz are served; empty for nowhere [default: 127.0.0.1:9644]
    #[arg(long, value_name = "HOST:PORT")]
    admin_listen: Option<String>,
    /// Keep the data in a temporary directory and remove it at the end; ports default to free ones
    #[arg(long)]
    ephemeral: bool,
    /// Print one line on stdout once clients can connect
    #[arg(long, value_enum, value_name = "FORMAT")]
    print_ready: Option<ReadyFormat>,
    /// Check the configuration and end
    #[arg(long)]
    check_config: bool,
    /// Set any setting, such as --set log.retention.hours=24; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// For crash tests: a kill of this process acts as a power cut ("seed=7,fail-sync=40,slow-sync=20", all optional)
    #[arg(long, hide = true, value_name = "FAULTS", value_parser = OverlayFaults::parse)]
    simulate_power_cuts: Option<OverlayFaults>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ReadyFormat {
    /// {"bootstrap", "admin", "pid", "node_id"}
    Json,
}

/// Flags that stand for a setting, which alone says what beats their variables.
pub(super) const SETTING_FLAGS: [(&str, &str); 5] = [
    ("data-dir", "log.dir"),
    ("node-id", "node.id"),
    ("listen", "listeners"),
    ("advertise", "advertised.listeners"),
    ("admin-listen", "admin.listen"),
];

pub(super) fn run(arguments: ServerArgs, terminal: &Terminal) -> Exit {
    match start(arguments, terminal) {
        Ok(exit) => exit,
        Err(error) => terminal.end("server", &error),
    }
}

/// Every setting with where it comes from: as a file of settings, or as rows.
fn print_config(config: &Config, terminal: &Terminal) -> Result<Exit, CommandError> {
    if terminal.mode != OutputMode::Table {
        let columns = [
            Column::left("SETTING", "setting"),
            Column::left("VALUE", "value"),
            Column::left("FROM", "origin"),
        ];
        let mut report = Report::new("server", &columns);
        for (name, (value, origin)) in &config.values {
            report.row(json!({ "setting": name, "value": value, "origin": origin.to_string() }));
        }
        return report.print(terminal);
    }
    let mut out = io::stdout().lock();
    for (name, (value, origin)) in &config.values {
        // quoted, as a file has it: dots in a bare name would open tables
        writeln!(out, "\"{name}\" = {value:?}  # {origin}")?;
    }
    out.flush()?;
    Ok(Exit::Success)
}

fn start(arguments: ServerArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    let config = load(&arguments, Sources::from_environment().map_err(|error| refuse(&error))?)?;
    if arguments.check_config {
        return print_config(&config, terminal);
    }
    let options = ServerOptions {
        config,
        ephemeral: arguments.ephemeral,
        print_ready: arguments.print_ready.is_some(),
        temporary: std::env::temp_dir(),
        disk: match arguments.simulate_power_cuts {
            Some(faults) => Arc::new(OverlayDisk::new(faults)),
            None => Arc::new(RealDisk),
        },
    };
    server::run(options)
        .map(|()| Exit::Success)
        .map_err(|error| Failure::local(Exit::Failed, "SERVER", "server", format!("{error:#}")).into())
}

/// The configuration by flags and `sources`.
fn load(arguments: &ServerArgs, mut sources: Sources) -> Result<Config, Failure> {
    for (one, other, both) in [
        ("--ephemeral", "--data-dir", arguments.ephemeral && arguments.data_dir.is_some()),
        ("--port", "--listen", arguments.port.is_some() && !arguments.listen.is_empty()),
    ] {
        if both {
            return Err(Failure::usage(one, format!("{one} and {other} exclude each other")));
        }
    }
    for (flag, setting) in SETTING_FLAGS {
        let variable = variable(flag);
        if let Some(value) = sources.environment.get(&variable).cloned() {
            sources.variables.push((variable, setting, value));
        }
    }
    sources.file.clone_from(&arguments.config);
    for pair in &arguments.set {
        let (name, value) = pair.split_once('=').ok_or_else(|| {
            Failure::usage("--set", format!("--set {pair}: not KEY=VALUE"))
                .hint("--set log.retention.hours=24")
        })?;
        sources.set.push((name.to_owned(), value.to_owned()));
    }
    if arguments.ephemeral && arguments.config.is_none() {
        // in front, so that any other --set wins; flags win anyway
        sources.set.splice(0..0, ephemeral_defaults(&sources));
    }
    let mut flag = |name: &'static str, setting: &'static str, value: Option<String>| {
        if let Some(value) = value {
            sources.flags.push((name, setting, value));
        }
    };
    let list = |items: &[String]| (!items.is_empty()).then(|| items.join(","));
    flag("--data-dir", "log.dir", arguments.data_dir.clone());
    flag("--node-id", "node.id", arguments.node_id.clone());
    flag("--listen", "listeners", list(&arguments.listen));
    flag("--port", "listeners", arguments.port.map(|port| format!("PLAINTEXT://127.0.0.1:{port}")));
    flag("--advertise", "advertised.listeners", list(&arguments.advertise));
    flag("--admin-listen", "admin.listen", arguments.admin_listen.clone());
    Config::load(&sources).map_err(|error| refuse(&error))
}

/// Where `--ephemeral` listens, unless a variable or `--set` says otherwise: any number may run at once.
fn ephemeral_defaults(sources: &Sources) -> Vec<(String, String)> {
    let by_variable = |name: &str| {
        sources.environment.contains_key(&environment_name(name))
            || sources.variables.iter().any(|(_, setting, _)| *setting == name)
    };
    [("listeners", "PLAINTEXT://127.0.0.1:0"), ("admin.listen", "127.0.0.1:0")]
        .into_iter()
        .filter(|(name, _)| !by_variable(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn refuse(error: &ConfigError) -> Failure {
    let failure = Failure::usage("configuration", error.to_string());
    match error {
        ConfigError::Unknown { .. } => failure.hint("deploy/alluvium.toml lists every setting"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn loaded(flags: &[&str], environment: &[(&str, &str)]) -> Result<Config, Failure> {
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            server: ServerArgs,
        }
        let only = Only::try_parse_from(["alluvium"].iter().chain(flags)).unwrap();
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        load(&only.server, Sources { environment, ..Sources::default() })
    }

    #[test]
    fn each_flag_of_a_setting_has_a_variable_that_set_beats() {
        for (flag, setting) in SETTING_FLAGS {
            let (value, other) = match setting {
                "node.id" => ("7", "8"),
                "log.dir" => ("/a", "/b"),
                _ => ("127.0.0.1:9999", "127.0.0.1:1"),
            };
            let name = variable(flag);
            let config = loaded(&[], &[(&name, value)]).unwrap();
            let (given, origin) = &config.values[setting];
            assert!(given.ends_with(value), "{flag}: {given}");
            assert_eq!(origin.to_string(), format!("environment variable {name}"));
            let config = loaded(&["--set", &format!("{setting}={other}")], &[(&name, value)]).unwrap();
            assert_eq!(config.values[setting].0, other, "{flag}");
            let own = environment_name(setting);
            if own != name {
                let config = loaded(&[], &[(&name, value), (&own, other)]).unwrap();
                assert_eq!(config.values[setting].0, other, "{flag}");
            }
        }
    }

    #[test]
    fn ephemeral_takes_free_ports_unless_something_says_which() {
        let port = |flags: &[&str], environment: &[(&str, &str)]| {
            loaded(&[&["--ephemeral"], flags].concat(), environment).unwrap().listeners[0].port
        };
        assert_eq!(port(&[], &[]), 0);
        let variable = [("ALLUVIUM_LISTEN", "127.0.0.1:2"), ("ALLUVIUM_PORT", "tcp://10.0.0.1:9092")];
        assert_eq!(port(&[], &variable), 2);
        assert_eq!(port(&["--set", "listeners=127.0.0.1:3"], &variable), 3);
        assert_eq!(port(&["--port", "4"], &variable), 4);
        let failure = loaded(&["--ephemeral", "--data-dir", "x"], &[]).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
    }
}
