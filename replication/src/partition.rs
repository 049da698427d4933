//! One partition: a Raft group with its log, watermarks and producer state.
//!
//! ```text
//!  append ─ sequence check ─> openraft core ─> RaftLog::append ─> flusher ─> durable end   (acks=1)
//!              (in flight,        (one task of          (memory, readable)        │
//!               committed)         openraft's)                                    v
//!  completions <── state machine: high watermark, producer state <── commit <── core       (acks=all)
//!      waiting fetches are woken
//! ```
//!
//! A partition has no task of ours. Three watermarks: log end (in memory), durable end (on this disk), high watermark
//! (committed and applied); `acks` says which of them an append waits for. When this replica stops leading, everybody
//! who waits is told before any watermark moves.

mod recover;
mod replica;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use futures_util::FutureExt;
use log_store::{
    GroupState, Log, LogId, LogSlice, RecordBatch, ReplicaId, Vote, config::LogConfig,
    leader_epochs::end_offset_for, log::Waiting, retention::retention_start,
};
use openraft::{Raft, async_runtime::WatchReceiver};
use tokio::sync::{Notify, mpsc, oneshot};
use uuid::Uuid;

use crate::{
    ReplicationError,
    completion::{Acks, AppendResult, Appended, Completion, InFlightPlace, Ticket},
    entry::{Applied, Proposal, Responder, TypeConfig},
    files::Files,
    invariants::Invariants,
    lane::Lane,
    lock,
    producers::{Admission, Producers},
    snapshot::{Members, SnapshotContents},
    space::Space,
    state_machine::StateMachine,
};

/// What is visible to consumers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Up to the high watermark.
    ReadUncommitted,
    /// Up to the last stable offset.
    ReadCommitted,
}

/// The offsets of a partition, from one consistent reading: `log_start <= last_stable <= high_watermark <= log_end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// First readable offset.
    pub log_start: i64,
    /// First offset of the earliest open transaction, else the high watermark.
    pub last_stable: i64,
    /// Behind the last committed record.
    pub high_watermark: i64,
    /// Behind the last record on this replica's disk.
    pub durable_end: i64,
    /// Behind the last record appended.
    pub log_end: i64,
    /// The current leader epoch (= Raft term).
    pub epoch: i32,
}

/// What a read returns.
#[derive(Debug)]
pub struct ReadOutcome {
    /// The offsets when it was read.
    pub offsets: Offsets,
    /// Whole batches, uncopied; the first may begin before the offset asked for.
    pub slices: Vec<LogSlice>,
    /// Their bytes.
    pub bytes: usize,
    /// The read would have had to wait for the disk and was told not to: repeat it from a thread that may.
    pub would_wait: bool,
    /// See [`log_store::LogRead::is_cut_short`].
    pub is_cut_short: bool,
    /// See [`log_store::LogRead::may_hold_zstd`].
    pub may_hold_zstd: bool,
    /// For [`Isolation::ReadCommitted`]: (producer id, first offset) of aborted transactions in the range.
    pub aborted: Option<Vec<(i64, i64)>>,
}

/// A fetch that waits for bytes: [`Partition::wait`] registers it, any advance of a watermark wakes it.
#[derive(Debug, Default)]
pub struct FetchWaiter {
    /// Notified when a partition on which it waits changed.
    pub wake: Notify,
}

/// What this replica is at the moment.
#[derive(Clone, Debug)]
enum Role {
    /// It leads, and an entry of its own term is applied.
    Serving,
    /// It follows, or leads without having applied an entry of its own term.
    Waiting,
    /// Its topic is deleted.
    Deleted,
    /// A write into a segment failed; it starts again once there is space.
    Broken(String),
    /// Its storage is damaged, or an invariant does not hold.
    Failed(String),
    /// The node is stopping.
    Stopping,
}

impl Role {
    fn error(&self) -> Option<ReplicationError> {
        match self {
            Self::Serving => None,
            Self::Waiting => Some(ReplicationError::NotLeader),
            Self::Deleted => Some(ReplicationError::TopicDeleted),
            Self::Broken(reason) | Self::Failed(reason) => Some(ReplicationError::Storage(reason.clone())),
            Self::Stopping => Some(ReplicationError::Stopping),
        }
    }

    /// Whether the role ended for good.
    fn is_final(&self) -> bool {
        matches!(self, Self::Deleted | Self::Failed(_) | Self::Stopping)
    }
}

/// Everything of a group that moves with its votes and its applied entries.
#[derive(Debug)]
struct Marks {
    role: Role,
    vote: Option<Vote>,
    /// The term that this replica leads, from its committed vote on.
    leading: Option<u64>,
    epoch: i32,
    committed: Option<LogId>,
    applied: Option<LogId>,
    membership: Members,
    /// Whether this replica is the only voter.
    alone: bool,
    log_start: i64,
    high_watermark: i64,
    durable: Option<LogId>,
    durable_end: i64,
    /// Where the next snapshot is to be taken; without one none is.
    boundary: Option<Boundary>,
    snapshot: Option<SnapshotContents>,
    invariants: Invariants,
}

/// The end of a segment as a place for a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Boundary {
    /// The last entry that goes.
    log_id: LogId,
    /// Offset of the first record that stays.
    next_offset: i64,
}

/// What a partition is opened from.
pub(crate) struct PartitionSetup<'a> {
    /// Its recovered (or new) state.
    pub(crate) state: &'a GroupState,
    /// Whether the broker writes it, and clients do not.
    pub(crate) internal: bool,
    /// The runtime it is pinned to.
    pub(crate) lane: Arc<Lane>,
    /// Free space of the data disk.
    pub(crate) space: Arc<Space>,
    /// Where snapshots of the producer state are written.
    pub(crate) files: Arc<Files>,
    /// Wall clock.
    pub(crate) now: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// The largest batch that the write-ahead log takes.
    pub(crate) max_batch_bytes: usize,
    /// Where a group says that it wants to start again.
    pub(crate) revive: mpsc::UnboundedSender<ReplicaId>,
}

/// One partition of this node.
pub struct Partition {
    topic: Arc<str>,
    topic_id: Uuid,
    index: i32,
    replica: ReplicaId,
    /// Whether the broker writes it, and clients do not.
    internal: bool,
    /// The log, unless what recovery found of it is damaged; replaced where a full disk made the group start again.
    log: ArcSwapOption<Log>,
    lane: Arc<Lane>,
    space: Arc<Space>,
    now: Arc<dyn Fn() -> i64 + Send + Sync>,
    max_batch_bytes: usize,
    /// Told when the group, stopped by a full disk, may start again.
    revive: mpsc::UnboundedSender<ReplicaId>,
    /// It was told, and has not tried yet.
    reviving: AtomicBool,
    /// The core, while the partition serves. Held over validate and submit, so that batches reach the core in the order
    /// in which they were validated.
    submit: Mutex<Option<Core>>,
    /// The core, as long as there is one.
    core: Mutex<Option<Core>>,
    producers: Arc<Mutex<Producers>>,
    marks: Mutex<Marks>,
    waiters: Mutex<Vec<Weak<FetchWaiter>>>,
    /// Appends that wait for this disk (`acks=1`), by index.
    local: Mutex<VecDeque<(u64, Appended, Ticket)>>,
    /// Where segments begin that hold no applied batch yet: producer state is written out there.
    segment_starts: Mutex<VecDeque<i64>>,
    files: Arc<Files>,
    /// Whether the directory of its name is its own. Held while index files are written there: two threads do that, and
    /// paths of a dropped replica are those of the next one of its partition.
    owns_directory: Mutex<bool>,
    /// A write into a segment failed: nothing more of what the core queues is taken.
    broken: AtomicBool,
}

/// The handle of a group's core.
pub(crate) type Core = Raft<TypeConfig, StateMachine>;

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.index)
    }
}

impl Partition {
    /// The topic's name.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The topic's id.
    pub fn topic_id(&self) -> Uuid {
        self.topic_id
    }

    /// Which partition of the topic.
    pub fn index(&self) -> i32 {
        self.index
    }

    /// Validates the producer's sequence and submits one batch, in call order; never waits. The result goes to
    /// `completion` once `acks` is met. `batch` has passed `log_store::batch` validation.
    ///
    /// Source: KIP-98 (sequences), KIP-185 (five batches in flight).
    pub fn append(self: &Arc<Self>, batch: RecordBatch, acks: Acks, completion: Completion) {
        let mut ticket = Ticket::new(completion, acks);
        // what the broker itself keeps (offsets, metadata) may use the reserve
        if !self.internal
            && let Err(error) = self.space.admit()
        {
            return ticket.fail(&error);
        }
        if batch.size() > self.max_batch_bytes {
            let (bytes, limit) = (batch.size(), self.max_batch_bytes);
            return ticket.fail(&ReplicationError::BatchTooLarge { bytes, limit });
        }
        let submit = lock(&self.submit);
        let Some(core) = &*submit else {
            drop(submit);
            if self.is_broken() && !self.reviving.swap(true, Ordering::AcqRel) {
                // there is space again; a node that stops revives nothing
                let _ = self.revive.send(self.replica);
            }
            return ticket.fail(&self.refusal());
        };
        if batch.producer_id() >= 0 {
            let header = batch.header();
            let mut completion = ticket.into_completion();
            let admission = lock(&self.producers).admit(&header, &mut completion);
            ticket = Ticket::new(completion, acks);
            match admission {
                Ok(Admission::New) => ticket.in_flight(InFlightPlace {
                    producers: Arc::clone(&self.producers),
                    producer_id: header.producer_id,
                    base_sequence: header.base_sequence,
                }),
                Ok(Admission::Duplicate { base_offset, timestamp }) => {
                    let log_start = lock(&self.marks).log_start;
                    return ticket.succeed(Appended { base_offset, log_start, log_append_time: timestamp });
                }
                // the batch in flight answers it
                Ok(Admission::Joined) => return drop(ticket.into_completion()),
                Err(error) => return ticket.fail(&error),
            }
        }
        let (ticket, responder) = match acks {
            Acks::All => (None, Some(Responder::new(ticket, Ticket::finish_write))),
            Acks::None | Acks::Leader => (Some(ticket), None),
        };
        // The core's queue is far deeper than the node's byte budget lets it fill, so the first poll completes (outside of
        // tokio's budget for cooperation, which would make it wait). Should it not, or should the core be gone, ticket
        // and responder are dropped, which fails the append.
        let submitted = core.client_write_ff(Proposal::Batch { batch, ticket }, responder);
        if !matches!(tokio::task::unconstrained(submitted).now_or_never(), Some(Ok(()))) {
            let core = core.clone();
            drop(submit);
            self.check(&core);
        }
    }

    /// The core did not take what it was given. One that ended by itself (a panic, an error of its own) serves no more.
    fn check(&self, core: &Core) {
        if ended(core).now_or_never().is_some() && !self.is_broken() {
            self.fail("the group's core ended by itself, the lines before this one say why");
        }
    }

    /// [`Partition::append`] with [`Acks::All`], awaited.
    ///
    /// # Errors
    /// As the append ends.
    pub async fn append_committed(self: &Arc<Self>, batch: RecordBatch) -> AppendResult {
        let (sender, receiver) = oneshot::channel();
        self.append(batch, Acks::All, Completion::Once(sender));
        receiver.await.unwrap_or(Err(ReplicationError::Stopping))
    }

    /// Reads whole batches from `offset`, at most `max_bytes` (the first batch also when larger, if
    /// `at_least_one`), and nothing above what `isolation` shows. An offset at the end gives no slices.
    ///
    /// # Errors
    /// [`ReplicationError::OffsetOutOfRange`], [`ReplicationError::NotLeader`], [`ReplicationError::Storage`].
    pub fn read(
        &self,
        offset: i64,
        max_bytes: usize,
        at_least_one: bool,
        isolation: Isolation,
        waiting: Waiting,
    ) -> Result<ReadOutcome, ReplicationError> {
        let offsets = self.offsets()?;
        if offset < offsets.log_start || offset > offsets.log_end {
            return Err(ReplicationError::OffsetOutOfRange {
                offset,
                start: offsets.log_start,
                end: offsets.high_watermark,
            });
        }
        let end = offsets.visible_to(isolation);
        let aborted = (isolation == Isolation::ReadCommitted).then(Vec::new);
        if offset >= end {
            return Ok(ReadOutcome {
                offsets,
                slices: Vec::new(),
                bytes: 0,
                would_wait: false,
                is_cut_short: false,
                may_hold_zstd: false,
                aborted,
            });
        }
        let read = match self.log().read(offset, max_bytes, at_least_one, end, waiting) {
            Ok(read) => read,
            // its files may have gone because the topic has
            Err(error) => return Err(self.offsets().err().unwrap_or_else(|| error.into())),
        };
        Ok(ReadOutcome {
            offsets,
            slices: read.slices,
            bytes: read.bytes,
            would_wait: read.would_wait,
            is_cut_short: read.is_cut_short,
            may_hold_zstd: read.may_hold_zstd,
            aborted,
        })
    }

    /// The offsets, or [`ReplicationError::NotLeader`] where this replica does not serve.
    ///
    /// # Errors
    /// See above.
    pub fn offsets(&self) -> Result<Offsets, ReplicationError> {
        let marks = lock(&self.marks);
        if let Some(error) = marks.role.error() {
            return Err(error);
        }
        Ok(Offsets {
            log_start: marks.log_start,
            last_stable: marks.high_watermark,
            high_watermark: marks.high_watermark,
            durable_end: marks.durable_end,
            log_end: self.log().next_offset(),
            epoch: marks.epoch,
        })
    }

    /// Registers `waiter`: it is woken by each advance of high watermark or log start, and by the loss of leadership or the
    /// topic's deletion. Register first, then read: what changes in between is not missed. Dropping the waiter ends the
    /// registration.
    pub fn wait(&self, waiter: &Arc<FetchWaiter>) {
        let mut waiters = lock(&self.waiters);
        if waiters.len() == waiters.capacity() {
            waiters.retain(|waiter| waiter.strong_count() > 0);
        }
        waiters.push(Arc::downgrade(waiter));
    }

    /// The first record at or above `timestamp`: (offset, its timestamp, its leader epoch). Reads files: call it from a
    /// blocking thread.
    ///
    /// # Errors
    /// As [`Partition::read`].
    pub fn offset_for_time(
        &self,
        timestamp: i64,
        isolation: Isolation,
    ) -> Result<Option<(i64, i64, i32)>, ReplicationError> {
        let offsets = self.offsets()?;
        Ok(self.log().offset_for_time(timestamp, offsets.visible_to(isolation))?)
    }

    /// The first record with the largest timestamp: (offset, timestamp, leader epoch). Reads files.
    ///
    /// # Errors
    /// As [`Partition::read`].
    pub fn offset_of_max_timestamp(&self) -> Result<Option<(i64, i64, i32)>, ReplicationError> {
        let offsets = self.offsets()?;
        Ok(self.log().offset_of_max_timestamp(offsets.high_watermark)?)
    }

    /// KIP-101: the largest epoch at or below `epoch` and its end offset; `None` where no such epoch is known.
    ///
    /// # Errors
    /// [`ReplicationError::NotLeader`].
    pub fn end_offset_for_epoch(&self, epoch: i32) -> Result<Option<(i32, i64)>, ReplicationError> {
        let offsets = self.offsets()?;
        if epoch == offsets.epoch {
            return Ok(Some((epoch, offsets.log_end)));
        }
        Ok(end_offset_for(&self.log().terms(), offsets.log_end, epoch))
    }

    /// Moves the log start to `offset` through the log itself (a trim entry), and waits until it is applied. Whole
    /// segments below it are given up then.
    ///
    /// # Errors
    /// [`ReplicationError::OffsetOutOfRange`] above the high watermark; [`ReplicationError::NotLeader`].
    pub async fn trim(self: &Arc<Self>, offset: i64) -> Result<i64, ReplicationError> {
        let Offsets { log_start, high_watermark, .. } = self.offsets()?;
        if offset < 0 || offset > high_watermark {
            return Err(ReplicationError::OffsetOutOfRange { offset, start: log_start, end: high_watermark });
        }
        if offset <= log_start {
            return Ok(log_start);
        }
        let Some(core) = self.core() else { return Err(self.refusal()) };
        let written = core.client_write(Proposal::Trim { log_start: offset }).await;
        let log_start = match written.map(|response| response.data) {
            Ok(Applied::Trimmed(log_start)) => log_start,
            Ok(other) => return Err(ReplicationError::Storage(format!("a trim was applied as {other:?}"))),
            Err(_) => {
                self.check(&core);
                return Err(self.refusal());
            }
        };
        self.release().await;
        Ok(log_start)
    }

    /// Bytes in segments.
    pub fn size(&self) -> u64 {
        self.log.load().as_ref().map_or(0, |log| log.size())
    }

    /// Forgets producers that wrote nothing since `before_ms`.
    pub fn expire_producers(&self, before_ms: i64) {
        lock(&self.producers).expire(before_ms);
    }

    /// Replaces the log's settings.
    pub(crate) fn configure(&self, config: LogConfig) {
        if let Some(log) = &*self.log.load() {
            log.set_config(config);
        }
    }

    /// Proposes a log start behind the segments that are too old or too many, and gives up what lies below it.
    ///
    /// By time counts the later of the largest record timestamp and the last append: by record timestamps
    /// alone a topic filled with last year's events would be empty at once.
    ///
    /// # Errors
    /// As [`Partition::trim`].
    pub(crate) async fn retain(
        self: &Arc<Self>,
        config: &LogConfig,
        now_ms: i64,
    ) -> Result<(), ReplicationError> {
        let offsets = self.offsets()?;
        let segments = self.log().segments();
        let start = retention_start(&segments, config, offsets.high_watermark, now_ms);
        if let Some(start) = start.filter(|start| *start > offsets.log_start) {
            if segments.iter().any(|segment| segment.active && segment.end_offset <= start) {
                // what is old goes, also where nothing new closed its segment
                self.log().roll();
            }
            self.trim(start).await?;
            return Ok(());
        }
        // what an earlier trim could not give up yet
        self.release().await;
        Ok(())
    }

    /// Waits until this replica serves.
    ///
    /// # Errors
    /// Why it never will.
    pub(crate) async fn serving(&self) -> Result<(), ReplicationError> {
        let waiter = Arc::new(FetchWaiter::default());
        self.wait(&waiter);
        loop {
            match &lock(&self.marks).role {
                Role::Serving => return Ok(()),
                Role::Waiting => {}
                role => return Err(role.error().unwrap_or(ReplicationError::NotLeader)),
            }
            waiter.wake.notified().await;
        }
    }

    /// Gives up the whole segments below the log start: a snapshot at their end, the purge that openraft derives
    /// from it, and the worker that unlinks them.
    pub(crate) async fn release(&self) {
        let Some(core) = self.core() else { return };
        {
            let mut marks = lock(&self.marks);
            let Some(boundary) = self.releasable(&marks) else { return };
            marks.boundary = Some(boundary);
        }
        // a core that stops meanwhile has nothing to release; the next retention finds the segments again
        let _ = core.trigger().snapshot().await;
    }

    /// The last entry that nobody needs any more, where that frees a segment: behind the last whole segment below the
    /// log start.
    fn releasable(&self, marks: &Marks) -> Option<Boundary> {
        // The segments are looked at behind the applied entry. The other way round a batch could be appended and applied between
        // the two, into a segment that was empty when it was looked at, and the boundary would lie behind that batch. This
        // way every batch up to `applied` is in the segments that are seen: where the active one is empty, they are all below it.
        let applied = marks.applied?;
        let segments = self.log().segments();
        let kept =
            segments.iter().position(|segment| segment.active || segment.end_offset > marks.log_start)?;
        if kept == 0 {
            return None;
        }
        let next_offset = segments[kept].base_offset;
        let index = segments[kept].first_index.map_or(applied.index, |first| (first - 1).min(applied.index));
        if self.log().floor().is_some_and(|floor| index <= floor.index) {
            return None;
        }
        // a snapshot tells one membership: wait until the last one is old enough
        if marks.membership.log_id().is_none_or(|log_id| log_id.index > index) {
            return None;
        }
        let term = self.log().terms().iter().rev().find(|row| row.first_index <= index)?.term;
        Some(Boundary { log_id: LogId { term, index }, next_offset })
    }

    /// Why nothing is taken at the moment.
    fn refusal(&self) -> ReplicationError {
        lock(&self.marks).role.error().unwrap_or(ReplicationError::NotLeader)
    }
}

impl Offsets {
    fn visible_to(&self, isolation: Isolation) -> i64 {
        match isolation {
            Isolation::ReadUncommitted => self.high_watermark,
            Isolation::ReadCommitted => self.last_stable,
        }
    }
}

/// What the group's storage and state machine tell the partition. All of it runs on the partition's runtime.
impl Marks {
    fn new(state: &GroupState, applied: Option<LogId>) -> Self {
        Self {
            role: Role::Waiting,
            vote: state.vote,
            leading: None,
            epoch: state.vote.map_or(0, |vote| epoch_of(vote.term)),
            committed: applied,
            applied,
            membership: Members::default(),
            alone: false,
            log_start: state.log_start,
            high_watermark: state.log_start,
            durable: state.end.last,
            durable_end: state.end.next_offset,
            boundary: None,
            snapshot: None,
            invariants: Invariants::new(state.vote, applied, applied),
        }
    }

    fn take_snapshot(&mut self, log_id: Option<LogId>, next_offset: i64) -> SnapshotContents {
        let contents = SnapshotContents {
            log_id,
            membership: self.membership.clone(),
            next_offset,
            log_start: self.log_start,
        };
        self.snapshot = Some(contents.clone());
        contents
    }
}

/// Waits for a core's end. Of one that panicked nothing tells but that it reports no more.
pub(crate) async fn ended(core: &Core) {
    let mut metrics = core.metrics();
    while metrics.borrow_watched().running_state.is_ok() {
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Terms are refused above `i32::MAX` when a vote is saved.
fn epoch_of(term: u64) -> i32 {
    i32::try_from(term).unwrap_or(i32::MAX)
}
