//! Capturing: frames at six named points of their way, as pcapng (S05).
//!
//! # Theory of operation
//! The loop copies each frame into a bounded channel and goes on; a thread writes. When the disk is slower than the
//! network, frames are left out of the capture, never out of the traffic, and the last record says how many. Each point
//! is an interface of its own in the file (`port-in`, `gw-in`, `up-out`, `up-in`, `gw-out`, `port-out`), so Wireshark can
//! filter by it; the port's number is the record's comment. Partial checksums are as the kernel handed them over:
//! Wireshark is told nothing and should not validate them.
//!
//! A pipe whose reader is slow is a slow disk: it is waited for. Only at the end of the capture a reader that takes
//! nothing for [`PATIENCE`] is given up, so that no thread waits for it for ever.
//!
//! # Limits
//! [`QUEUE`] frames wait; a frame is captured whole, up to 64 KiB.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::{DataLink, PcapError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::switch::{Notice, Notifier};
use crate::core::port::PortId;
use crate::core::world::Point;
use crate::frame::{FrameOut, Link};

/// Frames between the loop and the writer.
const QUEUE: usize = 4096;
/// How long a pipe may be full without anybody reading once the capture is over.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long [`Capture::finish`] waits for what is queued: a disk takes that in a fraction of it.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

const POINTS: [(Point, DataLink); 6] = [
    (Point::PortIn, DataLink::ETHERNET),
    (Point::GatewayIn, DataLink::ETHERNET),
    (Point::UplinkOut, DataLink::RAW),
    (Point::UplinkIn, DataLink::RAW),
    (Point::GatewayOut, DataLink::ETHERNET),
    (Point::PortOut, DataLink::ETHERNET),
];

struct Record {
    at: Duration,
    point: Point,
    port: PortId,
    bytes: Box<[u8]>,
    /// Frames left out since the record before.
    missed: u64,
}

/// A running capture; ends when dropped.
pub struct Capture {
    sender: Sender<Record>,
    missed: u64,
    over: Arc<AtomicBool>,
    /// Disconnected when the writer has ended.
    ended: Receiver<()>,
}

impl Capture {
    /// Writes to `file` from a thread of its own, which ends with the capture and tells if it must end before.
    pub fn start(file: File, notifier: Notifier) -> io::Result<Capture> {
        let over = Arc::new(AtomicBool::new(false));
        let sink = Sink { file, over: over.clone() };
        let (sender, receiver) = bounded(QUEUE);
        let (alive, ended) = bounded(0);
        std::thread::Builder::new().name("pcap".to_owned()).spawn(move || {
            let _alive = alive;
            if let Err(why) = write_all(sink, &receiver) {
                notifier.tell(Notice::CaptureEnded { why: in_words(why) });
            }
        })?;
        Ok(Capture { sender, missed: 0, over, ended })
    }

    /// A frame passes `point`. Never waits; `false`: the writer has ended, and has told why.
    pub fn frame(&mut self, point: Point, port: PortId, frame: FrameOut<'_>, link: Link) -> bool {
        debug_assert!(POINTS.iter().any(|(p, l)| *p == point && (*l == DataLink::RAW) == (link == Link::Ip)));
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = Record { at, point, port, bytes: frame.packet().into(), missed: self.missed };
        match self.sender.try_send(record) {
            Ok(()) => self.missed = 0,
            Err(TrySendError::Full(_)) => self.missed += 1,
            Err(TrySendError::Disconnected(_)) => return false,
        }
        true
    }

    /// Ends it, and waits until what is queued is written; not for long if nobody takes it.
    pub fn finish(self) {
        let ended = self.ended.clone();
        drop(self);
        if ended.recv_timeout(FINISH_WITHIN) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            log::warn!("capture: its end is not written yet; the file may lack its last frames");
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Before the channel closes with the sender, so that the writer's last wait is one with a limit.
        self.over.store(true, Ordering::Relaxed);
    }
}

/// A file, or a pipe that does not block: where it is full, this waits.
struct Sink {
    file: File,
    over: Arc<AtomicBool>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Asked before the wait: a whole one must have passed without a reader.
                    let over = self.over.load(Ordering::Relaxed);
                    let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(PATIENCE.subsec_nanos()) };
                    match poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], Some(&limit)) {
                        Ok(0) if over => return Err(io::Error::other("the reader of the pipe takes nothing")),
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// pcap-file says of every I/O error that it could not read.
fn in_words(error: PcapError) -> String {
    match error {
        PcapError::IoError(why) => format!("cannot write: {why}"),
        other => other.to_string(),
    }
}

fn open<W: Write>(out: W) -> Result<PcapNgWriter<W>, pcap_file::PcapError> {
    let mut writer = PcapNgWriter::new(out)?;
    for (point, linktype) in POINTS {
        let options = vec![
            InterfaceDescriptionOption::IfName(Cow::Borrowed(point.name())),
            InterfaceDescriptionOption::IfTsResol(9),
        ];
        writer.write_pcapng_block(InterfaceDescriptionBlock { linktype, snaplen: 0, options })?;
    }
    Ok(writer)
}

fn write_all<W: Write>(out: W, records: &Receiver<Record>) -> Result<(), PcapError> {
    let mut writer = open(BufWriter::new(out))?;
    // A reader of a pipe sees at once that it is a capture.
    writer.get_mut().flush().map_err(PcapError::IoError)?;
    while let Ok(record) = records.recv() {
        let interface = POINTS.iter().position(|(p, _)| *p == record.point).unwrap_or(0);
        let mut comment = record.port.to_string();
        if record.missed > 0 {
            comment = format!("{comment}; {} frames before this one were not captured", record.missed);
        }
        let block = EnhancedPacketBlock {
            interface_id: interface as u32, // one of six
            timestamp: record.at,
            original_len: record.bytes.len() as u32, // at most 64 KiB
            data: Cow::Borrowed(&record.bytes),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(comment))],
        };
        writer.write_pcapng_block(block)?;
        if records.is_empty() {
            writer.get_mut().flush().map_err(PcapError::IoError)?;
        }
    }
    writer.get_mut().flush().map_err(PcapError::IoError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use rustix::pipe::{PipeFlags, pipe_with};

    /// A capture into a pipe as `capture_file` opens one, and its reader.
    fn into_a_pipe() -> (Capture, File, Receiver<Notice>) {
        let poll = mio::Poll::new().expect("epoll");
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).expect("a waker");
        let (notifier, notices) = Notifier::new(Arc::new(waker));
        let (read, write): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).expect("a pipe");
        rustix::io::ioctl_fionbio(&read, false).expect("a reader that waits");
        (Capture::start(write.into(), notifier).expect("a thread"), read.into(), notices)
    }

    fn record(capture: &Capture, bytes: usize) {
        let record = Record {
            at: Duration::ZERO,
            point: Point::PortIn,
            port: PortId(1),
            bytes: vec![7; bytes].into(),
            missed: 0,
        };
        capture.sender.send(record).expect("the writer is there");
    }

    #[test]
    fn a_pipe_that_is_full_is_waited_for_and_gets_every_frame() {
        let (capture, mut reader, notices) = into_a_pipe();
        for _ in 0..20 {
            record(&capture, 20_000); // 400 kB: several times what a pipe holds
        }
        let all = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        capture.finish();
        let all = all.join().expect("no panic").expect("read");
        assert!(all.len() > 400_000 && all.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]), "{} bytes", all.len());
        assert!(notices.is_empty());
    }

    #[test]
    fn a_pipe_that_nobody_reads_does_not_hold_the_end_up() {
        let (capture, reader, notices) = into_a_pipe();
        for _ in 0..10 {
            record(&capture, 20_000);
        }
        capture.finish();
        let notice = notices.recv_timeout(Duration::from_secs(5)).expect("the writer has ended");
        assert_eq!(notice, Notice::CaptureEnded { why: "cannot write: the reader of the pipe takes nothing".into() });
        drop(reader);
    }

    #[test]
    fn a_reader_that_goes_ends_the_capture_and_says_so() {
        let (mut capture, reader, notices) = into_a_pipe();
        drop(reader);
        // The head of the file may have gone into the pipe before, and then it is a frame that finds it broken.
        let frame = [0; crate::wire::vnet::LEN + 60];
        let frame = || FrameOut::from_bytes(&frame);
        capture.frame(Point::PortIn, PortId(1), frame(), Link::Ethernet);
        let notice = notices.recv_timeout(Duration::from_secs(5)).expect("the writer has ended");
        assert_eq!(notice, Notice::CaptureEnded { why: "cannot write: Broken pipe (os error 32)".into() });
        assert!(capture.ended.recv_timeout(Duration::from_secs(5)).is_err(), "nothing is ever sent");
        assert!(!capture.frame(Point::PortIn, PortId(1), frame(), Link::Ethernet));
    }
}
