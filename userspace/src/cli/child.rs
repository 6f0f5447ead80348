//! Commands that are run for the user.

use crate::Failure;
use rustix::io::Errno;
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

/// A command and its arguments; `None` if there is none.
pub fn command(words: &[OsString]) -> Option<Command> {
    let (program, args) = words.split_first()?;
    let mut command = Command::new(program);
    command.args(args);
    Some(command)
}

pub fn spawn(command: &mut Command) -> Result<Child, Failure> {
    command.spawn().map_err(|error| Failure {
        // As shells do.
        status: if error.kind() == io::ErrorKind::NotFound {
            127
        } else {
            126
        },
        message: format!("cannot run {}: {error}", command.get_program().display()),
    })
}

pub fn wait(child: &mut Child) -> Result<ExitStatus, Failure> {
    child
        .wait()
        .map_err(|error| Failure::new(format!("cannot wait for the command: {error}")))
}

/// Runs a command that is killed if this process dies.
pub fn run(mut command: Command) -> Result<ExitStatus, Failure> {
    let parent = getpid();
    let die_with_parent = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have died before.
        if getppid() != Some(parent) {
            return Err(Errno::SRCH.into());
        }
        Ok(())
    };
    // SAFETY: after the fork the closure makes system calls, and neither allocates nor locks.
    unsafe { command.pre_exec(die_with_parent) };
    wait(&mut spawn(&mut command)?)
}

/// What a shell makes of it.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// What the command prints when it gets `input`. It is a failure if the command fails.
pub fn filter(mut command: Command, input: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let stdin = child.stdin.take();
    let output = thread::scope(|scope| {
        scope.spawn(move || {
            // Whether it reads all of it is its own affair.
            stdin.map(|mut stdin| stdin.write_all(input))
        });
        child.wait_with_output()
    });
    let output =
        output.map_err(|error| Failure::new(format!("cannot read from the command: {error}")))?;
    if !output.status.success() {
        let program = command.get_program().display();
        return Err(Failure::new(format!("{program}: {}", output.status)));
    }
    let mut output = output.stdout;
    output.pop_if(|last| *last == b'\n');
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Command {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        command(&words).expect("it has words")
    }

    #[test]
    fn filters() {
        let filter = |command: &[&str], input: &[u8]| {
            filter(words(command), input).map_err(|failure| (failure.status, failure.message))
        };
        assert_eq!(filter(&["tr", "a-z", "A-Z"], b"abc"), Ok(b"ABC".into()));
        // One newline is the command's, and no more.
        assert_eq!(filter(&["printf", "a\\n\\n"], b""), Ok(b"a\n".into()));
        // Input that nobody reads, and more of it than a pipe holds.
        assert_eq!(filter(&["true"], &[b'x'; 1 << 20]), Ok(b"".into()));
        assert_eq!(filter(&["cat"], &[b'x'; 1 << 20]), Ok(vec![b'x'; 1 << 20]));
        let (status, message) = filter(&["sh", "-c", "exit 3"], b"").unwrap_err();
        assert_eq!((status, &*message), (1, "sh: exit status: 3"));
        let (status, message) = filter(&["/nonexistent"], b"").unwrap_err();
        assert_eq!(status, 127);
        assert!(message.contains("cannot run /nonexistent"), "{message}");
        assert_eq!(filter(&["/"], b"").unwrap_err().0, 126);
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let run = |script: &str| run(words(&["sh", "-c", script])).map(exit_code);
        assert_eq!(run("exit 3").ok(), Some(3));
        assert_eq!(run("kill -9 $$").ok(), Some(137));
        assert!(command(&[]).is_none());
    }
}
