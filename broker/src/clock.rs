//! The one place that reads clocks.
//!
//! ```text
//! wall now = wall at start + tokio time since start + correction      (what records, groups and retention see)
//! correction follows the system's clock by at most 1 ms a second backwards, at once forwards
//! ```
//! Invariant: wall time never goes back, whatever the system's clock does. Because time advances with tokio's
//! `Instant`, paused tokio time drives everything in a simulation.
//!
//! What is deleted for its age is gone, and a clock may be wrong: a step forward of more than an hour counts for deletions
//! ([`Clock::doubt_ms`]) only once the clock has stayed there for a day. At a start the clock is believed.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
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
    trusted: Mutex<Trusted>,
}

/// The time that deletions go by.
#[derive(Debug)]
struct Trusted {
    at: Instant,
    ms: i64,
    /// Since when the system's clock is further on than it can be.
    doubted: Option<Instant>,
}

impl Trusted {
    fn now_ms(&self, now: Instant) -> i64 {
        self.ms.saturating_add(i64::try_from((now - self.at).as_millis()).unwrap_or(i64::MAX))
    }

    fn observe(&mut self, system_ms: i64, now: Instant) {
        let expected_ms = self.now_ms(now);
        let step_ms = system_ms.saturating_sub(expected_ms);
        if step_ms < LARGE_STEP_MS || self.doubted.is_some_and(|since| now - since >= DOUBT) {
            *self = Self { at: now, ms: system_ms, doubted: None };
        } else if self.doubted.is_none() {
            self.doubted = Some(now);
            tracing::warn!(
                hours = step_ms / LARGE_STEP_MS,
                "the system's clock went forward: nothing is deleted for its age by the new time until it has stood for a day"
            );
        }
    }
}

/// A step of the system's clock that is doubted.
const LARGE_STEP_MS: i64 = 3_600_000;
/// For so long.
const DOUBT: Duration = Duration::from_secs(24 * 3600);

/// How often [`Clock::correct`] wants to be called.
pub const CORRECTION_INTERVAL: Duration = Duration::from_secs(1);

impl Clock {
    /// Starts at the system's time.
    pub fn system() -> Self {
        Self::starting_at(system_ms())
    }

    /// Starts at `start_ms`, milliseconds since the epoch; for simulations.
    pub fn starting_at(start_ms: i64) -> Self {
        let start = Instant::now();
        let trusted = Mutex::new(Trusted { at: start, ms: start_ms, doubted: None });
        Self { shared: Arc::new(Shared { start, start_ms, correction_ms: AtomicI64::new(0), trusted }) }
    }

    /// Wall time, milliseconds since the epoch; never goes back.
    pub fn now_ms(&self) -> i64 {
        self.now_and_correction_ms().0
    }

    /// The same, and how much of it comes from following the system's clock: by that much more or less it is later now
    /// than the time that has passed.
    pub fn now_and_correction_ms(&self) -> (i64, i64) {
        let elapsed = i64::try_from(self.shared.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        let correction = self.shared.correction_ms.load(Ordering::Relaxed);
        (self.shared.start_ms + elapsed + correction, correction)
    }

    /// How much later it is by [`Clock::now_ms`] than what is deleted for its age may go by.
    pub fn doubt_ms(&self) -> i64 {
        let trusted = self.shared.trusted.lock().unwrap_or_else(PoisonError::into_inner);
        (self.now_ms() - trusted.now_ms(Instant::now())).max(0)
    }

    /// Monotonic time, for intervals.
    pub fn instant(&self) -> Instant {
        Instant::now()
    }

    /// Follows the system's clock; call it every [`CORRECTION_INTERVAL`].
    pub fn correct(&self) {
        self.correct_to(system_ms());
    }

    pub(crate) fn correct_to(&self, system_ms: i64) {
        let behind = system_ms - self.now_ms();
        // Backwards by less than the interval between two calls, so that the sum still rises.
        let step = behind.max(-1);
        self.shared.correction_ms.fetch_add(step, Ordering::Relaxed);
        let mut trusted = self.shared.trusted.lock().unwrap_or_else(PoisonError::into_inner);
        trusted.observe(system_ms, Instant::now());
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

    #[tokio::test(start_paused = true)]
    async fn a_large_step_forward_is_doubted_for_a_day() {
        const HOUR: i64 = 3_600_000;
        let system = |clock: &Clock, ms| {
            clock.correct_to(ms);
            clock.doubt_ms()
        };
        let clock = Clock::starting_at(0);
        tokio::time::advance(CORRECTION_INTERVAL).await;
        assert_eq!(system(&clock, HOUR / 2), 0, "a small step");
        assert_eq!(system(&clock, 100 * HOUR), 100 * HOUR - HOUR / 2);
        // Set right again: deletions go by the right time at once, whatever the time that records get does.
        tokio::time::advance(Duration::from_secs(3600)).await;
        let doubt = system(&clock, 3 * HOUR / 2);
        assert_eq!(clock.now_ms() - doubt, 3 * HOUR / 2);
        // And on again, to stay.
        let mut at = 1_000 * HOUR;
        for _ in 0..24 {
            assert!(system(&clock, at) > 800 * HOUR);
            tokio::time::advance(Duration::from_secs(3600)).await;
            at += HOUR;
        }
        assert_eq!(system(&clock, at), 0);
    }
}
