//! A log against a model of it, and single behaviours that a random run rarely meets.

use std::path::PathBuf;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{
    ReplicaId, WalRecord,
    batch::BatchBuilder,
    compression::Codec,
    disk::{Disk, RealDisk},
    segment::PoolLimits,
};

/// An entry as the model knows it: `records` timestamps, none of them for a control entry.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    log_id: LogId,
    offset: i64,
    records: Vec<i64>,
}

impl Known {
    fn next_offset(&self) -> i64 {
        self.offset + self.records.len() as i64
    }
}

fn batch_of(timestamps: &[i64], padding: usize, codec: Codec) -> RecordBatch {
    let mut builder = BatchBuilder::new(codec);
    let value = vec![b'x'; padding];
    for timestamp in timestamps {
        builder.append(*timestamp, None, Some(&value), &[]);
    }
    builder.build()
}

fn pool(disk: &Arc<dyn Disk>, limits: PoolLimits) -> Arc<SegmentPool> {
    SegmentPool::new(Arc::clone(disk), limits)
}

/// A log with what its node would keep for it.
struct Node {
    dir: PathBuf,
    pool: Arc<SegmentPool>,
    config: LogConfig,
    log: Arc<Log>,
    state: GroupState,
    unchecked: LogEnd,
    queue: Vec<QueuedWrite>,
    entries: Vec<Known>,
    floor: Option<LogId>,
    floor_offset: i64,
    term: u64,
    applied: usize,
    dirty: Vec<Arc<Segment>>,
}

impl Node {
    fn new(dir: &Path, config: LogConfig) -> Self {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let pool = pool(&disk, PoolLimits { open_segments: 2, index_bytes: 64 });
        let state = GroupState::new(ReplicaId(3), Uuid::from_u128(7), "orders".to_owned(), 0);
        let dir = dir.join("orders-0");
        let log = Log::create(&pool, &dir, &state, config.clone()).unwrap();
        let (unchecked, queue) = (state.end, Vec::new());
        Self {
            dir,
            pool,
            config,
            log,
            state,
            unchecked,
            queue,
            entries: Vec::new(),
            floor: None,
            floor_offset: 0,
            term: 1,
            applied: 0,
            dirty: Vec::new(),
        }
    }

    fn next_index(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    fn next_offset(&self) -> i64 {
        self.entries.last().map_or(self.floor_offset, Known::next_offset)
    }

    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id).or(self.floor)
    }

    /// Appends a batch of these timestamps, or a control entry.
    fn append(&mut self, timestamps: &[i64], padding: usize) {
        self.append_batch(timestamps, batch_of(timestamps, padding, Codec::None));
    }

    fn append_batch(&mut self, timestamps: &[i64], batch: RecordBatch) {
        let log_id = LogId { term: self.term, index: self.next_index() };
        let offset = self.next_offset();
        let entry = match timestamps {
            [] => Entry::Control { log_id, payload: Bytes::from(log_id.index.to_string()) },
            _ => Entry::Batch { log_id, batch },
        };
        self.log.append([entry], 1_000_000, &mut self.queue);
        self.entries.push(Known { log_id, offset, records: timestamps.to_vec() });
    }

    fn record(&mut self, record: &WalRecord) {
        self.state.fold(record).unwrap();
    }

    /// Writes the first entries of the queue; makes them durable unless only `written`.
    fn flush(&mut self, count: usize, only_written: bool) {
        let count = count.min(self.queue.len());
        let writes: Vec<QueuedWrite> = self.queue[..count].to_vec();
        write_to_segments(&writes, &mut self.dirty).unwrap();
        let ids = writes.iter().map(|write| match write {
            QueuedWrite::Control { log_id, .. } | QueuedWrite::Batch { log_id, .. } => *log_id,
        });
        let Some(last) = ids.max() else { return };
        self.log.written(last.index);
        if only_written {
            return;
        }
        self.queue.drain(..count);
        for write in writes {
            let replica = self.state.replica;
            self.record(&match write {
                QueuedWrite::Control { log_id, offset, payload } => {
                    WalRecord::Control { replica, log_id, offset, payload }
                }
                QueuedWrite::Batch { log_id, segment, position, batch } => WalRecord::Batch {
                    replica,
                    index: log_id.index,
                    segment: segment.base_offset(),
                    position,
                    batch,
                },
            });
        }
        self.log.durable(last);
        if self.log.has_rolled() {
            self.log.finish_rolled().unwrap();
        }
    }

    fn apply(&mut self, part: usize) {
        let durable = self.entries.len() - self.queue.len().min(self.entries.len());
        self.applied = self.applied.max(durable * part / 255);
        if let Some(entry) = self.applied.checked_sub(1).and_then(|at| self.entries.get(at)) {
            self.log.applied(entry.log_id);
        }
    }

    fn truncate(&mut self, part: usize) {
        let kept = self.applied + (self.entries.len() - self.applied) * part / 255;
        if kept == self.entries.len() {
            return;
        }
        self.entries.truncate(kept);
        let end = self.log.truncate_after(self.entries.last().map(|entry| entry.log_id)).unwrap();
        self.flush_stale();
        let after = self.last();
        self.record(&WalRecord::Cut { replica: self.state.replica, after, end });
        if (end.segment, end.position) < (self.unchecked.segment, self.unchecked.position) {
            self.unchecked = end;
        }
        self.log.cut_files(&mut self.dirty).unwrap();
        self.term += 1;
    }

    /// What was queued before a truncation goes its way, and is cut off behind it.
    fn flush_stale(&mut self) {
        self.flush(usize::MAX, false);
    }

    fn purge(&mut self, part: usize) {
        self.flush(usize::MAX, false);
        let gone = self.entries.len() * part / 255;
        let Some(last) = gone.checked_sub(1).map(|at| self.entries[at].clone()) else { return };
        self.entries.drain(..gone);
        self.applied = self.applied.saturating_sub(gone);
        (self.floor, self.floor_offset) = (Some(last.log_id), last.next_offset());
        let (offset, files) = self.log.purge(last.log_id).unwrap();
        assert_eq!(offset, self.floor_offset);
        self.record(&WalRecord::Purge { replica: self.state.replica, floor: last.log_id, offset });
        for file in files {
            remove_file(&RealDisk, &file).unwrap();
        }
        self.log.set_log_start(offset);
        self.state.clamp(self.state.committed, offset);
    }

    fn checkpoint(&mut self) {
        self.log.write_indexes().unwrap();
        self.dirty.drain(..).for_each(|segment| segment.sync().unwrap());
        self.unchecked = self.state.end;
    }

    /// Opens the log at its durable end; what was not durable is gone.
    fn reopen(&mut self) {
        self.dirty.clear();
        let lost = self.queue.len();
        self.queue.clear();
        self.entries.truncate(self.entries.len() - lost);
        self.term += u64::from(lost > 0);
        self.log = Log::open(
            &self.pool,
            &self.dir,
            &self.state,
            Some(&self.unchecked),
            self.config.clone(),
            2_000_000,
        )
        .unwrap();
        self.unchecked = self.state.end;
        self.applied = 0;
    }

    fn bytes(&self, read: &LogRead) -> Vec<u8> {
        let mut bytes = Vec::new();
        for slice in &read.slices {
            match slice {
                LogSlice::Bytes(slice) => bytes.extend_from_slice(slice),
                LogSlice::File { file, position, len } => {
                    let mut slice = vec![0; *len];
                    file.read_exact_at(&mut slice, *position).unwrap();
                    bytes.extend_from_slice(&slice);
                }
            }
        }
        assert_eq!(bytes.len(), read.bytes);
        bytes
    }

    fn compare(&self) {
        let log = &self.log;
        assert_eq!(log.last_log_id(), self.last());
        assert_eq!(log.floor(), self.floor);
        assert_eq!(log.next_offset(), self.next_offset());
        let segments = log.segments();
        assert_eq!(segments.iter().map(|segment| segment.size).sum::<u64>(), log.size());
        assert!(segments.windows(2).all(|pair| pair[0].end_offset == pair[1].base_offset), "{segments:?}");
        if self.queue.is_empty() {
            assert_eq!(log.durable_offset(), self.next_offset());
            assert_eq!(log.terms(), self.state.terms);
            assert_eq!(log.durable_log_id(), self.last());
        }
        self.compare_entries();
        self.compare_reads();
        self.compare_times();
    }

    fn compare_entries(&self) {
        let Some(first) = self.entries.first().map(|entry| entry.log_id.index) else { return };
        let behind = self.next_index();
        for from in first..behind {
            let heads = self.log.heads(from..behind).unwrap();
            let entries = self.log.entries(from..behind, u64::MAX).unwrap();
            let known = &self.entries[(from - first) as usize..];
            assert_eq!((heads.len(), entries.len()), (known.len(), known.len()), "from {from} to {behind}");
            for ((head, entry), known) in heads.iter().zip(&entries).zip(known) {
                let same = |header: &BatchHeader| {
                    header.base_offset == known.offset
                        && header.record_count == known.records.len() as i32
                        && header.partition_leader_epoch == known.log_id.term as i32
                };
                match (head, entry) {
                    (EntryHead::Control { log_id, offset, .. }, Entry::Control { payload, .. }) => {
                        assert_eq!((*log_id, *offset, 0), (known.log_id, known.offset, known.records.len()));
                        assert_eq!(payload, log_id.index.to_string().as_bytes());
                    }
                    (EntryHead::Batch { log_id, header }, Entry::Batch { log_id: id, batch }) => {
                        assert_eq!((*log_id, *id), (known.log_id, known.log_id));
                        assert!(same(header) && same(&batch.header()) && batch.crc_holds());
                    }
                    other => panic!("{other:?} instead of {known:?}"),
                }
            }
        }
        let some = self.log.entries(first..behind, 1).unwrap();
        assert_eq!(some.len(), 1, "at least one entry, and no more than fit");
    }

    /// Proves: F5, L11.
    fn compare_reads(&self) {
        let batches: Vec<&Known> = self.entries.iter().filter(|entry| !entry.records.is_empty()).collect();
        let start = self.floor_offset;
        let bounds = batches.iter().map(|batch| batch.offset).chain([self.next_offset()]);
        for upper in bounds {
            for offset in start..=self.next_offset() {
                for max_bytes in [1, 300, usize::MAX] {
                    let read = self.log.read(offset, max_bytes, true, upper, Waiting::ForDisk).unwrap();
                    let mut bytes = Bytes::from(self.bytes(&read));
                    let expected =
                        batches.iter().filter(|it| it.next_offset() > offset && it.next_offset() <= upper);
                    let mut count = 0;
                    let mut total = 0;
                    for known in expected {
                        if bytes.is_empty() {
                            assert!(count > 0, "nothing from {offset} below {upper}");
                            assert!(max_bytes < usize::MAX, "the read from {offset} ends too early");
                            break;
                        }
                        let batch = RecordBatch::take_first(&mut bytes).unwrap().expect("whole batches");
                        total += batch.size();
                        assert_eq!(batch.base_offset(), known.offset);
                        assert!(batch.crc_holds());
                        count += 1;
                    }
                    assert!(bytes.is_empty(), "more than expected from {offset} below {upper}");
                    assert!(count <= 1 || total <= max_bytes, "{total} bytes in {count} batches");
                }
            }
        }
        let end = self.next_offset();
        let beyond = self.log.read(end + 1, 100, true, i64::MAX, Waiting::ForDisk);
        assert!(matches!(beyond, Err(LogStoreError::OffsetOutOfRange { .. })));
    }

    /// Proves: L2.
    fn compare_times(&self) {
        let records: Vec<(i64, i64, i32)> = self
            .entries
            .iter()
            .flat_map(|entry| {
                let epoch = entry.log_id.term as i32;
                (entry.offset..).zip(&entry.records).map(move |(offset, time)| (offset, *time, epoch))
            })
            .filter(|(offset, ..)| *offset >= self.log.log_start())
            .collect();
        let mut times: Vec<i64> = records.iter().map(|(_, time, _)| *time).chain([0, i64::MAX]).collect();
        times.dedup();
        for upper in [self.next_offset(), (self.floor_offset + self.next_offset()) / 2] {
            let visible = || records.iter().filter(|(offset, ..)| *offset < upper);
            for time in &times {
                let expected = visible().find(|(_, at, _)| at >= time).copied();
                assert_eq!(
                    self.log.offset_for_time(*time, upper).unwrap(),
                    expected,
                    "time {time} below {upper}"
                );
            }
        }
        let largest = records.iter().map(|(_, time, _)| *time).max();
        let expected =
            largest.and_then(|largest| records.iter().find(|(_, time, _)| *time == largest).copied());
        assert_eq!(self.log.offset_of_max_timestamp(self.next_offset()).unwrap(), expected);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Append(Vec<i64>, usize),
    Flush(usize, bool),
    Apply(u8),
    Truncate(u8),
    Purge(u8),
    Checkpoint,
    Roll,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (prop::collection::vec(100_i64..130, 0..4), prop_oneof![0_usize..40, 0_usize..2000])
            .prop_map(|(times, padding)| Op::Append(times, padding)),
        3 => (1_usize..6, any::<bool>()).prop_map(|(count, written)| Op::Flush(count, written)),
        1 => any::<u8>().prop_map(Op::Apply),
        1 => any::<u8>().prop_map(Op::Truncate),
        1 => any::<u8>().prop_map(Op::Purge),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Roll),
        1 => Just(Op::Reopen),
    ]
}

fn small_segments() -> LogConfig {
    LogConfig { segment_bytes: 2500, index_interval_bytes: 1, ..LogConfig::default() }
}

fn run(ops: &[Op]) {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(dir.path(), small_segments());
    for op in ops {
        match op {
            Op::Append(timestamps, padding) => node.append(timestamps, *padding),
            Op::Flush(count, written) => node.flush(*count, *written),
            Op::Apply(part) => node.apply(usize::from(*part)),
            Op::Truncate(part) => node.truncate(usize::from(*part)),
            Op::Purge(part) => node.purge(usize::from(*part)),
            Op::Checkpoint => node.checkpoint(),
            Op::Roll => node.log.roll(),
            Op::Reopen => node.reopen(),
        }
        node.compare();
    }
    node.flush(usize::MAX, false);
    node.reopen();
    node.compare();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Proves: F5, L2, L11: append, write, truncate, purge, roll, checkpoint and reopening against a model, with every
    /// read by offset, index and time compared.
    #[test]
    fn a_log_is_what_the_model_says(ops in prop::collection::vec(op(), 1..40)) {
        run(&ops);
    }
}

/// A closed segment that is cut and closed again is not searched by the index of its former content.
#[test]
fn a_cut_segment_has_another_index() {
    run(&[
        Op::Append(vec![100], 0),
        Op::Append(vec![100, 100, 101], 0),
        Op::Roll,
        Op::Flush(2, true),
        Op::Checkpoint,
        Op::Purge(0),
        Op::Truncate(128),
        Op::Append(vec![102], 0),
        Op::Append(vec![100, 100], 1143),
        Op::Flush(1, false),
    ]);
}

/// A log of several segments, written and stopped cleanly.
fn stopped(dir: &Path, config: LogConfig, batches: i64) -> Node {
    let mut node = Node::new(dir, config);
    for number in 0..batches {
        // every third one is late
        let time = if number % 3 == 0 { 100 + number * 10 - 55 } else { 100 + number * 10 };
        node.append(&[time, time + 1], 300);
        if number % 7 == 3 {
            node.append(&[], 0);
        }
    }
    node.flush(usize::MAX, false);
    node.checkpoint();
    node
}

fn indexed_segments() -> LogConfig {
    LogConfig { segment_bytes: 160 << 10, index_interval_bytes: 1, ..LogConfig::default() }
}

/// What a log answers to a few questions of each kind.
fn answers(node: &Node) -> Vec<String> {
    let log = &node.log;
    let end = log.next_offset();
    let mut answers = Vec::new();
    for offset in (0..end).step_by(97) {
        let read = log.read(offset, 5000, true, end, Waiting::ForDisk).unwrap();
        answers.push(format!("{offset}: {:08x}", crc32fast::hash(&node.bytes(&read))));
        answers.push(format!("{:?}", log.offset_for_time(100 + offset * 5, end).unwrap()));
    }
    for index in (0..node.next_index()).step_by(131) {
        answers.push(format!("{:?}", log.heads(index..index + 2).unwrap()));
    }
    answers.push(format!("{:?}", log.offset_of_max_timestamp(end).unwrap()));
    answers
}

/// Proves: fault D15.
#[test]
fn lost_cut_and_garbled_indexes_are_made_anew_and_answer_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = stopped(dir.path(), indexed_segments(), 1200);
    let sealed = node.log.segments().len() - 1;
    assert!(sealed >= 3, "{sealed} sealed segments");
    let expected = answers(&node);
    let indexes = |node: &Node| -> Vec<PathBuf> {
        RealDisk
            .list(&node.dir)
            .unwrap()
            .into_iter()
            .map(|entry| node.dir.join(entry.name))
            .filter(|path| {
                path.extension()
                    .is_some_and(|it| ["index", "timeindex", "raft"].iter().any(|name| it == *name))
            })
            .collect()
    };
    let originals: Vec<(PathBuf, Vec<u8>)> =
        indexes(&node).into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect();
    assert_eq!(originals.len(), 3 * (sealed + 1));
    type Harm = fn(&[u8]) -> Option<Vec<u8>>;
    let harms: [(&str, Harm); 7] = [
        ("deleted", |_| None),
        ("emptied", |_| Some(Vec::new())),
        ("cut by a byte", |bytes| Some(bytes[..bytes.len().saturating_sub(1)].to_vec())),
        ("cut by an entry", |bytes| Some(bytes[..bytes.len().saturating_sub(12)].to_vec())),
        ("zeroed", |bytes| Some(vec![0; bytes.len()])),
        ("longer", |bytes| Some([bytes, &[7; 24]].concat())),
        ("flipped", |bytes| {
            let mut bytes = bytes.to_vec();
            let middle = bytes.len() / 2;
            *bytes.get_mut(middle)? ^= 0x10;
            Some(bytes)
        }),
    ];
    for (name, harm) in harms {
        for (path, original) in &originals {
            match harm(original) {
                Some(bytes) => std::fs::write(path, bytes).unwrap(),
                None => remove_file(&RealDisk, path).unwrap(),
            }
        }
        // while it runs: the pool of this node keeps two segments open, so that indexes are read again and again
        assert_eq!(answers(&node), expected, "{name} while the log is open");
        for (path, original) in &originals {
            match harm(original) {
                Some(bytes) => std::fs::write(path, bytes).unwrap(),
                None => remove_file(&RealDisk, path).unwrap(),
            }
        }
        node.reopen();
        assert_eq!(answers(&node), expected, "{name} while the log is closed");
        node.checkpoint();
        for (path, original) in &originals {
            let now = std::fs::read(path).unwrap();
            if path.extension().is_some_and(|extension| extension != "raft") {
                assert!(now == *original, "{} differs after it was made anew ({name})", path.display());
            }
        }
    }
}

/// Proves: fault D08.
#[test]
fn every_flipped_byte_of_a_segment_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(dir.path(), LogConfig::default());
    while node.log.size() < 64 << 10 {
        node.append(&[100, 101, 102], 1000);
        node.term += 1;
    }
    node.flush(usize::MAX, false);
    node.log.roll();
    node.append(&[103], 10);
    node.flush(usize::MAX, false);
    node.checkpoint();
    let path = node.dir.join("00000000000000000000.log");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() >= 64 << 10);
    // the whole segment is checked where it was written since the checkpoint, as a start does it, and by the scrub
    let unchecked = LogEnd { segment: 0, position: 0, last: None, next_offset: 0 };
    for (position, byte) in bytes.iter().enumerate() {
        let flipped = [byte ^ (1 << (position % 8))];
        std::os::unix::fs::FileExt::write_all_at(&file, &flipped, position as u64).unwrap();
        let opened = Log::open(&node.pool, &node.dir, &node.state, Some(&unchecked), node.config.clone(), 1);
        assert!(matches!(opened, Err(LogStoreError::Corrupt { .. })), "byte {position}: {opened:?}");
        let scrubbed = node.log.scrub(0);
        assert!(matches!(scrubbed, Err(LogStoreError::Corrupt { .. })), "byte {position}: {scrubbed:?}");
        std::os::unix::fs::FileExt::write_all_at(&file, &[*byte], position as u64).unwrap();
    }
    node.log.scrub(0).unwrap();
    node.reopen();
    node.compare_entries();
}

/// Proves: fault D12, fault D13: whole batches of the right shape that were never written there.
#[test]
fn an_older_content_of_a_sealed_segment_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(dir.path(), LogConfig::default());
    for padding in [100, 200] {
        node.append(&[100], padding);
    }
    node.flush(usize::MAX, false);
    node.log.roll();
    node.append(&[103], 10);
    node.flush(usize::MAX, false);
    node.log.scrub(0).unwrap();
    let mut other = batch_of(&[99], 200, Codec::None);
    other.set_base_offset(1);
    other.set_leader_epoch(1);
    let segment = node.dir.join("00000000000000000000.log");
    let file = std::fs::File::options().write(true).open(&segment).unwrap();
    let position = std::fs::metadata(&segment).unwrap().len() - other.size() as u64;
    std::os::unix::fs::FileExt::write_all_at(&file, &other.to_bytes(), position).unwrap();
    assert!(matches!(node.log.scrub(0), Err(LogStoreError::Corrupt { .. })));
}

/// Proves: fault D26.
#[test]
fn slices_of_a_purged_segment_keep_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = stopped(dir.path(), indexed_segments(), 1200);
    let end = node.log.next_offset();
    let before = node.log.read(0, 100_000, true, end, Waiting::ForDisk).unwrap();
    let bytes = node.bytes(&before);
    let segments = node.log.segments();
    node.purge(200);
    assert!(node.log.segments()[0].base_offset > segments[1].base_offset);
    assert!(!node.dir.join("00000000000000000000.log").exists());
    assert_eq!(node.bytes(&before), bytes, "who holds a slice goes on reading");
    let gone = node.log.read(0, 100, true, end, Waiting::ForDisk);
    assert!(matches!(gone, Err(LogStoreError::OffsetOutOfRange { .. })), "{gone:?}");
    node.compare_entries();
}

/// A file without a name gives its space back only once nobody has it open.
#[test]
fn the_pool_lets_go_of_segments_that_go_away() {
    let dir = tempfile::tempdir().unwrap();
    let node = stopped(dir.path(), small_segments(), 30);
    let end = node.log.next_offset();
    let read = |offset| node.log.read(offset, 100, true, end, Waiting::ForDisk).unwrap().bytes;
    assert!(read(0) > 0 && node.pool.open_segments() > 0);
    let gone: Vec<Arc<Segment>> =
        node.log.state().segments.iter().map(|slot| Arc::clone(&slot.segment)).collect();
    let (_, files) = node.log.purge(node.last().unwrap()).unwrap();
    assert_eq!(node.pool.open_segments(), 0);
    // the record of the purge is not durable yet, so a checkpoint still syncs them; a worker may be about to let one go
    for segment in &gone {
        segment.sync().unwrap();
        segment.unpin();
    }
    assert!(files.iter().any(|file| file.exists()));
    assert_eq!(node.pool.open_segments(), 0);
}

/// A log that is dropped is closed whoever still holds it, and writes no index where another one may take its name.
#[test]
fn a_closed_log_holds_nothing_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = stopped(dir.path(), small_segments(), 30);
    let end = node.log.next_offset();
    let read = |node: &Node| node.log.read(0, 100, true, end, Waiting::ForDisk).unwrap().bytes;
    assert!(read(&node) > 0 && node.pool.open_segments() > 0);
    node.log.roll();
    node.log.close();
    let late = node.log.read(0, 100, true, end, Waiting::ForDisk).unwrap_err();
    assert!(crate::segment::is_missing(&late), "nothing is opened again: {late}");
    assert_eq!(node.pool.open_segments(), 0);
    std::fs::remove_dir_all(&node.dir).unwrap();
    std::fs::create_dir(&node.dir).unwrap();
    node.log.write_indexes().unwrap();
    node.dirty.drain(..).for_each(|segment| segment.sync().unwrap());
    assert!(!node.dir.join("00000000000000000000.raft").exists());

    // nothing stays of a log that nobody holds any more
    let other = tempfile::tempdir().unwrap();
    let mut node = stopped(other.path(), small_segments(), 30);
    node.reopen();
    assert!(read(&node) > 0 && node.pool.open_segments() > 0);
    let (dir, config) = (other.path().join("other-0"), node.config.clone());
    node.log = Log::create(&node.pool, &dir, &node.state, config).unwrap();
    assert_eq!(node.pool.open_segments(), 0);
}

/// Proves: fault D20.
#[test]
fn leftovers_do_not_stop_a_log_from_opening() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = stopped(dir.path(), small_segments(), 30);
    let expected = answers(&node);
    let stale = [
        "00000000000000000000.log.tmp",
        "00000000000000009999.log",
        "00000000000000009999.snapshot",
        "leader-epoch-checkpoint.tmp",
    ];
    for name in stale {
        std::fs::write(node.dir.join(name), b"left over").unwrap();
    }
    let foreign = ["notes.txt", "123.log", "00000000000000000000.log.bak"];
    for name in foreign {
        std::fs::write(node.dir.join(name), b"somebody's").unwrap();
    }
    node.reopen();
    assert_eq!(answers(&node), expected);
    assert!(stale.iter().all(|name| !node.dir.join(name).exists()), "what is ours and needless goes");
    assert!(foreign.iter().all(|name| node.dir.join(name).exists()), "what is not ours stays");
}

/// A hole in the middle is damage, and nothing is removed.
///
/// Proves: fault D16 (at the log: it does not open).
#[test]
fn a_missing_segment_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let node = stopped(dir.path(), small_segments(), 30);
    let segments = node.log.segments();
    let names = || RealDisk.list(&node.dir).unwrap().len();
    for segment in [&segments[0], &segments[2], segments.last().unwrap()] {
        let path = node.dir.join(format!("{:020}.log", segment.base_offset));
        let aside = dir.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        let before = names();
        let opened =
            Log::open(&node.pool, &node.dir, &node.state, Some(&node.state.end), node.config.clone(), 1);
        assert!(matches!(opened, Err(LogStoreError::Corrupt { .. })), "{segment:?}: {opened:?}");
        assert_eq!(names(), before, "nothing was removed");
        std::fs::rename(&aside, &path).unwrap();
    }
}

/// A directory that was exchanged with another partition's is not served.
#[test]
fn the_files_of_another_replica_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = stopped(dir.path(), small_segments(), 30);
    let mut state = node.state.clone();
    state.replica = ReplicaId(4);
    let opened = Log::open(&node.pool, &node.dir, &state, Some(&state.end), node.config.clone(), 1);
    assert!(matches!(opened, Err(LogStoreError::Corrupt { .. })), "{opened:?}");
}

/// Proves: D19.
#[test]
fn segments_close_by_size_by_record_time_and_by_full_indexes() {
    let dir = tempfile::tempdir().unwrap();
    let bases = |node: &Node| node.log.segments().iter().map(|it| it.base_offset).collect::<Vec<_>>();
    let one = batch_of(&[100], 100, Codec::None).size() as u64;
    let config = LogConfig { segment_bytes: 2 * one, ..LogConfig::default() };
    let mut node = Node::new(&dir.path().join("."), config);
    (0..5).for_each(|_| node.append(&[100], 100));
    assert_eq!(bases(&node), [0, 2, 4], "two batches fit exactly");
    node.append(&[100], 1000);
    node.append(&[100], 1);
    assert_eq!(bases(&node), [0, 2, 4, 5, 6], "a batch that does not fit has a segment of its own");

    let config = LogConfig { segment_ms: 50, ..LogConfig::default() };
    let other = tempfile::tempdir().unwrap();
    let mut node = Node::new(other.path(), config);
    for time in [1000, 1050, 900, 1051, 5, 1102] {
        node.append(&[time], 1);
    }
    assert_eq!(bases(&node), [0, 3, 5], "old timestamps never close a segment");

    let config = LogConfig { segment_index_bytes: 16, index_interval_bytes: 1, ..LogConfig::default() };
    let third = tempfile::tempdir().unwrap();
    let mut node = Node::new(third.path(), config);
    (0..8).for_each(|_| node.append(&[100], 33 << 10));
    assert!(node.log.segments().len() > 2, "an index of two entries is full soon");
}

/// Who may not wait does not read index files, nor a whole segment to make them anew.
#[test]
fn a_read_that_may_not_wait_leaves_indexes_to_one_that_may() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = stopped(dir.path(), indexed_segments(), 1200);
    node.apply(255);
    let end = node.log.next_offset();
    let read = |waiting| node.log.read(0, 100_000, true, end, waiting).unwrap();
    std::fs::remove_file(node.dir.join("00000000000000000000.index")).unwrap();
    let refused = read(Waiting::Never);
    assert!(refused.would_wait && refused.slices.is_empty(), "{refused:?}");
    assert!(!node.dir.join("00000000000000000000.index").exists());
    let waited = read(Waiting::ForDisk);
    assert!(!waited.would_wait && waited.bytes > 0);
    let known = read(Waiting::Never);
    assert!(!known.would_wait && known.bytes > 0);
}

/// Reads at the end come from memory before the batch is in its file, and from the file afterwards, as one slice.
#[test]
fn the_tail_is_read_before_and_after_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(dir.path(), LogConfig::default());
    for time in [100, 101, 102] {
        node.append(&[time], 5000);
    }
    let all = |node: &Node| {
        let read = node.log.read(0, 1 << 20, true, node.next_offset(), Waiting::Never).unwrap();
        assert!(!read.would_wait);
        (read.slices.len(), node.bytes(&read))
    };
    let (slices, unwritten) = all(&node);
    assert_eq!(slices, 6, "header and records of each batch");
    assert!(!node.dir.join("00000000000000000000.log").exists(), "nothing is on the disk yet");
    node.flush(1, false);
    let (slices, half) = all(&node);
    assert_eq!((slices, &half), (5, &unwritten));
    node.flush(2, false);
    let (slices, written) = all(&node);
    assert_eq!((slices, &written), (1, &unwritten), "contiguous batches are one slice");
}

/// A consumer that is behind reads what may have to come from the disk, also where its ends are in memory.
#[test]
fn what_lies_before_the_tail_is_sent_from_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(dir.path(), LogConfig::default());
    for time in 0..12 {
        node.append(&[100 + time], 100 << 10);
    }
    node.flush(12, false);
    let read = node.log.read(0, 150 << 10, true, node.next_offset(), Waiting::Never).unwrap();
    assert!(matches!(read.slices[..], [LogSlice::File { position: 0, .. }]), "{read:?}");
    assert_eq!(read.bytes, node.bytes(&read).len());
}

/// Old clients are to be kept from zstd without a look at every header that is sent.
#[test]
fn appends_know_whether_a_segment_may_hold_zstd() {
    let dir = tempfile::tempdir().unwrap();
    let one = batch_of(&[100], 100, Codec::None).size() as u64;
    let mut node = Node::new(dir.path(), LogConfig { segment_bytes: one, ..LogConfig::default() });
    node.append(&[100], 100);
    node.append_batch(&[101], batch_of(&[101], 100, Codec::Zstd));
    let may_hold = |node: &Node, offset| {
        node.log.read(offset, 1, true, offset + 1, Waiting::ForDisk).unwrap().may_hold_zstd
    };
    assert_eq!((may_hold(&node, 0), may_hold(&node, 1)), (false, true));
    node.flush(2, false);
    node.reopen();
    assert_eq!(
        (may_hold(&node, 0), may_hold(&node, 1)),
        (true, true),
        "nobody looked at what was there before"
    );
}

/// A segment that goes is not opened by its name again, which may be another's by then.
#[test]
fn a_segment_that_goes_is_not_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(dir.path(), LogConfig::default());
    node.append(&[100, 101], 10);
    node.flush(usize::MAX, false);
    node.log.roll();
    node.append(&[103], 10);
    node.flush(usize::MAX, false);
    let segment = Arc::clone(&node.log.state().segments[0].segment);
    segment.handle().unwrap();
    segment.forget();
    assert!(std::fs::exists(segment.path()).unwrap(), "its name is still there");
    let error = segment.handle().unwrap_err();
    assert!(crate::segment::is_missing(&error), "{error}");
    assert!(!segment.sync_placed().unwrap(), "and no round may name what is in it");
}

/// Jitter shortens the time of a segment, never below nothing.
#[test]
fn jitter_is_no_longer_than_the_segments_time() {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig { segment_ms: 1_000, segment_jitter_ms: 600_000, ..LogConfig::default() };
    let mut node = Node::new(dir.path(), config);
    for timestamp in [100, 1_101] {
        for _ in 0..20 {
            node.append(&[timestamp], 10);
        }
    }
    let bases: Vec<i64> = node.log.state().segments.iter().map(|slot| slot.base_offset()).collect();
    assert_eq!(bases, [0, 20]);
}
