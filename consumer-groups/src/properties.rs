//! Random requests and random time against a coordinator: whatever happens, its state does not contradict itself, every request is
//! answered once, no generation has two assignments, and what it gave out as records replays to the offsets it holds.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

use crate::{
    Coordinator, GroupConfig, Outcome, Request, Response, Token,
    request::{Heartbeat, JoinGroup, LeaveGroup, LeavingMember, OffsetCommit, PartitionCommit, SyncGroup},
};

/// What one of a few clients does next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Join { client: usize, is_static: bool, subscription: u8 },
    Sync { client: usize },
    Heartbeat { client: usize },
    Leave { client: usize },
    Commit { client: usize, partition: i32, offset: i64 },
    Delete,
    Wait { ms: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..4_usize;
    prop_oneof![
        5 => (client.clone(), any::<bool>(), 0..2_u8)
            .prop_map(|(client, is_static, subscription)| Step::Join { client, is_static, subscription }),
        5 => client.clone().prop_map(|client| Step::Sync { client }),
        2 => client.clone().prop_map(|client| Step::Heartbeat { client }),
        1 => client.clone().prop_map(|client| Step::Leave { client }),
        3 => (client, 0..3, 0..100_i64)
            .prop_map(|(client, partition, offset)| Step::Commit { client, partition, offset }),
        1 => Just(Step::Delete),
        3 => (0..8_000_i64).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// A client as it remembers itself.
#[derive(Clone, Debug, Default)]
struct Client {
    member_id: String,
    generation: i32,
    leads: bool,
    members: Vec<String>,
}

#[derive(Default)]
struct World {
    clients: Vec<Client>,
    asked: HashMap<Token, usize>,
    answered: HashSet<Token>,
    /// By (generation, member): what the member was given.
    assignments: HashMap<(i32, String), Bytes>,
    records: Vec<crate::Record>,
}

impl World {
    fn take(&mut self, outcome: Outcome) {
        self.records.extend(outcome.records);
        for (token, response) in outcome.replies {
            assert!(self.answered.insert(token), "{token:?} is answered twice");
            let client = self.asked[&token];
            match response {
                Response::JoinGroup(Ok(joined)) => {
                    let members = joined.members.iter().map(|member| member.member_id.to_string()).collect();
                    self.clients[client] = Client {
                        member_id: joined.member_id.to_string(),
                        generation: joined.generation,
                        leads: joined.leader == joined.member_id && !joined.skip_assignment,
                        members,
                    };
                }
                Response::JoinGroup(Err(crate::GroupError::MemberIdRequired { member_id })) => {
                    self.clients[client].member_id = member_id.to_string();
                }
                Response::JoinGroup(Err(_)) => self.clients[client] = Client::default(),
                Response::SyncGroup(Ok(synced)) => {
                    let key = (self.clients[client].generation, self.clients[client].member_id.clone());
                    let given =
                        self.assignments.entry(key.clone()).or_insert_with(|| synced.assignment.clone());
                    assert_eq!(*given, synced.assignment, "{key:?} has two assignments");
                }
                _ => {}
            }
        }
    }
}

fn request(step: Step, client: &Client) -> Option<(Request, usize)> {
    let group_id = "group".into();
    let member_id = client.member_id.as_str().into();
    Some(match step {
        Step::Join { client: at, is_static, subscription } => {
            let join = JoinGroup {
                group_id,
                member_id,
                instance_id: is_static.then(|| format!("instance-{at}").into()),
                client_id: "client".into(),
                client_host: "/127.0.0.1".into(),
                session_timeout_ms: 6_000,
                rebalance_timeout_ms: 10_000,
                protocol_type: "consumer".into(),
                protocols: vec![("range".into(), Bytes::from(vec![subscription]))],
                requires_known_member_id: true,
                supports_skip_assignment: true,
                reason: None,
            };
            (Request::JoinGroup(join), at)
        }
        Step::Sync { client: at } => {
            let members = if client.leads { client.members.as_slice() } else { &[] };
            let assignments = members.iter().map(|member| {
                (member.as_str().into(), Bytes::from(format!("{member} in {}", client.generation)))
            });
            let sync = SyncGroup {
                group_id,
                member_id,
                instance_id: None,
                generation: client.generation,
                protocol_type: None,
                protocol: None,
                assignments: assignments.collect(),
            };
            (Request::SyncGroup(sync), at)
        }
        Step::Heartbeat { client: at } => {
            let heartbeat =
                Heartbeat { group_id, member_id, instance_id: None, generation: client.generation };
            (Request::Heartbeat(heartbeat), at)
        }
        Step::Leave { client: at } => {
            let members = vec![LeavingMember { member_id, instance_id: None, reason: None }];
            (Request::LeaveGroup(LeaveGroup { group_id, members }), at)
        }
        Step::Commit { client: at, partition, offset } => {
            let offsets = vec![PartitionCommit {
                topic: "topic".into(),
                topic_id: Uuid::from_u128(1),
                partition,
                offset,
                leader_epoch: -1,
                metadata: "".into(),
            }];
            let generation = if client.member_id.is_empty() { -1 } else { client.generation };
            let commit = OffsetCommit {
                group_id,
                member_id,
                instance_id: None,
                generation,
                knows_group_not_found: true,
                retention_ms: None,
                offsets,
            };
            (Request::OffsetCommit(commit), at)
        }
        Step::Delete => (Request::DeleteGroup(group_id), 0),
        Step::Wait { .. } => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// See the module's documentation; proptest prints what failed and how to repeat it.
    ///
    /// Proves: O6.
    #[test]
    fn random_histories_keep_the_invariants(steps in prop::collection::vec(step(), 1..120)) {
        let mut coordinator = Coordinator::new(GroupConfig { initial_rebalance_delay_ms: 500, ..GroupConfig::default() });
        let mut world = World { clients: vec![Client::default(); 4], ..World::default() };
        let mut now_ms = 1_000_000;
        for (number, step) in (0..).zip(steps) {
            let at = match step {
                Step::Join { client, .. }
                | Step::Sync { client }
                | Step::Heartbeat { client }
                | Step::Leave { client }
                | Step::Commit { client, .. } => client,
                Step::Delete | Step::Wait { .. } => 0,
            };
            let outcome = match (request(step, &world.clients[at].clone()), step) {
                (Some((request, client)), _) => {
                    let token = Token(number);
                    world.asked.insert(token, client);
                    coordinator.handle(request, token, u128::from(number), now_ms)
                }
                (None, Step::Wait { ms }) => {
                    now_ms += ms;
                    coordinator.tick(now_ms)
                }
                (None, _) => continue,
            };
            world.take(outcome);
            coordinator.check_invariants();
        }
        // Long after, nothing is held any more: every request has its answer.
        for _ in 0..20 {
            now_ms += 10_000;
            world.take(coordinator.tick(now_ms));
            coordinator.check_invariants();
        }
        prop_assert_eq!(world.answered.len(), world.asked.len());

        let mut replayed = Coordinator::new(GroupConfig::default());
        for record in &world.records {
            replayed.replay(&record.key, record.value.as_deref()).expect("a record of ours");
        }
        let offsets = |coordinator: &Coordinator| -> Vec<(String, String, i32, i64)> {
            let stored = coordinator.offsets();
            stored.map(|s| (s.group_id.to_string(), s.topic.to_string(), s.partition, s.committed.offset)).collect()
        };
        prop_assert_eq!(offsets(&replayed), offsets(&coordinator));
    }
}
