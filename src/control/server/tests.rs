//! The server over a real socket, with a switch and devices that are only noted down.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::control::client::Client as ApiClient;
use crate::control::plumber::Plugged;
use crate::control::protocol::{Call, Nothing};
use crate::core::command::{
    Answer, Applied, Command, CommandError, Endpoint, FlowView, HostPort, Page, Publication, PublishedView, Query,
    StatsView, Traffic,
};
use crate::frame::Caps;
use crate::io::enter::{self, Target};
use crate::io::lifetime::Life;
use crate::io::netcfg::LinkStats;
use crate::io::switch::{NotAdded, SwitchError};
use crate::io::sys::netns;
use crate::wire::addr::Addr;
use crate::wire::mac::Mac;

/// What has happened, in order, and how things are.
#[derive(Default)]
struct World {
    log: Vec<String>,
    last_port: u32,
    /// Port, container, device.
    ports: Vec<(u32, String, Option<String>)>,
    flows: u64,
    /// Fail when asked for flows from here on.
    flows_fail_at: Option<u64>,
    open_devices: usize,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<World>>);

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no test thread has panicked with it")
    }

    fn note(&self, what: impl Into<String>) {
        self.world().log.push(what.into());
    }

    fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.world().log)
    }
}

/// A device: the name it has, and the descriptor it came as.
struct FakePort {
    name: String,
    _fd: Option<OwnedFd>,
}

fn addr(text: &str) -> Addr {
    text.parse().expect("an address")
}

impl Switch for Shared {
    type Port = FakePort;

    fn apply(&self, command: Command) -> Result<Applied, SwitchError> {
        match command {
            Command::Reserve(request) => {
                if request.network != "default" {
                    return Err(CommandError::Missing { what: "network", name: request.network }.into());
                }
                self.note(format!("reserve {}", request.name));
                let mut world = self.world();
                world.last_port += 1;
                let port = world.last_port;
                world.ports.push((port, request.name, None));
                let mac = match request.mac {
                    crate::core::command::MacChoice::Given(mac) => mac,
                    _ => Mac([2, 0, 0, 0, 0, 9]),
                };
                Ok(Applied::Reserved(Endpoint {
                    port: PortId(port),
                    ip: "172.17.0.2/16".parse().ok(),
                    mac,
                    gateway: Some(addr("172.17.0.1")),
                    mtu: 1500,
                }))
            }
            Command::Open { port, .. } => {
                self.note(format!("open {port}"));
                Ok(Applied::Done)
            }
            Command::Detach { port } => {
                self.note(format!("detach {port}"));
                self.world().ports.retain(|one| one.0 != port.0);
                Ok(Applied::Done)
            }
            Command::Publish { ports, .. } => {
                if ports.iter().any(|one| one.host_port == HostPort::Exactly(80)) {
                    return Err(CommandError::PortAllocated {
                        host_ip: Addr::V4_UNSPECIFIED,
                        port: 80,
                        proto: "tcp",
                        holder: "web".into(),
                    }
                    .into());
                }
                self.note(format!("publish {}", ports.len()));
                let published = ports.iter().zip(40_000..).map(|(one, free)| Publication {
                    proto: one.proto,
                    host_ip: one.host_ip,
                    host_port: if let HostPort::Exactly(port) = one.host_port { port } else { free },
                    container_port: one.container_port,
                });
                Ok(Applied::Published(published.collect()))
            }
            Command::FlushFlows { .. } => Ok(Applied::Flushed(3)),
            other => {
                self.note(format!("{other:?}"));
                Ok(Applied::Done)
            }
        }
    }

    fn query(&self, query: Query) -> Result<Answer, SwitchError> {
        Ok(match query {
            Query::Networks => Answer::Networks(Vec::new()),
            Query::Ports => Answer::Ports(Vec::new()),
            Query::Published => Answer::Published(Vec::<PublishedView>::new()),
            Query::Rules => Answer::Rules(Vec::new()),
            Query::Routes => Answer::Routes(Vec::new()),
            Query::Stats => Answer::Stats(StatsView::default()),
            Query::Fdb { .. } => Answer::Fdb(Page { rows: Vec::new(), next: None }),
            Query::Neighbours { .. } => Answer::Neighbours(Page { rows: Vec::new(), next: None }),
            Query::Flows { cursor, max } => {
                let world = self.world();
                if world.flows_fail_at.is_some_and(|at| cursor >= at) {
                    return Err(SwitchError::Silent);
                }
                let end = world.flows.min(cursor + max as u64);
                Answer::Flows(Page {
                    rows: (cursor..end).map(flow).collect(),
                    next: (end < world.flows).then_some(end),
                })
            }
        })
    }

    fn add_port(&self, port: PortId, device: FakePort) -> Result<(), NotAdded<FakePort>> {
        if device.name == "refused" {
            return Err(NotAdded {
                why: SwitchError::Failed { what: "epoll_ctl", why: io::ErrorKind::OutOfMemory.into() },
                device: Some(device),
            });
        }
        self.note(format!("add {port}"));
        let mut world = self.world();
        for one in &mut world.ports {
            if one.0 == port.0 {
                one.2 = Some(device.name.clone());
            }
        }
        Ok(())
    }

    fn remove_port(&self, port: PortId) -> Result<Option<FakePort>, SwitchError> {
        self.note(format!("remove {port}"));
        let name = self.world().ports.iter().find(|one| one.0 == port.0).and_then(|one| one.2.clone());
        Ok(name.map(|name| FakePort { name, _fd: None }))
    }

    fn capture(&self, file: Option<File>) -> Result<(), SwitchError> {
        self.note(format!("capture {}", file.is_some()));
        Ok(())
    }

    fn shutdown(self) -> Result<(), SwitchError> {
        self.note("shutdown");
        Ok(())
    }
}

fn flow(number: u64) -> FlowView {
    FlowView {
        line: format!("tcp      6 431999 ESTABLISHED number={number} mark=0 use=1"),
        proto: 6,
        state: "ESTABLISHED",
        src: addr("172.17.0.2"),
        dst: addr("198.51.100.1"),
        sport: 40_000,
        dport: 443,
        reply_src: addr("198.51.100.1"),
        reply_dst: addr("192.0.2.10"),
        reply_sport: 443,
        reply_dport: 40_000,
        assured: true,
        replied: true,
        timeout_seconds: 431_999,
        name: "c1".into(),
        original: Traffic::default(),
        reply: Traffic::default(),
        socket: None,
    }
}

/// Opens everything but what is called "broken"; a path lives as the file there does.
struct FakePlumber {
    shared: Shared,
    watcher: Watcher,
}

impl Plumber for FakePlumber {
    type Port = FakePort;

    fn open(&mut self, request: &enter::Request) -> Result<Plugged<FakePort>, ApiError> {
        if request.name == "broken" {
            return Err(ApiError::new(Class::Forbidden, "no CAP_NET_ADMIN there"));
        }
        let life = match &request.target {
            Target::Path(path) => {
                let id = netns::identify(path).map_err(|error| ApiError::new(Class::Missing, error.to_string()))?;
                Life::of_path(&self.watcher, path, id)
            }
            Target::Pid(pid) => {
                let pid = rustix::process::Pid::from_raw(*pid).expect("above zero");
                let flags = rustix::process::PidfdFlags::empty();
                Life::Pid(rustix::process::pidfd_open(pid, flags).expect("it runs"))
            }
            Target::Here => Life::Held,
        };
        self.shared.note(format!("make {}", request.name));
        self.shared.world().open_devices += 1;
        Ok(Plugged { port: FakePort { name: request.name.clone(), _fd: None }, caps: Caps::FULL, mac: None, life })
    }

    fn adopt(&mut self, fd: OwnedFd) -> Result<Plugged<FakePort>, ApiError> {
        let inode = rustix::fs::fstat(&fd).expect("open").st_ino;
        self.shared.note(format!("adopt {inode}"));
        self.shared.world().open_devices += 1;
        Ok(Plugged {
            port: FakePort { name: "brought".into(), _fd: Some(fd) },
            caps: Caps::PLAIN,
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            life: Life::Held,
        })
    }

    fn close(&mut self, port: FakePort, _: Option<&enter::Request>) -> Result<(), ApiError> {
        self.shared.note(format!("close {}", port.name));
        self.shared.world().open_devices -= 1;
        Ok(())
    }

    fn stats(&mut self, _: &enter::Request) -> Result<LinkStats, ApiError> {
        Ok(LinkStats::default())
    }

    fn uplink_stats(&mut self) -> Option<Result<LinkStats, ApiError>> {
        None
    }
}

/// A server at work, ended and waited for at the end of the test.
struct Serving {
    dir: TempDir,
    shared: Shared,
    notifier: Notifier,
    thread: Option<std::thread::JoinHandle<Result<(), ServerError>>>,
}

impl Serving {
    fn start() -> Serving {
        let dir = tempfile::tempdir().expect("a directory");
        let server = Server::bind(&dir.path().join("p.sock")).expect("bound");
        Serving::with(dir, server)
    }

    fn with(dir: TempDir, server: Server) -> Serving {
        let shared = Shared::default();
        let notifier = server.notifier();
        let plumber = FakePlumber { shared: shared.clone(), watcher: server.watcher() };
        let switch = shared.clone();
        let thread = std::thread::Builder::new().spawn(move || server.run(switch, plumber)).expect("a thread");
        Serving { dir, shared, notifier, thread: Some(thread) }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("p.sock")
    }

    /// A connection by hand; no read waits for ever.
    fn connect(&self) -> Hand {
        let stream = UnixStream::connect(self.path()).expect("it listens");
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).expect("a socket");
        stream.set_write_timeout(limit).expect("a socket");
        Hand(BufReader::new(stream))
    }

    /// One request on a connection of its own.
    fn ask(&self, line: &str) -> Value {
        self.connect().ask(line)
    }

    /// Waits until `what` is so; the server works meanwhile.
    fn until(&self, what: impl Fn(&World) -> bool) {
        for _ in 0..2_000 {
            if what(&self.shared.world()) {
                return;
            }
            // An answered request is a turn of the server.
            self.ask(r#"{"execute":"version"}"#);
        }
        panic!("it does not happen");
    }

    /// The result of `run`, once it ends by itself.
    fn wait(mut self) -> Result<(), ServerError> {
        let thread = self.thread.take().expect("waited for once");
        thread.join().expect("the server does not panic")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let end = ApiClient::connect(&self.path()).and_then(|mut client| client.call(&Call::Shutdown(Nothing {})));
            let ended = thread.join();
            if !std::thread::panicking() {
                end.expect("it takes the call");
                ended.expect("no panic").expect("a clean end");
            }
        }
    }
}

struct Hand(BufReader<UnixStream>);

impl Hand {
    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("it is read");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("an answer");
        line
    }

    fn answer(&mut self) -> Value {
        serde_json::from_str(&self.line()).expect("JSON")
    }

    fn ask(&mut self, line: &str) -> Value {
        self.send(line);
        self.send("\n");
        self.answer()
    }

    fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0; 1]) {
            Ok(len) => len == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

const VERSION: &str = r#"{"execute":"version"}"#;

fn class(answer: &Value) -> &str {
    answer["error"]["class"].as_str().unwrap_or("no error")
}

/// A server without a socket: what `first` does is all that is ever asked of it.
fn runs_after(
    first: impl FnOnce(&mut Calls<Shared, FakePlumber>) -> Result<(), ApiError>,
    end: Option<OwnedFd>,
) -> (Result<(), ServerError>, Shared) {
    let shared = Shared::default();
    let mut server = Server::without_socket().expect("epoll");
    if let Some(end) = end {
        server.end_with(end).expect("watched");
    }
    let plumber = FakePlumber { shared: shared.clone(), watcher: server.watcher() };
    (server.run_after(shared.clone(), plumber, first), shared)
}

#[test]
fn calls_of_our_own_come_first_and_need_no_socket() {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let first = |calls: &mut Calls<Shared, FakePlumber>| {
        let pid = std::process::id();
        let line = format!(r#"{{"execute":"attach","arguments":{{"name":"c1","pid":{pid}}}}}"#);
        let call = Request::parse(line.as_bytes()).call?;
        calls.execute(call, 0, &mut VecDeque::new())?;
        // The end is asked for only now: it is seen when the server serves.
        drop(ours);
        Ok(())
    };
    let (ended, shared) = runs_after(first, Some(theirs.into()));
    ended.expect("a clean end");
    let log = shared.take_log();
    assert!(log.iter().any(|line| line == "make eth0"), "{log:?}");
}

#[test]
fn where_calls_of_our_own_fail_nobody_is_served() {
    let (ended, _) = runs_after(|_| Err(ApiError::new(Class::Missing, "no such namespace")), None);
    assert_eq!(ended.expect_err("it failed").to_string(), "no such namespace");
}

#[test]
fn what_is_not_json_is_answered_and_the_connection_goes_on() {
    let serving = Serving::start();
    let mut client = serving.connect();
    assert_eq!(class(&client.ask("what is this")), "Syntax");
    assert_eq!(class(&client.ask("\u{1}\u{2}")), "Syntax");
    assert_eq!(class(&client.ask(r#"{"execute":"dance"}"#)), "UnknownCall");
    let unknown = r#"{"execute":"version","arguments":{"loud":true},"id":9}"#;
    let answer = client.ask(unknown);
    assert_eq!((class(&answer), &answer["id"]), ("Arguments", &json!(9)));
    assert_eq!(client.ask(VERSION)["return"]["name"], "pontoon");
}

#[test]
fn a_line_of_more_than_a_mebibyte_gets_one_error_and_the_end() {
    let serving = Serving::start();
    let mut client = serving.connect();
    // The server stops reading where the limit is, so the end of the line may not be taken.
    let _ = client.0.get_mut().write_all(&vec![b'x'; MAX_REQUEST + 1]);
    let answer = client.answer();
    assert_eq!(class(&answer), "Syntax");
    assert!(answer["error"]["desc"].as_str().is_some_and(|desc| desc.contains("1048576")));
    assert!(client.is_closed());
    assert_eq!(serving.ask(VERSION)["return"]["name"], "pontoon");
}

#[test]
fn a_request_of_just_the_limit_is_answered() {
    let serving = Serving::start();
    let mut line = VERSION.to_owned();
    line.push_str(&" ".repeat(MAX_REQUEST - line.len()));
    assert_eq!(serving.ask(&line)["return"]["name"], "pontoon");
    line.push(' ');
    // Without its newline: the server may have closed before that is written.
    let mut client = serving.connect();
    client.send(&line);
    assert_eq!(class(&client.answer()), "Syntax");
}

#[test]
fn many_requests_in_one_write_are_answered_in_order() {
    let serving = Serving::start();
    let mut client = serving.connect();
    let all: String = (0..500).map(|n| format!("{{\"execute\":\"version\",\"id\":{n}}}\n")).collect();
    client.send(&all);
    for n in 0..500 {
        assert_eq!(client.answer()["id"], n);
    }
}

#[test]
fn a_last_line_without_a_newline_is_told_so() {
    let serving = Serving::start();
    for request in [VERSION, r#"{"execute":"shut"#] {
        let mut client = serving.connect();
        client.send(VERSION);
        client.send("\n");
        client.send(request);
        client.0.get_ref().shutdown(std::net::Shutdown::Write).expect("a socket");
        assert_eq!(client.answer()["return"]["name"], "pontoon");
        let answer = client.answer();
        assert_eq!(class(&answer), "Syntax", "{request}");
        assert!(answer["error"]["desc"].as_str().is_some_and(|desc| desc.contains("newline")), "{answer}");
        assert!(client.is_closed());
    }
}

#[test]
fn silent_clients_cost_their_slot_and_nothing_else() {
    let serving = Serving::start();
    let mut silent = serving.connect();
    let mut half = serving.connect();
    half.send("{\"execute\":");
    for _ in 0..3 {
        assert_eq!(serving.ask(VERSION)["return"]["name"], "pontoon");
    }
    half.send("\"version\"}\n");
    assert_eq!(half.answer()["return"]["name"], "pontoon");
    assert_eq!(silent.ask(VERSION)["return"]["name"], "pontoon");
}

#[test]
fn the_client_that_was_silent_for_longest_makes_room() {
    let serving = Serving::start();
    let mut first = serving.connect();
    let mut second = serving.connect();
    first.ask(VERSION);
    second.ask(VERSION);
    let mut others: Vec<_> = (2..MAX_CLIENTS).map(|_| serving.connect()).collect();
    for other in &mut others {
        other.ask(VERSION);
    }
    first.ask(VERSION);
    assert_eq!(serving.connect().ask(VERSION)["return"]["name"], "pontoon");
    assert!(second.is_closed());
    first.ask(VERSION);
    for other in &mut others {
        other.ask(VERSION);
    }
}

#[test]
fn a_slow_reader_of_a_long_listing_holds_up_nobody() {
    let serving = Serving::start();
    serving.shared.world().flows = 20_000;
    let mut slow = serving.connect();
    slow.send("{\"execute\":\"flows\",\"id\":1}\n{\"execute\":\"version\",\"id\":2}\n");
    // It does not read; others are answered.
    for _ in 0..5 {
        assert_eq!(serving.ask(VERSION)["return"]["name"], "pontoon");
    }
    let answer = slow.answer();
    let rows = answer["return"].as_array().expect("rows");
    assert_eq!((rows.len(), &answer["id"]), (20_000, &json!(1)));
    assert_eq!(rows[19_999]["line"], flow(19_999).line);
    assert_eq!(slow.answer()["id"], 2);
}

#[test]
fn a_listing_that_breaks_off_says_so() {
    let serving = Serving::start();
    serving.shared.world().flows = 2_000;
    serving.shared.world().flows_fail_at = Some(600);
    let answer = serving.ask(r#"{"execute":"flows"}"#);
    assert_eq!(class(&answer), "Timeout");
    assert!(answer["return"].as_array().is_some_and(|rows| rows.len() == 1024));
    serving.shared.world().flows_fail_at = Some(0);
    let answer = serving.ask(r#"{"execute":"flows"}"#);
    assert_eq!((class(&answer), &answer["return"]), ("Timeout", &Value::Null));
}

#[test]
fn an_attachment_is_made_in_order_and_its_addresses_are_told() {
    let serving = Serving::start();
    let answer = serving.ask(
        r#"{"execute":"attach","arguments":{"name":"c1","netns":"/proc/self/ns/net","publish":["8080:80","53:53/udp"]}}"#,
    );
    let told = &answer["return"];
    assert_eq!(told["ip"], "172.17.0.2/16", "{answer}");
    assert_eq!(told["gateway"], "172.17.0.1");
    assert_eq!(told["published"], json!(["8080:80/tcp", "53:53/udp"]));
    assert_eq!(serving.shared.take_log(), ["reserve c1", "publish 2", "make eth0", "add port 1", "open port 1"]);
    let detached = serving.ask(r#"{"execute":"detach","arguments":{"name":"c1"}}"#);
    assert_eq!(detached["return"]["detached"], json!(["eth0"]));
    assert_eq!(serving.shared.take_log(), ["remove port 1", "detach port 1", "close eth0"]);
    let again = serving.ask(r#"{"execute":"detach","arguments":{"name":"c1"}}"#);
    assert_eq!(class(&again), "Missing");
}

// D14
#[test]
fn the_ports_that_were_chosen_are_told() {
    let serving = Serving::start();
    let answer = serving.ask(
        r#"{"execute":"attach","arguments":{"name":"c1","netns":"/proc/self/ns/net","publish":["8080:80","81","127.0.0.1::90-91/udp"]}}"#,
    );
    let told = json!(["8080:80/tcp", "40001:81/tcp", "127.0.0.1:40002:90/udp", "127.0.0.1:40003:91/udp"]);
    assert_eq!(answer["return"]["published"], told, "{answer}");
    let answer = serving.ask(r#"{"execute":"publish","arguments":{"name":"c1","ports":["7000-7009:70","7-9:7-9"]}}"#);
    assert_eq!(answer["return"], json!({"published": ["40000:70/tcp", "7-9:7-9/tcp"]}));
}

#[test]
fn an_attachment_that_fails_leaves_nothing_and_names_the_step() {
    let serving = Serving::start();
    for (arguments, says) in [
        (json!({"name":"c","network":"nowhere","pid":1}), "reserve an address: there is no network 'nowhere'"),
        (json!({"name":"c","netns":"/proc/self/ns/net","ifname":"broken"}), "cannot make broken: no CAP_NET_ADMIN"),
        (json!({"name":"c","netns":"/proc/self/ns/net","ifname":"refused"}), "hand the TAP to the switch: epoll_ctl"),
        (
            json!({"name":"c","netns":"/proc/self/ns/net","publish":["80:80"]}),
            "publish: Bind for 0.0.0.0:80/tcp failed: port is already allocated",
        ),
        (json!({"name":"c","netns":"relative"}), "absolute"),
        (json!({"name":"c"}), "exactly one of"),
        (json!({"name":"c","pid":1,"tap_fd":true}), "exactly one of"),
        (json!({"name":"c","pid":-1}), "above 0"),
        (json!({"name":"c","tap_fd":true}), "SCM_RIGHTS"),
        (json!({"name":"c","pid":1,"publish":["81:81","81:82"]}), "is there twice"),
    ] {
        let answer = serving.ask(&json!({"execute":"attach","arguments":arguments}).to_string());
        let desc = answer["error"]["desc"].as_str().unwrap_or_default();
        assert!(desc.contains(says), "{answer}");
        let world = serving.shared.world();
        assert_eq!((world.ports.len(), world.open_devices), (0, 0), "{arguments}");
        // What can be refused is refused before the namespace is touched.
        assert!(!says.starts_with("publish") || !world.log.iter().any(|what| what == "make eth0"));
    }
}

#[test]
fn a_tap_that_is_brought_lives_as_long_as_its_connection() {
    let serving = Serving::start();
    let file = tempfile::tempfile().expect("a file");
    let inode = file.metadata().expect("open").ino();
    let call = Request::parse(br#"{"execute":"attach","arguments":{"name":"c1","tap_fd":true,"publish":["8080:80"]}}"#)
        .call
        .expect("a call");
    let mut client = ApiClient::connect(&serving.path()).expect("it listens");
    let told = client.call_with(&call, file.as_fd()).expect("attached");
    assert_eq!(told["mac"], "02:00:00:00:00:01", "the device's own");
    assert_eq!(serving.shared.take_log()[0], format!("adopt {inode}"));
    // The descriptor is used up: the next request finds none.
    let error = client.call(&call).expect_err("no descriptor").to_string();
    assert!(error.contains("SCM_RIGHTS"), "{error}");
    assert_eq!(serving.shared.world().ports.len(), 1);
    drop(client);
    serving.until(|world| world.ports.is_empty() && world.open_devices == 0);
}

#[test]
fn a_connection_ends_with_the_last_port_that_lives_by_it() {
    let serving = Serving::start();
    let file = tempfile::tempfile().expect("a file");
    let attach = |client: &mut ApiClient, name: &str| {
        let line = json!({"execute":"attach","arguments":{"name":name,"tap_fd":true}}).to_string();
        client.call_with(&Request::parse(line.as_bytes()).call.expect("a call"), file.as_fd()).expect("attached");
    };
    let detach = |name: &str| {
        let line = json!({"execute":"detach","arguments":{"name":name}}).to_string();
        Request::parse(line.as_bytes()).call.expect("a call")
    };
    let version = Call::Version(Nothing {});
    let mut client = ApiClient::connect(&serving.path()).expect("it listens");
    attach(&mut client, "c1");
    attach(&mut client, "c2");
    // Whoever detaches by the same connection knows of it, and may go on.
    client.call(&detach("c2")).expect("detached");
    client.call(&version).expect("it is open");
    attach(&mut client, "c2");
    let mut other = ApiClient::connect(&serving.path()).expect("it listens");
    other.call(&detach("c1")).expect("detached");
    client.call(&version).expect("c2 lives by it");
    other.call(&detach("c2")).expect("detached");
    client.wait_for_end().expect("it is closed");
    // And by what nobody asked for.
    let mut client = ApiClient::connect(&serving.path()).expect("it listens");
    attach(&mut client, "c3");
    let port = PortId(serving.shared.world().last_port);
    serving.notifier.tell(Notice::PortGone(port));
    client.wait_for_end().expect("it is closed");
    other.call(&version).expect("nothing lived by it, and it stays");
}

#[test]
fn a_descriptor_of_a_refused_request_is_not_the_next_ones() {
    let serving = Serving::start();
    let file = tempfile::tempfile().expect("a file");
    let bad = Request::parse(br#"{"execute":"attach","arguments":{"name":"c1","tap_fd":true,"pid":1}}"#)
        .call
        .expect("a call");
    let good = Request::parse(br#"{"execute":"attach","arguments":{"name":"c1","tap_fd":true}}"#).call.expect("a call");
    let mut client = ApiClient::connect(&serving.path()).expect("it listens");
    client.call_with(&bad, file.as_fd()).expect_err("two places");
    client.call(&good).expect_err("the descriptor is closed");
    assert_eq!(serving.shared.world().open_devices, 0);
}

#[test]
fn a_client_that_sends_more_descriptors_than_anybody_needs_is_closed() {
    let serving = Serving::start();
    let client = serving.connect();
    let file = tempfile::tempfile().expect("a file");
    let mut client = client;
    for _ in 0..=MAX_FDS {
        let fd = [file.as_fd()];
        if msg::send(client.0.get_ref(), b" ", &fd).is_err() {
            break;
        }
    }
    assert!(client.is_closed());
}

#[test]
fn a_client_that_goes_in_the_middle_changes_nothing() {
    let serving = Serving::start();
    let mut half = serving.connect();
    half.send(r#"{"execute":"attach","arguments":{"name":"c1","netns":"/proc/self/ns/net"}}"#);
    drop(half);
    let mut deaf = serving.connect();
    serving.shared.world().flows = 20_000;
    deaf.send("{\"execute\":\"flows\"}\n");
    drop(deaf);
    assert_eq!(serving.ask(VERSION)["return"]["name"], "pontoon");
    assert_eq!(serving.shared.world().ports.len(), 0);
}

#[test]
fn requests_are_answered_after_the_client_has_ended_its_side() {
    let serving = Serving::start();
    let mut client = serving.connect();
    client.send("{\"execute\":\"version\"}\n");
    let stream = client.0.get_ref();
    stream.shutdown(std::net::Shutdown::Write).expect("open");
    assert_eq!(client.answer()["return"]["name"], "pontoon");
    assert!(client.is_closed());
}

// B20
#[test]
fn a_port_whose_path_is_removed_is_detached_and_no_other() {
    let serving = Serving::start();
    let path = serving.dir.path().join("netns");
    File::create(&path).expect("a file");
    for (name, path) in [("goes", path.to_str().expect("UTF-8")), ("stays", "/proc/self/ns/net")] {
        let arguments = json!({"name":name,"netns":path});
        serving.ask(&json!({"execute":"attach","arguments":arguments}).to_string());
    }
    assert_eq!(serving.shared.world().ports.len(), 2);
    std::fs::remove_file(&path).expect("removed");
    serving.until(|world| world.open_devices == 1);
    assert_eq!(serving.shared.world().ports[0].1, "stays");
}

// B20
#[test]
fn a_port_whose_process_ends_is_detached() {
    let serving = Serving::start();
    let mut process = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat");
    let arguments = json!({"name":"c1","pid":process.id()});
    serving.ask(&json!({"execute":"attach","arguments":arguments}).to_string());
    assert_eq!(serving.shared.world().open_devices, 1);
    drop(process.stdin.take());
    serving.until(|world| world.open_devices == 0);
    process.wait().expect("reaped");
}

#[test]
fn a_port_whose_device_is_deleted_is_detached() {
    let serving = Serving::start();
    serving.ask(r#"{"execute":"attach","arguments":{"name":"c1","netns":"/proc/self/ns/net"}}"#);
    serving.notifier.tell(Notice::PortGone(PortId(1)));
    serving.until(|world| world.open_devices == 0 && world.ports.is_empty());
}

#[test]
fn the_end_takes_every_port_with_it_and_the_name_of_the_socket() {
    let serving = Serving::start();
    serving.ask(r#"{"execute":"attach","arguments":{"name":"c1","netns":"/proc/self/ns/net"}}"#);
    serving.shared.take_log();
    let (path, shared) = (serving.path(), serving.shared.clone());
    let mut client = ApiClient::connect(&path).expect("it listens");
    client.call(&Call::Shutdown(Nothing {})).expect("it answers");
    client.wait_for_end().expect("the connection ends with it");
    serving.wait().expect("a clean end");
    assert_eq!(shared.take_log(), ["remove port 1", "detach port 1", "close eth0", "shutdown"]);
    assert!(!path.exists());
}

#[test]
fn a_loop_that_stops_ends_the_server_with_its_reason() {
    let serving = Serving::start();
    serving.notifier.tell(Notice::Stopped { why: "no memory".into() });
    let error = serving.wait().expect_err("not a clean end").to_string();
    assert!(error.contains("no memory"), "{error}");
}

#[test]
fn the_end_of_exit_fd_is_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::bind(&dir.path().join("p.sock")).expect("bound");
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    server.end_with(ours.into()).expect("a socket can be watched");
    let serving = Serving::with(dir, server);
    theirs.write_all(b"still here").expect("open");
    assert_eq!(serving.ask(VERSION)["return"]["name"], "pontoon");
    drop(theirs);
    serving.wait().expect("a clean end");
}

#[test]
fn an_exit_fd_that_cannot_be_watched_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::bind(&dir.path().join("p.sock")).expect("bound");
    let file = tempfile::tempfile().expect("a file");
    let error = server.end_with(file.into()).expect_err("no pipe").to_string();
    assert!(error.contains("--exit-fd"), "{error}");
}

#[test]
fn frames_are_captured_into_a_file_or_a_pipe_and_nothing_else() {
    let serving = Serving::start();
    let start = |path: &str| serving.ask(&json!({"execute":"capture-start","arguments":{"path":path}}).to_string());
    let file = serving.dir.path().join("all.pcapng");
    std::fs::write(&file, "of yesterday").expect("written");
    assert_eq!(start(file.to_str().expect("UTF-8"))["return"], json!({}));
    assert_eq!(std::fs::metadata(&file).expect("there").len(), 0);
    assert_eq!(class(&start("relative")), "Arguments");
    assert_eq!(class(&start("/dev/null")), "Invalid");
    assert_eq!(class(&start("/proc/no/such")), "Device");
    serving.ask(r#"{"execute":"capture-stop"}"#);
    assert_eq!(serving.shared.take_log(), ["capture true", "capture false"]);
}

#[test]
fn a_container_is_inspected_and_a_stranger_is_missing() {
    let serving = Serving::start();
    let answer = serving.ask(r#"{"execute":"inspect","arguments":{"name":"nobody"}}"#);
    assert_eq!(class(&answer), "Missing");
    let answer = serving.ask(r#"{"execute":"flush-flows"}"#);
    assert_eq!(answer["return"]["flushed"], 3);
}
