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
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
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
#[derive(Debug, Default)]
pub struct Output {
    /// The node's commits when a file was sent last, and when that number was seen to grow.
    rounds: Option<u64>,
    committed: Option<Instant>,
    /// Files that the system was left to read ahead of.
    read_ahead: Vec<Weak<dyn DiskFile>>,
    pieces: VecDeque<Piece>,
    bytes: usize,
    receipts: VecDeque<Receipt>,
    added: u64,
    removed: u64,
    sending: Option<JoinHandle<io::Result<usize>>>,
}

impl Output {
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
    /// everything is gone: the number of bytes written by this call is added to `written` in any case. `rounds` counts the node's commits:
    /// while they go on, files are read so that commits have the disk.
    pub fn poll_write(
        &mut self,
        stream: &mut TcpStream,
        context: &mut Context<'_>,
        rounds: u64,
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
                Some(Piece::Slice(LogSlice::File { .. })) => {
                    ready!(self.poll_send_file(stream, context, rounds))?
                }
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

    fn poll_send_file(
        &mut self,
        stream: &TcpStream,
        context: &mut Context<'_>,
        rounds: u64,
    ) -> Poll<io::Result<usize>> {
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
            let ahead = self.ahead(&file, rounds);
            self.sending =
                Some(tokio::task::spawn_blocking(move || send_file(&socket, &*file, position, len, ahead)));
        }
    }

    /// How a file is to be read now. A connection's first look cannot tell whether commits go on, and lets the system read ahead.
    fn ahead(&mut self, file: &Arc<dyn DiskFile>, rounds: u64) -> Ahead {
        if self.rounds.replace(rounds).is_some_and(|before| before != rounds) {
            self.committed = Some(Instant::now());
        }
        let commits_go_on = self.committed.is_some_and(|at| at.elapsed() < QUIET);
        let known =
            self.read_ahead.iter().position(|known| std::ptr::addr_eq(known.as_ptr(), Arc::as_ptr(file)));
        match (commits_go_on, known) {
            (false, Some(_)) => Ahead::System,
            (false, None) => {
                self.read_ahead.retain(|known| known.strong_count() > 0);
                self.read_ahead.push(Arc::downgrade(file));
                Ahead::System
            }
            (true, Some(known)) => {
                self.read_ahead.swap_remove(known);
                Ahead::Stopped
            }
            (true, None) => Ahead::Nothing,
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

/// For so long after a commit more are expected.
const QUIET: Duration = Duration::from_secs(1);

/// So long the sending thread waits for room in the socket. A client that reads makes room for the next hundred KiB in a fraction of
/// it; going back to the connection each time would cost its thread, which producers need, a thousand turns a second per reader.
const SOCKET_PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// More than the system reads ahead.
const READ_AHEAD_BYTES: u64 = 16 << 20;

/// What is read of a file before it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ahead {
    /// What the system sees fit.
    System,
    /// Nothing any more: what the system read is given back first, as each window of it bears the mark that starts the next.
    Stopped,
    /// Nothing.
    Nothing,
}

/// Whether a socket takes bytes, waiting for it.
fn takes_more(socket: &OwnedFd, patience: Timespec) -> io::Result<bool> {
    match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&patience)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Sends a range of a file until it is gone or the socket is full, in small pieces unless the system may read ahead.
fn send_file(
    socket: &OwnedFd,
    file: &dyn DiskFile,
    position: u64,
    len: usize,
    ahead: Ahead,
) -> io::Result<usize> {
    let Some(descriptor) = file.descriptor() else { return copy_file(socket, file, position, len) };
    let mut offset = position;
    let end = position + len as u64;
    let whole = ahead == Ahead::System;
    // Advice that is refused costs only speed.
    _ = file.advise(position..end, if whole { Advice::Normal } else { Advice::Random });
    if ahead == Ahead::Stopped {
        _ = file.advise(position..position + READ_AHEAD_BYTES, Advice::DontNeed);
    }
    let mut asked = if whole { end } else { position };
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
            Err(rustix::io::Errno::AGAIN) if takes_more(socket, SOCKET_PATIENCE)? => {}
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
    use log_store::disk::{Access, Disk, RealDisk};
    use tokio::{
        io::AsyncReadExt,
        net::TcpListener,
        time::{sleep, timeout},
    };

    use super::*;

    /// A client, the broker's end of its connection, and that end as the sending thread has it.
    async fn connected() -> (TcpStream, TcpStream, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        let stream = server.expect("accepted").0;
        let socket = rustix::io::dup(&stream).expect("a descriptor");
        (client.expect("connected"), stream, socket)
    }

    /// While the node commits nothing the system reads ahead; once it does, what was read ahead of each file is given back.
    #[test]
    fn readers_give_way_while_commits_go_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name| {
            let path = dir.path().join(name);
            std::fs::write(&path, b"records").expect("a file");
            RealDisk.open(&path, Access::Read).expect("an open file")
        };
        let (one, other) = (file("one"), file("other"));
        let mut output = Output::default();
        assert_eq!(output.ahead(&one, 7), Ahead::System, "it cannot tell yet");
        assert_eq!(output.ahead(&one, 7), Ahead::System);
        assert_eq!(output.ahead(&other, 7), Ahead::System);
        assert_eq!(output.ahead(&one, 8), Ahead::Stopped);
        assert_eq!(output.ahead(&one, 8), Ahead::Nothing, "it was a moment ago");
        assert_eq!(output.ahead(&other, 9), Ahead::Stopped, "each file once");
        assert_eq!(output.ahead(&other, 9), Ahead::Nothing);
        output.committed = output.committed.and_then(|at| at.checked_sub(QUIET));
        assert_eq!(output.ahead(&other, 9), Ahead::System, "it is quiet again");
        assert_eq!(output.ahead(&other, 10), Ahead::Stopped);
    }

    /// Another thread finds the socket full, and it has room again before that is heard here.
    #[tokio::test]
    async fn room_that_came_before_a_full_socket_was_heard_of_is_not_forgotten() {
        let (mut client, stream, socket) = connected().await;
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
        let (mut client, stream, socket) = connected().await;
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
