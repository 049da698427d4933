//! `alluvium produce`: records from arguments, standard input or a file.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use log_store::compression::Codec;
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};

use super::{
    Context,
    client::Client,
    failure::{CommandError, Exit, Failure},
    interrupted,
    jsonl::{ProducedRecord, parse_line},
    output::{Column, Progress, Report},
    producer::{Delivery, NOT_CONFIRMED, Producer, ProducerOptions, acks_parser, codec_parser},
    record_format::RecordFormat,
};

#[derive(Args)]
#[command(
    after_help = "Formats (-f): %k key, %v value, %p partition, %d timestamp in ms; %K %V lengths that are read first, such as\n\
                        -f '%V{big32}%v'; \\n \\t \\xNN. Without -f and --jsonl each line is a value.\n\
                        JSON lines: {\"key\":\"k\",\"value\":\"v\",\"timestamp\":1700000000000,\"headers\":[[\"name\",\"value\"]]}"
)]
pub(super) struct ProduceArgs {
    /// The topic
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// Values, one record each [default: records from --file or standard input]
    #[arg(value_name = "VALUE", conflicts_with_all = ["format", "jsonl", "file"])]
    values: Vec<String>,
    /// Key of every record that has none of its own
    #[arg(short, long)]
    key: Option<String>,
    /// A header of every record; may be repeated
    #[arg(short = 'H', long, value_name = "NAME=VALUE")]
    header: Vec<String>,
    /// Partition of every record [default: by key]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Compression
    #[arg(short = 'z', long, default_value = "none", value_name = "CODEC", value_parser = codec_parser())]
    compression: Codec,
    /// How the input is cut into records
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "jsonl")]
    format: Option<String>,
    /// The input is one JSON object a line
    #[arg(long)]
    jsonl: bool,
    /// Read records from this file
    #[arg(short = 'F', long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Who has to have a record: all replicas in sync, the leader (1), nobody (0)
    #[arg(long, default_value = "all", value_name = "ACKS", value_parser = acks_parser(),
          allow_negative_numbers = true)]
    acks: i16,
    /// Write a tombstone: a null value for the key
    #[arg(long, requires = "key", conflicts_with_all = ["values", "format", "jsonl", "file"])]
    tombstone: bool,
    /// Records a second, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
}

/// How the input is cut into records.
enum Cut {
    Lines,
    Jsonl,
    Format(super::record_format::RecordReader),
}

pub(super) async fn run(context: &Context, arguments: ProduceArgs) -> Result<Exit, CommandError> {
    let mut headers = Vec::new();
    for pair in &arguments.header {
        let (name, value) = pair.split_once('=').ok_or_else(|| {
            Failure::usage("--header", format!("--header {pair}: not NAME=VALUE")).hint("-H source=shop")
        })?;
        headers.push((Bytes::from(name.to_owned()), Some(Bytes::from(value.to_owned()))));
    }
    let cut = match (&arguments.format, arguments.jsonl) {
        (Some(format), _) => {
            let reader = RecordFormat::parse(format).and_then(|format| format.reader());
            Cut::Format(
                reader.map_err(|why| Failure::usage("--format", format!("--format {format}: {why}")))?,
            )
        }
        (None, true) => Cut::Jsonl,
        (None, false) => Cut::Lines,
    };
    let from_arguments = !arguments.values.is_empty() || arguments.tombstone;
    let opened = match from_arguments {
        true => None,
        false => Some(open_input(&arguments)?),
    };
    let options =
        ProducerOptions { acks: arguments.acks, codec: arguments.compression, ..ProducerOptions::default() };
    let options = match from_arguments {
        true => options,
        // a stream of records gains from larger batches, and nobody waits for a single one
        false => ProducerOptions { batch_bytes: 64 << 10, linger: Duration::from_millis(5), ..options },
    };
    let client = Client::connect(&context.settings).await?;
    let (producer, deliveries) =
        Producer::new(client, &arguments.topic, options, context.clock.clone()).await?;
    let complete = |mut record: ProducedRecord| {
        record.key = record.key.or_else(|| arguments.key.clone().map(Bytes::from));
        record.partition = arguments.partition.or(record.partition);
        record.headers.extend(headers.iter().cloned());
        record
    };
    match opened {
        None => produce_values(context, &arguments, producer, deliveries, complete).await,
        Some((name, input)) => {
            let input = Input::start(name, input, cut);
            produce_stream(context, &arguments, producer, deliveries, input, complete).await
        }
    }
}

/// The input and its name.
fn open_input(arguments: &ProduceArgs) -> Result<(String, Box<dyn BufRead + Send>), Failure> {
    let Some(path) = &arguments.file else {
        return Ok(("standard input".to_owned(), Box::new(BufReader::with_capacity(1 << 16, io::stdin()))));
    };
    let name = path.display().to_string();
    match File::open(path) {
        Ok(file) => Ok((name, Box::new(BufReader::with_capacity(1 << 16, file)))),
        Err(error) => Err(Failure::usage(&name, format!("{name}: {error}"))),
    }
}

/// Records as they are cut out of the input.
struct Input {
    /// The file, or standard input.
    name: String,
    /// What is counted: lines, or records where a format cuts.
    unit: &'static str,
    /// Each with its number, the last one perhaps with what is wrong with it.
    records: mpsc::Receiver<(u64, Result<ProducedRecord, String>)>,
}

impl Input {
    /// Reads on a thread, since standard input may wait for a person.
    fn start(name: String, mut input: Box<dyn BufRead + Send>, mut cut: Cut) -> Self {
        let unit = if matches!(cut, Cut::Format(_)) { "record" } else { "line" };
        let (sender, records) = mpsc::channel(1024);
        std::thread::spawn(move || {
            let mut number = 0_u64;
            loop {
                let next = next_record(&mut *input, &mut cut, &mut number);
                let last = next.is_err();
                let Some(record) = next.transpose() else { return };
                if sender.blocking_send((number, record)).is_err() || last {
                    return;
                }
            }
        });
        Self { name, unit, records }
    }

    /// The words for what is wrong with a line or record.
    fn wrong(&self, number: u64, why: &str) -> String {
        format!("{}, {} {number}: {why}; nothing from there on was sent", self.name, self.unit)
    }
}

/// The next record; `number` counts the lines or records that were begun.
fn next_record(
    input: &mut dyn BufRead,
    cut: &mut Cut,
    number: &mut u64,
) -> Result<Option<ProducedRecord>, String> {
    loop {
        *number += 1;
        if let Cut::Format(reader) = cut {
            return reader.next(input);
        }
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line).map_err(|error| format!("cannot be read: {error}"))? == 0 {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        return match cut {
            Cut::Jsonl if line.iter().all(u8::is_ascii_whitespace) => continue,
            Cut::Jsonl => parse_line(&line).map(Some),
            _ => Ok(Some(ProducedRecord { value: Some(Bytes::from(line)), ..Default::default() })),
        };
    }
}

/// A few records: a row for each.
async fn produce_values(
    context: &Context,
    arguments: &ProduceArgs,
    mut producer: Producer,
    mut deliveries: mpsc::UnboundedReceiver<Delivery>,
    complete: impl Fn(ProducedRecord) -> ProducedRecord,
) -> Result<Exit, CommandError> {
    let mut report = Report::new(
        "produce",
        &[
            Column::left("TOPIC", "topic"),
            Column::right("PARTITION", "partition"),
            Column::right("OFFSET", "offset"),
            Column::right("LATENCY-MS", "latency_ms"),
        ],
    );
    let values: Vec<Option<Bytes>> = match arguments.tombstone {
        true => vec![None],
        false => arguments.values.iter().map(|value| Some(Bytes::from(value.clone()))).collect(),
    };
    let mut interrupt = std::pin::pin!(interrupted());
    let began = Instant::now();
    // one at a time, so that the latency is the broker's
    for (token, value) in (0_u64..).zip(values) {
        let record = complete(ProducedRecord { value, ..Default::default() });
        let sent = async {
            pace(began, token, arguments.rate).await;
            let sent_at = Instant::now();
            producer.send(record, token).await?;
            Ok::<_, Failure>((deliveries.recv().await, sent_at.elapsed()))
        };
        let (delivery, took) = tokio::select! {
            sent = sent => sent?,
            () = &mut interrupt => {
                report.print(&context.terminal)?;
                return Ok(Exit::Interrupted);
            }
        };
        let Some(delivery) = delivery else { break };
        match delivery.result {
            Ok(offset) => report.row(json!({
                "topic": arguments.topic,
                "partition": delivery.partition,
                "offset": (offset >= 0).then_some(offset),
                "latency_ms": (took.as_secs_f64() * 1e5).round() / 100.0,
            })),
            Err(failure) => report.fail(failure),
        }
    }
    report.print(&context.terminal)
}

/// What became of a stream of records.
#[derive(Default)]
struct Tally {
    sent: u64,
    bytes: usize,
    written: u64,
    partitions: BTreeSet<i32>,
    refused: Lost,
    /// Of these nobody knows whether they are written.
    in_doubt: Lost,
}

/// Records that were not acknowledged, and what the first of them met.
#[derive(Default)]
struct Lost {
    records: u64,
    first: Option<Failure>,
}

impl Tally {
    fn settle(&mut self, delivery: Delivery) {
        let failure = match delivery.result {
            Ok(_) => {
                self.written += 1;
                self.partitions.insert(delivery.partition);
                return;
            }
            Err(failure) => failure,
        };
        if self.refused.records + self.in_doubt.records == 0 {
            eprintln!("warning: {failure}");
        }
        let lost = if failure.name == NOT_CONFIRMED { &mut self.in_doubt } else { &mut self.refused };
        lost.records += 1;
        lost.first.get_or_insert(failure);
    }

    /// Records of which the producer has told what became of them.
    fn settled(&self) -> u64 {
        self.written + self.refused.records + self.in_doubt.records
    }

    /// One row for all, and what was lost.
    fn report(self, topic: &str, took: Duration, report: &mut Report) {
        let seconds = took.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate is for reading")]
        let rate = self.written as f64 / seconds.max(1e-9);
        report.row(json!({
            "topic": topic,
            "records": self.written,
            "bytes": self.bytes,
            "partitions": self.partitions.len(),
            "seconds": (seconds * 1000.0).round() / 1000.0,
            "records_per_second": rate.round(),
        }));
        let sent = self.sent;
        let unknown = self.in_doubt.records + sent - self.settled();
        if unknown > 0 {
            let why = self.in_doubt.first.map(|first| format!("; the first: {}", first.message));
            let message =
                format!("{unknown} of {sent} records may not be written{}", why.unwrap_or_default());
            report.fail(Failure::local(Exit::Unreachable, NOT_CONFIRMED, topic, message));
        }
        if let Some(first) = self.refused.first {
            let refused = self.refused.records;
            let message =
                format!("{refused} of {sent} records were not written; the first: {}", first.message);
            report.fail(first.worded(message));
        }
    }
}

/// A stream of records: one row for all.
async fn produce_stream(
    context: &Context,
    arguments: &ProduceArgs,
    producer: Producer,
    mut deliveries: mpsc::UnboundedReceiver<Delivery>,
    mut input: Input,
    complete: impl Fn(ProducedRecord) -> ProducedRecord,
) -> Result<Exit, CommandError> {
    let began = Instant::now();
    let mut report = Report::new(
        "produce",
        &[
            Column::left("TOPIC", "topic"),
            Column::right("RECORDS", "records"),
            Column::right("BYTES", "bytes"),
            Column::right("PARTITIONS", "partitions"),
            Column::right("SECONDS", "seconds"),
            Column::right("RECORDS/S", "records_per_second"),
        ],
    );
    let mut tally = Tally::default();
    // without a producer nothing more is sent; what was sent is waited for
    let mut producer = Some(producer);
    let mut interrupt = std::pin::pin!(interrupted());
    let mut exit = Exit::Success;
    let progress = arguments
        .file
        .is_some()
        .then(|| Progress::start("{spinner} {human_pos} records, {per_sec}, {elapsed}"));
    let mut interrupted_at = None;
    // since when nothing that was sent came back, unless it was told
    let mut silent_since = Some(began);
    while producer.is_some() || tally.settled() < tally.sent {
        if let Some(progress) = &progress {
            progress.at(tally.settled());
        }
        tokio::select! {
            Some(delivery) = deliveries.recv() => {
                silent_since = Some(Instant::now());
                if delivery.result.as_ref().is_err_and(|failure| failure.exit() != Exit::Failed) {
                    // the others would end alike: what was not read yet is left to be read again
                    producer = None;
                }
                tally.settle(delivery);
            }
            next = input.records.recv(), if producer.is_some() => match next {
                None => producer = None,
                Some((number, Err(why))) => {
                    report.fail(Failure::usage(&input.name, input.wrong(number, &why)));
                    producer = None;
                }
                Some((number, Ok(record))) => {
                    let record = complete(record);
                    let bytes = [&record.key, &record.value].map(|part| part.as_ref().map_or(0, Bytes::len));
                    let Some(sending) = &mut producer else { continue };
                    if tally.settled() == tally.sent {
                        silent_since = Some(Instant::now());
                    }
                    let sent = async {
                        pace(began, tally.sent, arguments.rate).await;
                        sending.send(record, tally.sent).await
                    };
                    let sent = tokio::select! {
                        sent = sent => sent,
                        () = &mut interrupt, if exit == Exit::Success => {
                            exit = Exit::Interrupted;
                            interrupted_at = Some(Instant::now());
                            producer = None;
                            continue;
                        }
                    };
                    match sent {
                        Ok(()) => {
                            tally.sent += 1;
                            tally.bytes += bytes.iter().sum::<usize>();
                        }
                        Err(failure) => {
                            let message = input.wrong(number, &failure.message);
                            report.fail(failure.worded(message));
                            producer = None;
                        }
                    }
                }
            },
            () = &mut interrupt, if exit == Exit::Success => {
                // what was read is finished, nothing more is read
                exit = Exit::Interrupted;
                interrupted_at = Some(Instant::now());
                producer = None;
            }
            () = due(silent_since, SILENCE), if tally.settled() < tally.sent => {
                silent_since = None;
                eprintln!("warning: no broker has taken any record for {} s, trying on", SILENCE.as_secs());
            }
            () = due(interrupted_at, DRAIN) => break,
        }
    }
    drop(progress);
    tally.report(&arguments.topic, began.elapsed(), &mut report);
    let printed = report.print(&context.terminal)?;
    Ok(if exit == Exit::Success { printed } else { exit })
}

/// So long a command that was interrupted waits for what it sent.
const DRAIN: Duration = Duration::from_secs(5);
/// So long brokers may take nothing before it is told.
const SILENCE: Duration = Duration::from_secs(5);

/// Waits until something is so long ago; for ever where it has not happened.
async fn due(since: Option<Instant>, after: Duration) {
    match since {
        Some(since) => tokio::time::sleep_until(since + after).await,
        None => std::future::pending().await,
    }
}

/// Waits until the record of this number is due.
async fn pace(began: Instant, number: u64, rate: Option<u64>) {
    if let Some(rate) = rate {
        #[expect(clippy::cast_precision_loss, reason = "a pace, not a count")]
        let due = Duration::from_secs_f64(number as f64 / rate as f64);
        tokio::time::sleep_until(began + due).await;
    }
}
