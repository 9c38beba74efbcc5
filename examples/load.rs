//! The load of `benches/network`: datagrams that are counted, small TCP exchanges that are timed, connections that are kept,
//! a stream that is read slowly. Every command is bounded in time and count, and prints one line of JSON.
//!
//! - `serve` answers on a range of TCP ports, one connection at a time on each, by echoing what it reads. A blocking thread a
//!   port: nothing but the network is between question and answer.
//! - `keep` echoes on a range of TCP and UDP ports, any number of connections at once.
//! - `sink` counts the datagrams of `send`, flat out or at a rate: delivered per second, lost, out of order.
//! - `rr` times request and response of one byte on one connection.
//! - `crr` times connect, request and response, each on a new connection. It goes round the server's ports: after some
//!   14,000 connections a minute to one destination the client's kernel itself is slow to find a free port.
//! - `hold` opens connections to `keep` and holds them until its standard input ends, idle or busy; `scatter` does so with UDP flows.
//! - `drain` reads what `pour` writes, at a given rate or as fast as it comes.
//! - `first` tries to connect until it is answered, and tells when that was.
//! - `flood` broadcasts ARP requests.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use rustix::event::epoll;
use rustix::net::{AddressFamily, SendFlags, SocketType, netdevice};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

#[path = "../tests/netns/raw.rs"]
#[expect(dead_code, reason = "shared with the tests: here only a packet socket is bound")]
mod raw;

/// A peer that is silent this long is gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// A stream of datagrams that pauses this long has ended.
const PAUSE: Duration = Duration::from_millis(500);
/// A stream of datagrams that has not begun by then does not come.
const BEGINNING: Duration = Duration::from_secs(2);
/// Between the datagrams that end a stream: what stands in queues comes first.
const BETWEEN: Duration = Duration::from_millis(20);
/// No server outlives its benchmark by much, whoever forgot it.
const SERVE: Duration = Duration::from_secs(600);
/// Connections that are opened later than this are not waited for.
const OPENING: Duration = Duration::from_secs(20);
/// The number of the datagrams that end a stream of them; how many there were stands behind it.
const LAST: u64 = u64::MAX;
/// What a busy connection has on its way.
const PORTION: usize = 1024;
/// What is told of a distribution, per cent.
const QUANTILES: [f64; 14] = [0.0, 1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 100.0];

#[derive(Parser)]
#[command(about = "Measured load for benches/network")]
enum Load {
    /// Echo on the TCP ports FIRST, FIRST+1, ..., one connection at a time on each; prints "ready"
    Serve {
        first: u16,
        #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
        ports: u16,
    },
    /// Echo on TCP and UDP ports, any number of connections; prints "ready"
    Keep {
        first: u16,
        #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
        ports: u16,
    },
    /// Count the datagrams of SIZE bytes that `send` sends here; prints "ready"
    Sink {
        port: u16,
        #[arg(value_parser = clap::value_parser!(u16).range(16..=65_507))]
        size: u16,
    },
    /// Send numbered datagrams of SIZE bytes, and how many there were
    Send {
        to: SocketAddr,
        #[arg(value_parser = clap::value_parser!(u16).range(16..=65_507))]
        size: u16,
        #[arg(value_parser = some_seconds)]
        seconds: f64,
        /// So many a second, evenly [default: as fast as they go]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
        rate: Option<u32>,
    },
    /// Time one-byte requests and responses on one connection
    Rr {
        to: SocketAddr,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
        count: u32,
        /// Stop after this long, if that is before COUNT
        #[arg(long, default_value_t = 60.0, value_parser = some_seconds)]
        seconds: f64,
    },
    /// Time connect, request and response, round the ports from TO's on
    Crr {
        to: SocketAddr,
        #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
        ports: u16,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=20_000))]
        count: u32,
        /// Stop after this long, if that is before COUNT
        #[arg(long, default_value_t = 60.0, value_parser = some_seconds)]
        seconds: f64,
    },
    /// Hold COUNT connections, round the ports from TO's on, until standard input ends
    Hold {
        to: SocketAddr,
        #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
        ports: u16,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=200_000))]
        count: u32,
        /// Each sends a KiB, waits until it is back, and sends the next, all at once
        #[arg(long)]
        busy: bool,
    },
    /// Begin COUNT UDP flows, answered ones, round the ports from TO's on, and wait until standard input ends
    Scatter {
        to: SocketAddr,
        #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
        ports: u16,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        count: u32,
    },
    /// Read one connection for SECONDS at RATE bytes a second (0: as they come); prints "ready"
    Drain {
        port: u16,
        rate: u64,
        #[arg(value_parser = some_seconds)]
        seconds: f64,
    },
    /// Write to one connection for SECONDS
    Pour {
        to: SocketAddr,
        #[arg(value_parser = some_seconds)]
        seconds: f64,
    },
    /// Connect as soon as it is possible, and exchange a byte
    First { to: SocketAddr },
    /// Broadcast ARP requests by a device whose MAC and IPv4 address are MAC and SENDER
    Flood {
        ifname: String,
        mac: String,
        sender: Ipv4Addr,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        count: u32,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        per_second: u32,
    },
}

fn main() -> ExitCode {
    let done = match Load::parse() {
        Load::Serve { first, ports } => serve(first, ports),
        Load::Keep { first, ports } => keep(first, ports),
        Load::Sink { port, size } => sink(port, usize::from(size)),
        Load::Send { to, size, seconds, rate } => send(to, usize::from(size), Duration::from_secs_f64(seconds), rate),
        Load::Rr { to, count, seconds } => request_response(to, count, Duration::from_secs_f64(seconds)),
        Load::Crr { to, ports, count, seconds } => {
            connect_request_response(to, ports, count, Duration::from_secs_f64(seconds))
        }
        Load::Hold { to, ports, count, busy } => hold(to, ports, count, busy),
        Load::Scatter { to, ports, count } => scatter(to, ports, count),
        Load::Drain { port, rate, seconds } => drain(port, rate, Duration::from_secs_f64(seconds)),
        Load::Pour { to, seconds } => pour(to, Duration::from_secs_f64(seconds)),
        Load::First { to } => first_byte(to),
        Load::Flood { ifname, mac, sender, count, per_second } => flood(&ifname, &mac, sender, count, per_second),
    };
    match done {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn some_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    if (0.01..=60.0).contains(&seconds) { Ok(seconds) } else { Err("0.01 to 60 seconds".to_owned()) }
}

fn serve(first: u16, ports: u16) -> io::Result<Value> {
    for port in (first..).take(usize::from(ports)) {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        thread::spawn(move || {
            // A connection that fails ends alone: what it cost is seen by the client that measures.
            listener.incoming().flatten().for_each(|connection| drop(echo(connection)));
        });
    }
    println!("ready");
    thread::sleep(SERVE);
    Ok(json!({ "served_seconds": SERVE.as_secs() }))
}

fn echo(mut connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = [0; 64];
    loop {
        match connection.read(&mut bytes)? {
            0 => return Ok(()),
            length => connection.write_all(&bytes[..length])?,
        }
    }
}

fn keep(first: u16, ports: u16) -> io::Result<Value> {
    raise_descriptor_limit();
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut listeners = Vec::new();
    for (index, port) in (0u64..).zip((first..).take(usize::from(ports))) {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        listener.set_nonblocking(true)?;
        rustix::net::listen(&listener, 4096)?;
        epoll::add(&poll, &listener, epoll::EventData::new_u64(index), epoll::EventFlags::IN)?;
        listeners.push(listener);
        let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&datagrams, 4 << 20)?;
        thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok((length, from)) = datagrams.recv_from(&mut bytes) {
                let _ = datagrams.send_to(&bytes[..length], from);
            }
        });
    }
    println!("ready");
    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    let mut events = Vec::with_capacity(256);
    let begin = Instant::now();
    while begin.elapsed() < SERVE {
        events.clear();
        let second = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&second)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for event in &events {
            let number = event.data.u64() as usize;
            if let Some(listener) = listeners.get(number) {
                while let Ok((connection, _)) = listener.accept() {
                    connection.set_nonblocking(true)?;
                    let number = (listeners.len() + connections.len()) as u64;
                    epoll::add(&poll, &connection, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
                    connections.push(Some(connection));
                }
                continue;
            }
            let slot = &mut connections[number - listeners.len()];
            let mut bytes = [0; 2 * PORTION];
            let Some(connection) = slot else { continue };
            match connection.read(&mut bytes) {
                Ok(length @ 1..) if connection.write_all(&bytes[..length]).is_ok() => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => *slot = None,
            }
        }
    }
    Ok(json!({ "served_seconds": SERVE.as_secs() }))
}

fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn sink(port: u16, size: usize) -> io::Result<Value> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    // What is lost shall be lost on the way. Beyond net.core.rmem_max this needs CAP_NET_ADMIN.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20)?;
    socket.set_read_timeout(Some(BEGINNING))?;
    println!("ready");
    let mut bytes = vec![0; 1 << 16];
    // One that arrives cut short is as good as lost.
    let mut cut = 0u64;
    let mut sent = None;
    let mut next = || -> io::Result<Option<u64>> {
        loop {
            return match socket.recv(&mut bytes) {
                Ok(length) if length != size => {
                    cut += 1;
                    continue;
                }
                Ok(_) => {
                    let number = u64::from_be_bytes(*bytes.first_chunk().expect("16 bytes at least"));
                    if number == LAST {
                        sent = Some(u64::from_be_bytes(*bytes[8..].first_chunk().expect("16 bytes at least")));
                    }
                    Ok(Some(number).filter(|number| *number != LAST))
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
                Err(error) => Err(error),
            };
        }
    };
    let Some(mut highest) = next()? else {
        return Ok(
            json!({ "received": 0, "lost": 1, "cut": cut, "late": 0, "seconds": 0, "per_second": 0, "gbit_s": 0 }),
        );
    };
    socket.set_read_timeout(Some(PAUSE))?;
    let begin = Instant::now();
    let (mut end, mut received, mut late) = (begin, 1u64, 0u64);
    while let Some(number) = next()? {
        received += 1;
        late += u64::from(number <= highest);
        highest = highest.max(number);
        end = Instant::now();
    }
    // The others that end it shall meet an open port: a refusal by ICMP would be in the way of the next stream.
    socket.set_read_timeout(Some(4 * BETWEEN))?;
    let mut again = [0; 16];
    while socket.recv(&mut again).is_ok() {}
    let seconds = (end - begin).as_secs_f64();
    // The first datagram began the time, it is not one of those in it.
    let rate = (received - 1) as f64 / seconds.max(f64::EPSILON);
    // Without a last one, what was lost after the highest number is not known.
    let lost = sent.unwrap_or(highest + 1).saturating_sub(received);
    let gbit = rate * size as f64 * 8e-9;
    Ok(
        json!({ "received": received, "lost": lost, "cut": cut, "late": late, "seconds": seconds, "per_second": rate, "gbit_s": gbit }),
    )
}

fn send(to: SocketAddr, size: usize, time: Duration, rate: Option<u32>) -> io::Result<Value> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    let mut bytes = vec![0; size];
    let (mut sent, mut refused) = (0u64, 0u64);
    let begin = Instant::now();
    while begin.elapsed() < time {
        let burst = match rate {
            None => 64,
            // All that are due by now; a millisecond's worth at most, so that a late wake-up makes no flood.
            Some(rate) => {
                let due = (begin.elapsed().as_secs_f64() * f64::from(rate)) as u64;
                let most = u64::from(rate / 1000).max(1);
                let burst = due.saturating_sub(sent).min(most);
                if burst == 0 {
                    thread::sleep(Duration::from_micros(100));
                }
                burst
            }
        };
        for _ in 0..burst {
            bytes[..8].copy_from_slice(&sent.to_be_bytes());
            match socket.send(&bytes) {
                Ok(_) => sent += 1,
                // A full queue on our own side: the sender knows, so it is no loss, and the number is used again.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => refused += 1,
                // Any other error, such as a refusal by ICMP, ends the run.
                Err(error) => return Err(error),
            }
        }
    }
    let rate = sent as f64 / begin.elapsed().as_secs_f64();
    bytes[..8].copy_from_slice(&LAST.to_be_bytes());
    bytes[8..16].copy_from_slice(&sent.to_be_bytes());
    for _ in 0..3 {
        thread::sleep(BETWEEN);
        let _ = socket.send(&bytes);
    }
    Ok(json!({ "sent": sent, "refused": refused, "per_second": rate }))
}

fn request_response(to: SocketAddr, count: u32, limit: Duration) -> io::Result<Value> {
    let mut connection = connect(to, PATIENCE)?;
    exchange(&mut connection)?;
    let begin = Instant::now();
    let times = (0..count).take_while(|_| begin.elapsed() < limit).map(|_| timed(|| exchange(&mut connection)));
    summary(times.collect::<io::Result<_>>()?)
}

fn connect_request_response(to: SocketAddr, ports: u16, count: u32, limit: Duration) -> io::Result<Value> {
    let begin = Instant::now();
    let addresses = around(to, ports).take(count as usize).take_while(|_| begin.elapsed() < limit);
    let times = addresses.map(|address| timed(|| exchange(&mut connect(address, PATIENCE)?)));
    summary(times.collect::<io::Result<_>>()?)
}

/// The same host, one port after the other, again and again.
fn around(to: SocketAddr, ports: u16) -> impl Iterator<Item = SocketAddr> {
    (0..ports).cycle().map(move |index| SocketAddr::new(to.ip(), to.port() + index))
}

fn connect(to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let connection = TcpStream::connect_timeout(&to, patience)
        .map_err(|why| io::Error::new(why.kind(), format!("connecting to {to}: {why}")))?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

fn exchange(connection: &mut TcpStream) -> io::Result<()> {
    connection.write_all(b"?")?;
    connection.read_exact(&mut [0])
}

fn timed(work: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    let begin = Instant::now();
    work().map(|()| begin.elapsed())
}

fn summary(mut times: Vec<Duration>) -> io::Result<Value> {
    if times.is_empty() {
        return Err(io::Error::other("nothing was exchanged"));
    }
    times.sort_unstable();
    let quantile = |per_cent: f64| {
        let index = ((times.len() - 1) as f64 * per_cent / 100.0).round() as usize;
        times[index].as_secs_f64() * 1e6
    };
    let per_second = times.len() as f64 / times.iter().sum::<Duration>().as_secs_f64();
    let quantiles: Vec<_> = QUANTILES.iter().map(|per_cent| json!([per_cent, quantile(*per_cent)])).collect();
    Ok(json!({
        "count": times.len(), "p50_us": quantile(50.0), "p99_us": quantile(99.0), "p999_us": quantile(99.9),
        "per_second": per_second, "quantiles": quantiles,
    }))
}

/// Says how many there are, and waits: what is measured now is somebody else's memory.
fn held<T>(flows: &[T], count: usize, failure: Option<io::Error>) -> io::Result<Value> {
    let failure = failure.map(|error| error.to_string());
    println!("{}", json!({ "asked": count, "held": count.min(flows.len()), "failure": failure }));
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(json!({ "ended": true }))
}

fn hold(to: SocketAddr, ports: u16, count: u32, busy: bool) -> io::Result<Value> {
    raise_descriptor_limit();
    let begin = Instant::now();
    let (mut connections, mut failure) = (Vec::new(), None);
    for address in around(to, ports).take(count as usize) {
        let opened =
            connect(address, PATIENCE).and_then(|mut connection| exchange(&mut connection).map(|()| connection));
        match opened {
            Ok(connection) if begin.elapsed() < OPENING => connections.push(connection),
            Ok(_) => failure = Some(io::Error::other(format!("still opening after {OPENING:?}"))),
            Err(error) => failure = Some(error),
        }
        if failure.is_some() {
            break;
        }
    }
    if busy { stir(connections, count as usize, failure) } else { held(&connections, count as usize, failure) }
}

/// All connections have something on their way, until standard input ends.
fn stir(mut connections: Vec<TcpStream>, count: usize, failure: Option<io::Error>) -> io::Result<Value> {
    /// Standard input among the events; connections have lower numbers.
    const INPUT: u64 = u64::MAX;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, io::stdin(), epoll::EventData::new_u64(INPUT), epoll::EventFlags::IN)?;
    let portion = [0; PORTION];
    for (number, connection) in (0u64..).zip(&mut connections) {
        connection.set_nonblocking(true)?;
        epoll::add(&poll, &*connection, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
    }
    let failure = failure.map(|error| error.to_string());
    println!("{}", json!({ "asked": count, "held": count.min(connections.len()), "failure": failure }));
    let mut missing = vec![PORTION; connections.len()];
    for connection in &mut connections {
        connection.write_all(&portion)?;
    }
    let begin = Instant::now();
    let (mut exchanged, mut failed) = (0u64, 0u64);
    let mut events = Vec::with_capacity(256);
    let mut bytes = [0; PORTION];
    'stirring: loop {
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for event in &events {
            let number = event.data.u64();
            if number == INPUT {
                break 'stirring;
            }
            let (connection, missing) = (&mut connections[number as usize], &mut missing[number as usize]);
            let again = match connection.read(&mut bytes) {
                Ok(length @ 1..) => {
                    *missing = missing.saturating_sub(length);
                    *missing > 0 || {
                        exchanged += 1;
                        *missing = PORTION;
                        connection.write_all(&portion).is_ok()
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => true,
                _ => false,
            };
            if !again {
                failed += 1;
                epoll::delete(&poll, &*connection)?;
            }
        }
    }
    let rate = exchanged as f64 / begin.elapsed().as_secs_f64();
    Ok(json!({ "exchanged": exchanged, "failed": failed, "per_second": rate }))
}

fn scatter(to: SocketAddr, ports: u16, count: u32) -> io::Result<Value> {
    raise_descriptor_limit();
    let begin = Instant::now();
    let (mut sockets, mut answered, mut failure) = (Vec::new(), Vec::new(), None);
    'opening: while answered.len() < count as usize {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut bytes = [0; 64];
        for address in around(to, ports).take(usize::from(ports)) {
            // Asked again what was lost; each flow one at a time, so that nothing is lost for want of a buffer.
            let answer = (0..3).any(|_| socket.send_to(b"?", address).is_ok() && socket.recv_from(&mut bytes).is_ok());
            if answer {
                answered.push(());
            }
            if !answer || begin.elapsed() > OPENING {
                failure = Some(io::Error::other(format!("no answer from {address} after {:?}", begin.elapsed())));
                break 'opening;
            }
        }
        sockets.push(socket);
    }
    held(&answered, count as usize, failure)
}

fn drain(port: u16, rate: u64, time: Duration) -> io::Result<Value> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    println!("ready");
    let (mut connection, _) = listener.accept()?;
    connection.set_read_timeout(Some(PATIENCE))?;
    // Small reads at a low rate, so that what is asked for is also asked for evenly.
    let portion = if rate == 0 { 1 << 17 } else { (rate / 1000).clamp(1 << 10, 1 << 17) as usize };
    let mut bytes = vec![0; portion];
    let begin = Instant::now();
    let mut total = 0u64;
    while begin.elapsed() < time {
        match connection.read(&mut bytes)? {
            0 => break,
            length => total += length as u64,
        }
        if rate > 0 {
            let due = Duration::from_secs_f64(total as f64 / rate as f64);
            thread::sleep(due.saturating_sub(begin.elapsed()));
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    Ok(json!({ "bytes": total, "seconds": seconds, "bytes_per_second": total as f64 / seconds }))
}

fn pour(to: SocketAddr, time: Duration) -> io::Result<Value> {
    let mut connection = connect(to, PATIENCE)?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let bytes = vec![0; 1 << 17];
    let begin = Instant::now();
    let mut total = 0u64;
    while begin.elapsed() < time {
        match connection.write(&bytes) {
            Ok(length) => total += length as u64,
            // The reader has read for as long as it wanted to.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe
                ) =>
            {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    let _ = connection.shutdown(Shutdown::Both);
    Ok(json!({ "bytes": total, "seconds": begin.elapsed().as_secs_f64() }))
}

fn first_byte(to: SocketAddr) -> io::Result<Value> {
    let begin = Instant::now();
    let mut attempts = 0;
    loop {
        attempts += 1;
        // Shorter than a retransmission of the SYN: an attempt that was too early shall not delay the next.
        let answered = connect(to, Duration::from_millis(20)).and_then(|mut connection| {
            connection.set_read_timeout(Some(Duration::from_millis(50)))?;
            exchange(&mut connection)
        });
        match answered {
            Ok(()) => break,
            Err(error) if begin.elapsed() > 4 * PATIENCE => return Err(error),
            Err(_) => thread::sleep(Duration::from_micros(200)),
        }
    }
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(io::Error::other)?;
    Ok(json!({ "attempts": attempts, "at_us": at.as_micros() as u64 }))
}

fn flood(ifname: &str, mac: &str, sender: Ipv4Addr, count: u32, per_second: u32) -> io::Result<Value> {
    let mac: Vec<u8> =
        mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().map_err(io::Error::other)?;
    let kind = SocketType::from_raw(libc::SOCK_RAW as u32);
    let socket = rustix::net::socket(AddressFamily::PACKET, kind, None)?;
    raw::bind_packet(socket.as_fd(), netdevice::name_to_index(&socket, ifname)?)?;
    let [a, b, ..] = sender.octets();
    let mut frame = Vec::new();
    frame.extend([0xff; 6]);
    frame.extend(&mac);
    // Ethernet, IPv4, addresses of six and four bytes, a request.
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(&mac);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    // Of the same network, and nobody's.
    frame.extend([a, b, 255, 254]);
    let begin = Instant::now();
    let mut refused = 0u32;
    for number in 0..count {
        let due = Duration::from_secs_f64(f64::from(number) / f64::from(per_second));
        let early = due.saturating_sub(begin.elapsed());
        if early > Duration::from_millis(1) {
            thread::sleep(early);
        }
        refused += u32::from(rustix::net::send(&socket, &frame, SendFlags::empty()).is_err());
    }
    Ok(json!({ "sent": count - refused, "refused": refused, "seconds": begin.elapsed().as_secs_f64() }))
}
