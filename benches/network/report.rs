//! A record as tables: Markdown, made anew from the record alone.

use std::fmt::Write as _;

use crate::goals;
use crate::record::{GapKind, METRICS, Metric, Record, counterpart};
use crate::statistics::{NOISY, Summary, apart, ratios};

const BEGIN: &str = "<!-- generated: begin -->";
const END: &str = "<!-- generated: end -->";
/// Who stands for the kernel.
const KERNEL: &str = "kernel";

/// Titles by the first words of cases.
const SECTIONS: [(&str, &[&str]); 12] = [
    ("Bulk TCP", &["bulk"]),
    ("Small writes, and the published port from the host itself", &["writes", "local"]),
    ("UDP, sent flat out", &["udp"]),
    ("UDP, the highest rate with less than 1 % lost", &["rate"]),
    ("Request and response on one connection", &["rr", "rr-one", "rr-apart", "rr-free"]),
    ("Connect, request, response, close", &["crr", "crr-free"]),
    ("Ping, idle and beside one bulk stream", &["ping"]),
    ("Eight bulk streams, and one request and response beside them", &["fair"]),
    ("A server that reads at half speed", &["slow"]),
    ("Ports: one pair works, the others are idle; ARP flooded to all", &["ports"]),
    ("Memory, by ports and flows; a bulk stream beside the flows", &["size", "publish"]),
    ("Start", &["start"]),
];

/// The figures of the README: what it is, case and kind of figure.
const README: [(&str, &str, &str); 10] = [
    ("container to container, Gbit/s", "bulk/direct/1500/1/forth", "tcp_gbit_s"),
    ("container to the world, Gbit/s", "bulk/out/1500/1/forth", "tcp_gbit_s"),
    ("and back", "bulk/out/1500/1/back", "tcp_gbit_s"),
    ("the world to a published port, Gbit/s", "bulk/in/1500/1/forth", "tcp_gbit_s"),
    ("the same out with writes of 1 KiB", "writes/out", "tcp_gbit_s"),
    ("UDP of 64 bytes, delivered a second", "udp/direct/64", "udp_per_s"),
    ("UDP of 1,400 bytes out, a second, under 1 % lost", "rate/out/1400", "udp_per_s"),
    ("request and response out, p50, us", "rr/out", "p50_us"),
    ("the same, all on one CPU", "rr-one/out", "p50_us"),
    ("connect, request, response out, p50, us", "crr/out", "p50_us"),
];

/// Puts `generated` between the markers of a text.
pub fn splice(text: &str, generated: &str) -> Result<String, String> {
    let missing = || format!("the text has no {BEGIN} with a {END} after it");
    let (before, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{BEGIN}\n{}\n{END}{after}", generated.trim_end()))
}

/// Everything of a record, plots referred to by the names of files. With another run of the same what differs is noisy.
pub fn markdown(record: &Record, again: Option<&Record>, plots: &[(String, String)]) -> String {
    let mut text = String::new();
    let machine = &record.machine;
    let options = &record.options;
    let _ = writeln!(
        text,
        "{}, {} CPUs, {} MiB, Linux {}{}, {}; load before the run {:.2}. {} rounds, {} s each, {:.0} s in all{}{}.\n",
        machine.cpu,
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        if machine.congestion.is_empty() { String::new() } else { format!(" with TCP {}", machine.congestion) },
        machine.iperf3,
        machine.load,
        options.pairs,
        options.seconds,
        record.seconds_in_all,
        if options.quick { ", `--quick`: of what orders of magnitude are" } else { "" },
        if record.complete { "" } else { ", **interrupted**" },
    );
    text += "A cell is the median (least..greatest), and the median of the ratios to a limit program and to the kernel, each taken \
             within a round. ";
    text += match again {
        Some(_) => {
            "Noisy: in another run of the same, on the same machine, the ratio (the figure itself, where there is no limit) differs by \
             more than 15 %.\n\n"
        }
        None => {
            "Noisy: the earlier and the later half of the ratios, or of the figures where there is no limit, differ by more than 15 \
             %.\n\n"
        }
    };
    if let Some(again) = again {
        let _ = writeln!(text, "{}\n", agreement(record, again).lines().next().unwrap_or_default());
    }
    let _ = writeln!(text, "| candidate | is | version |\n|---|---|---|");
    for candidate in &record.candidates {
        let version = candidate.version.clone().unwrap_or_else(|| format!("**missing**: {}", candidate.remedy));
        let _ = writeln!(text, "| {} | {} | {version} |", candidate.name, candidate.what);
    }
    for (caption, file) in plots {
        let _ = write!(text, "\n![{caption}]({file})\n");
    }
    let goals = goals::table(record, again);
    if !goals.is_empty() {
        let _ = write!(text, "\n### What is asked of pontoon\n\n{goals}");
    }
    let cases = record.cases();
    for (title, words) in SECTIONS {
        let first = |case: &str| case.split('/').next().unwrap_or_default().to_owned();
        let of: Vec<_> = cases.iter().copied().filter(|case| words.contains(&first(case).as_str())).collect();
        if !of.is_empty() {
            let _ = write!(text, "\n### {title}\n\n{}", section(record, again, &of));
        }
    }
    text
}

/// The few figures that a first look is worth, each with what makes it.
pub fn readme(record: &Record, again: Option<&Record>, plots: &[(String, String)]) -> String {
    let candidates: Vec<_> =
        record.candidates.iter().filter(|one| one.version.is_some()).map(|one| one.name.as_str()).collect();
    let mut text =
        format!("| | `--only` | {} |\n|---|---|{}\n", candidates.join(" | "), "---|".repeat(candidates.len()));
    for (title, case, name) in README {
        let metric = crate::record::metric(name).expect("one of them");
        let short = |candidate: &&str| {
            let own = record.figures(case, name, candidate).into_values().collect::<Vec<_>>();
            let Some(summary) = Summary::of(&own) else { return String::new() };
            let mut cell = told(summary.median);
            if let (true, Some((limit, ratio))) =
                (candidate.starts_with("pontoon"), beside_limit(record, case, metric, candidate))
            {
                let _ = write!(cell, " ({} of {limit})", told(ratio.median));
            }
            if again.is_some_and(|again| noise(record, Some(again), case, metric, candidate).is_some()) {
                cell += ", noisy";
            }
            cell
        };
        let cells: Vec<_> = candidates.iter().map(short).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let _ = writeln!(text, "| {title} | `{case}` | {} |", cells.join(" | "));
        }
    }
    for (caption, file) in plots {
        let _ = write!(text, "\n![{caption}](docs/{file})\n");
    }
    text
}

/// How many ratios of two runs agree, and those that do not.
pub fn agreement(record: &Record, again: &Record) -> String {
    let (mut all, mut apart) = (0, Vec::new());
    for case in record.cases() {
        for metric in &METRICS {
            for candidate in &record.candidates {
                let Some((limit, ratio)) = beside_any(record, case, metric, &candidate.name) else { continue };
                let Some(other) = beside(again, case, metric, &candidate.name, limit) else { continue };
                all += 1;
                if self::apart(ratio.median, other.median) > NOISY {
                    let (one, two) = (told(ratio.median), told(other.median));
                    apart.push(format!(
                        "  {case}  {}  {}: {one} of {limit}, {two} in the other",
                        metric.name, candidate.name
                    ));
                }
            }
        }
    }
    let share = 100.0 * (all - apart.len()) as f64 / all.max(1) as f64;
    let mut text = format!("{} of {all} ratios ({share:.0} %) agree within 15 % in two runs.\n", all - apart.len());
    for line in apart {
        text += &line;
        text.push('\n');
    }
    text
}

fn section(record: &Record, again: Option<&Record>, cases: &[&str]) -> String {
    let has = |case: &str, candidate: &str| record.has(case, candidate);
    let candidates: Vec<_> = record
        .candidates
        .iter()
        .map(|candidate| candidate.name.as_str())
        .filter(|candidate| cases.iter().any(|case| has(case, candidate)))
        .collect();
    let mut text = format!("| case | figure | {} |\n", candidates.join(" | "));
    let _ = writeln!(text, "|---|---|{}", "---|".repeat(candidates.len()));
    for case in cases {
        for metric in &METRICS {
            let cells: Vec<_> =
                candidates.iter().map(|candidate| cell(record, again, case, metric, candidate)).collect();
            if cells.iter().any(Option::is_some) {
                let cells: Vec<_> = cells.into_iter().map(Option::unwrap_or_default).collect();
                let _ = writeln!(text, "| `{case}` | {}: {} | {} |", metric.name, metric.unit, cells.join(" | "));
            }
        }
    }
    let mut notes: Vec<(String, Vec<String>)> = Vec::new();
    for case in cases {
        for candidate in record.candidates.iter().filter(|candidate| candidate.version.is_some()) {
            let Some(gap) = record.gap(case, &candidate.name) else { continue };
            let note = match gap.kind {
                GapKind::NotApplicable => format!("{}, not applicable: {}", gap.candidate, gap.reason),
                GapKind::Failed if record.has(case, &gap.candidate) => {
                    format!("**{} failed in a round**: {}", gap.candidate, gap.reason)
                }
                GapKind::Failed => format!("**{} failed**: {}", gap.candidate, gap.reason),
            };
            match notes.iter_mut().find(|(of, _)| *of == note) {
                Some((_, cases)) => cases.push(format!("`{case}`")),
                None => notes.push((note, vec![format!("`{case}`")])),
            }
        }
    }
    if !notes.is_empty() {
        text.push('\n');
    }
    for (note, cases) in notes {
        let _ = writeln!(text, "- {note} ({})", cases.join(", "));
    }
    text
}

/// Median, spread, and the ratios to the limit and to the kernel.
fn cell(record: &Record, again: Option<&Record>, case: &str, metric: &Metric, candidate: &str) -> Option<String> {
    let own = record.figures(case, metric.name, candidate);
    let summary = Summary::of(&own.values().copied().collect::<Vec<_>>())?;
    let mut text = told(summary.median);
    if summary.count > 1 {
        let _ = write!(text, " ({}..{})", told(summary.min), told(summary.max));
    }
    if let Some((name, ratio)) = beside_limit(record, case, metric, candidate) {
        let of = counterpart(case, name);
        let at = if of == case { String::new() } else { format!(" in `{of}`") };
        let _ = write!(text, "<br>{} of {name}{at}", told(ratio.median));
    }
    if let Some(ratio) = beside(record, case, metric, candidate, KERNEL) {
        let _ = write!(text, "<br>{} of kernel", told(ratio.median));
    }
    if let Some(noise) = noise(record, again, case, metric, candidate) {
        let _ = write!(text, "<br>{noise}");
    }
    Some(text)
}

fn beside(record: &Record, case: &str, metric: &Metric, candidate: &str, other: &str) -> Option<Summary> {
    let (own, to) = (record.figures(case, metric.name, candidate), record.reference(case, metric.name, other));
    Summary::of(&ratios(&own, &to)).filter(|_| other != candidate)
}

fn beside_limit<'a>(record: &'a Record, case: &str, metric: &Metric, candidate: &str) -> Option<(&'a str, Summary)> {
    let limit = record.limit(case, metric.name, candidate)?;
    Some((limit, beside(record, case, metric, candidate, limit)?))
}

/// Beside the limit what the machine did meanwhile cancels out; else beside the kernel.
fn beside_any<'a>(record: &'a Record, case: &str, metric: &Metric, candidate: &str) -> Option<(&'a str, Summary)> {
    beside_limit(record, case, metric, candidate)
        .or_else(|| Some((KERNEL, beside(record, case, metric, candidate, KERNEL)?)))
}

/// What to say of a figure that is not to be relied on: within the run, or beside another.
fn noise(record: &Record, again: Option<&Record>, case: &str, metric: &Metric, candidate: &str) -> Option<String> {
    let summary = |record: &Record| {
        let own = record.figures(case, metric.name, candidate).into_values().collect::<Vec<_>>();
        Summary::of(&own)
    };
    let limit = beside_any(record, case, metric, candidate);
    let own = limit.map_or_else(|| summary(record), |(_, ratio)| Some(ratio))?;
    let Some(again) = again else { return own.is_noisy().then(|| "**noisy**".to_owned()) };
    let other = match limit {
        Some((limit, _)) => beside(again, case, metric, candidate, limit),
        None => summary(again),
    };
    let other = other?.median;
    (apart(own.median, other) > NOISY).then(|| format!("**noisy**: {} in the other run", told(other)))
}

/// Three digits that count, without an exponent.
pub fn told(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        size if size >= 0.001 => format!("{value:.3}"),
        _ => format!("{value:.6}"),
    }
}
