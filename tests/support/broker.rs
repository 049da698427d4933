//! The real binary as a child process: started on free ports, killed when the guard is dropped.

use std::{
    fs::Permissions,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// How long a broker may take until it says that it is ready; far above what it needs, so that a busy machine passes.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How a broker ended that did not become ready.
pub(crate) struct Refused {
    /// What it wrote to stderr.
    pub(crate) log: String,
    /// Its exit code; none where it had to be killed.
    pub(crate) code: Option<i32>,
}

/// A running `alluvium server`.
pub(crate) struct Broker {
    child: Child,
    /// `host:port` for Kafka clients.
    pub(crate) bootstrap: String,
    /// `host:port` of the HTTP side.
    pub(crate) admin: String,
    log: Arc<Mutex<String>>,
}

impl Broker {
    /// A broker on a temporary directory of its own.
    pub(crate) fn ephemeral() -> Self {
        Self::ephemeral_with(&[])
    }

    /// [`Broker::ephemeral`] with more arguments.
    pub(crate) fn ephemeral_with(arguments: &[&str]) -> Self {
        Self::start(&[&["--ephemeral"], arguments].concat())
    }

    /// [`Broker::ephemeral_with`] for a static that is never dropped: it ends with the process of the tests, however that ends.
    /// Its process id is that of the shell that waits for it.
    pub(crate) fn ephemeral_until_exit(arguments: &[&str]) -> Self {
        // The shell's stdin is a pipe that this process holds open: when it is gone, the read ends.
        let script =
            r#"exec 3<&0; "$0" "$@" </dev/null & broker=$!; read -r _ <&3; kill "$broker"; wait "$broker""#;
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_alluvium")]);
        Self::ready(Self::spawn_with(command, "0", &[&["--ephemeral"], arguments].concat(), Stdio::piped()))
    }

    /// [`Broker::ephemeral_with`] for a process that may have so many descriptors.
    pub(crate) fn ephemeral_with_descriptors(descriptors: u32, arguments: &[&str]) -> Self {
        let mut command = Command::new("sh");
        let script = format!(r#"ulimit -n {descriptors}; exec "$0" "$@""#);
        command.args(["-c", &script, env!("CARGO_BIN_EXE_alluvium")]);
        Self::ready(Self::spawn(command, "0", &[&["--ephemeral"], arguments].concat()))
    }

    /// [`Broker::ephemeral`] whose temporary directories are made in `folder`.
    pub(crate) fn ephemeral_in(folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_alluvium"));
        command.env("TMPDIR", folder);
        Self::ready(Self::spawn(command, "0", &["--ephemeral"]))
    }

    /// A broker on `data`, which outlives it.
    pub(crate) fn on(data: &Path, arguments: &[&str]) -> Self {
        let data = data.to_str().expect("a data directory in UTF-8");
        Self::start(&[&["--data-dir", data], arguments].concat())
    }

    /// A broker on `data` that runs as the user nobody, so that permissions bind it.
    pub(crate) fn on_as_nobody(data: &Path) -> Self {
        // Nobody may not enter every folder on the way to the binary: a copy beside the data can be reached.
        let folder =
            tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().expect("a folder");
        let program = folder.path().join("alluvium");
        std::fs::copy(env!("CARGO_BIN_EXE_alluvium"), &program).expect("copying the binary");
        let mut command = Command::new("setpriv");
        // Its home is not the caller's, whose settings it could not read.
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .env("HOME", folder.path());
        let data = data.to_str().expect("a data directory in UTF-8");
        Self::ready(Self::spawn(command, "0", &["--data-dir", data]))
    }

    /// A broker on `data` at a fixed address, as after a restart: clients find it where it was.
    pub(crate) fn again(data: &Path, bootstrap: &str, arguments: &[&str]) -> Self {
        let data = data.to_str().expect("a data directory in UTF-8");
        let port = bootstrap.rsplit(':').next().expect("a port");
        Self::ready(Self::try_start_at(port, &[&["--data-dir", data], arguments].concat()))
    }

    /// Starts it on `data` as [`Broker::again`] does and kills it `after` that, ready or not.
    pub(crate) fn killed_while_starting(data: &Path, bootstrap: &str, arguments: &[&str], after: Duration) {
        let port = bootstrap.rsplit(':').next().expect("a port");
        let mut child = Command::new(env!("CARGO_BIN_EXE_alluvium"))
            .args(["server", "--port", port, "--admin-listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting alluvium");
        thread::sleep(after);
        drop(child.kill());
        drop(child.wait());
    }

    fn start(arguments: &[&str]) -> Self {
        Self::ready(Self::try_start(arguments))
    }

    fn ready(started: Result<Self, Refused>) -> Self {
        match started {
            Ok(broker) => broker,
            Err(Refused { log, code }) => panic!("the broker did not become ready ({code:?}):\n{log}"),
        }
    }

    /// Starts `alluvium server`; the error is how it ended.
    pub(crate) fn try_start(arguments: &[&str]) -> Result<Self, Refused> {
        Self::try_start_at("0", arguments)
    }

    fn try_start_at(port: &str, arguments: &[&str]) -> Result<Self, Refused> {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_alluvium")), port, arguments)
    }

    fn spawn(program: Command, port: &str, arguments: &[&str]) -> Result<Self, Refused> {
        Self::spawn_with(program, port, arguments, Stdio::null())
    }

    fn spawn_with(
        mut program: Command,
        port: &str,
        arguments: &[&str],
        stdin: Stdio,
    ) -> Result<Self, Refused> {
        let listens = arguments.contains(&"--listen");
        let port: &[&str] = if listens { &[] } else { &["--port", port] };
        let mut child = program
            .arg("server")
            .args(port)
            .args(["--admin-listen", "127.0.0.1:0", "--print-ready", "json"])
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting alluvium");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().expect("a piped stderr"));
        let reader = thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in stderr.lines().map_while(Result::ok) {
                    let mut log = log.lock().expect("the log");
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().expect("a piped stdout"));
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let read = stdout.read_line(&mut line);
            // The receiver is gone where the broker took too long; the test has failed by then.
            drop(sender.send(read.map(|_| line)));
        });
        let line = receiver.recv_timeout(START_LIMIT).ok().and_then(Result::ok);
        let Ok(ready) = serde_json::from_str::<serde_json::Value>(line.as_deref().unwrap_or_default()) else {
            // Where its output ended without a line, it ends by itself.
            if line.as_deref() != Some("") {
                drop(child.kill());
            }
            let code = child.wait().ok().and_then(|status| status.code());
            drop(reader.join());
            let log = log.lock().expect("the log").clone();
            return Err(Refused { log, code });
        };
        let text = |key: &str| ready[key].as_str().unwrap_or_default().to_owned();
        Ok(Self { child, bootstrap: text("bootstrap"), admin: text("admin"), log })
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to stderr so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// Waits until it has written `text` to stderr; panics where it does not within a minute.
    pub(crate) fn wait_for_log(&self, text: &str) {
        let end = std::time::Instant::now() + START_LIMIT;
        while !self.log().contains(text) {
            assert!(std::time::Instant::now() < end, "'{text}' is not in its log:\n{}", self.log());
            thread::yield_now();
        }
    }

    /// Kills it as `kill -9` does and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("signalling the broker");
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("waiting for the broker")
    }

    /// The most resident memory that it ever had, in bytes.
    pub(crate) fn peak_resident_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a line about memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
    }

    /// Processor time that it has used so far.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("its times");
        // Fields 14 and 15, counted behind the name in brackets, which is field 2; in hundredths of a second.
        let fields = stat.rsplit(')').next().expect("fields").split_whitespace().skip(11).take(2);
        fields.map(|ticks| Duration::from_millis(10 * ticks.parse::<u64>().expect("a number"))).sum()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- the broker's log ---\n{}", self.log());
        }
    }
}

/// What the admin port answers, head and all.
pub(crate) fn http_get(admin: &str, path: &str) -> String {
    try_http_get(admin, path).expect("an answer of the admin port")
}

/// [`http_get`] of a broker that may have ended.
pub(crate) fn try_http_get(admin: &str, path: &str) -> std::io::Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(admin)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: alluvium\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
