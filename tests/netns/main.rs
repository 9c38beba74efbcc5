//! Real namespaces, real interfaces, and the kernel as the oracle.
//!
//! # Theory of operation
//! A [`Row`] is a claim about a network of containers: a scenario that returns what it observed, and what that must be. Every row is run on
//! two devices: [`reference::Reference`] is what docker builds of the kernel's own parts (bridge, veth, nftables), and [`pontoon::Pontoon`]
//! is the binary of this package, driven by its command line. Both must give the same outcome, word for word; where the two are meant to
//! differ the row says how and why. So a row that misremembers Linux fails on the kernel, and a row that pontoon breaks fails on pontoon.
//!
//! Every case has namespaces of its own inside the walls of [`sandbox`]; nothing is left behind, whatever happens. What this machine lacks
//! is said, and the cases that need it are left out by name; with `CI` set they fail instead.

mod bed;
mod ns;
mod packet;
mod pontoon;
mod raw;
mod reference;
mod sandbox;
mod scenarios;
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use bed::{Dut, Outcome, Settings};

/// A claim, the conformance rows it stands for, and the scenario that shows it.
pub struct Row {
    pub claim: &'static str,
    pub ids: &'static str,
    pub settings: Settings,
    pub run: fn(&dyn Dut) -> Outcome,
    pub expect: &'static [&'static str],
    /// Where pontoon is meant to differ from the kernel: what it does instead. The reason stands at the row.
    pub pontoon_instead: Option<&'static [&'static str]>,
}

#[derive(Clone, Copy)]
enum Device {
    Kernel,
    Pontoon,
}

/// No case needs more; most take a second.
const WATCHDOG: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    // Before any thread exists.
    let missing = if arguments.list { sandbox::Missing::default() } else { sandbox::enter() };
    let mut lacking_for_pontoon = missing.everything.clone();
    lacking_for_pontoon.extend(missing.pontoon);
    let there_is_a_switch = pontoon::has_a_switch();
    if !there_is_a_switch {
        eprintln!("netns: this build of pontoon has no `switch` yet; the rows are checked against the kernel alone");
    }

    let mut trials = Vec::new();
    for row in scenarios::all() {
        trials.push(trial(row, Device::Kernel, &missing.everything));
        if there_is_a_switch {
            trials.push(trial(row, Device::Pontoon, &lacking_for_pontoon));
        }
    }
    for sentence in &lacking_for_pontoon {
        eprintln!("netns: {sentence}");
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(row: &'static Row, device: Device, missing: &[String]) -> Trial {
    let prefix = match device {
        Device::Kernel => "kernel",
        Device::Pontoon => "pontoon",
    };
    let name = format!("{prefix}::{} ({})", row.claim, row.ids);
    let missing = missing.join("; ");
    Trial::ignorable_test(name, move || {
        if missing.is_empty() {
            within_watchdog(move || check(row, device))
        } else if std::env::var_os("CI").is_some() {
            Err(format!("this machine cannot run it: {missing}").into())
        } else {
            Ok(Completion::ignored_with(&missing))
        }
    })
}

fn check(row: &Row, device: Device) -> Result<(), String> {
    let (outcome, expected) = match device {
        Device::Kernel => ((row.run)(&reference::Reference::new(row.settings)), row.expect),
        Device::Pontoon => ((row.run)(&pontoon::Pontoon::new(row.settings)), row.pontoon_instead.unwrap_or(row.expect)),
    };
    if outcome.0 == expected {
        return Ok(());
    }
    let mut report = String::from("seen (>) is not what the row says (<):\n");
    for index in 0..outcome.0.len().max(expected.len()) {
        match (outcome.0.get(index), expected.get(index)) {
            (Some(seen), Some(wanted)) if seen == wanted => report += &format!("    {seen}\n"),
            (seen, wanted) => {
                report += &wanted.map_or_else(String::new, |line| format!("  < {line}\n"));
                report += &seen.map_or_else(String::new, |line| format!("  > {line}\n"));
            }
        }
    }
    Err(report)
}

/// Runs a case on a thread of its own; children die with that thread, namespaces with its values, on a panic too. A case that hangs fails,
/// and what it holds goes when the process ends.
fn within_watchdog(case: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<Completion, Failed> {
    let (done, ended) = mpsc::channel();
    let thread = thread::spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(case)).unwrap_or_else(|panic| {
            let words = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            Err(format!("panicked: {}", words.unwrap_or_default()))
        });
        let _ = done.send(result);
    });
    match ended.recv_timeout(WATCHDOG) {
        Ok(result) => {
            thread.join().map_err(|_| "panicked while it cleaned up")?;
            result.map(|()| Completion::Completed).map_err(Failed::from)
        }
        Err(_) => Err(format!("still running after {WATCHDOG:?}").into()),
    }
}
