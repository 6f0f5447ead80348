//! The command `postbox` with the module: what it prints and what it exits with.

use postbox::{Info, Kind, Mailbox, Wait};
use postbox_tests::wait_until;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

/// A program that runs. It is killed if a test fails meanwhile.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// How it ended.
#[derive(Debug)]
struct End {
    /// `None`: by a signal.
    status: Option<i32>,
    /// What nobody has read before.
    stdout: String,
    stderr: String,
}

#[track_caller]
fn start_program(program: &str, args: &[&str]) -> Running {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("it is in the guest");
    let stdout = BufReader::new(child.stdout.take().expect("its output"));
    Running {
        stdin: child.stdin.take(),
        stdout,
        child,
    }
}

/// Starts the command. Its standard input is open and empty.
#[track_caller]
fn start(args: &[&str]) -> Running {
    start_program("/bin/postbox", args)
}

/// Starts a script, in which `postbox` is the command.
#[track_caller]
fn script(text: &str) -> Running {
    let mut running = start_program("/bin/sh", &["-c", text]);
    running.stdin = None;
    running
}

impl Running {
    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    #[track_caller]
    fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("its input is open");
        stdin
            .write_all(text.as_bytes())
            .expect("it reads its input");
    }

    /// The next line that it prints, without the newline.
    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("UTF-8");
        line.pop();
        line
    }

    fn running(&mut self) -> bool {
        self.child.try_wait().expect("it is a child").is_none()
    }

    fn kill(&mut self) {
        self.child.kill().expect("it is a child");
    }

    /// Closes its input and waits for its end.
    #[track_caller]
    fn end(mut self) -> End {
        self.stdin = None;
        self.wait()
    }

    /// Waits for its end.
    #[track_caller]
    fn wait(mut self) -> End {
        wait_until("the command to end", || !self.running());
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).expect("UTF-8");
        let mut error = self.child.stderr.take().expect("its errors");
        error.read_to_string(&mut stderr).expect("UTF-8");
        End {
            status: self.child.wait().expect("it has ended").code(),
            stdout,
            stderr,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl End {
    /// What it printed, if it exited with `status`.
    #[track_caller]
    fn with(self, status: i32) -> String {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert_eq!(status == 0, self.stderr.is_empty(), "{self:?}");
        self.stdout
    }
}

/// Waits until there is such an object.
#[track_caller]
fn wait_for(what: &str, is: impl Fn(&Info) -> bool) {
    wait_until(what, || {
        let mut infos = postbox::list().expect("a list");
        infos.any(|info| is(&info.expect("an entry")))
    });
}

#[track_caller]
fn wait_for_named(name: &str, is: impl Fn(&Info) -> bool) {
    wait_for(name, |info| info.name.as_deref() == Some(name) && is(info));
}

/// Runs the command with `input` on its standard input.
fn postbox_with(input: &[u8], args: &[&str]) -> Output {
    let mut command = Command::new("/bin/postbox");
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command is in the guest");
    child
        .stdin
        .take()
        .expect("its input")
        .write_all(input)
        .expect("it reads its input");
    child.wait_with_output().expect("it ends")
}

/// Runs the command; what it printed, if it exited with `status`.
#[track_caller]
fn run(status: i32, args: &[&str]) -> String {
    start(args).end().with(status)
}

#[test]
fn a_mailbox_from_beginning_to_end() {
    run(
        0,
        &[
            "create",
            "command/life",
            "-c",
            "3",
            "-s",
            "1KiB",
            "-m",
            "0620",
        ],
    );
    run(1, &["create", "command/life"]);
    run(0, &["create", "command/life", "--exist-ok"]);
    run(0, &["send", "command/life", "-d", "one", "-d", "two"]);
    run(0, &["send", "command/life", "-d", "first", "-p", "9"]);
    let row = run(0, &["ls", "command/l?fe", "--plain", "--no-header"]);
    assert_eq!(
        row,
        "command/life\tmailbox\t0620\troot\troot\t3\t3\t11\t0\t0\t0\t-\n"
    );
    let stat = run(0, &["stat", "command/life", "--plain"]);
    assert!(stat.contains("command/life\thigh-messages\t3\n"), "{stat}");
    assert_eq!(run(0, &["recv", "command/life"]), "first\n");
    assert_eq!(
        run(0, &["recv", "command/life", "--format", "raw", "--ack"]),
        "one"
    );
    run(0, &["chmod", "0606", "command/life"]);
    run(0, &["chown", "1000:1001", "command/life"]);
    let row = run(0, &["ls", "command/life", "--plain", "--no-header"]);
    assert!(
        row.starts_with("command/life\tmailbox\t0606\talice\tbob\t1\t"),
        "{row}"
    );
    run(1, &["rm", "command/life", "command/none"]);
    run(3, &["stat", "command/life"]);
}

#[test]
fn the_exit_status_tells_the_cause() {
    run(3, &["recv", "command/none"]);
    run(3, &["rm", "command/none"]);
    run(1, &["create", "not//a/name"]);
    run(0, &["create", "command/one", "-c", "1", "-s", "8"]);
    run(5, &["recv", "command/one", "--nonblock"]);
    run(5, &["recv", "command/one", "--timeout", "20ms"]);
    run(1, &["send", "command/one", "-d", "123456789"]);
    run(0, &["send", "command/one", "-d", "1"]);
    run(5, &["send", "command/one", "-d", "2", "--nonblock"]);
    run(5, &["send", "command/one", "-d", "2", "--timeout", "20ms"]);
    run(0, &["rm", "command/one"]);

    // Not persistent, and its only sender is gone.
    let mailbox = Mailbox::unbounded("command/end").expect("a mailbox");
    let (sender, receiver) = mailbox.split().expect("two handles");
    sender
        .send_many(&["a", "b"], 0, Wait::Forever)
        .expect("room");
    drop(sender);
    assert_eq!(run(0, &["recv", "command/end", "--follow"]), "a\nb\n");
    run(6, &["recv", "command/end"]);
    drop(receiver);
}

#[test]
fn formats_and_credentials() {
    run(0, &["create", "command/formats"]);
    let lines = b"plain\n\xff\x1b[2J\n\nend";
    assert!(
        postbox_with(lines, &["send", "command/formats", "--lines"])
            .status
            .success()
    );
    let hex = run(
        0,
        &["recv", "command/formats", "--format", "hex", "--creds"],
    );
    let (who, hex) = hex.split_once('\t').expect("who sent it");
    assert!(
        who.starts_with("pid=") && who.ends_with(" uid=0 gid=0 priority=0"),
        "{who}"
    );
    assert_eq!(hex, "706c61696e\n");
    assert_eq!(
        run(0, &["recv", "command/formats", "--format", "quoted"]),
        "\"\\xff\\x1b[2J\"\n"
    );
    let json = run(0, &["recv", "command/formats", "--format", "json"]);
    for part in [
        "\"schema\":1",
        "\"text\":\"\"",
        "\"redelivered\":false",
        "\"uid\":0",
    ] {
        assert!(json.contains(part), "{part}: {json}");
    }
    assert_eq!(run(0, &["recv", "command/formats", "-f", "-n"]), "end\n");
    // A message is no line of somebody else.
    let forged = "hello\npid=1 tid=1 uid=0 gid=0 priority=0\tshut down\u{9b}";
    let send = |text: &str| postbox_with(text.as_bytes(), &["send", "command/formats"]);
    assert!(send(forged).status.success());
    let text = run(0, &["recv", "command/formats", "--creds"]);
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    assert!(text.ends_with("\thello\\npid=1 tid=1 uid=0 gid=0 priority=0\tshut down\\u{9b}\n"));
    // JSON commands no terminal.
    assert!(send("a\u{9b}2Jb\u{7f}\u{202e}").status.success());
    let json = run(0, &["recv", "command/formats", "--format", "json"]);
    assert!(
        json.contains(r#""text":"a\u009b2Jb\u007f\u202e""#),
        "{json}"
    );
    run(0, &["rm", "command/formats"]);
}

/// What was taken and could not be written goes back.
#[test]
fn output_that_fails_loses_no_acknowledged_message() {
    run(0, &["create", "command/full"]);
    run(0, &["send", "command/full", "-d", "precious"]);
    let full = std::fs::File::create("/dev/full").expect("/dev/full");
    let mut command = Command::new("/bin/postbox");
    command
        .args(["recv", "command/full", "--ack"])
        .stdout(full)
        .stderr(Stdio::null());
    assert_eq!(command.status().expect("it runs").code(), Some(1));
    let json = run(0, &["recv", "command/full", "--format", "json"]);
    assert!(
        json.contains("precious") && json.contains("\"redelivered\":true"),
        "{json}"
    );
    run(0, &["rm", "command/full"]);
}

#[test]
fn the_doctor_finds_nothing_wrong() {
    let report = run(0, &["doctor", "--plain", "--no-header"]);
    for check in [
        "module",
        "device",
        "abi",
        "quota",
        "round trip",
        "open files",
        "io_uring",
        "debugfs",
    ] {
        assert!(
            report.contains(&format!("PASS\t{check}\t")),
            "{check}: {report}"
        );
    }
    let limits = run(0, &["limits", "--json"]);
    assert!(
        limits.contains("\"schema\":1") && limits.contains("\"messages_max\":"),
        "{limits}"
    );
}

/// Rust's runtime opens /dev/null in the place of what is closed.
#[test]
fn closed_standard_descriptors_lose_nothing() {
    run(0, &["create", "command/closed"]);
    run(0, &["send", "command/closed", "-d", "precious"]);
    for command in [
        "recv command/closed",
        "recv command/closed --follow --nonblock",
        "ls",
        "inbox --nonblock",
    ] {
        let closed = script(&format!("exec postbox {command} >&-")).wait();
        assert!(
            closed.stderr.contains("cannot write the output"),
            "{closed:?}"
        );
        closed.with(1);
    }
    for command in ["send command/closed", "send command/closed --lines"] {
        let closed = script(&format!("exec postbox {command} <&-")).wait();
        assert!(closed.stderr.contains("cannot read"), "{closed:?}");
        closed.with(1);
    }
    // Nobody reads /dev/null either, but whoever says that means it.
    assert_eq!(run(0, &["recv", "command/closed"]), "precious\n");
    run(0, &["rm", "command/closed"]);
}

#[test]
fn arguments_are_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let bytes = std::ffi::OsStr::from_bytes(b"\xff\xfe not UTF-8");
    let postbox = |args: &[&str]| {
        let mut command = Command::new("/bin/postbox");
        let status = command.args(args).arg(bytes).stdout(Stdio::null()).status();
        assert!(status.expect("it runs").success(), "{args:?}");
    };
    run(0, &["create", "command/bytes"]);
    postbox(&["send", "command/bytes", "--data"]);
    let hex = run(0, &["recv", "command/bytes", "--format", "hex"]);
    assert!(hex.starts_with("fffe20"), "{hex}");
    run(0, &["rm", "command/bytes"]);

    let server = start(&["serve", "command/bytes", "--count", "1"]);
    wait_for_named("command/bytes", |info| info.receivers == 1);
    postbox(&["call", "command/bytes"]);
    server.end().with(0);

    let inbox = start(&["inbox", "--format", "hex"]);
    wait_for("the inbox", |info| info.number == Some(inbox.child.id()));
    postbox(&["to", &inbox.pid()]);
    assert!(inbox.end().with(0).starts_with("fffe20"));
}

#[test]
fn send_that_fails_in_the_middle_says_how_much_was_sent() {
    run(0, &["create", "command/some", "-c", "3"]);
    let lines = script("seq 1 10 | postbox send command/some --lines --nonblock").wait();
    assert!(lines.stderr.contains("(3 sent before that)"), "{lines:?}");
    lines.with(5);
    let data = start(&["send", "command/some", "-d", "x", "--nonblock"]).end();
    assert!(!data.stderr.contains("before that"), "{data:?}");
    data.with(5);
    run(0, &["rm", "command/some"]);
}

/// In a shell: `producer | postbox pipe NAME` here, and `postbox pipe NAME | consumer` there.
#[test]
fn a_named_pipe_connects_shell_commands_whoever_comes_first() {
    // More than the pipe holds.
    let both = script(
        "seq 1 20000 | postbox pipe command/pipe & postbox pipe command/pipe </dev/null | tail -n 1; wait",
    );
    assert_eq!(both.wait().with(0), "20000\n");

    let reader = start(&["pipe", "command/reader", "--read"]);
    wait_for_named("command/reader", |info| info.receivers == 1);
    let mut writer = start(&["pipe", "command/reader", "-b", "4096"]);
    writer.write("two\nlines");
    writer.end().with(0);
    assert_eq!(reader.wait().with(0), "two\nlines");

    let mut writer = start(&["pipe", "command/writer", "-b", "4096"]);
    wait_for_named("command/writer", |info| info.senders == 1);
    let row = run(0, &["ls", "command/writer", "--plain", "--no-header"]);
    assert_eq!(
        row,
        "command/writer\tpipe\t0600\troot\troot\t-\t4096B\t0\t1\t0\t0\t-\n"
    );
    let reader = start(&["pipe", "command/writer", "--read"]);
    writer.write("x");
    writer.end().with(0);
    assert_eq!(reader.wait().with(0), "x");
    run(3, &["stat", "command/writer"]);
}

#[test]
fn a_pipe_tells_when_the_other_side_does_not_come_or_leaves() {
    for side in ["--read", "--write"] {
        run(5, &["pipe", "command/alone", side, "--timeout", "20ms"]);
        run(5, &["pipe", "command/alone", side, "--nonblock"]);
    }
    // No SIGPIPE: that would be 141.
    let early = script(
        "(seq 1 100000 | postbox pipe command/early; echo writer $?) & \
         postbox pipe command/early --read | head -n 1; wait",
    )
    .wait();
    assert!(
        early.stdout.contains("1\n") && early.stdout.contains("writer 6\n"),
        "{early:?}"
    );
    assert!(
        early.stderr.contains("the last reader is gone"),
        "{early:?}"
    );
    run(0, &["create", "command/no-pipe"]);
    run(1, &["pipe", "command/no-pipe", "--read"]);
    run(0, &["rm", "command/no-pipe"]);
}

#[test]
fn two_processes_meet_on_a_port_and_a_third_is_refused() {
    let mut first = start(&["port", "5001", "--verbose"]);
    wait_for("port 5001", |info| info.number == Some(5001));
    let row = run(0, &["ls", "port:5001", "--plain", "--no-header"]);
    assert!(row.starts_with("port:5001\tlink\t0600\t"), "{row}");
    let mut second = start(&["port", "5001"]);
    wait_for("the second", |info| info.connected);
    let third = start(&["port", "5001"]).end();
    assert!(
        third.stderr.contains("port 5001: it has both its ends"),
        "{third:?}"
    );
    third.with(7);
    run(7, &["listen", "--port", "5001"]);

    first.write("from the first\n");
    assert_eq!(second.line(), "from the first");
    second.write("from the second\nand more");
    assert_eq!(first.line(), "from the second");
    // The end of the input is the end of one direction only.
    second.stdin = None;
    assert_eq!(first.line(), "and more");
    first.write("goodbye\n");
    assert_eq!(second.line(), "goodbye");
    let peer = format!("connected with process {} of user 0", second.pid());
    let first = first.end();
    assert_eq!(first.status, Some(0), "{first:?}");
    assert!(first.stderr.contains(&peer), "{peer}: {first:?}");
    assert_eq!(second.wait().with(0), "");

    // Both are gone, and so the port is free.
    run(5, &["port", "5001", "--timeout", "20ms"]);
    run(3, &["stat", "port:5001"]);
}

#[test]
fn whoever_is_at_a_port_is_told_that_the_other_was_killed() {
    let mut first = start(&["port", "5002"]);
    let mut second = start(&["port", "5002"]);
    second.write("hello\n");
    assert_eq!(first.line(), "hello");
    second.kill();
    let first = first.wait();
    assert!(first.stderr.contains("the other side is gone"), "{first:?}");
    first.with(6);
}

#[test]
fn a_listener_serves_connections_with_a_command_or_sends_back() {
    run(3, &["connect", "command/listener"]);
    let server = start(&[
        "listen",
        "command/listener",
        "-c",
        "2",
        "--",
        "tr",
        "a-z",
        "A-Z",
    ]);
    wait_for_named("command/listener", |info| info.kind == Kind::Listener);
    run(1, &["listen", "command/listener"]);
    for _ in 0..2 {
        let mut client = start(&["connect", "command/listener"]);
        client.write("one\ntwo");
        assert_eq!(client.end().with(0), "ONE\nTWO\n");
    }
    server.end().with(0);

    let server = start(&["listen", "--port", "5003", "--count", "1"]);
    wait_for("port 5003", |info| info.number == Some(5003));
    let stat = run(0, &["stat", "port:5003", "--plain"]);
    assert!(stat.contains("port:5003\tkind\tlistener\n"), "{stat}");
    let mut client = start(&["connect", "--port", "5003"]);
    for text in ["one", "", "three"] {
        client.write(&format!("{text}\n"));
        assert_eq!(client.line(), text);
    }
    assert_eq!(client.end().with(0), "");
    server.end().with(0);
    run(5, &["listen", "--port", "5003", "--timeout", "20ms"]);
}

#[test]
fn calls_are_answered_by_a_command() {
    run(3, &["call", "command/upper", "x"]);
    let server = start(&[
        "serve",
        "command/upper",
        "--count",
        "4",
        "--",
        "sh",
        "-c",
        "read word && exit 1; test \"$word\" && echo \"$word of $POSTBOX_UID\" | tr a-z A-Z",
    ]);
    wait_for_named("command/upper", |info| info.receivers == 1);
    assert_eq!(run(0, &["call", "command/upper", "abc"]), "ABC OF 0\n");
    let mut call = start(&["call", "command/upper", "-", "--format", "hex", "--creds"]);
    call.write("def");
    let reply = call.end().with(0);
    let who = format!("pid={} ", server.pid());
    assert!(
        reply.starts_with(&who) && reply.ends_with("\t444546204f462030\n"),
        "{reply}"
    );
    // The server does not answer, for the command fails; and it goes on.
    let refused = start(&["call", "command/upper", ""]).end();
    assert!(refused.stderr.contains("dropped"), "{refused:?}");
    refused.with(6);
    assert_eq!(run(0, &["call", "command/upper", "g"]), "G OF 0\n");
    let server = server.end();
    assert_eq!(server.status, Some(0), "{server:?}");
    assert!(server.stderr.contains("sh: exit status: 1"), "{server:?}");

    let server = start(&["serve", "command/echo", "--count", "1"]);
    wait_for_named("command/echo", |info| info.receivers == 1);
    assert_eq!(run(0, &["call", "command/echo", "a\nb"]), "a\nb\n");
    server.end().with(0);
}

#[test]
fn a_call_that_is_not_answered_says_so() {
    run(0, &["create", "command/no-server"]);
    run(5, &["call", "command/no-server", "x", "--timeout", "20ms"]);
    run(0, &["rm", "command/no-server"]);
    // The command kills the server, which is its parent.
    let server = start(&["serve", "command/dying", "--", "sh", "-c", "kill -9 $PPID"]);
    wait_for_named("command/dying", |info| info.receivers == 1);
    let call = start(&["call", "command/dying", "x"]).end();
    assert!(call.stderr.contains("the server died"), "{call:?}");
    call.with(6);
    assert_eq!(server.wait().status, None);
}

#[test]
fn a_ring_is_made_written_and_read() {
    run(
        0,
        &["ring", "create", "command/ring", "--size", "8KiB", "--many"],
    );
    run(1, &["ring", "create", "command/ring"]);
    run(0, &["ring", "create", "command/ring", "--exist-ok"]);
    let mut writer = start(&["ring", "write", "command/ring"]);
    writer.write("one\n\nthree\n");
    writer.end().with(0);
    let read = run(0, &["ring", "read", "command/ring", "--count", "2"]);
    assert_eq!(read, "one\n\n");
    let read = run(0, &["ring", "read", "command/ring", "--count", "1"]);
    assert_eq!(read, "three\n");
    let info = postbox::stat("command/ring").expect("it stays");
    assert_eq!((info.kind, info.bytes), (postbox::Kind::Ring, 0));
    run(0, &["rm", "command/ring"]);
}

#[test]
fn a_pool_is_made_and_shown() {
    let create = ["pool", "create", "command/pool", "--blocks", "8", "--size"];
    run(0, &[&create[..], &["1KiB"]].concat());
    run(1, &[&create[..], &["64"]].concat());
    run(0, &[&create[..], &["64", "--exist-ok"]].concat());
    run(
        2,
        &[
            "pool",
            "create",
            "command/none",
            "--blocks",
            "0",
            "--size",
            "64",
        ],
    );
    run(
        2,
        &[
            "pool",
            "create",
            "command/none",
            "--blocks",
            "65537",
            "--size",
            "64",
        ],
    );
    let row = || run(0, &["ls", "command/pool", "--plain", "--no-header"]);
    let expected = "command/pool\tpool\t0600\troot\troot\t0\t1024B\t-\t0\t0\t0\t8/8\n";
    assert_eq!(row(), expected);
    let pool = postbox::Pool::options()
        .keep(0)
        .open("command/pool")
        .expect("the command made it");
    let loan = pool.loan(1000).expect("all are free");
    let facts = run(0, &["stat", "command/pool"]);
    // The object's name comes first.
    let fact = |name: &str| {
        let mut lines = facts.lines().map(|line| line.split_whitespace().skip(1));
        let mut found = lines.find_map(|mut words| (words.next() == Some(name)).then_some(words));
        found
            .as_mut()
            .and_then(|words| words.next())
            .map(str::to_owned)
    };
    for (name, value) in [
        ("blocks", "8"),
        ("free", "7"),
        ("held", "1"),
        ("under-way", "0"),
    ] {
        assert_eq!(fact(name).as_deref(), Some(value), "{name} in\n{facts}");
    }
    drop((loan, pool));
    assert_eq!(row(), expected);
    run(0, &["rm", "command/pool"]);
}

#[test]
fn a_semaphore_is_acquired_for_good_and_released() {
    run(
        0,
        &[
            "sem",
            "create",
            "command/units",
            "--count",
            "2",
            "--maximum",
            "2",
        ],
    );
    run(1, &["sem", "create", "command/units"]);
    run(0, &["sem", "create", "command/units", "--exist-ok"]);
    run(0, &["sem", "acquire", "command/units"]);
    let row = run(0, &["ls", "command/units", "--plain", "--no-header"]);
    assert_eq!(
        row,
        "command/units\tsemaphore\t0600\troot\troot\t-\t-\t-\t0\t0\t0\t1/2\n"
    );
    run(5, &["sem", "try", "command/units", "--count", "2"]);
    run(
        5,
        &[
            "sem",
            "acquire",
            "command/units",
            "-c",
            "2",
            "--timeout",
            "20ms",
        ],
    );
    run(0, &["sem", "try", "command/units"]);
    let waits = start(&["sem", "acquire", "command/units", "--count", "2"]);
    wait_for_named("command/units", |info| info.waiting_receivers == 1);
    run(0, &["sem", "release", "command/units", "--count", "2"]);
    waits.wait().with(0);
    run(0, &["sem", "release", "command/units", "--count", "2"]);
    run(1, &["sem", "release", "command/units"]);
    run(3, &["sem", "acquire", "command/none"]);
    run(0, &["rm", "command/units"]);
}

#[test]
fn a_semaphore_is_held_while_a_command_runs_and_comes_back_if_it_is_killed() {
    run(0, &["sem", "create", "command/lock", "--maximum", "1"]);
    let acquire = |command: &[&str]| {
        start(&[&["sem", "acquire", "command/lock", "--"], command].concat()).end()
    };
    let died = "a holder of \"command/lock\" died";
    assert_eq!(acquire(&["echo", "held"]).with(0), "held\n");
    let status = acquire(&["sh", "-c", "postbox sem try command/lock; exit $?"]);
    status.with(5);
    acquire(&["no-such-program"]).with(127);
    assert_eq!(acquire(&["sh", "-c", "exit 7"]).status, Some(7));
    // Nobody has died so far.
    acquire(&["true"]).with(0);

    // The command is killed ...
    assert_eq!(acquire(&["sh", "-c", "kill -9 $$"]).status, Some(137));
    let next = acquire(&["true"]);
    assert!(
        next.status == Some(0) && next.stderr.contains(died),
        "{next:?}"
    );
    acquire(&["true"]).with(0);

    // ... or postbox is, and the command with it.
    let script = "echo $$; exec sleep 1000";
    let mut holder = start(&["sem", "acquire", "command/lock", "--", "sh", "-c", script]);
    let command = holder.line();
    run(5, &["sem", "try", "command/lock"]);
    holder.kill();
    let next = acquire(&["true"]);
    assert!(
        next.status == Some(0) && next.stderr.contains(died),
        "{next:?}"
    );
    wait_until("the command to be killed", || {
        let stat = std::fs::read_to_string(format!("/proc/{command}/stat"));
        stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
    });
    run(0, &["rm", "command/lock"]);
}

/// A command that says that it runs, and at SIGTERM cleans up until it may end.
const CLEANS_UP: &str =
    "trap 'echo cleaning; read x; echo clean; exit 3' TERM; echo $$; while :; do sleep 0.01; done";

fn terminate(pid: &str) {
    run_program("kill", &["-TERM", pid]);
}

fn run_program(program: &str, args: &[&str]) {
    start_program(program, args).end().with(0);
}

#[test]
fn semaphore_is_held_until_signalled_command_has_cleaned_up() {
    run(0, &["sem", "create", "command/signal", "--maximum", "1"]);
    let acquire = [
        "sem",
        "acquire",
        "command/signal",
        "--",
        "sh",
        "-c",
        CLEANS_UP,
    ];
    let mut holder = start(&acquire);
    holder.line();
    terminate(&holder.pid());
    assert_eq!(holder.line(), "cleaning");
    run(5, &["sem", "try", "command/signal"]);
    assert!(holder.running());
    holder.write("\n");
    assert_eq!(holder.line(), "clean");
    // The command's status, and no word of a death.
    assert_eq!(holder.end().status, Some(3));
    run(0, &["sem", "try", "command/signal", "--", "true"]);

    // One that still waits just ends.
    let mut holder = start(&acquire);
    holder.line();
    let waits = start(&["sem", "acquire", "command/signal", "--", "true"]);
    wait_for_named("command/signal", |info| info.waiting_receivers == 1);
    terminate(&waits.pid());
    assert_eq!(waits.wait().status, None);
    drop(holder);
    run_program("postbox", &["rm", "command/signal"]);
}

/// Whatever kills `postbox sem acquire`: the next holder does not run while the command still does.
#[test]
fn semaphore_is_not_given_back_before_killed_command_has_ended() {
    run(0, &["sem", "create", "command/killed", "--maximum", "1"]);
    for _ in 0..postbox_tests::scaled(20) {
        let script = "echo $$; exec sleep 1000";
        let mut holder = start(&["sem", "acquire", "command/killed", "--", "sh", "-c", script]);
        let command = holder.line();
        holder.kill();
        // Right behind it: the state of the command, as the next holder finds it.
        let state = format!("grep State: /proc/{command}/status 2>/dev/null; true");
        let next = start(&["sem", "acquire", "command/killed", "--", "sh", "-c", &state]).end();
        assert!(next.stderr.contains("died"), "{next:?}");
        assert!(
            next.stdout.is_empty() || next.stdout.contains("zombie"),
            "{next:?}"
        );
    }
    run(0, &["rm", "command/killed"]);
}

#[test]
fn latch_breaks_only_when_signalled_command_has_ended() {
    run(0, &["latch", "create", "command/broken"]);
    let mut holder = start(&[
        "latch",
        "down",
        "command/broken",
        "--",
        "sh",
        "-c",
        CLEANS_UP,
    ]);
    holder.line();
    terminate(&holder.pid());
    assert_eq!(holder.line(), "cleaning");
    run(5, &["latch", "wait", "command/broken", "--nonblock"]);
    holder.write("\n");
    assert_eq!(holder.end().status, Some(3));
    run(6, &["latch", "wait", "command/broken"]);
    run(0, &["rm", "command/broken"]);
}

#[test]
fn signalled_server_finishes_its_request() {
    let mut server = start(&[
        "serve",
        "command/finish",
        "--",
        "sh",
        "-c",
        "trap 'echo finished; exit 0' TERM; echo $$ >/tmp/command-finish; while :; do sleep 0.01; done",
    ]);
    wait_for_named("command/finish", |info| info.receivers == 1);
    let call = start(&["call", "command/finish", "x"]);
    wait_until("the command to run", || {
        std::fs::read_to_string("/tmp/command-finish").is_ok_and(|pid| pid.ends_with('\n'))
    });
    terminate(&server.pid());
    assert_eq!(call.wait().with(0), "finished\n");
    wait_until("the server to end", || !server.running());
    // By the signal, as if it had ended at once.
    assert_eq!(server.end().status, None);
    let _ = std::fs::remove_file("/tmp/command-finish");

    // Where no command runs it ends at once.
    let idle = start(&["serve", "command/finish", "--", "cat"]);
    wait_for_named("command/finish", |info| info.receivers == 1);
    terminate(&idle.pid());
    assert_eq!(idle.wait().status, None);
}

#[test]
fn signalled_listener_ends_after_its_commands() {
    let command =
        "trap 'echo clean >/tmp/command-clean; exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let server = start(&["listen", "command/stop", "--", "sh", "-c", command]);
    wait_for_named("command/stop", |_| true);
    let mut client = start(&["connect", "command/stop"]);
    assert_eq!(client.line(), "up");
    terminate(&server.pid());
    assert_eq!(server.wait().status, None);
    let clean = std::fs::read_to_string("/tmp/command-clean").unwrap_or_default();
    assert_eq!(clean, "clean\n");
    let _ = std::fs::remove_file("/tmp/command-clean");
}

#[test]
fn servers_do_not_start_with_a_command_that_does_not_exist() {
    run(
        127,
        &["listen", "command/nonesuch", "--", "no-such-program"],
    );
    run(127, &["serve", "command/nonesuch", "--", "no-such-program"]);
    run(126, &["listen", "command/nonesuch", "--", "/tmp"]);
    run(3, &["stat", "command/nonesuch"]);
}

/// The command is there, and does not start.
#[test]
fn client_is_told_that_its_input_was_lost() {
    use std::os::unix::fs::PermissionsExt;
    let command = "/tmp/command-lost";
    std::fs::write(command, "#!/no-such-interpreter\n").expect("a file");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(command, executable).expect("it is ours");
    let server = start(&["listen", "command/lost", "-c", "1", "--", command]);
    wait_for_named("command/lost", |_| true);
    let mut client = start(&["connect", "command/lost"]);
    client.write("lost\n");
    client.end().with(6);
    let server = server.end();
    assert!(server.stderr.contains("cannot run"), "{server:?}");
    let _ = std::fs::remove_file(command);
}

/// More clients than it has descriptors for.
#[test]
fn listener_without_descriptors_waits_and_goes_on() {
    let server = script("ulimit -n 24; exec postbox listen command/many -c 30 -- cat");
    wait_for_named("command/many", |_| true);
    let mut clients: Vec<_> = (0..30)
        .map(|_| start(&["connect", "command/many"]))
        .collect();
    // They are served in any order, and each makes room for others when it has ended.
    for client in &mut clients {
        client.write("hello\n");
        client.stdin = None;
    }
    for client in clients {
        assert_eq!(client.wait().with(0), "hello\n");
    }
    let server = server.wait();
    assert_eq!(server.status, Some(0), "{server:?}");
    assert!(server.stderr.contains("waiting"), "{server:?}");
}

#[test]
fn z_runs_after_x_and_y() {
    run(0, &["latch", "create", "command/x-and-y", "--count", "2"]);
    let mut z = script("postbox latch wait command/x-and-y && echo z");
    wait_for_named("command/x-and-y", |info| info.waiting_receivers == 1);
    run(5, &["latch", "wait", "command/x-and-y", "--nonblock"]);
    assert_eq!(
        run(0, &["latch", "down", "command/x-and-y", "--", "echo", "x"]),
        "x\n"
    );
    run(
        5,
        &["latch", "wait", "command/x-and-y", "--timeout", "20ms"],
    );
    assert!(z.running());
    run(0, &["latch", "down", "command/x-and-y"]);
    assert_eq!(z.wait().with(0), "z\n");
    run(0, &["latch", "wait", "command/x-and-y"]);
    run(1, &["latch", "down", "command/x-and-y"]);
    run(0, &["rm", "command/x-and-y"]);
}

#[test]
fn z_is_told_that_x_failed_or_was_killed() {
    for killed in [false, true] {
        run(0, &["latch", "create", "command/x"]);
        let z = start(&["latch", "wait", "command/x"]);
        wait_for_named("command/x", |info| info.waiting_receivers == 1);
        if killed {
            let mut x = start(&[
                "latch",
                "down",
                "command/x",
                "--",
                "sh",
                "-c",
                "echo; read x",
            ]);
            x.line();
            x.kill();
        } else {
            assert_eq!(
                start(&["latch", "down", "command/x", "--", "false"])
                    .end()
                    .status,
                Some(1)
            );
        }
        z.wait().with(6);
        let row = run(0, &["ls", "command/x", "--plain", "--no-header"]);
        assert!(row.ends_with("\t1/1 broken\n"), "{row}");
        run(0, &["rm", "command/x"]);
    }
}

#[test]
fn all_go_on_at_a_barrier_and_one_leads() {
    run(0, &["barrier", "create", "command/round", "--parties", "3"]);
    run(5, &["barrier", "wait", "command/round", "--nonblock"]);
    for _ in 0..2 {
        let waits: Vec<_> = (0..3)
            .map(|_| start(&["barrier", "wait", "command/round"]))
            .collect();
        let mut said: Vec<_> = waits.into_iter().map(|wait| wait.wait().with(0)).collect();
        said.sort();
        assert_eq!(said, ["", "", "leader\n"]);
    }
    run(0, &["rm", "command/round"]);
}

#[test]
fn processes_send_to_each_other_by_their_numbers() {
    let mut inbox = start(&["inbox", "--count", "3"]);
    let pid = inbox.pid();
    wait_for("the inbox", |info| info.number == Some(inbox.child.id()));
    let stat = run(0, &["stat", &format!("process:{pid}"), "--plain"]);
    assert!(stat.contains("\tkind\tendpoint\n"), "{stat}");
    run(0, &["to", &pid, "one"]);
    assert_eq!(inbox.line(), "one");
    assert!(postbox_with(b"two", &["to", &pid]).status.success());
    assert_eq!(inbox.line(), "two");
    run(0, &["to", &pid, "three"]);
    assert_eq!(inbox.end().with(0), "three\n");
    // Its process is gone, and this one has no endpoint.
    run(6, &["to", &pid, "four"]);
    run(3, &["to", &std::process::id().to_string(), "five"]);
    run(5, &["inbox", "--nonblock"]);
}

#[test]
fn an_inbox_can_be_for_one_process_alone() {
    let mut wanted = start_program("/bin/sh", &["-c", "read pid; exec postbox to $pid wanted"]);
    let inbox = start(&["inbox", "--from", &wanted.pid(), "--creds"]);
    let pid = inbox.pid();
    wait_for("the inbox", |info| info.number == Some(inbox.child.id()));
    run(0, &["to", &pid, "another", "--priority", "1"]);
    wanted.write(&format!("{pid}\n"));
    let from = format!("pid={} ", wanted.pid());
    wanted.end().with(0);
    let message = inbox.end().with(0);
    assert!(
        message.starts_with(&from) && message.ends_with("\twanted\n"),
        "{message}"
    );
}

#[test]
fn a_segment_is_made_written_read_and_granted() {
    let name = "command/segment";
    run(0, &["segment", "create", name, "--size", "6KiB"]);
    let again = ["segment", "create", name, "--size", "1"];
    start(&again).end().with(1);
    run(0, &["segment", "create", name, "--size", "1", "--exist-ok"]);
    let write = |offset: &str, text: &str| {
        let line = format!("printf {text} | postbox segment write {name} --offset {offset}");
        script(&line).end()
    };
    write("4094", "hello").with(0);
    let read = ["segment", "read", name, "--offset", "4094", "-l", "6"];
    assert_eq!(run(0, &read), "hello\0");
    assert_eq!(run(0, &["segment", "read", name]).len(), 8192);
    let beyond = write("8190", "hello");
    assert!(beyond.stderr.contains("8192 bytes"), "{}", beyond.stderr);
    beyond.with(1);
    run(1, &["segment", "read", name, "-o", "8KiB", "-l", "1"]);

    let facts = run(0, &["stat", name, "--plain"]);
    for fact in ["kind\tsegment", "size\t8192", "frozen\tno"] {
        assert!(facts.contains(fact), "{fact}: {facts}");
    }
    let listed = run(0, &["ls", name, "--plain", "--no-header"]);
    assert!(listed.contains("8192B"), "{listed}");

    run(0, &["grant", name, "r", "--uid", "1000"]);
    run(0, &["grant", name, "rw", "--gid", "1234"]);
    let me = std::process::id().to_string();
    run(0, &["grant", name, "w", "--pid", &me]);
    run(0, &["revoke", name, "--uid", "1000"]);
    run(3, &["revoke", name, "--uid", "1000"]);
    run(2, &["grant", name, "r"]);
    run(2, &["grant", name, "x", "--uid", "1"]);
    run(2, &["grant", name, "r", "--uid", "1", "--gid", "1"]);
    run(6, &["grant", name, "r", "--pid", "4194303"]);
    run(0, &["rm", name]);
    run(3, &["segment", "read", name]);

    let frozen = "command/frozen";
    script(&format!("printf abc | postbox segment freeze {frozen}"))
        .end()
        .with(0);
    assert_eq!(run(0, &["segment", "read", frozen, "-l", "4"]), "abc\0");
    let facts = run(0, &["stat", frozen, "--plain"]);
    assert!(facts.contains("frozen\tyes"), "{facts}");
    script(&format!("echo | postbox segment write {frozen}"))
        .end()
        .with(4);
    run(0, &["rm", frozen]);
}

#[test]
fn what_is_listed_says_what_it_is() {
    run(0, &["create", "command/kinds/a"]);
    run(0, &["sem", "create", "command/kinds/b"]);
    run(0, &["latch", "create", "command/kinds/c"]);
    run(
        0,
        &["barrier", "create", "command/kinds/d", "--parties", "2"],
    );
    let pipe = start(&["pipe", "command/kinds/e", "--read"]);
    let listener = start(&["listen", "command/kinds/f"]);
    wait_for_named("command/kinds/e", |_| true);
    wait_for_named("command/kinds/f", |_| true);
    let kinds = [
        "mailbox",
        "semaphore",
        "latch",
        "barrier",
        "pipe",
        "listener",
    ];
    let rows = run(0, &["ls", "command/kinds/*", "--plain", "--no-header"]);
    let shown: Vec<_> = rows
        .lines()
        .filter_map(|row| row.split('\t').nth(1))
        .collect();
    assert_eq!(shown, kinds);
    let json = run(0, &["ls", "command/kinds/*", "--json"]);
    for kind in kinds {
        assert!(json.contains(&format!("\"kind\":\"{kind}\"")), "{json}");
    }
    for (name, fact) in [("b", "value\t1"), ("c", "broken\tno"), ("d", "maximum\t2")] {
        let stat = run(0, &["stat", &format!("command/kinds/{name}"), "--plain"]);
        assert!(stat.contains(&format!("\t{fact}\n")), "{stat}");
    }
    // Attributes are those of every kind, also where the mode forbids everything else.
    for name in ["a", "b", "c", "d", "e", "f"] {
        let name = &format!("command/kinds/{name}");
        run(0, &["chmod", "0000", name]);
        run(0, &["chown", "alice:bob", name]);
        let row = run(0, &["ls", name, "--plain", "--no-header"]);
        assert!(row.contains("\t0000\talice\tbob\t"), "{row}");
    }
    // An object of one kind is not one of another.
    run(1, &["sem", "acquire", "command/kinds/c"]);
    run(1, &["recv", "command/kinds/b"]);
    drop((pipe, listener));
    let names: Vec<_> = ["a", "b", "c", "d"]
        .map(|name| format!("command/kinds/{name}"))
        .into();
    run(0, &["rm", &names[0], &names[1], &names[2], &names[3]]);
}
