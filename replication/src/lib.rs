//! A Raft group per partition.

pub mod error;
pub mod metadata;
pub mod node;
pub mod partition;

pub use error::ReplicationError;
pub use node::{Node, NodeOptions};
pub use partition::{
    Acks, AppendResult, Appended, Completion, CompletionQueue, FetchWaiter, Isolation, Offsets, Partition,
    ReadOutcome,
};
