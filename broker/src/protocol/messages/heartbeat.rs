//! Heartbeat (12) keeps a member alive: KIP-345 static members v3.

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// The request that keeps a member alive.
    HeartbeatRequest {
        group_id: Str = ..;
        generation_id: i32 = ..;
        member_id: Str = ..;
        group_instance_id: Option<Str> = 3..;
    }
}

impl Request for HeartbeatRequest {
    const KEY: i16 = 12;
    const FLEXIBLE: i16 = 4;
    type Response = HeartbeatResponse;
}

message! {
    /// The answer.
    HeartbeatResponse {
        throttle_time_ms: i32 = 1..;
        error_code: i16 = ..;
    }
}
