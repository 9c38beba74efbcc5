//! docs/conformance.md: every row of the conformance table, and the tests that claim it.
//!
//! # Theory of operation
//! A test claims rows by a comment of nothing but their ids above it (`// B04, B06`); a row of tests/netns by its `ids`. The page has
//! a line for every row: its id and what it is about, written by hand; the tests that claim it, which must be what the sources say; and
//! what no test covers and why, by hand again. `PONTOON_WRITE=1 cargo test --test conformance` writes the tests' column anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The rows that the page must have; it may have more. `S10-17` is a range.
const REQUIRED: &str = "B01-30 S05-07 S10-18 S20-22 S25-27 S33 S35-37 S39-42 S47 S49 S52 S60-61 S63-67 \
    D01-02 D04 D10-11 D14-16 D18 D24 D29 D31 Q03 R01-27 R29-31 U1-14 U3a T1-10 I1-11 V1-12 C4-8 C11 X01-05 X07-20";

const PAGE: &str = "docs/conformance.md";

/// A line of the page's table.
struct Line {
    id: String,
    about: String,
    tests: String,
    uncovered: String,
}

impl Line {
    fn read(line: &str) -> Option<Line> {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let [id, about, tests, uncovered] = cells[..] else { return None };
        is_id(id).then(|| Line {
            id: id.to_owned(),
            about: about.to_owned(),
            tests: tests.to_owned(),
            uncovered: uncovered.to_owned(),
        })
    }

    fn written(&self) -> String {
        let Line { id, about, tests, uncovered } = self;
        format!("| {id} | {about} | {tests} | {uncovered} |").replace("|  |", "| |")
    }
}

#[test]
fn the_page_names_the_tests_of_every_row() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let text = read(&page);
    let claims = claims();
    if std::env::var_os("PONTOON_WRITE").is_some() {
        fs::write(&page, rewritten(&text, &claims)).expect("the page can be written");
        return;
    }
    let mut wrong = Vec::new();
    let mut required = ids(REQUIRED);
    for line in text.lines().filter_map(Line::read) {
        let tests = claims.get(&line.id).cloned().unwrap_or_default().join(", ");
        if line.tests != tests {
            wrong.push(format!("{}: the page says [{}], the sources say [{tests}]", line.id, line.tests));
        }
        if tests.is_empty() && line.uncovered.is_empty() {
            wrong.push(format!("{}: no test, and no word why", line.id));
        }
        if line.about.is_empty() {
            wrong.push(format!("{}: what is it about?", line.id));
        }
        required.retain(|id| *id != line.id);
    }
    wrong.extend(required.iter().map(|id| format!("{id}: has no line")));
    let lines: Vec<String> = text.lines().filter_map(Line::read).map(|line| line.id).collect();
    wrong.extend(claims.keys().filter(|id| !lines.contains(id)).map(|id| format!("{id}: is claimed and has no line")));
    assert!(wrong.is_empty(), "{PAGE}:\n{}\nPONTOON_WRITE=1 writes the tests' column anew", wrong.join("\n"));
}

/// The page with the tests that the sources say, and an empty line for what it lacks.
fn rewritten(text: &str, claims: &BTreeMap<String, Vec<String>>) -> String {
    let mut lines = Vec::new();
    let mut lacking: Vec<&String> = claims.keys().collect();
    for line in text.lines() {
        match Line::read(line) {
            Some(mut row) => {
                lacking.retain(|id| **id != row.id);
                row.tests = claims.get(&row.id).cloned().unwrap_or_default().join(", ");
                lines.push(row.written());
            }
            None => lines.push(line.to_owned()),
        }
    }
    lines.extend(lacking.iter().map(|id| format!("| {id} | | {} | |", claims[*id].join(", "))));
    lines.join("\n") + "\n"
}

/// For each id the tests that claim it, as one would ask cargo for them.
fn claims() -> BTreeMap<String, Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut claims: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    collect(&root.join("tests"), &mut files);
    files.sort();
    for file in files {
        let text = read(&file);
        let name = file.strip_prefix(root).expect("collected below").to_str().expect("source files have UTF-8 names");
        for (ids, test) in
            if name.starts_with("tests/netns/") { by_field(&text, name) } else { by_comment(&text, name) }
        {
            for id in ids {
                claims.entry(id).or_default().push(format!("`{}{test}`", module(name)));
            }
        }
    }
    claims
}

/// Rows of tests/netns: `claim: ".."` and `ids: ".."` on lines of their own.
fn by_field(text: &str, name: &str) -> Vec<(Vec<String>, String)> {
    let field = |line: &str, key: &str| {
        line.trim().strip_prefix(key)?.trim().strip_prefix('"')?.strip_suffix("\",").map(str::to_owned)
    };
    let mut found = Vec::new();
    let mut claim = None;
    for line in text.lines() {
        if let Some(text) = field(line, "claim:") {
            claim = Some(text);
        }
        if let Some(text) = field(line, "ids:") {
            let ids: Vec<String> = text.split(' ').map(str::to_owned).collect();
            assert!(ids.iter().all(|id| is_id(id)), "{name}: {text:?} are no ids");
            found.push((ids, claim.take().expect("a claim stands before its ids")));
        }
    }
    found
}

/// Tests below a comment that is a list of ids and nothing else; attributes may stand between.
fn by_comment(text: &str, name: &str) -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(comment) = line.strip_prefix("// ") else { continue };
        let ids: Vec<String> = comment.split(", ").map(str::to_owned).collect();
        if !ids.iter().all(|id| is_id(id)) {
            continue;
        }
        let next = lines.find(|line| !line.starts_with("#[") && !line.starts_with("//")).unwrap_or_default();
        let test = next.strip_prefix("fn ").and_then(|rest| rest.split('(').next());
        found.push((ids, test.unwrap_or_else(|| panic!("{name}: no test below {line:?}")).to_owned()));
    }
    found
}

/// How a test of this file is found: the test target, and the path of its module.
fn module(name: &str) -> String {
    let stem = name.trim_end_matches(".rs").trim_end_matches("/mod");
    let parts: Vec<&str> = stem.split('/').collect();
    match parts[..] {
        ["tests", "netns", ..] => "netns ".to_owned(),
        ["tests", target] => format!("{target} "),
        ["tests", target, ref rest @ ..] => format!("{target} {}::", rest.join("::")),
        ["src", ref rest @ ..] if rest.contains(&"tests") => format!("{}::", rest.join("::")),
        ["src", ref rest @ ..] => format!("{}::tests::", rest.join("::")),
        _ => unreachable!("collected below src and tests"),
    }
}

/// One or two capitals' worth of family, a number, at most a letter: `B04`, `U3a`.
fn is_id(text: &str) -> bool {
    let Some(number) = text.strip_prefix(|first: char| first.is_ascii_uppercase()) else { return false };
    let digits = number.trim_end_matches(|last: char| last.is_ascii_lowercase());
    number.len() - digits.len() <= 1 && (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
}

/// Unfolds ranges; the numbers are as wide as the first of them is written.
fn ids(ranges: &str) -> Vec<String> {
    let unfold = |range: &str| -> Vec<String> {
        let (family, numbers) = range.split_at(1);
        let Some((first, last)) = numbers.split_once('-') else { return vec![range.to_owned()] };
        let number = |text: &str| text.parse::<u32>().expect("a number");
        (number(first)..=number(last)).map(|n| format!("{family}{n:0width$}", width = first.len())).collect()
    };
    ranges.split_whitespace().flat_map(unfold).collect()
}

#[test]
fn ranges_of_ids_unfold() {
    assert_eq!(ids("B09-11 U9-10 U3a C4"), ["B09", "B10", "B11", "U9", "U10", "U3a", "C4"]);
}

#[test]
fn only_a_comment_of_ids_alone_is_a_claim() {
    let text = "// B04, U3a\n#[test]\nfn one() {}\nlet a = 1; // B05\n// RFC 791\n// X\nfn two() {}";
    assert_eq!(by_comment(text, ""), [(vec!["B04".to_owned(), "U3a".to_owned()], "one".to_owned())]);
}

#[test]
fn a_line_survives_being_read_and_written() {
    let line = "| B04 | unknown unicast | `sim bridging::a` | |";
    assert_eq!(Line::read(line).expect("a line").written(), line);
    assert!(Line::read("| row | about | tests | not covered |").is_none());
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
        let path = entry.expect("a readable directory").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
