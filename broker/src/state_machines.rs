//! The host of the group coordinators: one replicated state machine over each partition of `__consumer_offsets`.
//!
//! ```text
//! request -> Coordinator::handle (memory, at once) -> records -> Partition::append ----> committed
//!                    |                                                                     |
//!                    +--> answers, held with the newest append that is not committed -----+--> sent
//! ```
//! Pipelined: an operation is in effect when it is appended, and every answer, those of reads included, waits until all
//! that was appended before it is committed. When an append fails, the state is ahead of the log: it is thrown away,
//! whoever waits is told to look for the coordinator, and the partition is loaded again. So it is after a panic, which may
//! have left the state half changed.
//!
//! The log stays bounded without compaction: when it exceeds what `rewrite_above` says, the whole live state is
//! appended as ordinary records and, once they are committed, everything before them is trimmed.
//!
//! Invariants: records are appended in the order of the operations (both under one lock); an answer never shows what is
//! not committed; a partition is loaded by one task at a time.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use consumer_groups::{
    Coordinator, GroupConfig, GroupError, Outcome, Record, Request, Response, Token, partition_for,
};
use log_store::{LogSlice, RecordBatch, batch::BatchBuilder, compression::Inflater, log::Waiting};
use replication::{
    Acks, AppendResult, Completion, CompletionQueue, Isolation, Node, Partition, ReplicationError,
    metadata::MetadataImage,
};
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use crate::{
    api::Broker,
    clock::{Clock, entropy},
    config::Config,
    partitions::{Lookup, Topic},
    topics::CONSUMER_OFFSETS,
};

/// Most bytes of records in one batch; one record may be larger.
const BATCH_BYTES: usize = 512 << 10;
/// Bytes of one read while loading.
const LOAD_BYTES: usize = 1 << 20;
/// A log smaller than this is not rewritten.
const REWRITE_ABOVE: u64 = 16 << 20;
/// How soon a partition that could not be loaded is tried again.
const RELOAD_DELAY: Duration = Duration::from_millis(200);
/// How much later where loading or serving it panicked, which is told each time.
const PANIC_DELAY: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 10_000 });

/// All coordinators of this node.
#[derive(Debug)]
pub struct Coordinators {
    config: GroupConfig,
    hosts: Arc<Mutex<Hosts>>,
}

/// By id and partition of the offsets topic.
type Hosts = HashMap<(Uuid, i32), Arc<Host>>;

/// The lag of one group on one partition, from one reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLag {
    /// The group.
    pub group: Arc<str>,
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The committed offset.
    pub committed: i64,
    /// Messages between it and the high watermark; never negative.
    pub lag: i64,
}

impl Coordinators {
    /// Coordinators under the settings of a broker; each begins with the first request for it, or with [`Self::load`].
    pub fn new(config: &Config) -> Self {
        Self { config: group_config(config), hosts: Arc::default() }
    }

    /// Asks the coordinator of a group.
    ///
    /// # Errors
    /// This node does not coordinate the group, or is still loading it.
    pub async fn ask(
        &self,
        broker: &Broker,
        group_id: &str,
        request: Request,
    ) -> Result<Response, GroupError> {
        if let Some(refusal) = request.refusal(&self.config) {
            return Ok(refusal);
        }
        let host = self.host_of(broker, group_id)?;
        let answer = host.ask(request)?;
        // The sender is dropped where the state is thrown away.
        answer.await.map_err(|_| GroupError::NotCoordinator)
    }

    /// Asks all coordinators of this node but those whose partition cannot be read; the errors are those of partitions
    /// that are being loaded.
    pub async fn ask_all(&self, broker: &Broker, request: Request) -> Vec<Result<Response, GroupError>> {
        let mut asked = Vec::new();
        for host in self.all(broker) {
            let answer = host.ask(request.clone());
            if !matches!(answer, Err(GroupError::NotAvailable)) {
                asked.push(answer);
            }
        }
        let mut answers = Vec::new();
        for answer in asked {
            answers.push(match answer {
                Ok(answer) => answer.await.map_err(|_| GroupError::NotCoordinator),
                Err(error) => Err(error),
            });
        }
        answers
    }

    /// Begins to load every partition of the topic, so that no group waits for its first request.
    pub fn load(&self, broker: &Broker) {
        drop(self.all(broker));
    }

    /// Forgets the offsets of topics that no longer exist, or exist anew under their name. A partition that is being loaded does so when it
    /// is. Where the offsets topic itself is gone its coordinators end.
    pub fn topics_changed(&self, broker: &Broker) {
        let hosts: Vec<_> = lock(&self.hosts).iter().map(|(key, host)| (*key, Arc::clone(host))).collect();
        let image = broker.node.metadata();
        for ((topic, _), host) in hosts {
            if !image.topics_by_id.contains_key(&topic) {
                host.end();
            }
        }
        for host in self.all(broker) {
            if let Some(active) = host.state().as_mut() {
                active.forget_gone(&host);
            }
        }
    }

    /// The lag of every group on every partition it committed for. Requests of groups wait only while what is committed is copied.
    pub fn lags(&self, broker: &Broker) -> Vec<GroupLag> {
        let mut lags = Vec::new();
        for host in self.all(broker) {
            host.read(|coordinator| {
                lags.extend(coordinator.offsets().map(|stored| GroupLag {
                    group: Arc::clone(stored.group_id),
                    topic: Arc::clone(stored.topic),
                    partition: stored.partition,
                    committed: stored.committed.offset,
                    lag: 0,
                }));
            });
        }
        let mut topics: HashMap<Arc<str>, Option<Arc<Topic>>> = HashMap::new();
        lags.retain_mut(|lag| {
            let topic =
                topics.entry(Arc::clone(&lag.topic)).or_insert_with(|| broker.partitions.topic(&lag.topic));
            let Some(topic) = topic else { return false };
            let Lookup::Here(partition) = broker.partitions.partition(topic, lag.partition) else {
                return false;
            };
            // The end is read after the commit: it can only be further on.
            let Ok(offsets) = partition.offsets() else { return false };
            // A client may commit any number, and by what is below the log's start nobody is behind.
            let committed = lag.committed.max(offsets.log_start);
            lag.lag = (offsets.high_watermark - committed).max(0);
            true
        });
        lags
    }

    /// Members of every group.
    pub fn members(&self, broker: &Broker) -> Vec<(Arc<str>, usize)> {
        let mut members = Vec::new();
        for host in self.all(broker) {
            host.read(|coordinator| {
                members.extend(coordinator.members().map(|(group, count)| (Arc::clone(group), count)))
            });
        }
        members
    }

    fn host_of(&self, broker: &Broker, group_id: &str) -> Result<Arc<Host>, GroupError> {
        let topic = broker.partitions.topic(CONSUMER_OFFSETS).ok_or(GroupError::NotCoordinator)?;
        let count = i32::try_from(topic.info.partitions.len()).unwrap_or(i32::MAX);
        let index = partition_for(group_id, count);
        match broker.partitions.partition(&topic, index) {
            Lookup::Here(partition) => Ok(self.host(broker, topic.info.id, index, partition)),
            Lookup::Elsewhere | Lookup::Unknown => Err(GroupError::NotCoordinator),
        }
    }

    fn all(&self, broker: &Broker) -> Vec<Arc<Host>> {
        let Some(topic) = broker.partitions.topic(CONSUMER_OFFSETS) else { return Vec::new() };
        let count = i32::try_from(topic.info.partitions.len()).unwrap_or(i32::MAX);
        (0..count)
            .filter_map(|index| match broker.partitions.partition(&topic, index) {
                Lookup::Here(partition) => Some(self.host(broker, topic.info.id, index, partition)),
                Lookup::Elsewhere | Lookup::Unknown => None,
            })
            .collect()
    }

    fn host(&self, broker: &Broker, topic: Uuid, index: i32, partition: Arc<Partition>) -> Arc<Host> {
        let mut hosts = lock(&self.hosts);
        let host = hosts.entry((topic, index)).or_insert_with(|| {
            let host = Arc::new(Host {
                partition,
                node: Arc::downgrade(&broker.node),
                clock: broker.clock.clone(),
                config: self.config.clone(),
                state: Mutex::default(),
                next_append: AtomicU64::new(0),
                completions: Arc::default(),
                changed: Notify::new(),
                offline: AtomicBool::new(false),
                #[cfg(test)]
                panics: Default::default(),
            });
            let (running, hosts) = (Arc::clone(&host), Arc::clone(&self.hosts));
            broker.runtime.spawn(async move {
                while let Err(error) = tokio::spawn(Arc::clone(&running).run()).await
                    && error.is_panic()
                {
                    tracing::error!(partition = ?running.partition, "groups are loaded again: {error}");
                    running.end();
                    tokio::time::sleep(PANIC_DELAY).await;
                }
                lock(&hosts).remove(&(topic, index));
            });
            host
        });
        Arc::clone(host)
    }
}

fn group_config(config: &Config) -> GroupConfig {
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let short_ms = |duration: Duration| i32::try_from(duration.as_millis()).unwrap_or(i32::MAX);
    GroupConfig {
        min_session_timeout_ms: short_ms(config.group_min_session_timeout),
        max_session_timeout_ms: short_ms(config.group_max_session_timeout),
        initial_rebalance_delay_ms: short_ms(config.group_initial_rebalance_delay),
        max_size: config.group_max_size,
        offset_metadata_max_bytes: config.offset_metadata_max_bytes,
        offsets_retention_ms: ms(config.offsets_retention),
        offsets_retention_check_interval_ms: ms(config.offsets_retention_check_interval),
        ..GroupConfig::default()
    }
}

/// The coordinator of one partition, with what it waits for.
#[derive(Debug)]
struct Host {
    partition: Arc<Partition>,
    /// Not held: its end ends this too.
    node: Weak<Node>,
    clock: Clock,
    config: GroupConfig,
    /// None while it is loaded.
    state: Mutex<Option<Active>>,
    /// The token of the next append. None repeats: the result of one of a state that was thrown away may come late.
    next_append: AtomicU64,
    completions: Arc<CompletionQueue>,
    /// The next deadline may be another.
    changed: Notify,
    /// The partition cannot be read, so that loading does not end by itself.
    offline: AtomicBool,
    /// A panic that a test plants in the serving task.
    #[cfg(test)]
    panics: AtomicBool,
}

/// Deadlines follow the clock's corrections in steps of so much, which no session notices.
const CLOCK_STEP_MS: i64 = 100;

/// A loaded coordinator.
#[derive(Debug)]
struct Active {
    coordinator: Coordinator,
    askers: HashMap<Token, oneshot::Sender<Response>>,
    next_token: u64,
    /// Appends that are not committed, oldest first.
    appends: VecDeque<Append>,
    /// Bytes that a load would replay.
    log_bytes: u64,
    /// What of them goes once the rewrite on its way is committed and the log trimmed to it.
    superseded: Option<u64>,
    /// The clock's correction to which deadlines are set.
    correction_ms: i64,
}

/// An append on its way, and the answers that may be given once it is committed.
#[derive(Debug)]
struct Append {
    token: u64,
    answers: Vec<(oneshot::Sender<Response>, Response)>,
    /// The state's first batch of a rewrite: once committed, what is before it can go.
    begins_rewrite: bool,
}

impl Active {
    fn new(coordinator: Coordinator, log_bytes: u64, clock: &Clock) -> Self {
        Self {
            coordinator,
            askers: HashMap::new(),
            next_token: 0,
            appends: VecDeque::new(),
            log_bytes,
            superseded: None,
            correction_ms: clock.now_and_correction_ms().1,
        }
    }

    /// The time for the coordinator. Sessions and rebalances last as long as they last, whatever the clock is set to.
    fn now_ms(&mut self, clock: &Clock) -> i64 {
        let (now_ms, correction_ms) = clock.now_and_correction_ms();
        let moved_ms = correction_ms - self.correction_ms;
        if moved_ms.abs() >= CLOCK_STEP_MS {
            self.coordinator.clock_was_set(moved_ms);
            self.correction_ms = correction_ms;
        }
        now_ms
    }

    fn append(&mut self, host: &Host, records: &[Record], begins_rewrite: bool) {
        let mut begins_rewrite = begins_rewrite;
        for batch in batches(records, host.clock.now_ms()) {
            let token = host.next_append.fetch_add(1, Ordering::Relaxed);
            self.appends.push_back(Append { token, answers: Vec::new(), begins_rewrite });
            begins_rewrite = false;
            self.log_bytes += batch.size() as u64;
            host.partition.append(batch, Acks::All, Completion::Queue(Arc::clone(&host.completions), token));
        }
    }

    fn take(&mut self, host: &Host, outcome: Outcome) {
        self.append(host, &outcome.records, false);
        for (token, response) in outcome.replies {
            let Some(asker) = self.askers.remove(&token) else { continue };
            match self.appends.back_mut() {
                Some(append) => append.answers.push((asker, response)),
                // Whoever asked may be gone.
                None => drop(asker.send(response)),
            }
        }
    }

    /// Removes the offsets of topics that are gone. The image is read under the lock of the state: an older one would not know a topic
    /// that was made meanwhile and has an offset here already.
    fn forget_gone(&mut self, host: &Host) {
        let Some(node) = host.node.upgrade() else { return };
        let image = node.metadata();
        let outcome = self.coordinator.remove_topics(|name, id| is_gone(&image, name, id));
        self.take(host, outcome);
    }

    /// Whether a request commits offsets of a topic that went while the request was on its way here.
    fn is_late(&self, host: &Host, request: &Request) -> bool {
        let (Request::OffsetCommit(commit), Some(node)) = (request, host.node.upgrade()) else {
            return false;
        };
        let image = node.metadata();
        commit.offsets.iter().any(|offset| !image.topics_by_id.contains_key(&offset.topic_id))
    }

    /// Appends the whole live state where the log holds far more than it.
    fn rewrite_if_long(&mut self, host: &Host) {
        if self.superseded.is_some() || self.log_bytes <= rewrite_above(self.coordinator.live_bytes()) {
            return;
        }
        let records: Vec<Record> = self.coordinator.snapshot_records().collect();
        if records.is_empty() {
            return;
        }
        self.superseded = Some(self.log_bytes);
        self.append(host, &records, true);
    }
}

/// Whether a topic is no more, told by its name and the id that it had at a commit (nil: not known).
fn is_gone(image: &MetadataImage, name: &str, id: Uuid) -> bool {
    match image.topics.get(name) {
        Some(topic) => !id.is_nil() && topic.id != id,
        None => true,
    }
}

/// A log larger than this is rewritten.
fn rewrite_above(live_bytes: usize) -> u64 {
    REWRITE_ABOVE.max(live_bytes as u64 * 4)
}

impl Host {
    /// The state, which is thrown away where whoever held it panicked.
    fn state(&self) -> MutexGuard<'_, Option<Active>> {
        self.state.lock().unwrap_or_else(|poisoned| {
            self.state.clear_poison();
            let mut state = poisoned.into_inner();
            tracing::error!(partition = ?self.partition, "groups are loaded again after a panic");
            *state = None;
            self.changed.notify_one();
            state
        })
    }

    fn ask(&self, request: Request) -> Result<oneshot::Receiver<Response>, GroupError> {
        let mut state = self.state();
        let active = state.as_mut().ok_or_else(|| match self.offline.load(Ordering::Relaxed) {
            true => GroupError::NotAvailable,
            false => GroupError::Loading,
        })?;
        if active.is_late(self, &request) {
            // The client asks again, and is told which topic there is no more.
            return Err(GroupError::Loading);
        }
        let token = Token(active.next_token);
        active.next_token += 1;
        let (asker, answer) = oneshot::channel();
        active.askers.insert(token, asker);
        let entropy = u128::from(entropy()) << 64 | u128::from(entropy());
        let now_ms = active.now_ms(&self.clock);
        let outcome = active.coordinator.handle(request, token, entropy, now_ms);
        active.take(self, outcome);
        drop(state);
        self.changed.notify_one();
        Ok(answer)
    }

    fn change(&self, change: impl FnOnce(&mut Coordinator, i64) -> Outcome) {
        if let Some(active) = self.state().as_mut() {
            active.coordinator.doubt_clock(self.clock.doubt_ms());
            let now_ms = active.now_ms(&self.clock);
            let outcome = change(&mut active.coordinator, now_ms);
            active.take(self, outcome);
        }
    }

    fn read(&self, read: impl FnOnce(&Coordinator)) {
        if let Some(active) = self.state().as_ref() {
            read(&active.coordinator);
        }
    }

    /// Throws the state away: whoever waits is told to look for the coordinator, and [`Host::run`] loads it again, or finds the topic deleted.
    fn end(&self) {
        *self.state() = None;
        self.changed.notify_one();
    }

    /// Loads, then serves until an append fails; again and again until the topic is gone.
    async fn run(self: Arc<Self>) {
        loop {
            let host = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || host.load()).await {
                Ok(Ok((coordinator, log_bytes))) => {
                    self.offline.store(false, Ordering::Relaxed);
                    self.begin(coordinator, log_bytes);
                    self.serve().await;
                }
                Ok(Err(ReplicationError::TopicDeleted)) => {
                    tracing::debug!(partition = ?self.partition, "groups end with their topic");
                    return;
                }
                Ok(Err(ReplicationError::Stopping)) => return,
                Ok(Err(error @ ReplicationError::Storage(_))) => {
                    if !self.offline.swap(true, Ordering::Relaxed) {
                        tracing::warn!(partition = ?self.partition, "groups of this partition are not served: {error}");
                    }
                }
                Ok(Err(error)) => {
                    tracing::debug!(partition = ?self.partition, "groups are loaded again later: {error}")
                }
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime ends.
                    Err(_) => return,
                },
            }
            tokio::time::sleep(RELOAD_DELAY).await;
        }
    }

    /// Takes up what was loaded. Offsets of topics that went since they were stored go first: whoever deletes a topic tells only the
    /// coordinators that are loaded, and a crash may come before they have appended it. The image is complete: a node has caught up with its
    /// metadata before it has any host.
    fn begin(&self, coordinator: Coordinator, log_bytes: u64) {
        // From before the image is read until the state stands: a topic that goes is either gone in the image, or told to the state.
        let mut state = self.state();
        let mut active = Active::new(coordinator, log_bytes, &self.clock);
        let outcome = active.coordinator.loaded(self.clock.now_ms());
        active.take(self, outcome);
        active.forget_gone(self);
        *state = Some(active);
    }

    /// Reads the whole partition into a new coordinator; with it the bytes that were read. Blocks on the disk.
    fn load(&self) -> Result<(Coordinator, u64), ReplicationError> {
        let mut coordinator = Coordinator::new(self.config.clone());
        let mut inflater = Inflater::default();
        let offsets = self.partition.offsets()?;
        let mut offset = offsets.log_start;
        let mut log_bytes = 0;
        while offset < offsets.high_watermark {
            let read = self.partition.read(
                offset,
                LOAD_BYTES,
                true,
                Isolation::ReadUncommitted,
                Waiting::ForDisk,
            )?;
            let mut bytes =
                joined(&read.slices).map_err(|error| ReplicationError::Storage(error.to_string()))?;
            let before = offset;
            while let Ok(Some(batch)) = RecordBatch::take_first(&mut bytes) {
                self.replay(&mut coordinator, &batch, &mut inflater);
                offset = batch.next_offset();
                log_bytes += batch.size() as u64;
            }
            if offset == before {
                return Err(ReplicationError::Storage(format!("nothing can be read at offset {offset}")));
            }
        }
        Ok((coordinator, log_bytes))
    }

    fn replay(&self, coordinator: &mut Coordinator, batch: &RecordBatch, inflater: &mut Inflater) {
        if batch.header().is_control() {
            return;
        }
        let records = match batch.records_in(inflater) {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(partition = ?self.partition, offset = batch.base_offset(), "a batch is passed over: {error}");
                return;
            }
        };
        for record in records {
            let replayed = match &record {
                Ok(record) => coordinator
                    .replay(record.key.unwrap_or_default(), record.value)
                    .map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = replayed {
                tracing::warn!(partition = ?self.partition, offset = batch.base_offset(), "a record is passed over: {error}");
            }
        }
    }

    /// Gives answers as appends are committed, and time to the state machine, until the state is thrown away.
    async fn serve(self: &Arc<Self>) {
        let mut finished: Vec<(u64, AppendResult)> = Vec::new();
        loop {
            #[cfg(test)]
            assert!(!self.panics.swap(false, Ordering::SeqCst), "planted");
            let next = match &*self.state() {
                Some(active) => active.coordinator.next_deadline(),
                None => return,
            };
            let wait = next.map_or(Duration::from_secs(3_600), |at| {
                Duration::from_millis((at - self.clock.now_ms()).max(0).unsigned_abs())
            });
            tokio::select! {
                () = self.completions.finished() => {
                    self.completions.drain(&mut finished);
                    for (token, result) in finished.drain(..) {
                        self.finish(token, result);
                    }
                }
                () = self.changed.notified() => {}
                () = tokio::time::sleep(wait) => self.change(Coordinator::tick),
            }
        }
    }

    /// Takes in one finished append. One that failed ends the state.
    fn finish(self: &Arc<Self>, token: u64, result: AppendResult) {
        let mut state = self.state();
        let Some(active) = state.as_mut() else { return };
        // Others are of a state that was thrown away.
        let Some(place) = active.appends.iter().position(|append| append.token == token) else { return };
        let failed = match result {
            Ok(appended) if place == 0 => {
                let Some(append) = active.appends.pop_front() else { return };
                for (asker, response) in append.answers {
                    drop(asker.send(response));
                }
                if append.begins_rewrite {
                    tokio::spawn(Arc::clone(self).trim(appended.base_offset));
                } else {
                    active.rewrite_if_long(self);
                }
                return;
            }
            Ok(_) => "an append was committed before an earlier one".to_owned(),
            // Also where it is not the oldest: one that is refused at once is heard of before those on their way.
            Err(error) => error.to_string(),
        };
        tracing::warn!(partition = ?self.partition, "groups are loaded again: {failed}");
        *state = None;
    }

    async fn trim(self: Arc<Self>, offset: i64) {
        let trimmed = self.partition.trim(offset).await;
        if let Err(error) = &trimmed {
            tracing::warn!(partition = ?self.partition, "the log of groups is not trimmed: {error}");
        }
        if let Some(active) = self.state().as_mut() {
            let superseded = active.superseded.take().unwrap_or(0);
            if trimmed.is_ok() {
                active.log_bytes = active.log_bytes.saturating_sub(superseded);
            }
        }
    }
}

/// The bytes of slices, in one piece.
fn joined(slices: &[LogSlice]) -> std::io::Result<Bytes> {
    let mut all = BytesMut::new();
    for slice in slices {
        match slice {
            LogSlice::Bytes(bytes) => all.extend_from_slice(bytes),
            LogSlice::File { file, position, len } => {
                let begin = all.len();
                all.resize(begin + len, 0);
                file.read_exact_at(&mut all[begin..], *position)?;
            }
        }
    }
    Ok(all.freeze())
}

/// Records as batches of no more than [`BATCH_BYTES`].
fn batches(records: &[Record], now_ms: i64) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    let mut builder = BatchBuilder::default();
    for record in records {
        if !builder.is_empty() && builder.uncompressed_size() + record.size() > BATCH_BYTES {
            batches.push(std::mem::take(&mut builder).build());
        }
        builder.append(now_ms, Some(&record.key), record.value.as_deref(), &[]);
    }
    if !builder.is_empty() {
        batches.push(builder.build());
    }
    batches
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, path::Path};

    use consumer_groups::request::{OffsetCommit, PartitionCommit};
    use log_store::disk::RealDisk;

    use super::*;
    use crate::{
        api::{self, Context, Started},
        config::Sources,
        http::Admin,
        limits::Limits,
        metrics,
        protocol::{
            self, Piece,
            messages::{
                delete_groups::DeleteGroupsRequest,
                delete_topics::DeleteTopicsRequest,
                describe_groups::DescribeGroupsRequest,
                heartbeat::HeartbeatRequest,
                join_group::{JoinGroupRequest, JoinGroupRequestProtocol},
                leave_group::{LeaveGroupRequest, MemberIdentity},
                list_groups::ListGroupsRequest,
                offset_commit::{
                    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
                },
                offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup},
                sync_group::SyncGroupRequest,
            },
        },
        server,
        stopping::Stopping,
        topics,
    };

    /// A commit by the group `g`, which has no members, for the topic `t`.
    fn committed(topic_id: Uuid, offset: i64) -> OffsetCommit {
        let commit = PartitionCommit {
            topic: "t".into(),
            topic_id,
            partition: 0,
            offset,
            leader_epoch: -1,
            metadata: "".into(),
        };
        OffsetCommit {
            group_id: "g".into(),
            member_id: "".into(),
            instance_id: None,
            generation: -1,
            knows_group_not_found: true,
            retention_ms: None,
            offsets: vec![commit],
        }
    }

    /// A step of the system's clock moves what is timed along.
    #[tokio::test(start_paused = true)]
    async fn deadlines_follow_the_clock() {
        let clock = Clock::starting_at(0);
        let mut active = Active::new(Coordinator::new(GroupConfig::default()), 0, &clock);
        let request = Request::OffsetCommit(committed(Uuid::from_u128(1), 1));
        let now_ms = active.now_ms(&clock);
        active.coordinator.handle(request, Token(1), 1, now_ms);
        let due_ms = active.coordinator.next_deadline().expect("the check for expired offsets");
        clock.correct_to(3_600_000);
        assert_eq!(active.now_ms(&clock), 3_600_000);
        assert_eq!(active.coordinator.next_deadline(), Some(due_ms + 3_600_000));
    }

    async fn broker(data: &Path) -> Arc<Broker> {
        let mut config = Config::load(&Sources::default()).expect("the defaults");
        config.data_dir = data.to_owned();
        config.wal_file_bytes = 4 << 20;
        let (clock, limits) = (Clock::system(), Limits::raise());
        let fsync_seconds = metrics::fsync_seconds().expect("a histogram");
        let options = server::node_options(
            &config,
            Arc::new(RealDisk),
            &clock,
            &[],
            Admin::new(clock.clone()),
            &limits,
            fsync_seconds.clone(),
        );
        let node = Node::start(options).await.expect("a node");
        let broker = Broker::new(
            config,
            clock,
            node,
            Vec::new(),
            limits,
            Arc::new(Stopping::default()),
            fsync_seconds,
        );
        Arc::new(broker.expect("a broker"))
    }

    /// Sends a request through the dispatch, as a connection does.
    async fn call<R: protocol::Request>(broker: &Arc<Broker>, request: &R, version: i16) -> R::Response {
        let frame = protocol::encode_request(request, version, 1, &"test".into());
        let frame = Bytes::copy_from_slice(&frame[4..]);
        let mut context = Context::new(SocketAddr::from(([127, 0, 0, 1], 1)), 0);
        let started = api::start(broker, &mut context, frame, 0, &Arc::default());
        let Ok(Started::Task { future, .. }) = started else { panic!("a task") };
        let Ok(answer) = future.await else { panic!("an answer") };
        let mut bytes = BytesMut::new();
        for piece in answer.pieces {
            match piece {
                Piece::Encoded(piece) | Piece::Slice(LogSlice::Bytes(piece)) => {
                    bytes.extend_from_slice(&piece)
                }
                Piece::Slice(file) => panic!("{file:?}"),
            }
        }
        protocol::decode_response::<R>(bytes.split_off(4).freeze(), version).expect("an answer").1
    }

    /// What every API of groups answers about the group `g`, by the API's name.
    async fn codes(broker: &Arc<Broker>) -> Vec<(&'static str, i16)> {
        let g = || protocol::Str::from("g");
        let protocol = JoinGroupRequestProtocol { name: "p".into(), ..Default::default() };
        let join = JoinGroupRequest {
            group_id: g(),
            session_timeout_ms: 30_000,
            rebalance_timeout_ms: 30_000,
            protocol_type: "consumer".into(),
            protocols: vec![protocol],
            ..Default::default()
        };
        let sync = SyncGroupRequest { group_id: g(), member_id: "m".into(), ..Default::default() };
        let beat = HeartbeatRequest { group_id: g(), member_id: "m".into(), ..Default::default() };
        let leaving = MemberIdentity { member_id: "m".into(), ..Default::default() };
        let leave = LeaveGroupRequest { group_id: g(), members: vec![leaving], ..Default::default() };
        let topic = OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![OffsetCommitRequestPartition::default()],
        };
        let commit = OffsetCommitRequest { group_id: g(), topics: vec![topic], ..Default::default() };
        let fetch = OffsetFetchRequest { group_id: g(), topics: None, ..Default::default() };
        let asked = OffsetFetchRequestGroup { group_id: g(), topics: None, ..Default::default() };
        let fetch_many = OffsetFetchRequest { groups: vec![asked], ..Default::default() };
        let describe = DescribeGroupsRequest { groups: vec![g()], ..Default::default() };
        let delete = DeleteGroupsRequest { groups_names: vec![g()] };
        vec![
            ("join", call(broker, &join, 9).await.error_code),
            ("sync", call(broker, &sync, 5).await.error_code),
            ("heartbeat", call(broker, &beat, 4).await.error_code),
            ("leave", call(broker, &leave, 5).await.error_code),
            ("commit", call(broker, &commit, 8).await.topics[0].partitions[0].error_code),
            ("fetch", call(broker, &fetch, 7).await.error_code),
            ("fetch of many", call(broker, &fetch_many, 8).await.groups[0].error_code),
            ("describe", call(broker, &describe, 5).await.groups[0].error_code),
            ("delete", call(broker, &delete, 2).await.results[0].error_code),
            ("list", call(broker, &ListGroupsRequest::default(), 4).await.error_code),
        ]
    }

    /// What is answered to requests that are wrong whatever the group's state.
    async fn codes_of_wrong_requests(broker: &Arc<Broker>) -> [i16; 5] {
        let nameless = JoinGroupRequest { session_timeout_ms: 30_000, ..Default::default() };
        let impatient =
            JoinGroupRequest { group_id: "g".into(), session_timeout_ms: 1, ..Default::default() };
        let sync = SyncGroupRequest { member_id: "m".into(), ..Default::default() };
        let beat = HeartbeatRequest { member_id: "m".into(), ..Default::default() };
        let leaving = MemberIdentity { member_id: "m".into(), ..Default::default() };
        let leave = LeaveGroupRequest { members: vec![leaving], ..Default::default() };
        [
            call(broker, &nameless, 9).await.error_code,
            call(broker, &impatient, 9).await.error_code,
            call(broker, &sync, 5).await.error_code,
            call(broker, &beat, 4).await.error_code,
            call(broker, &leave, 5).await.error_code,
        ]
    }

    /// Before there is a coordinator it is said that this is none; while it reads its partition, that it loads, but for heartbeats, by which
    /// members go on; then it serves. What is wrong with a request itself is said at any time.
    ///
    /// Proves: G15.
    #[test]
    fn a_coordinator_that_loads_says_so() {
        let data = tempfile::tempdir().expect("a data directory");
        // One thread: what a question spawns does not run before the test waits for something.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let broker = broker(data.path()).await;
            topics::create_with_defaults(&broker, "t").await.expect("a topic");
            const WRONG: [i16; 5] = [24, 26, 24, 24, 24];
            assert_eq!(codes_of_wrong_requests(&broker).await, WRONG);
            for (api, code) in codes(&broker).await {
                let expected = match api {
                    // There is no group anywhere.
                    "describe" | "list" => 0,
                    "delete" => 69,
                    _ => 16,
                };
                assert_eq!(code, expected, "{api}, without the offsets topic");
            }
            topics::create_with_defaults(&broker, CONSUMER_OFFSETS).await.expect("the offsets topic");
            for (api, code) in codes(&broker).await {
                assert_eq!(code, if api == "heartbeat" { 0 } else { 14 }, "{api}, while it loads");
            }
            assert_eq!(codes_of_wrong_requests(&broker).await, WRONG);
            let end = std::time::Instant::now() + Duration::from_secs(60);
            while codes(&broker).await.iter().any(|(_, code)| *code == 14) {
                assert!(std::time::Instant::now() < end, "the coordinators never loaded");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let served = codes(&broker).await;
            let expected = [79, 25, 25, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(served.iter().map(|(_, code)| *code).collect::<Vec<_>>(), expected, "{served:?}");
            assert_eq!(codes_of_wrong_requests(&broker).await, WRONG);
            broker.node.shutdown().await;
        });
    }

    /// A panic while the state changes, or in the task that serves it, costs the state of memory and nothing else.
    #[test]
    fn a_coordinator_that_panics_is_loaded_again() {
        let data = tempfile::tempdir().expect("a data directory");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let broker = broker(data.path()).await;
            topics::create_with_defaults(&broker, "t").await.expect("a topic");
            topics::create_with_defaults(&broker, CONSUMER_OFFSETS).await.expect("the offsets topic");
            let topic = OffsetCommitRequestTopic {
                name: "t".into(),
                partitions: vec![OffsetCommitRequestPartition { committed_offset: 7, ..Default::default() }],
            };
            let commit = OffsetCommitRequest {
                group_id: "g".into(),
                generation_id_or_member_epoch: -1,
                topics: vec![topic],
                ..Default::default()
            };
            let fetch = OffsetFetchRequest { group_id: "g".into(), topics: None, ..Default::default() };
            let end = std::time::Instant::now() + Duration::from_secs(60);
            let wait = async || {
                assert!(std::time::Instant::now() < end, "the coordinator never came back");
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            while call(&broker, &commit, 8).await.topics[0].partitions[0].error_code != 0 {
                wait().await;
            }
            let host = broker.coordinators.host_of(&broker, "g").expect("the coordinator");
            let changing = Arc::clone(&host);
            let changed = tokio::spawn(async move { changing.change(|_, _| panic!("planted")) });
            assert!(changed.await.is_err_and(|error| error.is_panic()));
            assert_eq!(call(&broker, &commit, 8).await.topics[0].partitions[0].error_code, 14);
            while call(&broker, &fetch, 7).await.error_code != 0 {
                wait().await;
            }
            host.panics.store(true, Ordering::SeqCst);
            host.changed.notify_one();
            while host.panics.load(Ordering::SeqCst) {
                wait().await;
            }
            // nothing is committed without the serving task
            let served = async {
                while call(&broker, &commit, 8).await.topics[0].partitions[0].error_code != 0 {
                    wait().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), served).await.expect("a coordinator that serves");
            let fetched = call(&broker, &fetch, 7).await;
            assert_eq!(fetched.topics[0].partitions[0].committed_offset, 7);
            broker.node.shutdown().await;
        });
    }

    /// An append that fails costs whoever waits, also for an earlier one, an answer that sends him to look for the coordinator, and nothing
    /// else: what only the memory knew is gone, what the log has is there.
    #[test]
    fn a_failed_append_throws_the_state_away() {
        let data = tempfile::tempdir().expect("a data directory");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let broker = broker(data.path()).await;
            topics::create_with_defaults(&broker, "t").await.expect("a topic");
            topics::create_with_defaults(&broker, CONSUMER_OFFSETS).await.expect("the offsets topic");
            let commit = |committed_offset| OffsetCommitRequest {
                group_id: "g".into(),
                generation_id_or_member_epoch: -1,
                topics: vec![OffsetCommitRequestTopic {
                    name: "t".into(),
                    partitions: vec![OffsetCommitRequestPartition { committed_offset, ..Default::default() }],
                }],
                ..Default::default()
            };
            let fetch = OffsetFetchRequest { group_id: "g".into(), topics: None, ..Default::default() };
            let end = std::time::Instant::now() + Duration::from_secs(60);
            let wait = async || {
                assert!(std::time::Instant::now() < end, "the coordinator never came back");
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            while call(&broker, &commit(7), 8).await.topics[0].partitions[0].error_code != 0 {
                wait().await;
            }
            let host = broker.coordinators.host_of(&broker, "g").expect("the coordinator");
            let fails = async {
                let id = broker.partitions.topic("t").expect("the topic").info.id;
                host.change(|coordinator, now_ms| {
                    let mut outcome =
                        coordinator.handle(Request::OffsetCommit(committed(id, 9)), Token(0), 1, now_ms);
                    // No round of the write-ahead log holds it.
                    outcome.records[0].value = Some(vec![0; 8 << 20].into());
                    outcome
                });
            };
            // They begin in this order, before any append is heard of.
            let of_8 = commit(8);
            let (earlier, (), later) =
                futures_util::join!(call(&broker, &of_8, 8), fails, call(&broker, &fetch, 7));
            assert_eq!((earlier.topics[0].partitions[0].error_code, later.error_code), (16, 16));
            assert_eq!(call(&broker, &fetch, 7).await.error_code, 14, "it is loaded again");
            let mut fetched = call(&broker, &fetch, 7).await;
            while fetched.error_code != 0 {
                wait().await;
                fetched = call(&broker, &fetch, 7).await;
            }
            assert_eq!(fetched.topics[0].partitions[0].committed_offset, 8);
            assert_eq!(call(&broker, &commit(10), 8).await.topics[0].partitions[0].error_code, 0);
            broker.node.shutdown().await;
        });
    }

    /// Of a deleted offsets topic nothing stays in memory, nor a task that looks for it.
    #[test]
    fn coordinators_go_with_their_topic() {
        let data = tempfile::tempdir().expect("a data directory");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let broker = broker(data.path()).await;
            topics::create_with_defaults(&broker, CONSUMER_OFFSETS).await.expect("the offsets topic");
            broker.coordinators.load(&broker);
            let hosts = || lock(&broker.coordinators.hosts).len();
            assert_eq!(hosts(), 50);
            let delete = DeleteTopicsRequest {
                topic_names: vec![CONSUMER_OFFSETS.into()],
                timeout_ms: 30_000,
                ..Default::default()
            };
            assert_eq!(call(&broker, &delete, 5).await.responses[0].error_code, 0);
            let end = std::time::Instant::now() + Duration::from_secs(60);
            while hosts() > 0 {
                assert!(std::time::Instant::now() < end, "{} coordinators stay", hosts());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            broker.node.shutdown().await;
        });
    }

    #[test]
    fn records_become_batches_of_bounded_size_in_order() {
        let record = |size: usize| Record {
            key: Bytes::from(vec![b'k'; 4]),
            value: Some(Bytes::from(vec![b'v'; size])),
        };
        assert!(batches(&[], 0).is_empty());
        let made = batches(&[record(10), record(BATCH_BYTES), record(20), record(30)], 7);
        assert_eq!(made.iter().map(RecordBatch::record_count).collect::<Vec<_>>(), [1, 1, 2]);
        assert!(made.iter().all(|batch| batch.crc_holds() && batch.max_timestamp() == 7));
    }

    #[test]
    fn a_log_is_rewritten_when_it_is_long_and_mostly_dead() {
        assert_eq!(rewrite_above(0), 16 << 20);
        assert_eq!(rewrite_above(100 << 20), 400 << 20);
    }
}
