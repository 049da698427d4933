//! What a snapshot of a group says: where it ends, and what cannot be read from the log behind it.
//!
//! ```text
//!  u16 version = 1
//!  u8 has log id     u64 term   u64 index          the last entry it stands for
//!  u8 has log id     u64 term   u64 index          of the membership
//!  membership (as in a control entry)
//!  i64 next offset   i64 log start
//! ```
//! The producer state at that boundary is the `.snapshot` file of the segment that begins there.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use log_store::LogId;
use openraft::{SnapshotMeta, StoredMembership};

use crate::entry::{Committed, decode_membership, encode_membership, from_raft, to_raft};

const VERSION: u16 = 1;

/// A membership with the entry that set it.
pub(crate) type Members = StoredMembership<Committed, u64, openraft::EmptyNode>;

/// openraft's description of a snapshot.
pub(crate) type Meta = SnapshotMeta<Committed, u64, openraft::EmptyNode>;

/// The contents of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SnapshotContents {
    /// The last entry it stands for.
    pub(crate) log_id: Option<LogId>,
    /// The membership at that entry.
    pub(crate) membership: Members,
    /// Offset of the first record behind it.
    pub(crate) next_offset: i64,
    /// First readable offset.
    pub(crate) log_start: i64,
}

impl SnapshotContents {
    pub(crate) fn meta(&self) -> Meta {
        Meta { last_log_id: self.log_id.map(to_raft), last_membership: self.membership.clone() }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(96);
        out.put_u16(VERSION);
        put_log_id(self.log_id, &mut out);
        put_log_id(self.membership.log_id().as_ref().map(from_raft), &mut out);
        encode_membership(self.membership.membership(), &mut out);
        out.put_i64(self.next_offset);
        out.put_i64(self.log_start);
        out.freeze()
    }

    /// Reads what [`Self::encode`] wrote; nothing at all for a group without a snapshot.
    pub(crate) fn decode(mut bytes: &[u8]) -> io::Result<Option<Self>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let bytes = &mut bytes;
        let version = take(bytes, 2, Buf::get_u16)?;
        if version != VERSION {
            return Err(malformed(&format!("snapshot of version {version}, this binary reads {VERSION}")));
        }
        let log_id = get_log_id(bytes)?;
        let set_by = get_log_id(bytes)?;
        let membership = StoredMembership::new(set_by.map(to_raft), decode_membership(bytes)?);
        let next_offset = take(bytes, 8, Buf::get_i64)?;
        let log_start = take(bytes, 8, Buf::get_i64)?;
        Ok(Some(Self { log_id, membership, next_offset, log_start }))
    }
}

fn put_log_id(log_id: Option<LogId>, out: &mut BytesMut) {
    out.put_u8(log_id.is_some().into());
    let log_id = log_id.unwrap_or(LogId { term: 0, index: 0 });
    out.put_u64(log_id.term);
    out.put_u64(log_id.index);
}

fn get_log_id(bytes: &mut &[u8]) -> io::Result<Option<LogId>> {
    let there = take(bytes, 1, Buf::get_u8)? != 0;
    let term = take(bytes, 8, Buf::get_u64)?;
    let index = take(bytes, 8, Buf::get_u64)?;
    Ok(there.then_some(LogId { term, index }))
}

fn take<'a, T>(bytes: &mut &'a [u8], len: usize, get: fn(&mut &'a [u8]) -> T) -> io::Result<T> {
    if bytes.remaining() < len {
        return Err(malformed("a snapshot is shorter than its fields"));
    }
    Ok(get(bytes))
}

fn malformed(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
