//! The `.raft` file of a segment: to whom the segment belongs, which Raft entry its first batch is, and what is known of
//! its first bytes without reading them.
//!
//! ```text
//!   0 magic          8 bytes "ALVMRAFT"
//!   8 version        uint16  1
//!  10 reserved       uint16  0
//!  12 partition      int32
//!  16 topic id       16 bytes
//!  32 replica id     uint64
//!  40 first index    uint64  Raft index of the first batch
//!  48 first term     uint64
//!  56 base offset    int64
//!  64 crc            uint32  CRC-32 of bytes 0..64
//! summary: of the first `bytes` bytes of the .log; of all of them once the segment is sealed
//!  68 flags          uint32  bit 0: sealed
//!  72 batches        uint32
//!  76 headers crc    uint32  CRC-32 of the 61-byte headers of all batches, one behind the other
//!  80 bytes          uint64
//!  88 end offset     int64   behind the last record
//!  96 largest        int64   largest timestamp, -1 without one
//! 104 largest offset int64   last offset of the first batch that holds it
//! 112 first time     int64   largest timestamp of the first batch
//! 120 first append   int64   when the first batch was appended, milliseconds
//! 128 last append    int64   when the last batch was appended
//! 136 index entries  uint32  entries of .index (and ordinals below)
//! 140 index crc      uint32  CRC-32 of them
//! 144 time entries   uint32  entries of .timeindex
//! 148 time crc       uint32  CRC-32 of them
//! 152 ordinals crc   uint32  CRC-32 of the ordinals
//! 156 crc            uint32  CRC-32 of bytes 68..156
//! 160 ordinals       uint32 each: batches before the one of each entry of .index
//! ```
//! All integers are big-endian, as in Kafka's files. The checksum of all headers stands for one of the whole file: each
//! header carries the CRC-32C of its batch, so that together they cover every byte, at 61 bytes of work per batch instead
//! of a second pass over the log.

use uuid::Uuid;

use crate::{LogId, ReplicaId};

/// Bytes of the part that is written with the first batch.
pub const RAFT_HEAD_BYTES: usize = 68;
/// Position of the ordinals.
pub const RAFT_ORDINALS_AT: usize = 160;
const MAGIC: [u8; 8] = *b"ALVMRAFT";
const VERSION: u16 = 1;
const SEALED: u32 = 1;

/// To whom a segment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentOwner {
    /// The topic's id.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: i32,
    /// The replica.
    pub replica: ReplicaId,
}

/// The part that is written with the first batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftHead {
    /// To whom the segment belongs.
    pub owner: SegmentOwner,
    /// The entry of its first batch.
    pub first: LogId,
    /// Offset of its first record.
    pub base_offset: i64,
}

/// What is known of the first bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentStats {
    /// Batches.
    pub batches: u32,
    /// CRC-32 of their headers, one behind the other.
    pub headers_crc: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Offset behind the last record.
    pub end_offset: i64,
    /// Largest timestamp, -1 without one.
    pub largest_timestamp: i64,
    /// Last offset of the first batch that holds it.
    pub largest_timestamp_offset: i64,
    /// Largest timestamp of the first batch, -1 without one.
    pub first_timestamp: i64,
    /// When the first batch was appended, milliseconds.
    pub first_append_ms: i64,
    /// When the last batch was appended, milliseconds.
    pub last_append_ms: i64,
}

impl SegmentStats {
    /// Bytes and checksum of headers: what tells two contents of one segment apart.
    pub(crate) fn content(&self) -> (u64, u32) {
        (self.bytes, self.headers_crc)
    }

    /// Those of an empty segment.
    pub fn empty(base_offset: i64) -> Self {
        Self {
            batches: 0,
            headers_crc: 0,
            bytes: 0,
            end_offset: base_offset,
            largest_timestamp: -1,
            largest_timestamp_offset: base_offset,
            first_timestamp: -1,
            first_append_ms: -1,
            last_append_ms: -1,
        }
    }
}

/// What the index files held when the summary was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexSums {
    /// Entries of `.index`, and ordinals.
    pub offset_entries: u32,
    /// CRC-32 of the `.index` entries.
    pub offset_crc: u32,
    /// Entries of `.timeindex`.
    pub time_entries: u32,
    /// CRC-32 of them.
    pub time_crc: u32,
    /// CRC-32 of the ordinals.
    pub ordinal_crc: u32,
}

/// The summary part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftSummary {
    /// Whether it covers the whole segment, for good.
    pub sealed: bool,
    /// The covered bytes.
    pub stats: SegmentStats,
    /// The indexes.
    pub sums: IndexSums,
}

impl RaftHead {
    /// Its bytes.
    pub fn encode(&self) -> [u8; RAFT_HEAD_BYTES] {
        let mut bytes = Vec::with_capacity(RAFT_HEAD_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&self.owner.partition.to_be_bytes());
        bytes.extend_from_slice(self.owner.topic_id.as_bytes());
        bytes.extend_from_slice(&self.owner.replica.0.to_be_bytes());
        bytes.extend_from_slice(&self.first.index.to_be_bytes());
        bytes.extend_from_slice(&self.first.term.to_be_bytes());
        bytes.extend_from_slice(&self.base_offset.to_be_bytes());
        seal(bytes)
    }

    /// Reads it from the start of a `.raft` file.
    ///
    /// # Errors
    /// What does not hold.
    pub fn decode(file: &[u8]) -> Result<Self, RaftFileError> {
        let bytes: &[u8; RAFT_HEAD_BYTES] = file.first_chunk().ok_or(RaftFileError::Damaged)?;
        if bytes[..8] != MAGIC {
            return Err(RaftFileError::Damaged);
        }
        check(bytes)?;
        let mut fields = Fields(&bytes[8..]);
        let version = u16::from_be_bytes(fields.take());
        if version != VERSION {
            return Err(RaftFileError::Version(version));
        }
        let [_, _] = fields.take();
        let partition = i32::from_be_bytes(fields.take());
        let topic_id = Uuid::from_bytes(fields.take());
        let replica = ReplicaId(u64::from_be_bytes(fields.take()));
        let index = u64::from_be_bytes(fields.take());
        let term = u64::from_be_bytes(fields.take());
        let base_offset = i64::from_be_bytes(fields.take());
        let owner = SegmentOwner { topic_id, partition, replica };
        Ok(Self { owner, first: LogId { term, index }, base_offset })
    }
}

impl RaftSummary {
    /// Its bytes, which stand between the head and the ordinals.
    pub fn encode(&self) -> [u8; RAFT_ORDINALS_AT - RAFT_HEAD_BYTES] {
        let mut bytes = Vec::with_capacity(RAFT_ORDINALS_AT - RAFT_HEAD_BYTES);
        bytes.extend_from_slice(&(if self.sealed { SEALED } else { 0 }).to_be_bytes());
        let stats = &self.stats;
        bytes.extend_from_slice(&stats.batches.to_be_bytes());
        bytes.extend_from_slice(&stats.headers_crc.to_be_bytes());
        bytes.extend_from_slice(&stats.bytes.to_be_bytes());
        for field in [
            stats.end_offset,
            stats.largest_timestamp,
            stats.largest_timestamp_offset,
            stats.first_timestamp,
            stats.first_append_ms,
            stats.last_append_ms,
        ] {
            bytes.extend_from_slice(&field.to_be_bytes());
        }
        let sums = &self.sums;
        for field in
            [sums.offset_entries, sums.offset_crc, sums.time_entries, sums.time_crc, sums.ordinal_crc]
        {
            bytes.extend_from_slice(&field.to_be_bytes());
        }
        seal(bytes)
    }

    /// Reads it from a whole `.raft` file; `None` where none was written yet, or it is damaged (then the segment is walked).
    pub fn decode(file: &[u8]) -> Option<Self> {
        let bytes: &[u8; RAFT_ORDINALS_AT - RAFT_HEAD_BYTES] = file.get(RAFT_HEAD_BYTES..)?.first_chunk()?;
        check(bytes).ok()?;
        let mut fields = Fields(bytes);
        let flags = u32::from_be_bytes(fields.take());
        let stats = SegmentStats {
            batches: u32::from_be_bytes(fields.take()),
            headers_crc: u32::from_be_bytes(fields.take()),
            bytes: u64::from_be_bytes(fields.take()),
            end_offset: i64::from_be_bytes(fields.take()),
            largest_timestamp: i64::from_be_bytes(fields.take()),
            largest_timestamp_offset: i64::from_be_bytes(fields.take()),
            first_timestamp: i64::from_be_bytes(fields.take()),
            first_append_ms: i64::from_be_bytes(fields.take()),
            last_append_ms: i64::from_be_bytes(fields.take()),
        };
        let sums = IndexSums {
            offset_entries: u32::from_be_bytes(fields.take()),
            offset_crc: u32::from_be_bytes(fields.take()),
            time_entries: u32::from_be_bytes(fields.take()),
            time_crc: u32::from_be_bytes(fields.take()),
            ordinal_crc: u32::from_be_bytes(fields.take()),
        };
        Some(Self { sealed: flags & SEALED != 0, stats, sums })
    }
}

/// Why the head of a `.raft` file is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RaftFileError {
    /// Too short, no magic, or a checksum that does not match: it is written anew.
    #[error("damaged")]
    Damaged,
    /// A newer version wrote it.
    #[error("it has format version {0}, this version knows {VERSION}")]
    Version(u16),
}

/// Appends the CRC-32 of `bytes` to them; the result has the length that the layout gives it.
fn seal<const N: usize>(mut bytes: Vec<u8>) -> [u8; N] {
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes.try_into().unwrap_or_else(|bytes: Vec<u8>| panic!("{} bytes instead of {N}", bytes.len()))
}

/// Compares the CRC-32 in the last four bytes with that of the bytes before.
fn check(bytes: &[u8]) -> Result<(), RaftFileError> {
    let (body, crc) = bytes.split_last_chunk().ok_or(RaftFileError::Damaged)?;
    if crc32fast::hash(body) == u32::from_be_bytes(*crc) { Ok(()) } else { Err(RaftFileError::Damaged) }
}

/// Takes fields off the front of bytes whose length was checked.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("the layout has room for every field");
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> RaftHead {
        RaftHead {
            owner: SegmentOwner {
                topic_id: Uuid::from_u128(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
                partition: 5,
                replica: ReplicaId(77),
            },
            first: LogId { term: 3, index: 1 << 40 },
            base_offset: 123_456_789_012,
        }
    }

    fn summary() -> RaftSummary {
        RaftSummary {
            sealed: true,
            stats: SegmentStats {
                batches: 10,
                headers_crc: 0xdead_beef,
                bytes: 1 << 30,
                end_offset: 123_456_789_512,
                largest_timestamp: 1_700_000_000_000,
                largest_timestamp_offset: 123_456_789_400,
                first_timestamp: 1_600_000_000_000,
                first_append_ms: 1_700_000_000_001,
                last_append_ms: 1_700_000_000_002,
            },
            sums: IndexSums {
                offset_entries: 1,
                offset_crc: 2,
                time_entries: 3,
                time_crc: 4,
                ordinal_crc: 5,
            },
        }
    }

    #[test]
    fn both_parts_come_back() {
        let mut file = head().encode().to_vec();
        assert_eq!(RaftHead::decode(&file), Ok(head()));
        assert_eq!(RaftSummary::decode(&file), None, "not written yet");
        file.extend_from_slice(&summary().encode());
        assert_eq!(file.len(), RAFT_ORDINALS_AT);
        assert_eq!(RaftHead::decode(&file), Ok(head()));
        assert_eq!(RaftSummary::decode(&file), Some(summary()));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let mut file = head().encode().to_vec();
        file.extend_from_slice(&summary().encode());
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let head_is_whole = RaftHead::decode(&flipped) == Ok(head());
            let summary_is_whole = RaftSummary::decode(&flipped) == Some(summary());
            assert_ne!(head_is_whole, summary_is_whole, "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut file = head().encode().to_vec();
        file[9] = 2;
        let crc = crc32fast::hash(&file[..64]);
        file[64..].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(RaftHead::decode(&file), Err(RaftFileError::Version(2)));
    }
}
