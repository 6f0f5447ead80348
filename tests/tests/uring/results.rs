//! Results: every operation, ended in every way, reports what is true. The other side keeps the ledger: what the
//! completion claims is compared with what that side has seen.

use std::any::Any;
use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use io_uring::{IoUring, squeue};
use postbox::uring::Driver;
use postbox::{ErrorKind, raw, sys};
use postbox_tests::uring::{Kept, Sqe};
use postbox_tests::{
    Errno, FOREVER, Gate, Handle, NEVER, Wait, isolated, scope, spawn, wait_until, within,
};

use crate::{LONG, driver, kind, split, wait_senders};

/// The way in which a command ends, besides by what the other side does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It does not: the outcome comes to a living task.
    Outcome,
    /// `POSTBOX_CANCEL`.
    Cancelled,
    /// A deadline.
    Deadline,
    /// The thread that submitted it ends, and then the other side acts.
    Thread,
    /// The same, and then `POSTBOX_CANCEL`.
    ThreadCancelled,
    /// The same, and then a deadline.
    ThreadDeadline,
    /// The process that submitted it exits, and the ring stays with another one.
    Process,
    /// The process that submitted it executes another program.
    Exec,
    /// The ring is closed when the outcome is there, and the task has not seen it.
    Ring,
}

const ENDS: [End; 9] = [
    End::Outcome,
    End::Cancelled,
    End::Deadline,
    End::Thread,
    End::ThreadCancelled,
    End::ThreadDeadline,
    End::Process,
    End::Exec,
    End::Ring,
];

/// An operation that waits, and its other side.
struct Scene {
    /// What the command points to.
    _memory: Box<dyn Any>,
    on: Handle,
    command: Sqe,
    parked: Box<dyn Fn(&Handle) -> bool>,
    /// The other side does its part, or one more step of it.
    act: Box<dyn FnMut()>,
    /// Units of work that a result claims to be done.
    claims: fn(i32) -> u64,
    /// Units of work that were done, as the other side sees it at the end.
    done: Box<dyn FnMut() -> u64>,
    /// Nothing is done where there is nobody to report it to.
    takes: bool,
}

fn one(result: i32) -> u64 {
    u64::from(result >= 0)
}

fn count(result: i32) -> u64 {
    u64::try_from(result).unwrap_or(0)
}

fn senders(handle: &Handle) -> bool {
    handle.info().waiting_senders == 1
}

fn receivers(handle: &Handle) -> bool {
    handle.info().waiting_receivers == 1
}

/// Takes everything that is there, and counts what is not a filler.
fn drain(rx: &Handle, seen: &Cell<u64>) -> u64 {
    while let Ok(got) = rx.recv(NEVER) {
        if got.text() != "filler" {
            seen.set(seen.get() + 1);
        }
    }
    seen.get()
}

fn sends(
    capacity: u64,
    command: impl Fn(&Handle) -> (Sqe, Box<dyn Any>),
    claims: fn(i32) -> u64,
) -> Scene {
    let (tx, rx) = Handle::anonymous(capacity).split();
    for _ in 0..capacity {
        tx.put("filler");
    }
    let (command, memory) = command(&tx);
    let seen = Rc::new(Cell::new(0));
    let (rx, receiver, counted) = (Rc::new(rx), Cell::new(None), seen.clone());
    receiver.set(Some(rx.clone()));
    let receiver = receiver.into_inner().expect("it was just set");
    Scene {
        _memory: memory,
        on: tx,
        command,
        parked: Box::new(senders),
        act: Box::new(move || {
            if let Ok(got) = receiver.recv(NEVER)
                && got.text() != "filler"
            {
                counted.set(counted.get() + 1);
            }
        }),
        claims,
        done: Box::new(move || drain(&rx, &seen)),
        takes: false,
    }
}

fn send(capacity: u64, wait: Wait) -> Scene {
    let command = |tx: &Handle| {
        let text = Kept::new(*b"message");
        let fd = tx.as_raw_fd();
        let sqe = Sqe::direct(fd, sys::POSTBOX_SEND, text.address(), 7, wait);
        (sqe, Box::new(text) as Box<dyn Any>)
    };
    sends(capacity, command, one)
}

fn send_struct(wait: Wait) -> Scene {
    let command = |tx: &Handle| {
        let text = Kept::new(*b"message");
        let args = Kept::new(sys::postbox_send {
            flags: wait.0,
            timeout_ns: wait.1,
            data: text.address(),
            len: 7,
            ..postbox_tests::send_args()
        });
        let sqe = Sqe::command(tx.as_raw_fd(), sys::POSTBOX_SEND, args.address());
        (sqe, Box::new((text, args)) as Box<dyn Any>)
    };
    sends(1, command, one)
}

fn send_batch(wait: Wait) -> Scene {
    let command = |tx: &Handle| {
        let text = Kept::new(*b"message");
        let spans = Kept::new(
            [sys::postbox_span {
                data: text.address(),
                len: 7,
                done: 0,
            }; 3],
        );
        let fd = tx.as_raw_fd();
        let sqe = Sqe::direct(fd, sys::POSTBOX_SEND_BATCH, spans.address(), 3, wait);
        (sqe, Box::new((text, spans)) as Box<dyn Any>)
    };
    sends(1, command, count)
}

fn send_batch_struct(wait: Wait) -> Scene {
    let command = |tx: &Handle| {
        let text = Kept::new(*b"message");
        let entries = Kept::new(
            [sys::postbox_send {
                data: text.address(),
                len: 7,
                ..postbox_tests::send_args()
            }; 3],
        );
        let args = Kept::new(sys::postbox_batch {
            size: size_of::<sys::postbox_batch>() as u32,
            flags: wait.0,
            entries: entries.address(),
            count: 3,
            entry_size: size_of::<sys::postbox_send>() as u32,
            timeout_ns: wait.1,
        });
        let sqe = Sqe::command(tx.as_raw_fd(), sys::POSTBOX_SEND_BATCH, args.address());
        (sqe, Box::new((text, entries, args)) as Box<dyn Any>)
    };
    sends(1, command, count)
}

fn pipe() -> (Handle, Handle) {
    let pair = postbox::Pipe::options().capacity(4096).pair();
    let (reader, writer) = pair.expect("descriptors");
    (Handle(writer.into()), Handle(reader.into()))
}

/// What the byte at a place of a stream is.
fn byte(at: usize) -> u8 {
    (at % 251) as u8
}

/// Reads what is there of a stream that has come so far.
fn read(rx: &Handle, so_far: &Cell<u64>) -> bool {
    let mut room = [0u8; 4096];
    match raw::read(rx, &mut room, NEVER.0, NEVER.1) {
        Ok(len) => {
            for (at, found) in (so_far.get() as usize..).zip(&room[..len]) {
                assert_eq!(*found, byte(at), "byte {at} of the stream");
            }
            so_far.set(so_far.get() + len as u64);
            len > 0
        }
        Err(_) => false,
    }
}

fn write(wait: Wait) -> Scene {
    let (tx, rx) = {
        let (tx, rx) = pipe();
        (tx, Rc::new(rx))
    };
    let data = Kept::new(std::array::from_fn::<_, 16384, _>(byte));
    let fd = tx.as_raw_fd();
    let so_far = Rc::new(Cell::new(0));
    let (reader, counted) = (rx.clone(), so_far.clone());
    Scene {
        command: Sqe::direct(fd, sys::POSTBOX_WRITE, data.address(), 16384, wait),
        _memory: Box::new(data),
        on: tx,
        parked: Box::new(senders),
        act: Box::new(move || {
            read(&reader, &counted);
        }),
        claims: count,
        done: Box::new(move || {
            while read(&rx, &so_far) {}
            so_far.get()
        }),
        takes: false,
    }
}

fn read_pipe(wait: Wait) -> Scene {
    let (tx, rx) = pipe();
    let room = Kept::new([0u8; 4096]);
    let fd = rx.as_raw_fd();
    let look = rx.dup(postbox_tests::RECEIVE).expect("a descriptor");
    let acted = Rc::new(Cell::new(false));
    let did = acted.clone();
    Scene {
        command: Sqe::direct(fd, sys::POSTBOX_READ, room.address(), 4096, wait),
        _memory: Box::new(room),
        on: rx,
        parked: Box::new(receivers),
        act: Box::new(move || {
            if !did.replace(true) {
                raw::write(&tx, &[7; 10], NEVER.0, NEVER.1).expect("there is room");
            }
        }),
        claims: count,
        done: Box::new(move || u64::from(acted.get()) * 10 - look.info().bytes),
        takes: true,
    }
}

fn takes(
    rx: Handle,
    tx: Handle,
    command: Sqe,
    memory: Box<dyn Any>,
    claims: fn(i32) -> u64,
) -> Scene {
    let look = rx.dup(postbox_tests::RECEIVE).expect("a descriptor");
    let acted = Rc::new(Cell::new(false));
    let did = acted.clone();
    Scene {
        _memory: memory,
        on: rx,
        command,
        parked: Box::new(receivers),
        act: Box::new(move || {
            if !did.replace(true) {
                tx.put("message");
            }
        }),
        claims,
        done: Box::new(move || u64::from(acted.get()) - look.info().messages),
        takes: true,
    }
}

fn recv(wait: Wait) -> Scene {
    let (tx, rx) = Handle::anonymous(4).split();
    let room = Kept::new([0u8; 64]);
    let sqe = Sqe::direct(rx.as_raw_fd(), sys::POSTBOX_RECV, room.address(), 64, wait);
    takes(rx, tx, sqe, Box::new(room), one)
}

fn recv_struct(wait: Wait, flags: u32) -> Scene {
    let (tx, rx) = Handle::anonymous(4).split();
    let room = Kept::new([0u8; 64]);
    let args = Kept::new(sys::postbox_recv {
        flags: flags | wait.0,
        timeout_ns: wait.1,
        data: room.address(),
        len: 64,
        pid: if flags == 0 { 0 } else { std::process::id() },
        ..postbox_tests::recv_args()
    });
    let sqe = Sqe::command(rx.as_raw_fd(), sys::POSTBOX_RECV, args.address());
    takes(rx, tx, sqe, Box::new((room, args)), one)
}

fn recv_batch(wait: Wait) -> Scene {
    let (tx, rx) = Handle::anonymous(4).split();
    let room = Kept::new([0u8; 64]);
    let spans = Kept::new([sys::postbox_span {
        data: room.address(),
        len: 64,
        done: 0,
    }]);
    let fd = rx.as_raw_fd();
    let sqe = Sqe::direct(fd, sys::POSTBOX_RECV_BATCH, spans.address(), 1, wait);
    takes(rx, tx, sqe, Box::new((room, spans)), count)
}

fn reply_recv(wait: Wait) -> Scene {
    let (tx, rx) = Handle::anonymous(4).split();
    let room = Kept::new([0u8; 64]);
    let args = Kept::new(sys::postbox_reply_recv {
        size: size_of::<sys::postbox_reply_recv>() as u32,
        reply: sys::postbox_reply {
            size: size_of::<sys::postbox_reply>() as u32,
            ..Default::default()
        },
        recv: sys::postbox_recv {
            flags: wait.0,
            timeout_ns: wait.1,
            data: room.address(),
            len: 64,
            ..postbox_tests::recv_args()
        },
        ..Default::default()
    });
    let sqe = Sqe::command(rx.as_raw_fd(), sys::POSTBOX_REPLY_RECV, args.address());
    takes(rx, tx, sqe, Box::new((room, args)), one)
}

fn call(wait: Wait) -> Scene {
    let (tx, rx) = Handle::anonymous(4).split();
    let room = Kept::new([0u8; 64]);
    let args = Kept::new(sys::postbox_call {
        size: size_of::<sys::postbox_call>() as u32,
        request: sys::postbox_send {
            flags: wait.0,
            timeout_ns: wait.1,
            ..postbox_tests::send_args()
        },
        reply: sys::postbox_recv {
            data: room.address(),
            len: 64,
            ..postbox_tests::recv_args()
        },
        ..Default::default()
    });
    let answered = Rc::new(Cell::new(0));
    let served = answered.clone();
    Scene {
        command: Sqe::command(tx.as_raw_fd(), sys::POSTBOX_CALL, args.address()),
        _memory: Box::new((room, args)),
        on: tx,
        parked: Box::new(|tx| tx.info().messages == 1),
        act: Box::new(move || {
            let Ok(request) = rx.recv(NEVER) else { return };
            let args = sys::postbox_reply {
                token: request.token,
                ..Default::default()
            };
            let replied = raw::reply(&rx, b"answer", &[], &args);
            served.set(served.get() + u64::from(replied.is_ok()));
        }),
        // The request was carried out, and the answer came or is lost.
        claims: |result| u64::from(result >= 0 || result == -libc::ENODATA),
        done: Box::new(move || answered.get()),
        takes: false,
    }
}

fn sync_args(wait: Wait) -> Kept<sys::postbox_sync> {
    Kept::new(sys::postbox_sync {
        size: size_of::<sys::postbox_sync>() as u32,
        flags: wait.0,
        count: 1,
        timeout_ns: wait.1,
        ..Default::default()
    })
}

fn acquire(wait: Wait) -> Scene {
    let semaphore = Rc::new(Handle::semaphore(0, 8));
    let args = sync_args(wait);
    let acted = Rc::new(Cell::new(false));
    let (other, did) = (semaphore.clone(), acted.clone());
    let on = semaphore.dup(postbox_tests::RECEIVE).expect("a descriptor");
    Scene {
        command: Sqe::command(on.as_raw_fd(), sys::POSTBOX_ACQUIRE, args.address()),
        _memory: Box::new(args),
        on,
        parked: Box::new(receivers),
        act: Box::new(move || {
            if !did.replace(true) {
                other.release(1, 0).expect("there is room");
            }
        }),
        claims: one,
        done: Box::new(move || u64::from(acted.get()) - semaphore.value()),
        takes: true,
    }
}

fn reserve(wait: Wait) -> Scene {
    let (tx, rx) = Handle::anonymous(1).split();
    tx.put("filler");
    let args = Kept::new(sys::postbox_reserve {
        size: size_of::<sys::postbox_reserve>() as u32,
        flags: wait.0,
        len: 10,
        timeout_ns: wait.1,
    });
    let look = tx.dup(postbox_tests::SEND).expect("a descriptor");
    Scene {
        command: Sqe::command(tx.as_raw_fd(), sys::POSTBOX_RESERVE, args.address()),
        _memory: Box::new(args),
        on: tx,
        parked: Box::new(senders),
        act: Box::new(move || drop(rx.recv(NEVER))),
        claims: one,
        done: Box::new(move || look.info().reserved_messages),
        takes: true,
    }
}

/// A barrier of two: a third party must not get through because of an arrival that was reported as none.
fn barrier(wait: Wait) -> Scene {
    let on = Handle::barrier(2);
    let args = sync_args(wait);
    let other = Rc::new(on.dup(postbox_tests::SEND).expect("a descriptor"));
    let (acted, look) = (Rc::new(Cell::new(false)), other.clone());
    let did = acted.clone();
    Scene {
        command: Sqe::command(on.as_raw_fd(), sys::POSTBOX_WAIT, args.address()),
        _memory: Box::new(args),
        on,
        parked: Box::new(senders),
        act: Box::new(move || {
            if !did.replace(true) {
                other.arrive().expect("it has not arrived yet");
            }
        }),
        claims: one,
        done: Box::new(move || (look.value() + u64::from(acted.get())) % 2),
        takes: false,
    }
}

fn latch(wait: Wait) -> Scene {
    let on = Handle::latch(1);
    let args = sync_args(wait);
    let other = Rc::new(on.dup(postbox_tests::SEND).expect("a descriptor"));
    let look = other.clone();
    Scene {
        command: Sqe::command(on.as_raw_fd(), sys::POSTBOX_WAIT, args.address()),
        _memory: Box::new(args),
        on,
        parked: Box::new(receivers),
        act: Box::new(move || {
            let _ = other.count_down(1);
        }),
        // To wait for it takes nothing: it says that it is open, or that it does not know.
        claims: |_| 0,
        done: Box::new(move || look.value() / 2),
        takes: false,
    }
}

type MakeScene = fn(Wait) -> Scene;

const SCENES: [(&str, MakeScene); 16] = [
    ("send", |wait| send(1, wait)),
    ("send at a rendezvous", |wait| send(0, wait)),
    ("send with an argument", send_struct),
    ("batch of sends", send_batch),
    ("batch of sends with an argument", send_batch_struct),
    ("write", write),
    ("read", read_pipe),
    ("receive", recv),
    ("receive with an argument", |wait| recv_struct(wait, 0)),
    ("receive from a process", |wait| {
        recv_struct(wait, sys::POSTBOX_RECV_FROM)
    }),
    ("batch of receives", recv_batch),
    ("reply and receive", reply_recv),
    ("call", call),
    ("acquire", acquire),
    ("reserve", reserve),
    ("barrier", barrier),
];

fn push(ring: &mut IoUring, sqe: Sqe) {
    // SAFETY: both are an entry of 64 bytes, of which every value is valid.
    let entry: squeue::Entry = unsafe { std::mem::transmute(sqe) };
    // SAFETY: what the entries point to is kept by their scene until they have completed.
    unsafe { ring.submission().push(&entry) }.expect("there is room");
}

/// Has the entries submitted by whoever calls this, also in a child.
fn submit(fd: i32) {
    // SAFETY: no argument.
    let done = unsafe { libc::syscall(libc::SYS_io_uring_enter, fd, 1, 0, 0, 0, 0) };
    assert_eq!(done, 1, "{}", std::io::Error::last_os_error());
}

/// The result of the command, if it has completed within a moment.
fn result(ring: &mut IoUring, moment: Duration) -> Option<i32> {
    let time = io_uring::types::Timespec::from(moment);
    let args = io_uring::types::SubmitArgs::new().timespec(&time);
    let _ = ring.submitter().submit_with_args(1, &args);
    let results: Vec<_> = ring
        .completion()
        .map(|cqe| (cqe.user_data(), cqe.result()))
        .collect();
    results
        .iter()
        .find(|(of, _)| *of == 1)
        .map(|(_, result)| *result)
}

const MOMENT: Duration = Duration::from_millis(20);

/// Ends one operation in one way, and compares.
fn run(name: &str, make: MakeScene, end: End, acts: bool) {
    let wait = match end {
        End::Deadline | End::ThreadDeadline => within(150),
        _ => FOREVER,
    };
    let mut scene = make(wait);
    let mut builder = IoUring::builder();
    if end == End::Ring {
        builder.setup_single_issuer().setup_defer_taskrun();
    }
    let mut ring = builder.build(8).expect("io_uring is there");
    let fd = ring.as_raw_fd();
    push(&mut ring, scene.command.tag(1));
    let (on, parked) = (&scene.on, &scene.parked);
    let is_parked = || wait_until("the command to be parked", || parked(on));
    let mut child = None;
    let go = Gate::new();
    match end {
        End::Outcome | End::Cancelled | End::Deadline | End::Ring => {
            submit(fd);
            is_parked();
        }
        End::Thread | End::ThreadCancelled | End::ThreadDeadline => {
            scope(|scope| scope.spawn(|| submit(fd)).join()).expect("it submits");
            is_parked();
        }
        End::Process | End::Exec => {
            child = Some(spawn(|| {
                submit(fd);
                go.pass();
                if end == End::Exec {
                    let program = c"/bin/true";
                    let arguments = [program.as_ptr(), std::ptr::null()];
                    let none = [std::ptr::null()];
                    // SAFETY: a path, and arrays that end in null pointers.
                    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), none.as_ptr()) };
                    panic!("execve: {}", std::io::Error::last_os_error());
                }
            }));
            is_parked();
        }
    }
    if let Some(child) = child {
        go.open(1);
        child.ok();
    }
    if acts {
        (scene.act)();
    }
    if end == End::Ring {
        drop(ring);
        let (on, parked) = (&scene.on, &scene.parked);
        wait_until("the command to be gone", || !parked(on));
        let takes = scene.takes;
        let mut done = 0;
        wait_until("its effect to be settled", || {
            done = (scene.done)();
            !takes || done == 0
        });
        return;
    }
    if matches!(end, End::Cancelled | End::ThreadCancelled) {
        push(&mut ring, Sqe::cancel(scene.on.as_raw_fd(), 1).tag(2));
    }
    let mut reported = None;
    wait_until("the completion", || {
        reported = result(&mut ring, MOMENT);
        if reported.is_none() && acts {
            // What takes more than one step goes on.
            (scene.act)();
        }
        reported.is_some()
    });
    let reported = reported.expect("it was waited for");
    let (claimed, done) = ((scene.claims)(reported), (scene.done)());
    assert_eq!(
        claimed, done,
        "{name}, {end:?}, the other side acts: {acts}: it reports {reported}, which claims {claimed}"
    );
    // What is not done can be done again; nothing of it is left behind.
    let nothing = [Errno::CANCELED, Errno::TIMEDOUT].map(|errno| -errno.raw_os_error());
    assert!(
        reported >= 0 || nothing.contains(&reported) || reported == -libc::ENODATA,
        "{name}, {end:?}, the other side acts: {acts}: {reported}"
    );
}

/// Each operation that can wait, in each way in which its command can end.
#[test]
fn every_operation_in_every_end_reports_what_is_true() {
    let latch: (&str, MakeScene) = ("latch", latch);
    for (name, make) in SCENES.into_iter().chain([latch]) {
        postbox_tests::tell(&format!("  {name}"));
        isolated(|| {
            for end in ENDS {
                for acts in [true, false] {
                    // Somebody has to end it.
                    let needed =
                        matches!(end, End::Outcome | End::Thread | End::Process | End::Ring);
                    if acts || !needed {
                        run(name, make, end, acts);
                    }
                }
            }
        });
    }
}

/// Has what was begun submitted by a thread that ends.
fn submit_elsewhere(driver: &Driver) {
    scope(|scope| {
        scope
            .spawn(|| driver.turn(postbox::Wait::Never).map(drop))
            .join()
    })
    .expect("it does not panic")
    .expect("the ring works");
}

/// Operations whose thread ends before the other side acts: each is done once, and says so.
#[test]
fn operations_of_an_ended_thread_are_done_once() {
    let driver = driver();
    for capacity in [0, 1] {
        let (sender, receiver) = split(capacity);
        let sender = driver.attach(sender);
        if capacity == 1 {
            sender.handle().try_send("first").expect("there is room");
        }
        let send = sender.send("order");
        submit_elsewhere(&driver);
        wait_senders(&driver, sender.handle(), 1);
        if capacity == 1 {
            assert_eq!(receiver.recv().expect("it is there").payload, b"first");
        }
        assert_eq!(receiver.recv().expect("it is sent").payload, b"order");
        send.wait().expect("it was received");
        let again = receiver.try_recv().map(|message| message.payload);
        assert_eq!(kind(again), ErrorKind::Empty, "it is sent once");
    }
    // What of a batch is not sent is submitted again, by a thread that stays.
    let (sender, receiver) = split(1);
    let sender = driver.attach(sender);
    sender.handle().try_send([0]).expect("there is room");
    let many = sender.send_many(vec![vec![1], vec![2], vec![3]], 0, LONG);
    submit_elsewhere(&driver);
    wait_senders(&driver, sender.handle(), 1);
    for number in 0..4 {
        wait_until("the next message", || {
            driver.turn(postbox::Wait::Never).expect("the ring works");
            match receiver.try_recv() {
                Ok(message) => {
                    assert_eq!(message.payload, [number]);
                    true
                }
                Err(_) => false,
            }
        });
    }
    many.wait().expect("all were sent");
    assert_eq!(kind(receiver.try_recv()), ErrorKind::Empty);

    let (reader, writer) = postbox::Pipe::options()
        .capacity(4096)
        .pair()
        .expect("descriptors");
    let writer = driver.attach(writer);
    let data: Vec<u8> = (0..16384).map(byte).collect();
    let write = writer.write(data, LONG);
    submit_elsewhere(&driver);
    wait_senders(&driver, writer.handle(), 1);
    let reader = Handle(reader.into());
    let so_far = Cell::new(0);
    assert!(read(&reader, &so_far), "4096 bytes are there");
    let (written, _) = write.wait();
    while read(&reader, &so_far) {}
    assert_eq!(written.expect("a part was written") as u64, so_far.get());

    let barrier = driver.attach(postbox::Barrier::new(2).expect("new"));
    let wait = barrier.wait_all(LONG);
    submit_elsewhere(&driver);
    wait_senders(&driver, barrier.handle(), 1);
    barrier.handle().arrive().expect("it is the second");
    wait.wait().expect("all have arrived");
    let value = barrier.handle().info().expect("bound").value;
    assert_eq!(value, 0, "nobody has arrived in the next generation");
}

/// What is cancelled, or whose time is up, after a part was done by a thread that has ended.
#[test]
fn parts_of_an_ended_thread_are_not_given_back() {
    let driver = driver();
    for cancels in [true, false] {
        let (sender, receiver) = split(1);
        let sender = driver.attach(sender);
        sender.handle().try_send([0]).expect("there is room");
        let wait = postbox::Wait::Timeout(Duration::from_millis(300));
        let many = sender.send_many(
            vec![vec![1], vec![2], vec![3]],
            0,
            if cancels { LONG } else { wait },
        );
        submit_elsewhere(&driver);
        wait_senders(&driver, sender.handle(), 1);
        assert_eq!(receiver.recv().expect("it is there").payload, [0]);
        wait_until("the next message", || {
            sender.handle().info().expect("bound").messages == 1
        });
        if cancels {
            many.cancel();
        }
        let error = many.wait().expect_err("there is no room for all");
        let expected = match cancels {
            true => ErrorKind::Cancelled,
            false => ErrorKind::Timeout,
        };
        assert_eq!(error.error.kind, expected);
        assert_eq!(error.payload, [[2], [3]], "the first was sent");
        assert_eq!(receiver.recv().expect("it is there").payload, [1]);
        assert_eq!(kind(receiver.try_recv()), ErrorKind::Empty);
    }
}

/// A receive waits on, however many of the threads end that submit it.
#[test]
fn receive_outlives_any_number_of_ended_threads() {
    let driver = driver();
    let (sender, receiver) = split(4);
    let other = receiver.try_clone().expect("a descriptor");
    let receiver = driver.attach(receiver);
    let recv = receiver.recv();
    for number in 0..40u8 {
        // What has become of the last thread's command is known when it has completed.
        wait_until("the receive to be parked", || {
            submit_elsewhere(&driver);
            other.info().expect("bound").waiting_receivers == 1
        });
        // It is handed to the receive, whose thread is gone, and goes back.
        sender.try_send([number]).expect("there is room");
        assert_eq!(other.recv().expect("it goes back").payload, [number]);
    }
    sender.try_send("last").expect("there is room");
    assert_eq!(recv.wait().expect("it still waits").payload, b"last");
}

/// A call that was answered after its thread had ended is not made again: the work is done.
#[test]
fn answered_call_of_an_ended_thread_says_that_its_reply_is_lost() {
    let driver = driver();
    let (sender, receiver) = split(4);
    let sender = driver.attach(sender);
    let call = sender.call("pay");
    submit_elsewhere(&driver);
    let mut request = receiver.recv_request().expect("it comes");
    request.reply("paid").expect("the caller waits");
    assert_eq!(kind(call.wait()), ErrorKind::ReplyLost);
    assert_eq!(kind(receiver.try_recv()), ErrorKind::Empty);
}
