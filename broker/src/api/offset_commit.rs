//! OffsetCommit (8), versions 2 to 9: a group stores how far it has read.
//!
//! | version | brings |
//! | --- | --- |
//! | 2 to 4 | the client says how long the offsets are kept (KIP-211 ended it) |
//! | 6 | leader epochs (KIP-320) |
//! | 7 | static members (KIP-345) |
//! | 8 | flexible |
//! | 9 | an unknown group is told by 69 instead of 22 (KIP-848) |

use std::sync::Arc;

use consumer_groups::{
    GroupError, Request, Response,
    request::{OffsetCommit, PartitionCommit},
};

use super::{Broker, Context};
use crate::{
    partitions::Lookup,
    protocol::{
        ErrorCode,
        messages::offset_commit::{
            OffsetCommitRequest, OffsetCommitResponse, OffsetCommitResponsePartition,
            OffsetCommitResponseTopic,
        },
    },
};

/// Answers a request.
pub async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let mut answer = Answer::default();
    let mut offsets = Vec::new();
    for topic in &request.topics {
        let known = broker.partitions.topic(&topic.name);
        let name: Arc<str> = Arc::from(&*topic.name);
        let mut partitions = Vec::new();
        for partition in &topic.partitions {
            let here = known.as_ref().is_some_and(|known| {
                !matches!(broker.partitions.partition(known, partition.partition_index), Lookup::Unknown)
            });
            let error_code = if here { 0 } else { ErrorCode::UnknownTopicOrPartition.number() };
            if here {
                answer.places.push((answer.response.topics.len(), partitions.len()));
                offsets.push(PartitionCommit {
                    topic: Arc::clone(&name),
                    topic_id: known.as_ref().map(|known| known.info.id).unwrap_or_default(),
                    partition: partition.partition_index,
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch,
                    metadata: Arc::from(partition.committed_metadata.as_deref().unwrap_or_default()),
                });
            }
            partitions.push(OffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code,
            });
        }
        answer.response.topics.push(OffsetCommitResponseTopic { name: topic.name.clone(), partitions });
    }
    let commit = OffsetCommit {
        group_id: Arc::from(&*request.group_id),
        member_id: Arc::from(&*request.member_id),
        instance_id: request.group_instance_id.as_deref().map(Arc::from),
        generation: request.generation_id_or_member_epoch,
        knows_group_not_found: context.version >= 9,
        retention_ms: (context.version <= 4 && request.retention_time_ms >= 0)
            .then_some(request.retention_time_ms),
        offsets,
    };
    let asked = broker.coordinators.ask(broker, &request.group_id, Request::OffsetCommit(commit)).await;
    let results = match asked {
        Ok(Response::OffsetCommit(results)) => results,
        Ok(other) => unreachable!("{other:?} to OffsetCommit"),
        Err(error) => Err(error),
    };
    answer.finish(results)
}

/// The answer, and where in it the results of the coordinator go.
#[derive(Default)]
struct Answer {
    response: OffsetCommitResponse,
    places: Vec<(usize, usize)>,
}

impl Answer {
    fn finish(mut self, results: Result<Vec<Result<(), GroupError>>, GroupError>) -> OffsetCommitResponse {
        for (number, (topic, partition)) in self.places.iter().enumerate() {
            let error = match &results {
                Ok(results) => results.get(number).and_then(|result| result.as_ref().err()),
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                self.response.topics[*topic].partitions[*partition].error_code =
                    ErrorCode::from(error).number();
            }
        }
        self.response
    }
}
