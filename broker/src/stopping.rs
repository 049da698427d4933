//! The signal that the server stops: set once, seen by every connection and long poll.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicBool, Ordering},
};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

/// The signal.
#[derive(Debug, Default)]
pub struct Stopping {
    set: AtomicBool,
    notify: Notify,
    connections: Mutex<Vec<Weak<AtomicWaker>>>,
}

impl Stopping {
    /// Whether it was given.
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Gives it.
    pub fn set(&self) {
        self.set.store(true, Ordering::Release);
        self.notify.notify_waiters();
        let connections =
            std::mem::take(&mut *self.connections.lock().unwrap_or_else(PoisonError::into_inner));
        for waker in connections.iter().filter_map(Weak::upgrade) {
            waker.wake();
        }
    }

    /// Waits for it. Cancel-safe.
    pub async fn wait(&self) {
        let notified = self.notify.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.is_set() {
            notified.await;
        }
    }

    /// A place for the waker of a task that is to be woken by it.
    pub fn register(&self) -> Arc<AtomicWaker> {
        let waker = Arc::new(AtomicWaker::new());
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if connections.len() == connections.capacity() {
            connections.retain(|connection| connection.strong_count() > 0);
        }
        connections.push(Arc::downgrade(&waker));
        waker
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_ends_whether_it_is_given_before_or_after() {
        let stopping = Arc::new(Stopping::default());
        let waiter = tokio::spawn({
            let stopping = Arc::clone(&stopping);
            async move { stopping.wait().await }
        });
        tokio::task::yield_now().await;
        stopping.set();
        waiter.await.unwrap();
        stopping.wait().await;
        assert!(stopping.is_set());
    }
}
