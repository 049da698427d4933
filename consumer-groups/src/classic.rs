//! A group of the classic protocol: its members agree on a generation and a leader through JoinGroup, and the leader
//! hands out the assignment through SyncGroup.
//!
//! ```text
//!            join                        all joined, or the rebalance timeout
//!   Empty ---------> PreparingRebalance ------------------------------------> CompletingRebalance
//!     ^                 |   ^      ^                                             |            |
//!     +-----------------+   |      +--- join, leave, session or sync timeout ----+            | the leader syncs
//!        nobody joined      |                                                                 v
//!                           +---- join, leave, session timeout ------------------------- Stable
//! ```
//! A deleted or expired group is forgotten; `Dead` is what DescribeGroups says of a group that is not known.
//!
//! Invariants: a generation has one assignment, given by its leader; a member is removed only by leaving, by silence for
//! its session timeout, by not joining or not syncing within the rebalance timeout, or by its static successor; every
//! held JoinGroup and SyncGroup is answered exactly once, at the latest when its member goes.
//!
//! Source: KIP-62, 134 (initial delay), 345 (static members), 394 (member ids), 814 (skip assignment), and the behaviour
//! of Kafka 4.3.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    GroupConfig, GroupError, Outcome,
    deadlines::{Deadline, Deadlines},
    record::{GroupMetadata, Key, MemberMetadata, Record, subscribed_topics},
    request::{
        GroupDescription, Heartbeat, JoinGroup, JoinedGroup, JoinedMember, LeaveGroup, LeavingMember,
        MemberDescription, Rebalance, RebalanceCause, Response, SyncGroup, SyncedGroup, Token,
    },
};

/// So many rebalances are remembered per group.
const REBALANCES_KEPT: usize = 50;
/// The protocols of a member are kept in memory, all of them; together they are no larger than so many that could be
/// stored. Nothing else bounds them.
const LARGE_PROTOCOLS: usize = 4;
/// Where nobody joined, so long at least until it is looked at again: clients may allow themselves no time at all.
const SHORTEST_WAIT_MS: i64 = 1_000;

/// The state of a group; displayed as Kafka writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No members; perhaps offsets.
    Empty,
    /// Members are asked to join the next generation.
    PreparingRebalance,
    /// The generation is fixed; its leader works out the assignment.
    CompletingRebalance,
    /// Every member has, or can ask for, its assignment.
    Stable,
    /// The group does not exist.
    Dead,
}

impl State {
    /// The name in Kafka's protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What one turn of the coordinator may use and change besides the group.
pub(crate) struct Turn<'a> {
    pub(crate) now_ms: i64,
    pub(crate) config: &'a GroupConfig,
    pub(crate) deadlines: &'a mut Deadlines,
    pub(crate) outcome: &'a mut Outcome,
}

impl Turn<'_> {
    fn joined(&mut self, token: Token, result: Result<JoinedGroup, GroupError>) {
        self.outcome.replies.push((token, Response::JoinGroup(result)));
    }

    fn synced(&mut self, token: Token, result: Result<SyncedGroup, GroupError>) {
        self.outcome.replies.push((token, Response::SyncGroup(result)));
    }
}

#[derive(Debug)]
struct Member {
    member_id: Arc<str>,
    instance_id: Option<Arc<str>>,
    client_id: Arc<str>,
    client_host: Arc<str>,
    rebalance_timeout_ms: i32,
    session_timeout_ms: i32,
    /// (name, metadata), preferred first.
    protocols: Vec<(Arc<str>, Bytes)>,
    assignment: Bytes,
    /// Its JoinGroup that is held.
    awaiting_join: Option<Token>,
    /// Its SyncGroup that is held.
    awaiting_sync: Option<Token>,
    /// It has not been through a rebalance, hence cannot send heartbeats.
    is_new: bool,
}

impl Member {
    fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| &**name == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }
}

/// The first rebalance of an empty group waits for more members.
#[derive(Debug)]
struct InitialDelay {
    delay_ms: i64,
    remaining_ms: i64,
    member_added: bool,
}

/// A group of the classic protocol.
#[derive(Debug)]
pub(crate) struct ClassicGroup {
    group_id: Arc<str>,
    state: State,
    /// Since when; unknown for groups stored by old versions of Kafka.
    state_timestamp_ms: Option<i64>,
    generation: i32,
    protocol_type: Option<Arc<str>>,
    protocol: Option<Arc<str>>,
    leader: Option<Arc<str>>,
    members: BTreeMap<Arc<str>, Member>,
    /// Instance id to member id.
    static_members: HashMap<Arc<str>, Arc<str>>,
    /// Were told an id and have not joined with it.
    pending_join: BTreeSet<Arc<str>>,
    /// Of this generation, have not synced.
    pending_sync: BTreeSet<Arc<str>>,
    /// How many members have a held JoinGroup.
    awaiting_join: usize,
    /// How many members support each protocol.
    supported: HashMap<Arc<str>, usize>,
    /// What the members of a `consumer` group read; `None` where it is not known.
    subscribed: Option<HashSet<Arc<str>>>,
    initial_delay: Option<InitialDelay>,
    rebalances: VecDeque<Rebalance>,
    /// The value last stored, which is what a reload would find.
    stored: Option<Bytes>,
}

impl ClassicGroup {
    /// A group without members.
    pub(crate) fn new(group_id: Arc<str>, now_ms: i64) -> Self {
        Self {
            group_id,
            state: State::Empty,
            state_timestamp_ms: Some(now_ms),
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            static_members: HashMap::new(),
            pending_join: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            awaiting_join: 0,
            supported: HashMap::new(),
            subscribed: None,
            initial_delay: None,
            rebalances: VecDeque::new(),
            stored: None,
        }
    }

    /// The group as its record tells it: with members it is stable, whatever it was when the coordinator went.
    pub(crate) fn load(group_id: Arc<str>, metadata: GroupMetadata, stored: Bytes) -> Self {
        let mut group = Self::new(group_id, 0);
        group.stored = Some(stored);
        group.generation = metadata.generation;
        group.state_timestamp_ms = Some(metadata.state_timestamp_ms).filter(|&time| time >= 0);
        let protocol_name = metadata.protocol.clone().unwrap_or_default();
        for member in metadata.members {
            group.add(Member {
                member_id: member.member_id,
                instance_id: member.instance_id,
                client_id: member.client_id,
                client_host: member.client_host,
                rebalance_timeout_ms: match member.rebalance_timeout_ms {
                    -1 => member.session_timeout_ms,
                    timeout_ms => timeout_ms,
                },
                session_timeout_ms: member.session_timeout_ms,
                protocols: vec![(protocol_name.clone(), member.subscription)],
                assignment: member.assignment,
                awaiting_join: None,
                awaiting_sync: None,
                is_new: false,
            });
        }
        if !group.members.is_empty() {
            group.state = State::Stable;
        }
        group.protocol_type = Some(metadata.protocol_type).filter(|name| !name.is_empty());
        group.protocol = metadata.protocol;
        group.leader = metadata.leader.filter(|leader| group.members.contains_key(leader)).or(group.leader);
        group.subscribed = group.subscribed_topics();
        group
    }

    /// Starts the timeouts of a group that was just loaded.
    pub(crate) fn loaded(&mut self, turn: &mut Turn<'_>) {
        let ids: Vec<_> = self.members.keys().cloned().collect();
        for member_id in &ids {
            self.restart_session(member_id, turn);
        }
        if ids.len() > turn.config.max_size {
            self.prepare_rebalance(RebalanceCause::OverCapacity, turn);
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn protocol_type(&self) -> Option<&Arc<str>> {
        self.protocol_type.as_ref()
    }

    pub(crate) fn members(&self) -> usize {
        self.members.len()
    }

    /// The value last stored.
    pub(crate) fn stored(&self) -> Option<&Bytes> {
        self.stored.as_ref()
    }

    /// Whether nothing would be lost with it, offsets aside.
    pub(crate) fn is_forgettable(&self) -> bool {
        self.state == State::Empty && self.pending_join.is_empty()
    }

    /// Whether it is a trace only of members that never came.
    pub(crate) fn is_untouched(&self) -> bool {
        self.is_forgettable() && self.stored.is_none() && self.generation == 0
    }

    /// Ends the timeouts that a group without members may still have.
    pub(crate) fn cancel_deadlines(&self, deadlines: &mut Deadlines) {
        for member_id in self.members.keys().chain(&self.pending_join) {
            deadlines.cancel(&self.session(member_id));
        }
        deadlines.cancel(&Deadline::Join { group_id: self.group_id.clone() });
        deadlines.cancel(&Deadline::Sync { group_id: self.group_id.clone() });
    }

    /// JoinGroup. `new_member_id` is used where the member has none yet.
    pub(crate) fn join(
        &mut self,
        request: JoinGroup,
        token: Token,
        new_member_id: Arc<str>,
        turn: &mut Turn<'_>,
    ) {
        if !self.accepts(&request.member_id, turn.config.max_size) {
            self.remove(&request.member_id, turn);
            turn.joined(token, Err(GroupError::GroupFull { max_size: turn.config.max_size }));
            self.complete_join_if_ready(turn);
        } else if let bytes = request.protocols.iter().map(|(_, metadata)| metadata.len()).sum::<usize>()
            && bytes > turn.config.max_record_bytes.saturating_mul(LARGE_PROTOCOLS)
        {
            turn.joined(token, Err(GroupError::GroupTooLarge { bytes }));
        } else if !self.supports(&request.protocol_type, &request.protocols) {
            turn.joined(token, Err(GroupError::InconsistentProtocol));
        } else if request.member_id.is_empty() {
            self.join_new(request, token, new_member_id, turn);
        } else {
            self.join_known(request, token, turn);
        }
    }

    fn join_new(&mut self, request: JoinGroup, token: Token, new_member_id: Arc<str>, turn: &mut Turn<'_>) {
        if let Some(instance_id) = &request.instance_id {
            match self.static_members.get(instance_id).cloned() {
                Some(old) => self.replace_static(&old, new_member_id, request, token, turn),
                None => self.add_and_rebalance(request, token, new_member_id, turn),
            }
        } else if request.requires_known_member_id {
            self.pending_join.insert(new_member_id.clone());
            turn.deadlines
                .set(self.session(&new_member_id), turn.now_ms + i64::from(request.session_timeout_ms));
            turn.joined(token, Err(GroupError::MemberIdRequired { member_id: new_member_id }));
        } else {
            self.add_and_rebalance(request, token, new_member_id, turn);
        }
    }

    fn join_known(&mut self, request: JoinGroup, token: Token, turn: &mut Turn<'_>) {
        let member_id = request.member_id.clone();
        if self.pending_join.contains(&member_id) {
            match request.instance_id {
                None => self.add_and_rebalance(request, token, member_id, turn),
                // Only dynamic members are told to come back with an id.
                Some(_) => turn.joined(token, Err(GroupError::UnknownMember)),
            }
            return;
        }
        if let Err(error) = self.check_member(&member_id, request.instance_id.as_ref()) {
            turn.joined(token, Err(error));
            return;
        }
        let unchanged =
            self.members.get(&member_id).is_some_and(|member| member.protocols == request.protocols);
        let is_leader = self.leader.as_ref() == Some(&member_id);
        match self.state {
            State::CompletingRebalance if unchanged => {
                // It did not get the answer to its last join: nothing has changed.
                turn.joined(token, Ok(self.joined(&member_id)));
            }
            State::Stable if unchanged && !is_leader => {
                let joined = JoinedGroup { members: Vec::new(), ..self.joined(&member_id) };
                turn.joined(token, Ok(joined));
            }
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => {
                let reason = request.reason.clone();
                let cause = match (unchanged, is_leader) {
                    (true, true) => RebalanceCause::LeaderRejoined { member_id: member_id.clone(), reason },
                    _ => RebalanceCause::MetadataChanged { member_id: member_id.clone(), reason },
                };
                self.update(&member_id, request, token, turn);
                self.rebalance_or_complete(cause, turn);
            }
            State::Empty | State::Dead => turn.joined(token, Err(GroupError::UnknownMember)),
        }
    }

    /// SyncGroup.
    pub(crate) fn sync(&mut self, request: SyncGroup, token: Token, turn: &mut Turn<'_>) {
        if let Err(error) = self.check_sync(&request) {
            turn.synced(token, Err(error));
            return;
        }
        self.pending_sync.remove(&request.member_id);
        if self.state == State::Stable {
            self.sync_expectations_met(turn);
            let assignment = self.members.get(&request.member_id).map(|member| member.assignment.clone());
            turn.synced(token, Ok(self.synced(assignment.unwrap_or_default())));
            return;
        }
        if let Some(member) = self.members.get_mut(&request.member_id)
            && let Some(superseded) = member.awaiting_sync.replace(token)
        {
            turn.synced(superseded, Err(GroupError::RebalanceInProgress));
        }
        if self.leader.as_ref() == Some(&request.member_id) {
            self.assign(request.assignments, turn);
        }
    }

    fn check_sync(&self, request: &SyncGroup) -> Result<(), GroupError> {
        let differs = |theirs: &Option<Arc<str>>, ours: &Option<Arc<str>>| matches!((theirs, ours), (Some(theirs), Some(ours)) if theirs != ours);
        self.check_member(&request.member_id, request.instance_id.as_ref())?;
        self.check_generation(request.generation)?;
        if differs(&request.protocol_type, &self.protocol_type) || differs(&request.protocol, &self.protocol)
        {
            return Err(GroupError::InconsistentProtocol);
        }
        match self.state {
            State::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            State::CompletingRebalance | State::Stable => Ok(()),
            State::Empty | State::Dead => Err(GroupError::UnknownMember),
        }
    }

    /// The leader's assignment makes the group stable.
    fn assign(&mut self, assignments: Vec<(Arc<str>, Bytes)>, turn: &mut Turn<'_>) {
        let mut assignments: HashMap<_, _> = assignments.into_iter().collect();
        for member in self.members.values_mut() {
            member.assignment = assignments.remove(&member.member_id).unwrap_or_default();
        }
        let stored = self.metadata().encode();
        if stored.len() > turn.config.max_record_bytes {
            self.cancel_syncs(&GroupError::GroupTooLarge { bytes: stored.len() }, turn);
            self.prepare_rebalance(RebalanceCause::AssignmentTooLarge, turn);
            return;
        }
        self.transition(State::Stable, turn);
        self.store(stored, turn);
        let mut synced = Vec::new();
        for member in self.members.values_mut() {
            if let Some(token) = member.awaiting_sync.take() {
                synced.push((token, member.member_id.clone(), member.assignment.clone()));
            }
        }
        for (token, member_id, assignment) in synced {
            turn.synced(token, Ok(self.synced(assignment)));
            // Its session may have ended unnoticed while it waited.
            self.restart_session(&member_id, turn);
        }
        self.sync_expectations_met(turn);
    }

    fn sync_expectations_met(&self, turn: &mut Turn<'_>) {
        if self.pending_sync.is_empty() {
            turn.deadlines.cancel(&Deadline::Sync { group_id: self.group_id.clone() });
        }
    }

    /// Heartbeat.
    pub(crate) fn heartbeat(&mut self, request: &Heartbeat, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        self.check_member(&request.member_id, request.instance_id.as_ref())?;
        self.check_generation(request.generation)?;
        self.restart_session(&request.member_id, turn);
        match self.state {
            State::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            State::CompletingRebalance | State::Stable => Ok(()),
            State::Empty | State::Dead => Err(GroupError::UnknownMember),
        }
    }

    /// LeaveGroup: a result for each member named.
    pub(crate) fn leave(&mut self, request: &LeaveGroup, turn: &mut Turn<'_>) -> Vec<Result<(), GroupError>> {
        let mut cause = None;
        let mut results = Vec::with_capacity(request.members.len());
        for leaving in &request.members {
            let members = self.members.len();
            results.push(self.leave_one(leaving, turn).map(|member_id| {
                // Who never was in the generation, because it is pending, does not end it.
                if self.members.len() < members {
                    cause = Some(RebalanceCause::MemberLeft { member_id, reason: leaving.reason.clone() });
                }
            }));
        }
        match cause {
            Some(cause) if self.state != State::Empty => self.rebalance_or_complete(cause, turn),
            _ => self.complete_join_if_ready(turn),
        }
        results
    }

    fn leave_one(&mut self, leaving: &LeavingMember, turn: &mut Turn<'_>) -> Result<Arc<str>, GroupError> {
        let member_id = if leaving.member_id.is_empty() {
            // An administrator removes static members by name.
            let named =
                leaving.instance_id.as_ref().and_then(|instance_id| self.static_members.get(instance_id));
            named.cloned().ok_or(GroupError::UnknownMember)?
        } else if self.pending_join.contains(&leaving.member_id) {
            leaving.member_id.clone()
        } else {
            self.check_member(&leaving.member_id, leaving.instance_id.as_ref())?;
            leaving.member_id.clone()
        };
        self.remove(&member_id, turn);
        Ok(member_id)
    }

    /// Whether this asker may commit offsets now; if it is a member, that also keeps its session.
    pub(crate) fn check_commit(
        &mut self,
        member_id: &Arc<str>,
        instance_id: Option<&Arc<str>>,
        generation: i32,
        turn: &mut Turn<'_>,
    ) -> Result<(), GroupError> {
        if generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        if generation < 0 && member_id.is_empty() && instance_id.is_none() {
            return Err(GroupError::UnknownMember);
        }
        self.check_member(member_id, instance_id)?;
        self.check_generation(generation)?;
        match self.state {
            State::CompletingRebalance => Err(GroupError::RebalanceInProgress),
            State::PreparingRebalance | State::Stable => {
                self.restart_session(member_id, turn);
                Ok(())
            }
            State::Empty | State::Dead => Ok(()),
        }
    }

    /// A member, or a pending one, was silent for its session timeout.
    pub(crate) fn session_expired(&mut self, member_id: &Arc<str>, turn: &mut Turn<'_>) {
        if self.pending_join.contains(member_id) {
            self.remove(member_id, turn);
            self.complete_join_if_ready(turn);
            return;
        }
        // Who waits for an answer of ours cannot send heartbeats; its session begins anew with that answer. New members
        // are timed while they wait: their client may be long gone.
        let expired = self.members.get(member_id).is_some_and(|member| {
            member.is_new || (member.awaiting_join.is_none() && member.awaiting_sync.is_none())
        });
        if expired {
            self.remove(member_id, turn);
            self.rebalance_or_complete(RebalanceCause::SessionExpired { member_id: member_id.clone() }, turn);
        }
    }

    /// Members had their time to join.
    pub(crate) fn join_expired(&mut self, turn: &mut Turn<'_>) {
        if self.state != State::PreparingRebalance {
            return;
        }
        if let Some(initial) = &mut self.initial_delay
            && initial.member_added
            && initial.remaining_ms > 0
        {
            initial.member_added = false;
            let next_ms = i64::from(turn.config.initial_rebalance_delay_ms).min(initial.remaining_ms);
            initial.remaining_ms = (initial.remaining_ms - initial.delay_ms).max(0);
            initial.delay_ms = next_ms;
            turn.deadlines.set(Deadline::Join { group_id: self.group_id.clone() }, turn.now_ms + next_ms);
            return;
        }
        self.complete_join(turn);
    }

    /// Members had their time to sync.
    pub(crate) fn sync_expired(&mut self, turn: &mut Turn<'_>) {
        if !matches!(self.state, State::CompletingRebalance | State::Stable) || self.pending_sync.is_empty() {
            return;
        }
        let member_ids: Vec<_> = self.pending_sync.iter().cloned().collect();
        for member_id in &member_ids {
            self.remove(member_id, turn);
        }
        self.prepare_rebalance(RebalanceCause::SyncExpired { member_ids }, turn);
    }

    /// Whether stored offsets of `topic` are in use, which keeps them from expiring.
    pub(crate) fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    /// Since when the retention of an offset committed at `commit_ms` runs; `None` while it does not.
    pub(crate) fn retention_start_ms(&self, commit_ms: i64) -> Option<i64> {
        match (&self.protocol_type, self.state) {
            (None, _) => Some(commit_ms),
            (Some(_), State::Empty) => Some(self.state_timestamp_ms.unwrap_or(commit_ms)),
            (Some(_), State::Stable) if self.uses_consumer_protocol() && self.subscribed.is_some() => {
                Some(commit_ms)
            }
            (Some(_), _) => None,
        }
    }

    /// What DescribeGroups tells.
    pub(crate) fn describe(&self) -> GroupDescription {
        let stable = self.state == State::Stable;
        let protocol = self.protocol.clone().filter(|_| stable).unwrap_or_default();
        GroupDescription {
            group_id: self.group_id.clone(),
            state: self.state,
            generation: self.generation,
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            members: self
                .members
                .values()
                .map(|member| MemberDescription {
                    member_id: member.member_id.clone(),
                    instance_id: member.instance_id.clone(),
                    client_id: member.client_id.clone(),
                    client_host: member.client_host.clone(),
                    metadata: if stable { member.metadata(&protocol) } else { Bytes::new() },
                    assignment: member.assignment.clone(),
                })
                .collect(),
            protocol,
            rebalances: self.rebalances.iter().cloned().collect(),
        }
    }

    fn session(&self, member_id: &Arc<str>) -> Deadline {
        Deadline::Session { group_id: self.group_id.clone(), member_id: member_id.clone() }
    }

    fn restart_session(&self, member_id: &Arc<str>, turn: &mut Turn<'_>) {
        if let Some(member) = self.members.get(member_id) {
            turn.deadlines.set(self.session(member_id), turn.now_ms + i64::from(member.session_timeout_ms));
        }
    }

    fn check_member(&self, member_id: &Arc<str>, instance_id: Option<&Arc<str>>) -> Result<(), GroupError> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(GroupError::UnknownMember),
                Some(current) if current != member_id => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(GroupError::UnknownMember) }
    }

    fn check_generation(&self, generation: i32) -> Result<(), GroupError> {
        if generation == self.generation { Ok(()) } else { Err(GroupError::IllegalGeneration { generation }) }
    }

    fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some("consumer")
    }

    /// Whether a member may join, as far as the group's size is concerned.
    fn accepts(&self, member_id: &Arc<str>, max_size: usize) -> bool {
        match self.state {
            State::Empty | State::Dead => true,
            // Counted are those who came first, so that a group that is too large loses its slowest members.
            State::PreparingRebalance => {
                self.awaiting_join < max_size
                    || self.members.get(member_id).is_some_and(|member| member.awaiting_join.is_some())
            }
            State::CompletingRebalance | State::Stable => {
                self.members.len() < max_size || self.members.contains_key(member_id)
            }
        }
    }

    fn supports(&self, protocol_type: &Arc<str>, protocols: &[(Arc<str>, Bytes)]) -> bool {
        if self.state == State::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        let by_all = |name: &Arc<str>| self.supported.get(name).copied().unwrap_or(0) == self.members.len();
        self.protocol_type.as_ref() == Some(protocol_type) && protocols.iter().any(|(name, _)| by_all(name))
    }

    fn add_and_rebalance(
        &mut self,
        request: JoinGroup,
        token: Token,
        member_id: Arc<str>,
        turn: &mut Turn<'_>,
    ) {
        if let Some(initial) = &mut self.initial_delay {
            initial.member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type);
        }
        self.add(Member {
            member_id: member_id.clone(),
            instance_id: request.instance_id,
            client_id: request.client_id,
            client_host: request.client_host,
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            session_timeout_ms: request.session_timeout_ms,
            protocols: request.protocols,
            assignment: Bytes::new(),
            awaiting_join: Some(token),
            awaiting_sync: None,
            is_new: true,
        });
        turn.deadlines.set(self.session(&member_id), turn.now_ms + turn.config.new_member_join_timeout_ms);
        self.rebalance_or_complete(RebalanceCause::MemberJoined { member_id, reason: request.reason }, turn);
    }

    fn add(&mut self, member: Member) {
        let member_id = member.member_id.clone();
        if let Some(instance_id) = &member.instance_id {
            let earlier = self.static_members.insert(instance_id.clone(), member_id.clone());
            assert!(earlier.is_none(), "static member {instance_id} is added twice to {}", self.group_id);
        }
        self.leader.get_or_insert_with(|| member_id.clone());
        self.count_protocols(&member.protocols, true);
        self.awaiting_join += usize::from(member.awaiting_join.is_some());
        self.pending_join.remove(&member_id);
        let earlier = self.members.insert(member_id, member);
        assert!(earlier.is_none(), "a member is added twice to {}", self.group_id);
    }

    /// Takes a member or pending member out, answers what it waits for, and names another leader if it led.
    fn remove(&mut self, member_id: &Arc<str>, turn: &mut Turn<'_>) {
        self.pending_join.remove(member_id);
        self.pending_sync.remove(member_id);
        turn.deadlines.cancel(&self.session(member_id));
        let Some(member) = self.members.remove(member_id) else { return };
        self.count_protocols(&member.protocols, false);
        if let Some(instance_id) = &member.instance_id {
            self.static_members.remove(instance_id);
        }
        if let Some(token) = member.awaiting_join {
            self.awaiting_join -= 1;
            turn.joined(token, Err(GroupError::UnknownMember));
        }
        if let Some(token) = member.awaiting_sync {
            turn.synced(token, Err(GroupError::UnknownMember));
        }
        if self.leader.as_ref() == Some(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    fn count_protocols(&mut self, protocols: &[(Arc<str>, Bytes)], more: bool) {
        let names: BTreeSet<_> = protocols.iter().map(|(name, _)| name).collect();
        for name in names {
            let count = self.supported.entry(name.clone()).or_default();
            *count = if more { *count + 1 } else { *count - 1 };
            if *count == 0 {
                self.supported.remove(name);
            }
        }
    }

    /// A member joins again, perhaps with other metadata.
    fn update(&mut self, member_id: &Arc<str>, request: JoinGroup, token: Token, turn: &mut Turn<'_>) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        let earlier = std::mem::replace(&mut member.protocols, request.protocols);
        let protocols = member.protocols.clone();
        member.rebalance_timeout_ms = request.rebalance_timeout_ms;
        member.session_timeout_ms = request.session_timeout_ms;
        match member.awaiting_join.replace(token) {
            // The same member asked before, on a connection that it has given up.
            Some(superseded) => turn.joined(superseded, Err(GroupError::RebalanceInProgress)),
            None => self.awaiting_join += 1,
        }
        self.count_protocols(&earlier, false);
        self.count_protocols(&protocols, true);
    }

    /// A static member is back, as a new process without memory: it takes over the place of its earlier self.
    fn replace_static(
        &mut self,
        old_id: &Arc<str>,
        new_id: Arc<str>,
        request: JoinGroup,
        token: Token,
        turn: &mut Turn<'_>,
    ) {
        if self.state == State::Stable {
            let bytes = self.metadata_with(old_id, &new_id, &request).encode().len();
            if bytes > turn.config.max_record_bytes {
                turn.joined(token, Err(GroupError::GroupTooLarge { bytes }));
                return;
            }
        }
        let old_leader = self.leader.clone();
        let supports_skip_assignment = request.supports_skip_assignment;
        self.rename(old_id, &new_id, turn);
        if let Some(member) = self.members.get_mut(&new_id) {
            member.client_id = request.client_id.clone();
            member.client_host = request.client_host.clone();
        }
        let instance_id = request.instance_id.clone().unwrap_or_default();
        self.update(&new_id, request, token, turn);
        self.restart_session(&new_id, turn);
        let cause = RebalanceCause::StaticMemberReplaced { member_id: new_id.clone(), instance_id };
        match self.state {
            State::Stable if self.protocol == self.select_protocol() => {
                self.subscribed = self.subscribed_topics();
                let stored = self.metadata().encode();
                self.store(stored, turn);
                self.take_awaiting_join(&new_id);
                let mut joined = self.joined(&new_id);
                if supports_skip_assignment {
                    joined.skip_assignment = self.leader.as_ref() == Some(&new_id);
                } else {
                    // Not knowing `skip_assignment`, the member would assign if it found itself to be the leader: name
                    // the one who led before, which is perhaps its earlier self.
                    joined.leader = old_leader.unwrap_or_default();
                    joined.members = Vec::new();
                }
                turn.joined(token, Ok(joined));
            }
            State::Stable => self.rebalance_or_complete(cause, turn),
            // The leader may already be working with the old id, so the new one would get nothing.
            State::CompletingRebalance => self.prepare_rebalance(cause, turn),
            State::PreparingRebalance => self.complete_join_if_ready(turn),
            State::Empty | State::Dead => {
                unreachable!("group {} has a member and is {}", self.group_id, self.state)
            }
        }
    }

    /// Gives a static member's place to its successor; what the old one waits for is answered: fenced.
    fn rename(&mut self, old_id: &Arc<str>, new_id: &Arc<str>, turn: &mut Turn<'_>) {
        let Some(mut member) = self.members.remove(old_id) else { return };
        if let Some(token) = member.awaiting_join.take() {
            self.awaiting_join -= 1;
            turn.joined(token, Err(GroupError::FencedInstance));
        }
        if let Some(token) = member.awaiting_sync.take() {
            turn.synced(token, Err(GroupError::FencedInstance));
        }
        turn.deadlines.cancel(&self.session(old_id));
        member.member_id = new_id.clone();
        member.is_new = false;
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), new_id.clone());
        }
        if self.pending_sync.remove(old_id) {
            self.pending_sync.insert(new_id.clone());
        }
        if self.leader.as_ref() == Some(old_id) {
            self.leader = Some(new_id.clone());
        }
        self.members.insert(new_id.clone(), member);
    }

    fn take_awaiting_join(&mut self, member_id: &Arc<str>) -> Option<Token> {
        let token = self.members.get_mut(member_id)?.awaiting_join.take()?;
        self.awaiting_join -= 1;
        Some(token)
    }

    fn rebalance_or_complete(&mut self, cause: RebalanceCause, turn: &mut Turn<'_>) {
        match self.state {
            State::PreparingRebalance => self.complete_join_if_ready(turn),
            State::Empty | State::CompletingRebalance | State::Stable => self.prepare_rebalance(cause, turn),
            State::Dead => unreachable!("a group in memory is never dead"),
        }
    }

    fn prepare_rebalance(&mut self, cause: RebalanceCause, turn: &mut Turn<'_>) {
        if self.state == State::CompletingRebalance {
            self.cancel_syncs(&GroupError::RebalanceInProgress, turn);
        }
        self.pending_sync.clear();
        turn.deadlines.cancel(&Deadline::Sync { group_id: self.group_id.clone() });
        if self.rebalances.len() == REBALANCES_KEPT {
            self.rebalances.pop_front();
        }
        self.rebalances.push_back(Rebalance { started_ms: turn.now_ms, generation: self.generation, cause });

        let first = self.state == State::Empty;
        self.transition(State::PreparingRebalance, turn);
        let delay_ms = i64::from(turn.config.initial_rebalance_delay_ms);
        if first && delay_ms > 0 {
            let remaining_ms = (self.rebalance_timeout_ms() - delay_ms).max(0);
            self.initial_delay = Some(InitialDelay { delay_ms, remaining_ms, member_added: false });
            turn.deadlines.set(Deadline::Join { group_id: self.group_id.clone() }, turn.now_ms + delay_ms);
        } else if first || self.all_joined() {
            self.complete_join(turn);
        } else {
            self.wait_for_joins(0, turn);
        }
    }

    /// Nobody gets an assignment in this generation.
    fn cancel_syncs(&mut self, error: &GroupError, turn: &mut Turn<'_>) {
        let mut answered = Vec::new();
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
            if let Some(token) = member.awaiting_sync.take() {
                turn.synced(token, Err(error.clone()));
                answered.push(member.member_id.clone());
            }
        }
        for member_id in answered {
            self.restart_session(&member_id, turn);
        }
    }

    fn all_joined(&self) -> bool {
        self.members.len() == self.awaiting_join && self.pending_join.is_empty()
    }

    fn wait_for_joins(&self, at_least_ms: i64, turn: &mut Turn<'_>) {
        let due_ms = turn.now_ms + self.rebalance_timeout_ms().max(at_least_ms);
        turn.deadlines.set(Deadline::Join { group_id: self.group_id.clone() }, due_ms);
    }

    /// The longest that any member may take.
    fn rebalance_timeout_ms(&self) -> i64 {
        self.members.values().map(|member| i64::from(member.rebalance_timeout_ms)).max().unwrap_or(0)
    }

    fn complete_join_if_ready(&mut self, turn: &mut Turn<'_>) {
        if self.state == State::PreparingRebalance && self.initial_delay.is_none() && self.all_joined() {
            self.complete_join(turn);
        }
    }

    /// The members that joined make the next generation.
    fn complete_join(&mut self, turn: &mut Turn<'_>) {
        turn.deadlines.cancel(&Deadline::Join { group_id: self.group_id.clone() });
        self.initial_delay = None;
        let absent: Vec<_> = self
            .members
            .values()
            .filter(|member| member.awaiting_join.is_none() && member.instance_id.is_none())
            .map(|member| member.member_id.clone())
            .collect();
        for member_id in &absent {
            self.remove(member_id, turn);
        }
        if self.members.is_empty() {
            self.generation = self.generation.checked_add(1).unwrap_or(1);
            self.protocol = None;
            self.leader = None;
            self.subscribed = self.subscribed_topics();
            self.transition(State::Empty, turn);
            let stored = self.metadata().encode();
            self.store(stored, turn);
        } else if self.elect_joined_leader() {
            self.begin_generation(turn);
        } else {
            // Only static members that have not come back: they keep their places until their sessions end.
            self.wait_for_joins(SHORTEST_WAIT_MS, turn);
        }
    }

    /// A leader must have joined; `false` where nobody has.
    fn elect_joined_leader(&mut self) -> bool {
        let joined = |member: &Member| member.awaiting_join.is_some();
        if self.leader.as_ref().and_then(|leader| self.members.get(leader)).is_some_and(joined) {
            return true;
        }
        match self.members.values().find(|member| joined(member)) {
            Some(member) => {
                self.leader = Some(member.member_id.clone());
                true
            }
            None => false,
        }
    }

    fn begin_generation(&mut self, turn: &mut Turn<'_>) {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol = self.select_protocol();
        self.subscribed = self.subscribed_topics();
        self.transition(State::CompletingRebalance, turn);
        self.pending_sync = self.members.keys().cloned().collect();
        for member_id in self.pending_sync.clone() {
            if let Some(token) = self.take_awaiting_join(&member_id) {
                turn.joined(token, Ok(self.joined(&member_id)));
            }
            self.restart_session(&member_id, turn);
            if let Some(member) = self.members.get_mut(&member_id) {
                member.is_new = false;
            }
        }
        let due_ms = turn.now_ms + self.rebalance_timeout_ms();
        turn.deadlines.set(Deadline::Sync { group_id: self.group_id.clone() }, due_ms);
    }

    /// Among the protocols that all support, each member votes for its first; the earliest name wins a tie.
    fn select_protocol(&self) -> Option<Arc<str>> {
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            let candidate = |name: &Arc<str>| self.supported.get(name) == Some(&self.members.len());
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| candidate(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.into_iter().rev().max_by_key(|&(_, count)| count).map(|(name, _)| name.clone())
    }

    /// What the members read, where the group is one of consumers and all say it in the known form.
    fn subscribed_topics(&self) -> Option<HashSet<Arc<str>>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        let protocol = match (&self.protocol, self.members.is_empty()) {
            (_, true) => return Some(HashSet::new()),
            (Some(protocol), false) => protocol,
            (None, false) => return None,
        };
        let mut topics = HashSet::new();
        for member in self.members.values() {
            topics.extend(subscribed_topics(&member.metadata(protocol))?);
        }
        Some(topics)
    }

    fn joined(&self, member_id: &Arc<str>) -> JoinedGroup {
        let protocol = self.protocol.clone().unwrap_or_default();
        let members = if self.leader.as_ref() == Some(member_id) {
            let seen = |member: &Member| JoinedMember {
                member_id: member.member_id.clone(),
                instance_id: member.instance_id.clone(),
                metadata: member.metadata(&protocol),
            };
            self.members.values().map(seen).collect()
        } else {
            Vec::new()
        };
        JoinedGroup {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            member_id: member_id.clone(),
            members,
        }
    }

    fn synced(&self, assignment: Bytes) -> SyncedGroup {
        SyncedGroup { protocol_type: self.protocol_type.clone(), protocol: self.protocol.clone(), assignment }
    }

    fn transition(&mut self, to: State, turn: &Turn<'_>) {
        let allowed = match to {
            State::Empty | State::CompletingRebalance => self.state == State::PreparingRebalance,
            State::PreparingRebalance => self.state != State::PreparingRebalance && self.state != State::Dead,
            State::Stable => self.state == State::CompletingRebalance,
            State::Dead => false,
        };
        assert!(allowed, "group {} cannot go from {} to {to}", self.group_id, self.state);
        self.state = to;
        self.state_timestamp_ms = Some(turn.now_ms);
    }

    fn metadata(&self) -> GroupMetadata {
        let protocol = self.protocol.clone().unwrap_or_default();
        GroupMetadata {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_timestamp_ms: self.state_timestamp_ms.unwrap_or(-1),
            members: self
                .members
                .values()
                .map(|member| MemberMetadata {
                    member_id: member.member_id.clone(),
                    instance_id: member.instance_id.clone(),
                    client_id: member.client_id.clone(),
                    client_host: member.client_host.clone(),
                    rebalance_timeout_ms: member.rebalance_timeout_ms,
                    session_timeout_ms: member.session_timeout_ms,
                    subscription: member.metadata(&protocol),
                    assignment: member.assignment.clone(),
                })
                .collect(),
        }
    }

    /// What would be stored if a static member's successor had its place.
    fn metadata_with(&self, old_id: &Arc<str>, new_id: &Arc<str>, request: &JoinGroup) -> GroupMetadata {
        let mut metadata = self.metadata();
        if let Some(member) = metadata.members.iter_mut().find(|member| member.member_id == *old_id) {
            let chosen = request.protocols.iter().find(|(name, _)| Some(name) == self.protocol.as_ref());
            member.subscription = chosen.map(|(_, metadata)| metadata.clone()).unwrap_or_default();
            member.member_id = new_id.clone();
            member.client_id = request.client_id.clone();
            member.client_host = request.client_host.clone();
        }
        metadata
    }

    fn store(&mut self, stored: Bytes, turn: &mut Turn<'_>) {
        let key = Key::Group { group_id: self.group_id.clone() }.encode();
        turn.outcome.records.push(Record { key, value: Some(stored.clone()) });
        self.stored = Some(stored);
    }

    /// Panics where the group contradicts itself.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self, deadlines: &Deadlines) {
        let awaiting = self.members.values().filter(|member| member.awaiting_join.is_some()).count();
        assert_eq!(awaiting, self.awaiting_join, "members awaiting join");
        let mut supported = HashMap::new();
        for member in self.members.values() {
            for name in member.protocols.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>() {
                *supported.entry(name).or_insert(0) += 1;
            }
        }
        assert_eq!(supported, self.supported, "supported protocols");
        let statics: HashMap<_, _> = self
            .members
            .values()
            .filter_map(|member| Some((member.instance_id.clone()?, member.member_id.clone())))
            .collect();
        assert_eq!(statics, self.static_members, "static members");
        assert!(self.pending_join.iter().all(|id| !self.members.contains_key(id)), "a member is pending");
        assert!(self.pending_sync.iter().all(|id| self.members.contains_key(id)), "a stranger is to sync");
        assert_eq!(self.leader.is_some(), !self.members.is_empty(), "a leader, if there are members");
        assert!(
            self.leader.as_ref().is_none_or(|leader| self.members.contains_key(leader)),
            "the leader is a member"
        );
        let has = |deadline: Deadline| deadlines.is_set(&deadline);
        for member_id in &self.pending_join {
            assert!(has(self.session(member_id)), "a pending member without timeout");
        }
        for member in self.members.values() {
            let waits = member.awaiting_join.is_some() || member.awaiting_sync.is_some();
            assert!(
                has(self.session(&member.member_id)) || (waits && !member.is_new),
                "a member without timeout"
            );
            assert!(
                member.awaiting_join.is_none() || self.state == State::PreparingRebalance,
                "a join held for nothing"
            );
            assert!(
                member.awaiting_sync.is_none() || self.state == State::CompletingRebalance,
                "a sync held for nothing"
            );
        }
        match self.state {
            State::Empty => assert!(self.members.is_empty()),
            State::PreparingRebalance => assert!(has(Deadline::Join { group_id: self.group_id.clone() })),
            State::CompletingRebalance => assert!(has(Deadline::Sync { group_id: self.group_id.clone() })),
            State::Stable => assert!(!self.members.is_empty()),
            State::Dead => panic!("a dead group in memory"),
        }
    }
}
