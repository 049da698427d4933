//! Why a coordinator refuses, as facts; `broker` maps each variant to Kafka's code.

use std::sync::Arc;

/// An error of `consumer-groups`, or of the host that runs its state machines.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The group id is empty where it must not be, or null (24).
    #[error("the group id is invalid")]
    InvalidGroupId,
    /// The session timeout lies outside of the configured range (26).
    #[error("session timeout {timeout_ms} ms is outside of {min_ms}..={max_ms}")]
    InvalidSessionTimeout {
        /// What was asked for.
        timeout_ms: i32,
        /// `group.min.session.timeout.ms`.
        min_ms: i32,
        /// `group.max.session.timeout.ms`.
        max_ms: i32,
    },
    /// Join again with this member id (79, KIP-394).
    #[error("join again as {member_id}")]
    MemberIdRequired {
        /// The id made for the member.
        member_id: Arc<str>,
    },
    /// The group, or the member in it, is not known (25).
    #[error("the coordinator does not know this member")]
    UnknownMember,
    /// Another member took over this group instance id (82, KIP-345).
    #[error("another member uses this group instance id")]
    FencedInstance,
    /// The generation is not the group's current one (22).
    #[error("generation {generation} is not the current one")]
    IllegalGeneration {
        /// What the request carried.
        generation: i32,
    },
    /// The protocol type differs from the group's, or no protocol is common to all members (23).
    #[error("the member's protocols do not fit the group's")]
    InconsistentProtocol,
    /// The group rebalances: join again (27).
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    /// The group holds `group.max.size` members (81).
    #[error("the group holds its maximum of {max_size} members")]
    GroupFull {
        /// `group.max.size`.
        max_size: usize,
    },
    /// No such group (69).
    #[error("no such group")]
    GroupNotFound,
    /// The group has members (68).
    #[error("the group is not empty")]
    NonEmptyGroup,
    /// The metadata string of a commit is too long (12).
    #[error("commit metadata of {bytes} bytes is longer than {max_bytes}")]
    OffsetMetadataTooLarge {
        /// Its length.
        bytes: usize,
        /// `offset.metadata.max.bytes`.
        max_bytes: usize,
    },
    /// The records of one commit would be larger than all of them may be (28).
    #[error("a commit of {bytes} bytes is larger than {max_bytes}")]
    CommitTooLarge {
        /// Bytes of its records.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// What the group would have to store is larger than a record may be (-1, as in Kafka).
    #[error("the group's state of {bytes} bytes is larger than a record may be")]
    GroupTooLarge {
        /// Bytes of the record.
        bytes: usize,
    },
    /// The coordinator is still reading its partition (14).
    #[error("the coordinator is loading")]
    Loading,
    /// This node does not coordinate the group (16).
    #[error("this node is not the group's coordinator")]
    NotCoordinator,
    /// There is no coordinator at present (15).
    #[error("the coordinator is not available")]
    NotAvailable,
}

/// A record of `__consumer_offsets` that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It ends before its fields do.
    #[error("{what} ends early, at byte {position}")]
    Truncated {
        /// Which key or value.
        what: &'static str,
        /// Where.
        position: usize,
    },
    /// A string is not UTF-8, or is null where it must not be.
    #[error("{what} holds an invalid string at byte {position}")]
    InvalidString {
        /// Which key or value.
        what: &'static str,
        /// Where.
        position: usize,
    },
    /// A member, or a static member, stands there twice.
    #[error("{what} holds '{id}' twice")]
    Duplicate {
        /// Which value.
        what: &'static str,
        /// Its member id or instance id.
        id: Arc<str>,
    },
    /// Written by a newer version.
    #[error("version {version} of {what} is not known")]
    UnknownVersion {
        /// Which value.
        what: &'static str,
        /// Its version.
        version: i16,
    },
}
