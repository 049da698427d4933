//! A node over a recorded disk: the steps of the flusher and of its worker, one after the other, and the model beside
//! them. Each bug of [`Bug`] breaks one rule of durability or of the checkpoint here; those of `recovery::Mutation` break recovery.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use log_store::{
    BatchHeader, Entry, GroupStates, Log, LogId, LogStoreError, RecordBatch, ReplicaId, Segment, SegmentPool,
    Vote, WalRecord,
    checkpoint::{Checkpoint, sync_segments},
    config::LogConfig,
    data_directory::{DataDirectory, Opener},
    disk::Disk,
    log::{QueuedWrite, write_to_segments},
    recovery::{self, Mutation, RecoveryOptions, remove_partition_directory},
    segment::PoolLimits,
    wal::{RoundBuilder, WalPosition, WalWriter},
};
use uuid::Uuid;

use crate::{
    model::{Allowed, ModelEntry, ModelGroup, World, trim_to},
    recording::RecordingDisk,
};

pub(crate) const DATA: &str = "/data";
/// Small enough that scripts wrap the ring.
pub(crate) const WAL_FILE_BYTES: u64 = 16 << 10;
/// What the setting is changed to.
pub(crate) const OTHER_WAL_FILE_BYTES: u64 = 20 << 10;
const SEGMENT_BYTES: u64 = 3000;

/// A broken rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Bug {
    #[default]
    None,
    /// Durability rule 1: callbacks run before the sync.
    AckBeforeSync,
    /// Durability rule 1: the bytes of round k+1 are written before round k is durable.
    RoundBeforeRound,
    /// Durability rule 1: a round names what lies in segments that are not synced.
    RoundBeforeItsSegments,
    /// Durability rule 2: a vote is promised although it is only queued.
    VotePastTheQueue,
    /// Durability rule 3: the file is cut, and that may become durable, before its record.
    FileCutBeforeCut,
    /// Durability rule 4: more is checkpointed as committed than is durable.
    CommittedAboveLog,
    /// Durability rule 5: purged segments are unlinked before the record is durable.
    UnlinkBeforePurge,
    /// Durability rule 5: a deleted replica's directory gets another name before the record is durable.
    MovedAsideBeforeDropped,
    /// Durability rule 5: the worker unlinks after an `Installed` what its names are by then.
    InstalledFilesByName,
    /// Checkpoint: the checkpoint is written before its segments are synced.
    CheckpointBeforeSegments,
    /// Checkpoint: the names in the directories are not synced before the checkpoint.
    CheckpointBeforeNames,
    /// Checkpoint: files of the ring are used again before the checkpoint is durable.
    ReleaseBeforeCheckpoint,
    /// Durability rule 4: the log's start moves, and is checkpointed, while the entry that says so is only queued.
    TrimBeforeItsEntry,
}

/// A batch of `records` records with these bytes.
pub(crate) fn batch(bytes: Bytes, records: i32) -> RecordBatch {
    let header = BatchHeader {
        base_offset: 0,
        batch_length: 49 + bytes.len() as i32,
        partition_leader_epoch: 0,
        crc: 0,
        attributes: 0,
        last_offset_delta: records - 1,
        base_timestamp: 1000,
        max_timestamp: 1000,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: records,
    };
    let mut batch = RecordBatch { head: header.encode(), records: bytes };
    let crc = batch.computed_crc();
    batch.head = BatchHeader { crc, ..header }.encode();
    batch
}

/// The topic whose segments are large enough for entries in their indexes.
pub(crate) const INDEXED: &str = "indexed";

fn config(topic: &str) -> LogConfig {
    let segment_bytes = if topic == INDEXED { 100_000 } else { SEGMENT_BYTES };
    LogConfig { segment_bytes, ..LogConfig::default() }
}

/// What recovery made of a disk.
pub(crate) struct Started {
    pub(crate) directory: DataDirectory,
    pub(crate) recovered: recovery::Recovered,
    pub(crate) pool: Arc<SegmentPool>,
}

/// Opens the data directory and recovers.
pub(crate) fn start(disk: &RecordingDisk, salt: u64, mutation: Mutation) -> Result<Started, LogStoreError> {
    start_with(disk, WAL_FILE_BYTES, salt, mutation)
}

/// [`start`], with that many bytes to a file of the write-ahead log.
pub(crate) fn start_with(
    disk: &RecordingDisk,
    wal_file_bytes: u64,
    salt: u64,
    mutation: Mutation,
) -> Result<Started, LogStoreError> {
    let seam: Arc<dyn Disk> = Arc::new(disk.clone());
    let opener = Opener {
        node_id: 1,
        new_cluster_id: "cluster".to_owned(),
        new_directory_id: Uuid::from_u128(77),
        wal_dir: None,
    };
    let mut directory = DataDirectory::open(Arc::clone(&seam), Path::new(DATA), &opener)?;
    let pool = SegmentPool::new(seam, PoolLimits::default());
    let options = RecoveryOptions {
        wal_file_bytes,
        salt,
        now_ms: 5000,
        config: &|state| config(&state.topic),
        progress: &mut |_| {},
        vital: None,
        mutation,
    };
    let recovered = recovery::recover(&pool, &mut directory, options)?;
    Ok(Started { directory, recovered, pool })
}

/// What a round holds before it is written.
struct Pending {
    records: Vec<WalRecord>,
    /// Logs to tell, and up to where.
    durable: Vec<(ReplicaId, LogId)>,
    next: World,
}

/// A checkpoint under way: rounds go on between its steps.
struct Checkpointing {
    states: GroupStates,
    position: WalPosition,
    dirty: Vec<Arc<Segment>>,
    step: usize,
}

pub(crate) struct Node {
    disk: RecordingDisk,
    seam: Arc<dyn Disk>,
    pool: Arc<SegmentPool>,
    _directory: DataDirectory,
    wal: WalWriter,
    builder: RoundBuilder,
    shadow: GroupStates,
    logs: BTreeMap<ReplicaId, Arc<Log>>,
    committed: HashMap<ReplicaId, LogId>,
    dirty: Vec<Arc<Segment>>,
    /// What the worker has still to unlink: files, or a directory that was renamed.
    unlinks: Vec<Vec<PathBuf>>,
    dying: Vec<PathBuf>,
    pub(crate) world: World,
    /// What the world would be with the round that is being written.
    pub(crate) in_flight: Option<World>,
    pub(crate) bug: Bug,
    checkpointing: Option<Checkpointing>,
    next_replica: u64,
}

impl Node {
    /// A node that serves what recovery found; `world` is the same in the model's words.
    pub(crate) fn new(disk: &RecordingDisk, started: Started, world: World, bug: Bug) -> Self {
        let Started { directory, recovered, pool } = started;
        let logs: BTreeMap<_, _> = recovered
            .groups
            .iter()
            .map(|group| (group.state.replica, Arc::clone(group.log.as_ref().expect("an open log"))))
            .collect();
        let committed = recovered
            .groups
            .iter()
            .filter_map(|group| Some((group.state.replica, group.state.committed?)))
            .collect();
        disk.allow(Allowed(vec![Arc::new(world.clone())]));
        Self {
            disk: disk.clone(),
            seam: Arc::new(disk.clone()),
            pool,
            _directory: directory,
            builder: recovered.wal.builder(),
            wal: recovered.wal,
            shadow: recovered.states,
            next_replica: logs.keys().map(|replica| replica.0 + 1).max().unwrap_or(1).max(1),
            logs,
            committed,
            dirty: recovered.dirty,
            unlinks: Vec::new(),
            dying: Vec::new(),
            world,
            in_flight: None,
            bug,
            checkpointing: None,
        }
    }

    pub(crate) fn replicas(&self) -> Vec<ReplicaId> {
        self.logs.keys().copied().collect()
    }

    /// Numbers of replicas are never used again, over restarts too.
    pub(crate) fn skip_replicas(&mut self, next: u64) {
        self.next_replica = self.next_replica.max(next);
    }

    pub(crate) fn next_replica(&self) -> u64 {
        self.next_replica
    }

    pub(crate) fn last(&self, replica: ReplicaId) -> Option<LogId> {
        self.logs[&replica].last_log_id()
    }

    fn pending(&self) -> Pending {
        Pending { records: Vec::new(), durable: Vec::new(), next: self.world.clone() }
    }

    fn promise(&mut self, next: World) {
        self.disk.allow(Allowed(vec![Arc::new(next.clone())]));
        self.world = next;
        self.in_flight = None;
    }

    /// Writes a round, makes it durable, and counts it as promised.
    fn round(&mut self, pending: Pending) -> Result<(), LogStoreError> {
        for record in &pending.records {
            self.builder.push(record);
        }
        self.make_room()?;
        // from the first byte on it may turn up
        self.disk.allow(Allowed(vec![Arc::new(self.world.clone()), Arc::new(pending.next.clone())]));
        self.in_flight = Some(pending.next.clone());
        self.wal.write(&mut self.builder)?;
        if self.bug == Bug::AckBeforeSync {
            self.disk.allow(Allowed(vec![Arc::new(pending.next.clone())]));
        }
        self.wal.sync()?;
        for record in &pending.records {
            self.shadow.fold(record)?;
        }
        for (replica, last) in pending.durable {
            self.logs[&replica].durable(last);
        }
        self.promise(pending.next);
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), LogStoreError> {
        while !self.wal.has_room(self.builder.padded_len()) {
            match self.wal.next_file(false) {
                Some(file) => {
                    let file = file.make(&*self.seam, &|_| {})?;
                    self.wal.add(Some(file));
                }
                None => {
                    while !self.checkpoint_step()? {}
                    if !self.wal.has_room(self.builder.padded_len()) {
                        self.begin_checkpoint();
                    }
                }
            }
        }
        Ok(())
    }

    /// Appends to several logs in one round: batches with that many bytes, or control entries (0 bytes). The last
    /// `next_term` says whether a new term begins. The upper half of `fill` says what the round only names: of the batches
    /// none, those of the first log, or all.
    pub(crate) fn append(
        &mut self,
        appends: &[(ReplicaId, Vec<usize>, bool)],
        fill: u8,
    ) -> Result<(), LogStoreError> {
        let mut pending = self.pending();
        for (place, (replica, sizes, new_term)) in appends.iter().enumerate() {
            let is_placed = fill >= if place == 0 { 0x80 } else { 0xc0 };
            let log = Arc::clone(&self.logs[replica]);
            let last = log.last_log_id();
            let term = last.map_or(1, |last| last.term) + u64::from(*new_term);
            let mut entries = Vec::new();
            for (number, size) in sizes.iter().enumerate() {
                let log_id = LogId { term, index: last.map_or(0, |last| last.index + 1) + number as u64 };
                let model = pending.next.groups.get_mut(replica).expect("the model knows the replica");
                let offset = model.next_offset();
                let bytes = Bytes::from(
                    (0..(*size).max(5))
                        .map(|at| fill.wrapping_mul(31) ^ at as u8 ^ offset as u8)
                        .collect::<Vec<_>>(),
                );
                let records = if *size == 0 { 0 } else { 1 + (*size % 3) as i64 };
                model.entries.push(ModelEntry { log_id, offset, bytes: bytes.clone(), records });
                entries.push(match size {
                    0 => Entry::Control { log_id, payload: bytes },
                    _ => Entry::Batch { log_id, batch: batch(bytes, records as i32) },
                });
            }
            let mut queue = Vec::new();
            log.append(entries, 1000, &mut queue);
            write_to_segments(&queue, &mut self.dirty)?;
            for write in queue {
                if let QueuedWrite::Batch { segment, .. } = &write
                    && is_placed
                    && self.bug != Bug::RoundBeforeItsSegments
                {
                    assert!(segment.sync_placed()?, "the partition is there");
                }
                let (log_id, record) = record(*replica, write);
                log.written(log_id.index);
                pending.records.push(if is_placed { record.placed() } else { record });
                pending.durable.push((*replica, log_id));
            }
        }
        if self.bug == Bug::RoundBeforeRound {
            return self.overtaken_round(pending);
        }
        self.round(pending)
    }

    /// Appends a batch that reaches its segment, durably, and no round.
    pub(crate) fn append_without_round(
        &mut self,
        replica: ReplicaId,
        size: usize,
        fill: u8,
    ) -> Result<(), LogStoreError> {
        let log = Arc::clone(&self.logs[&replica]);
        let last = log.last_log_id();
        let log_id =
            LogId { term: last.map_or(1, |last| last.term), index: last.map_or(0, |last| last.index + 1) };
        let mut queue = Vec::new();
        log.append([Entry::Batch { log_id, batch: batch(vec![fill; size].into(), 1) }], 1000, &mut queue);
        write_to_segments(&queue, &mut self.dirty)?;
        for write in &queue {
            if let QueuedWrite::Batch { segment, .. } = write {
                segment.sync()?;
            }
        }
        Ok(())
    }

    /// Appends a batch that holds the header of a later round where a block of the log's file begins.
    pub(crate) fn append_forged(&mut self, replica: ReplicaId) -> Result<(), LogStoreError> {
        let log = Arc::clone(&self.logs[&replica]);
        let last = log.last_log_id();
        let log_id =
            LogId { term: last.map_or(1, |last| last.term), index: last.map_or(0, |last| last.index + 1) };
        // the round's header is 40 bytes
        let mut bytes = vec![0; 4096 - 40];
        bytes.extend_from_slice(b"ALVMWAL\x02");
        bytes.extend_from_slice(&7u64.to_be_bytes());
        bytes.extend_from_slice(&(self.wal.position().round + 2).to_be_bytes());
        bytes.resize(7000, 0);
        let bytes = Bytes::from(bytes);
        let mut pending = self.pending();
        let model = pending.next.groups.get_mut(&replica).expect("a replica");
        let offset = model.next_offset();
        model.entries.push(ModelEntry { log_id, offset, bytes: bytes.clone(), records: 1 });
        let mut queue = Vec::new();
        log.append([Entry::Batch { log_id, batch: batch(bytes, 1) }], 1000, &mut queue);
        write_to_segments(&queue, &mut self.dirty)?;
        for write in queue {
            let (log_id, record) = record(replica, write);
            log.written(log_id.index);
            pending.records.push(record);
            pending.durable.push((replica, log_id));
        }
        self.round(pending)
    }

    /// The bug: two rounds of one append each, the second written before the first is durable; a power cut may leave
    /// the second alone.
    fn overtaken_round(&mut self, pending: Pending) -> Result<(), LogStoreError> {
        for record in &pending.records {
            self.builder.push(record);
        }
        self.make_room()?;
        self.disk.allow(Allowed(vec![Arc::new(self.world.clone()), Arc::new(pending.next.clone())]));
        self.wal.write(&mut self.builder)?;
        for record in &pending.records {
            self.shadow.fold(record)?;
        }
        let replica = *self.logs.keys().next().expect("a replica");
        let vote = next_vote(self.world.groups[&replica].vote, replica);
        let record = WalRecord::Vote { replica, vote };
        let mut next = pending.next.clone();
        next.groups.get_mut(&replica).expect("a replica").vote = Some(vote);
        self.builder.push(&record);
        let worlds = [&self.world, &pending.next, &next];
        self.disk.allow(Allowed(worlds.map(|world| Arc::new(world.clone())).to_vec()));
        if !self.wal.has_room(self.builder.padded_len()) {
            self.wal.sync()?;
            self.make_room()?;
        }
        self.wal.write_overtaking(&mut self.builder)?;
        self.wal.sync()?;
        self.shadow.fold(&record)?;
        for (replica, last) in pending.durable {
            self.logs[&replica].durable(last);
        }
        self.promise(next);
        Ok(())
    }

    pub(crate) fn vote(&mut self, replica: ReplicaId) -> Result<(), LogStoreError> {
        let mut pending = self.pending();
        let vote = next_vote(self.world.groups[&replica].vote, replica);
        pending.records.push(WalRecord::Vote { replica, vote });
        pending.next.groups.get_mut(&replica).expect("a replica").vote = Some(vote);
        if self.bug == Bug::VotePastTheQueue {
            self.world = pending.next.clone();
        }
        self.round(pending)
    }

    /// Everything behind entry number `keep` of the log goes, unless it is committed.
    pub(crate) fn cut(&mut self, replica: ReplicaId, keep: usize) -> Result<(), LogStoreError> {
        let group = &self.world.groups[&replica];
        let after = match keep.min(group.entries.len()) {
            0 => group.floor,
            keep => Some(group.entries[keep - 1].log_id),
        };
        if after == group.last()
            || self.committed.get(&replica).is_some_and(|committed| Some(*committed) > after)
        {
            return Ok(());
        }
        let log = Arc::clone(&self.logs[&replica]);
        let end = log.truncate_after(after)?;
        let mut pending = self.pending();
        pending.records.push(WalRecord::Cut { replica, after, end });
        let model = pending.next.groups.get_mut(&replica).expect("a replica");
        model.entries.retain(|entry| after.is_some_and(|after| entry.log_id.index <= after.index));
        if self.bug == Bug::FileCutBeforeCut {
            log.cut_files(&mut self.dirty)?;
            self.dirty.iter().try_for_each(|segment| segment.sync())?;
        }
        self.round(pending)?;
        log.cut_files(&mut self.dirty)
    }

    /// All that is in the log is committed, and applied.
    pub(crate) fn commit(&mut self, replica: ReplicaId) {
        if let Some(last) = self.last(replica) {
            self.committed.insert(replica, last);
            self.logs[&replica].applied(last);
            self.logs[&replica].set_log_start(self.world.groups[&replica].log_start());
        }
    }

    /// The log's start moves to entry number `keep` (to the end where there is none): an entry of its own, and once that
    /// is applied, whole segments below the start go, by a snapshot and a purge.
    pub(crate) fn trim(&mut self, replica: ReplicaId, keep: usize) -> Result<(), LogStoreError> {
        let group = &self.world.groups[&replica];
        let log_start = group.entries.get(keep).map_or(group.next_offset(), |entry| entry.offset);
        let log = Arc::clone(&self.logs[&replica]);
        if log_start <= log.log_start() {
            return Ok(());
        }
        let last = group.last().unwrap_or(LogId { term: 1, index: 0 });
        let log_id = LogId { term: last.term, index: group.last().map_or(0, |last| last.index + 1) };
        let payload = trim_to(log_start);
        let mut pending = self.pending();
        let model = pending.next.groups.get_mut(&replica).expect("a replica");
        let offset = model.next_offset();
        model.entries.push(ModelEntry { log_id, offset, bytes: payload.clone(), records: 0 });
        let mut queue = Vec::new();
        log.append([Entry::Control { log_id, payload }], 1000, &mut queue);
        for write in queue {
            let (log_id, record) = record(replica, write);
            log.written(log_id.index);
            pending.records.push(record);
            pending.durable.push((replica, log_id));
        }
        if self.bug == Bug::TrimBeforeItsEntry {
            log.set_log_start(log_start);
            self.checkpoint()?;
        }
        self.round(pending)?;
        self.commit(replica);
        self.release(replica)
    }

    /// Gives up the whole segments below the log's start.
    fn release(&mut self, replica: ReplicaId) -> Result<(), LogStoreError> {
        let log = &self.logs[&replica];
        let segments = log.segments();
        let start = log.log_start();
        let kept = segments.iter().position(|segment| segment.active || segment.end_offset > start);
        let Some(kept) = kept.filter(|kept| *kept > 0) else { return Ok(()) };
        let group = &self.world.groups[&replica];
        let behind = segments[kept].first_index.unwrap_or(u64::MAX);
        let Some(keep) = group.entries.iter().rposition(|entry| entry.log_id.index < behind) else {
            return Ok(());
        };
        self.purge_to(replica, keep, Some(trim_to(start)), false)
    }

    /// The floor rises to just below entry number `keep`, as far as that is committed; `amid_checkpoint`: one that is under
    /// way ends between that and its record.
    pub(crate) fn purge(
        &mut self,
        replica: ReplicaId,
        keep: usize,
        amid_checkpoint: bool,
    ) -> Result<(), LogStoreError> {
        let group = &self.world.groups[&replica];
        let Some(floor) = group.entries.get(keep).map(|entry| entry.log_id) else { return Ok(()) };
        if self.committed.get(&replica).is_none_or(|committed| *committed < floor) {
            return Ok(());
        }
        // a trim that is purged is in a snapshot
        let trimmed = group.entries[..=keep].iter().any(|entry| entry.trim().is_some());
        let snapshot = trimmed.then(|| trim_to(group.log_start()));
        self.purge_to(replica, keep, snapshot, amid_checkpoint)
    }

    /// The floor rises to entry number `keep`.
    fn purge_to(
        &mut self,
        replica: ReplicaId,
        keep: usize,
        snapshot: Option<Bytes>,
        amid_checkpoint: bool,
    ) -> Result<(), LogStoreError> {
        let floor = self.world.groups[&replica].entries[keep].log_id;
        let (offset, files) = self.logs[&replica].purge(floor)?;
        if self.bug == Bug::UnlinkBeforePurge {
            self.unlink(&files)?;
        }
        if amid_checkpoint {
            // it ends before the record is durable, and promises what the purge gives up
            while !self.checkpoint_step()? {}
        }
        let mut pending = self.pending();
        if let Some(snapshot) = snapshot {
            pending.records.push(WalRecord::Snapshot { replica, snapshot: snapshot.clone() });
            pending.next.groups.get_mut(&replica).expect("a replica").snapshot = snapshot;
        }
        pending.records.push(WalRecord::Purge { replica, floor, offset });
        let model = pending.next.groups.get_mut(&replica).expect("a replica");
        model.floor_offset = model.entries.get(keep + 1).map_or(model.next_offset(), |entry| entry.offset);
        model.entries.drain(..=keep);
        model.floor = Some(floor);
        assert_eq!(offset, model.floor_offset, "the offset behind the floor");
        self.round(pending)?;
        self.unlinks.push(files);
        Ok(())
    }

    /// A snapshot from a leader takes the log's place: behind the end by `gap`, or (0) where its next offset is the
    /// base of a segment that is there, if one lies above what is committed.
    pub(crate) fn install(&mut self, replica: ReplicaId, gap: u64) -> Result<(), LogStoreError> {
        let group = &self.world.groups[&replica];
        let last = group.last().unwrap_or(LogId { term: 1, index: 0 });
        let log_id = LogId { term: last.term + 1, index: last.index + 1 + gap };
        let committed = self.committed.get(&replica);
        let committed_offset = group
            .entries
            .iter()
            .filter(|entry| committed.is_some_and(|it| entry.log_id <= *it))
            .map(|entry| entry.offset + entry.records);
        let least = committed_offset.max().unwrap_or(group.floor_offset);
        let base = self.logs[&replica].segments().iter().map(|it| it.base_offset).find(|base| *base >= least);
        let next_offset = match base {
            Some(base) if gap == 0 => base,
            _ => group.next_offset() + gap as i64,
        };
        let snapshot = trim_to(next_offset);
        let files = self.logs[&replica].install(log_id, next_offset)?;
        let mut pending = self.pending();
        pending.records.push(WalRecord::Installed {
            replica,
            log_id,
            snapshot: snapshot.clone(),
            next_offset,
        });
        let model = pending.next.groups.get_mut(&replica).expect("a replica");
        model.entries.clear();
        model.floor = Some(log_id);
        model.floor_offset = next_offset;
        model.snapshot = snapshot;
        self.round(pending)?;
        self.committed.insert(replica, log_id);
        if self.bug == Bug::InstalledFilesByName {
            self.unlinks.push(files);
            return Ok(());
        }
        self.unlink(&files)
    }

    fn unlink(&mut self, files: &[PathBuf]) -> Result<(), LogStoreError> {
        for file in files {
            for suffix in ["log", "index", "timeindex", "txnindex", "snapshot", "raft"] {
                let path = file.with_extension(suffix);
                if self.seam.exists(&path).map_err(LogStoreError::io("look for", &path))? {
                    self.seam.remove_file(&path).map_err(LogStoreError::io("remove", &path))?;
                }
            }
        }
        Ok(())
    }

    /// The worker takes its time.
    pub(crate) fn worker_step(&mut self) -> Result<(), LogStoreError> {
        if !self.unlinks.is_empty() {
            let files = self.unlinks.remove(0);
            self.unlink(&files)?;
        } else if let Some(dir) = self.dying.pop() {
            remove_partition_directory(&*self.seam, &dir)?;
        }
        Ok(())
    }

    pub(crate) fn create(&mut self, topic: &str) -> Result<(), LogStoreError> {
        let taken = |group: &ModelGroup| group.topic == topic;
        if self.world.groups.values().any(taken) {
            return Ok(());
        }
        let replica = ReplicaId(self.next_replica);
        self.next_replica += 1;
        let mut pending = self.pending();
        let record = WalRecord::Created {
            replica,
            topic_id: Uuid::from_u128(u128::from(replica.0)),
            topic: topic.to_owned(),
            partition: 0,
        };
        pending.next.groups.insert(replica, ModelGroup { topic: topic.to_owned(), ..ModelGroup::default() });
        let mut states = GroupStates::default();
        states.fold(&record)?;
        let state = states.get(replica).expect("just created").clone();
        let dir = Path::new(DATA).join(state.directory());
        let log = Log::create(&self.pool, &dir, &state, config(topic))?;
        pending.records.push(record);
        self.logs.insert(replica, log);
        self.round(pending)
    }

    pub(crate) fn delete(&mut self, replica: ReplicaId) -> Result<(), LogStoreError> {
        let mut pending = self.pending();
        pending.records.push(WalRecord::Dropped { replica });
        let group = pending.next.groups.remove(&replica).expect("a replica");
        self.logs.remove(&replica);
        self.committed.remove(&replica);
        let dir = Path::new(DATA).join(format!("{}-0", group.topic));
        let dying = Path::new(DATA).join(format!("{}-0.{}-delete", group.topic, replica.0));
        let move_aside =
            |seam: &dyn Disk| seam.rename(&dir, &dying).map_err(LogStoreError::io("rename", &dir));
        if self.bug == Bug::MovedAsideBeforeDropped {
            move_aside(&*self.seam)?;
            self.round(pending)?;
        } else {
            self.round(pending)?;
            move_aside(&*self.seam)?;
        }
        self.dying.push(dying);
        Ok(())
    }

    pub(crate) fn begin_checkpoint(&mut self) {
        if self.checkpointing.is_some() {
            return;
        }
        let mut states = self.shadow.clone();
        for state in states.iter_mut() {
            let committed = self.committed.get(&state.replica).copied();
            if self.bug == Bug::CommittedAboveLog {
                let last = state.end.last.unwrap_or(LogId { term: 1, index: 0 });
                state.committed = Some(LogId { index: last.index + 3, ..last });
            } else {
                state.clamp(committed, self.logs[&state.replica].log_start());
            }
        }
        let dirty = std::mem::take(&mut self.dirty);
        self.checkpointing = Some(Checkpointing { states, position: self.wal.position(), dirty, step: 0 });
    }

    /// One step of the checkpoint under way; whether there is none left.
    pub(crate) fn checkpoint_step(&mut self) -> Result<bool, LogStoreError> {
        let Some(mut running) = self.checkpointing.take() else { return Ok(true) };
        let data = Path::new(DATA);
        let order: [u8; 4] = match self.bug {
            Bug::CheckpointBeforeSegments => [2, 3, 0, 1],
            Bug::ReleaseBeforeCheckpoint => [0, 1, 3, 2],
            _ => [0, 1, 2, 3],
        };
        match order[running.step] {
            0 if self.bug == Bug::CheckpointBeforeNames => {}
            0 => sync_segments(&*self.seam, data, &running.dirty, |segment| {
                segment.write_back(4096).map(drop)
            })?,
            1 => {
                for log in self.logs.values() {
                    if log.has_rolled() {
                        log.finish_rolled()?;
                    }
                    log.write_indexes()?;
                }
            }
            2 => {
                let checkpoint = Checkpoint {
                    salt: self.wal.salt(),
                    position: running.position,
                    groups: running.states.clone(),
                    damaged: Vec::new(),
                };
                checkpoint.write(&*self.seam, data)?;
            }
            _ => self.wal.release(running.position.round),
        }
        running.step += 1;
        if running.step == 4 {
            return Ok(true);
        }
        self.checkpointing = Some(running);
        Ok(false)
    }

    /// A whole checkpoint.
    pub(crate) fn checkpoint(&mut self) -> Result<(), LogStoreError> {
        while !self.checkpoint_step()? {}
        self.begin_checkpoint();
        while !self.checkpoint_step()? {}
        Ok(())
    }
}

fn next_vote(vote: Option<Vote>, replica: ReplicaId) -> Vote {
    match vote {
        Some(Vote { term, node, committed: false }) => Vote { term, node, committed: true },
        other => Vote { term: other.map_or(0, |vote| vote.term) + 1, node: replica.0, committed: false },
    }
}

fn record(replica: ReplicaId, write: QueuedWrite) -> (LogId, WalRecord) {
    match write {
        QueuedWrite::Control { log_id, offset, payload } => {
            (log_id, WalRecord::Control { replica, log_id, offset, payload })
        }
        QueuedWrite::Batch { log_id, segment, position, batch } => {
            let segment = segment.base_offset();
            (log_id, WalRecord::Batch { replica, index: log_id.index, segment, position, batch })
        }
    }
}
