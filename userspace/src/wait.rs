use crate::sys;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a call may wait.
///
/// A wait that a signal handler interrupts is taken up again, and [`Wait::Timeout`] counts from its
/// beginning all the same. (Only [`call`](crate::Handle::call) ends with
/// [`Interrupted`](crate::ErrorKind::Interrupted), as its request may have been taken.) To be woken by something else, wait with
/// [`Handle::ready`](crate::Handle::ready) or an epoll of your own, or use [`raw`](crate::raw),
/// which gives `EINTR`.
///
/// What can be done without waiting is done, also when the time is up already. Nothing waits on a
/// handle that was made non-blocking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// As long as it takes.
    #[default]
    Forever,
    /// Not at all.
    Never,
    /// At most this long.
    Timeout(Duration),
    /// Until then, on the monotonic clock.
    Deadline(Instant),
    /// Until then, on the clock that can be set.
    RealtimeDeadline(SystemTime),
}

impl Wait {
    /// The flags and the time that the kernel takes. A time out of the kernel's range is as good as
    /// its last.
    pub(crate) fn flags(self) -> (u32, u64) {
        match self {
            Wait::Forever => (0, 0),
            Wait::Never => (sys::POSTBOX_NONBLOCK, 0),
            Wait::Timeout(timeout) => (
                sys::POSTBOX_DEADLINE,
                nanoseconds(monotonic().saturating_add(timeout)),
            ),
            Wait::Deadline(deadline) => {
                // An Instant is of the same clock, but does not tell its number.
                let left = deadline.saturating_duration_since(Instant::now());
                Wait::Timeout(left).flags()
            }
            Wait::RealtimeDeadline(deadline) => (
                sys::POSTBOX_DEADLINE | sys::POSTBOX_REALTIME,
                nanoseconds(deadline.duration_since(UNIX_EPOCH).unwrap_or_default()),
            ),
        }
    }

    /// The same with a time that does not begin anew when a wait is taken up again.
    pub(crate) fn fixed(self) -> Self {
        match self {
            // A time-out that leads beyond the clock's end is none.
            Wait::Timeout(timeout) => Instant::now()
                .checked_add(timeout)
                .map_or(Wait::Forever, Wait::Deadline),
            other => other,
        }
    }

    /// How much of the time is left; `None`: as long as it takes.
    pub(crate) fn left(self) -> Option<Duration> {
        match self {
            Wait::Forever => None,
            Wait::Never => Some(Duration::ZERO),
            Wait::Timeout(timeout) => Some(timeout),
            Wait::Deadline(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
            Wait::RealtimeDeadline(deadline) => Some(
                deadline
                    .duration_since(SystemTime::now())
                    .unwrap_or_default(),
            ),
        }
    }

    /// Returns whether the time is up.
    pub(crate) fn is_over(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }
}

fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec as u32)
}

/// Nanoseconds as the kernel counts them, in 63 bits.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos())
        .unwrap_or(u64::MAX)
        .min(i64::MAX as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_deadlines() {
        let before = nanoseconds(monotonic());
        let (flags, in_a_second) = Wait::Timeout(Duration::from_secs(1)).flags();
        assert_eq!(flags, sys::POSTBOX_DEADLINE);
        assert!((before + 1_000_000_000..before + 60_000_000_000).contains(&in_a_second));
        let (_, deadline) = Wait::Deadline(Instant::now() + Duration::from_secs(1)).flags();
        assert!((in_a_second..in_a_second + 60_000_000_000).contains(&deadline));
        let (_, past) = Wait::Deadline(Instant::now()).flags();
        assert!((before..in_a_second).contains(&past));
    }

    #[test]
    fn times_out_of_range_are_the_last_or_the_first() {
        assert_eq!(Wait::Timeout(Duration::MAX).flags().1, i64::MAX as u64);
        let flags = sys::POSTBOX_DEADLINE | sys::POSTBOX_REALTIME;
        assert_eq!(
            Wait::RealtimeDeadline(UNIX_EPOCH - Duration::from_secs(1)).flags(),
            (flags, 0)
        );
        assert_eq!(
            Wait::RealtimeDeadline(UNIX_EPOCH + Duration::from_nanos(7)).flags(),
            (flags, 7)
        );
    }
}
