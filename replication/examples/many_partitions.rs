//! What many partitions cost a node that does nothing with them.
//!
//! `cargo run --release -p alluvium-replication --example many_partitions -- [partitions] [idle seconds]`
//!
//! Prints how long it takes to create them with one request, to start again after a clean stop and after a kill, and
//! what they cost when idle: resident memory and CPU.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use log_store::{batch::BatchBuilder, config::LogConfig, disk::RealDisk};
use replication::{
    Node, NodeOptions,
    metadata::{BrokerInfo, NewTopic},
};

fn options(dir: &Path) -> NodeOptions {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let seed = std::sync::atomic::AtomicU64::new(now() as u64);
    let begun = Instant::now();
    NodeOptions {
        data_dir: dir.to_owned(),
        wal_dir: None,
        wal_file_bytes: 64 << 20,
        disk: Arc::new(RealDisk),
        runtimes: vec![tokio::runtime::Handle::current()],
        now: Arc::new(now),
        monotonic: Arc::new(move || begun.elapsed()),
        entropy: Arc::new(move || {
            let seed = seed.fetch_add(0x9e37_79b9_7f4a_7c15, std::sync::atomic::Ordering::Relaxed);
            (seed ^ (seed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        }),
        progress: Arc::new(|_| {}),
        synced: Arc::new(|_| {}),
        broker: BrokerInfo { id: 1, endpoints: Vec::new(), rack: None },
        log_defaults: LogConfig::default(),
        internal_topics: &[],
        open_segments: 4096,
    }
}

/// (resident MiB, CPU time) of the process.
fn usage() -> (u64, Duration) {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let field = |number: usize| fields[number].parse::<u64>().expect("a number");
    ((field(21) * 4096) >> 20, Duration::from_millis((field(11) + field(12)) * 10))
}

fn main() {
    let argument = |number: usize, default| {
        std::env::args().nth(number).map_or(default, |text| text.parse::<u64>().expect("a number"))
    };
    let (partitions, idle) = (argument(1, 1_000) as usize, Duration::from_secs(argument(2, 10)));
    let base = std::env::var("LOAD_DIR").unwrap_or_else(|_| "target".to_owned());
    // a child is killed in the middle of it: it finds the directory here
    if let Ok(dir) = std::env::var("CHILD_DIR") {
        return block_on(child(dir.into()));
    }
    let dir = tempfile::tempdir_in(base).expect("a directory");
    block_on(parent(dir.path().to_owned(), partitions, idle));
    let program = std::env::current_exe().expect("a program");
    let mut child = std::process::Command::new(program)
        .env("CHILD_DIR", dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a child");
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().expect("its output")),
        &mut line,
    )
    .expect("a line");
    child.kill().expect("killed");
    child.wait().expect("ended");
    block_on(restart(dir.path().to_owned(), "a kill"));
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future);
}

async fn parent(dir: std::path::PathBuf, partitions: usize, idle: Duration) {
    let node = Node::start(options(&dir)).await.expect("a node");
    let (empty, _) = usage();
    let begun = Instant::now();
    let topic =
        NewTopic { name: "many".to_owned(), partitions: vec![vec![1]; partitions], configs: BTreeMap::new() };
    let topic = node.create_topics(vec![topic], false).await.remove(0).expect("a topic");
    println!("{partitions} partitions created in {:?}", begun.elapsed());
    let begun = Instant::now();
    for index in 0..partitions as i32 {
        let mut batch = BatchBuilder::default();
        batch.append(0, None, Some(b"one"), &[]);
        let partition = node.partition(topic.id, index).expect("it serves");
        partition.append_committed(batch.build()).await.expect("it takes a batch");
    }
    println!("a batch to each, one after the other, in {:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (resident, before) = usage();
    tokio::time::sleep(idle).await;
    let (_, after) = usage();
    println!(
        "resident {resident} MiB, {empty} MiB without them; idle CPU {:.2} % of a core",
        (after - before).as_secs_f64() / idle.as_secs_f64() * 100.0
    );
    let begun = Instant::now();
    node.shutdown().await;
    println!("stopped in {:?}", begun.elapsed());
    drop(node);
    restart(dir, "a clean stop").await;
}

async fn restart(dir: std::path::PathBuf, after: &str) {
    let begun = Instant::now();
    let node = Node::start(options(&dir)).await.expect("a node");
    println!("started after {after} in {:?}", begun.elapsed());
    node.shutdown().await;
}

async fn child(dir: std::path::PathBuf) {
    let node = Node::start(options(&dir)).await.expect("a node");
    for (_, _, partition) in node.partitions() {
        let mut batch = BatchBuilder::default();
        batch.append(0, None, Some(b"two"), &[]);
        partition.append_committed(batch.build()).await.expect("it takes a batch");
    }
    println!("ready to be killed");
    std::future::pending::<()>().await;
}
