//! Fetch (F).

use std::time::{Duration, Instant};

use alluvium::protocol::{
    ErrorCode,
    messages::{
        delete_topics::{DeleteTopicState, DeleteTopicsRequest},
        fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, ForgottenTopic, PartitionRecords},
        produce::ProduceRequest,
    },
};
use log_store::{compression::Codec, disk::overlay::SLOW_SYNC};
use uuid::Uuid;

use crate::{
    batches::{bytes, headers, in_codec, of_size, records, values},
    requests::{
        LONG_POLL_MS, batch, create, describe, end_of, ended_at_once, fetch_all, fetch_from, fresh, produce,
        produce_to, shared,
    },
    support::{broker::Broker, wire::Wire},
};

fn one(response: FetchResponse) -> PartitionRecords {
    assert_eq!(response.error_code, 0);
    response.responses.into_iter().next().expect("a topic").partitions.remove(0)
}

fn code(partition: &PartitionRecords) -> ErrorCode {
    ErrorCode::from_number(partition.error_code).expect("a known code")
}

fn wanted(partition: i32, fetch_offset: i64) -> FetchPartition {
    FetchPartition { partition, fetch_offset, partition_max_bytes: 1 << 20, ..FetchPartition::default() }
}

fn fetch_of(topic_id: Uuid, partitions: Vec<FetchPartition>) -> FetchRequest {
    FetchRequest {
        topics: vec![FetchTopic { topic_id, partitions, ..FetchTopic::default() }],
        ..fetch_from(topic_id, 0, 0, 0)
    }
}

/// What an answer holds: (partition, error, number of records).
fn held(response: &FetchResponse) -> Vec<(i32, i16, usize)> {
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    partitions
        .map(|partition| (partition.partition_index, partition.error_code, records(partition).len()))
        .collect()
}

/// Proves: F1, F3, F17.
#[test]
fn a_fetch_without_data_is_answered_when_its_time_is_over() {
    let mut wire = Wire::open(shared());
    let topic = fresh("empty");
    let id = create(&mut wire, &topic, 1, &[]);
    produce(&mut wire, 9, &topic, id, 0, batch(&["a"]));
    for (version, offset) in [(4, 1), (11, 1), (12, 1), (17, 1)] {
        let mut request = fetch_from(id, 0, offset, 300);
        request.topics[0].name = topic.as_str().into();
        let began = Instant::now();
        let correlation = wire.send(&request, version);
        let frame = wire.frame().expect("an answer");
        assert!(began.elapsed() >= Duration::from_millis(295), "an empty answer came early");
        assert_eq!(frame[..4], correlation.to_be_bytes());
        // "No data" is written as an empty byte string, not as null: it ends the frame, before tags.
        let tail: &[u8] = match version {
            4 | 11 => &[0, 0, 0, 0],
            _ => &[1, 0, 0, 0],
        };
        assert!(frame.ends_with(tail), "version {version}: {:02x?}", &frame[frame.len() - 8..]);
    }
}

/// Proves: F2.
#[test]
fn a_long_poll_ends_with_the_byte_that_completes_it() {
    let mut wire = Wire::open(shared());
    let topic = fresh("poll");
    let id = create(&mut wire, &topic, 2, &[]);
    let mut reader = Wire::open(shared());
    let request =
        FetchRequest { max_wait_ms: LONG_POLL_MS, ..fetch_of(id, vec![wanted(0, 0), wanted(1, 0)]) };
    let correlation = reader.send(&request, 13);
    let since = Instant::now();
    produce(&mut wire, 9, &topic, id, 1, batch(&["now"]));
    let response = ended_at_once(&mut reader, 13, correlation, since);
    assert_eq!(held(&response), [(0, 0, 0), (1, 0, 1)]);

    // Both batches are needed: one alone does not end it.
    let size = i32::try_from(batch(&["xxxx"]).len()).unwrap();
    let request = FetchRequest { min_bytes: 2 * size, ..request };
    let request = FetchRequest { topics: fetch_of(id, vec![wanted(0, 0), wanted(1, 1)]).topics, ..request };
    let correlation = reader.send(&request, 13);
    produce(&mut wire, 9, &topic, id, 0, batch(&["xxxx"]));
    let since = Instant::now();
    produce(&mut wire, 9, &topic, id, 1, batch(&["xxxx"]));
    let response = ended_at_once(&mut reader, 13, correlation, since);
    assert_eq!(held(&response), [(0, 0, 1), (1, 0, 1)]);
}

/// An error anywhere answers at once, although another partition has nothing yet, and so does a divergence; a topic's deletion ends the
/// poll that waits on it.
///
/// Proves: F2.
#[test]
fn an_error_ends_a_long_poll() {
    let mut wire = Wire::open(shared());
    let topic = fresh("doomed");
    let id = create(&mut wire, &topic, 2, &[]);
    let epoch = describe(&mut wire, &topic).partitions[0].leader_epoch;
    let mut poll = |other: FetchPartition| {
        let request = FetchRequest { max_wait_ms: LONG_POLL_MS, ..fetch_of(id, vec![wanted(0, 0), other]) };
        let since = Instant::now();
        let correlation = wire.send(&request, 13);
        ended_at_once(&mut wire, 13, correlation, since)
    };
    assert_eq!(held(&poll(wanted(5, 0))), [(0, 0, 0), (5, 3, 0)]);
    assert_eq!(held(&poll(wanted(1, 1))), [(0, 0, 0), (1, 1, 0)]);
    let ahead = FetchPartition { current_leader_epoch: epoch + 1, ..wanted(1, 0) };
    assert_eq!(held(&poll(ahead)), [(0, 0, 0), (1, 75, 0)]);
    let diverging = FetchPartition { last_fetched_epoch: epoch, ..wanted(1, 9) };
    let diverging = poll(diverging).responses[0].partitions[1].diverging_epoch.clone();
    assert_eq!((diverging.epoch, diverging.end_offset), (epoch, 0));

    let mut reader = Wire::open(shared());
    let request = FetchRequest { max_wait_ms: LONG_POLL_MS, ..fetch_of(id, vec![wanted(0, 0)]) };
    let correlation = reader.send(&request, 13);
    let delete = DeleteTopicsRequest {
        topics: vec![DeleteTopicState { name: Some(topic.as_str().into()), ..DeleteTopicState::default() }],
        timeout_ms: 30_000,
        ..DeleteTopicsRequest::default()
    };
    assert_eq!(wire.call(&delete, 6).responses[0].error_code, 0);
    let ended = one(ended_at_once(&mut reader, 13, correlation, Instant::now()));
    let gone =
        [ErrorCode::UnknownTopicOrPartition, ErrorCode::NotLeaderOrFollower, ErrorCode::UnknownTopicId];
    assert!(gone.contains(&code(&ended)), "{ended:?}");
}

/// What is appended and not committed, because its sync takes long, is there for nobody: not by a fetch at it or beyond it, not by the
/// end offset. Its producer is told so when its time is over, not later; the commit ends the poll that waits for it.
///
/// Proves: F2, F3, F7, L1, P13.
#[test]
fn what_is_not_committed_is_invisible() {
    // A look counts only where it was over before the sync can have been; a machine that was too busy for that tries again.
    assert!((0..10).any(|_| looked_before_the_commit()), "this machine is too slow to look in between");
}

fn looked_before_the_commit() -> bool {
    let data = tempfile::tempdir().expect("a data directory");
    let broker = Broker::on(data.path(), &["--simulate-power-cuts", "slow-sync=60"]);
    let (mut wire, mut reader) = (Wire::open(&broker.bootstrap), Wire::open(&broker.bootstrap));
    let id = create(&mut wire, "unseen", 1, &[]);
    let mut base = 0;
    let began = loop {
        assert!(base < 30_000, "no sync was slow");
        let began = Instant::now();
        let request =
            ProduceRequest { timeout_ms: 200, ..produce_to("unseen", id, 0, batch(&["a", "b", "c"])) };
        let answer = wire.call(&request, 13).responses.remove(0).partitions.remove(0);
        match ErrorCode::from_number(answer.error_code) {
            Some(ErrorCode::None) => base += 3,
            Some(ErrorCode::RequestTimedOut) => break began,
            _ => panic!("{answer:?}"),
        }
    };
    let mut seen = Vec::new();
    for (offset, isolation_level) in [(base, 0), (base + 1, 0), (base + 3, 0), (base, 1), (base + 1, 1)] {
        let request = FetchRequest { isolation_level, ..fetch_from(id, 0, offset, 0) };
        seen.push(one(reader.call(&request, 13)));
    }
    let end = end_of(&mut reader, "unseen", 0);
    let in_between = began.elapsed() < SLOW_SYNC;
    if in_between {
        for partition in seen {
            let offsets = (partition.high_watermark, partition.last_stable_offset);
            assert_eq!(
                (code(&partition), partition.records.len(), offsets),
                (ErrorCode::None, 0, (base, base))
            );
        }
        assert_eq!(end, base);
    }
    let since = Instant::now();
    let correlation = reader.send(&fetch_from(id, 0, base, LONG_POLL_MS), 13);
    let committed = one(ended_at_once(&mut reader, 13, correlation, since));
    assert_eq!(
        (values(&committed), committed.high_watermark),
        (["a", "b", "c"].map(String::from).to_vec(), base + 3)
    );
    in_between
}

/// Proves: F3.
#[test]
fn offsets_outside_of_the_log_are_out_of_range() {
    let mut wire = Wire::open(shared());
    let topic = fresh("range");
    let id = create(&mut wire, &topic, 1, &[]);
    produce(&mut wire, 9, &topic, id, 0, batch(&["a", "b"]));
    let mut at = |offset| one(wire.call(&fetch_from(id, 0, offset, 0), 13));
    for outside in [-1, 3, i64::MAX, i64::MIN] {
        assert_eq!(code(&at(outside)), ErrorCode::OffsetOutOfRange, "{outside}");
    }
    let end = at(2);
    assert_eq!(
        (code(&end), end.high_watermark, end.log_start_offset, end.records.len()),
        (ErrorCode::None, 2, 0, 0)
    );
}

/// Proves: F4, F5.
#[test]
fn the_first_batch_comes_whole_whatever_the_limits() {
    let mut wire = Wire::open(shared());
    let topic = fresh("limits");
    let id = create(&mut wire, &topic, 2, &[]);
    let (big, small) = (of_size(50_000), batch(&["a", "b", "c"]));
    produce(&mut wire, 9, &topic, id, 1, big.clone());
    for _ in 0..3 {
        produce(&mut wire, 9, &topic, id, 1, small.clone());
    }
    let limited = |partition_max: i32, max: i32, offset: i64| FetchRequest {
        max_bytes: max,
        ..fetch_of(
            id,
            vec![wanted(0, 0), FetchPartition { partition_max_bytes: partition_max, ..wanted(1, offset) }],
        )
    };
    let mut sizes = |request: FetchRequest| wire.call(&request, 13).responses[0].partitions[1].records.len();
    assert_eq!(sizes(limited(1 << 20, 1, 0)), big.len());
    assert_eq!(sizes(limited(1, 1 << 20, 0)), big.len());
    assert_eq!(sizes(limited(0, 0, 0)), big.len());
    let two = i32::try_from(small.len() * 2 + 5).unwrap();
    let cut = sizes(limited(two, 1 << 20, 1));
    assert!(cut == small.len() * 2 || cut == small.len() * 2 + 5, "whole batches, perhaps a tail: {cut}");
    // From the middle of a batch: the batch begins before the offset asked for, unchanged.
    let middle = one(wire.call(&fetch_of(id, vec![wanted(1, 3)]), 13));
    assert_eq!(headers(&middle)[0].base_offset, 1);
    assert_eq!(bytes(&middle.records)[16..small.len()], small[16..]);
}

/// Proves: F6, F20.
#[test]
fn a_session_serves_all_its_partitions_in_turn_within_the_bytes() {
    let mut wire = Wire::open(shared());
    let topic = fresh("turns");
    let id = create(&mut wire, &topic, 4, &[]);
    for partition in 0..4 {
        for _ in 0..3 {
            produce(&mut wire, 9, &topic, id, partition, of_size(10_000));
        }
    }
    let full = FetchRequest {
        max_bytes: 1,
        session_epoch: 0,
        ..fetch_of(id, (0..4).map(|partition| wanted(partition, 0)).collect())
    };
    let first = wire.call(&full, 13);
    let served = |response: &FetchResponse| -> Vec<i32> {
        held(response).into_iter().filter(|(.., count)| *count > 0).map(|(partition, ..)| partition).collect()
    };
    assert_eq!(served(&first), [0], "in the order of the request");
    let mut seen = Vec::new();
    for epoch in 1..=4 {
        let next = FetchRequest {
            max_bytes: 1,
            session_id: first.session_id,
            session_epoch: epoch,
            ..fetch_of(id, vec![])
        };
        seen.extend(served(&wire.call(&FetchRequest { topics: vec![], ..next }, 13)));
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3], "none starves");
}

/// Proves: F20.
#[test]
fn the_server_caps_a_response() {
    let broker = Broker::ephemeral_with(&["--set", "fetch.max.bytes=100000"]);
    let mut wire = Wire::open(&broker.bootstrap);
    let topic = fresh("capped");
    let id = create(&mut wire, &topic, 2, &[]);
    for partition in [0, 0, 0, 1, 1, 1] {
        produce(&mut wire, 9, &topic, id, partition, of_size(40_000));
    }
    let request = FetchRequest { max_bytes: i32::MAX, ..fetch_of(id, vec![wanted(0, 0), wanted(1, 0)]) };
    let response = wire.call(&request, 13);
    let total: usize = response.responses[0].partitions.iter().map(|partition| partition.records.len()).sum();
    assert!((80_000..=100_000).contains(&total), "{total}");
}

/// Proves: F7, F8.
#[test]
fn isolation_decides_what_is_said_of_transactions() {
    let mut wire = Wire::open(shared());
    let topic = fresh("isolation");
    let id = create(&mut wire, &topic, 1, &[]);
    produce(&mut wire, 9, &topic, id, 0, batch(&["a"]));
    for (level, aborted) in [(0, None), (1, Some(Vec::new()))] {
        let request = FetchRequest { isolation_level: level, ..fetch_from(id, 0, 0, 0) };
        let partition = one(wire.call(&request, 13));
        assert_eq!(partition.aborted_transactions, aborted, "level {level}");
        assert_eq!((partition.last_stable_offset, partition.high_watermark), (1, 1));
        assert_eq!(values(&partition), ["a"]);
    }
}

/// Proves: F10, F12.
#[test]
fn leader_epochs_fence_both_ways_and_name_the_leader() {
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &[]);
    let id = create(&mut Wire::open(&broker.bootstrap), "epochs", 1, &[]);
    broker.kill();
    let broker = Broker::on(data.path(), &[]);
    let mut wire = Wire::open(&broker.bootstrap);
    let epoch = describe(&mut wire, "epochs").partitions[0].leader_epoch;
    assert!(epoch > 0, "it rises with a restart");
    let mut with_epoch = |current_leader_epoch: i32, version: i16| {
        let mut request = fetch_of(id, vec![FetchPartition { current_leader_epoch, ..wanted(0, 0) }]);
        request.topics[0].name = "epochs".into();
        wire.call(&request, version)
    };
    for version in [9, 12, 13, 16, 17] {
        assert_eq!(code(&one(with_epoch(epoch - 1, version))), ErrorCode::FencedLeaderEpoch);
        assert_eq!(code(&one(with_epoch(epoch + 1, version))), ErrorCode::UnknownLeaderEpoch);
        assert_eq!(code(&one(with_epoch(epoch, version))), ErrorCode::None);
        assert_eq!(code(&one(with_epoch(-1, version))), ErrorCode::None);
    }
    let fenced = with_epoch(epoch - 1, 16);
    let (host, port) = broker.bootstrap.rsplit_once(':').unwrap();
    let endpoint = &fenced.node_endpoints[0];
    assert_eq!((endpoint.node_id, &*endpoint.host, endpoint.port.to_string().as_str()), (1, host, port));
    let leader = one(fenced).current_leader;
    assert_eq!((leader.leader_id, leader.leader_epoch), (1, epoch));
}

/// Proves: F11, L8.
#[test]
fn divergence_is_told_where_it_is_real() {
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &[]);
    let mut wire = Wire::open(&broker.bootstrap);
    let id = create(&mut wire, "diverging", 1, &[]);
    produce(&mut wire, 9, "diverging", id, 0, batch(&["a", "b"]));
    let first = describe(&mut wire, "diverging").partitions[0].leader_epoch;
    broker.kill();
    let broker = Broker::on(data.path(), &[]);
    let mut wire = Wire::open(&broker.bootstrap);
    produce(&mut wire, 9, "diverging", id, 0, batch(&["c"]));
    let second = describe(&mut wire, "diverging").partitions[0].leader_epoch;
    assert!(second > first);
    let mut ask = |last_fetched_epoch: i32, offset: i64| {
        one(wire.call(&fetch_of(id, vec![FetchPartition { last_fetched_epoch, ..wanted(0, offset) }]), 13))
    };
    let diverging = ask(first, 3);
    assert_eq!((diverging.diverging_epoch.epoch, diverging.diverging_epoch.end_offset), (first, 2));
    assert!(diverging.records.is_empty());
    for (epoch, offset) in [(first, 2), (second, 3), (second, 2), (-1, 3)] {
        assert_eq!(ask(epoch, offset).diverging_epoch.epoch, -1, "epoch {epoch}, offset {offset}");
    }
}

/// Proves: F13.
#[test]
fn unknown_topics_have_a_code_for_names_and_one_for_ids() {
    let mut wire = Wire::open(shared());
    let id = create(&mut wire, &fresh("known"), 1, &[]);
    let mut request = fetch_of(Uuid::from_u128(9), vec![wanted(0, 0)]);
    request.topics[0].name = "no-such-topic".into();
    assert_eq!(code(&one(wire.call(&request, 12))), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(code(&one(wire.call(&request, 13))), ErrorCode::UnknownTopicId);
    assert_eq!(
        code(&one(wire.call(&fetch_of(id, vec![wanted(7, 0)]), 13))),
        ErrorCode::UnknownTopicOrPartition
    );
}

/// Proves: F14, F15.
#[test]
fn a_session_tells_what_changed() {
    let mut wire = Wire::open(shared());
    let topic = fresh("session");
    let id = create(&mut wire, &topic, 3, &[]);
    let full = |session_id: i32, session_epoch: i32| FetchRequest {
        session_id,
        session_epoch,
        ..fetch_of(id, (0..3).map(|partition| wanted(partition, 0)).collect())
    };
    let next = |session_id: i32, session_epoch: i32, partitions: Vec<FetchPartition>| {
        let request = FetchRequest { session_id, session_epoch, ..fetch_of(id, partitions) };
        if request.topics[0].partitions.is_empty() {
            FetchRequest { topics: vec![], ..request }
        } else {
            request
        }
    };
    assert_eq!(wire.call(&full(0, -1), 13).session_id, 0, "none wanted");
    let first = wire.call(&full(0, 0), 13);
    let session = first.session_id;
    assert!(session != 0 && held(&first) == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]);
    assert_eq!(held(&wire.call(&next(session, 1, vec![]), 13)), [], "nothing changed");
    produce(&mut wire, 9, &topic, id, 1, batch(&["a"]));
    assert_eq!(held(&wire.call(&next(session, 2, vec![]), 13)), [(1, 0, 1)]);
    assert_eq!(held(&wire.call(&next(session, 3, vec![wanted(1, 1)]), 13)), []);
    let forget = FetchRequest {
        forgotten_topics: vec![ForgottenTopic {
            topic_id: id,
            partitions: vec![1],
            ..ForgottenTopic::default()
        }],
        ..next(session, 4, vec![])
    };
    produce(&mut wire, 9, &topic, id, 1, batch(&["b"]));
    assert_eq!(held(&wire.call(&forget, 13)), []);
    assert_eq!(held(&wire.call(&next(session, 5, vec![wanted(1, 1)]), 13)), [(1, 0, 1)], "taken in again");

    let top = |response: FetchResponse| ErrorCode::from_number(response.error_code).unwrap();
    assert_eq!(top(wire.call(&next(session, 9, vec![]), 13)), ErrorCode::InvalidFetchSessionEpoch);
    assert_eq!(top(wire.call(&next(session ^ 0x55, 1, vec![]), 13)), ErrorCode::FetchSessionIdNotFound);
    let mut by_name = next(session, 6, vec![wanted(0, 0)]);
    by_name.topics[0].name = topic.as_str().into();
    assert_eq!(top(wire.call(&by_name, 12)), ErrorCode::FetchSessionTopicIdError);
    assert_eq!(wire.call(&full(session, -1), 13).session_id, 0, "closed");
    assert_eq!(top(wire.call(&next(session, 6, vec![]), 13)), ErrorCode::FetchSessionIdNotFound);
}

/// Proves: F16.
#[test]
fn an_evicted_session_is_not_found_and_begun_again() {
    let broker = Broker::ephemeral_with(&["--set", "max.incremental.fetch.session.cache.slots=1"]);
    let mut wire = Wire::open(&broker.bootstrap);
    let id = create(&mut wire, &fresh("slots"), 2, &[]);
    let begin = |partitions: i32| FetchRequest {
        session_epoch: 0,
        ..fetch_of(id, (0..partitions).map(|partition| wanted(partition, 0)).collect())
    };
    let small = wire.call(&begin(1), 13).session_id;
    assert_ne!(small, 0);
    assert_eq!(wire.call(&begin(1), 13).session_id, 0, "no slot: served without a session");
    assert_ne!(wire.call(&begin(2), 13).session_id, 0, "a larger one takes the slot");
    let request = FetchRequest { session_id: small, session_epoch: 1, topics: vec![], ..begin(1) };
    let lost = wire.call(&request, 13);
    assert_eq!(lost.error_code, ErrorCode::FetchSessionIdNotFound.number());
    assert_eq!(held(&wire.call(&begin(1), 13)), [(0, 0, 0)]);
}

/// Proves: F18.
#[test]
fn zstd_is_not_sent_to_those_who_cannot_read_it() {
    let mut wire = Wire::open(shared());
    let topic = fresh("zstd");
    let id = create(&mut wire, &topic, 1, &[]);
    produce(&mut wire, 9, &topic, id, 0, batch(&["a"]));
    produce(&mut wire, 9, &topic, id, 0, in_codec(Codec::Zstd, &["b"]));
    let mut request = fetch_from(id, 0, 0, 0);
    request.topics[0].name = topic.as_str().into();
    assert_eq!(code(&one(wire.call(&request, 9))), ErrorCode::UnsupportedCompressionType);
    assert_eq!(values(&one(wire.call(&request, 10))), ["a", "b"]);
    assert_eq!(values(&fetch_all(&mut wire, id, 0)), ["a", "b"]);
}

/// `min_bytes` counts what is there to be read, not what whole batches fill of the room, and no more than one answer may hold.
///
/// Proves: F2.
#[test]
fn a_backlog_is_never_waited_for() {
    let mut wire = Wire::open(shared());
    let topic = fresh("backlog");
    let id = create(&mut wire, &topic, 1, &[]);
    for _ in 0..4 {
        assert_eq!(produce(&mut wire, 9, &topic, id, 0, of_size(400_000)).error_code, 0);
    }
    for (min_bytes, max_bytes, batches) in
        [(1 << 20, 50 << 20, 2), (50 << 20, 900_000, 2), (i32::MAX, 100, 1)]
    {
        let request = FetchRequest {
            max_wait_ms: LONG_POLL_MS,
            min_bytes,
            max_bytes,
            ..fetch_of(id, vec![wanted(0, 0)])
        };
        let since = Instant::now();
        let correlation = wire.send(&request, 13);
        let response = ended_at_once(&mut wire, 13, correlation, since);
        assert_eq!(held(&response), [(0, 0, batches)], "{min_bytes} of {max_bytes}");
    }
}

/// A fetch of an unusual size waits a second at most: it holds its part of what all connections may hold.
///
/// Proves: fault I02.
#[test]
fn a_large_fetch_does_not_wait_for_long() {
    let mut wire = Wire::open(shared());
    let topic = fresh("large");
    let id = create(&mut wire, &topic, 1, &[]);
    let forgotten = ForgottenTopic { topic_id: id, partitions: vec![7; 20_000], ..ForgottenTopic::default() };
    let request = FetchRequest {
        max_wait_ms: LONG_POLL_MS,
        forgotten_topics: vec![forgotten],
        ..fetch_of(id, vec![wanted(0, 0)])
    };
    let since = Instant::now();
    let correlation = wire.send(&request, 13);
    assert_eq!(held(&ended_at_once(&mut wire, 13, correlation, since)), [(0, 0, 0)]);
}

/// A partition that is named more than once is read once, as it was named last.
///
/// Proves: fault I02.
#[test]
fn a_partition_named_twice_is_answered_once() {
    let mut wire = Wire::open(shared());
    let topic = fresh("twice");
    let id = create(&mut wire, &topic, 2, &[]);
    for value in ["first", "second, longer"] {
        wire.call(&produce_to(&topic, id, 0, batch(&[value])), 13);
    }
    let once = wire.call(&fetch_of(id, vec![wanted(0, 1), wanted(1, 0)]), 13);
    let twice = wire.call(&fetch_of(id, vec![wanted(0, 0), wanted(1, 0), wanted(0, 1)]), 13);
    assert_eq!(held(&once), held(&twice));
    assert_eq!(held(&twice).len(), 2);
}
