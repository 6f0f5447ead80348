//! What an operation is to the driver: a task that has the memory, and says what to do with what the
//! kernel answers.

use super::sqe::{Command, File};
use super::stream::Multishot;
use crate::object::Inner;
use crate::recv::Message;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::any::Any;
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A handle that commands go to. Every task has a reference to its own, so that it stays open.
pub(super) trait Hold: Send + Sync {
    fn inner(&self) -> &Inner;
    fn file(&self) -> File<'_>;
    fn stash(&self) -> &Stash;
}

/// What was received and nobody wanted any more: a receive had been dropped, and its cancellation
/// came too late. Whoever receives next through this handle gets it first.
#[derive(Default)]
pub(super) struct Stash {
    taken: Mutex<VecDeque<Taken>>,
}

impl Stash {
    pub(super) fn lock(&self) -> MutexGuard<'_, VecDeque<Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a task has taken out of an object.
#[derive(Debug)]
pub(super) enum Taken {
    /// A message, with the token of a request.
    Message(Box<Message>, u64),
    /// Bytes of which no more is known.
    Bytes(Vec<u8>),
    /// A connection.
    Link(OwnedFd),
}

/// The kernel is not using the memory of the task. Only the driver can say so.
pub(super) struct Idle(());

impl Idle {
    /// # Safety
    /// As long as this is there, no command of the task that it is given to is in the kernel's hands,
    /// or in a queue to it.
    pub(super) unsafe fn new() -> Self {
        Idle(())
    }
}

/// A struct that the kernel reads and writes while a command is in its hands. It is apart from what
/// points to it, which may be moved and borrowed meanwhile.
#[derive(Debug)]
pub(super) struct Args<T>(NonNull<T>);

// SAFETY: It is the one owner of a T.
unsafe impl<T: Send> Send for Args<T> {}

impl<T> Args<T> {
    pub(super) fn new(args: T) -> Self {
        Args(NonNull::from(Box::leak(Box::new(args))))
    }

    pub(super) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }

    pub(super) fn get(&self, _: &Idle) -> &T {
        // SAFETY: It is there until it is dropped, and the kernel does not use it.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn get_mut(&mut self, _: &Idle) -> &mut T {
        // SAFETY: As above; it is borrowed mutably.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for Args<T> {
    fn drop(&mut self) {
        // SAFETY: It was made of a box, and is the one owner. Tasks are dropped only when the kernel
        // has done with them.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// Memory that the kernel writes a payload to, which need not be initialised.
#[derive(Debug, Default)]
pub(super) struct Room(Vec<u8>);

impl Room {
    /// Makes it one of at least so many bytes, with nothing in it.
    pub(super) fn make(&mut self, len: usize, _: &Idle) -> Result<(), Errno> {
        self.0.clear();
        self.0.try_reserve_exact(len).map_err(|_| Errno::NOMEM)
    }

    pub(super) fn len(&self) -> usize {
        self.0.capacity()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    /// So many bytes of it.
    ///
    /// # Safety
    /// The kernel has written them.
    pub(super) unsafe fn part(&self, offset: usize, len: usize, _: &Idle) -> &[u8] {
        let offset = offset.min(self.0.capacity());
        let len = len.min(self.0.capacity() - offset);
        // SAFETY: Within its capacity, and initialised, by the contract.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(offset), len) }
    }

    /// Takes it out with the first `len` bytes in it.
    ///
    /// # Safety
    /// The kernel has written so many bytes.
    pub(super) unsafe fn filled(&mut self, len: usize, _: &Idle) -> Vec<u8> {
        let mut payload = std::mem::take(&mut self.0);
        let len = len.min(payload.capacity());
        // SAFETY: Within its capacity, and initialised, by the contract.
        unsafe { payload.set_len(len) };
        payload
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) result: Result<u32, Errno>,
    /// Whether it was to be cancelled.
    pub(super) cancelled: bool,
}

/// What comes after a command.
pub(super) enum Next<T> {
    Done(T),
    /// One more command: the memory was too small, or there is more to do.
    Again,
    /// The same after a while: the kernel does not wait for that.
    Later,
}

/// An operation: its memory, and its logic.
pub(super) trait Operation: Send + 'static {
    type Output: Send + 'static;

    /// Whether `ECANCELED` that nobody asked for proves that nothing was done, so that the command is
    /// submitted again. It comes when the thread has ended that submitted it. Where something was
    /// committed, the kernel reports that; what the command was handed went back.
    const RESTARTS: bool;

    /// The command to submit. It is called again where [`complete`](Self::complete) says so.
    fn command(&mut self, on: &Inner, idle: &Idle) -> Result<Command, Errno>;

    /// The command has ended, and the kernel has done with the memory.
    fn complete(&mut self, on: &Inner, done: Done, idle: &Idle) -> Next<Self::Output>;

    /// Somebody else's, that it can have in place of its own. The kernel may use its memory, unless it is
    /// said that it does not.
    fn adopt(&mut self, taken: Taken, _idle: Option<&Idle>) -> Result<Self::Output, Taken> {
        Err(taken)
    }

    /// Nobody wants the output any more.
    fn disown(output: Self::Output) -> Vec<Taken> {
        drop(output);
        Vec::new()
    }

    /// Whether [`Next::Again`] is to be done although nobody wants the output.
    fn insists(&self) -> bool {
        false
    }

    /// A multishot operation, which has no output but events.
    fn multishot(&mut self) -> Option<&mut Multishot> {
        None
    }
}

/// What [`Erased::complete`] says.
pub(super) enum After {
    Done,
    Again,
    Later,
}

/// What [`Erased::adopt`] says.
pub(super) enum Adopted {
    /// It has its output.
    Done,
    /// It goes on.
    More,
}

/// An [`Operation`] and its output, of whatever type.
pub(super) trait Erased: Send {
    /// `None`: there is no command, but an output.
    fn command(&mut self, on: &Inner, idle: &Idle) -> Option<Command>;
    fn complete(&mut self, on: &Inner, done: Done, idle: &Idle) -> After;
    /// As `complete`, of a command that is not needed any more.
    fn late(&mut self, on: &Inner, done: Done, idle: &Idle) -> Vec<Taken>;
    fn adopt(&mut self, taken: Taken, idle: Option<&Idle>) -> Result<Adopted, Taken>;
    /// What is left when nobody wants the output.
    fn disown(&mut self) -> Vec<Taken>;
    fn insists(&self) -> bool;
    fn restarts(&self) -> bool;
    /// The `Option` with the output.
    fn output(&mut self) -> &mut dyn Any;
    fn multishot(&mut self) -> Option<&mut Multishot>;
}

pub(super) struct Running<O: Operation> {
    operation: O,
    output: Option<O::Output>,
}

impl<O: Operation> Running<O> {
    pub(super) fn new(operation: O) -> Self {
        Running {
            operation,
            output: None,
        }
    }
}

impl<O: Operation> Erased for Running<O> {
    fn command(&mut self, on: &Inner, idle: &Idle) -> Option<Command> {
        match self.operation.command(on, idle) {
            Ok(command) => Some(command),
            Err(errno) => {
                let done = Done {
                    result: Err(errno),
                    cancelled: false,
                };
                if let Next::Done(output) = self.operation.complete(on, done, idle) {
                    self.output = Some(output);
                }
                None
            }
        }
    }

    fn complete(&mut self, on: &Inner, done: Done, idle: &Idle) -> After {
        match self.operation.complete(on, done, idle) {
            Next::Done(output) => {
                self.output = Some(output);
                After::Done
            }
            Next::Again => After::Again,
            Next::Later => After::Later,
        }
    }

    fn late(&mut self, on: &Inner, done: Done, idle: &Idle) -> Vec<Taken> {
        match self.operation.complete(on, done, idle) {
            Next::Done(output) => O::disown(output),
            Next::Again | Next::Later => Vec::new(),
        }
    }

    fn adopt(&mut self, taken: Taken, idle: Option<&Idle>) -> Result<Adopted, Taken> {
        if let Some(multishot) = self.operation.multishot() {
            return multishot.adopt(taken).map(|()| Adopted::More);
        }
        self.output = Some(self.operation.adopt(taken, idle)?);
        Ok(Adopted::Done)
    }

    fn disown(&mut self) -> Vec<Taken> {
        let mut left = self.output.take().map(O::disown).unwrap_or_default();
        if let Some(multishot) = self.operation.multishot() {
            left.extend(multishot.disown());
        }
        left
    }

    fn insists(&self) -> bool {
        self.operation.insists()
    }

    fn restarts(&self) -> bool {
        O::RESTARTS
    }

    fn output(&mut self) -> &mut dyn Any {
        &mut self.output
    }

    fn multishot(&mut self) -> Option<&mut Multishot> {
        self.operation.multishot()
    }
}
