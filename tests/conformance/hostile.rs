//! Clients that mean no good (faults I and K): what they send costs them their connection, and nobody else anything.

use std::{
    io::{ErrorKind, Write},
    time::{Duration, Instant},
};

use alluvium::protocol::{
    encode_request,
    messages::{
        api_versions::ApiVersionsRequest,
        describe_groups::DescribeGroupsRequest,
        fetch::{FetchPartition, FetchRequest},
        join_group::{JoinGroupRequest, JoinGroupRequestProtocol},
        offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        produce::{PartitionData, ProduceRequest},
    },
};
use bytes::Bytes;
use uuid::Uuid;

use crate::{
    batches::of_size,
    groups::{commit_offset, find_coordinator},
    requests::{batch, create, end_of, fetch_from, fresh, produce, produce_to},
    support::{
        broker::{Broker, http_get},
        wire::Wire,
    },
};

const MIB: u64 = 1 << 20;

fn unharmed(broker: &Broker) {
    let mut wire = Wire::open(&broker.bootstrap);
    let topic = fresh("unharmed");
    let id = create(&mut wire, &topic, 1, &[]);
    assert_eq!(produce(&mut wire, 9, &topic, id, 0, batch(&["x"])).error_code, 0);
    assert_eq!(end_of(&mut wire, &topic, 0), 1);
}

/// A client that sends and never reads is not read from any more: its answers do not pile up.
///
/// Proves: fault I10.
#[test]
fn a_client_that_never_reads_is_not_read_from() {
    let broker = Broker::ephemeral();
    let mut wire = Wire::open(&broker.bootstrap);
    let topic = fresh("piling");
    let id = create(&mut wire, &topic, 1, &[]);
    for _ in 0..8 {
        assert_eq!(produce(&mut wire, 9, &topic, id, 0, of_size(1_000_000)).error_code, 0);
    }
    let before = broker.peak_resident_bytes();
    let mut silent = Wire::open(&broker.bootstrap);
    silent.stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a write time-out");
    let mut request = fetch_from(id, 0, 0, 0);
    request.max_bytes = 8 << 20;
    request.topics[0].partitions[0].partition_max_bytes = 8 << 20;
    // Long client ids fill the socket with few requests.
    let frame = encode_request::<FetchRequest>(&request, 13, 1, &"x".repeat(30_000).into());
    let mut sent = 0_u64;
    let stopped = loop {
        match silent.stream.write(&frame) {
            Ok(bytes) => sent += bytes as u64,
            Err(error) => break error.kind(),
        }
        assert!(sent < 1 << 30, "the broker reads on and on");
    };
    assert!(matches!(stopped, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{stopped:?}");
    let grown = broker.peak_resident_bytes() - before;
    assert!(grown < 64 * MIB, "{} MiB for a client that reads nothing", grown / MIB);
    unharmed(&broker);
}

/// A long name of a topic that does not exist, with as many partitions as fit a frame of a megabyte: neither the answer nor a fetch
/// session holds the name once for each of them.
///
/// Proves: fault I02, F16.
#[test]
fn a_long_name_of_many_partitions_costs_little_memory() {
    let broker = Broker::ephemeral();
    unharmed(&broker);
    let before = broker.peak_resident_bytes();
    let mut wire = Wire::open(&broker.bootstrap);
    let name = "x".repeat(32_767);
    let mut request = produce_to(&name, Uuid::nil(), 0, Bytes::new());
    request.topics[0].partitions =
        (0..100_000).map(|index| PartitionData { index, ..PartitionData::default() }).collect();
    for version in [3, 8, 9, 12] {
        let answer = wire.call(&request, version).responses.remove(0);
        assert_eq!((&*answer.name, answer.partitions.len()), (&*name, 100_000));
        assert!(answer.partitions.iter().all(|partition| partition.error_code == 3));
    }
    for version in [4, 7, 11, 12] {
        // Each on a connection of its own, which a session would outlive.
        for _ in 0..4 {
            let mut request = fetch_from(Uuid::nil(), 0, 0, 0);
            request.session_epoch = 0;
            request.topics[0].name = name.as_str().into();
            request.topics[0].partitions = (0..25_000)
                .map(|partition| FetchPartition { partition, ..FetchPartition::default() })
                .collect();
            let answer = Wire::open(&broker.bootstrap).call(&request, version);
            assert_eq!(answer.session_id, 0, "not worth a session");
            assert!(answer.responses[0].partitions.iter().all(|partition| partition.error_code == 3));
        }
    }
    let grown = broker.peak_resident_bytes() - before;
    assert!(grown < 64 * MIB, "{} MiB for a few long names", grown / MIB);
    unharmed(&broker);
}

/// A commit under a long group id that names a partition again and again: each record would repeat the id.
///
/// Proves: fault I02.
#[test]
fn a_long_group_id_of_many_commits_costs_little_memory() {
    let broker = Broker::ephemeral_with(&["--set", "offsets.topic.num.partitions=1"]);
    let mut wire = Wire::open(&broker.bootstrap);
    create(&mut wire, "read", 1, &[]);
    find_coordinator(&mut wire, "any");
    let before = broker.peak_resident_bytes();
    let commit = OffsetCommitRequest {
        group_id: "g".repeat(32_767).as_str().into(),
        topics: vec![OffsetCommitRequestTopic {
            name: "read".into(),
            partitions: vec![OffsetCommitRequestPartition::default(); 50_000],
        }],
        ..OffsetCommitRequest::default()
    };
    let answer = wire.call(&commit, 8).topics.remove(0);
    assert_eq!(answer.partitions.len(), 50_000);
    assert!(answer.partitions.iter().all(|partition| partition.error_code == 28));
    let grown = broker.peak_resident_bytes() - before;
    assert!(grown < 64 * MIB, "{} MiB for a commit", grown / MIB);
    assert_eq!(commit_offset(&mut wire, "any", "read", 3), 0);
    unharmed(&broker);
}

/// A string longer than Kafka's longest closes the connection, whatever a compact length could say.
///
/// Proves: W2 (string sizes), W12.
#[test]
fn a_string_of_a_megabyte_is_malformed() {
    let broker = Broker::ephemeral();
    // Produce 9: no transactional id, acks, time-out, one topic, whose name has 2^20 - 1 bytes.
    let mut body = b"\x00\x00\x00\x09\x00\x00\x00\x01\xff\xff\x00".to_vec();
    body.extend(b"\x00\xff\xff\x00\x00\x00\x01\x02\x80\x80\x40");
    body.resize(body.len() + (1 << 20) - 1, b'x');
    body.extend(b"\x01\x00\x00");
    let mut wire = Wire::open(&broker.bootstrap);
    wire.raw_frame(&body);
    wire.assert_closed();
    broker.wait_for_log("32,767");
    unharmed(&broker);
}

/// Announced frames take from the budget before their bytes come, and only so many may: small requests of others pass,
/// and who announces and sends nothing is closed.
///
/// Proves: fault I01.
#[test]
fn announced_frames_do_not_stop_others_and_are_given_up() {
    let broker = Broker::ephemeral();
    unharmed(&broker);
    let before = broker.peak_resident_bytes();
    let mut greedy: Vec<Wire> = (0..8).map(|_| Wire::open(&broker.bootstrap)).collect();
    for wire in &mut greedy {
        wire.raw(&(100_i32 << 20).to_be_bytes());
        wire.raw(&[0; 1_000]);
    }
    for _ in 0..20 {
        unharmed(&broker);
    }
    let grown = broker.peak_resident_bytes() - before;
    assert!(grown < 64 * MIB, "{} MiB for frames that never came", grown / MIB);
    // The first of them holds its share; it is closed for not going on.
    greedy[0].assert_closed();
    unharmed(&broker);
}

/// A connection cut at any byte of a request leaves nothing behind.
///
/// Proves: fault I05.
#[test]
fn connections_cut_anywhere_leave_nothing_behind() {
    let broker = Broker::ephemeral();
    let mut wire = Wire::open(&broker.bootstrap);
    let topic = fresh("cut");
    let id = create(&mut wire, &topic, 1, &[]);
    let request = crate::requests::produce_to(&topic, id, 0, batch(&["whole"]));
    let frame = encode_request(&request, 9, 1, &"cut".into());
    let before = broker.peak_resident_bytes();
    for length in 0..frame.len() {
        let mut cut = Wire::open(&broker.bootstrap);
        cut.raw(&frame[..length]);
        cut.finish();
        cut.assert_closed();
    }
    assert_eq!(end_of(&mut wire, &topic, 0), 0, "no part of a request is a request");
    await_open_connections(&broker, 1);
    let grown = broker.peak_resident_bytes() - before;
    assert!(grown < 16 * MIB, "{} MiB after {} cut requests", grown / MIB, frame.len());
}

/// A panic in a handler ends its connection, and nothing else.
///
/// Proves: fault K09.
#[cfg(debug_assertions)]
#[test]
fn a_panic_is_contained_to_its_connection() {
    let broker = Broker::ephemeral();
    let mut other = Wire::open(&broker.bootstrap);
    assert_eq!(other.call(&ApiVersionsRequest::default(), 0).error_code, 0);
    for _ in 0..3 {
        let mut doomed = Wire::open_as(&broker.bootstrap, alluvium::api::PANIC_CLIENT_ID);
        doomed.send(&ApiVersionsRequest::default(), 0);
        doomed.assert_closed();
    }
    broker.wait_for_log("panicked");
    assert_eq!(other.call(&ApiVersionsRequest::default(), 0).error_code, 0);
    await_open_connections(&broker, 1);
    unharmed(&broker);
}

/// Waits until the admin port says so many open connections: those that were closed are counted out.
fn await_open_connections(broker: &Broker, expected: u64) {
    const NAME: &str = "kafka_server_socket_server_metrics_connection_count ";
    for _ in 0..1_000 {
        let text = http_get(&broker.admin, "/metrics");
        let line = text.lines().find(|line| line.starts_with(NAME)).expect("the metric");
        let open: u64 = line[NAME.len()..].trim().parse().expect("a number");
        if open == expected {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("connections stay open");
}

/// A connection that ends behind a fetch is over at once, however long the fetch might wait.
///
/// Proves: fault I02.
#[test]
fn a_fetch_that_came_with_the_end_waits_for_nobody() {
    let broker = Broker::ephemeral();
    let id = create(&mut Wire::open(&broker.bootstrap), "quiet", 1, &[]);
    let fetch = FetchRequest { min_bytes: i32::MAX, max_wait_ms: i32::MAX, ..fetch_from(id, 0, 1, 0) };
    let left: Vec<Wire> = (0..20)
        .map(|_| {
            let mut wire = Wire::open(&broker.bootstrap);
            wire.send(&fetch, 13);
            wire.finish();
            wire
        })
        .collect();
    await_open_connections(&broker, 0);
    drop(left);
}

/// What a large frame took is given back with it, also where the beginning of another follows at once.
///
/// Proves: fault I02.
#[test]
fn the_memory_of_a_large_frame_goes_with_it() {
    const FRAME: usize = 24 << 20;
    let broker = Broker::ephemeral();
    create(&mut Wire::open(&broker.bootstrap), "there", 1, &[]);
    let before = broker.peak_resident_bytes();
    let request = produce_to("no-such", Uuid::nil(), 0, Bytes::from(vec![0; FRAME]));
    let mut bytes = encode_request(&request, 9, 1, &"test".into()).to_vec();
    bytes.extend([0, 0, 0]);
    let open: Vec<Wire> = (0..12)
        .map(|_| {
            let mut wire = Wire::open(&broker.bootstrap);
            wire.raw(&bytes);
            let answer = wire.receive::<ProduceRequest>(9, 1);
            assert_eq!(answer.responses[0].partitions[0].error_code, 3);
            wire
        })
        .collect();
    let grown = broker.peak_resident_bytes() - before;
    // One is done with while the next comes.
    assert!(grown < 4 * FRAME as u64, "{} MiB for {} connections of three bytes", grown / MIB, open.len());
    unharmed(&broker);
}

/// Joins that a rebalance holds up for minutes keep nobody else from being read, however large they are.
///
/// Proves: fault I02.
#[test]
fn held_joins_leave_the_byte_budget_to_others() {
    let broker = Broker::ephemeral_with(&[
        "--set",
        "queued.max.request.bytes=16777216",
        "--set",
        "socket.request.max.bytes=4194304",
        "--set",
        "group.initial.rebalance.delay.ms=0",
    ]);
    let mut wire = Wire::open(&broker.bootstrap);
    find_coordinator(&mut wire, "held");
    let join = |bytes| JoinGroupRequest {
        group_id: "held".into(),
        session_timeout_ms: 1_800_000,
        rebalance_timeout_ms: 1_800_000,
        protocol_type: "connect".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "p".into(), metadata: vec![b'm'; bytes].into() }],
        ..JoinGroupRequest::default()
    };
    let alone = loop {
        let alone = wire.call(&join(1), 3);
        if alone.error_code != 14 {
            break alone;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!((alone.error_code, alone.generation_id), (0, 1));
    let held: Vec<Wire> = (0..24)
        .map(|_| {
            let mut wire = Wire::open(&broker.bootstrap);
            wire.send(&join(900_000), 3);
            wire
        })
        .collect();
    let describe = DescribeGroupsRequest { groups: vec!["held".into()], ..DescribeGroupsRequest::default() };
    let deadline = Instant::now() + Duration::from_secs(30);
    while wire.call(&describe, 5).groups[0].members.len() < 25 {
        assert!(Instant::now() < deadline, "they are not all read");
        std::thread::sleep(Duration::from_millis(10));
    }
    unharmed(&broker);
    drop(held);
}
