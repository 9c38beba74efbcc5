//! `pontoon run` as whoever runs the tests: real processes, real namespaces, a real terminal.
//!
//! Own `main` and no threads, because a test makes namespaces and forks. This process adopts orphans
//! (PR_SET_CHILD_SUBREAPER), so "nothing is left" is the kernel's word. It is also the command that `pontoon run` runs
//! where a shell cannot tell what is asked: [`ROLE`] says as what. What is missing on this machine is said, and is a
//! failure where the environment variable CI is set.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use rustix::thread::CapabilitySet;

use pontoon::io::netcfg;
use pontoon::io::sys::netns;
use pontoon::io::sys::process::{self, Exit};
use pontoon::io::sys::tuntap::{Device, Header, Kind};
use pontoon::wire::checksum;

/// How long anything may take. Long beside the tens of milliseconds it needs: the machine may be busy.
const SOON: Duration = Duration::from_secs(15);

/// As what this program is run by `pontoon run`.
const ROLE: &str = "PONTOON_RUN_ROLE";

const UPLINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The host's own address, where the uplink is its sockets.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 112);

fn main() {
    if let Some(role) = std::env::var_os(ROLE) {
        std::process::exit(play(&role));
    }
    let mut arguments = Arguments::from_args();
    // With one, libtest-mimic runs them on this thread, the only one.
    arguments.test_threads = Some(1);
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("Linux 3.4 has it");
    if let Err(missing) = apart(|| prepare().map_err(|missing| println!("run: NOT RUN: {missing}"))) {
        assert_eq!(missing, Exit::Code(1), "the look at what there is has crashed");
        std::process::exit(i32::from(std::env::var_os("CI").is_some()));
    }
    macro_rules! trials {
        ($($name:ident),* $(,)?) => {
            vec![$(Trial::test(stringify!($name), || {
                $name();
                Ok(())
            })),*]
        };
    }
    let trials = trials![
        the_exit_status_is_the_commands,
        a_command_killed_by_a_signal_is_128_and_the_signal,
        a_command_that_is_not_there_is_127_and_one_that_is_no_program_126,
        a_wrong_command_line_is_2_and_one_line,
        what_pontoon_cannot_do_is_125_and_one_line,
        without_dev_net_tun_it_says_what_to_do,
        without_user_namespaces_it_says_what_to_do,
        the_network_is_ready_before_the_command_begins,
        the_subnet_is_as_asked_for,
        the_caller_is_root_inside_or_itself,
        the_streams_are_the_commands_alone,
        inherited_descriptors_pass_and_none_of_ours_does,
        arguments_pass_as_they_are,
        a_signal_to_pontoon_reaches_the_command_once,
        an_ignored_signal_stays_ignored,
        a_broken_pipe_ends_the_command,
        ctrl_c_reaches_the_command_once,
        ctrl_c_ends_a_command_that_does_not_mind_it,
        the_terminal_and_its_size_are_the_commands,
        ctrl_z_stops_the_job_but_not_the_switch_and_fg_continues_it,
        a_pipeline_keeps_its_terminal,
        two_at_once_do_not_meet,
        a_published_port_is_reached_at_the_hosts_own_address,
        the_command_reaches_the_host_network_by_sockets,
        a_published_port_is_reached_by_the_uplink,
        a_port_that_was_not_named_is_told_before_the_command_begins,
        name_servers_that_cannot_be_reached_are_told_of_once,
        behind_a_stub_resolver_are_the_servers_it_asks,
        a_name_server_that_is_asked_for_is_the_one,
        a_kill_leaves_no_process,
        a_kill_ends_even_a_command_that_is_told_of_no_parents_end,
        a_killed_switch_ends_the_command,
        what_the_command_leaves_running_has_no_network_any_more,
        a_control_socket_is_there_if_asked_for,
        a_shutdown_ends_the_command,
        nothing_is_left_on_the_disk,
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

/// What it needs; what is missing, in words.
fn prepare() -> Result<(), String> {
    netns::unshare_user().map_err(|error| format!("no user namespace can be made here: {error}"))?;
    netns::unshare_net().map_err(|error| format!("no network namespace can be made here: {error}"))?;
    netns::unshare_mounts().map_err(|error| format!("no mount namespace can be made here: {error}"))?;
    Device::open(Kind::Tun, "probe", Header::Vnet).map(drop).map_err(|error| error.to_string())
}

// What it comes to.

fn the_exit_status_is_the_commands() {
    for status in [0, 1, 2, 125, 255] {
        let output = run(&["--", "sh", "-c", &format!("exit {status}")]);
        assert_eq!(output.status.code(), Some(status));
        assert_eq!((text(&output.stdout), text(&output.stderr)), ("", ""));
    }
    assert_no_child();
}

fn a_command_killed_by_a_signal_is_128_and_the_signal() {
    for (signal, status) in [("KILL", 137), ("TERM", 143), ("SEGV", 139)] {
        let output = run(&["--", "sh", "-c", &format!("kill -{signal} $$")]);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(status), ""), "{signal}");
    }
}

fn a_command_that_is_not_there_is_127_and_one_that_is_no_program_126() {
    for (command, status, says) in [
        ("pontoon-has-no-such-program", 127, "there is none in PATH"),
        ("./no-such-program", 127, "No such file or directory"),
        ("/dev/null", 126, "Permission denied"),
        ("/", 126, "Permission denied"),
    ] {
        assert_complains(&run(&["--", command]), status, &[command, says]);
    }
}

fn a_wrong_command_line_is_2_and_one_line() {
    let cases: [(&[&str], &str); 8] = [
        (&[], "CMD"),
        (&["--"], "CMD"),
        (&["--no-such-option", "--", "true"], "--no-such-option"),
        (&["-p", "80:", "--", "true"], "not a port"),
        (&["-p", "80:80/sctp", "--", "true"], "tcp or udp"),
        (&["-p", "80:80", "-p", "80:81", "--", "true"], "host port 80 is there twice"),
        (&["--dns", "example.org", "--", "true"], "--dns"),
        (&["--user", "alice", "--", "true"], "--user"),
    ];
    for (arguments, says) in cases {
        let output = run(arguments);
        let complained = text(&output.stderr);
        assert_eq!((output.status.code(), complained.lines().count()), (Some(2), 1), "{arguments:?}: {complained}");
        assert!(complained.starts_with("pontoon: ") && complained.contains(says), "{arguments:?}: {complained}");
    }
}

fn what_pontoon_cannot_do_is_125_and_one_line() {
    let cases: [(&[&str], &[&str]); 4] = [
        (&["--config", "/nonexistent/p.toml", "--", "true"], &["/nonexistent/p.toml", "--config"]),
        (&["--control", "/nonexistent/p.sock", "--", "true"], &["/nonexistent", "--control"]),
        (&["--subnet", "172.17.0.0/31", "--", "true"], &["--subnet", "/8 to /30"]),
        (&["--net", "other", "--", "true"], &["other"]),
    ];
    for (arguments, parts) in cases {
        assert_complains(&run(arguments), 125, parts);
    }
    assert_no_child();
}

fn without_dev_net_tun_it_says_what_to_do() {
    in_namespaces(|| {
        rustix::mount::mount("none", "/dev/net", "tmpfs", MountFlags::empty(), None).expect("a mount of our own");
        assert_complains(&run(&["--", "true"]), 125, &["/dev/net/tun", "No such file or directory", "modprobe tun"]);
    });
}

fn without_user_namespaces_it_says_what_to_do() {
    in_namespaces(|| {
        // user_namespaces(7): the limit of this user namespace, for those in it.
        std::fs::write("/proc/sys/user/max_user_namespaces", "0").expect("ours to set");
        let parts = ["no user namespace can be made here", "sysctl -w user.max_user_namespaces=", "--user none"];
        assert_complains(&run(&["--", "true"]), 125, &parts);
        // Who is root can do without.
        let output = run_as("look", &["--user", "none"]);
        assert_eq!(text(&output.stderr), "");
        assert!(text(&output.stdout).contains("eth0 172.17.0.2/16"), "{}", text(&output.stdout));
        rustix::thread::remove_capability_from_bounding_set(CapabilitySet::SYS_ADMIN).expect("ours to give up");
        assert_complains(&run(&["--user", "none", "--", "true"]), 125, &["--user none", "only root"]);
    });
}

// The network.

fn the_network_is_ready_before_the_command_begins() {
    let output = run_as("look", &[]);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(
        text(&output.stdout),
        "eth0 172.17.0.2/16 up, mtu 1500\nlo up\ndefault via 172.17.0.1 dev eth0\nfirst ping answered\ndevices eth0 lo\n"
    );
    assert_eq!(output.status.code(), Some(0));
}

fn the_subnet_is_as_asked_for() {
    let output = run_as("look", &["--subnet", "10.9.8.0/24", "--gateway", "10.9.8.254", "--mtu", "9000"]);
    let said = text(&output.stdout);
    assert!(said.contains("eth0 10.9.8.1/24 up, mtu 9000\n"), "{said}");
    assert!(said.contains("default via 10.9.8.254 dev eth0\n"), "{said}");
}

fn the_caller_is_root_inside_or_itself() {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    for (user, ids) in [("root", "0 0".to_owned()), ("keep", format!("{uid} {gid}"))] {
        let output = run(&["--user", user, "--", "sh", "-c", "echo $(id -u) $(id -g)"]);
        assert_eq!((text(&output.stdout), text(&output.stderr)), (format!("{ids}\n").as_str(), ""));
    }
}

fn two_at_once_do_not_meet() {
    let start = || {
        let mut child =
            ours_as("look-and-wait", &[]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run");
        let said = until_line(&mut child, "ready");
        assert!(said.contains("eth0 172.17.0.2/16 up") && said.contains("first ping answered"), "{said}");
        child
    };
    let mut both = [start(), start()];
    for child in &mut both {
        child.stdin = None;
        assert_eq!(wait(child).code(), Some(0));
    }
    assert_no_child();
}

fn a_published_port_is_reached_at_the_hosts_own_address() {
    in_namespaces(|| {
        host_with_an_address();
        let mut child = ours_as("serve", &["-p", "8080:80", "--dns", "192.0.2.53"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run");
        until_line(&mut child, "ready");
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((HOST, 8080)), SOON).expect("connected");
        stream.set_read_timeout(Some(SOON)).expect("a socket");
        let own = stream.local_addr().expect("connected");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("a word");
        assert_eq!(said, format!("You are 172.17.0.1:{}.", own.port()), "the host itself is shown as the gateway");
        assert_eq!(wait(&mut child).code(), Some(0));
        let mut complained = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut complained).expect("text");
        assert_eq!(complained, "");
    });
}

fn the_command_reaches_the_host_network_by_sockets() {
    in_namespaces(|| {
        host_with_an_address();
        let listener = TcpListener::bind((HOST, 7000)).expect("an address of ours");
        let mut child = ours_as("call", &["--dns", "192.0.2.53"])
            .arg(format!("{HOST}:7000"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("run");
        assert!(process::wait_readable(&listener, SOON).expect("polled"), "nobody calls");
        let (mut stream, client) = listener.accept().expect("a call");
        assert_eq!(client.ip(), HOST, "a socket of the host's");
        stream.set_read_timeout(Some(SOON)).expect("a socket");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("the whole question");
        assert_eq!(said, "Who are you?");
        stream.write_all(b"The host.").expect("answered");
        drop(stream);
        until_line(&mut child, "The host.");
        assert_eq!(wait(&mut child).code(), Some(0));
        let devices = std::fs::read_to_string("/proc/thread-self/net/dev").expect("/proc");
        assert_eq!(devices.lines().skip(2).count(), 1, "the host has got no device: {devices}");
    });
}

/// Gives the namespace's own `lo` an address that is not of 127.0.0.0/8.
fn host_with_an_address() {
    let addresses = vec![format!("{HOST}/32").parse().expect("a cidr")];
    netcfg::apply("lo", &netcfg::Config { addresses, ..Default::default() }, false).expect("ours to set");
}

fn a_published_port_is_reached_by_the_uplink() {
    in_namespaces(|| {
        let uplink = format!("tun:name=up0,address={UPLINK},peer=192.0.2.1/24");
        let mut child = ours_as("serve", &["--uplink", &uplink, "-p", "8080:80", "--dns", "192.0.2.1"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("run");
        until_line(&mut child, "ready");
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((UPLINK, 8080)), SOON).expect("connected");
        let own = stream.local_addr().expect("connected");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("a word");
        assert_eq!(said, format!("You are {own}."));
        assert_eq!(wait(&mut child).code(), Some(0));
        assert!(netcfg::link("up0").is_err(), "the uplink went with it");
    });
}

// D14
fn a_port_that_was_not_named_is_told_before_the_command_begins() {
    in_namespaces(|| {
        let uplink = format!("tun:name=up0,address={UPLINK},peer=192.0.2.1/24");
        let mut child = ours_as("serve", &["--uplink", &uplink, "-p", "80", "-p", "8080:81", "--dns", "192.0.2.1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run");
        until_line(&mut child, "ready");
        let mut told = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        told.read_line(&mut line).expect("a line");
        let port = line.strip_prefix("pontoon: run: 80/tcp -> 0.0.0.0:").and_then(|port| port.trim().parse().ok());
        let port = port.unwrap_or_else(|| panic!("{line}"));
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((UPLINK, port)), SOON).expect("connected");
        stream.read_to_string(&mut String::new()).expect("a word");
        assert_eq!(wait(&mut child).code(), Some(0));
        let mut rest = String::new();
        told.read_to_string(&mut rest).expect("its end");
        assert_eq!(rest, "", "and nothing of the port that was named");
    });
}

fn name_servers_that_cannot_be_reached_are_told_of_once() {
    in_namespaces(|| {
        resolvers(&[("/etc/resolv.conf", "nameserver 127.0.0.1\n")]);
        let uplink = format!("tun:name=up0,address={UPLINK}");
        let show = ["--", "cat", "/etc/resolv.conf"];
        let output = run(&[&["--uplink", uplink.as_str()], &show[..]].concat());
        let complained = text(&output.stderr);
        assert!(complained.contains("names will not resolve") && complained.contains("--dns"), "{complained}");
        assert_eq!(complained.lines().count(), 1, "{complained}");
        assert_eq!(text(&output.stdout), "nameserver 127.0.0.1\n");
        // Who has no uplink, or says which server, is told nothing.
        assert_eq!(text(&run(&[&["--uplink", "none"], &show[..]].concat()).stderr), "");
        let output = run(&[&["--uplink", uplink.as_str(), "--dns", "192.0.2.53"], &show[..]].concat());
        assert_eq!((text(&output.stdout), text(&output.stderr)), ("nameserver 192.0.2.53\n", ""));
    });
}

fn behind_a_stub_resolver_are_the_servers_it_asks() {
    in_namespaces(|| {
        let stub = "/run/systemd/resolve/stub-resolv.conf";
        resolvers(&[
            (stub, "nameserver 127.0.0.53\noptions edns0\n"),
            ("/run/systemd/resolve/resolv.conf", "nameserver 192.0.2.53\nnameserver 2001:db8::53\n"),
        ]);
        // As on such a machine: a symbolic link.
        std::os::unix::fs::symlink(stub, "/etc/resolv.conf").expect("ours");
        let output = run(&["--", "sh", "-c", "cat /etc/resolv.conf; ls /etc"]);
        assert_eq!(
            (text(&output.stdout), text(&output.stderr)),
            ("nameserver 192.0.2.53\noptions edns0\nresolv.conf\n", "")
        );
        let ours = std::fs::read_to_string("/etc/resolv.conf").expect("there");
        assert_eq!(ours, "nameserver 127.0.0.53\noptions edns0\n", "outside nothing has changed");
    });
}

fn a_name_server_that_is_asked_for_is_the_one() {
    in_namespaces(|| {
        resolvers(&[("/etc/resolv.conf", "search example.org\nnameserver 192.0.2.1\n")]);
        let output =
            run(&["--dns", "192.0.2.2", "--dns", "192.0.2.3", "--user", "keep", "--", "cat", "/etc/resolv.conf"]);
        assert_eq!(text(&output.stdout), "nameserver 192.0.2.2\nnameserver 192.0.2.3\nsearch example.org\n");
    });
}

/// Covers /etc and /run, and has these files there.
fn resolvers(files: &[(&str, &str)]) {
    for directory in ["/etc", "/run"] {
        rustix::mount::mount("none", directory, "tmpfs", MountFlags::empty(), None).expect("a mount of our own");
    }
    for (path, text) in files {
        let path = Path::new(path);
        std::fs::create_dir_all(path.parent().expect("absolute")).expect("ours");
        std::fs::write(path, text).expect("ours");
    }
}

// Streams, descriptors, arguments.

fn the_streams_are_the_commands_alone() {
    let mut child = ours(&["--", "sh", "-c", "exec <&- >&-; echo closed >&2; exec sleep 30 <&- >&-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run");
    // CMD has closed them and runs on: nobody else holds them.
    let mut said = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut said).expect("the end of it");
    assert_eq!(said, "");
    let refused = child.stdin.take().expect("piped").write_all(b"x").expect_err("nobody reads");
    assert_eq!(refused.kind(), std::io::ErrorKind::BrokenPipe);
    let mut line = String::new();
    BufReader::new(child.stderr.take().expect("piped")).read_line(&mut line).expect("a line");
    assert_eq!(line, "closed\n");
    signal(&child, Signal::TERM);
    assert_eq!(wait(&mut child).code(), Some(143));

    // And they carry bytes, all of them.
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("bytes");
    std::fs::write(&path, &bytes).expect("written");
    let output = ours(&["--", "cat"]).stdin(File::open(&path).expect("there")).output().expect("run");
    assert_eq!((output.stdout == bytes, output.status.code()), (true, Some(0)));
}

fn inherited_descriptors_pass_and_none_of_ours_does() {
    // The directory's own is one more, of the program that lists it.
    let list = "ls /proc/self/fd | sort -n | tr '\\n' ' '";
    let script = format!("exec 7</dev/null; {list}; \"$0\" run -- sh -c \"{list}\"");
    let output = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_pontoon")])
        .stdin(Stdio::null())
        .output()
        .expect("sh");
    let said = text(&output.stdout).trim_end();
    let (without, with) = said.split_at(said.len() / 2);
    assert_eq!(without.trim(), with.trim(), "{said}");
    assert!(with.split(' ').any(|number| number == "7"), "{said}");
}

fn arguments_pass_as_they_are() {
    let output = run(&["printf", "[%s]", "-p", "--", "a b", "", "ü"]);
    assert_eq!(text(&output.stdout), "[-p][--][a b][][ü]");
}

// Signals.

/// Says each signal; ends by SIGALRM, and at some time by itself, if a test fails.
const TRAPS: &str = "for s in HUP INT QUIT TERM USR1 USR2 WINCH CONT; do trap \"echo $s\" $s; done; \
                     trap 'echo ALRM; exit 9' ALRM; echo ready; n=0; while [ $n -lt 3000 ]; do sleep 0.01; n=$((n+1)); done";

fn a_signal_to_pontoon_reaches_the_command_once() {
    let mut child = ours(&["--", "sh", "-c", TRAPS]).stdout(Stdio::piped()).spawn().expect("run");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map(|line| line.expect("text"));
    assert_eq!(lines.next().as_deref(), Some("ready"));
    for (number, name) in [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::TERM, "TERM"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::WINCH, "WINCH"),
        (Signal::CONT, "CONT"),
        (Signal::TERM, "TERM"),
    ] {
        signal(&child, number);
        assert_eq!(lines.next().as_deref(), Some(name));
    }
    let command = below(child.id()).into_iter().find(|process| process.name == "sh").expect("CMD");
    rustix::process::kill_process(Pid::from_raw(command.pid).expect("a pid"), Signal::ALARM).expect("sent");
    assert_eq!(lines.collect::<Vec<_>>(), ["ALRM"], "each of them once");
    assert_eq!(wait(&mut child).code(), Some(9));
}

fn an_ignored_signal_stays_ignored() {
    let script = "trap '' HUP; exec \"$0\" run -- sh -c 'kill -HUP $$; echo alive'";
    let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_pontoon")]).output().expect("sh");
    assert_eq!((text(&output.stdout), output.status.code()), ("alive\n", Some(0)));
}

fn a_broken_pipe_ends_the_command() {
    let script = "{ \"$0\" run -- yes; echo $? >&2; } | head -n 1";
    let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_pontoon")]).output().expect("sh");
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("y\n", "141\n"));
}

// The terminal.

fn ctrl_c_reaches_the_command_once() {
    let mut terminal =
        Terminal::run(&["sh", "-c", "trap : INT QUIT; \"$0\" run -- sh -c \"$1\"; echo status $?", PROGRAM, TRAPS]);
    terminal.until("ready");
    terminal.press(b"\x03");
    terminal.until("INT");
    terminal.press(b"\x1c");
    terminal.until("QUIT");
    // Another way to pontoon, as a mark: what came twice would have come by now.
    let pontoon = terminal.pontoon();
    rustix::process::kill_process(pontoon, Signal::USR1).expect("sent");
    terminal.until("USR1");
    assert_eq!(terminal.said.matches("INT").count(), 1, "{}", terminal.said);
    assert_eq!(terminal.said.matches("QUIT").count(), 1, "{}", terminal.said);
    terminal.kill(Signal::ALARM);
    terminal.until("status 9");
}

fn ctrl_c_ends_a_command_that_does_not_mind_it() {
    let mut terminal = Terminal::run(&[PROGRAM, "run", "--", "sh", "-c", "echo ready; exec sleep 30"]);
    terminal.until("ready");
    terminal.press(b"\x03");
    assert_eq!(terminal.end(), Exit::Code(130));
    assert_no_child();
}

fn the_terminal_and_its_size_are_the_commands() {
    let script = "trap 'stty size; seen=1' WINCH; tty >/dev/null && echo a terminal; stty size; echo ready; \
                  until [ \"$seen\" ]; do sleep 0.01; done; read line; echo \"got $line\"";
    let mut terminal = Terminal::run(&[PROGRAM, "run", "--", "sh", "-c", script]);
    terminal.until("ready");
    assert!(terminal.said.contains("a terminal") && terminal.said.contains("24 80"), "{}", terminal.said);
    terminal.resize(50, 132);
    terminal.until("50 132");
    terminal.press(b"word\n");
    terminal.until("got word");
    assert_eq!(terminal.end(), Exit::Code(0));
}

fn ctrl_z_stops_the_job_but_not_the_switch_and_fg_continues_it() {
    // A shell with job control; what it runs second is run when the job has stopped.
    let shell = "set -m; \"$0\" run -- sh -c 'echo ready; read line; echo \"got $line\"; exit 3'; echo \"stopped $?\"; \
                 read go; fg >/dev/null; echo \"ended $?\"";
    let mut terminal = Terminal::run(&["sh", "-c", shell, PROGRAM]);
    terminal.until("ready");
    terminal.press(b"\x1a");
    terminal.until("stopped 148");
    let session = terminal.child.pid().unsigned_abs();
    // And for a moment the helper's child, which has made eth0.
    soon("the shell's job is three of pontoon and CMD", || below(session).len() == 4);
    let all = below(session);
    let states =
        |name: &'static str| all.iter().filter(move |process| process.name == name).map(|process| process.state);
    assert_eq!(states("pontoon").filter(|&state| state == 'T').count(), 1, "pontoon run: {all:?}");
    assert_eq!(states("pontoon").filter(|&state| state != 'T').count(), 2, "the switch and its helper: {all:?}");
    assert!(states("sh").any(|state| state == 'T'), "CMD: {all:?}");
    terminal.press(b"go\n");
    // Until then the terminal is the shell's.
    soon("it is continued", || below(session).iter().all(|process| process.state != 'T'));
    terminal.press(b"word\n");
    terminal.until("got word");
    terminal.until("ended 3");
    assert_eq!(terminal.end(), Exit::Code(0));
}

fn a_pipeline_keeps_its_terminal() {
    // The last of a pipeline reads keys, as a pager does; it must be in the foreground, and so must CMD.
    let shell = "set -m; \"$0\" run -- sh -c 'echo ready; read line </dev/tty; echo \"cmd $line\"' | \
                 { read line; echo \"$line\"; read line; echo \"$line\"; read key </dev/tty; echo \"pager $key\"; }";
    let mut terminal = Terminal::run(&["sh", "-c", shell, PROGRAM]);
    terminal.until("ready");
    terminal.press(b"one\n");
    terminal.until("cmd one");
    terminal.press(b"two\n");
    terminal.until("pager two");
    assert_eq!(terminal.end(), Exit::Code(0));
}

// Ends.

fn a_kill_leaves_no_process() {
    let mut child = ours(&["--", "sh", "-c", "echo ready; exec sleep 60"]).stdout(Stdio::piped()).spawn().expect("run");
    until_line(&mut child, "ready");
    // And for a moment the helper's child, which has made eth0.
    soon("CMD, the switch and its helper", || below(child.id()).len() == 3);
    signal(&child, Signal::KILL);
    wait(&mut child);
    assert_no_child();
}

/// Such as a program with file capabilities: prctl(2), PR_SET_PDEATHSIG.
fn a_kill_ends_even_a_command_that_is_told_of_no_parents_end() {
    let mut child = ours_as("orphan", &[]).stdout(Stdio::piped()).spawn().expect("run");
    until_line(&mut child, "ready");
    signal(&child, Signal::KILL);
    wait(&mut child);
    assert_no_child();
}

fn a_killed_switch_ends_the_command() {
    let mut child = ours(&["--", "sh", "-c", "echo ready; exec sleep 60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run");
    until_line(&mut child, "ready");
    let switch = below(child.id()).into_iter().find(|process| process.name == "pontoon").expect("the switch");
    rustix::process::kill_process(Pid::from_raw(switch.pid).expect("a pid"), Signal::KILL).expect("sent");
    let status = wait(&mut child);
    let mut complained = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut complained).expect("text");
    assert_eq!((status.code(), complained.lines().count()), (Some(125), 1), "{complained}");
    assert!(complained.contains("the switch has ended"), "{complained}");
    assert_no_child();
}

fn what_the_command_leaves_running_has_no_network_any_more() {
    let output = run(&["--", "sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!; exit 5"]);
    assert_eq!(output.status.code(), Some(5));
    let pid: i32 = text(&output.stdout).trim().parse().expect("a pid");
    let devices = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).expect("it runs");
    assert!(devices.contains("lo:") && !devices.contains("eth0:"), "{devices}");
    rustix::process::kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL).expect("it is ours");
    assert_no_child();
}

fn a_control_socket_is_there_if_asked_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut child, control) = controlled(directory.path());
    let output = Command::new(PROGRAM).args(["ports", "--json", "--control", &control]).output().expect("ports");
    let said = text(&output.stdout);
    assert!(said.contains("\"run\"") && said.contains("eth0"), "{said}{}", text(&output.stderr));
    signal(&child, Signal::TERM);
    assert_eq!(wait(&mut child).code(), Some(143));
    assert!(!Path::new(&control).exists(), "it goes with it");
}

fn a_shutdown_ends_the_command() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut child, control) = controlled(directory.path());
    let output = Command::new(PROGRAM).args(["shutdown", "--control", &control]).output().expect("shutdown");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let status = wait(&mut child);
    let mut complained = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut complained).expect("text");
    assert_eq!(
        (status.code(), complained.as_str()),
        (Some(137), "pontoon: run: the switch was shut down; CMD is killed\n")
    );
    assert_no_child();
}

fn controlled(directory: &Path) -> (Child, String) {
    let control = directory.join("p.sock").to_str().expect("text").to_owned();
    let mut child = ours(&["--control", &control, "--", "sh", "-c", "echo ready; exec sleep 60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run");
    until_line(&mut child, "ready");
    (child, control)
}

fn nothing_is_left_on_the_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let output =
        ours(&["--dns", "192.0.2.1", "--", "sh", "-c", "ls -A . \"$TMPDIR\" \"$XDG_RUNTIME_DIR\" | grep -v :"])
            .current_dir(directory.path())
            .env("TMPDIR", directory.path())
            .env("HOME", directory.path())
            .env("XDG_RUNTIME_DIR", directory.path())
            .output()
            .expect("run");
    assert_eq!((text(&output.stdout).trim(), text(&output.stderr)), ("", ""), "while it runs");
    assert_eq!(std::fs::read_dir(directory.path()).expect("still there").count(), 0);
}

// What this program does inside.

fn play(role: &OsString) -> i32 {
    match role.to_str() {
        Some("look") => look(),
        Some("look-and-wait") => {
            look();
            println!("ready");
            let _ = std::io::stdin().read(&mut [0]);
        }
        Some("serve") => {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).expect("root inside");
            println!("ready");
            let (mut stream, client) = listener.accept().expect("a client");
            write!(stream, "You are {client}.").expect("said");
        }
        Some("call") => {
            let to: SocketAddr = std::env::args().nth(1).expect("whom").parse().expect("an address");
            let mut stream = TcpStream::connect_timeout(&to, SOON).expect("connected");
            stream.set_read_timeout(Some(SOON)).expect("a socket");
            stream.write_all(b"Who are you?").expect("asked");
            stream.shutdown(Shutdown::Write).expect("connected");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            println!("{answer}");
        }
        Some("orphan") => {
            rustix::process::set_parent_process_death_signal(None).expect("no conditions");
            println!("ready");
            std::thread::sleep(Duration::from_secs(60));
        }
        other => panic!("{other:?}"),
    }
    0
}

/// What the network is like, told by the kernel in these very first moments.
fn look() {
    let eth0 = netcfg::link("eth0").expect("eth0");
    let addresses: Vec<String> = eth0.addresses.iter().filter(|a| a.addr().is_v4()).map(ToString::to_string).collect();
    let state = |up| if up { "up" } else { "down" };
    println!("eth0 {} {}, mtu {}", addresses.join(" "), state(eth0.up), eth0.mtu);
    println!("lo {}", state(netcfg::link("lo").expect("lo").up));
    let routes = std::fs::read_to_string("/proc/net/route").expect("/proc");
    // Iface, Destination, Gateway, Flags, RefCnt, Use, Metric, Mask; addresses as a little-endian machine prints them.
    for words in routes.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()) {
        if words[1] == "00000000" {
            let via = u32::from_str_radix(words[2], 16).expect("hexadecimal");
            println!("default via {} dev {}", Ipv4Addr::from(via.to_ne_bytes()), words[0]);
            println!("first ping {}", if ping(via.to_ne_bytes().into()) { "answered" } else { "lost" });
        }
    }
    let devices = std::fs::read_to_string("/proc/net/dev").expect("/proc");
    let mut names: Vec<&str> = devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    names.sort_unstable();
    println!("devices {}", names.join(" "));
}

/// One echo request (RFC 792): is it answered?
fn ping(to: Ipv4Addr) -> bool {
    let kind = (SocketType::RAW, SocketFlags::CLOEXEC);
    let socket =
        rustix::net::socket_with(AddressFamily::INET, kind.0, kind.1, Some(ipproto::ICMP)).expect("root inside");
    rustix::net::connect(&socket, &SocketAddr::from((to, 0))).expect("a route");
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(5))).expect("a limit");
    let mut request = [8, 0, 0, 0, 0x12, 0x34, 0, 1];
    let sum = !checksum::sum(&request);
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    rustix::net::send(&socket, &request, SendFlags::empty()).expect("sent");
    let mut buf = [0; 128];
    rustix::net::recv(&socket, &mut buf, RecvFlags::empty())
        .is_ok_and(|(_, len)| len == 28 && buf[20] == 0 && buf[24..28] == request[4..])
}

// Tools.

const PROGRAM: &str = env!("CARGO_BIN_EXE_pontoon");

/// `pontoon run` with these arguments.
fn ours(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("run").args(arguments).stdin(Stdio::null());
    command
}

/// `pontoon run` with these options, of this program in a role.
fn ours_as(role: &str, options: &[&str]) -> Command {
    let mut command = ours(options);
    command.arg("--").arg(std::env::current_exe().expect("/proc")).env(ROLE, role);
    command
}

fn run(arguments: &[&str]) -> Output {
    ours(arguments).output().expect("the binary runs")
}

fn run_as(role: &str, options: &[&str]) -> Output {
    ours_as(role, options).output().expect("the binary runs")
}

fn assert_complains(output: &Output, status: i32, parts: &[&str]) {
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), said), (Some(status), ""), "{complained}");
    assert_eq!(complained.lines().count(), 1, "{complained}");
    assert!(complained.starts_with("pontoon: run: "), "{complained}");
    for part in parts {
        assert!(complained.contains(part), "{part:?} is not in: {complained}");
    }
}

fn signal(child: &Child, signal: Signal) {
    rustix::process::kill_process(Pid::from_child(child), signal).expect("it runs");
}

/// What it says until this line.
fn until_line(child: &mut Child, line: &str) -> String {
    let mut reader = BufReader::new(child.stdout.as_mut().expect("piped"));
    let mut said = String::new();
    while said.lines().last() != Some(line) {
        let is_there = !reader.buffer().is_empty() || process::wait_readable(reader.get_ref(), SOON).expect("polled");
        assert!(is_there, "no {line:?}: {said}");
        assert_ne!(reader.read_line(&mut said).expect("text"), 0, "it ended before it said {line:?}: {said}");
    }
    said
}

fn wait(child: &mut Child) -> ExitStatus {
    let mut status = None;
    soon("it ends", || {
        status = child.try_wait().expect("waited");
        status.is_some()
    });
    status.expect("just seen")
}

fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `body` as root of new user, mount and network namespaces.
fn in_namespaces(body: impl FnOnce()) {
    let done = apart(|| {
        netns::unshare_user().map_err(|error| println!("a user namespace: {error}"))?;
        netns::unshare_net().map_err(|error| println!("a network namespace: {error}"))?;
        netns::unshare_mounts().map_err(|error| println!("a mount namespace: {error}"))?;
        body();
        Ok(())
    });
    assert_eq!(done, Ok(()), "see above");
    assert_no_child();
}

/// Runs `body` in a process of its own.
fn apart(body: impl FnOnce() -> Result<(), ()>) -> Result<(), Exit> {
    let mut child = process::fork(&[], || u8::from(body().is_err())).expect("a process");
    match child.wait(3 * SOON).expect("waited").expect("ended") {
        Exit::Code(0) => Ok(()),
        exit => Err(exit),
    }
}

/// A process as proc(5) has it.
#[derive(Debug)]
struct Process {
    pid: i32,
    name: String,
    /// R, S, T...
    state: char,
}

/// All processes below this one.
fn below(pid: u32) -> Vec<Process> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut all = Vec::new();
    for child in children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()) {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{child}/stat")) else { continue };
        let (head, tail) = stat.rsplit_once(") ").expect("PID (NAME) STATE ..");
        let (_, name) = head.split_once(" (").expect("PID (NAME) STATE ..");
        all.push(Process { pid: child, name: name.into(), state: tail.chars().next().expect("a state") });
        all.extend(below(child.unsigned_abs()));
    }
    all
}

/// Reaps what was left to us as it ended, which is to be over soon.
fn assert_no_child() {
    soon("no process is left", || {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Err(Errno::CHILD) => return true,
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return false,
                Err(error) => panic!("cannot wait: {error}"),
            }
        }
    });
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// A terminal of 24 lines and 80 columns, and the session on it. Nothing echoes.
struct Terminal {
    master: File,
    child: process::Child,
    said: String,
}

impl Terminal {
    /// Has `command` lead a session on a new terminal.
    fn run(command: &[&str]) -> Self {
        let master =
            rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
        rustix::pty::grantpt(&master).expect("granted");
        rustix::pty::unlockpt(&master).expect("unlocked");
        let name = rustix::pty::ptsname(&master, Vec::new()).expect("a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave: OwnedFd = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).expect("its other side");
        let mut modes = rustix::termios::tcgetattr(&slave).expect("a terminal");
        modes.local_modes -= rustix::termios::LocalModes::ECHO;
        rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &modes).expect("set");
        resize(&slave, 24, 80);
        let child = process::fork(&[slave.as_fd()], || {
            let lead = || -> rustix::io::Result<()> {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(&slave)?;
                rustix::stdio::dup2_stdin(&slave)?;
                rustix::stdio::dup2_stdout(&slave)?;
                rustix::stdio::dup2_stderr(&slave)
            };
            lead().expect("a session");
            let error = Command::new(command[0]).args(&command[1..]).exec();
            panic!("{}: {error}", command[0]);
        });
        Self { master: File::from(master), child: child.expect("a process"), said: String::new() }
    }

    fn press(&mut self, keys: &[u8]) {
        self.master.write_all(keys).expect("a terminal takes keys");
    }

    fn resize(&self, rows: u16, columns: u16) {
        resize(&self.master, rows, columns);
    }

    /// Reads until this was said.
    fn until(&mut self, words: &str) {
        let end = Instant::now() + SOON;
        while !self.said.contains(words) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(process::wait_readable(&self.master, left).expect("polled"), "no {words:?}: {}", self.said);
            let mut buf = [0; 4096];
            // EIO: all who had it open have ended.
            let len = self.master.read(&mut buf).unwrap_or_else(|error| panic!("{error}, no {words:?}: {}", self.said));
            self.said.push_str(text(&buf[..len]));
        }
    }

    /// `pontoon run` itself: the first of that name.
    fn pontoon(&self) -> Pid {
        let all = below(self.child.pid().unsigned_abs());
        let found = all.iter().find(|process| process.name == "pontoon").expect("pontoon runs");
        Pid::from_raw(found.pid).expect("a pid")
    }

    /// Sends a signal to CMD, a shell.
    fn kill(&self, signal: Signal) {
        let all = below(self.pontoon().as_raw_nonzero().get().unsigned_abs());
        let found = all.iter().find(|process| process.name == "sh").expect("CMD runs");
        rustix::process::kill_process(Pid::from_raw(found.pid).expect("a pid"), signal).expect("sent");
    }

    fn end(mut self) -> Exit {
        self.child.wait(SOON).expect("waited").unwrap_or_else(|| panic!("it does not end: {}", self.said))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Where it has ended already, both fail.
        let _ = self.child.kill();
        let _ = self.child.wait(SOON);
    }
}

fn resize(terminal: impl AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).expect("a terminal");
}
