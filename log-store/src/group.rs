//! The durable state of one replica, and how records of the write-ahead log change it.
//!
//! One function, [`GroupState::fold`], is used three times: by recovery (rounds folded onto the checkpoint), by
//! the running node (a shadow of every group as of the last durable round, which the checkpoint writes out), and
//! by the tests that compare the two.

use bytes::Bytes;
use uuid::Uuid;

/// A replica of a partition on this node: a fresh number for each placement, never used again. It is also the Raft
/// node id of the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicaId(pub u64);

/// Identifies an entry of a replica's Raft log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId {
    /// Term of the leader that appended the entry.
    pub term: u64,
    /// Dense position in the Raft log, from 0.
    pub index: u64,
}

/// A Raft vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The term voted in.
    pub term: u64,
    /// The replica voted for.
    pub node: u64,
    /// Whether a quorum granted it.
    pub committed: bool,
}

/// A row of the term table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermStart {
    /// The term (= Kafka's leader epoch).
    pub term: u64,
    /// Index of its first entry.
    pub first_index: u64,
    /// Offset at which it starts: the log's end when its first entry was appended.
    pub start_offset: i64,
}

/// A Raft entry without records (blank, membership, trim). The payload belongs to `replication`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlEntry {
    /// Which entry it is.
    pub log_id: LogId,
    /// The log's end offset where it stands.
    pub offset: i64,
    /// Opaque here.
    pub payload: Bytes,
}

/// Where the next entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Base offset of the active segment.
    pub segment: i64,
    /// Byte in the active segment at which the next batch goes.
    pub position: u64,
    /// The last entry (the purge floor where nothing is above it), or `None` for a log that never had one.
    pub last: Option<LogId>,
    /// Offset of the next record.
    pub next_offset: i64,
}

/// All that is durable about one replica besides the bytes of its batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// The replica.
    pub replica: ReplicaId,
    /// Its topic's id.
    pub topic_id: Uuid,
    /// Its topic's name.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The last saved vote.
    pub vote: Option<Vote>,
    /// Terms with an entry in the log, oldest first.
    pub terms: Vec<TermStart>,
    /// Control entries above the purge floor, in index order.
    pub controls: Vec<ControlEntry>,
    /// The last purged entry and the offset behind it.
    pub floor: Option<(LogId, i64)>,
    /// The end of the log.
    pub end: LogEnd,
    /// First offset that may be read.
    pub log_start: i64,
    /// The last known committed entry, never above `end.last`.
    pub committed: Option<LogId>,
    /// Meta of the last installed or built snapshot; opaque here.
    pub snapshot: Bytes,
}
