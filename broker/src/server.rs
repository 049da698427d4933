//! Starting, running and stopping a broker.

use std::path::PathBuf;

use crate::config::Config;

/// How a server is run besides its settings.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The settings.
    pub config: Config,
    /// Data in a temporary directory that is removed at the end.
    pub ephemeral: bool,
    /// The first line on stdout tells the addresses, as JSON.
    pub print_ready: bool,
    /// Where temporary directories are made.
    pub temporary: PathBuf,
}

/// Runs a server until it is told to stop; returns the exit code.
///
/// # Errors
/// It could not start, or could not stop in good order.
pub fn run(_options: ServerOptions) -> anyhow::Result<u8> {
    Ok(0)
}
