//! The node's write-ahead log: one ring of preallocated files for all partitions, written in rounds, so that
//! becoming durable costs one sync whatever the number of partitions.
//!
//! ```text
//!   <wal.dir>/0.wal  |round 41|round 42  |..|      64 MiB each (4 MiB when ephemeral), zeroed before use
//!            1.wal  |round 43   |r. 44|0000|      a round never crosses files: it begins the next one instead
//!            2.wal  |0000000000000000000000|      made ahead by a worker: eight as they are needed, up to 48 for bursts
//!
//!   round, on a 4 KiB boundary                    record
//!   0  magic     8  "ALVMWAL\x02" (version 2)     0  type     1
//!   8  salt      8  new with the ring             1  replica  8
//!   16 number    8  dense over the node's life    9  body     by type:
//!   24 payload   4  its length                       1 Created    topic id 16, partition 4, name (length 2, bytes)
//!   28 records   4  their length                     2 Dropped
//!   32 before    4  crc of the round before          3 Vote       term 8, node 8, committed 1
//!   36 crc       4  CRC-32 of salt, records,         4 Control    index 8, term 8, offset 8, length 4, payload
//!                   then bytes 0..36                 5 Batch      index 8, segment 8, position 8, length of the
//!   40 payload: what the batches hold,                            records in it 4, head of the batch 61
//!      one behind the other                          6 Cut        after (optional log id), segment 8, position 8,
//!   .. records, then zeros to 4 KiB                               last (optional log id), next offset 8
//!                                                    7 Purge      term 8, index 8, offset 8
//!   an optional log id is a byte (0 or 1) and,       8 Installed  term 8, index 8, next offset 8, length 4, snapshot
//!   where it is 1, term 8 and index 8                9 Snapshot   length 4, snapshot
//!   all numbers are big-endian                      10 Placed     index 8, segment 8, position 8, head of the batch 61
//! ```
//! What batches hold is in a place of its own, so that recovery passes over it where segments have it: it reads the records of
//! all rounds, then the payload of what is missing. The CRC of a batch covers its payload.
//!
//! # Invariants
//! - A round is written only once the round before it is durable ([`WalWriter::write`] asserts it). Hence at most one
//!   round can be torn, the last, and its payload alone has to be looked at; a whole round beyond a broken one means
//!   damage, and recovery refuses to start (durability rule 1; `recovery`).
//! - A round names the one before it by its CRC: what is left of a round that recovery did not believe, and that another
//!   one of its number followed, is never taken for its predecessor.
//! - The salt is random and new with each checkpoint that begins a ring, and the CRC begins from it: what is left of a
//!   file's former use, or what a client puts into its records, never passes for a round.
//! - A round that says of a batch only where it lies ([`WalRecord::Placed`]) is written once the batch is durable there
//!   ([`Segment::sync_placed`](crate::Segment::sync_placed), durability rule 1).
//! - A round without records marks that recovery went on behind the ones before it.
//! - A file is used again only when a checkpoint holds everything of its rounds ([`WalWriter::release`]).
//! - The first error of a write or a sync is final: every later call fails too (durability rule 6).
//!
//! # Assumed of the disk
//! A sync that returned holds; a write tears at 512 bytes or more; bytes outside a write stay as they were.

use std::{
    collections::VecDeque,
    io::IoSlice,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Buf, BufMut, Bytes};
use memmap2::MmapMut;
use uuid::Uuid;

use crate::{
    BatchHeader, LogEnd, LogId, LogStoreError, RecordBatch, ReplicaId, Vote,
    batch::HEADER_BYTES,
    disk::{Access, DIRECT_ALIGNMENT, Disk, DiskFile, temporary_name},
    recovery::Mutation,
    sys,
};

/// Magic and version of a round.
const MAGIC: [u8; 8] = *b"ALVMWAL\x02";
/// Bytes of a round's header.
const ROUND_HEADER: usize = 40;
/// Of them, those that its CRC covers.
const SUMMED_HEADER: usize = 36;
/// Rounds begin on multiples of this.
const BLOCK: usize = DIRECT_ALIGNMENT;
/// Bytes at which a round is full, unless a single record is larger.
pub const ROUND_BYTES: usize = 8 << 20;
/// Files of a full ring, at the least.
pub const RING_FILES: usize = 8;
/// Files of a full ring where the disk has much room: what the producers bring in ten seconds then waits for its place in the
/// segments until they rest, for a disk that is handed each byte twice at once makes half as many durable.
const MOST_RING_FILES: usize = 48;
/// Of the free space the ring takes no more than one part in so many, unless that were less than its fewest files.
const PART_OF_FREE: u64 = 16;
/// A file of fewer blocks could take no round.
const FEWEST_BLOCKS: u64 = 2;
/// Bytes of a file of the ring unless told otherwise.
pub const FILE_BYTES: u64 = 64 << 20;

/// One change of a replica's durable state.
#[derive(Clone, Debug)]
pub enum WalRecord {
    /// The replica begins to exist, with an empty log.
    Created {
        /// The replica.
        replica: ReplicaId,
        /// Its topic's id.
        topic_id: Uuid,
        /// Its topic's name.
        topic: String,
        /// Its partition.
        partition: i32,
    },
    /// The replica is gone, with all its files.
    Dropped {
        /// The replica.
        replica: ReplicaId,
    },
    /// It voted.
    Vote {
        /// The replica.
        replica: ReplicaId,
        /// The vote.
        vote: Vote,
    },
    /// An entry without records was appended.
    Control {
        /// The replica.
        replica: ReplicaId,
        /// Which entry.
        log_id: LogId,
        /// The log's end offset where it stands.
        offset: i64,
        /// Opaque here.
        payload: Bytes,
    },
    /// A batch was appended; its term is its header's leader epoch.
    Batch {
        /// The replica.
        replica: ReplicaId,
        /// Raft index.
        index: u64,
        /// Base offset of the segment it went into.
        segment: i64,
        /// Byte in the segment.
        position: u64,
        /// The batch.
        batch: RecordBatch,
    },
    /// A batch was appended that is durable in its segment already, and is not held here once more: a large one costs the
    /// disk half as much so.
    Placed {
        /// The replica.
        replica: ReplicaId,
        /// Raft index.
        index: u64,
        /// Base offset of the segment it lies in.
        segment: i64,
        /// Byte in the segment.
        position: u64,
        /// The batch's header; the CRC in it covers the records.
        head: [u8; HEADER_BYTES],
    },
    /// All entries behind `after` were cut off.
    Cut {
        /// The replica.
        replica: ReplicaId,
        /// The last entry kept.
        after: Option<LogId>,
        /// The end of the log from now on; `end.last` is `after`.
        end: LogEnd,
    },
    /// All entries up to `floor` are needed no more.
    Purge {
        /// The replica.
        replica: ReplicaId,
        /// The last entry purged.
        floor: LogId,
        /// The offset behind it.
        offset: i64,
    },
    /// A snapshot took the place of all entries up to `log_id`.
    Installed {
        /// The replica.
        replica: ReplicaId,
        /// The last entry that the snapshot covers.
        log_id: LogId,
        /// Opaque here.
        snapshot: Bytes,
        /// The offset behind it.
        next_offset: i64,
    },
    /// A snapshot was taken of what the log still holds: what a purge behind it would lose (the membership) is in it.
    Snapshot {
        /// The replica.
        replica: ReplicaId,
        /// Opaque here.
        snapshot: Bytes,
    },
}

impl WalRecord {
    /// The replica it concerns.
    pub fn replica(&self) -> ReplicaId {
        match self {
            Self::Created { replica, .. }
            | Self::Dropped { replica }
            | Self::Vote { replica, .. }
            | Self::Control { replica, .. }
            | Self::Batch { replica, .. }
            | Self::Placed { replica, .. }
            | Self::Cut { replica, .. }
            | Self::Purge { replica, .. }
            | Self::Installed { replica, .. }
            | Self::Snapshot { replica, .. } => *replica,
        }
    }

    /// Bytes of the record in a round.
    pub fn encoded_len(&self) -> usize {
        let optional = |log_id: &Option<LogId>| if log_id.is_some() { 17 } else { 1 };
        9 + match self {
            Self::Created { topic, .. } => 16 + 4 + 2 + topic.len(),
            Self::Dropped { .. } => 0,
            Self::Vote { .. } => 17,
            Self::Control { payload, .. } => 28 + payload.len(),
            Self::Batch { batch, .. } => 28 + HEADER_BYTES + batch.records.len(),
            Self::Placed { .. } => 24 + HEADER_BYTES,
            Self::Cut { after, end, .. } => optional(after) + 16 + optional(&end.last) + 8,
            Self::Purge { .. } => 24,
            Self::Installed { snapshot, .. } => 28 + snapshot.len(),
            Self::Snapshot { snapshot, .. } => 4 + snapshot.len(),
        }
    }

    /// The same batch as one that is durable in its segment; any other record as it is.
    #[must_use]
    pub fn placed(self) -> Self {
        match self {
            Self::Batch { replica, index, segment, position, batch } => {
                Self::Placed { replica, index, segment, position, head: batch.head }
            }
            other => other,
        }
    }

    /// What a batch holds; empty for any other record.
    fn payload(&self) -> &[u8] {
        match self {
            Self::Batch { batch, .. } => &batch.records,
            _ => &[],
        }
    }

    /// Appends the record, and what its batch holds.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        out.put_slice(self.payload());
    }

    /// Appends the record without what its batch holds.
    fn encode_head(&self, out: &mut Vec<u8>) {
        out.put_u8(match self {
            Self::Created { .. } => 1,
            Self::Dropped { .. } => 2,
            Self::Vote { .. } => 3,
            Self::Control { .. } => 4,
            Self::Batch { .. } => 5,
            Self::Cut { .. } => 6,
            Self::Purge { .. } => 7,
            Self::Installed { .. } => 8,
            Self::Snapshot { .. } => 9,
            Self::Placed { .. } => 10,
        });
        out.put_u64(self.replica().0);
        match self {
            Self::Created { topic_id, topic, partition, .. } => {
                out.put_slice(topic_id.as_bytes());
                out.put_i32(*partition);
                out.put_u16(topic.len() as u16);
                out.put_slice(topic.as_bytes());
            }
            Self::Dropped { .. } => {}
            Self::Vote { vote, .. } => {
                out.put_u64(vote.term);
                out.put_u64(vote.node);
                out.put_u8(vote.committed.into());
            }
            Self::Control { log_id, offset, payload, .. } => {
                out.put_u64(log_id.index);
                out.put_u64(log_id.term);
                out.put_i64(*offset);
                out.put_u32(payload.len() as u32);
                out.put_slice(payload);
            }
            Self::Batch { index, segment, position, batch, .. } => {
                out.put_u64(*index);
                out.put_i64(*segment);
                out.put_u64(*position);
                out.put_u32(batch.records.len() as u32);
                out.put_slice(&batch.head);
            }
            Self::Placed { index, segment, position, head, .. } => {
                out.put_u64(*index);
                out.put_i64(*segment);
                out.put_u64(*position);
                out.put_slice(head);
            }
            Self::Cut { after, end, .. } => {
                put_optional(out, *after);
                out.put_i64(end.segment);
                out.put_u64(end.position);
                put_optional(out, end.last);
                out.put_i64(end.next_offset);
            }
            Self::Purge { floor, offset, .. } => {
                put_log_id(out, *floor);
                out.put_i64(*offset);
            }
            Self::Installed { log_id, snapshot, next_offset, .. } => {
                put_log_id(out, *log_id);
                out.put_i64(*next_offset);
                out.put_u32(snapshot.len() as u32);
                out.put_slice(snapshot);
            }
            Self::Snapshot { snapshot, .. } => {
                out.put_u32(snapshot.len() as u32);
                out.put_slice(snapshot);
            }
        }
    }

    /// Takes one record from the front of `bytes`, with what its batch holds behind it; payloads are slices of them. `None`
    /// where the bytes are no record, whatever they are.
    pub fn decode(bytes: &mut Bytes) -> Option<Self> {
        Some(match Self::decode_head(bytes)? {
            (Self::Placed { replica, index, segment, position, head }, Some(length)) => {
                let records = take(bytes, usize::try_from(length).ok()?)?;
                Self::Batch { replica, index, segment, position, batch: RecordBatch { head, records } }
            }
            (record, _) => record,
        })
    }

    /// Takes one record from the front of a round's records. A batch comes as one that is placed, with the length of what it
    /// holds, which is in the round's payload.
    fn decode_head(bytes: &mut Bytes) -> Option<(Self, Option<u32>)> {
        let kind = bytes.try_get_u8().ok()?;
        let replica = ReplicaId(bytes.try_get_u64().ok()?);
        let mut held = None;
        let record = match kind {
            1 => {
                let topic_id = Uuid::from_slice(&take(bytes, 16)?).ok()?;
                let partition = bytes.try_get_i32().ok()?;
                let len = bytes.try_get_u16().ok()?;
                let topic = String::from_utf8(take(bytes, len.into())?.to_vec()).ok()?;
                Self::Created { replica, topic_id, topic, partition }
            }
            2 => Self::Dropped { replica },
            3 => {
                let term = bytes.try_get_u64().ok()?;
                let node = bytes.try_get_u64().ok()?;
                let committed = match bytes.try_get_u8().ok()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                };
                Self::Vote { replica, vote: Vote { term, node, committed } }
            }
            4 => {
                let index = bytes.try_get_u64().ok()?;
                let term = bytes.try_get_u64().ok()?;
                let offset = bytes.try_get_i64().ok()?;
                let payload = take_sized(bytes)?;
                Self::Control { replica, log_id: LogId { term, index }, offset, payload }
            }
            6 => {
                let after = take_optional(bytes)?;
                let segment = bytes.try_get_i64().ok()?;
                let position = bytes.try_get_u64().ok()?;
                let last = take_optional(bytes)?;
                let next_offset = bytes.try_get_i64().ok()?;
                Self::Cut { replica, after, end: LogEnd { segment, position, last, next_offset } }
            }
            7 => {
                let floor = take_log_id(bytes)?;
                Self::Purge { replica, floor, offset: bytes.try_get_i64().ok()? }
            }
            8 => {
                let log_id = take_log_id(bytes)?;
                let next_offset = bytes.try_get_i64().ok()?;
                let snapshot = take_sized(bytes)?;
                Self::Installed { replica, log_id, snapshot, next_offset }
            }
            9 => {
                let snapshot = take_sized(bytes)?;
                Self::Snapshot { replica, snapshot }
            }
            5 | 10 => {
                let index = bytes.try_get_u64().ok()?;
                let segment = bytes.try_get_i64().ok()?;
                let position = bytes.try_get_u64().ok()?;
                if kind == 5 {
                    held = Some(bytes.try_get_u32().ok()?);
                }
                let mut head = [0; HEADER_BYTES];
                bytes.try_copy_to_slice(&mut head).ok()?;
                Self::Placed { replica, index, segment, position, head }
            }
            _ => return None,
        };
        Some((record, held))
    }
}

pub(crate) fn put_log_id(out: &mut impl BufMut, log_id: LogId) {
    out.put_u64(log_id.term);
    out.put_u64(log_id.index);
}

pub(crate) fn put_optional(out: &mut impl BufMut, log_id: Option<LogId>) {
    out.put_u8(log_id.is_some().into());
    if let Some(log_id) = log_id {
        put_log_id(out, log_id);
    }
}

pub(crate) fn take(bytes: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= bytes.len()).then(|| bytes.split_to(len))
}

pub(crate) fn take_sized(bytes: &mut Bytes) -> Option<Bytes> {
    let len = bytes.try_get_u32().ok()?;
    take(bytes, usize::try_from(len).ok()?)
}

pub(crate) fn take_log_id(bytes: &mut Bytes) -> Option<LogId> {
    Some(LogId { term: bytes.try_get_u64().ok()?, index: bytes.try_get_u64().ok()? })
}

pub(crate) fn take_optional(bytes: &mut Bytes) -> Option<Option<LogId>> {
    match bytes.try_get_u8().ok()? {
        0 => Some(None),
        1 => take_log_id(bytes).map(Some),
        _ => None,
    }
}

/// A round under construction: what batches hold is copied once, into the aligned buffer from which it is written. Reused for
/// round after round.
pub struct RoundBuilder {
    salt: u64,
    /// Pages of its own, so that a direct write takes them.
    buffer: MmapMut,
    /// Bytes used: the header's and the payload's.
    len: usize,
    /// The records, which go behind the payload.
    records: Vec<u8>,
    /// Bytes of batches that the round names and does not hold.
    placed: u64,
}

impl std::fmt::Debug for RoundBuilder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RoundBuilder").field("bytes", &self.len()).finish_non_exhaustive()
    }
}

impl RoundBuilder {
    /// Memory of a fresh builder: small, for most nodes have little to do.
    const INITIAL: usize = 256 << 10;

    /// An empty round of the writer with this salt.
    pub fn new(salt: u64) -> Self {
        Self { salt, buffer: sys::pages(Self::INITIAL), len: ROUND_HEADER, records: Vec::new(), placed: 0 }
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of the round so far, header included.
    pub fn len(&self) -> usize {
        self.len + self.records.len()
    }

    /// Bytes it takes in the file.
    pub fn padded_len(&self) -> usize {
        self.len().next_multiple_of(BLOCK)
    }

    /// Bytes of batches that the round names and does not hold.
    pub fn placed_bytes(&self) -> u64 {
        self.placed
    }

    /// Adds a record.
    pub fn push(&mut self, record: &WalRecord) {
        record.encode_head(&mut self.records);
        let payload = record.payload();
        let begin = self.len;
        self.len += payload.len();
        self.make_room();
        self.buffer[begin..self.len].copy_from_slice(payload);
        if let WalRecord::Placed { head, .. } = record {
            self.placed += BatchHeader::decode(head).size() as u64;
        }
    }

    /// Makes the buffer as large as the round.
    fn make_room(&mut self) {
        let padded = self.padded_len();
        if padded > self.buffer.len() {
            let mut buffer = sys::pages(padded.next_power_of_two().max(sys::HUGE_PAGE));
            let used = self.len.min(self.buffer.len());
            buffer[..used].copy_from_slice(&self.buffer[..used]);
            self.buffer = buffer;
        }
    }

    /// Forgets the records, keeps the memory (unless a huge record made it grow).
    pub fn reset(&mut self) {
        self.len = ROUND_HEADER;
        self.records.clear();
        self.records.shrink_to(ROUND_BYTES);
        self.placed = 0;
        if self.buffer.len() > 2 * ROUND_BYTES {
            self.buffer = sys::pages(Self::INITIAL);
        }
    }

    /// Writes records, padding and header; returns the round's CRC and the bytes for the file.
    fn seal(&mut self, number: u64, before: u32) -> (u32, &[u8]) {
        let (len, padded) = (self.len(), self.padded_len());
        let round = &mut self.buffer[..padded];
        round[self.len..len].copy_from_slice(&self.records);
        round[len..].fill(0);
        let mut header = &mut round[..SUMMED_HEADER];
        header.put_slice(&MAGIC);
        header.put_u64(self.salt);
        header.put_u64(number);
        header.put_u32((self.len - ROUND_HEADER) as u32);
        header.put_u32(self.records.len() as u32);
        header.put_u32(before);
        let mut crc = salted(self.salt);
        crc.update(&self.records);
        crc.update(&round[..SUMMED_HEADER]);
        let crc = crc.finalize();
        (&mut round[SUMMED_HEADER..ROUND_HEADER]).put_u32(crc);
        (crc, &self.buffer[..padded])
    }
}

fn salted(salt: u64) -> crc32fast::Hasher {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&salt.to_be_bytes());
    crc
}

/// Where a round ended: the next one is at `position` of the file, or at the start of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalPosition {
    /// The last round before it.
    pub round: u64,
    /// Number of the file.
    pub file: u32,
    /// Byte in the file.
    pub position: u64,
}

/// How the ring is laid out.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// The directory of the files.
    pub(crate) dir: PathBuf,
    /// Bytes of each file, a multiple of 4 KiB.
    pub(crate) file_bytes: u64,
    /// Files of the full ring, at least two.
    pub(crate) files: usize,
}

impl WalOptions {
    /// A ring in `dir`, whose disk has so much free space, with files of the whole blocks in `file_bytes`: the files bypass the
    /// page cache, and a last block that is not whole could not be zeroed. Who wants smaller files than the usual ones wants a
    /// small ring.
    pub fn new(dir: PathBuf, file_bytes: u64, free_bytes: u64) -> Self {
        let blocks = (file_bytes / BLOCK as u64).max(FEWEST_BLOCKS);
        let mut options = Self { dir, file_bytes: blocks * BLOCK as u64, files: RING_FILES };
        let affordable = free_bytes / PART_OF_FREE / options.file_bytes;
        options.files =
            usize::try_from(affordable).unwrap_or(usize::MAX).clamp(RING_FILES, options.most_files());
        options
    }

    /// Files that a ring of such files may have at the most.
    pub(crate) fn most_files(&self) -> usize {
        if self.file_bytes < FILE_BYTES {
            return RING_FILES;
        }
        let most = MOST_RING_FILES as u64 * FILE_BYTES / self.file_bytes;
        usize::try_from(most).unwrap_or(MOST_RING_FILES).max(RING_FILES)
    }

    /// Bytes at which a round is full.
    pub fn round_bytes(&self) -> usize {
        ROUND_BYTES.min(usize::try_from(self.file_bytes).unwrap_or(usize::MAX) - BLOCK)
    }

    /// The largest record that fits into a file.
    pub fn max_record_bytes(&self) -> usize {
        usize::try_from(self.file_bytes).unwrap_or(usize::MAX) - ROUND_HEADER
    }
}

pub(crate) fn file_name(number: u32) -> String {
    format!("{number}.wal")
}

/// The number in a file's name.
pub(crate) fn file_number(name: &std::ffi::OsStr) -> Option<u32> {
    let number = name.to_str()?.strip_suffix(".wal")?.parse().ok()?;
    (name == file_name(number).as_str()).then_some(number)
}

/// A file of the ring that is about to be made, by a worker that may take its time.
#[derive(Debug)]
pub struct NewWalFile {
    number: u32,
    path: PathBuf,
    bytes: u64,
}

impl NewWalFile {
    pub(crate) fn new(options: &WalOptions, number: u32) -> Self {
        Self { number, path: options.dir.join(file_name(number)), bytes: options.file_bytes }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file, zeroed and durable, its name included. `before_piece` hears of each piece of zeros that is about to be
    /// written, and may take its time.
    ///
    /// # Errors
    /// [`LogStoreError::Io`]; the ring goes on without it until it is asked for again.
    pub fn make(self, disk: &dyn Disk, before_piece: &dyn Fn(u64)) -> Result<WalFile, LogStoreError> {
        let temporary = temporary_name(&self.path);
        if let Err(error) = self.make_as(disk, &temporary, before_piece) {
            // a full disk has no room for half a file; what cannot be removed either goes at the next start
            let _ = disk.remove_file(&temporary);
            return Err(error);
        }
        let dir = self.path.parent().unwrap_or(Path::new("."));
        disk.sync_dir(dir).map_err(LogStoreError::io("sync", dir))?;
        WalFile::open(disk, self.number, self.path)
    }

    fn make_as(
        &self,
        disk: &dyn Disk,
        temporary: &Path,
        before_piece: &dyn Fn(u64),
    ) -> Result<(), LogStoreError> {
        let made = disk.open(temporary, Access::Replace).map_err(LogStoreError::io("open", temporary))?;
        // Zeros that went through the page cache would reach the disk in one piece, and a round would wait 30 ms behind them.
        let file = disk.open(temporary, Access::Direct).map_err(LogStoreError::io("open", temporary))?;
        drop(made);
        file.preallocate(self.bytes, before_piece).map_err(LogStoreError::io("preallocate", temporary))?;
        file.sync().map_err(LogStoreError::io("sync", temporary))?;
        disk.rename(temporary, &self.path).map_err(LogStoreError::io("rename", temporary))
    }
}

/// A file of the ring, ready to be written.
#[derive(Debug)]
pub struct WalFile {
    number: u32,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
}

impl WalFile {
    /// Opens a file that is there, of the ring's file size.
    ///
    /// # Errors
    /// [`LogStoreError::Io`].
    pub(crate) fn open(disk: &dyn Disk, number: u32, path: PathBuf) -> Result<Self, LogStoreError> {
        let file = disk.open(&path, Access::Direct).map_err(LogStoreError::io("open", &path))?;
        Ok(Self { number, path, file })
    }
}

/// What the state of the writer is between write and sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Durable,
    Written,
    Failed,
}

/// Writes rounds into the ring.
///
/// ```text
///   write(round k) -> sync -> callbacks of round k -> write(round k + 1) ...
///   checkpoint_due()? -> position() + the states as of it -> checkpoint durable -> release(position.round)
///   next_file()? -> NewWalFile::make (worker) -> add(file)
/// ```
#[derive(Debug)]
pub struct WalWriter {
    options: WalOptions,
    salt: u64,
    /// The file being written, and where the next round goes.
    current: WalFile,
    position: u64,
    /// The last round written, and its CRC.
    round: u64,
    crc: u32,
    phase: Phase,
    /// Full files with the last round of each, oldest first.
    full: VecDeque<(WalFile, u64)>,
    /// Files that may be written from their start.
    free: VecDeque<WalFile>,
    /// Number of the next file to make, while the ring is not full.
    next_number: u32,
    making: bool,
    /// The file that was asked for last could not be made.
    stunted: bool,
    /// Bytes of rounds, and of batches that they name, that no checkpoint covers.
    uncovered: VecDeque<(u64, u64)>,
    uncovered_bytes: u64,
}

impl WalWriter {
    /// A writer whose first round follows `round`. `files` are free, at least one; all of them are durable, their
    /// names included.
    ///
    /// # Panics
    /// Without a file.
    pub fn new(options: WalOptions, salt: u64, round: u64, files: Vec<WalFile>) -> Self {
        let next_number = files.iter().map(|file| file.number + 1).max().unwrap_or(0);
        let mut free = VecDeque::from(files);
        let Some(current) = free.pop_front() else { panic!("a write-ahead log needs a file") };
        Self {
            options,
            salt,
            current,
            position: 0,
            round,
            crc: 0,
            phase: Phase::Durable,
            full: VecDeque::new(),
            free,
            next_number,
            making: false,
            stunted: false,
            uncovered: VecDeque::new(),
            uncovered_bytes: 0,
        }
    }

    /// A writer that goes on behind the rounds that recovery read: `files` are those of the ring, all of them. The last round is
    /// written again: all others are durable, or it would not be there, but of its bytes the page cache may hold what the disk
    /// does not. Behind it goes a round without records, the mark for the next recovery.
    ///
    /// # Errors
    /// [`LogStoreError::Io`]; [`LogStoreError::WalFull`] without room for the mark.
    ///
    /// # Panics
    /// Without the files in which the rounds are.
    pub(crate) fn resume(
        options: WalOptions,
        reader: &mut WalReader,
        uncovered: VecDeque<(u64, u64)>,
        files: Vec<WalFile>,
    ) -> Result<Self, LogStoreError> {
        let (end, salt) = (reader.end(), reader.salt.value);
        let mut files: Vec<_> = files.into_iter().map(Some).collect();
        let mut take = |number: u32| {
            let found = files.iter_mut().find(|file| file.as_ref().is_some_and(|it| it.number == number));
            found.and_then(Option::take).unwrap_or_else(|| panic!("{} is gone", file_name(number)))
        };
        let current = take(end.file);
        if !reader.mutation.planted(Mutation::LastRoundNotRewritten)
            && let Some((position, round)) = reader.last_round()?
        {
            let mut pages = sys::pages(round.len());
            pages[..round.len()].copy_from_slice(&round);
            let slices = [IoSlice::new(&pages[..round.len()])];
            current
                .file
                .write_all_at(&slices, position)
                .map_err(LogStoreError::io("write", &current.path))?;
            current.file.sync().map_err(LogStoreError::io("sync", &current.path))?;
        }
        let written = reader.written.iter().filter(|(number, _)| *number != end.file);
        let full = written.map(|(number, last)| (take(*number), *last)).collect();
        let mut writer = Self::new(
            options,
            salt,
            end.round,
            std::iter::once(current).chain(files.into_iter().flatten()).collect(),
        );
        writer.position = end.position;
        writer.crc = reader.before.unwrap_or(0);
        writer.full = full;
        writer.next_number =
            writer.full.iter().map(|(file, _)| file.number + 1).fold(writer.next_number, u32::max);
        writer.uncovered_bytes = uncovered.iter().map(|(_, bytes)| bytes).sum();
        writer.uncovered = uncovered;
        // without rounds the next recovery finds nothing of before
        if writer.uncovered_bytes > 0 {
            let mut mark = writer.builder();
            writer.write_round(&mut mark)?;
        }
        Ok(writer)
    }

    /// An empty round for this writer.
    pub fn builder(&self) -> RoundBuilder {
        RoundBuilder::new(self.salt)
    }

    /// The salt of the ring.
    pub fn salt(&self) -> u64 {
        self.salt
    }

    /// The layout.
    pub fn options(&self) -> &WalOptions {
        &self.options
    }

    /// Where the last round ended. Captured together with the states as of that round, it goes into a checkpoint.
    pub fn position(&self) -> WalPosition {
        WalPosition { round: self.round, file: self.current.number, position: self.position }
    }

    /// Whether a round of this many bytes can be written now; otherwise a file has to be made or a checkpoint written
    /// first.
    pub fn has_room(&self, padded_len: usize) -> bool {
        self.fits(padded_len) || !self.free.is_empty()
    }

    fn fits(&self, padded_len: usize) -> bool {
        self.position + padded_len as u64 <= self.options.file_bytes
    }

    /// Whether a checkpoint should be written: recovery would have to look at two thirds of what the ring takes, or so many of its
    /// files are in use, and the rest is used up while the checkpoint hands two bytes to the disk for each that is written. A
    /// ring that cannot grow has to do with what it has.
    pub fn checkpoint_due(&self) -> bool {
        let files = if self.stunted { self.files() } else { self.files().max(self.fewest_files()) };
        let used = 1 + self.full.len();
        3 * self.uncovered_bytes >= 2 * self.options.file_bytes * files as u64 || 3 * used > 2 * files.max(2)
    }

    /// The files that a ring grows to as it is written.
    fn fewest_files(&self) -> usize {
        self.options.files.min(RING_FILES)
    }

    fn files(&self) -> usize {
        1 + self.full.len() + self.free.len()
    }

    /// Whether the ring has all files that it may have.
    pub fn is_whole(&self) -> bool {
        self.files() >= self.options.files
    }

    /// Whether a file is on its way.
    pub fn is_growing(&self) -> bool {
        self.making
    }

    /// Whether a checkpoint would set a file free.
    pub fn has_full_file(&self) -> bool {
        !self.full.is_empty()
    }

    /// Bytes of rounds that no checkpoint covers, and of the batches that they name: what recovery would have to read.
    pub fn uncovered_bytes(&self) -> u64 {
        self.uncovered_bytes
    }

    /// The next file to make: where the ring is small and has no file in reserve, or is to be made whole.
    pub fn next_file(&mut self, whole: bool) -> Option<NewWalFile> {
        let files = if whole { self.options.files } else { self.fewest_files() };
        if self.making || self.files() >= files || !(whole || self.free.is_empty()) {
            return None;
        }
        self.making = true;
        Some(NewWalFile::new(&self.options, self.next_number))
    }

    /// Adds a file that was made, or notes that it could not be.
    pub fn add(&mut self, file: Option<WalFile>) {
        self.making = false;
        self.stunted = file.is_none();
        if let Some(file) = file {
            self.next_number = self.next_number.max(file.number + 1);
            self.free.push_back(file);
        }
    }

    /// Writes the round and resets the builder; [`WalWriter::sync`] makes it durable. Returns the round's number.
    ///
    /// # Errors
    /// [`LogStoreError::Io`], final. [`LogStoreError::WalFull`] if [`WalWriter::has_room`] does not hold; nothing is
    /// changed then.
    ///
    /// # Panics
    /// If the round before is not durable yet (durability rule 1).
    pub fn write(&mut self, round: &mut RoundBuilder) -> Result<u64, LogStoreError> {
        self.check_alive()?;
        assert_eq!(self.phase, Phase::Durable, "a round is written while the one before it is not durable");
        self.write_now(round)
    }

    /// A planted bug: [`WalWriter::write`] while the round before is not durable.
    ///
    /// # Errors
    /// As [`WalWriter::write`].
    #[cfg(feature = "mutants")]
    #[doc(hidden)]
    pub fn write_overtaking(&mut self, round: &mut RoundBuilder) -> Result<u64, LogStoreError> {
        self.write_now(round)
    }

    fn write_now(&mut self, round: &mut RoundBuilder) -> Result<u64, LogStoreError> {
        assert_eq!(round.salt, self.salt, "the round belongs to another ring");
        let padded = round.padded_len();
        if !self.fits(padded) {
            let Some(next) = self.free.pop_front() else { return Err(LogStoreError::WalFull) };
            let full = std::mem::replace(&mut self.current, next);
            self.full.push_back((full, self.round));
            self.position = 0;
        }
        let number = self.round + 1;
        let (crc, bytes) = round.seal(number, self.crc);
        if let Err(source) = self.current.file.write_all_at(&[IoSlice::new(bytes)], self.position) {
            self.phase = Phase::Failed;
            return Err(LogStoreError::io("write", &self.current.path)(source));
        }
        // recovery reads both: the round, and what it names
        let uncovered = padded as u64 + round.placed;
        round.reset();
        (self.round, self.crc) = (number, crc);
        self.position += padded as u64;
        self.uncovered.push_back((number, uncovered));
        self.uncovered_bytes += uncovered;
        self.phase = Phase::Written;
        Ok(number)
    }

    /// Makes the round just written durable.
    ///
    /// # Errors
    /// [`LogStoreError::Io`], final.
    pub fn sync(&mut self) -> Result<(), LogStoreError> {
        self.check_alive()?;
        if let Err(source) = self.current.file.sync() {
            self.phase = Phase::Failed;
            return Err(LogStoreError::io("sync", &self.current.path)(source));
        }
        self.phase = Phase::Durable;
        Ok(())
    }

    /// [`WalWriter::write`] and [`WalWriter::sync`].
    ///
    /// # Errors
    /// As theirs.
    pub fn write_round(&mut self, round: &mut RoundBuilder) -> Result<u64, LogStoreError> {
        let number = self.write(round)?;
        self.sync()?;
        Ok(number)
    }

    /// A checkpoint as of `round` is durable, its copy too: files that hold nothing later are free.
    pub fn release(&mut self, round: u64) {
        while let Some((_, last)) = self.full.front()
            && *last <= round
            && let Some((file, _)) = self.full.pop_front()
        {
            self.free.push_back(file);
        }
        while let Some((number, bytes)) = self.uncovered.front()
            && *number <= round
        {
            self.uncovered_bytes -= bytes;
            self.uncovered.pop_front();
        }
    }

    fn check_alive(&self) -> Result<(), LogStoreError> {
        match self.phase {
            Phase::Failed => Err(LogStoreError::Poisoned),
            Phase::Durable | Phase::Written => Ok(()),
        }
    }
}

/// The salt by which a round is recognised.
#[derive(Clone, Copy, Debug)]
struct Salt {
    value: u64,
    /// A planted bug: believe any.
    any: bool,
}

/// The header of a round.
#[derive(Clone, Copy, Debug)]
struct RoundHeader {
    salt: u64,
    number: u64,
    payload: u32,
    records: u32,
    before: u32,
    crc: u32,
}

impl RoundHeader {
    /// Reads a header of a round of this salt.
    fn decode(mut bytes: &[u8], salt: Salt) -> Option<Self> {
        let magic = bytes.get(..8)? == MAGIC.as_slice();
        bytes.advance(8);
        let found = bytes.try_get_u64().ok()?;
        let salted = found == salt.value || salt.any;
        let number = bytes.try_get_u64().ok()?;
        let payload = bytes.try_get_u32().ok()?;
        let records = bytes.try_get_u32().ok()?;
        let before = bytes.try_get_u32().ok()?;
        let crc = bytes.try_get_u32().ok()?;
        (magic && salted).then_some(Self { salt: found, number, payload, records, before, crc })
    }

    fn padded_len(&self) -> u64 {
        (ROUND_HEADER as u64 + u64::from(self.payload) + u64::from(self.records))
            .next_multiple_of(BLOCK as u64)
    }
}

/// Whether another version wrote a round behind this one.
fn is_of_other_version(mut head: &[u8], salt: u64, after: u64) -> bool {
    let (version, rest) = (MAGIC.len() - 1, head.len() >= 24);
    if !rest || head[..version] != MAGIC[..version] || head[version] == MAGIC[version] {
        return false;
    }
    head.advance(MAGIC.len());
    head.get_u64() == salt && head.get_u64() > after
}

/// A round as it was read: its records, and where its payload lies.
#[derive(Clone, Debug)]
pub struct Round {
    /// Its number.
    pub number: u64,
    /// Where it ended.
    pub end: WalPosition,
    /// Bytes it takes in the file.
    pub padded_len: u64,
    /// Its records, encoded.
    records: Bytes,
    crc: u32,
    /// Index of its file, and the bytes there.
    file: usize,
    payload: Range<u64>,
}

impl Round {
    /// Whether recovery wrote it when it went on behind the ones before.
    pub(crate) fn marks_recovery(&self) -> bool {
        self.records.is_empty()
    }

    /// Decodes every record. A batch that the round holds comes as one that is placed, with where its payload lies for
    /// [`WalReader::payload`].
    ///
    /// # Errors
    /// [`LogStoreError::Refused`]: the round's checksum holds, so a record that does not decode was written by
    /// something else than this version.
    pub fn records(
        &self,
    ) -> impl Iterator<Item = Result<(WalRecord, Option<Payload>), LogStoreError>> + use<> {
        let (number, file) = (self.number, self.file);
        let mut records = self.records.clone();
        let mut payload = self.payload.clone();
        std::iter::from_fn(move || {
            if records.is_empty() {
                return None;
            }
            let record = WalRecord::decode_head(&mut records).and_then(|(record, held)| {
                let Some(length) = held.map(u64::from) else { return Some((record, None)) };
                let begin = payload.start;
                payload.start += length;
                (payload.start <= payload.end)
                    .then_some((record, Some(Payload { file, bytes: begin..begin + length })))
            });
            if record.is_none() {
                records.clear();
            }
            Some(record.ok_or_else(|| {
                LogStoreError::Refused(format!(
                    "round {number} of the write-ahead log is whole but holds a record that this version does not \
                     know: start the version that wrote it"
                ))
            }))
        })
    }
}

/// Where a round holds what belongs to a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    file: usize,
    bytes: Range<u64>,
}

/// Bytes read at a time where nothing is passed over.
const WINDOW: usize = 4 << 20;
/// Bytes read first.
const FIRST_WINDOW: usize = 16 << 10;
/// Up to so many bytes are read rather than passed over.
const PASSED_OVER: u64 = 128 << 10;

#[derive(Debug)]
struct ReadFile {
    number: u32,
    file: Arc<dyn DiskFile>,
    len: u64,
    /// The first header.
    first: Bytes,
}

/// Bytes that were read ahead.
#[derive(Debug)]
struct Window {
    file: usize,
    start: u64,
    bytes: Bytes,
}

impl Window {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// Reads the rounds of one salt back.
#[derive(Debug)]
pub struct WalReader {
    dir: PathBuf,
    salt: Salt,
    mutation: Mutation,
    files: Vec<ReadFile>,
    window: Option<Window>,
    expected: u64,
    /// CRC of the round before the expected one; not known of the one at the checkpoint.
    before: Option<u32>,
    /// Index of the file and the byte where the expected round begins, unless it is at the start of another file.
    at: (usize, u64),
    /// Where it began.
    start: ((usize, u64), u64),
    /// Where each round was found: when they are read again, nothing else is believed.
    found: Vec<(usize, u64)>,
    /// All of them were.
    is_read: bool,
    /// Bytes of the last round in its file.
    last_len: u64,
    /// Numbers of the files in which rounds are, with the last one in each.
    written: Vec<(u32, u64)>,
}

impl WalReader {
    /// Opens what is in the ring's directory. The files and their directory are synced first: after a kill -9 a
    /// round, or a file's name, may be in the page cache only, and a power cut may follow.
    ///
    /// # Errors
    /// [`LogStoreError::Io`]; [`LogStoreError::Refused`] where the file is missing in which the next round began.
    pub fn open(
        disk: &dyn Disk,
        dir: &Path,
        salt: u64,
        after: WalPosition,
        mutation: Mutation,
    ) -> Result<Self, LogStoreError> {
        let believed_unsynced = mutation.planted(Mutation::LogBelievedUnsynced);
        let mut files = Vec::new();
        for entry in disk.list(dir).map_err(LogStoreError::io("list", dir))? {
            let Some(number) = file_number(&entry.name).filter(|_| !entry.is_dir) else { continue };
            let path = dir.join(&entry.name);
            let file = disk.open(&path, Access::Write).map_err(LogStoreError::io("open", &path))?;
            if !believed_unsynced {
                file.sync().map_err(LogStoreError::io("sync", &path))?;
            }
            let len = file.len().map_err(LogStoreError::io("measure", &path))?;
            let mut first = vec![0; ROUND_HEADER];
            let read = file.read_at(&mut first, 0).map_err(LogStoreError::io("read", &path))?;
            first.truncate(read);
            files.push(ReadFile { number, file, len, first: first.into() });
        }
        if !believed_unsynced {
            disk.sync_dir(dir).map_err(LogStoreError::io("sync", dir))?;
        }
        let Some(index) = files.iter().position(|file| file.number == after.file) else {
            return Err(LogStoreError::Refused(format!(
                "{} of the write-ahead log is not in {}: put back the directory (or the setting wal.dir) that this data \
                 directory was last used with",
                file_name(after.file),
                dir.display()
            )));
        };
        let at = (index, after.position);
        let mut next = vec![0; ROUND_HEADER];
        let read =
            files[index].file.read_at(&mut next, after.position).map_err(LogStoreError::io("read", dir))?;
        next.truncate(read);
        let begins = files.iter().map(|file| file.first.as_ref()).chain([next.as_slice()]);
        if begins.into_iter().any(|head| is_of_other_version(head, salt, after.round)) {
            return Err(LogStoreError::Refused(format!(
                "another version wrote what is in the write-ahead log in {}: start that version and stop it with SIGTERM, then \
                 this one",
                dir.display()
            )));
        }
        Ok(Self {
            dir: dir.to_owned(),
            salt: Salt { value: salt, any: mutation.planted(Mutation::OldSaltBelieved) },
            mutation,
            files,
            window: None,
            expected: after.round + 1,
            before: None,
            at,
            start: (at, after.round + 1),
            found: Vec::new(),
            is_read: false,
            last_len: 0,
            written: Vec::new(),
        })
    }

    /// Begins again behind the checkpoint. The end was found the first time.
    pub fn rewind(&mut self) {
        (self.at, self.expected) = self.start;
        self.before = None;
    }

    /// The files in which rounds are, and the one in which the next one goes.
    pub(crate) fn used_files(&self) -> impl Iterator<Item = u32> {
        self.written.iter().map(|(number, _)| *number).chain([self.end().file])
    }

    /// Where the last round ended that was read.
    pub(crate) fn end(&self) -> WalPosition {
        let (index, position) = self.at;
        WalPosition { round: self.expected - 1, file: self.files[index].number, position }
    }

    /// The next round, or `None` behind the last one.
    ///
    /// # Errors
    /// [`LogStoreError::Io`]; [`LogStoreError::Refused`] if a later round exists beyond one that does not check.
    pub fn next_round(&mut self) -> Result<Option<Round>, LogStoreError> {
        if self.is_read {
            return self.next_again();
        }
        for at in self.places(self.at, self.expected) {
            if let Some(round) = self.round_at(at)?
                && self.is_durable(&round)?
            {
                self.pass(&round);
                self.last_len = round.padded_len;
                self.found.push(at);
                match self.written.last_mut().filter(|(file, _)| *file == round.end.file) {
                    Some((_, last)) => *last = round.number,
                    None => self.written.push((round.end.file, round.number)),
                }
                return Ok(Some(round));
            }
        }
        self.is_read = true;
        if !self.mutation.planted(Mutation::LaterRoundIgnored) {
            self.check_nothing_later()?;
        }
        Ok(None)
    }

    /// The next round, read again.
    fn next_again(&mut self) -> Result<Option<Round>, LogStoreError> {
        let number = usize::try_from(self.expected - self.start.1).unwrap_or(usize::MAX);
        let Some(at) = self.found.get(number).copied() else { return Ok(None) };
        let Some(round) = self.round_at(at)? else {
            return Err(LogStoreError::Refused(format!(
                "round {} of the write-ahead log in {} was whole and is not so when it is read again: the disk does not keep \
                 its word. Nothing was given up: start again, from another disk with a copy of the directory",
                self.expected,
                self.dir.display()
            )));
        };
        self.pass(&round);
        Ok(Some(round))
    }

    fn pass(&mut self, round: &Round) {
        self.expected += 1;
        self.before = Some(round.crc);
        self.at = (round.file, round.end.position);
    }

    /// Where a round of this number may begin: behind the one before, or in another file.
    fn places(&self, here: (usize, u64), number: u64) -> Vec<(usize, u64)> {
        let begins = |file: &ReadFile| {
            RoundHeader::decode(&file.first, self.salt).is_some_and(|header| header.number == number)
        };
        let elsewhere =
            self.files.iter().enumerate().filter(|(_, file)| begins(file)).map(|(index, _)| (index, 0));
        std::iter::once(here).chain(elsewhere).collect()
    }

    /// The expected round, if its records are whole and here; nothing is said of its payload.
    fn round_at(&mut self, (file, position): (usize, u64)) -> Result<Option<Round>, LogStoreError> {
        let head = self.read(file, position, ROUND_HEADER)?;
        let Some(header) = RoundHeader::decode(&head, self.salt) else { return Ok(None) };
        if header.number != self.expected || self.before.is_some_and(|before| before != header.before) {
            return Ok(None);
        }
        let begin = position + ROUND_HEADER as u64;
        let payload = begin..begin + u64::from(header.payload);
        let Ok(length) = usize::try_from(header.records) else { return Ok(None) };
        let records = self.read(file, payload.end, length)?;
        if records.len() < length {
            return Ok(None);
        }
        let mut crc = salted(header.salt);
        crc.update(&records);
        crc.update(&head[..SUMMED_HEADER]);
        if crc.finalize() != header.crc {
            return Ok(None);
        }
        let padded_len = header.padded_len();
        let end = WalPosition {
            round: header.number,
            file: self.files[file].number,
            position: position + padded_len,
        };
        Ok(Some(Round { number: header.number, end, padded_len, records, crc: header.crc, file, payload }))
    }

    /// Whether the round was durable: the next one follows it, or its payload is whole.
    fn is_durable(&mut self, round: &Round) -> Result<bool, LogStoreError> {
        for (file, position) in self.places((round.file, round.end.position), round.number + 1) {
            let head = self.read(file, position, ROUND_HEADER)?;
            let next = RoundHeader::decode(&head, self.salt);
            if next.is_some_and(|next| next.number == round.number + 1 && next.before == round.crc) {
                return Ok(true);
            }
        }
        let mut bytes = 0;
        for record in round.records() {
            // a record that is none is told of by whoever folds it
            let Ok((record, payload)) = record else { return Ok(true) };
            if let Some(payload) = payload {
                bytes += payload.bytes.end - payload.bytes.start;
                if self.payload(&record, &payload)?.is_none() {
                    return Ok(false);
                }
            }
        }
        Ok(bytes == round.payload.end - round.payload.start)
    }

    /// The batch that a round holds, unless it is damaged there.
    ///
    /// # Errors
    /// [`LogStoreError::Io`].
    pub fn payload(
        &mut self,
        record: &WalRecord,
        payload: &Payload,
    ) -> Result<Option<RecordBatch>, LogStoreError> {
        let WalRecord::Placed { head, .. } = record else { return Ok(None) };
        let Ok(len) = usize::try_from(payload.bytes.end - payload.bytes.start) else { return Ok(None) };
        let records = self.read(payload.file, payload.bytes.start, len)?;
        let batch = RecordBatch { head: *head, records };
        Ok((batch.records.len() == len && batch.crc_holds()).then_some(batch))
    }

    /// Where the last round begins, and its bytes.
    fn last_round(&mut self) -> Result<Option<(u64, Bytes)>, LogStoreError> {
        let (file, end) = self.at;
        let Ok(len) = usize::try_from(self.last_len) else { return Ok(None) };
        if len == 0 {
            return Ok(None);
        }
        let begin = end - self.last_len;
        Ok(Some((begin, self.read(file, begin, len)?)))
    }

    /// Up to `len` bytes at `position`; fewer where the file ends.
    fn read(&mut self, index: usize, position: u64, len: usize) -> Result<Bytes, LogStoreError> {
        let file = &self.files[index];
        let rest = usize::try_from(file.len.saturating_sub(position)).unwrap_or(usize::MAX);
        let len = len.min(rest);
        let mut ahead = FIRST_WINDOW;
        if let Some(window) = self.window.as_ref().filter(|window| window.file == index) {
            if window.start <= position && position + len as u64 <= window.end() {
                let from = (position - window.start) as usize;
                return Ok(window.bytes.slice(from..from + len));
            }
            if (window.start..window.end() + PASSED_OVER).contains(&position) {
                ahead = (2 * window.bytes.len()).clamp(FIRST_WINDOW, WINDOW);
            }
        }
        let mut bytes = vec![0; len.max(ahead.min(rest))];
        let read = file.file.read_at(&mut bytes, position).map_err(|source| LogStoreError::Io {
            operation: "read",
            path: self.dir.join(file_name(file.number)),
            source,
        })?;
        bytes.truncate(read);
        let bytes = Bytes::from(bytes);
        let part = bytes.slice(..len.min(read));
        self.window = Some(Window { file: index, start: position, bytes });
        Ok(part)
    }

    /// Looks for a round of this salt behind the last whole one. It was written only after the missing one was
    /// durable, so that one was acknowledged and is damaged. The header tells enough: no client knows the salt, and a
    /// header does not tear.
    fn check_nothing_later(&mut self) -> Result<(), LogStoreError> {
        for index in 0..self.files.len() {
            let mut position = 0;
            match self.at {
                (current, at) if current == index => position = at,
                _ => {
                    let first = &self.files[index].first;
                    let unused = first.iter().all(|byte| *byte == 0);
                    let of_other_salt = first.get(..8) == Some(MAGIC.as_slice())
                        && first.get(8..16) != Some(&self.salt.value.to_be_bytes());
                    let earlier =
                        RoundHeader::decode(first, self.salt).is_some_and(|it| it.number < self.expected);
                    if unused || of_other_salt || earlier {
                        continue;
                    }
                }
            }
            while position < self.files[index].len {
                let head = self.read(index, position, ROUND_HEADER)?;
                if let Some(header) = RoundHeader::decode(&head, self.salt)
                    && header.number > self.expected
                {
                    let file = self.dir.join(file_name(self.files[index].number));
                    return Err(LogStoreError::Refused(format!(
                        "round {} of the write-ahead log is damaged or missing, but round {} is there ({} at byte \
                         {position}): acknowledged records would be lost. Restore the files of {} from a copy, or start \
                         from an empty data directory and let the other replicas fill it",
                        self.expected,
                        header.number,
                        file.display(),
                        self.dir.display()
                    )));
                }
                position += BLOCK as u64;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
