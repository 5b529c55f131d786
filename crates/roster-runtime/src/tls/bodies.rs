//! Reads request bodies before a request takes any other resource.
//!
//! ```text
//!  request ─▶ permit of its peer ─▶ bytes of the shared budget ─▶ body, within a timeout ─▶ handler
//! ```
//!
//! The budget is charged by `Content-Length`, or by the size limit if there is none, until the request is answered:
//! what is parsed out of a body stays in memory that long.
//!
//! hyper closes a connection if a response is sent before the request's body is read. Its client may then see a reset
//! instead of the response. So a reader can discard the rest of a body that it refuses.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use roster_credentials::network::network_of;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::connections::{Connection, Standing};
use super::network_permits::{NetworkShare, NetworkShares};
use super::peer::Peer;

/// Timeout for reading a body, including the wait for the budget.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer than [`BODY_TIMEOUT`] the rest of a refused body is read.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of bytes of a refused body that are read and discarded. A review of kube-apiserver contains an object
/// of up to 3 MiB twice, and is sent as JSON.
const MAX_DISCARDED: usize = 16 * 1024 * 1024;

/// Limits on request bodies.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Maximum size of one body, in bytes.
    pub max_bytes: usize,
    /// Bodies that one peer may be sending concurrently. An address with proven connections of kube-apiserver is not
    /// limited, because TokenReview requests do not prove by themselves that they come from kube-apiserver. Calling code
    /// gives its unproven connections a budget of their own.
    pub max_per_peer: usize,
    /// The same for all peers of one site.
    pub max_per_site: usize,
    /// Bytes of all bodies being read or handled.
    pub budget: usize,
    /// Bodies up to this size, in bytes, are not charged to the budget, so they do not wait for larger ones. Their
    /// number is bounded by the connection limit.
    pub free_bytes: usize,
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BodyError {
    /// The peer is sending too many bodies concurrently.
    #[error("too many concurrent request bodies from this address")]
    TooManyOfPeer,
    /// Not enough of the budget became free in time.
    #[error("too many concurrent large requests")]
    Saturated,
    /// The body exceeds this limit, in bytes.
    #[error("the body has more than {0} bytes")]
    TooLarge(usize),
    /// The body was not complete in time.
    #[error("reading the body took too long")]
    TooSlow,
    /// The connection broke, or the framing is wrong.
    #[error("the body could not be read")]
    Broken,
    /// The request has no [`Peer`] extension, which is a bug.
    #[error("the connection is unknown")]
    UnknownPeer,
}

/// Reads bodies within limits.
#[derive(Debug)]
pub struct BodyReader {
    limits: BodyLimits,
    timeout: Duration,
    peers: NetworkShares,
    budget: Arc<Semaphore>,
    is_for_reviews: bool,
}

/// A part of the budget, returned on drop.
#[derive(Debug)]
pub struct BodyPermit {
    _bytes: OwnedSemaphorePermit,
    /// For a review, that of the peer, too.
    _peer: Option<NetworkShare>,
}

impl BodyReader {
    /// Creates a reader with its own budget.
    pub fn new(limits: BodyLimits) -> Self {
        let peers = NetworkShares::new(limits.max_per_peer, limits.max_per_site);
        let budget = Arc::new(Semaphore::new(limits.budget));
        Self { limits, timeout: BODY_TIMEOUT, peers, budget, is_for_reviews: false }
    }

    /// Returns a reader for reviews of kube-apiserver, whose secret path may leak.
    ///
    /// It discards the rest of bodies that it refuses, up to a size and time, because kube-apiserver reports the URL of a
    /// webhook, with its secret path, if the connection is reset. The limits per peer and site apply as long as the
    /// budget is used, not only while bodies are sent.
    pub fn for_reviews(limits: BodyLimits) -> Self {
        Self { is_for_reviews: true, ..Self::new(limits) }
    }

    /// Reads the body. Returns the request with it and its share of the budget, to be held until the request is
    /// answered.
    ///
    /// # Errors
    /// If a limit is reached, the body is too large, or it takes too long.
    pub async fn read(&self, request: Request) -> Result<(Request, BodyPermit), BodyError> {
        match self.permit_for(&request) {
            Ok(peer) => {
                let (request, permit) = self.read_within_budget(request).await?;
                Ok((request, BodyPermit { _peer: peer.filter(|_| self.is_for_reviews), ..permit }))
            }
            Err(error) => {
                self.discard(&mut request.into_body(), Instant::now() + self.timeout).await;
                Err(error)
            }
        }
    }

    /// Like [`BodyReader::read`], but without the limits per peer: for requests that the calling code limits itself.
    ///
    /// # Errors
    /// As [`BodyReader::read`].
    pub async fn read_within_budget(&self, request: Request) -> Result<(Request, BodyPermit), BodyError> {
        let deadline = Instant::now() + self.timeout;
        let length = length(&request);
        let (parts, mut body) = request.into_parts();
        match self.read_body(&mut body, length, deadline).await {
            Ok((body, bytes)) => {
                Ok((Request::from_parts(parts, Body::from(body)), BodyPermit { _bytes: bytes, _peer: None }))
            }
            Err(error) => {
                if matches!(error, BodyError::TooLarge(_) | BodyError::Saturated) {
                    self.discard(&mut body, deadline).await;
                }
                Err(error)
            }
        }
    }

    async fn read_body(
        &self,
        body: &mut Body,
        length: Option<usize>,
        deadline: Instant,
    ) -> Result<(Bytes, OwnedSemaphorePermit), BodyError> {
        let max = self.limits.max_bytes;
        let length = length.unwrap_or(max);
        if length > max {
            return Err(BodyError::TooLarge(max));
        }
        // Never wait for more than the whole budget, whatever the limits are.
        let charge = if length <= self.limits.free_bytes { 0 } else { length.min(self.limits.budget) };
        let charge = u32::try_from(charge).unwrap_or(u32::MAX);
        let budget = timeout_at(deadline, Arc::clone(&self.budget).acquire_many_owned(charge)).await;
        let Ok(Ok(budget)) = budget else { return Err(BodyError::Saturated) };
        match timeout_at(deadline, Limited::new(body, max).collect()).await {
            Ok(Ok(body)) => Ok((body.to_bytes(), budget)),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge(max)),
            Ok(Err(_)) => Err(BodyError::Broken),
            Err(_) => Err(BodyError::TooSlow),
        }
    }

    /// Discards the rest of a refused body, until [`DISCARD_TIMEOUT`] after the deadline for reading it.
    async fn discard(&self, body: &mut Body, deadline: Instant) {
        if !self.is_for_reviews {
            return;
        }
        let rest = async {
            let mut left = MAX_DISCARDED;
            while let Some(Ok(frame)) = body.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len);
                let Some(rest) = left.checked_sub(length) else { return };
                left = rest;
            }
        };
        // If it takes too long, the response is sent anyway.
        let _ = timeout_at(deadline + DISCARD_TIMEOUT, rest).await;
    }

    /// Returns the free bytes of the budget.
    pub fn available_budget(&self) -> usize {
        self.budget.available_permits()
    }

    fn permit_for(&self, request: &Request) -> Result<Option<NetworkShare>, BodyError> {
        let connection = request.extensions().get::<Arc<Connection>>();
        if connection.is_some_and(|connection| connection.standing() != Standing::Unknown) {
            return Ok(None);
        }
        let peer = request.extensions().get::<Arc<Peer>>().ok_or(BodyError::UnknownPeer)?;
        self.peers.take(network_of(peer.remote.ip())).map(Some).ok_or(BodyError::TooManyOfPeer)
    }
}

/// Returns the declared length of the body in bytes, if any.
pub fn length(request: &Request) -> Option<usize> {
    request.body().size_hint().exact().map(|length| usize::try_from(length).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;
    use futures::{StreamExt, stream};

    const LIMITS: BodyLimits =
        BodyLimits { max_bytes: 100, max_per_peer: 2, max_per_site: 3, budget: 150, free_bytes: 0 };

    /// Returns a reader with a short timeout.
    fn impatient() -> BodyReader {
        BodyReader { timeout: Duration::from_millis(50), ..BodyReader::new(LIMITS) }
    }

    fn request(last: u8, body: Body) -> Request {
        let remote = ([192, 0, 2, last], 1).into();
        Request::post("/").extension(Arc::new(Peer { remote, certificates: Vec::new() })).body(body).unwrap()
    }

    fn endless() -> Body {
        Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 30]))))
    }

    #[tokio::test]
    async fn bodies_are_read_up_to_their_limit() {
        let reader = BodyReader::new(LIMITS);
        let (read, _permit) = reader.read(request(1, Body::from("hello"))).await.unwrap();
        assert_eq!(to_bytes(read.into_body(), 100).await.unwrap(), "hello");
        let announced = reader.read(request(1, Body::from("x".repeat(101)))).await;
        let unannounced = reader.read(request(1, endless())).await;
        for refused in [announced, unannounced] {
            assert_eq!(refused.map(drop).unwrap_err(), BodyError::TooLarge(100));
        }
        let broken = Body::from_stream(stream::iter([Err::<Bytes, _>(std::io::Error::other("reset"))]));
        assert_eq!(reader.read(request(1, broken)).await.map(drop).unwrap_err(), BodyError::Broken);
        let unknown = reader.read(Request::new(Body::empty())).await;
        assert_eq!(unknown.map(drop).unwrap_err(), BodyError::UnknownPeer);
    }

    #[tokio::test]
    async fn all_bodies_together_have_a_budget() {
        let reader = impatient();
        let body = || Body::from("x".repeat(70));
        let mut permits = Vec::new();
        for _ in 0..2 {
            permits.push(reader.read(request(1, body())).await.unwrap().1);
        }
        assert_eq!(reader.read(request(2, body())).await.map(drop).unwrap_err(), BodyError::Saturated);
        assert!(reader.read(request(2, Body::from("short"))).await.is_ok(), "there are ten bytes left");
        permits.pop();
        assert!(reader.read(request(2, body())).await.is_ok());
    }

    #[tokio::test]
    async fn small_bodies_do_not_wait_for_large_ones() {
        let reader = BodyReader { limits: BodyLimits { free_bytes: 20, ..LIMITS }, ..impatient() };
        let silent = || Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let mut sending = Box::pin(reader.read(request(1, silent())));
        assert!(futures::poll!(&mut sending).is_pending());
        assert_eq!(
            reader.read(request(2, Body::from("x".repeat(70)))).await.map(drop).unwrap_err(),
            BodyError::Saturated
        );
        assert!(reader.read(request(2, Body::from("short"))).await.is_ok());
    }

    #[tokio::test]
    async fn a_peer_sends_a_limited_number_of_bodies_concurrently() {
        let reader = BodyReader::new(LIMITS);
        let announced = || Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let mut sending: Vec<_> = (0..2).map(|_| Box::pin(reader.read(request(1, announced())))).collect();
        for read in &mut sending {
            assert!(futures::poll!(read).is_pending());
        }
        assert_eq!(reader.read(request(1, Body::empty())).await.map(drop).unwrap_err(), BodyError::TooManyOfPeer);
        assert!(reader.read(request(2, Body::empty())).await.is_ok());
        let mut neighbour = Box::pin(reader.read(request(2, announced())));
        assert!(futures::poll!(&mut neighbour).is_pending());
        let refused = reader.read(request(3, Body::empty())).await.map(drop).unwrap_err();
        assert_eq!(refused, BodyError::TooManyOfPeer, "the site is at its limit");
        drop(neighbour);
        sending.pop();
        assert!(reader.read(request(1, Body::empty())).await.is_ok());
    }

    /// Otherwise, one site could hold the whole budget with reviews that take long.
    #[tokio::test]
    async fn reviews_count_for_their_peer_until_they_are_answered() {
        let reader = BodyReader::for_reviews(LIMITS);
        let read = |last| reader.read(request(last, Body::from("short")));
        let (one, _two) = (read(1).await.unwrap(), read(1).await.unwrap());
        assert_eq!(read(1).await.map(drop).unwrap_err(), BodyError::TooManyOfPeer);
        let _neighbour = read(2).await.unwrap();
        assert_eq!(read(3).await.map(drop).unwrap_err(), BodyError::TooManyOfPeer, "the site is at its limit");
        drop(one);
        assert!(read(1).await.is_ok());
        let others = BodyReader::new(LIMITS);
        let mut read = Vec::new();
        for _ in 0..10 {
            read.push(others.read(request(1, Body::from("short"))).await.expect("others count while they are sent"));
        }
    }

    #[tokio::test]
    async fn a_body_that_never_arrives_times_out() {
        let reader = impatient();
        let silent = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(reader.read(request(1, silent)).await.map(drop).unwrap_err(), BodyError::TooSlow);
        assert_eq!(reader.budget.available_permits(), LIMITS.budget);
    }

    /// Returns a body of chunks, and the number of chunks that were read.
    fn counted(chunks: usize, size: usize) -> (Body, Arc<std::sync::atomic::AtomicUsize>) {
        let read = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = Arc::clone(&read);
        let chunk = Bytes::from(vec![b'x'; size]);
        let chunks = stream::iter(0..chunks).map(move |_| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok::<_, std::io::Error>(chunk.clone())
        });
        (Body::from_stream(chunks), read)
    }

    /// Otherwise hyper would reset the connection, and kube-apiserver would report the URL.
    #[tokio::test]
    async fn refused_bodies_are_discarded_for_clients_that_must_get_the_response() {
        let read = |count: &std::sync::atomic::AtomicUsize| count.load(std::sync::atomic::Ordering::Relaxed);
        let (body, count) = counted(50, 30);
        assert!(BodyReader::new(LIMITS).read(request(1, body)).await.is_err());
        assert!(read(&count) < 50, "others get no such service");
        let reader = BodyReader::for_reviews(LIMITS);
        let (body, count) = counted(50, 30);
        assert_eq!(reader.read(request(1, body)).await.map(drop).unwrap_err(), BodyError::TooLarge(100));
        assert_eq!(read(&count), 50);
        let silent = || Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let mut sending: Vec<_> = (0..2).map(|_| Box::pin(reader.read(request(1, silent())))).collect();
        for sent in &mut sending {
            assert!(futures::poll!(sent).is_pending());
        }
        let (body, count) = counted(50, 30);
        assert_eq!(reader.read(request(1, body)).await.map(drop).unwrap_err(), BodyError::TooManyOfPeer);
        assert_eq!(read(&count), 50);
        let (body, count) = counted(50, 1024 * 1024);
        assert!(reader.read(request(1, body)).await.is_err());
        assert!(read(&count) <= 17, "at most 16 MiB");
    }

    #[tokio::test]
    async fn discarding_ends_with_the_time_limit() {
        let reader = BodyReader { timeout: Duration::ZERO, ..BodyReader::for_reviews(LIMITS) };
        let rest =
            stream::iter([Ok(Bytes::from(vec![b'x'; 101]))]).chain(stream::pending::<Result<_, std::io::Error>>());
        let refused = tokio::time::timeout(Duration::from_secs(5), reader.read(request(1, Body::from_stream(rest))));
        assert!(refused.await.expect("it gives up").is_err());
    }
}
