//! Segments: memory that processes map. What can be had of it, and what cannot, also by a peer that tries.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use postbox::{ErrorKind, Pages, Parcel, Rights, Segment, SegmentReader, sys};
use postbox_tests::*;

const SHARED: i32 = libc::MAP_SHARED;
const PRIVATE: i32 = libc::MAP_PRIVATE;

fn make(memfd: &OwnedFd) -> Result<Handle> {
    MakeSegment::default().open(None, Some(memfd))
}

#[test]
fn segment_memory_must_be_a_memfd_whose_size_can_never_change() {
    isolated(|| {
        assert!(make(&memory(PAGE, 0, SEALS)).is_ok());
        for missing in [
            libc::F_SEAL_SHRINK,
            libc::F_SEAL_GROW,
            libc::F_SEAL_SEAL,
            SEALS,
        ] {
            let seals = SEALS & !missing;
            let refused = make(&memory(PAGE, 0, seals)).map(drop);
            assert_eq!(refused, Err(Errno::INVAL), "seals {seals:x}");
        }
        for size in [0, 1, PAGE - 1, PAGE + 1] {
            let refused = make(&memory(size, 0, SEALS)).map(drop);
            assert_eq!(refused, Err(Errno::INVAL), "{size} bytes");
        }
        // Other files that can be mapped, that begin with F_SEAL_SEAL, or that are ours.
        let path = std::env::temp_dir().join("postbox-segment");
        let file = File::create_new(&path).expect("a file");
        file.set_len(PAGE as u64).expect("a page");
        std::fs::remove_file(&path).expect("it is there");
        let zero = File::open("/dev/zero").expect("a device");
        let ours = Handle::segment(1);
        for other in [file.into(), zero.into(), ours.0] {
            assert_eq!(make(&other).map(drop), Err(Errno::INVAL));
        }
        // SAFETY: nothing has that number, and it is not closed.
        let none = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(999) });
        assert_eq!(make(&none).map(drop), Err(Errno::BADF));
    });
}

#[test]
fn segment_memory_is_given_only_to_what_is_made() {
    isolated(|| {
        let name = unique("segment");
        let memfd = memory(PAGE, 0, SEALS);
        let open = MakeSegment {
            flags: 0,
            ..MakeSegment::default()
        };
        assert_eq!(
            open.open(name.as_str(), Some(&memfd)).map(drop),
            Err(Errno::INVAL)
        );
        assert_eq!(open.open(name.as_str(), None).map(drop), Err(Errno::NOENT));
        let keeper = MakeSegment::default()
            .open(name.as_str(), Some(&memfd))
            .expect("the name is new");
        // Who opens what exists opens that, and its own memory is not used.
        let other = memory(2 * PAGE, 0, SEALS);
        let opened = MakeSegment::default()
            .open(name.as_str(), Some(&other))
            .expect("it exists");
        assert_eq!(opened.info().id, keeper.info().id);
        assert_eq!(opened.info().capacity_bytes, PAGE as u64);
        let exclusive = MakeSegment {
            flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_EXCL,
            ..MakeSegment::default()
        };
        assert_eq!(
            exclusive.open(name.as_str(), Some(&other)).map(drop),
            Err(Errno::EXIST)
        );
        assert_eq!(
            Handle::open(&name, SEND).map(drop),
            Err(Errno::OPNOTSUPP),
            "it is no mailbox"
        );
    });
}

#[test]
fn segment_is_the_same_memory_for_all_who_map_it() {
    isolated(|| {
        let name = unique("segment");
        let memfd = memory(3 * PAGE, 0, SEALS);
        let keeper = MakeSegment::default()
            .open(name.as_str(), Some(&memfd))
            .expect("new");
        drop(memfd);
        let info = keeper.info();
        assert_eq!(info.kind, sys::POSTBOX_KIND_SEGMENT);
        assert_eq!(info.capacity_bytes, 3 * PAGE as u64);
        assert_eq!(info.capacity, PAGE as u64);
        assert_eq!((info.senders, info.receivers), (1, 1));
        let mine = keeper.map(0, 3 * PAGE, RW).expect("both rights");
        assert_eq!(mine.get(PAGE), 0, "it begins with zeros");
        let (came, go) = (Gate::new(), Gate::new());
        let child = spawn(|| {
            let handle = Handle::open_segment(&name, SEND | RECEIVE).expect("it is named");
            // A part of it.
            let theirs = handle.map(PAGE, PAGE, RW).expect("both rights");
            theirs.set(0, 41);
            came.open(1);
            go.pass();
            assert_eq!(theirs.get(1), 42);
        });
        came.pass();
        assert_eq!(mine.get(PAGE), 41);
        mine.set(PAGE + 1, 42);
        go.open(1);
        child.ok();
    });
}

#[test]
fn segment_read_only_holds_against_a_peer_that_tries() {
    isolated(|| {
        let name = unique("segment");
        let memfd = memory(2 * PAGE, 0, SEALS);
        let keeper = MakeSegment {
            mode: 0o644,
            ..MakeSegment::default()
        }
        .open(name.as_str(), Some(&memfd))
        .expect("new");
        drop(memfd);
        let mine = keeper.map(0, PAGE, RW).expect("both rights");
        mine.set(0, 7);
        spawn_as(ALICE, || {
            let denied = Handle::open_segment(&name, SEND | RECEIVE).map(drop);
            assert_eq!(denied, Err(Errno::ACCESS), "the mode");
            let handle = Handle::open_segment(&name, RECEIVE).expect("the mode");
            // A writable mapping.
            for prot in [RW, libc::PROT_WRITE] {
                let mapped = handle.map(0, PAGE, prot).map(drop);
                assert_eq!(mapped, Err(Errno::ACCESS));
            }
            // One that is made writable.
            let view = handle.map(0, PAGE, R).expect("the right to read");
            assert_eq!(view.get(0), 7);
            for prot in [RW, libc::PROT_WRITE] {
                assert_eq!(view.protect(prot), Err(Errno::ACCESS));
            }
            let hidden = handle.map(0, PAGE, libc::PROT_NONE).expect("nothing");
            assert_eq!(hidden.protect(RW), Err(Errno::ACCESS));
            assert_eq!(hidden.protect(R), Ok(()));
            // A handle with more rights.
            for rights in [SEND, SEND | RECEIVE, ADMIN | RECEIVE] {
                assert_eq!(handle.dup(rights).map(drop), Err(Errno::ACCESS));
            }
            // The descriptor, opened again.
            let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
            if let Ok(again) = File::options().read(true).write(true).open(&path) {
                // It is a new handle, bound to nothing.
                let again = Handle(again.into());
                assert_eq!(postbox::raw::info(&again).map(drop), Err(Errno::BADFD));
                assert_eq!(again.map(0, PAGE, RW).map(drop), Err(Errno::BADFD));
            }
            // The file behind the mapping.
            let links: Vec<_> = std::fs::read_dir("/proc/self/map_files")
                .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
                .unwrap_or_default();
            let at = format!("{:x}-", view.as_ptr() as usize);
            for link in links.iter().filter(|link| {
                let name = link.file_name().unwrap_or_default();
                name.to_string_lossy().starts_with(&at)
            }) {
                let opened = File::options().write(true).open(link);
                assert!(opened.is_err(), "{link:?} can be opened");
            }
            // The memory, from outside.
            let mut mem = File::options()
                .write(true)
                .open("/proc/self/mem")
                .expect("one's own");
            let at = view.as_ptr() as u64;
            mem.seek(SeekFrom::Start(at)).expect("a place");
            assert!(
                mem.write(&[8]).is_err(),
                "it was written as a debugger would"
            );
            assert!(mem.write_at(&[8], at).is_err());
            let local = libc::iovec {
                iov_base: (&raw const *b"8").cast_mut().cast(),
                iov_len: 1,
            };
            let remote = libc::iovec {
                iov_base: view.as_ptr().cast(),
                iov_len: 1,
            };
            // SAFETY: both describe memory of this process, of which the one is only read, and the other cannot be written.
            let written = unsafe {
                libc::process_vm_writev(std::process::id() as i32, &local, 1, &remote, 1, 0)
            };
            assert_eq!(written, -1);
            // What the kernel writes for it.
            let zero = File::open("/dev/zero").expect("a device");
            // SAFETY: the kernel finds that it cannot be written.
            let read = unsafe { libc::read(zero.as_raw_fd(), view.as_ptr().cast(), 1) };
            assert!(read <= 0, "the kernel wrote it");
            // A store.
            let exit = spawn(|| view.set(0, 8)).wait();
            assert_eq!(exit, Exit::Signal(libc::SIGSEGV));
            // A copy of it may be written, and is nobody else's.
            let copy = Mapped::new(&handle, 0, PAGE, RW, PRIVATE).expect("a copy hurts nobody");
            copy.set(0, 9);
            assert_eq!((copy.get(0), view.get(0)), (9, 7));
        })
        .ok();
        assert_eq!(mine.get(0), 7);
    });
}

#[test]
fn segment_cannot_be_mapped_without_the_right_to_read_or_to_be_executed() {
    isolated(|| {
        let segment = Handle::segment(1);
        let sender = segment.sender();
        for prot in [R, RW, libc::PROT_WRITE, libc::PROT_NONE] {
            assert_eq!(sender.map(0, PAGE, prot).map(drop), Err(Errno::ACCESS));
        }
        let private = Mapped::new(&sender, 0, PAGE, R, PRIVATE).map(drop);
        assert_eq!(private, Err(Errno::ACCESS));
        let exec = R | libc::PROT_EXEC;
        for flags in [SHARED, PRIVATE] {
            let mapped = Mapped::new(&segment, 0, PAGE, exec, flags).map(drop);
            assert_eq!(mapped, Err(Errno::ACCESS));
            let mapped = Mapped::new(&segment, 0, PAGE, R, flags).expect("to read");
            assert_eq!(mapped.protect(exec), Err(Errno::ACCESS));
        }
    });
}

#[test]
fn segment_is_mapped_within_its_bounds() {
    isolated(|| {
        let segment = Handle::segment(4);
        for (offset, len, expected) in [
            (0, 4 * PAGE, Ok(())),
            (3 * PAGE, PAGE, Ok(())),
            (3 * PAGE, 1, Ok(())),
            (0, 4 * PAGE + 1, Err(Errno::INVAL)),
            (PAGE, 4 * PAGE, Err(Errno::INVAL)),
            (4 * PAGE, PAGE, Err(Errno::INVAL)),
            (1 << 40, PAGE, Err(Errno::INVAL)),
            (1, PAGE, Err(Errno::INVAL)),
            (0, 0, Err(Errno::INVAL)),
        ] {
            let mapped = segment.map(offset, len, RW).map(drop);
            assert_eq!(mapped, expected, "{len} bytes from {offset} on");
        }
        let offset = usize::MAX / 2 + 1 - PAGE;
        assert!(segment.map(offset, 2 * PAGE, RW).is_err());
    });
}

#[test]
fn segment_only_memory_can_be_mapped() {
    isolated(|| {
        let unbound = Handle::unbound();
        assert_eq!(unbound.map(0, PAGE, R).map(drop), Err(Errno::BADFD));
        let mailbox = Handle::anonymous(1);
        assert_eq!(mailbox.map(0, PAGE, R).map(drop), Err(Errno::NODEV));
        let semaphore = Handle::semaphore(0, 1);
        assert_eq!(semaphore.map(0, PAGE, RW).map(drop), Err(Errno::NODEV));
        // And a segment is nothing else.
        let segment = Handle::segment(1);
        assert_eq!(segment.send("x", NEVER), Err(Errno::OPNOTSUPP));
        assert_eq!(segment.recv(NEVER), Err(Errno::OPNOTSUPP));
        assert_eq!(segment.acquire(1, 0, NEVER), Err(Errno::OPNOTSUPP));
        assert_eq!(rustix::io::write(&segment, b"x"), Err(Errno::OPNOTSUPP));
        assert_eq!(
            rustix::io::read(&segment, &mut [0; 8]),
            Err(Errno::OPNOTSUPP)
        );
        assert_eq!(segment.ready(), 0, "nothing ever happens to it");
    });
}

#[test]
fn segment_keeps_its_size_whatever_its_maker_does() {
    isolated(|| {
        let memfd = memory(2 * PAGE, 0, SEALS);
        let segment = make(&memfd).expect("it is sealed");
        let reader = segment.receiver();
        let view = reader.map(0, 2 * PAGE, R).expect("the right");
        // SAFETY: no pointers.
        let (shrunk, grown, sealed, cut) = unsafe {
            let fd = memfd.as_raw_fd();
            (
                libc::ftruncate(fd, 0),
                libc::ftruncate(fd, 4 * PAGE as i64),
                libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_WRITE),
                libc::fallocate(
                    fd,
                    libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                    0,
                    PAGE as i64,
                ),
            )
        };
        assert_eq!((shrunk, grown, sealed), (-1, -1, -1));
        // What it may still do makes zeros, and no hole to fall into.
        assert_eq!(cut, 0);
        assert_eq!((view.get(0), view.get(2 * PAGE - 1)), (0, 0));
        assert_eq!(segment.info().capacity_bytes, 2 * PAGE as u64);
    });
}

#[test]
fn segment_frozen_can_be_written_by_nobody() {
    isolated(|| {
        let memfd = memory(PAGE, 0, 0);
        {
            let mapped = Mapped::new(&memfd, 0, PAGE, RW, SHARED).expect("its maker");
            mapped.set(0, 7);
        }
        seal(&memfd, SEALS | libc::F_SEAL_WRITE);
        assert_eq!(make(&memfd).map(drop), Err(Errno::ACCESS), "to write");
        let name = unique("frozen");
        let persistent = MakeSegment {
            flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST,
            ..MakeSegment::default()
        };
        let refused = persistent.open(name.as_str(), Some(&memfd)).map(drop);
        assert_eq!(refused, Err(Errno::ACCESS));
        assert!(!list().contains(&name), "what failed left nothing");
        let read = MakeSegment {
            rights: RECEIVE | ADMIN,
            mode: 0o666,
            ..MakeSegment::default()
        };
        let frozen = read.open(name.as_str(), Some(&memfd)).expect("to read");
        assert_eq!(
            frozen.info().flags & sys::POSTBOX_INFO_FROZEN,
            sys::POSTBOX_INFO_FROZEN
        );
        for rights in [SEND, SEND | RECEIVE] {
            let opened = Handle::open_segment(&name, rights).map(drop);
            assert_eq!(opened, Err(Errno::ACCESS));
        }
        let info = frozen.info();
        assert_eq!(
            (info.senders, info.receivers),
            (0, 1),
            "what failed left nothing"
        );
        assert_eq!(frozen.map(0, PAGE, RW).map(drop), Err(Errno::ACCESS));
        let view = frozen.map(0, PAGE, R).expect("to read");
        assert_eq!(view.protect(RW), Err(Errno::ACCESS));
        assert_eq!(view.get(0), 7);
        // Nor by its maker.
        assert!(Mapped::new(&memfd, 0, PAGE, RW, SHARED).is_err());
        assert!(File::from(memfd).write_at(b"x", 0).is_err());

        let segment = Handle::segment(1);
        assert_eq!(segment.info().flags & sys::POSTBOX_INFO_FROZEN, 0);
    });
}

#[test]
fn segment_memory_that_may_not_be_written_any_more_is_read_only_but_not_frozen() {
    isolated(|| {
        let memfd = memory(PAGE, 0, 0);
        let makers = Mapped::new(&memfd, 0, PAGE, RW, SHARED).expect("its maker");
        seal(&memfd, SEALS | libc::F_SEAL_FUTURE_WRITE);
        assert_eq!(make(&memfd).map(drop), Err(Errno::ACCESS));
        let read = MakeSegment {
            rights: RECEIVE,
            ..MakeSegment::default()
        };
        let segment = read.open(None, Some(&memfd)).expect("to read");
        assert_eq!(segment.info().flags & sys::POSTBOX_INFO_FROZEN, 0);
        let view = segment.map(0, PAGE, R).expect("to read");
        assert_eq!(view.protect(RW), Err(Errno::ACCESS));
        makers.set(3, 9);
        assert_eq!(view.get(3), 9);

        // Who could only read the memfd gets no more through a segment of it.
        let memfd = memory(PAGE, 0, SEALS);
        let path = format!("/proc/self/fd/{}", memfd.as_raw_fd());
        let read_only: OwnedFd = File::open(path).expect("one's own").into();
        assert_eq!(make(&read_only).map(drop), Err(Errno::ACCESS));
        let segment = read.open(None, Some(&read_only)).expect("to read");
        assert_eq!(segment.map(0, PAGE, RW).map(drop), Err(Errno::ACCESS));
        assert!(segment.map(0, PAGE, R).is_ok());
    });
}

#[test]
fn segment_mappings_outlive_handles_and_the_object_does_not() {
    isolated(|| {
        let name = unique("segment");
        let memfd = memory(PAGE, 0, SEALS);
        let segment = MakeSegment::default()
            .open(name.as_str(), Some(&memfd))
            .expect("new");
        drop(memfd);
        let mapped = segment.map(0, PAGE, RW).expect("both rights");
        assert!(list().contains(&name));
        drop(segment);
        assert!(!list().contains(&name), "nobody holds it");
        mapped.set(0, 5);
        assert_eq!(mapped.get(0), 5);
        assert_eq!(
            Handle::open_segment(&name, RECEIVE).map(drop),
            Err(Errno::NOENT)
        );
        // A child has what its parent has mapped.
        spawn(|| mapped.set(1, 6)).ok();
        assert_eq!(mapped.get(1), 6);
    });
}

#[test]
fn segment_that_persists_keeps_its_contents_until_it_is_unlinked() {
    isolated(|| {
        let name = unique("segment");
        let persistent = MakeSegment {
            flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST,
            ..MakeSegment::default()
        };
        spawn(|| {
            let segment = persistent
                .open(name.as_str(), Some(&memory(PAGE, 0, SEALS)))
                .expect("new");
            segment.map(0, PAGE, RW).expect("both rights").set(9, 99);
        })
        .ok();
        let segment = Handle::open_segment(&name, RECEIVE).expect("it persists");
        assert_eq!(segment.map(0, PAGE, R).expect("to read").get(9), 99);
        drop(segment);
        unlink(&name).expect("it has the name");
        let opened = Handle::open_segment(&name, RECEIVE).map(drop);
        assert_eq!(opened, Err(Errno::NOENT));
    });
}

#[test]
fn segment_handles_that_are_sent_have_the_rights_that_were_sent() {
    isolated(|| {
        let mailbox = postbox::Mailbox::options().anonymous().expect("a mailbox");
        let segment = Segment::options().anonymous(1).expect("a segment");
        let mapping = segment.attach().expect("both rights");
        mapping.write(0, b"hi").expect("it has two bytes");
        let mut parcel = Parcel::new("read it");
        parcel.attach_with_rights(&segment, Rights::RECEIVE);
        mailbox
            .send_parcel(&parcel, postbox::Wait::Never)
            .expect("there is room");
        let child = spawn(|| {
            let mut message = mailbox.recv().expect("it was sent");
            let file = message.files.remove(0);
            let reader = SegmentReader::try_from(file).expect("with that right alone");
            let view = reader.attach().expect("it may read");
            assert_eq!(view.get::<[u8; 2]>(0).as_ref(), Ok(b"hi"));
            let raw = Handle(reader.into());
            assert_eq!(raw.map(0, PAGE, RW).map(drop), Err(Errno::ACCESS));
        });
        child.ok();
    });
}

#[test]
fn segment_of_huge_pages() {
    isolated(|| {
        const HUGE: usize = HugePages::SIZE;
        let Some(pages) = HugePages::reserve(6) else {
            return;
        };
        let segment = Segment::options()
            .pages(Pages::Huge2M)
            .anonymous(HUGE as u64 + 1)
            .expect("there are some");
        assert_eq!(segment.size(), Ok(2 * HUGE as u64));
        let mapping = segment.attach().expect("both rights");
        assert_eq!(mapping.as_ptr() as usize % HUGE, 0);
        mapping.write(2 * HUGE - 1, &[9]).expect("in it");
        let view = segment.view().expect("to read");
        assert_eq!(view.get::<u8>(2 * HUGE - 1), Ok(9));
        let part = segment.view_part(HUGE as u64..2 * HUGE as u64);
        let part = part.expect("a page");
        assert_eq!(part.get::<u8>(HUGE - 1), Ok(9));
        let handle = Handle(segment.into());
        assert_eq!(handle.info().capacity, HUGE as u64);
        for (offset, len) in [(0, PAGE), (PAGE, HUGE), (HUGE, 2 * HUGE)] {
            let mapped = handle.map(offset, len, RW).map(drop);
            assert_eq!(mapped, Err(Errno::INVAL), "{len} bytes from {offset} on");
        }
        let private = Mapped::new(&handle, 0, HUGE, R, PRIVATE).map(drop);
        assert_eq!(private, Err(Errno::INVAL));
        let reader = handle.receiver();
        let theirs = reader.map(0, HUGE, R).expect("to read");
        assert_eq!(theirs.protect(RW), Err(Errno::ACCESS));
        assert_eq!(reader.map(0, HUGE, RW).map(drop), Err(Errno::ACCESS));
        // A lock in them, at which somebody waits.
        let shared = mapping.mutex::<u64>(HUGE + 64).expect("a place");
        let guard = shared.lock().expect("it is free");
        let child = spawn(|| {
            let mut guard = shared.lock().expect("it is given up");
            guard.update(|value| *value += 1);
        });
        handle.wait_waiting(1);
        drop(guard);
        child.ok();
        assert_eq!(shared.lock().expect("it is free").get(), 1);

        let frozen = Segment::options()
            .pages(Pages::Huge2M)
            .freeze_anonymous(b"huge")
            .expect("one more page");
        assert!(frozen.frozen().expect("it is").starts_with(b"huge\0"));
        drop((shared, frozen, theirs, reader, part, view));
        drop((mapping, handle));
        wait_until("they to be given back", || pages.free() == 6);
    });
}

#[test]
fn segment_library_copies_in_and_out_within_bounds() {
    isolated(|| {
        let name = unique("segment");
        let segment = Segment::options()
            .create_new(&name, 5000)
            .expect("the name is new");
        assert_eq!(segment.size(), Ok(2 * PAGE as u64));
        assert_eq!(segment.name(), Some(name.as_str()));
        let mapping = segment.attach().expect("both rights");
        assert_eq!(mapping.len(), 2 * PAGE);
        let text = b"across the page";
        mapping.write(PAGE - 5, text).expect("in it");
        let reader = SegmentReader::open(&name).expect("it is there");
        let view = reader.attach().expect("to read");
        let mut read = [0; 15];
        view.read(PAGE - 5, &mut read).expect("in it");
        assert_eq!(&read, text);
        mapping.put(8, &0x0102_0304_u32).expect("in it");
        assert_eq!(view.get::<u32>(8), Ok(0x0102_0304));
        assert_eq!(view.load_u32(8, Ordering::Acquire), Ok(0x0102_0304));
        mapping
            .atomic_u64(16)
            .expect("aligned")
            .store(u64::MAX, Ordering::Release);
        assert_eq!(view.load_u64(16, Ordering::Acquire), Ok(u64::MAX));
        let part = segment
            .attach_part(PAGE as u64..2 * PAGE as u64)
            .expect("a page");
        assert_eq!(part.get::<u8>(0), Ok(b's'));
        // SAFETY: nobody else reads or writes it now.
        unsafe {
            part.slice_mut(100, 3)
                .expect("in it")
                .copy_from_slice(b"abc")
        };
        // SAFETY: as above.
        let slice = unsafe { view.slice(PAGE + 100, 3) };
        assert_eq!(slice.as_deref(), Ok(&b"abc"[..]));

        let kind = |result: postbox::Result<()>| result.expect_err("it is wrong").kind;
        let (end, len) = (2 * PAGE as u64 + 1, 2 * PAGE as u64);
        assert_eq!(
            kind(mapping.write(2 * PAGE, &[1])),
            ErrorKind::OutOfBounds { end, len }
        );
        assert!(view.read(usize::MAX, &mut [0; 2]).is_err());
        assert!(view.get::<u64>(2 * PAGE - 7).is_err());
        let align = 4;
        assert_eq!(
            kind(view.load_u32(2, Ordering::Relaxed).map(drop)),
            ErrorKind::Misaligned { align }
        );
        assert!(mapping.atomic_u64(4).is_err());
        assert!(mapping.mutex::<u64>(4).is_err());
        assert!(mapping.mutex::<u64>(2 * PAGE - 8).is_err());
        assert!(segment.view_part(0..1 << 40).is_err());
        assert!(segment.view_part(1..PAGE as u64).is_err());
        #[allow(clippy::reversed_empty_ranges)]
        let backwards = segment.view_part(8192..4096);
        assert!(backwards.is_err());
        let not = reader.frozen().expect_err("it is not");
        assert_eq!(not.kind, ErrorKind::Unsupported);
        assert!(not.to_string().contains("freeze"), "{not}");
    });
}

#[test]
fn segment_library_frozen_is_bytes_like_any_others() {
    isolated(|| {
        let name = unique("frozen");
        let text = vec![b'z'; PAGE + 10];
        let made = Segment::options()
            .mode(0o644)
            .freeze(&name, &text)
            .expect("the name is new");
        assert!(made.info().expect("it tells").frozen);
        spawn_as(ALICE, || {
            let reader = SegmentReader::open(&name).expect("the mode");
            let frozen = reader.frozen().expect("it is");
            assert_eq!(frozen.len(), 2 * PAGE);
            assert_eq!(frozen[..PAGE + 10], text[..]);
            assert!(frozen[PAGE + 10..].iter().all(|byte| *byte == 0));
        })
        .ok();
        let denied = Segment::open(&name).expect_err("not to write");
        assert!(denied.is_denied());
        assert!(denied.to_string().contains("frozen"), "{denied}");
        // Of a memfd of one's own.
        let memfd = memory(PAGE, 0, SEALS);
        let of: Segment = Segment::options()
            .of_memfd(None, &memfd)
            .expect("it is sealed");
        of.attach()
            .expect("both rights")
            .write(0, b"x")
            .expect("in it");
        let bad = Segment::options()
            .of_memfd::<postbox::SegmentAccess>(None, memory(PAGE, 0, 0))
            .expect_err("it is not sealed");
        assert!(bad.to_string().contains("sealed"), "{bad}");
    });
}
