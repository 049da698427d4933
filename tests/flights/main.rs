//! Real input: the flights of 2013 through an outside client, three groups that read them independently, and a broker that
//! is killed midway. `flights.py` is the client; what it counts must equal what it computes straight from the file.

#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::{BTreeMap, HashSet},
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{
    broker::{Broker, http_get},
    toolchain::{self, run_well},
};

/// The script with its interpreter, and the data; `None` where a toolchain is absent.
struct Flights {
    python: PathBuf,
    script: PathBuf,
    csv: PathBuf,
}

impl Flights {
    fn fetch() -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/flights/flights.py");
        Some(Self { python: toolchain::python()?, script, csv: toolchain::flights()? })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(&self.script).args(arguments);
        command
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let printed = run_well(&mut self.command(arguments), "").stdout;
        serde_json::from_str(printed.lines().last().expect("a line")).expect("JSON")
    }

    fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python")
    }

    fn csv(&self) -> &str {
        self.csv.to_str().expect("a path in UTF-8")
    }
}

/// Waits for a script and returns the last line of what it printed.
fn finish(mut child: Child, mut stdout: impl Read) -> String {
    let mut text = String::new();
    stdout.read_to_string(&mut text).expect("its output");
    let mut errors = String::new();
    child.stderr.take().expect("a piped stderr").read_to_string(&mut errors).expect("its errors");
    assert!(child.wait().expect("its end").success(), "{text}\n{errors}");
    text.lines().last().unwrap_or_default().to_owned()
}

fn alluvium(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alluvium"));
    command.args(arguments).args(["--brokers", &broker.bootstrap]);
    command
}

fn create(broker: &Broker) {
    let topic = ["topic", "create", "flights", "--partitions", "12", "--config", "retention.ms=-1"];
    run_well(&mut alluvium(broker, &topic), "");
}

/// Group A counts per carrier while the rows come in; the broker is killed with -9 midway and started again; group B joins
/// later and seeks by time; group C replays from offset 0 after A has finished. All totals are those of the file, and the
/// scripts check the order per tail number.
///
/// Proves: I5, I7, L2, O6, O7, P12.
#[test]
fn three_groups_and_a_kill() {
    let Some(flights) = Flights::fetch() else { return };
    let totals = flights.json(&["totals", flights.csv()]);
    let records = totals["records"].to_string();
    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &[]);
    let bootstrap = broker.bootstrap.clone();
    create(&broker);

    let mut a = flights.start(&["count", &bootstrap, "flights", "A", &records]);
    let a_stdout = a.stdout.take().expect("a piped stdout");
    let mut producer = flights.start(&["produce", &bootstrap, "flights", flights.csv()]);
    let mut progress = BufReader::new(producer.stdout.take().expect("a piped stdout"));
    let mut line = String::new();
    while line.trim() != "100000" {
        line.clear();
        assert_ne!(
            progress.read_line(&mut line).expect("its progress"),
            0,
            "{}",
            finish(producer, std::io::empty())
        );
    }
    broker.kill();
    let broker = Broker::again(data.path(), &bootstrap, &[]);
    assert_eq!(finish(producer, progress), format!("produced {records}"));

    let since = flights.json(&["since", &bootstrap, "flights", "B", &totals["since_ms"].to_string()]);
    assert_eq!(since["records"], totals["since"], "group B");
    let a: Value = serde_json::from_str(&finish(a, a_stdout)).expect("JSON");
    assert_eq!(a["records"], totals["records"], "group A");
    assert_eq!(a["carriers"], totals["carriers"], "group A");
    let c = flights.json(&["count", &bootstrap, "flights", "C", &records]);
    assert_eq!(c["carriers"], totals["carriers"], "group C");
    drop(broker);
}

/// Records by tail number, in their order; those without one in the order of their text, for they have no order.
type ByTail = BTreeMap<Option<String>, Vec<String>>;

/// One record as `consume --jsonl` prints it.
#[derive(serde::Deserialize)]
struct Printed {
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Option<String>,
    value: String,
}

/// What a group read, each position once.
fn by_tail(records: impl IntoIterator<Item = (Option<String>, String)>) -> ByTail {
    let mut tails = ByTail::new();
    for (key, value) in records {
        tails.entry(key).or_default().push(value);
    }
    if let Some(without) = tails.get_mut(&None) {
        without.sort_unstable();
    }
    tails
}

fn printed(lines: &str) -> impl Iterator<Item = Printed> {
    lines.lines().map(|line| serde_json::from_str(line).expect("a record as JSON"))
}

/// A group that goes on until every record was seen, then is interrupted, which is how it leaves.
fn follow(mut group: Child, records: usize) -> ByTail {
    let mut lines = BufReader::new(group.stdout.take().expect("a piped stdout")).lines();
    let (mut seen, mut read) = (HashSet::new(), Vec::new());
    while read.len() < records {
        let line =
            lines.next().unwrap_or_else(|| panic!("{} of {records} read", read.len())).expect("its output");
        let record: Printed = serde_json::from_str(&line).expect("a record as JSON");
        // after the kill it may read again from its last commit
        if seen.insert((record.partition, record.offset)) {
            read.push((record.key, record.value));
        }
    }
    let pid = i32::try_from(group.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::INT).expect("interrupting the group");
    assert!(lines.all(|line| line.is_ok_and(|line| line.contains("offset"))), "nothing new is left");
    assert_eq!(group.wait().expect("its end").code(), Some(130));
    by_tail(read)
}

/// The same from the command line, with `produce --jsonl -F` and `consume -g`: what each group reads is what the file says, in the
/// order of each tail number, though the broker is killed with -9 midway.
///
/// Proves: O6, P12.
#[test]
fn from_the_command_line() {
    let Some(flights) = Flights::fetch() else { return };
    let totals = flights.json(&["totals", flights.csv()]);
    let folder = tempfile::tempdir().expect("a folder");
    let jsonl = folder.path().join("flights.jsonl");
    let lines = run_well(&mut flights.command(&["jsonl", flights.csv()]), "").stdout;
    std::fs::write(&jsonl, &lines).expect("writing");
    let expected = by_tail(lines.lines().map(|line| {
        let mut record: Value = serde_json::from_str(line).expect("JSON");
        let text = |value: Value| value.as_str().map(str::to_owned);
        (text(record["key"].take()), text(record["value"].take()).expect("a value"))
    }));
    let records: usize = expected.values().map(Vec::len).sum();
    assert_eq!(totals["records"], records);
    assert_eq!(totals["without_tail"], expected[&None].len());

    let data = tempfile::tempdir().expect("a data directory");
    let mut broker = Broker::on(data.path(), &[]);
    create(&broker);
    let spawn = |broker: &Broker, arguments: &[&str]| -> Child {
        alluvium(broker, arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("alluvium")
    };
    let a = spawn(&broker, &["consume", "flights", "-g", "A", "-o", "start", "--jsonl"]);
    let a = std::thread::spawn(move || follow(a, records));
    let mut producer =
        spawn(&broker, &["produce", "flights", "--jsonl", "-F", jsonl.to_str().expect("a path in UTF-8")]);
    while written(&broker) < records / 4 {
        assert!(producer.try_wait().expect("the producer").is_none(), "it is to be killed midway");
    }
    let bootstrap = broker.bootstrap.clone();
    broker.kill();
    assert!(producer.try_wait().expect("the producer").is_none(), "it is to be killed midway");
    let broker = Broker::again(data.path(), &bootstrap, &[]);
    assert!(producer.wait().expect("the producer").success());

    let since = totals["since_ms"].as_i64().expect("a time");
    let b = ["consume", "flights", "-g", "B", "-o", "@2013-01-15T00:00Z", "-e", "--jsonl"];
    let b: Vec<Printed> = printed(&run_well(&mut alluvium(&broker, &b), "").stdout).collect();
    let mut first = BTreeMap::new();
    for record in &b {
        first.entry(record.partition).or_insert(record.timestamp);
    }
    assert!(first.len() == 12 && first.values().all(|timestamp| *timestamp >= since), "{first:?}");
    assert_eq!(totals["since"], b.iter().filter(|record| record.timestamp >= since).count(), "group B");

    assert!(a.join().expect("group A") == expected, "group A");
    let c = ["consume", "flights", "-g", "C", "-o", "start", "-e", "--jsonl"];
    let read = run_well(&mut alluvium(&broker, &c), "").stdout;
    assert!(by_tail(printed(&read).map(|record| (record.key, record.value))) == expected, "group C");
    assert_eq!(
        run_well(&mut alluvium(&broker, &c), "").stdout,
        "",
        "a group goes on behind what it committed"
    );
}

/// Records of the topic that the broker has.
fn written(broker: &Broker) -> usize {
    let text = http_get(&broker.admin, "/metrics");
    let name = "kafka_server_brokertopicmetrics_messagesin_total{topic=\"flights\"} ";
    text.lines().find_map(|line| line.strip_prefix(name)).map_or(0, |count| count.parse().expect("a number"))
}
