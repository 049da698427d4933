//! Metadata (3): KIP-516 topic ids v10 and lookup by id v12, KIP-430 authorized operations v8, KIP-1102 top-level error v13.

use uuid::Uuid;

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

/// `*_authorized_operations` where they were not asked for.
pub const OPERATIONS_NOT_ASKED: i32 = i32::MIN;

message! {
    /// Asks for brokers and topics.
    MetadataRequest {
        /// Null for all topics (an empty list in version 0).
        topics: Option<Vec<MetadataRequestTopic>> = .., null 1..;
        allow_auto_topic_creation: bool = 4.., default true;
        include_cluster_authorized_operations: bool = 8..=10;
        include_topic_authorized_operations: bool = 8..;
    }
}

impl Request for MetadataRequest {
    const KEY: i16 = 3;
    const FLEXIBLE: i16 = 9;
    type Response = MetadataResponse;
}

message! {
    /// A topic asked for.
    MetadataRequestTopic {
        topic_id: Uuid = 10..;
        name: Option<Str> = .., null 10..;
    }
}

message! {
    /// What this broker knows of the cluster.
    MetadataResponse {
        throttle_time_ms: i32 = 3..;
        brokers: Vec<MetadataBroker> = ..;
        cluster_id: Option<Str> = 2..;
        controller_id: i32 = 1.., default -1;
        topics: Vec<MetadataTopic> = ..;
        cluster_authorized_operations: i32 = 8..=10, default OPERATIONS_NOT_ASKED;
        error_code: i16 = 13..;
    }
}

message! {
    /// A broker.
    MetadataBroker {
        node_id: i32 = ..;
        host: Str = ..;
        port: i32 = ..;
        rack: Option<Str> = 1..;
    }
}

message! {
    /// A topic.
    MetadataTopic {
        error_code: i16 = ..;
        name: Option<Str> = .., null 12..;
        topic_id: Uuid = 10..;
        is_internal: bool = 1..;
        partitions: Vec<MetadataPartition> = ..;
        topic_authorized_operations: i32 = 8.., default OPERATIONS_NOT_ASKED;
    }
}

message! {
    /// A partition.
    MetadataPartition {
        error_code: i16 = ..;
        partition_index: i32 = ..;
        leader_id: i32 = .., default -1;
        leader_epoch: i32 = 7.., default -1;
        replica_nodes: Vec<i32> = ..;
        isr_nodes: Vec<i32> = ..;
        offline_replicas: Vec<i32> = 5..;
    }
}
