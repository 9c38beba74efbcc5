//! The whole process, met by an adversary: real namespaces, real TAPs, the binary and its command line.
//!
//! # Theory of operation
//! Each claim has a [`bed::Case`] of its own: namespaces for the host, the world behind the uplink and the containers, and switches started in
//! them. The files are the attacks: how things live and die, what is asked for wrongly, what a container may send, how much of
//! it, and what ordinary programs make of it all. Nothing is left behind, whatever happens. What this machine lacks is said,
//! and the claims that need it are left out by name; with `CI` set they fail instead.

mod apps;
mod bed;
mod hostile;
mod lives;
mod long;
#[path = "../netns/ns.rs"]
mod ns;
#[path = "../netns/packet.rs"]
#[expect(dead_code, reason = "shared: each of the tests uses its part")]
mod packet;
mod programs;
#[path = "../netns/raw.rs"]
mod raw;
mod refusals;
mod relay;
#[path = "../netns/sandbox.rs"]
mod sandbox;
mod scale;
mod siege;
mod sockets;
mod stalls;
#[path = "../../examples/tap/mod.rs"]
mod tap;
mod transfers;
#[path = "../netns/wire.rs"]
#[expect(dead_code, reason = "shared: each of the tests uses its part")]
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// A claim: its name, the programs without which it cannot be shown, and how it is shown.
pub struct Claim(pub &'static str, pub &'static [&'static str], pub fn());

/// Lists functions as claims under their own names, `needs` the programs after it.
macro_rules! claims {
    ($($name:ident $(needs $($program:literal)+)?),* $(,)?) => {
        &[$($crate::Claim(stringify!($name), &[$($($program),+)?], $name)),*]
    };
}
pub(crate) use claims;

/// No claim needs more; most take a second.
const WATCHDOG: Duration = Duration::from_secs(40);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    // Before any thread exists.
    let missing = if arguments.list { sandbox::Missing::default() } else { sandbox::enter() };
    let mut lacking = missing.everything;
    lacking.extend(missing.pontoon);
    for sentence in &lacking {
        eprintln!("process: {sentence}");
    }
    let is_long = std::env::var_os("PONTOON_LONG").is_some();
    let files = [
        ("lives", lives::CLAIMS, false),
        ("refusals", refusals::CLAIMS, false),
        ("hostile", hostile::CLAIMS, false),
        ("stalls", stalls::CLAIMS, false),
        ("scale", scale::CLAIMS, false),
        ("programs", programs::CLAIMS, false),
        ("sockets", sockets::CLAIMS, false),
        ("siege", siege::CLAIMS, false),
        ("apps", apps::CLAIMS, false),
        ("transfers", transfers::CLAIMS, false),
        ("long", long::CLAIMS, false),
        ("long", if is_long { long::ROWS } else { &[] }, true),
    ];
    if !is_long {
        eprintln!(
            "process: left out: the long tier, {} rows; PONTOON_LONG=1 cargo test --test process long",
            long::ROWS.len()
        );
    }
    let mut trials = Vec::new();
    for (file, claims, takes_long) in files {
        for Claim(name, programs, show) in claims {
            let mut lacking = lacking.clone();
            let absent = programs.iter().filter(|program| sandbox::find(program).is_none());
            lacking.extend(absent.map(|program| format!("the program `{program}` is not installed")));
            let patience = if takes_long { long::PATIENCE } else { WATCHDOG };
            trials.push(trial(format!("{file}::{name}"), lacking.join("; "), *show, patience));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: String, lacking: String, show: fn(), patience: Duration) -> Trial {
    Trial::ignorable_test(name, move || {
        if lacking.is_empty() {
            within_watchdog(show, patience)
        } else if std::env::var_os("CI").is_some() {
            Err(format!("this machine cannot run it: {lacking}").into())
        } else {
            Ok(Completion::ignored_with(&lacking))
        }
    })
}

/// Runs a claim on a thread of its own; children die with that thread, namespaces with its values, on a panic too.
fn within_watchdog(show: fn(), patience: Duration) -> Result<Completion, Failed> {
    let (done, ended) = mpsc::channel();
    let thread = thread::spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(show)).map_err(|panic| {
            let words = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            format!("panicked: {}", words.unwrap_or_default())
        });
        let _ = done.send(result);
    });
    match ended.recv_timeout(patience) {
        Ok(result) => {
            thread.join().map_err(|_| "panicked while it cleaned up")?;
            result.map(|()| Completion::Completed).map_err(Failed::from)
        }
        Err(_) => Err(format!("still running after {patience:?}").into()),
    }
}
