//! Signals that are taken one after the other instead of interrupting, for a process that passes them on.

use std::io;
use std::mem::MaybeUninit;

use rustix::io::Errno;

/// Signals that are blocked, in this thread and in what it starts: they wait until they are taken.
#[derive(Clone, Copy)]
pub struct Signals {
    set: libc::sigset_t,
    /// The mask from before.
    before: libc::sigset_t,
}

/// A signal that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub number: i32,
    pub sender: Sender,
}

/// Who sent a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The kernel: a key of the terminal, its end, its new size; a child.
    Kernel,
    /// This process, by kill(2) or a relative.
    Process(i32),
}

impl Signals {
    /// Blocks these signals. To be called before the first thread or child.
    pub fn block(numbers: &[i32]) -> io::Result<Self> {
        let set = set_of(numbers)?;
        // A parent that ignores SIGCHLD has us ignore it too, and then the kernel reaps children before we ask.
        // SAFETY: SIG_DFL installs no handler.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        Ok(Self { before: change(libc::SIG_BLOCK, &set)?, set })
    }

    /// Waits for one of them.
    pub fn wait(&self) -> io::Result<Taken> {
        let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
        loop {
            // SAFETY: both pointers are to live values of the right type; on success `info` is written.
            let number = unsafe { libc::sigwaitinfo(&raw const self.set, info.as_mut_ptr()) };
            if number > 0 {
                // SAFETY: the call has succeeded.
                let info = unsafe { info.assume_init_ref() };
                let sender = match info.si_code {
                    // SAFETY: signals of these codes come with the pid of who sent them (sigaction(2)).
                    libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL => Sender::Process(unsafe { info.si_pid() }),
                    _ => Sender::Kernel,
                };
                return Ok(Taken { number, sender });
            }
            let error = io::Error::last_os_error();
            if Errno::from_io_error(&error) != Some(Errno::INTR) {
                return Err(error);
            }
        }
    }

    /// Lets this process be stopped by `number`, one of them, as it would have been; returns when it is continued, or at
    /// once where such a signal stops nobody (an orphaned process group, a parent that ignores it).
    pub fn stop_by(&self, number: i32) -> io::Result<()> {
        let one = set_of(&[number])?;
        // SAFETY: no memory is passed; the signal has its default action or is ignored, for we install no handler.
        if unsafe { libc::kill(libc::getpid(), number) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // It is delivered before this returns.
        change(libc::SIG_UNBLOCK, &one)?;
        change(libc::SIG_BLOCK, &one).map(drop)
    }

    /// Has the mask be as it was, in a child before it becomes a program.
    pub fn release(&self) -> io::Result<()> {
        change(libc::SIG_SETMASK, &self.before).map(drop)
    }
}

fn set_of(numbers: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for number in numbers {
        // SAFETY: the set is initialised; a number that is no signal is an error.
        if unsafe { libc::sigaddset(&raw mut set, *number) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(set)
}

/// Changes the mask of this thread; the one from before.
fn change(how: i32, set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is initialised, and `before` is written on success.
    match unsafe { libc::pthread_sigmask(how, set, before.as_mut_ptr()) } {
        // SAFETY: the call has succeeded.
        0 => Ok(unsafe { before.assume_init() }),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread of its own, to which the signal is sent: other tests are in this process.
    #[test]
    fn a_blocked_signal_waits_until_it_is_taken_and_tells_its_sender() {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let signals = Signals::block(&[libc::SIGUSR2]).expect("blocked");
                // SAFETY: raise sends to the calling thread, which blocks it.
                assert_eq!(unsafe { libc::raise(libc::SIGUSR2) }, 0);
                let taken = signals.wait().expect("taken");
                let own = rustix::process::getpid().as_raw_nonzero().get();
                assert_eq!(taken, Taken { number: libc::SIGUSR2, sender: Sender::Process(own) });
                signals.release().expect("as before");
            });
        });
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        assert!(Signals::block(&[4711]).is_err());
    }
}
