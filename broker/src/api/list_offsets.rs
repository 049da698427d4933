//! ListOffsets (2), versions 1 to 10: offsets by time.
//!
//! | version | brings |
//! | --- | --- |
//! | 1 | one offset and its timestamp (KIP-79); the first that is served |
//! | 2 | isolation level (KIP-98) |
//! | 4 | leader epochs (KIP-320) |
//! | 6 | flexible |
//! | 7 | -3: the record with the largest timestamp (KIP-734) |
//! | 8, 9 | -4: local log start, -5: last tiered offset (KIP-405) |
//! | 10 | time-out (KIP-1075) |
//!
//! A lookup by time reads index files and batches: it runs on a thread that may wait for the disk.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use replication::{Isolation, Partition, ReplicationError};

use super::{Broker, Context, fetch::check_epoch};
use crate::{
    partitions::{Lookup, Topic},
    protocol::{
        ErrorCode, Str,
        messages::list_offsets::{
            ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
            ListOffsetsTopicResponse,
        },
    },
};

/// The end of what is visible.
const LATEST: i64 = -1;
/// The log start.
const EARLIEST: i64 = -2;
/// The record with the largest timestamp.
const MAX_TIMESTAMP: i64 = -3;
/// The start of what is on this broker's disk: the log start, for nothing is elsewhere.
const EARLIEST_LOCAL: i64 = -4;
/// The last offset in tiered storage, of which there is none.
const LATEST_TIERED: i64 = -5;

/// Answers a request.
pub async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let isolation = match request.isolation_level {
        1 => Isolation::ReadCommitted,
        _ => Isolation::ReadUncommitted,
    };
    let mut twice = named_twice(&request);
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let known = broker.partitions.topic(&topic.name);
        let mut named_twice = twice.get_mut(&topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in topic.partitions {
            let index = wanted.partition_index;
            // What is named twice is answered once.
            let answer = match named_twice.as_mut().and_then(|twice| twice.get_mut(&index)) {
                Some(answered) if *answered => continue,
                Some(answered) => {
                    *answered = true;
                    Err(ErrorCode::InvalidRequest)
                }
                None => offset(broker, context.version, known.as_deref(), wanted, isolation).await,
            };
            partitions.push(match answer {
                Ok(answer) => ListOffsetsPartitionResponse { partition_index: index, ..answer },
                Err(code) => ListOffsetsPartitionResponse {
                    partition_index: index,
                    error_code: code.number(),
                    ..ListOffsetsPartitionResponse::default()
                },
            });
        }
        topics.push(ListOffsetsTopicResponse { name: topic.name, partitions });
    }
    ListOffsetsResponse { topics, ..ListOffsetsResponse::default() }
}

/// Partitions that are named more than once, none of them answered so far.
fn named_twice(request: &ListOffsetsRequest) -> HashMap<Str, HashMap<i32, bool>> {
    let mut once: HashMap<&Str, HashSet<i32>> = HashMap::new();
    let mut twice: HashMap<Str, HashMap<i32, bool>> = HashMap::new();
    for topic in &request.topics {
        let once = once.entry(&topic.name).or_default();
        let again = topic.partitions.iter().map(|partition| partition.partition_index);
        let again: HashMap<i32, bool> =
            again.filter(|index| !once.insert(*index)).map(|index| (index, false)).collect();
        if !again.is_empty() {
            twice.entry(topic.name.clone()).or_default().extend(again);
        }
    }
    twice
}

async fn offset(
    broker: &Broker,
    version: i16,
    topic: Option<&Topic>,
    wanted: ListOffsetsPartition,
    isolation: Isolation,
) -> Result<ListOffsetsPartitionResponse, ErrorCode> {
    let topic = topic.ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let partition = match broker.partitions.partition(topic, wanted.partition_index) {
        Lookup::Here(partition) => partition,
        Lookup::Elsewhere => return Err(ErrorCode::NotLeaderOrFollower),
        Lookup::Unknown => return Err(ErrorCode::UnknownTopicOrPartition),
    };
    let offsets = partition.offsets().map_err(|error| code(version, &error))?;
    check_epoch(wanted.current_leader_epoch, offsets.epoch)?;
    let at = |offset: i64, epoch: i32| ListOffsetsPartitionResponse {
        offset,
        leader_epoch: epoch,
        ..ListOffsetsPartitionResponse::default()
    };
    match wanted.timestamp {
        LATEST => Ok(match isolation {
            Isolation::ReadUncommitted => at(offsets.high_watermark, offsets.epoch),
            Isolation::ReadCommitted => at(offsets.last_stable, offsets.epoch),
        }),
        EARLIEST => Ok(at(offsets.log_start, epoch_at(&partition, offsets.log_start))),
        EARLIEST_LOCAL if version >= 8 => Ok(at(offsets.log_start, epoch_at(&partition, offsets.log_start))),
        LATEST_TIERED if version >= 9 => Ok(at(-1, -1)),
        MAX_TIMESTAMP if version >= 7 => {
            found(version, partition, |partition| partition.offset_of_max_timestamp()).await
        }
        timestamp if timestamp >= 0 => {
            found(version, partition, move |partition| partition.offset_for_time(timestamp, isolation)).await
        }
        _ => Err(ErrorCode::UnsupportedVersion),
    }
}

/// The epoch under which the record at `offset` was or will be written.
fn epoch_at(partition: &Partition, offset: i64) -> i32 {
    let Ok(offsets) = partition.offsets() else { return -1 };
    let mut epoch = offsets.epoch;
    while epoch > 0 {
        // The epoch before ends where this one begins.
        match partition.end_offset_for_epoch(epoch - 1) {
            Ok(Some((before, end))) if end > offset => epoch = before,
            _ => break,
        }
    }
    epoch
}

async fn found(
    version: i16,
    partition: Arc<Partition>,
    look: impl FnOnce(&Partition) -> Result<Option<(i64, i64, i32)>, ReplicationError> + Send + 'static,
) -> Result<ListOffsetsPartitionResponse, ErrorCode> {
    let result = tokio::task::spawn_blocking(move || look(&partition)).await;
    let found = result.map_err(|_| ErrorCode::UnknownServerError)?.map_err(|error| code(version, &error))?;
    Ok(match found {
        Some((offset, timestamp, leader_epoch)) => ListOffsetsPartitionResponse {
            offset,
            timestamp,
            leader_epoch,
            ..ListOffsetsPartitionResponse::default()
        },
        None => ListOffsetsPartitionResponse::default(),
    })
}

/// A leader that does not serve yet is "not available" to clients that know the code.
fn code(version: i16, error: &ReplicationError) -> ErrorCode {
    match ErrorCode::from(error) {
        ErrorCode::OffsetNotAvailable if version < 5 => ErrorCode::LeaderNotAvailable,
        code => code,
    }
}
