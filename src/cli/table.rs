//! Listings for people and for programs.

use std::io::{self, BufWriter, Write};

use serde_json::Value;

use super::{Failure, Listing};
use crate::control::protocol::Call;

/// A column: its head, and what it shows of a row.
pub struct Column(pub &'static str, pub fn(&Value) -> String);

/// Makes the call and writes its rows.
pub fn list(options: &Listing, call: &Call, columns: &[Column]) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut client = options.control.connect()?;
    if options.json {
        let mut array = JsonArray::new(&mut out);
        client.list(call, &mut |row| array.push(&row))?;
        array.end()?;
    } else {
        let mut rows = Vec::new();
        client.list(call, &mut |row| {
            rows.push(columns.iter().map(|column| (column.1)(&row)).collect());
            Ok(())
        })?;
        write_table(&mut out, columns, &rows)?;
    }
    Ok(out.flush()?)
}

/// An array of which each row is a line.
pub struct JsonArray<W: Write> {
    out: W,
    begun: bool,
}

impl<W: Write> JsonArray<W> {
    /// An array to be written to `out`.
    pub fn new(out: W) -> JsonArray<W> {
        JsonArray { out, begun: false }
    }

    /// Writes a row.
    pub fn push(&mut self, row: &Value) -> io::Result<()> {
        self.out.write_all(if self.begun { b",\n " } else { b"[" })?;
        self.begun = true;
        write!(self.out, "{row}")
    }

    /// Ends the array, which may be empty.
    pub fn end(mut self) -> io::Result<()> {
        self.out.write_all(if self.begun { b"]\n" } else { b"[]\n" })
    }
}

fn write_table(out: &mut impl Write, columns: &[Column], rows: &[Vec<String>]) -> io::Result<()> {
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(n, column)| {
            let cells = rows.iter().map(|row| row[n].chars().count());
            cells.chain([column.0.len()]).max().unwrap_or(0)
        })
        .collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let text: String = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        writeln!(out, "{}", text.trim_end())
    };
    line(&mut columns.iter().map(|column| column.0))?;
    for row in rows {
        line(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

/// A value in words.
pub fn show(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `object` as `name value` lines, nested names joined by dots.
pub fn write_object(out: &mut impl Write, object: &Value) -> io::Result<()> {
    let mut rows = Vec::new();
    flatten("", object, &mut rows);
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in rows {
        writeln!(out, "{name:width$}  {value}")?;
    }
    Ok(())
}

fn flatten(prefix: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    let named = |name: &str| match prefix {
        "" => name.to_owned(),
        prefix => format!("{prefix}.{name}"),
    };
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                flatten(&named(name), value, rows);
            }
        }
        Value::Array(all) => {
            for (number, value) in all.iter().enumerate() {
                match value.as_array().map(Vec::as_slice) {
                    // A counter: its name and its value.
                    Some([Value::String(name), value]) => flatten(&named(name), value, rows),
                    _ => flatten(&named(&number.to_string()), value, rows),
                }
            }
        }
        leaf => rows.push((prefix.to_owned(), show(leaf))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).expect("memory takes it");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_no_line_ends_in_space() {
        let columns = [Column("NAME", |_| String::new()), Column("IP", |_| String::new())];
        let rows = [vec!["a-long-name".into(), "-".into()], vec!["c".into(), "172.17.0.2".into()]];
        assert_eq!(
            written(|out| write_table(out, &columns, &rows)),
            "NAME         IP\na-long-name  -\nc            172.17.0.2\n"
        );
    }

    #[test]
    fn an_array_is_json_whatever_its_length() {
        for rows in [vec![], vec![json!(1)], vec![json!({"a": 1}), json!(2)]] {
            let text = written(|out| {
                let mut array = JsonArray::new(out);
                for row in &rows {
                    array.push(row)?;
                }
                array.end()
            });
            assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), Value::Array(rows));
        }
    }

    #[test]
    fn an_object_is_a_line_for_each_leaf() {
        let object = json!({"flows": 3, "drops": [["martian", 2]], "link": {"up": true}, "ports": [{"ip": null}]});
        assert_eq!(
            written(|out| write_object(out, &object)),
            "drops.martian  2\nflows          3\nlink.up        yes\nports.0.ip     -\n"
        );
    }
}
