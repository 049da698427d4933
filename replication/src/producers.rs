//! Producer state in two layers: what is committed, changed by apply alone, and what is in flight.
//!
//! ```text
//!   append ── admit ──> in flight (producer -> batches, each with the waiters of its duplicates)
//!                            │ apply                         │ loss of leadership
//!                            v                               v
//!                        committed (five batches each)      gone; the waiters are told
//! ```
//!
//! A batch is checked against the newer of both. A duplicate of a batch in flight joins its waiters: it is answered
//! once, with the original's offset, and appended never. What is in flight is no promise, so losing it costs nothing
//! but a retry; a truncation never has to rebuild anything.

use std::collections::{HashMap, VecDeque};

use log_store::{
    BatchHeader,
    producer_state::{ProducerState, SequenceCheck, check_sequence},
};

use crate::{ReplicationError, completion::Completion};

/// What became of a batch that was to be appended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It continues the sequence, and is in flight now.
    New,
    /// It was appended before.
    Duplicate {
        /// Offset of the original.
        base_offset: i64,
        /// Its largest timestamp, which Kafka answers here whatever the topic's timestamp type.
        timestamp: i64,
    },
    /// Its original is in flight: the completion will be answered with that.
    Joined,
}

/// A batch on its way.
#[derive(Debug)]
struct InFlight {
    epoch: i16,
    first: i32,
    last: i32,
    joined: Vec<Completion>,
}

/// The producers of one partition.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    committed: ProducerState,
    in_flight: HashMap<i64, VecDeque<InFlight>>,
}

impl Producers {
    /// Checks a batch with a producer id. A duplicate of a batch in flight takes `completion` with it, and leaves
    /// [`Completion::Nowhere`].
    ///
    /// # Errors
    /// [`ReplicationError::ProducerFenced`], [`ReplicationError::OutOfOrderSequence`].
    ///
    /// Source: KIP-98; `ProducerAppendInfo.checkSequence` of Kafka.
    pub(crate) fn admit(
        &mut self,
        header: &BatchHeader,
        completion: &mut Completion,
    ) -> Result<Admission, ReplicationError> {
        let (producer, epoch) = (header.producer_id, header.producer_epoch);
        let (first, last) = (header.base_sequence, header.last_sequence());
        let in_flight = self.in_flight.entry(producer).or_default();
        let committed = self.committed.get(producer);
        let newest = match (in_flight.back(), committed) {
            (Some(batch), _) => Some((batch.epoch, batch.last)),
            (None, state) => state.map(|state| (state.epoch, state.last_sequence())),
        };
        let flying =
            in_flight.iter_mut().find(|batch| (batch.epoch, batch.first, batch.last) == (epoch, first, last));
        let appended = committed.and_then(|state| state.find(epoch, first, last));
        let is_newest_epoch = newest.is_some_and(|(current, _)| current == epoch);
        let outcome = match (flying, appended) {
            (Some(original), _) if is_newest_epoch => {
                original.joined.push(std::mem::replace(completion, Completion::Nowhere));
                Ok(Admission::Joined)
            }
            (_, Some(batch)) if is_newest_epoch => {
                Ok(Admission::Duplicate { base_offset: batch.base_offset(), timestamp: batch.timestamp })
            }
            _ => match check_sequence(newest, epoch, first) {
                SequenceCheck::InOrder => Ok(Admission::New),
                SequenceCheck::OutOfOrder { expected } => {
                    Err(ReplicationError::OutOfOrderSequence { producer, sequence: first, expected })
                }
                SequenceCheck::Fenced { current } => {
                    Err(ReplicationError::ProducerFenced { producer, epoch, current })
                }
            },
        };
        if matches!(outcome, Ok(Admission::New)) {
            in_flight.push_back(InFlight { epoch, first, last, joined: Vec::new() });
        } else if in_flight.is_empty() {
            self.in_flight.remove(&producer);
        }
        outcome
    }

    /// A batch was applied: it counts from now on. Returns the waiters of its duplicates.
    pub(crate) fn apply(&mut self, header: &BatchHeader, now_ms: i64) -> Vec<Completion> {
        self.committed.apply(header, now_ms);
        let (producer, epoch) = (header.producer_id, header.producer_epoch);
        let (first, last) = (header.base_sequence, header.last_sequence());
        let Some(in_flight) = self.in_flight.get_mut(&producer) else { return Vec::new() };
        let Some(at) = in_flight
            .iter()
            .position(|flying| (flying.epoch, flying.first, flying.last) == (epoch, first, last))
        else {
            return Vec::new();
        };
        let joined = in_flight.remove(at).map(|flying| flying.joined).unwrap_or_default();
        if in_flight.is_empty() {
            self.in_flight.remove(&producer);
        }
        joined
    }

    /// The batch that begins with `sequence` will not be appended; what its producer sent after it cannot be either.
    /// Returns the waiters of their duplicates.
    pub(crate) fn fail_from(&mut self, producer: i64, sequence: i32) -> Vec<Completion> {
        let Some(in_flight) = self.in_flight.get_mut(&producer) else { return Vec::new() };
        let Some(at) = in_flight.iter().position(|batch| batch.first == sequence) else { return Vec::new() };
        let joined = in_flight.drain(at..).flat_map(|batch| batch.joined).collect();
        if in_flight.is_empty() {
            self.in_flight.remove(&producer);
        }
        joined
    }

    /// Leadership is gone: nothing is in flight any more. Returns the waiters of duplicates.
    pub(crate) fn lose_in_flight(&mut self) -> Vec<Completion> {
        self.in_flight.drain().flat_map(|(_, batches)| batches).flat_map(|batch| batch.joined).collect()
    }

    /// Forgets producers that appended nothing since `before_ms` (`producer.id.expiration.ms`).
    pub(crate) fn expire(&mut self, before_ms: i64) {
        self.committed.expire(before_ms, |producer| self.in_flight.contains_key(&producer));
    }

    /// Producers as of a prefix of the log.
    pub(crate) fn from_committed(committed: ProducerState) -> Self {
        Self { committed, in_flight: HashMap::new() }
    }

    /// The bytes of a `.snapshot` file.
    pub(crate) fn to_snapshot(&self) -> Vec<u8> {
        self.committed.to_snapshot()
    }
}

/// `max_timestamp` where the broker wrote it, else -1.
pub(crate) fn log_append_time(header: &BatchHeader) -> i64 {
    if header.is_log_append_time() { header.max_timestamp } else { -1 }
}
