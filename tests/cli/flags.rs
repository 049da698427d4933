//! Options that change what a command does: dry runs, what may exist already, settings, codecs, tombstones, hexadecimal.

use serde_json::{Value, json};

use crate::{Broker, document, records_in, rows, run, run_with, shared, topic, well};

/// Rows without the field that differs between a dry run and the deed.
fn without_result(mut rows: Vec<Value>) -> Vec<Value> {
    for row in &mut rows {
        row.as_object_mut().expect("a row").remove("result").expect("a result");
    }
    rows
}

fn results(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["result"].as_str().expect("a result")).collect()
}

/// `topic create --dry-run` says what would be there, finds what would fail, and creates nothing.
#[test]
fn topic_create_dry_run_creates_nothing() {
    well("topic create dry-there --partitions 2");
    let planned = rows(&well("topic create dry-made --partitions 3 --dry-run -O json"));
    assert_eq!(results(&planned), ["would be created"]);
    assert_eq!(
        (&planned[0]["name"], &planned[0]["partitions"], &planned[0]["replicas"]),
        (&"dry-made".into(), &3.into(), &1.into())
    );
    for (line, code, error) in [
        ("topic create dry-there --dry-run -O json", 1, 36),
        ("topic create dry-made -c retention.ms=soon --dry-run -O json", 1, 40),
        ("topic create dry-made --replication-factor 2 --dry-run -O json", 1, 38),
    ] {
        let ran = run(line);
        assert_eq!(ran.code, code, "{line}: {ran:?}");
        assert_eq!(document(&ran)["errors"][0]["code"], error, "{line}");
    }
    assert_eq!(run("topic describe dry-made").code, 3);
    let created = rows(&well("topic create dry-made --partitions 3 -O json"));
    assert_eq!(results(&created), ["created"]);
    assert_eq!(created[0]["partitions"], 3);
}

/// `topic create --if-not-exists` takes a topic as it is, and creates one that is not there.
#[test]
fn topic_create_takes_what_exists() {
    well("topic create takes --partitions 2");
    well("produce takes a b");
    let taken = rows(&well("topic create takes takes-too --partitions 5 --if-not-exists -O json"));
    let mut by_name: Vec<_> =
        taken.iter().map(|row| (row["name"].as_str(), row["result"].as_str())).collect();
    by_name.sort();
    assert_eq!(by_name, [(Some("takes"), Some("exists")), (Some("takes-too"), Some("created"))]);
    assert_eq!(rows(&well("topic describe takes -O json")).len(), 2, "as it was");
    assert_eq!(rows(&well("topic describe takes-too -O json")).len(), 5);
    assert_eq!(records_in("takes"), 2);
}

/// `topic delete --dry-run` shows the rows of the deed without being asked, and deletes nothing.
#[test]
fn topic_delete_dry_run_deletes_nothing() {
    topic("dry-kept", 5);
    let planned = rows(&well("topic delete dry-kept --dry-run -O json"));
    assert_eq!(
        planned,
        [json!({"name": "dry-kept", "partitions": 2, "records": 5, "result": "would be deleted"})]
    );
    assert_eq!(run("topic delete dry-kept no-such-topic --dry-run").code, 3, "one of two is not there");
    assert_eq!(records_in("dry-kept"), 5);
    let deleted = rows(&well("topic delete dry-kept --yes -O json"));
    assert_eq!(results(&deleted), ["deleted"]);
    assert_eq!(without_result(deleted), without_result(planned));
    assert_eq!(run("topic describe dry-kept").code, 3);
}

/// `group delete --dry-run` shows the rows of the deed without being asked, and deletes nothing.
#[test]
fn group_delete_dry_run_deletes_nothing() {
    topic("dry-read", 4);
    well("consume dry-read -g dry-readers -e -f %v\\n");
    let before = rows(&well("group lag dry-readers -O json"));
    let planned = rows(&well("group delete dry-readers --dry-run -O json"));
    assert_eq!(planned, [json!({"group": "dry-readers", "partitions": 2, "result": "would be deleted"})]);
    assert_eq!(rows(&well("group lag dry-readers -O json")), before);
    let deleted = rows(&well("group delete dry-readers --yes -O json"));
    assert_eq!(results(&deleted), ["deleted"]);
    assert_eq!(without_result(deleted), without_result(planned));
    assert_eq!(run("group describe dry-readers").code, 3);
}

/// `topic describe --configs` shows each setting of a topic with its value and where that comes from.
#[test]
fn topic_describe_shows_settings() {
    well("topic create set -c retention.ms=12345 -c cleanup.policy=compact");
    let shown = rows(&well("topic describe set --configs -O json"));
    let setting = |name: &str| {
        let mut found = shown.iter().filter(|row| row["name"] == name);
        let row = found.next().unwrap_or_else(|| panic!("{name}: {shown:?}"));
        assert!(found.next().is_none(), "{name} stands there once");
        assert_eq!(row["topic"], "set");
        (row["value"].as_str().expect("a value").to_owned(), row["source"].as_str().expect("a source"))
    };
    assert_eq!(setting("retention.ms"), ("12345".to_owned(), "topic"));
    assert_eq!(setting("cleanup.policy"), ("compact".to_owned(), "topic"));
    assert_eq!(setting("segment.bytes"), ("1073741824".to_owned(), "default"));
    let names: Vec<_> = shown.iter().map(|row| row["name"].as_str()).collect();
    assert!(names.is_sorted(), "{names:?}");
    assert_eq!(run("topic describe no-such-topic --configs").code, 3);
}

/// `produce -z` writes batches of that codec, which are read like any other.
#[test]
fn produce_compresses_with_each_codec() {
    const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &[]);
    let lines: String = (0..200).map(|n| format!("value {n} {}\n", "x".repeat(50))).collect();
    for codec in CODECS {
        let ran = run_with(&broker.bootstrap, &format!("topic create {codec} --partitions 1"), "");
        assert_eq!(ran.code, 0, "{ran:?}");
        let ran = run_with(&broker.bootstrap, &format!("produce {codec} -z {codec}"), &lines);
        assert_eq!(ran.code, 0, "{codec}: {ran:?}");
        let read = run_with(&broker.bootstrap, &format!("consume {codec} -e -f %v\\n"), "");
        assert_eq!(read.stdout, lines, "{codec}");
    }
    broker.terminate();
    assert!(broker.wait().success());
    for codec in CODECS {
        let file = data.path().join(format!("{codec}-0/00000000000000000000.log"));
        let batches = rows(&run(&format!("dump segment {} -O json", file.display())));
        assert!(!batches.is_empty(), "{codec}");
        assert!(batches.iter().all(|batch| batch["codec"] == codec), "{codec}: {batches:?}");
        let size = std::fs::metadata(&file).expect("the segment").len();
        assert_eq!(size < lines.len() as u64 / 2, codec != "none", "{codec}: {size} bytes");
        let records = run(&format!("dump segment --records {} -O jsonl", file.display()));
        assert_eq!((records.code, records.stdout.lines().count()), (0, 200), "{codec}");
    }
}

/// `produce --tombstone` writes a null value for the key, which it needs.
#[test]
fn produce_writes_a_tombstone() {
    well("topic create buried --partitions 1");
    well("produce buried alive -k one");
    let sent = rows(&well("produce buried --tombstone -k one -H why=gone -O json"));
    assert_eq!((sent.len(), &sent[0]["offset"]), (1, &1.into()), "{sent:?}");
    let read = rows(&well("consume buried -e -O json"));
    assert_eq!((&read[0]["key"], &read[0]["value"]), (&"one".into(), &"alive".into()));
    assert_eq!((&read[1]["key"], &read[1]["value"]), (&"one".into(), &Value::Null));
    assert_eq!(read[1]["headers"], json!([["why", "gone"]]));
    for line in ["produce buried --tombstone", "produce buried --tombstone -k one value"] {
        assert_eq!(run(line).code, 2, "{line}");
    }
    assert_eq!(records_in("buried"), 2);
}

/// `consume --hex` prints keys and values in hexadecimal; null stays null.
#[test]
fn consume_prints_hexadecimal() {
    well("topic create hexed --partitions 1");
    let input = concat!(
        "{\"key\":\"Kk\",\"value\":{\"base64\":\"AH//\"},\"timestamp\":1700000000000}\n",
        "{\"key\":null,\"value\":\"\",\"timestamp\":1700000000000}\n",
        "{\"key\":\"k\",\"value\":null,\"timestamp\":1700000000000}\n",
    );
    assert_eq!(run_with(shared(), "produce hexed --jsonl", input).code, 0);
    let read = rows(&well("consume hexed --hex -e -O json"));
    let pairs: Vec<_> = read.iter().map(|row| (row["key"].as_str(), row["value"].as_str())).collect();
    assert_eq!(pairs, [(Some("4b6b"), Some("007fff")), (None, Some("")), (Some("6b"), None)]);
    let table = well("consume hexed --hex -n 1").stdout;
    let cells: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(cells[1], ["hexed", "0", "0", "2023-11-14T22:13:20.000Z", "4b6b", "007fff"]);
    for other in ["--jsonl", "-f %v"] {
        assert_eq!(run(&format!("consume hexed --hex {other}")).code, 2, "{other}");
    }
}
