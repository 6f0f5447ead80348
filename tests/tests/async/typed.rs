//! Typed channels: in place and encoded, and what is not of the type.

use postbox_tests::LONG;
use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use postbox::typed::{
    Decode, Encode, InPlace, Mismatch, Postcard, PostcardError, RecvError, Typed, TypedReceiver,
    TypedSender,
};
use postbox::{Link, Wait};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

use super::streams::{close, feed, flush, next};
use super::*;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct Sample {
    at: u64,
    value: [f32; 2],
}

/// Not every byte is one of these.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
enum Switch {
    Off = 1,
    On = 2,
}

/// A head, and as many samples as there are.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Batch {
    count: u64,
    samples: [Sample],
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
enum Job {
    Build { target: String, threads: u16 },
    Clean,
}

/// An answer.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Outcome(Result<u64, String>);

fn plain() -> (Sender, Receiver) {
    mailbox(Capacity::Bounded(16))
        .split()
        .expect("it has both rights")
}

fn typed<T: ?Sized, C>() -> (TypedSender<T, C>, TypedReceiver<T, C>) {
    let (sender, receiver) = plain();
    (sender.typed(), receiver.typed())
}

fn build() -> Job {
    Job::Build {
        target: "all".into(),
        threads: 2,
    }
}

const SAMPLE: Sample = Sample {
    at: 7,
    value: [1.5, -2.0],
};

#[test]
fn values_go_in_place() {
    let (sender, receiver) = typed::<Sample, InPlace>();
    sender.send(SAMPLE).expect("room");
    sender.send(&SAMPLE).expect("room, and it is lent");
    sender.send_with(SAMPLE, 9, Wait::Never).expect("room");
    let first = receiver.recv().expect("sent");
    assert_eq!((first.value, first.message.priority), (SAMPLE, 9));
    assert_eq!(first.message.sender.pid, std::process::id());
    assert_eq!(receiver.try_recv().expect("sent").value, SAMPLE);
    assert_eq!(receiver.recv_timeout(Duration::ZERO).expect("sent").at, 7);
    assert!(receiver.try_recv().is_err_and(|error| error.is_empty()));
    let soon = std::time::Instant::now() + Duration::from_millis(2);
    assert!(
        receiver
            .recv_deadline(soon)
            .is_err_and(|error| error.is_timeout())
    );
    drop(sender);
    assert!(receiver.recv().is_err_and(|error| error.is_disconnected()));
    let (sender, receiver) = typed::<Sample, InPlace>();
    drop(receiver);
    let failed = sender.send(SAMPLE).expect_err("nobody is there");
    assert_eq!(
        (failed.error.kind, failed.payload),
        (ErrorKind::Disconnected, SAMPLE)
    );
}

#[test]
fn what_has_another_size_or_is_no_value_is_an_error_that_has_it() {
    let (sender, receiver) = plain();
    let receiver: TypedReceiver<Sample, InPlace> = receiver.typed();
    for len in [0, 1, 15, 17, 4096, 100_000] {
        sender.send(vec![7; len]).expect("room");
        match receiver.recv() {
            Err(RecvError::Malformed(bad)) => {
                assert_eq!(bad.error, Mismatch::Size { len });
                assert_eq!(*bad.message, vec![7; len][..]);
            }
            other => panic!("{len}: {other:?}"),
        }
    }
    let receiver: TypedReceiver<Switch, InPlace> = receiver.into_inner().typed();
    for (byte, expected) in [
        (0, None),
        (1, Some(Switch::Off)),
        (2, Some(Switch::On)),
        (3, None),
    ] {
        sender.send([byte]).expect("room");
        match (receiver.recv(), expected) {
            (Ok(value), Some(expected)) => assert_eq!(value.value, expected),
            (Err(RecvError::Malformed(bad)), None) => {
                assert_eq!(
                    (bad.error, &*bad.message),
                    (Mismatch::Validity, &[byte][..])
                );
            }
            (other, _) => panic!("{byte}: {other:?}"),
        }
    }
    // As an error of the crate it says what is wrong.
    sender.send([9]).expect("room");
    let error = Error::from(receiver.recv().expect_err("no switch"));
    assert_eq!(error.kind, ErrorKind::Decode);
    assert!(
        error.to_string().contains("no value of the type"),
        "{error}"
    );
}

#[test]
fn a_message_is_looked_at_where_it_is() {
    let (sender, receiver) = plain();
    let samples: TypedSender<[Sample], InPlace> = sender.try_clone().expect("a handle").typed();
    samples.send(vec![SAMPLE; 3]).expect("room");
    samples
        .send([SAMPLE; 1].as_slice())
        .expect("room, and it is lent");
    samples.send(Vec::new()).expect("an empty one");
    for count in [3, 1, 0] {
        let message = receiver.recv().expect("sent");
        let view: &[Sample] = message.view().expect("so many");
        assert_eq!(view, vec![SAMPLE; count]);
        let start = view.as_ptr().cast::<u8>();
        assert!(
            count == 0 || start == message.payload.as_ptr(),
            "it is not a copy"
        );
    }
    let mut bytes = 2_u64.to_ne_bytes().to_vec();
    bytes.extend(SAMPLE.as_bytes());
    bytes.extend(SAMPLE.as_bytes());
    sender.send(&bytes).expect("room");
    let mut message = receiver.recv().expect("sent");
    let batch: &Batch = message.view().expect("a head and two samples");
    assert_eq!((batch.count, &batch.samples), (2, &[SAMPLE, SAMPLE][..]));
    message.payload.push(0);
    assert_eq!(
        message.view::<Batch>().err(),
        Some(Mismatch::Size { len: 41 })
    );
    message.payload.truncate(7);
    assert_eq!(
        message.view::<Sample>().err(),
        Some(Mismatch::Size { len: 7 })
    );
    assert_eq!(
        message.view::<Switch>().err(),
        Some(Mismatch::Size { len: 7 })
    );
    message.payload = vec![3];
    assert_eq!(message.view::<Switch>().err(), Some(Mismatch::Validity));
    assert_eq!(message.view::<[u8]>().expect("bytes are bytes"), [3]);

    /// Memory is hardly ever aligned to this by chance.
    #[derive(FromBytes, Immutable, KnownLayout)]
    #[repr(C, align(4096))]
    struct Page([u8; 4096]);
    message.payload = vec![0; 4096];
    let aligned = (message.payload.as_ptr() as usize).is_multiple_of(4096);
    match message.view::<Page>() {
        Ok(page) => assert!(aligned && page.0[0] == 0),
        Err(error) => assert!(!aligned && error == Mismatch::Alignment, "{error}"),
    }
}

#[test]
fn values_go_encoded() {
    let (sender, receiver) = typed::<Job, Postcard>();
    sender.send(build()).expect("room");
    sender.try_send(&Job::Clean).expect("room, and it is lent");
    assert_eq!(receiver.recv().expect("sent").value, build());
    assert_eq!(receiver.recv().expect("sent").value, Job::Clean);
    // Taken, put back, and taken again.
    sender.send_timeout(build(), Duration::ZERO).expect("room");
    drop(receiver.take().expect("sent"));
    let again = receiver.take_with(Wait::Never).expect("it came back");
    assert!(again.message.redelivered);
    again.requeue().expect("it is ours");
    assert_eq!(receiver.take().expect("it came back").ack(), Ok(build()));
    for _ in 0..3 {
        sender.send(Job::Clean).expect("room");
    }
    drop(sender);
    let all: Vec<_> = receiver
        .iter()
        .map(|job| job.expect("sent").value)
        .collect();
    assert_eq!(all, [Job::Clean, Job::Clean, Job::Clean]);

    let (sender, receiver) = typed::<str, Postcard>();
    sender.send(String::from("a text")).expect("room");
    let receiver: TypedReceiver<String, Postcard> = receiver.into_inner().typed();
    assert_eq!(receiver.recv().expect("sent").value, "a text");
}

#[test]
fn what_is_encoded_wrongly_is_an_error_that_has_it() {
    let (sender, receiver) = plain();
    let receiver: TypedReceiver<Job, Postcard> = receiver.typed();
    let good = Job::encode(&build());
    let mut long = good.clone();
    long.push(0);
    for bytes in [
        vec![],
        vec![9],
        vec![0, 200],
        good[..good.len() - 1].to_vec(),
        long.clone(),
    ] {
        sender.send(&bytes).expect("room");
        match receiver.recv() {
            Err(RecvError::Malformed(bad)) => {
                assert_eq!(bad.message.payload, bytes);
                let trailing = bad.error == PostcardError::Trailing { bytes: 1 };
                assert_eq!(trailing, bytes == long, "{:?}", bad.error);
            }
            other => panic!("{bytes:?}: {other:?}"),
        }
    }
    // One that poisons a queue: dropped, it comes back; acknowledged, it is gone.
    sender.send("poison").expect("room");
    drop(receiver.take().expect_err("no job"));
    match receiver.take() {
        Err(RecvError::Malformed(bad)) => {
            assert!(bad.message.redelivered);
            bad.message.ack().expect("it is ours");
        }
        other => panic!("{other:?}"),
    }
    assert!(receiver.try_recv().is_err_and(|error| error.is_empty()));
    assert_eq!(
        receiver
            .try_recv()
            .map_err(RecvError::into_message)
            .err()
            .flatten()
            .map(|m| m.payload),
        None
    );
}

impl Job {
    fn encode(job: &Job) -> Vec<u8> {
        <Postcard as Encode<Job>>::encode(job)
            .expect("it can be")
            .into_owned()
    }
}

/// serde may refuse to encode, and the value comes back.
#[test]
fn what_cannot_be_encoded_comes_back() {
    #[derive(Debug, PartialEq)]
    struct Secret(u8);

    impl Serialize for Secret {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("it is secret"))
        }
    }

    let (sender, receiver) = typed::<Secret, Postcard>();
    let failed = sender.send(Secret(7)).expect_err("it is secret");
    assert_eq!(
        (failed.error.kind, failed.payload),
        (ErrorKind::Encode, Secret(7))
    );
    assert!(
        receiver
            .get_ref()
            .try_recv()
            .is_err_and(|error| error.is_empty())
    );
    on_both(async || {
        let (sender, _receiver) = bounded(1);
        let sender: Typed<_, Secret, Postcard> = sender.typed();
        let failed = sender.send(Secret(8)).await.expect_err("it is secret");
        assert_eq!(
            (failed.error.kind, failed.payload),
            (ErrorKind::Encode, Secret(8))
        );
    });
}

fn work(job: &Job) -> Outcome {
    Outcome(match job {
        Job::Build { threads, .. } => Ok((*threads).into()),
        Job::Clean => Err("nothing to clean".into()),
    })
}

#[test]
fn calls_are_typed_both_ways() {
    let (client, server) = typed::<Job, Postcard>();
    let serving = std::thread::spawn(move || {
        let mut request = server.recv_request().expect("called");
        assert!(request.request.is_open());
        let outcome = work(&request);
        request.reply(&outcome).expect("somebody waits");
        drop(request);
        server.serve(work)
    });
    for _ in 0..3 {
        let outcome = client.call::<Outcome>(&build()).expect("it answers");
        assert_eq!(outcome.value, Outcome(Ok(2)));
    }
    let outcome = client.call_with::<Outcome>(&Job::Clean, Wait::Timeout(LONG));
    assert!(outcome.expect("it answers").value.0.is_err());
    // What is no request is dropped, and serving goes on; so it does where nobody waits.
    assert_eq!(kind(client.get_ref().call("no job")), ErrorKind::Dropped);
    client.send(Job::Clean).expect("room");
    // A reply of another type is an error that has it.
    match client.call::<[u8; 3]>(&build()) {
        Err(RecvError::Malformed(bad)) => assert_eq!(bad.message.payload, [0, 2]),
        other => panic!("{other:?}"),
    }
    drop(client);
    serving
        .join()
        .expect("no panic")
        .expect("the end is no error");
}

#[test]
fn links_are_typed() {
    let (near, far) = Link::pair().expect("a pair");
    let near: Typed<Link, Sample, InPlace> = near.typed();
    let far: Typed<Link, Sample, InPlace> = far.typed();
    near.send(SAMPLE).expect("room");
    far.send(far.recv().expect("sent").value).expect("room");
    assert_eq!(near.recv().expect("it comes back").value, SAMPLE);
    // Different types each way, in halves.
    let (sender, receiver) = near.into_inner().split().expect("both directions");
    let (jobs, outcomes): (TypedSender<Job, Postcard>, TypedReceiver<Outcome, Postcard>) =
        (sender.typed(), receiver.typed());
    let (back, forth) = far.into_inner().split().expect("both directions");
    jobs.send(build()).expect("room");
    let job = forth.typed::<Job, Postcard>().recv().expect("sent");
    back.typed::<Outcome, Postcard>()
        .send(work(&job))
        .expect("room");
    assert_eq!(
        outcomes.recv().expect("it comes back").value,
        work(&build())
    );
}

/// Somebody else's encoding.
#[test]
fn another_codec_can_be_used() {
    enum Text {}

    impl Encode<str> for Text {
        type Error = Infallible;
        fn encode(value: &str) -> Result<Cow<'_, [u8]>, Infallible> {
            Ok(value.as_bytes().into())
        }
    }

    impl Decode<String> for Text {
        type Error = std::str::Utf8Error;
        fn decode(bytes: &[u8]) -> Result<String, Self::Error> {
            std::str::from_utf8(bytes).map(Into::into)
        }
    }

    let (sender, receiver) = plain();
    let sender: TypedSender<str, Text> = sender.typed();
    let receiver: TypedReceiver<String, Text> = receiver.typed();
    sender.send("text").expect("room");
    assert_eq!(receiver.recv().expect("sent").value, "text");
    sender.get_ref().send([0xff]).expect("room");
    assert!(matches!(receiver.recv(), Err(RecvError::Malformed(bad)) if *bad.message == [0xff]));
}

#[test]
fn values_go_between_tasks() {
    on_both(async || {
        let (sender, receiver) = bounded(2);
        let sender: Typed<_, Job, Postcard> = sender.typed();
        let receiver: Typed<_, Job, Postcard> = receiver.typed();
        waits(receiver.recv()).await;
        sender.send(build()).await.expect("room");
        sender.send_with(&Job::Clean, 5).await.expect("room");
        let lent = build();
        waits(sender.send(&lent)).await;
        assert_eq!(receiver.recv().await.expect("sent").value, Job::Clean);
        drop(receiver.take().await.expect("sent"));
        let again = receiver.take().await.expect("it came back");
        assert!(again.message.redelivered);
        assert_eq!(again.ack(), Ok(build()));
        sender.get_ref().send("bad").await.expect("room");
        let bad = receiver.recv().await.expect_err("no job").into_message();
        assert_eq!(&*bad.expect("it is in there"), b"bad");
        drop(receiver);
        let failed = sender.send(lent).await.expect_err("nobody is there");
        assert_eq!(
            (failed.error.kind, failed.payload),
            (ErrorKind::Disconnected, build())
        );

        let (sender, receiver) = bounded(2);
        let (sender, mut receiver) = (
            sender.typed::<Sample, InPlace>().into_sink(),
            receiver.typed::<Sample, InPlace>(),
        );
        let sending = tokio::spawn(async move {
            let mut sink = sender;
            for at in 0..20 {
                feed(&mut sink, Sample { at, ..SAMPLE })
                    .await
                    .expect("room");
            }
            flush::<Sample, _>(&mut sink).await.expect("room");
            close::<Sample, _>(&mut sink).await.expect("room");
            sink.into_inner().1
        });
        for at in 0..20 {
            let sample = next(&mut receiver).await.expect("not the end");
            assert_eq!(sample.expect("sent").value, Sample { at, ..SAMPLE });
        }
        assert!(next(&mut receiver).await.is_none());
        assert_eq!(sending.await.expect("no panic"), None);
    });
}

#[test]
fn typed_requests_are_answered_by_tasks() {
    on_both(async || {
        let (client, server) = sides(Capacity::Rendezvous);
        let client: Typed<_, Job, Postcard> = client.typed();
        let server: Arc<Typed<_, Job, Postcard>> = Arc::new(server.typed());
        let serving = tokio::spawn(async move {
            for owned in [false, true] {
                if owned {
                    let mut request = server.clone().recv_request_owned().await.expect("called");
                    let answering = tokio::spawn(async move {
                        let outcome = work(&request);
                        request.reply(&outcome)
                    });
                    answering.await.expect("no panic").expect("somebody waits");
                } else {
                    let mut request = server.recv_request().await.expect("called");
                    let outcome = work(&request);
                    request.reply(&outcome).expect("somebody waits");
                }
            }
            server.serve(async |job| work(&job)).await
        });
        for _ in 0..4 {
            let outcome = client.call::<Outcome>(&build()).await.expect("it answers");
            assert_eq!(outcome.value, Outcome(Ok(2)));
        }
        let outcome = client.call_timeout::<Outcome>(&Job::Clean, LONG).await;
        assert!(outcome.expect("it answers").0.is_err());
        assert_eq!(
            kind(client.get_ref().call("no job").await),
            ErrorKind::Dropped
        );
        drop(client);
        serving
            .await
            .expect("no panic")
            .expect("the end is no error");
    });
}
