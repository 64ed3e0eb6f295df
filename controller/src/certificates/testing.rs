//! A stand-in for the cluster's token signer, and a root of trust.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};

/// What a token says.
pub(crate) struct Claim {
    pub iss: &'static str,
    pub aud: &'static str,
    pub exp: i64,
    pub nbf: i64,
    pub namespace: &'static str,
    pub account: &'static str,
    pub pod: Option<&'static str>,
    pub uid: &'static str,
}

impl Default for Claim {
    fn default() -> Self {
        Self {
            iss: "https://kubernetes",
            aud: "main.meshwright.io",
            exp: 2000,
            nbf: 0,
            namespace: "shop",
            account: "buyer",
            pod: Some("pod-1"),
            uid: "uid-1",
        }
    }
}

impl Claim {
    fn json(&self) -> serde_json::Value {
        let mut claims = serde_json::json!({
            "iss": self.iss, "aud": [self.aud], "exp": self.exp, "nbf": self.nbf,
            "kubernetes.io": {
                "namespace": self.namespace,
                "serviceaccount": {"name": self.account, "uid": "sa-uid"},
            },
        });
        if let Some(pod) = self.pod {
            claims["kubernetes.io"]["pod"] = serde_json::json!({"name": pod, "uid": self.uid});
        }
        claims
    }
}

enum Pair {
    P256(EcdsaKeyPair),
    Rsa(RsaPair),
}

/// Signs tokens as kube-apiserver does.
pub(crate) struct Signer {
    pair: Pair,
    kid: &'static str,
}

impl Signer {
    pub fn p256(kid: &'static str) -> Self {
        Self { pair: Pair::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()), kid }
    }

    pub fn rsa(kid: &'static str) -> Self {
        Self { pair: Pair::Rsa(RsaPair::generate(KeySize::Rsa2048).unwrap()), kid }
    }

    pub fn jwks(&self) -> String {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let key = match &self.pair {
            Pair::P256(pair) => {
                let point = pair.public_key().as_ref();
                serde_json::json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "alg": "ES256", "use": "sig",
                                   "x": text(&point[1..33]), "y": text(&point[33..])})
            }
            Pair::Rsa(pair) => {
                let parts = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                serde_json::json!({"kty": "RSA", "kid": self.kid, "n": text(&parts.n), "e": text(&parts.e)})
            }
        };
        serde_json::json!({"keys": [key]}).to_string()
    }

    pub fn token(&self, claim: &Claim) -> String {
        let alg = match self.pair {
            Pair::P256(_) => "ES256",
            Pair::Rsa(_) => "RS256",
        };
        let signed = Self::content(claim, alg, self.kid);
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::P256(pair) => pair.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token that says it needs no signature.
    pub fn unsigned(claim: &Claim, kid: &str) -> String {
        format!("{}.", Self::content(claim, "none", kid))
    }

    fn content(claim: &Claim, alg: &str, kid: &str) -> String {
        let header = serde_json::json!({"alg": alg, "kid": kid}).to_string();
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claim.json().to_string()))
    }
}

/// A root of trust: certificate and key, PEM.
pub(crate) fn root() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let now = time::OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
    params.not_after = now + time::Duration::days(3650);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}
