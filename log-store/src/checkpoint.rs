//! The checkpoint: the state of every replica of the node as of one round of the write-ahead log, so that recovery
//! reads only the rounds behind it and the log's files can be used again.
//!
//! ```text
//!   <data>/checkpoint, <data>/checkpoint.copy
//!   0  magic      8  "ALVMCKPT"              table, for each group         group
//!   8  version    2  1                       replica  8                    topic id 16, partition 4, name
//!   10 salt       8  of the log's rounds     length   4                    vote: 0 | 1, term 8, node 8, committed 1
//!   18 round      8  } where that round      crc      4  CRC-32 of the     terms: count 4, (term 8, index 8, offset 8)
//!   26 file       4  } ended in the ring              group's bytes        controls: count 4, (id 16, offset 8, payload)
//!   30 position   8  }                       crc      4  CRC-32 of all     floor: 0 | 1, id 16, offset 8
//!   38 groups     4                                   bytes before         end: segment 8, position 8, last, offset 8
//!                                                                          log start 8, committed, snapshot
//!   names and payloads have their length in front (2 or 4 bytes); log ids are term 8, index 8; big-endian
//! ```
//! Each group has a CRC of its own and the whole file a twin: one rotten page costs one group at most, and that one
//! is taken from the copy, or (where both are rotten) stays offline while all others start.
//!
//! # Order
//! ```text
//!   shadow as of round R + WalWriter::position()      captured together, between two rounds
//!   sync segments with bytes of rounds up to R        [`sync_segments`]
//!   checkpoint.tmp, sync, rename, sync directory      [`Checkpoint::write`]
//!   checkpoint.copy.tmp, the same
//!   WalWriter::release(R)                             only now: files that end at or before R are free
//! ```

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Buf, BufMut, Bytes};
use uuid::Uuid;

use crate::{
    ControlEntry, GroupState, GroupStates, LogEnd, LogStoreError, ReplicaId, Segment, TermStart, Vote,
    disk::{Access, Disk, write_file_atomically},
    segment::is_missing,
    wal::{WalPosition, put_log_id, put_optional, take, take_log_id, take_optional, take_sized},
};

const MAGIC: [u8; 8] = *b"ALVMCKPT";
/// The version written; this one and the one before are read.
const VERSION: u16 = 1;
const HEADER: usize = 42;
const TABLE_ROW: usize = 16;
/// Up to this many segments are synced one by one at a checkpoint, more by one sync of the file system.
const SYNCED_ALONE: usize = 256;

/// The file's name.
pub const CHECKPOINT: &str = "checkpoint";
/// Its twin's.
pub const CHECKPOINT_COPY: &str = "checkpoint.copy";

/// The state of all replicas of a node as of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Salt of the rounds that follow.
    pub salt: u64,
    /// The last round that is in the states, and where it ended.
    pub position: WalPosition,
    /// The states.
    pub groups: GroupStates,
    /// Groups whose bytes were unreadable in both files: kept as they are, so that nothing of theirs is removed.
    pub damaged: Vec<DamagedGroup>,
}

/// A group of a checkpoint that does not check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedGroup {
    /// Which replica.
    pub replica: ReplicaId,
    /// The checksum it should have.
    crc: u32,
    bytes: Bytes,
}

impl Checkpoint {
    /// Writes the checkpoint and then its copy; both are durable when it returns.
    ///
    /// # Errors
    /// [`LogStoreError::Io`], final for the running node; the files then hold the old or the new state, each whole.
    pub fn write(&self, disk: &dyn Disk, data: &Path) -> Result<(), LogStoreError> {
        let bytes = self.encode();
        for name in [CHECKPOINT, CHECKPOINT_COPY] {
            let path = data.join(name);
            write_file_atomically(disk, &path, &bytes).map_err(LogStoreError::io("write", &path))?;
        }
        Ok(())
    }

    /// Loads the checkpoint, a group or all of it from the copy where it is rotten; `None` where neither file exists.
    ///
    /// # Errors
    /// [`LogStoreError::Io`]; [`LogStoreError::Refused`] where no file can be used, or a newer version wrote it.
    pub fn load(disk: &dyn Disk, data: &Path) -> Result<Option<Self>, LogStoreError> {
        let main = File::load(disk, &data.join(CHECKPOINT))?;
        let copy = File::load(disk, &data.join(CHECKPOINT_COPY))?;
        let (main, copy) = match (main, copy) {
            (File::Missing, File::Missing) => return Ok(None),
            (File::Whole(main), File::Whole(copy)) => (main, Some(copy)),
            (File::Whole(main), _) => (main, None),
            // rounds are freed only once the copy is durable too: what follows the copy's round is still in the log
            (_, File::Whole(copy)) => (copy, None),
            _ => {
                return Err(LogStoreError::Refused(format!(
                    "{} and its copy are both damaged: restore them from a backup of the data directory, or start from \
                     an empty one and let the other replicas fill it",
                    data.join(CHECKPOINT).display()
                )));
            }
        };
        // a copy of another round is no substitute for a single group: the rounds between may be gone
        let copy = copy.filter(|copy| (copy.salt, copy.position) == (main.salt, main.position));
        let mut loaded = Self {
            salt: main.salt,
            position: main.position,
            groups: GroupStates::default(),
            damaged: Vec::new(),
        };
        for (row, group) in main.table.iter().zip(main.groups) {
            let twin =
                || copy.as_ref()?.groups.get(copy.as_ref()?.table.iter().position(|it| it == row)?).cloned();
            match row.decode(&group).or_else(|| row.decode(&twin()?)) {
                Some(state) => loaded.groups.insert(state),
                None => {
                    loaded.damaged.push(DamagedGroup { replica: row.replica, crc: row.crc, bytes: group });
                }
            }
        }
        Ok(Some(loaded))
    }

    /// Whether the checkpoint and its copy are the same: of a crash between the two, or of rot, something else is left.
    pub(crate) fn is_twofold(disk: &dyn Disk, data: &Path) -> Result<bool, LogStoreError> {
        let read = |name| {
            let path = data.join(name);
            let file = disk.open(&path, Access::Read).map_err(LogStoreError::io("open", &path))?;
            file.read_all().map_err(LogStoreError::io("read", &path))
        };
        match (read(CHECKPOINT), read(CHECKPOINT_COPY)) {
            (Ok(main), Ok(copy)) => Ok(main == copy),
            (Err(error), _) | (_, Err(error)) if !is_missing(&error) => Err(error),
            _ => Ok(false),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut table = Vec::new();
        let mut groups = Vec::new();
        let mut add = |replica: ReplicaId, len: usize, crc: u32| {
            table.put_u64(replica.0);
            table.put_u32(len as u32);
            table.put_u32(crc);
        };
        for state in self.groups.iter() {
            let begin = groups.len();
            encode_group(state, &mut groups);
            add(state.replica, groups.len() - begin, crc32fast::hash(&groups[begin..]));
        }
        for damaged in &self.damaged {
            groups.extend_from_slice(&damaged.bytes);
            add(damaged.replica, damaged.bytes.len(), damaged.crc);
        }
        let mut bytes = Vec::with_capacity(HEADER + table.len() + 4 + groups.len());
        bytes.put_slice(&MAGIC);
        bytes.put_u16(VERSION);
        bytes.put_u64(self.salt);
        bytes.put_u64(self.position.round);
        bytes.put_u32(self.position.file);
        bytes.put_u64(self.position.position);
        bytes.put_u32((self.groups.len() + self.damaged.len()) as u32);
        bytes.put_slice(&table);
        let crc = crc32fast::hash(&bytes);
        bytes.put_u32(crc);
        bytes.put_slice(&groups);
        bytes
    }
}

/// Makes the segments with bytes of rounds up to the captured one durable, and the names of partition directories
/// in the data directory: what a checkpoint needs before it may be written. `before_sync` hears of each segment that is
/// about to be synced.
///
/// # Errors
/// [`LogStoreError::Io`], final (durability rule 6).
pub fn sync_segments(
    disk: &dyn Disk,
    data: &Path,
    dirty: &[Arc<Segment>],
    before_sync: impl Fn(&Segment) -> Result<(), LogStoreError>,
) -> Result<(), LogStoreError> {
    if dirty.len() > SYNCED_ALONE {
        dirty.iter().try_for_each(|segment| before_sync(segment).and_then(|()| segment.write_all_found()))?;
        // even a sync of a clean file costs a flush of the disk's cache: 1,000 of them took five seconds
        dirty.iter().for_each(|segment| segment.mark_clean());
        return disk.sync_file_system(data).map_err(LogStoreError::io("sync", data));
    }
    dirty.iter().try_for_each(|segment| before_sync(segment).and_then(|()| segment.sync()))?;
    disk.sync_dir(data).map_err(LogStoreError::io("sync", data))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    replica: ReplicaId,
    len: usize,
    crc: u32,
}

impl Row {
    fn decode(&self, bytes: &Bytes) -> Option<GroupState> {
        if bytes.len() != self.len || crc32fast::hash(bytes) != self.crc {
            return None;
        }
        decode_group(self.replica, &mut bytes.clone())
    }
}

/// A checkpoint file whose header and table check; the groups may not.
struct Parsed {
    salt: u64,
    position: WalPosition,
    table: Vec<Row>,
    groups: Vec<Bytes>,
}

enum File {
    Missing,
    Damaged,
    Whole(Parsed),
}

impl File {
    fn load(disk: &dyn Disk, path: &PathBuf) -> Result<Self, LogStoreError> {
        if !disk.exists(path).map_err(LogStoreError::io("look for", path))? {
            return Ok(Self::Missing);
        }
        let file = disk.open(path, Access::Read).map_err(LogStoreError::io("open", path))?;
        let bytes = Bytes::from(file.read_all().map_err(LogStoreError::io("read", path))?);
        match Parsed::from_bytes(&bytes) {
            Some((VERSION, parsed)) => Ok(Self::Whole(parsed)),
            Some((version, _)) => Err(LogStoreError::Refused(format!(
                "{} has format {version}, this version of Alluvium knows format {VERSION}: start the version that \
                 wrote it",
                path.display()
            ))),
            None => Ok(Self::Damaged),
        }
    }
}

impl Parsed {
    /// The version, and the content if that version is this one's.
    fn from_bytes(whole: &Bytes) -> Option<(u16, Self)> {
        let mut bytes = whole.clone();
        let magic = take(&mut bytes, 8)?;
        let version = bytes.try_get_u16().ok()?;
        let salt = bytes.try_get_u64().ok()?;
        let round = bytes.try_get_u64().ok()?;
        let file = bytes.try_get_u32().ok()?;
        let position = bytes.try_get_u64().ok()?;
        let count = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
        let mut rows = take(&mut bytes, count.checked_mul(TABLE_ROW)?)?;
        let crc = bytes.try_get_u32().ok()?;
        if magic != MAGIC.as_slice() || crc32fast::hash(&whole[..HEADER + count * TABLE_ROW]) != crc {
            return None;
        }
        let mut table = Vec::with_capacity(count);
        let mut groups = Vec::with_capacity(count);
        while rows.has_remaining() {
            let replica = ReplicaId(rows.get_u64());
            let len = usize::try_from(rows.get_u32()).ok()?;
            table.push(Row { replica, len, crc: rows.get_u32() });
            // a file that lost its end has lost these groups, not the others
            groups.push(bytes.split_to(len.min(bytes.len())));
        }
        Some((version, Self { salt, position: WalPosition { round, file, position }, table, groups }))
    }
}

fn encode_group(state: &GroupState, out: &mut Vec<u8>) {
    out.put_slice(state.topic_id.as_bytes());
    out.put_i32(state.partition);
    out.put_u16(state.topic.len() as u16);
    out.put_slice(state.topic.as_bytes());
    out.put_u8(state.vote.is_some().into());
    if let Some(vote) = state.vote {
        out.put_u64(vote.term);
        out.put_u64(vote.node);
        out.put_u8(vote.committed.into());
    }
    out.put_u32(state.terms.len() as u32);
    for row in &state.terms {
        out.put_u64(row.term);
        out.put_u64(row.first_index);
        out.put_i64(row.start_offset);
    }
    out.put_u32(state.controls.len() as u32);
    for control in &state.controls {
        put_log_id(out, control.log_id);
        out.put_i64(control.offset);
        put_sized(out, &control.payload);
    }
    out.put_u8(state.floor.is_some().into());
    if let Some((floor, offset)) = state.floor {
        put_log_id(out, floor);
        out.put_i64(offset);
    }
    out.put_i64(state.end.segment);
    out.put_u64(state.end.position);
    put_optional(out, state.end.last);
    out.put_i64(state.end.next_offset);
    out.put_i64(state.log_start);
    put_optional(out, state.committed);
    put_sized(out, &state.snapshot);
}

fn put_sized(out: &mut Vec<u8>, bytes: &Bytes) {
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

fn decode_group(replica: ReplicaId, bytes: &mut Bytes) -> Option<GroupState> {
    let topic_id = Uuid::from_slice(&take(bytes, 16)?).ok()?;
    let partition = bytes.try_get_i32().ok()?;
    let len = bytes.try_get_u16().ok()?;
    let topic = String::from_utf8(take(bytes, len.into())?.to_vec()).ok()?;
    let mut state = GroupState::new(replica, topic_id, topic, partition);
    if bytes.try_get_u8().ok()? == 1 {
        let term = bytes.try_get_u64().ok()?;
        let node = bytes.try_get_u64().ok()?;
        state.vote = Some(Vote { term, node, committed: bytes.try_get_u8().ok()? == 1 });
    }
    for _ in 0..bytes.try_get_u32().ok()? {
        let term = bytes.try_get_u64().ok()?;
        let first_index = bytes.try_get_u64().ok()?;
        state.terms.push(TermStart { term, first_index, start_offset: bytes.try_get_i64().ok()? });
    }
    for _ in 0..bytes.try_get_u32().ok()? {
        let log_id = take_log_id(bytes)?;
        let offset = bytes.try_get_i64().ok()?;
        state.controls.push(ControlEntry { log_id, offset, payload: take_sized(bytes)? });
    }
    if bytes.try_get_u8().ok()? == 1 {
        state.floor = Some((take_log_id(bytes)?, bytes.try_get_i64().ok()?));
    }
    let segment = bytes.try_get_i64().ok()?;
    let position = bytes.try_get_u64().ok()?;
    let last = take_optional(bytes)?;
    state.end = LogEnd { segment, position, last, next_offset: bytes.try_get_i64().ok()? };
    state.log_start = bytes.try_get_i64().ok()?;
    state.committed = take_optional(bytes)?;
    state.snapshot = take_sized(bytes)?;
    bytes.is_empty().then_some(state)
}
