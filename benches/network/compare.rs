//! Two runs beside each other: what got faster or slower, beyond noise.
//!
//! # Theory of operation
//! Runs of different days differ by what the machine was doing. So a figure is compared as its ratio to the limit program of the
//! same run, where both runs have one, and as it is where they have not. A change counts when it is more than the threshold *and*
//! the ranges of the two runs have no value in common; of a single sample each, the threshold alone decides, which is said.

use std::fmt::Write as _;

use crate::record::{Better, METRICS, Metric, Record, distinct};
use crate::statistics::{Summary, ratios};

#[derive(Debug, PartialEq)]
pub struct Change {
    pub case: String,
    pub metric: &'static str,
    pub candidate: String,
    /// How much better the new one is: 0.1 is 10 % better, -0.1 is 10 % worse, whichever way is better.
    pub gain: f64,
    /// Beside which limit, or None: the figures themselves.
    pub limit: Option<String>,
    /// Beyond the threshold, and beyond the spread of both.
    pub counts: bool,
    pub single: bool,
}

/// Everything that pontoon has in both.
pub fn changes(old: &Record, new: &Record, threshold: f64) -> Vec<Change> {
    let mut all = Vec::new();
    let candidates = distinct(new.samples.iter().map(|sample| sample.candidate.as_str()));
    for case in new.cases() {
        for metric in &METRICS {
            for candidate in candidates.iter().filter(|name| name.starts_with("pontoon")) {
                all.extend(change(old, new, case, metric, candidate, threshold));
            }
        }
    }
    all
}

fn change(old: &Record, new: &Record, case: &str, metric: &Metric, candidate: &str, threshold: f64) -> Option<Change> {
    let beside = |record: &Record, limit: &str| {
        let own = record.figures(case, metric.name, candidate);
        Summary::of(&ratios(&own, &record.reference(case, metric.name, limit)))
    };
    let alone =
        |record: &Record| Summary::of(&record.figures(case, metric.name, candidate).into_values().collect::<Vec<_>>());
    let name = new.limit(case, metric.name, candidate);
    let both = name.and_then(|limit| Some((Some(limit.to_owned()), beside(old, limit)?, beside(new, limit)?)));
    let (limit, before, after) = both.or_else(|| Some((None, alone(old)?, alone(new)?)))?;
    if before.median <= 0.0 || after.median <= 0.0 {
        return None;
    }
    let gain = match metric.better {
        Better::More => after.median / before.median - 1.0,
        Better::Less => before.median / after.median - 1.0,
    };
    let single = before.count == 1 || after.count == 1;
    // A loss of a third is the inverse of a gain of a half: the threshold is a share of what was.
    let beyond = gain > threshold || gain < -threshold;
    let counts = beyond && (single || !before.overlaps(&after));
    Some(Change {
        case: case.to_owned(),
        metric: metric.name,
        candidate: candidate.to_owned(),
        gain,
        limit,
        counts,
        single,
    })
}

/// What is printed, and whether something was lost.
pub fn tell(changes: &[Change], threshold: f64) -> (String, bool) {
    let mut text = String::new();
    for (title, sign) in [("slower", -1.0), ("faster", 1.0)] {
        let mut of: Vec<_> = changes.iter().filter(|change| change.counts && change.gain * sign > 0.0).collect();
        of.sort_by(|a, b| b.gain.abs().total_cmp(&a.gain.abs()));
        let _ = writeln!(text, "{title} by more than {:.0} %, beyond noise: {}", threshold * 100.0, of.len());
        for Change { case, metric, candidate, gain, limit, single, .. } in of {
            let beside = limit.as_ref().map_or("as it is".to_owned(), |limit| format!("beside {limit}"));
            let once = if *single { ", one sample only" } else { "" };
            let _ = writeln!(text, "  {:+7.1} %  {case}  {metric}  {candidate} ({beside}{once})", gain * 100.0);
        }
    }
    let _ = writeln!(text, "compared: {} figures", changes.len());
    (text, changes.iter().any(|change| change.counts && change.gain < 0.0))
}
