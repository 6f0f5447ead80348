//! What holds of the types, whatever the kernel does.

use postbox::{
    Admin, Delivery, Endpoint, EndpointOptions, Error, FromFdError, Identity, Incoming, Info, Iter,
    Link, LinkOptions, List, Listener, Mailbox, Message, Options, Parcel, Permit, Process, Ready,
    Received, Receiver, Request, SendError, SendManyError, Sender, Usage, Version, Wait, WaitSet,
};
use std::fmt::Debug;
use std::panic::UnwindSafe;

#[test]
fn everything_goes_between_threads_and_shows_itself() {
    fn check<T: Send + Sync + Debug + UnwindSafe + Unpin>() {}
    check::<Mailbox>();
    check::<Sender>();
    check::<Receiver>();
    check::<Admin>();
    check::<Options>();
    check::<Link>();
    check::<LinkOptions>();
    check::<Listener>();
    check::<Incoming<'static>>();
    check::<Endpoint>();
    check::<EndpointOptions>();
    check::<Parcel<'static>>();
    check::<Request<'static>>();
    check::<Process>();
    check::<Ready>();
    check::<WaitSet>();
    check::<Permit<'static>>();
    check::<Delivery<'static>>();
    check::<Iter<'static>>();
    check::<postbox::IntoIter<postbox::ReceiveOnly>>();
    check::<List>();
    check::<Message>();
    check::<Received>();
    check::<Identity>();
    check::<Info>();
    check::<Usage>();
    check::<Version>();
    check::<Wait>();
    check::<Error>();
    check::<FromFdError>();
    check::<SendManyError>();
    check::<SendError<Vec<u8>>>();
}

#[test]
fn errors_are_small_enough_to_return() {
    assert!(size_of::<Error>() <= 64);
    assert!(size_of::<SendError<Vec<u8>>>() <= 88);
}

#[test]
fn errors_convert_without_the_payload() {
    fn library(error: SendError<&[u8]>) -> postbox::Result<()> {
        Err(error)?
    }
    fn program(error: SendError<&[u8]>) -> std::io::Result<()> {
        Err(error)?
    }
    // They compile; that is the test.
    let _ = (library, program);
}
