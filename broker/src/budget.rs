//! The byte budget of the node: how many bytes of requests may be in memory at once, each until its answer is written.
//!
//! ```text
//! taken when a frame's length is known, before the rest of it is read; given back when its answer is written
//!
//! |<------------------ total ------------------>|
//! |<-- frames above 1 MiB: three quarters ----->| reserve that only small frames may use |
//! ```
//! The reserve keeps a few clients that announce huge frames and send nothing from stopping everybody else.
//!
//! Not counted is what each connection bounds for itself (`connection.rs`): the one read in which a length comes, and the answers, of
//! which a connection may hold `MAX_UNSENT` bytes and one answer more. A join or a sync that waits for other members gives its share
//! back at once.
//!
//! Invariant: what [`Share`]s hold never exceeds the total.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// From this size on a frame is large.
const LARGE: usize = 1 << 20;

/// The budget; clones are the same one.
#[derive(Clone, Debug)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    total: usize,
    large_total: usize,
    used: AtomicUsize,
    large_used: AtomicUsize,
    waiting: AtomicBool,
    returned: Notify,
}

/// Bytes taken from the budget; dropping it gives them back.
#[derive(Debug)]
pub struct Share {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Budget {
    /// A budget of `total` bytes.
    pub fn new(total: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                total,
                large_total: total - total / 4,
                used: AtomicUsize::new(0),
                large_used: AtomicUsize::new(0),
                waiting: AtomicBool::new(false),
                returned: Notify::new(),
            }),
        }
    }

    /// Takes `bytes`, or nothing if they are not there.
    pub fn try_take(&self, bytes: usize) -> Option<Share> {
        let shared = &self.shared;
        if bytes >= LARGE && !add_below(&shared.large_used, bytes, shared.large_total) {
            return None;
        }
        if !add_below(&shared.used, bytes, shared.total) {
            if bytes >= LARGE {
                shared.large_used.fetch_sub(bytes, Ordering::AcqRel);
            }
            return None;
        }
        Some(Share { shared: Arc::clone(shared), bytes })
    }

    /// Takes `bytes` (no more than the total), waiting until others gave enough back.
    pub async fn take(&self, bytes: usize) -> Share {
        loop {
            let returned = self.shared.returned.notified();
            tokio::pin!(returned);
            returned.as_mut().enable();
            self.shared.waiting.store(true, Ordering::SeqCst);
            if let Some(share) = self.try_take(bytes) {
                return share;
            }
            returned.await;
        }
    }

    /// Bytes taken now.
    pub fn used(&self) -> usize {
        self.shared.used.load(Ordering::Relaxed)
    }

    /// The largest frame that can ever be taken.
    pub fn largest(&self) -> usize {
        self.shared.large_total
    }
}

impl Share {
    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives all of them back at once.
    pub fn give_back(&mut self) {
        *self = Self { shared: Arc::clone(&self.shared), bytes: 0 };
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes >= LARGE {
            self.shared.large_used.fetch_sub(self.bytes, Ordering::AcqRel);
        }
        self.shared.used.fetch_sub(self.bytes, Ordering::SeqCst);
        if self.shared.waiting.load(Ordering::SeqCst) {
            self.shared.waiting.store(false, Ordering::SeqCst);
            self.shared.returned.notify_waiters();
        }
    }
}

fn add_below(counter: &AtomicUsize, bytes: usize, limit: usize) -> bool {
    counter
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= limit)
        })
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_frames_leave_a_reserve_for_small_ones() {
        let budget = Budget::new(16 << 20);
        let large: Vec<_> = std::iter::from_fn(|| budget.try_take(4 << 20)).collect();
        assert_eq!(large.len(), 3);
        let small: Vec<_> = std::iter::from_fn(|| budget.try_take(64 << 10)).collect();
        assert_eq!(small.len(), 64);
        assert_eq!(budget.used(), 16 << 20);
        drop(small);
        assert!(budget.try_take(4 << 20).is_none());
        drop(large);
        assert_eq!(budget.used(), 0);
        assert!(budget.try_take(usize::MAX).is_none());
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn waiting_ends_when_enough_is_given_back() {
        let budget = Budget::new(16 << 20);
        let held = budget.try_take(12 << 20).unwrap();
        let waiter = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take(8 << 20).await.bytes }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(held);
        assert_eq!(waiter.await.unwrap(), 8 << 20);
        assert_eq!(budget.used(), 0);
    }
}
