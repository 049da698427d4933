//! A member of a consumer group (the classic protocol): join, sync, heartbeats, commits, leave; range assignment.
//!
//! The consumer protocol's own bytes, which the group protocol carries without looking into them:
//!
//! ```text
//! subscription  version, [topic], user data (nullable)        assignment  version, [topic, [partition]], user data
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use super::{
    client::{BACKOFF, Client, TopicPartition, millis},
    connection::{ConnectionError, answered, is_retriable},
    failure::Failure,
    group::commit_topics,
};
use crate::protocol::{
    Str,
    messages::{
        heartbeat::HeartbeatRequest,
        join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse},
        leave_group::{LeaveGroupRequest, MemberIdentity},
        offset_commit::OffsetCommitRequest,
        sync_group::{SyncGroupRequest, SyncGroupRequestAssignment},
    },
};

const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
const REBALANCE_TIMEOUT: Duration = Duration::from_secs(60);
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);

const REBALANCE_IN_PROGRESS: i16 = 27;
const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER: i16 = 25;
const MEMBER_ID_REQUIRED: i16 = 79;

/// Whether the group goes on, as heartbeats find out.
#[derive(Clone, Debug, Default)]
enum Pulse {
    #[default]
    Steady,
    /// The member has to join again.
    Rejoin,
    Lost(Failure),
}

/// A member.
pub(super) struct GroupMember {
    client: Arc<Client>,
    group: String,
    topics: Vec<Arc<str>>,
    member: Str,
    instance: Option<Str>,
    generation: i32,
    pulse: watch::Receiver<Pulse>,
    heart: Option<JoinHandle<()>>,
}

impl Drop for GroupMember {
    fn drop(&mut self) {
        if let Some(heart) = &self.heart {
            heart.abort();
        }
    }
}

impl GroupMember {
    /// A member that has not joined yet.
    pub(super) fn new(client: Arc<Client>, group: &str, topics: Vec<Arc<str>>) -> Self {
        Self {
            client,
            group: group.to_owned(),
            topics,
            member: Str::default(),
            instance: None,
            generation: -1,
            pulse: watch::channel(Pulse::Steady).1,
            heart: None,
        }
    }

    /// Makes it a static member (KIP-345): it takes the place of its earlier self, for which nobody has to wait.
    pub(super) fn known_as(mut self, instance: &'static str) -> Self {
        self.instance = Some(Str::from_static(instance));
        self
    }

    /// Joins (again) and gives what this member now owns.
    ///
    /// # Errors
    /// The group refuses it, or its coordinator cannot be found.
    pub(super) async fn join(&mut self) -> Result<Vec<TopicPartition>, Failure> {
        if let Some(heart) = self.heart.take() {
            heart.abort();
        }
        let mut patience = Instant::now() + Duration::from_secs(30);
        loop {
            match self.try_join().await {
                Ok(assignment) => return Ok(assignment),
                Err(failure) => match failure.code {
                    Some(UNKNOWN_MEMBER | ILLEGAL_GENERATION) => self.member = Str::default(),
                    Some(MEMBER_ID_REQUIRED) => continue,
                    Some(REBALANCE_IN_PROGRESS) => patience = Instant::now() + Duration::from_secs(30),
                    Some(code) if !is_retriable(code) => return Err(failure),
                    _ if Instant::now() >= patience => return Err(failure),
                    _ => tokio::time::sleep(BACKOFF).await,
                },
            }
        }
    }

    async fn try_join(&mut self) -> Result<Vec<TopicPartition>, Failure> {
        let coordinator = self.client.coordinator(&self.group).await?;
        // a join may be held for a whole rebalance: it has a connection of its own
        let connection = self.client.open_another(coordinator.address()).await?;
        let request = JoinGroupRequest {
            group_id: Str::from(self.group.as_str()),
            session_timeout_ms: millis(SESSION_TIMEOUT),
            rebalance_timeout_ms: millis(REBALANCE_TIMEOUT),
            member_id: self.member.clone(),
            group_instance_id: self.instance.clone(),
            protocol_type: Str::from_static("consumer"),
            protocols: vec![JoinGroupRequestProtocol {
                name: Str::from_static("range"),
                metadata: encode_subscription(&self.topics),
            }],
            ..Default::default()
        };
        let joined =
            connection.ask_held(&request, REBALANCE_TIMEOUT).await.map_err(ConnectionError::into_failure)?;
        if joined.error_code == MEMBER_ID_REQUIRED {
            self.member = joined.member_id.clone();
        }
        self.check(joined.error_code)?;
        self.member = joined.member_id.clone();
        self.generation = joined.generation_id;
        let assignments = match joined.leader == joined.member_id {
            true => self.assign(&joined).await?,
            false => Vec::new(),
        };
        let request = SyncGroupRequest {
            group_id: Str::from(self.group.as_str()),
            generation_id: self.generation,
            member_id: self.member.clone(),
            protocol_type: Some(Str::from_static("consumer")),
            protocol_name: Some(Str::from_static("range")),
            assignments,
            ..Default::default()
        };
        let synced =
            connection.ask_held(&request, REBALANCE_TIMEOUT).await.map_err(ConnectionError::into_failure)?;
        self.check(synced.error_code)?;
        self.start_heart();
        Ok(decode_assignment(&synced.assignment))
    }

    fn check(&self, code: i16) -> Result<(), Failure> {
        match code {
            0 => Ok(()),
            code => Err(answered(code, &self.group, &format!("group '{}'", self.group), None)),
        }
    }

    /// What the leader gives to each member.
    async fn assign(&self, joined: &JoinGroupResponse) -> Result<Vec<SyncGroupRequestAssignment>, Failure> {
        let members: BTreeMap<String, Vec<Arc<str>>> = joined
            .members
            .iter()
            .map(|member| (member.member_id.to_string(), decode_subscription(&member.metadata)))
            .collect();
        let wanted: BTreeSet<Arc<str>> = members.values().flatten().cloned().collect();
        let names: Vec<Arc<str>> = wanted.into_iter().collect();
        let mut partitions: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
        for topic in self.client.metadata(Some(&names)).await?.topics {
            let mut numbers: Vec<i32> =
                topic.partitions.iter().map(|partition| partition.partition_index).collect();
            numbers.sort_unstable();
            partitions.insert(topic.name.as_deref().unwrap_or_default().into(), numbers);
        }
        Ok(assign_ranges(&members, &partitions)
            .into_iter()
            .map(|(member, owned)| SyncGroupRequestAssignment {
                member_id: Str::from(member),
                assignment: encode_assignment(&owned),
            })
            .collect())
    }

    fn start_heart(&mut self) {
        let (sender, pulse) = watch::channel(Pulse::Steady);
        self.pulse = pulse;
        let client = Arc::clone(&self.client);
        let group = self.group.clone();
        let request = HeartbeatRequest {
            group_id: Str::from(self.group.as_str()),
            generation_id: self.generation,
            member_id: self.member.clone(),
            ..Default::default()
        };
        self.heart = Some(tokio::spawn(async move {
            loop {
                tokio::time::sleep(HEARTBEAT_INTERVAL).await;
                let code = match client.coordinator(&group).await {
                    Ok(connection) => match connection.ask(&request).await {
                        Ok(response) => response.error_code,
                        // the broker may be on its way back
                        Err(_) => continue,
                    },
                    Err(_) => continue,
                };
                let pulse = match code {
                    0 => continue,
                    REBALANCE_IN_PROGRESS | ILLEGAL_GENERATION | UNKNOWN_MEMBER => Pulse::Rejoin,
                    code if is_retriable(code) => continue,
                    code => Pulse::Lost(answered(code, &group, &format!("group '{group}'"), None)),
                };
                // the member may be gone
                let _ = sender.send(pulse);
                return;
            }
        }));
    }

    /// Waits until the member has to join again. Cancel-safe.
    ///
    /// # Errors
    /// The group refuses the member for good.
    pub(super) async fn disturbed(&self) -> Result<(), Failure> {
        let mut pulse = self.pulse.clone();
        loop {
            match &*pulse.borrow_and_update() {
                Pulse::Steady => {}
                Pulse::Rejoin => return Ok(()),
                Pulse::Lost(failure) => return Err(failure.clone()),
            }
            if pulse.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Commits; a rebalance that has begun is no error here, what was not committed is read again by the next owner.
    ///
    /// # Errors
    /// The coordinator refuses it.
    pub(super) async fn commit(&self, offsets: &BTreeMap<TopicPartition, i64>) -> Result<bool, Failure> {
        if offsets.is_empty() {
            return Ok(true);
        }
        let request = OffsetCommitRequest {
            group_id: Str::from(self.group.as_str()),
            generation_id_or_member_epoch: self.generation,
            member_id: self.member.clone(),
            topics: commit_topics(offsets),
            ..Default::default()
        };
        let code = |code: i16| match code {
            ILLEGAL_GENERATION | UNKNOWN_MEMBER => 0,
            code => code,
        };
        let response = self
            .client
            .ask_coordinator(&self.group, &request, |response| {
                let mut codes = response
                    .topics
                    .iter()
                    .flat_map(|topic| &topic.partitions)
                    .map(|partition| code(partition.error_code));
                codes.find(|code| *code != 0 && *code != REBALANCE_IN_PROGRESS).unwrap_or(0)
            })
            .await?;
        Ok(response
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .all(|partition| partition.error_code == 0))
    }

    /// Leaves the group where it has joined, so that others take over at once.
    pub(super) async fn leave(mut self) {
        if let Some(heart) = self.heart.take() {
            heart.abort();
        }
        if self.member.is_empty() {
            return;
        }
        let request = LeaveGroupRequest {
            group_id: Str::from(self.group.as_str()),
            members: vec![MemberIdentity { member_id: self.member.clone(), ..Default::default() }],
            ..Default::default()
        };
        if let Ok(connection) = self.client.coordinator(&self.group).await {
            // without an answer the session times out, to the same effect
            let _ = connection.ask(&request).await;
        }
    }
}

/// Of each topic, consecutive partitions to each member that wants it, in the order of their ids; the first members get
/// one more where they do not divide evenly.
fn assign_ranges(
    members: &BTreeMap<String, Vec<Arc<str>>>,
    partitions: &BTreeMap<Arc<str>, Vec<i32>>,
) -> BTreeMap<String, Vec<TopicPartition>> {
    let mut owned: BTreeMap<String, Vec<TopicPartition>> =
        members.keys().map(|member| (member.clone(), Vec::new())).collect();
    for (topic, numbers) in partitions {
        let takers: Vec<&String> =
            members.iter().filter(|(_, topics)| topics.contains(topic)).map(|(member, _)| member).collect();
        if takers.is_empty() {
            continue;
        }
        let (share, more) = (numbers.len() / takers.len(), numbers.len() % takers.len());
        let mut rest = numbers.iter();
        for (index, member) in takers.into_iter().enumerate() {
            let count = share + usize::from(index < more);
            let own = rest
                .by_ref()
                .take(count)
                .map(|partition| TopicPartition { topic: Arc::clone(topic), partition: *partition });
            owned.entry(member.clone()).or_default().extend(own);
        }
    }
    owned
}

fn put_string(into: &mut BytesMut, text: &str) {
    into.put_i16(i16::try_from(text.len()).unwrap_or(i16::MAX));
    into.put_slice(text.as_bytes());
}

fn encode_subscription(topics: &[Arc<str>]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(i32::try_from(topics.len()).unwrap_or(0));
    for topic in topics {
        put_string(&mut bytes, topic);
    }
    bytes.put_i32(-1);
    bytes.freeze()
}

fn take_string(bytes: &mut Bytes) -> Option<Arc<str>> {
    let length = usize::try_from(bytes.try_get_i16().ok()?).ok()?;
    if bytes.len() < length {
        return None;
    }
    std::str::from_utf8(&bytes.split_to(length)).ok().map(Into::into)
}

/// The topics of a subscription; none where it cannot be read.
fn decode_subscription(bytes: &Bytes) -> Vec<Arc<str>> {
    let read = || {
        let mut bytes = bytes.clone();
        bytes.try_get_i16().ok()?;
        let count = bytes.try_get_i32().ok()?;
        (0..count).map(|_| take_string(&mut bytes)).collect::<Option<Vec<_>>>()
    };
    read().unwrap_or_default()
}

fn encode_assignment(owned: &[TopicPartition]) -> Bytes {
    let mut topics: BTreeMap<&Arc<str>, Vec<i32>> = BTreeMap::new();
    for partition in owned {
        topics.entry(&partition.topic).or_default().push(partition.partition);
    }
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(i32::try_from(topics.len()).unwrap_or(0));
    for (topic, partitions) in topics {
        put_string(&mut bytes, topic);
        bytes.put_i32(i32::try_from(partitions.len()).unwrap_or(0));
        partitions.into_iter().for_each(|partition| bytes.put_i32(partition));
    }
    bytes.put_i32(-1);
    bytes.freeze()
}

/// The partitions of an assignment; none where it cannot be read.
pub(super) fn decode_assignment(bytes: &Bytes) -> Vec<TopicPartition> {
    let read = || {
        let mut bytes = bytes.clone();
        let mut owned = Vec::new();
        bytes.try_get_i16().ok()?;
        for _ in 0..bytes.try_get_i32().ok()? {
            let topic = take_string(&mut bytes)?;
            for _ in 0..bytes.try_get_i32().ok()? {
                let partition = bytes.try_get_i32().ok()?;
                owned.push(TopicPartition { topic: Arc::clone(&topic), partition });
            }
        }
        Some(owned)
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition { topic: topic.into(), partition }
    }

    #[test]
    fn ranges_are_consecutive_and_complete() {
        let members = BTreeMap::from([
            ("a".to_owned(), vec!["t".into(), "u".into()]),
            ("b".to_owned(), vec!["t".into()]),
        ]);
        let partitions = BTreeMap::from([("t".into(), vec![0, 1, 2, 3, 4]), ("u".into(), vec![0])]);
        let owned = assign_ranges(&members, &partitions);
        assert_eq!(owned["a"], [partition("t", 0), partition("t", 1), partition("t", 2), partition("u", 0)]);
        assert_eq!(owned["b"], [partition("t", 3), partition("t", 4)]);
    }

    #[test]
    fn consumer_protocol_round_trips_and_survives_garbage() {
        let topics: Vec<Arc<str>> = vec!["orders".into(), "payments".into()];
        assert_eq!(decode_subscription(&encode_subscription(&topics)), topics);
        let owned = vec![partition("orders", 0), partition("orders", 5), partition("payments", 1)];
        let bytes = encode_assignment(&owned);
        assert_eq!(decode_assignment(&bytes), owned);
        for cut in 0..bytes.len() - 4 {
            assert!(decode_assignment(&bytes.slice(..cut)).is_empty());
        }
        assert!(decode_assignment(&Bytes::from_static(&[0, 0, 0x7f, 0xff, 0xff, 0xff])).is_empty());
    }
}
