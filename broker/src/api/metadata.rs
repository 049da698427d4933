//! Metadata (3), versions 0 to 13: brokers, and topics with their partitions' leaders.
//!
//! - A topic that does not exist is created where the broker, the request (v4 and later) and the request's form (topics named)
//!   allow it; the answer waits up to half a second for it to serve, else it is error 3 and the client asks again (M17).
//! - A partition without a serving leader stays in the list with error 5 and leader -1, so that keys keep their partition.
//! - v10 and v11 carry topic ids in the request, but Kafka serves them only from v12 on (KIP-516).
//! - A leader without the listener that a request came in on would be error 72 (5 before version 6). The one leader there is is this broker,
//!   which has it.
//! - Authorized operations: there is no authorizer, so all are allowed where they are asked for.

use std::{collections::HashSet, sync::Arc, time::Duration};

use replication::metadata::{MetadataImage, TopicInfo};
use tokio::time::Instant;

use super::{Broker, Context};
use crate::{
    partitions::Lookup,
    protocol::{
        ErrorCode, Str,
        messages::metadata::{
            MetadataBroker, MetadataPartition, MetadataRequest, MetadataResponse, MetadataTopic,
            OPERATIONS_NOT_ASKED,
        },
    },
    topics,
};

/// How long an answer waits for the topics that it creates; those for which nothing of it is left are created when the client
/// asks again, as it does.
const CREATION_WAIT: Duration = Duration::from_millis(500);
/// Bits of the operations on a topic: READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS.
const TOPIC_OPERATIONS: i32 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11;
/// Bits of the operations on the cluster: CREATE, ALTER, DESCRIBE, CLUSTER_ACTION, DESCRIBE_CONFIGS, ALTER_CONFIGS, IDEMPOTENT_WRITE.
pub(crate) const CLUSTER_OPERATIONS: i32 = 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12;

/// Answers a request.
pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: MetadataRequest,
) -> MetadataResponse {
    let version = context.version;
    let deadline = Instant::now() + CREATION_WAIT;
    let mut answered = Vec::new();
    match &request.topics {
        Some(named) if !(version == 0 && named.is_empty()) => {
            let mut seen = HashSet::new();
            for topic in named {
                // Named twice, answered once.
                if !seen.insert((topic.name.as_ref(), topic.topic_id)) {
                    continue;
                }
                let by_id = !topic.topic_id.is_nil();
                if version < 12 && (by_id || topic.name.is_none()) {
                    answered.push(MetadataTopic {
                        error_code: ErrorCode::InvalidRequest.number(),
                        name: Some(topic.name.clone().unwrap_or_default()),
                        topic_id: topic.topic_id,
                        ..MetadataTopic::default()
                    });
                } else if by_id {
                    let image = broker.node.metadata();
                    answered.push(match image.topics_by_id.get(&topic.topic_id) {
                        Some(info) => describe(broker, info, request.include_topic_authorized_operations),
                        None => MetadataTopic {
                            error_code: ErrorCode::UnknownTopicId.number(),
                            topic_id: topic.topic_id,
                            ..MetadataTopic::default()
                        },
                    });
                } else {
                    let name = topic.name.clone().unwrap_or_default();
                    answered.push(named_topic(broker, name, &request, deadline).await);
                }
            }
        }
        _ => {
            let image = broker.node.metadata();
            let include = request.include_topic_authorized_operations;
            answered.extend(image.topics.values().map(|info| describe(broker, info, include)));
        }
    }
    let image = broker.node.metadata();
    MetadataResponse {
        throttle_time_ms: 0,
        brokers: brokers(broker, &image, context),
        cluster_id: Some(Str::from(image.cluster_id.as_str())),
        controller_id: broker.config.node_id,
        topics: answered,
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            CLUSTER_OPERATIONS
        } else {
            OPERATIONS_NOT_ASKED
        },
        error_code: ErrorCode::None.number(),
    }
}

/// Brokers as clients of the listener reach them; one without an endpoint there is left out.
pub(crate) fn brokers(broker: &Broker, image: &MetadataImage, context: &Context) -> Vec<MetadataBroker> {
    let others = image.brokers.values().filter(|other| other.id != broker.config.node_id);
    let others = others.filter_map(|other| {
        let (host, port) = broker.reached(other, context.listener)?;
        Some(MetadataBroker { node_id: other.id, host, port, rack: other.rack.as_deref().map(Str::from) })
    });
    let own = &broker.endpoints[context.listener];
    let own = MetadataBroker {
        node_id: broker.config.node_id,
        host: Str::from(own.host.as_str()),
        port: i32::from(own.port),
        rack: broker.config.rack.as_deref().map(Str::from),
    };
    let mut brokers: Vec<_> = others.chain([own]).collect();
    brokers.sort_by_key(|broker| broker.node_id);
    brokers
}

/// A topic asked for by name, created where that is allowed.
async fn named_topic(
    broker: &Arc<Broker>,
    name: Str,
    request: &MetadataRequest,
    deadline: Instant,
) -> MetadataTopic {
    let include = request.include_topic_authorized_operations;
    let refused = |error: ErrorCode, name: Str| MetadataTopic {
        error_code: error.number(),
        is_internal: topics::is_internal(&name),
        name: Some(name),
        topic_authorized_operations: if include { TOPIC_OPERATIONS } else { OPERATIONS_NOT_ASKED },
        ..MetadataTopic::default()
    };
    if let Some(info) = broker.node.metadata().topics.get(name.as_str()) {
        return describe(broker, info, include);
    }
    if topics::name_error(&name).is_some() {
        return refused(ErrorCode::InvalidTopicException, name);
    }
    if !(request.allow_auto_topic_creation && broker.config.auto_create_topics) {
        return refused(ErrorCode::UnknownTopicOrPartition, name);
    }
    if topics::creation_error(&name).is_some() {
        return refused(ErrorCode::InvalidTopicException, name);
    }
    if Instant::now() >= deadline {
        return refused(ErrorCode::UnknownTopicOrPartition, name);
    }
    // In a task of its own: a client that goes away, or a wait that ends, leaves no topic half made.
    let creation = tokio::spawn({
        let (broker, name) = (Arc::clone(broker), name.clone());
        async move { topics::create_with_defaults(&broker, &name).await }
    });
    match tokio::time::timeout_at(deadline, creation).await {
        Ok(Ok(Ok(info))) => describe(broker, &info, include),
        Ok(Ok(Err(error))) => refused(ErrorCode::from(&error), name),
        Ok(Err(_)) | Err(_) => refused(ErrorCode::UnknownTopicOrPartition, name),
    }
}

fn describe(broker: &Broker, info: &Arc<TopicInfo>, include_operations: bool) -> MetadataTopic {
    let topic = broker.partitions.topic_by_id(info.id);
    let partitions = (0..).zip(&info.partitions).map(|(index, replicas)| {
        let serving = topic.as_ref().and_then(|topic| match broker.partitions.partition(topic, index) {
            Lookup::Here(partition) => partition.offsets().ok(),
            Lookup::Elsewhere | Lookup::Unknown => None,
        });
        let (error, leader, epoch) = match serving {
            Some(offsets) => (ErrorCode::None, broker.config.node_id, offsets.epoch),
            None => (ErrorCode::LeaderNotAvailable, -1, -1),
        };
        MetadataPartition {
            error_code: error.number(),
            partition_index: index,
            leader_id: leader,
            leader_epoch: epoch,
            replica_nodes: replicas.clone(),
            // Without a leader nobody knows; one replica is in sync with itself.
            isr_nodes: if leader < 0 { Vec::new() } else { replicas.clone() },
            offline_replicas: if leader < 0 { replicas.clone() } else { Vec::new() },
        }
    });
    MetadataTopic {
        error_code: ErrorCode::None.number(),
        name: Some(Str::from(&*info.name)),
        topic_id: info.id,
        is_internal: topics::is_internal(&info.name),
        partitions: partitions.collect(),
        topic_authorized_operations: if include_operations { TOPIC_OPERATIONS } else { OPERATIONS_NOT_ASKED },
    }
}
