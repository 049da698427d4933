//! A Kafka connection for tests, blocking, over the crate `kafka-protocol`: not the broker's own codec, so that a mistake there
//! cannot hide itself.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{ApiKey, RequestHeader, ResponseHeader},
    protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes, encode_request_header_into_buffer},
};

/// Longer than anything a living broker takes; a connection that is silent for so long is broken.
const READ_LIMIT: Duration = Duration::from_secs(20);

/// One connection.
pub(crate) struct Connection {
    stream: TcpStream,
    correlation: i32,
}

impl Connection {
    pub(crate) fn open(bootstrap: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(bootstrap)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_LIMIT))?;
        Ok(Self { stream, correlation: 0 })
    }

    /// Sends a request without waiting.
    pub(crate) fn send<R: Request>(&mut self, request: &R, version: i16) -> io::Result<()> {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("crash-test")));
        let mut frame = BytesMut::new();
        frame.extend_from_slice(&[0; 4]);
        encode_request_header_into_buffer(&mut frame, &header).map_err(io::Error::other)?;
        request.encode(&mut frame, version).map_err(io::Error::other)?;
        let length = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame)
    }

    /// Reads the next answer, which must be to a request of type `R`.
    pub(crate) fn receive<R: Request>(&mut self, version: i16) -> io::Result<R::Response> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame)?;
        let mut frame = Bytes::from(frame);
        let key = ApiKey::try_from(R::KEY).map_err(|()| io::Error::other("unknown API key"))?;
        debug_assert_eq!(key.response_header_version(version), R::Response::header_version(version));
        ResponseHeader::decode(&mut frame, key.response_header_version(version)).map_err(io::Error::other)?;
        R::Response::decode(&mut frame, version).map_err(io::Error::other)
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn call<R: Request>(&mut self, request: &R, version: i16) -> io::Result<R::Response> {
        self.send(request, version)?;
        self.receive::<R>(version)
    }
}
