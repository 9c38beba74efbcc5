//! The host's sockets as the core uses them, against the kernel: real sockets in a network namespace of this test's own.
//!
//! Own `main`: an ordinary user is put into a user namespace first, which needs a process with one thread. The namespace
//! has `lo` and nothing else that leads anywhere; a TUN without a reader stands for the rest of the world.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use mio::{Events, Poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use pontoon::core::command::{Query, SocketUplinkConfig};
use pontoon::core::datapath;
use pontoon::core::socket::{
    Accepted, Close, DatagramError, Datagrams, Endpoint, Failure, Mark, Ready, Received, RouteKind, SendHow, SocketId,
    Sockets,
};
use pontoon::io::netcfg::{self, Config, Route};
use pontoon::io::reactor::{self, Start, StartUplink};
use pontoon::io::sockets::{BACKLOG_RESERVE, HostSockets, Options, OptionsError, RESERVE_MAX};
use pontoon::io::switch::{Notifier, Switch};
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
        addresses: ["192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64"].map(|a| a.parse().expect("a cidr")).into(),
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
        the_mark_of_an_urgent_byte_is_found_before_it_is_read,
        an_urgent_byte_that_comes_while_the_last_data_is_read_has_its_mark,
        what_is_left_at_the_end_is_read_without_waiting,
        a_connection_has_its_options_from_birth,
        segments_are_as_long_as_the_containers_link_takes,
        a_listener_accepts_and_says_who_asked_for_what,
        a_listener_that_admits_nobody_keeps_its_port,
        a_listener_admits_again_whatever_became_of_its_clients,
        a_port_is_free_again_whatever_became_of_its_clients,
        a_taken_port_is_in_use,
        an_id_of_another_use_reaches_nobody,
        without_descriptors_a_client_waits_until_one_is_free,
        listeners_keep_descriptors_from_other_connections,
        many_listeners_keep_no_more_descriptors_than_they_can_use,
        local_ports_come_from_changing_windows,
        a_full_window_of_ports_gives_way_to_the_next,
        connections_leave_from_the_address_that_was_chosen,
        connections_leave_by_the_interface_that_was_chosen,
        options_that_the_host_does_not_have_are_named,
        a_datagram_comes_with_what_its_header_said,
        a_datagram_leaves_with_what_its_header_is_to_say,
        a_reply_leaves_from_the_address_that_was_asked,
        a_reply_to_or_from_an_address_of_a_link_leaves_by_that_link,
        an_empty_datagram_is_no_end_and_a_long_one_is_told_to_be_cut,
        an_error_of_one_peer_does_not_fail_a_send_to_another,
        an_error_tells_which_of_the_hosts_addresses_the_datagram_left_from,
        an_error_that_nobody_met_is_told_by_an_event,
        segments_leave_and_arrive_together,
        segments_too_long_for_the_link_leave_one_by_one,
        a_datagram_that_may_not_be_fragmented_is_too_long_and_the_mtu_is_told,
        a_socket_without_room_is_told_when_there_is_some,
        datagram_sockets_leave_the_host_most_of_its_ports,
        a_ping_socket_is_prohibited_or_has_an_identifier,
        routes_tell_what_an_address_is,
        a_changed_route_is_noticed,
        an_event_loop_over_sockets_rests_until_it_is_asked,
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
    let refused = host.sockets.connect(id, endpoint(closed), MARK, MSS).and_then(|()| {
        host.wait(id, |ready| ready.writable);
        host.sockets.outcome(id)
    });
    assert_eq!(refused, Err(Failure::Refused));
}

fn an_address_without_a_route_is_unreachable() {
    let mut host = Host::new();
    let id = host.id();
    let nowhere = Endpoint { addr: addr("203.0.113.1"), port: 80 };
    assert_eq!(host.sockets.connect(id, nowhere, MARK, MSS), Err(Failure::NetUnreachable));
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
    let (said, say) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let mut child = process::fork(&[say.as_fd()], || {
        let mut host = Host::new();
        let id = host.id();
        host.sockets.connect(id, to, MARK, MSS).expect("connecting");
        host.wait(id, |ready| ready.writable);
        host.sockets.send(id, b"data").expect("sent");
        if finished {
            host.sockets.finish(id).expect("finished");
        }
        rustix::io::write(&say, b"sent").expect("told");
        std::thread::sleep(PATIENCE);
        1
    })
    .expect("a child");
    assert!(process::wait_readable(&said, PATIENCE).expect("polled"), "the child says nothing");
    let (mut peer, _) = called(&listener);
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

fn the_mark_of_an_urgent_byte_is_found_before_it_is_read() {
    let mut host = Host::new();
    let (id, peer) = host.connected("127.0.0.1");
    let mut buf = [0; 99];
    for round in 0..2 {
        assert!(!host.sockets.at_mark(id), "round {round}");
        rustix::net::send(&peer, b"ab", rustix::net::SendFlags::empty()).expect("sent");
        rustix::net::send(&peer, b"!", rustix::net::SendFlags::OOB).expect("sent");
        rustix::net::send(&peer, b"cd", rustix::net::SendFlags::empty()).expect("sent");
        host.wait(id, |ready| ready.readable);
        assert!(!host.sockets.at_mark(id));
        assert_eq!(host.sockets.recv(id, &mut buf), Ok(2), "up to the mark");
        assert!(host.sockets.at_mark(id));
        assert_eq!(host.sockets.recv(id, &mut buf[..1]), Ok(1));
        assert_eq!(buf[0], b'!');
        assert!(!host.sockets.at_mark(id));
        assert_eq!(host.read(id, 2), Ok(b"cd".to_vec()));
    }
}

fn an_urgent_byte_that_comes_while_the_last_data_is_read_has_its_mark() {
    let mut host = Host::new();
    let (id, peer) = host.connected("127.0.0.1");
    let mut buf = [0; 99];
    rustix::net::send(&peer, b"ab", rustix::net::SendFlags::empty()).expect("sent");
    host.wait(id, |ready| ready.readable);
    assert!(!host.sockets.at_mark(id));
    assert_eq!(host.sockets.recv(id, &mut buf), Ok(2));
    assert!(!host.sockets.at_mark(id));
    // A reader goes on until nothing is left; so the byte comes after the question whether it is there.
    rustix::net::send(&peer, b"!", rustix::net::SendFlags::OOB).expect("sent");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(host.sockets.recv(id, &mut buf), Err(Failure::WouldBlock), "nothing was told of it");
    host.wait(id, |ready| ready.readable);
    assert!(host.sockets.at_mark(id));
    assert_eq!(host.sockets.recv(id, &mut buf[..1]), Ok(1));
    assert_eq!(buf[0], b'!');
    assert!(!host.sockets.at_mark(id));
    assert_eq!(host.sockets.recv(id, &mut buf), Err(Failure::WouldBlock));
}

/// Of the end no second event tells when it came with the data.
fn what_is_left_at_the_end_is_read_without_waiting() {
    let mut host = Host::new();
    let (id, mut peer) = host.connected("127.0.0.1");
    let mut buf = [0; 99];
    peer.write_all(b"last").expect("written");
    drop(peer);
    std::thread::sleep(Duration::from_millis(20));
    host.wait(id, |ready| ready.readable);
    assert_eq!(host.sockets.recv(id, &mut buf), Ok(4));
    assert_eq!(host.sockets.recv(id, &mut buf), Ok(0));

    let (id, mut peer) = host.connected("127.0.0.1");
    peer.write_all(b"last").expect("written");
    rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).expect("set");
    drop(peer);
    std::thread::sleep(Duration::from_millis(20));
    host.wait(id, |ready| ready.readable);
    assert_eq!(host.sockets.recv(id, &mut buf), Ok(4));
    assert_eq!(host.sockets.recv(id, &mut buf), Err(Failure::Reset));
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

/// Of both ends, whoever began: what a segment carries beside the timestamps.
fn segments_are_as_long_as_the_containers_link_takes() {
    for (mss, carried) in [(MSS, Some(1448)), (524, Some(512)), (u16::MAX - 40, None)] {
        let mut host = Host::new();
        let far = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let id = host.id();
        host.sockets.connect(id, endpoint(far.local_addr().expect("an address")), MARK, mss).expect("connecting");
        let (accepted, _) = called(&far);
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address").port();
        let listener = host.id();
        host.sockets.listen(listener, Endpoint { addr: addr("127.0.0.1"), port }, mss).expect("listening");
        let client = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        for peer in [accepted, client] {
            let told = segments_of(&peer);
            // Without a limit it is loopback's, or half of the largest window that was seen.
            assert!(carried.map_or(told > 32_000, |carried| told == carried), "{mss}: {told}");
        }
    }
}

/// How long the kernel makes them: TCP_MAXSEG of a connection (tcp(7)).
#[expect(unsafe_code, reason = "an option that no safe crate reads")]
fn segments_of(stream: &TcpStream) -> u32 {
    let mut told: libc::c_int = 0;
    let mut length = size_of_val(&told) as libc::socklen_t;
    let (level, name) = (libc::IPPROTO_TCP, libc::TCP_MAXSEG);
    // SAFETY: `told` is a live int, `length` its size and live too.
    let done = unsafe { libc::getsockopt(stream.as_raw_fd(), level, name, (&raw mut told).cast(), &raw mut length) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    u32::try_from(told).expect("a length")
}

// S27
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

/// A client of a listener that stays, and one whose connection we ended first, which leaves TIME_WAIT on our port.
fn leave_clients(host: &mut Host, listener: SocketId, at: &str, port: u16) -> TcpStream {
    let stays = TcpStream::connect((at, port)).expect("connected");
    host.accept(listener);
    let mut gone = TcpStream::connect((at, port)).expect("connected");
    let (id, _) = host.accept(listener);
    host.sockets.finish(id).expect("finished");
    assert_eq!(to_end(&mut gone), Ok(Vec::new()));
    drop(gone);
    assert_eq!(host.read_to_end(id, &mut Vec::new()), Ok(()));
    host.sockets.close(id, Close::Orderly);
    stays
}

fn a_listener_admits_again_whatever_became_of_its_clients() {
    for at in ["127.0.0.1", "::1"] {
        let mut host = Host::new();
        let (listener, port) = host.listening(at);
        let _stays = leave_clients(&mut host, listener, at, port);
        host.sockets.admit(listener, false).expect("refuses");
        let taken = TcpListener::bind((at, port)).expect_err("bound");
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
        host.sockets.admit(listener, true).expect("admits");
        let _client = TcpStream::connect((at, port)).expect("connected");
        host.accept(listener);
    }
}

fn a_port_is_free_again_whatever_became_of_its_clients() {
    for at in ["127.0.0.1", "::1"] {
        let mut host = Host::new();
        let (listener, port) = host.listening(at);
        let _stays = leave_clients(&mut host, listener, at, port);
        let taken = TcpListener::bind((at, port)).expect_err("bound");
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
        host.sockets.close(listener, Close::Orderly);
        let again = host.id();
        host.sockets.listen(again, Endpoint { addr: addr(at), port }, MSS).expect("listening");
        let _client = TcpStream::connect((at, port)).expect("connected");
        host.accept(again);
    }
}

fn a_taken_port_is_in_use() {
    let mut host = Host::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a listener").local_addr().expect("its address");
    let holder = TcpListener::bind(taken).expect("a listener");
    let id = host.id();
    assert_eq!(host.sockets.listen(id, endpoint(taken), MSS), Err(Failure::InUse));
    drop(holder);
    host.sockets.listen(id, endpoint(taken), MSS).expect("free again");
    let not_ours = Endpoint { addr: addr("198.51.100.7"), port: 0 };
    let id = host.id();
    assert_eq!(host.sockets.listen(id, not_ours, MSS), Err(Failure::NoAddress));
}

fn an_id_of_another_use_reaches_nobody() {
    let mut host = Host::new();
    let (id, _peer) = host.connected("127.0.0.1");
    let later = SocketId(id.0 + (1 << 20));
    assert_eq!(later.slot(), id.slot());
    assert_eq!(host.sockets.send(later, b"x"), Err(Failure::Other(libc::EBADF)));
    host.sockets.close(later, Close::Reset);
    assert_eq!(host.sockets.send(id, b"x"), Ok(1));
    let taken = host.sockets.connect(later, Endpoint { addr: addr("127.0.0.1"), port: 1 }, MARK, MSS);
    assert_eq!(taken, Err(Failure::Other(libc::EEXIST)));
}

fn without_descriptors_a_client_waits_until_one_is_free() {
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
        host.sockets.connect(refused, Endpoint { addr: addr("127.0.0.1"), port }, MARK, MSS),
        Err(Failure::NoFiles),
        "told apart from a lack of ports"
    );
    assert!(host.sockets.next_ready().is_none(), "it does not spin");
    host.sockets.close(other, Close::Reset);
    drop(limit);
    host.sockets.accept(listener, id).expect("accepted");
}

fn listeners_keep_descriptors_from_other_connections() {
    let mut host = Host::new();
    let before = host.sockets.room();
    let (listener, port) = host.listening("127.0.0.1");
    assert_eq!(host.sockets.room(), before - 1 - BACKLOG_RESERVE);
    assert_eq!(host.sockets.room_for_clients(), before - 1, "what is kept is kept for them");
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    let (id, _) = host.accept(listener);
    assert_eq!(host.sockets.room(), before - 1 - BACKLOG_RESERVE, "out of the reserve");
    host.sockets.close(id, Close::Reset);
    host.sockets.close(listener, Close::Reset);
    assert_eq!(host.sockets.room(), before);
}

fn many_listeners_keep_no_more_descriptors_than_they_can_use() {
    let mut host = Host::new();
    let before = host.sockets.room();
    let listeners: Vec<_> = (0..200).map(|_| host.listening("127.0.0.1").0).collect();
    assert_eq!(host.sockets.room(), before - listeners.len() - RESERVE_MAX);
    for listener in listeners {
        host.sockets.close(listener, Close::Reset);
    }
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
        host.sockets.connect(id, to, MARK, MSS).expect("connecting");
        let (peer, from) = called(&listener);
        assert!((first..=last).contains(&from.port()));
        windows.insert((from.port() - first) / 64);
        host.sockets.close(id, Close::Reset);
        drop(peer);
    }
    // Without windows of its own a kernel takes the ports of one destination in a row, two apart.
    assert!(windows.len() > 16, "32 connections from {} windows", windows.len());
}

fn a_full_window_of_ports_gives_way_to_the_next() {
    let Some(range) = PortRange::set("20000 20127") else { return }; // below what a new namespace has
    let mut host = Host::new();
    let listener = TcpListener::bind("127.0.0.1:20200").expect("a listener");
    let to = endpoint(listener.local_addr().expect("its address"));
    let mut peers = Vec::new();
    let mut ports = std::collections::BTreeSet::new();
    for _ in 0..128 {
        let id = host.id();
        host.sockets.connect(id, to, MARK, MSS).expect("a port is left");
        let (peer, from) = called(&listener);
        ports.insert(from.port());
        peers.push(peer);
    }
    assert_eq!(ports.len(), 128);
    let id = host.id();
    assert_eq!(host.sockets.connect(id, to, MARK, MSS), Err(Failure::NoAddress));
    drop(range);
}

/// Local ports of this namespace while it lives.
struct PortRange(String);

impl PortRange {
    const PATH: &str = "/proc/sys/net/ipv4/ip_local_port_range";

    fn set(range: &str) -> Option<PortRange> {
        let before = std::fs::read_to_string(PortRange::PATH).expect("a range");
        match std::fs::write(PortRange::PATH, range) {
            Ok(()) => Some(PortRange(before)),
            Err(error) => {
                println!(
                    "sockets: left out what a small range shows: {} cannot be written to: {error}",
                    PortRange::PATH
                );
                None
            }
        }
    }
}

impl Drop for PortRange {
    fn drop(&mut self) {
        std::fs::write(PortRange::PATH, &self.0).expect("as before");
    }
}

fn connections_leave_from_the_address_that_was_chosen() {
    let mut host = Host::with(Options { outbound_v4: Some(addr("192.0.2.2")), ..Options::default() });
    let listener = TcpListener::bind("192.0.2.1:0").expect("a listener");
    let id = host.id();
    host.sockets.connect(id, endpoint(listener.local_addr().expect("its address")), MARK, MSS).expect("connecting");
    let (_peer, from) = called(&listener);
    assert_eq!(endpoint(from).addr, addr("192.0.2.2"));

    let peer = receiver("192.0.2.1");
    let id = host.open(Datagrams::Udp, "0.0.0.0").0;
    host.sockets.send_to(id, endpoint(peer.local_addr().expect("bound")), b"x", &PLAIN).expect("sent");
    let (_, from) = peer.recv_from(&mut [0; 9]).expect("received");
    assert_eq!(endpoint(from).addr, addr("192.0.2.2"));

    // What goes to the host itself goes as the host chooses.
    let (_, peer) = host.connected("127.0.0.1");
    assert_eq!(peer.peer_addr().expect("a peer").ip(), Ipv4Addr::LOCALHOST);
}

fn connections_leave_by_the_interface_that_was_chosen() {
    let other = Device::open(Kind::Tun, "other0", Header::Plain).expect("a TUN");
    let config = Config { addresses: vec!["10.8.0.1/24".parse().expect("a cidr")], ..Config::default() };
    netcfg::apply("other0", &config, true).expect("configured");
    let far = Endpoint { addr: addr("198.51.100.1"), port: 80 }; // routed to world0
    let protocols = |options: Options| {
        let mut host = Host::with(options);
        let id = host.id();
        assert_eq!(host.sockets.connect(id, far, MARK, MSS), Ok(()));
        let id = host.open(Datagrams::Udp, "0.0.0.0").0;
        assert_eq!(host.sockets.send_to(id, far, b"x", &PLAIN), Ok(()));
        let mut packet = [0; 2000];
        let mut seen = Vec::new();
        while other.read(&mut packet).is_ok() {
            if packet[16..20] == [198, 51, 100, 1] {
                seen.push(i32::from(packet[9]));
            }
        }
        seen
    };
    assert!(protocols(Options::default()).is_empty());
    let by_other = Options { outbound_interface: Some("other0".into()), ..Options::default() };
    assert_eq!(protocols(by_other.clone()), [libc::IPPROTO_TCP, libc::IPPROTO_UDP]);
    // While there is no such interface nothing leaves by another, and a new one of its name serves again.
    let mut host = Host::with(by_other.clone());
    let socket = host.open(Datagrams::Udp, "0.0.0.0").0;
    drop(other);
    host.turn(PATIENCE);
    assert_eq!(host.sockets.send_to(socket, far, b"x", &PLAIN), Err(Failure::NetUnreachable));
    let id = host.id();
    assert!(host.sockets.connect(id, far, MARK, MSS).is_err());
    let other = Device::open(Kind::Tun, "other0", Header::Plain).expect("a TUN");
    netcfg::apply("other0", &config, true).expect("configured");
    host.turn(PATIENCE);
    assert_eq!(host.sockets.send_to(socket, far, b"x", &PLAIN), Ok(()));
    let left = |packet: &[u8]| packet[9] == 17 && packet[16..20] == [198, 51, 100, 1];
    let mut packet = [0; 2000];
    assert!(std::iter::from_fn(|| other.read(&mut packet).ok().map(|_| left(&packet))).any(|left| left));
    // But the host's own addresses are where they are.
    let mut host = Host::with(by_other);
    host.connected("192.0.2.1");
    let peer = receiver("192.0.2.1");
    let id = host.open(Datagrams::Udp, "0.0.0.0").0;
    host.sockets.send_to(id, endpoint(peer.local_addr().expect("bound")), b"x", &PLAIN).expect("sent");
    assert_eq!(peer.recv_from(&mut [0; 9]).expect("received").0, 1);
}

fn options_that_the_host_does_not_have_are_named() {
    let ours = Options { outbound_v4: Some(addr("192.0.2.1")), outbound_interface: Some("world0".into()) };
    ours.check().expect("all there");
    let error = Options { outbound_v4: Some(addr("192.0.2.99")), ..ours.clone() }.check().expect_err("not ours");
    assert!(matches!(error, OptionsError::NotOurs { .. }) && error.to_string().contains("192.0.2.99"), "{error}");
    let error = Options { outbound_interface: Some("eth7".into()), ..ours }.check().expect_err("no such");
    assert!(matches!(error, OptionsError::NoInterface { .. }) && error.to_string().contains("eth7"), "{error}");
}

// ---- UDP

/// Nothing asked for.
const MARK: Mark = Mark { ttl: 64, tos: 0 };
/// What a link of the usual MTU takes.
const MSS: u16 = 1460;
const PLAIN: SendHow = SendHow { segment: None, dont_fragment: false, tos: 0, ttl: 64, from: None, scope: 0 };

fn a_datagram_comes_with_what_its_header_said() {
    use rustix::net::sockopt;
    let mut host = Host::new();
    let (id, at) = host.open(Datagrams::Udp, "0.0.0.0");
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    sockopt::set_ip_tos(&peer, 0xb8).expect("set");
    sockopt::set_ip_ttl(&peer, 7).expect("set");
    peer.send_to(b"hello", ("127.0.0.3", at.port)).expect("sent");
    let (received, payload) = host.recv_from(id, 100);
    assert_eq!(payload, b"hello");
    let from = endpoint(peer.local_addr().expect("bound"));
    let to = Some(addr("127.0.0.3"));
    assert_eq!(received, Received { len: 5, truncated: false, from, scope: 0, to, segment: None, tos: 0xb8, ttl: 7 });

    let (id, at) = host.open(Datagrams::Udp, "::");
    let peer = UdpSocket::bind("[::1]:0").expect("a socket");
    sockopt::set_ipv6_tclass(&peer, 0x2e).expect("set");
    sockopt::set_ipv6_unicast_hops(&peer, Some(9)).expect("set");
    peer.send_to(b"hello", ("2001:db8::1", at.port)).expect("sent");
    let (received, _) = host.recv_from(id, 100);
    let from = endpoint(peer.local_addr().expect("bound"));
    let to = Some(addr("2001:db8::1"));
    assert_eq!(received, Received { len: 5, truncated: false, from, scope: 0, to, segment: None, tos: 0x2e, ttl: 9 });
}

fn a_datagram_leaves_with_what_its_header_is_to_say() {
    for (any, at) in [("0.0.0.0", "127.0.0.1"), ("::", "::1")] {
        let mut host = Host::new();
        let (sender, _) = host.open(Datagrams::Udp, any);
        let (receiver, to) = host.open(Datagrams::Udp, at);
        for (tos, ttl) in [(0xb9, 3), (0, 255)] {
            host.sockets.send_to(sender, to, b"x", &SendHow { tos, ttl, ..PLAIN }).expect("sent");
            let (received, _) = host.recv_from(receiver, 100);
            assert_eq!((received.tos, received.ttl, received.to), (tos, ttl, Some(addr(at))));
        }
    }
}

fn a_reply_leaves_from_the_address_that_was_asked() {
    for (any, at) in [("0.0.0.0", "127.9.9.9"), ("::", "2001:db8::1")] {
        let mut host = Host::new();
        let (id, bound) = host.open(Datagrams::Udp, any);
        let peer = receiver(if any == "::" { "::1" } else { "127.0.0.1" });
        peer.send_to(b"?", (at, bound.port)).expect("sent");
        let (received, _) = host.recv_from(id, 100);
        host.sockets.send_to(id, received.from, b"!", &SendHow { from: received.to, ..PLAIN }).expect("sent");
        let (_, from) = peer.recv_from(&mut [0; 9]).expect("received");
        assert_eq!(endpoint(from), Endpoint { addr: addr(at), port: bound.port });
    }
}

fn a_reply_to_or_from_an_address_of_a_link_leaves_by_that_link() {
    let mut host = Host::new();
    let (id, bound) = host.open(Datagrams::Udp, "::");
    // A peer on the host's own link: the kernel gave the TUN such an address when it came up.
    let link = std::fs::read_to_string("/proc/net/if_inet6").expect("addresses");
    let link = link.lines().find(|line| line.starts_with("fe80")).expect("an address of the link");
    let mut fields = link.split_whitespace();
    let octets = u128::from_str_radix(fields.next().expect("the address"), 16).expect("hexadecimal");
    let scope = u32::from_str_radix(fields.next().expect("the index"), 16).expect("hexadecimal");
    let here = std::net::SocketAddrV6::new(octets.into(), bound.port, 0, scope);
    let everywhere = "2001:db8::1".parse().expect("an address");
    for asker in [octets.into(), everywhere] {
        let scope_of_asker = if asker == everywhere { 0 } else { scope };
        let peer = UdpSocket::bind(std::net::SocketAddrV6::new(asker, 0, 0, scope_of_asker)).expect("bound");
        peer.set_read_timeout(Some(PATIENCE)).expect("set");
        peer.send_to(b"?", here).expect("sent");
        let (received, _) = host.recv_from(id, 100);
        assert_eq!(received.scope, scope, "{asker}");
        let how = SendHow { from: received.to, scope: received.scope, ..PLAIN };
        host.sockets.send_to(id, received.from, b"!", &how).expect("sent");
        let (_, from) = peer.recv_from(&mut [0; 9]).expect("received");
        assert_eq!(from, std::net::SocketAddr::V6(here));
    }
}

fn an_empty_datagram_is_no_end_and_a_long_one_is_told_to_be_cut() {
    let mut host = Host::new();
    let (id, at) = host.open(Datagrams::Udp, "127.0.0.1");
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let to = std::net::SocketAddr::new(at.addr.into(), at.port);
    for payload in [&b""[..], b"0123456789", b"next"] {
        peer.send_to(payload, to).expect("sent");
    }
    let told: Vec<_> = (0..3).map(|_| host.recv_from(id, 4)).map(|(r, p)| (r.len, r.truncated, p)).collect();
    assert_eq!(told, [(0, false, vec![]), (4, true, b"0123".to_vec()), (4, false, b"next".to_vec())]);
    assert_eq!(host.sockets.recv_from(id, &mut [0; 9]), Err(Failure::WouldBlock));
}

/// A port on which nobody listens.
fn closed_port(at: &str) -> Endpoint {
    endpoint(UdpSocket::bind((at, 0)).expect("a port").local_addr().expect("bound"))
}

fn an_error_of_one_peer_does_not_fail_a_send_to_another() {
    for (any, at, unreachable) in [("0.0.0.0", "127.0.0.1", (3, 3)), ("::", "::1", (1, 4))] {
        let mut host = Host::new();
        let (id, _) = host.open(Datagrams::Udp, any);
        let peer = receiver(at);
        let closed = closed_port(at);
        host.sockets.send_to(id, closed, b"to nobody", &PLAIN).expect("sent");
        let to = endpoint(peer.local_addr().expect("bound"));
        host.sockets.send_to(id, to, b"to somebody", &PLAIN).expect("sent, whatever became of the one before");
        let mut buf = [0; 99];
        assert_eq!(peer.recv(&mut buf).expect("received"), 11);
        let error = DatagramError {
            to: closed,
            icmp: Ok(unreachable),
            mtu: 0,
            offender: Some(addr(at)),
            sequence: None,
            from: Some(addr(at)),
        };
        host.wait(id, |ready| ready.error);
        assert_eq!(host.sockets.next_error(id), Some(error));
        assert_eq!(host.sockets.next_error(id), None);
        // The same for receiving.
        host.sockets.send_to(id, closed, b"to nobody", &PLAIN).expect("sent");
        assert_eq!(host.sockets.recv_from(id, &mut buf), Err(Failure::WouldBlock));
        assert_eq!(host.sockets.next_error(id), Some(error));
    }
}

fn an_error_tells_which_of_the_hosts_addresses_the_datagram_left_from() {
    let mut host = Host::new();
    let (id, _) = host.open(Datagrams::Udp, "0.0.0.0");
    let closed = closed_port("127.0.0.1");
    for from in ["192.0.2.1", "192.0.2.2", "127.0.0.1"] {
        let how = SendHow { from: Some(addr(from)), ..PLAIN };
        host.sockets.send_to(id, closed, b"to nobody", &how).expect("sent");
        host.wait(id, |ready| ready.error);
        let error = host.sockets.next_error(id).expect("there is one");
        assert_eq!((error.to, error.from), (closed, Some(addr(from))));
    }
}

fn an_error_that_nobody_met_is_told_by_an_event() {
    let mut host = Host::new();
    let (id, _) = host.open(Datagrams::Udp, "0.0.0.0");
    let closed = closed_port("127.0.0.1");
    host.sockets.send_to(id, closed, b"to nobody", &PLAIN).expect("sent");
    host.wait(id, |ready| ready.error);
    assert_eq!(host.sockets.next_error(id).map(|error| error.to), Some(closed));
}

fn segments_leave_and_arrive_together() {
    let payload: Vec<u8> = (0..10_500_u32).map(|n| n as u8).collect();
    let how = SendHow { segment: NonZeroU16::new(1000), ..PLAIN };
    for at in ["127.0.0.1", "::1"] {
        let mut host = Host::new();
        let (sender, _) = host.open(Datagrams::Udp, at);
        let (receiver_id, to) = host.open(Datagrams::Udp, at);
        host.sockets.send_to(sender, to, &payload, &how).expect("sent");
        let (received, bytes) = host.recv_from(receiver_id, 65_535);
        assert_eq!((received.len, received.segment), (10_500, NonZeroU16::new(1000)));
        assert_eq!(bytes, payload);

        let plain = receiver(at);
        host.sockets.send_to(sender, endpoint(plain.local_addr().expect("bound")), &payload, &how).expect("sent");
        let mut buf = [0; 2000];
        for piece in payload.chunks(1000) {
            let len = plain.recv(&mut buf).expect("received");
            assert_eq!(&buf[..len], piece);
        }
        // More segments than one call takes.
        let many = vec![7; 300];
        let how = SendHow { segment: NonZeroU16::new(2), ..PLAIN };
        host.sockets.send_to(sender, endpoint(plain.local_addr().expect("bound")), &many, &how).expect("sent");
        for _ in 0..150 {
            assert_eq!(plain.recv(&mut buf).expect("received"), 2);
        }
    }
}

fn segments_too_long_for_the_link_leave_one_by_one() {
    let mut host = Host::new();
    let (id, _) = host.open(Datagrams::Udp, "0.0.0.0");
    let far = Endpoint { addr: addr("198.51.100.1"), port: 9 };
    let how = SendHow { segment: NonZeroU16::new(2000), ..PLAIN };
    assert_eq!(host.sockets.send_to(id, far, &[0; 5000], &how), Ok(()), "in fragments");
    let how = SendHow { dont_fragment: true, ..how };
    assert_eq!(host.sockets.send_to(id, far, &[0; 5000], &how), Err(Failure::TooLong));
}

fn a_datagram_that_may_not_be_fragmented_is_too_long_and_the_mtu_is_told() {
    for (any, far) in [("0.0.0.0", "198.51.100.1"), ("::", "2001:db8::99")] {
        let mut host = Host::new();
        let (id, _) = host.open(Datagrams::Udp, any);
        let far = Endpoint { addr: addr(far), port: 9 };
        let dont = SendHow { dont_fragment: true, ..PLAIN };
        assert_eq!(host.sockets.send_to(id, far, &[0; 1300], &dont), Ok(()));
        assert_eq!(host.sockets.send_to(id, far, &[0; 2000], &dont), Err(Failure::TooLong));
        let error = DatagramError {
            to: far,
            icmp: Err(Failure::TooLong),
            mtu: 1400,
            offender: None,
            sequence: None,
            from: None,
        };
        assert_eq!(host.sockets.next_error(id), Some(error));
        assert_eq!(host.sockets.next_error(id), None);
        assert_eq!(host.sockets.send_to(id, far, &[0; 2000], &PLAIN), Ok(()), "in fragments");
        assert_eq!(host.sockets.send_to(id, far, &[0; 2000], &dont), Err(Failure::TooLong));
    }
}

fn a_socket_without_room_is_told_when_there_is_some() {
    // What waits for a neighbour that does not answer fills the send buffer.
    let tap = Device::open(Kind::Tap, "silent0", Header::Plain).expect("a TAP");
    let config = Config { addresses: vec!["10.9.0.1/24".parse().expect("a cidr")], ..Config::default() };
    netcfg::apply("silent0", &config, true).expect("configured");
    let mut host = Host::new();
    let (id, _) = host.open(Datagrams::Udp, "0.0.0.0");
    let full = (0..10_000).any(|n| {
        let to = Endpoint { addr: Addr::v4([10, 9, 0, 2 + (n % 8) as u8]), port: 9 };
        match host.sockets.send_to(id, to, &[0; 1400], &PLAIN) {
            Ok(()) => false,
            full => {
                assert_eq!(full, Err(Failure::WouldBlock));
                true
            }
        }
    });
    assert!(full, "10,000 datagrams found room");
    host.ready.clear();
    drop(tap);
    host.wait(id, |ready| ready.writable);
    let peer = receiver("127.0.0.1");
    host.sockets.send_to(id, endpoint(peer.local_addr().expect("bound")), b"x", &PLAIN).expect("room");
}

fn datagram_sockets_leave_the_host_most_of_its_ports() {
    let Some(range) = PortRange::set("40000 40063") else { return };
    let mut host = Host::new();
    drop(range);
    // A published port takes none of the ports that the host gives out.
    let free = receiver("127.0.0.1").local_addr().expect("bound").port();
    let id = host.id();
    host.sockets.open(id, Datagrams::Udp, Endpoint { addr: addr("0.0.0.0"), port: free }).expect("a published port");
    let mut last = None;
    for n in 0..=16 {
        let id = host.id();
        let opened = host.sockets.open(id, Datagrams::Udp, Endpoint { addr: addr("0.0.0.0"), port: 0 });
        assert_eq!(opened.is_ok(), n < 16, "{n}: {opened:?}");
        last = if n < 16 { Some(id) } else { last };
    }
    let id = host.id();
    let any = Endpoint { addr: addr("0.0.0.0"), port: 0 };
    assert_eq!(host.sockets.open(id, Datagrams::Udp, any), Err(Failure::NoAddress));
    host.sockets.close(last.expect("one was opened"), Close::Orderly);
    host.sockets.open(id, Datagrams::Udp, any).expect("one was given back");
}

// ---- ping

fn a_ping_socket_is_prohibited_or_has_an_identifier() {
    const RANGE: &str = "/proc/sys/net/ipv4/ping_group_range";
    let mut host = Host::new();
    let at = |at: &str, port| Endpoint { addr: addr(at), port };
    // In a new namespace nobody may.
    let id = host.id();
    assert_eq!(host.sockets.open(id, Datagrams::Ping, at("0.0.0.0", 7)), Err(Failure::Prohibited));
    if let Err(error) = std::fs::write(RANGE, "0 0") {
        println!("sockets: left out what ping sockets do: {RANGE} cannot be written to: {error}");
        return;
    }
    for (any, loopback, request, reply) in [("0.0.0.0", "127.0.0.1", 8, 0), ("::", "::1", 128, 129)] {
        let (id, other) = (host.id(), host.id());
        assert_eq!(host.sockets.open(id, Datagrams::Ping, at(any, 0x1234)), Ok(at(any, 0x1234)));
        let mapped = host.sockets.open(other, Datagrams::Ping, at(any, 0x1234)).expect("another identifier");
        assert!(mapped.port != 0x1234 && mapped.port != 0, "{mapped:?}");
        for (id, ident) in [(id, 0x1234), (other, mapped.port)] {
            // Checksum and identifier are the kernel's business.
            let echo = [request, 0, 0, 0, 0x99, 0x99, 0, 5, b'd', b'a', b't', b'a'];
            let how = SendHow { ttl: 9, ..PLAIN };
            host.sockets.send_to(id, at(loopback, 0), &echo, &how).expect("sent");
            let (received, payload) = host.recv_from(id, 100);
            assert_eq!((received.from.addr, received.ttl), (addr(loopback), 64));
            assert_eq!((payload[0], &payload[6..]), (reply, &echo[6..]));
            assert_eq!(u16::from_be_bytes([payload[4], payload[5]]), ident);
        }
        host.sockets.close(id, Close::Orderly); // identifiers of both families are of one table
        host.sockets.close(other, Close::Orderly);
    }
}

// ---- routes

fn routes_tell_what_an_address_is() {
    let mut host = Host::new();
    for (net, kind) in [
        ([10, 1, 0, 0], RouteType::Unreachable),
        ([10, 2, 0, 0], RouteType::BlackHole),
        ([10, 3, 0, 0], RouteType::Prohibit),
    ] {
        add_route(net.into(), kind);
    }
    for (text, kind) in [
        ("127.0.0.1", RouteKind::Local),
        ("127.255.0.9", RouteKind::Local),
        ("0.0.0.0", RouteKind::Local),
        ("192.0.2.1", RouteKind::Local),
        ("192.0.2.2", RouteKind::Local),
        ("192.0.2.255", RouteKind::Broadcast),
        ("255.255.255.255", RouteKind::Broadcast),
        ("192.0.2.77", RouteKind::Unicast),
        ("198.51.100.1", RouteKind::Unicast),
        ("203.0.113.1", RouteKind::Unreachable),
        ("10.1.0.1", RouteKind::Unreachable),
        ("10.2.0.1", RouteKind::Unreachable),
        ("10.3.0.1", RouteKind::Unreachable),
        ("::", RouteKind::Local),
        ("::1", RouteKind::Local),
        ("2001:db8::1", RouteKind::Local),
        ("2001:db8::77", RouteKind::Unicast),
        ("2001:db8:ffff::1", RouteKind::Unreachable),
    ] {
        for _ in 0..2 {
            assert_eq!(host.sockets.route_kind(addr(text)), kind, "{text}");
        }
    }
}

fn a_changed_route_is_noticed() {
    let mut host = Host::new();
    assert_eq!(host.sockets.route_kind(addr("203.0.113.9")), RouteKind::Unreachable);
    let device = Device::open(Kind::Tun, "late0", Header::Plain).expect("a TUN");
    let config = Config { addresses: vec!["203.0.113.9/24".parse().expect("a cidr")], ..Config::default() };
    netcfg::apply("late0", &config, true).expect("configured");
    host.turn(Duration::ZERO);
    assert_eq!(host.sockets.route_kind(addr("203.0.113.9")), RouteKind::Local);
    assert_eq!(host.sockets.route_kind(addr("203.0.113.10")), RouteKind::Unicast);
    drop(device);
    host.turn(Duration::ZERO);
    assert_eq!(host.sockets.route_kind(addr("203.0.113.9")), RouteKind::Unreachable);
    assert_eq!(host.sockets.route_kind(addr("203.0.113.10")), RouteKind::Unreachable);
}

// ---- the event loop

fn an_event_loop_over_sockets_rests_until_it_is_asked() {
    let waker_poll = Poll::new().expect("an epoll instance");
    let waker = mio::Waker::new(waker_poll.registry(), mio::Token(0)).expect("an eventfd");
    let (notifier, notices) = Notifier::new(Arc::new(waker));
    let config = SocketUplinkConfig::for_ports(32_768..=60_999);
    let uplink = StartUplink::Sockets { options: Options::default(), config: Box::new(config) };
    let start = Start { config: datapath::Config::default(), uplink: Some(uplink), seed: [7; 32], notifier };
    let switch = reactor::start(start).expect("started");
    // Something changes that concerns the sockets only.
    let device = Device::open(Kind::Tun, "late1", Header::Plain).expect("a TUN");
    netcfg::apply("late1", &Config::default(), true).expect("configured");
    drop(device);
    switch.query(Query::Stats).expect("answered");
    let before = cpu_time();
    std::thread::sleep(Duration::from_millis(100));
    assert!(cpu_time() - before < Duration::from_millis(50), "it spins");
    switch.shutdown().expect("ended");
    assert!(notices.try_recv().is_err(), "nothing to tell");
}

/// Of this process, all its threads.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Adds an IPv4 route of a kind that needs no device, 16 bits long.
fn add_route(net: Ipv4Addr, kind: RouteType) {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.destination_prefix_length = 16;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = RouteScope::Universe;
    route.header.kind = kind;
    route.attributes.push(RouteAttribute::Destination(net.into()));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(route));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE).expect("a netlink socket");
    socket.send_to(&bytes, &netlink_sys::SocketAddr::new(0, 0), 0).expect("sent");
    let (answer, _) = socket.recv_from_full().expect("answered");
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).expect("netlink");
    let NetlinkPayload::Error(error) = answer.payload else { panic!("{answer:?}") };
    assert_eq!(error.code, None, "{kind:?} {net}");
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
        self.sockets.connect(id, to, MARK, MSS).expect("connecting");
        self.wait(id, |ready| ready.writable);
        assert_eq!(self.sockets.outcome(id), Ok(()));
        let (peer, _) = called(&listener);
        peer.set_read_timeout(Some(PATIENCE)).expect("set");
        (id, peer)
    }

    /// A listener on a port that was free.
    fn listening(&mut self, at: &str) -> (SocketId, u16) {
        let port = TcpListener::bind((at, 0)).expect("a port").local_addr().expect("its address").port();
        let id = self.id();
        self.sockets.listen(id, Endpoint { addr: addr(at), port }, MSS).expect("listening");
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

    fn open(&mut self, kind: Datagrams, at: &str) -> (SocketId, Endpoint) {
        let id = self.id();
        let bound = self.sockets.open(id, kind, Endpoint { addr: addr(at), port: 0 }).expect("a socket");
        (id, bound)
    }

    fn recv_from(&mut self, id: SocketId, at_most: usize) -> (Received, Vec<u8>) {
        let mut bytes = vec![0; at_most];
        loop {
            match self.sockets.recv_from(id, &mut bytes) {
                Err(Failure::WouldBlock) => self.wait(id, |ready| ready.readable),
                received => {
                    let received = received.expect("received");
                    bytes.truncate(received.len);
                    return (received, bytes);
                }
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

/// Accepts whoever connects, which is to be soon.
fn called(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    assert!(process::wait_readable(listener, PATIENCE).expect("polled"), "nobody connects");
    listener.accept().expect("accepted")
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

/// A UDP socket of the test.
fn receiver(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind((at, 0)).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket
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
