//! The groups and offsets of one partition of `__consumer_offsets`.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    classic::{ClassicGroup, State, Turn},
    deadlines::{Deadline, Deadlines},
    error::{GroupError, RecordError},
    offsets,
    record::{GroupMetadata, Key, Record},
    request::{
        CommittedOffset, JoinGroup, ListGroups, ListedGroup, OffsetCommit, OffsetFetch, OffsetsByTopic,
        Request, Response, Token,
    },
};

/// Longest string that a record can hold.
const MAX_STRING_BYTES: usize = i16::MAX as usize;

/// Longest part of a client id that becomes part of a member id.
const MAX_MEMBER_ID_PREFIX_BYTES: usize = 1024;

/// Most bytes of records of one commit: each repeats the group id, which may be long, and a partition may be named again and again. In
/// Kafka they are one batch, of a megabyte by default.
const MAX_COMMIT_BYTES: usize = 8 << 20;

/// The settings of groups, under Kafka's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`
    pub max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay_ms: i32,
    /// `group.max.size`
    pub max_size: usize,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub offsets_retention_check_interval_ms: i64,
    /// So long a member's first JoinGroup may be held; fixed in Kafka.
    pub new_member_join_timeout_ms: i64,
    /// Largest value of one record.
    pub max_record_bytes: usize,
}

impl Default for GroupConfig {
    /// Kafka's defaults.
    fn default() -> Self {
        Self {
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            max_size: usize::MAX,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: 7 * 24 * 3_600 * 1_000,
            offsets_retention_check_interval_ms: 600_000,
            new_member_join_timeout_ms: 300_000,
            max_record_bytes: 1_000_000,
        }
    }
}

impl Request {
    /// What is answered to a request that is wrong whatever the state of its group. [`Coordinator::handle`] begins with it;
    /// who has to find the coordinator first asks before that, since as in Kafka a client is told so even where the group
    /// is coordinated elsewhere, or is being loaded.
    pub fn refusal(&self, config: &GroupConfig) -> Option<Response> {
        match self {
            Self::JoinGroup(join) => join.check(config).err().map(|error| Response::JoinGroup(Err(error))),
            Self::SyncGroup(sync) if sync.group_id.is_empty() => {
                Some(Response::SyncGroup(Err(GroupError::InvalidGroupId)))
            }
            Self::Heartbeat(heartbeat) if heartbeat.group_id.is_empty() => {
                Some(Response::Heartbeat(Err(GroupError::InvalidGroupId)))
            }
            Self::LeaveGroup(leave) if leave.group_id.is_empty() => {
                Some(Response::LeaveGroup(Err(GroupError::InvalidGroupId)))
            }
            Self::OffsetCommit(commit) if commit.group_id.len() > MAX_STRING_BYTES => {
                Some(Response::OffsetCommit(Err(GroupError::InvalidGroupId)))
            }
            _ => None,
        }
    }
}

impl JoinGroup {
    fn check(&self, config: &GroupConfig) -> Result<(), GroupError> {
        if self.group_id.is_empty() || self.group_id.len() > MAX_STRING_BYTES {
            return Err(GroupError::InvalidGroupId);
        }
        let timeout_ms = self.session_timeout_ms;
        let (min_ms, max_ms) = (config.min_session_timeout_ms, config.max_session_timeout_ms);
        if !(min_ms..=max_ms).contains(&timeout_ms) {
            return Err(GroupError::InvalidSessionTimeout { timeout_ms, min_ms, max_ms });
        }
        Ok(())
    }
}

/// What follows from a request or from the passing of time.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// Records to append, in this order and as one batch.
    pub records: Vec<Record>,
    /// Answers, to this request or to earlier ones that were held. To be sent once `records`, and all that was appended
    /// before them, are committed.
    pub replies: Vec<(Token, Response)>,
}

/// A stored offset with its place, as [`Coordinator::offsets`] lists them.
#[derive(Clone, Copy, Debug)]
pub struct StoredOffset<'a> {
    /// The group.
    pub group_id: &'a Arc<str>,
    /// The topic.
    pub topic: &'a Arc<str>,
    /// The partition.
    pub partition: i32,
    /// What is stored.
    pub committed: &'a CommittedOffset,
}

#[derive(Debug)]
struct Group {
    classic: ClassicGroup,
    offsets: OffsetsByTopic,
}

/// The state machine of one partition of `__consumer_offsets`.
///
/// Every change is in effect at once, in memory; the caller appends the records of each [`Outcome`] in order and sends
/// the answers, those without records too, when everything appended so far is committed. If an append fails, the state
/// is ahead of the log: the caller must drop the coordinator and load a new one.
#[derive(Debug)]
pub struct Coordinator {
    config: GroupConfig,
    groups: BTreeMap<Arc<str>, Group>,
    deadlines: Deadlines,
    live_bytes: usize,
    clock_doubt_ms: i64,
}

impl Coordinator {
    /// A coordinator without groups, to be filled by [`Coordinator::replay`].
    pub fn new(config: GroupConfig) -> Self {
        Self {
            config,
            groups: BTreeMap::new(),
            deadlines: Deadlines::default(),
            live_bytes: 0,
            clock_doubt_ms: 0,
        }
    }

    /// The clock was set: what is timed is timed as if it had not been.
    pub fn clock_was_set(&mut self, by_ms: i64) {
        self.deadlines.shift(by_ms);
    }

    /// From now on offsets expire as if it were so much earlier: the clock may be wrong, and what expires is gone.
    pub fn doubt_clock(&mut self, ms: i64) {
        self.clock_doubt_ms = ms;
    }

    /// Takes up one record of the partition, in order of offset.
    ///
    /// # Errors
    /// [`RecordError`] where it cannot be read; it has no effect then.
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), RecordError> {
        match Key::decode(key)? {
            Key::Offset { group_id, topic, partition } => match value {
                Some(value) => {
                    self.put_offset(&group_id, &topic, partition, CommittedOffset::decode(value)?, 0)
                }
                None => {
                    self.take_offset(&group_id, &topic, partition);
                    self.forget_if_unused(&group_id);
                }
            },
            Key::Group { group_id } => match value {
                Some(value) => {
                    let metadata = GroupMetadata::decode(value)?;
                    metadata.check_distinct()?;
                    let classic =
                        ClassicGroup::load(group_id.clone(), metadata, Bytes::copy_from_slice(value));
                    self.replace_group(&group_id, classic);
                }
                None => {
                    self.replace_group(&group_id, ClassicGroup::new(group_id.clone(), 0));
                    self.forget_if_unused(&group_id);
                }
            },
            Key::Unknown { .. } => {}
        }
        Ok(())
    }

    /// Starts the timeouts once the whole partition was replayed.
    pub fn loaded(&mut self, now_ms: i64) -> Outcome {
        let mut outcome = Outcome::default();
        let turn =
            &mut Turn { now_ms, config: &self.config, deadlines: &mut self.deadlines, outcome: &mut outcome };
        for group in self.groups.values_mut() {
            group.classic.loaded(turn);
        }
        self.schedule_expiry(now_ms);
        outcome
    }

    /// Handles a request. `entropy` makes the member id of a new member.
    pub fn handle(&mut self, request: Request, token: Token, entropy: u128, now_ms: i64) -> Outcome {
        let mut outcome = Outcome::default();
        if let Some(refusal) = request.refusal(&self.config) {
            outcome.replies.push((token, refusal));
            return outcome;
        }
        let response = match request {
            Request::JoinGroup(join) => {
                if let Err(error) = self.join(join, token, entropy, now_ms, &mut outcome) {
                    outcome.replies.push((token, Response::JoinGroup(Err(error))));
                }
                None
            }
            Request::SyncGroup(sync) => match self.member_group(&sync.group_id) {
                Err(error) => Some(Response::SyncGroup(Err(error))),
                Ok(_) => {
                    let group_id = sync.group_id.clone();
                    self.turn(&group_id, now_ms, &mut outcome, |group, turn| group.sync(sync, token, turn));
                    None
                }
            },
            Request::Heartbeat(heartbeat) => {
                let mut result = self.member_group(&heartbeat.group_id).map(|_| ());
                if result.is_ok() {
                    self.turn(&heartbeat.group_id, now_ms, &mut outcome, |group, turn| {
                        result = group.heartbeat(&heartbeat, turn);
                    });
                }
                Some(Response::Heartbeat(result))
            }
            Request::LeaveGroup(leave) => {
                Some(Response::LeaveGroup(match self.member_group(&leave.group_id) {
                    Err(GroupError::UnknownMember) => {
                        Ok(vec![Err(GroupError::UnknownMember); leave.members.len()])
                    }
                    Err(error) => Err(error),
                    Ok(_) => {
                        let mut results = Vec::new();
                        self.turn(&leave.group_id, now_ms, &mut outcome, |group, turn| {
                            results = group.leave(&leave, turn);
                        });
                        self.forget_if_unused(&leave.group_id);
                        Ok(results)
                    }
                }))
            }
            Request::OffsetCommit(commit) => {
                Some(Response::OffsetCommit(self.commit_offsets(&commit, now_ms, &mut outcome)))
            }
            Request::OffsetFetch(fetch) => Some(Response::OffsetFetch(self.fetch_offsets(&fetch))),
            Request::DescribeGroup(group_id) => Some(Response::DescribeGroup(
                self.groups.get(&group_id).map(|group| group.classic.describe()),
            )),
            Request::ListGroups(filter) => Some(Response::ListGroups(self.list(&filter))),
            Request::DeleteGroup(group_id) => {
                Some(Response::DeleteGroup(self.delete(&group_id, &mut outcome)))
            }
        };
        outcome.replies.extend(response.map(|response| (token, response)));
        self.schedule_expiry(now_ms);
        outcome
    }

    /// When [`Coordinator::tick`] has something to do; moves with every call of the others.
    pub fn next_deadline(&self) -> Option<i64> {
        self.deadlines.next()
    }

    /// Does what is due at `now_ms`.
    pub fn tick(&mut self, now_ms: i64) -> Outcome {
        let mut outcome = Outcome::default();
        while let Some(deadline) = self.deadlines.pop(now_ms) {
            match deadline {
                Deadline::Session { group_id, member_id } => {
                    self.turn(&group_id, now_ms, &mut outcome, |group, turn| {
                        group.session_expired(&member_id, turn)
                    });
                    self.forget_if_unused(&group_id);
                }
                Deadline::Join { group_id } => {
                    self.turn(&group_id, now_ms, &mut outcome, |group, turn| group.join_expired(turn));
                }
                Deadline::Sync { group_id } => {
                    self.turn(&group_id, now_ms, &mut outcome, |group, turn| group.sync_expired(turn));
                }
                Deadline::Expiry => self.expire_offsets(now_ms, &mut outcome),
            }
        }
        self.schedule_expiry(now_ms);
        outcome
    }

    /// Removes the offsets of topics that are `gone`, told by name and the id that the topic had at the commit.
    pub fn remove_topics(&mut self, gone: impl Fn(&str, Uuid) -> bool) -> Outcome {
        let mut outcome = Outcome::default();
        let stale: Vec<_> = self
            .offsets()
            .filter(|stored| gone(stored.topic, stored.committed.topic_id))
            .map(|stored| (stored.group_id.clone(), stored.topic.clone(), stored.partition))
            .collect();
        for (group_id, topic, partition) in stale {
            self.remove_offset(&group_id, &topic, partition, &mut outcome);
        }
        outcome
    }

    /// Everything stored, by group, topic and partition.
    pub fn offsets(&self) -> impl Iterator<Item = StoredOffset<'_>> {
        self.groups.iter().flat_map(|(group_id, group)| {
            group.offsets.iter().flat_map(move |(topic, partitions)| {
                partitions.iter().map(move |(&partition, committed)| StoredOffset {
                    group_id,
                    topic,
                    partition,
                    committed,
                })
            })
        })
    }

    /// Each group's number of members.
    pub fn members(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.groups.iter().map(|(group_id, group)| (group_id, group.classic.members()))
    }

    /// Bytes of keys and values that [`Coordinator::snapshot_records`] would give: what a partition without any
    /// superseded record would hold.
    pub fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    /// The whole state as records: replayed into an empty coordinator they give what a replay of the partition gives.
    pub fn snapshot_records(&self) -> impl Iterator<Item = Record> {
        let groups = self.groups.iter().filter_map(|(group_id, group)| {
            let value = group.classic.stored()?.clone();
            Some(Record { key: Key::Group { group_id: group_id.clone() }.encode(), value: Some(value) })
        });
        groups.chain(self.offsets().map(|stored| {
            let (group_id, topic) = (stored.group_id.clone(), stored.topic.clone());
            let key = Key::Offset { group_id, topic, partition: stored.partition }.encode();
            Record { key, value: Some(stored.committed.encode()) }
        }))
    }

    fn join(
        &mut self,
        join: JoinGroup,
        token: Token,
        entropy: u128,
        now_ms: i64,
        outcome: &mut Outcome,
    ) -> Result<(), GroupError> {
        let too_long = |text: &Arc<str>| text.len() > MAX_STRING_BYTES;
        if too_long(&join.protocol_type) || join.protocols.iter().any(|(name, _)| too_long(name)) {
            return Err(GroupError::InconsistentProtocol);
        }
        if too_long(&join.member_id)
            || join.instance_id.as_ref().is_some_and(too_long)
            || too_long(&join.client_id)
        {
            return Err(GroupError::UnknownMember);
        }
        if !self.groups.contains_key(&join.group_id) {
            if !join.member_id.is_empty() {
                return Err(GroupError::UnknownMember);
            }
            let classic = ClassicGroup::new(join.group_id.clone(), now_ms);
            self.groups.insert(join.group_id.clone(), Group { classic, offsets: OffsetsByTopic::new() });
        }
        let group_id = join.group_id.clone();
        let new_member_id = member_id(join.instance_id.as_ref().unwrap_or(&join.client_id), entropy);
        self.turn(&group_id, now_ms, outcome, |group, turn| group.join(join, token, new_member_id, turn));
        self.forget_if_unused(&group_id);
        Ok(())
    }

    fn commit_offsets(
        &mut self,
        commit: &OffsetCommit,
        now_ms: i64,
        outcome: &mut Outcome,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        if self.groups.contains_key(&commit.group_id) {
            let (member_id, instance_id) = (&commit.member_id, commit.instance_id.as_ref());
            let mut allowed = Ok(());
            self.turn(&commit.group_id, now_ms, outcome, |group, turn| {
                allowed = group.check_commit(member_id, instance_id, commit.generation, turn);
            });
            allowed?;
        } else if commit.generation >= 0 {
            return Err(match commit.knows_group_not_found {
                true => GroupError::GroupNotFound,
                false => GroupError::IllegalGeneration { generation: commit.generation },
            });
        }
        let sizes = commit.offsets.iter().map(|partition| {
            offsets::key_bytes(&commit.group_id, &partition.topic) + partition.metadata.len()
        });
        let bytes = sizes.sum();
        if bytes > MAX_COMMIT_BYTES {
            return Err(GroupError::CommitTooLarge { bytes, max_bytes: MAX_COMMIT_BYTES });
        }
        let max_bytes = self.config.offset_metadata_max_bytes.min(MAX_STRING_BYTES);
        let mut results = Vec::with_capacity(commit.offsets.len());
        for partition in &commit.offsets {
            let bytes = partition.metadata.len();
            if bytes > max_bytes {
                results.push(Err(GroupError::OffsetMetadataTooLarge { bytes, max_bytes }));
                continue;
            }
            let committed = CommittedOffset {
                offset: partition.offset,
                leader_epoch: partition.leader_epoch,
                metadata: partition.metadata.clone(),
                commit_timestamp_ms: now_ms,
                expire_timestamp_ms: commit
                    .retention_ms
                    .map(|retention_ms| now_ms.saturating_add(retention_ms)),
                topic_id: partition.topic_id,
            };
            let (group_id, topic) = (commit.group_id.clone(), partition.topic.clone());
            let key = Key::Offset { group_id, topic, partition: partition.partition }.encode();
            outcome.records.push(Record { key, value: Some(committed.encode()) });
            self.put_offset(&commit.group_id, &partition.topic, partition.partition, committed, now_ms);
            results.push(Ok(()));
        }
        Ok(results)
    }

    fn fetch_offsets(&self, fetch: &OffsetFetch) -> OffsetsByTopic {
        let Some(group) = self.groups.get(&fetch.group_id) else { return OffsetsByTopic::new() };
        let Some(topics) = &fetch.topics else { return group.offsets.clone() };
        let mut found = OffsetsByTopic::new();
        for (topic, partitions) in topics {
            let Some(stored) = group.offsets.get(topic) else { continue };
            let wanted =
                partitions.iter().filter_map(|partition| Some((*partition, stored.get(partition)?.clone())));
            found.entry(topic.clone()).or_default().extend(wanted);
        }
        found
    }

    fn list(&self, filter: &ListGroups) -> Vec<ListedGroup> {
        let passes = |filter: &[Arc<str>], name: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
        };
        if !passes(&filter.types, "classic") {
            return Vec::new();
        }
        let passing =
            self.groups.iter().filter(|(_, group)| passes(&filter.states, group.classic.state().name()));
        let listed = passing.map(|(group_id, group)| ListedGroup {
            group_id: group_id.clone(),
            protocol_type: group.classic.protocol_type().cloned().unwrap_or_default(),
            state: group.classic.state(),
        });
        listed.collect()
    }

    fn delete(&mut self, group_id: &Arc<str>, outcome: &mut Outcome) -> Result<(), GroupError> {
        let group = self.groups.get(group_id).ok_or(GroupError::GroupNotFound)?;
        if group.classic.state() != State::Empty {
            return Err(GroupError::NonEmptyGroup);
        }
        let stored: Vec<_> = group
            .offsets
            .iter()
            .flat_map(|(topic, partitions)| {
                partitions.keys().map(move |&partition| (topic.clone(), partition))
            })
            .collect();
        for (topic, partition) in stored {
            self.remove_offset(group_id, &topic, partition, outcome);
        }
        self.remove_group(group_id, outcome);
        Ok(())
    }

    fn expire_offsets(&mut self, now_ms: i64, outcome: &mut Outcome) {
        let now_ms = now_ms - self.clock_doubt_ms;
        let mut expired = Vec::new();
        let mut unused = Vec::new();
        for (group_id, group) in &self.groups {
            let gone =
                offsets::expired(&group.classic, &group.offsets, now_ms, self.config.offsets_retention_ms);
            let stored: usize = group.offsets.values().map(BTreeMap::len).sum();
            if gone.len() == stored && group.classic.is_forgettable() {
                unused.push(group_id.clone());
            }
            expired.extend(gone.into_iter().map(|(topic, partition)| (group_id.clone(), topic, partition)));
        }
        for (group_id, topic, partition) in expired {
            self.remove_offset(&group_id, &topic, partition, outcome);
        }
        for group_id in unused {
            self.remove_group(&group_id, outcome);
        }
    }

    fn schedule_expiry(&mut self, now_ms: i64) {
        if self.groups.is_empty() {
            self.deadlines.cancel(&Deadline::Expiry);
        } else if !self.deadlines.is_set(&Deadline::Expiry) {
            self.deadlines.set(Deadline::Expiry, now_ms + self.config.offsets_retention_check_interval_ms);
        }
    }

    /// The group of a request that only members send.
    fn member_group(&self, group_id: &Arc<str>) -> Result<&Group, GroupError> {
        self.groups.get(group_id).ok_or(GroupError::UnknownMember)
    }

    /// Lets a group act, and keeps count of what it stores.
    fn turn(
        &mut self,
        group_id: &Arc<str>,
        now_ms: i64,
        outcome: &mut Outcome,
        act: impl FnOnce(&mut ClassicGroup, &mut Turn<'_>),
    ) {
        let Some(group) = self.groups.get_mut(group_id) else { return };
        let before = stored_bytes(group_id, &group.classic);
        let turn = &mut Turn { now_ms, config: &self.config, deadlines: &mut self.deadlines, outcome };
        act(&mut group.classic, turn);
        self.live_bytes = self.live_bytes - before + stored_bytes(group_id, &group.classic);
    }

    /// Puts a group that was read in place of what is known of it; its offsets stay.
    fn replace_group(&mut self, group_id: &Arc<str>, classic: ClassicGroup) {
        self.live_bytes += stored_bytes(group_id, &classic);
        match self.groups.get_mut(group_id) {
            Some(group) => {
                self.live_bytes -= stored_bytes(group_id, &group.classic);
                group.classic = classic;
            }
            None => {
                self.groups.insert(group_id.clone(), Group { classic, offsets: OffsetsByTopic::new() });
            }
        }
    }

    fn put_offset(
        &mut self,
        group_id: &Arc<str>,
        topic: &Arc<str>,
        partition: i32,
        committed: CommittedOffset,
        now_ms: i64,
    ) {
        let group = self.groups.entry(group_id.clone()).or_insert_with(|| Group {
            classic: ClassicGroup::new(group_id.clone(), now_ms),
            offsets: OffsetsByTopic::new(),
        });
        let key_bytes = offsets::key_bytes(group_id, topic);
        self.live_bytes += key_bytes + committed.encoded_len();
        if let Some(earlier) = group.offsets.entry(topic.clone()).or_default().insert(partition, committed) {
            self.live_bytes -= key_bytes + earlier.encoded_len();
        }
    }

    fn take_offset(&mut self, group_id: &Arc<str>, topic: &Arc<str>, partition: i32) {
        let Some(group) = self.groups.get_mut(group_id) else { return };
        let Some(partitions) = group.offsets.get_mut(topic) else { return };
        let Some(committed) = partitions.remove(&partition) else { return };
        self.live_bytes -= offsets::key_bytes(group_id, topic) + committed.encoded_len();
        if partitions.is_empty() {
            group.offsets.remove(topic);
        }
    }

    fn remove_offset(
        &mut self,
        group_id: &Arc<str>,
        topic: &Arc<str>,
        partition: i32,
        outcome: &mut Outcome,
    ) {
        self.take_offset(group_id, topic, partition);
        let key = Key::Offset { group_id: group_id.clone(), topic: topic.clone(), partition }.encode();
        outcome.records.push(Record { key, value: None });
    }

    fn remove_group(&mut self, group_id: &Arc<str>, outcome: &mut Outcome) {
        let Some(group) = self.groups.remove(group_id) else { return };
        assert!(group.offsets.is_empty(), "group {group_id} is removed before its offsets");
        group.classic.cancel_deadlines(&mut self.deadlines);
        self.live_bytes -= stored_bytes(group_id, &group.classic);
        if group.classic.stored().is_some() {
            outcome
                .records
                .push(Record { key: Key::Group { group_id: group_id.clone() }.encode(), value: None });
        }
    }

    /// A group that only ever had visitors leaves no trace.
    fn forget_if_unused(&mut self, group_id: &Arc<str>) {
        let unused = |group: &Group| group.offsets.is_empty() && group.classic.is_untouched();
        if self.groups.get(group_id).is_some_and(unused)
            && let Some(group) = self.groups.remove(group_id)
        {
            group.classic.cancel_deadlines(&mut self.deadlines);
        }
    }

    /// Panics where the state contradicts itself.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        for group in self.groups.values() {
            group.classic.check_invariants(&self.deadlines);
            assert!(
                group.offsets.values().all(|partitions| !partitions.is_empty()),
                "a topic without offsets"
            );
        }
        let live_bytes: usize = self.snapshot_records().map(|record| record.size()).sum();
        assert_eq!(live_bytes, self.live_bytes, "bytes of live state");
        assert_eq!(self.deadlines.is_set(&Deadline::Expiry), !self.groups.is_empty(), "expiry is looked for");
    }
}

/// Bytes of a group's own record, if it has one.
fn stored_bytes(group_id: &Arc<str>, classic: &ClassicGroup) -> usize {
    classic.stored().map_or(0, |stored| 4 + group_id.len() + stored.len())
}

/// A member id in Kafka's form: the client's (or static member's) name and a random UUID.
fn member_id(name: &str, entropy: u128) -> Arc<str> {
    let uuid = uuid::Builder::from_random_bytes(entropy.to_be_bytes()).into_uuid();
    let mut end = name.len().min(MAX_MEMBER_ID_PREFIX_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{uuid}", &name[..end]).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{record::MemberMetadata, request::PartitionCommit};

    /// A small request must not become gigabytes of records by the length of its group id.
    #[test]
    fn a_commit_is_bounded_in_bytes() {
        let mut coordinator = Coordinator::new(GroupConfig::default());
        let offset = PartitionCommit {
            topic: "t".into(),
            topic_id: Uuid::from_u128(1),
            partition: 0,
            offset: 5,
            leader_epoch: -1,
            metadata: "".into(),
        };
        for (count, fits) in [(200, true), (300, false)] {
            let commit = OffsetCommit {
                group_id: "g".repeat(MAX_STRING_BYTES).into(),
                member_id: "".into(),
                instance_id: None,
                generation: -1,
                knows_group_not_found: true,
                retention_ms: None,
                offsets: vec![offset.clone(); count],
            };
            let outcome = coordinator.handle(Request::OffsetCommit(commit), Token(1), 0, 0);
            let refused = matches!(
                outcome.replies[..],
                [(_, Response::OffsetCommit(Err(GroupError::CommitTooLarge { .. })))]
            );
            assert_eq!((refused, outcome.records.len()), (!fits, if fits { count } else { 0 }));
        }
    }

    /// What a disk may hold must not end the coordinator: such a record is refused, and the group stays as it was.
    #[test]
    fn a_record_that_names_a_member_twice_is_refused() {
        let member = |id: &str, instance: Option<&str>| MemberMetadata {
            member_id: id.into(),
            instance_id: instance.map(Arc::from),
            client_id: "c".into(),
            client_host: "h".into(),
            rebalance_timeout_ms: 1,
            session_timeout_ms: 1,
            subscription: Bytes::new(),
            assignment: Bytes::new(),
        };
        let value = |members: Vec<MemberMetadata>| {
            let metadata = GroupMetadata {
                protocol_type: "consumer".into(),
                generation: 1,
                protocol: Some("range".into()),
                leader: None,
                state_timestamp_ms: 1,
                members,
            };
            metadata.encode()
        };
        let key = Key::Group { group_id: "g".into() }.encode();
        let mut coordinator = Coordinator::new(GroupConfig::default());
        let good =
            value(vec![member("a", Some("i")), member("b", Some("j")), member("c", None), member("d", None)]);
        coordinator.replay(&key, Some(&good)).unwrap();
        for (twice, id) in [
            (vec![member("a", None), member("a", None)], "a"),
            (vec![member("a", Some("i")), member("b", Some("i"))], "i"),
        ] {
            let refused = coordinator.replay(&key, Some(&value(twice)));
            assert_eq!(refused, Err(RecordError::Duplicate { what: "a group", id: id.into() }));
        }
        assert_eq!(coordinator.members().map(|(_, members)| members).collect::<Vec<_>>(), [4]);
    }
}
