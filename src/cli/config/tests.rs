use super::*;
use std::time::Duration;

use crate::core::conntrack::Timeouts;
use crate::core::split::policy;
use crate::io::sockets;

fn settings(text: &str, over: Overrides) -> Result<Settings, ConfigError> {
    let (source, file) = Source::new("p.toml".into(), text.into()).parse()?;
    Settings::new(&source, &file, &over)
}

fn error(text: &str) -> String {
    settings(text, Overrides::default()).expect_err(text).to_string()
}

fn networks(settings: &Settings) -> Vec<String> {
    settings
        .commands
        .iter()
        .filter_map(|(_, command)| match command {
            Command::AddNetwork(config) => Some(format!(
                "{} {} {}",
                config.name,
                config.subnet.map_or("-".into(), |subnet| subnet.to_string()),
                config.gateway.map_or("-".into(), |gateway| gateway.to_string())
            )),
            _ => None,
        })
        .collect()
}

#[test]
fn nothing_said_is_one_network_like_docker0() {
    let settings = settings("", Overrides::default()).expect("defaults");
    assert_eq!(networks(&settings), ["default 172.17.0.0/16 172.17.0.1"]);
    assert!(matches!(settings.uplink, Some((_, Uplink::Sockets(_)))));
}

#[test]
fn a_whole_file_is_understood() {
    let text = r#"
        [switch]
        control = "/tmp/p.sock"
        log = "debug"
        flow_limit = 1000
        flow_quota = 100
        uplink = { name = "up0", address = "192.0.2.10", peer = "192.0.2.1/24", mss_clamp = true }
        [timeouts]
        udp_timeout = 300
        [[network]]
        name = "front"
        subnet = "10.1.0.0/24"
        [[network]]
        name = "back"
        subnet = "10.2.0.0/24"
        gateway = "none"
        internal = true
        guard = "strict"
        [[rule]]
        dnat = { proto = "tcp", dst = "192.0.2.10", port = 80, to = "10.1.0.2", to_port = 8080 }
        [[rule]]
        nonat = { dst = "198.51.100.0/24" }
        [[route]]
        dst = "203.0.113.0/24"
    "#;
    let settings = settings(text, Overrides::default()).expect("valid");
    assert_eq!(networks(&settings), ["front 10.1.0.0/24 10.1.0.1", "back 10.2.0.0/24 -"]);
    assert_eq!((settings.core.conntrack.limit, settings.core.conntrack.quota), (1000, Some(100)));
    assert_eq!(settings.core.conntrack.timeouts.udp_timeout, Duration::from_secs(300));
    assert_eq!(settings.commands.len(), 5);
    let Some((_, Uplink::Tun(spec))) = settings.uplink else { panic!("{:?}", settings.uplink) };
    assert!(spec.mss_clamp && spec.name == "up0");
}

#[test]
fn the_documented_file_says_everything_with_its_default() {
    let page = include_str!("../../../docs/configuration.md");
    let text = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of TOML");
    // What is only shown as a comment is a key all the same.
    let uncommented: String =
        text.lines().map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line))).collect();
    settings(&uncommented, Overrides::default()).expect("with every key");

    let documented = settings(text, Overrides::default()).expect("valid");
    let default = settings("", Overrides::default()).expect("defaults");
    assert_eq!(format!("{:?}", documented.core), format!("{:?}", default.core));
    assert_eq!((documented.log, &documented.commands[0].1), (default.log, &default.commands[0].1));
    let timeouts = serde_json::to_value(Timeouts::default()).expect("JSON");
    for (name, seconds) in timeouts.as_object().expect("an object") {
        assert!(text.contains(&format!("\n{name} = {seconds}\n")), "{name}");
    }
}

#[test]
fn an_error_names_its_line_in_one_line() {
    for (text, says) in [
        ("[switch]\nlgo = \"debug\"\n", "p.toml line 2: unknown field `lgo`"),
        ("[swich]\n", "p.toml line 1: unknown field `swich`"),
        ("\n\n[timeouts]\nudp_timeuot = 3\n", "line 4: unknown field `udp_timeuot`"),
        ("[switch]\nlog = \"loud\"\n", "line 2: log: unknown variant `loud`"),
        ("[[network]]\nname = \"n\"\nsubnet = \"10.0.0/8\"\n", "line 3: subnet: '10.0.0/8' is not a prefix"),
        ("[[network]]\nname = \"n\"\nmtu = 70000\n", "line 3: mtu: "),
        ("[[network]]\nsubnet = \"10.0.0.0/8\"\n", "line 1: missing field `name`"),
        ("[switch]\nflow_limit = 0\n", "line 2: flow_limit: 0 flows are out of range"),
        ("[switch]\n\ncontrol = \"\"\n", "line 3: control: the path is empty"),
        ("[switch]\npcap = \"\"\n", "line 2: pcap: the path is empty"),
        ("[switch.uplink]\nname = \"u\"\naddress = \"fd00::1\"\n", "line 3: uplink address: fd00::1"),
        ("[switch.uplink]\nname = \"u\"\naddress = \"192.0.2.1\"\nmtu = 20\n", "line 4: uplink mtu: 20"),
        ("[timeouts]\nicmp_timeout = 5\nudp_timeout = 0\n", "line 3: udp_timeout: 0 seconds would end"),
        ("[timeouts]\nudp_timeout = -1\n", "line 2: udp_timeout: "),
        ("[[route]]\n\ndst = \"10.1.1.1/8\"\n", "line 3: dst: "),
        ("[[rule]]\n[rule.snat]\nsource = \"172.17.0.0/16\"\nto = \"172.17.0.9\"\n", "line 4: to: "),
        ("[switch\n", "line 1"),
        ("[switch]\nuplink = { name = \"a b\", address = \"192.0.2.1\" }\n", "line 2: uplink name"),
        (
            "[switch]\nuplink = { name = \"u\", address = \"192.0.2.1\", peer = \"192.0.2.1/24\" }\n",
            "line 2: uplink peer",
        ),
        ("[[rule]]\nmasq = {}\n", "line 2: unknown field `masq`, expected one of `dnat`, `snat`, `nonat`"),
        ("\n[[rule]]\n", "line 2: give exactly one of dnat, snat and nonat"),
    ] {
        let error = error(text);
        assert!(error.contains(says) && !error.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn what_does_not_fit_together_is_refused_before_anything_starts() {
    for (text, says) in [
        ("[[network]]\nname = \"n\"\nsubnet = \"10.0.0.0/8\"\ngateway = \"11.0.0.1\"\n", "line 4: gateway"),
        (
            "[[network]]\nname = \"a\"\nsubnet = \"10.0.0.0/8\"\n[[network]]\nname = \"b\"\nsubnet = \"10.1.0.0/16\"\n",
            "line 6: subnet",
        ),
        ("[[network]]\nname = \"a\"\n[[network]]\nname = \"a\"\n", "line 3: network 'a' exists already"),
        ("[[network]]\nname = \"n\"\nmtu = 100\n", "line 3: mtu: 100 is out of range"),
        ("[switch]\nuplink = { name = \"u\", address = \"172.17.0.9\" }\n", "default network: subnet"),
        ("[[network]]\nname = \"n\"\nageing_seconds = 1\n", "line 3: ageing_seconds: 1 is out of range"),
        (
            "[[route]]\ndst = \"203.0.113.0/24\"\n[[route]]\ndst = \"203.0.113.0/24\"\n",
            "line 3: route '203.0.113.0/24' exists already",
        ),
    ] {
        let error = error(text);
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn options_go_before_the_file() {
    let text = "[switch]\nlog = \"debug\"\ncontrol = \"/a\"\n[[network]]\nname = \"default\"\nsubnet = \"10.0.0.0/8\"\ngateway = \"10.9.9.9\"\n";
    let over = Overrides {
        control: Some("/b".into()),
        subnet: "10.5.0.0/16".parse().ok(),
        uplink: "tun:name=up0,address=192.0.2.10".parse().ok(),
        ..Overrides::default()
    };
    let settings = settings(text, over).expect("valid");
    assert_eq!(networks(&settings), ["default 10.5.0.0/16 10.5.0.1"]);
    assert_eq!((settings.control, settings.log), (Some("/b".into()), Level::Debug));
    assert!(settings.uplink.is_some());
    let only_mtu = Overrides { mtu: Some(9000), ..Overrides::default() };
    let settings = self::settings("[[network]]\nname = \"n\"\n", only_mtu).expect("valid");
    assert_eq!(networks(&settings), ["default 172.17.0.0/16 172.17.0.1", "n - -"]);
}

#[test]
fn an_uplink_over_sockets_has_options_of_its_own() {
    let text = "[switch]\nuplink = \"sockets\"\n[switch.sockets]\noutbound_address = [\"192.0.2.1\"]\n\
                outbound_interface = \"eth0\"\nhost_loopback = [\"192.0.2.254\"]\n";
    let addr = |text: &str| text.parse::<Addr>().expect("an address");
    let file = SocketsSpec {
        options: sockets::Options { outbound_v4: Some(addr("192.0.2.1")), outbound_interface: Some("eth0".into()) },
        policy: policy::Config { host_loopback: Some(addr("192.0.2.254")), ..policy::Config::default() },
        origins: Vec::new(),
    };
    let sockets = |said: Settings| match said.uplink {
        Some((_, Uplink::Sockets(spec))) => SocketsSpec { origins: Vec::new(), ..spec },
        other => panic!("{other:?}"),
    };
    let said = settings(text, Overrides::default()).expect("valid");
    assert_eq!(sockets(said), file);
    let over = Overrides { outbound_address: vec![addr("192.0.2.7")], ..Overrides::default() };
    let said = settings(text, over).expect("valid");
    let options = sockets::Options { outbound_v4: Some(addr("192.0.2.7")), ..file.options.clone() };
    assert_eq!(sockets(said), SocketsSpec { options, ..file });
    // The section waits, an option would do nothing.
    let over = || Overrides { uplink: Some(UplinkChoice::None), ..Overrides::default() };
    assert_eq!(settings(text, over()).expect("valid").uplink, None);
    let over = Overrides { host_loopback: vec![addr("192.0.2.7")], ..over() };
    let refused = settings(text, over).expect_err("refused").to_string();
    assert!(refused.starts_with("--host-loopback: only an uplink over sockets"), "{refused}");
    for (section, says) in [
        ("outbound_address = [\"192.0.2.1\", \"192.0.2.2\"]", "line 4: outbound address: 192.0.2.2 is the second"),
        ("outbound_address = [\"127.0.0.1\"]", "line 4: outbound address: 127.0.0.1 is no address of one host"),
        ("outbound_address = [\"192.0.2\"]", "line 4: outbound_address: '192.0.2' is invalid IP address syntax"),
        ("outbound_interface = \"eth 0\"", "line 4: outbound interface: 'eth 0' cannot be"),
        ("host_loopback = [\"0.0.0.0\"]", "line 4: host loopback: 0.0.0.0 is no address of one host"),
        ("host_loopback = [\"2001:db8::1\"]", "line 4: host loopback: 2001:db8::1 is of IPv6, which is not routed yet"),
        ("outbound_address = [\"2001:db8::1\"]", "line 4: outbound address: 2001:db8::1 is of IPv6"),
    ] {
        let error = error(&format!("[switch]\nuplink = \"sockets\"\n[switch.sockets]\n{section}\n"));
        assert!(error.contains(says) && !error.contains('\n'), "{section}: {error}");
    }
    let error = error("[switch]\nuplink = \"socket\"\n");
    assert!(error.contains("line 2: uplink: invalid value: string \"socket\", expected \"sockets\""), "{error}");
}

#[test]
fn what_the_host_does_not_have_is_told_where_it_was_asked_for() {
    let refused = |text: &str, over: Overrides| {
        let Some((_, Uplink::Sockets(spec))) = settings(text, over).expect("valid").uplink else {
            panic!("{text} has no uplink over sockets")
        };
        spec.check().expect_err(text).to_string()
    };
    let text = "[switch]\n[switch.sockets]\nhost_addresses = true\noutbound_interface = \"nope\"\n";
    let error = refused(text, Overrides::default());
    assert!(error.starts_with("p.toml line 4: outbound interface: there is no network interface nope"), "{error}");
    let text = "[switch.sockets]\noutbound_address = [\n \"203.0.113.77\",\n]\n";
    let error = refused(text, Overrides::default());
    assert!(error.starts_with("p.toml line 3: outbound address: 203.0.113.77 is not"), "{error}");
    let over = Overrides { outbound_interface: Some("nope".into()), ..Overrides::default() };
    let error = refused("", over);
    assert!(error.starts_with("--outbound-interface: outbound interface: there is"), "{error}");
}

#[test]
fn what_stands_for_the_hosts_loopback_is_no_neighbours_address() {
    let file = |addr: &str| format!("[switch.sockets]\nhost_loopback = [\"{addr}\"]\n");
    let error = error(&file("172.17.0.9"));
    assert!(error.starts_with("p.toml line 2: host loopback: 172.17.0.9 lies in the subnet of"), "{error}");
    let option = |addr: &str| Overrides { host_loopback: addr.parse().into_iter().collect(), ..Overrides::default() };
    let refused = settings("", option("172.17.255.254")).expect_err("refused").to_string();
    assert!(refused.starts_with("--host-loopback: host loopback: 172.17.255.254 lies"), "{refused}");
    for addr in ["172.17.0.1", "192.0.2.254"] {
        settings(&file(addr), Overrides::default()).expect(addr);
        settings("", option(addr)).expect(addr);
    }
    // Without an uplink over sockets the section waits.
    let over = Overrides { uplink: Some(UplinkChoice::None), ..Overrides::default() };
    settings(&file("172.17.0.9"), over).expect("it does nothing");
}

#[test]
fn a_tun_uplink_is_written_with_keys_and_values() {
    let spec = "tun:name=up0,address=192.0.2.10,peer=192.0.2.1/24,netns=/run/netns/w,mtu=9000,mss_clamp=on";
    let Ok(UplinkChoice::Tun(spec)) = spec.parse() else { panic!("{spec} is valid") };
    assert_eq!((spec.name.as_str(), spec.mtu, spec.mss_clamp), ("up0", Some(9000), true));
    let Ok(UplinkChoice::Tun(spec)) = "tun:fd=5,address=192.0.2.10".parse() else { panic!("valid") };
    assert_eq!(spec.fd, Some(5));
    for (text, says) in [
        ("socket", "write sockets"),
        ("tap:", "tun:name="),
        ("tun:", "KEY=VALUE"),
        ("tun:name=up0", "address=ADDR is missing"),
        ("tun:address=192.0.2.10", "name=NAME is missing"),
        ("tun:name=up0,address=192.0.2", "not an IP address"),
        ("tun:name=up0,adress=192.0.2.1", "no 'adress'"),
        ("tun:name=a,name=b,address=192.0.2.1", "twice"),
        ("tun:fd=5,name=up0,address=192.0.2.1", "leave name"),
        ("tun:name=a,address=192.0.2.1,mtu=70000", "mtu"),
        ("tun:name=a,address=192.0.2.1,mss_clamp=1", "neither on nor off"),
    ] {
        let error = text.parse::<UplinkChoice>().expect_err(text);
        assert!(error.contains(says), "{text}: {error}");
    }
}
