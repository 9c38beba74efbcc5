//! Programs of every day over host sockets, none of which knows that it is in a container.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::bed::{Case, HOST, SERVER, Said, within};
use super::ns::{Netns, kill_group};
use super::programs::{iperf3, program, run};
use super::sandbox::find;
use super::sockets::{is_cut, one, pattern};
use super::{Claim, claims};

pub const CLAIMS: &[Claim] = claims![
    curl_speaks_tls_both_ways needs "curl" "python3" "openssl",
    a_post_that_is_refused_in_the_middle_ends_at_once needs "curl" "python3" "openssl",
    a_switch_killed_in_an_upload_is_an_error_at_both_ends needs "curl",
    git_clones_and_pushes_over_http needs "git" "python3",
    nginx_in_a_container_serves_wrk needs "nginx" "wrk" "curl",
    dig_asks_over_udp_and_tcp needs "dig",
    an_idle_ssh_session_goes_on needs "ssh" "sshd" "ssh-keygen" "unshare",
    iperf3_of_64_streams needs "iperf3",
    a_websocket_is_kept_alive needs "python3",
];

const C1: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);

/// A server in the background; its whole group ends with its value.
struct Server(Child);

impl Server {
    /// Starts it, and waits until it listens on a TCP port.
    fn start(netns: &Netns, mut command: Command, port: u16) -> Server {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("started");
        let server = Server(child);
        // Interpreters take their time where many are started at once.
        within(Duration::from_secs(15), "it listens", || {
            netns.run("ss", &["-tln"], "").split_whitespace().any(|word| word.ends_with(&format!(":{port}")))
        });
        server
    }

    fn python(netns: &Netns, script: &str, port: u16, words: &[&str]) -> Server {
        let path = script_path(script);
        let mut command = program(netns, "python3", &[path.to_str().expect("UTF-8")]);
        command.args(words);
        Server::start(netns, command, port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        kill_group(&mut self.0);
    }
}

pub(super) fn script_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/process/apps").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("ASCII")
}

/// A directory of the case, and a certificate for `pontoon.test` in it with its key.
fn certified(case: &Case) -> (PathBuf, PathBuf, PathBuf) {
    let directory = case.directory.join("www");
    fs::create_dir(&directory).expect("ours");
    let (certificate, key) = (case.directory.join("certificate"), case.directory.join("key"));
    let name = ["-subj", "/CN=pontoon.test", "-addext", "subjectAltName=DNS:pontoon.test"];
    let kind = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let files = ["-keyout", text(&key), "-out", text(&certificate)];
    run(&case.world, "openssl", &[&kind[..], &name, &files].concat());
    (directory, certificate, key)
}

fn curl_speaks_tls_both_ways() {
    let (case, c1, switch) = one(&[]);
    let (directory, certificate, key) = certified(&case);
    let page = pattern(5);
    let page_path = directory.join("page");
    fs::write(&page_path, &page).expect("ours");
    let digest = run(&case.world, "openssl", &["dgst", "-sha256", "-r", text(&page_path)]);
    let digest = digest.split_whitespace().next().expect("a digest").to_owned();
    switch.tell(&["publish", "c1", "8443:443"]);
    for (client, server, address, port) in [(&c1, &case.world, SERVER, 443), (&case.world, &c1, HOST, 8443)] {
        let _server =
            Server::python(server, "https.py", 443, &["443", text(&directory), text(&certificate), text(&key)]);
        let there = format!("pontoon.test:{port}:{address}");
        let curl = |more: &[&str], path: &str| {
            let common = ["-sS", "--max-time", "20", "--cacert", text(&certificate), "--resolve", &there];
            let url = format!("https://pontoon.test:{port}/{path}");
            run(client, "curl", &[&common[..], more, &[&url]].concat())
        };
        let copy = case.directory.join("copy");
        curl(&["-o", text(&copy)], "page");
        assert!(fs::read(&copy).expect("fetched") == page, "to {address}: not the same bytes");
        let upload = format!("@{}", text(&page_path));
        assert_eq!(curl(&["--data-binary", &upload], "digest"), digest, "to {address}");
    }
}

fn a_post_that_is_refused_in_the_middle_ends_at_once() {
    let (case, c1, switch) = one(&[]);
    let (directory, certificate, key) = certified(&case);
    let page = directory.join("page");
    fs::write(&page, pattern(30)).expect("ours");
    switch.tell(&["publish", "c1", "8443:443"]);
    for (client, server, address, port) in [(&c1, &case.world, SERVER, 443), (&case.world, &c1, HOST, 8443)] {
        let _server =
            Server::python(server, "https.py", 443, &["443", text(&directory), text(&certificate), text(&key)]);
        let (there, url) = (format!("pontoon.test:{port}:{address}"), format!("https://pontoon.test:{port}/refused"));
        let upload = format!("@{}", text(&page));
        let words = ["-sS", "-H", "Expect:", "--max-time", "20", "--cacert", text(&certificate), "--resolve", &there];
        let how = ["-o", "/dev/null", "-w", "%{http_code} %{size_upload}", "--data-binary", &upload, &url];
        let said = Said::by(program(client, "curl", &[&words[..], &how].concat()));
        // 28 is --max-time's; 0 with the answer, or an error of sending or receiving where the reset came first.
        let (code, sent) = said.out.split_once(' ').expect("two words");
        assert!(said.status == Some(0) && code == "413" || matches!(said.status, Some(55 | 56)), "{said:?}");
        assert!(sent.parse::<u64>().expect("a number") < 30 << 20, "{said:?}");
    }
}

fn a_switch_killed_in_an_upload_is_an_error_at_both_ends() {
    let (case, c1, first) = one(&[]);
    let listener = case.world.listen(SocketAddrV4::new(SERVER, 80));
    let page = case.directory.join("page");
    fs::write(&page, pattern(64)).expect("ours");
    let upload = format!("@{}", text(&page));
    let url = format!("http://{SERVER}/");
    let mut curl = program(&c1, "curl", &["-sS", "-H", "Expect:", "--max-time", "30", "--data-binary", &upload, &url]);
    let curl = curl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("curl");
    let (mut stream, _) = listener.accept().expect("connected");
    let mut start = vec![0; 5_000_000];
    stream.read_exact(&mut start).expect("the beginning of it");
    first.signal(Signal::KILL);
    assert_eq!(first.ended(), -1);
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    assert!(end.as_ref().is_err_and(is_cut), "at the server: {end:?}");
    assert!(start.len() + rest.len() < 64 << 20, "it was not in the middle");
    // The dead cannot tell the container; the next switch does.
    let second = case.switch_over_sockets(&[]);
    second.attach("c1", &c1, &[]);
    let output = curl.wait_with_output().expect("it ends");
    // Of sending, or of receiving: never a success, nor its own patience (28).
    assert!(matches!(output.status.code(), Some(52 | 55 | 56)), "{output:?}");
}

/// git with nobody's configuration but its own.
fn git(netns: &Netns, case: &Case, words: &[&str]) -> String {
    let mut command = program(netns, "git", words);
    alone(&mut command, case);
    let said = Said::by(command);
    assert_eq!(said.status, Some(0), "git {words:?}: {}{}", said.out, said.err);
    said.out
}

fn alone(command: &mut Command, case: &Case) {
    command.current_dir(&case.directory).env("HOME", &case.directory).env("GIT_CONFIG_NOSYSTEM", "1");
    for (name, value) in [("NAME", "tester"), ("EMAIL", "tester@pontoon.test")] {
        command.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
    }
    command.env("GIT_TERMINAL_PROMPT", "0").env_remove("http_proxy").env_remove("https_proxy");
}

fn git_clones_and_pushes_over_http() {
    let (case, c1, _switch) = one(&[]);
    let served = case.directory.join("served");
    fs::create_dir(&served).expect("ours");
    let (work, bare) = (case.directory.join("work"), served.join("repository.git"));
    git(&case.world, &case, &["init", "-q", "-b", "main", text(&work)]);
    // Something that does not shrink to nothing, in several commits.
    let mut noise = pattern(2);
    let mut state = 1_u64;
    for byte in &mut noise {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
    for number in 0..5 {
        fs::write(work.join(format!("file{number}")), &noise[number * 400_000..(number + 1) * 400_000]).expect("ours");
        git(&case.world, &case, &["-C", text(&work), "add", "."]);
        git(&case.world, &case, &["-C", text(&work), "commit", "-qm", &format!("number {number}")]);
    }
    git(&case.world, &case, &["clone", "-q", "--bare", text(&work), text(&bare)]);
    git(&case.world, &case, &["-C", text(&bare), "config", "http.receivepack", "true"]);
    let mut server = program(&case.world, "python3", &[text(&script_path("git_http.py")), "80", text(&served)]);
    alone(&mut server, &case);
    let _server = Server::start(&case.world, server, 80);

    let (copy, url) = (case.directory.join("copy"), format!("http://{SERVER}/repository.git"));
    git(&c1, &case, &["clone", "-q", &url, text(&copy)]);
    git(&c1, &case, &["-C", text(&copy), "fsck", "--full"]);
    let head = |directory: &Path| git(&c1, &case, &["-C", text(directory), "rev-parse", "main"]);
    assert_eq!(head(&copy), head(&work));
    // And back: more than a request's first piece, so that it is chunked.
    noise.reverse();
    fs::write(copy.join("more"), &noise).expect("ours");
    git(&c1, &case, &["-C", text(&copy), "add", "."]);
    git(&c1, &case, &["-C", text(&copy), "commit", "-qm", "from inside"]);
    git(&c1, &case, &["-C", text(&copy), "push", "-q", "origin", "main"]);
    assert_eq!(head(&bare), head(&copy));
    git(&case.world, &case, &["-C", text(&bare), "fsck", "--full"]);
}

fn nginx_in_a_container_serves_wrk() {
    let (case, c1, switch) = one(&[]);
    let directory = case.directory.join("www");
    fs::create_dir(&directory).expect("ours");
    let page = pattern(1);
    fs::write(directory.join("page"), &page[..10_000]).expect("ours");
    fs::write(directory.join("large"), &page).expect("ours");
    let configuration = case.directory.join("nginx.conf");
    let here = text(&case.directory);
    // Of the user that exists in here, and nothing outside of this directory.
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("    {what}_temp_path {here}/{what};\n"))
        .concat();
    fs::write(
        &configuration,
        format!(
            "user root root;\ndaemon off;\nmaster_process off;\npid {here}/nginx.pid;\nerror_log {here}/error.log;\nevents {{}}\nhttp {{\n\
             {temporary}    access_log off;\n    server {{\n        listen 80;\n        root {};\n    }}\n}}\n",
            text(&directory)
        ),
    )
    .expect("ours");
    let log = case.directory.join("error.log");
    let nginx = program(&c1, "nginx", &["-c", text(&configuration), "-e", text(&log)]);
    let _server = Server::start(&c1, nginx, 80);
    switch.tell(&["publish", "c1", "8080:80"]);
    let url = format!("http://{HOST}:8080/page");
    for (kept, words) in [("kept", &["-H", "Connection: keep-alive"][..]), ("new", &["-H", "Connection: close"])] {
        let load = ["-t", "2", "-c", "50", "-d", "2s"];
        let told = run(&case.world, "wrk", &[&load[..], words, &[&url]].concat());
        assert!(!told.contains("Socket errors") && !told.contains("Non-2xx"), "{told}");
        let requests = told.lines().find_map(|line| line.trim().split_once(" requests in "));
        let requests: u64 = requests.and_then(|(count, _)| count.parse().ok()).unwrap_or_else(|| panic!("{told}"));
        assert!(requests > 100, "{told}");
        eprintln!("process: wrk, connections {kept}: {requests} requests in two seconds");
    }
    let copy = case.directory.join("copy");
    let large = format!("http://{HOST}:8080/large");
    run(&case.world, "curl", &["-sS", "--max-time", "10", "-o", text(&copy), &large]);
    assert!(fs::read(&copy).expect("fetched") == page, "not the same bytes after all that");
}

/// The question back, with `answers` addresses, or a word that they do not fit.
fn dns_answer(question: &[u8], answers: u8, fits: bool) -> Vec<u8> {
    // The name and its type and class; what EDNS says after them is not for us.
    let name = 12 + question[12..].iter().position(|&byte| byte == 0).expect("a name") + 1;
    let flags = if fits { 0x84 } else { 0x86 };
    let mut bytes = [&question[..2], &[flags, 0, 0, 1, 0, if fits { answers } else { 0 }, 0, 0, 0, 0]].concat();
    bytes.extend(&question[12..name + 4]);
    for number in (0..answers).take(if fits { usize::from(answers) } else { 0 }) {
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, number]);
    }
    bytes
}

fn dig_asks_over_udp_and_tcp() {
    let (case, c1, switch) = one(&[]);
    switch.tell(&["publish", "c1", "5353:53", "5353:53/udp"]);
    for (client, server, listens, address, port) in
        [(&c1, &case.world, SERVER, SERVER, "53"), (&case.world, &c1, C1, HOST, "5353")]
    {
        let udp = server.enter(|| UdpSocket::bind((listens, 53))).expect("a port");
        let tcp = server.enter(|| TcpListener::bind((listens, 53))).expect("a port");
        udp.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        // Names tell how much is answered. Both end with their last question.
        let asked = thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).expect("a question");
                let question = &buffer[..length];
                let is = |name: &[u8]| question.windows(name.len()).any(|window| window == name);
                let answer = dns_answer(question, if is(b"large") { 200 } else { 1 }, !is(b"truncated"));
                udp.send_to(&answer, from).expect("sent");
                if is(b"last") {
                    break;
                }
            }
        });
        let called = thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = tcp.accept().expect("connected");
                stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
                let mut length = [0; 2];
                stream.read_exact(&mut length).expect("a length");
                let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut question).expect("a question");
                let answer = dns_answer(&question, 250, true);
                let length = u16::try_from(answer.len()).expect("short").to_be_bytes();
                stream.write_all(&[&length[..], &answer].concat()).expect("taken");
            }
        });
        let at = format!("@{address}");
        for (name, how, addresses) in [
            ("small.test", "+notcp", 1),
            // Longer than a packet: in fragments.
            ("large.test", "+bufsize=4096", 200),
            ("any.test", "+tcp", 250),
            // By UDP it is told that the answer does not fit, and asks again.
            ("truncated.test", "+notcp", 250),
            ("last.test", "+notcp", 1),
        ] {
            let told = run(client, "dig", &[&at, "-p", port, "+short", "+tries=1", "+time=5", how, name, "A"]);
            assert_eq!(told.lines().filter(|line| line.starts_with("203.0.113.")).count(), addresses, "{name}: {told}");
        }
        asked.join().expect("no panic");
        called.join().expect("no panic");
    }
}

fn an_idle_ssh_session_goes_on() {
    idle_session(Duration::from_secs(5));
}

/// A session to a server of an ordinary user's, out and by a published port, with nothing said for so long.
pub(super) fn idle_session(idle: Duration) {
    let (case, c1, switch) = one(&[]);
    switch.tell(&["publish", "c1", "2222:2222"]);
    let here = text(&case.directory).to_owned();
    for key in ["host", "user"] {
        run(&case.world, "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &format!("{here}/{key}")]);
    }
    fs::write(case.directory.join("passwd"), format!("tester:x:1000:1000::{here}:/bin/sh\n")).expect("ours");
    fs::write(
        case.directory.join("sshd_config"),
        format!(
            "Port 2222\nHostKey {here}/host\nAuthorizedKeysFile {here}/user.pub\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\nTCPKeepAlive no\nClientAliveInterval 0\n"
        ),
    )
    .expect("ours");
    let sshd = find("sshd").expect("asked for by the claim");
    // As somebody who is not root, and who has a name in there.
    let start = format!(
        "mount --bind {here}/passwd /etc/passwd && exec unshare -U --map-user=1000 --map-group=1000 {} -D -e -f {here}/sshd_config",
        sshd.display()
    );
    let sessions: Vec<_> = [(&c1, &case.world, SERVER), (&case.world, &c1, HOST)]
        .into_iter()
        .map(|(client, server, address)| {
            let mut sshd = program(server, "unshare", &["-m", "sh", "-c", &start]);
            sshd.stderr(fs::File::create(case.directory.join(format!("sshd-{address}.log"))).expect("ours"));
            let server = Server::start(server, sshd, 2222);
            let key = format!("{here}/user");
            let options = ["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"];
            let quiet = ["-o", "LogLevel=ERROR", "-o", "ServerAliveInterval=0", "-o", "TCPKeepAlive=no", "-T"];
            let to = ["-i", &key, "-p", "2222", &format!("tester@{address}"), "cat"].map(str::to_owned);
            let mut ssh = program(client, "ssh", &[&options[..], &quiet].concat());
            ssh.args(to).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = ssh.spawn().expect("ssh");
            let say = child.stdin.take().expect("piped");
            let hear = BufReader::new(child.stdout.take().expect("piped"));
            (server, child, say, hear, address)
        })
        .collect();
    let mut sessions = sessions;
    let mut echo = |when: &str| {
        for (_, _, say, hear, address) in &mut sessions {
            writeln!(say, "{when}").unwrap_or_else(|error| panic!("{address}, {when}: {error}"));
            let mut line = String::new();
            hear.read_line(&mut line).unwrap_or_else(|error| panic!("{address}, {when}: {error}"));
            let log = fs::read_to_string(case.directory.join(format!("sshd-{address}.log"))).unwrap_or_default();
            assert_eq!(line.trim(), when, "{address}: {log}");
        }
    };
    echo("before");
    thread::sleep(idle);
    echo("after");
    for (_server, mut child, say, _, address) in sessions {
        drop(say);
        assert!(child.wait().expect("it ends").success(), "{address}");
    }
}

fn iperf3_of_64_streams() {
    let (case, c1, switch) = one(&[]);
    switch.tell(&["publish", "c1", "5202:5201"]);
    let mut told = Vec::new();
    for (way, client, server, to, port, more) in [
        ("out", &c1, &case.world, SERVER, "5201", &["-P", "64"][..]),
        ("back", &c1, &case.world, SERVER, "5201", &["-P", "64", "-R"]),
        ("in", &case.world, &c1, HOST, "5202", &["-P", "64"]),
        ("in, back", &case.world, &c1, HOST, "5202", &["-P", "64", "-R"]),
    ] {
        let rate = iperf3(client, server, to, port, more);
        assert!(rate > 20e6, "{way}: {rate} bit/s");
        told.push(format!("{way} {:.2}", rate / 1e9));
    }
    eprintln!("process: Gbit/s of 64 streams over sockets, of a debug build: {}", told.join(", "));
}

fn a_websocket_is_kept_alive() {
    let (case, c1, switch) = one(&[]);
    switch.tell(&["publish", "c1", "8080:80"]);
    let script = script_path("websocket.py");
    let _servers = [&case.world, &c1].map(|netns| Server::python(netns, "websocket.py", 80, &["serve", "80"]));
    thread::scope(|scope| {
        for (client, address, port) in [(&c1, SERVER, "80"), (&case.world, HOST, "8080")] {
            let script = &script;
            scope.spawn(move || {
                let told = run(client, "python3", &[text(script), "talk", &address.to_string(), port, "5"]);
                assert_eq!(told, "all said\n", "{address}");
            });
        }
    });
}
