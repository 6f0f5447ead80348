//! Pipes, as streams of bytes of tokio.

use std::sync::Arc;

use postbox::{Pipe, PipeReader, PipeWriter};
use postbox_tests::{Rng, scaled};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::*;

fn pipe(bytes: u64) -> (Async<PipeReader>, Async<PipeWriter>) {
    let (reader, writer) = Pipe::options().capacity(bytes).pair().expect("a pipe");
    (is(reader), is(writer))
}

#[test]
fn bytes_come_out_as_they_went_in() {
    on_both(async || {
        let (mut reader, mut writer) = pipe(8192);
        let mut data = vec![0; scaled(300_000)];
        Rng::from_env("pipe").fill(&mut data);
        let expected = data.clone();
        let writing = tokio::spawn(async move {
            let mut rng = Rng::from_env("pieces");
            let mut rest = &data[..];
            while !rest.is_empty() {
                let len = (rng.below(20_000) as usize + 1).min(rest.len());
                writer.write_all(&rest[..len]).await.expect("it is read");
                rest = &rest[len..];
            }
            writer.flush().await.expect("nothing to do");
            writer.shutdown().await.expect("nothing to do");
            still_blocks(&writer);
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.expect("it ends");
        assert!(got == expected, "{} of {} bytes", got.len(), expected.len());
        writing.await.expect("no panic");
        still_blocks(&reader);
    });
}

#[test]
fn lines_come_one_by_one() {
    on_both(async || {
        let (reader, mut writer) = pipe(4096);
        let writing = tokio::spawn(async move {
            for n in 0..100 {
                writer
                    .write_all(format!("line {n}\n").as_bytes())
                    .await
                    .expect("it is read");
                tokio::task::yield_now().await;
            }
        });
        let mut lines = BufReader::new(reader).lines();
        for n in 0..100 {
            let line = lines.next_line().await.expect("it is text");
            assert_eq!(line, Some(format!("line {n}")));
        }
        assert_eq!(lines.next_line().await.expect("it ends"), None);
        writing.await.expect("no panic");
    });
}

#[test]
fn reads_and_writes_wait_and_can_be_dropped() {
    on_both(async || {
        let (mut reader, mut writer) = pipe(4096);
        let mut buf = [0; 64];
        waits(reader.read(&mut buf)).await;
        waits(async { AsyncReadExt::read(&mut reader, &mut buf).await }).await;
        assert_eq!(writer.write(&[1; 4000]).await.expect("room"), 4000);
        // Up to 4,096 bytes go in whole or not at all.
        waits(writer.write(&[2; 97])).await;
        waits(async { AsyncWriteExt::write(&mut writer, &[2; 97]).await }).await;
        assert_eq!(reader.read(&mut buf).await.expect("there are some"), 64);
        assert_eq!(buf, [1; 64]);
        assert_eq!(writer.write(&[3; 96]).await.expect("room"), 96);
        let mut all = [0; 4032];
        reader.read_exact(&mut all).await.expect("they are there");
        assert_eq!(
            (all[3935], all[3936], all[4031]),
            (1, 3, 3),
            "nothing of what was dropped"
        );
        waits(reader.read(&mut buf)).await;
        assert_eq!(reader.read(&mut []).await.expect("nothing is asked for"), 0);
        assert_eq!(writer.write(&[]).await.expect("nothing is written"), 0);
    });
}

#[test]
fn the_ends_are_told() {
    on_both(async || {
        let (reader, writer) = pipe(4096);
        let writer = Arc::new(writer);
        writer.write(&[1; 4096]).await.expect("room");
        let writing = {
            let writer = writer.clone();
            tokio::spawn(async move { writer.write(b"x").await })
        };
        a_while().await;
        drop(reader);
        assert_eq!(
            kind(writing.await.expect("no panic")),
            ErrorKind::Disconnected
        );
        let (mut reader, writer) = pipe(4096);
        let reading = tokio::spawn(async move { reader.read_u8().await });
        a_while().await;
        drop(writer);
        let end = reading.await.expect("no panic").expect_err("nothing came");
        assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof);
        let (reader, mut writer) = pipe(4096);
        drop(reader);
        let broken = writer.write_all(b"x").await.expect_err("nobody reads");
        assert_eq!(broken.kind(), std::io::ErrorKind::BrokenPipe);
    });
}

/// Readers that are dropped at any moment, on one pipe: each byte is read once.
#[test]
fn dropped_reads_lose_no_bytes() {
    on_both(async || {
        let (reader, mut writer) = pipe(4096);
        let total = scaled(60_000);
        let reader = Arc::new(reader);
        let reading: Vec<_> = (0..3)
            .map(|n| {
                let reader = reader.clone();
                let mut rng = Rng::from_env(&format!("reads {n}"));
                tokio::spawn(async move {
                    let (mut count, mut sum) = (0, 0_u64);
                    loop {
                        let mut buf = [0; 100];
                        let limit = Duration::from_micros(rng.below(200));
                        match timeout(limit, reader.read(&mut buf)).await {
                            Ok(Ok(0)) => return (count, sum),
                            Ok(read) => {
                                let read = read.expect("no error");
                                count += read;
                                sum += buf[..read].iter().map(|b| u64::from(*b)).sum::<u64>();
                            }
                            Err(_) => assert_eq!(buf, [0; 100], "nothing was read"),
                        }
                    }
                })
            })
            .collect();
        let mut sum = 0;
        let mut written = 0;
        while written < total {
            let chunk = [written as u8; 77];
            match timeout(Duration::from_micros(100), writer.write(&chunk)).await {
                Ok(count) => {
                    assert_eq!(count.expect("somebody reads"), 77);
                    written += 77;
                    sum += 77 * u64::from(chunk[0]);
                }
                Err(_) => tokio::task::yield_now().await,
            }
        }
        drop(std::mem::replace(&mut writer, pipe(4096).1));
        let mut got = (0, 0);
        for task in reading {
            let (count, sum) = task.await.expect("no panic");
            got = (got.0 + count, got.1 + sum);
        }
        assert_eq!(got, (written, sum));
    });
}
