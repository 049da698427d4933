//! LeaveGroup (13) removes members: KIP-345 several members v3, KIP-800 reason v5.

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// The request that removes members.
    LeaveGroupRequest {
        group_id: Str = ..;
        member_id: Str = ..=2;
        members: Vec<MemberIdentity> = 3..;
    }
}

impl Request for LeaveGroupRequest {
    const KEY: i16 = 13;
    const FLEXIBLE: i16 = 4;
    type Response = LeaveGroupResponse;
}

message! {
    /// A member that leaves.
    MemberIdentity {
        member_id: Str = 3..;
        group_instance_id: Option<Str> = 3..;
        reason: Option<Str> = 5..;
    }
}

message! {
    /// The answer.
    LeaveGroupResponse {
        throttle_time_ms: i32 = 1..;
        error_code: i16 = ..;
        members: Vec<MemberResponse> = 3..;
    }
}

message! {
    /// What became of a member.
    MemberResponse {
        member_id: Str = 3..;
        group_instance_id: Option<Str> = 3..;
        error_code: i16 = 3..;
    }
}
