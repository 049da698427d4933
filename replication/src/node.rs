//! Everything replicated on this node: the data directory, the flusher, the metadata group and all partitions.
//!
//! ```text
//!  start     lock the directory -> recover -> flusher -> all groups at once: vote, committed vote, blank entry,
//!            three rounds for all of them -> image from the metadata log -> what was half created or deleted
//!  create    metadata record committed -> Created records -> each group's membership, votes and blank, shared
//!            rounds -> the partitions serve -> success
//!  delete    metadata record committed -> partitions answer "deleted" -> cores end -> Dropped records durable ->
//!            directories renamed -> success; a worker unlinks
//! ```

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc, RwLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::{
    FutureExt,
    future::{Either, join_all, select},
};
use log_store::{
    GroupState, Log, LogStoreError, ReplicaId,
    config::LogConfig,
    data_directory::{DataDirectory, META, Opener},
    disk::Disk,
    recovery::{self, Progress, RecoveredGroup, RecoveryOptions, remove_partition_directory},
    segment::{PoolLimits, SegmentPool},
    wal::{RING_FILES, WalRecord},
};
use openraft::{Config, EmptyNode, Raft, SnapshotPolicy};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{
    FlusherStats, Partition, ReplicationError,
    files::{DiskWork, Files, Job},
    flusher::{AfterDurable, Faults, Flusher, FlusherSetup, Work},
    lane::Lane,
    metadata::{
        BrokerInfo, METADATA_REPLICA, METADATA_TOPIC, METADATA_TOPIC_ID, MetadataError, MetadataImage,
        MetadataRecord, NewTopic, PRODUCER_ID_BLOCK, REWRITE_BATCH, TopicInfo,
    },
    partition::{PartitionSetup, ended},
    raft_log::RaftLog,
    space::{DiskSpace, Space},
    state_machine::StateMachine,
    transport::NoPeers,
};

/// What a node needs from outside: it has no wall clock and no entropy of its own.
#[derive(Clone)]
pub struct NodeOptions {
    /// The data directory.
    pub data_dir: PathBuf,
    /// The write-ahead log's directory, where it is not `<data_dir>/wal`.
    pub wal_dir: Option<PathBuf>,
    /// Bytes of each file of the write-ahead log.
    pub wal_file_bytes: u64,
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// Runtimes (each of one thread) to which partitions are pinned in turn.
    pub runtimes: Vec<tokio::runtime::Handle>,
    /// Wall clock, milliseconds since the epoch.
    pub now: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// Time since some moment, never set back.
    pub monotonic: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// Entropy: a fresh random number each call.
    pub entropy: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Told how far recovery is, while it runs.
    pub progress: Arc<dyn Fn(Progress) + Send + Sync>,
    /// Told how long each sync of the write-ahead log took, and of a segment that a round waits for.
    pub synced: Arc<dyn Fn(Duration) + Send + Sync>,
    /// This broker as the metadata names it.
    pub broker: BrokerInfo,
    /// Default topic configuration: what topics that set nothing get.
    pub log_defaults: LogConfig,
    /// Topics that the broker alone writes: they may use what is kept free on the disk.
    pub internal_topics: &'static [&'static str],
    /// Closed segments that are kept open for reading, at most.
    pub open_segments: usize,
}

impl fmt::Debug for NodeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeOptions")
            .field("data_dir", &self.data_dir)
            .field("broker", &self.broker)
            .finish_non_exhaustive()
    }
}

/// The longest name that file systems take, bytes.
const NAME_MAX: usize = 255;

/// The partitions held here that serve, or did.
type Partitions = HashMap<(Uuid, i32), Arc<Partition>>;

/// The replicated side of a node.
pub struct Node {
    pub(crate) options: NodeOptions,
    pub(crate) directory: DataDirectory,
    pub(crate) pool: Arc<SegmentPool>,
    pub(crate) flusher: Arc<Flusher>,
    pub(crate) space: Arc<Space>,
    pub(crate) lanes: Vec<Arc<Lane>>,
    next_lane: AtomicUsize,
    raft_config: Arc<Config>,
    revive: mpsc::UnboundedSender<ReplicaId>,
    pub(crate) metadata: Arc<Partition>,
    image: ArcSwap<MetadataImage>,
    partitions: RwLock<Partitions>,
    /// One change of topics at a time.
    admin: tokio::sync::Mutex<()>,
    producer_ids: tokio::sync::Mutex<Range<i64>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Node {
    /// Locks and checks the data directory (making it where it is empty), recovers, and opens every group.
    /// Returns once every partition serves.
    ///
    /// # Errors
    /// The data directory is refused, or recovery failed.
    pub async fn start(options: NodeOptions) -> Result<Arc<Self>, ReplicationError> {
        Self::start_with(options, Faults::new(Arc::new(abort))).await
    }

    /// [`Node::start`] with something else than an abort on the first error that is final.
    pub(crate) async fn start_with(
        options: NodeOptions,
        faults: Faults,
    ) -> Result<Arc<Self>, ReplicationError> {
        let opened = Opened::recover(&options)?;
        let Opened { directory, pool, recovered } = opened;
        check_cluster(&directory, &recovered.groups)?;
        let space = Arc::new(Space::new(
            Arc::clone(&options.disk),
            options.data_dir.clone(),
            options.wal_file_bytes * RING_FILES as u64,
            Arc::clone(&options.now),
        ));
        let left_in_rounds = !recovered.touched.is_empty();
        let flusher = Flusher::start(FlusherSetup {
            wal: recovered.wal,
            states: recovered.states,
            damaged: recovered.damaged,
            dirty: recovered.dirty,
            touched: recovered.touched,
            disk: Arc::clone(&options.disk),
            data_dir: options.data_dir.clone(),
            space: Arc::clone(&space),
            monotonic: Arc::clone(&options.monotonic),
            synced: Arc::clone(&options.synced),
            faults,
        })
        .map_err(|error| ReplicationError::Storage(format!("threads of the flusher: {error}")))?;
        let lanes: Vec<Arc<Lane>> = options
            .runtimes
            .iter()
            .map(|runtime| {
                flusher.add_lane(|number| Lane::start(number, runtime.clone(), Arc::clone(flusher.queue())))
            })
            .collect();
        if lanes.is_empty() {
            return Err(ReplicationError::Storage("a node needs a runtime".to_owned()));
        }
        let (revive, revived) = mpsc::unbounded_channel();
        let opening = Opening {
            flusher: Arc::clone(&flusher),
            space: Arc::clone(&space),
            now: Arc::clone(&options.now),
            raft_config: raft_config()?,
            revive,
            internal_topics: options.internal_topics,
        };

        let mut opened = HashMap::new();
        let mut serving = Vec::new();
        for (number, group) in recovered.groups.into_iter().enumerate() {
            let state = &group.state;
            let lane = Arc::clone(&lanes[number % lanes.len()]);
            let log = group.log.map_err(ReplicationError::from);
            let partition = match log.and_then(|log| opening.open(state, log, Arc::clone(&lane))) {
                Ok((partition, opened_core)) => {
                    serving.push((Arc::clone(&partition), opened_core));
                    partition
                }
                Err(error) => {
                    tracing::error!(
                        topic = state.topic, partition = state.partition, %error,
                        "partition is offline: what was promised of it is damaged; nothing of it was removed, restore \
                         its directory from a backup or delete the topic"
                    );
                    opening.offline(state, lane, &error.to_string())
                }
            };
            opened.insert(state.replica, partition);
        }
        let metadata = match opened.remove(&METADATA_REPLICA) {
            Some(metadata) => metadata,
            None => {
                let topic = METADATA_TOPIC.to_owned();
                let state = GroupState::new(METADATA_REPLICA, METADATA_TOPIC_ID, topic, 0);
                let log = Log::create(
                    &pool,
                    &options.data_dir.join(state.directory()),
                    &state,
                    LogConfig { retention_ms: None, ..LogConfig::default() },
                )?;
                let (partition, opened_core) = opening.create(&state, log, Arc::clone(&lanes[0]))?;
                serving.push((Arc::clone(&partition), opened_core));
                partition
            }
        };
        for (partition, opened_core) in serving {
            if let Err(error) = opened_core.await.unwrap_or(Err(ReplicationError::Stopping)) {
                // it alone is offline; without the metadata's nothing is
                partition.fail(&error.to_string());
                end_cores(&[partition]).await;
            }
        }
        let mut image = MetadataImage::default();
        image.catch_up(&metadata).map_err(|error| {
            ReplicationError::Storage(format!(
                "the cluster's metadata cannot be read, and without it nothing can be served ({error}): restore the \
                 data directory from a backup, or start from an empty one and let the other replicas fill it"
            ))
        })?;
        let Opening { raft_config, revive, .. } = opening;
        let node = Arc::new(Self {
            directory,
            pool,
            flusher,
            space,
            next_lane: AtomicUsize::new(1),
            lanes,
            raft_config,
            revive,
            metadata,
            image: ArcSwap::from_pointee(image),
            partitions: RwLock::default(),
            admin: tokio::sync::Mutex::default(),
            producer_ids: tokio::sync::Mutex::new(0..0),
            options,
        });
        node.settle(opened, recovered.lost.into_iter().collect()).await?;
        if left_in_rounds {
            node.flusher.cover_recovered();
        }
        node.lanes[0].runtime().spawn(revive_groups(Arc::downgrade(&node), revived));
        Ok(node)
    }

    /// Brings what recovery found and what the metadata says together. Of what is `lost` recovery knows no more than
    /// that it was there.
    async fn settle(
        self: &Arc<Self>,
        mut opened: HashMap<ReplicaId, Arc<Partition>>,
        mut lost: HashSet<ReplicaId>,
    ) -> Result<(), ReplicationError> {
        let _admin = self.admin.lock().await;
        let image = self.metadata();
        let mut records = Vec::new();
        if image.cluster_id.is_empty() {
            records.push(MetadataRecord::Cluster { id: self.directory.meta().cluster_id.clone() });
        }
        if image.brokers.get(&self.options.broker.id) != Some(&self.options.broker) {
            records.push(MetadataRecord::Broker(self.options.broker.clone()));
        }
        if !records.is_empty() {
            self.commit(&records).await?;
        }
        let image = self.metadata();
        let mut missing = Vec::new();
        for topic in image.topics.values() {
            for (partition, replica) in self.placements(&image, topic) {
                match opened.remove(&replica) {
                    Some(open) => {
                        // recovery knew the topic's name, not its settings
                        open.configure(log_config(topic, &self.options.log_defaults));
                        self.insert(open);
                    }
                    None if lost.remove(&replica) => self.insert(self.lost(topic, partition, replica)),
                    None => missing.push((Arc::clone(topic), partition, replica)),
                }
            }
        }
        // deleted in the metadata: recovery removes their directories once no checkpoint tells of them
        for replica in lost {
            self.flusher.files().forget_damaged(replica);
        }
        // created in the metadata, but the node stopped before the groups were
        if let Err(error) = self.create_partitions(missing).await {
            tracing::error!(%error, "a topic that was half created is made at the next start, unless it is deleted");
        }
        // deleted in the metadata, but the node stopped before the groups were
        if let Err(error) = self.drop_partitions(opened.into_values().collect()).await {
            tracing::warn!(%error, "files of a deleted partition stay until the next start");
        }
        Ok(())
    }

    /// A partition whose state is damaged in the checkpoint and in its copy: nothing of its files may be touched.
    fn lost(&self, topic: &TopicInfo, partition: i32, replica: ReplicaId) -> Arc<Partition> {
        let reason = "the checkpoint and its copy are both damaged where they tell of this partition";
        tracing::error!(
            topic = %topic.name, partition, reason,
            "partition is offline: nothing of it was removed, restore the data directory from a backup or delete the \
             topic"
        );
        let state = GroupState::new(replica, topic.id, topic.name.to_string(), partition);
        self.opening().offline(&state, self.lane(), reason)
    }

    /// The current metadata.
    pub fn metadata(&self) -> Arc<MetadataImage> {
        self.image.load_full()
    }

    /// The partition, where this node holds a replica of it.
    pub fn partition(&self, topic_id: Uuid, partition: i32) -> Option<Arc<Partition>> {
        read(&self.partitions).get(&(topic_id, partition)).cloned()
    }

    /// All partitions held here (the metadata group's not among them).
    pub fn partitions(&self) -> Vec<(Arc<TopicInfo>, i32, Arc<Partition>)> {
        let image = self.metadata();
        let partitions = read(&self.partitions);
        partitions
            .iter()
            .filter_map(|((topic, index), partition)| {
                Some((Arc::clone(image.topics_by_id.get(topic)?), *index, Arc::clone(partition)))
            })
            .collect()
    }

    /// Creates topics; each succeeds only once all its partitions serve here. `validate_only` changes nothing.
    pub async fn create_topics(
        self: &Arc<Self>,
        topics: Vec<NewTopic>,
        validate_only: bool,
    ) -> Vec<Result<Arc<TopicInfo>, MetadataError>> {
        let node = Arc::clone(self);
        // a client that goes away does not leave a topic half created
        let count = topics.len();
        let created =
            self.lanes[0].runtime().spawn(async move { node.create_topics_now(topics, validate_only).await });
        created.await.unwrap_or_else(|_| {
            (0..count).map(|_| Err(MetadataError::Replication(ReplicationError::Stopping))).collect()
        })
    }

    async fn create_topics_now(
        self: &Arc<Self>,
        topics: Vec<NewTopic>,
        validate_only: bool,
    ) -> Vec<Result<Arc<TopicInfo>, MetadataError>> {
        let _admin = self.admin.lock().await;
        if let Err(error) = self.catch_up().await {
            return topics.iter().map(|_| Err(MetadataError::Replication(error.clone()))).collect();
        }
        let mut planned = (*self.metadata()).clone();
        let mut records = Vec::new();
        let mut results = Vec::with_capacity(topics.len());
        for topic in topics {
            if planned.topics.contains_key(topic.name.as_str()) {
                results.push(Err(MetadataError::TopicExists(topic.name)));
                continue;
            }
            if let Some(other) = planned.colliding(&topic.name) {
                results.push(Err(MetadataError::NameCollision(topic.name, other.name.to_string())));
                continue;
            }
            let info = TopicInfo {
                name: Arc::from(topic.name),
                id: self.new_topic_id(),
                partitions: topic.partitions,
                configs: topic.configs,
            };
            let record = MetadataRecord::Topic { topic: info.clone(), first_replica: planned.next_replica() };
            planned.apply(record.clone());
            records.push(record);
            results.push(Ok(Arc::new(info)));
        }
        if validate_only || records.is_empty() {
            return results;
        }
        if let Err(error) = self.commit(&records).await {
            return fail_all(results, &error);
        }
        let image = self.metadata();
        let mut wanted = Vec::new();
        for topic in results.iter().flatten() {
            for (partition, replica) in self.placements(&image, topic) {
                wanted.push((Arc::clone(topic), partition, replica));
            }
        }
        match self.create_partitions(wanted).await {
            Ok(()) => results,
            Err(error) => {
                let created = results.iter().flatten().map(|topic| topic.id).collect();
                if let Err(error) = self.remove_topics(created).await {
                    tracing::warn!(%error, "topics that could not be opened stay half created until the next start");
                }
                fail_all(results, &error)
            }
        }
    }

    /// Deletes topics in the metadata, ends their partitions and gives up their files.
    async fn remove_topics(&self, topics: Vec<Uuid>) -> Result<(), ReplicationError> {
        let records: Vec<_> = topics.iter().map(|id| MetadataRecord::TopicDeleted { id: *id }).collect();
        self.commit(&records).await?;
        let gone = self.take_partitions(|topic| topics.contains(&topic));
        self.drop_partitions(gone).await
    }

    /// Deletes a topic: fetches and produces fail from then on.
    ///
    /// # Errors
    /// [`MetadataError::UnknownTopic`].
    pub async fn delete_topic(self: &Arc<Self>, topic_id: Uuid) -> Result<(), MetadataError> {
        let node = Arc::clone(self);
        let deleted = self.lanes[0].runtime().spawn(async move {
            let _admin = node.admin.lock().await;
            node.catch_up().await?;
            if !node.metadata().topics_by_id.contains_key(&topic_id) {
                return Err(MetadataError::UnknownTopic);
            }
            Ok(node.remove_topics(vec![topic_id]).await?)
        });
        deleted.await.unwrap_or(Err(MetadataError::Replication(ReplicationError::Stopping)))
    }

    /// A producer id that was never given out before in the cluster's life.
    ///
    /// # Errors
    /// The metadata group could not commit a new block.
    pub async fn next_producer_id(&self) -> Result<i64, ReplicationError> {
        let mut ids = self.producer_ids.lock().await;
        if ids.is_empty() {
            let _admin = self.admin.lock().await;
            let first = self.metadata().next_producer_id;
            self.commit(&[MetadataRecord::ProducerIds { next: first + PRODUCER_ID_BLOCK }]).await?;
            *ids = first..first + PRODUCER_ID_BLOCK;
        }
        ids.next().ok_or(ReplicationError::NotLeader)
    }

    /// Applies `retention.ms` and `retention.bytes` to every partition, forgets idle producers, and starts groups again
    /// that a full disk stopped. Called by a timer.
    pub async fn retention(&self, now_ms: i64, producer_expiration_ms: i64) {
        self.revive_broken(&self.metadata).await;
        for (topic, _, partition) in self.partitions() {
            if self.revive_broken(&partition).await {
                continue;
            }
            partition.expire_producers(now_ms - producer_expiration_ms);
            let config = log_config(&topic, &self.options.log_defaults);
            if let Err(error) = partition.retain(&config, now_ms).await {
                tracing::debug!(%error, ?partition, "retention is tried again later");
            }
        }
    }

    /// How the data disk stands.
    ///
    /// # Errors
    /// Those of the system.
    pub fn disk_space(&self) -> std::io::Result<DiskSpace> {
        self.space.state()
    }

    /// Starts a group again that a full disk stopped, where there is space; whether it was such a one.
    async fn revive_broken(&self, partition: &Partition) -> bool {
        let broken = partition.is_broken() && self.space.admit().is_ok();
        if broken && let Err(error) = self.revive(partition.replica()).await {
            tracing::warn!(%error, ?partition, "a partition that a full disk stopped does not start again yet");
        }
        broken
    }

    /// Counters of the flusher.
    pub fn flusher_stats(&self) -> FlusherStats {
        self.flusher.stats()
    }

    /// Finishes what was queued, writes a checkpoint, and closes everything.
    pub async fn shutdown(&self) {
        let _admin = self.admin.lock().await;
        let partitions: Vec<Arc<Partition>> =
            read(&self.partitions).values().cloned().chain([Arc::clone(&self.metadata)]).collect();
        for partition in &partitions {
            partition.stop();
        }
        end_cores(&partitions).await;
        for lane in &self.lanes {
            lane.drain().await;
        }
        let flusher = Arc::clone(&self.flusher);
        // it waits for syncs
        let _ = tokio::task::spawn_blocking(move || flusher.stop()).await;
    }

    /// Appends records to the metadata log and applies them once they are committed.
    async fn commit(&self, records: &[MetadataRecord]) -> Result<(), ReplicationError> {
        let batch = MetadataRecord::batch(records, (self.options.now)());
        self.metadata.append_committed(batch).await?;
        let mut image = (*self.metadata()).clone();
        image.catch_up(&self.metadata)?;
        self.image.store(Arc::new(image));
        // the records are committed, whatever becomes of the log's length
        if let Err(error) = self.shorten_metadata().await {
            tracing::warn!(%error, "the metadata log could not be rewritten: it is tried again with the next change");
        }
        Ok(())
    }

    /// Puts all of the metadata at the end of its log and cuts off what is before, where that is much.
    async fn shorten_metadata(&self) -> Result<(), ReplicationError> {
        let mut image = (*self.metadata()).clone();
        if !image.wants_rewrite(self.metadata.offsets()?.log_start) {
            return Ok(());
        }
        let start = image.next_offset;
        for records in image.to_records().chunks(REWRITE_BATCH) {
            self.metadata.append_committed(MetadataRecord::batch(records, (self.options.now)())).await?;
        }
        self.metadata.trim(start).await?;
        image.catch_up(&self.metadata)?;
        self.image.store(Arc::new(image));
        Ok(())
    }

    /// Applies what was committed although its change was told to have failed. Before each change, under its lock: one that
    /// is planned on an older image would give replica numbers out twice.
    async fn catch_up(self: &Arc<Self>) -> Result<(), ReplicationError> {
        let known = self.metadata();
        // where the group is stopped the change fails by itself, and has it started again
        if !self.metadata.offsets().is_ok_and(|offsets| offsets.high_watermark > known.next_offset) {
            return Ok(());
        }
        let mut image = (*known).clone();
        image.catch_up(&self.metadata)?;
        let image = Arc::new(image);
        self.image.store(Arc::clone(&image));
        let mut missing = Vec::new();
        for topic in image.topics.values() {
            for (partition, replica) in self.placements(&image, topic) {
                if self.partition(topic.id, partition).is_none() {
                    missing.push((Arc::clone(topic), partition, replica));
                }
            }
        }
        let gone = self.take_partitions(|topic| !image.topics_by_id.contains_key(&topic));
        self.create_partitions(missing).await?;
        self.drop_partitions(gone).await
    }

    /// Takes the partitions of these topics out of service.
    fn take_partitions(&self, of: impl Fn(Uuid) -> bool) -> Vec<Arc<Partition>> {
        let mut partitions = write(&self.partitions);
        partitions.extract_if(|(topic, _), _| of(*topic)).map(|(_, partition)| partition).collect()
    }

    /// Partitions of a topic that this node holds a replica of.
    fn placements(&self, image: &MetadataImage, topic: &TopicInfo) -> Vec<(i32, ReplicaId)> {
        (0..topic.partitions.len())
            .filter_map(|partition| {
                let partition = i32::try_from(partition).ok()?;
                Some((partition, image.replica(topic, partition, self.options.broker.id)?))
            })
            .collect()
    }

    /// Creates groups, all at once so that they share their rounds, and waits until every one serves.
    async fn create_partitions(
        self: &Arc<Self>,
        wanted: Vec<(Arc<TopicInfo>, i32, ReplicaId)>,
    ) -> Result<(), ReplicationError> {
        let opening = self.opening();
        let mut serving = Vec::with_capacity(wanted.len());
        let mut failed = None;
        for (topic, partition, replica) in wanted {
            let state = GroupState::new(replica, topic.id, topic.name.to_string(), partition);
            let config = log_config(&topic, &self.options.log_defaults);
            let dir = self.options.data_dir.join(state.directory());
            let opened = self
                .make_way(&dir)
                .and_then(|()| Log::create(&self.pool, &dir, &state, config))
                .map_err(ReplicationError::from)
                .and_then(|log| opening.create(&state, log, self.lane()));
            match opened {
                Ok(opened) => serving.push(opened),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        for (partition, opened) in serving {
            match opened.await.unwrap_or(Err(ReplicationError::Stopping)) {
                Ok(()) => self.insert(partition),
                Err(error) => {
                    self.insert(partition);
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// What a deletion could not give another name is nobody's, and a new replica must not take it for its own.
    fn make_way(&self, dir: &Path) -> Result<(), LogStoreError> {
        match self.options.disk.exists(dir).map_err(LogStoreError::io("look for", dir))? {
            true => move_aside(&*self.options.disk, self.flusher.files(), dir.to_owned(), self.aside(dir)),
            false => Ok(()),
        }
    }

    /// Ends groups and gives up their files; returns once their directories have other names.
    pub(crate) async fn drop_partitions(&self, gone: Vec<Arc<Partition>>) -> Result<(), ReplicationError> {
        for partition in &gone {
            partition.delete();
        }
        // nothing may be queued behind the record that ends a replica
        end_cores(&gone).await;
        let mut renamed = Vec::with_capacity(gone.len());
        for partition in gone {
            let replica = partition.replica();
            self.flusher.remove_partition(replica);
            let dir = self.options.data_dir.join(format!("{}-{}", partition.topic(), partition.index()));
            let (sender, receiver) = oneshot::channel();
            let aside = self.aside(&dir);
            let files = Arc::clone(self.flusher.files());
            let leaving = Arc::clone(&partition);
            let then: DiskWork = Box::new(move |disk: &dyn Disk| {
                leaving.leave_directory();
                // whoever waited may be gone
                let _ = sender.send(move_aside(disk, &files, dir, aside));
            });
            if self.flusher.files().forget_damaged(replica) {
                // no round tells of a replica whose state is unknown
                self.flusher.files().add(Job::Run(then));
            } else {
                let dropped = Work::record(WalRecord::Dropped { replica }, AfterDurable::Then(then));
                partition.lane().push(dropped);
            }
            renamed.push(receiver);
        }
        let mut failed = None;
        for receiver in renamed {
            let moved = receiver.await.map_err(|_| ReplicationError::Stopping)?;
            failed = failed.or(moved.err());
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Another name for the directory of a partition that is given up: `<topic>-<n>.<unique>-delete`, as Kafka calls
    /// it, its topic shortened where the name would be too long.
    fn aside(&self, dir: &Path) -> PathBuf {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let (topic, partition) = name.rsplit_once('-').unwrap_or((&*name, "0"));
        let unique = Uuid::from_u64_pair((self.options.entropy)(), (self.options.entropy)()).simple();
        let rest = format!("-{partition}.{unique}-delete");
        // names of topics are ASCII
        let topic = topic.get(..NAME_MAX - rest.len()).unwrap_or(topic);
        self.options.data_dir.join(format!("{topic}{rest}"))
    }

    fn opening(&self) -> Opening {
        Opening {
            flusher: Arc::clone(&self.flusher),
            space: Arc::clone(&self.space),
            now: Arc::clone(&self.options.now),
            raft_config: Arc::clone(&self.raft_config),
            revive: self.revive.clone(),
            internal_topics: self.options.internal_topics,
        }
    }

    /// Starts a group again that a full disk stopped: at the end that is durable.
    async fn revive(&self, replica: ReplicaId) -> Result<(), ReplicationError> {
        let _admin = self.admin.lock().await;
        let found = match replica {
            METADATA_REPLICA => Some(Arc::clone(&self.metadata)),
            _ => read(&self.partitions).values().find(|partition| partition.replica() == replica).cloned(),
        };
        let Some(partition) = found.filter(|partition| partition.revival_begins()) else { return Ok(()) };
        if let Some(core) = partition.detach() {
            // what it still queued is dropped by the flusher
            let _ = core.shutdown().await;
        }
        let (sender, drained) = oneshot::channel();
        partition.lane().push(Work::barrier(sender));
        drained.await.map_err(|_| ReplicationError::Stopping)?;
        let Some(mut state) = self.flusher.durable_state(replica) else { return Ok(()) };
        let (committed, log_start) = partition.checkpoint_marks();
        state.clamp(committed, log_start);
        let image = self.metadata();
        let config = image.topics_by_id.get(&partition.topic_id()).map_or_else(
            || self.options.log_defaults.clone(),
            |topic| log_config(topic, &self.options.log_defaults),
        );
        let dir = self.options.data_dir.join(state.directory());
        let (pool, now_ms, reopened) = (Arc::clone(&self.pool), (self.options.now)(), Arc::clone(&partition));
        // a whole segment is read and checked
        let reopening = tokio::task::spawn_blocking(move || {
            let log = Log::open(&pool, &dir, &state, None, config, now_ms)?;
            reopened.reopen(&state, log)
        });
        reopening.await.unwrap_or_else(|panic| Err(ReplicationError::Storage(panic.to_string())))?;
        let opened = open_core(Arc::clone(&partition), Arc::clone(&self.raft_config));
        let opened = partition.lane().runtime().spawn(opened);
        opened.await.unwrap_or(Err(ReplicationError::Stopping))?;
        tracing::info!(?partition, "the partition serves again");
        Ok(())
    }

    fn insert(&self, partition: Arc<Partition>) {
        write(&self.partitions).insert((partition.topic_id(), partition.index()), partition);
    }

    fn lane(&self) -> Arc<Lane> {
        let next = self.next_lane.fetch_add(1, Ordering::Relaxed);
        Arc::clone(&self.lanes[next % self.lanes.len()])
    }

    /// A random topic id; Kafka's tools mistake one whose text begins with a dash for an option.
    fn new_topic_id(&self) -> Uuid {
        loop {
            let (high, low) = ((self.options.entropy)(), (self.options.entropy)());
            let id = uuid::Builder::from_u128(u128::from(high) << 64 | u128::from(low))
                .with_version(uuid::Version::Random)
                .with_variant(uuid::Variant::RFC4122)
                .into_uuid();
            // in URL-safe base64 the first character is a dash for 62 in the upper six bits
            if id.as_bytes()[0] >> 2 != 62 {
                return id;
            }
        }
    }
}

/// The data directory, and what recovery found in it.
pub(crate) struct Opened {
    pub(crate) directory: DataDirectory,
    pub(crate) pool: Arc<SegmentPool>,
    pub(crate) recovered: recovery::Recovered,
}

impl Opened {
    pub(crate) fn recover(options: &NodeOptions) -> Result<Self, ReplicationError> {
        let entropy = || u128::from((options.entropy)()) << 64 | u128::from((options.entropy)());
        let opener = Opener {
            node_id: options.broker.id,
            new_cluster_id: log_store::data_directory::kafka_uuid(Uuid::from_u128(entropy())),
            new_directory_id: Uuid::from_u128(entropy()),
            wal_dir: options.wal_dir.clone(),
        };
        let mut directory = DataDirectory::open(Arc::clone(&options.disk), &options.data_dir, &opener)?;
        let limits = PoolLimits { open_segments: options.open_segments, ..PoolLimits::default() };
        let pool = SegmentPool::new(Arc::clone(&options.disk), limits);
        let directory_is_fresh = directory.is_fresh();
        let mut phase = None;
        let mut progress = |progress: Progress| {
            // each phase once, and only where it has something to do
            let begins =
                phase.replace(std::mem::discriminant(&progress)) != Some(std::mem::discriminant(&progress));
            if begins && !directory_is_fresh {
                tracing::info!(?progress, "recovering");
            }
            (options.progress)(progress);
        };
        let recovered = recovery::recover(
            &pool,
            &mut directory,
            RecoveryOptions {
                wal_file_bytes: options.wal_file_bytes,
                salt: (options.entropy)(),
                now_ms: (options.now)(),
                config: &|_| options.log_defaults.clone(),
                progress: &mut progress,
                vital: Some((METADATA_REPLICA, "the cluster's metadata (which topics there are)")),
                mutation: recovery::Mutation::None,
            },
        )?;
        Ok(Self { directory, pool, recovered })
    }
}

/// A data directory put together from those of two clusters is refused before its groups are opened.
fn check_cluster(directory: &DataDirectory, groups: &[RecoveredGroup]) -> Result<(), ReplicationError> {
    let metadata = groups.iter().find(|group| group.state.replica == METADATA_REPLICA);
    let Some(Ok(log)) = metadata.map(|group| &group.log) else { return Ok(()) };
    // what cannot be read is said when the group is opened
    let Ok(MetadataImage { cluster_id: held, .. }) = MetadataImage::of(log) else { return Ok(()) };
    let named = &directory.meta().cluster_id;
    if held.is_empty() || held == *named {
        return Ok(());
    }
    let dir = directory.path().display();
    Err(LogStoreError::Refused(format!(
        "{dir} belongs to cluster {named} by its {META}, but what it holds is of cluster {held}: files of two data \
         directories were mixed. Nothing was removed: put the {META} of cluster {held} back, or choose the data \
         directory of cluster {named}, or an empty one"
    ))
    .into())
}

/// What opening a group takes.
struct Opening {
    flusher: Arc<Flusher>,
    space: Arc<Space>,
    now: Arc<dyn Fn() -> i64 + Send + Sync>,
    raft_config: Arc<Config>,
    revive: mpsc::UnboundedSender<ReplicaId>,
    internal_topics: &'static [&'static str],
}

/// Starts groups again that a full disk stopped, as long as there is a node.
async fn revive_groups(node: Weak<Node>, mut revived: mpsc::UnboundedReceiver<ReplicaId>) {
    while let Some(replica) = revived.recv().await {
        let Some(node) = node.upgrade() else { return };
        if let Err(error) = node.revive(replica).await {
            // the next append asks again
            tracing::warn!(%error, "a partition that a full disk stopped does not start again yet");
        }
    }
}

/// A group that is being opened, and how that ends.
type OpenedCore = oneshot::Receiver<Result<(), ReplicationError>>;

impl Opening {
    /// A group that never was: its `Created` record goes ahead of everything it queues.
    fn create(
        &self,
        state: &GroupState,
        log: Arc<Log>,
        lane: Arc<Lane>,
    ) -> Result<(Arc<Partition>, OpenedCore), ReplicationError> {
        let record = WalRecord::Created {
            replica: state.replica,
            topic_id: state.topic_id,
            topic: state.topic.clone(),
            partition: state.partition,
        };
        lane.push(Work::record(record, AfterDurable::Nothing));
        self.open(state, log, lane)
    }

    /// A group of which something promised is missing.
    fn offline(&self, state: &GroupState, lane: Arc<Lane>, reason: &str) -> Arc<Partition> {
        Partition::offline(self.setup(state, lane), reason)
    }

    fn setup<'a>(&self, state: &'a GroupState, lane: Arc<Lane>) -> PartitionSetup<'a> {
        let topic = state.topic.as_str();
        PartitionSetup {
            state,
            internal: topic == METADATA_TOPIC || self.internal_topics.contains(&topic),
            lane,
            space: Arc::clone(&self.space),
            now: Arc::clone(&self.now),
            files: Arc::clone(self.flusher.files()),
            max_batch_bytes: self.flusher.max_batch_bytes(),
            revive: self.revive.clone(),
        }
    }

    /// Opens the group on its runtime.
    fn open(
        &self,
        state: &GroupState,
        log: Arc<Log>,
        lane: Arc<Lane>,
    ) -> Result<(Arc<Partition>, OpenedCore), ReplicationError> {
        let partition = Partition::new(self.setup(state, Arc::clone(&lane)), log)?;
        self.flusher.add_partition(&partition);
        let (sender, receiver) = oneshot::channel();
        let opened = open_core(Arc::clone(&partition), Arc::clone(&self.raft_config));
        lane.runtime().spawn(async move {
            // whoever wanted to know may be gone
            let _ = sender.send(opened.await);
        });
        Ok((partition, receiver))
    }
}

/// Starts the core of a group with one voter and has it elect itself: without ticks nobody else would.
async fn open_core(partition: Arc<Partition>, config: Arc<Config>) -> Result<(), ReplicationError> {
    let replica = partition.replica().0;
    let failed = |what: &str, error: String| ReplicationError::Storage(format!("{what}: {error}"));
    let core = Raft::new(
        replica,
        config,
        NoPeers,
        RaftLog::new(Arc::clone(&partition)),
        StateMachine::new(Arc::clone(&partition)),
    )
    .await
    .map_err(|error| failed("opening the group", error.to_string()))?;
    partition.attach(core.clone());
    if partition.log().last_log_id().is_some() {
        core.trigger().elect(false).await.map_err(|error| failed("electing", error.to_string()))?;
    } else {
        // the group elects itself once its membership is queued
        let members = BTreeMap::from([(replica, EmptyNode {})]);
        core.initialize(members).await.map_err(|error| failed("initializing", error.to_string()))?;
    }
    let serving = pin!(partition.serving());
    match select(serving, pin!(ended(&core))).await {
        Either::Left((serving, _)) => serving,
        // it may have said itself what happened
        Either::Right((_, serving)) => serving.now_or_never().unwrap_or_else(|| {
            Err(ReplicationError::Storage("the group's core ended while it was opened".to_owned()))
        }),
    }
}

/// Ends the cores of partitions that serve no more.
async fn end_cores(partitions: &[Arc<Partition>]) {
    let cores = partitions.iter().filter_map(|partition| partition.detach());
    // a core that ended before has nothing to finish
    join_all(cores.map(|core| async move { core.shutdown().await })).await;
}

/// Settings of data groups. Ticks are off: with one voter there is nobody to hear from.
fn raft_config() -> Result<Arc<Config>, ReplicationError> {
    let config = Config {
        cluster_name: "alluvium".to_owned(),
        heartbeat_interval: 1_000,
        election_timeout_min: 3_000,
        election_timeout_max: 6_000,
        enable_tick: false,
        enable_pre_vote: Some(true),
        // a leader that lost an unsynced tail would overwrite entries in the same term
        enable_leader_restore: Some(false),
        quorum_loss_probe_interval: Some(12_000),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        log_stage_capacity: Some(8),
        ..Config::default()
    };
    config
        .validate()
        .map(Arc::new)
        .map_err(|error| ReplicationError::Storage(format!("settings of the Raft groups: {error}")))
}

/// The settings of a topic. What cannot be read was checked when it was set, so a default is better than no partition.
fn log_config(topic: &TopicInfo, defaults: &LogConfig) -> LogConfig {
    LogConfig::from_settings(&topic.configs, defaults).unwrap_or_else(|error| {
        tracing::warn!(topic = %topic.name, %error, "the defaults hold for this topic");
        defaults.clone()
    })
}

fn fail_all(
    results: Vec<Result<Arc<TopicInfo>, MetadataError>>,
    error: &ReplicationError,
) -> Vec<Result<Arc<TopicInfo>, MetadataError>> {
    results
        .into_iter()
        .map(|result| result.and_then(|_| Err(MetadataError::Replication(error.clone()))))
        .collect()
}

/// Nothing may be acknowledged any more, and nothing in memory can be trusted to be on the disk (durability rule 6).
fn abort(error: &LogStoreError) {
    tracing::error!(%error, "a sync, a write or a thread failed that everything depends on: aborting; the next start \
                             recovers what was acknowledged");
    std::process::abort();
}

/// Gives a directory another name; a worker removes what is in it, after all that have to be renamed.
fn move_aside(disk: &dyn Disk, files: &Files, dir: PathBuf, aside: PathBuf) -> Result<(), LogStoreError> {
    match disk.rename(&dir, &aside) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(LogStoreError::io("rename", dir)(error)),
    }
    // the name is free; what is left of the old files concerns nobody
    files.add(Job::Run(Box::new(move |disk| {
        if let Err(error) = remove_partition_directory(disk, &aside) {
            tracing::warn!(%error, "files of a deleted partition stay until the next start");
        }
    })));
    Ok(())
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}
