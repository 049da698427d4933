//! DeleteGroups (42) deletes empty groups: KIP-229.

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// The request that deletes empty groups.
    DeleteGroupsRequest {
        groups_names: Vec<Str> = ..;
    }
}

impl Request for DeleteGroupsRequest {
    const KEY: i16 = 42;
    const FLEXIBLE: i16 = 2;
    type Response = DeleteGroupsResponse;
}

message! {
    /// The answer.
    DeleteGroupsResponse {
        throttle_time_ms: i32 = ..;
        results: Vec<DeletableGroupResult> = ..;
    }
}

message! {
    /// What became of one group.
    DeletableGroupResult {
        group_id: Str = ..;
        error_code: i16 = ..;
    }
}
