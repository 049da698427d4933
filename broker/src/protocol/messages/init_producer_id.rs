//! InitProducerId (22) hands out producer ids: KIP-98, KIP-360 bumped epochs v3, KIP-588 error 90 v4, KIP-890 v5.

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// The request that hands out producer ids.
    InitProducerIdRequest {
        transactional_id: Option<Str> = ..;
        transaction_timeout_ms: i32 = ..;
        producer_id: i64 = 3.., default -1;
        producer_epoch: i16 = 3.., default -1;
    }
}

impl Request for InitProducerIdRequest {
    const KEY: i16 = 22;
    const FLEXIBLE: i16 = 2;
    type Response = InitProducerIdResponse;
}

message! {
    /// The answer.
    InitProducerIdResponse {
        throttle_time_ms: i32 = ..;
        error_code: i16 = ..;
        producer_id: i64 = .., default -1;
        producer_epoch: i16 = ..;
    }
}
