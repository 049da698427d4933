//! One connection of a client: frames in, answers out, in the same order.
//!
//! ```text
//! one turn:   socket --one greedy read--> incoming --frames, in place--> requests --submit--> produces (pipelined)
//!                                                                            \--> running (one other request)
//!             socket <--one vectored write-- output <--answers in request order--/
//! ```
//! Produces are submitted as they arrive and answered as they complete; any other request starts once all before it
//! are answered, and nothing starts behind it before it is (Kafka mutes the channel in the same way). So answers leave
//! in request order by construction.
//!
//! Invariants:
//! - no more than `MAX_PIPELINED` requests and `MAX_PIPELINED_BYTES` of them are in flight;
//! - while answers of more than `MAX_UNSENT` bytes wait for the client, nothing new starts and nothing is read;
//! - the rest of a frame is read only after its length was taken from the node's budget;
//! - no error on one connection is seen by another.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use replication::{AppendResult, CompletionQueue};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, Sleep},
};

use crate::{
    api::{self, Broker, Context as RequestContext, Handled, Started, produce::PendingProduce},
    budget::Share,
    output::Output,
};

/// Most requests in flight on one connection.
const MAX_PIPELINED: usize = 256;
/// Most bytes of requests in flight on one connection (one request may be larger).
const MAX_PIPELINED_BYTES: usize = 32 << 20;
/// From this many unsent bytes of answers on, nothing new starts.
const MAX_UNSENT: usize = 4 << 20;
/// Smallest and largest amount of one read.
const READ_BYTES: std::ops::RangeInclusive<usize> = 4 << 10..=1 << 20;
/// How often the progress of a frame that has begun is looked at.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// A timer that fires so much later than it should tells of a process that stood still.
const LATE: Duration = Duration::from_secs(1);
/// Least bytes a second at which a frame has to come in.
const FRAME_RATE: u64 = 1 << 10;
/// The same for a large frame, which holds much of the budget while it comes.
const LARGE_FRAME_RATE: u64 = 64 << 10;
/// From here on a frame is large, bytes.
const LARGE_FRAME: usize = 1 << 20;
/// While more bytes than this wait to become durable, nothing is read from clients.
const MAX_NOT_DURABLE: u64 = 64 << 20;
/// How soon a connection that does not read for that reason, and waits for no produce of its own, looks again.
const BRAKE_INTERVAL: Duration = Duration::from_millis(2);
/// After the stop signal a connection has this long to finish what runs.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Close {
    /// The client closed it.
    #[error("closed by the client")]
    Client,
    /// The system reported an error on the socket.
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
    /// A frame length that cannot be.
    #[error("a frame of {length} bytes; the limit is {limit}")]
    FrameLength {
        /// What the client announced.
        length: i32,
        /// `socket.request.max.bytes`.
        limit: usize,
    },
    /// The bytes are those of another protocol.
    #[error(
        "this looks like {0}, not like Kafka's protocol; this port speaks Kafka's protocol in plain text"
    )]
    OtherProtocol(&'static str),
    /// No such API, or not in this version.
    #[error("unsupported: {api} (key {key}) version {version}, client '{client_id}'")]
    Unsupported {
        /// Name, where the key is known.
        api: &'static str,
        /// API key.
        key: i16,
        /// API version.
        version: i16,
        /// The client's name for itself, as far as it could be read, with its software name if it gave one.
        client_id: String,
    },
    /// The bytes of a request are not what its version says.
    #[error("malformed {api} version {version}: {reason}")]
    Malformed {
        /// API name.
        api: &'static str,
        /// API version.
        version: i16,
        /// What does not hold.
        reason: String,
    },
    /// A produce that wants no answer failed: closing is the only way to say so.
    #[error("produce with acks=0 failed: {0}")]
    Unanswered(String),
    /// Nothing came for `connections.max.idle.ms`.
    #[error("idle")]
    Idle,
    /// A frame came too slowly.
    #[error("a frame was begun and not continued")]
    Slow,
    /// The server stops.
    #[error("the server stops")]
    Stopping,
}

impl Close {
    /// The label under which it is counted, and whether it deserves a log line.
    fn kind(&self) -> (&'static str, bool) {
        match self {
            Self::Client => ("client", false),
            Self::Socket(_) => ("socket", false),
            Self::FrameLength { .. } => ("frame_length", true),
            Self::OtherProtocol(_) => ("other_protocol", true),
            Self::Unsupported { .. } => ("unsupported", true),
            Self::Malformed { .. } => ("malformed", true),
            Self::Unanswered(_) => ("unanswered", true),
            Self::Idle => ("idle", false),
            Self::Slow => ("slow", true),
            Self::Stopping => ("stopping", false),
        }
    }
}

/// Serves one client until it leaves, is closed for what it sent, or the server stops.
pub async fn serve(broker: Arc<Broker>, mut stream: TcpStream, peer: SocketAddr, listener: usize) {
    let close = {
        let mut connection = Connection::new(Arc::clone(&broker), peer, listener);
        let stopping = broker.stopping.register();
        std::future::poll_fn(|context| {
            stopping.register(context.waker());
            connection.poll(&mut stream, context)
        })
        .await
    };
    let (kind, worth_a_line) = close.kind();
    broker.metrics.connections_closed.with_label_values(&[kind]).inc();
    if worth_a_line && let Some(suppressed) = LINES.allow(broker.clock.now_ms()) {
        tracing::warn!(%peer, listener = %broker.endpoints[listener].listener, suppressed, "connection closed: {close}");
    }
}

/// Log lines about clients' mistakes: a few a second, whatever the clients do.
static LINES: LineLimit =
    LineLimit { second: AtomicI64::new(0), lines: AtomicU64::new(0), suppressed: AtomicU64::new(0) };
const LINES_A_SECOND: u64 = 5;

struct LineLimit {
    second: AtomicI64,
    lines: AtomicU64,
    suppressed: AtomicU64,
}

impl LineLimit {
    /// Whether another line may be written; if so, how many were not since the last one.
    fn allow(&self, now_ms: i64) -> Option<u64> {
        let second = now_ms / 1_000;
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.lines.store(0, Ordering::Relaxed);
        }
        if self.lines.fetch_add(1, Ordering::Relaxed) < LINES_A_SECOND {
            Some(self.suppressed.swap(0, Ordering::Relaxed))
        } else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

/// A request other than Produce, started and not finished.
struct Running {
    future: Pin<Box<dyn Future<Output = Handled> + Send>>,
    api: usize,
    started: Instant,
    share: Share,
}

/// A whole frame that waits for its turn.
struct Frame {
    body: Bytes,
    share: Share,
    arrived: Instant,
}

struct Connection {
    broker: Arc<Broker>,
    context: RequestContext,
    incoming: BytesMut,
    read_bytes: usize,
    /// The frame whose bytes are coming in, once its length is known and taken from the budget.
    frame: Option<Beginning>,
    waiting_for_budget: Option<Pin<Box<dyn Future<Output = Share> + Send>>>,
    /// Read, and not startable yet.
    held: Option<Frame>,
    /// The last turn read what there was.
    reading: bool,
    produces: VecDeque<PendingProduce>,
    produce_bytes: usize,
    /// Number of the front of `produces`.
    first_produce: u64,
    running: Option<Running>,
    completions: Arc<CompletionQueue>,
    finished: Vec<(u64, AppendResult)>,
    output: Output,
    greeted: bool,
    ended: bool,
    /// Why the connection is closed once everything before is answered.
    closing: Option<Close>,
    last_active: Instant,
    received: u64,
    stop_deadline: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

/// A frame whose length is known.
struct Beginning {
    length: usize,
    share: Share,
    progress: Progress,
}

/// How fast a frame comes in, while it is read.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// Since when it is read without a pause.
    since: Instant,
    /// [`Connection::received`] at that time.
    received: u64,
}

impl Progress {
    /// Whether `length` bytes come in slower than from any honest client.
    fn is_slow(self, length: usize, now: Instant, received: u64) -> bool {
        let waited = now - self.since;
        let rate = if length >= LARGE_FRAME { LARGE_FRAME_RATE } else { FRAME_RATE };
        waited >= PROGRESS_INTERVAL && received - self.received < waited.as_secs() * rate
    }
}

impl Connection {
    fn new(broker: Arc<Broker>, peer: SocketAddr, listener: usize) -> Self {
        let now = Instant::now();
        let timer = Box::pin(tokio::time::sleep_until(now + broker.config.connections_max_idle));
        Self {
            broker,
            context: RequestContext::new(peer, listener),
            incoming: BytesMut::new(),
            read_bytes: *READ_BYTES.start(),
            frame: None,
            waiting_for_budget: None,
            held: None,
            reading: false,
            produces: VecDeque::new(),
            produce_bytes: 0,
            first_produce: 0,
            running: None,
            completions: Arc::default(),
            finished: Vec::new(),
            output: Output::default(),
            greeted: false,
            ended: false,
            closing: None,
            last_active: now,
            received: 0,
            stop_deadline: None,
            timer,
        }
    }

    /// One turn; pending until there is reason for another.
    fn poll(&mut self, stream: &mut TcpStream, context: &mut Context<'_>) -> Poll<Close> {
        match self.turn(stream, context) {
            Ok(true) => {
                // Others first: a connection that always has something to read must not starve them.
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(false) => Poll::Pending,
            Err(close) => Poll::Ready(close),
        }
    }

    /// Does what can be done now. True: there may be more to do at once.
    fn turn(&mut self, stream: &mut TcpStream, context: &mut Context<'_>) -> Result<bool, Close> {
        let mut more = false;
        let could_read = self.may_read();
        if could_read {
            if !self.reading {
                self.restart_progress();
            }
            more = self.read(stream, context)?;
        }
        self.reading = could_read;
        self.check_stop();
        let step = self
            .finish_produces(context)
            .and_then(|()| self.poll_running(context))
            .and_then(|()| self.start_requests(context));
        if let Err(close) = step {
            self.close_behind_answers(close);
        }
        let was_full = !self.may_take_more();
        self.write(stream, context)?;
        if !could_read && self.produces.is_empty() && self.running.is_none() && self.is_braked() {
            // Nothing of our own will wake this connection when there is room again.
            self.timer.as_mut().reset(Instant::now() + BRAKE_INTERVAL);
        }
        let unsent = self.output.bytes();
        self.check_timer(context)?;
        if self.output.bytes() > unsent {
            // The answer to a produce whose time is over leaves now, not with whatever wakes this connection next.
            self.write(stream, context)?;
        }
        if self.is_over() {
            let stopped = if self.stop_deadline.is_some() { Close::Stopping } else { Close::Client };
            return Err(self.closing.take().unwrap_or(stopped));
        }
        if self.incoming.is_empty() && !more {
            // An idle connection owns no buffer.
            self.incoming = BytesMut::new();
        }
        // Answers that left, or a frame that found its turn, may have made room again.
        let has_room_again = was_full && self.may_take_more();
        Ok(more || (self.may_read() && !could_read) || has_room_again || self.may_start_held())
    }

    /// Nothing more is taken; what came before is still answered, for the client counts on it.
    fn close_behind_answers(&mut self, close: Close) {
        self.closing.get_or_insert(close);
        self.held = None;
        self.frame = None;
        self.waiting_for_budget = None;
        self.incoming = BytesMut::new();
        // One that failed and wants no answer stops those behind it, which do.
        while self.answer_produces().is_err() {}
    }

    fn may_read(&self) -> bool {
        !self.ended
            && self.closing.is_none()
            && self.stop_deadline.is_none()
            && self.held.is_none()
            && self.waiting_for_budget.is_none()
            && self.may_take_more()
            && !self.is_braked()
    }

    /// The flusher's queue is full: what clients send stays in their sockets.
    fn is_braked(&self) -> bool {
        self.broker.node.flusher_stats().queued_bytes > MAX_NOT_DURABLE
    }

    fn may_take_more(&self) -> bool {
        self.produces.len() < MAX_PIPELINED
            && self.produce_bytes < MAX_PIPELINED_BYTES
            && self.output.bytes() < MAX_UNSENT
    }

    /// Reads once, as much as there is. True: the buffer was filled, there may be more.
    fn read(&mut self, stream: &mut TcpStream, context: &mut Context<'_>) -> Result<bool, Close> {
        loop {
            self.make_room();
            let room = self.incoming.capacity() - self.incoming.len();
            let read = match pin!(stream.read_buf(&mut self.incoming)).poll(context) {
                Poll::Pending => return Ok(false),
                Poll::Ready(read) => read?,
            };
            if read == 0 {
                self.ended = true;
                // Nobody waits for the answer of what runs.
                self.running = None;
                return Ok(false);
            }
            self.received += read as u64;
            self.last_active = Instant::now();
            self.broker.metrics.bytes_received.inc_by(read as u64);
            if read == room {
                self.read_bytes = (self.read_bytes * 2).min(*READ_BYTES.end());
                return Ok(true);
            }
            if read < self.read_bytes / 8 {
                self.read_bytes = (self.read_bytes / 2).max(*READ_BYTES.start());
            }
            // A read that did not fill the buffer emptied the socket: the next one only registers for what comes.
        }
    }

    /// Room for the rest of the frame that is coming in. Its pages are touched as bytes arrive, not before.
    fn make_room(&mut self) {
        let room = self.incoming.capacity() - self.incoming.len();
        let rest =
            self.frame.as_ref().map_or(4, |frame| 4 + frame.length).saturating_sub(self.incoming.len());
        if room == 0 || room < rest {
            self.incoming.reserve(rest.max(self.read_bytes));
        }
    }

    /// The next whole frame, if it is there.
    fn next_frame(&mut self, context: &mut Context<'_>) -> Result<Option<Frame>, Close> {
        if self.frame.is_none() {
            let Some(length) = self.next_length()? else { return Ok(None) };
            let Some(share) = self.take_budget(length, context) else { return Ok(None) };
            let now = self.last_active;
            let progress = Progress { since: now, received: self.received };
            self.frame = Some(Beginning { length, share, progress });
            if self.incoming.len() < 4 + length && self.timer.deadline() > now + PROGRESS_INTERVAL {
                self.timer.as_mut().reset(now + PROGRESS_INTERVAL);
            }
        }
        match self.frame.take() {
            Some(frame) if self.incoming.len() >= 4 + frame.length => {
                self.incoming.advance(4);
                let body = self.incoming.split_to(frame.length).freeze();
                if frame.length > *READ_BYTES.end() {
                    // The next read would go on in the memory of this frame, whose share of the budget goes back before.
                    self.incoming = BytesMut::from(&self.incoming[..]);
                }
                Ok(Some(Frame { body, share: frame.share, arrived: self.last_active }))
            }
            unfinished => {
                self.frame = unfinished;
                Ok(None)
            }
        }
    }

    fn next_length(&mut self) -> Result<Option<usize>, Close> {
        let Some(prefix) = self.incoming.first_chunk::<4>() else { return Ok(None) };
        if !self.greeted {
            if let Some(protocol) = other_protocol(prefix) {
                return Err(Close::OtherProtocol(protocol));
            }
            self.greeted = true;
        }
        let length = i32::from_be_bytes(*prefix);
        let limit = self.broker.config.request_max_bytes.min(self.broker.budget.largest());
        match usize::try_from(length) {
            Ok(bytes) if bytes > 0 && bytes <= limit => Ok(Some(bytes)),
            _ => Err(Close::FrameLength { length, limit }),
        }
    }

    fn take_budget(&mut self, bytes: usize, context: &mut Context<'_>) -> Option<Share> {
        if let Some(waiting) = &mut self.waiting_for_budget {
            let Poll::Ready(share) = waiting.as_mut().poll(context) else { return None };
            self.waiting_for_budget = None;
            return Some(share);
        }
        if let Some(share) = self.broker.budget.try_take(bytes) {
            return Some(share);
        }
        let budget = self.broker.budget.clone();
        self.waiting_for_budget = Some(Box::pin(async move { budget.take(bytes).await }));
        self.take_budget(bytes, context)
    }

    /// Starts what may start, in order of arrival.
    fn start_requests(&mut self, context: &mut Context<'_>) -> Result<(), Close> {
        if self.closing.is_some() {
            return Ok(());
        }
        while self.may_take_more() && self.running.is_none() {
            let frame = match self.held.take() {
                Some(frame) => frame,
                None if self.stop_deadline.is_some() => return Ok(()),
                None => match self.next_frame(context)? {
                    Some(frame) => frame,
                    None => return Ok(()),
                },
            };
            if !api::is_produce(&frame.body) && !self.produces.is_empty() {
                self.held = Some(frame);
                return Ok(());
            }
            self.start(frame, context)?;
        }
        if self.held.is_none() && self.may_take_more() && self.stop_deadline.is_none() {
            // Behind a request that runs: so that its bytes are off the socket, and a client that left is noticed.
            self.held = self.next_frame(context)?;
        }
        Ok(())
    }

    /// Whether [`Connection::start_requests`] stopped at something that may go on now.
    fn may_start_held(&self) -> bool {
        self.running.is_none() && self.may_take_more() && self.held.is_some() && self.produces.is_empty()
    }

    fn start(&mut self, frame: Frame, context: &mut Context<'_>) -> Result<(), Close> {
        let number = self.first_produce + self.produces.len() as u64;
        let started = api::start(&self.broker, &mut self.context, frame.body, number, &self.completions)?;
        match started {
            Started::Produce(mut produce) => {
                let now = Instant::now();
                self.produce_bytes += frame.share.bytes();
                self.broker.metrics.phases(produce.api).queue.observe((now - frame.arrived).as_secs_f64());
                produce.started = now;
                produce.deadline = now + produce.timeout;
                produce.share = Some(frame.share);
                if produce.deadline < self.timer.deadline() {
                    self.timer.as_mut().reset(produce.deadline);
                }
                self.produces.push_back(produce);
                self.answer_produces()
            }
            Started::Task { api, future } => {
                let started = Instant::now();
                self.broker.metrics.phases(api).queue.observe((started - frame.arrived).as_secs_f64());
                self.running = Some(Running { future, api, started, share: frame.share });
                self.poll_running(context)
            }
        }
    }

    fn poll_running(&mut self, context: &mut Context<'_>) -> Result<(), Close> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let Poll::Ready(handled) = running.future.as_mut().poll(context) else {
            if self.ended && api::may_wait(running.api) {
                // It came with the end of the connection: it would wait for nobody.
                self.running = None;
                return Ok(());
            }
            if api::lets_go_of_frame(running.api) {
                running.share.give_back();
            }
            return Ok(());
        };
        if let Some(Running { api, started, share, .. }) = self.running.take() {
            let now = Instant::now();
            let phases = self.broker.metrics.phases(api);
            phases.local.observe((now - started).as_secs_f64());
            self.output.push(handled?, share, now, &phases.send);
            self.last_active = now;
        }
        Ok(())
    }

    /// Takes in what the partitions finished, and queues the answers that are complete and next in order.
    fn finish_produces(&mut self, context: &mut Context<'_>) -> Result<(), Close> {
        if self.completions.poll_finished(context).is_pending() {
            return Ok(());
        }
        let mut finished = std::mem::take(&mut self.finished);
        self.completions.drain(&mut finished);
        for (token, result) in finished.drain(..) {
            let (number, slot) = PendingProduce::split(token);
            // A produce that timed out has left the queue: its number is below.
            let place = number.checked_sub(self.first_produce).and_then(|place| usize::try_from(place).ok());
            if let Some(produce) = place.and_then(|place| self.produces.get_mut(place)) {
                produce.finish(slot, result);
            }
        }
        self.finished = finished;
        self.answer_produces()
    }

    fn answer_produces(&mut self) -> Result<(), Close> {
        let mut now = None;
        while self.produces.front().is_some_and(PendingProduce::is_finished) {
            let Some(mut produce) = self.produces.pop_front() else { break };
            self.first_produce += 1;
            let now = *now.get_or_insert_with(Instant::now);
            self.last_active = now;
            let phases = self.broker.metrics.phases(produce.api);
            phases.local.observe((now - produce.started).as_secs_f64());
            let Some(share) = produce.share.take() else { continue };
            self.produce_bytes -= share.bytes();
            if let Some(answer) = produce.into_answer(&self.broker)? {
                self.output.push(answer, share, now, &phases.send);
            }
        }
        Ok(())
    }

    fn write(&mut self, stream: &mut TcpStream, context: &mut Context<'_>) -> Result<(), Close> {
        if self.output.is_empty() {
            return Ok(());
        }
        let mut written = 0;
        let rounds = self.broker.node.flusher_stats().rounds;
        let result = self.output.poll_write(stream, context, rounds, &mut written);
        self.broker.metrics.bytes_sent.inc_by(written);
        if written > 0 {
            self.last_active = Instant::now();
        }
        match result {
            Poll::Ready(result) => Ok(result?),
            Poll::Pending => Ok(()),
        }
    }

    /// Whether all is done that will be done on this connection.
    fn is_over(&self) -> bool {
        (self.ended || self.closing.is_some() || self.stop_deadline.is_some())
            && self.produces.is_empty()
            && self.running.is_none()
            && (self.held.is_none() || !self.may_take_more())
            && self.output.is_empty()
    }

    fn check_stop(&mut self) {
        if self.stop_deadline.is_none() && self.broker.stopping.is_set() {
            let deadline = Instant::now() + STOP_GRACE;
            self.stop_deadline = Some(deadline);
            self.held = None;
            self.timer.as_mut().reset(deadline);
        }
    }

    /// Looks at deadlines when the one timer of the connection fires, and sets it to the next of them.
    fn check_timer(&mut self, context: &mut Context<'_>) -> Result<(), Close> {
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            if now - self.timer.deadline() > LATE {
                // The process stood still, and did not read either.
                self.restart_progress();
            }
            if self.stop_deadline.is_some_and(|deadline| now >= deadline) {
                return Err(Close::Stopping);
            }
            self.check_progress(now)?;
            self.time_out_produces(now)?;
            let busy = self.running.is_some() || !self.produces.is_empty();
            let idle_at = if busy { now } else { self.last_active } + self.broker.config.connections_max_idle;
            if now >= idle_at {
                return Err(Close::Idle);
            }
            // One that is finished stays behind those before it; its deadline means nothing any more.
            let waiting = self.produces.iter().filter(|produce| !produce.is_finished());
            let produce_at = waiting.map(|produce| produce.deadline).min();
            let slow_at = self.frame.as_ref().map(|_| now + PROGRESS_INTERVAL);
            let next =
                [produce_at, slow_at, self.stop_deadline].into_iter().flatten().fold(idle_at, Instant::min);
            self.timer.as_mut().reset(next);
        }
        Ok(())
    }

    /// A frame that has begun has to come in at a rate that no honest network falls below. Only time in which it was read counts.
    fn check_progress(&self, now: Instant) -> Result<(), Close> {
        match &self.frame {
            Some(frame) if self.reading && frame.progress.is_slow(frame.length, now, self.received) => {
                Err(Close::Slow)
            }
            _ => Ok(()),
        }
    }

    /// Begins to count anew: what the client could not send because we did not read is no fault of its.
    fn restart_progress(&mut self) {
        if let Some(frame) = &mut self.frame {
            frame.progress = Progress { since: Instant::now(), received: self.received };
        }
    }

    fn time_out_produces(&mut self, now: Instant) -> Result<(), Close> {
        for produce in self.produces.iter_mut().filter(|produce| !produce.is_finished()) {
            if produce.deadline <= now {
                produce.time_out();
            }
        }
        self.answer_produces()
    }
}

/// What the first four bytes of a connection say, where they are known not to be a frame's length.
fn other_protocol(prefix: &[u8; 4]) -> Option<&'static str> {
    match prefix {
        b"GET " | b"POST" | b"HEAD" | b"PUT " | b"OPTI" | b"DELE" | b"CONN" | b"PATC" | b"TRAC" => {
            Some("HTTP")
        }
        b"PRI " => Some("HTTP/2"),
        b"SSH-" => Some("SSH"),
        [0x16, 0x03, 0x00..=0x04, _] => Some("a TLS client hello"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves: fault I01 (honest clients are not closed for it).
    #[test]
    fn a_frame_is_slow_only_by_the_time_in_which_it_was_read() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let large = 8 << 20;
        let progress = Progress { since: begun, received: 1_000 };
        assert!(!progress.is_slow(large, after(9), 1_000), "it is early");
        assert!(progress.is_slow(large, after(10), 1_000 + 10 * LARGE_FRAME_RATE - 1));
        assert!(!progress.is_slow(large, after(10), 1_000 + 10 * LARGE_FRAME_RATE));
        assert!(progress.is_slow(1_000, after(20), 1_000 + 20 * FRAME_RATE - 1));
        assert!(!progress.is_slow(1_000, after(20), 1_000 + 20 * FRAME_RATE));
        // Nothing was read for a minute: what comes afterwards is measured alone.
        let resumed = Progress { since: after(60), received: 5_000 };
        assert!(!resumed.is_slow(large, after(69), 5_000));
        assert!(!resumed.is_slow(large, after(70), 5_000 + 10 * LARGE_FRAME_RATE));
    }
}
