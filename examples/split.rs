//! The other measuring stick: the least a TCP split can do, and so the ceiling of an uplink over ordinary host sockets.
//!
//! One TAP in a container's namespace. Each TCP connection that begins there is ended here and joined to a socket to the same
//! port of 127.0.0.1 in the namespace this program runs in, super-frames of 64 KiB both ways: what the container sends goes
//! from the frame straight to the socket, what the socket gives goes from a ring to the TAP by one writev(2).
//!
//! It has nothing that a real one needs: no retransmission, no timers, no IPv6, no UDP; it spins while a socket is full, and
//! 1,024 connections are all it takes. What pontoon's own split adds is what it loses against this, see `benches/network`.
//!
//! ```text
//! split NETNS MTU      NETNS: a name as `ip netns` has it, or a path; MTU: of the container's eth0
//! ```
//!
//! The TAP is named eth0 and comes up down and without an address. Any address is answered for, ARP included. Prints `ready`
//! when connections are joined; runs until it is killed.

mod tap;

use std::collections::HashMap;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use foldhash::fast::FixedState;
use rustix::event::epoll;
use rustix::io::Errno;

/// A super-frame is at most 64 KiB, its Ethernet and virtio headers come on top.
const FRAME: usize = 1 << 17;
/// Frames read from the TAP before the sockets have their turn.
const BUDGET: usize = 64;
/// What is read from a socket stays here while it is on its way, though nothing ever sends it again.
const RING: u32 = 4 << 20;
/// On its way at most; half of the ring, so that a chunk never meets what it would replace.
const IN_FLIGHT: u32 = 2 << 20;
/// TCP payload of a super-frame at most.
const CHUNK: u32 = 65_160;
const CONNECTIONS: usize = 1024;
/// The TAP among the events; connections have lower numbers.
const TAP: u64 = u64::MAX;

const GATEWAY: [u8; 6] = [0x02, 0x42, 1, 2, 3, 4];
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

// Where things are in a frame of the TAP, IPv4 without options.
const ETHERTYPE: usize = tap::VNET_HEADER + 12;
const IP: usize = tap::VNET_HEADER + 14;
const TCP: usize = IP + 20;
const OPTIONS: usize = TCP + 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (netns, mtu) = match arguments.as_slice() {
        [netns, mtu] => match mtu.parse::<u16>() {
            Ok(mtu @ 576..) => (netns, mtu),
            _ => return usage(),
        },
        _ => return usage(),
    };
    match tap::open(netns, true).and_then(|tap| Split::new(tap, mtu - 40)).and_then(Split::run) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("split: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: split NETNS MTU (576 or more)");
    ExitCode::from(2)
}

/// The four bytes of both TCP ports: the container's addresses are few, its ports are not.
type Key = [u8; 4];

struct Connection {
    key: Key,
    socket: TcpStream,
    container: [u8; 4],
    server: [u8; 4],
    received: u32,
    acknowledged: u32,
    sent: u32,
    window: u32,
    window_shift: u8,
    mss: u16,
    ring: Vec<u8>,
    first: u32,
    fin_sent: bool,
    fin_received: bool,
}

struct Split {
    tap: OwnedFd,
    poll: OwnedFd,
    mss: u16,
    /// Learned from whoever asked last: there is one container.
    station: [u8; 6],
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    by_key: HashMap<Key, usize, FixedState>,
}

impl Split {
    fn new(tap: OwnedFd, mss: u16) -> Result<Self, String> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        epoll::add(&poll, &tap, epoll::EventData::new_u64(TAP), epoll::EventFlags::IN).map_err(failed)?;
        let connections = (0..CONNECTIONS).map(|_| None).collect();
        let free = (0..CONNECTIONS).rev().collect();
        Ok(Self { tap, poll, mss, station: [0xff; 6], connections, free, by_key: HashMap::default() })
    }

    fn run(mut self) -> Result<std::convert::Infallible, String> {
        println!("ready");
        let mut frame = vec![0; FRAME];
        let mut ready = Vec::with_capacity(64);
        let mut due = Vec::with_capacity(BUDGET);
        loop {
            ready.clear();
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut ready), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
            for event in &ready {
                match event.data.u64() {
                    TAP => self.serve_tap(&mut frame, &mut due),
                    index => self.push(index as usize),
                }
            }
        }
    }

    /// Acknowledgements wait for the end of the turn: one for each connection that was heard.
    fn serve_tap(&mut self, frame: &mut [u8], due: &mut Vec<usize>) {
        for _ in 0..BUDGET {
            let Ok(length) = rustix::io::read(&self.tap, &mut *frame) else { break };
            let frame = &mut frame[..length];
            match frame.get(ETHERTYPE..IP) {
                Some([0x08, 0x06]) => self.answer_arp(frame),
                Some([0x08, 0x00]) => self.segment(frame, due),
                _ => {}
            }
        }
        for index in due.drain(..) {
            if let Some(connection) = &self.connections[index] {
                emit(&self.tap, self.station, connection, ACK, connection.sent, &[]);
            }
        }
    }

    fn answer_arp(&mut self, frame: &mut [u8]) {
        const REQUEST: u8 = 1;
        const REPLY: u8 = 2;
        if frame.len() < IP + 28 || frame[IP + 7] != REQUEST {
            return;
        }
        self.station.copy_from_slice(&frame[tap::VNET_HEADER + 6..ETHERTYPE]);
        let mut asker = [0; 10];
        asker.copy_from_slice(&frame[IP + 8..IP + 18]);
        let mut asked = [0; 4];
        asked.copy_from_slice(&frame[IP + 24..IP + 28]);
        frame[..tap::VNET_HEADER].fill(0);
        frame[tap::VNET_HEADER..][..6].copy_from_slice(&self.station);
        frame[tap::VNET_HEADER + 6..][..6].copy_from_slice(&GATEWAY);
        frame[IP + 7] = REPLY;
        frame[IP + 8..][..6].copy_from_slice(&GATEWAY);
        frame[IP + 14..][..4].copy_from_slice(&asked);
        frame[IP + 18..][..10].copy_from_slice(&asker);
        let _ = rustix::io::write(&self.tap, &frame[..IP + 28]);
    }

    fn segment(&mut self, frame: &[u8], due: &mut Vec<usize>) {
        if frame.len() < OPTIONS || frame[IP] != 0x45 || frame[IP + 9] != 6 {
            return;
        }
        let payload_at = TCP + usize::from(frame[TCP + 12] >> 4) * 4;
        let end = IP + usize::from(u16::from_be_bytes([frame[IP + 2], frame[IP + 3]]));
        let (Some(options), Some(payload)) = (frame.get(OPTIONS..payload_at), frame.get(payload_at..end)) else {
            return;
        };
        let key: Key = *frame[TCP..].first_chunk().expect("as long as a TCP header");
        let flags = frame[TCP + 13];
        let sequence = word(frame, TCP + 4);
        let known = self.by_key.get(&key).copied();
        if flags & SYN != 0 {
            if known.is_none() {
                self.open(key, frame, options, sequence.wrapping_add(1));
            }
            return;
        }
        let Some(index) = known else { return };
        let connection = self.connections[index].as_mut().expect("known");
        if flags & RST != 0 {
            return self.close(index);
        }
        let acknowledged = word(frame, TCP + 8);
        if acknowledged.wrapping_sub(connection.acknowledged).cast_signed() > 0 {
            connection.acknowledged = acknowledged;
        }
        let window = u16::from_be_bytes([frame[TCP + 14], frame[TCP + 15]]);
        connection.window = u32::from(window) << connection.window_shift;
        if !payload.is_empty() {
            // Without a retransmission nothing begins after what is expected; what was heard before is passed over.
            let heard = connection.received.wrapping_sub(sequence) as usize;
            if let Some(fresh) = payload.get(heard..) {
                deliver(&mut connection.socket, fresh);
                connection.received = connection.received.wrapping_add(fresh.len() as u32);
            }
            if !due.contains(&index) {
                due.push(index);
            }
        }
        if flags & FIN != 0 && sequence.wrapping_add(payload.len() as u32) == connection.received {
            connection.received = connection.received.wrapping_add(1);
            connection.fin_received = true;
            let _ = connection.socket.shutdown(Shutdown::Write);
            emit(&self.tap, self.station, connection, ACK, connection.sent, &[]);
        }
        if connection.fin_received && connection.fin_sent && connection.acknowledged == connection.sent {
            return self.close(index);
        }
        self.push(index);
    }

    fn open(&mut self, key: Key, frame: &[u8], options: &[u8], received: u32) {
        self.station.copy_from_slice(&frame[tap::VNET_HEADER + 6..ETHERTYPE]);
        let port = u16::from_be_bytes([key[2], key[3]]);
        // Over loopback: connected or refused at once.
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        let Ok(socket) = socket.and_then(|socket| socket.set_nonblocking(true).map(|()| socket)) else {
            return eprintln!("split: nobody listens on port {port}");
        };
        let Some(index) = self.free.pop() else {
            return eprintln!("split: {CONNECTIONS} connections are all it takes");
        };
        let _ = socket.set_nodelay(true);
        let (mss, window_shift) = negotiated(options);
        let mut connection = Connection {
            key,
            socket,
            container: *frame[IP + 12..].first_chunk().expect("as long as an IPv4 header"),
            server: *frame[IP + 16..].first_chunk().expect("as long as an IPv4 header"),
            received,
            acknowledged: 1000,
            sent: 1000,
            window: 0,
            window_shift,
            mss: mss.min(self.mss),
            ring: vec![0; RING as usize],
            first: 1001,
            fin_sent: false,
            fin_received: false,
        };
        let [high, low] = self.mss.to_be_bytes();
        emit_with(&self.tap, self.station, &connection, SYN | ACK, 1000, &[2, 4, high, low, 1, 3, 3, 8], &[]);
        connection.sent = connection.first;
        let event = epoll::EventFlags::IN | epoll::EventFlags::ET;
        if epoll::add(&self.poll, &connection.socket, epoll::EventData::new_u64(index as u64), event).is_ok() {
            self.by_key.insert(key, index);
            self.connections[index] = Some(connection);
        } else {
            self.free.push(index);
        }
    }

    /// A closed socket leaves epoll by itself.
    fn close(&mut self, index: usize) {
        if let Some(connection) = self.connections[index].take() {
            self.by_key.remove(&connection.key);
            self.free.push(index);
        }
    }

    /// From the socket to the container, until it has no more or the container's window is full.
    fn push(&mut self, index: usize) {
        let Some(connection) = &mut self.connections[index] else { return };
        loop {
            let in_flight = connection.sent.wrapping_sub(connection.acknowledged);
            let limit = connection.window.min(IN_FLIGHT);
            if in_flight >= limit || connection.fin_sent {
                return;
            }
            let at = connection.sent.wrapping_sub(connection.first) % RING;
            let room = (limit - in_flight).min(CHUNK).min(RING - at);
            match connection.socket.read(&mut connection.ring[at as usize..(at + room) as usize]) {
                Ok(0) => {
                    emit(&self.tap, self.station, connection, FIN | ACK, connection.sent, &[]);
                    connection.sent = connection.sent.wrapping_add(1);
                    connection.fin_sent = true;
                    return;
                }
                Ok(length) => {
                    let payload = &connection.ring[at as usize..][..length];
                    emit(&self.tap, self.station, connection, PSH | ACK, connection.sent, payload);
                    connection.sent = connection.sent.wrapping_add(length as u32);
                }
                Err(_) => return,
            }
        }
    }
}

fn failed(errno: Errno) -> String {
    format!("epoll: {errno}")
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(*bytes[at..].first_chunk().expect("lengths were checked"))
}

/// MSS and window scale of a SYN.
fn negotiated(mut options: &[u8]) -> (u16, u8) {
    let (mut mss, mut shift) = (536, 0);
    loop {
        options = match options {
            [] | [0, ..] => return (mss, shift),
            [1, rest @ ..] => rest,
            [kind, length, ..] if *length >= 2 && usize::from(*length) <= options.len() => {
                let (option, rest) = options.split_at(usize::from(*length));
                match (kind, option) {
                    (2, [_, _, high, low]) => mss = u16::from_be_bytes([*high, *low]),
                    (3, [_, _, by]) => shift = (*by).min(14),
                    _ => {}
                }
                rest
            }
            _ => return (mss, shift),
        }
    }
}

fn deliver(socket: &mut TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(taken) => bytes = &bytes[taken..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_micros(50)),
            // The other direction finds out, too, and ends the connection.
            Err(_) => return,
        }
    }
}

fn emit(tap: &OwnedFd, station: [u8; 6], connection: &Connection, flags: u8, sequence: u32, payload: &[u8]) {
    emit_with(tap, station, connection, flags, sequence, &[], payload);
}

/// One frame by one writev(2), its TCP checksum left to the container's stack.
fn emit_with(
    tap: &OwnedFd,
    station: [u8; 6],
    connection: &Connection,
    flags: u8,
    sequence: u32,
    options: &[u8],
    payload: &[u8],
) {
    // Options are none or the eight bytes of our SYN, payload at most a CHUNK: all below 65,536.
    let segment = (20 + options.len() + payload.len()) as u16;
    let headers = OPTIONS + options.len();
    let mut bytes = [0; OPTIONS + 8];
    let super_frame = payload.len() > usize::from(connection.mss);
    bytes[0] = 1; // VIRTIO_NET_HDR_F_NEEDS_CSUM
    bytes[1] = u8::from(super_frame); // VIRTIO_NET_HDR_GSO_TCPV4
    bytes[2..4].copy_from_slice(&((headers - tap::VNET_HEADER) as u16).to_ne_bytes());
    bytes[4..6].copy_from_slice(&if super_frame { connection.mss } else { 0 }.to_ne_bytes());
    bytes[6..8].copy_from_slice(&34u16.to_ne_bytes()); // where the checksum begins, and where it goes
    bytes[8..10].copy_from_slice(&16u16.to_ne_bytes());
    bytes[tap::VNET_HEADER..][..6].copy_from_slice(&station);
    bytes[tap::VNET_HEADER + 6..][..6].copy_from_slice(&GATEWAY);
    bytes[ETHERTYPE..IP].copy_from_slice(&[0x08, 0x00]);
    bytes[IP] = 0x45;
    bytes[IP + 2..IP + 4].copy_from_slice(&(20 + segment).to_be_bytes());
    bytes[IP + 6] = 0x40; // do not fragment
    bytes[IP + 8] = 64;
    bytes[IP + 9] = 6;
    bytes[IP + 12..IP + 16].copy_from_slice(&connection.server);
    bytes[IP + 16..TCP].copy_from_slice(&connection.container);
    let sum = !fold(&bytes[IP..TCP], 0);
    bytes[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
    let [a, b, c, d] = connection.key;
    bytes[TCP..TCP + 4].copy_from_slice(&[c, d, a, b]);
    bytes[TCP + 4..TCP + 8].copy_from_slice(&sequence.to_be_bytes());
    bytes[TCP + 8..TCP + 12].copy_from_slice(&connection.received.to_be_bytes());
    bytes[TCP + 12] = ((20 + options.len()) as u8 / 4) << 4;
    bytes[TCP + 13] = flags;
    let window: u16 = if flags & SYN != 0 { 0xffff } else { 0x7fff };
    bytes[TCP + 14..TCP + 16].copy_from_slice(&window.to_be_bytes());
    let pseudo = fold(&bytes[IP + 12..TCP], 6 + u32::from(segment));
    bytes[TCP + 16..TCP + 18].copy_from_slice(&pseudo.to_be_bytes());
    bytes[OPTIONS..headers].copy_from_slice(options);
    // A full queue loses the frame, and this program does not send it again.
    let _ = rustix::io::writev(tap, &[IoSlice::new(&bytes[..headers]), IoSlice::new(payload)]);
}

/// The Internet checksum (RFC 1071), not complemented.
fn fold(bytes: &[u8], start: u32) -> u16 {
    let sum = bytes.chunks_exact(2).fold(start, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
