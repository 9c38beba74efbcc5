//! What `benches/network` makes of its samples: statistics, comparison, tables, plots. Of a record made up here.

#[path = "../benches/network/compare.rs"]
mod compare;
#[path = "../benches/network/goals.rs"]
mod goals;
#[path = "../benches/network/options.rs"]
#[allow(dead_code, reason = "the benchmark's own: here its filters are tried")]
mod options;
#[path = "../benches/network/plots.rs"]
mod plots;
#[path = "../benches/network/record.rs"]
mod record;
#[path = "../benches/network/report.rs"]
mod report;
#[path = "../benches/network/statistics.rs"]
mod statistics;

use std::collections::BTreeMap;

use clap::Parser;

use compare::{changes, tell};
use options::Options;
use record::{Candidate, FORMAT, Gap, GapKind, Machine, Record, Sample, metric};
use statistics::{Summary, jain, median, quantile, ratios};

const CASE: &str = "bulk/out/1500/1/forth";

#[test]
fn median_of_an_even_number_is_between_the_two_in_the_middle() {
    assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[]), None);
}

#[test]
fn quantile_is_the_nearest_rank() {
    let values: Vec<f64> = (0..=100).rev().map(f64::from).collect();
    assert_eq!(quantile(&values, 99.0), Some(99.0));
    assert_eq!(quantile(&values, 0.0), Some(0.0));
    assert_eq!(quantile(&[], 50.0), None);
}

#[test]
fn halves_that_differ_by_more_than_15_per_cent_are_noise() {
    let summary = |values: &[f64]| Summary::of(values).expect("there are some");
    assert!(summary(&[10.0, 10.0, 50.0, 11.6, 11.6]).is_noisy());
    assert!(!summary(&[10.0, 10.0, 50.0, 11.4, 11.4]).is_noisy());
    assert!(!summary(&[10.0]).is_noisy(), "one sample has no halves");
    assert!(summary(&[0.0, 1.0]).is_noisy());
}

#[test]
fn jain_is_one_when_all_have_the_same_and_a_share_when_one_has_all() {
    assert_eq!(jain(&[2.0, 2.0, 2.0]), Some(1.0));
    assert_eq!(jain(&[5.0, 0.0, 0.0, 0.0]), Some(0.25));
    assert_eq!(jain(&[]), None);
    assert_eq!(jain(&[0.0]), None, "nothing is not fair");
}

#[test]
fn ratios_are_taken_within_a_round() {
    let of = BTreeMap::from([(1, 5.0), (2, 40.0), (4, 1.0)]);
    let to = BTreeMap::from([(1, 10.0), (2, 80.0), (3, 1.0), (4, 0.0)]);
    // The fourth round has nothing to divide by, the third has no figure.
    assert_eq!(ratios(&of, &to), [0.5, 0.5]);
}

#[test]
fn what_the_whole_machine_lost_is_no_loss() {
    let old = bulk(&[10.0, 11.0, 10.0], &[9.0, 9.9, 9.0]);
    let new = bulk(&[5.0, 5.5, 5.0], &[4.5, 4.95, 4.5]);
    let changes = changes(&old, &new, 0.05);
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].limit.as_deref(), Some("forward"));
    assert!(changes[0].gain.abs() < 1e-9 && !changes[0].counts);
}

#[test]
fn a_loss_beyond_threshold_and_spread_is_told() {
    let old = bulk(&[10.0, 10.0, 10.0], &[9.0, 9.2, 9.1]);
    let new = bulk(&[10.0, 10.0, 10.0], &[8.0, 8.1, 8.2]);
    let (text, lost) = tell(&changes(&old, &new, 0.05), 0.05);
    assert!(lost && text.contains("-11.0 %") && text.contains(CASE) && text.contains("beside forward"), "{text}");
    let (text, lost) = tell(&changes(&new, &old, 0.05), 0.05);
    assert!(!lost && text.contains("+12.3 %"), "{text}");
    assert!(!tell(&changes(&old, &new, 0.2), 0.2).1, "within a threshold of 20 %");
}

#[test]
fn a_loss_within_the_spread_of_either_run_is_noise() {
    let old = bulk(&[10.0, 10.0, 10.0], &[9.0, 7.0, 9.1]);
    let new = bulk(&[10.0, 10.0, 10.0], &[8.0, 8.1, 8.2]);
    assert!(!tell(&changes(&old, &new, 0.05), 0.05).1);
}

#[test]
fn less_is_better_of_a_latency() {
    let latency = |us: f64| {
        let mut record = bulk(&[], &[]);
        record.samples.push(sample("rr/out", "pontoon", 1, "p50_us", us));
        record
    };
    let changes = changes(&latency(50.0), &latency(100.0), 0.05);
    assert!(changes[0].counts && changes[0].single && changes[0].gain == -0.5 && changes[0].limit.is_none());
}

#[test]
fn a_record_survives_its_file() {
    let record = bulk(&[10.0], &[9.0]);
    assert_eq!(Record::from_json(&record.to_json()).as_ref(), Ok(&record));
    let other = record.to_json().replacen(&format!("\"format\": {FORMAT}"), "\"format\": 99", 1);
    assert!(Record::from_json(&other).is_err_and(|error| error.contains("format 99")));
    assert!(Record::from_json("{}").is_err());
}

#[test]
fn tables_tell_ratios_gaps_and_what_is_missing() {
    let mut record = bulk(&[10.0, 20.0, 10.0], &[5.0, 10.0, 5.0]);
    record.samples.extend([1, 2, 3].map(|round| sample(CASE, "kernel", round, "tcp_gbit_s", 20.0)));
    let gap = |candidate: &str, kind, reason: &str| Gap {
        case: CASE.into(),
        candidate: candidate.into(),
        round: 1,
        kind,
        reason: reason.into(),
    };
    record.gaps.push(gap("vde", GapKind::NotApplicable, "a switch"));
    record.gaps.push(gap("kernel", GapKind::Failed, "hung"));
    let text = report::markdown(&record, None, &[("A plot".into(), "plots/a.svg".into())]);
    for part in [
        "5.00 (5.00..10.0)<br>0.500 of forward<br>0.250 of kernel",
        "vde, not applicable: a switch",
        "**kernel failed in a round**: hung",
        "**missing**: Debian: slirp4netns",
        "![A plot](plots/a.svg)",
        "### Bulk TCP",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    assert!(!text.contains("### Memory"), "a section without figures");
}

#[test]
fn a_noisy_case_is_marked_by_its_ratio_not_by_the_machine() {
    let steady = bulk(&[10.0, 10.0, 20.0, 20.0], &[5.0, 5.0, 10.0, 10.0]);
    let text = report::markdown(&steady, None, &[]);
    let cells = text.lines().find(|line| line.starts_with(&format!("| `{CASE}`"))).expect("a row");
    assert_eq!(cells.matches("**noisy**").count(), 1, "the limit alone, whose own figures doubled: {cells}");
    let noisy = bulk(&[10.0; 4], &[5.0, 5.0, 6.0, 6.0]);
    let text = report::markdown(&noisy, None, &[]);
    assert!(text.contains("6.00)<br>0.550 of forward<br>**noisy**"), "{text}");
}

#[test]
fn what_differs_between_two_runs_is_noisy_and_what_agrees_is_not() {
    let one = bulk(&[10.0, 10.0, 20.0, 20.0], &[5.0, 5.0, 20.0, 20.0]);
    let same = bulk(&[20.0; 4], &[14.0; 4]);
    let other = bulk(&[10.0; 4], &[5.0; 4]);
    let row = |text: &str| text.lines().find(|line| line.starts_with(&format!("| `{CASE}`"))).map(str::to_owned);
    let text = row(&report::markdown(&one, Some(&same), &[])).expect("a row");
    assert!(text.contains("0.750 of forward |"), "0.75 and 0.70 agree, whatever the halves do: {text}");
    let text = report::markdown(&one, Some(&other), &[]);
    assert!(
        row(&text).is_some_and(|row| row.contains("0.750 of forward<br>**noisy**: 0.500 in the other run")),
        "{text}"
    );
    assert!(text.contains("0 of 1 ratios (0 %) agree within 15 % in two runs."), "{text}");
    assert!(report::agreement(&one, &same).starts_with("1 of 1 ratios (100 %) agree"));
    assert!(report::agreement(&one, &other).contains(&format!("{CASE}  tcp_gbit_s  pontoon: 0.750 of forward, 0.500")));
}

#[test]
fn what_goes_in_by_sockets_stands_beside_what_comes_back_of_the_limit() {
    let mut record = bulk(&[], &[]);
    record.candidates.push(Candidate {
        name: "pontoon-sockets".into(),
        limit: Some("split".into()),
        ..record.candidates[0].clone()
    });
    let forth = "bulk/in/1500/1/forth";
    record.samples.push(sample(forth, "pontoon-sockets", 1, "tcp_gbit_s", 9.0));
    record.samples.push(sample("bulk/out/1500/1/back", "split", 1, "tcp_gbit_s", 10.0));
    assert_eq!(record.limit(forth, "tcp_gbit_s", "pontoon-sockets"), Some("split"));
    let text = report::markdown(&record, None, &[]);
    assert!(text.contains("9.00<br>0.900 of split in `bulk/out/1500/1/back`"), "{text}");
    assert_eq!(record::counterpart("local/back", "split"), "bulk/out/1500/1/forth");
    assert_eq!(record::counterpart(forth, "forward"), forth);
}

#[test]
fn goals_tell_what_is_met_in_both_runs() {
    let one = bulk(&[10.0; 3], &[9.6; 3]);
    let text = report::markdown(&one, None, &[]);
    assert!(text.contains("### What is asked of pontoon"), "{text}");
    let mut direct = one.clone();
    direct.samples.iter_mut().for_each(|sample| sample.case = "bulk/direct/1500/1/forth".into());
    let mut less = direct.clone();
    less.samples.iter_mut().filter(|sample| sample.candidate == "pontoon").for_each(|sample| {
        sample.figures.insert("tcp_gbit_s".into(), 9.0);
    });
    let text = goals::table(&direct, Some(&less));
    assert!(text.contains("`bulk/direct/1500/1/forth` | >= 0.95 | 0.960 | yes (0.900: **no**) |"), "{text}");
}

#[test]
fn every_figure_that_is_asked_for_is_of_a_kind_that_is_measured() {
    for (case, name, candidate) in goals::figures() {
        assert!(metric(name).is_some(), "{case}: {name}");
        assert!(
            candidate.starts_with("pontoon")
                || ["forward", "split", "kernel", "slirp4netns", "pasta"].contains(&candidate)
        );
    }
}

#[test]
fn first_figures_carry_what_makes_them() {
    let mut record = bulk(&[10.0; 3], &[9.0; 3]);
    record.samples.push(sample("rr/out", "pontoon", 1, "p50_us", 50.0));
    let text = report::readme(&record, None, &[("A plot".into(), "plots/a.svg".into())]);
    assert!(
        text.contains(&format!("| container to the world, Gbit/s | `{CASE}` | 10.0 | 9.00 (0.900 of forward) |")),
        "{text}"
    );
    assert!(text.contains("| `rr/out` |  | 50.0 |"), "{text}");
    assert!(!text.contains("slirp4netns"), "it is missing: {text}");
    assert!(text.contains("![A plot](docs/plots/a.svg)"), "{text}");
}

#[test]
fn a_report_replaces_what_is_between_its_marks_alone() {
    let page = "before\n<!-- generated: begin -->\nold\n<!-- generated: end -->\nafter\n";
    let once = report::splice(page, "new\n").expect("marked");
    assert_eq!(once, "before\n<!-- generated: begin -->\nnew\n<!-- generated: end -->\nafter\n");
    assert_eq!(report::splice(&once, "new").as_ref(), Ok(&once), "twice is as once");
    assert!(report::splice("<!-- generated: end --> <!-- generated: begin -->", "new").is_err());
}

#[test]
fn the_pages_have_the_marks() {
    for page in [include_str!("../docs/benchmarks.md"), include_str!("../README.md")] {
        assert!(report::splice(page, "").is_ok());
    }
}

#[test]
fn numbers_have_three_digits_that_count() {
    let told = [0.0, 0.000_12, 0.0456, 1.234, 45.67, 678.9, 1_234_567.0].map(report::told);
    assert_eq!(told, ["0", "0.000120", "0.046", "1.23", "45.7", "679", "1234567"]);
}

#[test]
fn plots_are_drawn_of_what_there_is() {
    let mut record = bulk(&[10.0], &[9.0]);
    assert_eq!(plots::draw(&record).expect("drawn").len(), 1, "throughput alone");
    let mut rr = sample("rr/out", "pontoon", 1, "p50_us", 50.0);
    rr.quantiles = vec![(0.0, 20.0), (50.0, 50.0), (100.0, 900.0)];
    record.samples.push(rr);
    for ports in [2, 1000] {
        record.samples.push(sample(&format!("ports/{ports}/arp"), "pontoon", 1, "arp_us", f64::from(ports)));
    }
    record.samples.push(sample("size/flows/1000", "pontoon", 1, "rss_mib", 12.0));
    let plots = plots::draw(&record).expect("drawn");
    let files: Vec<_> = plots.iter().map(|plot| plot.file).collect();
    assert_eq!(files, ["throughput.svg", "latency.svg", "arp.svg", "flows.svg"]);
    for plot in plots {
        assert!(plot.svg.starts_with("<svg") && plot.svg.contains("pontoon"), "{}", plot.file);
        assert!(plot.svg.contains(plot.caption), "{}", plot.file);
    }
}

#[test]
fn filters_take_part_of_a_case_and_the_whole_of_a_candidate() {
    let wants = |only: &[&str], case, candidate| {
        let words = ["network", "--bench"].into_iter().chain(only.iter().flat_map(|filter| ["--only", *filter]));
        Options::parse_from(words).wants(case, candidate)
    };
    assert!(wants(&[], CASE, "pontoon"));
    assert!(wants(&["bulk/out"], CASE, "pontoon") && !wants(&["bulk/in"], CASE, "pontoon"));
    assert!(wants(&["//pontoon"], CASE, "pontoon") && !wants(&["//pontoon"], CASE, "pontoon-sockets"));
    assert!(wants(&["rr", "out//kernel"], CASE, "kernel") && !wants(&["rr", "out//kernel"], CASE, "vde"));
}

fn sample(case: &str, candidate: &str, round: u32, name: &str, value: f64) -> Sample {
    assert!(metric(name).is_some());
    let figures = BTreeMap::from([(name.to_owned(), value)]);
    Sample { case: case.into(), candidate: candidate.into(), round, figures, quantiles: Vec::new() }
}

/// A run with these rates of the limit and of pontoon, round by round.
fn bulk(limit: &[f64], pontoon: &[f64]) -> Record {
    let candidate = |name: &str, limit: Option<&str>, version: Option<&str>| Candidate {
        name: name.into(),
        what: format!("{name} itself"),
        limit: limit.map(str::to_owned),
        version: version.map(str::to_owned),
        remedy: format!("Debian: {name}"),
    };
    let forward = Some("forward");
    let rows = [("forward", limit), ("pontoon", pontoon)];
    let samples = rows.into_iter().flat_map(|(name, values)| {
        (1..).zip(values).map(move |(round, value)| sample(CASE, name, round, "tcp_gbit_s", *value))
    });
    Record {
        format: FORMAT,
        begun: 0,
        seconds_in_all: 1.0,
        complete: true,
        machine: Machine {
            cpu: "a CPU".into(),
            cores: 2,
            memory_mib: 1024,
            kernel: "6.18".into(),
            iperf3: "iperf 3.12".into(),
            congestion: "cubic".to_owned(),
            load: 0.0,
        },
        options: record::Options { pairs: 3, seconds: 3, quick: false, only: Vec::new() },
        candidates: vec![
            candidate("forward", None, Some("1")),
            candidate("pontoon", forward, Some("1")),
            candidate("kernel", forward, Some("1")),
            candidate("vde", forward, Some("1")),
            candidate("slirp4netns", Some("split"), None),
        ],
        commands: BTreeMap::new(),
        samples: samples.collect(),
        gaps: Vec::new(),
    }
}
