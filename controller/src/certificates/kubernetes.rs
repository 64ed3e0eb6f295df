//! The API server, asked about tokens.

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Deserialize;

use super::token::{Bearer, Keys};
use super::verifier::{ApiError, TokenApi};

/// Kubernetes says here who issues its tokens (service account issuer discovery, on from 1.20).
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// The keys. The discovery document names an absolute address that need not be reachable from a pod; this path is.
const JWKS: &str = "/openid/v1/jwks";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Asks the API server.
pub struct KubernetesTokens(
    /// The client to ask with.
    pub Client,
);

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

impl KubernetesTokens {
    async fn get(&self, path: &str) -> Result<String, ApiError> {
        let request =
            http::Request::get(path).body(Vec::new()).map_err(|error| ApiError::Answer(error.to_string()))?;
        self.0.request_text(request).await.map_err(|error| ApiError::Call(Box::new(error)))
    }
}

impl TokenApi for KubernetesTokens {
    fn keys(&self) -> BoxFuture<'_, Result<Keys, ApiError>> {
        Box::pin(async {
            let discovery: Discovery = serde_json::from_str(&self.get(DISCOVERY).await?)
                .map_err(|error| ApiError::Answer(format!("{DISCOVERY}: {error}")))?;
            Keys::parse(&discovery.issuer, &self.get(JWKS).await?)
                .map_err(|error| ApiError::Answer(format!("{JWKS}: {error}")))
        })
    }

    fn review<'a>(
        &'a self,
        token: &'a str,
        audience: &'a str,
    ) -> BoxFuture<'a, Result<Option<Bearer>, ApiError>> {
        Box::pin(async move {
            let spec =
                TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![audience.to_owned()]) };
            let review = TokenReview { spec, ..TokenReview::default() };
            let api: Api<TokenReview> = Api::all(self.0.clone());
            let answer = api
                .create(&PostParams::default(), &review)
                .await
                .map_err(|error| ApiError::Call(Box::new(error)))?;
            let status = answer.status.unwrap_or_default();
            let meant = status.audiences.iter().flatten().any(|one| one == audience);
            if status.authenticated != Some(true) || !meant {
                return Ok(None);
            }
            Ok(status.user.as_ref().and_then(bearer))
        })
    }
}

fn bearer(user: &UserInfo) -> Option<Bearer> {
    let account = user.username.as_deref()?.strip_prefix("system:serviceaccount:")?;
    let (namespace, service_account) = account.split_once(':')?;
    let extra = |key: &str| user.extra.as_ref()?.get(key)?.first().cloned();
    Some(Bearer {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        pod: extra(POD_NAME)?,
        pod_uid: extra(POD_UID)?,
    })
}
