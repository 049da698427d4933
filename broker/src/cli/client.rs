//! A client of a cluster: connections by need, metadata, offsets, coordinators.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    connection::{Connection, ConnectionError, answered, is_retriable},
    failure::{Exit, Failure},
    offset_spec::Bound,
    settings::Settings,
};
use crate::protocol::{
    Request, Str,
    messages::{
        create_topics::{CreatableTopic, CreatableTopicResult, CreateTopicsRequest},
        delete_topics::{DeletableTopicResult, DeleteTopicsRequest},
        find_coordinator::FindCoordinatorRequest,
        list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
        metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataTopic},
        offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup},
    },
};

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TopicPartition {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.topic, self.partition)
    }
}

/// How long one waits before asking again for what should settle by itself.
pub(super) const BACKOFF: Duration = Duration::from_millis(100);

/// How long a broker may take over a change of the cluster.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Timestamps that ListOffsets understands as places.
pub(super) const EARLIEST: i64 = -2;
/// The high watermark.
pub(super) const LATEST: i64 = -1;

/// An answer for each partition.
pub(super) type PerPartition<T> = BTreeMap<TopicPartition, Result<T, Failure>>;

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    settings: Settings,
    connections: Mutex<HashMap<String, Arc<Connection>>>,
    brokers: Mutex<HashMap<i32, String>>,
    leaders: Mutex<HashMap<TopicPartition, i32>>,
}

impl Client {
    /// A client that has found a broker.
    ///
    /// # Errors
    /// No broker answers.
    pub(super) async fn connect(settings: &Settings) -> Result<Arc<Self>, Failure> {
        let client = Self {
            settings: settings.clone(),
            connections: Mutex::default(),
            brokers: Mutex::default(),
            leaders: Mutex::default(),
        };
        client.any().await?;
        Ok(Arc::new(client))
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.settings.timeout_ms)
    }

    /// A connection to any broker: those of the settings, then those learnt of.
    ///
    /// # Errors
    /// None of them answers.
    pub(super) async fn any(&self) -> Result<Arc<Connection>, Failure> {
        if let Some(open) = lock(&self.connections).values().find(|connection| connection.is_open()) {
            return Ok(Arc::clone(open));
        }
        let learnt: Vec<String> = lock(&self.brokers).values().cloned().collect();
        let mut candidates = self.settings.brokers.clone();
        candidates.extend(learnt.into_iter().filter(|address| !self.settings.brokers.contains(address)));
        // all of them together have to fail within the time that one may take
        let share = self.timeout() / u32::try_from(candidates.len()).unwrap_or(1).max(1);
        let mut last = None;
        for address in &candidates {
            match self.open(address, share).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        let failure = match last {
            Some(error) => error.into_failure(),
            None => Failure::usage("--brokers", "no broker is named"),
        };
        if candidates.len() > 1 {
            let message = format!("none of {} answers; the last: {}", candidates.join(", "), failure.message);
            return Err(failure.worded(message));
        }
        Err(failure)
    }

    async fn open(&self, address: &str, limit: Duration) -> Result<Arc<Connection>, ConnectionError> {
        if let Some(open) = lock(&self.connections).get(address).filter(|connection| connection.is_open()) {
            return Ok(Arc::clone(open));
        }
        let mut connection =
            Connection::open(address, &self.settings.client_id, limit.min(self.timeout())).await?;
        connection.set_timeout(self.timeout());
        let connection = Arc::new(connection);
        lock(&self.connections).insert(address.to_owned(), Arc::clone(&connection));
        Ok(connection)
    }

    /// A connection of its own to the same broker, for requests that would hold up others.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) async fn open_another(&self, address: &str) -> Result<Arc<Connection>, Failure> {
        let connection = Connection::open(address, &self.settings.client_id, self.timeout()).await;
        connection.map(Arc::new).map_err(|error| self.unreachable(address, error))
    }

    /// Says which address the cluster advertised, where only that one cannot be reached.
    fn unreachable(&self, address: &str, error: ConnectionError) -> Failure {
        let others_answer = lock(&self.connections)
            .iter()
            .any(|(other, connection)| other != address && connection.is_open());
        match error {
            ConnectionError::Unreachable { reason, .. }
                if others_answer && !self.settings.brokers.iter().any(|broker| broker == address) =>
            {
                Failure::local(
                    Exit::Unreachable,
                    "ADVERTISED_LISTENER_UNREACHABLE",
                    address,
                    format!(
                        "the cluster advertises {address}, which is unreachable from here ({reason}), although {} answers",
                        self.settings.brokers.join(", ")
                    ),
                )
                .hint("start the broker with --advertise PLAINTEXT://HOST:PORT, a name that this machine can resolve")
            }
            other => other.into_failure(),
        }
    }

    /// The address of a broker.
    pub(super) fn address_of(&self, node: i32) -> Option<String> {
        lock(&self.brokers).get(&node).cloned()
    }

    /// The connection to a broker by its number.
    ///
    /// # Errors
    /// It is not known or does not answer.
    pub(super) async fn node(&self, node: i32) -> Result<Arc<Connection>, Failure> {
        let address = self.address_of(node).ok_or_else(|| {
            Failure::local(
                Exit::Unreachable,
                "BROKER_UNKNOWN",
                node.to_string(),
                format!("broker {node} is not in the cluster"),
            )
        })?;
        self.open(&address, self.timeout()).await.map_err(|error| self.unreachable(&address, error))
    }

    /// Asks any broker.
    ///
    /// # Errors
    /// None answers.
    pub(super) async fn ask<R: Request>(&self, request: &R) -> Result<R::Response, Failure> {
        self.any().await?.ask(request).await.map_err(ConnectionError::into_failure)
    }

    /// Asks any broker for a change of the cluster, which may take it [`ADMIN_TIMEOUT`].
    async fn ask_admin<R: Request>(&self, request: &R) -> Result<R::Response, Failure> {
        let connection = self.any().await?;
        connection.ask_held(request, ADMIN_TIMEOUT).await.map_err(ConnectionError::into_failure)
    }

    /// Creates topics, or only checks whether it could; each has its own answer.
    ///
    /// # Errors
    /// No broker answers.
    pub(super) async fn create_topics(
        &self,
        topics: Vec<CreatableTopic>,
        validate_only: bool,
    ) -> Result<Vec<CreatableTopicResult>, Failure> {
        let request = CreateTopicsRequest { topics, timeout_ms: millis(ADMIN_TIMEOUT), validate_only };
        Ok(self.ask_admin(&request).await?.topics)
    }

    /// Creates one topic with the broker's defaults for all but these.
    ///
    /// # Errors
    /// It was not created.
    pub(super) async fn create_topic(&self, name: &str, partitions: i32) -> Result<(), Failure> {
        let topic = CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: -1,
            ..Default::default()
        };
        for answer in self.create_topics(vec![topic], false).await? {
            if answer.error_code != 0 {
                let what = format!("topic '{name}' was not created");
                return Err(answered(answer.error_code, name, &what, answer.error_message.as_deref()));
            }
        }
        Ok(())
    }

    /// Deletes topics; each has its own answer.
    ///
    /// # Errors
    /// No broker answers.
    pub(super) async fn delete_topics<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<DeletableTopicResult>, Failure> {
        let request = DeleteTopicsRequest {
            topic_names: names.into_iter().map(Str::from).collect(),
            timeout_ms: millis(ADMIN_TIMEOUT),
            ..Default::default()
        };
        Ok(self.ask_admin(&request).await?.responses)
    }

    /// Metadata of the named topics (of all without names), as it is answered now. Nothing is created.
    ///
    /// # Errors
    /// No broker answers.
    pub(super) async fn metadata(&self, topics: Option<&[Arc<str>]>) -> Result<MetadataResponse, Failure> {
        let request = MetadataRequest {
            topics: topics.map(|names| {
                names
                    .iter()
                    .map(|name| MetadataRequestTopic { name: Some(Str::from(&**name)), ..Default::default() })
                    .collect()
            }),
            allow_auto_topic_creation: false,
            ..Default::default()
        };
        let response = self.ask(&request).await?;
        let brokers = response
            .brokers
            .iter()
            .map(|broker| (broker.node_id, format!("{}:{}", bracketed(&broker.host), broker.port)))
            .collect();
        *lock(&self.brokers) = brokers;
        Ok(response)
    }

    /// Metadata of topics that must exist.
    ///
    /// # Errors
    /// A topic does not exist, or the cluster does not know it in time.
    async fn topics(&self, names: &[Arc<str>]) -> Result<Vec<MetadataTopic>, Failure> {
        let deadline = Instant::now() + self.timeout();
        loop {
            let topics = self.metadata(Some(names)).await?.topics;
            let Some(unknown) = topics.iter().find(|topic| topic.error_code != 0) else {
                return Ok(topics);
            };
            let name = unknown.name.as_deref().unwrap_or_default();
            let failure = answered(unknown.error_code, name, &format!("topic '{name}'"), None);
            if !is_worth_waiting(&failure) || Instant::now() >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(BACKOFF).await;
        }
    }

    /// The leader of each of these partitions; waits for elections.
    ///
    /// # Errors
    /// A partition does not exist, or has no leader in time.
    pub(super) async fn leaders(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, i32>, Failure> {
        let deadline = Instant::now() + self.timeout();
        loop {
            let leaders = Leaders::new(&self.metadata(Some(&names_of(partitions))).await?.topics);
            let found: Result<HashMap<_, _>, Failure> =
                partitions.iter().map(|partition| Ok((partition.clone(), leaders.of(partition)?))).collect();
            match found {
                Ok(found) => {
                    lock(&self.leaders).extend(found.clone());
                    return Ok(found);
                }
                Err(failure) if !is_worth_waiting(&failure) || Instant::now() >= deadline => {
                    return Err(failure);
                }
                Err(_) => tokio::time::sleep(BACKOFF).await,
            }
        }
    }

    /// The leader of a partition as last learnt.
    pub(super) fn known_leader(&self, partition: &TopicPartition) -> Option<i32> {
        lock(&self.leaders).get(partition).copied()
    }

    /// Forgets a leader that did not answer as one.
    pub(super) fn forget_leader(&self, partition: &TopicPartition) {
        lock(&self.leaders).remove(partition);
    }

    /// All partitions of the topics.
    ///
    /// # Errors
    /// As [`Client::topics`].
    pub(super) async fn partitions(&self, names: &[Arc<str>]) -> Result<Vec<TopicPartition>, Failure> {
        let mut partitions = Vec::new();
        for topic in self.topics(names).await? {
            let name: Arc<str> = topic.name.as_deref().unwrap_or_default().into();
            partitions.extend(topic.partitions.iter().map(|partition| TopicPartition {
                topic: Arc::clone(&name),
                partition: partition.partition_index,
            }));
        }
        partitions.sort();
        Ok(partitions)
    }

    /// ListOffsets of each pair of partition and timestamp ([`EARLIEST`], [`LATEST`] or milliseconds): the offset, -1
    /// where no record is that late.
    ///
    /// # Errors
    /// A partition could not be asked for.
    pub(super) async fn list_offsets(
        &self,
        wanted: &[(TopicPartition, i64)],
    ) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
        self.list_each_offset(wanted)
            .await?
            .into_iter()
            .map(|(partition, offset)| Ok((partition, offset?)))
            .collect()
    }

    /// The same, each partition with an answer of its own. Asks leaders again as long as their answers say so.
    ///
    /// # Errors
    /// No broker answers.
    async fn list_each_offset(&self, wanted: &[(TopicPartition, i64)]) -> Result<PerPartition<i64>, Failure> {
        let deadline = Instant::now() + self.timeout();
        let mut answers = PerPartition::new();
        loop {
            let open: Vec<&(TopicPartition, i64)> = wanted
                .iter()
                .filter(|(partition, _)| match answers.get(partition) {
                    None => true,
                    Some(Ok(_)) => false,
                    Some(Err(failure)) => is_worth_waiting(failure),
                })
                .collect();
            if open.is_empty() || (!answers.is_empty() && Instant::now() >= deadline) {
                return Ok(answers);
            }
            if !answers.is_empty() {
                tokio::time::sleep(BACKOFF).await;
            }
            self.list_offsets_once(&open, &mut answers).await?;
        }
    }

    async fn list_offsets_once(
        &self,
        wanted: &[&(TopicPartition, i64)],
        answers: &mut PerPartition<i64>,
    ) -> Result<(), Failure> {
        let names = names_of(wanted.iter().map(|(partition, _)| partition));
        let leaders = Leaders::new(&self.metadata(Some(&names)).await?.topics);
        let mut by_leader: BTreeMap<i32, BTreeMap<&Arc<str>, Vec<ListOffsetsPartition>>> = BTreeMap::new();
        for (partition, timestamp) in wanted {
            match leaders.of(partition) {
                Ok(leader) => {
                    by_leader.entry(leader).or_default().entry(&partition.topic).or_default().push(
                        ListOffsetsPartition {
                            partition_index: partition.partition,
                            timestamp: *timestamp,
                            ..Default::default()
                        },
                    );
                }
                Err(failure) => drop(answers.insert(partition.clone(), Err(failure))),
            }
        }
        for (leader, topics) in by_leader {
            let asked: Vec<TopicPartition> = topics
                .iter()
                .flat_map(|(topic, partitions)| {
                    partitions.iter().map(|asked| (*topic, asked.partition_index))
                })
                .map(|(topic, partition)| TopicPartition { topic: Arc::clone(topic), partition })
                .collect();
            let request = ListOffsetsRequest {
                topics: topics
                    .into_iter()
                    .map(|(name, partitions)| ListOffsetsTopic { name: Str::from(&**name), partitions })
                    .collect(),
                ..Default::default()
            };
            let response = match self.node(leader).await {
                Ok(node) => node.ask(&request).await.map_err(ConnectionError::into_failure),
                Err(failure) => Err(failure),
            };
            let response = match response {
                Ok(response) => response,
                Err(failure) => {
                    answers.extend(asked.into_iter().map(|partition| (partition, Err(failure.clone()))));
                    continue;
                }
            };
            for topic in response.topics {
                let name: Arc<str> = (&*topic.name).into();
                for partition in topic.partitions {
                    let key =
                        TopicPartition { topic: Arc::clone(&name), partition: partition.partition_index };
                    let answer = match partition.error_code {
                        0 => Ok(partition.offset),
                        code => Err(answered(code, &key.to_string(), &format!("offsets of {key}"), None)),
                    };
                    answers.insert(key, answer);
                }
            }
        }
        Ok(())
    }

    /// Start and end (high watermark) of each partition.
    ///
    /// # Errors
    /// A partition could not be asked for.
    pub(super) async fn watermarks(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, (i64, i64)>, Failure> {
        self.each_watermarks(partitions)
            .await?
            .into_iter()
            .map(|(partition, watermarks)| Ok((partition, watermarks?)))
            .collect()
    }

    /// The same, each partition with an answer of its own.
    ///
    /// # Errors
    /// No broker answers.
    pub(super) async fn each_watermarks(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<PerPartition<(i64, i64)>, Failure> {
        let at = |partition: &TopicPartition, timestamp: i64| (partition.clone(), timestamp);
        let earliest: Vec<_> = partitions.iter().map(|partition| at(partition, EARLIEST)).collect();
        let starts = self.list_each_offset(&earliest).await?;
        let latest: Vec<_> = starts
            .iter()
            .filter(|(_, start)| start.is_ok())
            .map(|(partition, _)| at(partition, LATEST))
            .collect();
        let mut ends = self.list_each_offset(&latest).await?;
        Ok(starts
            .into_iter()
            .map(|(partition, start)| {
                let watermarks = start.and_then(|start| match ends.remove(&partition) {
                    None => Ok((start, start)),
                    Some(end) => Ok((start, end?.max(start))),
                });
                (partition, watermarks)
            })
            .collect())
    }

    /// The offset of a bound in each partition. An exact offset is taken as it is, the others lie inside the log.
    ///
    /// # Errors
    /// As [`Client::list_offsets`].
    pub(super) async fn resolve(
        &self,
        bound: Bound,
        watermarks: &BTreeMap<TopicPartition, (i64, i64)>,
    ) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
        if let Bound::Time(time) = bound {
            let wanted: Vec<_> =
                watermarks.keys().map(|partition| (partition.clone(), time.max(0))).collect();
            let mut found = self.list_offsets(&wanted).await?;
            for (partition, offset) in &mut found {
                if *offset < 0 {
                    *offset = watermarks.get(partition).map_or(0, |(_, end)| *end);
                }
            }
            return Ok(found);
        }
        Ok(watermarks
            .iter()
            .map(|(partition, (start, end))| {
                let offset = match bound {
                    Bound::Start => *start,
                    Bound::End | Bound::Time(_) => *end,
                    Bound::Offset(offset) => offset,
                    Bound::AfterStart(count) => start.saturating_add(count).min(*end),
                    Bound::BeforeEnd(count) => end.saturating_sub(count).max(*start),
                };
                (partition.clone(), offset)
            })
            .collect())
    }

    /// The connection to a group's coordinator; waits while it is being found or loads.
    ///
    /// # Errors
    /// There is none in time.
    pub(super) async fn coordinator(&self, group: &str) -> Result<Arc<Connection>, Failure> {
        let deadline = Instant::now() + self.timeout();
        let request =
            FindCoordinatorRequest { coordinator_keys: vec![Str::from(group)], ..Default::default() };
        loop {
            let response = self.ask(&request).await?;
            let Some(coordinator) = response.coordinators.first() else {
                return Err(answered(15, group, &format!("coordinator of group '{group}'"), None));
            };
            if coordinator.error_code == 0 {
                let address = format!("{}:{}", bracketed(&coordinator.host), coordinator.port);
                lock(&self.brokers).insert(coordinator.node_id, address.clone());
                return self
                    .open(&address, self.timeout())
                    .await
                    .map_err(|error| self.unreachable(&address, error));
            }
            let failure = answered(
                coordinator.error_code,
                group,
                &format!("coordinator of group '{group}'"),
                coordinator.error_message.as_deref(),
            );
            if !is_retriable(coordinator.error_code) || Instant::now() >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(BACKOFF).await;
        }
    }

    /// Asks a group's coordinator; `code` is the answer's error, and as long as it is worth trying again, it is.
    ///
    /// # Errors
    /// No answer in time, or a code that will not go away.
    pub(super) async fn ask_coordinator<R: Request>(
        &self,
        group: &str,
        request: &R,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response, Failure> {
        let deadline = Instant::now() + self.timeout();
        loop {
            let connection = self.coordinator(group).await?;
            let response = connection.ask(request).await.map_err(ConnectionError::into_failure)?;
            match code(&response) {
                0 => return Ok(response),
                code if is_retriable(code) && Instant::now() < deadline => tokio::time::sleep(BACKOFF).await,
                code => return Err(answered(code, group, &format!("group '{group}'"), None)),
            }
        }
    }

    /// What a group has committed.
    ///
    /// # Errors
    /// As [`Client::ask_coordinator`].
    pub(super) async fn committed(&self, group: &str) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
        let request = OffsetFetchRequest {
            groups: vec![OffsetFetchRequestGroup {
                group_id: Str::from(group),
                topics: None,
                ..Default::default()
            }],
            ..Default::default()
        };
        let response = self
            .ask_coordinator(group, &request, |response| {
                response.groups.first().map_or(0, |group| group.error_code)
            })
            .await?;
        let mut committed = BTreeMap::new();
        for topic in response.groups.into_iter().flat_map(|group| group.topics) {
            let name: Arc<str> = (&*topic.name).into();
            for partition in topic.partitions {
                if partition.error_code == 0 && partition.committed_offset >= 0 {
                    let key =
                        TopicPartition { topic: Arc::clone(&name), partition: partition.partition_index };
                    committed.insert(key, partition.committed_offset);
                }
            }
        }
        Ok(committed)
    }
}

/// Whether an error of metadata or offsets goes away by itself. A topic that is not known is not waited for.
fn is_worth_waiting(failure: &Failure) -> bool {
    failure.code.is_some_and(|code| code != 3 && is_retriable(code))
}

fn names_of<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> Vec<Arc<str>> {
    let names: BTreeSet<Arc<str>> =
        partitions.into_iter().map(|partition| Arc::clone(&partition.topic)).collect();
    names.into_iter().collect()
}

/// The error and the leader of each partition of a topic.
type TopicLeaders = HashMap<i32, (i16, i32)>;

/// What metadata says of topics: the error of each, and its partitions.
struct Leaders(HashMap<Arc<str>, (i16, TopicLeaders)>);

impl Leaders {
    fn new(topics: &[MetadataTopic]) -> Self {
        let of = |topic: &MetadataTopic| {
            let partitions = topic.partitions.iter();
            partitions.map(|one| (one.partition_index, (one.error_code, one.leader_id))).collect()
        };
        let name = |topic: &MetadataTopic| topic.name.as_deref().unwrap_or_default().into();
        Self(topics.iter().map(|topic| (name(topic), (topic.error_code, of(topic)))).collect())
    }

    /// The leader of a partition, or why there is none.
    fn of(&self, partition: &TopicPartition) -> Result<i32, Failure> {
        let (code, leader) = match self.0.get(&partition.topic) {
            Some((0, partitions)) => partitions.get(&partition.partition).copied().unwrap_or((3, -1)),
            Some((code, _)) => (*code, -1),
            None => (3, -1),
        };
        match code {
            0 => Ok(leader),
            code => {
                Err(answered(code, &partition.to_string(), &format!("leader of partition {partition}"), None))
            }
        }
    }
}

/// Milliseconds as requests carry them.
pub(super) fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

/// A host as it stands before a port.
pub(super) fn bracketed(host: &str) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
