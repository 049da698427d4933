//! JoinGroup (11) joins a group: KIP-134 initial delay, KIP-394 member id first v4, KIP-345 static members v5, KIP-559 protocol type v7, KIP-800 reason v8, KIP-814 skipped assignment v9.

use bytes::Bytes;

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// The request that joins a group.
    JoinGroupRequest {
        group_id: Str = ..;
        session_timeout_ms: i32 = ..;
        rebalance_timeout_ms: i32 = 1.., default -1;
        member_id: Str = ..;
        group_instance_id: Option<Str> = 5..;
        protocol_type: Str = ..;
        protocols: Vec<JoinGroupRequestProtocol> = ..;
        reason: Option<Str> = 8..;
    }
}

impl Request for JoinGroupRequest {
    const KEY: i16 = 11;
    const FLEXIBLE: i16 = 6;
    type Response = JoinGroupResponse;
}

message! {
    /// A protocol that the member supports.
    JoinGroupRequestProtocol {
        name: Str = ..;
        metadata: Bytes = ..;
    }
}

message! {
    /// The answer.
    JoinGroupResponse {
        throttle_time_ms: i32 = 2..;
        error_code: i16 = ..;
        generation_id: i32 = .., default -1;
        protocol_type: Option<Str> = 7..;
        protocol_name: Option<Str> = .., null 7..;
        leader: Str = ..;
        skip_assignment: bool = 9..;
        member_id: Str = ..;
        members: Vec<JoinGroupResponseMember> = ..;
    }
}

message! {
    /// A member.
    JoinGroupResponseMember {
        member_id: Str = ..;
        group_instance_id: Option<Str> = 5..;
        metadata: Bytes = ..;
    }
}
