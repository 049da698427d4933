//! `alluvium dump segment|index|timeindex|producers FILE..`: the files of a partition, offline and read-only.
//!
//! Every row names its file, in a table where there are several. A damaged file is printed as far as it goes; what is wrong with
//! it is a failed item, so the exit code says it, too. The base offset of a segment is in its file's name. Keys, values and
//! headers stand as in JSON lines, whatever bytes they are.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use log_store::{
    compression::Inflater,
    inspect::{BatchReader, StoredBatch, offset_entries, time_entries},
    producer_state::SnapshotRow,
};
use serde_json::{Value, json};

use super::{
    Context,
    failure::{CommandError, Exit, Failure},
    jsonl::{bytes_to_json, headers_to_json},
    output::{Column, RowStream},
};

#[derive(Subcommand)]
pub(super) enum DumpCommand {
    /// Print the batches of .log files, and check them
    Segment(SegmentArgs),
    /// Print the entries of .index files
    Index(FileArgs),
    /// Print the entries of .timeindex files
    Timeindex(FileArgs),
    /// Print the producers of .snapshot files
    Producers(FileArgs),
}

#[derive(Args)]
pub(super) struct SegmentArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Print the records instead of the batches
    #[arg(long)]
    records: bool,
}

#[derive(Args)]
pub(super) struct FileArgs {
    /// The files, such as alluvium-data/orders-0/00000000000000000000.log
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl DumpCommand {
    /// The command's name in output.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Segment(_) => "dump segment",
            Self::Index(_) => "dump index",
            Self::Timeindex(_) => "dump timeindex",
            Self::Producers(_) => "dump producers",
        }
    }
}

const BATCHES: [Column; 11] = [
    Column::right("BASE-OFFSET", "base_offset"),
    Column::right("LAST-OFFSET", "last_offset").at_least(12),
    Column::right("POSITION", "position").at_least(10),
    Column::right("SIZE", "size").at_least(8),
    Column::right("RECORDS", "records"),
    Column::right("EPOCH", "leader_epoch"),
    Column::left("CODEC", "codec").at_least(6),
    Column::right("MAX-TIMESTAMP", "max_timestamp"),
    Column::right("PRODUCER", "producer_id").wide(),
    Column::right("SEQUENCE", "base_sequence").wide(),
    Column::left("CRC", "crc").wide(),
];
const RECORDS: [Column; 5] = [
    Column::right("OFFSET", "offset").at_least(10),
    Column::right("TIMESTAMP", "timestamp").at_least(13),
    Column::left("KEY", "key").at_least(16),
    Column::left("VALUE", "value"),
    Column::left("HEADERS", "headers").wide(),
];
const OFFSET_ENTRIES: [Column; 2] =
    [Column::right("OFFSET", "offset").at_least(12), Column::right("POSITION", "position").at_least(12)];
const TIME_ENTRIES: [Column; 2] =
    [Column::right("TIMESTAMP", "timestamp").at_least(14), Column::right("OFFSET", "offset").at_least(12)];
const PRODUCERS: [Column; 8] = [
    Column::right("PRODUCER", "producer_id"),
    Column::right("EPOCH", "producer_epoch"),
    Column::right("LAST-SEQUENCE", "last_sequence"),
    Column::right("LAST-OFFSET", "last_offset"),
    Column::right("OFFSET-DELTA", "offset_delta"),
    Column::right("TIMESTAMP", "timestamp").at_least(13),
    Column::right("COORDINATOR-EPOCH", "coordinator_epoch").wide(),
    Column::right("OPEN-SINCE", "transaction_first_offset").wide(),
];

pub(super) fn run(context: &Context, command: DumpCommand) -> Result<Exit, CommandError> {
    let name = command.name();
    let (columns, files) = match &command {
        DumpCommand::Segment(arguments) if arguments.records => (&RECORDS[..], &arguments.files.files),
        DumpCommand::Segment(arguments) => (&BATCHES[..], &arguments.files.files),
        DumpCommand::Index(arguments) => (&OFFSET_ENTRIES[..], &arguments.files),
        DumpCommand::Timeindex(arguments) => (&TIME_ENTRIES[..], &arguments.files),
        DumpCommand::Producers(arguments) => (&PRODUCERS[..], &arguments.files),
    };
    // The whole command line first: nothing is printed of a command that names a file that is none of its kind.
    let mut bases = Vec::new();
    for file in files {
        bases.push(base_offset(file, &command)?);
    }
    let mut columns = columns.to_vec();
    if let [_, _, ..] = files[..] {
        let widest = files.iter().map(|file| file.display().to_string().len()).max();
        columns.insert(0, Column::left("FILE", "file").at_least(widest.unwrap_or(0)));
    }
    let mut rows = RowStream::start(name, &columns, &context.terminal)?;
    for (file, base_offset) in files.iter().zip(bases) {
        match &command {
            DumpCommand::Segment(arguments) => segment(file, base_offset, arguments.records, &mut rows)?,
            DumpCommand::Index(_) => {
                let Some(bytes) = read(file, &mut rows) else { continue };
                let (entries, rest) = offset_entries(&bytes, base_offset);
                for (offset, position) in entries {
                    rows.row(
                        &json!({ "file": file.to_string_lossy(), "offset": offset, "position": position }),
                    )?;
                }
                left_over(file, rest, &mut rows);
            }
            DumpCommand::Timeindex(_) => {
                let Some(bytes) = read(file, &mut rows) else { continue };
                let (entries, rest) = time_entries(&bytes, base_offset);
                for (timestamp, offset) in entries {
                    rows.row(
                        &json!({ "file": file.to_string_lossy(), "timestamp": timestamp, "offset": offset }),
                    )?;
                }
                left_over(file, rest, &mut rows);
            }
            DumpCommand::Producers(_) => producers(file, &mut rows)?,
        }
    }
    rows.finish()
}

/// The offset in the name of a file, which must be one of those that the command prints.
fn base_offset(file: &Path, command: &DumpCommand) -> Result<i64, Failure> {
    let extension = match command {
        DumpCommand::Segment(_) => "log",
        DumpCommand::Index(_) => "index",
        DumpCommand::Timeindex(_) => "timeindex",
        DumpCommand::Producers(_) => "snapshot",
    };
    let is_ours = file.extension().is_some_and(|found| found == extension);
    let stem = file.file_stem().and_then(|stem| stem.to_str()).filter(|stem| is_ours && stem.len() == 20);
    stem.and_then(|stem| stem.parse().ok()).ok_or_else(|| {
        let message = format!("{}: not a file named by 20 digits and .{extension}", file.display());
        Failure::usage(file.display().to_string(), message)
    })
}

fn unreadable(file: &Path, error: &std::io::Error) -> Failure {
    let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
    Failure::local(exit, "UNREADABLE", file.display().to_string(), format!("{}: {error}", file.display()))
}

fn damaged(file: &Path, message: impl Into<String>) -> Failure {
    let name = file.display().to_string();
    let message = format!("{name}: {}", message.into());
    Failure::local(Exit::Failed, "DAMAGED", name, message)
}

fn read(file: &Path, rows: &mut RowStream<'_>) -> Option<Vec<u8>> {
    match std::fs::read(file) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            rows.fail(unreadable(file, &error));
            None
        }
    }
}

fn left_over(file: &Path, rest: usize, rows: &mut RowStream<'_>) {
    if rest > 0 {
        rows.fail(damaged(file, format!("{rest} bytes behind the last whole entry")));
    }
}

fn segment(
    file: &Path,
    base_offset: i64,
    records: bool,
    rows: &mut RowStream<'_>,
) -> Result<(), CommandError> {
    let opened = File::open(file).and_then(|opened| Ok((opened.metadata()?.len(), opened)));
    let (size, opened) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            rows.fail(unreadable(file, &error));
            return Ok(());
        }
    };
    let mut inflater = Inflater::default();
    for stored in BatchReader::new(BufReader::new(opened), base_offset, size) {
        let stored = match stored {
            Ok(stored) => stored,
            Err(fault) => {
                rows.fail(damaged(file, fault.to_string()));
                break;
            }
        };
        if records {
            records_of(file, &stored, &mut inflater, rows)?;
        } else {
            rows.row(&batch_row(file, &stored))?;
        }
        for fault in &stored.faults {
            rows.fail(damaged(file, format!("batch at byte {}: {fault}", stored.position)));
        }
    }
    Ok(())
}

fn batch_row(file: &Path, stored: &StoredBatch) -> Value {
    let header = stored.batch.header();
    json!({
        "file": file.to_string_lossy(),
        "base_offset": header.base_offset,
        "last_offset": header.last_offset(),
        "position": stored.position,
        "size": header.size(),
        "records": header.record_count,
        "leader_epoch": header.partition_leader_epoch,
        "codec": header.codec().map_or("unknown".to_owned(), |codec| codec.to_string()),
        "max_timestamp": header.max_timestamp,
        "producer_id": header.producer_id,
        "producer_epoch": header.producer_epoch,
        "base_sequence": header.base_sequence,
        "transactional": header.is_transactional(),
        "control": header.is_control(),
        "crc": format!("{:08x}", header.crc),
    })
}

fn records_of(
    file: &Path,
    stored: &StoredBatch,
    inflater: &mut Inflater,
    rows: &mut RowStream<'_>,
) -> Result<(), CommandError> {
    let records = match stored.batch.records_in(inflater) {
        Ok(records) => records,
        Err(error) => {
            rows.fail(damaged(file, format!("batch at byte {}: {error}", stored.position)));
            return Ok(());
        }
    };
    for record in records {
        match record {
            Ok(record) => rows.row(&json!({
                "file": file.to_string_lossy(),
                "offset": record.offset,
                "timestamp": record.timestamp,
                "key": bytes_to_json(record.key),
                "value": bytes_to_json(record.value),
                "headers": headers_to_json(record.headers),
            }))?,
            Err(error) => {
                rows.fail(damaged(file, format!("batch at byte {}: {error}", stored.position)));
                break;
            }
        }
    }
    Ok(())
}

fn producers(file: &Path, rows: &mut RowStream<'_>) -> Result<(), CommandError> {
    let Some(bytes) = read(file, rows) else { return Ok(()) };
    let snapshot = match SnapshotRow::read_all(&bytes) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            rows.fail(damaged(file, error.to_string()));
            return Ok(());
        }
    };
    for row in snapshot {
        rows.row(&json!({
            "file": file.to_string_lossy(),
            "producer_id": row.producer_id,
            "producer_epoch": row.epoch,
            "last_sequence": row.batch.last_sequence,
            "last_offset": row.batch.last_offset,
            "offset_delta": row.batch.offset_delta,
            "timestamp": row.batch.timestamp,
            "coordinator_epoch": row.coordinator_epoch,
            "transaction_first_offset": row.transaction_start,
        }))?;
    }
    Ok(())
}
