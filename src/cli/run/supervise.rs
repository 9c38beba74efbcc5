//! Waits for CMD, and passes signals on to it.
//!
//! # Theory of operation
//! pontoon and CMD are in one process group, the shell's job: a pipeline keeps its terminal, and a key of the terminal
//! (Ctrl-C, Ctrl-\, Ctrl-Z), its end and a new size reach CMD directly. So of what comes here
//!
//! - what the kernel sent is passed on only if CMD is in a group of its own by now, and has not got it;
//! - what CMD itself sent to its whole group is not sent back to it;
//! - everything else was meant for CMD, and is passed on. A kill(2) to the whole group reaches it twice, as under sudo(8).
//!
//! When CMD stops, this process stops itself by the same signal, for that is what the shell waits for; SIGCONT is passed
//! on. In a group that no shell looks after (a service, a cron job) the kernel lets nobody stop that way, and nobody
//! would continue it either.

use std::io;

use rustix::process::Signal;

use super::behind::Switch;
use super::inside::Inside;
use super::tell_person;
use crate::io::sys::process::{Change, Child, Exit};
use crate::io::sys::signal::{Sender, Signals, Taken};

/// What is taken instead of ending or stopping this process.
pub const SIGNALS: [i32; 12] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGCONT,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGCHLD,
];

/// What it came to.
pub enum Outcome {
    /// CMD's exit status, or 128 and the signal that killed it.
    Status(u8),
    /// The switch failed, CMD was killed.
    Lost(String),
}

/// Waits for CMD's end.
pub fn supervise(signals: &Signals, inside: &mut Inside, switch: &mut Switch) -> io::Result<Outcome> {
    let cmd = &mut inside.child;
    let mut lost = None;
    loop {
        let taken = signals.wait()?;
        if taken.number != libc::SIGCHLD {
            pass_on(taken, cmd);
            continue;
        }
        // First CMD: where both have ended, the switch did because CMD had.
        match cmd.changed()? {
            Some(Change::Ended(exit)) => {
                return Ok(lost.map_or_else(|| Outcome::Status(status(exit)), Outcome::Lost));
            }
            Some(Change::Stopped(by)) => signals.stop_by(mirrored(by))?,
            Some(Change::Continued) | None => {}
        }
        match switch.ended() {
            Ok(Some(Exit::Code(0))) => tell_person("the switch was shut down; CMD is killed"),
            Ok(Some(exit)) => lost = Some(format!("the switch has ended ({exit:?}); CMD was killed")),
            // Running, or told already.
            Ok(None) | Err(_) => continue,
        }
        cmd.kill()?;
    }
}

fn pass_on(taken: Taken, cmd: &Child) {
    let same_group = match rustix::process::Pid::from_raw(cmd.pid()) {
        Some(pid) => rustix::process::getpgid(Some(pid)) == Ok(rustix::process::getpgrp()),
        None => false,
    };
    if is_for_command(taken.sender, cmd.pid(), same_group)
        && let Some(signal) = Signal::from_named_raw(taken.number)
    {
        // CMD has ended, and its SIGCHLD comes; or it is somebody else now (set-user-ID), who does not take it from us.
        let _ = cmd.signal(signal);
    }
}

fn is_for_command(sender: Sender, cmd: i32, same_group: bool) -> bool {
    match sender {
        Sender::Kernel => !same_group,
        Sender::Process(pid) => pid != cmd,
    }
}

/// The signal to stop by when CMD was stopped by this one.
fn mirrored(by: i32) -> i32 {
    match by {
        libc::SIGTTIN | libc::SIGTTOU => by,
        // SIGSTOP would stop us where nobody continues us.
        _ => libc::SIGTSTP,
    }
}

/// As a shell's `$?`.
fn status(exit: Exit) -> u8 {
    match exit {
        // wait(2): eight bits.
        Exit::Code(code) => code as u8,
        Exit::Signal(number) => u8::try_from(128 + number).unwrap_or(u8::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_the_terminal_reaches_the_command_once() {
        assert!(!is_for_command(Sender::Kernel, 7, true), "its group has it");
        assert!(is_for_command(Sender::Kernel, 7, false), "it is in a group of its own");
    }

    #[test]
    fn what_the_command_sends_its_group_does_not_come_back() {
        assert!(!is_for_command(Sender::Process(7), 7, true));
        assert!(is_for_command(Sender::Process(8), 7, true));
        assert!(is_for_command(Sender::Process(0), 7, true), "from outside of our pid namespace");
    }

    #[test]
    fn the_status_is_the_commands_or_its_signals() {
        for (exit, said) in
            [(Exit::Code(0), 0), (Exit::Code(255), 255), (Exit::Signal(9), 137), (Exit::Signal(64), 192)]
        {
            assert_eq!(status(exit), said, "{exit:?}");
        }
    }

    #[test]
    fn a_command_that_stopped_has_us_stop_so_that_a_shell_can_continue_us() {
        assert_eq!(mirrored(libc::SIGTTIN), libc::SIGTTIN);
        assert_eq!(mirrored(libc::SIGSTOP), libc::SIGTSTP);
    }
}
