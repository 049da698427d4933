//! The group's storage against a model in memory: any sequence of appends, truncations, purges, votes, clean stops and
//! kills leaves what the model says (test only).

use std::{path::Path, sync::Arc};

use log_store::{
    BatchHeader, Entry, GroupState, Log, LogId, ReplicaId, Vote, batch::BatchBuilder, compression::Codec,
    config::LogConfig, data_directory::DataDirectory, log::EntryHead, wal::WalRecord,
};
use openraft::{
    RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use proptest::prelude::*;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{
    Partition,
    entry::{Payload, RaftEntry, from_raft, to_raft, vote_from_raft, vote_to_raft},
    flusher::{AfterDurable, Faults, Flusher, FlusherSetup, Work},
    lane::Lane,
    node::{NodeOptions, Opened},
    partition::PartitionSetup,
    raft_log::RaftLog,
    space::Space,
    tests::{Clock, options},
};

/// What happens to the storage.
#[derive(Clone, Debug)]
enum Op {
    /// Entries at the end: records of each batch, 0 for a control entry. The term rises by so much before.
    Append { raise: u64, entries: Vec<u8>, wait: bool },
    /// Keeps so many of the entries that may go, in 255ths.
    Truncate(u8),
    /// Purges so many of the entries, in 255ths.
    Purge(u8),
    /// Saves a vote of the current term or a later one.
    Vote { raise: u64, committed: bool },
    /// Stops and opens again.
    Reopen,
    /// Is killed and opened again.
    Kill,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..2u64, prop::collection::vec(0..4u8, 1..6), any::<bool>())
            .prop_map(|(raise, entries, wait)| Op::Append { raise, entries, wait }),
        2 => any::<u8>().prop_map(Op::Truncate),
        1 => any::<u8>().prop_map(Op::Purge),
        1 => (0..2u64, any::<bool>()).prop_map(|(raise, committed)| Op::Vote { raise, committed }),
        1 => Just(Op::Reopen),
        1 => Just(Op::Kill),
    ]
}

/// One entry as the model knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    log_id: LogId,
    /// Records, 0 for a control entry.
    records: u8,
    offset: i64,
}

#[derive(Clone, Debug, Default)]
struct Model {
    entries: Vec<Known>,
    floor: Option<LogId>,
    floor_offset: i64,
    term: u64,
    vote: Option<Vote>,
    /// Entries up to here were acknowledged.
    acknowledged: u64,
}

impl Model {
    fn next_index(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id).or(self.floor)
    }

    fn next_offset(&self) -> i64 {
        self.entries.last().map_or(self.floor_offset, |entry| entry.offset + i64::from(entry.records))
    }
}

/// A group's storage without a core.
struct Storage {
    directory: Option<DataDirectory>,
    flusher: Arc<Flusher>,
    partition: Arc<Partition>,
    log: RaftLog,
}

fn settings(options: &NodeOptions) -> NodeOptions {
    NodeOptions {
        // a segment takes a few batches, a file of the ring a few hundred
        log_defaults: LogConfig { segment_bytes: 700, ..LogConfig::default() },
        wal_file_bytes: 64 << 10,
        ..options.clone()
    }
}

impl Storage {
    async fn open(options: &NodeOptions) -> Self {
        let Opened { directory, pool, recovered } = Opened::recover(options).unwrap();
        let space = Arc::new(Space::new(
            Arc::clone(&options.disk),
            options.data_dir.clone(),
            0,
            Arc::clone(&options.now),
        ));
        let flusher = Flusher::start(FlusherSetup {
            wal: recovered.wal,
            states: recovered.states,
            damaged: Vec::new(),
            dirty: recovered.dirty,
            touched: recovered.touched,
            disk: Arc::clone(&options.disk),
            data_dir: options.data_dir.clone(),
            space: Arc::clone(&space),
            monotonic: Arc::clone(&options.monotonic),
            synced: Arc::clone(&options.synced),
            faults: Faults::new(Arc::new(|error| panic!("{error}"))),
        })
        .unwrap();
        let runtime = tokio::runtime::Handle::current();
        let lane = flusher.add_lane(|number| Lane::start(number, runtime, Arc::clone(flusher.queue())));
        let (state, log) = match recovered.groups.into_iter().next() {
            Some(group) => (group.state, group.log.unwrap()),
            None => {
                let state = GroupState::new(ReplicaId(5), Uuid::from_u128(9), "model".to_owned(), 0);
                let dir = options.data_dir.join(state.directory());
                let log = Log::create(&pool, &dir, &state, options.log_defaults.clone()).unwrap();
                let record = WalRecord::Created {
                    replica: state.replica,
                    topic_id: state.topic_id,
                    topic: state.topic.clone(),
                    partition: 0,
                };
                lane.push(Work::record(record, AfterDurable::Nothing));
                (state, log)
            }
        };
        let setup = PartitionSetup {
            state: &state,
            internal: false,
            lane,
            space,
            now: Arc::clone(&options.now),
            files: Arc::clone(flusher.files()),
            max_batch_bytes: usize::MAX,
            revive: mpsc::unbounded_channel().0,
        };
        let partition = Partition::new(setup, log).unwrap();
        flusher.add_partition(&partition);
        let log = RaftLog::new(Arc::clone(&partition));
        Self { directory: Some(directory), flusher, partition, log }
    }

    async fn barrier(&self) {
        let (sender, receiver) = oneshot::channel();
        self.partition.lane().push(Work::barrier(sender));
        receiver.await.unwrap();
    }
}

fn entry(known: &Known) -> RaftEntry {
    let payload = match known.records {
        0 => Payload::Blank,
        records => {
            let mut builder = BatchBuilder::new(Codec::None);
            for record in 0..records {
                let value = format!("{} of {:?}", record, known.log_id);
                builder.append(1_700_000_000_000, None, Some(value.as_bytes()), &[]);
            }
            Payload::Batch { batch: builder.build(), ticket: None }
        }
    };
    RaftEntry { log_id: to_raft(known.log_id), payload }
}

/// Whether a stored header is that of a known entry.
fn same(header: &BatchHeader, known: &Known) -> bool {
    let Payload::Batch { batch, .. } = entry(known).payload else { return false };
    header.base_offset == known.offset
        && header.record_count == i32::from(known.records)
        && u64::try_from(header.partition_leader_epoch) == Ok(known.log_id.term)
        && header.crc == batch.header().crc
}

/// Compares everything that can be read.
async fn compare(storage: &mut Storage, model: &Model) {
    let log = storage.partition.log();
    assert_eq!(log.last_log_id().or(log.floor()), model.last(), "the last entry");
    assert_eq!(log.floor(), model.floor, "the floor");
    assert_eq!(log.next_offset(), model.next_offset(), "the next offset");
    assert_eq!(storage.log.read_vote().await.unwrap().as_ref().map(vote_from_raft), model.vote, "the vote");
    let Some(first) = model.entries.first().map(|entry| entry.log_id) else { return };
    let last = model.entries.last().unwrap().log_id;
    let heads = log.heads(first.index..last.index + 1).unwrap();
    assert_eq!(heads.len(), model.entries.len());
    for (head, known) in heads.iter().zip(&model.entries) {
        match head {
            EntryHead::Control { log_id, offset, payload } => {
                assert_eq!((*log_id, *offset, 0), (known.log_id, known.offset, known.records));
                assert!(matches!(Payload::decode_control(payload).unwrap(), Payload::Blank));
            }
            EntryHead::Batch { log_id, header } => {
                assert_eq!(*log_id, known.log_id);
                assert!(same(header, known), "{header:?} is not {known:?}");
            }
        }
    }
    let entries = log.entries(first.index..last.index + 1, u64::MAX).unwrap();
    assert_eq!(entries.len(), model.entries.len());
    for (entry, known) in entries.iter().zip(&model.entries) {
        if let Entry::Batch { batch, .. } = entry {
            assert!(batch.crc_holds() && same(&batch.header(), known), "{batch:?} is not {known:?}");
        }
    }
    let keys = storage.log.get_key_log_ids(to_raft(first)..=to_raft(last)).await.unwrap();
    let mut expected: Vec<LogId> = Vec::new();
    for known in &model.entries {
        match expected.last_mut() {
            Some(last) if last.term == known.log_id.term => *last = known.log_id,
            _ => expected.push(known.log_id),
        }
    }
    assert_eq!(keys.iter().map(from_raft).collect::<Vec<_>>(), expected, "the last entry of each leader");
}

async fn run(ops: &[Op], dir: &Path) {
    let options = settings(&options(dir, &Clock::new()));
    let mut storage = Storage::open(&options).await;
    let mut model = Model { term: 1, ..Model::default() };
    for op in ops {
        match op {
            Op::Append { raise, entries, wait } => {
                model.term += raise;
                let mut appended = Vec::new();
                for records in entries {
                    let log_id = LogId { term: model.term, index: model.next_index() };
                    let known = Known { log_id, records: *records, offset: model.next_offset() };
                    appended.push(entry(&known));
                    model.entries.push(known);
                }
                let (sender, receiver) = oneshot::channel();
                let sender = openraft_oneshot(sender);
                storage.log.append(appended, IOFlushed::signal(sender)).await.unwrap();
                if *wait {
                    receiver.await.unwrap();
                    model.acknowledged = model.next_index();
                }
            }
            Op::Truncate(part) => {
                let kept = model.entries.len() * usize::from(*part) / 255;
                if kept == model.entries.len()
                    || (kept == 0 && model.floor.is_none() && model.entries[0].log_id.index > 0)
                {
                    continue;
                }
                model.entries.truncate(kept);
                storage.log.truncate_after(model.last().map(to_raft)).await.unwrap();
                model.acknowledged = model.next_index();
                // what replaces the entries is of a later leader
                model.term += 1;
            }
            Op::Purge(part) => {
                let gone = model.entries.len() * usize::from(*part) / 255;
                if gone == 0 {
                    continue;
                }
                // openraft purges what is applied, which is durable
                storage.barrier().await;
                model.acknowledged = model.next_index();
                let last = model.entries[gone - 1].clone();
                model.entries.drain(..gone);
                model.floor = Some(last.log_id);
                model.floor_offset = last.offset + i64::from(last.records);
                storage.log.purge(to_raft(last.log_id)).await.unwrap();
                storage.barrier().await;
            }
            Op::Vote { raise, committed } => {
                model.term += raise;
                let old = model.vote;
                let committed = *committed || old.is_some_and(|old| old.term == model.term && old.committed);
                let vote = Vote { term: model.term, node: 5, committed };
                storage.log.save_vote(&vote_to_raft(vote)).await.unwrap();
                model.vote = Some(vote);
                model.acknowledged = model.next_index();
            }
            Op::Reopen => {
                storage.barrier().await;
                let flusher = Arc::clone(&storage.flusher);
                tokio::task::spawn_blocking(move || flusher.stop()).await.unwrap();
                drop(storage.directory.take());
                storage = Storage::open(&options).await;
            }
            Op::Kill => {
                storage.flusher.abandon();
                drop(storage.directory.take());
                storage = Storage::open(&options).await;
                // a suffix that nobody was told of may be gone
                let behind = storage.partition.log().last_log_id().map_or(0, |last| last.index + 1);
                assert!(
                    behind >= model.acknowledged,
                    "{behind} of {} acknowledged entries",
                    model.acknowledged
                );
                model.entries.retain(|known| known.log_id.index < behind);
                model.term += 1;
            }
        }
        compare(&mut storage, &model).await;
    }
    storage.flusher.abandon();
}

/// Appends one batch of one record and waits until it is durable.
pub(crate) async fn append_one(log: &mut RaftLog, log_id: LogId) {
    let (sender, receiver) = oneshot::channel();
    let known = Known { log_id, records: 1, offset: 0 };
    log.append([entry(&known)], IOFlushed::signal(openraft_oneshot(sender))).await.unwrap();
    receiver.await.unwrap();
}

/// openraft's oneshot is tokio's behind a wrapper that only openraft makes: this makes one, and forwards.
fn openraft_oneshot(
    sender: oneshot::Sender<()>,
) -> openraft::type_config::alias::OneshotSenderOf<crate::entry::TypeConfig, Result<(), std::io::Error>> {
    use openraft::type_config::TypeConfigExt;
    let (raft_sender, raft_receiver) = crate::entry::TypeConfig::oneshot();
    tokio::spawn(async move {
        let told: Result<Result<(), std::io::Error>, _> = raft_receiver.await;
        if matches!(told, Ok(Ok(()))) {
            let _ = sender.send(());
        }
    });
    raft_sender
}

/// Proves: L8, fault P03. `ALLUVIUM_CASES` sets the number of cases.
#[test]
fn the_storage_is_what_the_model_says() {
    let cases = std::env::var("ALLUVIUM_CASES").map_or(150, |cases| cases.parse().unwrap());
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    proptest!(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }, |(ops in prop::collection::vec(op(), 1..24))| {
        let dir = tempfile::tempdir_in(&base).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&ops, dir.path()));
    });
}
