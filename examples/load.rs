//! The load of `benches/limit.sh`: datagrams that are counted, and the time of small TCP exchanges. Every command is bounded
//! in time and count, and prints one line of JSON.
//!
//! - `serve` answers on a range of TCP ports, one connection at a time on each, by echoing what it reads.
//! - `sink` counts the datagrams of `send`: delivered per second, lost, out of order.
//! - `rr` times request and response of one byte on one connection.
//! - `crr` times connect, request and response, each on a new connection. It goes round the server's ports: after some
//!   14,000 connections a minute to one destination the client's kernel itself is slow to find a free port.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

/// A peer that is silent this long is gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// A stream of datagrams that pauses this long has ended.
const PAUSE: Duration = Duration::from_millis(500);

/// No server outlives its benchmark by much, whoever forgot it.
const SERVE: Duration = Duration::from_secs(600);

#[derive(Parser)]
#[command(about = "Measured load for benches/limit.sh")]
enum Load {
    /// Echo on the TCP ports FIRST, FIRST+1, ...; prints "ready"
    Serve {
        first: u16,
        #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
        ports: u16,
    },
    /// Count the datagrams that `send` sends here; prints "ready"
    Sink { port: u16 },
    /// Send numbered datagrams of SIZE bytes as fast as they go
    Send {
        to: SocketAddr,
        #[arg(value_parser = clap::value_parser!(u16).range(8..=1472))]
        size: u16,
        #[arg(value_parser = clap::value_parser!(u64).range(1..=60))]
        seconds: u64,
    },
    /// Time one-byte requests and responses on one connection
    Rr {
        to: SocketAddr,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        count: u32,
    },
    /// Time connect, request and response, round the ports from TO's on
    Crr {
        to: SocketAddr,
        #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
        ports: u16,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=20_000))]
        count: u32,
    },
}

fn main() -> ExitCode {
    let done = match Load::parse() {
        Load::Serve { first, ports } => serve(first, ports),
        Load::Sink { port } => sink(port),
        Load::Send { to, size, seconds } => send(to, usize::from(size), Duration::from_secs(seconds)),
        Load::Rr { to, count } => request_response(to, count),
        Load::Crr { to, ports, count } => connect_request_response(to, ports, count),
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

fn serve(first: u16, ports: u16) -> io::Result<String> {
    for port in (first..).take(usize::from(ports)) {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        thread::spawn(move || {
            // A connection that fails ends alone: what it cost is seen by the client that measures.
            listener.incoming().flatten().for_each(|connection| drop(echo(connection)));
        });
    }
    println!("ready");
    thread::sleep(SERVE);
    Ok("the time of this server is over".to_owned())
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

fn sink(port: u16) -> io::Result<String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    // What is lost shall be lost on the way. Beyond net.core.rmem_max this needs CAP_NET_ADMIN.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    println!("ready");
    let mut bytes = [0; 1472];
    let mut next = || -> io::Result<Option<u64>> {
        match socket.recv(&mut bytes) {
            Ok(8..) => Ok(bytes.first_chunk().map(|number| u64::from_be_bytes(*number))),
            Ok(length) => Err(io::Error::other(format!("a datagram of {length} bytes is not of `send`"))),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let Some(mut highest) = next()? else {
        return Err(io::Error::other(format!("no datagram arrived within {PATIENCE:?}")));
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
    let seconds = (end - begin).as_secs_f64();
    let rate = received as f64 / seconds.max(f64::EPSILON);
    let lost = (highest + 1).saturating_sub(received);
    Ok(format!(
        r#"{{"received":{received},"lost":{lost},"late":{late},"seconds":{seconds:.3},"per_second":{rate:.0}}}"#
    ))
}

fn send(to: SocketAddr, size: usize, time: Duration) -> io::Result<String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    let mut bytes = vec![0; size];
    let (mut sent, mut refused) = (0u64, 0u64);
    let begin = Instant::now();
    while begin.elapsed() < time {
        for _ in 0..64 {
            bytes[..8].copy_from_slice(&(sent + refused).to_be_bytes());
            match socket.send(&bytes) {
                Ok(_) => sent += 1,
                // A full queue on our own side. Any other error, such as a refusal by ICMP, ends the run.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => refused += 1,
                Err(error) => return Err(error),
            }
        }
    }
    let rate = sent as f64 / begin.elapsed().as_secs_f64();
    Ok(format!(r#"{{"sent":{sent},"refused":{refused},"per_second":{rate:.0}}}"#))
}

fn request_response(to: SocketAddr, count: u32) -> io::Result<String> {
    let mut connection = connect(to)?;
    exchange(&mut connection)?;
    summary((0..count).map(|_| timed(|| exchange(&mut connection))).collect::<io::Result<_>>()?)
}

fn connect_request_response(to: SocketAddr, ports: u16, count: u32) -> io::Result<String> {
    let addresses = (to.port()..).take(usize::from(ports)).map(|port| SocketAddr::new(to.ip(), port));
    let times = addresses.cycle().zip(0..count).map(|(address, _)| timed(|| exchange(&mut connect(address)?)));
    summary(times.collect::<io::Result<_>>()?)
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let connection = TcpStream::connect_timeout(&to, PATIENCE)
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

fn summary(mut times: Vec<Duration>) -> io::Result<String> {
    times.sort_unstable();
    let quantile = |per_cent: usize| times[(times.len() - 1) * per_cent / 100].as_secs_f64() * 1e6;
    let per_second = times.len() as f64 / times.iter().sum::<Duration>().as_secs_f64();
    let (p50, p99) = (quantile(50), quantile(99));
    Ok(format!(r#"{{"count":{},"p50_us":{p50:.1},"p99_us":{p99:.1},"per_second":{per_second:.0}}}"#, times.len()))
}
