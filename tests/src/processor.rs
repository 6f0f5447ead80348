//! Which processor a thread runs on. A timer takes it from one that gives way, wherever in the kernel that is, for another
//! one that runs there.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::check;

/// Keeps the thread on one of the processors that it may use: the one of that number, as often round as it takes. Its timers
/// are precise.
pub fn stay_on(number: usize) {
    let may = sched_getaffinity(None).expect("it can be asked for");
    let all = (0..CpuSet::MAX_CPU).filter(|cpu| may.is_set(*cpu));
    let mut one = CpuSet::new();
    one.set(all.cycle().nth(number).expect("it runs on one"));
    sched_setaffinity(None, &one).expect("it is one of those");
    // SAFETY: no pointers.
    check("PR_SET_TIMERSLACK", unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1)
    });
}

/// Has the thread run only while no other one wants to.
pub fn give_way() {
    let normal = libc::sched_param { sched_priority: 0 };
    // SAFETY: the struct is valid for reading.
    check("SCHED_IDLE", unsafe {
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const normal)
    });
}
