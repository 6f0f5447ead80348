//! Streams and sinks.

use std::future::poll_fn;
use std::pin::Pin;

use futures_core::Stream;
use futures_sink::Sink;
use postbox::{Link, Listener, Ring};
use postbox_tests::unique;

use super::*;

pub async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await
}

pub async fn ready<T, S: Sink<T> + Unpin>(sink: &mut S) -> Result<(), S::Error> {
    poll_fn(|cx| Pin::new(&mut *sink).poll_ready(cx)).await
}

pub async fn feed<T, S: Sink<T> + Unpin>(sink: &mut S, item: T) -> Result<(), S::Error> {
    ready(sink).await?;
    Pin::new(sink).start_send(item)
}

pub async fn flush<T, S: Sink<T> + Unpin>(sink: &mut S) -> Result<(), S::Error> {
    poll_fn(|cx| Pin::new(&mut *sink).poll_flush(cx)).await
}

pub async fn close<T, S: Sink<T> + Unpin>(sink: &mut S) -> Result<(), S::Error> {
    poll_fn(|cx| Pin::new(&mut *sink).poll_close(cx)).await
}

#[test]
fn messages_stream_until_the_end() {
    on_both(async || {
        let (sender, mut receiver) = bounded(4);
        let sending = tokio::spawn(async move {
            let mut sink = sender.into_sink();
            for n in 0..100_u8 {
                feed(&mut sink, vec![n]).await.expect("it is received");
            }
            close(&mut sink).await.expect("it is received");
        });
        for n in 0..100_u8 {
            let message = next(&mut receiver).await.expect("not the end");
            assert_eq!(*message.expect("sent"), [n]);
        }
        assert!(next(&mut receiver).await.is_none());
        assert!(next(&mut receiver).await.is_none(), "the end stays");
        sending.await.expect("no panic");
    });
}

/// A stream that is dropped while it waits has taken nothing, and can be polled on.
#[test]
fn a_stream_that_waits_takes_nothing() {
    on_both(async || {
        let (sender, mut receiver) = bounded(4);
        waits(next(&mut receiver)).await;
        sender.send("one").await.expect("room");
        let message = next(&mut receiver).await.expect("not the end");
        assert_eq!(&*message.expect("sent"), b"one");
        // An error is an item.
        let pool = postbox::Pool::options().anonymous(2, 64).expect("a pool");
        let loan = pool.loan(1).expect("one is free");
        sender.send_buffer(loan).await.expect("room");
        let failed = next(&mut receiver).await.expect("not the end");
        assert_eq!(kind(failed), ErrorKind::HasBuffers);
        drop(receiver.recv_buffers(&pool).await.expect("it stayed"));
        waits(next(&mut receiver)).await;
    });
}

#[test]
fn a_sink_holds_one_message_and_gives_it_back() {
    on_both(async || {
        let (sender, receiver) = bounded(1);
        let mut sink = sender.into_sink();
        feed(&mut sink, "one").await.expect("it takes one");
        flush(&mut sink).await.expect("room");
        feed(&mut sink, "two").await.expect("it holds one");
        waits(ready::<&str, _>(&mut sink)).await;
        let early = Pin::new(&mut sink)
            .start_send("early")
            .expect_err("it is not ready");
        assert_eq!(
            (early.error.kind, early.payload),
            (ErrorKind::Full, "early")
        );
        assert_eq!(&*receiver.recv().await.expect("sent"), b"one");
        flush(&mut sink).await.expect("room");
        feed(&mut sink, "three").await.expect("it holds one");
        waits(flush::<&str, _>(&mut sink)).await;
        let (sender, unsent) = sink.into_inner();
        assert_eq!(unsent, Some("three"));
        assert_eq!(&*receiver.recv().await.expect("sent"), b"two");
        waits(receiver.recv()).await;

        let mut sink = sender.into_sink();
        feed(&mut sink, "four").await.expect("it takes one");
        drop(receiver);
        let failed = flush(&mut sink).await.expect_err("nobody is there");
        assert_eq!(
            (failed.error.kind, failed.payload),
            (ErrorKind::Disconnected, "four")
        );
        flush::<&str, _>(&mut sink).await.expect("nothing is left");
    });
}

#[test]
fn both_directions_of_a_link_stream() {
    on_both(async || {
        let (near, far) = Link::pair().expect("a pair");
        let (near, mut far) = (is(near), is(far));
        let echo = tokio::spawn(async move {
            let mut count = 0;
            while let Some(message) = next(&mut far).await {
                far.send(message.expect("sent").payload)
                    .await
                    .expect("room");
                count += 1;
            }
            count
        });
        let (sender, mut receiver) = near.split().expect("it has both");
        let mut sink = sender.into_sink();
        for n in 0..20_u8 {
            feed(&mut sink, [n]).await.expect("room");
        }
        close(&mut sink).await.expect("room");
        drop(sink);
        for n in 0..20_u8 {
            let message = next(&mut receiver).await.expect("not the end");
            assert_eq!(*message.expect("sent"), [n]);
        }
        assert!(next(&mut receiver).await.is_none());
        assert_eq!(echo.await.expect("no panic"), 20);
    });
}

#[test]
fn connections_and_records_stream() {
    on_both(async || {
        let name = unique("stream");
        let mut listener = is(Listener::bind(&name).expect("a new name"));
        for _ in 0..3 {
            let client = Async::connect(&name).await.expect("somebody listens");
            let server = next(&mut listener).await.expect("it does not end");
            client.send("hello").await.expect("room");
            let message = server.expect("it connected").recv().await.expect("sent");
            assert_eq!(&*message, b"hello");
        }
        waits(next(&mut listener)).await;

        let (sender, receiver) = Ring::options().pair().expect("a ring");
        let mut producer = is(sender.attach().expect("nobody else"));
        let mut consumer = is(receiver.attach().expect("nobody else"));
        let sending = tokio::spawn(async move {
            for n in 0..50_u8 {
                producer.send(&[n; 10]).await.expect("room");
            }
        });
        for n in 0..50_u8 {
            let record = next(&mut consumer).await.expect("not the end");
            assert_eq!(record.expect("sent"), [n; 10]);
        }
        assert!(next(&mut consumer).await.is_none());
        sending.await.expect("no panic");
    });
}
