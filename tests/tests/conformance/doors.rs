//! What the other tests here go through: see `src/door.rs` and `src/skipped.rs` of this package.

use std::os::fd::AsRawFd;
use std::process::Command;

use postbox::{Mailbox, sys};
use postbox_tests::*;

/// How many operations pass the door in that.
fn passing(f: impl FnOnce()) -> usize {
    let before = passed();
    f();
    passed() - before
}

#[test]
fn whatever_makes_a_request_goes_through_the_door_of_this_run() {
    isolated(|| {
        let handle = Handle::anonymous(4);
        let mailbox = Mailbox::bounded(&unique("door"), 4).expect("new");
        let mut args = recv_args();
        let ways = [
            passing(|| handle.send("raw", FOREVER).expect("there is room")),
            passing(|| drop(handle.recv(FOREVER).expect("sent"))),
            passing(|| mailbox.send("the crate's").expect("there is room")),
            passing(|| drop(mailbox.recv().expect("sent"))),
            passing(|| handle.send("of the test's own", FOREVER).expect("room")),
            passing(|| {
                // SAFETY: the request takes this struct, which has no room for a message.
                let result = unsafe {
                    libc::ioctl(
                        handle.as_raw_fd(),
                        sys::POSTBOX_RECV as libc::Ioctl,
                        &raw mut args,
                    )
                };
                assert_eq!(result, -1, "it does not fit");
            }),
            passing(|| assert_eq!(rustix::io::write(&handle, b"write"), Ok(5))),
            passing(|| assert_eq!(rustix::io::read(&handle, &mut [0; 20]), Ok(17))),
        ];
        let expected = usize::from(door() != Door::Ioctl);
        assert_eq!(ways, [expected; 8]);
    });
}

#[test]
fn every_test_that_is_left_out_exists_and_is_left_out_once() {
    let me = std::env::current_exe().expect("procfs is mounted");
    let output = Command::new(me).arg("--list").output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("it prints text");
    let tests: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .collect();
    assert!(tests.len() > 400, "{text}");
    let left_out = |name: &str| {
        let here = SKIPPED.iter().filter(|skip| skip.tests.contains(&name));
        here.fold([0, 0], |[uring, poll], skip| {
            [
                uring + usize::from(skip.uring),
                poll + usize::from(skip.poll),
            ]
        })
    };
    for skip in SKIPPED {
        assert!(skip.uring || skip.poll, "{}", skip.because);
        for name in skip.tests {
            assert!(tests.contains(name), "{name} is the name of no test");
            let [uring, poll] = left_out(name);
            assert!(uring < 2 && poll < 2, "{name} is left out twice");
        }
    }
}
