//! The order of durability (`log_store`, "Order of durability"): a test for each line, which fails on its mutant (test only).
//!
//! Each rule is a function that says what it saw; the test wants it to hold, and to be broken by the planted bug.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use log_store::{
    LogId, Vote,
    checkpoint::Checkpoint,
    config::LogConfig,
    disk::{
        RealDisk,
        overlay::{OverlayDisk, OverlayFaults},
    },
    wal::RING_FILES,
};
use openraft::{
    RaftLogReader,
    storage::{RaftLogStorage, RaftStateMachine},
};
use tokio::sync::oneshot;

use crate::{
    Acks, Completion, CompletionQueue, Node, Partition, ReplicationError,
    completion::Ticket,
    entry::{to_raft, vote_to_raft},
    files::{Files, Job},
    flusher::{Fatal, Faults, Mutation, Work},
    metadata::{MetadataError, MetadataRecord, NewTopic, REWRITE_BATCH, REWRITE_RECORDS, TopicInfo},
    node::Opened,
    raft_log::RaftLog,
    snapshot::SnapshotContents,
    state_machine::StateMachine,
    test_disk::{Event, TestDisk},
    tests::{Clock, batch, one_record_batch, options_on, partition, reopened, until, values},
};

/// Whether a rule held, or how it was seen broken.
type Seen = Result<(), String>;

/// A node on a test disk.
struct Bench {
    disk: TestDisk,
    node: Arc<Node>,
    fatal: Arc<AtomicUsize>,
    dir: tempfile::TempDir,
    /// Of the node's monotonic clock.
    seconds: Arc<AtomicU64>,
}

/// A small file of the ring, which takes one large batch.
const SMALL_FILE: u64 = 64 << 10;
const LARGE_BATCH: usize = 40 << 10;

impl Bench {
    async fn new(mutation: Mutation) -> Self {
        let small_segments = LogConfig { segment_bytes: 400, ..LogConfig::default() };
        Self::on(TestDisk::default(), 4 << 20, small_segments, mutation).await
    }

    /// Over a disk that keeps nothing but what was synced, and with a small ring.
    async fn with_power_cuts(mutation: Mutation) -> Self {
        let disk = TestDisk::over(Arc::new(OverlayDisk::new(OverlayFaults::default())));
        Self::on(disk, SMALL_FILE, LogConfig::default(), mutation).await
    }

    async fn on(disk: TestDisk, wal_file_bytes: u64, log_defaults: LogConfig, mutation: Mutation) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fatal = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&fatal);
        let mut faults = Faults::new(Arc::new(move |_| _ = counted.fetch_add(1, Ordering::SeqCst)));
        faults.mutation = mutation;
        let mut options = options_on(Arc::new(disk.clone()), dir.path(), &Clock::new());
        options.wal_file_bytes = wal_file_bytes;
        options.log_defaults = log_defaults;
        let seconds = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&seconds);
        options.monotonic = Arc::new(move || Duration::from_secs(clock.load(Ordering::SeqCst)));
        let node = Node::start_with(options, faults).await.unwrap();
        Self { disk, node, fatal, dir, seconds }
    }

    /// The files of the ring.
    fn ring(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.dir.path().join("wal")).unwrap();
        files.map(|file| file.unwrap().path()).filter(|path| is_wal(path)).collect()
    }

    /// Waits until a sync is held.
    async fn held_sync(&self) {
        let disk = self.disk.clone();
        tokio::task::spawn_blocking(move || disk.await_held_sync()).await.unwrap();
    }

    /// What a power cut leaves now, started again: whether all that was acknowledged, by topic and value, is there. Of
    /// the writes to the write-ahead log that no sync followed those reach the disk of which `arrives` says so.
    async fn survives_power_cut(
        &self,
        acknowledged: &[(&'static str, String)],
        arrives: impl Fn(usize) -> bool,
    ) -> Seen {
        let left = tempfile::tempdir().unwrap();
        let unsynced = self.disk.at_one_instant(|| {
            copy_directory(self.dir.path(), left.path());
            self.disk.unsynced()
        });
        for (number, (path, position, bytes)) in unsynced.into_iter().enumerate() {
            if arrives(number) {
                let file = left.path().join(path.strip_prefix(self.dir.path()).unwrap());
                let file = std::fs::File::options().write(true).open(file).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, &bytes, position).unwrap();
            }
        }
        let mut options = options_on(Arc::new(RealDisk), left.path(), &Clock::new());
        options.wal_file_bytes = SMALL_FILE;
        let node = Node::start(options).await.map_err(|error| format!("no start: {error}"))?;
        let missing = acknowledged.iter().find_map(|(topic, value)| {
            let partition = reopened(&node, topic);
            match partition.offsets() {
                Err(error) => Some(format!("{topic}: {error}")),
                Ok(_) => {
                    let lost = !values(&partition, 0).iter().any(|(_, found)| found == value);
                    lost.then(|| format!("{topic} lost {}", &value[..value.len().min(20)]))
                }
            }
        });
        node.abandon();
        missing.map_or(Ok(()), Err)
    }

    fn log_files(&self, partition: &Partition) -> Vec<PathBuf> {
        let dir = self.dir.path().join(format!("{}-{}", partition.topic(), partition.index()));
        let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        files.sort();
        files
    }
}

fn copy_directory(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target)
                .unwrap_or_else(|error| panic!("{}: {error}", entry.path().display()));
        }
    }
}

/// A value of a batch that rounds hold: larger ones may be named.
const HELD: usize = 60 << 10;

/// A value of which one fills most of a round.
fn large(number: usize) -> String {
    format!("{number:<LARGE_BATCH$}")
}

/// Creates topics of one partition, in shared rounds.
async fn partitions(bench: &Bench, topics: &[&str]) -> Vec<Arc<Partition>> {
    let topic = |name: &&str| NewTopic {
        name: name.to_string(),
        partitions: vec![vec![1]],
        configs: Default::default(),
    };
    let created = bench.node.create_topics(topics.iter().map(topic).collect(), false).await;
    created.into_iter().map(|topic| bench.node.partition(topic.unwrap().id, 0).unwrap()).collect()
}

/// Lets every task that can go on do so.
async fn settle() {
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn is_wal(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "wal")
}

/// 1: no callback of a round before that round is durable.
async fn answers_wait_for_the_sync(mutation: Mutation) -> Seen {
    let bench = Bench::new(mutation).await;
    let orders = partition(&bench.node, "orders").await;
    let queue = Arc::new(CompletionQueue::default());
    // a mutant answers the creation before its rounds are synced
    settle().await;
    bench.disk.hold_syncs(".wal");
    for (token, acks) in [(0, Acks::All), (1, Acks::Leader)] {
        orders.append(one_record_batch(), acks, Completion::Queue(Arc::clone(&queue), token));
    }
    let disk = bench.disk.clone();
    tokio::task::spawn_blocking(move || disk.await_held_sync()).await.unwrap();
    settle().await;
    let mut finished = Vec::new();
    queue.drain(&mut finished);
    let durable = orders.offsets().map_err(|error| error.to_string())?.durable_end;
    bench.disk.release_syncs();
    if !finished.is_empty() || durable != 0 {
        return Err(format!("acknowledged before the sync returned: {finished:?}, durable end {durable}"));
    }
    let mut rest = 2;
    while rest > 0 {
        queue.finished().await;
        queue.drain(&mut finished);
        rest -= finished.drain(..).len();
    }
    bench.node.shutdown().await;
    Ok(())
}

/// 1: callbacks run in index order: else the group ends, and acknowledges nothing more.
async fn answers_come_in_order(mutation: Mutation) -> Seen {
    let bench = Bench::new(mutation).await;
    let orders = partition(&bench.node, "orders").await;
    let queue = Arc::new(CompletionQueue::default());
    for token in 0..2 {
        let rounds = bench.node.flusher.stats().rounds;
        orders.append(one_record_batch(), Acks::Leader, Completion::Queue(Arc::clone(&queue), token));
        while bench.node.flusher.stats().rounds == rounds {
            settle().await;
        }
    }
    let mut finished = Vec::new();
    while finished.len() < 2 {
        queue.finished().await;
        queue.drain(&mut finished);
    }
    settle().await;
    let offline = orders.offsets().err().map(|error| error.to_string());
    if offline.is_some() {
        bench.node.abandon();
    } else {
        bench.node.shutdown().await;
    }
    offline.map_or(Ok(()), Err)
}

/// 1: no byte of a round is written before the round in front of it is durable; else a power cut may leave the later
/// one alone, which is damage, and no start.
async fn no_round_overtakes_another(mutation: Mutation) -> Seen {
    const TOPICS: [&str; 4] = ["a", "b", "c", "d"];
    let bench = Bench::with_power_cuts(mutation).await;
    let partitions = partitions(&bench, &TOPICS).await;
    // what the bug left unsynced until now
    partitions[0].append_committed(batch(&["first"])).await.map_err(|error| error.to_string())?;
    let queue = Arc::new(CompletionQueue::default());
    bench.disk.hold_syncs(".wal");
    let send = |token: usize, value: &str| {
        partitions[token].append(
            batch(&[value]),
            Acks::All,
            Completion::Queue(Arc::clone(&queue), token as u64),
        );
    };
    send(0, "small");
    bench.held_sync().await;
    // behind it three that do not fit into one round
    for token in 1..TOPICS.len() {
        send(token, &large(token));
    }
    until("they are queued", || bench.node.flusher.stats().queued_bytes > 3 * LARGE_BATCH as u64).await;
    let disk = bench.disk.clone();
    tokio::task::spawn_blocking(move || disk.let_one_pass()).await.unwrap();
    bench.held_sync().await;
    let acknowledged = vec![("a", "first".to_owned()), ("a", "small".to_owned())];
    let written = bench.disk.unsynced().len();
    let mut seen = Ok(());
    for subset in 0..1 << written {
        let survives = bench.survives_power_cut(&acknowledged, |number| subset >> number & 1 == 1).await;
        seen = seen.and(survives.map_err(|seen| format!("with rounds {subset:#b} of {written}: {seen}")));
    }
    bench.disk.release_syncs();
    bench.node.shutdown().await;
    seen
}

/// Appends four batches of so many bytes to each of two topics, in one round: what was acknowledged, and what it added to the
/// write-ahead log.
async fn append_in_one_round(bench: &Bench, bytes: usize) -> (Vec<(&'static str, String)>, u64) {
    const TOPICS: [&str; 2] = ["orders", "other"];
    let partitions = partitions(bench, &TOPICS).await;
    partitions[0].append_committed(batch(&["first"])).await.unwrap();
    let queue = Arc::new(CompletionQueue::default());
    bench.disk.hold_syncs(".wal");
    let before = bench.node.flusher.stats().bytes;
    partitions[0].append(batch(&["small"]), Acks::All, Completion::Queue(Arc::clone(&queue), 9));
    bench.held_sync().await;
    let mut acknowledged = vec![("orders", "first".to_owned()), ("orders", "small".to_owned())];
    for token in 0..8 {
        let value = format!("{token} {}", "v".repeat(bytes));
        let topic = token % TOPICS.len();
        let completion = Completion::Queue(Arc::clone(&queue), token as u64);
        partitions[topic].append(batch(&[&value]), Acks::All, completion);
        acknowledged.push((TOPICS[topic], value));
    }
    until("they are queued", || bench.node.flusher.stats().queued_bytes > 8 * bytes as u64).await;
    bench.disk.release_syncs();
    let mut finished = Vec::new();
    until("all are acknowledged", || {
        queue.drain(&mut finished);
        finished.len() == 9 || bench.fatal.load(Ordering::SeqCst) > 0
    })
    .await;
    acknowledged.retain(|(_, value)| {
        let token = value.split(' ').next().and_then(|token| token.parse().ok()).unwrap_or(9);
        value == "first" || finished.iter().any(|(finished, result)| *finished == token && result.is_ok())
    });
    (acknowledged, bench.node.flusher.stats().bytes - before)
}

/// 1: what a round names in segments is durable before the round is; it is not written twice.
async fn placed_batches_are_durable_first(mutation: Mutation) -> Seen {
    let disk = TestDisk::over(Arc::new(OverlayDisk::new(OverlayFaults::default())));
    let bench = Bench::on(disk, 4 << 20, LogConfig::default(), mutation).await;
    let (acknowledged, written) = append_in_one_round(&bench, 150 << 10).await;
    assert_eq!(acknowledged.len(), 10);
    assert!(written < 100 << 10, "{written} bytes of rounds: they hold the batches");
    let seen = bench.survives_power_cut(&acknowledged, |_| true).await;
    bench.node.shutdown().await;
    seen
}

/// 2: a vote returns when its round is durable.
async fn votes_wait_for_the_sync(mutation: Mutation) -> Seen {
    let bench = Bench::new(mutation).await;
    let group = bench.node.bare_partition();
    let mut log = RaftLog::new(Arc::clone(&group));
    bench.disk.hold_syncs(".wal");
    let vote = vote_to_raft(Vote { term: 3, node: 0, committed: false });
    let saving = tokio::spawn(async move { log.save_vote(&vote).await });
    let disk = bench.disk.clone();
    tokio::task::spawn_blocking(move || disk.await_held_sync()).await.unwrap();
    settle().await;
    let early = saving.is_finished();
    bench.disk.release_syncs();
    saving.await.unwrap().map_err(|error| error.to_string())?;
    bench.node.abandon();
    if early { Err("a vote was answered before its round was durable".to_owned()) } else { Ok(()) }
}

/// A group whose log has `count` batches of one record, without a core.
async fn filled(bench: &Bench, count: u64) -> (Arc<Partition>, RaftLog) {
    let group = bench.node.bare_partition();
    let mut log = RaftLog::new(Arc::clone(&group));
    for index in 0..count {
        crate::storage_model::append_one(&mut log, LogId { term: 1, index }).await;
    }
    (group, log)
}

/// 3: the `Cut` record is durable, then the file is cut, then `truncate_after` returns.
async fn the_cut_is_durable_before_the_file_is_cut(mutation: Mutation) -> Seen {
    let bench = Bench::new(mutation).await;
    let (group, mut log) = filled(&bench, 3).await;
    bench.disk.take_events();
    bench.disk.hold_syncs(".wal");
    let cutting =
        tokio::spawn(async move { log.truncate_after(Some(to_raft(LogId { term: 1, index: 0 }))).await });
    let disk = bench.disk.clone();
    tokio::task::spawn_blocking(move || disk.await_held_sync()).await.unwrap();
    settle().await;
    let before = bench.disk.take_events();
    let early = cutting.is_finished();
    bench.disk.release_syncs();
    cutting.await.unwrap().map_err(|error| error.to_string())?;
    let after = bench.disk.take_events();
    let _ = &group;
    bench.node.abandon();
    let cuts = |events: &[Event]| {
        events.iter().any(|event| matches!(event, Event::Cut(path) | Event::Removed(path) if !is_wal(path)))
    };
    match (cuts(&before), early, cuts(&after)) {
        (true, ..) => Err(format!("a file was cut before its record was durable: {before:?}")),
        (_, true, _) => Err("a truncation returned before its record was durable".to_owned()),
        (_, _, false) => Err(format!("a truncation returned before the file was cut: {after:?}")),
        _ => Ok(()),
    }
}

/// 4: what is checkpointed as committed is never above the durable end.
async fn a_checkpoint_is_never_above_its_log(mutation: Mutation) -> Seen {
    let bench = Bench::new(mutation).await;
    let (group, _log) = filled(&bench, 3).await;
    // openraft may know of commits that this disk does not have yet
    group.pretend_applied(LogId { term: 1, index: 9 });
    bench.node.shutdown().await;
    let checkpoint = Checkpoint::load(&log_store::disk::RealDisk, bench.dir.path()).unwrap().unwrap();
    let state = checkpoint.groups.get(group.replica()).ok_or("the group is not in the checkpoint")?;
    match state.committed > state.end.last {
        true => Err(format!("committed {:?} above the end {:?}", state.committed, state.end.last)),
        false => Ok(()),
    }
}

/// 4: a purge above the end of a log with records, which no snapshot stands for, is refused, and the node goes on.
async fn a_purge_above_the_end_is_refused(mutation: Mutation) -> Seen {
    let bench = Bench::new(mutation).await;
    let orders = partition(&bench.node, "orders").await;
    let (group, mut log) = filled(&bench, 3).await;
    log.purges_beyond_end = mutation == Mutation::PurgedBeyondEnd;
    let purged = log.purge(to_raft(LogId { term: 1, index: 9 })).await;
    let (sender, reached) = oneshot::channel();
    group.lane().push(Work::barrier(sender));
    let after = match reached.await {
        Ok(()) => orders.append_committed(one_record_batch()).await,
        Err(_) => Err(ReplicationError::Stopping),
    };
    let fatal = bench.fatal.load(Ordering::SeqCst);
    let Bench { node, dir, .. } = bench;
    node.abandon();
    drop((node, group, log, orders));
    let options = options_on(Arc::new(RealDisk), dir.path(), &Clock::new());
    let recovered = Opened::recover(&options).map_err(|error| error.to_string())?.recovered;
    let kept = recovered.groups.iter().find(|group| group.state.topic == "suite").map(|group| &group.log);
    match (&purged, kept) {
        (Err(_), Some(Ok(log))) if after.is_ok() && fatal == 0 => {
            assert_eq!((log.floor(), log.last_log_id()), (None, Some(LogId { term: 1, index: 2 })));
            Ok(())
        }
        _ => Err(format!("{purged:?}, then {after:?}, {fatal} fatal errors; after a restart {kept:?}")),
    }
}

/// Appends to "orders" until much of the ring is in use and a checkpoint begins; what was acknowledged.
async fn append_until_checkpoint(
    bench: &Bench,
    orders: &Arc<Partition>,
) -> Result<Vec<(&'static str, String)>, String> {
    let mut acknowledged = Vec::new();
    while !bench.node.flusher.is_checkpointing() {
        let value = large(acknowledged.len());
        orders.append_committed(batch(&[&value])).await.map_err(|error| error.to_string())?;
        acknowledged.push(("orders", value));
    }
    Ok(acknowledged)
}

/// Checkpoint: its segments are durable before it is.
async fn segments_are_durable_before_their_checkpoint(mutation: Mutation) -> Seen {
    let bench = Bench::with_power_cuts(mutation).await;
    let orders = partition(&bench.node, "orders").await;
    bench.disk.hold_syncs(".log");
    let acknowledged = append_until_checkpoint(&bench, &orders).await?;
    bench.held_sync().await;
    let seen = bench.survives_power_cut(&acknowledged, |_| true).await;
    bench.disk.release_syncs();
    bench.node.shutdown().await;
    seen
}

/// Checkpoint: the ring's files are used again only once the checkpoint is durable.
async fn files_are_free_once_the_checkpoint_is_durable(mutation: Mutation) -> Seen {
    let bench = Bench::with_power_cuts(mutation).await;
    const OTHERS: [&str; 5] = ["a", "b", "c", "d", "e"];
    let orders = partition(&bench.node, "orders").await;
    let others = partitions(&bench, &OTHERS).await;
    bench.disk.hold_syncs("checkpoint.tmp");
    let mut acknowledged = append_until_checkpoint(&bench, &orders).await?;
    bench.held_sync().await;
    // more than the ring takes: some of them wait until there is a checkpoint
    let queue = Arc::new(CompletionQueue::default());
    for (number, other) in others.iter().enumerate() {
        let completion = Completion::Queue(Arc::clone(&queue), number as u64);
        other.append(batch(&[&large(number)]), Acks::All, completion);
    }
    let mut finished = Vec::new();
    until("the ring is full, or all are acknowledged", || {
        queue.drain(&mut finished);
        let whole = bench.ring().len() == RING_FILES;
        finished.len() == OTHERS.len() || whole && bench.node.flusher.is_full(LARGE_BATCH)
    })
    .await;
    for (number, result) in &finished {
        result.clone().map_err(|error| error.to_string())?;
        acknowledged.push((OTHERS[*number as usize], large(*number as usize)));
    }
    let seen = bench.survives_power_cut(&acknowledged, |_| true).await;
    bench.disk.release_syncs();
    bench.node.shutdown().await;
    seen
}

/// 5: a file goes only after the record that makes it needless is durable.
async fn files_go_after_their_purge(mutation: Mutation) -> Seen {
    let bench = Bench::new(mutation).await;
    let (group, mut log) = filled(&bench, 20).await;
    let files = bench.log_files(&group);
    assert!(files.len() > 3, "{files:?}");
    bench.disk.take_events();
    bench.disk.hold_syncs(".wal");
    log.purge(to_raft(LogId { term: 1, index: 15 })).await.map_err(|error| error.to_string())?;
    let disk = bench.disk.clone();
    tokio::task::spawn_blocking(move || disk.await_held_sync()).await.unwrap();
    settle().await;
    let early = bench.log_files(&group);
    bench.disk.release_syncs();
    while bench.log_files(&group).len() == files.len() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.node.abandon();
    if early == files {
        Ok(())
    } else {
        Err(format!("{files:?} became {early:?} before the purge was durable"))
    }
}

/// 5: a deleted partition's directory gets another name only once its end is durable.
async fn a_directory_stays_until_its_end_is_durable(mutation: Mutation) -> Seen {
    let bench = Bench::new(mutation).await;
    let orders = partition(&bench.node, "orders").await;
    orders.append_committed(batch(&["kept"])).await.map_err(|error| error.to_string())?;
    let there = || bench.dir.path().join("orders-0").exists();
    bench.disk.hold_syncs(".wal");
    let node = Arc::clone(&bench.node);
    let dropping = tokio::spawn(async move { node.drop_partitions(vec![orders]).await });
    bench.held_sync().await;
    settle().await;
    let early = !there();
    bench.disk.release_syncs();
    dropping.await.unwrap().map_err(|error| error.to_string())?;
    assert!(!there(), "it is gone in the end");
    bench.node.abandon();
    if early { Err("it is gone before its end was durable".to_owned()) } else { Ok(()) }
}

/// 2: an installed snapshot returns only once its round is durable.
async fn an_installed_snapshot_waits_for_its_round(mutation: Mutation) -> Seen {
    let bench = Bench::new(mutation).await;
    let (group, _log) = filled(&bench, 3).await;
    let mut machine = StateMachine::new(Arc::clone(&group));
    let contents = SnapshotContents {
        log_id: Some(LogId { term: 2, index: 40 }),
        next_offset: 40,
        log_start: 40,
        ..SnapshotContents::default()
    };
    bench.disk.hold_syncs(".wal");
    let installing =
        tokio::spawn(async move { machine.install_snapshot(&contents.meta(), contents.clone()).await });
    bench.held_sync().await;
    settle().await;
    let (early, files) = (installing.is_finished(), bench.log_files(&group).len());
    bench.disk.release_syncs();
    installing.await.unwrap().map_err(|error| error.to_string())?;
    bench.node.abandon();
    match (early, files) {
        (true, _) => Err("a snapshot was installed before its round was durable".to_owned()),
        (_, 0) => Err("its files went before its round was durable".to_owned()),
        _ => Ok(()),
    }
}

/// 5: an installed snapshot returns only after its files are gone, for the next append may use their names.
async fn installed_files_are_gone_when_it_returns(mutation: Mutation) -> Seen {
    let bench = Bench::new(mutation).await;
    let (group, _log) = filled(&bench, 20).await;
    let mut machine = StateMachine::new(Arc::clone(&group));
    let contents = SnapshotContents {
        log_id: Some(LogId { term: 2, index: 40 }),
        next_offset: 40,
        log_start: 40,
        ..SnapshotContents::default()
    };
    let installed = machine.install_snapshot(&contents.meta(), contents.clone()).await;
    let left = bench.log_files(&group);
    installed.map_err(|error| error.to_string())?;
    bench.node.abandon();
    if left.is_empty() { Ok(()) } else { Err(format!("{left:?} are still there")) }
}

/// 6: a full disk under one group stops that group alone, and it starts again by itself.
async fn a_full_disk_stops_one_group_alone(mutation: Mutation) -> Seen {
    let bench = Bench::new(mutation).await;
    let (orders, other) = (partition(&bench.node, "orders").await, partition(&bench.node, "other").await);
    orders.append_committed(batch(&["a"])).await.map_err(|error| error.to_string())?;
    other.append_committed(batch(&["a"])).await.map_err(|error| error.to_string())?;
    bench.disk.fail_writes("orders-0/00000000000000000000.log", io::ErrorKind::StorageFull);
    // both in one round
    bench.disk.hold_syncs(".wal");
    let queue = Arc::new(CompletionQueue::default());
    other.append(batch(&["b"]), Acks::All, Completion::Queue(Arc::clone(&queue), 9));
    let disk = bench.disk.clone();
    tokio::task::spawn_blocking(move || disk.await_held_sync()).await.unwrap();
    orders.append(batch(&["b"]), Acks::All, Completion::Queue(Arc::clone(&queue), 0));
    other.append(batch(&["c"]), Acks::All, Completion::Queue(Arc::clone(&queue), 1));
    settle().await;
    bench.disk.release_syncs();
    let mut finished = Vec::new();
    for _ in 0..200 {
        settle().await;
        queue.drain(&mut finished);
        if finished.len() == 3 {
            break;
        }
    }
    let result = |token| finished.iter().find(|(which, _)| *which == token).map(|(_, result)| result.clone());
    match (result(0), result(1)) {
        (Some(Err(_)), Some(Ok(_))) => {}
        (failed, kept) => {
            return Err(format!("the full group's append ended with {failed:?}, the other's with {kept:?}"));
        }
    }
    // nothing of it is visible, and it begins again at the durable end
    bench.disk.heal_writes();
    bench.node.space.forget();
    for attempt in 0.. {
        match orders.append_committed(batch(&["again"])).await {
            Ok(appended) if appended.base_offset == 1 => break,
            Ok(appended) => return Err(format!("the failed batch left a gap: {appended:?}")),
            Err(error) if attempt == 200 => return Err(format!("it does not start again: {error}")),
            Err(_) => settle().await,
        }
    }
    assert_eq!(bench.fatal.load(Ordering::SeqCst), 0);
    bench.node.shutdown().await;
    Ok(())
}

/// 6: the first failed sync is final, whatever the next one says.
async fn a_failed_sync_is_final(mutation: Mutation) -> Seen {
    let bench = Bench::new(mutation).await;
    let orders = partition(&bench.node, "orders").await;
    bench.disk.fail_next_sync(".wal");
    let queue = Arc::new(CompletionQueue::default());
    for token in 0..3 {
        orders.append(one_record_batch(), Acks::All, Completion::Queue(Arc::clone(&queue), token));
        settle().await;
    }
    let mut finished = Vec::new();
    queue.drain(&mut finished);
    let fatal = bench.fatal.load(Ordering::SeqCst);
    if finished.iter().any(|(_, result)| result.is_ok()) {
        return Err(format!("acknowledged after a failed sync: {finished:?}"));
    }
    if fatal == 0 { Err("nobody was told of the failed sync".to_owned()) } else { Ok(()) }
}

/// Proves: durability rule 1, fault P02 (order): ack before sync is found.
#[tokio::test]
async fn rule_1_answers_wait_for_the_sync() {
    answers_wait_for_the_sync(Mutation::None).await.unwrap();
    answers_wait_for_the_sync(Mutation::AnswerBeforeSync).await.unwrap_err();
}

/// Proves: durability rule 1: answers out of their order are found, also in release builds.
#[tokio::test]
async fn rule_1_answers_come_in_order() {
    answers_come_in_order(Mutation::None).await.unwrap();
    let seen = answers_come_in_order(Mutation::AnswersOutOfOrder).await.unwrap_err();
    assert!(seen.contains("was said to be durable after"), "{seen}");
}

/// Proves: durability rule 1: a round written before the one in front of it is durable is found.
#[tokio::test]
async fn rule_1_no_round_overtakes_another() {
    no_round_overtakes_another(Mutation::None).await.unwrap();
    let seen = no_round_overtakes_another(Mutation::RoundBeforeRound).await.unwrap_err();
    assert!(seen.contains("no start"), "{seen}");
}

/// Proves: durability rule 1, fault P01: a round that is written before the segments in which its batches lie are synced is found.
#[tokio::test]
async fn rule_1_placed_batches_are_durable_first() {
    placed_batches_are_durable_first(Mutation::None).await.unwrap();
    placed_batches_are_durable_first(Mutation::RoundBeforeItsSegments).await.unwrap_err();
}

/// Rounds hold batches where one sync for all is less work: of few bytes for each segment, or of few altogether.
#[tokio::test]
async fn small_rounds_hold_their_batches() {
    for (bytes, is_held) in [(40 << 10, true), (63 << 10, true), (70 << 10, false), (200 << 10, false)] {
        let bench = Bench::on(TestDisk::default(), 4 << 20, LogConfig::default(), Mutation::None).await;
        let (_, written) = append_in_one_round(&bench, bytes).await;
        assert_eq!(written > 8 * bytes as u64, is_held, "{written} of 8 x {bytes} bytes");
        let orders = reopened(&bench.node, "orders");
        let before = bench.node.flusher.stats().bytes;
        orders.append_committed(batch(&[&"v".repeat(200 << 10)])).await.unwrap();
        assert!(bench.node.flusher.stats().bytes - before > 200 << 10, "a batch alone is held");
        bench.node.shutdown().await;
    }
}

/// Proves: durability rule 6, fault D01: a segment that a round waits for and that cannot be synced is final.
#[tokio::test]
async fn rule_6_a_failed_sync_of_placed_batches_is_final() {
    let bench = Bench::on(TestDisk::default(), 4 << 20, LogConfig::default(), Mutation::None).await;
    bench.disk.fail_next_sync("other-0/00000000000000000000.log");
    let (acknowledged, _) = append_in_one_round(&bench, 150 << 10).await;
    assert_eq!(bench.fatal.load(Ordering::SeqCst), 1);
    let written: Vec<_> = acknowledged.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(written, ["first", "small"], "acknowledged after a failed sync");
    bench.node.abandon();
}

/// Proves: durability rule 2: a snapshot that counts as installed before its round is durable is found.
#[tokio::test]
async fn rule_2_installed_snapshots_wait_for_the_sync() {
    an_installed_snapshot_waits_for_its_round(Mutation::None).await.unwrap();
    an_installed_snapshot_waits_for_its_round(Mutation::InstalledBeforeItsRound).await.unwrap_err();
}

/// Proves: durability rule 4: a purge above the end that is taken is found.
#[tokio::test]
async fn rule_4_a_purge_above_the_end_is_refused() {
    a_purge_above_the_end_is_refused(Mutation::None).await.unwrap();
    a_purge_above_the_end_is_refused(Mutation::PurgedBeyondEnd).await.unwrap_err();
}

/// Proves: the order of a checkpoint, fault P01: one written before its segments are durable is found.
#[tokio::test]
async fn a_checkpoint_follows_its_segments() {
    segments_are_durable_before_their_checkpoint(Mutation::None).await.unwrap();
    segments_are_durable_before_their_checkpoint(Mutation::CheckpointBeforeSegments).await.unwrap_err();
}

/// Proves: the order of a checkpoint, fault P01: files of the ring that are used again before it is durable are found.
#[tokio::test]
async fn the_ring_goes_round_behind_a_checkpoint() {
    files_are_free_once_the_checkpoint_is_durable(Mutation::None).await.unwrap();
    files_are_free_once_the_checkpoint_is_durable(Mutation::ReleaseBeforeCheckpoint).await.unwrap_err();
}

/// Proves: durability rule 2, fault R02: a vote answered before it is durable is found.
#[tokio::test]
async fn rule_2_votes_wait_for_the_sync() {
    votes_wait_for_the_sync(Mutation::None).await.unwrap();
    votes_wait_for_the_sync(Mutation::VotePastTheQueue).await.unwrap_err();
}

/// Proves: durability rule 3: a file cut before its record is durable is found.
#[tokio::test]
async fn rule_3_the_cut_is_durable_first() {
    the_cut_is_durable_before_the_file_is_cut(Mutation::None).await.unwrap();
    the_cut_is_durable_before_the_file_is_cut(Mutation::FileCutBeforeItsRecord).await.unwrap_err();
}

/// Proves: durability rule 4: a checkpoint above its log is found.
#[tokio::test]
async fn rule_4_a_checkpoint_is_clamped() {
    a_checkpoint_is_never_above_its_log(Mutation::None).await.unwrap();
    a_checkpoint_is_never_above_its_log(Mutation::CheckpointUnclamped).await.unwrap_err();
}

/// Proves: durability rule 5: a file unlinked before its purge is durable is found.
#[tokio::test]
async fn rule_5_files_go_after_their_purge() {
    files_go_after_their_purge(Mutation::None).await.unwrap();
    files_go_after_their_purge(Mutation::UnlinkedBeforePurge).await.unwrap_err();
}

/// Proves: durability rule 5: a directory that gets another name before the end of its replica is durable is found.
#[tokio::test]
async fn rule_5_directories_go_after_their_end() {
    a_directory_stays_until_its_end_is_durable(Mutation::None).await.unwrap();
    a_directory_stays_until_its_end_is_durable(Mutation::MovedAsideBeforeDropped).await.unwrap_err();
}

/// Proves: durability rule 5: a snapshot that returns while its files are there is found.
#[tokio::test]
async fn rule_5_installed_files_are_gone() {
    installed_files_are_gone_when_it_returns(Mutation::None).await.unwrap();
    installed_files_are_gone_when_it_returns(Mutation::InstalledBeforeFilesAreGone).await.unwrap_err();
}

/// Proves: durability rule 6, faults D04, D05: one group's full disk that reaches another group is found.
#[tokio::test]
async fn rule_6_a_full_disk_stops_one_group_alone() {
    a_full_disk_stops_one_group_alone(Mutation::None).await.unwrap();
    a_full_disk_stops_one_group_alone(Mutation::ErrorSpreads).await.unwrap_err();
}

/// Proves: durability rule 6, fault D01: an acknowledgement after a failed sync is found.
#[tokio::test]
async fn rule_6_a_failed_sync_is_final() {
    a_failed_sync_is_final(Mutation::None).await.unwrap();
    a_failed_sync_is_final(Mutation::FailedSyncIgnored).await.unwrap_err();
}

/// However many appends openraft makes one of, a round fits into a file of the ring.
#[tokio::test]
async fn merged_appends_fit_into_the_ring() {
    let bench = Bench::with_power_cuts(Mutation::None).await;
    let orders = partition(&bench.node, "orders").await;
    let queue = Arc::new(CompletionQueue::default());
    let value = "v".repeat(LARGE_BATCH / 8);
    for token in 0..60 {
        orders.append(batch(&[&value]), Acks::All, Completion::Queue(Arc::clone(&queue), token));
    }
    let mut finished = Vec::new();
    until("all are acknowledged", || {
        queue.drain(&mut finished);
        finished.len() == 60
    })
    .await;
    for (token, result) in finished {
        assert_eq!(result.unwrap().base_offset, token as i64);
    }
    for file in bench.ring() {
        assert_eq!(std::fs::metadata(&file).unwrap().len(), SMALL_FILE, "{} grew", file.display());
    }
    bench.node.shutdown().await;
}

/// A segment's bytes go to the disk in pieces, all but the last few before its sync: a sync of the write-ahead log that comes
/// meanwhile waits for one of them.
#[tokio::test]
async fn segments_go_to_the_disk_in_pieces() {
    let bench = Bench::on(TestDisk::default(), 4 << 20, LogConfig::default(), Mutation::None).await;
    let orders = partition(&bench.node, "orders").await;
    let value = "v".repeat(HELD);
    while !bench.node.flusher.is_checkpointing() {
        orders.append_committed(batch(&[&value])).await.unwrap();
    }
    until("there is a checkpoint", || !bench.node.flusher.is_checkpointing()).await;
    let mut pieces = Vec::new();
    for event in bench.disk.take_events() {
        match event {
            Event::WroteBack(path, range) if is_log_of_orders(&path) => pieces.push(range),
            Event::Synced(path) if is_log_of_orders(&path) => break,
            _ => {}
        }
    }
    let end = pieces.last().map_or(0, |last| last.end);
    assert!(end > 15 << 20, "two thirds of the ring are in use at a checkpoint: {pieces:?}");
    assert!(pieces.iter().all(|piece| piece.end - piece.start <= 4 << 20), "{pieces:?}");
    assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start), "{pieces:?}");
    bench.node.shutdown().await;
}

/// A segment's bytes do not wait for its sync: the system would hand over all that piles up at once.
#[tokio::test]
async fn segments_go_to_the_disk_long_before_their_sync() {
    // nothing waits for a further file of the ring, which would go first
    let bench = Bench::on(TestDisk::default(), 16 << 20, LogConfig::default(), Mutation::None).await;
    let orders = partition(&bench.node, "orders").await;
    let value = "v".repeat(HELD);
    for _ in 0..(10 << 20) / HELD {
        orders.append_committed(batch(&[&value])).await.unwrap();
    }
    let mut events = Vec::new();
    until("most of it went to the disk", || {
        events.extend(bench.disk.take_events());
        let ends = events.iter().filter_map(|event| match event {
            Event::WroteBack(path, range) if is_log_of_orders(path) => Some(range.end),
            _ => None,
        });
        ends.max().is_some_and(|end| end > 8 << 20)
    })
    .await;
    assert!(!events.iter().any(|event| matches!(event, Event::Synced(path) if is_log_of_orders(path))));
    bench.node.shutdown().await;
}

fn is_log_of_orders(path: &Path) -> bool {
    path.ends_with("00000000000000000000.log") && path.to_string_lossy().contains("orders")
}

/// Twice what the node writes may be handed to the disk meanwhile, or a little after a rest; everything where there is a hurry.
#[test]
fn the_pace_follows_what_the_node_writes() {
    let dir = tempfile::tempdir().unwrap();
    let fatal: crate::flusher::Fatal = Arc::new(|error| panic!("{error}"));
    let files =
        Files::start(Arc::new(TestDisk::default()), dir.path().to_owned(), Vec::new(), fatal).unwrap();
    let allowed = |bytes: u64| files.next_piece(bytes);
    assert_eq!(allowed(1 << 20), Some(256 << 10), "after a rest");
    files.wrote(Vec::new(), 1 << 20);
    assert_eq!(allowed(1 << 20), Some(1 << 20));
    assert_eq!(allowed(100), Some(100));
    assert_eq!(allowed(8 << 20), Some((1 << 20) - 100));
    files.wrote(Vec::new(), 1 << 30);
    assert_eq!(allowed(8 << 20), Some(4 << 20), "the largest piece");
    files.hurry(true);
    assert_eq!(allowed(8 << 20), None);
    files.hurry(false);
    assert!(allowed(8 << 20).is_some());
    files.stop();
}

/// Proves: D04, D05: below the reserve produce is refused and reading goes on; it resumes by itself, not at once.
#[tokio::test]
async fn a_nearly_full_disk_refuses_produce_and_resumes() {
    let bench = Bench::new(Mutation::None).await;
    let orders = partition(&bench.node, "orders").await;
    let offsets = partition(&bench.node, "__consumer_offsets").await;
    let disguised = partition(&bench.node, "__orders").await;
    orders.append_committed(one_record_batch()).await.unwrap();
    let reserve = (4 << 20) * 8 * 9 / 8;
    bench.disk.set_free(reserve - 1);
    bench.node.space.forget();
    let refused = orders.append_committed(one_record_batch()).await;
    assert!(matches!(refused, Err(ReplicationError::DiskFull { .. })), "{refused:?}");
    assert_eq!(crate::tests::values(&orders, 0).len(), 1, "reading goes on");
    // what the broker itself keeps uses the reserve, and a topic of a client's is not that by its name
    assert!(bench.node.next_producer_id().await.is_ok());
    assert_eq!(offsets.append_committed(one_record_batch()).await.unwrap().base_offset, 0);
    let refused = disguised.append_committed(one_record_batch()).await;
    assert!(matches!(refused, Err(ReplicationError::DiskFull { .. })), "{refused:?}");
    bench.disk.set_free(reserve + 1);
    bench.node.space.forget();
    assert!(orders.append_committed(one_record_batch()).await.is_err(), "a little more does not flutter");
    bench.disk.set_free(reserve * 2);
    bench.node.space.forget();
    assert_eq!(orders.append_committed(one_record_batch()).await.unwrap().base_offset, 1);
    bench.node.shutdown().await;
}

/// Fills the ring of a bench whose checkpoints find no room, with more than it holds.
async fn fill_the_ring(bench: &Bench, queue: &Arc<CompletionQueue>) -> usize {
    const APPENDED: usize = 40;
    let orders = partition(&bench.node, "orders").await;
    orders.append_committed(batch(&["first"])).await.unwrap();
    bench.disk.fail_writes("/checkpoint.tmp", io::ErrorKind::StorageFull);
    for token in 0..APPENDED {
        orders.append(batch(&[&large(token)]), Acks::All, Completion::Queue(Arc::clone(queue), token as u64));
    }
    // the flusher knows of it, too, and has read the clock that is set next
    let refused = |count| bench.disk.refused_writes() == count && !bench.node.flusher.is_checkpointing();
    until("a checkpoint finds no room", || refused(1)).await;
    bench.seconds.store(1, Ordering::SeqCst);
    until("the next one, too", || refused(2)).await;
    APPENDED
}

/// Proves: D04: a checkpoint that finds no room is no end of the node: the one before holds, rounds wait where the ring is
/// full, and go on once there is room for the next.
#[tokio::test]
async fn a_checkpoint_without_room_is_tried_again() {
    let bench = Bench::with_power_cuts(Mutation::None).await;
    let queue = Arc::new(CompletionQueue::default());
    let appended = fill_the_ring(&bench, &queue).await;
    let mut finished = Vec::new();
    queue.drain(&mut finished);
    assert!(finished.len() < appended, "all were acknowledged");
    bench.disk.heal_writes();
    bench.seconds.store(2, Ordering::SeqCst);
    until("all are acknowledged", || {
        queue.drain(&mut finished);
        finished.len() == appended
    })
    .await;
    assert!(finished.iter().all(|(_, result)| result.is_ok()));
    assert_eq!(bench.fatal.load(Ordering::SeqCst), 0);
    bench.node.shutdown().await;
}

/// Proves: D04: a node stops though its ring is full and no checkpoint finds room; what it acknowledged is there at the
/// next start.
#[tokio::test]
async fn a_node_without_room_for_a_checkpoint_stops() {
    let bench = Bench::with_power_cuts(Mutation::None).await;
    let queue = Arc::new(CompletionQueue::default());
    let appended = fill_the_ring(&bench, &queue).await;
    bench.node.shutdown().await;
    assert_eq!(bench.fatal.load(Ordering::SeqCst), 0);
    let mut finished = Vec::new();
    queue.drain(&mut finished);
    let mut acknowledged = vec![("orders", "first".to_owned())];
    let written = finished.into_iter().filter(|(_, result)| result.is_ok());
    acknowledged.extend(written.map(|(token, _)| ("orders", large(token as usize))));
    assert!(acknowledged.len() <= appended, "all were acknowledged");
    bench.survives_power_cut(&acknowledged, |_| false).await.unwrap();
}

/// Proves: D04: where the disk has no room for a further file of the write-ahead log, rounds go on in those that there are;
/// the ring grows once it can, and is not tried at every round.
#[tokio::test]
async fn a_ring_that_cannot_grow_goes_round() {
    let dir = tempfile::tempdir().unwrap();
    let disk = TestDisk::default();
    let seconds = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&seconds);
    let mut options = options_on(Arc::new(disk.clone()), dir.path(), &Clock::new());
    options.monotonic = Arc::new(move || Duration::from_secs(clock.load(Ordering::SeqCst)));
    let node = Node::start(options).await.unwrap();
    let orders = partition(&node, "orders").await;
    let ring = |number: usize| dir.path().join(format!("wal/{number}.wal"));
    until("the ring has two files", || ring(1).exists()).await;
    disk.fail_reservations(Some(".wal.tmp"));
    disk.take_events();
    let value = "v".repeat(HELD);
    // five times the two files of 4 MiB
    let appends = (40 << 20) / HELD as i64;
    for offset in 0..appends {
        let appended = orders.append_committed(batch(&[&value]));
        let appended = tokio::time::timeout(Duration::from_secs(60), appended).await;
        assert_eq!(appended.expect("a produce hangs").unwrap().base_offset, offset);
    }
    let attempts = |events: &[Event]| {
        let removed = |event: &&Event| matches!(event, Event::Removed(path) if path.ends_with("2.wal.tmp"));
        events.iter().filter(removed).count()
    };
    assert_eq!(attempts(&disk.take_events()), 1, "no second passed by the node's clock");
    assert!(!ring(2).exists() && !dir.path().join("wal/2.wal.tmp").exists());
    disk.fail_reservations(None);
    seconds.store(1, Ordering::SeqCst);
    let more = (10 << 20) / HELD as i64;
    for _ in 0..more {
        orders.append_committed(batch(&[&value])).await.unwrap();
    }
    until("the ring has three files", || ring(2).exists()).await;
    node.shutdown().await;
    drop((orders, node));
    let node = Node::start(options_on(Arc::new(disk), dir.path(), &Clock::new())).await.unwrap();
    assert_eq!(node.partitions()[0].2.offsets().unwrap().high_watermark, appends + more);
    node.shutdown().await;
}

/// Proves: D04, A2: a topic that cannot be made on a full disk is not left half made, and can be made later.
#[tokio::test]
async fn a_topic_that_cannot_be_made_is_not_there() {
    let bench = Bench::new(Mutation::None).await;
    bench.disk.fail_dirs(true);
    let topic = |partitions| NewTopic {
        name: "orders".to_owned(),
        partitions: vec![vec![1]; partitions],
        configs: Default::default(),
    };
    let refused = bench.node.create_topics(vec![topic(3)], false).await;
    assert!(
        matches!(refused[0], Err(MetadataError::Replication(ReplicationError::Storage(_)))),
        "{refused:?}"
    );
    assert!(!bench.node.metadata().topics.contains_key("orders"));
    assert!(bench.node.partitions().is_empty());
    bench.disk.fail_dirs(false);
    let made = bench.node.create_topics(vec![topic(3)], false).await;
    let id = made[0].as_ref().unwrap().id;
    for index in 0..3 {
        let partition = bench.node.partition(id, index).unwrap();
        assert_eq!(partition.append_committed(one_record_batch()).await.unwrap().base_offset, 0);
    }
    bench.node.shutdown().await;
}

/// Proves: O11: a deletion whose directory keeps its name is no success, and a new topic of that name begins empty all
/// the same, also after a kill.
#[tokio::test]
async fn a_deletion_that_cannot_rename_says_so() {
    let bench = Bench::new(Mutation::None).await;
    let orders = partition(&bench.node, "orders").await;
    for _ in 0..20 {
        orders.append_committed(one_record_batch()).await.unwrap();
    }
    bench.disk.fail_renames(Some("-delete"));
    let refused = bench.node.delete_topic(orders.topic_id()).await;
    assert!(matches!(refused, Err(MetadataError::Replication(ReplicationError::Storage(_)))), "{refused:?}");
    assert!(!bench.node.metadata().topics.contains_key("orders"), "it is deleted all the same");
    let topic =
        || NewTopic { name: "orders".to_owned(), partitions: vec![vec![1]], configs: Default::default() };
    let made = bench.node.create_topics(vec![topic()], false).await;
    assert!(made[0].is_err(), "over the files of the former one: {made:?}");
    bench.disk.fail_renames(None);
    let again = partition(&bench.node, "orders").await;
    assert_eq!(again.append_committed(batch(&["new"])).await.unwrap().base_offset, 0);
    bench.node.abandon();
    let Bench { node, dir, .. } = bench;
    drop((orders, again, node));
    let node = Node::start(options_on(Arc::new(RealDisk), dir.path(), &Clock::new())).await.unwrap();
    let topic = node.metadata().topics["orders"].id;
    let orders = node.partition(topic, 0).unwrap();
    assert_eq!(crate::tests::values(&orders, 0), [(0, "new".to_owned())]);
    node.shutdown().await;
}

/// Proves: D04: the metadata group that a full disk stopped starts again, by the next change and by the timer, and what
/// it said before is known.
#[tokio::test]
async fn metadata_outlives_a_full_disk() {
    for by_timer in [false, true] {
        let bench = Bench::new(Mutation::None).await;
        let topic = |name: &str| NewTopic {
            name: name.to_owned(),
            partitions: vec![vec![1]],
            configs: Default::default(),
        };
        assert!(bench.node.create_topics(vec![topic("before")], false).await[0].is_ok());
        bench.disk.fail_writes(".log", io::ErrorKind::StorageFull);
        assert!(bench.node.create_topics(vec![topic("during")], false).await[0].is_err());
        bench.disk.heal_writes();
        bench.node.space.forget();
        for attempt in 0.. {
            if by_timer {
                bench.node.retention(0, i64::MAX).await;
            }
            let made = bench.node.create_topics(vec![topic("after")], false).await;
            match &made[0] {
                Ok(_) => break,
                Err(error) if attempt == 200 || by_timer => panic!("it does not start again: {error}"),
                Err(_) => settle().await,
            }
        }
        let names: Vec<_> = bench.node.metadata().topics.keys().map(|name| name.to_string()).collect();
        assert_eq!(names, ["after", "before"]);
        assert_eq!(bench.fatal.load(Ordering::SeqCst), 0);
        bench.node.shutdown().await;
    }
}

/// A change whose rewrite of the log finds the disk full is done all the same: another one does not get its replica numbers.
#[tokio::test]
async fn a_metadata_log_that_cannot_be_rewritten_gives_no_number_twice() {
    let bench = Bench::new(Mutation::None).await;
    let topic = |name: &str| NewTopic {
        name: name.to_owned(),
        partitions: vec![vec![1]],
        configs: Default::default(),
    };
    let known = MetadataRecord::Broker(bench.node.metadata().brokers[&1].clone());
    for _ in 0..REWRITE_RECORDS.div_ceil(REWRITE_BATCH) {
        let records = vec![known.clone(); REWRITE_BATCH];
        bench.node.metadata.append_committed(MetadataRecord::batch(&records, 0)).await.unwrap();
    }
    let log = "__cluster_metadata-0/00000000000000000000.log";
    bench.disk.fail_writes_behind(1, log, io::ErrorKind::StorageFull);
    assert!(bench.node.create_topics(vec![topic("b")], false).await[0].is_ok());
    assert!(bench.node.metadata.offsets().is_err(), "the rewrite was to fail");
    bench.disk.heal_writes();
    bench.node.space.forget();
    for attempt in 0.. {
        match &bench.node.create_topics(vec![topic("a")], false).await[0] {
            Ok(_) => break,
            Err(error) if attempt == 200 => panic!("it does not start again: {error}"),
            Err(_) => settle().await,
        }
    }
    for name in ["a", "b"] {
        let appended = reopened(&bench.node, name).append_committed(batch(&[name])).await;
        assert_eq!(appended.unwrap().base_offset, 0);
    }
    let Bench { node, dir, .. } = bench;
    node.shutdown().await;
    drop(node);
    let options = options_on(Arc::new(RealDisk), dir.path(), &Clock::new());
    let again = Node::start(options).await.unwrap();
    for name in ["a", "b"] {
        assert_eq!(values(&reopened(&again, name), 0), [(0, name.to_owned())]);
    }
    again.shutdown().await;
}

/// A change that was committed although it was told to have failed is known to the next one, and its topic serves.
#[tokio::test]
async fn what_is_committed_counts_whatever_was_told() {
    let bench = Bench::new(Mutation::None).await;
    let image = bench.node.metadata();
    let told_failed = TopicInfo {
        name: "b".into(),
        id: uuid::Uuid::from_u128(7),
        partitions: vec![vec![1]],
        configs: Default::default(),
    };
    let record = MetadataRecord::Topic { topic: told_failed, first_replica: image.next_replica() };
    bench.node.metadata.append_committed(MetadataRecord::batch(&[record], 0)).await.unwrap();
    let orders = partition(&bench.node, "a").await;
    let found = reopened(&bench.node, "b");
    assert_ne!(orders.replica(), found.replica());
    found.append_committed(batch(&["b"])).await.unwrap();
    let gone = MetadataRecord::TopicDeleted { id: uuid::Uuid::from_u128(7) };
    bench.node.metadata.append_committed(MetadataRecord::batch(&[gone], 0)).await.unwrap();
    partition(&bench.node, "c").await;
    assert!(matches!(found.offsets(), Err(ReplicationError::TopicDeleted)));
    bench.node.shutdown().await;
}

/// An append with `acks=1` that the core takes once its group was stopped fails; the entry that gets its index later does not answer it.
///
/// Proves: D04.
#[tokio::test]
async fn an_append_behind_a_failed_write_is_not_acknowledged() {
    let bench = Bench::new(Mutation::None).await;
    let orders = partition(&bench.node, "orders").await;
    orders.append_committed(batch(&["a"])).await.unwrap();
    orders.break_off("planted");
    let queue = Arc::new(CompletionQueue::default());
    let end = orders.log().last_log_id().unwrap();
    let late = LogId { term: end.term, index: end.index + 1 };
    let ticket = Ticket::new(Completion::Queue(Arc::clone(&queue), 7), Acks::Leader);
    orders.appended(late, &batch(&["late"]), false, Some(ticket)).unwrap();
    for attempt in 0.. {
        match orders.append_committed(batch(&["again"])).await {
            Ok(appended) => {
                assert_eq!(appended.base_offset, 1);
                break;
            }
            Err(error) if attempt == 200 => panic!("it does not start again: {error}"),
            Err(_) => settle().await,
        }
    }
    let mut finished = Vec::new();
    queue.drain(&mut finished);
    assert!(matches!(finished[..], [(7, Err(_))]), "{finished:?}");
    bench.node.shutdown().await;
}

/// Proves: D03: where openraft cannot read the log, which ends the group, the partition says that its storage failed.
#[tokio::test]
async fn a_log_that_cannot_be_read_takes_its_partition_offline() {
    let bench = Bench::new(Mutation::None).await;
    let orders = partition(&bench.node, "orders").await;
    orders.append_committed(one_record_batch()).await.unwrap();
    bench.disk.fail_reads(".log");
    RaftLog::new(Arc::clone(&orders)).try_get_log_entries(0..).await.unwrap_err();
    let refused = orders.append_committed(one_record_batch()).await;
    assert!(matches!(refused, Err(ReplicationError::Storage(_))), "{refused:?}");
    assert!(matches!(orders.offsets(), Err(ReplicationError::Storage(_))));
    bench.node.abandon();
}

/// Proves: a group whose core ended by itself does not seem to lead for ever.
#[tokio::test]
async fn a_core_that_ends_takes_its_partition_offline() {
    let bench = Bench::new(Mutation::None).await;
    let orders = partition(&bench.node, "orders").await;
    orders.core().unwrap().shutdown().await.unwrap();
    // the first may meet the end, and every later one knows of it
    let _ = orders.append_committed(one_record_batch()).await;
    let refused = orders.append_committed(one_record_batch()).await;
    assert!(matches!(refused, Err(ReplicationError::Storage(_))), "{refused:?}");
    assert!(matches!(orders.offsets(), Err(ReplicationError::Storage(_))));
    bench.node.abandon();
}

/// Proves: a thread that panics is as final as a failed sync: without it checkpoints end, and then every answer.
#[test]
fn a_panic_of_an_indispensable_thread_is_final() {
    let dir = tempfile::tempdir().unwrap();
    let fatal = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&fatal);
    let tell: Fatal = Arc::new(move |_| _ = counted.fetch_add(1, Ordering::SeqCst));
    let files = Files::start(Arc::new(RealDisk), dir.path().to_owned(), Vec::new(), tell).unwrap();
    files.add(Job::Run(Box::new(|_| panic!("planted"))));
    files.stop();
    assert_eq!(fatal.load(Ordering::SeqCst), 1);
}
