//! OffsetFetch (9) reads offsets of groups: KIP-88 all topics v2, KIP-320 leader epochs v5, KIP-447 stable offsets v7, KIP-709 several groups v8, KIP-848 member epochs v9.

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// The request that reads offsets of groups.
    OffsetFetchRequest {
        group_id: Str = ..=7;
        topics: Option<Vec<OffsetFetchRequestTopic>> = ..=7, null 2..=7;
        groups: Vec<OffsetFetchRequestGroup> = 8..;
        require_stable: bool = 7..;
    }
}

impl Request for OffsetFetchRequest {
    const KEY: i16 = 9;
    const FLEXIBLE: i16 = 6;
    type Response = OffsetFetchResponse;
}

message! {
    /// One topic.
    OffsetFetchRequestTopic {
        name: Str = ..=7;
        partition_indexes: Vec<i32> = ..=7;
    }
}

message! {
    /// One group.
    OffsetFetchRequestGroup {
        group_id: Str = 8..;
        member_id: Option<Str> = 9..;
        member_epoch: i32 = 9.., default -1;
        topics: Option<Vec<OffsetFetchRequestTopics>> = 8..;
    }
}

message! {
    /// One topic.
    OffsetFetchRequestTopics {
        name: Str = 8..;
        partition_indexes: Vec<i32> = 8..;
    }
}

message! {
    /// The answer.
    OffsetFetchResponse {
        throttle_time_ms: i32 = 3..;
        topics: Vec<OffsetFetchResponseTopic> = ..=7;
        error_code: i16 = 2..=7;
        groups: Vec<OffsetFetchResponseGroup> = 8..;
    }
}

message! {
    /// One topic.
    OffsetFetchResponseTopic {
        name: Str = ..=7;
        partitions: Vec<OffsetFetchResponsePartition> = ..=7;
    }
}

message! {
    /// One partition.
    OffsetFetchResponsePartition {
        partition_index: i32 = ..=7;
        committed_offset: i64 = ..=7;
        committed_leader_epoch: i32 = 5..=7, default -1;
        metadata: Option<Str> = ..=7;
        error_code: i16 = ..=7;
    }
}

message! {
    /// One group.
    OffsetFetchResponseGroup {
        group_id: Str = 8..;
        topics: Vec<OffsetFetchResponseTopics> = 8..;
        error_code: i16 = 8..;
    }
}

message! {
    /// One topic.
    OffsetFetchResponseTopics {
        name: Str = 8..;
        partitions: Vec<OffsetFetchResponsePartitions> = 8..;
    }
}

message! {
    /// One partition.
    OffsetFetchResponsePartitions {
        partition_index: i32 = 8..;
        committed_offset: i64 = 8..;
        committed_leader_epoch: i32 = 8.., default -1;
        metadata: Option<Str> = 8..;
        error_code: i16 = 8..;
    }
}
