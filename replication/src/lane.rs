//! The wiring between one runtime and the flusher.
//!
//! A group's core, its state machine and the connections that wait for it live on one runtime of one thread. What
//! they hand to the flusher, and what the flusher hands back, is gathered here, so that a round costs one wake in each
//! direction whatever the number of groups and batches in it:
//!
//! ```text
//!  cores ── append ──> queued ──(one task, after a yield)──> Flusher ── round ──> finished ──(one task)──> callbacks
//! ```
//!
//! The yield lets every core that is ready run first: with 64 busy partitions a round then carries what all of them
//! have, where a hand-over per append made rounds of four batches.

use std::sync::{Arc, Mutex};

use tokio::{runtime::Handle, sync::Notify};

use crate::{
    flusher::{Finished, Queue, Work},
    lock,
};

/// So much is handed over without waiting for the cores that are ready: the disk works on it while they run. With more
/// than producers have on their way, batches go in lockstep: all are received, then all written, then all answered. Six
/// producers of eight batches of 16 KiB each brought a tenth to three fifths more with this than with 1 MiB.
const HAND_OVER_BYTES: usize = 128 << 10;

/// One runtime's side of the flusher.
#[derive(Debug)]
pub(crate) struct Lane {
    number: usize,
    runtime: Handle,
    queue: Arc<Queue>,
    queued: Mutex<Queued>,
    hand_over: Notify,
    finished: Mutex<Vec<Finished>>,
    complete: Notify,
}

#[derive(Debug, Default)]
struct Queued {
    work: Vec<Work>,
    /// Of `work`.
    bytes: usize,
    /// Whether the task that hands over knows already.
    announced: bool,
}

impl Lane {
    /// Makes the lane of `runtime` and starts its two tasks.
    pub(crate) fn start(number: usize, runtime: Handle, queue: Arc<Queue>) -> Arc<Self> {
        let lane = Arc::new(Self {
            number,
            runtime: runtime.clone(),
            queue,
            queued: Mutex::default(),
            hand_over: Notify::new(),
            finished: Mutex::default(),
            complete: Notify::new(),
        });
        runtime.spawn(Arc::clone(&lane).run_hand_over());
        runtime.spawn(Arc::clone(&lane).run_completions());
        lane
    }

    /// The runtime that the lane belongs to.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Queues work of one group; what one group queues stays in order.
    pub(crate) fn push(&self, work: Work) {
        let announce = {
            let mut queued = lock(&self.queued);
            queued.bytes += work.bytes();
            queued.work.push(work.of_lane(self.number));
            if queued.bytes >= HAND_OVER_BYTES {
                self.submit(&mut queued);
            }
            !std::mem::replace(&mut queued.announced, true)
        };
        if announce {
            self.hand_over.notify_one();
        }
    }

    /// Gives the flusher what is queued; under the lock, which keeps the order whoever pushes.
    fn submit(&self, queued: &mut Queued) {
        queued.bytes = 0;
        self.queue.submit(std::mem::take(&mut queued.work));
    }

    /// Takes the finished work of one round, in order, and wakes the task that completes it.
    pub(crate) fn finish(&self, finished: &mut Vec<Finished>) {
        lock(&self.finished).append(finished);
        self.complete.notify_one();
    }

    /// Hands over what is queued, for a node that stops.
    pub(crate) async fn drain(&self) {
        self.submit(&mut lock(&self.queued));
        tokio::task::yield_now().await;
    }

    /// Forgets what nobody will complete any more: it refers to partitions, and they to the lane.
    #[cfg(test)]
    pub(crate) fn forget(&self) {
        let queued = std::mem::take(&mut lock(&self.queued).work);
        let finished = std::mem::take(&mut *lock(&self.finished));
        drop((queued, finished));
    }

    async fn run_hand_over(self: Arc<Self>) {
        loop {
            self.hand_over.notified().await;
            tokio::task::yield_now().await;
            let mut queued = lock(&self.queued);
            queued.announced = false;
            self.submit(&mut queued);
        }
    }

    async fn run_completions(self: Arc<Self>) {
        let mut taken = Vec::new();
        loop {
            self.complete.notified().await;
            std::mem::swap(&mut *lock(&self.finished), &mut taken);
            for finished in taken.drain(..) {
                finished.complete();
            }
        }
    }
}
