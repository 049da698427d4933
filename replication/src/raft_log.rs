//! openraft's log storage over [`log_store::Log`] and the flusher's queue.
//!
//! | openraft | here |
//! | --- | --- |
//! | `append` | readable from memory at once, queued for the next round; the callback runs when that round is durable |
//! | `save_vote` | through the same queue, returns when its round is durable |
//! | `truncate_after` | forgets in memory, `Cut` record durable, then the files are cut, then it returns |
//! | `purge` | raises the floor in memory, queues `Snapshot` and `Purge`, returns; a worker unlinks once they are durable |
//! | `save_committed` | memory; the checkpoint writes it out, never above the durable end |
//!
//! An `Err` from here ends the group's core for good, so only what must end it is one (durability rule 6).

use std::{fmt::Debug, io, ops::RangeBounds, sync::Arc};

use futures_util::stream::{self, Stream};
use log_store::{
    Entry, LogId, Vote,
    log::{EntryHead, QueuedWrite},
    wal::WalRecord,
};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
    type_config::alias::{LogIdOf, VoteOf},
};
use tokio::sync::oneshot;

use crate::{
    Partition,
    entry::{Payload, RaftEntry, TypeConfig, from_raft, to_raft, vote_from_raft, vote_to_raft},
    flusher::{AfterDurable, Work},
    invariants::Violation,
};

/// Bytes that one read for replication brings into memory.
const REPLICATION_BYTES: u64 = 1 << 20;
/// Headers that one read for apply brings into memory.
const APPLY_HEADS: u64 = 256;

/// The storage of one group's log and vote.
#[derive(Clone)]
pub(crate) struct RaftLog {
    partition: Arc<Partition>,
    /// Stores blank entries as one-record batches, so that openraft's suite meets the paths of batches too.
    #[cfg(test)]
    pub(crate) blank_as_batch: bool,
    /// A planted bug: a purge above the end is not refused.
    #[cfg(test)]
    pub(crate) purges_beyond_end: bool,
}

impl RaftLog {
    pub(crate) fn new(partition: Arc<Partition>) -> Self {
        Self {
            partition,
            #[cfg(test)]
            blank_as_batch: false,
            #[cfg(test)]
            purges_beyond_end: false,
        }
    }

    fn push(&self, work: Work) {
        self.partition.lane().push(work);
    }

    /// Queues a record and waits until its round is durable.
    async fn write(&self, record: WalRecord) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.push(Work::record(record, AfterDurable::Tell(sender)));
        // a flusher that stops never says so
        receiver.await.map_err(|_| io::Error::other("the flusher stopped"))
    }

    fn broken(&self, violation: Violation) -> io::Error {
        self.partition.fail(&violation.to_string());
        io::Error::other(violation)
    }

    fn stored(&self, entry: RaftEntry) -> (Entry, Option<crate::completion::Ticket>) {
        let log_id = from_raft(&entry.log_id);
        #[cfg(test)]
        if self.blank_as_batch && matches!(entry.payload, Payload::Blank) {
            return (Entry::Batch { log_id, batch: crate::tests::one_record_batch() }, None);
        }
        match entry.payload {
            Payload::Batch { batch, ticket } => (Entry::Batch { log_id, batch }, ticket),
            // a header alone is read for apply and never appended
            Payload::Head(header) => {
                unreachable!("a header of {} bytes was appended as an entry", header.size())
            }
            control => {
                let payload = control.encode_control().unwrap_or_default();
                (Entry::Control { log_id, payload }, None)
            }
        }
    }

    /// The part of a range that the log holds.
    fn held(&self, range: impl RangeBounds<u64>) -> std::ops::Range<u64> {
        use std::ops::Bound;
        let log = self.partition.log();
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let first = log.floor().map_or(0, |floor| floor.index + 1);
        let behind = log.last_log_id().map_or(0, |last| last.index + 1);
        let start = start.max(first);
        start..end.min(behind).max(start)
    }

    fn heads(&self, range: std::ops::Range<u64>) -> io::Result<Vec<RaftEntry>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let heads = self.partition.log().heads(range).map_err(|error| self.failed(error))?;
        heads.into_iter().map(|head| applied_entry(head).map_err(|error| self.failed(error))).collect()
    }

    /// The log cannot be read, which ends the core: whoever asks is told why.
    fn failed(&self, error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
        self.partition.fail(&error.to_string());
        io::Error::other(error)
    }
}

/// An entry as apply reads it.
fn applied_entry(head: EntryHead) -> io::Result<RaftEntry> {
    Ok(match head {
        EntryHead::Control { log_id, payload, .. } => {
            RaftEntry { log_id: to_raft(log_id), payload: Payload::decode_control(&payload)? }
        }
        EntryHead::Batch { log_id, header } => {
            RaftEntry { log_id: to_raft(log_id), payload: Payload::Head(header) }
        }
    })
}

impl RaftLogReader<TypeConfig> for RaftLog {
    /// Headers only: openraft reads through this what it applies at a start, and looks for memberships and log ids.
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        self.heads(self.held(range))
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<TypeConfig>>, io::Error> {
        Ok(self.partition.vote().map(vote_to_raft))
    }

    /// What replication sends: entries with their records, bounded by bytes, never empty for a range that is not.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
        let range = self.held(start..end);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let entries =
            self.partition.log().entries(range, REPLICATION_BYTES).map_err(|error| self.failed(error))?;
        entries
            .into_iter()
            .map(|entry| {
                Ok(match entry {
                    Entry::Control { log_id, payload } => {
                        RaftEntry { log_id: to_raft(log_id), payload: Payload::decode_control(&payload)? }
                    }
                    Entry::Batch { log_id, batch } => {
                        RaftEntry { log_id: to_raft(log_id), payload: Payload::Batch { batch, ticket: None } }
                    }
                })
            })
            .collect()
    }

    /// What apply reads: headers, so many at a time.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<RaftEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let log = self.clone();
        let range = self.held(range);
        stream::iter(Heads { log, next: range.start, end: range.end, read: Vec::new().into_iter() })
    }

    /// The last entry of each leader in the range: what the term table knows.
    async fn get_key_log_ids(
        &mut self,
        range: std::ops::RangeInclusive<LogIdOf<TypeConfig>>,
    ) -> Result<Vec<LogIdOf<TypeConfig>>, io::Error> {
        let (first, last) = (from_raft(range.start()), from_raft(range.end()));
        let terms = self.partition.log().terms();
        let ends = terms.iter().skip(1).map(|next| next.first_index - 1).chain([u64::MAX]);
        let mut ids: Vec<LogIdOf<TypeConfig>> = terms
            .iter()
            .zip(ends)
            .filter(|(row, end)| *end >= first.index && row.first_index <= last.index)
            .map(|(row, end)| to_raft(LogId { term: row.term, index: end.min(last.index) }))
            .collect();
        ids.dedup();
        Ok(ids)
    }
}

/// Entries for apply, read in pieces.
struct Heads {
    log: RaftLog,
    next: u64,
    end: u64,
    read: std::vec::IntoIter<RaftEntry>,
}

impl Iterator for Heads {
    type Item = io::Result<RaftEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(entry) = self.read.next() {
            return Some(Ok(entry));
        }
        if self.next >= self.end {
            return None;
        }
        let until = self.end.min(self.next + APPLY_HEADS);
        match self.log.heads(self.next..until) {
            Ok(entries) if entries.is_empty() => {
                self.next = self.end;
                let missing = io::Error::other("an entry that is to be applied is not in the log");
                Some(Err(self.log.failed(missing)))
            }
            Ok(entries) => {
                self.next += entries.len() as u64;
                self.read = entries.into_iter();
                self.read.next().map(Ok)
            }
            Err(error) => {
                self.next = self.end;
                Some(Err(error))
            }
        }
    }
}

impl RaftLogStorage<TypeConfig> for RaftLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let log = self.partition.log();
        Ok(LogState {
            last_purged_log_id: log.floor().map(to_raft),
            last_log_id: log.last_log_id().or(log.floor()).map(to_raft),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> Result<(), io::Error> {
        let vote: Vote = vote_from_raft(vote);
        if i32::try_from(vote.term).is_err() {
            return Err(io::Error::other(format!("term {} does not fit a leader epoch", vote.term)));
        }
        self.partition.vote_comes(vote).map_err(|violation| self.broken(violation))?;
        self.write(WalRecord::Vote { replica: self.partition.replica(), vote }).await?;
        self.partition.vote_saved(vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<TypeConfig>>) -> Result<(), io::Error> {
        let committed = committed.as_ref().map(from_raft);
        self.partition.commit(committed).map_err(|violation| self.broken(violation))
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<TypeConfig>>, io::Error> {
        Ok(self.partition.committed().map(to_raft))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        // those with `acks` below `all`, by their place
        let mut tickets = Vec::new();
        let stored = entries.into_iter().enumerate().map(|(place, entry)| {
            let (entry, ticket) = self.stored(entry);
            tickets.extend(ticket.map(|ticket| (place, ticket)));
            entry
        });
        let mut writes = Vec::with_capacity(1);
        self.partition.log().append(stored, self.partition.now_ms(), &mut writes);
        let mut last = None;
        let mut tickets = tickets.into_iter().peekable();
        for (place, write) in writes.iter().enumerate() {
            let ticket = tickets.next_if(|(of, _)| *of == place).map(|(_, ticket)| ticket);
            match write {
                QueuedWrite::Control { log_id, payload, .. } => {
                    last = Some(*log_id);
                    self.partition
                        .appended_control(*log_id, payload)
                        .map_err(|violation| self.broken(violation))?;
                }
                QueuedWrite::Batch { log_id, batch, position, .. } => {
                    last = Some(*log_id);
                    self.partition
                        .appended(*log_id, batch, *position == 0, ticket)
                        .map_err(|violation| self.broken(violation))?;
                }
            }
        }
        let Some(last) = last else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        let next_offset = self.partition.log().next_offset();
        self.push(Work::append(Arc::clone(&self.partition), writes, last, next_offset, callback));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogIdOf<TypeConfig>>) -> Result<(), io::Error> {
        let after = last_log_id.as_ref().map(from_raft);
        let log = self.partition.log();
        if after.is_some_and(|after| log.last_log_id().is_none_or(|last| last.index <= after.index)) {
            return Ok(());
        }
        let end = log.truncate_after(after).map_err(|error| self.failed(error))?;
        let (sender, receiver) = oneshot::channel();
        self.push(Work::record(
            WalRecord::Cut { replica: self.partition.replica(), after: end.last, end },
            AfterDurable::CutFiles(Arc::clone(&self.partition), sender),
        ));
        receiver.await.map_err(|_| io::Error::other("the flusher stopped"))?;
        self.partition.cut(end.last, end.next_offset);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogIdOf<TypeConfig>) -> Result<(), io::Error> {
        let upto = from_raft(&log_id);
        let log = self.partition.log();
        if log.floor().is_some_and(|floor| upto.index <= floor.index) {
            return Ok(());
        }
        let beyond = log.last_log_id().is_none_or(|last| upto.index > last.index);
        #[cfg(test)]
        if beyond && self.blank_as_batch {
            // the suite purges batches beyond the end, which only a snapshot that stands for them allows
            let next_offset = log.next_offset();
            let replica = self.partition.replica();
            let (sender, receiver) = oneshot::channel();
            let files = log.install(upto, next_offset).map_err(|error| self.failed(error))?;
            let record =
                WalRecord::Installed { replica, log_id: upto, snapshot: Default::default(), next_offset };
            self.push(Work::record(record, AfterDurable::Remove(files, sender)));
            return receiver.await.map_err(io::Error::other);
        }
        #[cfg(test)]
        let beyond = beyond && !self.purges_beyond_end;
        if beyond && log.size() > 0 && !self.may_purge_beyond_end(upto) {
            self.partition.fail("openraft wanted to purge a log beyond its end");
            return Err(io::Error::other(format!("purge to {upto:?} above the end {:?}", log.last_log_id())));
        }
        let (offset, files) = log.purge(upto).map_err(|error| self.failed(error))?;
        let replica = self.partition.replica();
        if let Some(snapshot) = self.partition.snapshot() {
            self.push(Work::record(
                WalRecord::Snapshot { replica, snapshot: snapshot.encode() },
                AfterDurable::Nothing,
            ));
        }
        self.push(Work::record(
            WalRecord::Purge { replica, floor: upto, offset },
            AfterDurable::Unlink(files),
        ));
        Ok(())
    }
}

impl RaftLog {
    /// Above the log's end everything goes, so only a snapshot that stands for it allows that (durability rule 4).
    fn may_purge_beyond_end(&self, upto: LogId) -> bool {
        self.partition.snapshot().is_some_and(|snapshot| snapshot.log_id >= Some(upto))
    }
}
