//! A raw connection over the broker's own codec, blocking: single frames, also malformed ones, in any version.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use alluvium::protocol::{Request, Str, decode_response, encode_request};
use bytes::Bytes;

/// Longer than any answer takes; a silent connection fails the test.
const LIMIT: Duration = Duration::from_secs(30);

/// A connection.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    correlation: i32,
    client_id: Str,
}

impl Wire {
    pub(crate) fn open(bootstrap: &str) -> Self {
        Self::open_as(bootstrap, "alluvium-tests")
    }

    /// A connection whose requests carry this client id.
    pub(crate) fn open_as(bootstrap: &str, client_id: &str) -> Self {
        let stream = TcpStream::connect(bootstrap).expect("connecting");
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(LIMIT)).expect("a read time-out");
        Self { stream, correlation: 0, client_id: Str::from(client_id) }
    }

    /// Sends a request and returns its correlation id.
    pub(crate) fn send<R: Request>(&mut self, request: &R, version: i16) -> i32 {
        self.correlation += 1;
        let frame = encode_request(request, version, self.correlation, &self.client_id);
        self.stream.write_all(&frame).expect("sending");
        self.correlation
    }

    /// Reads the next answer, to a request of type `R` with this correlation id.
    pub(crate) fn receive<R: Request>(&mut self, version: i16, correlation: i32) -> R::Response {
        let frame = self.frame().expect("an answer, not a closed connection");
        let (echoed, response) = decode_response::<R>(frame, version).expect("a well-formed answer");
        assert_eq!(echoed, correlation, "correlation id");
        response
    }

    /// Sends a request and reads its answer.
    pub(crate) fn call<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        let correlation = self.send(request, version);
        self.receive::<R>(version, correlation)
    }

    /// Sends a request and reads its answer; `None` where the connection is closed instead.
    pub(crate) fn try_call<R: Request>(&mut self, request: &R, version: i16) -> Option<R::Response> {
        self.send(request, version);
        Some(decode_response::<R>(self.frame()?, version).expect("a well-formed answer").1)
    }

    /// Whether something has come: an answer, or that the connection is closed.
    pub(crate) fn has_something(&self) -> bool {
        self.stream.set_nonblocking(true).expect("not to wait");
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("to wait again");
        peeked.is_ok()
    }

    /// Sends bytes as they are. The other side may have closed already.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes));
    }

    /// Sends a body as a frame.
    pub(crate) fn raw_frame(&mut self, body: &[u8]) {
        let length = i32::try_from(body.len()).expect("a short frame");
        self.raw(&[&length.to_be_bytes(), body].concat());
    }

    /// The next frame without its length; `None` once the broker closed the connection.
    pub(crate) fn frame(&mut self) -> Option<Bytes> {
        let mut length = [0; 4];
        self.fill(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.fill(&mut frame)?;
        Some(frame.into())
    }

    fn fill(&mut self, into: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(into) {
            Ok(()) => Some(()),
            Err(error) => {
                let silent =
                    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
                assert!(!silent, "neither an answer nor a closed connection within {LIMIT:?}");
                None
            }
        }
    }

    /// Waits until the broker closes the connection, which must come without another byte.
    pub(crate) fn assert_closed(&mut self) {
        if let Some(frame) = self.frame() {
            panic!("an answer of {} bytes where the connection should be closed", frame.len());
        }
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&mut self) {
        drop(self.stream.shutdown(Shutdown::Write));
    }
}
