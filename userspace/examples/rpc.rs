//! Calls and replies: one mailbox, two server threads, and what a client sees when it has to wait too
//! long or a server drops its request.
//!
//! `cargo run --example rpc`, with the module loaded. To have the server in a process of its own, run
//! `cargo run --example rpc serve` first, and then the example, as often as you like.

use postbox::{Capacity, Mailbox, Receiver, Sender};
use std::time::Duration;

const NAME: &str = "example/rpc";

/// Adds up numbers. Several threads, and processes, can do this on one mailbox.
fn serve(server: &Receiver) -> postbox::Result<()> {
    let mut request = server.recv_request()?;
    loop {
        let text = String::from_utf8_lossy(&request.payload).into_owned();
        let numbers: Result<Vec<i64>, _> = text.split('+').map(|n| n.trim().parse()).collect();
        match (text.as_str(), numbers) {
            ("sleep", _) => {
                std::thread::sleep(Duration::from_millis(200));
                // Nobody waits any more: the reply would reach nobody, and no other call.
                println!("server: caller waits: {}", request.caller_waits()?);
                request = server.recv_request()?;
            }
            // The reply and the next request in one system call.
            (_, Ok(numbers)) => request.reply_recv(numbers.iter().sum::<i64>().to_string())?,
            // A request that is dropped fails the call at once.
            (_, Err(_)) => {
                drop(request);
                request = server.recv_request()?;
            }
        }
    }
}

fn client(client: &Sender) -> postbox::Result<()> {
    let reply = client.call("1 + 2 + 39")?;
    println!(
        "1 + 2 + 39 = {}, says process {}",
        String::from_utf8_lossy(&reply),
        reply.sender.pid
    );
    for (request, timeout) in [("one and one", 10_000), ("sleep", 50)] {
        match client.call_timeout(request, Duration::from_millis(timeout)) {
            Ok(reply) => println!("{request}: {}", String::from_utf8_lossy(&reply)),
            Err(error) => println!("{request}: {error}"),
        }
    }
    println!("20 + 22 = {:?}", client.call("20 + 22")?.payload);
    Ok(())
}

fn main() -> postbox::Result<()> {
    let serving = std::env::args().nth(1).as_deref() == Some("serve");
    match Sender::open(NAME) {
        Ok(sender) if !serving => return client(&sender),
        _ => {}
    }
    let server = Mailbox::options()
        .create(true)
        .capacity(Capacity::Rendezvous)
        .open_receiver(NAME)?;
    if serving {
        println!("serving {NAME}");
        return serve(&server);
    }
    let sender = Sender::open(NAME)?;
    let threads = [server.try_clone()?, server].map(|server| {
        std::thread::spawn(move || match serve(&server) {
            Err(error) if !error.is_disconnected() => Err(error),
            _ => Ok(()),
        })
    });
    client(&sender)?;
    drop(sender);
    for thread in threads {
        thread.join().expect("a server does not panic")?;
    }
    Ok(())
}
