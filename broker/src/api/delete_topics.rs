//! DeleteTopics (20), versions 0 to 6: by name, from v6 also by id (KIP-516).
//!
//! Fetches and produces of a deleted topic fail at once; its files go in the background.

use std::{collections::HashMap, sync::Arc, time::Duration};

use replication::metadata::MetadataImage;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Broker, Context};
use crate::protocol::{
    ErrorCode, Str,
    messages::delete_topics::{
        DeletableTopicResult, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
    },
};

/// Answers a request.
pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let wanted: Vec<DeleteTopicState> = if context.version >= 6 {
        request.topics
    } else {
        let by_name = |name| DeleteTopicState { name: Some(name), topic_id: Uuid::nil() };
        request.topic_names.into_iter().map(by_name).collect()
    };
    let disabled =
        if context.version < 3 { ErrorCode::InvalidRequest } else { ErrorCode::TopicDeletionDisabled };
    let deadline = Instant::now() + Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let image = broker.node.metadata();
    let mut named: HashMap<(Option<Str>, Uuid), Vec<DeleteTopicState>> = HashMap::new();
    for topic in &wanted {
        named.entry(identity(topic, &image)).or_default().push(topic.clone());
    }
    let mut responses = Vec::new();
    for topic in wanted {
        // What is named twice, or once by its name and once by its id, is answered once.
        let key = identity(&topic, &image);
        let Some(same) = named.remove(&key) else { continue };
        let result = if !broker.config.delete_topics {
            Err((disabled, "delete.topic.enable is false".to_owned()))
        } else if same.len() > 1 {
            Err((ErrorCode::InvalidRequest, "the request names this topic twice".to_owned()))
        } else {
            delete(broker, &topic, deadline).await
        };
        let (name, topic_id, error) = match result {
            Ok((name, id)) => (Some(name), id, None),
            Err(refusal) if same.iter().any(|other| *other != topic) => (key.0, key.1, Some(refusal)),
            Err(refusal) => (topic.name, topic.topic_id, Some(refusal)),
        };
        let (error, message) = error.unzip();
        responses.push(DeletableTopicResult {
            name,
            topic_id,
            error_code: error.unwrap_or(ErrorCode::None).number(),
            error_message: message.map(Str::from),
        });
    }
    DeleteTopicsResponse { throttle_time_ms: 0, responses }
}

/// Name and id of the topic that is meant; as the request has them where there is no such topic, or both are given.
fn identity(topic: &DeleteTopicState, image: &MetadataImage) -> (Option<Str>, Uuid) {
    let found = match (&topic.name, topic.topic_id.is_nil()) {
        (Some(name), true) => image.topics.get(name.as_str()),
        (None, false) => image.topics_by_id.get(&topic.topic_id),
        _ => None,
    };
    match found {
        Some(info) => (Some(Str::from(&*info.name)), info.id),
        None => (topic.name.clone(), topic.topic_id),
    }
}

async fn delete(
    broker: &Arc<Broker>,
    topic: &DeleteTopicState,
    deadline: Instant,
) -> Result<(Str, Uuid), (ErrorCode, String)> {
    let image = broker.node.metadata();
    let info = match (&topic.name, topic.topic_id.is_nil()) {
        (Some(name), true) => image
            .topics
            .get(name.as_str())
            .ok_or((ErrorCode::UnknownTopicOrPartition, format!("there is no topic '{name}'")))?,
        (None, false) => image
            .topics_by_id
            .get(&topic.topic_id)
            .ok_or((ErrorCode::UnknownTopicId, "there is no topic of this id".to_owned()))?,
        _ => {
            let reason = "a topic is named either by its name or by its id".to_owned();
            return Err((ErrorCode::InvalidRequest, reason));
        }
    };
    // In a task of its own: a deletion that began goes on when the client leaves or its time is over.
    let deletion = tokio::spawn({
        let (broker, id) = (Arc::clone(broker), info.id);
        async move {
            let deleted = broker.node.delete_topic(id).await;
            broker.coordinators.topics_changed(&broker);
            deleted
        }
    });
    match tokio::time::timeout_at(deadline, deletion).await {
        Ok(Ok(Ok(()))) => Ok((Str::from(&*info.name), info.id)),
        Ok(Ok(Err(error))) => Err((ErrorCode::from(&error), error.to_string())),
        Err(_) => {
            let reason = "not gone within the request's time; it will be later".to_owned();
            Err((ErrorCode::RequestTimedOut, reason))
        }
        Ok(Err(_)) => {
            Err((ErrorCode::UnknownServerError, "the deletion ended early; see the log".to_owned()))
        }
    }
}
