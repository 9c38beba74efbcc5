//! Processes: forked from a process with one thread, watched and ended by pidfd.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

/// A child process. Dropping it neither ends nor reaps it.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

/// What became of a child that runs under somebody's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Ended(Exit),
    /// By this signal.
    Stopped(i32),
    Continued,
}

/// Forks a child that runs `body`, exits with its code, and never returns here. In the child every file descriptor but
/// 0, 1, 2 and those in `keep` is closed; `body` must own no other.
///
/// Refused (`EBUSY`) in a process with more than one thread: a lock that another thread held would be held for ever.
pub fn fork(keep: &[BorrowedFd<'_>], body: impl FnOnce() -> u8) -> io::Result<Child> {
    if !is_single_threaded()? {
        return Err(Errno::BUSY.into());
    }
    // SAFETY: there is one thread (checked above, and only this thread could start another), so the child is a whole
    // copy in which every lock is free, and not only async-signal-safe functions may be called.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            close_all_but(keep);
            // A panic must not unwind into the parent's frames, which this process has a copy of.
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(PANICKED);
            // SAFETY: _exit has no conditions. `exit` would run the parent's atexit handlers and flush its buffers twice.
            unsafe { libc::_exit(code.into()) }
        }
        raw => {
            let pid = Pid::from_raw(raw).expect("fork gives the parent a number above zero");
            // Not yet reaped, so the number is still the child's.
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
            Ok(Child { pid, pidfd })
        }
    }
}

/// As a Rust program that panics exits.
const PANICKED: u8 = 101;

impl Child {
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(&self.pidfd, signal)?)
    }

    /// What has changed since it was asked last; it does not wait. [`Change::Ended`] is told once.
    pub fn changed(&mut self) -> io::Result<Option<Change>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG;
        let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
        Ok(status.and_then(|status| match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Some(Change::Ended(Exit::Code(code))),
            (None, Some(signal)) => Some(Change::Ended(Exit::Signal(signal))),
            (None, None) if status.continued() => Some(Change::Continued),
            (None, None) => status.stopping_signal().map(Change::Stopped),
        }))
    }

    /// Waits for the end at most this long; `None`: it still runs.
    pub fn wait(&mut self, at_most: Duration) -> io::Result<Option<Exit>> {
        if !wait_readable(&self.pidfd, at_most)? {
            return Ok(None);
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
        Ok(status.map(|status| match status.exit_status() {
            Some(code) => Exit::Code(code),
            None => Exit::Signal(status.terminating_signal().unwrap_or_default()),
        }))
    }
}

impl AsFd for Child {
    /// The pidfd: readable when the child has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Whether the process of a pidfd has ended (reaped or not).
pub fn has_ended(pidfd: impl AsFd) -> bool {
    wait_readable(pidfd, Duration::ZERO).unwrap_or(true)
}

/// Waits until `fd` is readable or hung up; `false` when the time is over. `at_most` is some seconds, not an age.
pub fn wait_readable(fd: impl AsFd, at_most: Duration) -> io::Result<bool> {
    wait_for(PollFlags::IN, fd, at_most)
}

/// Waits until `fd` takes something or fails at once (a pipe: `PIPE_BUF` bytes, 4096); else as [`wait_readable`].
pub fn wait_writable(fd: impl AsFd, at_most: Duration) -> io::Result<bool> {
    wait_for(PollFlags::OUT, fd, at_most)
}

fn wait_for(what: PollFlags, fd: impl AsFd, at_most: Duration) -> io::Result<bool> {
    let end = Instant::now() + at_most;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left =
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::new(&fd, what)], Some(&left)) {
            Err(Errno::INTR) => {}
            Ok(ready) => return Ok(ready > 0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Has the kernel kill this process when the thread that forked it, which belongs to `parent`, ends.
///
/// A change of credentials, such as joining a user namespace, clears this: call it again after one.
pub fn die_with(parent: i32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before the line above.
    match rustix::process::getppid() {
        Some(now) if now.as_raw_nonzero().get() == parent => Ok(()),
        _ => Err(Errno::SRCH.into()),
    }
}

/// Ignores what a terminal sends to a whole process group, and SIGTERM: this process ends when its parent says so.
pub fn ignore_stop_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: SIG_IGN installs no handler; the signals are valid and may be ignored.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

pub fn is_single_threaded() -> io::Result<bool> {
    // proc(5): /proc/self/task has one directory for each thread.
    Ok(std::fs::read_dir("/proc/self/task")?.take(2).count() == 1)
}

fn close_all_but(keep: &[BorrowedFd<'_>]) {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().filter(|&fd| fd >= 3).chain([u32::MAX]) {
        if first < fd {
            // SAFETY: only called in a new process before the caller's code runs: whoever owns these descriptors is a
            // copy of a frame that is never returned to. A failure (Linux before 5.9) only leaves them open.
            unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
        }
        first = fd.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_does_not_fork() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || wait.recv().is_err());
            let error = fork(&[], || 0).expect_err("two threads at least");
            assert_eq!(Errno::from_io_error(&error), Some(Errno::BUSY));
            drop(stop);
        });
    }

    #[test]
    fn waiting_ends_at_its_limit() {
        let (read, _write) = rustix::pipe::pipe().expect("a pipe");
        assert!(!wait_readable(&read, Duration::from_millis(1)).expect("polled"));
    }
}
