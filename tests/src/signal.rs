//! Signals whose handler does nothing but interrupt.

use crate::check;

extern "C" fn nothing(_: libc::c_int) {}

/// Gives the signal a handler that does nothing, with these flags (0, or `SA_RESTART`).
pub fn handle_signal(signal: libc::c_int, flags: libc::c_int) {
    // SAFETY: all-zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as *const () as libc::sighandler_t;
    action.sa_flags = flags;
    // SAFETY: the action is valid, its handler touches nothing, and no old one is asked for.
    check("sigaction", unsafe {
        libc::sigaction(signal, &action, std::ptr::null_mut())
    });
}
