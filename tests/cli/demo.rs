//! `demo`: what its card promises is there, and nothing is left of it.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{Running, eventually, rows, run_with};

/// A demo on a free port whose temporary directories are made in `folder`, the first line of its card, and its address.
pub(crate) fn start(folder: &Path) -> (Running, String, String) {
    let child = Command::new(env!("CARGO_BIN_EXE_alluvium"))
        .args(["demo", "--port", "0"])
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starting the demo");
    let mut demo = Running::of(child);
    let first = demo.line();
    let bootstrap =
        first.split_whitespace().find(|word| word.starts_with("127.0.0.1:")).expect("its address");
    let bootstrap = bootstrap.trim_end_matches([',', '.']).to_owned();
    (demo, first, bootstrap)
}

/// Waits until the group at the tail is complete: each of its two members has half of the partitions.
pub(crate) fn settles(bootstrap: &str) {
    eventually("both members of dashboard have their half", || {
        let rows = ask(bootstrap, "group describe dashboard");
        let of = |client: &str| rows.iter().filter(|row| row["client_id"] == client).count();
        rows.len() == 6 && of("dashboard-1") == 3 && of("dashboard-2") == 3
    });
}

/// Rows of a command against the demo; none as long as it does not work.
fn ask(bootstrap: &str, line: &str) -> Vec<Value> {
    let ran = run_with(bootstrap, &format!("{line} -O json"), "");
    if ran.code == 0 { rows(&ran) } else { Vec::new() }
}

/// Events acknowledged so far, in all partitions.
fn events(bootstrap: &str) -> i64 {
    ask(bootstrap, "topic offsets orders").iter().filter_map(|row| row["log_end"].as_i64()).sum()
}

/// `demo` prints its card with lines to copy and a live line, runs the traffic that the card names, ends with 130 when it is
/// interrupted, and leaves nothing behind.
#[test]
fn demo_runs_and_cleans_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut demo, _, bootstrap) = start(folder.path());
    let read = run_with(&bootstrap, "consume orders -o start -n 20 --jsonl", "");
    assert_eq!(read.stdout.lines().count(), 20, "{read:?}");
    assert_eq!(ask(&bootstrap, "topic describe orders").len(), 6, "six partitions");

    // 200 events a second: what was behind the time is made up for, so that a busy machine only blurs the ends.
    let (before, began) = (events(&bootstrap), Instant::now());
    eventually("five seconds of events", || events(&bootstrap) >= before + 1000);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(2500), "1000 events within {took:?}: far more than 200 a second");

    settles(&bootstrap);
    eventually("replay has been through", || {
        let rows = ask(&bootstrap, "group describe replay");
        rows.len() == 6 && rows.iter().all(|row| row["client_id"] == "replay-1" && row["committed"].is_i64())
    });

    let mut card = Vec::new();
    while !card.last().is_some_and(|line: &String| line.contains("acknowledged,")) {
        card.push(demo.line());
    }
    for line in ["alluvium consume orders", "alluvium group lag dashboard", "kcat", "python3", "Ctrl-C"] {
        assert!(card.iter().any(|printed| printed.contains(line)), "{line}: {card:?}");
    }
    let live = card.last().expect("the live line");
    for part in ["/s", "dashboard", "lag", "replay", "times through"] {
        assert!(live.contains(part), "{part}: {live}");
    }
    demo.interrupt();
    let ran = demo.end();
    assert_eq!(ran.code, 130, "{ran:?}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("the folder").collect();
    assert!(left.is_empty(), "{left:?}");
}
