//! Short frames that wait to be written together.
//!
//! # Theory of operation
//! A write wakes its receiver, which often takes the CPU at once; afterwards our code and tables are cold. So short frames are copied
//! here and written [`BATCH`] at a time: one cold start for many frames, and datagrams of one flow even by one write
//! ([`join`]). It is empty between two ports' turns.

use super::devices::Devices;
use crate::core::port::PortId;
use crate::core::world::Sent;
use crate::frame::FrameOut;
use crate::frame::join::join;

/// Frames that wait at most.
pub const BATCH: usize = 16;
/// The longest frame that waits, bytes: one of the usual MTU with its headers. Copying longer ones costs more than it saves.
pub const SHORT: usize = 2048;

/// Which frames are taken?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// None: nothing is known to come after the next, so it is better written at once.
    None,
    /// Those behind the next.
    Later,
    All,
}

pub struct Outbox {
    pub takes: Takes,
    /// Whose, and where in `bytes` each ends.
    frames: Vec<(PortId, usize)>,
    /// With their virtio headers, one after the other.
    bytes: Vec<u8>,
    /// What became of those written, for the core to settle.
    pub written: Vec<Sent>,
}

impl Outbox {
    pub fn new() -> Outbox {
        Outbox {
            takes: Takes::None,
            frames: Vec::with_capacity(BATCH),
            bytes: Vec::with_capacity(BATCH * SHORT),
            written: Vec::with_capacity(BATCH),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Takes a copy, if there is room.
    #[inline]
    pub fn take(&mut self, port: PortId, frame: FrameOut<'_>) -> bool {
        let bytes = frame.with_vnet();
        match self.takes {
            Takes::All if bytes.len() <= SHORT && self.frames.len() < BATCH => {
                self.bytes.extend_from_slice(bytes);
                self.frames.push((port, self.bytes.len()));
                true
            }
            Takes::Later => {
                self.takes = Takes::All;
                false
            }
            Takes::All | Takes::None => false,
        }
    }

    /// Writes what waits, in order.
    pub fn write(&mut self, devices: &mut Devices) {
        let (mut at, mut start) = (0, 0);
        while let Some(&(port, end)) = self.frames.get(at) {
            let mut one = (1, end);
            if self.frames.get(at + 1).is_some_and(|behind| behind.0 == port)
                && devices.get_mut(port).is_some_and(|entry| entry.takes_joined())
            {
                let ends = self.frames[at..].iter().take_while(|frame| frame.0 == port).map(|frame| frame.1);
                one = join(&mut self.bytes, start, ends);
            }
            let (count, end) = one;
            let sent = devices.write(port, FrameOut::from_bytes(&self.bytes[start..end]));
            self.written.extend(std::iter::repeat_n(sent, count));
            at += count;
            start = self.frames[at - 1].1;
        }
        self.frames.clear();
        self.bytes.clear();
    }
}
