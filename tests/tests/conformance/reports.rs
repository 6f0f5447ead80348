//! What can be seen: counters, fdinfo, debugfs, parameters, the version; and batches.

use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use postbox::{raw, sys};
use postbox_tests::*;

#[test]
fn counters_count() {
    isolated(|| {
        let mailbox = Make {
            capacity: 3,
            ..Make::default()
        }
        .open(None)
        .expect("new");
        let (tx, rx) = (mailbox.sender(), mailbox.receiver());
        let zero = mailbox.info();
        assert_eq!(
            (zero.sent, zero.received, zero.redelivered, zero.full),
            (0, 0, 0, 0)
        );
        assert_eq!((zero.high_messages, zero.high_bytes), (0, 0));
        for len in [10, 20, 30] {
            tx.put(vec![0; len]);
        }
        let info = mailbox.info();
        assert_eq!((info.sent, info.messages, info.bytes), (3, 3, 60));
        assert_eq!((info.high_messages, info.high_bytes), (3, 60));
        assert_eq!(tx.send("x", NEVER), Err(Errno::AGAIN));
        assert_eq!(tx.reserve(1, NEVER), Err(Errno::AGAIN));
        assert_eq!(mailbox.info().full, 2);
        rx.recv(NEVER).expect("sent");
        let job = rx.take(NEVER).expect("sent");
        let info = mailbox.info();
        assert_eq!(
            (
                info.messages,
                info.bytes,
                info.unacknowledged,
                info.received
            ),
            (1, 30, 1, 1)
        );
        rx.requeue(job.token).expect("ours");
        let job = rx.take(NEVER).expect("back");
        rx.ack(job.token).expect("ours");
        tx.reserve(5, NEVER).expect("room");
        let info = mailbox.info();
        assert_eq!(
            (
                info.messages,
                info.unacknowledged,
                info.received,
                info.redelivered
            ),
            (1, 0, 2, 1)
        );
        assert_eq!((info.reserved_messages, info.sent), (1, 3));
        assert_eq!(
            (info.high_messages, info.high_bytes),
            (3, 60),
            "high water stays"
        );
        assert_eq!((info.senders, info.receivers), (2, 2));
        // Who waits counts as having found no room, once.
        tx.put("1");
        let full = mailbox.info().full;
        let waiting = spawn(|| assert_eq!(tx.send("y", within(30)), Err(Errno::TIMEDOUT)));
        waiting.ok();
        assert_eq!(mailbox.info().full, full + 1);
    });
}

#[test]
fn waiters_are_counted() {
    isolated(|| {
        let mailbox = Handle::anonymous(1);
        let receivers: Vec<Child> = (0..3)
            .map(|_| spawn(|| drop(mailbox.recv(FOREVER))))
            .collect();
        mailbox.wait_receivers(3);
        assert_eq!(mailbox.info().waiting_senders, 0);
        drop(receivers);
        mailbox.wait_receivers(0);
        mailbox.put("fills it");
        let senders = [
            spawn(|| mailbox.send("x", FOREVER).expect("room comes")),
            spawn(|| mailbox.reserve(1, FOREVER).expect("room comes")),
        ];
        mailbox.wait_senders(2);
        drop(senders);
        mailbox.wait_senders(0);
        assert_eq!(mailbox.info().waiting_receivers, 0);
    });
}

#[test]
fn fdinfo_tells_what_a_handle_is() {
    isolated(|| {
        let fdinfo = |handle: &Handle| {
            let path = format!("/proc/self/fdinfo/{}", handle.as_raw_fd());
            std::fs::read_to_string(path).expect("the descriptor is open")
        };
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
                .trim()
                .to_string()
        };
        let mailbox = Handle::anonymous(4);
        mailbox.put("12345");
        let rx = mailbox.receiver();
        rx.take(NEVER).expect("sent");
        mailbox.put("123");
        for handle in [&mailbox, &rx] {
            let text = fdinfo(handle);
            assert_eq!(field(&text, "postbox-id:"), mailbox.info().id.to_string());
            assert_eq!(field(&text, "postbox-kind:"), "mailbox");
            assert!(!field(&text, "postbox-rights:").is_empty());
        }
        assert_ne!(
            field(&fdinfo(&mailbox), "postbox-rights:"),
            field(&fdinfo(&rx), "postbox-rights:")
        );
        assert!(!fdinfo(&Handle::unbound()).contains("postbox-id:"));
    });
}

#[test]
fn debugfs_lists_every_object() {
    isolated(|| {
        let objects = || {
            std::fs::read_to_string("/sys/kernel/debug/postbox/objects")
                .expect("debugfs is mounted")
        };
        let name = unique("debugfs");
        let mailbox = Handle::create(&name, 4);
        mailbox.put("x");
        let nameless = Handle::anonymous(4);
        let id = mailbox.info().id.to_string();
        let text = objects();
        let line = text
            .lines()
            .find(|line| line.contains(&name))
            .unwrap_or_else(|| panic!("{name} is not in:\n{text}"));
        assert!(line.split_whitespace().any(|word| word == id), "{line}");
        let nameless_id = nameless.info().id.to_string();
        assert!(
            text.lines()
                .any(|line| line.split_whitespace().next() == Some(&nameless_id)),
            "no {nameless_id}:\n{text}"
        );
        // Of all namespaces.
        let ready = [Gate::new(), Gate::new()];
        let inside = Spawn::new().ipc_ns().run(|| {
            let _hidden = Handle::create("test/other-namespace", 1);
            ready[0].open(1);
            ready[1].pass();
        });
        ready[0].pass();
        assert!(objects().contains("test/other-namespace"));
        assert!(!list().contains(&"test/other-namespace".to_string()));
        ready[1].open(1);
        inside.ok();
        drop(mailbox);
        assert!(!objects().contains(&name));
    });
}

#[test]
fn parameters_can_be_read_and_are_the_limits_in_use() {
    isolated(|| {
        let parameter = |name: &str| -> u64 {
            let path = format!("/sys/module/postbox/parameters/{name}");
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
            text.trim().parse().expect("a number")
        };
        let handle = Handle::unbound();
        let usage = raw::usage(&handle).expect("every handle tells");
        assert_eq!(usage.messages_max, parameter("max_user_messages"));
        assert_eq!(usage.bytes_max, parameter("max_user_bytes"));
        assert_eq!(usage.objects_max, parameter("max_user_objects"));
        assert_eq!(
            raw::version(&handle)
                .expect("every handle tells")
                .message_max,
            parameter("max_message")
        );
    });
}

#[test]
fn the_version_is_the_headers() {
    isolated(|| {
        for handle in [Handle::unbound(), Handle::anonymous(1)] {
            let version = raw::version(&handle).expect("every handle tells");
            assert_eq!(version.size as usize, size_of::<sys::postbox_version>());
            assert_eq!(
                (version.abi, version.features, version.reserved),
                (sys::POSTBOX_ABI, sys::POSTBOX_FEATURE_URING.into(), 0)
            );
            assert!(version.message_max >= 4096 && version.batch_max >= 2);
        }
    });
}

fn send_batch(handle: &Handle, texts: &[&str], wait: Wait) -> Result<usize> {
    let entries: Vec<_> = texts
        .iter()
        .map(|text| raw::SendEntry::new(text.as_bytes(), 0))
        .collect();
    raw::send_batch(handle, &entries, wait.0, wait.1)
}

/// Receives into buffers of these sizes; the messages, or the error with the first entry's msg_len.
fn recv_batch(
    handle: &Handle,
    rooms: &[usize],
    wait: Wait,
) -> std::result::Result<Vec<String>, (Errno, u64)> {
    let mut buffers: Vec<Vec<MaybeUninit<u8>>> = rooms
        .iter()
        .map(|room| vec![MaybeUninit::uninit(); *room])
        .collect();
    let mut entries: Vec<_> = buffers
        .iter_mut()
        .map(|buffer| raw::RecvEntry::new(buffer))
        .collect();
    match raw::recv_batch(handle, &mut entries, wait.0, wait.1) {
        Ok(n) => Ok(entries[..n]
            .iter()
            .map(|e| String::from_utf8_lossy(e.payload()).into_owned())
            .collect()),
        Err(e) => Err((e, entries[0].args().msg_len)),
    }
}

#[test]
fn a_batch_is_done_as_far_as_it_can_be() {
    isolated(|| {
        let mailbox = Handle::anonymous(3);
        assert_eq!(
            send_batch(&mailbox, &["a", "bb", "ccc", "d", "e"], NEVER),
            Ok(3),
            "what fits"
        );
        assert_eq!(send_batch(&mailbox, &["d"], NEVER), Err(Errno::AGAIN));
        assert_eq!(
            send_batch(&mailbox, &["d", "e"], within(5)),
            Err(Errno::TIMEDOUT)
        );
        assert_eq!(
            recv_batch(&mailbox, &[8; 2], NEVER),
            Ok(vec!["a".into(), "bb".into()])
        );
        assert_eq!(
            send_batch(&mailbox, &["d", "e", "f"], within(5)),
            Ok(2),
            "the time was over after two"
        );
        // The error comes with the next call.
        assert_eq!(
            recv_batch(&mailbox, &[8, 0, 8], NEVER),
            Ok(vec!["ccc".into()])
        );
        assert_eq!(
            recv_batch(&mailbox, &[0, 8], NEVER),
            Err((Errno::MSGSIZE, 1))
        );
        assert_eq!(
            recv_batch(&mailbox, &[8; 5], FOREVER),
            Ok(vec!["d".into(), "e".into()]),
            "what is there"
        );
        assert_eq!(
            recv_batch(&mailbox, &[8; 5], NEVER).map_err(|e| e.0),
            Err(Errno::AGAIN)
        );
        assert_eq!(
            recv_batch(&mailbox, &[8; 5], within(5)).map_err(|e| e.0),
            Err(Errno::TIMEDOUT)
        );
    });
}

#[test]
fn a_batch_of_sends_waits_until_every_entry_is_sent() {
    isolated(|| {
        for capacity in [0, 1, 2] {
            let mailbox = Handle::anonymous(capacity);
            let texts: Vec<String> = (0..9).map(|i| i.to_string()).collect();
            let sender = spawn(|| {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                assert_eq!(send_batch(&mailbox, &texts, FOREVER), Ok(9));
            });
            let mut got = Vec::new();
            while got.len() < 9 {
                got.extend(recv_batch(&mailbox, &[8; 4], within(60_000)).expect("more come"));
            }
            assert_eq!(got, texts);
            sender.ok();
        }
    });
}

#[test]
fn a_batch_of_receives_waits_for_the_first_only() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        let receiver = spawn(|| {
            assert_eq!(
                recv_batch(&mailbox, &[8; 4], FOREVER),
                Ok(vec!["only".into()])
            )
        });
        mailbox.wait_receivers(1);
        mailbox.put("only");
        receiver.ok();
    });
}

#[test]
fn a_signal_ends_a_batch_with_what_was_done() {
    isolated(|| {
        let (mailbox, between) = (Handle::anonymous(2), Gate::new());
        let sender = spawn(|| {
            handle_signal(libc::SIGUSR1, 0);
            assert_eq!(send_batch(&mailbox, &["a", "b", "c"], FOREVER), Ok(2));
            between.open(1);
            assert_eq!(send_batch(&mailbox, &["c"], FOREVER), Err(Errno::INTR));
        });
        mailbox.wait_senders(1);
        sender.wait_asleep();
        sender.kill(libc::SIGUSR1);
        between.pass();
        mailbox.wait_senders(1);
        sender.wait_asleep();
        sender.kill(libc::SIGUSR1);
        sender.ok();
        assert_eq!([mailbox.get(), mailbox.get()], ["a", "b"]);
        assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
    });
}

#[test]
fn a_batch_stops_at_a_bad_entry() {
    isolated(|| {
        let mailbox = Make {
            message_max: 10,
            ..Make::default()
        }
        .open(None)
        .expect("new");
        assert_eq!(
            send_batch(&mailbox, &["a", "b", "too long for it", "c"], NEVER),
            Ok(2)
        );
        assert_eq!(
            send_batch(&mailbox, &["too long for it", "c"], NEVER),
            Err(Errno::MSGSIZE)
        );
        assert_eq!(mailbox.info().sent, 2);
        let entries = [
            raw::SendEntry::new(b"c", 32_767),
            raw::SendEntry::new(b"d", 32_768),
        ];
        assert_eq!(raw::send_batch(&mailbox, &entries, NEVER.0, 0), Ok(1));
        assert_eq!(
            raw::send_batch(&mailbox, &entries[1..], NEVER.0, 0),
            Err(Errno::INVAL)
        );
        assert_eq!(
            recv_batch(&mailbox, &[8; 5], NEVER),
            Ok(vec!["c".into(), "a".into(), "b".into()])
        );
    });
}

#[test]
fn a_batch_describes_every_message() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        mailbox.send_priority("low", 1, NEVER).expect("room");
        mailbox.send_priority("", 2, NEVER).expect("room");
        mailbox.send_priority("high", 3, NEVER).expect("room");
        let mut buffers = [[MaybeUninit::uninit(); 16]; 4];
        let mut entries: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| raw::RecvEntry::new(buffer))
            .collect();
        assert_eq!(raw::recv_batch(&mailbox, &mut entries, NEVER.0, 0), Ok(3));
        let what: Vec<_> = entries
            .iter()
            .map(|e| (e.args().priority, e.args().msg_len, e.args().token))
            .collect();
        assert_eq!(what, [(3, 4, 0), (2, 0, 0), (1, 3, 0), (0, 0, 0)]);
    });
}

#[test]
fn the_largest_batch_is_taken_and_a_larger_one_refused() {
    isolated(|| {
        let mailbox = Handle::anonymous(UNBOUNDED);
        let max = raw::version(&mailbox).expect("it tells").batch_max as usize;
        let entries = vec![raw::SendEntry::new(b"x", 0); max + 1];
        assert_eq!(
            raw::send_batch(&mailbox, &entries, NEVER.0, 0),
            Err(Errno::INVAL)
        );
        assert_eq!(
            raw::send_batch(&mailbox, &[], NEVER.0, 0),
            Err(Errno::INVAL)
        );
        assert_eq!(
            raw::send_batch(&mailbox, &entries[..max], NEVER.0, 0),
            Ok(max)
        );
        let mut buffers = vec![[MaybeUninit::uninit(); 1]; max + 1];
        let mut entries: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| raw::RecvEntry::new(buffer))
            .collect();
        assert_eq!(
            raw::recv_batch(&mailbox, &mut entries, NEVER.0, 0),
            Err(Errno::INVAL)
        );
        assert_eq!(
            raw::recv_batch(&mailbox, &mut entries[..max], NEVER.0, 0),
            Ok(max)
        );
    });
}
