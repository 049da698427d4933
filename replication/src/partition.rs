//! One partition: a Raft group with its log, watermarks and producer state.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use log_store::{LogSlice, RecordBatch, log::Waiting};
use tokio::sync::{Notify, oneshot};

use crate::ReplicationError;

/// When an append counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// Once it is readable in memory; nobody waits.
    None,
    /// Once it is on the leader's disk.
    Leader,
    /// Once it is committed: on the disks of a majority.
    All,
}

/// What is visible to consumers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Up to the high watermark.
    ReadUncommitted,
    /// Up to the last stable offset.
    ReadCommitted,
}

/// A finished append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the batch's first record (of the original batch for a duplicate).
    pub base_offset: i64,
    /// The log's start at that moment.
    pub log_start: i64,
    /// `max_timestamp` of the stored batch where it is LogAppendTime, else -1.
    pub log_append_time: i64,
}

/// The result of an append.
pub type AppendResult = Result<Appended, ReplicationError>;

/// Finished appends of one connection (or of whoever shares the queue), gathered so that it is woken once per turn.
#[derive(Debug, Default)]
pub struct CompletionQueue {
    finished: std::sync::Mutex<Vec<(u64, AppendResult)>>,
    owner: AtomicWaker,
}

impl CompletionQueue {
    /// Adds the result of the append with `token`, and wakes the owner.
    pub fn push(&self, token: u64, result: AppendResult) {
        self.finished.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((token, result));
        // The first of a turn takes the waker with it, the others find none.
        self.owner.wake();
    }

    /// Moves everything finished so far into `into`.
    pub fn drain(&self, into: &mut Vec<(u64, AppendResult)>) {
        into.append(&mut self.finished.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }

    /// Ready while something is finished and not drained; else the owner's task is woken by the next result.
    pub fn poll_finished(&self, context: &mut Context<'_>) -> Poll<()> {
        self.owner.register(context.waker());
        if self.finished.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Waits until something is finished. Cancel-safe; one waiter at a time.
    pub async fn finished(&self) {
        std::future::poll_fn(|context| self.poll_finished(context)).await;
    }
}

/// Where the result of an append goes.
#[derive(Debug)]
pub enum Completion {
    /// Into a shared queue under a token of the caller's.
    Queue(Arc<CompletionQueue>, u64),
    /// To one waiter.
    Once(oneshot::Sender<AppendResult>),
    /// Nowhere (`acks=0`).
    Nowhere,
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
    /// For [`Isolation::ReadCommitted`]: (producer id, first offset) of aborted transactions in the range.
    pub aborted: Option<Vec<(i64, i64)>>,
}

/// A fetch that waits for bytes: [`Partition::wait`] registers it, any advance of a watermark wakes it.
#[derive(Debug, Default)]
pub struct FetchWaiter {
    /// Notified when a partition on which it waits changed.
    pub wake: Notify,
}

/// One partition of this node.
#[derive(Debug)]
pub struct Partition {}

impl Partition {
    /// Validates the producer's sequence and submits one batch, in call order; never waits. The result goes to
    /// `completion` once `acks` is met. `batch` has passed `log_store::batch` validation.
    pub fn append(&self, _batch: RecordBatch, _acks: Acks, _completion: Completion) {
        unimplemented!()
    }

    /// [`Partition::append`] with [`Acks::All`], awaited.
    ///
    /// # Errors
    /// As the append ends.
    pub async fn append_committed(&self, _batch: RecordBatch) -> AppendResult {
        unimplemented!()
    }

    /// Reads whole batches from `offset`, at most `max_bytes` (the first batch also when larger, if
    /// `at_least_one`), and nothing above what `isolation` shows. An offset at the end gives no slices.
    ///
    /// # Errors
    /// [`ReplicationError::OffsetOutOfRange`], [`ReplicationError::NotLeader`], [`ReplicationError::Storage`].
    pub fn read(
        &self,
        _offset: i64,
        _max_bytes: usize,
        _at_least_one: bool,
        _isolation: Isolation,
        _waiting: Waiting,
    ) -> Result<ReadOutcome, ReplicationError> {
        unimplemented!()
    }

    /// The offsets, or [`ReplicationError::NotLeader`] where this replica does not serve.
    ///
    /// # Errors
    /// See above.
    pub fn offsets(&self) -> Result<Offsets, ReplicationError> {
        unimplemented!()
    }

    /// Registers `waiter`: it is woken by the next advance of high watermark or log start, or by the loss of leadership
    /// or the topic's deletion. Dropping the waiter ends the registration.
    pub fn wait(&self, _waiter: &Arc<FetchWaiter>) {
        unimplemented!()
    }

    /// The first record at or above `timestamp`: (offset, its timestamp, its leader epoch). Reads files: call it from a
    /// blocking thread.
    ///
    /// # Errors
    /// As [`Partition::read`].
    pub fn offset_for_time(
        &self,
        _timestamp: i64,
        _isolation: Isolation,
    ) -> Result<Option<(i64, i64, i32)>, ReplicationError> {
        unimplemented!()
    }

    /// The first record with the largest timestamp: (offset, timestamp, leader epoch). Reads files.
    ///
    /// # Errors
    /// As [`Partition::read`].
    pub fn offset_of_max_timestamp(&self) -> Result<Option<(i64, i64, i32)>, ReplicationError> {
        unimplemented!()
    }

    /// KIP-101: the largest epoch at or below `epoch` and its end offset; `None` where no such epoch is known.
    ///
    /// # Errors
    /// [`ReplicationError::NotLeader`].
    pub fn end_offset_for_epoch(&self, _epoch: i32) -> Result<Option<(i32, i64)>, ReplicationError> {
        unimplemented!()
    }

    /// Moves the log start to `offset` through the log itself (a trim entry), and waits until it is applied.
    ///
    /// # Errors
    /// [`ReplicationError::OffsetOutOfRange`] above the high watermark; [`ReplicationError::NotLeader`].
    pub async fn trim(&self, _offset: i64) -> Result<i64, ReplicationError> {
        unimplemented!()
    }

    /// Bytes in segments.
    pub fn size(&self) -> u64 {
        unimplemented!()
    }
}
