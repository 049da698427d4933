//! `dump segment --records`: what a record is made of, whatever bytes they are.

use serde_json::json;

use crate::{Broker, rows, run, run_with};

/// Keys, values and headers stand as `consume` prints them: strings where they are UTF-8, else base64; null is null.
#[test]
fn records_are_dumped_as_they_are_consumed() {
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &[]);
    assert_eq!(run_with(&broker.bootstrap, "topic create bytes --partitions 1", "").code, 0);
    let input = concat!(
        "{\"key\":\"k\",\"value\":\"v\",\"headers\":[[\"h\",\"1\"],[\"h\",null],[\"b\",{\"base64\":\"/w==\"}]],",
        "\"timestamp\":1700000000000}\n",
        "{\"key\":{\"base64\":\"gA==\"},\"value\":{\"base64\":\"AP8=\"},\"timestamp\":1700000000001}\n",
        "{\"key\":null,\"value\":\"\",\"timestamp\":1700000000002}\n",
        "{\"key\":\"gone\",\"value\":null,\"timestamp\":1700000000003}\n",
    );
    assert_eq!(run_with(&broker.bootstrap, "produce bytes --jsonl -z zstd", input).code, 0);
    let mut consumed = rows(&run_with(&broker.bootstrap, "consume bytes -e -O json", ""));
    broker.terminate();
    assert!(broker.wait().success());
    let file = data.path().join("bytes-0/00000000000000000000.log").display().to_string();
    let dumped = rows(&run(&format!("dump segment --records {file} -O json")));
    assert_eq!(
        dumped,
        [
            json!({
                "file": file, "offset": 0, "timestamp": 1_700_000_000_000_i64, "key": "k", "value": "v",
                "headers": [["h", "1"], ["h", null], ["b", {"base64": "/w=="}]],
            }),
            json!({
                "file": file, "offset": 1, "timestamp": 1_700_000_000_001_i64, "key": {"base64": "gA=="},
                "value": {"base64": "AP8="}, "headers": [],
            }),
            json!({
                "file": file, "offset": 2, "timestamp": 1_700_000_000_002_i64, "key": null, "value": "",
                "headers": [],
            }),
            json!({
                "file": file, "offset": 3, "timestamp": 1_700_000_000_003_i64, "key": "gone", "value": null,
                "headers": [],
            }),
        ]
    );
    for row in &mut consumed {
        let row = row.as_object_mut().expect("a row");
        row.retain(|field, _| field != "topic" && field != "partition");
        row.insert("file".to_owned(), file.clone().into());
    }
    assert_eq!(dumped, consumed, "as consume has them");
    let lines = run(&format!("dump segment --records {file} -O jsonl")).stdout;
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines, dumped);
    let wide = run(&format!("dump segment --records {file} -O wide")).stdout;
    assert!(wide.lines().next().is_some_and(|header| header.ends_with("HEADERS")), "{wide}");
    assert!(!run(&format!("dump segment --records {file}")).stdout.contains("HEADERS"));
}
