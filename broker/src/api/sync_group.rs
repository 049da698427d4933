//! SyncGroup (14), versions 0 to 5: the leader hands in the assignment, every member gets its part.
//!
//! Version 3 brings static members (KIP-345), 4 is flexible, 5 carries protocol type and name, which must agree.

use std::sync::Arc;

use bytes::Bytes;
use consumer_groups::{
    GroupError, Request, Response,
    request::{SyncGroup, SyncedGroup},
};

use super::{Broker, Context};
use crate::protocol::{
    ErrorCode, Str,
    messages::sync_group::{SyncGroupRequest, SyncGroupResponse},
};

/// Answers a request, once the leader has handed in the assignment.
pub async fn handle(broker: &Arc<Broker>, _: &Context, request: SyncGroupRequest) -> SyncGroupResponse {
    match sync(broker, request).await {
        Ok(synced) => SyncGroupResponse {
            protocol_type: synced.protocol_type.as_deref().map(Str::from),
            protocol_name: synced.protocol.as_deref().map(Str::from),
            assignment: synced.assignment,
            ..SyncGroupResponse::default()
        },
        Err(error) => {
            SyncGroupResponse { error_code: ErrorCode::from(&error).number(), ..SyncGroupResponse::default() }
        }
    }
}

async fn sync(broker: &Broker, request: SyncGroupRequest) -> Result<SyncedGroup, GroupError> {
    let sync = SyncGroup {
        group_id: Arc::from(&*request.group_id),
        member_id: Arc::from(&*request.member_id),
        instance_id: request.group_instance_id.as_deref().map(Arc::from),
        generation: request.generation_id,
        protocol_type: request.protocol_type.as_deref().map(Arc::from),
        protocol: request.protocol_name.as_deref().map(Arc::from),
        assignments: request
            .assignments
            .iter()
            .map(|given| (Arc::from(&*given.member_id), Bytes::copy_from_slice(&given.assignment)))
            .collect(),
    };
    // Nothing of the frame is kept while the leader is waited for.
    drop(request);
    let group_id = Arc::clone(&sync.group_id);
    match broker.coordinators.ask(broker, &group_id, Request::SyncGroup(sync)).await? {
        Response::SyncGroup(result) => result,
        other => unreachable!("{other:?} to SyncGroup"),
    }
}
