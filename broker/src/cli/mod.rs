//! The command line: one binary, one file per command.
//!
//! ```text
//! arguments -> Arguments (clap) -> Settings (flags, -X, environment, files) -> a command -> Report -> stdout, exit code
//! ```
//! Conventions that every command keeps: data on stdout and everything else on stderr; `-O` chooses how results are
//! printed and never changes the exit code; a failed item is a row of `errors` and makes the exit code non-zero;
//! nothing is changed before the whole command line has been checked.
//!
//! Reading order: [`failure`], [`output`], [`settings`], then any command.

mod failure;
mod jsonl;
mod offset_spec;
mod output;
mod record_format;
mod settings;
mod time;
