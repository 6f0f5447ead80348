//! Man pages and completions, made from the definition of the arguments.

use crate::args::{Cli, EXIT_STATUS};
use crate::{Failure, stdio};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

pub fn completions(shell: Shell) -> Result<(), Failure> {
    // The generator panics where writing fails, so that it writes to memory first.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "postbox", &mut script);
    Ok(stdio::output()?.write_all(&script)?)
}

pub fn man(directory: Option<&Path>) -> Result<(), Failure> {
    let mut command = Cli::command().after_long_help(None::<&str>);
    command.build();
    let Some(directory) = directory else {
        return Ok(stdio::output()?.write_all(&page(&command)?)?);
    };
    pages(&command, "postbox", directory)
}

/// The page of a command, and those of its subcommands.
fn pages(command: &Command, name: &str, directory: &Path) -> Result<(), Failure> {
    let path = directory.join(name).with_extension("1");
    fs::write(&path, page(command)?).map_err(|error| {
        Failure::new(format!(
            "cannot write {}: {error}; does the directory exist?",
            path.display()
        ))
    })?;
    let mut subs = command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help");
    subs.try_for_each(|sub| pages(sub, &format!("{name}-{}", sub.get_name()), directory))
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone())
        .manual("postbox")
        .render(&mut page)?;
    writeln!(page, ".SH \"EXIT STATUS\"")?;
    for (status, meaning) in EXIT_STATUS {
        writeln!(page, ".TP\n{status}\n{meaning}")?;
    }
    Ok(page)
}
