//! Quotas: everything kept is charged, and no identity steps around its share.

use std::fs;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::SeqCst;

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
            // Each half of all of them, and they half of what their owner has.
            assert_eq!(sent, [max / 4, max / 4, 0, 0, 0, 0]);
            assert_eq!(fill(&mailbox), max / 2, "the rest is the owner's");
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
                    assert_eq!((may, fill(&mailbox)), (max / 2, max / 2));
                    full.open(1);
                    end.pass();
                })
            };
            let first = container();
            full.pass();
            let mailbox = Handle::anonymous(UNBOUNDED);
            assert_eq!(fill(&mailbox), max / 2, "the maker's");
            drop(mailbox);
            // Together they have no more than their maker.
            let second = container();
            full.pass();
            assert_eq!(fill(&Handle::anonymous(UNBOUNDED)), 0);
            end.open(2);
            first.ok();
            second.ok();
        })
        .ok();
    });
}

#[test]
fn containers_of_root_leave_the_host_its_account() {
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
