//! One connection to a broker: requests leave as they are submitted, answers come back to whoever waits for them.
//!
//! Two tasks serve it, one for each direction; both end with the connection, and every waiter then learns that it is
//! closed. Versions are the highest that both sides know.

use std::{
    collections::HashMap,
    io,
    marker::PhantomData,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::failure::{Exit, Failure};
use crate::protocol::{
    ErrorCode, Request, Str, decode_response, encode_request,
    messages::api_versions::{ApiVersion, ApiVersionsRequest},
};

/// The versions of each API that this client speaks: (key, name, lowest, highest).
const SPOKEN: [(i16, &str, i16, i16); 18] = [
    (0, "Produce", 3, 12),
    (1, "Fetch", 4, 12),
    (2, "ListOffsets", 1, 7),
    (3, "Metadata", 4, 12),
    (8, "OffsetCommit", 2, 9),
    (9, "OffsetFetch", 8, 9),
    (10, "FindCoordinator", 4, 5),
    (11, "JoinGroup", 5, 9),
    (12, "Heartbeat", 3, 4),
    (13, "LeaveGroup", 3, 5),
    (14, "SyncGroup", 3, 5),
    (15, "DescribeGroups", 0, 6),
    (16, "ListGroups", 0, 5),
    (19, "CreateTopics", 2, 7),
    (20, "DeleteTopics", 1, 5),
    (22, "InitProducerId", 0, 4),
    (32, "DescribeConfigs", 1, 4),
    (42, "DeleteGroups", 0, 2),
];

/// The largest response that is read.
const MAX_RESPONSE_BYTES: usize = 1 << 30;

/// Why a request got no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// No connection could be made.
    #[error("cannot connect to {address}: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// The system's word.
        reason: String,
    },
    /// The connection ended.
    #[error("{address} closed the connection")]
    Closed {
        /// By whom.
        address: String,
    },
    /// No answer in time.
    #[error("{address} did not answer {api} within {} ms", limit.as_millis())]
    TimedOut {
        /// Who.
        address: String,
        /// What.
        api: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The answer is not what the protocol says.
    #[error("{address} sent a malformed answer to {api}: {reason}")]
    Malformed {
        /// Who.
        address: String,
        /// What.
        api: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The broker does not speak this API, or no version of it that this client knows.
    #[error("{address} does not speak {api}")]
    Unsupported {
        /// Who.
        address: String,
        /// What.
        api: &'static str,
    },
}

impl ConnectionError {
    /// As the failure of a command.
    pub(super) fn into_failure(self) -> Failure {
        let message = self.to_string();
        match self {
            Self::Unreachable { address, .. } => {
                Failure::local(Exit::Unreachable, "BROKER_UNREACHABLE", address, message)
                    .hint("is the broker running there? name another with -B HOST:PORT")
            }
            Self::Closed { address } => {
                Failure::local(Exit::Unreachable, "CONNECTION_CLOSED", address, message)
                    .hint("is this a Kafka port? its log tells why it closed the connection")
            }
            Self::TimedOut { address, .. } => {
                Failure::local(Exit::Unreachable, "TIMED_OUT", address, message)
                    .hint("a longer --timeout, if the broker is only slow")
            }
            Self::Malformed { address, .. } => {
                Failure::local(Exit::Failed, "MALFORMED_ANSWER", address, message)
                    .hint("is this a Kafka port?")
            }
            Self::Unsupported { address, .. } => {
                Failure::local(Exit::Failed, "UNSUPPORTED_API", address, message)
                    .hint("alluvium api versions")
            }
        }
    }
}

/// A request on its way to the socket.
struct Outgoing {
    frame: Bytes,
    /// Told once it is written, for a request without an answer.
    written: Option<oneshot::Sender<()>>,
}

type Waiting = Arc<Mutex<HashMap<i32, oneshot::Sender<Bytes>>>>;

/// A connection; dropping it closes it.
#[derive(Debug)]
pub(super) struct Connection {
    address: String,
    client_id: Str,
    timeout: Duration,
    versions: HashMap<i16, (i16, i16)>,
    offered: Vec<ApiVersion>,
    next: AtomicI32,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    waiting: Waiting,
    closed: Arc<AtomicBool>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// An answer on its way.
pub(super) struct Pending<R> {
    address: String,
    api: &'static str,
    version: i16,
    answer: oneshot::Receiver<Bytes>,
    request: PhantomData<fn() -> R>,
}

impl<R: Request> Pending<R> {
    /// Waits for the answer, at most so long.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn within(self, limit: Duration) -> Result<R::Response, ConnectionError> {
        let address = self.address;
        let frame = match tokio::time::timeout(limit, self.answer).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(_)) => return Err(ConnectionError::Closed { address }),
            Err(_) => return Err(ConnectionError::TimedOut { address, api: self.api, limit }),
        };
        decode_response::<R>(frame, self.version)
            .map(|(_, response)| response)
            .map_err(|error| ConnectionError::Malformed { address, api: self.api, reason: error.to_string() })
    }
}

fn spoken(key: i16) -> (&'static str, i16, i16) {
    SPOKEN
        .iter()
        .find(|(known, ..)| *known == key)
        .map_or(("ApiVersions", 0, 3), |(_, name, lowest, highest)| (name, *lowest, *highest))
}

impl Connection {
    /// Connects and asks what the broker speaks.
    ///
    /// # Errors
    /// Nobody is there, or not a broker.
    pub(super) async fn open(
        address: &str,
        client_id: &str,
        timeout: Duration,
    ) -> Result<Self, ConnectionError> {
        let unreachable =
            |reason: String| ConnectionError::Unreachable { address: address.to_owned(), reason };
        let stream = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable(format!("no answer within {} ms", timeout.as_millis()))),
        };
        // without it small requests wait for the acknowledgement of the one before
        stream.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;
        let (read, write) = stream.into_split();
        let (outgoing, queue) = mpsc::unbounded_channel();
        let waiting = Waiting::default();
        let closed = Arc::new(AtomicBool::new(false));
        let reader = tokio::spawn(read_answers(read, Arc::clone(&waiting), Arc::clone(&closed)));
        let writer = tokio::spawn(write_requests(write, queue, Arc::clone(&waiting), Arc::clone(&closed)));
        let mut connection = Self {
            address: address.to_owned(),
            client_id: Str::from(client_id),
            timeout,
            versions: HashMap::new(),
            offered: Vec::new(),
            next: AtomicI32::new(0),
            outgoing,
            waiting,
            closed,
            tasks: [reader, writer],
        };
        connection.ask_versions().await?;
        Ok(connection)
    }

    async fn ask_versions(&mut self) -> Result<(), ConnectionError> {
        let request = ApiVersionsRequest {
            client_software_name: Str::from_static("alluvium"),
            client_software_version: Str::from_static(env!("CARGO_PKG_VERSION")),
        };
        let mut answer = self.submit_at(&request, 3).within(self.timeout).await;
        // a broker that does not know version 3 answers in version 0, which may not parse as the other
        let is_of_version_0 = match &answer {
            Ok(response) => response.error_code != 0,
            Err(error) => matches!(error, ConnectionError::Malformed { .. }),
        };
        if is_of_version_0 {
            answer = self.submit_at(&request, 0).within(self.timeout).await;
        }
        self.offered = answer?.api_keys;
        self.versions =
            self.offered.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect();
        Ok(())
    }

    /// How long answers may take from now on.
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Where it leads.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// What the broker says it speaks.
    pub(super) fn offered(&self) -> &[ApiVersion] {
        &self.offered
    }

    /// Whether it can still be used.
    pub(super) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    /// Sends a request and waits for its answer, as long as the settings allow.
    ///
    /// # Errors
    /// There is no answer.
    pub(super) async fn ask<R: Request>(&self, request: &R) -> Result<R::Response, ConnectionError> {
        self.submit(request)?.within(self.timeout).await
    }

    /// The same for a request that the broker may hold for `hold`.
    ///
    /// # Errors
    /// There is no answer.
    pub(super) async fn ask_held<R: Request>(
        &self,
        request: &R,
        hold: Duration,
    ) -> Result<R::Response, ConnectionError> {
        self.submit(request)?.within(hold + self.timeout).await
    }

    /// Sends a request; many may be on their way, and leave in this order.
    ///
    /// # Errors
    /// The broker does not speak the API.
    pub(super) fn submit<R: Request>(&self, request: &R) -> Result<Pending<R>, ConnectionError> {
        let version = self.version_of::<R>()?;
        Ok(self.submit_at(request, version))
    }

    /// Sends a request to which no answer comes (`acks=0`), and waits until it is written.
    ///
    /// # Errors
    /// The broker does not speak the API, or the connection ended.
    pub(super) async fn tell<R: Request>(&self, request: &R) -> Result<(), ConnectionError> {
        let version = self.version_of::<R>()?;
        let correlation = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = encode_request(request, version, correlation, &self.client_id);
        let (written, told) = oneshot::channel();
        let closed = || ConnectionError::Closed { address: self.address.clone() };
        if !self.is_open() {
            return Err(closed());
        }
        self.outgoing.send(Outgoing { frame, written: Some(written) }).map_err(|_| closed())?;
        told.await.map_err(|_| closed())
    }

    /// The highest version that both sides speak.
    fn version_of<R: Request>(&self) -> Result<i16, ConnectionError> {
        let (api, lowest, highest) = spoken(R::KEY);
        let unsupported = || ConnectionError::Unsupported { address: self.address.clone(), api };
        let (min, max) = self.versions.get(&R::KEY).copied().ok_or_else(unsupported)?;
        let version = highest.min(max);
        if version < lowest || version < min {
            return Err(unsupported());
        }
        Ok(version)
    }

    fn submit_at<R: Request>(&self, request: &R, version: i16) -> Pending<R> {
        let correlation = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        lock(&self.waiting).insert(correlation, sender);
        let frame = encode_request(request, version, correlation, &self.client_id);
        let sent = self.outgoing.send(Outgoing { frame, written: None });
        if sent.is_err() || !self.is_open() {
            lock(&self.waiting).remove(&correlation);
        }
        Pending {
            address: self.address.clone(),
            api: spoken(R::KEY).0,
            version,
            answer,
            request: PhantomData,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn close(waiting: &Waiting, closed: &AtomicBool) {
    closed.store(true, Ordering::Release);
    lock(waiting).clear();
}

async fn write_requests(
    mut stream: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<Outgoing>,
    waiting: Waiting,
    closed: Arc<AtomicBool>,
) {
    let mut requests = Vec::new();
    while queue.recv_many(&mut requests, 64).await > 0 {
        let written = match requests.as_slice() {
            [request] => stream.write_all(&request.frame).await,
            many => {
                let frames: Vec<&[u8]> = many.iter().map(|request| &request.frame[..]).collect();
                let joined = frames.concat();
                stream.write_all(&joined).await
            }
        };
        if written.is_err() {
            break;
        }
        for told in requests.drain(..).filter_map(|request| request.written) {
            // whoever waited may have given up
            let _ = told.send(());
        }
    }
    close(&waiting, &closed);
}

async fn read_answers(mut stream: OwnedReadHalf, waiting: Waiting, closed: Arc<AtomicBool>) {
    // an error and an orderly end mean the same to those who wait
    let _ = read_frames(&mut stream, &waiting).await;
    close(&waiting, &closed);
}

async fn read_frames(stream: &mut OwnedReadHalf, waiting: &Waiting) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(64 << 10);
    loop {
        while let Some(frame) = take_frame(&mut buffer)? {
            let Some(correlation) = frame.first_chunk::<4>().map(|bytes| i32::from_be_bytes(*bytes)) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            if let Some(waiter) = lock(waiting).remove(&correlation) {
                // whoever waited may have given up
                let _ = waiter.send(frame);
            }
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// The next whole frame of the buffer, without its length.
fn take_frame(buffer: &mut BytesMut) -> io::Result<Option<Bytes>> {
    let Some(prefix) = buffer.first_chunk::<4>() else {
        buffer.reserve(64 << 10);
        return Ok(None);
    };
    let length = u32::from_be_bytes(*prefix) as usize;
    if length > MAX_RESPONSE_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if buffer.len() < 4 + length {
        // grows with what arrives, not with what is announced
        buffer.reserve((4 + length - buffer.len()).min(1 << 20));
        return Ok(None);
    }
    let mut frame = buffer.split_to(4 + length).freeze();
    Ok(Some(frame.split_off(4)))
}

/// A failure for an error code that a broker answered.
pub(super) fn answered(code: i16, item: &str, what: &str, message: Option<&str>) -> Failure {
    let name = ErrorCode::from_number(code).map_or("UNKNOWN_ERROR_CODE", ErrorCode::name);
    let why = match (message, code) {
        (Some(message), _) if !message.is_empty() => message.to_owned(),
        (_, 3 | 100) => "no such topic or partition".to_owned(),
        (_, 17) => "the topic's name is not legal".to_owned(),
        (_, 36) => "a topic of that name exists".to_owned(),
        (_, 68) => "the group still has members".to_owned(),
        (_, 69) => "no such group".to_owned(),
        _ => name.to_lowercase().replace('_', " "),
    };
    let failure = Failure::kafka(code, name, item, format!("{what}: {why}"));
    match code {
        3 | 100 => failure.hint("alluvium topic list"),
        17 => failure.hint("letters, digits, '.', '_' and '-', at most 249"),
        25 | 68 => failure.hint(format!("stop its members: alluvium group describe {item}")),
        69 => failure.hint("alluvium group list"),
        40 => failure.hint("alluvium topic describe --configs TOPIC shows the settings there are"),
        _ => failure,
    }
}

/// Whether a client should try again after this code.
pub(super) fn is_retriable(code: i16) -> bool {
    ErrorCode::from_number(code).is_some_and(ErrorCode::is_retriable)
}
