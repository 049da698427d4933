//! How whoever appended learns how it ended.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use openraft::raft::ClientWriteResult;
use tokio::sync::oneshot;

use crate::{
    ReplicationError,
    entry::{Applied, TypeConfig},
    lock,
    producers::Producers,
};

/// When an append counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// Once it is readable in memory; an error is still told.
    None,
    /// Once it is on the leader's disk.
    Leader,
    /// Once it is committed: on the disks of a majority.
    All,
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
    finished: Mutex<Vec<(u64, AppendResult)>>,
    owner: AtomicWaker,
}

impl CompletionQueue {
    /// Adds the result of the append with `token`, and wakes the owner.
    pub fn push(&self, token: u64, result: AppendResult) {
        lock(&self.finished).push((token, result));
        // The first of a turn takes the waker with it, the others find none.
        self.owner.wake();
    }

    /// Moves everything finished so far into `into`.
    pub fn drain(&self, into: &mut Vec<(u64, AppendResult)>) {
        into.append(&mut lock(&self.finished));
    }

    /// Ready while something is finished and not drained; else the owner's task is woken by the next result.
    pub fn poll_finished(&self, context: &mut Context<'_>) -> Poll<()> {
        self.owner.register(context.waker());
        if lock(&self.finished).is_empty() { Poll::Pending } else { Poll::Ready(()) }
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
    /// Nowhere.
    Nowhere,
}

impl Completion {
    pub(crate) fn complete(self, result: AppendResult) {
        match self {
            Self::Queue(queue, token) => queue.push(token, result),
            // the waiter may have gone away
            Self::Once(sender) => _ = sender.send(result),
            Self::Nowhere => {}
        }
    }
}

/// The place of a batch in its producer's sequence, while the batch is in flight.
pub(crate) struct InFlightPlace {
    pub(crate) producers: Arc<Mutex<Producers>>,
    pub(crate) producer_id: i64,
    pub(crate) base_sequence: i32,
}

/// Who is told how an append ended. Dropped without a word it says that this replica does not lead any more: that is
/// what a core means that stops, or refuses an entry, and drops it.
pub(crate) struct Ticket {
    completion: Completion,
    acks: Acks,
    in_flight: Option<InFlightPlace>,
    done: bool,
}

impl Ticket {
    pub(crate) fn new(completion: Completion, acks: Acks) -> Self {
        Self { completion, acks, in_flight: None, done: false }
    }

    pub(crate) fn acks(&self) -> Acks {
        self.acks
    }

    /// The append fails its producer's later batches in flight with itself.
    pub(crate) fn in_flight(&mut self, place: InFlightPlace) {
        self.in_flight = Some(place);
    }

    /// The completion, for another ticket to answer.
    pub(crate) fn into_completion(mut self) -> Completion {
        self.done = true;
        std::mem::replace(&mut self.completion, Completion::Nowhere)
    }

    pub(crate) fn succeed(self, appended: Appended) {
        self.into_completion().complete(Ok(appended));
    }

    pub(crate) fn fail(mut self, error: &ReplicationError) {
        self.fail_once(error);
    }

    fn fail_once(&mut self, error: &ReplicationError) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        if let Some(place) = self.in_flight.take() {
            let joined = lock(&place.producers).fail_from(place.producer_id, place.base_sequence);
            for completion in joined {
                completion.complete(Err(error.clone()));
            }
        }
        std::mem::replace(&mut self.completion, Completion::Nowhere).complete(Err(error.clone()));
    }

    /// What openraft says of a write that waited for its commit.
    pub(crate) fn finish_write(self, result: ClientWriteResult<TypeConfig>) {
        match result.map(|response| response.data) {
            Ok(Applied::Appended(appended)) => self.succeed(appended),
            Ok(other) => self.fail(&ReplicationError::Storage(format!("a batch was applied as {other:?}"))),
            Err(_) => self.fail(&ReplicationError::NotLeader),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.fail_once(&ReplicationError::NotLeader);
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("acks", &self.acks).finish_non_exhaustive()
    }
}
