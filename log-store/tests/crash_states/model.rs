//! What was promised: a model of the node's replicas that knows nothing of files, rounds or folds.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use log_store::{LogId, ReplicaId, Vote};

/// An entry of a replica's log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ModelEntry {
    pub(crate) log_id: LogId,
    pub(crate) offset: i64,
    /// The records (behind the batch's header), or the payload of a control entry.
    pub(crate) bytes: Bytes,
    /// Records in the batch; 0 for a control entry.
    pub(crate) records: i64,
}

impl ModelEntry {
    /// Where the log's start moves, if that is what the entry says.
    pub(crate) fn trim(&self) -> Option<i64> {
        (self.records == 0).then(|| trim_of(&self.bytes)).flatten()
    }
}

/// The content of an entry, or of a snapshot, that moves the log's start.
pub(crate) fn trim_to(log_start: i64) -> Bytes {
    Bytes::from(format!("{TRIM}{log_start}"))
}

/// What [`trim_to`] wrote.
pub(crate) fn trim_of(bytes: &[u8]) -> Option<i64> {
    str::from_utf8(bytes).ok()?.strip_prefix(TRIM)?.parse().ok()
}

const TRIM: &str = "the log starts at ";

/// A replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ModelGroup {
    pub(crate) topic: String,
    pub(crate) vote: Option<Vote>,
    pub(crate) floor: Option<LogId>,
    pub(crate) entries: Vec<ModelEntry>,
    /// Offset behind the floor.
    pub(crate) floor_offset: i64,
    pub(crate) snapshot: Bytes,
}

impl ModelGroup {
    pub(crate) fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id).or(self.floor)
    }

    /// First readable offset: what is left of snapshots and trims says it, and no checkpoint may say more.
    pub(crate) fn log_start(&self) -> i64 {
        let trims = self.entries.iter().filter_map(ModelEntry::trim);
        trims.chain(trim_of(&self.snapshot)).max().unwrap_or(0)
    }

    pub(crate) fn next_offset(&self) -> i64 {
        self.entries.last().map_or(self.floor_offset, |entry| entry.offset + entry.records)
    }
}

/// All replicas of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) groups: BTreeMap<ReplicaId, ModelGroup>,
}

/// The worlds that a recovery may show: what was promised, or that and the round that was in flight.
#[derive(Clone, Default)]
pub(crate) struct Allowed(pub(crate) Vec<Arc<World>>);

impl fmt::Debug for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} worlds", self.0.len())
    }
}
