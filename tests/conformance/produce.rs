//! Produce (P), and record batches that lie (fault I04).

use std::time::{Duration, Instant};

use alluvium::protocol::{
    ErrorCode,
    messages::{
        find_coordinator::FindCoordinatorRequest,
        produce::{PartitionData, PartitionResponse, ProduceRequest, TopicData},
    },
};
use bytes::Bytes;
use log_store::{
    batch::{BatchBuilder, CONTROL_BIT, LOG_APPEND_TIME_BIT, TRANSACTIONAL_BIT},
    compression::{self, Codec, Inflater},
    disk::overlay::SLOW_SYNC,
    record::Header,
};
use uuid::Uuid;

use crate::{
    batches::{self, headers, in_codec, now, of_size, records, values, with},
    requests::{batch, batch_at, create, end_of, fetch_all, fresh, produce, produce_to, shared},
    support::{broker::Broker, wire::Wire},
};

fn code(response: &PartitionResponse) -> ErrorCode {
    ErrorCode::from_number(response.error_code).expect("a known code")
}

/// Proves: P1.
#[test]
fn acks_other_than_the_three_are_refused_on_every_partition() {
    let mut wire = Wire::open(shared());
    let topic = fresh("acks");
    let id = create(&mut wire, &topic, 2, &[]);
    let partitions = [0, 1].map(|index| PartitionData { index, records: Some(batch(&["x"])) }).to_vec();
    let request = ProduceRequest { acks: 2, ..produce_to(&topic, id, 0, Bytes::new()) };
    let topics = vec![TopicData { partitions, ..request.topics[0].clone() }];
    let response = wire.call(&ProduceRequest { topics, ..request }, 9);
    let codes: Vec<ErrorCode> = response.responses[0].partitions.iter().map(code).collect();
    assert_eq!(codes, [ErrorCode::InvalidRequiredAcks; 2]);
    assert_eq!(end_of(&mut wire, &topic, 0), 0);
}

/// Nothing is ever answered to acks=0; what fails closes the connection.
///
/// Proves: P2.
#[test]
fn acks_0_gets_no_answer_and_a_failure_closes() {
    let mut wire = Wire::open(shared());
    let topic = fresh("silent");
    let id = create(&mut wire, &topic, 1, &[]);
    for value in ["a", "b", "c"] {
        wire.send(&ProduceRequest { acks: 0, ..produce_to(&topic, id, 0, batch(&[value])) }, 9);
    }
    // The next answer on this connection is to this request; nobody waited for the batches to be committed.
    while end_of(&mut wire, &topic, 0) < 3 {}
    assert_eq!(values(&fetch_all(&mut wire, id, 0)), ["a", "b", "c"]);
    let mut failing = Wire::open(shared());
    failing.send(&ProduceRequest { acks: 0, ..produce_to(&topic, id, 7, batch(&["x"])) }, 9);
    failing.assert_closed();
    assert_eq!(end_of(&mut wire, &topic, 0), 3);
}

/// Proves: P3, fault I04.
#[test]
fn exactly_one_batch_of_magic_2_is_taken() {
    let mut wire = Wire::open(shared());
    let topic = fresh("one-batch");
    let id = create(&mut wire, &topic, 1, &[]);
    let one = batch(&["x"]);
    let two = Bytes::from([&one[..], &one[..]].concat());
    for (what, records) in [
        ("none", Some(Bytes::new())),
        ("null", None),
        ("two", Some(two)),
        ("magic 1", Some(with(&one, 16, &[1]))),
        ("magic 0", Some(with(&one, 16, &[0]))),
        ("magic 3", Some(with(&one, 16, &[3]))),
        ("cut off", Some(one.slice(..one.len() - 1))),
        ("a header alone", Some(one.slice(..61))),
        ("less than a header", Some(one.slice(..30))),
    ] {
        let mut request = produce_to(&topic, id, 0, Bytes::new());
        request.topics[0].partitions[0].records = records;
        for version in [3, 9, 13] {
            let response = wire.call(&request, version);
            // A format that does not exist is damage, as in Kafka.
            let expected = match what {
                "magic 3" => ErrorCode::CorruptMessage,
                _ => ErrorCode::InvalidRecord,
            };
            assert_eq!(code(&response.responses[0].partitions[0]), expected, "{what} v{version}");
        }
    }
    assert_eq!(end_of(&mut wire, &topic, 0), 0);
}

/// Every way in which a batch's header or records can say something else than they are.
///
/// Proves: P4, fault I04.
#[test]
fn batches_that_lie_are_refused_and_the_log_is_unchanged() {
    let mut wire = Wire::open(shared());
    let topic = fresh("liars");
    let id = create(&mut wire, &topic, 1, &[]);
    let honest = batch(&["a", "b", "c"]);
    let i32s = |value: i32| value.to_be_bytes().to_vec();
    let i64s = |value: i64| value.to_be_bytes().to_vec();
    let mut bad_crc = honest.to_vec();
    bad_crc[40] ^= 1;
    let mut bad_length = honest.to_vec();
    bad_length[8..12].copy_from_slice(&10_i32.to_be_bytes());
    let mut liars = vec![
        ("crc".to_owned(), Bytes::from(bad_crc), ErrorCode::CorruptMessage),
        ("length below a header".to_owned(), Bytes::from(bad_length), ErrorCode::CorruptMessage),
    ];
    let changes: [(&str, usize, Vec<u8>); 19] = [
        ("base offset 1", 0, i64s(1)),
        ("base offset -1", 0, i64s(-1)),
        ("last offset delta one less", 23, i32s(1)),
        ("last offset delta one more", 23, i32s(3)),
        ("last offset delta -1", 23, i32s(-1)),
        ("count 0", 57, i32s(0)),
        ("count one less", 57, i32s(2)),
        ("count one more", 57, i32s(4)),
        ("count -1", 57, i32s(-1)),
        ("count of all there is", 57, i32s(i32::MAX)),
        ("count and delta one less", 23, i32s(1)),
        ("codec 5", 21, vec![0, 5]),
        ("codec 7", 21, vec![0, 7]),
        ("gzip that is none", 21, vec![0, 1]),
        ("snappy that is none", 21, vec![0, 2]),
        ("lz4 that is none", 21, vec![0, 3]),
        ("zstd that is none", 21, vec![0, 4]),
        ("control", 21, CONTROL_BIT.to_be_bytes().to_vec()),
        ("producer without sequence", 43, i64s(5)),
    ];
    for (what, at, bytes) in changes {
        let mut lie = with(&honest, at, &bytes);
        if what == "count and delta one less" {
            lie = with(&lie, 57, &i32s(2));
        }
        liars.push((what.to_owned(), lie, ErrorCode::InvalidRecord));
    }
    // Inside of the records: lengths, attributes, deltas, key, value and header lengths, byte by byte.
    for at in 61..honest.len() {
        for value in [0x01, 0x7f, 0x80, 0xff] {
            if honest[at] != value {
                liars.push((
                    format!("byte {at} = {value:#x}"),
                    with(&honest, at, &[value]),
                    ErrorCode::InvalidRecord,
                ));
            }
        }
    }
    let mut taken = 0;
    for (what, lie, expected) in liars {
        let response = produce(&mut wire, 9, &topic, id, 0, lie);
        // A changed byte of a value or a timestamp is another honest batch.
        if what.starts_with("byte")
            && matches!(code(&response), ErrorCode::None | ErrorCode::InvalidTimestamp)
        {
            taken += i64::from(response.error_code == 0) * 3;
            continue;
        }
        assert_eq!(code(&response), expected, "{what}");
        assert_eq!((response.base_offset, response.log_append_time_ms), (-1, -1), "{what}");
    }
    assert_eq!(end_of(&mut wire, &topic, 0), taken);
    let response = produce(&mut wire, 9, &topic, id, 0, with(&honest, 21, &TRANSACTIONAL_BIT.to_be_bytes()));
    assert_ne!(response.error_code, 0, "a transactional batch outside of a transaction");
    assert_eq!(produce(&mut wire, 9, &topic, id, 0, honest).base_offset, taken);
}

/// Proves: P5.
#[test]
fn too_large_has_two_codes() {
    let mut wire = Wire::open(shared());
    let topic = fresh("large");
    let id = create(&mut wire, &topic, 1, &[("max.message.bytes", "2000000"), ("segment.bytes", "1048576")]);
    let mut answer = |size| produce(&mut wire, 9, &topic, id, 0, of_size(size));
    assert_eq!(code(&answer(2_000_000)), ErrorCode::MessageTooLarge);
    assert_eq!(code(&answer(1_500_000)), ErrorCode::RecordListTooLarge);
    assert_eq!(code(&answer(1_000_000)), ErrorCode::None);
    // The limit is on the bytes as they are stored: a compressible batch passes.
    let zeros = "0".repeat(3_000_000);
    assert_eq!(produce(&mut wire, 9, &topic, id, 0, in_codec(Codec::Zstd, &[&zeros])).error_code, 0);
    let default = fresh("default-size");
    let id = create(&mut wire, &default, 1, &[]);
    let mut sent = |extra: usize| {
        let batch = of_size(1_000_000);
        let overhead = batch.len() - 1_000_000;
        code(&produce(&mut wire, 9, &default, id, 0, of_size(1_048_588 - overhead + extra)))
    };
    assert_eq!(sent(0), ErrorCode::None, "1 MiB and 12 bytes fit");
    assert_eq!(sent(1), ErrorCode::MessageTooLarge);
}

/// Only the base offset and the leader epoch are written, both in front of what the CRC covers.
///
/// Proves: P6, L8.
#[test]
fn stored_bytes_are_those_sent_but_for_offset_and_epoch() {
    let mut wire = Wire::open(shared());
    let topic = fresh("bytes");
    let id = create(&mut wire, &topic, 1, &[]);
    let sent = [batch(&["a", "b"]), in_codec(Codec::Lz4, &["c"; 50]), batch(&["d"])];
    for batch in &sent {
        assert_eq!(produce(&mut wire, 9, &topic, id, 0, batch.clone()).error_code, 0);
    }
    let fetched = fetch_all(&mut wire, id, 0);
    let stored = batches::batches(&fetched);
    assert_eq!(stored.len(), sent.len());
    let mut offset = 0;
    for (stored, sent) in stored.iter().zip(&sent) {
        let bytes = stored.to_bytes();
        assert_eq!(bytes[16..], sent[16..]);
        assert_eq!(bytes[8..12], sent[8..12]);
        assert_eq!(stored.base_offset(), offset);
        assert!(stored.leader_epoch() >= 0);
        offset = stored.next_offset();
    }
    assert_eq!(offset, 53);
}

/// Proves: P7.
#[test]
fn log_append_time_is_the_brokers() {
    let mut wire = Wire::open(shared());
    let topic = fresh("append-time");
    let id = create(&mut wire, &topic, 1, &[("message.timestamp.type", "LogAppendTime")]);
    let before = now();
    // Far outside of what CreateTime would take: such topics do not look at it.
    let response = produce(&mut wire, 9, &topic, id, 0, batch_at(&["a", "b"], before + 10 * 3_600_000));
    assert_eq!(response.error_code, 0);
    assert!((before - 1_000..=now() + 1_000).contains(&response.log_append_time_ms), "{response:?}");
    let fetched = fetch_all(&mut wire, id, 0);
    let header = headers(&fetched)[0];
    assert_eq!(header.attributes & LOG_APPEND_TIME_BIT, LOG_APPEND_TIME_BIT);
    assert_eq!(header.max_timestamp, response.log_append_time_ms);
    assert_eq!(header.base_timestamp, before + 10 * 3_600_000, "base and deltas stay");
    assert!(records(&fetched).iter().all(|record| record.timestamp == response.log_append_time_ms));
    let plain = fresh("create-time");
    let id = create(&mut wire, &plain, 1, &[]);
    assert_eq!(produce(&mut wire, 9, &plain, id, 0, batch(&["a"])).log_append_time_ms, -1);
}

/// Proves: P8.
#[test]
fn a_wrong_largest_timestamp_is_put_right() {
    let mut wire = Wire::open(shared());
    let topic = fresh("max-timestamp");
    let id = create(&mut wire, &topic, 1, &[]);
    let first = now() - 1_000;
    let honest = batch_at(&["a", "b", "c"], first);
    for wrong in [first + 500, first, -1] {
        assert_eq!(
            produce(&mut wire, 9, &topic, id, 0, with(&honest, 35, &wrong.to_be_bytes())).error_code,
            0
        );
    }
    let fetched = fetch_all(&mut wire, id, 0);
    assert!(
        headers(&fetched).iter().all(|header| header.max_timestamp == first + 2),
        "{:?}",
        headers(&fetched)
    );
    assert_eq!(records(&fetched).len(), 9, "with right CRCs");
}

/// Proves: P9.
#[test]
fn timestamps_too_far_from_now_are_named_record_by_record() {
    let mut wire = Wire::open(shared());
    let topic = fresh("far");
    let hour = "3600000";
    let id = create(&mut wire, &topic, 1, &[("message.timestamp.before.max.ms", hour)]);
    let mut builder = BatchBuilder::default();
    for shift in [0, 2 * 3_600_000, 0, -2 * 3_600_000] {
        builder.append(now() + shift, None, Some(b"x"), &[]);
    }
    let far = builder.build().to_bytes();
    let response = produce(&mut wire, 9, &topic, id, 0, far.clone());
    assert_eq!(code(&response), ErrorCode::InvalidTimestamp);
    let named: Vec<i32> = response.record_errors.iter().map(|record| record.batch_index).collect();
    assert_eq!(named, [1, 3]);
    assert!(response.record_errors.iter().all(|record| record.message.is_some()));
    let response = produce(&mut wire, 7, &topic, id, 0, far);
    assert_eq!((code(&response), response.record_errors.len()), (ErrorCode::InvalidTimestamp, 0));
    let anything = fresh("near");
    let id = create(&mut wire, &anything, 1, &[]);
    assert_eq!(
        produce(&mut wire, 9, &anything, id, 0, batch_at(&["old"], 1)).error_code,
        0,
        "no bound backwards"
    );
    let future = produce(&mut wire, 9, &anything, id, 0, batch_at(&["new"], now() + 2 * 3_600_000));
    assert_eq!(code(&future), ErrorCode::InvalidTimestamp, "an hour forwards");
}

/// Proves: P10.
#[test]
fn a_compacted_topic_refuses_the_batch_with_a_null_key() {
    let mut wire = Wire::open(shared());
    let topic = fresh("compacted");
    let id = create(&mut wire, &topic, 1, &[("cleanup.policy", "compact")]);
    let mut builder = BatchBuilder::default();
    builder.append(now(), Some(b"k"), Some(b"v"), &[]).append(now(), None, Some(b"v"), &[]);
    let response = produce(&mut wire, 9, &topic, id, 0, builder.build().to_bytes());
    assert_eq!(code(&response), ErrorCode::InvalidRecord);
    assert_eq!(response.record_errors.iter().map(|record| record.batch_index).collect::<Vec<_>>(), [1]);
    let mut builder = BatchBuilder::default();
    builder.append(now(), Some(b""), Some(b"v"), &[]).append(now(), Some(b"k"), None, &[]);
    assert_eq!(produce(&mut wire, 9, &topic, id, 0, builder.build().to_bytes()).base_offset, 0);
}

/// Proves: P11.
#[test]
fn codecs_are_kept_or_changed_as_the_topic_says() {
    let mut wire = Wire::open(shared());
    let topic = fresh("kept");
    let id = create(&mut wire, &topic, 1, &[]);
    let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    for codec in codecs {
        assert_eq!(
            produce(&mut wire, 9, &topic, id, 0, in_codec(codec, &["value"; 20])).error_code,
            0,
            "{codec:?}"
        );
    }
    let fetched = fetch_all(&mut wire, id, 0);
    let stored: Vec<Codec> = headers(&fetched).iter().map(|header| header.codec().unwrap()).collect();
    assert_eq!(stored, codecs);
    assert_eq!(values(&fetched), ["value"; 100]);
    for (name, target) in [("gzip", Codec::Gzip), ("uncompressed", Codec::None), ("zstd", Codec::Zstd)] {
        let topic = fresh(name);
        let id = create(&mut wire, &topic, 1, &[("compression.type", name)]);
        for codec in codecs {
            let batch = in_codec(codec, &["value"; 20]);
            assert_eq!(produce(&mut wire, 9, &topic, id, 0, batch).error_code, 0, "{codec:?} to {name}");
        }
        let fetched = fetch_all(&mut wire, id, 0);
        assert!(headers(&fetched).iter().all(|header| header.codec().unwrap() == target), "{name}");
        assert_eq!(values(&fetched), ["value"; 100]);
    }
    let early = produce(&mut wire, 6, &topic, id, 0, in_codec(Codec::Zstd, &["x"]));
    assert_eq!(code(&early), ErrorCode::UnsupportedCompressionType);
}

/// Proves: P12.
#[test]
fn pipelined_batches_are_appended_in_order_of_arrival() {
    let mut wire = Wire::open(shared());
    let topic = fresh("order");
    let id = create(&mut wire, &topic, 1, &[]);
    let values_sent: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let sent: Vec<i32> =
        values_sent.iter().map(|value| wire.send(&produce_to(&topic, id, 0, batch(&[value])), 9)).collect();
    for (offset, correlation) in (0..).zip(sent) {
        let response = wire.receive::<ProduceRequest>(9, correlation);
        assert_eq!(response.responses[0].partitions[0].base_offset, offset);
    }
    assert_eq!(values(&fetch_all(&mut wire, id, 0)), values_sent);
}

/// Proves: P13, R5.
#[test]
fn too_few_replicas_refuse_acks_all_before_the_append() {
    let mut wire = Wire::open(shared());
    let topic = fresh("in-sync");
    let id = create(&mut wire, &topic, 1, &[("min.insync.replicas", "2")]);
    assert_eq!(code(&produce(&mut wire, 9, &topic, id, 0, batch(&["x"]))), ErrorCode::NotEnoughReplicas);
    assert_eq!(end_of(&mut wire, &topic, 0), 0);
    let request = ProduceRequest { acks: 1, ..produce_to(&topic, id, 0, batch(&["x"])) };
    assert_eq!(wire.call(&request, 9).responses[0].partitions[0].error_code, 0, "acks=1 does not ask them");
}

/// What another node leads (6, with its name) cannot come about where there is one node.
///
/// Proves: P14 (the codes of what does not exist).
#[test]
fn what_does_not_exist_has_a_code_for_names_and_one_for_ids() {
    let mut wire = Wire::open(shared());
    let topic = fresh("exists");
    let id = create(&mut wire, &topic, 1, &[]);
    let none = Uuid::from_u128(77);
    assert_eq!(
        code(&produce(&mut wire, 9, "no-such-topic", none, 0, batch(&["x"]))),
        ErrorCode::UnknownTopicOrPartition
    );
    assert_eq!(code(&produce(&mut wire, 13, "", none, 0, batch(&["x"]))), ErrorCode::UnknownTopicId);
    for (version, partition) in [(9, 1), (9, -1), (13, 1), (13, i32::MAX)] {
        let response = produce(&mut wire, version, &topic, id, partition, batch(&["x"]));
        assert_eq!((code(&response), response.index), (ErrorCode::UnknownTopicOrPartition, partition));
    }
    assert_eq!(produce(&mut wire, 13, "", id, 0, batch(&["x"])).error_code, 0);
}

/// Proves: P15.
#[test]
fn partitions_succeed_and_fail_by_themselves() {
    let mut wire = Wire::open(shared());
    let topic = fresh("mixed");
    let id = create(&mut wire, &topic, 3, &[]);
    let mut corrupt = batch(&["x"]).to_vec();
    corrupt[30] ^= 0xff;
    let partition = |index, records: Bytes| PartitionData { index, records: Some(records) };
    let request = ProduceRequest {
        topics: vec![
            TopicData {
                name: topic.as_str().into(),
                topic_id: id,
                partitions: vec![
                    partition(2, batch(&["a"])),
                    partition(0, corrupt.into()),
                    partition(9, batch(&["b"])),
                    partition(1, batch(&["c", "d"])),
                ],
            },
            TopicData { name: "missing".into(), topic_id: id, partitions: vec![partition(0, batch(&["e"]))] },
        ],
        ..produce_to(&topic, id, 0, Bytes::new())
    };
    let response = wire.call(&request, 9);
    let answers: Vec<(i32, i16, i64, i64)> = response
        .responses
        .iter()
        .flat_map(|topic| &topic.partitions)
        .map(|answer| (answer.index, answer.error_code, answer.base_offset, answer.log_start_offset))
        .collect();
    assert_eq!(answers, [(2, 0, 0, 0), (0, 2, -1, -1), (9, 3, -1, -1), (1, 0, 0, 0), (0, 3, -1, -1)]);
    assert_eq!([0, 1, 2].map(|partition| end_of(&mut wire, &topic, partition)), [0, 2, 1]);
}

/// Proves: P16.
#[test]
fn internal_topics_take_writes_from_the_admin_client_alone() {
    let mut wire = Wire::open(shared());
    let find =
        FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..FindCoordinatorRequest::default() };
    while wire.call(&find, 4).coordinators[0].error_code != 0 {}
    let mut builder = BatchBuilder::default();
    // A key of a version that no coordinator knows, which it therefore passes over.
    builder.append(now(), Some(&[0x7f, 0xff]), Some(b"v"), &[]);
    let records = builder.build().to_bytes();
    let response = produce(&mut wire, 9, "__consumer_offsets", Uuid::nil(), 49, records.clone());
    assert_eq!(code(&response), ErrorCode::InvalidTopicException);
    let mut admin = Wire::open_as(shared(), "__admin_client");
    assert_eq!(produce(&mut admin, 9, "__consumer_offsets", Uuid::nil(), 49, records).error_code, 0);
}

/// Proves: P19.
#[test]
fn headers_survive_as_they_are() {
    let mut wire = Wire::open(shared());
    let topic = fresh("headers");
    let id = create(&mut wire, &topic, 1, &[]);
    let sent: [(&str, Option<&[u8]>); 5] =
        [("a", Some(b"1")), ("a", Some(b"2")), ("", Some(b"")), ("z", None), ("a", None)];
    let list: Vec<Header<'_>> = sent.iter().map(|(key, value)| (key.as_bytes(), *value)).collect();
    for codec in [Codec::None, Codec::Snappy] {
        let mut builder = BatchBuilder::new(codec);
        builder.append(now(), None, None, &list);
        assert_eq!(produce(&mut wire, 9, &topic, id, 0, builder.build().to_bytes()).error_code, 0);
    }
    for record in records(&fetch_all(&mut wire, id, 0)) {
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        let expected: Vec<(String, Option<String>)> =
            sent.iter().map(|(key, value)| ((*key).to_owned(), value.map(text))).collect();
        assert_eq!(record.headers, expected);
    }
}

/// Bombs of all codecs are refused within the memory that one batch may take, and the client beside them is served as before.
///
/// Proves: fault I03.
#[test]
fn decompression_bombs_are_refused_within_bounds() {
    let broker = crate::support::broker::Broker::ephemeral();
    let (mut wire, mut other) = (Wire::open(&broker.bootstrap), Wire::open(&broker.bootstrap));
    let (topic, unharmed) = (fresh("bombs"), fresh("unharmed"));
    let id = create(&mut wire, &topic, 1, &[("max.message.bytes", "8388608")]);
    let other_id = create(&mut wire, &unharmed, 1, &[]);
    // Above sixteen times the batch and 64 MiB.
    let bombs: Vec<(String, Bytes)> = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd]
        .into_iter()
        .map(|codec| (format!("{codec:?}"), bomb(codec, 200 << 20)))
        .chain([("Snappy that announces 4 GiB".to_owned(), boast())])
        .collect();
    let before = broker.peak_resident_bytes();
    for (what, bomb) in &bombs {
        for _ in 0..3 {
            let correlation = wire.send(&produce_to(&topic, id, 0, bomb.clone()), 9);
            assert_eq!(produce(&mut other, 9, &unharmed, other_id, 0, batch(&["x"])).error_code, 0);
            let response = wire.receive::<ProduceRequest>(9, correlation);
            let response = &response.responses[0].partitions[0];
            assert!(
                matches!(code(response), ErrorCode::InvalidRecord | ErrorCode::MessageTooLarge),
                "{what}: {response:?}"
            );
        }
    }
    let largest = bombs.iter().map(|(_, bomb)| bomb.len() as u64).max().expect("a bomb");
    let grown = broker.peak_resident_bytes() - before;
    assert!(grown < (64 << 20) + 4 * largest, "{} MiB", grown >> 20);
    assert_eq!(end_of(&mut wire, &topic, 0), 0);
    assert_eq!(values(&fetch_all(&mut other, other_id, 0)), ["x"; 15]);
}

/// A bomb that would go on for long costs no more processor than honest records that inflate as far as a batch may.
///
/// Proves: fault I03.
#[test]
fn a_bomb_costs_no_more_than_honest_records() {
    let broker = Broker::ephemeral();
    let mut wire = Wire::open(&broker.bootstrap);
    let id = create(&mut wire, "bombs", 1, &[("max.message.bytes", "8388608")]);
    for codec in [Codec::Gzip, Codec::Lz4, Codec::Zstd] {
        let mut honest = BatchBuilder::new(codec);
        honest.append(now(), None, Some(&vec![0; 60 << 20]), &[]);
        let honest = honest.build().to_bytes();
        let bomb = bomb(codec, 1 << 30);
        let taken = processor(&broker, || {
            for _ in 0..4 {
                let response = produce(&mut wire, 9, "bombs", id, 0, honest.clone());
                assert_eq!(code(&response), ErrorCode::None, "{response:?}");
            }
        });
        let refused = processor(&broker, || {
            for _ in 0..4 {
                let response = produce(&mut wire, 9, "bombs", id, 0, bomb.clone());
                assert_eq!(code(&response), ErrorCode::InvalidRecord, "{response:?}");
            }
        });
        assert!(refused < 3 * taken, "{codec:?}: {refused:?} to refuse what takes {taken:?} to store");
    }
}

/// A bomb inside of what is inflated is never met: the broker inflates once. As the value of a record it is the client's own; in the place
/// of records, alone or in message sets of the old format, it is no record.
///
/// Proves: fault I03.
#[test]
fn nested_bombs_are_not_inflated() {
    const ROUNDS: usize = 20;
    let broker = Broker::ephemeral();
    let mut wire = Wire::open(&broker.bootstrap);
    let id = create(&mut wire, "nested", 2, &[]);
    let zip = |bytes: &[u8]| compression::deflate(Codec::Gzip, None, bytes);
    let inner = zip(&vec![0; 200 << 20]);
    let holding = |value: &[u8]| {
        let mut outer = BatchBuilder::new(Codec::Gzip);
        outer.append(now(), None, Some(value), &[]);
        outer.build().to_bytes()
    };
    let batch_inside = compressed_batch(Codec::Gzip, &inner);
    // The value of a compressed message was a message set, which may be compressed again.
    let old = message_of_version_1(Codec::Gzip, &zip(&message_of_version_1(Codec::Gzip, &inner)));
    let in_place = [&inner, &old].map(|bytes| compressed_batch(Codec::Gzip, &zip(bytes)));

    let mut send = |records: &Bytes, partition, expected| {
        processor(&broker, || {
            for _ in 0..ROUNDS {
                let response = produce(&mut wire, 9, "nested", id, partition, records.clone());
                assert_eq!(code(&response), expected, "{response:?}");
            }
        })
    };
    let before = broker.peak_resident_bytes();
    let mut costs = vec![send(&holding(&batch_inside), 0, ErrorCode::None)];
    costs.extend(in_place.iter().map(|records| send(records, 1, ErrorCode::InvalidRecord)));
    costs.push(send(&old.into(), 1, ErrorCode::InvalidRecord));
    let grown = broker.peak_resident_bytes() - before;
    assert!(grown < 16 << 20, "{} MiB", grown >> 20);
    let inflating = send(&holding(&vec![0; 60 << 20]), 1, ErrorCode::None);
    for cost in costs {
        assert!(4 * cost < inflating, "{cost:?}; what is inflated to 60 MiB takes {inflating:?}");
    }
    assert_eq!(end_of(&mut wire, "nested", 1), ROUNDS as i64, "only those without a bomb");
    let fetched = fetch_all(&mut wire, id, 0);
    let (mut inflater, stored) = (Inflater::default(), batches::batches(&fetched));
    assert_eq!(stored.len(), ROUNDS);
    for batch in &stored {
        let record =
            batch.records_in(&mut inflater).expect("gzip").next().expect("a record").expect("its form");
        assert_eq!(record.value, Some(&batch_inside[..]));
    }
}

/// Processor time that a broker uses meanwhile.
fn processor(broker: &Broker, work: impl FnOnce()) -> Duration {
    let before = broker.processor_time();
    work();
    broker.processor_time() - before
}

/// A message set of one compressed message of version 1.
fn message_of_version_1(codec: Codec, value: &[u8]) -> Vec<u8> {
    let length = i32::try_from(value.len()).expect("a short value");
    let body =
        [&[1, codec as u8][..], &now().to_be_bytes(), &(-1_i32).to_be_bytes(), &length.to_be_bytes(), value]
            .concat();
    // Both formats count the same CRC-32: gzip ends with it, the other way round, and the length.
    let zipped = compression::deflate(Codec::Gzip, None, &body);
    let mut crc = zipped[zipped.len() - 8..][..4].to_vec();
    crc.reverse();
    let size = i32::try_from(4 + body.len()).expect("a short message");
    [&0_i64.to_be_bytes()[..], &size.to_be_bytes(), &crc, &body].concat()
}

/// A batch whose compressed records become `size` zero bytes, or as many as fit where the codec does not shrink so far.
fn bomb(codec: Codec, size: usize) -> Bytes {
    let compressed = match codec {
        Codec::Snappy => {
            // A zero, and copies of 64 bytes from one byte before.
            let copies = 2_500_000;
            let mut length = 1 + 64 * copies;
            let mut compressed = Vec::new();
            while length >= 0x80 {
                compressed.push(length as u8 | 0x80);
                length >>= 7;
            }
            compressed.extend([length as u8, 0, 0]);
            compressed.extend([0xfe, 1, 0].repeat(copies));
            compressed
        }
        codec => compression::deflate(codec, None, &vec![0; size]),
    };
    compressed_batch(codec, &compressed)
}

/// A small batch in Snappy whose header announces 4 GiB.
fn boast() -> Bytes {
    let compressed = [&[0x80, 0x80, 0x80, 0x80, 0x0f][..], &[0xfe, 1, 0].repeat(1_000)].concat();
    compressed_batch(Codec::Snappy, &compressed)
}

fn compressed_batch(codec: Codec, compressed: &[u8]) -> Bytes {
    let mut batch = in_codec(codec, &["x"])[..61].to_vec();
    batch.extend_from_slice(compressed);
    let length = i32::try_from(batch.len() - 12).expect("a short batch");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    with(&batch.into(), 61, &[])
}

/// A produce that timed out behind one that may still wait keeps its place without work: the broker does not spin.
///
/// Proves: P13.
#[test]
fn a_timeout_behind_a_longer_wait_costs_no_processor() {
    let data = tempfile::tempdir().expect("a data directory");
    let broker = Broker::on(data.path(), &["--simulate-power-cuts", "slow-sync=60"]);
    let mut wire = Wire::open(&broker.bootstrap);
    let id = create(&mut wire, "slow", 1, &[]);
    for _ in 0..1_000 {
        let (begun, before) = (Instant::now(), broker.processor_time());
        let pair = [30_000, 100].map(|timeout_ms| {
            let request = ProduceRequest { timeout_ms, ..produce_to("slow", id, 0, batch(&["x"])) };
            wire.send(&request, 9)
        });
        let codes = pair.map(|correlation| {
            let answer = wire.receive::<ProduceRequest>(9, correlation);
            code(&answer.responses[0].partitions[0])
        });
        if begun.elapsed() >= SLOW_SYNC / 2 && codes == [ErrorCode::None, ErrorCode::RequestTimedOut] {
            let busy = broker.processor_time() - before;
            assert!(busy < SLOW_SYNC / 4, "{busy:?} of processor for waiting");
            return;
        }
    }
    panic!("no sync was slow");
}

/// Only `acks=all` is answered by 7: whoever waits for one disk would send again what is there.
///
/// Proves: P13.
#[test]
fn a_timeout_is_for_those_who_wait_for_all() {
    let data = tempfile::tempdir().expect("a data directory");
    let broker = Broker::on(data.path(), &["--simulate-power-cuts", "slow-sync=60"]);
    let mut wire = Wire::open(&broker.bootstrap);
    let id = create(&mut wire, "slow", 1, &[]);
    let request = |acks| ProduceRequest { acks, timeout_ms: 0, ..produce_to("slow", id, 0, batch(&["x"])) };
    for offset in (0..1_000).step_by(2) {
        let begun = Instant::now();
        wire.send(&request(0), 9);
        let answer = wire.call(&request(1), 9);
        let answer = &answer.responses[0].partitions[0];
        assert_eq!((code(answer), answer.base_offset), (ErrorCode::None, offset + 1));
        if begun.elapsed() >= SLOW_SYNC / 2 {
            return;
        }
    }
    panic!("no sync was slow");
}
