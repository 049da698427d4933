//! CreateTopics (19) creates topics: KIP-4, KIP-464 defaults v4, KIP-525 configurations in the answer v5, KIP-599 quotas v6, KIP-516 topic ids v7.

use uuid::Uuid;

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// The request that creates topics.
    CreateTopicsRequest {
        topics: Vec<CreatableTopic> = ..;
        timeout_ms: i32 = .., default 60000;
        validate_only: bool = 1..;
    }
}

impl Request for CreateTopicsRequest {
    const KEY: i16 = 19;
    const FLEXIBLE: i16 = 5;
    type Response = CreateTopicsResponse;
}

message! {
    /// One topic.
    CreatableTopic {
        name: Str = ..;
        num_partitions: i32 = ..;
        replication_factor: i16 = ..;
        assignments: Vec<CreatableReplicaAssignment> = ..;
        configs: Vec<CreatableTopicConfig> = ..;
    }
}

message! {
    /// Replicas of one partition.
    CreatableReplicaAssignment {
        partition_index: i32 = ..;
        broker_ids: Vec<i32> = ..;
    }
}

message! {
    /// A configuration to set.
    CreatableTopicConfig {
        name: Str = ..;
        value: Option<Str> = ..;
    }
}

message! {
    /// The answer.
    CreateTopicsResponse {
        throttle_time_ms: i32 = 2..;
        topics: Vec<CreatableTopicResult> = ..;
    }
}

message! {
    /// What became of one topic.
    CreatableTopicResult {
        name: Str = ..;
        topic_id: Uuid = 7..;
        error_code: i16 = ..;
        error_message: Option<Str> = 1..;
        topic_config_error_code: i16 = 5.., tag 0;
        num_partitions: i32 = 5.., default -1;
        replication_factor: i16 = 5.., default -1;
        configs: Option<Vec<CreatableTopicConfigs>> = 5..;
    }
}

message! {
    /// A configuration of the topic as it was created.
    CreatableTopicConfigs {
        name: Str = 5..;
        value: Option<Str> = 5..;
        read_only: bool = 5..;
        config_source: i8 = 5.., default -1;
        is_sensitive: bool = 5..;
    }
}
