//! What commands print: one report of rows as a table, JSON, JSON lines, CSV or names; or a stream of rows.
//!
//! ```text
//! command -> Report { columns, rows (JSON objects), failures } -> table | wide | json | jsonl | csv | name
//!         -> RowStream: the same modes, row by row, for commands without an end
//! ```
//! Data goes to stdout alone. In `json` failures are in the document, in every other mode they go to stderr.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::failure::{CommandError, Exit, Failure, exit_of};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OutputMode {
    /// Aligned columns.
    #[default]
    Table,
    /// Aligned columns, with those that are rarely needed.
    Wide,
    /// One document.
    Json,
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values with a header line.
    Csv,
    /// The first column alone, without a header.
    Name,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set; `CLICOLOR_FORCE` overrides both.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl ColorChoice {
    /// Whether a stream that is, or is not, a terminal gets colour.
    pub(crate) fn enabled(self, terminal: bool, env: &dyn Fn(&str) -> Option<String>) -> bool {
        let set = |name: &str| env(name).is_some_and(|value| !value.is_empty() && value != "0");
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => set("CLICOLOR_FORCE") || (terminal && env("NO_COLOR").is_none_or(|v| v.is_empty())),
        }
    }
}

/// A column of a table: its header, the field of the row that it shows, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    header: &'static str,
    field: &'static str,
    right: bool,
    wide: bool,
    width: usize,
}

impl Column {
    /// A left-aligned column.
    pub(crate) const fn left(header: &'static str, field: &'static str) -> Self {
        Self { header, field, right: false, wide: false, width: 0 }
    }

    /// A right-aligned column, for numbers.
    pub(crate) const fn right(header: &'static str, field: &'static str) -> Self {
        Self { header, field, right: true, wide: false, width: 0 }
    }

    /// The same, shown in `wide` (and `csv`) only.
    pub(crate) const fn wide(mut self) -> Self {
        self.wide = true;
        self
    }

    /// The same, at least this wide when rows are streamed.
    pub(crate) const fn at_least(mut self, width: usize) -> Self {
        self.width = width;
        self
    }
}

/// The version of the JSON envelope; it rises only when something that scripts rely on changes.
const ENVELOPE_VERSION: u32 = 1;

#[derive(Serialize)]
struct Envelope<'a> {
    v: u32,
    command: &'a str,
    data: &'a [Value],
    errors: &'a [Failure],
}

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Report {
    command: &'static str,
    columns: Vec<Column>,
    rows: Vec<Value>,
    failures: Vec<Failure>,
}

impl Report {
    /// An empty report of `command` (as the user types it, without the program's name).
    pub(crate) fn new(command: &'static str, columns: &[Column]) -> Self {
        Self { command, columns: columns.to_vec(), rows: Vec::new(), failures: Vec::new() }
    }

    /// Adds a row: a JSON object that has at least the fields of the columns.
    pub(crate) fn row(&mut self, row: Value) {
        debug_assert!(row.is_object(), "a row is an object");
        self.rows.push(row);
    }

    /// Adds a failed item.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.failures.push(failure);
    }

    /// Prints everything and gives the exit code.
    ///
    /// # Errors
    /// Standard output could not be written to.
    pub(crate) fn print(&self, terminal: &Terminal) -> Result<Exit, CommandError> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        self.write(terminal, &mut out)?;
        out.flush()?;
        drop(out);
        if terminal.mode != OutputMode::Json {
            for failure in &self.failures {
                terminal.complain(failure);
            }
        }
        Ok(exit_of(&self.failures))
    }

    fn write(&self, terminal: &Terminal, out: &mut dyn Write) -> io::Result<()> {
        match terminal.mode {
            OutputMode::Table => self.write_table(false, terminal.color, out),
            OutputMode::Wide => self.write_table(true, terminal.color, out),
            OutputMode::Json => {
                let envelope = Envelope {
                    v: ENVELOPE_VERSION,
                    command: self.command,
                    data: &self.rows,
                    errors: &self.failures,
                };
                serde_json::to_writer(&mut *out, &envelope)?;
                writeln!(out)
            }
            OutputMode::Jsonl => {
                for row in &self.rows {
                    serde_json::to_writer(&mut *out, row)?;
                    writeln!(out)?;
                }
                Ok(())
            }
            OutputMode::Csv => {
                write_csv(out, self.columns.iter().map(|column| column.header.to_lowercase()))?;
                for row in &self.rows {
                    write_csv(out, self.columns.iter().map(|column| raw_cell(row, column)))?;
                }
                Ok(())
            }
            OutputMode::Name => {
                for row in &self.rows {
                    if let Some(column) = self.columns.first() {
                        writeln!(out, "{}", raw_cell(row, column))?;
                    }
                }
                Ok(())
            }
        }
    }

    fn write_table(&self, wide: bool, color: bool, out: &mut dyn Write) -> io::Result<()> {
        if self.rows.is_empty() && !self.failures.is_empty() {
            return Ok(());
        }
        let columns: Vec<&Column> = self.columns.iter().filter(|column| wide || !column.wide).collect();
        let cells: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| columns.iter().map(|column| table_cell(row, column)).collect())
            .collect();
        let widths: Vec<usize> = columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                cells.iter().map(|row| width(&row[index])).chain([column.header.len()]).max().unwrap_or(0)
            })
            .collect();
        let headers: Vec<String> = columns.iter().map(|column| column.header.to_owned()).collect();
        write_line(out, &columns, &widths, &headers, color)?;
        for row in &cells {
            write_line(out, &columns, &widths, row, false)?;
        }
        Ok(())
    }
}

/// Writes one line of a table, without trailing blanks.
fn write_line(
    out: &mut dyn Write,
    columns: &[&Column],
    widths: &[usize],
    cells: &[String],
    bold: bool,
) -> io::Result<()> {
    let mut line = String::new();
    for (index, cell) in cells.iter().enumerate() {
        let padding = " ".repeat(widths[index].saturating_sub(width(cell)));
        if index > 0 {
            line.push_str("  ");
        }
        if columns[index].right {
            line.push_str(&padding);
            line.push_str(cell);
        } else {
            line.push_str(cell);
            line.push_str(&padding);
        }
    }
    let line = line.trim_end();
    if bold { writeln!(out, "\x1b[1m{line}\x1b[0m") } else { writeln!(out, "{line}") }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// A cell as it is, empty where there is nothing.
fn raw_cell(row: &Value, column: &Column) -> String {
    match row.get(column.field) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(","),
        Some(other) => other.to_string(),
    }
}

/// A cell for a person: `-` where there is nothing, control characters escaped, so that no record can move the
/// cursor or break a line.
fn table_cell(row: &Value, column: &Column) -> String {
    let raw = raw_cell(row, column);
    if raw.is_empty() {
        return "-".to_owned();
    }
    if raw.chars().any(char::is_control) {
        return raw
            .chars()
            .flat_map(|character| {
                let escaped: Vec<char> = match character.is_control() {
                    true => character.escape_default().collect(),
                    false => vec![character],
                };
                escaped
            })
            .collect();
    }
    raw
}

/// Writes one line of CSV (RFC 4180, but lines end in LF).
fn write_csv(out: &mut dyn Write, cells: impl Iterator<Item = String>) -> io::Result<()> {
    let line: Vec<String> = cells
        .map(|cell| match cell.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", cell.replace('"', "\"\"")),
            false => cell,
        })
        .collect();
    writeln!(out, "{}", line.join(","))
}

/// Rows printed as they come. In `json` the document stays valid however the command ends, as long as
/// [`RowStream::finish`] is reached.
pub(crate) struct RowStream<'a> {
    columns: Vec<Column>,
    terminal: &'a Terminal,
    out: Box<dyn Write + 'a>,
    rows: u64,
    failures: Vec<Failure>,
}

impl<'a> RowStream<'a> {
    /// Starts a stream on stdout.
    ///
    /// # Errors
    /// Standard output could not be written to.
    pub(crate) fn start(
        command: &'static str,
        columns: &[Column],
        terminal: &'a Terminal,
    ) -> Result<Self, CommandError> {
        Self::start_on(
            command,
            columns,
            terminal,
            Box::new(io::BufWriter::with_capacity(1 << 16, io::stdout())),
        )
    }

    fn start_on(
        command: &'static str,
        columns: &[Column],
        terminal: &'a Terminal,
        mut out: Box<dyn Write + 'a>,
    ) -> Result<Self, CommandError> {
        let columns: Vec<Column> = columns
            .iter()
            .filter(|column| terminal.mode != OutputMode::Table || !column.wide)
            .copied()
            .collect();
        match terminal.mode {
            OutputMode::Json => {
                let command = Value::from(command);
                write!(out, "{{\"v\":{ENVELOPE_VERSION},\"command\":{command},\"data\":[")?;
            }
            OutputMode::Csv => {
                write_csv(&mut out, columns.iter().map(|column| column.header.to_lowercase()))?
            }
            OutputMode::Table | OutputMode::Wide => {
                let headers: Vec<String> = columns.iter().map(|column| column.header.to_owned()).collect();
                write_line(
                    &mut out,
                    &columns.iter().collect::<Vec<_>>(),
                    &stream_widths(&columns),
                    &headers,
                    terminal.color,
                )?;
            }
            OutputMode::Jsonl | OutputMode::Name => {}
        }
        Ok(Self { columns, terminal, out, rows: 0, failures: Vec::new() })
    }

    /// Prints a row.
    ///
    /// # Errors
    /// Standard output could not be written to.
    pub(crate) fn row(&mut self, row: &Value) -> Result<(), CommandError> {
        match self.terminal.mode {
            OutputMode::Json => {
                self.out.write_all(if self.rows == 0 { b"\n" } else { b",\n" })?;
                serde_json::to_writer(&mut self.out, row).map_err(io::Error::from)?;
            }
            OutputMode::Jsonl => {
                serde_json::to_writer(&mut self.out, row).map_err(io::Error::from)?;
                self.out.write_all(b"\n")?;
            }
            OutputMode::Csv => {
                write_csv(&mut self.out, self.columns.iter().map(|column| raw_cell(row, column)))?;
            }
            OutputMode::Table | OutputMode::Wide => {
                let cells: Vec<String> = self.columns.iter().map(|column| table_cell(row, column)).collect();
                let columns: Vec<&Column> = self.columns.iter().collect();
                write_line(&mut self.out, &columns, &stream_widths(&self.columns), &cells, false)?;
            }
            OutputMode::Name => {
                if let Some(column) = self.columns.first() {
                    writeln!(self.out, "{}", raw_cell(row, column))?;
                }
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// Prints what a report holds, at once, and gives the exit code of its failures.
    ///
    /// # Errors
    /// Standard output could not be written to.
    pub(crate) fn report(&mut self, report: Report) -> Result<Exit, CommandError> {
        for row in &report.rows {
            self.row(row)?;
        }
        self.flush()?;
        let exit = exit_of(&report.failures);
        for failure in report.failures {
            self.fail(failure);
        }
        Ok(exit)
    }

    /// Adds a failed item, printed where failures go.
    pub(crate) fn fail(&mut self, failure: Failure) {
        if self.terminal.mode != OutputMode::Json {
            self.terminal.complain(&failure);
        }
        self.failures.push(failure);
    }

    /// Hands everything printed so far to stdout.
    ///
    /// # Errors
    /// Standard output could not be written to.
    pub(crate) fn flush(&mut self) -> Result<(), CommandError> {
        Ok(self.out.flush()?)
    }

    /// Ends the stream and gives the exit code.
    ///
    /// # Errors
    /// Standard output could not be written to.
    pub(crate) fn finish(mut self) -> Result<Exit, CommandError> {
        if self.terminal.mode == OutputMode::Json {
            self.out.write_all(if self.rows == 0 { b"],\"errors\":" } else { b"\n],\"errors\":" })?;
            serde_json::to_writer(&mut self.out, &self.failures).map_err(io::Error::from)?;
            self.out.write_all(b"}\n")?;
        }
        self.out.flush()?;
        Ok(exit_of(&self.failures))
    }
}

fn stream_widths(columns: &[Column]) -> Vec<usize> {
    columns.iter().map(|column| column.width.max(column.header.len())).collect()
}

/// Where and how a command prints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    /// How results are printed.
    pub(crate) mode: OutputMode,
    /// Whether stdout gets colour.
    pub(crate) color: bool,
    /// Whether stderr gets colour.
    pub(crate) error_color: bool,
}

impl Terminal {
    /// Settles colour for the streams of this process.
    pub(crate) fn new(mode: OutputMode, color: ColorChoice, env: &dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            mode,
            color: color.enabled(io::stdout().is_terminal(), env),
            error_color: color.enabled(io::stderr().is_terminal(), env),
        }
    }

    /// Prints a failure to stderr: what failed and why, then what to try.
    pub(crate) fn complain(&self, failure: &Failure) {
        let mut text = match self.error_color {
            true => format!("\x1b[1;31merror:\x1b[0m {failure}\n"),
            false => format!("error: {failure}\n"),
        };
        if let Some(hint) = &failure.hint {
            text.push_str("  try: ");
            text.push_str(hint);
            text.push('\n');
        }
        // stderr may be closed; there is nobody left to tell
        let _ = io::stderr().write_all(text.as_bytes());
    }

    /// Prints the failure of a whole command where its mode wants it, and gives the exit code.
    pub(crate) fn end(&self, command: &'static str, error: &CommandError) -> Exit {
        match error {
            CommandError::Failure(failure) => {
                if self.mode == OutputMode::Json {
                    let mut report = Report::new(command, &[]);
                    report.fail(failure.clone());
                    let mut out = io::stdout().lock();
                    let _ = report.write(self, &mut out).and_then(|()| out.flush());
                } else {
                    self.complain(failure);
                }
                failure.exit()
            }
            CommandError::OutputClosed => Exit::Success,
            CommandError::Output(_) => {
                self.complain(&Failure::local(Exit::Failed, "OUTPUT", "stdout", error.to_string()));
                Exit::Failed
            }
        }
    }
}

/// Asks on stderr and reads the answer from `input`; anything but `y` or `yes`, the end of the input included, is no.
///
/// # Errors
/// The input could not be read.
pub(crate) fn confirm(question: &str, input: &mut dyn io::BufRead) -> io::Result<bool> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    if input.read_line(&mut answer)? == 0 {
        writeln!(stderr)?;
        return Ok(false);
    }
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// A count with its noun: `3 topics`, `1 topic`.
pub(crate) fn count_of(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// Progress of something long on stderr: shown past a second, and only on a terminal; gone when it is dropped.
pub(crate) struct Progress {
    bar: ProgressBar,
    shows: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins; `template` is indicatif's.
    pub(crate) fn start(template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let shown = bar.clone();
        let shows = io::stderr().is_terminal().then(|| {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                shown.set_draw_target(ProgressDrawTarget::stderr());
                shown.enable_steady_tick(Duration::from_millis(200));
            })
        });
        Self { bar, shows }
    }

    /// So much is done.
    pub(crate) fn at(&self, position: u64) {
        self.bar.set_position(position);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(shows) = &self.shows {
            shows.abort();
        }
        self.bar.finish_and_clear();
    }
}

/// The environment of this process, as a lookup. Everything else takes it as an argument.
pub(crate) fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// An environment in memory, for tests.
#[cfg(test)]
pub(crate) fn fixed_env(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<> {
    let map: std::collections::HashMap<String, String> =
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    move |name| map.get(name).cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn terminal(mode: OutputMode) -> Terminal {
        Terminal { mode, color: false, error_color: false }
    }

    fn report() -> Report {
        let mut report = Report::new(
            "topic list",
            &[
                Column::left("NAME", "name"),
                Column::right("PARTITIONS", "partitions"),
                Column::left("TOPIC-ID", "topic_id").wide(),
                Column::left("REPLICAS", "replicas"),
            ],
        );
        report.row(json!({"name": "orders", "partitions": 6, "topic_id": "x,y", "replicas": [1, 2]}));
        report.row(json!({"name": "a\nb", "partitions": 12, "topic_id": null, "replicas": []}));
        report
    }

    fn printed(mode: OutputMode) -> String {
        let mut out = Vec::new();
        report().write(&terminal(mode), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn tables_align_and_escape() {
        assert_eq!(
            printed(OutputMode::Table),
            "NAME    PARTITIONS  REPLICAS\norders           6  1,2\na\\nb            12  -\n"
        );
        assert!(printed(OutputMode::Wide).starts_with("NAME    PARTITIONS  TOPIC-ID  REPLICAS\n"));
    }

    #[test]
    fn machine_modes() {
        assert_eq!(
            printed(OutputMode::Csv),
            "name,partitions,topic-id,replicas\norders,6,\"x,y\",\"1,2\"\n\"a\nb\",12,,\n"
        );
        assert_eq!(printed(OutputMode::Name), "orders\na\nb\n");
        assert_eq!(printed(OutputMode::Jsonl).lines().count(), 2);
        let document: Value = serde_json::from_str(&printed(OutputMode::Json)).unwrap();
        assert_eq!(document["v"], 1);
        assert_eq!(document["command"], "topic list");
        assert_eq!(document["data"][0]["partitions"], 6);
        assert_eq!(document["errors"], json!([]));
    }

    #[test]
    fn streamed_json_is_one_document() {
        #[derive(Clone, Default)]
        struct Shared(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.borrow_mut().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for rows in 0..3 {
            let out = Shared::default();
            let terminal = terminal(OutputMode::Json);
            let mut stream = RowStream::start_on("consume", &[], &terminal, Box::new(out.clone())).unwrap();
            for row in 0..rows {
                stream.row(&json!({"offset": row})).unwrap();
            }
            stream.fail(Failure::kafka(3, "UNKNOWN_TOPIC_OR_PARTITION", "t", "no such topic"));
            assert_eq!(stream.finish().unwrap(), Exit::NotFound);
            let document: Value = serde_json::from_slice(&out.0.borrow()).unwrap();
            assert_eq!(document["data"].as_array().unwrap().len(), rows);
            assert_eq!(document["errors"][0]["code"], 3);
        }
    }

    #[test]
    fn colour_rules() {
        let auto = ColorChoice::Auto;
        assert!(auto.enabled(true, &fixed_env(&[])));
        assert!(!auto.enabled(false, &fixed_env(&[])));
        assert!(!auto.enabled(true, &fixed_env(&[("NO_COLOR", "1")])));
        assert!(auto.enabled(false, &fixed_env(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")])));
        assert!(!auto.enabled(false, &fixed_env(&[("CLICOLOR_FORCE", "0")])));
        assert!(ColorChoice::Always.enabled(false, &fixed_env(&[("NO_COLOR", "1")])));
        assert!(!ColorChoice::Never.enabled(true, &fixed_env(&[("CLICOLOR_FORCE", "1")])));
    }

    #[test]
    fn end_of_input_is_no() {
        assert!(!confirm("?", &mut io::Cursor::new("")).unwrap());
        assert!(!confirm("?", &mut io::Cursor::new("\n")).unwrap());
        assert!(confirm("?", &mut io::Cursor::new("YES\n")).unwrap());
    }
}
