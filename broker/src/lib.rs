//! The Alluvium broker: sockets, Kafka's wire protocol, configuration, command line.
//!
//! The life of a produce, hop by hop:
//! ```text
//! socket --one greedy read--> connection.rs    frame in place, share of the byte budget
//!        --> api/mod.rs       key and version find the row of the table; header, body
//!        --> api/produce.rs   each batch: topic, partition, rules, validation over the bytes as they came
//!        --> replication      Partition::append: sequence of the producer, submitted to the group's core
//!        --> log-store        Log::append: offset and epoch into the header, readable from memory
//!            flusher          a round: segments (page cache), write-ahead log, fdatasync
//!        <-- pending.rs       the completion queue wakes the connection once per turn; results take their places
//! socket <-- output.rs        answers in request order, one vectored write; the share is given back
//! ```
//! The life of a fetch:
//! ```text
//! connection.rs --> api/fetch.rs --> session (what of its partitions does the client want)
//!        --> Partition::read     slices of memory or of a map, ranges of files; nothing above the high watermark
//!        too little? one FetchWaiter on all partitions, one timer; any watermark wakes it
//! output.rs <-- frame header and slices as they are; file ranges by sendfile from a thread that may wait for the disk
//! ```
//! A request of a group goes `api/join_group.rs` (and its like) --> `state_machines.rs` --> a state machine of
//! `consumer-groups`, whose records are appended to `__consumer_offsets` like any produce.
//!
//! Invariants: answers leave a connection in the order of its requests; nothing is allocated from a number on the wire;
//! what one client does costs at most its own connection.
//!
//! Reading order: [`server`], [`connection`], [`api`], [`output`], [`partitions`], [`state_machines`],
//! [`config`], [`protocol`].

pub mod api;
pub mod budget;
pub mod clock;
pub mod config;
pub mod connection;
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
