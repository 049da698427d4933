//! CreateTopics (19), versions 0 to 7: each topic succeeds or fails alone, and success means that every partition serves.
//!
//! - Partitions or replication -1: the broker's defaults (KIP-464). Assignments want both at -1.
//! - v5 and later answer with the configurations (KIP-525), v7 with the topic's id (KIP-516).
//! - More than [`MOST_PARTITIONS`] partitions in one request are refused as a whole.
//! - A topic that is not ready at `timeout_ms` gets error 7; its creation goes on.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use log_store::config::{LogConfig, TopicSetting};
use replication::metadata::{MetadataError, NewTopic};

use super::{Broker, Context, describe_configs};
use crate::{
    protocol::{
        ErrorCode, Str,
        messages::create_topics::{
            CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest,
            CreateTopicsResponse,
        },
    },
    topics,
};

/// Kafka's limit for one request.
const MOST_PARTITIONS: i64 = 10_000;

/// Why a topic is not created: a code and what to tell the user.
type Refusal = (ErrorCode, String);

/// Answers a request.
pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let mut named = HashMap::new();
    for topic in &request.topics {
        *named.entry(topic.name.clone()).or_insert(0) += 1;
    }
    let asked: i64 = request.topics.iter().map(|topic| asked_partitions(broker, topic)).sum();
    let mut answered = HashSet::new();
    let mut results = Vec::new();
    let mut accepted = Vec::new();
    for topic in &request.topics {
        if !answered.insert(topic.name.clone()) {
            continue;
        }
        let checked = if asked > MOST_PARTITIONS {
            Err((
                ErrorCode::PolicyViolation,
                format!("{asked} partitions in one request; {MOST_PARTITIONS} are the most: split it"),
            ))
        } else if named[&topic.name] > 1 {
            Err((ErrorCode::InvalidRequest, "the request names this topic twice".to_owned()))
        } else {
            check(broker, topic)
        };
        match checked {
            Ok(new) => accepted.push(new),
            Err(refusal) => results.push(refused(topic.name.clone(), refusal)),
        }
    }
    results.extend(create(broker, accepted, &request).await);
    if context.version < 1 {
        results.iter_mut().for_each(|result| result.error_message = None);
    }
    CreateTopicsResponse { throttle_time_ms: 0, topics: results }
}

fn asked_partitions(broker: &Broker, topic: &CreatableTopic) -> i64 {
    if !topic.assignments.is_empty() {
        return topic.assignments.len() as i64;
    }
    match topic.num_partitions {
        -1 => i64::from(broker.config.num_partitions),
        partitions => i64::from(partitions.max(0)),
    }
}

/// Checks everything that needs no look at other topics of the request.
fn check(broker: &Broker, topic: &CreatableTopic) -> Result<NewTopic, Refusal> {
    if let Some(reason) = topics::creation_error(&topic.name) {
        return Err((ErrorCode::InvalidTopicException, reason));
    }
    let image = broker.node.metadata();
    if image.topics.contains_key(topic.name.as_str()) {
        return Err((ErrorCode::TopicAlreadyExists, format!("Topic '{}' already exists.", topic.name)));
    }
    let partitions =
        if topic.assignments.is_empty() { placed(broker, topic)? } else { assigned(broker, topic)? };
    let mut configs = BTreeMap::new();
    for config in &topic.configs {
        let Some(value) = &config.value else {
            return Err((ErrorCode::InvalidConfig, format!("'{}' has no value", config.name)));
        };
        TopicSetting::find(&config.name)
            .and_then(|setting| setting.check(value))
            .map_err(|error| (ErrorCode::InvalidConfig, error.to_string()))?;
        configs.insert(config.name.to_string(), value.to_string());
    }
    LogConfig::from_settings(&configs, &LogConfig::default())
        .map_err(|error| (ErrorCode::InvalidConfig, error.to_string()))?;
    Ok(NewTopic { name: topic.name.to_string(), partitions, configs })
}

/// Partitions by count and replication factor, spread over the brokers.
fn placed(broker: &Broker, topic: &CreatableTopic) -> Result<Vec<Vec<i32>>, Refusal> {
    let count = match topic.num_partitions {
        -1 => broker.config.num_partitions,
        count if count > 0 => count,
        count => {
            return Err((
                ErrorCode::InvalidPartitions,
                format!("{count} partitions: the number must be above 0, or -1 for the default"),
            ));
        }
    };
    let brokers: Vec<i32> = broker.node.metadata().brokers.keys().copied().collect();
    let factor = match topic.replication_factor {
        -1 => broker.config.default_replication_factor,
        factor if factor > 0 => factor,
        factor => {
            return Err((
                ErrorCode::InvalidReplicationFactor,
                format!("replication factor {factor}: it must be above 0, or -1 for the default"),
            ));
        }
    };
    topics::place(&brokers, count, factor).map_err(|error| (ErrorCode::from(&error), error.to_string()))
}

/// Partitions as the request assigns them.
fn assigned(broker: &Broker, topic: &CreatableTopic) -> Result<Vec<Vec<i32>>, Refusal> {
    if topic.num_partitions != -1 || topic.replication_factor != -1 {
        return Err((
            ErrorCode::InvalidRequest,
            "an assignment says both numbers: partitions and replication factor must be -1 beside it"
                .to_owned(),
        ));
    }
    let refuse = |reason: String| Err((ErrorCode::InvalidReplicaAssignment, reason));
    let mut assignments: Vec<_> = topic.assignments.iter().collect();
    assignments.sort_by_key(|assignment| assignment.partition_index);
    let image = broker.node.metadata();
    let mut partitions = Vec::with_capacity(assignments.len());
    for (expected, assignment) in (0..).zip(assignments) {
        let replicas = &assignment.broker_ids;
        if assignment.partition_index != expected {
            return refuse(format!(
                "partitions are numbered from 0 without gaps; {expected} is missing or there twice"
            ));
        }
        if replicas.is_empty() || replicas.iter().collect::<HashSet<_>>().len() != replicas.len() {
            return refuse(format!("partition {expected} names no broker, or one twice"));
        }
        if let Some(unknown) = replicas.iter().find(|id| !image.brokers.contains_key(id)) {
            return refuse(format!("there is no broker {unknown}"));
        }
        if partitions.first().is_some_and(|first: &Vec<i32>| first.len() != replicas.len()) {
            return refuse("all partitions must have the same number of replicas".to_owned());
        }
        partitions.push(replicas.clone());
    }
    Ok(partitions)
}

/// Creates what passed the checks, all at once, within the request's time.
async fn create(
    broker: &Arc<Broker>,
    accepted: Vec<NewTopic>,
    request: &CreateTopicsRequest,
) -> Vec<CreatableTopicResult> {
    if accepted.is_empty() {
        return Vec::new();
    }
    let validate_only = request.validate_only;
    // In a task of its own: it goes on when the client leaves or its time is over.
    let creation = tokio::spawn({
        let (broker, accepted) = (Arc::clone(broker), accepted.clone());
        async move { topics::create_within_limits(&broker, accepted, validate_only).await }
    });
    let limit = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let created = tokio::time::timeout(limit, creation).await;
    let Ok(Ok(created)) = created else {
        let reason = "not ready within the request's time; it will be there later";
        let late = accepted.into_iter();
        return late
            .map(|new| refused(Str::from(new.name), (ErrorCode::RequestTimedOut, reason.to_owned())))
            .collect();
    };
    let results = accepted.into_iter().zip(created);
    results
        .map(|(new, created)| match created {
            Ok(info) => {
                let configs = describe_configs::topic_entries(broker, &new.configs, None).into_iter();
                CreatableTopicResult {
                    topic_id: if validate_only { uuid::Uuid::nil() } else { info.id },
                    num_partitions: i32::try_from(new.partitions.len()).unwrap_or(i32::MAX),
                    replication_factor: new.partitions.first().map_or(1, |replicas| replicas.len() as i16),
                    configs: Some(
                        configs
                            .map(|entry| CreatableTopicConfigs {
                                name: entry.name,
                                value: entry.value,
                                read_only: false,
                                config_source: entry.source as i8,
                                is_sensitive: false,
                            })
                            .collect(),
                    ),
                    name: Str::from(new.name),
                    ..CreatableTopicResult::default()
                }
            }
            Err(MetadataError::TopicExists(name)) => {
                let reason = format!("Topic '{name}' already exists.");
                refused(Str::from(name), (ErrorCode::TopicAlreadyExists, reason))
            }
            Err(error) => refused(Str::from(new.name), (ErrorCode::from(&error), error.to_string())),
        })
        .collect()
}

fn refused(name: Str, (error, reason): Refusal) -> CreatableTopicResult {
    CreatableTopicResult {
        name,
        error_code: error.number(),
        error_message: Some(Str::from(reason)),
        configs: Some(Vec::new()),
        ..CreatableTopicResult::default()
    }
}
