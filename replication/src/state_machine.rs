//! Applying committed entries: moves the high watermark and the producer state, answers appends, wakes fetches.
//!
//! What is applied is the header of a batch; its records are not looked at. The state is the partition's own, so a
//! snapshot is O(1): where it ends, the membership, and the offsets (the log itself is the data).

use std::{io, sync::Arc};

use futures_util::{Stream, TryStreamExt};
use log_store::LogId;
use openraft::{
    OptionalSend, RaftSnapshotBuilder,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
    type_config::alias::{LogIdOf, SnapshotOf, StoredMembershipOf},
};

use crate::{
    Partition,
    entry::{Applied, Payload, TypeConfig, from_raft},
    snapshot::{Meta, SnapshotContents},
};

/// Entries applied under one lock.
const AT_A_TIME: usize = 256;

/// The state machine of one group.
pub(crate) struct StateMachine {
    partition: Arc<Partition>,
    /// Memory of [`RaftStateMachine::apply`], used again and again.
    entries: Vec<(LogId, Payload)>,
    responders: Vec<Option<ApplyResponder<TypeConfig>>>,
    results: Vec<Applied>,
}

impl StateMachine {
    pub(crate) fn new(partition: Arc<Partition>) -> Self {
        Self { partition, entries: Vec::new(), responders: Vec::new(), results: Vec::new() }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotContents;
    type SnapshotData = SnapshotContents;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<TypeConfig>>, StoredMembershipOf<TypeConfig>), io::Error> {
        let (applied, membership) = self.partition.applied();
        Ok((applied.map(crate::entry::to_raft), membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let Self { partition, entries: batch, responders, results } = self;
        loop {
            let next = entries.try_next().await?;
            let ended = next.is_none();
            if let Some((entry, responder)) = next {
                batch.push((from_raft(&entry.log_id), entry.payload));
                responders.push(responder);
            }
            if ended || batch.len() == AT_A_TIME {
                if let Err(violation) = partition.apply(batch, results) {
                    partition.fail(&violation.to_string());
                    return Err(io::Error::other(violation));
                }
                for (responder, result) in responders.drain(..).zip(results.drain(..)) {
                    if let Some(responder) = responder {
                        responder.send(result);
                    }
                }
            }
            if ended {
                return Ok(());
            }
        }
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotContents> {
        match force {
            true => Some(self.partition.take_snapshot_now()),
            false => self.partition.take_snapshot(),
        }
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotContents {
        self.partition.take_snapshot_now()
    }

    async fn install_snapshot(&mut self, _meta: &Meta, snapshot: SnapshotContents) -> Result<(), io::Error> {
        self.partition.install(snapshot).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotContents>>, io::Error> {
        Ok(self
            .partition
            .snapshot()
            .map(|snapshot| SnapshotOf::<TypeConfig, SnapshotContents> { meta: snapshot.meta(), snapshot }))
    }
}

/// A snapshot is all there when it is taken.
impl RaftSnapshotBuilder<TypeConfig> for SnapshotContents {
    type SnapshotData = Self;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, Self>, io::Error> {
        Ok(SnapshotOf::<TypeConfig, Self> { meta: self.meta(), snapshot: self.clone() })
    }
}
