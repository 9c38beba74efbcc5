//! Many ports, and floods of everything.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::bed::{Case, Pair, SERVER, Switch, answer, devices, dial, received, within};
use super::ns::Netns;
use super::packet::{BROADCAST, Mac, Names, Packet, arp, frame};
use super::wire::{View, Wire};
use super::{Claim, claims};

pub const CLAIMS: &[Claim] = claims![
    a_thousand_ports_hear_one_question,
    a_storm_is_bounded_and_others_go_on,
    a_flood_of_addresses_evicts_nobody_else,
    a_flood_of_connections_takes_nobody_elses_flows,
];

const C1: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const C2: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 3);
const C3: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 4);

const PER_NAMESPACE: u32 = 100;

/// Attaches `count` ports, a hundred in each namespace, by one connection; the namespaces, and how long it took.
fn crowd(case: &Case, switch: &Switch, count: u32) -> (Vec<Netns>, Duration) {
    let namespaces: Vec<_> = (0..count / PER_NAMESPACE).map(|index| case.netns(&format!("crowd{index}"))).collect();
    let stream: UnixStream = dial(&switch.control);
    let began = Instant::now();
    for number in 0..count {
        let netns = &namespaces[(number / PER_NAMESPACE) as usize];
        let path = netns.path().display();
        let device = number % PER_NAMESPACE;
        writeln!(
            &stream,
            r#"{{"execute":"attach","arguments":{{"name":"p{number}","netns":"{path}","ifname":"e{device}"}}}}"#
        )
        .expect("written");
        let answer = answer(&stream).expect("an answer");
        assert!(answer["return"]["port"].is_number(), "port {number}: {answer}");
    }
    (namespaces, began.elapsed())
}

/// What each device of the crowd received of one ARP request, as a sum; waits until it stands still.
fn hear_one_question(namespaces: &[Netns], asker: &Wire) -> u64 {
    let sum = || namespaces.iter().map(received).sum::<u64>();
    let standing = || loop {
        let before = sum();
        // Each port is announced three times, a second apart (D18).
        thread::sleep(Duration::from_millis(1200));
        if sum() == before {
            break before;
        }
    };
    let before = standing();
    let nobody = Ipv4Addr::new(172, 17, 200, 200);
    asker.send(&frame(
        [2, 9, 9, 9, 9, 9],
        BROADCAST,
        0x0806,
        &arp(1, ([2, 9, 9, 9, 9, 9], Ipv4Addr::new(172, 17, 99, 99)), ([0; 6], nobody)),
    ));
    standing() - before
}

/// B28, at half the size that is promised.
// B28
fn a_thousand_ports_hear_one_question() {
    let case = Case::new();
    let switch = case.switch(&[]);
    let asking = case.netns("asking");
    switch.attach("asking", &asking, &[]);
    let (namespaces, took) = crowd(&case, &switch, 1000);
    let asker = Wire::open(&asking, "eth0", View::Incoming, Names::default());
    assert_eq!(hear_one_question(&namespaces, &asker), 1000);
    let resident = switch.resident();
    eprintln!("process: 1,000 ports attached in {took:?}, {resident} KiB resident");
    assert!(resident < 64 * 1024, "{resident} KiB resident in all processes");
    let out = Pair::new((&asking, C1), (&case.world, SERVER));
    out.ask();
    assert_eq!(switch.containers().len(), 1001);
    // One after the other they would take twenty seconds.
    let began = Instant::now();
    switch.signal(Signal::TERM);
    within(Duration::from_secs(10), "a thousand ports are gone", || !switch.is_running());
    eprintln!("process: 1,000 ports detached in {:?}", began.elapsed());
    assert!(namespaces.iter().all(|netns| devices(netns) == ["lo"]));
}

pub(super) fn two_thousand_ports() {
    let case = Case::new();
    let switch = case.switch(&[]);
    let asking = case.netns("asking");
    switch.attach("asking", &asking, &[]);
    let idle = switch.resident();
    let (namespaces, took) = crowd(&case, &switch, 2000);
    let asker = Wire::open(&asking, "eth0", View::Incoming, Names::default());
    let heard = hear_one_question(&namespaces, &asker);
    let resident = switch.resident();
    assert_eq!(heard, 2000);
    let began = Instant::now();
    switch.signal(Signal::TERM);
    within(Duration::from_secs(30), "the end", || !switch.is_running());
    super::long::record(
        "two_thousand_ports",
        &format!(
            "attached in {:.1} s; {resident} KiB resident ({idle} KiB with one port); one ARP request reached {heard}; all detached and ended in {:.1} s",
            took.as_secs_f64(),
            began.elapsed().as_secs_f64()
        ),
    );
}

/// B21, S61: two ports bridged behind our back make a loop.
fn a_storm_is_bounded_and_others_go_on() {
    let case = Case::new();
    let [looped, c2, c3] = ["looped", "c2", "c3"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    switch.attach("looped", &looped, &["--ip", "172.17.0.10"]);
    switch.attach("looped", &looped, &["--ifname", "eth1", "--ip", "172.17.0.11"]);
    switch.attach("c2", &c2, &["--ip", &C2.to_string()]);
    switch.attach("c3", &c3, &["--ip", &C3.to_string()]);
    let pair = Pair::new((&c2, C2), (&c3, C3));
    pair.ask();
    looped.ip("link add br0 type bridge\nlink set eth0 master br0\nlink set eth1 master br0\nlink set br0 up");
    thread::sleep(Duration::from_millis(100));
    // From a MAC that nobody is known by: it circles for good.
    let wire = Wire::open(&c2, "eth0", View::Incoming, Names::default());
    let stranger: Mac = [2, 9, 9, 9, 9, 9];
    for _ in 0..200 {
        wire.send(&frame(
            stranger,
            BROADCAST,
            0x0806,
            &arp(1, (stranger, Ipv4Addr::new(172, 17, 9, 9)), ([0; 6], Ipv4Addr::new(172, 17, 9, 8))),
        ));
    }
    thread::sleep(Duration::from_secs(1));
    let began = (Instant::now(), received(&c3));
    const QUESTIONS: u64 = 50;
    let (mut asked, mut answered) = (0, 0);
    within(Duration::from_secs(15), "others are answered", || {
        asked += 1;
        answered += u64::from(pair.reaches(Duration::from_millis(500)));
        answered == QUESTIONS
    });
    let asking = began.0.elapsed();
    thread::sleep(Duration::from_secs(1));
    // Less the questions themselves.
    let (heard, during) = (received(&c3) - began.1 - asked, began.0.elapsed());
    let dropped = switch.drops("looped", "flood-rate");
    eprintln!(
        "process: a storm of {heard} frames at a bystander in {during:?}, {dropped} dropped by the rate, {answered} of {asked} questions answered in {asking:?}"
    );
    assert!(heard > 2_000, "there is no storm: {heard} frames");
    // Two ports at 20,000 a second each, and as much at once when they were silent before.
    assert!(heard <= 2 * 20_000 * (during.as_secs() + 2), "{heard} frames in {during:?}");
    assert!(switch.is_running());
}

/// B18.
fn a_flood_of_addresses_evicts_nobody_else() {
    let case = Case::new();
    let [c1, c2, c3] = ["c1", "c2", "c3"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    for (name, netns) in [("c1", &c1), ("c2", &c2), ("c3", &c3)] {
        switch.attach(name, netns, &["--mac", "from-ip"]);
    }
    let [w1, w2, w3] = [&c1, &c2, &c3].map(|netns| Wire::open(netns, "eth0", View::Incoming, Names::default()));
    // A station behind c2, learned.
    let behind: Mac = [2, 7, 7, 7, 7, 7];
    let told = |from: Mac, to: Mac, word: &[u8]| {
        let packet = Packet::udp(SocketAddrV4::new(C3, 1), SocketAddrV4::new(C2, 2), word);
        frame(from, to, 0x88b5, &packet.bytes())
    };
    w2.send(&told(behind, BROADCAST, b"here I am"));
    w1.wait(&["88b5"]).expect("the flood of a broadcast");
    for number in 0..60_000_u32 {
        let [_, b, c, d] = number.to_be_bytes();
        w1.send(&told([2, 0x66, b, c, d, 1], [2, 0x42, 172, 17, 0, 4], b"another"));
        if number % 500 == 0 {
            // What is not read by us is lost at the queue, and would not be an attack.
            thread::sleep(Duration::from_millis(1));
        }
    }
    let stations = switch.list("fdb").len();
    assert!(stations > 100, "some are learned: {stations}");
    assert!(stations < 20_000, "the table is bounded: {stations}");
    while w1.wait_for(Duration::from_millis(50), &[]).is_some() {}
    w3.send(&told([2, 0x42, 172, 17, 0, 4], behind, b"to the one behind"));
    w2.wait(&["88b5"]).expect("c2 hears it");
    assert!(w1.wait_for(Duration::from_millis(100), &["88b5"]).is_none(), "c1 does not");
    Pair::new((&c2, C2), (&c3, C3)).ask();
    eprintln!("process: 60,000 source addresses of one port leave {stations} stations");
}

/// C4, R31.
fn a_flood_of_connections_takes_nobody_elses_flows() {
    let case = Case::new();
    let [c1, c2] = ["c1", "c2"].map(|name| case.netns(name));
    let switch = case.switch(&["--flow-limit", "4096", "--flow-quota", "1024"]);
    switch.attach("c1", &c1, &["--ip", &C1.to_string()]);
    switch.attach("c2", &c2, &["--ip", &C2.to_string()]);
    let listener = case.world.listen(SocketAddrV4::new(SERVER, 80));
    let flood = c1.injector();
    let beyond = Ipv4Addr::new(198, 51, 100, 77);
    let connect = |what: &str| {
        let patience = Duration::from_secs(2);
        let near = c2.connect(SocketAddrV4::new(C2, 0), SocketAddrV4::new(SERVER, 80), patience);
        let near = near.unwrap_or_else(|error| panic!("{what}: {error}"));
        (near, listener.accept().expect("connected").0)
    };
    let old = connect("before the flood");
    for number in 0..20_000_u32 {
        let from = SocketAddrV4::new(C1, 1024 + (number % 60_000) as u16);
        flood.send(&Packet::syn(from, SocketAddrV4::new(beyond, 1 + (number / 60_000) as u16)));
        if number % 4000 == 2000 {
            connect("in the middle of the flood");
        }
    }
    let new = connect("after the flood");
    super::ns::say(&old.0, &old.1, "still").expect("heard");
    super::ns::say(&new.0, &new.1, "new").expect("heard");
    assert_eq!(switch.drops("c2", "flow-quota") + switch.drops("c2", "flow-table-full"), 0);
    let flows = switch.list("flows").len();
    // c1's own flood makes room for itself; c2 has had seven connections.
    assert!((1000..=1024 + 7).contains(&flows), "{flows} flows");
}
