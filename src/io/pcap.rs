//! Capturing: frames at six named points of their way, as pcapng (S05).
//!
//! # Theory of operation
//! The loop copies each frame into a bounded channel and goes on; a thread writes. When the disk is slower than the
//! network, frames are left out of the capture, never out of the traffic, and the last record says how many. Each point
//! is an interface of its own in the file (`port-in`, `gw-in`, `up-out`, `up-in`, `gw-out`, `port-out`), so Wireshark can
//! filter by it; the port's number is the record's comment. Partial checksums are as the kernel handed them over:
//! Wireshark is told nothing and should not validate them.
//!
//! # Limits
//! [`QUEUE`] frames wait; a frame is captured whole, up to 64 KiB.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};

use super::switch::{Notice, Notifier};
use crate::core::port::PortId;
use crate::core::world::Point;
use crate::frame::{FrameOut, Link};

/// Frames between the loop and the writer.
const QUEUE: usize = 4096;

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
}

impl Capture {
    /// Writes to `file` from a thread of its own, which ends with the capture and tells if it must end before.
    pub fn start(file: File, notifier: Notifier) -> io::Result<Capture> {
        let mut writer = open(BufWriter::new(file)).map_err(io::Error::other)?;
        let (sender, receiver) = bounded(QUEUE);
        std::thread::Builder::new().name("pcap".to_owned()).spawn(move || {
            if let Err(why) = write_all(&mut writer, &receiver) {
                notifier.tell(Notice::CaptureEnded { why });
            }
        })?;
        Ok(Capture { sender, missed: 0 })
    }

    /// A frame passes `point`. Never waits.
    pub fn frame(&mut self, point: Point, port: PortId, frame: FrameOut<'_>, link: Link) {
        debug_assert!(POINTS.iter().any(|(p, l)| *p == point && (*l == DataLink::RAW) == (link == Link::Ip)));
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = Record { at, point, port, bytes: frame.packet().into(), missed: self.missed };
        match self.sender.try_send(record) {
            Ok(()) => self.missed = 0,
            Err(TrySendError::Full(_)) => self.missed += 1,
            Err(TrySendError::Disconnected(_)) => {} // told by the writer
        }
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

fn write_all(writer: &mut PcapNgWriter<BufWriter<File>>, records: &Receiver<Record>) -> Result<(), String> {
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
        writer.write_pcapng_block(block).map_err(|e| e.to_string())?;
        if records.is_empty() {
            writer.get_mut().flush().map_err(|e| e.to_string())?;
        }
    }
    writer.get_mut().flush().map_err(|e| e.to_string())
}
