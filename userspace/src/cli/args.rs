//! What the command takes. The help, the man pages and the completions are made from this.

use clap::{Args, Parser, Subcommand, ValueEnum};
use postbox::Capacity;
use std::ffi::OsString;
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
    (3, "there is no such object, or nobody listens there"),
    (4, "permission denied"),
    (5, "the time was up, or it would have had to wait"),
    (
        6,
        "the other side is gone, died, or did not do what it was to do",
    ),
    (7, "the port is in use"),
    (69, "the module is not loaded"),
];

pub fn exit_status_help() -> String {
    let lines = EXIT_STATUS
        .iter()
        .map(|(status, meaning)| format!("  {status:>2}  {meaning}\n"));
    format!("Exit status:\n{}", lines.collect::<String>())
}

/// Look at and use the objects of the postbox kernel module: mailboxes, links, pipes, semaphores,
/// shared memory
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
    /// List the objects of this IPC namespace
    ///
    /// What has no name but a number is called port:5001 or process:1234. VALUE is what a semaphore
    /// has, what is left of a latch, and how many are at a barrier, of how many.
    #[command(visible_alias = "list")]
    Ls {
        /// Only names that match; * stands for any characters, '/' too, and ? for one
        glob: Option<String>,
        /// All objects of all IPC namespaces, with their numbers; for the system's administrator
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show attributes, state and counters of objects
    Stat {
        /// The objects: names, or port:5001, or process:1234
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
    /// Remove objects: take their names away
    ///
    /// Handles that are open go on working; an object is gone with what is in it when the last of
    /// them is closed.
    Rm {
        /// The objects, of any kind
        #[arg(required_unless_present = "ids", value_name = "NAME")]
        names: Vec<String>,
        /// An object by its number, which `ls --all` shows; the administrator's in any IPC namespace
        #[arg(long = "id", value_name = "N")]
        ids: Vec<u64>,
    },
    /// Change permission bits
    Chmod {
        /// As an octal number: 0640
        #[arg(value_parser = mode)]
        mode: u32,
        /// The objects
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Change owner and group
    Chown {
        /// OWNER, OWNER:GROUP or :GROUP, each a number or a name of /etc/passwd or /etc/group
        #[arg(value_name = "OWNER[:GROUP]")]
        owner: String,
        /// The objects
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
    /// Send a request to a mailbox, and print the reply
    ///
    /// See `postbox serve`. Exits with 6 if the server dies with the request, or does not answer it.
    Call(Call),
    /// Answer the requests of a mailbox
    ///
    /// Runs the command for each request, one after the other, with the request as its standard
    /// input; what it prints, without a newline at its end, is the reply. Who asks is in the
    /// environment: POSTBOX_PID, POSTBOX_UID, POSTBOX_GID. If the command fails, the caller is told
    /// that there will be no reply. Without a command, the reply is the request. Signals that would end
    /// postbox go to the command first, and postbox ends when the request is done.
    ///
    /// The mailbox is made if there is none. Several can serve one mailbox.
    Serve(Serve),
    /// Meet another process on a port, and exchange lines with it
    ///
    /// Whoever comes first waits for the other. Each line of standard input is sent as a message, and
    /// each message that comes is printed as a line. At the end of its input a side says so and
    /// goes on printing until the other side has come to its end, too. A third process is told that
    /// the port is in use.
    Port(Port),
    /// Listen, and serve each connection at the same time
    ///
    /// Runs the command for each connection: the messages that come are the lines of its standard
    /// input, and the lines that it prints are sent. Without a command, what comes is sent back. A line
    /// counts as sent when it was received here. Signals that would end postbox go to the commands, and
    /// postbox ends with the last of them.
    Listen(Listen),
    /// Connect to whoever listens, and exchange lines
    ///
    /// As `postbox port`, once it is connected.
    Connect(Connect),
    /// Write standard input to a pipe, or read a pipe to standard output
    ///
    /// Without --read and --write it writes if standard input is a file, a pipe or a socket, and
    /// otherwise (a terminal, /dev/null) it reads. Scripts should say which.
    ///
    /// The pipe is made if there is none. Either side may come first, and waits for the other, as
    /// long as --timeout or --nonblock say. The reader ends when the last writer is gone and all is
    /// read; the writer exits with 6 if the last reader leaves before that.
    Pipe(Pipe),
    /// Acquire and release semaphores
    #[command(subcommand, visible_alias = "semaphore")]
    Sem(Sem),
    /// Count latches down, and wait until they are open
    #[command(subcommand)]
    Latch(Latch),
    /// Wait until all have arrived
    #[command(subcommand)]
    Barrier(Barrier),
    /// Make, read and write shared memory
    #[command(subcommand)]
    Segment(Segment),
    /// Make pools of shared memory for messages that are not copied
    #[command(subcommand)]
    Pool(Pool),
    /// Make rings, and send and receive records through them
    #[command(subcommand)]
    Ring(Ring),
    /// Let somebody else open an object
    ///
    /// Whoever it is granted to can open it by its name, also where its mode forbids that. For its
    /// owner. A second grant to the same one replaces the first.
    Grant(Grant),
    /// Take back what was granted
    ///
    /// What is open stays open, and what is mapped stays mapped; nobody can open it any more, or map
    /// memory, by what was granted.
    Revoke(Revoke),
    /// Send a message to a process
    ///
    /// The process must have opened its endpoint, as `postbox inbox` does.
    To(To),
    /// Receive what other processes send to this one
    ///
    /// They send it to its process number: `postbox to`. One message, if neither --count nor
    /// --follow is given. There is no end: --follow goes on until postbox is stopped.
    Inbox(Inbox),
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
    pub data: Vec<OsString>,
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
    /// Acknowledge each message after it has been written: if that fails, it goes back to the
    /// mailbox
    #[arg(long)]
    pub ack: bool,
    #[command(flatten)]
    pub receive: Receive,
}

/// How many messages, and how.
#[derive(Args)]
pub struct Receive {
    /// Go on until the end, when the last sender is gone; with --nonblock: until there is no message
    #[arg(long, short, conflicts_with = "count")]
    pub follow: bool,
    /// Receive so many messages
    #[arg(long, short, default_value_t = 1)]
    pub count: u64,
    #[command(flatten)]
    pub print: Print,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Args, Default)]
pub struct Print {
    /// How a message is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Print who sent it, too: pid, tid, uid, gid and priority; text then is one line, with escapes
    #[arg(long)]
    pub creds: bool,
}

#[derive(Args)]
pub struct Call {
    /// The mailbox, which must exist
    pub name: String,
    /// The request; - or nothing: standard input
    pub text: Option<OsString>,
    /// Wait at most so long for the reply: 10ms, 2s, 1m
    #[arg(long, short, value_name = "TIME", value_parser = time)]
    pub timeout: Option<Duration>,
    #[command(flatten)]
    pub print: Print,
}

#[derive(Args)]
pub struct Serve {
    /// The mailbox
    pub name: String,
    /// Permission bits, if it is made: w to call, r to serve (which needs both)
    #[arg(long, short, default_value = "0600", value_parser = mode)]
    pub mode: u32,
    /// End after so many requests
    #[arg(long, short)]
    pub count: Option<u64>,
    #[command(flatten)]
    pub wait: Wait,
    /// What answers a request
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Args)]
pub struct Port {
    /// 1 to 65535
    #[arg(value_parser = port())]
    pub port: u16,
    /// Say on standard error who the other one is
    #[arg(long, short)]
    pub verbose: bool,
    #[command(flatten)]
    pub wait: Wait,
}

/// Where somebody listens.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Address {
    /// Its name
    pub name: Option<String>,
    /// Its port, 1 to 65535, instead of a name
    #[arg(long, short, value_name = "NUMBER", value_parser = port())]
    pub port: Option<u16>,
}

#[derive(Args)]
pub struct Listen {
    #[command(flatten)]
    pub address: Address,
    /// Permission bits: w to connect
    #[arg(long, short, default_value = "0600", value_parser = mode)]
    pub mode: u32,
    /// Accept so many connections, and end with the last of them
    #[arg(long, short)]
    pub count: Option<u64>,
    /// Say on standard error who connects
    #[arg(long, short)]
    pub verbose: bool,
    #[command(flatten)]
    pub wait: Wait,
    /// What serves a connection
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Args)]
pub struct Connect {
    #[command(flatten)]
    pub address: Address,
    /// Say on standard error who the other one is
    #[arg(long, short)]
    pub verbose: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Args)]
pub struct Pipe {
    /// The pipe
    pub name: String,
    /// Read the pipe to standard output
    #[arg(long, short)]
    pub read: bool,
    /// Write standard input to the pipe
    #[arg(long, short, conflicts_with = "read")]
    pub write: bool,
    /// Bytes that it holds, if it is made [default: 64KiB]
    #[arg(long, short = 'b', value_name = "SIZE", value_parser = size)]
    pub capacity_bytes: Option<u64>,
    /// Permission bits, if it is made: w to write, r to read
    #[arg(long, short, default_value = "0600", value_parser = mode)]
    pub mode: u32,
    #[command(flatten)]
    pub wait: Wait,
}

/// A semaphore, latch or barrier that is to be made.
#[derive(Args)]
pub struct Make {
    /// Its name
    pub name: String,
    /// Permission bits: using it needs r and w
    #[arg(long, short, default_value = "0600", value_parser = mode)]
    pub mode: u32,
    /// Do not fail if there is one of that name (which keeps its own attributes)
    #[arg(long)]
    pub exist_ok: bool,
}

#[derive(Subcommand)]
pub enum Sem {
    /// Make a semaphore that stays until it is removed
    Create {
        #[command(flatten)]
        make: Make,
        /// The value that it begins with
        #[arg(long, short, default_value_t = 1)]
        count: u64,
        /// The most that its value can be [default: no limit]
        #[arg(long)]
        maximum: Option<u64>,
    },
    /// Acquire, for good or while a command runs
    ///
    /// With a command: it is released when the command ends, and the exit status is the command's
    /// (128 and the signal's number if a signal ended it, 126 or 127 if it could not be started). If
    /// the command, or postbox, is killed, it is given back, too, and the next one is told that its
    /// holder died; not before the command has ended. Signals that would end postbox go to the command,
    /// and postbox waits for its end; if postbox is killed, the command is killed, too.
    ///
    /// Without: it is gone until somebody releases it.
    Acquire(Acquire),
    /// Acquire if that is possible at once: as acquire --nonblock
    Try(Hold),
    /// Release, whoever acquired it
    Release {
        /// The semaphore
        name: String,
        /// So many
        #[arg(long, short, default_value_t = 1)]
        count: u64,
    },
}

#[derive(Args)]
pub struct Acquire {
    #[command(flatten)]
    pub what: Hold,
    #[command(flatten)]
    pub wait: Wait,
}

/// What is acquired, and for what.
#[derive(Args)]
pub struct Hold {
    /// The semaphore
    pub name: String,
    /// So many, all at once
    #[arg(long, short, default_value_t = 1)]
    pub count: u64,
    /// What runs while it is held
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Subcommand)]
pub enum Latch {
    /// Make a latch that stays until it is removed
    Create {
        #[command(flatten)]
        make: Make,
        /// How often it has to be counted down
        #[arg(long, short, default_value_t = 1)]
        count: u64,
    },
    /// Count down, at once or when a command has succeeded
    ///
    /// With a command: those who wait are told if it fails or is killed (they exit with 6), and the
    /// exit status is the command's, as with `postbox sem acquire`.
    Down {
        /// The latch
        name: String,
        /// By so many
        #[arg(long, short, default_value_t = 1, conflicts_with = "command")]
        count: u64,
        /// What has to succeed first
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Wait until it is open
    Wait(WaitFor),
}

#[derive(Subcommand)]
pub enum Barrier {
    /// Make a barrier that stays until it is removed
    Create {
        #[command(flatten)]
        make: Make,
        /// How many have to be there
        #[arg(long, short)]
        parties: u64,
    },
    /// Wait until all have arrived; one of them prints "leader"
    Wait(WaitFor),
}

/// A latch or barrier.
#[derive(Args)]
pub struct WaitFor {
    /// Its name
    pub name: String,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Subcommand)]
pub enum Segment {
    /// Make a segment that stays until it is removed
    Create {
        #[command(flatten)]
        make: MakeSegment,
        /// Its size, which becomes whole pages
        #[arg(long, short, value_parser = size)]
        size: u64,
    },
    /// Make one that nobody can ever write to, and that stays until it is removed
    ///
    /// It has what the file has, and zeros up to a whole page.
    Freeze {
        #[command(flatten)]
        make: MakeSegment,
        /// What it contains; - is standard input
        #[arg(long, short, value_name = "PATH", default_value = "-")]
        file: PathBuf,
    },
    /// Print what is in it
    Read {
        /// The segment
        name: String,
        /// Where to begin
        #[arg(long, short, default_value = "0", value_parser = size)]
        offset: u64,
        /// How many bytes [default: up to its end]
        #[arg(long, short, value_parser = size)]
        length: Option<u64>,
    },
    /// Write to it
    Write {
        /// The segment
        name: String,
        /// Where to begin
        #[arg(long, short, default_value = "0", value_parser = size)]
        offset: u64,
        /// What is written; - is standard input
        #[arg(long, short, value_name = "PATH", default_value = "-")]
        file: PathBuf,
    },
}

#[derive(Subcommand)]
pub enum Pool {
    /// Make a pool that stays until it is removed
    ///
    /// `postbox stat` shows how many of its blocks are free, held, and under way in messages.
    Create {
        #[command(flatten)]
        make: MakeSegment,
        /// How many blocks
        #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..=65_536))]
        blocks: u32,
        /// Bytes of each, which become a multiple of 64
        #[arg(long, short, value_parser = size)]
        size: u64,
    },
}

#[derive(Subcommand)]
pub enum Ring {
    /// Make a ring that stays until it is removed
    Create {
        /// Its name
        name: String,
        /// Permission bits: w to send, r to receive
        #[arg(long, short, default_value = "0600", value_parser = mode)]
        mode: u32,
        /// Bytes that it holds, rounded up to a power of two; 64 KiB if this is not given
        #[arg(long, short, value_parser = size)]
        size: Option<u64>,
        /// For up to 64 who send at a time
        #[arg(long)]
        many: bool,
        /// Do not fail if there is one of that name (which keeps what it has)
        #[arg(long)]
        exist_ok: bool,
    },
    /// Send each line of standard input as a record
    Write {
        /// The ring
        name: String,
    },
    /// Print each record as a line
    Read {
        /// The ring
        name: String,
        /// End after so many
        #[arg(long, short)]
        count: Option<u64>,
        #[command(flatten)]
        wait: Wait,
    },
}

/// A segment or pool that is to be made.
#[derive(Args)]
pub struct MakeSegment {
    /// Its name
    pub name: String,
    /// Permission bits: r to map it, w to write, too
    #[arg(long, short, default_value = "0600", value_parser = mode)]
    pub mode: u32,
    /// Of huge pages
    #[arg(long)]
    pub huge: bool,
    /// Do not fail if there is one of that name (which keeps what it has)
    #[arg(long)]
    pub exist_ok: bool,
}

#[derive(Args)]
pub struct Grant {
    /// The object, of any kind
    pub name: String,
    /// r to receive, read and map; w to send, write, and write to what is mapped; rw for both
    #[arg(value_parser = ["r", "w", "rw"])]
    pub rights: String,
    #[command(flatten)]
    pub to: Grantee,
}

#[derive(Args)]
pub struct Revoke {
    /// The object, of any kind
    pub name: String,
    #[command(flatten)]
    pub from: Grantee,
}

/// Whom something is granted.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Grantee {
    /// A user: a number or a name of /etc/passwd
    #[arg(long, short)]
    pub uid: Option<String>,
    /// A group: a number or a name of /etc/group
    #[arg(long, short)]
    pub gid: Option<String>,
    /// A process, until it ends
    #[arg(long, short)]
    pub pid: Option<u32>,
}

#[derive(Args)]
pub struct To {
    /// The process's number
    pub pid: u32,
    /// The message; - or nothing: standard input
    pub text: Option<OsString>,
    /// 0 to 32767: the higher is received first
    #[arg(long, short, default_value_t = 0, value_parser = priority())]
    pub priority: u32,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Args)]
pub struct Inbox {
    /// From that process only; what others send stays
    #[arg(long, value_name = "PID")]
    pub from: Option<u32>,
    /// Permission bits: w to send
    #[arg(long, short, default_value = "0600", value_parser = mode)]
    pub mode: u32,
    #[command(flatten)]
    pub receive: Receive,
}

#[derive(Args)]
pub struct Wait {
    /// Wait at most so long, each time: 10ms, 2s, 1m
    #[arg(long, short, value_name = "TIME", value_parser = time, conflicts_with = "nonblock")]
    pub timeout: Option<Duration>,
    /// Do not wait
    #[arg(long, short)]
    pub nonblock: bool,
}

impl Wait {
    pub fn get(&self) -> postbox::Wait {
        if self.nonblock {
            return postbox::Wait::Never;
        }
        at_most(self.timeout)
    }
}

/// As long as it takes, if there is no limit.
pub fn at_most(timeout: Option<Duration>) -> postbox::Wait {
    timeout.map_or(postbox::Wait::Forever, postbox::Wait::Timeout)
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The bytes as they are, and nothing else
    Raw,
    /// The bytes and a newline; on a terminal, or with --creds, control characters are escaped
    #[default]
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

fn port() -> impl clap::builder::TypedValueParser<Value = u16> {
    clap::value_parser!(u16).range(1..)
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
