//! OffsetForLeaderEpoch (23), versions 2 to 4: where an epoch ends, so that a client finds out whether what it read is
//! still there after a change of leader (KIP-101, KIP-320).
//!
//! Answered is the largest epoch at or below the one asked for, with its end; the current epoch ends at the log's end;
//! where no such epoch is known both are -1.

use std::sync::Arc;

use super::{Broker, Context, fetch::check_epoch};
use crate::{
    partitions::{Lookup, Topic},
    protocol::{
        ErrorCode,
        messages::offset_for_leader_epoch::{
            EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
            OffsetForLeaderPartition, OffsetForLeaderTopicResult,
        },
    },
};

/// Answers a request.
pub async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = request
        .topics
        .into_iter()
        .map(|topic| {
            let known = broker.partitions.topic(&topic.topic);
            let partitions = topic
                .partitions
                .iter()
                .map(|wanted| match end_offset(broker, known.as_deref(), wanted) {
                    Ok((leader_epoch, end_offset)) => EpochEndOffset {
                        partition: wanted.partition,
                        leader_epoch,
                        end_offset,
                        ..EpochEndOffset::default()
                    },
                    Err(code) => EpochEndOffset {
                        partition: wanted.partition,
                        error_code: code.number(),
                        ..EpochEndOffset::default()
                    },
                })
                .collect();
            OffsetForLeaderTopicResult { topic: topic.topic, partitions }
        })
        .collect();
    OffsetForLeaderEpochResponse { topics, ..OffsetForLeaderEpochResponse::default() }
}

fn end_offset(
    broker: &Broker,
    topic: Option<&Topic>,
    wanted: &OffsetForLeaderPartition,
) -> Result<(i32, i64), ErrorCode> {
    let topic = topic.ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let partition = match broker.partitions.partition(topic, wanted.partition) {
        Lookup::Here(partition) => partition,
        Lookup::Elsewhere => return Err(ErrorCode::NotLeaderOrFollower),
        Lookup::Unknown => return Err(ErrorCode::UnknownTopicOrPartition),
    };
    let offsets = partition.offsets().map_err(|error| ErrorCode::from(&error))?;
    check_epoch(wanted.current_leader_epoch, offsets.epoch)?;
    let known =
        partition.end_offset_for_epoch(wanted.leader_epoch).map_err(|error| ErrorCode::from(&error))?;
    Ok(match known {
        Some(known) if wanted.leader_epoch <= offsets.epoch => known,
        // Newer than anything known here, or older.
        _ => (-1, -1),
    })
}
