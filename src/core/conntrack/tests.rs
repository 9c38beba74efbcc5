//! What the table promises, under a virtual clock.

use std::time::Duration;

use proptest::prelude::*;

use super::segment::{ACK, FIN, PSH, RST, SYN, URG};
use super::*;
use crate::core::time::Instant;
use crate::wire::addr::Addr;

const DAY: u64 = 86_400;

/// A table, a clock, and a caller that treats packets as the datapath does.
struct Bed {
    table: Table,
    now: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    New(FlowId),
    Known(Track),
    Refused(Invalid),
    Full(Full),
}

impl Bed {
    fn new(config: Config) -> Bed {
        Bed { table: Table::new(config, [7; 16]), now: Instant::from_secs(1000) }
    }

    fn packet(&mut self, owner: u32, tuple: FiveTuple, l4: L4<'_>) -> Seen {
        if let Some((id, dir)) = self.table.lookup(&tuple, self.now) {
            match self.table.track(id, dir, l4, 100, self.now) {
                Track::Reopen => assert_eq!(self.table.lookup(&tuple, self.now), None),
                known => return Seen::Known(known),
            }
        }
        if let Err(why) = self.table.admit(&tuple, l4) {
            return Seen::Refused(why);
        }
        let tentative = Tentative::new(tuple, OwnerId(owner));
        match self.table.commit(tentative, l4, 100, self.now) {
            Ok(id) => Seen::New(id),
            Err(why) => Seen::Full(why),
        }
    }

    fn tcp(&mut self, tuple: FiveTuple, segment: Segment) -> Seen {
        self.packet(1, tuple, L4::Tcp(&segment))
    }

    /// A connection's segments, `(from the client?, flags, seq, ack, payload)`.
    fn play(&mut self, client: FiveTuple, script: &[Step]) {
        for &step in script {
            let seen = self.step(client, step);
            assert!(matches!(seen, Seen::New(_) | Seen::Known(Track::Accept | Track::Ignore)), "{step:?}: {seen:?}");
        }
    }

    fn step(&mut self, client: FiveTuple, (from, flags, seq, ack, len): Step) -> Seen {
        let tuple = match from {
            C => client,
            S => client.inverse(),
        };
        self.tcp(tuple, seg(flags, seq, ack, len))
    }

    fn pass(&mut self, secs: u64) {
        self.now = self.now + Duration::from_secs(secs);
    }

    fn is_known(&mut self, tuple: FiveTuple) -> bool {
        self.table.lookup(&tuple, self.now).is_some()
    }

    fn flow(&mut self, tuple: FiveTuple) -> &Flow {
        let (id, _) = self.table.lookup(&tuple, self.now).unwrap();
        &self.table[id]
    }

    fn state(&mut self, tuple: FiveTuple) -> State {
        self.flow(tuple).tcp_state().unwrap()
    }

    fn left(&mut self, tuple: FiveTuple) -> u64 {
        let now = self.now;
        let (id, _) = self.table.lookup(&tuple, now).unwrap();
        self.table.remaining(&self.table[id], now).as_secs()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum From {
    Client,
    Server,
}
const C: From = From::Client;
const S: From = From::Server;
type Step = (From, u8, u32, u32, u32);

const FA: u8 = FIN | ACK;
const SA: u8 = SYN | ACK;
const RA: u8 = RST | ACK;
const PA: u8 = PSH | ACK;

const HANDSHAKE: [Step; 3] = [(C, SYN, 0, 0, 0), (S, SA, 100, 1, 0), (C, ACK, 1, 101, 0)];
const CLOSE: [Step; 4] = [(C, FA, 1, 101, 0), (S, ACK, 101, 2, 0), (S, FA, 101, 2, 0), (C, ACK, 2, 102, 0)];

fn seg(flags: u8, seq: u32, ack: u32, payload_len: u32) -> Segment {
    Segment { flags, seq, ack, window: 65_535, payload_len, sack: ack, ..Segment::default() }
}

fn flow(n: u16, proto: u8) -> FiveTuple {
    FiveTuple { src: Addr::v4([172, 17, 0, 2]), dst: Addr::v4([198, 51, 100, 5]), sport: n, dport: 80, proto }
}

fn tcp_flow() -> FiveTuple {
    flow(40_000, tuple::TCP)
}

fn strict() -> Config {
    Config { tcp_liberal: false, ..Config::default() }
}

fn small(limit: u32, quota: u32) -> Config {
    Config { limit, quota: Some(quota), ..Config::default() }
}

#[test]
fn a_flow_is_found_under_both_tuples_until_it_is_removed() {
    let mut bed = Bed::new(Config::default());
    let t = flow(1, tuple::UDP);
    let Seen::New(id) = bed.packet(1, t, L4::Udp) else { panic!("a new flow") };
    assert_eq!(bed.table.lookup(&t, bed.now), Some((id, Direction::Original)));
    assert_eq!(bed.table.lookup(&t.inverse(), bed.now), Some((id, Direction::Reply)));
    bed.table.remove(id);
    assert!(!bed.is_known(t) && !bed.is_known(t.inverse()));
    assert!(bed.table.get(id).is_none());
    bed.table.remove(id);
    bed.table.audit();
}

#[test]
fn the_reply_tuple_is_the_translation_and_takes_the_port() {
    let mut bed = Bed::new(Config::default());
    let masqueraded = |n: u16| {
        let mut t = Tentative::new(flow(n, tuple::UDP), OwnerId(1));
        t.reply.dst = Addr::v4([192, 0, 2, 10]);
        t.reply.dport = 5000;
        t
    };
    let reply = masqueraded(1).reply;
    assert!(!bed.table.in_use(&reply, bed.now));
    bed.table.commit(masqueraded(1), L4::Udp, 1, bed.now).unwrap();
    assert!(bed.table.in_use(&reply, bed.now));
    assert_eq!(bed.table.commit(masqueraded(2), L4::Udp, 1, bed.now), Err(Full::Clash));
    bed.pass(31);
    assert!(!bed.table.in_use(&reply, bed.now));
    bed.table.commit(masqueraded(2), L4::Udp, 1, bed.now).unwrap();
    assert_eq!(bed.table.stats().refused_clash, 1);
    bed.table.audit();
}

#[test]
fn an_id_does_not_find_the_successor_in_its_place() {
    let mut bed = Bed::new(Config::default());
    let Seen::New(old) = bed.packet(1, flow(1, tuple::UDP), L4::Udp) else { panic!("a new flow") };
    bed.table.remove(old);
    let Seen::New(new) = bed.packet(1, flow(2, tuple::UDP), L4::Udp) else { panic!("a new flow") };
    assert_ne!(old, new);
    assert!(bed.table.get(old).is_none());
    assert_eq!(bed.table.track(old, Direction::Original, L4::Udp, 1, bed.now), Track::Reopen);
}

/// Every timeout of Linux: known a second before, gone a second after.
// T5
#[test]
fn tcp_timers_are_those_of_linux() {
    let after_handshake = |more: &[Step]| [&HANDSHAKE, more].concat();
    let same_ack = [(C, PA, 1, 101, 10); 4];
    for (name, script, secs) in [
        ("SYN_SENT", vec![HANDSHAKE[0]], 120),
        ("SYN_SENT2", vec![HANDSHAKE[0], (S, SYN, 100, 0, 0)], 120),
        ("SYN_RECV", HANDSHAKE[..2].to_vec(), 60),
        ("ESTABLISHED", HANDSHAKE.to_vec(), 5 * DAY),
        ("ESTABLISHED", after_handshake(&[(C, PA, 1, 101, 10)]), 300),
        ("ESTABLISHED", after_handshake(&[(C, PA, 1, 101, 10), (S, ACK, 101, 11, 0)]), 5 * DAY),
        ("ESTABLISHED", after_handshake(&same_ack), 300),
        ("FIN_WAIT", after_handshake(&CLOSE[..1]), 120),
        ("CLOSE_WAIT", after_handshake(&CLOSE[..2]), 60),
        ("LAST_ACK", after_handshake(&CLOSE[..3]), 30),
        ("TIME_WAIT", after_handshake(&CLOSE), 120),
        ("CLOSE", after_handshake(&[(C, RA, 1, 101, 0)]), 10),
    ] {
        let mut bed = Bed::new(Config::default());
        bed.play(tcp_flow(), &script);
        assert_eq!(bed.state(tcp_flow()).name(), name);
        bed.pass(secs - 1);
        assert!(bed.is_known(tcp_flow()), "{name} at {secs} - 1 s");
        bed.pass(2);
        assert!(!bed.is_known(tcp_flow()), "{name} at {secs} + 1 s");
        bed.table.audit();
    }
}

// U5, I2
#[test]
fn other_timers_are_those_of_linux() {
    let ping = FiveTuple::icmp_query(tcp_flow().src, tcp_flow().dst, tuple::ICMP, 8, 0, 9).unwrap().0;
    let ping6 =
        FiveTuple::icmp_query("2001:db8::2".parse().unwrap(), "2001:db8::1".parse().unwrap(), tuple::ICMPV6, 128, 0, 9);
    let (ask, answer) = (L4::Icmp(Query::Request), L4::Icmp(Query::Reply));
    for (t, out, back, unreplied, replied) in [
        (flow(1, tuple::UDP), L4::Udp, L4::Udp, 30, 30),
        (ping, ask, answer, 30, 30),
        (ping6.unwrap().0, ask, answer, 30, 30),
        (FiveTuple { sport: 0, dport: 0, ..flow(0, tuple::GRE) }, L4::Other, L4::Other, 30, 30),
        (FiveTuple { sport: 0, dport: 0, ..flow(0, 50) }, L4::Other, L4::Other, 600, 600),
    ] {
        let mut bed = Bed::new(Config::default());
        bed.packet(1, t, out);
        bed.pass(unreplied - 1);
        assert!(bed.is_known(t), "{t}");
        assert_eq!(bed.packet(1, t.inverse(), back), Seen::Known(Track::Accept));
        bed.pass(replied - 1);
        assert!(bed.is_known(t), "{t}");
        bed.pass(2);
        assert!(!bed.is_known(t), "{t}");
    }
}

#[test]
fn a_udp_conversation_becomes_a_stream_after_two_seconds() {
    let mut bed = Bed::new(Config::default());
    let t = flow(1, tuple::UDP);
    bed.packet(1, t, L4::Udp);
    bed.packet(1, t.inverse(), L4::Udp);
    bed.pass(2);
    bed.packet(1, t, L4::Udp);
    assert!(!bed.flow(t).is_assured());
    assert_eq!(bed.left(t), 30);
    bed.pass(1);
    bed.packet(1, t, L4::Udp);
    assert!(bed.flow(t).is_assured());
    bed.pass(119);
    assert!(bed.is_known(t));
    bed.pass(2);
    assert!(!bed.is_known(t));
}

#[test]
fn the_first_late_reply_does_not_make_a_stream_yet() {
    let mut bed = Bed::new(Config::default());
    let t = flow(1, tuple::UDP);
    bed.packet(1, t, L4::Udp);
    bed.pass(5);
    bed.packet(1, t.inverse(), L4::Udp);
    assert_eq!((bed.left(t), bed.flow(t).is_assured()), (30, false));
    bed.packet(1, t, L4::Udp);
    assert_eq!((bed.left(t), bed.flow(t).is_assured()), (120, true));
}

#[test]
fn gre_both_ways_lives_longer() {
    let mut bed = Bed::new(Config::default());
    let t = FiveTuple { sport: 0, dport: 0, ..flow(0, tuple::GRE) };
    bed.packet(1, t, L4::Other);
    bed.packet(1, t.inverse(), L4::Other);
    bed.packet(1, t, L4::Other);
    assert_eq!((bed.left(t), bed.flow(t).is_assured()), (180, true));
}

// X08
#[test]
fn x08_a_retransmitted_syn_does_not_renew_the_timer() {
    let mut bed = Bed::new(Config::default());
    for _ in 0..10 {
        bed.play(tcp_flow(), &HANDSHAKE[..1]);
        bed.pass(11);
    }
    assert!(bed.is_known(tcp_flow()));
    bed.pass(10);
    assert!(!bed.is_known(tcp_flow()));
}

// X02
#[test]
fn x02_assured_comes_with_the_ack_of_the_handshake() {
    let mut bed = Bed::new(Config::default());
    for (step, assured) in HANDSHAKE.into_iter().zip([false, false, true]) {
        bed.play(tcp_flow(), &[step]);
        assert_eq!(bed.flow(tcp_flow()).is_assured(), assured);
    }
}

// X09
#[test]
fn x09_a_refused_connection_leaves_nothing() {
    let mut bed = Bed::new(Config::default());
    bed.play(tcp_flow(), &HANDSHAKE[..1]);
    let (id, dir) = bed.table.lookup(&tcp_flow().inverse(), bed.now).unwrap();
    let rst = seg(RA, 0, 1, 0);
    assert_eq!(bed.table.track(id, dir, L4::Tcp(&rst), 40, bed.now), Track::Accept);
    assert_eq!(bed.table[id].original, tcp_flow(), "still there to be translated by");
    assert!(bed.table.flows(0, 10, bed.now).flows.is_empty());
    assert!(!bed.is_known(tcp_flow()));
    bed.table.audit();
}

// X07
#[test]
fn x07_a_new_syn_reopens_what_is_closed_from_either_side() {
    let closed = [&HANDSHAKE[..], &CLOSE].concat();
    let mut bed = Bed::new(Config::default());
    bed.play(tcp_flow(), &closed);
    assert!(matches!(bed.step(tcp_flow(), (C, SYN, 9000, 0, 0)), Seen::New(_)));
    assert_eq!(bed.state(tcp_flow()), State::SynSent);

    let mut bed = Bed::new(Config::default());
    bed.play(tcp_flow(), &closed);
    assert!(matches!(bed.step(tcp_flow(), (S, SYN, 9000, 0, 0)), Seen::New(_)));
    assert_eq!(bed.flow(tcp_flow()).original, tcp_flow().inverse());
    bed.table.audit();

    let mut bed = Bed::new(Config::default());
    bed.play(tcp_flow(), &[&HANDSHAKE[..], &[(C, RA, 1, 101, 0)]].concat());
    assert!(matches!(bed.step(tcp_flow(), (C, SYN, 9000, 0, 0)), Seen::New(_)));
}

/// The sequence of Linux' conntrack_rst_invalid.pkt, with strict windows as there.
// X04
#[test]
fn x04_only_the_exact_rst_closes() {
    let mut bed = Bed::new(strict());
    let t = tcp_flow();
    bed.play(t, &[(C, SYN, 0, 0, 0), (S, SA, 1, 1, 0)]);
    // The packetdrill script has the server's sequence numbers begin at 1 relative to its SYN-ACK.
    bed.play(t, &[(C, ACK, 1, 2, 0)]);
    for at in [2, 1002, 2002] {
        bed.play(t, &[(S, ACK, at, 1, 1000)]);
    }
    for at in [1002, 2002, 3002] {
        bed.play(t, &[(C, ACK, 1, at, 0)]);
    }
    bed.play(t, &[(C, PA, 1, 3002, 1000)]);
    for (rst, why) in [
        ((S, RST, 0, 0, 0), Invalid::Reset),
        ((S, RST, 1_000_000, 0, 0), Invalid::Window),
        ((S, RST, 42, 0, 0), Invalid::Reset),
    ] {
        assert_eq!(bed.step(t, rst), Seen::Known(Track::Invalid(why)));
        assert_eq!(bed.state(t), State::Established);
    }
    bed.play(t, &[(S, ACK, 3002, 1001, 0)]);
    assert_eq!(bed.step(t, (S, RA, 3001, 1001, 0)), Seen::Known(Track::Invalid(Invalid::Reset)));
    assert_eq!(bed.state(t), State::Established);
    bed.play(t, &[(S, RA, 3002, 1001, 0)]);
    assert_eq!(bed.state(t), State::Close);
    assert_eq!(bed.table.stats().invalid, 4);
}

// X04
#[test]
fn x04_a_rst_inside_the_window_passes_and_waits_for_the_challenge() {
    let mut bed = Bed::new(strict());
    bed.play(tcp_flow(), &HANDSHAKE);
    bed.play(tcp_flow(), &[(S, RST, 150, 0, 0)]);
    assert_eq!(bed.state(tcp_flow()), State::Established);
    assert_eq!(bed.left(tcp_flow()), 10);
    // The client's challenge ACK and the exact RST that answers it.
    bed.play(tcp_flow(), &[(C, ACK, 1, 101, 0), (S, RST, 101, 0, 0)]);
    assert_eq!(bed.state(tcp_flow()), State::Close);
}

#[test]
fn a_rst_far_outside_the_window_cannot_shorten_a_silent_flow() {
    let mut bed = Bed::new(Config::default());
    bed.play(tcp_flow(), &HANDSHAKE);
    assert_eq!(bed.step(tcp_flow(), (S, RST, 1_000_000, 0, 0)), Seen::Known(Track::Ignore));
    assert_eq!(bed.left(tcp_flow()), 5 * DAY);
}

/// The sequence of Linux' conntrack_inexact_rst.pkt.
// X04
#[test]
fn x04_any_rst_is_taken_while_closing() {
    let mut bed = Bed::new(strict());
    let t = tcp_flow();
    bed.play(t, &HANDSHAKE);
    bed.play(t, &[(S, PA, 101, 1, 1000), (C, ACK, 1, 1101, 0), (C, PA, 1, 1101, 1000)]);
    bed.play(t, &[(S, FA, 1101, 1001, 0), (C, ACK, 1001, 1102, 0)]);
    assert_eq!(bed.state(t), State::CloseWait);
    bed.play(t, &[(C, RA, 1001, 1102, 0)]);
    assert_eq!(bed.state(t), State::Close);
    bed.play(t, &[(S, RST, 500, 0, 0)]);
    assert_eq!(bed.table.stats().invalid, 0);
}

/// The sequence of Linux' conntrack_syn_challenge_ack.pkt: the peer still holds an old connection.
// X05
#[test]
fn x05_a_rst_after_a_challenge_ack_clears_the_way() {
    let mut bed = Bed::new(strict());
    let t = tcp_flow();
    bed.play(t, &[(C, SYN, 0, 0, 0), (S, ACK, 145_824_453, 643_160_523, 0)]);
    assert_eq!(bed.state(t), State::SynSent);
    bed.play(t, &[(C, RST, 643_160_523, 0, 0)]);
    assert!(matches!(bed.step(t, (C, SYN, 0, 0, 0)), Seen::New(_)));
    assert!(!bed.flow(t).seen_reply());
    bed.play(t, &[(S, SA, 0, 1, 0), (C, ACK, 1, 1, 0)]);
    assert_eq!(bed.state(t), State::Established);
    assert!(bed.flow(t).is_assured());
    assert_eq!(bed.table.stats().invalid, 0);
}

/// The sequence of Linux' conntrack_synack_reuse.pkt: the client has forgotten, we and the server have not.
// X05
#[test]
fn x05_a_syn_into_an_established_flow_is_challenged_then_reopens() {
    let mut bed = Bed::new(strict());
    let t = tcp_flow();
    bed.play(t, &HANDSHAKE);
    bed.play(t, &[(C, PA, 1, 101, 100), (S, ACK, 101, 101, 0)]);
    assert_eq!(bed.step(t, (C, SYN, 2000, 0, 0)), Seen::Known(Track::Ignore));
    bed.play(t, &[(S, ACK, 101, 101, 0), (C, RA, 101, 101, 0)]);
    assert!(matches!(bed.step(t, (C, SYN, 2000, 0, 0)), Seen::New(_)));
    bed.play(t, &[(S, SA, 7000, 2001, 0)]);
    assert_eq!(bed.state(t), State::SynRecv);
    assert_eq!(bed.table.stats().invalid, 0);
}

/// The sequence of Linux' conntrack_synack_old.pkt.
// X05
#[test]
fn x05_an_old_syn_ack_does_not_spoil_the_right_one() {
    let t = tcp_flow();
    for (config, old) in
        [(strict(), Seen::Known(Track::Invalid(Invalid::Window))), (Config::default(), Seen::Known(Track::Accept))]
    {
        let mut bed = Bed::new(config);
        bed.play(t, &[(C, SYN, 0, 0, 0)]);
        assert_eq!(bed.step(t, (S, SA, 145_824_453, 643_160_523, 0)), old);
        bed.play(t, &[(C, SYN, 0, 0, 0)]);
        bed.play(t, &[(S, SA, 145_758_918, 1, 0), (C, PA, 1, 145_758_919, 1)]);
        assert_eq!(bed.state(t), State::Established);
        assert!(bed.flow(t).is_assured());
    }
}

// X05
#[test]
fn x05_a_challenge_ack_is_not_the_last_ack() {
    let mut bed = Bed::new(Config::default());
    let t = tcp_flow();
    bed.play(t, &[&HANDSHAKE[..], &CLOSE[..3]].concat());
    assert_eq!(bed.step(t, (C, SYN, 9000, 0, 0)), Seen::Known(Track::Ignore));
    assert_eq!(bed.step(t, (S, ACK, 102, 2, 0)), Seen::Known(Track::Ignore));
    assert_eq!(bed.state(t), State::LastAck);
}

#[test]
fn the_syn_ack_to_an_ignored_syn_brings_us_back_in_step() {
    let mut bed = Bed::new(strict());
    let t = tcp_flow();
    bed.play(t, &HANDSHAKE);
    assert_eq!(bed.step(t, (C, SYN, 900_000, 0, 0)), Seen::Known(Track::Ignore));
    bed.play(t, &[(S, SA, 500_000, 900_001, 0)]);
    assert_eq!(bed.state(t), State::SynRecv);
    bed.play(t, &[(C, ACK, 900_001, 500_001, 0)]);
    assert_eq!(bed.state(t), State::Established);
}

// T2
#[test]
fn simultaneous_open_is_established() {
    let mut bed = Bed::new(strict());
    let t = tcp_flow();
    bed.play(t, &[(C, SYN, 0, 0, 0), (S, SYN, 100, 0, 0)]);
    assert_eq!(bed.state(t), State::SynSent2);
    bed.play(t, &[(C, SA, 0, 101, 0), (S, ACK, 101, 1, 0)]);
    assert_eq!(bed.state(t), State::Established);
}

// X03
#[test]
fn x03_data_outside_the_window_passes_when_liberal_and_not_when_strict() {
    let wild = (S, PA, 90_000_000, 1, 1000);
    let mut bed = Bed::new(Config::default());
    bed.play(tcp_flow(), &HANDSHAKE);
    assert_eq!(bed.step(tcp_flow(), wild), Seen::Known(Track::Accept));
    let mut bed = Bed::new(strict());
    bed.play(tcp_flow(), &HANDSHAKE);
    bed.pass(10);
    assert_eq!(bed.step(tcp_flow(), wild), Seen::Known(Track::Invalid(Invalid::Window)));
    assert_eq!(bed.left(tcp_flow()), 5 * DAY - 10, "V8: a refused packet renews nothing");
}

#[test]
fn windows_grow_by_scaling_and_super_frames_fit() {
    let mut bed = Bed::new(strict());
    let t = tcp_flow();
    let scaled = |flags, seq, ack| Segment { wscale: Some(7), window: 512, ..seg(flags, seq, ack, 0) };
    bed.tcp(t, scaled(SYN, 0, 0));
    bed.tcp(t.inverse(), scaled(SA, 100, 1));
    let ack = |seq, ack| Segment { window: 512, ..seg(ACK, seq, ack, 0) };
    bed.tcp(t, ack(1, 101));
    // 512 << 7 is a window of 65,536 bytes: four frames of 20,000 begin inside it.
    let frame = |seq| Segment { window: 512, ..seg(PA, seq, 1, 20_000) };
    for seq in [101, 20_101, 40_101, 60_101] {
        assert_eq!(bed.tcp(t.inverse(), frame(seq)), Seen::Known(Track::Accept), "{seq}");
    }
    assert_eq!(bed.tcp(t.inverse(), frame(200_101)), Seen::Known(Track::Invalid(Invalid::Window)));
    assert_eq!(bed.tcp(t, ack(1, 80_101)), Seen::Known(Track::Accept));
    assert_eq!(bed.tcp(t.inverse(), frame(80_101)), Seen::Known(Track::Accept));
    // And one that is as large as frames get.
    assert_eq!(bed.tcp(t, ack(1, 100_101)), Seen::Known(Track::Accept));
    let largest = Segment { window: 512, ..seg(PA, 100_101, 1, 65_483) };
    assert_eq!(bed.tcp(t.inverse(), largest), Seen::Known(Track::Accept));
}

#[test]
fn sack_keeps_the_window_open_across_a_hole() {
    let mut bed = Bed::new(strict());
    let t = tcp_flow();
    let offer = |flags, seq, ack| Segment { sack_permitted: true, ..seg(flags, seq, ack, 0) };
    bed.tcp(t, offer(SYN, 0, 0));
    bed.tcp(t.inverse(), offer(SA, 100, 1));
    bed.play(t, &[(C, ACK, 1, 101, 0)]);
    // The first segment is lost before it reaches the client, the next 60,000 bytes are not.
    bed.play(t, &[(S, PA, 101, 1, 1000), (S, PA, 1101, 1, 60_000)]);
    let sacked = Segment { sack: 61_101, ..seg(ACK, 1, 101, 0) };
    assert_eq!(bed.tcp(t, sacked), Seen::Known(Track::Accept));
    // The window counts from what was received, not from the hole.
    bed.play(t, &[(S, PA, 61_101, 1, 60_000)]);
    assert_eq!(bed.step(t, (S, PA, 121_101, 1, 1000)), Seen::Known(Track::Accept));
}

#[test]
fn a_retransmission_of_acknowledged_data_passes() {
    let mut bed = Bed::new(strict());
    let t = tcp_flow();
    bed.play(t, &HANDSHAKE);
    let mut seq = 101;
    for _ in 0..50 {
        bed.play(t, &[(S, PA, seq, 1, 1460), (C, ACK, 1, seq + 1460, 0)]);
        seq += 1460;
    }
    assert_eq!(bed.step(t, (S, PA, 101, 1, 1460)), Seen::Known(Track::Ignore));
}

#[test]
fn a_closed_window_shortens_the_timer() {
    let mut bed = Bed::new(Config::default());
    bed.play(tcp_flow(), &HANDSHAKE);
    let closed = Segment { window: 0, ..seg(ACK, 1, 101, 0) };
    bed.tcp(tcp_flow(), closed);
    assert_eq!(bed.left(tcp_flow()), 300);
}

// X10
#[test]
fn x10_a_close_that_cannot_be_followed_shortens_the_timer() {
    let mut bed = Bed::new(strict());
    bed.play(tcp_flow(), &HANDSHAKE);
    for (fin, left) in [((C, FA, 90_000_000, 101, 0), 5 * DAY), ((S, FA, 90_000_000, 1, 0), 300)] {
        assert_eq!(bed.step(tcp_flow(), fin), Seen::Known(Track::Invalid(Invalid::Window)));
        assert_eq!(bed.left(tcp_flow()), left);
        bed.table.audit();
    }
}

#[test]
fn what_may_begin_a_flow() {
    let table = Table::new(Config::default(), [7; 16]);
    let t = tcp_flow();
    for (flags, want) in [
        (SYN, Ok(())),
        (SA, Err(Invalid::NotNew)),
        (ACK, Err(Invalid::NotNew)),
        (FA, Err(Invalid::NotNew)),
        (RST, Err(Invalid::NotNew)),
        (SYN | FIN, Err(Invalid::Flags)),
        (0, Err(Invalid::Flags)),
        (FIN | PSH | URG, Err(Invalid::Flags)),
    ] {
        assert_eq!(table.admit(&t, L4::Tcp(&seg(flags, 1, 1, 0))), want);
    }
    let ping = FiveTuple::icmp_query(t.src, t.dst, tuple::ICMP, 8, 0, 1).unwrap().0;
    assert_eq!(table.admit(&ping, L4::Icmp(Query::Request)), Ok(()));
    assert_eq!(table.admit(&ping.inverse(), L4::Icmp(Query::Reply)), Err(Invalid::NotNew));
    assert_eq!(table.admit(&t, L4::Other), Err(Invalid::NotNew));
    assert_eq!(table.admit(&flow(1, tuple::UDP), L4::Udp), Ok(()));
    assert_eq!(table.admit(&flow(0, 50), L4::Other), Ok(()));
}

#[test]
fn x06_a_stream_is_picked_up_only_when_asked_to_and_not_trusted_until_answered() {
    let loose = Config { tcp_loose: true, tcp_liberal: false, ..Config::default() };
    let mut bed = Bed::new(loose);
    let t = tcp_flow();
    assert!(matches!(bed.step(t, (C, PA, 5000, 9000, 100)), Seen::New(_)));
    assert_eq!((bed.state(t), bed.left(t)), (State::Established, 300));
    bed.play(t, &[(S, ACK, 9000, 5100, 0)]);
    bed.play(t, &[(C, ACK, 5100, 9000, 0)]);
    assert!(bed.flow(t).is_assured());
    assert_eq!(bed.left(t), 5 * DAY);
}

// V8
#[test]
fn v8_an_icmp_error_or_a_bad_packet_renews_nothing() {
    let mut bed = Bed::new(Config::default());
    let t = flow(1, tuple::UDP);
    bed.packet(1, t, L4::Udp);
    bed.pass(20);
    assert!(bed.is_known(t), "as the error's quote is looked up");
    assert_eq!(bed.left(t), 10);
    bed.play(tcp_flow(), &HANDSHAKE);
    bed.pass(5);
    assert_eq!(bed.step(tcp_flow(), (S, SYN | FIN, 0, 0, 0)), Seen::Known(Track::Invalid(Invalid::Flags)));
    assert_eq!(bed.left(tcp_flow()), 5 * DAY - 5);
}

#[test]
fn a_later_fragment_passes_with_its_flow() {
    let mut bed = Bed::new(Config::default());
    bed.play(tcp_flow(), &HANDSHAKE[..1]);
    bed.pass(100);
    assert_eq!(bed.packet(1, tcp_flow(), L4::Other), Seen::Known(Track::Ignore));
    assert_eq!(bed.left(tcp_flow()), 20);
}

#[test]
fn packets_and_bytes_are_counted_by_direction() {
    let mut bed = Bed::new(Config::default());
    let t = flow(1, tuple::UDP);
    bed.packet(1, t, L4::Udp);
    bed.packet(1, t, L4::Udp);
    bed.packet(1, t.inverse(), L4::Udp);
    let f = bed.flow(t);
    assert_eq!((f.packets(Direction::Original), f.bytes(Direction::Original)), (2, 200));
    assert_eq!((f.packets(Direction::Reply), f.bytes(Direction::Reply)), (1, 100));
}

/// Makes a flow of each rank: unreplied, closing, answered, assured.
fn one_of_each(bed: &mut Bed) -> [FiveTuple; 4] {
    let all = [1, 2, 3, 4].map(|n| flow(n, tuple::TCP));
    let [unreplied, closing, unassured, assured] = all;
    bed.play(assured, &HANDSHAKE);
    bed.play(unassured, &HANDSHAKE[..2]);
    bed.play(closing, &[&HANDSHAKE[..], &CLOSE].concat());
    bed.play(unreplied, &HANDSHAKE[..1]);
    all
}

// X13, S49
#[test]
fn x13_room_is_made_down_the_ladder_and_an_assured_flow_stays() {
    let mut bed = Bed::new(small(4, 4));
    let ranks = one_of_each(&mut bed);
    // Newcomers are closed at once by being answered and assured, so that they are not the ones to go.
    for (n, evicted) in ranks[..3].iter().enumerate() {
        let newcomer = flow(100 + n as u16, tuple::TCP);
        bed.play(newcomer, &HANDSHAKE);
        assert!(!bed.is_known(*evicted), "step {n}");
        bed.table.audit();
    }
    assert_eq!(bed.step(flow(200, tuple::TCP), HANDSHAKE[0]), Seen::Full(Full::Quota));
    assert!(bed.is_known(ranks[3]));
    let stats = bed.table.stats();
    assert_eq!((stats.evicted_unreplied, stats.evicted_closing, stats.evicted_unassured), (1, 1, 1));
}

// X12, S49
#[test]
fn x12_a_full_table_of_assured_flows_refuses_and_keeps_them() {
    let mut bed = Bed::new(small(4, 100));
    for n in 0..4 {
        bed.play(flow(n, tuple::TCP), &HANDSHAKE);
    }
    assert_eq!(bed.step(flow(9, tuple::TCP), HANDSHAKE[0]), Seen::Full(Full::Table));
    for n in 0..4 {
        assert!(bed.is_known(flow(n, tuple::TCP)));
    }
    assert_eq!(bed.table.stats().refused_table, 1);
}

#[test]
fn an_expired_flow_goes_before_all_others() {
    for quota in [4, 100] {
        let mut bed = Bed::new(small(4, quota));
        bed.play(flow(1, tuple::TCP), &HANDSHAKE);
        bed.play(flow(1, tuple::TCP), &[(C, RA, 1, 101, 0)]);
        bed.pass(11);
        for n in 2..5 {
            bed.play(flow(n, tuple::TCP), &HANDSHAKE[..1]);
        }
        bed.play(flow(9, tuple::TCP), &HANDSHAKE);
        for n in 2..5 {
            assert!(bed.is_known(flow(n, tuple::TCP)), "quota {quota}");
        }
        assert_eq!(bed.table.stats().expired, 1);
        bed.table.audit();
    }
}

#[test]
fn the_oldest_unreplied_flow_goes_first_but_not_one_that_is_in_use() {
    let mut bed = Bed::new(small(4, 4));
    for n in 0..4 {
        bed.packet(1, flow(n, tuple::UDP), L4::Udp);
        bed.pass(1);
    }
    let mut bed_wide = Bed::new(small(4, 100));
    for n in 0..4 {
        bed_wide.packet(1, flow(n, tuple::UDP), L4::Udp);
        bed_wide.pass(1);
    }
    bed_wide.packet(1, flow(0, tuple::UDP), L4::Udp); // a stream one way, as syslog
    bed.packet(1, flow(9, tuple::UDP), L4::Udp);
    bed_wide.packet(1, flow(9, tuple::UDP), L4::Udp);
    assert!(!bed.is_known(flow(0, tuple::UDP)));
    assert!(bed_wide.is_known(flow(0, tuple::UDP)));
    assert!(!bed_wide.is_known(flow(1, tuple::UDP)));
    bed.table.audit();
    bed_wide.table.audit();
}

// C4
#[test]
fn c4_an_owner_at_its_quota_disturbs_nobody_else() {
    let mut bed = Bed::new(small(100, 25));
    let victim = |n: u16| flow(n, tuple::UDP);
    for n in 0..20 {
        bed.packet(2, victim(n), L4::Udp);
    }
    for n in 0..10_000 {
        let seen = bed.packet(1, flow(1000 + n, tuple::UDP), L4::Udp);
        assert!(matches!(seen, Seen::New(_)), "its own oldest makes room");
    }
    assert_eq!(bed.table.owner_flows(OwnerId(1)), 25);
    assert_eq!(bed.table.owner_flows(OwnerId(2)), 20);
    for n in 0..20 {
        assert!(bed.is_known(victim(n)));
    }
    bed.table.audit();
}

#[test]
fn assured_flows_that_expired_in_the_middle_of_their_list_are_found_at_the_limit() {
    let mut bed = Bed::new(small(20, 100));
    for n in 0..20 {
        bed.play(flow(n, tuple::TCP), &HANDSHAKE);
    }
    // All but number 7 live on; the list still has them in the order of their beginning.
    bed.pass(4 * DAY);
    for n in (0..20).filter(|&n| n != 7) {
        bed.play(flow(n, tuple::TCP), &[(C, ACK, 1, 101, 0)]);
    }
    bed.pass(DAY + 1);
    bed.play(flow(100, tuple::TCP), &HANDSHAKE);
    assert!(!bed.is_known(flow(7, tuple::TCP)));
    bed.table.audit();
}

#[test]
fn owners_and_tags_can_be_flushed() {
    let mut bed = Bed::new(Config::default());
    let mut add = |n: u16, owner: u32, tag: u32| {
        let mut t = Tentative::new(flow(n, tuple::UDP), OwnerId(owner));
        t.tag = tag;
        bed.table.commit(t, L4::Udp, 1, bed.now).unwrap();
    };
    for n in 0..12 {
        add(n, 1, u32::from(n % 4));
        add(100 + n, 2, u32::from(n % 4));
    }
    let now = bed.now;
    let mut purge = |owners: &[u32], tags: &[u32]| {
        let owners = owners.iter().copied().map(OwnerId).collect();
        let mut purge = Purge::new(Some(owners), tags.to_vec(), now);
        while !bed.table.purge(&mut purge) {}
        purge.removed()
    };
    assert_eq!(purge(&[], &[0, 9]), 0, "0 is no tag");
    assert_eq!(purge(&[], &[3, 1, 3]), 12);
    assert_eq!(purge(&[3], &[1, 3]), 0);
    assert_eq!(purge(&[2], &[]), 6);
    assert_eq!(bed.table.remove_owner(OwnerId(2)), 0);
    assert_eq!(bed.table.owner_flows(OwnerId(1)), 6);
    assert_eq!((bed.table.stats().flows, bed.table.stats().removed), (6, 18));
    bed.table.audit();
}

#[test]
fn purge_of_many_flows_is_bounded_steps_that_spare_what_begins_meanwhile() {
    const MANY: u32 = 3 * STEP_REMOVALS + 7;
    for (owners, tags) in [(None, vec![]), (Some(vec![OwnerId(1)]), vec![]), (Some(vec![]), vec![5])] {
        let mut bed = Bed::new(Config { limit: 2 * MANY, quota: Some(2 * MANY), ..Config::default() });
        let add = |bed: &mut Bed, n: u32| {
            let mut t = Tentative::new(flow((n % 60_000) as u16, tuple::UDP), OwnerId(1));
            t.tag = 5;
            bed.table.commit(t, L4::Udp, 1, bed.now).unwrap();
        };
        (0..MANY).for_each(|n| add(&mut bed, n));
        let mut purge = Purge::new(owners, tags, bed.now);
        let (mut steps, mut before) = (0, 0);
        while !bed.table.purge(&mut purge) {
            assert!(purge.removed() - before <= STEP_REMOVALS as usize);
            before = purge.removed();
            steps += 1;
            bed.pass(1);
            // In the place of one that has just gone, or behind the last.
            add(&mut bed, MANY + steps);
        }
        assert!(steps >= 3, "{steps}");
        assert_eq!((purge.removed(), bed.table.stats().flows), (MANY as usize, steps));
        bed.table.audit();
    }
}

#[test]
fn a_listing_shows_every_live_flow_once_and_walks_no_further_than_asked() {
    let mut bed = Bed::new(Config::default());
    for n in 0..25 {
        bed.packet(1, flow(n, tuple::UDP), L4::Udp);
        bed.pass(1);
    }
    let (mut cursor, mut seen, mut pages) = (0, Vec::new(), 0);
    loop {
        bed.now = bed.now + Duration::from_secs(u64::from(pages == 0) * 6);
        let page = bed.table.flows(cursor, 10, bed.now);
        assert!(page.flows.len() <= 10);
        seen.extend(page.flows.iter().map(|(_, f)| f.original.sport));
        pages += 1;
        match page.next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert_eq!(pages, 3);
    assert_eq!(seen, (2..25).collect::<Vec<u16>>(), "0 and 1 have expired by then");
}

#[test]
fn an_idle_table_has_no_timeout_and_a_single_flow_needs_no_wake_up_in_vain() {
    let mut bed = Bed::new(Config::default());
    assert_eq!(bed.table.next_timeout(), None);
    bed.packet(1, flow(1, tuple::UDP), L4::Udp);
    let due = bed.table.next_timeout().unwrap();
    assert_eq!(due.since(bed.now).as_secs(), 30);
    assert_eq!(bed.table.expire(due - Duration::from_micros(1), 10), 0);
    assert_eq!(bed.table.expire(due, 10), 1);
    assert_eq!(bed.table.next_timeout(), None);
}

#[test]
fn a_timeout_that_becomes_shorter_is_kept_in_time() {
    let mut bed = Bed::new(Config::default());
    bed.play(tcp_flow(), &HANDSHAKE);
    bed.play(tcp_flow(), &[(C, PA, 1, 101, 10)]);
    let due = bed.table.next_timeout().unwrap();
    assert_eq!(due.since(bed.now).as_secs(), 300);
    assert_eq!(bed.table.expire(due, 10), 1);
}

#[test]
fn expiry_does_no_more_than_its_budget() {
    let mut bed = Bed::new(Config::default());
    for n in 0..100 {
        bed.packet(1, flow(n, tuple::UDP), L4::Udp);
    }
    bed.pass(30);
    assert_eq!(bed.table.expire(bed.now, 30), 30);
    assert!(bed.table.next_timeout().unwrap() <= bed.now);
    assert_eq!(bed.table.expire(bed.now, 1000), 70);
    bed.table.audit();
}

// X14
#[test]
fn flows_come_and_go_by_the_hundred_thousand_and_nothing_moves_or_wears() {
    let mut bed = Bed::new(small(1000, 1000));
    let (place, capacity, _) = bed.table.places();
    for n in 0..300_000_u32 {
        let mut t = flow((n % 60_000) as u16, tuple::UDP);
        t.dport = (n / 60_000) as u16;
        assert!(matches!(bed.packet(1, t, L4::Udp), Seen::New(_)));
    }
    let (place_now, capacity_now, run) = bed.table.places();
    assert_eq!((place_now, capacity_now), (place, capacity));
    // 2000 entries thrown at random into 4096 buckets make a longest run of 21 (median of 400 tries; 49 at most).
    assert!(run < 100, "a run of {run}");
    assert_eq!(bed.table.stats().flows, 1000);
    bed.table.audit();
}

/// Lines that conntrack-tools 1.4.7 printed for these flows.
// X18
#[test]
fn x18_a_flow_reads_as_conntrack_prints_it() {
    let line = |bed: &mut Bed, t: FiveTuple| {
        let now = bed.now;
        let (id, _) = bed.table.lookup(&t, now).unwrap();
        let flow = &bed.table[id];
        flow.line(bed.table.remaining(flow, now)).to_string()
    };
    let mut bed = Bed::new(Config::default());
    let web = FiveTuple {
        src: Addr::v4([192, 168, 2, 5]),
        dst: Addr::v4([192, 168, 2, 112]),
        sport: 51_894,
        dport: 80,
        proto: tuple::TCP,
    };
    let mut published = Tentative::new(web, OwnerId(1));
    published.reply.src = Addr::v4([172, 17, 0, 3]);
    let reply = published.reply;
    bed.table.commit(published, L4::Tcp(&seg(SYN, 0, 0, 0)), 60, bed.now).unwrap();
    assert_eq!(
        line(&mut bed, web),
        "tcp      6 120 SYN_SENT src=192.168.2.5 dst=192.168.2.112 sport=51894 dport=80 [UNREPLIED] \
         src=172.17.0.3 dst=192.168.2.5 sport=80 dport=51894 mark=0 use=1"
    );
    for (from, flags, seq, ack, len) in HANDSHAKE[1..].iter().chain(&CLOSE).copied() {
        let t = if from == C { web } else { reply };
        assert_eq!(bed.tcp(t, seg(flags, seq, ack, len)), Seen::Known(Track::Accept));
    }
    bed.pass(3);
    assert_eq!(
        line(&mut bed, web),
        "tcp      6 117 TIME_WAIT src=192.168.2.5 dst=192.168.2.112 sport=51894 dport=80 \
         src=172.17.0.3 dst=192.168.2.5 sport=80 dport=51894 [ASSURED] mark=0 use=1"
    );

    let ping =
        FiveTuple::icmp_query(Addr::v4([172, 17, 0, 2]), Addr::v4([198, 51, 100, 5]), tuple::ICMP, 8, 0, 1).unwrap().0;
    let mut masqueraded = Tentative::new(ping, OwnerId(1));
    masqueraded.reply.dst = Addr::v4([192, 168, 2, 112]);
    let reply = masqueraded.reply;
    bed.table.commit(masqueraded, L4::Icmp(Query::Request), 84, bed.now).unwrap();
    bed.packet(1, reply, L4::Icmp(Query::Reply));
    bed.pass(1);
    assert_eq!(
        line(&mut bed, ping),
        "icmp     1 29 src=172.17.0.2 dst=198.51.100.5 type=8 code=0 id=1 \
         src=198.51.100.5 dst=192.168.2.112 type=0 code=0 id=1 mark=0 use=1"
    );
    let esp = FiveTuple { sport: 0, dport: 0, ..flow(0, 50) };
    bed.packet(1, esp, L4::Other);
    assert_eq!(
        line(&mut bed, esp),
        "unknown  50 600 src=172.17.0.2 dst=198.51.100.5 [UNREPLIED] src=198.51.100.5 dst=172.17.0.2 mark=0 use=1"
    );
}

/// The naive reference: a list of flows that is searched from end to end.
#[derive(Default)]
struct Model {
    flows: Vec<Naive>,
}

struct Naive {
    original: FiveTuple,
    owner: u32,
    born: u64,
    last: u64,
    timeout: u64,
    replied: bool,
}

impl Model {
    fn find(&mut self, tuple: &FiveTuple, now: u64) -> Option<&mut Naive> {
        self.flows.retain(|f| f.last + f.timeout > now);
        self.flows.iter_mut().find(|f| f.original == *tuple || f.original.inverse() == *tuple)
    }

    /// A packet that is no TCP; is there a flow for it afterwards?
    fn packet(&mut self, owner: u32, t: FiveTuple, now: u64) -> bool {
        let first = match t.proto {
            tuple::GRE | tuple::UDP => 30,
            _ => 600,
        };
        match self.find(&t, now) {
            None => self.flows.push(Naive { original: t, owner, born: now, last: now, timeout: first, replied: false }),
            Some(f) => {
                f.last = now;
                f.timeout = match t.proto {
                    tuple::UDP if f.replied && now - f.born > 2 => 120,
                    tuple::GRE if f.replied => 180,
                    _ => first,
                };
                f.replied |= f.original != t;
            }
        }
        true
    }
}

#[derive(Clone, Debug)]
enum Op {
    Packet { owner: u32, n: u16, proto: u8, reply: bool },
    Pass(u64),
    Expire(usize),
    RemoveOwner(u32),
    Remove(u16),
}

fn op() -> impl Strategy<Value = Op> {
    let packet = (0..3_u32, 1..12_u16, prop_oneof![Just(tuple::UDP), Just(tuple::GRE), Just(50)], any::<bool>());
    prop_oneof![
        8 => packet.prop_map(|(owner, n, proto, reply)| Op::Packet { owner, n, proto, reply }),
        3 => prop_oneof![0..4_u64, 25..35_u64, 100..200_u64, 500..700_u64].prop_map(Op::Pass),
        1 => (0..5_usize).prop_map(Op::Expire),
        1 => (0..3_u32).prop_map(Op::RemoveOwner),
        1 => (1..12_u16).prop_map(Op::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_agrees_with_a_list_that_is_searched(ops in proptest::collection::vec(op(), 1..200)) {
        let mut bed = Bed::new(Config::default());
        let mut model = Model::default();
        let mut secs = 1000;
        for op in ops {
            match op {
                Op::Packet { owner, n, proto, reply } => {
                    let t = flow(n, proto);
                    let t = if reply { t.inverse() } else { t };
                    let l4 = if proto == tuple::UDP { L4::Udp } else { L4::Other };
                    let seen = bed.packet(owner, t, l4);
                    prop_assert!(matches!(seen, Seen::New(_) | Seen::Known(Track::Accept)));
                    model.packet(owner, t, secs);
                }
                Op::Pass(s) => {
                    secs += s;
                    bed.pass(s);
                }
                Op::Expire(budget) => {
                    bed.table.expire(bed.now, budget);
                }
                Op::RemoveOwner(owner) => {
                    bed.table.remove_owner(OwnerId(owner));
                    model.flows.retain(|f| f.owner != owner);
                }
                Op::Remove(n) => {
                    let t = flow(n, tuple::UDP);
                    if let Some((id, _)) = bed.table.lookup(&t, bed.now) {
                        bed.table.remove(id);
                    }
                    model.flows.retain(|f| f.original != t && f.original != t.inverse());
                }
            }
            for proto in [tuple::UDP, tuple::GRE, 50] {
                for n in 1..12 {
                    let t = flow(n, proto);
                    let want = model.find(&t, secs).map(|f| (f.original, f.last + f.timeout - secs, f.replied));
                    let now = bed.now;
                    let got = bed.table.lookup(&t, now).map(|(id, _)| {
                        let f = &bed.table[id];
                        (f.original, bed.table.remaining(f, now).as_secs(), f.seen_reply())
                    });
                    prop_assert_eq!(got, want);
                }
            }
            bed.table.audit();
        }
        // Left alone, everything goes, and nothing is left behind.
        while let Some(due) = bed.table.next_timeout() {
            bed.table.expire(due, 3);
        }
        prop_assert_eq!(bed.table.stats().flows, 0);
        bed.table.audit();
    }

    /// Any segments at all, in a table that is always full: nothing breaks, and a live assured flow is never evicted.
    #[test]
    fn no_segments_break_a_full_table(
        packets in proptest::collection::vec((0..3_u32, 0..20_u16, any::<bool>(), any::<u8>(), 0..4_u32, 0..4_u32, 0..3_u64), 1..300),
        liberal: bool,
    ) {
        let mut bed = Bed::new(Config { tcp_liberal: liberal, ..small(8, 5) });
        for (owner, n, reply, flags, seq, ack, pause) in packets {
            let t = flow(n, tuple::TCP);
            let t = if reply { t.inverse() } else { t };
            let proven: Vec<FiveTuple> = bed.table.flows(0, 100, bed.now).flows.iter()
                .filter(|(_, f)| f.is_assured() && !f.tcp_state().is_some_and(State::is_closing))
                .map(|(_, f)| f.original)
                .collect();
            bed.packet(owner, t, L4::Tcp(&seg(flags & 0x17, seq, ack, 0)));
            for p in proven {
                prop_assert!(bed.is_known(p) || p == t || p.inverse() == t);
            }
            bed.pass(pause);
            bed.table.audit();
        }
    }
}
