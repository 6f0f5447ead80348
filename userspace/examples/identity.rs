//! Who sent a message: the kernel says so, and whether that process is still there.

use postbox::{ErrorKind, Mailbox};
use std::env;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, exit};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A child gets the mailbox as its standard input: a handle is a descriptor, and can be passed
    // on as one.
    if env::args().nth(1).as_deref() == Some("child") {
        let mailbox = postbox::Sender::try_from(std::io::stdin().as_fd().try_clone_to_owned()?)?;
        mailbox.send("hello")?;
        return Ok(());
    }
    let (sender, receiver) = Mailbox::options().anonymous()?.split()?;
    let mut child = Command::new(env::current_exe()?)
        .arg("child")
        .stdin(OwnedFd::from(sender))
        .spawn()?;
    let message = receiver.recv()?;
    let identity = message.sender;
    println!(
        "process {} of user {} sent {:?}",
        identity.pid,
        identity.uid,
        String::from_utf8_lossy(&message)
    );
    let told_apart = identity.pid == child.id();

    child.wait()?;
    let gone = identity.verify();
    println!("when it is gone: {gone:?}");
    exit(
        if told_apart && gone.is_err_and(|error| error.kind == ErrorKind::Gone) {
            0
        } else {
            1
        },
    )
}
