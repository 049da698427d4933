//! Kafka's own Java clients and tools: the programs are in `java/`, the tools in the jars.

use std::process::Command;

use crate::{
    support::broker::Broker,
    support::toolchain::{self, Printed, run, run_well},
    target::{Target, fresh},
};

fn java(arguments: &[&str]) -> Option<Command> {
    let jars = toolchain::kafka_jars()?;
    let mut command = Command::new("java");
    command.args([
        "-Xmx256m",
        "-XX:TieredStopAtLevel=1",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp",
    ]);
    command.arg(format!("{}/*", jars.display())).args(arguments);
    Some(command)
}

/// A program of ours, compiled as it is started.
fn program(name: &str, arguments: &[&str]) -> Option<Command> {
    let source = toolchain::sources().join("java").join(name);
    java(&[&[source.to_str()?], arguments].concat())
}

/// One of Kafka's tools.
fn tool(class: &str, arguments: &[&str]) -> Option<Command> {
    java(&[&[format!("org.apache.kafka.tools.{class}").as_str()], arguments].concat())
}

/// The Java producer (idempotent, as it is by default) and consumer: everything once and in order, in a cooperative group
/// whose second member gets half of the first one's partitions while that keeps the rest, with a seek by time and committed offsets.
///
/// Proves: I1, G1, G14, O6, L2.
#[test]
fn producer_and_consumer() {
    let target = Target::start();
    let Some(mut command) =
        program("RoundTrip.java", &[&target.bootstrap, &fresh("java"), &fresh("java-group")])
    else {
        return;
    };
    let printed = run_well(&mut command, "").stdout;
    assert!(printed.ends_with("ok\n"), "{printed}");
}

/// A transactional producer is refused at once and in words, not left to retry.
#[test]
fn transactions_are_refused() {
    let target = Target::start();
    if !target.ours {
        return;
    }
    let Some(mut command) = program("Transactions.java", &[&target.bootstrap]) else { return };
    let printed = run_well(&mut command, "").stdout;
    assert!(printed.ends_with("ok\n"), "{printed}");
}

/// kafka-topics creates, lists, describes and deletes.
///
/// Proves: A1, A5, M3.
#[test]
fn kafka_topics() {
    let target = Target::start();
    let topic = fresh("topics");
    let topics = |arguments: &[&str]| {
        tool("TopicCommand", &[&["--bootstrap-server", &target.bootstrap], arguments].concat())
    };
    let Some(mut create) =
        topics(&["--create", "--topic", &topic, "--partitions", "3", "--config", "retention.ms=3600000"])
    else {
        return;
    };
    assert!(run_well(&mut create, "").stdout.contains(&format!("Created topic {topic}.")));
    let run_topics = |arguments: &[&str]| run(&mut topics(arguments).expect("kafka-topics"), "");
    assert!(run_topics(&["--list"]).stdout.lines().any(|line| line == topic));
    let described = run_topics(&["--describe", "--topic", &topic]);
    assert!(described.success, "{}", described.stderr);
    assert!(described.stdout.contains("PartitionCount: 3"), "{}", described.stdout);
    assert!(described.stdout.contains("retention.ms=3600000"), "{}", described.stdout);
    assert!(
        described.stdout.contains("Partition: 2\tLeader: 1\tReplicas: 1\tIsr: 1"),
        "{}",
        described.stdout
    );
    let again = run_topics(&["--create", "--topic", &topic]);
    assert!(!again.success && (again.stdout + &again.stderr).contains("already exists"));
    assert!(run_topics(&["--delete", "--topic", &topic]).success);
    assert!(!run_topics(&["--describe", "--topic", &topic]).success);
}

/// The console producer and consumer carry lines, and kafka-get-offsets sees them.
///
/// Proves: L1.
#[test]
fn console_tools_and_get_offsets() {
    let target = Target::start();
    let topic = fresh("console");
    let broker = ["--bootstrap-server", &target.bootstrap, "--topic", &topic];
    let sent: String = (0..100).map(|number| format!("line {number}\n")).collect();
    let Some(mut produce) = tool("ConsoleProducer", &broker) else { return };
    run_well(&mut produce, &sent);
    let mut consume = java(
        &[
            &["org.apache.kafka.tools.consumer.ConsoleConsumer"],
            &broker[..],
            &["--from-beginning", "--max-messages", "100", "--timeout-ms", "60000"],
        ]
        .concat(),
    )
    .expect("the console consumer");
    assert_eq!(run_well(&mut consume, "").stdout, sent);
    let mut offsets = tool("GetOffsetShell", &broker).expect("kafka-get-offsets");
    assert_eq!(run_well(&mut offsets, "").stdout, format!("{topic}:0:100\n"));
}

/// kafka-consumer-groups lists, describes with lag, resets and deletes.
///
/// Proves: G18, G19, O2, O7.
#[test]
fn kafka_consumer_groups() {
    let target = Target::start();
    let (topic, group) = (fresh("groups"), fresh("reset"));
    let sent: String = (0..40).map(|number| format!("{number}\n")).collect();
    let Some(mut produce) =
        tool("ConsoleProducer", &["--bootstrap-server", &target.bootstrap, "--topic", &topic])
    else {
        return;
    };
    run_well(&mut produce, &sent);
    let groups = |arguments: &[&str]| -> Printed {
        let base = ["--bootstrap-server", &target.bootstrap];
        let mut command =
            tool("consumer.group.ConsumerGroupCommand", &[&base, arguments].concat()).expect("the tool");
        run_well(&mut command, "")
    };
    let reset =
        groups(&["--group", &group, "--topic", &topic, "--reset-offsets", "--to-offset", "25", "--execute"]);
    assert!(reset.stdout.contains("25"), "{}", reset.stdout);
    assert!(groups(&["--list"]).stdout.lines().any(|line| line == group));
    let described = groups(&["--describe", "--group", &group]).stdout;
    let row: Vec<&str> =
        described.lines().find(|line| line.contains(&topic)).expect("a row").split_whitespace().collect();
    assert_eq!(row[..6], [&group, &topic, "0", "25", "40", "15"], "{described}");
    assert!(groups(&["--delete", "--group", &group]).stdout.contains("was successful"));
}

/// The performance tools run to their end and report every record.
#[test]
fn performance_tools() {
    let target = Target::start();
    let topic = fresh("perf");
    let properties = ["acks=all", "linger.ms=5"];
    let Some(mut produce) = tool(
        "ProducerPerformance",
        &[
            &["--topic", &topic, "--num-records", "50000", "--record-size", "100", "--throughput", "-1"],
            &["--bootstrap-server", &target.bootstrap, "--command-property"][..],
            &properties[..],
        ]
        .concat(),
    ) else {
        return;
    };
    let printed = run_well(&mut produce, "").stdout;
    assert!(printed.lines().last().is_some_and(|line| line.starts_with("50000 records sent")), "{printed}");
    let arguments = ["--topic", &topic, "--num-records", "50000", "--bootstrap-server", &target.bootstrap];
    let mut consume =
        tool("ConsumerPerformance", &[&arguments[..], &["--hide-header", "--timeout", "60000"]].concat())
            .expect("it");
    let printed = run_well(&mut consume, "").stdout;
    let read: u64 = printed
        .lines()
        .last()
        .and_then(|line| line.split(',').nth(4))
        .and_then(|n| n.trim().parse().ok())
        .expect("a count");
    assert!(read >= 50_000, "{printed}");
    let mut latency = tool(
        "EndToEndLatency",
        &[
            &["--bootstrap-server", &target.bootstrap, "--topic", &topic, "--num-records", "200"][..],
            &["--producer-acks", "all", "--record-size", "100"],
        ]
        .concat(),
    )
    .expect("it");
    let printed = run_well(&mut latency, "").stdout;
    assert!(printed.contains("Percentiles: 50th"), "{printed}");
}

/// Kafka's DumpLogSegments reads the segments and indexes of a stopped broker without complaint, record by record.
///
/// Proves: L6, L8.
#[test]
fn dump_log_segments_reads_our_files() {
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &["--set", "log.segment.bytes=1048576"]);
    let Some(mut produce) = tool(
        "ProducerPerformance",
        &[
            "--topic",
            "dumped",
            "--num-records",
            "30000",
            "--record-size",
            "100",
            "--throughput",
            "-1",
            "--bootstrap-server",
            &broker.bootstrap,
        ],
    ) else {
        return;
    };
    run_well(&mut produce, "");
    broker.terminate();
    assert!(broker.wait().success());
    let mut files: Vec<_> = std::fs::read_dir(data.path().join("dumped-0"))
        .expect("the partition's folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|e| ["log", "index", "timeindex", "snapshot"].iter().any(|ours| e == *ours))
        })
        .collect();
    files.sort();
    let list = files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(",");
    assert!(files.len() > 9, "several segments with their indexes: {list}");
    let run_dump = |arguments: &[&str]| {
        let mut dump =
            tool("DumpLogSegments", &[&["--files", list.as_str()], arguments].concat()).expect("the tool");
        let printed = run_well(&mut dump, "");
        let text = printed.stdout + &printed.stderr;
        // "-1 is followed by" is what the tool says of every segment that does not begin at 0, of Kafka's own, too.
        let complaint = text.lines().find(|line| {
            let gap = line.contains(" is followed by ") && !line.trim().starts_with("-1 ");
            gap || ["Mismatches", "invalid bytes", "not valid", "Exception"]
                .iter()
                .any(|bad| line.contains(bad))
        });
        assert_eq!(complaint, None, "{arguments:?}");
        text
    };
    let text = run_dump(&["--deep-iteration"]);
    let records = text.lines().filter(|line| line.starts_with("| offset:")).count();
    assert_eq!(records, 30_000);
    assert!(!text.contains("isvalid: false"), "a batch with a wrong CRC");
    run_dump(&["--index-sanity-check"]);
    run_dump(&["--verify-index-only"]);
}

/// Kafka's own formatters read `__consumer_offsets`: commits, and the group's metadata.
///
/// Proves: O6.
#[test]
fn kafka_formatters_read_the_offsets_topic() {
    let target = Target::start();
    let (topic, group) = (fresh("formatted"), fresh("formatters"));
    let Some(mut produce) =
        tool("ConsoleProducer", &["--bootstrap-server", &target.bootstrap, "--topic", &topic])
    else {
        return;
    };
    run_well(&mut produce, "one\ntwo\n");
    let mut consume = tool(
        "consumer.ConsoleConsumer",
        &[
            &["--bootstrap-server", &target.bootstrap, "--topic", &topic, "--from-beginning"][..],
            &["--max-messages", "2", "--timeout-ms", "60000", "--group", &group],
        ]
        .concat(),
    )
    .expect("the console consumer");
    assert_eq!(run_well(&mut consume, "").stdout, "one\ntwo\n");
    let read = |formatter: &str| {
        let formatter = format!("org.apache.kafka.tools.consumer.{formatter}");
        let mut command = tool(
            "consumer.ConsoleConsumer",
            &[
                &[
                    "--bootstrap-server",
                    &target.bootstrap,
                    "--topic",
                    "__consumer_offsets",
                    "--from-beginning",
                ][..],
                &["--formatter", &formatter, "--timeout-ms", "8000"],
            ]
            .concat(),
        )
        .expect("the console consumer");
        // It ends by its time-out, which it counts as a failure.
        run(&mut command, "").stdout
    };
    let offsets = read("OffsetsMessageFormatter");
    let row =
        offsets.lines().find(|line| line.contains(&group)).unwrap_or_else(|| panic!("no row: {offsets}"));
    assert!(row.contains(&topic) && row.contains("\"offset\":2"), "{row}");
    let groups = read("GroupMetadataMessageFormatter");
    let row = groups.lines().find(|line| line.contains(&group)).unwrap_or_else(|| panic!("no row: {groups}"));
    assert!(row.contains("\"protocolType\":\"consumer\""), "{row}");
}
