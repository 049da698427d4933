//! ListOffsets (2): KIP-79 times v1, KIP-98 isolation v2, KIP-320 epochs v4, KIP-734 max timestamp v7, KIP-405 tiers v8 and v9,
//! KIP-1075 time-out v10.

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// Asks for offsets by time.
    ListOffsetsRequest {
        replica_id: i32 = .., default -1;
        isolation_level: i8 = 2..;
        topics: Vec<ListOffsetsTopic> = ..;
        timeout_ms: i32 = 10..;
    }
}

impl Request for ListOffsetsRequest {
    const KEY: i16 = 2;
    const FLEXIBLE: i16 = 6;
    type Response = ListOffsetsResponse;
}

message! {
    /// Partitions of one topic.
    ListOffsetsTopic {
        name: Str = ..;
        partitions: Vec<ListOffsetsPartition> = ..;
    }
}

message! {
    /// One partition and the time asked for (or one of the negative meanings).
    ListOffsetsPartition {
        partition_index: i32 = ..;
        current_leader_epoch: i32 = 4.., default -1;
        timestamp: i64 = ..;
    }
}

message! {
    /// The offsets.
    ListOffsetsResponse {
        throttle_time_ms: i32 = 2..;
        topics: Vec<ListOffsetsTopicResponse> = ..;
    }
}

message! {
    /// One topic's offsets.
    ListOffsetsTopicResponse {
        name: Str = ..;
        partitions: Vec<ListOffsetsPartitionResponse> = ..;
    }
}

message! {
    /// One partition's offset.
    ListOffsetsPartitionResponse {
        partition_index: i32 = ..;
        error_code: i16 = ..;
        timestamp: i64 = 1.., default -1;
        offset: i64 = 1.., default -1;
        leader_epoch: i32 = 4.., default -1;
    }
}
