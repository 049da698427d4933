//! OffsetFetch (9), versions 1 to 9: how far groups have read.
//!
//! | version | brings |
//! | --- | --- |
//! | 2 | null topics: all that is stored; an error for the whole |
//! | 5 | leader epochs (KIP-320) |
//! | 6 | flexible |
//! | 7 | `require_stable` (KIP-447): without transactions everything is |
//! | 8 | several groups (KIP-709) |
//!
//! A partition without a commit has offset -1 and no error. What is named twice is answered once: the note of a commit may be a
//! thousand times as large as the partition's number.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use consumer_groups::{
    GroupError, Request, Response,
    request::{CommittedOffset, OffsetFetch, OffsetsByTopic},
};

use super::{Broker, Context};
use crate::protocol::{
    ErrorCode, Str,
    messages::offset_fetch::{
        OffsetFetchRequest, OffsetFetchResponse, OffsetFetchResponseGroup, OffsetFetchResponsePartition,
        OffsetFetchResponsePartitions, OffsetFetchResponseTopic, OffsetFetchResponseTopics,
    },
};

/// Topics asked for with their partitions; none: all.
type Asked = Option<Vec<(Arc<str>, Vec<i32>)>>;

/// What a request asked of one group so far.
#[derive(Default)]
struct Seen {
    all: bool,
    partitions: HashMap<Arc<str>, HashSet<i32>>,
}

impl Seen {
    /// What of it was not asked for before; none: nothing.
    fn rest(&mut self, asked: Asked) -> Option<Asked> {
        let Some(mut topics) = asked else {
            return (!std::mem::replace(&mut self.all, true)).then_some(None);
        };
        topics.retain_mut(|(name, partitions)| {
            let asked_for_none = partitions.is_empty();
            let seen = self.partitions.entry(Arc::clone(name)).or_default();
            partitions.retain(|partition| seen.insert(*partition));
            asked_for_none || !partitions.is_empty()
        });
        (!topics.is_empty()).then_some(Some(topics))
    }
}

/// Answers a request.
pub async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    if context.version >= 8 {
        let mut groups = Vec::with_capacity(request.groups.len());
        let mut seen: HashMap<Str, Seen> = HashMap::new();
        for group in request.groups {
            let asked: Asked = group.topics.map(|topics| {
                topics.into_iter().map(|topic| (Arc::from(&*topic.name), topic.partition_indexes)).collect()
            });
            // A group may be named again with other topics, as Kafka lets it.
            let first = !seen.contains_key(&group.group_id);
            let rest = seen.entry(group.group_id.clone()).or_default().rest(asked);
            let asked = match rest {
                Some(asked) => asked,
                None if first => Some(Vec::new()),
                None => continue,
            };
            groups.push(match fetch(broker, &group.group_id, asked).await {
                Ok(topics) => OffsetFetchResponseGroup { group_id: group.group_id, topics, error_code: 0 },
                Err(error) => OffsetFetchResponseGroup {
                    group_id: group.group_id,
                    topics: Vec::new(),
                    error_code: ErrorCode::from(&error).number(),
                },
            });
        }
        return OffsetFetchResponse { groups, ..OffsetFetchResponse::default() };
    }
    let asked: Asked = request.topics.map(|topics| {
        topics.into_iter().map(|topic| (Arc::from(&*topic.name), topic.partition_indexes)).collect()
    });
    let asked = Seen::default().rest(asked).unwrap_or_else(|| Some(Vec::new()));
    match fetch(broker, &request.group_id, asked.clone()).await {
        Ok(topics) => {
            let topics = topics.into_iter().map(single).collect();
            OffsetFetchResponse { topics, ..OffsetFetchResponse::default() }
        }
        Err(error) => {
            let code = ErrorCode::from(&error).number();
            // Version 1 has no error for the whole: each partition carries it.
            let topics = match (context.version, asked) {
                (..=1, Some(asked)) => {
                    asked.into_iter().map(|(name, partitions)| failed(&name, partitions, code)).collect()
                }
                _ => Vec::new(),
            };
            OffsetFetchResponse { topics, error_code: code, ..OffsetFetchResponse::default() }
        }
    }
}

async fn fetch(
    broker: &Broker,
    group_id: &str,
    asked: Asked,
) -> Result<Vec<OffsetFetchResponseTopics>, GroupError> {
    let fetch = OffsetFetch { group_id: Arc::from(group_id), topics: asked.clone() };
    let stored = match broker.coordinators.ask(broker, group_id, Request::OffsetFetch(fetch)).await? {
        Response::OffsetFetch(stored) => stored,
        other => unreachable!("{other:?} to OffsetFetch"),
    };
    Ok(match asked {
        Some(asked) => asked.into_iter().map(|(name, partitions)| some(&stored, &name, partitions)).collect(),
        None => stored
            .iter()
            .map(|(name, partitions)| OffsetFetchResponseTopics {
                name: Str::from(&**name),
                partitions: partitions
                    .iter()
                    .map(|(index, stored)| partition(*index, Some(stored)))
                    .collect(),
            })
            .collect(),
    })
}

fn some(stored: &OffsetsByTopic, name: &Arc<str>, partitions: Vec<i32>) -> OffsetFetchResponseTopics {
    let of_topic = stored.get(name);
    OffsetFetchResponseTopics {
        name: Str::from(&**name),
        partitions: partitions
            .into_iter()
            .map(|index| partition(index, of_topic.and_then(|stored| stored.get(&index))))
            .collect(),
    }
}

fn partition(partition_index: i32, stored: Option<&CommittedOffset>) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: stored.map_or(-1, |stored| stored.offset),
        committed_leader_epoch: stored.map_or(-1, |stored| stored.leader_epoch),
        metadata: Some(stored.map(|stored| Str::from(&*stored.metadata)).unwrap_or_default()),
        error_code: 0,
    }
}

fn single(topic: OffsetFetchResponseTopics) -> OffsetFetchResponseTopic {
    OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic
            .partitions
            .into_iter()
            .map(|partition| OffsetFetchResponsePartition {
                partition_index: partition.partition_index,
                committed_offset: partition.committed_offset,
                committed_leader_epoch: partition.committed_leader_epoch,
                metadata: partition.metadata,
                error_code: partition.error_code,
            })
            .collect(),
    }
}

fn failed(name: &str, partitions: Vec<i32>, error_code: i16) -> OffsetFetchResponseTopic {
    let mut topic = single(OffsetFetchResponseTopics {
        name: Str::from(name),
        partitions: partitions.into_iter().map(|index| partition(index, None)).collect(),
    });
    for partition in &mut topic.partitions {
        partition.error_code = error_code;
    }
    topic
}
