//! `pontoon capture start|stop`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Control, Failure};
use crate::control::protocol::{Call, CaptureStart, Nothing};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write every frame to a file, which is written over, or to a pipe that somebody reads
    Start(Start),
    /// End that
    Stop(Control),
}

#[derive(Debug, Args)]
pub struct Start {
    #[command(flatten)]
    control: Control,
    path: PathBuf,
}

pub fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Start(Start { control, path }) => {
            let path =
                std::path::absolute(&path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
            control.tell(&Call::CaptureStart(CaptureStart { path }))
        }
        Command::Stop(control) => control.tell(&Call::CaptureStop(Nothing {})),
    }
}
