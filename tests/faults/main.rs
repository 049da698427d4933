//! What may go wrong with the disk under a real process: it fills up, files are damaged or left over, another process has it.
//! Each test says what the broker must do then.

#[path = "../support/mod.rs"]
mod support;

mod damage;
mod full_disk;
mod process;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use support::{
    broker::Broker,
    peer::{self, Connection},
};

/// A connection, once the broker takes one.
fn connect(broker: &Broker) -> Connection {
    Connection::open(&broker.bootstrap).expect("a ready broker takes connections")
}

/// Values that name their topic and number.
fn values(topic: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("{topic} {number} {}", "x".repeat(number % 200))).collect()
}

/// Creates a topic of one partition and produces `count` values into it, so many in a batch.
fn fill(broker: &Broker, topic: &str, count: usize, per_batch: usize) {
    let mut connection = connect(broker);
    assert_eq!(peer::create_topic(&mut connection, topic, 1).expect("an answer"), 0);
    for start in (0..count).step_by(per_batch) {
        let batch = peer::batch(&values(topic, start..(start + per_batch).min(count)));
        assert_eq!(peer::produce(&mut connection, topic, 0, batch).expect("an answer"), (0, start as i64));
    }
}

/// All values of partition 0.
fn read(broker: &Broker, topic: &str) -> Vec<String> {
    peer::read_all(&mut connect(broker), topic, 0)
}

/// Files of a partition with this extension, in order.
fn files(data: &Path, partition: &str, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(data.join(partition))
        .expect("the partition's folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

/// Waits until `holds`; fails after a time that no working broker needs.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Stops a broker as an operator does, and checks that it left with 0.
fn stop(mut broker: Broker) {
    broker.terminate();
    assert!(broker.wait().success(), "{}", broker.log());
}
