//! A record as tables: Markdown, made anew from the record alone.

use std::fmt::Write as _;

use crate::record::{GapKind, METRICS, Metric, Record};
use crate::statistics::{Summary, ratios};

const BEGIN: &str = "<!-- generated: begin -->";
const END: &str = "<!-- generated: end -->";
/// Who stands for the kernel.
const KERNEL: &str = "kernel";

/// Titles by the first word of a case.
const SECTIONS: [(&str, &str); 10] = [
    ("bulk", "Bulk TCP"),
    ("udp", "UDP, sent flat out"),
    ("rr", "Request and response on one connection"),
    ("crr", "Connect, request, response, close"),
    ("ping", "Ping, idle and beside one bulk stream"),
    ("fair", "Eight bulk streams, and one request and response beside them"),
    ("slow", "A server that reads at half speed"),
    ("ports", "Ports: one pair works, the others are idle; ARP flooded to all"),
    ("size", "Memory"),
    ("start", "Start"),
];

/// Puts `generated` between the markers of a text.
pub fn splice(text: &str, generated: &str) -> Result<String, String> {
    let missing = || format!("the text has no {BEGIN} with a {END} after it");
    let (before, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{BEGIN}\n{}\n{END}{after}", generated.trim_end()))
}

/// Everything of a record, plots referred to by the names of files.
pub fn markdown(record: &Record, plots: &[(String, String)]) -> String {
    let mut text = String::new();
    let machine = &record.machine;
    let options = &record.options;
    let _ = writeln!(
        text,
        "{}, {} CPUs, {} MiB, Linux {}, {}; load before the run {:.2}. {} rounds, {} s each, {:.0} s in all{}{}.\n",
        machine.cpu,
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        machine.iperf3,
        machine.load,
        options.pairs,
        options.seconds,
        record.seconds_in_all,
        if options.quick { ", `--quick`: of what orders of magnitude are" } else { "" },
        if record.complete { "" } else { ", **interrupted**" },
    );
    text += "A cell is the median (least..greatest), and the median of the ratios to a limit program and to the kernel, each taken \
             within a round. Noisy: the earlier and the later half of the ratios, or of the figures where there is no limit, differ \
             by more than 15 %.\n\n";
    let _ = writeln!(text, "| candidate | is | version |\n|---|---|---|");
    for candidate in &record.candidates {
        let version = candidate.version.clone().unwrap_or_else(|| format!("**missing**: {}", candidate.remedy));
        let _ = writeln!(text, "| {} | {} | {version} |", candidate.name, candidate.what);
    }
    for (caption, file) in plots {
        let _ = write!(text, "\n![{caption}]({file})\n");
    }
    let cases = record.cases();
    for (word, title) in SECTIONS {
        let of: Vec<_> = cases.iter().copied().filter(|case| case.split('/').next() == Some(word)).collect();
        if !of.is_empty() {
            let _ = write!(text, "\n### {title}\n\n{}", section(record, &of));
        }
    }
    text
}

fn section(record: &Record, cases: &[&str]) -> String {
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
            let cells: Vec<_> = candidates.iter().map(|candidate| cell(record, case, metric, candidate)).collect();
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
fn cell(record: &Record, case: &str, metric: &Metric, candidate: &str) -> Option<String> {
    let own = record.figures(case, metric.name, candidate);
    let summary = Summary::of(&own.values().copied().collect::<Vec<_>>())?;
    let beside = |reference: &str| {
        let to = record.figures(case, metric.name, reference);
        Summary::of(&ratios(&own, &to)).filter(|_| reference != candidate)
    };
    let limit = record.limit(case, metric.name, candidate);
    let limit = limit.and_then(|name| Some((name, beside(name)?)));
    let mut text = told(summary.median);
    if summary.count > 1 {
        let _ = write!(text, " ({}..{})", told(summary.min), told(summary.max));
    }
    if let Some((name, ratio)) = limit {
        let _ = write!(text, "<br>{} of {name}", told(ratio.median));
    }
    if let Some(ratio) = beside(KERNEL) {
        let _ = write!(text, "<br>{} of kernel", told(ratio.median));
    }
    // Beside the limit what the machine did meanwhile cancels out.
    if limit.map_or(summary, |(_, ratio)| ratio).is_noisy() {
        text += "<br>**noisy**";
    }
    Some(text)
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
