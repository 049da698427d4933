//! Classic consumer groups and committed offsets (G, O), message by message.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use alluvium::protocol::{
    Str,
    messages::{
        delete_topics::DeleteTopicsRequest,
        describe_groups::DescribeGroupsRequest,
        find_coordinator::FindCoordinatorRequest,
        heartbeat::HeartbeatRequest,
        join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse},
        leave_group::{LeaveGroupRequest, MemberIdentity},
        list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
        offset_commit::{
            OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetCommitResponse,
        },
        offset_fetch::{
            OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
        },
        produce::ProduceRequest,
        sync_group::{SyncGroupRequest, SyncGroupRequestAssignment},
    },
};
use bytes::Bytes;

use crate::{
    requests::{batch, begin_slow_sync, create, fresh, hasty_produce, produce_to},
    support::{broker::Broker, wire::Wire},
};

/// A broker whose groups start without delay and may have short sessions, with its coordinators ready.
pub(crate) fn groups() -> &'static str {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    let start = || {
        let broker = Broker::ephemeral_until_exit(&[
            "--set",
            "group.initial.rebalance.delay.ms=0",
            "--set",
            "group.min.session.timeout.ms=100",
        ]);
        let mut wire = Wire::open(&broker.bootstrap);
        let find = FindCoordinatorRequest { key: "any".into(), ..FindCoordinatorRequest::default() };
        let deadline = Instant::now() + Duration::from_secs(30);
        while wire.call(&find, 3).error_code != 0 {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
        // Coordinators load in the background and say 14 meanwhile: these names reach all of them.
        let names = (0..500).map(|n| Str::from(format!("probe-{n}"))).collect();
        let describe = DescribeGroupsRequest { groups: names, ..DescribeGroupsRequest::default() };
        while wire.call(&describe, 5).groups.iter().any(|group| group.error_code != 0) {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
        broker
    };
    &BROKER.get_or_init(start).bootstrap
}

/// A join under these protocols.
pub(crate) fn join(group: &str, member: &Str, protocols: &[&str]) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        member_id: member.clone(),
        protocol_type: "connect".into(),
        protocols: protocols
            .iter()
            .map(|name| JoinGroupRequestProtocol {
                name: (*name).into(),
                metadata: Bytes::from(format!("\0metadata of {name}")),
            })
            .collect(),
        ..JoinGroupRequest::default()
    }
}

/// A member id, as version 4 and later give it out before the member joins.
pub(crate) fn member_id(wire: &mut Wire, group: &str) -> Str {
    let given = wire.call(&join(group, &Str::default(), &["p1"]), 9);
    assert_eq!(given.error_code, 79);
    assert!(!given.member_id.is_empty());
    given.member_id
}

pub(crate) fn sync(
    group: &str,
    joined: &JoinGroupResponse,
    plans: &[(&Str, &'static [u8])],
) -> SyncGroupRequest {
    SyncGroupRequest {
        group_id: group.into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        protocol_type: joined.protocol_type.clone(),
        protocol_name: joined.protocol_name.clone(),
        assignments: plans
            .iter()
            .map(|(member, plan)| SyncGroupRequestAssignment {
                member_id: (*member).clone(),
                assignment: Bytes::from_static(plan),
            })
            .collect(),
        ..SyncGroupRequest::default()
    }
}

fn beat(wire: &mut Wire, group: &str, member: &Str, generation_id: i32, instance: Option<&str>) -> i16 {
    let request = HeartbeatRequest {
        group_id: group.into(),
        generation_id,
        member_id: member.clone(),
        group_instance_id: instance.map(Str::from),
    };
    wire.call(&request, 4).error_code
}

/// Heartbeats until the answer is `expected`: a member learns of a rebalance a moment after it began.
fn beat_until(wire: &mut Wire, group: &str, member: &Str, generation: i32, expected: i16) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let code = beat(wire, group, member, generation, None);
        if code == expected {
            return;
        }
        assert!(Instant::now() < deadline, "heartbeats end with {code}, not {expected}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Three members, of a protocol type that is not `consumer`: the leader alone sees the members and their metadata, most votes choose the
/// protocol, a member without assignment gets empty bytes, a follower's rejoin changes nothing, the leader's starts anew.
///
/// Proves: G1, G4, G5, G6, G7, G8, G9, G10, G20.
#[test]
fn three_members_agree() {
    let group = &fresh("three");
    let [mut a, mut b, mut c] = [(); 3].map(|()| Wire::open(groups()));
    let [id_a, id_b, id_c] = [&mut a, &mut b, &mut c].map(|wire| member_id(wire, group));
    let alone = a.call(&join(group, &id_a, &["p1", "p2"]), 9);
    assert_eq!((alone.error_code, alone.generation_id, &alone.leader), (0, 1, &id_a));
    assert_eq!(a.call(&sync(group, &alone, &[(&id_a, b"all")]), 5).assignment, &b"all"[..]);

    let joins = b.send(&join(group, &id_b, &["p2", "p1", "p3"]), 9);
    beat_until(&mut a, group, &id_a, 1, 27);
    let joins_too = c.send(&join(group, &id_c, &["p2", "p1"]), 9);
    // Both others must be in before the first comes back and completes the join.
    let deadline = Instant::now() + Duration::from_secs(30);
    let describe = DescribeGroupsRequest { groups: vec![group.as_str().into()], ..Default::default() };
    while a.call(&describe, 5).groups[0].members.len() < 3 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    let at_a = a.call(&join(group, &id_a, &["p1", "p2"]), 9);
    let at_b = b.receive::<JoinGroupRequest>(9, joins);
    let at_c = c.receive::<JoinGroupRequest>(9, joins_too);
    for joined in [&at_a, &at_b, &at_c] {
        assert_eq!((joined.error_code, joined.generation_id), (0, 2));
        assert_eq!(joined.protocol_name.as_deref(), Some("p2"), "two votes to one");
        assert_eq!(joined.protocol_type.as_deref(), Some("connect"));
        assert_eq!(joined.leader, at_a.leader);
        let is_leader = joined.member_id == joined.leader;
        assert_eq!(joined.members.len(), if is_leader { 3 } else { 0 });
        for member in &joined.members {
            assert_eq!(member.metadata, &b"\0metadata of p2"[..]);
        }
    }
    assert_eq!(at_a.leader, id_a);

    let mut other_protocol = sync(group, &at_b, &[]);
    other_protocol.protocol_name = Some("p1".into());
    assert_eq!(b.call(&other_protocol, 5).error_code, 23);
    let waits = b.send(&sync(group, &at_b, &[]), 5);
    assert_eq!(
        a.call(&sync(group, &at_a, &[(&id_a, b"for a"), (&id_b, b"for b")]), 5).assignment,
        &b"for a"[..]
    );
    assert_eq!(b.receive::<SyncGroupRequest>(5, waits).assignment, &b"for b"[..]);
    let without = c.call(&sync(group, &at_c, &[]), 5);
    assert_eq!((without.error_code, without.assignment.len()), (0, 0));
    assert_eq!(b.call(&sync(group, &at_b, &[]), 5).assignment, &b"for b"[..], "stable: the same again");

    let again = b.call(&join(group, &id_b, &["p2", "p1", "p3"]), 9);
    assert_eq!((again.error_code, again.generation_id), (0, 2), "nothing changed, nothing starts");
    assert_eq!(beat(&mut b, group, &id_b, 2, None), 0);
    assert_eq!(beat(&mut b, group, &id_b, 1, None), 22);
    a.send(&join(group, &id_a, &["p1", "p2"]), 9);
    beat_until(&mut b, group, &id_b, 2, 27);
}

/// Version 0 has no rebalance time-out: a member that lives but does not come back is waited for as long as its session.
///
/// Proves: G3, G9.
#[test]
fn version_0_waits_for_the_session_time() {
    let group = &fresh("old");
    let (mut a, mut b) = (Wire::open(groups()), Wire::open(groups()));
    let request = JoinGroupRequest { session_timeout_ms: 1_500, ..join(group, &Str::default(), &["p"]) };
    let first = a.call(&request, 0);
    assert_eq!((first.error_code, first.generation_id), (0, 1));
    assert_eq!(a.call(&sync(group, &first, &[]), 0).error_code, 0);
    let joins = b.send(&request, 0);
    beat_until(&mut a, group, &first.member_id, 1, 27);
    // The heartbeats keep the session alive, so only the rebalance's end can remove it.
    beat_until(&mut a, group, &first.member_id, 1, 25);
    let second = b.receive::<JoinGroupRequest>(0, joins);
    assert_eq!((second.error_code, second.generation_id, second.members.len()), (0, 2, 1));
}

/// A static member that comes back under a new member id replaces the old one without a rebalance; the old one is fenced. Before
/// version 9 the answer names the old leader, so that the member does not assign; version 9 says it outright. It is removed by
/// its instance.
///
/// Proves: G11, G12, G13.
#[test]
fn static_members_are_replaced() {
    let group = &fresh("static");
    let mut wire = Wire::open(groups());
    let joining = JoinGroupRequest {
        group_instance_id: Some("instance".into()),
        ..join(group, &Str::default(), &["p"])
    };
    let first = wire.call(&joining, 8);
    assert_eq!((first.error_code, first.generation_id), (0, 1), "no 79 for a static member");
    let plan = SyncGroupRequest {
        group_instance_id: Some("instance".into()),
        ..sync(group, &first, &[(&first.member_id, b"plan")])
    };
    assert_eq!(wire.call(&plan, 5).assignment, &b"plan"[..]);

    let second = wire.call(&joining, 8);
    assert_eq!((second.error_code, second.generation_id), (0, 1), "no rebalance");
    assert_ne!(second.member_id, first.member_id);
    assert_eq!(second.leader, first.member_id, "the old leader's id: do not assign");
    assert_eq!(beat(&mut wire, group, &first.member_id, 1, Some("instance")), 82);
    assert_eq!(beat(&mut wire, group, &second.member_id, 1, Some("instance")), 0);
    let third = wire.call(&joining, 9);
    assert_eq!((third.error_code, third.generation_id, third.skip_assignment), (0, 1, true));
    assert_eq!(third.leader, third.member_id);

    let identity = |member: &str, instance: Option<&str>| MemberIdentity {
        member_id: member.into(),
        group_instance_id: instance.map(Str::from),
        reason: None,
    };
    let leave = LeaveGroupRequest {
        group_id: group.as_str().into(),
        members: vec![identity("nobody", None), identity("", Some("instance")), identity("", Some("other"))],
        ..LeaveGroupRequest::default()
    };
    let left = wire.call(&leave, 5);
    let codes: Vec<i16> = left.members.iter().map(|member| member.error_code).collect();
    assert_eq!((left.error_code, codes), (0, vec![25, 0, 25]));
}

/// A member more than the group takes is refused, whatever way it comes; it gets in once there is room.
///
/// Proves: G2.
#[test]
fn a_full_group_takes_no_more() {
    let broker = Broker::ephemeral_with(&["--set", "group.max.size=2"]);
    let group = "full";
    let mut wire = Wire::open(&broker.bootstrap);
    let find = FindCoordinatorRequest { key: group.into(), ..FindCoordinatorRequest::default() };
    until(|| wire.call(&find, 3).error_code == 0);
    let describe = DescribeGroupsRequest { groups: vec![group.into()], ..DescribeGroupsRequest::default() };
    until(|| wire.call(&describe, 5).groups[0].error_code == 0);
    let instance = |name: &str| JoinGroupRequest {
        group_instance_id: Some(name.into()),
        ..join(group, &Str::default(), &["p1"])
    };
    let first = wire.call(&instance("one"), 9);
    assert_eq!((first.error_code, first.generation_id), (0, 1));
    assert_eq!(wire.call(&sync(group, &first, &[]), 5).error_code, 0);
    let mut second = Wire::open(&broker.bootstrap);
    let joins = second.send(&instance("two"), 9);
    beat_until(&mut wire, group, &first.member_id, 1, 27);
    let again =
        JoinGroupRequest { group_instance_id: Some("one".into()), ..join(group, &first.member_id, &["p1"]) };
    let first = wire.call(&again, 9);
    assert_eq!((first.error_code, second.receive::<JoinGroupRequest>(9, joins).error_code), (0, 0));
    for (what, request, version) in [
        ("without an id", join(group, &Str::default(), &["p1"]), 9),
        ("at once", join(group, &Str::default(), &["p1"]), 3),
        ("as a static member", instance("three"), 9),
    ] {
        assert_eq!(wire.call(&request, version).error_code, 81, "{what}");
    }
    assert_eq!(beat(&mut wire, group, &first.member_id, 2, None), 0, "nothing began by it");
    let leaving = MemberIdentity { group_instance_id: Some("two".into()), ..MemberIdentity::default() };
    let leave = LeaveGroupRequest { group_id: group.into(), members: vec![leaving], ..Default::default() };
    assert_eq!(wire.call(&leave, 5).members[0].error_code, 0);
    assert_eq!(wire.call(&join(group, &Str::default(), &["p1"]), 9).error_code, 79);
}

/// Where the offsets topic cannot be made there is no coordinator yet, and nobody is named. Keys of other types have none.
///
/// Proves: G15, G16.
#[test]
fn without_the_offsets_topic_there_is_no_coordinator() {
    let broker = Broker::ephemeral_with_descriptors(2_000, &["--set", "offsets.topic.num.partitions=5000"]);
    let mut wire = Wire::open(&broker.bootstrap);
    let request = |key_type: i8| FindCoordinatorRequest {
        key: "a".into(),
        key_type,
        coordinator_keys: vec!["a".into(), "b".into()],
    };
    for version in 0..=3 {
        let answer = wire.call(&request(0), version);
        assert_eq!((answer.error_code, answer.node_id, answer.port), (15, -1, -1), "v{version}");
    }
    for version in 4..=5 {
        let answers = wire.call(&request(0), version).coordinators;
        let told: Vec<_> = answers.iter().map(|one| (&*one.key, one.error_code, one.node_id)).collect();
        assert_eq!(told, [("a", 15, -1), ("b", 15, -1)], "v{version}");
    }
    let codes = [1, 2, 7].map(|key_type| wire.call(&request(key_type), 5).coordinators[0].error_code);
    assert_eq!(codes, [53, 42, 42]);
}

/// An unknown group is dead, and an error from version 6 on.
///
/// Proves: G17.
#[test]
fn unknown_groups_are_dead() {
    let mut wire = Wire::open(groups());
    let request = DescribeGroupsRequest { groups: vec![fresh("unknown").into()], ..Default::default() };
    for version in 0..=6 {
        let group = wire.call(&request, version).groups.remove(0);
        assert_eq!(group.error_code, if version < 6 { 0 } else { 69 }, "v{version}");
        assert_eq!(&*group.group_state, "Dead");
    }
}

/// Commits by a member, in every state of its group; each partition for itself. What was never committed is -1, not an error.
///
/// Proves: O1, O3, O4, O5.
#[test]
fn commits_follow_the_state_of_the_group() {
    let (group, topic) = (&fresh("commits"), fresh("commits"));
    let (mut a, mut b) = (Wire::open(groups()), Wire::open(groups()));
    create(&mut a, &topic, 2, &[]);
    let partition = |partition_index, metadata: &str| OffsetCommitRequestPartition {
        partition_index,
        committed_offset: 7,
        committed_metadata: Some(metadata.into()),
        ..OffsetCommitRequestPartition::default()
    };
    let long = "x".repeat(4097);
    let commit = |group: &str, member: &Str, generation| OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: generation,
        member_id: member.clone(),
        topics: vec![
            OffsetCommitRequestTopic {
                name: topic.as_str().into(),
                partitions: vec![partition(0, "note"), partition(1, &long), partition(9, "")],
            },
            OffsetCommitRequestTopic { name: "no-such-topic".into(), partitions: vec![partition(0, "")] },
        ],
        ..OffsetCommitRequest::default()
    };
    let codes = |wire: &mut Wire, request: &OffsetCommitRequest, version| -> Vec<i16> {
        let topics = wire.call(request, version).topics;
        topics.iter().flat_map(|topic| topic.partitions.iter().map(|one| one.error_code)).collect()
    };
    let ghost = "m".into();
    assert_eq!(codes(&mut a, &commit(&fresh("ghost"), &ghost, 3), 8)[0], 22);
    assert_eq!(codes(&mut a, &commit(&fresh("ghost"), &ghost, 3), 9)[0], 69);

    let id = member_id(&mut a, group);
    let joined = a.call(&join(group, &id, &["p1"]), 9);
    assert_eq!(codes(&mut a, &commit(group, &id, 1), 9)[0], 27, "the assignment is not there yet");
    assert_eq!(a.call(&sync(group, &joined, &[]), 5).error_code, 0);
    assert_eq!(codes(&mut a, &commit(group, &id, 1), 9), [0, 12, 3, 3]);
    let other = member_id(&mut b, group);
    b.send(&join(group, &other, &["p1"]), 9);
    beat_until(&mut a, group, &id, 1, 27);
    assert_eq!(codes(&mut a, &commit(group, &id, 1), 9)[0], 0, "a rebalance that is being prepared");
    assert_eq!(codes(&mut a, &commit(group, &id, 5), 9)[0], 22);

    let fetch = OffsetFetchRequest {
        group_id: group.as_str().into(),
        topics: Some(vec![OffsetFetchRequestTopic {
            name: topic.as_str().into(),
            partition_indexes: vec![0, 1, 9],
        }]),
        ..OffsetFetchRequest::default()
    };
    for version in 1..=7 {
        let answer = a.call(&fetch, version);
        let found: Vec<_> = answer.topics[0]
            .partitions
            .iter()
            .map(|one| {
                (one.committed_offset, one.committed_leader_epoch, one.metadata.as_deref(), one.error_code)
            })
            .collect();
        let none = (-1, -1, Some(""), 0);
        assert_eq!(found, [(7, -1, Some("note"), 0), none, none], "v{version}");
    }
}

/// A coordinator that was killed comes back with its groups: the member goes on in its generation, with its assignment and commits. Until
/// it has loaded it says so.
///
/// Proves: G15, O6.
#[test]
fn groups_survive_their_coordinator() {
    let data = tempfile::tempdir().expect("a data directory");
    let settings = ["--set", "group.initial.rebalance.delay.ms=0"];
    let mut broker = Broker::on(data.path(), &settings);
    let mut wire = Wire::open(&broker.bootstrap);
    create(&mut wire, "kept", 1, &[]);
    let find = FindCoordinatorRequest { key: "kept".into(), ..FindCoordinatorRequest::default() };
    let deadline = Instant::now() + Duration::from_secs(60);
    while wire.call(&find, 3).error_code != 0 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    while wire.call(&join("kept", &Str::default(), &["p1"]), 9).error_code == 14 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    let id = member_id(&mut wire, "kept");
    let joined = wire.call(&join("kept", &id, &["p1"]), 9);
    assert_eq!(joined.error_code, 0);
    assert_eq!(wire.call(&sync("kept", &joined, &[(&id, b"plan")]), 5).error_code, 0);
    let commit = OffsetCommitRequest {
        group_id: "kept".into(),
        generation_id_or_member_epoch: 1,
        member_id: id.clone(),
        topics: vec![OffsetCommitRequestTopic {
            name: "kept".into(),
            partitions: vec![OffsetCommitRequestPartition {
                committed_offset: 42,
                ..OffsetCommitRequestPartition::default()
            }],
        }],
        ..OffsetCommitRequest::default()
    };
    assert_eq!(wire.call(&commit, 9).topics[0].partitions[0].error_code, 0);

    broker.kill();
    broker = Broker::on(data.path(), &settings);
    let mut wire = Wire::open(&broker.bootstrap);
    // Heartbeats are answered with 0 while the group is loaded (Kafka does the same), so a sync has to tell.
    let mut synced = wire.call(&sync("kept", &joined, &[]), 5);
    while synced.error_code == 14 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
        synced = wire.call(&sync("kept", &joined, &[]), 5);
    }
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"plan"[..]));
    assert_eq!(beat(&mut wire, "kept", &id, joined.generation_id, None), 0);
    let fetch = OffsetFetchRequest {
        group_id: "kept".into(),
        topics: Some(vec![OffsetFetchRequestTopic { name: "kept".into(), partition_indexes: vec![0] }]),
        ..OffsetFetchRequest::default()
    };
    assert_eq!(wire.call(&fetch, 7).topics[0].partitions[0].committed_offset, 42);
}

/// While the disk takes its time, nobody is told what is not on it: a commit, a generation's assignment and a static member's successor
/// are answered once they are there, and so is who reads the offset meanwhile. A group that waits for nothing is served.
///
/// Proves: O6.
#[test]
fn answers_wait_until_their_entries_are_committed() {
    // A look counts only where it was over before the sync was; a machine that was too busy for that tries again.
    assert!((0..10).any(|_| looked_before_the_commit()), "this machine is too slow to look in between");
}

fn looked_before_the_commit() -> bool {
    let data = tempfile::tempdir().expect("a data directory");
    let settings = ["--set", "group.initial.rebalance.delay.ms=0", "--simulate-power-cuts", "slow-sync=300"];
    let broker = Broker::on(data.path(), &settings);
    let mut wire = Wire::open(&broker.bootstrap);
    let id = create(&mut wire, "slow", 1, &[]);
    // Each in its own partition of the offsets topic: none waits for the entry of another.
    let (committing, assigning, replacing, idle) = ("a", "b", "c", "d");
    for group in [committing, assigning, replacing, idle] {
        find_coordinator(&mut wire, group);
        assert_eq!(commit_offset(&mut wire, group, "slow", 3), 0);
    }
    let member = member_id(&mut wire, assigning);
    let unassigned = wire.call(&join(assigning, &member, &["p"]), 9);
    let instance = |member: &Str| JoinGroupRequest {
        group_instance_id: Some("instance".into()),
        ..join(replacing, member, &["p"])
    };
    let replaced = wire.call(&instance(&Str::default()), 9);
    let plan = SyncGroupRequest {
        group_instance_id: Some("instance".into()),
        ..sync(replacing, &replaced, &[(&replaced.member_id, b"plan")])
    };
    assert_eq!((unassigned.error_code, wire.call(&plan, 5).error_code), (0, 0));
    let mut asking = [(); 5].map(|()| {
        let mut wire = Wire::open(&broker.bootstrap);
        assert_eq!(committed_offset(&mut wire, idle, "slow"), 3);
        wire
    });

    let [produces, commits, reads, assigns, replaces] = &mut asking;
    begin_slow_sync(&mut wire, "slow", id);
    // On its way to the disk before the others: they are not answered before it.
    let produced = produces.send(&produce_to("slow", id, 0, batch(&["x"])), 9);
    assert_eq!(committed_offset(&mut wire, idle, "slow"), 3);
    let committed = commits.send(&committing_offset(committing, "slow", 4), 8);
    assert_eq!(committed_offset(&mut wire, idle, "slow"), 3, "it is served, and behind the commit");
    let read = reads.send(&fetching_offset(committing, "slow"), 7);
    let assigned = assigns.send(&sync(assigning, &unassigned, &[(&member, b"plan")]), 5);
    let joined = replaces.send(&instance(&Str::default()), 9);
    // Whatever is answered at once is answered before this, which waits for its time to be over.
    hasty_produce(&mut wire, "slow", id);
    let told = [&*commits, reads, assigns, replaces].map(|wire| wire.has_something());
    let in_between = !produces.has_something();
    if in_between {
        assert_eq!(told, [false; 4], "commit, read, assignment, successor");
    }
    assert_eq!(produces.receive::<ProduceRequest>(9, produced).responses[0].partitions[0].error_code, 0);
    assert_eq!(commits.receive::<OffsetCommitRequest>(8, committed).topics[0].partitions[0].error_code, 0);
    assert_eq!(reads.receive::<OffsetFetchRequest>(7, read).topics[0].partitions[0].committed_offset, 4);
    assert_eq!(assigns.receive::<SyncGroupRequest>(5, assigned).assignment, &b"plan"[..]);
    let successor = replaces.receive::<JoinGroupRequest>(9, joined);
    assert_eq!((successor.error_code, successor.generation_id), (0, replaced.generation_id));
    assert_ne!(successor.member_id, replaced.member_id);
    in_between
}

/// The partition of `__consumer_offsets` stays bounded: commits that supersede each other are rewritten and trimmed away, a load replays
/// little, and what was committed last is there after a kill.
///
/// Proves: O6, fault T11.
#[test]
fn the_offsets_log_is_rewritten_and_trimmed() {
    const PARTITIONS: i32 = 200;
    let data = tempfile::tempdir().expect("a data directory");
    let arguments = ["--set", "offsets.topic.num.partitions=1", "--set", "offset.metadata.max.bytes=4096"];
    let mut broker = Broker::on(data.path(), &arguments);
    let mut wire = Wire::open(&broker.bootstrap);
    create(&mut wire, "many", PARTITIONS, &[]);
    let find = FindCoordinatorRequest { key: "g".into(), ..FindCoordinatorRequest::default() };
    until(|| wire.call(&find, 3).error_code == 0);
    let partitions = |round: i64| {
        (0..PARTITIONS)
            .map(|partition_index| OffsetCommitRequestPartition {
                partition_index,
                committed_offset: round * 1000 + i64::from(partition_index),
                committed_metadata: Some("m".repeat(4000).into()),
                ..OffsetCommitRequestPartition::default()
            })
            .collect()
    };
    let commit = |round| OffsetCommitRequest {
        group_id: "g".into(),
        topics: vec![OffsetCommitRequestTopic { name: "many".into(), partitions: partitions(round) }],
        ..OffsetCommitRequest::default()
    };
    let committed = |response: OffsetCommitResponse| {
        response.topics[0].partitions.iter().all(|partition| partition.error_code == 0)
    };
    until(|| committed(wire.call(&commit(0), 8)));
    let rounds = 80;
    for round in 1..=rounds {
        assert!(committed(wire.call(&commit(round), 8)), "round {round}");
    }
    // 64 MB were committed, 0.8 MB of it is alive: the log start moves up behind the last rewrite.
    let offsets = ListOffsetsRequest {
        topics: vec![ListOffsetsTopic {
            name: "__consumer_offsets".into(),
            partitions: [-2]
                .map(|timestamp| ListOffsetsPartition { timestamp, ..Default::default() })
                .to_vec(),
        }],
        ..ListOffsetsRequest::default()
    };
    let written = i64::from(PARTITIONS) * (rounds + 1);
    until(|| wire.call(&offsets, 7).topics[0].partitions[0].offset > written / 2);

    broker.kill();
    broker = Broker::on(data.path(), &arguments);
    let mut wire = Wire::open(&broker.bootstrap);
    let fetch = OffsetFetchRequest { group_id: "g".into(), topics: None, ..OffsetFetchRequest::default() };
    let mut response = wire.call(&fetch, 5);
    until(|| {
        response = wire.call(&fetch, 5);
        response.error_code == 0
    });
    let found = &response.topics[0].partitions;
    assert_eq!(found.len(), PARTITIONS as usize);
    for partition in found {
        assert_eq!(partition.committed_offset, rounds * 1000 + i64::from(partition.partition_index));
    }
}

/// Asks until the coordinator of this group is there and loaded.
pub(crate) fn find_coordinator(wire: &mut Wire, group: &str) {
    let find = FindCoordinatorRequest { key: group.into(), ..FindCoordinatorRequest::default() };
    until(|| wire.call(&find, 3).error_code == 0);
    let describe = DescribeGroupsRequest { groups: vec![group.into()], ..DescribeGroupsRequest::default() };
    until(|| wire.call(&describe, 5).groups[0].error_code == 0);
}

/// Commits an offset of partition 0 for a group without members; the code.
pub(crate) fn commit_offset(wire: &mut Wire, group: &str, topic: &str, committed_offset: i64) -> i16 {
    let commit = committing_offset(group, topic, committed_offset);
    wire.call(&commit, 8).topics[0].partitions[0].error_code
}

fn committing_offset(group: &str, topic: &str, committed_offset: i64) -> OffsetCommitRequest {
    let partition =
        OffsetCommitRequestPartition { committed_offset, ..OffsetCommitRequestPartition::default() };
    OffsetCommitRequest {
        group_id: group.into(),
        topics: vec![OffsetCommitRequestTopic { name: topic.into(), partitions: vec![partition] }],
        ..OffsetCommitRequest::default()
    }
}

/// The offset that a group has committed for partition 0.
fn committed_offset(wire: &mut Wire, group: &str, topic: &str) -> i64 {
    let answer = wire.call(&fetching_offset(group, topic), 7);
    assert_eq!(answer.error_code, 0);
    answer.topics[0].partitions[0].committed_offset
}

fn fetching_offset(group: &str, topic: &str) -> OffsetFetchRequest {
    let topics = vec![OffsetFetchRequestTopic { name: topic.into(), partition_indexes: vec![0] }];
    OffsetFetchRequest { group_id: group.into(), topics: Some(topics), ..OffsetFetchRequest::default() }
}

fn delete_topic(wire: &mut Wire, topic: &str) {
    let request = DeleteTopicsRequest {
        topic_names: vec![topic.into()],
        timeout_ms: 30_000,
        ..DeleteTopicsRequest::default()
    };
    assert_eq!(wire.call(&request, 5).responses[0].error_code, 0);
}

/// A topic made anew under its name has no commits, also where the broker is killed right after the deletion; those of others stay.
///
/// Proves: O11.
#[test]
fn commits_go_with_their_topic() {
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &[]);
    let mut wire = Wire::open(&broker.bootstrap);
    create(&mut wire, "kept", 1, &[]);
    create(&mut wire, "recreated", 1, &[]);
    find_coordinator(&mut wire, "g");
    assert_eq!(commit_offset(&mut wire, "g", "kept", 3), 0);
    for round in 0..3 {
        assert_eq!(committed_offset(&mut wire, "g", "recreated"), -1, "round {round}");
        assert_eq!(commit_offset(&mut wire, "g", "recreated", 5), 0);
        assert_eq!(committed_offset(&mut wire, "g", "recreated"), 5);
        delete_topic(&mut wire, "recreated");
        assert_eq!(commit_offset(&mut wire, "g", "recreated", 5), 3);
        if round > 0 {
            broker.kill();
            broker = Broker::on(data.path(), &[]);
            wire = Wire::open(&broker.bootstrap);
        }
        create(&mut wire, "recreated", 1, &[]);
        find_coordinator(&mut wire, "g");
        assert_eq!(committed_offset(&mut wire, "g", "kept"), 3);
    }
    assert_eq!(committed_offset(&mut wire, "g", "recreated"), -1);
}

/// Who names a group or a partition again and again is answered once.
///
/// Proves: fault I02.
#[test]
fn what_is_named_again_is_answered_once() {
    let mut wire = Wire::open(groups());
    let (group, topic) = (&fresh("again"), &fresh("again"));
    create(&mut wire, topic, 2, &[]);
    assert_eq!(commit_offset(&mut wire, group, topic, 4), 0);
    let describe =
        DescribeGroupsRequest { groups: vec![group.as_str().into(); 3], ..DescribeGroupsRequest::default() };
    assert_eq!(wire.call(&describe, 5).groups.len(), 1);
    let of_topic =
        OffsetFetchRequestTopic { name: topic.as_str().into(), partition_indexes: vec![0, 0, 1, 0] };
    let fetch = OffsetFetchRequest {
        group_id: group.as_str().into(),
        topics: Some(vec![of_topic; 2]),
        ..OffsetFetchRequest::default()
    };
    let answers = wire.call(&fetch, 7).topics;
    let answers = answers.iter().flat_map(|topic| &topic.partitions);
    let answers: Vec<_> = answers.map(|one| (one.partition_index, one.committed_offset)).collect();
    assert_eq!(answers, [(0, 4), (1, -1)]);

    // Also where each time something else is asked for along with it.
    let asked = |topics: Option<Vec<i32>>| OffsetFetchRequestGroup {
        group_id: group.as_str().into(),
        topics: topics.map(|partition_indexes| {
            vec![OffsetFetchRequestTopics { name: topic.as_str().into(), partition_indexes }]
        }),
        ..OffsetFetchRequestGroup::default()
    };
    let several = [Some(vec![0, 5]), Some(vec![0, 6]), Some(vec![6, 5]), None, Some(vec![]), None].map(asked);
    let fetch = OffsetFetchRequest { groups: several.to_vec(), ..OffsetFetchRequest::default() };
    let answers = wire.call(&fetch, 8).groups;
    let answers: Vec<Vec<_>> = answers
        .iter()
        .map(|group| {
            group.topics.iter().flat_map(|topic| &topic.partitions).map(|one| one.partition_index).collect()
        })
        .collect();
    assert_eq!(answers, [vec![0, 5], vec![6], vec![0], vec![]]);
}

/// Commits that go on while topics come and go: what was acknowledged for a topic that is there is there.
///
/// Proves: O11.
#[test]
fn commits_survive_the_deletion_of_other_topics() {
    let mut wire = Wire::open(groups());
    let deleting = std::thread::spawn(|| {
        let mut wire = Wire::open(groups());
        for _ in 0..50 {
            let topic = fresh("passing");
            create(&mut wire, &topic, 1, &[]);
            delete_topic(&mut wire, &topic);
        }
    });
    let mut committed = Vec::new();
    while !deleting.is_finished() && committed.len() < 300 {
        let topic = fresh("lasting");
        create(&mut wire, &topic, 1, &[]);
        let group = fresh("g");
        assert_eq!(commit_offset(&mut wire, &group, &topic, 8), 0);
        committed.push((group, topic));
    }
    deleting.join().expect("topics come and go");
    for (group, topic) in committed {
        assert_eq!(committed_offset(&mut wire, &group, &topic), 8, "{group} of {topic}");
    }
}

/// When their topic is deleted the coordinators end, and whoever waits is told so at once; made anew they begin with nothing.
///
/// Proves: D22.
#[test]
fn coordinators_end_with_their_topic() {
    let broker = Broker::ephemeral_with(&["--set", "offsets.topic.num.partitions=1"]);
    let mut wire = Wire::open(&broker.bootstrap);
    create(&mut wire, "read", 1, &[]);
    find_coordinator(&mut wire, "g");
    assert_eq!(commit_offset(&mut wire, "g", "read", 4), 0);
    let [first, second] = [(); 2].map(|()| member_id(&mut wire, "held"));
    assert_eq!(wire.call(&join("held", &first, &["p"]), 9).error_code, 0);
    // The first does not come back: the second waits for the rebalance's half minute.
    let mut waiting = Wire::open(&broker.bootstrap);
    let waits = waiting.send(&join("held", &second, &["p"]), 9);
    let describe = DescribeGroupsRequest { groups: vec!["held".into()], ..DescribeGroupsRequest::default() };
    until(|| wire.call(&describe, 5).groups[0].members.len() == 2);
    let since = Instant::now();
    delete_topic(&mut wire, "__consumer_offsets");
    assert_eq!(waiting.receive::<JoinGroupRequest>(9, waits).error_code, 16);
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert_eq!(commit_offset(&mut wire, "g", "read", 5), 16);
    find_coordinator(&mut wire, "g");
    assert_eq!(committed_offset(&mut wire, "g", "read"), -1);
    assert_eq!(commit_offset(&mut wire, "g", "read", 6), 0);
    assert_eq!(committed_offset(&mut wire, "g", "read"), 6);
}

/// Repeats until it holds; fails after a time that no working broker needs.
fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "not within a minute");
        std::thread::sleep(Duration::from_millis(10));
    }
}
