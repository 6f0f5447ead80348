//! The guided tour: what postbox does, shown with real processes, each promise beside what came of it. It fails if
//! anything came out differently from what was promised.

use std::error::Error;
use std::fmt::Debug;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use postbox::uring::Driver;
use postbox::{
    Admin, Capacity, Endpoint, ErrorKind, Grantee, Latch, Link, Mailbox, Mapping, Options, Pipe,
    Pool, Port, Receiver, Rights, Ring, Segment, Semaphore, SendError, Sender, Wait,
};
use postbox_bench::{Case, Plan, Transport, Work, measure};
use postbox_tests::{
    ALICE, BOB, Child, Errno, Exit, Gate, Handle, LONG, Ledger, RW, User, sleep_forever, spawn,
    spawn_as, wait_until, watch,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One thing that is shown.
struct Scene {
    title: &'static str,
    promise: &'static str,
    show: fn(&mut Notes) -> Result<()>,
}

const SCENES: [Scene; 21] = [
    Scene {
        title: "producer and consumer",
        promise: "every message once, in order, never more inside than the mailbox holds",
        show: producer_and_consumer,
    },
    Scene {
        title: "blocking and non-blocking",
        promise: "all four combinations of send and receive, each with its outcome",
        show: four_combinations,
    },
    Scene {
        title: "rendezvous at its limit",
        promise: "send returns only when a receiver has the message",
        show: rendezvous,
    },
    Scene {
        title: "bounded at its limit",
        promise: "a full mailbox makes senders wait, or says so",
        show: bounded,
    },
    Scene {
        title: "unbounded at its limit",
        promise: "the sender never waits; the user's quota ends it",
        show: unbounded,
    },
    Scene {
        title: "a worker dies",
        promise: "a job that was taken and not acknowledged is done by another",
        show: worker_dies,
    },
    Scene {
        title: "the last peer dies",
        promise: "who waits for it is told, and not left waiting",
        show: last_peer_dies,
    },
    Scene {
        title: "who sent what",
        promise: "the kernel says who sent, and the sender cannot",
        show: identity,
    },
    Scene {
        title: "permission denied",
        promise: "the object's mode decides who may send and receive",
        show: permissions,
    },
    Scene {
        title: "Z after X and Y",
        promise: "X and Y run in parallel, and Z when both are done, not before",
        show: z_after_x_and_y,
    },
    Scene {
        title: "a port that both bind",
        promise: "two processes that bind port 5001 talk; a third is refused; it frees itself",
        show: port,
    },
    Scene {
        title: "direct messages",
        promise: "to a process by its pid; from anyone, or from one alone while others' wait",
        show: direct,
    },
    Scene {
        title: "connections",
        promise: "a server accepts clients by name, knows who they are, and each has its own link",
        show: connections,
    },
    Scene {
        title: "a server dies in a call",
        promise: "every call gets one reply, or is told why not; a late reply reaches nobody",
        show: server_dies,
    },
    Scene {
        title: "a pipe with a name",
        promise: "a shell pipeline through it; the reader finds the end, the writer a broken pipe",
        show: named_pipe,
    },
    Scene {
        title: "a holder dies",
        promise: "what it had of a semaphore is given back, and the next one is told",
        show: holder_dies,
    },
    Scene {
        title: "an image without a copy",
        promise: "1 MiB through three processes, each of which reads where the first one wrote",
        show: image,
    },
    Scene {
        title: "a lender dies",
        promise: "every block of a killed process comes back, and what it sent still arrives",
        show: lender_dies,
    },
    Scene {
        title: "shared memory",
        promise: "P1 allocates and grants, P2 attaches; both update it, and who is not granted cannot",
        show: shared_memory,
    },
    Scene {
        title: "a ring",
        promise: "records stream through shared memory, and the kernel is called for few of them",
        show: ring,
    },
    Scene {
        title: "through io_uring",
        promise: "a hundred receives wait at once in one thread; what is cancelled loses nothing",
        show: through_io_uring,
    },
];

/// What was observed in a scene.
#[derive(Default)]
struct Notes {
    wrong: usize,
    /// For the table at the end.
    summary: String,
}

impl Notes {
    /// Tells what happens.
    fn tell(&self, text: &str) {
        println!("     {text}");
    }

    /// Compares what was observed with what was promised.
    fn expect<T: PartialEq + Debug>(&mut self, what: &str, promised: T, observed: T) {
        if promised == observed {
            println!("  ok {what}: {observed:?}");
        } else {
            self.wrong += 1;
            println!(" BAD {what}: {observed:?}, and promised was {promised:?}");
        }
    }
}

fn main() -> ExitCode {
    // A hang must end.
    let _watch = watch("a scene");
    match postbox::version() {
        Ok(version) => println!(
            "postbox, ABI {}: a tour in {} scenes",
            version.abi,
            SCENES.len()
        ),
        Err(error) => {
            eprintln!("postbox-tour: {error}");
            return ExitCode::FAILURE;
        }
    }
    let start = Instant::now();
    let mut table = Vec::new();
    for (number, scene) in SCENES.iter().enumerate() {
        println!("\n{}. {}: {}", number + 1, scene.title, scene.promise);
        let mut notes = Notes::default();
        match catch_unwind(AssertUnwindSafe(|| (scene.show)(&mut notes))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                notes.wrong += 1;
                println!(" BAD the scene ended early: {error}");
            }
            // The panic's message was printed.
            Err(_) => notes.wrong += 1,
        }
        table.push((scene, notes));
    }

    println!("\n{:<31}observed", "scene");
    let mut wrong = 0;
    for (scene, notes) in &table {
        wrong += usize::from(notes.wrong > 0);
        let verdict = if notes.wrong == 0 { "ok" } else { "BAD" };
        println!("{:<27}{verdict:<4}{}", scene.title, notes.summary);
        println!("{:<27}    promised: {}", "", scene.promise);
    }
    let measured = match ratios() {
        Ok(()) => true,
        Err(error) => {
            println!(" BAD the measurements failed: {error}");
            false
        }
    };
    println!(
        "\n{} of {} scenes came out as promised, in {:.0} s.",
        table.len() - wrong,
        table.len(),
        start.elapsed().as_secs_f64()
    );
    if wrong == 0 && measured {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A new mailbox of that name. The handle looks on: it is neither a sender nor a receiver.
fn make(name: &str, capacity: Capacity) -> Result<Admin> {
    Ok(new(capacity).open_admin(name)?)
}

fn new(capacity: Capacity) -> Options {
    let mut options = Mailbox::options();
    options.create_new(true).capacity(capacity);
    options
}

fn waiting_senders(admin: &Admin, count: u32) {
    wait_until(&format!("{count} waiting senders"), || {
        admin.info().is_ok_and(|info| info.waiting_senders == count)
    });
}

fn waiting_receivers(admin: &Admin, count: u32) {
    wait_until(&format!("{count} waiting receivers"), || {
        admin
            .info()
            .is_ok_and(|info| info.waiting_receivers == count)
    });
}

fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

/// What a send came to, and the payload that a failure gives back.
fn sent(result: std::result::Result<(), SendError<&str>>) -> String {
    match result {
        Ok(()) => "sent".into(),
        Err(SendError { payload, error, .. }) => {
            format!("{:?}, '{payload}' given back", error.kind)
        }
    }
}

fn received(result: postbox::Result<postbox::Message>) -> String {
    match result {
        Ok(message) => format!("received '{}'", text(&message)),
        Err(error) => format!("{:?}", error.kind),
    }
}

fn yes_or_no(answer: bool) -> &'static str {
    if answer { "yes" } else { "no" }
}

/// What a child's work came to.
fn well(exit: Exit) -> &'static str {
    if exit == Exit::Code(0) {
        "came through"
    } else {
        "failed"
    }
}

fn producer_and_consumer(notes: &mut Notes) -> Result<()> {
    const COUNT: u64 = 500;
    const NAME: &str = "tour/jobs";
    let mailbox = make(NAME, Capacity::Bounded(4))?;
    let ledger = Ledger::new(2);
    let consumer = spawn(|| {
        let jobs = Receiver::open(NAME).expect("open to receive");
        for job in &jobs {
            let job = job.expect("receive");
            let number = u64::from_le_bytes(job.payload.try_into().expect("eight bytes"));
            let count = ledger[0].fetch_add(1, SeqCst);
            if number == count {
                ledger[1].fetch_add(1, SeqCst);
            }
        }
    });
    waiting_receivers(&mailbox, 1);
    notes.tell(&format!(
        "process {} receives, and waits: the mailbox is empty",
        consumer.pid()
    ));
    let producer = spawn(|| {
        let jobs = Sender::open(NAME).expect("open to send");
        for number in 0..COUNT {
            jobs.send(number.to_le_bytes()).expect("send");
        }
    });
    notes.tell(&format!(
        "process {} sends {COUNT} messages to {NAME:?}, which holds 4",
        producer.pid()
    ));
    producer.ok();
    notes.expect(
        "the consumer finds the end when the producer is gone",
        "came through",
        well(consumer.wait()),
    );
    let (count, ordered) = (ledger[0].load(SeqCst), ledger[1].load(SeqCst));
    let info = mailbox.info()?;
    notes.expect("messages received", COUNT, count);
    notes.expect("of them in order", COUNT, ordered);
    notes.expect(
        "were there never more than 4 inside",
        "yes",
        yes_or_no(info.high_messages <= 4),
    );
    notes.expect("left over", 0, info.messages + info.unacknowledged);
    notes.summary = format!(
        "{count} of {COUNT} received, in order; at most {} inside",
        info.high_messages
    );
    Ok(())
}

fn four_combinations(notes: &mut Notes) -> Result<()> {
    const NAME: &str = "tour/four";
    let mailbox = make(NAME, Capacity::Bounded(1))?;
    let (sender, receiver) = (Sender::open(NAME)?, Receiver::open(NAME)?);
    let receives = |expected: &'static str| {
        spawn(move || {
            let message = Receiver::open(NAME)
                .and_then(|mailbox| mailbox.recv())
                .expect("receive");
            assert_eq!(text(&message), expected);
        })
    };
    let sends = |payload: &'static str| {
        spawn(move || {
            Sender::open(NAME)
                .expect("open")
                .send(payload)
                .expect("send")
        })
    };
    let mut outcomes = Vec::new();

    notes.tell("a mailbox that holds 1 message");
    let child = receives("one");
    waiting_receivers(&mailbox, 1);
    sender.send("one")?;
    let outcome = well(child.wait());
    notes.expect(
        "blocking send, blocking receive: the receiver waited, and was woken with the message",
        "came through",
        outcome,
    );
    outcomes.push(outcome == "came through");

    sender.send("two")?;
    let child = sends("three");
    waiting_senders(&mailbox, 1);
    let first = received(receiver.try_recv());
    let outcome = well(child.wait());
    let second = received(receiver.try_recv());
    let observed = [first, outcome.into(), second];
    let promised = ["received 'two'", "came through", "received 'three'"].map(String::from);
    outcomes.push(observed == promised);
    notes.expect(
        "blocking send, non-blocking receive: the sender waited for room, and got it",
        promised,
        observed,
    );

    let child = receives("four");
    waiting_receivers(&mailbox, 1);
    let outcome = [sent(sender.try_send("four")), well(child.wait()).into()];
    let promised = ["sent", "came through"].map(String::from);
    outcomes.push(outcome == promised);
    notes.expect(
        "non-blocking send, blocking receive: handed to the receiver that waited",
        promised,
        outcome,
    );

    let observed = [
        received(receiver.try_recv()),
        sent(sender.try_send("five")),
        sent(sender.try_send("six")),
        received(receiver.try_recv()),
    ];
    let promised = ["Empty", "sent", "Full, 'six' given back", "received 'five'"].map(String::from);
    outcomes.push(observed == promised);
    notes.expect(
        "non-blocking send, non-blocking receive: nobody waits",
        promised,
        observed,
    );
    notes.summary = format!(
        "{} of 4 as promised",
        outcomes.iter().filter(|well| **well).count()
    );
    Ok(())
}

fn rendezvous(notes: &mut Notes) -> Result<()> {
    const NAME: &str = "tour/meet";
    let mailbox = make(NAME, Capacity::Rendezvous)?;
    let receiver = Receiver::open(NAME)?;
    let returned = Ledger::new(1);
    let child = spawn(|| {
        Sender::open(NAME).expect("open").send("now").expect("send");
        returned[0].store(1, SeqCst);
    });
    waiting_senders(&mailbox, 1);
    notes.expect(
        "has send returned before anybody received",
        "no",
        yes_or_no(returned[0].load(SeqCst) == 1),
    );
    notes.expect(
        "the receiver gets",
        "received 'now'".into(),
        received(receiver.recv_timeout(LONG)),
    );
    child.ok();
    notes.expect(
        "and after that",
        "yes",
        yes_or_no(returned[0].load(SeqCst) == 1),
    );

    let sender = Sender::open(NAME)?;
    let nobody = sent(sender.try_send("anybody?"));
    notes.expect(
        "non-blocking send while nobody receives",
        "Full, 'anybody?' given back".into(),
        nobody.clone(),
    );
    let child = spawn(|| drop(Receiver::open(NAME).expect("open").recv().expect("receive")));
    waiting_receivers(&mailbox, 1);
    notes.expect(
        "non-blocking send while somebody does",
        "sent".into(),
        sent(sender.try_send("anybody?")),
    );
    child.ok();
    let start = Instant::now();
    let late = sent(sender.send_timeout("hello?", Duration::from_millis(20)));
    notes.expect(
        "send with a timeout of 20 ms",
        "Timeout, 'hello?' given back".into(),
        late,
    );
    notes.expect(
        "did it wait that long",
        "yes",
        yes_or_no(start.elapsed() >= Duration::from_millis(20)),
    );
    notes.summary = "send waited for the receiver; without one: Full, and Timeout".into();
    Ok(())
}

fn bounded(notes: &mut Notes) -> Result<()> {
    const NAME: &str = "tour/three";
    let mailbox = make(NAME, Capacity::Bounded(3))?;
    let (sender, receiver) = (Sender::open(NAME)?, Receiver::open(NAME)?);
    let outcomes: Vec<String> = ["a", "b", "c", "d"]
        .map(|payload| sent(sender.try_send(payload)))
        .into();
    let promised = ["sent", "sent", "sent", "Full, 'd' given back"]
        .map(String::from)
        .to_vec();
    notes.expect("four sends to a mailbox for three", promised, outcomes);
    let child = spawn(|| Sender::open(NAME).expect("open").send("e").expect("send"));
    waiting_senders(&mailbox, 1);
    notes.expect(
        "a blocking send waits; inside are",
        3,
        mailbox.info()?.messages,
    );
    notes.expect(
        "somebody receives",
        "received 'a'".into(),
        received(receiver.try_recv()),
    );
    notes.expect(
        "and the sender that waited",
        "came through",
        well(child.wait()),
    );
    let rest: Vec<String> = receiver.try_iter().map(received).collect();
    notes.expect(
        "the rest, in order",
        ["b", "c", "e"]
            .map(|text| format!("received '{text}'"))
            .to_vec(),
        rest,
    );
    notes.summary =
        "3 accepted, the fourth: Full; a blocking sender waited until there was room".into();
    Ok(())
}

/// What a child of another user found, in words of a ledger.
fn as_user(user: User, f: impl FnOnce(&Ledger)) -> Result<[u64; 4]> {
    let found = Ledger::new(4);
    let child = spawn_as(user, || f(&found));
    match child.wait() {
        Exit::Code(0) => Ok([0, 1, 2, 3].map(|i| found[i].load(SeqCst))),
        other => Err(format!("the process of user {} ended with {other:?}", user.uid).into()),
    }
}

fn unbounded(notes: &mut Notes) -> Result<()> {
    const SIZE: usize = 1 << 20;
    notes.tell(&format!(
        "user {} sends messages of 1 MiB that nobody receives",
        ALICE.uid
    ));
    let [accepted, ended, max, after] = as_user(ALICE, |found| {
        let mailbox = new(Capacity::Unbounded)
            .anonymous()
            .expect("make a mailbox");
        let payload = vec![1; SIZE];
        let error = loop {
            match mailbox.send(&payload) {
                Ok(()) => found[0].fetch_add(1, SeqCst),
                Err(error) => break error.error,
            };
        };
        found[1].store(u64::from(error.kind == ErrorKind::Quota), SeqCst);
        found[2].store(postbox::usage().expect("usage").bytes_max, SeqCst);
        drop(mailbox);
        found[3].store(postbox::usage().expect("usage").bytes, SeqCst);
    })?;
    notes.tell(&format!(
        "{accepted} were accepted; the quota is {} MiB",
        max >> 20
    ));
    notes.expect("did the quota end it", "yes", yes_or_no(ended == 1));
    notes.expect(
        "all that the quota allows was accepted",
        max / SIZE as u64,
        accepted,
    );
    notes.expect("the user's bytes once the mailbox is gone", 0, after);
    notes.summary = format!("{accepted} MiB accepted without waiting, then: Quota");
    Ok(())
}

fn worker_dies(notes: &mut Notes) -> Result<()> {
    const NAME: &str = "tour/work";
    let mailbox = make(NAME, Capacity::Bounded(8))?;
    let sender = Sender::open(NAME)?;
    for job in ["job 1", "job 2", "job 3"] {
        sender.send(job)?;
    }
    let taken = Gate::new();
    let victim = spawn(|| {
        let jobs = Receiver::open(NAME).expect("open");
        let job = jobs.take().expect("take");
        assert_eq!(text(&job), "job 1");
        taken.open(1);
        // In the middle of the job.
        sleep_forever();
    });
    taken.pass();
    notes.tell(&format!(
        "process {} has taken job 1 and works on it",
        victim.pid()
    ));
    let info = mailbox.info()?;
    notes.expect(
        "messages waiting, and taken without acknowledgement",
        (2, 1),
        (info.messages, info.unacknowledged),
    );
    let jobs = Receiver::open(NAME)?;
    notes.tell("kill -9");
    victim.destroy();
    let info = mailbox.info()?;
    notes.expect("and now", (3, 0), (info.messages, info.unacknowledged));
    let mut done = Vec::new();
    for _ in 0..3 {
        let job = jobs.take_timeout(LONG)?;
        let mark = if job.redelivered {
            " (redelivered)"
        } else {
            ""
        };
        done.push(format!("{}{mark}", text(&job)));
        job.ack()?;
    }
    let promised = ["job 1 (redelivered)", "job 2", "job 3"]
        .map(String::from)
        .to_vec();
    notes.expect("another worker does", promised, done.clone());
    let info = mailbox.info()?;
    notes.expect(
        "accepted, done for good, redelivered",
        (3, 3, 1),
        (info.sent, info.received, info.redelivered),
    );
    notes.summary = format!("killed in job 1; another did {}", done.join(", "));
    Ok(())
}

fn last_peer_dies(notes: &mut Notes) -> Result<()> {
    const NAME: &str = "tour/alone";
    let mailbox = make(NAME, Capacity::Bounded(1))?;
    let open = Gate::new();
    let victim = spawn(|| {
        let _receiver = Receiver::open(NAME).expect("open");
        open.open(1);
        sleep_forever();
    });
    open.pass();
    let told = Ledger::new(1);
    let child = spawn(|| {
        let sender = Sender::open(NAME).expect("open");
        sender.send("fits").expect("there is room for one");
        let error = sender.send("waits").expect_err("nobody received");
        told[0].store(u64::from(error.error.is_disconnected()), SeqCst);
    });
    waiting_senders(&mailbox, 1);
    notes.tell("a sender waits for room; kill -9 to the only receiver");
    victim.destroy();
    notes.expect("the sender comes back", "came through", well(child.wait()));
    notes.expect(
        "was it told that nobody is there",
        "yes",
        yes_or_no(told[0].load(SeqCst) == 1),
    );
    notes.summary = "the waiting sender woke with: Disconnected".into();
    Ok(())
}

fn identity(notes: &mut Notes) -> Result<()> {
    const NAME: &str = "tour/signed";
    let receiver = new(Capacity::Bounded(8)).mode(0o622).open(NAME)?;
    let stay = Gate::new();
    let mut seen = Vec::new();
    for (user, claim) in [(ALICE, "I am root"), (BOB, "I am alice")] {
        let child: Child = spawn_as(user, || {
            Sender::open(NAME).expect("open").send(claim).expect("send");
            stay.pass();
        });
        let message = receiver.recv_timeout(LONG)?;
        let sender = message.sender;
        notes.tell(&format!("a message says {:?}", text(&message)));
        notes.expect(
            "the kernel says: user, group, process",
            (user.uid, user.gid, child.pid()),
            (sender.uid, sender.gid, sender.pid),
        );
        notes.expect(
            "is that process there, and the very one that sent",
            "yes",
            yes_or_no(sender.verify().is_ok()),
        );
        stay.open(1);
        child.ok();
        notes.expect(
            "is that so when it has ended",
            "no",
            yes_or_no(sender.verify().is_ok()),
        );
        seen.push(sender.uid.to_string());
    }
    notes.summary = format!(
        "messages of users {}, whatever they said",
        seen.join(" and ")
    );
    Ok(())
}

fn permissions(notes: &mut Notes) -> Result<()> {
    const NAME: &str = "tour/private";
    let ready = Gate::new();
    let (changed, go, end) = (Gate::new(), Gate::new(), Gate::new());
    let owner = spawn_as(ALICE, || {
        let _mailbox = new(Capacity::Bounded(8))
            .open(NAME)
            .expect("make a mailbox");
        ready.open(1);
        go.pass();
        Admin::open(NAME)
            .expect("the owner")
            .set_mode(0o602)
            .expect("the owner");
        changed.open(1);
        end.pass();
    });
    ready.pass();
    // 1: allowed, 2: denied.
    let tries = || {
        as_user(BOB, |found| {
            let outcome = |result: postbox::Result<()>| match result {
                Ok(()) => 1,
                Err(error) if error.is_denied() => 2,
                Err(error) => panic!("{error}"),
            };
            found[0].store(outcome(Sender::open(NAME).map(drop)), SeqCst);
            found[1].store(outcome(Receiver::open(NAME).map(drop)), SeqCst);
            found[2].store(outcome(Admin::open(NAME).map(drop)), SeqCst);
            found[3].store(outcome(postbox::unlink(NAME)), SeqCst);
        })
        .map(|found| found.map(|found| if found == 1 { "allowed" } else { "denied" }))
    };
    notes.tell(&format!(
        "user {} makes a mailbox of mode 0600; user {} tries",
        ALICE.uid, BOB.uid
    ));
    notes.expect(
        "to send, to receive, to change it, to remove it",
        ["denied"; 4],
        tries()?,
    );
    go.open(1);
    changed.pass();
    notes.tell("its owner sets the mode to 0602");
    let now = tries()?;
    notes.expect(
        "to send, to receive, to change it, to remove it",
        ["allowed", "denied", "denied", "denied"],
        now,
    );
    end.open(1);
    owner.ok();
    notes.summary = "0600: all denied to another user; 0602: may send, nothing else".into();
    Ok(())
}

fn z_after_x_and_y(notes: &mut Notes) -> Result<()> {
    const NAME: &str = "tour/x-and-y";
    // Who does what, in the order in which it happened.
    let log = Ledger::new(4);
    let write = |what: u64| {
        let place = log[0].fetch_add(1, SeqCst) as usize + 1;
        log[place].store(what, SeqCst);
    };
    let letter = |place: usize| ["", "X", "Y", "Z"][log[place].load(SeqCst) as usize];
    let done = Latch::options().create_new(true).count(2).open(NAME)?;
    let z = spawn(|| {
        let done = Latch::open(NAME).expect("open");
        done.wait().expect("wait for X and Y");
        write(3);
    });
    wait_until("Z to wait", || {
        done.info().is_ok_and(|info| info.waiting_receivers == 1)
    });
    notes.tell(&format!(
        "a latch that counts 2; process {} waits for it, to run Z",
        z.pid()
    ));
    // Each goes on only when the other runs: they are at it at the same time.
    let (x_runs, y_runs) = (Gate::new(), Gate::new());
    let work = |what: u64, mine: &Gate, other: &Gate| {
        let done = Latch::open(NAME).expect("open");
        let part = done.join().expect("say that this process counts");
        mine.open(1);
        other.pass();
        write(what);
        part.count_down().expect("count down");
    };
    let x = spawn(|| work(1, &x_runs, &y_runs));
    let y = spawn(|| work(2, &y_runs, &x_runs));
    notes.tell(&format!(
        "process {} runs X, process {} runs Y",
        x.pid(),
        y.pid()
    ));
    notes.expect(
        "X, which waits for Y to run",
        "came through",
        well(x.wait()),
    );
    notes.expect(
        "Y, which waits for X to run",
        "came through",
        well(y.wait()),
    );
    notes.expect("Z", "came through", well(z.wait()));
    notes.expect("what was done last", "Z", letter(3));
    let order = [1, 2, 3].map(letter).join(", ");

    // And if one of them never does its part?
    let broken = Latch::options().create_new(true).count(1).anonymous()?;
    let joined = Gate::new();
    let victim = spawn(|| {
        let _part = broken.join().expect("say that this process counts");
        joined.open(1);
        sleep_forever();
    });
    joined.pass();
    notes.tell("another latch, and kill -9 to the process that was to count it down");
    victim.destroy();
    let outcome = broken.wait_timeout(LONG).map_err(|error| error.kind);
    notes.expect("who waits is told", Err(ErrorKind::OwnerDied), outcome);
    notes.summary = format!("{order}; a participant that dies: OwnerDied");
    Ok(())
}

fn port(notes: &mut Notes) -> Result<()> {
    const PORT: u16 = 5001;
    let said = Ledger::new(2);
    let finish = Gate::new();
    let bind = |word: &'static str, of_other: &'static str, index: usize| {
        let (said, finish) = (&said, &finish);
        spawn(move || {
            let link = Port::bind_timeout(PORT, LONG).expect("bind the port");
            link.send(word).expect("send");
            let heard = link.recv().expect("receive");
            said[index].store(u64::from(&*heard == of_other.as_bytes()), SeqCst);
            finish.pass();
        })
    };
    let first = bind("hello from the first", "hello from the second", 0);
    first.wait_asleep();
    notes.tell(&format!(
        "process {} binds port {PORT} and waits: nobody else is there",
        first.pid()
    ));
    let second = bind("hello from the second", "hello from the first", 1);
    notes.tell(&format!("process {} binds it, too", second.pid()));
    let heard = || said[0].load(SeqCst) + said[1].load(SeqCst);
    wait_until("both to hear", || heard() == 2);
    notes.expect("how many heard the other", 2, heard());
    notes.expect(
        "a third process",
        Some(ErrorKind::AddressInUse),
        Port::try_bind(PORT).err().map(|error| error.kind),
    );
    notes.tell("kill -9 to one of the two");
    second.destroy();
    finish.open(1);
    notes.expect("the other", "came through", well(first.wait()));
    let free = Port::open(PORT).map(drop);
    notes.expect("and the port is free again", Ok(()), free);
    notes.summary = "both heard each other; the third: AddressInUse; free after a death".into();
    Ok(())
}

fn direct(notes: &mut Notes) -> Result<()> {
    let own = Endpoint::own()?;
    let me = std::process::id();
    notes.tell(&format!("process {me} opens its endpoint"));
    let (open, go) = (Gate::new(), Gate::new());
    let friend = spawn(|| {
        let own = Endpoint::own().expect("its own");
        open.open(1);
        // Symmetric: both name each other.
        let message = own.recv_from(me).expect("receive from the parent");
        assert_eq!(&*message, b"to you alone");
        go.pass();
        Endpoint::send_to(me, "from the friend").expect("send");
    });
    open.pass();
    Endpoint::send_to(friend.pid(), "to you alone")?;
    let others: Vec<Child> = ["first stranger", "second stranger"]
        .map(|word| {
            let child = spawn(|| Endpoint::send_to(me, word).expect("send"));
            wait_until("the message", || {
                own.info().is_ok_and(|info| info.messages > 0)
            });
            child
        })
        .into();
    for other in others {
        other.ok();
    }
    notes.tell("two strangers have sent to it already");
    let from = friend.pid();
    go.open(1);
    notes.expect(
        "symmetric: received from the friend alone",
        "received 'from the friend'".into(),
        received(own.recv_from_with(from, Wait::Timeout(LONG))),
    );
    friend.ok();
    let rest: Vec<String> = own.try_iter().map(received).collect();
    let promised = ["first stranger", "second stranger"].map(|word| format!("received '{word}'"));
    notes.expect(
        "asymmetric: received from anyone, in the order in which they came",
        promised.to_vec(),
        rest,
    );
    notes.expect(
        "from the friend, who is gone now",
        "Gone".into(),
        received(own.recv_from_with(from, Wait::Forever)),
    );
    notes.summary = "the friend's message first, the strangers' after it, in order".into();
    Ok(())
}

fn connections(notes: &mut Notes) -> Result<()> {
    const NAME: &str = "tour/service";
    let listener = Link::options().mode(0o666).listen(NAME)?;
    let mut seen = Vec::new();
    for user in [ALICE, BOB] {
        let client = spawn_as(user, || {
            let link = Link::connect(NAME).expect("connect");
            let answer = link.call("who am I?").expect("call");
            assert_eq!(text(&answer), format!("user {}", user.uid));
        });
        let link = listener.accept_timeout(LONG)?;
        let peer = link.peer()?;
        notes.expect(
            "the kernel says who connected: user, process",
            (user.uid, client.pid()),
            (peer.uid, peer.pid),
        );
        link.recv_request_timeout(LONG)?
            .reply(format!("user {}", peer.uid))
            .map_err(|error| error.error)?;
        notes.expect(
            "the client has its reply",
            "came through",
            well(client.wait()),
        );
        let end = link.recv_timeout(LONG).map(drop);
        notes.expect(
            "and its link ends with it",
            Err(ErrorKind::Disconnected),
            end.map_err(|error| error.kind),
        );
        seen.push(peer.uid.to_string());
    }
    notes.summary = format!(
        "clients of users {}, each on its own link",
        seen.join(" and ")
    );
    Ok(())
}

fn server_dies(notes: &mut Notes) -> Result<()> {
    const NAME: &str = "tour/server";
    let admin = make(NAME, Capacity::Bounded(8))?;
    let took = Gate::new();
    let server = spawn(|| {
        let requests = Receiver::open(NAME).expect("open");
        let mut request = requests.recv_request().expect("receive");
        let sum: u32 = text(&request)
            .split('+')
            .map(|n| n.parse().unwrap_or(0))
            .sum();
        request
            .reply_recv(sum.to_string())
            .expect("reply, and receive the next");
        // Dropped: no reply.
        drop(request);
        let _request = requests.recv_request().expect("receive");
        took.open(1);
        sleep_forever();
    });
    waiting_receivers(&admin, 1);
    let client = Sender::open(NAME)?;
    notes.expect(
        "a call of '2+3'",
        "received '5'".into(),
        received(client.call("2+3")),
    );
    notes.expect(
        "a request that the server drops",
        "Dropped".into(),
        received(client.call("nonsense")),
    );
    let told = Ledger::new(1);
    let caller = spawn(|| {
        let error = Sender::open(NAME)
            .expect("open")
            .call("4+5")
            .expect_err("nobody replies");
        told[0].store(u64::from(error.kind == ErrorKind::ServerDied), SeqCst);
    });
    took.pass();
    notes.tell("the server works on '4+5'; kill -9");
    server.destroy();
    notes.expect("the caller comes back", "came through", well(caller.wait()));
    notes.expect(
        "was it told that the server died",
        "yes",
        yes_or_no(told[0].load(SeqCst) == 1),
    );

    let requests = Receiver::open(NAME)?;
    let caller = spawn(|| {
        let client = Sender::open(NAME).expect("open");
        let late = client.call_timeout("6+7", Duration::from_millis(20));
        assert_eq!(late.expect_err("too late").kind, ErrorKind::Timeout);
    });
    let mut request = requests.recv_request_timeout(LONG)?;
    caller.ok();
    let late = request.reply("13").map_err(|error| error.error.kind);
    notes.expect(
        "a reply to a caller whose time was up",
        Err(ErrorKind::Stale),
        late,
    );
    notes.summary = "'5'; Dropped; ServerDied; Timeout, and the late reply: Stale".into();
    Ok(())
}

fn named_pipe(notes: &mut Notes) -> Result<()> {
    const PIPELINE: &str = "printf 'three\\none\\ntwo\\n' | postbox pipe tour/lines --write & \
                            postbox pipe tour/lines --read | sort; wait";
    notes.tell(&format!("$ {PIPELINE}"));
    let output = Command::new("sh").args(["-c", PIPELINE]).output()?;
    notes.expect(
        "it prints",
        "one\nthree\ntwo\n".into(),
        text(&output.stdout),
    );
    notes.expect("and says nothing else", String::new(), text(&output.stderr));

    let (reader, mut writer) = Pipe::pair()?;
    let before = writer.capacity()?;
    notes.expect("its capacity can be set", 4096, writer.set_capacity(4096)?);
    notes.expect(
        "what fits is written at once",
        4096,
        writer.try_write(&[0; 5000])?,
    );
    drop(reader);
    notes.expect(
        "written to without a reader, and no signal",
        Some(std::io::ErrorKind::BrokenPipe),
        writer.write_all(b"x").err().map(|error| error.kind()),
    );
    notes.summary = format!("three lines sorted; {before} bytes by default; BrokenPipe at the end");
    Ok(())
}

fn holder_dies(notes: &mut Notes) -> Result<()> {
    let semaphore = Semaphore::options().initial(1).maximum(1).anonymous()?;
    let held = Gate::new();
    let victim = spawn(|| {
        let _held = semaphore.acquire().expect("acquire");
        held.open(1);
        sleep_forever();
    });
    held.pass();
    notes.tell(&format!("process {} holds a semaphore of 1", victim.pid()));
    notes.expect(
        "another one tries",
        Some(ErrorKind::NotYet),
        semaphore.try_acquire().err().map(|error| error.kind),
    );
    let told = Ledger::new(1);
    let next = spawn(|| {
        let guard = semaphore.acquire().expect("acquire");
        told[0].store(u64::from(guard.owner_died()), SeqCst);
    });
    wait_until("the next to wait", || {
        semaphore
            .info()
            .is_ok_and(|info| info.waiting_receivers == 1)
    });
    notes.tell("a third waits for it; kill -9 to the holder");
    victim.destroy();
    notes.expect("who waits gets it", "came through", well(next.wait()));
    notes.expect("was it told", "yes", yes_or_no(told[0].load(SeqCst) == 1));
    notes.expect("its value in the end", 1, semaphore.value()?);
    notes.summary = "given back; the next one knew that its holder had died".into();
    Ok(())
}

fn ring(notes: &mut Notes) -> Result<()> {
    const COUNT: u64 = 100_000;
    let (sender, receiver) = Ring::options().capacity(1 << 16).pair()?;
    let mut consumer = receiver.attach()?;
    let producer = spawn(|| {
        let mut producer = sender.attach().expect("attach");
        let mut record = [0; 64];
        for number in 0..COUNT {
            record[..8].copy_from_slice(&number.to_le_bytes());
            producer.send(&record).expect("send");
        }
        // It is killed with a record that it has not finished.
        let mut half = producer.reserve(64).expect("room");
        half.write(b"half a");
        // SAFETY: no pointers.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    });
    notes.tell(&format!(
        "process {} streams {COUNT} records of 64 bytes, and is killed",
        producer.pid()
    ));
    let (mut received, mut ordered) = (0, 0);
    let end = loop {
        let record = match consumer.recv() {
            Ok(record) => record,
            Err(error) => break error.kind,
        };
        let mut number = [0; 8];
        record.read_at(0, &mut number);
        ordered += u64::from(u64::from_le_bytes(number) == received);
        received += 1;
    };
    notes.expect("records received", COUNT, received);
    notes.expect("of them in order", COUNT, ordered);
    notes.expect("and then", ErrorKind::OwnerDied, end);
    let info = receiver.info()?;
    // Doorbells of either side, and sleeps.
    let calls = info.sent + info.received + info.redelivered + info.full;
    notes.expect(
        "was the kernel called for less than a record in twenty",
        "yes",
        yes_or_no(calls < COUNT / 20),
    );
    notes.summary = format!("{received} records, {calls} calls of the kernel; the end was told");
    Ok(())
}

fn through_io_uring(notes: &mut Notes) -> Result<()> {
    const COUNT: usize = 100;
    let threads = || std::fs::read_dir("/proc/self/task").map(Iterator::count);
    let before = threads()?;
    let driver = Driver::new()?;
    let (mut senders, mut receivers) = (Vec::new(), Vec::new());
    for _ in 0..COUNT {
        let (sender, receiver) = Mailbox::options().anonymous()?.split()?;
        senders.push(sender);
        receivers.push(driver.attach(receiver));
    }
    let mut receives: Vec<_> = receivers.iter().map(|receiver| receiver.recv()).collect();
    driver.submit()?;
    let mut waiting = 0;
    for sender in &senders {
        waiting += sender.info()?.waiting_receivers;
    }
    notes.expect("receives that wait in their mailboxes", 100, waiting);
    notes.expect("threads that were started for them", 0, threads()? - before);

    let last = receives.pop().ok_or("there are a hundred")?;
    last.cancel();
    notes.expect(
        "the last one is cancelled",
        Err(ErrorKind::Cancelled),
        last.wait().map(drop).map_err(|error| error.kind),
    );
    let sending = spawn(|| {
        // To the last first, for whom nobody waits any more.
        for (number, sender) in senders.iter().enumerate().rev() {
            sender.send([number as u8]).expect("send");
        }
    });
    let mut own = 0;
    for (number, receive) in receives.into_iter().enumerate() {
        own += usize::from(receive.wait()?.payload == [number as u8]);
    }
    notes.expect("the others have their own message", COUNT - 1, own);
    notes.expect("their sender", "came through", well(sending.wait()));
    let kept = receivers[COUNT - 1].recv().wait()?.payload;
    notes.expect(
        "what came for the cancelled one is there",
        vec![COUNT as u8 - 1],
        kept,
    );

    // A stream of messages by one command.
    let (sender, receiver) = (senders.remove(0), receivers.remove(0));
    let buffers = driver.buffers(16, 64)?;
    let mut messages = receiver.messages(&buffers);
    let streaming = spawn(|| {
        for number in 0..1000_u32 {
            sender.send(number.to_le_bytes()).expect("send");
        }
    });
    drop(sender);
    let (mut received, mut ordered, mut named) = (0_u32, 0, 0);
    while received < 1000 {
        let message = messages.wait_next().ok_or("too few")??;
        ordered += u32::from(*message == received.to_le_bytes());
        named += u32::from(message.sender.pid == streaming.pid());
        received += 1;
    }
    notes.expect("a thousand more in order, by one command", 1000, ordered);
    notes.expect("with who sent them", 1000, named);
    notes.expect("their sender", "came through", well(streaming.wait()));
    notes.summary =
        format!("{COUNT} receives at once in a thread; {received} messages by one command");
    Ok(())
}

fn image(notes: &mut Notes) -> Result<()> {
    const MIB: usize = 1 << 20;
    let images = Pool::options().anonymous(8, MIB)?;
    let [raw, done] = [
        Mailbox::options().anonymous()?,
        Mailbox::options().anonymous()?,
    ];
    let places = Ledger::new(3);
    let note = |who: usize, place: usize| places[who].store(place as u64, SeqCst);
    let camera = spawn(|| {
        let mut image = images.loan(MIB).expect("a block");
        note(0, image.as_mut_ptr() as usize);
        let line = vec![10; 4096];
        for offset in (0..MIB).step_by(line.len()) {
            image.write(offset, &line).expect("it fits");
        }
        raw.send_buffer(image).expect("send");
    });
    let filter = spawn(|| {
        let mut shipment = raw.recv_buffers(&images).expect("receive");
        let image = shipment.buffers.pop().expect("an image");
        let mut image = image.try_into_loan().expect("nobody else has it");
        note(1, image.as_mut_ptr() as usize);
        let mut line = [0; 4096];
        for offset in (0..MIB).step_by(2 * line.len()) {
            image.read(offset, &mut line).expect("it is there");
            line.iter_mut().for_each(|pixel| *pixel *= 2);
            image.write(offset, &line).expect("it fits");
        }
        done.send_buffer(image).expect("send");
    });
    notes.tell("one process makes an image, another works on it, and this one looks at it");
    let shipment = done.recv_buffers(&images)?;
    notes.expect(
        "the other two",
        ["came through"; 2],
        [well(camera.wait()), well(filter.wait())],
    );
    let image = &shipment.buffers[0];
    note(2, image.as_ptr() as usize);
    let mut lines = [[0; 4]; 2];
    image.read(0, &mut lines[0])?;
    image.read(MIB - 4, &mut lines[1])?;
    notes.expect("its first and its last line", [[20; 4], [10; 4]], lines);
    let places = [0, 1, 2].map(|who| places[who].load(SeqCst));
    notes.expect(
        "where it is in memory, for all three",
        [places[0]; 3],
        places,
    );
    notes.expect("bytes that the messages carried", 0, shipment.len());
    drop(shipment);
    images.flush();
    notes.expect("free blocks in the end", 8, images.info()?.value);
    notes.summary =
        "1 MiB written once, changed and read in its place; 0 bytes copied by messages".into();
    Ok(())
}

fn lender_dies(notes: &mut Notes) -> Result<()> {
    let pool = Pool::options().keep(0).anonymous(16, 4096)?;
    let jobs = Mailbox::options().anonymous()?;
    let holds = Gate::new();
    let victim = spawn(|| {
        let mut last = pool.loan(4).expect("a block");
        last.write(0, b"last").expect("it fits");
        jobs.send_buffer(last).expect("send");
        let _held: Vec<_> = (0..5).map(|_| pool.loan(4096).expect("a block")).collect();
        holds.open(1);
        // In the middle of its work.
        sleep_forever();
    });
    holds.pass();
    let info = pool.info()?;
    notes.tell(&format!(
        "process {} holds 5 of 16 blocks, and has sent one",
        victim.pid()
    ));
    notes.expect(
        "free, held, and under way",
        (10, 5, 1),
        (info.value, info.unacknowledged, info.messages),
    );
    notes.tell("kill -9");
    victim.destroy();
    let info = pool.info()?;
    notes.expect(
        "and now",
        (15, 0, 1),
        (info.value, info.unacknowledged, info.messages),
    );
    let shipment = jobs.recv_buffers(&pool)?;
    notes.expect(
        "what it sent",
        "last".into(),
        text(&shipment.buffers[0].to_vec()),
    );
    drop(shipment);
    notes.expect("free blocks in the end", 16, pool.info()?.value);
    notes.summary = "killed with 5 of 16 blocks: the pool was whole again at once".into();
    Ok(())
}

fn shared_memory(notes: &mut Notes) -> Result<()> {
    const EACH: u64 = 1000;
    let segment = Segment::options()
        .admin(true)
        .create_new("tour/table", 4096)?;
    let lock = Semaphore::options()
        .initial(1)
        .maximum(1)
        .mode(0o666)
        .create_new(true)
        .open("tour/table-lock")?;
    notes.tell("P1 makes a segment that its mode gives to nobody else, and a semaphore of 1");
    let mapping = segment.attach()?;
    // One number at a time, read and written back: without the lock, some of it would be lost.
    let update = |mapping: &Mapping, lock: &Semaphore| -> postbox::Result<()> {
        for _ in 0..EACH {
            let _held = lock.acquire()?;
            let total: u64 = mapping.get(0)?;
            std::thread::yield_now();
            mapping.put(0, &(total + 1))?;
        }
        Ok(())
    };
    let (ready, go) = (Gate::new(), Gate::new());
    let told = Ledger::new(3);
    let second = spawn_as(ALICE, || {
        let denied = Segment::open("tour/table").is_err_and(|error| error.is_denied());
        told[0].store(denied.into(), SeqCst);
        ready.open(1);
        go.pass();
        let mapping = Segment::open("tour/table").expect("it is granted");
        let mapping = mapping.attach().expect("it is granted");
        let lock = Semaphore::open("tour/table-lock").expect("its mode");
        update(&mapping, &lock).expect("update");
        ready.open(1);
        go.pass();
        let denied = Segment::open("tour/table").is_err_and(|error| error.is_denied());
        told[1].store(denied.into(), SeqCst);
        told[2].store(mapping.get(0).expect("it stays"), SeqCst);
    });
    ready.pass();
    notes.expect(
        "P2, another user's, opens it",
        "denied",
        if told[0].load(SeqCst) == 1 {
            "denied"
        } else {
            "opened"
        },
    );
    segment.grant(Grantee::Pid(second.pid()), Rights::SEND | Rights::RECEIVE)?;
    notes.tell(&format!(
        "P1 grants it to process {} alone; both add 1, {EACH} times each, under the semaphore",
        second.pid()
    ));
    go.open(1);
    update(&mapping, &lock)?;
    ready.pass();
    notes.expect("the sum that both see", 2 * EACH, mapping.get(0)?);
    segment.revoke(Grantee::Pid(second.pid()))?;
    mapping.put(0, &7_u64)?;
    go.open(1);
    notes.expect("P2 ends", "came through", well(second.wait()));
    notes.expect(
        "after the grant is taken back, P2 opens it",
        "denied",
        if told[1].load(SeqCst) == 1 {
            "denied"
        } else {
            "opened"
        },
    );
    notes.expect("what P2 has mapped stays", 7, told[2].load(SeqCst));
    let reader = Handle(segment.reader()?.into());
    notes.expect(
        "a handle that only reads is mapped to write",
        Some(Errno::ACCESS),
        reader.map(0, 4096, RW).err(),
    );
    notes.summary = format!(
        "{} of two processes; denied before and after the grant",
        2 * EACH
    );
    Ok(())
}

/// A few figures beside those of a pipe and a POSIX queue.
fn ratios() -> Result<()> {
    println!(
        "\nmeasured in this machine, one CPU, medians; below 1 is faster than postbox. Emulated time says little:"
    );
    println!("`make bench-count` counts instructions");
    let plan = Plan {
        windows: 5,
        rounds: 200,
    };
    for case in [
        Case::new(Work::RoundTrip, 64),
        Case::new(Work::RoundTrip, 1024),
        Case::new(Work::Queued, 64),
        Case::new(Work::Call, 64),
    ] {
        let own = measure(case, Transport::Postbox, plan)?.median;
        let pipe = measure(case, Transport::Pipe, plan)?.median / own;
        let queue = measure(case, Transport::Mq, plan)?.median / own;
        println!(
            "  {:<50} {:>9.1} us   pipe {pipe:.2}   POSIX queue {queue:.2}",
            case.title(),
            own / 1000.0
        );
    }
    Ok(())
}
