//! Failures that pass. A server waits, and goes on.

use crate::Failure;
use std::thread;
use std::time::Duration;

/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// What a server does again until it succeeds or fails for good.
#[derive(Default)]
pub struct Retry {
    /// Whether the failure was reported, which is done once until it has passed.
    reported: bool,
}

impl Retry {
    /// Repeats the action as long as it fails for want of descriptors or memory.
    pub fn until<T>(
        &mut self,
        mut action: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        loop {
            match action() {
                Err(failure) if failure.passes => self.pause(&failure),
                done => {
                    self.reported = false;
                    return done;
                }
            }
        }
    }

    fn pause(&mut self, failure: &Failure) {
        if !self.reported {
            self.reported = true;
            eprintln!("postbox: {}; waiting until that is over", failure.message);
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn failure_that_passes_is_retried() {
        let mut left = 3;
        let result = Retry::default().until(|| {
            left -= 1;
            match left {
                0 => Ok("done"),
                1 => Err(Failure::of_errno(Errno::MFILE, "accept".into())),
                _ => Err(Failure::of_errno(Errno::NOMEM, "accept".into())),
            }
        });
        assert_eq!(result.ok(), Some("done"));
    }

    #[test]
    fn other_failure_is_returned() {
        let mut attempts = 0;
        let result = Retry::default().until(|| {
            attempts += 1;
            Err::<(), _>(Failure::new("for good"))
        });
        assert_eq!((result.is_err(), attempts), (true, 1));
    }
}
