//! Memory rights: a reader never writes, shrinks, executes or loses a page.
//!
//! A table of system calls, each tried in a process of its own on memory of each kind, in each role, under each identity.
//! Afterwards every page must be there and be what its owner wrote, and no mapping may allow what the role does not.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use libc::{MAP_FIXED, MAP_PRIVATE, MAP_SHARED, MAP_SHARED_VALIDATE, PROT_EXEC, PROT_WRITE};
use postbox::{raw, sys};
use postbox_tests::*;

const BOTH: u32 = SEND | RECEIVE;
const RX: i32 = R | PROT_EXEC;
const GUARD_INSTALL: i32 = 102;
const GUARD_REMOVE: i32 = 103;

/// A result of a system call: a number, or an errno.
type Tried = std::result::Result<usize, i32>;

/// Makes a system call.
fn call<const N: usize>(number: libc::c_long, args: [usize; N]) -> Tried {
    let arg = |i: usize| args.get(i).copied().unwrap_or(0);
    // SAFETY: the addresses are areas that the attacks map themselves, or buffers that outlive the call; the process ends
    // with the attack, and relies on no mapping that an attack changes.
    let result = unsafe { libc::syscall(number, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) };
    match result {
        -1 => Err(std::io::Error::last_os_error()
            .raw_os_error()
            .expect("an errno")),
        result => Ok(result as usize),
    }
}

/// Memory under attack.
struct Target {
    fd: usize,
    /// A mapping of all of it that the role may have.
    at: usize,
    len: usize,
    page: usize,
    /// The first byte of its first page; that of the next is one more.
    first: u8,
    /// The role may write, and does to the first page.
    writer: bool,
}

impl Target {
    fn map(&self, prot: i32, flags: i32) -> Tried {
        let (prot, flags) = (prot as usize, flags as usize);
        call(libc::SYS_mmap, [0, self.len, prot, flags, self.fd, 0])
    }

    fn protect(&self, at: usize, prot: i32) -> Tried {
        call(libc::SYS_mprotect, [at, self.len, prot as usize])
    }

    /// A second mapping of the same pages, by mremap() of no bytes.
    fn twin(&self) -> Tried {
        let flags = libc::MREMAP_MAYMOVE as usize;
        call(libc::SYS_mremap, [self.at, 0, self.len, flags])
    }

    fn byte(&self, page: usize) -> u8 {
        match self.first {
            0 => 0,
            first => first + page as u8,
        }
    }

    /// Checks that the page is there, and the owner's. `process_vm_readv` says EFAULT where a load would be a signal.
    fn check(&self, what: &str) {
        for page in 0..self.len / self.page {
            let mut byte = 0_u8;
            let local = [&raw mut byte as usize, 1];
            let remote = [self.at + page * self.page, 1];
            let me = std::process::id() as usize;
            let (local, remote) = (local.as_ptr() as usize, remote.as_ptr() as usize);
            let read = call(libc::SYS_process_vm_readv, [me, local, 1, remote, 1, 0]);
            assert_eq!(read, Ok(1), "{what}: page {page} is lost");
            // SAFETY: the kernel wrote to it by its address.
            let byte = unsafe { (&raw const byte).read_volatile() };
            let same = byte == self.byte(page) || (self.writer && page == 0);
            assert!(same, "{what}: page {page} was written: {byte}");
        }
    }

    /// Writes to the first page where `at` is a mapping that can be written.
    fn write(&self, at: usize) -> Tried {
        // SAFETY: the mapping was just made writable.
        unsafe { (at as *mut u8).write_volatile(0x66) };
        Ok(at)
    }
}

/// Mappings of the module's memory that this process has, as /proc/self/maps lists them.
fn mappings() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("one's own");
    let ours = |line: &&str| ["memfd:", "postbox"].iter().any(|name| line.contains(name));
    let code = |line: &&str| line.contains("/bin/") || line.contains("/tests/");
    let lines = maps.lines().filter(ours).filter(|line| !code(line));
    lines.map(str::to_owned).collect()
}

/// What an attack must not be able to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Must {
    /// Fail, for everybody.
    Fail,
    /// Fail for a reader.
    FailToWrite,
    /// Leave the memory as it is.
    Spare,
}
use Must::{Fail, FailToWrite, Spare};

type Attack = (&'static str, Must, fn(&Target) -> Tried);

const ATTACKS: &[Attack] = &[
    ("mmap w", FailToWrite, |t| t.map(PROT_WRITE, MAP_SHARED)),
    ("mmap rw", FailToWrite, |t| t.map(RW, MAP_SHARED)),
    ("mmap validate", FailToWrite, |t| {
        t.map(RW, MAP_SHARED_VALIDATE)
    }),
    ("mmap rx", Fail, |t| t.map(RX, MAP_SHARED)),
    ("mmap rwx", Fail, |t| t.map(RX | RW, MAP_SHARED)),
    ("mmap private rx", Fail, |t| t.map(RX, MAP_PRIVATE)),
    ("mmap fixed rw", FailToWrite, |t| {
        let anonymous = (MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
        let free = call(
            libc::SYS_mmap,
            [0, 2 * t.len + t.page, 0, anonymous, usize::MAX, 0],
        )?;
        let free = free.next_multiple_of(t.page);
        let flags = (MAP_SHARED | MAP_FIXED) as usize;
        call(libc::SYS_mmap, [free, t.len, RW as usize, flags, t.fd, 0])
    }),
    ("mmap private rw, write", Spare, |t| {
        t.write(t.map(RW, MAP_PRIVATE)?)
    }),
    ("mmap private r, mprotect rw, write", Spare, |t| {
        let at = t.map(R, MAP_PRIVATE)?;
        t.protect(at, RW)?;
        t.write(at)
    }),
    ("mmap private r, mprotect rx", Fail, |t| {
        t.protect(t.map(R, MAP_PRIVATE)?, RX)
    }),
    ("read implies exec, mmap r", Spare, |t| {
        call(libc::SYS_personality, [0x40_0000])?;
        t.map(R, MAP_SHARED)
    }),
    ("mprotect w", FailToWrite, |t| t.protect(t.at, PROT_WRITE)),
    ("mprotect rw", FailToWrite, |t| t.protect(t.at, RW)),
    ("mprotect rx", Fail, |t| t.protect(t.at, RX)),
    ("mprotect x", Fail, |t| t.protect(t.at, PROT_EXEC)),
    ("pkey_mprotect rw", FailToWrite, |t| {
        let key = usize::MAX;
        call(libc::SYS_pkey_mprotect, [t.at, t.len, RW as usize, key])
    }),
    ("pkey_mprotect rx", Fail, |t| {
        let key = usize::MAX;
        call(libc::SYS_pkey_mprotect, [t.at, t.len, RX as usize, key])
    }),
    ("mremap twin, mprotect rw", FailToWrite, |t| {
        t.protect(t.twin()?, RW)
    }),
    ("mremap twin, mprotect rx", Fail, |t| {
        t.protect(t.twin()?, RX)
    }),
    ("mremap twin, grow, mprotect rw", FailToWrite, |t| {
        let flags = libc::MREMAP_MAYMOVE as usize;
        let args = [t.twin()?, t.len, 2 * t.len, flags];
        t.protect(call(libc::SYS_mremap, args)?, RW)
    }),
    (
        "mremap leaving the old one, mprotect rw",
        FailToWrite,
        |t| {
            let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP) as usize;
            let moved = call(libc::SYS_mremap, [t.at, t.len, t.len, flags])?;
            t.protect(moved, RW)
        },
    ),
    ("remap_file_pages, mprotect rw, write", FailToWrite, |t| {
        call(libc::SYS_remap_file_pages, [t.at, t.len, 0, 0, 0])?;
        t.protect(t.at, RW)?;
        t.write(t.at)
    }),
    ("remap_file_pages, mprotect rx", Fail, |t| {
        call(libc::SYS_remap_file_pages, [t.at, t.len, 0, 0, 0])?;
        t.protect(t.at, RX)
    }),
    ("remap_file_pages of a private mapping", Fail, |t| {
        call(
            libc::SYS_remap_file_pages,
            [t.map(R, MAP_PRIVATE)?, t.len, 0, 0, 0],
        )
    }),
    ("madvise, each, whole and part", Spare, |t| {
        for advice in (0..=25).chain(100..=103) {
            for len in [t.len, t.page] {
                let tried = call(libc::SYS_madvise, [t.at, len, advice as usize]);
                if advice == libc::MADV_REMOVE {
                    assert!(tried.is_err(), "MADV_REMOVE: {tried:?}");
                }
                if advice == GUARD_INSTALL {
                    let _ = call(libc::SYS_madvise, [t.at, len, GUARD_REMOVE as usize]);
                }
                t.check(&format!("madvise {advice}: {tried:?}"));
            }
        }
        Ok(0)
    }),
    ("MADV_REMOVE", Fail, |t| {
        call(libc::SYS_madvise, [t.at, t.len, libc::MADV_REMOVE as usize])
    }),
    ("MADV_REMOVE of a private mapping", Fail, |t| {
        let at = t.map(RW, MAP_PRIVATE)?;
        call(libc::SYS_madvise, [at, t.len, libc::MADV_REMOVE as usize])
    }),
    ("MADV_POPULATE_WRITE", FailToWrite, |t| {
        call(
            libc::SYS_madvise,
            [t.at, t.len, libc::MADV_POPULATE_WRITE as usize],
        )
    }),
    ("process_madvise, each", Spare, |t| {
        let me = call(libc::SYS_pidfd_open, [std::process::id() as usize, 0])?;
        for advice in 0..=25 {
            let area = [t.at, t.len];
            let at = area.as_ptr() as usize;
            let tried = call(libc::SYS_process_madvise, [me, at, 1, advice, 0]);
            t.check(&format!("process_madvise {advice}: {tried:?}"));
        }
        Ok(0)
    }),
    ("mlock, munlock, msync, mincore", Spare, |t| {
        let _ = call(libc::SYS_mlock, [t.at, t.len]);
        let _ = call(libc::SYS_munlock, [t.at, t.len]);
        let flags = (libc::MS_SYNC | libc::MS_INVALIDATE) as usize;
        call(libc::SYS_msync, [t.at, t.len, flags])
    }),
    ("fork, mprotect rw", FailToWrite, |t| {
        in_child(|| t.protect(t.at, RW))
    }),
    ("fork, remap_file_pages, mprotect rx", Fail, |t| {
        in_child(|| {
            call(libc::SYS_remap_file_pages, [t.at, t.len, 0, 0, 0])?;
            t.protect(t.at, RX)
        })
    }),
    ("userfaultfd missing", FailToWrite, |t| userfault(t, 1)),
    ("userfaultfd write-protect", FailToWrite, |t| {
        userfault(t, 2)
    }),
    ("userfaultfd minor", FailToWrite, |t| userfault(t, 4)),
    ("/proc/self/mem", FailToWrite, |t| write_mem("self", t.at)),
    ("/proc/PID/mem of a child", FailToWrite, |t| {
        let child = spawn(sleep_forever);
        write_mem(&child.pid().to_string(), t.at)
    }),
    ("process_vm_writev", FailToWrite, |t| {
        let (byte, me) = (0x66_u8, std::process::id() as usize);
        let (local, remote) = ([&raw const byte as usize, 1], [t.at, 1]);
        let (local, remote) = (local.as_ptr() as usize, remote.as_ptr() as usize);
        call(libc::SYS_process_vm_writev, [me, local, 1, remote, 1, 0])
    }),
    ("ptrace POKEDATA", FailToWrite, |t| poke(t.at)),
    ("io_uring registered buffer", FailToWrite, |t| {
        register_buffer(t)
    }),
    ("read into it", FailToWrite, |t| {
        let [from, _to] = pipe(&[0x66; 8]);
        call(libc::SYS_read, [from.as_raw_fd() as usize, t.at, 8])
    }),
    ("vmsplice into it", FailToWrite, |t| {
        let [from, _to] = pipe(&[0x66; 8]);
        let area = [t.at, 8];
        call(
            libc::SYS_vmsplice,
            [from.as_raw_fd() as usize, area.as_ptr() as usize, 1, 0],
        )
    }),
    (
        "vmsplice out of it as a gift, write behind it",
        Spare,
        |t| {
            let [from, to] = pipe(&[]);
            let (area, gift) = ([t.at, 16], 8);
            let (from, to) = (from.as_raw_fd() as usize, to.as_raw_fd() as usize);
            call(libc::SYS_vmsplice, [to, area.as_ptr() as usize, 1, gift])?;
            let junk = [0x66_u8; 64];
            call(libc::SYS_write, [to, junk.as_ptr() as usize, junk.len()])?;
            let null = std::fs::File::options()
                .write(true)
                .open("/dev/null")
                .expect("to write");
            call(
                libc::SYS_splice,
                [from, 0, null.as_raw_fd() as usize, 0, 80, 0],
            )
        },
    ),
    ("reopen through /proc/self/fd, mmap rw", Fail, |t| {
        let again = reopen(&format!("/proc/self/fd/{}", t.fd))?;
        let (fd, flags) = (again.as_raw_fd() as usize, MAP_SHARED as usize);
        call(libc::SYS_mmap, [0, t.len, RW as usize, flags, fd, 0])
    }),
    ("reopen through /proc/self/map_files", Fail, |t| {
        let path = format!("/proc/self/map_files/{:x}-{:x}", t.at, t.at + t.len);
        reopen(&path).map(|file| file.as_raw_fd() as usize)
    }),
    ("F_ADD_SEALS", Fail, |t| {
        let seal = libc::F_SEAL_WRITE as usize;
        call(libc::SYS_fcntl, [t.fd, libc::F_ADD_SEALS as usize, seal])
    }),
    ("fallocate", Fail, |t| {
        let punch = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as usize;
        call(libc::SYS_fallocate, [t.fd, punch, 0, t.len])
    }),
    ("ftruncate", Fail, |t| call(libc::SYS_ftruncate, [t.fd, 0])),
    ("write to the handle", Fail, |t| {
        call(libc::SYS_write, [t.fd, c"x".as_ptr() as usize, 1])
    }),
    ("copy_file_range to the handle", Fail, |t| {
        let from = memory(PAGE, 0, 0);
        let from = from.as_raw_fd() as usize;
        call(libc::SYS_copy_file_range, [from, 0, t.fd, 0, PAGE, 0])
    }),
];

/// Runs it in a fork; its status is the errno.
fn in_child(f: impl FnOnce() -> Tried) -> Tried {
    let child = spawn(|| {
        let errno = f().err().unwrap_or(0);
        // SAFETY: ends the process.
        unsafe { libc::_exit(errno) }
    });
    match child.wait() {
        Exit::Code(0) => Ok(0),
        Exit::Code(errno) if errno != 101 => Err(errno),
        exit => panic!("{exit:?}"),
    }
}

fn pipe(bytes: &[u8]) -> [OwnedFd; 2] {
    use std::io::Write;
    let (from, mut to) = std::io::pipe().expect("a pipe");
    to.write_all(bytes).expect("there is room");
    [from.into(), to.into()]
}

fn reopen(path: &str) -> std::result::Result<std::fs::File, i32> {
    let file = std::fs::File::options().read(true).write(true).open(path);
    file.map_err(|error| error.raw_os_error().expect("an errno"))
}

fn userfault(t: &Target, mode: u64) -> Tried {
    const USER_MODE_ONLY: usize = 1;
    /// Missing, minor and write-protect faults of shared and huge pages.
    const FEATURES: u64 = 1 << 4 | 1 << 5 | 1 << 9 | 1 << 10 | 1 << 12;
    let fd = call(
        libc::SYS_userfaultfd,
        [libc::O_CLOEXEC as usize | USER_MODE_ONLY],
    )?;
    let mut api = [0xAA, FEATURES, 0];
    call(
        libc::SYS_ioctl,
        [fd, 0xc018_aa3f, api.as_mut_ptr() as usize],
    )?;
    let mut register = [t.at as u64, t.len as u64, mode, 0];
    call(
        libc::SYS_ioctl,
        [fd, 0xc020_aa00, register.as_mut_ptr() as usize],
    )
}

fn write_mem(who: &str, at: usize) -> Tried {
    let file = reopen(&format!("/proc/{who}/mem"))?;
    let byte = 0x66_u8;
    let fd = file.as_raw_fd() as usize;
    call(libc::SYS_pwrite64, [fd, &raw const byte as usize, 1, at])
}

fn poke(at: usize) -> Tried {
    let child = spawn(sleep_forever);
    let pid = child.pid() as usize;
    call(libc::SYS_ptrace, [libc::PTRACE_ATTACH as usize, pid, 0, 0])?;
    call(libc::SYS_wait4, [pid, 0, libc::__WALL as usize, 0])?;
    call(
        libc::SYS_ptrace,
        [libc::PTRACE_POKEDATA as usize, pid, at, 0x66],
    )
}

fn register_buffer(t: &Target) -> Tried {
    const REGISTER_BUFFERS: usize = 0;
    let mut params = [0_u8; 120];
    let ring = call(libc::SYS_io_uring_setup, [1, params.as_mut_ptr() as usize])?;
    let area = [t.at, t.page];
    let area = area.as_ptr() as usize;
    call(
        libc::SYS_io_uring_register,
        [ring, REGISTER_BUFFERS, area, 1],
    )
}

/// A kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Segment,
    Frozen,
    Pool,
    Ring,
    Huge,
}

/// An object under attack, its owner's way to look at it, and its name.
struct Object {
    kind: Kind,
    handle: Handle,
    owner: Mapped,
    name: String,
    page: usize,
    len: usize,
}

impl Object {
    fn new(kind: Kind) -> Object {
        let name = unique("attack");
        let (page, flags) = match kind {
            Kind::Huge => (HugePages::SIZE, libc::MFD_HUGETLB | libc::MFD_HUGE_2MB),
            _ => (PAGE, 0),
        };
        let len = 2 * page;
        let fill = |owner: &Mapped| (0..2).for_each(|i| owner.set(i * page, 1 + i as u8));
        let segment = |rights, memfd: &OwnedFd| {
            let make = MakeSegment {
                rights: rights | ADMIN,
                ..MakeSegment::default()
            };
            make.open(name.as_str(), Some(memfd))
                .expect("a new segment")
        };
        let (handle, prot) = match kind {
            Kind::Segment | Kind::Huge => (segment(BOTH, &memory(len, flags, SEALS)), RW),
            Kind::Frozen => {
                let memfd = memory(len, 0, 0);
                fill(&Mapped::new(&memfd, 0, len, RW, MAP_SHARED).expect("its maker"));
                seal(&memfd, SEALS | libc::F_SEAL_WRITE);
                (segment(RECEIVE, &memfd), R)
            }
            Kind::Pool => {
                let make = MakePool {
                    rights: BOTH | ADMIN,
                    ..MakePool::new(2, PAGE as u64)
                };
                (make.make(name.as_str()).expect("a new pool"), RW)
            }
            Kind::Ring => (ring(&name), R),
        };
        let owner = handle.map(0, len, prot).expect("its owner");
        if prot == RW {
            fill(&owner);
        }
        // So that nothing but the attacker's own mappings is in its process.
        let at = owner.as_ptr() as usize;
        call(libc::SYS_madvise, [at, len, libc::MADV_DONTFORK as usize]).expect("it is mapped");
        Object {
            kind,
            handle,
            owner,
            name,
            page,
            len,
        }
    }

    fn first(&self) -> u8 {
        u8::from(self.kind != Kind::Ring)
    }

    /// A handle that was opened by a grant to read, which was then revoked, and what was mapped before.
    fn revoked(&self) -> (Handle, Mapped) {
        let mut grant = sys::postbox_grant {
            who: sys::POSTBOX_GRANT_UID,
            id: ALICE.uid,
            rights: RECEIVE,
            ..Default::default()
        };
        raw::grant(&self.handle, &grant).expect("it has a name");
        let (here, there) = UnixStream::pair().expect("a pair");
        let kind = self.handle.info().kind;
        let child = spawn_as(ALICE, || {
            let handle = Handle::unbound();
            let mut args = sys::postbox_open {
                kind,
                rights: RECEIVE,
                ..Default::default()
            };
            raw::open(&handle, Some(self.name.as_bytes()), &mut args).expect("it was granted");
            send_fd(&there, &handle);
        });
        let handle = Handle(receive_fd(&here));
        child.ok();
        let mapped = handle.map(0, self.len, R).expect("to read");
        grant.rights = 0;
        raw::revoke(&self.handle, &grant).expect("it was granted");
        (handle, mapped)
    }

    /// Tries everything on what the role has.
    fn attack(&self, role: &str, writer: bool, handle: &Handle, mapped: &Mapped, len: usize) {
        let target = Target {
            fd: handle.0.as_raw_fd() as usize,
            at: mapped.as_ptr() as usize,
            len,
            page: self.page,
            first: self.first(),
            writer,
        };
        // A slow kernel tries each attack under one of the identities.
        let every = Attacker::ALL.len() / scaled(Attacker::ALL.len());
        for (number, attacker) in Attacker::ALL.into_iter().enumerate() {
            let what = format!("{:?} {role} {attacker:?}", self.kind);
            let run = attacker.run(|| {
                let mut results = String::new();
                let some = ATTACKS.iter().enumerate();
                for (_, (name, must, attack)) in
                    some.filter(|(at, _)| (at + number).is_multiple_of(every))
                {
                    let tried = try_it(&target, *must, *attack, &what, name);
                    let tried = tried.map_or_else(|errno| errno.to_string(), |_| "ok".into());
                    results += &format!("; {name}: {tried}");
                }
                tell(&format!("{what}{results}"));
            });
            run.ok();
            for page in 0..len / self.page {
                let byte = self.owner.get(page * self.page);
                if !(writer && page == 0) {
                    assert_eq!(byte, target.byte(page), "{what}: as its owner sees it");
                }
            }
            if writer {
                self.owner.set(0, target.byte(0));
            }
        }
    }
}

/// Tries one attack in a process of its own, and looks what it has left.
fn try_it(
    target: &Target,
    must: Must,
    attack: fn(&Target) -> Tried,
    who: &str,
    name: &str,
) -> Tried {
    let what = format!("{who}: {name}");
    in_child(|| {
        let tried = attack(target);
        let forbidden = must == Fail || (must == FailToWrite && !target.writer);
        assert!(!forbidden || tried.is_err(), "{what}: it succeeded");
        // What went may be gone from here, or moved.
        let moved = name.contains("leaving");
        if !(moved || target.writer && must == FailToWrite) {
            target.check(&what);
        }
        for line in mappings() {
            let flags = line.split(' ').nth(1).expect("flags");
            let shared = flags.ends_with('s');
            let bad = flags.contains('x') || (shared && flags.contains('w') && !target.writer);
            assert!(!bad, "{what}: {line}");
        }
        tried
    })
}

/// A ring of two pages, of which the handle has all rights.
fn ring(name: &str) -> Handle {
    let handle = Handle::unbound();
    let mut args = sys::postbox_open {
        kind: sys::POSTBOX_KIND_RING,
        flags: sys::POSTBOX_O_CREATE,
        rights: BOTH | ADMIN,
        mode: 0o600,
        capacity_bytes: 2 * PAGE as u64,
        ..Default::default()
    };
    raw::open(&handle, Some(name.as_bytes()), &mut args).expect("a new ring");
    handle
}

/// Who attacks.
#[derive(Clone, Copy)]
enum Role {
    /// Has the right to read.
    Reader,
    /// Had it by a grant that was taken back, and has mapped the memory before.
    Revoked,
    /// Has the right to write.
    Writer,
}

/// Tries everything on memory of the kind in that role.
fn matrix(kind: Kind, role: Role) {
    isolated(|| {
        let pages = match kind {
            Kind::Huge => match HugePages::reserve(2) {
                Some(pages) => Some(pages),
                None => return,
            },
            _ => None,
        };
        let object = Object::new(kind);
        let (handle, mapped) = match (role, kind) {
            (Role::Reader, _) => {
                let reader = object.handle.receiver();
                let mapped = reader.map(0, object.len, R).expect("to read");
                (reader, mapped)
            }
            (Role::Revoked, _) => {
                let (handle, mapped) = object.revoked();
                let anew = handle.map(0, object.len, R).map(drop);
                assert_eq!(anew, Err(Errno::ACCESS), "it was revoked");
                (handle, mapped)
            }
            (Role::Writer, Kind::Frozen) => {
                let opened = Handle::open_segment(&object.name, BOTH).map(drop);
                assert_eq!(opened, Err(Errno::ACCESS), "root neither");
                return;
            }
            (Role::Writer, _) => {
                let writer = object.handle.dup(BOTH).expect("both rights");
                // The status of a ring is the kernel's, whatever the rights are.
                let (len, prot) = match kind {
                    Kind::Ring => (PAGE, R),
                    _ => (object.len, RW),
                };
                let mapped = writer.map(0, len, prot).expect("both rights");
                (writer, mapped)
            }
        };
        let (name, writer, len) = match (role, kind) {
            (Role::Reader, _) => ("reader", false, object.len),
            (Role::Revoked, _) => ("revoked", false, object.len),
            (Role::Writer, Kind::Ring) => ("writer at the status", false, PAGE),
            (Role::Writer, _) => ("writer", true, object.len),
        };
        object.attack(name, writer, &handle, &mapped, len);
        drop((handle, mapped));
        drop((object, pages));
    });
}

macro_rules! matrices {
    ($($name:ident $kind:ident $role:ident,)*) => {$(
        #[test]
        fn $name() {
            matrix(Kind::$kind, Role::$role);
        }
    )*};
}

matrices![
    matrix_segment_reader_changes_nothing Segment Reader,
    matrix_segment_revoked_changes_nothing Segment Revoked,
    matrix_segment_writer_loses_no_page Segment Writer,
    matrix_frozen_reader_changes_nothing Frozen Reader,
    matrix_frozen_revoked_changes_nothing Frozen Revoked,
    matrix_frozen_has_no_writer Frozen Writer,
    matrix_pool_reader_changes_nothing Pool Reader,
    matrix_pool_revoked_changes_nothing Pool Revoked,
    matrix_pool_writer_loses_no_page Pool Writer,
    matrix_ring_reader_changes_nothing Ring Reader,
    matrix_ring_revoked_changes_nothing Ring Revoked,
    matrix_ring_status_has_no_writer Ring Writer,
    matrix_huge_reader_changes_nothing Huge Reader,
    matrix_huge_revoked_changes_nothing Huge Revoked,
    matrix_huge_writer_loses_no_page Huge Writer,
];

/// docs/segments.md, "Executing": what cannot be promised of who may write.
#[test]
fn writer_can_execute_after_remap_file_pages() {
    isolated(|| {
        let segment = Handle::segment(1);
        let mapped = segment.map(0, PAGE, R).expect("both rights");
        assert_eq!(mapped.protect(RX), Err(Errno::ACCESS));
        let at = mapped.as_ptr() as usize;
        call(libc::SYS_remap_file_pages, [at, PAGE, 0, 0, 0]).expect("it may be written");
        assert_eq!(mapped.protect(RX), Ok(()));
        assert_eq!(mapped.protect(RW), Err(Errno::ACCESS), "never both");
        // A reader cannot, which the matrix has.
    });
}

/// docs/segments.md, "Taking back": who has one page mapped may have all.
#[test]
fn revoked_mapping_can_grow_and_stays_read_only() {
    isolated(|| {
        let object = Object::new(Kind::Segment);
        let (handle, mapped) = object.revoked();
        assert_eq!(handle.map(0, PAGE, R).map(drop), Err(Errno::ACCESS));
        let at = mapped.as_ptr() as usize;
        // One page of what was mapped before, as if it had been mapped alone.
        call(libc::SYS_munmap, [at + PAGE, PAGE]).expect("it is mapped");
        let flags = libc::MREMAP_MAYMOVE as usize;
        let at = call(libc::SYS_mremap, [at, PAGE, 2 * PAGE, flags]).expect("it grows");
        // SAFETY: two pages are mapped there.
        let second = unsafe { ((at + PAGE) as *const u8).read_volatile() };
        assert_eq!(second, 2);
        let writable = call(libc::SYS_mprotect, [at, 2 * PAGE, RW as usize]);
        assert_eq!(writable, Err(libc::EACCES));
        std::mem::forget(mapped);
    });
}

/// An ADMIN handle of a ring reads none of it.
#[test]
fn ring_handle_without_rights_maps_nothing() {
    isolated(|| {
        let name = unique("ring");
        let admin = ring(&name).dup(ADMIN).expect("it has the right");
        assert_eq!(admin.map(0, PAGE, R).map(drop), Err(Errno::ACCESS));
    });
}

/// Memory that is reserved fits into its maker's memory cgroup, or is refused; nobody is killed.
#[test]
fn reserved_memory_is_there_or_is_refused() {
    const MIB: usize = 1 << 20;
    isolated(|| {
        let cgroup = Cgroup::new();
        cgroup.write("memory.max", 24 * MIB);
        spawn(|| {
            cgroup.write("cgroup.procs", 0);
            let reserve = sys::POSTBOX_O_CREATE | sys::POSTBOX_O_RESERVE;
            let segment = |flags, size: usize| {
                let make = MakeSegment {
                    flags,
                    ..MakeSegment::default()
                };
                make.open(None, Some(&memory(size, 0, SEALS)))
            };
            let pool = |flags, blocks: u64| {
                let make = MakePool {
                    flags,
                    ..MakePool::new(blocks, MIB as u64)
                };
                make.make(None)
            };
            let shared = || raw::usage(Handle::unbound()).expect("it tells").shared;
            let before = shared();
            assert_eq!(segment(reserve, 64 * MIB).map(drop), Err(Errno::NOMEM));
            assert_eq!(pool(reserve, 64).map(drop), Err(Errno::NOMEM));
            assert_eq!(shared(), before, "what failed left nothing");
            // Without, it is made, and the memory is a matter of who touches it.
            drop(segment(sys::POSTBOX_O_CREATE, 64 * MIB).expect("sparse"));
            drop(pool(sys::POSTBOX_O_CREATE, 64).expect("sparse"));
            for handle in [segment(reserve, 4 * MIB), pool(reserve, 4)] {
                let handle = handle.expect("it fits");
                let mapped = handle.map(0, 4 * MIB, R).expect("to read");
                let mut there = vec![0_u8; 4 * MIB / PAGE];
                let (at, room) = (mapped.as_ptr() as usize, there.as_mut_ptr() as usize);
                call(libc::SYS_mincore, [at, 4 * MIB, room]).expect("it is mapped");
                let there = std::hint::black_box(there);
                assert!(there.iter().all(|page| page & 1 == 1), "all are resident");
            }
            // It is for memory that is made.
            let make = |kind, flags| {
                let mut args = sys::postbox_open {
                    kind,
                    flags,
                    rights: BOTH,
                    mode: 0o600,
                    ..Default::default()
                };
                raw::open(Handle::unbound(), Some(b"none"), &mut args)
            };
            let bad = Err(Errno::INVAL);
            assert_eq!(make(sys::POSTBOX_KIND_MAILBOX, reserve), bad);
            let only = sys::POSTBOX_O_RESERVE;
            assert_eq!(make(sys::POSTBOX_KIND_SEGMENT, only), bad);
        })
        .ok();
    });
}

/// Of huge pages, too: none is left over for who comes late.
#[test]
fn reserved_huge_pages_are_there_or_are_refused() {
    isolated(|| {
        let Some(pages) = HugePages::reserve(2) else {
            return;
        };
        let make = |count: usize| {
            let make = MakeSegment {
                flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_RESERVE,
                ..MakeSegment::default()
            };
            let flags = libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
            make.open(None, Some(&memory(count * HugePages::SIZE, flags, SEALS)))
        };
        assert_eq!(make(3).map(drop), Err(Errno::NOMEM));
        wait_until("they to be given back", || pages.free() == 2);
        let segment = make(2).expect("as many as there are");
        assert_eq!(pages.free(), 0);
        drop(segment);
        wait_until("they to be given back", || pages.free() == 2);
    });
}

/// A cgroup, which is removed when this is dropped.
struct Cgroup(String);

impl Cgroup {
    const ROOT: &str = "/sys/fs/cgroup";

    fn new() -> Self {
        let path = format!("{}/{}", Self::ROOT, unique("memory").replace('/', "-"));
        std::fs::create_dir(&path).expect("cgroup2 is mounted");
        Cgroup(path)
    }

    fn open(&self, file: &str) -> File {
        let path = format!("{}/{file}", self.0);
        File::options().write(true).open(path).expect("root may")
    }

    fn write(&self, file: &str, text: impl ToString) {
        let text = text.to_string();
        let written = self.open(file).write_all(text.as_bytes());
        written.unwrap_or_else(|e| panic!("{file}: {text}: {e}"));
    }

    fn number(&self, file: &str) -> usize {
        let text = std::fs::read_to_string(format!("{}/{file}", self.0)).expect("root may");
        text.trim().parse().expect("a number")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        wait_until("the cgroup to be empty", || {
            std::fs::remove_dir(&self.0).is_ok()
        });
    }
}

const HUGE_2M: u32 = libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;

/// Makes a segment of which every page is allocated.
fn reserved(memfd: &OwnedFd) -> Result<Handle> {
    let make = MakeSegment {
        flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_RESERVE,
        ..MakeSegment::default()
    };
    make.open(None, Some(memfd))
}

/// Bytes of a memfd that are allocated.
fn allocated(memfd: &OwnedFd) -> u64 {
    let stat = rustix::fs::fstat(memfd).expect("it is open");
    stat.st_blocks as u64 * 512
}

/// Sends this process a SIGALRM every so many microseconds; 0: no more.
fn interrupt_every(micros: i64) {
    let time = libc::timeval {
        tv_sec: 0,
        tv_usec: micros,
    };
    let timer = libc::itimerval {
        it_interval: time,
        it_value: time,
    };
    let none = std::ptr::null_mut::<libc::itimerval>() as usize;
    let args = [libc::ITIMER_REAL as usize, &raw const timer as usize, none];
    call(libc::SYS_setitimer, args).expect("a valid time");
}

/// Frees all pages of a memfd.
fn punch(memfd: &OwnedFd, len: usize) {
    let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let fd = memfd.as_raw_fd() as usize;
    call(libc::SYS_fallocate, [fd, hole as usize, 0, len]).expect("it is not frozen");
}

/// A word where no page is reads as 0, and looking at it allocates no page.
#[test]
fn waiting_for_a_word_of_a_hole_allocates_nothing() {
    isolated(|| {
        let pages = HugePages::reserve(2);
        let huge = pages.as_ref().map(|_| (HugePages::SIZE, HUGE_2M));
        for (page, flags) in [Some((PAGE, 0)), huge].into_iter().flatten() {
            as_each_attacker(|attacker| {
                let what = format!("{attacker:?}, pages of {page}");
                let memfd = memory(2 * page, flags, SEALS);
                let make = MakeSegment::default();
                let segment = make.open(None, Some(&memfd)).expect("sparse");
                let me = raw::attach(&segment).expect("attach");
                let at = page as u64 + 8;
                let mapped = segment.map(0, 2 * page, RW).expect("both rights");
                let look = |word: u64| {
                    assert_eq!(segment.wait_word(at, 0, FOREVER), Ok(true), "{what}");
                    let same = segment.wait_word(at, me, NEVER);
                    let expected = if word == me {
                        Err(Errno::AGAIN)
                    } else {
                        Ok(false)
                    };
                    assert_eq!(same, expected, "{what}: {word}");
                };
                look(0);
                assert_eq!(allocated(&memfd), 0, "{what}");
                // SAFETY: it is mapped to be written, and aligned.
                let word = unsafe { mapped.as_ptr().add(at as usize).cast::<u64>() };
                // SAFETY: as above.
                unsafe { word.write_volatile(me) };
                assert_eq!(allocated(&memfd), page as u64, "{what}");
                assert_eq!(
                    segment.wait_word(at, me, NEVER),
                    Err(Errno::AGAIN),
                    "{what}"
                );
                punch(&memfd, 2 * page);
                assert_eq!(segment.wait_word(at, me, NEVER), Ok(false), "{what}");
                assert_eq!(allocated(&memfd), 0, "{what}");
            });
        }
    });
}

/// The kernel reads no word of memory that is known to be broken: that would be a machine check.
#[test]
fn waiting_for_a_word_of_broken_memory_is_refused() {
    isolated(|| {
        let segment = Handle::segment(2);
        let me = raw::attach(&segment).expect("attach");
        let mapped = segment.map(0, 2 * PAGE, RW).expect("both rights");
        (0..2).for_each(|page| mapped.set(page * PAGE, 1));
        let broken = [mapped.as_ptr() as usize, PAGE, libc::MADV_HWPOISON as usize];
        match call(libc::SYS_madvise, broken) {
            Err(libc::EINVAL) => tell("this kernel does not handle broken memory"),
            tried => {
                tried.expect("root may");
                let look = |at: usize| segment.wait_word(at as u64 + 8, me, NEVER);
                assert_eq!((look(0), look(PAGE)), (Err(Errno::IO), Ok(false)));
            }
        }
    });
}

/// A user who waits for words of huge pages that come and go takes no page that another has reserved.
#[test]
fn huge_pages_of_others_stay_reserved_beside_waiters() {
    const OTHERS: usize = 4;
    isolated(|| {
        let Some(pages) = HugePages::reserve(OTHERS + 2) else {
            return;
        };
        let len = OTHERS * HugePages::SIZE;
        let memfd = memory(len, HUGE_2M, SEALS);
        let victim = Mapped::new(&memfd, 0, len, RW, MAP_SHARED).expect("there are enough");
        assert_eq!(pages.reserved(), OTHERS);
        as_each_attacker(|_| {
            let memfd = memory(HugePages::SIZE, HUGE_2M, SEALS);
            let make = MakeSegment::default();
            let segment = make.open(None, Some(&memfd)).expect("there is a page");
            let mapped = segment.map(0, HugePages::SIZE, RW).expect("both rights");
            let (round, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let rounds = scaled(150);
            scope(|scope| {
                scope.spawn(|| {
                    for now in 1..=rounds {
                        while round.load(SeqCst) < now {
                            std::hint::spin_loop();
                        }
                        // Between the moments at which the other looks for a page and adds its own.
                        (0..now % 64 * 256).for_each(|_| std::hint::spin_loop());
                        assert_eq!(segment.wait_word(8, 5, NEVER), Ok(false));
                        done.store(now, SeqCst);
                    }
                });
                for now in 1..=rounds {
                    punch(&memfd, HugePages::SIZE);
                    round.store(now, SeqCst);
                    mapped.set(0, 1);
                    while done.load(SeqCst) < now {
                        std::hint::spin_loop();
                    }
                }
            });
        });
        wait_until("the attackers' pages to be given back", || {
            pages.free() == OTHERS + 2
        });
        assert_eq!(pages.reserved(), OTHERS, "what the victim has reserved");
        // Somebody takes all that is said to be free.
        let free = memory(2 * HugePages::SIZE, HUGE_2M, SEALS);
        let rest = Mapped::new(&free, 0, 2 * HugePages::SIZE, RW, MAP_SHARED).expect("two pages");
        (0..2).for_each(|page| rest.set(page * HugePages::SIZE, 1));
        (0..OTHERS).for_each(|page| victim.set(page * HugePages::SIZE, 1));
        drop((victim, memfd, rest, free));
        wait_until("all pages to be given back", || {
            (pages.free(), pages.reserved()) == (OTHERS + 2, 0)
        });
    });
}

/// Huge pages that are reserved count in the hugetlb cgroup of the maker, and fit into it or are refused.
#[test]
fn reserved_huge_pages_fit_into_the_hugetlb_cgroup() {
    isolated(|| {
        let Some(pages) = HugePages::reserve(4) else {
            return;
        };
        let control = format!("{}/cgroup.subtree_control", Cgroup::ROOT);
        let before = std::fs::read_to_string(&control).expect("cgroup2 is mounted");
        if std::fs::write(&control, "+hugetlb").is_err() {
            tell("this kernel has no hugetlb cgroup");
            return;
        }
        let cgroup = Cgroup::new();
        let used = || cgroup.number("hugetlb.2MB.current") / HugePages::SIZE;
        cgroup.write("hugetlb.2MB.max", HugePages::SIZE);
        spawn(|| {
            cgroup.write("cgroup.procs", 0);
            as_each_attacker(|attacker| {
                let memfd = |count| memory(count * HugePages::SIZE, HUGE_2M, SEALS);
                let refused = reserved(&memfd(3)).map(drop);
                assert_eq!(refused, Err(Errno::NOMEM), "{attacker:?}");
                wait_until("its pages to be given back", || pages.free() == 4);
                assert_eq!(used(), 0, "{attacker:?}");
                let fits = reserved(&memfd(1)).expect("one page fits");
                assert_eq!((used(), pages.free()), (1, 3), "{attacker:?}");
                drop(fits);
                wait_until("its page to be given back", || pages.free() == 4);
            });
        })
        .ok();
        drop(cgroup);
        if !before.split_whitespace().any(|name| name == "hugetlb") {
            std::fs::write(&control, "-hugetlb").expect("no other cgroup has limits");
        }
    });
}

/// Signals interrupt neither the reservation of huge pages for a time, nor for good.
#[test]
fn reserved_huge_pages_are_there_in_spite_of_signals() {
    isolated(|| {
        let Some(pages) = HugePages::reserve(8) else {
            return;
        };
        let memfd = || memory(8 * HugePages::SIZE, HUGE_2M, SEALS);
        handle_signal(libc::SIGALRM, 0);
        interrupt_every(200);
        for _ in 0..scaled(50) {
            drop(reserved(&memfd()).expect("there are enough"));
            wait_until("its pages to be given back", || pages.free() == 8);
        }
        interrupt_every(0);
    });
}

/// Pages that are reserved, and that nobody has written yet, are not taken back when memory is short.
#[test]
fn reserved_pages_survive_reclaim() {
    const LEN: usize = 4 << 20;
    isolated(|| {
        as_each_attacker(|attacker| {
            let memfd = memory(LEN, 0, SEALS);
            let segment = reserved(&memfd).expect("there is memory");
            assert_eq!(allocated(&memfd), LEN as u64, "{attacker:?}");
            let mapped = segment.map(0, LEN, R).expect("to read");
            (0..LEN).step_by(PAGE).for_each(|at| _ = mapped.get(at));
            let out = [mapped.as_ptr() as usize, LEN, libc::MADV_PAGEOUT as usize];
            call(libc::SYS_madvise, out).expect("it is mapped");
            // This machine has no swap.
            assert_eq!(allocated(&memfd), LEN as u64, "{attacker:?}");
        });
    });
}
