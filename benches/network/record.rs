//! One run, as it is kept: the machine, the candidates, the command lines and every single figure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Of this layout; a file of another is refused.
pub const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub format: u32,
    /// Seconds since 1970.
    pub begun: u64,
    pub seconds_in_all: f64,
    /// False while it runs, and of a run that was interrupted.
    pub complete: bool,
    pub machine: Machine,
    pub options: Options,
    pub candidates: Vec<Candidate>,
    /// Command lines of the first round, by `case/candidate`.
    pub commands: BTreeMap<String, Vec<String>>,
    pub samples: Vec<Sample>,
    pub gaps: Vec<Gap>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    pub iperf3: String,
    /// TCP's congestion control in every namespace; empty: as the host had it.
    #[serde(default)]
    pub congestion: String,
    /// Of the last minute, before anything was started: more than a fraction is somebody else's work in the figures.
    pub load: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    pub pairs: u32,
    pub seconds: u32,
    pub quick: bool,
    pub only: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub name: String,
    pub what: String,
    /// The limit program that does the least of what it does; None of a limit itself.
    pub limit: Option<String>,
    /// None: missing.
    pub version: Option<String>,
    /// What is to be done about a missing one.
    pub remedy: String,
}

/// One measurement of one candidate in one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub case: String,
    pub candidate: String,
    pub round: u32,
    /// By the names of [`METRICS`].
    pub figures: BTreeMap<String, f64>,
    /// Per cent and microseconds, where a distribution was taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quantiles: Vec<(f64, f64)>,
}

/// Why there is no figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    pub case: String,
    pub candidate: String,
    pub round: u32,
    pub kind: GapKind,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapKind {
    /// It has no such path, by its nature.
    NotApplicable,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
}

/// A kind of figure.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub unit: &'static str,
    pub better: Better,
}

const fn more(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit, better: Better::More }
}

const fn less(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit, better: Better::Less }
}

/// Every kind of figure there is.
pub const METRICS: [Metric; 27] = [
    more("tcp_gbit_s", "Gbit/s at the receiver"),
    less("helper_cpu_s_per_gb", "CPU s of its processes per 10^9 bytes"),
    less("machine_cpu_s_per_gb", "CPU s of the machine per 10^9 bytes"),
    more("udp_per_s", "datagrams/s delivered"),
    more("udp_gbit_s", "Gbit/s delivered"),
    less("udp_loss", "share lost"),
    more("per_s", "exchanges/s"),
    less("p50_us", "us, median"),
    less("p99_us", "us, 99 %"),
    less("p999_us", "us, 99.9 %"),
    less("ping_p50_us", "us, median"),
    less("ping_p99_us", "us, 99 %"),
    less("ping_loss", "share lost"),
    more("share_min_of_mean", "least stream / mean stream"),
    more("jain", "Jain's index of the streams"),
    more("slow_share", "share of the reader's rate delivered"),
    less("retransmits", "segments sent again by the sender's kernel"),
    less("duplicates", "segments that came twice to the reader's kernel"),
    less("rss_mib", "MiB resident, all its processes"),
    less("rss_growth_mib", "MiB resident more than before"),
    less("first_byte_ms", "ms from its start to a byte answered"),
    less("ready_ms", "ms from its start to its own word"),
    less("arp_us", "us of the machine's CPU an ARP request flooded"),
    less("arp_helper_us", "us of its CPU an ARP request flooded"),
    more("arp_delivered", "share delivered at the last port"),
    more("flows", "flows held"),
    less("publish_ms", "ms for one request"),
];

pub fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

impl Record {
    /// Reads what [`Record::to_json`] wrote.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let record: Self =
            serde_json::from_str(text).map_err(|error| format!("not a record of this benchmark: {error}"))?;
        if record.format != FORMAT {
            return Err(format!("a record of format {}, this program reads {FORMAT}", record.format));
        }
        Ok(record)
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("names and numbers") + "\n"
    }

    /// The figures of one candidate, by round.
    pub fn figures(&self, case: &str, metric: &str, candidate: &str) -> BTreeMap<u32, f64> {
        let of = |sample: &&Sample| sample.case == case && sample.candidate == candidate;
        let rounds = self.samples.iter().filter(of);
        rounds.filter_map(|sample| Some((sample.round, *sample.figures.get(metric)?))).collect()
    }

    /// The cases in the order in which they were first met.
    pub fn cases(&self) -> Vec<&str> {
        let all = self.samples.iter().map(|sample| sample.case.as_str());
        distinct(all.chain(self.gaps.iter().map(|gap| gap.case.as_str())))
    }

    /// The limit program that stands beside a candidate in a case: its own, or `forward` where that has no figure.
    pub fn limit(&self, case: &str, metric: &str, candidate: &str) -> Option<&str> {
        let own = self.candidates.iter().find(|one| one.name == candidate)?.limit.as_deref()?;
        [own, "forward"].into_iter().find(|limit| !self.reference(case, metric, limit).is_empty())
    }

    /// The figures of another candidate to divide by, by round.
    pub fn reference(&self, case: &str, metric: &str, other: &str) -> BTreeMap<u32, f64> {
        self.figures(&counterpart(case, other), metric, other)
    }

    pub fn gap(&self, case: &str, candidate: &str) -> Option<&Gap> {
        self.gaps.iter().find(|gap| gap.case == case && gap.candidate == candidate)
    }

    pub fn has(&self, case: &str, candidate: &str) -> bool {
        self.samples.iter().any(|sample| sample.case == case && sample.candidate == candidate)
    }
}

/// The case of another candidate that is beside a case. `split` publishes no ports: what goes in by one stands beside what comes back of
/// what went out, and the other way round.
pub fn counterpart(case: &str, other: &str) -> String {
    let turned = |to: &str| if to == "forth" { "back" } else { "forth" };
    match *case.split('/').collect::<Vec<_>>() {
        ["bulk", "in", mtu, streams, to] if other == "split" => {
            format!("bulk/out/{mtu}/{streams}/{}", turned(to))
        }
        ["local", to] if other == "split" => format!("bulk/out/1500/1/{}", turned(to)),
        _ => case.to_owned(),
    }
}

pub fn distinct<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for one in all {
        if !seen.contains(&one) {
            seen.push(one);
        }
    }
    seen
}
