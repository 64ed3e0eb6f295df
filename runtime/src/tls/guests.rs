//! Who is connected: so many of one address, and nobody who asks nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// Open connections of one address, those in their handshake included. A sidecar has one or two; behind an address
    /// that is translated may be all pods of a node.
    pub(super) each: usize,
    /// A connection without a request for so long is closed.
    pub(super) idle: Duration,
    /// Whose connections are not counted: what comes over loopback is of the same pod.
    pub(super) exempt: fn(IpAddr) -> bool,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            each: 512,
            idle: Duration::from_secs(300),
            exempt: |address| address.to_canonical().is_loopback(),
        }
    }
}

/// How many connections each address has.
#[derive(Debug, Clone, Default)]
pub(super) struct Guests(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Guests {
    /// A place, until it is dropped; `None` when the address has all of its own.
    pub(super) fn place(&self, address: IpAddr, places: &Places) -> Option<Place> {
        let address = address.to_canonical();
        if (places.exempt)(address) {
            return Some(Place(None));
        }
        let mut all = self.0.lock();
        let count = all.entry(address).or_default();
        if *count >= places.each {
            return None;
        }
        *count += 1;
        Some(Place(Some((self.clone(), address))))
    }
}

/// A connection's place.
#[derive(Debug)]
pub(super) struct Place(Option<(Guests, IpAddr)>);

impl Drop for Place {
    fn drop(&mut self) {
        let Some((guests, address)) = self.0.take() else { return };
        let mut all = guests.0.lock();
        if let Some(count) = all.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                all.remove(&address);
            }
        }
    }
}

/// The requests of one connection: those that are not answered, and answers that are still on their way.
#[derive(Debug, Clone, Default)]
pub(super) struct Requests(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    open: AtomicU64,
    begun: AtomicU64,
    ended: Notify,
}

impl Requests {
    pub(super) fn begin(&self) -> Request {
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        self.0.open.fetch_add(1, Ordering::SeqCst);
        Request(self.clone())
    }

    /// Ends when there has been none for so long.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let begun = self.0.begun.load(Ordering::SeqCst);
            if self.0.open.load(Ordering::SeqCst) > 0 {
                // Woken also when the last one ended between the look and here: a permit is kept.
                self.0.ended.notified().await;
                continue;
            }
            tokio::time::sleep(limit).await;
            let none = self.0.open.load(Ordering::SeqCst) == 0;
            if none && self.0.begun.load(Ordering::SeqCst) == begun {
                return;
            }
        }
    }
}

/// A request, until its answer is sent.
#[derive(Debug)]
pub(super) struct Request(Requests);

impl Request {
    /// The answer, with which the request ends.
    pub(super) fn answer(self, response: http::Response<Body>) -> http::Response<Body> {
        response.map(|body| Body::new(Answer { body, _request: self }))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.0.0.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.0.ended.notify_one();
        }
    }
}

struct Answer {
    body: Body,
    _request: Request,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_places_and_gives_them_back() {
        let places = Places { each: 2, exempt: |_| false, ..Places::default() };
        let (guests, one) = (Guests::default(), IpAddr::from([10, 0, 0, 1]));
        let held: Vec<_> = (0..2).map(|_| guests.place(one, &places).unwrap()).collect();
        assert!(guests.place(one, &places).is_none());
        assert!(guests.place("::ffff:10.0.0.1".parse().unwrap(), &places).is_none(), "the same address");
        assert!(guests.place(IpAddr::from([10, 0, 0, 2]), &places).is_some());
        drop(held);
        assert!(guests.place(one, &places).is_some());
        assert!(guests.0.lock().is_empty(), "nothing is kept of those who left");
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let held: Vec<_> = (0..10_000).map(|_| guests.place(loopback, &Places::default())).collect();
        assert!(held.iter().all(Option::is_some));
    }

    #[tokio::test]
    async fn a_connection_is_idle_after_its_last_answer() {
        let (requests, limit) = (Requests::default(), Duration::from_millis(10));
        let request = requests.begin();
        let mut idle = std::pin::pin!(requests.idle(limit));
        assert!(tokio::time::timeout(limit * 5, &mut idle).await.is_err(), "a request is open");
        let answer = request.answer(http::Response::new(Body::from("text")));
        assert!(tokio::time::timeout(limit * 5, &mut idle).await.is_err(), "its answer is on its way");
        drop(answer);
        tokio::time::sleep(limit / 2).await;
        drop(requests.begin());
        idle.await;
    }
}
