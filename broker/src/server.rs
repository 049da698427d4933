//! Starting, running and stopping a broker.
//!
//! ```text
//! thread "main"    one runtime: sockets of clients, Raft cores, request handlers
//! thread "admin"   one runtime: HTTP, signals, the clock's correction, housekeeping
//! threads of `replication`: the flusher's        threads of tokio: reads that wait for the disk
//! ```
//! Order of a start: limits, listeners bound (a taken port is said before any recovery), admin port served, node
//! recovered, clients accepted, ready line. Order of a stop: connections finish what runs, node checkpoints.

use std::{
    collections::HashMap,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use anyhow::Context as _;
use log_store::disk::Disk;
use prometheus::Histogram;
use replication::{Node, NodeOptions, metadata::BrokerInfo};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime,
    signal::unix::{SignalKind, signal},
};

use crate::{
    api::{Broker, Endpoint},
    clock::{CORRECTION_INTERVAL, Clock, entropy},
    config::{Config, Origin, log_filter},
    connection,
    ephemeral::Ephemeral,
    http::{self, Admin},
    limits::Limits,
    metrics,
    stopping::Stopping,
    topics,
};

/// How long a stop waits for connections to finish.
const DRAIN: Duration = Duration::from_secs(5);
/// Retention is not looked at more often than this, whatever the settings say.
const SHORTEST_CHECK: Duration = Duration::from_millis(50);
/// Bytes of each file of the write-ahead log of an ephemeral server.
const EPHEMERAL_WAL_FILE_BYTES: u64 = 4 << 20;

/// How a server is run besides its settings.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The settings.
    pub config: Config,
    /// Data in a temporary directory that is removed at the end.
    pub ephemeral: bool,
    /// The first line on stdout tells the addresses, as JSON.
    pub print_ready: bool,
    /// Where temporary directories are made.
    pub temporary: PathBuf,
    /// The disk.
    pub disk: Arc<dyn Disk>,
}

/// Where a running server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The first listener, as clients are told.
    pub bootstrap: String,
    /// The admin port, if there is one.
    pub admin: Option<String>,
    /// Node id.
    pub node_id: i32,
}

/// Runs a server until it is told to stop by SIGTERM or SIGINT.
///
/// # Errors
/// It could not start.
pub fn run(options: ServerOptions) -> anyhow::Result<()> {
    log_to_stderr(&options.config)?;
    run_until(options, None, |_| {})
}

/// Runs a server until `stop` completes (or a signal comes, where it is none); calls `ready` once it serves. For
/// brokers inside another process, which logs as it likes.
///
/// # Errors
/// It could not start.
pub fn run_until(
    options: ServerOptions,
    stop: Option<tokio::sync::oneshot::Receiver<()>>,
    ready: impl FnOnce(&Addresses),
) -> anyhow::Result<()> {
    let ServerOptions { config, ephemeral, print_ready, temporary, disk } = options;
    let (config, ephemeral) = match ephemeral {
        true => {
            let (config, ephemeral) = make_ephemeral(config, &temporary)?;
            (config, Some(ephemeral))
        }
        false => (config, None),
    };
    let main = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(16)
        .thread_name("blocking")
        .on_thread_start(yield_to_commits)
        .build()
        .context("could not start the runtime")?;
    let admin = AdminThread::start().context("could not start the admin thread")?;
    let stopping = Arc::new(Stopping::default());
    match stop {
        None => {
            let stopping = Arc::clone(&stopping);
            admin.runtime.spawn(async move { watch_signals(&stopping).await });
        }
        Some(stop) => {
            let stopping = Arc::clone(&stopping);
            admin.runtime.spawn(async move {
                // A sender that is gone means the same as a message.
                let _ = stop.await;
                stopping.set();
            });
        }
    }
    let result = main.block_on(serve(config, disk, stopping, &admin, |addresses| {
        if print_ready {
            let line = json!({
                "bootstrap": addresses.bootstrap,
                "admin": addresses.admin,
                "pid": std::process::id(),
                "node_id": addresses.node_id,
            });
            let mut stdout = std::io::stdout().lock();
            // Whoever started us may not care to read it.
            let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        }
        ready(addresses);
    }));
    admin.stop();
    // A read that waits for a disk must not hold up the end.
    main.shutdown_timeout(Duration::from_secs(1));
    drop(ephemeral);
    result
}

fn make_ephemeral(config: Config, parent: &Path) -> anyhow::Result<(Config, Ephemeral)> {
    let ephemeral = Ephemeral::create(parent)
        .with_context(|| format!("could not make a temporary directory in {}", parent.display()))?;
    let data_dir = ephemeral.data_dir();
    let data_dir = data_dir.to_str().with_context(|| format!("{} is not UTF-8", data_dir.display()))?;
    let mut changes = vec![
        ("log.dir", data_dir.to_owned()),
        ("wal.dir", String::new()),
        ("wal.file.bytes", EPHEMERAL_WAL_FILE_BYTES.to_string()),
    ];
    const DELAY: &str = "group.initial.rebalance.delay.ms";
    if config.values[DELAY].1 == Origin::Default {
        changes.push((DELAY, "0".to_owned()));
    }
    Ok((config.change(&changes, &Origin::Flag("--ephemeral"))?, ephemeral))
}

async fn serve(
    config: Config,
    disk: Arc<dyn Disk>,
    stopping: Arc<Stopping>,
    admin_thread: &AdminThread,
    ready: impl FnOnce(&Addresses),
) -> anyhow::Result<()> {
    let clock = Clock::system();
    let limits = Limits::raise();
    let sockets = bind_listeners(&config)?;
    let endpoints = endpoints(&config, &sockets)?;
    let admin = Admin::new(clock.clone());
    let admin_address = match &config.admin_listen {
        Some(address) => Some(admin_thread.serve(address, admin.clone()).await?),
        None => None,
    };
    let fsync_seconds = metrics::fsync_seconds()?;
    let options =
        node_options(&config, disk, &clock, &endpoints, admin.clone(), &limits, fsync_seconds.clone());
    let node = Node::start(options)
        .await
        .with_context(|| format!("could not open the data directory {}", config.data_dir.display()))?;
    let addresses = Addresses {
        bootstrap: format!("{}:{}", endpoints[0].host, endpoints[0].port),
        admin: admin_address.map(|address| address.to_string()),
        node_id: config.node_id,
    };
    let broker =
        Broker::new(config, clock.clone(), Arc::clone(&node), endpoints, limits, stopping, fsync_seconds)?;
    let broker = Arc::new(broker);
    broker.coordinators.load(&broker);
    let mut accepting = Vec::new();
    let by_address = ByAddress::default();
    for (index, (socket, _)) in sockets.into_iter().enumerate() {
        let listener = socket.listen(1_024).context("could not listen")?;
        accepting.push(tokio::spawn(accept(Arc::clone(&broker), listener, index, Arc::clone(&by_address))));
    }
    admin_thread.runtime.spawn(async move {
        loop {
            tokio::time::sleep(CORRECTION_INTERVAL).await;
            clock.correct();
        }
    });
    admin_thread.runtime.spawn(keep_retention(Arc::clone(&broker)));
    // On this runtime, which is what is watched.
    tokio::spawn(admin.clone().tick());
    admin.started(Arc::clone(&broker));
    tracing::info!(
        node_id = addresses.node_id,
        bootstrap = %addresses.bootstrap,
        admin = addresses.admin.as_deref().unwrap_or("none"),
        data_dir = %broker.config.data_dir.display(),
        descriptors = limits.descriptors,
        "ready"
    );
    ready(&addresses);

    broker.stopping.wait().await;
    tracing::info!("stopping: finishing requests");
    for task in accepting {
        task.abort();
    }
    drain(&broker).await;
    node.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

/// Niceness of the threads that wait for the disk on a reader's behalf.
const READER_NICE: i32 = 10;

/// Where there is no processor to spare, who replays old records waits for who commits new ones.
fn yield_to_commits() {
    // Linux keeps the niceness of each thread apart. Refused, it only costs producers some latency.
    _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), READER_NICE);
}

/// Gives up old segments and idle producers, again and again.
async fn keep_retention(broker: Arc<Broker>) {
    let producers = i64::try_from(broker.config.producer_id_expiration.as_millis()).unwrap_or(i64::MAX);
    let often = broker.config.retention_check_interval.min(broker.config.producer_id_expiration);
    loop {
        tokio::time::sleep(often.max(SHORTEST_CHECK)).await;
        broker.node.retention(broker.clock.now_ms() - broker.clock.doubt_ms(), producers).await;
    }
}

pub(crate) fn node_options(
    config: &Config,
    disk: Arc<dyn Disk>,
    clock: &Clock,
    endpoints: &[Endpoint],
    admin: Admin,
    limits: &Limits,
    fsync_seconds: Histogram,
) -> NodeOptions {
    let clock = clock.clone();
    let monotonic = {
        let (clock, begun) = (clock.clone(), clock.instant());
        Arc::new(move || clock.instant() - begun)
    };
    NodeOptions {
        data_dir: config.data_dir.clone(),
        wal_dir: config.wal_dir.clone(),
        wal_file_bytes: config.wal_file_bytes,
        disk,
        runtimes: vec![runtime::Handle::current()],
        now: Arc::new(move || clock.now_ms()),
        monotonic,
        entropy: Arc::new(entropy),
        progress: Arc::new(move |progress| admin.recovering(progress)),
        synced: Arc::new(move |took| fsync_seconds.observe(took.as_secs_f64())),
        broker: BrokerInfo {
            id: config.node_id,
            endpoints: endpoints
                .iter()
                .map(|endpoint| (endpoint.listener.clone(), endpoint.host.clone(), endpoint.port))
                .collect(),
            rack: config.rack.clone(),
        },
        log_defaults: config.log_defaults.clone(),
        internal_topics: &topics::INTERNAL,
        open_segments: usize::try_from(limits.open_segments()).unwrap_or(usize::MAX),
    }
}

fn bind_listeners(config: &Config) -> anyhow::Result<Vec<(TcpSocket, SocketAddr)>> {
    config
        .listeners
        .iter()
        .map(|listener| {
            let what =
                || format!("could not listen on {}://{}:{}", listener.name, listener.host, listener.port);
            let addresses = listener.addresses().with_context(what)?;
            let address = *addresses.first().with_context(what)?;
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
                .with_context(what)?;
            socket.set_reuseaddr(true)?;
            // Connections inherit it.
            if let Some(bytes) = config.socket_send_buffer_bytes {
                socket.set_send_buffer_size(bytes)?;
            }
            socket.bind(address).with_context(what)?;
            let bound = socket.local_addr()?;
            Ok((socket, bound))
        })
        .collect()
}

fn endpoints(config: &Config, sockets: &[(TcpSocket, SocketAddr)]) -> anyhow::Result<Vec<Endpoint>> {
    Ok(config
        .listeners
        .iter()
        .zip(sockets)
        .map(|(listener, (_, bound))| Endpoint {
            listener: listener.name.clone(),
            host: listener.advertised_host.clone(),
            port: if listener.advertised_port == 0 { bound.port() } else { listener.advertised_port },
        })
        .collect())
}

/// Connections of each client address, over all listeners.
type ByAddress = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// Accepts clients of one listener, as many as may be.
async fn accept(broker: Arc<Broker>, listener: TcpListener, index: usize, by_address: ByAddress) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("could not accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        broker.metrics.connections_accepted.inc();
        let Some(place) = Place::take(&broker, &by_address, peer.ip()) else {
            broker.metrics.connections_closed.with_label_values(&["limit"]).inc();
            continue;
        };
        // A small answer must not wait for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let broker = Arc::clone(&broker);
        tokio::spawn(async move {
            let _place = place;
            connection::serve(broker, stream, peer, index).await;
        });
    }
}

/// A connection's place among those of its address and of the whole server.
struct Place {
    broker: Arc<Broker>,
    by_address: ByAddress,
    address: IpAddr,
}

impl Place {
    fn take(broker: &Arc<Broker>, by_address: &ByAddress, address: IpAddr) -> Option<Self> {
        let limit = broker
            .config
            .max_connections
            .min(usize::try_from(broker.limits.connections()).unwrap_or(usize::MAX));
        if usize::try_from(broker.metrics.connections.get()).unwrap_or(0) >= limit {
            return None;
        }
        let mut counts = by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= broker.config.max_connections_per_ip {
            return None;
        }
        *count += 1;
        broker.metrics.connections.inc();
        Some(Self { broker: Arc::clone(broker), by_address: Arc::clone(by_address), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Also where the connection's task panicked: its place is free again.
        if std::thread::panicking() {
            self.broker.metrics.connections_closed.with_label_values(&["panic"]).inc();
        }
        self.broker.metrics.connections.dec();
        let mut counts = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

async fn drain(broker: &Broker) {
    let end = broker.clock.instant() + DRAIN;
    while broker.metrics.connections.get() > 0 && broker.clock.instant() < end {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The first signal stops in good order; a second one ends at once, which is as safe as any kill.
async fn watch_signals(stopping: &Stopping) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("could not watch for signals");
        return;
    };
    // A file beyond the size limit is an error of its write (EFBIG), not the end of the process: SIGXFSZ is 25.
    let mut file_size = signal(SignalKind::from_raw(25)).ok();
    log_store::sys::name_file_on_sigbus();
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            Some(()) = async { file_size.as_mut()?.recv().await } => continue,
        }
        if stopping.is_set() {
            tracing::warn!("second signal: ending at once; the next start recovers from the write-ahead log");
            std::process::exit(0);
        }
        stopping.set();
    }
}

/// A thread with a small runtime of its own, so that a scrape never stands between clients and their partitions.
struct AdminThread {
    runtime: runtime::Handle,
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl AdminThread {
    fn start() -> std::io::Result<Self> {
        let (told, handle) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            match runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => {
                    let _ = told.send(Ok(runtime.handle().clone()));
                    // A sender that is gone means the same as a message.
                    let _ = runtime.block_on(stopped);
                    runtime.shutdown_timeout(Duration::from_millis(100));
                }
                Err(error) => {
                    let _ = told.send(Err(error));
                }
            }
        })?;
        let runtime = handle.recv().map_err(std::io::Error::other)??;
        Ok(Self { runtime, stop, thread })
    }

    async fn serve(&self, address: &str, admin: Admin) -> anyhow::Result<SocketAddr> {
        let what = format!("could not serve the admin port on {address}");
        let listener = std::net::TcpListener::bind(address).with_context(|| what.clone())?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        let _guard = self.runtime.enter();
        let listener = TcpListener::from_std(listener).with_context(|| what)?;
        self.runtime.spawn(async move {
            if let Err(error) = axum::serve(listener, http::router(admin)).await {
                tracing::error!("admin port: {error}");
            }
        });
        Ok(bound)
    }

    fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// Log lines go to stderr, as text or as JSON.
fn log_to_stderr(config: &Config) -> anyhow::Result<()> {
    let filter = log_filter(&config.log_level).map_err(anyhow::Error::msg)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = if config.log_json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init()
    };
    installed.map_err(|error| anyhow::anyhow!("could not set up logging: {error}"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn what_an_ephemeral_server_describes_is_in_force() {
        let parent = tempfile::tempdir().unwrap();
        let set = [("wal.dir", "/elsewhere"), ("num.partitions", "3")];
        let (config, ephemeral) = make_ephemeral(Config::with(&set).unwrap(), parent.path()).unwrap();
        assert_eq!(config.data_dir, ephemeral.data_dir());
        assert_eq!(config.values["log.dir"].0, ephemeral.data_dir().display().to_string());
        assert_eq!((config.wal_dir, config.wal_file_bytes), (None, EPHEMERAL_WAL_FILE_BYTES));
        assert_eq!(config.values["wal.file.bytes"].0, EPHEMERAL_WAL_FILE_BYTES.to_string());
        assert_eq!(config.group_initial_rebalance_delay, Duration::ZERO);
        assert_eq!(config.values["num.partitions"], ("3".to_owned(), Origin::Set));
        let own = Config::with(&[("group.initial.rebalance.delay.ms", "5")]).unwrap();
        let (config, _ephemeral) = make_ephemeral(own, parent.path()).unwrap();
        assert_eq!(config.values["group.initial.rebalance.delay.ms"], ("5".to_owned(), Origin::Set));
    }

    #[tokio::test]
    async fn connections_have_the_send_buffer_that_is_set() {
        let buffer = async |bytes: &str| {
            let set = [("listeners", "PLAINTEXT://127.0.0.1:0"), ("socket.send.buffer.bytes", bytes)];
            let (socket, address) = bind_listeners(&Config::with(&set).unwrap()).unwrap().remove(0);
            let listener = socket.listen(8).unwrap();
            let _client = TcpStream::connect(address).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            rustix::net::sockopt::socket_send_buffer_size(&accepted).unwrap()
        };
        // Linux adds as much again for its own accounting.
        assert_eq!((buffer("65536").await, buffer("102400").await), (131_072, 204_800));
        assert_ne!(buffer("-1").await, 204_800);
    }
}
