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
use log_store::{LogSlice, disk::DiskFile};
use prometheus::Histogram;
use tokio::{
    io::{AsyncWrite, Interest},
    net::TcpStream,
    task::JoinHandle,
    time::Instant,
};

use crate::{budget::Share, protocol::Piece};

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

    /// Writes until everything is gone or the socket takes no more. Ready once everything is gone: the number of bytes
    /// written by this call is added to `written` in either case.
    pub fn poll_write(
        &mut self,
        stream: &mut TcpStream,
        context: &mut Context<'_>,
        written: &mut u64,
    ) -> Poll<io::Result<()>> {
        loop {
            let sent = match self.pieces.front() {
                None => break,
                Some(Piece::Encoded(_) | Piece::Slice(LogSlice::Bytes(_))) => {
                    ready!(self.poll_write_bytes(stream, context))?
                }
                Some(Piece::Slice(LogSlice::File { .. })) => ready!(self.poll_send_file(stream, context))?,
            };
            *written += sent as u64;
            self.advance(sent);
        }
        self.settle();
        Poll::Ready(Ok(()))
    }

    fn poll_write_bytes(&self, stream: &mut TcpStream, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for piece in self.pieces.iter().take(SLICES) {
            let (Piece::Encoded(bytes) | Piece::Slice(LogSlice::Bytes(bytes))) = piece else { break };
            slices[count] = IoSlice::new(bytes);
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
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        // The socket was full: tell tokio so by asking it to write nothing, then wait.
                        let full: io::Result<()> =
                            stream.try_io(Interest::WRITABLE, || Err(io::ErrorKind::WouldBlock.into()));
                        drop(full);
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            ready!(stream.poll_write_ready(context))?;
            let Some(Piece::Slice(LogSlice::File { file, position, len })) = self.pieces.front() else {
                return Poll::Ready(Ok(0));
            };
            let socket = rustix::io::dup(stream)?;
            let (file, position, len) = (Arc::clone(file), *position, *len);
            self.sending =
                Some(tokio::task::spawn_blocking(move || send_file(&socket, &*file, position, len)));
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

/// Sends a range of a file until it is gone or the socket is full.
fn send_file(socket: &OwnedFd, file: &dyn DiskFile, position: u64, len: usize) -> io::Result<usize> {
    let Some(descriptor) = file.descriptor() else { return copy_file(socket, file, position, len) };
    let mut offset = position;
    let end = position + len as u64;
    while offset < end {
        let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
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
