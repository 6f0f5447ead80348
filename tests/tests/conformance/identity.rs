//! Guarantee 8: who sent a message comes from the kernel.

use postbox_tests::scope;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;

use postbox_tests::*;

/// Process, thread, user and group of the caller, as a message must name them.
fn me() -> (u32, u32, u32, u32) {
    // SAFETY: no pointers.
    unsafe {
        (
            std::process::id(),
            libc::gettid() as u32,
            libc::geteuid(),
            libc::getegid(),
        )
    }
}

fn said(got: &Got) -> (u32, u32, u32, u32) {
    (got.pid, got.tid, got.uid, got.gid)
}

fn pidfd_open(pid: u32) -> std::io::Result<u64> {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32;
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made, owned by nobody else.
    Ok(inode(unsafe { OwnedFd::from_raw_fd(fd) }.as_raw_fd()))
}

#[test]
fn g08_a_message_names_its_sender() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        mailbox.put("from myself");
        let got = mailbox.recv(NEVER).expect("sent");
        assert_eq!(said(&got), me());
        assert_eq!(
            got.pidfd_ino,
            pidfd_open(got.pid).expect("this process lives")
        );

        // With the very same handle, which this process opened.
        let child = spawn(|| mailbox.put("from a child"));
        let (pid, ino) = (child.pid(), child.pidfd_ino());
        child.ok();
        // The sender is gone, and it still was that one.
        let got = mailbox.recv(NEVER).expect("sent");
        assert_eq!((got.pid, got.tid, got.pidfd_ino), (pid, pid, ino));
        let again = pidfd_open(pid);
        assert!(
            again.is_err() || again.is_ok_and(|other| other != ino),
            "a pidfd for a process that is gone"
        );
    });
}

#[test]
fn g08_every_way_of_sending_and_receiving_tells_it() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        rustix::io::write(&mailbox, b"write").expect("room");
        postbox::raw::send_batch(&mailbox, &[postbox::raw::SendEntry::new(b"batch", 0)], 0, 0)
            .expect("room");
        mailbox.reserve(10, NEVER).expect("room");
        mailbox.send_reserved("reserved", 10).expect("reserved");
        let mut buffers = [[std::mem::MaybeUninit::uninit(); 16]; 2];
        let mut entries: Vec<_> = buffers
            .iter_mut()
            .map(|b| postbox::raw::RecvEntry::new(b))
            .collect();
        assert_eq!(
            postbox::raw::recv_batch(&mailbox, &mut entries, NEVER.0, 0),
            Ok(2)
        );
        for entry in &entries {
            let args = entry.args();
            assert_eq!((args.pid, args.tid, args.uid, args.gid), me());
        }
        let taken = mailbox.take(NEVER).expect("sent");
        assert_eq!((taken.text(), said(&taken)), ("reserved", me()));
    });
}

#[test]
fn g08_a_thread_is_told_from_its_process() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        let thread = scope(|scope| {
            let sender = scope.spawn(|| {
                mailbox.put("from a thread");
                me()
            });
            sender.join().expect("no panic")
        });
        let got = mailbox.recv(NEVER).expect("sent");
        assert_eq!(said(&got), thread);
        assert_eq!(got.pid, std::process::id());
        assert_ne!(got.tid, got.pid);
    });
}

#[test]
fn g08_the_user_is_the_senders_at_the_moment_of_sending() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        // The handle was opened by root, and inherited.
        let child = spawn_as(ALICE, || mailbox.put("from alice"));
        child.ok();
        let got = mailbox.recv(NEVER).expect("sent");
        assert_eq!((got.uid, got.gid), (ALICE.uid, ALICE.gid));

        // The effective ids count, not the real ones.
        spawn(|| {
            // SAFETY: no pointers.
            unsafe {
                check("setresgid", libc::setresgid(u32::MAX, BOB.gid, u32::MAX));
                check("setresuid", libc::setresuid(u32::MAX, BOB.uid, u32::MAX));
            }
            mailbox.put("as bob");
        })
        .ok();
        let got = mailbox.recv(NEVER).expect("sent");
        assert_eq!((got.uid, got.gid), (BOB.uid, BOB.gid));
    });
}

#[test]
fn g08_a_waiting_sender_is_named_as_it_was_when_it_sent() {
    isolated(|| {
        let mailbox = Handle::anonymous(0);
        let child = spawn_as(ALICE, || {
            mailbox.send("waits", FOREVER).expect("a receiver comes")
        });
        mailbox.wait_senders(1);
        let pid = child.pid();
        let got = mailbox.recv(NEVER).expect("the sender waits");
        assert_eq!((got.pid, got.uid), (pid, ALICE.uid));
        child.ok();
    });
}

#[test]
fn g08_a_sender_in_a_pid_namespace_is_seen_with_the_readers_numbers() {
    isolated(|| {
        let name = unique("pidns");
        let mailbox = Handle::create(&name, 4);
        let (sent, stay) = (Gate::new(), Gate::new());
        let child = Spawn::new().pid_ns().run(|| {
            assert_eq!(std::process::id(), 1);
            let mine = Handle::open(&name, SEND | RECEIVE).expect("the IPC namespace is the same");
            mine.put("from inside");
            // It sees itself with its own numbers.
            let got = mine.recv(NEVER).expect("sent");
            assert_eq!(said(&got), me());
            mine.put("from inside");
            sent.open(1);
            stay.pass();
            // The sender is outside, and has no number here.
            let got = mine.recv(within(60_000)).expect("it comes");
            assert_eq!((got.pid, got.tid, got.uid), (0, 0, 0));
            assert_ne!(got.pidfd_ino, 0);
        });
        sent.pass();
        let got = mailbox.recv(NEVER).expect("sent");
        assert_ne!(got.pid, 1);
        let status = std::fs::read_to_string(format!("/proc/{}/status", got.pid))
            .expect("the number is one of ours");
        let numbers = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .expect("the kernel has pid namespaces");
        assert_eq!(
            numbers.split_whitespace().collect::<Vec<_>>(),
            [got.pid.to_string(), "1".to_string()]
        );
        assert_eq!(got.pidfd_ino, pidfd_open(got.pid).expect("it lives"));
        mailbox.put("from outside");
        stay.open(1);
        child.ok();
    });
}

#[test]
fn g08_users_are_seen_from_the_readers_user_namespace() {
    isolated(|| {
        let mailbox = Make {
            mode: 0o666,
            ..Make::default()
        }
        .open(unique("userns").as_str())
        .expect("new");
        let name = name_of(&mailbox.info());
        let (ready, go) = (Gate::new(), Gate::new());
        // In its namespace alice is 0, and nobody else has a number.
        let inside = Spawn::new().user(ALICE).user_ns().run(|| {
            let mine = Handle::open(&name, SEND | RECEIVE).expect("everybody may");
            mine.put("from myself");
            let got = mine.recv(NEVER).expect("sent");
            assert_eq!((got.uid, got.gid), (0, 0));
            assert_eq!(
                (mine.info().uid, mine.info().gid),
                (65534, 65534),
                "root owns it, who has no number here"
            );
            mine.put("to the outside");
            ready.open(1);
            go.pass();
            let got = mine.recv(within(60_000)).expect("it comes");
            assert_eq!((got.uid, got.gid), (65534, 65534));
        });
        ready.pass();
        let got = mailbox.recv(NEVER).expect("sent");
        assert_eq!((got.uid, got.gid), (ALICE.uid, ALICE.gid));
        spawn_as(BOB, || {
            Handle::open(&name, SEND)
                .expect("everybody may")
                .put("from bob")
        })
        .ok();
        go.open(1);
        inside.ok();
    });
}

#[test]
fn g08_a_handle_that_travels_does_not_lend_its_openers_identity() {
    isolated(|| {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let mailbox = Handle::anonymous(4);
        let pid = Ledger::new(1);
        let receiver = spawn_as(BOB, || {
            let handle = Handle(receive_fd(&theirs));
            pid[0].store(std::process::id().into(), Relaxed);
            handle.put("through a descriptor of root's");
        });
        send_fd(&ours, mailbox.sender());
        receiver.ok();
        let got = mailbox.recv(NEVER).expect("sent");
        assert_eq!(
            (u64::from(got.pid), got.uid),
            (pid[0].load(Relaxed), BOB.uid)
        );
    });
}

#[test]
fn g08_the_receivers_arguments_cannot_carry_an_identity_in() {
    isolated(|| {
        use postbox::{raw, sys};
        let mailbox = Handle::anonymous(4);
        mailbox.put("x");
        let mut buffer = [0u8; 8];
        // What is an output may hold anything before.
        let mut args = sys::postbox_recv {
            pid: 1,
            tid: 1,
            uid: 4242,
            gid: 4242,
            pidfd_ino: 7,
            token: 99,
            priority: 5,
            msg_flags: 1,
            msg_len: 77,
            flags: NEVER.0,
            ..Default::default()
        };
        assert_eq!(raw::recv(&mailbox, &mut buffer, &mut args), Ok(1));
        assert_eq!((args.pid, args.tid, args.uid, args.gid), me());
        assert_eq!(
            (args.token, args.priority, args.msg_flags, args.msg_len),
            (0, 0, 0, 1)
        );
    });
}
