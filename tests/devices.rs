//! The device side of `io` against the kernel: real namespaces, real TUN and TAP devices, no other program.
//!
//! Own `main` and no threads: joining or making a user namespace needs a process with one thread. An ordinary user is
//! put into a user namespace of its own first; root is not, so that both ways are walked. What is missing is said, and
//! is a failure where the environment variable CI is set.

use std::io::{IoSlice, Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde::Serialize;
use serde::de::DeserializeOwned;

use pontoon::frame::Caps;
use pontoon::io::enter::{Class, EnterError, EnterHelper, Opened, Provenance, Request, Target};
use pontoon::io::lifetime::{CHECK_EVERY, Gone, Life, Watcher};
use pontoon::io::netcfg::{self, Config, Given, Route};
use pontoon::io::sys::msg;
use pontoon::io::sys::netns::{self, Netns};
use pontoon::io::sys::process::{self, Child};
use pontoon::io::sys::tuntap::{Device, Header, Kind, TunError};
use pontoon::io::tap::{ReadError, TapPort, WriteError};
use pontoon::io::uplink::{Uplink, UplinkConfig};
use pontoon::wire::mac::Mac;
use pontoon::wire::vnet;

fn main() {
    let mut arguments = Arguments::from_args();
    // With one, libtest-mimic runs them on this thread, the only one.
    arguments.test_threads = Some(1);
    // As an ordinary user this helper stays outside, without any capability: pontoon started by hand.
    let outside = helper();
    if let Err(missing) = prepare() {
        println!("devices: NOT RUN: {missing}");
        std::process::exit(i32::from(std::env::var_os("CI").is_some()));
    }
    let outside = Arc::new(Mutex::new(outside));
    let mut trials = trials();
    let shared = outside.clone();
    let from_outside = move || {
        a_container_of_the_same_user_is_entered_from_outside(&mut shared.lock().expect("one thread"));
        Ok(())
    };
    trials.push(Trial::test("a_container_of_the_same_user_is_entered_from_outside", from_outside));
    let both = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
    if rustix::fs::access("/dev/fuse", both).is_ok() {
        trials.push(trial("a_path_that_hangs_delays_no_other_request", a_path_that_hangs_delays_no_other_request));
    } else {
        println!("devices: left out a_path_that_hangs_delays_no_other_request: /dev/fuse is not ours to open");
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(outside);
    conclusion.exit();
}

/// Namespaces of our own; what is missing, in words.
fn prepare() -> Result<(), String> {
    if netns::unshare_net().is_err() {
        netns::unshare_user().map_err(|e| {
            format!("no user namespace can be made here ({e}): run as root, or allow them (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)")
        })?;
        netns::unshare_net().map_err(|e| format!("no network namespace can be made here: {e}"))?;
    }
    netns::unshare_mounts().map_err(|e| format!("no mount namespace can be made here: {e}"))?;
    Device::open(Kind::Tap, "probe", Header::Vnet).map_err(|e| e.to_string())?;
    Ok(())
}

fn trials() -> Vec<Trial> {
    macro_rules! trials {
        ($($name:ident),* $(,)?) => { vec![$(trial(stringify!($name), $name)),*] };
    }
    trials![
        a_tap_is_made_configured_and_leaves_nothing_behind,
        frames_cross_a_tap_both_ways,
        two_taps_share_a_namespace_and_one_has_the_default_route,
        addresses_and_routes_of_both_families_are_set,
        an_unpinned_namespace_is_noticed,
        a_namespace_pinned_anew_is_another_one,
        a_namespace_lives_as_long_as_its_process,
        a_container_in_its_own_user_namespace_is_entered,
        a_namespace_outside_our_user_namespace_is_refused,
        a_namespace_without_capability_is_refused,
        a_process_of_somebody_else_is_refused,
        after_a_kill_the_next_start_adopts_device_and_mac,
        an_adopted_device_gets_the_addresses_now_asked_for,
        a_plain_reader_gets_no_header_from_a_device_that_had_one,
        a_device_of_somebody_else_outlives_us,
        what_somebody_else_gave_a_device_stays,
        a_failing_step_leaves_no_device,
        a_failing_step_takes_its_addresses_from_a_found_device,
        a_missing_namespace_is_said_so,
        what_is_not_a_network_namespace_is_said_so,
        a_taken_name_is_said_so,
        a_busy_device_is_said_so,
        a_device_node_without_permission_is_said_so,
        a_missing_device_node_is_said_so,
        a_late_answer_is_not_taken_for_the_next_one,
        the_helper_holds_nothing_of_its_parents,
        the_helper_ends_with_its_parent,
        the_helper_ends_when_it_is_dropped,
        a_handed_descriptor_keeps_its_header,
        a_link_that_is_down_or_gone_is_told_apart,
        an_offload_the_kernel_refuses_is_told_apart,
        what_we_do_not_read_is_counted,
        the_uplink_carries_packets_to_and_from_our_address,
        an_administrators_tun_needs_no_capability,
        an_unprepared_tun_says_what_the_administrator_must_do,
    ]
}

fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}

// ---- attach and detach

fn a_tap_is_made_configured_and_leaves_nothing_behind() {
    let container = Holder::new();
    let opened = helper().open(eth0(container.target())).expect("attached");
    let mac = "02:42:ac:11:00:02".parse::<Mac>().expect("a mac");
    assert_eq!(opened.provenance, Provenance::Made);
    assert_eq!(opened.netns, container.netns());
    assert_eq!((opened.link.mac, opened.link.mtu), (Some(mac), 1400));
    assert_eq!((opened.link.up, opened.link.queue_len), (true, netcfg::QUEUE_LEN));
    assert_eq!(opened.link.addresses, [cidr("172.17.0.2/16")]);
    assert_eq!(opened.link.alias.as_deref(), Some("pontoon c1"));
    assert!(opened.device.caps().vnet);
    let (lo, routes) = within(&container, || (link("lo"), default_routes()));
    assert!(lo.up);
    assert_eq!(routes, [GATEWAY_BY_ETH0]);

    let port = TapPort::attach(opened).expect("kept");
    port.detach().expect("released");
    assert_eq!(devices(&container), ["lo"]);
}

fn frames_cross_a_tap_both_ways() {
    let container = Holder::new();
    let opened = helper().open(eth0(container.target())).expect("attached");
    let socket = socket_in(&container, "172.17.0.2:4000");
    let gateway = "172.17.0.1:5000";
    socket.send_to(b"ping", gateway).expect("held for ARP");
    let request = read_until(&opened.device, |frame| frame[12..14] == [0x08, 0x06]);
    assert_eq!(request[38..42], [172, 17, 0, 1], "who has the gateway?");

    // The answer: 02:00:00:00:00:01 has it. Then the kernel sends what it held.
    let header = [0; vnet::LEN];
    let mut reply = request[6..12].to_vec();
    reply.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    reply.extend([2, 0, 0, 0, 0, 1, 172, 17, 0, 1]);
    reply.extend(&request[22..32]);
    let pieces = [IoSlice::new(&header), IoSlice::new(&reply)];
    let written = opened.device.write_vectored(&pieces).expect("up");
    assert_eq!(written, header.len() + reply.len());
    let ping = read_until(&opened.device, |frame| frame[12..14] == [0x08, 0x00]);
    assert_eq!(ping[0..6], [2, 0, 0, 0, 0, 1]);
    assert!(ping.ends_with(b"ping"));

    let mut pong = header.to_vec();
    pong.extend_from_slice(&ping[6..12]);
    pong.extend_from_slice(&ping[0..6]);
    pong.extend([8, 0]);
    pong.extend(answer_to(&ping[14..], b"pong"));
    opened.device.write(&pong).expect("up");
    assert_eq!(receive(&socket), b"pong");
}

// S52
fn two_taps_share_a_namespace_and_one_has_the_default_route() {
    let container = Holder::new();
    let mut helper = helper();
    let first = helper.open(eth0(container.target())).expect("attached");
    let config = Config { addresses: vec![cidr("10.1.0.2/24")], ..Config::default() };
    // It asks for one as well: who has the namespace by another name does not know that there is one.
    let config = config.with_gateway("10.1.0.1".parse().expect("an address"));
    let name = "eth1".into();
    let request = Request { name, config, ..eth0(container.target()) };
    let second = helper.open(request.clone()).expect("attached");
    assert_eq!(first.netns, second.netns);
    assert_ne!(first.link.mac, second.link.mac);
    assert_eq!(within(&container, default_routes), [GATEWAY_BY_ETH0]);
    assert_eq!((first.given.routes.len(), second.given.routes.len()), (1, 0));
    // With the device goes its route, and the next may have one.
    drop((first, second));
    let again = helper.open(request).expect("attached again");
    assert_eq!(again.given.routes.len(), 1);
}

fn addresses_and_routes_of_both_families_are_set() {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        println!("devices: this kernel has no IPv6: its half is left out");
        return;
    }
    let container = Holder::new();
    let mut request = eth0(container.target());
    request.config.addresses.push(cidr("2001:db8::2/64"));
    let gateway = "2001:db8::1".parse().expect("an address");
    request.config.routes.push(Route::default_via(gateway));
    let mut helper = helper();
    let opened = helper.open(request.clone()).expect("attached");
    assert_eq!(sorted(&opened.link.addresses), sorted(&request.config.addresses));
    // A second time: all of it is there, and is no error.
    drop(TapPort::attach(opened).expect("kept"));
    let opened = helper.open(request.clone()).expect("attached again");
    assert_eq!(sorted(&opened.link.addresses), sorted(&request.config.addresses));
    let routes = within(&container, || std::fs::read_to_string("/proc/thread-self/net/ipv6_route").expect("/proc"));
    let default =
        "00000000000000000000000000000000 00 00000000000000000000000000000000 00 20010db8000000000000000000000001";
    assert_eq!(routes.matches(default).count(), 1, "{routes}");
}

// ---- lifetimes

fn an_unpinned_namespace_is_noticed() {
    let pin = Pin::new();
    let watcher = Watcher::new().expect("inotify");
    let opened = helper().open(eth0(pin.target())).expect("attached");
    let life = Life::of_path(&watcher, &pin.path, opened.netns);
    let port = TapPort::attach(opened).expect("kept");
    assert_eq!(life.check(), None);
    netns::unpin(&pin.path).expect("ip netns del");
    assert!(process::wait_readable(&watcher, CHECK_EVERY * 2).expect("polled"));
    assert!(watcher.drain());
    assert_eq!(life.check(), Some(Gone::PathRemoved));
    port.detach().expect("released");
}

fn a_namespace_pinned_anew_is_another_one() {
    let pin = Pin::new();
    let watcher = Watcher::new().expect("inotify");
    let opened = helper().open(eth0(pin.target())).expect("attached");
    let life = Life::of_path(&watcher, &pin.path, opened.netns);
    // Unmounted only: the bare file is left, and no event says so.
    rustix::mount::unmount(&pin.path, rustix::mount::UnmountFlags::DETACH).expect("unmounted");
    assert_eq!(life.check(), Some(Gone::PathChanged));
    std::fs::remove_file(&pin.path).expect("removed");
    pin_new_namespace(&pin.path);
    assert_eq!(life.check(), Some(Gone::PathChanged), "the TAP keeps the old inode from being used again");
}

fn a_namespace_lives_as_long_as_its_process() {
    let container = Holder::new();
    let mut opened = helper().open(eth0(container.target())).expect("attached");
    let life = Life::Pid(opened.pidfd.take().expect("a pid target has a pidfd"));
    assert_eq!(life.check(), None);
    drop(container);
    let fd = life.fd().expect("pollable");
    assert!(process::wait_readable(fd, Duration::from_secs(5)).expect("polled"));
    assert_eq!(life.check(), Some(Gone::ProcessEnded));
    let frame = [0; vnet::LEN + 60];
    assert_eq!(opened.device.write(&frame).expect("the TAP does not notice"), frame.len());
}

// ---- user namespaces

fn a_container_in_its_own_user_namespace_is_entered() {
    let container = Holder::in_user_namespace();
    let opened = helper().open(eth0(container.target())).expect("attached");
    assert_eq!(opened.netns, container.netns());
}

/// By the helper that was forked before this process had a namespace of its own: as an ordinary user it has no
/// capability, and must join the user namespace of the container.
fn a_container_of_the_same_user_is_entered_from_outside(outside: &mut EnterHelper) {
    let container = Holder::new();
    let opened = outside.open(eth0(container.target())).expect("attached");
    assert_eq!(opened.netns, container.netns());
    let port = TapPort::attach(opened).expect("kept");
    assert_eq!(devices(&container), ["eth0", "lo"]);
    let stats = outside.stats(container.target(), "eth0").expect("read");
    assert_eq!(stats.tx_errors, 0);
    port.detach().expect("released");
    assert_eq!(devices(&container), ["lo"]);
}

fn a_namespace_outside_our_user_namespace_is_refused() {
    let pin = Pin::new();
    let error = apart(|| {
        netns::unshare_user().expect("a user namespace");
        refused(&mut helper(), eth0(pin.target()))
    });
    assert_eq!(error.class, Class::Forbidden);
    assert_says(&error, &["is not ours to enter", "outside of ours"]);
}

fn a_namespace_without_capability_is_refused() {
    let pin = Pin::new();
    let error = apart(|| {
        drop_capabilities();
        refused(&mut helper(), eth0(pin.target()))
    });
    assert_eq!(error.class, Class::Forbidden);
    assert_says(&error, &["is not ours to enter", "no CAP_SYS_ADMIN"]);
}

/// Process 1 has capabilities that we have not, so it is not ours to look into; and if it were, its namespace is not.
fn a_process_of_somebody_else_is_refused() {
    let error = apart(|| {
        drop_capabilities();
        refused(&mut helper(), eth0(Target::Pid(1)))
    });
    assert_eq!(error.class, Class::Forbidden);
    assert_says(&error, &["of process 1 is not ours to enter"]);
}

// ---- adoption

// B30
fn after_a_kill_the_next_start_adopts_device_and_mac() {
    let container = Holder::new();
    let mut request = eth0(container.target());
    request.config.mac = None;
    let opened = helper().open(request.clone()).expect("attached");
    let mac = opened.link.mac.expect("a random one");
    // Dropped, as a kill -9 drops it.
    drop(TapPort::attach(opened).expect("kept"));
    assert_eq!(within(&container, || link("eth0")).mac, Some(mac));

    let opened = helper().open(request).expect("attached again");
    assert_eq!(opened.provenance, Provenance::Readopted);
    assert_eq!(opened.link.mac, Some(mac));
    assert_eq!(opened.link.addresses, [cidr("172.17.0.2/16")]);
    let port = TapPort::attach(opened).expect("kept");
    port.detach().expect("released");
    assert_eq!(devices(&container), ["lo"]);
}

fn an_adopted_device_gets_the_addresses_now_asked_for() {
    let container = Holder::new();
    let mut request = eth0(container.target());
    let opened = helper().open(request.clone()).expect("attached");
    drop(TapPort::attach(opened).expect("kept"));
    request.config.addresses = vec![cidr("172.17.0.9/16")];
    let opened = helper().open(request.clone()).expect("attached again");
    assert_eq!(opened.link.addresses, [cidr("172.17.0.9/16")]);
    assert_eq!(within(&container, default_routes), [GATEWAY_BY_ETH0]);
    let port = TapPort::attach(opened).expect("kept");

    // Two of one network: with the first goes the second, which was its secondary. And no gateway any more.
    within(&container, || {
        let mut both = eth0(Target::Here).config;
        both.addresses = vec![cidr("172.17.0.9/16"), cidr("172.17.0.10/16")];
        netcfg::apply("eth0", &both, false).expect("a second address");
    });
    drop(port);
    request.config.addresses = vec![cidr("172.17.0.10/16")];
    request.config.routes.clear();
    let opened = helper().open(request).expect("attached a third time");
    assert_eq!(opened.link.addresses, [cidr("172.17.0.10/16")]);
    assert_eq!(within(&container, default_routes), [""; 0]);
}

fn a_plain_reader_gets_no_header_from_a_device_that_had_one() {
    let container = Holder::new();
    let mut request = eth0(container.target());
    let opened = helper().open(request.clone()).expect("attached");
    drop(TapPort::attach(opened).expect("kept"));
    request.header = Header::Plain;
    let opened = helper().open(request).expect("attached again");
    assert_eq!(opened.device.caps(), Caps::PLAIN);
    within(&container, || broadcast(1));
    // With the checksum offload left on, the sum would be partial and nothing would say so.
    let frame = read_plain(&opened.device, |frame| frame[12..14] == [0x08, 0x00]);
    assert_eq!(frame[0..6], [0xff; 6], "the frame begins at its first byte");
    assert_eq!(udp_sum(&frame[14..]), 0xffff, "the checksum is whole");
}

fn a_device_of_somebody_else_outlives_us() {
    let container = Holder::new();
    within(&container, || make_persistent(Kind::Tap, "eth0"));
    let before = within(&container, || link("eth0"));
    let mut helper = helper();
    let opened = helper.open(eth0(container.target())).expect("attached");
    assert_eq!(opened.provenance, Provenance::Found);
    assert!(opened.device.caps().vnet, "flags are set anew");
    assert!(opened.link.up && opened.link != before);
    let (netns, given) = (opened.netns, opened.given.clone());
    let port = TapPort::attach(opened).expect("kept");
    port.detach().expect("released");
    // Where a path or a number leads to a stranger by now, whose eth0 has the same address, nothing is taken from it.
    let stranger = netns::NetnsId { ino: netns.ino + 1, ..netns };
    helper.undo(container.target(), stranger, "eth0", given.clone()).expect("nothing to undo");
    assert_eq!(within(&container, || link("eth0")).addresses.len(), 1);
    helper.undo(Target::Path("/nowhere".into()), netns, "eth0", given.clone()).expect("nothing to undo");
    helper.undo(container.target(), netns, "eth0", given).expect("undone");
    assert_eq!(devices(&container), ["eth0", "lo"]);
    let (eth0, routes) = within(&container, || (link("eth0"), default_routes()));
    assert_eq!((eth0, routes.len()), (before, 0), "as it was");
}

fn what_somebody_else_gave_a_device_stays() {
    let container = Holder::new();
    within(&container, || {
        make_persistent(Kind::Tap, "eth0");
        netcfg::apply("eth0", &eth0(Target::Here).config, false).expect("prepared");
    });
    let before = within(&container, || link("eth0"));
    let mut helper = helper();
    let opened = helper.open(eth0(container.target())).expect("attached");
    assert_eq!(opened.given, Given::default(), "all of it was there");
    let (netns, given) = (opened.netns, opened.given.clone());
    TapPort::attach(opened).expect("kept").detach().expect("released");
    helper.undo(container.target(), netns, "eth0", given).expect("nothing to undo");
    let (eth0, routes) = within(&container, || (link("eth0"), default_routes()));
    assert_eq!((eth0, routes), (before, vec![GATEWAY_BY_ETH0.to_owned()]));
}

// ---- nothing half done

fn a_failing_step_leaves_no_device() {
    let container = Holder::new();
    let error = refused(&mut helper(), unreachable_gateway(container.target()));
    assert_eq!(error.class, Class::Config);
    let step = "eth0: cannot route 0.0.0.0/0 via 203.0.113.1";
    assert_says(&error, &[step, "unreachable"]);
    assert_eq!(devices(&container), ["lo"]);
}

fn a_failing_step_takes_its_addresses_from_a_found_device() {
    let container = Holder::new();
    within(&container, || make_persistent(Kind::Tap, "eth0"));
    let error = refused(&mut helper(), unreachable_gateway(container.target()));
    assert_eq!(error.class, Class::Config);
    let eth0 = within(&container, || link("eth0"));
    assert_eq!((eth0.addresses.len(), eth0.up), (0, false));
}

// ---- bad input: one clear line each

fn a_missing_namespace_is_said_so() {
    let mut helper = helper();
    let path = Target::Path("/run/netns/there-is-none".into());
    let error = refused(&mut helper, eth0(path));
    assert_eq!(error.class, Class::NoTarget);
    assert_says(&error, &["/run/netns/there-is-none", "No such file"]);
    // Linux's largest pid is 2^22.
    for pid in [4_194_305, 0, -1] {
        let error = refused(&mut helper, eth0(Target::Pid(pid)));
        assert_eq!(error.class, Class::NoTarget);
        assert_says(&error, &[&format!("no process {pid}")]);
    }
}

fn what_is_not_a_network_namespace_is_said_so() {
    let mut helper = helper();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let fifo = dir.path().join("fifo");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, 0o600.into(), 0).expect("a fifo");
    for path in [file, fifo, "/proc/self/ns/mnt".into(), "/".into()] {
        let error = refused(&mut helper, eth0(Target::Path(path)));
        assert_eq!(error.class, Class::NoTarget, "{error}");
        assert_says(&error, &["is not a network namespace"]);
    }
}

fn a_taken_name_is_said_so() {
    let container = Holder::new();
    let mut helper = helper();
    let mut request = eth0(container.target());
    request.name = "lo".into();
    let error = refused(&mut helper, request.clone());
    assert_eq!(error.class, Class::Taken);
    assert_says(&error, &["lo exists already"]);
    assert_eq!(within(&container, || link("lo")).addresses, []);
    request.name = "no name".into();
    let error = refused(&mut helper, request);
    assert_eq!(error.class, Class::Invalid);
    assert_says(&error, &["\"no name\" cannot be the name"]);
}

fn a_busy_device_is_said_so() {
    let container = Holder::new();
    let mut helper = helper();
    let _first = helper.open(eth0(container.target())).expect("attached");
    let error = refused(&mut helper, eth0(container.target()));
    assert_eq!(error.class, Class::Taken);
    assert_says(&error, &["TAP eth0 is in use"]);
    assert_eq!(devices(&container), ["eth0", "lo"]);
}

fn a_device_node_without_permission_is_said_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let closed = dir.path().join("tun");
    std::fs::write(&closed, "").expect("a file");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).expect("closed");
    let error = apart(|| {
        netns::unshare_mounts().expect("a mount namespace");
        rustix::mount::mount_bind(&closed, "/dev/net/tun").expect("mounted over it");
        drop_capabilities();
        refused(&mut helper(), eth0(Target::Here))
    });
    assert_eq!(error.class, Class::Forbidden);
    assert_says(&error, &["/dev/net/tun", "Permission denied", "chmod 0666"]);
}

fn a_missing_device_node_is_said_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let error = apart(|| {
        netns::unshare_mounts().expect("a mount namespace");
        rustix::mount::mount_bind(dir.path(), "/dev/net").expect("mounted over it");
        refused(&mut helper(), eth0(Target::Here))
    });
    assert_eq!(error.class, Class::Device);
    assert_says(&error, &["/dev/net/tun", "modprobe tun"]);
}

// ---- the helper

/// The file system is a FUSE whose server never answers.
fn a_path_that_hangs_delays_no_other_request() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = std::fs::File::options().read(true).write(true).open("/dev/fuse").expect("looked at before");
    let number = std::os::fd::AsRawFd::as_raw_fd(&server);
    let options = format!("fd={number},rootmode=40000,user_id=0,group_id=0");
    let options = std::ffi::CString::new(options).expect("no NUL");
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("hangs", dir.path(), "fuse", flags, options.as_c_str()).expect("mounted");

    let mut helper = helper();
    let error = refused(&mut helper, eth0(Target::Path(dir.path().join("c1"))));
    assert_eq!(error.class, Class::TimedOut);
    assert_says(&error, &["opening eth0 in", "c1", "no end after 2s"]);

    let container = Holder::new();
    helper.open(eth0(container.target())).expect("the helper is well");
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).expect("unmounted");
}

fn a_late_answer_is_not_taken_for_the_next_one() {
    let container = Holder::new();
    let mut helper = helper();
    let pid = Pid::from_raw(helper.pid()).expect("above zero");
    kill_process(pid, Signal::STOP).expect("stopped");
    let error = refused(&mut helper, eth0(container.target()));
    assert_eq!(error.class, Class::TimedOut);
    kill_process(pid, Signal::CONT).expect("continued");
    let mut request = eth0(container.target());
    request.name = "eth1".into();
    let second = helper.open(request).expect("attached");
    assert_eq!(second.device.name(), "eth1");
    assert_eq!(devices(&container), ["eth1", "lo"], "the late device is closed, and so deleted");
}

/// A TAP handed over at start, or the pipe of --ready-fd, would stay open as long as the helper.
fn the_helper_holds_nothing_of_its_parents() {
    let (mut read, write) = pipe();
    let _helper = helper();
    drop(write);
    assert!(process::wait_readable(&read, Duration::from_secs(5)).expect("polled"));
    assert_eq!(read.read(&mut [0; 1]).expect("end of file"), 0);
}

fn the_helper_ends_with_its_parent() {
    let (mut read, write) = pipe();
    let me = own_pid();
    let body = || {
        process::die_with(me).expect("alive");
        let helper = helper();
        rustix::io::write(&write, &helper.pid().to_ne_bytes()).expect("told");
        loop {
            std::thread::park();
        }
    };
    let mut parent = process::fork(&[write.as_fd()], body).expect("a process");
    let mut pid = [0; 4];
    read.read_exact(&mut pid).expect("told");
    let helper = watch(i32::from_ne_bytes(pid));
    assert!(!process::has_ended(&helper));
    parent.kill().expect("killed");
    reap(&mut parent);
    assert!(process::wait_readable(&helper, Duration::from_secs(5)).expect("polled"));
}

fn the_helper_ends_when_it_is_dropped() {
    let helper = helper();
    let pidfd = watch(helper.pid());
    assert!(!process::has_ended(&pidfd));
    drop(helper);
    assert!(process::has_ended(&pidfd));
}

// ---- descriptors

fn a_handed_descriptor_keeps_its_header() {
    let container = Holder::new();
    let mut helper = helper();
    for (header, vnet) in [(Header::Vnet, true), (Header::Plain, false)] {
        let mut request = eth0(container.target());
        request.header = header;
        let opened = helper.open(request).expect("attached");
        let port = TapPort::adopt(OwnedFd::from(opened.device)).expect("adopted");
        assert_eq!(port.device().name(), "eth0");
        assert_eq!(port.device().caps().vnet, vnet);
    }
    let mut request = eth0(container.target());
    (request.kind, request.name, request.config) = (Kind::Tun, "tun0".into(), Config::default());
    let tun = helper.open(request).expect("made");
    let error = TapPort::adopt(OwnedFd::from(tun.device)).expect_err("a TUN is no port");
    assert!(matches!(error, TunError::WrongKind { .. }), "{error}");
}

// B20
fn a_link_that_is_down_or_gone_is_told_apart() {
    let container = Holder::new();
    let opened = helper().open(eth0(container.target())).expect("attached");
    let index = opened.link.index;
    let frame = [0; vnet::LEN + 60];
    let write = || opened.device.write(&frame).map_err(WriteError::from);
    let read = || opened.device.read(&mut [0; 2048]).map_err(ReadError::from);
    assert_eq!(write(), Ok(frame.len()));
    within(&container, || set_down(index));
    assert_eq!(write(), Err(WriteError::Down));
    while read().is_ok() {}
    assert_eq!(read(), Err(ReadError::Empty));
    within(&container, || delete(index));
    assert_eq!(write(), Err(WriteError::Gone));
    assert_eq!(read(), Err(ReadError::Gone));
}

fn an_offload_the_kernel_refuses_is_told_apart() {
    let container = Holder::new();
    let opened = helper().open(eth0(container.target())).expect("attached");
    let mut frame = [0; vnet::LEN + 200];
    frame[1] = 0x55; // no gso_type of virtio
    let refused = opened.device.write(&frame).map_err(WriteError::from);
    assert_eq!(refused, Err(WriteError::Refused));
}

// B22
fn what_we_do_not_read_is_counted() {
    let container = Holder::new();
    let mut helper = helper();
    let mut request = eth0(container.target());
    request.config.queue_len = Some(4);
    let opened = helper.open(request).expect("attached");
    within(&container, || broadcast(32));
    let stats = helper.stats(container.target(), "eth0").expect("read");
    assert!(stats.tx_dropped >= 28, "{stats:?}");
    drop(opened);
    let error = helper.stats(container.target(), "eth0").expect_err("gone");
    assert_says(&error, &["eth0: cannot read its counters", "No such device"]);
}

// ---- uplink

fn the_uplink_carries_packets_to_and_from_our_address() {
    let covered = ([192, 0, 2, 10], "192.0.2.1/24");
    let routed = ([198, 51, 100, 10], "192.0.2.1/32");
    for (address, peer) in [covered, routed] {
        let pin = Pin::new();
        let mut config = up0(address, Some(peer));
        config.netns = Some(pin.path.clone());
        let uplink = Uplink::open(&mut helper(), &config).expect("opened");
        assert_eq!(uplink.mtu(), Some(1500));
        let socket = socket_in(&pin, "192.0.2.1:4000");
        let to = (Ipv4Addr::from(address), 5000);
        socket.send_to(b"ping", to).expect("routed to us");
        let ping = read_until(uplink.device(), |packet| packet[0] == 0x45);
        assert_eq!(ping[12..16], [192, 0, 2, 1]);
        assert_eq!(ping[16..20], address);
        assert!(ping.ends_with(b"ping"));

        let mut pong = vec![0; vnet::LEN];
        pong.extend(answer_to(&ping, b"pong"));
        uplink.device().write(&pong).expect("up");
        assert_eq!(receive(&socket), b"pong");
        uplink.close().expect("closed");
        assert_eq!(devices(&pin), ["lo"]);
    }
}

fn an_administrators_tun_needs_no_capability() {
    let names = apart(|| {
        netns::unshare_net().expect("a network namespace");
        let config = up0([192, 0, 2, 10], Some("192.0.2.1/32"));
        make_persistent(Kind::Tun, "up0");
        let request = config.request().expect("valid");
        netcfg::apply("up0", &request.config, false).expect("prepared by the administrator");
        drop_capabilities();
        let uplink = Uplink::open(&mut helper(), &config).expect("opened");
        assert!(uplink.device().caps().vnet);
        uplink.close().expect("closed");
        names()
    });
    assert_eq!(names, ["lo", "up0"], "it is not ours to delete");
}

fn an_unprepared_tun_says_what_the_administrator_must_do() {
    let request = up0([192, 0, 2, 10], None).request().expect("valid");
    let unprepared = apart(|| {
        netns::unshare_net().expect("a network namespace");
        netcfg::apply("lo", &Config::default(), false).expect("lo is up");
        make_persistent(Kind::Tun, "up0");
        drop_capabilities();
        refused(&mut helper(), request.clone())
    });
    assert_eq!(unprepared.class, Class::Config);
    let cure = "have an administrator do it: ip link set up0 up";
    assert_says(&unprepared, &["up0: cannot bring it up", cure]);
    let missing = apart(|| {
        netns::unshare_net().expect("a network namespace");
        drop_capabilities();
        refused(&mut helper(), request)
    });
    assert_eq!(missing.class, Class::Forbidden);
    let cure = "ip tuntap add dev up0 mode tun user";
    assert_says(&missing, &["cannot create TUN up0", cure]);
}

// ---- builders

fn helper() -> EnterHelper {
    EnterHelper::spawn().expect("a helper process")
}

fn eth0(target: Target) -> Request {
    let config = Config {
        label: Some("c1".into()),
        mac: Some(Mac::from_ipv4(Ipv4Addr::new(172, 17, 0, 2))),
        mtu: Some(1400),
        addresses: vec![cidr("172.17.0.2/16")],
        ..Config::default()
    };
    Request {
        target,
        kind: Kind::Tap,
        name: "eth0".into(),
        header: Header::Vnet,
        config: config.with_gateway("172.17.0.1".parse().expect("an address")),
    }
}

/// 172.17.0.1 as `default_routes` shows it.
const GATEWAY_BY_ETH0: &str = "eth0 010011AC";

fn unreachable_gateway(target: Target) -> Request {
    let mut request = eth0(target);
    let via = "203.0.113.1".parse().expect("an address");
    request.config.routes = vec![Route::default_via(via)];
    request
}

fn up0(address: [u8; 4], peer: Option<&str>) -> UplinkConfig {
    UplinkConfig {
        name: "up0".into(),
        address: Ipv4Addr::from(address).into(),
        peer: peer.map(cidr),
        netns: None,
        mtu: None,
        header: Header::Vnet,
    }
}

fn cidr(text: &str) -> pontoon::wire::addr::Cidr {
    text.parse().expect("a test's own literal")
}

fn refused(helper: &mut EnterHelper, request: Request) -> EnterError {
    match helper.open(request) {
        Ok(Opened { device, .. }) => panic!("{} was opened", device.name()),
        Err(error) => error,
    }
}

fn assert_says(error: &EnterError, parts: &[&str]) {
    assert!(!error.text.contains('\n'), "more than a line: {error}");
    for part in parts {
        assert!(error.text.contains(part), "{part:?} is not in: {error}");
    }
}

/// A place to look at from inside.
trait Place {
    fn target(&self) -> Target;
}

/// A process that holds a network namespace of its own until it is dropped.
struct Holder {
    child: Child,
}

impl Holder {
    fn new() -> Self {
        Self::start(|| netns::unshare_net().expect("a network namespace"))
    }

    fn in_user_namespace() -> Self {
        Self::start(|| {
            netns::unshare_user().expect("a user namespace");
            netns::unshare_net().expect("a network namespace");
        })
    }

    fn start(unshare: fn()) -> Self {
        let (mut read, write) = pipe();
        let me = own_pid();
        let body = || {
            unshare();
            process::die_with(me).expect("alive");
            rustix::io::write(&write, &[1]).expect("told");
            loop {
                std::thread::park();
            }
        };
        let child = process::fork(&[write.as_fd()], body).expect("a process");
        drop(write);
        let holder = Self { child };
        read.read_exact(&mut [0]).expect("the holder has its namespace");
        holder
    }

    fn netns(&self) -> netns::NetnsId {
        let path = format!("/proc/{}/ns/net", self.child.pid());
        netns::identify(Path::new(&path)).expect("alive")
    }
}

impl Place for Holder {
    fn target(&self) -> Target {
        Target::Pid(self.child.pid())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.child.kill().expect("killed");
        reap(&mut self.child);
    }
}

/// A network namespace with a name, as `ip netns add` makes it.
struct Pin {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Pin {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("c1");
        pin_new_namespace(&path);
        Self { path, _dir: dir }
    }
}

impl Place for Pin {
    fn target(&self) -> Target {
        Target::Path(self.path.clone())
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // Gone already where the test is about that.
        let _ = netns::unpin(&self.path);
    }
}

/// In another process, which is in our mount namespace: we see the mount.
fn pin_new_namespace(path: &Path) {
    apart(|| {
        netns::unshare_net().expect("a network namespace");
        netns::pin(path).expect("pinned");
    });
}

/// Runs `body` in a process of its own and brings back what it returns.
fn apart<T: Serialize + DeserializeOwned>(body: impl FnOnce() -> T) -> T {
    let (read, write) = pipe();
    let told = || {
        let bytes = serde_json::to_vec(&body()).expect("plain data");
        let mut write = std::fs::File::from(write.try_clone().expect("a copy"));
        write.write_all(&bytes).map_or(1, |()| 0)
    };
    let mut child = process::fork(&[write.as_fd()], told).expect("a process");
    drop(write);
    let result = serde_json::from_reader(read);
    reap(&mut child);
    result.expect("the process came to its end; if not, its panic is above")
}

/// Runs `body` in a process of its own inside a namespace.
fn within<T: Serialize + DeserializeOwned>(place: &impl Place, body: impl FnOnce() -> T) -> T {
    let target = place.target();
    apart(|| {
        enter(&target);
        body()
    })
}

fn enter(target: &Target) {
    let netns = match target {
        Target::Path(path) => Netns::open(path).expect("a namespace"),
        Target::Pid(pid) => Netns::open_pid(*pid).expect("a process").0,
        Target::Here => unreachable!("no place is here"),
    };
    netns.enter().expect("entered");
}

fn devices(place: &impl Place) -> Vec<String> {
    within(place, names)
}

/// The devices of this network namespace, in order.
fn names() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").expect("/proc");
    let rows = table.lines().filter_map(|line| line.split_once(':'));
    let mut names: Vec<_> = rows.map(|(name, _)| name.trim().to_owned()).collect();
    names.sort();
    names
}

/// "device gateway" of each IPv4 default route, the gateway as /proc/net/route has it.
fn default_routes() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/route").expect("/proc");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1] == "00000000").map(|row| format!("{} {}", row[0], row[2])).collect()
}

fn link(name: &str) -> netcfg::Link {
    netcfg::link(name).expect("it is there")
}

/// As an administrator does it: a device that is not marked as pontoon's, for this user.
fn make_persistent(kind: Kind, name: &str) {
    let device = Device::open(kind, name, Header::Plain).expect("made");
    let uid = rustix::process::geteuid().as_raw();
    device.set_owner(uid).expect("given to us");
    device.set_persist(true).expect("kept");
}

fn sorted(cidrs: &[pontoon::wire::addr::Cidr]) -> Vec<String> {
    let mut texts: Vec<_> = cidrs.iter().map(ToString::to_string).collect();
    texts.sort();
    texts
}

/// Datagrams to everybody on eth0: no neighbour has to answer first.
fn broadcast(count: usize) {
    let socket = UdpSocket::bind("172.17.0.2:4000").expect("bound");
    socket.set_broadcast(true).expect("allowed");
    for _ in 0..count {
        let to = "172.17.255.255:5000";
        socket.send_to(b"hello", to).expect("sent");
    }
}

/// A socket that lives in a namespace, used from here; SCM_RIGHTS brings it over.
fn socket_in(place: &impl Place, address: &str) -> UdpSocket {
    let target = place.target();
    let (ours, theirs) = msg::pair().expect("a socket pair");
    let body = || {
        enter(&target);
        let socket = UdpSocket::bind(address).expect("bound");
        msg::send(&theirs, b"socket", &[socket.as_fd()]).map_or(1, |_| 0)
    };
    let mut child = process::fork(&[theirs.as_fd()], body).expect("a process");
    drop(theirs);
    let received = msg::recv(&ours, &mut [0; 16]).expect("received");
    reap(&mut child);
    let fd = received.fds.into_iter().next().expect("a socket");
    UdpSocket::from(fd)
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let limit = Some(Duration::from_secs(5));
    socket.set_read_timeout(limit).expect("above zero");
    let mut buf = [0; 2048];
    let len = socket.recv(&mut buf).expect("it comes");
    buf[..len].to_vec()
}

/// The IPv4 UDP packet that answers another one.
fn answer_to(packet: &[u8], payload: &[u8]) -> Vec<u8> {
    let udp_len = 8 + payload.len();
    let total = (20 + udp_len) as u16;
    let mut answer = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    answer[2..4].copy_from_slice(&total.to_be_bytes());
    answer.extend_from_slice(&packet[16..20]);
    answer.extend_from_slice(&packet[12..16]);
    let sum = !ones_complement_sum(&answer);
    answer[10..12].copy_from_slice(&sum.to_be_bytes());
    answer.extend_from_slice(&packet[22..24]);
    answer.extend_from_slice(&packet[20..22]);
    // RFC 768: a checksum of zero says that there is none.
    answer.extend([0, udp_len as u8, 0, 0]);
    answer.extend_from_slice(payload);
    answer
}

/// The one's complement sum over an IPv4 UDP packet and its pseudo-header: 0xffff if its checksum is right.
fn udp_sum(packet: &[u8]) -> u16 {
    let udp = &packet[20..usize::from(u16::from_be_bytes([packet[2], packet[3]]))];
    let pseudo = [0, 17, 0, udp.len() as u8];
    let mut bytes = [&packet[12..20], &pseudo[..], udp].concat();
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    ones_complement_sum(&bytes)
}

fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum: u32 = words.sum();
    ((sum & 0xffff) + (sum >> 16)) as u16
}

fn drop_capabilities() {
    let none = rustix::thread::CapabilitySet::empty();
    let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).expect("giving up is always allowed");
}

fn pipe() -> (std::fs::File, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    (read.into(), write)
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn watch(pid: i32) -> OwnedFd {
    let pid = Pid::from_raw(pid).expect("above zero");
    pidfd_open(pid, PidfdFlags::empty()).expect("alive")
}

fn reap(child: &mut Child) {
    let exit = child.wait(Duration::from_secs(10)).expect("waited");
    exit.expect("ended within ten seconds");
}

/// The first frame that is as wanted, without its virtio header.
fn read_until(device: &Device, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    assert!(device.caps().vnet);
    read_frame(device, vnet::LEN, wanted)
}

fn read_plain(device: &Device, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    assert!(!device.caps().vnet);
    read_frame(device, 0, wanted)
}

fn read_frame(device: &Device, header: usize, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut buf = vec![0; 70_000];
    for _ in 0..64 {
        let came = process::wait_readable(device, Duration::from_secs(5)).expect("polled");
        assert!(came, "nothing comes");
        let len = device.read(&mut buf).expect("readable");
        if wanted(&buf[header..len]) {
            return buf[header..len].to_vec();
        }
    }
    panic!("64 frames, and none as wanted");
}

/// `ip link set dev eth0 down`: what pontoon itself never does.
fn set_down(index: u32) {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.change_mask = LinkFlags::Up;
    order(RouteNetlinkMessage::SetLink(message));
}

/// `ip link del dev eth0`.
fn delete(index: u32) {
    let mut message = LinkMessage::default();
    message.header.index = index;
    order(RouteNetlinkMessage::DelLink(message));
}

fn order(message: RouteNetlinkMessage) {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE).expect("one");
    socket.bind_auto().expect("bound");
    let kernel = netlink_sys::SocketAddr::new(0, 0);
    socket.connect(&kernel).expect("connected");
    socket.send(&bytes, 0).expect("sent");
    let (bytes, _) = socket.recv_from_full().expect("answered");
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).expect("understood");
    assert!(matches!(answer.payload, NetlinkPayload::Error(error) if error.code.is_none()));
}
