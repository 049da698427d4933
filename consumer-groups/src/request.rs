//! What a coordinator is asked and answers, free of protocol versions.
//!
//! The broker turns Kafka's requests into these: what a version lacks is filled in there (the session timeout for a
//! missing rebalance timeout, one member for an old LeaveGroup). Strings and bytes are owned and not slices of a frame,
//! because much of them stays in memory as long as the group does.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use uuid::Uuid;

use crate::{GroupError, classic::State};

/// Identifies a request to its asker; chosen by the caller, unique among the requests not yet answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// A request to the coordinator.
#[derive(Clone, Debug)]
pub enum Request {
    /// Become or stay a member.
    JoinGroup(JoinGroup),
    /// Deliver or ask for the assignment.
    SyncGroup(SyncGroup),
    /// Stay alive.
    Heartbeat(Heartbeat),
    /// Go.
    LeaveGroup(LeaveGroup),
    /// Store offsets.
    OffsetCommit(OffsetCommit),
    /// Read offsets.
    OffsetFetch(OffsetFetch),
    /// Show one group.
    DescribeGroup(Arc<str>),
    /// Show all groups.
    ListGroups(ListGroups),
    /// Remove an empty group with its offsets.
    DeleteGroup(Arc<str>),
}

/// The answer to the [`Request`] of the same name.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// Join.
    JoinGroup(Result<JoinedGroup, GroupError>),
    /// Sync.
    SyncGroup(Result<SyncedGroup, GroupError>),
    /// Heartbeat.
    Heartbeat(Result<(), GroupError>),
    /// Leave: one result per member asked for, in order.
    LeaveGroup(Result<Vec<Result<(), GroupError>>, GroupError>),
    /// Commit: one result per partition asked for, in order.
    OffsetCommit(Result<Vec<Result<(), GroupError>>, GroupError>),
    /// Fetch: what is stored; a partition without a commit is absent.
    OffsetFetch(OffsetsByTopic),
    /// Describe; `None` where the group does not exist.
    DescribeGroup(Option<GroupDescription>),
    /// List.
    ListGroups(Vec<ListedGroup>),
    /// Delete.
    DeleteGroup(Result<(), GroupError>),
}

/// JoinGroup.
#[derive(Clone, Debug)]
pub struct JoinGroup {
    /// The group.
    pub group_id: Arc<str>,
    /// The member's id; empty on its first join.
    pub member_id: Arc<str>,
    /// The static member's name (KIP-345).
    pub instance_id: Option<Arc<str>>,
    /// The client's id, which begins the ids of its members.
    pub client_id: Arc<str>,
    /// The client's address.
    pub client_host: Arc<str>,
    /// A member that sends nothing for so long is removed.
    pub session_timeout_ms: i32,
    /// So long the others wait for this member to rejoin.
    pub rebalance_timeout_ms: i32,
    /// `consumer`, `connect`, ...
    pub protocol_type: Arc<str>,
    /// (name, metadata), preferred first.
    pub protocols: Vec<(Arc<str>, Bytes)>,
    /// v4+: a dynamic member without an id is told its id first (KIP-394).
    pub requires_known_member_id: bool,
    /// v9+: understands `skip_assignment` (KIP-814).
    pub supports_skip_assignment: bool,
    /// Why the client joins, in its words (KIP-800).
    pub reason: Option<Arc<str>>,
}

/// A finished join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedGroup {
    /// The generation.
    pub generation: i32,
    /// The group's protocol type.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol chosen.
    pub protocol: Option<Arc<str>>,
    /// The leader's member id.
    pub leader: Arc<str>,
    /// The leader must not assign (v9+).
    pub skip_assignment: bool,
    /// The asker's member id.
    pub member_id: Arc<str>,
    /// To the leader all members, to others none.
    pub members: Vec<JoinedMember>,
}

/// A member as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub member_id: Arc<str>,
    /// Its static name.
    pub instance_id: Option<Arc<str>>,
    /// What it sent for the chosen protocol.
    pub metadata: Bytes,
}

/// SyncGroup.
#[derive(Clone, Debug)]
pub struct SyncGroup {
    /// The group.
    pub group_id: Arc<str>,
    /// The member.
    pub member_id: Arc<str>,
    /// Its static name.
    pub instance_id: Option<Arc<str>>,
    /// The generation it joined.
    pub generation: i32,
    /// v5+: what it believes the protocol type to be.
    pub protocol_type: Option<Arc<str>>,
    /// v5+: what it believes the protocol to be.
    pub protocol: Option<Arc<str>>,
    /// From the leader: (member id, assignment).
    pub assignments: Vec<(Arc<str>, Bytes)>,
}

/// A finished sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncedGroup {
    /// The group's protocol type.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol chosen.
    pub protocol: Option<Arc<str>>,
    /// The member's assignment.
    pub assignment: Bytes,
}

/// Heartbeat.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// The group.
    pub group_id: Arc<str>,
    /// The member.
    pub member_id: Arc<str>,
    /// Its static name.
    pub instance_id: Option<Arc<str>>,
    /// The generation it is in.
    pub generation: i32,
}

/// LeaveGroup.
#[derive(Clone, Debug)]
pub struct LeaveGroup {
    /// The group.
    pub group_id: Arc<str>,
    /// Who goes.
    pub members: Vec<LeavingMember>,
}

/// A member that goes or is sent away.
#[derive(Clone, Debug)]
pub struct LeavingMember {
    /// Its id; empty to name a static member by its instance id alone.
    pub member_id: Arc<str>,
    /// Its static name.
    pub instance_id: Option<Arc<str>>,
    /// Why, in the client's words (KIP-800).
    pub reason: Option<Arc<str>>,
}

/// OffsetCommit. The caller has answered unknown topics and partitions itself.
#[derive(Clone, Debug)]
pub struct OffsetCommit {
    /// The group.
    pub group_id: Arc<str>,
    /// The member; empty for consumers that only store offsets.
    pub member_id: Arc<str>,
    /// Its static name.
    pub instance_id: Option<Arc<str>>,
    /// Its generation; negative for consumers that only store offsets.
    pub generation: i32,
    /// v9+: an unknown group is told as such, and not as a wrong generation.
    pub knows_group_not_found: bool,
    /// v2 to v4: keep the offsets for so long; `None` means the broker's setting.
    pub retention_ms: Option<i64>,
    /// What to store.
    pub offsets: Vec<PartitionCommit>,
}

/// One offset to store.
#[derive(Clone, Debug)]
pub struct PartitionCommit {
    /// The topic.
    pub topic: Arc<str>,
    /// Its id at present; nil where it is not known.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: i32,
    /// The next offset to read.
    pub offset: i64,
    /// The leader epoch of the record before it, or -1.
    pub leader_epoch: i32,
    /// The client's own words.
    pub metadata: Arc<str>,
}

/// A stored offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: i64,
    /// The leader epoch of the record before it, or -1.
    pub leader_epoch: i32,
    /// The client's own words.
    pub metadata: Arc<str>,
    /// When it was stored, milliseconds since the epoch.
    pub commit_timestamp_ms: i64,
    /// When it may go, where the client said so (v2 to v4).
    pub expire_timestamp_ms: Option<i64>,
    /// The id that the topic had; nil where it was not known.
    pub topic_id: Uuid,
}

/// Stored offsets by topic and partition.
pub type OffsetsByTopic = BTreeMap<Arc<str>, BTreeMap<i32, CommittedOffset>>;

/// OffsetFetch of one group.
#[derive(Clone, Debug)]
pub struct OffsetFetch {
    /// The group.
    pub group_id: Arc<str>,
    /// The partitions asked for by topic; `None` means all that is stored.
    pub topics: Option<Vec<(Arc<str>, Vec<i32>)>>,
}

/// ListGroups: what passes the filters.
#[derive(Clone, Debug, Default)]
pub struct ListGroups {
    /// State names, any case; empty means all.
    pub states: Vec<Arc<str>>,
    /// Group types, any case; empty means all.
    pub types: Vec<Arc<str>>,
}

/// A group in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroup {
    /// The group.
    pub group_id: Arc<str>,
    /// Its protocol type; empty for one that only stores offsets.
    pub protocol_type: Arc<str>,
    /// Its state.
    pub state: State,
}

/// Everything DescribeGroups tells, and the rebalances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// The group.
    pub group_id: Arc<str>,
    /// Its state.
    pub state: State,
    /// The generation.
    pub generation: i32,
    /// Its protocol type; empty for one that only stores offsets.
    pub protocol_type: Arc<str>,
    /// The protocol chosen; empty unless the group is stable.
    pub protocol: Arc<str>,
    /// Its members by id.
    pub members: Vec<MemberDescription>,
    /// The last rebalances, oldest first.
    pub rebalances: Vec<Rebalance>,
}

/// A member as DescribeGroups tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its id.
    pub member_id: Arc<str>,
    /// Its static name.
    pub instance_id: Option<Arc<str>>,
    /// The client's id.
    pub client_id: Arc<str>,
    /// The client's address.
    pub client_host: Arc<str>,
    /// What it sent for the chosen protocol; empty unless the group is stable.
    pub metadata: Bytes,
    /// What the leader gave it.
    pub assignment: Bytes,
}

/// One rebalance: when it began, from which generation, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebalance {
    /// Milliseconds since the epoch.
    pub started_ms: i64,
    /// The generation that it ended.
    pub generation: i32,
    /// Why.
    pub cause: RebalanceCause,
}

/// Why a group rebalances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RebalanceCause {
    /// A member came.
    MemberJoined {
        /// Its id.
        member_id: Arc<str>,
        /// The client's words.
        reason: Option<Arc<str>>,
    },
    /// A member went, or was sent away.
    MemberLeft {
        /// Its id.
        member_id: Arc<str>,
        /// The client's words.
        reason: Option<Arc<str>>,
    },
    /// A member was silent for its session timeout.
    SessionExpired {
        /// Its id.
        member_id: Arc<str>,
    },
    /// Members did not fetch their assignment within the rebalance timeout.
    SyncExpired {
        /// Their ids.
        member_ids: Vec<Arc<str>>,
    },
    /// A member rejoined with other metadata, as when its subscription changes.
    MetadataChanged {
        /// Its id.
        member_id: Arc<str>,
        /// The client's words.
        reason: Option<Arc<str>>,
    },
    /// The leader rejoined, as when the partitions of a topic change.
    LeaderRejoined {
        /// Its id.
        member_id: Arc<str>,
        /// The client's words.
        reason: Option<Arc<str>>,
    },
    /// A static member came back in a way that changes the assignment.
    StaticMemberReplaced {
        /// Its new id.
        member_id: Arc<str>,
        /// Its static name.
        instance_id: Arc<str>,
    },
    /// The assignment could not be stored.
    AssignmentTooLarge,
    /// The group as loaded is larger than `group.max.size`.
    OverCapacity,
}

impl std::fmt::Display for RebalanceCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let told = |f: &mut std::fmt::Formatter<'_>, reason: &Option<Arc<str>>| match reason {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        };
        match self {
            Self::MemberJoined { member_id, reason } => {
                write!(f, "member {member_id} joined")?;
                told(f, reason)
            }
            Self::MemberLeft { member_id, reason } => {
                write!(f, "member {member_id} left")?;
                told(f, reason)
            }
            Self::SessionExpired { member_id } => {
                write!(f, "member {member_id} was silent for its session timeout")
            }
            Self::SyncExpired { member_ids } => {
                write!(f, "members {} did not sync in time", member_ids.join(", "))
            }
            Self::MetadataChanged { member_id, reason } => {
                write!(f, "member {member_id} changed its metadata")?;
                told(f, reason)
            }
            Self::LeaderRejoined { member_id, reason } => {
                write!(f, "leader {member_id} rejoined")?;
                told(f, reason)
            }
            Self::StaticMemberReplaced { member_id, instance_id } => {
                write!(f, "static member {instance_id} came back as {member_id}")
            }
            Self::AssignmentTooLarge => write!(f, "the assignment is too large to be stored"),
            Self::OverCapacity => write!(f, "the loaded group is larger than group.max.size"),
        }
    }
}
