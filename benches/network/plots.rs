//! Pictures of a record, as SVG: nothing but text and shapes, so any browser shows them and a diff is readable.

use std::error::Error;

use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

use crate::record::Record;
use crate::statistics::median;

const SIZE: (u32, u32) = (900, 460);
/// Told apart without colour vision, too (Okabe and Ito).
const COLOURS: [RGBColor; 9] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(204, 121, 167),
    RGBColor(120, 120, 120),
    RGBColor(240, 228, 66),
    RGBColor(0, 0, 0),
];

/// A picture: the name of its file, what it shows, and itself.
pub struct Plot {
    pub file: &'static str,
    pub caption: &'static str,
    pub svg: String,
}

/// A name, its colour and its points.
type Series = (String, RGBColor, Vec<(f64, f64)>);

/// Those for which the record has figures.
pub fn draw(record: &Record) -> Result<Vec<Plot>, String> {
    let failed = |error: Box<dyn Error>| format!("a plot: {error}");
    let mut plots = Vec::new();
    let bulk: Vec<(&str, String)> = [
        ("direct 1500", "bulk/direct/1500/1/forth"),
        ("direct 65520", "bulk/direct/65520/1/forth"),
        ("out 1500", "bulk/out/1500/1/forth"),
        ("out 65520", "bulk/out/65520/1/forth"),
        ("in 1500", "bulk/in/1500/1/forth"),
        ("in 65520", "bulk/in/65520/1/forth"),
    ]
    .map(|(label, case)| (label, case.to_owned()))
    .into();
    for (file, caption, metric, axis) in [
        ("throughput.svg", "One TCP stream, by path, MTU and candidate", "tcp_gbit_s", "Gbit/s"),
        ("cpu.svg", "CPU of all processes of the candidate, for one TCP stream", "helper_cpu_s_per_gb", "CPU s per GB"),
    ] {
        let series = by_candidate(record, |candidate| {
            let points = bulk
                .iter()
                .enumerate()
                .filter_map(|(at, (_, case))| Some((at as f64, median_of(record, case, metric, candidate)?)));
            points.collect()
        });
        if !series.is_empty() {
            let labels: Vec<&str> = bulk.iter().map(|(label, _)| *label).collect();
            plots.push(Plot { file, caption, svg: bars(caption, axis, &labels, &series).map_err(failed)? });
        }
    }
    for (file, caption, case) in [
        ("latency.svg", "Request and response, container to world", "rr/out"),
        ("latency-direct.svg", "Request and response, container to container", "rr/direct"),
    ] {
        let series = by_candidate(record, |candidate| distribution(record, case, candidate));
        if !series.is_empty() {
            let axes = ["share of the exchanges that were faster, per cent (by nines)", "us (logarithmic)"];
            plots.push(Plot { file, caption, svg: lines(caption, axes, &series, Axis::Share).map_err(failed)? });
        }
    }
    for (file, caption, axes, scale) in [
        (
            "ports.svg",
            "TCP of one pair while the other ports are idle",
            ["ports", "Gbit/s (logarithmic)"],
            "bulk tcp_gbit_s",
        ),
        (
            "arp.svg",
            "One ARP request flooded to all ports",
            ["ports", "us of the machine's CPU (logarithmic)"],
            "arp arp_us",
        ),
    ] {
        let (what, metric) = scale.split_once(' ').expect("written so above");
        let series = by_candidate(record, |candidate| {
            let points = [2, 10, 100, 1000].into_iter().filter_map(|ports| {
                Some((f64::from(ports), median_of(record, &format!("ports/{ports}/{what}"), metric, candidate)?))
            });
            points.collect()
        });
        if !series.is_empty() {
            plots.push(Plot { file, caption, svg: lines(caption, axes, &series, Axis::Count).map_err(failed)? });
        }
    }
    let caption = "Resident memory of all processes of the candidate, by flows held";
    let series = by_candidate(record, |candidate| {
        let points = [1000, 10_000, 100_000].into_iter().filter_map(|flows| {
            Some((f64::from(flows), median_of(record, &format!("size/flows/{flows}"), "rss_mib", candidate)?))
        });
        points.collect()
    });
    if !series.is_empty() {
        let axes = ["flows", "MiB (logarithmic)"];
        let svg = lines(caption, axes, &series, Axis::Count).map_err(failed)?;
        plots.push(Plot { file: "flows.svg", caption, svg });
    }
    Ok(plots)
}

fn by_candidate(record: &Record, points: impl Fn(&str) -> Vec<(f64, f64)>) -> Vec<Series> {
    // A candidate has the same colour in every picture.
    let all = record.candidates.iter().enumerate();
    all.map(|(index, candidate)| (candidate.name.clone(), COLOURS[index % COLOURS.len()], points(&candidate.name)))
        .filter(|(.., points)| !points.is_empty())
        .collect()
}

fn median_of(record: &Record, case: &str, metric: &str, candidate: &str) -> Option<f64> {
    median(&record.figures(case, metric, candidate).into_values().collect::<Vec<_>>())
}

/// Medians over the rounds, quantile by quantile.
fn distribution(record: &Record, case: &str, candidate: &str) -> Vec<(f64, f64)> {
    let rounds: Vec<_> = record
        .samples
        .iter()
        .filter(|sample| sample.case == case && sample.candidate == candidate && !sample.quantiles.is_empty())
        .collect();
    let Some(first) = rounds.first() else { return Vec::new() };
    let at = |index: usize| {
        let values: Vec<f64> = rounds.iter().filter_map(|sample| Some(sample.quantiles.get(index)?.1)).collect();
        median(&values)
    };
    let all = first.quantiles.iter().enumerate();
    all.filter_map(|(index, (per_cent, _))| Some((*per_cent, at(index)?))).collect()
}

/// Groups' room that is left for the legend beside the bars.
const BESIDE: usize = 2;

/// Without the zeros of a fraction that is none.
fn plain(value: &f64) -> String {
    format!("{}", (value * 1e6).round() / 1e6)
}

/// Groups of bars, one bar for each series; a point's x is the number of its group.
fn bars(caption: &str, axis: &str, groups: &[&str], series: &[Series]) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let top = series.iter().flat_map(|(.., points)| points).map(|(_, y)| *y).fold(0.0, f64::max).max(1e-9);
        let mut chart = ChartBuilder::on(&area)
            .caption(caption, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..(groups.len() + BESIDE) as f64, 0.0..top * 1.05)?;
        let name = |x: &f64| {
            let at_middle = (x.fract() - 0.5).abs() < 1e-6;
            if at_middle { groups.get(*x as usize).copied().unwrap_or_default().to_owned() } else { String::new() }
        };
        // Labels at every half: those in the middle of a group are its name.
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels((groups.len() + BESIDE) * 2 + 1)
            .max_light_lines(1)
            .y_label_formatter(&plain)
            .x_label_formatter(&name)
            .y_desc(axis)
            .draw()?;
        let width = 0.86 / series.len() as f64;
        for (index, (name, colour, points)) in series.iter().enumerate() {
            let style = colour.filled();
            let bar = move |(group, y): &(f64, f64)| {
                let left = group + 0.07 + width * index as f64;
                Rectangle::new([(left, 0.0), (left + width * 0.92, *y)], style)
            };
            let drawn = chart.draw_series(points.iter().map(bar))?;
            drawn.label(name).legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], style));
        }
        legend(&mut chart, SeriesLabelPosition::UpperRight)?;
        area.present()?;
    }
    Ok(svg)
}

fn legend<'a, DB, CT>(chart: &mut ChartContext<'a, DB, CT>, position: SeriesLabelPosition) -> Result<(), Box<dyn Error>>
where
    DB: DrawingBackend + 'a,
    DB::ErrorType: 'static,
    CT: CoordTranslate,
{
    chart.configure_series_labels().position(position).border_style(BLACK.mix(0.2)).background_style(WHITE).draw()?;
    Ok(())
}

enum Axis {
    /// Per cent, each nine as far from the next: 90, 99, 99.9.
    Share,
    /// A count, by its logarithm.
    Count,
}

fn lines(caption: &str, axes: [&str; 2], series: &[Series], axis: Axis) -> Result<String, Box<dyn Error>> {
    // What was too little to be measured has no logarithm.
    let nines = matches!(axis, Axis::Share);
    let positive = |points: &[(f64, f64)]| {
        let at = |(x, y): &(f64, f64)| (if nines { -(1.0 - x / 100.0).log10() } else { *x }, *y);
        points.iter().map(at).filter(|(x, y)| x.is_finite() && *y > 0.0).collect()
    };
    let series: Vec<Series> =
        series.iter().map(|(name, colour, points)| (name.clone(), *colour, positive(points))).collect();
    let series = series.as_slice();
    let all = || series.iter().flat_map(|(.., points)| points);
    let bottom = all().map(|(_, y)| *y).fold(f64::INFINITY, f64::min).max(1e-3);
    let top = all().map(|(_, y)| *y).fold(bottom, f64::max);
    // Room for the legend above what is drawn.
    let y = (bottom * 0.7..top * 6.0).log_scale();
    match axis {
        Axis::Share => lines_over(caption, axes, series, 0.0..3.1, y, |x| plain(&(100.0 * (1.0 - 10f64.powf(-x))))),
        Axis::Count => {
            let right = all().map(|(x, _)| *x).fold(10.0, f64::max);
            let left = all().map(|(x, _)| *x).fold(right, f64::min);
            lines_over(caption, axes, series, (left * 0.8..right * 1.25).log_scale(), y, plain)
        }
    }
}

fn lines_over<X, Y>(
    caption: &str,
    axes: [&str; 2],
    series: &[Series],
    x: X,
    y: Y,
    label: impl Fn(&f64) -> String,
) -> Result<String, Box<dyn Error>>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(caption, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x, y)?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(axes[0]).y_desc(axes[1]).max_light_lines(1).x_labels(5).y_labels(6);
        mesh.x_label_formatter(&label).y_label_formatter(&plain).draw()?;
        for (name, colour, points) in series {
            let (colour, style) = (*colour, colour.stroke_width(2));
            let drawn = chart.draw_series(std::iter::once(PathElement::new(points.clone(), style)))?;
            drawn.label(name).legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 14, y)], style));
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        }
        legend(&mut chart, SeriesLabelPosition::UpperLeft)?;
        area.present()?;
    }
    Ok(svg)
}
