//! The command line: one binary, one file per command.
//!
//! ```text
//! arguments -> Arguments (clap) -> Settings (flags, -X, environment, files) -> a command -> Report -> stdout, exit code
//! ```
//! Conventions that every command keeps: data on stdout and everything else on stderr; `-O` chooses how results are
//! printed and never changes the exit code; a failed item is a row of `errors` and makes the exit code non-zero;
//! nothing is changed before the whole command line has been checked.
//!
//! Reading order: [`failure`], [`output`], [`settings`], then any command.

mod failure;
mod jsonl;
mod offset_spec;
mod output;
mod record_format;
mod server;
mod settings;
mod time;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::{
    failure::Exit,
    output::{OutputMode, Terminal, process_env},
    settings::{GlobalArgs, Settings, config_files},
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
                          Each long option may also be given as a variable: ALLUVIUM_BROKERS for --brokers.";

#[derive(Subcommand)]
enum Command {
    /// Run a broker
    Server(server::ServerArgs),
}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let exit = run(std::env::args_os());
    ExitCode::from(exit as u8)
}

/// The command line as clap knows it, each long option with its variable.
fn command_line() -> clap::Command {
    with_variables(Arguments::command(), true)
}

/// Gives each option its variable, but for those whose precedence [`Settings`] and the server's configuration settle.
fn with_variables(command: clap::Command, root: bool) -> clap::Command {
    if command.get_name() == "server" {
        return command;
    }
    let command = match root {
        true => command,
        false => command.mut_args(|arg| match arg.get_long() {
            Some(long) if !matches!(long, "help" | "version") => {
                let variable = format!("ALLUVIUM_{}", long.replace('-', "_").to_uppercase());
                arg.env(variable).hide_env(true)
            }
            _ => arg,
        }),
    };
    command.mut_subcommands(|command| with_variables(command, false))
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
    let settings = match Settings::gather(&parsed.global, &process_env, &config_files(&process_env)) {
        Ok(settings) => settings,
        Err(failure) => {
            let terminal = Terminal::new(OutputMode::Table, Default::default(), &process_env);
            terminal.complain(&failure);
            return failure.exit();
        }
    };
    let terminal = Terminal::new(settings.output, settings.color, &process_env);
    match parsed.command {
        Command::Server(arguments) => server::run(arguments, &terminal),
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
        assert_eq!(names, ["server"]);
    }

    #[test]
    fn each_long_option_has_a_variable() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let settled = command.get_name() == "server" || arg.is_global_set();
                if let Some(long) = arg.get_long()
                    && !settled
                    && !matches!(long, "help" | "version")
                {
                    let wanted = format!("ALLUVIUM_{}", long.replace('-', "_").to_uppercase());
                    assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(wanted.as_str()));
                }
            }
            command.get_subcommands().for_each(check);
        }
        command_line().get_subcommands().for_each(check);
    }
}
