//! InitProducerId (22), versions 0 to 5: ids for idempotent producers.
//!
//! | version | brings |
//! | --- | --- |
//! | 2 | flexible |
//! | 3 | the id and epoch that a transactional producer has, to be bumped (KIP-360) |
//!
//! An id is never given out twice in the cluster's life. Without a transactional id the answer is a new one, whatever
//! the request names, as in Kafka: an id that was never given out must not come into use. Not here: transactions. A
//! transactional id is refused with 53 (TRANSACTIONAL_ID_AUTHORIZATION_FAILED): the one code after which neither the Java
//! client nor librdkafka tries again.

use std::sync::Arc;

use super::{Broker, Context};
use crate::protocol::{
    ErrorCode,
    messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse},
};

/// Answers a request.
pub async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    match producer(broker, &request).await {
        Ok((producer_id, producer_epoch)) => {
            InitProducerIdResponse { producer_id, producer_epoch, ..InitProducerIdResponse::default() }
        }
        Err(code) => InitProducerIdResponse {
            error_code: code.number(),
            producer_epoch: -1,
            ..InitProducerIdResponse::default()
        },
    }
}

async fn producer(broker: &Broker, request: &InitProducerIdRequest) -> Result<(i64, i16), ErrorCode> {
    match &request.transactional_id {
        Some(id) if id.is_empty() => return Err(ErrorCode::InvalidRequest),
        Some(_) => return Err(ErrorCode::TransactionalIdAuthorizationFailed),
        None => {}
    }
    match (request.producer_id, request.producer_epoch) {
        (-1, -1) | (0.., 0..) => fresh(broker).await,
        _ => Err(ErrorCode::InvalidRequest),
    }
}

async fn fresh(broker: &Broker) -> Result<(i64, i16), ErrorCode> {
    match broker.node.next_producer_id().await {
        Ok(id) => Ok((id, 0)),
        Err(error) => match ErrorCode::from(&error) {
            // To clients the metadata group is a coordinator: what it cannot do now, it can do soon.
            ErrorCode::NotLeaderOrFollower => Err(ErrorCode::CoordinatorNotAvailable),
            code => Err(code),
        },
    }
}
