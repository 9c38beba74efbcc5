//! `pontoon demo` as whoever runs the tests: it works, in time, and whatever ends it, nothing of it is left.
//!
//! Own `main` and no threads, because a test makes namespaces. This process adopts the orphans of the demo
//! (PR_SET_CHILD_SUBREAPER), so "nothing is left" is the kernel's word: there is no child to wait for. What is missing is
//! said, and is a failure where the environment variable CI is set.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::CapabilitySet;

use pontoon::io::sys::netns;
use pontoon::io::sys::process::{self, Exit};
use pontoon::io::sys::tuntap::{Device, Header, Kind};

/// What the demo promises.
const TIME: Duration = Duration::from_secs(30);

/// How long after the end of the demo its children may take to be gone: they are killed by the kernel.
const GONE_WITHIN: Duration = Duration::from_secs(2);

fn main() {
    let mut arguments = Arguments::from_args();
    // With one, libtest-mimic runs them on this thread, the only one.
    arguments.test_threads = Some(1);
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("Linux 3.4 has it");
    if let Err(missing) = apart(|| prepare().map_err(|missing| println!("demo: NOT RUN: {missing}"))) {
        assert_eq!(missing, Exit::Code(1), "the look at what there is has crashed");
        std::process::exit(i32::from(std::env::var_os("CI").is_some()));
    }
    macro_rules! trials {
        ($($name:ident),* $(,)?) => {
            vec![$(Trial::test(stringify!($name), || {
                $name();
                Ok(())
            })),*]
        };
    }
    let trials = trials![
        all_of_it_works_in_time_and_leaves_nothing,
        killed_it_leaves_nothing,
        interrupted_it_leaves_nothing,
        a_reader_that_has_enough_ends_it,
        without_dev_net_tun_it_says_what_to_do,
        without_user_namespaces_it_says_what_to_do,
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

/// What the demo needs; what is missing, in words.
fn prepare() -> Result<(), String> {
    netns::unshare_user().map_err(|error| format!("no user namespace can be made here: {error}"))?;
    netns::unshare_net().map_err(|error| format!("no network namespace can be made here: {error}"))?;
    netns::unshare_mounts().map_err(|error| format!("no mount namespace can be made here: {error}"))?;
    Device::open(Kind::Tun, "probe", Header::Vnet).map(drop).map_err(|error| error.to_string())
}

fn all_of_it_works_in_time_and_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let begin = Instant::now();
    let output = demo(directory.path()).output().expect("the binary runs");
    let took = begin.elapsed();
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{said}{complained}", output.status);
    assert_eq!(complained, "");
    assert!(took < TIME, "{took:?}");
    let rows: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("  ✓  ")).collect();
    // By the switch with a TUN, by the one over sockets, and what both are by themselves.
    assert_eq!(rows.len(), 13 + 5 + 1, "{said}");
    assert!(!said.contains('✗'), "{said}");
    let by_sockets = ["TCP c3 -> world", "UDP c3 -> world", "HTTP world -> ", "TCP world -> ", "UDP world -> "];
    for (row, begins) in rows[13..].iter().zip(by_sockets) {
        assert!(row.starts_with(begins) && (row.contains(" by a host socket ") || row.contains(" -> c3 ")), "{row}");
    }
    for part in [
        "172.17.0.3 is at 02:42:ac:11:00:03",
        " is seen as 192.0.2.10:",
        "\"You are 198.51.100.5:",
        "\"You are 172.17.0.1:",
        "src=172.17.0.2 dst=198.51.100.5",
        "All of it worked",
    ] {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    assert_no_child();
    let files: Vec<_> = std::fs::read_dir(directory.path()).expect("still there").collect();
    assert!(files.is_empty(), "{files:?}");
}

fn killed_it_leaves_nothing() {
    stopped_half_way(Signal::KILL);
}

fn interrupted_it_leaves_nothing() {
    stopped_half_way(Signal::INT);
}

/// Only the process that was started gets the signal: a terminal would give it to all, and that is easier.
fn stopped_half_way(signal: Signal) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut child = demo(directory.path()).stdout(Stdio::piped()).spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    // Two rows: the next is a stream, which is under way for two seconds.
    for _ in 0..2 {
        let row = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with("  ✓  "));
        row.expect("a row before the end");
    }
    let children = process_count(&child);
    assert!(children >= 5, "the switch, its helper, c1, c2 and the world, and not {children}");
    rustix::process::kill_process(Pid::from_child(&child), signal).expect("it runs");
    let status = child.wait().expect("waited");
    assert!(!status.success(), "{status}");
    assert_no_child();
    assert_eq!(std::fs::read_dir(directory.path()).expect("still there").count(), 0);
}

fn a_reader_that_has_enough_ends_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut child =
        demo(directory.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    assert!(line.starts_with("pontoon "), "{line:?}");
    let status = wait(&mut child);
    let mut complained = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut complained).expect("text");
    assert_eq!((status.code(), complained.as_str()), (Some(1), ""));
    assert_no_child();
}

fn without_dev_net_tun_it_says_what_to_do() {
    refused_in(
        || {
            netns::unshare_mounts()?;
            rustix::mount::mount("none", "/dev/net", "tmpfs", MountFlags::empty(), None)?;
            Ok(())
        },
        &["/dev/net/tun", "No such file or directory", "modprobe tun"],
    );
}

fn without_user_namespaces_it_says_what_to_do() {
    refused_in(
        || {
            // user_namespaces(7): the limit of this user namespace, for those in it.
            std::fs::write("/proc/sys/user/max_user_namespaces", "0")?;
            // Gone with the next exec: root in here would do without a user namespace.
            rustix::thread::remove_capability_from_bounding_set(CapabilitySet::SYS_ADMIN)?;
            Ok(())
        },
        &["no user namespace can be made here", "sysctl -w user.max_user_namespaces="],
    );
}

/// Runs the demo in a user namespace in which `spoil` was done; it says `parts`, in one line, and nothing else.
fn refused_in(spoil: impl FnOnce() -> std::io::Result<()>, parts: &[&str]) {
    let done = apart(|| {
        netns::unshare_user().map_err(|error| println!("a user namespace: {error}"))?;
        spoil().map_err(|error| println!("cannot take it away: {error}"))?;
        let output = demo(Path::new("/")).output().map_err(|error| println!("{error}"))?;
        let (said, complained) = (text(&output.stdout), text(&output.stderr));
        let as_wanted = output.status.code() == Some(1)
            && said.is_empty()
            && complained.lines().count() == 1
            && complained.starts_with("pontoon demo: ")
            && parts.iter().all(|part| complained.contains(part));
        if !as_wanted {
            println!("{}\n{said}{complained}", output.status);
        }
        as_wanted.then_some(()).ok_or(())
    });
    assert_eq!(done, Ok(()), "see above");
    assert_no_child();
}

fn demo(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
    command.arg("demo").current_dir(directory).env("HOME", directory).env("TMPDIR", directory).stdin(Stdio::null());
    command
}

/// Runs `body` in a process of its own.
fn apart(body: impl FnOnce() -> Result<(), ()>) -> Result<(), Exit> {
    let mut child = process::fork(&[], || u8::from(body().is_err())).expect("a process");
    match child.wait(TIME).expect("waited").expect("ended") {
        Exit::Code(0) => Ok(()),
        exit => Err(exit),
    }
}

fn wait(child: &mut Child) -> ExitStatus {
    let end = Instant::now() + TIME;
    loop {
        match child.try_wait().expect("waited") {
            Some(status) => return status,
            None if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            None => panic!("it runs for longer than {TIME:?}"),
        }
    }
}

/// How many processes are below `child`.
fn process_count(child: &Child) -> usize {
    fn below(pid: u32) -> usize {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(|pid| 1 + below(pid)).sum()
    }
    below(child.id())
}

/// Reaps what the demo has left to us as it ended, which is to be over soon.
fn assert_no_child() {
    let end = Instant::now() + GONE_WITHIN;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Err(Errno::CHILD) => return,
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            Ok(None) => panic!("a process of the demo still runs"),
            Err(error) => panic!("cannot wait: {error}"),
        }
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the demo writes UTF-8")
}
