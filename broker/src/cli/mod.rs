//! The command line: one binary, one file per command.
//!
//! ```text
//! arguments -> Arguments (clap) -> Settings (flags, -X, environment, files) -> a command -> Report -> stdout, exit code
//! ```
//! Conventions that every command keeps: data on stdout and everything else on stderr; `-O` chooses how results are
//! printed and never changes the exit code; a failed item is a row of `errors` and makes the exit code non-zero;
//! nothing is changed before the whole command line has been checked.
//!
//! Reading order: [`failure`], [`output`], [`settings`], [`client`], then any command.

mod api;
mod bench;
mod client;
mod cluster;
mod connection;
mod consume;
mod consumer;
mod demo;
mod dump;
mod failure;
mod group;
mod group_member;
mod jsonl;
mod offset_spec;
mod output;
mod produce;
mod producer;
mod record_format;
mod server;
mod settings;
mod time;
mod topic;

use std::{ffi::OsString, future::Future, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{clock::Clock, config::config_files};

use self::{
    failure::{CommandError, Exit, Failure},
    output::{OutputMode, Terminal, process_env},
    settings::{GlobalArgs, Settings},
};

/// A Kafka-compatible commit log: broker, client and tools in one program.
#[derive(Parser)]
#[command(name = "alluvium", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 something failed, 2 malformed command line or input, 3 no such topic or \
                          group, 4 no broker answered in time, 5 denied, 6 over a threshold, 130 interrupted.\n\
                          Each long option may also be given as a variable, such as ALLUVIUM_BROKERS for --brokers, but for --port, \
                          lists of partitions and pairs of KEY=VALUE; each setting of a server has its own.";

#[derive(Subcommand)]
enum Command {
    /// Run a broker
    Server(server::ServerArgs),
    /// Run a broker with traffic on it, to try everything out
    Demo(demo::DemoArgs),
    /// List, create, describe and delete topics
    #[command(subcommand, visible_alias = "t")]
    Topic(topic::TopicCommand),
    /// Write records to a topic
    #[command(visible_alias = "p")]
    Produce(produce::ProduceArgs),
    /// Read records of topics
    #[command(visible_alias = "c")]
    Consume(consume::ConsumeArgs),
    /// List, describe, move and delete consumer groups
    #[command(subcommand, visible_alias = "g")]
    Group(group::GroupCommand),
    /// Describe the cluster
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Measure a broker, any that speaks Kafka's protocol
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Print the files of a stopped broker
    #[command(subcommand)]
    Dump(dump::DumpCommand),
    /// What a broker speaks
    #[command(subcommand)]
    Api(api::ApiCommand),
    /// Move a group (the same as `group seek`)
    #[command(hide = true)]
    ResetOffsets(group::SeekArgs),
}

/// What a command gets besides its own arguments.
struct Context {
    settings: Settings,
    terminal: Terminal,
    clock: Clock,
}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    clap_complete::CompleteEnv::with_factory(command_line).complete();
    let exit = run(std::env::args_os());
    ExitCode::from(exit as u8)
}

/// The command line as clap knows it, each long option with its variable.
fn command_line() -> clap::Command {
    with_variables(Arguments::command())
}

/// Options, and how their values look, that have no variable: what they mean in one command would be nonsense in another,
/// and `ALLUVIUM_PORT` is what Kubernetes tells every pod beside a service of our name (`tcp://10.0.0.1:9092`).
const WITHOUT_VARIABLE: [(&str, &str); 4] =
    [("set", "KEY=VALUE"), ("config", "KEY=VALUE"), ("partitions", "N,.."), ("port", "PORT")];

/// The variable of a long option.
fn variable(long: &str) -> String {
    format!("ALLUVIUM_{}", long.replace('-', "_").to_uppercase())
}

/// Whether an option's variable is left to clap: that of some is read by [`Settings`] and the server's configuration, which
/// know what beats it.
fn has_variable(command: &clap::Command, arg: &clap::Arg) -> bool {
    let Some(long) = arg.get_long() else { return false };
    let name = arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    let settled =
        command.get_name() == "server" && server::SETTING_FLAGS.iter().any(|(flag, _)| *flag == long);
    !settled
        && !arg.is_hide_set()
        && !arg.is_global_set()
        && !matches!(long, "help" | "version")
        && !WITHOUT_VARIABLE.contains(&(long, name))
}

/// Gives each option its variable.
fn with_variables(mut command: clap::Command) -> clap::Command {
    let own: Vec<clap::Id> = command
        .get_arguments()
        .filter(|arg| has_variable(&command, arg))
        .map(|arg| arg.get_id().clone())
        .collect();
    for id in own {
        command = command.mut_arg(id, |arg| {
            let variable = variable(arg.get_long().unwrap_or_default());
            arg.env(variable).hide_env(true)
        });
    }
    command.mut_subcommands(with_variables)
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let parsed = command_line()
        .try_get_matches_from(arguments)
        .and_then(|matches| Arguments::from_arg_matches(&matches));
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // a closed stream leaves nobody to tell
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success };
        }
    };
    // What a server does is said by its own configuration alone.
    let files = match parsed.command {
        Command::Server(_) => Vec::new(),
        _ => config_files(&process_env),
    };
    let settings = match Settings::gather(&parsed.global, &process_env, &files) {
        Ok(settings) => settings,
        Err(failure) => {
            let terminal = Terminal::new(OutputMode::Table, Default::default(), &process_env);
            terminal.complain(&failure);
            return failure.exit();
        }
    };
    let terminal = Terminal::new(settings.output, settings.color, &process_env);
    if let Command::Server(arguments) = parsed.command {
        return server::run(arguments, &terminal);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::local(Exit::Failed, "SYSTEM", "runtime", format!("cannot start: {error}"));
            terminal.complain(&failure);
            return failure.exit();
        }
    };
    let exit = runtime.block_on(async {
        let context = Context { settings, terminal, clock: Clock::system() };
        dispatch(&context, parsed.command).await
    });
    // a thread that still reads standard input must not hold up the end
    runtime.shutdown_background();
    exit
}

async fn dispatch(context: &Context, command: Command) -> Exit {
    let (name, result) = match command {
        Command::Server(_) => unreachable!("runs outside of this runtime"),
        Command::Demo(arguments) => ("demo", demo::run(context, arguments).await),
        Command::Topic(command) => (command.name(), interruptible(topic::run(context, command)).await),
        Command::Produce(arguments) => ("produce", produce::run(context, arguments).await),
        Command::Consume(arguments) => ("consume", consume::run(context, arguments).await),
        Command::Group(command) => (command.name(), group::run(context, command).await),
        Command::ResetOffsets(arguments) => {
            ("group seek", group::run(context, group::GroupCommand::Seek(arguments)).await)
        }
        Command::Cluster(command) => (command.name(), interruptible(cluster::run(context, command)).await),
        Command::Bench(command) => (command.name(), bench::run(context, command).await),
        Command::Dump(command) => (command.name(), dump::run(context, command)),
        Command::Api(command) => (command.name(), interruptible(api::run(context, command)).await),
    };
    match result {
        Ok(exit) => exit,
        Err(error) => context.terminal.end(name, &error),
    }
}

/// Runs a command that an interrupt may end anywhere.
async fn interruptible(
    command: impl Future<Output = Result<Exit, CommandError>>,
) -> Result<Exit, CommandError> {
    tokio::select! {
        result = command => result,
        () = interrupted() => Ok(Exit::Interrupted),
    }
}

/// Waits for Ctrl-C (or SIGTERM). Whoever asks again while the command ends in order is not made to wait.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            let mut once = async move || {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            };
            once().await;
            tokio::spawn(async move {
                once().await;
                std::process::exit(Exit::Interrupted as i32);
            });
        }
        // without handlers the signals end the process by themselves
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_sound() {
        command_line().debug_assert();
    }

    #[test]
    fn help_names_what_there_is_and_nothing_else() {
        let names: Vec<String> = command_line()
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
            .map(|command| command.get_name().to_owned())
            .collect();
        assert_eq!(
            names,
            ["server", "demo", "topic", "produce", "consume", "group", "cluster", "bench", "dump", "api"]
        );
    }

    /// All options of all commands: (command, option).
    fn options() -> Vec<(String, clap::Arg)> {
        fn walk(command: &clap::Command, path: &str, options: &mut Vec<(String, clap::Arg)>) {
            let path = format!("{path} {}", command.get_name());
            let own = command.get_arguments().filter(|arg| !arg.is_global_set() && arg.get_long().is_some());
            options.extend(own.map(|arg| (path.clone(), arg.clone())));
            command.get_subcommands().for_each(|command| walk(command, &path, options));
        }
        let mut options = Vec::new();
        walk(&command_line(), "", &mut options);
        options.retain(|(_, arg)| {
            !arg.is_hide_set() && !matches!(arg.get_long(), Some("help" | "version") | None)
        });
        options
    }

    fn value_name(arg: &clap::Arg) -> Option<String> {
        arg.get_action().takes_values().then(|| format!("{:?}", arg.get_value_names()))
    }

    #[test]
    fn each_long_option_has_a_variable() {
        for (command, arg) in options() {
            let long = arg.get_long().unwrap();
            let settled =
                command.ends_with(" server") && server::SETTING_FLAGS.iter().any(|(flag, _)| *flag == long);
            let without = WITHOUT_VARIABLE.iter().any(|(name, value)| {
                *name == long && value_name(&arg).is_some_and(|names| names.contains(value))
            });
            let wanted = (!settled && !without).then(|| variable(long));
            assert_eq!(arg.get_env().and_then(|name| name.to_str()), wanted.as_deref(), "{command} --{long}");
        }
        let globals = command_line();
        for arg in globals.get_arguments().filter(|arg| arg.is_global_set()) {
            if let Some(long) = arg.get_long() {
                let known = crate::config::CLIENT_SETTINGS.iter().find(|setting| setting.name == long);
                assert_eq!(known.unwrap().variable, variable(long));
            }
        }
    }

    #[test]
    fn options_of_different_meaning_share_no_variable() {
        let setting_of = || Some("a setting".to_owned());
        let mut taken: std::collections::BTreeMap<String, (String, Option<String>)> = crate::config::SETTINGS
            .iter()
            .map(|setting| {
                (crate::config::environment_name(setting.name), (setting.name.to_owned(), setting_of()))
            })
            .chain(
                crate::config::CLIENT_SETTINGS
                    .iter()
                    .map(|setting| (setting.variable.to_owned(), (setting.name.to_owned(), setting_of()))),
            )
            .collect();
        for (command, arg) in options() {
            let Some(variable) = arg.get_env().and_then(|name| name.to_str()) else { continue };
            let names = value_name(&arg);
            let (other, known) =
                taken.entry(variable.to_owned()).or_insert_with(|| (command.clone(), names.clone()));
            assert_eq!(*known, names, "{variable} means one thing to {other} and another to {command}");
        }
    }
}
