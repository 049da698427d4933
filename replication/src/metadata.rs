//! The metadata group: brokers, topics, placements, configurations, producer-id blocks.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use uuid::Uuid;

/// A broker of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerInfo {
    /// Node id.
    pub id: i32,
    /// Advertised (listener name, host, port).
    pub endpoints: Vec<(String, String, u16)>,
    /// Rack, if configured.
    pub rack: Option<String>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: Arc<str>,
    /// Its id; new when a topic is created again under the same name.
    pub id: Uuid,
    /// Replicas (node ids) of each partition, the preferred leader first.
    pub partitions: Vec<Vec<i32>>,
    /// Configurations set on the topic, by Kafka's names.
    pub configs: BTreeMap<String, String>,
}

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name; the caller has checked its form.
    pub name: String,
    /// Replicas (node ids) of each partition.
    pub partitions: Vec<Vec<i32>>,
    /// Configurations by Kafka's names; the caller has checked them.
    pub configs: BTreeMap<String, String>,
}

/// Why a topic was not created or deleted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MetadataError {
    /// The name is taken.
    #[error("topic '{0}' already exists")]
    TopicExists(String),
    /// The name differs from a topic's only by `.` and `_`.
    #[error("topic '{0}' collides with '{1}'")]
    NameCollision(String, String),
    /// No such topic.
    #[error("no such topic")]
    UnknownTopic,
    /// The node could not hold it.
    #[error("{0}")]
    Limit(String),
    /// Anything of the group itself.
    #[error(transparent)]
    Replication(#[from] crate::ReplicationError),
}

/// What every node knows of the cluster, immutable; a new one replaces it on each change.
#[derive(Clone, Debug, Default)]
pub struct MetadataImage {
    /// The cluster's id (22 characters, URL-safe base64 of a UUID as Kafka writes it).
    pub cluster_id: String,
    /// Brokers by node id.
    pub brokers: BTreeMap<i32, BrokerInfo>,
    /// Topics by name.
    pub topics: BTreeMap<Arc<str>, Arc<TopicInfo>>,
    /// Topics by id.
    pub topics_by_id: HashMap<Uuid, Arc<TopicInfo>>,
}
