//! Signals whose handler does nothing but interrupt, and be counted.

use std::cell::Cell;

use crate::check;

thread_local! {
    /// How many handlers have run in this thread: without `SA_RESTART`, and with it.
    static HANDLED: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
}

extern "C" fn interrupts_all(_: libc::c_int) {
    let (ending, restarting) = HANDLED.get();
    HANDLED.set((ending.wrapping_add(1), restarting));
}

extern "C" fn restarts_some(_: libc::c_int) {
    let (ending, restarting) = HANDLED.get();
    HANDLED.set((ending, restarting.wrapping_add(1)));
}

/// Gives the signal a handler that does nothing, with these flags (0, or `SA_RESTART`).
pub fn handle_signal(signal: libc::c_int, flags: libc::c_int) {
    let handler = if flags & libc::SA_RESTART == 0 {
        interrupts_all
    } else {
        restarts_some
    };
    // SAFETY: all-zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    action.sa_flags = flags;
    // SAFETY: the action is valid, its handler touches nothing but a cell of its thread, and no old one is asked for.
    check("sigaction", unsafe {
        libc::sigaction(signal, &action, std::ptr::null_mut())
    });
}

/// The handlers that have run in this thread.
pub(crate) fn handled() -> (u32, u32) {
    HANDLED.get()
}

/// Whether one has run since then that ends a system call, which may be one that restarts.
pub(crate) fn interrupts(before: (u32, u32), restarts: bool) -> bool {
    let now = handled();
    now.0 != before.0 || (!restarts && now.1 != before.1)
}
