//! Guarantee 1: a message is delivered to exactly one receiver, whole, once, and in order within its priority.

use postbox_tests::LONG;
use std::sync::atomic::Ordering::Relaxed;

use postbox_tests::*;

/// A payload that tells where it comes from, of a length and with bytes that follow from it.
fn payload(sender: u64, sequence: u64) -> Vec<u8> {
    let mut rng = Rng::new(sender << 32 | sequence);
    let mut data = vec![0; 16 + rng.below(200) as usize];
    rng.fill(&mut data[16..]);
    data[..8].copy_from_slice(&sender.to_le_bytes());
    data[8..16].copy_from_slice(&sequence.to_le_bytes());
    data
}

/// Whose it is; panics if a byte is wrong.
fn origin(data: &[u8]) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().expect("eight bytes"));
    let (sender, sequence) = (word(0), word(8));
    assert_eq!(
        data,
        payload(sender, sequence),
        "message {sequence} of sender {sender} is not whole"
    );
    (sender, sequence)
}

const SENDERS: u64 = 4;
const RECEIVERS: u64 = 3;

/// Senders and receivers in processes of their own, each calling `send` or `recv` until it is through; every message
/// must arrive once, and in the order of its sender at each receiver.
fn exchange(
    capacity: u64,
    each: u64,
    send: impl Fn(&Handle, &mut Rng, &[u8]) -> Result<()>,
    recv: impl Fn(&Handle, &mut Rng) -> Result<Got>,
) {
    let name = unique("exchange");
    let make = Make {
        capacity,
        ..Make::default()
    };
    let keeper = Make {
        rights: ADMIN,
        ..make
    }
    .open(name.as_str())
    .expect("a new mailbox");
    let seen = Ledger::new((SENDERS * each) as usize);
    let (opened, go) = (Gate::new(), Gate::new());
    let mut rng = Rng::from_env("exchange");
    let mut children = Vec::new();
    for _ in 0..RECEIVERS {
        let mut rng = rng.split();
        children.push(spawn(|| {
            let handle = Handle::open(&name, RECEIVE).expect("it is there");
            opened.open(1);
            go.pass();
            let mut last = [None; SENDERS as usize];
            loop {
                match recv(&handle, &mut rng) {
                    Ok(got) => {
                        let (sender, sequence) = origin(&got.data);
                        let last = &mut last[sender as usize];
                        assert!(
                            *last < Some(sequence),
                            "sender {sender}: {sequence} after {last:?}"
                        );
                        *last = Some(sequence);
                        seen[(sender * each + sequence) as usize].fetch_add(1, Relaxed);
                    }
                    Err(Errno::PIPE) => return,
                    Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => {}
                    Err(e) => panic!("receive: {e}"),
                }
            }
        }));
    }
    for sender in 0..SENDERS {
        let mut rng = rng.split();
        children.push(spawn(|| {
            let handle = Handle::open(&name, SEND).expect("it is there");
            opened.open(1);
            go.pass();
            for sequence in 0..each {
                let data = payload(sender, sequence);
                loop {
                    match send(&handle, &mut rng, &data) {
                        Ok(()) => break,
                        Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => {}
                        Err(e) => panic!("send: {e}"),
                    }
                }
            }
        }));
    }
    (0..SENDERS + RECEIVERS).for_each(|_| opened.pass());
    go.open(SENDERS + RECEIVERS);
    children.into_iter().for_each(Child::ok);
    for (i, count) in seen.iter().enumerate() {
        assert_eq!(count.load(Relaxed), 1, "deliveries of message {i}");
    }
    let info = keeper.info();
    assert_eq!((info.sent, info.received), (SENDERS * each, SENDERS * each));
    assert_eq!((info.messages, info.bytes, info.unacknowledged), (0, 0, 0));
    assert_eq!((info.waiting_senders, info.waiting_receivers), (0, 0));
}

#[test]
fn g01_every_message_goes_to_one_receiver_once() {
    isolated(|| {
        for capacity in [0, 1, 8, UNBOUNDED] {
            exchange(
                capacity,
                250,
                |h, _, data| h.send(data, FOREVER),
                |h, _| h.recv(FOREVER),
            );
        }
    });
}

#[test]
fn g01_waits_that_time_out_lose_and_double_nothing() {
    isolated(|| {
        for capacity in [0, 2] {
            exchange(
                capacity,
                150,
                |h, rng, data| match rng.below(4) {
                    0 => h.send(data, NEVER),
                    1 => h.send(data, until(rng.below(2) as i64)),
                    _ => h.send(data, Wait(within(0).0, rng.below(400_000))),
                },
                |h, rng| match rng.below(4) {
                    0 => h.recv(NEVER),
                    1 => h.recv(until(rng.below(2) as i64)),
                    _ => h.recv(Wait(within(0).0, rng.below(400_000))),
                },
            );
        }
    });
}

#[test]
fn g01_waits_that_signals_interrupt_lose_and_double_nothing() {
    isolated(|| {
        for capacity in [0, 2] {
            exchange(
                capacity,
                150,
                |h, rng, data| interrupted(rng, || h.send(data, FOREVER)),
                |h, rng| interrupted(rng, || h.recv(FOREVER)),
            );
        }
    });
}

/// Runs a call that a timer's signals interrupt, again and again until it has ended. The handler does nothing, and the
/// call is not restarted.
fn interrupted<T>(rng: &mut Rng, call: impl FnOnce() -> Result<T>) -> Result<T> {
    handle_signal(libc::SIGALRM, 0);
    let mut period = libc::itimerval {
        it_interval: libc::timeval {
            tv_sec: 0,
            tv_usec: 5000,
        },
        it_value: libc::timeval {
            tv_sec: 0,
            tv_usec: 1 + rng.below(2000) as i64,
        },
    };
    // SAFETY: the first pointer is to a valid timer, and no old one is asked for.
    check("setitimer", unsafe {
        libc::setitimer(libc::ITIMER_REAL, &period, std::ptr::null_mut())
    });
    let result = call();
    period.it_value = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    // SAFETY: as above.
    check("setitimer", unsafe {
        libc::setitimer(libc::ITIMER_REAL, &period, std::ptr::null_mut())
    });
    result
}

#[test]
fn g01_order_is_priority_and_then_arrival() {
    isolated(|| {
        let mailbox = Handle::anonymous(UNBOUNDED);
        let mut rng = Rng::from_env("order");
        let levels = [0, 1, 7, 100, 32_766, 32_767];
        let mut expected: Vec<(u32, u32)> = (0..300).map(|i| (*rng.pick(&levels), i)).collect();
        for (priority, i) in &expected {
            mailbox
                .send_priority(i.to_le_bytes(), *priority, NEVER)
                .expect("there is room");
        }
        // A stable sort: what came first stays first.
        expected.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
        for (priority, i) in expected {
            let got = mailbox.recv(NEVER).expect("as many as were sent");
            assert_eq!(
                (got.priority, got.data),
                (priority, i.to_le_bytes().to_vec())
            );
        }
        assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
    });
}

#[test]
fn g01_a_higher_priority_overtakes_what_is_queued() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        for (text, priority) in [("low 1", 1), ("high 1", 9), ("low 2", 1)] {
            mailbox
                .send_priority(text, priority, NEVER)
                .expect("there is room");
        }
        assert_eq!(mailbox.get(), "high 1");
        mailbox
            .send_priority("high 2", 9, NEVER)
            .expect("there is room");
        assert_eq!(
            [mailbox.get(), mailbox.get(), mailbox.get()],
            ["high 2", "low 1", "low 2"]
        );
    });
}

#[test]
fn g01_a_message_arrives_whole_whatever_its_size() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        let max = mailbox.info().message_max as usize;
        let mut rng = Rng::from_env("sizes");
        let mut sizes = vec![
            0, 1, 2, 7, 8, 9, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513,
        ];
        for around in [1024, 2048, 4096, 8192, 65536] {
            sizes.extend([around - 65, around - 1, around, around + 1]);
        }
        sizes.extend([max - 1, max]);
        sizes.retain(|size| *size <= max);
        for size in sizes {
            let mut data = vec![0; size];
            rng.fill(&mut data);
            mailbox.put(&data);
            let mut buffer = vec![0xA5; size + 100];
            let mut args = postbox::sys::postbox_recv {
                flags: NEVER.0,
                ..Default::default()
            };
            let len = postbox::raw::recv(&mailbox, &mut buffer, &mut args).expect("it was sent");
            assert_eq!((len, args.msg_len), (size, size as u64));
            assert!(buffer[..size] == data, "{size} bytes arrived changed");
            assert!(
                buffer[size..].iter().all(|byte| *byte == 0xA5),
                "a receive of {size} bytes wrote beyond them"
            );
        }
    });
}

#[test]
fn g01_what_was_sent_does_not_change_with_the_senders_buffer() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        let mut data = vec![1; 3000];
        mailbox.put(&data);
        data.fill(2);
        mailbox.put(&data);
        assert!(
            mailbox
                .recv(NEVER)
                .expect("sent")
                .data
                .iter()
                .all(|byte| *byte == 1)
        );
        assert!(
            mailbox
                .recv(NEVER)
                .expect("sent")
                .data
                .iter()
                .all(|byte| *byte == 2)
        );
    });
}

#[test]
fn g01_a_killed_waiting_receiver_takes_nothing_with_it() {
    isolated(|| {
        let mailbox = Handle::anonymous(UNBOUNDED);
        for round in 0..20u32 {
            let victim = spawn(|| {
                let _ = mailbox.recv(FOREVER);
            });
            mailbox.wait_receivers(1);
            victim.destroy();
            mailbox.wait_receivers(0);
            // Nobody may be handed it any more.
            mailbox.put(round.to_le_bytes());
            assert_eq!(
                mailbox.recv(NEVER).expect("it is in the queue").data,
                round.to_le_bytes()
            );
        }
    });
}

#[test]
fn g01_a_stopped_receiver_keeps_nothing_from_the_others() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        let stopped = spawn(|| {
            assert_eq!(
                mailbox.recv(FOREVER).expect("it goes on waiting").text(),
                "four"
            )
        });
        mailbox.wait_receivers(1);
        stopped.kill(libc::SIGSTOP);
        wait_until("the receiver to stop", || stopped.state() == 'T');
        mailbox.put_all(["one", "two", "three"]);
        assert_eq!(
            [mailbox.get(), mailbox.get(), mailbox.get()],
            ["one", "two", "three"]
        );
        stopped.kill(libc::SIGCONT);
        mailbox.wait_receivers(1);
        mailbox.put("four");
        stopped.ok();
    });
}

#[test]
fn g01_a_killed_receiver_in_the_middle_of_its_copy_gives_the_message_back_to_its_place() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        mailbox.put_all(["one", "two"]);
        let victim = spawn(|| {
            let page = SlowPage::new();
            send_fd(&theirs, page.fault());
            let mut args = postbox::sys::postbox_recv {
                data: page.address(),
                len: 100,
                ..recv_args()
            };
            // SAFETY: the request takes this struct, and the buffer is a page of ours.
            let result =
                unsafe { postbox::raw::ioctl(&mailbox, postbox::sys::POSTBOX_RECV, &mut args) };
            panic!("the receive ended: {result:?}");
        });
        let fault = Fault::from_parts(receive_fd(&ours), 0);
        fault.wait();
        // It is held, and counts: no longer in the queue, not received.
        let info = mailbox.info();
        assert_eq!((info.messages, info.received), (1, 0));
        victim.destroy();
        assert_eq!(
            [mailbox.get(), mailbox.get()],
            ["one", "two"],
            "the message did not go back to its place"
        );
        assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
        let info = mailbox.info();
        assert_eq!((info.sent, info.received, info.redelivered), (2, 2, 0));
    });
}

#[test]
fn g01_a_killed_waiting_sender_leaves_nothing_behind() {
    isolated(|| {
        let mailbox = Handle::anonymous(1);
        mailbox.put("first");
        for _ in 0..10 {
            let victim = spawn(|| {
                let _ = mailbox.send("never", FOREVER);
            });
            mailbox.wait_senders(1);
            victim.destroy();
            mailbox.wait_senders(0);
        }
        assert_eq!(mailbox.info().sent, 1);
        assert_eq!(mailbox.get(), "first");
        assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
    });
}

#[test]
fn g01_a_sender_that_waits_and_then_dies_after_success_has_delivered() {
    isolated(|| {
        let mailbox = Handle::anonymous(1);
        mailbox.put("first");
        let sender = spawn(|| mailbox.send("second", FOREVER).expect("room comes"));
        mailbox.wait_senders(1);
        assert_eq!(mailbox.get(), "first");
        sender.ok();
        assert_eq!(mailbox.get(), "second");
    });
}

#[test]
fn g01_a_batch_keeps_the_order_and_loses_nothing() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        let sender = spawn(|| {
            let texts: Vec<Vec<u8>> = (0..500).map(|i| payload(0, i)).collect();
            for chunk in texts.chunks(37) {
                let entries: Vec<_> = chunk
                    .iter()
                    .map(|data| postbox::raw::SendEntry::new(data, 0))
                    .collect();
                assert_eq!(
                    postbox::raw::send_batch(&mailbox, &entries, 0, 0),
                    Ok(chunk.len())
                );
            }
        });
        let mut next = 0;
        while next < 500 {
            let mut buffers = vec![vec![std::mem::MaybeUninit::uninit(); 256]; 8];
            let mut entries: Vec<_> = buffers
                .iter_mut()
                .map(|b| postbox::raw::RecvEntry::new(b))
                .collect();
            let wait = within(LONG.as_millis() as u64);
            let n = postbox::raw::recv_batch(&mailbox, &mut entries, wait.0, wait.1)
                .expect("more come");
            assert!((1..=8).contains(&n));
            for entry in &entries[..n] {
                assert_eq!(origin(entry.payload()), (0, next));
                next += 1;
            }
        }
        sender.ok();
        assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
    });
}
