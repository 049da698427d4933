//! `alluvium server`: the flags of a broker, turned into its configuration.

use std::{path::PathBuf, sync::Arc};

use log_store::disk::{
    RealDisk,
    overlay::{OverlayDisk, OverlayFaults},
};

use super::{
    failure::{Exit, Failure},
    output::Terminal,
};
use crate::{
    config::{Config, ConfigError, Sources},
    server::{self, ServerOptions},
};

/// Flags of `alluvium server`. Each stands for a setting; what has no flag is set by `--set` or in the file.
#[derive(clap::Args)]
#[command(after_help = "Without arguments it serves 127.0.0.1:9092 and keeps its data in ./alluvium-data.")]
pub(super) struct ServerArgs {
    /// Configuration file [default: the first of ./alluvium.toml, ~/.config/alluvium/alluvium.toml,
    /// /etc/alluvium/alluvium.toml that exists]
    #[arg(short, long, value_name = "FILE", env = "ALLUVIUM_CONFIG", hide_env = true)]
    config: Option<PathBuf>,
    /// Where the data is kept [default: ./alluvium-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
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
    #[arg(long, value_name = "PORT", conflicts_with = "listen")]
    port: Option<u16>,
    /// Where /metrics, /livez, /readyz and /healthz are served; empty for nowhere [default: 127.0.0.1:9644]
    #[arg(long, value_name = "HOST:PORT")]
    admin_listen: Option<String>,
    /// Keep the data in a temporary directory and remove it at the end; ports default to free ones
    #[arg(long, conflicts_with = "data_dir")]
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

/// Variables named after a flag whose setting has another name.
const FLAG_VARIABLES: [(&str, &str); 5] = [
    ("ALLUVIUM_DATA_DIR", "ALLUVIUM_LOG_DIR"),
    ("ALLUVIUM_LISTEN", "ALLUVIUM_LISTENERS"),
    ("ALLUVIUM_ADVERTISE", "ALLUVIUM_ADVERTISED_LISTENERS"),
    ("ALLUVIUM_ADMIN_LISTEN", "ALLUVIUM_ADMIN_LISTEN"),
    ("ALLUVIUM_NODE_ID", "ALLUVIUM_NODE_ID"),
];

pub(super) fn run(arguments: ServerArgs, terminal: &Terminal) -> Exit {
    let config = match load(&arguments) {
        Ok(config) => config,
        Err(failure) => {
            terminal.complain(&failure);
            return failure.exit();
        }
    };
    if arguments.check_config {
        for (name, (value, origin)) in &config.values {
            println!("{name} = {value:?}  # {origin}");
        }
        return Exit::Success;
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
    match server::run(options) {
        Ok(0) => Exit::Success,
        Ok(_) => Exit::Failed,
        Err(error) => {
            terminal.complain(&Failure::local(Exit::Failed, "SERVER", "server", format!("{error:#}")));
            Exit::Failed
        }
    }
}

fn load(arguments: &ServerArgs) -> Result<Config, Failure> {
    let mut sources = Sources::from_environment();
    for (flag, setting) in FLAG_VARIABLES {
        if let Some(value) = sources.environment.get(flag).cloned() {
            sources.environment.entry(setting.to_owned()).or_insert(value);
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
    flag("--data-dir", "log.dir", arguments.data_dir.as_ref().map(|path| path.display().to_string()));
    flag("--node-id", "node.id", arguments.node_id.clone());
    flag("--listen", "listeners", (!arguments.listen.is_empty()).then(|| arguments.listen.join(",")));
    flag("--port", "listeners", arguments.port.map(|port| format!("PLAINTEXT://127.0.0.1:{port}")));
    flag(
        "--advertise",
        "advertised.listeners",
        (!arguments.advertise.is_empty()).then(|| arguments.advertise.join(",")),
    );
    flag("--admin-listen", "admin.listen", arguments.admin_listen.clone());
    Config::load(&sources).map_err(|error| refuse(&error))
}

/// Where `--ephemeral` listens, unless a variable or `--set` says otherwise: any number may run at once.
fn ephemeral_defaults(sources: &Sources) -> Vec<(String, String)> {
    [("listeners", "PLAINTEXT://127.0.0.1:0"), ("admin.listen", "127.0.0.1:0")]
        .into_iter()
        .filter(|(name, _)| !sources.environment.contains_key(&crate::config::environment_name(name)))
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
