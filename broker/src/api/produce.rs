//! Produce (0), versions 3 to 13: record batches for partitions.
//!
//! | version | brings |
//! | --- | --- |
//! | 3 | record batch v2 (KIP-98); the first that is served |
//! | 5 | log start offset in the answer (KIP-207) |
//! | 7 | zstd (KIP-110) |
//! | 8 | record errors (KIP-467) |
//! | 9 | flexible |
//! | 10 | the current leader where this is not it (KIP-951) |
//! | 13 | topic ids (KIP-516) |
//!
//! Every batch is checked, submitted in the order of the request, and answered by itself. Not here: transactions
//! (a transactional id is refused with 53), quotas.

use std::{sync::Arc, time::Duration};

use log_store::{
    batch::{self, BatchError, ProduceRules},
    config::LogConfig,
};
use replication::{Acks, Completion, CompletionQueue};
use tokio::time::Instant;

use super::{Broker, Context};
use crate::{
    connection::Close,
    partitions::{Lookup, Topic, TopicCounters},
    protocol::{
        ErrorCode, Str,
        messages::produce::{
            LeaderIdAndEpoch, NodeEndpoint, PartitionData, PartitionResponse, ProduceRequest,
            ProduceResponse, RecordError, TopicData, TopicResponse,
        },
    },
};

mod pending;

pub use pending::PendingProduce;
use pending::{Place, refuse};

/// As in Kafka, only who waits for all replicas is told that it took too long: the batch of another is there, and a client
/// told otherwise would send it again.
const NO_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);
/// The client id whose writes to internal topics are taken, as in Kafka.
const ADMIN_CLIENT_ID: &str = "__admin_client";

/// Checks and submits every batch of a request.
///
/// # Errors
/// Never so far: even a produce without acks is closed only once it failed (see [`PendingProduce::into_answer`]).
pub fn start(
    broker: &Arc<Broker>,
    context: &Context,
    correlation_id: i32,
    request: ProduceRequest,
    number: u64,
    completions: &Arc<CompletionQueue>,
) -> Result<PendingProduce, Close> {
    let acks = match request.acks {
        -1 => Some(Acks::All),
        0 => Some(Acks::None),
        1 => Some(Acks::Leader),
        _ => None,
    };
    let now = Instant::now();
    let mut produce = PendingProduce {
        api: 0,
        started: now,
        deadline: now,
        timeout: match acks {
            Some(Acks::All) | None => Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0)),
            Some(Acks::None | Acks::Leader) => NO_TIMEOUT,
        },
        share: None,
        version: context.version,
        listener: context.listener,
        correlation_id,
        answered: request.acks != 0,
        response: ProduceResponse::default(),
        places: Vec::new(),
        unfinished: 0,
    };
    let refused = match (acks, &request.transactional_id) {
        (None, _) => Some((
            ErrorCode::InvalidRequiredAcks,
            Str::from(format!("acks = {} is none of -1, 0 and 1", request.acks)),
        )),
        (_, Some(_)) => Some((
            ErrorCode::TransactionalIdAuthorizationFailed,
            Str::from_static("this broker has no transactions"),
        )),
        _ => None,
    };
    let submission =
        Submission { broker, context, acks: acks.unwrap_or(Acks::All), refused, number, completions };
    for topic in request.topics {
        submission.topic(topic, &mut produce);
    }
    Ok(produce)
}

/// What is alike for all batches of a request.
struct Submission<'a> {
    broker: &'a Arc<Broker>,
    context: &'a Context,
    acks: Acks,
    refused: Option<(ErrorCode, Str)>,
    number: u64,
    completions: &'a Arc<CompletionQueue>,
}

impl Submission<'_> {
    fn topic(&self, data: TopicData, produce: &mut PendingProduce) {
        let by_id = self.context.version >= 13;
        // Messages do not repeat the name: they stand in the answer once for each partition that the client thinks up.
        let topic = match &self.refused {
            Some(refused) => Err(refused.clone()),
            None if by_id => self
                .broker
                .partitions
                .topic_by_id(data.topic_id)
                .ok_or((ErrorCode::UnknownTopicId, Str::from_static("there is no topic of this id"))),
            None => self.broker.partitions.topic(&data.name).ok_or((
                ErrorCode::UnknownTopicOrPartition,
                Str::from_static("there is no topic of this name"),
            )),
        };
        let index = produce.response.responses.len();
        produce.response.responses.push(TopicResponse {
            name: data.name,
            topic_id: data.topic_id,
            partitions: Vec::with_capacity(data.partitions.len()),
        });
        match topic {
            Ok(topic) => {
                let rules = ProduceRules::new(&topic.config, self.context.version >= 7);
                for partition in data.partitions {
                    let answer = self.partition(&topic, &rules, index, partition, produce);
                    produce.response.responses[index].partitions.push(answer);
                }
            }
            Err((code, message)) => {
                for partition in data.partitions {
                    let mut answer =
                        PartitionResponse { index: partition.index, ..PartitionResponse::default() };
                    refuse(&mut answer, code, message.clone());
                    produce.response.responses[index].partitions.push(answer);
                }
            }
        }
    }

    /// Submits one batch; the answer is the final one where it was refused.
    fn partition(
        &self,
        topic: &Arc<Topic>,
        rules: &ProduceRules,
        topic_index: usize,
        data: PartitionData,
        produce: &mut PendingProduce,
    ) -> PartitionResponse {
        TopicCounters::add(&topic.counters.produce_requests, 1);
        let mut answer = PartitionResponse { index: data.index, ..PartitionResponse::default() };
        let mut fail = |code: ErrorCode, message: Str| {
            TopicCounters::add(&topic.counters.failed_produce_requests, 1);
            refuse(&mut answer, code, message);
        };
        if topic.is_internal() && &*self.context.client_id != ADMIN_CLIENT_ID {
            let message = Str::from_static("clients may not write to an internal topic");
            fail(ErrorCode::InvalidTopicException, message);
            return answer;
        }
        let partition = match self.broker.partitions.partition(topic, data.index) {
            Lookup::Here(partition) => partition,
            Lookup::Elsewhere => {
                let message = Str::from_static("this broker does not lead the partition");
                fail(ErrorCode::NotLeaderOrFollower, message);
                return answer;
            }
            Lookup::Unknown => {
                let message = Str::from_static("the topic has no such partition");
                fail(ErrorCode::UnknownTopicOrPartition, message);
                return answer;
            }
        };
        if self.acks == Acks::All && !enough_replicas(&topic.config, topic, data.index) {
            fail(
                ErrorCode::NotEnoughReplicas,
                Str::from(format!(
                    "min.insync.replicas = {} is more than there are replicas",
                    topic.config.min_insync_replicas
                )),
            );
            return answer;
        }
        let batch = match batch::validate(data.records.unwrap_or_default(), rules, self.broker.clock.now_ms())
        {
            Ok(batch) => batch,
            Err(error) => {
                fail(ErrorCode::from(&error), Str::from(error.to_string()));
                answer.record_errors = record_errors(&error);
                return answer;
            }
        };
        let place = produce.places.len();
        produce.places.push(Place {
            topic: topic_index,
            partition: produce.response.responses[topic_index].partitions.len(),
            finished: false,
            counted: Arc::clone(topic),
            bytes: batch.size() as u64,
            records: u64::from(batch.record_count().unsigned_abs()),
        });
        produce.unfinished += 1;
        let token = PendingProduce::token(self.number, place);
        partition.append(batch, self.acks, Completion::Queue(Arc::clone(self.completions), token));
        answer
    }
}

/// Every replica of a group with one voter is in sync while it serves.
fn enough_replicas(config: &LogConfig, topic: &Topic, partition: i32) -> bool {
    let replicas = usize::try_from(partition)
        .ok()
        .and_then(|index| topic.info.partitions.get(index))
        .map_or(0, Vec::len);
    config.min_insync_replicas as usize <= replicas
}

fn record_errors(error: &BatchError) -> Vec<RecordError> {
    let BatchError::Refused(records) = error else { return Vec::new() };
    records
        .iter()
        .map(|record| RecordError {
            batch_index: record.index,
            message: Some(Str::from(record.reason.to_string())),
        })
        .collect()
}

/// From version 10 on an answer of 6 names the leader and where it listens.
fn name_leaders(broker: &Broker, version: i16, listener: usize, response: &mut ProduceResponse) {
    if version < 10 {
        return;
    }
    let not_leader = ErrorCode::NotLeaderOrFollower.number();
    let mut named = std::collections::BTreeSet::new();
    for topic in &mut response.responses {
        if topic.partitions.iter().all(|partition| partition.error_code != not_leader) {
            continue;
        }
        let known = match version {
            13.. => broker.partitions.topic_by_id(topic.topic_id),
            _ => broker.partitions.topic(&topic.name),
        };
        let Some(known) = known else { continue };
        for partition in topic.partitions.iter_mut().filter(|partition| partition.error_code == not_leader) {
            if let Some(leader) = broker.partitions.leader(&known, partition.index) {
                partition.current_leader = LeaderIdAndEpoch { leader_id: leader.0, leader_epoch: leader.1 };
                named.insert(leader.0);
            }
        }
    }
    response.node_endpoints = node_endpoints(broker, listener, &named);
}

/// Where brokers are reached from a listener, as answers of 6 tell it.
pub fn node_endpoints(
    broker: &Broker,
    listener: usize,
    nodes: &std::collections::BTreeSet<i32>,
) -> Vec<NodeEndpoint> {
    if nodes.is_empty() {
        return Vec::new();
    }
    let image = broker.node.metadata();
    nodes
        .iter()
        .filter_map(|node| image.brokers.get(node))
        .filter_map(|info| {
            let (host, port) = broker.reached(info, listener)?;
            Some(NodeEndpoint { node_id: info.id, host, port, rack: info.rack.as_deref().map(Str::from) })
        })
        .collect()
}
