//! Published ports: as whom a client is seen, from which address it is answered, and when a port is let go of.

use super::bed::{FAILED, NOW, READABLE, engine, heard, icmp, message, publish, say, socket};
use crate::core::counters::DropReason;
use crate::core::network::NetworkId;
use crate::core::port::PortId;
use crate::core::socket::{DatagramError, Endpoint, Failure};
use crate::core::split::udp::fake::{Around, GATEWAY, HOST, at, container};
use crate::wire::addr::Addr;
use crate::wire::get16;
use crate::wire::ip::ipv4;

#[test]
fn client_of_a_published_port_is_seen_with_its_address_and_answered_from_the_one_it_asked() {
    let (mut udp, mut around) = engine();
    let id = publish(&mut udp, &mut around, 1, 2);
    let client = at("198.51.100.7:9999");
    socket(&mut around, id).put_as(client, Some(HOST), None, b"hello");
    udp.socket_ready(id, READABLE, NOW, &mut around);
    assert_eq!(heard(&mut around), [(client, at("172.17.0.2:53"), b"hello".to_vec())]);
    assert!(udp.is_reply(container(2).0, at("172.17.0.2:53"), client, NOW));
    assert!(!udp.is_reply(container(3).0, at("172.17.0.2:53"), client, NOW));
    say(&mut udp, &mut around, "172.17.0.2:53", "198.51.100.7:9999", b"world").unwrap();
    assert_eq!(around.host.open.len(), 1, "the reply needs no socket of its own");
    let sent = around.take_sent().remove(0);
    assert_eq!((sent.to, sent.how.from, &sent.data[..]), (client, Some(HOST), &b"world"[..]));
    let row = udp.flows(0, 1, NOW).0.remove(0);
    assert_eq!(row.original.to_string(), "198.51.100.7:9999 -> 192.0.2.10:5353 udp");
    assert_eq!(row.reply.to_string(), "172.17.0.2:53 -> 198.51.100.7:9999 udp");
    assert!(row.replied);
}

#[test]
fn client_with_an_address_of_a_link_is_answered_by_the_link_it_was_last_heard_on() {
    let (mut udp, mut around) = engine();
    let id = publish(&mut udp, &mut around, 1, 2);
    let client = Endpoint { addr: "fe80::7".parse().unwrap(), port: 9999 };
    // An interface that goes and comes back has another index.
    for scope in [5, 6] {
        socket(&mut around, id).put_as(client, Some("fe80::1".parse().unwrap()), None, b"question");
        let Some(Ok((received, _))) = socket(&mut around, id).inbox.back_mut() else { unreachable!() };
        received.scope = scope;
        udp.socket_ready(id, READABLE, NOW, &mut around);
        let from = heard(&mut around)[0].0;
        say(&mut udp, &mut around, "172.17.0.2:53", &format!("{}:{}", from.addr, from.port), b"answer").unwrap();
        let sent = around.take_sent().remove(0);
        assert_eq!((sent.to, sent.how.scope), (client, scope));
    }
    assert_eq!(udp.len(), 1);
}

#[test]
fn error_is_about_the_datagram_to_that_client_from_that_address() {
    let (mut udp, mut around) = engine();
    let other = Addr::v4([192, 0, 2, 11]);
    let id = publish(&mut udp, &mut around, 1, 2);
    let (a, b) = (at("198.51.100.7:9999"), at("198.51.100.8:9999"));
    let mut shown = Vec::new();
    for (client, asked) in [(a, HOST), (a, other), (b, HOST)] {
        socket(&mut around, id).put_as(client, Some(asked), None, b"question");
        udp.socket_ready(id, READABLE, NOW, &mut around);
        let from = heard(&mut around)[0].0;
        say(&mut udp, &mut around, "172.17.0.2:53", &format!("{}:{}", from.addr, from.port), b"answer").unwrap();
        shown.push(from);
    }
    assert_ne!(shown[0].port, shown[1].port, "one client, asking at two addresses, is two inside");
    let told = |around: &mut Around| {
        let packets = around.take_packets();
        let quoted = |p: &Vec<u8>| {
            let quote = &message(p).1[8..];
            Endpoint { addr: Addr::read4(quote, ipv4::DST), port: get16(quote, 22) }
        };
        packets.iter().map(quoted).collect::<Vec<_>>()
    };
    for (client, asked, about) in [(a, HOST, shown[0]), (a, other, shown[1]), (b, HOST, shown[2])] {
        let error = DatagramError { from: Some(asked), ..icmp(client, 3, 3, None) };
        socket(&mut around, id).errors.push_back(error);
        udp.socket_ready(id, FAILED, NOW, &mut around);
        assert_eq!(told(&mut around), [about], "{client:?} {asked}");
    }
    for nobody in [
        DatagramError { from: Some(other), ..icmp(b, 3, 3, None) },
        DatagramError { from: Some(HOST), ..icmp(at("198.51.100.7:9998"), 3, 3, None) },
    ] {
        socket(&mut around, id).errors.push_back(nobody);
        udp.socket_ready(id, FAILED, NOW, &mut around);
        assert_eq!(told(&mut around), [], "{nobody:?}");
    }
}

// S27
// CVE-2021-20199
#[test]
fn client_that_may_not_be_shown_is_the_gateway() {
    for hidden in [
        "127.0.0.1",
        "192.0.2.10",
        "172.17.3.4",
        "169.254.7.7",
        "224.0.0.1",
        "0.0.0.0",
        "127.0.0.53",
        "2001:db8::9",
        "::1",
    ] {
        let (mut udp, mut around) = engine();
        let id = publish(&mut udp, &mut around, 1, 2);
        let client = Endpoint { addr: hidden.parse().unwrap(), port: 7000 };
        socket(&mut around, id).put_as(client, Some(HOST), None, b"x");
        udp.socket_ready(id, READABLE, NOW, &mut around);
        assert_eq!(heard(&mut around)[0].0, Endpoint { addr: GATEWAY, port: 7000 }, "{hidden}");
        say(&mut udp, &mut around, "172.17.0.2:53", "172.17.0.1:7000", b"y").unwrap();
        assert_eq!(around.take_sent()[0].to, client);
    }
}

#[test]
fn clients_that_would_look_the_same_differ_in_their_port() {
    let (mut udp, mut around) = engine();
    let id = publish(&mut udp, &mut around, 1, 2);
    let clients = [
        (at("127.0.0.1:7000"), "127.0.0.1"),
        (at("127.0.0.2:7000"), "127.0.0.1"),
        (at("127.0.0.1:7000"), "192.0.2.10"),
    ];
    for (client, asked) in clients {
        socket(&mut around, id).put_as(client, Some(asked.parse().unwrap()), None, b"x");
    }
    udp.socket_ready(id, READABLE, NOW, &mut around);
    let shown: Vec<_> = heard(&mut around).into_iter().map(|d| d.0).collect();
    assert_eq!(shown[0], at("172.17.0.1:7000"));
    assert!(shown.iter().all(|s| s.addr == GATEWAY && s.port >= 1024));
    assert!(shown[0] != shown[1] && shown[1] != shown[2] && shown[0] != shown[2]);
    for (shown, (client, asked)) in shown.iter().zip(clients) {
        say(&mut udp, &mut around, "172.17.0.2:53", &format!("172.17.0.1:{}", shown.port), b"y").unwrap();
        let sent = around.take_sent().remove(0);
        assert_eq!((sent.to, sent.how.from), (client, Some(asked.parse().unwrap())));
    }
    udp.table.audit();
}

#[test]
fn broadcast_to_a_published_port_is_dropped() {
    let (mut udp, mut around) = engine();
    let id = publish(&mut udp, &mut around, 1, 2);
    for asked in ["192.0.2.255", "255.255.255.255", "224.0.0.251"] {
        socket(&mut around, id).put_as(at("198.51.100.7:1"), Some(asked.parse().unwrap()), None, b"x");
    }
    udp.socket_ready(id, READABLE, NOW, &mut around);
    assert!(around.delivered.is_empty());
    assert_eq!(around.dropped, [(PortId(2), DropReason::Broadcast); 3]);
}

// Q03
#[test]
fn client_reaches_the_container_that_took_over_with_its_next_datagram() {
    let (mut udp, mut around) = engine();
    let id = publish(&mut udp, &mut around, 1, 2);
    socket(&mut around, id).put_as(at("198.51.100.7:9"), Some(HOST), None, b"x");
    udp.socket_ready(id, READABLE, NOW, &mut around);
    udp.detach(PortId(2), &mut around);
    assert!(around.host.open.is_empty() && around.ids.is_empty());
    assert_eq!(udp.table.len(), (0, 0));
    around.delivered.clear();
    let id = publish(&mut udp, &mut around, 1, 3);
    socket(&mut around, id).put_as(at("198.51.100.7:9"), Some(HOST), None, b"y");
    udp.socket_ready(id, READABLE, NOW, &mut around);
    assert_eq!(heard(&mut around), [(at("198.51.100.7:9"), at("172.17.0.3:53"), b"y".to_vec())]);
}

#[test]
fn port_is_published_once() {
    let (mut udp, mut around) = engine();
    publish(&mut udp, &mut around, 1, 2);
    let to = at("172.17.0.3:53");
    let mut again =
        |tag, around: &mut Around| udp.listen(tag, at("0.0.0.0:5353"), to, NetworkId(0), PortId(3), NOW, around);
    assert_eq!(again(1, &mut around), Err(Failure::InUse));
    assert_eq!(again(2, &mut around), Err(Failure::InUse), "the host's port is taken");
    assert_eq!(around.ids.len(), 1);
}

#[test]
fn withdrawn_port_takes_its_clients_along() {
    let (mut udp, mut around) = engine();
    let id = publish(&mut udp, &mut around, 1, 2);
    socket(&mut around, id).put(at("198.51.100.7:9"), b"x");
    udp.socket_ready(id, READABLE, NOW, &mut around);
    assert_eq!(udp.table.len(), (1, 1));
    assert!(udp.unlisten(1, &mut around) && !udp.unlisten(1, &mut around));
    assert_eq!((udp.table.len(), around.host.open.len(), around.ids.len()), ((0, 0), 0, 0));
    assert!(!udp.socket_ready(id, READABLE, NOW, &mut around), "a late event meets nobody");
}
