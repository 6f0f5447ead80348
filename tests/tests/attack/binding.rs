//! Binding and closing: every operation against a concurrent OPEN, the last close, and an unbound handle.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Barrier;

use libc::{MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_POPULATE, MAP_PRIVATE, MAP_SHARED};
use postbox_tests::*;

/// Runs both at once.
fn race(first: impl FnOnce() + Send, second: impl FnOnce() + Send) {
    let gate = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            gate.wait();
            first();
        });
        gate.wait();
        second();
    });
}

/// The alignment of huge pages is checked where the mapping is made: the handle may be bound after mmap() has chosen the
/// address.
#[test]
fn g11_mmap_of_huge_pages_against_open() {
    const HUGE: usize = HugePages::SIZE;
    const ROOM: usize = 8 * HUGE;
    const FAILED: usize = usize::MAX;
    isolated(|| {
        as_each_attacker(|_| {
            let flags = libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
            let memfd: OwnedFd = memory(4 * HUGE, flags, SEALS);
            let map = |at: usize, len, prot, flags, fd| {
                let at = at as *mut libc::c_void;
                // SAFETY: the area is the test's own, or chosen by the kernel; the result is checked.
                unsafe { libc::mmap(at, len, prot, flags, fd, 0) as usize }
            };
            let mut mapped = 0;
            for _ in 0..scaled(40) {
                let handle = Handle::unbound();
                // Populated memory in the way takes time to unmap, between the choice of the address and the mapping.
                let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;
                let room = map(0, ROOM, RW, flags, -1);
                assert_ne!(room, FAILED, "there is memory");
                let at = room + PAGE;
                let fd = handle.0.as_raw_fd();
                race(
                    || {
                        let flags = MAP_SHARED | MAP_FIXED | MAP_NORESERVE;
                        let made = map(at, 2 * HUGE, R, flags, fd);
                        mapped += usize::from(made != FAILED);
                    },
                    || drop(MakeSegment::default().bind(&handle, None, Some(&memfd))),
                );
                // SAFETY: nobody refers to it.
                check("munmap", unsafe {
                    libc::munmap(room as *mut libc::c_void, ROOM)
                });
            }
            assert_eq!(mapped, 0, "misaligned");
        });
    });
}
