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
    GroupState, Log, LogId, LogSlice, RecordBatch, ReplicaId, Vote,
    batch::crc32c,
    config::LogConfig,
    leader_epochs::end_offset_for,
    log::{EntryHead, Waiting},
    producer_state::ProducerState,
    retention::retention_start,
    wal::WalRecord,
};
use openraft::{Raft, StoredMembership, async_runtime::WatchReceiver};
use tokio::sync::{Notify, mpsc, oneshot};
use uuid::Uuid;

use crate::{
    ReplicationError,
    completion::{Acks, AppendResult, Appended, Completion, InFlightPlace, Ticket},
    entry::{Applied, Payload, Proposal, Responder, TypeConfig, to_raft},
    files::Files,
    flusher::{AfterDurable, Work},
    invariants::{Invariants, Violation},
    lane::Lane,
    lock,
    producers::{Admission, Producers, log_append_time},
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
                may_hold_zstd: false,
                aborted,
            });
        }
        let read = self.log().read(offset, max_bytes, at_least_one, end, waiting)?;
        Ok(ReadOutcome {
            offsets,
            slices: read.slices,
            bytes: read.bytes,
            would_wait: read.would_wait,
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
        self.log.store(Some(log));
        self.broken.store(false, Ordering::Release);
        Ok(())
    }

    pub(crate) fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// The log.
    ///
    /// # Panics
    /// For a partition that is offline since the start: it has no core that could ask.
    pub(crate) fn log(&self) -> Arc<Log> {
        self.log.load_full().expect("a partition without a log has no core and does not serve")
    }

    /// Writes derived files, unless the directory was given up.
    pub(crate) fn in_directory<T>(&self, write: impl FnOnce(&Log) -> T) -> Option<T> {
        let owns = lock(&self.owns_directory);
        owns.then(|| write(&self.log()))
    }

    /// Its files are about to go: from now on nothing is written into the directory, and nothing keeps its files open but
    /// readers that have begun.
    pub(crate) fn leave_directory(&self) {
        *lock(&self.owns_directory) = false;
        if let Some(log) = &*self.log.load() {
            log.close();
        }
    }

    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    pub(crate) fn now_ms(&self) -> i64 {
        (self.now)()
    }

    /// The handle of the core, as long as there is one.
    pub(crate) fn core(&self) -> Option<Core> {
        lock(&self.core).clone()
    }

    /// Where the group's core is from now on.
    pub(crate) fn attach(&self, core: Core) {
        *lock(&self.core) = Some(core);
    }

    /// Lets entries be applied with gaps between them.
    #[cfg(test)]
    pub(crate) fn allow_gaps(&self) {
        lock(&self.marks).invariants.gaps_allowed = true;
    }

    /// As if everything up to an entry were applied.
    #[cfg(test)]
    pub(crate) fn pretend_applied(&self, log_id: LogId) {
        lock(&self.marks).applied = Some(log_id);
    }

    /// The last saved vote.
    pub(crate) fn vote(&self) -> Option<Vote> {
        lock(&self.marks).vote
    }

    /// The last entry known to be committed.
    pub(crate) fn committed(&self) -> Option<LogId> {
        lock(&self.marks).committed
    }

    /// The last applied entry and the membership as of it.
    pub(crate) fn applied(&self) -> (Option<LogId>, Members) {
        let marks = lock(&self.marks);
        (marks.applied, marks.membership.clone())
    }

    /// For the checkpoint: the last applied entry and the log start.
    pub(crate) fn checkpoint_marks(&self) -> (Option<LogId>, i64) {
        let marks = lock(&self.marks);
        (marks.applied, marks.log_start)
    }

    /// A vote is about to be saved. One of another leadership ends ours, before anything of it is durable.
    pub(crate) fn vote_comes(&self, vote: Vote) -> Result<(), Violation> {
        let deposed = {
            let mut marks = lock(&self.marks);
            marks.invariants.vote(vote)?;
            let kept = marks.leading.is_some_and(|term| term == vote.term && vote.node == self.replica.0);
            marks.leading.is_some() && !kept
        };
        if deposed {
            self.leave(Role::Waiting);
        }
        Ok(())
    }

    /// A vote is durable.
    pub(crate) fn vote_saved(&self, vote: Vote) {
        let mut marks = lock(&self.marks);
        marks.vote = Some(vote);
        if vote.committed && vote.node == self.replica.0 && !marks.role.is_final() {
            marks.leading = Some(vote.term);
        }
    }

    /// A batch is in the log's memory: checks it, answers `acks=0`, and remembers who waits for the disk. `starts_segment`: it is
    /// the first of its segment, where apply writes the producers' state out.
    pub(crate) fn appended(
        &self,
        log_id: LogId,
        batch: &RecordBatch,
        starts_segment: bool,
        ticket: Option<Ticket>,
    ) -> Result<(), Violation> {
        if starts_segment && batch.base_offset() > 0 {
            lock(&self.segment_starts).push_back(batch.base_offset());
        }
        let log_start = {
            let mut marks = lock(&self.marks);
            marks.invariants.entry(log_id, batch.header().crc)?;
            marks.log_start
        };
        let Some(ticket) = ticket else { return Ok(()) };
        let appended = Appended {
            base_offset: batch.base_offset(),
            log_start,
            log_append_time: log_append_time(&batch.header()),
        };
        match ticket.acks() {
            Acks::None => ticket.succeed(appended),
            Acks::Leader | Acks::All => lock(&self.local).push_back((log_id.index, appended, ticket)),
        }
        Ok(())
    }

    /// A control entry is in the log's memory.
    pub(crate) fn appended_control(&self, log_id: LogId, payload: &[u8]) -> Result<(), Violation> {
        lock(&self.marks).invariants.entry(log_id, crc32c(payload))
    }

    /// Everything up to `last` is on this disk.
    pub(crate) fn durable(&self, last: LogId, next_offset: i64) {
        {
            let mut marks = lock(&self.marks);
            // a cut may have overtaken the answer of an append
            marks.durable = marks.durable.max(Some(last));
            marks.durable_end = marks.durable_end.max(next_offset);
        }
        let mut local = lock(&self.local);
        while local.front().is_some_and(|(index, ..)| *index <= last.index) {
            if let Some((_, appended, ticket)) = local.pop_front() {
                ticket.succeed(appended);
            }
        }
    }

    /// The log was cut behind `last`.
    pub(crate) fn cut(&self, last: Option<LogId>, next_offset: i64) {
        lock(&self.local).retain(|(index, ..)| last.is_some_and(|last| *index <= last.index));
        lock(&self.segment_starts).retain(|start| *start < next_offset);
        let mut marks = lock(&self.marks);
        marks.durable = last;
        marks.durable_end = next_offset;
    }

    /// openraft counts everything up to `committed` as committed.
    pub(crate) fn commit(&self, committed: Option<LogId>) -> Result<(), Violation> {
        let mut marks = lock(&self.marks);
        let durable = (marks.alone && marks.leading.is_some()).then_some(marks.durable);
        marks.invariants.commit(committed, durable)?;
        marks.committed = committed;
        Ok(())
    }

    /// Applies entries in order, moves the high watermark, and only then answers.
    pub(crate) fn apply(
        &self,
        entries: &mut Vec<(LogId, Payload)>,
        results: &mut Vec<Applied>,
    ) -> Result<(), Violation> {
        let now_ms = self.now_ms();
        let mut joined = Vec::new();
        let mut serves = false;
        {
            let mut marks = lock(&self.marks);
            let mut producers = None;
            for (log_id, payload) in entries.drain(..) {
                marks.invariants.apply(log_id)?;
                if let Some(control) = payload.encode_control() {
                    marks.invariants.entry(log_id, crc32c(&control))?;
                }
                marks.applied = Some(log_id);
                serves |= marks.leading == Some(log_id.term);
                results.push(match payload {
                    Payload::Blank => Applied::Nothing,
                    Payload::Membership(membership) => {
                        marks.alone = membership.voter_ids().all(|voter| voter == self.replica.0);
                        marks.membership = StoredMembership::new(Some(to_raft(log_id)), membership);
                        Applied::Nothing
                    }
                    Payload::Trim { log_start } => {
                        marks.log_start = marks.log_start.max(log_start.min(marks.high_watermark));
                        Applied::Trimmed(marks.log_start)
                    }
                    Payload::Batch { batch, .. } => self.apply_batch(
                        &mut marks,
                        log_id,
                        &batch.header(),
                        &mut producers,
                        &mut joined,
                        now_ms,
                    )?,
                    Payload::Head(header) => {
                        self.apply_batch(&mut marks, log_id, &header, &mut producers, &mut joined, now_ms)?
                    }
                });
            }
            Invariants::offsets(marks.log_start, marks.high_watermark, self.log().next_offset())?;
            self.log().set_log_start(marks.log_start);
            if let Some(applied) = marks.applied {
                self.log().applied(applied);
            }
            if serves && matches!(marks.role, Role::Waiting) {
                marks.role = Role::Serving;
                marks.epoch = marks.leading.map_or(marks.epoch, epoch_of);
            } else {
                serves = false;
            }
        }
        if serves {
            *lock(&self.submit) = self.core();
        }
        for (completion, appended) in joined {
            Completion::complete(completion, Ok(appended));
        }
        self.wake();
        Ok(())
    }

    fn apply_batch<'a>(
        &'a self,
        marks: &mut Marks,
        log_id: LogId,
        header: &log_store::BatchHeader,
        producers: &mut Option<std::sync::MutexGuard<'a, Producers>>,
        joined: &mut Vec<(Completion, Appended)>,
        now_ms: i64,
    ) -> Result<Applied, Violation> {
        marks.invariants.entry(log_id, header.crc)?;
        marks.high_watermark = header.next_offset();
        let appended = Appended {
            base_offset: header.base_offset,
            log_start: marks.log_start,
            log_append_time: log_append_time(header),
        };
        if lock(&self.segment_starts).pop_front_if(|start| *start <= header.base_offset).is_some() {
            let producers = producers.get_or_insert_with(|| lock(&self.producers));
            let directory = format!("{}-{}", self.topic, self.index);
            self.files.write_producer_snapshot(&directory, header.base_offset, producers.to_snapshot());
        }
        if header.has_producer() {
            let producers = producers.get_or_insert_with(|| lock(&self.producers));
            joined
                .extend(producers.apply(header, now_ms).into_iter().map(|completion| (completion, appended)));
        }
        Ok(Applied::Appended(appended))
    }

    /// Wakes the fetches that wait.
    fn wake(&self) {
        lock(&self.waiters).retain(|waiter| match waiter.upgrade() {
            Some(waiter) => {
                waiter.wake.notify_one();
                true
            }
            None => false,
        });
    }

    /// Stops serving: whoever waits is told, before any watermark moves.
    fn leave(&self, role: Role) {
        *lock(&self.submit) = None;
        let error = role.error().unwrap_or(ReplicationError::NotLeader);
        {
            let mut marks = lock(&self.marks);
            if marks.role.is_final() {
                return;
            }
            marks.role = role;
            marks.leading = None;
        }
        let local = std::mem::take(&mut *lock(&self.local));
        for (_, _, ticket) in local {
            ticket.fail(&error);
        }
        let joined = lock(&self.producers).lose_in_flight();
        for completion in joined {
            completion.complete(Err(error.clone()));
        }
        self.wake();
    }

    /// The group's storage failed or an invariant broke: the partition answers with the storage error from now on.
    pub(crate) fn fail(&self, reason: &str) {
        tracing::error!(partition = ?self, reason, "partition is offline");
        self.leave(Role::Failed(reason.to_owned()));
    }

    /// A write into a segment failed. Whatever the core still queues is dropped, and every answer with it.
    pub(crate) fn break_off(&self, reason: &str) {
        if self.broken.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(partition = ?self, reason, "a write failed: the partition stops, and starts again by itself");
        self.leave(Role::Broken(reason.to_owned()));
        if let Some(core) = self.core() {
            // whoever waits for it learns of it by the core's end
            self.lane.runtime().spawn(async move {
                let _ = core.shutdown().await;
            });
        }
    }

    /// Whether a write into a segment failed.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// The group is tried to be started again; whether there is need.
    pub(crate) fn revival_begins(&self) -> bool {
        self.reviving.store(false, Ordering::Release);
        self.is_broken()
    }

    /// The topic is gone.
    pub(crate) fn delete(&self) {
        self.leave(Role::Deleted);
    }

    /// The node is stopping.
    pub(crate) fn stop(&self) {
        self.leave(Role::Stopping);
    }

    /// Lets go of the core, for it to be shut down.
    pub(crate) fn detach(&self) -> Option<Core> {
        lock(&self.core).take()
    }

    /// Takes a snapshot at the boundary that was asked for. Without one there is none: openraft purges what a snapshot covers,
    /// and asks once for each of several releases at a time.
    pub(crate) fn take_snapshot(&self) -> Option<SnapshotContents> {
        let mut marks = lock(&self.marks);
        let Boundary { log_id, next_offset } = marks.boundary.take()?;
        let is_newer = marks.snapshot.as_ref().and_then(|snapshot| snapshot.log_id) < Some(log_id);
        // it tells one membership, which may have changed since the boundary was found
        let told = marks.membership.log_id().as_ref().is_some_and(|set_by| set_by.index <= log_id.index);
        (is_newer && told).then(|| marks.take_snapshot(Some(log_id), next_offset))
    }

    /// Takes a snapshot at the last applied entry. openraft insists on one at a start without a snapshot where the log was
    /// purged, which is only its storage suite: here each purge brings its snapshot along.
    pub(crate) fn take_snapshot_now(&self) -> SnapshotContents {
        let mut marks = lock(&self.marks);
        let (applied, high_watermark) = (marks.applied, marks.high_watermark);
        marks.take_snapshot(applied, high_watermark)
    }

    /// The last snapshot taken or installed.
    pub(crate) fn snapshot(&self) -> Option<SnapshotContents> {
        lock(&self.marks).snapshot.clone()
    }

    /// A leader's snapshot takes the place of everything up to its end.
    pub(crate) async fn install(&self, contents: SnapshotContents) -> std::io::Result<()> {
        let Some(last) = contents.log_id else { return Ok(()) };
        let replica = self.replica;
        let (sender, durable) = oneshot::channel();
        let snapshot = contents.encode();
        let work = if self.log().last_log_id().is_some_and(|end| end.index >= last.index) {
            // the log holds it already and goes on behind it
            Work::record(WalRecord::Snapshot { replica, snapshot }, AfterDurable::Tell(sender))
        } else {
            let next_offset = contents.next_offset;
            let files = self.log().install(last, next_offset).map_err(std::io::Error::other)?;
            Work::record(
                WalRecord::Installed { replica, log_id: last, snapshot, next_offset },
                AfterDurable::Remove(files, sender),
            )
        };
        self.lane.push(work);
        durable.await.map_err(|_| std::io::Error::other("the flusher stopped"))?;
        self.installed(contents);
        Ok(())
    }

    fn installed(&self, contents: SnapshotContents) {
        let mut marks = lock(&self.marks);
        marks.applied = contents.log_id;
        marks.committed = marks.committed.max(contents.log_id);
        marks.membership = contents.membership.clone();
        marks.log_start = marks.log_start.max(contents.log_start);
        marks.high_watermark = marks.high_watermark.max(contents.next_offset);
        marks.invariants.installed(contents.log_id);
        marks.snapshot = Some(contents);
    }
}

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

fn damaged(error: std::io::Error) -> ReplicationError {
    ReplicationError::Storage(error.to_string())
}
