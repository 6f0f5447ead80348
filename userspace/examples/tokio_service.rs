//! A service on tokio that answers typed requests, each in a task of its own, and comes to an end in
//! order: when it is told to stop it takes no more requests, answers those that it has, and ends.
//!
//! What tells it is a signal, as a service manager sends it, or a latch, which any process can open
//! that may (`postbox latch down example/service-stop`).

use postbox::tokio::Async;
use postbox::typed::{Postcard, RecvError, Typed, Value};
use postbox::{Capacity, ErrorKind, Latch, Mailbox, Receiver, Sender};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const NAME: &str = "example/service";
const STOP: &str = "example/service-stop";
const LONG: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize, Debug)]
enum Ask {
    Square(u64),
    /// Takes its time.
    Slowly(String),
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
enum Answer {
    Number(u64),
    Text(String),
    TooLarge,
}

async fn answer(ask: &Ask, slow: &mpsc::Sender<()>) -> Answer {
    match ask {
        Ask::Square(number) => number
            .checked_mul(*number)
            .map_or(Answer::TooLarge, Answer::Number),
        Ask::Slowly(text) => {
            let _ = slow.send(()).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            Answer::Text(text.to_uppercase())
        }
    }
}

/// Serves until it is told to stop; returns how many requests it answered.
async fn serve(
    server: Async<Receiver>,
    stop: Async<Latch>,
    mut terminate: Signal,
    slow: mpsc::Sender<()>,
) -> postbox::Result<usize> {
    let server: Arc<Typed<_, Ask, Postcard>> = Arc::new(server.typed());
    let mut tasks = JoinSet::new();
    let mut answered = 0;
    loop {
        // Each of these can be dropped: what was not received stays where it is.
        tokio::select! {
            request = server.clone().recv_request_owned() => match request {
                Ok(mut request) => {
                    let slow = slow.clone();
                    tasks.spawn(async move {
                        let answer = answer(&request, &slow).await;
                        // It fails where the caller has given up meanwhile.
                        request.reply(&answer)
                    });
                }
                // Its caller is told.
                Err(RecvError::Malformed(bad)) => println!("service: {bad}"),
                Err(RecvError::Receive(error)) if error.is_disconnected() => break,
                Err(error) => return Err(error.into()),
            },
            Some(done) = tasks.join_next() => answered += usize::from(matches!(done, Ok(Ok(())))),
            // Opened, or broken: whoever was to open it is gone.
            _ = stop.wait() => break,
            _ = terminate.recv() => break,
        }
    }
    println!("service: stopping, with {} requests to answer", tasks.len());
    // Nobody finds it any more. Who has it open already waits until it ends.
    postbox::unlink(NAME)?;
    while let Some(done) = tasks.join_next().await {
        answered += usize::from(matches!(done, Ok(Ok(()))));
    }
    Ok(answered)
}

async fn run(by_signal: bool) -> Result<(), Box<dyn Error>> {
    // On a rendezvous, a request that is not taken yet is still its caller's.
    let server = Mailbox::options()
        .create_new(true)
        .capacity(Capacity::Rendezvous)
        .open_receiver(NAME)?;
    let stop = Latch::options().create_new(true).open(STOP)?;
    let terminate = signal(SignalKind::terminate())?;
    let (slow, mut slow_began) = mpsc::channel(1);
    let service = tokio::spawn(serve(
        Async::new(server)?,
        Async::new(stop)?,
        terminate,
        slow,
    ));

    // A client would be another process. A call waits on a thread, and so has a limit.
    let client: Typed<_, Ask, Postcard> = Async::new(Sender::open(NAME)?)?.typed();
    let client = Arc::new(client);
    let mut calls = JoinSet::<postbox::Result<()>>::new();
    for number in 0..20 {
        let client = client.clone();
        calls.spawn(async move {
            let answer: Value<Answer> = client.call_timeout(&Ask::Square(number), LONG).await?;
            assert_eq!(answer.value, Answer::Number(number * number));
            Ok(())
        });
    }
    while let Some(called) = calls.join_next().await {
        called??;
    }
    let answer: Value<Answer> = client.call_timeout(&Ask::Square(u64::MAX), LONG).await?;
    assert_eq!(answer.value, Answer::TooLarge);
    // What is no request gets no reply, and does no harm.
    let nonsense = client.get_ref().call_timeout([0xff; 3], LONG).await;
    assert_eq!(nonsense.unwrap_err().kind, ErrorKind::Dropped);

    let slowly = {
        let client = client.clone();
        tokio::spawn(async move {
            let ask = Ask::Slowly("in time".into());
            client.call_timeout::<Answer>(&ask, LONG).await
        })
    };
    slow_began.recv().await;
    if by_signal {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)?;
    } else {
        Latch::open(STOP)?.count_down()?;
    }
    let answer = slowly.await??;
    assert_eq!(answer.value, Answer::Text("IN TIME".into()));
    println!("client: {:?}, after it was told to stop", answer.value);
    assert_eq!(service.await??, 22);

    let late = client.call_timeout::<Answer>(&Ask::Square(1), LONG).await;
    assert!(late.is_err_and(|error| error.is_disconnected()));
    assert!(Sender::open(NAME).is_err_and(|error| error.is_not_found()));
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    for by_signal in [true, false] {
        run(by_signal).await?;
    }
    println!("both services have ended in order");
    Ok(())
}
