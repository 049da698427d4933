//! `consume`: members of groups that come and go, and brokers that go away.

use alluvium::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};

use crate::{
    Broker, Running, document, eventually, rows, run, run_with, shared, support::wire::Wire, topic, well,
};

/// The value of a line of JSONL.
fn value(line: &str) -> String {
    let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
    record["value"].as_str().expect("a value").to_owned()
}

/// What a group committed in all.
fn committed(group: &str) -> i64 {
    rows(&well(&format!("group lag {group} -O json")))
        .iter()
        .filter_map(|row| row["committed"].as_i64())
        .sum()
}

/// A broker that goes away and does not come back ends a read with 4, with a whole document of what was read.
#[test]
fn a_broker_that_goes_away_ends_a_read() {
    let mut broker = Broker::ephemeral();
    assert_eq!(run_with(&broker.bootstrap, "topic create gone --partitions 1", "").code, 0);
    assert_eq!(run_with(&broker.bootstrap, "produce gone first second", "").code, 0);
    let mut running = Running::start(&broker.bootstrap, "consume gone -O json");
    // The beginning of the document and a record, which ends where the next begins.
    let printed = format!("{}\n{}\n", running.line(), running.line());
    broker.kill();
    let mut ran = running.end();
    assert_eq!(ran.code, 4, "{ran:?}");
    ran.stdout = printed + &ran.stdout;
    let document = document(&ran);
    assert_eq!(document["data"][0]["value"], "first");
    assert_eq!(document["errors"][0]["item"], broker.bootstrap.as_str(), "{document}");
}

/// A group whose commit lies outside of the log goes on from where -o says, and says so.
#[test]
fn a_group_outside_of_the_log_begins_where_the_option_says() {
    topic("outside", 10);
    // No command commits there, but any client may.
    let commit = || {
        let partition = |partition_index| OffsetCommitRequestPartition {
            partition_index,
            committed_offset: 1000,
            ..OffsetCommitRequestPartition::default()
        };
        let request = OffsetCommitRequest {
            group_id: "outsiders".into(),
            topics: vec![OffsetCommitRequestTopic {
                name: "outside".into(),
                partitions: [0, 1].map(partition).to_vec(),
            }],
            ..OffsetCommitRequest::default()
        };
        let answer = Wire::open(shared()).call(&request, 8);
        assert!(answer.topics[0].partitions.iter().all(|partition| partition.error_code == 0), "{answer:?}");
    };
    well("group seek outsiders --to start --topics outside");
    commit();
    let ran = well("consume outside -g outsiders -n 10 --jsonl");
    assert_eq!(ran.stdout.lines().count(), 10);
    assert!(ran.stderr.contains("offset 1000 of outside-0"), "{}", ran.stderr);
    assert_eq!(committed("outsiders"), 10);
    commit();
    assert_eq!(well("consume outside -g outsiders -o -1 -n 2 --jsonl").stdout.lines().count(), 2);
    assert_eq!(committed("outsiders"), 10);
}

/// A rebalance does not print again what is still owned, though nothing is committed.
#[test]
fn a_rebalance_repeats_nothing() {
    topic("shared-out", 20);
    let line = "consume shared-out -g sharers --no-commit --jsonl";
    let mut first = Running::start(shared(), line);
    let mut seen: Vec<String> = (0..20).map(|_| value(&first.line())).collect();
    let mut second = Running::start(shared(), line);
    for _ in 0..10 {
        value(&second.line());
    }
    // The second has its half: the first has been through the rebalance, or is in it.
    let ran = run_with(
        shared(),
        "produce shared-out --jsonl",
        "{\"value\":\"new\",\"partition\":0}\n{\"value\":\"new\",\"partition\":1}\n",
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(value(&second.line()), "new");
    assert_eq!(value(&first.line()), "new");
    // And back again.
    second.interrupt();
    assert_eq!(second.end().code, 130);
    assert_eq!(value(&first.line()), "new", "of the partition that came back, what it had not printed");
    first.interrupt();
    let rest = first.end();
    assert_eq!((rest.code, rest.stdout.as_str()), (130, ""));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 20);
}

/// A read that fails commits what it printed before it leaves the group.
#[test]
fn a_failed_read_commits_what_it_printed() {
    topic("stays", 2);
    topic("goes", 2);
    let mut running = Running::start(shared(), "consume stays goes -g failing --jsonl");
    for _ in 0..4 {
        running.line();
    }
    eventually("the first commit", || run("group describe failing").code == 0 && committed("failing") == 4);
    well("produce stays one-more -k k0");
    assert_eq!(value(&running.line()), "one-more");
    well("topic delete goes --yes");
    let ran = running.end();
    assert_eq!(ran.code, 3, "{ran:?}");
    let lag = rows(&well("group lag failing -O json"));
    let behind: i64 =
        lag.iter().filter(|row| row["topic"] == "stays").filter_map(|row| row["lag"].as_i64()).sum();
    assert_eq!(behind, 0, "{lag:?}");
    well("group delete failing --yes");
}

/// An offset that no partition has come to yet is refused, also by a read that ends.
#[test]
fn an_offset_beyond_every_end_is_refused() {
    well("topic create ahead --partitions 2");
    assert_eq!(run_with(shared(), "produce ahead", "a\n").code, 0);
    let ran = run("consume ahead -o 500 -e");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("OFFSET_OUT_OF_RANGE"), "{ran:?}");
    assert_eq!(well("consume ahead -o 0 -e -f %v\\n").stdout, "a\n");
}

/// Of a range each partition gives what it has: those that end before it nothing, and with `-e` nobody waits for more.
#[test]
fn a_range_takes_what_each_partition_has() {
    well("topic create uneven --partitions 2");
    let line = |n, partition| format!("{{\"value\":\"{n}\",\"partition\":{partition}}}\n");
    let input: String = (0..30).map(|n| line(n, i32::from(n >= 10))).collect();
    assert_eq!(run_with(shared(), "produce uneven --jsonl", &input).code, 0);
    for (range, expected) in [
        ("-o 15:18", 25..28),
        ("-o 15 -e", 25..30),
        ("-o 15:1000", 25..30),
        ("-o 15:1000 -e", 25..30),
        ("-p 0 -o :1000 -e", 0..10),
        ("-p 1 -o 15:1000 -e", 25..30),
    ] {
        let ran = run(&format!("consume uneven {range} -f %v\\n"));
        assert_eq!(ran.code, 0, "{range}: {ran:?}");
        let expected: String = expected.map(|n| format!("{n}\n")).collect();
        assert_eq!(ran.stdout, expected, "{range}");
    }
    let group = well("consume uneven -g uneven -o 15 -e -f %v\\n");
    assert_eq!(group.stdout, (25..30).map(|n| format!("{n}\n")).collect::<String>());
}

/// A member of a group goes on where it was, when its broker comes back.
#[test]
fn a_member_outlives_a_restart_of_the_broker() {
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &[]);
    let address = broker.bootstrap.clone();
    assert_eq!(run_with(&address, "topic create lasting --partitions 1", "").code, 0);
    let mut running = Running::start(&address, "consume lasting -g lasting --jsonl");
    for n in 0..3 {
        let value = format!("before-{n}");
        assert_eq!(run_with(&address, &format!("produce lasting {value}"), "").code, 0);
        assert_eq!(self::value(&running.line()), value);
    }
    broker.kill();
    // Longer than a commit's interval: one of them finds nobody.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let _broker = Broker::again(data.path(), &address, &[]);
    assert_eq!(run_with(&address, "produce lasting after", "").code, 0);
    assert_eq!(value(&running.line()), "after");
    running.interrupt();
    let ran = running.end();
    assert_eq!((ran.code, ran.stdout.as_str()), (130, ""), "{ran:?}");
    let lag = rows(&run_with(&address, "group lag lasting -O json", ""));
    assert_eq!(lag[0]["lag"], 0, "{lag:?}");
}

/// A partition that cannot be served is told of; the others are read, and the topic can be deleted.
#[test]
fn an_offline_partition_does_not_hold_up_the_others() {
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &[]);
    let run = |broker: &Broker, line: &str, input: &str| run_with(&broker.bootstrap, line, input);
    assert_eq!(run(&broker, "topic create halved --partitions 2", "").code, 0);
    let input = "{\"value\":\"a\",\"partition\":0}\n{\"value\":\"b\",\"partition\":1}\n";
    assert_eq!(run(&broker, "produce halved --jsonl", input).code, 0);
    assert_eq!(run(&broker, "consume halved -g halves -e", "").code, 0);
    broker.terminate();
    assert!(broker.wait().success());
    let segment = data.path().join("halved-0/00000000000000000000.log");
    std::fs::remove_file(&segment).expect("removing");
    std::fs::create_dir(&segment).expect("a folder in its place");
    let broker = Broker::on(data.path(), &[]);

    assert_eq!(run(&broker, "consume halved -p 1 -e -f %v\\n", "").stdout, "b\n");
    assert_eq!(run(&broker, "produce halved -p 1 more", "").code, 0);
    let offsets = run(&broker, "topic offsets halved -O json", "");
    assert_eq!(offsets.code, 1, "{offsets:?}");
    let document = document(&offsets);
    assert_eq!((&document["data"][0]["partition"], &document["data"][0]["records"]), (&1.into(), &2.into()));
    assert_eq!(document["errors"][0]["item"], "halved-0", "{document}");
    let lag = run(&broker, "group lag halves -O json", "");
    assert_eq!(lag.code, 1, "{lag:?}");
    let lag = self::document(&lag);
    assert_eq!((&lag["data"][0]["lag"], &lag["data"][1]["lag"]), (&serde_json::Value::Null, &1.into()));
    let deleted = run(&broker, "topic delete halved --yes -O json", "");
    assert_eq!(deleted.code, 0, "{deleted:?}");
    assert!(self::document(&deleted)["data"][0]["records"].is_null(), "{deleted:?}");
    assert!(!data.path().join("halved-0").exists(), "{deleted:?}");
}
