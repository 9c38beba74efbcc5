//! What is measured: each case once for each candidate in a round.
//!
//! # Theory of operation
//! A [`Group`] is the cases that share a scene. In a round of a group every candidate has a scene of its own, all of them stand
//! beside each other, idle but for one, and the candidates take turns case by case: what the machine does meanwhile meets all
//! alike. Scenes that are heavy (hundreds of ports, thousands of flows) stand [alone](Group::alone), one after the other.
//!
//! Latencies left to the scheduler have several values, far apart (who shares a CPU with whom), so for `rr`, `crr` and the idle ping
//! CPUs are assigned: the candidate's processes have the last, the peers the first. The kernel has no process, and so needs one CPU
//! where the others need two: `rr-one` gives all of them one, `rr-apart` client and server one each. `rr-free` and `crr-free`
//! leave it to the scheduler, as users do.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::Value;

use crate::candidates::{FIRST_TCP, IPERF, Path, Scene, TCP_PORTS, Tools, UDP, Wanted, Way};
use crate::netns::Netns;
use crate::process::{Background, SOON, cpu_seconds, eventually, machine_cpu_seconds, resident_mib};
use crate::statistics::{jain, quantile};

/// What a run may take beyond the time that it was asked to.
const SLACK: Duration = Duration::from_secs(6);
/// Neighbour announcements of new links are not rest.
const REST: Duration = Duration::from_millis(500);
/// Probes of the search for the highest rate; each halves what is left of a factor of 36.
const PROBES: u32 = 7;
/// What a rate may lose and still count as delivered.
const MAY_BE_LOST: f64 = 0.01;
/// Ports that are published in one request, and the first of them.
const MANY_PORTS: u32 = 5000;
const FIRST_OF_MANY: u32 = 20_000;

/// Which CPUs do the work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Placement {
    /// The candidate's processes have the last, the peers the first.
    Own,
    /// All have the first.
    One,
    /// The client has the first, the server and the candidate the last.
    Apart,
    /// As the scheduler likes.
    Free,
}

/// One measurement on a scene.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum What {
    Bulk {
        streams: u32,
        back: bool,
    },
    /// One stream, written in portions of 1 KiB.
    SmallWrites,
    /// The published port, from the host itself.
    Local {
        back: bool,
    },
    Datagrams {
        size: u32,
    },
    /// The highest rate that loses next to nothing.
    Lossless {
        size: u32,
    },
    Exchanges(Placement),
    Connections(Placement),
    Ping,
    PingUnderLoad,
    Fairness,
    SlowReader,
    Flood,
    Resident,
    /// Idle flows; beside those of TCP, a bulk stream.
    Held {
        flows: u32,
        udp: bool,
    },
    /// Flows that all have something on their way.
    Busy {
        flows: u32,
    },
    /// Publishing ports, while it runs.
    Publish,
    Start,
}

impl What {
    /// Seconds that it takes, about, with bulk streams of `seconds`.
    pub fn estimate(self, seconds: u32) -> f64 {
        let seconds = f64::from(seconds);
        match self {
            Self::Bulk { .. } | Self::SmallWrites | Self::Local { .. } => seconds + 0.1,
            Self::Datagrams { .. } => 0.3 * seconds + 0.2,
            Self::Lossless { .. } => 0.38 * f64::from(PROBES + 1),
            Self::Exchanges(_) => 0.5 * seconds + 0.1,
            Self::Connections(_) => 0.4,
            Self::Ping => 0.7 * seconds + 0.1,
            Self::PingUnderLoad | Self::Fairness => seconds + 0.4,
            Self::SlowReader => 1.5 * seconds + 0.3,
            Self::Flood => 0.9,
            Self::Resident => 0.6,
            Self::Held { flows, udp } => 2.0 * seconds + f64::from(flows) * if udp { 7e-5 } else { 4e-4 },
            Self::Busy { flows } => 2.5 + f64::from(flows) * 4e-4,
            Self::Publish => 0.5,
            Self::Start => 0.4,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub what: What,
}

impl Case {
    /// The scene of its group, and what it asks of it besides.
    pub fn wanted(&self, of: &Group) -> Wanted {
        let udp = matches!(self.what, What::Datagrams { .. } | What::Lossless { .. } | What::Held { udp: true, .. });
        let ping = matches!(self.what, What::Ping | What::PingUnderLoad);
        Wanted { udp, ping, ..of.wanted }
    }
}

#[derive(Debug, Clone)]
pub struct Group {
    pub wanted: Wanted,
    pub cases: Vec<Case>,
    /// One candidate's scene at a time.
    pub alone: bool,
}

impl Group {
    /// Seconds until a candidate's scene stands and is gone again, about.
    pub fn setup(&self) -> f64 {
        0.3 + 0.008 * f64::from(self.wanted.ports)
    }
}

/// All of them, or those of `--quick`.
pub fn groups(quick: bool) -> Vec<Group> {
    const WAYS: [Way; 3] = [Way::Direct, Way::Out, Way::In];
    let mut groups = Vec::new();
    let mut group = |alone: bool, wanted: Wanted, cases: Vec<(String, What)>| {
        let cases = cases.into_iter().map(|(name, what)| Case { name, what }).collect();
        groups.push(Group { wanted, cases, alone });
    };
    for way in WAYS {
        for mtu in [1500, 65_520] {
            let cases = if quick { few_of_path(way, mtu) } else { all_of_path(way, mtu) };
            if !cases.is_empty() {
                group(false, Wanted::new(way, mtu), cases);
            }
        }
    }
    let ports: &[u32] = if quick { &[2, 100] } else { &[2, 10, 100, 1000] };
    for &ports in ports {
        let wanted = Wanted { ports, ..Wanted::new(Way::Direct, 1500) };
        let bulk = What::Bulk { streams: 1, back: false };
        group(
            true,
            wanted,
            vec![
                (format!("size/ports/{ports}"), What::Resident),
                (format!("ports/{ports}/bulk"), bulk),
                (format!("ports/{ports}/arp"), What::Flood),
            ],
        );
    }
    let held = |flows, udp| (format!("size/flows/{flows}"), What::Held { flows, udp });
    let some = |flows| Wanted { flows, ..Wanted::new(Way::Out, 1500) };
    group(true, some(1000), vec![held(1000, false)]);
    if !quick {
        group(true, some(10_000), vec![held(10, false), held(10_000, false)]);
        group(true, some(10_000), vec![("size/busy/10000".to_owned(), What::Busy { flows: 10_000 })]);
        group(true, some(100_000), vec![held(100_000, true)]);
    }
    group(true, Wanted::new(Way::In, 1500), vec![(format!("publish/{MANY_PORTS}"), What::Publish)]);
    for way in [Way::Direct, Way::Out] {
        group(true, Wanted::new(way, 1500), vec![(format!("start/{way}"), What::Start)]);
    }
    groups
}

/// What is measured on a path between two.
fn all_of_path(way: Way, mtu: u32) -> Vec<(String, What)> {
    let mut cases = Vec::new();
    for streams in [1, 8, 64] {
        for (to, back) in [("forth", false), ("back", true)] {
            cases.push((format!("bulk/{way}/{mtu}/{streams}/{to}"), What::Bulk { streams, back }));
        }
    }
    if mtu != 1500 {
        return cases;
    }
    cases.push((format!("rr/{way}"), What::Exchanges(Placement::Own)));
    if way == Way::Out {
        cases.push((format!("rr-one/{way}"), What::Exchanges(Placement::One)));
        cases.push((format!("rr-apart/{way}"), What::Exchanges(Placement::Apart)));
        cases.push((format!("rr-free/{way}"), What::Exchanges(Placement::Free)));
    }
    cases.push((format!("crr/{way}"), What::Connections(Placement::Own)));
    cases.push((format!("crr-free/{way}"), What::Connections(Placement::Free)));
    for size in [64, 1400, 65_507] {
        cases.push((format!("udp/{way}/{size}"), What::Datagrams { size }));
    }
    if way != Way::Direct {
        cases.push((format!("slow/{way}"), What::SlowReader));
    }
    if way == Way::Out {
        cases.push((format!("rate/{way}/1400"), What::Lossless { size: 1400 }));
        cases.push((format!("writes/{way}"), What::SmallWrites));
    }
    if way == Way::In {
        cases.push(("local/forth".to_owned(), What::Local { back: false }));
        cases.push(("local/back".to_owned(), What::Local { back: true }));
    } else {
        cases.push((format!("ping/{way}/idle"), What::Ping));
        cases.push((format!("ping/{way}/loaded"), What::PingUnderLoad));
        cases.push((format!("fair/{way}"), What::Fairness));
    }
    cases
}

fn few_of_path(way: Way, mtu: u32) -> Vec<(String, What)> {
    let few: &[&str] = match (way, mtu) {
        (Way::Direct, 1500) => &["bulk/direct/1500/1/forth", "udp/direct/1400", "ping/"],
        (Way::Out, 1500) => &["bulk/out/1500/1/", "rr/", "rr-one/", "crr/", "crr-free/", "slow/", "writes/"],
        (Way::Out, _) => &["bulk/out/65520/1/"],
        (Way::In, 1500) => &["bulk/in/1500/1/forth"],
        _ => &[],
    };
    let all = all_of_path(way, mtu).into_iter();
    all.filter(|(name, _)| few.iter().any(|begin| name.starts_with(begin))).collect()
}

/// Why a case means nothing for a candidate, though it has the path.
pub fn refuses(case: &Case, candidate: &str) -> Option<&'static str> {
    let by_sockets = ["pontoon-sockets", "slirp4netns", "pasta"].contains(&candidate);
    match case.what {
        What::Resident | What::Held { .. } | What::Busy { .. } if candidate == "kernel" => Some("it has no process"),
        What::Held { .. } | What::Busy { .. } if candidate == "forward" => Some("it keeps nothing"),
        What::Held { flows: 10 | 10_000, .. } if candidate == "slirp4netns" => {
            Some("10,000 take it minutes: the more flows, the slower is each (see size/flows/1000)")
        }
        What::Busy { .. } if !candidate.starts_with("pontoon") => Some("asked of pontoon alone"),
        What::Held { udp: true, .. } if candidate != "pontoon" => Some("asked of the TUN uplink alone"),
        What::Held { flows: 10, .. } if candidate == "split" => Some("it has no room for the 10,000 to compare with"),
        What::Local { .. } if !by_sockets => Some("it publishes at another address than the host's"),
        What::Publish if candidate != "pontoon-sockets" => Some("asked of one request to pontoon, uplink `sockets`"),
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

    /// How evenly the streams of one iperf3 were served.
    fn shares(&mut self, told: &Value) {
        let streams = told["end"]["streams"].as_array().map_or(&[][..], Vec::as_slice);
        let rates: Vec<f64> =
            streams.iter().filter_map(|stream| stream["receiver"]["bits_per_second"].as_f64()).collect();
        if let (Some(jain), true) = (jain(&rates), rates.len() > 1) {
            let mean = rates.iter().sum::<f64>() / rates.len() as f64;
            self.put("share_min_of_mean", rates.iter().copied().fold(f64::INFINITY, f64::min) / mean);
            self.put("jain", jain);
        }
    }
}

/// Everything that a measurement needs at hand.
pub struct Bench<'a> {
    pub tools: &'a Tools,
    pub scene: &'a Scene,
    pub path: &'a Path,
    /// Of a bulk stream.
    pub seconds: u32,
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
            What::Bulk { streams, back } => self.bulk(streams, &self.path.target.to_string(), back_of(back)),
            What::SmallWrites => self.bulk(1, &self.path.target.to_string(), &["-l", "1K"]),
            What::Local { back } => self.bulk(1, "127.0.0.1", back_of(back)),
            What::Datagrams { size } => {
                let sent = self.sent(size, 0.3 * f64::from(self.seconds), None)?;
                if sent.per_second == 0.0 {
                    return Err("no datagram arrived whole".to_owned());
                }
                let mut measured = Measured::default();
                measured.put("udp_per_s", sent.per_second);
                measured.put("udp_gbit_s", sent.gbit_s());
                measured.put("udp_loss", sent.loss);
                Ok(measured)
            }
            What::Lossless { size } => self.lossless(size),
            What::Exchanges(placement) => self.placed(placement, |last| self.exchanges("rr", last)),
            What::Connections(placement) => self.placed(placement, |last| self.exchanges("crr", last)),
            What::Ping => self.placed(Placement::Own, |_| self.ping()),
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
            What::Busy { flows } => self.busy(flows),
            What::Publish => self.publish(),
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

    fn iperf(&self, to: &str, streams: u32, more: &[&str]) -> Result<Background, String> {
        let (streams, time) = (streams.to_string(), self.seconds.to_string());
        let words = ["-c", to, "-P", &streams, "-t", &time, "--connect-timeout", "3000", "-J"];
        self.scene.client().start("iperf3", &[&words[..], more].concat())
    }

    /// Bulk TCP: what arrives, and the CPU that it costs.
    fn bulk(&self, streams: u32, to: &str, more: &[&str]) -> Result<Measured, String> {
        let _server = self.iperf_server()?;
        let (helpers, machine) = (cpu_seconds(&self.path.family()), machine_cpu_seconds());
        let client = self.iperf(to, streams, more)?;
        let told = json(&client.end(self.time() + SLACK)?)?;
        let (helpers, machine) = (cpu_seconds(&self.path.family()) - helpers, machine_cpu_seconds() - machine);
        let received = &told["end"]["sum_received"];
        let (bits, bytes) = (number(received, "bits_per_second")?, number(received, "bytes")?);
        if bytes == 0.0 {
            return Err("connected, and not a byte arrived".to_owned());
        }
        let mut measured = Measured::default();
        measured.put("tcp_gbit_s", bits * 1e-9);
        measured.shares(&told);
        // Of next to nothing a cost by the byte says nothing.
        if bytes > 1e6 {
            if !self.path.helpers.is_empty() {
                measured.put("helper_cpu_s_per_gb", helpers / (bytes * 1e-9));
            }
            measured.put("machine_cpu_s_per_gb", machine / (bytes * 1e-9));
        }
        Ok(measured)
    }

    /// Datagrams, flat out or at a rate.
    fn sent(&self, size: u32, seconds: f64, rate: Option<u32>) -> Result<Sent, String> {
        let sink = self.serve(&["sink", &UDP.to_string(), &size.to_string()])?;
        let (to, size_told, seconds) = (self.target(UDP), size.to_string(), seconds.to_string());
        let rate = rate.map(|rate| rate.to_string());
        let mut words = vec!["send", &to, &size_told, &seconds];
        words.extend(rate.iter().flat_map(|rate| ["--rate", rate]));
        let offered = json(&self.load(self.scene.client(), &words)?.end(self.time() + SLACK)?)?;
        let told = json(last(&sink.end(self.time() + SLACK)?))?;
        let (received, lost) = (number(&told, "received")?, number(&told, "lost")?);
        Ok(Sent {
            size,
            offered: number(&offered, "per_second")?,
            per_second: number(&told, "per_second")?,
            loss: lost / (lost + received),
        })
    }

    /// What is delivered at the highest rate that loses less than a hundredth: between a thirtieth of what comes through flat out and
    /// a fifth more, each probe in the (geometric) middle of what is left.
    fn lossless(&self, size: u32) -> Result<Measured, String> {
        const SECONDS: f64 = 0.2;
        let flat_out = self.sent(size, SECONDS, None)?;
        let mut best = Some(flat_out).filter(|sent| sent.loss < MAY_BE_LOST);
        // Where all is lost flat out, some may arrive of less.
        let arrives = if flat_out.per_second > 0.0 { flat_out.per_second } else { flat_out.offered };
        let (mut low, mut high) = (arrives / 30.0, arrives * 1.2);
        for _ in 0..if best.is_some() { 0 } else { PROBES } {
            let rate = (low * high).sqrt();
            let sent = self.sent(size, SECONDS, Some((rate as u32).max(1)))?;
            // A sender that does not come up to a rate would find that all of them are delivered.
            if sent.loss < MAY_BE_LOST && sent.offered > 0.9 * rate {
                low = rate;
                best = Some(sent);
            } else {
                high = rate;
            }
        }
        let best = best.ok_or("more than 1 % is lost at any rate, down to a thirtieth of what arrives flat out")?;
        let mut measured = Measured::default();
        measured.put("udp_per_s", best.per_second);
        measured.put("udp_gbit_s", best.gbit_s());
        measured.put("udp_loss", best.loss);
        Ok(measured)
    }

    fn exchanges(&self, kind: &str, servers: &CpuSet) -> Result<Measured, String> {
        let ports = TCP_PORTS.to_string();
        let server = self.serve(&["serve", &FIRST_TCP.to_string(), &ports])?;
        place(&[server.pid()], servers);
        let seconds = (0.5 * f64::from(self.seconds)).to_string();
        let to = self.target(FIRST_TCP);
        let words = match kind {
            "crr" => vec!["crr", &to, &ports, "2000", "--seconds", &seconds],
            _ => vec!["rr", &to, "50000", "--seconds", &seconds],
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
        let client = self.iperf(&self.path.target.to_string(), streams, &[])?;
        thread::sleep(Duration::from_millis(200));
        let measured = action(self);
        let told = json(&client.end(self.time() + SLACK)?)?;
        let mut measured = measured?;
        measured.put("tcp_gbit_s", number(&told["end"]["sum_received"], "bits_per_second")? * 1e-9);
        measured.shares(&told);
        Ok(measured)
    }

    fn fairness(&self) -> Result<Measured, String> {
        let _server = self.serve(&["serve", &FIRST_TCP.to_string(), "1"])?;
        self.loaded(8, |bench| {
            // No longer than the streams beside it.
            let seconds = (0.7 * f64::from(bench.seconds)).to_string();
            let words = ["rr", &bench.target(FIRST_TCP), "1000000", "--seconds", &seconds];
            latencies(&json(&bench.load(bench.scene.client(), &words)?.end(bench.time() + SLACK)?)?)
        })
    }

    /// First as fast as it goes, then half of that: a helper that spins or hoards shows in its CPU and memory, one that sends what was
    /// not asked for in what is sent twice.
    fn slow_reader(&self) -> Result<Measured, String> {
        let seconds = f64::from(self.seconds);
        let free = self.poured(0, 0.5 * seconds)?;
        let before = resident_mib(&self.path.family());
        let half = free / 2.0;
        let cpu = cpu_seconds(&self.path.family());
        // Where the kernel sends, what it sends again; where it receives, what comes again.
        let again = || {
            let sent = self.scene.client().counter("snmp", "Tcp", "RetransSegs");
            [sent, self.scene.server().counter("netstat", "TcpExt", "DelayedACKLost")]
        };
        let [resent, duplicates] = again();
        let slow = self.poured(half as u64, seconds)?;
        let mut measured = Measured::default();
        measured.put("slow_share", slow / half);
        let [resent_now, duplicates_now] = again();
        measured.put("retransmits", resent_now.saturating_sub(resent) as f64);
        measured.put("duplicates", duplicates_now.saturating_sub(duplicates) as f64);
        if !self.path.helpers.is_empty() {
            let family = self.path.family();
            let bytes = slow * seconds;
            measured.put("helper_cpu_s_per_gb", (cpu_seconds(&family) - cpu) / (bytes * 1e-9));
            measured.put("rss_growth_mib", (resident_mib(&family) - before).max(0.0));
        }
        Ok(measured)
    }

    /// Bytes a second that arrive.
    fn poured(&self, rate: u64, seconds: f64) -> Result<f64, String> {
        let time = seconds.to_string();
        let drain = self.serve(&["drain", &IPERF.to_string(), &rate.to_string(), &time])?;
        let longer = (seconds + 1.0).to_string();
        let pour = self.load(self.scene.client(), &["pour", &self.target(IPERF), &longer])?;
        let told = json(last(&drain.end(self.time() + SLACK)?))?;
        // It ends by the reader's reset, or when its time is over.
        pour.end(self.time() + SLACK)?;
        number(&told, "bytes_per_second")
    }

    /// ARP requests to all ports; what one costs, all receivers' stacks included.
    fn flood(&self) -> Result<Measured, String> {
        // Each is a thousand frames on a thousand ports.
        let count = if self.path.idle.len() > 1 { 1000 } else { 2000 };
        // Below pontoon's own limit of broadcasts, 20,000 a second and port.
        const PER_SECOND: u32 = 4000;
        let link = self.scene.a.run("ip", &["-j", "link", "show", "eth0"], SOON)?;
        let mac = json(&link)?[0]["address"].as_str().ok_or("eth0 has no MAC address")?.to_owned();
        let (last, ifname) = match self.path.idle.last() {
            Some(idle) => (idle, self.path.last_idle.as_str()),
            None => (&self.scene.far, "eth0"),
        };
        let before = last.received(ifname);
        let (helpers, machine) = (cpu_seconds(&self.path.family()), machine_cpu_seconds());
        let words = ["flood", "eth0", &mac, "172.31.0.2", &count.to_string(), &PER_SECOND.to_string()];
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

    /// Memory with idle flows, what it is more than without, and a bulk stream beside those of TCP.
    fn held(&self, flows: u32, udp: bool) -> Result<Measured, String> {
        let (mut measured, client, _server) =
            self.holding(flows, if udp { &["scatter"] } else { &["hold"] }, |_| ())?;
        if !udp {
            let twice = Bench { seconds: 2 * self.seconds, ..*self };
            measured.figures.extend(twice.bulk(1, &self.path.target.to_string(), &[])?.figures);
        }
        drop(client);
        Ok(measured)
    }

    /// Memory with flows that all have something on their way: the most that is seen of it.
    fn busy(&self, flows: u32) -> Result<Measured, String> {
        let (mut measured, mut client, _server) = self.holding(flows, &["hold", "--busy"], |bench| {
            thread::sleep(bench.time());
        })?;
        drop(client.stdin());
        measured.put("per_s", number(&json(last(&client.end(SLACK)?))?, "per_second")?);
        Ok(measured)
    }

    /// Resident memory while a client holds flows, after `meanwhile`.
    fn holding(
        &self,
        flows: u32,
        kind: &[&str],
        meanwhile: impl FnOnce(&Self),
    ) -> Result<(Measured, Background, Background), String> {
        let ports = TCP_PORTS.to_string();
        let server = self.serve(&["keep", &FIRST_TCP.to_string(), &ports])?;
        thread::sleep(REST);
        let before = resident_mib(&self.path.family());
        let (to, flows_told) = (self.target(FIRST_TCP), flows.to_string());
        let words = [&kind[..1], &[&to, &ports, &flows_told], &kind[1..]].concat();
        let mut command = self.scene.client().command(&self.tools.load, &words);
        command.stdin(std::process::Stdio::piped());
        let mut client = Background::start(command)?;
        client.says("}\n", 5 * SOON)?;
        let told = json(client.said().lines().next().unwrap_or_default())?;
        let held = number(&told, "held")?;
        if held < f64::from(flows) {
            return Err(format!(
                "held {held} of {flows} flows: {}",
                told["failure"].as_str().unwrap_or("no more came")
            ));
        }
        meanwhile(self);
        let resident = resident_mib(&self.path.family());
        let mut measured = Measured::default();
        measured.put("rss_mib", resident);
        measured.put("rss_growth_mib", (resident - before).max(0.0));
        Ok((measured, client, server))
    }

    /// One request for thousands of ports.
    fn publish(&self) -> Result<Measured, String> {
        thread::sleep(REST);
        let before = resident_mib(&self.path.family());
        let range = format!("{FIRST_OF_MANY}-{}", FIRST_OF_MANY + MANY_PORTS - 1);
        let control = self.scene.scratch("control");
        let words = ["publish", "a", &format!("{range}:{range}"), "--control", &control];
        let begin = Instant::now();
        crate::process::run(self.scene.hub.command(&self.tools.pontoon, &words), 4 * SOON)?;
        let took = begin.elapsed();
        self.scene.far.listens((FIRST_OF_MANY + MANY_PORTS - 1) as u16)?;
        let resident = resident_mib(&self.path.family());
        let mut measured = Measured::default();
        measured.put("publish_ms", took.as_secs_f64() * 1e3);
        measured.put("rss_mib", resident);
        measured.put("rss_growth_mib", (resident - before).max(0.0));
        Ok(measured)
    }

    /// Does it with CPUs assigned; it is told those of a server.
    fn placed(
        &self,
        placement: Placement,
        action: impl FnOnce(&CpuSet) -> Result<Measured, String>,
    ) -> Result<Measured, String> {
        let failed = |errno: rustix::io::Errno| format!("sched_setaffinity: {errno}");
        let all = sched_getaffinity(None).map_err(failed)?;
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect();
        let only = |cpu: Option<&usize>| {
            let mut set = CpuSet::new();
            set.set(*cpu.expect("we run on one"));
            set
        };
        let (first, last) = (only(cpus.first()), only(cpus.last()));
        let (ours, servers, clients) = match placement {
            Placement::Own => (last, first, first),
            Placement::One => (first, first, first),
            Placement::Apart => (last, last, first),
            Placement::Free => (all, all, all),
        };
        let family = self.path.family();
        place(&family, &ours);
        sched_setaffinity(None, &clients).map_err(failed)?; // those that we start have our own
        let measured = action(&servers);
        sched_setaffinity(None, &all).map_err(failed)?;
        place(&family, &all);
        measured
    }
}

/// Gives all threads of processes these CPUs.
fn place(pids: &[u32], cpus: &CpuSet) {
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let task = task.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            // One that has ended meanwhile needs no place.
            let _ = sched_setaffinity(task, cpus);
        }
    }
}

/// One run of datagrams.
#[derive(Clone, Copy)]
struct Sent {
    size: u32,
    offered: f64,
    per_second: f64,
    loss: f64,
}

impl Sent {
    fn gbit_s(&self) -> f64 {
        self.per_second * f64::from(self.size) * 8e-9
    }
}

fn back_of(back: bool) -> &'static [&'static str] {
    if back { &["-R"] } else { &[] }
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
