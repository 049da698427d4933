//! A Raft group per partition: what the rest of the broker calls Partition, leader epoch and high watermark, openraft
//! calls Raft, term and committed index.
//!
//! ```text
//!   Node ── metadata (a group of its own: topics, placements, ids)
//!    │
//!    ├── Partition ── openraft core ── RaftLog ──┐         role of a replica
//!    │      │              │                     │           Waiting ──own entry applied──> Serving
//!    │      │         StateMachine            Lane            ^  └──────── a later vote ──────┘
//!    │      └ producers, watermarks, waiters     │            └> Deleted, Failed, Stopping: for good
//!    └── Flusher <───────────────────────────────┘
//!           one write-ahead log, segments, checkpoint
//! ```
//!
//! openraft elects, orders and commits. Ours: what is on the disk and when ([`flusher`]), that nothing else is
//! promised ([`invariants`]), offsets, producers and acks ([`partition`], [`completion`]).
//!
//! Reading order: [`partition`], [`completion`], `entry`, `runtime`, `raft_log`, `state_machine`, `lane`, [`flusher`], `files`,
//! [`node`], [`metadata`].

pub mod completion;
#[cfg(test)]
mod durability;
mod entry;
pub mod error;
mod files;
pub mod flusher;
pub mod invariants;
mod lane;
pub mod metadata;
pub mod node;
pub mod partition;
mod producers;
mod raft_log;
mod runtime;
mod snapshot;
mod space;
mod state_machine;
#[cfg(test)]
mod storage_model;
#[cfg(test)]
mod test_disk;
#[cfg(test)]
mod tests;
mod transport;

use std::{
    sync::{Condvar, Mutex, MutexGuard},
    time::Duration,
};

pub use completion::{Acks, AppendResult, Appended, Completion, CompletionQueue};
pub use error::ReplicationError;
pub use flusher::FlusherStats;
pub use log_store::{log::Waiting, recovery::Progress};
pub use node::{Node, NodeOptions};
pub use partition::{FetchWaiter, Isolation, Offsets, Partition, ReadOutcome};
pub use space::DiskSpace;

/// Locks; a panic of another thread while it held the lock does not spread through it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Waits for the condition; a panic does not spread either.
fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The same, at most so long.
fn wait_for<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>, at_most: Duration) -> MutexGuard<'a, T> {
    condition.wait_timeout(guard, at_most).unwrap_or_else(|poisoned| poisoned.into_inner()).0
}
