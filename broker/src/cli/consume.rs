//! `alluvium consume`: records of topics, from a place to a place, or as a member of a group.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Context,
    client::{BACKOFF, Client, TopicPartition},
    connection::answered,
    consumer::{FetchOptions, Fetched, Fetcher, PATIENCE},
    failure::{CommandError, Exit, Failure},
    group_member::GroupMember,
    interrupted,
    jsonl::{ConsumedRecord, to_json},
    offset_spec::{Bound, OffsetSpec},
    output::{Column, OutputMode, RowStream},
    record_format::RecordFormat,
    time::Rfc3339,
};

#[derive(Args)]
#[command(
    after_help = "Offsets (-o): start | end | 10 | 10:20 | +10 | -5 (the last 5 of each partition) | :end | @2026-02-14 |\n\
                        @2026-02-14:1h | @-48h:-24h. A range ends the command by itself, at\n\
                        the end of what is there.\n\
                        Formats (-f): %t topic, %p partition, %o offset, %d timestamp, %k key, %v value, %h headers, %T %K %V\n\
                        lengths, %H number of headers; %v{hex} %v{base64} %o{big64} %d{rfc3339} %h{%k=%v }; \\n \\t \\xNN."
)]
pub(super) struct ConsumeArgs {
    /// Topics
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Where to begin and to end [default: start]; a group begins where it committed, and there only where the log no
    /// longer has that, or nothing is committed
    #[arg(short, long, value_name = "SPEC", allow_hyphen_values = true)]
    offset: Option<String>,
    /// End after N records
    #[arg(short, long, value_name = "N")]
    num: Option<u64>,
    /// End at the end as it is when the command starts
    #[arg(short, long)]
    exit: bool,
    /// How to print each record
    #[arg(short, long, value_name = "FORMAT", conflicts_with_all = ["jsonl", "hex"])]
    format: Option<String>,
    /// Print one JSON object a line
    #[arg(long, conflicts_with = "hex")]
    jsonl: bool,
    /// Print keys and values in hexadecimal
    #[arg(long)]
    hex: bool,
    /// Read as a member of this group, and commit what was printed
    #[arg(short, long, value_name = "GROUP", conflicts_with = "partitions")]
    group: Option<String>,
    /// Commit nothing
    #[arg(long, requires = "group")]
    no_commit: bool,
    /// Only these partitions
    #[arg(short, long, value_name = "N,..", value_delimiter = ',', value_parser = clap::value_parser!(i32).range(0..))]
    partitions: Vec<i32>,
    /// Whether records of open and aborted transactions are shown
    #[arg(long, default_value = "read_uncommitted", value_name = "LEVEL",
          value_parser = clap::builder::PossibleValuesParser::new(["read_uncommitted", "read_committed"]))]
    isolation: String,
}

/// How often a group's progress is committed.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Where records go.
enum Sink<'a> {
    Rows(RowStream<'a>, bool),
    Format(RecordFormat, Vec<u8>),
    Jsonl(Vec<u8>),
}

impl Sink<'_> {
    fn record(&mut self, record: &ConsumedRecord, human: bool) -> Result<(), CommandError> {
        match self {
            Sink::Rows(rows, hex) => {
                let mut row = to_json(record);
                if human && record.timestamp >= 0 {
                    row["timestamp"] = Value::from(Rfc3339(record.timestamp).to_string());
                }
                if *hex {
                    let digits = |bytes: Option<&[u8]>| {
                        bytes.map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
                    };
                    row["key"] = Value::from(digits(record.key.as_deref()));
                    row["value"] = Value::from(digits(record.value.as_deref()));
                }
                rows.row(&row)
            }
            Sink::Format(format, out) => {
                format.write(record, out);
                Ok(())
            }
            Sink::Jsonl(out) => {
                serde_json::to_writer(&mut *out, &to_json(record)).map_err(io::Error::from)?;
                out.push(b'\n');
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> Result<(), CommandError> {
        match self {
            Sink::Rows(rows, _) => rows.flush(),
            Sink::Format(_, out) | Sink::Jsonl(out) => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(out)?;
                stdout.flush()?;
                out.clear();
                Ok(())
            }
        }
    }
}

pub(super) async fn run(context: &Context, arguments: ConsumeArgs) -> Result<Exit, CommandError> {
    let spec = match &arguments.offset {
        None => OffsetSpec { from: Bound::Start, to: None },
        Some(text) => OffsetSpec::parse(text, context.clock.now_ms()).map_err(|why| {
            Failure::usage("--offset", format!("--offset {text}: {why}"))
                .hint("start, end, 10, 10:20, +10, -5, :end, @2026-02-14:1h or @-48h:-24h")
        })?,
    };
    let format = match &arguments.format {
        None => None,
        Some(text) => Some(
            RecordFormat::parse(text)
                .map_err(|why| Failure::usage("--format", format!("--format {text}: {why}")))?,
        ),
    };
    let mut names: Vec<Arc<str>> = arguments.topics.iter().map(|topic| topic.as_str().into()).collect();
    names.sort();
    names.dedup();
    let client = Client::connect(&context.settings).await?;
    let partitions = client.partitions(&names).await?;
    for number in &arguments.partitions {
        if !partitions.iter().any(|partition| partition.partition == *number) {
            let message = format!("partition {number} of {}: no such partition", names.join(", "));
            return Err(Failure::kafka(3, "UNKNOWN_TOPIC_OR_PARTITION", number.to_string(), message)
                .hint("alluvium topic describe TOPIC")
                .into());
        }
    }
    let partitions: Vec<TopicPartition> = partitions
        .into_iter()
        .filter(|partition| {
            arguments.partitions.is_empty() || arguments.partitions.contains(&partition.partition)
        })
        .collect();
    let watermarks = client.watermarks(&partitions).await?;
    let mut starts = client.resolve(spec.from, &watermarks).await?;
    let mut stops = match (spec.to, arguments.exit) {
        (None, false) => None,
        (to, _) => Some(client.resolve(to.unwrap_or(Bound::End), &watermarks).await?),
    };
    if let Some(stops) = &mut stops {
        // of a range, each partition gives what it has now
        for (partition, (log_start, log_end)) in &watermarks {
            if let Some(stop) = stops.get_mut(partition) {
                *stop = (*stop).min(*log_end);
            }
            if let Some(start) = starts.get_mut(partition) {
                *start = (*start).max(*log_start);
            }
        }
    }
    if let Bound::Offset(offset) = spec.from
        && stops.is_some()
        && watermarks.values().all(|(_, end)| offset > *end)
    {
        let name = names.join(", ");
        let message = format!("no partition of {name} has come to offset {offset} yet");
        return Err(Failure::kafka(1, "OFFSET_OUT_OF_RANGE", name, message)
            .hint("alluvium topic offsets TOPIC")
            .into());
    }
    let sink = match (format, arguments.jsonl) {
        (Some(format), _) => Sink::Format(format, Vec::new()),
        (None, true) => Sink::Jsonl(Vec::new()),
        (None, false) => {
            let columns = [
                Column::left("TOPIC", "topic")
                    .at_least(names.iter().map(|name| name.len()).max().unwrap_or(0)),
                Column::right("PARTITION", "partition"),
                Column::right("OFFSET", "offset").at_least(8),
                Column::left("TIMESTAMP", "timestamp").at_least(24),
                Column::left("KEY", "key").at_least(10),
                Column::left("VALUE", "value"),
                Column::left("HEADERS", "headers").wide(),
            ];
            Sink::Rows(RowStream::start("consume", &columns, &context.terminal)?, arguments.hex)
        }
    };
    let reading = Reading {
        sink,
        human: matches!(context.terminal.mode, OutputMode::Table | OutputMode::Wide),
        left: arguments.num,
        stops,
        positions: BTreeMap::new(),
    };
    let options =
        FetchOptions { read_committed: arguments.isolation == "read_committed", ..Default::default() };
    match &arguments.group {
        None => consume_partitions(client, reading, starts, options).await,
        Some(group) => {
            let membership = Membership {
                member: GroupMember::new(Arc::clone(&client), group, names),
                client,
                group,
                starts,
                options,
                commits: !arguments.no_commit,
                committed: BTreeMap::new(),
                printed: BTreeMap::new(),
                unreachable_since: None,
            };
            consume_group(membership, reading).await
        }
    }
}

/// What is printed, and how far it has come.
struct Reading<'a> {
    sink: Sink<'a>,
    human: bool,
    /// Records that may still be printed.
    left: Option<u64>,
    /// Where each partition ends, for a read that ends.
    stops: Option<BTreeMap<TopicPartition, i64>>,
    /// Behind the last record printed.
    positions: BTreeMap<TopicPartition, i64>,
}

impl Reading<'_> {
    /// Prints what is inside the range.
    fn take(&mut self, fetched: &Fetched) -> Result<(), CommandError> {
        let stop = self.stop_of(&fetched.partition);
        for record in &fetched.records {
            if self.left == Some(0) || stop.is_some_and(|stop| record.offset >= stop) {
                break;
            }
            self.sink.record(record, self.human)?;
            self.positions.insert(fetched.partition.clone(), record.offset + 1);
            if let Some(left) = &mut self.left {
                *left -= 1;
            }
        }
        if self.left != Some(0) {
            let reached = stop.map_or(fetched.next_offset, |stop| fetched.next_offset.min(stop));
            let position = self.positions.entry(fetched.partition.clone()).or_insert(reached);
            *position = (*position).max(reached);
        }
        self.sink.flush()
    }

    /// Where a partition ends, for a read that ends.
    fn stop_of(&self, partition: &TopicPartition) -> Option<i64> {
        self.stops.as_ref().map(|stops| stops.get(partition).copied().unwrap_or(0))
    }

    fn is_open(&self, partition: &TopicPartition, position: i64) -> bool {
        self.stop_of(partition).is_none_or(|stop| position < stop)
    }

    /// Where the partitions begin of which something is left to read.
    fn open(&self) -> BTreeMap<TopicPartition, i64> {
        let positions = self.positions.iter().map(|(partition, position)| (partition.clone(), *position));
        positions.filter(|(partition, position)| self.is_open(partition, *position)).collect()
    }

    /// Whether everything asked for is printed, of the partitions that are being read.
    fn is_done(&self) -> bool {
        self.left == Some(0)
            || self.stops.is_some()
                && !self.positions.iter().any(|(partition, position)| self.is_open(partition, *position))
    }

    fn finish(self, exit: Exit) -> Result<Exit, CommandError> {
        let printed = match self.sink {
            Sink::Rows(rows, _) => rows.finish()?,
            _ => Exit::Success,
        };
        Ok(if exit == Exit::Success { printed } else { exit })
    }

    /// Ends with what made it impossible to go on.
    fn fail(self, failure: Failure) -> Result<Exit, CommandError> {
        match self.sink {
            Sink::Rows(mut rows, _) => {
                rows.fail(failure);
                rows.finish()
            }
            _ => Err(failure.into()),
        }
    }
}

async fn consume_partitions(
    client: Arc<Client>,
    mut reading: Reading<'_>,
    starts: BTreeMap<TopicPartition, i64>,
    options: FetchOptions,
) -> Result<Exit, CommandError> {
    reading.positions = starts;
    reading.sink.flush()?;
    if reading.is_done() {
        return reading.finish(Exit::Success);
    }
    let mut fetcher = Fetcher::start(client, reading.open(), options);
    let mut interrupt = std::pin::pin!(interrupted());
    loop {
        tokio::select! {
            fetched = fetcher.next() => match fetched {
                Some(Ok(fetched)) => {
                    reading.take(&fetched)?;
                    if reading.is_done() {
                        return reading.finish(Exit::Success);
                    }
                }
                Some(Err(failure)) => return reading.fail(failure),
                None => return reading.finish(Exit::Success),
            },
            () = &mut interrupt => return reading.finish(Exit::Interrupted),
        }
    }
}

/// Reads as a member of a group; whatever ends it, what was printed is committed and the member leaves.
async fn consume_group(
    mut membership: Membership<'_>,
    mut reading: Reading<'_>,
) -> Result<Exit, CommandError> {
    reading.sink.flush()?;
    let ended = tokio::select! {
        ended = membership.read(&mut reading) => ended,
        () = interrupted() => Ok(Exit::Interrupted),
    };
    let committed = match ended {
        // the last records may not have reached anybody
        Err(CommandError::OutputClosed | CommandError::Output(_)) => Ok(true),
        _ => membership.commit(&reading.positions).await,
    };
    let group = membership.group;
    membership.member.leave().await;
    match (ended, committed) {
        (Ok(exit), Ok(true)) => reading.finish(exit),
        (Ok(_), Ok(false)) => {
            let what = format!("group '{group}': the last records were not committed");
            reading.fail(answered(27, group, &what, None))
        }
        (Err(CommandError::Failure(failure)), _) | (Ok(_), Err(failure)) => reading.fail(failure),
        (Err(error), _) => Err(error),
    }
}

/// A member of a group and what it knows of its partitions.
struct Membership<'a> {
    client: Arc<Client>,
    group: &'a str,
    member: GroupMember,
    /// Where a partition begins of which nothing is committed.
    starts: BTreeMap<TopicPartition, i64>,
    options: FetchOptions,
    /// Whether what is printed is committed.
    commits: bool,
    /// What the group has committed, as far as this member knows.
    committed: BTreeMap<TopicPartition, i64>,
    /// Behind what this process has printed of each partition it ever owned.
    printed: BTreeMap<TopicPartition, i64>,
    /// Since when no broker has answered what this member asked for its group.
    unreachable_since: Option<Instant>,
}

impl Membership<'_> {
    /// Joins and reads, again after each rebalance, until everything asked for is printed. Cancel-safe.
    async fn read(&mut self, reading: &mut Reading<'_>) -> Result<Exit, CommandError> {
        loop {
            let owned = self.member.join().await?;
            reading.positions = loop {
                let placed = self.place(&owned).await;
                match self.bear(placed)? {
                    Some(positions) => break positions,
                    None => tokio::time::sleep(BACKOFF).await,
                }
            };
            if reading.is_done() || self.read_owned(reading).await? {
                return Ok(Exit::Success);
            }
            let committed = self.commit(&reading.positions).await;
            self.bear(committed)?;
            self.printed.append(&mut reading.positions.clone());
        }
    }

    /// Bears that brokers are away, as long as one that is started again may take.
    fn bear<T>(&mut self, answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
        match answer {
            Ok(answer) => {
                self.unreachable_since = None;
                Ok(Some(answer))
            }
            Err(failure) if failure.exit() == Exit::Unreachable => {
                let since = *self.unreachable_since.get_or_insert_with(Instant::now);
                if since.elapsed() < PATIENCE { Ok(None) } else { Err(failure) }
            }
            Err(failure) => Err(failure),
        }
    }

    /// Where each partition begins: behind what was printed or committed, else where the command line says.
    async fn place(&mut self, owned: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
        self.committed = self.client.committed(self.group).await?;
        let mut positions = BTreeMap::new();
        for (partition, (start, end)) in self.client.watermarks(owned).await? {
            let known = self.committed.get(&partition).max(self.printed.get(&partition)).copied();
            let fresh = self.starts.get(&partition).copied().unwrap_or(start).clamp(start, end);
            let position = match known {
                Some(known) if (start..=end).contains(&known) => known,
                // as auto.offset.reset has it: the log no longer has what was committed
                Some(known) => {
                    let group = self.group;
                    // stderr may be closed
                    let _ = writeln!(
                        io::stderr(),
                        "warning: group '{group}' is at offset {known} of {partition}, which has {start} to {end}: \
                         it goes on from {fresh}"
                    );
                    fresh
                }
                None => fresh,
            };
            positions.insert(partition, position);
        }
        Ok(positions)
    }

    /// Reads what is owned now; `false` where the member has to join again.
    async fn read_owned(&mut self, reading: &mut Reading<'_>) -> Result<bool, CommandError> {
        let mut fetcher = Fetcher::start(Arc::clone(&self.client), reading.open(), self.options);
        let mut next_commit = Instant::now() + COMMIT_INTERVAL;
        loop {
            tokio::select! {
                Some(fetched) = fetcher.next() => {
                    reading.take(&fetched?)?;
                    if reading.is_done() {
                        return Ok(true);
                    }
                }
                disturbed = self.member.disturbed() => {
                    disturbed?;
                    return Ok(false);
                }
                () = tokio::time::sleep_until(next_commit) => {
                    let committed = self.commit(&reading.positions).await;
                    self.bear(committed)?;
                    next_commit = Instant::now() + COMMIT_INTERVAL;
                }
            }
        }
    }

    /// Commits what has moved since the last time; `false` where the group has moved on without this member.
    async fn commit(&mut self, positions: &BTreeMap<TopicPartition, i64>) -> Result<bool, Failure> {
        if !self.commits {
            return Ok(true);
        }
        let changes: BTreeMap<TopicPartition, i64> = positions
            .iter()
            .filter(|(partition, position)| self.committed.get(*partition) != Some(*position))
            .map(|(partition, position)| (partition.clone(), *position))
            .collect();
        let taken = self.member.commit(&changes).await?;
        if taken {
            self.committed.extend(changes);
        }
        Ok(taken)
    }
}
