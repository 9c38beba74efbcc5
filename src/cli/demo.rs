//! `pontoon demo`: three rootless containers on two switches, a world behind them, real traffic, a table of what was seen.
//!
//! # Theory of operation
//! Everything happens in a user namespace of its own, in five network namespaces, with documentation addresses and no
//! way out of them:
//!
//! ```text
//!   c1 eth0 172.17.0.2 ---.                up0 (TUN)      host       veth
//!                          pontoon 192.0.2.10 --- 192.0.2.1   198.51.100.1 --- 198.51.100.5 world
//!   c2 eth0 172.17.0.3 ---'                                     |
//!                                                               |
//!   c3 eth0 172.18.0.2 --- pontoon (sockets of the host) -------'
//! ```
//!
//! The second switch has no device on the host's side: what c3 says to the world goes by sockets of the host.
//!
//! This process lives in *host*, which forwards between the TUN and the veth as the machine of a user would; c1, c2, c3 and
//! world are processes that hold a namespace each ([`place`]), the switch is `pontoon switch` ([`switch`]), and every
//! piece of traffic is made by a short-lived process inside the namespace ([`traffic`]). No other program is run, and the
//! one file, the socket of the switch, is in a mount namespace of their own: when this process ends, by itself or by a
//! SIGKILL, the kernel ends the others, and the namespaces and what is in them go with them.
//!
//! Each row of the table is a [`Row`]: it passes or says why not, and the demo goes on with the next, until
//! [`TIME`] is over.

mod place;
mod switch;
mod traffic;

use std::fmt::Display;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::mount::MountFlags;

use super::userns;
use crate::control::portspec::PortSpec;
use crate::core::counters::DropReason;
use crate::io::netcfg::{self, Config};
use crate::io::spool::tell;
use crate::io::sys::netns;
use crate::io::sys::tuntap::{Device, Header, Kind};
use crate::wire::addr::{Addr, Cidr};
use place::Place;
use switch::{Attached, Look, Options, Switch, Uplink};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
const UPLINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The kernel's side of the uplink.
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 5);

/// Over what the demo sees a directory of its own, and the socket of the switch in it.
const DIRECTORY: &str = "/tmp";
const CONTROL: &str = "/tmp/pontoon.sock";
const CONTROL_OF_SOCKETS: &str = "/tmp/pontoon-sockets.sock";
/// The gateway of the switch whose uplink is the host's sockets.
const GATEWAY_OF_SOCKETS: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);

const TUN: &str = "up0";
const VETH: &str = "veth0";
const MTU: u32 = 1500;

/// How long each of the streams lasts.
const STREAM: Duration = Duration::from_secs(2);
/// Echo requests of a row.
const PINGS: u16 = 50;
/// Datagrams of a row.
const DATAGRAMS: usize = 200;
/// No row begins later than this. A row takes at most some six seconds, if its peer is silent.
const TIME: Duration = Duration::from_secs(22);
/// Flows that are listed.
const MAX_FLOWS: usize = 40;

/// c2's ports.
const PAGE: Published = Published { host: 8080, container: 80, proto: "tcp" };
const BULK: Published = Published { host: 9000, container: 9, proto: "tcp" };
const ECHO: Published = Published { host: 7000, container: 7, proto: "udp" };
/// c3's, on the host's own addresses.
const PAGE_BY_SOCKET: Published = Published { host: 8082, container: 80, proto: "tcp" };
const BULK_BY_SOCKET: Published = Published { host: 9002, container: 9, proto: "tcp" };
const ECHO_BY_SOCKET: Published = Published { host: 7002, container: 7, proto: "udp" };
/// One that is not published.
const CLOSED: u16 = 8081;

/// Shows it; success only if all of it worked.
pub fn run() -> ExitCode {
    let uid = rustix::process::geteuid().as_raw();
    let set = match Set::build() {
        Ok(set) => set,
        Err(why) => {
            tell(&format!("pontoon demo: {why}"));
            return ExitCode::FAILURE;
        }
    };
    match set.play(uid, &mut io::stdout().lock()) {
        Ok(0) => ExitCode::SUCCESS,
        // A failed row; or nobody reads any more (`| head`), and there is nobody to be told.
        Ok(_) | Err(_) => ExitCode::FAILURE,
    }
}

/// Everything that is needed, running and connected.
struct Set {
    // Dropped first where something fails: it deletes its devices.
    switch: Switch,
    by_sockets: Switch,
    c1: Container,
    c2: Container,
    c3: Container,
    world: Place,
    began: Instant,
    ready_in: Duration,
}

/// `-p HOST:CONTAINER/PROTO`.
#[derive(Clone, Copy)]
struct Published {
    host: u16,
    container: u16,
    proto: &'static str,
}

impl Display for Published {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.container, self.proto)
    }
}

struct Container {
    place: Place,
    seen: Attached,
}

impl Set {
    fn build() -> Result<Self, String> {
        let began = Instant::now();
        enter_namespaces()?;
        let (c1, c2, c3) = (Place::new("c1")?, Place::new("c2")?, Place::new("c3")?);
        let world = Place::new("world")?;
        connect(&world)?;
        let options = Options {
            control: Path::new(CONTROL),
            subnet: prefix(GATEWAY, 16).network(),
            gateway: GATEWAY,
            uplink: Uplink::Tun { name: TUN, address: UPLINK, peer: prefix(PEER, 24) },
        };
        let starts = Instant::now();
        let switch = Switch::start(options)?;
        netcfg::forward_v4(TUN).map_err(|error| error.to_string())?;
        let attach = |switch: &Switch, name, place: Place, published: &[Published]| {
            let published = published.iter().map(|published| published.to_string().parse::<PortSpec>());
            let published = published.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
            let seen = switch.attach(name, place.pid(), &published)?;
            Ok::<_, String>(Container { place, seen })
        };
        let (c1, c2) = (attach(&switch, "c1", c1, &[])?, attach(&switch, "c2", c2, &[PAGE, BULK, ECHO])?);
        let ready_in = starts.elapsed();
        let by_sockets = Switch::start(Options {
            control: Path::new(CONTROL_OF_SOCKETS),
            subnet: prefix(GATEWAY_OF_SOCKETS, 16).network(),
            gateway: GATEWAY_OF_SOCKETS,
            uplink: Uplink::Sockets,
        })?;
        let c3 = attach(&by_sockets, "c3", c3, &[PAGE_BY_SOCKET, BULK_BY_SOCKET, ECHO_BY_SOCKET])?;
        Ok(Self { switch, by_sockets, c1, c2, c3, world, began, ready_in })
    }

    /// Plays every row; how many failed.
    fn play(self, uid: u32, out: &mut impl Write) -> io::Result<usize> {
        let Self { switch, by_sockets, c1, c2, c3, world, began, ready_in } = &self;
        let kernel = rustix::system::uname();
        writeln!(
            out,
            "pontoon {}: a switch, a router and a NAT in one process, as uid {uid} on Linux {}",
            env!("CARGO_PKG_VERSION"),
            kernel.release().to_string_lossy()
        )?;
        writeln!(out)?;
        writeln!(out, "  c1 {} ---.", c1.seen.ip)?;
        writeln!(out, "                      pontoon {UPLINK} --- {PEER} host {HOST} --- {WORLD} world")?;
        writeln!(out, "  c2 {} ---'                                      |", c2.seen.ip)?;
        writeln!(out, "  c3 {} --- pontoon, sockets of the host ---------'", c3.seen.ip)?;
        let published = [PAGE, BULK, ECHO].map(|published| published.to_string());
        writeln!(out, "\n  published of c2: {}; ready in {:.0} ms\n", published.join(", "), millis(*ready_in))?;

        let mut table = Table { out, began: *began, failed: 0 };
        let Attached { ip, mac } = c2.seen;
        table.row("ping c1 -> c2", || ping(&c1.place, ip))?;
        table.row("ARP: c2's MAC address at c1", || {
            let found = c1.place.run(|| traffic::neighbour(ip))?;
            if found != mac.to_string() {
                return Err(format!("{ip} is at {found}, and should be at {mac}"));
            }
            Ok(Row::said(format!("{ip} is at {found}")))
        })?;
        table.row("TCP c1 -> c2", || {
            let before = switch.look()?;
            let (from, to) = (&c1.place, &c2.place);
            let (received, sent) = stream(from, to, BULK.container, SocketAddr::from((ip, BULK.container)))?;
            seen_as(received.from, sent.from)?;
            let frame = mean_frame(&before, &switch.look()?, "c1")?;
            Ok(Row::speed(&received, format!("frames of {frame} bytes on average, MTU {MTU}")))
        })?;
        table.row("TCP c2 -> c1", || {
            let (received, sent) = stream(&c2.place, &c1.place, 9, SocketAddr::from((c1.seen.ip, 9)))?;
            seen_as(received.from, sent.from)?;
            Ok(Row::speed(&received, format!("seen as {}", received.from)))
        })?;
        table.row("UDP c1 -> c2 and back", || {
            let (from, to) = (&c1.place, &c2.place);
            let (row, seen, own) = echo(from, to, ECHO.container, SocketAddr::from((ip, ECHO.container)))?;
            seen_as(seen, own)?;
            Ok(row.and(format!("seen as {seen}")))
        })?;

        table.row("ping c1 -> world", || ping(&c1.place, WORLD))?;
        table.row("TCP c1 -> world", || {
            let (received, sent) = stream(&c1.place, world, 9, SocketAddr::from((WORLD, 9)))?;
            seen_from(received.from, UPLINK)?;
            Ok(Row::speed(&received, format!("masqueraded: {} is seen as {}", sent.from, received.from)))
        })?;
        table.row("UDP c1 -> world and back", || {
            let (row, seen, own) = echo(&c1.place, world, 7, SocketAddr::from((WORLD, 7)))?;
            seen_from(seen, UPLINK)?;
            Ok(row.and(format!("masqueraded: {own} is seen as {seen}")))
        })?;

        let published = |port: Published| SocketAddr::from((UPLINK, port.host));
        table.row(&format!("HTTP world -> {} -> c2", published(PAGE)), || {
            page(world, &c2.place, published(PAGE), None)
        })?;
        table.row(&format!("TCP world -> {} -> c2", published(BULK)), || {
            let (received, sent) = stream(world, &c2.place, BULK.container, published(BULK))?;
            seen_as(received.from, sent.from)?;
            Ok(Row::speed(&received, format!("c2 sees the client itself, {}", received.from)))
        })?;
        table.row(&format!("UDP world -> {} -> c2", published(ECHO)), || {
            let (row, seen, own) = echo(world, &c2.place, ECHO.container, published(ECHO))?;
            seen_as(seen, own)?;
            Ok(row.and(format!("c2 sees the client itself, {seen}")))
        })?;
        table.row(&format!("HTTP c1 -> {} -> c2 (hairpin)", published(PAGE)), || {
            page(&c1.place, &c2.place, published(PAGE), Some(GATEWAY))
        })?;
        table.row(&format!("TCP world -> {UPLINK}:{CLOSED}"), || {
            let took = world.run(|| traffic::be_refused(SocketAddr::from((UPLINK, CLOSED))))?;
            Ok(Row { figure: format!("{:.3} ms", millis(took)), seen: "refused: it is not published".into() })
        })?;

        table.row("TCP c3 -> world, by a host socket", || {
            let (received, sent) = stream(&c3.place, world, 9, SocketAddr::from((WORLD, 9)))?;
            seen_from(received.from, HOST)?;
            Ok(Row::speed(&received, format!("{} is seen as the host, {}", sent.from, received.from)))
        })?;
        table.row("UDP c3 -> world and back, by a host socket", || {
            let (row, seen, own) = echo(&c3.place, world, 7, SocketAddr::from((WORLD, 7)))?;
            seen_from(seen, HOST)?;
            Ok(row.and(format!("{own} is seen as the host, {seen}")))
        })?;
        let published = |port: Published| SocketAddr::from((HOST, port.host));
        table.row(&format!("HTTP world -> {} -> c3", published(PAGE_BY_SOCKET)), || {
            page(world, &c3.place, published(PAGE_BY_SOCKET), None)
        })?;
        table.row(&format!("TCP world -> {} -> c3", published(BULK_BY_SOCKET)), || {
            let (received, sent) = stream(world, &c3.place, BULK_BY_SOCKET.container, published(BULK_BY_SOCKET))?;
            seen_as(received.from, sent.from)?;
            Ok(Row::speed(&received, format!("c3 sees the client itself, {}", received.from)))
        })?;
        table.row(&format!("UDP world -> {} -> c3", published(ECHO_BY_SOCKET)), || {
            let (row, seen, own) = echo(world, &c3.place, ECHO_BY_SOCKET.container, published(ECHO_BY_SOCKET))?;
            seen_as(seen, own)?;
            Ok(row.and(format!("c3 sees the client itself, {seen}")))
        })?;

        let mut look = None;
        table.row("the switch itself", || {
            let now = look.insert(switch.look()?);
            match now.ports.iter().find(|port| port.state != "up") {
                Some(port) => Err(format!("port {} is {}", port.name, port.state)),
                None => Ok(Row {
                    figure: format!("{} flows", now.flows.len()),
                    seen: format!("{} ports, all of them up", now.ports.len()),
                }),
            }
        })?;
        let mut failed = table.failed;
        if let Some(look) = look {
            writeln!(out, "\nFlows, as conntrack -L prints them:")?;
            list(out, &look.flows)?;
            if let Ok(look) = by_sockets.look() {
                writeln!(out, "\nFlows over host sockets:")?;
                list(out, &look.flows)?;
            }
            writeln!(out, "\nDropped frames:")?;
            list(out, &drops(&look))?;
        }
        let began = *began;
        let end = match self.end() {
            Ok(()) => "Its processes have ended, and namespaces and devices with them".to_owned(),
            Err(why) => {
                failed += 1;
                format!("It did not end as it should: {why}")
            }
        };
        let verdict = if failed == 0 { "All of it worked".to_owned() } else { format!("FAILED: {failed}") };
        writeln!(out, "\n{verdict}, in {:.1} s. {end}.", began.elapsed().as_secs_f64())?;
        Ok(failed)
    }

    /// Ends it, in order; what is still there is an error.
    fn end(self) -> Result<(), String> {
        let Self { switch, by_sockets, c1, c2, c3, world, began: _, ready_in: _ } = self;
        switch.end()?;
        by_sockets.end()?;
        if netcfg::link(TUN).is_ok() {
            return Err(format!("the switch has not deleted {TUN}"));
        }
        [c1.place, c2.place, c3.place, world].into_iter().try_for_each(Place::end)
    }
}

/// The table as it grows.
struct Table<'a, W> {
    out: &'a mut W,
    began: Instant,
    failed: usize,
}

/// What a row shows beside its name.
struct Row {
    figure: String,
    seen: String,
}

impl Row {
    fn said(seen: String) -> Self {
        Self { figure: String::new(), seen }
    }

    fn speed(received: &traffic::Received, seen: String) -> Self {
        Self { figure: format!("{:.2} Gbit/s", received.gbit_per_s()), seen }
    }

    fn and(self, more: String) -> Self {
        Self { seen: format!("{}; {more}", self.seen), ..self }
    }
}

impl<W: Write> Table<'_, W> {
    fn row(&mut self, what: &str, body: impl FnOnce() -> Result<Row, String>) -> io::Result<()> {
        let done =
            if self.began.elapsed() < TIME { body() } else { Err(format!("not tried: {} s are over", TIME.as_secs())) };
        match done {
            Ok(Row { figure, seen }) => writeln!(self.out, "  ✓  {what:<46} {figure:>14}   {seen}"),
            Err(why) => {
                self.failed += 1;
                writeln!(self.out, "  ✗  {what:<46} {:>14}   {why}", "FAILED")
            }
        }
    }
}

/// Puts this process, which has one thread, into a user namespace, the network namespace of the host, and a mount
/// namespace with an empty [`DIRECTORY`].
fn enter_namespaces() -> Result<(), String> {
    let user = netns::unshare_user();
    // Root does without a user namespace where there is none to be had.
    netns::unshare_net().map_err(|error| match user {
        Ok(()) => format!("cannot make a network namespace: {error}; see sysctl user.max_net_namespaces"),
        Err(error) => userns::without(&error, "run this as root"),
    })?;
    Device::open(Kind::Tun, "probe", Header::Vnet).map_err(|error| error.to_string())?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    netns::unshare_mounts()
        .and_then(|()| Ok(rustix::mount::mount("pontoon", DIRECTORY, "tmpfs", flags, None)?))
        .map_err(|error| {
            format!(
                "cannot mount a directory of its own over {DIRECTORY}: {error}; a container's profile may forbid it \
                 (docker: --security-opt apparmor=unconfined)"
            )
        })
}

/// Connects the host's namespace, which is this process's, with the world by a veth pair.
fn connect(world: &Place) -> Result<(), String> {
    let text = |error: netcfg::NetcfgError| error.to_string();
    let pid = u32::try_from(world.pid()).map_err(|error| error.to_string())?;
    netcfg::make_veth(VETH, "eth0", pid).map_err(text)?;
    let address = |address| Config { addresses: vec![prefix(address, 24)], ..Config::default() };
    netcfg::apply(VETH, &address(HOST), false).map_err(text)?;
    netcfg::forward_v4(VETH).map_err(text)?;
    let config = address(WORLD).with_gateway(HOST.into());
    world.run(|| netcfg::apply("eth0", &config, false).map(drop).map_err(text))
}

fn prefix(address: Ipv4Addr, bits: u8) -> Cidr {
    Cidr::new(Addr::from(address), bits).expect("an IPv4 prefix is at most 32 bits")
}

fn ping(from: &Place, to: Ipv4Addr) -> Result<Row, String> {
    let rtts = from.run(|| traffic::ping(to, PINGS))?.complete()?;
    let seen = format!("{PINGS} of {PINGS} answered; the first, after ARP, in {:.3} ms", millis(rtts.first()));
    Ok(Row { figure: format!("{:.3} ms", millis(rtts.median())), seen })
}

/// A stream between two places.
fn stream(
    from: &Place,
    to: &Place,
    port: u16,
    address: SocketAddr,
) -> Result<(traffic::Received, traffic::Sent), String> {
    let receiver = to.serve(|parent| traffic::take_stream(parent, port))?;
    let sent = from.run(|| traffic::send_stream(address, STREAM))?;
    let received = receiver.result()?;
    if received.bytes != sent.bytes {
        return Err(format!("{} bytes were sent, and {} came", sent.bytes, received.bytes));
    }
    Ok((received, sent))
}

/// Datagrams to and fro; who the server saw, and who the client was.
fn echo(from: &Place, to: &Place, port: u16, address: SocketAddr) -> Result<(Row, SocketAddr, SocketAddr), String> {
    let server = to.serve(|parent| traffic::echo_datagrams(parent, port, DATAGRAMS))?;
    let (own, rtts) = from.run(|| traffic::ask_datagrams(address, DATAGRAMS))?;
    let rtts = rtts.complete()?;
    let row = Row {
        figure: format!("{:.3} ms", millis(rtts.median())),
        seen: format!("{DATAGRAMS} of {DATAGRAMS} answered"),
    };
    Ok((row, server.result()?, own))
}

/// A page of c2's, fetched through its published port. `hidden`: as whom c2 is to see the client, if not as itself.
fn page(from: &Place, c2: &Place, address: SocketAddr, hidden: Option<Ipv4Addr>) -> Result<Row, String> {
    let server = c2.serve(|parent| traffic::serve_page(parent, PAGE.container))?;
    let page = from.run(|| traffic::fetch_page(address))?;
    let seen = server.result()?;
    if page.status != "HTTP/1.1 200 OK" || page.body != format!("You are {seen}.") {
        return Err(format!("a page of another: {:?} {:?}", page.status, page.body));
    }
    let how = match hidden {
        Some(hidden) => {
            seen_from(seen, hidden)?;
            "the client as the gateway"
        }
        None => {
            seen_as(seen, page.from)?;
            "the client itself"
        }
    };
    Ok(Row { figure: format!("{:.3} ms", millis(page.took)), seen: format!("it sees {how}: {:?}", page.body) })
}

fn seen_as(seen: SocketAddr, own: SocketAddr) -> Result<(), String> {
    if seen == own { Ok(()) } else { Err(format!("{own} was seen as {seen}")) }
}

fn seen_from(seen: SocketAddr, expected: Ipv4Addr) -> Result<(), String> {
    if seen.ip() == expected { Ok(()) } else { Err(format!("seen as {seen}, and should be as {expected}")) }
}

/// Bytes of a frame that the port gave the switch between two looks, on average; an error if they were none that is
/// larger than a packet, for then nobody took the segmentation off the containers.
fn mean_frame(before: &Look, after: &Look, name: &str) -> Result<u64, String> {
    let count =
        |look: &Look| look.ports.iter().find(|port| port.name == name).map(|port| (port.rx.frames, port.rx.bytes));
    let (Some((frames_before, bytes_before)), Some((frames, bytes))) = (count(before), count(after)) else {
        return Err(format!("the switch has no port {name}"));
    };
    let mean = (bytes - bytes_before).checked_div(frames - frames_before).ok_or("no frame came by the switch")?;
    if mean > u64::from(MTU) { Ok(mean) } else { Err(format!("frames of {mean} bytes: no super-frames")) }
}

/// Every reason at every port, with what it means.
fn drops(look: &Look) -> Vec<String> {
    let meaning = |name: &str| DropReason::ALL.iter().find(|why| why.name() == name).map_or("", |why| why.meaning());
    let lines = look.ports.iter().flat_map(|port| {
        port.drops.iter().map(|(why, count)| format!("{:<6} {why:<20} {count:>6}   {}", port.name, meaning(why)))
    });
    lines.collect()
}

fn list(out: &mut impl Write, lines: &[impl Display]) -> io::Result<()> {
    if lines.is_empty() {
        writeln!(out, "  none")?;
    }
    for line in lines.iter().take(MAX_FLOWS) {
        writeln!(out, "  {line}")?;
    }
    match lines.len().saturating_sub(MAX_FLOWS) {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more"),
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_after_the_time_is_a_failure_and_not_tried() {
        let mut out = Vec::new();
        let began = Instant::now().checked_sub(TIME).expect("the machine runs for longer");
        let mut table = Table { out: &mut out, began, failed: 0 };
        table.row("late", || panic!("tried")).expect("memory can be written to");
        assert_eq!(table.failed, 1);
        assert!(String::from_utf8(out).expect("text").contains("not tried"));
    }

    #[test]
    fn frames_no_larger_than_packets_are_no_super_frames() {
        let look = |frames, bytes| Look {
            ports: vec![switch::Port {
                name: "c1".into(),
                state: "up".into(),
                rx: switch::Traffic { frames, bytes },
                drops: Vec::new(),
            }],
            ..Look::default()
        };
        assert_eq!(mean_frame(&look(1, 100), &look(11, 500_100), "c1"), Ok(50_000));
        assert!(mean_frame(&look(1, 100), &look(11, 15_100), "c1").is_err());
        assert!(mean_frame(&look(1, 100), &look(1, 100), "c1").is_err(), "no frames at all");
        assert!(mean_frame(&look(1, 100), &look(2, 100), "c2").is_err(), "no such port");
    }
}
