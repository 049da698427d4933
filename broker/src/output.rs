//! What a connection still has to write: answers in order, as pieces that are never joined.
//!
//! Pieces in memory leave with one vectored write for all answers that are ready; ranges of files leave by `sendfile`
//! from a thread that may wait for the disk, on a duplicate of the socket's descriptor.

use std::{
    collections::VecDeque,
    future::Future,
    io::{self, IoSlice},
    os::fd::OwnedFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use log_store::{
    LogSlice,
    disk::{Advice, DiskFile},
};
use prometheus::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    io::{AsyncWrite, Interest},
    net::TcpStream,
    task::JoinHandle,
    time::Instant,
};

use crate::{budget::Share, protocol::Piece};

/// Bytes of memory that one connection hands to the kernel before others have their turn: copying them is this thread's work.
const TURN_BYTES: usize = 512 << 10;
/// Most slices of one vectored write (Linux takes 1,024).
const SLICES: usize = 128;

fn len(piece: &Piece) -> usize {
    match piece {
        Piece::Encoded(bytes) | Piece::Slice(LogSlice::Bytes(bytes)) => bytes.len(),
        Piece::Slice(LogSlice::File { len, .. }) => *len,
    }
}

/// An answer, ready to be written.
#[derive(Debug, Default)]
pub struct Answer {
    /// Its bytes, frame length first.
    pub pieces: Vec<Piece>,
}

/// What is settled when the last byte of an answer was handed to the kernel.
#[derive(Debug)]
struct Receipt {
    /// Pieces of the queue that have to be gone.
    until: u64,
    ready: Instant,
    send: Histogram,
    _share: Share,
}

/// The queue of one connection.
#[derive(Debug)]
pub struct Output {
    /// Syncs of the write-ahead log.
    syncs: Histogram,
    /// How many there were when a file was sent last.
    seen_syncs: u64,
    pieces: VecDeque<Piece>,
    bytes: usize,
    receipts: VecDeque<Receipt>,
    added: u64,
    removed: u64,
    sending: Option<JoinHandle<io::Result<usize>>>,
}

impl Output {
    /// An empty queue; `syncs` tells whether commits go on that a reader has to give way to.
    pub fn new(syncs: Histogram) -> Self {
        Self {
            syncs,
            seen_syncs: 0,
            pieces: VecDeque::new(),
            bytes: 0,
            receipts: VecDeque::new(),
            added: 0,
            removed: 0,
            sending: None,
        }
    }

    /// Bytes not yet handed to the kernel.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether everything was handed to the kernel.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Queues an answer; `share` is given back and `send` observed once it is written.
    pub fn push(&mut self, answer: Answer, share: Share, ready: Instant, send: &Histogram) {
        for piece in answer.pieces {
            if len(&piece) > 0 {
                self.bytes += len(&piece);
                self.added += 1;
                self.pieces.push_back(piece);
            }
        }
        self.receipts.push_back(Receipt { until: self.added, ready, send: send.clone(), _share: share });
    }

    /// Writes until everything is gone, the socket takes no more, or 512 KiB went: then others have their turn first. Ready once
    /// everything is gone: the number of bytes written by this call is added to `written` in any case.
    pub fn poll_write(
        &mut self,
        stream: &mut TcpStream,
        context: &mut Context<'_>,
        written: &mut u64,
    ) -> Poll<io::Result<()>> {
        let mut turn = TURN_BYTES;
        loop {
            let sent = match self.pieces.front() {
                None => break,
                Some(Piece::Encoded(_) | Piece::Slice(LogSlice::Bytes(_))) => {
                    if turn == 0 {
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    let sent = ready!(self.poll_write_bytes(stream, context, turn))?;
                    turn -= sent;
                    sent
                }
                Some(Piece::Slice(LogSlice::File { .. })) => ready!(self.poll_send_file(stream, context))?,
            };
            *written += sent as u64;
            self.advance(sent);
        }
        self.settle();
        Poll::Ready(Ok(()))
    }

    /// Writes at most `limit` bytes.
    fn poll_write_bytes(
        &self,
        stream: &mut TcpStream,
        context: &mut Context<'_>,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut count, mut left) = (0, limit);
        for piece in self.pieces.iter().take(SLICES) {
            let (Piece::Encoded(bytes) | Piece::Slice(LogSlice::Bytes(bytes))) = piece else { break };
            if left == 0 {
                break;
            }
            slices[count] = IoSlice::new(&bytes[..bytes.len().min(left)]);
            left -= slices[count].len();
            count += 1;
        }
        let sent = if count == 1 {
            ready!(Pin::new(stream).poll_write(context, &slices[0]))?
        } else {
            ready!(Pin::new(stream).poll_write_vectored(context, &slices[..count]))?
        };
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_send_file(&mut self, stream: &TcpStream, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            if let Some(sending) = &mut self.sending {
                let result = ready!(Pin::new(sending).poll(context));
                self.sending = None;
                match result.map_err(io::Error::other)? {
                    Ok(0) => {
                        return Poll::Ready(Err(io::Error::other(
                            "a file ended before the range to be sent",
                        )));
                    }
                    Ok(sent) => return Poll::Ready(Ok(sent)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => forget_writable(stream),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            ready!(stream.poll_write_ready(context))?;
            let Some(Piece::Slice(LogSlice::File { file, position, len })) = self.pieces.front() else {
                return Poll::Ready(Ok(0));
            };
            let socket = rustix::io::dup(stream)?;
            let (file, position, len) = (Arc::clone(file), *position, *len);
            let syncs = self.syncs.get_sample_count();
            let give_way = syncs != std::mem::replace(&mut self.seen_syncs, syncs);
            self.sending = Some(tokio::task::spawn_blocking(move || {
                send_file(&socket, &*file, position, len, give_way)
            }));
        }
    }

    fn advance(&mut self, mut sent: usize) {
        self.bytes -= sent;
        while sent > 0 {
            let Some(piece) = self.pieces.front_mut() else { break };
            let whole = len(piece);
            if sent >= whole {
                sent -= whole;
                self.removed += 1;
                self.pieces.pop_front();
                continue;
            }
            match piece {
                Piece::Encoded(bytes) | Piece::Slice(LogSlice::Bytes(bytes)) => bytes.advance(sent),
                Piece::Slice(LogSlice::File { position, len, .. }) => {
                    *position += sent as u64;
                    *len -= sent;
                }
            }
            sent = 0;
        }
        self.settle();
    }

    fn settle(&mut self) {
        while self.receipts.front().is_some_and(|receipt| receipt.until <= self.removed) {
            if let Some(receipt) = self.receipts.pop_front() {
                receipt.send.observe(receipt.ready.elapsed().as_secs_f64());
            }
        }
    }
}

/// Takes back what tokio believes of a socket that another thread found full, unless it has room again by now: the edge that told so
/// may have come before this call and would not come twice.
fn forget_writable(stream: &TcpStream) {
    let look = || {
        let mut socket = [PollFd::new(stream, PollFlags::OUT)];
        match poll(&mut socket, Some(&Timespec::default()))? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    };
    // An error of `poll` is met again, and told, by the next write.
    let looked: io::Result<()> = stream.try_io(Interest::WRITABLE, look);
    drop(looked);
}

/// Bytes of a file that are asked of the disk at once while commits go on. What the system reads ahead by itself, megabytes, stands in
/// the disk's queue before the next commit's `fdatasync`: beside one such reader the p99 of producing was 60 times as high; with two
/// pieces of this size in the queue there still were spikes. While nobody commits, the system's way is faster and takes less processor.
const PIECE_BYTES: u64 = 128 << 10;

/// Sends a range of a file until it is gone or the socket is full, in small pieces if it has to give way to commits.
fn send_file(
    socket: &OwnedFd,
    file: &dyn DiskFile,
    position: u64,
    len: usize,
    give_way: bool,
) -> io::Result<usize> {
    let Some(descriptor) = file.descriptor() else { return copy_file(socket, file, position, len) };
    let mut offset = position;
    let end = position + len as u64;
    // Advice that is refused costs only speed.
    _ = file.advise(position..end, if give_way { Advice::Random } else { Advice::Normal });
    let mut asked = if give_way { position } else { end };
    while offset < end {
        if offset == asked {
            asked = end.min(offset + PIECE_BYTES);
            // Without it the same bytes are read, but page by page.
            _ = file.advise(offset..asked, Advice::WillNeed);
        }
        let left = usize::try_from(asked - offset).unwrap_or(usize::MAX);
        match rustix::fs::sendfile(socket, descriptor, Some(&mut offset), left) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) if offset > position => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(usize::try_from(offset - position).unwrap_or(usize::MAX))
}

/// The same for a file of a disk that has no descriptors.
fn copy_file(socket: &OwnedFd, file: &dyn DiskFile, position: u64, len: usize) -> io::Result<usize> {
    let mut buffer = vec![0; len.min(64 << 10)];
    let read = file.read_at(&mut buffer, position)?;
    Ok(rustix::io::write(socket, &buffer[..read])?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::AsyncReadExt,
        net::TcpListener,
        time::{sleep, timeout},
    };

    use super::*;

    /// Another thread finds the socket full, and it has room again before that is heard here.
    #[tokio::test]
    async fn room_that_came_before_a_full_socket_was_heard_of_is_not_forgotten() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut client, stream) = (client.expect("connected"), server.expect("accepted").0);
        let socket = rustix::io::dup(&stream).expect("a descriptor");
        let mut buffer = vec![0; 1 << 20];
        for _ in 0..3 {
            stream.writable().await.expect("the socket is open");
            while rustix::io::write(&socket, &buffer).is_ok() {}
            while let Ok(read) = timeout(Duration::from_millis(20), client.read(&mut buffer)).await {
                read.expect("the socket is open");
            }
            sleep(Duration::from_millis(5)).await;
            forget_writable(&stream);
            timeout(Duration::from_secs(20), stream.writable())
                .await
                .expect("there is room")
                .expect("the socket is open");
        }
    }

    #[tokio::test]
    async fn a_full_socket_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut client, stream) = (client.expect("connected"), server.expect("accepted").0);
        let socket = rustix::io::dup(&stream).expect("a descriptor");
        let mut buffer = vec![0; 1 << 20];
        stream.writable().await.expect("the socket is open");
        // What the peer's side still takes a moment later belongs to a full socket too.
        for _ in 0..5 {
            while rustix::io::write(&socket, &buffer).is_ok() {}
            sleep(Duration::from_millis(10)).await;
        }
        forget_writable(&stream);
        assert!(timeout(Duration::from_millis(20), stream.writable()).await.is_err(), "there is no room");
        while timeout(Duration::from_millis(1), stream.writable()).await.is_err() {
            assert_ne!(client.read(&mut buffer).await.expect("the socket is open"), 0);
        }
    }
}
