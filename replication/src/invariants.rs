//! What must hold in every Raft group, checked while it runs, in release builds too.
//!
//! openraft is alpha software and our storage is ours: neither is believed. A violation ends the group (its core gets
//! an error, its clients get the storage error, the log says what broke); it never ends the node, and nothing is
//! acknowledged after it.

use std::{collections::VecDeque, fmt};

use log_store::{LogId, Vote};

/// What did not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A vote of an older term was saved.
    #[error("the term fell from {from} to {to}")]
    TermFell {
        /// The term before.
        from: u64,
        /// The one that came.
        to: u64,
    },
    /// The committed entry moved backwards.
    #[error("the committed entry fell from {from:?} to {to:?}")]
    CommittedFell {
        /// The entry before.
        from: LogId,
        /// The one that came.
        to: Option<LogId>,
    },
    /// An entry counts as committed that a quorum does not have on disk.
    #[error("entry {committed:?} is committed but durable only up to {durable:?}")]
    CommittedNotDurable {
        /// The committed entry.
        committed: LogId,
        /// The last durable one.
        durable: Option<LogId>,
    },
    /// An entry was said to be durable after a later one was: what counts as durable would fall back.
    #[error("entry {next:?} was said to be durable after {last:?}")]
    ToldOutOfOrder {
        /// The entry before.
        last: LogId,
        /// The one that came.
        next: LogId,
    },
    /// Apply left entries out, or saw one twice.
    #[error("entry {next:?} was applied after {last:?}")]
    ApplyGap {
        /// The last applied entry.
        last: LogId,
        /// What came.
        next: LogId,
    },
    /// Two contents under one index and term.
    #[error("entry {log_id:?} has checksums {first:#010x} and {second:#010x}")]
    TwoChecksums {
        /// The entry.
        log_id: LogId,
        /// What was seen first.
        first: u32,
        /// What came.
        second: u32,
    },
    /// The offset line is out of order.
    #[error("log start {log_start} <= high watermark {high_watermark} <= log end {log_end} does not hold")]
    OffsetLine {
        /// Log start.
        log_start: i64,
        /// High watermark.
        high_watermark: i64,
        /// Log end.
        log_end: i64,
    },
    /// Two leaders in one term.
    #[error("term {term} has the leaders {first} and {second}")]
    TwoLeaders {
        /// The term.
        term: u64,
        /// The replica seen first.
        first: u64,
        /// The other.
        second: u64,
    },
}

/// Checksums for which there is room while few entries are in flight; a burst's room is given back after it.
const CHECKSUMS: usize = 16;

/// What was seen of one group so far.
#[derive(Default)]
pub(crate) struct Invariants {
    term: u64,
    leader: Option<(u64, u64)>,
    committed: Option<LogId>,
    applied: Option<LogId>,
    /// The last entry that was said to be durable.
    told: Option<LogId>,
    /// (entry, checksum) of what was appended and is not applied yet, and of the entry applied last; no gaps, oldest first.
    checksums: VecDeque<(LogId, u32)>,
    /// openraft's storage suite applies entries with gaps between them, and others than it appended.
    #[cfg(test)]
    pub(crate) gaps_allowed: bool,
}

impl fmt::Debug for Invariants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invariants")
            .field("term", &self.term)
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

impl Invariants {
    /// A group as it was recovered.
    pub(crate) fn new(vote: Option<Vote>, committed: Option<LogId>, applied: Option<LogId>) -> Self {
        Self {
            term: vote.map_or(0, |vote| vote.term),
            leader: vote.filter(|vote| vote.committed).map(|vote| (vote.term, vote.node)),
            committed,
            applied,
            told: None,
            checksums: VecDeque::new(),
            #[cfg(test)]
            gaps_allowed: false,
        }
    }

    /// A vote is about to be saved.
    pub(crate) fn vote(&mut self, vote: Vote) -> Result<(), Violation> {
        if vote.term < self.term {
            return Err(Violation::TermFell { from: self.term, to: vote.term });
        }
        self.term = vote.term;
        if vote.committed {
            match self.leader {
                Some((term, first)) if term == vote.term && first != vote.node => {
                    return Err(Violation::TwoLeaders { term, first, second: vote.node });
                }
                _ => self.leader = Some((vote.term, vote.node)),
            }
        }
        Ok(())
    }

    /// An entry was appended, or read back: `checksum` is that of its content.
    pub(crate) fn entry(&mut self, log_id: LogId, checksum: u32) -> Result<(), Violation> {
        #[cfg(test)]
        if self.gaps_allowed {
            return Ok(());
        }
        let at = match self.checksums.front() {
            // read back after it was let go
            Some((first, _)) if log_id.index < first.index => return Ok(()),
            Some((first, _)) => (log_id.index - first.index) as usize,
            None => 0,
        };
        match self.checksums.get(at) {
            Some(&(seen, first)) if seen == log_id => {
                return if first == checksum {
                    Ok(())
                } else {
                    Err(Violation::TwoChecksums { log_id, first, second: checksum })
                };
            }
            // another term's: the log was cut here
            Some(_) => self.checksums.truncate(at),
            // what is between was installed
            None if at > self.checksums.len() => self.checksums.clear(),
            None => {}
        }
        self.checksums.push_back((log_id, checksum));
        Ok(())
    }

    /// Everything up to `last` is said to be durable.
    pub(crate) fn told(&mut self, last: LogId) -> Result<(), Violation> {
        #[cfg(test)]
        if self.gaps_allowed {
            return Ok(());
        }
        match self.told.replace(last) {
            Some(before) if last < before => Err(Violation::ToldOutOfOrder { last: before, next: last }),
            _ => Ok(()),
        }
    }

    /// The log was cut behind `last`, and everybody who waited for an entry behind it was told.
    pub(crate) fn cut(&mut self, last: Option<LogId>) {
        self.told = last;
    }

    /// openraft counts `committed` as committed; `durable` is what this replica has on disk, where its own disk
    /// alone makes the quorum.
    pub(crate) fn commit(
        &mut self,
        committed: Option<LogId>,
        durable: Option<Option<LogId>>,
    ) -> Result<(), Violation> {
        if committed < self.committed
            && let Some(from) = self.committed
        {
            return Err(Violation::CommittedFell { from, to: committed });
        }
        if let (Some(committed), Some(durable)) = (committed, durable)
            && durable.is_none_or(|durable| durable < committed)
        {
            return Err(Violation::CommittedNotDurable { committed, durable });
        }
        self.committed = committed;
        Ok(())
    }

    /// An entry is about to be applied.
    pub(crate) fn apply(&mut self, next: LogId) -> Result<(), Violation> {
        #[cfg(test)]
        if self.gaps_allowed {
            return Ok(());
        }
        if let Some(last) = self.applied
            && (next.index != last.index + 1 || next.term < last.term)
        {
            return Err(Violation::ApplyGap { last, next });
        }
        self.applied = Some(next);
        while self.checksums.front().is_some_and(|(first, _)| first.index < next.index) {
            self.checksums.pop_front();
        }
        if self.checksums.len() < CHECKSUMS && self.checksums.capacity() > 16 * CHECKSUMS {
            self.checksums.shrink_to(CHECKSUMS);
        }
        Ok(())
    }

    /// A snapshot replaced everything up to `last`.
    pub(crate) fn installed(&mut self, last: Option<LogId>) {
        self.applied = last;
        self.committed = self.committed.max(last);
    }

    /// The offset line, whenever one of its points moved.
    pub(crate) fn offsets(log_start: i64, high_watermark: i64, log_end: i64) -> Result<(), Violation> {
        if log_start <= high_watermark && high_watermark <= log_end {
            return Ok(());
        }
        Err(Violation::OffsetLine { log_start, high_watermark, log_end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId { term, index }
    }

    fn vote(term: u64, node: u64, committed: bool) -> Vote {
        Vote { term, node, committed }
    }

    /// Proves: R01 (the checks trip): each invariant accepts a legal history and names what breaks it.
    #[test]
    fn each_invariant_trips_when_it_is_violated() {
        let mut group = Invariants::new(Some(vote(3, 1, true)), Some(id(3, 5)), Some(id(3, 5)));
        group.vote(vote(4, 1, false)).unwrap();
        group.vote(vote(4, 1, true)).unwrap();
        assert_eq!(group.vote(vote(3, 1, false)), Err(Violation::TermFell { from: 4, to: 3 }));
        assert_eq!(group.vote(vote(4, 2, true)), Err(Violation::TwoLeaders { term: 4, first: 1, second: 2 }));

        group.commit(Some(id(4, 6)), Some(Some(id(4, 6)))).unwrap();
        assert_eq!(
            group.commit(Some(id(3, 5)), None),
            Err(Violation::CommittedFell { from: id(4, 6), to: Some(id(3, 5)) })
        );
        assert_eq!(
            group.commit(Some(id(4, 7)), Some(Some(id(4, 6)))),
            Err(Violation::CommittedNotDurable { committed: id(4, 7), durable: Some(id(4, 6)) })
        );
        assert_eq!(
            group.commit(Some(id(4, 7)), Some(None)),
            Err(Violation::CommittedNotDurable { committed: id(4, 7), durable: None })
        );
        group.commit(Some(id(4, 7)), None).unwrap();

        group.apply(id(4, 6)).unwrap();
        assert_eq!(group.apply(id(4, 8)), Err(Violation::ApplyGap { last: id(4, 6), next: id(4, 8) }));
        assert_eq!(group.apply(id(4, 6)), Err(Violation::ApplyGap { last: id(4, 6), next: id(4, 6) }));
        assert_eq!(group.apply(id(3, 7)), Err(Violation::ApplyGap { last: id(4, 6), next: id(3, 7) }));
        group.installed(Some(id(4, 20)));
        group.apply(id(4, 21)).unwrap();

        let two = |log_id, first, second| Err(Violation::TwoChecksums { log_id, first, second });
        for index in 22..122 {
            group.entry(id(4, index), 7).unwrap();
        }
        for index in 22..122 {
            group.apply(id(4, index)).unwrap();
            assert_eq!(group.entry(id(4, index), 8), two(id(4, index), 7, 8), "however much is in flight");
            group.entry(id(4, index), 7).unwrap();
        }
        group.entry(id(4, 122), 7).unwrap();
        group.entry(id(4, 123), 7).unwrap();
        group.entry(id(5, 122), 8).unwrap();
        group.entry(id(5, 123), 8).unwrap();
        assert_eq!(group.entry(id(5, 122), 7), two(id(5, 122), 8, 7));

        group.told(id(4, 121)).unwrap();
        group.told(id(4, 123)).unwrap();
        group.cut(Some(id(4, 121)));
        group.told(id(5, 122)).unwrap();
        assert_eq!(
            group.told(id(4, 123)),
            Err(Violation::ToldOutOfOrder { last: id(5, 122), next: id(4, 123) })
        );

        Invariants::offsets(0, 0, 0).unwrap();
        Invariants::offsets(3, 5, 9).unwrap();
        assert!(Invariants::offsets(6, 5, 9).is_err());
        assert!(Invariants::offsets(3, 10, 9).is_err());
    }
}
