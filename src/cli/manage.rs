//! `pontoon log-level` and `pontoon shutdown`.

use std::time::Duration;

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

/// How long a switch may take to end: with a thousand devices it is seconds.
const END: Duration = Duration::from_secs(60);

/// Returns when the switch has taken everything down: then it closes the connection.
pub fn shutdown(control: &Control) -> Result<(), Failure> {
    let mut client = control.connect()?;
    client.call(&Call::Shutdown(Nothing {}))?;
    Ok(client.wait_for_end_within(END)?)
}
