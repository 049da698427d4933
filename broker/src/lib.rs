//! The Alluvium broker: sockets, Kafka's wire protocol, configuration, command line.

/// Runs the program.
pub fn main() {}
