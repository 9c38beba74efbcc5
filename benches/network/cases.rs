//! What is measured: each case once for each candidate in a round, on a scene that is built for it and taken down after it.
//!
//! # Theory of operation
//! A [`Group`] is the cases that share a scene. The order is group, round, candidate: within minutes everybody has had the same
//! turn, so that what the machine does meanwhile meets all alike. Latencies left to the scheduler have two values, three times
//! apart (switch and peers on one CPU or not), so for them CPUs are assigned: the candidate's processes have the last, the peers
//! the first.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::Value;

use crate::candidates::{FIRST_TCP, IPERF, Path, Scene, TCP_PORTS, Tools, UDP, Wanted, Way};
use crate::netns::Netns;
use crate::process::{Background, SOON, cpu_seconds, eventually, machine_cpu_seconds, resident_mib};
use crate::statistics::quantile;

/// What a run may take beyond the time that it was asked to.
const SLACK: Duration = Duration::from_secs(6);
/// Neighbour announcements of new links are not rest.
const REST: Duration = Duration::from_secs(1);

/// One measurement on a scene.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum What {
    Bulk { streams: u32, back: bool },
    Datagrams { size: u32 },
    Exchanges,
    Connections,
    Ping,
    PingUnderLoad,
    Fairness,
    SlowReader,
    Flood,
    Resident,
    Held { flows: u32, udp: bool },
    Start,
}

#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub what: What,
}

#[derive(Debug, Clone)]
pub struct Group {
    pub wanted: Wanted,
    pub cases: Vec<Case>,
}

/// All of them, or those of `--quick`.
pub fn groups(quick: bool) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut group = |wanted: Wanted, cases: Vec<(String, What)>| {
        let cases = cases.into_iter().map(|(name, what)| Case { name, what }).collect();
        groups.push(Group { wanted, cases });
    };
    let ways = [Way::Direct, Way::Out, Way::In];
    for way in ways {
        for mtu in [1500, 65_520] {
            for streams in [1, 8, 64] {
                let both = [("forth", false), ("back", true)];
                let bulk =
                    both.map(|(to, back)| (format!("bulk/{way}/{mtu}/{streams}/{to}"), What::Bulk { streams, back }));
                if !quick {
                    group(Wanted::new(way, mtu), bulk.into());
                } else if streams == 1 && (mtu == 1500 || way == Way::Out) {
                    let both = usize::from(way == Way::Out) + 1;
                    group(Wanted::new(way, mtu), bulk.into_iter().take(both).collect());
                }
            }
        }
    }
    for way in ways.into_iter().filter(|way| !quick || *way == Way::Direct) {
        let datagrams = Wanted { udp: true, ..Wanted::new(way, 1500) };
        let sizes = [64, 1400, 65_507].into_iter().filter(|size| !quick || *size == 1400);
        group(datagrams, sizes.map(|size| (format!("udp/{way}/{size}"), What::Datagrams { size })).collect());
    }
    for way in ways.into_iter().filter(|way| !quick || *way == Way::Out) {
        let small = vec![(format!("rr/{way}"), What::Exchanges), (format!("crr/{way}"), What::Connections)];
        group(Wanted::new(way, 1500), small);
    }
    for way in [Way::Direct, Way::Out].into_iter().filter(|way| !quick || *way == Way::Direct) {
        let wanted = Wanted { ping: true, ..Wanted::new(way, 1500) };
        group(
            wanted,
            vec![(format!("ping/{way}/idle"), What::Ping), (format!("ping/{way}/loaded"), What::PingUnderLoad)],
        );
    }
    for way in ways.into_iter().filter(|way| !quick || *way == Way::Out) {
        group(Wanted::new(way, 1500), vec![(format!("fair/{way}"), What::Fairness)]);
        group(Wanted::new(way, 1500), vec![(format!("slow/{way}"), What::SlowReader)]);
    }
    let ports: &[u32] = if quick { &[2, 100] } else { &[2, 10, 100, 1000] };
    for &ports in ports {
        let wanted = Wanted { ports, ..Wanted::new(Way::Direct, 1500) };
        let bulk = What::Bulk { streams: 1, back: false };
        group(
            wanted,
            vec![
                (format!("size/ports/{ports}"), What::Resident),
                (format!("ports/{ports}/bulk"), bulk),
                (format!("ports/{ports}/arp"), What::Flood),
            ],
        );
    }
    for (flows, udp) in [(1000, false), (10_000, false), (100_000, true)].into_iter().take(if quick { 1 } else { 3 }) {
        let wanted = Wanted { flows, udp, ..Wanted::new(Way::Out, 1500) };
        group(wanted, vec![(format!("size/flows/{flows}"), What::Held { flows, udp })]);
    }
    for way in [Way::Direct, Way::Out] {
        group(Wanted::new(way, 1500), vec![(format!("start/{way}"), What::Start)]);
    }
    groups
}

/// Why a case means nothing for a candidate, though it has the path.
pub fn refuses(case: &Case, candidate: &str) -> Option<&'static str> {
    match case.what {
        What::Resident | What::Held { .. } if candidate == "kernel" => Some("it has no process"),
        What::Held { .. } if candidate == "forward" => Some("it keeps nothing"),
        What::Held { udp: true, .. } if candidate != "pontoon" => Some("asked of the TUN uplink alone"),
        _ => None,
    }
}

#[derive(Debug, Default)]
pub struct Measured {
    pub figures: BTreeMap<String, f64>,
    pub quantiles: Vec<(f64, f64)>,
}

impl Measured {
    fn put(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), value);
    }
}

/// Everything that a measurement needs at hand.
pub struct Bench<'a> {
    pub tools: &'a Tools,
    pub scene: &'a Scene,
    pub path: &'a Path,
    pub seconds: u32,
    pub quick: bool,
}

/// Beside the others: it watches the scene being built.
pub fn start(
    tools: &Tools,
    scene: &Scene,
    target: impl Fn(&Scene) -> Result<Path, String>,
) -> Result<Measured, String> {
    // Where the client will find the server is not known before it is built; so the client begins right after.
    let load = |netns: &Netns, words: &[&str]| netns.start(&tools.load, words);
    let mut server = load(scene.server(), &["serve", &FIRST_TCP.to_string(), &TCP_PORTS.to_string()])?;
    server.says("ready", SOON)?;
    let path = target(scene)?;
    let client = load(scene.client(), &["first", &format!("{}:{FIRST_TCP}", path.target)])?;
    let told = json(&client.end(5 * SOON)?)?;
    let at = Duration::from_micros(number(&told, "at_us")? as u64);
    let begun = path.begun.duration_since(SystemTime::UNIX_EPOCH).map_err(|error| error.to_string())?;
    let mut measured = Measured::default();
    measured.put("first_byte_ms", at.saturating_sub(begun).as_secs_f64() * 1e3);
    if let Some(ready) = path.ready {
        measured.put("ready_ms", ready.as_secs_f64() * 1e3);
    }
    Ok(measured)
}

impl Bench<'_> {
    pub fn measure(&self, what: What) -> Result<Measured, String> {
        match what {
            What::Bulk { streams, back } => self.bulk(streams, back),
            What::Datagrams { size } => self.datagrams(size),
            What::Exchanges => self.pinned(|| self.exchanges("rr")),
            What::Connections => self.pinned(|| self.exchanges("crr")),
            What::Ping => self.pinned(|| self.ping()),
            What::PingUnderLoad => self.loaded(1, |bench| bench.ping()),
            What::Fairness => self.fairness(),
            What::SlowReader => self.slow_reader(),
            What::Flood => self.flood(),
            What::Resident => {
                thread::sleep(REST);
                let mut measured = Measured::default();
                measured.put("rss_mib", resident_mib(&self.path.family()));
                Ok(measured)
            }
            What::Held { flows, udp } => self.held(flows, udp),
            What::Start => Err("is measured while the scene is built".to_owned()),
        }
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    fn load(&self, netns: &Netns, words: &[&str]) -> Result<Background, String> {
        netns.start(&self.tools.load, words)
    }

    /// A server of `load` that says when it is ready.
    fn serve(&self, words: &[&str]) -> Result<Background, String> {
        let mut server = self.load(self.scene.server(), words)?;
        server.says("ready", SOON)?;
        Ok(server)
    }

    fn target(&self, port: u16) -> String {
        format!("{}:{port}", self.path.target)
    }

    fn iperf_server(&self) -> Result<Background, String> {
        let server = self.scene.server().start("iperf3", &["-s", "-1", "-4"])?;
        self.scene.server().listens(IPERF)?;
        Ok(server)
    }

    fn iperf(&self, streams: u32, more: &[&str]) -> Result<Background, String> {
        let (to, streams, time) = (self.path.target.to_string(), streams.to_string(), self.seconds.to_string());
        let words = ["-c", &to, "-P", &streams, "-t", &time, "--connect-timeout", "3000", "-J"];
        self.scene.client().start("iperf3", &[&words[..], more].concat())
    }

    /// Bulk TCP: what arrives, and the CPU that it costs.
    fn bulk(&self, streams: u32, back: bool) -> Result<Measured, String> {
        let _server = self.iperf_server()?;
        let (helpers, machine) = (cpu_seconds(&self.path.family()), machine_cpu_seconds());
        let client = self.iperf(streams, if back { &["-R"] } else { &[] })?;
        let told = json(&client.end(self.time() + SLACK)?)?;
        let (helpers, machine) = (cpu_seconds(&self.path.family()) - helpers, machine_cpu_seconds() - machine);
        let received = &told["end"]["sum_received"];
        let (bits, bytes) = (number(received, "bits_per_second")?, number(received, "bytes")?);
        if bytes == 0.0 {
            return Err("connected, and not a byte arrived".to_owned());
        }
        let mut measured = Measured::default();
        measured.put("tcp_gbit_s", bits * 1e-9);
        // Of next to nothing a cost by the byte says nothing.
        if bytes > 1e6 {
            if !self.path.helpers.is_empty() {
                measured.put("helper_cpu_s_per_gb", helpers / (bytes * 1e-9));
            }
            measured.put("machine_cpu_s_per_gb", machine / (bytes * 1e-9));
        }
        Ok(measured)
    }

    fn datagrams(&self, size: u32) -> Result<Measured, String> {
        let sink = self.serve(&["sink", &UDP.to_string(), &size.to_string()])?;
        let words = ["send", &self.target(UDP), &size.to_string(), &self.seconds.to_string()];
        self.load(self.scene.client(), &words)?.end(self.time() + SLACK)?;
        let told = json(last(&sink.end(self.time() + SLACK)?))?;
        let (received, lost) = (number(&told, "received")?, number(&told, "lost")?);
        let mut measured = Measured::default();
        measured.put("udp_per_s", number(&told, "per_second")?);
        measured.put("udp_gbit_s", number(&told, "gbit_s")?);
        measured.put("udp_loss", lost / (lost + received));
        Ok(measured)
    }

    fn exchanges(&self, kind: &str) -> Result<Measured, String> {
        let ports = TCP_PORTS.to_string();
        let _server = self.serve(&["serve", &FIRST_TCP.to_string(), &ports])?;
        let seconds = self.seconds.to_string();
        let to = self.target(FIRST_TCP);
        let words = match kind {
            "crr" => vec!["crr", &to, &ports, if self.quick { "1000" } else { "2000" }, "--seconds", &seconds],
            _ => vec!["rr", &to, if self.quick { "10000" } else { "50000" }, "--seconds", &seconds],
        };
        let told = json(&self.load(self.scene.client(), &words)?.end(self.time() + SLACK)?)?;
        latencies(&told)
    }

    fn ping(&self) -> Result<Measured, String> {
        let (count, to) = ((self.seconds * 300).to_string(), self.path.target.to_string());
        let patience = self.time() + SLACK;
        let deadline = (patience.as_secs() - 1).to_string();
        // Some of many may be lost, which is a figure and no failure; `-w` ends it when many are.
        let words = ["-n", "-i", "0.002", "-c", &count, "-w", &deadline, &to];
        let said = self.scene.client().run("ping", &words, patience)?;
        let times: Vec<f64> = said
            .lines()
            .filter_map(|line| line.split_once("time=")?.1.split_whitespace().next()?.parse::<f64>().ok())
            .map(|milliseconds| milliseconds * 1e3)
            .collect();
        let mut measured = Measured::default();
        let quantile = |per_cent| quantile(&times, per_cent).ok_or("no echo came back");
        measured.put("ping_p50_us", quantile(50.0)?);
        measured.put("ping_p99_us", quantile(99.0)?);
        let sent = self.seconds as f64 * 300.0;
        measured.put("ping_loss", (1.0 - times.len() as f64 / sent).max(0.0));
        Ok(measured)
    }

    /// Does something while bulk streams run.
    fn loaded(&self, streams: u32, action: impl FnOnce(&Self) -> Result<Measured, String>) -> Result<Measured, String> {
        let _server = self.iperf_server()?;
        let client = self.iperf(streams, &[])?;
        thread::sleep(Duration::from_millis(200));
        let measured = action(self);
        let told = json(&client.end(self.time() + SLACK)?)?;
        let mut measured = measured?;
        measured.put("tcp_gbit_s", number(&told["end"]["sum_received"], "bits_per_second")? * 1e-9);
        let streams = told["end"]["streams"].as_array().cloned().unwrap_or_default();
        let rates: Vec<f64> =
            streams.iter().filter_map(|stream| stream["receiver"]["bits_per_second"].as_f64()).collect();
        let mean = rates.iter().sum::<f64>() / rates.len().max(1) as f64;
        if rates.len() > 1 && mean > 0.0 {
            measured.put("share_min_of_mean", rates.iter().copied().fold(f64::INFINITY, f64::min) / mean);
        }
        Ok(measured)
    }

    fn fairness(&self) -> Result<Measured, String> {
        let _server = self.serve(&["serve", &FIRST_TCP.to_string(), "1"])?;
        self.loaded(8, |bench| {
            let words = ["rr", &bench.target(FIRST_TCP), "1000000", "--seconds", &bench.seconds.to_string()];
            latencies(&json(&bench.load(bench.scene.client(), &words)?.end(bench.time() + SLACK)?)?)
        })
    }

    /// First as fast as it goes, then half of that: a helper that spins or hoards shows in its CPU and memory.
    fn slow_reader(&self) -> Result<Measured, String> {
        let free = self.poured(0)?;
        let before = resident_mib(&self.path.family());
        let half = free / 2.0;
        let cpu = cpu_seconds(&self.path.family());
        let slow = self.poured(half as u64)?;
        let mut measured = Measured::default();
        measured.put("slow_share", slow / half);
        if !self.path.helpers.is_empty() {
            let family = self.path.family();
            let bytes = slow * f64::from(self.seconds);
            measured.put("helper_cpu_s_per_gb", (cpu_seconds(&family) - cpu) / (bytes * 1e-9));
            measured.put("rss_growth_mib", (resident_mib(&family) - before).max(0.0));
        }
        Ok(measured)
    }

    /// Bytes a second that arrive.
    fn poured(&self, rate: u64) -> Result<f64, String> {
        let seconds = self.seconds.to_string();
        let drain = self.serve(&["drain", &IPERF.to_string(), &rate.to_string(), &seconds])?;
        let longer = (self.seconds + 1).to_string();
        let pour = self.load(self.scene.client(), &["pour", &self.target(IPERF), &longer])?;
        let told = json(last(&drain.end(self.time() + SLACK)?))?;
        // It ends by the reader's reset, or when its time is over.
        pour.end(self.time() + SLACK)?;
        number(&told, "bytes_per_second")
    }

    /// ARP requests to all ports; what one costs, all receivers' stacks included.
    fn flood(&self) -> Result<Measured, String> {
        const COUNT: u32 = 4000;
        // Below pontoon's own limit of broadcasts, 20,000 a second and port; and each is a thousand frames on a thousand ports.
        const PER_SECOND: u32 = 4000;
        let link = self.scene.a.run("ip", &["-j", "link", "show", "eth0"], SOON)?;
        let mac = json(&link)?[0]["address"].as_str().ok_or("eth0 has no MAC address")?.to_owned();
        let (last, ifname) = match self.path.idle.last() {
            Some(idle) => (idle, self.path.last_idle.as_str()),
            None => (&self.scene.far, "eth0"),
        };
        let before = last.received(ifname);
        let (helpers, machine) = (cpu_seconds(&self.path.family()), machine_cpu_seconds());
        let words = ["flood", "eth0", &mac, "172.31.0.2", &COUNT.to_string(), &PER_SECOND.to_string()];
        let told = json(&self.load(&self.scene.a, &words)?.end(2 * SLACK)?)?;
        let sent = number(&told, "sent")?.max(1.0);
        // What is still on its way is waited for, a while.
        let mut arrived = 0;
        let _ = eventually("the last port has received", SOON, || {
            let now = last.received(ifname) - before;
            thread::sleep(Duration::from_millis(50));
            std::mem::replace(&mut arrived, now) == now
        });
        let (helpers, machine) = (cpu_seconds(&self.path.family()) - helpers, machine_cpu_seconds() - machine);
        let mut measured = Measured::default();
        measured.put("arp_us", machine / sent * 1e6);
        if !self.path.helpers.is_empty() {
            measured.put("arp_helper_us", helpers / sent * 1e6);
        }
        measured.put("arp_delivered", arrived as f64 / sent);
        Ok(measured)
    }

    /// Memory with flows, and what it is more than without.
    fn held(&self, flows: u32, udp: bool) -> Result<Measured, String> {
        let ports = TCP_PORTS.to_string();
        let _server = self.serve(&["keep", &FIRST_TCP.to_string(), &ports])?;
        thread::sleep(REST);
        let before = resident_mib(&self.path.family());
        let kind = if udp { "scatter" } else { "hold" };
        let words = [kind, &self.target(FIRST_TCP), &ports, &flows.to_string()];
        let mut command = self.scene.client().command(&self.tools.load, &words);
        command.stdin(std::process::Stdio::piped());
        let mut client = Background::start(command)?;
        client.says("}\n", 10 * SOON)?;
        let told = json(client.said().lines().next().unwrap_or_default())?;
        let family = self.path.family();
        let resident = resident_mib(&family);
        drop(client.stdin());
        let held = number(&told, "held")?;
        if held < f64::from(flows) {
            return Err(format!(
                "held {held} of {flows} flows: {}",
                told["failure"].as_str().unwrap_or("no more came")
            ));
        }
        let mut measured = Measured::default();
        measured.put("rss_mib", resident);
        measured.put("rss_growth_mib", (resident - before).max(0.0));
        Ok(measured)
    }

    /// The candidate's processes on the last CPU, the peers on the first.
    fn pinned(&self, action: impl FnOnce() -> Result<Measured, String>) -> Result<Measured, String> {
        let failed = |errno: rustix::io::Errno| format!("sched_setaffinity: {errno}");
        let all = sched_getaffinity(None).map_err(failed)?;
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect();
        let only = |cpu: Option<&usize>| {
            let mut set = CpuSet::new();
            set.set(*cpu.expect("we run on one"));
            set
        };
        for pid in self.path.family() {
            for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let task = task.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
                // One that has ended meanwhile needs no place.
                let _ = sched_setaffinity(task, &only(cpus.last()));
            }
        }
        // Those that we start have our own.
        sched_setaffinity(None, &only(cpus.first())).map_err(failed)?;
        let measured = action();
        sched_setaffinity(None, &all).map_err(failed)?;
        measured
    }
}

/// Waits until client and server reach each other: a scene that does not work costs a second, not a measurement.
pub fn reaches(tools: &Tools, scene: &Scene, path: &Path) -> Result<(), String> {
    let mut server = scene.server().start(&tools.load, &["serve", &FIRST_TCP.to_string(), "1"])?;
    server.says("ready", SOON)?;
    let client = scene.client().start(&tools.load, &["first", &format!("{}:{FIRST_TCP}", path.target)])?;
    client.end(SOON).map(drop).map_err(|error| format!("client and server do not reach each other: {error}"))
}

fn latencies(told: &Value) -> Result<Measured, String> {
    let mut measured = Measured::default();
    for (figure, field) in [("p50_us", "p50_us"), ("p99_us", "p99_us"), ("p999_us", "p999_us"), ("per_s", "per_second")]
    {
        measured.put(figure, number(told, field)?);
    }
    let quantiles = told["quantiles"].as_array().cloned().unwrap_or_default();
    measured.quantiles = quantiles.iter().filter_map(|pair| Some((pair[0].as_f64()?, pair[1].as_f64()?))).collect();
    Ok(measured)
}

/// A server says "ready" on a line of its own before its result.
fn last(said: &str) -> &str {
    said.trim_end().rsplit('\n').next().unwrap_or_default()
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("an answer that is no JSON ({error}): {}", text.chars().take(100).collect::<String>()))
}

fn number(value: &Value, field: &str) -> Result<f64, String> {
    value[field].as_f64().ok_or_else(|| match value["error"].as_str() {
        Some(error) => error.to_owned(),
        None => format!("no figure for {field}"),
    })
}
