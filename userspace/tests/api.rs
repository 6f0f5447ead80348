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

/// Their futures, too: what is spawned on a runtime of many threads has to be.
#[cfg(all(feature = "tokio", feature = "futures", feature = "postcard"))]
#[test]
fn what_is_async_goes_between_threads() {
    use postbox::aio::{RegisterError, SendSink};
    use postbox::tokio::{Async, Tokio};
    use postbox::typed::{
        Postcard, PostcardError, RecvError, Typed, TypedReceiver, TypedRequest, TypedSink, Value,
    };
    use postbox::{
        Barrier, Consumer, Guard, Latch, PipeReader, PipeWriter, Pool, Producer, Semaphore,
        SendOnly,
    };
    use std::sync::Arc;

    fn check<T: Send + Sync + Debug + Unpin>() {}
    check::<Async<Mailbox>>();
    check::<Async<Sender>>();
    check::<Async<Receiver>>();
    check::<Async<Link>>();
    check::<Async<Listener>>();
    check::<Async<Endpoint>>();
    check::<Async<PipeReader>>();
    check::<Async<PipeWriter>>();
    check::<Async<Semaphore>>();
    check::<Async<Latch>>();
    check::<Async<Barrier>>();
    check::<Async<Pool>>();
    check::<Async<Producer>>();
    check::<Async<Consumer>>();
    check::<Tokio>();
    check::<Guard<'static>>();
    check::<RegisterError<Mailbox>>();
    check::<SendSink<SendOnly, Tokio, Vec<u8>>>();
    check::<TypedReceiver<String, Postcard>>();
    check::<Typed<Async<Receiver>, String, Postcard>>();
    check::<TypedSink<SendOnly, Tokio, String, Postcard>>();
    check::<TypedRequest<'static, String, Postcard>>();
    check::<Value<String>>();
    check::<RecvError<Message, PostcardError>>();

    fn sent<F: Future + Send>(_: impl FnOnce() -> F) {}
    fn made<T>() -> T {
        unreachable!("nothing of this runs")
    }
    sent(async || made::<Async<Sender>>().send(String::new()).await);
    sent(async || made::<Async<Sender>>().send_parcel(&Parcel::new("")).await);
    sent(async || made::<Async<Sender>>().send_many(&[""], 0).await);
    sent(async || made::<Async<Sender>>().reserve(1).await.map(drop));
    sent(async || made::<Arc<Async<Sender>>>().reserve_owned(1).await);
    sent(async || made::<Async<Sender>>().call("").await);
    sent(async || made::<Async<Sender>>().wait_peer().await);
    let buffer = async || {
        let loan = made::<Async<Pool>>().loan(1).await?;
        Ok::<_, Error>(made::<Async<Sender>>().send_buffer(loan).await?)
    };
    sent(buffer);
    sent(async || made::<Async<Receiver>>().recv().await);
    sent(async || made::<Async<Receiver>>().recv_into(&mut [0]).await);
    sent(async || made::<Async<Receiver>>().recv_many(&mut vec![], 1).await);
    sent(async || made::<Async<Receiver>>().recv_from(1).await);
    sent(async || made::<Async<Receiver>>().take().await.map(drop));
    sent(async || made::<Arc<Async<Receiver>>>().take_owned().await);
    sent(async || made::<Async<Receiver>>().recv_request().await.map(drop));
    sent(async || made::<Arc<Async<Receiver>>>().recv_request_owned().await);
    let pool: fn() -> Pool = made;
    sent(async || made::<Async<Receiver>>().recv_buffers(&pool()).await);
    sent(async || made::<Async<Listener>>().accept().await);
    sent(async || Async::connect("").await);
    sent(async || Async::bind_port(1).await);
    sent(async || made::<Async<PipeReader>>().read(&mut [0]).await);
    sent(async || made::<Async<PipeWriter>>().write(&[0]).await);
    sent(async || made::<Async<Semaphore>>().acquire().await.map(drop));
    sent(async || made::<Arc<Async<Semaphore>>>().acquire_owned(1).await);
    sent(async || made::<Async<Latch>>().wait().await);
    sent(async || made::<Async<Barrier>>().wait().await);
    sent(async || made::<Async<Producer>>().send(&[0]).await);
    sent(async || made::<Async<Producer>>().reserve(1).await.map(drop));
    sent(async || made::<Async<Consumer>>().recv().await.map(drop));
    type Strings<H> = Typed<Async<H>, String, Postcard>;
    sent(async || made::<Strings<Sender>>().send(String::new()).await);
    sent(async || made::<Strings<Receiver>>().recv().await);
    sent(async || made::<Strings<Receiver>>().take().await.is_ok());
    sent(async || made::<Arc<Strings<Receiver>>>().recv_request_owned().await);
    let call = async || {
        made::<Strings<Sender>>()
            .call::<String>(&String::new())
            .await
    };
    sent(call);
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
