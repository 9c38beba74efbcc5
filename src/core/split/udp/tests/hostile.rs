//! Whatever happens to an engine, its limits hold, nothing is left in the end, and no frame makes it panic.

use std::time::Duration;

use proptest::prelude::*;

use super::bed::{FAILED, NOW, READABLE, engine, icmp, send, small_engine, socket};
use crate::core::network::NetworkId;
use crate::core::port::PortId;
use crate::core::socket::{Endpoint, Failure};
use crate::core::split::ping::Ping;
use crate::core::split::udp::fake::{HOST, Packet, container};
use crate::frame::{Frame, HEADROOM, Link};
use crate::wire::addr::Addr;
use crate::wire::ip::proto;

/// What may happen to an engine.
#[derive(Clone, Debug)]
enum Event {
    Say { container: u8, port: u16, peer: u8, to: u16, len: usize },
    Arrive { socket: usize, from: u8, port: u16, len: usize, segment: u16, asked: bool },
    Error { socket: usize, peer: u8, port: u16, kind: u8, code: u8 },
    Refuse { socket: usize, why: usize },
    Publish { tag: u32, container: u8 },
    Unpublish { tag: u32 },
    Detach { container: u8 },
    Wait { millis: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    let port = || prop_oneof![Just(53u16), 1u16..6];
    prop_oneof![
        6 => (2u8..5, port(), 1u8..4, port(), 0usize..3000)
            .prop_map(|(container, port, peer, to, len)| Event::Say { container, port, peer, to, len }),
        6 => (any::<usize>(), 1u8..5, port(), 0usize..5000, 0u16..1600, any::<bool>()).prop_map(
            |(socket, from, port, len, segment, asked)| Event::Arrive { socket, from, port, len, segment, asked }
        ),
        2 => (any::<usize>(), 1u8..4, port(), any::<u8>(), any::<u8>())
            .prop_map(|(socket, peer, port, kind, code)| Event::Error { socket, peer, port, kind, code }),
        1 => (any::<usize>(), 0usize..6).prop_map(|(socket, why)| Event::Refuse { socket, why }),
        1 => (0u32..3, 2u8..5).prop_map(|(tag, container)| Event::Publish { tag, container }),
        1 => (0u32..3).prop_map(|tag| Event::Unpublish { tag }),
        1 => (2u8..5).prop_map(|container| Event::Detach { container }),
        3 => (1u64..40_000).prop_map(|millis| Event::Wait { millis }),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_limits_hold_and_nothing_is_left_in_the_end(events in proptest::collection::vec(event(), 0..150)) {
        let (mut udp, mut around) = small_engine();
        let mut now = NOW;
        for event in events {
            let ids: Vec<_> = around.host.open.keys().copied().collect();
            let pick = |n: usize| ids.get(n % ids.len().max(1)).copied();
            match event {
                Event::Say { container, port, peer, to, len } => {
                    let from = Endpoint { addr: Addr::v4([172, 17, 0, container]), port };
                    let to = Endpoint { addr: Addr::v4([198, 51, 100, peer]), port: to };
                    let _ = send(&mut udp, &mut around, &Packet::udp(from, to, &vec![1; len]), now);
                }
                Event::Arrive { socket: n, from, port, len, segment, asked } => {
                    if let Some(id) = pick(n) {
                        let from = Endpoint { addr: Addr::v4([198, 51, 100, from]), port };
                        socket(&mut around, id).put_as(from, asked.then_some(HOST), Some(segment), &vec![2; len]);
                        udp.socket_ready(id, READABLE, now, &mut around);
                    }
                }
                Event::Error { socket: n, peer, port, kind, code } => {
                    if let Some(id) = pick(n) {
                        let to = Endpoint { addr: Addr::v4([198, 51, 100, peer]), port };
                        socket(&mut around, id).errors.push_back(icmp(to, kind, code, Some("203.0.113.1")));
                        udp.socket_ready(id, FAILED, now, &mut around);
                    }
                }
                Event::Refuse { socket: n, why } => {
                    let all = [Failure::WouldBlock, Failure::Refused, Failure::TooLong, Failure::Other(1), Failure::NoMemory, Failure::Reset];
                    if let Some(id) = pick(n) {
                        socket(&mut around, id).refusals.push_back(Some(all[why]));
                    }
                }
                Event::Publish { tag, container } => {
                    let to = Endpoint { addr: Addr::v4([172, 17, 0, container]), port: 5 };
                    let at = Endpoint { addr: Addr::V4_UNSPECIFIED, port: 5000 + tag as u16 };
                    let _ = udp.listen(tag, at, to, NetworkId(0), PortId(container.into()), now, &mut around);
                }
                Event::Unpublish { tag } => {
                    udp.unlisten(tag, &mut around);
                }
                Event::Detach { container } => udp.detach(PortId(container.into()), &mut around),
                Event::Wait { millis } => {
                    now = now + Duration::from_millis(millis);
                    udp.handle_timeout(now, &mut around);
                    prop_assert!(udp.next_timeout().is_none_or(|at| at > now));
                }
            }
            udp.table.audit();
            prop_assert_eq!(around.host.open.len(), udp.table.len().0);
            prop_assert_eq!(around.host.open.len(), around.ids.len());
            for n in 2..5 {
                prop_assert!(udp.table.sockets_of(PortId(n)) <= 4 && udp.table.flows_of(PortId(n)) <= 16);
            }
            let mtu = around.mtu;
            prop_assert!(around.take_packets().iter().all(|p| p.len() <= mtu));
        }
        for tag in 0..3 {
            udp.unlisten(tag, &mut around);
        }
        udp.handle_timeout(now + Duration::from_secs(121), &mut around);
        prop_assert_eq!((udp.table.len(), around.host.open.len(), around.ids.len()), ((0, 0), 0, 0));
        prop_assert_eq!(udp.next_timeout(), None);
    }

    #[test]
    fn no_frame_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120), proto in 0usize..3, vnet in any::<[u8; 10]>()) {
        let (mut udp, mut around) = engine();
        let mut ping = Ping::new(Default::default(), [1; 16], NOW);
        let (src, dst) = (container(2).1, Addr::v4([198, 51, 100, 1]));
        let proto = [proto::UDP, proto::ICMP, 99][proto];
        let packet = Packet { src, dst, proto, tos: 0, ttl: 64, id: 1, fragment: 0, l4: bytes };
        let mut buf = packet.buffer();
        buf[HEADROOM - 10..HEADROOM].copy_from_slice(&vnet);
        let end = buf.len();
        if let Ok(frame) = Frame::parse(&mut buf, HEADROOM, end, Link::Ip) {
            let _ = udp.input(container(2).0, &frame, None, NOW, &mut around);
            let _ = ping.input(container(2).0, &frame, None, NOW, &mut around);
        }
        udp.table.audit();
    }
}
