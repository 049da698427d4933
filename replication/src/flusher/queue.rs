//! The queue of the flusher: what groups hand over, and when a round of it is full enough to be synced.
//!
//! One thread at a time is the gatherer; it takes work off the queue until the round before is durable and its own round
//! has what it waits for, see `Pace`. The other one syncs, or rests until there is nobody who gathers.

use std::{
    collections::VecDeque,
    fmt,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use log_store::{LogId, log::QueuedWrite, wal::WalRecord};
use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use crate::{Partition, entry::TypeConfig, files::DiskWork, lock, wait, wait_for};

/// What a group hands over.
pub(crate) struct Work {
    pub(super) lane: usize,
    bytes: usize,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Append {
        partition: Arc<Partition>,
        writes: Vec<QueuedWrite>,
        last: LogId,
        next_offset: i64,
        /// Comes with the last entry; one that is durable says so of all before it.
        callback: Option<IOFlushed<TypeConfig>>,
    },
    Record {
        record: WalRecord,
        after: AfterDurable,
    },
    /// Nothing but a place in the queue.
    Barrier(oneshot::Sender<()>),
}

/// What is done once a record is durable.
pub(crate) enum AfterDurable {
    /// Nothing.
    Nothing,
    /// Somebody waits for it.
    Tell(oneshot::Sender<()>),
    /// The files are cut to the log's end, unsynced, before it counts as done (durability rule 3).
    CutFiles(Arc<Partition>, oneshot::Sender<()>),
    /// Files go before it counts as done: the next append may use their names again (durability rule 5).
    Remove(Vec<PathBuf>, oneshot::Sender<()>),
    /// A worker unlinks the files, listed when the record was queued (durability rule 5).
    Unlink(Vec<PathBuf>),
    /// A worker does this.
    Then(DiskWork),
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Append { partition, last, .. } => write!(f, "append to {partition:?} up to {last:?}"),
            Kind::Record { record, .. } => write!(f, "{record:?}"),
            Kind::Barrier(_) => f.write_str("a barrier"),
        }
    }
}

impl Work {
    /// Entries that are in the log's memory.
    pub(crate) fn append(
        partition: Arc<Partition>,
        writes: Vec<QueuedWrite>,
        last: LogId,
        next_offset: i64,
        callback: IOFlushed<TypeConfig>,
    ) -> Self {
        let bytes = writes.iter().map(write_bytes).sum();
        let callback = Some(callback);
        Self { lane: 0, bytes, kind: Kind::Append { partition, writes, last, next_offset, callback } }
    }

    /// Takes entries off the front, at least one, where all of them (openraft makes one append of many) are more than a
    /// round takes.
    fn split_off_front(&mut self, round_bytes: usize) -> Option<Self> {
        let Kind::Append { partition, writes, .. } = &mut self.kind else { return None };
        if self.bytes <= round_bytes || writes.len() < 2 {
            return None;
        }
        let mut bytes = write_bytes(&writes[0]);
        let mut count = 1;
        while count < writes.len() - 1 && bytes + write_bytes(&writes[count]) <= round_bytes {
            bytes += write_bytes(&writes[count]);
            count += 1;
        }
        let front: Vec<QueuedWrite> = writes.drain(..count).collect();
        let (last, next_offset) = match front.last()? {
            QueuedWrite::Control { log_id, offset, .. } => (*log_id, *offset),
            QueuedWrite::Batch { log_id, batch, .. } => (*log_id, batch.next_offset()),
        };
        self.bytes -= bytes;
        let partition = Arc::clone(partition);
        let kind = Kind::Append { partition, writes: front, last, next_offset, callback: None };
        Some(Self { lane: self.lane, bytes, kind })
    }

    /// Anything else.
    pub(crate) fn record(record: WalRecord, after: AfterDurable) -> Self {
        Self { lane: 0, bytes: record.encoded_len(), kind: Kind::Record { record, after } }
    }

    /// Told once everything queued before is durable.
    pub(crate) fn barrier(sender: oneshot::Sender<()>) -> Self {
        Self { lane: 0, bytes: 1, kind: Kind::Barrier(sender) }
    }

    /// About what it takes in a round.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many entries it appends.
    fn entries(&self) -> usize {
        match &self.kind {
            Kind::Append { writes, .. } => writes.len(),
            Kind::Record { .. } | Kind::Barrier(_) => 0,
        }
    }

    /// The lane to which the answer goes.
    pub(crate) fn of_lane(mut self, lane: usize) -> Self {
        self.lane = lane;
        self
    }
}

/// So much work is encoded while the round before is being synced.
const EARLY_BYTES: usize = 64 << 10;

/// So much is synced at once where no other round is: what comes meanwhile is gathered beside it. Batches would go in
/// lockstep otherwise, where each round takes all that producers have on their way, and all of them wait for it. With
/// half of this, 16 producers of batches of 16 KiB had almost as many syncs as four.
const PROMPT_BYTES: usize = 128 << 10;

/// A round waits no longer than this for the producers it expects: about the time that an answer needs to a producer on
/// this machine, and the next batch from it.
const PATIENCE: Duration = Duration::from_micros(150);

/// Where more entries than these are on their way together nobody is waited for: a round finds enough of them.
const FEW_ENTRIES: usize = 8;

/// What an entry takes in a round besides its bytes, at most.
pub(super) const RECORD_BYTES: usize = 48;

/// About what an entry takes in a round.
pub(super) fn write_bytes(write: &QueuedWrite) -> usize {
    RECORD_BYTES
        + match write {
            QueuedWrite::Control { payload, .. } => payload.len(),
            QueuedWrite::Batch { batch, .. } => batch.size(),
        }
}

/// The queue between the lanes and the flusher's threads.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    /// For the thread that gathers: more work, or the round before is durable.
    gathering: Condvar,
    /// For the thread that does not: there is nobody who gathers.
    resting: Condvar,
    queued_bytes: AtomicU64,
}

#[derive(Default)]
struct QueueState {
    work: VecDeque<Work>,
    /// Of `work`.
    bytes: usize,
    /// Of `work`.
    entries: usize,
    pace: Pace,
    /// So many entries the gatherer waits for before it syncs its round; 0 if it does not.
    wanted: usize,
    /// A thread has the gatherer's role.
    gatherer: bool,
    /// It waits for work or for the round before.
    gatherer_waits: bool,
    /// A round is being written and synced.
    syncing: bool,
    stopping: bool,
    /// A write or a sync failed: nothing is done any more.
    dead: bool,
}

impl QueueState {
    /// Takes work for a round that has `gathered` until it has enough, at most as much as a round takes; a record that
    /// alone is larger makes a round of its own.
    fn take(&mut self, gathered: &mut Gathered, round_bytes: usize, is_enough: usize) -> Vec<Work> {
        let mut taken = Vec::new();
        while let Some(work) = self.work.front_mut() {
            let is_over = gathered.bytes > 0 && gathered.bytes + work.bytes > round_bytes;
            if is_over || gathered.bytes >= is_enough {
                break;
            }
            let Some(work) = work.split_off_front(round_bytes).or_else(|| self.work.pop_front()) else {
                break;
            };
            let entries = work.entries();
            gathered.bytes += work.bytes;
            gathered.entries += entries;
            self.bytes -= work.bytes;
            self.entries -= entries;
            taken.push(work);
        }
        taken
    }
}

/// How many entries are on their way together, as far as rounds tell, and how long a round waits for them.
///
/// Producers that wait for each answer come back just after it. Where a sync is about as fast as they are, a round that
/// takes what is there finds half of them, and the next the other half: twice the syncs. So a small round waits for as
/// many entries as there were before, no longer than the last sync took: if they do not come, that at most doubles its
/// time, and fewer are expected.
#[derive(Debug, Default)]
struct Pace {
    expected: usize,
    patience: Duration,
}

impl Pace {
    /// A round of so many entries was answered, and meanwhile so many were queued.
    fn synced(&mut self, entries: usize, queued: usize, took: Duration) {
        let together = entries + queued;
        self.expected = together.max(usize::midpoint(self.expected, together));
        self.patience = took.min(PATIENCE);
    }

    /// How many more entries a round that has so much waits for.
    fn missing(&self, gathered: &Gathered) -> usize {
        if self.expected > FEW_ENTRIES || gathered.bytes >= EARLY_BYTES {
            return 0;
        }
        self.expected.saturating_sub(gathered.entries)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("queued_bytes", &self.queued_bytes).finish_non_exhaustive()
    }
}

impl Queue {
    /// Adds work, in order.
    pub(crate) fn submit(&self, work: Vec<Work>) {
        if work.is_empty() {
            return;
        }
        let bytes: usize = work.iter().map(|work| work.bytes).sum();
        self.queued_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let mut state = lock(&self.state);
        if state.dead {
            // dropping it tells nobody anything, and nothing may be acknowledged
            return;
        }
        state.entries += work.iter().map(Work::entries).sum::<usize>();
        state.work.extend(work);
        state.bytes += bytes;
        // The thread that syncs looks for work next, and one that waits for entries does when they are there. Only much
        // work is worth encoding meanwhile: waking a thread for a little costs more than it saves, and its round would
        // be as long.
        if (state.syncing || state.entries < state.wanted) && state.bytes < EARLY_BYTES {
            return;
        }
        if state.gatherer_waits {
            self.gathering.notify_one();
        } else if !state.gatherer {
            self.resting.notify_one();
        }
    }

    /// Bytes queued and not yet durable.
    pub(crate) fn queued_bytes(&self) -> u64 {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    /// Takes work off the queue and hands it to `encode`, until it makes a round (of `round_bytes` at most) and the round
    /// before is durable; from then on this one counts as being synced. `None` when there is nothing more to do, ever.
    pub(super) fn gather(&self, round_bytes: usize, mut encode: impl FnMut(Vec<Work>)) -> Option<Gathered> {
        let mut gathered = Gathered::default();
        let mut deadline = None;
        let mut state = lock(&self.state);
        while state.gatherer {
            state = wait(&self.resting, state);
        }
        state.gatherer = true;
        loop {
            if state.dead {
                state.gatherer = false;
                self.resting.notify_all();
                return None;
            }
            let is_enough = if state.syncing { round_bytes } else { PROMPT_BYTES.min(round_bytes) };
            let taken = state.take(&mut gathered, round_bytes, is_enough);
            if !taken.is_empty() {
                drop(state);
                encode(taken);
                state = lock(&self.state);
                continue;
            }
            if gathered.bytes > 0 && !state.syncing {
                let missing = state.pace.missing(&gathered);
                if missing > 0 && !state.stopping {
                    let deadline = *deadline.get_or_insert_with(|| Instant::now() + state.pace.patience);
                    let left = deadline.saturating_duration_since(Instant::now());
                    if !left.is_zero() {
                        state.wanted = missing;
                        state.gatherer_waits = true;
                        state = wait_for(&self.gathering, state, left);
                        state.gatherer_waits = false;
                        state.wanted = 0;
                        continue;
                    }
                }
                state.syncing = true;
                state.gatherer = false;
                // whoever rests is woken by the next work
                if !state.work.is_empty() {
                    self.resting.notify_one();
                }
                return Some(gathered);
            }
            if state.stopping && gathered.bytes == 0 {
                state.gatherer = false;
                self.resting.notify_all();
                return None;
            }
            state.gatherer_waits = true;
            state = wait(&self.gathering, state);
            state.gatherer_waits = false;
        }
    }

    /// A round is durable and answered, and its sync took so long.
    pub(super) fn synced(&self, gathered: &Gathered, took: Duration) {
        let mut state = lock(&self.state);
        state.syncing = false;
        let queued = state.entries;
        state.pace.synced(gathered.entries, queued, took);
        self.queued_bytes.fetch_sub(gathered.bytes as u64, Ordering::Relaxed);
        if state.gatherer_waits {
            self.gathering.notify_one();
        }
    }

    /// What is queued is still gathered and synced; then there is nothing more to do.
    pub(super) fn stop(&self) {
        lock(&self.state).stopping = true;
        self.gathering.notify_all();
        self.resting.notify_all();
    }

    /// Whether it was told to stop.
    pub(super) fn is_stopping(&self) -> bool {
        lock(&self.state).stopping
    }

    /// Nothing is done any more: what is queued is dropped, and so is what comes.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.dead = true;
        state.work.clear();
        self.gathering.notify_all();
        self.resting.notify_all();
    }

    /// Whether it ended before it was empty.
    pub(super) fn is_ended(&self) -> bool {
        lock(&self.state).dead
    }

    /// Whether nothing waits for a gatherer.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.state).work.is_empty()
    }
}

/// What of the queue is in a round.
#[derive(Default)]
pub(super) struct Gathered {
    bytes: usize,
    entries: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: usize = 16 << 10;

    fn missing(pace: &Pace, entries: usize) -> usize {
        pace.missing(&Gathered { bytes: entries * BATCH, entries })
    }

    #[test]
    fn a_round_waits_for_those_that_the_one_before_answered() {
        let mut pace = Pace::default();
        let took = Duration::from_micros(90);
        pace.synced(1, 0, took);
        assert_eq!(missing(&pace, 1), 0, "a producer alone never waits");
        // two and two in turn
        pace.synced(2, 2, took);
        assert_eq!((missing(&pace, 2), missing(&pace, 4)), (2, 0));
        assert_eq!(pace.patience, took);
        pace.synced(3, 0, 20 * PATIENCE);
        assert_eq!(missing(&pace, 3), 0, "who did not come in time is not waited for again");
        assert_eq!(pace.patience, PATIENCE);
        // all of them go away but one
        pace.synced(1, 0, took);
        pace.synced(1, 0, took);
        assert_eq!(missing(&pace, 1), 0);
    }

    #[test]
    fn a_round_with_enough_waits_for_nobody() {
        let mut pace = Pace::default();
        pace.synced(FEW_ENTRIES, 0, PATIENCE);
        assert_eq!(pace.missing(&Gathered { bytes: 100, entries: 1 }), FEW_ENTRIES - 1);
        assert_eq!(pace.missing(&Gathered { bytes: EARLY_BYTES, entries: 1 }), 0, "the sync is worth it");
        pace.synced(FEW_ENTRIES, 1, PATIENCE);
        assert_eq!(missing(&pace, 1), 0, "the next round finds enough");
    }
}
