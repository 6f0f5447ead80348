//! Guarantee 9: files travel in messages, close-on-exec, counted; rights only shrink.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use postbox::raw::{self, ReceivedFd, SendFd};
use postbox::{
    Capacity, ErrorKind, Link, Listener, Mailbox, Parcel, Receiver, Rights, Sender, Wait, sys,
};
use postbox_tests::{Errno, LONG, check, inode, isolated, readable, spawn, unique};

use crate::typed::{close_copy, join, kind, mailbox, sides};

fn files_in_flight() -> u64 {
    postbox::usage().expect("it tells").files
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("proc is there")
        .count()
}

fn memfd(content: &[u8]) -> File {
    // SAFETY: a name that ends in NUL.
    let fd = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: a descriptor that was just made, owned by nobody else.
    let mut file = unsafe { File::from_raw_fd(check("memfd_create", fd)) };
    file.write_all(content).expect("there is memory");
    file
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("descriptors")
}

fn limit_descriptors(max: u64) {
    let limit = libc::rlimit {
        rlim_cur: max,
        rlim_max: 1024,
    };
    // SAFETY: a valid limit.
    check("setrlimit", unsafe {
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
    });
}

/// Receives, with room for that many bytes and files.
fn raw_recv(
    fd: impl AsFd,
    room: usize,
    fd_max: u32,
) -> (rustix::io::Result<Vec<ReceivedFd>>, sys::postbox_recv) {
    let mut buffer = vec![MaybeUninit::uninit(); room];
    let mut files = Vec::new();
    let mut args = sys::postbox_recv {
        flags: sys::POSTBOX_NONBLOCK,
        fd_max,
        ..Default::default()
    };
    let result = raw::recv_files(fd, &mut buffer, &mut files, &mut args).map(drop);
    (result.map(|()| files), args)
}

fn raw_send(fd: impl AsFd, files: &[SendFd<'_>]) -> rustix::io::Result<()> {
    let args = sys::postbox_send {
        flags: sys::POSTBOX_NONBLOCK,
        ..Default::default()
    };
    raw::send_files(fd, b"x", files, &args)
}

#[test]
fn g09_a_file_arrives_as_a_new_descriptor_that_is_closed_on_exec() {
    isolated(|| {
        let (tx, rx) = sides(Capacity::Bounded(4));
        let child = spawn(|| {
            close_copy(&rx);
            let file = memfd(b"content");
            tx.send_parcel(Parcel::new("a file").attach(&file), Wait::Forever)
                .expect("room");
            // The message has its own reference: the sender may be gone.
        });
        child.ok();
        drop(tx);
        assert_eq!(files_in_flight(), 1);
        let mut message = rx.recv().expect("sent");
        assert_eq!((&*message, message.files.len()), (&b"a file"[..], 1));
        assert_eq!(files_in_flight(), 0);
        let fd = message.files.remove(0);
        // SAFETY: no pointers.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags, libc::FD_CLOEXEC);
        let mut file = File::from(fd);
        let mut content = String::new();
        file.seek(SeekFrom::Start(0)).expect("it is a file");
        file.read_to_string(&mut content).expect("it can be read");
        assert_eq!(content, "content");
    });
}

#[test]
fn g09_files_keep_their_order_and_their_state() {
    isolated(|| {
        let mailbox = mailbox(Capacity::Bounded(4));
        let files: Vec<_> = (0..64u8).map(|i| memfd(&[i; 3])).collect();
        let mut parcel = Parcel::new("");
        for file in &files {
            parcel.attach(file);
        }
        mailbox.send_parcel(&parcel, Wait::Never).expect("room");
        parcel.attach(&files[0]);
        let too_many = mailbox.send_parcel(&parcel, Wait::Never);
        assert_eq!(kind(too_many), ErrorKind::TooManyFiles);
        let entries = vec![SendFd::new(files[0].as_fd(), 0); 65];
        assert_eq!(raw_send(&mailbox, &entries), Err(Errno::INVAL));
        let received = mailbox.recv().expect("sent");
        assert_eq!(received.files.len(), 64);
        for (sent, received) in files.iter().zip(received.files) {
            assert_eq!(inode(sent.as_raw_fd()), inode(received.as_raw_fd()));
            // It is the same open file: the position is shared.
            let mut received = File::from(received);
            assert_eq!(received.stream_position().expect("it is a file"), 3);
        }
    });
}

#[test]
fn g09_files_of_every_kind() {
    isolated(|| {
        let mailbox = mailbox(Capacity::Bounded(4));
        let (read, write) = pipe();
        let device = raw::device().expect("the module is loaded");
        mailbox
            .send_parcel(Parcel::new("").attach(&write).attach(&device), Wait::Never)
            .expect("room");
        drop((write, device));
        let mut files = mailbox.recv().expect("sent").files;
        let unbound = files.pop().expect("two");
        assert_eq!(raw::info(&unbound).map(drop), Err(Errno::BADFD));
        rustix::io::write(files.pop().expect("two"), b"y").expect("a pipe");
        assert!(readable(&read, LONG));
    });
}

#[test]
fn g09_files_travel_by_every_way_that_messages_do() {
    isolated(|| {
        let (tx, rx) = sides(Capacity::Bounded(4));
        let file = memfd(b"x");
        let send = || {
            let mut parcel = Parcel::new("m");
            tx.send_parcel(parcel.attach(&file), Wait::Never)
        };
        let same = |files: &[OwnedFd]| {
            assert_eq!(files.len(), 1);
            assert_eq!(inode(files[0].as_raw_fd()), inode(file.as_raw_fd()));
        };
        send().expect("room");
        same(&rx.recv_into(&mut [0; 8]).expect("sent").files);

        // In the middle of a batch.
        tx.try_send("before").expect("room");
        send().expect("room");
        tx.try_send("after").expect("room");
        let mut messages = Vec::new();
        while messages.len() < 3 {
            rx.recv_many(&mut messages, 8, Wait::Never).expect("three");
        }
        assert_eq!(&*messages[0], b"before");
        same(&messages[1].files);
        assert_eq!(&*messages[2], b"after");

        // To be acknowledged: they come again until they are.
        send().expect("room");
        for redelivered in [false, true] {
            let delivery = rx.try_take().expect("it is there");
            assert_eq!(delivery.redelivered, redelivered);
            same(&delivery.files);
        }
        let message = rx.try_take().expect("it is there").ack().expect("ours");
        same(&message.files);
        assert_eq!(files_in_flight(), 0);

        // With a request, and with its reply.
        let servant = thread::spawn(move || {
            let mut request = rx.recv_request().expect("somebody calls");
            let files = std::mem::take(&mut request.files);
            let mut reply = Parcel::new("back");
            request
                .reply_parcel(reply.attach(&files[0]).attach(&files[0]))
                .expect("it waits");
        });
        let mut request = Parcel::new("there");
        let reply = tx
            .call_parcel(request.attach(&file), Wait::Forever)
            .expect("it answers");
        join(servant);
        assert_eq!((&*reply, reply.files.len()), (&b"back"[..], 2));
        same(&reply.files[..1]);

        // Through a link, and met in a rendezvous.
        let (near, far) = Link::options()
            .capacity(Capacity::Rendezvous)
            .pair()
            .expect("a link");
        let receives = thread::spawn(move || far.recv().expect("sent").files);
        let mut parcel = Parcel::new("");
        near.send_parcel(parcel.attach(&file), Wait::Forever)
            .expect("it receives");
        same(&join(receives));
    });
}

#[test]
fn g09_a_handle_of_reduced_rights() {
    isolated(|| {
        let (tx, rx) = sides(Capacity::Bounded(4));
        let other = mailbox(Capacity::Bounded(4));
        tx.send_parcel(
            Parcel::new("")
                .attach_with_rights(&other, Rights::SEND)
                .attach(&other),
            Wait::Never,
        )
        .expect("room");
        assert_eq!(other.info().expect("bound").senders, 2, "a new handle");
        let (files, _) = raw_recv(&rx, 8, 8);
        let files = files.expect("sent");
        let rights: Vec<_> = files.iter().map(|file| file.rights).collect();
        let both = (Rights::SEND | Rights::RECEIVE).bits();
        assert_eq!(rights, [Rights::SEND.bits(), both]);
        let mut files = files.into_iter().map(|file| file.fd);
        let sender = Sender::try_from(files.next().expect("two")).expect("it only sends");
        sender.send("x").expect("room");
        assert_eq!(
            raw::recv(&sender, &mut [0; 8], &mut sys::postbox_recv::default()),
            Err(Errno::ACCESS)
        );
        let whole = Mailbox::try_from(files.next().expect("two")).expect("it has both");
        assert_eq!(&*whole.recv().expect("sent"), b"x");

        // Rights only shrink.
        let entry = |fd, rights: Rights| [SendFd::new(fd, rights.bits())];
        assert_eq!(
            raw_send(&tx, &entry(sender.as_fd(), Rights::RECEIVE)),
            Err(Errno::ACCESS)
        );
        assert_eq!(
            raw_send(&tx, &entry(sender.as_fd(), Rights::all())),
            Err(Errno::ACCESS)
        );
        // Files of others have none of these.
        let file = memfd(b"x");
        assert_eq!(
            raw_send(&tx, &entry(file.as_fd(), Rights::SEND)),
            Err(Errno::INVAL)
        );
        assert_eq!(rx.info().expect("bound").messages, 0);
        assert_eq!(files_in_flight(), 0);
    });
}

#[test]
fn g09_a_send_that_fails_leaves_nothing_behind() {
    isolated(|| {
        let (tx, rx) = sides(Capacity::Bounded(1));
        let (read, write) = pipe();
        let open = open_descriptors();
        let bad = |fds: u64, fd_count| {
            let mut args = sys::postbox_send {
                size: size_of::<sys::postbox_send>() as u32,
                flags: sys::POSTBOX_NONBLOCK,
                fds,
                fd_count,
                ..Default::default()
            };
            // SAFETY: the request takes this struct; its pointers are to nothing mapped, or to the entries that the
            // caller has.
            unsafe { raw::ioctl(&tx, sys::POSTBOX_SEND, &mut args) }
        };
        let entry = |fd| sys::postbox_fd { fd, rights: 0 };
        let entries = [entry(write.as_raw_fd()), entry(-1), entry(9999)];
        for (first, error) in [(0, Errno::BADF), (1, Errno::BADF), (2, Errno::BADF)] {
            assert_eq!(
                bad((&raw const entries[first]) as u64, (3 - first) as u32),
                Err(error)
            );
        }
        assert_eq!(bad(8, 1), Err(Errno::FAULT));
        assert_eq!(bad(0, 1), Err(Errno::FAULT));
        assert_eq!(bad(8, 0), Ok(()), "nothing is read");
        assert_eq!(rx.recv().expect("sent").len(), 0);
        // And where there is no room for the message.
        tx.send("fills it").expect("room");
        let entries = [SendFd::new(write.as_fd(), 0)];
        assert_eq!(raw_send(&tx, &entries), Err(Errno::AGAIN));
        let timeout = Wait::Timeout(Duration::from_millis(5));
        let mut parcel = Parcel::new("");
        let late = tx.send_parcel(parcel.attach(&write), timeout);
        assert_eq!(kind(late), ErrorKind::Timeout);
        drop(rx);
        assert_eq!(raw_send(&tx, &entries), Err(Errno::PIPE));
        assert_eq!(open_descriptors(), open - 1);
        assert_eq!(files_in_flight(), 0);
        drop(write);
        assert!(
            readable(&read, Duration::ZERO) || {
                use rustix::event::{PollFd, PollFlags, poll};
                let mut fds = [PollFd::new(&read, PollFlags::empty())];
                poll(&mut fds, Some(&rustix::time::Timespec::default())).expect("polled");
                fds[0].revents().contains(PollFlags::HUP)
            }
        );
    });
}

#[test]
fn g09_a_message_whose_files_do_not_fit_stays() {
    isolated(|| {
        let (tx, rx) = sides(Capacity::Bounded(1));
        let file = memfd(b"x");
        let entries = [SendFd::new(file.as_fd(), 0); 3];
        raw_send(&tx, &entries).expect("room");
        let open = open_descriptors();
        for (room, fd_max) in [(8, 0), (8, 2), (0, 3), (0, 0)] {
            let (result, args) = raw_recv(&rx, room, fd_max);
            assert_eq!(result.map(drop), Err(Errno::MSGSIZE));
            assert_eq!((args.msg_len, args.fd_count), (1, 3), "what is needed");
        }
        // An array that cannot be written.
        let mut byte = 0u8;
        for fds in [0, 8] {
            let mut args = sys::postbox_recv {
                size: size_of::<sys::postbox_recv>() as u32,
                data: (&raw mut byte) as u64,
                len: 1,
                fds,
                fd_max: 3,
                ..Default::default()
            };
            // SAFETY: the request takes this struct and writes one byte to `byte`; nothing is mapped at the array.
            let result = unsafe { raw::ioctl(&rx, sys::POSTBOX_RECV, &mut args) };
            assert_eq!(result, Err(Errno::FAULT));
        }
        assert_eq!(open_descriptors(), open, "none was left open");
        assert_eq!(files_in_flight(), 3);
        let (result, args) = raw_recv(&rx, 8, 3);
        assert_eq!(result.expect("it stayed").len(), 3);
        assert_eq!((args.msg_len, args.fd_count), (1, 3));
    });
}

#[test]
fn g09_a_receiver_without_free_descriptors_leaves_the_message() {
    isolated(|| {
        let (tx, rx) = sides(Capacity::Bounded(4));
        let file = memfd(b"x");
        let entries = [SendFd::new(file.as_fd(), 0); 3];
        raw_send(&tx, &entries).expect("room");
        let open = open_descriptors();
        // Room for two of the three, and then for none.
        for spare in [2, 0] {
            let fds: Vec<_> = (0..64).map_while(|_| file.try_clone().ok()).collect();
            let lowest = fds.iter().map(AsRawFd::as_raw_fd).max().expect("some") as u64 + 1;
            limit_descriptors(lowest + spare);
            assert_eq!(kind(rx.try_recv()), ErrorKind::NoDescriptors);
            assert_eq!(kind(rx.try_take()), ErrorKind::NoDescriptors);
            limit_descriptors(1024);
            drop(fds);
            assert_eq!(open_descriptors(), open, "none was left open");
            assert_eq!(rx.info().expect("bound").messages, 1);
        }
        assert_eq!(rx.try_recv().expect("it stayed").files.len(), 3);
    });
}

#[test]
fn g09_files_that_nobody_receives_are_closed_with_the_mailbox() {
    isolated(|| {
        let ends = |read: &OwnedFd| {
            let mut byte = [0];
            assert!(rustix::io::read(read, &mut byte) == Ok(0), "nobody has it");
        };
        let (read, write) = pipe();
        let (tx, rx) = sides(Capacity::Bounded(4));
        raw_send(&tx, &[SendFd::new(write.as_fd(), 0)]).expect("room");
        drop(write);
        drop((tx, rx));
        ends(&read);
        // In a reply that nobody waits for.
        let (read, write) = pipe();
        let (tx, rx) = sides(Capacity::Rendezvous);
        let caller = thread::spawn(move || {
            let timeout = Duration::from_millis(20);
            (kind(tx.call_timeout("x", timeout)), tx)
        });
        let got = rx.recv_request();
        let (timed_out, tx) = join(caller);
        assert_eq!(timed_out, ErrorKind::Timeout);
        let mut request = got.expect("it called");
        let mut reply = Parcel::new("");
        let late = request.reply_parcel(reply.attach(&write));
        assert_eq!(kind(late), ErrorKind::Stale);
        drop((write, tx));
        ends(&read);
        // In a request that the server dropped.
        let (read, write) = pipe();
        let (tx, rx) = sides(Capacity::Rendezvous);
        let server = thread::spawn(move || drop(rx.recv_request().expect("it calls")));
        let mut request = Parcel::new("");
        let dropped = tx.call_parcel(request.attach(&write), Wait::Forever);
        assert_eq!(kind(dropped), ErrorKind::Dropped);
        join(server);
        drop(write);
        ends(&read);
        assert_eq!(files_in_flight(), 0);
    });
}

#[test]
fn g09_files_in_closed_persistent_mailbox_are_lost() {
    isolated(|| {
        let name = unique("files");
        let open = |flags| {
            let handle = postbox_tests::Handle::unbound();
            let mut args = sys::postbox_open {
                kind: sys::POSTBOX_KIND_MAILBOX,
                flags,
                rights: postbox_tests::SEND | postbox_tests::RECEIVE,
                mode: 0o600,
                capacity: 4,
                ..Default::default()
            };
            raw::open(&handle, Some(name.as_bytes()), &mut args).expect("it can be opened");
            handle
        };
        let sender = open(sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST);
        let other = open(0);
        let (read, write) = pipe();
        for _ in 0..2 {
            raw_send(&sender, &[SendFd::new(write.as_fd(), 0)]).expect("room");
        }
        drop((write, sender));
        // Another handle keeps them.
        let (files, args) = raw_recv(&other, 8, 1);
        assert_eq!(files.expect("sent").len(), 1);
        assert_eq!(args.msg_flags, 0);
        // A message that was taken and goes back loses its file like one that was never taken.
        let mut taking = sys::postbox_recv {
            flags: sys::POSTBOX_NONBLOCK | sys::POSTBOX_RECV_ACK,
            fd_max: 1,
            ..Default::default()
        };
        let mut files = Vec::new();
        raw::recv_files(
            &other,
            &mut [MaybeUninit::uninit(); 8],
            &mut files,
            &mut taking,
        )
        .expect("sent");
        drop((files, other));
        assert_eq!(rustix::io::read(&read, &mut [0]), Ok(0), "nobody has it");
        let next = open(0);
        let (files, args) = raw_recv(&next, 8, 0);
        assert!(files.expect("the message stays").is_empty());
        assert_eq!((args.msg_len, args.fd_count), (1, 0));
        assert_eq!(
            args.msg_flags,
            sys::POSTBOX_MSG_REDELIVERED | sys::POSTBOX_MSG_FILES_LOST
        );
        assert_eq!(files_in_flight(), 0);
        postbox_tests::unlink(&name).expect("its owner may");
    });
}

#[test]
fn g09_a_queued_handle_keeps_its_object() {
    isolated(|| {
        let (tx, rx) = sides(Capacity::Bounded(4));
        let (sender, receiver) = sides(Capacity::Bounded(4));
        raw_send(&tx, &[SendFd::new(sender.as_fd(), 0)]).expect("room");
        drop(sender);
        assert_eq!(
            kind(receiver.try_recv()),
            ErrorKind::Empty,
            "there is a sender"
        );
        let sender = Sender::try_from(rx.recv().expect("sent").files.remove(0)).expect("one");
        sender.send("x").expect("room");
        drop(sender);
        assert_eq!(&*receiver.recv().expect("sent"), b"x");
        assert_eq!(kind(receiver.recv()), ErrorKind::Disconnected);
        // Where it is queued and never received, it goes with that.
        let (sender, receiver) = sides(Capacity::Bounded(4));
        raw_send(&tx, &[SendFd::new(sender.as_fd(), 0)]).expect("room");
        drop((sender, rx, tx));
        assert_eq!(kind(receiver.recv()), ErrorKind::Disconnected);
    });
}

#[test]
fn g09_a_circle_of_queued_handles_is_refused() {
    isolated(|| {
        let looped = |to: &dyn Fn(&[SendFd<'_>]) -> rustix::io::Result<()>, fd: &dyn AsFd| {
            to(&[SendFd::new(fd.as_fd(), 0)])
        };
        let objects = || postbox::usage().expect("it tells").objects;
        let before = objects();
        {
            let [a, b, c] = [(); 3].map(|()| mailbox(Capacity::Bounded(4)));
            let to = |mailbox: &Mailbox, fd: &dyn AsFd| {
                looped(&|entries| raw_send(mailbox, entries), fd)
            };
            assert_eq!(to(&a, &a), Err(Errno::LOOP));
            let receiver: Receiver = a.receiver().expect("it receives");
            assert_eq!(to(&a, &receiver), Err(Errno::LOOP));
            assert_eq!(
                kind(a.send_parcel(Parcel::new("").attach(&a), Wait::Never)),
                ErrorKind::Loop
            );
            assert_eq!(to(&a, &b), Ok(()));
            assert_eq!(to(&b, &a), Err(Errno::LOOP));
            assert_eq!(to(&b, &c), Ok(()));
            assert_eq!(to(&c, &a), Err(Errno::LOOP));
            // When the message is gone, so is what it stood in the way of.
            a.recv().expect("it is there");
            assert_eq!(to(&c, &a), Ok(()));
            // What is refused leaves nothing.
            assert_eq!(a.info().expect("bound").messages, 0);
            // A link end in its own queue, and in that of its peer.
            let (near, far) = Link::pair().expect("a link");
            let to = |link: &Link, fd: &dyn AsFd| looped(&|entries| raw_send(link, entries), fd);
            assert_eq!(to(&near, &far), Err(Errno::LOOP));
        }
        assert_eq!(objects(), before, "nothing was left");
        assert_eq!(files_in_flight(), 0);
    });
}

#[test]
fn g09_a_circle_through_a_listener_is_refused() {
    isolated(|| {
        let name = unique("circle");
        let listener = Listener::bind(&name).expect("new");
        let client = Link::connect(&name).expect("room");
        // The other end waits in the listener's queue: nobody could accept it any more.
        let mut parcel = Parcel::new("");
        let refused = client.send_parcel(parcel.attach(&listener), Wait::Never);
        assert_eq!(kind(refused), ErrorKind::Loop);
        let server = listener.accept().expect("it waits");
        let mut parcel = Parcel::new("");
        client
            .send_parcel(parcel.attach(&listener), Wait::Never)
            .expect("there is somebody to receive it now");
        drop((client, listener));
        let listener = server.recv().expect("sent").files.remove(0);
        Listener::try_from(listener).expect("it is one");
    });
}

#[test]
fn g09_files_of_io_uring_are_refused() {
    isolated(|| {
        let mut params = [0u8; 120];
        // SAFETY: the params are 120 zeroed bytes, as the call takes them.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
        // SAFETY: a descriptor that was just made, owned by nobody else.
        let ring = unsafe { OwnedFd::from_raw_fd(check("io_uring_setup", fd as i32)) };
        let mailbox = mailbox(Capacity::Bounded(4));
        let entries = [SendFd::new(ring.as_fd(), 0)];
        assert_eq!(raw_send(&mailbox, &entries), Err(Errno::INVAL));
        assert_eq!(mailbox.info().expect("bound").messages, 0);
    });
}

#[test]
fn g09_unix_sockets_are_not_sent() {
    isolated(|| {
        // A handle queued in one, which is queued in the handle's mailbox, would keep itself.
        let mailbox = mailbox(Capacity::Bounded(4));
        let (left, right) = std::os::unix::net::UnixStream::pair().expect("sockets");
        postbox_tests::send_fd(&left, &mailbox);
        let sent = raw_send(&mailbox, &[SendFd::new(right.as_fd(), 0)]);
        assert_eq!(sent, Err(Errno::INVAL));
        assert_eq!(files_in_flight(), 0);
    });
}
