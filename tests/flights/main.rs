//! Real input: the flights of 2013 through an outside client, three groups that read them independently, and a broker that
//! is killed midway. `flights.py` is the client; what it counts must equal what it computes straight from the file.

#[path = "../support/mod.rs"]
mod support;

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use support::{
    broker::Broker,
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

/// The same from the command line: `produce --jsonl -F` and `consume -g`.
///
/// Proves: O6.
#[test]
fn from_the_command_line() {
    let Some(flights) = Flights::fetch() else { return };
    let totals = flights.json(&["totals", flights.csv()]);
    let broker = Broker::ephemeral();
    create(&broker);
    let folder = tempfile::tempdir().expect("a folder");
    let jsonl = folder.path().join("flights.jsonl");
    std::fs::write(&jsonl, run_well(&mut flights.command(&["jsonl", flights.csv()]), "").stdout)
        .expect("writing");
    run_well(
        &mut alluvium(&broker, &["produce", "flights", "--jsonl", "-F", jsonl.to_str().expect("UTF-8")]),
        "",
    );

    let read = run_well(
        &mut alluvium(&broker, &["consume", "flights", "-g", "counts", "-o", "start", "-e", "--jsonl"]),
        "",
    );
    let mut carriers = serde_json::Map::new();
    let mut without_tail = 0;
    for line in read.stdout.lines() {
        let record: Value = serde_json::from_str(line).expect("JSON");
        without_tail += u64::from(record["key"].is_null());
        let value: Value = serde_json::from_str(record["value"].as_str().expect("text")).expect("JSON");
        let count = carriers.entry(value["carrier"].as_str().expect("a carrier")).or_insert(0.into());
        *count = (count.as_u64().expect("a count") + 1).into();
    }
    assert_eq!(Value::Object(carriers), totals["carriers"]);
    assert_eq!(totals["without_tail"], without_tail);
    let again =
        run_well(&mut alluvium(&broker, &["consume", "flights", "-g", "counts", "-e", "--jsonl"]), "");
    assert_eq!(again.stdout, "", "the group goes on behind what it committed");
}
