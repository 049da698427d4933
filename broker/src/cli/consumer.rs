//! The reading side: records of partitions from given offsets, by incremental fetch sessions, one per leader.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use log_store::{LogSlice, batch::RecordBatch, compression::with_inflater};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use super::{
    client::{BACKOFF, Client, TopicPartition, lock, millis},
    connection::{Connection, answered, is_retriable},
    failure::{Exit, Failure},
    jsonl::ConsumedRecord,
};
use crate::protocol::{
    Records, Str,
    messages::fetch::{FetchPartition, FetchRequest, FetchTopic, PartitionRecords},
};

/// How records are fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct FetchOptions {
    /// How long a broker may wait for records.
    pub(super) max_wait: Duration,
    /// Bytes of one partition in one answer.
    pub(super) partition_bytes: i32,
    /// Whether transactions that were not committed stay hidden.
    pub(super) read_committed: bool,
    /// Whether records are decoded, or only counted from the batches' headers.
    pub(super) decode: bool,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            max_wait: Duration::from_millis(500),
            partition_bytes: 1 << 20,
            read_committed: false,
            decode: true,
        }
    }
}

/// Records of one partition, or how far it was read without any.
#[derive(Debug)]
pub(super) struct Fetched {
    /// Whose they are.
    pub(super) partition: TopicPartition,
    /// The records, in order; none with [`FetchOptions::decode`] off.
    pub(super) records: Vec<ConsumedRecord>,
    /// Records, decoded or not.
    pub(super) count: u64,
    /// Bytes of their batches.
    pub(super) bytes: usize,
    /// Where the next fetch begins.
    pub(super) next_offset: i64,
}

/// How long a fetch is tried again while none is answered.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What the fetches from all leaders share.
struct Shared {
    /// Where the next fetch of each partition begins.
    positions: Mutex<BTreeMap<TopicPartition, i64>>,
    /// When a fetch was answered last.
    answered: Mutex<Instant>,
}

/// Fetches until it is dropped.
pub(super) struct Fetcher {
    results: mpsc::Receiver<Result<Fetched, Failure>>,
    task: JoinHandle<()>,
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fetcher {
    /// Begins to fetch from the given offsets.
    pub(super) fn start(
        client: Arc<Client>,
        positions: BTreeMap<TopicPartition, i64>,
        options: FetchOptions,
    ) -> Self {
        let (sender, results) = mpsc::channel(4);
        let shared = Shared { positions: Mutex::new(positions), answered: Mutex::new(Instant::now()) };
        let task = tokio::spawn(async move {
            loop {
                match fetch_from_leaders(&client, &shared, options, &sender).await {
                    Ok(()) => return,
                    Err(failure) => {
                        let again = match failure.code {
                            Some(code) => {
                                is_retriable(code) && code != 3
                                    || code == 3 && exists(&client, &shared.positions).await
                            }
                            None => failure.exit() == Exit::Unreachable,
                        };
                        if !again || lock(&shared.answered).elapsed() >= PATIENCE {
                            // whoever reads may be gone
                            let _ = sender.send(Err(failure)).await;
                            return;
                        }
                        tokio::time::sleep(BACKOFF).await;
                    }
                }
            }
        });
        Self { results, task }
    }

    /// The next records. Cancel-safe.
    ///
    /// # Errors
    /// Something that trying again does not mend; nothing comes after it.
    pub(super) async fn next(&mut self) -> Option<Result<Fetched, Failure>> {
        self.results.recv().await
    }
}

/// Whether all the topics exist: 3 is also what a broker answers that does not know a new topic yet.
async fn exists(client: &Client, positions: &Mutex<BTreeMap<TopicPartition, i64>>) -> bool {
    let mut names: Vec<Arc<str>> =
        lock(positions).keys().map(|partition| Arc::clone(&partition.topic)).collect();
    names.dedup();
    match client.metadata(Some(&names)).await {
        Ok(response) => response.topics.iter().all(|topic| topic.error_code != 3),
        Err(_) => true,
    }
}

/// Ends with the first error of any leader, or when the receiver is gone.
async fn fetch_from_leaders(
    client: &Client,
    shared: &Shared,
    options: FetchOptions,
    sender: &mpsc::Sender<Result<Fetched, Failure>>,
) -> Result<(), Failure> {
    let partitions: Vec<TopicPartition> = lock(&shared.positions).keys().cloned().collect();
    let mut by_leader: BTreeMap<i32, Vec<TopicPartition>> = BTreeMap::new();
    for (partition, leader) in client.leaders(&partitions).await? {
        by_leader.entry(leader).or_default().push(partition);
    }
    let mut tasks = Vec::new();
    for (leader, partitions) in by_leader {
        client.node(leader).await?;
        let address = client.address_of(leader).unwrap_or_default();
        // a fetch may wait at the broker: nothing else should wait behind it
        let connection = client.open_another(&address).await?;
        let session = Session { id: 0, epoch: 0, sent: HashMap::new() };
        tasks.push(Box::pin(fetch_from_leader(connection, partitions, shared, options, sender, session)));
    }
    if tasks.is_empty() {
        sender.closed().await;
        return Ok(());
    }
    let (result, ..) = futures_util::future::select_all(tasks).await;
    result
}

/// An incremental fetch session as this side knows it.
struct Session {
    id: i32,
    epoch: i32,
    /// What the broker was last told of each partition.
    sent: HashMap<TopicPartition, i64>,
}

async fn fetch_from_leader(
    connection: Arc<Connection>,
    partitions: Vec<TopicPartition>,
    shared: &Shared,
    options: FetchOptions,
    sender: &mpsc::Sender<Result<Fetched, Failure>>,
    mut session: Session,
) -> Result<(), Failure> {
    loop {
        let full = session.epoch == 0;
        let mut topics: BTreeMap<&Arc<str>, Vec<FetchPartition>> = BTreeMap::new();
        for partition in &partitions {
            let position = lock(&shared.positions).get(partition).copied().unwrap_or_default();
            if full || session.sent.get(partition) != Some(&position) {
                topics.entry(&partition.topic).or_default().push(FetchPartition {
                    partition: partition.partition,
                    fetch_offset: position,
                    partition_max_bytes: options.partition_bytes,
                    ..Default::default()
                });
                session.sent.insert(partition.clone(), position);
            }
        }
        let request = FetchRequest {
            max_wait_ms: millis(options.max_wait),
            min_bytes: 1,
            max_bytes: 50 << 20,
            isolation_level: i8::from(options.read_committed),
            session_id: session.id,
            session_epoch: session.epoch,
            topics: topics
                .into_iter()
                .map(|(name, partitions)| FetchTopic {
                    name: Str::from(&**name),
                    partitions,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let response = connection
            .ask_held(&request, options.max_wait)
            .await
            .map_err(super::connection::ConnectionError::into_failure)?;
        match response.error_code {
            0 => {}
            // the session is gone (evicted, or another broker): begin a new one
            70 | 71 => {
                session = Session { id: 0, epoch: 0, sent: HashMap::new() };
                continue;
            }
            code => return Err(answered(code, connection.address(), "fetch", None)),
        }
        session.id = response.session_id;
        session.epoch = match (response.session_id, session.epoch) {
            (0, _) => 0,
            (_, i32::MAX) => 1,
            (_, epoch) => epoch + 1,
        };
        for topic in response.responses {
            let name: Arc<str> = (&*topic.name).into();
            for partition in topic.partitions {
                let key = TopicPartition { topic: Arc::clone(&name), partition: partition.partition_index };
                let position = lock(&shared.positions).get(&key).copied().unwrap_or_default();
                let fetched = take(key.clone(), position, partition, options)?;
                let next_offset = fetched.next_offset;
                if next_offset > position {
                    if sender.send(Ok(fetched)).await.is_err() {
                        return Ok(());
                    }
                    // not before: another leader's failure ends this fetch while it waits for whoever reads
                    lock(&shared.positions).insert(key, next_offset);
                }
            }
        }
        // not before: whoever reads may have been slow
        *lock(&shared.answered) = Instant::now();
    }
}

/// Takes the records at and above `position` out of an answer.
fn take(
    partition: TopicPartition,
    position: i64,
    answer: PartitionRecords,
    options: FetchOptions,
) -> Result<Fetched, Failure> {
    let item = partition.to_string();
    if answer.error_code != 0 {
        let failure =
            answered(answer.error_code, &item, &format!("fetch of {item} at offset {position}"), None);
        return Err(match answer.error_code {
            1 => failure.hint(format!("alluvium topic offsets {}", partition.topic)),
            _ => failure,
        });
    }
    let damaged = |why: String| {
        Failure::local(
            Exit::Failed,
            "DAMAGED_RECORDS",
            &item,
            format!("records of {item} behind offset {position}: {why}"),
        )
    };
    let mut bytes = joined(answer.records);
    let mut aborted = answer.aborted_transactions.unwrap_or_default();
    aborted.sort_by_key(|transaction| transaction.first_offset);
    let mut open: Vec<i64> = Vec::new();
    let mut fetched =
        Fetched { partition, records: Vec::new(), count: 0, bytes: bytes.len(), next_offset: position };
    while let Some(batch) = RecordBatch::take_first(&mut bytes).map_err(|error| damaged(error.to_string()))? {
        if !batch.crc_holds() {
            return Err(damaged("the checksum does not hold".to_owned()));
        }
        let header = batch.header();
        if batch.next_offset() <= fetched.next_offset {
            continue;
        }
        while aborted.first().is_some_and(|transaction| transaction.first_offset <= header.last_offset()) {
            open.push(aborted.remove(0).producer_id);
        }
        let hidden = header.is_control() || (header.is_transactional() && open.contains(&header.producer_id));
        if header.is_control() {
            open.retain(|producer| *producer != header.producer_id);
        }
        if !hidden && options.decode {
            decode(&batch, &mut fetched).map_err(&damaged)?;
        } else if !hidden {
            fetched.count += u64::try_from(header.record_count).unwrap_or(0);
        }
        fetched.next_offset = batch.next_offset();
    }
    Ok(fetched)
}

fn joined(records: Records) -> Bytes {
    let mut pieces = records.0.into_iter().map(|slice| match slice {
        LogSlice::Bytes(bytes) => bytes,
        // a message that was read is in memory
        LogSlice::File { .. } => Bytes::new(),
    });
    pieces.next().unwrap_or_default()
}

fn decode(batch: &RecordBatch, into: &mut Fetched) -> Result<(), String> {
    with_inflater(|inflater| {
        for record in batch.records_in(inflater).map_err(|error| error.to_string())? {
            let record = record.map_err(|error| error.to_string())?;
            if record.offset < into.next_offset {
                continue;
            }
            let copied = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
            into.records.push(ConsumedRecord {
                topic: Arc::clone(&into.partition.topic),
                partition: into.partition.partition,
                offset: record.offset,
                timestamp: record.timestamp,
                key: copied(record.key),
                value: copied(record.value),
                headers: record
                    .headers
                    .map(|(name, value)| (Bytes::copy_from_slice(name), copied(value)))
                    .collect(),
            });
            into.count += 1;
        }
        Ok(())
    })
}
