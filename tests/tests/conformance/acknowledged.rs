//! Guarantee 7: a message that was taken and not acknowledged goes back to the head, marked redelivered.

use postbox_tests::{scope, sleep_forever};
use std::sync::atomic::Ordering::Relaxed;

use postbox::{raw, sys};
use postbox_tests::*;

#[test]
fn g07_an_acknowledged_message_is_done_with() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        mailbox.put("job");
        let job = mailbox.take(NEVER).expect("sent");
        assert_eq!((job.text(), job.redelivered), ("job", false));
        assert_ne!(job.token, 0);
        let info = mailbox.info();
        assert_eq!(
            (info.messages, info.unacknowledged, info.received),
            (0, 1, 0)
        );
        assert_eq!(
            mailbox.recv(NEVER),
            Err(Errno::AGAIN),
            "a taken message is nobody else's"
        );
        assert_eq!(mailbox.ack(job.token), Ok(()));
        let info = mailbox.info();
        assert_eq!(
            (
                info.messages,
                info.unacknowledged,
                info.received,
                info.redelivered
            ),
            (0, 0, 1, 0)
        );
        assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
    });
}

#[test]
fn g07_a_requeued_message_comes_first_and_is_marked() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        mailbox.put_all(["a", "b", "c"]);
        let (a, b) = (
            mailbox.take(NEVER).expect("a"),
            mailbox.take(NEVER).expect("b"),
        );
        // The later one goes back first: their order is still that of their arrival.
        mailbox.requeue(b.token).expect("ours");
        mailbox.requeue(a.token).expect("ours");
        let again: Vec<Got> = (0..3)
            .map(|_| mailbox.recv(NEVER).expect("three"))
            .collect();
        let what: Vec<_> = again
            .iter()
            .map(|got| (got.text(), got.redelivered))
            .collect();
        assert_eq!(what, [("a", true), ("b", true), ("c", false)]);
        assert_eq!(
            again[0].pid,
            std::process::id(),
            "who sent it is still known"
        );
        let info = mailbox.info();
        assert_eq!((info.sent, info.received, info.redelivered), (3, 3, 2));
    });
}

#[test]
fn g07_a_requeued_message_goes_to_the_head_of_its_priority_only() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        mailbox.send_priority("low", 1, NEVER).expect("room");
        mailbox.send_priority("low too", 1, NEVER).expect("room");
        let low = mailbox.take(NEVER).expect("sent");
        mailbox.send_priority("high", 2, NEVER).expect("room");
        mailbox.requeue(low.token).expect("ours");
        assert_eq!(
            [mailbox.get(), mailbox.get(), mailbox.get()],
            ["high", "low", "low too"]
        );
    });
}

#[test]
fn g07_tokens_are_good_once_and_on_their_handle() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        let other = mailbox.receiver();
        mailbox.put_all(["a", "b"]);
        let a = mailbox.take(NEVER).expect("a");
        for settle in [Handle::ack, Handle::requeue] {
            assert_eq!(
                settle(&other, a.token),
                Err(Errno::NOENT),
                "on another handle"
            );
            assert_eq!(settle(&mailbox, 0), Err(Errno::NOENT));
            assert_eq!(settle(&mailbox, a.token + 1), Err(Errno::NOENT));
            assert_eq!(settle(&mailbox, u64::MAX), Err(Errno::NOENT));
        }
        assert_eq!(mailbox.info().unacknowledged, 1);
        mailbox.ack(a.token).expect("ours");
        assert_eq!(mailbox.ack(a.token), Err(Errno::NOENT), "twice");
        assert_eq!(mailbox.requeue(a.token), Err(Errno::NOENT));

        // Each taking has a token of its own, which dies with it.
        let b = mailbox.take(NEVER).expect("b");
        mailbox.requeue(b.token).expect("ours");
        let b_again = mailbox.take(NEVER).expect("b");
        assert!(b_again.token != b.token && b_again.token != a.token);
        assert_eq!(
            mailbox.ack(b.token),
            Err(Errno::NOENT),
            "of the first taking"
        );
        mailbox.ack(b_again.token).expect("ours");
        assert_eq!(mailbox.info().received, 2);

        assert_eq!(raw::ack(&mailbox, 1, 2), Err(Errno::INVAL));
        assert_eq!(raw::ack(&mailbox, 1, 1 << 31), Err(Errno::INVAL));
        assert_eq!(
            mailbox.sender().ack(1),
            Err(Errno::ACCESS),
            "a handle that cannot receive has nothing to settle"
        );
    });
}

#[test]
fn g07_an_ordinary_receive_has_no_token() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        mailbox.put("x");
        assert_eq!(mailbox.recv(NEVER).expect("sent").token, 0);
    });
}

#[test]
fn g07_closing_the_handle_gives_back_what_it_took() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        mailbox.put_all(["a", "b", "c"]);
        let worker = mailbox.receiver();
        for _ in 0..2 {
            worker.take(NEVER).expect("sent");
        }
        drop(worker);
        let got: Vec<_> = (0..3).map(|_| mailbox.recv(NEVER).expect("back")).collect();
        let what: Vec<_> = got
            .iter()
            .map(|got| (got.text(), got.redelivered))
            .collect();
        assert_eq!(what, [("a", true), ("b", true), ("c", false)]);
    });
}

/// What a worker that took "job" does with its life; afterwards the job must be there again.
fn dies(how: impl Fn(&Handle)) {
    let mailbox = Handle::anonymous(8);
    mailbox.put("job");
    mailbox.put("next");
    let taken = Gate::new();
    let worker = spawn(|| {
        mailbox.take(NEVER).expect("sent");
        taken.open(1);
        how(&mailbox);
    });
    taken.pass();
    let _ = worker.wait();
    wait_until("the job to come back", || {
        mailbox.info().unacknowledged == 0
    });
    let job = mailbox.recv(NEVER).expect("it came back");
    assert_eq!((job.text(), job.redelivered), ("job", true));
    assert_eq!(mailbox.get(), "next");
    assert_eq!(mailbox.info().redelivered, 1);
}

#[test]
fn g07_the_death_of_the_receiver_gives_it_back() {
    isolated(|| {
        // The parent has the same handle open all the time: it is the process that counts.
        dies(|_| {});
        dies(|_| {
            // SAFETY: no pointers; it ends this process.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        });
        dies(|_| {
            // SAFETY: no pointers; it ends this process.
            unsafe { libc::abort() };
        });
        // It can acknowledge no more, though it goes on for a while.
        dies(|handle| handle.close_copy());
        dies(|_| {
            let program = c"/bin/true".as_ptr();
            // SAFETY: strings and a list that end as they should; the descriptors are close-on-exec.
            unsafe { libc::execv(program, [program, std::ptr::null()].as_ptr()) };
            panic!("exec: {}", std::io::Error::last_os_error());
        });
    });
}

#[test]
fn g07_the_death_of_the_receiver_gives_it_back_though_a_forked_child_keeps_the_handle() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        mailbox.put("job");
        let (taken, stay) = (Gate::new(), Gate::new());
        let worker = spawn(|| {
            let own = mailbox.receiver();
            own.take(NEVER).expect("sent");
            // SAFETY: this process has one thread; the child uses the gate only.
            if unsafe { libc::fork() } == 0 {
                taken.open(1);
                stay.pass();
                // SAFETY: ends the grandchild.
                unsafe { libc::_exit(0) };
            }
            taken.pass();
            taken.open(1);
            // SAFETY: no pointers; it ends this process.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        });
        assert_eq!(worker.wait(), Exit::Signal(libc::SIGKILL));
        taken.pass();
        // The grandchild still has the handle.
        assert_eq!(mailbox.info().receivers, 2);
        wait_until("the job to come back", || {
            mailbox.info().unacknowledged == 0
        });
        let job = mailbox.recv(NEVER).expect("it came back");
        assert_eq!((job.text(), job.redelivered), ("job", true));
        stay.open(1);
        wait_until("the grandchild to end", || mailbox.info().receivers == 1);
    });
}

#[test]
fn g07_a_second_descriptor_keeps_what_was_taken() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        mailbox.put("job");
        let worker = spawn(|| {
            let second = Handle(mailbox.0.try_clone().expect("a descriptor can be copied"));
            let job = mailbox.take(NEVER).expect("sent");
            mailbox.close_copy();
            assert_eq!(second.info().unacknowledged, 1);
            assert_eq!(second.ack(job.token), Ok(()));
        });
        worker.ok();
        let info = mailbox.info();
        assert_eq!(
            (info.received, info.redelivered, info.unacknowledged),
            (1, 0, 0)
        );
    });
}

#[test]
fn g07_a_threads_end_is_not_its_processes() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        mailbox.put("job");
        let token = scope(|scope| {
            scope
                .spawn(|| mailbox.take(NEVER).expect("sent").token)
                .join()
                .expect("no panic")
        });
        assert_eq!(mailbox.info().unacknowledged, 1);
        assert_eq!(mailbox.ack(token), Ok(()));
    });
}

#[test]
fn g07_only_the_dead_processes_messages_come_back() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        mailbox.put_all(["mine", "yours"]);
        let mine = mailbox.take(NEVER).expect("sent");
        // The child takes with the very same handle.
        spawn(|| assert_eq!(mailbox.take(NEVER).expect("sent").text(), "yours")).ok();
        wait_until("one to come back", || mailbox.info().unacknowledged == 1);
        assert_eq!(mailbox.get(), "yours");
        assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
        assert_eq!(mailbox.ack(mine.token), Ok(()));
    });
}

#[test]
fn g07_what_comes_back_goes_to_who_waits() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        mailbox.put("job");
        let taken = Gate::new();
        let worker = spawn(|| {
            mailbox.take(NEVER).expect("sent");
            taken.open(1);
            sleep_forever();
        });
        taken.pass();
        let next = spawn(|| {
            let job = mailbox.take(FOREVER).expect("it comes back");
            assert_eq!((job.text(), job.redelivered), ("job", true));
            mailbox.ack(job.token).expect("ours");
        });
        mailbox.wait_receivers(1);
        worker.destroy();
        next.ok();
        let info = mailbox.info();
        assert_eq!(
            (info.received, info.redelivered, info.unacknowledged),
            (1, 1, 0)
        );
    });
}

#[test]
fn g07_every_job_is_done_once_though_workers_are_killed() {
    isolated(|| {
        const JOBS: u32 = 200;
        let mailbox = Handle::anonymous(UNBOUNDED);
        for i in 0..JOBS {
            mailbox.put(i.to_le_bytes());
        }
        // A job counts as done when the acknowledgement has succeeded, and that is the last thing a worker does with it.
        let (started, done) = (Ledger::new(JOBS as usize), Ledger::new(JOBS as usize));
        let mut rng = Rng::from_env("workers");
        let mut kills = 0;
        while mailbox.info().received < JOBS as u64 {
            let workers: Vec<Child> = (0..2)
                .map(|_| {
                    spawn(|| {
                        while let Ok(job) = mailbox.take(NEVER) {
                            let i = u32::from_le_bytes(job.data.try_into().expect("four bytes"))
                                as usize;
                            started[i].fetch_add(1, Relaxed);
                            mailbox.ack(job.token).expect("ours");
                            done[i].fetch_add(1, Relaxed);
                        }
                    })
                })
                .collect();
            let target = mailbox.info().received + 1 + rng.below(15);
            wait_until("some jobs to be done", || {
                mailbox.info().received >= target || workers.iter().all(|worker| !worker.running())
            });
            for worker in workers {
                worker.kill(libc::SIGKILL);
                kills += u32::from(worker.wait() == Exit::Signal(libc::SIGKILL));
            }
        }
        let info = mailbox.info();
        assert_eq!(
            (info.messages, info.unacknowledged, info.received),
            (0, 0, JOBS as u64)
        );
        let mut unsure = 0;
        for i in 0..JOBS as usize {
            assert!(started[i].load(Relaxed) >= done[i].load(Relaxed));
            match done[i].load(Relaxed) {
                1 => {}
                // Killed between the acknowledgement and the note of it.
                0 => unsure += 1,
                n => panic!("job {i} was done {n} times"),
            }
        }
        assert!(
            unsure <= kills,
            "{unsure} jobs were acknowledged by nobody; {kills} workers were killed"
        );
        tell(&format!("{kills} kills, {} redeliveries", info.redelivered));
    });
}

#[test]
fn g07_unacknowledged_messages_count_against_the_capacity() {
    isolated(|| {
        let make = Make {
            capacity: 2,
            capacity_bytes: 10,
            ..Make::default()
        };
        let mailbox = make.open(None).expect("new");
        mailbox.put([0; 8]);
        let job = mailbox.take(NEVER).expect("sent");
        assert_eq!(mailbox.send([0; 3], NEVER), Err(Errno::AGAIN));
        let sender = spawn(|| mailbox.send([1; 3], FOREVER).expect("room comes"));
        mailbox.wait_senders(1);
        mailbox.ack(job.token).expect("ours");
        sender.ok();
        let job = mailbox.take(NEVER).expect("sent");
        mailbox.requeue(job.token).expect("ours");
        assert_eq!(mailbox.recv(NEVER).expect("back").data, [1; 3]);
        assert_eq!(mailbox.ready(), libc::POLLOUT);
    });
}

#[test]
fn g07_a_handle_holds_4096_unsettled_messages_and_no_more() {
    isolated(|| {
        const LIMIT: usize = 4096;
        let mailbox = Handle::anonymous(UNBOUNDED);
        let texts: Vec<[u8; 4]> = (0..LIMIT as u32 + 2).map(u32::to_le_bytes).collect();
        let entries: Vec<_> = texts
            .iter()
            .map(|text| raw::SendEntry::new(text, 0))
            .collect();
        let batch_max = raw::version(&mailbox).expect("it tells").batch_max as usize;
        for chunk in entries.chunks(batch_max) {
            assert_eq!(
                raw::send_batch(&mailbox, chunk, sys::POSTBOX_NONBLOCK, 0),
                Ok(chunk.len())
            );
        }
        let mut first = 0;
        for i in 0..LIMIT {
            let got = mailbox
                .take(NEVER)
                .unwrap_or_else(|e| panic!("taking number {i}: {e}"));
            if i == 0 {
                first = got.token;
            }
        }
        assert_eq!(mailbox.take(NEVER), Err(Errno::DQUOT));
        assert_eq!(mailbox.take(FOREVER), Err(Errno::DQUOT), "at once");
        let info = mailbox.info();
        assert_eq!((info.messages, info.unacknowledged), (2, LIMIT as u64));
        let other = mailbox.receiver();
        assert_eq!(
            other.take(NEVER).expect("another handle has its own").data,
            texts[LIMIT]
        );
        mailbox.ack(first).expect("ours");
        assert_eq!(
            mailbox.take(NEVER).expect("there is one to take").data,
            texts[LIMIT + 1]
        );
        assert_eq!(
            mailbox.recv(NEVER),
            Err(Errno::AGAIN),
            "an ordinary receive has no such limit"
        );
    });
}

#[test]
fn g07_a_batch_can_be_taken_and_settled_in_any_order() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        mailbox.put_all(["a", "b", "c", "d"]);
        let mut buffers = [[std::mem::MaybeUninit::uninit(); 8]; 4];
        let mut entries: Vec<_> = buffers.iter_mut().map(|b| raw::RecvEntry::new(b)).collect();
        let flags = sys::POSTBOX_RECV_ACK | sys::POSTBOX_NONBLOCK;
        assert_eq!(raw::recv_batch(&mailbox, &mut entries, flags, 0), Ok(4));
        let tokens: Vec<u64> = entries.iter().map(|entry| entry.args().token).collect();
        assert_eq!(mailbox.info().unacknowledged, 4);
        mailbox.ack(tokens[2]).expect("ours");
        mailbox.requeue(tokens[3]).expect("ours");
        mailbox.ack(tokens[0]).expect("ours");
        mailbox.requeue(tokens[1]).expect("ours");
        assert_eq!([mailbox.get(), mailbox.get()], ["b", "d"]);
        assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
    });
}
