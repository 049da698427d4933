//! DeleteGroups (42), versions 0 to 2: removes empty groups with their offsets (KIP-229). Version 2 is flexible.

use std::sync::Arc;

use consumer_groups::{GroupError, Request, Response};

use super::{Broker, Context};
use crate::{
    protocol::{
        ErrorCode,
        messages::delete_groups::{DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse},
    },
    topics::CONSUMER_OFFSETS,
};

/// Answers a request.
pub async fn handle(broker: &Arc<Broker>, _: &Context, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group_id in request.groups_names {
        let error_code = match delete(broker, &group_id).await {
            Ok(()) => 0,
            Err(error) => ErrorCode::from(&error).number(),
        };
        results.push(DeletableGroupResult { group_id, error_code });
    }
    DeleteGroupsResponse { results, ..DeleteGroupsResponse::default() }
}

async fn delete(broker: &Broker, group_id: &str) -> Result<(), GroupError> {
    if broker.partitions.topic(CONSUMER_OFFSETS).is_none() {
        return Err(GroupError::GroupNotFound);
    }
    match broker.coordinators.ask(broker, group_id, Request::DeleteGroup(Arc::from(group_id))).await? {
        Response::DeleteGroup(result) => result,
        other => unreachable!("{other:?} to DeleteGroup"),
    }
}
