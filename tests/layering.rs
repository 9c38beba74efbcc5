//! The layers of src/ hold, and what only one layer may do is done there: checked on the text of every source file.
//!
//! # Theory of operation
//! A source text becomes tokens (comments, strings and character literals fall away), the tokens become *paths* (`use`
//! groups unfolded), and the rules look at paths and at the one keyword `unsafe`. That is less than a compiler knows and
//! enough here: a path to a sibling layer has to begin with `crate::`, or climb there by `super::`, which is refused.
//!
//! # Limits
//! What a macro of another crate expands to is not seen. A `#[cfg(test)] mod` is held to the layers and to the place of
//! `unsafe`, not to purity: a test may count in a `HashSet`.

use std::fs;
use std::path::{Path, PathBuf};

/// From the top down: each may use any layer to its right, none to its left.
const LAYERS: [&str; 7] = ["main", "cli", "control", "io", "core", "frame", "wire"];

/// The layers that are a function of state, input and time, so that they can be replayed, simulated and fuzzed.
const PURE: [&str; 3] = ["core", "frame", "wire"];

/// The only place with `unsafe`.
const SYS: &str = "io/sys/";

/// What a pure layer may not name: clocks, threads, descriptors, the environment, locks, and maps whose iteration order
/// differs from run to run.
const IMPURE: [&str; 16] = [
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::collections::hash_map",
    "std::collections::hash_set",
    "std::env",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// The crates a pure layer may use: none of them knows of descriptors, clocks or threads.
const PURE_CRATES: [&str; 7] = ["hashbrown", "foldhash", "siphasher", "smoltcp", "log", "serde", "thiserror"];

#[test]
fn every_source_file_keeps_the_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dependencies = dependencies(&read(&root.join("Cargo.toml")));
    let src = root.join("src");
    let mut found = Vec::new();
    let mut files = Vec::new();
    collect(&src, &mut files);
    for file in &files {
        let name =
            file.strip_prefix(&src).expect("collected below src").to_str().expect("source files have UTF-8 names");
        found.extend(offences(name, &read(file), &dependencies));
    }
    assert!(files.len() > LAYERS.len(), "only {} source files found below {}", files.len(), src.display());
    assert!(found.is_empty(), "{} offences:\n{}", found.len(), found.join("\n"));
}

#[test]
fn an_arrow_up_is_caught() {
    refused("core/forward.rs", "use crate::io::tap;", "core may not use io");
    refused("wire/mac.rs", "fn f() { crate::frame::Frame::parse(&[]) }", "wire may not use frame");
    refused("io/tap.rs", "use crate::{core::Datapath, wire, cli::{self, run}};", "io may not use cli");
    refused("control/server.rs", "pub(in crate::cli) fn f() {}", "control may not use cli");
    refused("lib.rs", "use crate::core::Datapath;", "lib.rs is the map");
    refused("core/forward.rs", "use crate::helpers::f;", "`helpers` is not a layer");
}

#[test]
fn climbing_out_of_a_layer_is_caught() {
    refused("core/mod.rs", "use super::io;", "climbs out of core");
    refused("core/nat/table.rs", "use super::super::super::io;", "climbs out of core");
    refused("core/nat/mod.rs", "use super::{super::io, x};", "climbs out of core");
    refused("core/nat.rs", "mod tests { use super::super::super::io; }", "climbs out of core");
    accepted("core/nat/mod.rs", "use super::conntrack;");
    accepted("core/nat/table.rs", "use super::super::conntrack;");
    accepted("core/nat.rs", "mod tests { use super::*; use super::super::conntrack; }");
}

#[test]
fn a_file_outside_every_layer_is_caught() {
    refused("util/mod.rs", "", "`util` is not a layer");
    refused("helpers.rs", "", "`helpers` is not a layer");
}

#[test]
fn unsafe_code_outside_io_sys_is_caught() {
    refused("io/tap.rs", "fn f() { unsafe { g() } }", "`unsafe`");
    refused("cli/run.rs", "#[cfg(test)] mod tests { unsafe fn f() {} }", "`unsafe`");
    accepted("io/sys/tuntap.rs", "fn f() { unsafe { g() } }");
    accepted(
        "io/tap.rs",
        r##"// unsafe /* unsafe */
        /* unsafe /* nested */ unsafe */ fn f<'a>(c: char) -> &'a str { let _ = ('"', '\'', b'"', c); "\" unsafe"; r#"" unsafe"# }"##,
    );
}

#[test]
fn clocks_threads_and_random_order_in_a_pure_layer_are_caught() {
    refused("core/datapath.rs", "fn f() { let now = std::time::Instant::now(); }", "std::time::Instant");
    refused("core/datapath.rs", "use std::{fmt, time::{Duration, SystemTime}};", "std::time::SystemTime");
    refused("core/datapath.rs", "use std::time::*;", "std::time::Instant");
    refused("core/datapath.rs", "use std::time; fn f() { time::Instant::now(); }", "`Instant::now`");
    refused("core/datapath.rs", "fn f() { thread::spawn(g); }", "`thread::spawn`");
    refused("frame/mod.rs", "use std::thread;", "std::thread");
    refused("core/bridge/fdb.rs", "use std::collections::{BTreeMap, HashMap as Map};", "std::collections::HashMap");
    refused("wire/mac.rs", "use ::std::collections::HashSet;", "std::collections::HashSet");
    refused("core/datapath.rs", "fn f() { rustix::io::read(fd, b); }", "crate `rustix`");
    refused("frame/mod.rs", "use libc::{c_int};", "crate `libc`");
}

#[test]
fn what_is_allowed_passes() {
    accepted("io/clock.rs", "use std::time::Instant; fn now() -> Instant { Instant::now() }");
    accepted(
        "core/time.rs",
        "use std::time::Duration; pub struct Instant(u64); impl Instant { pub const ZERO: Self = Self(0); }",
    );
    accepted(
        "core/datapath.rs",
        "use crate::{frame::Frame, wire::{mac, addr}}; use hashbrown::HashTable; use super::core::time;",
    );
    accepted("core/fdb.rs", "#[cfg(test)] mod tests { use std::collections::HashSet; use std::time::Instant; }");
    accepted("core/nat/tests.rs", "use std::collections::HashSet;");
    accepted("wire/mac.rs", "/// [`crate::io::tap`] opens it.\nfn f() { log::trace!(\"crate::io\"); }");
    accepted("main.rs", "fn main() -> std::process::ExitCode { pontoon::cli::run() }");
    accepted("core/counters.rs", "macro_rules! m { () => { $crate::core::counters::f() } } pub(crate) fn f() {}");
}

fn refused(file: &str, text: &str, why: &str) {
    let found = offences(file, text, &dependencies(MANIFEST));
    assert!(found.iter().any(|offence| offence.contains(why)), "{file}: {text}\nexpected {why:?}, found {found:?}");
}

fn accepted(file: &str, text: &str) {
    let found = offences(file, text, &dependencies(MANIFEST));
    assert!(found.is_empty(), "{file}: {text}\nfound {found:?}");
}

const MANIFEST: &str = "[dependencies]\nlibc = \"0.2\"\nrustix = \"1\"\nhashbrown = \"0.17\"\nlog = \"0.4\"\n";

/// Every rule that `text`, the file `file` below src/, breaks: one line each.
fn offences(file: &str, text: &str, dependencies: &[String]) -> Vec<String> {
    let modules: Vec<&str> = file.trim_end_matches(".rs").trim_end_matches("/mod").split('/').collect();
    let layer = modules[0];
    if layer != "lib" && !LAYERS.contains(&layer) {
        return vec![format!("src/{file}: `{layer}` is not a layer: {}", LAYERS.join(" -> "))];
    }
    let test_file = modules.contains(&"tests");
    let mut found = Vec::new();
    for Found { line, in_test, depth, what } in scan(text) {
        let offence = match what {
            What::Unsafe if !file.starts_with(SYS) => Some(format!("`unsafe` outside src/{SYS}")),
            What::Unsafe => None,
            What::Path(path) => against_layers(layer, modules.len() + depth, &path).or_else(|| {
                let pure = PURE.contains(&layer) && !in_test && !test_file;
                pure.then(|| against_purity(layer, &path, dependencies)).flatten()
            }),
        };
        found.extend(offence.map(|why| format!("src/{file}:{line}: {why}")));
    }
    found
}

/// `depth`: how many modules below the crate's root the path stands.
fn against_layers(layer: &str, depth: usize, path: &[String]) -> Option<String> {
    let climbed = path.iter().take_while(|segment| *segment == "super").count();
    if climbed > 0 && climbed >= depth && !matches!(layer, "lib" | "main") {
        return Some(format!("`{}` climbs out of {layer}", path.join("::")));
    }
    let ("crate" | "pontoon", Some(used)) = (path[0].as_str(), path.get(1)) else {
        return None;
    };
    let rank = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    match (rank(layer), rank(used)) {
        (_, None) => Some(format!("`{}`: `{used}` is not a layer", path.join("::"))),
        (None, Some(_)) => Some(format!("`{}`: lib.rs is the map of the layers and uses none", path.join("::"))),
        (Some(user), Some(used_rank)) if used_rank < user => {
            Some(format!("`{}`: {layer} may not use {used}", path.join("::")))
        }
        (Some(_), Some(_)) => None,
    }
}

fn against_purity(layer: &str, path: &[String], dependencies: &[String]) -> Option<String> {
    let [.., owner, name] = path else { return None };
    if let Some(banned) = IMPURE.iter().find(|banned| names(path, banned)) {
        return Some(format!("`{}`: {layer} may not use {banned}", path.join("::")));
    }
    if matches!((owner.as_str(), name.as_str()), ("Instant" | "SystemTime", "now") | ("thread", "spawn")) {
        return Some(format!("`{owner}::{name}`: {layer} is told the time and has no threads"));
    }
    let foreign = dependencies.contains(&path[0]) && !PURE_CRATES.contains(&path[0].as_str());
    foreign.then(|| format!("crate `{}`: {layer} may use only {}", path[0], PURE_CRATES.join(", ")))
}

/// Whether `path` is `banned`, lies below it, or takes it along by a `*`.
fn names(path: &[String], banned: &str) -> bool {
    let banned: Vec<&str> = banned.split("::").collect();
    match path.split_last() {
        Some((last, parent)) if last == "*" => {
            banned.iter().zip(parent).all(|(a, b)| a == b) && banned.len() > parent.len()
        }
        _ => path.len() >= banned.len() && banned.iter().zip(path).all(|(a, b)| a == b),
    }
}

/// The `[dependencies]` of a manifest, as the names that code uses.
fn dependencies(manifest: &str) -> Vec<String> {
    let manifest: toml::Table = manifest.parse().expect("Cargo.toml is TOML");
    let table = manifest["dependencies"].as_table().expect("[dependencies] is a table");
    table.keys().map(|name| name.replace('-', "_")).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|why| panic!("reading {}: {why}", path.display()))
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).unwrap_or_else(|why| panic!("listing {}: {why}", directory.display()));
    for entry in entries {
        let path = entry.expect("an entry of a directory just opened").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

struct Found {
    line: usize,
    in_test: bool,
    /// Inline modules around it.
    depth: usize,
    what: What,
}

enum What {
    Unsafe,
    Path(Vec<String>),
}

/// The paths and the `unsafe` of a source text, in order.
fn scan(text: &str) -> Vec<Found> {
    let tokens = tokens(text);
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut found = Vec::new();
    // The open inline modules: the brace depth they began at, and whether they are under #[cfg(test)].
    let mut modules: Vec<(usize, bool)> = Vec::new();
    let mut braces = 0;
    let mut cfg_test = false;
    let mut at = 0;
    while at < tokens.len() {
        let line = tokens[at].line;
        let in_test = modules.iter().any(|module| module.1);
        let depth = modules.len();
        match word(at) {
            "{" => braces += 1,
            "}" => {
                braces -= 1;
                modules.pop_if(|module| module.0 == braces);
            }
            "cfg" if word(at + 1) == "(" && word(at + 2) == "test" => cfg_test = true,
            "mod" if word(at + 2) == "{" => {
                modules.push((braces, std::mem::take(&mut cfg_test)));
                braces += 1;
                at += 3;
                continue;
            }
            ";" => cfg_test = false,
            "unsafe" => found.push(Found { line, in_test, depth, what: What::Unsafe }),
            first if first == "::" || is_word(first) && !BEFORE_A_PATH.contains(&first) => {
                let mut paths = Vec::new();
                let end = path(&tokens, at, &mut Vec::new(), &mut paths);
                found.extend(paths.into_iter().map(|path| Found { line, in_test, depth, what: What::Path(path) }));
                at = end.max(at + 1);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Reads the path that begins at `at` below `prefix`, a `{..}` after `::` unfolded, and returns where it ends. A lone word
/// is no path, but in a group it ends one.
fn path(tokens: &[Token], mut at: usize, prefix: &mut Vec<String>, paths: &mut Vec<Vec<String>>) -> usize {
    let given = prefix.len();
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    if word(at) == "::" {
        at += 1;
    }
    loop {
        if word(at) == "{" {
            at += 1;
            while at < tokens.len() && word(at) != "}" {
                let end = path(tokens, at, prefix, paths);
                at = end.max(at + 1);
            }
            prefix.truncate(given);
            return at + 1;
        }
        if !is_word(word(at)) && word(at) != "*" {
            break;
        }
        prefix.push(word(at).to_owned());
        at += 1;
        if word(at) != "::" {
            break;
        }
        at += 1;
    }
    if prefix.len() > given && prefix.len() > 1 {
        paths.push(prefix.clone());
    }
    prefix.truncate(given);
    if word(at) == "as" { at + 2 } else { at }
}

/// The keywords that a path with a leading `::` may follow.
const BEFORE_A_PATH: [&str; 11] = ["as", "break", "dyn", "else", "for", "if", "impl", "in", "match", "return", "use"];

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

struct Token {
    line: usize,
    text: String,
}

/// Words, `::`, and single characters; no comments, no strings, no character literals, no lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let is = |at: usize, c: char| chars.get(at) == Some(&c);
    let mut tokens: Vec<Token> = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        let c = chars[at];
        let mut text = None;
        if c == '/' && is(at + 1, '/') {
            at = find(&chars, at, |at| is(at, '\n'));
        } else if c == '/' && is(at + 1, '*') {
            at = after_comment(&chars, at);
        } else if c == '"' {
            at = after_string(&chars, at);
        } else if c == '\'' {
            at = after_quote(&chars, at);
        } else if c.is_alphanumeric() || c == '_' {
            at = find(&chars, at, |at| !(chars[at].is_alphanumeric() || chars[at] == '_'));
            let word: String = chars[start..at].iter().collect();
            let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
            if matches!(word.as_str(), "r" | "br" | "cr") && is(at + hashes, '"') {
                let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                at = find(&chars, at + hashes + 1, |at| chars[at..].starts_with(&close)) + close.len();
            } else if !(matches!(word.as_str(), "b" | "c") && (is(at, '"') || is(at, '\''))) {
                text = Some(word);
            }
        } else if c == ':' && is(at + 1, ':') {
            at += 2;
            text = Some("::".to_owned());
        } else {
            at += 1;
            text = (!c.is_whitespace()).then(|| c.to_string());
        }
        tokens.extend(text.map(|text| Token { line, text }));
        at = at.min(chars.len());
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn find(chars: &[char], from: usize, end: impl Fn(usize) -> bool) -> usize {
    (from..chars.len()).find(|at| end(*at)).unwrap_or(chars.len())
}

fn after_comment(chars: &[char], from: usize) -> usize {
    let (mut at, mut open) = (from, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (at, open) = (at + 2, open + 1),
            ('*', Some('/')) => (at, open) = (at + 2, open - 1),
            _ => at += 1,
        }
        if open == 0 {
            break;
        }
    }
    at
}

fn after_string(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// After a character literal, or after the `'` of a lifetime, whose name then reads as a harmless word.
fn after_quote(chars: &[char], from: usize) -> usize {
    match (chars.get(from + 1), chars.get(from + 2)) {
        (Some('\\'), _) => find(chars, from + 3, |at| chars[at] == '\'') + 1,
        (Some(_), Some('\'')) => from + 3,
        _ => from + 1,
    }
}
