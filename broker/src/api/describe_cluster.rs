//! DescribeCluster (60), versions 0 to 2: the brokers, as Metadata names them (KIP-700).
//!
//! Endpoint types (KIP-919, v1): this is a broker, so only type 1 is answered; controllers (2) get 114 and what does not exist 115, as from
//! Kafka 4.3, with which a differential test compares it (A11 of the checklist has the two swapped). Fenced brokers (KIP-1073, v2): there are none.

use std::sync::Arc;

use super::{Broker, Context, metadata};
use crate::protocol::{
    ErrorCode, Str,
    messages::{
        describe_cluster::{DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse},
        metadata::OPERATIONS_NOT_ASKED,
    },
};

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

/// Answers a request.
pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let refused = match request.endpoint_type {
        BROKERS => None,
        CONTROLLERS => {
            Some((ErrorCode::MismatchedEndpointType, "this is a broker, not a controller".to_owned()))
        }
        other => Some((ErrorCode::UnsupportedEndpointType, format!("there is no endpoint type {other}"))),
    };
    if let Some((error, message)) = refused {
        return DescribeClusterResponse {
            error_code: error.number(),
            error_message: Some(Str::from(message)),
            ..DescribeClusterResponse::default()
        };
    }
    let image = broker.node.metadata();
    let brokers =
        metadata::brokers(broker, &image, context).into_iter().map(|broker| DescribeClusterBroker {
            broker_id: broker.node_id,
            host: broker.host,
            port: broker.port,
            rack: broker.rack,
            is_fenced: false,
        });
    DescribeClusterResponse {
        cluster_id: Str::from(image.cluster_id.as_str()),
        controller_id: broker.config.node_id,
        brokers: brokers.collect(),
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            metadata::CLUSTER_OPERATIONS
        } else {
            OPERATIONS_NOT_ASKED
        },
        ..DescribeClusterResponse::default()
    }
}
