//! Kafka consumer groups as state machines without clock, thread, socket or randomness.
//!
//! ```text
//!   request, now, entropy                         records of __consumer_offsets, in order of offset
//!            |                                                     |
//!            v                                                     v
//!   Coordinator::handle, tick                            Coordinator::replay, loaded
//!            |
//!            v
//!   Outcome { records to append, answers to send once they are committed }
//! ```
//! The caller owns the log and the time. It appends what an [`Outcome`] holds in the order of the calls, answers when
//! that and everything before it is committed, calls [`Coordinator::tick`] at [`Coordinator::next_deadline`], and throws
//! the state away when an append fails.
//!
//! Invariants: every request is answered exactly once, at once or by a later outcome; replaying the records that were
//! given out yields the offsets, and the groups as of their last finished rebalance; what is read reflects everything
//! handled before.
//!
//! Reading order: [`request`], [`coordinator`], [`classic`], [`offsets`], [`record`], `deadlines`, [`error`].

pub mod classic;
pub mod coordinator;
mod deadlines;
pub mod error;
pub mod offsets;
pub mod record;
pub mod request;

pub use classic::State;
pub use coordinator::{Coordinator, GroupConfig, Outcome, StoredOffset};
pub use error::{GroupError, RecordError};
pub use record::{Key, Record};
pub use request::{Request, Response, Token};

/// The partition of `__consumer_offsets`, of `partitions`, that holds a group: as Kafka's clients and tools compute it,
/// from Java's hash of the id's UTF-16.
pub fn partition_for(group_id: &str, partitions: i32) -> i32 {
    let hash =
        group_id.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // Kafka's `abs`: the smallest integer, which has no absolute value, becomes 0.
    hash.checked_abs().unwrap_or(0) % partitions
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod scripts;

#[cfg(test)]
mod tests {
    use super::partition_for;

    /// Values of Kafka's `Utils.abs(groupId.hashCode()) % 50`.
    #[test]
    fn groups_are_spread_as_in_kafka() {
        // "polygenelubricants".hashCode() == i32::MIN, "hello".hashCode() == 99162322, "".hashCode() == 0
        assert_eq!(partition_for("polygenelubricants", 50), 0);
        assert_eq!(partition_for("hello", 50), 22);
        assert_eq!(partition_for("", 50), 0);
        // "dashboard".hashCode() == -1047860588
        assert_eq!(partition_for("dashboard", 50), 38);
        assert_eq!(partition_for("console-consumer-1", 50), 24);
    }
}
