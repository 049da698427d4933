//! A client of a cluster: connections by need, metadata, offsets, coordinators.

use std::{
    collections::{BTreeMap, HashMap},
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

    /// Metadata of topics that must exist, with a leader for every partition; waits for elections.
    ///
    /// # Errors
    /// A topic does not exist, or has no leader in time.
    pub(super) async fn topics(&self, names: &[Arc<str>]) -> Result<Vec<MetadataTopic>, Failure> {
        let deadline = Instant::now() + self.timeout();
        loop {
            let response = self.metadata(Some(names)).await?;
            let mut waits_for = None;
            for topic in &response.topics {
                let name = topic.name.as_deref().unwrap_or_default();
                let codes = std::iter::once(topic.error_code)
                    .chain(topic.partitions.iter().map(|partition| partition.error_code));
                for code in codes.filter(|code| *code != 0) {
                    let failure = answered(code, name, &format!("topic '{name}'"), None);
                    if code == 3 || !is_retriable(code) {
                        return Err(failure);
                    }
                    waits_for = Some(failure);
                }
            }
            match waits_for {
                None => {
                    lock(&self.leaders).extend(leaders_of(&response.topics));
                    return Ok(response.topics);
                }
                Some(failure) if Instant::now() >= deadline => return Err(failure),
                Some(_) => tokio::time::sleep(BACKOFF).await,
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
    /// where no record is that late. Asks leaders again as long as their answers say so.
    ///
    /// # Errors
    /// A partition could not be asked for.
    pub(super) async fn list_offsets(
        &self,
        wanted: &[(TopicPartition, i64)],
    ) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
        let deadline = Instant::now() + self.timeout();
        let mut found = BTreeMap::new();
        loop {
            let open: Vec<&(TopicPartition, i64)> =
                wanted.iter().filter(|(partition, _)| !found.contains_key(partition)).collect();
            if open.is_empty() {
                return Ok(found);
            }
            match self.list_offsets_once(&open, &mut found).await {
                Ok(()) => {}
                Err(failure) if failure.code.is_none_or(|code| !is_retriable(code)) => return Err(failure),
                Err(failure) if Instant::now() >= deadline => return Err(failure),
                Err(_) => tokio::time::sleep(BACKOFF).await,
            }
        }
    }

    async fn list_offsets_once(
        &self,
        wanted: &[&(TopicPartition, i64)],
        found: &mut BTreeMap<TopicPartition, i64>,
    ) -> Result<(), Failure> {
        let mut names: Vec<Arc<str>> =
            wanted.iter().map(|(partition, _)| Arc::clone(&partition.topic)).collect();
        names.sort();
        names.dedup();
        let leaders = leaders_of(&self.topics(&names).await?);
        let mut by_leader: BTreeMap<i32, BTreeMap<&Arc<str>, Vec<ListOffsetsPartition>>> = BTreeMap::new();
        for (partition, timestamp) in wanted {
            let leader = leaders.get(partition).copied().ok_or_else(|| {
                answered(3, &partition.to_string(), &format!("partition {partition}"), None)
            })?;
            by_leader.entry(leader).or_default().entry(&partition.topic).or_default().push(
                ListOffsetsPartition {
                    partition_index: partition.partition,
                    timestamp: *timestamp,
                    ..Default::default()
                },
            );
        }
        for (leader, topics) in by_leader {
            let request = ListOffsetsRequest {
                topics: topics
                    .into_iter()
                    .map(|(name, partitions)| ListOffsetsTopic { name: Str::from(&**name), partitions })
                    .collect(),
                ..Default::default()
            };
            let response =
                self.node(leader).await?.ask(&request).await.map_err(ConnectionError::into_failure)?;
            for topic in response.topics {
                for partition in topic.partitions {
                    let name: Arc<str> = (&*topic.name).into();
                    let key = TopicPartition { topic: name, partition: partition.partition_index };
                    if partition.error_code != 0 {
                        let what = format!("offsets of {key}");
                        return Err(answered(partition.error_code, &key.to_string(), &what, None));
                    }
                    found.insert(key, partition.offset);
                }
            }
        }
        Ok(())
    }

    /// Start and end (high watermark) of each partition.
    ///
    /// # Errors
    /// As [`Client::list_offsets`].
    pub(super) async fn watermarks(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, (i64, i64)>, Failure> {
        let at = |timestamp: i64| -> Vec<(TopicPartition, i64)> {
            partitions.iter().map(|partition| (partition.clone(), timestamp)).collect()
        };
        let starts = self.list_offsets(&at(EARLIEST)).await?;
        let mut ends = self.list_offsets(&at(LATEST)).await?;
        Ok(starts
            .into_iter()
            .map(|(partition, start)| {
                let end = ends.remove(&partition).unwrap_or(start).max(start);
                (partition, (start, end))
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

/// The leader of each partition.
pub(super) fn leaders_of(topics: &[MetadataTopic]) -> HashMap<TopicPartition, i32> {
    let mut leaders = HashMap::new();
    for topic in topics {
        let name: Arc<str> = topic.name.as_deref().unwrap_or_default().into();
        for partition in &topic.partitions {
            let key = TopicPartition { topic: Arc::clone(&name), partition: partition.partition_index };
            leaders.insert(key, partition.leader_id);
        }
    }
    leaders
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
