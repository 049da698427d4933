//! Settings of one log.

/// Settings of one log, by Kafka's names in snake case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogConfig {}
