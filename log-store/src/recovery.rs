//! Recovery: checkpoint + rounds + segments -> open logs, and a write-ahead log that goes on where it ended.
//!
//! ```text
//!   1  load the checkpoint (or its copy); sync the write-ahead log; read the records of the rounds behind the checkpoint
//!   2  fold them in memory: the end, floor, votes of every replica are known before a segment is looked at
//!   3  remove what belongs to no replica (any more); compare the head of every surviving batch with what its segment holds
//!   4  open each log: cut what lies beyond its end, walk the headers behind the checkpoint's end, check each batch there
//!   5  where 3 or 4 found a difference: write the replica's batches from the rounds, and open its log again
//!   6  mark what the rounds hold as unsynced in its segments, and go on behind the last round; the node's first
//!      checkpoint sets the rounds free
//! ```
//! After a kill -9 the segments have everything, in the page cache, and 5 has nothing to do: what is read are records of
//! rounds and the segments' unchecked ends. After a power cut 5 writes what never left memory.
//!
//! Where anything is out of the ordinary (the first start, a log that cannot be opened, a checkpoint that is not the same as its
//! copy, files of the ring that are not as they should be or that have no room left) recovery ends for itself: every batch of
//! the rounds is written, all is synced, and a checkpoint with a new salt begins a new ring. So it does where an earlier
//! recovery went on and there is no checkpoint since, which a round without records marks: the one that is written while the
//! node serves may not be there before the next crash, and where crashes follow quickly on each other, rounds would pile up
//! until the ring is full and nothing is acknowledged any more.
//!
//! Crashing anywhere and running it again changes nothing: the checkpoint and its rounds are untouched, and every step makes
//! the same bytes again. Work is bounded by the ring.
//!
//! # What was promised, and what may be lost
//! A record counts once its round's sync returned. Hence, with the disk's assumptions of [`wal`](crate::wal):
//! - every promised batch is at its place, whole, after any crash; votes never fall; no log ends above its rounds;
//! - what lies beyond a log's end was never acknowledged and is cut;
//! - the very last round may be torn: it was not acknowledged (or it rotted, which cannot be told from it here);
//! - a round missing *before* others is damage: refused, in words;
//! - a promised batch that is bad is corruption of one log: nothing of it is cut or removed, this group alone stays
//!   offline and keeps its promised end in the new checkpoint.
//!
//! A partition whose files cannot be written now (permissions, a mount that is missing) is offline too, and what the
//! rounds hold of it goes into `<data>/<replica>.rescued`, for the new checkpoint frees the rounds. The next recovery that
//! can write it takes the file in first, and removes it, durably, before anything is served.
//!
//! Batches that are found at their place are written again all the same before they are synced
//! ([`Segment::sync`]): a failed write-back leaves good bytes in the page cache and bad ones on the disk.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    io::IoSlice,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Buf, BufMut, Bytes};

use crate::{
    BatchHeader, GroupState, GroupStates, Log, LogEnd, LogStoreError, RecordBatch, ReplicaId, Segment,
    SegmentPool, WalRecord,
    batch::HEADER_BYTES,
    checkpoint::{CHECKPOINT, Checkpoint, DamagedGroup},
    config::LogConfig,
    data_directory::{DataDirectory, is_directory_of, write_partition_metadata},
    disk::{Access, Advice, DirEntry, Disk, DiskFile, write_file_atomically},
    segment::is_missing,
    wal::{NewWalFile, Payload, WalFile, WalOptions, WalPosition, WalReader, WalWriter},
};

/// Segment files written by the redo that are kept open at a time.
const OPEN_FILES: usize = 256;
/// Touched files up to which each is synced alone; more are synced by one sync of the file system.
const SYNCED_ALONE: usize = 256;
/// What files end with that keep batches of a replica that could not be written.
const RESCUED: &str = ".rescued";

/// How far recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Reading the write-ahead log: bytes so far.
    Reading(u64),
    /// Comparing its batches with what segments hold: bytes so far, and of how many.
    Comparing(u64, u64),
    /// Writing those that segments lack: bytes so far, and of at most how many.
    Writing(u64, u64),
    /// Opening logs: how many, and of how many.
    Opening(usize, usize),
    /// Making all of it durable.
    Syncing,
}

/// A bug that a test plants to see whether it is found; without the feature `mutants` nothing looks at it.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mutation {
    #[default]
    None,
    EqualBytesSkipped,
    OldSaltBelieved,
    LogBelievedUnsynced,
    LastRoundNotRewritten,
    HeadsNotCompared,
    MarkedSynced,
    LaterRoundIgnored,
    CheckpointBeforeSegments,
    OnlyAfterTheLastCut,
    CutTailsKept,
    ForeignDirectoriesKept,
    NewDirectoriesKept,
    DirectoriesNotSynced,
    ClampForgotten,
    WalkSkipped,
    SummaryTrusted,
    IndexTrusted,
    PlacedDirectoriesEmptied,
    PlacedNamesNotSynced,
    RingNotMadeFirst,
    MetaFirst,
    NothingRescued,
}

impl Mutation {
    pub(crate) fn planted(self, bug: Self) -> bool {
        cfg!(feature = "mutants") && self == bug
    }
}

/// What recovery needs.
pub struct RecoveryOptions<'a> {
    /// Bytes of each file of the write-ahead log.
    pub wal_file_bytes: u64,
    /// A fresh random number.
    pub salt: u64,
    /// Wall clock, milliseconds.
    pub now_ms: i64,
    /// The settings of a log.
    pub config: &'a dyn Fn(&GroupState) -> LogConfig,
    /// Told how far it is.
    pub progress: &'a mut dyn FnMut(Progress),
    /// A replica without whose state nothing is served, and what it holds.
    pub vital: Option<(ReplicaId, &'a str)>,
    /// For tests.
    #[doc(hidden)]
    pub mutation: Mutation,
}

/// A replica after recovery.
#[derive(Debug)]
pub struct RecoveredGroup {
    /// Its state as of the last durable round.
    pub state: GroupState,
    /// Its log, or why it is offline.
    pub log: Result<Arc<Log>, LogStoreError>,
}

/// A recovered node.
#[derive(Debug)]
pub struct Recovered {
    /// Every replica.
    pub groups: Vec<RecoveredGroup>,
    /// Replicas whose state was unreadable: offline, and nothing is known about them but their number.
    pub lost: Vec<ReplicaId>,
    /// The states as of the last round: what the flusher's shadow begins with.
    pub states: GroupStates,
    /// What is kept in checkpoints of those that are lost.
    pub damaged: Vec<DamagedGroup>,
    /// Segments with what the rounds hold: to be synced before the next checkpoint.
    pub dirty: Vec<Arc<Segment>>,
    /// Replicas of which the rounds tell.
    pub touched: HashSet<ReplicaId>,
    /// The write-ahead log, behind the last round.
    pub wal: WalWriter,
}

/// Recovers a node, or starts it for the first time.
///
/// # Errors
/// [`LogStoreError::Refused`] where promised data would be lost (the message says what to do);
/// [`LogStoreError::Io`] outside of single partitions.
pub fn recover(
    pool: &Arc<SegmentPool>,
    directory: &mut DataDirectory,
    mut options: RecoveryOptions<'_>,
) -> Result<Recovered, LogStoreError> {
    let disk = pool.disk().clone();
    let disk = &*disk;
    let mutation = options.mutation;
    pool.plant(mutation);
    let data = directory.path().to_owned();
    let before = load(disk, directory)?;
    if let (Some(checkpoint), Some(vital)) = (&before, options.vital) {
        check_vital(&data, checkpoint, vital)?;
    }
    let mut rounds = match &before {
        Some(Checkpoint { salt, position, .. }) => {
            Some(WalReader::open(disk, directory.wal_dir(), *salt, *position, mutation)?)
        }
        None => None,
    };
    let history = match (&before, &mut rounds) {
        (Some(checkpoint), Some(rounds)) => History::read(checkpoint, rounds, &mut options)?,
        _ => History::default(),
    };
    let damaged = before.map(|checkpoint| checkpoint.damaged).unwrap_or_default();
    let mut redo = Redo::new(disk, &data, &history);
    if damaged.is_empty() && !mutation.planted(Mutation::ForeignDirectoriesKept) {
        redo.remove_foreign_directories()?;
    }
    let different = match &mut rounds {
        Some(rounds) => redo.prepare(rounds, &mut options)?,
        None => BTreeSet::new(),
    };
    let mut groups = redo.open_logs(pool, &mut options);
    if let Some(rounds) = &mut rounds {
        redo.mend(pool, rounds, &mut groups, different, &mut options)?;
    }

    let free_bytes =
        disk.free_bytes(directory.wal_dir()).map_err(LogStoreError::io("look at", directory.wal_dir()))?;
    let mut wal_options = WalOptions::new(directory.wal_dir().to_owned(), options.wal_file_bytes, free_bytes);
    let mut states = GroupStates::default();
    groups.iter().for_each(|group| states.insert(group.state.clone()));
    let lost = damaged.iter().map(|it| it.replica).collect();
    if let Some(rounds) = &mut rounds
        && damaged.is_empty()
        && !history.marked
        && redo.is_ordinary(&groups)
        && Checkpoint::is_twofold(disk, &data)?
    {
        // after a kill -9 the name of the checkpoint may be in memory only, and files that it set free are used again
        disk.sync_dir(&data).map_err(LogStoreError::io("sync", &data))?;
        let ring = Ring::prepare(disk, &mut wal_options)?;
        if ring.holds(rounds, &wal_options) {
            let dirty = redo.mark_unsynced(&groups, mutation);
            let files = ring.open(disk)?;
            let wal = WalWriter::resume(wal_options, rounds, history.uncovered.clone(), files)?;
            let touched =
                history.replicas.keys().copied().filter(|replica| history.told.contains(replica)).collect();
            return Ok(Recovered { groups, lost, states, damaged, dirty, touched, wal });
        }
    }
    if let Some(rounds) = &mut rounds {
        let all = history.states.iter().map(|state| state.replica).collect();
        // also where the bytes seem equal, but no segment comes back that its log has given up
        redo.write_batches(&all, Access::Existing, rounds, &mut options)?;
        redo.rescue(rounds, mutation)?;
    }
    let checkpoint = Checkpoint {
        salt: options.salt,
        position: WalPosition { round: history.last_round, file: 0, position: 0 },
        groups: states,
        damaged,
    };
    let wal = redo.end(directory, wal_options, checkpoint.clone(), &mut options)?;
    let Checkpoint { groups: states, damaged, .. } = checkpoint;
    Ok(Recovered { groups, lost, states, damaged, dirty: Vec::new(), touched: HashSet::new(), wal })
}

/// The checkpoint, or `None` in a first start.
fn load(disk: &dyn Disk, directory: &DataDirectory) -> Result<Option<Checkpoint>, LogStoreError> {
    if directory.is_fresh() {
        return Ok(None);
    }
    match Checkpoint::load(disk, directory.path())? {
        Some(checkpoint) => Ok(Some(checkpoint)),
        None => Err(LogStoreError::Refused(format!(
            "{} has no checkpoint and no copy of it, so the ends of its logs are unknown: restore both from a backup, or \
             start from an empty directory and let the other replicas fill it",
            directory.path().display()
        ))),
    }
}

/// Refuses before anything is written: the rounds of the replica are still there for a checkpoint that is restored.
fn check_vital(
    data: &Path,
    checkpoint: &Checkpoint,
    (replica, what): (ReplicaId, &str),
) -> Result<(), LogStoreError> {
    if checkpoint.damaged.iter().all(|group| group.replica != replica) {
        return Ok(());
    }
    Err(LogStoreError::Refused(format!(
        "{} and its copy are both damaged where they tell of {what}, without which nothing can be served. Nothing was \
         changed: restore the data directory from a backup, or start from an empty one and let the other replicas \
         fill it",
        data.join(CHECKPOINT).display()
    )))
}

/// What the rounds say, folded.
#[derive(Default)]
struct History {
    states: GroupStates,
    last_round: u64,
    /// Bytes of batches in the rounds.
    batch_bytes: u64,
    /// The rounds, with the bytes of each and of the batches that it names.
    uncovered: VecDeque<(u64, u64)>,
    /// An earlier recovery went on behind some of them.
    marked: bool,
    /// Replicas of which the rounds tell.
    told: HashSet<ReplicaId>,
    replicas: HashMap<ReplicaId, ReplicaHistory>,
}

/// What the rounds say about one replica, besides its state.
#[derive(Default)]
struct ReplicaHistory {
    /// It was created since the checkpoint: the rounds hold all of it, or name it.
    new: bool,
    /// Batches are named that its segments hold: its directory was durable before their round was written.
    placed: bool,
    /// The lowest end that the log had since the checkpoint: what lies behind it was written since.
    unchecked: Option<LogEnd>,
    /// Cuts: the record's number in the history, and the first index that it removed.
    cuts: Vec<(u64, u64)>,
    /// Segments that were closed since the checkpoint, and where each ends.
    closed: BTreeMap<i64, u64>,
    /// Why nothing more of it is believed.
    broken: Option<LogStoreError>,
}

impl ReplicaHistory {
    /// Whether the batch that was record `number` of the history survived what came later.
    fn survives(&self, number: u64, index: u64, mutation: Mutation) -> bool {
        if mutation.planted(Mutation::OnlyAfterTheLastCut) {
            return self.cuts.iter().all(|(cut, _)| *cut < number);
        }
        self.broken.is_none() && self.cuts.iter().all(|(cut, from)| *cut < number || index < *from)
    }
}

impl History {
    fn read(
        checkpoint: &Checkpoint,
        rounds: &mut WalReader,
        options: &mut RecoveryOptions<'_>,
    ) -> Result<Self, LogStoreError> {
        let mut history = Self {
            states: checkpoint.groups.clone(),
            last_round: checkpoint.position.round,
            batch_bytes: 0,
            uncovered: VecDeque::new(),
            marked: false,
            told: HashSet::new(),
            replicas: HashMap::new(),
        };
        for state in checkpoint.groups.iter() {
            let known = ReplicaHistory { unchecked: Some(state.end), ..ReplicaHistory::default() };
            history.replicas.insert(state.replica, known);
        }
        let damaged: HashSet<_> = checkpoint.damaged.iter().map(|group| group.replica).collect();
        let mut number = 0;
        let mut bytes = 0;
        while let Some(round) = rounds.next_round()? {
            let mut uncovered = round.padded_len;
            for record in round.records() {
                number += 1;
                let (record, held) = record?;
                if let WalRecord::Placed { head, .. } = &record
                    && held.is_none()
                {
                    uncovered += BatchHeader::decode(head).size() as u64;
                }
                if !damaged.contains(&record.replica()) {
                    history.fold(number, &record, held.is_some());
                }
            }
            history.last_round = round.number;
            history.marked |= round.marks_recovery();
            history.uncovered.push_back((round.number, uncovered));
            bytes += round.padded_len;
            (options.progress)(Progress::Reading(bytes));
        }
        for state in history.states.iter_mut() {
            if !options.mutation.planted(Mutation::ClampForgotten) {
                state.clamp(state.committed, state.log_start);
            }
        }
        Ok(history)
    }

    /// Takes in a record; of a batch, whether its round holds it.
    fn fold(&mut self, number: u64, record: &WalRecord, held: bool) {
        let replica = record.replica();
        self.told.insert(replica);
        let known = self.replicas.entry(replica).or_default();
        if known.broken.is_some() {
            return;
        }
        let resets = match record {
            WalRecord::Installed { log_id, .. } => {
                self.states.get(replica).is_some_and(|state| !state.holds(*log_id))
            }
            _ => false,
        };
        let before = self.states.get(replica).map(|state| state.end);
        if let Err(error) = self.states.fold(record) {
            tracing::error!(%replica, %error, "a round of the write-ahead log does not fit; the replica stays offline");
            known.broken = Some(error);
            return;
        }
        match record {
            WalRecord::Created { .. } => known.new = true,
            WalRecord::Dropped { .. } => _ = self.replicas.remove(&replica),
            WalRecord::Placed { segment, head, .. } => {
                if held {
                    self.batch_bytes += BatchHeader::decode(head).size() as u64;
                } else {
                    known.placed = true;
                }
                known.close_before(before, *segment);
            }
            WalRecord::Cut { after, end, .. } => {
                known.closed.split_off(&end.segment);
                known.cuts.push((number, after.map_or(0, |after| after.index + 1)));
                known.lower_unchecked(*end);
            }
            WalRecord::Installed { next_offset, log_id, .. } if resets => {
                known.cuts.push((number, 0));
                known.closed.clear();
                let (segment, last) = (*next_offset, Some(*log_id));
                known.unchecked = Some(LogEnd { segment, position: 0, last, next_offset: segment });
            }
            WalRecord::Vote { .. }
            | WalRecord::Control { .. }
            | WalRecord::Batch { .. }
            | WalRecord::Purge { .. }
            | WalRecord::Installed { .. }
            | WalRecord::Snapshot { .. } => {}
        }
    }
}

impl ReplicaHistory {
    /// A batch went into `segment`, the log having ended at `end`.
    fn close_before(&mut self, end: Option<LogEnd>, segment: i64) {
        if let Some(end) = end.filter(|end| end.segment != segment) {
            self.closed.insert(end.segment, end.position);
        }
    }

    fn lower_unchecked(&mut self, end: LogEnd) {
        if self.unchecked.is_some_and(|old| (end.segment, end.position) < (old.segment, old.position)) {
            self.unchecked = Some(end);
        }
    }
}

/// A batch that a round holds.
struct Held {
    position: u64,
    head: [u8; HEADER_BYTES],
    record: WalRecord,
    payload: Payload,
}

/// Brings the files to what the history says.
struct Redo<'a> {
    disk: &'a dyn Disk,
    data: &'a Path,
    history: &'a History,
    /// The directory of each replica.
    dirs: HashMap<ReplicaId, PathBuf>,
    /// Segment files open for writing, by replica and base offset.
    open: HashMap<(ReplicaId, i64), Arc<dyn DiskFile>>,
    /// Every segment of which rounds hold something, and where that lies in it, or that was cut; in order, so that recovery does
    /// the same to the same disk, and a crash in it can be repeated.
    touched: BTreeMap<(ReplicaId, i64), Range<u64>>,
    /// Why replicas cannot be written, until it is said.
    failed: HashMap<ReplicaId, LogStoreError>,
    /// Replicas that cannot be written.
    unwritten: BTreeSet<ReplicaId>,
    /// Batches that an earlier recovery could not write.
    rescued: HashMap<ReplicaId, Vec<WalRecord>>,
    /// Files of them that are needless once the new checkpoint is durable.
    needless: Vec<PathBuf>,
}

impl<'a> Redo<'a> {
    fn new(disk: &'a dyn Disk, data: &'a Path, history: &'a History) -> Self {
        let dirs = history.states.iter().map(|state| (state.replica, data.join(state.directory()))).collect();
        Self {
            disk,
            data,
            history,
            dirs,
            open: HashMap::new(),
            touched: BTreeMap::new(),
            failed: HashMap::new(),
            unwritten: BTreeSet::new(),
            rescued: HashMap::new(),
            needless: Vec::new(),
        }
    }

    /// Removes directories that look like a partition's but belong to no replica (topics that were deleted, or whose
    /// creation was never promised), and what a replacement of a file left behind.
    fn remove_foreign_directories(&self) -> Result<(), LogStoreError> {
        let owned: HashSet<_> = self.dirs.values().collect();
        for entry in self.disk.list(self.data).map_err(LogStoreError::io("list", self.data))? {
            let path = self.data.join(&entry.name);
            let name = entry.name.to_string_lossy();
            if !entry.is_dir {
                if name.ends_with(".tmp") {
                    self.disk.remove_file(&path).map_err(LogStoreError::io("remove", &path))?;
                }
            } else if !owned.contains(&path)
                && is_partition_name(&name)
                && let Err(error) = remove_partition_directory(self.disk, &path)
            {
                // in the way of nobody: a new replica of that name makes its own check
                tracing::warn!(%error, "a directory that belongs to no partition could not be removed");
            }
        }
        Ok(())
    }

    /// Makes the directories ready, and finds the replicas whose segments differ from what the rounds say. Rounds are not kept
    /// in memory: the ring may be larger.
    fn prepare(
        &mut self,
        rounds: &mut WalReader,
        options: &mut RecoveryOptions<'_>,
    ) -> Result<BTreeSet<ReplicaId>, LogStoreError> {
        for state in self.history.states.iter() {
            if let Err(error) = self.make_directory(state, options.mutation) {
                self.fail(state.replica, error);
            }
        }
        self.write_rescued(options.mutation)?;
        let mut different: BTreeSet<_> = self.rescued.keys().copied().collect();
        let mut compared = 0;
        self.each_run(rounds, options, |redo, _, progress, replica, segment, batches| {
            let range = redo.touched.entry((replica, segment)).or_insert(batches[0].position..0);
            range.start = range.start.min(batches[0].position);
            for batch in &batches {
                let end = batch.position + BatchHeader::decode(&batch.head).size() as u64;
                range.end = range.end.max(end);
                compared += end - batch.position;
            }
            if !different.contains(&replica) && !redo.has_heads(replica, segment, &batches) {
                different.insert(replica);
            }
            progress(Progress::Comparing(compared, redo.history.batch_bytes));
            Ok(())
        })?;
        if options.mutation.planted(Mutation::HeadsNotCompared) {
            different.retain(|replica| self.rescued.contains_key(replica));
        }
        self.write_batches(&different, Access::Write, rounds, options)?;
        if !options.mutation.planted(Mutation::CutTailsKept) {
            self.remove_cut_tails();
        }
        Ok(different)
    }

    /// Runs over the batches that rounds hold and that survived, a round's batches of a segment at a time.
    fn each_run(
        &mut self,
        rounds: &mut WalReader,
        options: &mut RecoveryOptions<'_>,
        mut take: impl FnMut(
            &mut Self,
            &mut WalReader,
            &mut dyn FnMut(Progress),
            ReplicaId,
            i64,
            Vec<Held>,
        ) -> Result<(), LogStoreError>,
    ) -> Result<(), LogStoreError> {
        rounds.rewind();
        let mut number = 0;
        while let Some(round) = rounds.next_round()? {
            let mut runs: BTreeMap<(ReplicaId, i64), Vec<Held>> = BTreeMap::new();
            for record in round.records() {
                number += 1;
                if let (record @ WalRecord::Placed { replica, index, segment, position, head }, Some(payload)) =
                    record?
                    && self.dirs.contains_key(&replica)
                    && let Some(known) = self.history.replicas.get(&replica)
                    && known.survives(number, index, options.mutation)
                {
                    let held = Held { position, head, record, payload };
                    runs.entry((replica, segment)).or_default().push(held);
                }
            }
            for ((replica, segment), batches) in runs {
                take(self, rounds, options.progress, replica, segment, batches)?;
            }
        }
        Ok(())
    }

    /// Whether a segment has the heads of these batches where they belong.
    fn has_heads(&mut self, replica: ReplicaId, segment: i64, batches: &[Held]) -> bool {
        let Ok(file) = self.open_segment(replica, segment, Access::Read) else { return false };
        if let (Some(first), Some(last)) = (batches.first(), batches.last()) {
            // all of it is going to be checked, and head by head the disk would be asked for each; without it it is slower
            let _ = file.advise(first.position..last.position + HEADER_BYTES as u64, Advice::WillNeed);
        }
        let mut there = [0; HEADER_BYTES];
        batches.iter().all(|batch| {
            file.read_at(&mut there, batch.position).is_ok_and(|read| read == there.len())
                && there == batch.head
        })
    }

    /// Writes what survived of these replicas.
    fn write_batches(
        &mut self,
        replicas: &BTreeSet<ReplicaId>,
        access: Access,
        rounds: &mut WalReader,
        options: &mut RecoveryOptions<'_>,
    ) -> Result<(), LogStoreError> {
        self.open.clear();
        if replicas.is_empty() {
            return Ok(());
        }
        let mutation = options.mutation;
        let mut written = 0;
        self.each_run(rounds, options, |redo, rounds, progress, replica, segment, batches| {
            if !replicas.contains(&replica) {
                return Ok(());
            }
            let mut whole = Vec::with_capacity(batches.len());
            for held in &batches {
                // one that is damaged here may be whole where it lies; else the log does not open
                if let Some(batch) = rounds.payload(&held.record, &held.payload)? {
                    written += batch.size() as u64;
                    whole.push((held.position, batch));
                }
            }
            match redo.write_run(replica, segment, &whole, access, mutation) {
                Err(error) if access == Access::Existing && is_missing(&error) => {}
                Err(error) => redo.fail(replica, error),
                Ok(()) => {}
            }
            progress(Progress::Writing(written, redo.history.batch_bytes));
            Ok(())
        })?;
        self.open.clear();
        Ok(())
    }

    /// Writes the batches of logs that did not open, and opens them again.
    fn mend(
        &mut self,
        pool: &Arc<SegmentPool>,
        rounds: &mut WalReader,
        groups: &mut [RecoveredGroup],
        written: BTreeSet<ReplicaId>,
        options: &mut RecoveryOptions<'_>,
    ) -> Result<(), LogStoreError> {
        let held: BTreeSet<_> = self.touched.keys().map(|(replica, _)| *replica).collect();
        let mendable: BTreeSet<_> = groups
            .iter()
            .filter(|group| group.log.is_err())
            .map(|group| group.state.replica)
            .filter(|replica| {
                held.contains(replica) && !written.contains(replica) && !self.unwritten.contains(replica)
            })
            .collect();
        self.write_batches(&mendable, Access::Write, rounds, options)?;
        for group in groups.iter_mut().filter(|group| mendable.contains(&group.state.replica)) {
            group.log = self.open_log(pool, &group.state, options);
        }
        for RecoveredGroup { state, log } in groups.iter() {
            if let Err(error) = log {
                tracing::error!(
                    topic = state.topic,
                    partition = state.partition,
                    %error,
                    "this partition is offline: nothing of it was changed. Restore its directory from a copy, make it \
                     readable, or delete the topic; the others are served"
                );
            }
        }
        Ok(())
    }

    /// Whether nothing is out of the ordinary.
    fn is_ordinary(&self, groups: &[RecoveredGroup]) -> bool {
        self.rescued.is_empty()
            && self.needless.is_empty()
            && self.unwritten.is_empty()
            && groups.iter().all(|group| group.log.is_ok())
    }

    /// Marks what the rounds hold as unsynced, so that the next checkpoint syncs it.
    fn mark_unsynced(&self, groups: &[RecoveredGroup], mutation: Mutation) -> Vec<Arc<Segment>> {
        let logs: HashMap<_, _> =
            groups.iter().filter_map(|group| Some((group.state.replica, group.log.as_ref().ok()?))).collect();
        if mutation.planted(Mutation::MarkedSynced) {
            return Vec::new();
        }
        self.touched
            .iter()
            .filter_map(|((replica, segment), range)| {
                logs.get(replica)?.mark_unsynced(*segment, range.clone())
            })
            .collect()
    }

    /// Makes everything durable, and begins a new ring with a checkpoint.
    fn end(
        &self,
        directory: &mut DataDirectory,
        mut wal_options: WalOptions,
        mut checkpoint: Checkpoint,
        options: &mut RecoveryOptions<'_>,
    ) -> Result<WalWriter, LogStoreError> {
        let mutation = options.mutation;
        if mutation.planted(Mutation::CheckpointBeforeSegments) {
            let ring = Ring::prepare(self.disk, &mut wal_options)?;
            checkpoint.position.file = ring.first();
            checkpoint.write(self.disk, self.data)?;
        }
        (options.progress)(Progress::Syncing);
        self.sync(mutation)?;
        if mutation.planted(Mutation::MetaFirst) {
            directory.finish_first_start()?;
        }
        let ring = if mutation.planted(Mutation::RingNotMadeFirst) {
            checkpoint.write(self.disk, self.data)?;
            directory.finish_first_start()?;
            Ring::prepare(self.disk, &mut wal_options)?
        } else {
            let ring = Ring::prepare(self.disk, &mut wal_options)?;
            checkpoint.position.file = ring.first();
            checkpoint.write(self.disk, self.data)?;
            ring
        };
        self.forget_rescued()?;
        directory.finish_first_start()?;
        let files = ring.open(self.disk)?;
        Ok(WalWriter::new(wal_options, options.salt, checkpoint.position.round, files))
    }

    fn rescued_path(&self, replica: ReplicaId) -> PathBuf {
        self.data.join(format!("{replica}{RESCUED}"))
    }

    /// Takes in what an earlier recovery could not write.
    fn write_rescued(&mut self, mutation: Mutation) -> Result<(), LogStoreError> {
        for entry in self.disk.list(self.data).map_err(LogStoreError::io("list", self.data))? {
            let name = entry.name.to_string_lossy();
            let Some(replica) =
                name.strip_suffix(RESCUED).and_then(|number| number.parse().ok().map(ReplicaId))
            else {
                continue;
            };
            let path = self.data.join(&entry.name);
            if !self.dirs.contains_key(&replica) {
                self.needless.push(path);
                continue;
            }
            let records = match self.read_rescued(&path) {
                Ok(records) => records,
                Err(error) => {
                    self.fail(replica, error);
                    continue;
                }
            };
            for record in &records {
                if let WalRecord::Batch { segment, position, batch, .. } = record
                    && let Err(error) = self.write_run(
                        replica,
                        *segment,
                        &[(*position, batch.clone())],
                        Access::Write,
                        mutation,
                    )
                {
                    self.fail(replica, error);
                }
            }
            self.rescued.insert(replica, records);
            if !self.unwritten.contains(&replica) {
                self.needless.push(path);
            }
        }
        Ok(())
    }

    fn read_rescued(&self, path: &Path) -> Result<Vec<WalRecord>, LogStoreError> {
        let file = self.disk.open(path, Access::Read).map_err(LogStoreError::io("open", path))?;
        let mut bytes = Bytes::from(file.read_all().map_err(LogStoreError::io("read", path))?);
        let damaged = |position: usize, reason: &str| LogStoreError::Corrupt {
            path: path.to_owned(),
            position: position as u64,
            reason: reason.to_owned(),
        };
        let mut sum = bytes.split_off(bytes.len().saturating_sub(4));
        if sum.try_get_u32().ok() != Some(crc32fast::hash(&bytes)) {
            return Err(damaged(bytes.len(), "the checksum does not match"));
        }
        let len = bytes.len();
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let position = len - bytes.len();
            records.push(WalRecord::decode(&mut bytes).ok_or_else(|| damaged(position, "no record"))?);
        }
        Ok(records)
    }

    /// Keeps what the rounds hold of replicas that cannot be written.
    fn rescue(&mut self, rounds: &mut WalReader, mutation: Mutation) -> Result<(), LogStoreError> {
        if self.unwritten.is_empty() || mutation.planted(Mutation::NothingRescued) {
            return Ok(());
        }
        let mut kept: BTreeMap<ReplicaId, Vec<WalRecord>> = BTreeMap::new();
        for replica in &self.unwritten {
            kept.insert(*replica, self.rescued.remove(replica).unwrap_or_default());
        }
        rounds.rewind();
        let mut number = 0;
        while let Some(round) = rounds.next_round()? {
            for record in round.records() {
                number += 1;
                if let (record @ WalRecord::Placed { replica, index, segment, position, .. }, Some(payload)) =
                    record?
                    && let Some(known) = self.history.replicas.get(&replica)
                    && known.survives(number, index, mutation)
                    && let Some(records) = kept.get_mut(&replica)
                    && let Some(batch) = rounds.payload(&record, &payload)?
                {
                    records.push(WalRecord::Batch { replica, index, segment, position, batch });
                }
            }
        }
        for (replica, records) in kept.into_iter().filter(|(_, records)| !records.is_empty()) {
            let mut bytes = Vec::new();
            records.iter().for_each(|record| record.encode(&mut bytes));
            let sum = crc32fast::hash(&bytes);
            bytes.put_u32(sum);
            let path = self.rescued_path(replica);
            write_file_atomically(self.disk, &path, &bytes).map_err(LogStoreError::io("write", &path))?;
        }
        Ok(())
    }

    /// The new checkpoint holds what was taken in: its files go, durably, before anything can be written over it.
    fn forget_rescued(&self) -> Result<(), LogStoreError> {
        for path in &self.needless {
            self.disk.remove_file(path).map_err(LogStoreError::io("remove", path))?;
        }
        if self.needless.is_empty() {
            return Ok(());
        }
        self.disk.sync_dir(self.data).map_err(LogStoreError::io("sync", self.data))
    }

    /// Removes what an earlier cut left, for the removal may not have become durable: bytes behind the end of segments
    /// that were closed since, and segments between them. The active segment is cut when its log is opened.
    fn remove_cut_tails(&mut self) {
        let mut failed = Vec::new();
        for state in self.history.states.iter().filter(|state| !self.unwritten.contains(&state.replica)) {
            if let Some(known) =
                self.history.replicas.get(&state.replica).filter(|known| !known.cuts.is_empty())
                && let Err(error) = self.remove_cut_tails_of(state, known)
            {
                failed.push((state.replica, error));
            }
        }
        failed.into_iter().for_each(|(replica, error)| self.fail(replica, error));
    }

    fn remove_cut_tails_of(&self, state: &GroupState, known: &ReplicaHistory) -> Result<(), LogStoreError> {
        let dir = &self.dirs[&state.replica];
        for entry in self.disk.list(dir).map_err(LogStoreError::io("list", dir))? {
            let name = entry.name.to_string_lossy();
            let Some(base) = name.split_once('.').and_then(|(base, _)| base.parse::<i64>().ok()) else {
                continue;
            };
            let path = dir.join(&entry.name);
            // below the lowest end since the checkpoint nothing was cut
            let since = known.unchecked.is_none_or(|end| base > end.segment);
            if since && base != state.end.segment && !known.closed.contains_key(&base) {
                self.disk.remove_file(&path).map_err(LogStoreError::io("remove", &path))?;
            } else if let Some(end) = known.closed.get(&base)
                && name.ends_with(".log")
            {
                let file = self.disk.open(&path, Access::Write).map_err(LogStoreError::io("open", &path))?;
                if file.len().map_err(LogStoreError::io("measure", &path))? > *end {
                    file.set_len(*end).map_err(LogStoreError::io("cut", &path))?;
                }
                // also where it is short enough: that may be so in the page cache only
                file.sync().map_err(LogStoreError::io("sync", &path))?;
            }
        }
        self.disk.sync_dir(dir).map_err(LogStoreError::io("sync", dir))
    }

    fn make_directory(&self, state: &GroupState, mutation: Mutation) -> Result<(), LogStoreError> {
        let dir = &self.dirs[&state.replica];
        self.disk.create_dir(dir).map_err(LogStoreError::io("make", dir))?;
        let known = self.history.replicas.get(&state.replica);
        let placed_is_kept = !mutation.planted(Mutation::PlacedDirectoriesEmptied);
        if known.is_some_and(|known| known.new && !(known.placed && placed_is_kept))
            && !is_directory_of(self.disk, dir, state.topic_id)
            && !mutation.planted(Mutation::NewDirectoriesKept)
        {
            self.empty_directory(dir)?;
        }
        write_partition_metadata(self.disk, dir, state.topic_id)
    }

    /// Nobody synced the other name that a dropped replica's directory got, so it may lie where the next replica of the
    /// partition was made. All that this one has is in the rounds: once a round names what lies in its segments, its
    /// directory is durable, and the other name, too.
    fn empty_directory(&self, dir: &Path) -> Result<(), LogStoreError> {
        let mut emptied = false;
        for entry in self.disk.list(dir).map_err(LogStoreError::io("list", dir))? {
            if !entry.is_dir && is_partition_file(&entry.name.to_string_lossy()) {
                let path = dir.join(&entry.name);
                self.disk.remove_file(&path).map_err(LogStoreError::io("remove", &path))?;
                emptied = true;
            }
        }
        if !emptied {
            return Ok(());
        }
        // the new checkpoint will hold the replica, and then nothing empties it any more
        self.disk.sync_dir(dir).map_err(LogStoreError::io("sync", dir))
    }

    fn fail(&mut self, replica: ReplicaId, error: LogStoreError) {
        self.unwritten.insert(replica);
        self.failed.entry(replica).or_insert(error);
    }

    fn write_run(
        &mut self,
        replica: ReplicaId,
        segment: i64,
        batches: &[(u64, RecordBatch)],
        access: Access,
        mutation: Mutation,
    ) -> Result<(), LogStoreError> {
        if self.unwritten.contains(&replica) {
            return Ok(());
        }
        let path = self.segment_path(replica, segment);
        let file = self.open_segment(replica, segment, access)?;
        if let (Some((first, _)), Some((last, batch))) = (batches.first(), batches.last()) {
            let range = self.touched.entry((replica, segment)).or_insert(*first..0);
            *range = range.start.min(*first)..range.end.max(last + batch.size() as u64);
        }
        let mut slices = Vec::new();
        let (mut begin, mut end) = (0, 0);
        for (position, batch) in batches {
            if *position != end || slices.len() >= 512 {
                write(&*file, &path, &slices, begin, mutation)?;
                slices.clear();
                begin = *position;
                end = begin;
            }
            slices.push(IoSlice::new(&batch.head));
            slices.push(IoSlice::new(&batch.records));
            end += batch.size() as u64;
        }
        write(&*file, &path, &slices, begin, mutation)
    }

    /// The file of a segment, kept open for what follows.
    fn open_segment(
        &mut self,
        replica: ReplicaId,
        segment: i64,
        access: Access,
    ) -> Result<Arc<dyn DiskFile>, LogStoreError> {
        if let Some(file) = self.open.get(&(replica, segment)) {
            return Ok(Arc::clone(file));
        }
        if self.open.len() >= OPEN_FILES {
            self.open.clear();
        }
        let path = self.segment_path(replica, segment);
        let file = self.disk.open(&path, access).map_err(LogStoreError::io("open", &path))?;
        self.open.insert((replica, segment), Arc::clone(&file));
        Ok(file)
    }

    fn segment_path(&self, replica: ReplicaId, segment: i64) -> PathBuf {
        self.dirs[&replica].join(format!("{segment:020}.log"))
    }

    fn open_logs(
        &mut self,
        pool: &Arc<SegmentPool>,
        options: &mut RecoveryOptions<'_>,
    ) -> Vec<RecoveredGroup> {
        self.open.clear();
        let total = self.history.states.len();
        let mut groups = Vec::with_capacity(total);
        for state in self.history.states.iter() {
            let log = self.open_log(pool, state, options);
            groups.push(RecoveredGroup { state: state.clone(), log });
            (options.progress)(Progress::Opening(groups.len(), total));
        }
        groups
    }

    fn open_log(
        &mut self,
        pool: &Arc<SegmentPool>,
        state: &GroupState,
        options: &RecoveryOptions<'_>,
    ) -> Result<Arc<Log>, LogStoreError> {
        if let Some(error) = self.failed.remove(&state.replica) {
            return Err(error);
        }
        let known = self.history.replicas.get(&state.replica);
        if let Some(ReplicaHistory { broken: Some(error), .. }) = known {
            return Err(LogStoreError::Invariant { replica: state.replica, reason: error.to_string() });
        }
        let unchecked = match known {
            _ if self.rescued.contains_key(&state.replica) => None,
            _ if options.mutation.planted(Mutation::WalkSkipped) => Some(state.end),
            Some(known) => {
                known.unchecked.or(Some(LogEnd { segment: 0, position: 0, last: None, next_offset: 0 }))
            }
            None => None,
        };
        let dir = &self.dirs[&state.replica];
        // a cut has to be durable before the checkpoint that no longer tells of it: the next segment may be begun
        // without a further write to this one
        let cut = known.is_some_and(|known| !known.cuts.is_empty()) || self.is_longer(state);
        let log = Log::open(pool, dir, state, unchecked.as_ref(), (options.config)(state), options.now_ms)?;
        if cut {
            self.touched.entry((state.replica, state.end.segment)).or_default();
        }
        Ok(log)
    }

    /// Whether the active segment holds more than was promised.
    fn is_longer(&self, state: &GroupState) -> bool {
        let file = self.disk.open(&self.segment_path(state.replica, state.end.segment), Access::Read);
        file.and_then(|file| file.len()).is_ok_and(|len| len > state.end.position)
    }

    /// Makes everything that the rounds named durable.
    fn sync(&self, mutation: Mutation) -> Result<(), LogStoreError> {
        if self.touched.len() > SYNCED_ALONE {
            return self.disk.sync_file_system(self.data).map_err(LogStoreError::io("sync", self.data));
        }
        for (replica, segment) in self.touched.keys().filter(|(replica, _)| !self.unwritten.contains(replica))
        {
            let path = self.segment_path(*replica, *segment);
            // a segment that the end of the rounds has purged is gone again
            if self.disk.exists(&path).map_err(LogStoreError::io("look for", &path))? {
                let file = self.disk.open(&path, Access::Write).map_err(LogStoreError::io("open", &path))?;
                file.sync().map_err(LogStoreError::io("sync", &path))?;
            }
        }
        if mutation.planted(Mutation::DirectoriesNotSynced) {
            return Ok(());
        }
        let touched: BTreeSet<_> = self.touched.keys().map(|(replica, _)| replica).collect();
        for replica in touched.into_iter().filter(|replica| !self.unwritten.contains(replica)) {
            let dir = &self.dirs[replica];
            self.disk.sync_dir(dir).map_err(LogStoreError::io("sync", dir))?;
        }
        self.disk.sync_dir(self.data).map_err(LogStoreError::io("sync", self.data))
    }
}

fn write(
    file: &dyn DiskFile,
    path: &Path,
    slices: &[IoSlice<'_>],
    position: u64,
    mutation: Mutation,
) -> Result<(), LogStoreError> {
    if slices.is_empty() {
        return Ok(());
    }
    if mutation.planted(Mutation::EqualBytesSkipped) {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let mut there = vec![0; bytes.len()];
        if file.read_at(&mut there, position).is_ok_and(|read| read == bytes.len()) && there == bytes {
            return Ok(());
        }
    }
    file.write_all_at(slices, position).map_err(LogStoreError::io("write", path))
}

/// Whether a directory may be a partition's: `<topic>-<n>`, or such a one on its way out.
fn is_partition_name(name: &str) -> bool {
    let name = match name.strip_suffix("-delete") {
        Some(dying) => dying.rsplit_once('.').map_or(dying, |(name, _)| name),
        None => name,
    };
    name.rsplit_once('-').is_some_and(|(topic, partition)| {
        !topic.is_empty() && !partition.is_empty() && partition.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Whether a file in a partition's directory may be ours.
fn is_partition_file(name: &str) -> bool {
    const SUFFIXES: [&str; 8] =
        [".log", ".index", ".timeindex", ".txnindex", ".snapshot", ".raft", ".tmp", ".deleted"];
    ["partition.metadata", "leader-epoch-checkpoint"].contains(&name)
        || SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// Removes a directory that holds nothing but files of a partition; anything else in it is left, with an error.
///
/// # Errors
/// [`LogStoreError::Io`]; [`LogStoreError::Refused`] where it holds something that is not ours.
pub fn remove_partition_directory(disk: &dyn Disk, dir: &Path) -> Result<(), LogStoreError> {
    let entries = disk.list(dir).map_err(LogStoreError::io("list", dir))?;
    let ours = |entry: &DirEntry| !entry.is_dir && is_partition_file(&entry.name.to_string_lossy());
    if let Some(alien) = entries.iter().find(|entry| !ours(entry)) {
        return Err(LogStoreError::Refused(format!(
            "{} holds '{}', which is no file of a partition",
            dir.display(),
            alien.name.to_string_lossy()
        )));
    }
    for entry in entries {
        let path = dir.join(entry.name);
        disk.remove_file(&path).map_err(LogStoreError::io("remove", &path))?;
    }
    disk.remove_dir(dir).map_err(LogStoreError::io("remove", dir))
}

/// The files of the ring, before the checkpoint that hands them out.
struct Ring {
    /// Files of the right size: all are free once the checkpoint of a new ring is durable.
    usable: Vec<(u32, PathBuf)>,
    /// Files of another size, or beyond the ring.
    surplus: Vec<PathBuf>,
}

impl Ring {
    /// Makes sure that a file is there, durable, before a checkpoint says that rounds are in it.
    fn prepare(disk: &dyn Disk, options: &mut WalOptions) -> Result<Self, LogStoreError> {
        let mut ring = Self { usable: Vec::new(), surplus: Vec::new() };
        let mut next = 0;
        for entry in disk.list(&options.dir).map_err(LogStoreError::io("list", &options.dir))? {
            let path = options.dir.join(&entry.name);
            if entry.name.to_string_lossy().ends_with(".wal.tmp") {
                disk.remove_file(&path).map_err(LogStoreError::io("remove", &path))?;
                continue;
            }
            let Some(number) = crate::wal::file_number(&entry.name).filter(|_| !entry.is_dir) else {
                continue;
            };
            next = next.max(number + 1);
            let file = disk.open(&path, Access::Read).map_err(LogStoreError::io("open", &path))?;
            if file.len().map_err(LogStoreError::io("measure", &path))? == options.file_bytes {
                ring.usable.push((number, path));
            } else {
                ring.surplus.push(path);
            }
        }
        ring.usable.sort();
        // the files take their part of what was free before
        options.files = options.files.max(ring.usable.len()).min(options.most_files());
        if ring.usable.len() > options.files {
            ring.surplus.extend(ring.usable.drain(options.files..).map(|(_, path)| path));
        }
        if ring.usable.is_empty() {
            let file = NewWalFile::new(options, next);
            let path = file.path().to_owned();
            file.make(disk, &|_| {})?;
            ring.usable.push((next, path));
        }
        disk.sync_dir(&options.dir).map_err(LogStoreError::io("sync", &options.dir))?;
        Ok(ring)
    }

    fn first(&self) -> u32 {
        self.usable[0].0
    }

    /// Whether all files are as they should be, those in which there are rounds are among them, and there is room for one more. A
    /// single file that is full would wait for a second one, which a full disk does not give.
    fn holds(&self, rounds: &WalReader, options: &WalOptions) -> bool {
        let used: BTreeSet<u32> = rounds.used_files().collect();
        let position = rounds.end().position;
        self.surplus.is_empty()
            && (self.usable.len() > 1 || 2 * position <= options.file_bytes)
            && (used.len() < self.usable.len() || position < options.file_bytes)
            && used.iter().all(|number| self.usable.iter().any(|(usable, _)| usable == number))
    }

    /// Opens the files, and removes those that are of no use.
    fn open(self, disk: &dyn Disk) -> Result<Vec<WalFile>, LogStoreError> {
        for path in &self.surplus {
            disk.remove_file(path).map_err(LogStoreError::io("remove", path))?;
        }
        self.usable.into_iter().map(|(number, path)| WalFile::open(disk, number, path)).collect()
    }
}
