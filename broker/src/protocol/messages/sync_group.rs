//! SyncGroup (14) hands out the assignment: KIP-345 static members v3, KIP-559 protocol type and name v5.

use bytes::Bytes;

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// The request that hands out the assignment.
    SyncGroupRequest {
        group_id: Str = ..;
        generation_id: i32 = ..;
        member_id: Str = ..;
        group_instance_id: Option<Str> = 3..;
        protocol_type: Option<Str> = 5..;
        protocol_name: Option<Str> = 5..;
        assignments: Vec<SyncGroupRequestAssignment> = ..;
    }
}

impl Request for SyncGroupRequest {
    const KEY: i16 = 14;
    const FLEXIBLE: i16 = 4;
    type Response = SyncGroupResponse;
}

message! {
    /// The assignment of one member.
    SyncGroupRequestAssignment {
        member_id: Str = ..;
        assignment: Bytes = ..;
    }
}

message! {
    /// The answer.
    SyncGroupResponse {
        throttle_time_ms: i32 = 1..;
        error_code: i16 = ..;
        protocol_type: Option<Str> = 5..;
        protocol_name: Option<Str> = 5..;
        assignment: Bytes = ..;
    }
}
