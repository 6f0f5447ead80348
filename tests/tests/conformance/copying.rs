//! Guarantee 3: what happens to a message, and to the bytes of a caller, when a copy fails.

use postbox_tests::scope;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use postbox::{raw, sys};
use postbox_tests::*;

/// Pages of memory of which some cannot be accessed.
struct Pages {
    at: u64,
    count: usize,
}

impl Pages {
    fn new(count: usize) -> Self {
        // SAFETY: a new anonymous mapping touches no memory that exists.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert!(at != libc::MAP_FAILED);
        Pages {
            at: at as u64,
            count,
        }
    }

    /// Changes what may be done with one of them.
    fn protect(&self, page: usize, protection: i32) {
        assert!(page < self.count);
        let at = (self.at + (page * PAGE) as u64) as *mut libc::c_void;
        // SAFETY: one page of this mapping, which no reference leads to.
        check("mprotect", unsafe { libc::mprotect(at, PAGE, protection) });
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made.
        unsafe { libc::munmap(self.at as *mut libc::c_void, self.count * PAGE) };
    }
}

fn recv_at(handle: &Handle, data: u64, len: u64, flags: u32) -> (Result<()>, u64) {
    let mut args = sys::postbox_recv {
        data,
        len,
        flags: sys::POSTBOX_NONBLOCK | flags,
        ..recv_args()
    };
    // SAFETY: the request takes this struct; the tests pass addresses that they own, or that nobody can write to.
    let result = unsafe { raw::ioctl(handle, sys::POSTBOX_RECV, &mut args) };
    (result, args.msg_len)
}

fn send_at(handle: &Handle, data: u64, len: u64) -> Result<()> {
    let mut args = sys::postbox_send {
        data,
        len,
        flags: sys::POSTBOX_NONBLOCK,
        ..send_args()
    };
    // SAFETY: the request takes this struct, and reads only.
    unsafe { raw::ioctl(handle, sys::POSTBOX_SEND, &mut args) }
}

#[test]
fn g03_receive_with_too_small_buffer_leaves_the_message_at_the_head() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        mailbox.put("a longer one");
        mailbox.put("next");
        for flags in [0, sys::POSTBOX_RECV_ACK] {
            for room in [0, 1, 11] {
                assert_eq!(
                    mailbox.recv_flags(room, NEVER, flags),
                    (Err(Errno::MSGSIZE), 12)
                );
            }
        }
        let info = mailbox.info();
        assert_eq!(
            (
                info.messages,
                info.bytes,
                info.received,
                info.unacknowledged
            ),
            (2, 16, 0, 0)
        );
        assert_eq!(info.redelivered, 0);
        let (got, needed) = mailbox.recv_flags(12, NEVER, 0);
        let got = got.expect("exactly enough");
        assert_eq!(
            (got.text(), got.redelivered, needed),
            ("a longer one", false, 12)
        );
        assert_eq!(mailbox.get(), "next");
    });
}

#[test]
fn g03_a_waiting_receive_with_too_small_a_buffer_lets_the_next_have_the_message() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        let small =
            spawn(|| assert_eq!(mailbox.recv_flags(3, FOREVER, 0), (Err(Errno::MSGSIZE), 5)));
        mailbox.wait_receivers(1);
        let large = spawn(|| assert_eq!(mailbox.recv(FOREVER).expect("it comes").text(), "large"));
        mailbox.wait_receivers(2);
        mailbox.put("large");
        small.ok();
        large.ok();
        assert_eq!(mailbox.info().messages, 0);
    });
}

#[test]
fn g03_a_waiting_receive_with_too_small_a_buffer_and_no_next_leaves_it_in_the_queue() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        let small =
            spawn(|| assert_eq!(mailbox.recv_flags(3, FOREVER, 0), (Err(Errno::MSGSIZE), 5)));
        mailbox.wait_receivers(1);
        mailbox.put("first");
        mailbox.put("second");
        small.ok();
        assert_eq!([mailbox.get(), mailbox.get()], ["first", "second"]);
    });
}

#[test]
fn g03_an_empty_message_needs_no_buffer() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        assert_eq!(send_at(&mailbox, 0, 0), Ok(()));
        assert_eq!(mailbox.ready() & libc::POLLIN, libc::POLLIN);
        assert_eq!(recv_at(&mailbox, 0, 0, 0), (Ok(()), 0));
        assert_eq!(recv_at(&mailbox, 0, 0, 0).0, Err(Errno::AGAIN));
    });
}

#[test]
fn g03_a_receive_that_faults_leaves_the_message_at_the_head() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        let pages = Pages::new(3);
        pages.protect(1, libc::PROT_NONE);
        pages.protect(2, libc::PROT_READ);
        let message = vec![7; 1000];
        mailbox.put(&message);
        mailbox.put("next");
        let page = |n: usize| pages.at + (n * PAGE) as u64;
        // Null, the first page, half of it mapped, none, read-only, the kernel, beyond the last address.
        for address in [
            0,
            8,
            page(1) - 500,
            page(1),
            page(2),
            0xffff_8880_0000_0000,
            u64::MAX - 10,
            1 << 63,
        ] {
            for flags in [0, sys::POSTBOX_RECV_ACK] {
                assert_eq!(
                    recv_at(&mailbox, address, 1000, flags).0,
                    Err(Errno::FAULT),
                    "buffer at {address:#x}"
                );
            }
        }
        let info = mailbox.info();
        assert_eq!(
            (
                info.messages,
                info.bytes,
                info.received,
                info.unacknowledged
            ),
            (2, 1004, 0, 0)
        );
        let got = mailbox.recv(NEVER).expect("it is still there");
        assert_eq!((got.data, got.redelivered), (message, false));
        assert_eq!(mailbox.get(), "next");
    });
}

#[test]
fn g03_a_receive_whose_arguments_cannot_be_written_back_takes_nothing() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        mailbox.put("stays");
        let pages = Pages::new(1);
        let mut buffer = [0u8; 64];
        let args = sys::postbox_recv {
            data: buffer.as_mut_ptr() as u64,
            len: 64,
            flags: NEVER.0,
            ..recv_args()
        };
        // SAFETY: within the mapping, and aligned to a page.
        unsafe { (pages.at as *mut sys::postbox_recv).write(args) };
        pages.protect(0, libc::PROT_READ);
        // SAFETY: a mapped struct that the kernel may read; that it cannot write to it is what is tested.
        let result = unsafe { libc::ioctl(mailbox.as_raw_fd(), sys::POSTBOX_RECV as _, pages.at) };
        assert_eq!(
            (result, std::io::Error::last_os_error().raw_os_error()),
            (-1, Some(libc::EFAULT))
        );
        assert_eq!(mailbox.get(), "stays");
        assert_eq!(mailbox.info().received, 1);
    });
}

/// What a failed call must not change. (`full` counts refusals, and is looked at on its own.)
fn state(handle: &Handle) -> [u64; 10] {
    let i = handle.info();
    let (messages, bytes, _) = handle.usage();
    [
        i.messages,
        i.bytes,
        i.unacknowledged,
        i.reserved_messages,
        i.sent,
        i.received,
        i.high_messages,
        i.high_bytes,
        messages,
        bytes,
    ]
}

#[test]
fn g03_a_send_that_fails_leaves_nothing_behind() {
    isolated(|| {
        let user = fresh_user();
        let test = || {
            let make = Make {
                capacity: 2,
                capacity_bytes: 100,
                message_max: 50,
                ..Make::default()
            };
            let (tx, rx) = make.open(None).expect("a new mailbox").split();
            let pages = Pages::new(2);
            pages.protect(1, libc::PROT_NONE);
            tx.put([1; 10]);
            let before = state(&tx);

            assert_eq!(tx.send([0; 51], NEVER), Err(Errno::MSGSIZE));
            assert_eq!(
                tx.send([0; 51], FOREVER),
                Err(Errno::MSGSIZE),
                "waiting does not help"
            );
            assert_eq!(tx.send_priority("x", 32_768, NEVER), Err(Errno::INVAL));
            assert_eq!(send_at(&tx, 0, 10), Err(Errno::FAULT));
            assert_eq!(send_at(&tx, pages.at + PAGE as u64, 10), Err(Errno::FAULT));
            assert_eq!(
                send_at(&tx, pages.at + PAGE as u64 - 5, 10),
                Err(Errno::FAULT),
                "the second half is bad"
            );
            assert_eq!(send_at(&tx, u64::MAX - 4, 10), Err(Errno::FAULT));
            assert_eq!(send_at(&tx, pages.at, u64::MAX), Err(Errno::MSGSIZE));
            assert_eq!(state(&tx), before);

            tx.put([2; 10]);
            let before = state(&tx);
            assert_eq!(tx.send("x", NEVER), Err(Errno::AGAIN));
            assert_eq!(tx.send("x", within(5)), Err(Errno::TIMEDOUT));
            assert_eq!(tx.send("x", until(5)), Err(Errno::TIMEDOUT));
            assert_eq!(tx.send("x", until(-1000)), Err(Errno::TIMEDOUT));
            let interrupted = spawn(|| {
                handle_signal(libc::SIGUSR1, 0);
                assert_eq!(tx.send("x", FOREVER), Err(Errno::INTR));
            });
            tx.wait_senders(1);
            interrupted.wait_asleep();
            interrupted.kill(libc::SIGUSR1);
            interrupted.ok();
            assert_eq!(state(&tx), before);

            assert_eq!(rx.recv(NEVER).expect("sent").data, [1; 10]);
            assert_eq!(rx.recv(NEVER).expect("sent").data, [2; 10]);
            assert_eq!(rx.recv(NEVER), Err(Errno::AGAIN));
            drop(rx);
            let before = state(&tx);
            assert_eq!(tx.send("x", NEVER), Err(Errno::PIPE));
            assert_eq!(state(&tx), before);
            assert_eq!(tx.usage().0, 0);
        };
        spawn_as(user, test).ok();
    });
}

#[test]
fn g03_what_can_never_fit_is_refused_at_once() {
    isolated(|| {
        let by_bytes = Make {
            capacity: 8,
            capacity_bytes: 10,
            ..Make::default()
        }
        .open(None)
        .expect("new");
        assert_eq!(by_bytes.send([0; 11], FOREVER), Err(Errno::MSGSIZE));
        assert_eq!(by_bytes.reserve(11, FOREVER), Err(Errno::MSGSIZE));
        assert_eq!(by_bytes.send([0; 10], FOREVER), Ok(()));
        let by_max = Make {
            capacity: 1,
            message_max: 10,
            ..Make::default()
        }
        .open(None)
        .expect("new");
        assert_eq!(by_max.info().message_max, 10);
        by_max.put([0; 10]);
        assert_eq!(by_max.send([0; 11], FOREVER), Err(Errno::MSGSIZE));
        assert_eq!(by_max.reserve(11, FOREVER), Err(Errno::MSGSIZE));
        let version = raw::version(&by_max).expect("every handle tells");
        let plain = Handle::anonymous(1);
        assert_eq!(plain.info().message_max, version.message_max);
        let too_long = vec![0; version.message_max as usize + 1];
        assert_eq!(plain.send(&too_long, FOREVER), Err(Errno::MSGSIZE));
        assert_eq!(plain.send(&too_long[1..], FOREVER), Ok(()));
        let rendezvous = Make {
            capacity: 0,
            message_max: 10,
            ..Make::default()
        }
        .open(None)
        .expect("new");
        assert_eq!(rendezvous.send([0; 11], FOREVER), Err(Errno::MSGSIZE));
    });
}

#[test]
fn g03_a_sender_whose_memory_is_slow_holds_nobody_up() {
    isolated(|| {
        let mailbox = Handle::anonymous(2);
        let page = SlowPage::new();
        let fault = page.fault();
        scope(|scope| {
            let slow = scope.spawn(|| {
                let mut args = sys::postbox_send {
                    data: page.address(),
                    len: 4,
                    ..send_args()
                };
                // SAFETY: the request takes this struct, and the page belongs to this test.
                unsafe { raw::ioctl(&mailbox, sys::POSTBOX_SEND, &mut args) }
            });
            fault.wait();
            for i in 0..5u32 {
                mailbox.put(i.to_le_bytes());
                assert_eq!(mailbox.recv(NEVER).expect("sent").data, i.to_le_bytes());
            }
            assert_eq!(mailbox.info().messages, 0);
            fault.resolve(b"slow");
            assert_eq!(slow.join().expect("no panic"), Ok(()));
        });
        assert_eq!(mailbox.get(), "slow");
    });
}

#[test]
fn g03_a_receiver_whose_memory_is_slow_holds_nobody_up() {
    isolated(|| {
        let mailbox = Handle::anonymous(2);
        let page = SlowPage::new();
        let fault = page.fault();
        mailbox.put("slow");
        scope(|scope| {
            let slow = scope.spawn(|| recv_at(&mailbox, page.address(), 100, 0));
            fault.wait();
            // What is being copied still takes its room, and is not there for others.
            mailbox.put("quick");
            assert_eq!(mailbox.send("full", NEVER), Err(Errno::AGAIN));
            assert_eq!(mailbox.get(), "quick");
            assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
            assert_eq!(mailbox.send("x", within(1)), Ok(()));
            let waiting = spawn(|| mailbox.send("waits", FOREVER).expect("room comes"));
            mailbox.wait_senders(1);
            thread::sleep(Duration::from_millis(20));
            assert!(waiting.running());
            fault.resolve(&[]);
            assert_eq!(slow.join().expect("no panic"), (Ok(()), 4));
            waiting.ok();
        });
        assert_eq!(page.read(4), b"slow");
        assert_eq!([mailbox.get(), mailbox.get()], ["x", "waits"]);
    });
}

#[test]
fn g03_a_buffer_that_is_unmapped_during_the_copy_loses_nothing() {
    isolated(|| {
        let mailbox = Handle::anonymous(2);
        let page = SlowPage::new();
        let (address, fault) = (page.address(), page.fault());
        mailbox.put("stays");
        mailbox.put("next");
        scope(|scope| {
            let receiver = scope.spawn(|| recv_at(&mailbox, address, 100, 0));
            fault.wait();
            drop(page);
            // Who waits for the page is woken when nobody is left who could bring it.
            drop(fault);
            assert_eq!(receiver.join().expect("no panic").0, Err(Errno::FAULT));
        });
        assert_eq!([mailbox.get(), mailbox.get()], ["stays", "next"]);
    });
}
