//! Request and response headers, and whole messages with them.
//!
//! | header | fields |
//! | --- | --- |
//! | request v1 | api key 2, api version 2, correlation id 4, client id (nullable, 16-bit length) |
//! | request v2 (flexible) | the same, the client id still not compact, then tagged fields |
//! | response v0 | correlation id 4 |
//! | response v1 (flexible) | the same, then tagged fields; ApiVersions keeps v0 always |

use bytes::Bytes;

use super::{
    messages::{Request, api_versions::ApiVersionsRequest},
    primitive::{DecodeError, Field, Piece, Reader, Str, Writer},
};

/// What stands before a request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The API.
    pub api_key: i16,
    /// Its version.
    pub api_version: i16,
    /// Echoed in the answer, bit by bit.
    pub correlation_id: i32,
    /// The client's own name; empty if it gave none.
    pub client_id: Str,
}

/// Key and version of a frame, before anything else of it is looked at.
pub fn key_and_version(frame: &[u8]) -> Option<(i16, i16)> {
    match frame {
        [k0, k1, v0, v1, ..] => Some((i16::from_be_bytes([*k0, *k1]), i16::from_be_bytes([*v0, *v1]))),
        _ => None,
    }
}

impl RequestHeader {
    /// Reads the header of a frame whose API is flexible from version `flexible` on; the body remains.
    ///
    /// # Errors
    /// Malformed.
    pub fn decode(frame: Bytes, flexible: i16) -> Result<(Self, Reader), DecodeError> {
        let mut reader = Reader::of_request(frame);
        let api_key = i16::read(&mut reader)?;
        let api_version = i16::read(&mut reader)?;
        let correlation_id = i32::read(&mut reader)?;
        let client_id = Option::<Str>::read(&mut reader)?.unwrap_or_default();
        let mut body = reader.at(api_version, api_version >= flexible);
        body.tagged(|_, _| Ok(false))?;
        Ok((Self { api_key, api_version, correlation_id, client_id }, body))
    }

    /// Writes the header.
    fn encode(&self, writer: &mut Writer) {
        let flexible = writer.flexible();
        writer.set_flexible(false);
        self.api_key.write(writer);
        self.api_version.write(writer);
        self.correlation_id.write(writer);
        Some(self.client_id.clone()).write(writer);
        writer.set_flexible(flexible);
        if flexible {
            writer.unsigned_varint(0);
        }
    }
}

/// Reads a request's body. What follows it is ignored, as Kafka does.
///
/// # Errors
/// Malformed.
pub fn decode_request<R: Request>(mut body: Reader) -> Result<R, DecodeError> {
    R::read(&mut body)
}

/// A whole frame of a request, its length included.
pub fn encode_request<R: Request>(request: &R, version: i16, correlation_id: i32, client_id: &Str) -> Bytes {
    let mut writer = Writer::new(version, version >= R::FLEXIBLE);
    writer.put(&[0; 4]);
    let client_id = client_id.clone();
    RequestHeader { api_key: R::KEY, api_version: version, correlation_id, client_id }.encode(&mut writer);
    request.write(&mut writer);
    let mut frame = Vec::from(writer.into_bytes());
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame.into()
}

/// Whether the response header of `R` at `version` has tagged fields.
fn flexible_response_header<R: Request>(version: i16) -> bool {
    version >= R::FLEXIBLE && R::KEY != ApiVersionsRequest::KEY
}

/// A whole frame of a response, its length included, as pieces for a vectored write.
pub fn encode_response<R: Request>(response: &R::Response, version: i16, correlation_id: i32) -> Vec<Piece> {
    let mut writer = Writer::new(version, version >= R::FLEXIBLE);
    writer.put(&[0; 4]);
    correlation_id.write(&mut writer);
    if flexible_response_header::<R>(version) {
        writer.unsigned_varint(0);
    }
    response.write(&mut writer);
    writer.finish_frame()
}

/// Reads a response (a frame without its length); its correlation id comes first.
///
/// # Errors
/// Malformed, or longer than the message.
pub fn decode_response<R: Request>(frame: Bytes, version: i16) -> Result<(i32, R::Response), DecodeError> {
    let mut reader = Reader::new(frame, version, flexible_response_header::<R>(version));
    let correlation_id = i32::read(&mut reader)?;
    reader.tagged(|_, _| Ok(false))?;
    let mut body = reader.at(version, version >= R::FLEXIBLE);
    let response = R::Response::read(&mut body)?;
    body.finish()?;
    Ok((correlation_id, response))
}
