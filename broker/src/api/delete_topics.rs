//! DeleteTopics (20), versions 0 to 6: by name, from v6 also by id (KIP-516).
//!
//! Fetches and produces of a deleted topic fail at once; its files go in the background.

use std::{collections::HashMap, sync::Arc};

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
    let mut times: HashMap<(Option<Str>, Uuid), usize> = HashMap::new();
    for topic in &wanted {
        *times.entry((topic.name.clone(), topic.topic_id)).or_default() += 1;
    }
    let mut responses = Vec::new();
    for topic in wanted {
        // What is named twice is answered once.
        let Some(count) = times.remove(&(topic.name.clone(), topic.topic_id)) else { continue };
        let result = if !broker.config.delete_topics {
            Err((disabled, "delete.topic.enable is false".to_owned()))
        } else if count > 1 {
            Err((ErrorCode::InvalidRequest, "the request names this topic twice".to_owned()))
        } else {
            delete(broker, &topic).await
        };
        let (name, topic_id, error) = match result {
            Ok((name, id)) => (Some(name), id, None),
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

async fn delete(broker: &Arc<Broker>, topic: &DeleteTopicState) -> Result<(Str, Uuid), (ErrorCode, String)> {
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
    // In a task of its own: a deletion that began goes on when the client leaves.
    let deletion = tokio::spawn({
        let (broker, id) = (Arc::clone(broker), info.id);
        async move {
            let deleted = broker.node.delete_topic(id).await;
            broker.coordinators.topics_changed(&broker);
            deleted
        }
    });
    match deletion.await {
        Ok(Ok(())) => Ok((Str::from(&*info.name), info.id)),
        Ok(Err(error)) => Err((ErrorCode::from(&error), error.to_string())),
        Err(_) => Err((ErrorCode::UnknownServerError, "the deletion ended early; see the log".to_owned())),
    }
}
