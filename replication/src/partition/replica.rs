//! What the group's storage and state machine tell the partition: votes, entries, durability, commits, snapshots, its end.

use std::sync::{Arc, atomic::Ordering};

use log_store::{Log, LogId, RecordBatch, ReplicaId, Vote, batch::crc32c, wal::WalRecord};
use openraft::StoredMembership;
use tokio::sync::oneshot;

use super::{Boundary, Core, Marks, Partition, Role, epoch_of};
use crate::{
    ReplicationError,
    completion::{Acks, Appended, Completion, Ticket},
    entry::{Applied, Payload, to_raft},
    flusher::{AfterDurable, Work},
    invariants::{Invariants, Violation},
    lane::Lane,
    lock,
    producers::{Producers, log_append_time},
    snapshot::{Members, SnapshotContents},
};

impl Partition {
    pub(crate) fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// The log.
    ///
    /// # Panics
    /// For a partition that is offline since the start: it has no core that could ask.
    pub(crate) fn log(&self) -> Arc<Log> {
        self.log.load_full().expect("a partition without a log has no core and does not serve")
    }

    /// Writes derived files, unless the directory was given up.
    pub(crate) fn in_directory<T>(&self, write: impl FnOnce(&Log) -> T) -> Option<T> {
        let owns = lock(&self.owns_directory);
        owns.then(|| write(&self.log()))
    }

    /// Its files are about to go: from now on nothing is written into the directory, and nothing keeps its files open but
    /// readers that have begun.
    pub(crate) fn leave_directory(&self) {
        *lock(&self.owns_directory) = false;
        if let Some(log) = &*self.log.load() {
            log.close();
        }
    }

    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    pub(crate) fn now_ms(&self) -> i64 {
        (self.now)()
    }

    /// The handle of the core, as long as there is one.
    pub(crate) fn core(&self) -> Option<Core> {
        lock(&self.core).clone()
    }

    /// Where the group's core is from now on.
    pub(crate) fn attach(&self, core: Core) {
        *lock(&self.core) = Some(core);
    }

    /// Lets entries be applied with gaps between them.
    #[cfg(test)]
    pub(crate) fn allow_gaps(&self) {
        lock(&self.marks).invariants.gaps_allowed = true;
    }

    /// As if everything up to an entry were applied.
    #[cfg(test)]
    pub(crate) fn pretend_applied(&self, log_id: LogId) {
        lock(&self.marks).applied = Some(log_id);
    }

    /// The last saved vote.
    pub(crate) fn vote(&self) -> Option<Vote> {
        lock(&self.marks).vote
    }

    /// The last entry known to be committed.
    pub(crate) fn committed(&self) -> Option<LogId> {
        lock(&self.marks).committed
    }

    /// The last applied entry and the membership as of it.
    pub(crate) fn applied(&self) -> (Option<LogId>, Members) {
        let marks = lock(&self.marks);
        (marks.applied, marks.membership.clone())
    }

    /// For the checkpoint: the last applied entry and the log start.
    pub(crate) fn checkpoint_marks(&self) -> (Option<LogId>, i64) {
        let marks = lock(&self.marks);
        (marks.applied, marks.log_start)
    }

    /// A vote is about to be saved. One of another leadership ends ours, before anything of it is durable.
    pub(crate) fn vote_comes(&self, vote: Vote) -> Result<(), Violation> {
        let deposed = {
            let mut marks = lock(&self.marks);
            marks.invariants.vote(vote)?;
            let kept = marks.leading.is_some_and(|term| term == vote.term && vote.node == self.replica.0);
            marks.leading.is_some() && !kept
        };
        if deposed {
            self.leave(Role::Waiting);
        }
        Ok(())
    }

    /// A vote is durable.
    pub(crate) fn vote_saved(&self, vote: Vote) {
        let mut marks = lock(&self.marks);
        marks.vote = Some(vote);
        if vote.committed && vote.node == self.replica.0 && !marks.role.is_final() {
            marks.leading = Some(vote.term);
        }
    }

    /// A batch is in the log's memory: checks it, answers `acks=0`, and remembers who waits for the disk. `starts_segment`: it is
    /// the first of its segment, where apply writes the producers' state out.
    pub(crate) fn appended(
        &self,
        log_id: LogId,
        batch: &RecordBatch,
        starts_segment: bool,
        ticket: Option<Ticket>,
    ) -> Result<(), Violation> {
        if starts_segment && batch.base_offset() > 0 {
            lock(&self.segment_starts).push_back(batch.base_offset());
        }
        let log_start = {
            let mut marks = lock(&self.marks);
            marks.invariants.entry(log_id, batch.header().crc)?;
            marks.log_start
        };
        let Some(ticket) = ticket else { return Ok(()) };
        let appended = Appended {
            base_offset: batch.base_offset(),
            log_start,
            log_append_time: log_append_time(&batch.header()),
        };
        match ticket.acks() {
            Acks::None => ticket.succeed(appended),
            Acks::Leader | Acks::All => self.await_durable(log_id, appended, ticket),
        }
        Ok(())
    }

    /// Answers an append once it is on this disk. The core may still hand in what it took before the replica stopped serving:
    /// that never gets there, and its index goes to another entry.
    fn await_durable(&self, log_id: LogId, appended: Appended, ticket: Ticket) {
        let marks = lock(&self.marks);
        match marks.role.error() {
            None => lock(&self.local).push_back((log_id.index, appended, ticket)),
            Some(error) => {
                drop(marks);
                ticket.fail(&error);
            }
        }
    }

    /// A control entry is in the log's memory.
    pub(crate) fn appended_control(&self, log_id: LogId, payload: &[u8]) -> Result<(), Violation> {
        lock(&self.marks).invariants.entry(log_id, crc32c(payload))
    }

    /// Everything up to `last` is on this disk.
    pub(crate) fn durable(&self, last: LogId, next_offset: i64) -> Result<(), Violation> {
        {
            let mut marks = lock(&self.marks);
            marks.invariants.told(last)?;
            // a cut may have overtaken the answer of an append
            marks.durable = marks.durable.max(Some(last));
            marks.durable_end = marks.durable_end.max(next_offset);
        }
        let mut local = lock(&self.local);
        while local.front().is_some_and(|(index, ..)| *index <= last.index) {
            if let Some((_, appended, ticket)) = local.pop_front() {
                ticket.succeed(appended);
            }
        }
        Ok(())
    }

    /// The log was cut behind `last`.
    pub(crate) fn cut(&self, last: Option<LogId>, next_offset: i64) {
        lock(&self.local).retain(|(index, ..)| last.is_some_and(|last| *index <= last.index));
        lock(&self.segment_starts).retain(|start| *start < next_offset);
        let mut marks = lock(&self.marks);
        marks.invariants.cut(last);
        marks.durable = last;
        marks.durable_end = next_offset;
    }

    /// openraft counts everything up to `committed` as committed.
    pub(crate) fn commit(&self, committed: Option<LogId>) -> Result<(), Violation> {
        let mut marks = lock(&self.marks);
        let durable = (marks.alone && marks.leading.is_some()).then_some(marks.durable);
        marks.invariants.commit(committed, durable)?;
        marks.committed = committed;
        Ok(())
    }

    /// Applies entries in order, moves the high watermark, and only then answers.
    pub(crate) fn apply(
        &self,
        entries: &mut Vec<(LogId, Payload)>,
        results: &mut Vec<Applied>,
    ) -> Result<(), Violation> {
        let now_ms = self.now_ms();
        let mut joined = Vec::new();
        let mut serves = false;
        {
            let mut marks = lock(&self.marks);
            let mut producers = None;
            for (log_id, payload) in entries.drain(..) {
                marks.invariants.apply(log_id)?;
                if let Some(control) = payload.encode_control() {
                    marks.invariants.entry(log_id, crc32c(&control))?;
                }
                marks.applied = Some(log_id);
                serves |= marks.leading == Some(log_id.term);
                results.push(match payload {
                    Payload::Blank => Applied::Nothing,
                    Payload::Membership(membership) => {
                        marks.alone = membership.voter_ids().all(|voter| voter == self.replica.0);
                        marks.membership = StoredMembership::new(Some(to_raft(log_id)), membership);
                        Applied::Nothing
                    }
                    Payload::Trim { log_start } => {
                        marks.log_start = marks.log_start.max(log_start.min(marks.high_watermark));
                        Applied::Trimmed(marks.log_start)
                    }
                    Payload::Batch { batch, .. } => self.apply_batch(
                        &mut marks,
                        log_id,
                        &batch.header(),
                        &mut producers,
                        &mut joined,
                        now_ms,
                    )?,
                    Payload::Head(header) => {
                        self.apply_batch(&mut marks, log_id, &header, &mut producers, &mut joined, now_ms)?
                    }
                });
            }
            Invariants::offsets(marks.log_start, marks.high_watermark, self.log().next_offset())?;
            self.log().set_log_start(marks.log_start);
            if let Some(applied) = marks.applied {
                self.log().applied(applied);
            }
            if serves && matches!(marks.role, Role::Waiting) {
                marks.role = Role::Serving;
                marks.epoch = marks.leading.map_or(marks.epoch, epoch_of);
            } else {
                serves = false;
            }
        }
        if serves {
            *lock(&self.submit) = self.core();
        }
        for (completion, appended) in joined {
            Completion::complete(completion, Ok(appended));
        }
        self.wake();
        Ok(())
    }

    fn apply_batch<'a>(
        &'a self,
        marks: &mut Marks,
        log_id: LogId,
        header: &log_store::BatchHeader,
        producers: &mut Option<std::sync::MutexGuard<'a, Producers>>,
        joined: &mut Vec<(Completion, Appended)>,
        now_ms: i64,
    ) -> Result<Applied, Violation> {
        marks.invariants.entry(log_id, header.crc)?;
        marks.high_watermark = header.next_offset();
        let appended = Appended {
            base_offset: header.base_offset,
            log_start: marks.log_start,
            log_append_time: log_append_time(header),
        };
        if lock(&self.segment_starts).pop_front_if(|start| *start <= header.base_offset).is_some() {
            let producers = producers.get_or_insert_with(|| lock(&self.producers));
            let directory = format!("{}-{}", self.topic, self.index);
            self.files.write_producer_snapshot(&directory, header.base_offset, producers.to_snapshot());
        }
        if header.has_producer() {
            let producers = producers.get_or_insert_with(|| lock(&self.producers));
            joined
                .extend(producers.apply(header, now_ms).into_iter().map(|completion| (completion, appended)));
        }
        Ok(Applied::Appended(appended))
    }

    /// Wakes the fetches that wait.
    fn wake(&self) {
        lock(&self.waiters).retain(|waiter| match waiter.upgrade() {
            Some(waiter) => {
                waiter.wake.notify_one();
                true
            }
            None => false,
        });
    }

    /// Stops serving: whoever waits is told, before any watermark moves.
    fn leave(&self, role: Role) {
        *lock(&self.submit) = None;
        let error = role.error().unwrap_or(ReplicationError::NotLeader);
        {
            let mut marks = lock(&self.marks);
            if marks.role.is_final() {
                return;
            }
            marks.role = role;
            marks.leading = None;
        }
        let local = std::mem::take(&mut *lock(&self.local));
        for (_, _, ticket) in local {
            ticket.fail(&error);
        }
        let joined = lock(&self.producers).lose_in_flight();
        for completion in joined {
            completion.complete(Err(error.clone()));
        }
        self.wake();
    }

    /// The group's storage failed or an invariant broke: the partition answers with the storage error from now on.
    pub(crate) fn fail(&self, reason: &str) {
        tracing::error!(partition = ?self, reason, "partition is offline");
        self.leave(Role::Failed(reason.to_owned()));
    }

    /// A write into a segment failed. Whatever the core still queues is dropped, and every answer with it.
    pub(crate) fn break_off(&self, reason: &str) {
        if self.broken.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(partition = ?self, reason, "a write failed: the partition stops, and starts again by itself");
        self.leave(Role::Broken(reason.to_owned()));
        if let Some(core) = self.core() {
            // whoever waits for it learns of it by the core's end
            self.lane.runtime().spawn(async move {
                let _ = core.shutdown().await;
            });
        }
    }

    /// Whether a write into a segment failed.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// The group is tried to be started again; whether there is need.
    pub(crate) fn revival_begins(&self) -> bool {
        self.reviving.store(false, Ordering::Release);
        self.is_broken()
    }

    /// The topic is gone.
    pub(crate) fn delete(&self) {
        self.leave(Role::Deleted);
    }

    /// The node is stopping.
    pub(crate) fn stop(&self) {
        self.leave(Role::Stopping);
    }

    /// Lets go of the core, for it to be shut down.
    pub(crate) fn detach(&self) -> Option<Core> {
        lock(&self.core).take()
    }

    /// Takes a snapshot at the boundary that was asked for. Without one there is none: openraft purges what a snapshot covers,
    /// and asks once for each of several releases at a time.
    pub(crate) fn take_snapshot(&self) -> Option<SnapshotContents> {
        let mut marks = lock(&self.marks);
        let Boundary { log_id, next_offset } = marks.boundary.take()?;
        let is_newer = marks.snapshot.as_ref().and_then(|snapshot| snapshot.log_id) < Some(log_id);
        // it tells one membership, which may have changed since the boundary was found
        let told = marks.membership.log_id().as_ref().is_some_and(|set_by| set_by.index <= log_id.index);
        (is_newer && told).then(|| marks.take_snapshot(Some(log_id), next_offset))
    }

    /// Takes a snapshot at the last applied entry. openraft insists on one at a start without a snapshot where the log was
    /// purged, which is only its storage suite: here each purge brings its snapshot along.
    pub(crate) fn take_snapshot_now(&self) -> SnapshotContents {
        let mut marks = lock(&self.marks);
        let (applied, high_watermark) = (marks.applied, marks.high_watermark);
        marks.take_snapshot(applied, high_watermark)
    }

    /// The last snapshot taken or installed.
    pub(crate) fn snapshot(&self) -> Option<SnapshotContents> {
        lock(&self.marks).snapshot.clone()
    }

    /// A leader's snapshot takes the place of everything up to its end.
    pub(crate) async fn install(&self, contents: SnapshotContents) -> std::io::Result<()> {
        let Some(last) = contents.log_id else { return Ok(()) };
        let replica = self.replica;
        let (sender, durable) = oneshot::channel();
        let snapshot = contents.encode();
        let work = if self.log().last_log_id().is_some_and(|end| end.index >= last.index) {
            // the log holds it already and goes on behind it
            Work::record(WalRecord::Snapshot { replica, snapshot }, AfterDurable::Tell(sender))
        } else {
            let next_offset = contents.next_offset;
            let files = self.log().install(last, next_offset).map_err(std::io::Error::other)?;
            Work::record(
                WalRecord::Installed { replica, log_id: last, snapshot, next_offset },
                AfterDurable::Remove(files, sender),
            )
        };
        self.lane.push(work);
        durable.await.map_err(|_| std::io::Error::other("the flusher stopped"))?;
        self.installed(contents);
        Ok(())
    }

    fn installed(&self, contents: SnapshotContents) {
        let mut marks = lock(&self.marks);
        marks.applied = contents.log_id;
        marks.committed = marks.committed.max(contents.log_id);
        marks.membership = contents.membership.clone();
        marks.log_start = marks.log_start.max(contents.log_start);
        marks.high_watermark = marks.high_watermark.max(contents.next_offset);
        marks.invariants.installed(contents.log_id);
        marks.snapshot = Some(contents);
    }
}
