//! What operators see: metrics, health, a stop in good order.

use std::{
    collections::HashMap,
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use alluvium::protocol::{
    encode_request,
    messages::{
        create_topics::CreateTopicsRequest,
        fetch::FetchRequest,
        find_coordinator::FindCoordinatorRequest,
        metadata::MetadataRequest,
        offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        produce::ProduceRequest,
    },
};

use crate::{
    groups::{commit_offset, find_coordinator, join, member_id},
    requests::{
        batch, begin_slow_sync, create, fetch_all, fetch_from, named, new_topic, produce, produce_to,
    },
    support::{
        broker::{Broker, http_get, try_http_get},
        wire::Wire,
    },
};

/// The families that dashboards and alerts are built on are there, with the values of the log.
#[test]
fn metrics_tell_what_the_log_holds() {
    let broker = Broker::ephemeral_with(&["--set", "metrics.partition.level=all"]);
    let mut wire = Wire::open(&broker.bootstrap);
    let id = create(&mut wire, "orders", 2, &[]);
    let records = batch(&["a", "b", "c"]);
    let size = records.len();
    assert_eq!(produce(&mut wire, 9, "orders", id, 1, records).error_code, 0);
    wire.call(&fetch_from(id, 1, 0, 0), 13);
    let text = http_get(&broker.admin, "/metrics");
    for line in [
        "kafka_brokers 1".to_owned(),
        format!("kafka_broker_info{{id=\"1\",address=\"{}\"}} 1", broker.bootstrap),
        "kafka_topic_partitions{topic=\"orders\"} 2".to_owned(),
        "kafka_topic_partition_current_offset{topic=\"orders\",partition=\"1\"} 3".to_owned(),
        "kafka_topic_partition_current_offset{topic=\"orders\",partition=\"0\"} 0".to_owned(),
        "kafka_topic_partition_oldest_offset{topic=\"orders\",partition=\"1\"} 0".to_owned(),
        "kafka_topic_partition_leader{topic=\"orders\",partition=\"1\"} 1".to_owned(),
        "kafka_topic_partition_leader_is_preferred{topic=\"orders\",partition=\"1\"} 1".to_owned(),
        "kafka_topic_partition_replicas{topic=\"orders\",partition=\"1\"} 1".to_owned(),
        "kafka_topic_partition_in_sync_replica{topic=\"orders\",partition=\"1\"} 1".to_owned(),
        "kafka_topic_partition_under_replicated_partition{topic=\"orders\",partition=\"1\"} 0".to_owned(),
        "kafka_server_brokertopicmetrics_messagesin_total{topic=\"orders\"} 3".to_owned(),
        format!("kafka_server_brokertopicmetrics_bytesin_total{{topic=\"orders\"}} {size}"),
        format!("kafka_server_brokertopicmetrics_bytesout_total{{topic=\"orders\"}} {size}"),
        "kafka_controller_kafkacontroller_offlinepartitionscount 0".to_owned(),
        "alluvium_request_seconds_count{api=\"Produce\",phase=\"local\"} 1".to_owned(),
        "alluvium_build_info{version=\"0.1.0\"} 1".to_owned(),
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is not in:\n{text}");
    }
    let syncs =
        text.lines().find_map(|line| line.strip_prefix("alluvium_fsync_seconds_count ")).expect("syncs");
    assert!(syncs.parse::<u64>().expect("a number") > 0);
    for name in [
        "process_resident_memory_bytes",
        "process_open_fds",
        "alluvium_received_bytes_total",
        "alluvium_append_bytes_total",
        "alluvium_storage_free_bytes",
    ] {
        assert!(text.contains(name), "{name}");
    }
}

/// Every request is counted once in each phase, under its API, and its time where it was spent: a fetch waits in its handler, what is sent
/// behind it on the connection waits for its turn.
#[test]
fn requests_are_timed_by_api_and_phase() {
    const WAIT: Duration = Duration::from_millis(300);
    let broker = Broker::ephemeral();
    let mut wire = Wire::open(&broker.bootstrap);
    let id = create(&mut wire, "timed", 1, &[]);
    assert_eq!(produce(&mut wire, 9, "timed", id, 0, batch(&["a"])).error_code, 0);
    let poll = fetch_from(id, 0, 1, WAIT.as_millis() as i32);
    let frames =
        [encode_request(&poll, 13, 1, &"t".into()), encode_request(&named(&["timed"]), 12, 2, &"t".into())];
    wire.raw(&frames.concat());
    wire.receive::<FetchRequest>(13, 1);
    wire.receive::<MetadataRequest>(12, 2);
    // What came before on the connection is counted to its end.
    assert_eq!(produce(&mut wire, 9, "timed", id, 0, batch(&["b"])).error_code, 0);
    let text = http_get(&broker.admin, "/metrics");
    let value = |what: &str, api: &str, phase: &str| -> f64 {
        let name = format!("alluvium_request_seconds_{what}{{api=\"{api}\",phase=\"{phase}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&name));
        value.unwrap_or_else(|| panic!("no {name}in:\n{text}")).parse().expect("a number")
    };
    for phase in ["queue", "local", "send"] {
        for api in ["CreateTopics", "Fetch", "Metadata"] {
            assert_eq!(value("count", api, phase), 1.0, "{api} {phase}");
        }
        assert_eq!(value("count", "ListOffsets", phase), 0.0, "{phase}");
    }
    assert_eq!(["queue", "local"].map(|phase| value("count", "Produce", phase)), [2.0; 2]);
    let longest = [("Fetch", "local"), ("Metadata", "queue")];
    for (api, phase) in longest {
        assert!(value("sum", api, phase) > 0.9 * WAIT.as_secs_f64(), "{api} {phase}: {text}");
    }
}

/// By default the number of series does not grow with that of partitions: neither the partitions' own nor those of groups.
#[test]
fn metrics_of_partitions_are_there_where_they_are_asked_for() {
    for (level, by_partition) in [("off", false), ("leaders", true)] {
        let asked = format!("metrics.partition.level={level}");
        let arguments: &[&str] = if by_partition { &["--set", &asked] } else { &[] };
        let broker = Broker::ephemeral_with(arguments);
        let mut wire = Wire::open(&broker.bootstrap);
        let id = create(&mut wire, "counted", 2, &[]);
        assert_eq!(produce(&mut wire, 9, "counted", id, 1, batch(&["a", "b", "c"])).error_code, 0);
        let partitions = vec![OffsetCommitRequestPartition {
            partition_index: 1,
            committed_offset: 1,
            ..OffsetCommitRequestPartition::default()
        }];
        let commit = OffsetCommitRequest {
            group_id: "readers".into(),
            generation_id_or_member_epoch: -1,
            topics: vec![OffsetCommitRequestTopic { name: "counted".into(), partitions }],
            ..OffsetCommitRequest::default()
        };
        let find = FindCoordinatorRequest { key: "readers".into(), ..FindCoordinatorRequest::default() };
        let deadline = Instant::now() + Duration::from_secs(60);
        // The coordinator loads in the background.
        while wire.call(&find, 3).error_code != 0
            || wire.call(&commit, 8).topics[0].partitions[0].error_code != 0
        {
            assert!(Instant::now() < deadline, "nothing can be committed");
            std::thread::sleep(Duration::from_millis(10));
        }
        let text = http_get(&broker.admin, "/metrics");
        for line in [
            "kafka_topic_partitions{topic=\"counted\"} 2",
            "kafka_server_brokertopicmetrics_messagesin_total{topic=\"counted\"} 3",
            "kafka_consumergroup_lag_sum{consumergroup=\"readers\",topic=\"counted\"} 2",
            "alluvium_consumer_group_lag_max{group=\"readers\"} 2",
        ] {
            assert!(text.lines().any(|known| known == line), "{level}: {line} is not in:\n{text}");
        }
        for name in
            ["kafka_topic_partition_current_offset{", "kafka_consumergroup_lag{", "kafka_log_log_size{"]
        {
            assert_eq!(text.contains(name), by_partition, "{level}: {name}");
        }
        assert_eq!(text.contains(",partition=\""), by_partition, "{level}:\n{text}");
    }
}

/// The lag of a group is one reading of its commit and of the end: while both move it is never negative, and at rest it is exact.
#[test]
fn lag_is_told_and_never_negative() {
    let broker = Broker::ephemeral_with(&[
        "--set",
        "offsets.topic.num.partitions=2",
        "--set",
        "metrics.partition.level=all",
    ]);
    let mut wire = Wire::open(&broker.bootstrap);
    let id = create(&mut wire, "read", 1, &[]);
    find_coordinator(&mut wire, "readers");
    assert_eq!(commit_offset(&mut wire, "readers", "read", 0), 0);
    let scrape = || -> HashMap<String, i64> {
        let text = http_get(&broker.admin, "/metrics");
        let lines = text.lines().filter(|line| line.contains("\"readers\""));
        let samples = lines.filter_map(|line| line.rsplit_once(' '));
        samples.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect()
    };
    let labels = "consumergroup=\"readers\",topic=\"read\"";
    let told = |samples: &HashMap<String, i64>| {
        [
            format!("kafka_consumergroup_current_offset{{{labels},partition=\"0\"}}"),
            format!("kafka_consumergroup_lag{{{labels},partition=\"0\"}}"),
            format!("kafka_consumergroup_current_offset_sum{{{labels}}}"),
            format!("kafka_consumergroup_lag_sum{{{labels}}}"),
            "alluvium_consumer_group_lag_max{group=\"readers\"}".to_owned(),
            "alluvium_consumer_group_lag_sum{group=\"readers\"}".to_owned(),
        ]
        .map(|name| *samples.get(&name).unwrap_or_else(|| panic!("{name} is not in {samples:?}")))
    };
    let bootstrap = broker.bootstrap.as_str();
    std::thread::scope(|threads| {
        let reading = threads.spawn(move || {
            let mut wire = Wire::open(bootstrap);
            for _ in 0..300 {
                let answer = produce(&mut wire, 9, "read", id, 0, batch(&["a", "b"]));
                // As far as can be read.
                assert_eq!(commit_offset(&mut wire, "readers", "read", answer.base_offset + 2), 0);
            }
        });
        while !reading.is_finished() {
            let samples = told(&scrape());
            assert!(samples.iter().all(|value| *value >= 0), "{samples:?}");
        }
    });
    assert_eq!(told(&scrape()), [600, 0, 600, 0, 0, 0]);
    assert_eq!(commit_offset(&mut wire, "readers", "read", 590), 0);
    assert_eq!(told(&scrape()), [590, 10, 590, 10, 10, 10]);
    let members = || scrape().get("kafka_consumergroup_members{consumergroup=\"readers\"}").copied();
    assert_eq!(members(), Some(0));
    let id = member_id(&mut wire, "readers");
    assert_eq!(wire.call(&join("readers", &id, &["p"]), 9).error_code, 0);
    assert_eq!(members(), Some(1));
}

/// Once clients are served.
#[test]
fn health_is_told_by_three_paths() {
    let broker = Broker::ephemeral();
    for (path, words) in [("/livez", "ok"), ("/readyz", "ready"), ("/healthz", "\"healthy\":true")] {
        let text = http_get(&broker.admin, path);
        assert!(text.starts_with("HTTP/1.1 200") && text.contains(words), "{path}: {text}");
    }
    assert!(http_get(&broker.admin, "/nothing").starts_with("HTTP/1.1 404"));
}

/// A broker that starts lives and is not ready; the admin port is served before anything of the data directory is.
#[test]
fn a_start_is_told_before_its_end() {
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &[]);
    broker.terminate();
    assert!(broker.wait().success());
    // Whoever opens a pipe waits for a writer, and none comes.
    let meta = data.path().join("meta.toml");
    std::fs::remove_file(&meta).expect("removing the identity");
    assert!(Command::new("mkfifo").arg(&meta).status().expect("mkfifo").success());
    let starting = Starting::on(data.path());
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(&starting.admin).is_err() {
        assert!(Instant::now() < deadline, "the admin port is not served");
        std::thread::sleep(Duration::from_millis(5));
    }
    for (path, code, words) in [
        ("/livez", 200, "ok\n"),
        ("/readyz", 503, "starting\n"),
        ("/healthz", 503, "\"check\":\"recovery\",\"ok\":false,\"reason\":\"not begun\""),
        ("/metrics", 503, "the broker is starting\n"),
    ] {
        assert_told(path, &http_get(&starting.admin, path), code, words);
    }
}

fn assert_told(path: &str, text: &str, code: u16, words: &str) {
    assert!(text.starts_with(&format!("HTTP/1.1 {code} ")) && text.contains(words), "{path}: {text}");
}

/// A server that is not waited for, on a data directory; killed when it is dropped.
struct Starting {
    child: Child,
    admin: String,
}

impl Starting {
    fn on(data: &Path) -> Self {
        // Nothing is printed before the end of the start: the port must be known. The address is this process's own.
        let [.., a, b, c] = std::process::id().to_be_bytes();
        let admin = format!("127.{}.{b}.{}:9644", a | 0x80, c.clamp(1, 254));
        let child = Command::new(env!("CARGO_BIN_EXE_alluvium"))
            .args(["server", "--port", "0", "--admin-listen", &admin, "--data-dir"])
            .arg(data)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting alluvium");
        Self { child, admin }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// SIGTERM: long polls are answered, the exit code is 0, and the next start has nothing to recover from; one after a kill has.
#[test]
fn a_stop_answers_what_waits_and_exits_0() {
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &[]);
    let mut wire = Wire::open(&broker.bootstrap);
    let id = create(&mut wire, "stopping", 1, &[]);
    assert_eq!(produce(&mut wire, 9, "stopping", id, 0, batch(&["kept"])).error_code, 0);
    let correlation = wire.send(&fetch_from(id, 0, 1, 25_000), 13);
    // The fetch is being waited on once a later connection is served.
    Wire::open(&broker.bootstrap).call(&fetch_from(id, 0, 0, 0), 13);
    broker.terminate();
    wire.receive::<FetchRequest>(13, correlation);
    assert!(broker.wait().success());
    let mut again = Broker::on(data.path(), &[]);
    let mut wire = Wire::open(&again.bootstrap);
    assert_eq!(crate::batches::values(&fetch_all(&mut wire, id, 0)), ["kept"]);
    let reads_rounds = |broker: &Broker| {
        broker.wait_for_log(" ready ");
        broker.log().contains("recovering progress=Reading(")
    };
    assert!(!reads_rounds(&again), "{}", again.log());
    assert_eq!(produce(&mut wire, 9, "stopping", id, 0, batch(&["kept, too"])).error_code, 0);
    again.kill();
    let again = Broker::on(data.path(), &[]);
    assert!(reads_rounds(&again), "{}", again.log());
    let mut wire = Wire::open(&again.bootstrap);
    assert_eq!(crate::batches::values(&fetch_all(&mut wire, id, 0)), ["kept", "kept, too"]);
}

/// SIGTERM while the disk takes its time: a produce that waits for it is answered as ever and is there. Until then the broker lives, says
/// that it stops, and is not ready.
#[test]
fn a_stop_finishes_what_it_has_taken() {
    // It counts only where the sync was not over; a machine that was too busy for that tries again.
    assert!((0..10).any(|_| stopped_in_a_slow_sync()), "this machine is too slow to look in between");
}

fn stopped_in_a_slow_sync() -> bool {
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &["--simulate-power-cuts", "slow-sync=60"]);
    let (mut wire, mut other) = (Wire::open(&broker.bootstrap), Wire::open(&broker.bootstrap));
    let id = create(&mut wire, "slow", 1, &[]);
    begin_slow_sync(&mut other, "slow", id);
    let correlation = wire.send(&produce_to("slow", id, 0, batch(&["last"])), 9);
    // It is taken once a later request of another connection is answered.
    other.call(&fetch_from(id, 0, 0, 0), 13);
    broker.terminate();
    broker.wait_for_log("stopping: finishing requests");
    let expected = [
        ("/livez", 200, "ok\n"),
        ("/readyz", 503, "stopping\n"),
        ("/healthz", 503, "\"check\":\"broker\",\"ok\":false,\"reason\":\"stopping\""),
        ("/metrics", 200, "kafka_brokers 1\n"),
    ];
    let told = expected.map(|(path, ..)| try_http_get(&broker.admin, path));
    let in_between = !wire.has_something();
    if in_between {
        for ((path, code, words), text) in expected.into_iter().zip(told) {
            assert_told(path, &text.expect("an answer of the admin port"), code, words);
        }
    }
    let answer = wire.receive::<ProduceRequest>(9, correlation);
    assert_eq!(answer.responses[0].partitions[0].error_code, 0);
    assert!(broker.wait().success());
    broker.wait_for_log(" stopped");
    let again = Broker::on(data.path(), &[]);
    let found = fetch_all(&mut Wire::open(&again.bootstrap), id, 0);
    assert_eq!(crate::batches::values(&found).last().map(String::as_str), Some("last"));
    in_between
}

/// Each line on stderr is one object, whatever the values in it are.
#[test]
fn log_lines_are_objects_where_json_is_set() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("a \"quoted\"\nname");
    let mut broker = Broker::on(&data, &["--set", "log.format=json"]);
    broker.terminate();
    assert!(broker.wait().success());
    broker.wait_for_log("\"stopped\"");
    let log = broker.log();
    let lines: Vec<serde_json::Map<String, serde_json::Value>> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for line in &lines {
        let text = |name: &str| line[name].as_str().unwrap_or_else(|| panic!("{name} in {line:?}"));
        let shape: String =
            text("timestamp").chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000000Z");
        assert!(["ERROR", "WARN", "INFO"].contains(&text("level")), "{line:?}");
        assert!(!text("message").is_empty() && !text("target").is_empty(), "{line:?}");
    }
    let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap_or_default()).collect();
    assert_eq!(messages, ["ready", "stopping: finishing requests", "stopped"]);
    let ready = &lines[0];
    assert_eq!((&ready["level"], &ready["node_id"]), (&"INFO".into(), &1.into()));
    assert_eq!(ready["bootstrap"], broker.bootstrap);
    assert_eq!(ready["admin"], broker.admin);
    assert_eq!(ready["data_dir"], data.to_str().expect("a path in UTF-8"));
}

/// The data of an ephemeral server goes with it; that of a killed one goes at the next start.
#[test]
fn ephemeral_data_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = || {
        // The folder is the process's own: tests that run beside this one have another.
        Broker::ephemeral_in(folder.path())
    };
    let left = || std::fs::read_dir(folder.path()).expect("the folder").count();
    let mut stopped = start();
    assert_eq!(left(), 1);
    stopped.terminate();
    assert!(stopped.wait().success());
    assert_eq!(left(), 0);
    let mut killed = start();
    killed.kill();
    assert_eq!(left(), 1);
    let living = start();
    assert_eq!(left(), 1, "the killed one's is gone, the living one's is there");
    drop(living);
}

/// As in Kafka, more replicas by default than there are brokers stop the creation of topics, by themselves or asked for; those that
/// say a number, and the offsets topic, are none the worse.
#[test]
fn default_replication_factor_is_kept_or_refused() {
    let broker = Broker::ephemeral_with(&["--set", "default.replication.factor=2"]);
    let mut wire = Wire::open(&broker.bootstrap);
    let mut topic = new_topic("asked-for", 1, &[]);
    topic.replication_factor = -1;
    let request =
        CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..CreateTopicsRequest::default() };
    assert_eq!(wire.call(&request, 7).topics[0].error_code, 38);
    assert_eq!(wire.call(&named(&["by-itself"]), 12).topics[0].error_code, 38);
    assert_eq!(wire.call(&named(&["by-itself"]), 12).topics[0].error_code, 38, "nothing was made");
    create(&mut wire, "numbered", 1, &[]);
    let offsets = wire.call(&named(&["__consumer_offsets"]), 12).topics.remove(0);
    assert_eq!((offsets.error_code, offsets.partitions.len()), (0, 50));
}
