//! `produce`: what is sent where a line is bad, a record too large, or nobody acknowledges; the pace.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    Running, document, eventually, records_in, run, run_with, shared, support::broker::Broker, well,
};

/// A bad line of JSONL names its number; what stands before it is sent, nothing after it.
#[test]
fn jsonl_stops_at_the_first_bad_line() {
    well("topic create lines");
    let input = "{\"value\":\"one\"}\n{\"value\":\"two\"}\n{\"valu\":\"three\"}\n{\"value\":\"four\"}\n";
    let ran = run_with(shared(), "produce lines --jsonl", input);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("line 3") && ran.stderr.contains("valu"), "{}", ran.stderr);
    let read = well("consume lines -o start -e -f %v\\n");
    assert_eq!(read.stdout, "one\ntwo\n");
}

/// A partition that is not there is a bad line like any other: it is named, what stands before it is sent, nothing after it.
#[test]
fn a_wrong_partition_stops_like_a_bad_line() {
    well("topic create wrong --partitions 1");
    let input = concat!(
        "{\"value\":\"one\"}\n{\"value\":\"two\"}\n\n",
        "{\"value\":\"three\",\"partition\":9}\n{\"value\":\"four\"}\n"
    );
    let ran = run_with(shared(), "produce wrong --jsonl -O json", input);
    assert_eq!(ran.code, 3, "{ran:?}");
    let document = document(&ran);
    assert_eq!(document["data"][0]["records"], 2, "{document}");
    let error = &document["errors"][0];
    assert_eq!(error["name"], "UNKNOWN_TOPIC_OR_PARTITION", "{document}");
    assert!(error["message"].as_str().expect("a message").contains("line 4"), "{document}");
    assert_eq!(well("consume wrong -o start -e -f %v\\n").stdout, "one\ntwo\n");
}

/// A record larger than all that may be on its way is refused by the broker, and ends the command.
#[test]
fn a_record_beyond_the_buffer_is_refused() {
    well("topic create huge --partitions 1");
    let ran = run_with(shared(), "produce huge", &"x".repeat((32 << 20) + 1));
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("MESSAGE_TOO_LARGE"), "{}", ran.stderr);
    assert_eq!(records_in("huge"), 0);
}

/// With `--acks 0` each record is written once, the last ones before the command ends.
#[test]
fn without_acknowledgements_each_record_is_written_once() {
    const RECORDS: i64 = 50_000;
    well("topic create fire-and-forget --partitions 3");
    let lines: String = (0..RECORDS).map(|n| format!("value {n} {}\n", "x".repeat(100))).collect();
    let ran = run_with(shared(), "produce fire-and-forget --acks 0 -O json", &lines);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(document(&ran)["data"][0]["records"], RECORDS);
    let deadline = Instant::now() + Duration::from_secs(60);
    while records_in("fire-and-forget") < RECORDS {
        assert!(Instant::now() < deadline, "{} of {RECORDS} arrived", records_in("fire-and-forget"));
    }
    assert_eq!(records_in("fire-and-forget"), RECORDS, "some came twice");
}

/// `--rate` holds for values of the command line, too.
#[test]
fn values_keep_the_pace() {
    well("topic create paced --partitions 1");
    let started = Instant::now();
    let ran = run("produce paced one two three --rate 2 -O json");
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(document(&ran)["data"].as_array().expect("rows").len(), 3);
}

/// While no broker answers it is told so; an interrupt does not wait for it for long, and a second one not at all.
#[test]
fn a_silent_broker_is_told_of_and_can_be_left() {
    let broker = Broker::ephemeral();
    let ran = run_with(&broker.bootstrap, "topic create silent --partitions 1", "");
    assert_eq!(ran.code, 0, "{ran:?}");
    for interrupts in [1, 2] {
        let mut produce = Running::start(&broker.bootstrap, "produce silent");
        produce.stdin.as_mut().expect("a pipe").write_all(b"one\n").expect("writing");
        eventually("the first record", || {
            let ran = run_with(&broker.bootstrap, "topic offsets silent -O json", "");
            document(&ran)["data"][0]["log_end"] == interrupts
        });
        broker.signal(Signal::STOP);
        produce.stdin.as_mut().expect("a pipe").write_all(b"two\n").expect("writing");
        std::thread::sleep(Duration::from_secs(7));
        for _ in 0..interrupts {
            produce.interrupt();
            std::thread::sleep(Duration::from_millis(200));
        }
        let ran = produce.end();
        assert_eq!(ran.code, 130, "{ran:?}");
        assert!(ran.stderr.contains("no broker has taken any record"), "{ran:?}");
        assert_eq!(ran.stderr.contains("1 of 2 records may not be written"), interrupts == 1, "{ran:?}");
        broker.signal(Signal::CONT);
        if interrupts == 1 {
            // what was on its way may have arrived
            let ran = run_with(&broker.bootstrap, "topic delete silent --yes", "");
            assert_eq!(ran.code, 0, "{ran:?}");
            let ran = run_with(&broker.bootstrap, "topic create silent --partitions 1", "");
            assert_eq!(ran.code, 0, "{ran:?}");
            let ran = run_with(&broker.bootstrap, "produce silent", "before\n");
            assert_eq!(ran.code, 0, "{ran:?}");
        }
    }
}

/// A topic that is deleted meanwhile is the reason given, at once.
#[test]
fn a_deleted_topic_is_said_to_be_gone() {
    well("topic create passing --partitions 1");
    let mut produce = Running::start(shared(), "produce passing");
    produce.stdin.as_mut().expect("a pipe").write_all(b"one\n").expect("writing");
    eventually("the first record", || records_in("passing") == 1);
    well("topic delete passing --yes");
    produce.stdin.take().expect("a pipe").write_all(b"two\n").expect("writing");
    let ran = produce.end();
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("UNKNOWN_TOPIC_OR_PARTITION"), "{ran:?}");
    assert!(ran.stderr.contains("1 of 2 records were not written"), "{ran:?}");
}

/// Around a batch that is refused every other record is written once, and the count is what is in the log: also where
/// batches behind the first one of a producer were on their way already, and without sequences.
#[test]
fn a_refused_record_doubles_nothing() {
    for acks in ["all", "1"] {
        let topic = format!("around-{acks}");
        well(&format!("topic create {topic} --partitions 1"));
        let line = |n| format!("value {n} {}\n", "x".repeat(100));
        let large = "x".repeat(2_000_000) + "\n";
        let input: String =
            [&large].into_iter().cloned().chain((0..20_000).map(line)).chain([large.clone()]).collect();
        let ran = run_with(shared(), &format!("produce {topic} --acks {acks} -O json"), &input);
        assert_eq!(ran.code, 1, "{ran:?}");
        let document = document(&ran);
        assert_eq!(document["data"][0]["records"], 20_000, "{document}");
        let error = &document["errors"][0];
        assert_eq!(error["name"], "MESSAGE_TOO_LARGE", "{document}");
        assert!(error["message"].as_str().expect("a message").starts_with("2 of 20002"), "{document}");
        assert_eq!(records_in(&topic), 20_000, "acks {acks}");
    }
}

/// Batches that are too large for the topic are cut until they fit.
#[test]
fn large_batches_are_cut() {
    well("topic create narrow --partitions 1 -c max.message.bytes=10000");
    let lines: String = (0..20_000).map(|n| format!("value {n} {}\n", "x".repeat(100))).collect();
    let ran = run_with(shared(), "produce narrow -O json", &lines);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(document(&ran)["data"][0]["records"], 20_000);
    let read = well("consume narrow -o start -e -f %v\\n");
    assert_eq!(read.stdout, lines, "in order, each once");
}
