//! The metadata group: brokers, topics, placements, configurations, producer-id blocks.
//!
//! Its log is an ordinary one (`__cluster_metadata-0`): record batches whose records have no key and one of these as
//! value, all numbers big-endian, texts and lists with a u32 count in front:
//!
//! ```text
//!  u16 kind | u16 version = 0 | body
//!  1 cluster        text id
//!  2 broker         i32 id, optional text rack, endpoints { text listener, text host, u16 port }
//!  3 topic          text name, id 16, u64 first replica, partitions { replicas { i32 node } }, configs { text, text }
//!  4 topic deleted  id 16
//!  5 producer ids   i64 first id that is still to be given out
//!  6 replicas       u64 first number that is still to be given out
//! ```
//! When the log holds far more records than the state needs, the whole state is appended once more and the log trimmed
//! to where that begins, so that replaying it stays cheap.
//!
//! The image is what the records say, from the first to the last committed. Replicas are numbered through, partition by
//! partition, from the topic's first replica on: a placement's number is never used again.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use log_store::{Log, LogSlice, RecordBatch, ReplicaId, batch::BatchBuilder, compression::Inflater};
use uuid::Uuid;

use crate::{Isolation, Partition, ReplicationError, Waiting};

/// The name under which the group's log lies in the data directory.
pub const METADATA_TOPIC: &str = "__cluster_metadata";
/// Its topic id, Kafka's.
pub const METADATA_TOPIC_ID: Uuid = Uuid::from_u128(1);
/// Its replica on this node.
pub(crate) const METADATA_REPLICA: ReplicaId = ReplicaId(1);
/// The first number for other replicas; those below are for metadata groups.
const FIRST_REPLICA: u64 = 1 << 20;
/// Records of the log from which on it is rewritten, where the state needs far fewer.
pub(crate) const REWRITE_RECORDS: usize = 10_000;
/// Records of a rewritten state in one batch.
pub(crate) const REWRITE_BATCH: usize = 500;
/// Bytes of the log that are read at a time.
const AT_A_TIME: usize = 1 << 20;
/// Producer ids taken with one record.
pub(crate) const PRODUCER_ID_BLOCK: i64 = 1000;

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
    /// More replicas than brokers.
    #[error("replication factor {factor} is larger than the number of brokers, {brokers}")]
    ReplicationFactor {
        /// Replicas wanted.
        factor: usize,
        /// Brokers there are.
        brokers: usize,
    },
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
    /// The first replica of each topic.
    first_replicas: HashMap<Uuid, u64>,
    /// The next number for a replica.
    next_replica: u64,
    /// The first producer id that no block contains.
    pub(crate) next_producer_id: i64,
    /// Offset of the next record of the log that is to be applied.
    pub(crate) next_offset: i64,
}

impl MetadataImage {
    /// The topic whose name differs from `name` only by `.` and `_`, which metrics cannot tell apart.
    pub fn colliding(&self, name: &str) -> Option<&Arc<TopicInfo>> {
        let plain = |name: &str| name.replace('.', "_");
        // most clusters have no such names, and without one of the two characters nothing can collide
        if !name.contains(['.', '_']) {
            return None;
        }
        let wanted = plain(name);
        self.topics.values().find(|topic| &*topic.name != name && plain(&topic.name) == wanted)
    }

    /// The replica of `partition` of a topic on `node`.
    pub(crate) fn replica(&self, topic: &TopicInfo, partition: i32, node: i32) -> Option<ReplicaId> {
        let first = self.first_replicas.get(&topic.id)?;
        let partition = usize::try_from(partition).ok()?;
        let before: usize = topic.partitions.iter().take(partition).map(Vec::len).sum();
        let place = topic.partitions.get(partition)?.iter().position(|replica| *replica == node)?;
        Some(ReplicaId(first + (before + place) as u64))
    }

    /// The number of the next placement.
    pub(crate) fn next_replica(&self) -> u64 {
        self.next_replica.max(FIRST_REPLICA)
    }

    pub(crate) fn apply(&mut self, record: MetadataRecord) {
        match record {
            MetadataRecord::Cluster { id } => self.cluster_id = id,
            MetadataRecord::Broker(broker) => _ = self.brokers.insert(broker.id, broker),
            MetadataRecord::Topic { topic, first_replica } => {
                let replicas: usize = topic.partitions.iter().map(Vec::len).sum();
                self.next_replica = self.next_replica().max(first_replica + replicas as u64);
                self.first_replicas.insert(topic.id, first_replica);
                let topic = Arc::new(topic);
                self.topics.insert(Arc::clone(&topic.name), Arc::clone(&topic));
                self.topics_by_id.insert(topic.id, topic);
            }
            MetadataRecord::TopicDeleted { id } => {
                self.first_replicas.remove(&id);
                if let Some(topic) = self.topics_by_id.remove(&id) {
                    self.topics.remove(&topic.name);
                }
            }
            MetadataRecord::ProducerIds { next } => self.next_producer_id = self.next_producer_id.max(next),
            MetadataRecord::Replicas { next } => self.next_replica = self.next_replica().max(next),
        }
    }

    /// What a log says whose group is not open yet.
    ///
    /// # Errors
    /// As [`MetadataImage::catch_up`].
    pub(crate) fn of(log: &Log) -> Result<Self, ReplicationError> {
        let mut image = Self { next_offset: log.log_start(), ..Self::default() };
        let end = log.next_offset();
        while image.next_offset < end {
            let read = log.read(image.next_offset, AT_A_TIME, true, end, Waiting::ForDisk)?;
            if read.slices.is_empty() {
                break;
            }
            image.apply_slices(read.slices)?;
        }
        Ok(image)
    }

    /// Applies what the group committed since.
    ///
    /// # Errors
    /// The log cannot be read, or holds what this version does not know.
    pub(crate) fn catch_up(&mut self, partition: &Partition) -> Result<(), ReplicationError> {
        self.next_offset = self.next_offset.max(partition.offsets()?.log_start);
        loop {
            let read = partition.read(
                self.next_offset,
                AT_A_TIME,
                true,
                Isolation::ReadUncommitted,
                Waiting::ForDisk,
            )?;
            if read.slices.is_empty() {
                return Ok(());
            }
            self.apply_slices(read.slices)?;
        }
    }

    fn apply_slices(&mut self, slices: Vec<LogSlice>) -> Result<(), ReplicationError> {
        for slice in slices {
            let mut bytes = slice_bytes(slice)?;
            while let Some(batch) = RecordBatch::take_first(&mut bytes).map_err(unreadable)? {
                self.apply_batch(&batch)?;
            }
        }
        Ok(())
    }

    /// How many records say all of it.
    fn live_records(&self) -> usize {
        3 + self.brokers.len() + self.topics.len()
    }

    /// Whether the log, which begins at `log_start`, should be rewritten.
    pub(crate) fn wants_rewrite(&self, log_start: i64) -> bool {
        let records = usize::try_from(self.next_offset - log_start).unwrap_or(0);
        records >= REWRITE_RECORDS.max(4 * self.live_records())
    }

    /// All of it as records.
    pub(crate) fn to_records(&self) -> Vec<MetadataRecord> {
        let mut records = vec![
            MetadataRecord::Cluster { id: self.cluster_id.clone() },
            MetadataRecord::Replicas { next: self.next_replica() },
            MetadataRecord::ProducerIds { next: self.next_producer_id },
        ];
        records.extend(self.brokers.values().cloned().map(MetadataRecord::Broker));
        records.extend(self.topics.values().map(|topic| MetadataRecord::Topic {
            topic: (**topic).clone(),
            first_replica: self.first_replicas.get(&topic.id).copied().unwrap_or(FIRST_REPLICA),
        }));
        records
    }

    fn apply_batch(&mut self, batch: &RecordBatch) -> Result<(), ReplicationError> {
        if batch.next_offset() <= self.next_offset {
            return Ok(());
        }
        let mut inflater = Inflater::default();
        for record in batch.records_in(&mut inflater).map_err(unreadable)? {
            let record = record.map_err(unreadable)?;
            if record.offset < self.next_offset {
                continue;
            }
            let value = record.value.unwrap_or_default();
            self.apply(MetadataRecord::decode(value).map_err(unreadable)?);
        }
        self.next_offset = batch.next_offset();
        Ok(())
    }
}

/// The bytes of a slice, read from the file where they are not in memory.
fn slice_bytes(slice: LogSlice) -> Result<Bytes, ReplicationError> {
    match slice {
        LogSlice::Bytes(bytes) => Ok(bytes),
        LogSlice::File { file, position, len } => {
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, position).map_err(unreadable)?;
            Ok(Bytes::from(bytes))
        }
    }
}

fn unreadable(error: impl std::fmt::Display) -> ReplicationError {
    ReplicationError::Storage(format!("{METADATA_TOPIC}-0: {error}"))
}

/// A record of the metadata log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MetadataRecord {
    /// The cluster's id.
    Cluster { id: String },
    /// A broker, or its new description.
    Broker(BrokerInfo),
    /// A topic was created.
    Topic { topic: TopicInfo, first_replica: u64 },
    /// A topic was deleted.
    TopicDeleted { id: Uuid },
    /// Producer ids below are given out.
    ProducerIds { next: i64 },
    /// Numbers of replicas below are given out.
    Replicas { next: u64 },
}

const VERSION: u16 = 0;

impl MetadataRecord {
    /// One batch with all of them.
    pub(crate) fn batch(records: &[Self], now_ms: i64) -> RecordBatch {
        let mut batch = BatchBuilder::default();
        for record in records {
            batch.append(now_ms, None, Some(&record.encode()), &[]);
        }
        batch.build()
    }

    fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(128);
        out.put_u16(match self {
            Self::Cluster { .. } => 1,
            Self::Broker(_) => 2,
            Self::Topic { .. } => 3,
            Self::TopicDeleted { .. } => 4,
            Self::ProducerIds { .. } => 5,
            Self::Replicas { .. } => 6,
        });
        out.put_u16(VERSION);
        match self {
            Self::Cluster { id } => put_text(&mut out, id),
            Self::Broker(broker) => {
                out.put_i32(broker.id);
                out.put_u8(broker.rack.is_some().into());
                put_text(&mut out, broker.rack.as_deref().unwrap_or_default());
                out.put_u32(broker.endpoints.len() as u32);
                for (listener, host, port) in &broker.endpoints {
                    put_text(&mut out, listener);
                    put_text(&mut out, host);
                    out.put_u16(*port);
                }
            }
            Self::Topic { topic, first_replica } => {
                put_text(&mut out, &topic.name);
                out.put_slice(topic.id.as_bytes());
                out.put_u64(*first_replica);
                out.put_u32(topic.partitions.len() as u32);
                for replicas in &topic.partitions {
                    out.put_u32(replicas.len() as u32);
                    for replica in replicas {
                        out.put_i32(*replica);
                    }
                }
                out.put_u32(topic.configs.len() as u32);
                for (name, value) in &topic.configs {
                    put_text(&mut out, name);
                    put_text(&mut out, value);
                }
            }
            Self::TopicDeleted { id } => out.put_slice(id.as_bytes()),
            Self::ProducerIds { next } => out.put_i64(*next),
            Self::Replicas { next } => out.put_u64(*next),
        }
        out
    }

    fn decode(mut bytes: &[u8]) -> io::Result<Self> {
        let bytes = &mut bytes;
        let kind = bytes.try_get_u16()?;
        let version = bytes.try_get_u16()?;
        if version != VERSION {
            return Err(malformed(format!(
                "record {kind} of version {version}, this binary reads {VERSION}"
            )));
        }
        let record = match kind {
            1 => Self::Cluster { id: get_text(bytes)? },
            2 => {
                let id = bytes.try_get_i32()?;
                let has_rack = bytes.try_get_u8()? != 0;
                let rack = get_text(bytes)?;
                let endpoints = get_list(bytes, 10, |bytes| {
                    Ok((get_text(bytes)?, get_text(bytes)?, bytes.try_get_u16()?))
                })?;
                Self::Broker(BrokerInfo { id, endpoints, rack: has_rack.then_some(rack) })
            }
            3 => {
                let name = Arc::from(get_text(bytes)?);
                let id = get_uuid(bytes)?;
                let first_replica = bytes.try_get_u64()?;
                let partitions =
                    get_list(bytes, 4, |bytes| get_list(bytes, 4, |bytes| Ok(bytes.try_get_i32()?)))?;
                let configs = get_list(bytes, 8, |bytes| Ok((get_text(bytes)?, get_text(bytes)?)))?;
                let configs = configs.into_iter().collect();
                Self::Topic { topic: TopicInfo { name, id, partitions, configs }, first_replica }
            }
            4 => Self::TopicDeleted { id: get_uuid(bytes)? },
            5 => Self::ProducerIds { next: bytes.try_get_i64()? },
            6 => Self::Replicas { next: bytes.try_get_u64()? },
            _ => return Err(malformed(format!("record of kind {kind}, which this binary does not know"))),
        };
        match bytes.is_empty() {
            true => Ok(record),
            false => Err(malformed(format!("{} bytes behind a record of kind {kind}", bytes.len()))),
        }
    }
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u32(text.len() as u32);
    out.put_slice(text.as_bytes());
}

fn get_text(bytes: &mut &[u8]) -> io::Result<String> {
    let len = bytes.try_get_u32()? as usize;
    let (text, rest) =
        bytes.split_at_checked(len).ok_or_else(|| malformed(format!("a text of {len} bytes")))?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).map_err(|error| malformed(error.to_string()))
}

fn get_uuid(bytes: &mut &[u8]) -> io::Result<Uuid> {
    Ok(Uuid::from_u128(bytes.try_get_u128()?))
}

/// A list whose elements have at least `element` bytes each.
fn get_list<T>(
    bytes: &mut &[u8],
    element: usize,
    mut get: impl FnMut(&mut &[u8]) -> io::Result<T>,
) -> io::Result<Vec<T>> {
    let count = bytes.try_get_u32()? as usize;
    if count > bytes.len() / element {
        return Err(malformed(format!("{count} elements in {} bytes", bytes.len())));
    }
    (0..count).map(|_| get(bytes)).collect()
}

fn malformed(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, id: u128) -> TopicInfo {
        TopicInfo {
            name: Arc::from(name),
            id: Uuid::from_u128(id),
            partitions: vec![vec![1, 2], vec![2, 1], vec![1, 3]],
            configs: BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]),
        }
    }

    #[test]
    fn records_survive_their_encoding() {
        let records = [
            MetadataRecord::Cluster { id: "abc".to_owned() },
            MetadataRecord::Broker(BrokerInfo {
                id: 7,
                endpoints: vec![("PLAINTEXT".to_owned(), "host".to_owned(), 9092)],
                rack: Some(String::new()),
            }),
            MetadataRecord::Topic { topic: topic("a", 5), first_replica: 9 },
            MetadataRecord::TopicDeleted { id: Uuid::from_u128(5) },
            MetadataRecord::ProducerIds { next: 4000 },
            MetadataRecord::Replicas { next: 4000 },
        ];
        for record in records {
            let bytes = record.encode();
            assert_eq!(MetadataRecord::decode(&bytes).unwrap(), record);
            for len in 0..bytes.len() {
                assert!(MetadataRecord::decode(&bytes[..len]).is_err(), "{record:?} cut to {len}");
            }
        }
    }

    #[test]
    fn the_image_numbers_placements_through_and_never_again() {
        let mut image = MetadataImage::default();
        let first = image.next_replica();
        image.apply(MetadataRecord::Topic { topic: topic("a", 5), first_replica: first });
        let a = Arc::clone(&image.topics["a"]);
        assert_eq!(image.replica(&a, 0, 1), Some(ReplicaId(first)));
        assert_eq!(image.replica(&a, 1, 1), Some(ReplicaId(first + 3)));
        assert_eq!(image.replica(&a, 2, 3), Some(ReplicaId(first + 5)));
        assert_eq!(image.replica(&a, 2, 2), None);
        assert_eq!(image.replica(&a, 3, 1), None);
        image.apply(MetadataRecord::TopicDeleted { id: a.id });
        assert!(image.topics.is_empty() && image.topics_by_id.is_empty());
        assert_eq!(image.next_replica(), first + 6);
    }

    #[test]
    fn a_rewritten_log_says_the_same() {
        let mut image = MetadataImage::default();
        image.apply(MetadataRecord::Cluster { id: "abc".to_owned() });
        image.apply(MetadataRecord::Topic { topic: topic("a", 5), first_replica: 1 << 21 });
        image.apply(MetadataRecord::Topic { topic: topic("b", 6), first_replica: (1 << 21) + 6 });
        image.apply(MetadataRecord::TopicDeleted { id: Uuid::from_u128(6) });
        image.apply(MetadataRecord::ProducerIds { next: 7000 });
        let mut again = MetadataImage::default();
        image.to_records().into_iter().for_each(|record| again.apply(record));
        assert_eq!(format!("{image:?}"), format!("{again:?}"));
        assert!(!image.wants_rewrite(0));
        image.next_offset = 10_100;
        assert!(image.wants_rewrite(0) && !image.wants_rewrite(9_000));
    }

    /// Proves: A3.
    #[test]
    fn names_collide_by_dot_and_underscore() {
        let mut image = MetadataImage::default();
        image.apply(MetadataRecord::Topic { topic: topic("a.b", 5), first_replica: 1 });
        assert_eq!(image.colliding("a_b").map(|topic| &*topic.name), Some("a.b"));
        assert!(image.colliding("a.b").is_none(), "the same name is no collision");
        assert!(image.colliding("ab").is_none());
    }
}
