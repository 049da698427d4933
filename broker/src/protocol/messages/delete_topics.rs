//! DeleteTopics (20) deletes topics: KIP-4, KIP-599 quotas v5, KIP-516 topic ids v6.

use uuid::Uuid;

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// The request that deletes topics.
    DeleteTopicsRequest {
        topics: Vec<DeleteTopicState> = 6..;
        topic_names: Vec<Str> = ..=5;
        timeout_ms: i32 = ..;
    }
}

impl Request for DeleteTopicsRequest {
    const KEY: i16 = 20;
    const FLEXIBLE: i16 = 4;
    type Response = DeleteTopicsResponse;
}

message! {
    /// A topic by name or id.
    DeleteTopicState {
        name: Option<Str> = 6..;
        topic_id: Uuid = 6..;
    }
}

message! {
    /// The answer.
    DeleteTopicsResponse {
        throttle_time_ms: i32 = 1..;
        responses: Vec<DeletableTopicResult> = ..;
    }
}

message! {
    /// What became of one topic.
    DeletableTopicResult {
        name: Option<Str> = .., null 6..;
        topic_id: Uuid = 6..;
        error_code: i16 = ..;
        error_message: Option<Str> = 5..;
    }
}
