//! `pontoon demo`.

use std::process::ExitCode;

/// Two containers, a published port, real traffic.
pub fn run() -> ExitCode {
    eprintln!("pontoon: demo: needs the switch");
    ExitCode::FAILURE
}
