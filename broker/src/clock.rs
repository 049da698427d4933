//! The one place that reads clocks.
//!
//! ```text
//! wall now = wall at start + tokio time since start + correction      (what records, groups and retention see)
//! correction follows the system's clock by at most 1 ms a second backwards, at once forwards
//! ```
//! Invariant: wall time never goes back, whatever the system's clock does. Because time advances with tokio's
//! `Instant`, paused tokio time drives everything in a simulation.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// A clock; clones are the same one.
#[derive(Clone, Debug)]
pub struct Clock {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    start_ms: i64,
    correction_ms: AtomicI64,
}

/// How often [`Clock::correct`] wants to be called.
pub const CORRECTION_INTERVAL: Duration = Duration::from_secs(1);

impl Clock {
    /// Starts at the system's time.
    pub fn system() -> Self {
        Self::starting_at(system_ms())
    }

    /// Starts at `start_ms`, milliseconds since the epoch; for simulations.
    pub fn starting_at(start_ms: i64) -> Self {
        Self {
            shared: Arc::new(Shared { start: Instant::now(), start_ms, correction_ms: AtomicI64::new(0) }),
        }
    }

    /// Wall time, milliseconds since the epoch; never goes back.
    pub fn now_ms(&self) -> i64 {
        let elapsed = i64::try_from(self.shared.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.shared.start_ms + elapsed + self.shared.correction_ms.load(Ordering::Relaxed)
    }

    /// Monotonic time, for intervals.
    pub fn instant(&self) -> Instant {
        Instant::now()
    }

    /// Follows the system's clock; call it every [`CORRECTION_INTERVAL`].
    pub fn correct(&self) {
        self.correct_to(system_ms());
    }

    fn correct_to(&self, system_ms: i64) {
        let behind = system_ms - self.now_ms();
        // Backwards by less than the interval between two calls, so that the sum still rises.
        let step = behind.max(-1);
        self.shared.correction_ms.fetch_add(step, Ordering::Relaxed);
    }
}

fn system_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A fresh random number.
pub fn entropy() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    // Both halves hold a few fixed bits; shifted against each other none stays fixed.
    high ^ low.rotate_left(29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wall_time_follows_tokio_time_and_never_goes_back() {
        let clock = Clock::starting_at(1_000_000);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(clock.now_ms(), 1_005_000);
        // The system's clock was set back by an hour: we lose 1 ms a second.
        let mut last = clock.now_ms();
        for _ in 0..10 {
            tokio::time::advance(CORRECTION_INTERVAL).await;
            clock.correct_to(1_005_000 - 3_600_000);
            assert!(clock.now_ms() > last);
            last = clock.now_ms();
        }
        assert_eq!(last, 1_005_000 + 10 * 999);
        // And set forward: we follow at once.
        clock.correct_to(9_000_000);
        assert_eq!(clock.now_ms(), 9_000_000);
    }
}
