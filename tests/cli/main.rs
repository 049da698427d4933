//! The command line as a user has it: every leaf command as a table and as JSON against a running broker, with the same exit code in
//! both; malformed command lines; what scripts rely on.

#[path = "../support/mod.rs"]
mod support;

mod bench;
mod consume;
mod demo;
mod dump;
mod flags;
mod json;
mod offsets;
mod outputs;
mod produce;
mod readme;

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{OnceLock, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use json::document;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::broker::Broker;

/// The broker of the tests that only add topics of their own.
fn shared() -> &'static str {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    &BROKER.get_or_init(|| Broker::ephemeral_until_exit(&[])).bootstrap
}

/// What a command did.
#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

/// `program` with these arguments, separated by blanks, for this broker, and pipes.
fn command(mut program: Command, broker: &str, line: &str) -> Child {
    program
        .args(line.split_whitespace())
        .env("ALLUVIUM_BROKERS", broker)
        .env_remove("NO_COLOR")
        .env("HOME", env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starting alluvium")
}

/// Runs `alluvium` with these arguments, separated by blanks, and `input` on its standard input.
fn run_with(broker: &str, line: &str, input: &str) -> Ran {
    // Far longer than any command here takes: one that hangs ends with 124.
    let mut program = Command::new("timeout");
    program.args(["120", env!("CARGO_BIN_EXE_alluvium")]);
    let mut child = command(program, broker, line);
    // A command that does not read its input closes the pipe: its business.
    drop(child.stdin.take().expect("a pipe").write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("its end");
    Ran {
        code: output.status.code().expect("an exit code"),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// A command that runs beside the test; killed where it is dropped.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    fn start(broker: &str, line: &str) -> Self {
        Self::of(command(Command::new(env!("CARGO_BIN_EXE_alluvium")), broker, line))
    }

    fn of(mut child: Child) -> Self {
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut stderr = child.stderr.take().expect("a pipe");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The test may have ended.
                drop(sender.send(line));
            }
        });
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            drop(stderr.read_to_string(&mut text));
            text
        });
        Self { stdin: child.stdin.take(), child, lines, stderr: Some(stderr) }
    }

    /// The next line of its output; panics where none comes within a time that no working command needs.
    fn line(&mut self) -> String {
        self.lines.recv_timeout(Duration::from_secs(60)).expect("another line within a minute")
    }

    fn interrupt(&self) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process id");
        kill_process(pid, Signal::INT).expect("interrupting");
    }

    /// Waits for its end; `stdout` is what was not taken as lines.
    fn end(mut self) -> Ran {
        let deadline = Instant::now() + Duration::from_secs(120);
        let status = loop {
            match self.child.try_wait().expect("waiting") {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "it does not end"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        Ran {
            code: status.code().expect("an exit code"),
            stdout: self.lines.iter().map(|line| line + "\n").collect(),
            stderr: self.stderr.take().expect("its reader").join().expect("its text"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits until `holds`; fails after a time that no working broker needs.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn run(line: &str) -> Ran {
    run_with(shared(), line, "")
}

/// Runs a command that must work.
fn well(line: &str) -> Ran {
    let ran = run(line);
    assert_eq!(ran.code, 0, "{line}: {ran:?}");
    ran
}

/// A topic with records `value 0`, `value 1`, ... under the keys `k0`, `k1`, ...
fn topic(name: &str, records: usize) {
    well(&format!("topic create {name} --partitions 2"));
    let lines: String = (0..records)
        .map(|n| format!("{{\"key\":\"k{n}\",\"value\":\"value {n}\",\"partition\":{}}}\n", n % 2))
        .collect();
    let ran = run_with(shared(), &format!("produce {name} --jsonl"), &lines);
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// Records of a topic, by its offsets.
fn records_in(topic: &str) -> i64 {
    rows(&well(&format!("topic offsets {topic} -O json")))
        .iter()
        .filter_map(|row| row["records"].as_i64())
        .sum()
}

/// The rows of a command's JSON document.
fn rows(ran: &Ran) -> Vec<Value> {
    document(ran)["data"].as_array().expect("rows").clone()
}

/// Every command that prints rows: a table whose header is the one expected, and a JSON document, both with exit code 0.
#[test]
fn every_command_prints_a_table_and_json() {
    topic("every", 10);
    assert_eq!(run("consume every -g readers -o start -e").code, 0);
    for (line, header) in [
        ("topic list", "NAME"),
        ("topic describe every", "TOPIC"),
        ("topic offsets every", "TOPIC"),
        ("group list", "GROUP"),
        ("group describe readers", "GROUP"),
        ("group lag readers", "GROUP"),
        ("group seek readers --to start --dry-run", "REPLAYED"),
        ("cluster info", "BROKER"),
        ("api versions", "KEY"),
        ("bench produce --duration 1s --rate 200", "P99-MS"),
    ] {
        let table = run(line);
        assert_eq!(table.code, 0, "{line}: {table:?}");
        let first = table.stdout.lines().next().unwrap_or_default();
        assert!(first.contains(header), "{line}: {first}");
        assert!(!table.stdout.contains('\x1b'), "{line}: colour without a terminal");
        let json = run(&format!("{line} -O json"));
        assert_eq!(json.code, 0, "{line}: {json:?}");
        let document = document(&json);
        assert!(!document["data"].as_array().expect("data").is_empty(), "{line}");
        assert!(line.starts_with(document["command"].as_str().expect("a name")), "{line}: {document}");
        for mode in ["wide", "jsonl", "csv", "name"] {
            assert_eq!(run(&format!("{line} -O {mode}")).code, 0, "{line} -O {mode}");
        }
    }
}

/// What is not there is exit code 3, in every mode, at once.
#[test]
fn what_is_missing_is_not_found() {
    for line in [
        "topic describe no-such-topic",
        "topic offsets no-such-topic",
        "topic delete no-such-topic --yes",
        "consume no-such-topic",
        "group describe no-such-group",
        "group lag no-such-group",
        "group delete no-such-group --yes",
    ] {
        let started = Instant::now();
        let table = run(line);
        assert_eq!(table.code, 3, "{line}: {table:?}");
        assert!(!table.stderr.is_empty(), "{line}: says nothing");
        assert!(started.elapsed() < Duration::from_secs(20), "{line} waited");
        assert_eq!(run(&format!("{line} -O json")).code, 3, "{line} -O json");
    }
}

/// A broker that is not there is exit code 4, and the message names it.
#[test]
fn a_dead_broker_is_unreachable() {
    for line in [
        "topic list",
        "cluster info",
        "produce t v",
        "consume t",
        "consume t -g g",
        "group list",
        "bench produce",
        "api versions",
    ] {
        let ran = run_with("127.0.0.1:1", line, "");
        assert_eq!(ran.code, 4, "{line}: {ran:?}");
        assert!(ran.stderr.contains("127.0.0.1:1"), "{line}: {}", ran.stderr);
        let ran = run_with("127.0.0.1:1", &format!("{line} -O json"), "");
        assert_eq!((ran.code, ran.stderr.as_str()), (4, ""), "{line}: {ran:?}");
        assert_eq!(document(&ran)["errors"][0]["item"], "127.0.0.1:1", "{line}: {ran:?}");
    }
}

/// Malformed command lines: exit code 2, what is wrong, and nothing done.
#[test]
fn malformed_command_lines_change_nothing() {
    topic("untouched", 1);
    for (line, says) in [
        ("topic create untouched-2 --partitions many", "many"),
        ("topic create", "TOPIC"),
        ("produce untouched value -z zip", "zip"),
        ("produce untouched value --acks 2", "2"),
        ("consume untouched -o sideways", "sideways"),
        ("consume untouched -f %q", "%q"),
        ("topic offsets untouched -o 10:20", "range"),
        ("topic list -O yaml", "yaml"),
        ("nonsense", "nonsense"),
        ("group seek g --to tomorrow-ish", "tomorrow-ish"),
        ("topic delete untouched", "--yes"),
        ("api versions localhost:0", "localhost:0"),
        ("dump segment Cargo.toml", "Cargo.toml"),
    ] {
        let ran = run(line);
        assert_eq!(ran.code, 2, "{line}: {ran:?}");
        assert!(ran.stderr.contains(says), "{line}: {}", ran.stderr);
    }
    assert_eq!(records_in("untouched"), 1);
    assert_eq!(run("topic describe untouched-2").code, 3);
}

/// A server with a malformed command line or setting: exit code 2, what is wrong, where it stands and what was meant; nothing is made.
/// What only the system can refuse is exit code 1.
#[test]
fn a_server_refuses_what_is_malformed_before_it_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, home) = (folder.path().join("data"), folder.path().join("home"));
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("writing");
        path.display().to_string()
    };
    let run = |line: &str, variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_alluvium"));
        command.arg("server").args(line.split_whitespace()).current_dir(folder.path()).stdin(Stdio::null());
        command.env("ALLUVIUM_DATA_DIR", &data).env("HOME", &home).env_remove("XDG_CONFIG_HOME");
        let output = command.envs(variables.iter().copied()).output().expect("its end");
        assert!(!data.exists(), "{line}: it made its data directory");
        assert!(!folder.path().join("alluvium-data").exists(), "{line}: it made a data directory");
        Ran {
            code: output.status.code().expect("an exit code"),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    };
    let unknown = file("unknown.toml", "log.retention.msec = 1\n");
    let broken = file("broken.toml", "[log\n");
    let both = file("both.toml", "log.retention.hours = 24\n[client]\nbrokers = \"127.0.0.1:1\"\n");
    for check in ["", " --check-config"] {
        for (line, says) in [
            ("--nonsense".to_owned(), "--nonsense"),
            ("--set num.partitions".to_owned(), "not KEY=VALUE"),
            (
                "--set num.partitions=many".to_owned(),
                "--set: num.partitions = 'many': it takes a whole number",
            ),
            ("--set num.partition=2".to_owned(), "did you mean 'num.partitions'?"),
            ("--set log.cleanup.policy=bogus".to_owned(), "it takes any of compact, delete"),
            ("--set log.level=verbose".to_owned(), "'verbose' is none of error"),
            ("--listen SSL://127.0.0.1:0".to_owned(), "--listen: listeners = 'SSL'"),
            ("--node-id one".to_owned(), "--node-id: node.id = 'one'"),
            ("--ephemeral --data-dir x".to_owned(), "exclude each other"),
            (format!("-c {unknown}"), "unknown.toml: there is no setting 'log.retention.msec'"),
            (format!("-c {broken}"), "broken.toml"),
            ("-c no-such.toml".to_owned(), "no-such.toml"),
        ] {
            let ran = run(&format!("{line}{check}"), &[]);
            assert_eq!(ran.code, 2, "{line}{check}: {ran:?}");
            assert!(ran.stderr.contains(says), "{line}{check}: {}", ran.stderr);
            assert_eq!(ran.stdout, "", "{line}{check}");
        }
    }
    let ran = run("", &[("ALLUVIUM_LOG_RETENTION_HOURS", "a day")]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("ALLUVIUM_LOG_RETENTION_HOURS"), "{ran:?}");

    // A home that is no folder, and variables that only clients would mind, stop no server.
    let clients = [("HOME", "/dev/null"), ("ALLUVIUM_PARTITIONS", "0,1")];
    let ran = run(&format!("-c {both} --check-config --set node.id=7"), &clients);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    assert!(ran.stdout.contains("\"node.id\" = \"7\"  # --set\n"), "{}", ran.stdout);
    assert!(ran.stdout.contains(&format!("\"log.retention.hours\" = \"24\"  # {both}\n")), "{}", ran.stdout);
    assert!(ran.stdout.contains("# environment variable ALLUVIUM_DATA_DIR\n"), "{}", ran.stdout);

    let rows = document(&run(&format!("-c {both} --check-config -O json"), &[]))["data"].clone();
    let hours = rows.as_array().expect("rows").iter().find(|row| row["setting"] == "log.retention.hours");
    assert_eq!(hours.expect("a row of it")["value"], "24", "{rows}");

    // What it prints is a file of settings that says the same.
    let printed = file("printed.toml", &ran.stdout);
    let again = run(&format!("-c {printed} --check-config"), &[]);
    assert_eq!((again.code, again.stderr.as_str()), (0, ""), "{again:?}");
    assert!(again.stdout.contains(&format!("\"node.id\" = \"7\"  # {printed}\n")), "{}", again.stdout);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port();
    let ran = run(&format!("--port {port} --admin-listen 127.0.0.1:0"), &[]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains(&format!("could not listen on PLAINTEXT://127.0.0.1:{port}")), "{ran:?}");
}

/// A broker that takes a connection and says nothing is asked once.
#[test]
fn a_broker_that_never_answers_is_asked_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut bytes = Vec::new();
        drop(stream.read_to_end(&mut bytes));
        bytes
    });
    let ran = run_with(&address, "topic list --timeout 300ms", "");
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.stderr.contains("did not answer ApiVersions within 300 ms"), "{ran:?}");
    let asked = asked.join().expect("what it was asked");
    let length = asked.first_chunk::<4>().map(|bytes| i32::from_be_bytes(*bytes)).expect("a frame");
    assert_eq!(asked.len(), 4 + length as usize, "one frame");
}

/// A group that is moved to offsets from a file never gets behind an end, and is not moved at all where a line is wrong.
#[test]
fn a_group_is_moved_inside_its_partitions() {
    well("topic create inside --partitions 1");
    assert_eq!(run_with(shared(), "produce inside", "a\nb\nc\n").code, 0);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("offsets");
    let seek = |text: &str| {
        std::fs::write(&file, text).expect("writing");
        run(&format!("group seek moved-far --to-file {} -O json", file.display()))
    };
    assert_eq!(seek("").code, 2);
    let wrong = seek("inside 0 1\ninside 9 1\n");
    assert_ne!(wrong.code, 0, "{wrong:?}");
    assert_ne!(run("group describe moved-far").code, 0, "nothing was to be moved");
    let ran = seek("inside 0 99999\n");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(document(&ran)["data"][0]["then"], 3, "{ran:?}");
}

/// `ALLUVIUM_CONFIG` names the file of a server; a topic's settings are none of its business.
#[test]
fn the_variable_of_the_configuration_file_is_the_servers() {
    let output = Command::new(env!("CARGO_BIN_EXE_alluvium"))
        .args(["topic", "create", "variables"])
        .envs([("ALLUVIUM_BROKERS", shared()), ("ALLUVIUM_CONFIG", "/etc/alluvium/alluvium.toml")])
        .output()
        .expect("its end");
    assert!(output.status.success(), "{output:?}");
    let output = Command::new(env!("CARGO_BIN_EXE_alluvium"))
        .args(["server", "--check-config"])
        .env("ALLUVIUM_CONFIG", "/no/such/file.toml")
        .output()
        .expect("its end");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// What goes in comes out: keys, null keys, tombstones, headers, partitions, in JSONL and by format.
#[test]
fn records_survive_the_round_trip() {
    well("topic create round --partitions 3");
    let input = concat!(
        "{\"partition\":0,\"key\":\"k\",\"value\":\"v\",\"headers\":[[\"h\",\"1\"],[\"h\",null]],\"timestamp\":1700000000000}\n",
        "{\"partition\":1,\"key\":null,\"value\":{\"base64\":\"/w==\"}}\n",
        "{\"partition\":2,\"key\":\"gone\",\"value\":null}\n",
    );
    let ran = run_with(shared(), "produce round --jsonl", input);
    assert_eq!(ran.code, 0, "{ran:?}");
    let read = well("consume round -o start -e --jsonl");
    let mut records: Vec<Value> =
        read.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    records.sort_by_key(|record| record["partition"].as_i64());
    assert_eq!(records.len(), 3);
    assert_eq!(records[0]["key"], "k");
    assert_eq!(records[0]["headers"], serde_json::json!([["h", "1"], ["h", null]]));
    assert_eq!(records[0]["timestamp"], 1_700_000_000_000_i64);
    assert_eq!((&records[1]["key"], &records[1]["value"]["base64"]), (&Value::Null, &Value::from("/w==")));
    assert_eq!((&records[2]["key"], &records[2]["value"]), (&Value::from("gone"), &Value::Null));
    let formatted = well("consume round -p 0 -o start -e -f %t|%p|%o|%k|%v\\n");
    assert_eq!(formatted.stdout, "round|0|0|k|v\n");
}

/// A group reads to the end it saw, commits, and goes on from there; `--max` turns lag into exit code 6; `seek` moves it.
#[test]
fn a_group_commits_lags_and_is_moved() {
    topic("moved", 20);
    let first = well("consume moved -g movers -o start -e --jsonl");
    assert_eq!(first.stdout.lines().count(), 20);
    assert_eq!(well("consume moved -g movers -e --jsonl").stdout, "");
    assert_eq!(run("group lag movers --max 0").code, 0);
    well("produce moved one-more -k k0");
    assert_eq!(run("group lag movers --max 0").code, 6);
    let planned = document(&well("group seek movers --to start --dry-run -O json"));
    assert!(!planned["data"].as_array().expect("rows").is_empty());
    assert_eq!(run("group lag movers --max 1").code, 0, "a dry run changes nothing");
    well("group seek movers --to start");
    assert_eq!(well("consume moved -g movers -e --jsonl").stdout.lines().count(), 21);
    well("group delete movers --yes");
    assert_eq!(run("group describe movers").code, 3);
}

/// Each file of a stopped broker is printed; damage is said and is exit code 1.
#[test]
fn dump_prints_the_files_of_a_stopped_broker() {
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &["--set", "log.segment.bytes=1048576"]);
    let create = run_with(&broker.bootstrap, "topic create dumped", "");
    assert_eq!(create.code, 0, "{create:?}");
    let lines: String = (0..20_000).map(|n| format!("value {n} {}\n", "x".repeat(100))).collect();
    assert_eq!(run_with(&broker.bootstrap, "produce dumped", &lines).code, 0);
    broker.terminate();
    assert!(broker.wait().success());
    let file = |extension| {
        data.path().join(format!("dumped-0/00000000000000000000.{extension}")).display().to_string()
    };
    let batches = document(&well(&format!("dump segment {} -O json", file("log"))));
    let rows = batches["data"].as_array().expect("rows");
    assert_eq!((&rows[0]["file"], &rows[0]["base_offset"]), (&file("log").into(), &0.into()));
    let last = rows.last().expect("a row")["last_offset"].as_i64().expect("an offset");
    let records = well(&format!("dump segment --records {} -O jsonl", file("log")));
    assert_eq!(records.stdout.lines().count() as i64, last + 1);
    for kind in ["index", "timeindex"] {
        let entries = document(&well(&format!("dump {kind} {} -O json", file(kind))));
        assert!(!entries["data"].as_array().expect("rows").is_empty(), "{kind}");
    }
    let all = |extension| {
        let mut files: Vec<_> = std::fs::read_dir(data.path().join("dumped-0"))
            .expect("the folder")
            .map(|entry| entry.expect("an entry").path().display().to_string())
            .filter(|path| path.ends_with(extension))
            .collect();
        files.sort();
        files
    };
    let segments = all(".log");
    let table = well(&format!("dump segment {}", segments.join(" ")));
    for segment in &segments {
        assert!(table.stdout.lines().any(|line| line.starts_with(segment)), "{segment}:\n{}", table.stdout);
    }
    let snapshots = all(".snapshot");
    let newest = snapshots.last().expect("a snapshot is written at a clean stop or a roll");
    let producers = document(&well(&format!("dump producers {newest} -O json")));
    assert!(!producers["data"].as_array().expect("rows").is_empty(), "the producer was idempotent");

    let cut = data.path().join("00000000000000000000.log");
    let whole = std::fs::read(file("log")).expect("the segment");
    std::fs::write(&cut, &whole[..whole.len() - 10]).expect("a cut copy");
    let ran = run(&format!("dump segment {}", cut.display()));
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("no batch begins"), "{}", ran.stderr);
}

/// A reader that closes the pipe ends a command quietly.
#[test]
fn a_closed_pipe_is_no_error() {
    topic("piped", 2000);
    let script = format!(
        "{} consume piped -o start -e --jsonl | head -n 1; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_alluvium")
    );
    let output =
        Command::new("bash").args(["-c", &script]).env("ALLUVIUM_BROKERS", shared()).output().expect("bash");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text.lines().last(), Some("0"), "{text}");

    // The reading end is closed before anything is written.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_alluvium"))
        .args(["server", "--check-config"])
        .stdout(writer)
        .output()
        .expect("its end");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
