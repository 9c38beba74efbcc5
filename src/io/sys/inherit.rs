//! File descriptors that whoever started this process left open: for it (`--ready-fd`, `--exit-fd`, `--tap-fd`), or for the
//! program that it runs.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::{Errno, FdFlags};

/// Numbers that have an owner already.
static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Takes over the inherited descriptor `fd` and makes it close-on-exec. Each can be taken once; 0, 1 and 2 belong to the
/// standard library.
///
/// To be called while the process starts, before it opens anything of its own: a number cannot tell whose it is.
pub fn take(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= 2 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "0, 1 and 2 are the standard streams; give a number from 3 on",
        ));
    }
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if taken.contains(&fd) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it was given twice; give each use a descriptor of its own",
        ));
    }
    // SAFETY: the descriptor is only asked for its flags, and a closed one answers EBADF. It is borrowed for this call,
    // in which nobody closes it: see above, nobody owns it yet.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    match rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC) {
        Ok(()) => {}
        Err(Errno::BADF) => {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "no such descriptor is open; see that whoever starts pontoon does not close it on exec",
            ));
        }
        Err(error) => return Err(error.into()),
    }
    taken.push(fd);
    // SAFETY: it is open (just asked), inherited (the caller's promise), and owned by nobody: TAKEN has seen to it that
    // this is the only owner ever made of this number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes over all that is left: what whoever started this process left open, and nobody has taken. None of it is
/// close-on-exec, so a program that is run has it under the same number. To be called when [`take`] is, after it.
pub fn rest() -> io::Result<Vec<OwnedFd>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rest = Vec::new();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: as in `take`; the directory's own descriptor, closed by now, answers EBADF.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        // What survived our own exec is not close-on-exec, and what this process opened itself is.
        let inherited = rustix::io::fcntl_getfd(borrowed).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC));
        if inherited && !taken.contains(&number) {
            taken.push(number);
            // SAFETY: it is open, inherited, and TAKEN had no owner of it.
            rest.push(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn a_descriptor_is_taken_once() {
        let (read, _write) = rustix::pipe::pipe().expect("a pipe");
        // High numbers are reused by nobody else in this test process.
        let high = rustix::io::fcntl_dupfd_cloexec(&read, 900).expect("a copy");
        let number = high.into_raw_fd();
        let taken = take(number).expect("it is open");
        assert!(take(number).is_err(), "it has an owner");
        assert!(rustix::io::fcntl_getfd(&taken).expect("open").contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn a_closed_descriptor_and_the_standard_streams_are_refused() {
        assert_eq!(take(100_000).expect_err("not open").kind(), io::ErrorKind::NotFound);
        for fd in [-1, 0, 2] {
            assert_eq!(take(fd).expect_err("not ours").kind(), io::ErrorKind::InvalidInput);
        }
    }
}
