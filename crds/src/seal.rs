//! The content hash by which a controller knows that an object is what its commit said (DESIGN rule 3).
//!
//! Both sides parse the object into our type and hash that: fields that the API server pruned or defaulted
//! away from our types, key order and YAML style make no difference.
//!
//! Two releases must agree on the hash of an object that says nothing of what only the newer one knows. So a field that
//! is added to a sealed kind is left out of its JSON while it has its default (`skip_serializing_if`), and no default ever
//! changes: `seal/goldens.rs` holds objects and hashes as they were. An object that uses the new field has another hash for
//! the older release, which cannot enforce it: there its source waits at its last complete commit, and says so.
//!
//! A hash that is made in another way must say so: `<scheme>:<hash>`. What has no scheme in front is of the first.

use serde::Serialize;
use serde_json::Value;

/// The content hash of a spec: the first 128 bits of SHA-256 over canonical JSON.
///
/// # Errors
/// When the value cannot be written as JSON (a map with keys that are not text).
pub fn content_hash<T: Serialize>(spec: &T) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    canonical(&serde_json::to_value(spec)?, &mut text);
    Ok(hex::encode(&<sha2::Sha256 as sha2::Digest>::digest(text.as_bytes())[..16]))
}

/// Whether a hash is of a scheme that this release can check. One that is not is never equal to what it computes.
#[must_use]
pub fn is_known(hash: &str) -> bool {
    hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// JSON with sorted keys and no spaces, whatever map type `serde_json` was built with.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.iter().filter(|(_, v)| !v.is_null()).collect();
            keys.sort_by_key(|(k, _)| k.as_str());
            out.push('{');
            for (index, (key, value)) in keys.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                canonical(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod goldens;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn order_and_null_do_not_matter_but_content_does() {
        let a = content_hash(&json!({"b": [1, {"y": null, "x": 2}], "a": "s"})).unwrap();
        let b = content_hash(&json!({"a": "s", "b": [1, {"x": 2}]})).unwrap();
        let c = content_hash(&json!({"a": "s", "b": [{"x": 2}, 1]})).unwrap();
        assert_eq!(a, b);
        assert_ne!(a, c);
        assert_eq!(a.len(), 32);
    }
}
