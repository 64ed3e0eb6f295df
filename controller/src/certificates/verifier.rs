//! Whose token is this? Verified against the cluster's keys; the API server is asked only when it must be.
//!
//! Local verification costs 17 µs and no call (DESIGN, rule 4). A key id that is not known leads to one fetch of the
//! keys, at most every [`REFETCH_SECONDS`], and then to a TokenReview, at most [`REVIEWS`] at a time and so many of each
//! caller ([`super::reviews`]): a flood of invented key ids cannot become a flood of calls. Whoever has a token of a key that is
//! known waits for nobody's call.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::refusal::Refusal;
use super::reviews::{Ask, Reviews};
use super::token::{Bearer, Key, Keys, Token};

/// Keys are fetched again after this time, so that a key that was taken out of service stops counting.
const FRESH_SECONDS: i64 = 300;
/// Shortest time between two fetches.
const REFETCH_SECONDS: i64 = 10;
/// TokenReviews at one time.
const REVIEWS: usize = 4;
/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(5);

/// Why the API server gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The call failed.
    #[error("the API server cannot be asked")]
    Call(#[source] Box<kube::Error>),
    /// The answer is not what it should be.
    #[error("the API server's answer is not understood: {0}")]
    Answer(String),
}

/// What the API server says of tokens.
pub trait TokenApi: Send + Sync + 'static {
    /// Issuer and keys. An error where the cluster does not publish them (Kubernetes 1.19 and older).
    fn keys(&self) -> BoxFuture<'_, Result<Keys, ApiError>>;
    /// A TokenReview; `None` when the token is not accepted for that audience.
    fn review<'a>(
        &'a self,
        token: &'a str,
        audience: &'a str,
    ) -> BoxFuture<'a, Result<Option<Bearer>, ApiError>>;
}

/// When the keys were fetched, in seconds since 1970 like every time here.
#[derive(Default)]
struct Fetched {
    at: Option<i64>,
    tried: Option<i64>,
}

/// Judges tokens.
pub struct TokenVerifier {
    api: Arc<dyn TokenApi>,
    audience: String,
    keys: ArcSwap<Keys>,
    fetched: Mutex<Fetched>,
    /// Held by whoever fetches the keys; only who needs newer ones waits for it.
    fetching: tokio::sync::Mutex<()>,
    reviews: Semaphore,
    asked: Mutex<Reviews>,
}

impl TokenVerifier {
    /// Judges tokens for `audience`.
    pub fn new(api: Arc<dyn TokenApi>, audience: String) -> Self {
        Self {
            api,
            audience,
            keys: ArcSwap::default(),
            fetched: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            reviews: Semaphore::new(REVIEWS),
            asked: Mutex::default(),
        }
    }

    /// Whom the token speaks for; `now` in seconds since 1970, `caller` is where the question comes from.
    ///
    /// # Errors
    /// One of the [`Refusal`]s that begin with `Token`, or [`Refusal::Unavailable`].
    pub async fn verify(&self, text: &str, caller: IpAddr, now: i64) -> Result<Bearer, Refusal> {
        let token = Token::parse(text)?;
        // First what needs no call.
        let bearer = token.bearer(&self.audience, now)?;
        let keys = self.keys_with(token.key_id(), now).await;
        match keys.keys.get(token.key_id()) {
            Some(key) => Self::local(&token, key, &keys.issuer).map(|()| bearer),
            None => self.review(text, bearer, caller, now).await,
        }
    }

    fn local(token: &Token<'_>, key: &Key, issuer: &str) -> Result<(), Refusal> {
        token.verify_signature(key)?;
        token.check_issuer(issuer)
    }

    /// Whether the keys that are there will do.
    fn will_do(&self, kid: &str, now: i64) -> bool {
        let fetched = self.fetched.lock();
        // A clock that was set back makes neither true.
        let within =
            |at: Option<i64>, limit| at.is_some_and(|at| (0..limit).contains(&now.saturating_sub(at)));
        let fresh = within(fetched.at, FRESH_SECONDS);
        (fresh && self.keys.load().keys.contains_key(kid)) || within(fetched.tried, REFETCH_SECONDS)
    }

    async fn keys_with(&self, kid: &str, now: i64) -> Arc<Keys> {
        if self.will_do(kid, now) {
            return self.keys.load_full();
        }
        // An API server that hangs holds up whoever needs new keys, and no longer than this.
        let fetch = async {
            let _one = self.fetching.lock().await;
            if !self.will_do(kid, now) {
                self.fetched.lock().tried = Some(now);
                self.fetch(now).await;
            }
        };
        if tokio::time::timeout(TURN, fetch).await.is_err() {
            tracing::warn!(
                "the cluster's token keys are not fetched in time; those that are known stay good"
            );
        }
        self.keys.load_full()
    }

    async fn fetch(&self, now: i64) {
        match self.api.keys().await {
            Ok(keys) => {
                self.keys.store(Arc::new(keys));
                self.fetched.lock().at = Some(now);
            }
            // The keys that were good stay good: an API server that is away must not stop renewals.
            Err(error) => {
                tracing::warn!(
                    error = runtime::logging::chain(&error),
                    "cannot fetch the cluster's token keys"
                );
            }
        }
    }

    async fn review(&self, text: &str, claimed: Bearer, caller: IpAddr, now: i64) -> Result<Bearer, Refusal> {
        let ask = self.asked.lock().ask(text, caller, now);
        match ask {
            Ask::Now => {}
            Ask::Refused => return Err(Refusal::TokenRejected),
            Ask::TooMany => return Err(Refusal::TooManyReviews),
        }
        let turn = tokio::time::timeout(TURN, self.reviews.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(Refusal::Unavailable) };
        match self.api.review(text, &self.audience).await {
            Ok(Some(bearer)) if bearer == claimed => Ok(bearer),
            Ok(_) => {
                self.asked.lock().refused(text, now);
                Err(Refusal::TokenRejected)
            }
            Err(error) => {
                tracing::warn!(error = runtime::logging::chain(&error), "cannot review a token");
                Err(Refusal::Unavailable)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::testing::{Claim, Signer};
    use parking_lot::Mutex as Lock;
    use std::net::Ipv4Addr;

    const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    #[derive(Default)]
    struct Api {
        jwks: Lock<Option<String>>,
        reviewed: Option<Bearer>,
        calls: Lock<Vec<&'static str>>,
    }

    impl TokenApi for Api {
        fn keys(&self) -> BoxFuture<'_, Result<Keys, ApiError>> {
            self.calls.lock().push("keys");
            let keys = match &*self.jwks.lock() {
                Some(jwks) => Ok(Keys::parse("https://kubernetes", jwks).unwrap()),
                None => Err(ApiError::Answer("404".to_owned())),
            };
            Box::pin(async { keys })
        }

        fn review<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Option<Bearer>, ApiError>> {
            self.calls.lock().push("review");
            Box::pin(async { Ok(self.reviewed.clone()) })
        }
    }

    fn verifier(api: Api) -> (Arc<Api>, TokenVerifier) {
        let api = Arc::new(api);
        (api.clone(), TokenVerifier::new(api, "main.meshwright.io".to_owned()))
    }

    fn published(signer: &Signer) -> Api {
        Api { jwks: Lock::new(Some(signer.jwks())), ..Api::default() }
    }

    #[tokio::test]
    async fn keys_are_fetched_once_for_many_tokens() {
        let signer = Signer::p256("a");
        let (api, verifier) = verifier(published(&signer));
        for _ in 0..3 {
            assert_eq!(
                verifier.verify(&signer.token(&Claim::default()), POD, 1000).await.unwrap().pod,
                "pod-1"
            );
        }
        assert_eq!(*api.calls.lock(), ["keys"]);
    }

    #[tokio::test]
    async fn a_rotated_key_is_found_and_invented_ones_cause_no_flood() {
        let (old, new) = (Signer::p256("old"), Signer::p256("new"));
        let (api, verifier) = verifier(published(&old));
        verifier.verify(&old.token(&Claim::default()), POD, 1000).await.unwrap();
        *api.jwks.lock() = Some(new.jwks());
        for _ in 0..5 {
            assert_eq!(
                verifier.verify(&new.token(&Claim::default()), POD, 1000).await,
                Err(Refusal::TokenRejected)
            );
        }
        assert_eq!(api.calls.lock().iter().filter(|call| **call == "keys").count(), 1);
        let later = 1000 + REFETCH_SECONDS;
        verifier.verify(&new.token(&Claim::default()), POD, later).await.unwrap();
        let gone = verifier.verify(&old.token(&Claim::default()), POD, later).await;
        assert_eq!(gone, Err(Refusal::TokenRejected));
    }

    #[tokio::test]
    async fn without_published_keys_the_api_server_decides() {
        let signer = Signer::p256("a");
        let bearer = Bearer {
            namespace: "shop".to_owned(),
            service_account: "buyer".to_owned(),
            pod: "pod-1".to_owned(),
            pod_uid: "uid-1".to_owned(),
        };
        let (api, verifier) = verifier(Api { reviewed: Some(bearer.clone()), ..Api::default() });
        let token = signer.token(&Claim::default());
        assert_eq!(verifier.verify(&token, POD, 1000).await, Ok(bearer));
        assert_eq!(*api.calls.lock(), ["keys", "review"]);
        // What the API server says must be what the token says.
        let other = signer.token(&Claim { pod: Some("pod-2"), ..Claim::default() });
        assert_eq!(verifier.verify(&other, POD, 1000).await, Err(Refusal::TokenRejected));
        // An expired token costs no call.
        let expired = signer.token(&Claim { exp: 1, ..Claim::default() });
        assert_eq!(verifier.verify(&expired, POD, 1000).await, Err(Refusal::TokenExpired(1)));
        assert_eq!(api.calls.lock().len(), 3);
    }

    #[tokio::test]
    async fn invented_key_ids_of_one_caller_stop_at_its_share_and_leave_the_others_theirs() {
        let signer = Signer::p256("a");
        let bearer = signer.token(&Claim::default());
        let (api, verifier) = verifier(Api::default());
        let mut refusals = Vec::new();
        for number in 0..200 {
            let invented = Signer::p256(format!("invented-{number}").leak()).token(&Claim::default());
            refusals.push(verifier.verify(&invented, POD, 1000).await.unwrap_err());
        }
        let reviews = || api.calls.lock().iter().filter(|call| **call == "review").count();
        assert_eq!(reviews(), 5);
        assert_eq!(refusals.iter().filter(|one| **one == Refusal::TooManyReviews).count(), 195);
        let other = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(verifier.verify(&bearer, other, 1000).await, Err(Refusal::TokenRejected), "it was asked");
        assert_eq!(reviews(), 6);
        assert_eq!(verifier.verify(&bearer, other, 1000).await, Err(Refusal::TokenRejected));
        assert_eq!(reviews(), 6, "what was refused is remembered");
    }

    /// An API server that takes the question and does not answer.
    struct Hangs(String, Lock<u32>);

    impl TokenApi for Hangs {
        fn keys(&self) -> BoxFuture<'_, Result<Keys, ApiError>> {
            let mut asked = self.1.lock();
            *asked += 1;
            if *asked == 1 {
                let keys = Keys::parse("https://kubernetes", &self.0).unwrap();
                return Box::pin(async { Ok(keys) });
            }
            Box::pin(std::future::pending())
        }

        fn review<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Option<Bearer>, ApiError>> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test]
    async fn an_api_server_that_hangs_holds_nobody_up_whose_key_is_known() {
        let (signer, stranger) = (Signer::p256("a"), Signer::p256("b"));
        let api = Arc::new(Hangs(signer.jwks(), Lock::default()));
        let verifier = TokenVerifier::new(api, "main.meshwright.io".to_owned());
        let (good, bad) = (signer.token(&Claim::default()), stranger.token(&Claim::default()));
        verifier.verify(&good, POD, 1000).await.unwrap();
        let later = 1000 + REFETCH_SECONDS;
        let mut asking = std::pin::pin!(verifier.verify(&bad, POD, later));
        assert!(futures::poll!(&mut asking).is_pending(), "it waits for the API server");
        let mut known = std::pin::pin!(verifier.verify(&good, POD, later));
        assert!(matches!(futures::poll!(&mut known), std::task::Poll::Ready(Ok(_))), "it waits for nobody");
    }
}
