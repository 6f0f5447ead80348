//! Guarantee 12: the module unloads only when no handle is open, and leaves nothing behind.
//!
//! These tests take the module out and put it back, so that they run one at a time, and nothing else beside them.

use postbox_tests::Watchdog;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use postbox::{raw, sys};
use postbox_tests::*;

/// The file that is loaded.
const FILE: &str = "/vm/postbox.ko";

/// The module while a test plays with it: loaded again, as it was, in the end.
struct Module {
    device: (u32, u32, u32),
    parameters: String,
    _one_at_a_time: MutexGuard<'static, ()>,
}

fn parameters() -> String {
    let read = |name: &str| {
        let value = fs::read_to_string(format!("/sys/module/postbox/parameters/{name}"));
        format!(
            "{name}={}",
            value.expect("the module has the parameter").trim()
        )
    };
    [
        "max_user_messages",
        "max_user_bytes",
        "max_user_objects",
        "max_user_files",
        "max_user_shared",
        "max_user_commands",
        "max_message",
        "max_pipe",
    ]
    .map(read)
    .join(" ")
}

impl Module {
    fn new() -> Self {
        use std::os::unix::fs::MetadataExt;
        static LOCK: Mutex<()> = Mutex::new(());
        let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(
            fs::exists(FILE).expect("a path"),
            "{FILE} is not there; tests/vm/vm puts the module's file there"
        );
        let device = fs::metadata(DEVICE).expect("the module is loaded");
        Module {
            device: (device.uid(), device.gid(), device.mode() & 0o7777),
            parameters: parameters(),
            _one_at_a_time: lock,
        }
    }

    /// As delete_module(2): never waits.
    fn unload(&self) -> Result<()> {
        // SAFETY: a string that ends in NUL.
        result(unsafe {
            libc::syscall(
                libc::SYS_delete_module,
                c"postbox".as_ptr(),
                libc::O_NONBLOCK,
            )
        })
    }

    /// As finit_module(2), with these parameters.
    fn load(&self, parameters: &str) -> Result<()> {
        use std::os::fd::AsRawFd;
        let file = fs::File::open(FILE).expect("it is there");
        let parameters = std::ffi::CString::new(parameters).expect("no NUL in it");
        // SAFETY: an open file, and a string that ends in NUL.
        result(unsafe {
            libc::syscall(
                libc::SYS_finit_module,
                file.as_raw_fd(),
                parameters.as_ptr(),
                0,
            )
        })?;
        // As the udev rule does it.
        let (uid, gid, mode) = self.device;
        chown(DEVICE, Some(uid), Some(gid)).expect("root may");
        fs::set_permissions(DEVICE, fs::Permissions::from_mode(mode)).expect("root may");
        Ok(())
    }

    /// Waits until nothing uses it; files of processes that have just ended are closed in a moment.
    fn idle(&self) {
        wait_until("the module to be idle", || {
            fs::read_to_string("/sys/module/postbox/refcnt").is_ok_and(|count| count.trim() == "0")
        });
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if !fs::exists("/sys/module/postbox").unwrap_or(false) {
            self.load(&self.parameters).expect("it can be loaded again");
        }
    }
}

fn result(result: i64) -> Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error())
            .expect("the error of a system call")),
    }
}

fn loaded() -> bool {
    fs::exists("/sys/module/postbox").expect("sysfs is mounted")
}

#[test]
fn g12_it_does_not_unload_while_a_handle_is_open() {
    let module = Module::new();
    module.idle();
    let unbound = Handle::unbound();
    assert_eq!(
        module.unload(),
        Err(Errno::AGAIN),
        "an unbound handle is one"
    );
    let mailbox = Handle::anonymous(4);
    mailbox.put("x");
    drop(unbound);
    assert_eq!(module.unload(), Err(Errno::AGAIN));
    // A duplicate does not come through the device.
    let receiver = mailbox.receiver();
    drop(mailbox);
    assert_eq!(
        module.unload(),
        Err(Errno::AGAIN),
        "a duplicate is a handle"
    );
    assert_eq!(receiver.get(), "x");
    let waiting = spawn(|| drop(receiver.recv(within(60_000))));
    drop(receiver);
    assert_eq!(module.unload(), Err(Errno::AGAIN), "somebody waits");
    drop(waiting);
    module.idle();
    assert_eq!(module.unload(), Ok(()));
    assert!(!loaded() && !fs::exists(DEVICE).expect("a path"));
    assert_eq!(raw::device().map(drop), Err(Errno::NOENT));
    assert!(!fs::exists("/sys/kernel/debug/postbox").expect("a path"));
    let kind = postbox::version().map(drop).map_err(|error| error.kind);
    assert_eq!(kind, Err(postbox::ErrorKind::ModuleMissing));
}

/// A command that is parked keeps the handle that it went to, also where its descriptors are closed.
#[test]
fn g12_it_does_not_unload_while_commands_are_parked() {
    use io_uring::{IoUring, opcode, types};
    use std::os::fd::AsRawFd;
    let module = Module::new();
    module.idle();
    let stays = || assert_eq!(module.unload(), Err(Errno::AGAIN), "a command is parked");
    let mut ring = IoUring::new(4).expect("io_uring is there");
    let (tx, rx) = Handle::anonymous(4).split();
    let mut args = recv_args();
    let recv = opcode::UringCmd16::new(types::Fd(rx.as_raw_fd()), sys::POSTBOX_RECV)
        .addr(Some(&raw mut args as u64))
        .build();
    // SAFETY: The struct is there until the ring is gone.
    unsafe { ring.submission().push(&recv) }.expect("there is room");
    ring.submit().expect("the ring works");
    rx.wait_receivers(1);
    drop(rx);
    stays();
    drop(tx);
    // The last sender is gone: the command ends, and with it the handle.
    ring.submit_and_wait(1).expect("the ring works");
    let end = ring.completion().next().map(|end| end.result());
    assert_eq!(end, Some(-libc::EPIPE));
    module.idle();

    // By the crate's driver, and with the end of the driver.
    let driver = postbox::uring::Driver::new().expect("io_uring is there");
    let mailbox = postbox::Mailbox::options().anonymous().expect("new");
    let parked = driver.attach(mailbox);
    let op = parked.recv();
    driver.submit().expect("the ring works");
    drop(parked);
    stays();
    drop(driver);
    stays();
    drop(op);
    module.idle();
    assert_eq!(module.unload(), Ok(()));
}

#[test]
fn g12_a_handle_in_a_socket_keeps_it() {
    let module = Module::new();
    module.idle();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    send_fd(&ours, Handle::anonymous(1));
    assert_eq!(module.unload(), Err(Errno::AGAIN));
    drop((ours, theirs));
    module.idle();
    assert_eq!(module.unload(), Ok(()));
}

#[test]
fn g12_it_does_not_unload_while_its_debugfs_file_is_open() {
    let module = Module::new();
    module.idle();
    let file = fs::File::open("/sys/kernel/debug/postbox/objects").expect("debugfs is mounted");
    assert_eq!(module.unload(), Err(Errno::AGAIN));
    drop(file);
    assert_eq!(module.unload(), Ok(()));
}

/// A persistent object of a kind.
fn persistent(kind: u32, name: &str) -> Handle {
    let handle = Handle::unbound();
    let mut args = sys::postbox_open {
        kind,
        flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST,
        rights: SEND | RECEIVE,
        mode: 0o600,
        capacity: if kind == sys::POSTBOX_KIND_PIPE { 0 } else { 8 },
        initial: u64::from(kind >= sys::POSTBOX_KIND_SEMAPHORE),
        backlog: if kind == sys::POSTBOX_KIND_LISTENER {
            1000
        } else {
            0
        },
        ..Default::default()
    };
    if kind > sys::POSTBOX_KIND_SEMAPHORE {
        args.capacity = 0;
    }
    raw::open(&handle, Some(name.as_bytes()), &mut args).expect("new");
    handle
}

fn connect(name: &str) -> Handle {
    let handle = Handle::unbound();
    let mut args = sys::postbox_connect::default();
    raw::connect(&handle, Some(name.as_bytes()), &mut args).expect("there is room");
    handle
}

#[test]
fn g12_it_does_not_unload_while_somebody_waits() {
    let module = Module::new();
    module.idle();
    let stays = || assert_eq!(module.unload(), Err(Errno::AGAIN));
    // A call, first untaken, then taken.
    let (tx, rx) = Handle::anonymous(1).split();
    let caller = spawn(|| {
        let mut args = sys::postbox_call::default();
        let result = raw::call(&tx, b"", &[], &mut [], &mut Vec::new(), &mut args);
        assert_eq!(result.map(drop), Err(Errno::CANCELED));
    });
    wait_until("the request", || rx.info().messages == 1);
    stays();
    let request = rx.recv(FOREVER).expect("it comes");
    drop(tx);
    stays();
    let args = sys::postbox_reply {
        flags: sys::POSTBOX_REPLY_DROP,
        token: request.token,
        ..Default::default()
    };
    raw::reply(&rx, b"", &[], &args).expect("it is owed");
    caller.ok();
    drop(rx);
    // Connections, and wait objects.
    let listener = persistent(sys::POSTBOX_KIND_LISTENER, "test/listener");
    let accepts = spawn(|| {
        drop(raw::accept(&listener, &mut sys::postbox_accept::default()));
    });
    listener.wait_receivers(1);
    drop(listener);
    stays();
    let first = connect("test/listener");
    accepts.ok();
    stays();
    drop(first);
    for handle in [
        Handle::semaphore(0, 1),
        Handle::latch(1),
        Handle::barrier(2),
    ] {
        let waits = spawn(|| {
            if handle.info().kind == sys::POSTBOX_KIND_SEMAPHORE {
                let _ = handle.acquire(1, UNDO, FOREVER);
            } else {
                let _ = handle.await_gate(FOREVER);
            }
        });
        handle.wait_waiting(1);
        drop(handle);
        stays();
        waits.destroy();
    }
    module.idle();
    assert_eq!(module.unload(), Ok(()));
}

#[test]
fn g12_handle_in_a_message_goes_with_the_last_handle_of_its_mailbox() {
    let module = Module::new();
    module.idle();
    let mailbox = persistent(sys::POSTBOX_KIND_MAILBOX, "test/keeps");
    let other = Handle::anonymous(1);
    other.put("inside");
    let files = [raw::SendFd::new(other.as_fd(), 0)];
    for _ in 0..2 {
        raw::send_files(&mailbox, b"", &files, &sys::postbox_send::default()).expect("room");
    }
    drop(other);
    let (mut files, mut args) = (Vec::new(), sys::postbox_recv::default());
    args.fd_max = 1;
    raw::recv_files(&mailbox, &mut [], &mut files, &mut args).expect("it was sent");
    let other = Handle(files.pop().expect("one").fd);
    // A handle is still queued, and nobody has the mailbox open.
    drop(mailbox);
    assert_eq!(module.unload(), Err(Errno::AGAIN), "a process has the one");
    assert_eq!(other.get(), "inside");
    drop(other);
    module.idle();
    assert_eq!(module.unload(), Ok(()));
}

fn slab_kilobytes() -> i64 {
    let text = fs::read_to_string("/proc/meminfo").expect("procfs is mounted");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("SUnreclaim:"))
        .expect("the kernel tells");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}

#[test]
fn g12_persistent_objects_of_every_kind_go_with_the_module() {
    let module = Module::new();
    module.idle();
    let mut after = Vec::new();
    for _ in 0..20 {
        let listener = persistent(sys::POSTBOX_KIND_LISTENER, "test/listener");
        // Nobody accepts these, and nobody has the other end.
        (0..300).for_each(|_| drop(connect("test/listener")));
        assert_eq!(listener.info().messages, 300);
        for kind in [
            sys::POSTBOX_KIND_PIPE,
            sys::POSTBOX_KIND_SEMAPHORE,
            sys::POSTBOX_KIND_LATCH,
            sys::POSTBOX_KIND_BARRIER,
        ] {
            persistent(kind, &format!("test/kind-{kind}"));
        }
        let pipe = Handle::unbound();
        let mut args = sys::postbox_open {
            kind: sys::POSTBOX_KIND_PIPE,
            rights: SEND,
            ..Default::default()
        };
        let name = format!("test/kind-{}", sys::POSTBOX_KIND_PIPE);
        raw::open(&pipe, Some(name.as_bytes()), &mut args).expect("it persists");
        raw::write(&pipe, &[7; 9000], NEVER.0, 0).expect("there is room");
        drop((listener, pipe));
        module.idle();
        assert_eq!(module.unload(), Ok(()));
        assert_eq!(module.load(&module.parameters), Ok(()));
        assert_eq!(list(), Vec::<String>::new());
        let usage = raw::usage(Handle::unbound()).expect("it tells");
        assert_eq!((usage.messages, usage.objects, usage.files), (0, 0, 0));
        after.push(slab_kilobytes());
    }
    // The connections of a round alone are some hundred kB. KASAN keeps freed memory for a while.
    if !fs::exists("/sys/kernel/debug/kmemleak").unwrap_or(false) {
        let grown = after[19] - after[4];
        assert!(grown < 2000, "15 rounds left {grown} kB of slab memory");
    }
}

#[test]
fn g12_segments_go_with_the_module_and_what_is_mapped_stays() {
    const PAGES: usize = 256;
    let module = Module::new();
    module.idle();
    let shmem = || {
        let text = fs::read_to_string("/proc/meminfo").expect("procfs is mounted");
        let line = text.lines().find_map(|line| line.strip_prefix("Shmem:"));
        let number = line
            .expect("the kernel tells")
            .trim()
            .trim_end_matches(" kB");
        number.parse::<i64>().expect("a number")
    };
    let before = shmem();
    for _ in 0..4 {
        let make = MakeSegment {
            flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST,
            rights: SEND | RECEIVE | ADMIN,
            ..MakeSegment::default()
        };
        let memfd = memory(PAGES * PAGE, 0, SEALS);
        let segment = make.open("test/segment", Some(&memfd)).expect("new");
        let grant = sys::postbox_grant {
            who: sys::POSTBOX_GRANT_PID,
            id: std::process::id(),
            rights: SEND,
            ..Default::default()
        };
        raw::grant(&segment, &grant).expect("it has none");
        raw::attach(&segment).expect("both rights");
        let mapped = segment.map(0, PAGES * PAGE, RW).expect("both rights");
        (0..PAGES).for_each(|page| mapped.set(page * PAGE, 1));
        drop((segment, memfd));
        module.idle();
        assert_eq!(module.unload(), Ok(()), "a mapping is not the module's");
        (0..PAGES).for_each(|page| mapped.set(page * PAGE + 1, mapped.get(page * PAGE)));
        drop(mapped);
        assert_eq!(module.load(&module.parameters), Ok(()));
        assert_eq!(list(), Vec::<String>::new());
    }
    // Four megabytes were touched.
    wait_until("the memory to be freed", || shmem() < before + 1024);
}

#[test]
fn g12_persistent_objects_go_with_the_module() {
    let module = Module::new();
    module.idle();
    let make = Make {
        flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST,
        ..Make::default()
    };
    for i in 0..20 {
        let mailbox = make
            .open(format!("test/persistent-{i}").as_str())
            .expect("new");
        (0..10).for_each(|len| mailbox.put(vec![0; len * 100]));
        mailbox.take(NEVER).expect("sent");
    }
    let usage = Handle::unbound().usage();
    assert_eq!((usage.0, usage.2), (200, 20));
    module.idle();
    assert_eq!(
        module.unload(),
        Ok(()),
        "an object is no reason to stay, a handle is"
    );
    assert_eq!(module.load(&module.parameters), Ok(()));
    assert_eq!(list(), Vec::<String>::new());
    assert_eq!(Handle::unbound().usage(), (0, 0, 0));
}

#[test]
fn g12_parameters_can_be_given_at_load() {
    let module = Module::new();
    module.idle();
    assert_eq!(module.unload(), Ok(()));
    assert_eq!(
        module.load(
            "max_user_messages=7 max_user_bytes=5000 max_user_objects=3 max_user_files=2 \
             max_user_shared=8192 max_user_commands=9 max_message=1000 max_pipe=4096"
        ),
        Ok(())
    );
    {
        let mailbox = Handle::anonymous(UNBOUNDED);
        let usage = raw::usage(&mailbox).expect("it tells");
        assert_eq!(
            (
                usage.messages_max,
                usage.bytes_max,
                usage.objects_max,
                usage.files_max,
                usage.shared_max
            ),
            (7, 5000, 3, 2, 8192)
        );
        assert_eq!(raw::version(&mailbox).expect("it tells").message_max, 1000);
        let pipe = Handle::unbound();
        let mut args = sys::postbox_open {
            kind: sys::POSTBOX_KIND_PIPE,
            flags: sys::POSTBOX_O_CREATE,
            rights: SEND,
            capacity_bytes: 4097,
            ..Default::default()
        };
        assert_eq!(raw::open(&pipe, None, &mut args), Err(Errno::INVAL));
        (0..7).for_each(|_| mailbox.put("x"));
        assert_eq!(mailbox.send("x", FOREVER), Err(Errno::DQUOT));
        assert_eq!(mailbox.send([0; 1001], FOREVER), Err(Errno::MSGSIZE));
    }
    module.idle();
    assert_eq!(module.unload(), Ok(()));
    for bad in [
        "max_message=many",
        "max_user_bytes=-1x",
        "max_user_files=",
        "max_pipe=1M",
    ] {
        assert_eq!(module.load(bad), Err(Errno::INVAL), "{bad}");
        assert!(!loaded());
    }
}

#[test]
fn g12_loading_and_unloading_many_times_leaves_nothing() {
    let module = Module::new();
    module.idle();
    let mut after = Vec::new();
    for _ in 0..30 {
        assert_eq!(module.unload(), Ok(()));
        assert_eq!(module.load(&module.parameters), Ok(()));
        let mailbox = Handle::anonymous(4);
        mailbox.put("x");
        assert_eq!(mailbox.get(), "x");
        drop(mailbox);
        module.idle();
        after.push(slab_kilobytes());
    }
    let grown = after[29] - after[9];
    if std::fs::exists("/sys/kernel/debug/kmemleak").unwrap_or(false) {
        // KASAN keeps freed memory for a while, and kmemleak notes of its own; it is asked for leaks when all is over.
        return;
    }
    assert!(grown < 2000, "twenty rounds left {grown} kB of slab memory");
}

#[test]
fn g12_unloading_and_opening_do_not_meet_half_way() {
    let module = Module::new();
    module.idle();
    // Openers come all the time; now and then the module goes in between, and comes back.
    let stop = Ledger::new(3);
    let openers: Vec<Child> = (0..3)
        .map(|i| {
            let stop = &stop;
            spawn(move || {
                let mut rng = Rng::new(i);
                while stop[0].load(Relaxed) == 0 {
                    let Ok(fd) = raw::device() else {
                        stop[2].fetch_add(1, Relaxed);
                        std::thread::yield_now();
                        continue;
                    };
                    let handle = Handle(fd);
                    if rng.one_in(2) && Make::default().bind(&handle, None).is_ok() {
                        handle.put("x");
                        let second = handle.receiver();
                        assert_eq!(second.get(), "x");
                    }
                    stop[1].fetch_add(1, Relaxed);
                    drop(handle);
                    if rng.one_in(4) {
                        std::thread::sleep(std::time::Duration::from_millis(2));
                    }
                }
            })
        })
        .collect();
    let mut cycles = 0;
    let mut watchdog = Watchdog::new();
    while cycles < 15 && !watchdog.barks() {
        match module.unload() {
            Ok(()) => {
                assert_eq!(module.load(&module.parameters), Ok(()));
                cycles += 1;
            }
            Err(e) => assert!(matches!(e, Errno::AGAIN | Errno::BUSY), "{e}"),
        }
    }
    stop[0].store(1, Relaxed);
    openers.into_iter().for_each(Child::ok);
    let [opened, missed] = [1, 2].map(|i| stop[i].load(Relaxed));
    tell(&format!(
        "{cycles} cycles under {opened} opens; {missed} found no device"
    ));
    assert!(
        cycles > 0 && opened > 0,
        "{cycles} cycles under {opened} opens: nothing was tried"
    );
}
