//! Measures what a batch costs in the log: append, the write into its segment, reads of the hot tail, reopening.
//!
//! `cargo run --release -p alluvium-log-store --example log_costs -- <directory> [batches] [batch bytes]`
//! leaves the log in the directory, which must not exist, for Kafka's `DumpLogSegments`.

use std::{hint::black_box, path::Path, sync::Arc, time::Instant};

use log_store::{
    Entry, GroupState, Log, LogId, LogSlice, RecordBatch, ReplicaId, SegmentPool, Waiting,
    batch::BatchBuilder,
    compression::Codec,
    config::LogConfig,
    disk::{Disk, RealDisk},
    log::write_to_segments,
    segment::PoolLimits,
};

fn batch(bytes: usize, time: i64) -> RecordBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    let value = [b'x'; 90];
    while builder.uncompressed_size() < bytes {
        builder.append(time, None, Some(&value), &[]);
    }
    builder.build()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dir = arguments.first().ok_or("name a directory that does not exist yet")?;
    let count: u64 = arguments.get(1).map_or(Ok(100_000), |text| text.parse())?;
    let bytes: usize = arguments.get(2).map_or(Ok(16 << 10), |text| text.parse())?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    std::fs::create_dir(dir)?;
    let pool = SegmentPool::new(disk, PoolLimits::default());
    let mut state = GroupState::new(ReplicaId(1), uuid::Uuid::from_u128(1), "costs".to_owned(), 0);
    let path = Path::new(dir).join(state.directory());
    let config = LogConfig { segment_bytes: 512 << 20, ..LogConfig::default() };
    let log = Log::create(&pool, &path, &state, config.clone())?;
    let template = batch(bytes, 1_700_000_000_000);
    let (mut appending, mut writing, mut telling) = (0, 0, 0);
    let (mut queue, mut dirty) = (Vec::new(), Vec::new());
    const ROUND: u64 = 8;
    for round in 0..count / ROUND {
        queue.clear();
        let begun = Instant::now();
        for number in 0..ROUND {
            let log_id = LogId { term: 1, index: round * ROUND + number };
            log.append([Entry::Batch { log_id, batch: template.clone() }], 1, &mut queue);
        }
        let appended = Instant::now();
        write_to_segments(&queue, &mut dirty)?;
        let written = Instant::now();
        let last = LogId { term: 1, index: round * ROUND + ROUND - 1 };
        log.written(last.index);
        log.durable(last);
        log.applied(last);
        if log.has_rolled() {
            log.finish_rolled()?;
        }
        appending += (appended - begun).as_nanos();
        writing += (written - appended).as_nanos();
        telling += written.elapsed().as_nanos();
    }
    let per_batch = |nanoseconds: u128| nanoseconds as f64 / count as f64;
    println!(
        "append {:.0} ns, write {:.0} ns, marks {:.0} ns a batch",
        per_batch(appending),
        per_batch(writing),
        per_batch(telling)
    );

    let begun = Instant::now();
    let (mut offset, mut reads, mut slices, mut total) = (0, 0, 0, 0);
    let end = log.next_offset();
    while offset < end {
        let read = log.read(offset, 1 << 20, true, end, Waiting::ForDisk)?;
        for slice in &read.slices {
            if let LogSlice::Bytes(bytes) = slice {
                black_box(bytes.len());
            }
            slices += 1;
        }
        total += read.bytes;
        reads += 1;
        offset += (read.bytes / template.size()) as i64 * i64::from(template.record_count());
    }
    println!(
        "{reads} reads of up to 1 MiB ({slices} slices, {} MiB): {:.0} ns each",
        total >> 20,
        begun.elapsed().as_nanos() as f64 / f64::from(reads)
    );

    log.write_indexes()?;
    for segment in dirty {
        segment.sync()?;
    }
    state.end = log.end();
    state.terms = log.terms();
    for (name, unchecked) in [("after a stop", Some(&state.end)), ("everything in doubt", None)] {
        let begun = Instant::now();
        let opened = Log::open(&pool, &path, &state, unchecked, config.clone(), 1)?;
        println!("opened {name}: {:?}, {} segments", begun.elapsed(), opened.segments().len());
    }
    let reopened = Log::open(&pool, &path, &state, Some(&state.end), config, 1)?;
    let begun = Instant::now();
    let found = reopened.offset_for_time(1_700_000_000_000, end)?;
    println!("by time: {found:?} in {:?}", begun.elapsed());
    reopened.write_indexes()?;
    Ok(())
}
