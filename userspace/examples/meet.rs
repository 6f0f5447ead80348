//! Two processes that know the same number meet on a port: whichever comes first waits.
//!
//! `cargo run --example meet` in two terminals, in either order, with the module loaded; alone, it
//! starts its own partner.

use postbox::{Port, Wait};
use std::process::Command;
use std::time::Duration;

const PORT: u16 = 5001;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let me = std::process::id();
    let link = Port::open(PORT)?;
    let mut partner = None;
    if link.wait_peer(Wait::Never).is_err() {
        println!("{me}: first on port {PORT}; waiting for somebody");
        let patience = Wait::Timeout(Duration::from_secs(3));
        if link.wait_peer(patience).is_err() && std::env::args().len() == 1 {
            println!("{me}: nobody comes; starting somebody");
            partner = Some(
                Command::new(std::env::current_exe()?)
                    .arg("partner")
                    .spawn()?,
            );
        }
        link.wait_peer(Wait::Timeout(Duration::from_secs(60)))?;
    }
    println!("{me}: met process {}", link.peer()?.pid);

    // Each may send at any time: the link goes both ways.
    link.send(format!("hello from {me}"))?;
    let greeting = link.recv()?;
    println!("{me}: received {:?}", String::from_utf8_lossy(&greeting));

    // Nobody else can join; when one of the two goes, the other is told.
    if partner.is_some() {
        println!("{me}: {}", Port::open(PORT).unwrap_err());
        link.send("bye")?;
        let end = link.recv().unwrap_err();
        println!("{me}: {end}");
    } else if let Ok(last) = link.recv_timeout(Duration::from_secs(1)) {
        println!("{me}: received {:?}", String::from_utf8_lossy(&last));
    }
    if let Some(mut partner) = partner {
        partner.wait()?;
    }
    Ok(())
}
