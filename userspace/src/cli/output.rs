//! Tables, tab-separated values and JSON.

use crate::args::Output;
use crate::stdio;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, StdoutLock, Write};

/// Prints rows under a heading, as columns or separated by tabs.
pub fn table(output: &Output, heading: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let heading: Vec<String> = heading.iter().map(|&title| title.into()).collect();
    let heading = (!output.no_header).then_some(&heading);
    let mut out = stdio::output()?;
    let columns = rows.iter().chain(heading).map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().chain(heading).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in heading.into_iter().chain(rows) {
        let line = if output.plain {
            row.join("\t")
        } else {
            let cells: Vec<_> = row
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:width$}"))
                .collect();
            cells.join("  ")
        };
        writeln!(out, "{}", line.trim_end_matches(' '))?;
    }
    Ok(())
}

/// Prints one JSON object that says which version of our output it is.
pub fn json(key: &str, value: impl Into<Value>) -> io::Result<()> {
    let mut object = serde_json::Map::new();
    object.insert("schema".into(), 1.into());
    object.insert(key.into(), value.into());
    writeln!(stdio::output()?, "{}", to_line(&Value::from(object)))
}

/// Whether a character commands a terminal, or reorders what it shows.
fn commands(c: char) -> bool {
    let reorders =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || reorders
}

/// What others wrote, for a terminal, which it must not command.
pub fn printable(text: &str) -> String {
    escaped(text, |c| c == '\n' || c == '\t')
}

/// The same on one line, behind what the kernel says: with a line of its own it could pass for that.
pub fn on_one_line(text: &str) -> String {
    escaped(text, |c| c == '\t')
}

fn escaped(text: &str, passes: impl Fn(char) -> bool) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        if commands(c) && !passes(c) {
            printable.extend(c.escape_default());
        } else {
            printable.push(c);
        }
    }
    printable
}

/// A value as JSON, in which only strings have characters beyond ASCII.
pub fn to_line(value: &Value) -> String {
    let mut line = String::new();
    for c in value.to_string().chars() {
        match c {
            // All that command are in the basic plane.
            c if commands(c) => _ = write!(line, "\\u{:04x}", u32::from(c)),
            c => line.push(c),
        }
    }
    line
}

/// Writes bytes of others as they are, or so that they do not command the terminal that they go to.
pub fn bytes(out: &mut StdoutLock<'_>, bytes: &[u8]) -> io::Result<()> {
    if out.is_terminal() {
        return out.write_all(printable(&String::from_utf8_lossy(bytes)).as_bytes());
    }
    out.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_not_commanded() {
        assert_eq!(
            printable("a\tb\nc\u{1b}[2J\u{9b}é\u{202e}"),
            "a\tb\nc\\u{1b}[2J\\u{9b}é\\u{202e}"
        );
        assert_eq!(on_one_line("a\tb\r\nuid=0"), "a\tb\\r\\nuid=0");
    }

    #[test]
    fn json_commands_no_terminal_and_means_the_same() {
        let text = "a\u{1b}\u{7f}\u{9b}2Jé\u{2028}\u{202e}\\\"";
        let value = Value::from(text);
        let line = to_line(&value);
        assert!(!line.chars().any(commands), "{line:?}");
        assert_eq!(serde_json::from_str::<Value>(&line).ok(), Some(value));
    }
}
