//! Metadata and bootstrap (M).

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use alluvium::protocol::{
    ErrorCode, Str,
    messages::{
        create_topics::CreateTopicsRequest,
        delete_topics::DeleteTopicsRequest,
        fetch::FetchRequest,
        find_coordinator::FindCoordinatorRequest,
        init_producer_id::InitProducerIdRequest,
        metadata::{MetadataRequest, MetadataRequestTopic},
        produce::ProduceRequest,
    },
};
use uuid::Uuid;

use crate::{
    batches::of_producer,
    requests::{batch, create, describe, fetch_from, fresh, named, new_topic, produce_to, shared},
    support::{broker::Broker, wire::Wire},
};

/// Brokers are named as clients reach them, never by a bind address; what is advertised is what is told.
///
/// Proves: M1, M8, M14.
#[test]
fn brokers_are_named_as_clients_reach_them() {
    let mut wire = Wire::open(shared());
    let response = wire.call(&named(&[]), 12);
    let (host, port) = shared().rsplit_once(':').expect("host:port");
    let broker = &response.brokers[0];
    assert_eq!((&*broker.host, broker.port.to_string().as_str(), broker.node_id), (host, port, 1));
    assert_eq!(response.controller_id, 1, "a live broker that takes admin requests");

    let elsewhere = Broker::ephemeral_with(&[
        "--listen",
        "PLAINTEXT://0.0.0.0:0",
        "--advertise",
        "PLAINTEXT://broker.example:0",
        "--set",
        "broker.rack=r1",
    ]);
    let port = elsewhere.bootstrap.rsplit(':').next().expect("a port");
    let response = Wire::open(&format!("127.0.0.1:{port}")).call(&named(&[]), 12);
    let broker = &response.brokers[0];
    let told = (&*broker.host, broker.port.to_string(), broker.rack.as_deref());
    assert_eq!(told, ("broker.example", port.to_owned(), Some("r1")));
}

/// Node id, cluster id, topic ids and partitions are the same after a restart; the leader epoch rises with each, and is the one by which
/// Fetch judges what a client knows.
///
/// Proves: M2, M6, R1.
#[test]
fn identities_survive_a_restart() {
    let data = tempfile::tempdir().expect("a data directory");
    let look = |broker: &Broker| {
        let mut wire = Wire::open(&broker.bootstrap);
        let response = wire.call(&named(&["kept"]), 12);
        let epochs: Vec<i32> =
            response.topics[0].partitions.iter().map(|partition| partition.leader_epoch).collect();
        let mut fetch_knowing = |partition: i32, epoch: i32| {
            let mut request = fetch_from(response.topics[0].topic_id, partition, 0, 0);
            request.topics[0].partitions[0].current_leader_epoch = epoch;
            wire.call::<FetchRequest>(&request, 13).responses[0].partitions[0].error_code
        };
        for (partition, epoch) in (0..).zip(&epochs) {
            assert_eq!(
                fetch_knowing(partition, *epoch),
                0,
                "the epoch that Metadata tells is the one checked"
            );
            assert_eq!(fetch_knowing(partition, epoch + 1), 75);
            // -1 stands for no check.
            assert_eq!(fetch_knowing(partition, epoch - 1), if *epoch == 0 { 0 } else { 74 });
        }
        ((response.cluster_id, response.brokers[0].node_id, response.topics[0].topic_id), epochs)
    };
    let mut broker = Broker::on(data.path(), &[]);
    create(&mut Wire::open(&broker.bootstrap), "kept", 3, &[]);
    let (before, mut epochs) = look(&broker);
    assert!(before.0.as_ref().is_some_and(|id| id.len() == 22), "{before:?}");
    for graceful in [true, false] {
        if graceful {
            broker.terminate();
            assert!(broker.wait().success());
        } else {
            broker.kill();
        }
        broker = Broker::on(data.path(), &[]);
        let (after, later) = look(&broker);
        assert_eq!(after, before);
        assert!(
            later.iter().zip(&epochs).all(|(later, earlier)| later > earlier),
            "{epochs:?} then {later:?}"
        );
        epochs = later;
    }
}

/// An unknown topic and an illegal name have their errors in the list, with no partitions, and are never left out.
///
/// Proves: M3, M4.
#[test]
fn unknown_and_illegal_names_are_answered() {
    let mut wire = Wire::open(shared());
    let long = "x".repeat(250);
    for (name, error) in
        [("no-such-topic", 3), ("", 17), (".", 17), ("..", 17), ("a b", 17), (long.as_str(), 17)]
    {
        let topic = describe(&mut wire, name);
        assert_eq!(topic.error_code, error, "{name:?}");
        assert_eq!(topic.name.as_deref(), Some(name));
        assert!(topic.partitions.is_empty());
    }
    assert_eq!(describe(&mut wire, "no-such-topic").error_code, 3, "asking did not create it");
}

/// A topic is created by being asked for, where broker and request allow it, and it serves when the answer says so.
///
/// Proves: M4, M17.
#[test]
fn topics_are_created_when_asked_for() {
    let mut wire = Wire::open(shared());
    for version in [0, 4, 13] {
        let name = fresh("auto");
        let mut topic = wire.call(&named(&[&name]), version).topics.remove(0);
        // Error 3 means: not yet, ask again. It must come right.
        let deadline = Instant::now() + Duration::from_secs(30);
        while topic.error_code == 3 && Instant::now() < deadline {
            topic = wire.call(&named(&[&name]), version).topics.remove(0);
        }
        assert_eq!(topic.error_code, 0, "v{version}");
        assert_eq!(topic.partitions.len(), 1);
        assert_eq!(topic.partitions[0].leader_id, 1);
        let produced = wire.call(&produce_to(&name, topic.topic_id, 0, batch(&["at once"])), 9);
        assert_eq!(produced.responses[0].partitions[0].error_code, 0);
    }
    let refusing = Broker::ephemeral_with(&["--set", "auto.create.topics.enable=false"]);
    let topic = Wire::open(&refusing.bootstrap).call(&named(&["auto"]), 12).topics.remove(0);
    assert_eq!(topic.error_code, 3);
}

/// Topic ids: given, found by, and new when a topic is created again. Versions 10 and 11 carry ids but do not look up by them.
///
/// Proves: M7.
#[test]
fn topic_ids_identify_topics() {
    let mut wire = Wire::open(shared());
    let name = fresh("ids");
    let id = create(&mut wire, &name, 1, &[]);
    assert!(!id.is_nil());
    let ask = |topic_id, name: Option<&str>| MetadataRequest {
        topics: Some(vec![MetadataRequestTopic { topic_id, name: name.map(Str::from) }]),
        ..MetadataRequest::default()
    };
    let found = wire.call(&ask(id, None), 12).topics.remove(0);
    assert_eq!((found.error_code, found.name.as_deref(), found.topic_id), (0, Some(name.as_str()), id));
    let missing = wire.call(&ask(Uuid::from_u128(7), None), 12).topics.remove(0);
    assert_eq!((missing.error_code, missing.topic_id), (100, Uuid::from_u128(7)));
    for version in [10, 11] {
        assert_eq!(wire.call(&ask(id, Some(&name)), version).topics[0].error_code, 42, "v{version}");
    }
    let delete = DeleteTopicsRequest {
        topic_names: vec![Str::from(name.as_str())],
        timeout_ms: 30_000,
        ..DeleteTopicsRequest::default()
    };
    assert_eq!(wire.call(&delete, 4).responses[0].error_code, 0);
    assert_ne!(create(&mut wire, &name, 1, &[]), id, "a new topic has a new id");
    assert_eq!(wire.call(&ask(id, None), 12).topics[0].error_code, 100);
}

/// Operations are told where they are asked for, and only there.
///
/// Proves: M9.
#[test]
fn authorized_operations_only_when_asked() {
    let mut wire = Wire::open(shared());
    let name = fresh("operations");
    create(&mut wire, &name, 1, &[]);
    let response = wire.call(&named(&[&name]), 8);
    assert_eq!(response.cluster_authorized_operations, i32::MIN);
    assert_eq!(response.topics[0].topic_authorized_operations, i32::MIN);
    let request = MetadataRequest {
        include_cluster_authorized_operations: true,
        include_topic_authorized_operations: true,
        ..named(&[&name])
    };
    let response = wire.call(&request, 8);
    assert_ne!(response.cluster_authorized_operations, i32::MIN);
    assert_eq!(response.topics[0].topic_authorized_operations, 0b1101_1111_1000);
}

/// The offsets topic is internal, others are not. It appears at the first FindCoordinator, not before.
///
/// Proves: M10, A19.
#[test]
fn internal_topics_are_marked() {
    let broker = Broker::ephemeral();
    let mut wire = Wire::open(&broker.bootstrap);
    assert_eq!(describe(&mut wire, "__consumer_offsets").error_code, 3);
    let find = FindCoordinatorRequest { key: Str::from("a group"), ..FindCoordinatorRequest::default() };
    let deadline = Instant::now() + Duration::from_secs(30);
    while wire.call(&find, 3).error_code == 15 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    let internal = describe(&mut wire, "__consumer_offsets");
    assert!(internal.is_internal && internal.error_code == 0 && internal.partitions.len() == 50);
    let name = fresh("ordinary");
    create(&mut wire, &name, 1, &[]);
    assert!(!describe(&mut wire, &name).is_internal);
}

/// Clients of each listener are told that listener's address, in Metadata and where an answer names the leader. So every leader can be
/// reached from the listener that was asked: the error of one that cannot is never needed.
///
/// Proves: M1, M13, F12.
#[test]
fn each_listener_is_told_to_its_own_clients() {
    let (broker, [inside, outside]) = two_listeners(&[
        "--advertise",
        "PLAINTEXT://inside.example:0",
        "--advertise",
        "OUTSIDE://outside.example:0",
    ]);
    let mut id = None;
    for (port, host) in [(inside, "inside.example"), (outside, "outside.example")] {
        let mut wire = Wire::open(&format!("127.0.0.1:{port}"));
        let id = *id.get_or_insert_with(|| create(&mut wire, "reached", 2, &[]));
        for version in [5, 6, 12] {
            let response = wire.call(&named(&["reached"]), version);
            let told: Vec<_> = response
                .brokers
                .iter()
                .map(|told| (told.node_id, &*told.host, told.port.to_string()))
                .collect();
            assert_eq!(told, [(1, host, port.clone())], "v{version}");
            let leaders = response.topics[0].partitions.iter().map(|one| (one.error_code, one.leader_id));
            assert_eq!(leaders.collect::<Vec<_>>(), [(0, 1); 2], "v{version}");
        }
        let mut fenced = fetch_from(id, 0, 0, 0);
        let epoch = describe(&mut wire, "reached").partitions[0].leader_epoch;
        fenced.topics[0].partitions[0].current_leader_epoch = epoch - 1;
        let response = wire.call(&fenced, 16);
        let answer = &response.responses[0].partitions[0];
        assert_eq!((answer.error_code, answer.current_leader.leader_id), (74, 1));
        let leader = &response.node_endpoints[0];
        assert_eq!((&*leader.host, leader.port.to_string()), (host, port.clone()));
    }
    drop(broker);
}

/// A broker with the listeners PLAINTEXT and OUTSIDE, and their ports.
fn two_listeners(arguments: &[&str]) -> (Broker, [String; 2]) {
    let listeners = [
        "--listen",
        "PLAINTEXT://127.0.0.1:0",
        "--listen",
        "OUTSIDE://127.0.0.1:0",
        "--set",
        "listener.security.protocol.map=OUTSIDE:PLAINTEXT",
    ];
    let broker = Broker::ephemeral_with(&[&listeners, arguments].concat());
    let port = |address: &str| address.rsplit(':').next().expect("a port").to_owned();
    let (inside, admin) = (port(&broker.bootstrap), port(&broker.admin));
    let mut listening = listening_ports(broker.pid());
    listening.retain(|port| *port != inside && *port != admin);
    let outside = listening.pop().expect("a second listener");
    (broker, [inside, outside])
}

/// An address may have so many connections to the broker, not to each of its listeners.
#[test]
fn connections_of_an_address_are_counted_over_all_listeners() {
    let (broker, [inside, outside]) = two_listeners(&["--set", "max.connections.per.ip=2"]);
    let open = |port: &str| Wire::open(&format!("127.0.0.1:{port}"));
    let mut first = open(&inside);
    let mut second = open(&outside);
    for wire in [&mut first, &mut second] {
        assert_eq!(wire.call(&named(&[]), 12).brokers.len(), 1);
    }
    open(&outside).assert_closed();
    open(&inside).assert_closed();
    assert_eq!(first.call(&named(&[]), 12).brokers.len(), 1);
    drop(broker);
}

/// The TCP ports on which a process listens.
fn listening_ports(pid: u32) -> Vec<String> {
    let sockets: HashSet<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("its descriptors")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("its sockets");
    let listening = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = fields[1].split(':').nth(1)?;
        // 0A is LISTEN.
        (fields[3] == "0A" && sockets.contains(fields[9])).then_some(port)
    });
    listening.map(|port| u16::from_str_radix(port, 16).expect("a port").to_string()).collect()
}

/// The first replica is the preferred leader, and the leader is in sync.
///
/// Proves: M11.
#[test]
fn replicas_name_the_preferred_leader() {
    let mut wire = Wire::open(shared());
    let name = fresh("replicas");
    create(&mut wire, &name, 5, &[]);
    let topic = describe(&mut wire, &name);
    assert_eq!(topic.partitions.len(), 5);
    for (index, partition) in (0..).zip(&topic.partitions) {
        assert_eq!(partition.partition_index, index);
        assert_eq!(partition.error_code, 0);
        assert_eq!(partition.replica_nodes[0], partition.leader_id);
        assert!(partition.isr_nodes.contains(&partition.leader_id));
        assert!(partition.offline_replicas.is_empty());
    }
}

/// Metadata waits for nothing that goes on beside it: while a thousand partitions are made it is answered again and again.
///
/// Proves: M15.
#[test]
fn metadata_is_answered_while_partitions_are_made() {
    let broker = Broker::ephemeral();
    // The machine may be too busy to let us ask in time; a broker that lets Metadata wait never passes.
    let passes = |round| answers_during_a_creation(&broker, round) >= 5;
    assert!((0..10).any(passes), "it is answered when the partitions are there, not before");
}

fn answers_during_a_creation(broker: &Broker, round: u32) -> u32 {
    let name = format!("many-{round}");
    let mut wire = Wire::open(&broker.bootstrap);
    let mut creating = Wire::open(&broker.bootstrap);
    let topics = vec![new_topic(&name, 1000, &[])];
    let request = CreateTopicsRequest { topics, timeout_ms: 60_000, ..CreateTopicsRequest::default() };
    let correlation = creating.send(&request, 5);
    let created = std::thread::spawn(move || {
        assert_eq!(creating.receive::<CreateTopicsRequest>(5, correlation).topics[0].error_code, 0);
    });
    let mut answers = 0;
    while !created.is_finished() {
        describe(&mut wire, &name);
        answers += 1;
    }
    created.join().expect("the creation");
    let topic = describe(&mut wire, &name);
    assert!(topic.error_code == 0 && topic.partitions.iter().all(|partition| partition.leader_id == 1));
    // The last one may have come with the end of the creation.
    u32::saturating_sub(answers, 1)
}

/// The codes that clients are known to retry are marked as such, those that no retry helps are not; Kafka's own classes for all of them
/// are compared by the differential tests.
///
/// Proves: M16.
#[test]
fn retriable_codes_are_kafkas() {
    let listed = [2, 3, 5, 6, 7, 14, 15, 16, 19, 20, 51, 56, 72, 74, 75, 78, 88, 89, 100, 103];
    for number in listed {
        assert!(ErrorCode::from_number(number).is_some_and(ErrorCode::is_retriable), "{number}");
    }
    for number in [-1, 1, 10, 17, 22, 25, 27, 35, 36, 42, 45, 47, 87] {
        assert!(ErrorCode::from_number(number).is_some_and(|code| !code.is_retriable()), "{number}");
    }
}

/// Every partition of a topic takes a produce the moment CreateTopics says success: an idempotent producer that sends two batches to each
/// at once has both accepted, in order.
///
/// Proves: M17, A2.
#[test]
fn created_means_serving() {
    let mut wire = Wire::open(shared());
    let name = fresh("serving");
    let id = create(&mut wire, &name, 100, &[]);
    let producer = wire.call(&InitProducerIdRequest::default(), 4);
    assert_eq!(producer.error_code, 0);
    let mut sent = Vec::new();
    for partition in 0..100 {
        for sequence in 0..2 {
            let records = of_producer(producer.producer_id, producer.producer_epoch, sequence, 1);
            let request = produce_to(&name, id, partition, records);
            sent.push((i64::from(sequence), wire.send::<ProduceRequest>(&request, 13)));
        }
    }
    for (offset, correlation) in sent {
        let response = wire.receive::<ProduceRequest>(13, correlation);
        let answer = &response.responses[0].partitions[0];
        assert_eq!((answer.error_code, answer.base_offset), (0, offset));
    }
}

/// A topic that would need more descriptors than the process may have is not made by asking for it either.
#[test]
fn auto_creation_keeps_within_the_limits_of_the_process() {
    let broker = Broker::ephemeral_with_descriptors(2_000, &["--set", "num.partitions=5000"]);
    let mut wire = Wire::open(&broker.bootstrap);
    let name = fresh("wide");
    assert_eq!(wire.call(&named(&[&name]), 12).topics[0].error_code, 44);
    assert_eq!(describe(&mut wire, &name).error_code, 3);
}
