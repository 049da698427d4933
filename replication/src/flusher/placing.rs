//! Placing: which batches of a round are synced in their segments, so that the round only names them, and that sync.
//!
//! A batch that a round holds goes to the disk twice, with the round and with its segment, and costs a copy and a checksum
//! more; in return one sync is enough for all of a round. So a round holds what is little, and names what is much. What is much
//! depends on the disk: where it is fast, going there twice costs less than the commits of its journal.

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Sender},
    },
    time::{Duration, Instant},
};

use log_store::{LogStoreError, Segment, WalRecord};

use super::{Fatal, Indispensable};
use crate::{lock, wait};

/// From this size on a batch waits with its encoding until its round is written: it may be named instead. Smaller ones are
/// encoded while the round before is synced.
pub(super) const LARGE_BATCH: usize = 64 << 10;

/// Bytes for one segment from which on they are synced there. Each such sync costs a commit of the file system's journal or
/// a flush of the disk's cache. A bare loop over six files made 94 and 104 MB/s durable with 64 KiB for each, and 142 where
/// one file took all of it first; with 128 KiB 144 and 161, and 144.
const LEAST_PLACED: usize = 96 << 10;

/// The same on a fast disk, where the processor is what bounds a node: with 64 busy segments, and about 128 KiB for each in a round, a
/// gigabyte that was held took 0.93 to 0.97 s of it, and 1.10 to 1.32 s where it was placed, at as many MB/s.
const LEAST_PLACED_FAST: usize = 256 << 10;

/// Bytes a second that rounds make durable from which on a disk is fast.
const FAST: u64 = 500 << 20;

/// A round of so many bytes and more tells how fast the disk is; less waits for its answer rather than for its way there.
const TELLING: u64 = 512 << 10;

/// Rounds over which the speed is averaged.
const AVERAGED: u64 = 16;

/// Bytes of a round, in segments with so much each, from which on they are synced there: a producer that waits for each
/// answer gets it sooner if its batch is held.
const LEAST_ROUND: usize = 512 << 10;

/// The same where the round before was placed, too: producers with much on their way do not bring as much each time.
const LEAST_NEXT_ROUND: usize = 256 << 10;

/// Threads that help to sync the segments of a round: a bare loop over 32 files, 128 KiB each, took a fifth less with them.
const HELPERS: usize = 7;

/// What became of the sync of a segment.
pub(super) struct Synced {
    /// Its number among those of the round.
    pub(super) at: usize,
    /// Whether a round may name what lies in it: it does not go away.
    pub(super) stays: Result<bool, LogStoreError>,
    pub(super) took: Duration,
}

/// Segments that are synced side by side.
struct Syncs {
    segments: Vec<Arc<Segment>>,
    next: AtomicUsize,
    synced: Mutex<Vec<Synced>>,
    /// The last one is synced.
    done: Condvar,
}

impl Syncs {
    /// Syncs the next segment; whether there was one.
    fn sync_next(&self) -> bool {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(segment) = self.segments.get(at) else { return false };
        let begun = Instant::now();
        let stays = segment.sync_placed();
        let mut synced = lock(&self.synced);
        synced.push(Synced { at, stays, took: begun.elapsed() });
        if synced.len() == self.segments.len() {
            self.done.notify_one();
        }
        true
    }
}

/// Syncs the segments of rounds, one round at a time, with threads that are made when they are first of use.
pub(super) struct SegmentSyncer {
    fatal: Fatal,
    /// The last round that was asked about had enough.
    placed: AtomicBool,
    /// Bytes a second that rounds make durable, averaged; 0 until it is known.
    rate: AtomicU64,
    helpers: OnceLock<Vec<Sender<Arc<Syncs>>>>,
}

impl SegmentSyncer {
    pub(super) fn new(fatal: Fatal) -> Self {
        Self { fatal, placed: AtomicBool::new(false), rate: AtomicU64::new(0), helpers: OnceLock::new() }
    }

    /// A round's bytes, with those that it names, took so long to become durable.
    pub(super) fn note_round(&self, bytes: u64, took: Duration) {
        if bytes < TELLING || took.is_zero() {
            return;
        }
        let rate = (bytes as f64 / took.as_secs_f64()) as u64;
        let averaged = match self.rate.load(Ordering::Relaxed) {
            0 => rate,
            before => before - before / AVERAGED + rate / AVERAGED,
        };
        // one round is synced at a time
        self.rate.store(averaged, Ordering::Relaxed);
    }

    /// Bytes for one segment from which on they are synced there.
    fn least_placed(&self) -> usize {
        if self.rate.load(Ordering::Relaxed) >= FAST { LEAST_PLACED_FAST } else { LEAST_PLACED }
    }

    /// The segments for which the next round has enough that they are synced, among records each with the segment of its
    /// batch.
    pub(super) fn choose(&self, records: &[(WalRecord, Option<Arc<Segment>>)]) -> Vec<Arc<Segment>> {
        let mut bytes: HashMap<*const Segment, (usize, &Arc<Segment>)> = HashMap::new();
        for (record, segment) in records {
            // a segment in which recovery found much would have to be written again first, while the round waits
            if let (WalRecord::Batch { batch, .. }, Some(segment)) = (record, segment)
                && !segment.has_found()
            {
                bytes.entry(Arc::as_ptr(segment)).or_insert((0, segment)).0 += batch.size();
            }
        }
        let least_placed = self.least_placed();
        bytes.retain(|_, (bytes, _)| *bytes >= least_placed);
        let least = if self.placed.load(Ordering::Relaxed) { LEAST_NEXT_ROUND } else { LEAST_ROUND };
        let is_enough = bytes.values().map(|(bytes, _)| bytes).sum::<usize>() >= least;
        self.placed.store(is_enough, Ordering::Relaxed);
        if !is_enough {
            return Vec::new();
        }
        bytes.into_values().map(|(_, segment)| Arc::clone(segment)).collect()
    }

    /// Syncs segments that a round is going to name.
    ///
    /// # Errors
    /// Those of the system, final as those of the syncs (durability rule 6).
    pub(super) fn sync(&self, segments: &[Arc<Segment>]) -> Result<Vec<Synced>, LogStoreError> {
        // all of them are on their way to the disk while the first one is synced
        segments.iter().try_for_each(|segment| segment.start_write_back())?;
        let syncs = Arc::new(Syncs {
            segments: segments.to_vec(),
            next: AtomicUsize::new(0),
            synced: Mutex::default(),
            done: Condvar::new(),
        });
        // The first one commits the file system's journal for all. What is left for the others is a flush of the disk each, and
        // the system makes one of those that are asked for at a time.
        syncs.sync_next();
        for helper in self.helpers().iter().take(segments.len() / 2) {
            // without it the others do its part
            _ = helper.send(Arc::clone(&syncs));
        }
        while syncs.sync_next() {}
        let mut synced = lock(&syncs.synced);
        while synced.len() < segments.len() {
            synced = wait(&syncs.done, synced);
        }
        Ok(std::mem::take(&mut *synced))
    }

    /// The threads end when this is dropped.
    fn helpers(&self) -> &[Sender<Arc<Syncs>>] {
        self.helpers.get_or_init(|| {
            (0..HELPERS)
                .filter_map(|number| {
                    let (sender, receiver) = mpsc::channel::<Arc<Syncs>>();
                    let indispensable = Indispensable(Arc::clone(&self.fatal));
                    let run = move || {
                        let _indispensable = indispensable;
                        for syncs in receiver {
                            while syncs.sync_next() {}
                        }
                    };
                    let thread = std::thread::Builder::new().name(format!("segment-sync-{number}"));
                    // fewer do
                    thread.spawn(run).ok().map(|_| sender)
                })
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_disk_is_told_by_large_rounds() {
        let syncer = SegmentSyncer::new(Arc::new(|error| panic!("{error}")));
        let millisecond = Duration::from_millis(1);
        assert_eq!(syncer.least_placed(), LEAST_PLACED, "nothing is known");
        syncer.note_round(TELLING - 1, millisecond / 100);
        syncer.note_round(8 << 20, Duration::ZERO);
        assert_eq!(syncer.least_placed(), LEAST_PLACED, "neither tells");
        syncer.note_round(1 << 20, millisecond);
        assert_eq!(syncer.least_placed(), LEAST_PLACED_FAST, "1 GiB/s");
        syncer.note_round(1 << 20, 100 * millisecond);
        assert_eq!(syncer.least_placed(), LEAST_PLACED_FAST, "one that waited");
        for _ in 0..AVERAGED / 2 {
            syncer.note_round(1 << 20, 4 * millisecond);
        }
        assert_eq!(syncer.least_placed(), LEAST_PLACED_FAST, "not yet");
        for _ in 0..2 * AVERAGED {
            syncer.note_round(1 << 20, 4 * millisecond);
        }
        assert_eq!(syncer.least_placed(), LEAST_PLACED, "250 MiB/s");
    }
}
