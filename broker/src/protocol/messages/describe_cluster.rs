//! DescribeCluster (60) describes the brokers: KIP-700, KIP-919 endpoint types v1, KIP-1073 fenced brokers v2.

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// The request that describes the brokers.
    DescribeClusterRequest {
        include_cluster_authorized_operations: bool = ..;
        endpoint_type: i8 = 1.., default 1;
        include_fenced_brokers: bool = 2..;
    }
}

impl Request for DescribeClusterRequest {
    const KEY: i16 = 60;
    const FLEXIBLE: i16 = 0;
    type Response = DescribeClusterResponse;
}

message! {
    /// The answer.
    DescribeClusterResponse {
        throttle_time_ms: i32 = ..;
        error_code: i16 = ..;
        error_message: Option<Str> = ..;
        endpoint_type: i8 = 1.., default 1;
        cluster_id: Str = ..;
        controller_id: i32 = .., default -1;
        brokers: Vec<DescribeClusterBroker> = ..;
        cluster_authorized_operations: i32 = .., default i32::MIN;
    }
}

message! {
    /// A broker.
    DescribeClusterBroker {
        broker_id: i32 = ..;
        host: Str = ..;
        port: i32 = ..;
        rack: Option<Str> = ..;
        is_fenced: bool = 2..;
    }
}
