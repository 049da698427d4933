//! ListGroups (16) lists groups: KIP-518 states v4, KIP-848 types v5.

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// The request that lists groups.
    ListGroupsRequest {
        states_filter: Vec<Str> = 4..;
        types_filter: Vec<Str> = 5..;
    }
}

impl Request for ListGroupsRequest {
    const KEY: i16 = 16;
    const FLEXIBLE: i16 = 3;
    type Response = ListGroupsResponse;
}

message! {
    /// The answer.
    ListGroupsResponse {
        throttle_time_ms: i32 = 1..;
        error_code: i16 = ..;
        groups: Vec<ListedGroup> = ..;
    }
}

message! {
    /// One group.
    ListedGroup {
        group_id: Str = ..;
        protocol_type: Str = ..;
        group_state: Str = 4..;
        group_type: Str = 5..;
    }
}
