//! Quotas: everything kept is charged, and no identity steps around its share.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Mutex, MutexGuard, PoisonError};

use postbox::{raw, sys};
use postbox_tests::*;

/// Files in one message.
const FILES: u64 = sys::POSTBOX_FILES_MAX as u64;

/// The files that this user may have in messages.
fn files_max() -> u64 {
    raw::usage(Handle::unbound()).expect("it tells").files_max
}

/// Sends as many files as the quota lets; returns how many.
fn fill(mailbox: &Handle) -> u64 {
    let null = fs::File::open("/dev/null").expect("it is there");
    let files = [raw::SendFd::new(null.as_fd(), 0); FILES as usize];
    let args = sys::postbox_send {
        flags: NEVER.0,
        ..Default::default()
    };
    let mut sent = 0;
    loop {
        match raw::send_files(mailbox, b"", &files, &args) {
            Ok(()) => sent += FILES,
            Err(Errno::DQUOT) => return sent,
            Err(error) => panic!("after {sent} files: {error}"),
        }
    }
}

#[test]
fn subordinate_ids_share_the_account_of_their_owner() {
    isolated(|| {
        const IDS: u32 = 6;
        let owner = fresh_user();
        let [unshared, mapped] = [(); 2].map(|()| Gate::new());
        let child = spawn_as(owner, || {
            let max = files_max();
            let mailbox = Handle::anonymous(UNBOUNDED);
            // SAFETY: no pointers.
            check("unshare", unsafe { libc::unshare(libc::CLONE_NEWUSER) });
            unshared.open(1);
            mapped.pass();
            let sent = Ledger::new(IDS as usize);
            for id in 0..IDS {
                let (mailbox, sent) = (&mailbox, &sent);
                spawn(|| {
                    let uid = 1 + id;
                    // SAFETY: no pointers.
                    check("setresuid", unsafe { libc::setresuid(uid, uid, uid) });
                    sent[id as usize].store(fill(mailbox) as _, SeqCst);
                })
                .ok();
            }
            let sent: Vec<_> = (0..IDS as usize).map(|id| sent[id].load(SeqCst)).collect();
            // Each half of all of them, and they half of what all containers of their owner have.
            assert_eq!(sent, [max / 8, max / 8, 0, 0, 0, 0]);
            assert_eq!(fill(&mailbox), max - max / 4, "the rest is the owner's");
        });
        unshared.pass();
        let map = format!("0 {} 1\n1 4000000 {IDS}", owner.uid);
        fs::write(format!("/proc/{}/uid_map", child.pid()), map).expect("root may");
        mapped.open(1);
        child.ok();
    });
}

#[test]
fn containers_leave_their_maker_a_share() {
    isolated(|| {
        spawn_as(fresh_user(), || {
            let max = files_max();
            let [full, end] = [(); 2].map(|()| Gate::new());
            let container = || {
                Spawn::new().user_ns().ipc_ns().run(|| {
                    let mailbox = Handle::anonymous(UNBOUNDED);
                    let may = files_max();
                    assert_eq!((may, fill(&mailbox)), (max / 4, max / 4));
                    full.open(1);
                    end.pass();
                })
            };
            let first = container();
            full.pass();
            // One leaves the next as much as it has.
            let second = container();
            full.pass();
            // All that there can be leave their maker half, as often as it makes others.
            Spawn::new()
                .user_ns()
                .run(|| assert_eq!(fill(&Handle::anonymous(UNBOUNDED)), 0))
                .ok();
            assert_eq!(fill(&Handle::anonymous(UNBOUNDED)), max / 2, "the maker's");
            end.open(2);
            first.ok();
            second.ok();
        })
        .ok();
    });
}

/// The account that all containers of root share is one test's at a time.
static CONTAINERS_OF_ROOT: Mutex<()> = Mutex::new(());

fn containers_of_root() -> MutexGuard<'static, ()> {
    CONTAINERS_OF_ROOT
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Makes this process another user, who keeps the supplementary groups.
fn set_user(uid: u32) {
    // SAFETY: no pointers.
    unsafe {
        check("setresgid", libc::setresgid(uid, uid, uid));
        check("setresuid", libc::setresuid(uid, uid, uid));
        // Changing ids makes /proc/self belong to root; it is needed to map them.
        check("prctl", libc::prctl(libc::PR_SET_DUMPABLE, 1));
    }
}

/// Runs the closure as root of a container of this user, whose ids are those from `base` on, and keeps what it returns
/// until `end` opens.
fn container<T>(maker: User, base: u32, end: &Gate, f: impl FnOnce() -> T) -> Child {
    let [unshared, mapped, done] = [(); 3].map(|()| Gate::new());
    let child = spawn_as(maker, || {
        let namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWIPC;
        // SAFETY: no pointers.
        check("unshare", unsafe { libc::unshare(namespaces) });
        unshared.open(1);
        mapped.pass();
        set_user(0);
        let kept = f();
        done.open(1);
        end.pass();
        drop(kept);
    });
    unshared.pass();
    let map = format!("0 {base} 65536");
    for file in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{file}", child.pid()), &map).expect("root may");
    }
    mapped.open(1);
    done.pass();
    child
}

/// Sends as many files as it can, as each of these users in namespaces of all kinds that it can make, and leaves them in the
/// mailboxes. Returns how many.
fn multiply(mailboxes: &[&Handle], users: &[u32]) -> u64 {
    let sent = Ledger::new(1);
    for &user in users {
        spawn(|| {
            set_user(user);
            let mut kinds = vec![
                Spawn::new(),
                Spawn::new().user_ns(),
                Spawn::new().user_ns().ipc_ns(),
                Spawn::new().user_ns().ipc_ns().pid_ns(),
            ];
            if user == 0 {
                kinds.extend([Spawn::new().ipc_ns(), Spawn::new().ipc_ns().pid_ns()]);
            }
            // Each twice: a single namespace could have half at most.
            for kind in kinds.iter().chain(&kinds) {
                let fill_all = || {
                    for mailbox in mailboxes {
                        sent[0].fetch_add(fill(mailbox), SeqCst);
                    }
                };
                kind.run(fill_all).ok();
            }
        })
        .ok();
    }
    sent[0].load(SeqCst)
}

#[test]
fn namespaces_made_in_a_container_share_its_account() {
    let _guard = containers_of_root();
    isolated(|| {
        let root = User { uid: 0, gid: 0 };
        for maker in [root, fresh_user()] {
            let max = files_max();
            // Of root, all of them have the whole; of another user, half.
            let share = if maker == root { max / 2 } else { max / 4 };
            let end = Gate::new();
            let host = Handle::anonymous(UNBOUNDED);
            let greedy = || {
                let own = Handle::anonymous(UNBOUNDED);
                // Its ids have half of it each.
                assert_eq!(multiply(&[&own, &host], &[0]), share / 2, "{maker:?}");
                assert_eq!(multiply(&[&own, &host], &[1, 2]), share / 2, "{maker:?}");
                own
            };
            let first = container(maker, 100_000_000, &end, greedy);
            let second = container(maker, 200_000_000, &end, greedy);
            if maker != root {
                let rest = || assert_eq!(fill(&host), max / 2, "the maker's");
                spawn_as(maker, rest).ok();
            }
            end.open(2);
            first.ok();
            second.ok();
        }
    });
}

#[test]
fn user_namespaces_made_in_a_pid_namespace_of_root_share_its_account() {
    let _guard = containers_of_root();
    isolated(|| {
        let max = files_max();
        let [full, end] = [(); 2].map(|()| Gate::new());
        let user = fresh_user();
        // As containers are without a user namespace: here, any id is one of the host.
        let container = || {
            Spawn::new().ipc_ns().pid_ns().run(|| {
                let mailbox = Handle::anonymous(UNBOUNDED);
                assert_eq!(multiply(&[&mailbox], &[user.uid]), max / 4);
                assert_eq!(multiply(&[&mailbox], &[0]), max / 4);
                full.open(1);
                end.pass();
            })
        };
        let first = container();
        full.pass();
        let second = container();
        full.pass();
        let host = || assert_eq!(fill(&Handle::anonymous(UNBOUNDED)), max, "the host's");
        spawn_as(user, host).ok();
        end.open(2);
        first.ok();
        second.ok();
    });
}

#[test]
fn containers_of_root_leave_the_host_its_account() {
    let _guard = containers_of_root();
    isolated(|| {
        let [full, end] = [(); 2].map(|()| Gate::new());
        let max = files_max();
        let container = Spawn::new().ipc_ns().run(|| {
            let mailbox = Handle::anonymous(UNBOUNDED);
            assert_eq!(fill(&mailbox), max / 2);
            full.open(1);
            end.pass();
        });
        full.pass();
        let used = raw::usage(Handle::unbound()).expect("it tells").files;
        assert!(used < max / 2, "{used} files are the host's");
        end.open(1);
        container.ok();
    });
}

/// Calls without a payload, with room for so many bytes of the answer.
fn call(mailbox: &Handle, room: usize) -> Result<usize> {
    let mut room = vec![MaybeUninit::uninit(); room];
    let (mut args, mut files) = (sys::postbox_call::default(), Vec::new());
    let answer = raw::call(mailbox, b"", &[], &mut room, &mut files, &mut args);
    answer.map(|answer| answer.len())
}

#[test]
fn answer_is_charged_to_a_caller_that_had_nothing_else() {
    for attacker in Attacker::ALL {
        isolated(|| {
            const LEN: usize = 1 << 20;
            // The caller has no handle of its own, and once its request is received, no message.
            let mailbox = Handle::anonymous(4);
            let caller = attacker.run(|| assert_eq!(call(&mailbox, LEN), Ok(LEN)));
            let token = mailbox.recv(FOREVER).expect("it calls").token;
            let used = |messages, bytes| {
                let user = move || {
                    let usage = Handle::unbound().usage();
                    assert_eq!((usage.0, usage.1), (messages, bytes), "{attacker:?}");
                };
                spawn_as(ALICE, user).ok();
            };
            used(0, 0);
            // Each new account has others looked at, whether they are needed.
            for _ in 0..32 {
                spawn_as(fresh_user(), || drop(Handle::unbound())).ok();
            }
            // Its answer stays where it is as long as the caller is not there to take it.
            caller.kill(libc::SIGSTOP);
            wait_until("the caller to be stopped", || caller.state() == 'T');
            let args = sys::postbox_reply {
                token,
                ..Default::default()
            };
            raw::reply(&mailbox, &[1; LEN], &[], &args).expect("the caller waits");
            if attacker != Attacker::Container {
                // There, another process stands for the caller, which is not stopped.
                used(1, LEN as u64);
            }
            caller.kill(libc::SIGCONT);
            caller.ok();
            used(0, 0);
        });
    }
}

/// Makes this process that of a user, who may open the device.
fn become_user(user: User) {
    let group = device_gid();
    // SAFETY: the pointer and the count describe one group; the other calls have no pointers.
    unsafe {
        check("setgroups", libc::setgroups(1, &group));
        check("setresgid", libc::setresgid(user.gid, user.gid, user.gid));
        check("setresuid", libc::setresuid(user.uid, user.uid, user.uid));
    }
}

/// Receives a message and its files, into a page.
fn receive(mailbox: &Handle, page: &SlowPage) -> Result<usize> {
    // SAFETY: the page is the caller's alone, and lives longer than this.
    let room = unsafe { std::slice::from_raw_parts_mut(page.address() as *mut _, PAGE) };
    let mut files = Vec::new();
    let mut args = sys::postbox_recv {
        fd_max: FILES as u32,
        ..Default::default()
    };
    raw::recv_files(mailbox, room, &mut files, &mut args)?;
    Ok(files.len())
}

#[test]
fn files_of_withdrawn_messages_stay_within_the_quota() {
    isolated(|| {
        let mailbox = Handle::anonymous(0);
        let [copies, withdrawn, refused] = [(); 3].map(|()| Gate::new());
        let hostile = spawn(|| {
            // To make its own pages slow is a privilege here. A file system of the user's own does as well.
            let pages = [(); 2].map(|()| SlowPage::new());
            let faults = [pages[0].fault(), pages[1].fault()];
            faults[1].resolve(&[]);
            become_user(fresh_user());
            let max = files_max();
            let own = Handle::anonymous(UNBOUNDED);
            assert_eq!(fill(&own), max);
            let used = || raw::usage(&own).expect("it tells").files;
            scope(|scope| {
                let first = scope.spawn(|| receive(&mailbox, &pages[0]));
                faults[0].wait();
                assert_eq!(used(), max + FILES, "one copy can always be made");
                copies.open(1);
                withdrawn.pass();
                assert_eq!(used(), max + FILES, "it is the receiver's now");
                assert_eq!(receive(&mailbox, &pages[1]), Err(Errno::DQUOT));
                refused.open(1);
                // Its own was withdrawn, and it takes the next.
                faults[0].resolve(&[]);
                assert_eq!(first.join().expect("it ends"), Ok(FILES as usize));
            });
            assert_eq!(used(), max);
        });
        let null = fs::File::open("/dev/null").expect("it is there");
        let files = [raw::SendFd::new(null.as_fd(), 0); FILES as usize];
        let send = || raw::send_files(&mailbox, b"x", &files, &send_args());
        let sender = spawn_as(fresh_user(), || send().expect("a receiver comes"));
        copies.pass();
        sender.destroy();
        let sender = spawn_as(fresh_user(), || send().expect("a receiver comes"));
        mailbox.wait_senders(1);
        withdrawn.open(1);
        refused.pass();
        sender.ok();
        hostile.ok();
    });
}
