//! kcat, which is librdkafka on the command line.

use std::process::Command;

use crate::{
    support::toolchain::{self, run_well},
    target::{Target, fresh},
};

/// kcat with the broker's address, or `None` where it is absent.
fn kcat(target: &Target, arguments: &[&str]) -> Option<Command> {
    let mut command = Command::new(toolchain::kcat()?);
    command.args(["-b", &target.bootstrap]).args(arguments);
    Some(command)
}

fn lines(count: usize) -> String {
    (0..count)
        .map(|number| format!("key{}|value {number} {}\n", number % 7, "x".repeat(number % 50)))
        .collect()
}

/// `-P -z` with each codec, read back by `-C`: keys, values and order are what was sent.
///
/// Proves: P11, P19.
#[test]
fn produces_and_consumes_with_every_codec() {
    let target = Target::start();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = fresh(codec);
        let sent = lines(1000);
        let Some(mut produce) = kcat(&target, &["-P", "-t", &topic, "-z", codec, "-K", "|"]) else { return };
        run_well(&mut produce, &sent);
        let Some(mut consume) =
            kcat(&target, &["-C", "-t", &topic, "-o", "beginning", "-e", "-q", "-K", "|"])
        else {
            return;
        };
        assert_eq!(run_well(&mut consume, "").stdout, sent, "codec {codec}");
    }
}

/// Headers with a null value, an empty one and a key twice come back in order.
///
/// Proves: P19.
#[test]
fn headers_survive() {
    let target = Target::start();
    let topic = fresh("headers");
    let produce = ["-P", "-t", &topic, "-H", "a=1", "-H", "a=2", "-H", "empty=", "-H", "null"];
    let Some(mut produce) = kcat(&target, &produce) else { return };
    run_well(&mut produce, "value\n");
    let Some(mut consume) = kcat(&target, &["-C", "-t", &topic, "-e", "-q", "-f", "%h %s\\n"]) else {
        return;
    };
    assert_eq!(run_well(&mut consume, "").stdout, "a=1,a=2,empty=,null=NULL value\n");
}

/// `-L` names the broker and the topic's partition.
///
/// Proves: M1.
#[test]
fn lists_metadata() {
    let target = Target::start();
    let topic = fresh("list");
    let Some(mut produce) = kcat(&target, &["-P", "-t", &topic]) else { return };
    run_well(&mut produce, "value\n");
    let Some(mut list) = kcat(&target, &["-L"]) else { return };
    let printed = run_well(&mut list, "").stdout;
    assert!(printed.contains(&format!("at {}", target.bootstrap)), "{printed}");
    assert!(printed.contains(&format!("topic \"{topic}\" with 1 partitions")), "{printed}");
    assert!(printed.contains("partition 0, leader 1, replicas: 1, isrs: 1"), "{printed}");
}

/// `-Q` answers start, end and a time.
///
/// Proves: L1, L2.
#[test]
fn queries_offsets() {
    let target = Target::start();
    let topic = fresh("query");
    let Some(mut produce) = kcat(&target, &["-P", "-t", &topic]) else { return };
    run_well(&mut produce, "a\nb\nc\n");
    for (query, expected) in [("-1", "offset 3"), ("-2", "offset 0"), ("1000", "offset 0")] {
        let Some(mut ask) = kcat(&target, &["-Q", "-t", &format!("{topic}:0:{query}")]) else { return };
        let printed = run_well(&mut ask, "").stdout;
        assert!(printed.trim().ends_with(expected), "{query}: {printed}");
    }
}

/// `-G` joins a group, reads, commits; the next run of the group goes on there to the end, and one more finds nothing left.
///
/// Proves: G1, O6.
#[test]
fn consumes_in_a_group() {
    let target = Target::start();
    let (topic, group) = (fresh("grouped"), fresh("group"));
    let sent = lines(200);
    let Some(mut produce) = kcat(&target, &["-P", "-t", &topic, "-K", "|"]) else { return };
    run_well(&mut produce, &sent);
    let read = |until: &[&str]| {
        let settings = ["-X", "auto.offset.reset=earliest", "-X", "session.timeout.ms=6000"];
        let arguments = [&["-G", &group, "-q", "-K", "|"][..], until, &settings, &[&topic]].concat();
        kcat(&target, &arguments).map(|mut command| run_well(&mut command, "").stdout)
    };
    let Some(first) = read(&["-c", "150"]) else { return };
    let Some(rest) = read(&["-e"]) else { return };
    assert_eq!(first.lines().count(), 150);
    assert_eq!(first + &rest, sent);
    assert_eq!(read(&["-e"]).as_deref(), Some(""));
}
