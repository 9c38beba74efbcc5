//! `pontoon log-level` and `pontoon shutdown`.

use clap::Args;

use super::{Control, Failure};
use crate::control::protocol::{self, Call, Level, Nothing};

#[derive(Debug, Args)]
pub struct LogLevel {
    #[command(flatten)]
    control: Control,
    level: Level,
}

pub fn log_level(options: LogLevel) -> Result<(), Failure> {
    let LogLevel { control, level } = options;
    control.tell(&Call::LogLevel(protocol::LogLevel { level }))
}

/// Returns when the switch has taken everything down: then it closes the connection.
pub fn shutdown(control: &Control) -> Result<(), Failure> {
    let mut client = control.connect()?;
    client.call(&Call::Shutdown(Nothing {}))?;
    client
        .wait_for_end()
        .map_err(|error| Failure::Failed(format!("the switch did not end cleanly: {error}; see what it said")))
}
