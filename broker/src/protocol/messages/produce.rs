//! Produce (0): KIP-98 v3, KIP-185 v7 is zstd's gate, KIP-467 v8 record errors, KIP-951 v10 leader hints, KIP-516 v13 topic ids.

use bytes::Bytes;
use uuid::Uuid;

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// Record batches for partitions.
    ProduceRequest {
        transactional_id: Option<Str> = 3..;
        acks: i16 = ..;
        timeout_ms: i32 = ..;
        topics: Vec<TopicData> = ..;
    }
}

impl Request for ProduceRequest {
    const KEY: i16 = 0;
    const FLEXIBLE: i16 = 9;
    type Response = ProduceResponse;
}

message! {
    /// Batches of one topic.
    TopicData {
        name: Str = ..=12;
        topic_id: Uuid = 13..;
        partitions: Vec<PartitionData> = ..;
    }
}

message! {
    /// The batch of one partition.
    PartitionData {
        index: i32 = ..;
        records: Option<Bytes> = ..;
    }
}

message! {
    /// What became of each batch.
    ProduceResponse {
        responses: Vec<TopicResponse> = ..;
        throttle_time_ms: i32 = 1..;
        node_endpoints: Vec<NodeEndpoint> = 10.., tag 0;
    }
}

message! {
    /// One topic's answers.
    TopicResponse {
        name: Str = ..=12;
        topic_id: Uuid = 13..;
        partitions: Vec<PartitionResponse> = ..;
    }
}

message! {
    /// One partition's answer.
    PartitionResponse {
        index: i32 = ..;
        error_code: i16 = ..;
        base_offset: i64 = .., default -1;
        log_append_time_ms: i64 = 2.., default -1;
        log_start_offset: i64 = 5.., default -1;
        record_errors: Vec<RecordError> = 8..;
        error_message: Option<Str> = 8..;
        current_leader: LeaderIdAndEpoch = 10.., tag 0;
    }
}

message! {
    /// Why a record made its batch fail.
    RecordError {
        batch_index: i32 = ..;
        message: Option<Str> = ..;
    }
}

message! {
    /// The leader as the answering broker knows it.
    LeaderIdAndEpoch {
        leader_id: i32 = .., default -1;
        leader_epoch: i32 = .., default -1;
    }
}

message! {
    /// Where a leader listens.
    NodeEndpoint {
        node_id: i32 = ..;
        host: Str = ..;
        port: i32 = ..;
        rack: Option<Str> = ..;
    }
}
