//! The Alluvium broker: sockets, Kafka's wire protocol, configuration, command line.

pub mod api;
pub mod budget;
pub mod clock;
pub mod config;
pub mod connection;
pub mod delayed;
pub mod ephemeral;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod output;
pub mod partitions;
pub mod protocol;
pub mod server;
pub mod state_machines;
pub mod stopping;
mod topics;

mod cli;

/// Runs the program.
pub fn main() -> std::process::ExitCode {
    cli::main()
}
