//! The seam between the core and the world.

use super::port::PortId;
use crate::frame::FrameOut;

/// Where on its way a packet is seen (S05): one echo request to the world passes the first three, its reply the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A frame came from a container.
    PortIn,
    /// The gateway took a packet from a network.
    GatewayIn,
    /// A packet leaves by the uplink, translated.
    UplinkOut,
    /// A packet came by the uplink.
    UplinkIn,
    /// The gateway sends a packet into a network.
    GatewayOut,
    /// A frame goes to a container.
    PortOut,
}

impl Point {
    /// The name in captures.
    pub fn name(self) -> &'static str {
        match self {
            Point::PortIn => "port-in",
            Point::GatewayIn => "gw-in",
            Point::UplinkOut => "up-out",
            Point::UplinkIn => "up-in",
            Point::GatewayOut => "gw-out",
            Point::PortOut => "port-out",
        }
    }
}

/// What became of a transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The receiver's kernel has it.
    Ok,
    /// The device is down (EIO).
    Down,
    /// The device is gone (EBADFD).
    Gone,
    /// The kernel refused the virtio header (EINVAL).
    Refused,
    /// Anything else.
    Failed,
}

/// The world: real, captured or simulated.
pub trait World {
    /// Hands a frame to a port's device; never blocks, never keeps the bytes.
    fn transmit(&mut self, port: PortId, frame: FrameOut<'_>) -> Sent;

    /// The same, at the world's leisure: `true` if it has taken a copy of a short frame, to transmit it soon and in its
    /// order, and will then say what became of it by [`super::datapath::Datapath::settle`], once for each it took.
    fn defer(&mut self, port: PortId, frame: FrameOut<'_>) -> bool {
        let _ = (port, frame);
        false
    }

    /// The host's sockets, if there are any.
    fn sockets(&mut self) -> Option<&mut dyn super::socket::Sockets> {
        None
    }

    /// Is anybody capturing? Asked before each [`World::capture`], so that nobody pays who does not look.
    fn capturing(&self) -> bool {
        false
    }

    /// A packet passes `point` at `port`; `link`: does it begin with an Ethernet header?
    fn capture(&mut self, point: Point, port: PortId, frame: FrameOut<'_>, link: crate::frame::Link) {
        let _ = (point, port, frame, link);
    }
}
