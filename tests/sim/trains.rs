//! Datagrams that wait to be sent together: what follows one of them makes no journey of its own, and nobody can tell.
//!
//! Who captures has each frame make its whole journey, so every claim here is that two switches agree: one that captures, and
//! one that does not.

use proptest::prelude::*;

use pontoon::core::command::{Query, SocketUplinkConfig};
use pontoon::core::socket::{DatagramError, Endpoint, SendHow};
use pontoon::wire::vnet::VnetHeader;

use crate::net::{Host, Net, addr};
use crate::packet::{UDP, frame, offload, udp_with};

/// Bytes of the headers of Ethernet, IPv4 and UDP.
const HEADERS: usize = 42;

/// What a container sends.
#[derive(Clone, Debug)]
enum Step {
    Datagram {
        /// Which container, and its port.
        from: usize,
        sport: u16,
        dport: u16,
        len: usize,
        /// Identification of IPv4; it changes nothing.
        id: u16,
        /// A byte of the headers and what it is changed by; its IPv4 header's checksum is made right again, or not.
        damage: Option<(usize, u8, bool)>,
        vnet: VnetHeader,
    },
    /// The turn is over.
    Flush,
}

fn datagram(len: usize) -> Step {
    Step::Datagram { from: 0, sport: 4000, dport: 5000, len, id: 7, damage: None, vnet: offload(UDP, 34, 0) }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let damage = (0..HEADERS, 1..=u8::MAX, any::<bool>());
    let odd = prop_oneof![
        4 => Just(offload(UDP, 34, 0)),
        1 => Just(VnetHeader::default()),
        1 => Just(offload(UDP, 34, 10)),
        1 => (any::<u8>(), 0_u8..7, any::<u16>(), 30_u16..40, 0_u16..9).prop_map(|(flags, gso_type, gso_size, csum_start, csum_offset)| {
            VnetHeader { flags, gso_type, hdr_len: 0, gso_size, csum_start, csum_offset }
        }),
    ];
    let other = (0_usize..2, 4000_u16..4002, 5000_u16..5002, 0_usize..60, any::<u16>(), prop::option::of(damage), odd)
        .prop_map(|(from, sport, dport, len, id, damage, vnet)| Step::Datagram {
            from,
            sport,
            dport,
            len,
            id,
            damage,
            vnet,
        });
    let step = prop_oneof![
        12 => (0_usize..3).prop_map(|shorter| datagram(40 - shorter.saturating_sub(1))),
        4 => other,
        1 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 1..120)
}

/// What came of it, for all to see.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// Each datagram that left: where to, its data, how.
    left: Vec<(Endpoint, Vec<u8>, SendHow)>,
    /// Ports with their counters, flows, rule hits and drops.
    listings: [String; 3],
    /// What the containers were told, at once and when the world complains.
    told: Vec<Vec<u8>>,
}

fn outcome(steps: &[Step], capture: bool) -> (Outcome, usize) {
    let mut net = Net::with_sockets(SocketUplinkConfig::for_ports(32_768..=60_999));
    let hosts = [net.attach(), net.attach()];
    net.world.capture = capture;
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Datagram { from, sport, dport, len, id, damage, vnet } => {
                let host = &hosts[*from];
                let (src, dst) = (format!("{}:{sport}", host.ip.unwrap()), format!("198.51.100.5:{dport}"));
                let mut packet = udp_with(&src, &dst, &vec![number as u8; *len]);
                packet.id = *id;
                send(&mut net, host, &packet.bytes(), *damage, *vnet);
            }
            Step::Flush => net.pump(),
        }
    }
    net.pump();
    let sent = std::mem::take(&mut net.host().sent);
    let calls = sent.len();
    let mut left = Vec::new();
    for datagrams in &sent {
        let size = datagrams.how.segment.map_or(datagrams.payload.len().max(1), |size| usize::from(size.get()));
        let how = SendHow { segment: None, ..datagrams.how };
        let mut all = datagrams.payload.chunks(size).peekable();
        if all.peek().is_none() {
            left.push((datagrams.to, Vec::new(), how));
        }
        left.extend(all.map(|data| (datagrams.to, data.to_vec(), how)));
    }
    let router = Some(addr("203.0.113.1"));
    for datagrams in sent {
        let error =
            DatagramError { to: datagrams.to, icmp: Ok((3, 3)), mtu: 0, offender: router, sequence: None, from: None };
        net.host().complain(datagrams.id, error);
        net.pump();
        net.secs(1); // so that no limit of a rate makes a difference
        if calls > 8 {
            break;
        }
    }
    let listings = [Query::Ports, Query::Flows { cursor: 0, max: 99 }, Query::Stats]
        .map(|query| format!("{:?}", net.query(query)));
    let told = hosts.iter().flat_map(|host| net.received(host.port)).map(|out| out.bytes).collect();
    (Outcome { left, listings, told }, calls)
}

fn send(net: &mut Net, host: &Host, packet: &[u8], damage: Option<(usize, u8, bool)>, vnet: VnetHeader) {
    let mut bytes = frame(net.gateway_mac(), host.mac, 0x0800, packet);
    if let Some((at, by, mend)) = damage {
        bytes[at] ^= by;
        if mend {
            bytes[24..26].fill(0);
            let words = bytes[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
            let sum = words.sum::<u32>();
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        }
    }
    net.input(host.port, vnet, &bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nobody_can_tell_whether_a_datagram_made_its_own_journey(steps in steps()) {
        let (with, _) = outcome(&steps, true);
        let (without, _) = outcome(&steps, false);
        prop_assert_eq!(with, without);
    }
}

#[test]
fn each_byte_of_the_headers_is_looked_at() {
    for at in 0..HEADERS {
        for mend in [false, true] {
            let Step::Datagram { from, sport, dport, len, id, vnet, .. } = datagram(40) else { unreachable!() };
            let damaged = Step::Datagram { from, sport, dport, len, id, vnet, damage: Some((at, 0x11, mend)) };
            let steps = [datagram(40), datagram(40), datagram(40), damaged, datagram(40)];
            assert_eq!(outcome(&steps, true).0, outcome(&steps, false).0, "byte {at}, mended: {mend}");
        }
    }
}

/// One whose checksum is computed already makes its own journey, and may be the last one before those that follow.
#[test]
fn a_checksum_that_was_whole_is_not_told_of_the_next_datagram() {
    let Step::Datagram { from, sport, dport, len, id, damage, .. } = datagram(40) else { unreachable!() };
    let whole = Step::Datagram { from, sport, dport, len, id, damage, vnet: VnetHeader::default() };
    let steps = [datagram(40), datagram(40), whole, datagram(40)];
    let (followed, calls) = outcome(&steps, false);
    assert_eq!((calls, followed.told.len()), (2, 2), "one at once, three together, and an error about each");
    assert_eq!(followed, outcome(&steps, true).0);
}

#[test]
fn a_turns_datagrams_leave_by_few_calls_whatever_their_identifications() {
    let steps: Vec<_> = (0..63)
        .map(|number| match datagram(40) {
            Step::Datagram { from, sport, dport, len, damage, vnet, .. } => {
                Step::Datagram { from, sport, dport, len, id: 31 * number, damage, vnet }
            }
            Step::Flush => unreachable!(),
        })
        .collect();
    let (outcome, calls) = outcome(&steps, false);
    assert_eq!((outcome.left.len(), calls), (63, 2), "the first at once, and the others together");
}
