//! The benchmark of the network that everyone can check: `cargo bench --bench network`.
//!
//! # Theory of operation
//! ```text
//! options ─► walls (PID 1 of namespaces of its own) ─► group ─► round ─► candidate ─► scene, cases ─► record (JSON)
//!                                                                                       record ─► tables, plots, comparison
//! ```
//!
//! Every candidate that is installed takes its turn in each round, case by case; what is missing is said. Scenes are built anew
//! in each round, and after a failure. A candidate that hangs is killed after seconds and reported. Whatever ends the run, the walls leave nothing behind.

mod candidates;
mod cases;
mod compare;
#[allow(dead_code, reason = "shared with the tests: they look at what is asked for")]
mod goals;
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
use cases::{Bench, Case, Group, Measured, What};
use options::Options;
use record::{FORMAT, Gap, GapKind, Machine, Record, Sample};
use walls::Side;

const PAGE: &str = "docs/benchmarks.md";
const PLOTS: &str = "docs/plots";
const README: &str = "README.md";
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
    let again = options.agree.as_deref().map(read).transpose()?;
    let record = match &options.report {
        Some(file) => {
            let record = read(file)?;
            write_report(&record, again.as_ref())?;
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
    if let Some(again) = &again {
        print!("{}", report::agreement(&record, again));
    }
    let Some(old) = old else { return Ok(ExitCode::SUCCESS) };
    let threshold = options.threshold / 100.0;
    let (text, lost) = compare::tell(&compare::changes(&old, &record, threshold), threshold);
    print!("{text}");
    Ok(if lost { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Why a case has no meaning for a candidate.
fn refuses(group: &Group, case: &Case, candidate: &Candidate) -> Option<&'static str> {
    (candidate.refuses)(&case.wanted(group)).or_else(|| cases::refuses(case, candidate.name))
}

fn list(options: &Options) {
    let (mut measurements, mut seconds) = (0, 0.0);
    for group in cases::groups(options.quick) {
        for candidate in &CANDIDATES {
            let own =
                |case: &&Case| options.wants(&case.name, candidate.name) && refuses(&group, case, candidate).is_none();
            let times: Vec<f64> =
                group.cases.iter().filter(own).map(|case| case.what.estimate(options.seconds())).collect();
            if !times.is_empty() {
                measurements += times.len();
                seconds += times.iter().sum::<f64>() + group.setup();
            }
        }
        for case in &group.cases {
            let of = CANDIDATES.iter().filter(|candidate| options.wants(&case.name, candidate.name));
            let names: Vec<_> = of.filter(|of| refuses(&group, case, of).is_none()).map(|of| of.name).collect();
            if !names.is_empty() {
                println!("{}: {}", case.name, names.join(", "));
            }
        }
    }
    let rounds = options.rounds();
    println!(
        "{measurements} measurements in each of {rounds} rounds: about {:.0} minutes, if everything is installed and nothing hangs",
        (seconds * f64::from(rounds) / 60.0).ceil()
    );
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

fn write_report(record: &Record, again: Option<&Record>) -> Result<(), String> {
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
    let text = report::splice(&text, &report::markdown(record, again, &links))?;
    fs::write(&page, text).map_err(|error| failed(&page, error))?;
    let readme = root().join(README);
    let text = fs::read_to_string(&readme).map_err(|error| failed(&readme, error))?;
    let text = report::splice(&text, &report::readme(record, again, &links))?;
    fs::write(&readme, text).map_err(|error| failed(&readme, error))?;
    eprintln!("network: {PAGE}, the figures of {README} and {} plots in {PLOTS} are made anew", links.len());
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

fn machine(congestion: String) -> Machine {
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
        congestion,
        load: text("/proc/loadavg").split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
    }
}

fn measure_all(options: &Options) -> Result<Record, String> {
    let machine = machine(candidates::congestion(options.congestion.as_deref())?);
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
    let mut run = Run { options, tools, record, begin: Instant::now(), done: (0, 0.0), all: (0, 0.0) };
    run.measure(&installed)?;
    println!("{}", report::markdown(&run.record, None, &[]));
    eprintln!("network: every figure: {}", options.out.display());
    Ok(run.record)
}

/// A run while it lasts.
struct Run<'a> {
    options: &'a Options,
    tools: Tools,
    record: Record,
    begin: Instant,
    /// Measurements that were made and their estimated seconds, and what there is to do in all.
    done: (usize, f64),
    all: (usize, f64),
}

/// A candidate's scene, in a round of a group.
enum Stage {
    Bare,
    Set(Box<Standing>),
    /// It was tried, and would not be better the next time.
    Broken(String),
}

/// The path is the first to go.
struct Standing {
    path: candidates::Path,
    scene: Scene,
    lines: Vec<String>,
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
        self.all.0 *= rounds as usize;
        self.all.1 *= f64::from(rounds);
        if self.all.0 == 0 {
            return Err("nothing to do: no case and candidate fits --only (see --list)".to_owned());
        }
        for (group, own) in &groups {
            for round in 1..=rounds {
                let together = if group.alone { 1 } else { own.len().max(1) };
                own.chunks(together).for_each(|candidates| self.turns(group, candidates, round));
                // What was measured is kept, whatever comes.
                self.save()?;
            }
        }
        self.record.complete = true;
        self.save()
    }

    /// Notes what has no meaning for a candidate, and counts what has; whether there is any.
    fn takes_part(&mut self, group: &Group, candidate: &Candidate) -> bool {
        let mut any = false;
        for case in group.cases.iter().filter(|case| self.options.wants(&case.name, candidate.name)) {
            match refuses(group, case, candidate) {
                Some(reason) => self.gap(&case.name, candidate, 0, GapKind::NotApplicable, reason.to_owned()),
                None => {
                    any = true;
                    self.all.0 += 1;
                    self.all.1 += case.what.estimate(self.options.seconds());
                }
            }
        }
        any
    }

    fn gap(&mut self, case: &str, candidate: &Candidate, round: u32, kind: GapKind, reason: String) {
        let candidate = candidate.name.to_owned();
        self.record.gaps.push(Gap { case: case.to_owned(), candidate, round, kind, reason });
    }

    /// A round of a group: case by case, each candidate in turn.
    fn turns(&mut self, group: &Group, candidates: &[&Candidate], round: u32) {
        let mut stages: Vec<Stage> = candidates.iter().map(|_| Stage::Bare).collect();
        for case in &group.cases {
            for (candidate, stage) in candidates.iter().zip(&mut stages) {
                if !self.options.wants(&case.name, candidate.name) || refuses(group, case, candidate).is_some() {
                    continue;
                }
                self.progress(case, candidate, round);
                let failures = |gap: &&Gap| {
                    gap.case == case.name && gap.candidate == candidate.name && gap.kind == GapKind::Failed
                };
                if self.record.gaps.iter().filter(failures).count() < PATIENCE {
                    self.turn(group, case, candidate, round, stage);
                }
                self.done.0 += 1;
                self.done.1 += case.what.estimate(self.options.seconds());
            }
        }
    }

    fn progress(&self, case: &Case, candidate: &Candidate, round: u32) {
        let elapsed = self.begin.elapsed().as_secs_f64();
        let left = self.all.1 - self.done.1;
        // Until it is known how far the estimates are off, they are right.
        let factor = if self.done.1 > 10.0 { elapsed / self.done.1 } else { 1.0 };
        eprintln!(
            "network: {} of {}, {:.0} s left: round {round}, {}, {}",
            self.done.0 + 1,
            self.all.0,
            left * factor,
            case.name,
            candidate.name
        );
    }

    /// One measurement of one candidate, on its scene, which is built if it does not stand.
    fn turn(&mut self, group: &Group, case: &Case, candidate: &Candidate, round: u32, stage: &mut Stage) {
        process::take_lines();
        if case.what == What::Start {
            let built = Scene::new(group.wanted.way, candidate.name, &self.record.machine.congestion);
            let measured = built.and_then(|scene| {
                cases::start(&self.tools, &scene, |scene| (candidate.build)(&self.tools, scene, &group.wanted))
            });
            return self.keep(&case.name, candidate, round, measured, process::take_lines());
        }
        if matches!(stage, Stage::Bare) {
            let built =
                Scene::new(group.wanted.way, candidate.name, &self.record.machine.congestion).and_then(|scene| {
                    let path = (candidate.build)(&self.tools, &scene, &group.wanted)?;
                    cases::reaches(&self.tools, &scene, &path)?;
                    Ok((scene, path))
                });
            *stage = match built {
                Ok((scene, path)) => Stage::Set(Box::new(Standing { path, scene, lines: process::take_lines() })),
                Err(reason) => Stage::Broken(reason),
            };
        }
        let (measured, lines) = match stage {
            Stage::Set(standing) => {
                let Standing { path, scene, lines } = &**standing;
                let bench = Bench { tools: &self.tools, scene, path, seconds: self.options.seconds() };
                let measured = bench.measure(case.what);
                (measured, lines.iter().cloned().chain(process::take_lines()).collect())
            }
            Stage::Broken(reason) => (Err(reason.clone()), process::take_lines()),
            Stage::Bare => unreachable!("it was set just now"),
        };
        if measured.is_err() && matches!(stage, Stage::Set(_)) {
            // Whatever it left behind shall not be in the next figure.
            *stage = Stage::Bare;
        }
        self.keep(&case.name, candidate, round, measured, lines);
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
