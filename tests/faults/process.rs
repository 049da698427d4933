//! The process itself: a sync that fails, and signals that come twice.

use std::os::unix::process::ExitStatusExt;

use crate::{
    connect, eventually, read,
    support::{
        broker::Broker,
        peer::{self, Connection},
    },
    values,
};

/// Produces batches of 10 until the broker is gone; how many values were acknowledged.
fn produce_until_gone(broker: &Broker, topic: &str) -> usize {
    let mut connection = connect(broker);
    let mut acknowledged = 0;
    loop {
        let batch = peer::batch(&values(topic, acknowledged..acknowledged + 10));
        match peer::produce(&mut connection, topic, 0, batch) {
            Ok((0, base)) => {
                assert_eq!(base, acknowledged as i64);
                acknowledged += 10;
            }
            // Refused, or the connection broke: nothing more is acknowledged, ever.
            Ok(_) | Err(_) => return acknowledged,
        }
    }
}

/// The first sync that fails ends the process, and nothing is acknowledged after it; the next start has all that was acknowledged. The one
/// batch that was on its way then may have reached the disk all the same: it is there whole, or not at all.
///
/// Proves: fault D01.
#[test]
fn a_failed_sync_aborts_the_process() {
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &["--simulate-power-cuts", "seed=7,fail-sync=60"]);
    let code = peer::create_topic(&mut connect(&broker), "synced", 1).expect("an answer");
    assert_eq!(code, 0);
    let acknowledged = produce_until_gone(&broker, "synced");
    while let Ok(mut connection) = Connection::open(&broker.bootstrap) {
        let batch = peer::batch(&values("synced", acknowledged..acknowledged + 10));
        let answer = peer::produce(&mut connection, "synced", 0, batch);
        assert!(!matches!(answer, Ok((0, _))), "acknowledged after a failed sync: {answer:?}");
    }
    let status = broker.wait();
    assert_eq!(status.signal(), Some(6), "it aborts: {status}\n{}", broker.log());
    assert!(broker.log().to_lowercase().contains("sync"), "{}", broker.log());
    assert!(acknowledged > 0, "the sync failed before anything was acknowledged: the test shows nothing");
    let broker = Broker::on(data.path(), &[]);
    let found = read(&broker, "synced");
    assert!(
        [acknowledged, acknowledged + 10].contains(&found.len()),
        "{acknowledged} acknowledged, {} found",
        found.len()
    );
    assert_eq!(found, values("synced", 0..found.len()));
    let mut connection = connect(&broker);
    let batch = peer::batch(&values("synced", found.len()..found.len() + 1));
    assert_eq!(
        peer::produce(&mut connection, "synced", 0, batch).expect("an answer"),
        (0, found.len() as i64)
    );
}

/// What is not committed within the request's time-out is answered with 7, once; it is committed all the same when the disk goes on.
///
/// Proves: P13.
#[test]
fn a_sync_that_takes_too_long_is_a_timeout() {
    let data = tempfile::tempdir().expect("a data directory");
    let broker = Broker::on(data.path(), &["--simulate-power-cuts", "slow-sync=60"]);
    let mut connection = connect(&broker);
    assert_eq!(peer::create_topic(&mut connection, "slow", 1).expect("an answer"), 0);
    let mut sent = 0;
    let mut timeouts = Vec::new();
    while timeouts.is_empty() || sent < 1000 {
        assert!(sent < 10_000, "no sync was slow");
        let batch = peer::batch(&values("slow", sent..sent + 10));
        // Behind the one that waited in vain the next wait for the same sync: they have the time.
        let timeout_ms = if timeouts.is_empty() { 200 } else { 30_000 };
        match peer::produce_within(&mut connection, "slow", 0, batch, timeout_ms).expect("an answer") {
            (0, base) => assert_eq!(base, sent as i64),
            answer => timeouts.push(answer),
        }
        sent += 10;
    }
    assert_eq!(timeouts, [(7, -1)]);
    assert_eq!(read(&broker, "slow"), values("slow", 0..sent));
}

/// A second SIGTERM ends the process at once, though a request is still held, and safely: what was acknowledged is there.
///
/// Proves: fault O03.
#[test]
fn a_second_sigterm_ends_at_once() {
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &[]);
    peer::create_topic(&mut connect(&broker), "loaded", 1).expect("an answer");
    peer::create_topic(&mut connect(&broker), "quiet", 1).expect("an answer");
    // A fetch that waits for records: the first signal gives it the time to be answered.
    let mut held = connect(&broker);
    held.send(&peer::fetch_request("quiet", 0, 0, 20_000), 11).expect("sending");
    let acknowledged = std::thread::scope(|scope| {
        let producing = scope.spawn(|| produce_until_gone(&broker, "loaded"));
        eventually("something is acknowledged", || !read(&broker, "loaded").is_empty());
        broker.terminate();
        broker.wait_for_log("stopping: finishing requests");
        broker.terminate();
        producing.join().expect("the producer")
    });
    broker.wait_for_log("second signal: ending at once");
    let status = broker.wait();
    assert!(status.success(), "{status}");
    // The last line of a stop in good order, which one that ends at once does not come to.
    assert!(!broker.log().contains("stopped"), "{}", broker.log());
    let broker = Broker::on(data.path(), &[]);
    let found = read(&broker, "loaded");
    assert!(found.len() >= acknowledged);
    assert_eq!(found[..acknowledged], values("loaded", 0..acknowledged));
}
