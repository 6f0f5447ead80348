//! Benchmarks of postbox against its peers; see `USAGE`.

use std::path::PathBuf;
use std::process::ExitCode;

use postbox_bench::{
    CASES, Case, FEW, Figure, MANY, MORE, Plan, Transport, Work, clock_counts_instructions, holds,
    measure,
};

const USAGE: &str = "\
usage: postbox-bench count --out FILE   instructions, where the emulator counts them; also to FILE as JSON
       postbox-bench all --out FILE     the same, of more cases: how costs grow
       postbox-bench holds              instructions of operations on a mailbox with a million messages, and with a few; likewise
                                        on a pipe and a pool
       postbox-bench run                time, and what matters of it here: ratios
options: --windows N  measure N windows and print their median and minimum
         --rounds N   repetitions in a window
         --only KEY   one case, such as rtt_64
         --by NAME    one line of each case, such as postbox";

struct Arguments {
    count: bool,
    all: bool,
    out: Option<PathBuf>,
    only: Option<String>,
    by: Option<String>,
    plan: Plan,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("holds") {
        return match print_holds() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("postbox-bench: {error}");
                ExitCode::FAILURE
            }
        };
    }
    match arguments(std::env::args().skip(1)) {
        Ok(arguments) => match bench(&arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("postbox-bench: {error}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("postbox-bench: {error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Prints what operations cost with much and with little in a mailbox.
fn print_holds() -> Result<(), String> {
    let of = |filled| holds(filled).map_err(|error| format!("holds: {error}"));
    let (few, many) = (of(FEW)?, of(MANY)?);
    println!(
        "instructions of one call on a mailbox with {} messages of {} priorities and {} leases, and with {}, {} and {}",
        MANY.messages, MANY.priorities, MANY.leases, FEW.messages, FEW.priorities, FEW.leases
    );
    println!(
        "  {:<44}{:>8}{:>8}{:>8}{:>10}",
        "", "few", "many", "most", "more"
    );
    let mut longest = 0;
    for hold in &many {
        let few = few.iter().find(|few| few.operation == hold.operation);
        let few = few.map_or(0, |few| few.median);
        // The cost of the call outside of the lock is the same.
        let more = hold.most.saturating_sub(few);
        if few != 0 {
            longest = longest.max(more);
        }
        let (name, median, most) = (hold.operation, hold.median, hold.most);
        println!("  {name:<44}{few:>8}{median:>8}{most:>8}{more:>10}");
    }
    println!("longest hold of the lock, beyond that with a few: at most {longest} instructions");
    Ok(())
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let (count, all) = match given.next().as_deref() {
        Some("count") => (true, false),
        Some("all") => (true, true),
        Some("run") => (false, false),
        Some(other) => return Err(format!("unknown command {other}")),
        None => return Err("no command".into()),
    };
    let mut arguments = Arguments {
        count,
        all,
        out: None,
        only: None,
        by: None,
        plan: Plan {
            windows: 7,
            rounds: 500,
        },
    };
    while let Some(option) = given.next() {
        let value = given.next().ok_or(format!("{option} needs a value"))?;
        let number = || match value.parse() {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(format!("{option}: {value} is not a number above zero")),
        };
        match option.as_str() {
            "--out" if count => arguments.out = Some(value.into()),
            "--only" => arguments.only = Some(value),
            "--by" => arguments.by = Some(value),
            "--windows" => arguments.plan.windows = number()?,
            "--rounds" => arguments.plan.rounds = number()?,
            _ => return Err(format!("unknown option {option}")),
        }
    }
    if count && arguments.out.is_none() {
        return Err("--out FILE is missing".into());
    }
    Ok(arguments)
}

type Row = (Transport, Figure);

fn bench(arguments: &Arguments) -> Result<(), String> {
    let all = || CASES.into_iter().chain(MORE);
    let cases: Vec<Case> = match &arguments.only {
        Some(key) => all().filter(|case| case.key() == *key).collect(),
        None if arguments.all => all().collect(),
        None => CASES.to_vec(),
    };
    if cases.is_empty() {
        let keys: Vec<String> = all().map(|case| case.key()).collect();
        return Err(format!("--only takes one of {}", keys.join(", ")));
    }
    if arguments.count && !clock_counts_instructions() {
        return Err(
            "a nanosecond is not an instruction here; run it with `make bench-count` or `make bench`".into(),
        );
    }
    println!(
        "{}, two processes on one CPU; median of {} windows of {}, and the lowest",
        if arguments.count {
            "instructions"
        } else {
            "nanoseconds"
        },
        arguments.plan.windows,
        arguments.plan.rounds,
    );
    let mut results = Vec::new();
    for case in cases {
        println!(
            "\n{}; the kernel copies {} bytes",
            case.title(),
            case.copied()
        );
        println!("  {:<14}{:>12}{:>12}  to postbox", "", "median", "lowest");
        let mut rows: Vec<Row> = Vec::new();
        for &transport in case.transports() {
            if arguments
                .by
                .as_ref()
                .is_some_and(|name| name != transport.name())
            {
                continue;
            }
            let figure = measure(case, transport, arguments.plan)
                .map_err(|error| format!("{} by {}: {error}", case.key(), transport.name()))?;
            rows.push((transport, figure));
            let first = rows[0].1.median;
            let (name, Figure { median, min }) = (transport.name(), figure);
            println!(
                "  {name:<14}{median:>12.0}{min:>12.0}{:>12.2}",
                median / first
            );
        }
        results.push((case, rows));
    }
    let growth = growth(&results);
    if !growth.is_empty() {
        println!("\nreceives outstanding: what the most of them cost, to what one costs");
        for (transport, times) in &growth {
            println!("  {:<14}{times:>12.3}", transport.name());
        }
    }
    if let Some(path) = &arguments.out {
        let failed = |error| format!("{}: {error}", path.display());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        std::fs::write(path, json(&results, &growth)).map_err(failed)?;
    }
    Ok(())
}

/// By how much a message costs more where the most receives are outstanding than where there is one.
fn growth(results: &[(Case, Vec<Row>)]) -> Vec<(Transport, f64)> {
    let parked = |(case, rows)| match case {
        &Case {
            work: Work::UringParked(count),
            ..
        } => Some((count, rows)),
        _ => None,
    };
    let all = || {
        results
            .iter()
            .map(|(case, rows)| (case, rows))
            .filter_map(parked)
    };
    let first = all().find(|(count, _)| *count == 1);
    let last = all()
        .filter(|(count, _)| *count > 1)
        .max_by_key(|(count, _)| *count);
    let (Some((_, first)), Some((_, last))) = (first, last) else {
        return Vec::new();
    };
    let both = first.iter().zip(last);
    both.map(|((transport, one), (_, most))| (*transport, most.median / one.median))
        .collect()
}

fn json(results: &[(Case, Vec<Row>)], growth: &[(Transport, f64)]) -> String {
    let objects = results.iter().map(|(case, rows)| {
        let fields = rows
            .iter()
            .map(|(transport, figure)| format!("\"{}\": {:.1}", transport.name(), figure.median));
        (case.key(), fields.collect::<Vec<_>>())
    });
    let growth = growth
        .iter()
        .map(|(transport, times)| format!("\"{}\": {times:.3}", transport.name()))
        .collect::<Vec<_>>();
    let growth = (!growth.is_empty()).then(|| ("uring_parked_growth".into(), growth));
    let lines: Vec<String> = objects
        .chain(growth)
        .map(|(key, fields): (String, _)| format!("  \"{key}\": {{{}}}", fields.join(", ")))
        .collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}
