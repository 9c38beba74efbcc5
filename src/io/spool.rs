//! Log lines on their way to standard error, which may be a pipe that nobody reads.
//!
//! # Theory of operation
//! Whoever logs never waits: the line goes into a queue, and a thread of its own writes it, for as long as that takes. When
//! the queue is full the line is lost; how many were is told in one line as soon as writing goes on.
//!
//! Before [`Spool::start`], and in the helper, which may have one thread only, a line is written at once if there is room
//! for it and lost if not. [`tell`] is for what a person is to read of a command that ends: it waits a moment.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::sys::process::wait_writable;

/// Lines that wait to be written.
const QUEUE: usize = 1024;

/// Bytes of a line: what a pipe that has room takes whole (`PIPE_BUF`, pipe(7)).
const MAX_LINE: usize = 4096;

enum Item {
    Line(Box<[u8]>),
    /// Dropped when all before it is written.
    Mark {
        _written: Sender<()>,
    },
}

/// A queue of lines and the thread that writes them.
#[derive(Debug)]
pub struct Spool {
    queue: Sender<Item>,
    lost: Arc<AtomicU64>,
}

impl Spool {
    /// Starts the thread that writes to `out`. It lasts as long as the process if `out` takes nothing.
    pub fn start<O: AsFd + Send + 'static>(out: O) -> io::Result<Spool> {
        let (queue, items) = bounded(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let seen = lost.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write_all(out.as_fd(), &items, &seen))?;
        Ok(Spool { queue, lost })
    }

    /// Never waits; a line for which there is no room is counted.
    pub fn push(&self, line: &[u8]) {
        let line = &line[..line.len().min(MAX_LINE)];
        if self.queue.try_send(Item::Line(line.into())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all that was pushed is written, but not longer than `at_most`.
    pub fn flush(&self, at_most: Duration) {
        let deadline = Instant::now() + at_most;
        let (mark, written) = bounded(0);
        if self.queue.send_deadline(Item::Mark { _written: mark }, deadline).is_ok() {
            // Disconnected: it is written. Too late: it is not going to be.
            let _ = written.recv_deadline(deadline);
        }
    }
}

fn write_all(out: BorrowedFd<'_>, items: &Receiver<Item>, lost: &AtomicU64) {
    for item in items {
        let Item::Line(line) = item else {
            continue;
        };
        write_line(out, &line);
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            write_line(out, format!("[log: {lost} lines were lost here: nobody read standard error]\n").as_bytes());
        }
    }
}

/// Waits for as long as it takes; what cannot be written at all is nobody's to hear.
fn write_line(out: BorrowedFd<'_>, mut line: &[u8]) {
    while !line.is_empty() {
        match rustix::io::write(out, line) {
            Ok(len) => line = &line[len..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                // Whoever shares the terminal made it non-blocking.
                let _ = wait_writable(out, Duration::from_secs(1));
            }
            Err(_) => return,
        }
    }
}

/// How long a line for a person waits for room.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// Writes a line to standard error at once: why there is no result, which may be the last that is said. Where nobody makes
/// room for it within a second it is lost, and so is the next if there is no room yet; what it is about is not to hang on it.
pub fn tell(line: &str) {
    static DEAF: AtomicBool = AtomicBool::new(false);
    let at_most = if DEAF.load(Ordering::Relaxed) { Duration::ZERO } else { TOLD_WITHIN };
    let written = write_within(rustix::stdio::stderr(), format!("{line}\n").as_bytes(), at_most);
    DEAF.store(!written, Ordering::Relaxed);
}

/// `false`: not all of it.
fn write_within(out: BorrowedFd<'_>, line: &[u8], at_most: Duration) -> bool {
    let deadline = Instant::now() + at_most;
    // A pipe that has room has it for so much; more could block.
    for mut part in line.chunks(MAX_LINE) {
        while !part.is_empty() {
            if !wait_writable(out, deadline.saturating_duration_since(Instant::now())).unwrap_or(false) {
                return false;
            }
            match rustix::io::write(out, part) {
                Ok(len) => part = &part[len..],
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(_) => return false,
            }
        }
    }
    true
}

static SPOOL: OnceLock<Spool> = OnceLock::new();

/// Standard error, for a logger: each write is a line, and none waits.
#[derive(Debug)]
pub struct Stderr;

impl Stderr {
    /// From here on a thread writes. Not before the helper is forked.
    pub fn start() -> io::Result<()> {
        let spool = Spool::start(io::stderr())?;
        // A second one would be given nothing.
        let _ = SPOOL.set(spool);
        Ok(())
    }

    /// As [`Spool::flush`].
    pub fn flush_within(at_most: Duration) {
        if let Some(spool) = SPOOL.get() {
            spool.flush(at_most);
        }
    }
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match SPOOL.get() {
            Some(spool) => spool.push(line),
            None => {
                let out = rustix::stdio::stderr();
                if wait_writable(out, Duration::ZERO).unwrap_or(false) {
                    let _ = rustix::io::write(out, &line[..line.len().min(MAX_LINE)]);
                }
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};

    use super::*;

    #[test]
    fn what_is_pushed_is_written_in_its_order() {
        let (mut reader, writer) = pipe().expect("a pipe");
        let spool = Spool::start(writer).expect("a thread");
        for number in 0..100 {
            spool.push(format!("{number}\n").as_bytes());
        }
        spool.flush(Duration::from_secs(10));
        drop(spool);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("the thread ends with its queue");
        assert_eq!(text, (0..100).map(|number| format!("{number}\n")).collect::<String>());
    }

    #[test]
    fn a_full_pipe_costs_lines_that_are_counted() {
        let (mut reader, writer) = pipe().expect("a pipe");
        let spool = Spool::start(writer).expect("a thread");
        let line = [b'.'; MAX_LINE];
        // What the pipe holds (64 KiB at most of a new one), one under way, a full queue, and seven.
        let size = rustix::pipe::fcntl_getpipe_size(&reader).expect("a pipe");
        let pushed = size / MAX_LINE + 1 + QUEUE + 7;
        for _ in 0..pushed {
            spool.push(&line);
        }
        // There is no room for the mark either; and this does not wait for ever.
        spool.flush(Duration::from_millis(1));
        drop(spool);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("the thread ends with its queue");
        let whole = text.matches('.').count() / MAX_LINE;
        let told = text.lines().find_map(|line| line.split_once("[log: ")).expect("told").1;
        let lost: usize = told.split_once(' ').and_then(|(lost, _)| lost.parse().ok()).expect("a number");
        // Told when the first line goes on, so it is the whole of it.
        assert!(lost >= 7, "{lost}");
        assert_eq!(whole + lost, pushed);
    }

    #[test]
    fn what_is_told_waits_for_room_but_not_for_ever() {
        let (mut reader, writer) = pipe().expect("a pipe");
        let size = rustix::pipe::fcntl_getpipe_size(&reader).expect("a pipe");
        rustix::io::write(&writer, &vec![b'.'; size]).expect("as much as it holds");
        assert!(!write_within(writer.as_fd(), b"lost\n", Duration::from_millis(1)));
        let first = std::thread::spawn(move || {
            let mut start = vec![0; size];
            reader.read_exact(&mut start).expect("it is full");
            let mut rest = String::new();
            reader.read_to_string(&mut rest).expect("the writer ends");
            rest
        });
        let long = "x".repeat(2 * MAX_LINE + 5);
        assert!(write_within(writer.as_fd(), long.as_bytes(), Duration::from_secs(10)));
        drop(writer);
        assert!(first.join().expect("no panic") == long, "all of it, once there is room");
    }
}
