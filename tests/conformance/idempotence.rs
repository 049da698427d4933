//! Idempotent producers (I).

use std::time::{Duration, Instant};

use alluvium::protocol::{
    ErrorCode,
    messages::{
        init_producer_id::{InitProducerIdRequest, InitProducerIdResponse},
        produce::PartitionResponse,
    },
};

use crate::{
    batches::{of_producer, values},
    requests::{create, end_of, fetch_all, fresh, produce, shared},
    support::{broker::Broker, wire::Wire},
};

fn init(wire: &mut Wire, version: i16, id: i64, epoch: i16) -> InitProducerIdResponse {
    let request = InitProducerIdRequest {
        transaction_timeout_ms: 60_000,
        producer_id: id,
        producer_epoch: epoch,
        ..InitProducerIdRequest::default()
    };
    wire.call(&request, version)
}

fn fresh_id(wire: &mut Wire) -> i64 {
    let response = init(wire, 4, -1, -1);
    assert_eq!((response.error_code, response.producer_epoch), (0, 0));
    response.producer_id
}

fn code(response: &PartitionResponse) -> ErrorCode {
    ErrorCode::from_number(response.error_code).expect("a known code")
}

/// Proves: I1, I2.
#[test]
fn producer_ids_are_unique_also_after_a_kill() {
    let data = tempfile::tempdir().expect("a data directory");
    let mut seen = std::collections::HashSet::new();
    for _ in 0..3 {
        let mut broker = Broker::on(data.path(), &[]);
        let mut wire = Wire::open(&broker.bootstrap);
        for version in 0..=5 {
            for _ in 0..20 {
                let response = init(&mut wire, version, -1, -1);
                assert_eq!((response.error_code, response.producer_epoch), (0, 0));
                assert!(seen.insert(response.producer_id), "{} twice", response.producer_id);
            }
        }
        broker.kill();
    }
}

/// Proves: I3.
#[test]
fn sequences_follow_each_other_and_wrap() {
    let mut wire = Wire::open(shared());
    let topic = fresh("sequences");
    let topic_id = create(&mut wire, &topic, 1, &[]);
    let id = fresh_id(&mut wire);
    let mut send = |epoch, sequence, count| {
        produce(&mut wire, 9, &topic, topic_id, 0, of_producer(id, epoch, sequence, count))
    };
    assert_eq!(send(0, 0, 3).base_offset, 0);
    assert_eq!(send(0, 3, 2).base_offset, 3);
    assert_eq!(code(&send(0, 6, 1)), ErrorCode::OutOfOrderSequenceNumber, "a gap");
    assert_eq!(code(&send(0, 4, 5)), ErrorCode::OutOfOrderSequenceNumber, "an overlap that is no duplicate");
    assert_eq!(code(&send(1, 5, 1)), ErrorCode::OutOfOrderSequenceNumber, "a new epoch begins at 0");
    assert_eq!(send(0, 5, 1).base_offset, 5, "what was refused changed nothing");
    assert_eq!(send(1, 0, 1).base_offset, 6);

    let id = fresh_id(&mut wire);
    let mut send =
        |sequence, count| produce(&mut wire, 9, &topic, topic_id, 0, of_producer(id, 0, sequence, count));
    assert_eq!(send(i32::MAX - 2, 2).base_offset, 7);
    assert_eq!(send(i32::MAX, 3).base_offset, 9, "2147483647, 0, 1");
    assert_eq!(send(2, 1).base_offset, 12);
}

/// Proves: I4.
#[test]
fn an_unknown_producer_may_begin_anywhere() {
    let mut wire = Wire::open(shared());
    let topic = fresh("anywhere");
    let topic_id = create(&mut wire, &topic, 1, &[]);
    let id = fresh_id(&mut wire);
    assert_eq!(produce(&mut wire, 9, &topic, topic_id, 0, of_producer(id, 3, 41, 2)).base_offset, 0);
    assert_eq!(produce(&mut wire, 9, &topic, topic_id, 0, of_producer(id, 3, 43, 1)).base_offset, 2);
}

/// Proves: I5.
#[test]
fn each_of_the_last_five_batches_is_recognised_when_it_comes_again() {
    let mut wire = Wire::open(shared());
    let topic = fresh("again");
    let topic_id = create(&mut wire, &topic, 1, &[]);
    let id = fresh_id(&mut wire);
    let batches: Vec<_> = (0..7).map(|number| of_producer(id, 0, number * 2, 2)).collect();
    for (number, batch) in (0..).zip(&batches) {
        assert_eq!(produce(&mut wire, 9, &topic, topic_id, 0, batch.clone()).base_offset, number * 2);
    }
    for (number, batch) in (0..).zip(&batches).skip(2) {
        let again = produce(&mut wire, 9, &topic, topic_id, 0, batch.clone());
        assert_eq!((again.error_code, again.base_offset), (0, number * 2));
    }
    for batch in &batches[..2] {
        let older = produce(&mut wire, 9, &topic, topic_id, 0, batch.clone());
        assert_ne!(older.error_code, 0, "older than five batches: no offset is known any more");
    }
    assert_eq!(end_of(&mut wire, &topic, 0), 14);
}

/// Where the broker stamps batches, a duplicate is answered with the stamp of the original, too.
///
/// Proves: I5.
#[test]
fn a_duplicate_has_the_time_of_the_original() {
    let mut wire = Wire::open(shared());
    let topic = fresh("stamped");
    let topic_id = create(&mut wire, &topic, 1, &[("message.timestamp.type", "LogAppendTime")]);
    let id = fresh_id(&mut wire);
    let mut send = |sequence| produce(&mut wire, 9, &topic, topic_id, 0, of_producer(id, 0, sequence, 2));
    let original = send(0);
    assert_eq!((original.error_code, original.base_offset), (0, 0));
    // Another batch with a later stamp in between: the clock has moved on.
    let mut sequence = 2;
    while send(sequence).log_append_time_ms == original.log_append_time_ms && sequence < 8 {
        sequence += 2;
        std::thread::sleep(Duration::from_millis(2));
    }
    let again = send(0);
    assert_eq!(
        (again.error_code, again.base_offset, again.log_append_time_ms),
        (0, 0, original.log_append_time_ms)
    );
}

/// A batch and its duplicate in flight together are one batch with two answers.
///
/// Proves: I5, P12.
#[test]
fn duplicates_in_flight_are_answered_alike() {
    use alluvium::protocol::messages::produce::ProduceRequest;
    let mut wire = Wire::open(shared());
    let topic = fresh("in-flight");
    let topic_id = create(&mut wire, &topic, 1, &[]);
    let id = fresh_id(&mut wire);
    let mut sent = Vec::new();
    for number in 0..20 {
        let request = crate::requests::produce_to(&topic, topic_id, 0, of_producer(id, 0, number, 1));
        sent.push((i64::from(number), wire.send(&request, 9)));
        sent.push((i64::from(number), wire.send(&request, 9)));
    }
    for (offset, correlation) in sent {
        let answer = wire.receive::<ProduceRequest>(9, correlation).responses.remove(0).partitions.remove(0);
        assert_eq!((answer.error_code, answer.base_offset), (0, offset));
    }
    assert_eq!(end_of(&mut wire, &topic, 0), 20);
}

/// Proves: I6.
#[test]
fn an_older_epoch_is_fenced() {
    let mut wire = Wire::open(shared());
    let topic = fresh("fenced");
    let topic_id = create(&mut wire, &topic, 1, &[]);
    let id = fresh_id(&mut wire);
    assert_eq!(produce(&mut wire, 9, &topic, topic_id, 0, of_producer(id, 1, 0, 1)).error_code, 0);
    let older = produce(&mut wire, 9, &topic, topic_id, 0, of_producer(id, 0, 1, 1));
    assert_eq!(code(&older), ErrorCode::InvalidProducerEpoch);
    assert_eq!(end_of(&mut wire, &topic, 0), 1);
}

/// Proves: I7.
#[test]
fn duplicates_are_recognised_after_a_stop_and_after_a_kill() {
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &[]);
    let mut wire = Wire::open(&broker.bootstrap);
    let topic_id = create(&mut wire, "kept", 1, &[]);
    let id = fresh_id(&mut wire);
    for sequence in 0..6 {
        let answer = produce(&mut wire, 9, "kept", topic_id, 0, of_producer(id, 0, sequence, 1));
        assert_eq!(answer.error_code, 0);
    }
    for kill in [true, false] {
        if kill {
            broker.kill();
        } else {
            broker.terminate();
            assert!(broker.wait().success());
        }
        broker = Broker::on(data.path(), &[]);
        let mut wire = Wire::open(&broker.bootstrap);
        for sequence in 2..6 {
            let again = produce(&mut wire, 9, "kept", topic_id, 0, of_producer(id, 0, sequence, 1));
            assert_eq!((again.error_code, again.base_offset), (0, i64::from(sequence)), "killed: {kill}");
        }
        let gap = produce(&mut wire, 9, "kept", topic_id, 0, of_producer(id, 0, 7, 1));
        assert_eq!(code(&gap), ErrorCode::OutOfOrderSequenceNumber);
        let fetched = fetch_all(&mut wire, topic_id, 0);
        assert_eq!(values(&fetched), (0..6).map(|number| format!("{id}-0-{number}")).collect::<Vec<_>>());
    }
}

/// Only a transactional producer keeps its id and gets the next epoch: without a transactional id Kafka gives a new one.
///
/// Proves: I8.
#[test]
fn a_known_producer_gets_a_new_id() {
    let mut wire = Wire::open(shared());
    let id = fresh_id(&mut wire);
    for version in 3..=5 {
        for (named, epoch) in [(id, 5), (id, i16::MAX - 1), (1 << 40, 0)] {
            let response = init(&mut wire, version, named, epoch);
            assert_eq!((response.error_code, response.producer_epoch), (0, 0), "{named} {epoch}");
            assert!(response.producer_id > id && response.producer_id < 1 << 40, "{response:?}");
        }
        for (id, epoch) in [(id, -1), (-1, 0)] {
            let response = init(&mut wire, version, id, epoch);
            assert_eq!(response.error_code, ErrorCode::InvalidRequest.number(), "{id} {epoch}");
        }
    }
}

/// Proves: I9.
#[test]
fn a_silent_producer_is_forgotten() {
    let broker = Broker::ephemeral_with(&["--set", "producer.id.expiration.ms=200"]);
    let mut wire = Wire::open(&broker.bootstrap);
    let topic = fresh("forgotten");
    let topic_id = create(&mut wire, &topic, 1, &[]);
    let id = fresh_id(&mut wire);
    assert_eq!(produce(&mut wire, 9, &topic, topic_id, 0, of_producer(id, 0, 0, 1)).error_code, 0);
    // A gap is refused as long as the producer is remembered, and taken once it is not.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = produce(&mut wire, 9, &topic, topic_id, 0, of_producer(id, 0, 17, 1));
        match code(&answer) {
            ErrorCode::OutOfOrderSequenceNumber => std::thread::sleep(Duration::from_millis(10)),
            other => break assert_eq!(other, ErrorCode::None),
        }
        assert!(Instant::now() < deadline, "it is remembered for ever");
    }
}

/// A transactional id is refused by the code after which no client tries again.
#[test]
fn a_transactional_id_is_refused_for_good() {
    let mut wire = Wire::open(shared());
    for version in 0..=5 {
        let request = InitProducerIdRequest {
            transactional_id: Some("tx".into()),
            transaction_timeout_ms: 60_000,
            ..InitProducerIdRequest::default()
        };
        let response = wire.call(&request, version);
        assert_eq!(response.error_code, ErrorCode::TransactionalIdAuthorizationFailed.number());
    }
}
