use crate::error::{Action, Error, Result};
use crate::object::Subject;
use crate::wait::Wait;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::io::{Errno, retry_on_intr};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One of several objects that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// What it was added with; in [`wait_any`], its place in the list.
    pub token: u64,
    /// The events that hold: those that were asked for, and `HUP` and `ERR` unasked.
    pub events: PollFlags,
}

/// Waits until at least one of several objects is ready, at most `timeout` (`None`: as long as it
/// takes), and returns all that are; none if the time was up.
///
/// The objects are of any kind: handles of this crate, sockets, anything that can be polled. What
/// the events mean says [`Handle::ready`](crate::Handle::ready). Another process may be faster: the
/// call that follows should be a non-blocking one. Who waits for the same objects again and again
/// uses a [`WaitSet`].
///
/// ```
/// use postbox::{Mailbox, PollFlags, wait_any};
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let urgent = Mailbox::options().anonymous()?;
/// let other = Mailbox::options().anonymous()?;
/// other.send("hello")?;
/// let ready = wait_any(&[(&urgent, PollFlags::IN), (&other, PollFlags::IN)], None)?;
/// assert_eq!(ready.len(), 1);
/// assert_eq!(ready[0].token, 1);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Exists`](crate::ErrorKind::Exists): an object is in the list twice.
/// [`Denied`](crate::ErrorKind::Denied): one is an ordinary file, which cannot be waited for.
/// [`NoDescriptors`](crate::ErrorKind::NoDescriptors).
pub fn wait_any(
    objects: &[(&dyn AsFd, PollFlags)],
    timeout: Option<Duration>,
) -> Result<Vec<Ready>> {
    let set = WaitSet::new()?;
    for (token, (object, events)) in (0..).zip(objects) {
        set.add(object, *events, token)?;
    }
    set.wait(timeout.map_or(Wait::Forever, Wait::Timeout))
}

/// Several objects of any kind that are waited for together, again and again.
///
/// It is an epoll instance: an object leaves it when its last descriptor is closed, and adding one
/// does not keep it open. It can itself be polled, and be in another set.
///
/// ```
/// use postbox::{Mailbox, PollFlags, Wait, WaitSet};
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let mailboxes = [
///     Mailbox::options().anonymous()?,
///     Mailbox::options().anonymous()?,
/// ];
/// let set = WaitSet::new()?;
/// for (token, mailbox) in (0..).zip(&mailboxes) {
///     set.add(mailbox, PollFlags::IN, token)?;
/// }
/// mailboxes[1].send("hello")?;
/// for ready in set.wait(Wait::Forever)? {
///     match mailboxes[ready.token as usize].try_recv() {
///         Ok(message) => println!("{}: {} bytes", ready.token, message.len()),
///         Err(error) if error.is_empty() => {} // somebody else was faster
///         Err(error) => return Err(error),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct WaitSet {
    epoll: OwnedFd,
}

impl WaitSet {
    /// An empty set.
    ///
    /// # Errors
    /// [`NoDescriptors`](crate::ErrorKind::NoDescriptors), and [`Os`](crate::ErrorKind::Os) when
    /// memory is short.
    pub fn new() -> Result<Self> {
        Ok(WaitSet {
            epoll: epoll::create(CreateFlags::CLOEXEC).map_err(error)?,
        })
    }

    /// Waits for `events` of that object, too. `token` is what [`wait`](Self::wait) will name it by.
    ///
    /// # Errors
    /// [`Exists`](crate::ErrorKind::Exists): it is in the set.
    /// [`Denied`](crate::ErrorKind::Denied): an ordinary file cannot be waited for.
    pub fn add(&self, object: impl AsFd, events: PollFlags, token: u64) -> Result<()> {
        epoll::add(
            &self.epoll,
            object,
            EventData::new_u64(token),
            flags(events),
        )
        .map_err(error)
    }

    /// Waits for other events of that object from now on, under that token.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound): it is not in the set.
    pub fn modify(&self, object: impl AsFd, events: PollFlags, token: u64) -> Result<()> {
        epoll::modify(
            &self.epoll,
            object,
            EventData::new_u64(token),
            flags(events),
        )
        .map_err(error)
    }

    /// Waits for that object no longer.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound): it is not in the set.
    pub fn remove(&self, object: impl AsFd) -> Result<()> {
        epoll::delete(&self.epoll, object).map_err(error)
    }

    /// Waits until at least one object is ready, and returns all that are. None are if the time was
    /// up.
    ///
    /// # Errors
    /// None that a program can bring about.
    pub fn wait(&self, wait: Wait) -> Result<Vec<Ready>> {
        let mut events = self.ready(wait.fixed(), 64)?;
        // A full buffer may not be all. What is ready remains so until somebody acts on it.
        while events.len() == events.capacity() {
            let all = self.ready(Wait::Never, 2 * events.capacity())?;
            if all.is_empty() {
                break;
            }
            events = all;
        }
        let ready = events.iter().map(|&Event { flags, data, .. }| Ready {
            token: data.u64(),
            events: PollFlags::from_bits_truncate(flags.bits() as _),
        });
        Ok(ready.collect())
    }

    /// Waits for up to `max` events.
    fn ready(&self, wait: Wait, max: usize) -> Result<Vec<Event>> {
        let mut events = Vec::with_capacity(max);
        let wait = match wait {
            Wait::RealtimeDeadline(deadline) => {
                wait_until_realtime(&self.epoll, deadline).map_err(error)?;
                Wait::Never
            }
            wait => wait,
        };
        loop {
            // A time out of the kernel's range is as good as none.
            let left = wait.left().and_then(|left| Timespec::try_from(left).ok());
            match epoll::wait(&self.epoll, spare_capacity(&mut events), left.as_ref()) {
                Ok(_) => return Ok(events),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(error(errno)),
            }
        }
    }
}

/// Waits until there are events, or the clock that can be set says so: an epoll does not notice
/// that it is set.
fn wait_until_realtime(epoll: &OwnedFd, deadline: SystemTime) -> rustix::io::Result<()> {
    let time = deadline.duration_since(UNIX_EPOCH).unwrap_or_default();
    let Ok(mut value) = Timespec::try_from(time) else {
        let mut fds = [PollFd::new(epoll, PollFlags::IN)];
        return retry_on_intr(|| poll(&mut fds, None)).map(drop);
    };
    // A timer that is set to 0 never expires.
    value.tv_nsec += i64::from(value.tv_sec == 0 && value.tv_nsec == 0);
    let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC)?;
    let setting = Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: value,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &setting)?;
    let mut fds = [epoll, &timer].map(|fd| PollFd::new(fd, PollFlags::IN));
    retry_on_intr(|| poll(&mut fds, None)).map(drop)
}

fn flags(events: PollFlags) -> EventFlags {
    EventFlags::from_bits_retain(events.bits() as u32)
}

fn error(errno: Errno) -> Error {
    Error::new(Action::Poll, &Subject::none(), errno)
}

impl AsFd for WaitSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl AsRawFd for WaitSet {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn all_that_are_ready_are_returned_and_no_others() {
        let pipes: Vec<_> = (0..5).map(|_| pipe()).collect();
        for i in [1, 3] {
            rustix::io::write(&pipes[i].1, b"x").unwrap();
        }
        let objects: Vec<(&dyn AsFd, PollFlags)> = pipes
            .iter()
            .map(|(read, _)| (read as &dyn AsFd, PollFlags::IN))
            .collect();
        let mut ready = wait_any(&objects, None).unwrap();
        ready.sort_by_key(|ready| ready.token);
        let events = PollFlags::IN;
        assert_eq!(
            ready,
            [Ready { token: 1, events }, Ready { token: 3, events }]
        );
    }

    #[test]
    fn more_than_fit_into_one_answer_are_returned_all() {
        for count in [63, 64, 65, 200] {
            let pipes: Vec<_> = (0..count).map(|_| pipe()).collect();
            let set = WaitSet::new().unwrap();
            for (token, (_, write)) in (0..).zip(&pipes) {
                set.add(write, PollFlags::OUT, token).unwrap();
            }
            let mut ready = set.wait(Wait::Forever).unwrap();
            ready.sort_by_key(|ready| ready.token);
            let tokens: Vec<_> = ready.iter().map(|ready| ready.token).collect();
            assert_eq!(tokens, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_end_of_a_stream_comes_unasked() {
        let (read, write) = pipe();
        drop(write);
        let ready = wait_any(&[(&read, PollFlags::empty())], None).unwrap();
        assert_eq!(ready[0].events, PollFlags::HUP);
    }

    #[test]
    fn time_runs_out_with_nothing_ready() {
        let (read, _write) = pipe();
        let now = std::time::Instant::now();
        for wait in [
            Wait::Never,
            Wait::Timeout(Duration::from_millis(1)),
            Wait::Deadline(now),
            Wait::RealtimeDeadline(std::time::SystemTime::now()),
        ] {
            let set = WaitSet::new().unwrap();
            set.add(&read, PollFlags::IN, 0).unwrap();
            assert_eq!(set.wait(wait), Ok(vec![]), "{wait:?}");
        }
        assert_eq!(wait_any(&[], Some(Duration::ZERO)), Ok(vec![]));
    }

    #[test]
    fn a_set_can_be_changed_and_says_what_is_wrong() {
        let set = WaitSet::new().unwrap();
        let (read, write) = pipe();
        let kind = |result: Result<()>| result.map_err(|error| error.kind);
        assert_eq!(kind(set.remove(&read)), Err(ErrorKind::NotFound));
        set.add(&write, PollFlags::OUT, 7).unwrap();
        let again = set.add(&write, PollFlags::OUT, 8);
        assert_eq!(kind(again), Err(ErrorKind::Exists));
        assert_eq!(set.wait(Wait::Forever).unwrap()[0].token, 7);
        set.modify(&write, PollFlags::OUT, u64::MAX).unwrap();
        assert_eq!(set.wait(Wait::Forever).unwrap()[0].token, u64::MAX);
        set.remove(&write).unwrap();
        assert_eq!(set.wait(Wait::Never), Ok(vec![]));
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let file = set.add(&file, PollFlags::IN, 0).unwrap_err();
        assert_eq!(file.kind, ErrorKind::Denied);
        assert!(file.to_string().contains("ordinary files"), "{file}");
    }

    #[test]
    fn what_is_closed_leaves_the_set() {
        let set = WaitSet::new().unwrap();
        let (read, write) = pipe();
        set.add(&write, PollFlags::OUT, 0).unwrap();
        drop(write);
        assert_eq!(set.wait(Wait::Never), Ok(vec![]));
        drop(read);
    }
}
