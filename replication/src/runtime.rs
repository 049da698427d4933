//! The runtime that openraft runs on: tokio, with a watch channel of our own.
//!
//! Each turn of a group's core publishes its state on seven watch channels, three times a batch, and hardly ever does
//! anybody wait for one. tokio's channel spreads its waiting receivers over eight lists, each behind a lock of its own, and
//! a send takes all eight. That pays where hundreds of tasks wait for one value. Here it was a twentieth of the CPU of a
//! produce to many partitions: [`WatchSender`] has one list.

use std::{
    mem,
    ops::Deref,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use openraft::{
    OptionalSend, OptionalSync,
    async_runtime::{
        AsyncRuntime,
        watch::{RecvError, SendError, Watch},
    },
};
use openraft_rt_tokio::TokioRuntime;
use tokio::sync::Notify;

/// tokio with [`LeanWatch`].
#[derive(Debug)]
pub(crate) struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Watch = LeanWatch;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

/// A watch channel whose send costs two uncontended locks: that of the value and that of the one list of who waits.
#[derive(Debug)]
pub(crate) struct LeanWatch;

struct Shared<T> {
    slot: RwLock<Slot<T>>,
    changed: Notify,
    senders: AtomicUsize,
    receivers: AtomicUsize,
}

struct Slot<T> {
    value: T,
    /// Rises with each change that receivers are told of.
    version: u64,
    /// The last sender is gone.
    closed: bool,
}

impl<T> Shared<T> {
    /// A closure that panics under the lock leaves a whole value: poisoning tells nothing here.
    fn read(&self) -> RwLockReadGuard<'_, Slot<T>> {
        self.slot.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slot<T>> {
        self.slot.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A view of the value, which cannot change meanwhile.
pub(crate) struct WatchRef<'a, T>(RwLockReadGuard<'a, Slot<T>>);

impl<T> Deref for WatchRef<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl Watch for LeanWatch {
    type Receiver<T: OptionalSend + OptionalSync> = WatchReceiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = WatchRef<'a, T>;
    type Sender<T: OptionalSend + OptionalSync> = WatchSender<T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (WatchSender<T>, WatchReceiver<T>) {
        let shared = Arc::new(Shared {
            slot: RwLock::new(Slot { value: init, version: 0, closed: false }),
            changed: Notify::new(),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(1),
        });
        (WatchSender(Arc::clone(&shared)), WatchReceiver { shared, seen: 0 })
    }
}

/// The half that sets the value.
pub(crate) struct WatchSender<T>(Arc<Shared<T>>);

impl<T> Clone for WatchSender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for WatchSender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.write().closed = true;
            self.0.changed.notify_waiters();
        }
    }
}

impl<T: OptionalSend + OptionalSync> openraft::async_runtime::watch::WatchSender<LeanWatch, T>
    for WatchSender<T>
{
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(Ordering::Acquire) == 0 {
            return Err(SendError(value));
        }
        let mut slot = self.0.write();
        let old = mem::replace(&mut slot.value, value);
        slot.version += 1;
        drop(slot);
        self.0.changed.notify_waiters();
        drop(old);
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let mut slot = self.0.write();
        let modified = modify(&mut slot.value);
        slot.version += u64::from(modified);
        drop(slot);
        if modified {
            self.0.changed.notify_waiters();
        }
        modified
    }

    fn borrow_watched(&self) -> WatchRef<'_, T> {
        WatchRef(self.0.read())
    }

    fn subscribe(&self) -> WatchReceiver<T> {
        self.0.receivers.fetch_add(1, Ordering::Relaxed);
        let seen = self.0.read().version;
        WatchReceiver { shared: Arc::clone(&self.0), seen }
    }
}

/// The half that reads the value and waits for another.
pub(crate) struct WatchReceiver<T> {
    shared: Arc<Shared<T>>,
    /// Version of the value that this receiver has seen.
    seen: u64,
}

impl<T> Clone for WatchReceiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T> Drop for WatchReceiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<T: OptionalSend + OptionalSync> openraft::async_runtime::watch::WatchReceiver<LeanWatch, T>
    for WatchReceiver<T>
{
    async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            // Made before the look at the version: it hears of every change from here on, polled or not.
            let notified = self.shared.changed.notified();
            {
                let slot = self.shared.read();
                if slot.version != self.seen {
                    self.seen = slot.version;
                    return Ok(());
                }
                if slot.closed {
                    return Err(RecvError(()));
                }
            }
            notified.await;
        }
    }

    fn borrow_watched(&self) -> WatchRef<'_, T> {
        WatchRef(self.shared.read())
    }

    fn borrow_and_update(&mut self) -> WatchRef<'_, T> {
        let slot = self.shared.read();
        self.seen = slot.version;
        WatchRef(slot)
    }
}

#[cfg(test)]
mod tests {
    use openraft::{
        async_runtime::watch::{WatchReceiver as _, WatchSender as _},
        testing::runtime::Suite,
    };

    use super::*;

    #[test]
    fn openrafts_own_suite_passes() {
        Suite::<Runtime>::test_all();
    }

    #[tokio::test]
    async fn waiting_receivers_hear_of_the_end_after_the_last_value() {
        let (sender, mut receiver) = LeanWatch::channel(0);
        let other = sender.clone();
        let waiting = tokio::spawn(async move {
            let mut seen = Vec::new();
            while receiver.changed().await.is_ok() {
                seen.push(*receiver.borrow_watched());
            }
            seen
        });
        tokio::task::yield_now().await;
        drop(sender);
        tokio::task::yield_now().await;
        other.send(1).unwrap();
        drop(other);
        assert_eq!(waiting.await.unwrap(), [1]);
    }

    #[test]
    fn a_send_without_receivers_gives_the_value_back() {
        let (sender, receiver) = LeanWatch::channel(0);
        let second = receiver.clone();
        drop(receiver);
        sender.send(1).unwrap();
        drop(second);
        assert_eq!(sender.send(2), Err(SendError(2)));
        assert_eq!(*sender.borrow_watched(), 1);
        let mut late = sender.subscribe();
        sender.send(3).unwrap();
        assert_eq!(*late.borrow_and_update(), 3);
    }

    /// Each value is sent when the one before has been seen: one wake that gets lost stops everything.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_wake_is_lost_between_threads() {
        const ROUNDS: u32 = 20_000;
        let (sender, mut receiver) = LeanWatch::channel(0);
        let (echo, mut echoed) = LeanWatch::channel(0);
        let answering = tokio::spawn(async move {
            loop {
                receiver.changed().await.unwrap();
                let value = *receiver.borrow_watched();
                echo.send(value).unwrap();
                if value == ROUNDS {
                    return;
                }
            }
        });
        for round in 1..=ROUNDS {
            sender.send(round).unwrap();
            while *echoed.borrow_watched() < round {
                echoed.changed().await.unwrap();
            }
        }
        answering.await.unwrap();
    }
}
