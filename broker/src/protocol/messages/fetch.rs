//! Fetch (1): KIP-227 sessions v7, KIP-320 epochs v9 and v12, KIP-392 racks v11, KIP-516 topic ids v13, KIP-951 leader hints v16.

use uuid::Uuid;

use super::{
    super::primitive::{DecodeError, Field, Reader, Records, Str, Writer},
    Request, carries, default_of, message, nullable_in,
    produce::{LeaderIdAndEpoch, NodeEndpoint},
    tag_of,
};

message! {
    /// Asks for records from offsets on.
    FetchRequest {
        cluster_id: Option<Str> = 12.., tag 0;
        replica_id: i32 = ..=14, default -1;
        replica_state: ReplicaState = 15.., tag 1;
        max_wait_ms: i32 = ..;
        min_bytes: i32 = ..;
        max_bytes: i32 = 3.., default i32::MAX;
        isolation_level: i8 = 4..;
        session_id: i32 = 7..;
        session_epoch: i32 = 7.., default -1;
        topics: Vec<FetchTopic> = ..;
        forgotten_topics: Vec<ForgottenTopic> = 7..;
        rack_id: Str = 11..;
    }
}

impl Request for FetchRequest {
    const KEY: i16 = 1;
    const FLEXIBLE: i16 = 12;
    type Response = FetchResponse;
}

message! {
    /// The follower that asks.
    ReplicaState {
        replica_id: i32 = .., default -1;
        replica_epoch: i64 = .., default -1;
    }
}

message! {
    /// Partitions of one topic.
    FetchTopic {
        name: Str = ..=12;
        topic_id: Uuid = 13..;
        partitions: Vec<FetchPartition> = ..;
    }
}

message! {
    /// Where to read in one partition.
    FetchPartition {
        partition: i32 = ..;
        current_leader_epoch: i32 = 9.., default -1;
        fetch_offset: i64 = ..;
        last_fetched_epoch: i32 = 12.., default -1;
        log_start_offset: i64 = 5.., default -1;
        partition_max_bytes: i32 = ..;
        replica_directory_id: Uuid = 17.., tag 0;
    }
}

message! {
    /// Partitions that leave the session.
    ForgottenTopic {
        name: Str = ..=12;
        topic_id: Uuid = 13..;
        partitions: Vec<i32> = ..;
    }
}

message! {
    /// Records, and how far each partition reaches.
    FetchResponse {
        throttle_time_ms: i32 = 1..;
        error_code: i16 = 7..;
        session_id: i32 = 7..;
        responses: Vec<TopicRecords> = ..;
        node_endpoints: Vec<NodeEndpoint> = 16.., tag 0;
    }
}

message! {
    /// One topic's records.
    TopicRecords {
        name: Str = ..=12;
        topic_id: Uuid = 13..;
        partitions: Vec<PartitionRecords> = ..;
    }
}

message! {
    /// One partition's records.
    PartitionRecords {
        partition_index: i32 = ..;
        error_code: i16 = ..;
        high_watermark: i64 = .., default -1;
        last_stable_offset: i64 = 4.., default -1;
        log_start_offset: i64 = 5.., default -1;
        diverging_epoch: EpochEndOffset = 12.., tag 0;
        current_leader: LeaderIdAndEpoch = 12.., tag 1;
        snapshot_id: SnapshotId = 12.., tag 2;
        aborted_transactions: Option<Vec<AbortedTransaction>> = 4..;
        preferred_read_replica: i32 = 11.., default -1;
        records: Records = ..;
    }
}

message! {
    /// Where the leader's log differs from what the reader fetched last.
    EpochEndOffset {
        epoch: i32 = .., default -1;
        end_offset: i64 = .., default -1;
    }
}

message! {
    /// A snapshot to fetch instead.
    SnapshotId {
        end_offset: i64 = .., default -1;
        epoch: i32 = .., default -1;
    }
}

message! {
    /// A transaction whose records up to its marker are to be skipped.
    AbortedTransaction {
        producer_id: i64 = ..;
        first_offset: i64 = ..;
    }
}
