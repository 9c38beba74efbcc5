//! A record as tables: Markdown, made anew from the record alone.

use std::fmt::Write as _;

use crate::compare::LIMITS;
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
    let mut text = String::from("| case | figure | candidate | median | min..max | of the limit | of the kernel | |\n");
    text += "|---|---|---|---:|---:|---:|---:|---|\n";
    let mut notes: Vec<(String, Vec<String>)> = Vec::new();
    for case in cases {
        for metric in &METRICS {
            for candidate in &record.candidates {
                text += &row(record, case, metric, &candidate.name).unwrap_or_default();
            }
        }
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

fn row(record: &Record, case: &str, metric: &Metric, candidate: &str) -> Option<String> {
    let own = record.figures(case, metric.name, candidate);
    let summary = Summary::of(&own.values().copied().collect::<Vec<_>>())?;
    let beside = |reference: &str| {
        let to = record.figures(case, metric.name, reference);
        Summary::of(&ratios(&own, &to)).filter(|_| reference != candidate)
    };
    let limit = LIMITS.iter().filter(|limit| **limit != candidate).find_map(|name| Some((*name, beside(name)?)));
    let limit = limit.filter(|_| !LIMITS.contains(&candidate));
    let of_limit = limit.map_or(String::new(), |(name, ratio)| format!("{} ({name})", told(ratio.median)));
    let of_kernel = beside(KERNEL).map_or(String::new(), |ratio| told(ratio.median));
    // Beside the limit what the machine did meanwhile cancels out.
    let judged = limit.map_or(summary, |(_, ratio)| ratio);
    let noisy = if judged.is_noisy() { "noisy" } else { "" };
    let spread = if summary.count > 1 {
        format!("{}..{}", told(summary.min), told(summary.max))
    } else {
        "one sample".to_owned()
    };
    let Metric { name, unit, .. } = metric;
    Some(format!(
        "| `{case}` | `{name}`, {unit} | {candidate} | {} | {spread} | {of_limit} | {of_kernel} | {noisy} |\n",
        told(summary.median)
    ))
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
