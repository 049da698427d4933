//! The lines to copy, those of `README.md` and those of the demo's card: each is run as it stands there and does what is said of it.

use std::{
    fs::{Permissions, create_dir, write},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
};

use crate::{Broker, Ran, Running, demo, eventually, rows, run_with, support::toolchain};

const README: &str = include_str!("../../README.md");

/// What stands before the client lines of README, and before those for real data.
const CLIENTS: &str = "Against the demo:\n";
const REAL_DATA: &str = "in another terminal:\n";

/// The lines of the block behind a sentence of README.
fn block(sentence: &str) -> Vec<&'static str> {
    let (_, behind) = README.split_once(sentence).expect(sentence);
    behind.split("```").nth(1).expect("a block").lines().filter(|line| !line.is_empty()).collect()
}

/// A folder whose `bin` has the programs that the lines name.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let bin = folder.path().join("bin");
    create_dir(&bin).expect("a folder");
    symlink(env!("CARGO_BIN_EXE_alluvium"), bin.join("alluvium")).expect("a link");
    folder
}

/// Whether the program that a line begins with is there, under the name that the line uses.
fn provided(folder: &Path, line: &str) -> bool {
    let script = |name: &str, command: String| {
        let path = folder.join("bin").join(name);
        write(&path, format!("#!/bin/sh\nexec {command} \"$@\"\n")).expect("writing");
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("a program");
    };
    match line.split(' ').next().expect("a program") {
        "alluvium" => true,
        "kcat" => toolchain::kcat().is_some(),
        "python3" => {
            toolchain::python().inspect(|python| script("python3", python.display().to_string())).is_some()
        }
        "kafka-console-consumer" => toolchain::kafka_jars()
            .inspect(|jars| {
                let java = "java -Xmx256m -XX:TieredStopAtLevel=1 -cp";
                let class = "org.apache.kafka.tools.consumer.ConsoleConsumer";
                script("kafka-console-consumer", format!("{java} '{}/*' {class}", jars.display()));
            })
            .is_some(),
        other => panic!("{other}: a line of README that nobody can check"),
    }
}

/// A line as the shell has it. Where it names no broker, that is the one on 127.0.0.1:9092; `broker` stands for that.
fn start(folder: &Path, broker: Option<&str>, line: &str) -> Running {
    let path = std::env::var("PATH").expect("a path");
    let mut command = Command::new("bash");
    command
        .args(["-o", "pipefail", "-c", line])
        .current_dir(folder)
        .env("PATH", format!("{}/bin:{path}", folder.display()))
        .env("HOME", folder)
        .env_remove("ALLUVIUM_BROKERS")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(broker) = broker {
        command.env("ALLUVIUM_BROKERS", broker);
    }
    Running::of(command.spawn().expect("bash"))
}

fn well(folder: &Path, broker: Option<&str>, line: &str) -> Ran {
    let ran = start(folder, broker, line).end();
    assert_eq!(ran.code, 0, "{line}: {ran:?}");
    ran
}

/// Each line that README and the card of the demo have for clients works against the demo: `kcat`, Python, Kafka's console consumer
/// and `alluvium`.
#[test]
fn the_client_lines_work_against_the_demo() {
    let folder = folder();
    let (mut demo, mut card, bootstrap) = demo::start(folder.path());
    while !card.contains("Ctrl-C") {
        card = card + "\n" + &demo.line();
    }
    demo::settles(&bootstrap);
    eventually("each partition has its five events", || {
        let ran = run_with(&bootstrap, "topic offsets orders -O json", "");
        rows(&ran).iter().all(|row| row["records"].as_i64() >= Some(5))
    });
    let of_readme = block(CLIENTS);
    let of_readme =
        of_readme.iter().map(|line| (line.replace("127.0.0.1:9092", &bootstrap), Some(bootstrap.as_str())));
    let is_program =
        |line: &str| ["alluvium ", "kcat ", "python3 "].iter().any(|name| line.starts_with(name));
    // The card names the broker by itself.
    let of_card =
        card.lines().map(str::trim).filter(|line| is_program(line)).map(|line| (line.to_owned(), None));
    let lines: Vec<(String, Option<&str>)> = of_readme.chain(of_card).collect();
    assert_eq!(lines.len(), 4 + 5, "{lines:?}");

    for (line, broker) in lines {
        if !provided(folder.path(), &line) {
            continue;
        }
        if line.contains("Consumer(") {
            // It goes on as long as there are events.
            let mut running = start(folder.path(), broker, &format!("exec {line}"));
            let event: serde_json::Value = serde_json::from_str(&running.line()).expect("an event");
            assert!(event["order"].is_u64(), "{line}: {event}");
            continue;
        }
        let ran = well(folder.path(), broker, &line);
        let printed: Vec<&str> = ran.stdout.lines().collect();
        match line.split(' ').take(2).collect::<Vec<_>>()[..] {
            ["python3", _] => {
                assert_eq!(printed, ["0"], "{line}: nothing is left to send");
                let values = run_with(&bootstrap, "consume orders -e -f %v\\n", "").stdout;
                assert_eq!(values.lines().filter(|value| *value == "hello").count(), 1, "{line}");
            }
            ["kcat" | "kafka-console-consumer", _] => assert_eq!(printed.len(), 5, "{line}: {ran:?}"),
            ["alluvium", "consume"] => assert_eq!(printed.len(), 1 + 5, "{line}: {ran:?}"),
            ["alluvium", "group"] => assert_eq!(printed.len(), 1 + 6, "{line}: {ran:?}"),
            ["alluvium", "produce"] => {
                let read = run_with(&bootstrap, "consume orders -e -f %k=%v\\n", "").stdout;
                let ours = |record: &&str| *record == r#"me={"hello":"world"}"#;
                assert_eq!(read.lines().filter(ours).count(), 1, "{line}");
            }
            _ => panic!("{line}: nobody says what it prints"),
        }
    }
    demo.interrupt();
    assert_eq!(demo.end().code, 130);
}

/// The lines of README for real data do what it says of them, in their order, with a file of flights of the same form.
#[test]
fn the_lines_for_real_data_work() {
    let Some(_) = toolchain::jq() else { return };
    let folder = folder();
    // As in the file, the rows are not in time order.
    let row = |n: usize| {
        let (carrier, day) = (["AA", "UA", "UA"][n % 3], ["20", "10"][n % 2]);
        format!("{carrier},{n},N{n:03},EWR,IAH,2013-01-{day}T05:00:00Z\n")
    };
    let csv =
        "carrier,flight,tailnum,origin,dest,time_hour\n".to_owned() + &(0..300).map(row).collect::<String>();
    write(folder.path().join("flights.csv"), csv).expect("writing");
    symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests"), folder.path().join("tests"))
        .expect("a link");
    let broker = Broker::ephemeral();
    for line in block(REAL_DATA) {
        let ran = well(folder.path(), Some(&broker.bootstrap), line);
        let rows: Vec<Vec<&str>> = ran.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
        match line.split_whitespace().take(4).collect::<Vec<_>>()[..] {
            ["alluvium", "topic", "create", ..] => {}
            ["python3", ..] | ["alluvium", "produce", ..] => {}
            ["alluvium", "consume", _, "-g"] => {
                assert_eq!(rows, [["100", "AA"], ["200", "UA"]], "{line}");
            }
            ["alluvium", "group", "lag", ..] => {
                assert_eq!(rows.len(), 1 + 12, "{line}: {ran:?}");
                assert!(rows[1..].iter().all(|row| row.last() == Some(&"0")), "{line}: {ran:?}");
            }
            ["alluvium", "consume", _, "-o"] => {
                let ["flights", "0", _, "2013-01-20T05:00:00.000Z", ..] = rows[1][..] else {
                    panic!("{line}: {ran:?}")
                };
                assert_eq!(rows.len(), 2, "{line}: {ran:?}");
            }
            _ => panic!("{line}: nobody says what it does"),
        }
    }
    let ran = run_with(&broker.bootstrap, "topic offsets flights -O json", "");
    let records: Vec<_> = self::rows(&ran).iter().filter_map(|row| row["records"].as_i64()).collect();
    assert_eq!((records.len(), records.iter().sum::<i64>()), (12, 300), "{ran:?}");
}

/// No line of README that begins with one of these programs stands outside of the blocks that are run.
#[test]
fn no_line_of_readme_is_left_out() {
    let run: Vec<&str> = [block(CLIENTS), block(REAL_DATA)].concat();
    let programs = ["alluvium", "kcat", "kafka-console-consumer"];
    for line in
        README.lines().filter(|line| line.split(' ').next().is_some_and(|word| programs.contains(&word)))
    {
        assert!(run.contains(&line), "{line}");
    }
}
