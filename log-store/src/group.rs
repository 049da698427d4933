//! The durable state of one replica, and how records of the write-ahead log change it.
//!
//! ```text
//!   checkpoint --> GroupStates --fold(record)--> GroupStates --> next checkpoint
//!                      |  as of round R             |  as of round R + n
//!                      '--- recovery reads rounds, the running node folds each round once it is durable
//! ```
//! [`GroupStates::fold`] is the only code that changes a state: recovery folds rounds onto the checkpoint, the
//! running node keeps a shadow of every group as of the last durable round (a checkpoint is nothing but that shadow
//! written out), and the tests compare the two.
//!
//! # Invariants
//! Checked by every fold, before anything changes; a record that would break one is an error and changes nothing.
//! - Votes never fall, and no two replicas get one of the same term.
//! - Entries follow one another: the index of a batch is the end's plus one, terms never fall, a batch begins at the
//!   end's offset and at the end's byte, or at byte 0 of a segment named after the end's offset.
//! - A cut ends at an entry that the log holds and not below the purge floor; the floor never falls.
//! - `floor <= end`, `log_start <= end`, `committed <= end` (the last two are not folded but clamped, durability rule 4).

use std::{
    collections::{BTreeMap, btree_map},
    fmt,
};

use bytes::Bytes;
use uuid::Uuid;

use crate::{BatchHeader, LogStoreError, wal::WalRecord};

/// A replica of a partition on this node: a fresh number for each placement, never used again. It is also the Raft
/// node id of the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicaId(pub u64);

impl fmt::Display for ReplicaId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Identifies an entry of a replica's Raft log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId {
    /// Term of the leader that appended the entry.
    pub term: u64,
    /// Dense position in the Raft log, from 0.
    pub index: u64,
}

/// A Raft vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

impl GroupState {
    /// A replica that was just created: an empty log that begins at offset 0.
    pub fn new(replica: ReplicaId, topic_id: Uuid, topic: String, partition: i32) -> Self {
        Self {
            replica,
            topic_id,
            topic,
            partition,
            vote: None,
            terms: Vec::new(),
            controls: Vec::new(),
            floor: None,
            end: LogEnd { segment: 0, position: 0, last: None, next_offset: 0 },
            log_start: 0,
            committed: None,
            snapshot: Bytes::new(),
        }
    }

    /// The name of the partition's directory.
    pub fn directory(&self) -> String {
        format!("{}-{}", self.topic, self.partition)
    }

    /// The term of the entry at `index`, where the log holds it (the purge floor counts).
    pub fn term_at(&self, index: u64) -> Option<u64> {
        if let Some((floor, _)) = self.floor
            && floor.index >= index
        {
            return (floor.index == index).then_some(floor.term);
        }
        let row = self.terms.iter().rev().find(|row| row.first_index <= index)?;
        (index <= self.end.last?.index).then_some(row.term)
    }

    /// Sets what the running partition knows beyond its records, never above the end of the log: openraft purges the
    /// whole log where the applied entry lies above it, and does not start where the committed one does.
    pub fn clamp(&mut self, committed: Option<LogId>, log_start: i64) {
        self.committed = match (committed, self.end.last) {
            (Some(committed), Some(last)) => {
                Some(if committed.index > last.index { last } else { committed })
            }
            _ => None,
        };
        self.log_start = log_start.min(self.end.next_offset);
    }

    /// Changes the state by one record of its replica ([`WalRecord::Created`] and [`WalRecord::Dropped`] concern the
    /// map around it, see [`GroupStates::fold`]).
    ///
    /// # Errors
    /// [`LogStoreError::Invariant`] if the record does not fit the state; nothing is changed then.
    pub fn fold(&mut self, record: &WalRecord) -> Result<(), LogStoreError> {
        match record {
            WalRecord::Vote { vote, .. } => self.fold_vote(*vote),
            WalRecord::Control { log_id, offset, payload, .. } => {
                self.fold_control(*log_id, *offset, payload)
            }
            WalRecord::Batch { index, segment, position, batch, .. } => {
                self.fold_batch(*index, &batch.header(), *segment, *position)
            }
            WalRecord::Placed { index, segment, position, head, .. } => {
                self.fold_batch(*index, &BatchHeader::decode(head), *segment, *position)
            }
            WalRecord::Cut { after, end, .. } => self.fold_cut(*after, *end),
            WalRecord::Purge { floor, offset, .. } => self.fold_purge(*floor, *offset),
            WalRecord::Installed { log_id, snapshot, next_offset, .. } => {
                self.fold_installed(*log_id, snapshot, *next_offset)
            }
            WalRecord::Snapshot { snapshot, .. } => {
                self.snapshot = snapshot.clone();
                Ok(())
            }
            WalRecord::Created { .. } | WalRecord::Dropped { .. } => {
                Err(self.invalid("a record of the map of groups was folded into one group".to_owned()))
            }
        }
    }

    fn fold_vote(&mut self, vote: Vote) -> Result<(), LogStoreError> {
        if let Some(old) = self.vote {
            let same_term = vote.term == old.term;
            if vote.term < old.term
                || (same_term && (vote.node != old.node || old.committed && !vote.committed))
            {
                return Err(self.invalid(format!("vote {vote:?} after {old:?}")));
            }
        }
        self.vote = Some(vote);
        Ok(())
    }

    fn fold_control(&mut self, log_id: LogId, offset: i64, payload: &Bytes) -> Result<(), LogStoreError> {
        // openraft's storage suite appends control entries with gaps between their indexes
        if log_id.index < self.next_index() || offset != self.end.next_offset {
            return Err(self
                .invalid(format!("control entry {log_id:?} at offset {offset}, the end is {:?}", self.end)));
        }
        self.push_entry(log_id)?;
        self.controls.push(ControlEntry { log_id, offset, payload: payload.clone() });
        Ok(())
    }

    fn fold_batch(
        &mut self,
        index: u64,
        header: &BatchHeader,
        segment: i64,
        position: u64,
    ) -> Result<(), LogStoreError> {
        let end = self.end;
        let log_id = LogId { term: header.partition_leader_epoch.max(0).cast_unsigned().into(), index };
        let follows = segment == end.segment && position == end.position;
        let rolls = segment == end.next_offset && position == 0;
        let dense = log_id.index == self.next_index() || end.last.is_none();
        let offsets = header.base_offset..header.next_offset();
        if !(follows || rolls) || !dense || offsets.start != end.next_offset || offsets.is_empty() {
            return Err(self.invalid(format!(
                "batch {log_id:?} of offsets {offsets:?} at {segment}:{position}, the end is {end:?}"
            )));
        }
        self.push_entry(log_id)?;
        self.end.segment = segment;
        self.end.position = position + header.size() as u64;
        self.end.next_offset = offsets.end;
        Ok(())
    }

    fn next_index(&self) -> u64 {
        self.end.last.map_or(0, |last| last.index + 1)
    }

    fn push_entry(&mut self, log_id: LogId) -> Result<(), LogStoreError> {
        let last_term = self.end.last.map_or(0, |last| last.term);
        if log_id.term < last_term {
            return Err(self.invalid(format!("entry {log_id:?} falls behind term {last_term}")));
        }
        if self.terms.last().is_none_or(|row| row.term < log_id.term) {
            self.terms.push(TermStart {
                term: log_id.term,
                first_index: log_id.index,
                start_offset: self.end.next_offset,
            });
        }
        self.end.last = Some(log_id);
        Ok(())
    }

    fn fold_cut(&mut self, after: Option<LogId>, end: LogEnd) -> Result<(), LogStoreError> {
        let held = match after {
            Some(after) => self.term_at(after.index) == Some(after.term),
            None => self.floor.is_none(),
        };
        let ordered = end.last == after
            && end.next_offset <= self.end.next_offset
            && end.next_offset >= self.floor.map_or(0, |(_, offset)| offset)
            && (end.segment, end.position) <= (self.end.segment, self.end.position);
        if !held || !ordered {
            return Err(self.invalid(format!("cut after {after:?} to {end:?}, the end is {:?}", self.end)));
        }
        let above = |index: u64| after.is_none_or(|after| index > after.index);
        self.terms.retain(|row| !above(row.first_index));
        self.controls.retain(|control| !above(control.log_id.index));
        self.end = end;
        self.clamp(self.committed, self.log_start);
        Ok(())
    }

    fn fold_purge(&mut self, floor: LogId, offset: i64) -> Result<(), LogStoreError> {
        let end = self.end;
        let rises =
            self.floor.is_none_or(|(old, old_offset)| old.index <= floor.index && old_offset <= offset);
        let beyond = end.last.is_none_or(|last| last.index < floor.index);
        // beyond the end only where no batch would be lost by it: the log holds control entries only
        let fits = if beyond {
            offset == end.next_offset && self.floor.map_or(0, |(_, old_offset)| old_offset) == offset
        } else {
            offset <= end.next_offset && self.term_at(floor.index) == Some(floor.term)
        };
        if !rises || !fits {
            return Err(self.invalid(format!(
                "purge to {floor:?} (offset {offset}) from {:?}, the end is {end:?}",
                self.floor
            )));
        }
        if beyond {
            self.end.last = Some(floor);
        }
        self.raise_floor(floor, offset);
        Ok(())
    }

    fn raise_floor(&mut self, floor: LogId, offset: i64) {
        self.floor = Some((floor, offset));
        self.controls.retain(|control| control.log_id.index > floor.index);
        let last = self.end.last.map_or(0, |last| last.index);
        let mut ends = self
            .terms
            .iter()
            .skip(1)
            .map(|row| row.first_index - 1)
            .chain([last])
            .collect::<Vec<_>>()
            .into_iter();
        self.terms.retain(|_| ends.next().is_some_and(|end| end > floor.index));
    }

    fn fold_installed(
        &mut self,
        log_id: LogId,
        snapshot: &Bytes,
        next_offset: i64,
    ) -> Result<(), LogStoreError> {
        let below_floor =
            self.floor.is_some_and(|(floor, offset)| log_id.index < floor.index || next_offset < offset);
        let below_committed = self.committed.is_some_and(|committed| log_id.index < committed.index);
        if below_floor || below_committed {
            return Err(
                self.invalid(format!("snapshot {log_id:?} below {:?} or {:?}", self.floor, self.committed))
            );
        }
        if self.holds(log_id) {
            // what follows the snapshot may have been promised to a leader
            if next_offset > self.end.next_offset {
                return Err(
                    self.invalid(format!("snapshot {log_id:?} of offset {next_offset} above the end"))
                );
            }
        } else {
            self.terms.clear();
            self.controls.clear();
            self.end = LogEnd { segment: next_offset, position: 0, last: Some(log_id), next_offset };
        }
        self.raise_floor(log_id, next_offset);
        self.log_start = self.log_start.max(next_offset);
        self.committed = Some(log_id);
        self.snapshot = snapshot.clone();
        Ok(())
    }

    /// Whether the log holds exactly this entry, so that a snapshot up to it keeps what follows.
    pub fn holds(&self, log_id: LogId) -> bool {
        self.term_at(log_id.index) == Some(log_id.term)
    }

    fn invalid(&self, reason: String) -> LogStoreError {
        LogStoreError::Invariant { replica: self.replica, reason }
    }
}

/// The states of all replicas of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupStates {
    groups: BTreeMap<ReplicaId, GroupState>,
}

impl GroupStates {
    /// Changes the states by one record.
    ///
    /// # Errors
    /// [`LogStoreError::Invariant`] if the record does not fit; nothing is changed then.
    pub fn fold(&mut self, record: &WalRecord) -> Result<(), LogStoreError> {
        let replica = record.replica();
        let invalid = |reason: &str| LogStoreError::Invariant { replica, reason: reason.to_owned() };
        match record {
            WalRecord::Created { topic_id, topic, partition, .. } => match self.groups.entry(replica) {
                btree_map::Entry::Occupied(_) => Err(invalid("the replica exists already")),
                btree_map::Entry::Vacant(vacant) => {
                    vacant.insert(GroupState::new(replica, *topic_id, topic.clone(), *partition));
                    Ok(())
                }
            },
            WalRecord::Dropped { .. } => match self.groups.remove(&replica) {
                Some(_) => Ok(()),
                None => Err(invalid("no such replica was created")),
            },
            other => match self.groups.get_mut(&replica) {
                Some(group) => group.fold(other),
                None => Err(invalid("no such replica was created")),
            },
        }
    }

    /// The state of a replica.
    pub fn get(&self, replica: ReplicaId) -> Option<&GroupState> {
        self.groups.get(&replica)
    }

    /// The state of a replica, for [`GroupState::clamp`].
    pub fn get_mut(&mut self, replica: ReplicaId) -> Option<&mut GroupState> {
        self.groups.get_mut(&replica)
    }

    /// Puts a state in as a whole; for the checkpoint's reader and for tests.
    pub fn insert(&mut self, state: GroupState) {
        self.groups.insert(state.replica, state);
    }

    /// Takes a replica out.
    pub fn remove(&mut self, replica: ReplicaId) -> Option<GroupState> {
        self.groups.remove(&replica)
    }

    /// All states, by replica id.
    pub fn iter(&self) -> impl Iterator<Item = &GroupState> {
        self.groups.values()
    }

    /// All states, by replica id, for [`GroupState::clamp`].
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut GroupState> {
        self.groups.values_mut()
    }

    /// How many replicas there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}
