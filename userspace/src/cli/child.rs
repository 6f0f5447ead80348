//! Commands that are run for the user.
//!
//! # Signals
//!
//! A verb that runs commands calls [`supervise`] first. From then on a thread takes the signals that end a process, and passes
//! them on to the commands that run. What this process [holds](hold) is given back when they have ended, and not while they
//! clean up; then the signal ends this process.
//!
//! What must not be given back early even where this process is killed without a chance to do anything is held by another process
//! behind it, which outlives it: see [`guarded`].

use crate::Failure;
use crate::retry::Retry;
use rustix::fs::{Access, access};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpid, getppid, kill_process,
    set_parent_process_death_signal, waitid,
};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::{env, thread};

/// The signals that end a process and that users and service managers send.
const ENDING: [Signal; 6] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
];

/// The commands that run, and the signal that this process is to end by.
struct State {
    running: Vec<Pid>,
    ending: Option<Signal>,
}

static STATE: Mutex<State> = Mutex::new(State {
    running: Vec::new(),
    ending: None,
});

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The signals that are blocked here, and not in the commands.
static BLOCKED: OnceLock<libc::sigset_t> = OnceLock::new();

/// The process that the user started, where this one is behind it.
static FRONT: OnceLock<Pid> = OnceLock::new();

/// Ends this process, when it is dropped, by a signal that came while a command ran.
pub struct Hold(());

/// Says that something is held for a command that runs.
pub fn hold() -> Hold {
    Hold(())
}

impl Drop for Hold {
    fn drop(&mut self) {
        let state = state();
        if let (true, Some(signal)) = (state.running.is_empty(), state.ending) {
            end_by(signal);
        }
    }
}

/// Ends this process by a signal.
fn end_by(signal: Signal) -> ! {
    let number = signal.as_raw();
    // SAFETY: the calls take the number of a signal, and a set that `sigemptyset` initialises. The default action needs no handler.
    unsafe {
        libc::signal(number, libc::SIG_DFL);
        let mut set = MaybeUninit::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), number);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut());
        libc::raise(number);
    }
    std::process::exit(128 + number)
}

/// Has a thread take the signals. To be called before there are other threads, which inherit that they are blocked.
pub fn supervise() -> Result<(), Failure> {
    let set = *BLOCKED.get_or_init(block);
    // Where the parent had it ignored there would be nothing to wait for.
    // SAFETY: the default action needs no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    let take = move || {
        loop {
            let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
            // SAFETY: both point to values of their types, and the set is initialised.
            let number = unsafe { libc::sigwaitinfo(&set, info.as_mut_ptr()) };
            // SAFETY: all zeros are a valid siginfo_t, and the call writes a valid one or nothing.
            let code = unsafe { info.assume_init() }.si_code;
            if let Some(signal) = ENDING.into_iter().find(|known| known.as_raw() == number) {
                signalled(signal, code);
            }
        }
    };
    let started = thread::Builder::new().name("signals".into()).spawn(take);
    started.map(drop).map_err(cannot_start)
}

/// A thread could not be started.
pub fn cannot_start(error: io::Error) -> Failure {
    exhausted(&error, format!("cannot start a thread: {error}"))
}

/// A failure for want of something where EAGAIN means that there are too many processes.
fn exhausted(error: &io::Error, message: String) -> Failure {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::INVAL);
    let failure = Failure::of_errno(errno, message);
    Failure {
        passes: failure.passes || errno == Errno::AGAIN,
        ..failure
    }
}

/// Blocks the signals, except those that the parent has had this process ignore.
fn block() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set, and all zeros are a valid sigaction, which the call overwrites.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in ENDING {
            let mut action = MaybeUninit::<libc::sigaction>::zeroed();
            libc::sigaction(signal.as_raw(), std::ptr::null(), action.as_mut_ptr());
            if action.assume_init().sa_sigaction != libc::SIG_IGN {
                libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
            }
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        set.assume_init()
    }
}

/// A signal came that ends this process, if not now, then when no command runs any more.
fn signalled(signal: Signal, code: libc::c_int) {
    let mut state = state();
    state.ending = Some(signal);
    if state.running.is_empty() {
        end_by(signal);
    }
    let orphaned = FRONT.get().is_some_and(|front| getppid() != Some(*front));
    // The terminal has sent it to the commands, too.
    if code == libc::SI_KERNEL && !orphaned {
        return;
    }
    for pid in &state.running {
        // It is not reaped as long as it is in the list; whether it still runs is its own affair.
        let _ = kill_process(*pid, if orphaned { Signal::KILL } else { signal });
    }
}

/// Runs `holder` in a process behind this one. What it holds while its command runs is given back when the command has ended,
/// whatever kills this process: then the holder kills the command, and waits for its end.
pub fn guarded(holder: impl FnOnce() -> Result<ExitCode, Failure>) -> Result<ExitCode, Failure> {
    let front = getpid();
    // SAFETY: this process has one thread, so that its copy is in no state that another thread had to leave first.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let _ = FRONT.set(front);
        supervise()?;
        // The signal is one of those that are taken.
        set_parent_process_death_signal(Some(Signal::TERM)).map_err(io::Error::from)?;
        if getppid() != Some(front) {
            end_by(Signal::TERM);
        }
        return holder();
    }
    let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else {
        let error = io::Error::last_os_error();
        return Err(Failure::new(format!("cannot start a process: {error}")));
    };
    supervise()?;
    state().running.push(pid);
    let hold = hold();
    let status = ended(pid, || {
        let mut status = 0;
        retry_on_intr(|| {
            // SAFETY: `status` is writable.
            match unsafe { libc::waitpid(pid.as_raw_nonzero().get(), &mut status, 0) } {
                -1 => {
                    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::CHILD))
                }
                _ => Ok(ExitStatus::from_raw(status)),
            }
        })
        .map_err(io::Error::from)
    })?;
    if status.signal().is_none() {
        // It has reported what there was.
        std::mem::forget(hold);
    }
    Ok(ExitCode::from(exit_code(status)))
}

/// Whether there is such a command. It may still fail to start.
pub fn check(words: &[OsString]) -> Result<(), Failure> {
    let Some(program) = words.first() else {
        return Ok(());
    };
    let places: Vec<PathBuf> = if program.as_bytes().contains(&b'/') {
        vec![program.into()]
    } else {
        let path = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
        env::split_paths(&path)
            .map(|place| place.join(program))
            .collect()
    };
    let found = || places.iter().filter(|place| place.exists());
    if found().any(|place| place.is_file() && access(place, Access::EXEC_OK).is_ok()) {
        return Ok(());
    }
    let errno = if found().next().is_some() {
        Errno::ACCESS
    } else {
        Errno::NOENT
    };
    Err(cannot_run(program, &errno.into()))
}

fn cannot_run(program: &OsStr, error: &io::Error) -> Failure {
    // As shells do.
    let status = match error.kind() {
        io::ErrorKind::NotFound => 127,
        _ => 126,
    };
    let message = format!("cannot run {}: {error}", program.display());
    Failure {
        status,
        ..exhausted(error, message)
    }
}

/// A command and its arguments; `None` if there is none.
pub fn command(words: &[OsString]) -> Option<Command> {
    let (program, args) = words.split_first()?;
    let mut command = Command::new(program);
    command.args(args);
    Some(command)
}

/// Starts a command that is killed if this thread ends.
pub fn spawn(command: &mut Command) -> Result<Child, Failure> {
    let parent = getpid();
    let blocked = BLOCKED.get().copied();
    let prepare = move || {
        if let Some(blocked) = &blocked {
            // SAFETY: the set is initialised.
            unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, blocked, std::ptr::null_mut()) };
        }
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have died before.
        if getppid() != Some(parent) {
            return Err(Errno::SRCH.into());
        }
        Ok(())
    };
    // SAFETY: after the fork the closure makes system calls, and neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
    let mut state = state();
    if let Some(signal) = state.ending {
        let status = u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX);
        return Err(Failure::with(status, ""));
    }
    // Under the lock, so that a signal finds it.
    let spawned = command.spawn();
    let child = spawned.map_err(|error| cannot_run(command.get_program(), &error))?;
    state
        .running
        .extend(Pid::from_raw(child.id().cast_signed()));
    Ok(child)
}

/// Waits for a command's end.
pub fn wait(child: &mut Child) -> Result<ExitStatus, Failure> {
    match Pid::from_raw(child.id().cast_signed()) {
        Some(pid) => ended(pid, || child.wait()),
        None => Err(Failure::new("the command has no process number")),
    }
}

/// Waits until a process has ended, and reaps it. Its number is nobody else's before that.
fn ended(pid: Pid, reap: impl FnOnce() -> io::Result<ExitStatus>) -> Result<ExitStatus, Failure> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let waited = retry_on_intr(|| waitid(WaitId::Pid(pid), options));
    let mut state = state();
    state.running.retain(|running| *running != pid);
    waited
        .map_err(io::Error::from)
        .and_then(|_| reap())
        .map_err(|error| Failure::new(format!("cannot wait for the command: {error}")))
}

/// Runs a command.
pub fn run(mut command: Command) -> Result<ExitStatus, Failure> {
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
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Retry::default().until(|| spawn(&mut command))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (status, output) = thread::scope(|scope| {
        scope.spawn(move || {
            // Whether it reads all of it is its own affair.
            stdin.map(|mut stdin| stdin.write_all(input))
        });
        let reader = scope.spawn(move || {
            let mut output = Vec::new();
            let read = stdout.map_or(Ok(0), |mut stdout| stdout.read_to_end(&mut output));
            read.map(|_| output)
        });
        let status = wait(&mut child);
        (status, reader.join())
    });
    let status = status?;
    let output = output.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let mut output =
        output.map_err(|error| Failure::new(format!("cannot read from the command: {error}")))?;
    if !status.success() {
        let program = command.get_program().display();
        return Err(Failure::new(format!("{program}: {status}")));
    }
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
    fn missing_commands_are_noticed() {
        let check = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            check(&words).map_err(|failure| failure.status)
        };
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&["sh", "-c", "nonesuch"]), Ok(()));
        assert_eq!(check(&["/bin/sh"]), Ok(()));
        assert_eq!(check(&["no-such-command"]), Err(127));
        assert_eq!(check(&["/nonexistent/sh"]), Err(127));
        assert_eq!(check(&["/etc/passwd"]), Err(126));
        assert_eq!(check(&["/"]), Err(126));
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let run = |script: &str| run(words(&["sh", "-c", script])).map(exit_code);
        assert_eq!(run("exit 3").ok(), Some(3));
        assert_eq!(run("kill -9 $$").ok(), Some(137));
        assert!(command(&[]).is_none());
    }
}
