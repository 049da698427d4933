//! Finding a partition by topic name or id, as fast as a hash: a table beside the metadata image.
//!
//! The table is rebuilt when the image changed, reusing the handles of topics that did not. A handle also owns what
//! the broker counts per topic, so that counting needs no second lookup.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use log_store::config::LogConfig;
use replication::{
    Node, Partition,
    metadata::{MetadataImage, TopicInfo},
};
use uuid::Uuid;

use crate::topics::{self, MAX_NAME};

/// What is counted per topic.
#[derive(Debug, Default)]
pub struct TopicCounters {
    /// Records appended.
    pub messages_in: AtomicU64,
    /// Bytes of batches appended.
    pub bytes_in: AtomicU64,
    /// Bytes of batches sent.
    pub bytes_out: AtomicU64,
    /// Partitions in produce requests.
    pub produce_requests: AtomicU64,
    /// Of these, answered by an error.
    pub failed_produce_requests: AtomicU64,
    /// Partitions in fetch requests.
    pub fetch_requests: AtomicU64,
    /// Of these, answered by an error.
    pub failed_fetch_requests: AtomicU64,
}

impl TopicCounters {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

/// A topic as request handlers use it.
#[derive(Debug)]
pub struct Topic {
    /// Its metadata.
    pub info: Arc<TopicInfo>,
    /// Its settings: the broker's defaults, changed by what is set on it.
    pub config: LogConfig,
    /// What is counted about it.
    pub counters: Arc<TopicCounters>,
    partitions: Vec<OnceLock<Arc<Partition>>>,
}

impl Topic {
    /// Whether it belongs to the brokers: clients read it, and do not write to it.
    pub fn is_internal(&self) -> bool {
        topics::is_internal(&self.info.name)
    }
}

/// What became of a lookup.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The partition is held here.
    Here(Arc<Partition>),
    /// It exists, but not on this node (or not yet).
    Elsewhere,
    /// The topic has no such partition.
    Unknown,
}

/// All topics, by name and by id.
pub struct Partitions {
    node: Arc<Node>,
    node_id: i32,
    defaults: LogConfig,
    table: ArcSwap<Table>,
}

#[derive(Debug, Default)]
struct Table {
    image: Arc<MetadataImage>,
    by_name: HashMap<Arc<str>, Arc<Topic>>,
    by_id: HashMap<Uuid, Arc<Topic>>,
}

impl Partitions {
    /// A table over the metadata of `node`, whose topics get `defaults` where they set nothing.
    pub fn new(node: Arc<Node>, node_id: i32, defaults: LogConfig) -> Self {
        Self { node, node_id, defaults, table: ArcSwap::default() }
    }

    /// The topic of this name.
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        if name.len() > MAX_NAME {
            // No topic has it, and hashing it costs as much as whoever sent it likes.
            return None;
        }
        self.current().by_name.get(name).cloned()
    }

    /// The topic of this id.
    pub fn topic_by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        self.current().by_id.get(&id).cloned()
    }

    /// The partition of a topic.
    pub fn partition(&self, topic: &Topic, index: i32) -> Lookup {
        let Some(slot) = usize::try_from(index).ok().and_then(|index| topic.partitions.get(index)) else {
            return Lookup::Unknown;
        };
        if let Some(partition) = slot.get() {
            return Lookup::Here(Arc::clone(partition));
        }
        match self.node.partition(topic.info.id, index) {
            Some(partition) => Lookup::Here(Arc::clone(slot.get_or_init(|| partition))),
            None => Lookup::Elsewhere,
        }
    }

    /// The leader of a partition and its epoch, where one is known.
    pub fn leader(&self, topic: &Topic, index: i32) -> Option<(i32, i32)> {
        match self.partition(topic, index) {
            Lookup::Here(partition) => partition.offsets().ok().map(|offsets| (self.node_id, offsets.epoch)),
            Lookup::Elsewhere | Lookup::Unknown => None,
        }
    }

    /// Every topic, in no order.
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        self.current().by_name.values().cloned().collect()
    }

    fn current(&self) -> arc_swap::Guard<Arc<Table>> {
        let image = self.node.metadata();
        let table = self.table.load();
        if Arc::ptr_eq(&table.image, &image) {
            return table;
        }
        self.table.store(Arc::new(table.next(image, &self.defaults)));
        self.table.load()
    }
}

impl Table {
    fn next(&self, image: Arc<MetadataImage>, defaults: &LogConfig) -> Self {
        let mut by_name = HashMap::with_capacity(image.topics.len());
        let mut by_id = HashMap::with_capacity(image.topics.len());
        for (name, info) in &image.topics {
            let topic = match self.by_id.get(&info.id) {
                Some(topic) if Arc::ptr_eq(&topic.info, info) => Arc::clone(topic),
                known => Arc::new(Topic {
                    info: Arc::clone(info),
                    config: settings(info, defaults),
                    counters: known.map(|topic| Arc::clone(&topic.counters)).unwrap_or_default(),
                    partitions: info.partitions.iter().map(|_| OnceLock::new()).collect(),
                }),
            };
            by_name.insert(Arc::clone(name), Arc::clone(&topic));
            by_id.insert(info.id, topic);
        }
        Self { image, by_name, by_id }
    }
}

/// The settings of a topic. They were checked when they were set; one that this version no longer takes counts as not
/// set.
fn settings(info: &TopicInfo, defaults: &LogConfig) -> LogConfig {
    LogConfig::from_settings(&info.configs, defaults).unwrap_or_else(|error| {
        tracing::warn!(topic = %info.name, "topic settings are passed over: {error}");
        defaults.clone()
    })
}
