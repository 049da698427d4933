//! Offsets, epochs, terms (L, R).

use std::time::{Duration, Instant};

use alluvium::protocol::{
    ErrorCode,
    messages::{
        list_offsets::{
            ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsTopic,
        },
        offset_for_leader_epoch::{
            EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
        },
    },
};

use crate::{
    batches::{headers, now, records},
    groups::{commit_offset, find_coordinator},
    requests::{batch, batch_at, create, describe, end_of, fetch_all, fresh, produce, shared},
    support::{
        broker::{Broker, http_get},
        wire::Wire,
    },
};

fn wanted(timestamp: i64) -> ListOffsetsPartition {
    ListOffsetsPartition { timestamp, ..ListOffsetsPartition::default() }
}

fn list(
    wire: &mut Wire,
    version: i16,
    topic: &str,
    partition: ListOffsetsPartition,
) -> ListOffsetsPartitionResponse {
    let request = ListOffsetsRequest {
        topics: vec![ListOffsetsTopic { name: topic.into(), partitions: vec![partition] }],
        timeout_ms: 30_000,
        ..ListOffsetsRequest::default()
    };
    wire.call(&request, version).topics.remove(0).partitions.remove(0)
}

fn epoch_end(wire: &mut Wire, version: i16, topic: &str, epoch: i32, current: i32) -> EpochEndOffset {
    let partitions =
        vec![OffsetForLeaderPartition { partition: 0, current_leader_epoch: current, leader_epoch: epoch }];
    let request = OffsetForLeaderEpochRequest {
        topics: vec![OffsetForLeaderTopic { topic: topic.into(), partitions }],
        ..OffsetForLeaderEpochRequest::default()
    };
    wire.call(&request, version).topics.remove(0).partitions.remove(0)
}

/// Proves: L1.
#[test]
fn the_negative_times_have_their_meanings() {
    let mut wire = Wire::open(shared());
    let topic = fresh("meanings");
    let id = create(&mut wire, &topic, 1, &[]);
    let mut ask = |version: i16, timestamp: i64| {
        let answer = list(&mut wire, version, &topic, wanted(timestamp));
        (answer.error_code, answer.offset, answer.timestamp)
    };
    for version in 1..=10 {
        assert_eq!(ask(version, -1), (0, 0, -1));
        assert_eq!(ask(version, -2), (0, 0, -1));
    }
    assert_eq!(ask(7, -3), (0, -1, -1), "the largest timestamp of nothing");
    let first = now() - 1_000;
    for (values, at) in [(["a", "b"], first), (["c", "d"], first + 500), (["e", "f"], first + 100)] {
        produce(&mut wire, 9, &topic, id, 0, batch_at(&values, at));
    }
    let mut ask = |version: i16, timestamp: i64| {
        let answer = list(&mut wire, version, &topic, wanted(timestamp));
        (answer.error_code, answer.offset, answer.timestamp)
    };
    for version in 1..=10 {
        assert_eq!(ask(version, -1), (0, 6, -1), "v{version}");
        assert_eq!(ask(version, -2), (0, 0, -1), "v{version}");
    }
    for version in 7..=10 {
        assert_eq!(ask(version, -3), (0, 3, first + 501), "v{version}");
    }
    assert_eq!(ask(8, -4), (0, 0, -1));
    assert_eq!(ask(9, -5), (0, -1, -1));
    for (version, timestamp) in [(6, -3), (7, -4), (8, -5), (10, -6), (10, -7)] {
        assert_ne!(ask(version, timestamp).0, 0, "v{version} {timestamp}");
    }
    let request = ListOffsetsRequest {
        isolation_level: 1,
        topics: vec![ListOffsetsTopic { name: topic.as_str().into(), partitions: vec![wanted(-1)] }],
        ..ListOffsetsRequest::default()
    };
    assert_eq!(wire.call(&request, 6).topics[0].partitions[0].offset, 6, "last stable offset");
}

/// Proves: L2.
#[test]
fn a_time_finds_the_first_record_at_or_after_it() {
    let mut wire = Wire::open(shared());
    let topic = fresh("times");
    let id = create(&mut wire, &topic, 1, &[]);
    let first = now() - 10_000;
    // Times that go back between batches: the first record that is late enough counts, not the nearest.
    for (count, at) in [(3, 0), (2, 5_000), (2, 1_000), (1, 9_000)] {
        produce(&mut wire, 9, &topic, id, 0, batch_at(&vec!["x"; count], first + at));
    }
    let mut find = |at: i64| {
        let answer = list(&mut wire, 5, &topic, wanted(first + at));
        assert_eq!(answer.error_code, 0);
        (answer.offset, if answer.timestamp < 0 { answer.timestamp } else { answer.timestamp - first })
    };
    assert_eq!(find(-first), (0, 0));
    assert_eq!(find(0), (0, 0));
    assert_eq!(find(1), (1, 1));
    assert_eq!(find(2), (2, 2));
    assert_eq!(find(3), (3, 5_000));
    assert_eq!(find(1_000), (3, 5_000));
    assert_eq!(find(5_001), (4, 5_001));
    assert_eq!(find(5_002), (7, 9_000));
    assert_eq!(find(9_001), (-1, -1), "none");
}

/// Proves: L4, L5, L8, R1.
#[test]
fn epochs_end_where_the_next_begins_also_after_restarts() {
    let data = tempfile::tempdir().expect("a data directory");
    let mut ends = Vec::new();
    let mut broker = None;
    let mut id = None;
    for round in 0..4 {
        drop(broker.take());
        let started = Broker::on(data.path(), &[]);
        let mut wire = Wire::open(&started.bootstrap);
        let id = *id.get_or_insert_with(|| create(&mut wire, "terms", 1, &[]));
        let epoch = describe(&mut wire, "terms").partitions[0].leader_epoch;
        assert!(ends.last().is_none_or(|(last, _): &(i32, i64)| *last < epoch), "epochs rise");
        // One round writes nothing: its epoch has no records.
        if round != 2 {
            produce(&mut wire, 9, "terms", id, 0, batch(&["a", "b"]));
        }
        ends.push((epoch, end_of(&mut wire, "terms", 0)));
        let stored = headers(&fetch_all(&mut wire, id, 0));
        assert!(
            stored.windows(2).all(|pair| pair[0].partition_leader_epoch < pair[1].partition_leader_epoch)
        );
        for (epoch, end) in &ends {
            for version in 2..=4 {
                let answer = epoch_end(&mut wire, version, "terms", *epoch, -1);
                assert_eq!(answer.error_code, 0);
                assert_eq!(answer.end_offset, *end, "round {round}, epoch {epoch} of {ends:?}");
                assert!(answer.leader_epoch <= *epoch);
            }
        }
        for unknown in [epoch + 1, epoch + 100, -1] {
            let answer = epoch_end(&mut wire, 4, "terms", unknown, -1);
            assert_eq!((answer.error_code, answer.leader_epoch, answer.end_offset), (0, -1, -1), "{unknown}");
        }
        let code = |answer: i16| ErrorCode::from_number(answer).unwrap();
        if epoch > 0 {
            assert_eq!(
                code(epoch_end(&mut wire, 4, "terms", 0, epoch - 1).error_code),
                ErrorCode::FencedLeaderEpoch
            );
            let partition = ListOffsetsPartition { current_leader_epoch: epoch - 1, ..wanted(-1) };
            assert_eq!(code(list(&mut wire, 5, "terms", partition).error_code), ErrorCode::FencedLeaderEpoch);
        }
        assert_eq!(
            code(epoch_end(&mut wire, 4, "terms", 0, epoch + 1).error_code),
            ErrorCode::UnknownLeaderEpoch
        );
        let partition = ListOffsetsPartition { current_leader_epoch: epoch + 1, ..wanted(-1) };
        assert_eq!(code(list(&mut wire, 5, "terms", partition).error_code), ErrorCode::UnknownLeaderEpoch);
        let partition = ListOffsetsPartition { current_leader_epoch: epoch, ..wanted(-1) };
        let latest = list(&mut wire, 5, "terms", partition);
        assert_eq!((latest.error_code, latest.leader_epoch), (0, epoch));
        broker = Some(started);
    }
}

/// Elections and restarts cost no offset, and what was seen as committed stays what it was.
///
/// Proves: L6, L7, L9.
#[test]
fn offsets_have_no_gaps_and_never_go_back() {
    let data = tempfile::tempdir().expect("a data directory");
    let mut id = None;
    let mut seen = Vec::new();
    for round in 0..4 {
        let mut broker = Broker::on(data.path(), &[]);
        let mut wire = Wire::open(&broker.bootstrap);
        let id = *id.get_or_insert_with(|| create(&mut wire, "dense", 1, &[]));
        assert_eq!(end_of(&mut wire, "dense", 0), seen.len() as i64, "the end is what was acknowledged");
        assert_eq!(records(&fetch_all(&mut wire, id, 0)), seen, "round {round}");
        for number in 0..5 {
            let value = format!("{round}-{number}");
            let answer = produce(&mut wire, 9, "dense", id, 0, batch(&[&value]));
            assert_eq!((answer.error_code, answer.base_offset), (0, (round * 5 + number) as i64));
        }
        seen = records(&fetch_all(&mut wire, id, 0));
        let offsets: Vec<i64> = seen.iter().map(|record| record.offset).collect();
        assert_eq!(offsets, (0..seen.len() as i64).collect::<Vec<_>>());
        broker.kill();
    }
}

/// Proves: L12.
#[test]
fn a_partition_named_twice_is_an_invalid_request_for_itself() {
    let mut wire = Wire::open(shared());
    let topic = fresh("twice");
    create(&mut wire, &topic, 2, &[]);
    let partition = |partition_index: i32| ListOffsetsPartition { partition_index, ..wanted(-1) };
    let request = ListOffsetsRequest {
        topics: vec![ListOffsetsTopic {
            name: topic.as_str().into(),
            partitions: vec![partition(0), partition(1), partition(0)],
        }],
        ..ListOffsetsRequest::default()
    };
    let answers: Vec<(i32, i16)> = wire.call(&request, 5).topics[0]
        .partitions
        .iter()
        .map(|answer| (answer.partition_index, answer.error_code))
        .collect();
    let twice = ErrorCode::InvalidRequest.number();
    let (once, named_twice): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(index, _)| *index == 1);
    assert_eq!(once, [(1, 0)]);
    assert!(!named_twice.is_empty() && named_twice.iter().all(|(_, code)| *code == twice));
}

/// What is asked of a partition that does not exist.
///
/// Proves: L1.
#[test]
fn unknown_partitions_have_their_code() {
    let mut wire = Wire::open(shared());
    let topic = fresh("unknown");
    create(&mut wire, &topic, 1, &[]);
    let unknown = ErrorCode::UnknownTopicOrPartition.number();
    let partition = ListOffsetsPartition { partition_index: 1, ..wanted(-1) };
    assert_eq!(list(&mut wire, 5, &topic, partition).error_code, unknown);
    assert_eq!(list(&mut wire, 5, "no-such-topic", wanted(-1)).error_code, unknown);
    assert_eq!(epoch_end(&mut wire, 4, "no-such-topic", 0, -1).error_code, unknown);
}

/// Old segments go by size; the log start moves forward only, is told everywhere, by produce, too, and below it there is nothing to fetch
/// and no lag.
///
/// Proves: L11, P15, D15.
#[test]
fn the_log_start_moves_forward_and_stays() {
    let data = tempfile::tempdir().expect("a data directory");
    let settings = ["--set", "log.retention.check.interval.ms=100"];
    let mut broker = Broker::on(data.path(), &settings);
    let mut wire = Wire::open(&broker.bootstrap);
    let configs = [("segment.bytes", "1048576"), ("retention.bytes", "1048576")];
    let id = create(&mut wire, "trimmed", 1, &configs);
    for _ in 0..6 {
        assert_eq!(produce(&mut wire, 9, "trimmed", id, 0, crate::batches::of_size(600_000)).error_code, 0);
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    let start = loop {
        let start = list(&mut wire, 5, "trimmed", wanted(-2)).offset;
        if start >= 4 {
            break start;
        }
        assert!(Instant::now() < deadline, "old segments stay: the log starts at {start}");
        std::thread::sleep(Duration::from_millis(10));
    };
    let at = |wire: &mut Wire, offset: i64| {
        wire.call(&crate::requests::fetch_from(id, 0, offset, 0), 13).responses.remove(0).partitions.remove(0)
    };
    let below = at(&mut wire, start - 1);
    assert_eq!(below.error_code, ErrorCode::OffsetOutOfRange.number());
    let there = at(&mut wire, start);
    assert_eq!((there.error_code, there.log_start_offset, headers(&there)[0].base_offset), (0, start, start));
    assert_eq!(end_of(&mut wire, "trimmed", 0), 6);
    find_coordinator(&mut wire, "late");
    assert_eq!(commit_offset(&mut wire, "late", "trimmed", 1), 0);
    let text = http_get(&broker.admin, "/metrics");
    let name = "kafka_consumergroup_lag_sum{consumergroup=\"late\",topic=\"trimmed\"} ";
    let lag: i64 =
        text.lines().find_map(|line| line.strip_prefix(name)).expect("a lag").parse().expect("a number");
    assert!(
        (1..=6 - start).contains(&lag),
        "nobody is behind by what is gone: {lag}, the log starts at {start}"
    );
    let produced = produce(&mut wire, 9, "trimmed", id, 0, batch(&["last"]));
    let later = list(&mut wire, 5, "trimmed", wanted(-2)).offset;
    assert_eq!((produced.error_code, produced.base_offset), (0, 6));
    assert!((start..=later).contains(&produced.log_start_offset), "{produced:?}, the log starts at {later}");
    broker.kill();
    let broker = Broker::on(data.path(), &settings);
    let mut wire = Wire::open(&broker.bootstrap);
    assert!(list(&mut wire, 5, "trimmed", wanted(-2)).offset >= later);
    assert_eq!(end_of(&mut wire, "trimmed", 0), 7);
}
