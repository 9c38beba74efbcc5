//! The command line of `cargo bench --bench network --`.

use std::path::PathBuf;

use clap::Parser;

/// Measures pontoon side by side with the limits of this machine, the kernel's bridge and its peers.
///
/// Needs root, iperf3, iproute2, nftables, ping, and peers if there shall be any. Works in namespaces of its own, without a way out. Every figure goes to a file of
/// JSON; `--report FILE` makes the tables of docs/benchmarks.md and the plots in docs/plots from it.
#[derive(Debug, Clone, Parser)]
#[command(name = "network", version, bin_name = "cargo bench --bench network --")]
pub struct Options {
    /// Fewer cases, one round: under three minutes, for orders of magnitude
    #[arg(long)]
    pub quick: bool,
    /// Only these, part of a case and the whole of a candidate, either may be left out: bulk/out//pasta, rr, //kernel; repeat for more
    #[arg(long, value_name = "CASE//CANDIDATE")]
    pub only: Vec<String>,
    /// Rounds: in each, every candidate has its turn [default: 3; with --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub pairs: Option<u32>,
    /// Of every bulk stream; other loads last about as long, or half of it [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub seconds: Option<u32>,
    /// pontoon [default: target/release/pontoon, built anew]
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// pasta, if another than the packaged one
    #[arg(long, value_name = "PATH")]
    pub pasta: Option<PathBuf>,
    /// TCP's congestion control in every namespace [default: cubic, Linux's own; reno where namespaces may not have it]
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<String>,
    /// Where the record goes
    #[arg(long, value_name = "FILE", default_value = "target/network.json")]
    pub out: PathBuf,
    /// Run nothing: make docs/benchmarks.md's tables and docs/plots from a record
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print what got faster or slower than in this record, of the run or of --report; 1 is the exit status of a loss
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
    /// Another run of the same: ratios that differ by more than 15 % are marked as noisy in the report, and counted
    #[arg(long, value_name = "FILE", requires = "report")]
    pub agree: Option<PathBuf>,
    /// Per cent that a loss must exceed, beyond noise
    #[arg(long, value_name = "PER CENT", default_value_t = 5.0)]
    pub threshold: f64,
    /// List cases and candidates, and how long it would take, and run nothing
    #[arg(long)]
    pub list: bool,
    /// What `cargo bench` says to every benchmark
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Options {
    pub fn rounds(&self) -> u32 {
        self.pairs.unwrap_or(if self.quick { 1 } else { 3 })
    }

    pub fn seconds(&self) -> u32 {
        self.seconds.unwrap_or(1)
    }

    /// Whether a case of a candidate is asked for.
    pub fn wants(&self, case: &str, candidate: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|filter| matches(filter, case, candidate))
    }
}

/// `CASE//CANDIDATE`, either of which may be empty; `CASE` alone is for every candidate.
fn matches(filter: &str, case: &str, candidate: &str) -> bool {
    let (of_case, of_candidate) = filter.split_once("//").unwrap_or((filter, ""));
    // A candidate is named whole: pontoon is not pontoon-sockets.
    case.contains(of_case) && (of_candidate.is_empty() || of_candidate == candidate)
}
