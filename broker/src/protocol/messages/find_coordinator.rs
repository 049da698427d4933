//! FindCoordinator (10) names the coordinator of groups: KIP-699 several keys v4, KIP-890 error 120 v5.

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// The request that names the coordinator of groups.
    FindCoordinatorRequest {
        key: Str = ..=3;
        key_type: i8 = 1..;
        coordinator_keys: Vec<Str> = 4..;
    }
}

impl Request for FindCoordinatorRequest {
    const KEY: i16 = 10;
    const FLEXIBLE: i16 = 3;
    type Response = FindCoordinatorResponse;
}

message! {
    /// The answer.
    FindCoordinatorResponse {
        throttle_time_ms: i32 = 1..;
        error_code: i16 = ..=3;
        error_message: Option<Str> = 1..=3;
        node_id: i32 = ..=3;
        host: Str = ..=3;
        port: i32 = ..=3;
        coordinators: Vec<Coordinator> = 4..;
    }
}

message! {
    /// The coordinator of one key.
    Coordinator {
        key: Str = 4..;
        node_id: i32 = 4..;
        host: Str = 4..;
        port: i32 = 4..;
        error_code: i16 = 4..;
        error_message: Option<Str> = 4..;
    }
}
