//! `alluvium produce`: records from arguments, standard input or a file.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use log_store::compression::Codec;
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};

use super::{
    Context,
    client::Client,
    failure::{CommandError, Exit, Failure},
    interrupted,
    jsonl::{ProducedRecord, parse_line},
    output::{Column, Report},
    producer::{Delivery, Producer, ProducerOptions},
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
    #[arg(short = 'z', long, default_value = "none", value_name = "CODEC",
          value_parser = clap::builder::PossibleValuesParser::new(["none", "gzip", "snappy", "lz4", "zstd"]))]
    compression: String,
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
    #[arg(long, default_value = "all", value_name = "ACKS",
          value_parser = clap::builder::PossibleValuesParser::new(["all", "-1", "1", "0"]))]
    acks: String,
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
    let records = match from_arguments {
        true => None,
        false => Some(open_input(&arguments)?),
    };
    let options = ProducerOptions {
        acks: match arguments.acks.as_str() {
            "1" => 1,
            "0" => 0,
            _ => -1,
        },
        codec: arguments.compression.parse::<Codec>().unwrap_or_default(),
        ..ProducerOptions::default()
    };
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
    match records {
        None => produce_values(context, &arguments, producer, deliveries, complete).await,
        Some(input) => {
            produce_stream(context, &arguments, producer, deliveries, read_records(input, cut), complete)
                .await
        }
    }
}

fn open_input(arguments: &ProduceArgs) -> Result<Box<dyn BufRead + Send>, Failure> {
    match &arguments.file {
        Some(path) => match File::open(path) {
            Ok(file) => Ok(Box::new(BufReader::with_capacity(1 << 16, file))),
            Err(error) => {
                let name = path.display().to_string();
                Err(Failure::usage(&name, format!("{name}: {error}")))
            }
        },
        None => Ok(Box::new(BufReader::with_capacity(1 << 16, io::stdin()))),
    }
}

/// Reads records on a thread, since standard input may wait for a person.
fn read_records(
    mut input: Box<dyn BufRead + Send>,
    mut cut: Cut,
) -> mpsc::Receiver<Result<ProducedRecord, String>> {
    let (sender, records) = mpsc::channel(1024);
    std::thread::spawn(move || {
        let mut number = 0_u64;
        loop {
            number += 1;
            let next = next_record(&mut *input, &mut cut).map_err(|why| {
                format!("{} {number}: {why}", if matches!(cut, Cut::Format(_)) { "record" } else { "line" })
            });
            let last = next.is_err();
            let Some(record) = next.transpose() else { return };
            if sender.blocking_send(record).is_err() || last {
                return;
            }
        }
    });
    records
}

fn next_record(input: &mut dyn BufRead, cut: &mut Cut) -> Result<Option<ProducedRecord>, String> {
    if let Cut::Format(reader) = cut {
        return reader.next(input);
    }
    loop {
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
    let mut rows = BTreeMap::new();
    for (token, value) in (0_u64..).zip(values) {
        let began = Instant::now();
        producer.send(complete(ProducedRecord { value, ..Default::default() }), token).await?;
        // one at a time, so that the latency is the broker's
        tokio::select! {
            delivery = deliveries.recv() => if let Some(delivery) = delivery {
                rows.insert(delivery.token, (delivery, began.elapsed()));
            },
            () = interrupted() => return Ok(Exit::Interrupted),
        }
    }
    for (delivery, took) in rows.into_values() {
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

/// A stream of records: one row for all.
async fn produce_stream(
    context: &Context,
    arguments: &ProduceArgs,
    producer: Producer,
    mut deliveries: mpsc::UnboundedReceiver<Delivery>,
    mut records: mpsc::Receiver<Result<ProducedRecord, String>>,
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
    let (mut sent, mut bytes, mut done, mut refused) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut partitions = BTreeMap::<i32, u64>::new();
    let mut first_failure = None;
    let mut producer = Some(producer);
    let mut interrupt = std::pin::pin!(interrupted());
    let mut exit = Exit::Success;
    let mut progress: Option<ProgressBar> = None;
    while producer.is_some() || done < sent {
        if progress.is_none()
            && arguments.file.is_some()
            && began.elapsed() > Duration::from_secs(1)
            && io::stderr().is_terminal()
        {
            progress = Some(progress_bar());
        }
        if let Some(progress) = progress.as_ref().filter(|_| done % 256 == 0) {
            progress.set_position(done);
        }
        tokio::select! {
            Some(delivery) = deliveries.recv() => {
                done += 1;
                match delivery.result {
                    Ok(_) => *partitions.entry(delivery.partition).or_default() += 1,
                    Err(failure) => {
                        refused += 1;
                        first_failure.get_or_insert(failure);
                    }
                }
            }
            next = records.recv(), if producer.is_some() => match next {
                None => producer = None,
                Some(Err(why)) => {
                    let item = arguments.file.as_ref().map_or("standard input".to_owned(), |file| file.display().to_string());
                    report.fail(Failure::usage(&item, format!("{item}, {why}; nothing from there on was sent")));
                    producer = None;
                }
                Some(Ok(record)) => {
                    let record = complete(record);
                    bytes += u64::try_from(record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len)).unwrap_or(0);
                    if let Some(rate) = arguments.rate {
                        #[expect(clippy::cast_precision_loss, reason = "a pace, not a count")]
                        let due = began + Duration::from_secs_f64(sent as f64 / rate as f64);
                        tokio::time::sleep_until(due).await;
                    }
                    if let Some(producer) = &mut producer {
                        producer.send(record, sent).await?;
                        sent += 1;
                    }
                }
            },
            () = &mut interrupt, if exit == Exit::Success => {
                // what was read is finished, nothing more is read
                exit = Exit::Interrupted;
                producer = None;
            }
        }
    }
    if let Some(progress) = progress {
        progress.finish_and_clear();
    }
    let seconds = began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate is for reading")]
    let rate = (done - refused) as f64 / seconds.max(1e-9);
    report.row(json!({
        "topic": arguments.topic,
        "records": done - refused,
        "bytes": bytes,
        "partitions": partitions.len(),
        "seconds": (seconds * 1000.0).round() / 1000.0,
        "records_per_second": rate.round(),
    }));
    if let Some(failure) = first_failure {
        let message = format!("{refused} of {sent} records were not written; the first: {}", failure.message);
        report.fail(failure.worded(message));
    }
    let printed = report.print(&context.terminal)?;
    Ok(if exit == Exit::Success { printed } else { exit })
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} records, {per_sec}, {elapsed}") {
        bar.set_style(style);
    }
    bar
}
