//! Where io_uring is forbidden: an error that says so, and a way without.

use postbox::uring::{Driver, SetupError, Unavailable};
use postbox::{ErrorKind, Receiver, Wait};
use postbox_tests::{ALICE, Errno, check, isolated, spawn, spawn_as};

use crate::split;

const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";

/// The administrator's word, as long as this is there.
struct Sysctl(String);

impl Sysctl {
    fn set(value: &str) -> Self {
        let before = std::fs::read_to_string(SYSCTL).expect("it is there");
        std::fs::write(SYSCTL, value).expect("root may");
        Sysctl(before)
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        std::fs::write(SYSCTL, self.0.trim()).expect("root may");
    }
}

/// As the module's documentation has it.
fn collect(log: Receiver, mut each: impl FnMut(&[u8])) -> Option<SetupError> {
    match Driver::new() {
        Ok(driver) => {
            let buffers = driver.buffers(64, 512).expect("there is memory");
            let mut messages = driver.attach(log).messages(&buffers);
            while let Some(message) = messages.wait_next() {
                each(&message.expect("it came"));
            }
            None
        }
        Err(error) => {
            for message in &log {
                each(&message.expect("it came"));
            }
            Some(error)
        }
    }
}

/// What a program gets that falls back; and that it does what it is for, all the same.
fn refused() -> SetupError {
    let (sender, receiver) = split(16);
    sender
        .send_many(&["one", "two"], 0, Wait::Never)
        .expect("there is room");
    drop(sender);
    let mut seen = Vec::new();
    let error = collect(receiver, |message| seen.push(message.to_vec()));
    assert_eq!(seen, [b"one", b"two"]);
    let error = error.expect("it is forbidden");
    let text = error.to_string();
    assert!(text.contains("the calls of the handles"), "{text}");
    assert_eq!(
        postbox::Error::from(error.clone()).kind,
        ErrorKind::Unsupported
    );
    error
}

#[test]
fn it_works_where_it_is_allowed() {
    let (sender, receiver) = split(16);
    sender.send("x").expect("there is room");
    drop(sender);
    let mut seen = 0;
    assert_eq!(collect(receiver, |_| seen += 1), None);
    assert_eq!(seen, 1);
}

#[test]
fn the_administrator_can_switch_it_off() {
    isolated(|| {
        let off = Sysctl::set("2");
        let error = refused();
        assert_eq!(
            (error.why, error.errno),
            (Unavailable::Disabled, Some(Errno::PERM))
        );
        assert!(
            error.to_string().contains("kernel.io_uring_disabled"),
            "{error}"
        );
        drop(off);
        // For those without a privilege.
        let some = Sysctl::set("1");
        drop(Driver::new().expect("root may"));
        spawn_as(ALICE, || {
            let error = refused();
            assert_eq!(
                (error.why, error.errno),
                (Unavailable::Disabled, Some(Errno::PERM))
            );
        })
        .ok();
        drop(some);
        spawn_as(ALICE, || drop(Driver::new().expect("anybody may"))).ok();
    });
}

/// Makes a system call fail with an error, from here on in this process.
fn forbid(call: libc::c_long, errno: i32) {
    let statement = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let ret = (libc::BPF_RET | libc::BPF_K) as u16;
    let mut filter = [
        // The number is the first word of struct seccomp_data.
        statement(load, 0, 0, 0),
        statement(equal, 0, 1, call as u32),
        statement(ret, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(ret, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: The program is valid for the length of the call.
    unsafe {
        check(
            "no_new_privs",
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        );
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        check(
            "seccomp",
            libc::syscall(libc::SYS_seccomp, mode, 0, &raw const program) as i32,
        );
    }
}

#[test]
fn a_seccomp_filter_can_forbid_it() {
    isolated(|| {
        for (errno, why) in [
            (libc::EPERM, Unavailable::Forbidden),
            (libc::EACCES, Unavailable::Forbidden),
            (libc::ENOSYS, Unavailable::Kernel),
        ] {
            spawn(|| {
                forbid(libc::SYS_io_uring_setup, errno);
                let error = refused();
                assert_eq!(error.why, why);
                assert_eq!(error.errno, Some(Errno::from_raw_os_error(errno)));
                assert!(error.to_string().contains("seccomp"), "{error}");
            })
            .ok();
        }
    });
}

/// A filter that comes when a driver is there already.
#[test]
fn a_driver_that_is_cut_off_says_so() {
    isolated(|| {
        spawn(|| {
            let driver = Driver::new().expect("it is allowed");
            let (sender, receiver) = split(16);
            let receiver = driver.attach(receiver);
            receiver.handle().info().expect("bound");
            forbid(libc::SYS_io_uring_enter, libc::EPERM);
            let op = receiver.recv();
            let error = driver.submit().expect_err("it is forbidden");
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            let error = driver.turn(Wait::Forever).expect_err("it is forbidden");
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            // Its memory stays where it is.
            drop(op);
            sender.send("x").expect("there is room");
            assert_eq!(
                &*receiver.handle().try_recv().expect("nobody took it"),
                b"x"
            );
        })
        .ok();
    });
}

#[test]
fn what_is_not_valid_is_refused() {
    let error = Driver::options().entries(0).build().expect_err("none");
    assert_eq!(
        (error.why, error.errno),
        (Unavailable::Other, Some(Errno::INVAL))
    );
    assert!(Driver::options().entries(1 << 20).build().is_err());
    let driver = crate::driver();
    assert!(driver.buffers(u16::MAX, 1).is_err());
    assert!(driver.buffers(1, usize::MAX).is_err());
    assert!(driver.register_buffers(0, 1).is_err());
}
