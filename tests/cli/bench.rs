//! `bench`: what it measures, what it leaves behind, and what it says when it fails.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use crate::{Broker, document, rows, run, run_with, topic, well};

/// `consume` counts what the topic has; without a topic it fills one, and deletes it.
#[test]
fn consume_counts_the_records_of_the_topic() {
    topic("counted", 1000);
    for line in ["bench consume counted --json", "bench consume counted --clients 3 -O json"] {
        let row = rows(&well(line)).remove(0);
        assert_eq!((&row["records"], &row["in_topic"]), (&1000.into(), &1000.into()), "{line}: {row}");
        assert!(row["mb_per_second"].as_f64().expect("a figure") > 0.0, "{row}");
    }
    let broker = Broker::ephemeral();
    let ran = run_with(&broker.bootstrap, "bench consume --duration 1s --rate 500 -O json", "");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(rows(&ran)[0]["in_topic"], 500);
    let left = run_with(&broker.bootstrap, "topic list -O json", "");
    assert!(rows(&left).is_empty(), "{left:?}");
}

/// `e2e` reads each record that was acknowledged, and gives the time from due to read.
#[test]
fn e2e_reads_what_it_writes() {
    let broker = Broker::ephemeral();
    let line = "bench e2e --duration 1s --rate 300 --clients 2";
    let table = run_with(&broker.bootstrap, line, "");
    assert_eq!(table.code, 0, "{table:?}");
    assert!(table.stdout.lines().next().is_some_and(|header| header.contains("P99-MS")), "{table:?}");
    let ran = run_with(&broker.bootstrap, &format!("{line} --json"), "");
    assert_eq!(ran.code, 0, "{ran:?}");
    let row = rows(&ran).remove(0);
    assert_eq!((&row["records"], &row["acknowledged"]), (&300.into(), &300.into()), "{row}");
    assert_eq!(row["failed"], 0, "{row}");
    let [median, tail, most] =
        ["p50_ms", "p99_ms", "max_ms"].map(|field| row[field].as_f64().expect("a figure"));
    assert!(0.0 < median && median <= tail && tail <= most, "{row}");
    let left = run_with(&broker.bootstrap, "topic list -O json", "");
    assert!(rows(&left).is_empty(), "{left:?}");
}

/// `--json` holds for failures, too.
#[test]
fn failures_are_json_where_json_is_asked_for() {
    for (line, code) in [("bench produce no-such-topic --json", 3), ("bench e2e --duration never --json", 2)]
    {
        let ran = run(line);
        assert_eq!((ran.code, ran.stderr.as_str()), (code, ""), "{line}: {ran:?}");
        assert_eq!(document(&ran)["errors"].as_array().map(Vec::len), Some(1), "{line}: {ran:?}");
    }
}

/// Passes frames on to `broker`, those of CreateTopics and DeleteTopics after a while; ends with this process.
fn hold_back_admin_requests(broker: String, hold: Duration) -> String {
    fn pass(mut client: TcpStream, mut broker: TcpStream, hold: Duration) -> io::Result<()> {
        let (mut answers, mut back) = (broker.try_clone()?, client.try_clone()?);
        thread::spawn(move || io::copy(&mut answers, &mut back));
        loop {
            let mut length = [0; 4];
            client.read_exact(&mut length)?;
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            client.read_exact(&mut frame)?;
            if matches!(frame[..2], [0, 19 | 20]) {
                thread::sleep(hold);
            }
            broker.write_all(&[&length[..], &frame].concat())?;
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let broker = TcpStream::connect(&broker).expect("the broker");
            // Ends with its connection.
            thread::spawn(move || pass(client, broker, hold));
        }
    });
    address
}

/// A broker may take its time over topics, longer than over other answers.
#[test]
fn slow_changes_of_topics_are_waited_for() {
    let broker = Broker::ephemeral();
    // The default time-out of answers is 4 s.
    let slow = hold_back_admin_requests(broker.bootstrap.clone(), Duration::from_secs(5));
    let ran = run_with(&slow, "bench produce --duration 1s --rate 100 -O json", "");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(rows(&ran)[0]["records"], 100);
    let left = run_with(&broker.bootstrap, "topic list -O json", "");
    assert!(rows(&left).is_empty(), "{left:?}");
}
