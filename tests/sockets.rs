//! The host's sockets as the core uses them, against the kernel: real sockets in a network namespace of this test's own.
//!
//! Own `main`: an ordinary user is put into a user namespace first, which needs a process with one thread. The namespace
//! has `lo` and nothing else that leads anywhere; a TUN without a reader stands for the rest of the world.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use mio::{Events, Poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use pontoon::core::socket::{Accepted, Close, Endpoint, Failure, Ready, SocketId, Sockets};
use pontoon::io::netcfg::{self, Config, Route};
use pontoon::io::sockets::{BACKLOG_RESERVE, HostSockets, Options};
use pontoon::io::sys::netns;
use pontoon::io::sys::process;
use pontoon::io::sys::tuntap::{Device, Header, Kind};
use pontoon::wire::addr::Addr;

/// How long anything is waited for; the kernel does all of it at once.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() {
    let mut arguments = Arguments::from_args();
    // With one, libtest-mimic runs them on this thread, the only one.
    arguments.test_threads = Some(1);
    let _world = match prepare() {
        Ok(world) => world,
        Err(missing) => {
            println!("sockets: NOT RUN: {missing}");
            std::process::exit(i32::from(std::env::var_os("CI").is_some()));
        }
    };
    libtest_mimic::run(&arguments, trials()).exit();
}

/// A namespace of our own with `lo` and a TUN of 192.0.2.1/24 that nobody reads; what is missing, in words.
fn prepare() -> Result<Device, String> {
    if netns::unshare_net().is_err() {
        netns::unshare_user().map_err(|e| {
            format!("no user namespace can be made here ({e}): run as root, or allow them (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)")
        })?;
        netns::unshare_net().map_err(|e| format!("no network namespace can be made here: {e}"))?;
    }
    let world = Device::open(Kind::Tun, "world0", Header::Plain).map_err(|e| e.to_string())?;
    let config = Config {
        mtu: Some(1400),
        addresses: ["192.0.2.1/24", "2001:db8::1/64"].map(|a| a.parse().expect("a cidr")).into(),
        routes: vec![Route { to: "198.51.100.0/24".parse().expect("a cidr"), via: None }],
        ..Config::default()
    };
    netcfg::apply("world0", &config, true).map_err(|e| e.to_string())?;
    Ok(world)
}

fn trials() -> Vec<Trial> {
    macro_rules! trials {
        ($($name:ident),* $(,)?) => { vec![$(trial(stringify!($name), $name)),*] };
    }
    trials![
        data_crosses_a_connection_both_ways,
        a_refused_connection_is_told_as_refused,
        an_address_without_a_route_is_unreachable,
        a_reset_after_data_is_never_an_end,
        a_reset_that_a_send_was_told_of_is_no_end_for_recv,
        a_finished_connection_is_closed_in_order,
        an_orderly_close_with_unread_data_loses_nothing,
        an_unfinished_connection_is_reset_when_its_process_is_killed,
        a_finished_connection_ends_in_order_when_its_process_is_killed,
        an_urgent_byte_stays_in_line,
        a_connection_has_its_options_from_birth,
        a_listener_accepts_and_says_who_asked_for_what,
        a_listener_that_admits_nobody_keeps_its_port,
        a_taken_port_is_in_use,
        an_id_of_another_use_reaches_nobody,
        without_descriptors_a_listener_tries_again_when_one_is_free,
        listeners_keep_descriptors_from_other_connections,
        local_ports_come_from_changing_windows,
    ]
}

fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}

// ---- TCP

fn data_crosses_a_connection_both_ways() {
    for at in ["127.0.0.1", "::1"] {
        let mut host = Host::new();
        let (id, mut peer) = host.connected(at);
        peer.write_all(b"hello").expect("written");
        assert_eq!(host.read(id, 5), Ok(b"hello".to_vec()));
        assert_eq!(host.sockets.recv(id, &mut [0; 9]), Err(Failure::WouldBlock));
        assert_eq!(host.sockets.send(id, b"world"), Ok(5));
        assert_eq!(exactly(&mut peer, 5), b"world");
        peer.shutdown(Shutdown::Write).expect("shut down");
        assert_eq!(host.read(id, 1), Ok(vec![]), "the peer's end");
    }
}

fn a_refused_connection_is_told_as_refused() {
    let mut host = Host::new();
    let id = host.id();
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let refused = host.sockets.connect(id, endpoint(closed)).and_then(|()| {
        host.wait(id, |ready| ready.writable);
        host.sockets.outcome(id)
    });
    assert_eq!(refused, Err(Failure::Refused));
}

fn an_address_without_a_route_is_unreachable() {
    let mut host = Host::new();
    let id = host.id();
    let nowhere = Endpoint { addr: addr("203.0.113.1"), port: 80 };
    assert_eq!(host.sockets.connect(id, nowhere), Err(Failure::NetUnreachable));
    assert_eq!(host.sockets.outcome(id), Err(Failure::Other(libc::EBADF)), "no socket was left");
}

fn a_reset_after_data_is_never_an_end() {
    let mut host = Host::new();
    let (id, mut peer) = host.connected("127.0.0.1");
    peer.write_all(b"half").expect("written");
    reset(peer);
    host.wait(id, |ready| ready.error);
    assert_eq!(host.sockets.outcome(id), Err(Failure::Reset));
    let mut all = Vec::new();
    let end = host.read_to_end(id, &mut all);
    assert_eq!((all.as_slice(), end), (&b"half"[..], Err(Failure::Reset)));
}

fn a_reset_that_a_send_was_told_of_is_no_end_for_recv() {
    let mut host = Host::new();
    let (id, peer) = host.connected("127.0.0.1");
    reset(peer);
    host.wait(id, |ready| ready.error);
    assert_eq!(host.sockets.send(id, b"x"), Err(Failure::Reset));
    assert_eq!(host.sockets.recv(id, &mut [0; 9]), Err(Failure::Reset));
    assert_eq!(host.sockets.recv(id, &mut [0; 9]), Err(Failure::Reset));
}

fn a_finished_connection_is_closed_in_order() {
    let mut host = Host::new();
    let (id, mut peer) = host.connected("127.0.0.1");
    host.sockets.send(id, b"all of it").expect("sent");
    host.sockets.finish(id).expect("finished");
    host.sockets.close(id, Close::Orderly);
    assert_eq!(to_end(&mut peer).as_deref(), Ok(&b"all of it"[..]));

    // Who resets after the end was said cannot take that back, but sends an RST.
    let (id, mut peer) = host.connected("127.0.0.1");
    host.sockets.finish(id).expect("finished");
    host.sockets.close(id, Close::Reset);
    assert_eq!(to_end(&mut peer).as_deref(), Ok(&b""[..]));
    let error = peer.write(b"x").expect_err("the other end is gone");
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

fn an_orderly_close_with_unread_data_loses_nothing() {
    let mut host = Host::new();
    let (id, mut peer) = host.connected("127.0.0.1");
    peer.write_all(b"never read").expect("written");
    host.wait(id, |ready| ready.readable);
    host.sockets.send(id, b"all of it").expect("sent");
    host.sockets.close(id, Close::Orderly);
    assert_eq!(to_end(&mut peer).as_deref(), Ok(&b"all of it"[..]));
}

fn an_unfinished_connection_is_reset_when_its_process_is_killed() {
    assert_eq!(end_after_kill(false), Err(std::io::ErrorKind::ConnectionReset));
}

fn a_finished_connection_ends_in_order_when_its_process_is_killed() {
    assert_eq!(end_after_kill(true).as_deref(), Ok(&b"data"[..]));
}

/// What a peer reads from a process that was killed after it had sent "data".
fn end_after_kill(finished: bool) -> Result<Vec<u8>, std::io::ErrorKind> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let to = endpoint(listener.local_addr().expect("its address"));
    let mut child = process::fork(&[], || {
        let mut host = Host::new();
        let id = host.id();
        host.sockets.connect(id, to).expect("connecting");
        host.wait(id, |ready| ready.writable);
        host.sockets.send(id, b"data").expect("sent");
        if finished {
            host.sockets.finish(id).expect("finished");
        }
        std::thread::sleep(PATIENCE);
        1
    })
    .expect("a child");
    let (mut peer, _) = listener.accept().expect("accepted");
    peer.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut first = [0; 4];
    peer.peek(&mut first).expect("data");
    if finished {
        // The end of the data arrives only after `finish`.
        let mut all = Vec::new();
        peer.read_to_end(&mut all).expect("an end");
        child.kill().expect("killed");
        child.wait(PATIENCE).expect("waited").expect("ended");
        peer.write_all(b"x").expect("no reset yet");
        return Ok(all);
    }
    child.kill().expect("killed");
    child.wait(PATIENCE).expect("waited").expect("ended");
    to_end(&mut peer)
}

fn an_urgent_byte_stays_in_line() {
    let mut host = Host::new();
    let (id, peer) = host.connected("127.0.0.1");
    rustix::net::sockopt::set_socket_oobinline(&peer, true).expect("set");
    rustix::net::send(&peer, b"a", rustix::net::SendFlags::empty()).expect("sent");
    rustix::net::send(&peer, b"!", rustix::net::SendFlags::OOB).expect("sent");
    rustix::net::send(&peer, b"b", rustix::net::SendFlags::empty()).expect("sent");
    assert_eq!(host.read(id, 3), Ok(b"a!b".to_vec()));
    host.sockets.send(id, b"c").expect("sent");
    host.sockets.send_urgent(id, b'?').expect("sent");
    let mut peer = peer;
    assert_eq!(exactly(&mut peer, 2), b"c?");
}

fn a_connection_has_its_options_from_birth() {
    use rustix::net::sockopt;
    let mut host = Host::new();
    let before = descriptors();
    let (_, _peer) = host.connected("127.0.0.1");
    // What is new and no listener: the connection, and the peer's end of it, which has none of this.
    let set_up = descriptors().into_iter().filter(|fd| !before.contains(fd)).filter(|&fd| {
        let Some(fd) = duplicate(fd) else { return false };
        sockopt::tcp_nodelay(&fd) == Ok(true)
            && sockopt::socket_oobinline(&fd) == Ok(true)
            && sockopt::socket_linger(&fd) == Ok(Some(Duration::ZERO))
            && rustix::fs::fcntl_getfl(&fd).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::NONBLOCK))
    });
    assert_eq!(set_up.count(), 1);
}

fn a_listener_accepts_and_says_who_asked_for_what() {
    for at in ["127.0.0.1", "::1"] {
        let mut host = Host::new();
        let (listener, port) = host.listening(at);
        let mut client = TcpStream::connect((at, port)).expect("connected");
        let (id, accepted) = host.accept(listener);
        let local = Endpoint { addr: addr(at), port };
        assert_eq!(accepted, Accepted { peer: endpoint(client.local_addr().expect("an address")), local });
        let next = host.id();
        assert_eq!(host.sockets.accept(listener, next), Err(Failure::WouldBlock));
        client.write_all(b"hello").expect("written");
        assert_eq!(host.read(id, 5), Ok(b"hello".to_vec()));
        host.sockets.close(id, Close::Reset);
        assert_eq!(to_end(&mut client), Err(std::io::ErrorKind::ConnectionReset));
    }
}

fn a_listener_that_admits_nobody_keeps_its_port() {
    let mut host = Host::new();
    let (listener, port) = host.listening("127.0.0.1");
    host.sockets.admit(listener, false).expect("refuses");
    host.sockets.admit(listener, false).expect("refuses still");
    let error = TcpStream::connect(("127.0.0.1", port)).expect_err("refused");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let taken = TcpListener::bind(("127.0.0.1", port)).expect_err("bound");
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    let id = host.id();
    assert_eq!(host.sockets.accept(listener, id), Err(Failure::WouldBlock));

    host.sockets.admit(listener, true).expect("admits");
    let client = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    let (_, accepted) = host.accept(listener);
    assert_eq!(accepted.peer, endpoint(client.local_addr().expect("an address")));
}

fn a_taken_port_is_in_use() {
    let mut host = Host::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a listener").local_addr().expect("its address");
    let holder = TcpListener::bind(taken).expect("a listener");
    let id = host.id();
    assert_eq!(host.sockets.listen(id, endpoint(taken)), Err(Failure::InUse));
    drop(holder);
    host.sockets.listen(id, endpoint(taken)).expect("free again");
    let not_ours = Endpoint { addr: addr("198.51.100.7"), port: 0 };
    let id = host.id();
    assert_eq!(host.sockets.listen(id, not_ours), Err(Failure::NoAddress));
}

fn an_id_of_another_use_reaches_nobody() {
    let mut host = Host::new();
    let (id, _peer) = host.connected("127.0.0.1");
    let later = SocketId(id.0 + (1 << 20));
    assert_eq!(later.slot(), id.slot());
    assert_eq!(host.sockets.send(later, b"x"), Err(Failure::Other(libc::EBADF)));
    host.sockets.close(later, Close::Reset);
    assert_eq!(host.sockets.send(id, b"x"), Ok(1));
    let taken = host.sockets.connect(later, Endpoint { addr: addr("127.0.0.1"), port: 1 });
    assert_eq!(taken, Err(Failure::Other(libc::EEXIST)));
}

fn without_descriptors_a_listener_tries_again_when_one_is_free() {
    let mut host = Host::new();
    let (listener, port) = host.listening("127.0.0.1");
    let (other, _peer) = host.connected("127.0.0.1");
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    host.wait(listener, |ready| ready.readable);
    let limit = NoDescriptors::new();
    let id = host.id();
    assert_eq!(host.sockets.accept(listener, id), Err(Failure::NoFiles));
    let refused = host.id();
    assert_eq!(
        host.sockets.connect(refused, Endpoint { addr: addr("127.0.0.1"), port }),
        Err(Failure::NoFiles),
        "told apart from a lack of ports"
    );
    assert!(host.sockets.next_ready().is_none(), "it does not spin");
    assert!(host.sockets.next_timeout().is_some(), "it tries by itself, in case that another process has made room");
    host.sockets.close(other, Close::Reset);
    drop(limit);
    host.wait(listener, |ready| ready.readable);
    host.sockets.accept(listener, id).expect("accepted");
}

fn listeners_keep_descriptors_from_other_connections() {
    let mut host = Host::new();
    let before = host.sockets.room();
    let (listener, port) = host.listening("127.0.0.1");
    assert_eq!(host.sockets.room(), before - 1 - BACKLOG_RESERVE);
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    let (id, _) = host.accept(listener);
    assert_eq!(host.sockets.room(), before - 1 - BACKLOG_RESERVE, "out of the reserve");
    host.sockets.close(id, Close::Reset);
    host.sockets.close(listener, Close::Reset);
    assert_eq!(host.sockets.room(), before);
}

fn local_ports_come_from_changing_windows() {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("a range");
    let mut range = range.split_whitespace().map(|number| number.parse::<u16>().expect("a port"));
    let (first, last) = (range.next().expect("the first"), range.next().expect("the last"));
    let mut host = Host::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let to = endpoint(listener.local_addr().expect("its address"));
    let mut windows = std::collections::BTreeSet::new();
    for _ in 0..32 {
        let id = host.id();
        host.sockets.connect(id, to).expect("connecting");
        let (peer, from) = listener.accept().expect("accepted");
        assert!((first..=last).contains(&from.port()));
        windows.insert((from.port() - first) / 64);
        host.sockets.close(id, Close::Reset);
        drop(peer);
    }
    // Without windows of its own a kernel takes the ports of one destination in a row, two apart.
    assert!(windows.len() > 16, "32 connections from {} windows", windows.len());
}

// ---- the bed

/// Sockets in an event loop of their own.
struct Host {
    poll: Poll,
    sockets: HostSockets,
    next: u32,
    /// What events have said and nobody has waited for.
    ready: Vec<(SocketId, Ready)>,
}

impl Host {
    fn new() -> Host {
        Host::with(Options::default())
    }

    fn with(options: Options) -> Host {
        let poll = Poll::new().expect("an epoll instance");
        let sockets = HostSockets::new(poll.registry(), options).expect("sockets");
        Host { poll, sockets, next: 0, ready: Vec::new() }
    }

    fn id(&mut self) -> SocketId {
        self.next += 1;
        SocketId(self.next | 0x0050_0000)
    }

    /// One look at the events.
    fn turn(&mut self, timeout: Duration) {
        let mut events = Events::with_capacity(64);
        let timeout = if self.sockets.waiting() > 0 { Duration::ZERO } else { timeout };
        self.poll.poll(&mut events, Some(timeout)).expect("polled");
        for event in events.iter() {
            assert!(self.sockets.event(event), "an event of nobody");
        }
        while let Some(ready) = self.sockets.next_ready() {
            self.ready.push(ready);
        }
    }

    /// Waits until a socket is told to be so.
    fn wait(&mut self, id: SocketId, so: impl Fn(Ready) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let told = self.ready.iter().any(|&(of, ready)| of == id && so(ready));
            if told {
                self.ready.retain(|&(of, _)| of != id);
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing was told of {id:?}; {:?}", self.ready);
            self.turn(left);
        }
    }

    /// A connection to a listener of the test.
    fn connected(&mut self, at: &str) -> (SocketId, TcpStream) {
        let listener = TcpListener::bind((at, 0)).expect("a listener");
        let id = self.id();
        let to = endpoint(listener.local_addr().expect("its address"));
        self.sockets.connect(id, to).expect("connecting");
        self.wait(id, |ready| ready.writable);
        assert_eq!(self.sockets.outcome(id), Ok(()));
        let (peer, _) = listener.accept().expect("accepted");
        peer.set_read_timeout(Some(PATIENCE)).expect("set");
        (id, peer)
    }

    /// A listener on a port that was free.
    fn listening(&mut self, at: &str) -> (SocketId, u16) {
        let port = TcpListener::bind((at, 0)).expect("a port").local_addr().expect("its address").port();
        let id = self.id();
        self.sockets.listen(id, Endpoint { addr: addr(at), port }).expect("listening");
        (id, port)
    }

    fn accept(&mut self, listener: SocketId) -> (SocketId, Accepted) {
        let id = self.id();
        loop {
            match self.sockets.accept(listener, id) {
                Err(Failure::WouldBlock) => self.wait(listener, |ready| ready.readable),
                accepted => return (id, accepted.expect("accepted")),
            }
        }
    }

    /// Reads so many bytes, or up to the end.
    fn read(&mut self, id: SocketId, len: usize) -> Result<Vec<u8>, Failure> {
        let mut all = vec![0; len];
        let mut have = 0;
        while have < len {
            match self.sockets.recv(id, &mut all[have..]) {
                Ok(0) => break,
                Ok(len) => have += len,
                Err(Failure::WouldBlock) => self.wait(id, |ready| ready.readable),
                Err(error) => return Err(error),
            }
        }
        all.truncate(have);
        Ok(all)
    }

    fn read_to_end(&mut self, id: SocketId, all: &mut Vec<u8>) -> Result<(), Failure> {
        loop {
            let some = self.read(id, 1)?;
            if some.is_empty() {
                return Ok(());
            }
            all.extend(some);
        }
    }
}

/// While it lives this process can open no descriptor but one that was closed meanwhile.
struct NoDescriptors {
    before: Rlimit,
    _fill: Vec<OwnedFd>,
}

impl NoDescriptors {
    fn new() -> NoDescriptors {
        let before = getrlimit(Resource::Nofile);
        // Every number up to the highest open one is taken, then that is the limit.
        let highest = *descriptors().iter().max().expect("some are open");
        let mut fill = Vec::new();
        loop {
            let flags = rustix::fs::OFlags::CLOEXEC;
            let fd = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()).expect("below the limit");
            if std::os::fd::AsRawFd::as_raw_fd(&fd) > highest {
                break;
            }
            fill.push(fd);
        }
        let limit = Rlimit { current: Some(highest as u64 + 1), maximum: before.maximum };
        setrlimit(Resource::Nofile, limit).expect("lowered");
        NoDescriptors { before, _fill: fill }
    }
}

impl Drop for NoDescriptors {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.before).expect("raised");
    }
}

/// The numbers of open descriptors, one of them the look itself.
fn descriptors() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("/proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn duplicate(fd: i32) -> Option<OwnedFd> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let ourselves = pidfd_open(getpid(), PidfdFlags::empty()).expect("a pidfd");
    pidfd_getfd(ourselves, fd, PidfdGetfdFlags::empty()).ok()
}

fn addr(text: &str) -> Addr {
    text.parse().expect("an address")
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { addr: address.ip().into(), port: address.port() }
}

fn exactly(peer: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    peer.read_exact(&mut bytes).expect("read");
    bytes
}

fn to_end(peer: &mut TcpStream) -> Result<Vec<u8>, std::io::ErrorKind> {
    let mut all = Vec::new();
    peer.set_read_timeout(Some(PATIENCE)).expect("set");
    peer.read_to_end(&mut all).map_err(|error| error.kind())?;
    Ok(all)
}

/// Closes with an RST.
fn reset(peer: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).expect("set");
}
