//! OffsetForLeaderEpoch (23) says where a leader epoch ends: KIP-101, KIP-279 v1, KIP-320 v2, KIP-392 v3.

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// The request that says where a leader epoch ends.
    OffsetForLeaderEpochRequest {
        replica_id: i32 = 3.., default -2;
        topics: Vec<OffsetForLeaderTopic> = ..;
    }
}

impl Request for OffsetForLeaderEpochRequest {
    const KEY: i16 = 23;
    const FLEXIBLE: i16 = 4;
    type Response = OffsetForLeaderEpochResponse;
}

message! {
    /// One topic.
    OffsetForLeaderTopic {
        topic: Str = ..;
        partitions: Vec<OffsetForLeaderPartition> = ..;
    }
}

message! {
    /// One partition.
    OffsetForLeaderPartition {
        partition: i32 = ..;
        current_leader_epoch: i32 = .., default -1;
        leader_epoch: i32 = ..;
    }
}

message! {
    /// The answer.
    OffsetForLeaderEpochResponse {
        throttle_time_ms: i32 = ..;
        topics: Vec<OffsetForLeaderTopicResult> = ..;
    }
}

message! {
    /// What became of one topic.
    OffsetForLeaderTopicResult {
        topic: Str = ..;
        partitions: Vec<EpochEndOffset> = ..;
    }
}

message! {
    /// Where an epoch ends in one partition.
    EpochEndOffset {
        error_code: i16 = ..;
        partition: i32 = ..;
        leader_epoch: i32 = .., default -1;
        end_offset: i64 = .., default -1;
    }
}
