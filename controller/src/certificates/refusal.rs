//! Why there is no certificate.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};

/// Why a request for a certificate is refused. The names are part of the API: answers and metrics show them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The body is longer than any signing request of ours.
    #[error("the signing request is longer than {0} bytes")]
    CsrTooLarge(usize),
    /// Not PEM, not PKCS #10, or with extensions that we do not know.
    #[error("the signing request is not a PEM PKCS #10 request: {0}")]
    CsrUnreadable(String),
    /// Whoever sent it does not hold the key.
    #[error("the signing request is not signed by its own key")]
    CsrSignature,
    /// Another kind of key.
    #[error("the key must be ECDSA on P-256")]
    CsrKey,
    /// Not the JSON that a holder of a certificate sends.
    #[error("the report is not {{roots, issuer, sequence}} with SHA-256 names of roots")]
    ReportUnreadable,
    /// The request has no token.
    #[error("the header `authorization: Bearer <token>` is missing")]
    TokenMissing,
    /// Not a JSON web token of a Kubernetes service account.
    #[error("the token is not a service-account token: {0}")]
    TokenMalformed(&'static str),
    /// Signed by somebody else, or altered.
    #[error("the token's signature is not the cluster's")]
    TokenSignature,
    /// Its time is over.
    #[error("the token expired at {0} (seconds since 1970)")]
    TokenExpired(i64),
    /// Its time has not begun.
    #[error("the token is not valid before {0} (seconds since 1970); compare the clocks")]
    TokenNotYetValid(i64),
    /// For somebody else.
    #[error("the token is not for the audience {0:?}")]
    TokenAudience(String),
    /// By somebody else.
    #[error("the token's issuer is not the cluster's")]
    TokenIssuer,
    /// The token is not bound to a pod.
    #[error("the token is not bound to a pod; use a projected token")]
    TokenNotPodBound,
    /// The API server does not accept it.
    #[error("the API server does not accept the token")]
    TokenRejected,
    /// The pod is not in the cache, also after waiting.
    #[error("no running pod {0} is known")]
    PodNotFound(String),
    /// The name was reused by another pod.
    #[error("the token was made for an earlier pod of that name")]
    PodReplaced,
    /// The pod runs as another service account.
    #[error("the pod does not run as the token's service account")]
    ServiceAccountMismatch,
    /// The pod's namespace is not ours.
    #[error("the namespace {0} is not part of the mesh; label it {label}", label = crds::labels::MESH)]
    NamespaceNotInMesh(String),
    /// The request names an identity that is not the token's.
    #[error("the signing request names {0:?}, which is not the token's identity")]
    IdentityMismatch(String),
    /// This replica has no root yet.
    #[error("the root of trust is not loaded yet: {0}")]
    NotReady(String),
    /// The token cannot be judged now.
    #[error("the API server cannot be asked about the token now")]
    Unavailable,
    /// The caller's tokens have cost the API server enough for now.
    #[error("too many tokens whose key is not known; ask again in some seconds")]
    TooManyReviews,
}

impl Refusal {
    /// The name of the reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::CsrTooLarge(_) => "CsrTooLarge",
            Self::CsrUnreadable(_) => "CsrUnreadable",
            Self::CsrSignature => "CsrSignature",
            Self::CsrKey => "CsrKey",
            Self::ReportUnreadable => "ReportUnreadable",
            Self::TokenMissing => "TokenMissing",
            Self::TokenMalformed(_) => "TokenMalformed",
            Self::TokenSignature => "TokenSignature",
            Self::TokenExpired(_) => "TokenExpired",
            Self::TokenNotYetValid(_) => "TokenNotYetValid",
            Self::TokenAudience(_) => "TokenAudience",
            Self::TokenIssuer => "TokenIssuer",
            Self::TokenNotPodBound => "TokenNotPodBound",
            Self::TokenRejected => "TokenRejected",
            Self::PodNotFound(_) => "PodNotFound",
            Self::PodReplaced => "PodReplaced",
            Self::ServiceAccountMismatch => "ServiceAccountMismatch",
            Self::NamespaceNotInMesh(_) => "NamespaceNotInMesh",
            Self::IdentityMismatch(_) => "IdentityMismatch",
            Self::NotReady(_) => "NotReady",
            Self::Unavailable => "Unavailable",
            Self::TooManyReviews => "TooManyReviews",
        }
    }

    /// The HTTP status: 400 the signing request, 401 the token, 403 the identity, 503 not now.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::CsrTooLarge(_)
            | Self::CsrUnreadable(_)
            | Self::CsrSignature
            | Self::CsrKey
            | Self::ReportUnreadable => 400,
            Self::TokenMissing
            | Self::TokenMalformed(_)
            | Self::TokenSignature
            | Self::TokenExpired(_)
            | Self::TokenNotYetValid(_)
            | Self::TokenAudience(_)
            | Self::TokenIssuer
            | Self::TokenNotPodBound
            | Self::TokenRejected => 401,
            Self::PodNotFound(_)
            | Self::PodReplaced
            | Self::ServiceAccountMismatch
            | Self::NamespaceNotInMesh(_)
            | Self::IdentityMismatch(_) => 403,
            Self::NotReady(_) | Self::Unavailable | Self::TooManyReviews => 503,
        }
    }
}

/// Label of the counter of refusals.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Refused {
    /// See [`Refusal::reason`].
    pub reason: Reason,
}

/// A reason as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(pub &'static str);

impl EncodeLabelValue for Reason {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}
