//! The command `pontoon`; all of it is in [`pontoon::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    pontoon::cli::run(std::env::args_os())
}
