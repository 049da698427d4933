//! Frames, headers, encoding (W).

use std::{
    io::{Read, Write},
    thread,
    time::{Duration, Instant},
};

use alluvium::{
    api::APIS,
    protocol::{
        Request, Str, decode_response, encode_request,
        messages::{
            api_versions::ApiVersionsRequest, fetch::FetchRequest, list_groups::ListGroupsRequest,
            metadata::MetadataRequest, produce::ProduceRequest,
        },
    },
};

use crate::{
    batches::of_size,
    requests::{batch, create, fresh, named, produce_to, shared},
    support::{broker::Broker, wire::Wire},
};

/// A request header v1.
fn header(key: i16, version: i16, correlation: i32, client_id: Option<&str>) -> Vec<u8> {
    let mut header = [&key.to_be_bytes()[..], &version.to_be_bytes(), &correlation.to_be_bytes()].concat();
    match client_id {
        Some(id) => {
            header.extend((id.len() as i16).to_be_bytes());
            header.extend(id.as_bytes());
        }
        None => header.extend((-1_i16).to_be_bytes()),
    }
    header
}

fn still_serves(bootstrap: &str) {
    assert_eq!(Wire::open(bootstrap).call(&ApiVersionsRequest::default(), 0).error_code, 0);
}

/// Lengths that cannot be close the connection without an answer, and cost no memory.
///
/// Proves: W1, fault I01.
#[test]
fn impossible_lengths_close_the_connection() {
    let broker = Broker::ephemeral();
    still_serves(&broker.bootstrap);
    let before = broker.peak_resident_bytes();
    for length in [0, -1, i32::MIN, i32::MAX, 100 * 1024 * 1024 + 1] {
        let mut wire = Wire::open(&broker.bootstrap);
        wire.raw(&length.to_be_bytes());
        wire.assert_closed();
    }
    // A length within the limit whose bytes never come has room that no memory backs.
    let mut waiting: Vec<Wire> = (0..10).map(|_| Wire::open(&broker.bootstrap)).collect();
    for wire in &mut waiting {
        wire.raw(&(20_i32 << 20).to_be_bytes());
        wire.raw(b"a few bytes");
    }
    still_serves(&broker.bootstrap);
    let grown = broker.peak_resident_bytes() - before;
    assert!(grown < 4 << 20, "{grown} bytes for frames that never came");
}

/// Counts on the wire are checked against the bytes that are there before anything is made for them.
///
/// Proves: W2, fault I02.
#[test]
fn counts_are_not_believed() {
    let broker = Broker::ephemeral();
    still_serves(&broker.bootstrap);
    let before = broker.peak_resident_bytes();
    for (key, version, body) in [
        (3_i16, 1_i16, &i32::MAX.to_be_bytes()[..]),
        (3, 1, &0x7f00_0000_i32.to_be_bytes()),
        (3, 12, b"\xff\xff\xff\xff\x0f"),
        (0, 3, b"\xff\xff\xff\xff\x00\x00\x00\x00\x7f\xff\xff\xff"),
        (1, 4, b"\xff\xff\xff\xff\0\0\0\0\0\0\0\0\0\0\0\0\0\x7f\xff\xff\xff"),
        (18, 3, b"\xff\xff\xff\xff\x07"),
    ] {
        let mut wire = Wire::open(&broker.bootstrap);
        let mut frame = header(key, version, 1, None);
        if version == 12 || key == 18 {
            frame.push(0);
        }
        frame.extend(body);
        wire.raw_frame(&frame);
        wire.assert_closed();
    }
    still_serves(&broker.bootstrap);
    let grown = broker.peak_resident_bytes() - before;
    assert!(grown < 4 << 20, "{grown} bytes for forged counts");
}

/// Every API in every version takes bodies full of counts: an array of as many elements as there are bytes, at each of the first
/// places where a count can stand. Whatever the answer is, memory stays.
///
/// Proves: W2, W12, fault I02.
#[test]
fn no_api_grows_by_what_a_body_claims() {
    let broker = Broker::ephemeral();
    still_serves(&broker.bootstrap);
    let before = broker.peak_resident_bytes();
    for api in APIS {
        for version in api.served_from..=api.max {
            let mut requests = Vec::new();
            for lead in [0, 1, 2, 4, 6, 9, 14] {
                for fill in [0_u8, 1] {
                    const SIZE: usize = 64 << 10;
                    for count in [
                        &(SIZE as i32 / 2).to_be_bytes()[..],
                        &i32::MAX.to_be_bytes(),
                        b"\x80\x80\x02",
                        b"\xff\xff\xff\xff\x0f",
                    ] {
                        let mut frame = header(api.key, version, 1, None);
                        frame.extend(vec![0; lead]);
                        frame.extend(count);
                        frame.extend(vec![fill; SIZE]);
                        requests.push(frame);
                    }
                }
            }
            for frame in requests {
                let mut wire = Wire::open(&broker.bootstrap);
                wire.raw_frame(&frame);
                wire.finish();
                // An answer or the end: never neither.
                while wire.frame().is_some() {}
            }
        }
    }
    still_serves(&broker.bootstrap);
    let grown = broker.peak_resident_bytes() - before;
    assert!(grown < 64 << 20, "{grown} bytes for bodies of 64 KiB");
}

/// Header v1 for old versions, v2 for flexible ones, where the client id still has a 16-bit length; a null client id is fine; the
/// answer's header follows the version, too; correlation ids come back bit by bit.
///
/// Proves: W3, W4, W5, W6, W9.
#[test]
fn headers_follow_the_version() {
    let mut wire = Wire::open(shared());
    for correlation in [i32::MIN, -1, 0, i32::MAX] {
        wire.raw_frame(&[header(3, 1, correlation, None), 0_i32.to_be_bytes().to_vec()].concat());
        wire.receive::<MetadataRequest>(1, correlation);
        // Version 9: an empty tagged section behind the header; no topics (1 = empty), three flags, no tags.
        wire.raw_frame(&[header(3, 9, correlation, Some("me")), vec![0, 1, 0, 0, 0, 0]].concat());
        wire.receive::<MetadataRequest>(9, correlation);
    }
}

/// Answers leave in the order of the requests, although a long poll stands in front.
///
/// Proves: W10.
#[test]
fn answers_keep_the_order_of_requests() {
    let mut wire = Wire::open(shared());
    let topic = fresh("order");
    let id = create(&mut wire, &topic, 1, &[]);
    let fetch = crate::requests::fetch_from(id, 0, 0, 300);
    let first = wire.send(&fetch, 16);
    let second = wire.send(&ApiVersionsRequest::default(), 0);
    let third = wire.send(&named(&[&topic]), 9);
    let fourth = wire.send(&ListGroupsRequest::default(), 0);
    wire.receive::<FetchRequest>(16, first);
    wire.receive::<ApiVersionsRequest>(0, second);
    wire.receive::<MetadataRequest>(9, third);
    wire.receive::<ListGroupsRequest>(0, fourth);
}

/// An unknown API, a removed one and an unsupported version close the connection, and the log says what came from whom, with the software
/// if the client has told it.
///
/// Proves: W11.
#[test]
fn unknown_requests_close_the_connection() {
    let broker = Broker::ephemeral();
    for (key, version) in [(999, 0), (4, 0), (3, 99), (-5, 0)] {
        let mut wire = Wire::open(&broker.bootstrap);
        wire.raw_frame(&header(key, version, 1, Some(&format!("client of {key}"))));
        wire.assert_closed();
        broker.wait_for_log(&format!("(key {key}) version {version}, client 'client of {key}'"));
    }
    let mut wire = Wire::open(&broker.bootstrap);
    let software = ApiVersionsRequest {
        client_software_name: "some-client".into(),
        client_software_version: "1.2.3".into(),
    };
    assert_eq!(wire.call(&software, 3).error_code, 0);
    wire.raw_frame(&header(998, 7, 1, Some("app")));
    wire.assert_closed();
    broker.wait_for_log("(key 998) version 7, client 'app (some-client 1.2.3)'");
    still_serves(&broker.bootstrap);
}

/// SaslHandshake and OffsetDelete, which are not served, have no flexible version: their header names the client in plain.
///
/// Proves: W8.
#[test]
fn headers_of_apis_that_are_not_served_are_plain() {
    let broker = Broker::ephemeral();
    for (key, version) in [(17, 1), (47, 0)] {
        let mut wire = Wire::open(&broker.bootstrap);
        wire.raw_frame(&header(key, version, 1, Some("of old")));
        wire.assert_closed();
        broker.wait_for_log(&format!("(key {key}) version {version}, client 'of old'"));
    }
}

/// Bodies that are cut off or garbled close the connection and harm nobody else; what follows a body is ignored, as in Kafka.
///
/// Proves: W12, W15, fault I05.
#[test]
fn malformed_bodies_close_the_connection() {
    let whole = [header(3, 9, 1, Some("me")), vec![0, 1, 0, 0, 0, 0]].concat();
    for length in 0..whole.len() {
        let mut wire = Wire::open(shared());
        wire.raw_frame(&whole[..length]);
        wire.assert_closed();
    }
    let mut wire = Wire::open(shared());
    wire.raw_frame(&[&whole[..], b"more"].concat());
    wire.receive::<MetadataRequest>(9, 1);
    let mut wire = Wire::open(shared());
    // A null where DeleteGroups v2 wants an array.
    wire.raw_frame(&[header(42, 2, 1, None), vec![0, 0, 0]].concat());
    wire.assert_closed();
    for length in 0..whole.len() + 4 {
        let mut wire = Wire::open(shared());
        let frame = [&(whole.len() as i32).to_be_bytes()[..], &whole].concat();
        wire.raw(&frame[..length]);
        wire.finish();
        wire.assert_closed();
    }
    still_serves(shared());
}

/// Unknown tagged fields are passed over at every depth, and are not in the answer.
///
/// Proves: W13.
#[test]
fn unknown_tags_are_skipped() {
    let mut wire = Wire::open(shared());
    let topic = fresh("tags");
    create(&mut wire, &topic, 1, &[]);
    let name = [&[topic.len() as u8 + 1], topic.as_bytes()].concat();
    let tags = [2, 90, 3, 1, 2, 3, 91, 0];
    let frame = [&header(3, 9, 5, None)[..], &tags, &[2], &name, &tags, &[0, 0, 0], &tags].concat();
    wire.raw_frame(&frame);
    let answer = wire.frame().expect("an answer");
    assert!(!answer.windows(5).any(|bytes| bytes == [90, 3, 1, 2, 3]), "echoed");
    let (_, response) = decode_response::<MetadataRequest>(answer, 9).expect("a well-formed answer");
    assert_eq!(response.topics[0].error_code, 0);
}

/// A varint of five bytes is read, however few its bits are; one of six, or of more than 32 bits, is malformed.
///
/// Proves: W17.
#[test]
fn varints_end_within_five_bytes() {
    // Metadata v9: the number of tags in the header stands first in what follows the client id.
    let request = |tags: &[u8]| [&header(3, 9, 3, None)[..], tags, &[1, 0, 0, 0, 0]].concat();
    let mut wire = Wire::open(shared());
    wire.raw_frame(&request(&[0x80, 0x80, 0x80, 0x80, 0]));
    assert!(wire.receive::<MetadataRequest>(9, 3).topics.is_empty());
    for over_long in [&[0x80, 0x80, 0x80, 0x80, 0x80, 0][..], &[0xff, 0xff, 0xff, 0xff, 0x7f]] {
        let mut wire = Wire::open(shared());
        wire.raw_frame(&request(over_long));
        wire.assert_closed();
    }
}

/// Null and empty differ: Metadata with null topics names all, with none none; version 0 has no null, and there empty is all.
///
/// Proves: W19.
#[test]
fn null_is_all_and_empty_is_none() {
    let mut wire = Wire::open(shared());
    let topic = fresh("all");
    create(&mut wire, &topic, 1, &[]);
    let ask = |topics| MetadataRequest { topics, ..MetadataRequest::default() };
    let has = |wire: &mut Wire, topics, version| {
        let response = wire.call(&ask(topics), version);
        response.topics.iter().any(|found| found.name.as_deref() == Some(topic.as_str()))
    };
    assert!(has(&mut wire, None, 9));
    assert!(!has(&mut wire, Some(Vec::new()), 9));
    assert!(has(&mut wire, Some(Vec::new()), 0));
    assert!(wire.call(&ask(Some(Vec::new())), 9).topics.is_empty());
}

/// A frame that comes byte by byte is a frame.
///
/// Proves: fault I06.
#[test]
fn frames_may_come_in_pieces() {
    let mut wire = Wire::open(shared());
    let body = [header(3, 9, 77, Some("slow")), vec![0, 1, 0, 0, 0, 0]].concat();
    for byte in [&(body.len() as i32).to_be_bytes()[..], &body].concat() {
        wire.stream.write_all(&[byte]).expect("a byte");
        thread::sleep(Duration::from_micros(200));
    }
    wire.receive::<MetadataRequest>(9, 77);
}

/// A large frame that comes byte by byte is a frame, too, and between the bytes of one that is not whole yet the broker rests.
///
/// Proves: fault I06.
#[test]
fn a_large_frame_may_come_in_pieces() {
    let broker = Broker::ephemeral();
    let mut wire = Wire::open(&broker.bootstrap);
    let id = create(&mut wire, "pieces", 1, &[]);
    let frame = encode_request(&produce_to("pieces", id, 0, of_size(512 << 10)), 9, 7, &Str::default());
    let (first, last) = frame.split_at(frame.len() - (8 << 10));
    for byte in first {
        wire.stream.write_all(&[*byte]).expect("a byte");
    }
    let (began, before) = (Instant::now(), broker.processor_time());
    for byte in last {
        wire.stream.write_all(&[*byte]).expect("a byte");
        thread::sleep(Duration::from_micros(200));
    }
    let (used, elapsed) = (broker.processor_time() - before, began.elapsed());
    assert!(4 * used < elapsed, "{used:?} of {elapsed:?}");
    let answer = wire.receive::<ProduceRequest>(9, 7);
    let answer = &answer.responses[0].partitions[0];
    assert_eq!((answer.error_code, answer.base_offset), (0, 0));
}

/// Other protocols on the plain port are closed quickly, and the log says what they look like; however many come, it gets a few lines a
/// second, which tell how many there were.
///
/// Proves: W21, fault I07.
#[test]
fn other_protocols_are_named_in_the_log() {
    let broker = Broker::ephemeral();
    for (bytes, name) in [
        (&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], "HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
    ] {
        let mut wire = Wire::open(&broker.bootstrap);
        wire.raw(bytes);
        wire.assert_closed();
        broker.wait_for_log(name);
    }
    let mut wire = Wire::open(&broker.bootstrap);
    wire.raw(&[0x9c; 64]);
    wire.assert_closed();
    still_serves(&broker.bootstrap);

    let stranger = || {
        let mut wire = Wire::open(&broker.bootstrap);
        wire.raw(b"SSH-2.0-x");
        wire.assert_closed();
    };
    let began = Instant::now();
    (0..200).for_each(|_| stranger());
    // Five in each second of the clock that was met.
    let most = 5 * (began.elapsed().as_secs() as usize + 2);
    let counted = || broker.log().lines().filter(|line| line.contains("looks like SSH")).count();
    assert!(counted() <= most, "{} lines in {:?}", counted(), began.elapsed());
    let kept_back =
        || broker.log().lines().any(|line| line.contains("suppressed=") && !line.contains("suppressed=0"));
    while !kept_back() {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing tells of those without a line");
        stranger();
        thread::sleep(Duration::from_millis(50));
    }
}

/// What is not HTTP on the admin port is closed at once, and the port goes on serving.
///
/// Proves: fault I07.
#[test]
fn the_admin_port_closes_on_other_protocols() {
    let broker = Broker::ephemeral();
    let kafka = [&14_i32.to_be_bytes()[..], &header(18, 0, 1, Some("me!!"))].concat();
    for bytes in [&kafka[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", &[0x9c; 64]] {
        let mut wire = Wire::open(&broker.admin);
        wire.raw(bytes);
        let mut said = Vec::new();
        // Perhaps the news that this was no good request; then the end, before the read's time-out.
        let read = wire.stream.read_to_end(&mut said);
        assert!(read.is_ok() || !is_time_out(&read), "{bytes:02x?} is not answered: {read:?}");
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&said));
    }
    let mut wire = Wire::open(&broker.admin);
    wire.raw(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut said = String::new();
    wire.stream.read_to_string(&mut said).expect("an answer");
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
}

fn is_time_out(read: &std::io::Result<usize>) -> bool {
    let kind = read.as_ref().err().map(std::io::Error::kind);
    matches!(kind, Some(std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut))
}

/// An idle connection is closed after `connections.max.idle.ms`; one that waits in a long poll is not idle.
///
/// Proves: W20.
#[test]
fn idle_connections_are_closed() {
    let broker = Broker::ephemeral_with(&["--set", "connections.max.idle.ms=500"]);
    let mut polling = Wire::open(&broker.bootstrap);
    let id = create(&mut polling, "idle", 1, &[]);
    let correlation = polling.send(&crate::requests::fetch_from(id, 0, 0, 2500), 16);
    let mut idle = Wire::open(&broker.bootstrap);
    assert_eq!(idle.call(&ApiVersionsRequest::default(), 0).error_code, 0);
    idle.assert_closed();
    polling.receive::<FetchRequest>(16, correlation);
}

/// Records are nullable bytes with a 32-bit length before the flexible version, compact from it on: one produced in either way is read
/// in either way.
///
/// Proves: W16.
#[test]
fn records_travel_in_both_encodings() {
    let mut wire = Wire::open(shared());
    let topic = fresh("encodings");
    let id = create(&mut wire, &topic, 1, &[]);
    for version in 3..=13 {
        let request = crate::requests::produce_to(&topic, id, 0, crate::requests::batch(&["value"]));
        let response = wire.call::<ProduceRequest>(&request, version);
        assert_eq!(response.responses[0].partitions[0].error_code, 0, "v{version}");
    }
    for version in 4..=17 {
        let mut fetch = crate::requests::fetch_from(id, 0, 0, 0);
        fetch.topics[0].name = Str::from(topic.as_str());
        let response = wire.call(&fetch, version);
        assert_eq!(response.responses[0].partitions[0].high_watermark, 11, "v{version}");
        assert!(!response.responses[0].partitions[0].records.is_empty(), "v{version}");
    }
    // ApiVersions' own key is the one whose header differs; all others follow their flexible version.
    assert_eq!(ProduceRequest::FLEXIBLE, 9);
}

/// Requests that came before one for which the connection is closed are answered first: a client that is not told sends them again.
///
/// Proves: W1, W3, fault I02.
#[test]
fn what_came_before_a_bad_frame_is_answered() {
    let mut wire = Wire::open(shared());
    let topic = fresh("before");
    let id = create(&mut wire, &topic, 1, &[]);
    let unknown = header(999, 0, 7, None);
    let malformed = [header(3, 1, 7, None), i32::MAX.to_be_bytes().to_vec()].concat();
    let lying = [header(0, 9, 7, None), vec![0, 0, 0xff]].concat();
    let framed = |body: &[u8]| [&(body.len() as i32).to_be_bytes()[..], body].concat();
    let bad = [framed(&unknown), framed(&malformed), framed(&lying), i32::MAX.to_be_bytes().to_vec()];
    for (round, bad) in (1..).zip(bad) {
        let mut wire = Wire::open(shared());
        let metadata = encode_request(&named(&[&topic]), 1, 1, &Str::default());
        wire.raw(&[&metadata[..], &bad].concat());
        let (_, answer) =
            decode_response::<MetadataRequest>(wire.frame().expect("an answer"), 1).expect("its form");
        assert_eq!(answer.topics.len(), 1);
        wire.assert_closed();

        let mut wire = Wire::open(shared());
        let mut sent = Vec::new();
        for number in 1..=3 {
            sent.extend_from_slice(&encode_request(
                &produce_to(&topic, id, 0, batch(&["x"])),
                9,
                number,
                &Str::default(),
            ));
        }
        sent.extend_from_slice(&bad);
        wire.raw(&sent);
        for number in 1..=3 {
            let frame = wire.frame().expect("an answer");
            let (correlation, answer) = decode_response::<ProduceRequest>(frame, 9).expect("its form");
            let answer = &answer.responses[0].partitions[0];
            let offset = i64::from(3 * (round - 1) + number - 1);
            assert_eq!((correlation, answer.error_code, answer.base_offset), (number, 0, offset));
        }
        wire.assert_closed();
    }
    still_serves(shared());
}
