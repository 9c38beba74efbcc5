//! The rows, by what they are about.

mod bridge;
mod errors;
mod nat;
mod policy;
mod publish;
mod router;

use super::Row;
use super::bed::Dut;

pub fn all() -> impl Iterator<Item = &'static Row> {
    [bridge::ROWS, router::ROWS, nat::ROWS, errors::ROWS, publish::ROWS, policy::ROWS].into_iter().flatten()
}

/// The flows whose lines contain all of `words`, with what differs from run to run taken out: timers become the timeout they count down
/// from, port numbers of the ephemeral range and reference counts become words.
fn flows(dut: &dyn Dut, words: &[&str]) -> Vec<String> {
    let listing = dut.flows();
    let wanted = listing.lines().filter(|line| words.iter().all(|word| line.contains(word)));
    let mut lines: Vec<String> = wanted.map(normalised).collect();
    lines.sort();
    lines
}

fn normalised(line: &str) -> String {
    /// The timeouts of Linux that these rows meet, in seconds.
    const TIMEOUTS: [u32; 5] = [10, 30, 60, 120, 432_000];
    // Split at single blanks, so that the columns are compared too: `tcp      6 117 TIME_WAIT src=..`.
    let mut fields: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let Some(timer) =
        fields.iter().position(|field| !field.is_empty() && field.parse::<u32>().is_ok()).map(|protocol| protocol + 1)
    else {
        return line.to_owned();
    };
    if let Some(left) = fields.get(timer).and_then(|field| field.parse::<u32>().ok()) {
        // A case takes seconds: a timer is at most five below the timeout it was set to.
        let of = TIMEOUTS.iter().find(|&&timeout| left <= timeout && timeout - left <= 5);
        fields[timer] = of.map_or_else(|| format!("{left}?"), |timeout| format!("<={timeout}"));
    }
    for field in &mut fields {
        if field.starts_with("use=") {
            *field = "use=N".to_owned();
        }
    }
    fields.join(" ")
}
