//! Connection tracking as the datapath shows it: flags, windows, resets, timers, and a full table.

use pontoon::core::command::{Applied, Command, Transport};
use pontoon::core::conntrack::STEP_REMOVALS;
use pontoon::core::datapath::Config;
use pontoon::core::flush::Progress;

use crate::net::{Host, Net, network, publication};
use crate::packet::{ACK, FIN, PSH, RST, SYN, Seen, tcp, tcp_with, udp};

const C: &str = "172.17.0.2:4000";
const S: &str = "198.51.100.5:80";
const UP: &str = "192.0.2.112:4000";

struct Conn {
    net: Net,
    a: Host,
}

impl Conn {
    /// A SYN has passed.
    fn begun() -> Conn {
        Conn::with(Config::default())
    }

    fn with(config: Config) -> Conn {
        let mut net = Net::bare(config);
        net.add_network(network("default", "172.17.0.0/16"));
        net.connect(1500, false);
        let a = net.attach();
        let mut conn = Conn { net, a };
        assert!(conn.out(SYN, 100, 0, b""));
        conn
    }

    fn established() -> Conn {
        let mut conn = Conn::begun();
        assert!(conn.back(SYN | ACK, 500, 101, b"") && conn.out(ACK, 101, 501, b""));
        conn
    }

    /// Does a segment of the container pass?
    fn out(&mut self, flags: u8, seq: u32, ack: u32, data: &[u8]) -> bool {
        self.net.route(&self.a, &tcp_with(C, S, flags, seq, ack, &[], data));
        let left = self.net.left();
        assert!(left.iter().all(|p| p.from() == UP));
        left.len() == 1
    }

    /// Does a segment of the server pass?
    fn back(&mut self, flags: u8, seq: u32, ack: u32, data: &[u8]) -> bool {
        self.net.arrive(&tcp_with(S, UP, flags, seq, ack, &[], data));
        let got = self.net.got(&self.a);
        assert!(got.iter().all(|p| p.to() == C));
        self.net.quiet_now();
        got.len() == 1
    }

    fn state(&mut self) -> (&'static str, u64) {
        let flow = self.net.flow();
        (flow.state, flow.timeout_seconds)
    }
}

// X01
#[test]
fn flags_that_no_tcp_sends_are_refused() {
    let mut conn = Conn::established();
    for (flags, passes) in [
        (ACK | PSH, true),
        (ACK | 0x20, true),
        (ACK | 0x40 | 0x80, true),
        (0, false),
        (FIN, false),
        (SYN | FIN, false),
        (SYN | RST, false),
        (0x3f, false),
        (FIN | PSH | 0x20, false),
        (PSH, false),
    ] {
        assert_eq!(conn.out(flags, 101, 501, b""), passes, "{flags:02x}");
    }
    assert_eq!(conn.state().0, "ESTABLISHED");
    assert_eq!(conn.net.dropped(conn.a.port, "invalid-state"), 7);
}

// X02, T5, V1, V2
#[test]
fn each_state_has_its_time_and_assured_begins_with_the_third_segment() {
    let mut conn = Conn::begun();
    assert_eq!(conn.state(), ("SYN_SENT", 120));
    conn.back(SYN | ACK, 500, 101, b"");
    assert_eq!(conn.state(), ("SYN_RECV", 60));
    assert!(!conn.net.flow().assured);
    conn.out(ACK, 101, 501, b"");
    assert_eq!(conn.state(), ("ESTABLISHED", 432_000));
    assert!(conn.net.flow().assured);
    conn.out(ACK | PSH, 101, 501, b"data");
    assert_eq!(conn.state(), ("ESTABLISHED", 300));
    conn.back(ACK, 501, 105, b"");
    assert_eq!(conn.state(), ("ESTABLISHED", 432_000));
    conn.out(FIN | ACK, 105, 501, b"");
    assert_eq!(conn.state(), ("FIN_WAIT", 120));
    conn.back(ACK, 501, 106, b"");
    assert_eq!(conn.state(), ("CLOSE_WAIT", 60));
    conn.back(FIN | ACK, 501, 106, b"");
    assert_eq!(conn.state(), ("LAST_ACK", 30));
    conn.out(ACK, 106, 502, b"");
    assert_eq!(conn.state(), ("TIME_WAIT", 120));
}

// X03, Q02
#[test]
fn data_out_of_the_window_is_translated_and_not_leaked() {
    let mut conn = Conn::established();
    assert!(conn.out(ACK | PSH, 101 + 1_000_000, 501, b"ahead"));
    assert!(conn.out(ACK | PSH, 101u32.wrapping_sub(1_000_000), 501, b"behind"));
    assert!(conn.back(ACK | PSH, 501 + 1_000_000, 101, b"ahead"));
    assert_eq!(conn.state().0, "ESTABLISHED");
    let mut config = Config::default();
    config.conntrack.tcp_liberal = false;
    let mut strict = Conn::with(config);
    assert!(strict.back(SYN | ACK, 500, 101, b"") && strict.out(ACK, 101, 501, b""));
    assert!(!strict.out(ACK | PSH, 101 + 1_000_000, 501, b"ahead"));
    assert!(strict.out(ACK | PSH, 101, 501, b"as it should be"));
}

// X04, V3
#[test]
fn exact_reset_closes_and_a_stale_one_does_not() {
    let mut conn = Conn::established();
    conn.out(ACK | PSH, 101, 501, b"data");
    conn.back(ACK | PSH, 501, 105, b"data");
    conn.out(ACK, 105, 505, b"");
    assert!(!conn.back(RST, 400, 0, b""), "below what was acknowledged");
    assert_eq!(conn.state().0, "ESTABLISHED");
    assert!(conn.back(RST, 600, 0, b""), "in the window: the peer will ask");
    assert_eq!(conn.state().0, "ESTABLISHED");
    assert!(conn.back(RST, 505, 0, b""));
    assert_eq!(conn.state(), ("CLOSE", 10));
    assert!(conn.out(ACK | PSH, 105, 505, b"still translated"));
}

// X05
#[test]
fn challenge_to_a_syn_and_its_reset_end_an_old_entry() {
    let mut conn = Conn::begun();
    assert!(conn.back(ACK, 9000, 7777, b""), "the server remembers an older connection");
    assert!(conn.out(RST, 7777, 0, b""));
    assert!(conn.out(SYN, 200, 0, b""), "and the next SYN begins anew");
    assert!(conn.back(SYN | ACK, 500, 201, b""));
    assert_eq!(conn.state().0, "SYN_RECV");
}

// X07
#[test]
fn closed_connection_may_be_opened_again_with_the_same_ports() {
    let mut conn = Conn::established();
    conn.out(FIN | ACK, 101, 501, b"");
    conn.back(FIN | ACK, 501, 102, b"");
    conn.out(ACK, 102, 502, b"");
    assert_eq!(conn.state().0, "TIME_WAIT");
    assert!(conn.out(SYN, 100_000, 0, b""));
    assert_eq!(conn.state().0, "SYN_SENT");
    assert!(conn.back(SYN | ACK, 900_000, 100_001, b"") && conn.out(ACK, 100_001, 900_001, b""));
    assert_eq!(conn.state().0, "ESTABLISHED");
    conn.out(RST, 100_001, 0, b"");
    assert_eq!(conn.state().0, "CLOSE");
    assert!(conn.out(SYN, 5, 0, b""));
    assert_eq!(conn.state().0, "SYN_SENT");
}

// X08
#[test]
fn repeated_syn_passes_and_does_not_begin_the_timer_anew() {
    let mut conn = Conn::begun();
    for second in 1..=10 {
        conn.net.secs(1);
        assert!(conn.out(SYN, 100, 0, b""));
        assert_eq!(conn.state(), ("SYN_SENT", 120 - second));
    }
}

// X09
#[test]
fn refusal_as_the_first_answer_ends_the_flow() {
    let mut conn = Conn::begun();
    assert!(conn.back(RST | ACK, 0, 101, b""));
    assert!(conn.net.flows().is_empty());
}

// X10
#[test]
fn close_that_cannot_be_verified_shortens_the_timer() {
    let mut config = Config::default();
    config.conntrack.tcp_liberal = false;
    let mut conn = Conn::with(config);
    assert!(conn.back(SYN | ACK, 500, 101, b"") && conn.out(ACK, 101, 501, b""));
    conn.out(FIN | ACK, 101 + 1_000_000, 501, b"");
    conn.back(RST | ACK, 501 + 1_000_000, 101, b"");
    let (state, left) = conn.state();
    assert!(state == "ESTABLISHED" && left <= 300 || state == "CLOSE", "{state} {left}");
}

// X11
#[test]
fn wrong_checksum_is_not_tracked_and_goes_nowhere() {
    let mut conn = Conn::established();
    let uplink = conn.net.uplink.unwrap();
    let mut bad = tcp_with(C, S, ACK, 101, 501, &[], b"data");
    bad.body[17] ^= 1;
    conn.net.route(&conn.a, &bad);
    let mut bad = tcp_with(S, UP, ACK, 501, 101, &[], b"data");
    bad.body[16] ^= 1;
    conn.net.arrive(&bad);
    let mut udp = udp("172.17.0.2:9", S);
    udp.body[6] ^= 1;
    conn.net.route(&conn.a, &udp);
    assert!(conn.net.left().is_empty() && conn.net.got(&conn.a).is_empty());
    assert_eq!((conn.net.dropped(conn.a.port, "l4-checksum"), conn.net.dropped(uplink, "l4-checksum")), (2, 1));
    assert_eq!(conn.net.flow().original.frames, 2);
}

/// A table of 100, each container may fill it.
fn small() -> (Net, Host, Host) {
    let mut config = Config::default();
    (config.conntrack.limit, config.conntrack.quota) = (100, Some(100));
    let mut net = Net::bare(config);
    net.add_network(network("default", "172.17.0.0/16"));
    net.connect(1500, false);
    let (a, b) = (net.attach(), net.attach());
    (net, a, b)
}

// X13, R31
#[test]
fn syn_flood_evicts_what_is_unanswered_and_no_conversation() {
    let (mut net, a, b) = small();
    net.route(&b, &tcp_with("172.17.0.3:22", S, SYN, 100, 0, &[], &[]));
    let up = net.left_one().from();
    net.arrive(&tcp_with(S, &up, SYN | ACK, 500, 101, &[], &[]));
    net.route(&b, &tcp_with("172.17.0.3:22", S, ACK, 101, 501, &[], &[]));
    net.quiet_now();
    for n in 0..1000 {
        net.route(&a, &tcp(&format!("172.17.0.2:{}", 2000 + n), S, SYN));
    }
    assert_eq!(net.left().len(), 1000);
    let stats = net.stats();
    assert!(stats.flows <= 100 && stats.flows_evicted >= 900, "{stats:?}");
    net.arrive(&tcp_with(S, &up, ACK, 501, 101, &[], b"alive"));
    net.got_one(&b);
}

// X12, I8
#[test]
fn full_table_refuses_new_flows_with_a_word_and_keeps_all_it_has() {
    let (mut net, a, b) = small();
    for n in 0..100u16 {
        let c = format!("172.17.0.2:{}", 2000 + n);
        net.route(&a, &tcp_with(&c, S, SYN, 100, 0, &[], &[]));
        let up = net.left_one().from();
        net.arrive(&tcp_with(S, &up, SYN | ACK, 500, 101, &[], &[]));
        net.route(&a, &tcp_with(&c, S, ACK, 101, 501, &[], &[]));
        net.quiet_now();
    }
    net.route(&b, &tcp("172.17.0.3:4000", S, SYN));
    assert_eq!((net.left().len(), net.got_one(&b).icmp()), (0, (3, 13)));
    assert_eq!(net.dropped(b.port, "flow-table-full"), 1);
    assert!(net.flows().iter().all(|f| f.state == "ESTABLISHED") && net.flows().len() == 100);
}

// X14
#[test]
fn many_flows_are_all_found_again() {
    let mut config = Config::default();
    config.conntrack.quota = Some(4096);
    let mut net = Net::bare(config);
    net.add_network(network("default", "172.17.0.0/16"));
    net.connect(1500, false);
    let a = net.attach();
    let mut out: Vec<Seen> = Vec::new();
    for n in 0..4000 {
        net.route(&a, &udp(&format!("172.17.0.2:{}", 1024 + n), "198.51.100.5:53"));
        out.extend(net.left());
    }
    for (n, sent) in out.iter().enumerate() {
        net.arrive(&udp(&sent.to(), &sent.from()));
        assert_eq!(net.got_one(&a).dport(), 1024 + n as u16);
    }
}

// X15
#[test]
fn two_queries_of_one_socket_at_once_are_both_answered() {
    let mut net = Net::new();
    let a = net.attach();
    for n in 0..200 {
        let c = format!("172.17.0.2:{}", 2000 + n);
        net.route(&a, &udp(&c, "198.51.100.5:53"));
        net.route(&a, &udp(&c, "198.51.100.5:53"));
        let left = net.left();
        assert_eq!((left.len(), left[0].from()), (2, left[1].from()));
        for sent in &left {
            net.arrive(&udp(&sent.to(), &sent.from()));
        }
        assert_eq!(net.got(&a).len(), 2);
    }
}

// X17
#[test]
fn sequence_numbers_and_options_cross_untouched() {
    let mut net = Net::new();
    let a = net.attach();
    let options = [
        2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7, 19, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
        13, 14, 15, 16, 1, 1,
    ];
    net.route(&a, &tcp_with(C, S, SYN, 0xdead_beef, 0, &options, &[]));
    let out = net.left_one();
    assert_eq!((out.seq(), &out.body[20..]), (0xdead_beef, &options[..]));
    net.arrive(&tcp_with(S, UP, SYN | ACK, 0xcafe_f00d, 0xdead_bef0, &options, &[]));
    let back = net.got_one(&a);
    assert_eq!((back.seq(), back.ack(), &back.body[20..]), (0xcafe_f00d, 0xdead_bef0, &options[..]));
}

// X19
#[test]
fn flows_of_one_container_or_all_are_flushed_by_command() {
    let mut net = Net::new();
    let (a, b) = (net.attach(), net.attach());
    net.publish("c2", Transport::Udp, 53, 53);
    net.route(&a, &udp("172.17.0.2:1", "198.51.100.5:2"));
    net.route(&b, &udp("172.17.0.3:1", "198.51.100.6:2"));
    net.arrive(&udp("203.0.113.5:4000", "192.0.2.112:53"));
    assert_eq!(net.flows().len(), 3);
    net.apply(Command::FlushFlows { name: Some("c1".to_owned()) });
    assert!(net.flows().len() == 2 && net.flows().iter().all(|f| f.name == "c2"));
    net.apply(Command::FlushFlows { name: None });
    assert!(net.flows().is_empty());
    assert!(net.try_apply(Command::FlushFlows { name: Some("nobody".to_owned()) }).is_err());
}

// X19
#[test]
fn frames_pass_between_the_steps_of_a_command_that_removes_many_flows() {
    const MANY: u16 = STEP_REMOVALS as u16 + 1000;
    let publish = publication(Transport::Udp, 53, 53);
    for which in 0..4 {
        let mut config = Config::default();
        config.conntrack.quota = Some(4096);
        let mut net = Net::bare(config);
        net.add_network(network("default", "172.17.0.0/16"));
        net.connect(1500, false);
        let (a, b) = (net.attach(), net.attach());
        net.publish("c1", Transport::Udp, 53, 53);
        for n in 0..MANY {
            // Every flow came by the published port, and is charged to the container.
            net.arrive(&udp(&format!("203.0.113.5:{}", 1024 + n), "192.0.2.112:53"));
        }
        net.got(&a);
        net.route(&b, &udp("172.17.0.3:1", "198.51.100.6:2"));
        let kept = which == 1;
        let command = match which {
            0 => Command::FlushFlows { name: None },
            1 => Command::FlushFlows { name: Some("c1".to_owned()) },
            2 => Command::Unpublish { name: "c1".to_owned(), ports: vec![publish] },
            _ => Command::Detach { port: a.port },
        };
        let mut progress = net.start(command);
        let (mut steps, mut new) = (1, 0);
        net.left();
        let flushed = loop {
            match progress {
                Progress::Done(applied) => break applied,
                Progress::More(unfinished) => {
                    net.secs(1);
                    // What was there goes on as long as it is there, and what begins now stays.
                    net.route(&b, &udp("172.17.0.3:5", &format!("198.51.100.6:{}", 100 + steps)));
                    assert_eq!(net.left_one().to(), format!("198.51.100.6:{}", 100 + steps));
                    if steps == 1 && kept {
                        for client in [1023 + MANY, 1024 + MANY] {
                            net.arrive(&udp(&format!("203.0.113.5:{client}"), "192.0.2.112:53"));
                        }
                        assert_eq!(net.got(&a).len(), 2);
                    }
                    new += 1;
                    steps += 1;
                    progress = net.proceed(unfinished);
                }
            }
        };
        let others = usize::from(which == 0);
        assert_eq!(flushed, Applied::Flushed(usize::from(MANY) + others), "{which}");
        assert!(steps >= 2, "{which}: {steps} steps");
        assert_eq!(net.flows().len(), new + 1 - others + usize::from(kept), "{which}");
        let of_c1 = net.flows().iter().filter(|f| f.name != "c2").count();
        assert_eq!(of_c1, usize::from(kept), "{which}");
    }
}
