//! What the commands that list and describe print in each mode, to the letter; `outputs.txt` has the text.
//!
//! Ids and ports are replaced by as many letters, so that columns keep their width.

use crate::{Broker, Running, eventually, rows, run_with};

/// Replaces `found` by as many `letter`s.
fn hide(text: &mut String, found: &str, letter: &str) {
    *text = text.replace(found, &letter.repeat(found.len()));
}

/// Topics, groups, the cluster and its APIs in every mode: exactly the columns, alignment, blanks and fields expected.
#[test]
fn what_lists_is_printed_to_the_letter() {
    let broker = Broker::ephemeral();
    let well = |line: &str, input: &str| {
        let ran = run_with(&broker.bootstrap, line, input);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{line}: {ran:?}");
        ran
    };
    well("topic create orders --partitions 2", "");
    well("topic create audit-of-orders --partitions 1", "");
    let input: String =
        (0..12).map(|n| format!("{{\"value\":\"{n}\",\"partition\":{}}}\n", i32::from(n == 11))).collect();
    well("produce orders --jsonl", &input);
    well("produce audit-of-orders one", "");
    well("group seek accounting --to 9 --topics orders", "");
    let mut member = Running::start(&broker.bootstrap, "consume audit-of-orders -g live --jsonl");
    member.line();
    let live = || rows(&run_with(&broker.bootstrap, "group describe live -O json", ""));
    eventually("the member has committed", || live()[0]["committed"] == 1);

    let mut volatile: Vec<(String, &str)> = rows(&well("topic list -O json", ""))
        .iter()
        .map(|topic| (topic["topic_id"].as_str().expect("an id").to_owned(), "T"))
        .collect();
    volatile.push((live()[0]["member"].as_str().expect("an id").to_owned(), "M"));
    let cluster = rows(&well("cluster info -O json", ""));
    volatile.push((cluster[0]["cluster_id"].as_str().expect("an id").to_owned(), "C"));
    let (_, port) = broker.bootstrap.split_at("127.0.0.1:".len());
    volatile.push((port.to_owned(), "P"));
    let mut transcript = String::new();
    for line in [
        "topic list",
        "topic describe orders audit-of-orders",
        "topic offsets orders audit-of-orders",
        "topic offsets orders -o -3",
        "group list",
        "group describe accounting live",
        "group lag accounting live",
        "cluster info",
        "api versions",
    ] {
        for mode in ["table", "wide", "json", "jsonl", "csv", "name"] {
            let printed = well(&format!("{line} -O {mode}"), "").stdout;
            transcript.push_str(&format!("$ alluvium {line} -O {mode}\n{printed}\n"));
        }
    }
    for (found, letter) in &volatile {
        hide(&mut transcript, found, letter);
    }
    assert_eq!(volatile.len(), 5, "{volatile:?}");
    if transcript != include_str!("outputs.txt") {
        let different =
            transcript.lines().zip(include_str!("outputs.txt").lines()).find(|(is, was)| is != was);
        panic!("printed, and expected: {different:#?}\nall that was printed:\n{transcript}");
    }
}
