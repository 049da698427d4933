//! OffsetCommit (8) stores offsets of a group: KIP-211 no retention time v5, KIP-320 leader epochs v6, KIP-345 static members v7, KIP-848 member epochs v9.

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// The request that stores offsets of a group.
    OffsetCommitRequest {
        group_id: Str = ..;
        generation_id_or_member_epoch: i32 = .., default -1;
        member_id: Str = ..;
        group_instance_id: Option<Str> = 7..;
        retention_time_ms: i64 = ..=4, default -1;
        topics: Vec<OffsetCommitRequestTopic> = ..;
    }
}

impl Request for OffsetCommitRequest {
    const KEY: i16 = 8;
    const FLEXIBLE: i16 = 8;
    type Response = OffsetCommitResponse;
}

message! {
    /// One topic.
    OffsetCommitRequestTopic {
        name: Str = ..;
        partitions: Vec<OffsetCommitRequestPartition> = ..;
    }
}

message! {
    /// One partition.
    OffsetCommitRequestPartition {
        partition_index: i32 = ..;
        committed_offset: i64 = ..;
        committed_leader_epoch: i32 = 6.., default -1;
        committed_metadata: Option<Str> = ..;
    }
}

message! {
    /// The answer.
    OffsetCommitResponse {
        throttle_time_ms: i32 = 3..;
        topics: Vec<OffsetCommitResponseTopic> = ..;
    }
}

message! {
    /// One topic.
    OffsetCommitResponseTopic {
        name: Str = ..;
        partitions: Vec<OffsetCommitResponsePartition> = ..;
    }
}

message! {
    /// One partition.
    OffsetCommitResponsePartition {
        partition_index: i32 = ..;
        error_code: i16 = ..;
    }
}
