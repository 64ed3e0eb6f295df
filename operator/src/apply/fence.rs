//! A client that writes nothing once this process no longer leads.
//!
//! ```text
//!  reconcilers ──▶ kube::Client ──▶ Fence ──mandate holds──▶ API server
//!                                     └─ over: Deposed, and nothing leaves the process
//! ```
//! It sits below every `Api`, so no write can be forgotten. Reading is always allowed. What is already on its way
//! when a process is stopped is fenced by the resource version that it carries ([`super::Writer`]).

use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use http::{Method, Request};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use runtime::lease::Mandate;
use tower::{BoxError, Layer, Service};

/// A client for the reconcilers: it reads always, and writes while the mandate holds.
///
/// # Errors
/// When the configuration makes no client.
pub fn client(config: Config, mandate: &Mandate) -> kube::Result<Client> {
    Ok(ClientBuilder::try_from(config)?.with_layer(&Fence(mandate.clone())).build())
}

#[derive(Clone)]
pub(super) struct Fence(pub(super) Mandate);

impl<S> Layer<S> for Fence {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Fenced<S> {
        Fenced { inner, mandate: self.0.clone() }
    }
}

/// The service that [`client`] puts around a client's own.
pub struct Fenced<S> {
    inner: S,
    mandate: Mandate,
}

impl<S> Service<Request<Body>> for Fenced<S>
where
    S: Service<Request<Body>, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<Ready<Result<S::Response, BoxError>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.mandate.check() {
            Err(deposed) if writes(request.method()) => Either::Left(ready(Err(Box::new(deposed).into()))),
            _ => Either::Right(self.inner.call(request)),
        }
    }
}

fn writes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}
