//! Requests and answers.

use super::{Async, Interest, Reactor};
use crate::call::Request;
use crate::error::{ErrorKind, Result};
use crate::handle::{CanReceive, Handle};
use crate::object::{Inner, Ref};
use crate::pool::{Buffer, Pool};
use crate::recv::Message;
use crate::trust::Trust;
use crate::wait::Wait;
use std::sync::Arc;
use std::task::{Context, Poll};

/// # Answering
///
/// What can fail is said under [Receiving](#receiving). [`Request::reply`] never waits. To call is
/// another matter: see [the module](super).
impl<A: CanReceive, R: Reactor> Async<Handle<A>, R> {
    /// Receives a request, and waits for one. Messages that nobody waits for are received, too:
    /// [`Request::is_open`] tells.
    ///
    /// ```
    /// # async fn one<R: postbox::aio::Reactor>(
    /// #     server: &postbox::aio::Async<postbox::Receiver, R>,
    /// # ) -> postbox::Result<()> {
    /// let mut request = server.recv_request().await?;
    /// let reply = request.to_ascii_uppercase();
    /// request.reply(reply)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Handle::recv_request`].
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was received. A [`Request`] that
    /// is dropped tells its caller that there will be no reply.
    pub async fn recv_request(&self) -> Result<Request<'_>> {
        self.io(Interest::Read, Handle::try_recv_request).await
    }

    /// The same with a request that can be answered in another task.
    ///
    /// ```
    /// # async fn work(request: &[u8]) -> Vec<u8> { request.to_vec() }
    /// # async fn serve<R: postbox::aio::Reactor>(
    /// #     server: std::sync::Arc<postbox::aio::Async<postbox::Receiver, R>>,
    /// #     spawn: impl Fn(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>),
    /// # ) -> postbox::Result<()> {
    /// loop {
    ///     let mut request = server.clone().recv_request_owned().await?;
    ///     spawn(Box::pin(async move {
    ///         let reply = work(&request).await;
    ///         let _ = request.reply(reply); // it fails where the caller has given up
    ///     }));
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`recv_request`](Self::recv_request).
    ///
    /// # Cancel safety
    /// As [`recv_request`](Self::recv_request).
    pub async fn recv_request_owned(self: Arc<Self>) -> Result<Request<'static>> {
        let receive = |handle: &Handle<A>| handle.inner.recv(0, None, Wait::Never);
        let (message, token) = self.io(Interest::Read, receive).await?;
        Ok(Request::new(Ref::<Inner>::Kept(self), message, token))
    }

    /// Receives a request, for who is polled.
    ///
    /// # Errors
    /// As [`recv_request`](Self::recv_request).
    pub fn poll_recv_request(&self, cx: &mut Context<'_>) -> Poll<Result<Request<'_>>> {
        self.poll_io(Interest::Read, cx, Handle::try_recv_request)
    }

    /// Receives a request with its buffers: see [`Handle::recv_request_buffers`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// As [`recv_request`](Self::recv_request).
    pub async fn recv_request_buffers<T: Trust>(
        &self,
        pool: &Pool<T>,
    ) -> Result<(Request<'_>, Vec<Buffer<T>>)> {
        self.io(Interest::Read, |handle| {
            handle.recv_request_buffers(pool, Wait::Never)
        })
        .await
    }

    /// Answers request after request with what the future of `answer` returns, one after the other,
    /// until the last sender is gone. Several tasks, threads or processes can serve one mailbox.
    ///
    /// What is sent without waiting for a reply is passed to `answer` as well, and the answer to it
    /// goes nowhere. A caller that gives up meanwhile does not end it.
    ///
    /// ```
    /// # async fn serve<R: postbox::aio::Reactor>(
    /// #     server: &postbox::aio::Async<postbox::Receiver, R>,
    /// # ) -> postbox::Result<()> {
    /// server.serve(async |request| request.to_ascii_uppercase()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What ends it otherwise: see [Receiving](#receiving) and [`Request::reply`].
    ///
    /// # Cancel safety
    /// When it is dropped, the request that `answer` is at is not answered: its caller is told so.
    /// No other one is lost.
    pub async fn serve<B, F>(&self, mut answer: impl FnMut(Message) -> F) -> Result<()>
    where
        B: AsRef<[u8]>,
        F: Future<Output = B>,
    {
        loop {
            let mut request = match self.recv_request().await {
                Err(error) if error.is_disconnected() => return Ok(()),
                request => request?,
            };
            loop {
                let reply = answer(request.take_message()).await;
                // Together with the next one, if that is there.
                match request.try_reply_recv(&reply) {
                    Ok(()) => {}
                    // The reply is sent, or nobody waits for it, and nothing else is there.
                    Err(error) if error.would_wait() || error.kind == ErrorKind::Stale => break,
                    Err(error) if error.is_disconnected() => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        }
    }
}
