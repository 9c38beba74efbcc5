use super::*;

fn parse(line: &str) -> Result<Cli, String> {
    Cli::try_parse_from(line.split_whitespace()).map_err(|error| one_line(&error))
}

#[test]
fn the_documented_command_lines_are_understood() {
    for line in [
        "pontoon demo",
        "pontoon switch",
        "pontoon switch --control /tmp/p --subnet 172.17.0.0/16 --gateway 172.17.0.1 --mtu 1500 --uplink none",
        "pontoon switch --uplink tun:name=up0,address=192.0.2.10,peer=192.0.2.1/24,netns=/run/netns/w",
        "pontoon switch --uplink sockets --outbound-address 192.0.2.1",
        "pontoon switch --uplink sockets --outbound-interface eth0 --host-loopback 192.0.2.254",
        "pontoon switch --config p.toml --ready-fd 3 --exit-fd 4 --pcap p.pcapng --log debug",
        "pontoon switch --gateway none --flow-limit 1000 --flow-quota 10",
        "pontoon network add n --subnet 10.0.0.0/8 --gateway none --internal --icc off --masquerade off",
        "pontoon network add n --guard strict --ageing 60 --flood-rate 100",
        "pontoon network remove n",
        "pontoon network list --json",
        "pontoon attach c1 --netns /run/netns/c1 -p 8080:80 -p 192.0.2.10:53:53/udp",
        "pontoon attach c1 --pid 4711 --net n --ifname eth1 --ip 10.0.0.9 --mac from-ip --isolated",
        "pontoon attach c1 --tap-fd 3 --mac 02:42:ac:11:00:02",
        "pontoon detach c1 --ifname eth1",
        "pontoon publish c1 8080:80 8443:443",
        "pontoon unpublish c1 8080:80",
        "pontoon ports --control /tmp/p --json",
        "pontoon published c1",
        "pontoon fdb",
        "pontoon flows --json",
        "pontoon flush-flows c1",
        "pontoon routes",
        "pontoon route add 198.51.100.0/24",
        "pontoon neighbours",
        "pontoon rule add dnat tcp 192.0.2.10 80 172.17.0.2 8080",
        "pontoon rule remove snat 172.17.0.0/16 192.0.2.11",
        "pontoon rule add nonat 198.51.100.0/24",
        "pontoon rule list",
        "pontoon stats",
        "pontoon inspect c1",
        "pontoon capture start x.pcapng",
        "pontoon capture stop",
        "pontoon log-level trace",
        "pontoon shutdown",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn a_wrong_command_line_is_one_line_that_says_what_and_where() {
    for (line, says) in [
        ("pontoon dance", "'dance'"),
        ("pontoon attach c1", "--netns <PATH>|--pid <PID>|--tap-fd <N>"),
        ("pontoon attach c1 --pid 1 --netns /x", "cannot be used with"),
        ("pontoon attach c1 --pid 1 -p 80:", "not a port"),
        ("pontoon attach c1 --pid 1 --ip 10.0.0", "not an IP address"),
        ("pontoon attach c1 --pid 1 --mac zz", "not a MAC address"),
        ("pontoon switch --uplink socket", "write sockets"),
        ("pontoon switch --outbound-address 192.0.2", "not an IP address"),
        ("pontoon switch --subnet 10.0.0.0", "not a prefix"),
        ("pontoon switch --subnt 10.0.0.0/8", "'--subnet'"),
        ("pontoon switch --log loud", "possible values"),
        ("pontoon publish c1", "PORTS"),
        ("pontoon rule add dnat tcp 192.0.2.1 0 10.0.0.1 80", "1..=65535"),
    ] {
        let error = parse(line).expect_err(line);
        assert!(error.contains(says) && !error.contains('\n') && error.contains("--help"), "{line}: {error}");
    }
}

#[test]
fn exit_status_is_2_for_usage_and_1_for_the_rest() {
    let status = |line: &str| format!("{:?}", run(line.split(' ').map(OsString::from)));
    assert_eq!(status("pontoon"), format!("{:?}", ExitCode::from(2)));
    assert_eq!(status("pontoon dance"), format!("{:?}", ExitCode::from(2)));
    assert_eq!(status("pontoon ports --control /proc/no/such"), format!("{:?}", ExitCode::FAILURE));
    assert_eq!(status("pontoon --version"), format!("{:?}", ExitCode::SUCCESS));
}

#[test]
fn the_control_socket_is_found_where_the_user_may_write() {
    let path = |given: Option<&str>, runtime: Option<&str>, root| {
        control_path(given.map(PathBuf::from), runtime.map(OsString::from), root).ok()
    };
    assert_eq!(path(Some("/a"), Some("/run/user/1"), false), Some("/a".into()));
    assert_eq!(path(None, Some("/run/user/1"), true), Some("/run/user/1/pontoon.sock".into()));
    assert_eq!(path(None, None, true), Some("/run/pontoon.sock".into()));
    assert_eq!(path(None, Some(""), false), None);
    assert_eq!(path(None, Some("relative"), false), None);
}
