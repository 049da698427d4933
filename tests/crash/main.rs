//! The real process, killed at any moment: nothing acknowledged is lost, nothing appears twice, order holds. `README.md` says
//! how to run the long forms.

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod history;
mod random;

use std::{
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::Ordering},
    thread,
    time::Duration,
};

use history::History;
use random::{Random, seed};
use support::broker::Broker;

const PARTITIONS: i32 = 4;
const PRODUCERS: u32 = 3;

/// Rounds of a run: few by default, so that everybody runs them; `ALLUVIUM_CRASH_ROUNDS` sets more.
fn rounds() -> u64 {
    std::env::var("ALLUVIUM_CRASH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

/// Runs producers and a reader while the broker is killed and started again `rounds()` times with `arguments`; in every third round
/// it is killed while it recovers, too, up to ten times in a row. Then reads everything and judges the history.
fn crash_run(test: &str, arguments: &[&str]) {
    let seed = seed(test);
    let mut random = Random::new(seed);
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), arguments);
    let bootstrap = broker.bootstrap.clone();
    clients::create_topic(&bootstrap, PARTITIONS);

    let history = Arc::new(Mutex::new(History::default()));
    let stop = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let (bootstrap, stop, history, seed) =
                (bootstrap.clone(), Arc::clone(&stop), Arc::clone(&history), random.next());
            thread::spawn(move || clients::produce(&bootstrap, producer, PARTITIONS, seed, &stop, &history))
        })
        .collect();
    let reader = {
        let (bootstrap, stop, history) = (bootstrap.clone(), Arc::clone(&stop), Arc::clone(&history));
        thread::spawn(move || clients::follow(&bootstrap, 100, PARTITIONS, &stop, &history))
    };

    for round in 0..rounds() {
        thread::sleep(Duration::from_millis(20 + random.below(200)));
        broker.kill();
        if round % 3 == 2 {
            for _ in 0..1 + random.below(10) {
                Broker::killed_while_starting(
                    data.path(),
                    &bootstrap,
                    arguments,
                    Duration::from_micros(random.below(60_000)),
                );
            }
        }
        broker = Broker::again(data.path(), &bootstrap, arguments);
    }
    thread::sleep(Duration::from_millis(200));
    stop.store(true, Ordering::Relaxed);
    for producer in producers {
        producer.join().expect("a producer");
    }
    reader.join().expect("the reader");
    // Once more, so that the final reads see what a crash left and not what memory held.
    broker.kill();
    let broker = Broker::again(data.path(), &bootstrap, arguments);
    let mut history =
        Arc::into_inner(history).expect("all clients have ended").into_inner().expect("the history");
    clients::read_all(&bootstrap, 101, PARTITIONS, &mut history);
    let anomalies = history.check();
    assert!(
        anomalies.is_empty(),
        "seed {seed}: {} anomalies, first {:?}",
        anomalies.len(),
        &anomalies[..anomalies.len().min(5)]
    );
    let acked = history.acked();
    println!("{acked} records acknowledged over {} crashes", rounds() + 1);
    assert!(acked as u64 > 10 * rounds(), "only {acked} records were acknowledged: the run showed nothing");
    drop(broker);
}

/// kill -9 at any moment, also while recovering.
///
/// Proves: I5, I7, R1, fault K02, fault K03, fault K04, fault T01.
#[test]
fn kill_loses_and_repeats_nothing() {
    crash_run("kill_loses_and_repeats_nothing", &[]);
}

/// Power cuts: the broker runs on an overlay that forgets what was not synced when the process is killed, apart from
/// pages that a seed let through early.
///
/// Proves: I5, I7, R1, fault P01, fault P02, fault K04.
#[test]
fn power_cuts_lose_and_repeat_nothing() {
    crash_run("power_cuts_lose_and_repeat_nothing", &["--simulate-power-cuts", "seed=20131101"]);
}
