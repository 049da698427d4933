//! A Kafka connection for tests, blocking, over the crate `kafka-protocol`: not the broker's own codec, so that a mistake there
//! cannot hide itself.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, BrokerId, CreateTopicsRequest, FetchRequest, FindCoordinatorRequest, GroupId,
        OffsetCommitRequest, OffsetFetchRequest, ProduceRequest, RequestHeader, ResponseHeader, TopicName,
        create_topics_request::CreatableTopic,
        fetch_request::{FetchPartition, FetchTopic},
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch_request::OffsetFetchRequestTopic,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{Decodable, HeaderVersion, Request, StrBytes, encode_request_header_into_buffer},
    records::{
        Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
    },
};

/// Longer than anything a living broker takes; a connection that is silent for so long is broken.
const READ_LIMIT: Duration = Duration::from_secs(20);

/// One connection.
pub(crate) struct Connection {
    stream: TcpStream,
    correlation: i32,
}

impl Connection {
    pub(crate) fn open(bootstrap: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(bootstrap)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_LIMIT))?;
        Ok(Self { stream, correlation: 0 })
    }

    /// Sends a request without waiting.
    pub(crate) fn send<R: Request>(&mut self, request: &R, version: i16) -> io::Result<()> {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("alluvium-tests")));
        let mut frame = BytesMut::new();
        frame.extend_from_slice(&[0; 4]);
        encode_request_header_into_buffer(&mut frame, &header).map_err(io::Error::other)?;
        request.encode(&mut frame, version).map_err(io::Error::other)?;
        let length = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame)
    }

    /// Reads the next answer, which must be to a request of type `R`.
    pub(crate) fn receive<R: Request>(&mut self, version: i16) -> io::Result<R::Response> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame)?;
        let mut frame = Bytes::from(frame);
        let key = ApiKey::try_from(R::KEY).map_err(|()| io::Error::other("unknown API key"))?;
        debug_assert_eq!(key.response_header_version(version), R::Response::header_version(version));
        ResponseHeader::decode(&mut frame, key.response_header_version(version)).map_err(io::Error::other)?;
        R::Response::decode(&mut frame, version).map_err(io::Error::other)
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn call<R: Request>(&mut self, request: &R, version: i16) -> io::Result<R::Response> {
        self.send(request, version)?;
        self.receive::<R>(version)
    }
}

/// Creates a topic; one that exists already is fine.
pub(crate) fn create_topic(connection: &mut Connection, topic: &str, partitions: i32) -> io::Result<i16> {
    let new = CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_topics(vec![new]).with_timeout_ms(30_000);
    Ok(connection.call(&request, 5)?.topics[0].error_code)
}

/// A batch of records with these values.
pub(crate) fn batch(values: &[String]) -> Bytes {
    batch_at(values, 1_700_000_000_000)
}

/// A batch of records with these values and the timestamps `first`, `first + 1`, ...
pub(crate) fn batch_at(values: &[String], first: i64) -> Bytes {
    let records: Vec<Record> = (0..)
        .zip(values)
        .map(|(offset, value)| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: TimestampType::Creation,
            offset,
            // The crate makes one batch only of sequences that follow each other: from -1, which stands for none.
            sequence: offset as i32 - 1,
            timestamp: first + offset,
            key: None,
            value: Some(Bytes::from(value.clone())),
            headers: Default::default(),
        })
        .collect();
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut bytes, &records, &options).expect("encoding a batch");
    bytes.freeze()
}

/// Produces one batch with acks=all; (error code, base offset).
pub(crate) fn produce(
    connection: &mut Connection,
    topic: &str,
    partition: i32,
    batch: Bytes,
) -> io::Result<(i16, i64)> {
    produce_within(connection, topic, partition, batch, 30_000)
}

/// The same with another `timeout_ms`.
pub(crate) fn produce_within(
    connection: &mut Connection,
    topic: &str,
    partition: i32,
    batch: Bytes,
    timeout_ms: i32,
) -> io::Result<(i16, i64)> {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(timeout_ms).with_topic_data(vec![
        TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]),
    ]);
    let response = connection.call(&request, 9)?;
    let answer = &response.responses[0].partition_responses[0];
    Ok((answer.error_code, answer.base_offset))
}

/// What one fetch of one partition brought.
pub(crate) struct Fetched {
    pub(crate) error_code: i16,
    pub(crate) high_watermark: i64,
    /// (offset, value) from the offset asked for on.
    pub(crate) records: Vec<(i64, Bytes)>,
}

/// The request for up to 1 MiB of a partition, in version 12 or before.
pub(crate) fn fetch_request(topic: &str, partition: i32, offset: i64, wait_ms: i32) -> FetchRequest {
    let wanted = FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(offset)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(1 << 20);
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![FetchTopic::default().with_topic(name(topic)).with_partitions(vec![wanted])])
}

/// Fetches up to 1 MiB of a partition.
pub(crate) fn fetch(
    connection: &mut Connection,
    topic: &str,
    partition: i32,
    offset: i64,
    wait_ms: i32,
) -> io::Result<Fetched> {
    fetch_in_version(connection, 11, topic, partition, offset, wait_ms)
}

/// The same in another version, up to 12.
pub(crate) fn fetch_in_version(
    connection: &mut Connection,
    version: i16,
    topic: &str,
    partition: i32,
    offset: i64,
    wait_ms: i32,
) -> io::Result<Fetched> {
    let response = connection.call(&fetch_request(topic, partition, offset, wait_ms), version)?;
    let data = &response.responses[0].partitions[0];
    let mut bytes = data.records.clone().unwrap_or_default();
    let sets = RecordBatchDecoder::decode_all(&mut bytes).map_err(io::Error::other)?;
    let records = sets
        .into_iter()
        .flat_map(|set| set.records)
        .filter(|record| record.offset >= offset)
        .map(|record| (record.offset, record.value.unwrap_or_default()))
        .collect();
    Ok(Fetched { error_code: data.error_code, high_watermark: data.high_watermark, records })
}

/// Asks for the coordinator of a group; the error code.
pub(crate) fn find_coordinator(connection: &mut Connection, group: &str) -> io::Result<i16> {
    let request = FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.to_owned()));
    Ok(connection.call(&request, 3)?.error_code)
}

/// Commits an offset of partition 0, as a consumer without a group does; the error code.
pub(crate) fn commit(connection: &mut Connection, group: &str, topic: &str, offset: i64) -> io::Result<i16> {
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(offset);
    let topics =
        vec![OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(vec![partition])];
    let request = OffsetCommitRequest::default().with_group_id(group_id(group)).with_topics(topics);
    Ok(connection.call(&request, 8)?.topics[0].partitions[0].error_code)
}

/// The offset committed for partition 0; (error code, offset).
pub(crate) fn committed(connection: &mut Connection, group: &str, topic: &str) -> io::Result<(i16, i64)> {
    let topics =
        vec![OffsetFetchRequestTopic::default().with_name(name(topic)).with_partition_indexes(vec![0])];
    let request = OffsetFetchRequest::default().with_group_id(group_id(group)).with_topics(Some(topics));
    let response = connection.call(&request, 7)?;
    let offset = response.topics.first().map_or(-1, |topic| topic.partitions[0].committed_offset);
    Ok((response.error_code, offset))
}

fn group_id(group: &str) -> GroupId {
    GroupId(StrBytes::from_string(group.to_owned()))
}

/// Every value of a partition, from offset 0 to the high watermark.
pub(crate) fn read_all(connection: &mut Connection, topic: &str, partition: i32) -> Vec<String> {
    let mut values = Vec::new();
    loop {
        let fetched = fetch(connection, topic, partition, values.len() as i64, 0).expect("a fetch");
        assert_eq!(fetched.error_code, 0, "{topic}-{partition} at {}", values.len());
        for (offset, value) in fetched.records {
            assert_eq!(offset, values.len() as i64, "{topic}-{partition}: offsets without gaps");
            values.push(String::from_utf8(value.to_vec()).expect("text"));
        }
        if values.len() as i64 >= fetched.high_watermark {
            return values;
        }
    }
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}
