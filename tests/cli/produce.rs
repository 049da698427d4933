//! `produce`: what is sent where a line is bad, a record too large, or nobody acknowledges; the pace.

use std::time::{Duration, Instant};

use crate::{document, records_in, run, run_with, shared, well};

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
