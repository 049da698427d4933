//! How a partition begins: from what recovery found, and again after a full disk.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwapOption;
use log_store::{GroupState, Log, LogId, log::EntryHead, producer_state::ProducerState};
use openraft::StoredMembership;

use super::{Marks, Partition, PartitionSetup, Role};
use crate::{
    ReplicationError,
    entry::{Payload, to_raft},
    files::Files,
    lock,
    producers::Producers,
    snapshot::SnapshotContents,
};

impl Partition {
    /// Opens the partition over a recovered (or new) log. It serves once its group elected it.
    ///
    /// # Errors
    /// What the state says does not decode, or the log cannot be read.
    pub(crate) fn new(setup: PartitionSetup<'_>, log: Arc<Log>) -> Result<Arc<Self>, ReplicationError> {
        let (marks, producers) = recovered(setup.state, &log, &setup.files, (setup.now)())?;
        Ok(Self::assemble(setup, Some(log), marks, producers))
    }

    /// A partition of which something promised is missing: it answers with the storage error.
    pub(crate) fn offline(setup: PartitionSetup<'_>, reason: &str) -> Arc<Self> {
        let mut marks = Marks::new(setup.state, None);
        marks.role = Role::Failed(reason.to_owned());
        Self::assemble(setup, None, marks, Producers::default())
    }

    fn assemble(
        setup: PartitionSetup<'_>,
        log: Option<Arc<Log>>,
        marks: Marks,
        producers: Producers,
    ) -> Arc<Self> {
        let PartitionSetup { state, internal, lane, space, files, now, max_batch_bytes, revive } = setup;
        Arc::new(Self {
            topic: Arc::from(state.topic.as_str()),
            topic_id: state.topic_id,
            index: state.partition,
            replica: state.replica,
            internal,
            log: ArcSwapOption::new(log),
            lane,
            space,
            now,
            max_batch_bytes,
            revive,
            submit: Mutex::new(None),
            core: Mutex::new(None),
            producers: Arc::new(Mutex::new(producers)),
            marks: Mutex::new(marks),
            waiters: Mutex::default(),
            local: Mutex::default(),
            segment_starts: Mutex::default(),
            files,
            owns_directory: Mutex::new(true),
            broken: AtomicBool::new(false),
            reviving: AtomicBool::new(false),
        })
    }

    /// Starts again at the durable end, after a write into a segment failed and the core ended.
    ///
    /// # Errors
    /// As [`Partition::new`].
    pub(crate) fn reopen(&self, state: &GroupState, log: Arc<Log>) -> Result<(), ReplicationError> {
        let (marks, producers) = recovered(state, &log, &self.files, self.now_ms())?;
        *lock(&self.marks) = marks;
        *lock(&self.producers) = producers;
        lock(&self.segment_starts).clear();
        self.log.store(Some(log));
        self.broken.store(false, Ordering::Release);
        Ok(())
    }
}

/// What follows from a recovered state and its log: everything up to the last entry known to be committed is applied.
fn recovered(
    state: &GroupState,
    log: &Log,
    files: &Files,
    now_ms: i64,
) -> Result<(Marks, Producers), ReplicationError> {
    let snapshot = SnapshotContents::decode(&state.snapshot).map_err(damaged)?;
    let floor = state.floor.map(|(floor, _)| floor);
    // a snapshot is taken of applied entries, so what it covers is committed
    let covered = snapshot.as_ref().and_then(|snapshot| snapshot.log_id);
    // durability rule 4: openraft answers an applied entry above the log's end by purging the log
    let applied = state.committed.max(covered).min(state.end.last).max(floor);
    let mut marks = Marks::new(state, applied);
    if let Some(snapshot) = &snapshot {
        marks.membership = snapshot.membership.clone();
        marks.log_start = marks.log_start.max(snapshot.log_start);
    }
    for control in state.controls.iter().filter(|control| Some(control.log_id) <= applied) {
        match Payload::decode_control(&control.payload).map_err(damaged)? {
            Payload::Membership(entry) => {
                marks.membership = StoredMembership::new(Some(to_raft(control.log_id)), entry);
            }
            Payload::Trim { log_start } => marks.log_start = marks.log_start.max(log_start),
            _ => {}
        }
    }
    marks.high_watermark = match (applied, state.floor) {
        (Some(applied), _) if Some(applied) == state.end.last => state.end.next_offset,
        (Some(applied), Some((floor, offset))) if applied == floor => offset,
        (Some(applied), _) => offset_behind(log, applied)?,
        (None, _) => 0,
    };
    marks.log_start = marks.log_start.min(marks.high_watermark);
    marks.snapshot = snapshot;
    let voters = marks.membership.membership();
    marks.alone =
        voters.voter_ids().next().is_some() && voters.voter_ids().all(|voter| voter == state.replica.0);
    log.set_log_start(marks.log_start);
    let producers = recover_producers(state, log, files, applied, marks.high_watermark, now_ms)?;
    Ok((marks, Producers::from_committed(producers)))
}

/// The offset behind an entry.
fn offset_behind(log: &Log, log_id: LogId) -> Result<i64, ReplicationError> {
    match log.heads(log_id.index..log_id.index + 1)?.first() {
        Some(EntryHead::Control { offset, .. }) => Ok(*offset),
        Some(EntryHead::Batch { header, .. }) => Ok(header.next_offset()),
        None => Err(ReplicationError::Storage(format!("the committed entry {log_id:?} is not in the log"))),
    }
}

/// Entries whose headers are read at a time.
const HEADS_AT_A_TIME: u64 = 1024;

/// Rebuilds the committed layer: the newest `.snapshot` file at or below the high watermark, and the headers behind it.
fn recover_producers(
    state: &GroupState,
    log: &Log,
    files: &Files,
    applied: Option<LogId>,
    high_watermark: i64,
    now_ms: i64,
) -> Result<ProducerState, ReplicationError> {
    let Some(applied) = applied else { return Ok(ProducerState::default()) };
    let mut next = state.floor.map_or(0, |(floor, _)| floor.index + 1);
    let mut producers = ProducerState::default();
    for segment in log.segments().iter().rev() {
        let Some(first_index) = segment.first_index else { continue };
        if segment.base_offset > high_watermark || segment.base_offset == 0 {
            continue;
        }
        // it is a cache: after a crash the newest may be missing or damaged, then the one before it does
        let bytes = files.producer_snapshot(&state.directory(), segment.base_offset);
        if let Some(known) = bytes.and_then(|bytes| ProducerState::from_snapshot(&bytes, now_ms).ok()) {
            (producers, next) = (known, first_index);
            break;
        }
    }
    while next <= applied.index {
        let heads = log.heads(next..(applied.index + 1).min(next + HEADS_AT_A_TIME))?;
        let count = heads.len() as u64;
        if count == 0 {
            break;
        }
        for head in heads {
            if let EntryHead::Batch { header, .. } = head {
                producers.apply(&header, now_ms);
            }
        }
        next += count;
    }
    Ok(producers)
}

fn damaged(error: std::io::Error) -> ReplicationError {
    ReplicationError::Storage(error.to_string())
}
