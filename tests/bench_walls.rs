//! The walls of `benches/network`: however a run ends, nothing of it is left.
//!
//! # Theory of operation
//! The program starts itself as a run would start: outside, and inside as PID 1 of a PID namespace, which makes a namespace and starts
//! processes, one of them a daemon that nobody waits for. Then it is ended in some way, and every process of the machine is looked at
//! for a word that only these have in their environments. What this machine lacks is said; with `CI` set it fails instead.

#[path = "../benches/network/netns.rs"]
#[allow(dead_code, reason = "the benchmark's own: here namespaces are made, and nothing is measured")]
mod netns;
#[path = "../benches/network/process.rs"]
#[allow(dead_code, reason = "the benchmark's own: here processes are started, and nothing is measured")]
mod process;
#[path = "netns/raw.rs"]
#[allow(dead_code, reason = "shared: each of the tests uses its part")]
mod raw;
#[path = "netns/sandbox.rs"]
mod sandbox;
#[path = "../benches/network/walls.rs"]
mod walls;

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};

use netns::Netns;
use walls::Side;

/// Set for the program that goes inside: what it does there when it has started everything.
const THEN: &str = "PONTOON_WALLS_THEN";
/// The word in environments, inherited by whatever is started.
const WORD: &str = "PONTOON_WALLS_WORD";
/// The file that says that everything runs.
const READY: &str = "PONTOON_WALLS_READY";
const SOON: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if let Ok(then) = env::var(THEN) {
        return match walls::enter() {
            Ok(Side::Inside) => inside(&then),
            Ok(Side::Outside(code)) => code.into(),
            Err(error) => {
                eprintln!("bench_walls: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let arguments = Arguments::from_args();
    let missing = if arguments.list { sandbox::Missing::default() } else { sandbox::enter() };
    let lacking = missing.everything.join("; ");
    let trials = [
        ("an_end_leaves_nothing", "end", None, 0),
        ("a_panic_leaves_nothing", "panic", None, 101),
        ("sigint_leaves_nothing", "wait", Some(Signal::INT), 130),
        ("sigterm_leaves_nothing", "wait", Some(Signal::TERM), 143),
        ("sigkill_leaves_nothing", "wait", Some(Signal::KILL), -1),
    ]
    .map(|(name, then, signal, status)| {
        let lacking = lacking.clone();
        Trial::ignorable_test(name, move || {
            if lacking.is_empty() {
                leaves_nothing(name, then, signal, status).map(|()| Completion::Completed).map_err(Failed::from)
            } else if env::var_os("CI").is_some() {
                Err(format!("this machine cannot run it: {lacking}").into())
            } else {
                Ok(Completion::ignored_with(&lacking))
            }
        })
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

/// A run in the middle of its work.
fn inside(then: &str) -> ExitCode {
    let word = env::var(WORD).expect("told by the test");
    let netns = Netns::new("a").expect("root of our own");
    let _server = netns.start("sh", &["-c", "sleep 1000 & sleep 1000; :"]).expect("sh");
    // A daemon: another session, another group, and its parent is gone.
    let daemon = "setsid sleep 1000 </dev/null >/dev/null 2>&1 &";
    netns.run("sh", &["-c", daemon], process::SOON).expect("sh");
    fs::write(Path::new(walls::SCRATCH).join("scratch"), &word).expect("a tmpfs of our own");
    fs::write(env::var(READY).expect("told by the test"), "ready").expect("the test's own");
    match then {
        "panic" => panic!("as asked for"),
        "wait" => thread::sleep(6 * SOON),
        _ => {}
    }
    ExitCode::SUCCESS
}

fn leaves_nothing(name: &str, then: &str, signal: Option<Signal>, status: i32) -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let ready = directory.path().join("ready");
    let word = format!("bench-walls-{}-{name}", std::process::id());
    let mut command = Command::new(env::current_exe().map_err(|error| error.to_string())?);
    command.env(THEN, then).env(WORD, &word).env(READY, &ready).stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let begun = soon("everything runs", || ready.exists());
    let ended = begun.and_then(|()| {
        if let Some(signal) = signal {
            // Outside, inside, the server with two of its own, the daemon.
            soon("six processes run", || with_word(&word) == 6)?;
            kill_process(Pid::from_child(&child), signal).map_err(|error| error.to_string())?;
        }
        ends(&mut child)
    });
    let _ = child.kill();
    let _ = child.wait();
    let ended = ended?;
    if ended != status {
        return Err(format!("its exit status is {ended}, not {status}"));
    }
    // After a SIGKILL nobody has waited for the others; else they were gone before it ended.
    if signal == Some(Signal::KILL) {
        soon("the processes are gone", || with_word(&word) == 0)?;
    }
    match with_word(&word) {
        0 => {}
        left => return Err(format!("{left} processes are left")),
    }
    for path in [walls::SCRATCH, "/run/netns/a"] {
        if Path::new(path).exists() {
            return Err(format!("{path} is left"));
        }
    }
    Ok(())
}

/// Processes with a word in their environments.
fn with_word(word: &str) -> usize {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let texts = processes.filter_map(|entry| fs::read(entry.path().join("environ")).ok());
    texts.filter(|text| String::from_utf8_lossy(text).contains(word)).count()
}

/// The exit status, or -1 of one that was killed.
fn ends(child: &mut Child) -> Result<i32, String> {
    let mut status = None;
    soon("it ends", || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    })?;
    Ok(status.and_then(|status| status.code()).unwrap_or(-1))
}

fn soon(what: &str, mut done: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + SOON;
    while !done() {
        if Instant::now() > deadline {
            return Err(format!("not within {SOON:?}: {what}"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
