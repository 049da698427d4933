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

#[derive(clap::Parser)]
enum Commands {
    Server(server::ServerArgs),
}

pub(crate) fn main() -> std::process::ExitCode {
    let Commands::Server(arguments) = <Commands as clap::Parser>::parse();
    let terminal = output::Terminal::new(output::OutputMode::Table, output::ColorChoice::Auto, &|name| {
        std::env::var(name).ok()
    });
    match server::run(arguments, &terminal) {
        failure::Exit::Success => 0.into(),
        _ => 1.into(),
    }
}
