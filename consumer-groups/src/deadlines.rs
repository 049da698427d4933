//! Timeouts as data: what falls due when. The caller's one timer sleeps until [`Deadlines::next`].

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// What falls due.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Deadline {
    /// A member has been silent for its session timeout.
    Session {
        /// The group.
        group_id: Arc<str>,
        /// The member, pending ones too.
        member_id: Arc<str>,
    },
    /// Members had time to join.
    Join {
        /// The group.
        group_id: Arc<str>,
    },
    /// Members had time to fetch their assignment.
    Sync {
        /// The group.
        group_id: Arc<str>,
    },
    /// Look for expired offsets.
    Expiry,
}

/// A set of deadlines, each at most once, in order of time.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    due: HashMap<Deadline, i64>,
    order: BTreeSet<(i64, Deadline)>,
}

impl Deadlines {
    /// Sets or moves a deadline.
    pub(crate) fn set(&mut self, deadline: Deadline, due_ms: i64) {
        if let Some(earlier) = self.due.insert(deadline.clone(), due_ms) {
            if earlier == due_ms {
                return;
            }
            self.order.remove(&(earlier, deadline.clone()));
        }
        self.order.insert((due_ms, deadline));
    }

    /// Takes a deadline away, if it is set.
    pub(crate) fn cancel(&mut self, deadline: &Deadline) {
        if let Some(due_ms) = self.due.remove(deadline) {
            self.order.remove(&(due_ms, deadline.clone()));
        }
    }

    /// Whether a deadline is set.
    pub(crate) fn is_set(&self, deadline: &Deadline) -> bool {
        self.due.contains_key(deadline)
    }

    /// When the next one falls due.
    pub(crate) fn next(&self) -> Option<i64> {
        self.order.first().map(|(due_ms, _)| *due_ms)
    }

    /// Moves all of them, as the clock by which they were set moves.
    pub(crate) fn shift(&mut self, by_ms: i64) {
        self.due.values_mut().for_each(|due_ms| *due_ms = due_ms.saturating_add(by_ms));
        self.order = self.due.iter().map(|(deadline, due_ms)| (*due_ms, deadline.clone())).collect();
    }

    /// Takes the earliest deadline that is due at `now_ms`.
    pub(crate) fn pop(&mut self, now_ms: i64) -> Option<Deadline> {
        if self.next()? > now_ms {
            return None;
        }
        let (_, deadline) = self.order.pop_first()?;
        self.due.remove(&deadline);
        Some(deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(group: &str) -> Deadline {
        Deadline::Join { group_id: group.into() }
    }

    /// A moved deadline fires once, at its new time.
    #[test]
    fn moved_and_cancelled() {
        let mut deadlines = Deadlines::default();
        deadlines.set(join("a"), 10);
        deadlines.set(join("b"), 20);
        deadlines.set(join("a"), 30);
        assert_eq!(deadlines.next(), Some(20));
        assert_eq!(deadlines.pop(19), None);
        assert_eq!(deadlines.pop(40), Some(join("b")));
        assert_eq!(deadlines.pop(40), Some(join("a")));
        assert_eq!(deadlines.pop(40), None);
        deadlines.set(join("c"), 50);
        deadlines.cancel(&join("c"));
        assert!(!deadlines.is_set(&join("c")));
        assert_eq!(deadlines.next(), None);
    }
}
