//! Where each thing was asked for, so that an error names its line.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::File;
use crate::core::command::CommandError;

/// The longest file, bytes.
const MAX_FILE: u64 = 1 << 20;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {why}")]
pub struct ConfigError {
    pub(super) origin: Origin,
    pub(super) why: String,
}

/// Where something was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Line(PathBuf, usize),
    /// A table, and the lines of the keys in it and below.
    Table(PathBuf, usize, BTreeMap<String, usize>),
    File(PathBuf),
    Option(&'static str),
    /// Nobody asked for it.
    Default(&'static str),
}

impl Origin {
    /// The key's own line, if this is a table of the file that has it.
    pub(super) fn of_key(&self, key: &str) -> Origin {
        match self {
            Origin::Table(path, line, keys) => Origin::Line(path.clone(), *keys.get(key).unwrap_or(line)),
            other => other.clone(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Line(path, line) | Origin::Table(path, line, _) => write!(f, "{} line {line}", path.display()),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Option(option) => f.write_str(option),
            Origin::Default(what) => write!(f, "default {what}"),
        }
    }
}

/// A file with its text, so that a place in it is a line.
#[derive(Debug, Default)]
pub struct Source {
    path: PathBuf,
    text: String,
    /// Where lines end.
    ends: Vec<usize>,
    keys: Keys,
}

/// A place in the text.
type Place = (usize, usize);

/// Where the keys of a file are.
#[derive(Debug, Default)]
struct Keys {
    /// Of each table the keys in it and in tables below, and where they begin.
    tables: BTreeMap<Place, Vec<(String, usize)>>,
    /// Of each value that is no table its key.
    values: BTreeMap<Place, String>,
}

impl Keys {
    fn of(text: &str) -> Keys {
        let mut keys = Keys::default();
        // What cannot be read is told elsewhere.
        if let Ok(root) = DeTable::parse(text) {
            keys.add(root.span(), root.get_ref());
        }
        keys
    }

    fn add(&mut self, span: Range<usize>, table: &DeTable<'_>) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        for (key, value) in table {
            found.push((key.get_ref().to_string(), key.span().start));
            match value.get_ref() {
                DeValue::Table(below) => found.extend(self.add(value.span(), below)),
                DeValue::Array(all) if all.iter().any(|one| matches!(one.get_ref(), DeValue::Table(_))) => {
                    for one in all {
                        if let DeValue::Table(below) = one.get_ref() {
                            self.add(one.span(), below);
                        }
                    }
                }
                _ => {
                    self.values.insert((value.span().start, value.span().end), key.get_ref().to_string());
                }
            }
        }
        self.tables.insert((span.start, span.end), found.clone());
        found
    }

    /// The key whose value holds this place.
    fn at(&self, place: usize) -> Option<&str> {
        let ((_, end), key) = self.values.range(..=(place, usize::MAX)).next_back()?;
        (place < *end).then_some(key)
    }
}

impl Source {
    /// Reads a file; no file is an empty one.
    pub fn read(path: Option<&Path>) -> Result<(Source, File), ConfigError> {
        let Some(path) = path else {
            return Ok((Source::default(), File::default()));
        };
        let refuse = |why: String| ConfigError { origin: Origin::File(path.into()), why };
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
            .map_err(|error| refuse(format!("cannot read it: {error}; give another file with --config")))?;
        if text.len() as u64 > MAX_FILE {
            return Err(refuse(format!("it is longer than {MAX_FILE} bytes; give another file with --config")));
        }
        Source::new(path.into(), text).parse()
    }

    pub(super) fn new(path: PathBuf, text: String) -> Source {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
        Source { path, ends, keys: Keys::of(&text), text }
    }

    pub(super) fn parse(self) -> Result<(Source, File), ConfigError> {
        match toml::from_str(&self.text) {
            Ok(file) => Ok((self, file)),
            Err(error) => {
                let why = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
                let Some(span) = error.span() else {
                    return Err(ConfigError { origin: Origin::File(self.path), why });
                };
                let why = match self.keys.at(span.start) {
                    Some(key) => format!("{key}: {why}"),
                    None => why,
                };
                Err(ConfigError { origin: Origin::Line(self.path.clone(), self.line(span.start)), why })
            }
        }
    }

    /// From 1.
    fn line(&self, at: usize) -> usize {
        self.ends.partition_point(|end| *end < at) + 1
    }

    /// A value of the file, and where it is.
    pub(super) fn of<T: Clone>(&self, spanned: &Spanned<T>) -> (Origin, T) {
        let Range { start, end } = spanned.span();
        let (path, line) = (self.path.clone(), self.line(start));
        let origin = match self.keys.tables.get(&(start, end)) {
            Some(keys) => {
                Origin::Table(path, line, keys.iter().map(|(key, at)| (key.clone(), self.line(*at))).collect())
            }
            None => Origin::Line(path, line),
        };
        (origin, spanned.get_ref().clone())
    }

    /// The option's value, or the file's if there is none.
    pub(super) fn either<T: Clone>(
        &self,
        option: &'static str,
        over: Option<&T>,
        file: Option<&Spanned<T>>,
    ) -> Option<(Origin, T)> {
        match over {
            Some(value) => Some((Origin::Option(option), value.clone())),
            None => file.map(|spanned| self.of(spanned)),
        }
    }

    /// The option's values, or the file's if there are none.
    pub(super) fn either_list<T: Clone>(
        &self,
        option: &'static str,
        over: &[T],
        file: &[Spanned<T>],
    ) -> Vec<(Origin, T)> {
        if over.is_empty() {
            file.iter().map(|spanned| self.of(spanned)).collect()
        } else {
            over.iter().map(|value| (Origin::Option(option), value.clone())).collect()
        }
    }
}

/// What the core says of something that was asked for at `origin`.
pub fn refused(origin: &Origin, error: &CommandError) -> ConfigError {
    let origin = match error {
        // Of an uplink's fields the last word is the key.
        CommandError::Invalid { field, .. } => origin.of_key(field.rsplit(' ').next().unwrap_or(field)),
        _ => origin.clone(),
    };
    ConfigError { origin, why: error.to_string() }
}
