//! Every byte of Alluvium that is on a disk: segments and their indexes, the write-ahead log of the node,
//! checkpoints and recovery. Synchronous: no runtime, thread, clock or randomness of its own.
//!
//! Reading order: [`batch`], [`segment`], [`log`], [`group`], [`wal`], [`checkpoint`], [`recovery`].

pub mod batch;
pub mod checkpoint;
pub mod compression;
pub mod config;
pub mod data_directory;
pub mod disk;
pub mod error;
pub mod group;
pub mod inspect;
pub mod leader_epochs;
pub mod log;
pub mod mmap;
pub mod offset_index;
pub mod producer_state;
pub mod raft_file;
pub mod record;
pub mod recovery;
pub mod retention;
pub mod segment;
pub mod time_index;
pub mod transaction_index;
pub mod wal;

pub use batch::{BatchHeader, RecordBatch};
pub use error::LogStoreError;
pub use group::{ControlEntry, GroupState, GroupStates, LogEnd, LogId, ReplicaId, TermStart, Vote};
pub use log::{Entry, EntryHead, Log, LogRead, LogSlice, QueuedWrite, Waiting};
pub use segment::{Segment, SegmentPool, SegmentSummary};
pub use wal::WalRecord;
