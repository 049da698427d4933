//! Kafka's wire protocol. Nothing outside this folder reads or writes protocol bytes, but for the frame's length in
//! `connection.rs`.
//!
//! Reading order: [`primitive`] (bounded reading, pieces for writing), [`messages`] (the tables), [`header`], [`error_code`].

pub mod error_code;
pub mod header;
pub mod messages;
pub mod primitive;

pub use error_code::ErrorCode;
pub use header::{RequestHeader, decode_request, decode_response, encode_request, encode_response};
pub use messages::Request;
pub use primitive::{DecodeError, Piece, Reader, Records, Str, Writer};
