//! What openraft is told about our types: ids, the entry and its payload, and the responder.
//!
//! ```text
//!  D  Proposal   what is submitted            Payload   what an entry carries
//!     Batch, Trim                   ->           Blank | Membership | Trim | Batch
//!  R  Applied    what apply answers           Responder hands it to a Completion, without a oneshot
//! ```
//!
//! A batch travels as it came: 61 bytes of header, owned, and the records as a slice of the frame. Entries that are
//! read back for `apply` carry the header alone. Control entries (all but batches) are stored as the bytes that
//! [`Payload::encode_control`] writes:
//!
//! ```text
//!  u8 version = 1 | u8 kind | body
//!                     0 blank        -
//!                     1 membership   u32 configs { u32 voters { u64 replica } }  u32 nodes { u64 replica }
//!                     2 trim         i64 log start
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use log_store::{BatchHeader, LogId, RecordBatch, Vote};
use openraft::{
    EmptyNode, Membership, RaftTypeConfig,
    entry::RaftPayload,
    impls::leader_id_std::LeaderId,
    raft::responder::Responder as RaftResponder,
    type_config::alias::{LogIdOf, VoteOf},
    vote::{RaftLeaderId, RaftVote},
};

use crate::{
    completion::{Appended, Ticket},
    runtime::Runtime,
};

/// The types of all our Raft groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type AsyncRuntime = Runtime;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type D = Proposal;
    type Entry = RaftEntry;
    type ErrorSource = openraft::impls::BoxedErrorSource;
    type LeaderId = LeaderId<u64, u64>;
    type Node = EmptyNode;
    type NodeId = u64;
    type Payload = Payload;
    type R = Applied;
    type Responder<T>
        = Responder<T>
    where
        T: openraft::OptionalSend + 'static;
    type Term = u64;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
}

/// The committed half of a leader id: the term alone, for one leader a term is all that standard Raft allows.
pub(crate) type Committed = <LeaderId<u64, u64> as RaftLeaderId>::Committed;

/// An entry as openraft handles it.
pub(crate) type RaftEntry = openraft::Entry<Committed, Payload>;

/// openraft's log id in ours.
pub(crate) fn from_raft(log_id: &LogIdOf<TypeConfig>) -> LogId {
    LogId { term: log_id.leader_id.term, index: log_id.index }
}

/// Our log id in openraft's.
pub(crate) fn to_raft(log_id: LogId) -> LogIdOf<TypeConfig> {
    LogIdOf::<TypeConfig>::new(Committed::new(log_id.term), log_id.index)
}

/// openraft's vote in ours.
pub(crate) fn vote_from_raft(vote: &VoteOf<TypeConfig>) -> Vote {
    Vote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.is_committed() }
}

/// Our vote in openraft's.
pub(crate) fn vote_to_raft(vote: Vote) -> VoteOf<TypeConfig> {
    VoteOf::<TypeConfig>::from_leader_id(LeaderId::new(vote.term, vote.node), vote.committed)
}

/// What is submitted to a group.
#[derive(Debug)]
pub(crate) enum Proposal {
    /// A record batch.
    Batch {
        /// The batch, without offset and epoch.
        batch: RecordBatch,
        /// For acks below `all`.
        ticket: Option<Ticket>,
    },
    /// A new log start.
    Trim {
        /// The first offset that stays.
        log_start: i64,
    },
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch { batch, .. } => write!(f, "batch of {} bytes", batch.size()),
            Self::Trim { log_start } => write!(f, "trim to {log_start}"),
        }
    }
}

/// What applying an entry gives its proposer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Applied {
    /// Nothing to tell.
    Nothing,
    /// Where a batch went.
    Appended(Appended),
    /// The log start after a trim.
    Trimmed(i64),
}

/// What an entry carries.
#[derive(Debug)]
pub(crate) enum Payload {
    /// The first entry of a leader.
    Blank,
    /// Voters and learners.
    Membership(Membership<u64, EmptyNode>),
    /// A new log start.
    Trim {
        /// The first offset that stays.
        log_start: i64,
    },
    /// A record batch.
    Batch {
        /// The batch.
        batch: RecordBatch,
        /// On the replica where it was submitted, for acks below `all`.
        ticket: Option<Ticket>,
    },
    /// The header of a batch: what apply reads.
    Head(BatchHeader),
}

/// Version of the encoding of control entries.
const CONTROL_VERSION: u8 = 1;
const KIND_BLANK: u8 = 0;
const KIND_MEMBERSHIP: u8 = 1;
const KIND_TRIM: u8 = 2;

impl Payload {
    /// The bytes of a control entry, or `None` for a batch.
    pub(crate) fn encode_control(&self) -> Option<Bytes> {
        match self {
            Self::Blank => Some(Bytes::from_static(&[CONTROL_VERSION, KIND_BLANK])),
            Self::Membership(membership) => {
                let mut out = BytesMut::with_capacity(64);
                out.put_slice(&[CONTROL_VERSION, KIND_MEMBERSHIP]);
                encode_membership(membership, &mut out);
                Some(out.freeze())
            }
            Self::Trim { log_start } => {
                let mut out = BytesMut::with_capacity(10);
                out.put_slice(&[CONTROL_VERSION, KIND_TRIM]);
                out.put_i64(*log_start);
                Some(out.freeze())
            }
            Self::Batch { .. } | Self::Head(_) => None,
        }
    }

    /// Reads what [`Self::encode_control`] wrote.
    pub(crate) fn decode_control(mut bytes: &[u8]) -> io::Result<Self> {
        if bytes.remaining() < 2 {
            return Err(malformed("a control entry is shorter than its header"));
        }
        let (version, kind) = (bytes.get_u8(), bytes.get_u8());
        if version != CONTROL_VERSION {
            return Err(malformed(&format!(
                "control entry of version {version}, this binary reads {CONTROL_VERSION}"
            )));
        }
        match kind {
            KIND_BLANK => Ok(Self::Blank),
            KIND_MEMBERSHIP => Ok(Self::Membership(decode_membership(&mut bytes)?)),
            KIND_TRIM if bytes.remaining() == 8 => Ok(Self::Trim { log_start: bytes.get_i64() }),
            _ => Err(malformed(&format!("control entry of kind {kind} with {} bytes", bytes.remaining()))),
        }
    }
}

/// Writes a membership.
pub(crate) fn encode_membership(membership: &Membership<u64, EmptyNode>, out: &mut BytesMut) {
    let configs = membership.get_joint_config();
    out.put_u32(configs.len() as u32);
    for config in configs {
        out.put_u32(config.len() as u32);
        for voter in config {
            out.put_u64(*voter);
        }
    }
    let nodes: Vec<u64> = membership.nodes().map(|(id, _)| *id).collect();
    out.put_u32(nodes.len() as u32);
    for node in nodes {
        out.put_u64(node);
    }
}

/// Reads what [`encode_membership`] wrote.
pub(crate) fn decode_membership(bytes: &mut &[u8]) -> io::Result<Membership<u64, EmptyNode>> {
    let mut configs = Vec::new();
    for _ in 0..get_count(bytes, 4)? {
        configs.push(get_ids(bytes)?);
    }
    let nodes: BTreeMap<u64, EmptyNode> = get_ids(bytes)?.into_iter().map(|id| (id, EmptyNode {})).collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|error| malformed(&format!("membership: {error}")))
}

fn get_ids(bytes: &mut &[u8]) -> io::Result<BTreeSet<u64>> {
    let count = get_count(bytes, 8)?;
    Ok((0..count).map(|_| bytes.get_u64()).collect())
}

/// A count, checked against the bytes that remain for elements of at least `element` bytes.
fn get_count(bytes: &mut &[u8], element: usize) -> io::Result<usize> {
    if bytes.remaining() < 4 {
        return Err(malformed("a count is missing"));
    }
    let count = bytes.get_u32() as usize;
    if count > bytes.remaining() / element {
        return Err(malformed(&format!("{count} elements in {} bytes", bytes.remaining())));
    }
    Ok(count)
}

fn malformed(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("blank"),
            Self::Membership(membership) => write!(f, "membership {membership}"),
            Self::Trim { log_start } => write!(f, "trim to {log_start}"),
            Self::Batch { batch, .. } => write!(f, "batch of {} bytes", batch.size()),
            Self::Head(header) => write!(f, "header of a batch of {} bytes", header.size()),
        }
    }
}

impl RaftPayload for Payload {
    type D = Proposal;
    type Node = EmptyNode;
    type NodeId = u64;

    fn blank() -> Self {
        Self::Blank
    }

    fn with_normal(self, data: Proposal) -> Self {
        match data {
            Proposal::Batch { batch, ticket } => Self::Batch { batch, ticket },
            Proposal::Trim { log_start } => Self::Trim { log_start },
        }
    }

    fn with_membership(self, membership: Membership<u64, EmptyNode>) -> Self {
        Self::Membership(membership)
    }

    fn get_membership(&self) -> Option<Membership<u64, EmptyNode>> {
        match self {
            Self::Membership(membership) => Some(membership.clone()),
            _ => None,
        }
    }
}

/// Brings the result of a write to whoever submitted it, without a oneshot and without an allocation: what it needs
/// to know is in the ticket, what to do with it is a plain function.
pub(crate) struct Responder<T> {
    ticket: Ticket,
    complete: fn(Ticket, T),
}

impl<T> Responder<T> {
    /// `complete` gets the ticket and the result.
    pub(crate) fn new(ticket: Ticket, complete: fn(Ticket, T)) -> Self {
        Self { ticket, complete }
    }
}

impl<T> RaftResponder<TypeConfig, T> for Responder<T>
where
    T: openraft::OptionalSend + 'static,
{
    fn on_complete(self, result: T) {
        (self.complete)(self.ticket, result);
    }
}
