//! DescribeGroups (15) describes groups: KIP-430 authorized operations v3, KIP-345 static members v4, KIP-1043 error 69 and message v6.

use bytes::Bytes;

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// The request that describes groups.
    DescribeGroupsRequest {
        groups: Vec<Str> = ..;
        include_authorized_operations: bool = 3..;
    }
}

impl Request for DescribeGroupsRequest {
    const KEY: i16 = 15;
    const FLEXIBLE: i16 = 5;
    type Response = DescribeGroupsResponse;
}

message! {
    /// The answer.
    DescribeGroupsResponse {
        throttle_time_ms: i32 = 1..;
        groups: Vec<DescribedGroup> = ..;
    }
}

message! {
    /// One group.
    DescribedGroup {
        error_code: i16 = ..;
        error_message: Option<Str> = 6..;
        group_id: Str = ..;
        group_state: Str = ..;
        protocol_type: Str = ..;
        protocol_data: Str = ..;
        members: Vec<DescribedGroupMember> = ..;
        authorized_operations: i32 = 3.., default i32::MIN;
    }
}

message! {
    /// A member.
    DescribedGroupMember {
        member_id: Str = ..;
        group_instance_id: Option<Str> = 4..;
        client_id: Str = ..;
        client_host: Str = ..;
        member_metadata: Bytes = ..;
        member_assignment: Bytes = ..;
    }
}
