//! Work on files that nobody waits for: syncing segments at a pace, checkpoints, sealing, unlinking.
//!
//! ```text
//!   syncer   the bytes of dirty segments go to the disk in pieces, soon after they are written and at a pace that follows
//!            what the node writes: a sync of the write-ahead log waits for whatever the disk was handed before it. A
//!            segment is synced once the node has written so much since it became dirty; at a checkpoint all that are
//!            dirty, then the checkpoint and its copy. The zeros of a new file of the ring keep to the same pace.
//!            While the node is busy segments wait: until the ring wants a checkpoint, only its bytes go out
//!   worker   indexes and seals of rolled segments, files to unlink, directories of deleted partitions
//!   (a thread of its own for each new file of the ring, of which there are at most 47 in a node's life)
//! ```

use std::{
    collections::VecDeque,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, OnceLock},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use log_store::{
    GroupStates, LogStoreError, ReplicaId, Segment,
    checkpoint::{Checkpoint, DamagedGroup, sync_segments},
    disk::{Access, Disk, write_cache_file},
    wal::{NewWalFile, WalFile, WalPosition},
};

use crate::{
    Partition,
    flusher::{Fatal, Indispensable},
    lock, wait, wait_for,
};

/// Bytes that the node writes between a segment's first unsynced byte and its sync. Each sync of a file that grew costs a
/// commit of the file system's journal, whatever it brings to the disk: with 64 busy partitions a third of these bytes made
/// three times as many.
const SYNC_AFTER: u64 = 96 << 20;

/// Bytes that the node writes between two looks at a dirty segment: what it holds then is handed to the disk. Linux hands
/// over what is left of a file that has been dirty for 30 s, all at once: 77 MB of 12 segments that waited for their sync
/// held up each sync of the write-ahead log for 170 ms.
const WRITE_BACK_AFTER: u64 = 8 << 20;

/// The least that is handed to the disk before the pace is looked at again; less than that is left to a segment's sync.
/// Without the pace, 16 MiB of each of six segments went out at once every nine seconds of 100,000 records/s: on a disk that
/// makes 260 MB/s durable each sync of the write-ahead log then took 10 ms for half a second, and the p99 from end to end
/// was 180 ms.
const LEAST_PIECE: u64 = 256 << 10;

/// The most.
const LARGEST_PIECE: u64 = 4 << 20;

/// Bytes handed to the disk for each byte that the node writes meanwhile: more than one, or the pile would never shrink.
const CATCH_UP: u64 = 2;

/// Bytes a second at which a node is busy: what the largest ring takes until its checkpoint is due then lasts no longer than the
/// 30 s after which Linux hands over by itself what is dirty. What is handed to the disk twice makes half as many bytes durable in the same time: on a disk that
/// makes 250 MB/s, batches of 16 KiB came to 100 MB/s instead of 160.
const BUSY: u64 = 64 << 20;

/// How often it is looked at whether a node is busy.
const LOOK: Duration = Duration::from_millis(500);

/// After so long the next piece goes out, whatever the node wrote.
const REST: Duration = Duration::from_millis(10);

/// The same after a burst, and for new files of the ring: the sooner the node is ready for the next one, the better.
const SHORT_REST: Duration = Duration::from_millis(1);

/// Work on the disk that nobody waits for.
pub(crate) type DiskWork = Box<dyn FnOnce(&dyn Disk) + Send>;

/// Something for the worker.
pub(crate) enum Job {
    /// Indexes and seals of segments that are closed.
    FinishRolled(Arc<Partition>),
    /// Files whose record is durable.
    Unlink(Vec<PathBuf>),
    /// The producer state at the start of a segment: a cache.
    ProducerSnapshot(PathBuf, Vec<u8>),
    /// Anything else.
    Run(DiskWork),
}

/// A checkpoint to be written.
struct Request {
    checkpoint: Checkpoint,
    touched: Vec<Arc<Partition>>,
    done: Box<dyn FnOnce(bool) + Send>,
}

/// A segment with unsynced bytes.
struct Dirty {
    segment: Arc<Segment>,
    /// What the node had written when it became dirty.
    since: u64,
    /// It is looked at once the node has written so much.
    due: u64,
}

struct Syncing {
    /// In the order in which they are due.
    dirty: VecDeque<Dirty>,
    written: u64,
    /// When it was last looked at how much is written, what that was, and whether the node was busy then.
    looked: Instant,
    written_then: u64,
    busy: bool,
    was_busy: bool,
    /// A burst ended, and nobody was told yet.
    rests: bool,
    /// Bytes that may be handed to the disk before the pace is looked at again, and what the node had written when it was.
    allowance: u64,
    written_at_look: u64,
    /// After so long the next piece of a segment goes out, whatever the node wrote.
    rest: Duration,
    /// Somebody rests until the node has written so much.
    wake_at: Option<u64>,
    request: Option<Request>,
    /// Somebody waits for the checkpoint, or for the next file of the ring: no pace.
    hurry: bool,
    stopping: bool,
}

impl Syncing {
    fn new() -> Self {
        Self {
            dirty: VecDeque::new(),
            written: 0,
            looked: Instant::now(),
            written_then: 0,
            busy: false,
            was_busy: false,
            rests: false,
            allowance: 0,
            written_at_look: 0,
            rest: REST,
            wake_at: None,
            request: None,
            hurry: false,
            stopping: false,
        }
    }

    fn is_due(&mut self) -> bool {
        self.request.is_some()
            || self.stopping
            || self.due_at().is_some_and(|due| self.written >= due) && !self.is_busy()
    }

    fn is_busy(&mut self) -> bool {
        let passed = self.looked.elapsed();
        if passed >= LOOK {
            let before = self.busy;
            self.busy = (self.written - self.written_then) as f64 > BUSY as f64 * passed.as_secs_f64();
            self.was_busy |= self.busy;
            self.rests |= before && !self.busy;
            (self.looked, self.written_then) = (Instant::now(), self.written);
        }
        self.busy
    }

    /// The first segment is due once the node has written so much.
    fn due_at(&self) -> Option<u64> {
        self.dirty.front().map(|dirty| dirty.due)
    }

    /// From here on the pace follows what the node writes: what it wrote while nobody had anything for the disk would come as
    /// one large piece.
    fn begin_pace(&mut self) {
        self.written_at_look = self.written;
    }

    fn is_in_hurry(&self) -> bool {
        self.hurry || self.stopping
    }

    fn wake_at(&mut self, written: u64) {
        self.wake_at = Some(self.wake_at.map_or(written, |at| at.min(written)));
    }
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<Job>,
    stopping: bool,
}

/// The threads that work on files.
pub(crate) struct Files {
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    /// Groups whose state recovery could not read.
    damaged: Mutex<Vec<DamagedGroup>>,
    fatal: Fatal,
    syncing: Mutex<Syncing>,
    sync: Condvar,
    /// Told when the node rests from a burst.
    rested: OnceLock<Box<dyn Fn() + Send + Sync>>,
    jobs: Mutex<Jobs>,
    job: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// A planted bug.
    #[cfg(test)]
    checkpoint_first: std::sync::atomic::AtomicBool,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

impl Files {
    /// Starts the threads. `damaged`: groups that recovery could not read, kept as they are in each checkpoint until
    /// they are forgotten.
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        data_dir: PathBuf,
        damaged: Vec<DamagedGroup>,
        fatal: Fatal,
    ) -> std::io::Result<Arc<Self>> {
        let files = Arc::new(Self {
            disk,
            data_dir,
            damaged: Mutex::new(damaged),
            fatal,
            syncing: Mutex::new(Syncing::new()),
            sync: Condvar::new(),
            rested: OnceLock::new(),
            jobs: Mutex::default(),
            job: Condvar::new(),
            threads: Mutex::default(),
            #[cfg(test)]
            checkpoint_first: Default::default(),
        });
        let syncer = Arc::clone(&files);
        files.spawn("segment-sync", move || syncer.run_syncer())?;
        let worker = Arc::clone(&files);
        files.spawn("file-worker", move || worker.run_worker())?;
        Ok(files)
    }

    /// A group whose state recovery could not read is not wanted any more; whether it was such a one.
    pub(crate) fn forget_damaged(&self, replica: ReplicaId) -> bool {
        lock(&self.damaged).extract_if(.., |group| group.replica == replica).count() > 0
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let indispensable = Indispensable(Arc::clone(&self.fatal));
        let run = move || {
            let _indispensable = indispensable;
            run();
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        let mut threads = lock(&self.threads);
        // those that made a file of the ring
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Ends the threads, once everything queued is done.
    pub(crate) fn stop(&self) {
        lock(&self.syncing).stopping = true;
        self.sync.notify_all();
        lock(&self.jobs).stopping = true;
        self.job.notify_all();
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            // a thread that panicked has said so
            let _ = thread.join();
        }
    }

    /// Queues a job.
    pub(crate) fn add(&self, job: Job) {
        lock(&self.jobs).queue.push_back(job);
        self.job.notify_one();
    }

    /// The producer state at the start of a segment, where it was written out.
    pub(crate) fn producer_snapshot(&self, directory: &str, base_offset: i64) -> Option<Vec<u8>> {
        // a cache: what cannot be read is not there
        self.disk.open(&self.snapshot_path(directory, base_offset), Access::Read).ok()?.read_all().ok()
    }

    /// Has the producer state at the start of a segment written out.
    pub(crate) fn write_producer_snapshot(&self, directory: &str, base_offset: i64, bytes: Vec<u8>) {
        self.add(Job::ProducerSnapshot(self.snapshot_path(directory, base_offset), bytes));
    }

    fn snapshot_path(&self, directory: &str, base_offset: i64) -> PathBuf {
        self.data_dir.join(directory).join(format!("{base_offset:020}.snapshot"))
    }

    /// Segments became dirty, and so many bytes were written.
    pub(crate) fn wrote(&self, dirty: Vec<Arc<Segment>>, bytes: u64) {
        let mut syncing = lock(&self.syncing);
        let since = syncing.written;
        let due = since + WRITE_BACK_AFTER;
        syncing.dirty.extend(dirty.into_iter().map(|segment| Dirty { segment, since, due }));
        syncing.written += bytes;
        if syncing.wake_at.is_some_and(|at| syncing.written >= at) {
            syncing.wake_at = None;
            drop(syncing);
            self.sync.notify_all();
        }
    }

    /// Has `rested` called when the node rests from a burst. Once in a life.
    pub(crate) fn when_rested(&self, rested: impl Fn() + Send + Sync + 'static) {
        // the flusher is the only one
        let _ = self.rested.set(Box::new(rested));
    }

    /// Whether so much is written that segments wait.
    pub(crate) fn is_busy(&self) -> bool {
        lock(&self.syncing).is_busy()
    }

    /// Whether the node was busy, and is not now: it makes ready for the next time.
    pub(crate) fn rests_from_a_burst(&self) -> bool {
        let mut syncing = lock(&self.syncing);
        !syncing.is_busy() && syncing.was_busy
    }

    /// Somebody waits for the checkpoint that is being written, or for the file of the ring that is being made, or does so no
    /// more. Who waits says both: the work may be done just before somebody begins to wait for it.
    pub(crate) fn hurry(&self, hurry: bool) {
        lock(&self.syncing).hurry = hurry;
        self.sync.notify_all();
    }

    /// Writes a checkpoint: the segments that hold bytes of its rounds are synced first. `done` hears whether it is
    /// there; on a full disk it is not, and the one before holds. What a burst or a crash left is wanted `soon`.
    pub(crate) fn checkpoint(
        &self,
        salt: u64,
        position: WalPosition,
        groups: GroupStates,
        touched: Vec<Arc<Partition>>,
        soon: bool,
        done: impl FnOnce(bool) + Send + 'static,
    ) {
        let checkpoint = Checkpoint { salt, position, groups, damaged: lock(&self.damaged).clone() };
        let mut syncing = lock(&self.syncing);
        syncing.rest = if soon { SHORT_REST } else { REST };
        syncing.request = Some(Request { checkpoint, touched, done: Box::new(done) });
        drop(syncing);
        self.sync.notify_all();
    }

    /// Makes the next file of the ring, while rounds go on.
    ///
    /// # Errors
    /// There is no thread for it; `done` is not called then.
    pub(crate) fn make_wal_file(
        self: &Arc<Self>,
        file: NewWalFile,
        done: impl FnOnce(Result<WalFile, LogStoreError>) + Send + 'static,
    ) -> std::io::Result<()> {
        let this = Arc::clone(self);
        self.spawn("wal-file", move || {
            lock(&this.syncing).begin_pace();
            let made = file.make(&*this.disk, &|piece| this.keep_pace(piece));
            done(made);
        })
    }

    /// Removes files at once.
    pub(crate) fn remove(&self, files: &[PathBuf]) {
        for file in files {
            remove(&*self.disk, file);
        }
    }

    fn run_syncer(&self) {
        loop {
            let mut syncing = lock(&self.syncing);
            loop {
                let is_due = syncing.is_due();
                if std::mem::take(&mut syncing.rests)
                    && let Some(rested) = self.rested.get()
                {
                    drop(syncing);
                    rested();
                    syncing = lock(&self.syncing);
                    continue;
                }
                if is_due {
                    break;
                }
                if syncing.due_at().is_some_and(|due| syncing.written >= due) {
                    syncing = wait_for(&self.sync, syncing, LOOK);
                    continue;
                }
                // without a dirty segment the first one makes itself heard
                let due = syncing.due_at().unwrap_or(0);
                syncing.wake_at(due);
                syncing = wait(&self.sync, syncing);
            }
            if let Some(request) = syncing.request.take() {
                let dirty: Vec<Arc<Segment>> = syncing.dirty.drain(..).map(|dirty| dirty.segment).collect();
                drop(syncing);
                let written = self.write_checkpoint(&request, &dirty);
                lock(&self.syncing).rest = REST;
                match written {
                    Ok(written) => (request.done)(written),
                    Err(error) => return (self.fatal)(&error),
                }
            } else if let Some(dirty) = syncing.dirty.pop_front().filter(|_| !syncing.stopping) {
                let is_synced = syncing.written >= dirty.since + SYNC_AFTER;
                drop(syncing);
                let mut done = self.write_back(&dirty.segment);
                if is_synced {
                    done = done.and_then(|()| dirty.segment.sync());
                } else {
                    let mut syncing = lock(&self.syncing);
                    let due = syncing.written + WRITE_BACK_AFTER;
                    syncing.dirty.push_back(Dirty { due, ..dirty });
                }
                if let Err(error) = done {
                    return (self.fatal)(&error);
                }
            } else {
                return;
            }
        }
    }

    /// Hands the unsynced bytes of a segment to the disk, at the pace; a sync has to follow, now or later.
    fn write_back(&self, segment: &Segment) -> Result<(), LogStoreError> {
        lock(&self.syncing).begin_pace();
        let mut unsynced = segment.unsynced_bytes();
        while unsynced >= LEAST_PIECE {
            let mut left = unsynced;
            while left > 0 {
                let Some(piece) = self.next_piece(left) else { return Ok(()) };
                segment.write_back(piece)?;
                left -= piece;
            }
            let written_meanwhile = segment.unsynced_bytes();
            if written_meanwhile > unsynced / 4 * 3 {
                // the disk is not as fast as what is written, and others are due
                break;
            }
            unsynced = written_meanwhile;
        }
        Ok(())
    }

    /// Waits until the pace allows so many bytes to be handed to the disk, or there is a hurry.
    fn keep_pace(&self, bytes: u64) {
        let mut left = bytes;
        while left > 0
            && let Some(piece) = self.next_piece_after(left, Some(SHORT_REST))
        {
            left -= piece;
        }
    }

    /// Waits until the pace allows some of so many bytes to be handed to the disk; `None` where there is a hurry.
    pub(crate) fn next_piece(&self, left: u64) -> Option<u64> {
        self.next_piece_after(left, None)
    }

    /// [`Files::next_piece`], where the longest rest may be another one.
    fn next_piece_after(&self, left: u64, rest: Option<Duration>) -> Option<u64> {
        let mut syncing = lock(&self.syncing);
        let rested = Instant::now() + rest.unwrap_or(syncing.rest);
        while syncing.allowance == 0 {
            let at = syncing.written_at_look + LEAST_PIECE / CATCH_UP;
            let rest = rested.saturating_duration_since(Instant::now());
            if syncing.written < at && !rest.is_zero() && !syncing.is_in_hurry() {
                syncing.wake_at(at);
                syncing = wait_for(&self.sync, syncing, rest);
                continue;
            }
            let written = syncing.written - syncing.written_at_look;
            syncing.allowance = (CATCH_UP * written).clamp(LEAST_PIECE, LARGEST_PIECE);
            syncing.written_at_look = syncing.written;
        }
        let piece = left.min(syncing.allowance);
        syncing.allowance -= piece;
        (!syncing.is_in_hurry()).then_some(piece)
    }

    fn write_checkpoint(&self, request: &Request, dirty: &[Arc<Segment>]) -> Result<bool, LogStoreError> {
        request.touched.iter().for_each(|partition| write_indexes(partition));
        #[cfg(test)]
        if self.checkpoint_first.load(std::sync::atomic::Ordering::SeqCst) {
            request.checkpoint.write(&*self.disk, &self.data_dir)?;
        }
        sync_segments(&*self.disk, &self.data_dir, dirty, |segment| self.write_back(segment))?;
        match request.checkpoint.write(&*self.disk, &self.data_dir) {
            Ok(()) => Ok(true),
            // it is written beside the one before, whole or not at all
            Err(error) if error.is_out_of_space() => {
                tracing::warn!(%error, "the checkpoint is tried again: free space on this disk");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The bug: checkpoints are written before their segments are synced.
    #[cfg(test)]
    pub(crate) fn write_checkpoints_first(&self) {
        self.checkpoint_first.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    fn run_worker(&self) {
        loop {
            let mut jobs = lock(&self.jobs);
            let job = loop {
                if let Some(job) = jobs.queue.pop_front() {
                    break job;
                }
                if jobs.stopping {
                    return;
                }
                jobs = wait(&self.job, jobs);
            };
            drop(jobs);
            match job {
                Job::FinishRolled(partition) => {
                    if let Some(Err(error)) = partition.in_directory(|log| log.finish_rolled()) {
                        tracing::warn!(%error, ?partition, "a closed segment is sealed later");
                    }
                }
                Job::Unlink(files) => self.remove(&files),
                Job::ProducerSnapshot(path, bytes) => {
                    if let Err(error) = write_cache_file(&*self.disk, &path, &bytes) {
                        tracing::debug!(%error, path = %path.display(), "producer state is rebuilt from headers");
                    }
                }
                Job::Run(run) => run(&*self.disk),
            }
        }
    }
}

pub(crate) fn write_indexes(partition: &Partition) {
    if let Some(Err(error)) = partition.in_directory(|log| log.write_indexes()) {
        tracing::warn!(%error, ?partition, "indexes are rebuilt at the next start");
    }
}

fn remove(disk: &dyn Disk, path: &Path) {
    match disk.remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        // recovery removes it at the next start
        Err(error) => tracing::warn!(%error, path = %path.display(), "a needless file could not be removed"),
    }
}
