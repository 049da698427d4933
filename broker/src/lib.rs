//! The Alluvium broker: sockets, Kafka's wire protocol, configuration, command line.

pub mod api;
pub mod budget;
pub mod clock;
pub mod config;
pub mod metrics;
pub mod partitions;
pub mod protocol;
pub mod server;

/// Runs the program.
mod cli;
pub fn main() {}
