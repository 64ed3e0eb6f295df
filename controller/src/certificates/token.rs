//! Service-account tokens: reading and judging them. Pure; the clock is an argument.
//!
//! Signed by RS256 or ES256, as kube-apiserver does (RFC 7515, RFC 7518 section 3). Everything in a token is
//! hostile until its signature is verified.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::refusal::Refusal;

/// Longer than any token of Kubernetes (about 1 kB) by far.
const MAX_TOKEN: usize = 16 * 1024;
/// Clocks of the API server and ours may differ by this much.
const LEEWAY_SECONDS: i64 = 60;

/// Who a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Namespace of the service account and the pod.
    pub namespace: String,
    /// Name of the service account.
    pub service_account: String,
    /// Name of the pod that the token is bound to.
    pub pod: String,
    /// Its uid.
    pub pod_uid: String,
}

/// A token that has been read but not verified.
pub struct Token<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    header: Header,
    claims: Claims,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: String,
    aud: Audience,
    exp: i64,
    #[serde(default)]
    nbf: i64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Named,
    pod: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    uid: String,
}

impl<'a> Token<'a> {
    /// Reads a token. Says nothing about whether it is genuine.
    ///
    /// # Errors
    /// [`Refusal::TokenMalformed`].
    pub fn parse(text: &'a str) -> Result<Self, Refusal> {
        if text.len() > MAX_TOKEN {
            return Err(Refusal::TokenMalformed("too long"));
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Refusal::TokenMalformed("not three parts"))?;
        let (header, claims) = signed.split_once('.').ok_or(Refusal::TokenMalformed("not three parts"))?;
        let decode =
            |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::TokenMalformed("not base64url"));
        let header =
            serde_json::from_slice(&decode(header)?).map_err(|_| Refusal::TokenMalformed("header"))?;
        let claims =
            serde_json::from_slice(&decode(claims)?).map_err(|_| Refusal::TokenMalformed("claims"))?;
        Ok(Self { signed, signature: decode(signature)?, header, claims })
    }

    /// Which key is said to have signed it.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.header.kid
    }

    /// Verifies the signature with the key that the token names.
    ///
    /// # Errors
    /// [`Refusal::TokenSignature`], also when the algorithm is not the key's.
    pub fn verify_signature(&self, key: &Key) -> Result<(), Refusal> {
        let signed = self.signed.as_bytes();
        let good = match (key, self.header.alg.as_str()) {
            (Key::Rsa { n, e }, "RS256") => RsaPublicKeyComponents { n, e }
                .verify(&RSA_PKCS1_2048_8192_SHA256, signed, &self.signature)
                .is_ok(),
            (Key::P256 { point }, "ES256") => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                .verify(signed, &self.signature)
                .is_ok(),
            _ => false,
        };
        if good { Ok(()) } else { Err(Refusal::TokenSignature) }
    }

    /// Judges everything but signature and issuer.
    ///
    /// # Errors
    /// The first [`Refusal`] of: expired, not yet valid, another audience, not bound to a pod.
    pub fn bearer(&self, audience: &str, now: i64) -> Result<Bearer, Refusal> {
        let claims = &self.claims;
        if claims.exp.saturating_add(LEEWAY_SECONDS) < now {
            return Err(Refusal::TokenExpired(claims.exp));
        }
        if claims.nbf.saturating_sub(LEEWAY_SECONDS) > now {
            return Err(Refusal::TokenNotYetValid(claims.nbf));
        }
        let meant = match &claims.aud {
            Audience::One(one) => one == audience,
            Audience::Many(many) => many.iter().any(|one| one == audience),
        };
        if !meant {
            return Err(Refusal::TokenAudience(audience.to_owned()));
        }
        let kubernetes =
            claims.kubernetes.as_ref().ok_or(Refusal::TokenMalformed("no claim kubernetes.io"))?;
        let pod = kubernetes.pod.as_ref().ok_or(Refusal::TokenNotPodBound)?;
        Ok(Bearer {
            namespace: kubernetes.namespace.clone(),
            service_account: kubernetes.serviceaccount.name.clone(),
            pod: pod.name.clone(),
            pod_uid: pod.uid.clone(),
        })
    }

    /// Judges the issuer.
    ///
    /// # Errors
    /// [`Refusal::TokenIssuer`].
    pub fn check_issuer(&self, issuer: &str) -> Result<(), Refusal> {
        if self.claims.iss == issuer { Ok(()) } else { Err(Refusal::TokenIssuer) }
    }
}

/// A public key of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// RSA, 2048 bits and more.
    Rsa {
        /// Modulus, big endian.
        n: Vec<u8>,
        /// Exponent, big endian.
        e: Vec<u8>,
    },
    /// ECDSA on P-256.
    P256 {
        /// Uncompressed point.
        point: Vec<u8>,
    },
}

/// The cluster's issuer and keys, by key id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keys {
    /// `iss` of genuine tokens.
    pub issuer: String,
    /// By `kid`.
    pub keys: BTreeMap<String, Key>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

impl Keys {
    /// Reads a JSON web key set (RFC 7517). Keys of other types than ours are left out.
    ///
    /// # Errors
    /// When it is not a key set.
    pub fn parse(issuer: &str, jwks: &str) -> Result<Self, serde_json::Error> {
        let set: Jwks = serde_json::from_str(jwks)?;
        let keys = set.keys.into_iter().filter_map(|key| Some((key.kid.clone(), key.read()?))).collect();
        Ok(Self { issuer: issuer.to_owned(), keys })
    }
}

impl Jwk {
    fn read(&self) -> Option<Key> {
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        match (self.kty.as_str(), self.crv.as_str()) {
            ("RSA", _) => Some(Key::Rsa { n: decode(&self.n)?, e: decode(&self.e)? }),
            ("EC", "P-256") => {
                let (x, y) = (decode(&self.x)?, decode(&self.y)?);
                let fits = x.len() == 32 && y.len() == 32;
                fits.then(|| Key::P256 { point: [&[4][..], &x, &y].concat() })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::testing::{Claim, Signer};
    use proptest::prelude::*;

    const AUDIENCE: &str = "main.meshwright.io";

    fn judge(signer: &Signer, text: &str, now: i64) -> Result<Bearer, Refusal> {
        let keys = Keys::parse("https://kubernetes", &signer.jwks()).unwrap();
        let token = Token::parse(text)?;
        token.verify_signature(keys.keys.get(token.key_id()).ok_or(Refusal::TokenSignature)?)?;
        token.check_issuer(&keys.issuer)?;
        token.bearer(AUDIENCE, now)
    }

    #[test]
    fn a_genuine_token_names_its_pod() {
        for signer in [Signer::p256("a"), Signer::rsa("b")] {
            let bearer = judge(&signer, &signer.token(&Claim::default()), 1000).unwrap();
            assert_eq!(bearer.pod, "pod-1");
            assert_eq!(bearer.service_account, "buyer");
        }
    }

    #[test]
    fn each_flaw_has_its_own_refusal() {
        let signer = Signer::p256("a");
        let refused = |claim: &Claim| judge(&signer, &signer.token(claim), 1000).unwrap_err();
        let claim = Claim::default;
        assert_eq!(refused(&Claim { exp: 900, ..claim() }), Refusal::TokenExpired(900));
        assert_eq!(refused(&Claim { nbf: 1100, ..claim() }), Refusal::TokenNotYetValid(1100));
        assert_eq!(refused(&Claim { aud: "other", ..claim() }), Refusal::TokenAudience(AUDIENCE.to_owned()));
        assert_eq!(refused(&Claim { iss: "evil", ..claim() }), Refusal::TokenIssuer);
        assert_eq!(refused(&Claim { pod: None, ..claim() }), Refusal::TokenNotPodBound);
        // Within the leeway it is still good.
        assert!(judge(&signer, &signer.token(&Claim { exp: 960, ..claim() }), 1000).is_ok());
    }

    #[test]
    fn the_signature_binds_key_algorithm_and_content() {
        let (signer, other) = (Signer::p256("a"), Signer::p256("a"));
        let forged = other.token(&Claim::default());
        assert_eq!(judge(&signer, &forged, 1000), Err(Refusal::TokenSignature));
        let none = Signer::unsigned(&Claim::default(), "a");
        assert_eq!(judge(&signer, &none, 1000), Err(Refusal::TokenSignature));
        let good = signer.token(&Claim::default());
        let swapped = signer.token(&Claim { pod: Some("pod-2"), ..Claim::default() });
        let (good, swapped): (Vec<_>, Vec<_>) = (good.split('.').collect(), swapped.split('.').collect());
        let mixed = format!("{}.{}.{}", good[0], swapped[1], good[2]);
        assert_eq!(judge(&signer, &mixed, 1000), Err(Refusal::TokenSignature));
    }

    #[test]
    fn keys_of_other_kinds_are_left_out() {
        let set = r#"{"keys":[{"kty":"oct","kid":"x"},{"kty":"EC","crv":"P-256","kid":"y","x":"AA","y":"AA"},
                      {"kty":"RSA","kid":"z","n":"!","e":"AQAB"}]}"#;
        assert!(Keys::parse("i", set).unwrap().keys.is_empty());
        assert!(Keys::parse("i", "<html>").is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics(text in ".{0,400}", parts in proptest::collection::vec("[A-Za-z0-9_-]{0,80}", 0..5)) {
            let _ = Token::parse(&text);
            let _ = Token::parse(&parts.join("."));
            let _ = Keys::parse("i", &text);
        }

        #[test]
        fn no_claims_panic(exp in any::<i64>(), nbf in any::<i64>(), now in any::<i64>()) {
            let text = Signer::unsigned(&Claim { exp, nbf, ..Claim::default() }, "a");
            let _ = Token::parse(&text).unwrap().bearer(AUDIENCE, now);
        }
    }
}
