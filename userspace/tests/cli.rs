//! What the command says and exits with where no module is needed.
#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn postbox(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postbox"));
    command
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the command runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it prints UTF-8")
}

#[test]
fn wrong_arguments_exit_with_2_and_say_why() {
    for (args, reason) in [
        (&["create"][..], "<NAME>"),
        (
            &["create", "a", "--capacity", "many"],
            "\"rendezvous\" or \"unbounded\"",
        ),
        (&["create", "a", "--message-max", "64 K"], "64KiB"),
        (&["create", "a", "--mode", "999"], "octal"),
        (&["rm"], "<NAME>"),
        (&["recv", "a", "--timeout", "soon"], "10ms"),
        (
            &["recv", "a", "--timeout", "1s", "--nonblock"],
            "cannot be used with",
        ),
        (
            &["recv", "a", "--creds", "--format", "raw"],
            "--creds needs a format other than raw",
        ),
        (&["send", "a", "--priority", "32768"], "32767"),
        (
            &["send", "a", "--data", "x", "--lines"],
            "cannot be used with",
        ),
        (&["ls", "--json", "--plain"], "cannot be used with"),
        (&["chown", "no-such-user-here", "a"], "no user"),
        (&["port", "0"], "1..=65535"),
        (&["port", "65536"], "65535"),
        (&["listen"], "--port"),
        (&["connect", "a", "--port", "1"], "cannot be used with"),
        (&["pipe", "a", "--read", "--write"], "cannot be used with"),
        (&["sem"], "subcommand"),
        (&["sem", "acquire"], "<NAME>"),
        (
            &["sem", "try", "a", "--timeout", "1s"],
            "unexpected argument",
        ),
        (&["barrier", "create", "a"], "--parties"),
        (
            &["latch", "down", "a", "--count", "2", "--", "true"],
            "cannot be used with",
        ),
        (
            &["inbox", "--creds", "--format", "raw"],
            "--creds needs a format other than raw",
        ),
        (&["to", "me", "x"], "invalid digit"),
        (&["frobnicate"], "unrecognized subcommand"),
    ] {
        let output = postbox(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            text(&output.stderr).contains(reason),
            "{args:?}: {}",
            text(&output.stderr)
        );
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn without_the_module_it_says_how_to_load_it() {
    if Path::new(postbox::DEVICE).exists() {
        // Here it is loaded, and the suites in the VM say what happens then.
        return;
    }
    for args in [
        &["ls"][..],
        &["stat", "a"],
        &["create", "a"],
        &["rm", "a"],
        &["chmod", "600", "a"],
        &["chown", "0", "a"],
        &["send", "a"],
        &["recv", "a"],
        &["call", "a", "x"],
        &["serve", "a"],
        &["port", "1"],
        &["listen", "a"],
        &["connect", "--port", "1"],
        &["pipe", "a"],
        &["sem", "create", "a"],
        &["sem", "try", "a", "--", "true"],
        &["sem", "release", "a"],
        &["latch", "down", "a"],
        &["latch", "wait", "a"],
        &["barrier", "wait", "a"],
        &["to", "1", "x"],
        &["inbox"],
        &["limits"],
    ] {
        let output = postbox(args);
        assert_eq!(output.status.code(), Some(69), "{args:?}");
        let message = text(&output.stderr);
        assert!(
            message.contains("not loaded") && message.contains("modprobe postbox"),
            "{message}"
        );
    }
    let output = postbox(&["doctor"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stdout).contains("FAIL    module"),
        "{}",
        text(&output.stdout)
    );
    let output = postbox(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(report["schema"], 1);
    assert_eq!(report["checks"][0]["status"], "FAIL");
    assert!(
        report["checks"][0]["fix"]
            .as_str()
            .is_some_and(|fix| fix.contains("modprobe"))
    );
}

#[test]
fn help_documents_the_exit_statuses() {
    let output = postbox(&["--help"]);
    assert!(output.status.success());
    for status in [
        " 3  there is no such object",
        " 7  the port is in use",
        "69  the module is not loaded",
    ] {
        assert!(text(&output.stdout).contains(status), "{status}");
    }
}

#[test]
fn man_pages_cover_every_subcommand() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("man");
    fs::create_dir_all(&directory).expect("a directory");
    assert!(
        postbox(&["man", directory.to_str().expect("a path in UTF-8")])
            .status
            .success()
    );
    let page = |name: &str| fs::read_to_string(directory.join(name)).expect(name);
    for sub in [
        "ls",
        "stat",
        "create",
        "rm",
        "chmod",
        "chown",
        "send",
        "recv",
        "call",
        "serve",
        "port",
        "listen",
        "connect",
        "pipe",
        "sem",
        "sem create",
        "sem acquire",
        "sem try",
        "sem release",
        "pool create",
        "ring create",
        "ring write",
        "ring read",
        "latch create",
        "latch down",
        "latch wait",
        "barrier create",
        "barrier wait",
        "to",
        "inbox",
        "doctor",
        "limits",
        "completions",
        "man",
    ] {
        let page = page(&format!("postbox-{}.1", sub.replace(' ', "-")));
        let words = format!("postbox {sub}");
        assert!(
            page.contains("EXIT STATUS") && page.contains(&words),
            "{page}"
        );
    }
    assert_eq!(page("postbox.1"), text(&postbox(&["man"]).stdout));
    assert!(page("postbox.1").contains("the module is not loaded"));
}

#[test]
fn a_directory_that_is_missing_is_named() {
    let output = postbox(&["man", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nonexistent/postbox.1"));
}

#[test]
fn completions_know_the_subcommands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = postbox(&["completions", shell]);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("doctor"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_postbox"))
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
}
