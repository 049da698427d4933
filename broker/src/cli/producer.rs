//! The producer: records gathered into batches by partition, several batches on their way, each in order and once.
//!
//! ```text
//! send -> partition (by key: murmur2, as Java; without: one for some time) -> lane -> batches -> leader
//! ```
//! A lane is a task that serves one partition. It has a producer id of its own, so that a batch that was refused for good
//! does not hold up the sequences of others. Where a leader is lost, everything on its way is sent again, in order; the
//! sequences let the broker drop what it already has.
//!
//! Nothing is written twice, and nothing is called lost that may be written:
//! - A broker takes any first sequence of an id that it does not know. So the first batch of an id goes alone: behind one
//!   that was refused, none is taken.
//! - A batch is in doubt once an attempt ended without an answer that tells. It keeps its id and sequence for good; where
//!   those cannot be used any more, it fails as [`NOT_CONFIRMED`].
//! - A batch that is too large is cut in two, with the sequences that it had.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use log_store::{
    batch::{BatchBuilder, RecordBatch},
    compression::Codec,
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};

use super::{
    client::{BACKOFF, Client, TopicPartition},
    connection::{ConnectionError, Pending, answered, is_retriable},
    failure::{Exit, Failure},
    jsonl::ProducedRecord,
};
use crate::{
    clock::Clock,
    protocol::{
        Str,
        messages::{
            init_producer_id::InitProducerIdRequest,
            produce::{PartitionData, ProduceRequest, ProduceResponse, TopicData},
        },
    },
};

/// How records are sent.
#[derive(Clone, Debug)]
pub(super) struct ProducerOptions {
    /// -1 (all), 1 or 0.
    pub(super) acks: i16,
    /// Compression of batches.
    pub(super) codec: Codec,
    /// Largest batch, before compression.
    pub(super) batch_bytes: usize,
    /// How long a batch waits for more records.
    pub(super) linger: Duration,
    /// How long a record may take, with all attempts.
    pub(super) delivery_timeout: Duration,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            acks: -1,
            codec: Codec::None,
            batch_bytes: 16 << 10,
            linger: Duration::ZERO,
            delivery_timeout: Duration::from_secs(60),
        }
    }
}

/// Reads `--acks`, spelt as Kafka does.
pub(super) fn acks_parser() -> impl TypedValueParser<Value = i16> {
    PossibleValuesParser::new(["all", "-1", "1", "0"]).map(|acks| match acks.as_str() {
        "1" => 1,
        "0" => 0,
        _ => -1,
    })
}

/// Reads `--compression`.
pub(super) fn codec_parser() -> impl TypedValueParser<Value = Codec> {
    PossibleValuesParser::new(["none", "gzip", "snappy", "lz4", "zstd"])
        .map(|codec| codec.parse().unwrap_or_default())
}

/// What became of a record.
#[derive(Debug)]
pub(super) struct Delivery {
    /// As given to [`Producer::send`].
    pub(super) token: u64,
    /// Where it went.
    pub(super) partition: i32,
    /// Its offset (-1 with `acks=0`), or why it was not written; [`NOT_CONFIRMED`] where it may be.
    pub(super) result: Result<i64, Failure>,
}

/// Name of the failure of a record of which nobody knows whether it is written.
pub(super) const NOT_CONFIRMED: &str = "NOT_CONFIRMED";

struct Queued {
    record: ProducedRecord,
    timestamp: i64,
    token: u64,
}

/// Bytes of records that may wait for their answer.
const BUFFER_BYTES: usize = 32 << 20;
/// Batches of one partition on their way.
const IN_FLIGHT: usize = 5;
/// Records without a key change partition after so many bytes, as sticky partitioners do.
const STICKY_BYTES: usize = 16 << 10;

/// A producer for one topic.
pub(super) struct Producer {
    client: Arc<Client>,
    topic: Arc<str>,
    options: ProducerOptions,
    clock: Clock,
    lanes: HashMap<i32, mpsc::UnboundedSender<Queued>>,
    partitions: Vec<i32>,
    deliveries: mpsc::UnboundedSender<Delivery>,
    room: Arc<Semaphore>,
    sticky: (usize, usize),
}

impl Producer {
    /// A producer for a topic that exists; results come out of the receiver.
    ///
    /// # Errors
    /// The topic does not exist, or nobody answers.
    pub(super) async fn new(
        client: Arc<Client>,
        topic: &str,
        options: ProducerOptions,
        clock: Clock,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Delivery>), Failure> {
        let topic: Arc<str> = topic.into();
        let partitions = client.partitions(&[Arc::clone(&topic)]).await?;
        let partitions: Vec<i32> = partitions.iter().map(|partition| partition.partition).collect();
        let (deliveries, results) = mpsc::unbounded_channel();
        let first = usize::try_from(crate::clock::entropy() >> 1).unwrap_or(0) % partitions.len().max(1);
        let producer = Self {
            client,
            topic,
            options,
            clock,
            lanes: HashMap::new(),
            partitions,
            deliveries,
            room: Arc::new(Semaphore::new(BUFFER_BYTES)),
            sticky: (first, 0),
        };
        Ok((producer, results))
    }

    /// Queues a record; waits only where too much is on its way already.
    ///
    /// # Errors
    /// The record names a partition that the topic does not have.
    pub(super) async fn send(&mut self, record: ProducedRecord, token: u64) -> Result<(), Failure> {
        let partition = self.partition_for(&record, size_of(&record))?;
        let room = u32::try_from(room_for(&record)).unwrap_or(u32::MAX);
        if let Ok(permit) = self.room.acquire_many(room).await {
            permit.forget();
        }
        let timestamp = record.timestamp.unwrap_or_else(|| self.clock.now_ms());
        let lane = self.lanes.entry(partition).or_insert_with(|| {
            let (sender, queue) = mpsc::unbounded_channel();
            let lane = Lane {
                client: Arc::clone(&self.client),
                partition: TopicPartition { topic: Arc::clone(&self.topic), partition },
                options: self.options.clone(),
                queue,
                deliveries: self.deliveries.clone(),
                room: Arc::clone(&self.room),
                identity: None,
                sequence: 0,
                is_known: false,
                no_leader: None,
            };
            tokio::spawn(lane.run());
            sender
        });
        // a lane lives as long as its sender
        let _ = lane.send(Queued { record, timestamp, token });
        Ok(())
    }

    fn partition_for(&mut self, record: &ProducedRecord, bytes: usize) -> Result<i32, Failure> {
        let count = self.partitions.len();
        if let Some(partition) = record.partition {
            if self.partitions.contains(&partition) {
                return Ok(partition);
            }
            let item = format!("{}-{partition}", self.topic);
            let message = format!(
                "topic '{}' has partitions 0 to {}, not {partition}",
                self.topic,
                count.saturating_sub(1)
            );
            return Err(Failure::kafka(3, "UNKNOWN_TOPIC_OR_PARTITION", item, message));
        }
        let index = match &record.key {
            Some(key) => partition_of_key(key, count),
            None => {
                let (index, sent) = self.sticky;
                self.sticky = match sent + bytes >= STICKY_BYTES {
                    true => ((index + 1) % count.max(1), 0),
                    false => (index, sent + bytes),
                };
                index
            }
        };
        self.partitions
            .get(index)
            .copied()
            .ok_or_else(|| answered(3, &self.topic, &format!("topic '{}'", self.topic), None))
    }
}

/// Bytes of a record, about as many as it takes in a batch.
fn size_of(record: &ProducedRecord) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len) + 4)
        .sum();
    record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len) + headers + 16
}

/// What a record takes of the buffer: one that is larger takes all of it, and whether it is too large is the broker's to say.
fn room_for(record: &ProducedRecord) -> usize {
    size_of(record).min(BUFFER_BYTES)
}

/// The partition of a key, as Kafka's Java client chooses it.
pub(super) fn partition_of_key(key: &[u8], partitions: usize) -> usize {
    let positive = usize::try_from(murmur2(key) & 0x7fff_ffff).unwrap_or(0);
    positive % partitions.max(1)
}

/// Murmur2 with Kafka's seed.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        // the algorithm is defined on little-endian words
        let mut k = u32::from(word[0])
            | u32::from(word[1]) << 8
            | u32::from(word[2]) << 16
            | u32::from(word[3]) << 24;
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

/// A batch on its way.
struct Batch {
    batch: RecordBatch,
    records: Vec<Queued>,
    deadline: Instant,
    answer: Option<Pending<ProduceRequest>>,
    /// Whether an attempt may have been written without a word that it was.
    in_doubt: bool,
}

/// What an attempt to write a batch came to.
enum Attempt {
    /// Written, at this offset (-1 where the broker does not remember it).
    Written(i64),
    /// Refused for good.
    Refused(Failure),
    /// Larger than the topic takes.
    TooLarge(Failure),
    /// To be tried again.
    Failed {
        failure: Failure,
        /// Whether it may be written nevertheless.
        in_doubt: bool,
    },
}

/// What serves one partition.
struct Lane {
    client: Arc<Client>,
    partition: TopicPartition,
    options: ProducerOptions,
    queue: mpsc::UnboundedReceiver<Queued>,
    deliveries: mpsc::UnboundedSender<Delivery>,
    room: Arc<Semaphore>,
    /// Producer id and epoch, where sequences are used.
    identity: Option<(i64, i16)>,
    /// Of the next record.
    sequence: i32,
    /// Whether the broker has written a batch of this identity.
    is_known: bool,
    /// Why the leader could not be reached last.
    no_leader: Option<Failure>,
}

impl Lane {
    async fn run(mut self) {
        let mut flying: VecDeque<Batch> = VecDeque::new();
        let mut held: Option<Queued> = None;
        let mut open = true;
        loop {
            while open && flying.len() < IN_FLIGHT {
                // with something on its way, whatever waits goes; without, the next record is waited for
                let first = match held.take() {
                    Some(queued) => queued,
                    None if flying.is_empty() => match self.queue.recv().await {
                        Some(queued) => queued,
                        None => {
                            open = false;
                            break;
                        }
                    },
                    None => match self.queue.try_recv() {
                        Ok(queued) => queued,
                        Err(mpsc::error::TryRecvError::Empty) => break,
                        Err(mpsc::error::TryRecvError::Disconnected) => {
                            open = false;
                            break;
                        }
                    },
                };
                let gathered = self.gather(first, &mut held).await;
                let batch = match self.build(gathered).await {
                    Some(batch) => batch,
                    None => continue,
                };
                flying.push_back(batch);
                self.submit(&mut flying).await;
            }
            if flying.is_empty() {
                if !open {
                    return;
                }
                continue;
            }
            self.settle_first(&mut flying).await;
        }
    }

    /// Adds what is queued, or comes within the linger, up to the size of a batch.
    async fn gather(&mut self, first: Queued, held: &mut Option<Queued>) -> Vec<Queued> {
        let mut bytes = size_of(&first.record);
        let mut gathered = vec![first];
        let until = Instant::now() + self.options.linger;
        while bytes < self.options.batch_bytes {
            let next = match self.queue.try_recv() {
                Ok(next) => next,
                Err(_) if self.options.linger.is_zero() => break,
                Err(_) => match tokio::time::timeout_at(until, self.queue.recv()).await {
                    Ok(Some(next)) => next,
                    _ => break,
                },
            };
            let more = size_of(&next.record);
            if bytes + more > self.options.batch_bytes {
                *held = Some(next);
                break;
            }
            bytes += more;
            gathered.push(next);
        }
        gathered
    }

    /// Builds a batch with the next sequences. Where no producer id is to be had, its records fail.
    async fn build(&mut self, records: Vec<Queued>) -> Option<Batch> {
        let deadline = Instant::now() + self.options.delivery_timeout;
        let mut producer = None;
        if self.options.acks == -1 {
            match self.identity(deadline).await {
                Ok((id, epoch)) => producer = Some((id, epoch, self.sequence)),
                Err(failure) => {
                    self.fail(records, &failure);
                    return None;
                }
            }
            self.sequence = advance(self.sequence, records.len());
        }
        Some(self.encode(records, producer, deadline))
    }

    fn encode(&self, records: Vec<Queued>, producer: Option<(i64, i16, i32)>, deadline: Instant) -> Batch {
        let mut builder = BatchBuilder::new(self.options.codec);
        if let Some((id, epoch, sequence)) = producer {
            builder = builder.producer(id, epoch, sequence);
        }
        for Queued { record, timestamp, .. } in &records {
            let headers: Vec<(&[u8], Option<&[u8]>)> =
                record.headers.iter().map(|(name, value)| (&name[..], value.as_deref())).collect();
            builder.append(*timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
        }
        Batch { batch: builder.build(), records, deadline, answer: None, in_doubt: false }
    }

    async fn identity(&mut self, deadline: Instant) -> Result<(i64, i16), Failure> {
        if let Some(identity) = self.identity {
            return Ok(identity);
        }
        let request = InitProducerIdRequest { transaction_timeout_ms: 60_000, ..Default::default() };
        loop {
            let failure = match self.client.ask(&request).await {
                Ok(response) if response.error_code == 0 => {
                    (self.sequence, self.is_known) = (0, false);
                    let identity = (response.producer_id, response.producer_epoch);
                    self.identity = Some(identity);
                    return Ok(identity);
                }
                Ok(response) => {
                    let failure =
                        answered(response.error_code, &self.partition.to_string(), "no producer id", None);
                    if !is_retriable(response.error_code) {
                        return Err(failure);
                    }
                    failure
                }
                Err(failure) => failure,
            };
            if Instant::now() >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(BACKOFF).await;
        }
    }

    /// How many batches may be on their way.
    fn at_once(&self) -> usize {
        if self.options.acks == -1 && !self.is_known { 1 } else { IN_FLIGHT }
    }

    /// Sends the batches that are not on their way; where that does not work they stay, for [`Lane::settle_first`].
    async fn submit(&mut self, flying: &mut VecDeque<Batch>) {
        let connection = match self.leader().await {
            Ok(connection) => {
                self.no_leader = None;
                connection
            }
            Err(failure) => return self.no_leader = Some(failure),
        };
        if self.options.acks == 0 {
            while let Some(batch) = flying.front() {
                // nobody answers: it is done once it has left
                let told =
                    tokio::time::timeout_at(batch.deadline, connection.tell(&self.request(batch))).await;
                if !matches!(told, Ok(Ok(()))) {
                    return;
                }
                let Some(batch) = flying.pop_front() else { return };
                self.written(batch.records, -1);
            }
            return;
        }
        let at_once = self.at_once();
        for batch in flying.iter_mut().take(at_once).filter(|batch| batch.answer.is_none()) {
            match connection.submit(&self.request(batch)) {
                Ok(pending) => batch.answer = Some(pending),
                Err(_) => return,
            }
        }
    }

    fn request(&self, batch: &Batch) -> ProduceRequest {
        ProduceRequest {
            acks: self.options.acks,
            timeout_ms: 30_000,
            topics: vec![TopicData {
                name: Str::from(&*self.partition.topic),
                partitions: vec![PartitionData {
                    index: self.partition.partition,
                    records: Some(batch.batch.to_bytes()),
                }],
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    async fn leader(&self) -> Result<Arc<super::connection::Connection>, Failure> {
        let leader = match self.client.known_leader(&self.partition) {
            Some(leader) => leader,
            None => {
                let leaders = self.client.leaders(std::slice::from_ref(&self.partition)).await?;
                leaders.get(&self.partition).copied().unwrap_or(-1)
            }
        };
        let connection = self.client.node(leader).await;
        if connection.is_err() {
            self.client.forget_leader(&self.partition);
        }
        connection
    }

    /// What an answer says, or that there is none.
    fn attempt(&self, answer: Result<ProduceResponse, ConnectionError>) -> Attempt {
        let answer = match answer {
            Ok(response) => {
                response.responses.into_iter().flat_map(|topic| topic.partitions).next().unwrap_or_default()
            }
            Err(error) => return Attempt::Failed { failure: error.into_failure(), in_doubt: true },
        };
        let reason = answer.record_errors.iter().find_map(|error| error.message.as_deref());
        let failure = || {
            let what = format!("{} refused the records", self.partition);
            let reason = reason.or(answer.error_message.as_deref());
            answered(answer.error_code, &self.partition.to_string(), &what, reason)
        };
        match answer.error_code {
            0 => Attempt::Written(answer.base_offset),
            // a duplicate older than Kafka remembers; this broker answers 45 to it
            46 => Attempt::Written(-1),
            10 => Attempt::TooLarge(failure()),
            // a leader that steps down, not in time, not on all replicas, a disk that fails: it may be in the log
            6 | 7 | 20 | 56 => Attempt::Failed { failure: failure(), in_doubt: true },
            code if is_retriable(code) => Attempt::Failed { failure: failure(), in_doubt: false },
            _ => Attempt::Refused(failure()),
        }
    }

    /// Waits for the answer to the oldest batch and acts on it.
    async fn settle_first(&mut self, flying: &mut VecDeque<Batch>) {
        let Some(mut first) = flying.pop_front() else { return };
        let attempt = match first.answer.take() {
            None => self.without_leader(),
            Some(answer) => {
                let left = first.deadline.saturating_duration_since(Instant::now());
                self.attempt(answer.within(left.min(Duration::from_secs(35))).await)
            }
        };
        if let Attempt::Written(offset) = attempt {
            self.written(first.records, offset);
            self.is_known = true;
            // there may be more than go at once: after a cut, or behind the first of an identity
            let waits = flying.iter().take(self.at_once()).any(|batch| batch.answer.is_none());
            if waits {
                self.submit(flying).await;
            }
            return;
        }
        // what is behind must not overtake it: let it come back before anything is sent again
        for mut batch in std::mem::take(flying) {
            match batch.answer.take() {
                None => flying.push_back(batch),
                Some(answer) => match self.attempt(answer.within(Duration::from_secs(5)).await) {
                    Attempt::Written(offset) => self.written(batch.records, offset),
                    Attempt::Failed { in_doubt: true, .. } => {
                        batch.in_doubt = true;
                        flying.push_back(batch);
                    }
                    _ => flying.push_back(batch),
                },
            }
        }
        match attempt {
            Attempt::TooLarge(_) if first.records.len() > 1 => {
                for half in self.halves(first).into_iter().rev() {
                    flying.push_front(half);
                }
            }
            Attempt::Failed { failure, in_doubt } => {
                first.in_doubt |= in_doubt;
                if Instant::now() >= first.deadline {
                    self.give_up(first, &failure);
                    self.renew_identity(flying).await;
                } else {
                    flying.push_front(first);
                    self.client.forget_leader(&self.partition);
                    tokio::time::sleep(BACKOFF).await;
                }
            }
            Attempt::Refused(failure) | Attempt::TooLarge(failure) => {
                self.give_up(first, &failure);
                self.renew_identity(flying).await;
            }
            Attempt::Written(_) => {}
        }
        self.submit(flying).await;
    }

    /// Why a batch was not sent.
    fn without_leader(&mut self) -> Attempt {
        match self.no_leader.take() {
            // the topic was there when the first record came: somebody deleted it
            Some(failure) if failure.exit() == Exit::NotFound => Attempt::Refused(failure),
            Some(failure) => Attempt::Failed { failure, in_doubt: false },
            None => {
                let message = format!("no leader of {} can be reached", self.partition);
                let item = self.partition.to_string();
                let failure = Failure::local(Exit::Unreachable, "NO_LEADER", item, message);
                Attempt::Failed { failure, in_doubt: false }
            }
        }
    }

    /// The halves of a batch, with the sequences that it had; batches to come are not larger than them.
    fn halves(&mut self, whole: Batch) -> [Batch; 2] {
        let header = whole.batch.header();
        let mut head = whole.records;
        let tail = head.split_off(head.len() / 2);
        let bytes = |records: &[Queued]| records.iter().map(|queued| size_of(&queued.record)).sum::<usize>();
        self.options.batch_bytes = self.options.batch_bytes.min(bytes(&head).max(bytes(&tail)));
        let sequences = [header.base_sequence, advance(header.base_sequence, head.len())];
        let producer = |sequence| {
            (header.producer_id >= 0).then_some((header.producer_id, header.producer_epoch, sequence))
        };
        let [first, second] = sequences.map(producer);
        [(head, first), (tail, second)].map(|(records, producer)| Batch {
            in_doubt: whole.in_doubt,
            ..self.encode(records, producer, whole.deadline)
        })
    }

    /// Gives the batches another identity, since a sequence before theirs will not come. The broker has none of those
    /// that are not in doubt.
    async fn renew_identity(&mut self, flying: &mut VecDeque<Batch>) {
        if self.options.acks != -1 {
            return;
        }
        self.identity = None;
        for mut batch in std::mem::take(flying) {
            if batch.in_doubt {
                self.leave_in_doubt(batch, "a batch before them failed");
                continue;
            }
            match self.identity(batch.deadline).await {
                Ok((id, epoch)) => {
                    let mut header = batch.batch.header();
                    (header.producer_id, header.producer_epoch, header.base_sequence) =
                        (id, epoch, self.sequence);
                    self.sequence = advance(self.sequence, batch.records.len());
                    batch.batch.head = header.encode();
                    header.crc = batch.batch.computed_crc();
                    batch.batch.head = header.encode();
                    flying.push_back(batch);
                }
                Err(failure) => self.fail(batch.records, &failure),
            }
        }
    }

    /// Fails a batch for good.
    fn give_up(&self, batch: Batch, failure: &Failure) {
        match batch.in_doubt {
            true => self.leave_in_doubt(batch, &failure.to_string()),
            false => self.fail(batch.records, failure),
        }
    }

    fn leave_in_doubt(&self, batch: Batch, why: &str) {
        let item = self.partition.to_string();
        let message = format!("{item}: whether the records are written is not known: {why}");
        self.fail(batch.records, &Failure::local(Exit::Unreachable, NOT_CONFIRMED, item, message));
    }

    fn written(&self, records: Vec<Queued>, base_offset: i64) {
        for (ordinal, queued) in (0_i64..).zip(records) {
            let offset = if base_offset < 0 { -1 } else { base_offset + ordinal };
            self.deliver(&queued, Ok(offset));
        }
    }

    fn fail(&self, records: Vec<Queued>, failure: &Failure) {
        for queued in records {
            self.deliver(&queued, Err(failure.clone()));
        }
    }

    fn deliver(&self, queued: &Queued, result: Result<i64, Failure>) {
        self.room.add_permits(room_for(&queued.record));
        // whoever waits may have given up
        let _ = self.deliveries.send(Delivery {
            token: queued.token,
            partition: self.partition.partition,
            result,
        });
    }
}

/// The sequence so many records later; it wraps from the largest to 0.
fn advance(sequence: i32, records: usize) -> i32 {
    let next = (i64::from(sequence) + i64::try_from(records).unwrap_or(0)) % (i64::from(i32::MAX) + 1);
    i32::try_from(next).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of `Utils.murmur2` in Kafka's own tests.
    #[test]
    fn murmur2_is_kafkas() {
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn sequences_wrap() {
        assert_eq!(advance(0, 5), 5);
        assert_eq!(advance(i32::MAX, 1), 0);
        assert_eq!(advance(i32::MAX - 1, 3), 1);
    }
}
