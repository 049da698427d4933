//! The history checker: what clients saw, judged by the definitions of Jepsen's Kafka workload.
//!
//! A history is what was sent (each value once, with what the producer was told) and what was read. Every value names the
//! partition and the producer it belongs to, so that a misrouted record shows. An answer counts as [`Outcome::Acked`]
//! only where the wire said error 0 under acks=all; a definite refusal before the append is [`Outcome::Refused`]; everything
//! else (a broken connection, a time-out) may or may not have happened.
//!
//! [`History::check`] finds: a value lost although acknowledged ([`Anomaly::Lost`], [`Anomaly::Unseen`]), a value twice
//! ([`Anomaly::Duplicate`]), an offset with two values ([`Anomaly::InconsistentOffset`]), a value at another offset than was
//! acknowledged ([`Anomaly::Moved`]), a producer's values out of order ([`Anomaly::Reordered`]), a refused value that was read
//! ([`Anomaly::RefusedRead`]), a value in another partition or from nowhere ([`Anomaly::Misrouted`]), and a reader that jumps
//! back or ahead ([`Anomaly::NonMonotonicPoll`], [`Anomaly::PollSkip`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A record's value: who sent it, where to, and its number among that producer's values for that partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Value {
    /// The producer.
    pub(crate) producer: u32,
    /// The partition it was sent to.
    pub(crate) partition: i32,
    /// Its number, rising by one for each value of this producer and partition.
    pub(crate) number: u64,
}

impl Value {
    /// The text that goes into the record.
    pub(crate) fn to_text(self) -> String {
        format!("{}:{}:{}", self.producer, self.partition, self.number)
    }

    /// Reads [`Value::to_text`]; whatever follows a space is padding.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut parts = text.split(' ').next()?.split(':');
        let value = Self {
            producer: parts.next()?.parse().ok()?,
            partition: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(value)
    }
}

/// What a producer was told of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Error 0 under acks=all, with the record's offset.
    Acked(i64),
    /// Refused before it was appended, by the only attempt there was.
    Refused,
    /// Unknown: no answer, or one that says nothing definite.
    Unknown,
}

/// One poll: records of one partition in the order they came.
#[derive(Clone, Debug)]
pub(crate) struct Poll {
    /// Who read; consecutive polls of one reader must follow each other.
    pub(crate) reader: u32,
    /// From which partition.
    pub(crate) partition: i32,
    /// (offset, value).
    pub(crate) records: Vec<(i64, Value)>,
    /// Whether the reader chose its position anew just before.
    pub(crate) seeked: bool,
}

/// What a history must not show.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Anomaly {
    /// Acknowledged, and a later value of the log was read, but this one never.
    Lost(Value),
    /// Acknowledged and never read, not even by the final reads.
    Unseen(Value),
    /// At two offsets.
    Duplicate(Value, i64, i64),
    /// Two values at one offset of a partition.
    InconsistentOffset(i32, i64),
    /// Acknowledged at the first offset, read at the second.
    Moved(Value, i64, i64),
    /// The second value of a producer stands before the first although it was sent later.
    Reordered(Value, Value),
    /// Refused, yet read.
    RefusedRead(Value),
    /// Read in this partition, or never sent by anybody.
    Misrouted(Value, i32),
    /// A reader saw this offset of the partition at or behind where it already was.
    NonMonotonicPoll(u32, i32, i64),
    /// A reader passed over this offset of the partition, which holds a record.
    PollSkip(u32, i32, i64),
}

/// What was sent and what was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    sends: Vec<(Value, Outcome)>,
    polls: Vec<Poll>,
}

impl History {
    /// Notes what became of a value. Each value is noted once.
    pub(crate) fn sent(&mut self, value: Value, outcome: Outcome) {
        self.sends.push((value, outcome));
    }

    /// Notes a poll.
    pub(crate) fn polled(&mut self, poll: Poll) {
        self.polls.push(poll);
    }

    /// Values acknowledged.
    pub(crate) fn acked(&self) -> usize {
        self.sends.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Acked(_))).count()
    }

    /// All anomalies, sorted, each once. The history must end with final reads of every partition from its start.
    pub(crate) fn check(&self) -> Vec<Anomaly> {
        let mut found = BTreeSet::new();
        let outcomes: HashMap<Value, Outcome> = self.sends.iter().copied().collect();
        assert_eq!(outcomes.len(), self.sends.len(), "a value was noted twice: the history itself is wrong");

        let mut logs: BTreeMap<i32, BTreeMap<i64, BTreeSet<Value>>> = BTreeMap::new();
        let mut read: BTreeMap<i32, BTreeMap<Value, BTreeSet<i64>>> = BTreeMap::new();
        for (value, outcome) in &self.sends {
            if let Outcome::Acked(offset) = outcome {
                logs.entry(value.partition).or_default().entry(*offset).or_default().insert(*value);
            }
        }
        for poll in &self.polls {
            for (offset, value) in &poll.records {
                logs.entry(poll.partition).or_default().entry(*offset).or_default().insert(*value);
                read.entry(poll.partition).or_default().entry(*value).or_default().insert(*offset);
                match outcomes.get(value) {
                    Some(Outcome::Refused) => drop(found.insert(Anomaly::RefusedRead(*value))),
                    Some(_) if value.partition == poll.partition => {}
                    _ => drop(found.insert(Anomaly::Misrouted(*value, poll.partition))),
                }
            }
        }

        for (partition, log) in &logs {
            for (offset, values) in log {
                if values.len() > 1 {
                    found.insert(Anomaly::InconsistentOffset(*partition, *offset));
                }
            }
            let read = read.get(partition);
            let highest_read = read.iter().flat_map(|values| values.values().flatten()).max().copied();
            for (value, outcome) in self.sends.iter().filter(|(value, _)| value.partition == *partition) {
                let offsets = read.and_then(|values| values.get(value));
                match (outcome, offsets) {
                    (Outcome::Acked(offset), None)
                        if highest_read.is_some_and(|highest| *offset <= highest) =>
                    {
                        found.insert(Anomaly::Lost(*value));
                    }
                    (Outcome::Acked(_), None) => drop(found.insert(Anomaly::Unseen(*value))),
                    (Outcome::Acked(offset), Some(offsets)) if !offsets.contains(offset) => {
                        found.insert(Anomaly::Moved(
                            *value,
                            *offset,
                            offsets.iter().copied().next().unwrap_or(-1),
                        ));
                    }
                    _ => {}
                }
            }
            for (value, offsets) in read.into_iter().flatten() {
                let mut offsets = offsets.iter();
                if let (Some(first), Some(second)) = (offsets.next(), offsets.next()) {
                    found.insert(Anomaly::Duplicate(*value, *first, *second));
                }
            }
            let mut last: HashMap<u32, Value> = HashMap::new();
            for value in log.values().flatten() {
                if let Some(before) = last.insert(value.producer, *value)
                    && before.number > value.number
                {
                    found.insert(Anomaly::Reordered(*value, before));
                }
            }
        }
        self.check_readers(&logs, &mut found);
        found.into_iter().collect()
    }

    fn check_readers(
        &self,
        logs: &BTreeMap<i32, BTreeMap<i64, BTreeSet<Value>>>,
        found: &mut BTreeSet<Anomaly>,
    ) {
        let mut positions: HashMap<(u32, i32), i64> = HashMap::new();
        for poll in &self.polls {
            let key = (poll.reader, poll.partition);
            if poll.seeked {
                positions.remove(&key);
            }
            for (offset, _) in &poll.records {
                if let Some(before) = positions.insert(key, *offset) {
                    if *offset <= before {
                        found.insert(Anomaly::NonMonotonicPoll(poll.reader, poll.partition, *offset));
                    } else if let Some(skipped) =
                        logs.get(&poll.partition).and_then(|log| log.range(before + 1..*offset).next())
                    {
                        found.insert(Anomaly::PollSkip(poll.reader, poll.partition, *skipped.0));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(producer: u32, number: u64) -> Value {
        Value { producer, partition: 0, number }
    }

    /// Three acknowledged values of one producer, read once from the start.
    fn clean() -> History {
        let mut history = History::default();
        for number in 0..3 {
            history.sent(value(1, number), Outcome::Acked(number as i64));
        }
        history.polled(Poll {
            reader: 9,
            partition: 0,
            records: (0..3).map(|number| (number as i64, value(1, number))).collect(),
            seeked: true,
        });
        history
    }

    fn poll(reader: u32, records: &[(i64, Value)]) -> Poll {
        Poll { reader, partition: 0, records: records.to_vec(), seeked: false }
    }

    /// Proves: fault C01.
    #[test]
    fn a_clean_history_passes() {
        assert_eq!(clean().check(), []);
        let mut unknown = clean();
        unknown.sent(value(2, 0), Outcome::Unknown);
        unknown.sent(value(2, 1), Outcome::Unknown);
        unknown.polled(Poll { seeked: true, ..poll(9, &[(3, value(2, 1))]) });
        assert_eq!(unknown.check(), [], "an unknown outcome may be in the log or not");
    }

    /// Planted: each anomaly alone, and the checker names it.
    ///
    /// Proves: fault C01.
    #[test]
    fn every_planted_anomaly_is_found() {
        let mut lost = clean();
        lost.sent(value(2, 0), Outcome::Acked(3));
        lost.sent(value(2, 1), Outcome::Acked(4));
        lost.polled(Poll { seeked: true, ..poll(9, &[(4, value(2, 1))]) });
        assert_eq!(lost.check(), [Anomaly::Lost(value(2, 0))]);

        let mut unseen = clean();
        unseen.sent(value(2, 0), Outcome::Acked(3));
        assert_eq!(unseen.check(), [Anomaly::Unseen(value(2, 0))]);

        let mut twice = clean();
        twice.polled(poll(9, &[(3, value(1, 2))]));
        assert_eq!(twice.check(), [Anomaly::Duplicate(value(1, 2), 2, 3)]);

        let mut overwritten = clean();
        overwritten.sent(value(2, 0), Outcome::Unknown);
        overwritten.polled(Poll { seeked: true, ..poll(8, &[(1, value(2, 0))]) });
        assert_eq!(overwritten.check(), [Anomaly::InconsistentOffset(0, 1)]);

        let mut moved = clean();
        moved.sent(value(2, 0), Outcome::Acked(7));
        moved.polled(poll(9, &[(3, value(2, 0))]));
        assert_eq!(moved.check(), [Anomaly::Moved(value(2, 0), 7, 3)]);

        let mut reordered = clean();
        reordered.sent(value(2, 0), Outcome::Acked(4));
        reordered.sent(value(2, 1), Outcome::Acked(3));
        reordered.polled(poll(9, &[(3, value(2, 1)), (4, value(2, 0))]));
        assert_eq!(reordered.check(), [Anomaly::Reordered(value(2, 0), value(2, 1))]);

        let mut refused = clean();
        refused.sent(value(2, 0), Outcome::Refused);
        refused.polled(poll(9, &[(3, value(2, 0))]));
        assert_eq!(refused.check(), [Anomaly::RefusedRead(value(2, 0))]);

        let mut stray = clean();
        stray.polled(poll(9, &[(3, value(7, 0))]));
        assert_eq!(stray.check(), [Anomaly::Misrouted(value(7, 0), 0)]);

        let mut back = clean();
        back.polled(poll(9, &[(1, value(1, 1))]));
        assert_eq!(back.check(), [Anomaly::NonMonotonicPoll(9, 0, 1)]);

        let mut skip = clean();
        skip.polled(Poll { seeked: true, ..poll(8, &[(0, value(1, 0)), (2, value(1, 2))]) });
        assert_eq!(skip.check(), [Anomaly::PollSkip(8, 0, 1)]);
    }

    #[test]
    fn values_survive_their_text() {
        let written = Value { producer: 3, partition: 7, number: 1 << 40 };
        assert_eq!(Value::parse(written.to_text().as_bytes()), Some(written));
        assert_eq!(Value::parse(format!("{} padding", written.to_text()).as_bytes()), Some(written));
        assert_eq!(Value::parse(b"3:7"), None);
        assert_eq!(Value::parse(b"3:7:1:2"), None);
    }
}
