//! Tables, tab-separated values and JSON.

use crate::args::Output;
use crate::stdio;
use serde_json::Value;
use std::io::{self, Write};

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
    writeln!(stdio::output()?, "{}", Value::from(object))
}
