//! The node as a whole, in process: openraft's storage suite over our storage, and partitions end to end.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use log_store::{
    GroupState, Log, LogSlice, RecordBatch, ReplicaId,
    batch::BatchBuilder,
    checkpoint::Checkpoint,
    compression::Codec,
    config::LogConfig,
    disk::{Disk, RealDisk},
    wal::WalRecord,
};
use openraft::{
    StorageError,
    storage::RaftStateMachine,
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    Acks, AppendResult, Completion, CompletionQueue, FetchWaiter, Isolation, Node, NodeOptions, Partition,
    ReplicationError, Waiting,
    entry::TypeConfig,
    flusher::{AfterDurable, Work},
    metadata::{BrokerInfo, MetadataError, NewTopic},
    partition::PartitionSetup,
    raft_log::RaftLog,
    state_machine::StateMachine,
};

/// A clock that stands until it is moved.
#[derive(Clone)]
pub(crate) struct Clock(Arc<AtomicI64>);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(1_700_000_000_000)))
    }

    fn now(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

pub(crate) fn options(dir: &Path, clock: &Clock) -> NodeOptions {
    options_on(Arc::new(RealDisk), dir, clock)
}

pub(crate) fn options_on(disk: Arc<dyn Disk>, dir: &Path, clock: &Clock) -> NodeOptions {
    let clock = clock.clone();
    // numbers of a process are its own: what is random is not what these tests are about
    static SEED: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
    NodeOptions {
        data_dir: dir.to_owned(),
        wal_dir: None,
        wal_file_bytes: 4 << 20,
        disk,
        runtimes: vec![tokio::runtime::Handle::current()],
        now: Arc::new(move || clock.now()),
        monotonic: Arc::new(|| Duration::ZERO),
        entropy: Arc::new(|| {
            let seed = SEED.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            (seed ^ (seed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        }),
        progress: Arc::new(|_| {}),
        synced: Arc::new(|_| {}),
        broker: BrokerInfo {
            id: 1,
            endpoints: vec![("PLAINTEXT".to_owned(), "localhost".to_owned(), 9092)],
            rack: None,
        },
        log_defaults: LogConfig::default(),
        internal_topics: &["__consumer_offsets"],
        open_segments: 64,
    }
}

fn new_topic(name: &str, partitions: usize) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions: vec![vec![1]; partitions], configs: BTreeMap::new() }
}

/// A batch of one small record.
pub(crate) fn one_record_batch() -> RecordBatch {
    batch(&["x"])
}

pub(crate) fn batch(values: &[&str]) -> RecordBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    for value in values {
        builder.append(1_700_000_000_000, None, Some(value.as_bytes()), &[]);
    }
    builder.build()
}

fn sequenced(producer: i64, epoch: i16, sequence: i32, values: &[&str]) -> RecordBatch {
    let mut builder = BatchBuilder::new(Codec::None).producer(producer, epoch, sequence);
    for value in values {
        builder.append(1_700_000_000_000, None, Some(value.as_bytes()), &[]);
    }
    builder.build()
}

/// Creates a topic of one partition.
pub(crate) async fn partition(node: &Arc<Node>, name: &str) -> Arc<Partition> {
    let created = node.create_topics(vec![new_topic(name, 1)], false).await;
    let topic = created[0].as_ref().unwrap();
    node.partition(topic.id, 0).unwrap()
}

pub(crate) fn reopened(node: &Arc<Node>, name: &str) -> Arc<Partition> {
    let topic = Arc::clone(&node.metadata().topics[name]);
    node.partition(topic.id, 0).unwrap()
}

/// Every value of a partition from an offset on.
pub(crate) fn values(partition: &Partition, from: i64) -> Vec<(i64, String)> {
    let mut values = Vec::new();
    let mut next = from;
    loop {
        let read = partition.read(next, 1 << 20, true, Isolation::ReadUncommitted, Waiting::ForDisk).unwrap();
        if read.slices.is_empty() {
            return values;
        }
        for slice in read.slices {
            let mut bytes = match slice {
                LogSlice::Bytes(bytes) => bytes,
                LogSlice::File { file, position, len } => {
                    let mut bytes = vec![0; len];
                    file.read_exact_at(&mut bytes, position).unwrap();
                    bytes.into()
                }
            };
            while let Some(batch) = RecordBatch::take_first(&mut bytes).unwrap() {
                assert!(batch.crc_holds());
                let mut inflater = log_store::compression::Inflater::default();
                for record in batch.records_in(&mut inflater).unwrap() {
                    let record = record.unwrap();
                    if record.offset >= next {
                        values.push((
                            record.offset,
                            String::from_utf8(record.value.unwrap().to_vec()).unwrap(),
                        ));
                    }
                }
                next = next.max(batch.next_offset());
            }
        }
    }
}

/// Gives openraft's suite a group of its own for each test.
struct Groups {
    blank_as_batch: bool,
}

/// What keeps a group of the suite alive.
struct Alive {
    _dir: TempDir,
    node: Arc<Node>,
}

impl StoreBuilder<TypeConfig, RaftLog, StateMachine, Alive> for Groups {
    async fn build(&self) -> Result<(Alive, RaftLog, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(options(dir.path(), &Clock::new())).await.unwrap();
        let partition = node.bare_partition();
        partition.allow_gaps();
        let mut log = RaftLog::new(Arc::clone(&partition));
        log.blank_as_batch = self.blank_as_batch;
        Ok((Alive { _dir: dir, node }, log, StateMachine::new(partition)))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.node.abandon();
    }
}

impl Node {
    /// Ends as a killed process does. The directory is free once the node is dropped.
    pub(crate) fn abandon(&self) {
        self.flusher.abandon();
    }

    /// A group of the storage alone, without a core.
    pub(crate) fn bare_partition(&self) -> Arc<Partition> {
        // the suite's votes are of node 0
        let state = GroupState::new(ReplicaId(0), Uuid::from_u128(77), "suite".to_owned(), 0);
        let log = Log::create(
            &self.pool,
            &self.options.data_dir.join(state.directory()),
            &state,
            self.options.log_defaults.clone(),
        )
        .unwrap();
        let lane = Arc::clone(&self.lanes[0]);
        lane.push(Work::record(
            WalRecord::Created {
                replica: state.replica,
                topic_id: state.topic_id,
                topic: state.topic.clone(),
                partition: 0,
            },
            AfterDurable::Nothing,
        ));
        let setup = PartitionSetup {
            state: &state,
            internal: false,
            lane,
            space: Arc::clone(&self.space),
            now: Arc::clone(&self.options.now),
            files: Arc::clone(self.flusher.files()),
            max_batch_bytes: usize::MAX,
            revive: mpsc::unbounded_channel().0,
        };
        let partition = Partition::new(setup, log).unwrap();
        self.flusher.add_partition(&partition);
        partition
    }
}

/// Proves: openraft's storage suite holds for control entries.
#[tokio::test]
async fn the_storage_suite_passes() {
    Suite::test_all(Groups { blank_as_batch: false }).await.unwrap();
}

/// Proves: openraft's storage suite holds where its blank entries are record batches.
#[tokio::test]
async fn the_storage_suite_passes_with_batches_for_blank_entries() {
    Suite::test_all(Groups { blank_as_batch: true }).await.unwrap();
}

/// Proves: I7, L8, R1: what was acknowledged is read back after a restart, under a higher epoch.
#[tokio::test]
async fn records_survive_a_restart_and_the_epoch_rises() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    let orders = partition(&node, "orders").await;
    let before = orders.offsets().unwrap();
    assert_eq!((before.log_start, before.high_watermark, before.log_end), (0, 0, 0));
    assert_eq!(orders.append_committed(batch(&["a", "b"])).await.unwrap().base_offset, 0);
    assert_eq!(orders.append_committed(batch(&["c"])).await.unwrap().base_offset, 2);
    let offsets = orders.offsets().unwrap();
    assert_eq!((offsets.high_watermark, offsets.durable_end, offsets.log_end), (3, 3, 3));
    let expected: Vec<(i64, String)> = ["a", "b", "c"]
        .iter()
        .enumerate()
        .map(|(offset, value)| (offset as i64, value.to_string()))
        .collect();
    assert_eq!(values(&orders, 0), expected);
    node.shutdown().await;
    assert!(matches!(orders.offsets(), Err(ReplicationError::Stopping)));
    drop((orders, node));

    for start in 1..4 {
        let node = Node::start(options(dir.path(), &clock)).await.unwrap();
        let orders = reopened(&node, "orders");
        assert_eq!(values(&orders, 0), expected);
        let again = orders.offsets().unwrap();
        assert_eq!(again.high_watermark, 3);
        assert!(again.epoch >= before.epoch + start, "{again:?} after {before:?}");
        // the epoch of what was written before ends where it ended
        assert_eq!(orders.end_offset_for_epoch(before.epoch).unwrap(), Some((before.epoch, 3)));
        node.shutdown().await;
    }
}

/// Waits for the next result of a queue.
async fn next(queue: &CompletionQueue) -> Vec<(u64, AppendResult)> {
    let mut finished = Vec::new();
    while finished.is_empty() {
        tokio::time::timeout(Duration::from_secs(20), queue.finished()).await.unwrap();
        queue.drain(&mut finished);
    }
    finished
}

/// Proves: K03, P13: whatever was acknowledged before a kill is there after it, for each kind of acks.
#[tokio::test]
async fn acknowledged_batches_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let mut expected = Vec::new();
    for round in 0..3 {
        let node = Node::start(options(dir.path(), &clock)).await.unwrap();
        let orders = match round {
            0 => partition(&node, "orders").await,
            _ => reopened(&node, "orders"),
        };
        assert_eq!(values(&orders, 0), expected);
        let queue = Arc::new(CompletionQueue::default());
        for token in 0..300 {
            let acks = [Acks::All, Acks::Leader][token as usize % 2];
            let value = format!("{round}-{token}");
            orders.append(batch(&[&value]), acks, Completion::Queue(Arc::clone(&queue), token));
            expected.push((expected.len() as i64, value));
        }
        let mut finished = Vec::new();
        while finished.len() < 300 {
            finished.extend(next(&queue).await);
        }
        for (token, result) in finished {
            assert_eq!(result.unwrap().base_offset, round * 300 + token as i64);
        }
        node.abandon();
    }
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    assert_eq!(values(&reopened(&node, "orders"), 0), expected);
    node.shutdown().await;
}

/// Proves: I3, I4, I5, I6: sequences per producer, duplicates of what is in flight and of what is stored.
#[tokio::test]
async fn sequences_are_checked_and_duplicates_are_answered_once() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    let orders = partition(&node, "orders").await;
    let queue = Arc::new(CompletionQueue::default());
    let submit = |token, batch| orders.append(batch, Acks::All, Completion::Queue(Arc::clone(&queue), token));
    // five in flight, and each of them again before any is answered
    for token in 0..5 {
        submit(token, sequenced(7, 0, token as i32 * 2, &["a", "b"]));
    }
    for token in 0..5 {
        submit(10 + token, sequenced(7, 0, token as i32 * 2, &["a", "b"]));
    }
    let mut finished = Vec::new();
    while finished.len() < 10 {
        finished.extend(next(&queue).await);
    }
    for (token, result) in finished {
        assert_eq!(result.unwrap().base_offset, (token as i64 % 10) * 2, "token {token}");
    }
    assert_eq!(orders.offsets().unwrap().log_end, 10, "duplicates appended nothing");
    // stored duplicates, also of an older batch
    for sequence in [0, 8] {
        let again = orders.append_committed(sequenced(7, 0, sequence, &["a", "b"])).await.unwrap();
        assert_eq!(again.base_offset, i64::from(sequence));
    }
    let gap = orders.append_committed(sequenced(7, 0, 12, &["c"])).await;
    assert!(matches!(gap, Err(ReplicationError::OutOfOrderSequence { expected: 10, .. })), "{gap:?}");
    let late_start = orders.append_committed(sequenced(7, 1, 3, &["c"])).await;
    assert!(
        matches!(late_start, Err(ReplicationError::OutOfOrderSequence { expected: 0, .. })),
        "{late_start:?}"
    );
    assert_eq!(orders.append_committed(sequenced(7, 1, 0, &["c"])).await.unwrap().base_offset, 10);
    let fenced = orders.append_committed(sequenced(7, 0, 10, &["d"])).await;
    assert!(
        matches!(fenced, Err(ReplicationError::ProducerFenced { epoch: 0, current: 1, .. })),
        "{fenced:?}"
    );
    // an unknown producer may begin anywhere, and sequences wrap
    assert_eq!(orders.append_committed(sequenced(8, 0, i32::MAX, &["e"])).await.unwrap().base_offset, 11);
    assert_eq!(orders.append_committed(sequenced(8, 0, 0, &["f"])).await.unwrap().base_offset, 12);
    node.shutdown().await;
}

/// Proves: I7, T02: duplicates are recognised after a clean restart and after a kill.
#[tokio::test]
async fn duplicates_are_recognised_after_a_restart() {
    for killed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::new();
        let node = Node::start(options(dir.path(), &clock)).await.unwrap();
        let orders = partition(&node, "orders").await;
        for sequence in 0..8 {
            orders.append_committed(sequenced(7, 0, sequence, &["a"])).await.unwrap();
        }
        match killed {
            true => node.abandon(),
            false => node.shutdown().await,
        }
        drop((orders, node));
        let node = Node::start(options(dir.path(), &clock)).await.unwrap();
        let orders = reopened(&node, "orders");
        assert_eq!(orders.append_committed(sequenced(7, 0, 7, &["a"])).await.unwrap().base_offset, 7);
        assert_eq!(orders.append_committed(sequenced(7, 0, 3, &["a"])).await.unwrap().base_offset, 3);
        assert_eq!(orders.append_committed(sequenced(7, 0, 8, &["b"])).await.unwrap().base_offset, 8);
        assert_eq!(orders.offsets().unwrap().log_end, 9);
        node.shutdown().await;
    }
}

/// Proves: I9: the state of a producer that wrote nothing for long is forgotten, and it may begin anew.
#[tokio::test]
async fn idle_producers_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    let orders = partition(&node, "orders").await;
    orders.append_committed(sequenced(7, 0, 0, &["a"])).await.unwrap();
    orders.expire_producers(clock.now() - 1);
    assert!(orders.append_committed(sequenced(7, 0, 5, &["b"])).await.is_err(), "not idle for long enough");
    clock.advance(1_000);
    orders.expire_producers(clock.now());
    orders.append_committed(sequenced(7, 0, 5, &["b"])).await.unwrap();
    node.shutdown().await;
}

/// Proves: I2: producer ids are never given out twice, over restarts and kills.
#[tokio::test]
async fn producer_ids_are_unique() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let mut seen = std::collections::HashSet::new();
    for start in 0..3 {
        let node = Node::start(options(dir.path(), &clock)).await.unwrap();
        for _ in 0..1_500 {
            assert!(seen.insert(node.next_producer_id().await.unwrap()), "an id was given out twice");
        }
        match start {
            1 => node.abandon(),
            _ => node.shutdown().await,
        }
    }
}

/// Proves: M17: success of a creation means that every partition takes a produce at once.
#[tokio::test]
async fn a_created_topic_serves_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    let wanted = vec![
        new_topic("a", 50),
        new_topic("b", 50),
        new_topic("a", 1),
        new_topic("a.c", 1),
        new_topic("a_c", 1),
    ];
    let created = node.create_topics(wanted, false).await;
    assert!(matches!(&created[2], Err(MetadataError::TopicExists(name)) if name == "a"));
    assert!(matches!(&created[4], Err(MetadataError::NameCollision(..))));
    for topic in [&created[0], &created[1], &created[3]] {
        let topic = topic.as_ref().unwrap();
        for index in 0..topic.partitions.len() {
            let partition = node.partition(topic.id, index as i32).unwrap();
            assert_eq!(partition.append_committed(one_record_batch()).await.unwrap().base_offset, 0);
        }
    }
    let validated = node.create_topics(vec![new_topic("c", 1)], true).await;
    assert!(validated[0].is_ok() && !node.metadata().topics.contains_key("c"));
    assert_eq!(node.partitions().len(), 101);
    node.shutdown().await;
    drop(node);
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    assert_eq!(node.partitions().len(), 101);
    for (_, _, partition) in node.partitions() {
        assert_eq!(partition.append_committed(one_record_batch()).await.unwrap().base_offset, 1);
    }
    node.shutdown().await;
}

/// Proves: D22: a deleted topic ends fetches at once; created again under its name it begins at 0.
#[tokio::test]
async fn a_deleted_topic_ends_at_once_and_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    let orders = partition(&node, "orders").await;
    orders.append_committed(sequenced(7, 3, 40, &["a"])).await.unwrap();
    let waiter = Arc::new(FetchWaiter::default());
    orders.wait(&waiter);
    let first = orders.topic_id();
    node.delete_topic(first).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), waiter.wake.notified()).await.expect("the fetch is woken");
    assert!(matches!(orders.offsets(), Err(ReplicationError::TopicDeleted)));
    assert!(matches!(orders.append_committed(one_record_batch()).await, Err(ReplicationError::TopicDeleted)));
    assert!(node.partition(first, 0).is_none());
    assert!(matches!(node.delete_topic(first).await, Err(MetadataError::UnknownTopic)));

    let again = partition(&node, "orders").await;
    assert_ne!(again.topic_id(), first);
    assert_eq!(again.offsets().unwrap().log_end, 0);
    // sequences of the former topic are forgotten
    assert_eq!(again.append_committed(sequenced(7, 0, 0, &["b"])).await.unwrap().base_offset, 0);
    node.abandon();
    drop((orders, again, node));
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    assert_eq!(values(&reopened(&node, "orders"), 0), [(0, "b".to_owned())]);
    node.shutdown().await;
}

/// Proves: L10 (a trim is part of the log): the log start moves forward only, and stays over restarts.
#[tokio::test]
async fn a_trim_moves_the_start_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    let orders = partition(&node, "orders").await;
    for value in ["a", "b", "c", "d"] {
        orders.append_committed(batch(&[value])).await.unwrap();
    }
    assert!(matches!(orders.trim(5).await, Err(ReplicationError::OffsetOutOfRange { start: 0, end: 4, .. })));
    let waiter = Arc::new(FetchWaiter::default());
    orders.wait(&waiter);
    assert_eq!(orders.trim(2).await.unwrap(), 2);
    tokio::time::timeout(Duration::from_secs(20), waiter.wake.notified()).await.expect("the fetch is woken");
    assert_eq!(orders.trim(1).await.unwrap(), 2, "it never goes back");
    let below = orders.read(1, 100, true, Isolation::ReadUncommitted, Waiting::ForDisk);
    assert!(matches!(below, Err(ReplicationError::OffsetOutOfRange { start: 2, end: 4, .. })));
    node.abandon();
    drop((orders, node));
    for _ in 0..2 {
        let node = Node::start(options(dir.path(), &clock)).await.unwrap();
        let orders = reopened(&node, "orders");
        assert_eq!(orders.offsets().unwrap().log_start, 2);
        assert_eq!(values(&orders, 2), [(2, "c".to_owned()), (3, "d".to_owned())]);
        node.shutdown().await;
    }
}

fn log_files(dir: &Path, partition: &str) -> Vec<String> {
    let mut files: Vec<String> = std::fs::read_dir(dir.join(partition))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".log"))
        .collect();
    files.sort();
    files
}

/// Waits until a condition holds that another thread brings about.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never: {what}");
}

fn small_segments(name: &str, configs: &[(&str, &str)]) -> NewTopic {
    let mut topic = new_topic(name, 1);
    // Kafka's smallest is 1 MiB; the internal setting is there for tests
    topic.configs.insert("internal.segment.bytes".to_owned(), "1024".to_owned());
    topic.configs.extend(configs.iter().map(|(name, value)| (name.to_string(), value.to_string())));
    topic
}

/// Proves: L11 (the start moves forward only), P03's purge: retention by size gives up whole segments, their files go,
/// and the group elects itself again afterwards although its membership entry is purged.
#[tokio::test]
async fn retention_by_size_gives_up_segments_and_survives_kills() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    let created =
        node.create_topics(vec![small_segments("orders", &[("retention.bytes", "2048")])], false).await;
    let orders = node.partition(created[0].as_ref().unwrap().id, 0).unwrap();
    let value = "v".repeat(300);
    for sequence in 0..40 {
        orders.append_committed(sequenced(7, 0, sequence, &[&value])).await.unwrap();
    }
    let before = log_files(dir.path(), "orders-0");
    assert!(before.len() > 5, "{before:?}");
    node.retention(clock.now(), i64::MAX).await;
    let start = orders.offsets().unwrap().log_start;
    assert!(start > 0 && start < 40, "{start}");
    until("files go", || log_files(dir.path(), "orders-0").len() < before.len() / 2).await;
    assert!(orders.size() >= 2048);
    node.abandon();
    drop((orders, node));
    for _ in 0..2 {
        let node = Node::start(options(dir.path(), &clock)).await.unwrap();
        let orders = reopened(&node, "orders");
        let offsets = orders.offsets().unwrap();
        assert_eq!((offsets.log_start, offsets.high_watermark), (start, 40));
        let kept = values(&orders, start);
        assert_eq!(kept.len() as i64, 40 - start);
        // producer state comes from the snapshot at a segment's start and the headers behind it
        assert_eq!(orders.append_committed(sequenced(7, 0, 39, &[&value])).await.unwrap().base_offset, 39);
        let gap = orders.append_committed(sequenced(7, 0, 41, &[&value])).await;
        assert!(matches!(gap, Err(ReplicationError::OutOfOrderSequence { expected: 40, .. })), "{gap:?}");
        node.abandon();
    }
}

/// A snapshot is taken where a release asked for it: openraft takes one for each of several that ask at a time, and purges what
/// it covers.
#[tokio::test]
async fn only_what_is_released_is_purged() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    let created = node.create_topics(vec![small_segments("orders", &[])], false).await;
    let orders = node.partition(created[0].as_ref().unwrap().id, 0).unwrap();
    let value = "v".repeat(300);
    for _ in 0..20 {
        orders.append_committed(batch(&[&value])).await.unwrap();
    }
    let mut machine = StateMachine::new(Arc::clone(&orders));
    assert!(machine.try_create_snapshot_builder(false).await.is_none());
    let before = log_files(dir.path(), "orders-0").len();
    let (first, second) = tokio::join!(orders.trim(10), orders.trim(10));
    assert_eq!((first.unwrap(), second.unwrap()), (10, 10));
    for _ in 0..3 {
        tokio::join!(orders.release(), orders.release());
        orders.core().unwrap().trigger().snapshot().await.unwrap();
        orders.append_committed(batch(&[&value])).await.unwrap();
    }
    until("segments go", || log_files(dir.path(), "orders-0").len() < before).await;
    assert_eq!(values(&orders, 10).len(), 13);
    node.shutdown().await;
    drop((orders, machine, node));
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    let orders = reopened(&node, "orders");
    assert_eq!(orders.offsets().unwrap().log_start, 10);
    assert_eq!(values(&orders, 10).len(), 13);
    node.shutdown().await;
}

/// Segments below `dir` that this process has open although their names are gone: their space is not free.
fn unlinked_but_open(dir: &Path) -> Vec<String> {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    open.filter_map(|entry| Some(std::fs::read_link(entry.ok()?.path()).ok()?.to_str()?.to_owned()))
        .filter(|path| path.starts_with(dir.to_str().unwrap()) && path.ends_with(".log (deleted)"))
        .collect()
}

/// Proves: D04 (deleting topics and lower retention free space): what is deleted or purged is closed, also where somebody
/// holds the partition and nothing else is written.
#[tokio::test]
async fn deleted_and_purged_segments_give_their_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    let created =
        node.create_topics(vec![small_segments("orders", &[("retention.bytes", "2048")])], false).await;
    let topic = created[0].as_ref().unwrap().id;
    let orders = node.partition(topic, 0).unwrap();
    let value = "v".repeat(300);
    for _ in 0..40 {
        orders.append_committed(batch(&[&value])).await.unwrap();
    }
    let before = log_files(dir.path(), "orders-0");
    // a reader opens them all
    assert_eq!(values(&orders, 0).len(), 40);
    node.retention(clock.now(), i64::MAX).await;
    until("files are purged", || log_files(dir.path(), "orders-0").len() < before.len() / 2).await;
    until("purged files are closed", || unlinked_but_open(dir.path()).is_empty()).await;
    for _ in 0..40 {
        orders.append_committed(batch(&[&value])).await.unwrap();
    }
    let start = orders.offsets().unwrap().log_start;
    assert_eq!(values(&orders, start).len() as i64, 80 - start);
    node.delete_topic(topic).await.unwrap();
    let gone = || {
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.into_iter().all(|name| !name.to_str().unwrap().starts_with("orders-0"))
    };
    until("files are deleted", gone).await;
    until("deleted files are closed", || unlinked_but_open(dir.path()).is_empty()).await;
    assert!(matches!(orders.offsets(), Err(ReplicationError::TopicDeleted)));
    node.shutdown().await;
}

/// Proves: retention by time counts the later of record and append time, and empties an idle partition for good.
#[tokio::test]
async fn retention_by_time_empties_an_idle_partition() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    let created =
        node.create_topics(vec![small_segments("orders", &[("retention.ms", "60000")])], false).await;
    let orders = node.partition(created[0].as_ref().unwrap().id, 0).unwrap();
    // records of last year, appended now
    for _ in 0..10 {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(clock.now() - 365 * 86_400_000, None, Some(b"old"), &[]);
        orders.append_committed(builder.build()).await.unwrap();
    }
    clock.advance(59_000);
    node.retention(clock.now(), i64::MAX).await;
    assert_eq!(orders.offsets().unwrap().log_start, 0, "appended less than a minute ago");
    clock.advance(2_000);
    node.retention(clock.now(), i64::MAX).await;
    let offsets = orders.offsets().unwrap();
    assert_eq!((offsets.log_start, offsets.high_watermark), (10, 10));
    assert_eq!(orders.append_committed(one_record_batch()).await.unwrap().base_offset, 10);
    node.shutdown().await;
    drop((orders, node));
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    let orders = reopened(&node, "orders");
    assert_eq!(values(&orders, 10), [(10, "x".to_owned())]);
    node.shutdown().await;
}

/// Proves: R2: until an entry of its own term is applied, a replica answers that it does not lead.
#[tokio::test]
async fn a_replica_serves_only_with_an_entry_of_its_own_term() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    let bare = node.bare_partition();
    let refused = bare.append_committed(one_record_batch()).await;
    assert!(matches!(refused, Err(ReplicationError::NotLeader)), "{refused:?}");
    assert!(matches!(bare.offsets(), Err(ReplicationError::NotLeader)));
    // the vote alone is not enough
    let vote = log_store::Vote { term: 4, node: 0, committed: true };
    bare.vote_comes(vote).unwrap();
    bare.vote_saved(vote);
    assert!(matches!(bare.offsets(), Err(ReplicationError::NotLeader)));
    let mut results = Vec::new();
    let entry = |term, index| (log_store::LogId { term, index }, crate::entry::Payload::Blank);
    bare.apply(&mut vec![entry(3, 0)], &mut results).unwrap();
    assert!(matches!(bare.offsets(), Err(ReplicationError::NotLeader)), "an entry of an earlier term");
    bare.apply(&mut vec![entry(4, 1)], &mut results).unwrap();
    assert_eq!(bare.offsets().unwrap().epoch, 4);
    // and a later vote ends it at once
    bare.vote_comes(log_store::Vote { term: 5, node: 9, committed: false }).unwrap();
    assert!(matches!(bare.offsets(), Err(ReplicationError::NotLeader)));
    node.abandon();
}

/// Proves: R01: a control entry that is applied is the one that was appended.
#[tokio::test]
async fn a_control_entry_has_one_content() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(options(dir.path(), &Clock::new())).await.unwrap();
    let bare = node.bare_partition();
    let log_id = |index| log_store::LogId { term: 1, index };
    let trim = |log_start| crate::entry::Payload::Trim { log_start };
    for index in [0, 1] {
        bare.appended_control(log_id(index), &trim(0).encode_control().unwrap()).unwrap();
    }
    let mut results = Vec::new();
    bare.apply(&mut vec![(log_id(0), trim(0))], &mut results).unwrap();
    let other = bare.apply(&mut vec![(log_id(1), trim(7))], &mut results);
    assert!(matches!(other, Err(crate::invariants::Violation::TwoChecksums { .. })), "{other:?}");
    node.abandon();
}

/// Lets a byte of a group's state rot in the checkpoint and in its copy; `name` is the topic's.
fn rot_state(dir: &Path, name: &str) {
    for file in ["checkpoint", "checkpoint.copy"] {
        let path = dir.join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
        bytes[at] ^= 0x20;
        std::fs::write(&path, bytes).unwrap();
    }
}

/// Proves: D25: a partition whose state rotted in both checkpoints is offline and keeps its files, over restarts and
/// kills, while the others serve; it can be deleted, and its topic made anew.
#[tokio::test]
async fn a_partition_whose_state_rotted_is_offline_until_it_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    for name in ["orders", "other"] {
        partition(&node, name).await.append_committed(batch(&["a"])).await.unwrap();
    }
    node.shutdown().await;
    drop(node);
    rot_state(dir.path(), "orders");
    let kept = std::fs::read(dir.path().join("orders-0/00000000000000000000.log")).unwrap();
    for start in 0..3 {
        let node = Node::start(options(dir.path(), &clock)).await.unwrap();
        let (orders, other) = (reopened(&node, "orders"), reopened(&node, "other"));
        let refused = orders.append_committed(batch(&["b"])).await;
        assert!(matches!(refused, Err(ReplicationError::Storage(_))), "start {start}: {refused:?}");
        assert_eq!(other.append_committed(batch(&["b"])).await.unwrap().base_offset, start + 1);
        assert_eq!(std::fs::read(dir.path().join("orders-0/00000000000000000000.log")).unwrap(), kept);
        match start {
            1 => node.abandon(),
            _ => node.shutdown().await,
        }
    }
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    node.delete_topic(reopened(&node, "orders").topic_id()).await.unwrap();
    let again = partition(&node, "orders").await;
    assert_eq!(again.append_committed(batch(&["new"])).await.unwrap().base_offset, 0);
    node.abandon();
    drop((again, node));
    for _ in 0..2 {
        let node = Node::start(options(dir.path(), &clock)).await.unwrap();
        assert_eq!(values(&reopened(&node, "orders"), 0), [(0, "new".to_owned())]);
        node.shutdown().await;
    }
    let checkpoint = Checkpoint::load(&RealDisk, dir.path()).unwrap().unwrap();
    assert!(checkpoint.damaged.is_empty(), "what was deleted is forgotten");
}

/// Proves: D25: without the metadata group's state nothing starts, nothing is removed, and the message says what to do.
#[tokio::test]
async fn a_node_whose_metadata_state_rotted_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    partition(&node, "orders").await.append_committed(batch(&["a"])).await.unwrap();
    node.shutdown().await;
    drop(node);
    let read = |file: &str| std::fs::read(dir.path().join(file)).unwrap();
    let whole = read("checkpoint");
    rot_state(dir.path(), "__cluster_metadata");
    let rotten = read("checkpoint");
    for _ in 0..2 {
        let refused = Node::start(options(dir.path(), &clock)).await.unwrap_err().to_string();
        for part in ["checkpoint", "metadata", "Nothing was changed", "backup"] {
            assert!(refused.contains(part), "{refused}");
        }
    }
    assert_eq!(read("checkpoint"), rotten);
    for file in ["checkpoint", "checkpoint.copy"] {
        std::fs::write(dir.path().join(file), &whole).unwrap();
    }
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    assert_eq!(values(&reopened(&node, "orders"), 0), [(0, "a".to_owned())]);
    node.shutdown().await;
}

/// Proves: O11: a topic of the longest name (Kafka's 249 characters) is deleted and made again as others are.
#[tokio::test]
async fn a_topic_with_the_longest_name_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    let name = "long.".repeat(50)[..249].to_owned();
    let former = partition(&node, &name).await;
    former.append_committed(batch(&["old"])).await.unwrap();
    node.delete_topic(former.topic_id()).await.unwrap();
    let again = partition(&node, &name).await;
    assert_eq!(again.append_committed(batch(&["new"])).await.unwrap().base_offset, 0);
    node.abandon();
    drop((former, again, node));
    // as a deletion leaves it whose files could not be removed any more
    let left = dir.path().join(format!("{}-0.{}-delete", &name[..210], "0".repeat(32)));
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("00000000000000000000.log"), "old").unwrap();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    assert_eq!(values(&reopened(&node, &name), 0), [(0, "new".to_owned())]);
    assert!(!left.exists());
    node.shutdown().await;
}

/// Changes the checkpoint of a node that is stopped.
fn change_state(dir: &Path, topic: &str, change: impl FnOnce(&mut GroupState)) {
    let mut checkpoint = Checkpoint::load(&RealDisk, dir).unwrap().unwrap();
    change(checkpoint.groups.iter_mut().find(|state| state.topic == topic).unwrap());
    checkpoint.write(&RealDisk, dir).unwrap();
}

/// Proves: D25, P05: one group that cannot be opened is offline and loses nothing; the others serve. Without the
/// metadata group nothing starts.
#[tokio::test]
async fn a_group_that_cannot_be_opened_is_offline_alone() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    for name in ["orders", "other"] {
        partition(&node, name).await.append_committed(batch(&["a"])).await.unwrap();
    }
    node.shutdown().await;
    drop(node);
    // the meta of a snapshot as a later version might write it
    let unreadable = Bytes::from_static(&[0xff; 40]);
    change_state(dir.path(), "orders", |state| state.snapshot = unreadable.clone());
    for start in 0..2 {
        let node = Node::start(options(dir.path(), &clock)).await.unwrap();
        let refused = reopened(&node, "orders").append_committed(batch(&["b"])).await;
        assert!(matches!(refused, Err(ReplicationError::Storage(_))), "{refused:?}");
        let other = reopened(&node, "other").append_committed(batch(&["b"])).await;
        assert_eq!(other.unwrap().base_offset, start + 1);
        node.shutdown().await;
    }
    change_state(dir.path(), "orders", |state| state.snapshot = Bytes::new());
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    assert_eq!(values(&reopened(&node, "orders"), 0), [(0, "a".to_owned())]);
    node.shutdown().await;
    drop(node);

    change_state(dir.path(), "__cluster_metadata", |state| state.snapshot = unreadable);
    let refused = Node::start(options(dir.path(), &clock)).await.unwrap_err().to_string();
    assert!(refused.contains("metadata cannot be read") && refused.contains("backup"), "{refused}");
}

/// Proves: O11: a checkpoint that began before a topic was deleted writes no index of it into the directory of the next
/// topic of that name, which would be offline with it.
#[tokio::test]
async fn a_late_checkpoint_leaves_the_next_topic_alone() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    let former = partition(&node, "orders").await;
    former.append_committed(batch(&["old", "older"])).await.unwrap();
    node.delete_topic(former.topic_id()).await.unwrap();
    let again = partition(&node, "orders").await;
    again.append_committed(batch(&["new"])).await.unwrap();
    let files = || -> BTreeMap<_, _> {
        let entries =
            std::fs::read_dir(dir.path().join("orders-0")).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
    };
    let before = files();
    crate::files::write_indexes(&former);
    assert_eq!(files(), before);
    node.abandon();
    drop((former, again, node));
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    assert_eq!(values(&reopened(&node, "orders"), 0), [(0, "new".to_owned())]);
    node.shutdown().await;
}

/// Proves: the data directory of another cluster is refused: the words say of which, nothing is written into the
/// metadata, and with its own identity everything is there.
#[tokio::test]
async fn a_directory_with_the_metadata_of_another_cluster_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    let held = node.metadata().cluster_id.clone();
    partition(&node, "orders").await.append_committed(batch(&["a"])).await.unwrap();
    node.shutdown().await;
    drop(node);
    let (meta, log) = (dir.path().join("meta.toml"), "__cluster_metadata-0/00000000000000000000.log");
    let own = std::fs::read_to_string(&meta).unwrap();
    let before = std::fs::read(dir.path().join(log)).unwrap();
    let other = "b".repeat(22);
    std::fs::write(&meta, own.replace(&held, &other)).unwrap();
    for _ in 0..2 {
        let refused = Node::start(options(dir.path(), &clock)).await.unwrap_err().to_string();
        for part in [&*held, &*other, "Nothing was removed", "choose"] {
            assert!(refused.contains(part), "{refused}");
        }
        assert_eq!(std::fs::read(dir.path().join(log)).unwrap(), before);
    }
    std::fs::write(&meta, own).unwrap();
    let node = Node::start(options(dir.path(), &clock)).await.unwrap();
    assert_eq!(node.metadata().cluster_id, held);
    assert_eq!(values(&reopened(&node, "orders"), 0), [(0, "a".to_owned())]);
    node.shutdown().await;
}
