//! What is said of samples: median, spread, ratios within rounds, and whether two halves of them agree.

use std::collections::BTreeMap;

/// Two halves of the samples that differ by more than this make a case noisy.
pub const NOISY: f64 = 0.15;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub count: usize,
    /// How far the medians of the earlier and the later half are apart: 0.2 is 20 %. None of fewer than two samples.
    pub drift: Option<f64>,
}

impl Summary {
    /// None of no samples.
    pub fn of(values: &[f64]) -> Option<Self> {
        let median = median(values)?;
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // The middle one of an odd number is in neither half.
        let half = values.len() / 2;
        let halves = Some((self::median(&values[..half]), self::median(&values[values.len() - half..])));
        let drift = halves.and_then(|(earlier, later)| Some(apart(earlier?, later?)));
        Some(Self { median, min, max, count: values.len(), drift })
    }

    pub fn is_noisy(&self) -> bool {
        self.drift.is_some_and(|drift| drift > NOISY)
    }

    /// Whether the two ranges have a value in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

/// How much larger the larger is, as a share of the smaller.
pub fn apart(a: f64, b: f64) -> f64 {
    let (low, high) = (a.min(b), a.max(b));
    if high == low {
        0.0
    } else if low <= 0.0 {
        f64::INFINITY
    } else {
        high / low - 1.0
    }
}

pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some((sorted[(sorted.len() - 1) / 2] + upper) / 2.0)
}

/// The value below which `per_cent` of all lie, by the nearest rank.
pub fn quantile(values: &[f64], per_cent: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * per_cent / 100.0).round() as usize).copied()
}

/// The ratios to a reference, each within one round: what drifts from hour to hour drifts in both.
pub fn ratios(of: &BTreeMap<u32, f64>, to: &BTreeMap<u32, f64>) -> Vec<f64> {
    let paired = of.iter().filter_map(|(round, value)| Some(value / to.get(round).filter(|to| **to > 0.0)?));
    paired.collect()
}

/// Jain's index of fairness: 1 when all have the same, 1/n when one has all. None of nothing.
pub fn jain(values: &[f64]) -> Option<f64> {
    let (sum, squares) = values.iter().fold((0.0, 0.0), |(sum, squares), value| (sum + value, squares + value * value));
    (squares > 0.0).then(|| sum * sum / (values.len() as f64 * squares))
}
