//! The benchmark of the network that everyone can check: `cargo bench --bench network`.
//!
//! # Theory of operation
//! ```text
//! options ─► walls (PID 1 of namespaces of its own) ─► group ─► round ─► candidate ─► scene, cases ─► record (JSON)
//!                                                                                       record ─► tables, plots, comparison
//! ```
//!
//! Every candidate that is installed takes its turn in each round; what is missing is said. Each scene is built anew, and a
//! candidate that hangs is killed after seconds and reported. Whatever ends the run, the walls leave nothing behind.

mod candidates;
mod cases;
mod compare;
mod netns;
mod options;
mod plots;
mod process;
#[path = "../../tests/netns/raw.rs"]
#[expect(dead_code, reason = "shared with the tests: here namespaces are entered")]
mod raw;
mod record;
mod report;
mod statistics;
mod walls;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Instant, SystemTime};

use clap::Parser;

use candidates::{CANDIDATES, Candidate, Scene, Tools};
use cases::{Bench, Group, Measured, What};
use options::Options;
use record::{FORMAT, Gap, GapKind, Machine, Record, Sample};
use walls::Side;

const PAGE: &str = "docs/benchmarks.md";
const PLOTS: &str = "docs/plots";
/// Failures of a candidate in a case after which it has no more turns there.
const PATIENCE: usize = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("network: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode, String> {
    if options.list {
        list(options);
        return Ok(ExitCode::SUCCESS);
    }
    // Read before a run, which would be for nothing with a file that cannot be.
    let old = options.compare.as_deref().map(read).transpose()?;
    let record = match &options.report {
        Some(file) => {
            let record = read(file)?;
            write_report(&record)?;
            record
        }
        None => {
            demand()?;
            match walls::enter()? {
                Side::Outside(code) => return Ok(code.into()),
                Side::Inside => measure_all(options)?,
            }
        }
    };
    let Some(old) = old else { return Ok(ExitCode::SUCCESS) };
    let threshold = options.threshold / 100.0;
    let (text, lost) = compare::tell(&compare::changes(&old, &record, threshold), threshold);
    print!("{text}");
    Ok(if lost { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn list(options: &Options) {
    for group in cases::groups(options.quick) {
        for case in group.cases {
            let of = CANDIDATES.iter().filter(|candidate| options.wants(&case.name, candidate.name));
            let names: Vec<_> = of
                .filter(|of| (of.refuses)(&group.wanted).is_none() && cases::refuses(&case, of.name).is_none())
                .map(|of| of.name)
                .collect();
            println!("{}: {}", case.name, names.join(", "));
        }
    }
}

/// All that must be there, or one line about what is not.
fn demand() -> Result<(), String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root (sudo)".to_owned());
    }
    let tools = [("iperf3", "iperf3"), ("ip", "iproute2"), ("ping", "iputils-ping")];
    for (program, package) in tools {
        if process::find(program).is_none() {
            missing.push(format!("{program} (Debian: {package})"));
        }
    }
    if cargo().is_none() {
        missing.push("cargo".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        missing.push("/dev/net/tun".to_owned());
    }
    if missing.is_empty() { Ok(()) } else { Err(format!("needs {}", missing.join(", "))) }
}

/// The one that started us: sudo may have left no other in the PATH.
fn cargo() -> Option<PathBuf> {
    std::env::var_os("CARGO").map(PathBuf::from).or_else(|| process::find("cargo"))
}

fn read(file: &Path) -> Result<Record, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Record::from_json(&text).map_err(|error| format!("{}: {error}", file.display()))
}

fn write_report(record: &Record) -> Result<(), String> {
    let failed = |file: &Path, error: std::io::Error| format!("{}: {error}", file.display());
    let page = root().join(PAGE);
    let plots = root().join(PLOTS);
    fs::create_dir_all(&plots).map_err(|error| failed(&plots, error))?;
    let mut links = Vec::new();
    for plot in plots::draw(record)? {
        let file = plots.join(plot.file);
        fs::write(&file, plot.svg).map_err(|error| failed(&file, error))?;
        links.push((plot.caption.to_owned(), format!("plots/{}", plot.file)));
    }
    let text = fs::read_to_string(&page).map_err(|error| failed(&page, error))?;
    let text = report::splice(&text, &report::markdown(record, &links))?;
    fs::write(&page, text).map_err(|error| failed(&page, error))?;
    eprintln!("network: {PAGE} and {} plots in {PLOTS} are made anew", links.len());
    Ok(())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The programs of this tree, built as they are now.
fn tools(options: &Options) -> Result<Tools, String> {
    let target = root().join("target/release");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(target, |own| PathBuf::from(own).join("release"));
    let mut build = Command::new(cargo().ok_or("no cargo")?);
    build.current_dir(root()).args(["build", "--release", "--quiet", "--examples"]);
    if options.binary.is_none() {
        build.args(["--bin", "pontoon"]);
    }
    eprintln!("network: building");
    process::run(build, std::time::Duration::from_secs(1200))?;
    let pontoon = options.binary.clone().unwrap_or_else(|| target.join("pontoon"));
    let pontoon = fs::canonicalize(&pontoon).map_err(|error| format!("{}: {error}", pontoon.display()))?;
    let example = |name: &str| target.join("examples").join(name);
    let pasta = options.pasta.clone().or_else(|| process::find("pasta")).unwrap_or_else(|| "pasta".into());
    // Not the file behind a link: by the name it is called by it knows that it is pasta and not passt.
    let pasta = std::path::absolute(&pasta).unwrap_or(pasta);
    Ok(Tools { pontoon, forward: example("forward"), split: example("split"), load: example("load"), pasta })
}

fn machine() -> Machine {
    let text = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let value = |file: &str, key: &str| {
        let of = text(file).lines().find(|line| line.starts_with(key)).map(str::to_owned).unwrap_or_default();
        of.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let mut iperf3 = Command::new("iperf3");
    iperf3.arg("--version");
    let iperf3 = process::run(iperf3, process::SOON).unwrap_or_default();
    let memory = value("/proc/meminfo", "MemTotal");
    Machine {
        cpu: value("/proc/cpuinfo", "model name"),
        cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        memory_mib: memory.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024,
        kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
        iperf3: iperf3.lines().next().unwrap_or_default().split(" (").next().unwrap_or_default().to_owned(),
        load: text("/proc/loadavg").split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
    }
}

fn measure_all(options: &Options) -> Result<Record, String> {
    let machine = machine();
    let tools = tools(options)?;
    let known: Vec<(&Candidate, Option<String>)> =
        CANDIDATES.iter().map(|candidate| (candidate, (candidate.version)(&tools))).collect();
    let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let record = Record {
        format: FORMAT,
        begun,
        seconds_in_all: 0.0,
        complete: false,
        machine,
        options: record::Options {
            pairs: options.rounds(),
            seconds: options.seconds(),
            quick: options.quick,
            only: options.only.clone(),
        },
        candidates: known
            .iter()
            .map(|(candidate, version)| record::Candidate {
                name: candidate.name.to_owned(),
                what: candidate.what.to_owned(),
                limit: candidate.limit.map(str::to_owned),
                version: version.clone(),
                remedy: candidate.remedy.to_owned(),
            })
            .collect(),
        commands: Default::default(),
        samples: Vec::new(),
        gaps: Vec::new(),
    };
    for (candidate, version) in &known {
        match version {
            Some(version) => eprintln!("network: {}: {version}", candidate.name),
            None => eprintln!("network: {}: missing ({})", candidate.name, candidate.remedy),
        }
    }
    let installed: Vec<&Candidate> =
        known.into_iter().filter(|(_, version)| version.is_some()).map(|(candidate, _)| candidate).collect();
    let mut run = Run { options, tools, record, begin: Instant::now(), done: 0, all: 0 };
    run.measure(&installed)?;
    println!("{}", report::markdown(&run.record, &[]));
    eprintln!("network: every figure: {}", options.out.display());
    Ok(run.record)
}

/// A run while it lasts.
struct Run<'a> {
    options: &'a Options,
    tools: Tools,
    record: Record,
    begin: Instant,
    /// Scenes that were built, and that there are to build.
    done: usize,
    all: usize,
}

impl Run<'_> {
    fn measure(&mut self, candidates: &[&Candidate]) -> Result<(), String> {
        let groups: Vec<(Group, Vec<&Candidate>)> = cases::groups(self.options.quick)
            .into_iter()
            .map(|group| {
                let own = candidates.iter().copied().filter(|candidate| self.takes_part(&group, candidate)).collect();
                (group, own)
            })
            .collect();
        let rounds = self.options.rounds();
        self.all = groups.iter().map(|(_, own)| own.len()).sum::<usize>() * rounds as usize;
        if self.all == 0 {
            return Err("nothing to do: no case and candidate fits --only (see --list)".to_owned());
        }
        for (group, own) in &groups {
            for round in 1..=rounds {
                for candidate in own {
                    self.turn(group, candidate, round);
                }
            }
            // What was measured is kept, whatever comes.
            self.save()?;
        }
        self.record.complete = true;
        self.save()
    }

    /// Notes what has no meaning for a candidate; whether anything is left.
    fn takes_part(&mut self, group: &Group, candidate: &Candidate) -> bool {
        let mut any = false;
        for case in group.cases.iter().filter(|case| self.options.wants(&case.name, candidate.name)) {
            match (candidate.refuses)(&group.wanted).or_else(|| cases::refuses(case, candidate.name)) {
                Some(reason) => self.gap(&case.name, candidate, 0, GapKind::NotApplicable, reason.to_owned()),
                None => any = true,
            }
        }
        any
    }

    fn gap(&mut self, case: &str, candidate: &Candidate, round: u32, kind: GapKind, reason: String) {
        let candidate = candidate.name.to_owned();
        self.record.gaps.push(Gap { case: case.to_owned(), candidate, round, kind, reason });
    }

    /// One scene of one candidate, and its cases there.
    fn turn(&mut self, group: &Group, candidate: &Candidate, round: u32) {
        self.done += 1;
        let failures = |case: &str| {
            let of = |gap: &&Gap| gap.case == case && gap.candidate == candidate.name && gap.kind == GapKind::Failed;
            self.record.gaps.iter().filter(of).count()
        };
        let cases: Vec<_> = group
            .cases
            .iter()
            .filter(|case| self.options.wants(&case.name, candidate.name))
            .filter(|case| cases::refuses(case, candidate.name).is_none() && failures(&case.name) < PATIENCE)
            .cloned()
            .collect();
        if cases.is_empty() {
            return;
        }
        let share = self.done as f64 / self.all as f64;
        let elapsed = self.begin.elapsed().as_secs_f64();
        let left = if self.done > 3 { format!(", {:.0} s left", elapsed / share - elapsed) } else { String::new() };
        let names: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
        eprintln!(
            "network: {} of {}{left}: round {round}, {}, {}",
            self.done,
            self.all,
            candidate.name,
            names.join(" ")
        );
        process::take_lines();
        let built = Scene::new(group.wanted.way).and_then(|scene| {
            if cases[0].what == What::Start {
                let measured =
                    cases::start(&self.tools, &scene, |scene| (candidate.build)(&self.tools, scene, &group.wanted));
                return Ok((scene, None, Some(measured)));
            }
            let path = (candidate.build)(&self.tools, &scene, &group.wanted)?;
            cases::reaches(&self.tools, &scene, &path)?;
            Ok((scene, Some(path), None))
        });
        let setup = process::take_lines();
        let (scene, path, started) = match built {
            Ok(built) => built,
            Err(reason) => {
                eprintln!("network: {}: {reason}", candidate.name);
                for case in &cases {
                    self.gap(&case.name, candidate, round, GapKind::Failed, reason.clone());
                }
                return;
            }
        };
        if let Some(measured) = started {
            self.keep(&cases[0].name, candidate, round, measured, setup);
            return;
        }
        let path = path.expect("built, if nothing else was measured");
        for case in &cases {
            let (seconds, quick) = (self.options.seconds(), self.options.quick);
            let bench = Bench { tools: &self.tools, scene: &scene, path: &path, seconds, quick };
            let measured = bench.measure(case.what);
            let mut lines = setup.clone();
            lines.extend(process::take_lines());
            self.keep(&case.name, candidate, round, measured, lines);
        }
    }

    fn keep(
        &mut self,
        case: &str,
        candidate: &Candidate,
        round: u32,
        measured: Result<Measured, String>,
        lines: Vec<String>,
    ) {
        self.record.commands.entry(format!("{case}//{}", candidate.name)).or_insert(lines);
        match measured {
            Ok(Measured { figures, quantiles }) => {
                debug_assert!(figures.keys().all(|name| record::metric(name).is_some()), "{figures:?}");
                let candidate = candidate.name.to_owned();
                self.record.samples.push(Sample { case: case.to_owned(), candidate, round, figures, quantiles });
            }
            Err(reason) => {
                eprintln!("network: {case}, {}: {reason}", candidate.name);
                self.gap(case, candidate, round, GapKind::Failed, reason);
            }
        }
    }

    /// Whole or not at all: an interrupted run leaves the record of what was done, or the one before.
    fn save(&mut self) -> Result<(), String> {
        self.record.seconds_in_all = self.begin.elapsed().as_secs_f64();
        let out = &self.options.out;
        let failed = |error: std::io::Error| format!("{}: {error}", out.display());
        if let Some(directory) = out.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let whole = out.with_extension("json.new");
        fs::write(&whole, self.record.to_json()).map_err(failed)?;
        fs::rename(&whole, out).map_err(failed)
    }
}
