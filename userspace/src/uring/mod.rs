//! Operations through io_uring: many are begun, submitted in one call to the kernel, and under way at the
//! same time, in one thread.
//!
//! A [`Driver`] has the ring. It takes [handles](Driver::attach), whose operations return an [`Op`]; it
//! [owns their memory](#whose-the-memory-is) until the kernel has done with it. There are three ways to
//! get at the outcome:
//!
//! | way | with |
//! |---|---|
//! | the thread waits | [`Op::wait`], [`Driver::turn`], `wait_next` of streams |
//! | futures, for any executor | `.await`; [`Driver::block_on`] is one that waits in the kernel |
//! | futures, with tokio | `.await`, after `tokio::spawn(driver.background()?)` (feature `tokio`) |
//!
//! ```
//! use postbox::{Mailbox, uring::Driver};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
//! let driver = Driver::new()?;
//! let (sender, receiver) = Mailbox::options().anonymous()?.split()?;
//! let (sender, receiver) = (driver.attach(sender), driver.attach(receiver));
//!
//! // 64 messages and as many receives, in one call to the kernel.
//! let sends: Vec<_> = (0..64u8).map(|n| sender.send([n])).collect();
//! let receives: Vec<_> = (0..64).map(|_| receiver.recv()).collect();
//! driver.submit()?;
//! for send in sends {
//!     send.wait()?;
//! }
//! for (n, receive) in receives.into_iter().enumerate() {
//!     assert_eq!(receive.wait()?.payload, [n as u8]);
//! }
//!
//! // The same as futures.
//! driver.block_on(async {
//!     sender.send("build").await?;
//!     assert_eq!(&*receiver.recv().await?, b"build");
//!     Ok::<_, postbox::Error>(())
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! # Streams
//!
//! [`Attached::messages`], [`deliveries`](Attached::deliveries), [`requests`](Attached::requests) and
//! [`links`](Attached::links) receive by one command that goes on (multishot), into buffers of a
//! [group](Driver::buffers). Whatever ends the command, nothing is lost, and the stream goes on where it can.
//!
//! ```
//! use postbox::{Mailbox, Wait, uring::Driver};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
//! let driver = Driver::new()?;
//! let (sender, receiver) = Mailbox::options().anonymous()?.split()?;
//! let receiver = driver.attach(receiver);
//! let mut messages = receiver.messages(&driver.buffers(16, 256)?);
//! sender.send_many(&["configure", "build"], 0, Wait::Forever)?;
//! drop(sender);
//! let mut seen = Vec::new();
//! while let Some(message) = messages.wait_next() {
//!     seen.push(message?.to_vec());
//! }
//! assert_eq!(seen, [&b"configure"[..], b"build"]);
//! # Ok(())
//! # }
//! ```
//!
//! # Whose the memory is
//!
//! The kernel writes to memory at times that no borrow knows of. So the memory of an operation is the
//! driver's from its beginning to the kernel's last word on it: payloads are moved in and out as vectors.
//! Dropping an [`Op`] cancels it, and the driver keeps the memory until that is done. Forgetting it
//! (`std::mem::forget`) leaks its output, and the driver, which does not end any more. At its end the driver
//! cancels what is left and waits for it; what does not end is leaked and not freed. An operation has a reference to its handle, which stays
//! open.
//!
//! # Cancelling
//!
//! An operation ends once. [`Op::cancel`] asks for its end: it then is
//! [`Cancelled`](crate::ErrorKind::Cancelled), or done, if that was faster. Dropping one is the same
//! without an answer. What that means for a message is said of each group of methods, under "Cancel
//! safety". The times of [`Wait`](crate::Wait) are kept by the kernel.
//!
//! When a thread ends, the commands that it has submitted stay where they wait. What was done of them is
//! reported; those with which nothing was done are submitted again by the driver, at the end of the order.
//! But a call ends as [`Dropped`](crate::ErrorKind::Dropped), or, where it was answered, as
//! [`ReplyLost`](crate::ErrorKind::ReplyLost): have calls submitted by threads that stay.
//!
//! # Where there is no io_uring
//!
//! It may be switched off, forbidden (as to programs in many containers), or missing in an old kernel or
//! module: [`Driver::new`] then fails with a [`SetupError`] that says which, and what to do. Handles work
//! without: with `send` and `recv` in threads, or made [non-blocking](crate::Handle::set_nonblocking) and
//! [waited for together](crate::WaitSet). So a program begins with this:
//!
//! ```
//! use postbox::{PollFlags, Receiver, uring::Driver};
//!
//! fn collect(log: Receiver, mut each: impl FnMut(&[u8])) -> Result<(), Box<dyn std::error::Error>> {
//!     match Driver::new() {
//!         Ok(driver) => {
//!             let mut messages = driver.attach(log).messages(&driver.buffers(64, 512)?);
//!             while let Some(message) = messages.wait_next() {
//!                 each(&message?);
//!             }
//!         }
//!         Err(error) => {
//!             eprintln!("{error}");
//!             for message in &log {
//!                 each(&message?);
//!             }
//!         }
//!     }
//!     Ok(())
//! }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
//! # let (sender, receiver) = postbox::Mailbox::options().anonymous()?.split()?;
//! # sender.send("x")?;
//! # drop(sender);
//! # let mut seen = 0;
//! # collect(receiver, |_| seen += 1)?;
//! # assert_eq!(seen, 1);
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "tokio")]
mod background;
mod buffers;
mod core;
mod driver;
mod error;
mod ops;
mod sqe;
mod stream;
mod task;
#[cfg(test)]
mod tests;

#[cfg(feature = "tokio")]
pub use background::Background;
pub use buffers::{Buffers, FixedBuffer, FixedBuffers};
pub use core::Op;
pub use driver::{Attached, BufResult, Driver, DriverOptions, Sending};
pub use error::{SetupError, Unavailable};
pub use ops::{Acquired, Delivery, ReplyError, Request, Reserved};
pub use stream::{Deliveries, Links, Messages, Record, Requests};
