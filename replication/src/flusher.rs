//! The flusher: turns what all groups of the node queued into rounds of the write-ahead log, and rounds into callbacks.
//!
//! ```text
//!   lanes ──submit──> queue ──> gather: write batches into their segments, encode the round      (<= 8 MiB)
//!                                 │
//!                                 v  only when the round before is durable
//!                               write the round, sync it, fold its records into the shadow, callbacks in order
//! ```
//!
//! Two threads take turns: one gathers round k+1 while the other syncs round k, and who has gathered a round goes on to
//! sync it. So a single batch on an idle node costs one wake, and a busy node never waits for a thread to be handed
//! something. Segment bytes are written before the round, but only into the page cache: until its round is durable
//! nothing of it is promised. Where a round has much for a segment, that is synced first, and the round names it instead
//! of holding it: what a busy node gets in large batches goes to the disk once, see `placing`. A round waits a moment for
//! the producers that the round before answered, see `queue`.
//!
//! The *shadow* is the durable state of every group as of the last complete round; a checkpoint is the shadow written
//! out, with what the running partitions know of commits, never above its own end (durability rule 4).
//!
//! The first error of a sync, or of a write to the write-ahead log or the checkpoint, is final: the process aborts, and
//! recovery decides at the next start what was promised (durability rule 6). An error of a write into a segment stops that
//! group alone.

mod placing;
mod queue;

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use log_store::{
    GroupState, GroupStates, LogId, LogStoreError, ReplicaId, Segment,
    checkpoint::DamagedGroup,
    disk::Disk,
    log::{QueuedWrite, write_to_segments},
    wal::{RoundBuilder, WalRecord, WalWriter},
};
use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use crate::{
    Partition,
    entry::TypeConfig,
    files::{Files, Job},
    lane::Lane,
    lock,
    space::Space,
    wait, wait_for,
};

pub(crate) use self::queue::{AfterDurable, Queue, Work};
use self::{
    placing::{LARGE_BATCH, SegmentSyncer, Synced},
    queue::{Kind, RECORD_BYTES, write_bytes},
};

/// Bytes that recovery would have to look at, at which a node that is not busy writes a checkpoint, however large its ring.
const CHECKPOINT_AFTER: u64 = 256 << 20;

/// So long after a file of the ring or a checkpoint could not be made the next one is tried.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What is told on the lane once a round is durable.
pub(crate) enum Finished {
    /// All appends of a group in the round: openraft's callback is a watermark, so the last one says it all.
    Appended {
        partition: Arc<Partition>,
        last: LogId,
        next_offset: i64,
        callback: Option<IOFlushed<TypeConfig>>,
    },
    /// Somebody waits.
    Tell(oneshot::Sender<()>),
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Appended { partition, last, .. } => write!(f, "{partition:?} up to {last:?}"),
            Self::Tell(_) => f.write_str("a record"),
        }
    }
}

impl Finished {
    /// Stands for an earlier one of the same group, too: a part of an append has no callback of its own.
    fn inherit(&mut self, before: Self) {
        if let (Self::Appended { callback: callback @ None, .. }, Self::Appended { callback: earlier, .. }) =
            (self, before)
        {
            *callback = earlier;
        }
    }

    pub(crate) fn complete(self) {
        match self {
            Self::Appended { partition, last, next_offset, callback } => {
                let told = partition.durable(last, next_offset).map_err(|violation| {
                    partition.fail(&violation.to_string());
                    io::Error::other(violation)
                });
                if let Some(callback) = callback {
                    callback.io_completed(told);
                }
            }
            // whoever waited may be gone
            Self::Tell(sender) => _ = sender.send(()),
        }
    }
}

/// The write-ahead log and what is durable in it; one thread at a time has it.
struct Durable {
    wal: WalWriter,
    shadow: GroupStates,
    /// Replicas with entries since the last checkpoint.
    touched: HashSet<ReplicaId>,
    checkpointing: bool,
    /// The last checkpoint found a full disk: none is begun before.
    checkpoint_after: Option<Duration>,
    /// The last file for the ring could not be made: none is asked for before.
    grow_after: Option<Duration>,
}

/// What a node's flusher is made of.
pub(crate) struct FlusherSetup {
    pub(crate) wal: WalWriter,
    pub(crate) states: GroupStates,
    /// Groups that recovery could not read.
    pub(crate) damaged: Vec<DamagedGroup>,
    /// Segments with what recovery left in the rounds, and the replicas of which those tell.
    pub(crate) dirty: Vec<Arc<Segment>>,
    pub(crate) touched: HashSet<ReplicaId>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) data_dir: PathBuf,
    pub(crate) space: Arc<Space>,
    pub(crate) monotonic: Arc<dyn Fn() -> Duration + Send + Sync>,
    pub(crate) synced: Arc<dyn Fn(Duration) + Send + Sync>,
    pub(crate) faults: Faults,
}

/// What is done on an error after which nothing may be acknowledged; never returns in a server.
pub(crate) type Fatal = Arc<dyn Fn(&LogStoreError) + Send + Sync>;

/// Held by a thread without which nothing would be answered any more: its panic is final, too.
pub(crate) struct Indispensable(pub(crate) Fatal);

impl Drop for Indispensable {
    fn drop(&mut self) {
        let thread = std::thread::current();
        if std::thread::panicking() {
            let name = thread.name().unwrap_or_default();
            (self.0)(&LogStoreError::io("run", name)(std::io::Error::other("the thread panicked")));
        }
    }
}

/// What becomes of errors that are final, and which bug a test planted.
#[derive(Clone)]
pub(crate) struct Faults {
    pub(crate) fatal: Fatal,
    #[cfg(test)]
    pub(crate) mutation: Mutation,
}

impl Faults {
    /// The first error that is final calls `fatal`.
    pub(crate) fn new(fatal: Fatal) -> Self {
        Self {
            fatal,
            #[cfg(test)]
            mutation: Mutation::None,
        }
    }
}

/// A bug that a test plants, to see that it is found: one for each durability rule that is kept here.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    None,
    AnswerBeforeSync,
    AnswersOutOfOrder,
    RoundBeforeRound,
    RoundBeforeItsSegments,
    VotePastTheQueue,
    InstalledBeforeItsRound,
    FileCutBeforeItsRecord,
    CheckpointUnclamped,
    PurgedBeyondEnd,
    UnlinkedBeforePurge,
    MovedAsideBeforeDropped,
    InstalledBeforeFilesAreGone,
    ErrorSpreads,
    FailedSyncIgnored,
    CheckpointBeforeSegments,
    ReleaseBeforeCheckpoint,
}

/// The flusher of a node.
pub(crate) struct Flusher {
    queue: Arc<Queue>,
    durable: Mutex<Durable>,
    /// A file of the ring was made, or a checkpoint set some free.
    room: Condvar,
    lanes: Mutex<Vec<Arc<Lane>>>,
    partitions: Mutex<HashMap<ReplicaId, Arc<Partition>>>,
    files: Arc<Files>,
    space: Arc<Space>,
    monotonic: Arc<dyn Fn() -> Duration + Send + Sync>,
    synced: Arc<dyn Fn(Duration) + Send + Sync>,
    faults: Faults,
    round_bytes: usize,
    max_record_bytes: usize,
    segment_syncer: SegmentSyncer,
    rounds: AtomicU64,
    round_total_bytes: AtomicU64,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Rounds that a mutant wrote and did not sync yet.
    #[cfg(test)]
    overtaken: Mutex<Vec<Round>>,
    /// What a mutant keeps back.
    #[cfg(test)]
    late: Mutex<Option<Finished>>,
}

impl fmt::Debug for Flusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flusher").field("queue", &self.queue).finish_non_exhaustive()
    }
}

/// Counters of the flusher since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlusherStats {
    /// Rounds written and synced.
    pub rounds: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes queued and not yet durable.
    pub queued_bytes: u64,
}

/// A round under construction.
struct Round {
    builder: RoundBuilder,
    records: Vec<WalRecord>,
    /// Records behind these, from the first large batch on, with the segment of each batch: encoded when the round is written.
    deferred: Vec<(WalRecord, Option<Arc<Segment>>)>,
    finished: Vec<(usize, Finished)>,
    /// The entry of `finished` that answers a group's appends.
    answers: HashMap<ReplicaId, usize>,
    after: Vec<(usize, AfterDurable)>,
    /// What syncing the segments took whose batches it names.
    placing: Duration,
}

impl Round {
    fn new(builder: RoundBuilder) -> Self {
        Self {
            builder,
            records: Vec::new(),
            deferred: Vec::new(),
            finished: Vec::new(),
            answers: HashMap::new(),
            after: Vec::new(),
            placing: Duration::ZERO,
        }
    }

    /// Adds a record, and the segment of a batch.
    fn add(&mut self, record: WalRecord, segment: Option<&Arc<Segment>>) {
        let is_large = matches!(&record, WalRecord::Batch { batch, .. } if batch.size() >= LARGE_BATCH);
        if is_large || !self.deferred.is_empty() {
            self.deferred.push((record, segment.cloned()));
        } else {
            self.encode(record);
        }
    }

    fn encode(&mut self, record: WalRecord) {
        self.builder.push(&record);
        self.records.push(record);
    }
}

impl Flusher {
    /// Starts the threads.
    pub(crate) fn start(setup: FlusherSetup) -> std::io::Result<Arc<Self>> {
        let FlusherSetup {
            wal,
            states,
            damaged,
            dirty,
            touched,
            disk,
            data_dir,
            space,
            monotonic,
            synced,
            faults,
        } = setup;
        let options = wal.options();
        let (round_bytes, max_record_bytes) = (options.round_bytes(), options.max_record_bytes());
        let segment_syncer = SegmentSyncer::new(Arc::clone(&faults.fatal));
        let flusher = Arc::new(Self {
            queue: Arc::default(),
            durable: Mutex::new(Durable {
                wal,
                shadow: states,
                touched,
                checkpointing: false,
                checkpoint_after: None,
                grow_after: None,
            }),
            room: Condvar::new(),
            lanes: Mutex::default(),
            partitions: Mutex::default(),
            files: Files::start(disk, data_dir, damaged, Arc::clone(&faults.fatal))?,
            space,
            monotonic,
            synced,
            faults,
            round_bytes,
            max_record_bytes,
            segment_syncer,
            rounds: AtomicU64::new(0),
            round_total_bytes: AtomicU64::new(0),
            threads: Mutex::default(),
            #[cfg(test)]
            overtaken: Mutex::default(),
            #[cfg(test)]
            late: Mutex::default(),
        });
        #[cfg(test)]
        if flusher.faults.mutation == Mutation::CheckpointBeforeSegments {
            flusher.files.write_checkpoints_first();
        }
        flusher.files.wrote(dirty, 0);
        let this = Arc::downgrade(&flusher);
        flusher.files.when_rested(move || {
            if let Some(this) = this.upgrade().filter(|this| !this.is_ending()) {
                this.make_room(&mut lock(&this.durable));
            }
        });
        for number in 0..2 {
            let this = Arc::clone(&flusher);
            let thread =
                std::thread::Builder::new().name(format!("flusher-{number}")).spawn(move || this.run())?;
            lock(&flusher.threads).push(thread);
        }
        Ok(flusher)
    }

    /// The threads that work on files.
    pub(crate) fn files(&self) -> &Arc<Files> {
        &self.files
    }

    /// The queue, for a new lane.
    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// The largest batch whose record fits into a file of the ring.
    pub(crate) fn max_batch_bytes(&self) -> usize {
        self.max_record_bytes - RECORD_BYTES
    }

    /// Adds a lane; its work carries the number returned.
    pub(crate) fn add_lane(&self, make: impl FnOnce(usize) -> Arc<Lane>) -> Arc<Lane> {
        let mut lanes = lock(&self.lanes);
        let lane = make(lanes.len());
        lanes.push(Arc::clone(&lane));
        lane
    }

    /// Partitions tell the checkpoint what is committed.
    pub(crate) fn add_partition(&self, partition: &Arc<Partition>) {
        lock(&self.partitions).insert(partition.replica(), Arc::clone(partition));
    }

    /// The state of a replica as of the last durable round.
    pub(crate) fn durable_state(&self, replica: ReplicaId) -> Option<GroupState> {
        lock(&self.durable).shadow.get(replica).cloned()
    }

    /// The partition is gone.
    pub(crate) fn remove_partition(&self, replica: ReplicaId) {
        lock(&self.partitions).remove(&replica);
    }

    /// Counters.
    pub(crate) fn stats(&self) -> FlusherStats {
        FlusherStats {
            rounds: self.rounds.load(Ordering::Relaxed),
            bytes: self.round_total_bytes.load(Ordering::Relaxed),
            queued_bytes: self.queue.queued_bytes(),
        }
    }

    /// Makes what is queued durable, writes a checkpoint, and ends the threads.
    pub(crate) fn stop(self: &Arc<Self>) {
        self.queue.stop();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            // a thread that panicked has said so
            let _ = thread.join();
        }
        if self.queue.is_ended() {
            self.files.stop();
            return;
        }
        // one that runs is finished first, then the one of the stop
        let mut durable = lock(&self.durable);
        durable = self.checkpointed(durable);
        self.begin_checkpoint(&mut durable, false);
        drop(self.checkpointed(durable));
        self.files.stop();
    }

    /// Waits for the checkpoint that is under way, if there is one.
    fn checkpointed<'a>(&'a self, mut durable: MutexGuard<'a, Durable>) -> MutexGuard<'a, Durable> {
        while durable.checkpointing {
            self.files.hurry(true);
            durable = wait(&self.room, durable);
        }
        self.files.hurry(false);
        durable
    }

    /// Ends at once, as a killed process does: what is queued is lost, and nothing is checkpointed.
    #[cfg(test)]
    pub(crate) fn abandon(&self) {
        self.queue.end();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            thread.join().unwrap();
        }
        self.files.stop();
        for lane in lock(&self.lanes).iter() {
            lane.forget();
        }
        lock(&self.partitions).clear();
    }

    fn run(self: Arc<Self>) {
        let _indispensable = Indispensable(Arc::clone(&self.faults.fatal));
        let mut round = Round::new(lock(&self.durable).wal.builder());
        while let Some(gathered) = self.queue.gather(self.round_bytes, |work| self.encode(work, &mut round)) {
            let begun = Instant::now();
            match self.sync(&mut round) {
                Ok(true) => self.queue.synced(&gathered, begun.elapsed()),
                result => {
                    self.queue.end();
                    if let Err(error) = result {
                        (self.faults.fatal)(&error);
                    }
                    return;
                }
            }
        }
    }

    /// Writes batches into their segments and encodes everything into the round, in the order in which it was queued.
    fn encode(&self, work: Vec<Work>, round: &mut Round) {
        let mut groups: Vec<(Arc<Partition>, Vec<QueuedWrite>)> = Vec::new();
        let mut at: HashMap<ReplicaId, usize> = HashMap::new();
        let mut ranges = Vec::with_capacity(work.len());
        let mut kinds = Vec::with_capacity(work.len());
        for Work { lane, kind, .. } in work {
            match kind {
                Kind::Append { partition, writes, last, next_offset, callback } => {
                    let group = *at.entry(partition.replica()).or_insert_with(|| {
                        groups.push((Arc::clone(&partition), Vec::new()));
                        groups.len() - 1
                    });
                    let all = &mut groups[group].1;
                    let start = all.len();
                    all.extend(writes);
                    ranges.push((group, start..all.len()));
                    kinds.push((
                        lane,
                        Step::Append(Finished::Appended { partition, last, next_offset, callback }),
                    ));
                }
                Kind::Record { record, after } => {
                    ranges.push((0, 0..0));
                    kinds.push((lane, Step::Record(record, after)));
                }
                Kind::Barrier(sender) => round.after.push((lane, AfterDurable::Tell(sender))),
            }
        }
        let failed = self.write_segments(&groups);
        for ((lane, step), (group, range)) in kinds.into_iter().zip(ranges) {
            match step {
                // its group is stopped; what it queued is dropped, and with it every answer
                Step::Append(_) if failed.contains(&group) => {}
                Step::Append(finished) => {
                    let (partition, writes) = &groups[group];
                    for write in &writes[range] {
                        let segment = match write {
                            QueuedWrite::Batch { segment, .. } => Some(segment),
                            QueuedWrite::Control { .. } => None,
                        };
                        round.add(wal_record(partition.replica(), write), segment);
                    }
                    match round.answers.get(&partition.replica()) {
                        Some(answer) => {
                            let (_, before) =
                                std::mem::replace(&mut round.finished[*answer], (lane, finished));
                            round.finished[*answer].1.inherit(before);
                        }
                        None => {
                            round.answers.insert(partition.replica(), round.finished.len());
                            round.finished.push((lane, finished));
                        }
                    }
                }
                Step::Record(record, after) => {
                    round.add(record, None);
                    #[cfg(test)]
                    let after = self.plant(lane, after);
                    round.after.push((lane, after));
                }
            }
        }
    }

    /// Writes the batches of each group into its segments; returns the groups that could not be written.
    fn write_segments(&self, groups: &[(Arc<Partition>, Vec<QueuedWrite>)]) -> Vec<usize> {
        let mut failed = Vec::new();
        let mut dirty = Vec::new();
        let mut bytes = 0;
        for (number, (partition, writes)) in groups.iter().enumerate() {
            if partition.is_broken() {
                failed.push(number);
                continue;
            }
            if let Err(error) = write_to_segments(writes, &mut dirty) {
                self.stop_group(partition, &error);
                failed.push(number);
                #[cfg(test)]
                if self.faults.mutation == Mutation::ErrorSpreads {
                    failed.extend(0..groups.len());
                }
                continue;
            }
            let last = writes.last().map(|write| match write {
                QueuedWrite::Control { log_id, .. } | QueuedWrite::Batch { log_id, .. } => log_id.index,
            });
            if let Some(last) = last {
                partition.log().written(last);
            }
            if partition.log().has_rolled() {
                self.files.add(Job::FinishRolled(Arc::clone(partition)));
            }
            bytes += writes.iter().map(write_bytes).sum::<usize>() as u64;
        }
        self.files.wrote(dirty, bytes);
        self.space.wrote(bytes);
        failed
    }

    /// A write into a segment failed: this group alone stops.
    fn stop_group(&self, partition: &Arc<Partition>, error: &LogStoreError) {
        if error.is_out_of_space() {
            self.space.met_full_disk();
        }
        partition.break_off(&error.to_string());
    }

    /// Encodes what the round defers: syncs segments for which it has enough, and names what lies in them.
    fn place(&self, round: &mut Round) -> Result<(), LogStoreError> {
        if round.deferred.is_empty() {
            return Ok(());
        }
        let segments = self.segment_syncer.choose(&round.deferred);
        let begun = (self.monotonic)();
        let placed = self.sync_placed(&segments)?;
        round.placing = (self.monotonic)().saturating_sub(begun);
        for (record, segment) in std::mem::take(&mut round.deferred) {
            let is_placed = segment.is_some_and(|segment| placed.contains(&Arc::as_ptr(&segment)));
            round.encode(if is_placed { record.placed() } else { record });
        }
        Ok(())
    }

    /// Syncs segments that a round is going to name; those of which it may.
    fn sync_placed(&self, segments: &[Arc<Segment>]) -> Result<HashSet<*const Segment>, LogStoreError> {
        if segments.is_empty() {
            return Ok(HashSet::new());
        }
        #[cfg(test)]
        if self.faults.mutation == Mutation::RoundBeforeItsSegments {
            return Ok(segments.iter().map(Arc::as_ptr).collect());
        }
        let mut placed = HashSet::new();
        for Synced { at, stays, took } in self.segment_syncer.sync(segments)? {
            (self.synced)(took);
            if stays? {
                placed.insert(Arc::as_ptr(&segments[at]));
            }
        }
        Ok(placed)
    }

    /// Writes and syncs the round, then says so, in order. `false`: the node stops, and there is no room for it.
    fn sync(self: &Arc<Self>, round: &mut Round) -> Result<bool, LogStoreError> {
        self.place(round)?;
        #[cfg(test)]
        if self.faults.mutation == Mutation::AnswerBeforeSync {
            self.answer(round);
        }
        #[cfg(test)]
        if self.faults.mutation == Mutation::FailedSyncIgnored {
            let _ = self.write(round);
            self.answer(round);
            return Ok(true);
        }
        #[cfg(test)]
        if self.faults.mutation == Mutation::RoundBeforeRound {
            return self.sync_late(round).map(|()| true);
        }
        let written = self.write(round)?;
        if written {
            self.answer(round);
        }
        Ok(written)
    }

    /// The bug: writes the round, and as long as more is queued leaves its sync to the round behind it.
    #[cfg(test)]
    fn sync_late(self: &Arc<Self>, round: &mut Round) -> Result<(), LogStoreError> {
        let mut durable = lock(&self.durable);
        while !durable.wal.has_room(round.builder.padded_len()) {
            self.make_room(&mut durable);
            durable = wait(&self.room, durable);
        }
        durable.wal.write_overtaking(&mut round.builder)?;
        let written = std::mem::replace(round, Round::new(durable.wal.builder()));
        lock(&self.overtaken).push(written);
        if !self.queue.is_empty() {
            return Ok(());
        }
        durable.wal.sync()?;
        for mut written in std::mem::take(&mut *lock(&self.overtaken)) {
            for record in written.records.drain(..) {
                durable.touched.insert(record.replica());
                durable.shadow.fold(&record)?;
            }
            self.answer(&mut written);
        }
        self.make_room(&mut durable);
        Ok(())
    }

    /// Whether a checkpoint is under way.
    #[cfg(test)]
    pub(crate) fn is_checkpointing(&self) -> bool {
        lock(&self.durable).checkpointing
    }

    /// Whether a round of so many bytes has to wait for a checkpoint, once the ring is whole.
    #[cfg(test)]
    pub(crate) fn is_full(&self, bytes: usize) -> bool {
        !lock(&self.durable).wal.has_room(bytes)
    }

    /// Makes the round durable and folds its records into the shadow. `false`: the node stops, and there is no room for it.
    fn write(self: &Arc<Self>, round: &mut Round) -> Result<bool, LogStoreError> {
        if round.builder.is_empty() {
            return Ok(true);
        }
        let mut durable = lock(&self.durable);
        let bytes = round.builder.padded_len();
        let mut waited = false;
        while !durable.wal.has_room(bytes) {
            self.make_room(&mut durable);
            let wal = &durable.wal;
            if !wal.is_growing() && wal.has_full_file() && self.may_checkpoint(&durable) {
                // the ring does not grow, and only a checkpoint gives a file of it back, due or not
                self.begin_checkpoint(&mut durable, false);
            }
            if durable.checkpoint_after.is_some() && self.queue.is_stopping() {
                // the disk is full: what waits was never acknowledged
                return Ok(false);
            }
            self.files.hurry(true);
            waited = true;
            // whatever makes room says so; where nothing is under way, growing is tried again
            durable = wait_for(&self.room, durable, TRY_AGAIN);
        }
        if waited {
            self.files.hurry(false);
        }
        let whole_bytes = bytes as u64 + round.builder.placed_bytes();
        let begun = (self.monotonic)();
        durable.wal.write(&mut round.builder)?;
        let written = (self.monotonic)();
        durable.wal.sync()?;
        let synced = (self.monotonic)();
        (self.synced)(synced.saturating_sub(written));
        let took = synced.saturating_sub(begun) + std::mem::take(&mut round.placing);
        self.segment_syncer.note_round(whole_bytes, took);
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.round_total_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        for record in round.records.drain(..) {
            durable.touched.insert(record.replica());
            durable.shadow.fold(&record)?;
        }
        self.make_room(&mut durable);
        Ok(true)
    }

    /// The round is durable: does what had to wait for it, and tells the lanes.
    fn answer(&self, round: &mut Round) {
        let lanes = lock(&self.lanes).clone();
        let mut told: Vec<Vec<Finished>> = lanes.iter().map(|_| Vec::new()).collect();
        for (lane, finished) in round.finished.drain(..) {
            if let Finished::Appended { partition, last, .. } = &finished {
                partition.log().durable(*last);
            }
            #[cfg(test)]
            let Some(finished) = self.plant_late(lane, finished, &mut told) else { continue };
            told[lane].push(finished);
        }
        round.answers.clear();
        for (lane, after) in round.after.drain(..) {
            match after {
                AfterDurable::Nothing => {}
                AfterDurable::Tell(sender) => told[lane].push(Finished::Tell(sender)),
                AfterDurable::CutFiles(partition, sender) => {
                    let mut dirty = Vec::new();
                    match partition.log().cut_files(&mut dirty) {
                        Ok(()) => told[lane].push(Finished::Tell(sender)),
                        // the sender is dropped, which ends the core
                        Err(error) => partition.break_off(&error.to_string()),
                    }
                    self.files.wrote(dirty, 0);
                }
                AfterDurable::Remove(files, sender) => {
                    self.files.remove(&files);
                    told[lane].push(Finished::Tell(sender));
                }
                AfterDurable::Unlink(files) => self.files.add(Job::Unlink(files)),
                AfterDurable::Then(action) => self.files.add(Job::Run(action)),
            }
        }
        for (lane, mut finished) in lanes.iter().zip(told) {
            if !finished.is_empty() {
                lane.finish(&mut finished);
            }
        }
    }

    /// Keeps an answer back until the one behind it was given.
    #[cfg(test)]
    fn plant_late(&self, lane: usize, finished: Finished, told: &mut [Vec<Finished>]) -> Option<Finished> {
        let is_ours = match &finished {
            Finished::Appended { partition, .. } => {
                &**partition.topic() == "orders" && partition.offsets().is_ok()
            }
            Finished::Tell(_) => false,
        };
        if self.faults.mutation != Mutation::AnswersOutOfOrder || !is_ours {
            return Some(finished);
        }
        let mut late = lock(&self.late);
        let Some(earlier) = late.take() else {
            *late = Some(finished);
            return None;
        };
        told[lane].push(finished);
        Some(earlier)
    }

    /// Does at once what should wait for the round.
    #[cfg(test)]
    fn plant(&self, lane: usize, after: AfterDurable) -> AfterDurable {
        match (self.faults.mutation, after) {
            (Mutation::VotePastTheQueue, AfterDurable::Tell(sender)) => {
                lock(&self.lanes)[lane].finish(&mut vec![Finished::Tell(sender)]);
                AfterDurable::Nothing
            }
            (Mutation::FileCutBeforeItsRecord, AfterDurable::CutFiles(partition, sender)) => {
                partition.log().cut_files(&mut Vec::new()).unwrap();
                AfterDurable::Tell(sender)
            }
            (Mutation::UnlinkedBeforePurge, AfterDurable::Unlink(files)) => {
                self.files.remove(&files);
                AfterDurable::Nothing
            }
            (Mutation::MovedAsideBeforeDropped, AfterDurable::Then(action)) => {
                self.files.add(Job::Run(action));
                AfterDurable::Nothing
            }
            (Mutation::InstalledBeforeFilesAreGone, AfterDurable::Remove(_, sender)) => {
                AfterDurable::Tell(sender)
            }
            (Mutation::InstalledBeforeItsRound, AfterDurable::Remove(files, sender)) => {
                lock(&self.lanes)[lane].finish(&mut vec![Finished::Tell(sender)]);
                AfterDurable::Remove(files, oneshot::channel().0)
            }
            (_, after) => after,
        }
    }

    /// Has the next file of the ring made, and a checkpoint written, when they are due.
    fn make_room(self: &Arc<Self>, durable: &mut Durable) {
        let may_grow = durable.grow_after.is_none_or(|after| (self.monotonic)() >= after);
        // its zeros wait for a calm moment, too
        let whole = !durable.wal.is_whole()
            && !durable.wal.is_growing()
            && self.files.rests_from_a_burst()
            && self.space.is_ample();
        if may_grow && let Some(file) = durable.wal.next_file(whole) {
            let this = Arc::clone(self);
            let making = self.files.make_wal_file(file, move |made| {
                let mut durable = lock(&this.durable);
                match made {
                    Ok(file) => {
                        durable.grow_after = None;
                        durable.wal.add(Some(file));
                        if !this.is_ending() {
                            this.make_room(&mut durable);
                        }
                    }
                    Err(error) => this.not_grown(&mut durable, &error),
                }
                this.room.notify_all();
            });
            if let Err(error) = making {
                self.not_grown(durable, &error);
            }
        }
        let much = durable.wal.uncovered_bytes() >= CHECKPOINT_AFTER && !self.files.is_busy();
        if (much || durable.wal.checkpoint_due()) && self.may_checkpoint(durable) {
            let large = durable.wal.uncovered_bytes() >= 2 * CHECKPOINT_AFTER;
            self.begin_checkpoint(durable, large);
        }
    }

    /// Whether nothing is begun any more.
    fn is_ending(&self) -> bool {
        self.queue.is_stopping() || self.queue.is_ended()
    }

    fn may_checkpoint(&self, durable: &Durable) -> bool {
        !durable.checkpointing && durable.checkpoint_after.is_none_or(|after| (self.monotonic)() >= after)
    }

    /// The ring has to do with the files it has for now. Said once: a full disk stays full for a while.
    fn not_grown(&self, durable: &mut Durable, error: &dyn fmt::Display) {
        durable.wal.add(None);
        if durable.grow_after.is_none() {
            tracing::warn!(%error, "no further file of the write-ahead log could be made, the ring stays smaller until one can");
        }
        durable.grow_after = Some((self.monotonic)() + TRY_AGAIN);
    }

    /// The partitions are open: has a checkpoint written of what recovery left in the rounds, soon, for until it is there each
    /// start has the same to do.
    pub(crate) fn cover_recovered(self: &Arc<Self>) {
        let mut durable = lock(&self.durable);
        if self.may_checkpoint(&durable) {
            self.begin_checkpoint(&mut durable, true);
        }
    }

    /// Captures the state as of the last complete round and has it written out, `soon` or at the usual pace.
    fn begin_checkpoint(self: &Arc<Self>, durable: &mut Durable, soon: bool) {
        durable.checkpointing = true;
        let position = durable.wal.position();
        let salt = durable.wal.salt();
        let mut states = durable.shadow.clone();
        let mut touched = Vec::new();
        {
            let partitions = lock(&self.partitions);
            for state in states.iter_mut() {
                if let Some(partition) = partitions.get(&state.replica) {
                    let (committed, log_start) = partition.checkpoint_marks();
                    #[cfg(test)]
                    if self.faults.mutation == Mutation::CheckpointUnclamped {
                        state.committed = committed;
                        continue;
                    }
                    state.clamp(committed, log_start);
                }
            }
            for replica in durable.touched.drain() {
                touched.extend(partitions.get(&replica).cloned());
            }
        }
        #[cfg(test)]
        if self.faults.mutation == Mutation::ReleaseBeforeCheckpoint {
            durable.wal.release(position.round);
        }
        let this = Arc::clone(self);
        self.files.checkpoint(salt, position, states, touched, soon, move |written| {
            let mut durable = lock(&this.durable);
            durable.checkpointing = false;
            durable.checkpoint_after = (!written).then(|| (this.monotonic)() + TRY_AGAIN);
            match written {
                true => {
                    durable.wal.release(position.round);
                    if !this.is_ending() {
                        // what was written meanwhile may be much, too, and the node may rest by now
                        this.make_room(&mut durable);
                    }
                }
                // also where the system does not say it: a quota
                false => this.space.met_full_disk(),
            }
            this.room.notify_all();
        });
    }
}

enum Step {
    Append(Finished),
    Record(WalRecord, AfterDurable),
}

fn wal_record(replica: ReplicaId, write: &QueuedWrite) -> WalRecord {
    match write {
        QueuedWrite::Control { log_id, offset, payload } => {
            WalRecord::Control { replica, log_id: *log_id, offset: *offset, payload: payload.clone() }
        }
        QueuedWrite::Batch { log_id, segment, position, batch } => WalRecord::Batch {
            replica,
            index: log_id.index,
            segment: segment.base_offset(),
            position: *position,
            batch: batch.clone(),
        },
    }
}
