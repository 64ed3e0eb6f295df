//! When a watch was last heard of.
//!
//! A watch that says nothing is either quiet or broken. The API server ends each watch after [`HEARTBEAT`], and the next
//! one begins where it ended: whoever answers that, or sends anything (bookmarks included), is there. What comes back is
//! listened to below `kube`'s watcher, which tells nobody of either.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;

/// How long the API server keeps a watch open, in seconds. `kube` gives up one that says nothing for 5 s longer.
pub(super) const HEARTBEAT: u32 = 30;
/// A watch that was not heard of for so long is behind: twice what a healthy one takes.
pub(super) const OVERDUE: Duration = Duration::from_secs(70);

/// When one watch was last heard of.
#[derive(Debug)]
pub(super) struct Pulse(Mutex<Instant>);

impl Pulse {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Instant::now())))
    }

    /// It was heard of now.
    pub(super) fn beat(&self) {
        *self.0.lock() = Instant::now();
    }

    /// How long ago that was.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.0.lock())
    }

    /// The same client; whatever it hears of a watch counts.
    pub(super) fn listen(self: &Arc<Self>, client: &Client) -> Client {
        let (inner, pulse) = (client.clone(), self.clone());
        let namespace = client.default_namespace().to_owned();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (inner, pulse) = (inner.clone(), pulse.clone());
            async move {
                let watching = request.uri().query().is_some_and(|query| query.contains("watch=true"));
                let response = inner.send(request).await?;
                let pulse = (watching && response.status().is_success()).then_some(pulse);
                if let Some(pulse) = &pulse {
                    pulse.beat();
                }
                Ok::<_, kube::Error>(response.map(|body| Heard { body, pulse }))
            }
        });
        Client::new(service, namespace)
    }
}

/// A body of which every piece counts.
struct Heard {
    body: Body,
    pulse: Option<Arc<Pulse>>,
}

impl HttpBody for Heard {
    type Data = Bytes;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let (Poll::Ready(Some(Ok(_))), Some(pulse)) = (&polled, &self.pulse) {
            pulse.beat();
        }
        polled
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
    use http::Response;
    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;
    use kube::api::{ListParams, WatchParams};

    const BOOKMARK: &str =
        r#"{"type":"BOOKMARK","object":{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"7"}}}"#;

    fn answering(status: u16) -> Client {
        let answer = move |_: Request<Body>| async move {
            let body = Body::from(format!("{BOOKMARK}\n").into_bytes());
            Ok::<_, std::convert::Infallible>(Response::builder().status(status).body(body).unwrap())
        };
        Client::new(tower::service_fn(answer), "default")
    }

    fn long_ago(pulse: &Pulse) {
        *pulse.0.lock() = Instant::now().checked_sub(OVERDUE).unwrap();
    }

    #[tokio::test]
    async fn an_answered_watch_and_each_bookmark_are_signs_of_life_and_nothing_else_is() {
        use futures::StreamExt;
        let pulse = Pulse::new();
        let pods: Api<Pod> = Api::all(pulse.listen(&answering(200)));
        long_ago(&pulse);
        let mut stream = pods.watch(&WatchParams::default(), "1").await.unwrap().boxed();
        assert!(pulse.age(Instant::now()) < OVERDUE, "it was answered");
        long_ago(&pulse);
        assert!(stream.next().await.is_some());
        assert!(pulse.age(Instant::now()) < OVERDUE, "a bookmark came");
        long_ago(&pulse);
        let _ = pods.list(&ListParams::default()).await;
        assert!(pulse.age(Instant::now()) >= OVERDUE, "a list that nobody could read is none");
        let refused: Api<Pod> = Api::all(pulse.listen(&answering(403)));
        assert!(refused.watch(&WatchParams::default(), "1").await.is_err());
        assert!(pulse.age(Instant::now()) >= OVERDUE, "a refusal is none");
    }
}
