//! What is asked of pontoon, and whether a record has it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::record::Record;
use crate::report::told;
use crate::statistics::{median, ratios};

/// A case, a kind of figure, a candidate.
type Figure = (&'static str, &'static str, &'static str);

enum Asked {
    /// As a ratio to another figure of the same round, or as it is.
    AtLeast(f64),
    AtMost(f64),
    /// At most so much more than another figure of the same round.
    MoreBy(f64),
}

struct Goal {
    what: &'static str,
    figure: Figure,
    to: Option<Figure>,
    asked: Asked,
}

const fn goal(what: &'static str, figure: Figure, to: Option<Figure>, asked: Asked) -> Goal {
    Goal { what, figure, to, asked }
}

use Asked::{AtLeast, AtMost, MoreBy};

const TUN: &str = "pontoon";
const SOCKETS: &str = "pontoon-sockets";
const TCP: &str = "tcp_gbit_s";
const OUT: Figure = ("bulk/out/1500/1/forth", TCP, SOCKETS);
const BACK: Figure = ("bulk/out/1500/1/back", TCP, SOCKETS);

/// The same, of another candidate.
const fn of(figure: Figure, candidate: &'static str) -> Option<Figure> {
    Some((figure.0, figure.1, candidate))
}

const fn by_sockets(case: &'static str, metric: &'static str) -> Figure {
    (case, metric, SOCKETS)
}

const GOALS: [Goal; 42] = [
    goal("container to container, of forward", DIRECT, of(DIRECT, "forward"), AtLeast(0.95)),
    goal("TUN, out, of forward", TUN_OUT, of(TUN_OUT, "forward"), AtLeast(0.80)),
    goal("TUN, in, of forward", TUN_IN, of(TUN_IN, "forward"), AtLeast(0.80)),
    goal("UDP 64 B delivered, of forward", SMALL, of(SMALL, "forward"), AtLeast(0.85)),
    goal("ping p50, of forward", PING, of(PING, "forward"), AtMost(1.25)),
    goal("connect, request, response p50, of forward", CRR, of(CRR, "forward"), AtMost(1.3)),
    goal("ready, ms", ("start/direct", "ready_ms", TUN), None, AtMost(50.0)),
    goal("resident with 2 ports, MiB", ("size/ports/2", "rss_mib", TUN), None, AtMost(16.0)),
    goal("resident with 1,000 ports, MiB", ("size/ports/1000", "rss_mib", TUN), None, AtMost(64.0)),
    goal("sockets, out, of split", OUT, of(OUT, "split"), AtLeast(0.80)),
    goal("sockets, back, of split", BACK, of(BACK, "split"), AtLeast(0.80)),
    goal("sockets, out, of slirp4netns", OUT, of(OUT, "slirp4netns"), AtLeast(8.0)),
    goal("sockets, back, of slirp4netns", BACK, of(BACK, "slirp4netns"), AtLeast(6.0)),
    goal("sockets, in, of slirp4netns", IN, of(IN, "slirp4netns"), AtLeast(6.0)),
    goal("sockets, out at MTU 65520, of slirp4netns", OUT_LARGE, of(OUT_LARGE, "slirp4netns"), AtLeast(1.0)),
    goal("sockets, out at MTU 65520, of pasta", OUT_LARGE, of(OUT_LARGE, "pasta"), AtLeast(1.0)),
    goal("sockets, back at MTU 65520, of slirp4netns", BACK_LARGE, of(BACK_LARGE, "slirp4netns"), AtLeast(1.0)),
    goal("sockets, back at MTU 65520, of pasta", BACK_LARGE, of(BACK_LARGE, "pasta"), AtLeast(1.0)),
    goal("64 streams out, of one", OUT_64, Some(OUT), AtLeast(0.8)),
    goal("64 streams back, of one", BACK_64, Some(BACK), AtLeast(0.8)),
    goal("64 streams out, Jain's index", by_sockets(OUT_64.0, "jain"), None, AtLeast(0.9)),
    goal("64 streams back, Jain's index", by_sockets(BACK_64.0, "jain"), None, AtLeast(0.9)),
    goal("slow server out, share of what it takes", by_sockets("slow/out", "slow_share"), None, AtLeast(0.95)),
    goal("slow server in, share of what it takes", by_sockets("slow/in", "slow_share"), None, AtLeast(0.95)),
    goal("slow server out, sent again by the container", by_sockets("slow/out", "retransmits"), None, AtMost(0.0)),
    goal("slow server in, came twice to the container", by_sockets("slow/in", "duplicates"), None, AtMost(0.0)),
    goal("writes of 1 KiB, of slirp4netns", WRITES, of(WRITES, "slirp4netns"), AtLeast(3.0)),
    goal("request, response p50, us more than the kernel: one CPU", RR_ONE, of(RR_ONE, "kernel"), MoreBy(30.0)),
    goal("the same, client and server on a CPU each", RR_APART, of(RR_APART, "kernel"), MoreBy(30.0)),
    goal("the same, CPUs left free", RR_FREE, of(RR_FREE, "kernel"), MoreBy(30.0)),
    goal("the same, pontoon on a CPU of its own", RR, of(RR, "kernel"), MoreBy(30.0)),
    goal("connect, request, response p50, of slirp4netns", CRR_OUT, of(CRR_OUT, "slirp4netns"), AtMost(0.6)),
    goal("the same, CPUs left free", CRR_FREE, of(CRR_FREE, "slirp4netns"), AtMost(0.6)),
    goal("UDP 1,400 B, highest rate, of slirp4netns", RATE, of(RATE, "slirp4netns"), AtLeast(3.0)),
    goal("10,000 idle flows, MiB more", by_sockets("size/flows/10000", "rss_growth_mib"), None, AtMost(16.0)),
    goal("CPU a GB with 10,000 idle flows, of that with 10", CPU, Some(CPU_10), AtMost(1.05)),
    goal("published port from the host, of split", LOCAL, Some(("bulk/out/1500/1/back", TCP, "split")), AtLeast(0.8)),
    goal("and back", LOCAL_BACK, Some(("bulk/out/1500/1/forth", TCP, "split")), AtLeast(0.8)),
    goal("published port in, of split", IN, Some(("bulk/out/1500/1/back", TCP, "split")), AtLeast(0.8)),
    goal("5,000 ports published, ms", by_sockets("publish/5000", "publish_ms"), None, AtMost(1000.0)),
    goal("5,000 ports published, MiB resident", by_sockets("publish/5000", "rss_mib"), None, AtMost(24.0)),
    goal("10,000 busy flows, MiB resident", by_sockets("size/busy/10000", "rss_mib"), None, AtMost(CAP)),
];

/// Of all flows together: `memory` of the uplink `sockets`, and what a switch is without.
const CAP: f64 = 256.0 + 16.0;
const DIRECT: Figure = ("bulk/direct/1500/1/forth", TCP, TUN);
const TUN_OUT: Figure = ("bulk/out/1500/1/forth", TCP, TUN);
const TUN_IN: Figure = ("bulk/in/1500/1/forth", TCP, TUN);
const SMALL: Figure = ("udp/direct/64", "udp_per_s", TUN);
const PING: Figure = ("ping/direct/idle", "ping_p50_us", TUN);
const CRR: Figure = ("crr/direct", "p50_us", TUN);
const IN: Figure = by_sockets("bulk/in/1500/1/forth", TCP);
const OUT_LARGE: Figure = by_sockets("bulk/out/65520/1/forth", TCP);
const BACK_LARGE: Figure = by_sockets("bulk/out/65520/1/back", TCP);
const OUT_64: Figure = by_sockets("bulk/out/1500/64/forth", TCP);
const BACK_64: Figure = by_sockets("bulk/out/1500/64/back", TCP);
const WRITES: Figure = by_sockets("writes/out", TCP);
const RR: Figure = by_sockets("rr/out", "p50_us");
const RR_ONE: Figure = by_sockets("rr-one/out", "p50_us");
const RR_APART: Figure = by_sockets("rr-apart/out", "p50_us");
const RR_FREE: Figure = by_sockets("rr-free/out", "p50_us");
const CRR_OUT: Figure = by_sockets("crr/out", "p50_us");
const CRR_FREE: Figure = by_sockets("crr-free/out", "p50_us");
const RATE: Figure = by_sockets("rate/out/1400", "udp_per_s");
const CPU: Figure = by_sockets("size/flows/10000", "helper_cpu_s_per_gb");
const CPU_10: Figure = by_sockets("size/flows/10", "helper_cpu_s_per_gb");
const LOCAL: Figure = by_sockets("local/forth", TCP);
const LOCAL_BACK: Figure = by_sockets("local/back", TCP);

/// A table of those for which there are figures; nothing of none.
pub fn table(record: &Record, again: Option<&Record>) -> String {
    let mut rows = String::new();
    for goal in &GOALS {
        let Some(value) = goal.value(record) else { continue };
        let (sign, bound) = match goal.asked {
            AtLeast(bound) => (">=", bound),
            AtMost(bound) | MoreBy(bound) => ("<=", bound),
        };
        let met = |value: f64| if goal.is_met(value) { "yes" } else { "**no**" };
        let other = again.and_then(|again| goal.value(again));
        let other = other.map(|other| format!(" ({}: {})", told(other), met(other))).unwrap_or_default();
        let case = goal.figure.0;
        let _ =
            writeln!(rows, "| {} | `{case}` | {sign} {bound} | {} | {}{other} |", goal.what, told(value), met(value));
    }
    if rows.is_empty() {
        return rows;
    }
    let other = if again.is_some() { " (and in the other run)" } else { "" };
    format!("| | case | asked | is | met{other} |\n|---|---|---|---|---|\n{rows}")
}

impl Goal {
    fn value(&self, record: &Record) -> Option<f64> {
        let figures = |(case, metric, candidate): Figure| record.figures(case, metric, candidate);
        let own = figures(self.figure);
        let values: Vec<f64> = match (self.to.map(figures), &self.asked) {
            (None, _) => own.into_values().collect(),
            (Some(to), MoreBy(_)) => differences(&own, &to),
            (Some(to), _) => ratios(&own, &to),
        };
        median(&values)
    }

    fn is_met(&self, value: f64) -> bool {
        match self.asked {
            AtLeast(bound) => value >= bound,
            AtMost(bound) | MoreBy(bound) => value <= bound,
        }
    }
}

fn differences(of: &BTreeMap<u32, f64>, to: &BTreeMap<u32, f64>) -> Vec<f64> {
    of.iter().filter_map(|(round, value)| Some(value - to.get(round)?)).collect()
}

/// The figures that are asked for.
pub fn figures() -> impl Iterator<Item = Figure> {
    GOALS.iter().flat_map(|goal| std::iter::once(goal.figure).chain(goal.to))
}
