//! Programs that are started: each with a bound on its time, its output in a file, its command line on record.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

use crate::walls::SCRATCH;

/// What anything that sets something up may take.
pub const SOON: Duration = Duration::from_secs(5);
/// What a process gets between being asked to end and being killed.
const GRACE: Duration = Duration::from_millis(500);
const GLANCE: Duration = Duration::from_micros(500);

/// USER_HZ, in which /proc tells times: 100 on every architecture that Rust knows of Linux.
const TICKS: f64 = 100.0;

/// The command lines since they were last taken.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Takes the command lines on record, each once.
pub fn take_lines() -> Vec<String> {
    let mut lines = std::mem::take(&mut *LINES.lock().expect("nobody panics with it"));
    let mut seen = std::collections::BTreeSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    lines
}

fn record(command: &Command) {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    let line = std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ");
    LINES.lock().expect("nobody panics with it").push(line);
}

/// A process that runs beside the measurement; ended with its value, and its group with it.
pub struct Background {
    child: Child,
    name: String,
    output: PathBuf,
}

impl Background {
    pub fn start(mut command: Command) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        record(&command);
        let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let output = PathBuf::from(SCRATCH).join(format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let failed = |error: io::Error| format!("{name}: {error}");
        let file = File::create(&output).map_err(failed)?;
        command.process_group(0).stdout(file.try_clone().map_err(failed)?).stderr(file);
        let child = command.spawn().map_err(failed)?;
        Ok(Self { child, name, output })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far, on both of its outputs.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// The last line that it said, without what would break a table.
    pub fn complaint(&self) -> String {
        let said = self.said();
        // iperf3 complains in the middle of its JSON, ip before it says which line that was.
        let tells =
            |line: &&str| ["\"error\":", "Error: ", "RTNETLINK"].iter().any(|word| line.trim().starts_with(word));
        let error = said.lines().find(tells);
        let last = || said.lines().rev().find(|line| !line.trim().is_empty());
        let line = error.or_else(last).unwrap_or("it said nothing");
        format!("{}: {}", self.name, line.trim().replace('|', "/").chars().take(160).collect::<String>())
    }

    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Waits until it has said `word`.
    pub fn says(&mut self, word: &str, patience: Duration) -> Result<(), String> {
        let name = self.name.clone();
        let ready = eventually(&format!("`{name}` says \"{word}\""), patience, || {
            self.said().contains(word) || !matches!(self.child.try_wait(), Ok(None))
        });
        if ready.is_ok() && !self.said().contains(word) { Err(self.complaint()) } else { ready }
    }

    /// Waits for its end; killed when that does not come within `patience`.
    pub fn end(mut self, patience: Duration) -> Result<String, String> {
        if !ends_within(&self.child, patience) {
            return Err(format!("{}: still running after {} s, killed", self.name, patience.as_secs()));
        }
        let status = self.child.wait().map_err(|error| format!("{}: {error}", self.name))?;
        if status.success() { Ok(self.said()) } else { Err(format!("{} ({status})", self.complaint())) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let pid = Pid::from_child(&self.child);
            let _ = kill_process(pid, Signal::TERM);
            ends_within(&self.child, GRACE);
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = self.child.wait();
        }
        let _ = fs::remove_file(&self.output);
    }
}

/// Runs a program to its end; its output. One that runs longer than `patience` is killed, which is an error.
pub fn run(mut command: Command, patience: Duration) -> Result<String, String> {
    command.stdin(Stdio::null());
    Background::start(command)?.end(patience)
}

/// Looks again and again until `done`.
pub fn eventually(what: &str, patience: Duration, mut done: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + patience;
    while !done() {
        if Instant::now() > deadline {
            return Err(format!("gave up after {} s: {what}", patience.as_secs()));
        }
        thread::sleep(GLANCE);
    }
    Ok(())
}

fn ends_within(child: &Child, patience: Duration) -> bool {
    let Ok(pidfd) = pidfd_open(Pid::from_child(child), PidfdFlags::empty()) else { return true };
    let patience = Timespec::try_from(patience).expect("seconds, not ages");
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience)).is_ok_and(|ready| ready > 0)
}

/// Where a program is. Distributions keep some in /usr/sbin, which is not in everybody's PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let directories = path.split(':').chain(["/usr/sbin", "/sbin"]);
    directories.map(|directory| Path::new(directory).join(program)).find(|file| file.is_file())
}

/// Processes and all that they started.
pub fn family(roots: &[u32]) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?)))
        .collect();
    let mut all = roots.to_vec();
    let mut next = 0;
    while let Some(&parent) = all.get(next) {
        next += 1;
        all.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
    }
    all
}

/// The words of /proc/PID/stat after the command's name, which may have anything in it but ends with the last parenthesis.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// Seconds of CPU that processes have used: to the nanosecond where the kernel tells it, else in ticks.
pub fn cpu_seconds(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| scheduled(*pid).or_else(|| ticks(*pid)).unwrap_or(0.0)).sum()
}

fn scheduled(pid: u32) -> Option<f64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let times = tasks.map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Some(times.sum::<Option<u64>>()? as f64 * 1e-9)
}

fn ticks(pid: u32) -> Option<f64> {
    let words = stat(pid)?;
    let ticks = words.get(11)?.parse::<u64>().ok()? + words.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / TICKS)
}

/// Seconds of CPU that the whole machine has used, all CPUs together.
pub fn machine_cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let words = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq; guests are in user, stolen time is nobody's here.
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|index| ticks.get(*index)).sum();
    busy as f64 / TICKS
}

/// Resident memory, MiB.
pub fn resident_mib(pids: &[u32]) -> f64 {
    let kib = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse::<f64>().ok()
    };
    pids.iter().filter_map(kib).sum::<f64>() / 1024.0
}
