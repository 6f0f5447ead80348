//! Waiting for several objects of any kind at once.

use std::os::fd::AsFd;
use std::time::Duration;

use postbox::{
    Barrier, Capacity, Endpoint, Latch, Link, Listener, Pipe, PollFlags, Ready, Semaphore, Wait,
    WaitSet, wait_any,
};
use postbox_tests::{Gate, LONG, isolated, scope, sleep_forever, spawn, unique};

use crate::typed::{close_copy, mailbox, sides};

const NOW: Option<Duration> = Some(Duration::ZERO);

fn tokens(ready: postbox::Result<Vec<Ready>>) -> Vec<u64> {
    let mut tokens: Vec<_> = ready
        .expect("objects that can be waited for")
        .into_iter()
        .map(|ready| ready.token)
        .collect();
    tokens.sort_unstable();
    tokens
}

#[test]
fn objects_of_every_kind_and_the_ready_ones_are_returned() {
    isolated(|| {
        let name = unique("many");
        let mailbox = mailbox(Capacity::Bounded(1));
        let (near, far) = Link::pair().expect("a link");
        let listener = Listener::bind(&name).expect("new");
        let endpoint = Endpoint::own().expect("this process's");
        let (reader, writer) = Pipe::pair().expect("a pipe");
        let semaphore = Semaphore::new(0).expect("a semaphore");
        let latch = Latch::new(1).expect("a latch");
        let barrier = Barrier::new(1).expect("a barrier");
        let (socket, other) = std::os::unix::net::UnixStream::pair().expect("sockets");
        let objects: [(&dyn AsFd, PollFlags); 9] = [
            (&mailbox, PollFlags::IN),
            (&near, PollFlags::IN),
            (&listener, PollFlags::IN),
            (&endpoint, PollFlags::IN),
            (&reader, PollFlags::IN),
            (&semaphore, PollFlags::IN),
            (&latch, PollFlags::IN),
            (&barrier, PollFlags::IN),
            (&socket, PollFlags::IN),
        ];
        assert_eq!(tokens(wait_any(&objects, NOW)), []);
        let short = Some(Duration::from_millis(5));
        assert_eq!(tokens(wait_any(&objects, short)), [], "the time is up");
        let steps: [&dyn Fn(); 9] = [
            &|| mailbox.try_send("x").expect("room"),
            &|| far.try_send("x").expect("room"),
            &|| std::mem::forget(Link::try_connect(&name).expect("room")),
            &|| Endpoint::send_to(std::process::id(), "x").expect("room"),
            &|| assert_eq!(writer.try_write(b"x"), Ok(1)),
            &|| semaphore.post(1).expect("below its maximum"),
            &|| latch.count_down().expect("it is one"),
            &|| barrier.arrive().expect("it is the only one"),
            &|| assert_eq!(rustix::io::write(&other, b"x"), Ok(1)),
        ];
        for (i, step) in steps.iter().enumerate() {
            step();
            let expected: Vec<u64> = (0..=i as u64).collect();
            assert_eq!(tokens(wait_any(&objects, None)), expected);
        }
        // One after the other becomes idle again.
        mailbox.recv().expect("sent");
        near.recv().expect("sent");
        semaphore.take(1, Wait::Never).expect("there is one");
        assert_eq!(tokens(wait_any(&objects, None)), [2, 3, 4, 6, 7, 8]);
    });
}

#[test]
fn whichever_becomes_ready_first_wakes() {
    isolated(|| {
        let mailbox = mailbox(Capacity::Bounded(1));
        let (near, far) = Link::pair().expect("a link");
        let semaphore = Semaphore::new(0).expect("a semaphore");
        let set = WaitSet::new().expect("a descriptor");
        set.add(&mailbox, PollFlags::IN, 10).expect("new");
        set.add(&near, PollFlags::IN, 20).expect("new");
        set.add(&semaphore, PollFlags::IN, 30).expect("new");
        for expected in [10, 20, 30] {
            let go = Gate::new();
            let child = spawn(|| {
                go.pass();
                match expected {
                    10 => mailbox.try_send("x").expect("room"),
                    20 => far.try_send("x").expect("room"),
                    _ => semaphore.post(1).expect("below its maximum"),
                }
            });
            let ready = scope(|scope| {
                let waits = scope.spawn(|| set.wait(Wait::Timeout(LONG)));
                go.open(1);
                waits.join().expect("no panic")
            });
            assert_eq!(tokens(ready), [expected]);
            child.ok();
            match expected {
                10 => drop(mailbox.recv()),
                20 => drop(near.recv()),
                _ => drop(semaphore.take(1, Wait::Never)),
            }
        }
        assert_eq!(tokens(set.wait(Wait::Never)), []);
    });
}

#[test]
fn the_end_of_a_peer_is_an_event() {
    isolated(|| {
        let (near, far) = Link::pair().expect("a link");
        let (tx, rx) = sides(Capacity::Bounded(1));
        tx.send("fills it").expect("room");
        let child = spawn(|| {
            close_copy(&near);
            close_copy(&tx);
            sleep_forever();
        });
        drop((far, rx));
        let set = WaitSet::new().expect("a descriptor");
        set.add(&near, PollFlags::IN, 1).expect("new");
        set.add(&tx, PollFlags::OUT, 2).expect("new");
        assert_eq!(tokens(set.wait(Wait::Never)), []);
        child.destroy();
        let mut ready = set.wait(Wait::Timeout(LONG)).expect("both");
        ready.sort_by_key(|ready| ready.token);
        assert_eq!(ready.len(), 2);
        assert!(ready[0].events.contains(PollFlags::HUP));
        assert!(ready[1].events.contains(PollFlags::ERR));
    });
}

#[test]
fn many_objects_are_returned_all_at_once() {
    isolated(|| {
        const COUNT: u64 = 200;
        let mailboxes: Vec<_> = (0..COUNT).map(|_| mailbox(Capacity::Bounded(1))).collect();
        let set = WaitSet::new().expect("a descriptor");
        for (token, mailbox) in (0..).zip(&mailboxes) {
            set.add(mailbox, PollFlags::IN, token).expect("new");
        }
        for mailbox in mailboxes.iter().step_by(2) {
            mailbox.send("x").expect("room");
        }
        let expected: Vec<_> = (0..COUNT).step_by(2).collect();
        assert_eq!(tokens(set.wait(Wait::Forever)), expected);
    });
}
