//! Every API that is advertised, in every version, each with a valid body and an answer that depends on it (V).

use std::ops::RangeInclusive;

use alluvium::{
    api::APIS,
    protocol::{
        Request, Str,
        messages::{
            api_versions::ApiVersionsRequest,
            create_topics::CreateTopicsRequest,
            delete_groups::DeleteGroupsRequest,
            delete_topics::{DeleteTopicState, DeleteTopicsRequest},
            describe_cluster::DescribeClusterRequest,
            describe_configs::{DescribeConfigsRequest, DescribeConfigsResource},
            describe_groups::{DescribeGroupsRequest, DescribedGroup},
            fetch::FetchRequest,
            find_coordinator::FindCoordinatorRequest,
            heartbeat::HeartbeatRequest,
            init_producer_id::InitProducerIdRequest,
            join_group::{JoinGroupRequest, JoinGroupResponse},
            leave_group::{LeaveGroupRequest, MemberIdentity},
            list_groups::ListGroupsRequest,
            list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
            metadata::{MetadataRequest, MetadataRequestTopic},
            offset_commit::{
                OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
                OffsetCommitResponse,
            },
            offset_fetch::{
                OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic,
                OffsetFetchRequestTopics,
            },
            offset_for_leader_epoch::{
                OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
            },
            produce::ProduceRequest,
            sync_group::SyncGroupRequest,
        },
    },
};
use uuid::Uuid;

use crate::{
    batches::{now, values},
    groups::{groups, join, sync},
    requests::{
        batch, batch_at, create, describe, fetch_all, fetch_from, fresh, named, new_topic, produce,
        produce_to,
    },
    support::wire::Wire,
};

/// An API, the versions in which it can be called here, and the call.
type Calls = (i16, RangeInclusive<i16>, fn(&mut Wire, i16));

const CALLS: &[Calls] = &[
    (ProduceRequest::KEY, 3..=13, produces),
    (FetchRequest::KEY, 4..=17, fetches),
    (ListOffsetsRequest::KEY, 1..=10, lists_offsets),
    (MetadataRequest::KEY, 0..=13, tells_metadata),
    (OffsetCommitRequest::KEY, 2..=9, commits),
    (OffsetFetchRequest::KEY, 1..=9, fetches_offsets),
    (FindCoordinatorRequest::KEY, 0..=5, finds_coordinators),
    (JoinGroupRequest::KEY, 0..=9, joins),
    (HeartbeatRequest::KEY, 0..=4, heartbeats),
    (LeaveGroupRequest::KEY, 0..=5, leaves),
    (SyncGroupRequest::KEY, 0..=5, syncs),
    (DescribeGroupsRequest::KEY, 0..=6, describes_groups),
    (ListGroupsRequest::KEY, 0..=5, lists_groups),
    (ApiVersionsRequest::KEY, 0..=4, tells_versions),
    (CreateTopicsRequest::KEY, 0..=7, creates_topics),
    (DeleteTopicsRequest::KEY, 0..=6, deletes_topics),
    (InitProducerIdRequest::KEY, 0..=5, gives_producer_ids),
    (OffsetForLeaderEpochRequest::KEY, 2..=4, ends_epochs),
    (DescribeConfigsRequest::KEY, 0..=4, describes_configs),
    (DeleteGroupsRequest::KEY, 0..=2, deletes_groups),
    (DescribeClusterRequest::KEY, 0..=2, describes_the_cluster),
];

/// Whatever is in the dispatch table is called: an API or a version that is new in it has no call here, and fails.
///
/// Proves: V7.
#[test]
fn whatever_is_advertised_is_served() {
    let mut wire = Wire::open(groups());
    for api in APIS {
        let calls = CALLS.iter().find(|(key, ..)| *key == api.key);
        let (_, known, call) = calls.unwrap_or_else(|| panic!("{} is never called", api.name));
        for version in api.served_from..=api.max {
            assert!(known.contains(&version), "{} is never called in version {version}", api.name);
            eprintln!("{} version {version}", api.name);
            call(&mut wire, version);
        }
    }
}

const UNKNOWN_MEMBER: i16 = 25;
const FENCED_INSTANCE: i16 = 82;
const UNKNOWN_EPOCH: i16 = 75;

/// An epoch that no leader had.
const LATER: i32 = 1_000;

/// The name of the static member in every group here.
const INSTANCE: &str = "instance";

/// A stable group of one static member.
struct Live {
    group: String,
    joined: JoinGroupResponse,
}

/// A join of the static member.
fn joining(group: &str) -> JoinGroupRequest {
    JoinGroupRequest {
        group_instance_id: Some(INSTANCE.into()),
        reason: Some("every version".into()),
        ..join(group, &Str::default(), &["p1", "p2"])
    }
}

impl Live {
    fn new(wire: &mut Wire) -> Self {
        let live = Self::without_plan(wire);
        let sync = sync(&live.group, &live.joined, &[(&live.joined.member_id, b"plan")]);
        assert_eq!(wire.call(&sync, 5).error_code, 0);
        live
    }

    fn without_plan(wire: &mut Wire) -> Self {
        let group = fresh("live");
        let joined = wire.call(&joining(&group), 9);
        assert_eq!((joined.error_code, joined.generation_id), (0, 1));
        Self { group, joined }
    }

    fn beat(&self) -> HeartbeatRequest {
        HeartbeatRequest {
            group_id: self.group.as_str().into(),
            generation_id: self.joined.generation_id,
            member_id: self.joined.member_id.clone(),
            group_instance_id: Some(INSTANCE.into()),
        }
    }

    fn described(&self, wire: &mut Wire) -> DescribedGroup {
        let request =
            DescribeGroupsRequest { groups: vec![self.group.as_str().into()], ..Default::default() };
        wire.call(&request, 5).groups.remove(0)
    }

    fn leave(&self, wire: &mut Wire) {
        let members =
            vec![MemberIdentity { member_id: self.joined.member_id.clone(), ..MemberIdentity::default() }];
        let leave = LeaveGroupRequest { group_id: self.group.as_str().into(), members, ..Default::default() };
        assert_eq!(wire.call(&leave, 5).members[0].error_code, 0);
    }

    /// A commit of offset 7 in epoch 5.
    fn commit(&self, topic: &str) -> OffsetCommitRequest {
        let partition = OffsetCommitRequestPartition {
            partition_index: 1,
            committed_offset: 7,
            committed_leader_epoch: 5,
            committed_metadata: Some("note".into()),
        };
        OffsetCommitRequest {
            group_id: self.group.as_str().into(),
            generation_id_or_member_epoch: self.joined.generation_id,
            member_id: self.joined.member_id.clone(),
            group_instance_id: Some(INSTANCE.into()),
            retention_time_ms: 3_600_000,
            topics: vec![OffsetCommitRequestTopic { name: topic.into(), partitions: vec![partition] }],
        }
    }
}

/// What a member of another id is told that names the instance: before static members it is only unknown.
fn impostor(version: i16, static_from: i16) -> i16 {
    if version < static_from { UNKNOWN_MEMBER } else { FENCED_INSTANCE }
}

fn joins(wire: &mut Wire, version: i16) {
    for instance in [None, Some(INSTANCE)] {
        let group = fresh("joined");
        let mut request = JoinGroupRequest { group_instance_id: instance.map(Str::from), ..joining(&group) };
        let mut joined = wire.call(&request, version);
        let told = instance.filter(|_| version >= 5);
        if version >= 4 && told.is_none() {
            assert_eq!((joined.error_code, joined.generation_id), (79, -1), "its id comes first");
            request.member_id = joined.member_id;
            joined = wire.call(&request, version);
            assert_eq!(joined.member_id, request.member_id);
        }
        assert_eq!((joined.error_code, joined.generation_id, joined.throttle_time_ms), (0, 1, 0));
        assert!(!joined.member_id.is_empty());
        assert_eq!(joined.leader, joined.member_id);
        assert_eq!(joined.protocol_type.as_deref(), (version >= 7).then_some("connect"));
        assert_eq!(joined.protocol_name.as_deref(), Some("p1"));
        assert!(!joined.skip_assignment);
        let [member] = &joined.members[..] else { panic!("{:?}", joined.members) };
        assert_eq!((&member.member_id, member.group_instance_id.as_deref()), (&joined.member_id, told));
        assert_eq!(member.metadata, &b"\0metadata of p1"[..]);
        let beat = Live { group, joined }.beat();
        assert_eq!(wire.call(&beat, 0).error_code, 0, "it is a member");
    }
}

fn syncs(wire: &mut Wire, version: i16) {
    let live = Live::without_plan(wire);
    let id = &live.joined.member_id;
    let request = SyncGroupRequest {
        group_instance_id: Some(INSTANCE.into()),
        ..sync(&live.group, &live.joined, &[(id, b"plan")])
    };
    let stranger = SyncGroupRequest { member_id: "somebody".into(), ..request.clone() };
    assert_eq!(wire.call(&stranger, version).error_code, impostor(version, 3));
    let synced = wire.call(&request, version);
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"plan"[..]));
    let named = (version >= 5).then_some(("connect", "p1"));
    assert_eq!(synced.protocol_type.as_deref().zip(synced.protocol_name.as_deref()), named);
    let described = live.described(wire);
    assert_eq!(
        (&*described.group_state, &described.members[0].member_assignment[..]),
        ("Stable", &b"plan"[..])
    );
    let outdated = SyncGroupRequest { generation_id: 9, ..request };
    assert_eq!(wire.call(&outdated, version).error_code, 22);
}

fn heartbeats(wire: &mut Wire, version: i16) {
    let live = Live::new(wire);
    assert_eq!(wire.call(&live.beat(), version).error_code, 0);
    assert_eq!(wire.call(&HeartbeatRequest { generation_id: 9, ..live.beat() }, version).error_code, 22);
    let stranger = HeartbeatRequest { member_id: "somebody".into(), ..live.beat() };
    assert_eq!(wire.call(&stranger, version).error_code, impostor(version, 3));
}

fn leaves(wire: &mut Wire, version: i16) {
    let live = Live::new(wire);
    let member = |member_id: &Str| MemberIdentity {
        member_id: member_id.clone(),
        reason: Some("every version".into()),
        ..MemberIdentity::default()
    };
    let request = |member_id: &Str| LeaveGroupRequest {
        group_id: live.group.as_str().into(),
        member_id: member_id.clone(),
        members: vec![member(&"somebody".into()), member(member_id)],
    };
    if version < 3 {
        assert_eq!(wire.call(&request(&"somebody".into()), version).error_code, UNKNOWN_MEMBER);
        assert_eq!(live.described(wire).members.len(), 1);
    }
    let left = wire.call(&request(&live.joined.member_id), version);
    assert_eq!(left.error_code, 0);
    let codes: Vec<_> = left.members.iter().map(|one| (&*one.member_id, one.error_code)).collect();
    let expected = [("somebody", UNKNOWN_MEMBER), (&*live.joined.member_id, 0)];
    assert_eq!(codes, if version < 3 { &[][..] } else { &expected });
    let described = live.described(wire);
    assert_eq!((&*described.group_state, described.members.len()), ("Empty", 0));
}

fn commits(wire: &mut Wire, version: i16) {
    let live = Live::new(wire);
    let topic = fresh("committed");
    create(wire, &topic, 2, &[]);
    let code = |response: OffsetCommitResponse| {
        let topic = &response.topics[0];
        (topic.name.to_string(), topic.partitions[0].partition_index, topic.partitions[0].error_code)
    };
    let stranger = OffsetCommitRequest { member_id: "somebody".into(), ..live.commit(&topic) };
    assert_eq!(code(wire.call(&stranger, version)), (topic.clone(), 1, impostor(version, 7)));
    let outdated = OffsetCommitRequest { generation_id_or_member_epoch: 9, ..live.commit(&topic) };
    assert_eq!(code(wire.call(&outdated, version)), (topic.clone(), 1, 22));
    assert_eq!(committed(wire, &live, &topic, 7), (-1, -1, Some("".into())), "neither left anything");
    assert_eq!(code(wire.call(&live.commit(&topic), version)), (topic.clone(), 1, 0));
    let epoch = if version < 6 { -1 } else { 5 };
    assert_eq!(committed(wire, &live, &topic, 7), (7, epoch, Some("note".into())));
}

/// Offset, epoch and metadata that a group has for partition 1 of a topic, in a version of OffsetFetch.
fn committed(wire: &mut Wire, live: &Live, topic: &str, version: i16) -> (i64, i32, Option<Str>) {
    let (group_id, name) = (Str::from(live.group.as_str()), Str::from(topic));
    let old = OffsetFetchRequestTopic { name: name.clone(), partition_indexes: vec![1] };
    let new = OffsetFetchRequestTopics { name, partition_indexes: vec![1] };
    let request = OffsetFetchRequest {
        group_id: group_id.clone(),
        topics: Some(vec![old]),
        groups: vec![OffsetFetchRequestGroup { group_id, topics: Some(vec![new]), ..Default::default() }],
        require_stable: true,
    };
    let mut answer = wire.call(&request, version);
    assert_eq!(answer.error_code, 0);
    if version < 8 {
        let mut found = answer.topics.remove(0);
        assert_eq!((&*found.name, found.partitions.len()), (topic, 1));
        let found = found.partitions.remove(0);
        assert_eq!((found.partition_index, found.error_code), (1, 0));
        (found.committed_offset, found.committed_leader_epoch, found.metadata)
    } else {
        let mut group = answer.groups.remove(0);
        assert_eq!((&*group.group_id, group.error_code), (live.group.as_str(), 0));
        let mut found = group.topics.remove(0);
        assert_eq!((&*found.name, found.partitions.len()), (topic, 1));
        let found = found.partitions.remove(0);
        assert_eq!((found.partition_index, found.error_code), (1, 0));
        (found.committed_offset, found.committed_leader_epoch, found.metadata)
    }
}

fn fetches_offsets(wire: &mut Wire, version: i16) {
    let (live, other) = (Live::new(wire), Live::new(wire));
    let topic = fresh("committed");
    create(wire, &topic, 2, &[]);
    assert_eq!(wire.call(&live.commit(&topic), 9).topics[0].partitions[0].error_code, 0);
    let epoch = if version < 5 { -1 } else { 5 };
    assert_eq!(committed(wire, &live, &topic, version), (7, epoch, Some("note".into())));
    assert_eq!(committed(wire, &other, &topic, version), (-1, -1, Some("".into())));
    // All topics: from version 2 on there is a way to ask for them, and from 8 on for several groups.
    let of = |live: &Live| OffsetFetchRequestGroup {
        group_id: live.group.as_str().into(),
        ..OffsetFetchRequestGroup::default()
    };
    let all = OffsetFetchRequest {
        group_id: live.group.as_str().into(),
        groups: vec![of(&live), of(&other)],
        ..OffsetFetchRequest::default()
    };
    match version {
        ..2 => {}
        2..8 => {
            let answer = wire.call(&all, version);
            let [found] = &answer.topics[..] else { panic!("{answer:?}") };
            assert_eq!((&*found.name, found.partitions[0].committed_offset), (topic.as_str(), 7));
        }
        8.. => {
            let [group, empty] = &wire.call(&all, version).groups[..] else { panic!("two groups") };
            assert_eq!(
                (&*group.topics[0].name, group.topics[0].partitions[0].committed_offset),
                (&*topic, 7)
            );
            assert_eq!((&*empty.group_id, empty.topics.len()), (&*other.group, 0));
        }
    }
}

fn finds_coordinators(wire: &mut Wire, version: i16) {
    let request = FindCoordinatorRequest {
        key: "one".into(),
        key_type: 0,
        coordinator_keys: vec!["one".into(), "two".into()],
    };
    let here = endpoint();
    let found = wire.call(&request, version);
    if version < 4 {
        assert_eq!((found.error_code, found.node_id, (&*found.host, found.port)), (0, 1, here));
    } else {
        let told = found
            .coordinators
            .iter()
            .map(|one| (&*one.key, one.error_code, one.node_id, (&*one.host, one.port)));
        assert_eq!(told.collect::<Vec<_>>(), [("one", 0, 1, here), ("two", 0, 1, here)]);
    }
    // The type of the key came with version 1; transactions have no coordinator.
    let found = wire.call(&FindCoordinatorRequest { key_type: 1, ..request }, version);
    let code = if version < 4 { found.error_code } else { found.coordinators[1].error_code };
    assert_eq!(code, if version < 1 { 0 } else { 53 });
}

/// Host and port of the broker.
fn endpoint() -> (&'static str, i32) {
    let (host, port) = groups().rsplit_once(':').expect("host and port");
    (host, port.parse().expect("a port"))
}

fn describes_groups(wire: &mut Wire, version: i16) {
    let live = Live::new(wire);
    for asked in [false, true] {
        let request = DescribeGroupsRequest {
            groups: vec![live.group.as_str().into(), "no-such-group".into()],
            include_authorized_operations: asked,
        };
        let answer = wire.call(&request, version);
        let [group, unknown] = &answer.groups[..] else { panic!("{answer:?}") };
        assert_eq!((group.error_code, &*group.group_id, &*group.group_state), (0, &*live.group, "Stable"));
        assert_eq!((&*group.protocol_type, &*group.protocol_data), ("connect", "p1"));
        assert_eq!(group.authorized_operations != i32::MIN, asked && version >= 3);
        let [member] = &group.members[..] else { panic!("{group:?}") };
        assert_eq!(member.member_id, live.joined.member_id);
        assert_eq!(member.group_instance_id.as_deref(), (version >= 4).then_some(INSTANCE));
        assert_eq!(&*member.client_id, "alluvium-tests");
        assert!(member.client_host.contains("127.0.0.1"), "{}", member.client_host);
        assert_eq!(member.member_metadata, &b"\0metadata of p1"[..]);
        assert_eq!(member.member_assignment, &b"plan"[..]);
        assert_eq!((&*unknown.group_id, &*unknown.group_state), ("no-such-group", "Dead"));
        assert_eq!(unknown.error_code, if version < 6 { 0 } else { 69 });
        assert_eq!(unknown.error_message.is_some(), version >= 6);
    }
}

fn lists_groups(wire: &mut Wire, version: i16) {
    let live = Live::new(wire);
    let mut listed = |states: &[&str], types: &[&str]| {
        let names = |names: &[&str]| names.iter().map(|name| Str::from(*name)).collect();
        let request = ListGroupsRequest { states_filter: names(states), types_filter: names(types) };
        let answer = wire.call(&request, version);
        assert_eq!(answer.error_code, 0);
        answer.groups.into_iter().find(|group| *group.group_id == *live.group)
    };
    let found = listed(&[], &[]).expect("it is there");
    assert_eq!(&*found.protocol_type, "connect");
    assert_eq!(&*found.group_state, if version < 4 { "" } else { "Stable" });
    assert_eq!(&*found.group_type, if version < 5 { "" } else { "classic" });
    assert!(listed(&["Stable"], &["classic"]).is_some());
    assert_eq!(listed(&["Empty"], &[]).is_none(), version >= 4, "states are asked for");
    assert_eq!(listed(&[], &["consumer"]).is_none(), version >= 5, "types are asked for");
}

fn deletes_groups(wire: &mut Wire, version: i16) {
    let live = Live::new(wire);
    let mut delete = || {
        let names = vec![live.group.as_str().into(), "no-such-group".into()];
        let answer = wire.call(&DeleteGroupsRequest { groups_names: names }, version);
        let [group, unknown] = &answer.results[..] else { panic!("{answer:?}") };
        assert_eq!((&*group.group_id, &*unknown.group_id), (&*live.group, "no-such-group"));
        assert_eq!(unknown.error_code, 69);
        group.error_code
    };
    assert_eq!(delete(), 68, "it has a member");
    live.leave(&mut Wire::open(groups()));
    assert_eq!(delete(), 0);
    assert_eq!(delete(), 69);
    assert_eq!(&*live.described(wire).group_state, "Dead");
}

fn produces(wire: &mut Wire, version: i16) {
    let topic = fresh("produced");
    let id = create(wire, &topic, 2, &[]);
    for (offset, pair) in [(0, ["a", "b"]), (2, ["c", "d"])] {
        let answer = wire.call(&produce_to(&topic, id, 1, batch(&pair)), version).responses.remove(0);
        assert_eq!(
            (&*answer.name, answer.topic_id),
            if version < 13 { (&*topic, Uuid::nil()) } else { ("", id) }
        );
        let [partition] = &answer.partitions[..] else { panic!("{answer:?}") };
        assert_eq!((partition.index, partition.error_code, partition.base_offset), (1, 0, offset));
        assert_eq!(partition.log_append_time_ms, -1);
        assert_eq!(partition.log_start_offset, if version < 5 { -1 } else { 0 });
    }
    assert_eq!(values(&fetch_all(wire, id, 1)), ["a", "b", "c", "d"]);
    let refused = produce(wire, version, &topic, id, 7, batch(&["x"]));
    assert_eq!((refused.error_code, refused.base_offset), (3, -1));
}

fn fetches(wire: &mut Wire, version: i16) {
    let topic = fresh("fetched");
    let id = create(wire, &topic, 2, &[]);
    assert_eq!(produce(wire, 9, &topic, id, 1, batch(&["a", "b"])).error_code, 0);
    let request = |offset, epoch| {
        let mut request = fetch_from(id, 1, offset, 0);
        request.topics[0].name = topic.as_str().into();
        request.topics[0].partitions[0].current_leader_epoch = epoch;
        request
    };
    let begin = FetchRequest { session_epoch: 0, ..request(0, -1) };
    let answer = wire.call(&begin, version);
    assert_eq!((answer.error_code, answer.session_id != 0), (0, version >= 7));
    let [of_topic] = &answer.responses[..] else { panic!("{answer:?}") };
    assert_eq!(
        (&*of_topic.name, of_topic.topic_id),
        if version < 13 { (&*topic, Uuid::nil()) } else { ("", id) }
    );
    let [partition] = &of_topic.partitions[..] else { panic!("{of_topic:?}") };
    assert_eq!((partition.partition_index, partition.error_code), (1, 0));
    assert_eq!((partition.high_watermark, partition.last_stable_offset), (2, 2));
    assert_eq!(partition.log_start_offset, if version < 5 { -1 } else { 0 });
    assert_eq!(partition.preferred_read_replica, -1);
    assert_eq!(values(partition), ["a", "b"]);
    if version >= 7 {
        let next = FetchRequest { session_id: answer.session_id, session_epoch: 1, topics: vec![], ..begin };
        let next = wire.call(&next, version);
        assert_eq!((next.error_code, next.session_id), (0, answer.session_id));
    }
    let mut code =
        |offset, epoch| wire.call(&request(offset, epoch), version).responses[0].partitions[0].error_code;
    assert_eq!(code(3, -1), 1, "past the end");
    assert_eq!(code(0, LATER), if version < 9 { 0 } else { UNKNOWN_EPOCH });
}

fn lists_offsets(wire: &mut Wire, version: i16) {
    let topic = fresh("listed");
    let id = create(wire, &topic, 2, &[]);
    let first = now() - 1_000;
    assert_eq!(produce(wire, 9, &topic, id, 1, batch_at(&["a", "b", "c"], first)).error_code, 0);
    let mut list = |timestamp, current_leader_epoch| {
        let wanted = ListOffsetsPartition { partition_index: 1, current_leader_epoch, timestamp };
        let request = ListOffsetsRequest {
            topics: vec![ListOffsetsTopic { name: topic.as_str().into(), partitions: vec![wanted] }],
            timeout_ms: 30_000,
            ..ListOffsetsRequest::default()
        };
        let answer = wire.call(&request, version).topics.remove(0);
        assert_eq!((&*answer.name, answer.partitions[0].partition_index), (&*topic, 1));
        answer.partitions[0].clone()
    };
    for (timestamp, offset, found) in [(-1, 3, -1), (-2, 0, -1), (first + 1, 1, first + 1)] {
        let answer = list(timestamp, -1);
        assert_eq!((answer.error_code, answer.offset, answer.timestamp), (0, offset, found));
        assert_eq!(answer.leader_epoch >= 0, version >= 4);
    }
    assert_eq!(list(-1, LATER).error_code, if version < 4 { 0 } else { UNKNOWN_EPOCH });
    let special = [-3, -4, -5].map(|timestamp| list(timestamp, -1).error_code == 0);
    assert_eq!(special, [version >= 7, version >= 8, version >= 9]);
}

fn tells_metadata(wire: &mut Wire, version: i16) {
    let topic = fresh("told");
    let id = create(wire, &topic, 2, &[]);
    for asked in [false, true] {
        let request = MetadataRequest {
            include_cluster_authorized_operations: asked,
            include_topic_authorized_operations: asked,
            ..named(&[&topic])
        };
        let answer = wire.call(&request, version);
        let [broker] = &answer.brokers[..] else { panic!("{answer:?}") };
        assert_eq!((broker.node_id, (&*broker.host, broker.port)), (1, endpoint()));
        assert_eq!(answer.controller_id, if version < 1 { -1 } else { 1 });
        assert_eq!(answer.cluster_id.is_some(), version >= 2);
        let told = asked && (8..=10).contains(&version);
        assert_eq!(answer.cluster_authorized_operations != i32::MIN, told);
        let [of_topic] = &answer.topics[..] else { panic!("{answer:?}") };
        assert_eq!((of_topic.error_code, of_topic.name.as_deref()), (0, Some(&*topic)));
        assert_eq!(of_topic.topic_id, if version < 10 { Uuid::nil() } else { id });
        assert_eq!(of_topic.topic_authorized_operations != i32::MIN, asked && version >= 8);
        assert_eq!(of_topic.partitions.len(), 2);
        for (index, partition) in (0..).zip(&of_topic.partitions) {
            assert_eq!((partition.error_code, partition.partition_index, partition.leader_id), (0, index, 1));
            assert_eq!(partition.leader_epoch >= 0, version >= 7);
            assert_eq!((&partition.replica_nodes[..], &partition.isr_nodes[..]), (&[1][..], &[1][..]));
            assert!(partition.offline_replicas.is_empty());
        }
    }
    let missing = MetadataRequest { allow_auto_topic_creation: false, ..named(&[&fresh("untold")]) };
    let code = wire.call(&missing, version).topics[0].error_code;
    assert_eq!(code == 3, version >= 4, "before version 4 it is created: {code}");
    if version >= 12 {
        let by_id = MetadataRequest {
            topics: Some(vec![MetadataRequestTopic { name: None, topic_id: id }]),
            ..MetadataRequest::default()
        };
        assert_eq!(wire.call(&by_id, version).topics[0].name.as_deref(), Some(&*topic));
    }
}

fn creates_topics(wire: &mut Wire, version: i16) {
    let topic = fresh("created");
    let mut call = |validate_only| {
        let topics = vec![new_topic(&topic, 3, &[("retention.ms", "77")])];
        let answer = wire.call(&CreateTopicsRequest { topics, timeout_ms: 30_000, validate_only }, version);
        assert_eq!(&*answer.topics[0].name, topic);
        answer.topics[0].clone()
    };
    if version >= 1 {
        assert_eq!(call(true).error_code, 0, "nothing is made by it");
    }
    let made = call(false);
    assert_eq!((made.error_code, made.error_message), (0, None));
    assert_eq!((made.num_partitions, made.replication_factor), if version < 5 { (-1, -1) } else { (3, 1) });
    let configs = made.configs.unwrap_or_default();
    let retention = configs.iter().find(|config| &*config.name == "retention.ms");
    let retention = retention.and_then(|config| config.value.as_deref());
    assert_eq!(retention, (version >= 5).then_some("77"));
    let again = call(false);
    assert_eq!((again.error_code, again.error_message.is_some()), (36, version >= 1));
    let described = describe(wire, &topic);
    assert_eq!((described.error_code, described.partitions.len()), (0, 3));
    assert_eq!(made.topic_id, if version < 7 { Uuid::nil() } else { described.topic_id });
}

fn deletes_topics(wire: &mut Wire, version: i16) {
    let (by_name, by_id) = (fresh("deleted"), fresh("deleted"));
    create(wire, &by_name, 1, &[]);
    let id = create(wire, &by_id, 1, &[]);
    let request = DeleteTopicsRequest {
        topics: vec![
            DeleteTopicState { name: Some(by_name.as_str().into()), topic_id: Uuid::nil() },
            DeleteTopicState { name: None, topic_id: id },
        ],
        topic_names: vec![by_name.as_str().into(), by_id.as_str().into()],
        timeout_ms: 30_000,
    };
    for code in [[0, 0], [3, if version < 6 { 3 } else { 100 }]] {
        let answer = wire.call(&request, version);
        assert_eq!(answer.responses.iter().map(|one| one.error_code).collect::<Vec<_>>(), code);
        assert_eq!(answer.responses[0].name.as_deref(), Some(&*by_name));
        assert_eq!(answer.responses[1].topic_id, if version < 6 { Uuid::nil() } else { id });
        let explained = version >= 5 && code[0] != 0;
        assert_eq!(answer.responses[0].error_message.is_some(), explained);
        assert_eq!([&by_name, &by_id].map(|topic| describe(wire, topic).error_code), [3, 3]);
    }
}

fn gives_producer_ids(wire: &mut Wire, version: i16) {
    let mut ask = |producer_id, producer_epoch| {
        let transaction_timeout_ms = 60_000;
        let request = InitProducerIdRequest {
            transaction_timeout_ms,
            producer_id,
            producer_epoch,
            ..Default::default()
        };
        let answer = wire.call(&request, version);
        (answer.error_code, answer.producer_id, answer.producer_epoch)
    };
    let (first, second) = (ask(-1, -1), ask(-1, -1));
    assert_eq!([(first.0, first.2), (second.0, second.2)], [(0, 0); 2]);
    assert!(first.1 >= 0 && second.1 > first.1, "{first:?} {second:?}");
    // An epoch without an id cannot be; both came with version 3.
    assert_eq!(ask(-1, 0).0, if version < 3 { 0 } else { 42 });
}

fn ends_epochs(wire: &mut Wire, version: i16) {
    let topic = fresh("epochs");
    let id = create(wire, &topic, 2, &[]);
    assert_eq!(produce(wire, 9, &topic, id, 1, batch(&["a", "b"])).error_code, 0);
    let epoch = describe(wire, &topic).partitions[1].leader_epoch;
    for (current, expected) in [(-1, (0, epoch, 2)), (epoch, (0, epoch, 2)), (LATER, (UNKNOWN_EPOCH, -1, -1))]
    {
        let wanted =
            OffsetForLeaderPartition { partition: 1, current_leader_epoch: current, leader_epoch: epoch };
        let request = OffsetForLeaderEpochRequest {
            topics: vec![OffsetForLeaderTopic { topic: topic.as_str().into(), partitions: vec![wanted] }],
            ..OffsetForLeaderEpochRequest::default()
        };
        let answer = wire.call(&request, version).topics.remove(0);
        assert_eq!((&*answer.topic, answer.partitions[0].partition), (&*topic, 1));
        let end = &answer.partitions[0];
        assert_eq!((end.error_code, end.leader_epoch, end.end_offset), expected);
    }
}

fn describes_configs(wire: &mut Wire, version: i16) {
    let topic = fresh("configured");
    create(wire, &topic, 1, &[("retention.ms", "77")]);
    for asked in [false, true] {
        let resource = DescribeConfigsResource {
            resource_type: 2,
            resource_name: topic.as_str().into(),
            configuration_keys: Some(vec!["retention.ms".into(), "segment.bytes".into()]),
        };
        let request = DescribeConfigsRequest {
            resources: vec![resource],
            include_synonyms: asked,
            include_documentation: asked,
        };
        let answer = wire.call(&request, version).results.remove(0);
        assert_eq!((answer.error_code, answer.resource_type, &*answer.resource_name), (0, 2, &*topic));
        assert_eq!(answer.configs.len(), 2);
        let entry = |name| answer.configs.iter().find(|entry| &*entry.name == name).expect("the setting");
        let (own, default) = (entry("retention.ms"), entry("segment.bytes"));
        assert_eq!(own.value.as_deref(), Some("77"));
        if version < 1 {
            assert_eq!((own.is_default, default.is_default), (false, true));
        } else {
            assert_eq!((own.config_source, default.config_source), (1, 5));
        }
        assert_eq!(own.synonyms.is_empty(), !asked || version < 1);
        assert_eq!(own.config_type, if version < 3 { 0 } else { 5 });
        assert_eq!(own.documentation.is_some(), asked && version >= 3);
    }
}

fn describes_the_cluster(wire: &mut Wire, version: i16) {
    for asked in [false, true] {
        let request = DescribeClusterRequest {
            include_cluster_authorized_operations: asked,
            ..DescribeClusterRequest::default()
        };
        let answer = wire.call(&request, version);
        assert_eq!((answer.error_code, answer.controller_id, answer.endpoint_type), (0, 1, 1));
        assert!(!answer.cluster_id.is_empty());
        assert_eq!(answer.cluster_authorized_operations != i32::MIN, asked);
        let [broker] = &answer.brokers[..] else { panic!("{answer:?}") };
        assert_eq!((broker.broker_id, (&*broker.host, broker.port)), (1, endpoint()));
        assert!(!broker.is_fenced);
    }
    // The type of the endpoint came with version 1; this one is a controller's.
    let request = DescribeClusterRequest { endpoint_type: 2, ..DescribeClusterRequest::default() };
    assert_eq!(wire.call(&request, version).error_code, if version < 1 { 0 } else { 114 });
}

fn tells_versions(wire: &mut Wire, version: i16) {
    let request = ApiVersionsRequest {
        client_software_name: "every-version".into(),
        client_software_version: "1.0".into(),
    };
    let answer = wire.call(&request, version);
    assert_eq!(answer.error_code, 0);
    let mut told: Vec<_> =
        answer.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version)).collect();
    let mut expected: Vec<_> = APIS.iter().map(|api| (api.key, api.min, api.max)).collect();
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
    // The software is checked from version 3 on, where it is told.
    let nameless = ApiVersionsRequest { client_software_name: Str::default(), ..request };
    assert_eq!(wire.call(&nameless, version).error_code, if version < 3 { 0 } else { 42 });
}
