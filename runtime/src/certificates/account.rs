//! Which service account a token is of, in its own words: nobody but the API server can verify them, and it is our own.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use identity::Expected;
use serde::Deserialize;

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

/// Reads the claim `sub` of a JWT; nothing when it names no service account.
pub fn of(token: &str) -> Option<Expected> {
    let payload = BASE64_URL_SAFE_NO_PAD.decode(token.trim().split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    let (namespace, name) = claims.sub.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let named = !namespace.is_empty() && !name.is_empty();
    named.then(|| Expected::Account { namespace: namespace.to_owned(), name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_a_service_account_says_so() {
        let token = |payload: &str| format!("e30.{}.c2ln\n", BASE64_URL_SAFE_NO_PAD.encode(payload));
        let of_payload = |payload: &str| of(&token(payload));
        let expected = Expected::Account { namespace: "mesh".to_owned(), name: "injector".to_owned() };
        assert_eq!(
            of_payload(r#"{"sub": "system:serviceaccount:mesh:injector", "aud": ["m"]}"#),
            Some(expected)
        );
        for other in [
            r#"{"sub": "system:node:a"}"#,
            r#"{"sub": "system:serviceaccount:mesh"}"#,
            r#"{"sub": "system:serviceaccount::injector"}"#,
            "{}",
            "",
        ] {
            assert_eq!(of_payload(other), None, "{other}");
        }
        for none in ["", "opaque", "a.b", "a.!.c"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
