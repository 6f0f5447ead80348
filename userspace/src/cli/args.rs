//! What the command takes. The help, the man pages and the completions are made from this.

use clap::{Args, Parser, Subcommand, ValueEnum};
use postbox::Capacity;
use std::path::PathBuf;
use std::time::Duration;

/// The exit statuses, for the help and the man pages.
pub const EXIT_STATUS: &[(u8, &str)] = &[
    (0, "done"),
    (
        1,
        "it failed, for a reason that is not below; or some of several names failed",
    ),
    (2, "the command line is wrong"),
    (3, "there is no such mailbox"),
    (4, "permission denied"),
    (5, "the time was up, or it would have had to wait"),
    (6, "the other side is gone"),
    (69, "the module is not loaded"),
];

pub fn exit_status_help() -> String {
    let lines = EXIT_STATUS
        .iter()
        .map(|(status, meaning)| format!("  {status:>2}  {meaning}\n"));
    format!("Exit status:\n{}", lines.collect::<String>())
}

/// Look at and use the mailboxes of the postbox kernel module
///
/// Data goes to standard output, messages to standard error. Sizes are given as 512, 64KiB, 1MiB;
/// times as 10ms, 2s, 1m.
#[derive(Parser)]
#[command(name = "postbox", version, after_long_help = exit_status_help(), max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// List the mailboxes of this IPC namespace
    #[command(visible_alias = "list")]
    Ls {
        /// Only names that match; * stands for any characters, '/' too, and ? for one
        glob: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Show attributes, state and counters of mailboxes
    Stat {
        /// The mailboxes
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Make a mailbox that stays until it is removed
    ///
    /// It is persistent: it outlives this command and every handle, until `postbox rm`, and does
    /// not tell one side that the other is gone.
    Create {
        /// At most 63 of A-Z a-z 0-9 . _ - and single '/' between parts
        name: String,
        /// Messages that it holds: a number, "rendezvous" (none: a send meets a receive) or
        /// "unbounded"
        #[arg(long, short, default_value = "1024", value_parser = capacity)]
        capacity: Capacity,
        /// Bytes that it holds [default: no limit of its own]
        #[arg(long, short = 'b', value_name = "SIZE", value_parser = size)]
        capacity_bytes: Option<u64>,
        /// Bytes of the largest message that it takes [default: the module's limit]
        #[arg(long, short = 's', value_name = "SIZE", value_parser = size)]
        message_max: Option<u64>,
        /// Permission bits: w to send, r to receive
        #[arg(long, short, default_value = "0600", value_parser = mode)]
        mode: u32,
        /// Do not fail if there is a mailbox of that name (which keeps its own attributes)
        #[arg(long)]
        exist_ok: bool,
    },
    /// Remove mailboxes: take their names away
    ///
    /// Handles that are open go on working; a mailbox is gone with its messages when the last of
    /// them is closed.
    Rm {
        /// The mailboxes
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Change permission bits
    Chmod {
        /// As an octal number: 0640
        #[arg(value_parser = mode)]
        mode: u32,
        /// The mailboxes
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Change owner and group
    Chown {
        /// OWNER, OWNER:GROUP or :GROUP, each a number or a name of /etc/passwd or /etc/group
        #[arg(value_name = "OWNER[:GROUP]")]
        owner: String,
        /// The mailboxes
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Send messages
    ///
    /// The message is what --data says, or else the contents of --file, which is standard input if
    /// nothing is said.
    Send(Send),
    /// Receive messages
    ///
    /// One message, if neither --count nor --follow is given.
    Recv(Recv),
    /// Check this machine: module, device, limits; says how to fix what is wrong
    ///
    /// Exits with 0 if all is well, 1 after a warning, 2 after a failure.
    Doctor {
        #[command(flatten)]
        output: Output,
    },
    /// Show what this user has in use, and may
    Limits {
        #[command(flatten)]
        output: Output,
    },
    /// Print a shell's completions
    Completions { shell: clap_complete::Shell },
    /// Print the man page, or write all of them into a directory
    Man {
        /// Where postbox.1, postbox-ls.1 and so on go
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

#[derive(Args)]
pub struct Output {
    /// Print JSON: one object, with "schema": 1
    #[arg(long, conflicts_with_all = ["plain", "no_header"])]
    pub json: bool,
    /// Separate columns by a tab, for scripts
    #[arg(long)]
    pub plain: bool,
    /// Leave the heading out
    #[arg(long)]
    pub no_header: bool,
}

#[derive(Args)]
pub struct Send {
    /// The mailbox, which must exist
    pub name: String,
    /// The message; may be given several times, for several messages
    #[arg(long, short, value_name = "TEXT", conflicts_with_all = ["file", "lines"])]
    pub data: Vec<String>,
    /// Read the message from a file; - is standard input
    #[arg(long, short, value_name = "PATH", default_value = "-")]
    pub file: PathBuf,
    /// Each line is a message
    #[arg(long, short)]
    pub lines: bool,
    /// Send it all so many times
    #[arg(long, short, default_value_t = 1, conflicts_with = "lines")]
    pub count: u64,
    /// 0 to 32767: the higher is received first
    #[arg(long, short, default_value_t = 0, value_parser = priority())]
    pub priority: u32,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Args)]
pub struct Recv {
    /// The mailbox, which must exist
    pub name: String,
    /// Go on until the last sender is gone; with --nonblock: until there is no message
    #[arg(long, short, conflicts_with = "count")]
    pub follow: bool,
    /// Receive so many messages
    #[arg(long, short, default_value_t = 1)]
    pub count: u64,
    /// How a message is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Print who sent it, too: pid, tid, uid, gid and priority
    #[arg(long)]
    pub creds: bool,
    /// Acknowledge each message after it has been written: if that fails, it goes back to the
    /// mailbox
    #[arg(long)]
    pub ack: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Args)]
pub struct Wait {
    /// Wait at most so long for each message: 10ms, 2s, 1m
    #[arg(long, short, value_name = "TIME", value_parser = time, conflicts_with = "nonblock")]
    pub timeout: Option<Duration>,
    /// Do not wait
    #[arg(long, short)]
    pub nonblock: bool,
}

impl Wait {
    pub fn get(&self) -> postbox::Wait {
        match self.timeout {
            Some(timeout) => postbox::Wait::Timeout(timeout),
            None if self.nonblock => postbox::Wait::Never,
            None => postbox::Wait::Forever,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The bytes as they are, and nothing else
    Raw,
    /// A line each; on a terminal, control characters are escaped
    Text,
    /// A line each, in quotes, with escapes for all that is not printable ASCII
    Quoted,
    /// A line each, in hexadecimal
    Hex,
    /// A line each: an object with "text" (or "hex", if it is not UTF-8), "priority", "redelivered"
    /// and "sender"
    Json,
}

fn priority() -> impl clap::builder::TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(..=i64::from(postbox::PRIORITY_MAX))
}

fn capacity(text: &str) -> Result<Capacity, String> {
    match text {
        "rendezvous" | "0" => Ok(Capacity::Rendezvous),
        "unbounded" => Ok(Capacity::Unbounded),
        _ => match text.parse() {
            Ok(messages) => Ok(Capacity::Bounded(messages)),
            Err(_) => Err("give a number of messages, \"rendezvous\" or \"unbounded\"".into()),
        },
    }
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("give an octal number, 0 to 0777".into()),
    }
}

/// A number and one of the units.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn size(text: &str) -> Result<u64, String> {
    with_unit(
        text,
        &[
            ("", 1),
            ("B", 1),
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
        ],
    )
    .ok_or_else(|| "give a size in bytes, KiB, MiB or GiB: 64KiB".into())
}

fn time(text: &str) -> Result<Duration, String> {
    with_unit(
        text,
        &[
            ("ns", 1),
            ("us", 1_000),
            ("ms", 1_000_000),
            ("s", 1_000_000_000),
            ("m", 60_000_000_000),
        ],
    )
    .map(Duration::from_nanos)
    .ok_or_else(|| "give a time in ns, us, ms, s or m: 10ms".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("64KiB"), Ok(65536));
        assert_eq!(time("10ms"), Ok(Duration::from_millis(10)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "KiB", "-1", "64 KiB", "64K", "99999999999GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        for bad in ["", "10", "ms", "1.5s"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn modes_and_capacities() {
        assert_eq!(mode("0640"), Ok(0o640));
        assert!(mode("1000").is_err() && mode("8").is_err() && mode("u+r").is_err());
        assert_eq!(capacity("0"), Ok(Capacity::Rendezvous));
        assert_eq!(capacity("7"), Ok(Capacity::Bounded(7)));
        assert!(capacity("-7").is_err());
    }
}
