//! Requests that many tests send, and the broker they share.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use alluvium::protocol::{
    Str,
    messages::{
        create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest},
        fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionRecords},
        list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
        metadata::{MetadataRequest, MetadataRequestTopic, MetadataTopic},
        produce::{PartitionData, PartitionResponse, ProduceRequest, TopicData},
    },
};
use bytes::Bytes;
use log_store::batch::BatchBuilder;
use uuid::Uuid;

use crate::support::{broker::Broker, wire::Wire};

/// A broker that tests share which neither restart it nor change its settings.
pub(crate) fn shared() -> &'static str {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    &BROKER.get_or_init(|| Broker::ephemeral_until_exit(&[])).bootstrap
}

/// A topic name that no other test uses.
pub(crate) fn fresh(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A topic to create.
pub(crate) fn new_topic(name: &str, partitions: i32, configs: &[(&str, &str)]) -> CreatableTopic {
    CreatableTopic {
        name: Str::from(name),
        num_partitions: partitions,
        replication_factor: 1,
        configs: configs
            .iter()
            .map(|(name, value)| CreatableTopicConfig {
                name: Str::from(*name),
                value: Some(Str::from(*value)),
            })
            .collect(),
        ..CreatableTopic::default()
    }
}

/// Creates a topic and returns its id.
pub(crate) fn create(wire: &mut Wire, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Uuid {
    let topics = vec![new_topic(name, partitions, configs)];
    let request = CreateTopicsRequest { topics, timeout_ms: 30_000, ..CreateTopicsRequest::default() };
    let response = wire.call(&request, 7);
    assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0]);
    response.topics[0].topic_id
}

/// Metadata of one topic by name, without creating it.
pub(crate) fn describe(wire: &mut Wire, name: &str) -> MetadataTopic {
    let request = MetadataRequest { allow_auto_topic_creation: false, ..named(&[name]) };
    wire.call(&request, 12).topics.remove(0)
}

/// Asks for topics by name.
pub(crate) fn named(names: &[&str]) -> MetadataRequest {
    let topic = |name: &&str| MetadataRequestTopic { name: Some(Str::from(*name)), topic_id: Uuid::nil() };
    MetadataRequest { topics: Some(names.iter().map(topic).collect()), ..MetadataRequest::default() }
}

/// A fetch of one partition from `offset` that waits up to `wait_ms` for a byte, without a session.
pub(crate) fn fetch_from(topic_id: Uuid, partition: i32, offset: i64, wait_ms: i32) -> FetchRequest {
    let partitions = vec![FetchPartition {
        partition,
        fetch_offset: offset,
        partition_max_bytes: 1 << 20,
        ..FetchPartition::default()
    }];
    FetchRequest {
        max_wait_ms: wait_ms,
        min_bytes: 1,
        max_bytes: 1 << 20,
        topics: vec![FetchTopic { topic_id, partitions, ..FetchTopic::default() }],
        ..FetchRequest::default()
    }
}

/// How long a poll may wait that something else must end.
pub(crate) const LONG_POLL_MS: i32 = 25_000;

/// Reads the answer to a poll of [`LONG_POLL_MS`] that was ended by what began at `since`: the poll's own time has not done it.
pub(crate) fn ended_at_once(
    wire: &mut Wire,
    version: i16,
    correlation: i32,
    since: Instant,
) -> FetchResponse {
    let response = wire.receive::<FetchRequest>(version, correlation);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(10), "the poll went on for {took:?}: {response:?}");
    response
}

/// A produce of one batch with acks=all; name and id are both given, the version takes the one it carries.
pub(crate) fn produce_to(topic: &str, topic_id: Uuid, partition: i32, records: Bytes) -> ProduceRequest {
    let partitions = vec![PartitionData { index: partition, records: Some(records) }];
    ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topics: vec![TopicData { name: Str::from(topic), topic_id, partitions }],
        ..ProduceRequest::default()
    }
}

/// Produces until a sync takes long: the slow one that the broker's disk was told (`slow-sync`), or one that the machine is too busy for.
pub(crate) fn begin_slow_sync(wire: &mut Wire, topic: &str, topic_id: Uuid) {
    assert!((0..1_000).any(|_| hasty_produce(wire, topic, topic_id) == 7), "no sync was slow");
}

/// The code of a produce that waits for no more than 200 ms.
pub(crate) fn hasty_produce(wire: &mut Wire, topic: &str, topic_id: Uuid) -> i16 {
    let request = ProduceRequest { timeout_ms: 200, ..produce_to(topic, topic_id, 0, batch(&["x"])) };
    wire.call(&request, 9).responses[0].partitions[0].error_code
}

/// A plain batch of records with these values, stamped now.
pub(crate) fn batch(values: &[&str]) -> Bytes {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as i64;
    batch_at(values, now)
}

/// A plain batch whose records have the timestamps `first`, `first + 1`, ...
pub(crate) fn batch_at(values: &[&str], first: i64) -> Bytes {
    let mut builder = BatchBuilder::default();
    for (timestamp, value) in (first..).zip(values) {
        builder.append(timestamp, None, Some(value.as_bytes()), &[]);
    }
    builder.build().to_bytes()
}

/// Produces one batch with acks=all and returns the partition's answer.
pub(crate) fn produce(
    wire: &mut Wire,
    version: i16,
    topic: &str,
    topic_id: Uuid,
    partition: i32,
    records: Bytes,
) -> PartitionResponse {
    let request = produce_to(topic, topic_id, partition, records);
    wire.call(&request, version).responses.remove(0).partitions.remove(0)
}

/// Everything of a partition from its start, up to 64 MiB.
pub(crate) fn fetch_all(wire: &mut Wire, topic_id: Uuid, partition: i32) -> PartitionRecords {
    let mut request = fetch_from(topic_id, partition, 0, 0);
    request.max_bytes = 64 << 20;
    request.topics[0].partitions[0].partition_max_bytes = 64 << 20;
    let response = wire.call(&request, 13).responses.remove(0).partitions.remove(0);
    assert_eq!(response.error_code, 0);
    response
}

/// The end of a partition as consumers see it.
pub(crate) fn end_of(wire: &mut Wire, topic: &str, partition: i32) -> i64 {
    let wanted =
        ListOffsetsPartition { partition_index: partition, timestamp: -1, ..ListOffsetsPartition::default() };
    let request = ListOffsetsRequest {
        topics: vec![ListOffsetsTopic { name: Str::from(topic), partitions: vec![wanted] }],
        ..ListOffsetsRequest::default()
    };
    let answer = wire.call(&request, 5).topics.remove(0).partitions.remove(0);
    assert_eq!(answer.error_code, 0, "the end of {topic}-{partition}");
    answer.offset
}
