//! The traffic that is shown: echo, streams, datagrams and a page, by plain sockets.
//!
//! Every wait has a limit, and what failed is told in one line. A stream carries a pattern that the receiver checks at
//! the beginning of every piece it reads, so bytes that are lost, doubled or out of place are noticed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
use serde::{Deserialize, Serialize};

use super::place::Parent;
use crate::io::sys::process;
use crate::wire::checksum;

/// How long a single answer, connection or piece of a stream is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of one read or write of a stream.
const CHUNK: usize = 256 * 1024;

/// The pattern of a stream repeats after this many bytes: a prime, so that no size of a segment or a frame divides it.
const PERIOD: usize = 65_521;

/// Bytes that are compared at the beginning of each piece.
const LOOK: usize = 64;

/// Round trips.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rtts {
    pub sent: usize,
    /// In order of sending; those that were not answered are missing.
    pub answered: Vec<Duration>,
}

impl Rtts {
    pub fn median(&self) -> Duration {
        let mut sorted = self.answered.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    pub fn first(&self) -> Duration {
        self.answered.first().copied().unwrap_or_default()
    }

    /// An error if one of them was not answered.
    pub fn complete(self) -> Result<Self, String> {
        if self.answered.len() == self.sent {
            return Ok(self);
        }
        Err(format!("{} of {} answered", self.answered.len(), self.sent))
    }
}

/// A stream as its receiver saw it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Received {
    pub from: SocketAddr,
    pub bytes: u64,
    /// From the first byte to the end of the stream.
    pub took: Duration,
}

impl Received {
    pub fn gbit_per_s(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e9 / self.took.as_secs_f64().max(1e-9)
    }
}

/// A stream as its sender saw it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sent {
    pub from: SocketAddr,
    pub bytes: u64,
}

/// A page as its reader saw it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Page {
    pub from: SocketAddr,
    pub status: String,
    pub body: String,
    /// From the connect to the last byte.
    pub took: Duration,
}

/// `ping -f -c COUNT`: echo requests, each sent when the one before was answered or given up.
pub fn ping(to: Ipv4Addr, count: u16) -> Result<Rtts, String> {
    let open = || {
        // As root of the user namespace that owns this network namespace.
        let kind = (SocketType::RAW, SocketFlags::CLOEXEC);
        let socket = rustix::net::socket_with(AddressFamily::INET, kind.0, kind.1, Some(ipproto::ICMP))?;
        rustix::net::connect(&socket, &SocketAddr::from((to, 0)))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE / 4))?;
        rustix::io::Result::Ok(socket)
    };
    let socket = open().map_err(|error| format!("cannot open a raw socket for ICMP: {error}"))?;
    let mut answered = Vec::new();
    for number in 0..count {
        let request = echo_request(number);
        let begin = Instant::now();
        rustix::net::send(&socket, &request, SendFlags::empty()).map_err(|error| format!("ping {to}: {error}"))?;
        let mut buf = [0; 2048];
        while begin.elapsed() < PATIENCE / 4 {
            let Ok((_, len)) = rustix::net::recv(&socket, &mut buf, RecvFlags::empty()) else { break };
            if is_answer(&buf[..len], &request) {
                answered.push(begin.elapsed());
                break;
            }
        }
    }
    Ok(Rtts { sent: usize::from(count), answered })
}

/// RFC 792: type 8, code 0, checksum, identifier, sequence number, data; 56 bytes of data as ping(8) has them.
fn echo_request(number: u16) -> [u8; 64] {
    let mut message = [0x70; 64];
    message[..4].copy_from_slice(&[8, 0, 0, 0]);
    message[4..6].copy_from_slice(&(std::process::id() as u16).to_be_bytes()); // any bits of it will do
    message[6..8].copy_from_slice(&number.to_be_bytes());
    let sum = !checksum::sum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Whether an IPv4 packet is the echo reply (type 0) to this request.
fn is_answer(packet: &[u8], request: &[u8; 64]) -> bool {
    let header = usize::from(packet.first().copied().unwrap_or_default() & 0xf) * 4;
    packet.get(header..).is_some_and(|icmp| icmp.first() == Some(&0) && icmp.get(4..) == Some(&request[4..]))
}

/// Takes one stream to its end.
pub fn take_stream(parent: &Parent, port: u16) -> Result<Received, String> {
    let listener = listen(port)?;
    parent.ready()?;
    let (mut stream, from) = accept(&listener)?;
    let pattern = pattern(PERIOD + LOOK);
    let mut buf = vec![0; CHUNK];
    let mut bytes = 0;
    let mut begin = None;
    loop {
        let len = stream
            .read(&mut buf)
            .map_err(|error| format!("the stream from {from} broke after {bytes} bytes: {}", in_words(&error)))?;
        let begin = *begin.get_or_insert_with(Instant::now);
        if len == 0 {
            return Ok(Received { from, bytes, took: begin.elapsed() });
        }
        let at = (bytes % PERIOD as u64) as usize;
        let look = len.min(LOOK);
        if buf[..look] != pattern[at..at + look] {
            return Err(format!("the bytes at {bytes} are not those that were sent"));
        }
        bytes += len as u64;
    }
}

/// Sends a stream for some time and waits until all of it was taken.
pub fn send_stream(to: SocketAddr, lasting: Duration) -> Result<Sent, String> {
    let mut stream = connect(to)?;
    let from = stream.local_addr().map_err(|error| error.to_string())?;
    let pattern = pattern(PERIOD + CHUNK);
    let (mut bytes, begin) = (0, Instant::now());
    let broke = |bytes: u64, error| format!("the stream to {to} broke after {bytes} bytes: {}", in_words(&error));
    while begin.elapsed() < lasting {
        let at = (bytes % PERIOD as u64) as usize;
        bytes += stream.write(&pattern[at..at + CHUNK]).map_err(|error| broke(bytes, error))? as u64;
    }
    stream.shutdown(std::net::Shutdown::Write).map_err(|error| broke(bytes, error))?;
    // The receiver closes when it has read the end.
    match stream.read(&mut [0]) {
        Ok(0) => Ok(Sent { from, bytes }),
        Ok(_) => Err(format!("{to} answered a stream that asks for nothing")),
        Err(error) => Err(broke(bytes, error)),
    }
}

/// A timeout of a socket comes as EAGAIN, whose own words say nothing about it.
fn in_words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::WouldBlock => format!("nothing moved for {} s", PATIENCE.as_secs()),
        _ => error.to_string(),
    }
}

fn pattern(len: usize) -> Vec<u8> {
    // Multiplied by an odd number, so that neighbours differ in more than a bit.
    (0..len).map(|at| ((at % PERIOD).wrapping_mul(0x9e37_79b1) >> 13) as u8).collect()
}

/// Serves one page over HTTP, which tells the client how it is seen from here.
pub fn serve_page(parent: &Parent, port: u16) -> Result<SocketAddr, String> {
    let listener = listen(port)?;
    parent.ready()?;
    let (mut stream, client) = accept(&listener)?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut buf = [0; 1024];
        match stream.read(&mut buf) {
            Ok(0) => return Err(format!("{client} closed before it had asked")),
            Ok(len) if request.len() < 8192 => request.extend_from_slice(&buf[..len]),
            Ok(_) => return Err(format!("{client} asks in more than 8 KiB")),
            Err(error) => return Err(format!("{client} did not ask: {error}")),
        }
    }
    let body = format!("You are {client}.\n");
    let length = body.len();
    let page = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(page.as_bytes()).map_err(|error| format!("cannot answer {client}: {error}"))?;
    Ok(client)
}

/// Fetches `http://TO/`.
pub fn fetch_page(to: SocketAddr) -> Result<Page, String> {
    let begin = Instant::now();
    let mut stream = connect(to)?;
    let from = stream.local_addr().map_err(|error| error.to_string())?;
    let request = format!("GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.take(65_536).read_to_string(&mut answer))
        .map_err(|error| format!("no page from {to}: {error}"))?;
    let took = begin.elapsed();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("{to} answered without a header"))?;
    let status = head.lines().next().unwrap_or_default().to_owned();
    Ok(Page { from, status, body: body.trim().to_owned(), took })
}

/// Sends `count` datagrams back to where they come from; returns who sent the last.
pub fn echo_datagrams(parent: &Parent, port: u16, count: usize) -> Result<SocketAddr, String> {
    let socket = bind(port)?;
    parent.ready()?;
    let mut buf = [0; 2048];
    let mut last = None;
    for number in 0..count {
        let (len, from) = match socket.recv_from(&mut buf) {
            Ok(received) => received,
            Err(error) => return last.ok_or_else(|| format!("datagram {number} of {count} did not come: {error}")),
        };
        socket.send_to(&buf[..len], from).map_err(|error| format!("cannot answer {from}: {error}"))?;
        last = Some(from);
    }
    last.ok_or_else(|| "no datagram was waited for".into())
}

/// Sends datagrams, each when the one before was answered or given up.
pub fn ask_datagrams(to: SocketAddr, count: usize) -> Result<(SocketAddr, Rtts), String> {
    let socket = bind(0)?;
    // Connected: only answers from the very address that was asked are taken.
    socket.connect(to).map_err(|error| format!("{to}: {error}"))?;
    socket.set_read_timeout(Some(PATIENCE / 4)).map_err(|error| error.to_string())?;
    let from = socket.local_addr().map_err(|error| error.to_string())?;
    let mut answered = Vec::new();
    for number in 0..count as u64 {
        let begin = Instant::now();
        socket.send(&number.to_be_bytes()).map_err(|error| format!("to {to}: {error}"))?;
        let mut buf = [0; 16];
        while let Ok(len) = socket.recv(&mut buf) {
            if buf[..len] == number.to_be_bytes() {
                answered.push(begin.elapsed());
                break;
            }
        }
        if answered.is_empty() {
            break; // nobody is there: not as many timeouts as datagrams
        }
    }
    Ok((from, Rtts { sent: count, answered }))
}

/// Asks for a connection that is to be refused; how long the refusal took.
pub fn be_refused(to: SocketAddr) -> Result<Duration, String> {
    let begin = Instant::now();
    match TcpStream::connect_timeout(&to, PATIENCE) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(begin.elapsed()),
        Err(error) => Err(format!("not refused: {error}")),
        Ok(_) => Err(format!("{to} took the connection")),
    }
}

/// What this network namespace has learned by ARP: the MAC address of an IPv4 address, as text.
pub fn neighbour(of: Ipv4Addr) -> Result<String, String> {
    // IP address, HW type, Flags, HW address, Mask, Device
    let table = std::fs::read_to_string("/proc/thread-self/net/arp").map_err(|error| format!("/proc: {error}"))?;
    let mut rows = table.lines().skip(1).map(|line| line.split_whitespace());
    let found = rows.find_map(|mut row| (row.next()? == of.to_string()).then(|| row.nth(2).map(str::to_owned))?);
    found.ok_or_else(|| format!("{of} is not in the ARP table"))
}

fn listen(port: u16) -> Result<TcpListener, String> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(|error| format!("cannot listen on port {port}: {error}"))
}

fn accept(listener: &TcpListener) -> Result<(TcpStream, SocketAddr), String> {
    let failed = |error: std::io::Error| format!("cannot accept a connection: {error}");
    if !process::wait_readable(listener, PATIENCE).map_err(failed)? {
        return Err(format!("nobody connected in {} s", PATIENCE.as_secs()));
    }
    let (stream, client) = listener.accept().map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).and(stream.set_write_timeout(Some(PATIENCE))).map_err(failed)?;
    Ok((stream, client))
}

fn connect(to: SocketAddr) -> Result<TcpStream, String> {
    let connected = TcpStream::connect_timeout(&to, PATIENCE).and_then(|stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    });
    connected.map_err(|error| format!("cannot connect to {to}: {error}"))
}

fn bind(port: u16) -> Result<UdpSocket, String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
    let socket = socket.and_then(|socket| socket.set_read_timeout(Some(PATIENCE)).map(|()| socket));
    socket.map_err(|error| format!("cannot open UDP port {port}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_an_echo_reply_with_the_same_id_number_and_data() {
        let request = echo_request(7);
        assert_eq!(checksum::sum(&request), 0xffff);
        let mut packet = vec![0x45; 20];
        packet.extend_from_slice(&request);
        assert!(!is_answer(&packet, &request), "our own request, as a raw socket on lo would see it");
        packet[20] = 0;
        assert!(is_answer(&packet, &request));
        assert!(!is_answer(&packet, &echo_request(8)));
        assert!(!is_answer(&packet[..60], &request));
        assert!(!is_answer(&[], &request));
    }

    #[test]
    fn the_median_of_none_is_zero_and_incomplete() {
        let none = Rtts { sent: 3, answered: Vec::new() };
        assert_eq!(none.median(), Duration::ZERO);
        assert_eq!(none.complete().expect_err("none came"), "0 of 3 answered");
    }

    #[test]
    fn a_shifted_stream_looks_different_nearly_everywhere() {
        let pattern = pattern(2 * PERIOD);
        for shift in [1, 2, 1448, 1460, 4096, 65_480] {
            let same = (0..PERIOD - LOOK)
                .filter(|&at| {
                    let moved = (at + shift) % PERIOD;
                    pattern[at..at + LOOK] == pattern[moved..moved + LOOK]
                })
                .count();
            assert_eq!(same, 0, "shifted by {shift}");
        }
    }
}
