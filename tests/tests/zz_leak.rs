//! Runs last: nothing of all the other tests is left.

use std::fs;

use postbox_tests::*;

#[test]
fn g12_nothing_is_left() {
    let objects =
        || fs::read_to_string("/sys/kernel/debug/postbox/objects").expect("debugfs is mounted");
    // Files that a dying process still closes are gone in a moment.
    wait_until("the last objects to go", || objects().lines().count() == 1);
    assert_eq!(list(), Vec::<String>::new());
    let handle = Handle::unbound();
    assert_eq!(
        handle.usage(),
        (0, 0, 0),
        "messages, bytes and objects of root"
    );
    for user in [ALICE, BOB] {
        spawn_as(user, || assert_eq!(Handle::unbound().usage(), (0, 0, 0))).ok();
    }
    let references = || -> u32 {
        let text = fs::read_to_string("/sys/module/postbox/refcnt").expect("the module is loaded");
        text.trim().parse().expect("a number")
    };
    assert_eq!(
        references(),
        1,
        "this handle keeps the module, and nothing else"
    );
    drop(handle);
    wait_until("the last reference to go", || references() == 0);
}

#[test]
fn g12_memory_comes_back() {
    // What a round leaves behind would add up over many of them.
    let round = || {
        let mailbox = Make {
            rights: SEND | RECEIVE | ADMIN,
            capacity: UNBOUNDED,
            ..Make::default()
        }
        .open(unique("leak").as_str())
        .expect("new");
        for len in [0, 50, 500, 5000, 50_000] {
            mailbox.put(vec![1; len]);
            mailbox.put(vec![1; len]);
        }
        let taken = mailbox.take(NEVER).expect("sent");
        mailbox.reserve(1000, NEVER).expect("room");
        assert_eq!(
            mailbox.send([0; 10], Wait(postbox::sys::POSTBOX_NONBLOCK, 1)),
            Err(Errno::INVAL)
        );
        drop((mailbox.sender(), mailbox.receiver()));
        mailbox.requeue(taken.token).expect("ours");
        let _gone_with_it = mailbox.take(NEVER).expect("sent");
    };
    let used = || -> i64 {
        let text = fs::read_to_string("/proc/meminfo").expect("procfs is mounted");
        let field = |name: &str| -> i64 {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .expect("the kernel tells");
            line.trim_start_matches(':')
                .trim()
                .trim_end_matches(" kB")
                .parse()
                .expect("a number")
        };
        // Payloads are slab or vmalloc memory.
        field("Slab") + field("VmallocUsed")
    };
    isolated(|| {
        (0..50).for_each(|_| round());
        if fs::exists("/sys/kernel/debug/kmemleak").unwrap_or(false) {
            // KASAN keeps freed memory for a while, so that it cannot be counted; and such a kernel is asked for
            // leaks when all is over.
            (0..350).for_each(|_| round());
            return;
        }
        let before = used();
        const ROUNDS: i64 = 400;
        (0..ROUNDS).for_each(|_| round());
        // A round has about 110 kB in it; to lose a hundredth of that each time would be seen.
        let mut grown = used() - before;
        for _ in 0..100 {
            if grown < ROUNDS {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
            grown = used() - before;
        }
        assert!(grown < ROUNDS, "{ROUNDS} rounds left {grown} kB");
    });
}
