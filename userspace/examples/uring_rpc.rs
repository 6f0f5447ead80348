//! An RPC server with 10,000 calls in flight, in one thread of the client and one driver on each side.
//!
//! The server answers nothing before it has all of them, so that they are under way at the same time. A
//! handle can owe 4,096 replies; so there are three, which get their requests in turn.
//!
//! `cargo run --example uring_rpc --features uring`, with the module loaded. Both processes are this program.

use postbox::uring::{Attached, Driver, Op, Request};
use postbox::{Capacity, Mailbox, Message, ReceiveOnly, Receiver, Sender};
use std::env;
use std::process::{Command, exit};
use std::sync::Barrier;
use std::thread;

const NAME: &str = "example/uring_rpc";
const CALLS: u32 = 10_000;
/// Of the server.
const HANDLES: usize = 3;

/// Takes a share of the requests, waits until the others have theirs, and answers.
async fn serve(server: Attached<ReceiveOnly>, share: usize, all: &Barrier) -> postbox::Result<()> {
    let mut open = Vec::new();
    while open.len() < share {
        // As many at once as are left of the share: what is received has to be answered.
        let some = (share - open.len()).min(64);
        let receives: Vec<_> = (0..some).map(|_| server.recv_request()).collect();
        for receive in receives {
            open.push(receive.await?);
        }
    }
    all.wait();
    // As many commands, and few calls to the kernel.
    let replies: Vec<Op<_>> = open
        .into_iter()
        .map(|request| answer(&server, request))
        .collect();
    for reply in replies {
        reply.await?;
    }
    Ok(())
}

fn answer(
    server: &Attached<ReceiveOnly>,
    request: Request,
) -> Op<Result<(), postbox::uring::ReplyError>> {
    let number = request
        .first_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes));
    server.reply(request, (u64::from(number) * 2).to_le_bytes())
}

fn server() -> Result<(), Box<dyn std::error::Error>> {
    let driver = Driver::options().completions(16_384).build()?;
    let all = Barrier::new(HANDLES);
    let calls = CALLS as usize;
    let shares = (0..HANDLES).map(|n| calls / HANDLES + usize::from(n < calls % HANDLES));
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = shares
            .map(|share| {
                let (driver, all) = (&driver, &all);
                scope.spawn(move || {
                    let server = driver.attach(Receiver::open(NAME)?);
                    driver.block_on(serve(server, share, all))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect()
    });
    for outcome in outcomes {
        outcome.map_err(|_| "a thread panicked")??;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if env::args().nth(1).as_deref() == Some("serve") {
        return server();
    }
    let driver = match Driver::options().entries(1024).completions(16_384).build() {
        Ok(driver) => driver,
        Err(error) => {
            // A program of its own would call from threads now: `Sender::call` needs no io_uring.
            eprintln!("{error}");
            exit(1);
        }
    };
    let keep = Mailbox::options()
        .create_new(true)
        .capacity(Capacity::Unbounded)
        .open_receiver(NAME)?;
    let client = driver.attach(Sender::open(NAME)?);
    let mut server = Command::new(env::current_exe()?).arg("serve").spawn()?;

    let calls: Vec<Op<postbox::Result<Message>>> = (0..CALLS)
        .map(|number| client.call(number.to_le_bytes()))
        .collect();
    driver.submit()?;
    // The server answers when it has all of them.
    println!("{} calls are under way", driver.pending());

    driver.block_on(async {
        for (number, call) in (0..CALLS).zip(calls) {
            let reply = call.await?;
            assert_eq!(*reply, (u64::from(number) * 2).to_le_bytes());
            assert_eq!(reply.sender.pid, server.id());
        }
        Ok::<_, postbox::Error>(())
    })?;
    println!("{CALLS} replies came, each to its call");
    assert!(server.wait()?.success());
    drop(keep);
    Ok(())
}
