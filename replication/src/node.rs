//! Everything replicated on this node: the data directory, the flusher, the metadata group and all partitions.

use std::{path::PathBuf, sync::Arc};

use log_store::disk::Disk;
use uuid::Uuid;

use crate::{
    Partition, ReplicationError,
    metadata::{BrokerInfo, MetadataError, MetadataImage, NewTopic, TopicInfo},
};

/// What a node needs from outside: it has no clock and no entropy of its own.
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
    /// Entropy: a fresh random number each call.
    pub entropy: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// This broker as the metadata names it.
    pub broker: BrokerInfo,
    /// Default topic configuration: what topics that set nothing get.
    pub log_defaults: log_store::config::LogConfig,
}

/// The replicated side of a node.
pub struct Node {}

impl Node {
    /// Locks and checks the data directory (making it where it is empty), recovers, and opens every group.
    /// Returns once every partition serves.
    ///
    /// # Errors
    /// The data directory is refused, or recovery failed.
    pub async fn start(_options: NodeOptions) -> Result<Arc<Self>, ReplicationError> {
        unimplemented!()
    }

    /// The current metadata.
    pub fn metadata(&self) -> Arc<MetadataImage> {
        unimplemented!()
    }

    /// The partition, where this node holds a replica of it.
    pub fn partition(&self, _topic_id: Uuid, _partition: i32) -> Option<Arc<Partition>> {
        unimplemented!()
    }

    /// All partitions held here (the metadata group's not among them).
    pub fn partitions(&self) -> Vec<(Arc<TopicInfo>, i32, Arc<Partition>)> {
        unimplemented!()
    }

    /// Creates topics; each succeeds only once all its partitions serve here. `validate_only` changes nothing.
    pub async fn create_topics(
        self: &Arc<Self>,
        _topics: Vec<NewTopic>,
        _validate_only: bool,
    ) -> Vec<Result<Arc<TopicInfo>, MetadataError>> {
        unimplemented!()
    }

    /// Deletes a topic: fetches and produces fail from then on.
    ///
    /// # Errors
    /// [`MetadataError::UnknownTopic`].
    pub async fn delete_topic(self: &Arc<Self>, _topic_id: Uuid) -> Result<(), MetadataError> {
        unimplemented!()
    }

    /// A producer id that was never given out before in the cluster's life.
    ///
    /// # Errors
    /// The metadata group could not commit a new block.
    pub async fn next_producer_id(&self) -> Result<i64, ReplicationError> {
        unimplemented!()
    }

    /// Finishes what was queued, writes a checkpoint, and closes everything.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}
