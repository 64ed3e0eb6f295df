//! The task of one stream: what comes, what changes, what is sent, and why it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::mpsc::error::TrySendError;
use tonic::Status;

use super::{Ads, Failed, Opened, Out, no_request, price};
use crate::fleet::Connected;
use crate::metrics::{End, Metrics};
use crate::snapshots::Feed;
use crate::xds::body::{Item, NoRequest, Requests};
use crate::xds::door::{Account, Inside};
use crate::xds::pace::Pace;
use crate::xds::session::{Rejections, Said, Session, Violation};
use crate::xds::text;
use crate::xds::wire::{DeltaRequest, DeltaResponse};

/// Characters of Envoy's words that are logged.
const MOST_LOGGED: usize = 512;
/// Refusals of a stream that are logged at once; after that one a second. All are counted.
const WORDS: (u32, u32) = (20, 1);
/// Units that the streams of a pod may spend at once, besides eight for each resource that they are served: an Envoy that
/// connects names each about twice.
const BURST: u32 = 50_000;
/// Units that they may spend in a second for as long as they like.
const PER_SECOND: u32 = 2_000;

pub(super) struct Stream<'a> {
    ads: &'a Ads,
    out: &'a Out,
    session: Session,
    feed: Feed,
    pub(super) connected: Arc<Connected>,
    account: Arc<Account>,
    _inside: Inside,
    /// Bytes that the service account was told of.
    remembered: usize,
    pace: Pace,
    /// Of what is logged.
    words: Pace,
    /// Nothing is read before.
    resume: Instant,
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        let rejected = std::mem::take(&mut self.connected.status.lock().rejected);
        self.count(&rejected, &Rejections::default());
        // Less is always allowed.
        let _ = self.account.remember(self.remembered, 0);
        self.account.spent(&self.connected.pod.uid, self.pace.clone(), Instant::now());
        self.ads.metrics.streams.dec();
        self.ads.proxies.remove(&self.connected);
    }
}

impl<'a> Stream<'a> {
    /// Lists it among the fleet's.
    pub(super) fn new(ads: &'a Ads, out: &'a Out, opened: Opened) -> Self {
        let Opened { connected, session, feed, account, inside } = opened;
        ads.proxies.add(connected.clone());
        ads.metrics.streams.inc();
        let served =
            mesh::ResourceType::ALL.map(|kind| session.served().of(kind).len()).iter().sum::<usize>();
        let served = u32::try_from(served).unwrap_or(u32::MAX);
        let pace = Pace::new(served.saturating_mul(8).saturating_add(BURST), PER_SECOND);
        // Who comes back has not got it all anew.
        let pace = account.paid(&connected.pod.uid, pace);
        Self {
            ads,
            out,
            session,
            feed,
            connected,
            account,
            _inside: inside,
            remembered: 0,
            pace,
            words: Pace::new(WORDS.0, WORDS.1),
            resume: Instant::now(),
        }
    }

    /// Serves until it ends.
    pub(super) async fn run(&mut self, mut requests: Requests, not_after: i64) -> Result<End, Failed> {
        let left = not_after.saturating_sub(OffsetDateTime::now_utc().unix_timestamp());
        let expiry = tokio::time::sleep(Duration::from_secs(u64::try_from(left).unwrap_or(0)));
        tokio::pin!(expiry);
        let mut watchdog = tokio::time::interval(self.ads.limits.stuck);
        watchdog.tick().await;
        let mut waited_for: Option<String> = None;
        let (wake, patience) = (self.session.wake(), self.session.patience());
        let mut again = tokio::time::Instant::now();
        let ads = self.ads;
        let turn = async {
            ads.stopping.cancelled().await;
            tokio::time::sleep(ads.leaving.turn(ads.metrics.streams.get())).await;
        };
        tokio::pin!(turn);
        let aged = tokio::time::sleep(self.life());
        tokio::pin!(aged);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(self.resume.into()), if self.paused() => {}
                message = requests.message(), if !self.paused() => match message {
                    Ok(Some(request)) => self.request(&request).await?,
                    Ok(None) | Err(NoRequest::Broken(_)) => return Ok(End::Closed),
                    Err(why) => return Err(no_request(&why)),
                },
                changed = self.feed.served.changed() => {
                    if changed.is_err() {
                        return Ok(End::Stopping);
                    }
                    let served = self.feed.served.borrow_and_update().clone();
                    let responses = self.session.on_snapshot(served);
                    self.send(responses).await?;
                }
                () = wake.notified() => {
                    let responses = self.session.on_answer();
                    self.send(responses).await?;
                }
                () = tokio::time::sleep_until(again), if self.session.gated() => {
                    let responses = self.session.on_answer();
                    self.send(responses).await?;
                    again = tokio::time::Instant::now() + patience;
                }
                _ = watchdog.tick() => {
                    let waits = self.session.waits_for();
                    if waits.is_some() && waits == waited_for.as_deref() {
                        return Err((End::Stuck, Status::aborted("a response was not acknowledged in time")));
                    }
                    waited_for = waits.map(str::to_owned);
                }
                // Envoy comes back with the certificate that it has by then, or not at all.
                () = &mut expiry => return Ok(End::Expired),
                () = self.connected.replaced.cancelled() => {
                    return Err((End::Replaced, Status::aborted("a newer stream took the place of this one")));
                }
                () = &mut aged => return Ok(End::Aged),
                () = self.connected.spare.cancelled() => return Ok(End::OverShare),
                // An end without an error: Envoy connects to another replica at once.
                () = &mut turn => return Ok(End::Stopping),
            }
        }
    }

    /// How long it may last: shorter by up to a quarter, another quarter of which for each pod, so that those that came
    /// together do not go together.
    fn life(&self) -> Duration {
        use std::hash::{BuildHasher, RandomState};
        let share = RandomState::new().hash_one(&self.connected.pod.uid) % 256;
        let age = self.ads.limits.age;
        age - age / 1024 * u32::try_from(share).unwrap_or_default()
    }

    /// Whether it asks for too much, so that nothing is read for a while.
    fn paused(&self) -> bool {
        self.resume > Instant::now()
    }

    /// Takes the price of a request.
    fn pay(&mut self, price: u32) {
        let now = Instant::now();
        let pause = self.pace.spend(price, now);
        if !pause.is_zero() {
            self.ads.metrics.paused.inc();
            self.resume = now + pause;
        }
    }

    /// Counts what is remembered for this stream, for its service account.
    fn remember(&mut self) -> Result<(), Violation> {
        let now = self.session.foreign();
        self.account.remember(self.remembered, now).map_err(|(bytes, most)| Violation::Foreign {
            whom: "service account",
            bytes,
            most,
        })?;
        self.remembered = now;
        Ok(())
    }

    /// Takes a request.
    pub(super) async fn request(&mut self, request: &DeltaRequest) -> Result<(), Failed> {
        let outcome = self.session.on_request(request).and_then(|outcome| self.remember().map(|()| outcome));
        let outcome = outcome.map_err(|violation| {
            let pod = &self.connected.pod;
            let message = format!("pod {}/{}: {violation}", pod.namespace, pod.name);
            (End::Violation, Status::resource_exhausted(message))
        })?;
        self.pay(price::of(request, outcome.said, outcome.looked));
        match outcome.said {
            Said::Accepted(kind) => {
                self.ads.metrics.acks.get_or_create(&Metrics::per(kind)).inc();
            }
            Said::Refused(kind) => {
                self.ads.metrics.nacks.get_or_create(&Metrics::per(kind)).inc();
                if self.words.take(Instant::now(), Duration::ZERO).is_ok() {
                    self.log_refusal(kind, request);
                }
            }
            Said::Nothing | Said::Foreign => {}
        }
        self.send(outcome.responses).await
    }

    fn log_refusal(&self, kind: mesh::ResourceType, request: &DeltaRequest) {
        let error = request.error_detail.as_ref().map(|error| error.message.as_str());
        let error = text::told(error.unwrap_or_default(), MOST_LOGGED);
        let (pod, namespace) = (&self.connected.pod.name, &self.connected.pod.namespace);
        tracing::warn!(pod, namespace, r#type = kind.as_str(), error, "rejected by Envoy");
    }

    /// Counts what is refused, which was counted as `before`.
    fn count(&self, before: &Rejections, now: &Rejections) {
        let Metrics { older_rules, withheld, .. } = &self.ads.metrics;
        let moves =
            [(older_rules, before.older_rules, now.older_rules), (withheld, before.withheld, now.withheld)];
        for (gauge, before, now) in moves {
            let signed = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
            gauge.inc_by(signed(now) - signed(before));
        }
    }

    async fn send(&self, responses: Vec<DeltaResponse>) -> Result<(), Failed> {
        for response in responses {
            if let Some(kind) = mesh::ResourceType::from_type_url(&response.type_url) {
                self.ads.metrics.pushes.get_or_create(&Metrics::per(kind)).inc();
                self.ads
                    .metrics
                    .sent
                    .get_or_create(&Metrics::per(kind))
                    .inc_by(response.resources.len() as u64);
            }
            self.ads.metrics.bytes.inc_by(prost::Message::encoded_len(&response) as u64);
            self.put(Ok(Box::new(response))).await?;
        }
        let mut status = self.connected.status.lock();
        status.in_sync = self.session.in_sync();
        let rejected = self.session.rejections();
        self.count(&status.rejected, &rejected);
        status.rejected = rejected;
        if self.session.idle() {
            status.held = self.session.held();
        }
        Ok(())
    }

    /// Puts a response into the queue: mostly there is room, and no timer is needed.
    async fn put(&self, item: Item) -> Result<(), Failed> {
        let closed = || (End::Closed, Status::cancelled("closed"));
        let item = match self.out.try_send(item) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(_)) => return Err(closed()),
            Err(TrySendError::Full(item)) => item,
        };
        match tokio::time::timeout(self.ads.limits.stuck, self.out.send(item)).await {
            Ok(sent) => sent.map_err(|_| closed()),
            Err(_) => Err((End::Stuck, Status::aborted("nothing was read for too long"))),
        }
    }
}
