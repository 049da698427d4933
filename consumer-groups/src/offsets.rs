//! Stored offsets: how large their records are, and when they expire.
//!
//! An offset goes when its retention has passed, counted from the moment the group became empty, or from the commit
//! where nobody ever joined the group (a consumer that only stores offsets) or where its members no longer read the
//! topic. Offsets of topics that members read stay, and so do those of a group that is rebalancing. An expiry time that
//! the client asked for (OffsetCommit v2 to v4) stands instead of the retention.
//!
//! Source: KIP-211.

use std::sync::Arc;

use crate::{
    classic::ClassicGroup,
    request::{CommittedOffset, OffsetsByTopic},
};

/// The offsets of a group that have expired.
pub(crate) fn expired(
    group: &ClassicGroup,
    offsets: &OffsetsByTopic,
    now_ms: i64,
    retention_ms: i64,
) -> Vec<(Arc<str>, i32)> {
    let has_expired = |committed: &CommittedOffset| {
        group.retention_start_ms(committed.commit_timestamp_ms).is_some_and(|start_ms| {
            match committed.expire_timestamp_ms {
                Some(expire_ms) => now_ms >= expire_ms,
                None => now_ms.saturating_sub(start_ms) >= retention_ms,
            }
        })
    };
    let mut gone = Vec::new();
    for (topic, partitions) in offsets.iter().filter(|(topic, _)| !group.is_subscribed_to(topic)) {
        let expired = partitions.iter().filter(|(_, committed)| has_expired(committed));
        gone.extend(expired.map(|(&partition, _)| (topic.clone(), partition)));
    }
    gone
}

/// Bytes of the key of an offset.
pub(crate) fn key_bytes(group_id: &str, topic: &str) -> usize {
    2 + 2 + group_id.len() + 2 + topic.len() + 4
}

impl CommittedOffset {
    /// Bytes of [`CommittedOffset::encode`].
    pub fn encoded_len(&self) -> usize {
        let text = self.metadata.len();
        if self.expire_timestamp_ms.is_some() {
            return 2 + 8 + 2 + text + 8 + 8;
        }
        let length = match text + 1 {
            0..0x80 => 1,
            0x80..0x4000 => 2,
            _ => 3,
        };
        let tags = if self.topic_id.is_nil() { 1 } else { 1 + 2 + 16 };
        2 + 8 + 4 + length + text + 8 + tags
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, Bytes, BytesMut};
    use uuid::Uuid;

    use crate::{
        Coordinator, GroupConfig, Outcome, Record, Request, Response, Token,
        request::{
            Heartbeat, JoinGroup, LeaveGroup, LeavingMember, OffsetCommit, PartitionCommit, SyncGroup,
        },
    };

    const RETENTION_MS: i64 = 10_000;

    struct Run {
        coordinator: Coordinator,
        now_ms: i64,
    }

    impl Run {
        fn new() -> Self {
            let config = GroupConfig {
                initial_rebalance_delay_ms: 0,
                offsets_retention_ms: RETENTION_MS,
                offsets_retention_check_interval_ms: 100,
                ..GroupConfig::default()
            };
            Self { coordinator: Coordinator::new(config), now_ms: 1_000_000 }
        }

        fn ask(&mut self, request: Request) -> Response {
            let outcome = self.coordinator.handle(request, Token(1), 7, self.now_ms);
            let [(_, response)] = &outcome.replies[..] else { panic!("{:?}", outcome.replies) };
            response.clone()
        }

        /// Lets time pass, without a check missed.
        fn wait(&mut self, ms: i64) {
            for _ in 0..ms / 100 {
                self.now_ms += 100;
                let Outcome { .. } = self.coordinator.tick(self.now_ms);
            }
        }

        fn commit(&mut self, topic: &str, member_id: &str, generation: i32) {
            self.commit_of(topic, Uuid::from_u128(1), member_id, generation);
        }

        fn commit_of(&mut self, topic: &str, topic_id: Uuid, member_id: &str, generation: i32) {
            let offset = PartitionCommit {
                topic: topic.into(),
                topic_id,
                partition: 0,
                offset: 5,
                leader_epoch: -1,
                metadata: "".into(),
            };
            let commit = OffsetCommit {
                group_id: "group".into(),
                member_id: member_id.into(),
                instance_id: None,
                generation,
                knows_group_not_found: true,
                retention_ms: None,
                offsets: vec![offset],
            };
            assert_eq!(self.ask(Request::OffsetCommit(commit)), Response::OffsetCommit(Ok(vec![Ok(())])));
        }

        fn topics(&self) -> Vec<String> {
            self.coordinator.offsets().map(|stored| stored.topic.to_string()).collect()
        }

        /// A stable group of one member that reads `read`; its id.
        fn join(&mut self) -> String {
            let mut subscription = BytesMut::new();
            subscription.put_i16(0);
            subscription.put_i32(1);
            subscription.put_i16(4);
            subscription.put_slice(b"read");
            subscription.put_i32(-1);
            let join = JoinGroup {
                group_id: "group".into(),
                member_id: "".into(),
                instance_id: None,
                client_id: "client".into(),
                client_host: "/127.0.0.1".into(),
                session_timeout_ms: 6_000,
                rebalance_timeout_ms: 6_000,
                protocol_type: "consumer".into(),
                protocols: vec![("range".into(), subscription.freeze())],
                requires_known_member_id: false,
                supports_skip_assignment: true,
                reason: None,
            };
            let outcome = self.coordinator.handle(Request::JoinGroup(join), Token(1), 7, self.now_ms);
            let outcome =
                if outcome.replies.is_empty() { self.coordinator.tick(self.now_ms) } else { outcome };
            let Some((_, Response::JoinGroup(Ok(joined)))) = outcome.replies.first() else {
                panic!("{:?}", outcome.replies)
            };
            let member_id = joined.member_id.to_string();
            let sync = SyncGroup {
                group_id: "group".into(),
                member_id: member_id.as_str().into(),
                instance_id: None,
                generation: 1,
                protocol_type: None,
                protocol: None,
                assignments: vec![(member_id.as_str().into(), Bytes::from_static(b"all"))],
            };
            assert!(matches!(self.ask(Request::SyncGroup(sync)), Response::SyncGroup(Ok(_))));
            member_id
        }
    }

    /// Of a consumer that only stores offsets: counted from its last commit.
    ///
    /// Proves: O9.
    #[test]
    fn simple_commits_expire_after_the_last_one() {
        let mut run = Run::new();
        run.commit("read", "", -1);
        run.wait(RETENTION_MS - 200);
        run.commit("read", "", -1);
        run.wait(RETENTION_MS - 200);
        assert_eq!(run.topics(), ["read"]);
        run.wait(300);
        assert!(run.topics().is_empty());
    }

    /// While members read the topic its offsets stay, however old; what nobody reads any more goes; the clock of the rest starts when
    /// the group becomes empty.
    ///
    /// Proves: O9.
    #[test]
    fn offsets_of_members_stay_until_the_group_is_empty() {
        let mut run = Run::new();
        let member_id = run.join();
        run.commit("read", &member_id, 1);
        run.commit("dropped", &member_id, 1);
        for _ in 0..5 {
            run.wait(5_000);
            let heartbeat = Heartbeat {
                group_id: "group".into(),
                member_id: member_id.as_str().into(),
                instance_id: None,
                generation: 1,
            };
            assert_eq!(run.ask(Request::Heartbeat(heartbeat)), Response::Heartbeat(Ok(())));
        }
        assert_eq!(run.topics(), ["read"], "nobody reads the other topic");
        let members = vec![LeavingMember { member_id: member_id.into(), instance_id: None, reason: None }];
        run.ask(Request::LeaveGroup(LeaveGroup { group_id: "group".into(), members }));
        run.wait(RETENTION_MS - 200);
        assert_eq!(run.topics(), ["read"]);
        run.wait(300);
        assert!(run.topics().is_empty());
    }

    /// A topic is told by its name and by the id that it had at the commit; what is removed is removed for a replay, too.
    ///
    /// Proves: O11.
    #[test]
    fn offsets_of_topics_that_are_gone_are_removed_and_no_others() {
        let mut run = Run::new();
        let ids = [("gone", 1), ("anew", 1), ("kept", 3), ("unknown", 0)];
        let mut log: Vec<Record> = Vec::new();
        for (topic, id) in ids {
            run.commit_of(topic, Uuid::from_u128(id), "", -1);
        }
        log.extend(run.coordinator.snapshot_records());
        let current = [("anew", 2), ("kept", 3), ("unknown", 4)];
        let gone = |name: &str, id: Uuid| match current.iter().find(|(topic, _)| *topic == name) {
            Some((_, current)) => !id.is_nil() && id.as_u128() != *current,
            None => true,
        };
        let outcome = run.coordinator.remove_topics(gone);
        assert!(outcome.replies.is_empty() && outcome.records.iter().all(|record| record.value.is_none()));
        assert_eq!(outcome.records.len(), 2);
        assert_eq!(run.topics(), ["kept", "unknown"]);
        run.coordinator.check_invariants();
        assert_eq!(run.coordinator.remove_topics(gone), Outcome::default());
        log.extend(outcome.records);
        let mut replayed = Coordinator::new(GroupConfig::default());
        for record in &log {
            replayed.replay(&record.key, record.value.as_deref()).unwrap();
        }
        let left: Vec<_> = replayed.offsets().map(|stored| &**stored.topic).collect();
        assert_eq!(left, ["kept", "unknown"]);
    }
}
