//! What went wrong with a command or one of its items: what failed, why, what to try, and the exit code.

use std::{fmt, io};

use serde::Serialize;

/// How a command ends; the numbers are the process's exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// Everything worked.
    Success = 0,
    /// Something failed, any item of several.
    Failed = 1,
    /// The command line or an input is malformed; nothing was done.
    Usage = 2,
    /// A topic, partition or group does not exist.
    NotFound = 3,
    /// No broker answered, or not in time.
    Unreachable = 4,
    /// The cluster refused who asked.
    Denied = 5,
    /// Over a threshold.
    Unhealthy = 6,
    /// Ended by an interrupt.
    Interrupted = 130,
}

/// One failed item: a row of `errors` in JSON, a paragraph on stderr otherwise.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    /// The topic, group, broker, file or argument.
    pub(crate) item: String,
    /// Kafka's error number, where Kafka has one.
    pub(crate) code: Option<i16>,
    /// Kafka's name of the error, or one in the same style for an error of this side.
    pub(crate) name: String,
    /// What failed and why.
    pub(crate) message: String,
    /// What to try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
    #[serde(skip)]
    exit: Exit,
}

impl Failure {
    /// An error that Kafka has no number for.
    pub(crate) fn local(exit: Exit, name: &str, item: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            item: item.into(),
            code: None,
            name: name.to_owned(),
            message: message.into(),
            hint: None,
            exit,
        }
    }

    /// A malformed argument, setting or input.
    pub(crate) fn usage(item: impl Into<String>, message: impl Into<String>) -> Self {
        Self::local(Exit::Usage, "USAGE", item, message)
    }

    /// An error answered by a broker.
    pub(crate) fn kafka(code: i16, name: &str, item: impl Into<String>, message: impl Into<String>) -> Self {
        let exit = match code {
            3 | 69 | 100 => Exit::NotFound,
            7 => Exit::Unreachable,
            29 | 30 | 31 | 33 | 34 | 53 | 54 | 58 => Exit::Denied,
            _ => Exit::Failed,
        };
        Self {
            item: item.into(),
            code: Some(code),
            name: name.to_owned(),
            message: message.into(),
            hint: None,
            exit,
        }
    }

    /// The same with what to try.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same in other words.
    #[must_use]
    pub(crate) fn worded(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// Its exit code.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.message)?;
        match self.code {
            Some(code) => write!(formatter, " ({}, error {code})", self.name),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

/// A command that ended before it could write a report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// One failure that makes all the rest pointless.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// Standard output is gone: whoever read it has seen enough.
    #[error("standard output was closed")]
    OutputClosed,
    /// Standard output failed otherwise.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Output(error),
        }
    }
}

/// The exit code of several failed items: their common one, else [`Exit::Failed`].
pub(crate) fn exit_of(failures: &[Failure]) -> Exit {
    match failures {
        [] => Exit::Success,
        [first, rest @ ..] if rest.iter().all(|other| other.exit == first.exit) => first.exit,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_is_common_or_failed() {
        let missing = Failure::kafka(3, "UNKNOWN_TOPIC_OR_PARTITION", "a", "m");
        let broken = Failure::kafka(56, "KAFKA_STORAGE_ERROR", "b", "m");
        assert_eq!(exit_of(&[]), Exit::Success);
        assert_eq!(exit_of(&[missing.clone(), missing.clone()]), Exit::NotFound);
        assert_eq!(exit_of(&[missing, broken]), Exit::Failed);
    }
}
