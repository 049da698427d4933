//! The grammar of `-o` and `--to`, end to end: which records are read, which offsets shown and committed.
//!
//! ```text
//! grammar-0: offsets 5 to 12, record n at minute n              (0 to 4 are gone)
//! grammar-1: offsets 0 to  8, record n at minute 2n and a half
//! ```

use std::{collections::BTreeMap, sync::OnceLock};

use serde_json::Value;

use crate::{Broker, Ran, Running, eventually, rows, run_with};

/// The time of minute 0: 2023-11-14T22:13:20Z.
const MINUTE_0: i64 = 1_700_000_000_000;

/// A broker with the topic `grammar`, of which retention has taken the first segment of partition 0.
fn broker() -> &'static str {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    &BROKER
        .get_or_init(|| {
            let broker = Broker::ephemeral_until_exit(&["--set", "log.retention.check.interval.ms=50"]);
            // Each record is a batch of its own, and a segment has five of them.
            let settings = "-c segment.bytes=1048576 -c retention.bytes=700000 -c retention.ms=-1";
            let ran = run_with(&broker.bootstrap, &format!("topic create grammar -p 2 {settings}"), "");
            assert_eq!(ran.code, 0, "{ran:?}");
            let record = |partition: i64, seconds: i64| {
                let (value, timestamp) = ("x".repeat(200_000), MINUTE_0 + seconds * 1000);
                format!("{{\"partition\":{partition},\"timestamp\":{timestamp},\"value\":\"{value}\"}}\n")
            };
            let minutes = (0..12).map(|n| record(0, 60 * n));
            let halves = (0..8).map(|n| record(1, 120 * n + 30));
            let input: String = minutes.chain(halves).collect();
            let ran = run_with(&broker.bootstrap, "produce grammar --jsonl", &input);
            assert_eq!(ran.code, 0, "{ran:?}");
            eventually("retention takes a segment", || {
                let ran = run_with(&broker.bootstrap, "topic offsets grammar -O json", "");
                let limits = |row: &Value| (row["log_start"].as_i64(), row["log_end"].as_i64());
                rows(&ran).iter().map(limits).collect::<Vec<_>>() == [(Some(5), Some(12)), (Some(0), Some(8))]
            });
            broker
        })
        .bootstrap
}

/// Runs a command that must work.
fn well(line: &str) -> Ran {
    let ran = run_with(broker(), line, "");
    assert_eq!(ran.code, 0, "{line}: {ran:?}");
    ran
}

/// A field of the rows of both partitions, in their order.
fn both(line: &str, field: &str) -> [Option<i64>; 2] {
    let rows = rows(&well(&format!("{line} -O json")));
    assert_eq!(rows.len(), 2, "{line}: {rows:?}");
    for (row, partition) in rows.iter().zip(0..) {
        assert_eq!((&row["topic"], &row["partition"]), (&"grammar".into(), &partition.into()), "{line}");
    }
    [0, 1].map(|partition| rows[partition][field].as_i64())
}

/// The offsets that a read gives of each partition, in the order in which they come.
fn read(line: &str) -> [Vec<i64>; 2] {
    let mut offsets = [Vec::new(), Vec::new()];
    for line in well(&format!("{line} -f %p:%o\\n")).stdout.lines() {
        let (partition, offset) = line.split_once(':').expect("partition:offset");
        offsets[partition.parse::<usize>().expect("a number")].push(offset.parse().expect("a number"));
    }
    offsets
}

/// Places, and where they lie in both partitions.
fn places() -> Vec<(String, [i64; 2])> {
    let minute = |minute: i64| MINUTE_0 + 60_000 * minute;
    let mut places = vec![
        (format!("@{}", minute(7)), [7, 4]),
        (format!("@{}", minute(7) + 1), [8, 4]),
        (format!("@{}", minute(7) / 1000), [7, 4]),
        (format!("@{}", minute(0)), [5, 0]),
        (format!("@{}", minute(60)), [12, 8]),
    ];
    places.extend(
        [
            ("start", [5, 0]),
            ("end", [12, 8]),
            ("6", [6, 6]),
            ("+2", [7, 2]),
            ("+100", [12, 8]),
            ("-3", [9, 5]),
            ("-100", [5, 0]),
            ("@2023-11-14T22:20:20Z", [7, 4]),
            ("@2023-11-14T23:20:20.001+01:00", [8, 4]),
            ("@-1m", [12, 8]),
        ]
        .map(|(place, offsets)| (place.to_owned(), offsets)),
    );
    places
}

/// `topic offsets -o` shows where a place lies in each partition, beside both ends.
#[test]
fn topic_offsets_shows_a_place_in_each_partition() {
    for (place, offsets) in places() {
        let line = format!("topic offsets grammar -o {place}");
        assert_eq!(both(&line, "offset"), offsets.map(Some), "{place}");
        assert_eq!(both(&line, "log_start"), [Some(5), Some(0)], "{place}");
        assert_eq!(both(&line, "log_end"), [Some(12), Some(8)], "{place}");
        assert_eq!(both(&line, "records"), [Some(7), Some(8)], "{place}");
    }
}

/// `consume -o` reads each partition from the place on, each record once and in order.
#[test]
fn consume_begins_at_a_place() {
    for (place, [first, second]) in places() {
        let offsets = [(first..12).collect::<Vec<_>>(), (second..8).collect()];
        assert_eq!(read(&format!("consume grammar -o {place} -e")), offsets, "{place}");
    }
}

/// A range ends by itself, without `-e`: its end is exclusive and is found in each partition like its beginning.
#[test]
fn consume_reads_a_range_and_ends() {
    let minute = |minute: i64| MINUTE_0 + 60_000 * minute;
    let times = [
        (format!("@{}:{}", minute(7), minute(10)), [7..10, 4..5]),
        (format!("@{}:{}", minute(7), minute(10) + 1), [7..11, 4..5]),
        (format!("@{}:3m", minute(7)), [7..10, 4..5]),
        (format!("@{}:end", minute(7)), [7..12, 4..8]),
        (format!("@:{}", minute(7)), [5..7, 0..4]),
    ];
    let others = [
        (":end", [5..12, 0..8]),
        ("start:end", [5..12, 0..8]),
        (":7", [5..7, 0..7]),
        ("6:9", [6..9, 6..8]),
        ("3:5", [5..5, 3..5]),
        ("start:+2", [5..7, 0..2]),
        ("+1:-2", [6..10, 1..6]),
        ("-3:end", [9..12, 5..8]),
        ("-3:-1", [9..11, 5..7]),
        ("@2023-11-14T22:20:20Z:2023-11-14T22:23:20Z", [7..10, 4..5]),
        ("@2023-11-14T22:20:20Z:3m", [7..10, 4..5]),
    ];
    for (range, offsets) in
        times.into_iter().chain(others.map(|(range, offsets)| (range.to_owned(), offsets)))
    {
        let offsets = offsets.map(Iterator::collect::<Vec<i64>>);
        assert_eq!(read(&format!("consume grammar -o {range}")), offsets, "{range}");
    }
}

/// `end` is the end as it was when the command began: what comes later is read, or is not where the range ends there.
#[test]
fn the_end_is_that_of_the_beginning() {
    well("topic create tail --partitions 1");
    well("produce tail old older");
    let mut tail = Running::start(broker(), "consume tail -o end -O csv");
    assert!(tail.line().starts_with("topic,partition,offset,"), "it knows where it begins");
    let mut last = Running::start(broker(), "consume tail -o -1 -f %o:%v\\n");
    assert_eq!(last.line(), "1:older");
    well("produce tail new");
    let line = tail.line();
    assert!(line.starts_with("tail,0,2,") && line.contains(",new"), "{line}");
    assert_eq!(last.line(), "2:new");
    for running in [tail, last] {
        running.interrupt();
        let ran = running.end();
        assert_eq!((ran.code, ran.stdout.as_str()), (130, ""), "{ran:?}");
    }
    assert_eq!(well("consume tail -o end -e -f %o\\n").stdout, "");
}

/// `group seek` commits the offset of each place, says what was and what is, and moves `+N` and `-N` from what is committed.
#[test]
fn group_seek_moves_to_each_place() {
    let mut committed: [Option<i64>; 2] = [None, None];
    let seven = MINUTE_0 + 7 * 60_000;
    for (to, [first, second]) in [
        ("6", [6, 6]),
        ("+1", [7, 7]),
        ("+3", [10, 8]),
        ("-4", [6, 4]),
        (&*format!("@{seven}"), [7, 4]),
        (&format!("@{}", seven + 1), [8, 4]),
        ("2023-11-14T22:20:20Z", [7, 4]),
        ("end", [12, 8]),
        ("-2", [10, 6]),
        ("start", [5, 0]),
        ("-1", [5, 0]),
        ("+2", [7, 2]),
        ("@-1m", [12, 8]),
        ("2", [5, 2]),
        ("100", [12, 8]),
        ("6", [6, 6]),
    ] {
        let line = format!("group seek mover --topics grammar --to {to}");
        let then = [Some(first), Some(second)];
        let replayed = [0, 1].map(|at| committed[at].map(|now| (now - then[at].unwrap_or_default()).max(0)));
        for (field, expected) in [("now", committed), ("then", then), ("replayed", replayed)] {
            assert_eq!(both(&format!("{line} --dry-run"), field), expected, "{to}: {field}");
        }
        if committed[0].is_some() {
            assert_eq!(both("group lag mover", "committed"), committed, "{to}: a dry run");
        }
        assert_eq!(both(&line, "then"), then, "{to}");
        assert_eq!(both("group lag mover", "committed"), then, "{to}");
        assert_eq!(both("group lag mover", "lag"), [Some(12 - first), Some(8 - second)], "{to}");
        committed = then;
    }
}

/// `group seek --to-group` goes where the other group is, in its topics or in those named.
#[test]
fn group_seek_follows_another_group() {
    well("topic create aside --partitions 1");
    well("produce aside a b c");
    well("group seek leader --topics grammar --to end");
    well("group seek leader --topics grammar --to -3");
    well("group seek leader --topics aside --to 2");
    let committed = |group: &str| -> BTreeMap<String, i64> {
        rows(&well(&format!("group lag {group} -O json")))
            .iter()
            .map(|row| {
                let partition = format!("{}-{}", row["topic"].as_str().expect("a name"), row["partition"]);
                (partition, row["committed"].as_i64().expect("an offset"))
            })
            .collect()
    };
    let at = |pairs: &[(&str, i64)]| -> BTreeMap<String, i64> {
        pairs.iter().map(|(partition, offset)| ((*partition).to_owned(), *offset)).collect()
    };
    let everything = at(&[("aside-0", 2), ("grammar-0", 9), ("grammar-1", 5)]);
    assert_eq!(committed("leader"), everything);
    well("group seek follower --to-group leader");
    assert_eq!(committed("follower"), everything);
    well("group seek leader --topics grammar --to start");
    well("group seek follower --to-group leader --topics grammar");
    assert_eq!(committed("follower"), at(&[("aside-0", 2), ("grammar-0", 5), ("grammar-1", 0)]));
    assert_eq!(committed("leader"), committed("follower"));
    for (line, code) in [
        ("group seek follower --to-group nobody", 3),
        ("group seek follower --to-group leader --topics tail-less", 3),
        ("group seek follower --to-group leader --to end", 2),
    ] {
        let ran = run_with(broker(), line, "");
        assert_eq!(ran.code, code, "{line}: {ran:?}");
    }
    assert_eq!(committed("follower"), committed("leader"));
}
