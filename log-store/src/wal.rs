//! The node's write-ahead log: one ring of preallocated files for all partitions, written in rounds, so that
//! becoming durable costs one sync whatever the number of partitions.
//!
//! ```text
//!   <wal.dir>/0.wal  |round 41|round 42  |..|      64 MiB each (4 MiB when ephemeral), zeroed before use
//!            1.wal  |round 43   |r. 44|0000|      a round never crosses files: it begins the next one instead
//!            2.wal  |0000000000000000000000|      made ahead by a worker, up to eight
//!
//!   round, on a 4 KiB boundary                    record
//!   0  magic     8  "ALVMWAL\x01" (version 1)     0  type     1
//!   8  salt      8  new with each start           1  replica  8
//!   16 number    8  dense over the node's life    9  body     by type:
//!   24 length    4  of the records                   1 Created    topic id 16, partition 4, name (length 2, bytes)
//!   28 crc       4  CRC-32 of salt, records,         2 Dropped
//!                   then bytes 0..28                 3 Vote       term 8, node 8, committed 1
//!   32 records, then zeros to 4 KiB                  4 Control    index 8, term 8, offset 8, length 4, payload
//!                                                    5 Batch      index 8, segment 8, position 8, length 4, batch
//!   an optional log id is a byte (0 or 1) and,       6 Cut        after (optional log id), segment 8, position 8,
//!   where it is 1, term 8 and index 8                             last (optional log id), next offset 8
//!   all numbers are big-endian                       7 Purge      term 8, index 8, offset 8
//!                                                    8 Installed  term 8, index 8, next offset 8, length 4, snapshot
//!                                                    9 Snapshot   length 4, snapshot
//!                                                   10 Placed     index 8, segment 8, position 8, head of the batch 61
//! ```
//!
//! # Invariants
//! - A round is written only once the round before it is durable ([`WalWriter::write`] asserts it). Hence at most one
//!   round can be torn, the last; a whole round beyond a broken one means damage, and recovery refuses to start
//!   (durability rule 1; `recovery`).
//! - The salt is random and new with each start's checkpoint, and the CRC begins from it: what is left of a file's
//!   former use, or what a client puts into its records, never passes for a round.
//! - A round that says of a batch only where it lies ([`WalRecord::Placed`]) is written once the batch is durable there
//!   ([`Segment::sync_placed`](crate::Segment::sync_placed), durability rule 1).
//! - A file is used again only when a checkpoint holds everything of its rounds ([`WalWriter::release`]).
//! - The first error of a write or a sync is final: every later call fails too (durability rule 6).
//!
//! # Assumed of the disk
//! A sync that returned holds; a write tears at 512 bytes or more; bytes outside a write stay as they were.

use std::{
    collections::VecDeque,
    io::IoSlice,
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
const MAGIC: [u8; 8] = *b"ALVMWAL\x01";
/// Bytes of a round's header.
const ROUND_HEADER: usize = 32;
/// Rounds begin on multiples of this.
const BLOCK: usize = DIRECT_ALIGNMENT;
/// Bytes at which a round is full, unless a single record is larger.
pub const ROUND_BYTES: usize = 8 << 20;
/// Files of a full ring.
pub const RING_FILES: usize = 8;
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

    /// Appends the record's bytes to `out`, which has room for [`WalRecord::encoded_len`].
    pub(crate) fn encode(&self, mut out: &mut [u8]) {
        let out = &mut out;
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
                out.put_u32((HEADER_BYTES + batch.records.len()) as u32);
                out.put_slice(&batch.head);
                out.put_slice(&batch.records);
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

    /// Takes one record from the front of `bytes`; its payload is a slice of them. `None` where the bytes are no
    /// record, whatever they are.
    pub fn decode(bytes: &mut Bytes) -> Option<Self> {
        let kind = bytes.try_get_u8().ok()?;
        let replica = ReplicaId(bytes.try_get_u64().ok()?);
        Some(match kind {
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
            5 => {
                let index = bytes.try_get_u64().ok()?;
                let segment = bytes.try_get_i64().ok()?;
                let position = bytes.try_get_u64().ok()?;
                let mut records = take_sized(bytes)?;
                let mut head = [0; HEADER_BYTES];
                records.try_copy_to_slice(&mut head).ok()?;
                Self::Batch { replica, index, segment, position, batch: RecordBatch { head, records } }
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
            10 => {
                let index = bytes.try_get_u64().ok()?;
                let segment = bytes.try_get_i64().ok()?;
                let position = bytes.try_get_u64().ok()?;
                let mut head = [0; HEADER_BYTES];
                bytes.try_copy_to_slice(&mut head).ok()?;
                Self::Placed { replica, index, segment, position, head }
            }
            _ => return None,
        })
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

/// A round under construction: records are encoded straight into the aligned buffer from which they are written, and
/// its CRC goes along, so that closing it costs next to nothing. Reused for round after round.
pub struct RoundBuilder {
    salt: u64,
    /// Pages of its own, so that a direct write takes them.
    buffer: MmapMut,
    /// Bytes used, the header's 32 included.
    len: usize,
    /// Bytes of them that `crc` covers.
    summed: usize,
    /// Bytes of batches that the round names and does not hold.
    placed: u64,
    crc: crc32fast::Hasher,
}

impl std::fmt::Debug for RoundBuilder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RoundBuilder").field("bytes", &self.len).finish_non_exhaustive()
    }
}

impl RoundBuilder {
    /// Memory of a fresh builder: small, for most nodes have little to do.
    const INITIAL: usize = 256 << 10;

    /// An empty round of the writer with this salt.
    pub fn new(salt: u64) -> Self {
        Self {
            salt,
            buffer: sys::pages(Self::INITIAL),
            len: ROUND_HEADER,
            summed: ROUND_HEADER,
            placed: 0,
            crc: salted(salt),
        }
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.len == ROUND_HEADER
    }

    /// Bytes of the round so far, header included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes it takes in the file.
    pub fn padded_len(&self) -> usize {
        self.len.next_multiple_of(BLOCK)
    }

    /// Adds a record.
    pub fn push(&mut self, record: &WalRecord) {
        let begin = self.len;
        let end = begin + record.encoded_len();
        if end.next_multiple_of(BLOCK) > self.buffer.len() {
            let mut buffer = sys::pages(end.next_power_of_two().max(sys::HUGE_PAGE));
            buffer[..begin].copy_from_slice(&self.buffer[..begin]);
            self.buffer = buffer;
        }
        if let WalRecord::Placed { head, .. } = record {
            self.placed += BatchHeader::decode(head).size() as u64;
        }
        record.encode(&mut self.buffer[begin..end]);
        self.len = end;
        // summed in pieces that are still in the processor's cache, and not per small record
        if self.len - self.summed >= 64 << 10 {
            self.sum();
        }
    }

    /// Forgets the records, keeps the memory (unless a huge record made it grow).
    pub fn reset(&mut self) {
        self.len = ROUND_HEADER;
        self.summed = ROUND_HEADER;
        self.placed = 0;
        self.crc = salted(self.salt);
        if self.buffer.len() > 2 * ROUND_BYTES {
            self.buffer = sys::pages(Self::INITIAL);
        }
    }

    fn sum(&mut self) {
        self.crc.update(&self.buffer[self.summed..self.len]);
        self.summed = self.len;
    }

    /// Writes header and padding; returns the bytes for the file.
    fn seal(&mut self, number: u64) -> &[u8] {
        self.sum();
        let padded = self.padded_len();
        let round = &mut self.buffer[..padded];
        round[self.len..].fill(0);
        let mut header = &mut round[..ROUND_HEADER];
        header.put_slice(&MAGIC);
        header.put_u64(self.salt);
        header.put_u64(number);
        header.put_u32((self.len - ROUND_HEADER) as u32);
        let mut crc = self.crc.clone();
        crc.update(&round[..28]);
        (&mut round[28..ROUND_HEADER]).put_u32(crc.finalize());
        &self.buffer[..padded]
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
    /// A full ring in `dir`, with files of the whole blocks in `file_bytes`: the files bypass the page cache, and a last block
    /// that is not whole could not be zeroed.
    pub fn new(dir: PathBuf, file_bytes: u64) -> Self {
        let blocks = (file_bytes / BLOCK as u64).max(FEWEST_BLOCKS);
        Self { dir, file_bytes: blocks * BLOCK as u64, files: RING_FILES }
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
    /// The last round written.
    round: u64,
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

    /// An empty round for this writer.
    pub fn builder(&self) -> RoundBuilder {
        RoundBuilder::new(self.salt)
    }

    /// The salt of this start.
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

    /// Whether recovery would have to read half of what the ring takes, so that a checkpoint should be written. A ring that
    /// cannot grow has to do with what it has.
    pub fn checkpoint_due(&self) -> bool {
        let files = if self.stunted { self.files() } else { self.options.files };
        self.uncovered_bytes >= self.options.file_bytes * files as u64 / 2
    }

    fn files(&self) -> usize {
        1 + self.full.len() + self.free.len()
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

    /// The next file to make, while the ring is smaller than it may be and has no file in reserve.
    pub fn next_file(&mut self) -> Option<NewWalFile> {
        if self.making || !self.free.is_empty() || self.files() >= self.options.files {
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
        assert_eq!(round.salt, self.salt, "the round belongs to another start");
        let padded = round.padded_len();
        if !self.fits(padded) {
            let Some(next) = self.free.pop_front() else { return Err(LogStoreError::WalFull) };
            let full = std::mem::replace(&mut self.current, next);
            self.full.push_back((full, self.round));
            self.position = 0;
        }
        let number = self.round + 1;
        let bytes = round.seal(number);
        if let Err(source) = self.current.file.write_all_at(&[IoSlice::new(bytes)], self.position) {
            self.phase = Phase::Failed;
            return Err(LogStoreError::io("write", &self.current.path)(source));
        }
        // recovery reads both: the round, and what it names
        let uncovered = padded as u64 + round.placed;
        round.reset();
        self.round = number;
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
    length: u32,
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
        let length = bytes.try_get_u32().ok()?;
        let crc = bytes.try_get_u32().ok()?;
        (magic && salted).then_some(Self { salt: found, number, length, crc })
    }
}

/// A round as it was read.
#[derive(Clone, Debug)]
pub struct Round {
    /// Its number.
    pub number: u64,
    /// Where it ended.
    pub end: WalPosition,
    /// Its records, encoded.
    pub records: Bytes,
}

impl Round {
    /// Decodes every record.
    ///
    /// # Errors
    /// [`LogStoreError::Refused`]: the round's checksum holds, so a record that does not decode was written by
    /// something else than this version.
    pub fn records(&self) -> impl Iterator<Item = Result<WalRecord, LogStoreError>> + use<> {
        let number = self.number;
        let mut records = self.records.clone();
        std::iter::from_fn(move || {
            if records.is_empty() {
                return None;
            }
            let record = WalRecord::decode(&mut records);
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

/// Bytes read at a time.
const WINDOW: usize = 4 << 20;

#[derive(Debug)]
struct ReadFile {
    number: u32,
    file: Arc<dyn DiskFile>,
    len: u64,
    /// The first block, where a file's first round begins.
    first: Bytes,
}

/// Reads the rounds of one salt back.
#[derive(Debug)]
pub struct WalReader {
    dir: PathBuf,
    salt: Salt,
    mutation: Mutation,
    files: Vec<ReadFile>,
    /// The window last read: index of the file, position, bytes.
    window: Option<(usize, u64, Bytes)>,
    expected: u64,
    /// Index of the file and the byte where the expected round begins, unless it is at the start of another file.
    at: Option<(usize, u64)>,
    ended: bool,
    /// Where it began.
    start: (Option<(usize, u64)>, u64),
    /// What lies behind the last round was looked at before.
    repeated: bool,
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
        Ok(Self {
            dir: dir.to_owned(),
            salt: Salt { value: salt, any: mutation.planted(Mutation::OldSaltBelieved) },
            mutation,
            files,
            window: None,
            expected: after.round + 1,
            at: Some((index, after.position)),
            ended: false,
            start: (Some((index, after.position)), after.round + 1),
            repeated: false,
        })
    }

    /// Begins again behind the checkpoint. The end was checked the first time.
    pub fn rewind(&mut self) {
        (self.at, self.expected) = self.start;
        self.ended = false;
        self.repeated = true;
    }

    /// The numbers of the files and their lengths.
    pub fn files(&self) -> impl Iterator<Item = (u32, u64)> {
        self.files.iter().map(|file| (file.number, file.len))
    }

    /// The next round, or `None` behind the last one.
    ///
    /// # Errors
    /// [`LogStoreError::Io`]; [`LogStoreError::Refused`] if a later round exists beyond one that does not check.
    pub fn next_round(&mut self) -> Result<Option<Round>, LogStoreError> {
        if self.ended {
            return Ok(None);
        }
        let here = self.at;
        let elsewhere = (0..self.files.len())
            .filter(|index| {
                RoundHeader::decode(&self.files[*index].first, self.salt)
                    .is_some_and(|header| header.number == self.expected)
            })
            .map(|index| (index, 0));
        for (index, position) in here.into_iter().chain(elsewhere).collect::<Vec<_>>() {
            if let Some(records) = self.round_at(index, position)? {
                let end = position + (ROUND_HEADER + records.len()).next_multiple_of(BLOCK) as u64;
                let number = self.expected;
                self.expected += 1;
                self.at = Some((index, end));
                let end = WalPosition { round: number, file: self.files[index].number, position: end };
                return Ok(Some(Round { number, end, records }));
            }
        }
        self.ended = true;
        if self.repeated {
            return Ok(None);
        }
        if !self.mutation.planted(Mutation::LaterRoundIgnored) {
            self.check_nothing_later()?;
        }
        Ok(None)
    }

    /// The records of the expected round, if it is whole and here.
    fn round_at(&mut self, index: usize, position: u64) -> Result<Option<Bytes>, LogStoreError> {
        let head = self.read(index, position, ROUND_HEADER)?;
        let Some(header) = RoundHeader::decode(&head, self.salt) else { return Ok(None) };
        if header.number != self.expected {
            return Ok(None);
        }
        let Ok(length) = usize::try_from(header.length) else { return Ok(None) };
        let records = self.read(index, position + ROUND_HEADER as u64, length)?;
        if records.len() < length {
            return Ok(None);
        }
        let mut crc = salted(header.salt);
        crc.update(&records);
        crc.update(&head[..28]);
        Ok((crc.finalize() == header.crc).then_some(records))
    }

    /// Up to `len` bytes at `position`; fewer where the file ends.
    fn read(&mut self, index: usize, position: u64, len: usize) -> Result<Bytes, LogStoreError> {
        let file = &self.files[index];
        let len = len.min(usize::try_from(file.len.saturating_sub(position)).unwrap_or(usize::MAX));
        if let Some((window_index, start, bytes)) = &self.window
            && *window_index == index
            && *start <= position
            && position + len as u64 <= *start + bytes.len() as u64
        {
            let from = (position - start) as usize;
            return Ok(bytes.slice(from..from + len));
        }
        let mut bytes = vec![0; len.max(WINDOW.min((file.len.saturating_sub(position)) as usize))];
        let read = file.file.read_at(&mut bytes, position).map_err(|source| LogStoreError::Io {
            operation: "read",
            path: self.dir.join(file_name(file.number)),
            source,
        })?;
        bytes.truncate(read);
        let bytes = Bytes::from(bytes);
        let part = bytes.slice(..len.min(read));
        self.window = Some((index, position, bytes));
        Ok(part)
    }

    /// Looks for a round of this salt behind the last whole one. It was written only after the missing one was
    /// durable, so that one was acknowledged and is damaged. The header tells enough: no client knows the salt, and a
    /// header does not tear.
    fn check_nothing_later(&mut self) -> Result<(), LogStoreError> {
        for index in 0..self.files.len() {
            let mut position = 0;
            match self.at {
                Some((current, at)) if current == index => position = at,
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
