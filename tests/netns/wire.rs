//! A place on the wire: an AF_PACKET socket on one interface, which sends what it is given and hears what passes.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, netdevice};

use super::ns::{Netns, QUIET, SOON, readable};
use super::packet::{Names, describe_ip};
use super::raw::{self, PacketOption};

/// Which frames a wire shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Whole frames that come in.
    Incoming,
    /// IPv4 packets that come in or go out, without their link header: the same on an Ethernet and on a TUN.
    Packets,
}

pub struct Wire {
    socket: OwnedFd,
    view: View,
    vnet: bool,
    names: Names,
}

/// What was heard, told in one line.
pub struct Heard {
    pub line: String,
    pub bytes: Vec<u8>,
}

impl Wire {
    pub fn open(netns: &Netns, interface: &str, view: View, names: Names) -> Self {
        let kind = if view == View::Packets { SocketType::DGRAM } else { SocketType::from_raw(libc::SOCK_RAW as u32) };
        // Protocol 0: deaf until bound, so that no frame of another interface is heard.
        let socket = netns
            .enter(|| rustix::net::socket_with(AddressFamily::PACKET, kind, SocketFlags::CLOEXEC, None))
            .expect("CAP_NET_RAW is ours here");
        let ifindex = netdevice::name_to_index(&socket, interface)
            .unwrap_or_else(|error| panic!("{}: {interface}: {error}", netns.name()));
        raw::set_packet_option(socket.as_fd(), PacketOption::AuxData).expect("Linux 2.6.21");
        if view == View::Incoming {
            raw::set_packet_option(socket.as_fd(), PacketOption::IgnoreOutgoing).expect("Linux 4.20");
        }
        raw::bind_packet(socket.as_fd(), ifindex).expect("the interface is there");
        Self { socket, view, vnet: false, names }
    }

    /// From now on every frame sent has a virtio-net header, and every frame heard.
    pub fn with_vnet_header(mut self) -> Self {
        raw::set_packet_option(self.socket.as_fd(), PacketOption::VnetHeader).expect("Linux 2.6.27");
        self.vnet = true;
        self
    }

    pub fn send(&self, frame: &[u8]) {
        self.offer(frame).unwrap_or_else(|error| panic!("sending {}: {error}", self.names.describe(frame, false)));
    }

    /// Sends what the link itself may refuse: a veth says ENOBUFS of a frame that its other end will not take.
    pub fn offer(&self, frame: &[u8]) -> rustix::io::Result<usize> {
        assert!(self.view == View::Incoming, "a view of packets has no link header to send");
        rustix::net::send(&self.socket, frame, SendFlags::empty())
    }

    fn next(&self, deadline: Instant) -> Option<Heard> {
        let mut buffer = vec![0; 70_000];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !readable(&self.socket, left) {
                return None;
            }
            let received = raw::receive_packet(self.socket.as_fd(), &mut buffer).ok()?;
            let mut bytes = buffer[if self.vnet { VNET_HEADER } else { 0 }..received.length].to_vec();
            if self.view == View::Packets {
                if received.ethertype != 0x0800 {
                    continue;
                }
                let line = describe_ip(&bytes, received.checksum_pending);
                return Some(Heard { line, bytes });
            }
            if let Some((tpid, tci)) = received.vlan {
                // The kernel took the outer tag out on reception, whatever the interface; put it back where it was.
                let tag = [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
                bytes.splice(12..12, tag);
            }
            let line = self.names.describe(&bytes, received.checksum_pending);
            return Some(Heard { line, bytes });
        }
    }

    /// The first frame whose line contains all of `words`, if it comes soon.
    pub fn wait(&self, words: &[&str]) -> Option<Heard> {
        self.wait_for(SOON, words)
    }

    pub fn wait_for(&self, patience: Duration, words: &[&str]) -> Option<Heard> {
        let deadline = Instant::now() + patience;
        loop {
            let heard = self.next(deadline)?;
            if words.iter().all(|word| heard.line.contains(word)) {
                return Some(heard);
            }
        }
    }

    /// The line of the first frame with all of `words`; "silence" when none comes soon.
    pub fn line(&self, words: &[&str]) -> String {
        self.wait(words).map_or_else(|| "silence".to_owned(), |heard| heard.line)
    }

    /// Everything with all of `words` that has come or comes while we listen for what should not be there.
    pub fn lines(&self, words: &[&str]) -> Vec<String> {
        self.lines_within(QUIET, words)
    }

    fn lines_within(&self, patience: Duration, words: &[&str]) -> Vec<String> {
        let deadline = Instant::now() + patience;
        let mut lines = Vec::new();
        while let Some(heard) = self.next(deadline) {
            if words.iter().all(|word| heard.line.contains(word)) {
                lines.push(heard.line);
            }
        }
        lines
    }
}

/// The names of the wires that heard a frame with all of `words`, each as often as it did; "nobody" when none.
pub fn who_heard(wires: &[(&str, &Wire)], words: &[&str]) -> String {
    who_heard_each(wires, &[words]).remove(0)
}

/// The same for several frames in one listening.
pub fn who_heard_each(wires: &[(&str, &Wire)], frames: &[&[&str]]) -> Vec<String> {
    let mut patience = QUIET;
    let mut heard = Vec::new();
    for (name, wire) in wires {
        heard.extend(wire.lines_within(patience, &[]).into_iter().map(|line| (*name, line)));
        // While we listened to the first wire, the others' sockets have kept what came to them.
        patience = Duration::ZERO;
    }
    let who = |words: &&[&str]| {
        let matching = heard.iter().filter(|(_, line)| words.iter().all(|word| line.contains(word)));
        let names: Vec<&str> = matching.map(|(name, _)| *name).collect();
        if names.is_empty() { "nobody".to_owned() } else { names.join(" ") }
    };
    frames.iter().map(who).collect()
}

/// struct virtio_net_hdr, without the mergeable-buffers field.
pub const VNET_HEADER: usize = 10;

/// A virtio-net header that leaves the checksum at `start + offset` to whoever comes next.
pub fn needs_checksum(start: u16, offset: u16) -> [u8; VNET_HEADER] {
    // VIRTIO_NET_HDR_F_NEEDS_CSUM, no segmentation; the fields are in host order for a legacy header.
    let [start, offset] = [start.to_ne_bytes(), offset.to_ne_bytes()];
    [1, 0, 0, 0, 0, 0, start[0], start[1], offset[0], offset[1]]
}
