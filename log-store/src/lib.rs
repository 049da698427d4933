//! Every byte of Alluvium that is on a disk: segments and their indexes, the write-ahead log of the node,
//! checkpoints and recovery. Synchronous: no runtime, thread, clock or randomness of its own.
//!
//! # Order of durability
//! What an acknowledgement stands on; tests break each rule and must notice.
//! 1. Rounds of the write-ahead log are serial: nothing of a round is told before it and all before it are durable, callbacks run in
//!    the order of the entries, and no byte of the next round is written before this one is durable. A round that names what lies in
//!    segments is written once they are synced, with the names that lead to them.
//! 2. Votes and installed snapshots go through the same queue as the group's appends, and return when their round is durable.
//! 3. A cut is durable as a record first, then the file is cut, then it counts as done.
//! 4. What a checkpoint says of commits and applied entries never exceeds the group's durable end, and is clamped again when the log
//!    is opened.
//! 5. A file is unlinked only once the record that makes it needless is durable; who may use its name again waits until it is gone.
//! 6. The first error of a sync, or of a write to the write-ahead log or the checkpoint, is final: nothing is acknowledged any more,
//!    the process aborts, and recovery decides. A segment that cannot be written stops its own group alone.
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
pub mod offset_index;
pub mod producer_state;
pub mod raft_file;
pub mod record;
pub mod recovery;
pub mod retention;
pub mod segment;
pub mod sys;
pub mod time_index;
pub mod wal;

pub use batch::{BatchHeader, RecordBatch};
pub use error::LogStoreError;
pub use group::{ControlEntry, GroupState, GroupStates, LogEnd, LogId, ReplicaId, TermStart, Vote};
pub use log::{Entry, EntryHead, Log, LogRead, LogSlice, QueuedWrite, Waiting};
pub use segment::{Segment, SegmentPool, SegmentSummary};
pub use wal::WalRecord;
