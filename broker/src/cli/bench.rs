//! `alluvium bench`: produce, consume, e2e, against any broker that speaks Kafka's protocol.
//!
//! The load is open: records are due at fixed times, whatever the broker does, and latency counts from when a record
//! was due. A broker that stalls is charged for everything that had to wait (no coordinated omission). Without
//! `--rate` a produce load is closed by the bytes on their way, and its latency is from the send.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use clap::{Args, Subcommand};
use hdrhistogram::Histogram;
use log_store::compression::Codec;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Context,
    client::Client,
    consumer::{FetchOptions, Fetcher},
    failure::{CommandError, Exit, Failure},
    interrupted,
    jsonl::ProducedRecord,
    output::{Column, OutputMode, Progress, Report},
    producer::{Producer, ProducerOptions, acks_parser, codec_parser},
    settings::Settings,
};

#[derive(Subcommand)]
pub(super) enum BenchCommand {
    /// Write records and measure throughput and the time to the acknowledgement
    Produce(BenchArgs),
    /// Read a topic from the start and measure throughput
    Consume(BenchArgs),
    /// Write at a rate, read at the same time, and measure the time from due to read
    E2e(BenchArgs),
}

impl BenchCommand {
    /// The command's name in output.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Produce(_) => "bench produce",
            Self::Consume(_) => "bench consume",
            Self::E2e(_) => "bench e2e",
        }
    }
}

#[derive(Args)]
pub(super) struct BenchArgs {
    /// The topic [default: one of its own, deleted at the end; consume fills it first]
    #[arg(value_name = "TOPIC")]
    topic: Option<String>,
    /// Partitions of a topic of its own
    #[arg(short, long, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// Connections that work side by side
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: u16,
    /// Bytes of a record's value
    #[arg(long, default_value_t = 100, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    size: u32,
    /// Records a second over all clients [default: produce as fast as it goes, e2e 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// How long to measure
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    duration: String,
    /// Who has to have a record: all replicas in sync, the leader (1), nobody (0)
    #[arg(long, default_value = "all", value_name = "ACKS", value_parser = acks_parser(),
          allow_negative_numbers = true)]
    acks: i16,
    /// Largest batch, bytes
    #[arg(long, default_value_t = 16384, value_name = "BYTES")]
    batch: usize,
    /// Compression
    #[arg(short = 'z', long, default_value = "none", value_name = "CODEC", value_parser = codec_parser())]
    compression: Codec,
    /// The same as -O json
    #[arg(long)]
    json: bool,
}

/// What one client counted.
struct Tally {
    records: u64,
    failed: u64,
    first_failure: Option<Failure>,
    latency: Histogram<u64>,
}

impl Tally {
    fn new() -> Result<Self, Failure> {
        // microseconds up to ten minutes, three digits
        let latency = Histogram::new_with_bounds(1, 600_000_000, 3)
            .map_err(|error| Failure::local(Exit::Failed, "BENCH", "histogram", error.to_string()))?;
        Ok(Self { records: 0, failed: 0, first_failure: None, latency })
    }

    fn add(&mut self, other: Self) {
        self.records += other.records;
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        // both have the same bounds
        let _ = self.latency.add(other.latency);
    }
}

pub(super) async fn run(context: &Context, command: BenchCommand) -> Result<Exit, CommandError> {
    let name = command.name();
    let (BenchCommand::Produce(arguments) | BenchCommand::Consume(arguments) | BenchCommand::E2e(arguments)) =
        &command;
    let mut terminal = context.terminal;
    if arguments.json {
        terminal.mode = OutputMode::Json;
    }
    let mut report = Report::new(
        name,
        &[
            Column::right("RECORDS", "records"),
            Column::right("SECONDS", "seconds"),
            Column::right("RECORDS/S", "records_per_second"),
            Column::right("MB/S", "mb_per_second"),
            Column::right("P50-MS", "p50_ms"),
            Column::right("P99-MS", "p99_ms"),
            Column::right("P99.9-MS", "p999_ms"),
            Column::right("MAX-MS", "max_ms"),
            Column::right("FAILED", "failed"),
        ],
    );
    match measure_on_topic(context, &command, arguments).await {
        Ok(Some((row, failure))) => {
            report.row(row);
            if let Some(failure) = failure {
                report.fail(failure);
            }
            report.print(&terminal)
        }
        Ok(None) => Ok(Exit::Interrupted),
        Err(failure) => Ok(terminal.end(name, &failure.into())),
    }
}

/// Measures on the topic given, or on one that it makes and deletes; nothing where it is interrupted.
async fn measure_on_topic(
    context: &Context,
    command: &BenchCommand,
    arguments: &BenchArgs,
) -> Result<Option<(Value, Option<Failure>)>, Failure> {
    let duration = super::time::parse_duration(&arguments.duration)
        .and_then(|millis| u64::try_from(millis).ok())
        .filter(|millis| *millis > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| {
            Failure::usage("--duration", format!("--duration {}: no duration", arguments.duration))
                .hint("10s, 2m")
        })?;
    let client = Client::connect(&context.settings).await?;
    let own = format!("bench-{:08x}", crate::clock::entropy() & 0xffff_ffff);
    let topic = arguments.topic.as_deref().unwrap_or(&own);
    match arguments.topic {
        Some(_) => drop(client.partitions(&[topic.into()]).await?),
        None => client.create_topic(topic, arguments.partitions).await?,
    }
    let progress =
        Progress::start(&format!("{{spinner}} {}: {} of load", command.name(), arguments.duration));
    let measured = tokio::select! {
        measured = measure(context, command, arguments, topic, duration) => Some(measured),
        () = interrupted() => None,
    };
    drop(progress);
    let measured = measured.transpose();
    if arguments.topic.is_none() {
        let deleted = client.delete_topics([topic]).await;
        // what went wrong first is what went wrong
        if measured.is_ok() {
            deleted?;
        }
    }
    measured
}

async fn measure(
    context: &Context,
    command: &BenchCommand,
    arguments: &BenchArgs,
    topic: &str,
    duration: Duration,
) -> Measured {
    match command {
        BenchCommand::Produce(_) => produce(context, arguments, topic, duration).await,
        BenchCommand::Consume(_) => {
            if arguments.topic.is_none() {
                produce(context, arguments, topic, duration).await?;
            }
            consume(context, arguments, topic, duration).await
        }
        BenchCommand::E2e(_) => e2e(context, arguments, topic, duration).await,
    }
}

fn producer_options(arguments: &BenchArgs) -> ProducerOptions {
    ProducerOptions {
        acks: arguments.acks,
        codec: arguments.compression,
        batch_bytes: arguments.batch,
        // as fast as it goes: full batches; at a rate: nothing waits
        linger: if arguments.rate.is_none() { Duration::from_millis(5) } else { Duration::ZERO },
        ..ProducerOptions::default()
    }
}

/// A value that begins with the time when its record was due, microseconds since the load began.
fn value(size: u32, due_micros: u64) -> Bytes {
    let size = usize::try_from(size).unwrap_or(16);
    let mut bytes = BytesMut::with_capacity(size);
    bytes.put_u64(due_micros);
    let mut seed = due_micros | 1;
    while bytes.len() < size {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.put_u8(b'a' + u8::try_from((seed >> 33) % 26).unwrap_or(0));
    }
    bytes.freeze()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// One producing client; `rate` is its own share.
#[expect(clippy::too_many_arguments, reason = "the parts of one run, each used once")]
async fn produce_with(
    settings: Settings,
    clock: crate::clock::Clock,
    topic: String,
    options: ProducerOptions,
    size: u32,
    rate: Option<f64>,
    duration: Duration,
    began: Instant,
) -> Result<Tally, Failure> {
    let client = Client::connect(&settings).await?;
    let (producer, mut deliveries) = Producer::new(client, &topic, options, clock).await?;
    let mut producer = Some(producer);
    let mut tally = Tally::new()?;
    let mut sent = 0_u64;
    let mut settled = 0_u64;
    while producer.is_some() || settled < sent {
        while let Ok(delivery) = deliveries.try_recv() {
            settle(&mut tally, delivery, began);
            settled += 1;
        }
        let Some(sending) = &mut producer else {
            if let Some(delivery) = deliveries.recv().await {
                settle(&mut tally, delivery, began);
                settled += 1;
            }
            continue;
        };
        let due = match rate {
            Some(rate) => {
                #[expect(clippy::cast_precision_loss, reason = "a pace, not a count")]
                let due = Duration::from_secs_f64(sent as f64 / rate);
                if due >= duration {
                    producer = None;
                    continue;
                }
                if began + due > Instant::now() {
                    tokio::select! {
                        () = tokio::time::sleep_until(began + due) => {}
                        Some(delivery) = deliveries.recv() => {
                            settle(&mut tally, delivery, began);
                            settled += 1;
                            continue;
                        }
                    }
                }
                due
            }
            None => {
                let now = began.elapsed();
                if now >= duration {
                    producer = None;
                    continue;
                }
                now
            }
        };
        let due = micros(due);
        sending.send(ProducedRecord { value: Some(value(size, due)), ..Default::default() }, due).await?;
        sent += 1;
        if sent.is_multiple_of(64) {
            tokio::task::yield_now().await;
        }
    }
    Ok(tally)
}

fn settle(tally: &mut Tally, delivery: super::producer::Delivery, began: Instant) {
    match delivery.result {
        Ok(_) => {
            tally.records += 1;
            tally.latency.saturating_record(micros(began.elapsed()).saturating_sub(delivery.token).max(1));
        }
        Err(failure) => {
            tally.failed += 1;
            tally.first_failure.get_or_insert(failure);
        }
    }
}

async fn produce_all(
    context: &Context,
    arguments: &BenchArgs,
    topic: &str,
    duration: Duration,
    began: Instant,
) -> Result<Tally, Failure> {
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..arguments.clients {
        #[expect(clippy::cast_precision_loss, reason = "a pace, not a count")]
        let share = arguments.rate.map(|rate| rate as f64 / f64::from(arguments.clients));
        clients.spawn(produce_with(
            context.settings.clone(),
            context.clock.clone(),
            topic.to_owned(),
            producer_options(arguments),
            arguments.size,
            share,
            duration,
            began,
        ));
    }
    let mut total = Tally::new()?;
    while let Some(ended) = clients.join_next().await {
        match ended {
            Ok(tally) => total.add(tally?),
            Err(error) => return Err(Failure::local(Exit::Failed, "BENCH", "client", error.to_string())),
        }
    }
    Ok(total)
}

type Measured = Result<(Value, Option<Failure>), Failure>;

#[expect(clippy::cast_precision_loss, reason = "figures are for reading")]
fn figures(tally: &Tally, size: u32, seconds: f64) -> Value {
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    let at = |quantile: f64| match tally.latency.is_empty() {
        true => Value::Null,
        false => json!(tally.latency.value_at_quantile(quantile) as f64 / 1000.0),
    };
    json!({
        "records": tally.records,
        "seconds": round(seconds),
        "records_per_second": (tally.records as f64 / seconds).round(),
        "mb_per_second": round(tally.records as f64 * f64::from(size) / seconds / 1e6),
        "p50_ms": at(0.5),
        "p90_ms": at(0.9),
        "p99_ms": at(0.99),
        "p999_ms": at(0.999),
        "max_ms": at(1.0),
        "failed": tally.failed,
    })
}

fn verdict(tally: &Tally) -> Option<Failure> {
    let failure = tally.first_failure.clone()?;
    let message = format!("{} records failed; the first: {}", tally.failed, failure.message);
    Some(failure.worded(message))
}

async fn produce(context: &Context, arguments: &BenchArgs, topic: &str, duration: Duration) -> Measured {
    let began = Instant::now();
    let tally = produce_all(context, arguments, topic, duration, began).await?;
    Ok((figures(&tally, arguments.size, began.elapsed().as_secs_f64()), verdict(&tally)))
}

async fn consume(context: &Context, arguments: &BenchArgs, topic: &str, duration: Duration) -> Measured {
    let client = Client::connect(&context.settings).await?;
    let partitions = client.partitions(&[topic.into()]).await?;
    let watermarks = client.watermarks(&partitions).await?;
    let wanted: i64 = watermarks.values().map(|(start, end)| end - start).sum();
    let began = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    let count = usize::from(arguments.clients).min(partitions.len().max(1));
    for number in 0..count {
        let own: BTreeMap<_, _> = watermarks
            .iter()
            .skip(number)
            .step_by(count)
            .filter(|(_, (start, end))| start < end)
            .map(|(partition, range)| (partition.clone(), *range))
            .collect();
        let settings = context.settings.clone();
        clients.spawn(async move {
            let client = Client::connect(&settings).await?;
            let starts = own.iter().map(|(partition, (start, _))| (partition.clone(), *start)).collect();
            let options = FetchOptions { decode: false, ..Default::default() };
            let mut fetcher = Fetcher::start(client, starts, options);
            let mut open = own;
            let (mut records, mut bytes) = (0_u64, 0_u64);
            while !open.is_empty() && began.elapsed() < duration {
                let Some(fetched) = fetcher.next().await else { break };
                let fetched = fetched?;
                records += fetched.count;
                bytes += u64::try_from(fetched.bytes).unwrap_or(0);
                if open.get(&fetched.partition).is_some_and(|(_, end)| fetched.next_offset >= *end) {
                    open.remove(&fetched.partition);
                }
            }
            Ok::<_, Failure>((records, bytes))
        });
    }
    let (mut records, mut bytes) = (0_u64, 0_u64);
    while let Some(ended) = clients.join_next().await {
        let (more_records, more_bytes) =
            ended.map_err(|error| Failure::local(Exit::Failed, "BENCH", "client", error.to_string()))??;
        records += more_records;
        bytes += more_bytes;
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut tally = Tally::new()?;
    tally.records = records;
    let mut row = figures(&tally, arguments.size, seconds);
    #[expect(clippy::cast_precision_loss, reason = "figures are for reading")]
    let megabytes = (bytes as f64 / seconds / 1e3).round() / 1e3;
    // of what was really carried: the records' size may be anything here
    row["mb_per_second"] = json!(megabytes);
    row["in_topic"] = json!(wanted);
    Ok((row, None))
}

async fn e2e(context: &Context, arguments: &BenchArgs, topic: &str, duration: Duration) -> Measured {
    let client = Client::connect(&context.settings).await?;
    let partitions = client.partitions(&[topic.into()]).await?;
    let watermarks = client.watermarks(&partitions).await?;
    let ends = watermarks.iter().map(|(partition, (_, end))| (partition.clone(), *end)).collect();
    let mut fetcher = Fetcher::start(Arc::clone(&client), ends, FetchOptions::default());
    let rated = arguments.rate.unwrap_or(1000);
    // the first fetch has to wait at the broker before the first record is due
    let began = Instant::now() + Duration::from_millis(200);
    #[expect(clippy::cast_precision_loss, reason = "a pace, not a count")]
    let share = rated as f64 / f64::from(arguments.clients);
    let mut producers = tokio::task::JoinSet::new();
    for _ in 0..arguments.clients {
        producers.spawn(produce_with(
            context.settings.clone(),
            context.clock.clone(),
            topic.to_owned(),
            ProducerOptions { linger: Duration::ZERO, ..producer_options(arguments) },
            arguments.size,
            Some(share),
            duration,
            began,
        ));
    }
    let mut produced = Tally::new()?;
    let mut read = Tally::new()?;
    let mut running = true;
    let mut quiet = Instant::now() + duration + Duration::from_secs(30);
    while running || read.records < produced.records {
        tokio::select! {
            ended = producers.join_next(), if running => match ended {
                None => {
                    running = false;
                    quiet = Instant::now() + Duration::from_secs(10);
                }
                Some(ended) => {
                    let tally = ended.map_err(|error| Failure::local(Exit::Failed, "BENCH", "client", error.to_string()))?;
                    produced.add(tally?);
                }
            },
            fetched = fetcher.next() => {
                let Some(fetched) = fetched else { break };
                let now = micros(began.elapsed());
                for record in fetched?.records {
                    let due = record.value.as_ref().and_then(|value| value.first_chunk::<8>()).map(|bytes| u64::from_be_bytes(*bytes));
                    if let Some(due) = due {
                        read.records += 1;
                        read.latency.saturating_record(now.saturating_sub(due).max(1));
                    }
                }
            }
            () = tokio::time::sleep_until(quiet) => break,
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut row = figures(&read, arguments.size, seconds);
    row["acknowledged"] = json!(produced.records);
    row["failed"] = json!(produced.failed);
    let lost = produced.records.saturating_sub(read.records);
    let failure = match lost {
        0 => verdict(&produced),
        lost => Some(Failure::local(
            Exit::Failed,
            "RECORDS_MISSING",
            topic,
            format!("{lost} of {} acknowledged records were not read", produced.records),
        )),
    };
    Ok((row, failure))
}
