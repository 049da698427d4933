//! FindCoordinator (10), versions 0 to 5: where the coordinator of a group is.
//!
//! Version 4 asks for several keys at once (KIP-699). The first question makes `__consumer_offsets`, and is answered once
//! the topic serves. Coordinators of transactions do not exist: key type 1 gets 53, after which no client tries again.

use std::sync::Arc;

use super::{Broker, Context};
use crate::{
    protocol::{
        ErrorCode, Str,
        messages::find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse},
    },
    topics::{self, CONSUMER_OFFSETS},
};

/// Key type of groups.
const GROUP: i8 = 0;
/// Key type of transactions.
const TRANSACTION: i8 = 1;

/// Answers a request.
pub async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let found = match request.key_type {
        GROUP => make_topic(broker).await,
        TRANSACTION => {
            Err((ErrorCode::TransactionalIdAuthorizationFailed, "this broker has no transactions".to_owned()))
        }
        other => Err((ErrorCode::InvalidRequest, format!("there are no coordinators of key type {other}"))),
    };
    let coordinator = |key: Str| match &found {
        Ok(()) => {
            let endpoint = &broker.endpoints[context.listener];
            Coordinator {
                key,
                node_id: broker.config.node_id,
                host: Str::from(endpoint.host.as_str()),
                port: i32::from(endpoint.port),
                ..Coordinator::default()
            }
        }
        Err((code, message)) => Coordinator {
            key,
            node_id: -1,
            port: -1,
            error_code: code.number(),
            error_message: Some(Str::from(message.as_str())),
            ..Coordinator::default()
        },
    };
    if context.version >= 4 {
        let coordinators = request.coordinator_keys.into_iter().map(coordinator).collect();
        return FindCoordinatorResponse { coordinators, ..FindCoordinatorResponse::default() };
    }
    let Coordinator { node_id, host, port, error_code, error_message, .. } = coordinator(request.key);
    FindCoordinatorResponse {
        node_id,
        host,
        port,
        error_code,
        error_message,
        ..FindCoordinatorResponse::default()
    }
}

async fn make_topic(broker: &Broker) -> Result<(), (ErrorCode, String)> {
    if broker.partitions.topic(CONSUMER_OFFSETS).is_some() {
        return Ok(());
    }
    match topics::create_with_defaults(broker, CONSUMER_OFFSETS).await {
        Ok(_) => {
            broker.coordinators.load(broker);
            Ok(())
        }
        Err(error) => Err((ErrorCode::CoordinatorNotAvailable, error.to_string())),
    }
}
