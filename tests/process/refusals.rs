//! What is asked for wrongly: one clear line, and nothing half applied.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

use super::bed::{Case, PROGRAM, Pair, SERVER, Said, answer, devices, dial};
use super::ns::Netns;
use super::{Claim, claims};

pub const CLAIMS: &[Claim] = claims![
    a_switch_that_cannot_be_says_why_in_a_line,
    a_wrong_command_line_is_a_usage_error,
    a_refused_request_leaves_nothing,
    a_port_that_is_allocated_refuses_the_whole,
    an_unknown_key_is_told_with_its_line,
    a_namespace_of_somebody_else_is_refused,
    without_the_device_node_it_says_so needs "unshare" "mount",
    what_is_no_request_is_answered_and_hurts_nobody,
    a_hundred_silent_clients_hurt_nobody,
];

const C1: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const C2: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 3);

/// One line on standard error that has all of `words`, this status, and nothing on standard output.
pub(super) fn refused(what: &[&str], said: &Said, status: i32, words: &[&str]) {
    // The switch logs to the same place; what is told to the person begins with the program's name.
    let lines: Vec<_> = said.err.lines().filter(|line| line.starts_with("pontoon: ")).collect();
    assert_eq!(said.status, Some(status), "{what:?}: {}", said.err);
    assert_eq!(lines.len(), 1, "{what:?}: {}", said.err);
    assert_eq!(said.out, "", "{what:?}");
    assert!(!said.err.contains("panicked"), "{what:?}: {}", said.err);
    for word in words {
        assert!(lines[0].contains(word), "{what:?} does not say {word:?}: {}", lines[0]);
    }
}

fn a_switch_that_cannot_be_says_why_in_a_line() {
    let case = Case::new();
    let control = case.control();
    let control = control.to_str().expect("ASCII");
    let long = format!("/run/{}", "x".repeat(200));
    let nowhere = "/run/not/there";
    for (options, status, words) in [
        (
            &["--control", control, "--subnet", "172.17.0.0/16", "--gateway", "10.0.0.1"][..],
            1,
            &["10.0.0.1", "172.17.0.0/16"][..],
        ),
        (&["--control", control, "--subnet", "172.17.0.0/33"], 2, &["172.17.0.0/33"]),
        (&["--control", control, "--mtu", "20"], 1, &["20"]),
        (&["--control", control, "--mtu", "70000"], 2, &["70000"]),
        (&["--control", &long], 1, &["107", &long]),
        (&["--control", nowhere], 1, &[nowhere]),
        (&["--control", control, "--config", "/run/none.toml"], 1, &["/run/none.toml"]),
        (&["--control", control, "--uplink", "tun:name=up0"], 2, &["address"]),
        (&["--control", control, "--uplink", "carrier-pigeon"], 2, &["carrier-pigeon"]),
        (
            &["--control", control, "--uplink", "tun:name=up0,address=192.0.2.10,netns=/run/netns/none"],
            1,
            &["/run/netns/none"],
        ),
        (
            &["--control", control, "--uplink", "tun:name=much-too-long-a-name,address=192.0.2.10"],
            1,
            &["much-too-long-a-name"],
        ),
        (
            &["--control", control, "--uplink", "sockets", "--outbound-address", "203.0.113.77"],
            1,
            &["outbound address: 203.0.113.77 is not an address of this host"],
        ),
        (
            &["--control", control, "--uplink", "sockets", "--outbound-interface", "none77"],
            1,
            &["outbound interface: there is no network interface none77"],
        ),
        (
            &["--control", control, "--uplink", "none", "--outbound-interface", "lo"],
            1,
            &["--outbound-interface", "--uplink sockets"],
        ),
        (&["--control", control, "--ready-fd", "77"], 2, &["--ready-fd 77"]),
        (&["--control", control, "--exit-fd", "1"], 2, &["--exit-fd 1"]),
        (&["--control", control, "--flow-limit", "0"], 1, &["flow"]),
        (&["--control", control, "--pcap", "/run/not/there.pcapng"], 1, &["/run/not/there.pcapng"]),
    ] {
        let said = case.say(&[&["switch"], options].concat());
        refused(options, &said, status, words);
        assert!(!case.control().exists(), "{options:?} leaves its socket");
        assert_eq!(devices(&case.host), ["lo"], "{options:?}");
    }
    // A socket in use is not taken away from its owner.
    let switch = case.switch_without_uplink(&[]);
    let second = case.say(&["switch", "--control", control]);
    refused(&["a second switch"], &second, 1, &[control]);
    switch.tell(&["stats"]);
}

fn a_wrong_command_line_is_a_usage_error() {
    let case = Case::new();
    for (words, says) in [
        (&["attach", "c1"][..], "--netns"),
        (&["attach", "c1", "--pid", "1", "--netns", "/run/netns/c1"], "--pid"),
        (&["attach", "c1", "--pid", "x"], "'x'"),
        (&["attach", "c1", "--pid", "-5"], "-5"),
        (&["attach", "c1", "--pid", "1", "--ip", "172.17.0.300"], "172.17.0.300"),
        (&["attach", "c1", "--pid", "1", "--mac", "02:00"], "02:00"),
        (&["attach", "c1", "--pid", "1", "-p", "90-80:80-90"], "90-80"),
        (&["attach", "c1", "--pid", "1", "-p", "80:80-90"], "80:80-90"),
        (&["attach", "c1", "--pid", "1", "-p", "70000:80"], "70000"),
        (&["attach", "c1", "--pid", "1", "-p", "0:80"], "0"),
        (&["attach", "c1", "--pid", "1", "-p", "80:80/sctp"], "sctp"),
        (&["attach", "c1", "--tap-fd", "99"], "99"),
        (&["attack", "c1"], "attack"),
        (&["network", "add"], "<NAME>"),
        (&["network", "add", "n", "--icc", "perhaps"], "perhaps"),
    ] {
        refused(words, &case.say(words), 2, &[says]);
    }
    let control = case.control();
    let words = ["ports", "--control", control.to_str().expect("ASCII")];
    refused(&words, &case.say(&words), 1, &["cannot reach the switch", "pontoon switch"]);
}

fn a_refused_request_leaves_nothing() {
    let case = Case::new();
    let [c1, c2, c3] = ["c1", "c2", "c3"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    switch.attach("c1", &c1, &["--ip", "172.17.0.2", "--mac", "02:42:ac:11:00:02", "-p", "8080:80"]);
    c2.ip("link add taken type veth peer name other");
    fs::write(case.directory.join("file"), "").expect("ours");
    let file = case.directory.join("file").display().to_string();
    let path = |netns: &Netns| netns.path().display().to_string();
    let (p1, p2, p3) = (path(&c1), path(&c2), path(&c3));
    let before = (switch.containers(), switch.list("published"));
    let networks = switch.list("network-list").len();
    for (words, says) in [
        (&["attach", "c1", "--netns", &p2][..], &["c1"][..]),
        (&["attach", "c2", "--netns", &p2, "--ip", "172.17.0.2"], &["172.17.0.2"]),
        (&["attach", "c2", "--netns", &p2, "--ip", "172.17.0.1"], &["172.17.0.1"]),
        (&["attach", "c2", "--netns", &p2, "--ip", "10.0.0.2"], &["10.0.0.2", "172.17.0.0/16"]),
        (&["attach", "c2", "--netns", &p2, "--ip", "172.17.255.255"], &["172.17.255.255"]),
        (&["attach", "c2", "--netns", &p2, "--mac", "02:42:ac:11:00:02"], &["02:42:ac:11:00:02"]),
        (&["attach", "c2", "--netns", &p2, "--mac", "01:00:5e:00:00:01"], &["01:00:5e:00:00:01"]),
        (&["attach", "c2", "--netns", &p2, "--net", "none-such"], &["none-such"]),
        (&["attach", "c2", "--netns", &p2, "--ifname", "taken"], &["taken"]),
        (&["attach", "c2", "--netns", &p2, "--ifname", "lo"], &["lo"]),
        (&["attach", "c2", "--netns", &p2, "--ifname", "a/b"], &["a/b"]),
        (&["attach", "c2", "--netns", &p2, "--ifname", "sixteen-letters-"], &["sixteen-letters-"]),
        (&["attach", "c2", "--netns", &p1], &["eth0"]),
        (&["attach", "c2", "--netns", "/run/netns/none"], &["/run/netns/none"]),
        (&["attach", "c2", "--netns", &file], &[&file]),
        (&["attach", "c2", "--netns", "/dev/null"], &["/dev/null"]),
        (&["attach", "c2", "--pid", "2147483647"], &["2147483647"]),
        (&["attach", "c2", "--pid", "0"], &["0"]),
        (&["attach", "c2", "--netns", &p2, "-p", "8080:80"], &["port is already allocated"]),
        (&["attach", "c2", "--netns", &p2, "-p", "9000:80", "-p", "9000:81"], &["9000"]),
        (&["attach", "", "--netns", &p3], &["name"]),
        (&["publish", "c9", "81:81"], &["c9"]),
        (&["publish", "c1", "192.0.2.77:81:81"], &["192.0.2.77"]),
        (&["unpublish", "c1", "8080:80", "8081:81"], &["8081"]),
        (&["detach", "c9"], &["c9"]),
        (&["network", "add", "n", "--subnet", "172.17.5.0/24"], &["172.17.5.0/24", "default"]),
        (&["network", "add", "n", "--subnet", "172.0.0.0/8"], &["172.0.0.0/8", "default"]),
        (&["network", "add", "default", "--subnet", "172.20.0.0/16"], &["default"]),
        (
            &["network", "add", "n", "--subnet", "172.20.0.0/16", "--gateway", "172.21.0.1"],
            &["172.21.0.1", "172.20.0.0/16"],
        ),
        (&["network", "add", "n", "--subnet", "172.20.0.0/16", "--gateway", "172.20.0.0"], &["172.20.0.0"]),
        (&["network", "add", "n", "--subnet", "224.0.0.0/8"], &["224.0.0.0/8"]),
        (&["network", "remove", "default"], &["default"]),
        (&["network", "remove", "none-such"], &["none-such"]),
    ] {
        refused(words, &switch.say(words), 1, says);
        let after = (switch.containers(), switch.list("published"));
        assert_eq!(before, after, "{words:?} left something");
        assert_eq!(switch.list("network-list").len(), networks, "{words:?}");
        assert_eq!((devices(&c2).len(), devices(&c3).len()), (3, 1), "{words:?} left a device");
    }
    // And all of it is still to be had.
    switch.attach("c2", &c2, &["--ip", "172.17.0.3", "-p", "9000:80"]);
    Pair::new((&c1, C1), (&c2, C2)).ask();
}

/// S20: all of a request or nothing.
fn a_port_that_is_allocated_refuses_the_whole() {
    let case = Case::new();
    let [c1, c2] = ["c1", "c2"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    switch.attach("c1", &c1, &["-p", "8005:80"]);
    let p2 = c2.path().display().to_string();
    let words = ["attach", "c2", "--netns", &p2, "-p", "7000:70", "-p", "8000-8009:8000-8009", "-p", "9000:90"];
    refused(&words, &switch.say(&words), 1, &["8005", "port is already allocated"]);
    assert_eq!((switch.list("published").len(), devices(&c2)), (1, vec!["lo".to_owned()]));
    switch.attach("c2", &c2, &[]);
    let words = ["publish", "c2", "7000:70", "8000-8009:8000-8009", "9000:90"];
    refused(&words, &switch.say(&words), 1, &["8005"]);
    assert_eq!(switch.list("published").len(), 1);
    switch.tell(&["unpublish", "c1", "8005:80"]);
    switch.tell(&words);
    assert_eq!(switch.list("published").len(), 12);
}

fn an_unknown_key_is_told_with_its_line() {
    let case = Case::new();
    let file = case.directory.join("switch.toml");
    let path = file.to_str().expect("ASCII");
    let control = case.control();
    for (text, words) in [
        ("[switch]\nlog = \"info\"\ncolour = 3\n", &["line 3", "colour"][..]),
        ("[[network]]\nname = \"n\"\nsubnets = \"172.20.0.0/16\"\n", &["line 3", "subnets"]),
        (
            "[[network]]\nname = \"a\"\nsubnet = \"172.20.0.0/16\"\n\n[[network]]\nname = \"b\"\nsubnet = \"172.20.1.0/24\"\n",
            &["line 7", "172.20"],
        ),
        ("[switch\n", &["line 1"]),
        ("[[network]]\nname = \"n\"\nsubnet = \"172.20.0.0/16\"\ngateway = \"10.0.0.1\"\n", &["line 4", "10.0.0.1"]),
        ("[timeouts]\nudp = \"soon\"\n", &["line 2"]),
        ("[timeouts]\nudp_timeout = 0\n", &["line 2: udp_timeout: 0 seconds"]),
        ("[switch.sockets]\noutbound_interface = \"none77\"\n", &["line 2: outbound interface", "none77"]),
        ("[switch.sockets]\nhost_loopback = [\"172.17.0.9\"]\n", &["line 2: host loopback: 172.17.0.9", "'default'"]),
        ("[switch]\npcap = \"/run/not/there.pcapng\"\n", &["line 2", "/run/not/there.pcapng"]),
    ] {
        fs::write(&file, text).expect("ours");
        let said = case.say(&["switch", "--control", control.to_str().expect("ASCII"), "--config", path]);
        refused(&[text], &said, 1, &[&[path], words].concat());
        assert!(!control.exists());
    }
}

/// Of a process that is not ours, and of a namespace that a user namespace outside of ours owns.
fn a_namespace_of_somebody_else_is_refused() {
    let case = Case::new();
    let switch = case.switch_without_uplink(&[]);
    if rustix::process::getuid().is_root()
        && fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.contains("4294967295"))
    {
        // Root of the machine may enter everything; the namespaces of the machine are then not somebody else's.
        return;
    }
    let words = ["attach", "c1", "--pid", "1"];
    refused(&words, &switch.say(&words), 1, &["process 1", "not ours"]);
    assert_eq!(switch.containers(), [] as [&str; 0]);
}

fn without_the_device_node_it_says_so() {
    let case = Case::new();
    let c1 = case.netns("c1");
    // Something of no use in its place, in a mount namespace that only this switch sees.
    let stand_in = case.directory.join("tun");
    fs::write(&stand_in, "").expect("ours");
    fs::set_permissions(&stand_in, fs::Permissions::from_mode(0o000)).expect("ours");
    let mut command = case.host.command("unshare");
    command.args(["-m", "sh", "-c", r#"mount --bind "$0" /dev/net/tun && exec "$@""#]).arg(&stand_in);
    command.args([PROGRAM, "switch", "--uplink", "none", "--control"]).arg(case.control());
    let switch = case.started(command);
    let p1 = c1.path().display().to_string();
    let words = ["attach", "c1", "--netns", &p1];
    refused(&words, &switch.say(&words), 1, &["/dev/net/tun", "mknod"]);
    assert_eq!((switch.containers().len(), devices(&c1).len()), (0, 1));
}

fn what_is_no_request_is_answered_and_hurts_nobody() {
    let case = Case::new();
    let [c1, c2] = ["c1", "c2"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    switch.attach("c1", &c1, &[]);
    switch.attach("c2", &c2, &[]);
    let pair = Pair::new((&c1, C1), (&c2, C2));
    let mut megabyte = vec![b'a'; 1024 * 1024 + 1];
    megabyte.push(b'\n');
    let nested = "[".repeat(500_000) + "\n";
    for garbage in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"\0\xff\xfe\n",
        b"\n",
        br#"{"execute":"attach","arguments":{"name":"c9"}}
"#,
        br#"{"execute":"attach","arguments":{"name":"c9","tap_fd":true}}
"#,
        br#"{"execute":"ports","arguments":7}
"#,
        nested.as_bytes(),
        &megabyte,
    ] {
        let mut stream = dial(&switch.control);
        // The server may have answered and closed before all is written.
        let _ = stream.write_all(garbage);
        let begin = String::from_utf8_lossy(&garbage[..garbage.len().min(40)]);
        let answer = answer(&stream).unwrap_or_else(|| panic!("no answer to {begin}"));
        let said = answer["error"]["desc"].as_str().unwrap_or_else(|| panic!("{begin}: {answer}"));
        assert!(!said.is_empty() && !said.contains('\n'), "{said}");
        pair.ask();
    }
    assert_eq!(switch.containers(), ["c1", "c2"]);
    // Half a request, and then nothing; and one that goes away in the middle.
    let mut half = dial(&switch.control);
    half.write_all(br#"{"execute":"po"#).expect("written");
    drop(half.try_clone());
    pair.ask();
    switch.tell(&["ports"]);
    half.write_all(b"rts\"}\n").expect("written");
    assert!(answer(&half).is_some_and(|answer| answer["return"].is_array()), "a request may come in pieces");
}

fn a_hundred_silent_clients_hurt_nobody() {
    let case = Case::new();
    let [c1, c2] = ["c1", "c2"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    switch.attach("c1", &c1, &[]);
    let silent: Vec<UnixStream> = (0..100).map(|_| dial(&switch.control)).collect();
    switch.attach("c2", &c2, &[]);
    Pair::new((&c1, C1), (&c2, C2)).ask();
    Pair::new((&c1, C1), (&case.world, SERVER)).ask();
    assert_eq!(switch.containers(), ["c1", "c2"]);
    // The end does not wait for them either.
    switch.signal(Signal::TERM);
    assert_eq!(switch.ended(), 0);
    drop(silent);
    assert!(!case.control().exists());
}
