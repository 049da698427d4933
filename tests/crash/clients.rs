//! The clients of a crash run: idempotent producers that resend until they are told, and readers at the tail.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        InitProducerIdRequest, ProduceRequest, ProducerId, TopicName,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::StrBytes,
    records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType},
};

use crate::{
    history::{History, Outcome, Poll, Value},
    random::Random,
    support::peer::{self, Connection},
};

/// The topic of every run.
const TOPIC: &str = "crashes";
/// What Kafka's clients keep in flight per connection with idempotence on.
const IN_FLIGHT: usize = 5;
/// How long a client goes on without reaching the broker before the run fails.
const UNREACHABLE: Duration = Duration::from_secs(90);

fn topic() -> TopicName {
    TopicName(StrBytes::from_static_str(TOPIC))
}

/// Repeats `attempt` until it works, on a new connection each time.
fn insist<T>(bootstrap: &str, mut attempt: impl FnMut(&mut Connection) -> io::Result<T>) -> T {
    let deadline = Instant::now() + UNREACHABLE;
    loop {
        match Connection::open(bootstrap).and_then(|mut connection| attempt(&mut connection)) {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "{bootstrap}: {error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Creates the topic.
pub(crate) fn create_topic(bootstrap: &str, partitions: i32) {
    let code = insist(bootstrap, |connection| peer::create_topic(connection, TOPIC, partitions));
    assert!([0, 36].contains(&code), "error {code}");
}

/// A batch on its way.
struct Batch {
    sequence: i32,
    values: Vec<Value>,
    bytes: Bytes,
}

/// What one partition still owes this producer.
#[derive(Default)]
struct Lane {
    next: u64,
    in_flight: VecDeque<Batch>,
    /// How many of `in_flight` were sent on the current connection.
    sent: usize,
}

/// Produces into all partitions until `stop`, then until everything is answered. Notes every value in the history, and when
/// each batch was acknowledged.
pub(crate) fn produce(
    bootstrap: &str,
    producer: u32,
    partitions: i32,
    seed: u64,
    stop: &AtomicBool,
    history: &Mutex<History>,
    acks: &Mutex<Vec<Instant>>,
) {
    let mut random = Random::new(seed);
    let identity = insist(bootstrap, |connection| {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(ProducerId(-1));
        let response = connection.call(&request.with_producer_epoch(-1), 4)?;
        if response.error_code == 0 {
            Ok((response.producer_id.0, response.producer_epoch))
        } else {
            Err(io::Error::other("not yet"))
        }
    });
    let mut lanes: Vec<Lane> = (0..partitions).map(|_| Lane::default()).collect();
    let deadline_after_stop = |stopped: Option<Instant>| stopped.is_none_or(|at| at.elapsed() < UNREACHABLE);
    let mut stopped = None;
    while deadline_after_stop(stopped) {
        let finished = insist(bootstrap, |connection| {
            lanes.iter_mut().for_each(|lane| lane.sent = 0);
            Ok(talk(connection, producer, identity, &mut lanes, &mut random, stop, (history, acks)))
        });
        if finished {
            return;
        }
        if stop.load(Ordering::Relaxed) {
            stopped.get_or_insert_with(Instant::now);
        }
    }
    panic!("producer {producer}: batches still unanswered {UNREACHABLE:?} after the last restart");
}

/// Works on one connection until it breaks or an answer makes it useless (false), or everything is answered after `stop` (true).
fn talk(
    connection: &mut Connection,
    producer: u32,
    identity: (i64, i16),
    lanes: &mut [Lane],
    random: &mut Random,
    stop: &AtomicBool,
    (history, acks): (&Mutex<History>, &Mutex<Vec<Instant>>),
) -> bool {
    const VERSION: i16 = 9;
    let mut awaited: VecDeque<usize> = VecDeque::new();
    loop {
        while awaited.len() < IN_FLIGHT {
            let resend = (0..lanes.len()).find(|lane| lanes[*lane].sent < lanes[*lane].in_flight.len());
            let partition = match resend {
                Some(partition) => partition,
                None if stop.load(Ordering::Relaxed) => break,
                None => {
                    let partition = random.below(lanes.len() as u64) as usize;
                    let batch = new_batch(&mut lanes[partition], producer, partition, identity, random);
                    lanes[partition].in_flight.push_back(batch);
                    partition
                }
            };
            let lane = &mut lanes[partition];
            let data = PartitionProduceData::default()
                .with_index(partition as i32)
                .with_records(Some(lane.in_flight[lane.sent].bytes.clone()));
            let request =
                ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![
                    TopicProduceData::default().with_name(topic()).with_partition_data(vec![data]),
                ]);
            lane.sent += 1;
            awaited.push_back(partition);
            if connection.send(&request, VERSION).is_err() {
                return false;
            }
        }
        let Some(partition) = awaited.pop_front() else { return true };
        let Ok(response) = connection.receive::<ProduceRequest>(VERSION) else { return false };
        let answer = &response.responses[0].partition_responses[0];
        assert_eq!(answer.index, partition as i32, "answers out of order");
        match answer.error_code {
            0 => {
                acks.lock().expect("the acknowledgements").push(Instant::now());
                let lane = &mut lanes[partition];
                lane.sent -= 1;
                let batch = lane.in_flight.pop_front().expect("a batch in flight");
                let mut history = history.lock().expect("the history");
                for (value, offset) in batch.values.into_iter().zip(answer.base_offset..) {
                    history.sent(value, Outcome::Acked(offset));
                }
            }
            // Retriable: everything in flight goes out again, in order, on a new connection.
            2 | 3 | 5 | 6 | 7 | 15 | 19 | 20 | 56 => {
                thread::sleep(Duration::from_millis(5));
                return false;
            }
            code => panic!(
                "producer {producer}, partition {partition}, sequence {}: error {code}",
                lanes[partition].in_flight[0].sequence
            ),
        }
    }
}

fn new_batch(
    lane: &mut Lane,
    producer: u32,
    partition: usize,
    identity: (i64, i16),
    random: &mut Random,
) -> Batch {
    let count = 1 + random.below(8);
    // now and then so much that the broker syncs the segments instead of writing it twice
    let most = if random.below(6) == 0 { 100_000 } else { 300 };
    let sequence = lane.next as i32;
    let values: Vec<Value> =
        (0..count).map(|n| Value { producer, partition: partition as i32, number: lane.next + n }).collect();
    lane.next += count;
    let records: Vec<Record> = values
        .iter()
        .enumerate()
        .map(|(n, value)| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: identity.0,
            producer_epoch: identity.1,
            timestamp_type: TimestampType::Creation,
            offset: n as i64,
            sequence: sequence + n as i32,
            timestamp: 1_700_000_000_000 + value.number as i64,
            key: None,
            value: Some(format!("{} {}", value.to_text(), "x".repeat(random.below(most) as usize)).into()),
            headers: Default::default(),
        })
        .collect();
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut bytes, &records, &options).expect("encoding a batch");
    Batch { sequence, values, bytes: bytes.freeze() }
}

/// Records of one fetch of `partition` from `offset`, and the high watermark; an empty answer at the end.
fn fetch(
    connection: &mut Connection,
    partition: i32,
    offset: i64,
    wait_ms: i32,
) -> io::Result<(Vec<(i64, Value)>, i64)> {
    let fetched = peer::fetch(connection, TOPIC, partition, offset, wait_ms)?;
    // 1 would mean that what was read before is gone: committed records never go.
    assert_ne!(fetched.error_code, 1, "partition {partition}: offset {offset} is out of range");
    if fetched.error_code != 0 {
        return Err(io::Error::other(format!("error {}", fetched.error_code)));
    }
    let values = fetched.records.into_iter().map(|(offset, value)| {
        let value = Value::parse(&value);
        (offset, value.unwrap_or_else(|| panic!("partition {partition}, offset {offset}: not one of ours")))
    });
    Ok((values.collect(), fetched.high_watermark))
}

/// Follows all partitions at the tail until `stop`, through restarts; what it saw once must stay.
pub(crate) fn follow(
    bootstrap: &str,
    reader: u32,
    partitions: i32,
    stop: &AtomicBool,
    history: &Arc<Mutex<History>>,
) {
    let mut offsets = vec![0; partitions as usize];
    let mut watermarks = vec![0; partitions as usize];
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut connection) = Connection::open(bootstrap) else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        let mut partition = 0;
        while !stop.load(Ordering::Relaxed) {
            let lane = partition as usize;
            let Ok((records, watermark)) = fetch(&mut connection, partition, offsets[lane], 20) else {
                break;
            };
            assert!(watermarks[lane] <= watermark, "the high watermark of partition {partition} fell");
            watermarks[lane] = watermark;
            if let Some((last, _)) = records.last() {
                offsets[lane] = last + 1;
                history.lock().expect("the history").polled(Poll {
                    reader,
                    partition,
                    records,
                    seeked: false,
                });
            }
            partition = (partition + 1) % partitions;
        }
    }
}

/// Reads every partition from its start to its end with a fresh client.
pub(crate) fn read_all(bootstrap: &str, reader: u32, partitions: i32, history: &mut History) {
    for partition in 0..partitions {
        let mut offset = 0;
        loop {
            let (records, watermark) =
                insist(bootstrap, |connection| fetch(connection, partition, offset, 0));
            if let Some((last, _)) = records.last() {
                history.polled(Poll { reader, partition, records: records.clone(), seeked: offset == 0 });
                offset = last + 1;
            }
            if offset >= watermark {
                break;
            }
        }
    }
}
