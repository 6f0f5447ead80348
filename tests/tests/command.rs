//! The command `postbox` with the module: what it prints and what it exits with.

use postbox::{Mailbox, Wait};
use std::io::Write;
use std::process::{Command, Output, Stdio};

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
    let output = postbox_with(b"", args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {error}");
    assert_eq!(status == 0, error.is_empty(), "{args:?}: {error}");
    String::from_utf8(output.stdout).expect("UTF-8")
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
        "command/life\tmailbox\t0620\troot\troot\t3\t3\t11\t0\t0\t0\n"
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
