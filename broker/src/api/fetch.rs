//! Fetch (1), versions 4 to 17: record batches from offsets on.
//!
//! | version | brings |
//! | --- | --- |
//! | 4 | record batch v2, isolation level (KIP-98); the first that is served |
//! | 5 | log start offset (KIP-107) |
//! | 7 | incremental sessions (KIP-227), see [`session`] |
//! | 9 | the leader epoch that the client knows (KIP-320) |
//! | 10 | zstd (KIP-110) |
//! | 12 | flexible; divergence by the epoch fetched last (KIP-595) |
//! | 13 | topic ids (KIP-516) |
//! | 16 | the current leader where this is not it (KIP-951) |
//!
//! A fetch is answered when there are `min_bytes`, something that cannot wait (an error, a divergence), or after
//! `max_wait_ms`. It waits on the watermarks of its partitions, by one waiter registered with all of them, and on one
//! timer. Reads take what is in memory; a read that would wait for the disk is repeated on a thread that may.
//! Not here: reading from followers (KIP-392), quotas.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use log_store::{LogSlice, batch::BatchHeader, compression::Codec, log::Waiting};
use replication::{FetchWaiter, Isolation, Partition, ReplicationError};

use super::{Broker, Context, produce::node_endpoints};
use crate::{
    partitions::{Lookup, Topic, TopicCounters},
    protocol::{
        ErrorCode,
        messages::{
            fetch::{
                AbortedTransaction, EpochEndOffset, FetchRequest, FetchResponse, PartitionRecords,
                TopicRecords,
            },
            produce::LeaderIdAndEpoch,
        },
        primitive::Records,
    },
};

pub mod session;

use session::{Named, Target};

/// From this version on topics are named by id.
const TOPIC_IDS: i16 = 13;
/// A fetch holds its frame's share of the byte budget while it waits. One of so many bytes waits no longer than this: else
/// a few hundred of them, told to wait for ever, would keep everybody else's requests from being read.
const LARGE_FRAME: usize = 64 << 10;
const LARGE_FRAME_WAIT: Duration = Duration::from_secs(1);

/// Answers a fetch.
pub async fn handle(broker: &Arc<Broker>, context: &Context, request: FetchRequest) -> FetchResponse {
    let begun =
        match broker.fetch_sessions.begin(&request, context.version >= TOPIC_IDS, broker.clock.now_ms()) {
            Ok(begun) => begun,
            Err(code) => return FetchResponse { error_code: code.number(), ..FetchResponse::default() },
        };
    let reads = Arc::new(Reads::new(broker, context, &request, &begun.targets));
    let pass = reads.read_and_wait(broker, &request, context.frame_bytes).await;
    let (send, session_id) = broker.fetch_sessions.finish(begun, &pass.answers, broker.clock.now_ms());
    let mut response = FetchResponse { session_id, ..FetchResponse::default() };
    let mut leaders = BTreeSet::new();
    let mut last = None;
    for ((read, mut answer), send) in reads.list.iter().zip(pass.answers).zip(send) {
        read.count(&answer);
        if !send {
            continue;
        }
        read.name_leader(broker, context.version, &mut answer, &mut leaders);
        if last.replace(&read.target.topic) == Some(&read.target.topic)
            && let Some(topic) = response.responses.last_mut()
        {
            topic.partitions.push(answer);
        } else {
            let Named { name, topic_id } = &*read.target.topic;
            let (name, topic_id) = (name.clone(), *topic_id);
            response.responses.push(TopicRecords { name, topic_id, partitions: vec![answer] });
        }
    }
    response.node_endpoints = node_endpoints(broker, context.listener, &leaders);
    response
}

/// All reads of one request.
struct Reads {
    version: i16,
    isolation: Isolation,
    max_bytes: usize,
    list: Vec<Read>,
}

/// One partition of a request.
struct Read {
    target: Target,
    topic: Option<Arc<Topic>>,
    partition: Result<Arc<Partition>, ErrorCode>,
}

/// The answers of all partitions at one moment.
#[derive(Default)]
struct Pass {
    answers: Vec<PartitionRecords>,
    bytes: usize,
    /// Bytes that count for `min_bytes`: of a partition that has more than whole batches fill, all that was asked for.
    available: usize,
    /// Something is among them that must not wait.
    urgent: bool,
    /// Something would have to be read from the disk first.
    would_wait: bool,
}

impl Reads {
    fn new(broker: &Broker, context: &Context, request: &FetchRequest, targets: &[Target]) -> Self {
        let mut list: Vec<Read> = Vec::with_capacity(targets.len());
        for target in targets {
            let topic = match list.last() {
                Some(last) if last.target.topic == target.topic => last.topic.clone(),
                _ if context.version >= TOPIC_IDS => broker.partitions.topic_by_id(target.topic.topic_id),
                _ => broker.partitions.topic(&target.topic.name),
            };
            list.push(Read::new(broker, context.version, target, topic));
        }
        let wanted = usize::try_from(request.max_bytes).unwrap_or(0);
        Self {
            version: context.version,
            isolation: match request.isolation_level {
                1 => Isolation::ReadCommitted,
                _ => Isolation::ReadUncommitted,
            },
            max_bytes: wanted.min(broker.config.fetch_max_bytes),
            list,
        }
    }

    async fn read_and_wait(
        self: &Arc<Self>,
        broker: &Broker,
        request: &FetchRequest,
        frame_bytes: usize,
    ) -> Pass {
        // More than one answer may hold can never be there.
        let min_bytes = usize::try_from(request.min_bytes).unwrap_or(0).min(self.max_bytes);
        let enough = |pass: &Pass| pass.urgent || pass.available >= min_bytes || self.list.is_empty();
        let pass = self.read().await;
        if enough(&pass) || request.max_wait_ms <= 0 {
            return pass;
        }
        let waiter = Arc::new(FetchWaiter::default());
        for partition in self.list.iter().filter_map(|read| read.partition.as_ref().ok()) {
            partition.wait(&waiter);
        }
        // Whoever leaves meanwhile may be noticed at the end alone: no longer than an idle connection lives.
        let asked = Duration::from_millis(u64::from(request.max_wait_ms.unsigned_abs()));
        let mut longest = asked.min(broker.config.connections_max_idle);
        if frame_bytes >= LARGE_FRAME {
            longest = longest.min(LARGE_FRAME_WAIT);
        }
        let time_out = tokio::time::sleep(longest);
        tokio::pin!(time_out);
        loop {
            // What came before the registration, or with the last wake.
            let pass = self.read().await;
            if enough(&pass) {
                return pass;
            }
            tokio::select! {
                () = waiter.wake.notified() => {}
                () = &mut time_out => return self.read().await,
                () = broker.stopping.wait() => return pass,
            }
        }
    }

    async fn read(self: &Arc<Self>) -> Pass {
        let pass = self.read_now(Waiting::Never);
        if !pass.would_wait {
            return pass;
        }
        let reads = Arc::clone(self);
        match tokio::task::spawn_blocking(move || reads.read_now(Waiting::ForDisk)).await {
            Ok(pass) => pass,
            // The thread panicked, or the runtime ends: what could be read is the answer.
            Err(_) => pass,
        }
    }

    /// Reads every partition in order, within the bytes that are left.
    fn read_now(&self, waiting: Waiting) -> Pass {
        let mut pass = Pass { answers: Vec::with_capacity(self.list.len()), ..Pass::default() };
        for read in &self.list {
            let partition_max = usize::try_from(read.target.wanted.partition_max_bytes).unwrap_or(0);
            let room = partition_max.min(self.max_bytes.saturating_sub(pass.bytes));
            let (mut answer, is_cut_short) =
                read.now(self, room, pass.bytes == 0, waiting, &mut pass.would_wait);
            answer.partition_index = read.target.wanted.partition;
            let bytes = answer.records.len();
            pass.bytes += bytes;
            pass.available += if is_cut_short { bytes.max(room) } else { bytes };
            pass.urgent |= answer.error_code != 0 || answer.diverging_epoch.epoch != -1;
            pass.answers.push(answer);
        }
        pass
    }
}

impl Read {
    fn new(broker: &Broker, version: i16, target: &Target, topic: Option<Arc<Topic>>) -> Self {
        let partition = match &topic {
            None if version >= TOPIC_IDS => Err(ErrorCode::UnknownTopicId),
            None => Err(ErrorCode::UnknownTopicOrPartition),
            Some(topic) => match broker.partitions.partition(topic, target.wanted.partition) {
                Lookup::Here(partition) => Ok(partition),
                Lookup::Elsewhere => Err(ErrorCode::NotLeaderOrFollower),
                Lookup::Unknown => Err(ErrorCode::UnknownTopicOrPartition),
            },
        };
        Self { target: target.clone(), topic, partition }
    }

    /// The answer, and whether there is more.
    fn now(
        &self,
        reads: &Reads,
        room: usize,
        at_least_one: bool,
        waiting: Waiting,
        would_wait: &mut bool,
    ) -> (PartitionRecords, bool) {
        let failed =
            |code: ErrorCode| PartitionRecords { error_code: code.number(), ..PartitionRecords::default() };
        let partition = match &self.partition {
            Ok(partition) => partition,
            // As Kafka has it: no transactions where nothing is known, null where records were looked for.
            Err(code) => {
                return (PartitionRecords { aborted_transactions: Some(Vec::new()), ..failed(*code) }, false);
            }
        };
        match self.read(partition, reads, room, at_least_one, waiting, would_wait) {
            Ok(answer) => answer,
            // Clients before version 6 do not know 56.
            Err(ErrorCode::KafkaStorageError) if reads.version <= 5 => {
                (failed(ErrorCode::NotLeaderOrFollower), false)
            }
            Err(code) => (failed(code), false),
        }
    }

    fn read(
        &self,
        partition: &Partition,
        reads: &Reads,
        room: usize,
        at_least_one: bool,
        waiting: Waiting,
        would_wait: &mut bool,
    ) -> Result<(PartitionRecords, bool), ErrorCode> {
        let wanted = &self.target.wanted;
        let code = |error: &ReplicationError| ErrorCode::from(error);
        let offsets = partition.offsets().map_err(|error| code(&error))?;
        check_epoch(wanted.current_leader_epoch, offsets.epoch)?;
        let mut answer = PartitionRecords {
            high_watermark: offsets.high_watermark,
            last_stable_offset: offsets.last_stable,
            log_start_offset: offsets.log_start,
            ..PartitionRecords::default()
        };
        if wanted.last_fetched_epoch >= 0 {
            let known =
                partition.end_offset_for_epoch(wanted.last_fetched_epoch).map_err(|error| code(&error))?;
            let (epoch, end_offset) = known.ok_or(ErrorCode::OffsetOutOfRange)?;
            if epoch < wanted.last_fetched_epoch || end_offset < wanted.fetch_offset {
                answer.diverging_epoch = EpochEndOffset { epoch, end_offset };
                return Ok((answer, false));
            }
        }
        let outcome = partition
            .read(wanted.fetch_offset, room, at_least_one, reads.isolation, waiting)
            .map_err(|error| code(&error))?;
        *would_wait |= outcome.would_wait;
        if reads.version < 10 && outcome.may_hold_zstd {
            let on_disk = outcome.slices.iter().any(|slice| matches!(slice, LogSlice::File { .. }));
            // Headers in a file are looked at by a thread that may wait for the disk.
            if waiting == Waiting::Never && on_disk {
                *would_wait = true;
            } else if holds_zstd(&outcome.slices) {
                return Err(ErrorCode::UnsupportedCompressionType);
            }
        }
        answer.high_watermark = outcome.offsets.high_watermark;
        answer.last_stable_offset = outcome.offsets.last_stable;
        answer.log_start_offset = outcome.offsets.log_start;
        answer.aborted_transactions = outcome.aborted.map(|aborted| {
            aborted
                .into_iter()
                .map(|(producer_id, first_offset)| AbortedTransaction { producer_id, first_offset })
                .collect()
        });
        answer.records = Records(outcome.slices);
        Ok((answer, outcome.is_cut_short))
    }

    fn count(&self, answer: &PartitionRecords) {
        let Some(topic) = &self.topic else { return };
        TopicCounters::add(&topic.counters.fetch_requests, 1);
        TopicCounters::add(&topic.counters.bytes_out, answer.records.len() as u64);
        if answer.error_code != 0 {
            TopicCounters::add(&topic.counters.failed_fetch_requests, 1);
        }
    }

    fn name_leader(
        &self,
        broker: &Broker,
        version: i16,
        answer: &mut PartitionRecords,
        leaders: &mut BTreeSet<i32>,
    ) {
        let hint = [ErrorCode::NotLeaderOrFollower, ErrorCode::FencedLeaderEpoch].map(ErrorCode::number);
        if version < 16 || !hint.contains(&answer.error_code) {
            return;
        }
        let Some(topic) = &self.topic else { return };
        if let Some((leader_id, leader_epoch)) = broker.partitions.leader(topic, self.target.wanted.partition)
        {
            answer.current_leader = LeaderIdAndEpoch { leader_id, leader_epoch };
            leaders.insert(leader_id);
        }
    }
}

/// Compares the leader epoch that a client knows (-1: none) with ours.
///
/// # Errors
/// 74 where the client is behind, 75 where it is ahead.
pub fn check_epoch(clients: i32, ours: i32) -> Result<(), ErrorCode> {
    match clients {
        -1 => Ok(()),
        epoch if epoch < ours => Err(ErrorCode::FencedLeaderEpoch),
        epoch if epoch > ours => Err(ErrorCode::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}

/// Whether a batch among the slices is compressed by zstd, which clients before version 10 cannot read.
fn holds_zstd(slices: &[LogSlice]) -> bool {
    slices.iter().any(|slice| match slice {
        LogSlice::Bytes(bytes) => {
            let mut rest = &bytes[..];
            while let Ok(header) = BatchHeader::parse(rest) {
                if header.codec() == Ok(Codec::Zstd) {
                    return true;
                }
                rest = rest.get(header.size()..).unwrap_or_default();
            }
            false
        }
        LogSlice::File { file, position, len } => {
            let (mut at, end) = (*position, *position + *len as u64);
            let mut head = [0; log_store::batch::HEADER_BYTES];
            while at < end && file.read_exact_at(&mut head, at).is_ok() {
                let Ok(header) = BatchHeader::parse(&head) else { return false };
                if header.codec() == Ok(Codec::Zstd) {
                    return true;
                }
                at += header.size() as u64;
            }
            false
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves: F10.
    #[test]
    fn a_client_behind_is_fenced_and_one_ahead_is_unknown() {
        assert_eq!(check_epoch(-1, 5), Ok(()));
        assert_eq!(check_epoch(5, 5), Ok(()));
        assert_eq!(check_epoch(4, 5), Err(ErrorCode::FencedLeaderEpoch));
        assert_eq!(check_epoch(6, 5), Err(ErrorCode::UnknownLeaderEpoch));
    }
}
