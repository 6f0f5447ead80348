//! Guarantee 11, when memory is short: every allocation and every copy of user memory that a request makes is made to
//! fail, one after the other, with the kernel's fault injection. The request fails, and has done nothing.
//!
//! The stock kernel has no fault injection; there, these tests have nothing to do. The debug kernel has.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use postbox::{raw, sys};
use postbox_tests::*;

/// The switch for this thread: the n-th thing that can fail will.
struct Injector(File);

impl Injector {
    /// `None`: this kernel has none.
    fn new() -> Option<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .open("/proc/thread-self/fail-nth")
            .ok()?;
        let set = |name: &str, value: &str| {
            let path = format!("/sys/kernel/debug/{name}");
            fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}"));
        };
        // Allocations that may sleep, too, and single pages; and nothing to the kernel log.
        for (name, value) in [
            ("failslab/ignore-gfp-wait", "N"),
            ("failslab/verbose", "0"),
            ("fail_page_alloc/ignore-gfp-wait", "N"),
            ("fail_page_alloc/min-order", "0"),
            ("fail_page_alloc/verbose", "0"),
            ("fail_usercopy/verbose", "0"),
        ] {
            set(name, value);
        }
        Some(Injector(file))
    }

    /// Runs a call whose n-th step fails; says whether it has that many.
    fn run<T>(&self, n: u32, call: impl FnOnce() -> T) -> (T, bool) {
        self.0
            .write_at(n.to_string().as_bytes(), 0)
            .expect("the file takes a number");
        let result = call();
        // Reading it copies to user memory, and so may be what fails: then the call has had no n-th step.
        let mut left = [0; 16];
        let hit = self.0.read_at(&mut left, 0).is_ok_and(|_| left[0] == b'0');
        while self.0.write_at(b"0", 0).is_err() {}
        (result, hit)
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd")
        .expect("procfs is mounted")
        .count()
}

/// What must not change by a call that fails. Refusals (`full`) are counted all the same.
fn state(handle: &Handle) -> [u64; 13] {
    let i = handle.info();
    let (messages, bytes, objects) = handle.usage();
    [
        i.messages,
        i.bytes,
        i.unacknowledged,
        i.reserved_messages,
        i.sent,
        i.received,
        i.redelivered,
        i.senders.into(),
        i.receivers.into(),
        i.mode.into(),
        messages,
        bytes,
        objects,
    ]
}

/// Lets every step of a call fail, of which there are at least so many. `prepare` makes what it works on, anew for each.
fn sweep<T>(
    (name, at_least): (&str, u32),
    prepare: impl Fn() -> (Handle, T),
    call: impl Fn(&Handle, &T) -> Result<()>,
) {
    let Some(injector) = Injector::new() else {
        tell(&format!(
            "{name}: this kernel has no fault injection (the debug kernel has)"
        ));
        return;
    };
    // What is done once and for all is done.
    let (handle, extra) = prepare();
    assert_eq!(call(&handle, &extra), Ok(()), "{name}, with no fault");
    drop((handle, extra));
    let mut failed = 0;
    for n in 1.. {
        let (handle, extra) = prepare();
        let (before, open, objects) = (state(&handle), descriptors(), list());
        let (result, hit) = injector.run(n, || call(&handle, &extra));
        if !hit {
            assert_eq!(result, Ok(()), "{name}: no fault, step {n}");
            break;
        }
        // Some failures have a way around them.
        if let Err(error) = result {
            failed += 1;
            let expected = [Errno::NOMEM, Errno::FAULT, Errno::NFILE].contains(&error);
            assert!(expected, "{name}, step {n}: {error}");
            assert_eq!(
                state(&handle),
                before,
                "{name}: step {n} failed and left something"
            );
            assert_eq!(
                (descriptors(), list()),
                (open, objects),
                "{name}: step {n} failed and left something"
            );
            assert_eq!(
                call(&handle, &extra),
                Ok(()),
                "{name}, after step {n} failed"
            );
        }
        assert!(n < 1000, "{name} has no end");
    }
    tell(&format!("{name}: {failed} steps can fail"));
    assert!(
        failed >= at_least,
        "{name}: only {failed} steps were made to fail"
    );
}

/// A sweep in a process of its own.
fn faults<T>(
    what: (&str, u32),
    prepare: impl Fn() -> (Handle, T),
    call: impl Fn(&Handle, &T) -> Result<()>,
) {
    isolated(|| sweep(what, prepare, call));
}

fn mailbox() -> Handle {
    let rights = SEND | RECEIVE | ADMIN;
    Make {
        rights,
        capacity: 8,
        ..Make::default()
    }
    .open(unique("faults").as_str())
    .expect("new")
}

fn with_message() -> (Handle, ()) {
    let handle = mailbox();
    handle.put("the message");
    handle.put(vec![7; 3000]);
    (handle, ())
}

fn with_job() -> (Handle, u64) {
    let (handle, ()) = with_message();
    let token = handle.take(NEVER).expect("sent").token;
    (handle, token)
}

#[test]
fn g11_faults_in_open() {
    faults(
        ("open the device", 1),
        || (mailbox(), ()),
        |_, ()| raw::device().map(drop),
    );
    let unbound = || (mailbox(), Handle::unbound());
    faults(("create without a name", 1), unbound, |_, handle| {
        Make::default().bind(handle, None).map(drop)
    });
    faults(("create", 1), unbound, |_, handle| {
        Make::default()
            .bind(handle, unique("faults").as_str())
            .map(drop)
    });
    let named = || {
        let mailbox = mailbox();
        let name = name_of(&mailbox.info());
        (mailbox, (Handle::unbound(), name))
    };
    faults(("open", 1), named, |_, (handle, name)| {
        Make {
            flags: 0,
            ..Make::default()
        }
        .bind(handle, name.as_str())
        .map(drop)
    });
    faults(
        ("dup", 1),
        || (mailbox(), ()),
        |handle, ()| handle.dup(SEND).map(drop),
    );
}

#[test]
fn g11_faults_in_send() {
    let empty = || (mailbox(), ());
    faults(("send", 1), empty, |handle, ()| {
        handle.send("a few bytes", NEVER)
    });
    faults(("send nothing", 0), empty, |handle, ()| {
        handle.send("", NEVER)
    });
    let large = vec![1; 3000];
    faults(("send 3000 bytes", 1), empty, |handle, ()| {
        handle.send(&large, NEVER)
    });
    let huge = vec![1; 300_000];
    faults(("send 300000 bytes", 1), empty, |handle, ()| {
        handle.send(&huge, NEVER)
    });
    faults(("write", 1), empty, |handle, ()| {
        rustix::io::write(handle, &large).map(drop)
    });
    faults(("send a batch of one", 1), empty, |handle, ()| {
        raw::send_batch(handle, &[raw::SendEntry::new(&large, 0)], NEVER.0, 0).map(drop)
    });
    faults(("reserve", 0), empty, |handle, ()| {
        handle.reserve(100, NEVER)
    });
    let reserved = || {
        let handle = mailbox();
        handle.reserve(100, NEVER).expect("room");
        (handle, ())
    };
    faults(("cancel", 0), reserved, |handle, ()| handle.cancel(100));
    faults(("send into a reservation", 0), reserved, |handle, ()| {
        handle.send_reserved("a few bytes", 100)
    });
}

#[test]
fn g11_faults_in_receive() {
    faults(("recv", 1), with_message, |handle, ()| {
        handle.recv(NEVER).map(drop)
    });
    faults(("take", 1), with_message, |handle, ()| {
        handle.take(NEVER).map(drop)
    });
    faults(("read", 1), with_message, |handle, ()| {
        rustix::io::read(handle, &mut [0; 100]).map(drop)
    });
    faults(("recv a batch of one", 1), with_message, |handle, ()| {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 100];
        raw::recv_batch(handle, &mut [raw::RecvEntry::new(&mut buffer)], NEVER.0, 0).map(drop)
    });
    faults(("ack", 0), with_job, |handle, token| handle.ack(*token));
    faults(("requeue", 0), with_job, |handle, token| {
        handle.requeue(*token)
    });
}

#[test]
fn g11_faults_in_a_rendezvous() {
    isolated(|| {
        let Some(injector) = Injector::new() else {
            tell("this kernel has no fault injection (the debug kernel has)");
            return;
        };
        // What is done once and for all is done.
        assert_eq!(Handle::anonymous(0).recv(NEVER), Err(Errno::AGAIN));
        for n in 1.. {
            let mailbox = Handle::anonymous(0);
            let sender = spawn(|| mailbox.send("precious", FOREVER).expect("a receiver comes"));
            mailbox.wait_senders(1);
            let (result, hit) = injector.run(n, || mailbox.recv(NEVER));
            if let Err(error) = &result {
                assert_eq!(*error, Errno::FAULT, "step {n}");
                assert!(
                    sender.running(),
                    "step {n}: the receive failed, and the send did not"
                );
                assert_eq!(mailbox.get(), "precious");
            }
            sender.ok();
            if !hit {
                break;
            }
            assert!(n < 1000, "it has no end");
        }
    });
}

#[test]
fn g11_faults_in_the_rest() {
    let empty = || (mailbox(), ());
    faults(("version", 0), empty, |handle, ()| {
        raw::version(handle).map(drop)
    });
    faults(("info", 0), empty, |handle, ()| raw::info(handle).map(drop));
    faults(("usage", 0), empty, |handle, ()| {
        raw::usage(handle).map(drop)
    });
    faults(("list", 0), empty, |handle, ()| {
        raw::list(handle, 0, &mut [sys::postbox_info::default(); 4]).map(drop)
    });
    faults(("chmod", 0), empty, |handle, ()| {
        raw::set_attr(
            handle,
            &sys::postbox_attr {
                valid: sys::POSTBOX_ATTR_MODE,
                mode: 0o640,
                ..Default::default()
            },
        )
    });
    let other = || {
        let other = mailbox();
        let name = name_of(&other.info());
        (mailbox(), (other, name))
    };
    faults(("unlink", 1), other, |handle, (_, name)| {
        raw::unlink(handle, name.as_bytes())
    });
}
