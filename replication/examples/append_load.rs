//! What a batch costs from `Partition::append` to its acknowledgement, without network and protocol.
//!
//! `cargo run --release -p alluvium-replication --example append_load -- [partitions] [batch bytes] [in flight] [seconds]`
//!
//! A closed loop on the runtime of the partitions keeps so many batches in flight over all of them, in turn. Printed
//! are MB/s, microseconds of CPU per batch (all threads of the process), batches per round, and percentiles of the time
//! to the acknowledgement.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use log_store::{batch::BatchBuilder, compression::Codec, config::LogConfig, disk::RealDisk};
use replication::{
    Acks, Completion, CompletionQueue, Node, NodeOptions,
    metadata::{BrokerInfo, NewTopic},
};

fn argument(number: usize, default: u64) -> u64 {
    std::env::args().nth(number).map_or(default, |text| text.parse().expect("a number"))
}

/// CPU time of the process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc");
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    // behind the name: state is no number, so utime is the 11th and stime the 12th
    Duration::from_millis((fields[10] + fields[11]) * 10)
}

fn main() {
    let partitions = argument(1, 6) as usize;
    let bytes = argument(2, 16 << 10) as usize;
    let in_flight = argument(3, 48) as usize;
    let seconds = argument(4, 5);
    let dir = tempfile::tempdir_in(std::env::var("LOAD_DIR").unwrap_or_else(|_| "target".to_owned()))
        .expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(dir.path().to_owned(), partitions, bytes, in_flight, Duration::from_secs(seconds)));
}

async fn run(dir: std::path::PathBuf, partitions: usize, bytes: usize, in_flight: usize, time: Duration) {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let seed = std::sync::atomic::AtomicU64::new(now() as u64);
    let node = Node::start(NodeOptions {
        data_dir: dir,
        wal_dir: None,
        wal_file_bytes: 64 << 20,
        disk: Arc::new(RealDisk),
        runtimes: vec![tokio::runtime::Handle::current()],
        now: Arc::new(now),
        monotonic: {
            let begun = Instant::now();
            Arc::new(move || begun.elapsed())
        },
        entropy: Arc::new(move || {
            seed.fetch_add(0x9e37_79b9_7f4a_7c15, std::sync::atomic::Ordering::Relaxed)
                .wrapping_mul(0xbf58_476d_1ce4_e5b9)
        }),
        progress: Arc::new(|_| {}),
        synced: Arc::new(|_| {}),
        broker: BrokerInfo { id: 1, endpoints: Vec::new(), rack: None },
        log_defaults: LogConfig::default(),
        internal_topics: &[],
        open_segments: 4096,
    })
    .await
    .expect("a node");
    let begun = Instant::now();
    let topic =
        NewTopic { name: "load".to_owned(), partitions: vec![vec![1]; partitions], configs: BTreeMap::new() };
    let topic = node.create_topics(vec![topic], false).await.remove(0).expect("a topic");
    println!("{partitions} partitions created in {:?}", begun.elapsed());
    let targets: Vec<_> =
        (0..partitions as i32).map(|index| node.partition(topic.id, index).expect("one")).collect();

    let mut builder = BatchBuilder::new(Codec::None);
    let mut size = 61;
    while size < bytes {
        builder.append(now(), None, Some(&[7; 90]), &[]);
        size += 100;
    }
    let batch = builder.build();
    let frame = batch.to_bytes();
    let bytes = frame.len();

    let queue = Arc::new(CompletionQueue::default());
    let mut sent = vec![Instant::now(); in_flight];
    let mut latencies = Vec::with_capacity(1 << 20);
    let mut next = 0;
    let submit = |slot: usize, next: &mut usize, sent: &mut Vec<Instant>| {
        sent[slot] = Instant::now();
        let mut batch = batch.clone();
        // as a connection does it: bytes of its own
        batch.records = Bytes::copy_from_slice(&frame[61..]);
        targets[*next % partitions].append(
            batch,
            Acks::All,
            Completion::Queue(Arc::clone(&queue), slot as u64),
        );
        *next += 1;
    };
    let before = node.flusher_stats();
    let (begun, used) = (Instant::now(), cpu());
    for slot in 0..in_flight {
        submit(slot, &mut next, &mut sent);
    }
    let mut finished = Vec::new();
    let mut count = 0u64;
    while begun.elapsed() < time {
        queue.finished().await;
        queue.drain(&mut finished);
        for (slot, result) in finished.drain(..) {
            result.expect("an acknowledgement");
            latencies.push(sent[slot as usize].elapsed());
            count += 1;
            submit(slot as usize, &mut next, &mut sent);
        }
        tokio::task::yield_now().await;
    }
    let (elapsed, used) = (begun.elapsed(), cpu() - used);
    let stats = node.flusher_stats();
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    println!(
        "{:.0} MB/s, {:.0} batches/s, {:.1} us CPU a batch, {:.2} CPU s/GB, {:.1} batches a round, {:.0} rounds/s; \
         p50 {:?} p99 {:?} max {:?}",
        count as f64 * bytes as f64 / elapsed.as_secs_f64() / 1e6,
        count as f64 / elapsed.as_secs_f64(),
        used.as_secs_f64() * 1e6 / count as f64,
        used.as_secs_f64() / (count as f64 * bytes as f64 / 1e9),
        count as f64 / (stats.rounds - before.rounds) as f64,
        (stats.rounds - before.rounds) as f64 / elapsed.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0),
    );
    node.shutdown().await;
}
