//! Heartbeat (12), versions 0 to 4: keeps a member alive, and tells it when to join again. Version 3 brings static
//! members (KIP-345), 4 is flexible.

use std::sync::Arc;

use consumer_groups::{GroupError, Request, Response, request::Heartbeat};

use super::{Broker, Context};
use crate::protocol::{
    ErrorCode,
    messages::heartbeat::{HeartbeatRequest, HeartbeatResponse},
};

/// Answers a request.
pub async fn handle(broker: &Arc<Broker>, _: &Context, request: HeartbeatRequest) -> HeartbeatResponse {
    let error_code = match beat(broker, &request).await {
        Ok(()) => 0,
        Err(error) => ErrorCode::from(&error).number(),
    };
    HeartbeatResponse { error_code, ..HeartbeatResponse::default() }
}

async fn beat(broker: &Broker, request: &HeartbeatRequest) -> Result<(), GroupError> {
    let heartbeat = Heartbeat {
        group_id: Arc::from(&*request.group_id),
        member_id: Arc::from(&*request.member_id),
        instance_id: request.group_instance_id.as_deref().map(Arc::from),
        generation: request.generation_id,
    };
    match broker.coordinators.ask(broker, &request.group_id, Request::Heartbeat(heartbeat)).await {
        Ok(Response::Heartbeat(result)) => result,
        Ok(other) => unreachable!("{other:?} to Heartbeat"),
        // As in Kafka: while the group is being loaded its members have nothing to fear.
        Err(GroupError::Loading) => Ok(()),
        Err(error) => Err(error),
    }
}
