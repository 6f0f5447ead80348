//! Bounded work: no user chooses how long a lock is held or how long another user waits.

use std::time::{Duration, Instant};

use postbox::{raw, sys};
use postbox_tests::{Errno, Handle, NEVER, RECEIVE, as_each_attacker, unique};

/// The least time of a hundred lists that find next to nothing.
fn cost_of_empty_lists(after: u64) -> Duration {
    let handle = Handle::unbound();
    let mut room = [sys::postbox_info::default()];
    (0..50)
        .map(|_| {
            let before = Instant::now();
            for _ in 0..100 {
                // Other tests make named objects meanwhile.
                raw::list(&handle, after, &mut room).expect("it can be listed");
            }
            before.elapsed()
        })
        .min()
        .expect("there are some")
}

#[test]
fn list_cost_is_independent_of_unnamed_objects() {
    as_each_attacker(|_| {
        const MAX: usize = 4096;
        let name = unique("listener");
        let server = Handle::unbound();
        let mut args = sys::postbox_open {
            kind: sys::POSTBOX_KIND_LISTENER,
            flags: sys::POSTBOX_O_CREATE,
            rights: RECEIVE,
            mode: 0o600,
            capacity: 1,
            back_capacity: 1,
            backlog: u32::MAX,
            ..Default::default()
        };
        raw::open(&server, Some(name.as_bytes()), &mut args).expect("new");
        let before = cost_of_empty_lists(args.id);
        // Connections that wait to be accepted are objects without a name.
        let connect = || {
            let mut args = sys::postbox_connect {
                flags: NEVER.0,
                ..Default::default()
            };
            raw::connect(Handle::unbound(), Some(name.as_bytes()), &mut args)
        };
        let made = (0..10 * MAX)
            .find(|_| connect().is_err())
            .expect("the backlog is bounded");
        assert_eq!((made, connect()), (MAX, Err(Errno::AGAIN)));
        let after = cost_of_empty_lists(args.id);
        // To walk through them took some 200 times as long as to find none.
        assert!(
            after < 20 * before,
            "{after:?} with {made} connections, {before:?} without"
        );
    });
}
