//! Which tests do not go through which doors, and why.

use crate::{Door, door, tell};

/// Tests that are left out, for one reason.
#[derive(Clone, Copy, Debug)]
pub struct Skip {
    /// Which of the other doors they are not for.
    pub uring: bool,
    /// Likewise.
    pub poll: bool,
    /// Why.
    pub because: &'static str,
    /// Their names, as the test programs list them.
    pub tests: &'static [&'static str],
}

/// All of them.
pub const SKIPPED: &[Skip] = &[];

impl Skip {
    fn applies(&self, name: &str) -> bool {
        let here = match door() {
            Door::Ioctl => false,
            Door::Uring(_) => self.uring,
            Door::Poll => self.poll,
        };
        here && self.tests.contains(&name)
    }
}

/// Whether the test that this thread runs is left out, which is said then.
pub(crate) fn here() -> bool {
    if door() == Door::Ioctl {
        return false;
    }
    // The test runner gives the thread the test's name.
    let thread = std::thread::current();
    let name = thread.name().filter(|name| *name != "main");
    let name = name.expect("a test has a thread of its own");
    match SKIPPED.iter().find(|skip| skip.applies(name)) {
        Some(skip) => {
            tell(&format!("skipped: {name}: {}", skip.because));
            true
        }
        None => false,
    }
}
