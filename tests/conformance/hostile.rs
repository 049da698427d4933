//! Clients that mean no good (faults I and K): what they send costs them their connection, and nobody else anything.

use std::{
    io::{ErrorKind, Write},
    time::Duration,
};

use alluvium::protocol::{
    encode_request,
    messages::{api_versions::ApiVersionsRequest, fetch::FetchRequest},
};

use crate::{
    batches::of_size,
    requests::{batch, create, end_of, fetch_from, fresh, produce},
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
    let before = broker.resident_bytes();
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
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "{} MiB for a client that reads nothing", grown / MIB);
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
    let before = broker.resident_bytes();
    let mut greedy: Vec<Wire> = (0..8).map(|_| Wire::open(&broker.bootstrap)).collect();
    for wire in &mut greedy {
        wire.raw(&(100_i32 << 20).to_be_bytes());
        wire.raw(&[0; 1_000]);
    }
    for _ in 0..20 {
        unharmed(&broker);
    }
    let grown = broker.resident_bytes().saturating_sub(before);
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
    let before = broker.resident_bytes();
    for length in 0..frame.len() {
        let mut cut = Wire::open(&broker.bootstrap);
        cut.raw(&frame[..length]);
        cut.finish();
        cut.assert_closed();
    }
    assert_eq!(end_of(&mut wire, &topic, 0), 0, "no part of a request is a request");
    assert_eq!(open_connections(&broker), 1);
    let grown = broker.resident_bytes().saturating_sub(before);
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
    assert_eq!(open_connections(&broker), 1);
    unharmed(&broker);
}

/// What the admin port says of open connections, once those that were closed are counted out.
fn open_connections(broker: &Broker) -> u64 {
    const NAME: &str = "kafka_server_socket_server_metrics_connection_count ";
    for _ in 0..1_000 {
        let text = http_get(&broker.admin, "/metrics");
        let line = text.lines().find(|line| line.starts_with(NAME)).expect("the metric");
        let open: u64 = line[NAME.len()..].trim().parse().expect("a number");
        if open <= 1 {
            return open;
        }
    }
    panic!("connections stay open");
}
